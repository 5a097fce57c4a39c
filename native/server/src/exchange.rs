//! One stream: requests that are no ext_proc stream, the loop of one that is, and what it sends.

use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, request};
use rollouts_core::encoding::Encoded;
use rollouts_core::stream::{Flow, Logic, RESET_FOLLOWS, StreamLogic};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, Sleep, sleep, sleep_until};

use crate::connection::Around;
use crate::framing::{Assembler, Backlog, Piece, Queue, SHARED_FROM, Unacceptable};
use crate::health;
use crate::limits::{INLINE_WORK, WRITE_PATIENCE, WRITE_RATE};
use crate::listen::{Serves, Shared};
use crate::panics::caught;
use crate::{Event, METHOD};

/// Replies up to this many bytes in all go out in one DATA frame, copied.
const JOINED: usize = 8 << 10;

/// What a method ends with.
pub(crate) struct Status {
    pub(crate) code: &'static str,
    pub(crate) message: String,
}

impl Status {
    pub(crate) const OK: Self = Self { code: "0", message: String::new() };

    pub(crate) fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    fn headers(&self, mut map: HeaderMap) -> HeaderMap {
        map.insert(GRPC_STATUS, HeaderValue::from_static(self.code));
        if self.code == "12" {
            map.insert(GRPC_ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        }
        if !self.message.is_empty() {
            // Percent-encoded, so that it is always a header value.
            if let Ok(value) = HeaderValue::from_str(&percent_encoded(&self.message)) {
                map.insert(GRPC_MESSAGE, value);
            }
        }
        map
    }
}

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
const GRPC_ACCEPT_ENCODING: HeaderName = HeaderName::from_static("grpc-accept-encoding");
const CONTENT_TYPE: HeaderValue = HeaderValue::from_static("application/grpc");

fn percent_encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if (0x20..=0x7E).contains(&byte) && byte != b'%' {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

/// The other side is gone, or does not take what we send: there is nobody to tell.
pub(crate) struct Gone;

impl From<h2::Error> for Gone {
    fn from(_: h2::Error) -> Self {
        Self
    }
}

/// What is sent on a stream: headers with the first message, messages, a status.
pub(crate) struct Writer {
    respond: SendResponse<Piece>,
    send: Option<SendStream<Piece>>,
    queue: Rc<Queue>,
}

impl Writer {
    /// Send these messages. Returns when they are with HTTP/2, which takes no more than the peer's window. A peer that
    /// takes them too slowly is gone.
    pub(crate) async fn send(&mut self, messages: &mut Vec<Encoded>) -> Result<(), Gone> {
        let total: usize = messages.iter().map(Piece::size).sum();
        let mut limit = pin!(None);
        let sending = async {
            if total <= JOINED {
                let piece = Piece::joined(messages, total);
                messages.clear();
                return self.piece(piece, total).await;
            }
            for message in messages.drain(..) {
                let size = Piece::size(&message);
                self.piece(Piece::message(message), size).await?;
            }
            Ok(())
        };
        let mut sending = pin!(sending);
        poll_fn(|cx| {
            if let Poll::Ready(sent) = sending.as_mut().poll(cx) {
                return Poll::Ready(sent);
            }
            if limit.is_none() {
                limit.set(Some(sleep(WRITE_PATIENCE + Duration::from_secs((total / WRITE_RATE) as u64))));
            }
            limit.as_mut().as_pin_mut().map_or(Poll::Pending, |timer| timer.poll(cx).map(|()| Err(Gone)))
        })
        .await
    }

    async fn piece(&mut self, mut piece: Piece, mut size: usize) -> Result<(), Gone> {
        let queue = Rc::clone(&self.queue);
        queue.room().await;
        let send = self.opened()?;
        send.reserve_capacity(size);
        let mut ready = send.capacity();
        while ready < size {
            if ready > 0 {
                send.send_data(piece.split_to(ready).queued(&queue), false)?;
                size -= ready;
                queue.room().await;
                send.reserve_capacity(size);
                ready = send.capacity();
                continue;
            }
            ready = match poll_fn(|cx| send.poll_capacity(cx)).await {
                Some(Ok(count)) => count,
                _ => return Err(Gone),
            };
        }
        send.send_data(piece.queued(&queue), false)?;
        Ok(())
    }

    fn opened(&mut self) -> Result<&mut SendStream<Piece>, Gone> {
        if self.send.is_none() {
            let mut response = Response::new(());
            response.headers_mut().insert(http::header::CONTENT_TYPE, CONTENT_TYPE);
            self.send = Some(self.respond.send_response(response, false)?);
        }
        self.send.as_mut().ok_or(Gone)
    }

    fn finish(mut self, status: &Status) -> Result<(), Gone> {
        if let Some(send) = &mut self.send {
            send.send_trailers(status.headers(HeaderMap::with_capacity(2)))?;
        } else {
            let mut response = Response::new(());
            let mut map = HeaderMap::with_capacity(4);
            map.insert(http::header::CONTENT_TYPE, CONTENT_TYPE);
            *response.headers_mut() = status.headers(map);
            self.respond.send_response(response, true)?;
        }
        Ok(())
    }

    fn reset(mut self, reason: Reason) {
        match &mut self.send {
            Some(send) => send.send_reset(reason),
            None => self.respond.send_reset(reason),
        }
    }

    /// Wait until the peer resets the stream.
    pub(crate) fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let reset = match &mut self.send {
            Some(send) => send.poll_reset(cx),
            None => self.respond.poll_reset(cx),
        };
        reset.map(|_| ())
    }
}

/// What a request calls; its headers, of which there may be much, are not kept.
enum Method {
    Process,
    Health(health::Call),
    Unknown,
}

/// What is kept of a request's headers.
struct Call {
    method: Method,
    /// The client's own deadline.
    deadline: Option<Duration>,
    /// How messages that are marked so are compressed; empty where it does not say.
    encoding: String,
}

impl Call {
    /// Nothing for what is no gRPC; then the status of HTTP for it.
    fn read(head: &request::Parts, serves: Serves) -> Result<Self, StatusCode> {
        if head.method != http::Method::POST {
            return Err(StatusCode::METHOD_NOT_ALLOWED);
        }
        if !is_grpc(&head.headers) {
            return Err(StatusCode::UNSUPPORTED_MEDIA_TYPE);
        }
        let path = head.uri.path();
        let method = match health::Call::of(path) {
            Some(call) => Method::Health(call),
            None if path == METHOD && serves == Serves::Everything => Method::Process,
            None => Method::Unknown,
        };
        let encoding = head.headers.get("grpc-encoding").and_then(|value| value.to_str().ok()).unwrap_or_default();
        Ok(Self {
            method,
            deadline: head.headers.get("grpc-timeout").and_then(|value| timeout(value.as_bytes())),
            encoding: encoding.chars().take(MAX_ENCODING).collect(),
        })
    }
}

/// Characters of an encoding's name that are told.
const MAX_ENCODING: usize = 40;

/// Answer one HTTP/2 request.
pub(crate) async fn answer<L: Logic>(
    around: &Around<L>,
    request: Request<RecvStream>,
    mut respond: SendResponse<Piece>,
) {
    let (head, mut body) = request.into_parts();
    let call = Call::read(&head, around.serves);
    drop(head);
    let call = match call {
        Ok(call) => call,
        Err(code) => {
            let mut response = Response::new(());
            *response.status_mut() = code;
            let _ = respond.send_response(response, true);
            return;
        }
    };
    let mut writer = Writer { respond, send: None, queue: Rc::clone(&around.queue) };
    let work = async {
        match call.method {
            Method::Process => process(around, &mut body, &mut writer, &call.encoding).await,
            Method::Health(call) => health::answer(call, around, &mut body, &mut writer).await,
            Method::Unknown => Ok(Status::new("12", "this server has no such method")),
        }
    };
    let work = async {
        match call.deadline {
            None => work.await,
            Some(length) => match tokio::time::timeout(length, work).await {
                Ok(outcome) => outcome,
                Err(_) => Ok(Status::new("4", "the client's deadline is over")),
            },
        }
    };
    let outcome = {
        let (mut work, mut stopped) = (pin!(work), pin!(around.stopped()));
        poll_fn(|cx| match work.as_mut().poll(cx) {
            Poll::Pending => stopped.as_mut().poll(cx).map(|()| Ok(Status::new("14", "the endpoint picker stops"))),
            done => done,
        })
        .await
    };
    match outcome {
        Ok(status) => drop(writer.finish(&status)),
        Err(Gone) => writer.reset(Reason::CANCEL),
    }
    // Dropping `body` tells the peer, with RST_STREAM(NO_ERROR), that the rest of its half is not wanted.
}

fn is_grpc(headers: &HeaderMap) -> bool {
    headers.get(http::header::CONTENT_TYPE).is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"))
}

/// The length of time that a `grpc-timeout` gives: at most eight digits and a unit.
fn timeout(value: &[u8]) -> Option<Duration> {
    let (unit, digits) = value.split_last()?;
    if digits.is_empty() || digits.len() > 8 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let count = digits.iter().fold(0u64, |sum, digit| sum * 10 + u64::from(digit - b'0'));
    Some(match unit {
        b'H' => Duration::from_secs(count * 3_600),
        b'M' => Duration::from_secs(count * 60),
        b'S' => Duration::from_secs(count),
        b'm' => Duration::from_millis(count),
        b'u' => Duration::from_micros(count),
        b'n' => Duration::from_nanos(count),
        _ => return None,
    })
}

/// Tells the logic that its stream is over, however that came.
struct Closing<L: Logic> {
    /// In a box: it moves between threads and futures, each of which would hold all of it.
    logic: Box<L::Stream>,
    shared: Arc<Shared<L>>,
}

impl<L: Logic> Closing<L> {
    fn open(shared: &Arc<Shared<L>>) -> Self {
        let logic = Box::new(shared.logic.open(shared.clock.now()));
        shared.streams.fetch_add(1, Ordering::Relaxed);
        Self { logic, shared: Arc::clone(shared) }
    }

