//! Threads, sockets, and the handle by which a server is watched and stopped.

use std::cell::Cell;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rollouts_core::stream::Logic;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{Notify, Semaphore, mpsc, watch};
use tokio::task::{LocalSet, spawn_local};

use crate::connection;
use crate::framing::Sum;
use crate::limits::{FAREWELL, LEAST_WAITING, MAX_HANDSHAKES, MAX_HEALTH_CONNECTIONS, WORKERS};
use crate::tls::Certificates;
use crate::{Clock, Config, Event};

/// What a listener's connections may call.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Serves {
    Everything,
    Health,
}

impl Serves {
    /// Whether such connections begin no more, and end when they can.
    pub(crate) fn ends_at(self, phase: Phase) -> bool {
        phase == Phase::Stopped || self == Self::Everything && phase == Phase::Draining
    }
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
    pub(crate) waiting: Sum,
    pub(crate) queued: Arc<Sum>,
    pub(crate) handshakes: Semaphore,
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

#[cfg(test)]
impl<L: Logic> Shared<L> {
    /// As a server's without threads, and what changes its phase.
    pub(crate) fn alone(logic: Arc<L>) -> (Arc<Self>, watch::Sender<Phase>) {
        let (sender, phase) = watch::channel(Phase::Serving);
        let shared = Self {
            logic,
            clock: Clock::starting(0.0),
            max_message: 1 << 20,
            request_timeout: Duration::from_secs(120),
            waiting: Sum::new(16 << 20),
            queued: Arc::new(Sum::new(2 << 20)),
            handshakes: Semaphore::new(MAX_HANDSHAKES),
            failures: Arc::default(),
            events: Arc::new(|_| {}),
            phase,
            live: Arc::new(Live::new(1)),
        };
        (Arc::new(shared), sender)
    }
}

/// Connections that are open, by what they serve. A drain waits for the end of those that serve everything.
struct Live {
    most: [usize; 2],
    counts: Mutex<[usize; 2]>,
    changed: Condvar,
}

impl Live {
    fn new(max_connections: usize) -> Self {
        Self { most: [max_connections, MAX_HEALTH_CONNECTIONS], counts: Mutex::default(), changed: Condvar::new() }
    }

    fn counts(&self) -> MutexGuard<'_, [usize; 2]> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enter(self: &Arc<Self>, serves: Serves) -> Option<Alive> {
        let mut counts = self.counts();
        if counts[serves as usize] >= self.most[serves as usize] {
            return None;
        }
        counts[serves as usize] += 1;
        Some(Alive { live: Arc::clone(self), serves })
    }

    /// Wait until nothing is served, or until `grace` is over.
    fn wait(&self, grace: Duration) {
        let serving = |counts: &mut [usize; 2]| counts[Serves::Everything as usize] > 0;
        drop(self.changed.wait_timeout_while(self.counts(), grace, serving));
    }
}

struct Alive {
    live: Arc<Live>,
    serves: Serves,
}

impl Drop for Alive {
    fn drop(&mut self) {
        self.live.counts()[self.serves as usize] -= 1;
        self.live.changed.notify_all();
    }
}

/// A socket for a thread that serves.
struct Job {
    socket: std::net::TcpStream,
    certificates: Option<Arc<Certificates>>,
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

    /// Where `failures` are counted, for as long as one wants to know.
    #[must_use]
    pub fn failure_count(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.failures)
    }

    /// Connections that are open.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.live.counts().iter().sum()
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

