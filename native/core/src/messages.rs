//! Plain values that go in and out of an `ext_proc` stream, free of any gRPC or protobuf type.
//!
//! Bodies are shared slices of what came from the network: taking a chunk, holding it and giving it back copies nothing.

use bytes::Bytes;
use smallvec::SmallVec;
use std::collections::HashSet;

/// A body, or a part of one, that need not lie in one piece.
pub type Segments = SmallVec<[Bytes; 2]>;

/// Pairs of header names and values to set.
pub type HeaderPairs = SmallVec<[(Bytes, Bytes); 3]>;

/// Headers that may come in several lines, and what stands between the values in one.
const JOINED: [(&[u8], &[u8]); 4] =
    [(b"cookie", b"; "), (b"content-encoding", b", "), (b"connection", b", "), (b"upgrade", b", ")];

/// Bytes of all names and values, and 32 for each line (RFC 9113, section 6.5.2), that the headers of a request may have:
/// Envoy takes 60 KiB and 100 lines unless told otherwise.
pub const MAX_HEADER_LIST: usize = 256 << 10;
const PER_LINE: usize = 32;

/// Bytes that a line takes beside its name and value while it is kept, in Python: no more than that here.
pub const PER_KEPT_LINE: usize = 160;

/// The number of bytes of a body.
#[must_use]
pub fn length(segments: &[Bytes]) -> usize {
    segments.iter().map(Bytes::len).sum()
}

/// A body in one piece; copies only what is in several.
#[must_use]
pub fn contiguous(segments: &[Bytes]) -> Bytes {
    match segments {
        [] => Bytes::new(),
        [one] => one.clone(),
        many => many.concat().into(),
    }
}

#[derive(Clone, Copy, Debug)]
struct Line {
    name: (usize, usize),
    value: (usize, usize),
}

/// The headers of a request or response: of a repeated name the first value counts, but cookies and lists are joined.
///
/// Names are lower case (RFC 9113, section 8.2.1). Kept as places in the message that they came in: reading them costs
/// one step for each, whatever their number, and looking one up as many; there are twenty, and a dozen are asked for.
#[derive(Clone, Debug, Default)]
pub struct Headers {
    data: Bytes,
    lines: Vec<Line>,
    joined: Vec<(usize, Vec<u8>)>,
    seen: [Option<usize>; JOINED.len()],
    list_size: usize,
    count: usize,
}

impl Headers {
    /// Headers that lie in `data`; `add` says where.
    #[must_use]
    pub fn within(data: Bytes) -> Self {
        Self { data, lines: Vec::with_capacity(24), ..Self::default() }
    }

    /// Headers from names and values, in the order of their lines.
    pub fn from_pairs<N: AsRef<[u8]>, V: AsRef<[u8]>>(pairs: impl IntoIterator<Item = (N, V)>) -> Self {
        let mut data = Vec::new();
        let mut places = Vec::new();
        for (name, value) in pairs {
            let start = data.len();
            data.extend_from_slice(name.as_ref());
            let middle = data.len();
            data.extend_from_slice(value.as_ref());
            places.push((start, middle, data.len()));
        }
        let mut found = Self::within(data.into());
        for (start, middle, stop) in places {
            found.add((start, middle), (middle, stop));
        }
        found.unjoin();
        found
    }

    /// One more line, by the places of its name and its value.
    pub(crate) fn add(&mut self, name: (usize, usize), value: (usize, usize)) {
        self.list_size += name.1 - name.0 + value.1 - value.0 + PER_LINE;
        self.count += 1;
        let index = self.lines.len();
        if self.is_too_large() && index > 0 {
            return;
        }
        if matches!(name.1 - name.0, 6 | 7 | 10 | 16) {
            let text = &self.data[name.0..name.1];
            if let Some(which) = JOINED.iter().position(|(joined, _)| *joined == text) {
                match self.seen[which] {
                    None => self.seen[which] = Some(index),
                    Some(first) => return self.join(first, JOINED[which].1, value),
                }
            }
        }
        self.lines.push(Line { name, value });
    }

    /// Whether they are more than is kept, and left out.
    #[must_use]
    pub fn is_too_large(&self) -> bool {
        self.list_size > MAX_HEADER_LIST
    }

    /// Leave all of them out but a status, which comes first, and remember how much they were.
    pub(crate) fn clear(&mut self) {
        let status = self.lines.first().map(|_| (self.name(0), self.value(0))).filter(|(name, _)| *name == b":status");
        *self = Self { list_size: self.list_size, count: self.count, ..Self::from_pairs(status) };
    }

    /// Bytes that they take while they are kept.
    #[must_use]
    pub fn kept(&self) -> usize {
        self.list_size + self.count * (PER_KEPT_LINE - PER_LINE)
    }

    /// Of the `shared` bytes that their data are a part of, keep no more than is counted: the rest may be anything.
    pub(crate) fn compact(&mut self, shared: usize) {
        self.unjoin();
        if self.kept() >= shared {
            return;
        }
        if self.data.len() <= self.kept() {
            self.data = Bytes::copy_from_slice(&self.data);
        } else {
            self.copy();
        }
    }

    /// Values that were joined lie in memory of their own, and their parts still in the data: keep the former alone.
    fn unjoin(&mut self) {
        if !self.joined.is_empty() {
            self.copy();
        }
    }

    fn copy(&mut self) {
        let pairs = (0..self.lines.len()).map(|index| (self.name(index), self.value(index)));
        *self = Self { list_size: self.list_size, count: self.count, ..Self::from_pairs(pairs) };
    }

