//! One `ext_proc` stream as a state machine: a message comes in, messages go out. No I/O, no clock.
//! See `rollouts/picker/core/protocol.py`, which has the rules and their reasons.

use std::sync::Arc;

use bytes::Bytes;
use smallvec::smallvec;

use crate::answering::{Answer, in_pieces};
use crate::content::{is_dialogue, is_upgrade};
use crate::endpoints::{SUBSET_KEY, SUBSET_NAMESPACE, Subset, parse_subset};
use crate::measure::{Ending, ResponseMeter};
use crate::messages::{BodyMode, Headers, HttpHeaders, Incoming, MAX_HEADER_LIST, Outgoing, Protocol, Routed, Side};
use crate::ports::{BufferBudget, Charge, Observer, Routing};
use crate::reader::{BodyEdit, RequestReader};
use crate::refusals::{Refusal, headers_too_large, immediate, overloaded, too_large, too_slow};
use crate::restore::NameRestorer;
use crate::routing::{Decision, Request};
use crate::wire::{MetadataValue, WireError, metadata_value};

/// Why a stream is ended with an error.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum StreamError {
    /// The message cannot be read.
    Wire(WireError),
    /// Envoy sent a message that has no place in this state.
    Protocol(String),
}

impl From<WireError> for StreamError {
    fn from(error: WireError) -> Self {
        Self::Wire(error)
    }
}

impl std::fmt::Display for StreamError {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Wire(error) => out.write_str(&error.0),
            Self::Protocol(text) => out.write_str(text),
        }
    }
}

/// Where the exchange is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum State {
    Start,
    RequestBody,
    Unbuffered,
    Answered,
    Responding,
    Done,
}

impl State {
    /// In words, for errors.
    pub fn text(self) -> &'static str {
        match self {
            Self::Start => "nothing received",
            Self::RequestBody => "collecting the request body",
            Self::Unbuffered => "request answered at its headers, its body passes by",
            Self::Answered => "request answered, waiting for the response",
            Self::Responding => "response passes by",
            Self::Done => "nothing left to say",
        }
    }

    /// As Python's `State` is called.
    pub fn name(self) -> &'static str {
        match self {
            Self::Start => "START",
            Self::RequestBody => "REQUEST_BODY",
            Self::Unbuffered => "UNBUFFERED",
            Self::Answered => "ANSWERED",
            Self::Responding => "RESPONDING",
            Self::Done => "DONE",
        }
    }
}

type Replies = Vec<Outgoing>;
/// Whether a decision was made; else the refusal is among the replies.
type Decided = bool;

/// What exchanges share.
pub struct Surroundings<R, O> {
    pub routing: Arc<R>,
    pub observer: Arc<O>,
    pub budget: Arc<BufferBudget>,
    /// See the response whether it is needed or not.
    pub keep: bool,
    /// Header of the response, to carry the variant; lower case, empty for none.
    pub variant_header: Bytes,
}

/// The life of one HTTP request. `closing`: end the stream after the replies.
pub struct Exchange<R, O> {
    around: Arc<Surroundings<R, O>>,
    keep: bool,
    named: bool, // the response's headers are to say the variant
    headers: Headers,
    modes: Protocol,
    reader: Option<RequestReader>,
    hint: Bytes,    // metadata as it came, which takes the least
    charge: Charge, // of headers and hint, while a body is waited for
    answer: Option<Answer>,
    decision: Option<Decision>,
    meter: Option<ResponseMeter>,
    restorer: Option<NameRestorer>,
    passing: bool, // a full-duplex request body passes by: each chunk has to be given back
    state: State,
    closing: bool,
}

impl<R: Routing, O: Observer> Exchange<R, O> {
    pub fn new(around: Arc<Surroundings<R, O>>) -> Self {
        Self {
            keep: around.keep,
            charge: Charge::new(&around.budget),
            around,
            named: false,
            headers: Headers::default(),
            modes: Protocol::default(),
            reader: None,
            hint: Bytes::new(),
            answer: None,
            decision: None,
            meter: None,
            restorer: None,
            passing: false,
            state: State::Start,
            closing: false,
        }
    }

    pub fn state(&self) -> State {
        self.state
    }

    /// Whether the stream is to be ended after the replies so far.
    pub fn closing(&self) -> bool {
        self.closing
    }

