//! The transport's own floor: the messages of a picker without a picker, as `benchmarks/picker/bare.py` has them.
//!
//!     floor PORT leave|stay [THREADS]

use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use rollouts_server::{Config, Flow, Logic, StreamLogic, resolve, serve};

const PIECE: usize = 62_000;
const MAX_LAST: usize = 16_384;
const TAIL: usize = 512;

fn varint(out: &mut BytesMut, mut number: usize) {
    while number >= 0x80 {
        out.put_u8((number & 0x7F) as u8 | 0x80);
        number >>= 7;
    }
    out.put_u8(number as u8);
}

fn wrap(tag: u8, payload: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(payload.len() + 6);
    out.put_u8(tag);
    varint(&mut out, payload.len());
    out.extend_from_slice(payload);
    out.freeze()
}

fn body_reply(tag: u8, body: &[u8], end: bool) -> Bytes {
    let size = |number: usize| if number < 0x80 { 1 } else if number < 0x4000 { 2 } else { 3 };
    let streamed = 1 + size(body.len()) + body.len() + 2 * usize::from(end);
    let mut out = BytesMut::with_capacity(body.len() + 24);
    let mut lengths = [streamed; 4];
    for index in (0..3).rev() {
        lengths[index] = 1 + size(lengths[index + 1]) + lengths[index + 1];
    }
    for (tag, length) in [tag, 0x0A, 0x1A, 0x1A].into_iter().zip(lengths) {
        out.put_u8(tag);
        varint(&mut out, length);
    }
    out.put_u8(0x0A);
    varint(&mut out, body.len());
    out.extend_from_slice(body);
    if end {
        out.extend_from_slice(&[0x10, 0x01]);
    }
    out.freeze()
}

/// As long as a real one.
fn header_reply() -> Bytes {
    wrap(0x0A, &wrap(0x0A, &[b'x'; 186]))
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
    header: Bytes,
}

struct Stream {
    leave: bool,
    header: Bytes,
    held: Vec<Bytes>,
}

impl Logic for Floor {
    type Stream = Stream;

    fn open(&self, _: f64) -> Stream {
        Stream { leave: self.leave, header: self.header.clone(), held: Vec::new() }
    }

    fn ready(&self) -> bool {
        true
    }
}

impl Stream {
    fn answer(&mut self, out: &mut Vec<Bytes>) {
        out.push(self.header.clone());
        let body = self.held.concat();
        let mut pieces: Vec<&[u8]> = body.chunks(PIECE).collect();
        if let Some(last) = pieces.pop() {
            if self.leave && last.len() > MAX_LAST {
                let (most, tail) = last.split_at(last.len() - TAIL);
                pieces.extend([most, tail]);
            } else {
                pieces.push(last);
            }
        }
        let count = pieces.len();
        out.extend(pieces.into_iter().enumerate().map(|(at, piece)| body_reply(0x1A, piece, at + 1 == count)));
    }
}

impl StreamLogic for Stream {
    fn receive(&mut self, message: Bytes, _: f64, out: &mut Vec<Bytes>) -> Flow {
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
                out.push(Bytes::from_static(&[0x12, 0x00]));
                if message.ends_with(&[0x18, 0x01]) { Flow::Close } else { Flow::Open }
            }
            Some(0x2A) => {
                out.push(body_reply(0x22, &payload(&message, last), last));
                if last { Flow::Close } else { Flow::Open }
            }
            _ => Flow::Open,
        }
    }

    fn waiting(&self) -> bool {
        true
    }

    fn expects_response(&self) -> bool {
        false
    }

    fn expire(&mut self, _: f64, _: &mut Vec<Bytes>) {}

    fn half_closed(&mut self, _: f64, _: &mut Vec<Bytes>) {}

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
        request_timeout: Duration::from_secs(120),
        threads,
        clock: 0.0,
        events: Arc::new(|event| eprintln!("{event:?}")),
    };
    let _server = serve(Arc::new(Floor { leave, header: header_reply() }), config).expect("a free port");
    loop {
        std::thread::park();
    }
}
