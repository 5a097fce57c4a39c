//! Which pod gets a request: the highest weighted score. See `rollouts/picker/core/schedule.py`.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use crate::endpoints::{Endpoint, Subset};
use crate::prefix::PrefixIndex;

/// A set of model names, shared by the loads between two readings of it.
pub type Names = Arc<HashSet<Arc<str>>>;

/// What a pod's metrics and model list said. `kv_usage` is 0..1; `models` none: not known.
///
/// `adapters`: those of `models` that the list calls adapters. The same `Arc` of models means that the list was not
/// read anew.
#[derive(Clone, Debug, Default)]
pub struct Load {
    pub running: i64,
    pub waiting: i64,
    pub kv_usage: f64,
    pub active_adapters: HashSet<Arc<str>>,
    pub max_adapters: i64,
    pub models: Option<Names>,
    pub adapters: Names,
}

impl Load {
    fn may_serve(&self, model: &str) -> bool {
        self.models.as_ref().is_none_or(|models| models.contains(model))
    }

    fn lists(&self, model: &str) -> bool {
        self.models.as_ref().is_some_and(|models| models.contains(model))
    }
}

/// The lists of models of all pods, as they were at one reading.
#[derive(Debug)]
pub struct Lists {
    reading: u64,
    lists: Vec<(Option<Names>, Names)>,
}

impl Lists {
    /// What they say together. Takes long where pods list many: not for the inside of a lock.
    #[must_use]
    pub fn together(&self) -> Known {
        let mut known = Known { reading: self.reading, ..Known::default() };
        for (models, adapters) in &self.lists {
            let names = models.iter().flat_map(|models| models.iter());
            known.bases.extend(names.filter(|name| !adapters.contains(*name)).cloned());
            known.adapters.extend(adapters.iter().cloned());
        }
        known
    }
}

/// What some pod lists: as an adapter, or not as one.
#[derive(Clone, Debug, Default)]
pub struct Known {
    reading: u64,
    bases: HashSet<Arc<str>>,
    adapters: HashSet<Arc<str>>,
}

/// Weights of the scores, and thresholds. Times in seconds.
#[derive(Clone, Debug)]
pub struct ScheduleConfig {
    pub queue: f64,
    pub kv_cache: f64,
    pub prefix: f64,
    pub adapter: f64,
    pub in_flight: f64,
    pub prefix_room: f64,
    pub slow_start: f64,
    pub saturated_waiting: i64,
    pub saturated_kv: f64,
    pub stale_after: f64,
}

impl Default for ScheduleConfig {
    fn default() -> Self {
        Self {
            queue: 2.0,
            kv_cache: 2.0,
            prefix: 3.0,
            adapter: 1.0,
            in_flight: 2.0,
            prefix_room: 24.0,
            slow_start: 30.0,
            saturated_waiting: 5,
            saturated_kv: 0.8,
            stale_after: 10.0,
        }
    }
}

/// One endpoint with what is known about it.
#[derive(Clone, Debug)]
pub struct ScheduledPod {
    pub endpoint: Arc<Endpoint>,
    pub load: Load,
    /// Requests since the last scrape began.
    pub dispatched: i64,
    /// Whether it has ever said which models it serves.
    pub listed: bool,
    first_seen: f64,
    scraped_at: f64,
    credit: f64, // of the slow start
    turn: u64,   // number of the last dispatch, among those of all pods
    recent: HashMap<Arc<str>, f64>,
}

impl ScheduledPod {
    fn new(endpoint: Arc<Endpoint>, first_seen: f64) -> Self {
        Self {
            endpoint,
            load: Load::default(),
            dispatched: 0,
            listed: false,
            first_seen,
            scraped_at: -1e9,
            credit: 0.0,
            turn: 0,
            recent: HashMap::new(),
        }
    }

    /// Requests that the last scrape saw, and those dispatched since.
    pub fn in_flight(&self) -> i64 {
        self.load.running + self.load.waiting + self.dispatched
    }

    /// The adapter is at work here, and so loaded for a while.
    fn work_on(&mut self, adapter: &Arc<str>, now: f64) {
        if self.recent.len() > MAX_ADAPTERS {
            self.recent.clear();
        }
        self.recent.insert(Arc::clone(adapter), now);
    }

