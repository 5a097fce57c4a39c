//! The functions of the bytes side one by one, as plain values: what the differential tests compare with Python's.
//!
//! Nothing of the product calls these. What Python raises comes back as a value, with how far things had got.

use std::sync::Arc;

use bytes::Bytes;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use pyo3::types::{PyBytes, PyDict, PyList};
use rollouts_core::body::{BodyScanner, Wanted};
use rollouts_core::charset::{NEEDED, transcoder_of};
use rollouts_core::coding::{CodingError, Decoding, Flow, codings_of};
use rollouts_core::content::{Content, content_of, is_dialogue, is_upgrade};
use rollouts_core::encoding::encode;
use rollouts_core::form::FormScanner;
use rollouts_core::measure::{Ending, ResponseMeter};
use rollouts_core::members::JsonType;
use rollouts_core::messages::{Headers, ImmediateReply, Incoming, Outgoing, Routed, Side, contiguous};
use rollouts_core::ports::BufferBudget;
use rollouts_core::reader::RequestReader;
use rollouts_core::refusals::{Refusal, immediate, too_slow};
use rollouts_core::restore::NameRestorer;
use rollouts_core::splicing::splice_within;
use rollouts_core::wire::{self, MetadataValue};

type Chunks = Vec<PyBackedBytes>;
type Pairs = Vec<(PyBackedBytes, PyBackedBytes)>;
type Place = (usize, usize);

fn out<'py>(py: Python<'py>, bytes: &[u8]) -> Bound<'py, PyBytes> {
    PyBytes::new(py, bytes)
}

fn shared(bytes: &PyBackedBytes) -> Bytes {
    Bytes::copy_from_slice(bytes)
}

fn wanted(names: Vec<String>) -> Wanted {
    names.into()
}

fn headers(pairs: &Pairs) -> Headers {
    Headers::from_pairs(pairs.iter().map(|(name, value)| (&name[..], &value[..])))
}

/// ("RequestHeaders", headers, end of stream, metadata, modes, whether they are too large, what they take) and the like.
#[pyfunction]
fn decode<'py>(py: Python<'py>, data: PyBackedBytes) -> PyResult<Option<Bound<'py, PyAny>>> {
    let found = wire::decode(&shared(&data)).map_err(|error| PyValueError::new_err(error.to_string()))?;
    let Some(message) = found else { return Ok(None) };
    let name = message.name();
    let request = matches!(message, Incoming::RequestHeaders(_));
    let value = match message {
        Incoming::RequestHeaders(message) | Incoming::ResponseHeaders(message) => {
            let pairs = PyDict::new(py);
            for (name, value) in message.headers.pairs() {
                pairs.set_item(out(py, name), out(py, value))?;
            }
            let large = message.headers.is_too_large();
            let modes = (message.protocol.request_body as u8, message.protocol.response_body as u8);
            let (eos, metadata, kept) = (message.end_of_stream, out(py, &message.metadata), message.headers.kept());
            if request {
                (name, pairs, eos, metadata, modes, large, kept).into_pyobject(py)?.into_any()
            } else {
                (name, pairs, eos, metadata, modes).into_pyobject(py)?.into_any()
            }
        }
        Incoming::RequestBody { body, end_of_stream, metadata } => {
            (name, out(py, &body), end_of_stream, out(py, &metadata)).into_pyobject(py)?.into_any()
        }
        Incoming::ResponseBody { body, end_of_stream } => {
            (name, out(py, &body), end_of_stream).into_pyobject(py)?.into_any()
        }
        Incoming::RequestTrailers | Incoming::ResponseTrailers => (name,).into_pyobject(py)?.into_any(),
    };
    Ok(Some(value))
}

fn python<'py>(py: Python<'py>, value: MetadataValue) -> PyResult<Bound<'py, PyAny>> {
    Ok(match value {
        MetadataValue::Null => py.None().into_bound(py),
        MetadataValue::Bool(value) => value.into_pyobject(py)?.to_owned().into_any(),
        MetadataValue::Text(value) => value.into_pyobject(py)?.into_any(),
        MetadataValue::List(values) => {
            let list = PyList::empty(py);
            for value in values {
                list.append(python(py, value)?)?;
            }
            list.into_any()
        }
        MetadataValue::Struct(members) => {
            let found = PyDict::new(py);
            for (name, value) in members {
                found.set_item(name, python(py, value)?)?;
            }
            found.into_any()
        }
    })
}

