//! What a decision makes of a request: its headers, and its body with another model where one is due.

use bytes::Bytes;
use smallvec::{SmallVec, smallvec};
use std::collections::VecDeque;

use crate::messages::{Headers, Outgoing, Routed, Segments, Side, length};
use crate::reader::{BodyEdit, RequestReader};
use crate::splicing::{Splice, splice};

pub const DESTINATION: &[u8] = b"x-gateway-destination-endpoint";

/// What only the picker may say, and what was meant for the picker alone. Sorted.
const STRIPPED: [&[u8]; 5] = [
    b"x-gateway-destination-endpoint-served",
    b"x-gateway-destination-endpoint-subset",
    b"x-gateway-inference-fairness-id",
    b"x-gateway-inference-objective",
    b"x-gateway-model-name-rewrite",
];

/// The end of a request that is left goes out with the end of the stream. Envoy reads both at once when they are short:
/// beyond one HTTP/2 frame a short tail is cut off for that.
const MAX_LAST: usize = 16_384;
const TAIL: usize = 512;

/// A content-length of more digits than any 64-bit number has is none.
const MAX_LENGTH_DIGITS: usize = 19;

/// A decision with what it does to the request; `plain`: the body is sent without its codings.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    pub address: Bytes,
    stripped: SmallVec<[Bytes; 2]>,
    content_length: Option<Bytes>,
    pub change: BodyEdit,
    pub plain: bool,
}

impl Answer {
    /// For the pod at `address` and a request with these headers.
    #[must_use]
    pub fn new(address: Bytes, headers: &Headers, change: BodyEdit, plain: bool) -> Self {
        let mut found = [false; STRIPPED.len()];
        for name in headers.names().filter(|name| name.starts_with(b"x-gateway-")) {
            if let Some(which) = STRIPPED.iter().position(|stripped| *stripped == name) {
                found[which] = true;
            }
        }
        let stripped = STRIPPED.iter().zip(found).filter(|(_, found)| *found);
        let stripped = stripped.map(|(name, _)| Bytes::from_static(name)).collect();
        let length = headers.text(b"content-length");
        let digits = matches!(length.len(), 1..=MAX_LENGTH_DIGITS) && length.iter().all(u8::is_ascii_digit);
        Self { address, stripped, content_length: digits.then(|| number(length)), change, plain }
    }

    /// The reply to the headers of a request whose body is not known.
    #[must_use]
    pub fn head(&self) -> Outgoing {
        Outgoing::Headers(Side::Request, self.routed(None))
    }

    /// What the decision does to the headers; `length` of a body that has a known one.
    fn routed(&self, length: Option<Bytes>) -> Routed {
        let mut set_headers = smallvec![(Bytes::from_static(DESTINATION), self.address.clone())];
        set_headers.extend(length.map(|length| (Bytes::from_static(b"content-length"), length)));
        let mut remove_headers = self.stripped.clone();
        if self.plain {
            remove_headers.push(Bytes::from_static(b"content-encoding"));
        }
        Routed { set_headers, remove_headers, clear_route_cache: true, endpoint: self.address.clone() }
    }

    /// The body to send, in pieces, and its length.
    fn pieces(&self, reader: &mut RequestReader) -> (Splice, usize) {
        let BodyEdit { start, end, new } = self.change.clone();
        let length = reader.size_of(self.plain) - (end - start) + new.len();
        (splice(reader.chunks(self.plain), start, end, new), length)
    }

    /// Headers, body, trailers of a full-duplex request. Bytes are let go of as they are sent.
    #[must_use]
    pub fn streamed(&self, mut reader: RequestReader, trailers: bool, leaving: bool) -> Streamed {
        let (pieces, length) = self.pieces(&mut reader);
        // HTTP/1.1 has trailers only where there is no content-length.
        let length = (!trailers && length > 0).then(|| length.to_string().into());
        let head = Outgoing::Headers(Side::Request, self.routed(length));
        Streamed { ready: VecDeque::from([head]), pieces, previous: None, reader: Some(reader), trailers, leaving }
    }

    /// The reply to a buffered body: in this mode it may still change the headers.
    #[must_use]
    pub fn buffered(&self, mut reader: RequestReader) -> Outgoing {
        let (pieces, length) = self.pieces(&mut reader);
        let changed = !self.change.new.is_empty() || self.plain;
        let body = changed.then(|| pieces.flatten().collect::<Segments>());
        let routed = self.routed(changed.then(|| length.to_string().into()));
        Outgoing::Buffered { side: Side::Request, body, routed }
    }

