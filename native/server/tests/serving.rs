//! The server as clients meet it, good ones and others, over real sockets.

mod kit;

use std::future::{Future, poll_fn};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use h2::client::SendRequest;
use http::Request;
use rollouts_server::limits::{FIRST_BYTE, MAX_LEAVING, WORKERS};
use rollouts_server::{Config, Event, Handle, METHOD, Serves, resolve, serve};
use tokio::net::TcpStream;

use kit::{CHECK, Echo, LONG, Raw, Stream, WATCH};

const MAX_MESSAGE: usize = 1 << 20;
const TIMEOUT: Duration = Duration::from_secs(8);

struct World {
    handle: Handle,
    logic: Arc<Echo>,
    events: Arc<Mutex<Vec<Event>>>,
}

impl World {
    fn new() -> Self {
        Self::with(TIMEOUT)
    }

    fn with(request_timeout: Duration) -> Self {
        let logic = Arc::new(Echo::default());
        let events = Arc::new(Mutex::new(Vec::new()));
        let told = Arc::clone(&events);
        let config = Config {
            address: resolve("127.0.0.1:0").unwrap(),
            health_address: Some(resolve("127.0.0.1:0").unwrap()),
            tls: None,
            max_message: MAX_MESSAGE,
            max_waiting: 64 << 20,
            max_queued: 16 << 20,
            max_connections: 100,
            request_timeout,
            threads: 2,
            clock: 0.0,
            events: Arc::new(move |event| told.lock().unwrap().push(event)),
        };
        Self { handle: serve(Arc::clone(&logic), config).unwrap(), logic, events }
    }

    async fn client(&self) -> SendRequest<Bytes> {
        connect(self.handle.port, h2::client::Builder::new()).await.unwrap()
    }

    async fn is_well(&self) -> bool {
        let mut client = self.client().await;
        let mut stream = Stream::open(&mut client, METHOD).await;
        stream.say(b"hello");
        stream.hear().await.as_deref() == Some(b"hello")
    }
}

async fn connect(port: u16, builder: h2::client::Builder) -> Result<SendRequest<Bytes>, h2::Error> {
    kit::connect(TcpStream::connect(("127.0.0.1", port)).await.unwrap(), builder).await
}

/// Run a test; nothing here takes ten seconds.
fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(Duration::from_secs(10), test).await.expect("it hangs") });
}

#[test]
fn a_stream_goes_both_ways_until_it_is_closed() {
    run(async {
        let world = World::new();
        let mut client = world.client().await;
        let mut stream = Stream::open(&mut client, METHOD).await;
        for size in [0, 1, 20_000, MAX_MESSAGE] {
            let message = vec![5; size];
            stream.say(&message);
            assert_eq!(stream.hear().await, Some(message));
        }
        stream.say(b"close");
        assert_eq!(stream.hear().await.as_deref(), Some(&b"bye"[..]));
        assert_eq!(stream.code().await.as_deref(), Some("0"));
        assert_eq!(world.logic.closed.load(Ordering::Relaxed), 1);
    });
}

#[test]
fn who_half_closes_first_hears_the_last_word() {
    run(async {
        let world = World::new();
        let mut client = world.client().await;
        let mut stream = Stream::open(&mut client, METHOD).await;
        stream.finish();
        assert_eq!(stream.hear().await.as_deref(), Some(&b"half closed"[..]));
        assert_eq!(stream.code().await.as_deref(), Some("0"));
    });
}

#[test]
fn what_is_no_ext_proc_is_refused_by_the_right_status() {
    run(async {
        let world = World::new();
        let mut client = world.client().await;
        let mut stream = Stream::open(&mut client, "/other.Service/Method").await;
        assert_eq!(stream.code().await.as_deref(), Some("12"));
        let mut stream = Stream::open(&mut client, METHOD).await;
        stream.say(b"abort");
        assert_eq!(stream.status().await, Some(("3".to_owned(), "no place for this: 100 %25%0A".to_owned())));
        assert_eq!(
            *world.events.lock().unwrap(),
            [Event::StreamRefused { state: "WAITING", error: "no place for this: 100 %\n".to_owned() }]
        );
        let mut stream = Stream::open(&mut client, METHOD).await;
        let _ = stream.send.send_data(Bytes::from_static(&[0, 0, 0x20, 0, 0]), false);
        assert_eq!(stream.code().await.as_deref(), Some("8"), "a message of 2 MiB");
        let mut stream = Stream::open(&mut client, METHOD).await;
        stream.send.send_data(Bytes::from_static(&[0, 0, 0, 0, 9, 1]), true).unwrap();
        assert_eq!(stream.code().await.as_deref(), Some("13"), "torn");
        let mut stream = Stream::with_headers(&mut client, METHOD, &[("grpc-timeout", "50m".to_owned())]).await;
        stream.say(b"hello");
        assert_eq!(stream.code().await.as_deref(), Some("4"), "the client's own deadline");
        assert!(world.is_well().await);
    });
}

