//! What takes minutes, on a clock that does not.

use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, DuplexStream, ReadBuf, duplex};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, LocalSet, spawn_local};
use tokio::time::{Instant, sleep, timeout};

use crate::METHOD;
use crate::connection::{self, Around, Ended};
use crate::io::Buffered;
use crate::kit::{self, Echo, Raw, Stream};
use crate::limits::{
    BEGUN_AMID_RESETS, CHEAP_FRAMES, CONNECTION_WINDOW, FIRST_BYTE, HANDSHAKE, LEAVE, PER_STREAM, QUEUED_SHARE,
    SEND_BUFFER, WRITE_BUFFER,
};
use crate::listen::{Phase, Serves, Shared};
use crate::places::{Progress, Reason, Stage};

/// Run a test on a clock that goes on when all wait.
fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    LocalSet::new().block_on(&runtime, test);
}

struct World {
    logic: Arc<Echo>,
    shared: Arc<Shared<Echo>>,
    phase: tokio::sync::watch::Sender<Phase>,
}

impl World {
    fn new() -> Self {
        let logic = Arc::new(Echo::default());
        let (shared, phase) = Shared::alone(Arc::clone(&logic));
        Self { logic, shared, phase }
    }

    /// A connection whose socket holds `buffer` bytes: the client's end, and the server's task.
    fn begin(&self, serves: Serves, buffer: usize) -> (DuplexStream, JoinHandle<Ended>) {
        begin(around(&self.shared, serves), buffer)
    }
}

fn around(shared: &Arc<Shared<Echo>>, serves: Serves) -> Rc<Around<Echo>> {
    Around::new(Arc::clone(shared), serves, Arc::new(Progress::new()))
}

fn begin(around: Rc<Around<Echo>>, buffer: usize) -> (DuplexStream, JoinHandle<Ended>) {
    let (client, server) = duplex(buffer);
    (client, spawn_local(connection::run(around, server)))
}

const BUFFER: usize = 64 << 10;
const PRIORITY: u8 = 2;
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

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
        assert_eq!(task.await.unwrap(), Reason::Dead.into());
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
fn envoy_resets_each_stream_that_we_end_first() {
    run(async {
        let world = World::new();
        let (socket, _task) = world.begin(Serves::Everything, BUFFER);
        let mut envoy = Raw::hello(socket, 65_535).await;
        let streams: Vec<u32> = (0..5_000).map(|at| 2 * at + 1).collect();
        for batch in streams.chunks(100) {
            let calls: Vec<u8> =
                batch.iter().flat_map(|at| [kit::open(*at), kit::say(*at, b"close")].concat()).collect();
            envoy.send(&calls).await.unwrap();
            let mut open: std::collections::HashSet<u32> = batch.iter().copied().collect();
            while !open.is_empty() {
                let (kind, flags, stream, _) = envoy.next().await.expect("sent away");
                if kind == kit::HEADERS && flags & kit::END_STREAM > 0 {
                    open.remove(&stream);
                    envoy.send(&kit::reset(stream)).await.unwrap();
                }
            }
        }
        envoy.send(&[kit::open(20_001), kit::say(20_001, b"close")].concat()).await.unwrap();
        assert!(envoy.ended(20_001).await);
    });
}

/// A call that is abandoned at once, with nothing of its first message, with a part of it, or with all.
fn abandoned(stream: u32) -> Vec<u8> {
    let said = match stream / 2 % 3 {
        0 => Vec::new(),
        1 => kit::data(stream, &[0, 0, 0, 0, 9, 1]),
        _ => kit::say(stream, b"hello"),
    };
    [kit::open(stream), said, kit::reset(stream)].concat()
}

