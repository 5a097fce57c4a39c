//! What takes minutes, on a clock that does not.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::io::{DuplexStream, duplex};
use tokio::task::{JoinHandle, LocalSet, spawn_local};
use tokio::time::{Instant, sleep};

use crate::METHOD;
use crate::connection::{self, Around};
use crate::kit::{self, Echo, Raw, Stream};
use crate::listen::{Serves, Shared};

/// Run a test on a clock that goes on when all wait.
fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    LocalSet::new().block_on(&runtime, test);
}

struct World {
    logic: Arc<Echo>,
    shared: Arc<Shared<Echo>>,
    phase: tokio::sync::watch::Sender<crate::listen::Phase>,
}

impl World {
    fn new() -> Self {
        let logic = Arc::new(Echo::default());
        let (shared, phase) = Shared::alone(Arc::clone(&logic));
        Self { logic, shared, phase }
    }

    /// A connection whose socket holds `buffer` bytes: the client's end, and the server's task.
    fn begin(&self, serves: Serves, buffer: usize) -> (DuplexStream, JoinHandle<Result<(), String>>) {
        let (client, server) = duplex(buffer);
        (client, spawn_local(connection::run(Around::new(Arc::clone(&self.shared), serves), server)))
    }
}

const BUFFER: usize = 64 << 10;

#[test]
fn who_is_silent_again_and_again_but_there_is_kept() {
    run(async {
        let world = World::new();
        let (socket, task) = world.begin(Serves::Everything, BUFFER);
        let mut client = kit::connect(socket, h2::client::Builder::new()).await.unwrap();
        sleep(Duration::from_secs(1_200)).await;
        assert!(!task.is_finished());
        let mut stream = Stream::open(&mut client, METHOD).await;
        stream.say(b"hello");
        assert_eq!(stream.hear().await.as_deref(), Some(&b"hello"[..]));
    });
}

#[test]
fn who_is_not_there_any_more_is_let_go() {
    run(async {
        let world = World::new();
        let (socket, task) = world.begin(Serves::Everything, BUFFER);
        let _client = Raw::hello(socket, 65_535).await;
        let began = Instant::now();
        assert_eq!(task.await.unwrap(), Ok(()));
        assert!((Duration::from_secs(60)..Duration::from_secs(100)).contains(&began.elapsed()));
    });
}

#[test]
fn who_does_not_read_for_minutes_hears_all_of_it() {
    run(async {
        let world = World::new();
        let (socket, _task) = world.begin(Serves::Everything, BUFFER);
        let mut builder = h2::client::Builder::new();
        builder.initial_window_size(1_000);
        let mut client = kit::connect(socket, builder).await.unwrap();
        let mut slow = Stream::open(&mut client, METHOD).await;
        slow.say(b"flood");
        assert!(slow.body().await.is_some(), "headers come");
        let mut other = Stream::open(&mut client, METHOD).await;
        other.say(b"hello");
        assert_eq!(other.hear().await.as_deref(), Some(&b"hello"[..]), "the same connection goes on");
        sleep(Duration::from_secs(240)).await;
        for _ in 0..64 {
            assert_eq!(slow.hear().await, Some(vec![7; 60_000]));
        }
        assert_eq!(world.logic.closed.load(Ordering::Relaxed), 0);
    });
}

#[test]
fn who_takes_a_byte_now_and_then_is_reset() {
    run(async {
        let world = World::new();
        let (socket, _task) = world.begin(Serves::Everything, BUFFER);
        let mut client = Raw::hello(socket, 100).await;
        client.send(&[kit::open(1), kit::say(1, b"flood")].concat()).await.unwrap();
        let began = Instant::now();
        while world.logic.closed.load(Ordering::Relaxed) == 0 {
            assert!(began.elapsed() < Duration::from_secs(1_200), "held for too long");
            client.send(&kit::frame(kit::WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1])).await.unwrap();
            sleep(Duration::from_secs(59)).await;
        }
        while let Some((kind, _, stream, _)) = client.next().await {
            if (kind, stream) == (kit::RST_STREAM, 1) {
                return;
            }
        }
        panic!("the connection ended, not the stream");
    });
}

#[test]
fn a_message_that_stays_incomplete_ends_the_stream_whatever_was_answered() {
    run(async {
        let world = World::new();
        let (socket, _task) = world.begin(Serves::Everything, BUFFER);
        let mut client = kit::connect(socket, h2::client::Builder::new()).await.unwrap();
        let mut stream = Stream::open(&mut client, METHOD).await;
        stream.say(b"hello");
        assert_eq!(stream.hear().await.as_deref(), Some(&b"hello"[..]));
        sleep(Duration::from_secs(3_000)).await;
        stream.say(b"an open stream has no limit");
        assert!(stream.hear().await.is_some());
        let began = Instant::now();
        stream.send.send_data(bytes::Bytes::from_static(&[0, 0, 0, 0, 9, 1]), false).unwrap();
        assert_eq!(stream.code().await.as_deref(), Some("4"));
        assert!((119..122).contains(&began.elapsed().as_secs()));
    });
}

#[test]
fn who_opens_and_resets_is_told_to_calm_down() {
    run(async {
        let world = World::new();
        let (socket, task) = world.begin(Serves::Everything, 4 << 20);
        let mut client = Raw::hello(socket, 65_535).await;
        let flood: Vec<u8> =
            (0..10_000).flat_map(|at| [kit::open(2 * at + 1), kit::reset(2 * at + 1)].concat()).collect();
        client.send(&flood).await.unwrap();
        let mut last = None;
        while let Some(frame) = client.next().await {
            last = Some(frame);
        }
        let (kind, _, _, payload) = last.unwrap();
        assert_eq!((kind, &payload[4..8]), (kit::GOAWAY, &11u32.to_be_bytes()[..]), "ENHANCE_YOUR_CALM");
        assert!(task.await.unwrap().is_err());
    });
}
