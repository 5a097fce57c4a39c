//! Threads, sockets, and the handle by which a server is watched and stopped.

use std::cell::Cell;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rollouts_core::stream::Logic;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::{LocalSet, spawn_local};

use crate::connection;
use crate::framing::Sum;
use crate::limits::{FAREWELL, LEAST_WAITING, WORKERS};
use crate::panics::{self, Told, survived};
use crate::places::{Place, Places, Reason};
use crate::tls::Certificates;
use crate::{Clock, Config, Event};

/// What a listener's connections may call.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Serves {
    /// The picker, and its health.
    Everything,
    /// Its health alone.
    Health,
}

impl Serves {
    /// The name of such a port in log and metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Everything => "grpc",
            Self::Health => "health",
        }
    }

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
    /// Streams that are open.
    pub(crate) streams: Arc<AtomicUsize>,
    pub(crate) told: Told,
    phase: watch::Receiver<Phase>,
    places: Arc<Places>,
}

impl<L> Shared<L> {
    pub(crate) fn phase(&self) -> Phase {
        *self.phase.borrow()
    }

    /// Tell what a person should read in the log.
    pub(crate) fn tell(&self, event: Event) {
        (self.told.events)(event);
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
            streams: Arc::default(),
            told: Told { failures: Arc::default(), events: Arc::new(|_| {}) },
            phase,
            places: Arc::new(Places::new(1)),
        };
        (Arc::new(shared), sender)
    }
}

/// A socket for a thread that serves.
struct Job {
    socket: std::net::TcpStream,
    certificates: Option<Arc<Certificates>>,
    serves: Serves,
    place: Place,
}

/// What a server has counted, for as long as one wants to know.
#[derive(Clone)]
pub struct Figures {
    places: Arc<Places>,
    failures: Arc<AtomicU64>,
    streams: Arc<AtomicUsize>,
}

impl Figures {
    /// Panics of ours: each is a bug.
    #[must_use]
    pub fn failures(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }

    /// Streams of the picker that are open.
    #[must_use]
    pub fn streams(&self) -> usize {
        self.streams.load(Ordering::Relaxed)
    }

    /// Connections that are open, and that may be.
    #[must_use]
    pub fn connections(&self, serves: Serves) -> (usize, usize) {
        (self.places.open(serves), self.places.most(serves))
    }

    /// Connections that ended, by why.
    pub fn closed(&self, serves: Serves) -> impl Iterator<Item = (&'static str, u64)> {
        self.places.closed(serves)
    }
}

/// A server that runs. Dropping it stops it without grace.
pub struct Handle {
    /// Where it listens.
    pub port: u16,
    /// Where it serves health without TLS; 0 when it does not.
    pub health_port: u16,
    phase: watch::Sender<Phase>,
    figures: Figures,
    threads: Vec<JoinHandle<()>>,
}

impl Handle {
    /// What is counted, also after the end.
    #[must_use]
    pub fn figures(&self) -> &Figures {
        &self.figures
    }

    /// Tell those who watch health that `Logic::ready` may say something else.
    pub fn announce(&self) {
        self.phase.send_modify(|_| {});
    }

