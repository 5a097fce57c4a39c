//! One connection: handshakes, its streams as tasks beside it, its end.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use h2::PingPong;
use h2::server::Connection;
use rollouts_core::stream::Logic;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::task::spawn_local;
use tokio::time::{Instant, Interval, MissedTickBehavior, Sleep, interval, sleep_until, timeout_at};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::exchange::answer;
use crate::framing::{Piece, Queue, Room};
use crate::io::{Buffered, OpenStreams};
use crate::limits;
use crate::listen::{Phase, Serves, Shared};
use crate::places::{Progress, Reason};
use crate::tls::{Certificates, bound};

/// What the streams of a connection share.
pub(crate) struct Around<L> {
    pub(crate) shared: Arc<Shared<L>>,
    pub(crate) serves: Serves,
    progress: Arc<Progress>,
    pub(crate) queue: Rc<Queue>,
    pub(crate) open: Rc<OpenStreams>,
    /// Told when the server stops: streams end then.
    stopping: Notify,
    waiting: Cell<usize>,
    backlog: Cell<usize>,
    driver: RefCell<Option<Waker>>,
    streams: Cell<usize>,
}

impl<L: Logic> Around<L> {
    pub(crate) fn new(shared: Arc<Shared<L>>, serves: Serves, progress: Arc<Progress>) -> Rc<Self> {
        Rc::new(Self {
            queue: Rc::new(Queue::new(Arc::clone(&shared.queued))),
            shared,
            serves,
            progress,
            open: Rc::default(),
            stopping: Notify::new(),
            waiting: Cell::new(0),
            backlog: Cell::new(0),
            driver: RefCell::default(),
            streams: Cell::new(0),
        })
    }

    /// Wait until the server gives its streams no more time.
    pub(crate) async fn stopped(&self) {
        if self.shared.phase() != Phase::Stopped {
            self.stopping.notified().await;
        }
    }

    /// Whether no stream is open, and what they sent is with the socket.
    fn is_quiet(&self) -> bool {
        self.streams.get() == 0 && self.queue.bytes() == 0
    }

    /// Where streams are counted, and what waits in them.
    pub(crate) fn room(&self) -> Room<'_> {
        Room { all: &self.shared.waiting, connection: &self.waiting }
    }

    /// So many bytes more, or less, lie in streams that are not read on. The window of the connection is without them:
    /// a stream that waits keeps none of the others.
    pub(crate) fn keep_back(&self, more: usize, less: usize) {
        self.backlog.set(self.backlog.get() + more - less);
        if let Some(driver) = self.driver.borrow_mut().take() {
            driver.wake();
        }
    }

    /// A stream begins. False when the place is given up. Who asks for health alone holds none: probes are the
    /// kubelet's, and anybody reaches that port, so that a `Watch` makes room as what was never used does.
    fn carries(&self) -> bool {
        self.serves == Serves::Health || self.progress.carries()
    }
}

/// Why a connection ended, and what the log is to say of it.
#[derive(Debug, Eq, PartialEq)]
pub(crate) struct Ended {
    pub(crate) reason: Reason,
    pub(crate) error: Option<String>,
}

impl From<Reason> for Ended {
    fn from(reason: Reason) -> Self {
        Self { reason, error: None }
    }
}

/// Serve what comes on `socket` until it ends.
pub(crate) async fn serve<L: Logic>(
    shared: Arc<Shared<L>>,
    serves: Serves,
    progress: Arc<Progress>,
    socket: TcpStream,
    certificates: Option<Arc<Certificates>>,
) -> Ended {
    let around = Around::new(shared, serves, progress);
    match beginning(&around, socket, certificates).await {
        Ok(Begun::Plain(socket)) => run(around, socket).await,
        Ok(Begun::Tls(socket)) => run(around, *socket).await,
        Err(reason) => reason.into(), // scanners and probes: not worth a line each
    }
}

