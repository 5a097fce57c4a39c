//! What the headers of a request say about its body: whether one comes at all, and what it is written in.

use crate::messages::Headers;

/// What a body is taken for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    Json,
    Form,
    Other,
}

/// Without white space, as Python's `bytes.strip` sees it, around it.
pub(crate) fn strip(text: &[u8]) -> &[u8] {
    let Some(start) = text.iter().position(|byte| !is_space(*byte)) else { return &[] };
    let end = text.iter().rposition(|byte| !is_space(*byte)).map_or(start, |last| last + 1);
    &text[start..end]
}

pub(crate) fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | 9..=13)
}

/// By `content-type`; without one it is JSON.
#[must_use]
pub fn content_of(headers: &Headers) -> Content {
    let value = headers.text(b"content-type");
    if matches!(value, b"application/json" | b"") {
        return Content::Json;
    }
    let media = value.split(|byte| *byte == b';').next().unwrap_or_default();
    let media = strip(media).to_ascii_lowercase();
    if media == b"application/json" || (media.starts_with(b"application/") && media.ends_with(b"+json")) {
        Content::Json
    } else if media == b"multipart/form-data" {
        Content::Form
    } else {
        Content::Other
    }
}

/// Whether another protocol follows the response (RFC 9110, section 7.8; over HTTP/2 a CONNECT, RFC 8441).
#[must_use]
pub fn is_upgrade(headers: &Headers) -> bool {
    if headers.get(b":method") == Some(b"CONNECT") {
        return true;
    }
    if headers.get(b"upgrade").is_none() || !tokens(headers, b"connection").any(|token| token == b"upgrade") {
        return false;
    }
    let length = headers.get(b"content-length").unwrap_or(b"0");
    length.iter().all(|byte| matches!(byte, b'0' | b' '))
        // Some clients, Java's for one, offer HTTP/2 with every request: servers answer such a one as it stands.
        && tokens(headers, b"upgrade").any(|token| !token.is_empty() && token != b"h2c")
}

/// Whether the client may wait for an answer before it goes on: gRPC.
#[must_use]
pub fn is_dialogue(headers: &Headers) -> bool {
    headers.text(b"content-type").starts_with(b"application/grpc")
}

fn tokens<'a>(headers: &'a Headers, name: &[u8]) -> impl Iterator<Item = Vec<u8>> + 'a {
    headers.text(name).split(|byte| *byte == b',').map(|token| strip(token).to_ascii_lowercase())
}
