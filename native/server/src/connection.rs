//! One connection: handshakes, its streams as tasks beside it, its end.

use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use h2::server::Connection;
use rollouts_core::stream::Logic;
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::spawn_local;
use tokio::time::{Interval, MissedTickBehavior, interval, timeout};
use tokio_rustls::TlsAcceptor;

use crate::exchange::answer;
use crate::framing::Piece;
use crate::io::Buffered;
use crate::limits;
use crate::listen::{Phase, Serves, Shared};
use crate::{Event, listen};

/// Serve what comes on `socket` until it ends.
pub(crate) async fn serve<L: Logic>(
    shared: Arc<Shared<L>>,
    serves: Serves,
    socket: TcpStream,
    tls: Option<Arc<ServerConfig>>,
) {
    let result = match tls {
        None => run(Arc::clone(&shared), serves, socket).await,
        Some(config) => match timeout(limits::HANDSHAKE, TlsAcceptor::from(config).accept(socket)).await {
            Ok(Ok(socket)) => run(Arc::clone(&shared), serves, socket).await,
            Ok(Err(_)) | Err(_) => return, // scanners and probes: not worth a line each
        },
    };
    if let Err(reason) = result {
        (shared.events)(Event::ConnectionRefused(reason));
    }
}

async fn run<L, S>(shared: Arc<Shared<L>>, serves: Serves, socket: S) -> Result<(), String>
where
    L: Logic,
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let io = Buffered::new(socket);
    let Some(connection) = handshake(&io).await else { return Ok(()) };
    let mut driver = Driver { connection, io, serves, tick: interval(limits::TICK), silent: 0, draining: false };
    driver.tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut changes = shared.changes();
    loop {
        let mut changed = pin!(changes.changed());
        // A change of phase is looked at between turns.
        let ended = poll_fn(|cx| {
            if let Poll::Ready(end) = driver.turn(cx, &shared) {
                return Poll::Ready(Some(end));
            }
            changed.as_mut().poll(cx).map(|_| None)
        })
        .await;
        match ended {
            Some(end) => return end,
            None => driver.look_at(shared.phase()),
        }
    }
}

/// HTTP/2's beginning. Nothing when the other side speaks something else, or nothing in time.
async fn handshake<S>(io: &Buffered<S>) -> Option<Connection<Buffered<S>, Piece>>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut builder = h2::server::Builder::new();
    builder
        .initial_window_size(limits::STREAM_WINDOW)
        .initial_connection_window_size(limits::CONNECTION_WINDOW)
        .max_frame_size(limits::MAX_FRAME)
        .max_header_list_size(limits::MAX_HEADERS)
        .max_concurrent_streams(limits::MAX_STREAMS)
        .max_pending_accept_reset_streams(limits::MAX_PENDING_RESETS)
        .max_concurrent_reset_streams(limits::REMEMBERED_RESETS)
        .reset_stream_duration(limits::REMEMBER_RESETS)
        // A count over the life of a connection, and Envoy's live for weeks; `io` counts what comes at once.
        .max_local_error_reset_streams(None)
        .data_frame_budget(limits::FRAME_OVERHEAD);
    let mut shaking = pin!(builder.handshake::<_, Piece>(io.clone()));
    let done = poll_fn(|cx| {
        let result = shaking.as_mut().poll(cx);
        match io.poll_out(cx) {
            Poll::Ready(Err(_)) => Poll::Ready(None),
            _ => result.map(Result::ok),
        }
    });
    timeout(limits::HANDSHAKE, done).await.ok().flatten()
}

struct Driver<S> {
    connection: Connection<Buffered<S>, Piece>,
    io: Buffered<S>,
    serves: Serves,
    tick: Interval,
    silent: u32,
    draining: bool,
}

impl<S: AsyncRead + AsyncWrite + Unpin + 'static> Driver<S> {
    /// Read, start what is new, write. Ready at the connection's end; an error is one for the log.
    fn turn<L: Logic>(&mut self, cx: &mut Context<'_>, shared: &Arc<Shared<L>>) -> Poll<Result<(), String>> {
        self.io.begin_turn();
        let end = loop {
            match self.connection.poll_accept(cx) {
                Poll::Ready(Some(Ok((request, respond)))) => {
                    drop(spawn_local(answer(Arc::clone(shared), self.serves, request, respond)));
                }
                Poll::Ready(Some(Err(error))) => break Poll::Ready(worth_a_line(&error)),
                Poll::Ready(None) => break Poll::Ready(Ok(())),
                Poll::Pending => break Poll::Pending,
            }
        };
        let written = self.io.poll_out(cx);
        if end.is_ready() {
            return end; // what could not be written at once, a GOAWAY say, need not be
        }
        if let Poll::Ready(Err(_)) = written {
            return Poll::Ready(Ok(()));
        }
        while self.tick.poll_tick(cx).is_ready() {
            if self.is_dead() {
                return Poll::Ready(Ok(()));
            }
        }
        Poll::Pending
    }

    fn is_dead(&mut self) -> bool {
        self.silent = if self.io.take_heard() { 0 } else { self.silent + 1 };
        if self.silent == limits::SILENT_TICKS
            && let Some(mut ping) = self.connection.ping_pong()
        {
            // The answer is noticed like any other byte.
            let _ = ping.send_ping(h2::Ping::opaque());
        }
        self.silent >= limits::DEAD_TICKS
    }

    fn look_at(&mut self, phase: Phase) {
        if phase != Phase::Serving && self.serves == listen::Serves::Everything && !self.draining {
            self.draining = true;
            self.connection.graceful_shutdown();
        }
    }
}

fn worth_a_line(error: &h2::Error) -> Result<(), String> {
    match error.get_io() {
        Some(error) if error.kind() != io::ErrorKind::Other => Ok(()), // the client left
        _ => Err(error.to_string()),
    }
}