    /// Append the replies to one message, in order.
    ///
    /// # Errors
    /// For a message that has no place here, or whose metadata cannot be read.
    pub fn receive(&mut self, message: Incoming, now: f64, out: &mut Replies) -> Result<(), StreamError> {
        match (self.state, message) {
            (State::Start, Incoming::RequestHeaders(message)) => self.on_headers(message, now, out)?,
            (State::RequestBody, Incoming::RequestBody { body, end_of_stream, metadata }) => {
                let longer = self.hint(&metadata)?;
                if self.charge.count(self.charge.size().saturating_add_signed(longer)) {
                    self.on_body(body, end_of_stream, now, out);
                } else {
                    self.refuse(&overloaded(), out);
                }
            }
            (State::RequestBody, Incoming::RequestTrailers) => self.body_complete(true, now, out),
            (
                State::Start | State::RequestBody | State::Unbuffered | State::Answered,
                Incoming::ResponseHeaders(message),
            ) => self.on_response_headers(&message, now, out),
            (State::Unbuffered, Incoming::RequestBody { body, end_of_stream, .. }) => {
                self.pass_body(body, end_of_stream, out);
            }
            (State::Unbuffered | State::Answered, Incoming::RequestTrailers) => {
                self.state = State::Answered;
                self.pass_trailers(out);
            }
            (State::Responding, Incoming::RequestBody { body, end_of_stream, .. }) => {
                if self.passing {
                    self.pass_body(body, end_of_stream, out);
                }
            }
            (State::Responding, Incoming::RequestTrailers) => {
                if self.passing {
                    self.pass_trailers(out);
                }
            }
            (State::Responding, Incoming::ResponseBody { body, end_of_stream }) => {
                self.on_response_body(body, end_of_stream, now, out);
            }
            (State::Responding, Incoming::ResponseTrailers) => self.on_response_trailers(now, out),
            (State::Answered, Incoming::RequestBody { .. }) => (),
            (State::Done, message) if !matches!(message, Incoming::RequestHeaders(_)) => (),
            (state, message) => {
                return Err(StreamError::Protocol(format!("{} while {}", message.name(), state.text())));
            }
        }
        Ok(())
    }

    /// See `StreamLogic::work`.
    pub fn work(&self, length: usize) -> usize {
        self.reader.as_ref().map_or(length, |reader| reader.work(length))
    }

    /// Whether the request is not yet complete, and may be holding memory.
    pub fn waiting(&self) -> bool {
        matches!(self.state, State::Start | State::RequestBody)
    }

    /// The request's time is over: the refusal, and the end of the stream. Nothing before a request began.
    pub fn expire(&mut self, seconds: f64, out: &mut Replies) {
        if self.state == State::RequestBody {
            self.refuse(&too_slow(seconds), out);
        }
        self.closing = true;
    }

    /// Whether a request is answered whose response is to be measured, and has not begun.
    pub fn expects_response(&self) -> bool {
        self.state == State::Answered && self.meter.is_some()
    }

    /// The peer says that nothing more comes from it: it wanted the destination, and has no response to show.
    pub fn half_closed(&mut self, now: f64, out: &mut Replies) {
        if self.state == State::RequestBody && self.reader.as_ref().is_some_and(|reader| reader.size() == 0) {
            self.reader = None;
            self.without_body(State::Answered, true, now, out);
        } else if self.expects_response() {
            self.meter = None;
            if let Some(decision) = &mut self.decision {
                decision.measured = false;
                self.around.observer.dispatched(decision);
            }
        }
    }

    /// The stream is over, whoever ended it. Safe to call more than once.
    pub fn disconnect(&mut self, now: f64) {
        self.reader = None;
        self.restorer = None;
        self.forget();
        self.report(Ending::Aborted, now);
        self.state = State::Done;
    }

    // --- the request ----------------------------------------------------------------------------------

    fn on_headers(&mut self, message: HttpHeaders, now: f64, out: &mut Replies) -> Result<(), StreamError> {
        self.hint(&message.metadata)?;
        if message.headers.is_too_large() {
            self.refuse(&headers_too_large(MAX_HEADER_LIST), out);
            return Ok(());
        }
        (self.headers, self.modes) = (message.headers, message.protocol);
        let mode = self.modes.request_body;
        if message.end_of_stream {
            self.without_body(State::Answered, true, now, out);
        } else if matches!(mode, BodyMode::None | BodyMode::Streamed | BodyMode::Grpc) {
            self.without_body(State::Unbuffered, true, now, out);
        } else if is_upgrade(&self.headers) || is_dialogue(&self.headers) {
            self.open_ended(now, out);
        } else if !self.charge.count(self.headers.kept() + self.hint.len()) {
            self.refuse(&overloaded(), out);
        } else {
            let fields = self.around.routing.body_fields();
            self.reader = Some(RequestReader::new(&self.headers, fields, &self.around.budget));
            self.state = State::RequestBody;
            if mode != BodyMode::FullDuplexStreamed {
                out.push(Outgoing::Headers(Side::Request, Routed::default()));
            }
        }
        Ok(())
    }

