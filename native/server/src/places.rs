//! Places for connections: how many are open, and who gives his place up for a new one when all are taken.
//!
//! Whoever connects and says nothing costs a place for as long as it is not needed, and nobody else anything: the
//! oldest of those that have no use for theirs makes room. A connection that carries a stream keeps its place always.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::limits::{IDLE_GIVES_WAY, MAX_HEALTH_CONNECTIONS, MAX_LEAVING, NEW_GIVES_WAY, REST_GIVES_WAY};
use crate::listen::Serves;

/// How far a connection has come, in the order in which they give way.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Stage {
    /// TLS, HTTP/2's preface or SETTINGS are still to come.
    Unfinished,
    /// It never opened a stream.
    Unused,
    /// It has no stream now.
    Idle,
    Busy,
}

const STAGES: [Stage; 4] = [Stage::Unfinished, Stage::Unused, Stage::Idle, Stage::Busy];

/// What is added to a stage once the place is given up.
const LEAVING: u8 = STAGES.len() as u8;

/// Why a connection ended; `full` was never served.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Reason {
    /// No place, and nobody to give one up.
    Full,
    /// It gave its place up before the end of its handshake.
    DisplacedUnfinished,
    /// It gave its place up, and had never opened a stream.
    DisplacedUnused,
    /// It gave its place up, and had no stream for a while.
    DisplacedIdle,
    /// Not a byte came.
    Silent,
    /// The handshake took too long.
    SlowHandshake,
    /// Something else than TLS or HTTP/2, or no certificate that is asked for.
    BadHandshake,
    /// It called nothing for long.
    Idle,
    /// Nobody answered a PING.
    Dead,
    /// Too many frames that cost the client nothing.
    Flood,
    /// Frames that break HTTP/2.
    Protocol,
    /// The client closed it.
    Client,
    /// This server stops.
    Stopped,
    /// A bug of ours.
    Failed,
}

/// All of them with their names in metrics.
pub(crate) const REASONS: [(Reason, &str); 14] = [
    (Reason::Full, "full"),
    (Reason::DisplacedUnfinished, "displaced_unfinished"),
    (Reason::DisplacedUnused, "displaced_unused"),
    (Reason::DisplacedIdle, "displaced_idle"),
    (Reason::Silent, "silent"),
    (Reason::SlowHandshake, "slow_handshake"),
    (Reason::BadHandshake, "bad_handshake"),
    (Reason::Idle, "idle"),
    (Reason::Dead, "dead"),
    (Reason::Flood, "flood"),
    (Reason::Protocol, "protocol"),
    (Reason::Client, "client"),
    (Reason::Stopped, "stopped"),
    (Reason::Failed, "failed"),
];

/// What a connection tells of itself, from its own thread.
pub(crate) struct Progress {
    began: Instant,
    stage: AtomicU8,
    /// Milliseconds from `began` to when it came to its stage; of a connection without a stream so far, 0.
    since: AtomicU64,
    leave: Notify,
}

impl Progress {
    pub(crate) fn new() -> Self {
        Self {
            began: Instant::now(),
            stage: AtomicU8::new(Stage::Unfinished as u8),
            since: AtomicU64::new(0),
            leave: Notify::new(),
        }
    }

    /// When it was taken.
    pub(crate) fn began(&self) -> Instant {
        self.began
    }

    /// The handshake is over.
    pub(crate) fn finished(&self) {
        self.step(Stage::Unfinished, Stage::Unused);
    }

    /// A stream begins. False when the place is given up: then it must not.
    pub(crate) fn carries(&self) -> bool {
        self.step(Stage::Unused, Stage::Busy)
            || self.step(Stage::Idle, Stage::Busy)
            || self.stage.load(Ordering::Acquire) == Stage::Busy as u8
    }

    /// The last stream is over.
    pub(crate) fn rests(&self) {
        self.since.store(self.began.elapsed().as_millis() as u64, Ordering::Relaxed);
        self.step(Stage::Busy, Stage::Idle);
    }