    /// Call the logic; a panic of it is one stream's end.
    fn call<R>(&mut self, act: impl FnOnce(&mut L::Stream, f64) -> R) -> Result<R, Status> {
        let now = self.shared.clock.now();
        caught(|| act(&mut self.logic, now)).map_err(|exception| {
            self.shared.told.failed(Event::StreamFailed { state: self.logic.state(), exception });
            Status::new("13", "the endpoint picker failed; see its log")
        })
    }
}

impl<L: Logic> Drop for Closing<L> {
    fn drop(&mut self) {
        let _ = self.call(|logic, now| logic.closed(now));
        self.shared.streams.fetch_sub(1, Ordering::Relaxed);
    }
}

enum Arrival {
    Data(Bytes),
    End,
    Expired,
}

/// How a stream ends: the status that its client gets, or nobody is there.
enum End {
    Status(Status),
    Gone,
}

impl From<Gone> for End {
    fn from(_: Gone) -> Self {
        Self::Gone
    }
}

impl From<Status> for End {
    fn from(status: Status) -> Self {
        Self::Status(status)
    }
}

/// What comes on a stream.
struct Incoming<'a, L: Logic> {
    around: &'a Around<L>,
    body: &'a mut RecvStream,
    backlog: Backlog<'a>,
    kept: usize,
}