#[test]
fn a_panic_is_the_end_of_one_stream() {
    run(async {
        let world = World::new();
        let mut client = world.client().await;
        let mut other = Stream::answered(&mut client).await;
        let mut stream = Stream::open(&mut client, METHOD).await;
        stream.say(b"panic");
        assert_eq!(stream.code().await.as_deref(), Some("13"));
        assert_eq!(world.handle.figures().failures(), 1);
        other.say(b"hello");
        assert_eq!(other.hear().await.as_deref(), Some(&b"hello"[..]));
        let events = world.events.lock().unwrap();
        let [Event::StreamFailed { state: "WAITING", exception }] = &events[..] else { panic!("{events:?}") };
        assert!(exception.starts_with("as asked at ") && exception.contains("mod.rs:"), "{exception}");
    });
}

#[test]
fn a_panic_elsewhere_is_told_once_and_the_server_goes_on() {
    run(async {
        let world = World::new();
        world.logic.broken.store(2, Ordering::Relaxed);
        let mut client = world.client().await;
        let mut other = Stream::open(&mut client, CHECK).await;
        for _ in 0..2 {
            let mut stream = Stream::open(&mut client, METHOD).await;
            assert_eq!(stream.code().await, None, "reset");
        }
        other.say(b"");
        assert!(other.hear().await.is_some(), "the same connection");
        assert!(world.is_well().await);
        assert_eq!(world.handle.figures().failures(), 2);
        let events = world.events.lock().unwrap();
        let [Event::Panicked { thread, exception }, Event::Panicked { .. }] = &events[..] else { panic!("{events:?}") };
        assert!(thread.starts_with("picker-serve-") && exception.starts_with("planted at "), "{thread} {exception}");
    });
}

/// A server of `most` places whose log panics on the first line about them.
fn crowded(most: usize) -> (Handle, Arc<Mutex<Vec<Event>>>) {
    let events: Arc<Mutex<Vec<Event>>> = Arc::default();
    let told = Arc::clone(&events);
    let config = Config {
        address: resolve("127.0.0.1:0").unwrap(),
        health_address: Some(resolve("127.0.0.1:0").unwrap()),
        tls: None,
        max_message: MAX_MESSAGE,
        max_waiting: 64 << 20,
        max_queued: 16 << 20,
        max_connections: most,
        request_timeout: TIMEOUT,
        threads: 2,
        clock: 0.0,
        events: Arc::new(move |event| {
            let mut events = told.lock().unwrap();
            events.push(event);
            let first = events.len() == 1;
            drop(events);
            assert!(!first, "planted");
        }),
    };
    (serve(Arc::new(Echo::default()), config).unwrap(), events)
}

async fn silent(port: u16, count: usize) -> Vec<TcpStream> {
    let mut all = Vec::new();
    for _ in 0..count {
        all.push(TcpStream::connect(("127.0.0.1", port)).await.unwrap());
    }
    all
}

#[test]
fn a_thread_that_panics_goes_on() {
    run(async {
        let (handle, events) = crowded(2);
        let _silent = silent(handle.port, 5).await; // the log of which panics in the thread that accepts
        let mut client = connect(handle.port, h2::client::Builder::new()).await.unwrap();
        drop(Stream::answered(&mut client).await);
        let events = events.lock().unwrap();
        assert!(matches!(events[0], Event::ConnectionsFull { port: "grpc", limit: 2, displaced: 1, refused: 0 }));
        assert!(matches!(&events[1], Event::Panicked { thread, .. } if thread == "picker-accept"), "{events:?}");
        assert_eq!(handle.figures().failures(), 1);
    });
}