#[test]
fn requests_that_are_abandoned_before_they_began_end_no_connection() {
    run(async {
        let world = World::new();
        let around = around(&world.shared, Serves::Everything);
        let (socket, task) = begin(Rc::clone(&around), 8 << 20);
        let mut envoy = Raw::hello(socket, 65_535).await;
        let flood: Vec<u8> = (0..50_000).flat_map(|at| abandoned(2 * at + 1)).collect();
        envoy.send(&[flood, kit::open(100_001), kit::say(100_001, b"close")].concat()).await.unwrap();
        let (socket, _other) = world.begin(Serves::Everything, BUFFER);
        let mut other = kit::connect(socket, h2::client::Builder::new()).await.unwrap();
        let mut closed = world.logic.closed.load(Ordering::Relaxed);
        for _ in 0..20 {
            Stream::answered(&mut other).await;
            let before = std::mem::replace(&mut closed, world.logic.closed.load(Ordering::Relaxed));
            assert!(closed - before <= 8 * BEGUN_AMID_RESETS, "the other one waited for {} of 50,000", closed - before);
            assert!(around.open.unbegun() <= BEGUN_AMID_RESETS, "{}", around.open.unbegun());
        }
        assert!(envoy.ended(100_001).await);
        assert!(!task.is_finished());
        assert_eq!(world.shared.waiting.used(), 0, "nothing of them is left");
    });
}

#[test]
fn an_answer_does_not_wait_for_the_end_of_a_flood_on_its_own_connection() {
    run(async {
        let world = World::new();
        let (socket, _task) = world.begin(Serves::Everything, 8 << 20);
        let mut envoy = Raw::hello(socket, 65_535).await;
        let flood: Vec<u8> =
            (1..50_000).flat_map(|at| [kit::open(2 * at + 1), kit::reset(2 * at + 1)].concat()).collect();
        envoy.send(&[kit::open(1), kit::say(1, b"close"), flood].concat()).await.unwrap();
        assert!(envoy.ended(1).await);
        let begun = world.logic.closed.load(Ordering::Relaxed);
        assert!(begun <= 8 * BEGUN_AMID_RESETS, "it waited for {begun} of 50,000");
    });
}

#[test]
fn who_sends_nothing_but_pings_is_told_to_calm_down() {
    run(async {
        let world = World::new();
        let (socket, task) = world.begin(Serves::Everything, 4 << 20);
        let mut client = Raw::hello(socket, 65_535).await;
        client.send(&[kit::open(1), kit::say(1, b"close")].concat()).await.unwrap();
        assert!(client.ended(1).await);
        client.send(&kit::frame(kit::PING, 0, 0, &[0; 8]).repeat(3 * CHEAP_FRAMES as usize)).await.unwrap();
        let mut last = None;
        while let Some(frame) = client.next().await {
            last = Some(frame);
        }
        let (kind, _, _, payload) = last.unwrap();
        assert_eq!((kind, &payload[4..8]), (kit::GOAWAY, &11u32.to_be_bytes()[..]), "ENHANCE_YOUR_CALM");
        let ended = task.await.unwrap();
        assert_eq!(ended.reason, Reason::Flood);
        assert!(ended.error.is_some());
    });
}

#[test]
fn a_flood_with_the_first_bytes_ends_at_once() {
    run(async {
        let world = World::new();
        let (mut socket, task) = world.begin(Serves::Everything, 4 << 20);
        let pings = kit::frame(kit::PING, 0, 0, &[0; 8]).repeat(3 * CHEAP_FRAMES as usize);
        socket.write_all(&[PREFACE, &kit::frame(kit::SETTINGS, 0, 0, &[]), &pings].concat()).await.unwrap();
        let began = Instant::now();
        assert_eq!(task.await.unwrap().reason, Reason::BadHandshake);
        assert!(began.elapsed() < Duration::from_secs(1));
    });
}

#[test]
fn who_watches_health_holds_no_place() {
    run(async {
        let world = World::new();
        for (serves, stage) in [(Serves::Health, Stage::Unused), (Serves::Everything, Stage::Busy)] {
            let progress = Arc::new(Progress::new());
            let around = Around::new(Arc::clone(&world.shared), serves, Arc::clone(&progress));
            let (socket, _task) = begin(around, BUFFER);
            let mut client = kit::connect(socket, h2::client::Builder::new()).await.unwrap();
            let mut watch = Stream::open(&mut client, kit::WATCH).await;
            watch.say(b"");
            assert!(watch.hear().await.is_some());
            assert_eq!(progress.stage(), Some(stage));
        }
    });
}

