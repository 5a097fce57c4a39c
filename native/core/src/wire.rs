//! `ext_proc` messages to plain values, straight from protobuf bytes; `encoding` is the way back.
//!
//! Field numbers are those of Envoy's `envoy/service/ext_proc/v3/external_processor.proto`. All positions are in the
//! whole message, and bytes are read behind the end of a sub-message as long as the message goes on: what is wrong then
//! is found at the sub-message's end, as in Python.

use bytes::Bytes;
use std::borrow::Cow;
use std::fmt;

use crate::messages::{BodyMode, Headers, HttpHeaders, Incoming, Protocol};

/// A subset hint is two levels deep; metadata is set by operators but may copy client input.
pub const MAX_STRUCT_DEPTH: u32 = 16;

/// Bytes of the metadata that a subset hint may come in: about three thousand addresses. What is read of it takes many
/// times as much.
pub const MAX_METADATA: usize = 64 << 10;

/// The bytes are not a `ProcessingRequest` that this picker can read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WireError(pub Cow<'static, str>);

impl fmt::Display for WireError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

impl std::error::Error for WireError {}

/// What is wrong, before it is known what was read.
enum Flaw {
    /// The data end in the middle of a field.
    Cut,
    /// A string is not UTF-8.
    NotText,
    Wrong(Cow<'static, str>),
}

type Flawed<T> = Result<T, Flaw>;

fn wrong<T>(text: &'static str) -> Flawed<T> {
    Err(Flaw::Wrong(Cow::Borrowed(text)))
}

fn byte(data: &[u8], pos: usize) -> Flawed<u8> {
    data.get(pos).copied().ok_or(Flaw::Cut)
}

/// (value, next position) of a base-128 varint of at most 10 bytes.
fn varint(data: &[u8], mut pos: usize) -> Flawed<(u64, usize)> {
    let (mut shift, mut value) = (0, 0u64);
    loop {
        let next = byte(data, pos)?;
        pos += 1;
        value |= u64::from(next & 0x7F) << shift;
        if next < 0x80 {
            return Ok((value, pos));
        }
        shift += 7;
        if shift > 63 {
            return wrong("a varint of more than ten bytes");
        }
    }
}

/// A length, most often of one byte, and the position behind it.
#[inline]
fn size_at(data: &[u8], pos: usize) -> Flawed<(usize, usize)> {
    let first = byte(data, pos)?;
    if first < 0x80 {
        return Ok((usize::from(first), pos + 1));
    }
    let (size, after) = varint(data, pos)?;
    Ok((usize::try_from(size).unwrap_or(usize::MAX), after))
}

/// `number`, wire type, value or start, next position. A length-delimited payload is `data[value..after]`.
struct Field {
    number: u64,
    kind: u8,
    value: u64,
    after: usize,
}

impl Field {
    fn start(&self) -> usize {
        usize::try_from(self.value).unwrap_or(usize::MAX)
    }

    fn is(&self, number: u64, kind: u8) -> bool {
        self.number == number && self.kind == kind
    }
}

/// The fields in `data[pos..end]`. Fixed-size ones are skipped over: no field we read has one, but a Struct may.
struct Fields<'a> {
    data: &'a [u8],
    pos: usize,
    end: usize,
}

impl<'a> Fields<'a> {
    fn new(data: &'a [u8], pos: usize, end: usize) -> Self {
        Self { data, pos, end }
    }

