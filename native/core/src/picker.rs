//! The picker as a server sees it: all streams share its router, its counters and its memory for bodies.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;

use crate::counters::Counters;
use crate::encoding::{Encoded, encode};
use crate::messages::Outgoing;
use crate::ports::{BufferBudget, Observer, Routing};
use crate::protocol::{Exchange, Surroundings};
use crate::routing::{Router, RouterConfig};
use crate::stream::{Flow, Logic, StreamLogic};
use crate::wire::decode;

/// Characters of an error that are told to the peer.
const MAX_ERROR: usize = 300;

/// What is fixed when a picker is made.
#[derive(Debug, Default)]
pub struct PickerConfig {
    pub router: RouterConfig,
    pub budget: BufferBudget,
    /// See every response to its end, for gateways that take a stream which ends early for a failure.
    pub keep_streams: bool,
    /// Header of responses, to carry the variant; lower case, empty for none.
    pub variant_header: Bytes,
}

/// All that is shared by the streams of one picker.
pub struct Picker {
    around: Arc<Surroundings<Router, Counters>>,
    ready: AtomicBool,
}

impl Picker {
    pub fn new(config: PickerConfig) -> Self {
        let routing = Arc::new(Router::new(config.router));
        let observer = Arc::new(Counters::new(Arc::clone(&routing)));
        let around = Surroundings {
            routing,
            observer,
            budget: Arc::new(config.budget),
            keep: config.keep_streams,
            variant_header: config.variant_header,
        };
        Self { around: Arc::new(around), ready: AtomicBool::new(false) }
    }

    pub fn router(&self) -> &Arc<Router> {
        &self.around.routing
    }

    pub fn counters(&self) -> &Arc<Counters> {
        &self.around.observer
    }

    pub fn budget(&self) -> &Arc<BufferBudget> {
        &self.around.budget
    }

    /// What health says from now on.
    pub fn set_ready(&self, ready: bool) {
        self.ready.store(ready, Ordering::Relaxed);
    }
}

impl Logic for Picker {
    type Stream = Stream<Router, Counters>;

    fn open(&self, _now: f64) -> Self::Stream {
        Stream::new(Arc::clone(&self.around))
    }

    fn ready(&self) -> bool {
        self.ready.load(Ordering::Relaxed)
    }
}

/// One stream in bytes.
pub struct Stream<R, O> {
    exchange: Exchange<R, O>,
    replies: Vec<Outgoing>, // between two calls empty
}

impl<R: Routing, O: Observer> Stream<R, O> {
    pub fn new(around: Arc<Surroundings<R, O>>) -> Self {
        Self { exchange: Exchange::new(around), replies: Vec::new() }
    }

    pub fn exchange(&self) -> &Exchange<R, O> {
        &self.exchange
    }

    fn send(&mut self, out: &mut Vec<Encoded>) {
        out.extend(self.replies.drain(..).map(|reply| encode(&reply)));
    }
}

impl<R: Routing + Send + Sync, O: Observer + Send + Sync> StreamLogic for Stream<R, O> {
    fn receive(&mut self, message: Bytes, now: f64, out: &mut Vec<Encoded>) -> Flow {
        let received = match decode(&message) {
            Ok(None) => return Flow::Open,
            Ok(Some(message)) => self.exchange.receive(message, now, &mut self.replies),
            Err(error) => Err(error.into()),
        };
        if let Err(error) = received {
            self.replies.clear();
            return Flow::Abort(error.to_string().chars().take(MAX_ERROR).collect());
        }
        self.send(out);
        if self.exchange.closing() { Flow::Close } else { Flow::Open }
    }

    fn work(&self, length: usize) -> usize {
        self.exchange.work(length)
    }

    fn state(&self) -> &'static str {
        self.exchange.state().name()
    }

    fn waiting(&self) -> bool {
        self.exchange.waiting()
    }

    fn expects_response(&self) -> bool {
        self.exchange.expects_response()
    }

    fn expire(&mut self, seconds: f64, out: &mut Vec<Encoded>) {
        self.exchange.expire(seconds, &mut self.replies);
        self.send(out);
    }

    fn half_closed(&mut self, now: f64, out: &mut Vec<Encoded>) {
        self.exchange.half_closed(now, &mut self.replies);
        self.send(out);
    }

    fn closed(&mut self, now: f64) {
        self.exchange.disconnect(now);
    }
}
