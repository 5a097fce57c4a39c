//! One connection: handshakes, its streams as tasks beside it, its end.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use h2::server::Connection;
use h2::{PingPong, Reason};
use rollouts_core::stream::Logic;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::{Notify, Semaphore};
use tokio::task::spawn_local;
use tokio::time::{Interval, MissedTickBehavior, Sleep, interval, sleep, timeout};
use tokio_rustls::TlsAcceptor;

use crate::Event;
use crate::exchange::answer;
use crate::framing::{Piece, Queue, Room};
use crate::io::{Buffered, OpenStreams};
use crate::limits;
use crate::listen::{Phase, Serves, Shared};
use crate::tls::Certificates;

/// What the streams of a connection share.
pub(crate) struct Around<L> {
    pub(crate) shared: Arc<Shared<L>>,
    pub(crate) serves: Serves,
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
    pub(crate) fn new(shared: Arc<Shared<L>>, serves: Serves) -> Rc<Self> {
        Rc::new(Self {
            queue: Rc::new(Queue::new(Arc::clone(&shared.queued))),
            shared,
            serves,
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
}

/// Serve what comes on `socket` until it ends.
pub(crate) async fn serve<L: Logic>(
    shared: Arc<Shared<L>>,
    serves: Serves,
    socket: TcpStream,
    certificates: Option<Arc<Certificates>>,
) {
    let around = Around::new(Arc::clone(&shared), serves);
    let result = match certificates {
        None => run(around, socket).await,
        Some(certificates) => {
            let shaking = in_turn(&shared.handshakes, async {
                let config = certificates.current(&shared.events).await;
                TlsAcceptor::from(config).accept(socket).await
            });
            let accepted = in_time(&shared, serves, shaking).await;
            let Some(Ok(socket)) = accepted else { return }; // scanners and probes: not worth a line each
            run(around, socket).await
        }
    };
    if let Err(reason) = result {
        (shared.events)(Event::ConnectionRefused(reason));
    }
}

/// What a handshake gives once not too many are at it.
pub(crate) async fn in_turn<R>(handshakes: &Semaphore, shaking: impl Future<Output = R>) -> R {
    let _permit = handshakes.acquire().await; // it is never closed
    shaking.await
}

/// What a handshake gives, unless it takes too long or no new connection is wanted any more.
async fn in_time<L: Logic, R>(shared: &Shared<L>, serves: Serves, shaking: impl Future<Output = R>) -> Option<R> {
    let mut changes = shared.changes();
    let mut ending = pin!(changes.wait_for(|phase| serves.ends_at(*phase)));
    let mut shaking = pin!(timeout(limits::HANDSHAKE, shaking));
    poll_fn(|cx| match shaking.as_mut().poll(cx) {
        Poll::Ready(done) => Poll::Ready(done.ok()),
        Poll::Pending => ending.as_mut().poll(cx).map(|_| None),
    })
    .await
}

pub(crate) async fn run<L, S>(around: Rc<Around<L>>, socket: S) -> Result<(), String>
where
    L: Logic,
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let io = Buffered::new(socket, Rc::clone(&around.open));
    let mut changes = around.shared.changes();
    let shaking = handshake(&io, around.serves);
    let Some(Some(connection)) = in_time(&around.shared, around.serves, shaking).await else { return Ok(()) };
    let mut driver = Driver::new(around, connection, io);
    driver.look_at_phase();
    loop {
        let mut changed = pin!(changes.changed());
        // A change of phase is looked at between turns.
        let ended = poll_fn(|cx| {
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

/// HTTP/2's beginning. Nothing when the other side speaks something else.
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
    poll_fn(|cx| {
        let result = shaking.as_mut().poll(cx);
        match io.poll_out(cx) {
            Poll::Ready(Err(_)) => Poll::Ready(None),
            _ => result.map(Result::ok),
        }
    })
    .await
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
    /// An error is one for the log.
    reason: Result<(), String>,
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

    /// Read, start what is new, write. Ready at the connection's end; an error is one for the log.
    fn turn(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), String>> {
        self.io.begin_turn();
        self.around.driver.replace(Some(cx.waker().clone()));
        self.widen();
        let mut end = self.streams(cx);
        if self.io.is_flooded() && self.farewell.is_none() {
            self.connection.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
            self.part(Err("too many PING, SETTINGS, PRIORITY or RST_STREAM frames".to_owned()));
            end = self.streams(cx);
        }
        if self.stopping && self.around.is_quiet() {
            self.stopping = false;
            self.connection.abrupt_shutdown(Reason::NO_ERROR); // streams that begin now have another picker
            end = self.streams(cx);
        }
        let written = self.io.poll_out(cx);
        if let Some(Farewell { limit, reason }) = &mut self.farewell {
            let over = end.is_ready() && written.is_ready() || limit.as_mut().poll(cx).is_ready();
            return if over { Poll::Ready(std::mem::replace(reason, Ok(()))) } else { Poll::Pending };
        }
        if let Poll::Ready(reason) = end {
            if written.is_pending() {
                self.part(reason);
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            return Poll::Ready(reason);
        }
        if let Poll::Ready(Err(_)) = written {
            return Poll::Ready(Ok(()));
        }
        while self.tick.poll_tick(cx).is_ready() {
            if self.is_dead() {
                return Poll::Ready(Ok(()));
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

    fn streams(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), String>> {
        for _ in 0..limits::BEGUN {
            match self.connection.poll_accept(cx) {
                Poll::Ready(Some(Ok((call, mut respond)))) => {
                    self.around.open.begun();
                    let around = Rc::clone(&self.around);
                    around.streams.set(around.streams.get() + 1);
                    self.idle = 0;
                    drop(spawn_local(async move {
                        match around.room().charge(limits::PER_STREAM) {
                            Some(_charge) => answer(&around, call, respond).await,
                            None => respond.send_reset(Reason::REFUSED_STREAM), // so that another picker is asked
                        }
                        around.streams.set(around.streams.get() - 1);
                    }));
                }
                Poll::Ready(Some(Err(error))) => return Poll::Ready(worth_a_line(&error)),
                Poll::Ready(None) => return Poll::Ready(Ok(())),
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
            self.connection.abrupt_shutdown(Reason::NO_ERROR); // streams that begin now can be tried again elsewhere
            self.part(Ok(()));
            cx.waker().wake_by_ref();
        }
    }

    fn part(&mut self, reason: Result<(), String>) {
        self.farewell.get_or_insert_with(|| Farewell { limit: Box::pin(sleep(limits::FAREWELL)), reason });
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
            self.part(Ok(()));
        }
    }
}

fn worth_a_line(error: &h2::Error) -> Result<(), String> {
    match error.get_io() {
        Some(error) if error.kind() != io::ErrorKind::Other => Ok(()), // the client left
        _ => Err(error.to_string()),
    }
}
