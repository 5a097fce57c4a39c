//! What an exchange needs from its surroundings: a decision, somebody to tell, and memory for requests.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::body::Wanted;
use crate::measure::ObservedResponse;
use crate::messages::Headers;
use crate::refusals::Refusal;
use crate::routing::{Decision, Request};

/// What decides; the `Router` of the product.
pub trait Routing {
    /// Top-level members of the body to read for it, the model included.
    fn body_fields(&self) -> Wanted;

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

/// Bytes of requests held at the moment by all streams, and of a body at most.
///
/// Those of bodies, of headers and the subset hint while a body is waited for, of answers that wait for their name.
/// Shared by all threads: what is held is counted before, so that the total is never exceeded.
#[derive(Debug)]
pub struct BufferBudget {
    pub body_limit: usize,
    pub total_limit: usize,
    used: AtomicUsize,
}

impl BufferBudget {
    #[must_use]
    pub fn new(body_limit: usize, total_limit: usize) -> Self {
        Self { body_limit, total_limit, used: AtomicUsize::new(0) }
    }

    /// Bytes that are held now.
    #[must_use]
    pub fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// Count `size` more bytes, if there is room for them.
    pub(crate) fn take(&self, size: usize) -> bool {
        let more = |used: usize| used.checked_add(size).filter(|used| *used <= self.total_limit);
        self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
    }

    pub(crate) fn give_back(&self, size: usize) {
        self.used.fetch_sub(size, Ordering::Relaxed);
    }
}

impl Default for BufferBudget {
    fn default() -> Self {
        Self::new(64 << 20, 192 << 20)
    }
}

/// Bytes that one stream has counted in the budget of all, until its end.
#[derive(Debug)]
pub(crate) struct Charge {
    budget: Arc<BufferBudget>,
    size: usize,
}

impl Charge {
    pub(crate) fn new(budget: &Arc<BufferBudget>) -> Self {
        Self { budget: Arc::clone(budget), size: 0 }
    }

    /// Bytes that are counted.
    pub(crate) fn size(&self) -> usize {
        self.size
    }

    /// Have `size` bytes counted from now on, if there is room for them.
    pub(crate) fn count(&mut self, size: usize) -> bool {
        if size > self.size && !self.budget.take(size - self.size) {
            return false;
        }
        self.budget.give_back(self.size.saturating_sub(size));
        self.size = size;
        true
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.budget.give_back(self.size);
    }
}