    /// Wait until the place is to be given up: why.
    pub(crate) async fn displaced(&self) -> Reason {
        loop {
            let leaving = self.stage.load(Ordering::Acquire).checked_sub(LEAVING);
            match leaving.and_then(|stage| STAGES.get(usize::from(stage))) {
                Some(stage) => return displaced(*stage),
                None => self.leave.notified().await,
            }
        }
    }

    fn step(&self, from: Stage, to: Stage) -> bool {
        self.stage.compare_exchange(from as u8, to as u8, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }

    /// Give the place up, unless something else happened meanwhile.
    pub(crate) fn displace(&self, from: Stage) -> bool {
        let to = from as u8 + LEAVING;
        let given = self.stage.compare_exchange(from as u8, to, Ordering::AcqRel, Ordering::Relaxed).is_ok();
        if given {
            self.leave.notify_one();
        }
        given
    }

    pub(crate) fn stage(&self) -> Option<Stage> {
        STAGES.get(usize::from(self.stage.load(Ordering::Acquire))).copied()
    }

    fn rested(&self) -> Duration {
        self.began.elapsed().saturating_sub(Duration::from_millis(self.since.load(Ordering::Relaxed)))
    }
}

/// The connections of a kind.
#[derive(Default)]
struct Row {
    /// In the order in which they came, without those that are told to leave.
    staying: BTreeMap<u64, Arc<Progress>>,
    /// All of them.
    open: usize,
}

impl Row {
    /// Who gives way: the one that came first of those that had their time, the unfinished before the unused before
    /// the idle; where nobody had it, the one that came first of those without a stream so far, then the one that rests
    /// longest.
    fn gives_way(&mut self) -> Option<Reason> {
        let patience =
            [(Stage::Unfinished, NEW_GIVES_WAY), (Stage::Unused, NEW_GIVES_WAY), (Stage::Idle, IDLE_GIVES_WAY)];
        let first = |stage: Stage, patience: Duration| {
            let of_stage = |(_, one): &(&u64, &Arc<Progress>)| one.stage() == Some(stage) && one.rested() >= patience;
            self.staying.iter().find(of_stage).map(|(number, one)| (*number, stage, Arc::clone(one)))
        };
        let young = || {
            let unused = |(number, one): (&u64, &Arc<Progress>)| {
                let stage = one.stage()?;
                matches!(stage, Stage::Unfinished | Stage::Unused).then(|| (*number, stage, Arc::clone(one)))
            };
            self.staying.iter().find_map(unused)
        };
        let idle = || {
            let resting = self.staying.iter().filter(|(_, one)| one.stage() == Some(Stage::Idle));
            let (number, one) = resting.max_by_key(|(_, one)| one.rested())?;
            (one.rested() >= REST_GIVES_WAY).then(|| (*number, Stage::Idle, Arc::clone(one)))
        };
        while let Some((number, stage, one)) =
            patience.iter().find_map(|(stage, patience)| first(*stage, *patience)).or_else(young).or_else(idle)
        {
            if one.displace(stage) {
                self.staying.remove(&number);
                return Some(displaced(stage));
            }
        }
        None
    }
}

fn displaced(stage: Stage) -> Reason {
    match stage {
        Stage::Unfinished => Reason::DisplacedUnfinished,
        Stage::Unused => Reason::DisplacedUnused,
        Stage::Idle | Stage::Busy => Reason::DisplacedIdle,
    }
}

#[derive(Default)]
struct Rows {
    next: u64,
    rows: [Row; 2],
}

/// All places of a server, by what they are for.
pub(crate) struct Places {
    most: [usize; 2],
    rows: Mutex<Rows>,
    /// Told at each end of a connection: to threads, and to tasks.
    changed: Condvar,
    left: Notify,
    closed: [[AtomicU64; REASONS.len()]; 2],
}

impl Places {
    pub(crate) fn new(max_connections: usize) -> Self {
        Self {
            most: [max_connections, MAX_HEALTH_CONNECTIONS],
            rows: Mutex::default(),
            changed: Condvar::new(),
            left: Notify::new(),
            closed: Default::default(),
        }
    }

