//! Replaces a span of a body that is held in chunks; every other byte stays, where it is.

use bytes::Bytes;
use smallvec::smallvec;
use std::collections::VecDeque;

use crate::messages::Segments;

/// Bytes of one body reply: some builds of Envoy cap messages at 64 KiB, and the envelope needs room.
pub const MAX_CHUNK: usize = 62_000;

/// The chunks with a span replaced, in pieces of at most `limit` bytes. A piece shares the chunks that it is cut from.
#[derive(Debug)]
pub struct Splice {
    chunks: VecDeque<Bytes>,
    start: usize,
    end: usize,
    /// What replaces the span, until it is placed.
    new: Option<Bytes>,
    limit: usize,
    offset: usize,
    /// Cut, and not yet given.
    ready: VecDeque<Bytes>,
    count: usize,
    /// Python looks at a single chunk that fits as a whole; of several pieces the sum decides.
    emitted: bool,
    done: bool,
}

/// `[start, end)` replaced by `new`, in pieces of at most [`MAX_CHUNK`] bytes.
///
/// `start == end` with an empty `new` changes nothing, else it inserts. An empty body gives one empty piece.
#[must_use]
pub fn splice(chunks: VecDeque<Bytes>, start: usize, end: usize, new: Bytes) -> Splice {
    splice_within(chunks, start, end, new, MAX_CHUNK)
}

/// The same in pieces of at most `limit` bytes.
#[must_use]
pub fn splice_within(chunks: VecDeque<Bytes>, start: usize, end: usize, new: Bytes, limit: usize) -> Splice {
    Splice {
        chunks,
        start,
        end,
        new: Some(new),
        limit,
        offset: 0,
        ready: VecDeque::new(),
        count: 0,
        emitted: false,
        done: false,
    }
}

impl Splice {
    fn push(&mut self, part: Bytes) {
        if !part.is_empty() {
            self.count += part.len();
            self.ready.push_back(part);
        }
    }

    /// Cut the next chunk; false when there is none.
    fn cut(&mut self) -> bool {
        let Some(chunk) = self.chunks.pop_front() else {
            let Some(new) = self.new.take() else { return false };
            self.push(new);
            return true;
        };
        let (size, offset) = (chunk.len(), self.offset);
        self.offset += size;
        if self.offset < self.start || (self.new.is_none() && offset >= self.end) {
            self.push(chunk);
            return true;
        }
        self.push(chunk.slice(..self.start.saturating_sub(offset).min(size)));
        if let Some(new) = self.new.take() {
            self.push(new);
        }
        self.push(chunk.slice(self.end.saturating_sub(offset).min(size)..));
        true
    }

    /// The first `size` bytes of what is ready.
    fn take(&mut self, mut size: usize) -> Segments {
        let mut found: Segments = smallvec![];
        self.count -= size;
        while size > 0 {
            let Some(mut part) = self.ready.pop_front() else { break };
            if part.len() > size {
                self.ready.push_front(part.split_off(size));
            }
            size -= part.len();
            found.push(part);
        }
        found
    }
}

impl Iterator for Splice {
    type Item = Segments;

    fn next(&mut self) -> Option<Segments> {
        while self.count < self.limit && self.cut() {}
        if self.count >= self.limit {
            self.emitted = true;
            return Some(self.take(self.limit));
        }
        if self.done || (self.count == 0 && self.emitted) {
            return None;
        }
        self.done = true;
        self.emitted = true;
        Some(self.take(self.count))
    }
}