#[pyfunction]
fn metadata_value<'py>(
    py: Python<'py>,
    metadata: PyBackedBytes,
    namespace: PyBackedBytes,
    key: &str,
) -> PyResult<Bound<'py, PyAny>> {
    let value = wire::metadata_value(&metadata, &namespace, key);
    python(py, value.map_err(|error| PyValueError::new_err(error.to_string()))?)
}

/// What a reply changes: headers to set and to remove, whether the route is chosen again, the endpoint.
#[derive(FromPyObject)]
struct Changes(Pairs, Chunks, bool, PyBackedBytes);

fn routed(changes: &Changes) -> Routed {
    let Changes(set, remove, clear_route_cache, endpoint) = changes;
    Routed {
        set_headers: set.iter().map(|(name, value)| (shared(name), shared(value))).collect(),
        remove_headers: remove.iter().map(shared).collect(),
        clear_route_cache: *clear_route_cache,
        endpoint: shared(endpoint),
    }
}

fn side(response: bool) -> Side {
    if response { Side::Response } else { Side::Request }
}

#[pyfunction]
fn encode_headers<'py>(py: Python<'py>, response: bool, changes: Changes) -> Bound<'py, PyBytes> {
    out(py, &encode(&Outgoing::Headers(side(response), routed(&changes))).to_bytes())
}

#[pyfunction]
fn encode_body<'py>(py: Python<'py>, response: bool, chunks: Chunks, end: bool) -> Bound<'py, PyBytes> {
    let body = chunks.iter().map(shared).collect();
    out(py, &encode(&Outgoing::Body { side: side(response), body, end_of_stream: end }).to_bytes())
}

#[pyfunction]
fn encode_buffered<'py>(
    py: Python<'py>,
    response: bool,
    body: Option<Chunks>,
    changes: Changes,
) -> Bound<'py, PyBytes> {
    let body = body.map(|chunks| chunks.iter().map(shared).collect());
    out(py, &encode(&Outgoing::Buffered { side: side(response), body, routed: routed(&changes) }).to_bytes())
}

#[pyfunction]
fn encode_immediate<'py>(
    py: Python<'py>,
    status: u16,
    body: PyBackedBytes,
    details: PyBackedBytes,
    pairs: Pairs,
) -> Bound<'py, PyBytes> {
    let headers = pairs.iter().map(|(name, value)| (shared(name), shared(value))).collect();
    let reply = ImmediateReply { status, body: shared(&body), details: shared(&details), headers };
    out(py, &encode(&Outgoing::Immediate(reply)).to_bytes())
}

/// Fields as (name, type, start, end, raw, clipped, text), offset behind the brace, error.
#[pyfunction]
fn scan<'py>(py: Python<'py>, chunks: Chunks, names: Vec<String>) -> PyResult<Bound<'py, PyAny>> {
    let mut scanner = BodyScanner::new(wanted(names));
    let fed = chunks.iter().try_for_each(|chunk| scanner.feed(chunk)).and_then(|()| scanner.finish());
    let fields: Vec<_> = scanner
        .fields()
        .map(|(name, field)| {
            let kind = match field.kind {
                JsonType::String => "STRING",
                JsonType::Scalar => "SCALAR",
                JsonType::Container => "CONTAINER",
            };
            let text = if field.raw.is_empty() { None } else { Some(field.text()) };
            (name.to_owned(), kind, field.start, field.end, out(py, &field.raw), field.clipped, text)
        })
        .collect();
    Ok((fields, scanner.opened, fed.err().map(|error| error.0)).into_pyobject(py)?.into_any())
}

/// The encoding, the pieces of UTF-8, where `places` are, error.
type Transcoded<'py> = (Option<&'static str>, Vec<Bound<'py, PyBytes>>, Vec<usize>, Option<String>);

#[pyfunction]
fn transcode<'py>(py: Python<'py>, chunks: Chunks, places: Vec<usize>) -> Transcoded<'py> {
    let mut first = Vec::new();
    for chunk in &chunks {
        if first.len() < NEEDED {
            first.extend_from_slice(chunk);
        }
    }
    let Some(mut transcoder) = transcoder_of(&first) else { return (None, vec![], vec![], None) };
    let name = Some(transcoder.encoding.name());
    let mut pieces = Vec::new();
    for chunk in &chunks {
        match transcoder.feed(chunk) {
            Ok(piece) => pieces.push(out(py, &piece)),
            Err(error) => return (name, pieces, vec![], Some(error.0)),
        }
    }
    let held: Vec<Bytes> = chunks.iter().map(shared).collect();
    let found = transcoder.places(&held, &places).unwrap_or_default();
    (name, pieces, found, transcoder.finish().err().map(|error| error.0))
}