    /// No body, or none that may be held back: a pod is all there is to choose.
    fn without_body(&mut self, state: State, measurable: bool, now: f64, out: &mut Replies) {
        self.state = state;
        let request = Request { subset: self.subset(), ..Request::default() };
        if self.decide(request, measurable, now, out) {
            out.extend(self.answer.as_ref().map(Answer::head));
        }
    }

    fn open_ended(&mut self, now: f64, out: &mut Replies) {
        let upgrade = is_upgrade(&self.headers);
        self.without_body(State::Unbuffered, false, now, out);
        // What follows an upgrade comes after the response, when the picker is gone; a message may come at once.
        let stays = self.keep || !upgrade;
        let duplex = self.modes.request_body == BodyMode::FullDuplexStreamed;
        if self.state == State::Unbuffered && duplex && stays {
            self.passing = true;
            self.closing = false;
        }
    }

    /// Whether the rest of the exchange can do without the picker.
    fn leaves(&self) -> bool {
        !(self.keep || self.passing || self.meter.is_some() || self.restorer.is_some())
    }

    /// Keep a subset hint in place of the last one, if there is one; by how many bytes it is longer.
    fn hint(&mut self, metadata: &[u8]) -> Result<isize, WireError> {
        if metadata_value(metadata, SUBSET_NAMESPACE, SUBSET_KEY)? == MetadataValue::Null {
            return Ok(0);
        }
        let before = std::mem::replace(&mut self.hint, Bytes::copy_from_slice(metadata));
        Ok(self.hint.len() as isize - before.len() as isize) // both are short
    }

    /// Let go of what was kept for the decision: a response may last for hours.
    fn forget(&mut self) {
        (self.headers, self.hint) = Default::default();
        self.charge.count(0);
    }

    fn subset(&self) -> Option<Subset> {
        parse_subset(metadata_value(&self.hint, SUBSET_NAMESPACE, SUBSET_KEY).ok().as_ref())
    }

    fn on_body(&mut self, body: Bytes, end_of_stream: bool, now: f64, out: &mut Replies) {
        let Some(reader) = &mut self.reader else { return };
        if let Err(refusal) = reader.feed(&body) {
            self.refuse(&refusal, out);
        } else if end_of_stream {
            self.body_complete(false, now, out);
        } else if self.modes.request_body != BodyMode::FullDuplexStreamed {
            // BUFFERED_PARTIAL: Envoy's buffer was too small.
            let refusal = too_large(reader.size());
            self.refuse(&refusal, out);
        } else if reader.unread().is_some() {
            self.pass_by(now, out);
        }
    }

    fn body_complete(&mut self, trailers: bool, now: f64, out: &mut Replies) {
        let subset = self.subset();
        let Some(reader) = &mut self.reader else { return };
        let request = match reader.finish() {
            Ok(read) => Request::of(read, subset),
            Err(refusal) => return self.refuse(&refusal, out),
        };
        self.state = State::Answered;
        if !self.decide(request, true, now, out) {
            return;
        }
        let (Some(answer), Some(reader)) = (&self.answer, self.reader.take()) else { return };
        if self.modes.request_body == BodyMode::FullDuplexStreamed {
            out.extend(answer.streamed(reader, trailers, self.closing));
        } else {
            out.push(answer.buffered(reader));
        }
    }

    /// There is nothing to find in this body: no reason to hold the rest of it.
    fn pass_by(&mut self, now: f64, out: &mut Replies) {
        let subset = self.subset();
        let Some(reader) = &mut self.reader else { return };
        let request = match reader.finish() {
            Ok(read) => Request::of(read, subset),
            Err(refusal) => return self.refuse(&refusal, out), // not reached: why it is not read is known
        };
        if !self.decide(request, true, now, out) {
            return;
        }
        self.state = State::Unbuffered;
        self.passing = true;
        self.closing = false;
        if let (Some(answer), Some(reader)) = (&self.answer, self.reader.take()) {
            out.extend(answer.passing(reader));
        }
    }

    /// The decision, which is kept, or its refusal.
    fn decide(&mut self, request: Request, measurable: bool, now: f64, out: &mut Replies) -> Decided {
        let mut decision = match self.around.routing.route(&self.headers, &request, now) {
            Ok(decision) => decision,
            Err(refusal) => {
                self.refuse(&refusal, out);
                return false;
            }
        };
        if !measurable || self.headers.get(b":method").is_none() {
            // No proxy asks but something that wants a destination, and will show no response.
            decision.measured = false;
            decision.restored = false;
        } else if !decision.variant.is_empty() && !self.around.variant_header.is_empty() {
            self.named = true;
            self.keep = true; // whoever leaves in the midst of a response takes what Envoy had sent with him
        }
        self.around.observer.dispatched(&decision);
        let (mut change, mut plain) = (BodyEdit::default(), false);
        if let Some(reader) = self.reader.as_mut().filter(|_| request.unread.is_none()) {
            let changed = decision.target != decision.model;
            if changed {
                change = reader.change(&decision.target);
            }
            // In one split all targets get the body in one form, or they could not be compared.
            plain = reader.decoded() && (changed || decision.split);
        }
        if decision.measured {
            self.meter = Some(ResponseMeter::new(now));
        }
        if decision.restored {
            self.restorer = Some(NameRestorer::new(&decision.model, &decision.target, &self.around.budget));
        }
        let address = Bytes::copy_from_slice(decision.endpoint.address.as_bytes());
        self.answer = Some(Answer::new(address, &self.headers, change, plain));
        self.decision = Some(decision);
        self.forget();
        self.closing = self.leaves();
        true
    }

