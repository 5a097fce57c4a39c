//! Which target a request gets: exact without a key, sticky with one. See `rollouts/picker/core/split.py`.

use std::collections::HashMap;
use std::sync::Arc;

use blake2b_simd::Params;

/// Part of every hash. Changing it moves every session to a new place: never do.
pub const SEED: &[u8] = b"inference-rollouts/1";

/// Debts between epochs are rounded to this, or the integers would grow with every weight change.
const GRAIN: i128 = 1 << 20;

/// Twice as many as one rule may have. Of two targets the weights add up to less than 2^40, so that no product here,
/// of two sums in units of `GRAIN`, leaves 128 bits.
pub const MAX_TARGETS: usize = 200;

/// A model name and its weight, an integer whose sum over the targets is the whole.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SplitTarget {
    pub name: Arc<str>,
    pub weight: u64,
    /// What makes the target's hash its own.
    person: [u8; 16],
}

impl SplitTarget {
    pub fn new(name: impl Into<Arc<str>>, weight: u64) -> Self {
        let name = name.into();
        let mut person = [0; 16];
        person.copy_from_slice(Params::new().hash_length(16).hash(name.as_bytes()).as_bytes());
        Self { name, weight, person }
    }

    fn score(&self, key: &[u8]) -> f64 {
        let hash = Params::new().hash_length(8).key(SEED).personal(&self.person).hash(key);
        let mut digest = [0; 8];
        digest.copy_from_slice(hash.as_bytes());
        // 53 bits and a half: strictly between 0 and 1, and exact in a float.
        let unit = ((u64::from_be_bytes(digest) >> 11) as f64 + 0.5) * (-53f64).exp2();
        -unit.ln() / self.weight as f64
    }
}

/// The target of `key`, by its index. At least one weight must be positive; a weight of 0 gets no key.
pub fn sticky(targets: &[SplitTarget], key: &[u8]) -> usize {
    let (mut best, mut chosen) = (f64::INFINITY, 0);
    for (index, target) in targets.iter().enumerate().filter(|(_, target)| target.weight > 0) {
        let score = target.score(key);
        if score < best || (score == best && target.name < targets[chosen].name) {
            (best, chosen) = (score, index);
        }
    }
    chosen
}

/// Splits a sequence of requests exactly.
///
/// A change of weights begins a new epoch: counting starts again. Where the same two targets stay, what is owed from
/// the epoch before is carried over, so that the sum over all epochs is exact too; with more targets no rule can keep
/// both (the carried debt of one could push another more than a request off).
#[derive(Clone, Debug)]
pub struct Diffusion {
    targets: Vec<SplitTarget>,
    // All figures are integers in units of 1 / total request.
    given: Vec<i128>,
    quota: Vec<i128>,
    total: i128,
    step: i128,
    slack: i128,
}

impl Diffusion {
    /// At least one weight must be positive.
    pub fn new(targets: &[SplitTarget]) -> Self {
        Self::start(targets, &HashMap::new())
    }

    /// New weights; whether an epoch began. None does when the proportions are as before.
    pub fn update(&mut self, targets: &[SplitTarget]) -> bool {
        if proportions(targets) == proportions(&self.targets) {
            return false;
        }
        *self = Self::start(targets, &self.debts());
        true
    }

    /// Begin an epoch. Debts are in units of 1 / `GRAIN` request.
    fn start(targets: &[SplitTarget], debts: &HashMap<Arc<str>, i128>) -> Self {
        let targets: Vec<_> = targets.iter().filter(|target| target.weight > 0).cloned().collect();
        let unit = common(&targets);
        let carried =
            targets.len() == 2 && debts.len() == 2 && targets.iter().all(|target| debts.contains_key(&target.name));
        let scale = if carried { GRAIN } else { 1 };
        let quota: Vec<_> = targets.iter().map(|target| i128::from(target.weight / unit) * scale).collect();
        let total: i128 = quota.iter().sum();
        let owed = |target: &SplitTarget| debts.get(&target.name).filter(|_| carried).copied().unwrap_or(0);
        let given = targets.iter().map(|target| (-owed(target) * total).div_euclid(GRAIN)).collect();
        let slack = 2 * targets.len() as i128 - 2;
        Self { targets, given, quota, total, step: 0, slack }
    }

    /// What each of two targets is still owed, in units of 1 / `GRAIN` request; the two cancel out.
    fn debts(&self) -> HashMap<Arc<str>, i128> {
        let [first, second] = &self.targets[..] else { return HashMap::new() };
        let owed = self.quota[0] * self.step - self.given[0];
        let debt = (owed * GRAIN).div_euclid(self.total);
        HashMap::from([(Arc::clone(&first.name), debt), (Arc::clone(&second.name), -debt)])
    }

    /// The target of the next request.
    pub fn take(&mut self) -> &Arc<str> {
        self.step += 1;
        let (total, slack) = (self.total, self.slack);
        if slack == 0 {
            return &self.targets[0].name;
        }
        let mut chosen = 0;
        let mut best: Option<(i128, i128)> = None; // deadline as a fraction, the smallest wins
        for (index, (quota, given)) in self.quota.iter().zip(&self.given).enumerate() {
            let owed = quota * self.step - given;
            if slack * owed < total {
                continue; // giving it one now would put it more than its bound ahead
            }
            let left = (slack - 1) * total - slack * owed;
            if best.is_none_or(|(left_of_best, quota_of_best)| left * quota_of_best < left_of_best * quota) {
                (best, chosen) = (Some((left, *quota)), index);
            }
        }
        self.given[chosen] += total;
        if self.step == total {
            // All debts are as at the start: keeps the integers small.
            for (given, quota) in self.given.iter_mut().zip(&self.quota) {
                *given -= quota * total;
            }
            self.step = 0;
        }
        &self.targets[chosen].name
    }
}

fn common(active: &[SplitTarget]) -> u64 {
    active.iter().fold(0, |unit, target| gcd(unit, target.weight)).max(1)
}

fn gcd(mut one: u64, mut other: u64) -> u64 {
    while other > 0 {
        (one, other) = (other, one % other);
    }
    one
}

fn proportions(targets: &[SplitTarget]) -> Vec<(&str, u64)> {
    let unit = common(targets);
    let active = targets.iter().filter(|target| target.weight > 0);
    let mut found: Vec<_> = active.map(|target| (&*target.name, target.weight / unit)).collect();
    found.sort_unstable();
    found.dedup();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_prefix_of_the_sequence_is_exact() {
        let targets = [SplitTarget::new("a", 1), SplitTarget::new("b", 30), SplitTarget::new("c", 69)];
        let mut split = Diffusion::new(&targets);
        let mut counts: HashMap<Arc<str>, f64> = HashMap::new();
        for step in 1..=if cfg!(miri) { 100 } else { 1000 } {
            *counts.entry(Arc::clone(split.take())).or_default() += 1.0;
            for target in &targets {
                let due = f64::from(step) * target.weight as f64 / 100.0;
                assert!((counts.get(&target.name).copied().unwrap_or(0.0) - due).abs() < 1.0);
            }
        }
    }

    #[test]
    fn a_weight_of_nothing_gets_no_key() {
        let targets = [SplitTarget::new("a", 0), SplitTarget::new("b", 1)];
        assert!((0..100).all(|key: u32| sticky(&targets, &key.to_be_bytes()) == 1));
    }
}