/// The pieces of each chunk, and (kind, text) of the error; None for codings that are not known.
type Decoded<'py> = (Vec<Vec<Bound<'py, PyBytes>>>, Option<(&'static str, String)>);

#[pyfunction]
fn undo<'py>(py: Python<'py>, coding: PyBackedBytes, chunks: Chunks, limit: usize) -> Option<Decoded<'py>> {
    let mut decoding = Decoding::new(&codings_of(&coding), limit)?;
    let mut found = Vec::new();
    let mut failed = None;
    for chunk in &chunks {
        let mut pieces = Vec::new();
        let fed = decoding.feed(chunk, &mut |piece| {
            pieces.push(out(py, &piece));
            Flow::On
        });
        found.push(pieces);
        if let Err(error) = fed {
            failed = Some(error);
            break;
        }
    }
    let error = failed.or_else(|| decoding.finish().err()).map(|error| match error {
        CodingError::Invalid(text) => ("CodingError", text),
        CodingError::ExpandedTooFar(text) => ("ExpandedTooFar", text),
    });
    Some((found, error))
}

type FormField = (String, String, Option<Place>, bool);

/// Fields as (name, text, place, clipped), and the error.
#[pyfunction]
fn form(content_type: PyBackedBytes, chunks: Chunks, names: Vec<String>) -> (Vec<FormField>, Option<String>) {
    let mut scanner = match FormScanner::new(&content_type, wanted(names)) {
        Ok(scanner) => scanner,
        Err(error) => return (vec![], Some(error.0)),
    };
    let fed = chunks.iter().try_for_each(|chunk| scanner.feed(chunk));
    let fields = scanner.fields();
    let fields = fields.map(|(name, field)| (name.to_owned(), field.text.clone(), field.place, field.clipped));
    (fields.collect(), fed.err().map(|error| error.0))
}

#[pyfunction]
fn splice<'py>(
    py: Python<'py>,
    chunks: Chunks,
    start: usize,
    end: usize,
    new: PyBackedBytes,
    limit: usize,
) -> Vec<Bound<'py, PyBytes>> {
    let held = chunks.iter().map(shared).collect();
    splice_within(held, start, end, shared(&new), limit).map(|piece| out(py, &contiguous(&piece))).collect()
}

/// (what it is taken for, whether it is an upgrade, whether it is a dialogue)
#[pyfunction]
fn content(pairs: Pairs) -> (&'static str, bool, bool) {
    let headers = headers(&pairs);
    let kind = match content_of(&headers) {
        Content::Json => "JSON",
        Content::Form => "FORM",
        Content::Other => "OTHER",
    };
    (kind, is_upgrade(&headers), is_dialogue(&headers))
}

#[pyfunction]
fn restore<'py>(
    py: Python<'py>,
    name: &str,
    target: &str,
    content_type: PyBackedBytes,
    chunks: Chunks,
    end: bool,
) -> Vec<Bound<'py, PyBytes>> {
    let mut restorer = NameRestorer::new(name, target, &Arc::default());
    restorer.headers(&content_type);
    let last = chunks.len().saturating_sub(1);
    let chunks = chunks.iter().enumerate();
    chunks.map(|(index, chunk)| out(py, &restorer.feed(&shared(chunk), end && index == last))).collect()
}

