//! Finds the model of a JSON request without parsing it, chunk by chunk.
//!
//! A push-down recogniser for RFC 8259 that builds no values: it knows where it is (a state and a stack of brackets),
//! remembers the spans of the wanted top-level members, and is as strict as a full parser, so that what it accepts a
//! model server can read. Each byte is looked at once, when it comes.
//!
//! Choices where the RFC leaves room are those of Python's `json.loads`, with which vLLM reads requests: of duplicate
//! keys the last one counts, NaN and Infinity are numbers, surrogates may stand alone, even in UTF-8. Beyond that the
//! whole must be an object; nesting is limited to [`MAX_DEPTH`] and a number to [`MAX_TOKEN`] characters.

use std::borrow::Cow;
use std::sync::Arc;

use crate::members::{BodyError, Field, JsonType, unescape};

/// Chat requests with tool schemas reach about 20; vLLM's own parser gives up near 1000.
pub const MAX_DEPTH: usize = 512;

/// Longest number: it must be seen whole, so it bounds what is scanned again with the next chunk.
pub const MAX_TOKEN: usize = 1024;

/// Longest string value that is kept: model names have at most 253 characters, session keys not many more.
pub const MAX_CAPTURE: usize = 4096;

/// The names of the members to find. Shared by all requests.
pub type Wanted = Arc<[String]>;

/// What the grammar allows next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Start,
    KeyOrEnd,
    Key,
    Colon,
    Value,
    ValueOrEnd,
    After,
    End,
}

impl State {
    fn text(self) -> &'static str {
        match self {
            Self::Start => "the opening brace of the request",
            Self::KeyOrEnd => "a key or }",
            Self::Key => "a key",
            Self::Colon => "a colon",
            Self::Value => "a value",
            Self::ValueOrEnd => "a value or ]",
            Self::After => "a comma or a closing bracket",
            Self::End => "nothing more",
        }
    }
}

/// Where to go on; nothing: wait for the next chunk.
type Step = Result<Option<usize>, BodyError>;

/// Recognises one JSON object, fed in chunks; `field` has the wanted members after `finish`.
#[derive(Debug)]
pub struct BodyScanner {
    wanted: Wanted,
    fields: Vec<Option<Field>>,
    state: State,
    stack: Vec<u8>,
    carry: Vec<u8>,
    /// Offset in the body of the text being scanned.
    base: usize,
    in_string: bool,
    in_key: bool,
    /// Whether the string being read is kept.
    capture: bool,
    captured: Vec<u8>,
    start: usize,
    /// The top-level member whose value comes next, if wanted.
    key: Option<usize>,
    utf8: Utf8,
    /// Offset behind the opening brace.
    pub opened: usize,
    pub size: usize,
}

impl BodyScanner {
    #[must_use]
    pub fn new(wanted: Wanted) -> Self {
        Self {
            fields: vec![None; wanted.len()],
            wanted,
            state: State::Start,
            stack: Vec::with_capacity(16),
            carry: Vec::new(),
            base: 0,
            in_string: false,
            in_key: false,
            capture: false,
            captured: Vec::new(),
            start: 0,
            key: None,
            utf8: Utf8::default(),
            opened: 0,
            size: 0,
        }
    }

    /// The wanted member of this name, if there was one.
    #[must_use]
    pub fn field(&self, name: &str) -> Option<&Field> {
        self.fields().find(|(wanted, _)| *wanted == name).map(|(_, field)| field)
    }

    /// All wanted members that there were.
    pub fn fields(&self) -> impl Iterator<Item = (&str, &Field)> {
        let pairs = self.wanted.iter().zip(&self.fields);
        pairs.filter_map(|(name, field)| field.as_ref().map(|field| (name.as_str(), field)))
    }