    /// Headers and what is there of a body that goes on as it comes.
    #[must_use]
    pub fn passing(&self, mut reader: RequestReader) -> Passing {
        let head = Outgoing::Headers(Side::Request, self.routed(self.content_length.clone()));
        let pieces = splice(reader.chunks(false), 0, 0, Bytes::new());
        Passing { head: Some(head), pieces, next: None, reader: Some(reader) }
    }
}

/// A number without leading zeros.
fn number(digits: &[u8]) -> Bytes {
    let start = digits.iter().position(|digit| *digit != b'0').unwrap_or(digits.len() - 1);
    Bytes::copy_from_slice(&digits[start..])
}

/// The replies of [`Answer::streamed`]. What it holds stays counted until the last of it is sent.
pub struct Streamed {
    ready: VecDeque<Outgoing>,
    pieces: Splice,
    previous: Option<Segments>,
    reader: Option<RequestReader>,
    trailers: bool,
    leaving: bool,
}

impl Streamed {
    /// The last piece, for which there is nothing more to be held.
    fn last(&mut self, mut piece: Segments) {
        count_with(&mut piece, self.reader.take());
        let size = length(&piece);
        if self.leaving && size > MAX_LAST {
            let tail = split_off(&mut piece, size - TAIL);
            self.ready.push_back(body(Side::Request, piece, false));
            piece = tail;
        }
        self.ready.push_back(body(Side::Request, piece, !self.trailers));
        if self.trailers {
            self.ready.push_back(Outgoing::Trailers(Side::Request));
        }
    }
}

impl Iterator for Streamed {
    type Item = Outgoing;

    fn next(&mut self) -> Option<Outgoing> {
        if let Some(reply) = self.ready.pop_front() {
            return Some(reply);
        }
        self.reader.as_ref()?;
        let piece = self.previous.take().or_else(|| self.pieces.next())?;
        self.previous = self.pieces.next();
        if self.previous.is_some() {
            return Some(body(Side::Request, piece, false));
        }
        self.last(piece);
        self.ready.pop_front()
    }
}

/// The replies of [`Answer::passing`].
pub struct Passing {
    head: Option<Outgoing>,
    pieces: Splice,
    next: Option<Segments>,
    reader: Option<RequestReader>,
}

impl Iterator for Passing {
    type Item = Outgoing;

    fn next(&mut self) -> Option<Outgoing> {
        if let Some(head) = self.head.take() {
            return Some(head);
        }
        let piece = self.next.take().or_else(|| self.pieces.next());
        self.next = self.pieces.next();
        let mut piece = piece?;
        if self.next.is_none() {
            count_with(&mut piece, self.reader.take());
        }
        Some(body(Side::Request, piece, false))
    }
}

/// What the reader holds stays counted until the last bytes of it are sent.
fn count_with(piece: &mut Segments, reader: Option<RequestReader>) {
    if let (Some(last), Some(reader)) = (piece.last_mut(), reader) {
        *last = reader.counted_with(std::mem::take(last));
    }
}

fn body(side: Side, body: Segments, end_of_stream: bool) -> Outgoing {
    Outgoing::Body { side, body, end_of_stream }
}

/// The part of a body behind `at`, which is taken off.
fn split_off(segments: &mut Segments, mut at: usize) -> Segments {
    let mut index = 0;
    while index < segments.len() && segments[index].len() <= at {
        at -= segments[index].len();
        index += 1;
    }
    let mut tail: Segments = segments.drain(index..).collect();
    if at > 0 && !tail.is_empty() {
        segments.push(tail[0].split_to(at));
    }
    tail
}

/// A chunk of any size; nothing for an empty one that is not the end.
pub fn in_pieces(side: Side, chunk: Bytes, end: bool) -> impl Iterator<Item = Outgoing> {
    let none = chunk.is_empty() && !end;
    let mut pieces = splice(VecDeque::from([chunk]), 0, 0, Bytes::new()).peekable();
    std::iter::from_fn(move || {
        if none {
            return None;
        }
        let piece = pieces.next()?;
        Some(body(side, piece, end && pieces.peek().is_none()))
    })
}
