//! Reads the body of one request, whatever it is written in, and says how to put another model into it.
//!
//! Bytes go through up to three layers, each only where the request has it: content codings are undone, other encodings
//! than plain UTF-8 become UTF-8, and a scanner for JSON or for forms finds the model. What is sent on are the bytes
//! that came; a body whose coding was undone is sent without it where the model changes, or may.

use bytes::Bytes;
use std::collections::VecDeque;
use std::fmt::Write;
use std::sync::Arc;

use crate::body::{BodyScanner, Wanted};
use crate::charset::{NEEDED, Transcoder, transcoder_of};
use crate::coding::{CodingError, Decoding, Flow, codings_of};
use crate::content::{Content, content_of};
use crate::form::FormScanner;
use crate::held::HeldBody;
use crate::members::{BodyError, Field, JsonType};
use crate::messages::Headers;
use crate::ports::BufferBudget;
use crate::refusals::{Refusal, bad_request, json_string, too_expanded, unsupported};

/// Members that hold the prompt, in the APIs of chat, completions and responses.
pub const PROMPTS: [&str; 3] = ["messages", "prompt", "input"];

/// Bytes of a prompt that are looked at.
pub const MAX_PREFIX: usize = 32 * 1024;

/// By how much text is shorter while it is coded, at most, unless it is made up to be.
const UNFOLDS: usize = 64;

/// Bytes of white space behind an opening brace that are looked through.
const LOOK: usize = 4096;

/// `[start, end)` of the body to replace by `new`; nothing by nothing changes nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BodyEdit {
    pub start: usize,
    pub end: usize,
    pub new: Bytes,
}

/// Why a body cannot be read, or not be changed: the refusal for the case that a rule needs its model.
///
/// `hidden`: it may hold a model all the same, so that any rule does; else it has none, and only a rule for all models
/// does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unread {
    pub refusal: Refusal,
    pub hidden: bool,
}

/// What a body asks for. `model` is empty for one that names none.
///
/// `has_body`: only then there is a place for a model, and rules for all models apply to one without.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReadBody {
    pub model: String,
    pub fields: Vec<(String, String)>,
    pub prompt: Bytes,
    pub has_body: bool,
    pub unread: Option<Unread>,
}

enum Scanner {
    /// The first bytes of what may be JSON, until they say in which encoding.
    Undecided(Vec<u8>),
    Json(Box<BodyScanner>, Option<Box<Transcoder>>),
    Form(Box<FormScanner>),
}

/// Fed with the chunks of a body, which it holds; `held` is what came, `plain` that without codings.
///
/// `unread` says why there is nothing to find in it, as soon as that is known.
pub struct RequestReader {
    content: Content,
    /// The media type, where the body may be something else than JSON.
    media: String,
    wanted: Wanted,
    scanner: Scanner,
    decoding: Option<Box<Decoding>>,
    /// The model in JSON, if it has one.
    field: Option<Field>,
    opened: usize,
    held: HeldBody,
    /// None: nothing was undone, it is what came.
    plain: Option<HeldBody>,
    unread: Option<Unread>,
}

/// At most 100 characters of a header, which are bytes.
fn excerpt(value: &[u8]) -> String {
    value.iter().take(100).map(|byte| char::from(*byte)).collect()
}

