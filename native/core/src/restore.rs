//! Puts the name that the client asked for back into the response, where this was asked for.
//!
//! Only the top-level `model` of the answer, or of each event of a stream, is replaced; text that merely looks like it
//! stays. Lines of a stream are put together again wherever the chunks split them, so the last, unfinished line of a
//! chunk waits for the next chunk.

use bytes::Bytes;
use std::sync::{Arc, LazyLock};

use crate::body::{BodyScanner, Wanted};
use crate::members::JsonType;
use crate::ports::{BufferBudget, Charge};
use crate::refusals::json_string;

/// Bytes of a plain answer, or of one line of a stream, that are held back; a longer one passes unchanged.
pub const MAX_HELD: usize = 8 << 20;

static MODEL: LazyLock<Wanted> = LazyLock::new(|| Arc::new(["model".to_owned()]));

/// What is held counts in the budget of all streams; where that is full, the answer passes unchanged, too.
///
/// Fed with the chunks of one response; gives the chunks to send on. `name` replaces only `target`.
#[derive(Debug)]
pub struct NameRestorer {
    new: String,
    target: String,
    sse: bool,
    held: Vec<u8>,
    given_up: bool,
    charge: Charge,
}

impl NameRestorer {
    #[must_use]
    pub fn new(name: &str, target: &str, budget: &Arc<BufferBudget>) -> Self {
        Self {
            new: json_string(name),
            target: target.to_owned(),
            sse: false,
            held: Vec::new(),
            given_up: false,
            charge: Charge::new(budget),
        }
    }

    /// `content-type` of the response.
    pub fn headers(&mut self, content_type: &[u8]) {
        self.sse = content_type.starts_with(b"text/event-stream");
        self.given_up = !self.sse && !content_type.starts_with(b"application/json");
    }

    /// What can be sent on now; all that is left when `end`.
    pub fn feed(&mut self, chunk: &Bytes, end: bool) -> Bytes {
        if self.given_up {
            return chunk.clone();
        }
        if end {
            let whole = self.with_held(chunk);
            self.charge.count(0);
            return if self.sse { self.lines(&whole) } else { self.replaced(&whole).map_or(whole, Bytes::from) };
        }
        // What is held has no line end.
        let cut = if self.sse { memchr::memrchr(b'\n', chunk).map_or(0, |at| at + 1) } else { 0 };
        let left = if cut > 0 { chunk.len() - cut } else { self.held.len() + chunk.len() };
        if left > MAX_HELD || !self.charge.count(left) {
            self.given_up = true;
            self.charge.count(0);
            return self.with_held(chunk);
        }
        let ready = if cut > 0 { self.with_held(&chunk.slice(..cut)) } else { Bytes::new() };
        self.held.extend_from_slice(&chunk[cut..]);
        if self.sse { self.lines(&ready) } else { ready }
    }

    fn with_held(&mut self, chunk: &Bytes) -> Bytes {
        if self.held.is_empty() {
            return chunk.clone();
        }
        self.held.extend_from_slice(chunk);
        std::mem::take(&mut self.held).into()
    }

    fn lines(&self, text: &Bytes) -> Bytes {
        let mut out = Vec::new();
        let mut copied = 0;
        let mut pos = 0;
        while pos < text.len() {
            let end = line_end(text, pos);
            if let Some((start, document)) = self.line(&text[pos..end]) {
                out.extend_from_slice(&text[copied..pos + start]);
                out.extend_from_slice(&document);
                copied = end;
            }
            pos = end;
        }
        if copied == 0 {
            return text.clone();
        }
        out.extend_from_slice(&text[copied..]);
        out.into()
    }

    /// Where the document of a line begins, and what takes its place.
    fn line(&self, line: &[u8]) -> Option<(usize, Vec<u8>)> {
        if !line.starts_with(b"data:") || memchr::memmem::find(line, b"odel").is_none() {
            return None;
        }
        let start = memchr::memchr(b'{', line)?;
        self.replaced(&line[start..]).map(|document| (start, document))
    }

    fn replaced(&self, document: &[u8]) -> Option<Vec<u8>> {
        let mut scanner = BodyScanner::new(MODEL.clone());
        scanner.feed(document).and_then(|()| scanner.finish()).ok()?;
        let field = scanner.field("model")?;
        if field.kind != JsonType::String || field.clipped || field.text() != self.target {
            return None;
        }
        Some([&document[..field.start], self.new.as_bytes(), &document[field.end..]].concat())
    }
}

/// Behind the line that begins at `pos`, and its end: LF, CR or both.
fn line_end(text: &[u8], pos: usize) -> usize {
    match memchr::memchr2(b'\n', b'\r', &text[pos..]).map(|at| pos + at) {
        None => text.len(),
        Some(at) if text[at..].starts_with(b"\r\n") => at + 2,
        Some(at) => at + 1,
    }
}
