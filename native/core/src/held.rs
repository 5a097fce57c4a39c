//! The body of one request while it is held back, in the chunks that it came in.

use bytes::Bytes;
use std::collections::VecDeque;
use std::sync::Arc;

use crate::ports::BufferBudget;
use crate::refusals::{Refusal, overloaded, too_large};

/// Counts its bytes in the budget that all streams share, until `release` or its end.
///
/// `chunks` may be taken off as they are sent, to let go of them early; `size` is that of the whole.
#[derive(Debug)]
pub struct HeldBody {
    budget: Arc<BufferBudget>,
    pub chunks: VecDeque<Bytes>,
    size: usize,
}

impl HeldBody {
    #[must_use]
    pub fn new(budget: Arc<BufferBudget>) -> Self {
        Self { budget, chunks: VecDeque::new(), size: 0 }
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
        if !self.budget.take(chunk.len()) {
            return Err(overloaded());
        }
        self.size += chunk.len();
        self.chunks.push_back(chunk);
        Ok(())
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