#[test]
fn who_says_nothing_keeps_nobody_out() {
    run(async {
        let world = World::new();
        let mut client = world.client().await;
        let mut busy = Stream::answered(&mut client).await;
        for port in [world.handle.port, world.handle.health_port] {
            let mut crowd = silent(port, 400).await;
            let mut unused = Vec::new();
            for _ in 0..150 {
                let socket = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
                unused.push(Raw::hello(socket, 65_535).await);
            }
            crowd.extend(silent(port, 150).await);
            let began = std::time::Instant::now();
            let mut kubelet = connect(port, h2::client::Builder::new()).await.unwrap();
            let mut stream = Stream::open(&mut kubelet, CHECK).await;
            stream.say(b"");
            assert!(stream.hear().await.is_some());
            assert!(began.elapsed() < FIRST_BYTE / 2, "{:?}", began.elapsed());
        }
        busy.say(b"hello");
        assert_eq!(busy.hear().await.as_deref(), Some(&b"hello"[..]), "who carries a stream keeps the place");
        let figures = world.handle.figures();
        let (open, limit) = figures.connections(Serves::Everything);
        assert!(open <= limit + MAX_LEAVING && limit == 100, "{open} of {limit}");
        let closed: std::collections::HashMap<_, _> = figures.closed(Serves::Everything).collect();
        assert!(closed["displaced_unfinished"] + closed["displaced_unused"] >= 500, "{closed:?}");
        assert_eq!((closed["full"], closed["displaced_idle"]), (0, 0));
    });
}

#[test]
fn who_comes_when_all_places_carry_streams_is_refused() {
    run(async {
        let world = World::new();
        let mut clients = Vec::new();
        for _ in 0..100 {
            let mut client = world.client().await;
            let stream = Stream::answered(&mut client).await;
            clients.push((client, stream));
        }
        let mut socket = TcpStream::connect(("127.0.0.1", world.handle.port)).await.unwrap();
        let mut end = Vec::new();
        let _ = tokio::io::AsyncReadExt::read_to_end(&mut socket, &mut end).await;
        let figures = world.handle.figures();
        assert_eq!(figures.closed(Serves::Everything).next(), Some(("full", 1)));
        assert_eq!((figures.streams(), figures.connections(Serves::Everything)), (100, (100, 100)));
        let full = Event::ConnectionsFull { port: "grpc", limit: 100, displaced: 0, refused: 1 };
        assert_eq!(*world.events.lock().unwrap(), [full]);
        for (_, stream) in &mut clients {
            stream.say(b"hello");
            assert!(stream.hear().await.is_some());
        }
    });
}

#[test]
fn long_work_keeps_no_other_stream_waiting() {
    run(async {
        let world = World::new();
        let mut client = world.client().await; // all on one thread
        let mut other = Stream::answered(&mut client).await;
        let mut long = Stream::open(&mut client, METHOD).await;
        let gate = Arc::clone(&world.logic.gate);
        let held = gate.lock().await;
        long.say(&vec![3; LONG]);
        for _ in 0..100 {
            other.say(b"hello");
            assert_eq!(other.hear().await.as_deref(), Some(&b"hello"[..]));
        }
        long.say(b"behind it");
        drop(held);
        assert_eq!(long.hear().await, Some(vec![3; LONG]));
        assert_eq!(long.hear().await.as_deref(), Some(&b"behind it"[..]), "in order");
    });
}

#[test]
fn a_stream_that_is_reset_in_the_midst_of_long_work_is_closed_after_it() {
    run(async {
        let world = World::new();
        let mut client = world.client().await;
        let gate = Arc::clone(&world.logic.gate);
        let held = gate.lock().await;
        let mut long = Stream::open(&mut client, METHOD).await;
        long.say(&vec![3; LONG]);
        let mut other = Stream::answered(&mut client).await;
        long.send.send_reset(h2::Reason::CANCEL);
        other.say(b"close");
        assert_eq!(other.code().await.as_deref(), Some("0"));
        drop(held);
        while world.logic.closed.load(Ordering::Relaxed) < 2 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert!(world.is_well().await);
    });
}