enum Begun {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// What comes before HTTP/2. Nothing is spent on who says nothing.
async fn beginning<L: Logic>(
    around: &Around<L>,
    socket: TcpStream,
    certificates: Option<Arc<Certificates>>,
) -> Result<Begun, Reason> {
    // Not `readable`, which may say so for nothing.
    let _ = in_time(around, limits::FIRST_BYTE, Reason::Silent, socket.peek(&mut [0])).await?;
    let Some(certificates) = certificates else { return Ok(Begun::Plain(socket)) };
    let shaking = async {
        let config = certificates.current(&around.shared.told.events).await;
        TlsAcceptor::from(config).accept_with(socket, bound).await
    };
    let accepted = in_time(around, limits::HANDSHAKE, Reason::SlowHandshake, shaking).await?;
    accepted.map(|socket| Begun::Tls(Box::new(socket))).map_err(|_| Reason::BadHandshake)
}

/// What a part of the beginning gives. Else why it is over: `late`, so long after the connection was taken; no new
/// connection is wanted any more; or the place is needed for another one.
async fn in_time<L: Logic, R>(
    around: &Around<L>,
    limit: Duration,
    late: Reason,
    work: impl Future<Output = R>,
) -> Result<R, Reason> {
    let mut changes = around.shared.changes();
    let mut ending = pin!(changes.wait_for(|phase| around.serves.ends_at(*phase)));
    let mut displaced = pin!(around.progress.displaced());
    let mut work = pin!(timeout_at(around.progress.began() + limit, work));
    poll_fn(|cx| {
        if let Poll::Ready(done) = work.as_mut().poll(cx) {
            return Poll::Ready(done.map_err(|_| late));
        }
        if let Poll::Ready(reason) = displaced.as_mut().poll(cx) {
            return Poll::Ready(Err(reason));
        }
        ending.as_mut().poll(cx).map(|_| Err(Reason::Stopped))
    })
    .await
}

pub(crate) async fn run<L, S>(around: Rc<Around<L>>, socket: S) -> Ended
where
    L: Logic,
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let io = Buffered::new(socket, Rc::clone(&around.open));
    let mut changes = around.shared.changes();
    let shaking = handshake(&io, around.serves);
    let connection = match in_time(&around, limits::HANDSHAKE, Reason::SlowHandshake, shaking).await {
        Ok(Some(connection)) => connection,
        Ok(None) => return Reason::BadHandshake.into(),
        Err(reason) => return reason.into(),
    };
    let progress = Arc::clone(&around.progress);
    progress.finished();
    let mut displaced = pin!(progress.displaced());
    let mut leaves = false;
    let mut driver = Driver::new(around, connection, io);
    driver.look_at_phase();
    loop {
        let mut changed = pin!(changes.changed());
        // A change of phase is looked at between turns.
        let ended = poll_fn(|cx| {
            if !leaves && let Poll::Ready(reason) = displaced.as_mut().poll(cx) {
                leaves = true;
                driver.depart(reason, limits::LEAVE);
            }
            if let Poll::Ready(end) = driver.turn(cx) {
                return Poll::Ready(Some(end));
            }
            changed.as_mut().poll(cx).map(|_| None)
        })
        .await;
        match ended {
            Some(end) => return end,
            None => driver.look_at_phase(),
        }
    }
}

/// HTTP/2's beginning, with the client's SETTINGS. Nothing when the other side speaks something else.
async fn handshake<S>(io: &Buffered<S>, serves: Serves) -> Option<Connection<Buffered<S>, Piece>>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut builder = h2::server::Builder::new();
    builder
        .initial_window_size(limits::STREAM_WINDOW)
        .initial_connection_window_size(limits::CONNECTION_WINDOW)
        .max_frame_size(limits::MAX_FRAME)
        .max_header_list_size(limits::MAX_HEADERS)
        .max_concurrent_streams(match serves {
            Serves::Everything => limits::MAX_STREAMS,
            Serves::Health => limits::MAX_HEALTH_STREAMS,
        })
        .max_send_buffer_size(limits::SEND_BUFFER)
        .max_pending_accept_reset_streams(limits::MAX_PENDING_RESETS)
        .max_concurrent_reset_streams(limits::REMEMBERED_RESETS)
        .reset_stream_duration(limits::REMEMBER_RESETS)
        // A count over the life of a connection, and Envoy's live for weeks; `io` counts what comes at once.
        .max_local_error_reset_streams(None)
        .data_frame_budget(limits::FRAME_OVERHEAD);
    let mut shaking = pin!(builder.handshake::<_, Piece>(io.clone()));
    let shaken = poll_fn(|cx| {
        let result = shaking.as_mut().poll(cx);
        match io.poll_out(cx) {
            Poll::Ready(Err(_)) => Poll::Ready(None),
            _ if io.is_flooded() => Poll::Ready(None), // nothing more is read, not even the end
            _ => result.map(Result::ok),
        }
    });
    let connection = shaken.await?;
    poll_fn(|cx| io.poll_settings(cx)).await.then_some(connection)
}

