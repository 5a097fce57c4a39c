//! gRPC's framing: a flag, a length of four bytes, a message; cut into DATA frames without regard to messages.

use std::cell::Cell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use rollouts_core::encoding::Encoded;
use tokio::sync::Notify;

use crate::limits::{MAX_QUEUED, QUEUED_SHARE};

const PREFIX: usize = 5;

/// Below this a message gets memory of its own, for what is kept of it would keep the buffer of everything that was
/// read along with it. Copying so much takes a microsecond.
pub(crate) const SHARED_FROM: usize = 16 << 10;

/// Memory that is set aside for a message at once, whatever length it claims.
const FIRST_GRANT: usize = 128 << 10;

/// Why a message is not accepted.
#[derive(Debug, Eq, PartialEq)]
pub(crate) enum Unacceptable {
    TooLarge(usize),
    Compressed,
    /// The flag is neither of the two that there are.
    NoMessage(u8),
    NoMemory,
}

/// Bytes that all connections have together, and how many they may have.
#[derive(Debug)]
pub(crate) struct Sum {
    used: AtomicUsize,
    most: usize,
}

impl Sum {
    pub(crate) fn new(most: usize) -> Self {
        Self { used: AtomicUsize::new(0), most }
    }

    #[cfg(test)]
    pub(crate) fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    #[cfg(test)]
    pub(crate) fn most(&self) -> usize {
        self.most
    }

    fn is_full(&self) -> bool {
        self.used.load(Ordering::Relaxed) >= self.most
    }

    fn add(&self, size: usize) {
        self.used.fetch_add(size, Ordering::Relaxed);
    }

    fn take(&self, size: usize) {
        self.used.fetch_sub(size, Ordering::Relaxed);
    }
}

/// Room for streams and what came of messages that are not done with: of all connections, and of one.
#[derive(Clone, Copy)]
pub(crate) struct Room<'a> {
    pub(crate) all: &'a Sum,
    pub(crate) connection: &'a Cell<usize>,
}

impl<'a> Room<'a> {
    /// A connection may have no more than what is left: the more of them want much, the less each has, and there is
    /// something left for those that want little (Choudhury and Hahne's dynamic thresholds).
    fn take(&self, size: usize) -> bool {
        if size == 0 {
            return true; // others may have taken so much since that less is left than this connection has
        }
        let mine = self.connection.get() + size;
        self.all.add(size);
        if mine + self.all.used.load(Ordering::Relaxed) > self.all.most {
            self.all.take(size);
            return false;
        }
        self.connection.set(mine);
        true
    }

    fn give_back(&self, size: usize) {
        self.connection.set(self.connection.get() - size);
        self.all.take(size);
    }

    /// Count `size` bytes until what is returned is dropped, if there is room for them.
    pub(crate) fn charge(self, size: usize) -> Option<Charge<'a>> {
        self.take(size).then(|| Charge { room: self, size })
    }
}

/// Bytes that are counted in a room.
pub(crate) struct Charge<'a> {
    room: Room<'a>,
    size: usize,
}

impl Charge<'_> {
    /// Count so many more, if there is room for them.
    fn grow(&mut self, size: usize) -> bool {
        let taken = self.room.take(size);
        self.size += if taken { size } else { 0 };
        taken
    }

    fn release(&mut self) {
        self.room.give_back(std::mem::take(&mut self.size));
    }
}

impl Drop for Charge<'_> {
    fn drop(&mut self) {
        self.release();
    }
}

/// What came on a stream while it was not to be read on: its window stays closed for so much, and a copy keeps no
/// buffer of everything that was read along with it.
pub(crate) struct Backlog<'a> {
    bytes: BytesMut,
    charge: Charge<'a>,
    /// The client said that nothing follows.
    pub(crate) ended: bool,
}

impl<'a> Backlog<'a> {
    pub(crate) fn new(room: Room<'a>) -> Self {
        Self { bytes: BytesMut::new(), charge: Charge { room, size: 0 }, ended: false }
    }

    /// Whether there was room for it.
    pub(crate) fn add(&mut self, data: &[u8]) -> bool {
        let room = self.charge.grow(data.len());
        if room {
            self.bytes.extend_from_slice(data);
        }
        room
    }

    /// All of it; nothing where there is none.
    pub(crate) fn take(&mut self) -> Option<Bytes> {
        self.charge.release();
        (!self.bytes.is_empty()).then(|| std::mem::take(&mut self.bytes).freeze())
    }
}

