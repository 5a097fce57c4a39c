//! What a client may make this server hold or do. Each limit is far above what Envoy does in good order.

use std::time::Duration;

/// Bytes of one stream on their way to us, those included that came while its answers were not taken.
pub const STREAM_WINDOW: u32 = 256 << 10;

/// Bytes of all streams of a connection on their way to us, beside what `Config::max_waiting` counts.
pub const CONNECTION_WINDOW: u32 = 1 << 20;

/// Bytes of one frame. A connection may hold all of one but its end, and there are many; Envoy sends no longer ones
/// whatever is allowed.
pub const MAX_FRAME: u32 = 16 << 10;

/// Bytes of a request's headers, decoded. Envoy sends 300.
pub const MAX_HEADERS: u32 = 16 << 10;

/// Streams at once on a connection. Envoy opens another connection for more; its own limit is 1,024 by default.
pub const MAX_STREAMS: u32 = 10_000;

/// Connections at once, where there is memory for them. A gateway has one for each of its threads.
pub const MAX_CONNECTIONS: usize = 4_096;

/// Bytes that a connection takes at most, beside what is counted by itself: what waits for its socket, what was read at once
/// and HTTP/2 has not taken, its share of what waits there, part of a frame here and there.
pub const PER_CONNECTION: usize = WRITE_BUFFER + READ_BUFFER + QUEUED_SHARE + 2 * MAX_FRAME as usize;

/// Bytes that TLS has coded and the socket does not take: two records. More only waits here rather than before it.
pub const TLS_UNSENT: usize = 32 << 10;

/// Bytes that a connection with TLS takes beside `PER_CONNECTION`: what waits, and a record of which a part came.
pub const PER_TLS_SESSION: usize = TLS_UNSENT + (18 << 10);

/// Bytes that a stream takes by itself.
pub const PER_STREAM: usize = 8 << 10;

/// Connections at once to the port for health: a kubelet's, a monitor's. Who fills it takes nothing from Envoy.
pub const MAX_HEALTH_CONNECTIONS: usize = 256;

/// Streams at once on a connection that serves health.
pub const MAX_HEALTH_STREAMS: u32 = 100;

/// How long a request for health may take to come; it is a few bytes.
pub const HEALTH_REQUEST: Duration = Duration::from_secs(10);

/// Ticks without a stream after which a connection is closed: an hour, which is Envoy's own limit.
pub const IDLE_TICKS: u32 = 360;

/// Ticks without a stream after which a connection that serves health is closed. A kubelet opens one for each probe.
pub const HEALTH_IDLE_TICKS: u32 = 6;

/// The least that `Config::max_waiting` is, in messages of full length: a connection that is alone may have half.
pub const LEAST_WAITING: usize = 2;

/// Streams that the client reset before we looked at them: more than there can be (`BEGUN`). Beyond it h2 ends the
/// connection.
pub const MAX_PENDING_RESETS: usize = MAX_STREAMS as usize;

/// Streams that we ended first and remember, so that what was on its way is no error.
pub const REMEMBERED_RESETS: usize = 1_000;

/// How long they are remembered: many round trips.
pub const REMEMBER_RESETS: Duration = Duration::from_secs(5);

/// Overhead of small unread DATA frames on a connection: 256 bytes for each. Tokens come in such frames.
pub const FRAME_OVERHEAD: usize = 4 << 20;

/// Frames that cost a client nothing, at once and per second: PING, SETTINGS, PRIORITY, and RST_STREAM of a stream that is
/// not open. Envoy sends one for each request that a client abandons, all of them at once where a client goes, and one for
/// each stream that we end first, which is every request: those are not counted.
pub const CHEAP_FRAMES: u32 = 2_000;

/// See `CHEAP_FRAMES`.
pub const CHEAP_FRAMES_PER_SECOND: u32 = 1_000;

/// How long a connection may be open without a byte. A client speaks first, in TLS as in HTTP/2: a round trip, and the
/// few seconds in which a packet that was lost twice is sent again.
pub const FIRST_BYTE: Duration = Duration::from_secs(5);

