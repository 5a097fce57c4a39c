//! Reads one response as it passes by: time to first token, tokens, end, and errors inside the stream.
//!
//! Facts about the answers, all from vLLM's `OpenAI` server: a stream is `data: <json>` lines and ends with
//! `data: [DONE]`; the status line goes out before any token, so time to headers is not time to first token; a failure
//! in mid-stream is an event with a top-level `error` under status 200; usage comes in the last event when it was asked
//! for. Lines are put together again wherever the chunks split them.

use memchr::memmem;

use crate::body::{Scan, Utf8, is_name, number_or_word, scan_string, skip_space};
use crate::charset::transcoder_of;
use crate::content::{is_space, strip};

/// Longest part of a line that is kept for the next chunk; a longer event is counted but not read.
pub const MAX_LINE: usize = 65_536;

/// Bytes kept of a plain answer's end, where the usage is: logprobs come before it.
pub const TAIL: usize = 16_384;

/// How deep an event may be nested to be read: about where Python's own parser stops, whose stack decides.
const MAX_NESTED: usize = 950;

/// Digits of an integer that Python still reads.
const MAX_DIGITS: usize = 4300;

/// How a response ended, as far as the picker saw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    Complete,
    HeadersOnly,
    Aborted,
    Failed,
}

/// One response. Times in seconds since the request was dispatched, None where there was no such moment.
///
/// `status` 0: no response headers came. Token counts None: not known.
#[derive(Clone, Debug, PartialEq)]
pub struct ObservedResponse {
    pub ending: Ending,
    pub status: u16,
    pub e2e: Option<f64>,
    pub ttft: Option<f64>,
    pub time_per_output_token: Option<f64>,
    pub prompt_tokens: Option<u64>,
    pub completion_tokens: Option<u64>,
}

impl ObservedResponse {
    /// Whether it counts against the version that answered.
    ///
    /// 5xx, an error event in the stream, and 404: vLLM's answer for an adapter that the pod does not have.
    /// Other 4xx are the client's doing.
    #[must_use]
    pub fn error(&self) -> bool {
        self.ending == Ending::Failed || self.status >= 500 || self.status == 404
    }
}

/// Tokens of a streamed text whose events may hold several, without a tokenizer.
///
/// Of the boundaries of tokens at which a word begins, all seen in the text, a share is also a boundary of events; the
/// boundaries of events inside words are the same share of all of those: the estimate of Lincoln and Petersen. Where
/// nothing is merged it is the number of events.
#[derive(Clone, Debug, Default)]
pub struct TokenCount {
    pub events: u64,
    /// Boundaries of events inside words, or inside a character.
    pub inside: u64,
    /// Boundaries of events at which a word begins.
    begun: u64,
    /// Words that begin anywhere in the text.
    words: u64,
    last: Option<u8>,
}

impl TokenCount {
    /// The text of one event, as it stands in its JSON string.
    pub fn add(&mut self, text: &[u8]) {
        if memchr::memchr(b'\\', text).is_some() {
            return self.add_plain(&unescape_space(text));
        }
        self.add_plain(text);
    }

    fn add_plain(&mut self, text: &[u8]) {
        if self.events > 0 {
            let begins = text.first() == Some(&b' ') && self.last.is_some_and(|last| !is_space(last));
            self.begun += u64::from(begins);
            self.words += u64::from(begins);
            self.inside += u64::from(!begins);
        }
        self.events += 1;
        let inner = &text[..text.len().saturating_sub(1)];
        self.words += inner.windows(2).filter(|pair| pair[1] == b' ' && !is_space(pair[0])).count() as u64;
        self.last = text.last().copied();
    }

    /// The estimate, never less than the events.
    #[must_use]
    #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    pub fn tokens(&self) -> u64 {
        if self.events == 1 {
            return 1 + self.words;
        }
        if self.begun == 0 {
            // No spaces, as in Chinese, or none that begins an event: nothing to go by.
            return self.events;
        }
        let merged = (self.inside * self.words) as f64 / self.begun as f64;
        self.events.max(((1 + self.words) as f64 + merged).round_ties_even() as u64)
    }
}

/// With line ends and tabs in place of their escapes.
fn unescape_space(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut pos = 0;
    while pos < text.len() {
        let plain = match text[pos..] {
            [b'\\', b'n', ..] => b'\n',
            [b'\\', b't', ..] => b'\t',
            [b'\\', b'r', ..] => b'\r',
            _ => {
                out.push(text[pos]);
                pos += 1;
                continue;
            }
        };
        out.push(plain);
        pos += 2;
    }
    out
}

/// What an answer's usage says, under each of the names: prompt, input, completion, output.
type Usage = [Option<u64>; 4];
const USAGE: [&str; 4] = ["prompt_tokens", "input_tokens", "completion_tokens", "output_tokens"];

