//! Finds the fields of a multipart form (RFC 7578) as it comes: speech to text sends its `model` in one.
//!
//! Parsed by the rules of `python-multipart`, the library of Starlette and so of vLLM, step by step as it does: of
//! several fields of a name the last one counts, a part with a file name is a file whatever its name is, and `charset`
//! of the content type says how names and values are encoded. What the library does not tell is where in the body a
//! value stands; that is counted here.

use memchr::memmem;

use crate::body::Wanted;
use crate::members::BodyError;

/// Starlette takes 1,000 files and 1,000 fields.
pub const MAX_PARTS: usize = 2000;

/// Longest value that is kept, as in JSON.
const MAX_VALUE: usize = 4096;

/// Limits of the library.
const MAX_BOUNDARY: usize = 256;
const MAX_HEADERS: usize = 8;
const MAX_HEADER_SIZE: usize = 4096 + 128;

/// A field: its text, and where its value stands; `place` None: not known, nothing can be put there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FormField {
    pub text: String,
    pub place: Option<(usize, usize)>,
    pub clipped: bool,
}

/// How the text of a form is encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Charset {
    Utf8,
    Ascii,
    Latin1,
}

impl Charset {
    /// By its name, in the spellings that Python knows; any other counts as ISO 8859-1.
    #[must_use]
    pub fn of(name: &[u8]) -> Self {
        if name.contains(&0) {
            return Self::Latin1; // no name of a codec, for Python
        }
        let mut plain = Vec::with_capacity(name.len());
        let mut gap = false;
        for byte in name {
            if byte.is_ascii_alphanumeric() || *byte == b'.' {
                if gap && !plain.is_empty() {
                    plain.push(b'_');
                }
                gap = false;
                plain.push(byte.to_ascii_lowercase());
            } else {
                gap = true;
            }
        }
        match &plain[..] {
            b"utf_8" | b"utf8" | b"u8" | b"utf" | b"cp65001" | b"utf8_ucs2" | b"utf8_ucs4" => Self::Utf8,
            b"ascii" | b"us_ascii" | b"us.ascii" | b"646" | b"us" | b"iso646_us" | b"iso646.us" | b"ansi_x3.4_1968"
            | b"ansi_x3_4_1968" | b"ansi_x3.4.1968" | b"ansi.x3_4_1968" | b"ansi_x3.4_1986" | b"cp367" | b"csascii"
            | b"ibm367" | b"iso_646.irv_1991" | b"iso_ir_6" | b"iso.ir_6" | b"iso_ir.6" | b"iso.ir.6" => Self::Ascii,
            _ => Self::Latin1,
        }
    }

    fn decode(self, data: &[u8]) -> String {
        let text = match self {
            Self::Utf8 => std::str::from_utf8(data).ok(),
            Self::Ascii => std::str::from_utf8(data).ok().filter(|text| text.is_ascii()),
            Self::Latin1 => None,
        };
        text.map_or_else(|| data.iter().map(|byte| char::from(*byte)).collect(), str::to_owned)
    }

    fn encode(self, text: &str) -> Vec<u8> {
        let limit = match self {
            Self::Utf8 => return text.as_bytes().to_vec(),
            Self::Ascii => 0x80,
            Self::Latin1 => 0x100,
        };
        let byte = |char: char| u8::try_from(u32::from(char)).ok().filter(|byte| u32::from(*byte) < limit);
        text.chars().map(|char| byte(char).unwrap_or(b'?')).collect()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Start,
    StartBoundary,
    HeaderFieldStart,
    HeaderField,
    HeaderValueStart,
    HeaderValue,
    HeaderValueAlmostDone,
    HeadersAlmostDone,
    PartData,
    BoundaryPadding,
    EndBoundary,
    End,
}

/// A place in the chunk, or, below zero, that many bytes of a boundary that was held back before it.
type Mark = Option<isize>;

/// What is being collected across chunks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Name,
    Value,
    Data,
}