/// Listen, and serve until the handle is drained or dropped. Fails when an address is taken, or without a certificate.
pub fn serve<L: Logic>(logic: Arc<L>, config: Config) -> io::Result<Handle> {
    let certificates = config.tls.map(Certificates::load).transpose()?.map(Arc::new);
    let (listeners, port) = bind(&config.address, "--grpc-address")?;
    let (health, health_port) =
        config.health_address.map_or(Ok((Vec::new(), 0)), |addresses| bind(&addresses, "--health-address"))?;
    let (phase, changes) = watch::channel(Phase::Serving);
    let failures = Arc::new(AtomicU64::new(0));
    let live = Arc::new(Live::new(config.max_connections));
    let shared = Arc::new(Shared {
        logic,
        clock: Clock::starting(config.clock),
        max_message: config.max_message,
        request_timeout: config.request_timeout,
        waiting: Sum::new(config.max_waiting.max(config.max_message * LEAST_WAITING)),
        queued: Arc::new(Sum::new(config.max_queued)),
        handshakes: Semaphore::new(MAX_HANDSHAKES),
        failures: Arc::clone(&failures),
        events: config.events,
        phase: changes,
        live: Arc::clone(&live),
    });
    let mut threads = Vec::new();
    let mut workers = Vec::new();
    for index in 0..config.threads.max(1) {
        let (jobs, queue) = mpsc::unbounded_channel();
        let shared = Arc::clone(&shared);
        threads.push(spawn(format!("picker-serve-{index}"), move || work(shared, queue))?);
        workers.push(jobs);
    }
    let accepting = move || accept_all(shared, listeners, certificates, health, workers);
    threads.push(spawn("picker-accept".to_owned(), accepting)?);
    Ok(Handle { port, health_port, phase, live, failures, threads })
}

/// A thread with a runtime of its own.
fn spawn<F: Future<Output = ()>>(
    name: String,
    work: impl FnOnce() -> F + Send + 'static,
) -> io::Result<JoinHandle<()>> {
    let runtime: Runtime =
        Builder::new_current_thread().enable_io().enable_time().max_blocking_threads(WORKERS).build()?;
    thread::Builder::new().name(name).spawn(move || {
        let tasks = LocalSet::new();
        tasks.block_on(&runtime, work());
        // Streams that are still open are dropped here, and each tells its logic so.
        drop(tasks);
        runtime.shutdown_background(); // a file that cannot be read keeps nobody
    })
}

async fn stopped(mut phase: watch::Receiver<Phase>, until: impl Fn(Phase) -> bool) {
    let _ = phase.wait_for(|phase| until(*phase)).await;
}

/// Connections of one thread.
#[derive(Default)]
struct Mine {
    count: Cell<usize>,
    none: Notify,
}

struct OneOfMine(Rc<Mine>);

impl Drop for OneOfMine {
    fn drop(&mut self) {
        self.0.count.set(self.0.count.get() - 1);
        if self.0.count.get() == 0 {
            self.0.none.notify_waiters();
        }
    }
}

async fn work<L: Logic>(shared: Arc<Shared<L>>, mut queue: mpsc::UnboundedReceiver<Job>) {
    let mine = Rc::new(Mine::default());
    let starting = async {
        while let Some(job) = queue.recv().await {
            let shared = Arc::clone(&shared);
            mine.count.set(mine.count.get() + 1);
            let one = OneOfMine(Rc::clone(&mine));
            drop(spawn_local(async move {
                let (_alive, _one) = (job.alive, one);
                if let Ok(socket) = TcpStream::from_std(job.socket) {
                    connection::serve(shared, job.serves, socket, job.certificates).await;
                }
            }));
        }
    };
    first(starting, stopped(shared.changes(), |phase| phase == Phase::Stopped)).await;
    // Each connection tells its client, and ends by itself.
    let ending = async {
        while mine.count.get() > 0 {
            mine.none.notified().await;
        }
    };
    let _ = tokio::time::timeout(2 * FAREWELL, ending).await;
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
    listeners: Vec<std::net::TcpListener>,
    certificates: Option<Arc<Certificates>>,
    health: Vec<std::net::TcpListener>,
    workers: Vec<mpsc::UnboundedSender<Job>>,
) {
    let workers = Rc::new(workers);
    let all = listeners.into_iter().map(|listener| (listener, Serves::Everything, certificates.clone()));
    let all = all.chain(health.into_iter().map(|listener| (listener, Serves::Health, None)));
    for (listener, serves, certificates) in all {
        let (shared, workers) = (Arc::clone(&shared), Rc::clone(&workers));
        drop(spawn_local(async move {
            let accepting = accept(&shared, listener, serves, certificates, &workers);
            first(accepting, stopped(shared.changes(), |phase| serves.ends_at(phase))).await; // closes the listener
        }));
    }
    stopped(shared.changes(), |phase| phase == Phase::Stopped).await;
}

