//! A logic to serve, and clients: a good one, and one that says any frame.
#![allow(dead_code)] // not every test needs all

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use bytes::{BufMut, Bytes, BytesMut};
use h2::client::SendRequest;
use h2::{RecvStream, SendStream};
use http::{HeaderMap, Request};
use rollouts_core::encoding::Encoded;
use rollouts_server::{Flow, Logic, METHOD, StreamLogic};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::Mutex;

pub const CHECK: &str = "/grpc.health.v1.Health/Check";
pub const WATCH: &str = "/grpc.health.v1.Health/Watch";

/// Echoes; knows a few commands.
#[derive(Default)]
pub struct Echo {
    pub ready: AtomicBool,
    /// How many streams panic when they are opened.
    pub broken: AtomicUsize,
    pub closed: Arc<AtomicUsize>,
    /// Long messages need it: whoever holds it keeps them.
    pub gate: Arc<Mutex<()>>,
}

pub struct EchoStream {
    waiting: bool,
    pub closed: Arc<AtomicUsize>,
    gate: Arc<Mutex<()>>,
}

/// Bytes of a message that is not echoed by the thread that serves.
pub const LONG: usize = 300_000;

impl Logic for Echo {
    type Stream = EchoStream;

    fn open(&self, _: f64) -> EchoStream {
        let broken = self.broken.load(Ordering::Relaxed);
        assert!(broken == 0 || self.broken.fetch_sub(1, Ordering::Relaxed) == 0, "planted");
        EchoStream { waiting: true, closed: Arc::clone(&self.closed), gate: Arc::clone(&self.gate) }
    }

    fn ready(&self) -> bool {
        self.ready.load(Ordering::Relaxed)
    }
}

pub fn reply(bytes: &[u8]) -> Encoded {
    Encoded { head: bytes.to_vec(), ..Encoded::default() }
}

impl StreamLogic for EchoStream {
    fn receive(&mut self, message: Bytes, _: f64, out: &mut Vec<Encoded>) -> Flow {
        let _gate = (message.len() >= LONG).then(|| self.gate.blocking_lock());
        match &message[..] {
            b"panic" => panic!("as asked"),
            b"abort" => return Flow::Abort("no place for this: 100 %\n".to_owned()),
            b"wait" => return Flow::Open,
            b"close" => {
                out.push(reply(b"bye"));
                return Flow::Close;
            }
            b"gush" => out.extend((0..8).map(|_| reply(&[7; 60_000]))),
            b"flood" => out.extend((0..64).map(|_| reply(&[7; 60_000]))),
            _ => out.push(reply(&message)),
        }
        self.waiting = false;
        Flow::Open
    }

    fn state(&self) -> &'static str {
        if self.waiting { "WAITING" } else { "ANSWERED" }
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

/// A good client on `socket`.
pub async fn connect<S>(socket: S, builder: h2::client::Builder) -> Result<SendRequest<Bytes>, h2::Error>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (client, connection) = builder.handshake(socket).await?;
    tokio::spawn(async move { drop(connection.await) });
    client.ready().await
}

/// The client's side of one stream.
pub struct Stream {
    pub send: SendStream<Bytes>,
    pub response: Option<h2::client::ResponseFuture>,
    pub body: Option<RecvStream>,
    pub head: HeaderMap,
    held: BytesMut,
}

impl Stream {
    pub async fn open(client: &mut SendRequest<Bytes>, path: &str) -> Self {
        Self::with_headers(client, path, &[]).await
    }

    /// One whose request is complete, so that no limit on its time holds.
    pub async fn answered(client: &mut SendRequest<Bytes>) -> Self {
        let mut stream = Self::open(client, METHOD).await;
        stream.say(b"hello");
        assert_eq!(stream.hear().await.as_deref(), Some(&b"hello"[..]));
        stream
    }

