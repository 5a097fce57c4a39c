//! The server, as Python starts, watches and stops it. None of its threads ever takes the GIL.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use pyo3::exceptions::{PyOSError, PyValueError};
use pyo3::prelude::*;
use rollouts_server::limits::{MAX_CONNECTIONS, PER_CONNECTION};
use rollouts_server::{Config, Event, Handle, Logic, Pair, TlsSource, resolve};

use crate::picker::Picker;

/// Events that wait to be read; more are dropped, for a flood of them says nothing new.
const MAX_EVENTS: usize = 1_000;

/// As many threads as there are cores, but no more than that: a gateway has about as many connections.
const MAX_THREADS: usize = 8;

/// What the transport may take beside held bodies, in parts of the limit on those: as much is left for it (`memory.py`).
const WAITING: usize = 2;
const QUEUED: usize = 8;
const CONNECTIONS: usize = 4;

/// Fewer than this do not serve the threads of a few gateways.
const LEAST_CONNECTIONS: usize = 64;

type Events = Arc<Mutex<VecDeque<Event>>>;

/// A server that runs.
#[pyclass(frozen, module = "inference_rollouts_native")]
pub struct Server {
    handle: Mutex<Option<Handle>>,
    events: Events,
    /// Kept when the server has stopped: what failed at the very end is to be seen too.
    failures: Arc<AtomicU64>,
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
    let events = Events::default();
    let queue = Arc::clone(&events);
    let config = Config {
        address: address(&options.address)?,
        health_address: match &*options.health_address {
            "" => None,
            text => Some(address(text)?),
        },
        tls: options.tls(),
        max_message: options.max_message,
        max_waiting: options.beside / WAITING,
        max_queued: options.beside / QUEUED,
        max_connections: (options.beside / CONNECTIONS / PER_CONNECTION).clamp(LEAST_CONNECTIONS, MAX_CONNECTIONS),
        request_timeout: Duration::try_from_secs_f64(options.request_timeout)
            .map_err(|error| PyValueError::new_err(error.to_string()))?,
        threads: if options.threads == 0 { cores } else { options.threads },
        clock: options.now,
        events: Arc::new(move |event| {
            let mut queue = queue.lock().unwrap_or_else(PoisonError::into_inner);
            if queue.len() < MAX_EVENTS {
                queue.push_back(event);
            }
        }),
    };
    let handle = py.detach(|| rollouts_server::serve(logic, config))?;
    let (port, health_port, failures) = (handle.port, handle.health_port, handle.failure_count());
    Ok(Server { handle: Mutex::new(Some(handle)), events, failures, port, health_port })
}

#[pymethods]
impl Server {
    /// What a person should read in the log, since this was asked last: pairs of an event's name and what it says.
    fn events(&self) -> Vec<(&'static str, String)> {
        let taken = std::mem::take(&mut *self.events.lock().unwrap_or_else(PoisonError::into_inner));
        taken.into_iter().map(named).collect()
    }

    /// Streams that ended with a bug of ours.
    #[getter]
    fn failures(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }

    /// Connections that are open.
    #[getter]
    fn connections(&self) -> usize {
        self.with(Handle::connections).unwrap_or_default()
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

fn named(event: Event) -> (&'static str, String) {
    match event {
        Event::RequestTimedOut => ("request_timed_out", String::new()),
        Event::StreamRefused(text) => ("stream_refused", text),
        Event::StreamFailed(text) => ("stream_failed", text),
        Event::ConnectionRefused(text) => ("connection_refused", text),
        Event::CertificateReloaded => ("certificate_reloaded", String::new()),
        Event::CertificateUnreadable(text) => ("certificate_unreadable", text),
    }
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