async fn accept<L: Logic>(
    shared: &Shared<L>,
    listener: std::net::TcpListener,
    serves: Serves,
    certificates: Option<Arc<Certificates>>,
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
                (shared.events)(Event::ConnectionRefused(format!(
                    "{} connections are open",
                    shared.live.most[serves as usize]
                )));
            }
            continue;
        };
        let _ = socket.set_nodelay(true);
        if let Ok(socket) = socket.into_std() {
            let _ =
                workers[turn % workers.len()].send(Job { socket, certificates: certificates.clone(), serves, alive });
            turn += 1;
        }
    }
}

/// `accept` fails when files run out: wait for some to be closed.
const OUT_OF_FILES: Duration = Duration::from_millis(50);

/// How often it is said that no connection is taken.
const FULL_AGAIN: Duration = Duration::from_secs(10);

/// Addresses as the command line gives them, `HOST:PORT`, `[::]:PORT`: all that the name stands for.
pub fn resolve(address: &str) -> io::Result<Vec<SocketAddr>> {
    use std::net::ToSocketAddrs;
    let found: Vec<SocketAddr> = address.to_socket_addrs()?.collect();
    if found.is_empty() { Err(io::Error::other(format!("no address for {address}"))) } else { Ok(found) }
}

/// Connections that wait to be accepted.
const BACKLOG: i32 = 1_024;

/// Listen on all of these that this machine has, at least one, on the same port. Taken ones are an error.
fn bind(addresses: &[SocketAddr], option: &str) -> io::Result<(Vec<std::net::TcpListener>, u16)> {
    let told = |address: SocketAddr, error: io::Error| {
        io::Error::new(error.kind(), format!("cannot listen on {address}: {error}; choose another {option}"))
    };
    let mut listeners = Vec::new();
    let mut port = 0;
    let mut last = io::Error::other("no address to listen on");
    for address in addresses {
        let mut address = *address;
        if address.port() == 0 {
            address.set_port(port);
        }
        match listen(address) {
            Ok(listener) => {
                port = listener.local_addr()?.port();
                listeners.push(listener);
            }
            Err(error) if is_final(&error) => return Err(told(address, error)),
            Err(error) => last = told(address, error),
        }
    }
    if listeners.is_empty() { Err(last) } else { Ok((listeners, port)) }
}

/// Not merely a family or an address that this machine does not have.
fn is_final(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::AddrInUse | io::ErrorKind::PermissionDenied)
}

/// The wildcard of either family stands for both, as in gRPC's other servers.
fn listen(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    if !address.ip().is_unspecified() {
        return listen_on(address);
    }
    match listen_on((Ipv6Addr::UNSPECIFIED, address.port()).into()) {
        Err(error) if !is_final(&error) => listen_on((Ipv4Addr::UNSPECIFIED, address.port()).into()),
        found => found,
    }
}

fn listen_on(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(!address.ip().is_unspecified())?;
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn health_has_a_limit_of_its_own() {
        let live = Arc::new(Live::new(1));
        let held: Vec<_> = (0..MAX_HEALTH_CONNECTIONS).map_while(|_| live.enter(Serves::Health)).collect();
        assert_eq!(held.len(), MAX_HEALTH_CONNECTIONS);
        assert!(live.enter(Serves::Health).is_none());
        assert!(live.enter(Serves::Everything).is_some());
        drop(held);
        assert!(live.enter(Serves::Health).is_some());
    }
}