/// Fed with the chunks of one body; `field` has the wanted fields that have ended.
///
/// A part without an end is none, for Starlette either.
#[derive(Debug)]
pub struct FormScanner {
    pub charset: Charset,
    boundary: Vec<u8>, // with the line end and the hyphens before it
    wanted: Wanted,
    fields: Vec<Option<FormField>>,

    // The state of the library's parser.
    state: State,
    index: usize,
    at_part: bool,
    at_last: bool,
    marks: [Mark; 3],
    header_count: usize,
    header_size: usize,

    /// Of the chunk in the body.
    base: usize,
    parts: usize,
    header: Vec<u8>,
    value: Vec<u8>,
    disposition: Vec<u8>,
    /// Of the part, if wanted.
    name: Option<usize>,
    start: Option<usize>,
    size: usize,
    early: usize,
    kept: Vec<u8>,
}

fn no_form<T>(why: impl std::fmt::Display) -> Result<T, BodyError> {
    Err(BodyError(format!("the body is no multipart form: {why}")))
}

impl FormScanner {
    /// A form of this content type.
    ///
    /// # Errors
    /// When the content type has no boundary, or one that cannot be.
    pub fn new(content_type: &[u8], wanted: Wanted) -> Result<Self, BodyError> {
        let options = options_of(content_type);
        let boundary = option(&options, b"boundary").unwrap_or_default();
        if boundary.is_empty() {
            return Err(BodyError::new("the content-type multipart/form-data needs a boundary"));
        }
        if boundary.len() > MAX_BOUNDARY {
            let size = boundary.len();
            let why = format!("Boundary length {size} exceeds maximum of {MAX_BOUNDARY}");
            return Err(BodyError(format!("the content-type is no good: {why}")));
        }
        Ok(Self {
            charset: Charset::of(option(&options, b"charset").unwrap_or(b"utf-8")),
            boundary: [b"\r\n--", boundary].concat(),
            fields: vec![None; wanted.len()],
            wanted,
            state: State::Start,
            index: 0,
            at_part: false,
            at_last: false,
            marks: [None; 3],
            header_count: 0,
            header_size: 0,
            base: 0,
            parts: 0,
            header: Vec::new(),
            value: Vec::new(),
            disposition: Vec::new(),
            name: None,
            start: None,
            size: 0,
            early: 0,
            kept: Vec::new(),
        })
    }

    /// The wanted field of this name, if there was one.
    #[must_use]
    pub fn field(&self, name: &str) -> Option<&FormField> {
        self.fields().find(|(wanted, _)| *wanted == name).map(|(_, field)| field)
    }

    /// All wanted fields that there were.
    pub fn fields(&self) -> impl Iterator<Item = (&str, &FormField)> {
        let pairs = self.wanted.iter().zip(&self.fields);
        pairs.filter_map(|(name, field)| field.as_ref().map(|field| (name.as_str(), field)))
    }

    /// A value as it stands in this form.
    #[must_use]
    pub fn encode(&self, text: &str) -> Vec<u8> {
        self.charset.encode(text)
    }

    /// Look at the next bytes.
    ///
    /// # Errors
    /// When the body is no form.
    pub fn feed(&mut self, chunk: &[u8]) -> Result<(), BodyError> {
        self.write(chunk)?;
        self.base += chunk.len();
        Ok(())
    }