/// How long TLS, HTTP/2's preface and SETTINGS may take in all, from the beginning of a connection. Envoy itself gives a
/// connection up after five seconds (`connect_timeout`) unless told otherwise.
pub const HANDSHAKE: Duration = Duration::from_secs(10);

/// When a connection that has not opened a stream has had its time, where all places are taken: a handshake is three
/// round trips, of which the longest on earth takes a third of a second.
pub const NEW_GIVES_WAY: Duration = Duration::from_secs(1);

/// The same of one that had streams and has none: a gateway without a request for so long opens another for the next.
pub const IDLE_GIVES_WAY: Duration = Duration::from_secs(60);

/// The same where nobody else makes room: one request a minute would else hold a place for ever.
pub const REST_GIVES_WAY: Duration = Duration::from_secs(5);

/// Connections that were told to leave and have not yet, beside those that are allowed: while there are more none is
/// taken, so that a flood waits in the kernel.
pub const MAX_LEAVING: usize = 64;

/// How long a new connection waits for the certificate's files before it gets what was read last.
pub const READ_CERTIFICATE: Duration = Duration::from_secs(1);

/// How often a connection is looked after.
pub const TICK: Duration = Duration::from_secs(10);

/// Ticks without a byte after which a PING asks whether somebody is there.
pub const SILENT_TICKS: u32 = 6;

/// Ticks without a byte after which nobody is.
pub const DEAD_TICKS: u32 = 8;

/// How long a peer may take no byte of what a stream sends. A client that pauses a download makes Envoy grant no window.
pub const WRITE_PATIENCE: Duration = Duration::from_secs(300);

/// Bytes per second, over `WRITE_PATIENCE`, that a peer has to take of what it is sent: held bodies wait for it.
pub const WRITE_RATE: usize = 16 << 10;

/// How long a connection that is over may take to hear so.
pub const FAREWELL: Duration = Duration::from_secs(2);

/// The same of one whose place somebody waits for.
pub const LEAVE: Duration = Duration::from_millis(100);

/// Bytes read for one connection before the others of its thread have their turn.
pub const TURN: usize = 64 << 10;

/// Streams begun for one connection before the others of its thread have their turn: a read has no more with bodies of 1 KB.
/// HTTP/2 sees nothing more of it while so many have come and not begun, whether the client has reset them or not: that is
/// all that opening and resetting streams can take, in time and in memory.
pub const BEGUN: usize = 64;

/// The same of a connection on which the client reset an open stream: hundreds of such fit in a read, and an answer to others
/// takes several turns. Each turn costs, so that who resets none is not made to take so many.
pub const BEGUN_AMID_RESETS: usize = 16;

/// Streams that begin after such a reset until it is forgotten: who resets most of them has always one that is not.
pub const RESET_REMEMBERED: usize = 64;

/// Bytes of one stream that wait in HTTP/2: what a socket takes at once, and a few frames.
pub const SEND_BUFFER: usize = 64 << 10;

/// Bytes of all streams of a connection that wait in HTTP/2, before streams have to wait.
pub const MAX_QUEUED: usize = 4 << 20;

/// The same of a connection while all of them have more than `Config::max_queued`.
pub const QUEUED_SHARE: usize = 32 << 10;

/// Bytes that a socket does not take before nothing more is read: answers to what is read would only add to them.
pub const UNSENT: usize = 32 << 10;

/// Bytes that wait to be written to a socket before streams have to wait.
pub const WRITE_BUFFER: usize = 64 << 10;

/// Bytes read from a socket at once.
pub const READ_BUFFER: usize = 64 << 10;

/// Bytes that the connections of a thread read before their streams have their turn.
pub const ROUND: usize = 4 << 20;

/// Work, in bytes to look at, beyond which a message is handed to a thread of its own: half a millisecond.
pub const INLINE_WORK: usize = 256 << 10;

/// Threads for such work, beside each that serves. One may be lost to certificate files that cannot be read.
pub const WORKERS: usize = 3;