/// Puts messages together. What it holds of unfinished ones is counted in `room`.
pub(crate) struct Assembler<'a> {
    max_message: usize,
    charge: Charge<'a>,
    chunk: Bytes,
    prefix: [u8; PREFIX],
    prefix_len: usize,
    partial: BytesMut,
    wanted: usize,
}

impl<'a> Assembler<'a> {
    pub(crate) fn new(max_message: usize, room: Room<'a>) -> Self {
        Self {
            max_message,
            charge: Charge { room, size: 0 },
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

    /// Whether a message has begun and is not complete.
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
        match flag {
            _ if self.wanted > self.max_message => Err(Unacceptable::TooLarge(self.wanted)),
            0 => Ok(true),
            1 => Err(Unacceptable::Compressed),
            other => Err(Unacceptable::NoMessage(other)),
        }
    }

    fn grow(&mut self) -> Result<Option<Bytes>, Unacceptable> {
        let take = self.chunk.len().min(self.wanted - self.partial.len());
        if take == 0 {
            return Ok(None);
        }
        if !self.charge.grow(take) {
            return Err(Unacceptable::NoMemory);
        }
        if self.partial.is_empty() {
            self.partial.reserve(self.wanted.min(FIRST_GRANT));
        }
        self.partial.extend_from_slice(&self.chunk[..take]);
        self.chunk.advance(take);
        if self.partial.len() < self.wanted {
            return Ok(None);
        }
        self.prefix_len = 0;
        self.charge.release();
        Ok(Some(std::mem::take(&mut self.partial).freeze()))
    }
}

/// Counts what streams gave to HTTP/2 and the socket does not have yet.
#[derive(Debug)]
pub(crate) struct Queue {
    bytes: Cell<usize>,
    all: Arc<Sum>,
    less: Notify,
}

impl Queue {
    /// `all`: of all connections.
    pub(crate) fn new(all: Arc<Sum>) -> Self {
        Self { bytes: Cell::new(0), all, less: Notify::new() }
    }

    /// Bytes that wait.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes.get()
    }

    /// Wait until there is room for one more piece. While all connections have too much, one has its share.
    pub(crate) async fn room(&self) {
        while self.bytes.get() >= if self.all.is_full() { QUEUED_SHARE } else { MAX_QUEUED } {
            self.less.notified().await;
        }
    }

    fn add(&self, size: usize) {
        self.bytes.set(self.bytes.get() + size);
        self.all.add(size);
    }

    fn take(&self, size: usize) {
        let before = self.bytes.get();
        self.bytes.set(before - size);
        self.all.take(size);
        if [QUEUED_SHARE, MAX_QUEUED].iter().any(|most| (before - size..before).contains(&(most - 1))) {
            self.less.notify_waiters();
        }
    }
}

/// What goes out in one DATA frame: messages with their prefixes, in parts that are not copied when they are long.
#[derive(Debug)]
pub(crate) struct Piece {
    first: Bytes,
    rest: VecDeque<Bytes>,
    remaining: usize,
    /// Where these bytes are counted until they are sent or dropped.
    queue: Option<Rc<Queue>>,
}

impl Piece {
    /// Count it from now on.
    pub(crate) fn queued(mut self, queue: &Rc<Queue>) -> Self {
        queue.add(self.remaining);
        self.queue = Some(Rc::clone(queue));
        self
    }

    /// One message; its body is shared.
    pub(crate) fn message(message: Encoded) -> Self {
        let remaining = Self::size(&message);
        let mut first = BytesMut::with_capacity(PREFIX + message.head.len());
        put_prefix(&mut first, remaining - PREFIX);
        first.extend_from_slice(&message.head);
        let mut rest: VecDeque<Bytes> = message.body.into_iter().filter(|part| !part.is_empty()).collect();
        if !message.tail.is_empty() {
            rest.push_back(Bytes::from_static(message.tail));
        }
        Self { first: first.freeze(), rest, remaining, queue: None }
    }

    /// All these messages in one buffer of `length` bytes, copied.
    pub(crate) fn joined(messages: &[Encoded], length: usize) -> Self {
        let mut buffer = BytesMut::with_capacity(length);
        for message in messages {
            put_prefix(&mut buffer, message.len());
            buffer.extend_from_slice(&message.head);
            message.body.iter().for_each(|part| buffer.extend_from_slice(part));
            buffer.extend_from_slice(message.tail);
        }
        Self { first: buffer.freeze(), rest: VecDeque::new(), remaining: length, queue: None }
    }