    fn next(&mut self) -> Flawed<Option<Field>> {
        if self.pos >= self.end {
            return if self.pos == self.end { Ok(None) } else { wrong("a field runs over the end of its message") };
        }
        let first = byte(self.data, self.pos)?;
        let (tag, pos) = if first < 0x80 { (u64::from(first), self.pos + 1) } else { varint(self.data, self.pos)? };
        let (number, kind) = (tag >> 3, (tag & 7) as u8);
        if number == 0 {
            return wrong("field number 0");
        }
        let (value, after) = match kind {
            0 => varint(self.data, pos)?,
            1 => (pos as u64, pos + 8),
            2 => {
                let (size, start) = size_at(self.data, pos)?;
                match start.checked_add(size) {
                    Some(after) if after <= self.end => (start as u64, after),
                    _ => return wrong("a field is longer than its message"),
                }
            }
            5 => (pos as u64, pos + 4),
            _ => return Err(Flaw::Wrong(format!("wire type {kind} is not in use any more").into())),
        };
        self.pos = after;
        Ok(Some(Field { number, kind, value, after }))
    }
}

/// A header as Envoy writes nearly all: a name and a raw value, all lengths below 128. (name's end, end) or nothing.
#[inline]
fn plain_header(data: &[u8], pos: usize, end: usize) -> Option<(usize, usize)> {
    let &[0x0A, size @ ..0x80, 0x0A, name] = data.get(pos..pos + 4)? else { return None };
    let stop = pos + 2 + usize::from(size);
    let middle = pos + 4 + usize::from(name);
    let plain = middle + 1 < stop
        && stop <= end
        && data[middle] == 0x1A
        && data[middle + 1] < 0x80
        && usize::from(data[middle + 1]) == stop - middle - 2;
    plain.then_some((middle, stop))
}

/// A part of a message, which shares its memory unless most of that would be kept for nothing.
fn part(data: &Bytes, start: usize, end: usize) -> Bytes {
    if (end - start) * 2 < data.len() { Bytes::copy_from_slice(&data[start..end]) } else { data.slice(start..end) }
}

/// `HeaderMap`, which is kept until the decision.
fn headers(message: &Bytes, start: usize, end: usize) -> Flawed<Headers> {
    let data = &message.slice(start..end);
    let (start, end) = (0, data.len());
    let mut found = Headers::within(data.clone());
    let mut pos = start;
    while pos < end {
        if let Some((middle, stop)) = plain_header(data, pos, end) {
            found.add((pos + 4, middle), (middle + 2, stop));
            pos = stop;
        } else if data[pos] == 0x0A {
            pos = long_header(data, pos + 1, end, &mut found)?;
        } else if let Some(other) = Fields::new(data, pos, end).next()? {
            pos = other.after; // anything but HeaderMap.headers
        }
    }
    // What is too large is left out, however its names are spelled: no list of its lines, which takes many times the message.
    if !found.is_too_large() && found.get(b":method").is_none() && found.get(b":status").is_none() {
        return headers_in_any_case(data, start, end);
    }
    found.compact(message.len());
    Ok(found)
}

/// One header of any length, from its size on; the position behind it.
fn long_header(data: &[u8], pos: usize, end: usize, found: &mut Headers) -> Flawed<usize> {
    let (size, mut pos) = size_at(data, pos)?;
    let Some(stop) = pos.checked_add(size).filter(|stop| *stop <= end) else {
        return wrong("a header is longer than its map");
    };
    let (mut name, mut value) = ((0, 0), (0, 0));
    while pos < stop {
        let tag = byte(data, pos)?;
        byte(data, pos + 1)?;
        if !matches!(tag, 0x0A | 0x12 | 0x1A) {
            return wrong("an unknown field in a header");
        }
        let (size, begin) = size_at(data, pos + 1)?;
        pos = begin.saturating_add(size);
        if pos > stop {
            break;
        }
        if tag == 0x0A {
            name = (begin, pos);
        } else if size > 0 {
            value = (begin, pos);
        }
    }
    if pos != stop {
        return wrong("a header runs over its end");
    }
    found.add(name, value);
    Ok(pos)
}

