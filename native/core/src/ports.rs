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

/// Bytes of a body that find room though large ones have filled theirs.
pub const SMALL: usize = 64 << 10;

/// The part of the budget that only small ones may have.
const SET_ASIDE: usize = 16;

/// Bytes of requests held at the moment by all streams, and of a body at most.
///
/// Those of bodies, of headers and the subset hint while a body is waited for, of answers that wait for their name.
/// What is larger than `SMALL` grows only while the part that is set aside is free beside it.
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

    /// Bytes of all together up to which one that is larger than `SMALL` may grow.
    #[must_use]
    pub fn large_limit(&self) -> usize {
        self.total_limit - self.total_limit / SET_ASIDE
    }

    /// Count `more` bytes for somebody who then has `whole`, if there is room for them.
    pub(crate) fn take(&self, more: usize, whole: usize) -> bool {
        let most = if whole <= SMALL { self.total_limit } else { self.large_limit() };
        let grown = |used: usize| used.checked_add(more).filter(|used| *used <= most);
        more == 0 || self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, grown).is_ok()
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
        if size > self.size && !self.budget.take(size - self.size, size) {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_total_holds_and_a_part_stays_free_of_large_ones_whatever_threads_do() {
        let budget = Arc::new(BufferBudget::new(16 * SMALL, 16 * SMALL));
        let times = if cfg!(miri) { 3 } else { 2_000 };
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..times {
                        let mut large: Vec<_> = (0..5).map(|_| Charge::new(&budget)).collect();
                        large.iter_mut().for_each(|one| while one.count(one.size() + SMALL + 1) {});
                        assert!(budget.used() <= 16 * SMALL);
                    }
                });
            }
        });
        assert_eq!(budget.used(), 0);

        let mut large: Vec<_> = (0..20).map(|_| Charge::new(&budget)).collect();
        large.iter_mut().for_each(|one| while one.count(one.size() + SMALL + 1) {});
        assert!(budget.used() > 12 * SMALL && budget.used() <= 15 * SMALL);
        let mut small = Vec::new();
        for _ in 0..20 {
            let mut one = Charge::new(&budget);
            if one.count(SMALL) {
                small.push(one);
            }
        }
        assert!(budget.used() > 15 * SMALL && budget.used() <= 16 * SMALL);
        assert!(!small.is_empty());
        let size = large[0].size();
        assert!(large[0].count(size), "nothing more finds room always");
    }
}