#[test]
fn what_waits_for_a_client_that_does_not_read_is_bounded() {
    run(async {
        let world = World::new();
        let around = self::around(&world.shared, Serves::Everything);
        let (socket, task) = begin(Rc::clone(&around), BUFFER);
        let mut client = Raw::hello(socket, 1 << 30).await;
        let more = kit::frame(kit::WINDOW_UPDATE, 0, 0, &(1u32 << 30).to_be_bytes());
        client.send(&more).await.unwrap();
        let calls: Vec<u8> =
            (0..100).flat_map(|at| [kit::open(2 * at + 1), kit::say(2 * at + 1, b"flood")].concat()).collect();
        client.send(&calls).await.unwrap();
        sleep(Duration::from_millis(1)).await;
        let mut got = 0;
        while got < 20 << 20 {
            // A hundred streams of 64 KiB would be more.
            assert!((1..5 << 20).contains(&around.queue.bytes()), "{}", around.queue.bytes());
            let (kind, _, _, payload) = client.next().await.unwrap();
            got += if kind == kit::DATA { payload.len() } else { 0 };
        }
        drop(client);
        let _ = task.await;
        sleep(Duration::from_millis(1)).await;
        assert_eq!(around.queue.bytes(), 0);
    });
}

/// A client whose streams, so many, are flooded with answers that it does not take.
async fn stuck(socket: DuplexStream, streams: u32) -> Raw<DuplexStream> {
    let mut client = Raw::hello(socket, 0).await;
    for at in 0..streams {
        client.send(&[kit::open(2 * at + 1), kit::say(2 * at + 1, b"gush")].concat()).await.unwrap();
    }
    sleep(Duration::from_millis(1)).await;
    client
}

/// Send `size` bytes of small messages on a stream.
async fn pour(client: &mut Raw<DuplexStream>, stream: u32, size: usize) {
    for _ in 0..size / 16_000 {
        client.send(&kit::data(stream, &[0; 16_000])).await.unwrap();
    }
    sleep(Duration::from_millis(1)).await;
}

#[test]
fn streams_whose_answers_are_not_taken_keep_no_window_of_the_others() {
    run(async {
        let world = World::new();
        let (socket, task) = world.begin(Serves::Everything, BUFFER);
        let mut client = stuck(socket, 20).await;
        for at in 0..20 {
            pour(&mut client, 2 * at + 1, 200_000).await;
        }
        // The sum of their windows is far above that of the connection, which has been opened for so much.
        client.send(&[kit::open(1_001), kit::say(1_001, b"close")].concat()).await.unwrap();
        pour(&mut client, 1_001, 200_000).await;
        assert!(!task.is_finished());
        let mut granted = 65_535;
        let waiting = world.shared.waiting.used();
        assert!(waiting >= 20 * 192_000, "{waiting}");
        let more = kit::frame(kit::WINDOW_UPDATE, 0, 1_001, &(1u32 << 20).to_be_bytes());
        client.send(&more).await.unwrap();
        loop {
            let (kind, _, stream, payload) = client.next().await.expect("the connection ended");
            if (kind, stream) == (kit::WINDOW_UPDATE, 0) {
                granted += u32::from_be_bytes(payload[..4].try_into().unwrap()) as usize;
            } else if (kind, stream) == (kit::DATA, 1_001) {
                break;
            }
        }
        assert!(granted >= 20 * 192_000 + CONNECTION_WINDOW as usize, "{granted}");
        drop(client);
        let _ = task.await;
        sleep(Duration::from_millis(1)).await;
        assert_eq!(world.shared.waiting.used(), 0);
    });
}

#[test]
fn what_waits_is_bounded_over_all_connections() {
    run(async {
        let world = World::new();
        let mut clients = Vec::new();
        for _ in 0..8 {
            let (socket, task) = world.begin(Serves::Everything, BUFFER);
            clients.push((stuck(socket, 20).await, task));
        }
        let most = world.shared.waiting.most();
        for (client, _) in &mut clients {
            for at in 0..20 {
                pour(client, 2 * at + 1, 200_000).await; // 32 MB in all
                assert!(world.shared.waiting.used() <= most);
            }
        }
        assert!(world.shared.waiting.used() > most / 2);
        assert!(world.logic.closed.load(Ordering::Relaxed) > 0, "some streams had to end");
        assert!(clients.iter().all(|(_, task)| !task.is_finished()), "no connection did");
    });
}

