//! The server, as Python starts, watches and stops it. None of its threads ever takes the GIL.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use pyo3::exceptions::{PyOSError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyDict;
use rollouts_core::encoding::Encoded;
use rollouts_server::limits::{MAX_CONNECTIONS, PER_CONNECTION, PER_TLS_SESSION};
use rollouts_server::{Config, Event, Figures, Flow, Handle, Logic, Pair, Serves, StreamLogic, TlsSource, resolve};

use crate::picker::Picker;

/// Events that wait to be read; more are dropped and counted, for a flood of them says nothing new.
const MAX_EVENTS: usize = 1_000;

/// As many threads as there are cores, but no more than that: a gateway has about as many connections.
const MAX_THREADS: usize = 8;

/// What the transport may take beside held bodies, in parts of the limit on those: as much is left for it (`memory.py`).
const WAITING: usize = 2;
const QUEUED: usize = 8;
const CONNECTIONS: usize = 4;

/// Fewer than this do not serve the threads of a few gateways.
const LEAST_CONNECTIONS: usize = 64;

/// What is to be logged when Python asks.
#[derive(Default)]
struct Events {
    queue: Mutex<VecDeque<Event>>,
    dropped: AtomicU64,
}

impl Events {
    fn queue(&self) -> MutexGuard<'_, VecDeque<Event>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, event: Event) {
        let mut queue = self.queue();
        if queue.len() < MAX_EVENTS {
            queue.push_back(event);
        } else {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// A server that runs.
#[pyclass(frozen, module = "inference_rollouts_native")]
pub struct Server {
    handle: Mutex<Option<Handle>>,
    events: Arc<Events>,
    /// Kept when the server has stopped: what failed at the very end is to be seen too.
    figures: Figures,
    /// Where it listens.
    #[pyo3(get)]
    port: u16,
    /// Where it serves health without TLS; 0 when it does not.
    #[pyo3(get)]
    health_port: u16,
}

/// Where and how to serve, as `rollouts.picker.server.ServerConfig` has it.
struct Options {
    address: String,
    health_address: String,
    pair: Option<(Vec<u8>, Vec<u8>)>,
    folder: Option<PathBuf>,
    client_ca: Option<PathBuf>,
    max_message: usize,
    beside: usize,
    request_timeout: f64,
    threads: usize,
    now: f64,
}

impl Options {
    fn tls(&mut self) -> Option<TlsSource> {
        let given = self.pair.take().map(|(key, certificate)| Pair::Given { certificate, key });
        let pair = self.folder.take().map(Pair::Folder).or(given)?;
        Some(TlsSource { pair, client_ca: self.client_ca.take() })
    }
}

/// Listen. Raises OSError when an address is taken or none, or there is no certificate.
fn start<L: Logic>(py: Python<'_>, logic: Arc<L>, mut options: Options) -> PyResult<Server> {
    let address =
        |text: &str| resolve(text).map_err(|error| PyOSError::new_err(format!("cannot listen on {text}: {error}")));
    let cores = std::thread::available_parallelism().map_or(1, usize::from).min(MAX_THREADS);
    let events = Arc::new(Events::default());
    let told = Arc::clone(&events);
    let tls = options.tls();
    let each = PER_CONNECTION + if tls.is_some() { PER_TLS_SESSION } else { 0 };
    let config = Config {
        address: address(&options.address)?,
        health_address: match &*options.health_address {
            "" => None,
            text => Some(address(text)?),
        },
        tls,
        max_message: options.max_message,
        max_waiting: options.beside / WAITING,
        max_queued: options.beside / QUEUED,
        max_connections: (options.beside / CONNECTIONS / each).clamp(LEAST_CONNECTIONS, MAX_CONNECTIONS),
        request_timeout: Duration::try_from_secs_f64(options.request_timeout)
            .map_err(|error| PyValueError::new_err(error.to_string()))?,
        threads: if options.threads == 0 { cores } else { options.threads },
        clock: options.now,
        events: Arc::new(move |event| told.push(event)),
    };
    let handle = py.detach(|| rollouts_server::serve(logic, config))?;
    let (port, health_port, figures) = (handle.port, handle.health_port, handle.figures().clone());
    Ok(Server { handle: Mutex::new(Some(handle)), events, figures, port, health_port })
}

#[pymethods]
impl Server {
    /// What a person should read in the log, since this was asked last: pairs of an event's name and its keys.
    fn events<'py>(&self, py: Python<'py>) -> PyResult<Vec<(&'static str, Bound<'py, PyDict>)>> {
        let taken = std::mem::take(&mut *self.events.queue());
        taken.into_iter().map(|event| named(py, event)).collect()
    }

    /// Events that nobody will read, for too many waited.
    #[getter]
    fn dropped_events(&self) -> u64 {
        self.events.dropped.load(Ordering::Relaxed)
    }

    /// Bugs of ours: streams that ended with one, and panics elsewhere.
    #[getter]
    fn failures(&self) -> u64 {
        self.figures.failures()
    }

    /// Streams of the picker that are open.
    #[getter]
    fn streams(&self) -> usize {
        self.figures.streams()
    }

    /// By port, `grpc` and `health`: connections that are open, those that may be, and those that ended, by reason.
    fn connections(&self) -> Vec<Connections> {
        let ports = [Serves::Everything, Serves::Health];
        let used = ports.into_iter().filter(|port| *port == Serves::Everything || self.health_port > 0);
        used.map(|port| {
            let (open, limit) = self.figures.connections(port);
            (port.name(), open, limit, self.figures.closed(port).collect())
        })
        .collect()
    }

    /// Tell those who watch health that the picker's readiness has changed.
    fn announce(&self) {
        self.with(Handle::announce);
    }

    /// Say NOT_SERVING, take no new streams, give running ones `grace` seconds, end all. Blocks, without the GIL.
    fn stop(&self, py: Python<'_>, grace: f64) {
        let taken = self.handle.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(mut handle) = taken {
            let grace = Duration::try_from_secs_f64(grace).unwrap_or_default();
            py.detach(move || handle.drain(grace));
        }
    }
}

impl Server {
    fn with<R>(&self, ask: impl FnOnce(&Handle) -> R) -> Option<R> {
        self.handle.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map(ask)
    }
}

type Connections = (&'static str, usize, usize, Vec<(&'static str, u64)>);

