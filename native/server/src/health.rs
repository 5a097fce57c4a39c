//! `grpc.health.v1.Health`, with its two messages read and written by hand.

use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;

use h2::RecvStream;
use rollouts_core::encoding::Encoded;
use rollouts_core::stream::Logic;
use tokio::time::sleep;

use crate::connection::Around;
use crate::exchange::{Gone, Status, Writer, unacceptable};
use crate::framing::Assembler;
use crate::limits::HEALTH_REQUEST;
use crate::listen::{Phase, Shared};

const CHECK: &str = "/grpc.health.v1.Health/Check";
const WATCH: &str = "/grpc.health.v1.Health/Watch";

const LIVENESS: &str = "liveness";

/// Names that probes of the various releases of the Inference Extension ask for, beside `liveness`.
const NAMES: [&str; 4] = ["", "readiness", "inference-extension", "envoy.service.ext_proc.v3.ExternalProcessor"];

/// Bytes of a request: one name.
const MAX_REQUEST: usize = 4 << 10;

#[derive(Clone, Copy, Eq, PartialEq)]
enum Serving {
    Yes = 1,
    No = 2,
    Unknown = 3,
}

impl Serving {
    fn message(self) -> Encoded {
        Encoded { head: vec![0x08, self as u8], ..Encoded::default() }
    }
}

fn serving<L: Logic>(shared: &Shared<L>, service: &str) -> Serving {
    if service == LIVENESS {
        return Serving::Yes;
    }
    if !NAMES.contains(&service) {
        return Serving::Unknown;
    }
    if shared.phase() == Phase::Serving && shared.logic.ready() { Serving::Yes } else { Serving::No }
}

/// What may be asked.
#[derive(Clone, Copy)]
pub(crate) enum Call {
    /// Once.
    Check,
    /// Now, and whenever the answer changes, until the server drains.
    Watch,
}

impl Call {
    /// The call that a path stands for.
    pub(crate) fn of(path: &str) -> Option<Self> {
        match path {
            CHECK => Some(Self::Check),
            WATCH => Some(Self::Watch),
            _ => None,
        }
    }
}

/// Answer one call.
pub(crate) async fn answer<L: Logic>(
    call: Call,
    around: &Around<L>,
    body: &mut RecvStream,
    writer: &mut Writer,
) -> Result<Status, Gone> {
    let service = match request(around, body).await? {
        Ok(service) => service,
        Err(status) => return Ok(status),
    };
    let saying = async {
        match call {
            Call::Check => check(&around.shared, &service, writer).await,
            Call::Watch => watch(around, &service, writer).await,
        }
    };
    let mut saying = pin!(saying);
    poll_fn(|cx| match body.poll_data(cx) {
        // Nobody reads it, so it would stay.
        Poll::Ready(Some(Ok(data))) if !data.is_empty() => {
            Poll::Ready(Ok(Status::new("13", "more than one message in a call that takes one")))
        }
        Poll::Ready(Some(Err(_))) => Poll::Ready(Err(Gone)),
        _ => saying.as_mut().poll(cx),
    })
    .await
}

async fn check<L: Logic>(shared: &Shared<L>, service: &str, writer: &mut Writer) -> Result<Status, Gone> {
    let found = serving(shared, service);
    if found == Serving::Unknown {
        return Ok(Status::new("5", "no service of this name"));
    }
    writer.send(&mut vec![found.message()]).await?;
    Ok(Status::OK)
}

async fn watch<L: Logic>(around: &Around<L>, service: &str, writer: &mut Writer) -> Result<Status, Gone> {
    let shared = &*around.shared;
    let mut changes = shared.changes();
    let mut last = None;
    loop {
        changes.mark_unchanged();
        let found = serving(shared, service);
        if last != Some(found) {
            last = Some(found);
            writer.send(&mut vec![found.message()]).await?;
        }
        if around.serves.ends_at(shared.phase()) {
            return Ok(Status::OK);
        }
        let mut changed = pin!(changes.changed());
        poll_fn(|cx| match writer.poll_reset(cx) {
            Poll::Ready(()) => Poll::Ready(Err(Gone)),
            Poll::Pending => changed.as_mut().poll(cx).map(|change| change.map_err(|_| Gone)),
        })
        .await?;
    }
}

/// The name that a request asks for, or the status that it gets.
async fn request<L: Logic>(around: &Around<L>, body: &mut RecvStream) -> Result<Result<String, Status>, Gone> {
    let mut assembler = Assembler::new(MAX_REQUEST, around.room());
    let mut limit = pin!(sleep(HEALTH_REQUEST));
    loop {
        let data = poll_fn(|cx| match body.poll_data(cx) {
            Poll::Pending => limit.as_mut().poll(cx).map(|()| Err(Status::new("4", "no request came in time"))),
            ready => ready.map(Ok),
        });
        let data = match data.await {
            Ok(Some(data)) => data,
            Ok(None) => return Ok(Err(Status::new("13", "a request without a message"))),
            Err(status) => return Ok(Err(status)),
        };
        let data = data?;
        let _ = body.flow_control().release_capacity(data.len());
        assembler.push(data);
        match assembler.next() {
            Ok(None) => {}
            Ok(Some(message)) => {
                return Ok(service(&message).ok_or_else(|| Status::new("3", "not a HealthCheckRequest")));
            }
            Err(problem) => return Ok(Err(unacceptable(problem, MAX_REQUEST, ""))),
        }
    }
}

/// Field 1 of a HealthCheckRequest, and nothing else; lengths fit two bytes.
fn service(message: &[u8]) -> Option<String> {
    let name = match message {
        [] => &[][..],
        [0x0A, length, name @ ..] if *length < 0x80 && name.len() == usize::from(*length) => name,
        [0x0A, low, high, name @ ..]
            if *low >= 0x80 && *high < 0x80 && name.len() == usize::from(low & 0x7F) | usize::from(*high) << 7 =>
        {
            name
        }
        _ => return None,
    };
    String::from_utf8(name.to_vec()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_name() {
        assert_eq!(service(b""), Some(String::new()));
        assert_eq!(service(b"\x0a\x00"), Some(String::new()));
        assert_eq!(service(b"\x0a\x08liveness"), Some("liveness".to_owned()));
        let long = [&b"\x0a\x80\x01"[..], &[b'x'; 128]].concat();
        assert_eq!(service(&long), Some("x".repeat(128)));
        for wrong in [&b"\x0a"[..], b"\x0a\x05abc", b"\x12\x00", b"\x0a\x01\xff"] {
            assert_eq!(service(wrong), None);
        }
    }
}