    fn refuse(&mut self, refusal: &Refusal, out: &mut Replies) {
        self.around.observer.refused(refusal);
        self.reader = None;
        self.forget();
        self.state = State::Done;
        self.closing = true;
        out.push(Outgoing::Immediate(immediate(refusal)));
    }

    // --- the response ---------------------------------------------------------------------------------

    fn on_response_headers(&mut self, message: &HttpHeaders, now: f64, out: &mut Replies) {
        self.reader = None; // a local reply may come before the request body has ended
        self.forget();
        if self.state == State::Start {
            self.modes = message.protocol;
        }
        let content_type = message.headers.text(b"content-type");
        if let Some(meter) = &mut self.meter {
            meter.headers(message.headers.text(b":status"), content_type);
        }
        self.state = State::Responding;
        if message.end_of_stream {
            self.complete(Ending::Complete, now);
        } else if self.modes.response_body == BodyMode::None {
            self.complete(Ending::HeadersOnly, now);
        }
        self.closing = self.closing || self.leaves();
        let mut routed = Routed::default();
        if let Some(decision) = self.decision.as_ref().filter(|_| self.named) {
            let variant = Bytes::copy_from_slice(decision.variant.as_bytes());
            routed.set_headers = smallvec![(self.around.variant_header.clone(), variant)];
        }
        if let Some(restorer) =
            self.restorer.as_mut().filter(|_| self.modes.response_body == BodyMode::FullDuplexStreamed)
        {
            restorer.headers(content_type);
            routed.remove_headers = smallvec![Bytes::from_static(b"content-length")];
        }
        out.push(Outgoing::Headers(Side::Response, routed));
    }

    fn on_response_body(&mut self, body: Bytes, end_of_stream: bool, now: f64, out: &mut Replies) {
        if let Some(meter) = &mut self.meter {
            meter.body(&body, now);
        }
        if end_of_stream {
            self.complete(Ending::Complete, now);
        }
        if self.modes.response_body != BodyMode::FullDuplexStreamed {
            out.push(Outgoing::Buffered { side: Side::Response, body: None, routed: Routed::default() });
            return;
        }
        match &mut self.restorer {
            None => out.push(Outgoing::Body { side: Side::Response, body: smallvec![body], end_of_stream }),
            Some(restorer) => {
                out.extend(in_pieces(Side::Response, restorer.feed(&body, end_of_stream), end_of_stream));
            }
        }
    }

    fn on_response_trailers(&mut self, now: f64, out: &mut Replies) {
        self.complete(Ending::Complete, now);
        if let Some(restorer) = &mut self.restorer {
            out.extend(in_pieces(Side::Response, restorer.feed(&Bytes::new(), true), false));
        }
        out.push(Outgoing::Trailers(Side::Response));
    }

    fn complete(&mut self, ending: Ending, now: f64) {
        self.report(ending, now);
        self.state = State::Done;
        self.closing = true;
    }

    fn report(&mut self, ending: Ending, now: f64) {
        if let (Some(meter), Some(decision)) = (self.meter.take(), &self.decision) {
            self.around.observer.measured(decision, &meter.finish(ending, now));
        }
    }

    // --- what passes by -------------------------------------------------------------------------------

    fn pass_body(&mut self, body: Bytes, end_of_stream: bool, out: &mut Replies) {
        if end_of_stream && self.state == State::Unbuffered {
            self.state = State::Answered;
        }
        if self.modes.request_body != BodyMode::FullDuplexStreamed {
            out.push(Outgoing::Buffered { side: Side::Request, body: None, routed: Routed::default() });
            return;
        }
        if self.passing {
            if end_of_stream {
                self.passed();
            }
            out.extend(in_pieces(Side::Request, body, end_of_stream));
        }
    }

    fn pass_trailers(&mut self, out: &mut Replies) {
        self.passed();
        out.push(Outgoing::Trailers(Side::Request));
    }

    /// The request has ended.
    fn passed(&mut self) {
        self.passing = false;
        self.closing = self.leaves();
    }
}
