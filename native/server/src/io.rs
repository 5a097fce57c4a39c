//! A socket, plain or TLS, behind buffers: one read and one write per turn of a connection, not one per frame.
//!
//! h2 writes each frame that is longer than a few hundred bytes by itself. Here writes go to a buffer, and whoever
//! drives the connection calls `poll_out` once it has nothing more to say for now.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::authority;
use crate::limits::{CHEAP_FRAMES, CHEAP_FRAMES_PER_SECOND, MAX_FRAME, READ_BUFFER, TURN, WRITE_BUFFER};

/// The two sides of a connection's socket share this: h2 and the connection's driver.
pub(crate) struct Buffered<S>(Rc<RefCell<Inner<S>>>);

struct Inner<S> {
    socket: S,
    input: Box<[u8]>,
    passed: Vec<u8>,
    passed_at: usize,
    output: Vec<u8>,
    output_at: usize,
    turn: usize,
    heard: bool,
    ended: bool,
    counter: FrameCounter,
}

impl<S> Clone for Buffered<S> {
    fn clone(&self) -> Self {
        Self(Rc::clone(&self.0))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Buffered<S> {
    pub(crate) fn new(socket: S) -> Self {
        Self(Rc::new(RefCell::new(Inner {
            socket,
            input: vec![0; READ_BUFFER].into_boxed_slice(),
            passed: Vec::new(),
            passed_at: 0,
            output: Vec::new(),
            output_at: 0,
            turn: 0,
            heard: false,
            ended: false,
            counter: FrameCounter::new(),
        })))
    }

    /// Write what is buffered. Ready when all of it is with the kernel.
    pub(crate) fn poll_out(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.borrow_mut().poll_out(cx)
    }

    /// A new turn begins: the connection may read again.
    pub(crate) fn begin_turn(&self) {
        self.0.borrow_mut().turn = 0;
    }

    /// Whether a byte came since this was asked last.
    pub(crate) fn take_heard(&self) -> bool {
        std::mem::take(&mut self.0.borrow_mut().heard)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Inner<S> {
    fn poll_out(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.output_at < self.output.len() {
            let count = ready!(Pin::new(&mut self.socket).poll_write(cx, &self.output[self.output_at..]))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.output_at += count;
        }
        self.output.clear();
        self.output_at = 0;
        if self.output.capacity() > WRITE_BUFFER * 2 {
            self.output = Vec::new();
        }
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.output.len() < WRITE_BUFFER { Poll::Ready(Ok(())) } else { self.poll_out(cx) }
    }

    fn poll_in(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.turn >= TURN {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let mut buffer = ReadBuf::new(&mut self.input);
        ready!(Pin::new(&mut self.socket).poll_read(cx, &mut buffer))?;
        let count = buffer.filled().len();
        self.turn += count;
        self.heard |= count > 0;
        self.passed.clear();
        self.passed_at = 0;
        self.counter.look(&self.input[..count], &mut self.passed)?;
        self.ended = count == 0;
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Buffered<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut inner = self.0.borrow_mut();
        while inner.passed_at == inner.passed.len() && !inner.ended {
            ready!(inner.poll_in(cx))?;
        }
        let count = buf.remaining().min(inner.passed.len() - inner.passed_at);
        buf.put_slice(&inner.passed[inner.passed_at..inner.passed_at + count]);
        inner.passed_at += count;
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Buffered<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let mut inner = self.0.borrow_mut();
        ready!(inner.poll_room(cx))?;
        inner.output.extend_from_slice(buf);
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut inner = self.0.borrow_mut();
        ready!(inner.poll_room(cx))?;
        for slice in slices {
            inner.output.extend_from_slice(slice);
        }
        Poll::Ready(Ok(slices.iter().map(|slice| slice.len()).sum()))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// Nothing: `poll_out` is called when the turn is over.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut inner = self.0.borrow_mut();
        ready!(inner.poll_out(cx))?;
        Pin::new(&mut inner.socket).poll_shutdown(cx)
    }
}

const PREFACE: usize = 24;
const FRAME_HEADER: usize = 9;

/// Reads the headers of frames as they pass, counts those that cost a client nothing (h2 answers any number of them),
/// and holds HEADERS until they are whole, for `authority`.
struct FrameCounter {
    skip: usize,
    header: [u8; FRAME_HEADER],
    header_len: usize,
    held: Vec<u8>,
    wanted: usize,
    allowed: u32,
    since: Instant,
}

impl FrameCounter {
    fn new() -> Self {
        Self {
            skip: PREFACE,
            header: [0; FRAME_HEADER],
            header_len: 0,
            held: Vec::new(),
            wanted: 0,
            allowed: CHEAP_FRAMES,
            since: Instant::now(),
        }
    }

    /// Append to `out` what may pass.
    fn look(&mut self, mut bytes: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
        loop {
            let passed = self.skip.min(bytes.len());
            self.skip -= passed;
            out.extend_from_slice(&bytes[..passed]);
            bytes = &bytes[passed..];
            if self.wanted > 0 {
                let take = bytes.len().min(self.wanted - self.held.len());
                self.held.extend_from_slice(&bytes[..take]);
                bytes = &bytes[take..];
                if self.held.len() == self.wanted {
                    authority::rewrite(&self.held, out);
                    self.held.clear();
                    self.wanted = 0;
                }
            }
            if bytes.is_empty() {
                return Ok(());
            }
            let take = bytes.len().min(FRAME_HEADER - self.header_len);
            self.header[self.header_len..self.header_len + take].copy_from_slice(&bytes[..take]);
            self.header_len += take;
            bytes = &bytes[take..];
            if self.header_len == FRAME_HEADER {
                self.header_len = 0;
                self.begin(out)?;
            }
        }
    }

    fn begin(&mut self, out: &mut Vec<u8>) -> io::Result<()> {
        let [a, b, c, kind, ..] = self.header;
        let length = u32::from_be_bytes([0, a, b, c]) as usize;
        if matches!(kind, 2 | 3 | 4 | 6) {
            self.count()?;
        }
        // A longer frame than is allowed is h2's to refuse.
        if length > 0 && length <= MAX_FRAME as usize && authority::is_headers(&self.header) {
            self.held.extend_from_slice(&self.header);
            self.wanted = FRAME_HEADER + length;
        } else {
            out.extend_from_slice(&self.header);
            self.skip = length;
        }
        Ok(())
    }

    fn count(&mut self) -> io::Result<()> {
        if self.allowed == 0 {
            let earned = self.since.elapsed().as_secs_f64() * f64::from(CHEAP_FRAMES_PER_SECOND);
            self.allowed = (earned as u32).min(CHEAP_FRAMES);
            self.since = Instant::now();
            if self.allowed == 0 {
                return Err(io::Error::other("too many PING, SETTINGS, PRIORITY or RST_STREAM frames"));
            }
        }
        self.allowed -= 1;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
        let length = (payload.len() as u32).to_be_bytes();
        let mut out = vec![length[1], length[2], length[3], kind, 0, 0, 0, 0, 1];
        out.extend_from_slice(payload);
        out
    }

    #[test]
    fn cheap_frames_are_counted_however_they_are_cut() {
        let mut stream = vec![b'P'; PREFACE];
        // DATA whose payload looks like PINGs must not count.
        stream.extend(frame(0, &frame(6, &[0; 8]).repeat(10)));
        stream.extend(frame(6, &[0; 8]));
        stream.extend(frame(3, &[0; 4]));
        stream.extend(frame(1, &[0; 30]));
        for step in [1, 2, 8, 9, 10, 1_000] {
            let mut counter = FrameCounter::new();
            let mut passed = Vec::new();
            for part in stream.chunks(step) {
                counter.look(part, &mut passed).unwrap();
            }
            assert_eq!(CHEAP_FRAMES - counter.allowed, 2, "in steps of {step}");
            assert_eq!(passed, stream);
        }
    }

    #[test]
    fn a_flood_of_pings_is_an_error() {
        let mut counter = FrameCounter::new();
        counter.look(&[b'P'; PREFACE], &mut Vec::new()).unwrap();
        let flood = frame(6, &[0; 8]).repeat(3 * CHEAP_FRAMES as usize);
        assert!(counter.look(&flood, &mut Vec::new()).is_err());
    }
}
