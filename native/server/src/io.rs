//! A socket, plain or TLS, behind buffers: one read and one write per turn of a connection, not one per frame.
//!
//! h2 writes each frame that is longer than a few hundred bytes by itself. Here writes go to a buffer, and whoever
//! drives the connection calls `poll_out` once it has nothing more to say for now.

use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::task::spawn_local;
use tokio::time::Instant;

use crate::authority::Rewriter;
use crate::limits::{
    BEGUN, BEGUN_AMID_RESETS, CHEAP_FRAMES, CHEAP_FRAMES_PER_SECOND, MAX_STREAMS, READ_BUFFER, RESET_REMEMBERED, ROUND,
    TURN, UNSENT, WRITE_BUFFER,
};

thread_local! {
    /// Where sockets are read into; what came is passed on before another one is read.
    static INPUT: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ_BUFFER].into_boxed_slice());
    /// A buffer for the next connection that needs one: those that are idle have none.
    static SPARE: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
    /// What connections have read since their streams had their turn.
    static READ: Cell<usize> = const { Cell::new(0) };
}

/// Whether connections may read on. Else it is the turn of the streams that were woken before now.
fn is_round_open() -> bool {
    let read = READ.get();
    if read > ROUND && read < usize::MAX {
        READ.set(usize::MAX);
        drop(spawn_local(async { READ.set(0) })); // behind them in the queue of this thread
    }
    read <= ROUND
}

/// Let go of a buffer in which nothing is left.
fn recycle(buffer: &mut Vec<u8>) {
    buffer.clear();
    let spare = SPARE.take();
    SPARE.set(if spare.capacity() < buffer.capacity() && buffer.capacity() <= WRITE_BUFFER * 2 {
        std::mem::take(buffer)
    } else {
        *buffer = Vec::new();
        spare
    });
}

/// The two sides of a connection's socket share this: h2 and the connection's driver.
pub(crate) struct Buffered<S>(Rc<RefCell<Inner<S>>>);

struct Inner<S> {
    socket: S,
    /// What came behind as many streams as may wait to begin: it is looked at when some have.
    kept: Vec<u8>,
    passed: Vec<u8>,
    passed_at: usize,
    ended: bool,
    rewriter: Rewriter,
    output: Vec<u8>,
    output_at: usize,
    turn: usize,
    heard: bool,
    blocked: bool,
    flooded: bool,
    counter: FrameCounter,
}

