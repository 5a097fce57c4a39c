//! What the picker's own metrics need: counters and histograms, filled here and exported by Python.
//! See `rollouts/picker/metrics.py`, which says what the labels are and how they are bounded.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use crate::measure::{Ending, ObservedResponse};
use crate::ports::Observer;
use crate::refusals::Refusal;
use crate::routing::{Decision, Router};

/// Model names outside the rules that get a label of their own: clients choose them freely.
pub const MAX_MODELS: usize = 100;
const MAX_NAME: usize = 253;
const MAX_KNOWN: usize = 10_000;
/// Series that are copied before others have the lock: 50 microseconds.
const AT_ONCE: usize = 64;
/// Seconds that the series of a pod stay after it went: three scrapes of the slowest Prometheus.
const GONE_AFTER: f64 = 900.0;

// vLLM's own buckets, so that the two can be laid over each other.
pub const TTFT: &[f64] = &[
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0, 160.0,
];
pub const PER_TOKEN: &[f64] =
    &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 10.0];
pub const E2E: &[f64] = &[
    0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0,
    120.0, 240.0, 480.0,
];
/// Of prompts; as in vLLM.
pub const TOKENS: &[f64] = &[1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1e3, 2e3, 5e3, 1e4, 2e4, 5e4, 1e5];

/// Values of the labels that all series have.
#[derive(Clone, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Labels {
    pub model: Arc<str>,
    pub target: Arc<str>,
    pub pool: Arc<str>,
    pub pod: Arc<str>,
    pub variant: Arc<str>,
    pub split: Arc<str>,
}

/// Counts by bucket, not summed up, the last one beyond all bounds.
#[derive(Clone, Debug)]
pub struct Histogram {
    pub bounds: &'static [f64],
    pub counts: Vec<u64>,
    pub sum: f64,
}

impl Histogram {
    fn new(bounds: &'static [f64]) -> Self {
        Self { bounds, counts: vec![0; bounds.len() + 1], sum: 0.0 }
    }

    fn observe(&mut self, value: f64) {
        self.sum += value;
        self.counts[self.bounds.partition_point(|bound| *bound < value)] += 1;
    }
}

/// All figures under the same labels; none for what there never was.
#[derive(Clone, Debug, Default)]
pub struct Series {
    /// Requests by `code`: 0 where nobody looked.
    pub requests: BTreeMap<u16, u64>,
    pub errors: Option<u64>,
    pub aborts: Option<u64>,
    pub prompt_tokens: Option<u64>,
    pub completion_tokens: Option<u64>,
    pub ttft: Option<Histogram>,
    pub per_token: Option<Histogram>,
    pub e2e: Option<Histogram>,
    pub prompt: Option<Histogram>,
    of_pod: bool,
    gone: Option<f64>, // when the pod went
}

#[derive(Debug, Default)]
struct Counts {
    series: HashMap<Labels, Series>,
    order: Vec<Labels>,             // of all series
    forgotten: u64,                 // how often some were dropped
    known: HashMap<Labels, Labels>, // names to labels
    strangers: HashSet<Arc<str>>,
}

/// Told about every request.
#[derive(Debug)]
pub struct Counters {
    router: Arc<Router>,
    counts: Mutex<Counts>,
}