impl<'a, L: Logic> Incoming<'a, L> {
    fn new(around: &'a Around<L>, body: &'a mut RecvStream) -> Self {
        Self { around, body, backlog: Backlog::new(around.room()), kept: 0 }
    }

    /// What came next. The window opens again: what is taken is bounded by the limits on messages and held bodies.
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Arrival, Gone>> {
        if let Some(data) = self.backlog.take() {
            let _ = self.body.flow_control().release_capacity(data.len());
            self.around.keep_back(0, std::mem::take(&mut self.kept));
            return Poll::Ready(Ok(Arrival::Data(data)));
        }
        if self.backlog.ended {
            return Poll::Ready(Ok(Arrival::End));
        }
        self.body.poll_data(cx).map(|data| match data {
            Some(Ok(data)) => {
                let _ = self.body.flow_control().release_capacity(data.len());
                Ok(Arrival::Data(data))
            }
            Some(Err(_)) => Err(Gone),
            None => Ok(Arrival::End),
        })
    }

    /// What `work` gives. What comes meanwhile is kept back: HTTP/2 would hold it without counting over all connections.
    /// `size`: bytes that are counted if it has to wait.
    async fn during<R>(&mut self, size: usize, work: impl Future<Output = R>) -> Result<R, End> {
        let mut work = pin!(work);
        let mut counted = None;
        poll_fn(|cx| {
            if let Poll::Ready(done) = work.as_mut().poll(cx) {
                return Poll::Ready(Ok(done));
            }
            if counted.is_none() {
                counted = self.around.room().charge(size);
                if counted.is_none() {
                    return Poll::Ready(Err(no_memory().into()));
                }
            }
            while !self.backlog.ended
                && let Poll::Ready(data) = self.body.poll_data(cx)
            {
                match data {
                    Some(Ok(data)) if !self.backlog.add(&data) => return Poll::Ready(Err(no_memory().into())),
                    Some(Ok(data)) => {
                        self.kept += data.len();
                        self.around.keep_back(data.len(), 0);
                    }
                    Some(Err(_)) => return Poll::Ready(Err(End::Gone)),
                    None => self.backlog.ended = true,
                }
            }
            Poll::Pending
        })
        .await
    }
}