#[test]
fn streams_without_room_are_refused_so_that_they_can_go_elsewhere() {
    run(async {
        let world = World::new();
        let (socket, _task) = world.begin(Serves::Everything, BUFFER);
        let mut client = Raw::hello(socket, 65_535).await;
        let most = (world.shared.waiting.most() / 2 / PER_STREAM) as u32;
        for at in 0..most + 3 {
            client.send(&kit::open(2 * at + 1)).await.unwrap();
        }
        let mut refused = 0;
        while refused < 3 {
            let (kind, _, _, payload) = client.next().await.unwrap();
            if kind == kit::PING {
                panic!("{refused} of 3 were refused");
            }
            if kind == kit::RST_STREAM {
                assert_eq!(payload, 7u32.to_be_bytes(), "REFUSED_STREAM");
                refused += 1;
            }
        }
        let (socket, _task) = world.begin(Serves::Everything, BUFFER);
        let mut other = kit::connect(socket, h2::client::Builder::new()).await.unwrap();
        Stream::answered(&mut other).await; // the other half is left for others
    });
}

#[test]
fn answers_that_wait_are_bounded_over_all_connections() {
    run(async {
        let world = World::new();
        let mut clients = Vec::new();
        for _ in 0..3 {
            let around = self::around(&world.shared, Serves::Everything);
            let (socket, task) = begin(Rc::clone(&around), BUFFER);
            let mut client = Raw::hello(socket, 1 << 30).await;
            let more = kit::frame(kit::WINDOW_UPDATE, 0, 0, &(1u32 << 30).to_be_bytes());
            client.send(&more).await.unwrap();
            for at in 0..20 {
                client.send(&[kit::open(2 * at + 1), kit::say(2 * at + 1, b"gush")].concat()).await.unwrap();
            }
            sleep(Duration::from_millis(1)).await;
            clients.push((client, task, around));
        }
        let (most, used) = (world.shared.queued.most(), world.shared.queued.used());
        assert!(used >= most, "three connections of 4 MiB are more");
        assert!(used < most + 3 * (QUEUED_SHARE + SEND_BUFFER), "{used}");
        let (client, _, around) = clients.last_mut().unwrap();
        let mut got = 0;
        while got < 4 << 20 {
            let (kind, _, _, payload) = client.next().await.unwrap();
            got += if kind == kit::DATA { payload.len() } else { 0 };
        }
        assert!(around.queue.bytes() < QUEUED_SHARE + SEND_BUFFER, "its share, which goes on");
    });
}

#[test]
fn messages_whose_answers_wait_for_a_window_are_counted() {
    run(async {
        let world = World::new();
        let (socket, task) = world.begin(Serves::Everything, BUFFER);
        let mut client = Raw::hello(socket, 0).await;
        const LENGTH: usize = 200_000; // echoed by the thread that serves
        for at in 0..100 {
            let stream = 2 * at + 1;
            let prefix = [&[0][..], &(LENGTH as u32).to_be_bytes()].concat();
            client.send(&[kit::open(stream), kit::data(stream, &prefix)].concat()).await.unwrap();
            pour(&mut client, stream, LENGTH - 8_000).await;
            client.send(&kit::data(stream, &[0; 8_000])).await.unwrap();
            sleep(Duration::from_millis(1)).await;
        }
        let (used, most) = (world.shared.waiting.used(), world.shared.waiting.most());
        assert!((30 * LENGTH..=most).contains(&used), "{used} of {most}");
        assert!(world.logic.closed.load(Ordering::Relaxed) >= 40, "a hundred are more than half of it");
        drop(client);
        let _ = task.await;
        sleep(Duration::from_millis(1)).await;
        assert_eq!(world.shared.waiting.used(), 0);
    });
}