/// The same for what no proxy of HTTP/2 wrote: NGINX Gateway Fabric sends names as Go spells them.
fn headers_in_any_case(data: &[u8], start: usize, end: usize) -> Flawed<Headers> {
    let mut pairs = Vec::new();
    let mut fields = Fields::new(data, start, end);
    while let Some(field) = fields.next()? {
        if !field.is(1, 2) {
            continue;
        }
        let (mut name, mut value) = (Vec::new(), &data[..0]);
        let mut parts = Fields::new(data, field.start(), field.after);
        while let Some(part) = parts.next()? {
            // As in Python, whatever the type: the payload of what is no bytes is cut to the message.
            let begin = part.start().min(data.len());
            let text = &data[begin..part.after.clamp(begin, data.len())];
            if part.number == 1 {
                name = text.to_ascii_lowercase();
            } else if part.after > part.start() {
                value = text;
            }
        }
        pairs.push((name, value));
    }
    Ok(Headers::from_pairs(pairs))
}

/// `HttpHeaders`: (headers, `end_of_stream`).
fn http_headers(data: &Bytes, start: usize, end: usize) -> Flawed<(Headers, bool)> {
    let (mut found, mut eos) = (Headers::default(), false);
    let mut fields = Fields::new(data, start, end);
    while let Some(field) = fields.next()? {
        if field.is(1, 2) {
            found = headers(data, field.start(), field.after)?;
        } else if field.is(3, 0) {
            eos = field.value != 0;
        }
    }
    if found.is_too_large() {
        found.clear();
    }
    Ok((found, eos))
}

/// `HttpBody`: (body, `end_of_stream` or `end_of_stream_without_message`).
fn http_body(data: &Bytes, start: usize, end: usize) -> Flawed<(Bytes, bool)> {
    let (mut body, mut eos) = (Bytes::new(), false);
    let mut fields = Fields::new(data, start, end);
    while let Some(field) = fields.next()? {
        if field.is(1, 2) {
            body = part(data, field.start(), field.after);
        } else if field.is(2, 0) || field.is(3, 0) {
            eos = eos || field.value != 0;
        }
    }
    Ok((body, eos))
}

/// `ProtocolConfiguration`.
fn protocol(data: &[u8], start: usize, end: usize) -> Flawed<Protocol> {
    let mut modes = Protocol { request_body: BodyMode::None, response_body: BodyMode::None };
    let mut fields = Fields::new(data, start, end);
    while let Some(field) = fields.next()? {
        if field.is(1, 0) {
            modes.request_body = BodyMode::of(field.value);
        } else if field.is(2, 0) {
            modes.response_body = BodyMode::of(field.value);
        }
    }
    Ok(modes)
}

/// A serialized `ProcessingRequest`; None when it holds none of the six messages.
///
/// # Errors
/// For bytes that are not such a message.
pub fn decode(data: &Bytes) -> Result<Option<Incoming>, WireError> {
    let message = match plain_body(data) {
        Ok(None) => any(data),
        found => found,
    };
    message.map_err(|flaw| match flaw {
        Flaw::Wrong(text) => WireError(text),
        Flaw::Cut | Flaw::NotText => WireError("the message ends in the middle of a field".into()),
    })
}

/// A body message with nothing but a body and perhaps its end, which is what nearly all are; else None.
fn plain_body(data: &Bytes) -> Flawed<Option<Incoming>> {
    let Some(kind @ (0x22 | 0x2A)) = data.first().copied() else { return Ok(None) };
    let (size, pos) = size_at(data, 1)?;
    if size == 0 || pos.checked_add(size) != Some(data.len()) || data[pos] != 0x0A {
        return Ok(None);
    }
    let (size, pos) = size_at(data, pos + 1)?;
    let Some(end) = pos.checked_add(size).filter(|end| *end <= data.len()) else { return Ok(None) };
    let end_of_stream = match &data[end..] {
        [] => false,
        [0x10, 1] => true,
        _ => return Ok(None),
    };
    let body = data.slice(pos..end);
    Ok(Some(if kind == 0x22 {
        Incoming::RequestBody { body, end_of_stream, metadata: Bytes::new() }
    } else {
        Incoming::ResponseBody { body, end_of_stream }
    }))
}

