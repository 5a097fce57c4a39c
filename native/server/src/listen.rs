//! Threads, sockets, and the handle by which a server is watched and stopped.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rollouts_core::stream::Logic;
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{mpsc, watch};
use tokio::task::{LocalSet, spawn_local};

use crate::connection;
use crate::limits::MAX_CONNECTIONS;
use crate::tls::Certificates;
use crate::{Clock, Config, Event};

/// What a listener's connections may call.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Serves {
    Everything,
    Health,
}

/// Where the server is in its life.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Phase {
    Serving,
    Draining,
    Stopped,
}

/// What all threads share.
pub(crate) struct Shared<L> {
    pub(crate) logic: Arc<L>,
    pub(crate) clock: Clock,
    pub(crate) max_message: usize,
    pub(crate) request_timeout: Duration,
    pub(crate) assembling: AtomicUsize,
    pub(crate) failures: Arc<AtomicU64>,
    pub(crate) events: Arc<dyn Fn(Event) + Send + Sync>,
    phase: watch::Receiver<Phase>,
    live: Arc<Live>,
}

impl<L> Shared<L> {
    pub(crate) fn phase(&self) -> Phase {
        *self.phase.borrow()
    }

    /// Changes of phase, and announcements that `Logic::ready` says something else.
    pub(crate) fn changes(&self) -> watch::Receiver<Phase> {
        self.phase.clone()
    }
}

/// Connections that are open: in all, and those whose end a drain waits for.
#[derive(Default)]
struct Live {
    all: AtomicUsize,
    serving: Mutex<usize>,
    changed: Condvar,
}

impl Live {
    fn enter(self: &Arc<Self>, serves: Serves) -> Option<Alive> {
        if self.all.fetch_add(1, Ordering::Relaxed) >= MAX_CONNECTIONS {
            self.all.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        if serves == Serves::Everything {
            *self.serving.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        }
        Some(Alive { live: Arc::clone(self), serves })
    }

    /// Wait until nothing is served, or until `grace` is over.
    fn wait(&self, grace: Duration) {
        let serving = self.serving.lock().unwrap_or_else(PoisonError::into_inner);
        drop(self.changed.wait_timeout_while(serving, grace, |count| *count > 0));
    }
}

struct Alive {
    live: Arc<Live>,
    serves: Serves,
}

impl Drop for Alive {
    fn drop(&mut self) {
        self.live.all.fetch_sub(1, Ordering::Relaxed);
        if self.serves == Serves::Everything {
            *self.live.serving.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
            self.live.changed.notify_all();
        }
    }
}

/// A socket for a thread that serves.
struct Job {
    socket: std::net::TcpStream,
    tls: Option<Arc<ServerConfig>>,
    serves: Serves,
    alive: Alive,
}

/// A server that runs. Dropping it stops it without grace.
pub struct Handle {
    /// Where it listens.
    pub port: u16,
    /// Where it serves health without TLS; 0 when it does not.
    pub health_port: u16,
    phase: watch::Sender<Phase>,
    live: Arc<Live>,
    failures: Arc<AtomicU64>,
    threads: Vec<JoinHandle<()>>,
}

impl Handle {
    /// Streams that ended with a panic of ours: each is a bug.
    #[must_use]
    pub fn failures(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }

    /// Connections that are open.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.live.all.load(Ordering::Relaxed)
    }

    /// Tell those who watch health that `Logic::ready` may say something else.
    pub fn announce(&self) {
        self.phase.send_modify(|_| {});
    }

    /// Say NOT_SERVING, take no new connections and streams, give running ones `grace`, then end everything. Blocks.
    pub fn drain(&mut self, grace: Duration) {
        self.phase.send_replace(Phase::Draining);
        self.live.wait(grace);
        self.phase.send_replace(Phase::Stopped);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.drain(Duration::ZERO);
    }
}

fn bind(address: SocketAddr, option: &str) -> io::Result<std::net::TcpListener> {
    let told = |error: io::Error| {
        io::Error::new(error.kind(), format!("cannot listen on {address}: {error}; choose another {option}"))
    };
    std::net::TcpListener::bind(address).map_err(told)
}

/// Listen, and serve until the handle is drained or dropped. Fails when an address is taken, or without a certificate.
pub fn serve<L: Logic>(logic: Arc<L>, config: Config) -> io::Result<Handle> {
    let certificates = config.tls.map(Certificates::load).transpose()?;
    let listener = bind(config.address, "--grpc-address")?;
    let health = config.health_address.map(|address| bind(address, "--health-address")).transpose()?;
    let port = listener.local_addr()?.port();
    let health_port = health.as_ref().map(std::net::TcpListener::local_addr).transpose()?.map_or(0, |at| at.port());
    let (phase, changes) = watch::channel(Phase::Serving);
    let failures = Arc::new(AtomicU64::new(0));
    let live = Arc::new(Live::default());
    let shared = Arc::new(Shared {
        logic,
        clock: Clock::starting(config.clock),
        max_message: config.max_message,
        request_timeout: config.request_timeout,
        assembling: AtomicUsize::new(0),
        failures: Arc::clone(&failures),
        events: config.events,
        phase: changes,
        live: Arc::clone(&live),
    });
    let mut threads = Vec::new();
    let mut workers = Vec::new();
    for index in 0..config.threads.max(1) {
        let (jobs, queue) = mpsc::unbounded_channel();
        threads.push(spawn(format!("picker-serve-{index}"), work(Arc::clone(&shared), queue))?);
        workers.push(jobs);
    }
    let accepting = accept_all(Arc::clone(&shared), listener, certificates, health, workers);
    threads.push(spawn("picker-accept".to_owned(), accepting)?);
    Ok(Handle { port, health_port, phase, live, failures, threads })
}