    /// 1 for a pod that has the adapter at work, 0.8 for one with a free slot, else 0.
    fn adapter_score(&self, adapter: &str, now: f64) -> f64 {
        let active = &self.load.active_adapters;
        let recently = || self.recent.get(adapter).is_some_and(|at| now - at < RESIDENT);
        if active.contains(adapter) || recently() {
            return 1.0;
        }
        if (active.len() as i64) < self.load.max_adapters { 0.8 } else { 0.0 }
    }
}

/// Seconds for which an adapter counts as loaded after it was last at work: the metric hides idle adapters.
const RESIDENT: f64 = 60.0;
/// More than any server holds.
const MAX_ADAPTERS: usize = 64;
/// Scores closer than this are equal: sums of the same parts in another order differ by less.
const TIE: f64 = 1e-9;

/// Places of pods in `Scheduler::pods`, until its next `sync`.
pub type Pods = Vec<usize>;

/// Holds the pods' state and chooses among them. `now` is always monotonic seconds.
#[derive(Clone, Debug, Default)]
pub struct Scheduler {
    config: ScheduleConfig,
    pods: Vec<ScheduledPod>,
    by_address: HashMap<Arc<str>, usize>,
    youngest: f64, // when the newest pod was first seen
    turn: u64,
    readings: u64, // of lists of models
    known: Known,
    started: bool,
    draining: bool, // whether any pod is
    pub(crate) prefixes: PrefixIndex,
    to_draining: BTreeMap<Arc<str>, u64>,
}

impl Scheduler {
    pub fn new(config: ScheduleConfig) -> Self {
        Self { config, ..Self::default() }
    }

    /// A copy without the index of prefixes, which is large and which no `sync` changes.
    #[must_use]
    pub(crate) fn aside(&mut self) -> Self {
        let prefixes = std::mem::take(&mut self.prefixes);
        let copy = self.clone();
        self.prefixes = prefixes;
        copy
    }

    /// Take over the list of endpoints, each address once. Pods known before keep their state.
    ///
    /// The age of a new pod is that of its Ready condition, where that is known, so that a restarted picker does not
    /// take the whole pool for new. `wall`: Unix time.
    pub fn sync(&mut self, endpoints: &[Arc<Endpoint>], now: f64, wall: f64) {
        let mut known: Vec<_> = std::mem::take(&mut self.pods).into_iter().map(Some).collect();
        for endpoint in endpoints {
            let place = self.by_address.get(&endpoint.address).copied();
            let same = place.and_then(|at| known[at].take_if(|pod| pod.endpoint.pod == endpoint.pod));
            let pod = match same {
                Some(pod) => ScheduledPod { endpoint: Arc::clone(endpoint), ..pod },
                None => ScheduledPod::new(Arc::clone(endpoint), now - self.age(endpoint, wall).max(0.0)),
            };
            self.pods.push(pod);
        }
        let places = self.pods.iter().enumerate();
        self.by_address = places.map(|(at, pod)| (Arc::clone(&pod.endpoint.address), at)).collect();
        self.youngest = self.pods.iter().map(|pod| pod.first_seen).reduce(f64::max).unwrap_or(now);
        self.started |= !self.pods.is_empty();
        self.draining = self.pods.iter().any(|pod| pod.endpoint.draining);
    }

    fn age(&self, endpoint: &Endpoint, wall: f64) -> f64 {
        match (endpoint.ready_since, self.started) {
            (0.0, false) => self.config.slow_start,
            (0.0, true) => 0.0,
            (since, _) => wall - since,
        }
    }

    /// A scrape succeeded. `before`: how many were dispatched when it was sent, and so are in it; None: all.
    ///
    /// What is to be found out of all lists of models and given to `know`, where one has changed.
    pub fn observe(&mut self, address: &str, load: Load, now: f64, before: Option<i64>) -> Option<Lists> {
        let pod = self.by_address.get(address).map(|at| &mut self.pods[*at])?;
        let same = match (&pod.load.models, &load.models) {
            (Some(before), Some(after)) => Arc::ptr_eq(before, after),
            (before, after) => before.is_none() && after.is_none(),
        };
        for adapter in &load.active_adapters {
            pod.work_on(adapter, now);
        }
        pod.listed |= load.models.is_some();
        // Not "set to what came since": requests come between two calls.
        pod.dispatched = before.map_or(0, |before| (pod.dispatched - before).max(0));
        (pod.load, pod.scraped_at) = (load, now);
        if same {
            return None;
        }
        self.readings += 1;
        let lists = self.pods.iter().map(|pod| (pod.load.models.clone(), Arc::clone(&pod.load.adapters)));
        Some(Lists { reading: self.readings, lists: lists.collect() })
    }