    /// Scan the next bytes.
    ///
    /// # Errors
    /// As soon as it is sure that this is no JSON object.
    pub fn feed(&mut self, chunk: &[u8]) -> Result<(), BodyError> {
        self.utf8.check(chunk).map_err(|NotUtf8| BodyError::new("the body is not UTF-8"))?;
        self.base = self.size - self.carry.len();
        self.size += chunk.len();
        let text: Cow<'_, [u8]> = if self.carry.is_empty() {
            chunk.into()
        } else {
            self.carry.extend_from_slice(chunk);
            std::mem::take(&mut self.carry).into()
        };
        let text = &text[..];
        let mut next = if self.in_string { self.string(text, 0)? } else { Some(0) };
        while let Some(pos) = next.filter(|pos| *pos < text.len()) {
            next = match self.state {
                State::Start => self.top(text, pos),
                State::KeyOrEnd | State::Key => self.member(text, pos),
                State::Colon => self.colon(text, pos),
                State::Value | State::ValueOrEnd => self.value(text, pos),
                State::After => self.after(text, pos),
                State::End => self.end(text, pos),
            }?;
        }
        Ok(())
    }

    /// The body is complete.
    ///
    /// # Errors
    /// When the object is not.
    pub fn finish(&self) -> Result<(), BodyError> {
        if self.utf8.inside() {
            return Err(BodyError::new("the body ends in the middle of a UTF-8 character"));
        }
        match self.state {
            State::End => Ok(()),
            _ if self.in_string => Err(BodyError::new("the JSON ends in the middle of a string")),
            state => Err(BodyError(format!("the JSON ends in a place that needs {}", state.text()))),
        }
    }

    fn expected<T>(&self, pos: usize, what: &str) -> Result<T, BodyError> {
        Err(BodyError(format!("invalid JSON at byte {}: expected {what}", self.base + pos)))
    }

    fn wait(&mut self, text: &[u8], pos: usize) -> Step {
        if text.len() - pos > MAX_TOKEN {
            return self.expected(pos, self.state.text());
        }
        self.carry = text[pos..].to_vec();
        Ok(None)
    }

    fn top(&mut self, text: &[u8], pos: usize) -> Step {
        let pos = skip_space(text, pos);
        match text.get(pos) {
            None => Ok(Some(pos)),
            Some(b'{') => {
                self.opened = self.base + pos + 1;
                self.open(b'{', pos)
            }
            Some(_) => Err(BodyError::new("the body is not a JSON object")),
        }
    }

    fn open(&mut self, bracket: u8, pos: usize) -> Step {
        if self.stack.len() == MAX_DEPTH {
            return Err(BodyError(format!("the JSON is nested more than {MAX_DEPTH} levels deep")));
        }
        self.stack.push(bracket);
        self.state = if bracket == b'{' { State::KeyOrEnd } else { State::ValueOrEnd };
        Ok(Some(pos + 1))
    }

    fn close(&mut self, pos: usize) -> Step {
        self.stack.pop();
        self.state = if self.stack.is_empty() { State::End } else { State::After };
        Ok(Some(pos))
    }

    fn member(&mut self, text: &[u8], pos: usize) -> Step {
        let pos = skip_space(text, pos);
        match text.get(pos) {
            None => Ok(Some(pos)),
            Some(b'"') => {
                self.in_key = true;
                self.begin_string(pos, self.stack.len() == 1);
                self.string(text, pos + 1)
            }
            Some(b'}') if self.state == State::KeyOrEnd => self.close(pos + 1),
            Some(_) => self.expected(pos, self.state.text()),
        }
    }

    fn colon(&mut self, text: &[u8], pos: usize) -> Step {
        let pos = skip_space(text, pos);
        match text.get(pos) {
            None => Ok(Some(pos)),
            Some(b':') => {
                self.state = State::Value;
                Ok(Some(pos + 1))
            }
            Some(_) => self.expected(pos, "a colon"),
        }
    }

    fn value(&mut self, text: &[u8], mut pos: usize) -> Step {
        if !matches!(text[pos], b'"' | b'{' | b'[') {
            if self.stack.last() == Some(&b'[') {
                let end = skip_integers(text, pos);
                if end > pos {
                    self.state = State::Value;
                    pos = end;
                }
            }
            pos = skip_space(text, pos);
        }
        let Some(&char) = text.get(pos) else { return Ok(Some(pos)) };
        let wanted = if self.stack.len() == 1 { self.key } else { None };
        match char {
            b'"' => {
                self.begin_string(pos, wanted.is_some());
                return self.string(text, pos + 1);
            }
            b'{' | b'[' => {
                let start = self.base + pos;
                self.keep(wanted, JsonType::Container, (start, start), Vec::new(), false);
                return self.open(char, pos);
            }
            b']' if self.state == State::ValueOrEnd => return self.close(pos + 1),
            _ => {}
        }
        // A scalar ends at a terminator that we see: "12" at the end of a chunk may yet become "123".
        let ends = |end: &usize| matches!(text.get(*end), Some(b' ' | b'\t' | b'\n' | b'\r' | b',' | b'}' | b']'));
        let Some(end) = number_or_word(text, pos).filter(ends) else { return self.wait(text, pos) };
        if wanted.is_some() {
            let span = (self.base + pos, self.base + end);
            self.keep(wanted, JsonType::Scalar, span, text[pos..end].to_vec(), false);
        }
        self.state = State::After;
        Ok(Some(end))
    }

    fn after(&mut self, text: &[u8], pos: usize) -> Step {
        let pos = skip_space(text, pos);
        let in_object = self.stack.last() == Some(&b'{');
        match text.get(pos) {
            None => Ok(Some(pos)),
            Some(b',') => {
                self.state = if in_object { State::Key } else { State::Value };
                Ok(Some(skip_space(text, pos + 1)))
            }
            Some(bracket @ (b'}' | b']')) if in_object == (*bracket == b'}') => self.close(skip_space(text, pos + 1)),
            Some(b'}' | b']') => {
                let at = self.base + pos;
                Err(BodyError(format!("invalid JSON at byte {at}: the brackets do not match")))
            }
            Some(_) => self.expected(pos, self.state.text()),
        }
    }

    fn end(&mut self, text: &[u8], pos: usize) -> Step {
        let pos = skip_space(text, pos);
        if pos < text.len() {
            let at = self.base + pos;
            return Err(BodyError(format!("invalid JSON at byte {at}: something follows the object")));
        }
        Ok(Some(pos))
    }

    // Strings, which may go on over any number of chunks.

    fn begin_string(&mut self, pos: usize, capture: bool) {
        self.in_string = true;
        self.capture = capture;
        self.captured.clear();
        self.start = self.base + pos;
    }

    fn string(&mut self, text: &[u8], pos: usize) -> Step {
        match scan_string(text, pos) {
            Scan::Closed(end) => {
                self.capture_part(&text[pos..end - 1]);
                self.end_string(end);
                Ok(Some(end))
            }
            Scan::Open => self.part(text, pos, text.len()),
            Scan::Bad => {
                // The text ends in the middle of an escape in this string, or it is no string at all.
                let cut = escape_cut(text, pos);
                if cut == text.len() || !matches!(scan_string(&text[..cut], pos), Scan::Open) {
                    let at = self.base + pos;
                    return Err(BodyError(format!("invalid JSON: a bad character or escape after byte {at}")));
                }
                self.part(text, pos, cut)
            }
        }
    }

    /// The string goes on in the next chunk, which will see again what is beyond `cut`.
    fn part(&mut self, text: &[u8], pos: usize, cut: usize) -> Step {
        self.capture_part(&text[pos..cut]);
        self.carry = text[cut..].to_vec();
        Ok(None)
    }

    /// Keep a part of a string, or forget it all when it is too long to be a name.
    fn capture_part(&mut self, part: &[u8]) {
        if !self.capture {
            return;
        }
        if self.captured.len() + part.len() > MAX_CAPTURE {
            self.capture = false;
            self.captured.clear();
        } else {
            self.captured.extend_from_slice(part);
        }
    }

    fn end_string(&mut self, end: usize) {
        self.in_string = false;
        if self.in_key {
            self.in_key = false;
            self.state = State::Colon;
            if self.stack.len() == 1 {
                let raw = &self.captured;
                self.key = if self.capture { self.wanted.iter().position(|name| is_name(raw, name)) } else { None };
            }
            return;
        }
        self.state = State::After;
        if self.key.is_some() && self.stack.len() == 1 {
            let mut raw = Vec::new();
            if self.capture {
                raw.reserve_exact(self.captured.len() + 2);
                raw.push(b'"');
                raw.extend_from_slice(&self.captured);
                raw.push(b'"');
            }
            let span = (self.start, self.base + end);
            self.keep(self.key, JsonType::String, span, raw, !self.capture);
        }
    }

    fn keep(&mut self, key: Option<usize>, kind: JsonType, span: (usize, usize), raw: Vec<u8>, clipped: bool) {
        if let Some(key) = key {
            self.fields[key] = Some(Field { kind, start: span.0, end: span.1, raw, clipped });
        }
    }
}

