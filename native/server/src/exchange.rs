//! One stream: requests that are no ext_proc stream, the loop of one that is, and what it sends.

use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use rollouts_core::encoding::Encoded;
use rollouts_core::stream::{Flow, Logic, RESET_FOLLOWS, StreamLogic};
use tokio::time::{Instant, Sleep, sleep, sleep_until};

use crate::connection::Around;
use crate::framing::{Assembler, Piece, Queue, Unacceptable};
use crate::health;
use crate::limits::{WRITE_PATIENCE, WRITE_RATE};
use crate::listen::{Serves, Shared};
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

/// Answer one HTTP/2 request.
pub(crate) async fn answer<L: Logic>(
    around: &Around<L>,
    request: Request<RecvStream>,
    mut respond: SendResponse<Piece>,
) {
    let (head, mut body) = request.into_parts();
    if head.method != Method::POST || !is_grpc(&head.headers) {
        let code = if head.method == Method::POST {
            StatusCode::UNSUPPORTED_MEDIA_TYPE
        } else {
            StatusCode::METHOD_NOT_ALLOWED
        };
        let mut response = Response::new(());
        *response.status_mut() = code;
        let _ = respond.send_response(response, true);
        return;
    }
    let mut writer = Writer { respond, send: None, queue: Rc::clone(&around.queue) };
    let deadline = head.headers.get("grpc-timeout").and_then(|value| timeout(value.as_bytes()));
    let path = head.uri.path();
    let work = async {
        match (around.serves, path) {
            (Serves::Everything, METHOD) => process(around, &mut body, &mut writer).await,
            (_, health::CHECK) => health::check(around, &mut body, &mut writer).await,
            (_, health::WATCH) => health::watch(around, &mut body, &mut writer).await,
            _ => Ok(Status::new("12", "this server has no such method")),
        }
    };
    let work = async {
        match deadline {
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
struct Closing<'a, L: Logic> {
    logic: L::Stream,
    shared: &'a Shared<L>,
}

impl<L: Logic> Closing<'_, L> {
    /// Call the logic; a panic of it is one stream's end.
    fn call<R>(&mut self, act: impl FnOnce(&mut L::Stream) -> R) -> Result<R, Status> {
        catch_unwind(AssertUnwindSafe(|| act(&mut self.logic))).map_err(|panic| {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message");
            self.shared.failures.fetch_add(1, Ordering::Relaxed);
            (self.shared.events)(Event::StreamFailed(text.to_owned()));
            Status::new("13", "the endpoint picker failed; see its log")
        })
    }
}

impl<L: Logic> Drop for Closing<'_, L> {
    fn drop(&mut self) {
        let now = self.shared.clock.now();
        let _ = self.call(|logic| logic.closed(now));
    }
}

enum Arrival {
    Data(Bytes),
    End,
    Expired,
}

/// The loop of an ext_proc stream; it holds no state of its own.
async fn process<L: Logic>(around: &Around<L>, body: &mut RecvStream, writer: &mut Writer) -> Result<Status, Gone> {
    let shared = &*around.shared;
    let mut stream = Closing { logic: shared.logic.open(shared.clock.now()), shared };
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
            if let Poll::Ready(data) = body.poll_data(cx) {
                return Poll::Ready(match data {
                    Some(Ok(data)) => Ok(Arrival::Data(data)),
                    Some(Err(_)) => Err(Gone),
                    None => Ok(Arrival::End),
                });
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
            Arrival::Data(data) => {
                // What is taken is bounded by the limits on messages and held bodies: the window may open again.
                let _ = body.flow_control().release_capacity(data.len());
                assembler.push(data);
            }
            Arrival::End if assembler.is_torn() => {
                return Ok(Status::new("13", "the stream ended in the midst of a message"));
            }
            Arrival::End => return half_closed(&mut stream, writer).await,
            Arrival::Expired if !waiting => return Ok(Status::new("4", "a message was not complete in time")),
            Arrival::Expired => {
                (shared.events)(Event::RequestTimedOut);
                let seconds = shared.request_timeout.as_secs_f64();
                return last_words(writer, stream.call(|logic| logic.expire(seconds, &mut replies)), &mut replies)
                    .await;
            }
        }
        loop {
            let message = match assembler.next() {
                Ok(Some(message)) => message,
                Ok(None) => break,
                Err(problem) => return Ok(unacceptable(problem, shared.max_message)),
            };
            torn = None;
            let now = shared.clock.now();
            let flow = match stream.call(|logic| logic.receive(message, now, &mut replies)) {
                Ok(flow) => flow,
                Err(status) => return Ok(status),
            };
            if !replies.is_empty() {
                writer.send(&mut replies).await?;
            }
            match flow {
                Flow::Open => waiting = waiting && stream.logic.waiting(),
                Flow::Close => return Ok(Status::OK),
                Flow::Abort(text) => {
                    let text: String = text.chars().take(300).collect();
                    (shared.events)(Event::StreamRefused(text.clone()));
                    return Ok(Status::new("3", text));
                }
            }
        }
        if assembler.is_torn() {
            torn.get_or_insert_with(Instant::now);
        }
    }
}

/// The other side half-closed first: one reply, or none.
async fn half_closed<L: Logic>(stream: &mut Closing<'_, L>, writer: &mut Writer) -> Result<Status, Gone> {
    if stream.logic.expects_response() {
        let mut wait = pin!(sleep(Duration::from_secs_f64(RESET_FOLLOWS)));
        poll_fn(|cx| match writer.poll_reset(cx) {
            Poll::Ready(()) => Poll::Ready(Err(Gone)),
            Poll::Pending => wait.as_mut().poll(cx).map(Ok),
        })
        .await?;
    }
    let mut replies = Vec::new();
    let now = stream.shared.clock.now();
    let said = stream.call(|logic| logic.half_closed(now, &mut replies));
    last_words(writer, said, &mut replies).await
}

async fn last_words(writer: &mut Writer, said: Result<(), Status>, replies: &mut Vec<Encoded>) -> Result<Status, Gone> {
    if let Err(status) = said {
        return Ok(status);
    }
    writer.send(replies).await?;
    Ok(Status::OK)
}

pub(crate) fn unacceptable(problem: Unacceptable, most: usize) -> Status {
    match problem {
        Unacceptable::TooLarge(size) => {
            Status::new("8", format!("a message of {size} bytes; at most {most} are taken"))
        }
        Unacceptable::Compressed => Status::new("12", "compressed messages are not read"),
        Unacceptable::NoMemory => Status::new("8", "too many unfinished messages at once"),
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
