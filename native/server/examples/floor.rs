//! The transport's own floor: the messages of a picker without a picker, as `benchmarks/picker/bare.py` has them.
//!
//!     floor PORT leave|stay [THREADS]

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rollouts_core::encoding::{Encoded, encode};
use rollouts_core::messages::{Outgoing, Segments, Side};
use rollouts_server::{Config, Flow, Logic, StreamLogic, resolve, serve};

const MAX_LAST: usize = 16_384;
const TAIL: usize = 512;

/// As long as a real one.
const HEADER_REPLY: [u8; 190] = {
    let mut reply = [b'x'; 190];
    [reply[0], reply[1], reply[2]] = [0x0A, 0xBB, 0x01];
    reply
};

fn plain(reply: &[u8]) -> Encoded {
    Encoded { head: reply.to_vec(), ..Encoded::default() }
}

fn body_reply(side: Side, body: Bytes, end: bool) -> Encoded {
    encode(&Outgoing::Body { side, body: [body].into_iter().collect(), end_of_stream: end })
}

/// The body bytes of a body message as the driver makes it: tag, length, tag, length, bytes, end.
fn payload(message: &Bytes, last: bool) -> Bytes {
    let mut at = 1;
    while message[at] >= 0x80 {
        at += 1;
    }
    at += 2;
    while message[at] >= 0x80 {
        at += 1;
    }
    message.slice(at + 1..message.len() - 2 * usize::from(last))
}

struct Floor {
    leave: bool,
}

#[derive(Default)]
struct Stream {
    leave: bool,
    held: Segments,
}

impl Logic for Floor {
    type Stream = Stream;

    fn open(&self, _: f64) -> Stream {
        Stream { leave: self.leave, ..Stream::default() }
    }

    fn ready(&self) -> bool {
        true
    }
}

impl Stream {
    /// The body as it came, in the pieces in which a picker sends it.
    fn answer(&mut self, out: &mut Vec<Encoded>) {
        out.push(plain(&HEADER_REPLY));
        let mut held = std::mem::take(&mut self.held);
        if self.leave
            && let Some(last) = held.pop()
        {
            let mut last = last;
            let tail = if last.len() > MAX_LAST { last.split_off(last.len() - TAIL) } else { Bytes::new() };
            held.extend([last, tail].into_iter().filter(|part| !part.is_empty()));
        }
        let count = held.len();
        out.extend(held.into_iter().enumerate().map(|(at, part)| body_reply(Side::Request, part, at + 1 == count)));
    }
}

impl StreamLogic for Stream {
    fn receive(&mut self, message: Bytes, _: f64, out: &mut Vec<Encoded>) -> Flow {
        let last = message.ends_with(&[0x10, 0x01]);
        match message.first() {
            Some(0x22) => {
                self.held.push(payload(&message, last));
                if last {
                    self.answer(out);
                    return if self.leave { Flow::Close } else { Flow::Open };
                }
                Flow::Open
            }
            Some(0x1A) => {
                out.push(plain(&[0x12, 0x00]));
                if message.ends_with(&[0x18, 0x01]) { Flow::Close } else { Flow::Open }
            }
            Some(0x2A) => {
                out.push(body_reply(Side::Response, payload(&message, last), last));
                if last { Flow::Close } else { Flow::Open }
            }
            _ => Flow::Open,
        }
    }

    fn state(&self) -> &'static str {
        ""
    }

    fn waiting(&self) -> bool {
        true
    }

    fn expects_response(&self) -> bool {
        false
    }

    fn expire(&mut self, _: f64, _: &mut Vec<Encoded>) {}

    fn half_closed(&mut self, _: f64, _: &mut Vec<Encoded>) {}

    fn closed(&mut self, _: f64) {}
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let leave = arguments.get(2).is_some_and(|kind| kind == "leave");
    let threads = arguments.get(3).and_then(|count| count.parse().ok()).unwrap_or(2);
    let config = Config {
        address: resolve(&format!("127.0.0.1:{}", arguments[1])).expect("a port"),
        health_address: None,
        tls: None,
        max_message: 8 << 20,
        max_waiting: 96 << 20,
        max_queued: 24 << 20,
        max_connections: 1_000,
        request_timeout: Duration::from_secs(120),
        threads,
        clock: 0.0,
        events: Arc::new(|event| eprintln!("{event:?}")),
    };
    let _server = serve(Arc::new(Floor { leave }), config).expect("a free port");
    loop {
        std::thread::park();
    }
}