/// Fed with the parts of one response and the time of each.
#[derive(Debug)]
pub struct ResponseMeter {
    start: f64,
    status: u16,
    sse: bool,
    carry: Vec<u8>,
    /// Inside a line whose beginning was too long to keep.
    skipping: bool,
    tail: Vec<u8>,
    first: Option<f64>,
    last: f64,
    events: u64,
    tokens: TokenCount,
    usage: Usage,
    failed: bool,
}

impl ResponseMeter {
    #[must_use]
    pub fn new(start: f64) -> Self {
        Self {
            start,
            status: 0,
            sse: false,
            carry: Vec::new(),
            skipping: false,
            tail: Vec::new(),
            first: None,
            last: start,
            events: 0,
            tokens: TokenCount::default(),
            usage: [None; 4],
            failed: false,
        }
    }

    /// `:status` and `content-type` of the response.
    pub fn headers(&mut self, status: &[u8], content_type: &[u8]) {
        self.status = match status {
            [a, b, c] if status.iter().all(u8::is_ascii_digit) => {
                [a, b, c].iter().fold(0, |sum, digit| sum * 10 + u16::from(**digit - b'0'))
            }
            _ => 0,
        };
        self.sse = content_type.starts_with(b"text/event-stream");
    }

    /// The next bytes of the response.
    pub fn body(&mut self, chunk: &[u8], now: f64) {
        if !self.sse {
            return self.keep_tail(chunk);
        }
        let mut rest = chunk;
        while let Some(end) = memchr::memchr(b'\n', rest) {
            let line = &rest[..end];
            rest = &rest[end + 1..];
            if self.skipping {
                self.skipping = false;
                self.carry.clear();
            } else if self.carry.is_empty() {
                self.line(line, now);
            } else {
                let mut whole = std::mem::take(&mut self.carry);
                whole.extend_from_slice(line);
                self.line(&whole, now);
                if whole.capacity() <= MAX_LINE {
                    whole.clear();
                    self.carry = whole;
                }
            }
        }
        if self.skipping {
            return;
        }
        // No more than is read of a line, and no more memory than that: it is counted nowhere.
        let room = MAX_LINE - self.carry.len();
        self.carry.extend_from_slice(&rest[..rest.len().min(room)]);
        if rest.len() > room {
            let begin = std::mem::take(&mut self.carry);
            self.line(&begin, now);
            self.skipping = true;
        }
    }

    fn keep_tail(&mut self, chunk: &[u8]) {
        let new = &chunk[chunk.len().saturating_sub(TAIL)..];
        let excess = (self.tail.len() + new.len()).saturating_sub(TAIL);
        self.tail.drain(..excess.min(self.tail.len()));
        self.tail.extend_from_slice(new);
    }

    fn line(&mut self, line: &[u8], now: f64) {
        let Some(data) = line.strip_prefix(b"data:").map(strip) else { return };
        if data.is_empty() || data == b"[DONE]" {
            return;
        }
        self.first.get_or_insert(now);
        self.events += 1;
        if let Some(text) = find_text(data).filter(|text| !text.is_empty() || !has_role(data)) {
            self.tokens.add(text);
            self.last = now;
        }
        if memmem::find(data, b"\"error\"").is_some() && has_error(data) {
            self.failed = true;
        }
        self.read_usage(data);
    }

    fn read_usage(&mut self, data: &[u8]) {
        if let Some(usage) = find_usage(data).and_then(counts_of) {
            self.usage = usage;
        }
    }

    /// The response is over.
    #[must_use]
    pub fn finish(mut self, mut ending: Ending, now: f64) -> ObservedResponse {
        if self.sse {
            if !self.carry.is_empty() && !self.skipping {
                let line = std::mem::take(&mut self.carry);
                self.line(&line, now);
            }
        } else if self.status < 400 {
            let tail = std::mem::take(&mut self.tail);
            self.read_usage(&tail);
        }
        if self.failed && ending == Ending::Complete {
            ending = Ending::Failed;
        }
        let [prompt, input, completion, output] = self.usage;
        let counted = (self.sse && self.events > 0).then(|| self.tokens.tokens());
        let completion = completion.or(output).or(counted);
        ObservedResponse {
            ending,
            status: self.status,
            e2e: (ending == Ending::Complete).then_some(now - self.start),
            ttft: self.first.filter(|_| !self.failed).map(|first| first - self.start),
            time_per_output_token: self.per_token(completion),
            prompt_tokens: prompt.or(input),
            completion_tokens: completion,
        }
    }