fn any(data: &Bytes) -> Flawed<Option<Incoming>> {
    let (mut which, mut start, mut stop) = (0, 0, 0);
    let mut metadata = Bytes::new();
    let mut modes = Protocol::default();
    let mut fields = Fields::new(data, 0, data.len());
    while let Some(field) = fields.next()? {
        if field.kind != 2 {
            continue;
        }
        match field.number {
            2..=7 => (which, start, stop) = (field.number, field.start(), field.after),
            8 => metadata = data.slice(field.start()..field.after),
            11 => modes = protocol(data, field.start(), field.after)?,
            _ => {}
        }
    }
    Ok(Some(match which {
        2 | 3 => {
            let (headers, end_of_stream) = http_headers(data, start, stop)?;
            let message = HttpHeaders { headers, end_of_stream, metadata, protocol: modes };
            if which == 2 { Incoming::RequestHeaders(message) } else { Incoming::ResponseHeaders(message) }
        }
        4 => {
            let (body, end_of_stream) = http_body(data, start, stop)?;
            Incoming::RequestBody { body, end_of_stream, metadata }
        }
        5 => {
            let (body, end_of_stream) = http_body(data, start, stop)?;
            Incoming::ResponseBody { body, end_of_stream }
        }
        6 => Incoming::RequestTrailers,
        7 => Incoming::ResponseTrailers,
        _ => return Ok(None),
    }))
}

/// `google.protobuf.Value`, as far as it matters here: a number counts as null.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MetadataValue {
    Null,
    Bool(bool),
    Text(String),
    List(Vec<MetadataValue>),
    /// Keys are unique.
    Struct(Vec<(String, MetadataValue)>),
}

/// `filter_metadata[namespace][key]` of a serialized `Metadata`, else null.
///
/// # Errors
/// For bytes that are not such a message, for more than `MAX_METADATA`, and where structs are nested too deeply.
pub fn metadata_value(metadata: &[u8], namespace: &[u8], key: &str) -> Result<MetadataValue, WireError> {
    if memchr::memmem::find(metadata, namespace).is_none() {
        return Ok(MetadataValue::Null); // the common case, decided at the speed of memchr
    }
    if metadata.len() > MAX_METADATA {
        let size = metadata.len();
        return Err(WireError(format!("metadata of {size} bytes; at most {MAX_METADATA} are read").into()));
    }
    find_value(metadata, namespace, key).map_err(|flaw| {
        WireError(match flaw {
            Flaw::Cut => "the metadata ends in the middle of a field".into(),
            Flaw::NotText => "a string in the metadata is not UTF-8".into(),
            Flaw::Wrong(text) => text,
        })
    })
}

fn find_value(data: &[u8], namespace: &[u8], key: &str) -> Flawed<MetadataValue> {
    let mut fields = Fields::new(data, 0, data.len());
    while let Some(field) = fields.next()? {
        if !field.is(1, 2) {
            continue;
        }
        let (name, span) = entry(data, field.start(), field.after)?;
        if let Some((start, end)) = span.filter(|_| name == namespace) {
            let found = members(data, start, end, 0)?;
            let wanted = found.into_iter().find(|(name, _)| name == key);
            return Ok(wanted.map_or(MetadataValue::Null, |(_, value)| value));
        }
    }
    Ok(MetadataValue::Null)
}

type Entry<'a> = (&'a [u8], Option<(usize, usize)>);

/// (key, span of the value) of one protobuf map entry.
fn entry(data: &[u8], start: usize, end: usize) -> Flawed<Entry<'_>> {
    let (mut key, mut span) = (&data[..0], None);
    let mut fields = Fields::new(data, start, end);
    while let Some(field) = fields.next()? {
        if field.is(1, 2) {
            key = &data[field.start()..field.after];
        } else if field.is(2, 2) {
            span = Some((field.start(), field.after));
        }
    }
    Ok((key, span))
}

fn text(data: &[u8]) -> Flawed<String> {
    std::str::from_utf8(data).map(str::to_owned).map_err(|_| Flaw::NotText)
}