    /// Take over what the pods serve together, unless more recent lists were taken over before.
    pub fn know(&mut self, known: &mut Known) {
        if known.reading > self.known.reading {
            std::mem::swap(&mut self.known, known);
        }
    }

    /// Whether some pod lists `model` as an adapter.
    pub fn is_adapter(&self, model: &str) -> bool {
        self.known.adapters.contains(model)
    }

    /// Whether some pod lists `name`, and not as an adapter.
    pub fn is_model(&self, name: &str) -> bool {
        self.known.bases.contains(name)
    }

    /// All pods with what is known of them.
    pub fn pods(&self) -> &[ScheduledPod] {
        &self.pods
    }

    /// The place of the pod at an address.
    pub fn place(&self, address: &str) -> Option<usize> {
        self.by_address.get(address).copied()
    }

    /// By pool: requests that a pod about to go got all the same, since no other could serve them.
    pub fn to_draining(&self) -> &BTreeMap<Arc<str>, u64> {
        &self.to_draining
    }

    /// Whether what the pod said last is recent enough to mean something.
    pub fn is_fresh(&self, pod: &ScheduledPod, now: f64) -> bool {
        now - pod.scraped_at <= self.config.stale_after
    }

    /// All pods, or those that a subset hint allows.
    pub fn candidates(&self, subset: Option<&Subset>) -> Pods {
        match subset {
            None => (0..self.pods.len()).collect(),
            Some(subset) => (0..self.pods.len()).filter(|at| subset.allows(&self.pods[*at].endpoint)).collect(),
        }
    }

    /// The candidates that list `model`, or whose model list is not known.
    pub fn serving(&self, candidates: &[usize], model: &str) -> Pods {
        candidates.iter().copied().filter(|at| self.pods[*at].load.may_serve(model)).collect()
    }

    /// The candidates that are not about to go; all of them where only those that are can serve `model`.
    ///
    /// Where no pod lists the model, one that stays says so as well as any. An empty model is whatever a pod has.
    pub fn staying(&self, candidates: Pods, model: &str) -> Pods {
        if !self.draining {
            return candidates;
        }
        let staying = |at: &usize| !self.pods[*at].endpoint.draining;
        let stay: Pods = candidates.iter().copied().filter(staying).collect();
        if stay.is_empty() {
            return candidates;
        }
        if model.is_empty() || stay.len() == candidates.len() {
            return stay;
        }
        let alone = candidates.iter().any(|at| self.pods[*at].load.lists(model));
        if alone && self.serving(&stay, model).is_empty() { candidates } else { stay }
    }

    /// Whether every candidate is known to be over the thresholds.
    pub fn saturated(&self, candidates: &[usize], now: f64) -> bool {
        let over = |pod: &ScheduledPod| {
            self.is_fresh(pod, now)
                && (pod.load.waiting > self.config.saturated_waiting || pod.load.kv_usage > self.config.saturated_kv)
        };
        !candidates.is_empty() && candidates.iter().all(|at| over(&self.pods[*at]))
    }

    /// The best of one or more candidates; it counts as dispatched to. Ties take turns.
    pub fn choose(&mut self, candidates: &[usize], model: &Arc<str>, hashes: &[u64], now: f64) -> Arc<Endpoint> {
        let chosen = match candidates {
            [only] => *only,
            _ => {
                let grown = self.grown(candidates, now);
                self.best(&grown, model, hashes, now)
            }
        };
        self.turn += 1;
        let pod = &mut self.pods[chosen];
        pod.turn = self.turn;
        pod.dispatched += 1;
        if pod.endpoint.draining {
            *self.to_draining.entry(Arc::clone(&pod.endpoint.pool)).or_default() += 1;
        }
        if pod.load.adapters.contains(model) {
            pod.work_on(model, now);
        }
        if !hashes.is_empty() {
            self.prefixes.add(&pod.endpoint.address, hashes);
        }
        Arc::clone(&pod.endpoint)
    }