    /// The flags as they were at the beginning of the chunk decide what was held back then.
    fn write(&mut self, data: &[u8]) -> Result<(), BodyError> {
        let flags = (self.at_part, self.at_last);
        let mut pos = 0;
        while pos < data.len() {
            pos = match self.state {
                State::Start => self.skip_lines(data, pos),
                State::StartBoundary => self.start_boundary(data, pos)?,
                State::HeaderFieldStart => self.header_field_start(data, pos)?,
                State::HeaderField => self.header_field(data, pos, flags)?,
                State::HeaderValueStart => self.header_value_start(data, pos)?,
                State::HeaderValue => self.header_value(data, pos, flags)?,
                State::HeaderValueAlmostDone if data[pos] == b'\n' => {
                    self.state = State::HeaderFieldStart;
                    pos + 1
                }
                State::HeaderValueAlmostDone => {
                    return no_form(format_args!("Did not find LF character at end of header (found {})", data[pos]));
                }
                State::HeadersAlmostDone if data[pos] == b'\n' => {
                    self.headers_finished()?;
                    self.set_mark(Part::Data, pos + 1);
                    self.state = State::PartData;
                    pos + 1
                }
                State::HeadersAlmostDone => {
                    return no_form(format_args!("Did not find LF at end of headers (found {})", data[pos]));
                }
                State::PartData => self.part_data(data, pos, flags)?,
                State::BoundaryPadding => self.boundary_padding(data, pos)?,
                State::EndBoundary => self.end_boundary(data, pos)?,
                State::End => data.len(),
            };
        }
        self.give(Part::Name, data, data.len(), true, flags);
        self.give(Part::Value, data, data.len(), true, flags);
        // Below zero when a boundary begins before this chunk.
        self.give_until(Part::Data, data, data.len().cast_signed() - self.index.cast_signed(), true, flags);
        Ok(())
    }

    fn skip_lines(&mut self, data: &[u8], pos: usize) -> usize {
        if matches!(data[pos], b'\r' | b'\n') {
            return memchr::memchr(b'-', &data[pos..]).map_or(data.len(), |found| pos + found);
        }
        self.index = 0;
        self.state = State::StartBoundary;
        pos
    }

    fn start_boundary(&mut self, data: &[u8], pos: usize) -> Result<usize, BodyError> {
        let last = self.boundary.len() - 2;
        if self.index == 0 && data[pos..].starts_with(&self.boundary[2..]) {
            self.index = last;
            return Ok(pos + last);
        }
        let byte = data[pos];
        if self.index == last {
            if byte == b'-' {
                self.state = State::EndBoundary; // perhaps an empty message
            } else if byte != b'\r' {
                return no_form(format_args!("Did not find CR at end of boundary ({pos})"));
            }
            self.index += 1;
        } else if self.index == last + 1 {
            if byte != b'\n' {
                return no_form(format_args!("Did not find LF at end of boundary ({pos})"));
            }
            self.index = 0;
            self.begin_part()?;
        } else {
            let index = self.index + 2;
            let want = self.boundary[index];
            if byte != want {
                let why = format_args!("Expected boundary character {want}, got {byte} at index {index}");
                return no_form(why);
            }
            self.index += 1;
        }
        Ok(pos + 1)
    }

    fn begin_part(&mut self) -> Result<(), BodyError> {
        self.parts += 1;
        if self.parts > MAX_PARTS {
            return no_form(format_args!("more than {MAX_PARTS} parts"));
        }
        self.disposition.clear();
        self.header_count = 0;
        self.header_size = 0;
        self.state = State::HeaderFieldStart;
        Ok(())
    }

    fn header_field_start(&mut self, data: &[u8], pos: usize) -> Result<usize, BodyError> {
        if data[pos..].starts_with(b"\r\n") {
            self.headers_finished()?;
            self.set_mark(Part::Data, pos + 2);
            self.index = 0;
            self.state = State::PartData;
            return Ok(pos + 2);
        }
        self.index = 0;
        if data[pos] != b'\r' {
            self.header_count += 1;
            if self.header_count > MAX_HEADERS {
                return no_form("Maximum header count exceeded");
            }
            self.header_size = 0;
        }
        self.set_mark(Part::Name, pos);
        self.state = State::HeaderField;
        Ok(pos)
    }

    fn grow_header(&mut self, more: usize) -> Result<(), BodyError> {
        self.header_size += more;
        if self.header_size > MAX_HEADER_SIZE { no_form("Maximum header size exceeded") } else { Ok(()) }
    }

