//! Replies to the bytes of their `ext_proc` messages; the counterpart of `wire`, for the same reasons.
//!
//! Field numbers are those of Envoy's `envoy/service/ext_proc/v3/external_processor.proto`.

use bytes::Bytes;

use crate::messages::{ImmediateReply, Outgoing, Routed, Segments, Side, length};

/// A serialized `ProcessingResponse`: what stands before the body, the body as it is shared, and what follows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Encoded {
    pub head: Vec<u8>,
    pub body: Segments,
    pub tail: &'static [u8],
}

impl Encoded {
    /// Bytes of the whole.
    #[must_use]
    pub fn len(&self) -> usize {
        self.head.len() + length(&self.body) + self.tail.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The whole in one piece.
    #[must_use]
    pub fn to_bytes(&self) -> Bytes {
        let mut whole = Vec::with_capacity(self.len());
        whole.extend_from_slice(&self.head);
        self.body.iter().for_each(|part| whole.extend_from_slice(part));
        whole.extend_from_slice(self.tail);
        whole.into()
    }
}

/// Bytes of a length as a varint.
fn width(value: usize) -> usize {
    (value.max(1).ilog2() / 7 + 1) as usize
}

/// Bytes of a length-delimited field with a tag of one byte.
fn sized(payload: usize) -> usize {
    1 + width(payload) + payload
}

fn put_varint(out: &mut Vec<u8>, mut value: usize) {
    while value >= 0x80 {
        out.push((value & 0x7F) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn put_head(out: &mut Vec<u8>, tag: u8, payload: usize) {
    out.push(tag);
    put_varint(out, payload);
}

fn put(out: &mut Vec<u8>, tag: u8, payload: &[u8]) {
    put_head(out, tag, payload.len());
    out.extend_from_slice(payload);
}

fn pair_size(name: &[u8], value: &[u8]) -> usize {
    sized(name.len()) + sized(value.len())
}

/// Bytes of a `HeaderMutation`.
fn mutation_size(set: &[(Bytes, Bytes)], remove: &[Bytes]) -> usize {
    let options = set.iter().map(|(name, value)| sized(sized(pair_size(name, value)) + 2)).sum::<usize>();
    options + remove.iter().map(|name| sized(name.len())).sum::<usize>()
}

/// `HeaderMutation` that overwrites. Values go into `raw_value`, as Envoy wants them by default.
fn put_mutation(out: &mut Vec<u8>, set: &[(Bytes, Bytes)], remove: &[Bytes]) {
    for (name, value) in set {
        let pair = pair_size(name, value);
        put_head(out, 0x0A, sized(pair) + 2);
        put_head(out, 0x0A, pair);
        put(out, 0x0A, name);
        put(out, 0x1A, value);
        // append_action OVERWRITE_IF_EXISTS_OR_ADD: the default of the API would append.
        out.extend_from_slice(b"\x18\x02");
    }
    for name in remove {
        put(out, 0x12, name);
    }
}

/// `dynamic_metadata` `{"envoy.lb": {"x-gateway-destination-endpoint": endpoint}}` (endpoint-picker protocol).
fn put_endpoint(out: &mut Vec<u8>, endpoint: &[u8]) {
    const KEY: &[u8] = b"x-gateway-destination-endpoint";
    const NAMESPACE: &[u8] = b"envoy.lb";
    let value = sized(endpoint.len());
    let member = sized(KEY.len()) + sized(value);
    let fields = sized(member);
    let entry = sized(NAMESPACE.len()) + sized(sized(fields));
    put_head(out, 0x42, sized(entry));
    put_head(out, 0x0A, entry);
    put(out, 0x0A, NAMESPACE);
    put_head(out, 0x12, sized(fields));
    put_head(out, 0x2A, fields);
    put_head(out, 0x0A, member);
    put(out, 0x0A, KEY);
    put_head(out, 0x12, value);
    put(out, 0x1A, endpoint);
}

/// A `ProcessingResponse` whose field `number` holds a `CommonResponse` as its `response`.
fn put_common(out: &mut Vec<u8>, number: u8, routed: &Routed, body: Option<&Segments>) {
    let mutation = mutation_size(&routed.set_headers, &routed.remove_headers);
    let size = body.map(|body| length(body));
    let mut common = if mutation > 0 { sized(mutation) } else { 0 };
    common += size.map_or(0, |size| sized(sized(size)));
    common += if routed.clear_route_cache { 2 } else { 0 };
    put_head(out, number << 3 | 2, if common > 0 { sized(common) } else { 0 });
    if common > 0 {
        put_head(out, 0x0A, common);
    }
    if mutation > 0 {
        put_head(out, 0x12, mutation);
        put_mutation(out, &routed.set_headers, &routed.remove_headers);
    }
    if let (Some(body), Some(size)) = (body, size) {
        put_head(out, 0x1A, sized(size));
        put_head(out, 0x0A, size);
        body.iter().for_each(|part| out.extend_from_slice(part));
    }
    if routed.clear_route_cache {
        out.extend_from_slice(b"\x28\x01");
    }
    if !routed.endpoint.is_empty() {
        put_endpoint(out, &routed.endpoint);
    }
}

/// The serialized `ProcessingResponse` of one reply.
#[must_use]
pub fn encode(reply: &Outgoing) -> Encoded {
    encode_after(reply, Vec::new())
}

/// The same, behind what is in `head` already: a transport's own framing, for one.
#[must_use]
pub fn encode_after(reply: &Outgoing, mut head: Vec<u8>) -> Encoded {
    match reply {
        Outgoing::Body { side, body, end_of_stream } => return streamed_body(*side, body, *end_of_stream, head),
        Outgoing::Headers(side, routed) => put_common(&mut head, 1 + *side as u8, routed, None),
        Outgoing::Buffered { side, body, routed } => put_common(&mut head, 3 + *side as u8, routed, body.as_ref()),
        Outgoing::Trailers(Side::Request) => head.extend_from_slice(b"\x2A\x00"),
        Outgoing::Trailers(Side::Response) => head.extend_from_slice(b"\x32\x00"),
        Outgoing::Immediate(reply) => put_immediate(&mut head, reply),
    }
    Encoded { head, ..Encoded::default() }
}

/// BodyResponse.response.body_mutation.streamed_response; the body is not copied.
fn streamed_body(side: Side, body: &Segments, end: bool, mut head: Vec<u8>) -> Encoded {
    let tail: &'static [u8] = if end { b"\x10\x01" } else { b"" };
    let size = length(body);
    let streamed = if size > 0 { sized(size) } else { 0 } + tail.len();
    let mutation = sized(streamed);
    let common = sized(mutation);
    put_head(&mut head, if side == Side::Request { 0x1A } else { 0x22 }, sized(common));
    put_head(&mut head, 0x0A, common);
    put_head(&mut head, 0x1A, mutation);
    put_head(&mut head, 0x1A, streamed);
    if size > 0 {
        put_head(&mut head, 0x0A, size);
    }
    Encoded { head, body: body.clone(), tail }
}

fn put_immediate(out: &mut Vec<u8>, reply: &ImmediateReply) {
    let status = 1 + width(usize::from(reply.status));
    let mutation = mutation_size(&reply.headers, &[]);
    let optional = |bytes: &Bytes| if bytes.is_empty() { 0 } else { sized(bytes.len()) };
    let headers = if reply.headers.is_empty() { 0 } else { sized(mutation) };
    put_head(out, 0x3A, sized(status) + headers + optional(&reply.body) + optional(&reply.details));
    put_head(out, 0x0A, status);
    out.push(0x08);
    put_varint(out, usize::from(reply.status));
    if !reply.headers.is_empty() {
        put_head(out, 0x12, mutation);
        put_mutation(out, &reply.headers, &[]);
    }
    if !reply.body.is_empty() {
        put(out, 0x1A, &reply.body);
    }
    if !reply.details.is_empty() {
        put(out, 0x2A, &reply.details);
    }
}
