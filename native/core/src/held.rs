//! The body of one request while it is held back, in the chunks that it came in.

use bytes::{Bytes, BytesMut};
use std::collections::VecDeque;
use std::sync::Arc;

use crate::ports::BufferBudget;
use crate::refusals::{Refusal, overloaded, too_large};

/// Chunks are put together up to this many bytes: each that is kept by itself costs about a hundred beyond its own, so
/// that a body in chunks of one byte would take a hundred times what is counted.
pub const BLOCK: usize = 4096;

/// Counts its bytes in the budget that all streams share, until `release` or its end.
///
/// `chunks` may be taken off as they are sent, to let go of them early; `size` is that of the whole.
#[derive(Debug)]
pub struct HeldBody {
    budget: Arc<BufferBudget>,
    pub chunks: VecDeque<Bytes>,
    size: usize,
    joined: bool, // the last chunk is a block of ours, not a slice of what came
}

impl HeldBody {
    #[must_use]
    pub fn new(budget: Arc<BufferBudget>) -> Self {
        Self { budget, chunks: VecDeque::new(), size: 0, joined: false }
    }

    /// Bytes that are counted.
    #[must_use]
    pub fn size(&self) -> usize {
        self.size
    }

    /// Hold one more chunk.
    ///
    /// # Errors
    /// The refusal when it is too much for this stream or for all of them.
    pub fn add(&mut self, chunk: Bytes) -> Result<(), Refusal> {
        let limit = self.budget.body_limit;
        if self.size + chunk.len() > limit {
            return Err(too_large(limit));
        }
        if !self.budget.take(chunk.len(), self.size + chunk.len()) {
            return Err(overloaded());
        }
        self.size += chunk.len();
        self.append(chunk);
        Ok(())
    }

    fn append(&mut self, chunk: Bytes) {
        let Some(last) = self.chunks.back_mut().filter(|last| last.len() + chunk.len() <= BLOCK) else {
            self.joined = false;
            self.chunks.push_back(chunk);
            return;
        };
        let taken = std::mem::take(last);
        let own = if self.joined { taken.try_into_mut() } else { Err(taken) };
        let mut block = own.unwrap_or_else(|shared| {
            let mut block = BytesMut::with_capacity(shared.len() + chunk.len());
            block.extend_from_slice(&shared);
            block
        });
        block.extend_from_slice(&chunk);
        *last = block.freeze();
        self.joined = true;
    }

    /// At most `size` bytes from `start` on; a slice where they lie in one chunk.
    #[must_use]
    pub fn read(&self, mut start: usize, size: usize) -> Bytes {
        let mut found: Vec<u8> = Vec::new();
        for chunk in &self.chunks {
            if start < chunk.len() {
                let end = chunk.len().min(start + size - found.len());
                if found.is_empty() && end - start == size {
                    return chunk.slice(start..end);
                }
                found.extend_from_slice(&chunk[start..end]);
                if found.len() >= size {
                    break;
                }
            }
            start = start.saturating_sub(chunk.len());
        }
        found.into()
    }

    /// Let go of everything. Safe to call more than once.
    pub fn release(&mut self) {
        self.budget.give_back(self.size);
        self.size = 0;
        self.chunks.clear();
    }
}

/// Bytes that are counted until it is dropped.
#[derive(Debug)]
struct Counted {
    bytes: Bytes,
    _held: HeldBody,
}

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl HeldBody {
    /// The last bytes of the body: what is held stays counted until nobody has them any more, the transport included.
    #[must_use]
    pub fn counted_with(self, bytes: Bytes) -> Bytes {
        Bytes::from_owner(Counted { bytes, _held: self })
    }
}

impl Drop for HeldBody {
    fn drop(&mut self) {
        self.release();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_chunks_are_put_together_and_large_ones_are_not_copied() {
        let mut held = HeldBody::new(Arc::default());
        let (times, size) = if cfg!(miri) { (5, 8) } else { (40, 1) };
        for byte in 0..=255u8 {
            for _ in 0..times {
                held.add(Bytes::from(vec![byte; size])).unwrap();
            }
        }
        let large = Bytes::from(vec![7; BLOCK]);
        held.add(large.clone()).unwrap();

        assert_eq!(held.size(), 256 * 40 + BLOCK);
        assert_eq!(held.chunks.iter().map(Bytes::len).collect::<Vec<_>>(), [BLOCK, BLOCK, 2048, BLOCK]);
        assert_eq!(held.chunks[3].as_ptr(), large.as_ptr());
        let want: Vec<u8> = (0..=255).flat_map(|byte| [byte; 40]).collect();
        assert_eq!(held.read(0, 256 * 40), want);
    }
}
