//! What a server needs of the core: one object for all streams, and one for each.

use bytes::Bytes;

use crate::encoding::Encoded;

/// What becomes of a stream after the replies to a message.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Flow {
    /// It goes on.
    Open,
    /// It ends cleanly once the replies are sent; the last reply and the end of the stream in one piece.
    Close,
    /// It ends with INVALID_ARGUMENT and this text: the message could not be read, or has no place here.
    Abort(String),
}

/// One ext_proc stream. `now`: monotonic seconds.
pub trait StreamLogic: Send {
    /// Append the replies to the bytes of one message. Bodies in them share what came: nothing is copied.
    fn receive(&mut self, message: Bytes, now: f64, out: &mut Vec<Encoded>) -> Flow;

    /// About how many bytes `receive` looks at for a message of `length` bytes: more than came where a body is coded.
    fn work(&self, length: usize) -> usize {
        length
    }

    /// What it waits for, as the log has it.
    fn state(&self) -> &'static str;

    /// Whether the request is not complete yet, so that the limit on its time holds.
    fn waiting(&self) -> bool;

    /// Whether a request is answered whose response is to be measured and has not begun. A peer that half-closes
    /// then, and resets the stream within `RESET_FOLLOWS` seconds, is a client that left.
    fn expects_response(&self) -> bool;

    /// The request was not complete within `seconds`: append the refusal, if one is due, and end the stream.
    fn expire(&mut self, seconds: f64, out: &mut Vec<Encoded>);

    /// The peer half-closed: append the last reply, if one is due, and end the stream.
    fn half_closed(&mut self, now: f64, out: &mut Vec<Encoded>);

    /// The stream is over, whoever ended it. Safe to call more than once.
    fn closed(&mut self, now: f64);
}

/// Seconds: Envoy half-closes a stream whose client left and resets it in the same breath.
pub const RESET_FOLLOWS: f64 = 0.01;

/// What all streams of a server share.
pub trait Logic: Send + Sync + 'static {
    /// The state of one stream.
    type Stream: StreamLogic + 'static;

    /// A new stream.
    fn open(&self, now: f64) -> Self::Stream;

    /// Whether the picker knows its pools and can decide.
    fn ready(&self) -> bool;
}
