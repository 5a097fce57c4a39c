//! Remembers which pod has seen which beginning of a prompt, so that its KV cache is used again.
//! See `rollouts/picker/core/prefix.py`.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

const BLOCK: usize = 1024;
const ENDS: [usize; 10] = {
    let mut ends = [1, 2, 3, 4, 6, 8, 12, 16, 24, 32];
    let mut at = 0;
    while at < ends.len() {
        ends[at] *= BLOCK;
        at += 1;
    }
    ends
};
const _: () = assert!(ENDS[ENDS.len() - 1] == crate::reader::MAX_PREFIX);

/// Hashes kept, oldest out first: the prefixes of 20,000 long prompts.
const MAX_ENTRIES: usize = 200_000;
/// Pods that ever had a bit; when pods have come and gone this often, the index starts again.
const MAX_SLOTS: usize = 4096;

/// Hashes of blocks, seeded anew in each process: clients choose the bytes.
#[derive(Clone, Debug, Default)]
pub struct BlockHasher(RandomState);

impl BlockHasher {
    /// Hash of each whole block of a prompt, by itself: this may take a while, and needs no lock.
    pub fn digests(&self, prompt: &[u8]) -> Vec<u64> {
        let starts = std::iter::once(0).chain(ENDS);
        let blocks = starts.zip(ENDS).take_while(|(_, end)| *end <= prompt.len());
        blocks.map(|(start, end)| self.0.hash_one(&prompt[start..end])).collect()
    }

    /// Chained hashes of the blocks, seeded with the target model.
    pub fn chained(&self, model: &str, digests: &[u64]) -> Vec<u64> {
        if digests.is_empty() {
            return Vec::new();
        }
        let chain = |state: &mut u64, digest: &u64| {
            *state = self.0.hash_one((*state, *digest));
            Some(*state)
        };
        digests.iter().scan(self.0.hash_one(model), chain).collect()
    }
}

/// The set of pods that have a block, by their slots.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
struct Mask {
    low: u64,
    high: Vec<u64>,
}

impl Mask {
    fn has(&self, slot: usize) -> bool {
        let word = if slot < 64 { self.low } else { self.high.get(slot / 64 - 1).copied().unwrap_or(0) };
        word >> (slot % 64) & 1 == 1
    }

    fn set(&mut self, slot: usize) {
        let bit = 1 << (slot % 64);
        if slot < 64 {
            self.low |= bit;
            return;
        }
        if self.high.len() < slot / 64 {
            self.high.resize(slot / 64, 0);
        }
        self.high[slot / 64 - 1] |= bit;
    }
}

/// Block hash to the set of pods that have it.
#[derive(Clone, Debug, Default)]
pub struct PrefixIndex {
    masks: HashMap<u64, Mask>,
    order: VecDeque<u64>, // the keys of `masks`, oldest first
    slots: HashMap<Arc<str>, usize>,
}

impl PrefixIndex {
    /// Number of leading blocks that each of the addresses has.
    pub fn match_all<'a>(&self, addresses: impl Iterator<Item = &'a str>, hashes: &[u64]) -> Vec<usize> {
        let mut masks = Vec::with_capacity(hashes.len());
        masks.extend(hashes.iter().map_while(|block| self.masks.get(block)));
        let leading = |slot: usize| masks.iter().take_while(|mask| mask.has(slot)).count();
        let count = |address| self.slots.get(address).map_or(0, |slot| leading(*slot));
        addresses.map(count).collect()
    }

    /// The pod at `address` is about to see a prompt with these blocks.
    pub fn add(&mut self, address: &Arc<str>, hashes: &[u64]) {
        let slot = match self.slots.get(address) {
            Some(slot) => *slot,
            None => {
                if self.slots.len() >= MAX_SLOTS {
                    self.masks.clear();
                    self.order.clear();
                    self.slots.clear();
                }
                let slot = self.slots.len();
                self.slots.insert(Arc::clone(address), slot);
                slot
            }
        };
        for block in hashes {
            let mask = self.masks.entry(*block).or_insert_with(|| {
                self.order.push_back(*block);
                Mask::default()
            });
            mask.set(slot);
        }
        while self.masks.len() > MAX_ENTRIES {
            let Some(oldest) = self.order.pop_front() else { break };
            self.masks.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leading_blocks_are_counted_for_each_pod() {
        let (hasher, mut index) = (BlockHasher::default(), PrefixIndex::default());
        let prompt: Vec<u8> = (0..4096u32).map(|at| (at / 1024) as u8).collect();
        let digests = hasher.digests(&prompt);
        assert_eq!(digests.len(), 4);
        let hashes = hasher.chained("m", &digests);
        assert_ne!(hashes, hasher.chained("n", &digests));
        for number in 0..100 {
            let address: Arc<str> = format!("pod-{number}").into();
            index.add(&address, &hashes[..number % 5]);
        }
        let asked = ["pod-0", "pod-3", "pod-99", "stranger"];
        assert_eq!(index.match_all(asked.into_iter(), &hashes), [0, 3, 4, 0]);
    }
}