/// A text of ISO 8859-1 as Python's `repr` shows it.
fn quoted(text: &str) -> String {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    let mut out = String::from(quote);
    for char in text.chars() {
        match char {
            '\t' => out.push_str("\\t"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\\' => out.push_str("\\\\"),
            _ if char == quote => out.extend(['\\', char]),
            '\0'..' ' | '\u{7f}'..='\u{a0}' | '\u{ad}' => {
                let _ = write!(out, "\\x{:02x}", u32::from(char)); // a String takes everything
            }
            _ => out.push(char),
        }
    }
    out.push(quote);
    out
}

impl RequestReader {
    /// A body with these headers, in which the `wanted` members are looked for.
    #[must_use]
    pub fn new(headers: &Headers, wanted: Wanted, budget: &Arc<BufferBudget>) -> Self {
        let content = content_of(headers);
        let media = headers.text(b"content-type");
        let mut reader = Self {
            content,
            media: if content == Content::Other { excerpt(media) } else { String::new() },
            wanted,
            scanner: Scanner::Undecided(Vec::new()),
            decoding: None,
            field: None,
            opened: 0,
            held: HeldBody::new(budget.clone()),
            plain: None,
            unread: None,
        };
        reader.undo(headers.text(b"content-encoding"), budget);
        if content == Content::Form && reader.unread.is_none() {
            match FormScanner::new(media, reader.wanted.clone()) {
                Ok(form) => reader.scanner = Scanner::Form(Box::new(form)),
                Err(error) => reader.unread = Some(Unread { refusal: bad_request(error.0), hidden: false }),
            }
        }
        reader
    }

    fn undo(&mut self, coding: &[u8], budget: &Arc<BufferBudget>) {
        let codings = codings_of(coding);
        if codings.is_empty() {
            return;
        }
        match Decoding::new(&codings, budget.body_limit) {
            Some(decoding) => self.decoding = Some(Box::new(decoding)),
            None => {
                let name = quoted(&excerpt(coding));
                let text = format!(
                    "the model of a body with content-encoding {name} cannot be read: send it without, or as gzip"
                );
                self.unread = Some(Unread { refusal: unsupported(text), hidden: true });
            }
        }
        self.plain = Some(HeldBody::new(budget.clone()));
    }

    /// Bytes that came.
    #[must_use]
    pub fn size(&self) -> usize {
        self.held.size()
    }

    /// Why there is nothing to find in the body, once that is known.
    #[must_use]
    pub fn unread(&self) -> Option<&Unread> {
        self.unread.as_ref()
    }

    /// About how many bytes are looked at for so many more: a coded body unfolds, and where one in UTF-16 is to be
    /// changed is looked for in all of it.
    #[must_use]
    pub fn work(&self, length: usize) -> usize {
        let unfolds = self.decoding.is_some() && self.unread.is_none();
        let again = if matches!(self.scanner, Scanner::Json(_, Some(_))) { self.plain().size() } else { 0 };
        (if unfolds { length * UNFOLDS } else { length }) + again
    }

    // --- chunks ---------------------------------------------------------------------------------------

    /// Hold and read the next bytes.
    ///
    /// # Errors
    /// The refusal when they are too many, or no JSON where it must be.
    pub fn feed(&mut self, chunk: &Bytes) -> Result<(), Refusal> {
        self.held.add(chunk.clone())?;
        if self.unread.is_some() {
            return Ok(());
        }
        let Some(mut decoding) = self.decoding.take() else { return self.read(chunk) };
        let mut refused = Ok(());
        let fed = decoding.feed(chunk, &mut |piece| {
            refused = self.read_plain(piece);
            if refused.is_err() || self.unread.is_some() { Flow::Enough } else { Flow::On }
        });
        self.decoding = Some(decoding);
        refused?;
        if let Err(error) = fed {
            self.undecodable(error);
        }
        Ok(())
    }

    fn read_plain(&mut self, piece: Bytes) -> Result<(), Refusal> {
        if let Some(plain) = self.plain.as_mut() {
            plain.add(piece.clone())?;
        }
        self.read(&piece)
    }

    fn undecodable(&mut self, error: CodingError) {
        let refusal = match error {
            CodingError::Invalid(text) => bad_request(text),
            CodingError::ExpandedTooFar(text) => too_expanded(text),
        };
        self.give_up(Unread { refusal, hidden: true });
    }

    fn give_up(&mut self, unread: Unread) {
        self.unread = Some(unread);
        if let Some(plain) = self.plain.as_mut() {
            plain.release();
        }
    }

    fn read(&mut self, piece: &Bytes) -> Result<(), Refusal> {
        let read = match &mut self.scanner {
            Scanner::Json(scanner, None) => scanner.feed(piece),
            Scanner::Json(scanner, Some(transcoder)) => transcoder.feed(piece).and_then(|text| scanner.feed(&text)),
            Scanner::Form(form) => form.feed(piece),
            Scanner::Undecided(_) => self.begin_json(piece, false),
        };
        read.or_else(|error| self.not_read(&error))
    }

    fn begin_json(&mut self, piece: &[u8], end: bool) -> Result<(), BodyError> {
        let Scanner::Undecided(first) = &mut self.scanner else { return Ok(()) };
        let joined;
        let mut begin = piece;
        if !first.is_empty() || piece.len() < NEEDED {
            first.extend_from_slice(piece);
            if first.len() < NEEDED && !end {
                return Ok(());
            }
            joined = std::mem::take(first);
            begin = &joined;
        }
        let mut scanner = Box::new(BodyScanner::new(self.wanted.clone()));
        let mut transcoder = transcoder_of(begin).map(Box::new);
        let fed = match transcoder.as_mut() {
            None => scanner.feed(begin),
            Some(transcoder) => transcoder.feed(begin).and_then(|text| scanner.feed(&text)),
        };
        self.scanner = Scanner::Json(scanner, transcoder);
        fed
    }

    fn plain(&self) -> &HeldBody {
        self.plain.as_ref().unwrap_or(&self.held)
    }

    /// What is said to be JSON is refused when it is not; anything else just has no model that can be read.
    fn not_read(&mut self, error: &BodyError) -> Result<(), Refusal> {
        let refusal = match self.content {
            Content::Json => {
                let begin = self.plain().read(0, 4);
                let coded = match &begin[..] {
                    [0x1F, 0x8B, ..] => "gzip",
                    [0x28, 0xB5, 0x2F, 0xFD] => "zstd",
                    _ => return Err(bad_request(error.0.clone())),
                };
                let hint = format!("it begins like {coded}, which no content-encoding says");
                return Err(bad_request(format!("{error}; {hint}")));
            }
            Content::Form => bad_request(error.0.clone()),
            Content::Other => {
                let media = quoted(&self.media);
                unsupported(format!(
                    "this pool splits the requests of all models, and a body of type {media} names none: send JSON"
                ))
            }
        };
        self.give_up(Unread { refusal, hidden: false });
        Ok(())
    }

    // --- the end --------------------------------------------------------------------------------------

    /// The body is complete: what it asks for.
    ///
    /// # Errors
    /// The refusal when it is no JSON where it must be, or its model is none.
    pub fn finish(&mut self) -> Result<ReadBody, Refusal> {
        if self.unread.is_none() {
            self.end()?;
        }
        if let Some(unread) = self.unread.clone() {
            return Ok(ReadBody { has_body: true, unread: Some(unread), ..ReadBody::default() });
        }
        let read = if let Scanner::Form(form) = &self.scanner { form_read(form) } else { self.json_read() };
        read.map_err(|error| bad_request(error.0))
    }

    fn end(&mut self) -> Result<(), Refusal> {
        if let Some(error) = self.decoding.as_ref().and_then(|decoding| decoding.finish().err()) {
            self.undecodable(error);
            return Ok(());
        }
        self.end_scan().or_else(|error| self.not_read(&error))
    }

    fn end_scan(&mut self) -> Result<(), BodyError> {
        if matches!(&self.scanner, Scanner::Undecided(first) if !first.is_empty()) {
            self.begin_json(b"", true)?;
        }
        if let Scanner::Json(scanner, transcoder) = &self.scanner {
            if let Some(transcoder) = transcoder {
                transcoder.finish()?;
            }
            scanner.finish()?;
        }
        Ok(())
    }

    fn json_read(&mut self) -> Result<ReadBody, BodyError> {
        let Scanner::Json(scanner, transcoder) = &self.scanner else {
            return Ok(ReadBody::default()); // not a byte: what it is for is between client and pod
        };
        let field = scanner.field("model").cloned();
        let prompt = PROMPTS.iter().find_map(|name| scanner.field(name)).map(|field| field.start);
        let prompt = match (prompt, transcoder) {
            (Some(start), None) => self.plain().read(start, MAX_PREFIX),
            _ => Bytes::new(),
        };
        let others = scanner.fields().filter(|(name, field)| *name != "model" && !field.raw.is_empty());
        let fields = others.map(|(name, field)| (name.to_owned(), field.text())).collect();
        let opened = scanner.opened;
        self.opened = opened;
        let model = self.model(field)?;
        Ok(ReadBody { model, fields, prompt, has_body: true, unread: None })
    }

    /// The name, empty where vLLM takes its base model: `model` missing, null or empty.
    fn model(&mut self, field: Option<Field>) -> Result<String, BodyError> {
        self.field = field;
        let Some(field) = &self.field else { return Ok(String::new()) };
        let article = match field.kind {
            JsonType::Scalar if field.raw == b"null" => return Ok(String::new()),
            JsonType::Scalar => "a number, true or false",
            JsonType::Container => "an object or array",
            JsonType::String if field.clipped => {
                return Err(BodyError::new(r#"the "model" of the request is too long for a name"#));
            }
            JsonType::String => return Ok(field.text()),
        };
        Err(BodyError(format!(r#"the "model" of the request has to be a string, not {article}"#)))
    }

    // --- another model --------------------------------------------------------------------------------

    /// What to do to `plain` for the model to be `target`, after `finish` said which it is.
    #[must_use]
    pub fn change(&self, target: &str) -> BodyEdit {
        let transcoder = match &self.scanner {
            Scanner::Form(form) => {
                let Some((start, end)) = form.field("model").and_then(|model| model.place) else {
                    return BodyEdit::default(); // it was not read: nobody asks
                };
                return BodyEdit { start, end, new: form.encode(target).into() };
            }
            Scanner::Json(_, transcoder) => transcoder.as_deref(),
            Scanner::Undecided(_) => None,
        };
        let mut new = json_string(target);
        let (mut start, mut end) = (self.opened, self.opened);
        if let Some(field) = &self.field {
            (start, end) = (field.start, field.end);
        } else {
            let behind = self.plain().read(self.raw(transcoder, &[start])[0], LOOK);
            let empty = behind.iter().find(|byte| !b" \t\r\n\0".contains(byte)) == Some(&b'}');
            new = format!(r#""model":{new}{}"#, if empty { "" } else { "," });
        }
        let new = transcoder.map_or_else(|| new.clone().into_bytes(), |transcoder| transcoder.encode(&new));
        let places = self.raw(transcoder, &[start, end]);
        BodyEdit { start: places[0], end: places[1], new: new.into() }
    }

    fn raw(&self, transcoder: Option<&Transcoder>, places: &[usize]) -> Vec<usize> {
        let found = transcoder.and_then(|transcoder| transcoder.places(&self.plain().chunks, places).ok());
        found.filter(|found| found.len() == places.len()).unwrap_or_else(|| places.to_vec())
    }

    /// Whether `plain` is not what came.
    #[must_use]
    pub fn decoded(&self) -> bool {
        self.plain.is_some()
    }

    /// Bytes of the body without its codings, or as it came.
    #[must_use]
    pub fn size_of(&self, plain: bool) -> usize {
        if plain { self.plain().size() } else { self.held.size() }
    }

    /// Let go of everything. Safe to call more than once.
    pub fn release(&mut self) {
        self.held.release();
        if let Some(plain) = self.plain.as_mut() {
            plain.release();
        }
    }

    /// The last bytes of the body, as they are sent: what is held stays counted until they are gone.
    #[must_use]
    pub fn counted_with(self, bytes: Bytes) -> Bytes {
        match self.plain {
            Some(plain) if plain.size() > 0 => plain.counted_with(bytes),
            _ => self.held.counted_with(bytes),
        }
    }

    /// What is held, to be taken off: without codings, or as it came. The other is let go of.
    ///
    /// It stays counted until `release`.
    pub fn chunks(&mut self, plain: bool) -> VecDeque<Bytes> {
        let held = match self.plain.as_mut() {
            Some(decoded) if plain => {
                self.held.release();
                decoded
            }
            Some(decoded) => {
                decoded.release();
                &mut self.held
            }
            None => &mut self.held,
        };
        std::mem::take(&mut held.chunks)
    }
}

fn form_read(form: &FormScanner) -> Result<ReadBody, BodyError> {
    let model = form.field("model");
    if model.is_some_and(|model| model.clipped) {
        return Err(BodyError::new(r#"the "model" of the form is too long for a name"#));
    }
    let others = form.fields().filter(|(name, _)| *name != "model");
    let unread = model.and_then(|model| model.place).is_none().then(|| Unread {
        refusal: bad_request(
            "this pool splits the requests of all models, and this form names none: add a field model",
        ),
        hidden: false,
    });
    Ok(ReadBody {
        model: model.map(|model| model.text.clone()).unwrap_or_default(),
        fields: others.map(|(name, field)| (name.to_owned(), field.text.clone())).collect(),
        prompt: Bytes::new(),
        has_body: true,
        unread,
    })
}