/// The names are those of `rollouts/picker/server.py` where it has such an event.
fn named(py: Python<'_>, event: Event) -> PyResult<(&'static str, Bound<'_, PyDict>)> {
    let keys = PyDict::new(py);
    let name = match event {
        Event::RequestTimedOut { state, seconds } => {
            keys.set_item("state", state)?;
            keys.set_item("seconds", seconds)?;
            "request_timed_out"
        }
        Event::StreamRefused { state, error } => {
            keys.set_item("state", state)?;
            keys.set_item("error", error)?;
            "stream_refused"
        }
        Event::StreamFailed { state, exception } => {
            keys.set_item("state", state)?;
            keys.set_item("exception", exception)?;
            "stream_failed"
        }
        Event::Panicked { thread, exception } => {
            keys.set_item("thread", thread)?;
            keys.set_item("exception", exception)?;
            "panicked"
        }
        Event::ConnectionRefused(error) => {
            keys.set_item("error", error)?;
            "connection_refused"
        }
        Event::ConnectionsFull { port, limit, displaced, refused } => {
            keys.set_item("port", port)?;
            keys.set_item("limit", limit)?;
            keys.set_item("displaced", displaced)?;
            keys.set_item("refused", refused)?;
            "connections_full"
        }
        Event::CertificateReloaded => "certificate_reloaded",
        Event::CertificateUnreadable(error) => {
            keys.set_item("error", error)?;
            "certificate_unreadable"
        }
    };
    Ok((name, keys))
}

/// Serve `picker` on `address`, HOST:PORT, and health once more on `health_address` unless that is empty.
///
/// `pair`: private key and certificates, both PEM; `folder`: one with tls.key and tls.crt, read again when they change;
/// neither: no TLS. `client_ca`: PEM file of the authorities whose clients may connect. `threads`: 0 for one per core.
/// `request_timeout`: seconds; `now`: of time.monotonic(). Raises OSError when it cannot listen, ValueError for a
/// bad value.
#[pyfunction]
#[pyo3(signature = (picker, address, *, now, health_address="", pair=None, folder=None, client_ca=None,
                    max_message=8 << 20, request_timeout=120.0, threads=0))]
#[allow(clippy::too_many_arguments)] // keywords in Python
pub fn serve(
    py: Python<'_>,
    picker: &Picker,
    address: String,
    now: f64,
    health_address: &str,
    pair: Option<(Vec<u8>, Vec<u8>)>,
    folder: Option<PathBuf>,
    client_ca: Option<PathBuf>,
    max_message: usize,
    request_timeout: f64,
    threads: usize,
) -> PyResult<Server> {
    let health_address = health_address.to_owned();
    let options = Options {
        beside: picker.core.budget().total_limit,
        address,
        health_address,
        pair,
        folder,
        client_ca,
        max_message,
        request_timeout,
        threads,
        now,
    };
    start(py, Arc::clone(&picker.core), options)
}

/// A server whose streams panic at their first message, for the tests of what is said and counted then.
#[pyfunction]
#[pyo3(signature = (address, *, now))]
pub fn serve_failing(py: Python<'_>, address: String, now: f64) -> PyResult<Server> {
    let options = Options {
        beside: 64 << 20,
        address,
        health_address: String::new(),
        pair: None,
        folder: None,
        client_ca: None,
        max_message: 8 << 20,
        request_timeout: 120.0,
        threads: 1,
        now,
    };
    start(py, Arc::new(Failing), options)
}

struct Failing;
struct FailingStream;

impl Logic for Failing {
    type Stream = FailingStream;

    fn open(&self, _: f64) -> FailingStream {
        FailingStream
    }

    fn ready(&self) -> bool {
        true
    }
}

impl StreamLogic for FailingStream {
    fn receive(&mut self, _: Bytes, _: f64, _: &mut Vec<Encoded>) -> Flow {
        panic!("planted")
    }

    fn state(&self) -> &'static str {
        "START"
    }

    fn waiting(&self) -> bool {
        true
    }

    fn expects_response(&self) -> bool {
        false
    }

    fn expire(&mut self, _: f64, _: &mut Vec<Encoded>) {}

    fn half_closed(&mut self, _: f64, _: &mut Vec<Encoded>) {}

    fn closed(&mut self, _: f64) {}
}