#[test]
fn long_work_that_has_not_begun_is_let_go_of_with_its_stream() {
    run(async {
        let world = World::new();
        let mut client = world.client().await; // all on one thread
        let gate = Arc::clone(&world.logic.gate);
        let held = gate.lock().await;
        let mut all = Vec::new();
        for _ in 0..2 * WORKERS {
            let mut long = Stream::open(&mut client, METHOD).await;
            long.say(&vec![3; LONG]);
            all.push(long);
        }
        let mut other = Stream::answered(&mut client).await;
        all.iter_mut().for_each(|long| long.send.send_reset(h2::Reason::CANCEL));
        while world.logic.closed.load(Ordering::Relaxed) < WORKERS {
            other.say(b"hello");
            assert!(other.hear().await.is_some());
        }
        drop(held);
        while world.logic.closed.load(Ordering::Relaxed) < 2 * WORKERS {
            other.say(b"hello");
            assert!(other.hear().await.is_some());
        }
    });
}

#[test]
fn who_compresses_is_told_what_is_not_read() {
    run(async {
        let world = World::new();
        let mut client = world.client().await;
        for (encoding, code, told) in [
            (Some("gzip"), "12", "compressed with gzip (grpc-encoding) are not read"),
            (Some("identity"), "13", "grpc-encoding does not say how"),
            (None, "13", "grpc-encoding does not say how"),
        ] {
            let more: Vec<_> = encoding.map(|name| ("grpc-encoding", name.to_owned())).into_iter().collect();
            let mut stream = Stream::with_headers(&mut client, METHOD, &more).await;
            stream.send.send_data(Bytes::from_static(&[1, 0, 0, 0, 1, 0]), false).unwrap();
            let (found, text) = stream.status().await.unwrap();
            assert_eq!(found, code);
            assert!(text.contains(told), "{text}");
            assert_eq!(stream.head.contains_key("grpc-accept-encoding"), code == "12");
        }
        let mut stream = Stream::open(&mut client, METHOD).await;
        stream.send.send_data(Bytes::from_static(b"\x02\0\0\0\x01\0"), false).unwrap();
        let (code, text) = stream.status().await.unwrap();
        assert!(code == "13" && text.contains("begins with 2"), "{code} {text}");
        let mut stream = Stream::open(&mut client, METHOD).await;
        stream.send.send_data(Bytes::from_static(&[1, 0, 0x20, 0, 0]), false).unwrap();
        let (code, text) = stream.status().await.unwrap();
        assert!(code == "8" && text.contains("at most 1048576"), "{code} {text}");
    });
}

#[test]
fn failures_are_known_after_the_end() {
    run(async {
        let world = World::new();
        let mut client = world.client().await;
        let mut stream = Stream::open(&mut client, METHOD).await;
        stream.say(b"panic");
        assert_eq!(stream.code().await.as_deref(), Some("13"));
        let figures = world.handle.figures().clone();
        tokio::task::spawn_blocking(move || drop(world)).await.unwrap();
        assert_eq!(figures.failures(), 1);
    });
}

#[test]
fn a_request_has_its_time_and_a_response_has_more() {
    run(async {
        let world = World::with(Duration::from_millis(80));
        let mut client = world.client().await;
        let mut answered = Stream::answered(&mut client).await;
        let mut stream = Stream::open(&mut client, METHOD).await;
        stream.say(b"wait");
        assert_eq!(stream.hear().await.as_deref(), Some(&b"expired"[..]));
        assert_eq!(stream.code().await.as_deref(), Some("0"));
        assert_eq!(*world.events.lock().unwrap(), [Event::RequestTimedOut { state: "WAITING", seconds: 0.08 }]);
        answered.say(b"still here");
        assert_eq!(answered.hear().await.as_deref(), Some(&b"still here"[..]));
    });
}

