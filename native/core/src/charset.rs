//! JSON in another encoding than plain UTF-8, as `json.loads` of Python takes it when it is given bytes.
//!
//! That is what reads the requests of FastAPI, and so of vLLM: UTF-8 with a byte order mark, UTF-16 and UTF-32 of either
//! order with one or without, told apart by the first four bytes; surrogates may stand alone.

use bytes::Bytes;

use crate::body::Utf8;
use crate::members::BodyError;

/// Bytes that decide.
pub const NEEDED: usize = 4;

/// An encoding of Unicode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    Utf8,
    Utf16Le,
    Utf16Be,
    Utf32Le,
    Utf32Be,
}

impl Encoding {
    /// In capitals, as messages name it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Utf8 => "UTF-8",
            Self::Utf16Le => "UTF-16-LE",
            Self::Utf16Be => "UTF-16-BE",
            Self::Utf32Le => "UTF-32-LE",
            Self::Utf32Be => "UTF-32-BE",
        }
    }

    fn unit(self, bytes: &[u8]) -> u32 {
        let (first, last) = (|| bytes.iter().map(|byte| u32::from(*byte)), |sum: u32, byte: u32| sum << 8 | byte);
        match self {
            Self::Utf16Le | Self::Utf32Le => first().rev().fold(0, last),
            _ => first().fold(0, last),
        }
    }

    /// Bytes that one character needs.
    fn width(self, code: u32) -> usize {
        match self {
            Self::Utf8 => utf8_width(code),
            Self::Utf16Le | Self::Utf16Be => 2 + 2 * usize::from(code > 0xFFFF),
            Self::Utf32Le | Self::Utf32Be => 4,
        }
    }
}

const MARKS: [(&[u8], Encoding); 5] = [
    (b"\xFF\xFE\0\0", Encoding::Utf32Le),
    (b"\0\0\xFE\xFF", Encoding::Utf32Be),
    (b"\xFF\xFE", Encoding::Utf16Le),
    (b"\xFE\xFF", Encoding::Utf16Be),
    (b"\xEF\xBB\xBF", Encoding::Utf8),
];

/// For a body that begins with these bytes, all of it or at least [`NEEDED`]; None for plain UTF-8.
#[must_use]
pub fn transcoder_of(first: &[u8]) -> Option<Transcoder> {
    if let Some((mark, encoding)) = MARKS.iter().find(|(mark, _)| first.starts_with(mark)) {
        return Some(Transcoder::new(*encoding, mark.len()));
    }
    let encoding = match first {
        [0, 0, _, _, ..] => Encoding::Utf32Be,
        [0, _, _, _, ..] | [0, _] => Encoding::Utf16Be,
        [_, 0, 0, 0, ..] => Encoding::Utf32Le,
        [_, 0, _, _, ..] | [_, 0] => Encoding::Utf16Le,
        _ => return None,
    };
    Some(Transcoder::new(encoding, 0))
}

/// Gives the body as UTF-8, chunk by chunk, and finds places of that again in the body.
#[derive(Clone, Debug)]
pub struct Transcoder {
    pub encoding: Encoding,
    mark: usize,
    skipped: usize,
    utf8: Utf8,
    /// The beginning of a character of the other encodings.
    held: Vec<u8>,
}

impl Transcoder {
    #[must_use]
    pub fn new(encoding: Encoding, mark: usize) -> Self {
        Self { encoding, mark, skipped: mark, utf8: Utf8::default(), held: Vec::new() }
    }

    fn flaw(&self) -> BodyError {
        BodyError(format!("the body is not {}, as which it begins", self.encoding.name()))
    }

    /// The next bytes as UTF-8; whole characters only.
    ///
    /// # Errors
    /// When the body is not what it begins as.
    pub fn feed(&mut self, chunk: &[u8]) -> Result<Vec<u8>, BodyError> {
        let skip = self.skipped.min(chunk.len());
        self.skipped -= skip;
        let chunk = &chunk[skip..];
        match self.encoding {
            Encoding::Utf8 => self.decode_utf8(chunk),
            Encoding::Utf16Le | Encoding::Utf16Be => Ok(self.decode_utf16(chunk)),
            Encoding::Utf32Le | Encoding::Utf32Be => self.decode_utf32(chunk),
        }
    }

    fn decode_utf8(&mut self, chunk: &[u8]) -> Result<Vec<u8>, BodyError> {
        let mut whole = self.utf8.tail().to_vec();
        whole.extend_from_slice(chunk);
        self.utf8.check(chunk).map_err(|_| self.flaw())?;
        whole.truncate(whole.len() - self.utf8.tail().len());
        Ok(whole)
    }

