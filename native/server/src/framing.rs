//! gRPC's framing: a flag, a length of four bytes, a message; cut into DATA frames without regard to messages.

use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::{Buf, Bytes, BytesMut};

use crate::limits::MAX_ASSEMBLING;

const PREFIX: usize = 5;

/// Below this a message gets memory of its own, for what is kept of it would keep the buffer of everything that was
/// read along with it. Copying so much takes a microsecond.
const SHARED_FROM: usize = 16 << 10;

/// Memory that is set aside for a message at once, whatever length it claims.
const FIRST_GRANT: usize = 128 << 10;

/// Why a message is not accepted.
#[derive(Debug, Eq, PartialEq)]
pub(crate) enum Unacceptable {
    TooLarge(usize),
    Compressed,
    NoMemory,
}

/// Puts messages together. What all of these hold of unfinished messages is counted in `shared`.
pub(crate) struct Assembler<'a> {
    max_message: usize,
    shared: &'a AtomicUsize,
    charged: usize,
    chunk: Bytes,
    prefix: [u8; PREFIX],
    prefix_len: usize,
    partial: BytesMut,
    wanted: usize,
}

impl<'a> Assembler<'a> {
    pub(crate) fn new(max_message: usize, shared: &'a AtomicUsize) -> Self {
        Self {
            max_message,
            shared,
            charged: 0,
            chunk: Bytes::new(),
            prefix: [0; PREFIX],
            prefix_len: 0,
            partial: BytesMut::new(),
            wanted: 0,
        }
    }

    /// Take the payload of a DATA frame. The messages before it have been fetched.
    pub(crate) fn push(&mut self, chunk: Bytes) {
        debug_assert!(self.chunk.is_empty());
        self.chunk = chunk;
    }

    /// The next message that is complete.
    pub(crate) fn next(&mut self) -> Result<Option<Bytes>, Unacceptable> {
        if self.prefix_len < PREFIX && !self.read_prefix()? {
            return Ok(None);
        }
        if self.partial.is_empty() && self.chunk.len() >= self.wanted {
            self.prefix_len = 0;
            let message = self.chunk.split_to(self.wanted);
            return Ok(Some(if self.wanted < SHARED_FROM { Bytes::copy_from_slice(&message) } else { message }));
        }
        self.grow()
    }

    /// Whether the stream ended in the midst of a message.
    pub(crate) fn is_torn(&self) -> bool {
        self.prefix_len > 0
    }

    fn read_prefix(&mut self) -> Result<bool, Unacceptable> {
        let take = self.chunk.len().min(PREFIX - self.prefix_len);
        self.prefix[self.prefix_len..self.prefix_len + take].copy_from_slice(&self.chunk[..take]);
        self.chunk.advance(take);
        self.prefix_len += take;
        if self.prefix_len < PREFIX {
            return Ok(false);
        }
        let [flag, length @ ..] = self.prefix;
        self.wanted = u32::from_be_bytes(length) as usize;
        if flag != 0 {
            return Err(Unacceptable::Compressed);
        }
        if self.wanted > self.max_message {
            return Err(Unacceptable::TooLarge(self.wanted));
        }
        Ok(true)
    }

    fn grow(&mut self) -> Result<Option<Bytes>, Unacceptable> {
        let take = self.chunk.len().min(self.wanted - self.partial.len());
        if take == 0 {
            return Ok(None);
        }
        if self.shared.fetch_add(take, Ordering::Relaxed) + take > MAX_ASSEMBLING {
            self.shared.fetch_sub(take, Ordering::Relaxed);
            return Err(Unacceptable::NoMemory);
        }
        self.charged += take;
        if self.partial.is_empty() {
            self.partial.reserve(self.wanted.min(FIRST_GRANT));
        }
        self.partial.extend_from_slice(&self.chunk[..take]);
        self.chunk.advance(take);
        if self.partial.len() < self.wanted {
            return Ok(None);
        }
        self.prefix_len = 0;
        self.release();
        Ok(Some(std::mem::take(&mut self.partial).freeze()))
    }

    fn release(&mut self) {
        self.shared.fetch_sub(self.charged, Ordering::Relaxed);
        self.charged = 0;
    }
}

impl Drop for Assembler<'_> {
    fn drop(&mut self) {
        self.release();
    }
}

/// What goes out in one DATA frame: a prefix and a message that is not copied, or whole messages without a prefix.
#[derive(Debug)]
pub(crate) struct Piece {
    prefix: [u8; PREFIX],
    sent: usize,
    body: Bytes,
}

impl Piece {
    pub(crate) fn message(body: Bytes) -> Self {
        Self { prefix: prefix(body.len()), sent: 0, body }
    }

    /// All these messages in one buffer, copied.
    pub(crate) fn joined(messages: &[Bytes], length: usize) -> Self {
        let mut buffer = BytesMut::with_capacity(length);
        for message in messages {
            buffer.extend_from_slice(&prefix(message.len()));
            buffer.extend_from_slice(message);
        }
        Self { prefix: [0; PREFIX], sent: PREFIX, body: buffer.freeze() }
    }

