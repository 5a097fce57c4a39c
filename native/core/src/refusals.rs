//! Answers that the picker gives in place of a pod.

use bytes::Bytes;
use smallvec::smallvec;
use std::borrow::Cow;
use std::fmt::Write;

use crate::messages::ImmediateReply;

/// An answer in place of the pod's: status, reason for logs, message for the client.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Refusal {
    pub status: u16,
    pub reason: Cow<'static, str>,
    pub message: Cow<'static, str>,
    pub model: String,
    pub target: String,
    pub variant: String,
    pub pool_split: String,
}

impl Refusal {
    /// One that no model is known for.
    pub fn new(status: u16, reason: &'static str, message: impl Into<Cow<'static, str>>) -> Self {
        Self { status, reason: reason.into(), message: message.into(), ..Self::default() }
    }
}

/// All streams together hold too much.
#[must_use]
pub fn overloaded() -> Refusal {
    Refusal::new(503, "buffers-full", "the endpoint picker holds too many large requests: try again later")
}

/// The body cannot be routed.
pub fn bad_request(text: impl Into<Cow<'static, str>>) -> Refusal {
    Refusal::new(400, "bad-request", text)
}

/// The body is longer than `limit` bytes.
#[must_use]
pub fn too_large(limit: usize) -> Refusal {
    Refusal::new(413, "body-too-large", format!("the request body is larger than {limit} bytes"))
}

/// The headers are more than is kept (RFC 6585, section 5).
#[must_use]
pub fn headers_too_large(limit: usize) -> Refusal {
    let text = format!("the request's headers are larger than {limit} bytes, of which each line takes 32");
    Refusal::new(431, "headers-too-large", text)
}

/// The body unfolds to more than is taken.
pub fn too_expanded(text: impl Into<Cow<'static, str>>) -> Refusal {
    Refusal::new(413, "body-too-large", text)
}

/// The body is written in something that the picker cannot read, and has to.
pub fn unsupported(text: impl Into<Cow<'static, str>>) -> Refusal {
    Refusal::new(415, "unsupported-body", text)
}

/// The request is not complete in time (RFC 9110, section 15.5.9).
#[must_use]
pub fn too_slow(seconds: f64) -> Refusal {
    let text = format!("the request body was not complete within {} seconds", general(seconds));
    Refusal::new(408, "request-timeout", text)
}

/// A number with at most six digits, as C's and Python's `%g` writes it.
fn general(number: f64) -> String {
    if !number.is_finite() || number == 0.0 {
        return if number.is_nan() { "nan".to_owned() } else { number.to_string() };
    }
    let scientific = format!("{number:.5e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let trim = |text: &str| {
        if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text.to_owned() }
    };
    if (-4..6).contains(&exponent) {
        let places = usize::try_from(5 - exponent).unwrap_or(0);
        return trim(&format!("{number:.places$}"));
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{}e{sign}{:02}", trim(digits), exponent.abs())
}

fn error_type(status: u16) -> &'static str {
    match status {
        400 | 413 | 431 => "BadRequestError",
        408 => "RequestTimeoutError",
        415 => "UnsupportedMediaTypeError",
        429 => "RateLimitError",
        _ => "ServiceUnavailableError",
    }
}

/// The reply: the refusal as the error object that `OpenAI` clients understand.
#[must_use]
pub fn immediate(refusal: &Refusal) -> ImmediateReply {
    let status = refusal.status;
    let body = format!(
        r#"{{"error": {{"message": {}, "type": "{}", "param": null, "code": {status}}}}}"#,
        json_in_ascii(&refusal.message),
        error_type(status),
    );
    let reason = Bytes::copy_from_slice(refusal.reason.as_bytes());
    let headers = smallvec![
        (Bytes::from_static(b"content-type"), Bytes::from_static(b"application/json")),
        (Bytes::from_static(b"x-rollout-rejected"), reason.clone()),
    ];
    ImmediateReply { status, body: body.into(), details: reason, headers }
}

/// The short escape of a character in JSON, if it has one.
fn short_escape(char: char) -> Option<&'static str> {
    Some(match char {
        '"' => "\\\"",
        '\\' => "\\\\",
        '\n' => "\\n",
        '\r' => "\\r",
        '\t' => "\\t",
        '\u{8}' => "\\b",
        '\u{c}' => "\\f",
        _ => return None,
    })
}

/// A JSON string of nothing but ASCII, as `json.dumps` writes it.
#[must_use]
pub fn json_in_ascii(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for char in text.chars() {
        match short_escape(char) {
            Some(escape) => out.push_str(escape),
            None if (' '..='~').contains(&char) => out.push(char),
            None => {
                for unit in char.encode_utf16(&mut [0; 2]) {
                    let _ = write!(out, "\\u{unit:04x}"); // a String takes everything
                }
            }
        }
    }
    out.push('"');
    out
}

/// A JSON string that escapes only what it has to: `json.dumps(text, ensure_ascii=False)`.
#[must_use]
pub fn json_string(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for char in text.chars() {
        match short_escape(char) {
            Some(escape) => out.push_str(escape),
            None if char < ' ' => {
                let _ = write!(out, "\\u{:04x}", u32::from(char));
            }
            None => out.push(char),
        }
    }
    out.push('"');
    out
}