    fn decode_utf16(&mut self, chunk: &[u8]) -> Vec<u8> {
        let mut whole = std::mem::take(&mut self.held);
        whole.extend_from_slice(chunk);
        let mut out = Vec::with_capacity(whole.len());
        let mut pos = 0;
        while pos + 2 <= whole.len() {
            let unit = self.encoding.unit(&whole[pos..pos + 2]);
            let mut code = unit;
            if (0xD800..0xDC00).contains(&unit) {
                let Some(next) = whole.get(pos + 2..pos + 4) else { break };
                let low = self.encoding.unit(next);
                if (0xDC00..0xE000).contains(&low) {
                    code = 0x10000 + ((unit - 0xD800) << 10) + (low - 0xDC00);
                }
            }
            push_utf8(&mut out, code);
            pos += if code > 0xFFFF { 4 } else { 2 };
        }
        whole.drain(..pos);
        self.held = whole;
        out
    }

    fn decode_utf32(&mut self, chunk: &[u8]) -> Result<Vec<u8>, BodyError> {
        let mut whole = std::mem::take(&mut self.held);
        whole.extend_from_slice(chunk);
        let mut out = Vec::with_capacity(whole.len() / 2);
        let units = whole.chunks_exact(4);
        self.held = units.remainder().to_vec();
        for unit in units {
            let code = self.encoding.unit(unit);
            if code > 0x0010_FFFF {
                return Err(self.flaw());
            }
            push_utf8(&mut out, code);
        }
        Ok(out)
    }

    /// The body is complete.
    ///
    /// # Errors
    /// When it ends inside of a character.
    pub fn finish(&self) -> Result<(), BodyError> {
        let cut = match self.encoding {
            Encoding::Utf8 => self.utf8.inside(),
            // A high surrogate may stand alone at the end, too.
            Encoding::Utf16Le | Encoding::Utf16Be => self.held.len() % 2 == 1,
            Encoding::Utf32Le | Encoding::Utf32Be => !self.held.is_empty(),
        };
        if cut { Err(self.flaw()) } else { Ok(()) }
    }

    /// A text in the body's encoding.
    #[must_use]
    pub fn encode(&self, text: &str) -> Vec<u8> {
        let units = |big: bool| {
            text.encode_utf16().flat_map(move |unit| if big { unit.to_be_bytes() } else { unit.to_le_bytes() })
        };
        let codes = |big: bool| {
            text.chars().map(u32::from).flat_map(move |code| if big { code.to_be_bytes() } else { code.to_le_bytes() })
        };
        match self.encoding {
            Encoding::Utf8 => text.as_bytes().to_vec(),
            Encoding::Utf16Le => units(false).collect(),
            Encoding::Utf16Be => units(true).collect(),
            Encoding::Utf32Le => codes(false).collect(),
            Encoding::Utf32Be => codes(true).collect(),
        }
    }

    /// Where in the body, held in chunks, ascending offsets into its UTF-8 are. They are at the ends of characters.
    ///
    /// # Errors
    /// Where the body is not in its encoding, which was found before.
    pub fn places<'a>(
        &self,
        chunks: impl IntoIterator<Item = &'a Bytes>,
        wanted: &[usize],
    ) -> Result<Vec<usize>, BodyError> {
        let mut again = Self::new(self.encoding, self.mark);
        let mut found = Vec::new();
        let (mut passed, mut at) = (0, self.mark);
        for chunk in chunks {
            let text = again.feed(chunk)?;
            while let Some(offset) = wanted.get(found.len()).filter(|offset| **offset <= passed + text.len()) {
                found.push(at + self.measured(&text[..offset - passed]));
            }
            passed += text.len();
            at += self.measured(&text);
        }
        Ok(found)
    }

    /// How long UTF-8 is in the body's encoding.
    fn measured(&self, text: &[u8]) -> usize {
        let first = |byte: &&u8| (**byte & 0xC0) != 0x80;
        match self.encoding {
            Encoding::Utf8 => text.len(),
            _ => {
                text.iter().filter(first).map(|byte| self.encoding.width(if *byte >= 0xF0 { 0x10000 } else { 0 })).sum()
            }
        }
    }
}

fn utf8_width(code: u32) -> usize {
    match code {
        0..0x80 => 1,
        0x80..0x800 => 2,
        0x800..0x10000 => 3,
        _ => 4,
    }
}

/// UTF-8 of a code point, a surrogate too.
fn push_utf8(out: &mut Vec<u8>, code: u32) {
    if let Some(char) = char::from_u32(code) {
        out.extend_from_slice(char.encode_utf8(&mut [0; 4]).as_bytes());
    } else {
        let part = |shift: u32| (code >> shift & 0x3F) as u8 | 0x80;
        out.extend_from_slice(&[0xE0 | (code >> 12 & 0x0F) as u8, part(6), part(0)]);
    }
}