impl<L: Logic> Drop for Incoming<'_, L> {
    fn drop(&mut self) {
        self.around.keep_back(0, self.kept);
    }
}

/// The loop of an ext_proc stream; it holds no state of its own.
async fn process<L: Logic>(
    around: &Around<L>,
    body: &mut RecvStream,
    writer: &mut Writer,
    encoding: &str,
) -> Result<Status, Gone> {
    match converse(around, body, writer, encoding).await {
        Ok(status) | Err(End::Status(status)) => Ok(status),
        Err(End::Gone) => Err(Gone),
    }
}

async fn converse<L: Logic>(
    around: &Around<L>,
    body: &mut RecvStream,
    writer: &mut Writer,
    encoding: &str,
) -> Result<Status, End> {
    let shared = &*around.shared;
    let mut stream = Closing::open(&around.shared);
    let mut incoming = Incoming::new(around, body);
    let mut assembler = Assembler::new(shared.max_message, around.room());
    let expires = Instant::now() + shared.request_timeout;
    // When a message has begun that is not complete: it has as long as a request has.
    let mut torn: Option<Instant> = None;
    let mut limit = pin!(None::<Sleep>);
    let mut replies = Vec::new();
    let mut waiting = true;
    loop {
        let due = if waiting { Some(expires) } else { torn.map(|began| began + shared.request_timeout) };
        let arrival = poll_fn(|cx| {
            if let Poll::Ready(arrival) = incoming.poll_next(cx) {
                return Poll::Ready(arrival);
            }
            let Some(due) = due else { return Poll::Pending };
            if limit.is_none() {
                limit.set(Some(sleep_until(due)));
            }
            let Some(mut timer) = limit.as_mut().as_pin_mut() else { return Poll::Pending };
            if timer.deadline() != due {
                timer.as_mut().reset(due);
            }
            timer.poll(cx).map(|()| Ok(Arrival::Expired))
        })
        .await?;
        match arrival {
            Arrival::Data(data) => assembler.push(data),
            Arrival::End if assembler.is_torn() => {
                return Ok(Status::new("13", "the stream ended in the midst of a message"));
            }
            Arrival::End => return Ok(half_closed(&mut stream, writer).await?),
            Arrival::Expired if !waiting => return Ok(Status::new("4", "a message was not complete in time")),
            Arrival::Expired => {
                let (state, seconds) = (stream.logic.state(), shared.request_timeout.as_secs_f64());
                shared.tell(Event::RequestTimedOut { state, seconds });
                let said = stream.call(|logic, _| logic.expire(seconds, &mut replies));
                return Ok(incoming.during(0, last_words(writer, said, &mut replies)).await??);
            }
        }
        loop {
            let message = match assembler.next() {
                Ok(Some(message)) => message,
                Ok(None) => break,
                Err(problem) => return Ok(unacceptable(problem, shared.max_message, encoding)),
            };
            torn = None;
            // The answers to it may be parts of it, and wait for the peer's window. A short one is counted when they do.
            let (short, long) = if message.len() < SHARED_FROM { (message.len(), 0) } else { (0, message.len()) };
            let _charge = around.room().charge(long).ok_or_else(no_memory)?;
            let flow;
            (stream, flow) = receive(stream, message, &mut incoming, &mut replies).await?;
            if !replies.is_empty() {
                incoming.during(short, writer.send(&mut replies)).await??;
            }
            match flow {
                Flow::Open => waiting = waiting && stream.logic.waiting(),
                Flow::Close => return Ok(Status::OK),
                Flow::Abort(text) => {
                    let text: String = text.chars().take(300).collect();
                    shared.tell(Event::StreamRefused { state: stream.logic.state(), error: text.clone() });
                    return Ok(Status::new("3", text));
                }
            }
        }
        if assembler.is_torn() {
            torn.get_or_insert_with(Instant::now);
        }
    }
}