    fn header_field(&mut self, data: &[u8], pos: usize, flags: (bool, bool)) -> Result<usize, BodyError> {
        if data[pos] == b'\r' && self.index == 0 {
            self.marks[Part::Name as usize] = None;
            self.state = State::HeadersAlmostDone;
            return Ok(pos + 1);
        }
        let colon = memchr::memchr(b':', &data[pos..]).map(|found| pos + found);
        let end = colon.unwrap_or(data.len());
        self.grow_header(end - pos + usize::from(colon.is_some()))?;
        if let Some(bad) = data[pos..end].iter().position(|byte| !is_token(*byte)).map(|found| pos + found) {
            return no_form(format_args!("Found invalid character {} in header at {bad}", data[bad]));
        }
        self.index += end - pos;
        if colon.is_none() {
            return Ok(end);
        }
        if self.index == 0 {
            return no_form(format_args!("Found 0-length header at {pos}"));
        }
        self.give(Part::Name, data, end, false, flags);
        self.state = State::HeaderValueStart;
        Ok(end + 1)
    }

    fn header_value_start(&mut self, data: &[u8], pos: usize) -> Result<usize, BodyError> {
        if data[pos] == b' ' {
            self.grow_header(1)?;
            return Ok(pos + 1);
        }
        self.set_mark(Part::Value, pos);
        self.state = State::HeaderValue;
        Ok(pos)
    }

    fn header_value(&mut self, data: &[u8], pos: usize, flags: (bool, bool)) -> Result<usize, BodyError> {
        let end = memchr::memchr(b'\r', &data[pos..]).map(|found| pos + found);
        self.grow_header(end.unwrap_or(data.len()) - pos)?;
        let Some(end) = end else { return Ok(data.len()) };
        self.give(Part::Value, data, end, false, flags);
        if self.header.eq_ignore_ascii_case(b"content-disposition") {
            self.disposition = std::mem::take(&mut self.value);
        }
        self.header.clear();
        self.value.clear();
        self.header_size = 0;
        if data[end..].starts_with(b"\r\n") {
            self.state = State::HeaderFieldStart;
            return Ok(end + 2);
        }
        self.state = State::HeaderValueAlmostDone;
        Ok(end + 1)
    }

    fn headers_finished(&mut self) -> Result<(), BodyError> {
        let options = options_of(&self.disposition);
        let Some(name) = option(&options, b"name") else { return no_form("a part has no name") };
        let name = self.charset.decode(name);
        let is_file = option(&options, b"filename").is_some();
        self.name = self.wanted.iter().position(|wanted| *wanted == name && !name.is_empty() && !is_file);
        self.start = None;
        self.size = 0;
        self.early = 0;
        self.kept.clear();
        Ok(())
    }

    fn part_data(&mut self, data: &[u8], mut pos: usize, flags: (bool, bool)) -> Result<usize, BodyError> {
        let width = self.boundary.len();
        let before = self.index;
        let mut byte = data[pos];
        if self.index == 0 {
            if let Some(found) = memmem::find(&data[pos..], &self.boundary).map(|found| pos + found) {
                let after = found + width;
                if data[after..].starts_with(b"\r\n") {
                    self.give(Part::Data, data, found, false, flags);
                    self.end_part();
                    self.begin_part()?;
                    return Ok(after + 2);
                }
                self.index = width - 1;
                pos = after - 1;
                byte = data[pos];
            } else {
                // The tail may hold a part of one that goes on in the next chunk.
                let from = pos.max((data.len() + 1).saturating_sub(width));
                let tail = memchr::memrchr(b'\r', &data[from.min(data.len())..]).map(|found| from + found);
                if let Some(tail) = tail.filter(|tail| self.boundary.starts_with(&data[*tail..])) {
                    self.index = data.len() - tail;
                }
                return Ok(data.len());
            }
        }
        if self.index < width {
            self.index = if self.boundary[self.index] == byte { self.index + 1 } else { 0 };
        } else if self.index == width {
            self.index += 1;
            match byte {
                b'\r' => self.at_part = true,
                b'-' => self.at_last = true,
                b' ' | b'\t' => {
                    let end = pos.cast_signed() - width.cast_signed();
                    self.give_until(Part::Data, data, end, false, flags);
                    self.index = 0;
                    self.state = State::BoundaryPadding;
                }
                _ => self.index = 0,
            }
        } else if self.index == width + 1 {
            let end = pos.cast_signed() - self.index.cast_signed();
            if self.at_part {
                self.at_part = false;
                if byte == b'\n' {
                    self.give_until(Part::Data, data, end, false, flags);
                    self.end_part();
                    self.begin_part()?;
                    self.index = 0;
                    return Ok(pos + 1);
                }
                self.index = 0;
            } else if self.at_last {
                if byte == b'-' {
                    self.give_until(Part::Data, data, end, false, flags);
                    self.end_part();
                    self.state = State::End;
                } else {
                    self.index = 0;
                }
            }
        }
        // What looked like a boundary was none: this byte may begin one.
        Ok(if self.index == 0 && before > 0 { pos } else { pos + 1 })
    }