/// Whether the source of a key, without its quotes, is this name. Python compares one character per byte.
pub(crate) fn is_name(raw: &[u8], name: &str) -> bool {
    if !raw.contains(&b'\\') {
        return raw.iter().map(|byte| u32::from(*byte)).eq(name.chars().map(u32::from));
    }
    let mut units = Vec::with_capacity(raw.len());
    let mut pos = 0;
    while pos < raw.len() {
        if raw[pos] == b'\\' {
            let (unit, after) = unescape(raw, pos);
            units.push(unit);
            pos = after;
        } else {
            units.push(u16::from(raw[pos]));
            pos += 1;
        }
    }
    units.into_iter().eq(name.encode_utf16())
}

pub(crate) fn skip_space(text: &[u8], mut pos: usize) -> usize {
    while matches!(text.get(pos), Some(b' ' | b'\t' | b'\n' | b'\r')) {
        pos += 1;
    }
    pos
}

fn skip_digits(text: &[u8], mut pos: usize) -> usize {
    while matches!(text.get(pos), Some(b'0'..=b'9')) {
        pos += 1;
    }
    pos
}

/// Behind `0` or digits that do not begin with it; nothing where there are none.
fn integer(text: &[u8], pos: usize) -> Option<usize> {
    match text.get(pos)? {
        b'0' => Some(pos + 1),
        b'1'..=b'9' => Some(skip_digits(text, pos + 1)),
        _ => None,
    }
}