#[test]
fn a_watch_of_health_takes_one_message() {
    run(async {
        let world = World::new();
        let (socket, _task) = world.begin(Serves::Health, BUFFER);
        let mut client = kit::connect(socket, h2::client::Builder::new()).await.unwrap();
        let mut stream = Stream::open(&mut client, kit::WATCH).await;
        stream.say(b"");
        assert!(stream.hear().await.is_some());
        stream.say(&[0; 1_000]);
        assert_eq!(stream.code().await.as_deref(), Some("13"));
    });
}

#[test]
fn nothing_lies_unread_while_the_last_words_wait_for_a_window() {
    run(async {
        let world = World::new();
        let (socket, _task) = world.begin(Serves::Everything, BUFFER);
        let mut builder = h2::client::Builder::new();
        builder.initial_window_size(0);
        let mut client = kit::connect(socket, builder).await.unwrap();
        let mut check = Stream::open(&mut client, kit::CHECK).await;
        check.say(b"");
        assert!(check.body().await.is_some(), "headers come");
        check.say(&[0; 1_000]);
        let began = Instant::now();
        assert_eq!(check.code().await.as_deref(), Some("13"));
        assert!(began.elapsed() < Duration::from_secs(10));

        let (socket, _task) = world.begin(Serves::Everything, BUFFER);
        let mut client = Raw::hello(socket, 0).await;
        client.send(&[kit::open(1), kit::say(1, b"wait")].concat()).await.unwrap();
        for _ in 0..3 {
            sleep(Duration::from_secs(41)).await; // until it is over; the refusal has no window
            client.send(&kit::frame(kit::WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1])).await.unwrap();
        }
        pour(&mut client, 1, 200_000).await;
        let waiting = world.shared.waiting.used();
        assert!(waiting >= 192_000, "{waiting}");
    });
}

#[test]
fn a_call_of_health_without_a_message_ends() {
    run(async {
        let world = World::new();
        for serves in [Serves::Health, Serves::Everything] {
            let (socket, _task) = world.begin(serves, BUFFER);
            let mut client = kit::connect(socket, h2::client::Builder::new()).await.unwrap();
            for path in [kit::CHECK, kit::WATCH] {
                let mut stream = Stream::open(&mut client, path).await;
                assert_eq!(stream.code().await.as_deref(), Some("4"));
            }
        }
    });
}