    /// The first `count` bytes, which are taken away here. Not of a piece that is queued.
    pub(crate) fn split_to(&mut self, count: usize) -> Self {
        let mut parts = VecDeque::new();
        let mut wanted = count;
        while wanted > 0 {
            let take = wanted.min(self.first.len());
            parts.push_back(self.first.split_to(take));
            self.settle();
            wanted -= take;
        }
        self.remaining -= count;
        Self { first: parts.pop_front().unwrap_or_default(), rest: parts, remaining: count, queue: None }
    }

    /// Bytes that `message` takes on the wire.
    pub(crate) fn size(message: &Encoded) -> usize {
        PREFIX + message.len()
    }

    /// `first` is empty only at the end.
    fn settle(&mut self) {
        if self.first.is_empty()
            && let Some(next) = self.rest.pop_front()
        {
            self.first = next;
        }
    }
}

fn put_prefix(out: &mut BytesMut, length: usize) {
    // The core makes no message of 4 GiB: bodies are cut long before.
    out.put_u8(0);
    out.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
}

impl Buf for Piece {
    fn remaining(&self) -> usize {
        self.remaining
    }

    fn chunk(&self) -> &[u8] {
        &self.first
    }

    fn chunks_vectored<'a>(&'a self, slices: &mut [std::io::IoSlice<'a>]) -> usize {
        let parts = std::iter::once(&self.first).chain(&self.rest).filter(|part| !part.is_empty());
        let mut used = 0;
        for (slice, part) in slices.iter_mut().zip(parts) {
            *slice = std::io::IoSlice::new(part);
            used += 1;
        }
        used
    }