/// (ending, status, e2e, ttft, time per output token, prompt tokens, completion tokens, error)
type Observed = (&'static str, u16, Option<f64>, Option<f64>, Option<f64>, Option<u64>, Option<u64>, bool);

#[pyfunction]
fn measure(
    start: f64,
    status: PyBackedBytes,
    content_type: PyBackedBytes,
    chunks: Vec<(PyBackedBytes, f64)>,
    ending: &str,
    now: f64,
) -> Observed {
    let mut meter = ResponseMeter::new(start);
    meter.headers(&status, &content_type);
    for (chunk, now) in &chunks {
        meter.body(chunk, *now);
    }
    let ending = match ending {
        "COMPLETE" => Ending::Complete,
        "HEADERS_ONLY" => Ending::HeadersOnly,
        _ => Ending::Aborted,
    };
    let seen = meter.finish(ending, now);
    let ending = match seen.ending {
        Ending::Complete => "COMPLETE",
        Ending::HeadersOnly => "HEADERS_ONLY",
        Ending::Aborted => "ABORTED",
        Ending::Failed => "FAILED",
    };
    let (prompt, completion) = (seen.prompt_tokens, seen.completion_tokens);
    (ending, seen.status, seen.e2e, seen.ttft, seen.time_per_output_token, prompt, completion, seen.error())
}

/// Status, reason, message of a refusal, and its reply in bytes.
fn refused<'py>(py: Python<'py>, refusal: &Refusal) -> (u16, String, String, Bound<'py, PyBytes>) {
    let reply = out(py, &encode(&Outgoing::Immediate(immediate(refusal))).to_bytes());
    (refusal.status, refusal.reason.to_string(), refusal.message.to_string(), reply)
}

#[pyfunction]
fn slow<'py>(py: Python<'py>, seconds: f64) -> (u16, String, String, Bound<'py, PyBytes>) {
    refused(py, &too_slow(seconds))
}

/// What reading a body gives: under "refused" a refusal, else what it asks for and what a change to `target` is.
#[pyfunction]
fn read<'py>(
    py: Python<'py>,
    pairs: Pairs,
    chunks: Chunks,
    names: Vec<String>,
    limits: (usize, usize),
    target: &str,
) -> PyResult<Bound<'py, PyDict>> {
    let found = PyDict::new(py);
    let budget = Arc::new(BufferBudget::new(limits.0, limits.1));
    let mut reader = RequestReader::new(&headers(&pairs), wanted(names), &budget);
    let mut early = None; // the chunk with which it was known that the body is not read
    for (index, chunk) in chunks.iter().enumerate() {
        if let Err(refusal) = reader.feed(&shared(chunk)) {
            found.set_item("refused", refused(py, &refusal))?;
            found.set_item("at", index)?;
            return Ok(found);
        }
        if early.is_none() && reader.unread().is_some() {
            early = Some(index);
        }
    }
    found.set_item("unread at", early)?;
    found.set_item("used", budget.used())?;
    match reader.finish() {
        Err(refusal) => found.set_item("refused", refused(py, &refusal))?,
        Ok(body) => {
            found.set_item("model", &*body.model)?;
            let fields = PyDict::new(py);
            for (name, value) in &body.fields {
                fields.set_item(name, value)?;
            }
            found.set_item("fields", fields)?;
            found.set_item("prompt", out(py, &body.prompt))?;
            found.set_item("has body", body.has_body)?;
            let unread = body.unread.as_ref();
            found.set_item("unread", unread.map(|unread| (refused(py, &unread.refusal), unread.hidden)))?;
            if body.has_body && body.unread.is_none() {
                let edit = reader.change(target);
                found.set_item("edit", (edit.start, edit.end, out(py, &edit.new)))?;
            }
        }
    }
    Ok(found)
}

/// All of these, as a module of their own.
pub fn add(parent: &Bound<'_, PyModule>) -> PyResult<()> {
    let module = PyModule::new(parent.py(), "bytes_door")?;
    module.add_function(wrap_pyfunction!(decode, &module)?)?;
    module.add_function(wrap_pyfunction!(metadata_value, &module)?)?;
    module.add_function(wrap_pyfunction!(encode_headers, &module)?)?;
    module.add_function(wrap_pyfunction!(encode_body, &module)?)?;
    module.add_function(wrap_pyfunction!(encode_buffered, &module)?)?;
    module.add_function(wrap_pyfunction!(encode_immediate, &module)?)?;
    module.add_function(wrap_pyfunction!(scan, &module)?)?;
    module.add_function(wrap_pyfunction!(transcode, &module)?)?;
    module.add_function(wrap_pyfunction!(undo, &module)?)?;
    module.add_function(wrap_pyfunction!(form, &module)?)?;
    module.add_function(wrap_pyfunction!(splice, &module)?)?;
    module.add_function(wrap_pyfunction!(content, &module)?)?;
    module.add_function(wrap_pyfunction!(restore, &module)?)?;
    module.add_function(wrap_pyfunction!(measure, &module)?)?;
    module.add_function(wrap_pyfunction!(slow, &module)?)?;
    module.add_function(wrap_pyfunction!(read, &module)?)?;
    parent.add_submodule(&module)
}