#[test]
fn who_calls_nothing_is_let_go_sooner_or_later() {
    run(async {
        let world = World::new();
        for (serves, least, most) in [(Serves::Health, 50, 90), (Serves::Everything, 3_500, 3_700)] {
            let (socket, task) = world.begin(serves, BUFFER);
            let mut client = kit::connect(socket, h2::client::Builder::new()).await.unwrap();
            let mut watch = Stream::open(&mut client, kit::WATCH).await;
            watch.say(b"");
            assert!(watch.hear().await.is_some());
            sleep(Duration::from_secs(7_200)).await;
            assert!(!task.is_finished(), "a stream is open");
            let began = Instant::now();
            watch.send.send_reset(h2::Reason::CANCEL);
            drop(watch);
            assert_eq!(task.await.unwrap(), Reason::Idle.into());
            assert!((least..most).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
        }
    });
}

#[test]
fn a_handshake_ends_when_no_connection_is_wanted_any_more() {
    run(async {
        let world = World::new();
        let (_socket, task) = world.begin(Serves::Everything, BUFFER);
        sleep(Duration::from_millis(1)).await;
        let began = Instant::now();
        world.phase.send_replace(Phase::Draining);
        assert_eq!(task.await.unwrap(), Reason::Stopped.into());
        assert!(began.elapsed() < Duration::from_millis(10));
    });
}

#[test]
fn streams_that_are_open_at_the_end_are_told() {
    run(async {
        let world = World::new();
        let (socket, task) = world.begin(Serves::Everything, BUFFER);
        let mut client = kit::connect(socket, h2::client::Builder::new()).await.unwrap();
        let mut stream = Stream::open(&mut client, METHOD).await;
        stream.say(b"hello");
        assert_eq!(stream.hear().await.as_deref(), Some(&b"hello"[..]));
        world.phase.send_replace(Phase::Draining);
        sleep(Duration::from_secs(20)).await;
        world.phase.send_replace(Phase::Stopped);
        assert_eq!(stream.code().await.as_deref(), Some("14"));
        drop((stream, client));
        assert_eq!(task.await.unwrap(), Reason::Stopped.into());
        assert_eq!(world.logic.closed.load(Ordering::Relaxed), 1);
    });
}

#[test]
fn who_does_not_listen_at_the_end_is_left() {
    run(async {
        let world = World::new();
        let (socket, task) = world.begin(Serves::Everything, BUFFER);
        let mut client = Raw::hello(socket, 100).await;
        client.send(&[kit::open(1), kit::say(1, b"flood")].concat()).await.unwrap();
        sleep(Duration::from_secs(1)).await;
        world.phase.send_replace(Phase::Stopped);
        assert!(timeout(2 * crate::limits::FAREWELL, task).await.is_ok());
    });
}

#[test]
fn a_handshake_has_ten_seconds() {
    run(async {
        let world = World::new();
        for said in [&b""[..], &PREFACE[..10], PREFACE] {
            let (mut socket, task) = world.begin(Serves::Everything, BUFFER);
            socket.write_all(said).await.unwrap();
            let began = Instant::now();
            assert_eq!(task.await.unwrap(), Reason::SlowHandshake.into(), "{} bytes", said.len());
            assert_eq!(began.elapsed().as_secs(), HANDSHAKE.as_secs());
        }
    });
}

#[test]
fn who_gives_the_place_up_hears_so_and_takes_no_time() {
    run(async {
        let world = World::new();
        for (buffer, takes, stage, reason) in [
            (BUFFER, 0, Stage::Unused, Reason::DisplacedUnused),
            (BUFFER, 0, Stage::Idle, Reason::DisplacedIdle),
            (200, LEAVE.as_millis(), Stage::Idle, Reason::DisplacedIdle), // nobody takes what is still to be said
        ] {
            let progress = Arc::new(Progress::new());
            let around = Around::new(Arc::clone(&world.shared), Serves::Everything, Arc::clone(&progress));
            let (socket, task) = begin(around, buffer);
            let mut client = Raw::hello(socket, 65_535).await;
            sleep(Duration::from_millis(1)).await;
            if stage == Stage::Idle {
                client.send(&[kit::open(1), kit::say(1, &[5; 60]), kit::say(1, b"close")].concat()).await.unwrap();
                sleep(Duration::from_millis(1)).await;
            }
            let began = Instant::now();
            assert!(progress.displace(stage));
            assert_eq!(task.await.unwrap(), reason.into());
            assert!(began.elapsed().as_millis().abs_diff(takes) <= 1, "{:?}", began.elapsed());
            let mut last = None;
            while let Some(frame) = client.next().await {
                last = Some(frame);
            }
            let (kind, _, _, payload) = last.unwrap();
            assert!(takes > 0 || (kind, &payload[4..8]) == (kit::GOAWAY, &[0; 4]), "NO_ERROR");
        }
    });
}

#[test]
fn who_gives_the_place_up_at_a_farewell_of_seconds_has_no_more_than_others() {
    run(async {
        let world = World::new();
        let progress = Arc::new(Progress::new());
        let around = Around::new(Arc::clone(&world.shared), Serves::Everything, Arc::clone(&progress));
        let (socket, task) = begin(around, 60);
        let (_read, mut write) = tokio::io::split(socket); // it takes nothing of what is said to it
        let flood = kit::frame(PRIORITY, 0, 1, &[0; 5]).repeat(3 * CHEAP_FRAMES as usize);
        let hello = [PREFACE, &kit::frame(kit::SETTINGS, 0, 0, &[])].concat();
        write.write_all(&hello).await.unwrap();
        sleep(Duration::from_millis(1)).await;
        drop(spawn_local(async move { write.write_all(&flood).await.map(|()| write) }));
        sleep(Duration::from_millis(1)).await;
        assert!(!task.is_finished(), "it is still to hear why");
        let began = Instant::now();
        assert!(progress.displace(Stage::Unused));
        assert_eq!(task.await.unwrap().reason, Reason::Flood);
        assert!(began.elapsed() <= LEAVE + Duration::from_millis(1), "{:?}", began.elapsed());
    });
}

#[test]
fn short_messages_whose_answers_are_not_taken_are_counted() {
    run(async {
        let world = World::new();
        let (socket, task) = world.begin(Serves::Everything, BUFFER);
        let mut client = Raw::hello(socket, 0).await;
        let call = |at: u32| [kit::open(2 * at + 1), kit::say(2 * at + 1, &[5; 15_000])].concat();
        for at in 0..20 {
            client.send(&call(at)).await.unwrap();
        }
        sleep(Duration::from_millis(1)).await;
        assert_eq!(world.shared.waiting.used(), 20 * (PER_STREAM + 15_000));

        for at in 20..1_000 {
            client.send(&call(at)).await.unwrap();
            assert!(world.shared.waiting.used() <= world.shared.waiting.most());
        }
        assert!(!task.is_finished());
        assert!(world.logic.closed.load(Ordering::Relaxed) > 0, "some ended, for there was no room");
        let more = kit::frame(kit::WINDOW_UPDATE, 0, 1, &(1u32 << 20).to_be_bytes());
        client.send(&more).await.unwrap();
        sleep(Duration::from_millis(1)).await;
        let before = world.shared.waiting.used();
        client.send(&kit::reset(3)).await.unwrap();
        sleep(Duration::from_millis(1)).await;
        assert_eq!(before - world.shared.waiting.used(), PER_STREAM + 15_000);
    });
}

#[test]
fn who_says_nothing_has_five_seconds_and_who_says_little_ten() {
    run(async {
        let world = World::new();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        for (said, limit, reason) in
            [(&b""[..], FIRST_BYTE, Reason::Silent), (&PREFACE[..1], HANDSHAKE, Reason::SlowHandshake)]
        {
            let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            client.write_all(said).await.unwrap();
            let (socket, _) = listener.accept().await.unwrap();
            let progress = Arc::new(Progress::new());
            let serving = connection::serve(Arc::clone(&world.shared), Serves::Everything, progress, socket, None);
            let began = Instant::now();
            assert_eq!(serving.await, reason.into());
            assert_eq!(began.elapsed().as_secs(), limit.as_secs());
        }
    });
}

#[test]
fn what_begins_otherwise_than_with_settings_is_no_handshake() {
    run(async {
        let world = World::new();
        for said in [b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(), [PREFACE, &kit::open(1)].concat()] {
            let (mut socket, task) = world.begin(Serves::Everything, BUFFER);
            socket.write_all(&said).await.unwrap();
            assert_eq!(task.await.unwrap(), Reason::BadHandshake.into());
        }
        let (socket, task) = world.begin(Serves::Everything, BUFFER);
        drop(socket);
        assert_eq!(task.await.unwrap(), Reason::BadHandshake.into());
    });
}

#[test]
fn nothing_is_read_while_nothing_can_be_written() {
    run(async {
        let (mut client, server) = duplex(1_000);
        let mut io = Buffered::new(server, Rc::default());
        io.write_all(&vec![0; WRITE_BUFFER]).await.unwrap();
        client.write_all(b"hello").await.unwrap();
        let mut got = [0; 5];
        let (blocked, unread) = poll_fn(|cx| {
            let blocked = io.poll_out(cx).is_pending();
            Poll::Ready((blocked, Pin::new(&mut io).poll_read(cx, &mut ReadBuf::new(&mut got)).is_pending()))
        })
        .await;
        assert!(blocked && unread);
        let reading = spawn_local(async move { client.read_exact(&mut vec![0; WRITE_BUFFER]).await.map(|_| client) });
        io.read_exact(&mut got).await.unwrap();
        assert_eq!(&got, b"hello");
        poll_fn(|cx| io.poll_out(cx)).await.unwrap();
        assert!(reading.await.unwrap().is_ok());
    });
}