    pub async fn with_headers(client: &mut SendRequest<Bytes>, path: &str, more: &[(&'static str, String)]) -> Self {
        let uri = format!("http://test{path}");
        let mut request = Request::post(uri).header("content-type", "application/grpc");
        for (name, value) in more {
            request = request.header(*name, value);
        }
        poll_fn(|cx| client.poll_ready(cx)).await.unwrap();
        let (response, send) = client.send_request(request.body(()).unwrap(), false).unwrap();
        Self { send, response: Some(response), body: None, head: HeaderMap::new(), held: BytesMut::new() }
    }

    pub fn say(&mut self, message: &[u8]) {
        let mut frame = BytesMut::new();
        frame.put_u8(0);
        frame.put_u32(message.len() as u32);
        frame.extend_from_slice(message);
        self.send.send_data(frame.freeze(), false).unwrap();
    }

    pub fn finish(&mut self) {
        self.send.send_data(Bytes::new(), true).unwrap();
    }

    pub async fn body(&mut self) -> Option<&mut RecvStream> {
        if let Some(response) = self.response.take() {
            let (head, body) = response.await.ok()?.into_parts();
            self.head = head.headers;
            self.body = Some(body);
        }
        self.body.as_mut()
    }

    /// The next message, or nothing at the end.
    pub async fn hear(&mut self) -> Option<Vec<u8>> {
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
    pub async fn status(&mut self) -> Option<(String, String)> {
        while self.hear().await.is_some() {}
        let trailers = self.body().await?.trailers().await.ok()?;
        let headers = trailers.unwrap_or_else(|| self.head.clone());
        let text = |name: &str| headers.get(name).map_or(String::new(), |value| value.to_str().unwrap().to_owned());
        Some((text("grpc-status"), text("grpc-message")))
    }

    pub async fn code(&mut self) -> Option<String> {
        self.status().await.map(|(code, _)| code)
    }
}

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;

pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    let mut out = vec![length[1], length[2], length[3], kind, flags];
    out.extend_from_slice(&stream.to_be_bytes());
    out.extend_from_slice(payload);
    out
}

/// HEADERS of a call of the picker.
pub fn open(stream: u32) -> Vec<u8> {
    let mut block = vec![0x83, 0x86, 0x01, 4]; // POST, http, :authority
    block.extend_from_slice(b"test");
    block.extend_from_slice(&[0x04, METHOD.len() as u8]);
    block.extend_from_slice(METHOD.as_bytes());
    block.extend_from_slice(&[0x0F, 16, 16]);
    block.extend_from_slice(b"application/grpc");
    frame(HEADERS, END_HEADERS, stream, &block)
}

/// DATA with one message.
pub fn say(stream: u32, message: &[u8]) -> Vec<u8> {
    let length = (message.len() as u32).to_be_bytes();
    frame(DATA, 0, stream, &[&[0][..], &length, message].concat())
}

/// A part of a message, or of several.
pub fn data(stream: u32, bytes: &[u8]) -> Vec<u8> {
    frame(DATA, 0, stream, bytes)
}

pub fn reset(stream: u32) -> Vec<u8> {
    frame(RST_STREAM, 0, stream, &8u32.to_be_bytes())
}

/// A client that says any frame.
pub struct Raw<S> {
    pub socket: S,
    held: BytesMut,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Raw<S> {
    /// `window`: the first window of each stream.
    pub async fn hello(mut socket: S, window: u32) -> Self {
        let mut out = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        out.extend(frame(SETTINGS, 0, 0, &[&[0, 4][..], &window.to_be_bytes()].concat()));
        out.extend(frame(SETTINGS, ACK, 0, &[]));
        socket.write_all(&out).await.unwrap();
        Self { socket, held: BytesMut::new() }
    }

    pub async fn send(&mut self, frames: &[u8]) -> std::io::Result<()> {
        self.socket.write_all(frames).await
    }

    /// Kind, flags, stream and payload of the next frame, or nothing at the end.
    pub async fn next(&mut self) -> Option<(u8, u8, u32, Vec<u8>)> {
        loop {
            if let [a, b, c, kind, flags, s, t, u, v, rest @ ..] = &self.held[..] {
                let (kind, flags) = (*kind, *flags);
                let length = u32::from_be_bytes([0, *a, *b, *c]) as usize;
                let stream = u32::from_be_bytes([*s, *t, *u, *v]);
                if rest.len() >= length {
                    let payload = self.held.split_to(9 + length)[9..].to_vec();
                    return Some((kind, flags, stream, payload));
                }
            }
            if self.socket.read_buf(&mut self.held).await.ok()? == 0 {
                return None;
            }
        }
    }

    /// Wait until the server has ended `stream`.
    pub async fn ended(&mut self, stream: u32) -> bool {
        while let Some((kind, flags, at, _)) = self.next().await {
            if at == stream && kind == HEADERS && flags & END_STREAM > 0 {
                return true;
            }
        }
        false
    }
}
