//! The picker's gRPC server: HTTP/2, gRPC framing, TLS, health. It knows nothing of what a message says.
//!
//! The behaviour is that of `rollouts/picker/server.py`, which is its specification. One thread accepts and hands
//! connections to a few threads in turn; a connection and its streams stay on one thread for good, so that nothing
//! of them is ever waited for. What is received and sent is bounded at each step: see `limits`.
#![forbid(unsafe_code)]

mod authority;
mod connection;
mod exchange;
mod framing;
mod health;
mod io;
pub mod limits;
mod listen;
pub mod panics;
#[cfg(test)]
mod paused;
mod places;
mod tls;

#[cfg(test)]
extern crate self as rollouts_server; // for the tests' kit
#[cfg(test)]
#[path = "../tests/kit/mod.rs"]
mod kit;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

pub use listen::{Figures, Handle, Serves, resolve, serve};
pub use rollouts_core::stream::{Flow, Logic, RESET_FOLLOWS, StreamLogic};

/// The method that Envoy calls.
pub const METHOD: &str = "/envoy.service.ext_proc.v3.ExternalProcessor/Process";

/// How to serve.
pub struct Config {
    /// Where to listen for ext_proc and health: each of these that the machine has. A wildcard stands for both families.
    pub address: Vec<SocketAddr>,
    /// Where to serve health once more, without TLS, for a kubelet's probes.
    pub health_address: Option<Vec<SocketAddr>>,
    /// TLS, or plain HTTP/2.
    pub tls: Option<TlsSource>,
    /// Bytes of one gRPC message.
    pub max_message: usize,
    /// Bytes, over all connections, of streams by themselves and of what came and waits: messages of which a part is
    /// still to come, or that come faster than the client takes the answers. A connection may have no more
    /// than what is left of it.
    pub max_waiting: usize,
    /// Bytes on their way out, over all connections, beyond which one has no more than a small share of its own.
    pub max_queued: usize,
    /// Connections at once.
    pub max_connections: usize,
    /// The time in which a request body that is held back has to be complete.
    pub request_timeout: Duration,
    /// Threads that serve connections; at least one.
    pub threads: usize,
    /// What the clock says now, in the seconds that `StreamLogic` is given.
    pub clock: f64,
    /// Told of what a person should read in the log. Called on any thread, also while it panics; must not block or panic.
    pub events: Arc<dyn Fn(Event) + Send + Sync>,
}

/// Where the server's certificate comes from, and who may connect.
#[derive(Clone)]
pub struct TlsSource {
    /// Certificate and key.
    pub pair: Pair,
    /// PEM file: only clients with a certificate of these authorities may connect. Read again when it changes.
    pub client_ca: Option<PathBuf>,
}

/// A certificate and its key.
#[derive(Clone)]
pub enum Pair {
    /// PEM, as made at the start.
    Given {
        /// Chain of certificates.
        certificate: Vec<u8>,
        /// Private key.
        key: Vec<u8>,
    },
    /// A folder with `tls.crt` and `tls.key`, read again when they change.
    Folder(PathBuf),
}

/// Something for the log; streams are told with the state of their exchange.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// A request was not complete in time.
    RequestTimedOut {
        /// As `StreamLogic::state` has it.
        state: &'static str,
        /// The time that it had.
        seconds: f64,
    },
    /// A stream was ended for a message that could not be read or has no place.
    StreamRefused {
        /// As `StreamLogic::state` has it.
        state: &'static str,
        /// Why.
        error: String,
    },
    /// A stream ended with a panic of ours: a bug.
    StreamFailed {
        /// As `StreamLogic::state` has it.
        state: &'static str,
        /// What it said, and where.
        exception: String,
    },
    /// Something of ours panicked outside of a stream's logic: a bug.
    Panicked {
        /// Name of the thread, which goes on.
        thread: String,
        /// What it said, and where.
        exception: String,
    },
    /// A connection was closed because of what its client did.
    ConnectionRefused(String),
    /// All places are taken: told once in a while.
    ConnectionsFull {
        /// Where.
        port: &'static str,
        /// Connections that may be open.
        limit: usize,
        /// Of those that came since this was told last: how many a connection without a stream made room for.
        displaced: usize,
        /// How many were closed at once, for all others carry streams.
        refused: usize,
    },
    /// Certificate files were read again and are in use.
    CertificateReloaded,
    /// Certificate files could not be read; the last ones stay in use.
    CertificateUnreadable(String),
}

/// Monotonic seconds on the clock of whoever started the server.
#[derive(Clone, Copy)]
pub(crate) struct Clock {
    then: f64,
    at: Instant,
}

impl Clock {
    pub(crate) fn starting(then: f64) -> Self {
        Self { then, at: Instant::now() }
    }

    pub(crate) fn now(&self) -> f64 {
        self.then + self.at.elapsed().as_secs_f64()
    }
}
