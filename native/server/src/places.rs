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
    /// When it came to its stage, as its row last saw it; changes under the lock of the rows alone.
    known: AtomicU64,
    leave: Notify,
}

impl Progress {
    pub(crate) fn new() -> Self {
        Self {
            began: Instant::now(),
            stage: AtomicU8::new(Stage::Unfinished as u8),
            since: AtomicU64::new(0),
            known: AtomicU64::new(0),
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

    /// Milliseconds from `epoch` to when it came to its stage.
    fn rests_since(&self, epoch: Instant) -> u64 {
        self.began.saturating_duration_since(epoch).as_millis() as u64 + self.since.load(Ordering::Relaxed)
    }

    fn rested(&self) -> Duration {
        self.began.elapsed().saturating_sub(Duration::from_millis(self.since.load(Ordering::Relaxed)))
    }
}

/// A connection by its number, and the stage at which it was found.
type Found = (u64, Stage, Arc<Progress>);

/// The connections of a kind that are not told to leave, and how many there are with those.
///
/// A connection says nothing here when it comes to another stage, which it does with each request. It stands where it was
/// last seen, and is put where it belongs once it comes first there: each is looked at twice in its first life, and once
/// in five seconds from then on, whatever the number of those that come and find no place.
struct Row {
    began: Instant,
    /// In the order in which they came, those that had no finished handshake when they were seen last, ...
    unfinished: BTreeMap<u64, Arc<Progress>>,
    /// ... those that had never opened a stream then, ...
    unused: BTreeMap<u64, Arc<Progress>>,
    /// ... and those that had, by the millisecond before which they did not rest.
    used: BTreeMap<(u64, u64), Arc<Progress>>,
    /// All of them.
    open: usize,
    #[cfg(test)]
    looks: usize,
}

impl Row {
    fn new() -> Self {
        Self {
            began: Instant::now(),
            unfinished: BTreeMap::new(),
            unused: BTreeMap::new(),
            used: BTreeMap::new(),
            open: 0,
            #[cfg(test)]
            looks: 0,
        }
    }

    /// Without those that are told to leave.
    fn staying(&self) -> usize {
        self.young() + self.used.len()
    }

    /// Those without a stream so far.
    fn young(&self) -> usize {
        self.unfinished.len() + self.unused.len()
    }

    fn remove(&mut self, number: u64, one: &Progress) {
        let known = one.known.load(Ordering::Relaxed);
        if self.unfinished.remove(&number).is_none() && self.unused.remove(&number).is_none() {
            self.used.remove(&(known, number));
        }
    }

    /// Who gives way of `most`: see `candidate`.
    fn gives_way(&mut self, most: usize) -> Option<Reason> {
        while let Some((number, stage, one)) = self.candidate(most) {
            if one.displace(stage) {
                self.remove(number, &one);
                return Some(displaced(stage));
            }
        }
        None
    }

    /// The one that came first of those that had their time, the unfinished before the unused. Then, while those without a
    /// stream so far have less than half of all places, the one that rests longest, for a minute at least: so many may
    /// come at the cost of those that rest, but no flood takes the places of all. Then the first without a stream, had it
    /// its time or not; then who rests for seconds.
    fn candidate(&mut self, most: usize) -> Option<Found> {
        let unfinished = self.first(Stage::Unfinished);
        let unused = self.first(Stage::Unused);
        let had_its_time = |(_, _, one): &Found| one.rested() >= NEW_GIVES_WAY;
        if let Some(found) = [&unfinished, &unused].into_iter().flatten().find(|found| had_its_time(found)) {
            return Some(found.clone());
        }
        let crowded = self.young() >= most.div_ceil(2);
        let resting = if crowded { None } else { self.resting(IDLE_GIVES_WAY) };
        let oldest = |found: &Found| found.0;
        resting
            .or_else(|| [unfinished, unused].into_iter().flatten().min_by_key(oldest))
            .or_else(|| self.resting(REST_GIVES_WAY))
    }

    /// The first that is at this stage, one of the two without a stream; those before it are put where they belong.
    fn first(&mut self, stage: Stage) -> Option<Found> {
        loop {
            let row = if stage == Stage::Unfinished { &mut self.unfinished } else { &mut self.unused };
            let first = row.first_entry()?;
            #[cfg(test)]
            (self.looks += 1);
            if first.get().stage() == Some(stage) {
                return Some((*first.key(), stage, Arc::clone(first.get())));
            }
            let (number, one) = first.remove_entry();
            if one.stage() == Some(Stage::Unused) {
                self.unused.insert(number, one);
            } else {
                self.put_by_rest(number, one);
            }
        }
    }

    /// The one that rests longest, if for so long.
    fn resting(&mut self, least: Duration) -> Option<Found> {
        loop {
            let first = self.used.first_entry()?;
            let (known, number) = *first.key();
            if self.began.elapsed() < Duration::from_millis(known) + least {
                return None; // all others were at work later than that
            }
            #[cfg(test)]
            (self.looks += 1);
            let one = first.get();
            if one.stage() == Some(Stage::Idle) && one.rests_since(self.began) == known {
                return Some((number, Stage::Idle, Arc::clone(one)));
            }
            let one = first.remove();
            self.put_by_rest(number, one);
        }
    }

    fn put_by_rest(&mut self, number: u64, one: Arc<Progress>) {
        let idle = one.stage() == Some(Stage::Idle);
        let known = if idle { one.rests_since(self.began) } else { self.began.elapsed().as_millis() as u64 };
        one.known.store(known, Ordering::Relaxed);
        self.used.insert((known, number), one);
    }
}

fn displaced(stage: Stage) -> Reason {
    match stage {
        Stage::Unfinished => Reason::DisplacedUnfinished,
        Stage::Unused => Reason::DisplacedUnused,
        Stage::Idle | Stage::Busy => Reason::DisplacedIdle,
    }
}

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
            rows: Mutex::new(Rows { next: 0, rows: [Row::new(), Row::new()] }),
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
        if row.staying() >= self.most[serves as usize] {
            let displaced = row.gives_way(self.most[serves as usize]);
            self.count(serves, displaced.unwrap_or(Reason::Full));
            displaced?;
        }
        let progress = Arc::new(Progress::new());
        row.unfinished.insert(number, Arc::clone(&progress));
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
        row.open - row.staying()
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
        row.remove(self.number, &self.progress);
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
    fn a_flood_takes_no_more_than_half_of_the_places_from_those_that_rest() {
        run(async {
            let places = Arc::new(Places::new(8));
            let gateways: Vec<_> = (0..8).map(|_| enter(&places)).collect();
            gateways.iter().for_each(used);
            gateways.iter().for_each(|one| one.progress.rests());
            later(IDLE_GIVES_WAY).await;
            let flood: Vec<_> = (0..100).map(|_| enter(&places)).collect();
            let mut stay = 0;
            for one in &gateways {
                stay += usize::from(told(one).await.is_none());
            }
            assert_eq!(stay, 4);
            assert_eq!(flood.iter().filter(|one| one.progress.stage().is_some()).count(), 4);
            assert!(flood[99].progress.stage().is_some(), "who came last has the longest to go");
        });
    }

    #[test]
    fn who_worked_again_is_none_that_rests_longest() {
        run(async {
            let places = Arc::new(Places::new(3));
            let all = [enter(&places), enter(&places), enter(&places)];
            all.iter().for_each(used);
            all.iter().for_each(|one| one.progress.rests());
            later(REST_GIVES_WAY - SOON).await;
            assert!(places.enter(Serves::Everything).is_none());
            later(SOON).await;
            assert!(all[0].progress.carries());
            all[0].progress.rests();
            assert!(all[1].progress.carries());
            let new = enter(&places);
            assert_eq!(told(&all[2]).await, Some(Reason::DisplacedIdle));
            used(&new);
            later(REST_GIVES_WAY).await;
            let _newer = enter(&places);
            assert_eq!(told(&all[0]).await, Some(Reason::DisplacedIdle));
            assert_eq!(told(&all[1]).await, None);
        });
    }

    #[test]
    fn who_finds_no_place_does_not_look_at_all_others() {
        run(async {
            let most = 4_000;
            let places = Arc::new(Places::new(most));
            let mut held: Vec<_> = (0..most).map(|_| enter(&places)).collect();
            held.iter().for_each(used);
            for _ in 0..most {
                assert!(places.enter(Serves::Everything).is_none());
            }
            later(REST_GIVES_WAY).await;
            for _ in 0..most {
                assert!(places.enter(Serves::Everything).is_none());
            }
            let looks = |places: &Places| places.rows().rows[0].looks;
            assert!((most..5 * most).contains(&looks(&places)), "{}", looks(&places));

            held.clear();
            let before = looks(&places);
            let flood: Vec<_> = (0..3 * most).map(|_| enter(&places)).collect();
            assert!(looks(&places) - before < 5 * flood.len());
            drop(flood);
            let left = places.rows();
            assert_eq!((left.rows[0].staying(), left.rows[0].open), (0, 0));
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