    /// Pods without those whose slow start leaves them out this time.
    fn grown(&mut self, pods: &[usize], now: f64) -> Pods {
        let window = self.config.slow_start;
        let is_young = |pod: &ScheduledPod| now - pod.first_seen < window;
        if now - self.youngest >= window {
            return pods.to_vec();
        }
        let young = pods.iter().filter(|at| is_young(&self.pods[**at])).count();
        if young == 0 || young == pods.len() {
            return pods.to_vec();
        }
        let mut grown = Pods::with_capacity(pods.len());
        for at in pods {
            let pod = &mut self.pods[*at];
            if is_young(pod) {
                pod.credit += ((now - pod.first_seen) / window).max(0.1);
                if pod.credit < 1.0 {
                    continue;
                }
                pod.credit -= 1.0;
            }
            grown.push(*at);
        }
        grown
    }

    fn best(&self, places: &[usize], model: &str, hashes: &[u64], now: f64) -> usize {
        let config = &self.config;
        let pods = || places.iter().map(|at| &self.pods[*at]);
        let matched = match hashes {
            [] => Vec::new(),
            _ => self.prefixes.match_all(pods().map(|pod| &*pod.endpoint.address), hashes),
        };
        let per_block = if hashes.is_empty() { 0.0 } else { config.prefix / hashes.len() as f64 };
        let (queue_low, queue_top) = range(pods().map(|pod| pod.load.waiting));
        let (flight_low, flight_top) = range(pods().map(ScheduledPod::in_flight));
        let per_waiting = config.queue / (queue_top - queue_low).max(1) as f64;
        let per_flight = config.in_flight / (flight_top - flight_low).max(1) as f64;
        let adapter = if self.known.bases.contains(model) { "" } else { model };
        let (mut best, mut chosen) = (-1.0, places[0]);
        for (index, (at, pod)) in places.iter().zip(pods()).enumerate() {
            let (load, flight) = (&pod.load, pod.in_flight());
            let mut score = per_waiting * (queue_top - load.waiting) as f64
                + config.kv_cache * (1.0 - load.kv_usage)
                + per_flight * (flight_top - flight) as f64;
            if !adapter.is_empty() && (load.max_adapters != 0 || !load.active_adapters.is_empty()) {
                score += config.adapter * pod.adapter_score(adapter, now);
            }
            if let Some(blocks @ 1..) = matched.get(index).copied() {
                let room = 1.0 - (flight - flight_low) as f64 / config.prefix_room;
                score += per_block * blocks as f64 * room.max(0.0);
            }
            if score > best - TIE && (score > best + TIE || pod.turn < self.pods[chosen].turn) {
                (best, chosen) = (score, *at);
            }
        }
        chosen
    }
}

fn range(values: impl Iterator<Item = i64>) -> (i64, i64) {
    values.fold((i64::MAX, i64::MIN), |(low, top), value| (low.min(value), top.max(value)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(list: &[&str]) -> Names {
        Arc::new(list.iter().map(|name| Arc::from(*name)).collect())
    }

    #[test]
    fn lists_of_models_are_put_together_outside_and_never_replace_later_ones() {
        let mut scheduler = Scheduler::default();
        let pod = |address: &str| Arc::new(Endpoint { address: address.into(), ..Endpoint::default() });
        scheduler.sync(&[pod("a"), pod("b")], 0.0, 0.0);
        let load = |models: &Names| Load { models: Some(Arc::clone(models)), ..Load::default() };
        let (first, second) = (names(&["m"]), names(&["n"]));

        let early = scheduler.observe("a", load(&first), 1.0, None).unwrap();
        assert!(scheduler.observe("a", load(&first), 1.0, None).is_none());
        let late = scheduler.observe("b", load(&second), 1.0, None).unwrap();
        scheduler.know(&mut late.together());
        scheduler.know(&mut early.together());

        assert!(scheduler.is_model("m") && scheduler.is_model("n"));
    }
}