    /// The first `count` bytes, which are taken away here.
    pub(crate) fn split_to(&mut self, count: usize) -> Self {
        let of_prefix = count.min(PREFIX - self.sent);
        let mut first = Self { prefix: self.prefix, sent: self.sent, body: Bytes::new() };
        if of_prefix < PREFIX - self.sent {
            // A window of less than five bytes: shift, so that the part ends where the prefix does.
            let part = &self.prefix[self.sent..self.sent + of_prefix];
            first.sent = PREFIX - of_prefix;
            first.prefix[PREFIX - of_prefix..].copy_from_slice(part);
        }
        self.sent += of_prefix;
        first.body = self.body.split_to(count - of_prefix);
        first
    }

    /// Bytes that `message` takes on the wire.
    pub(crate) fn size(message: &Bytes) -> usize {
        PREFIX + message.len()
    }
}

fn prefix(length: usize) -> [u8; PREFIX] {
    // The core makes no message of 4 GiB: bodies are cut long before.
    let [a, b, c, d] = u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes();
    [0, a, b, c, d]
}

impl Buf for Piece {
    fn remaining(&self) -> usize {
        PREFIX - self.sent + self.body.len()
    }

    fn chunk(&self) -> &[u8] {
        if self.sent < PREFIX { &self.prefix[self.sent..] } else { &self.body }
    }

    fn chunks_vectored<'a>(&'a self, slices: &mut [std::io::IoSlice<'a>]) -> usize {
        let mut used = 0;
        for part in [&self.prefix[self.sent..], &self.body[..]] {
            if !part.is_empty() && used < slices.len() {
                slices[used] = std::io::IoSlice::new(part);
                used += 1;
            }
        }
        used
    }

    fn advance(&mut self, count: usize) {
        let of_prefix = count.min(PREFIX - self.sent);
        self.sent += of_prefix;
        self.body.advance(count - of_prefix);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wire(messages: &[Vec<u8>]) -> Vec<u8> {
        let mut out = Vec::new();
        for message in messages {
            out.extend_from_slice(&prefix(message.len()));
            out.extend_from_slice(message);
        }
        out
    }

    #[test]
    fn messages_come_out_however_they_are_cut() {
        let sent: Vec<Vec<u8>> = [0, 1, 7, 300, 20_000, 3].iter().map(|n| (0..*n).map(|i| i as u8).collect()).collect();
        let bytes = Bytes::from(wire(&sent));
        for step in [1, 2, 3, 4, 5, 6, 9, 4_096, 100_000] {
            let shared = AtomicUsize::new(0);
            let mut assembler = Assembler::new(1 << 20, &shared);
            let mut got = Vec::new();
            let mut rest = bytes.clone();
            while !rest.is_empty() {
                assembler.push(rest.split_to(step.min(rest.len())));
                while let Some(message) = assembler.next().unwrap() {
                    got.push(message.to_vec());
                }
            }
            assert_eq!(got, sent, "in steps of {step}");
            assert!(!assembler.is_torn());
            assert_eq!(shared.load(Ordering::Relaxed), 0);
        }
    }

    #[test]
    fn what_is_unfinished_is_counted_until_it_goes() {
        let shared = AtomicUsize::new(0);
        let mut assembler = Assembler::new(1 << 20, &shared);
        assembler.push(Bytes::from_static(&[0, 0, 0, 1, 0, 1, 2, 3]));
        assert_eq!(assembler.next(), Ok(None));
        assert_eq!(shared.load(Ordering::Relaxed), 3);
        assert!(assembler.is_torn());
        drop(assembler);
        assert_eq!(shared.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn refuses_what_is_too_large_compressed_or_without_room() {
        let shared = AtomicUsize::new(0);
        let mut assembler = Assembler::new(10, &shared);
        assembler.push(Bytes::from_static(&[0, 0, 0, 0, 11]));
        assert_eq!(assembler.next(), Err(Unacceptable::TooLarge(11)));
        let mut assembler = Assembler::new(10, &shared);
        assembler.push(Bytes::from_static(&[1, 0, 0, 0, 1]));
        assert_eq!(assembler.next(), Err(Unacceptable::Compressed));
        let full = AtomicUsize::new(MAX_ASSEMBLING);
        let mut assembler = Assembler::new(10, &full);
        assembler.push(Bytes::from_static(&[0, 0, 0, 0, 9, 1]));
        assert_eq!(assembler.next(), Err(Unacceptable::NoMemory));
        drop(assembler);
        assert_eq!(full.load(Ordering::Relaxed), MAX_ASSEMBLING);
    }

    #[test]
    fn a_piece_can_be_cut_anywhere() {
        let body = Bytes::from((0..40u8).collect::<Vec<_>>());
        let whole = wire(&[body.to_vec()]);
        for first in 0..=whole.len() {
            let mut rest = Piece::message(body.clone());
            let mut start = rest.split_to(first);
            let mut got = start.copy_to_bytes(start.remaining()).to_vec();
            assert_eq!(got.len(), first);
            got.extend_from_slice(&rest.copy_to_bytes(rest.remaining()));
            assert_eq!(got, whole, "cut at {first}");
        }
        let two = [body.clone(), Bytes::from_static(b"x")];
        let mut joined = Piece::joined(&two, 51);
        assert_eq!(joined.copy_to_bytes(51), wire(&[body.to_vec(), b"x".to_vec()]));
    }
}