/// Prompts may be arrays of token ids: behind a run of them with their commas.
fn skip_integers(text: &[u8], mut pos: usize) -> usize {
    while let Some(end) = integer(text, pos).filter(|end| text.get(*end) == Some(&b',')) {
        pos = skip_space(text, end + 1);
    }
    pos
}

/// Behind a number, or one of the words of JSON and of Python's `json`.
pub(crate) fn number_or_word(text: &[u8], pos: usize) -> Option<usize> {
    const WORDS: [&[u8]; 6] = [b"true", b"false", b"null", b"NaN", b"Infinity", b"-Infinity"];
    let unsigned = if text.get(pos) == Some(&b'-') { pos + 1 } else { pos };
    let Some(mut end) = integer(text, unsigned) else {
        return WORDS.iter().find(|word| text[pos..].starts_with(word)).map(|word| pos + word.len());
    };
    if text.get(end) == Some(&b'.') {
        let fraction = skip_digits(text, end + 1);
        end = if fraction > end + 1 { fraction } else { end };
    }
    if matches!(text.get(end), Some(b'e' | b'E')) {
        let digits = if matches!(text.get(end + 1), Some(b'+' | b'-')) { end + 2 } else { end + 1 };
        let exponent = skip_digits(text, digits);
        end = if exponent > digits { exponent } else { end };
    }
    Some(end)
}