#[test]
fn health_says_what_the_logic_says() {
    run(async {
        let mut world = World::new();
        let ready = |yes: bool| {
            world.logic.ready.store(yes, Ordering::Relaxed);
            world.handle.announce();
        };
        for port in [world.handle.port, world.handle.health_port] {
            let mut client = connect(port, h2::client::Builder::new()).await.unwrap();
            ready(false);
            for (request, answer) in [(&b""[..], 2), (b"\x0a\x08liveness", 1), (b"\x0a\x09readiness", 2)] {
                let mut stream = Stream::open(&mut client, CHECK).await;
                stream.say(request);
                assert_eq!(stream.hear().await, Some(vec![8, answer]));
            }
            let mut stream = Stream::open(&mut client, CHECK).await;
            stream.say(b"\x0a\x04none");
            assert_eq!(stream.code().await.as_deref(), Some("5"));
            let mut watch = Stream::open(&mut client, WATCH).await;
            watch.say(b"");
            assert_eq!(watch.hear().await, Some(vec![8, 2]));
            ready(true);
            assert_eq!(watch.hear().await, Some(vec![8, 1]));
        }
        let mut kubelet = connect(world.handle.health_port, h2::client::Builder::new()).await.unwrap();
        let mut stream = Stream::open(&mut kubelet, METHOD).await;
        assert_eq!(stream.code().await.as_deref(), Some("12"), "health and nothing else");
        let mut watch = Stream::open(&mut kubelet, WATCH).await;
        watch.say(b"");
        assert_eq!(watch.hear().await, Some(vec![8, 1]));
        let drained = std::thread::spawn(move || {
            world.handle.drain(Duration::from_secs(5));
        });
        assert_eq!(watch.hear().await, Some(vec![8, 2]), "NOT_SERVING while it drains");
        drained.join().unwrap();
    });
}

#[test]
fn a_drain_lets_streams_end_and_begins_none() {
    run(async {
        let mut world = World::new();
        let port = world.handle.port;
        let mut client = world.client().await;
        let mut stream = Stream::answered(&mut client).await;
        let closed = Arc::clone(&world.logic.closed);
        let drained = std::thread::spawn(move || {
            world.handle.drain(Duration::from_secs(5));
        });
        while TcpStream::connect(("127.0.0.1", port)).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        stream.say(b"close");
        assert_eq!(stream.hear().await.as_deref(), Some(&b"bye"[..]));
        assert_eq!(stream.code().await.as_deref(), Some("0"));
        drop((stream, client));
        tokio::task::spawn_blocking(move || drained.join().unwrap()).await.unwrap();
        assert_eq!(closed.load(Ordering::Relaxed), 1);
    });
}

#[test]
fn a_drain_ends_what_does_not_end() {
    run(async {
        let mut world = World::new();
        let mut client = world.client().await;
        let mut stream = Stream::answered(&mut client).await;
        let closed = Arc::clone(&world.logic.closed);
        tokio::task::spawn_blocking(move || world.handle.drain(Duration::from_millis(50))).await.unwrap();
        assert_eq!(closed.load(Ordering::Relaxed), 1, "the logic hears of it");
        assert_eq!(stream.code().await.as_deref(), Some("14"));
    });
}

#[test]
fn a_drain_does_not_wait_for_who_says_nothing() {
    run(async {
        let mut world = World::new();
        let _silent = TcpStream::connect(("127.0.0.1", world.handle.port)).await.unwrap();
        while world.handle.figures().connections(Serves::Everything).0 == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let began = std::time::Instant::now();
        tokio::task::spawn_blocking(move || world.handle.drain(Duration::from_secs(9))).await.unwrap();
        assert!(began.elapsed() < Duration::from_secs(5));
    });
}

fn listening(address: &str) -> std::io::Result<Handle> {
    let config = Config {
        address: resolve(address)?,
        health_address: Some(resolve(address)?),
        tls: None,
        max_message: MAX_MESSAGE,
        max_waiting: 64 << 20,
        max_queued: 16 << 20,
        max_connections: 100,
        request_timeout: TIMEOUT,
        threads: 1,
        clock: 0.0,
        events: Arc::new(|_| {}),
    };
    serve(Arc::new(Echo::default()), config)
}