    #[allow(clippy::cast_precision_loss)]
    fn per_token(&self, completion: Option<u64>) -> Option<f64> {
        let (first, count) = (self.first?, completion?);
        (count >= 2 && self.last > first).then(|| (self.last - first) / (count - 1) as f64)
    }
}

fn skip_any_space(data: &[u8], mut pos: usize) -> usize {
    while data.get(pos).is_some_and(|byte| is_space(*byte)) {
        pos += 1;
    }
    pos
}

/// Behind `"`, the colon and white space around it, where `pos` is behind the key.
fn behind_colon(data: &[u8], pos: usize) -> Option<usize> {
    let colon = skip_any_space(data, pos);
    (data.get(colon) == Some(&b':')).then(|| skip_any_space(data, colon + 1))
}

/// The first member that holds text of the answer: `content`, `text`, `reasoning_content`, `reasoning` or `delta`.
fn find_text(data: &[u8]) -> Option<&[u8]> {
    const KEYS: [&[u8]; 5] = [b"content\"", b"text\"", b"reasoning_content\"", b"reasoning\"", b"delta\""];
    memchr::memchr_iter(b'"', data).find_map(|quote| {
        let rest = &data[quote + 1..];
        if !matches!(rest.first(), Some(b'c' | b't' | b'r' | b'd')) {
            return None;
        }
        let key = KEYS.iter().find(|key| rest.starts_with(key))?;
        let start = behind_colon(data, quote + 1 + key.len())?;
        (data.get(start) == Some(&b'"')).then(|| string_of(data, start + 1))?
    })
}

/// The source of the string that begins at `start`, if it ends.
fn string_of(data: &[u8], start: usize) -> Option<&[u8]> {
    let mut pos = start;
    loop {
        let at = pos + memchr::memchr2(b'"', b'\\', data.get(pos..)?)?;
        if data[at] == b'"' {
            return Some(&data[start..at]);
        }
        if matches!(data.get(at + 1), None | Some(b'\n')) {
            return None;
        }
        pos = at + 2;
    }
}

fn has_role(data: &[u8]) -> bool {
    memmem::find_iter(data, b"\"role\"")
        .any(|at| behind_colon(data, at + 6).is_some_and(|start| data.get(start) == Some(&b'"')))
}

/// The last object under `usage` that has no more than one level of objects in it.
fn find_usage(data: &[u8]) -> Option<&[u8]> {
    let mut found = None;
    let mut from = 0;
    while let Some(at) = memmem::find(&data[from..], b"\"usage\"") {
        from += at + 1;
        let start = behind_colon(data, from + 6).filter(|start| data.get(*start) == Some(&b'{'));
        if let Some((start, end)) = start.and_then(|start| shallow_object(data, start).map(|end| (start, end))) {
            found = Some(&data[start..end]);
            from = end;
        }
    }
    found
}

/// Behind the object at `start`, by nothing but its braces, of which there may be two levels.
fn shallow_object(data: &[u8], start: usize) -> Option<usize> {
    let mut depth = 0;
    let mut pos = start;
    loop {
        pos += memchr::memchr2(b'{', b'}', &data[pos..])?;
        match (data[pos], depth) {
            (b'{', 2) => return None,
            (b'{', _) => depth += 1,
            (_, 1) => return Some(pos + 1),
            _ => depth -= 1,
        }
        pos += 1;
    }
}

/// The token counts of a usage object; nothing when it is not JSON.
fn counts_of(data: &[u8]) -> Option<Usage> {
    let text = utf8_of(data)?;
    let members = members_of(&text)?;
    let mut usage = [None; 4];
    for (key, value) in members {
        if let Some(which) = USAGE.iter().position(|name| is_name(key, name)) {
            usage[which] = count(value);
        }
    }
    Some(usage)
}

/// A count that may be one: an integer from 0 to below 2^40.
fn count(value: &[u8]) -> Option<u64> {
    let digits = value.strip_prefix(b"-").unwrap_or(value);
    if digits.is_empty() || digits.len() > 13 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number = digits.iter().fold(0, |sum, digit| sum * 10 + u64::from(digit - b'0'));
    (number < 1 << 40 && (number == 0 || digits.len() == value.len())).then_some(number)
}

/// Whether the event is an object with a top-level `error` that says something.
fn has_error(data: &[u8]) -> bool {
    let Some(text) = utf8_of(data) else { return false };
    let Some(members) = members_of(&text) else { return false };
    members.iter().rev().find(|(key, _)| is_name(key, "error")).is_some_and(|(_, value)| says_something(value))
}