    /// Bytes in which their data lie.
    #[cfg(test)]
    pub(crate) fn data(&self) -> usize {
        self.data.len()
    }

    fn join(&mut self, first: usize, between: &[u8], value: (usize, usize)) {
        let at = self.joined.iter().position(|(index, _)| *index == first).unwrap_or_else(|| {
            let (start, end) = self.lines[first].value;
            self.joined.push((first, self.data[start..end].to_vec()));
            self.joined.len() - 1
        });
        let whole = &mut self.joined[at].1;
        whole.extend_from_slice(between);
        whole.extend_from_slice(&self.data[value.0..value.1]);
    }

    fn value(&self, index: usize) -> &[u8] {
        if let Some((_, whole)) = self.joined.iter().find(|(at, _)| *at == index) {
            return whole;
        }
        let (start, end) = self.lines[index].value;
        &self.data[start..end]
    }

    fn name(&self, index: usize) -> &[u8] {
        let (start, end) = self.lines[index].name;
        &self.data[start..end]
    }

    /// The value of a header, if it is there.
    #[must_use]
    pub fn get(&self, name: &[u8]) -> Option<&[u8]> {
        (0..self.lines.len()).find(|index| self.name(*index) == name).map(|index| self.value(index))
    }

    /// The value of a header, empty when it is not there.
    #[must_use]
    pub fn text(&self, name: &[u8]) -> &[u8] {
        self.get(name).unwrap_or_default()
    }

    /// Names of all lines, in their order, repeated ones too.
    pub fn names(&self) -> impl Iterator<Item = &[u8]> {
        (0..self.lines.len()).map(|index| self.name(index))
    }

    /// Name and value of each header, once, in the order in which they came first.
    #[must_use]
    pub fn pairs(&self) -> Vec<(&[u8], &[u8])> {
        let mut seen = HashSet::new();
        let fresh = (0..self.lines.len()).filter(|index| seen.insert(self.name(*index)));
        fresh.map(|index| (self.name(index), self.value(index))).collect()
    }
}

impl PartialEq for Headers {
    fn eq(&self, other: &Self) -> bool {
        let (mut ours, mut theirs) = (self.pairs(), other.pairs());
        ours.sort_unstable();
        theirs.sort_unstable();
        ours == theirs
    }
}

impl Eq for Headers {}

/// `ProcessingMode.BodySendMode` of Envoy; the numbers are those of the protobuf enum.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum BodyMode {
    None = 0,
    Streamed = 1,
    Buffered = 2,
    BufferedPartial = 3,
    #[default]
    FullDuplexStreamed = 4,
    Grpc = 5,
}

impl BodyMode {
    /// By its number; a mode that we do not know counts as NONE: nothing to expect.
    #[must_use]
    pub fn of(number: u64) -> Self {
        match number {
            1 => Self::Streamed,
            2 => Self::Buffered,
            3 => Self::BufferedPartial,
            4 => Self::FullDuplexStreamed,
            5 => Self::Grpc,
            _ => Self::None,
        }
    }
}

/// `ProtocolConfiguration`: what Envoy says, on the first message, about the bodies to come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Protocol {
    pub request_body: BodyMode,
    pub response_body: BodyMode,
}

/// Which half of the HTTP exchange a reply belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Side {
    Request = 0,
    Response = 1,
}

/// The headers of a request or a response. `metadata` is the serialized `Metadata` message, empty when absent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HttpHeaders {
    pub headers: Headers,
    pub end_of_stream: bool,
    pub metadata: Bytes,
    pub protocol: Protocol,
}

/// What Envoy says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Incoming {
    RequestHeaders(HttpHeaders),
    /// One chunk of the request body.
    RequestBody {
        body: Bytes,
        end_of_stream: bool,
        metadata: Bytes,
    },
    /// The end of a body whose last chunk did not say so.
    RequestTrailers,
    /// From the pod or from Envoy itself (a local reply).
    ResponseHeaders(HttpHeaders),
    /// One chunk of the response body.
    ResponseBody {
        body: Bytes,
        end_of_stream: bool,
    },
    /// The end of a response whose last chunk did not say so.
    ResponseTrailers,
}

impl Incoming {
    /// The kind of the message, for errors.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::RequestHeaders(_) => "RequestHeaders",
            Self::RequestBody { .. } => "RequestBody",
            Self::RequestTrailers => "RequestTrailers",
            Self::ResponseHeaders(_) => "ResponseHeaders",
            Self::ResponseBody { .. } => "ResponseBody",
            Self::ResponseTrailers => "ResponseTrailers",
        }
    }
}

/// The part of a reply that changes headers and routes. A non-empty `endpoint` is also sent as dynamic metadata.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Routed {
    pub set_headers: HeaderPairs,
    pub remove_headers: SmallVec<[Bytes; 2]>,
    pub clear_route_cache: bool,
    pub endpoint: Bytes,
}

/// An answer to the client in place of the pod's. `details` shows up in Envoy's access log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImmediateReply {
    pub status: u16,
    pub body: Bytes,
    pub details: Bytes,
    pub headers: HeaderPairs,
}

/// What the picker says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outgoing {
    /// Answer to headers.
    Headers(Side, Routed),
    /// One chunk of a full-duplex streamed body.
    Body {
        side: Side,
        body: Segments,
        end_of_stream: bool,
    },
    /// Answer to a body that is not full-duplex. `body` None leaves it as it is.
    Buffered {
        side: Side,
        body: Option<Segments>,
        routed: Routed,
    },
    /// Answer to trailers, which stay as they are.
    Trailers(Side),
    Immediate(ImmediateReply),
}