#[test]
fn wildcards_and_names_stand_for_all_their_addresses() {
    run(async {
        let here = ["127.0.0.1", "::1"].map(|host| std::net::TcpListener::bind((host, 0)).is_ok().then_some(host));
        for address in ["0.0.0.0:0", "[::]:0"] {
            let handle = listening(address).unwrap();
            for host in here.iter().flatten() {
                for port in [handle.port, handle.health_port] {
                    let socket = TcpStream::connect((*host, port)).await.unwrap();
                    assert!(kit::connect(socket, h2::client::Builder::new()).await.is_ok(), "{host} of {address}");
                }
            }
        }
        let handle = listening("localhost:0").unwrap();
        for address in resolve(&format!("localhost:{}", handle.port)).unwrap() {
            if here.contains(&Some(&*address.ip().to_string())) {
                assert!(TcpStream::connect(address).await.is_ok(), "{address}");
            }
        }
        assert!(listening(&format!("0.0.0.0:{}", handle.port)).is_err(), "taken");
    });
}

#[test]
fn a_client_that_resets_what_it_opens_harms_nobody() {
    run(async {
        let world = World::new();
        let mut other = world.client().await;
        let mut stream = Stream::open(&mut other, METHOD).await;
        let mut client = world.client().await;
        for at in 0..20_000 {
            poll_fn(|cx| client.poll_ready(cx)).await.unwrap();
            let request = Request::post(format!("http://test{METHOD}")).header("content-type", "application/grpc");
            let (_, mut send) = client.send_request(request.body(()).unwrap(), false).unwrap();
            send.send_reset(h2::Reason::CANCEL);
            if at % 50 == 0 {
                tokio::task::yield_now().await;
            }
        }
        stream.say(b"hello");
        assert_eq!(stream.hear().await.as_deref(), Some(&b"hello"[..]));
        assert!(world.is_well().await);
        Stream::answered(&mut client).await;
    });
}

#[test]
fn a_bomb_of_headers_harms_nobody() {
    run(async {
        let world = World::new();
        let mut client = world.client().await;
        let bomb = [("x-bomb", "x".repeat(60_000))];
        let mut stream = Stream::with_headers(&mut client, METHOD, &bomb).await;
        stream.say(b"hello");
        assert_ne!(stream.hear().await.as_deref(), Some(&b"hello"[..]));
        assert_eq!(world.logic.closed.load(Ordering::Relaxed), 0, "the logic never saw it");
        assert!(world.is_well().await);
    });
}

#[test]
fn many_clients_that_leave_at_once_are_no_attack() {
    run(async {
        let world = World::new();
        let socket = TcpStream::connect(("127.0.0.1", world.handle.port)).await.unwrap();
        let mut envoy = Raw::hello(socket, 65_535).await;
        let burst: Vec<u8> = (0..500).flat_map(|at| [kit::open(2 * at + 1), kit::reset(2 * at + 1)].concat()).collect();
        envoy.send(&burst).await.unwrap();
        envoy.send(&[kit::open(2_001), kit::say(2_001, b"close")].concat()).await.unwrap();
        assert!(envoy.ended(2_001).await);
    });
}

#[test]
fn thousands_of_requests_that_are_abandoned_at_once_end_no_other_stream() {
    run(async {
        let world = World::new();
        let socket = TcpStream::connect(("127.0.0.1", world.handle.port)).await.unwrap();
        let mut envoy = Raw::hello(socket, 65_535).await;
        // Half of them are answered; the others wait for the rest of a body.
        for (said, first) in [(&b"hello"[..], 3), (b"wait", 3_003)] {
            let streams: Vec<u32> = (0..1_500).map(|at| 2 * at + first).collect();
            let calls: Vec<u8> = streams.iter().flat_map(|at| [kit::open(*at), kit::say(*at, said)].concat()).collect();
            envoy.send(&calls).await.unwrap();
        }
        envoy.send(&[kit::open(6_003), kit::say(6_003, b"hello")].concat()).await.unwrap();
        while envoy.next().await.is_some_and(|(kind, _, stream, _)| (kind, stream) != (kit::DATA, 6_003)) {}
        let resets: Vec<u8> = (0..3_000).flat_map(|at| kit::reset(2 * at + 3)).collect();
        envoy.send(&resets).await.unwrap();
        envoy.send(&kit::say(6_003, b"close")).await.unwrap();
        assert!(envoy.ended(6_003).await, "the connection of everybody was closed");
    });
}

#[test]
fn a_taken_address_is_an_error() {
    let world = World::new();
    assert!(listening(&format!("127.0.0.1:{}", world.handle.port)).is_err());
}