    /// A place for a new connection, or nothing when nobody gives one up.
    pub(crate) fn enter(self: &Arc<Self>, serves: Serves) -> Option<Place> {
        let mut rows = self.rows();
        let number = rows.next;
        rows.next += 1;
        let row = &mut rows.rows[serves as usize];
        if row.staying.len() >= self.most[serves as usize] {
            let displaced = row.gives_way();
            self.count(serves, displaced.unwrap_or(Reason::Full));
            displaced?;
        }
        let progress = Arc::new(Progress::new());
        row.staying.insert(number, Arc::clone(&progress));
        row.open += 1;
        Some(Place { places: Arc::clone(self), serves, number, progress, ended: Reason::Stopped })
    }

    /// Wait until all but a few of those that were told to leave have left.
    pub(crate) async fn left(&self, serves: Serves) {
        loop {
            let mut left = pin!(self.left.notified());
            left.as_mut().enable();
            if self.leaving(serves) < MAX_LEAVING {
                return;
            }
            left.await;
        }
    }

    fn leaving(&self, serves: Serves) -> usize {
        let rows = self.rows();
        let row = &rows.rows[serves as usize];
        row.open - row.staying.len()
    }

    /// Wait until nothing is served, or until `grace` is over.
    pub(crate) fn wait(&self, grace: Duration) {
        let serving = |rows: &mut Rows| rows.rows[Serves::Everything as usize].open > 0;
        drop(self.changed.wait_timeout_while(self.rows(), grace, serving));
    }

    /// Connections that are open.
    pub(crate) fn open(&self, serves: Serves) -> usize {
        self.rows().rows[serves as usize].open
    }

    /// Connections that may be.
    pub(crate) fn most(&self, serves: Serves) -> usize {
        self.most[serves as usize]
    }

    /// Connections that ended, by why.
    pub(crate) fn closed(&self, serves: Serves) -> impl Iterator<Item = (&'static str, u64)> {
        let counts = self.closed[serves as usize].iter().map(|count| count.load(Ordering::Relaxed));
        REASONS.iter().map(|(_, name)| *name).zip(counts)
    }

    fn count(&self, serves: Serves, reason: Reason) {
        self.closed[serves as usize][reason as usize].fetch_add(1, Ordering::Relaxed);
    }

    fn rows(&self) -> MutexGuard<'_, Rows> {
        self.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The place of a connection, for as long as this lives.
pub(crate) struct Place {
    places: Arc<Places>,
    serves: Serves,
    number: u64,
    pub(crate) progress: Arc<Progress>,
    /// Why it ends; with this server unless somebody says otherwise.
    pub(crate) ended: Reason,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut rows = self.places.rows();
        let row = &mut rows.rows[self.serves as usize];
        row.staying.remove(&self.number);
        row.open -= 1;
        drop(rows);
        if self.progress.stage().is_some() {
            self.places.count(self.serves, self.ended); // who was displaced is counted
        }
        self.places.changed.notify_all();
        self.places.left.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_millis(10);

    /// On a clock that goes on when all wait.
    fn run(test: impl Future<Output = ()>) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(test);
    }

    async fn later(time: Duration) {
        tokio::time::sleep(time).await;
    }

    fn enter(places: &Arc<Places>) -> Place {
        places.enter(Serves::Everything).expect("a place")
    }

    fn used(place: &Place) {
        place.progress.finished();
        assert!(place.progress.carries());
    }

    async fn told(place: &Place) -> Option<Reason> {
        tokio::time::timeout(SOON, place.progress.displaced()).await.ok()
    }

    #[test]
    fn reasons_stand_in_the_order_of_their_names() {
        assert!(REASONS.iter().enumerate().all(|(index, (reason, _))| *reason as usize == index));
    }