struct Driver<L, S> {
    around: Rc<Around<L>>,
    connection: Connection<Buffered<S>, Piece>,
    io: Buffered<S>,
    tick: Interval,
    silent: u32,
    idle: u32,
    /// By how much the connection's window is wider than usual.
    widened: usize,
    /// h2 gives it once.
    ping: Option<PingPong>,
    draining: bool,
    /// What is still to be said is said, and then it ends.
    stopping: bool,
    /// Over: what is left to say is said until then.
    farewell: Option<Farewell>,
}

/// HTTP/2's own limit.
const MAX_WINDOW: u32 = (1 << 31) - 1;

struct Farewell {
    limit: Pin<Box<Sleep>>,
    end: Option<Ended>,
}

impl<L: Logic, S: AsyncRead + AsyncWrite + Unpin + 'static> Driver<L, S> {
    fn new(around: Rc<Around<L>>, mut connection: Connection<Buffered<S>, Piece>, io: Buffered<S>) -> Self {
        let mut tick = interval(limits::TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let ping = connection.ping_pong();
        Self {
            around,
            connection,
            io,
            tick,
            silent: 0,
            idle: 0,
            widened: 0,
            ping,
            draining: false,
            stopping: false,
            farewell: None,
        }
    }

    /// Read, start what is new, write. Ready at the connection's end.
    fn turn(&mut self, cx: &mut Context<'_>) -> Poll<Ended> {
        self.io.begin_turn();
        self.around.driver.replace(Some(cx.waker().clone()));
        self.widen();
        let mut end = self.streams(cx);
        if self.io.is_flooded() && self.farewell.is_none() {
            self.connection.abrupt_shutdown(h2::Reason::ENHANCE_YOUR_CALM);
            let error = "too many PING, SETTINGS, PRIORITY or RST_STREAM frames".to_owned();
            self.part(Ended { reason: Reason::Flood, error: Some(error) });
            end = self.streams(cx);
        }
        if self.stopping && self.around.is_quiet() {
            self.stopping = false;
            self.connection.abrupt_shutdown(h2::Reason::NO_ERROR); // streams that begin now have another picker
            end = self.streams(cx);
        }
        let written = self.io.poll_out(cx);
        if let Some(Farewell { limit, end: reason }) = &mut self.farewell {
            let over = end.is_ready() && written.is_ready() || limit.as_mut().poll(cx).is_ready();
            return if over { Poll::Ready(reason.take().unwrap_or(Reason::Client.into())) } else { Poll::Pending };
        }
        if let Poll::Ready(end) = end {
            if written.is_pending() {
                self.part(end);
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            return Poll::Ready(end);
        }
        if let Poll::Ready(Err(_)) = written {
            return Poll::Ready(Reason::Client.into());
        }
        while self.tick.poll_tick(cx).is_ready() {
            if self.is_dead() {
                return Poll::Ready(Reason::Dead.into());
            }
            self.look_whether_idle(cx);
        }
        if let Some(ping) = &mut self.ping {
            let _ = ping.poll_pong(cx); // makes room for the next one
        }
        Poll::Pending
    }

    /// Let as much come as is held back, beside the usual.
    fn widen(&mut self) {
        let backlog = self.around.backlog.get();
        if self.widened != backlog {
            self.widened = backlog;
            let window = limits::CONNECTION_WINDOW as usize + backlog;
            self.connection.set_target_window_size(u32::try_from(window).unwrap_or(MAX_WINDOW).min(MAX_WINDOW));
        }
    }

    fn streams(&mut self, cx: &mut Context<'_>) -> Poll<Ended> {
        for _ in 0..self.around.open.most() {
            match self.connection.poll_accept(cx) {
                Poll::Ready(Some(Ok((call, mut respond)))) => {
                    self.around.open.begun();
                    if !self.around.carries() {
                        respond.send_reset(h2::Reason::REFUSED_STREAM); // the place is given up
                        continue;
                    }
                    let carried = Carried::begin(&self.around);
                    self.idle = 0;
                    drop(spawn_local(async move {
                        let around = &carried.0;
                        match around.room().charge(limits::PER_STREAM) {
                            Some(_charge) => answer(around, call, respond).await,
                            None => respond.send_reset(h2::Reason::REFUSED_STREAM), // so that another picker is asked
                        }
                    }));
                }
                Poll::Ready(Some(Err(error))) => return Poll::Ready(end_of(&error)),
                Poll::Ready(None) => {
                    let reason = if self.draining { Reason::Stopped } else { Reason::Client };
                    return Poll::Ready(reason.into());
                }
                Poll::Pending => {
                    self.around.open.all_begun();
                    return Poll::Pending;
                }
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn is_dead(&mut self) -> bool {
        self.silent = if self.io.take_heard() { 0 } else { self.silent + 1 };
        if self.silent == limits::SILENT_TICKS
            && let Some(ping) = &mut self.ping
        {
            // The answer is noticed like any other byte.
            let _ = ping.send_ping(h2::Ping::opaque());
        }
        self.silent >= limits::DEAD_TICKS
    }

    fn look_whether_idle(&mut self, cx: &Context<'_>) {
        self.idle = if self.around.streams.get() == 0 { self.idle + 1 } else { 0 };
        let most = match self.around.serves {
            Serves::Everything => limits::IDLE_TICKS,
            Serves::Health => limits::HEALTH_IDLE_TICKS,
        };
        if self.idle >= most {
            self.depart(Reason::Idle, limits::FAREWELL);
            cx.waker().wake_by_ref();
        }
    }

    /// End a connection without streams: those that begin now can be tried again elsewhere.
    fn depart(&mut self, reason: Reason, time: Duration) {
        if self.farewell.is_none() {
            self.connection.abrupt_shutdown(h2::Reason::NO_ERROR);
        }
        self.part_within(time, reason.into());
    }

    fn part(&mut self, end: Ended) {
        self.part_within(limits::FAREWELL, end);
    }

    /// The first reason counts, and the shortest time: who waits for a place does not wait for a farewell of seconds.
    fn part_within(&mut self, time: Duration, end: Ended) {
        let limit = Instant::now() + time;
        let farewell =
            self.farewell.get_or_insert_with(|| Farewell { limit: Box::pin(sleep_until(limit)), end: Some(end) });
        if limit < farewell.limit.deadline() {
            farewell.limit.as_mut().reset(limit);
        }
    }

    fn look_at_phase(&mut self) {
        let phase = self.around.shared.phase();
        if self.around.serves.ends_at(phase) && !self.draining {
            self.draining = true;
            self.connection.graceful_shutdown();
        }
        if phase == Phase::Stopped {
            self.around.stopping.notify_waiters();
            self.stopping = true;
            self.part(Reason::Stopped.into());
        }
    }
}

/// A stream that a connection carries.
struct Carried<L: Logic>(Rc<Around<L>>);

impl<L: Logic> Carried<L> {
    fn begin(around: &Rc<Around<L>>) -> Self {
        around.streams.set(around.streams.get() + 1);
        Self(Rc::clone(around))
    }
}

impl<L: Logic> Drop for Carried<L> {
    fn drop(&mut self) {
        self.0.streams.set(self.0.streams.get() - 1);
        if self.0.streams.get() == 0 && self.0.serves == Serves::Everything {
            self.0.progress.rests();
        }
    }
}

fn end_of(error: &h2::Error) -> Ended {
    match error.get_io() {
        Some(error) if error.kind() != io::ErrorKind::Other => Reason::Client.into(),
        _ => Ended { reason: Reason::Protocol, error: Some(error.to_string()) },
    }
}