/// Work for a thread. Who drops this wants it no more: what has not begun is let go of, and not done.
struct Withdrawn<T>(Arc<Mutex<Option<T>>>);

impl<T> Drop for Withdrawn<T> {
    fn drop(&mut self) {
        drop(taken(&self.0));
    }
}

fn taken<T>(work: &Mutex<Option<T>>) -> Option<T> {
    work.lock().unwrap_or_else(PoisonError::into_inner).take()
}

/// Give `message` to the logic: here, or on a thread for long work, where it keeps nobody else waiting.
async fn receive<L: Logic>(
    mut stream: Closing<L>,
    message: Bytes,
    incoming: &mut Incoming<'_, L>,
    replies: &mut Vec<Encoded>,
) -> Result<(Closing<L>, Flow), End> {
    let short = if message.len() < SHARED_FROM { message.len() } else { 0 };
    if stream.logic.work(message.len()) <= INLINE_WORK {
        let flow = stream.call(|logic, now| logic.receive(message, now, replies))?;
        return Ok((stream, flow));
    }
    let task = Withdrawn(Arc::new(Mutex::new(Some((stream, message))))); // it may wait for its turn
    let waiting = Arc::clone(&task.0);
    let working = spawn_blocking(move || {
        let (mut stream, message) = taken(&waiting)?;
        let mut replies = Vec::new();
        let flow = stream.call(|logic, now| logic.receive(message, now, &mut replies));
        Some((stream, flow, replies))
    });
    let done = incoming.during(short, working).await?.ok().flatten(); // nothing: the runtime stops
    let (stream, flow, mut found) = done.ok_or(End::Gone)?;
    replies.append(&mut found);
    Ok((stream, flow?))
}

/// The other side half-closed first: one reply, or none.
async fn half_closed<L: Logic>(stream: &mut Closing<L>, writer: &mut Writer) -> Result<Status, Gone> {
    if stream.logic.expects_response() {
        let mut wait = pin!(sleep(Duration::from_secs_f64(RESET_FOLLOWS)));
        poll_fn(|cx| match writer.poll_reset(cx) {
            Poll::Ready(()) => Poll::Ready(Err(Gone)),
            Poll::Pending => wait.as_mut().poll(cx).map(Ok),
        })
        .await?;
    }
    let mut replies = Vec::new();
    let said = stream.call(|logic, now| logic.half_closed(now, &mut replies));
    last_words(writer, said, &mut replies).await
}

async fn last_words(writer: &mut Writer, said: Result<(), Status>, replies: &mut Vec<Encoded>) -> Result<Status, Gone> {
    if let Err(status) = said {
        return Ok(status);
    }
    writer.send(replies).await?;
    Ok(Status::OK)
}

fn no_memory() -> Status {
    Status::new("8", "too much waits on all streams at once")
}

/// `encoding`: what the request's `grpc-encoding` says.
pub(crate) fn unacceptable(problem: Unacceptable, most: usize, encoding: &str) -> Status {
    match problem {
        Unacceptable::TooLarge(size) => {
            Status::new("8", format!("a message of {size} bytes; at most {most} are taken"))
        }
        // As gRPC's compression document has it: one that is not known, and one that nobody named.
        Unacceptable::Compressed if !matches!(encoding, "" | "identity") => Status::new(
            "12",
            format!("messages compressed with {encoding} (grpc-encoding) are not read: send them without compression"),
        ),
        Unacceptable::Compressed => {
            Status::new("13", "a message is marked as compressed, and grpc-encoding does not say how")
        }
        Unacceptable::NoMessage(flag) => {
            Status::new("13", format!("no gRPC message: it begins with {flag}, which is neither 0 nor 1"))
        }
        Unacceptable::NoMemory => no_memory(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_timeouts_as_grpc_writes_them() {
        assert_eq!(timeout(b"100m"), Some(Duration::from_millis(100)));
        assert_eq!(timeout(b"2H"), Some(Duration::from_secs(7_200)));
        assert_eq!(timeout(b"99999999S"), Some(Duration::from_secs(99_999_999)));
        for wrong in [&b""[..], b"S", b"1", b"1x", b"-1S", b"123456789S"] {
            assert_eq!(timeout(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn any_text_is_a_header() {
        assert_eq!(percent_encoded("a b%\n\u{e9}"), "a b%25%0A%C3%A9");
    }
}