    /// Say NOT_SERVING, take no new connections and streams, give running ones `grace`, then end everything. Blocks.
    pub fn drain(&mut self, grace: Duration) {
        self.phase.send_replace(Phase::Draining);
        self.figures.places.wait(grace);
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
    let places = Arc::new(Places::new(config.max_connections));
    let told = Told { failures: Arc::default(), events: config.events };
    let streams = Arc::default();
    let figures =
        Figures { places: Arc::clone(&places), failures: Arc::clone(&told.failures), streams: Arc::clone(&streams) };
    let shared = Arc::new(Shared {
        logic,
        clock: Clock::starting(config.clock),
        max_message: config.max_message,
        request_timeout: config.request_timeout,
        waiting: Sum::new(config.max_waiting.max(config.max_message * LEAST_WAITING)),
        queued: Arc::new(Sum::new(config.max_queued)),
        streams,
        told: told.clone(),
        phase: changes,
        places,
    });
    let mut threads = Vec::new();
    let mut workers = Vec::new();
    for index in 0..config.threads.max(1) {
        let (jobs, queue) = mpsc::unbounded_channel();
        let shared = Arc::clone(&shared);
        threads.push(spawn(format!("picker-serve-{index}"), told.clone(), move || work(shared, queue))?);
        workers.push(jobs);
    }
    let accepting = move || accept_all(shared, listeners, certificates, health, workers);
    threads.push(spawn("picker-accept".to_owned(), told, accepting)?);
    Ok(Handle { port, health_port, phase, figures, threads })
}

/// A thread with a runtime of its own.
fn spawn<F: Future<Output = ()>>(
    name: String,
    told: Told,
    work: impl FnOnce() -> F + Send + 'static,
) -> io::Result<JoinHandle<()>> {
    let beside = told.clone(); // threads for long work
    let runtime: Runtime = Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .max_blocking_threads(WORKERS)
        .thread_name(format!("{name}-work"))
        .on_thread_start(move || panics::tell(beside.clone()))
        .build()?;
    thread::Builder::new().name(name).spawn(move || {
        panics::tell(told);
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
    let mut starting = async || {
        while let Some(job) = queue.recv().await {
            mine.count.set(mine.count.get() + 1);
            let one = OneOfMine(Rc::clone(&mine));
            let shared = Arc::clone(&shared);
            drop(spawn_local(async move {
                let _one = one;
                begin(shared, job).await;
            }));
        }
    };
    let starting = async { while survived(starting()).await.is_none() {} }; // a thread that is lost takes its clients along
    first(starting, stopped(shared.changes(), |phase| phase == Phase::Stopped)).await;
    // Each connection tells its client, and ends by itself.
    let ending = async {
        while mine.count.get() > 0 {
            mine.none.notified().await;
        }
    };
    let _ = tokio::time::timeout(2 * FAREWELL, ending).await;
}

/// Serve one connection until it ends.
async fn begin<L: Logic>(shared: Arc<Shared<L>>, job: Job) {
    let mut place = job.place;
    let Ok(socket) = TcpStream::from_std(job.socket) else { return };
    let progress = Arc::clone(&place.progress);
    let serving = connection::serve(Arc::clone(&shared), job.serves, progress, socket, job.certificates);
    let ended = survived(serving).await.unwrap_or(Reason::Failed.into());
    place.ended = ended.reason;
    if let Some(error) = ended.error {
        shared.tell(Event::ConnectionRefused(error));
    }
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
        Err(error) => return shared.tell(Event::ConnectionRefused(format!("cannot listen: {error}"))),
    };
    let mut turn = 0;
    let mut crowd = Crowd::new(serves, shared.places.most(serves));
    let mut taking = async || {
        loop {
            shared.places.left(serves).await;
            let Ok((socket, _)) = listener.accept().await else {
                tokio::time::sleep(OUT_OF_FILES).await;
                continue;
            };
            let place = shared.places.enter(serves);
            crowd.look(shared);
            let Some(place) = place else { continue };
            let _ = socket.set_nodelay(true);
            if let Ok(socket) = socket.into_std() {
                let job = Job { socket, certificates: certificates.clone(), serves, place };
                let _ = workers[turn % workers.len()].send(job);
                turn += 1;
            }
        }
    };
    while survived(taking()).await.is_none() {
        tokio::time::sleep(OUT_OF_FILES).await;
    }
}

/// Says once in a while that all places are taken.
struct Crowd {
    serves: Serves,
    limit: usize,
    told: Option<Instant>,
    displaced: u64,
    refused: u64,
}

impl Crowd {
    fn new(serves: Serves, limit: usize) -> Self {
        Self { serves, limit, told: None, displaced: 0, refused: 0 }
    }

    fn look<L>(&mut self, shared: &Shared<L>) {
        if self.told.is_some_and(|told| told.elapsed() < FULL_AGAIN) {
            return;
        }
        let (mut displaced, mut refused) = (0, 0);
        for (reason, count) in shared.places.closed(self.serves) {
            displaced += if reason.starts_with("displaced") { count } else { 0 };
            refused += if reason == "full" { count } else { 0 };
        }
        if (displaced, refused) == (self.displaced, self.refused) {
            return;
        }
        self.told = Some(Instant::now());
        shared.tell(Event::ConnectionsFull {
            port: self.serves.name(),
            limit: self.limit,
            displaced: (displaced - self.displaced) as usize,
            refused: (refused - self.refused) as usize,
        });
        (self.displaced, self.refused) = (displaced, refused);
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
