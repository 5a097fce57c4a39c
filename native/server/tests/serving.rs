//! The server as clients meet it, good ones and others, over real sockets.

use std::future::{Future, poll_fn};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use h2::client::SendRequest;
use h2::{RecvStream, SendStream};
use http::{HeaderMap, Request};
use rollouts_core::encoding::Encoded;
use rollouts_server::{Config, Event, Flow, Handle, Logic, METHOD, StreamLogic, resolve, serve};
use tokio::net::TcpStream;

const CHECK: &str = "/grpc.health.v1.Health/Check";
const WATCH: &str = "/grpc.health.v1.Health/Watch";
const MAX_MESSAGE: usize = 1 << 20;
const TIMEOUT: Duration = Duration::from_millis(400);

/// Echoes; knows a few commands.
#[derive(Default)]
struct Echo {
    ready: AtomicBool,
    closed: Arc<AtomicUsize>,
}

struct EchoStream {
    waiting: bool,
    closed: Arc<AtomicUsize>,
}

impl Logic for Echo {
    type Stream = EchoStream;

    fn open(&self, _: f64) -> EchoStream {
        EchoStream { waiting: true, closed: Arc::clone(&self.closed) }
    }

    fn ready(&self) -> bool {
        self.ready.load(Ordering::Relaxed)
    }
}

fn reply(bytes: &[u8]) -> Encoded {
    Encoded { head: bytes.to_vec(), ..Encoded::default() }
}

impl StreamLogic for EchoStream {
    fn receive(&mut self, message: Bytes, _: f64, out: &mut Vec<Encoded>) -> Flow {
        match &message[..] {
            b"panic" => panic!("as asked"),
            b"abort" => return Flow::Abort("no place for this: 100 %\n".to_owned()),
            b"wait" => return Flow::Open,
            b"close" => {
                out.push(reply(b"bye"));
                return Flow::Close;
            }
            b"flood" => out.extend((0..64).map(|_| reply(&[7; 60_000]))),
            _ => out.push(reply(&message)),
        }
        self.waiting = false;
        Flow::Open
    }

    fn waiting(&self) -> bool {
        self.waiting
    }

    fn expects_response(&self) -> bool {
        false
    }

    fn expire(&mut self, _: f64, out: &mut Vec<Encoded>) {
        out.push(reply(b"expired"));
    }

    fn half_closed(&mut self, _: f64, out: &mut Vec<Encoded>) {
        out.push(reply(b"half closed"));
    }

    fn closed(&mut self, _: f64) {
        self.closed.fetch_add(1, Ordering::Relaxed);
    }
}

struct World {
    handle: Handle,
    logic: Arc<Echo>,
    events: Arc<Mutex<Vec<Event>>>,
}