    #[test]
    fn health_has_a_limit_of_its_own() {
        run(async {
            let places = Arc::new(Places::new(1));
            let held: Vec<_> = (0..MAX_HEALTH_CONNECTIONS).map_while(|_| places.enter(Serves::Health)).collect();
            assert_eq!(held.len(), MAX_HEALTH_CONNECTIONS);
            held.iter().for_each(used);
            assert!(places.enter(Serves::Health).is_none());
            assert!(places.enter(Serves::Everything).is_some());
            assert_eq!(places.closed(Serves::Health).find(|(_, count)| *count > 0), Some(("full", 1)));
            drop(held);
            assert!(places.enter(Serves::Health).is_some());
        });
    }

    #[test]
    fn the_oldest_without_an_end_of_its_handshake_goes_first() {
        run(async {
            let places = Arc::new(Places::new(3));
            let unused = enter(&places);
            unused.progress.finished();
            let (first, second) = (enter(&places), enter(&places));
            later(NEW_GIVES_WAY).await;
            let _new = enter(&places);
            assert_eq!(told(&first).await, Some(Reason::DisplacedUnfinished));
            let _newer = enter(&places);
            assert_eq!(told(&second).await, Some(Reason::DisplacedUnfinished));
            assert_eq!(told(&unused).await, None);
            let _newest = enter(&places);
            assert_eq!(told(&unused).await, Some(Reason::DisplacedUnused), "before those that came just now");
        });
    }

    #[test]
    fn a_handshake_has_its_time_while_others_waste_theirs() {
        run(async {
            let places = Arc::new(Places::new(3));
            let idle = [enter(&places), enter(&places)];
            idle.iter().for_each(|one| one.progress.finished());
            later(NEW_GIVES_WAY).await;
            let shaking = enter(&places);
            let _more = [enter(&places), enter(&places)];
            assert_eq!(told(&shaking).await, None, "the unused had their time");
            let _flood = enter(&places);
            assert_eq!(told(&shaking).await, Some(Reason::DisplacedUnfinished), "all are as new: the oldest");
        });
    }

    #[test]
    fn who_carries_a_stream_stays() {
        run(async {
            let places = Arc::new(Places::new(2));
            let (busy, idle) = (enter(&places), enter(&places));
            [&busy, &idle].into_iter().for_each(used);
            idle.progress.rests();
            later(REST_GIVES_WAY - SOON).await;
            assert!(places.enter(Serves::Everything).is_none(), "a gateway that rests for a moment");
            later(SOON).await;
            let new = enter(&places);
            assert_eq!(told(&idle).await, Some(Reason::DisplacedIdle));
            assert!(!idle.progress.carries(), "too late");
            used(&new);
            later(2 * IDLE_GIVES_WAY).await;
            assert!(places.enter(Serves::Everything).is_none());
            assert_eq!(told(&busy).await, None);
        });
    }

    #[test]
    fn of_those_that_rest_for_seconds_who_rests_longest_goes_when_nobody_else_can() {
        run(async {
            let places = Arc::new(Places::new(3));
            let (first, second, young) = (enter(&places), enter(&places), enter(&places));
            [&first, &second].into_iter().for_each(used);
            second.progress.rests();
            later(REST_GIVES_WAY).await;
            first.progress.rests();
            used(&young);
            young.progress.rests();
            let new = enter(&places);
            assert_eq!(told(&second).await, Some(Reason::DisplacedIdle));
            let _newer = enter(&places);
            assert_eq!(told(&new).await, Some(Reason::DisplacedUnfinished), "who carried nothing so far goes before");
            assert_eq!(told(&first).await, None);
        });
    }

    #[test]
    fn nobody_is_taken_while_many_are_leaving() {
        run(async {
            let places = Arc::new(Places::new(1));
            let mut held: Vec<_> = (0..=MAX_LEAVING).map(|_| enter(&places)).collect();
            assert_eq!(places.open(Serves::Everything), MAX_LEAVING + 1);
            assert!(tokio::time::timeout(SOON, places.left(Serves::Everything)).await.is_err());
            held.remove(0);
            assert!(tokio::time::timeout(SOON, places.left(Serves::Everything)).await.is_ok());
        });
    }
}