    fn boundary_padding(&mut self, data: &[u8], pos: usize) -> Result<usize, BodyError> {
        match (self.index, data[pos]) {
            (0, b'\r') => self.index = 1,
            (1, b'\n') => {
                self.end_part();
                self.begin_part()?;
                self.index = 0;
            }
            (0, b' ' | b'\t') => {}
            _ => return no_form(format_args!("Did not find CRLF after boundary padding at {pos}")),
        }
        Ok(pos + 1)
    }

    fn end_boundary(&mut self, data: &[u8], pos: usize) -> Result<usize, BodyError> {
        if self.index == self.boundary.len() - 1 {
            if data[pos] != b'-' {
                return no_form(format_args!("Did not find - at end of boundary ({pos})"));
            }
            self.index += 1;
            self.state = State::End;
        }
        Ok(pos + 1)
    }

    // --- what is found; positions are those in the chunk, or in bytes that were held back ---------------

    fn set_mark(&mut self, part: Part, pos: usize) {
        self.marks[part as usize] = Some(pos.cast_signed());
    }

    fn give(&mut self, part: Part, data: &[u8], end: usize, remaining: bool, flags: (bool, bool)) {
        self.give_until(part, data, end.cast_signed(), remaining, flags);
    }

    /// All from the mark to `end`; `remaining`: the mark moves on to the next chunk.
    fn give_until(&mut self, part: Part, data: &[u8], end: isize, remaining: bool, flags: (bool, bool)) {
        let Some(mark) = self.marks[part as usize] else { return };
        if end > mark {
            let until = usize::try_from(end).unwrap_or(0);
            if let Ok(start) = usize::try_from(mark) {
                self.take(part, &data[start..until], Some(start));
            } else {
                self.give_held(part, mark.unsigned_abs(), flags);
                self.take(part, &data[..until], Some(0));
            }
        }
        self.marks[part as usize] = remaining.then(|| end - data.len().cast_signed());
    }

    /// Bytes that looked like the beginning of a boundary, in the chunks before.
    fn give_held(&mut self, part: Part, size: usize, (at_part, at_last): (bool, bool)) {
        let width = self.boundary.len();
        let rest: &[u8] = match (at_part, at_last) {
            _ if size <= width => b"",
            (true, _) => b"\r\n",
            (_, true) => b"--\r\n",
            _ => return,
        };
        let held = [&self.boundary, rest].concat();
        self.take(part, &held[..size.min(held.len())], None);
    }

    fn take(&mut self, part: Part, text: &[u8], at: Option<usize>) {
        if text.is_empty() {
            return;
        }
        match part {
            Part::Name => self.header.extend_from_slice(text),
            Part::Value => self.value.extend_from_slice(text),
            Part::Data => self.take_data(text, at),
        }
    }

    fn take_data(&mut self, text: &[u8], at: Option<usize>) {
        if self.name.is_none() {
            return;
        }
        match (self.start, at) {
            (None, Some(at)) => self.start = (self.base + at).checked_sub(self.early),
            (None, None) => self.early += text.len(),
            _ => {}
        }
        self.size += text.len();
        if self.size <= MAX_VALUE {
            self.kept.extend_from_slice(text);
        }
    }

    fn end_part(&mut self) {
        if let Some(name) = self.name {
            self.fields[name] = Some(FormField {
                text: self.charset.decode(&self.kept),
                place: self.start.map(|start| (start, start + self.size)),
                clipped: self.size > MAX_VALUE,
            });
        }
    }
}

fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

// --- header values with options -------------------------------------------------------------------------

type Options = Vec<(Vec<u8>, Vec<u8>)>;

/// The last option of this name.
fn option<'a>(options: &'a Options, name: &[u8]) -> Option<&'a [u8]> {
    options.iter().rev().find(|(key, _)| key == name).map(|(_, value)| &value[..])
}

/// `; key=value` behind a header's value, in ISO 8859-1.
fn options_of(value: &[u8]) -> Options {
    let mut found = Vec::new();
    if !value.contains(&b';') {
        return found;
    }
    for segment in segments_of(value).into_iter().skip(1) {
        let split = segment.iter().position(|byte| *byte == b'=');
        let (key, text) = match split {
            Some(at) => (&segment[..at], &segment[at + 1..]),
            None => (&segment[..], &segment[..0]),
        };
        if key.contains(&b'*') {
            continue; // RFC 7578, section 4.2
        }
        let mut text = text.to_vec();
        if let [b'"', inner @ .., b'"'] = &text[..] {
            text = replace(&replace(inner, b"\\\\", b"\\"), b"\\\"", b"\"");
        }
        // Internet Explorer 6 sent the whole path of a file.
        if key == b"filename" && (text.get(1..3) == Some(b":\\") || text.starts_with(b"\\\\")) {
            text = text.rsplit(|byte| *byte == b'\\').next().unwrap_or_default().to_vec();
        }
        found.push((key.to_vec(), text));
    }
    found
}

fn replace(text: &[u8], old: &[u8], new: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut from = 0;
    for at in memmem::find_iter(text, old) {
        out.extend_from_slice(&text[from..at]);
        out.extend_from_slice(new);
        from = at + old.len();
    }
    out.extend_from_slice(&text[from..]);
    out
}

fn find(text: &[u8], byte: u8, from: usize) -> Option<usize> {
    text.get(from..).and_then(|rest| memchr::memchr(byte, rest)).map(|at| from + at)
}

/// What stands between semicolons that are not in quotes; keys in lower case.
fn segments_of(value: &[u8]) -> Vec<Vec<u8>> {
    let text = [b";", value].concat();
    let mut found = Vec::new();
    let mut start = 0;
    while text.get(start) == Some(&b';') {
        start += 1;
        let mut end = find(&text, b';', start);
        let (mut from, mut quotes) = (start, 0isize);
        while let Some(stop) = end {
            quotes += quotes_in(&text[from.min(stop)..stop]);
            if quotes % 2 == 0 {
                break;
            }
            (from, end) = (stop, find(&text, b';', stop + 1));
        }
        let end = end.unwrap_or(text.len());
        let segment = match find(&text[..end], b'=', start) {
            None => text[start..end].to_vec(),
            Some(at) => {
                let key = trim_end(&text[start..at]).iter().map(|byte| latin_lower(*byte)).collect::<Vec<u8>>();
                [&key[..], b"=", trim_start(&text[at + 1..end])].concat()
            }
        };
        found.push(trim_start(trim_end(&segment)).to_vec());
        start = end;
    }
    found
}

/// Quotes that are not escaped.
fn quotes_in(text: &[u8]) -> isize {
    let escaped = memmem::find_iter(text, b"\\\"").count();
    memchr::memchr_iter(b'"', text).count().cast_signed() - escaped.cast_signed()
}

fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t')
}

fn trim_end(text: &[u8]) -> &[u8] {
    let end = text.iter().rposition(|byte| !is_blank(*byte)).map_or(0, |last| last + 1);
    &text[..end]
}

fn trim_start(text: &[u8]) -> &[u8] {
    let start = text.iter().position(|byte| !is_blank(*byte)).unwrap_or(text.len());
    &text[start..]
}

/// Lower case in ISO 8859-1.
fn latin_lower(byte: u8) -> u8 {
    match byte {
        b'A'..=b'Z' | 0xC0..=0xD6 | 0xD8..=0xDE => byte + 0x20,
        _ => byte,
    }
}