impl World {
    fn new() -> Self {
        let logic = Arc::new(Echo::default());
        let events = Arc::new(Mutex::new(Vec::new()));
        let told = Arc::clone(&events);
        let config = Config {
            address: resolve("127.0.0.1:0").unwrap(),
            health_address: Some(resolve("127.0.0.1:0").unwrap()),
            tls: None,
            max_message: MAX_MESSAGE,
            request_timeout: TIMEOUT,
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
    let socket = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let (client, connection) = builder.handshake(socket).await?;
    tokio::spawn(async move { drop(connection.await) });
    client.ready().await
}

/// The client's side of one stream.
struct Stream {
    send: SendStream<Bytes>,
    response: Option<h2::client::ResponseFuture>,
    body: Option<RecvStream>,
    head: HeaderMap,
    held: BytesMut,
}

impl Stream {
    async fn open(client: &mut SendRequest<Bytes>, path: &str) -> Self {
        Self::with_headers(client, path, &[]).await
    }

    /// One whose request is complete, so that no limit on its time holds.
    async fn answered(client: &mut SendRequest<Bytes>) -> Self {
        let mut stream = Self::open(client, METHOD).await;
        stream.say(b"hello");
        assert_eq!(stream.hear().await.as_deref(), Some(&b"hello"[..]));
        stream
    }

    async fn with_headers(client: &mut SendRequest<Bytes>, path: &str, more: &[(&'static str, String)]) -> Self {
        let uri = format!("http://test{path}");
        let mut request = Request::post(uri).header("content-type", "application/grpc");
        for (name, value) in more {
            request = request.header(*name, value);
        }
        poll_fn(|cx| client.poll_ready(cx)).await.unwrap();
        let (response, send) = client.send_request(request.body(()).unwrap(), false).unwrap();
        Self { send, response: Some(response), body: None, head: HeaderMap::new(), held: BytesMut::new() }
    }

    fn say(&mut self, message: &[u8]) {
        let mut frame = BytesMut::new();
        frame.put_u8(0);
        frame.put_u32(message.len() as u32);
        frame.extend_from_slice(message);
        self.send.send_data(frame.freeze(), false).unwrap();
    }

    fn finish(&mut self) {
        self.send.send_data(Bytes::new(), true).unwrap();
    }

    async fn body(&mut self) -> Option<&mut RecvStream> {
        if let Some(response) = self.response.take() {
            let (head, body) = response.await.ok()?.into_parts();
            self.head = head.headers;
            self.body = Some(body);
        }
        self.body.as_mut()
    }

    /// The next message, or nothing at the end.
    async fn hear(&mut self) -> Option<Vec<u8>> {
        loop {
            if self.held.len() >= 5 {
                let length = u32::from_be_bytes(self.held[1..5].try_into().unwrap()) as usize;
                if self.held.len() >= 5 + length {
                    return Some(self.held.split_to(5 + length)[5..].to_vec());
                }
            }
            let data = self.body().await?.data().await?.ok()?;
            self.body().await?.flow_control().release_capacity(data.len()).unwrap();
            self.held.extend_from_slice(&data);
        }
    }

    /// The status and its text once all is said; nothing for a stream that was reset.
    async fn status(&mut self) -> Option<(String, String)> {
        while self.hear().await.is_some() {}
        let trailers = self.body().await?.trailers().await.ok()?;
        let headers = trailers.unwrap_or_else(|| self.head.clone());
        let text = |name: &str| headers.get(name).map_or(String::new(), |value| value.to_str().unwrap().to_owned());
        Some((text("grpc-status"), text("grpc-message")))
    }

    async fn code(&mut self) -> Option<String> {
        self.status().await.map(|(code, _)| code)
    }
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
        assert_eq!(*world.events.lock().unwrap(), [Event::StreamRefused("no place for this: 100 %\n".to_owned())]);
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
        assert_eq!(world.handle.failures(), 1);
        other.say(b"hello");
        assert_eq!(other.hear().await.as_deref(), Some(&b"hello"[..]));
    });
}

#[test]
fn a_request_has_its_time_and_a_response_has_more() {
    run(async {
        let world = World::new();
        let mut client = world.client().await;
        let mut answered = Stream::answered(&mut client).await;
        let mut stream = Stream::open(&mut client, METHOD).await;
        stream.say(b"wait");
        assert_eq!(stream.hear().await.as_deref(), Some(&b"expired"[..]));
        assert_eq!(stream.code().await.as_deref(), Some("0"));
        assert_eq!(*world.events.lock().unwrap(), [Event::RequestTimedOut]);
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
        let mut gateway = world.client().await;
        let _open = Stream::answered(&mut gateway).await; // or there would be nothing to wait for
        let drained = std::thread::spawn(move || {
            world.handle.drain(Duration::from_millis(200));
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
        assert_eq!(stream.code().await, None);
    });
}

#[test]
fn a_client_that_resets_what_it_opens_is_sent_away_and_others_are_served() {
    run(async {
        let world = World::new();
        let mut other = world.client().await;
        let mut stream = Stream::answered(&mut other).await;
        let mut client = world.client().await;
        let mut opened = 0;
        for _ in 0..20_000 {
            if poll_fn(|cx| client.poll_ready(cx)).await.is_err() {
                break;
            }
            let request = Request::post(format!("http://test{METHOD}")).header("content-type", "application/grpc");
            let Ok((_, mut send)) = client.send_request(request.body(()).unwrap(), false) else { break };
            send.send_reset(h2::Reason::CANCEL);
            opened += 1;
            if opened % 50 == 0 {
                tokio::task::yield_now().await;
            }
        }
        assert!(opened < 20_000, "never sent away");
        stream.say(b"hello");
        assert_eq!(stream.hear().await.as_deref(), Some(&b"hello"[..]));
        assert!(world.is_well().await);
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
fn who_does_not_read_is_waited_for_and_then_reset() {
    run(async {
        let world = World::new();
        let mut builder = h2::client::Builder::new();
        builder.initial_window_size(1_000);
        let mut client = connect(world.handle.port, builder).await.unwrap();
        let mut slow = Stream::open(&mut client, METHOD).await;
        slow.say(b"flood");
        assert!(slow.body().await.is_some(), "headers come");
        let mut other = Stream::open(&mut client, METHOD).await;
        other.say(b"hello");
        assert_eq!(other.hear().await.as_deref(), Some(&b"hello"[..]), "the same connection goes on");
        while world.logic.closed.load(Ordering::Relaxed) == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(slow.code().await, None, "reset");
    });
}

#[test]
fn a_taken_address_is_an_error() {
    let world = World::new();
    let config = Config {
        address: resolve(&format!("127.0.0.1:{}", world.handle.port)).unwrap(),
        health_address: None,
        tls: None,
        max_message: MAX_MESSAGE,
        request_timeout: TIMEOUT,
        threads: 1,
        clock: 0.0,
        events: Arc::new(|_| {}),
    };
    assert!(serve(Arc::new(Echo::default()), config).is_err());
}