/// A thread with a runtime of its own.
fn spawn(name: String, work: impl Future<Output = ()> + Send + 'static) -> io::Result<JoinHandle<()>> {
    let runtime: Runtime = Builder::new_current_thread().enable_io().enable_time().build()?;
    thread::Builder::new().name(name).spawn(move || {
        let tasks = LocalSet::new();
        tasks.block_on(&runtime, work);
        // Streams that are still open are dropped here, and each tells its logic so.
        drop(tasks);
    })
}

async fn stopped(mut phase: watch::Receiver<Phase>, until: impl Fn(Phase) -> bool) {
    let _ = phase.wait_for(|phase| until(*phase)).await;
}

async fn work<L: Logic>(shared: Arc<Shared<L>>, mut queue: mpsc::UnboundedReceiver<Job>) {
    let starting = async {
        while let Some(job) = queue.recv().await {
            let shared = Arc::clone(&shared);
            drop(spawn_local(async move {
                let _alive = job.alive;
                if let Ok(socket) = TcpStream::from_std(job.socket) {
                    connection::serve(shared, job.serves, socket, job.tls).await;
                }
            }));
        }
    };
    first(starting, stopped(shared.changes(), |phase| phase == Phase::Stopped)).await;
}

/// Wait for either.
async fn first(one: impl Future<Output = ()>, other: impl Future<Output = ()>) {
    let mut one = std::pin::pin!(one);
    let mut other = std::pin::pin!(other);
    std::future::poll_fn(|cx| {
        if one.as_mut().poll(cx).is_ready() { std::task::Poll::Ready(()) } else { other.as_mut().poll(cx) }
    })
    .await;
}

async fn accept_all<L: Logic>(
    shared: Arc<Shared<L>>,
    listener: std::net::TcpListener,
    certificates: Option<Certificates>,
    health: Option<std::net::TcpListener>,
    workers: Vec<mpsc::UnboundedSender<Job>>,
) {
    let workers = Arc::new(workers);
    if let Some(health) = health {
        let (shared, workers) = (Arc::clone(&shared), Arc::clone(&workers));
        drop(spawn_local(async move {
            accept(&shared, health, Serves::Health, None, &workers).await;
        }));
    }
    let accepting = accept(&shared, listener, Serves::Everything, certificates, &workers);
    first(accepting, stopped(shared.changes(), |phase| phase != Phase::Serving)).await; // closes the listener
    stopped(shared.changes(), |phase| phase == Phase::Stopped).await;
}

async fn accept<L: Logic>(
    shared: &Shared<L>,
    listener: std::net::TcpListener,
    serves: Serves,
    mut certificates: Option<Certificates>,
    workers: &[mpsc::UnboundedSender<Job>],
) {
    let listener = match listener.set_nonblocking(true).and_then(|()| TcpListener::from_std(listener)) {
        Ok(listener) => listener,
        Err(error) => return (shared.events)(Event::ConnectionRefused(format!("cannot listen: {error}"))),
    };
    let mut turn = 0;
    let mut told = Instant::now() - FULL_AGAIN;
    loop {
        let Ok((socket, _)) = listener.accept().await else {
            tokio::time::sleep(OUT_OF_FILES).await;
            continue;
        };
        let Some(alive) = shared.live.enter(serves) else {
            if told.elapsed() >= FULL_AGAIN {
                told = Instant::now();
                (shared.events)(Event::ConnectionRefused(format!("{MAX_CONNECTIONS} connections are open")));
            }
            continue;
        };
        let _ = socket.set_nodelay(true);
        let tls = certificates.as_mut().map(|certificates| certificates.current(&*shared.events));
        if let Ok(socket) = socket.into_std() {
            let _ = workers[turn % workers.len()].send(Job { socket, tls, serves, alive });
            turn += 1;
        }
    }
}

/// `accept` fails when files run out: wait for some to be closed.
const OUT_OF_FILES: Duration = Duration::from_millis(50);

/// How often it is said that no connection is taken.
const FULL_AGAIN: Duration = Duration::from_secs(10);

/// Addresses as the command line gives them: `HOST:PORT`, `[::]:PORT`.
pub fn resolve(address: &str) -> io::Result<SocketAddr> {
    use std::net::ToSocketAddrs;
    address.to_socket_addrs()?.next().ok_or_else(|| io::Error::other(format!("no address for {address}")))
}