fn check_depth(depth: u32) -> Flawed<()> {
    if depth > MAX_STRUCT_DEPTH { wrong("metadata is nested too deeply") } else { Ok(()) }
}

fn members(data: &[u8], start: usize, end: usize, depth: u32) -> Flawed<Vec<(String, MetadataValue)>> {
    check_depth(depth)?;
    let mut found = Vec::new();
    let mut places = std::collections::HashMap::new();
    let mut fields = Fields::new(data, start, end);
    while let Some(field) = fields.next()? {
        if !field.is(1, 2) {
            continue;
        }
        let (key, span) = entry(data, field.start(), field.after)?;
        let member = match span {
            None => MetadataValue::Null,
            Some((start, end)) => value(data, start, end, depth + 1)?,
        };
        let key = text(key)?;
        let place = *places.entry(key.clone()).or_insert(found.len());
        if place == found.len() {
            found.push((key, member));
        } else {
            found[place].1 = member;
        }
    }
    Ok(found)
}

/// The last member of the oneof that is present.
fn value(data: &[u8], start: usize, end: usize, depth: u32) -> Flawed<MetadataValue> {
    check_depth(depth)?;
    let mut found = MetadataValue::Null;
    let mut fields = Fields::new(data, start, end);
    while let Some(field) = fields.next()? {
        let begin = field.start();
        found = match (field.number, field.kind) {
            (3, 2) => MetadataValue::Text(text(&data[begin..field.after])?),
            (4, 0) => MetadataValue::Bool(field.value != 0),
            (5, 2) => MetadataValue::Struct(members(data, begin, field.after, depth + 1)?),
            (6, 2) => MetadataValue::List(items(data, begin, field.after, depth + 1)?),
            (1 | 2, _) => MetadataValue::Null, // null, or a number: nothing we ask for is one
            _ => continue,
        };
    }
    Ok(found)
}

fn items(data: &[u8], start: usize, end: usize, depth: u32) -> Flawed<Vec<MetadataValue>> {
    let mut spans = Vec::new();
    let mut fields = Fields::new(data, start, end);
    while let Some(field) = fields.next()? {
        if field.is(1, 2) {
            spans.push((field.start(), field.after));
        }
    }
    spans.into_iter().map(|(start, end)| value(data, start, end, depth)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_header_in_a_map_of_headers_is_not_kept() {
        let mut map =
            b"\x0a\x0c\x0a\x07:method\x1a\x01G\x0a\x0b\x0a\x06cookie\x1a\x01a\x0a\x0b\x0a\x06cookie\x1a\x01b".to_vec();
        let plain = headers(&map.clone().into(), 0, map.len()).ok().unwrap();
        for _ in 0..if cfg!(miri) { 100 } else { 10_000 } {
            map.extend_from_slice(&[0x12, 4, 1, 2, 3, 4]); // a field that we do not know
        }
        let found = headers(&map.clone().into(), 0, map.len()).ok().unwrap();
        assert_eq!(found, plain);
        assert_eq!(found.text(b"cookie"), b"a; b");
        assert!((1..100).contains(&found.data()), "{}", found.data());
    }

    #[test]
    fn metadata_beyond_a_limit_is_not_read() {
        let read = |size: usize| {
            // Field 2 is none of ours.
            let mut metadata = b"\x12\x02ns\x12".to_vec();
            let rest = size - metadata.len() - 3;
            metadata.extend_from_slice(&[(rest & 0x7F) as u8 | 0x80, (rest >> 7) as u8 | 0x80, (rest >> 14) as u8]);
            metadata.resize(size, 0);
            metadata_value(&metadata, b"ns", "key")
        };
        assert_eq!(read(MAX_METADATA), Ok(MetadataValue::Null));
        let said = read(MAX_METADATA + 1).unwrap_err();
        assert_eq!(said.0, "metadata of 65537 bytes; at most 65536 are read");
    }
}
