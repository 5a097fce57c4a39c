//! What the scan of a body finds: its wanted members, or what is wrong with it.

use std::fmt;

/// The body is not a JSON object that this picker accepts. The message says why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BodyError(pub String);

impl BodyError {
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }
}

impl fmt::Display for BodyError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

impl std::error::Error for BodyError {}

/// JSON types, as far as they matter here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JsonType {
    String,
    Scalar,
    Container,
}

/// A wanted top-level member: offsets in bytes of its value, quotes included, end exclusive.
///
/// `raw` is the value's source text, empty for containers and when `clipped`. `end` of a container is its start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field {
    pub kind: JsonType,
    pub start: usize,
    pub end: usize,
    pub raw: Vec<u8>,
    pub clipped: bool,
}

impl Field {
    /// The decoded string, or a scalar as it is written. Lone surrogates become U+FFFD.
    #[must_use]
    pub fn text(&self) -> String {
        let inner = if self.kind == JsonType::String && self.raw.len() > 1 {
            &self.raw[1..self.raw.len() - 1]
        } else {
            &self.raw[..]
        };
        match std::str::from_utf8(inner) {
            Ok(text) if self.kind != JsonType::String || !inner.contains(&b'\\') => text.to_owned(),
            _ => String::from_utf16_lossy(&units(inner)),
        }
    }
}

/// UTF-16 of a JSON string's source without its quotes; it has been recognised, surrogates may stand alone.
fn units(source: &[u8]) -> Vec<u16> {
    let mut out = Vec::with_capacity(source.len());
    let mut pos = 0;
    while pos < source.len() {
        if source[pos] == b'\\' {
            let (unit, after) = unescape(source, pos);
            out.push(unit);
            pos = after;
        } else {
            let (code, after) = code_point(source, pos);
            match char::from_u32(code) {
                Some(char) => out.extend_from_slice(char.encode_utf16(&mut [0; 2])),
                None => out.push((code & 0xFFFF) as u16),
            }
            pos = after;
        }
    }
    out
}

/// The code unit of the escape at `pos`, and the position behind it.
pub(crate) fn unescape(source: &[u8], pos: usize) -> (u16, usize) {
    let unit = match source.get(pos + 1) {
        Some(b'u') => {
            let digits = source[(pos + 2).min(source.len())..].iter().take(4);
            let value = digits.fold(0, |value, digit| value << 4 | char::from(*digit).to_digit(16).unwrap_or(0));
            return ((value & 0xFFFF) as u16, (pos + 6).min(source.len()));
        }
        Some(b'b') => 8,
        Some(b'f') => 12,
        Some(b'n') => 10,
        Some(b'r') => 13,
        Some(b't') => 9,
        Some(other) => u16::from(*other),
        None => u16::from(b'\\'),
    };
    (unit, (pos + 2).min(source.len()))
}

/// The code point of valid UTF-8, surrogates included, at `pos`, and the position behind it.
fn code_point(source: &[u8], pos: usize) -> (u32, usize) {
    let first = source[pos];
    let (mut code, more) = match first {
        0..0xC0 => (u32::from(first), 0),
        0xC0..0xE0 => (u32::from(first & 0x1F), 1),
        0xE0..0xF0 => (u32::from(first & 0x0F), 2),
        _ => (u32::from(first & 0x07), 3),
    };
    let end = (pos + 1 + more).min(source.len());
    for next in &source[pos + 1..end] {
        code = code << 6 | u32::from(next & 0x3F);
    }
    (code, end)
}