/// How far the string goes that the text is in the middle of.
pub(crate) enum Scan {
    /// To its quote; the position behind that.
    Closed(usize),
    /// Beyond the end of the text, which is not inside of an escape.
    Open,
    /// There is a character or escape that may not be, or the text ends inside of an escape.
    Bad,
}

pub(crate) fn scan_string(text: &[u8], mut pos: usize) -> Scan {
    while let Some(at) = special(text, pos) {
        pos = match text[at] {
            b'"' => return Scan::Closed(at + 1),
            b'\\' => match text.get(at + 1) {
                Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => at + 2,
                Some(b'u') if text.len() >= at + 6 && text[at + 2..at + 6].iter().all(u8::is_ascii_hexdigit) => at + 6,
                _ => return Scan::Bad,
            },
            _ => return Scan::Bad,
        };
    }
    Scan::Open
}

/// The next quote, backslash or control character. Thirty-two bytes at a time, which compiles to vector instructions.
#[inline]
fn special(text: &[u8], pos: usize) -> Option<usize> {
    let is_special = |byte: u8| byte < 0x20 || byte == b'"' || byte == b'\\';
    let mut at = pos;
    for block in text[pos..].chunks_exact(32) {
        let hit = block.iter().fold(false, |hit, byte| hit | is_special(*byte));
        if hit {
            break;
        }
        at += 32;
    }
    text[at..].iter().position(|byte| is_special(*byte)).map(|found| at + found)
}

/// Where an escape begins that is cut off at the end of `text`, if one is; else the text's length.
fn escape_cut(text: &[u8], pos: usize) -> usize {
    let size = text.len();
    let from = pos.max(size.saturating_sub(5));
    match memchr::memrchr(b'\\', &text[from..]) {
        Some(found) if from + found == size - 1 || text[from + found + 1] == b'u' => from + found,
        _ => size,
    }
}

/// The bytes are not UTF-8, not even with surrogates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NotUtf8;

/// Checks UTF-8 in chunks. Surrogates may stand alone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Utf8 {
    /// The beginning of a character that goes on in the next chunk.
    tail: [u8; 3],
    held: usize,
}

impl Utf8 {
    /// Whether a character goes on in the next chunk.
    pub(crate) fn inside(&self) -> bool {
        self.held > 0
    }

    /// The beginning of that character.
    pub(crate) fn tail(&self) -> &[u8] {
        &self.tail[..self.held]
    }

    pub(crate) fn check(&mut self, chunk: &[u8]) -> Result<(), NotUtf8> {
        if self.held == 0 {
            return self.whole(chunk);
        }
        let width = match self.tail[0] {
            0xF0.. => 4,
            0xE0.. => 3,
            _ => 2,
        };
        let (begin, rest) = chunk.split_at(chunk.len().min(width - self.held));
        let mut char = [0; 4];
        let size = self.held + begin.len();
        char[..self.held].copy_from_slice(self.tail());
        char[self.held..size].copy_from_slice(begin);
        self.held = 0;
        self.whole(&char[..size])?;
        if self.held > 0 { Ok(()) } else { self.whole(rest) }
    }

    fn whole(&mut self, mut text: &[u8]) -> Result<(), NotUtf8> {
        while let Err(error) = std::str::from_utf8(text) {
            text = &text[error.valid_up_to()..];
            match text {
                [0xED, 0xA0..=0xBF, 0x80..=0xBF, ..] => text = &text[3..],
                [0xED, 0xA0..=0xBF] => return self.hold(text),
                _ if error.error_len().is_none() => return self.hold(text),
                _ => return Err(NotUtf8),
            }
        }
        Ok(())
    }

    fn hold(&mut self, tail: &[u8]) -> Result<(), NotUtf8> {
        self.held = tail.len();
        self.tail[..self.held].copy_from_slice(tail);
        Ok(())
    }
}
