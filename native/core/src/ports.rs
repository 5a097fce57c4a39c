//! What an exchange needs from its surroundings: a decision, somebody to tell, and memory for bodies.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::measure::ObservedResponse;
use crate::messages::Headers;
use crate::refusals::Refusal;
use crate::routing::{Decision, Request};

/// What decides; the `Router` of the product.
pub trait Routing {
    /// Top-level members of the body to read for it, the model included.
    fn body_fields(&self) -> Arc<HashSet<String>>;

    /// Decide on one request.
    fn route(&self, headers: &Headers, request: &Request, now: f64) -> Result<Decision, Refusal>;
}

/// What is told about each request, once.
pub trait Observer {
    /// The picker answered itself.
    fn refused(&self, refusal: &Refusal);

    /// The request went to a pod; a measured one is also reported at its end.
    fn dispatched(&self, decision: &Decision);

    /// The response to a measured request is over.
    fn measured(&self, decision: &Decision, measurement: &ObservedResponse);
}

/// Bytes of request bodies held at the moment by all streams, and per stream at most.
///
/// 64 MiB is what the largest multimodal requests have; three of them fit, so that a burst ends in 503 rather than in
/// the kernel's out-of-memory killer.
#[derive(Debug)]
pub struct BufferBudget {
    pub body_limit: usize,
    pub total_limit: usize,
    used: AtomicUsize,
}

impl BufferBudget {
    /// Limits in bytes.
    pub fn new(body_limit: usize, total_limit: usize) -> Self {
        Self { body_limit, total_limit, used: AtomicUsize::new(0) }
    }

    /// Count `size` more bytes; false, and nothing counted, when they do not fit.
    pub fn take(&self, size: usize) -> bool {
        let fits = |used: usize| used.checked_add(size).filter(|sum| *sum <= self.total_limit);
        self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits).is_ok()
    }

    /// Give back what `take` counted.
    pub fn give(&self, size: usize) {
        self.used.fetch_sub(size, Ordering::Relaxed);
    }

    /// Bytes held at the moment.
    pub fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }
}

impl Default for BufferBudget {
    fn default() -> Self {
        Self::new(64 << 20, 192 << 20)
    }
}
