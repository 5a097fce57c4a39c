//! What a real Envoy said to a picker, whole streams of it: requests in every coding and charset, forms, responses.
//!
//! `tests/native/test_recorded_exchanges.py` compares the replies; here the streams are played where Miri can watch the
//! crates below (`make miri`).

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::sync::Arc;

use bytes::Bytes;
use rollouts_core::encoding::Encoded;
use rollouts_core::endpoints::{Endpoint, Host};
use rollouts_core::messages::Incoming;
use rollouts_core::picker::{Picker, PickerConfig};
use rollouts_core::ports::BufferBudget;
use rollouts_core::routing::RouterConfig;
use rollouts_core::rules::{Rule, RuleBook};
use rollouts_core::snapshot::Snapshot;
use rollouts_core::split::SplitTarget;
use rollouts_core::stream::{Flow, Logic, StreamLogic};
use rollouts_core::wire::decode;

const RECORDING: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/recordings/envoy-exchanges.jsonl");

/// Stream and message of a line of the recording, if that is what it holds.
fn message(line: &str) -> Option<(u32, Bytes)> {
    let (stream, rest) = line.strip_prefix("{\"stream\": ")?.split_once(',')?;
    let (_, rest) = rest.split_once("\"in\": \"")?;
    let (text, _) = rest.split_once('"')?;
    Some((stream.parse().ok()?, base64(text.as_bytes())))
}

/// A plain loop: in Miri each step of an iterator over a hundred thousand digits takes some milliseconds.
fn base64(text: &[u8]) -> Bytes {
    let mut out = Vec::with_capacity(text.len() / 4 * 3);
    let (mut bits, mut count, mut at) = (0u32, 0, 0);
    while at < text.len() && text[at] != b'=' {
        let digit = match text[at] {
            letter @ b'A'..=b'Z' => letter - b'A',
            letter @ b'a'..=b'z' => letter - b'a' + 26,
            digit @ b'0'..=b'9' => digit - b'0' + 52,
            b'+' => 62,
            _ => 63,
        };
        bits = bits << 6 | digit as u32;
        count += 6;
        if count >= 8 {
            count -= 8;
            out.push((bits >> count) as u8);
        }
        at += 1;
    }
    out.into()
}

/// The messages of each stream, in order; read line by line, so that the isolation of Miri has to be off.
fn streams() -> Vec<Vec<Bytes>> {
    let mut found: BTreeMap<u32, Vec<Bytes>> = BTreeMap::new();
    for line in BufReader::new(File::open(RECORDING).unwrap()).lines() {
        if let Some((stream, message)) = message(&line.unwrap()) {
            found.entry(stream).or_default().push(message);
        }
    }
    found.into_values().collect()
}

/// zstd is C, which Miri cannot run.
fn runs_here(messages: &[Bytes]) -> bool {
    let Ok(Some(Incoming::RequestHeaders(first))) = decode(&messages[0]) else { return true };
    !(cfg!(miri) && first.headers.get(b"content-encoding") == Some(b"zstd"))
}

fn picker(keep_streams: bool) -> Picker {
    let budget = BufferBudget::new(1 << 20, 4 << 20);
    let router = RouterConfig { restore_model: keep_streams, ..RouterConfig::default() };
    let picker = Picker::new(PickerConfig { router, budget, keep_streams, variant_header: Bytes::new() });
    let endpoint = |number: u8| Endpoint {
        address: format!("10.0.0.{number}:80").into(),
        host: Host::parse(&format!("10.0.0.{number}")),
        port: 80,
        pod: format!("pod-{number}").into(),
        pool: "pool".into(),
        ..Endpoint::default()
    };
    let targets = ["model-of-another-length", "m"].map(|name| SplitTarget::new(name, 1));
    let rule = Rule { targets: targets.into(), generic: true, ..Rule::default() };
    let snapshot = Snapshot {
        pools: vec!["pool".into()],
        endpoints: [1, 2].map(|number| Arc::new(endpoint(number))).into(),
        rules: RuleBook::new([rule]),
        ..Snapshot::default()
    };
    picker.router().update(snapshot, 0.0, 0.0);
    picker
}

/// All replies to the messages, each as the bytes that are sent.
fn play(picker: &Picker, messages: &[Bytes]) -> Vec<Bytes> {
    let mut stream = picker.open(0.0);
    let mut replies = Vec::new();
    for message in messages {
        match stream.receive(message.clone(), 1.0, &mut replies) {
            Flow::Open => (),
            Flow::Close => break,
            Flow::Abort(why) => panic!("{why}"),
        }
    }
    stream.half_closed(2.0, &mut replies);
    stream.closed(2.0);
    replies.iter().map(Encoded::to_bytes).collect()
}

#[test]
fn recorded_streams_are_answered_and_leave_nothing_behind() {
    let streams = streams();
    assert!(streams.len() > 50);
    let paths: &[bool] = if cfg!(miri) { &[true] } else { &[false, true] }; // minutes each in Miri
    for &keep_streams in paths {
        let (picker, again) = (picker(keep_streams), picker(keep_streams));
        let mut answered = 0;
        for messages in streams.iter().filter(|messages| runs_here(messages)) {
            let replies = play(&picker, messages);
            if !cfg!(miri) {
                assert_eq!(replies, play(&again, messages));
            }
            answered += usize::from(!replies.is_empty());
        }
        assert!(answered > 45, "{answered}");
        assert_eq!(picker.budget().used(), 0);
        assert!(picker.counters().export().len() >= 10);
    }
}