    fn advance(&mut self, mut count: usize) {
        self.remaining -= count;
        if let Some(queue) = &self.queue {
            queue.take(count);
        }
        while count > 0 {
            let take = count.min(self.first.len());
            self.first.advance(take);
            self.settle();
            count -= take;
        }
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        if let Some(queue) = &self.queue {
            queue.take(self.remaining);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wire(messages: &[Vec<u8>]) -> Vec<u8> {
        let mut out = BytesMut::new();
        for message in messages {
            put_prefix(&mut out, message.len());
            out.extend_from_slice(message);
        }
        out.to_vec()
    }

    #[test]
    fn messages_come_out_however_they_are_cut() {
        let sent: Vec<Vec<u8>> = [0, 1, 7, 300, 20_000, 3].iter().map(|n| (0..*n).map(|i| i as u8).collect()).collect();
        let bytes = Bytes::from(wire(&sent));
        for step in [1, 2, 3, 4, 5, 6, 9, 4_096, 100_000] {
            let (all, connection) = (Sum::new(1 << 20), Cell::new(0));
            let room = Room { all: &all, connection: &connection };
            let mut assembler = Assembler::new(1 << 20, room);
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
            assert_eq!((all.used(), connection.get()), (0, 0));
        }
    }

    #[test]
    fn what_is_unfinished_is_counted_until_it_goes() {
        let (all, connection) = (Sum::new(1 << 20), Cell::new(0));
        let room = Room { all: &all, connection: &connection };
        let mut assembler = Assembler::new(1 << 20, room);
        assembler.push(Bytes::from_static(&[0, 0, 0, 1, 0, 1, 2, 3]));
        assert_eq!(assembler.next(), Ok(None));
        assert_eq!((all.used(), connection.get()), (3, 3));
        assert!(assembler.is_torn());
        drop(assembler);
        assert_eq!((all.used(), connection.get()), (0, 0));
    }

    #[test]
    fn refuses_what_is_too_large_compressed_or_without_room() {
        let (all, connection) = (Sum::new(100), Cell::new(0));
        let room = Room { all: &all, connection: &connection };
        let mut assembler = Assembler::new(10, room);
        assembler.push(Bytes::from_static(&[0, 0, 0, 0, 11]));
        assert_eq!(assembler.next(), Err(Unacceptable::TooLarge(11)));
        let mut assembler = Assembler::new(10, room);
        assembler.push(Bytes::from_static(&[1, 0, 0, 0, 1]));
        assert_eq!(assembler.next(), Err(Unacceptable::Compressed));
        let mut assembler = Assembler::new(10, room);
        assembler.push(Bytes::from_static(&[1, 0, 0, 0, 11]));
        assert_eq!(assembler.next(), Err(Unacceptable::TooLarge(11)), "compressed or not");
        let mut assembler = Assembler::new(10, room);
        assembler.push(Bytes::from_static(b"<html"));
        assert_eq!(assembler.next(), Err(Unacceptable::TooLarge(0x6874_6D6C)));
        let mut assembler = Assembler::new(10, room);
        assembler.push(Bytes::from_static(&[2, 0, 0, 0, 1]));
        assert_eq!(assembler.next(), Err(Unacceptable::NoMessage(2)));
        all.add(100);
        let mut assembler = Assembler::new(10, room);
        assembler.push(Bytes::from_static(&[0, 0, 0, 0, 9, 1]));
        assert_eq!(assembler.next(), Err(Unacceptable::NoMemory));
        drop(assembler);
        assert_eq!((all.used(), connection.get()), (100, 0));
    }

    #[test]
    fn who_wants_much_leaves_room_for_others() {
        for hogs in [1, 2, 4, 9] {
            let all = Sum::new(10_000);
            let connections: Vec<_> = (0..=hogs).map(|_| Cell::new(0)).collect();
            let begin = |connection| {
                let mut assembler = Assembler::new(1_000, Room { all: &all, connection });
                assembler.push(Bytes::from([&[0, 0, 0, 3, 0xE8], &[1; 100][..]].concat()));
                let begun = assembler.next();
                (assembler, begun)
            };
            let taken: Vec<_> = (0..100).flat_map(|_| &connections[..hogs]).map(begin).collect();
            for hog in &connections[..hogs] {
                let share = 10_000 / (hogs + 1);
                assert!((share - 200..=share + 200).contains(&hog.get()), "{} of {hogs}", hog.get());
            }
            let (other, begun) = begin(&connections[hogs]);
            assert_eq!(begun, Ok(None), "beside {hogs}");
            drop((taken, other));
            assert_eq!((all.used(), connections[0].get()), (0, 0));
        }
    }

    #[test]
    fn who_wants_nothing_more_has_room_whatever_others_took_since() {
        let (all, connection) = (Sum::new(100), Cell::new(0));
        let room = Room { all: &all, connection: &connection };
        let _streams = room.charge(40).unwrap();
        all.add(40); // others: less is left than this connection has
        assert!(room.charge(0).is_some());
        assert!(room.charge(1).is_none());
    }

    #[test]
    fn a_piece_can_be_cut_anywhere() {
        let body = Bytes::from((0..40u8).collect::<Vec<_>>());
        let message = Encoded {
            head: b"head".to_vec(),
            body: [body.slice(..7), Bytes::new(), body.slice(7..)].into_iter().collect(),
            tail: b"\x10\x01",
        };
        let whole = wire(&[[b"head", &body[..], b"\x10\x01"].concat()]);
        for first in 0..=whole.len() {
            let mut rest = Piece::message(message.clone());
            let mut start = rest.split_to(first);
            let mut got = start.copy_to_bytes(start.remaining()).to_vec();
            assert_eq!(got.len(), first);
            got.extend_from_slice(&rest.copy_to_bytes(rest.remaining()));
            assert_eq!(got, whole, "cut at {first}");
            assert!(!rest.has_remaining());
        }
        let mut joined = Piece::joined(&[message.clone(), message], 2 * whole.len());
        assert_eq!(joined.copy_to_bytes(2 * whole.len()), whole.repeat(2));
    }

    #[test]
    fn a_piece_is_counted_until_it_is_sent_or_dropped() {
        let all = Arc::new(Sum::new(100));
        let queue = Rc::new(Queue::new(Arc::clone(&all)));
        let message = Encoded { head: vec![1; 95], ..Encoded::default() };
        let mut piece = Piece::message(message.clone());
        drop(piece.split_to(10).queued(&queue));
        assert_eq!(queue.bytes(), 0);
        let mut piece = piece.queued(&queue);
        assert_eq!(queue.bytes(), 90);
        piece.advance(40);
        let other = Piece::message(message).queued(&queue);
        assert_eq!((queue.bytes(), all.used.load(Ordering::Relaxed)), (150, 150));
        drop((piece, other));
        assert_eq!((queue.bytes(), all.used.load(Ordering::Relaxed)), (0, 0));
    }

    #[test]
    fn a_piece_shows_all_its_parts_at_once() {
        let part = Bytes::from_static(b"abc");
        let piece = Piece::message(Encoded { body: [part.clone(), part].into_iter().collect(), ..Encoded::default() });
        let mut slices = [std::io::IoSlice::new(&[]); 8];
        assert_eq!(piece.chunks_vectored(&mut slices), 3);
        assert_eq!(slices.iter().map(|slice| slice.len()).sum::<usize>(), piece.remaining());
    }
}
