//! The picker's core, one module for each module of `rollouts/picker/core/` of the same name.
//!
//! Sans-IO: plain values in, plain values out. The Python modules are the executable specification: equal bytes, equal
//! decisions, equal errors on every input.
#![forbid(unsafe_code)]

pub mod answering;
pub mod body;
pub mod charset;
pub mod coding;
pub mod content;
pub mod counters;
pub mod encoding;
pub mod endpoints;
pub mod form;
pub mod held;
pub mod measure;
pub mod members;
pub mod messages;
pub mod picker;
pub mod policies;
pub mod ports;
pub mod prefix;
pub mod protocol;
pub mod reader;
pub mod refusals;
pub mod restore;
pub mod routing;
pub mod rules;
pub mod schedule;
pub mod snapshot;
pub mod splicing;
pub mod split;
pub mod stream;
pub mod variants;
pub mod wire;