impl Counters {
    /// Labels follow what the router knows.
    pub fn new(router: Arc<Router>) -> Self {
        Self { router, counts: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All series, sorted by their labels. A few are copied at a time: requests wait for the lock.
    pub fn export(&self) -> Vec<(Labels, Series)> {
        let mut found = Vec::new();
        let mut forgotten = None;
        loop {
            let counts = self.lock();
            if forgotten.replace(counts.forgotten) != Some(counts.forgotten) {
                found.clear(); // places have changed
            }
            let next = counts.order.iter().skip(found.len()).take(AT_ONCE);
            let copied: Vec<_> = next.map(|labels| (labels.clone(), counts.series[labels].clone())).collect();
            drop(counts);
            if copied.is_empty() {
                break;
            }
            found.extend(copied);
            thread::yield_now();
        }
        found.sort_by(|one, other| one.0.cmp(&other.0));
        found
    }

    /// Drop the series of pods that have been gone for a while. Call it now and then.
    pub fn forget(&self, now: f64) {
        let state = self.router.lock();
        let endpoints = state.snapshot.endpoints.iter();
        let alive: HashSet<_> =
            endpoints.map(|endpoint| (Arc::clone(&endpoint.pool), Arc::clone(&endpoint.pod))).collect();
        drop(state);
        let mut counts = self.lock();
        counts.known.clear(); // names of clients come and go
        counts.series.retain(|labels, series| {
            let lives = !series.of_pod || alive.contains(&(Arc::clone(&labels.pool), Arc::clone(&labels.pod)));
            match series.gone {
                _ if lives => series.gone = None,
                None => series.gone = Some(now),
                Some(gone) => return now - gone <= GONE_AFTER,
            }
            true
        });
        let Counts { series, order, forgotten, .. } = &mut *counts;
        if series.len() < order.len() {
            *forgotten += 1;
            order.retain(|labels| series.contains_key(labels));
        }
    }
}

impl Counts {
    fn series(&mut self, labels: Labels) -> &mut Series {
        let order = &mut self.order;
        self.series.entry(labels).or_insert_with_key(|labels| {
            order.push(labels.clone());
            Series::default()
        })
    }

    /// The series of a decision.
    fn of(&mut self, router: &Router, decision: &Decision) -> &mut Series {
        let names = Labels {
            model: Arc::clone(&decision.model),
            target: Arc::clone(&decision.target),
            pool: Arc::clone(&decision.endpoint.pool),
            pod: Arc::clone(&decision.endpoint.pod),
            variant: Arc::clone(&decision.variant),
            split: Arc::clone(&decision.pool_split),
        };
        if !self.known.contains_key(&names) {
            if self.known.len() >= MAX_KNOWN {
                self.known.clear();
            }
            let model = self.model(router, &names.model);
            let target = self.target(router, &names.target);
            self.known.insert(names.clone(), Labels { model, target, ..names.clone() });
        }
        let series = self.series(self.known[&names].clone());
        (series.of_pod, series.gone) = (true, None);
        series
    }

    fn model(&mut self, router: &Router, name: &Arc<str>) -> Arc<str> {
        let state = router.lock();
        let ruled = state.snapshot.rules.find(name).is_some_and(|rule| rule.model == *name);
        let known = ruled || state.variants.names.contains(name);
        drop(state);
        if known { Arc::clone(name) } else { self.stranger(name) }
    }

    fn target(&mut self, router: &Router, name: &Arc<str>) -> Arc<str> {
        let state = router.lock();
        let shared = state.shares.values().any(|counts| counts.contains_key(name));
        let known = shared || state.variants.names.contains(name);
        drop(state);
        if known { Arc::clone(name) } else { self.stranger(name) }
    }

    fn stranger(&mut self, name: &Arc<str>) -> Arc<str> {
        if name.is_empty() || self.strangers.contains(name) {
            return Arc::clone(name);
        }
        if self.strangers.len() >= MAX_MODELS || name.chars().nth(MAX_NAME).is_some() {
            return "other".into();
        }
        self.strangers.insert(Arc::clone(name));
        Arc::clone(name)
    }
}

impl Observer for Counters {
    fn refused(&self, refusal: &Refusal) {
        let pool = match &self.router.lock().snapshot.pools[..] {
            [only] => Arc::clone(only),
            _ => Arc::default(),
        };
        let mut counts = self.lock();
        let labels = Labels {
            model: counts.model(&self.router, &refusal.model.as_str().into()),
            target: counts.target(&self.router, &refusal.target.as_str().into()),
            pool,
            pod: Arc::default(),
            variant: refusal.variant.as_str().into(),
            split: refusal.pool_split.as_str().into(),
        };
        *counts.series(labels).requests.entry(refusal.status).or_default() += 1;
    }

    fn dispatched(&self, decision: &Decision) {
        if !decision.measured {
            // A measured one is counted at its end, with its code.
            *self.lock().of(&self.router, decision).requests.entry(0).or_default() += 1;
        }
    }

    fn measured(&self, decision: &Decision, response: &ObservedResponse) {
        let mut counts = self.lock();
        let series = counts.of(&self.router, decision);
        let aborted = response.ending == Ending::Aborted;
        let code = if response.status > 0 && !aborted { response.status } else { 499 };
        *series.requests.entry(code).or_default() += 1;
        if aborted {
            *series.aborts.get_or_insert(0) += 1;
        }
        if response.error() {
            *series.errors.get_or_insert(0) += 1;
            return;
        }
        let prompt = response.prompt_tokens.filter(|tokens| *tokens > 0);
        let completion = response.completion_tokens.filter(|tokens| *tokens > 0);
        for (histogram, bounds, value) in [
            (&mut series.ttft, TTFT, response.ttft),
            (&mut series.per_token, PER_TOKEN, response.time_per_output_token),
            (&mut series.e2e, E2E, response.e2e),
            (&mut series.prompt, TOKENS, prompt.map(|tokens| tokens as f64)),
        ] {
            if let Some(value) = value {
                histogram.get_or_insert_with(|| Histogram::new(bounds)).observe(value);
            }
        }
        for (total, tokens) in [(&mut series.prompt_tokens, prompt), (&mut series.completion_tokens, completion)] {
            if let Some(tokens) = tokens {
                *total.get_or_insert(0) += tokens;
            }
        }
    }
}