impl<S> Clone for Buffered<S> {
    fn clone(&self) -> Self {
        Self(Rc::clone(&self.0))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Buffered<S> {
    pub(crate) fn new(socket: S, open: Rc<OpenStreams>) -> Self {
        Self(Rc::new(RefCell::new(Inner {
            socket,
            kept: Vec::new(),
            passed: Vec::new(),
            passed_at: 0,
            ended: false,
            rewriter: Rewriter::new(PREFACE),
            output: Vec::new(),
            output_at: 0,
            turn: 0,
            heard: false,
            blocked: false,
            flooded: false,
            counter: FrameCounter::new(open),
        })))
    }

    /// Write what is buffered. Ready when all of it is with the kernel.
    pub(crate) fn poll_out(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.borrow_mut().poll_out(cx)
    }

    /// Ready when the client's SETTINGS came, which begin what it says: true; or when they never will.
    pub(crate) fn poll_settings(&self, cx: &mut Context<'_>) -> Poll<bool> {
        let mut inner = self.0.borrow_mut();
        while inner.counter.first.is_none() && !inner.ended {
            if ready!(inner.poll_in(cx)).is_err() {
                return Poll::Ready(false);
            }
        }
        Poll::Ready(inner.counter.first == Some(SETTINGS))
    }

    /// A new turn begins: the connection may read again.
    pub(crate) fn begin_turn(&self) {
        self.0.borrow_mut().turn = 0;
    }

    /// Whether a byte came since this was asked last.
    pub(crate) fn take_heard(&self) -> bool {
        std::mem::take(&mut self.0.borrow_mut().heard)
    }

    /// Whether more frames came than a client in good order sends. Nothing is read any more.
    pub(crate) fn is_flooded(&self) -> bool {
        self.0.borrow().flooded
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Inner<S> {
    fn poll_out(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.output_at < self.output.len() {
            let Poll::Ready(count) = Pin::new(&mut self.socket).poll_write(cx, &self.output[self.output_at..])? else {
                self.blocked = true;
                self.shrink();
                return Poll::Pending;
            };
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.output_at += count;
            self.heard |= self.blocked; // there is room again: somebody takes what we send
        }
        self.blocked = false;
        self.output_at = 0;
        recycle(&mut self.output);
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    /// Have no more memory than what is in it: it may stay for as long as the client is slow.
    fn shrink(&mut self) {
        self.output.drain(..self.output_at);
        self.output_at = 0;
        self.passed.drain(..self.passed_at);
        self.passed_at = 0;
        self.output.shrink_to_fit();
        self.passed.shrink_to_fit();
    }

    /// Take as much as there is room for. How much that is.
    fn say(&mut self, bytes: &[u8]) -> usize {
        let bytes = &bytes[..bytes.len().min(WRITE_BUFFER - self.output.len())];
        self.flooded |= !self.counter.goes(bytes);
        if self.output.capacity() == 0 {
            self.output = SPARE.take();
        }
        self.output.extend_from_slice(bytes);
        bytes.len()
    }

    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.output.len() < WRITE_BUFFER { Poll::Ready(Ok(())) } else { self.poll_out(cx) }
    }

    fn poll_in(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.flooded {
            return Poll::Pending; // until the driver ends it
        }
        if self.turn >= TURN || self.counter.open.is_full() || !is_round_open() {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        if !self.kept.is_empty() {
            self.take_kept(); // however slow the client is: else it stayed here for so long
            return Poll::Ready(Ok(()));
        }
        if self.blocked && self.output.len() - self.output_at >= UNSENT {
            ready!(self.poll_out(cx))?;
        }
        INPUT.with_borrow_mut(|input| {
            let mut buffer = ReadBuf::new(input);
            ready!(Pin::new(&mut self.socket).poll_read(cx, &mut buffer))?;
            self.came(buffer.filled());
            Poll::Ready(Ok(()))
        })
    }

    fn came(&mut self, bytes: &[u8]) {
        self.turn += bytes.len();
        READ.set(READ.get().saturating_add(bytes.len()));
        self.heard |= !bytes.is_empty();
        self.ended = bytes.is_empty();
        self.kept = self.pass(bytes).to_vec();
    }

    fn take_kept(&mut self) {
        let mut kept = std::mem::take(&mut self.kept);
        let rest = self.pass(&kept).len();
        kept.drain(..kept.len() - rest);
        kept.shrink_to_fit(); // it is never more, together with what was passed on, than a read
        self.kept = kept;
    }

    /// Pass on what came, up to as many streams as may wait to begin. The rest.
    fn pass<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        let Some(rest) = self.counter.came(bytes) else {
            self.flooded = true;
            return &[];
        };
        if self.passed.capacity() == 0 {
            self.passed = SPARE.take();
        }
        self.rewriter.pass(&bytes[..bytes.len() - rest.len()], &mut self.passed);
        rest
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Buffered<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut inner = self.0.borrow_mut();
        while inner.passed_at == inner.passed.len() && !inner.ended {
            ready!(inner.poll_in(cx))?;
            if inner.flooded {
                return Poll::Pending; // until the driver ends it
            }
        }
        let count = buf.remaining().min(inner.passed.len() - inner.passed_at);
        buf.put_slice(&inner.passed[inner.passed_at..inner.passed_at + count]);
        inner.passed_at += count;
        if inner.passed_at == inner.passed.len() {
            inner.passed_at = 0;
            recycle(&mut inner.passed);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Buffered<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let mut inner = self.0.borrow_mut();
        ready!(inner.poll_room(cx))?;
        Poll::Ready(Ok(inner.say(buf)))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut inner = self.0.borrow_mut();
        ready!(inner.poll_room(cx))?;
        Poll::Ready(Ok(slices.iter().map(|slice| inner.say(slice)).sum()))
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

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const END_STREAM: u8 = 1;

/// Errors for which h2 resets a stream by itself: the client's fault.
const FAULTS: [u32; 4] = [1, 3, 5, 6];

/// The header of a frame; of a RST_STREAM, its code also.
#[derive(Clone, Copy)]
struct Frame {
    kind: u8,
    flags: u8,
    stream: u32,
    code: u32,
}

/// Reads the headers of frames as they pass, however they are cut.
struct FrameReader {
    skip: usize,
    header: [u8; FRAME_HEADER + 4],
    header_len: usize,
}

impl FrameReader {
    fn new(skip: usize) -> Self {
        Self { skip, header: [0; FRAME_HEADER + 4], header_len: 0 }
    }

    fn next(&mut self, bytes: &mut &[u8]) -> Option<Frame> {
        loop {
            let passed = self.skip.min(bytes.len());
            self.skip -= passed;
            *bytes = &bytes[passed..];
            if bytes.is_empty() {
                return None;
            }
            let wanted = if self.header_len >= FRAME_HEADER { self.header.len() } else { FRAME_HEADER };
            let take = bytes.len().min(wanted - self.header_len);
            self.header[self.header_len..self.header_len + take].copy_from_slice(&bytes[..take]);
            self.header_len += take;
            *bytes = &bytes[take..];
            let [a, b, c, kind, flags, s, t, u, v, code @ ..] = self.header;
            let length = u32::from_be_bytes([0, a, b, c]) as usize;
            let whole = if kind == RST_STREAM && length == 4 { self.header.len() } else { FRAME_HEADER };
            if self.header_len == whole {
                self.header_len = 0;
                self.skip = length + FRAME_HEADER - whole;
                let stream = u32::from_be_bytes([s & 0x7F, t, u, v]);
                return Some(Frame { kind, flags, stream, code: u32::from_be_bytes(code) });
            }
        }
    }
}

/// Streams of a connection that neither side has ended, no more than h2 lets be opened, and how many of those that came
/// have not begun. A client that opens and resets streams would have any number of these.
#[derive(Default)]
pub(crate) struct OpenStreams {
    open: RefCell<HashSet<u32>>,
    unbegun: Cell<usize>,
    /// Streams that are to begin until the last reset of an open one is forgotten.
    wary: Cell<usize>,
}

impl OpenStreams {
    fn opened(&self, stream: u32) {
        self.open.borrow_mut().insert(stream);
        self.unbegun.set(self.unbegun.get() + 1);
    }

    /// One of those that came begins.
    pub(crate) fn begun(&self) {
        self.unbegun.set(self.unbegun.get().saturating_sub(1));
        self.wary.set(self.wary.get().saturating_sub(1));
    }

    /// How many may have come and not begun, and begin in a turn.
    pub(crate) fn most(&self) -> usize {
        if self.wary.get() > 0 { BEGUN_AMID_RESETS } else { BEGUN }
    }

    fn is_full(&self) -> bool {
        self.unbegun() >= self.most()
    }

    /// None is left to begin: h2 has refused the others.
    pub(crate) fn all_begun(&self) {
        self.unbegun.set(0);
    }

    pub(crate) fn unbegun(&self) -> usize {
        self.unbegun.get()
    }

    /// Whether it was open.
    fn ended(&self, stream: u32) -> bool {
        self.open.borrow_mut().remove(&stream)
    }
}

/// Counts what costs a client nothing. h2 answers any number of such frames.
///
/// A RST_STREAM of an open stream is not among them. Clients that abandon thousands of requests at once must not end a
/// connection of Envoy's that all others share, and it cannot be known whether they did so before we looked: where we are
/// late, or the window is closed, the reset comes with the headers. It costs us less than a request, which nobody counts
/// either: `BEGUN` bounds both.
struct FrameCounter {
    incoming: FrameReader,
    outgoing: FrameReader,
    open: Rc<OpenStreams>,
    /// Kind of the first frame that came.
    first: Option<u8>,
    newest: u32,
    /// Streams that we ended first, and whose RST_STREAM is still to come, if the client sends one.
    ended: usize,
    allowed: u32,
    since: Instant,
}

impl FrameCounter {
    fn new(open: Rc<OpenStreams>) -> Self {
        Self {
            incoming: FrameReader::new(PREFACE),
            outgoing: FrameReader::new(0),
            open,
            first: None,
            newest: 0,
            ended: 0,
            allowed: CHEAP_FRAMES,
            since: Instant::now(),
        }
    }

    /// Look at what came, up to as many streams as may wait to begin. The rest; nothing when it is too much.
    fn came<'a>(&mut self, mut bytes: &'a [u8]) -> Option<&'a [u8]> {
        while let Some(frame) = self.incoming.next(&mut bytes) {
            self.first.get_or_insert(frame.kind);
            let free = match frame.kind {
                HEADERS if frame.stream > self.newest => {
                    self.newest = frame.stream;
                    self.open.opened(frame.stream);
                    if self.open.is_full() {
                        return Some(bytes);
                    }
                    true
                }
                RST_STREAM if self.open.ended(frame.stream) => {
                    self.open.wary.set(RESET_REMEMBERED);
                    true
                }
                RST_STREAM => {
                    let due = self.ended > 0;
                    self.ended -= usize::from(due);
                    due
                }
                kind => !matches!(kind, PRIORITY | SETTINGS | PING),
            };
            if !free && !self.count() {
                return None;
            }
        }
        Some(bytes)
    }

    /// Look at what goes. Whether the client did not make us reset too much.
    fn goes(&mut self, mut bytes: &[u8]) -> bool {
        let mut well = true;
        while let Some(frame) = self.outgoing.next(&mut bytes) {
            let ends = frame.kind == RST_STREAM || matches!(frame.kind, DATA | HEADERS) && frame.flags & END_STREAM > 0;
            if ends && self.open.ended(frame.stream) {
                self.ended = (self.ended + 1).min(MAX_STREAMS as usize);
                if frame.kind == RST_STREAM && FAULTS.contains(&frame.code) {
                    well &= self.count();
                }
            }
        }
        well
    }

    fn count(&mut self) -> bool {
        if self.allowed == 0 {
            let earned = self.since.elapsed().as_secs_f64() * f64::from(CHEAP_FRAMES_PER_SECOND);
            self.allowed = (earned as u32).min(CHEAP_FRAMES);
            self.since = Instant::now();
            if self.allowed == 0 {
                return false;
            }
        }
        self.allowed -= 1;
        true
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use tokio::io::AsyncWriteExt;

    use super::*;
    use crate::limits::{MAX_FRAME, PER_CONNECTION, QUEUED_SHARE};

    fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let length = (payload.len() as u32).to_be_bytes();
        let mut out = vec![length[1], length[2], length[3], kind, flags];
        out.extend_from_slice(&stream.to_be_bytes());
        out.extend_from_slice(payload);
        out
    }

    impl FrameCounter {
        /// Look at all of it, while streams begin as fast as they come. Whether it is not too much.
        fn saw(&mut self, mut bytes: &[u8]) -> bool {
            while !bytes.is_empty() {
                let Some(rest) = self.came(bytes) else { return false };
                bytes = rest;
                if !bytes.is_empty() {
                    self.open.all_begun();
                }
            }
            true
        }
    }

    #[test]
    fn no_more_streams_are_passed_on_than_may_wait() {
        let mut counter = FrameCounter::new(Rc::default());
        let whole =
            [vec![b'P'; PREFACE], (0..100).flat_map(|at| frame(HEADERS, 4, 2 * at + 1, &[0; 30])).collect()].concat();
        for step in [1, 20, 10_000] {
            counter = FrameCounter::new(Rc::default());
            let mut left = whole.len();
            for part in whole.chunks(step) {
                let rest = counter.came(part).unwrap();
                left -= part.len() - rest.len();
                if counter.open.unbegun() == BEGUN {
                    break;
                }
            }
            assert_eq!(
                whole.len() - left,
                PREFACE + (BEGUN - 1) * (FRAME_HEADER + 30) + FRAME_HEADER,
                "in steps of {step}"
            );
        }
        let rest = counter.came(&[0; 30]).unwrap();
        assert!(rest.is_empty() && counter.open.unbegun() == BEGUN, "what follows is the end of the last one");
    }

    #[test]
    fn fewer_streams_may_wait_where_an_open_one_was_reset_until_many_more_began() {
        let mut counter = FrameCounter::new(Rc::default());
        assert!(counter.saw(&[b'P'; PREFACE]));
        let open = |first: u32| -> Vec<u8> {
            (first..first + 1_500).flat_map(|at| frame(HEADERS, 4, 2 * at + 1, &[0; 30])).collect()
        };
        let reset = |at: u32| frame(RST_STREAM, 0, 2 * at + 1, &[0; 4]);
        counter.came(&open(0)).unwrap();
        assert_eq!(counter.open.unbegun(), BEGUN);
        counter.open.all_begun();
        assert!(counter.goes(&frame(HEADERS, END_STREAM, 1, &[])));
        counter.came(&[&[0; 30][..], &reset(0), &open(2_000)].concat()).unwrap();
        assert_eq!(counter.open.unbegun(), BEGUN, "we ended that one first, as a gateway hears");
        counter.open.all_begun();
        counter.came(&[&[0; 30][..], &reset(1), &open(4_000)].concat()).unwrap();
        assert_eq!(counter.open.unbegun(), BEGUN_AMID_RESETS, "though it had begun");
        for _ in 0..RESET_REMEMBERED {
            assert_eq!(counter.open.most(), BEGUN_AMID_RESETS);
            counter.open.begun();
        }
        assert_eq!(counter.open.most(), BEGUN);
    }

    impl<S> Inner<S> {
        /// Bytes of memory in which something lies or may lie.
        fn holds(&self) -> [usize; 3] {
            [self.output.capacity(), self.kept.capacity() + self.passed.capacity(), self.rewriter.holds()]
        }
    }

    /// Read up to `most` bytes. How many came; nothing when none do now.
    fn read<S: AsyncRead + AsyncWrite + Unpin>(
        io: &mut Buffered<S>,
        cx: &mut Context<'_>,
        most: usize,
    ) -> Option<usize> {
        let mut bytes = vec![0; most];
        let mut buffer = ReadBuf::new(&mut bytes);
        let ready = Pin::new(io).poll_read(cx, &mut buffer).is_ready();
        ready.then(|| buffer.filled().len())
    }

    #[test]
    fn a_connection_whose_client_is_slow_holds_what_is_counted_for_it_and_lets_go_of_what_it_read() {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(slow_client());
    }

    async fn slow_client() {
        let (mut client, socket) = tokio::io::duplex(READ_BUFFER);
        let open: Rc<OpenStreams> = Rc::default();
        let mut io = Buffered::new(socket, Rc::clone(&open));
        let mut cx = Context::from_waker(Waker::noop());
        SPARE.set(Vec::with_capacity(2 * WRITE_BUFFER)); // of a connection that was busy
        let streams = (READ_BUFFER - PREFACE) / (FRAME_HEADER + 30);
        let calls = (0..streams as u32).flat_map(|at| frame(HEADERS, 4, 2 * at + 1, &[0; 30]));
        let sent = [vec![b'P'; PREFACE], calls.collect()].concat();
        client.write_all(&sent).await.unwrap();
        let mut came = read(&mut io, &mut cx, 100).unwrap();
        while Pin::new(&mut io).poll_write(&mut cx, &frame(DATA, 0, 1, &[0; 15_000])).is_ready() {}
        assert!(io.poll_out(&mut cx).is_pending());
        let all = |io: &Buffered<_>| io.0.borrow().holds();
        let most = PER_CONNECTION - QUEUED_SHARE - MAX_FRAME as usize; // these are h2's
        assert!(all(&io).iter().sum::<usize>() <= most, "{:?} are more than {most}", all(&io));
        assert_eq!(io.0.borrow().output.len(), WRITE_BUFFER);

        while came < sent.len() {
            open.all_begun();
            io.begin_turn();
            came += read(&mut io, &mut cx, sent.len()).expect("it is passed on however slow the client is");
            assert!(io.poll_out(&mut cx).is_pending());
            let [_, input, _] = all(&io);
            assert!(input <= sent.len() - came, "{input} bytes of memory for {}", sent.len() - came);
        }
        io.begin_turn();
        open.all_begun();
        client.write_all(&frame(PING, 0, 0, &[0; 8])).await.unwrap();
        assert_eq!(read(&mut io, &mut cx, 100), None, "nothing more is read of who takes nothing");
    }

    #[test]
    fn cheap_frames_are_counted_however_they_are_cut() {
        let mut stream = vec![b'P'; PREFACE];
        // DATA whose payload looks like PINGs must not count.
        stream.extend(frame(DATA, 0, 1, &frame(PING, 0, 0, &[0; 8]).repeat(10)));
        stream.extend(frame(PING, 0, 0, &[0; 8]));
        stream.extend(frame(HEADERS, 0, 1, &[0; 30]));
        stream.extend(frame(RST_STREAM, 0, 1, &[0; 4]).repeat(2));
        stream.extend(frame(HEADERS, 0, 3, &[0; 30]));
        for step in [1, 2, 8, 9, 10, 1_000] {
            let mut counter = FrameCounter::new(Rc::default());
            assert!(stream.chunks(step).all(|part| counter.saw(part)));
            assert_eq!(CHEAP_FRAMES - counter.allowed, 2, "in steps of {step}");
            assert_eq!(counter.open.open.borrow().len(), 1);
            assert_eq!(counter.open.unbegun(), 2);
        }
    }

    #[test]
    fn a_flood_of_pings_is_too_much() {
        let mut counter = FrameCounter::new(Rc::default());
        assert!(counter.saw(&[b'P'; PREFACE]));
        let flood = frame(PING, 0, 0, &[0; 8]).repeat(3 * CHEAP_FRAMES as usize);
        assert!(!counter.saw(&flood));
    }

    /// How many of so many streams pass that the client opens, `ours` answers and `theirs` follows.
    fn passing(ours: &[u8], code: u32, theirs: bool) -> u32 {
        let mut counter = FrameCounter::new(Rc::default());
        assert!(counter.saw(&[b'P'; PREFACE]));
        for at in 0..3 * CHEAP_FRAMES {
            let stream = 2 * at + 1;
            let payload = if ours[0] == RST_STREAM { code.to_be_bytes().to_vec() } else { Vec::new() };
            let well = counter.saw(&frame(HEADERS, 4, stream, &[0; 30]))
                && counter.goes(&frame(ours[0], ours[1], stream, &payload))
                && (!theirs || counter.saw(&frame(RST_STREAM, 0, stream, &[0; 4])));
            if !well {
                return at;
            }
        }
        3 * CHEAP_FRAMES
    }

    #[test]
    fn resets_of_what_was_open_are_free_and_the_clients_faults_are_not() {
        let all = 3 * CHEAP_FRAMES;
        assert_eq!(passing(&[HEADERS, END_STREAM], 0, true), all, "ours came first");
        assert_eq!(passing(&[RST_STREAM, 0], 8, true), all, "we gave up");
        assert_eq!(passing(&[HEADERS, 0], 0, true), all, "only headers were sent");
        assert!(passing(&[RST_STREAM, 0], 1, false) < all, "the client made us reset it");
    }

    #[test]
    fn resets_are_free_once() {
        let open: Rc<OpenStreams> = Rc::default();
        let mut counter = FrameCounter::new(Rc::clone(&open));
        assert!(counter.saw(&[b'P'; PREFACE]));
        for at in 0..3 * CHEAP_FRAMES {
            assert!(counter.saw(&frame(HEADERS, 4, 2 * at + 1, &[0; 30])));
        }
        let mut reset = |at: u32| counter.saw(&frame(RST_STREAM, 0, 2 * at + 1, &[0; 4]));
        assert!((0..2 * CHEAP_FRAMES).all(&mut reset), "each once");
        let again = frame(RST_STREAM, 0, 1, &[0; 4]).repeat(9 * CHEAP_FRAMES as usize);
        assert!(!counter.saw(&again));
        let fault = |at: u32| frame(RST_STREAM, 0, 2 * at + 1, &1u32.to_be_bytes());
        let faults: Vec<u8> = (2 * CHEAP_FRAMES..3 * CHEAP_FRAMES).flat_map(fault).collect();
        assert!(!counter.goes(&faults), "the client made us reset these");
        assert!(open.open.borrow().is_empty(), "none is kept");
    }

    #[test]
    fn a_stream_that_we_ended_is_reset_once() {
        let mut counter = FrameCounter::new(Rc::default());
        assert!(counter.saw(&[b'P'; PREFACE]));
        assert!(counter.saw(&frame(HEADERS, 4, 1, &[0; 30])));
        assert!(counter.goes(&frame(HEADERS, END_STREAM, 1, &[])));
        assert!(!counter.saw(&frame(RST_STREAM, 0, 1, &[0; 4]).repeat(3 * CHEAP_FRAMES as usize)));
    }
}