/// Python's truth of a JSON value.
fn says_something(value: &[u8]) -> bool {
    match value {
        b"null" | b"false" | b"\"\"" => false,
        [b'{' | b'[', ..] => !matches!(value.get(skip_space(value, 1)), Some(b'}' | b']')),
        [b'0'..=b'9' | b'-', ..] if value != b"-Infinity" => {
            std::str::from_utf8(value).ok().and_then(|text| text.parse::<f64>().ok()) != Some(0.0)
        }
        _ => true,
    }
}

/// JSON in bytes as UTF-8, whatever it is written in; nothing when it is not that.
fn utf8_of(data: &[u8]) -> Option<std::borrow::Cow<'_, [u8]>> {
    if let Some(mut transcoder) = transcoder_of(data) {
        let text = transcoder.feed(data).ok()?;
        return transcoder.finish().ok().map(|()| text.into());
    }
    let mut utf8 = Utf8::default();
    utf8.check(data).ok()?;
    (!utf8.inside()).then_some(data.into())
}

type Member<'a> = (&'a [u8], &'a [u8]);

/// Key and value of each member of a JSON object, as they are written; nothing when it is none, or no JSON.
fn members_of(text: &[u8]) -> Option<Vec<Member<'_>>> {
    let mut found = Vec::new();
    let mut pos = skip_space(text, 0);
    if text.get(pos) != Some(&b'{') {
        return None;
    }
    pos = skip_space(text, pos + 1);
    if text.get(pos) == Some(&b'}') {
        return (skip_space(text, pos + 1) == text.len()).then_some(found);
    }
    loop {
        let (key, start) = json_key(text, pos)?;
        let end = json_value(text, start)?;
        found.push((key, &text[start..end]));
        pos = skip_space(text, end);
        match text.get(pos)? {
            b',' => pos = skip_space(text, pos + 1),
            b'}' => return (skip_space(text, pos + 1) == text.len()).then_some(found),
            _ => return None,
        }
    }
}

/// A key without its quotes, and where its value begins.
fn json_key(text: &[u8], pos: usize) -> Option<(&[u8], usize)> {
    if text.get(pos) != Some(&b'"') {
        return None;
    }
    let Scan::Closed(end) = scan_string(text, pos + 1) else { return None };
    let colon = skip_space(text, end);
    (text.get(colon) == Some(&b':')).then(|| (&text[pos + 1..end - 1], skip_space(text, colon + 1)))
}

/// Behind the value at `pos`, of any kind.
fn json_value(text: &[u8], mut pos: usize) -> Option<usize> {
    let mut stack = Vec::new();
    loop {
        pos = match text.get(pos)? {
            b'"' => match scan_string(text, pos + 1) {
                Scan::Closed(end) => end,
                _ => return None,
            },
            open @ (b'{' | b'[') => {
                let close = if *open == b'{' { b'}' } else { b']' };
                let inner = skip_space(text, pos + 1);
                if text.get(inner)? == &close {
                    inner + 1
                } else if stack.len() >= MAX_NESTED {
                    return None;
                } else {
                    stack.push(close);
                    pos = if close == b'}' { json_key(text, inner)?.1 } else { inner };
                    continue;
                }
            }
            _ => json_scalar(text, pos)?,
        };
        loop {
            let Some(close) = stack.last() else { return Some(pos) };
            pos = skip_space(text, pos);
            let next = text.get(pos)?;
            if next == close {
                stack.pop();
                pos += 1;
            } else if *next == b',' {
                pos = skip_space(text, pos + 1);
                if *close == b'}' {
                    pos = json_key(text, pos)?.1;
                }
                break;
            } else {
                return None;
            }
        }
    }
}

fn json_scalar(text: &[u8], pos: usize) -> Option<usize> {
    let end = number_or_word(text, pos)?;
    let digits = text[pos..end].strip_prefix(b"-").unwrap_or(&text[pos..end]);
    let too_long = digits.len() > MAX_DIGITS && digits.iter().all(u8::is_ascii_digit);
    (!too_long).then_some(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_for_the_end_of_its_line_takes_no_more_than_a_line() {
        let mut meter = ResponseMeter::new(0.0);
        meter.headers(b"200", b"text/event-stream");
        let long = vec![b'x'; if cfg!(miri) { MAX_LINE + 1 } else { 4 << 20 }];

        meter.body(b"data: {", 1.0);
        meter.body(&[&long[..], b"\ndata: {"].concat(), 1.0); // ends a line that waited
        assert!(meter.carry.capacity() <= 2 * MAX_LINE);
        meter.body(&long, 1.0); // makes a line too long
        meter.body(&long, 1.0); // more of it
        assert!(meter.carry.capacity() <= 2 * MAX_LINE);
        meter.body(b"\ndata: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n", 2.0);

        assert_eq!(meter.finish(Ending::Complete, 3.0).completion_tokens, Some(1)); // as long lines have no text
    }
}
