//! Undoes the content codings of a request body (RFC 9110, section 8.4) as it comes, within bounds.
//!
//! gzip and deflate, zstd (RFC 8878) and br (RFC 7932); several of them may be nested. A body may unfold to
//! [`MAX_RATIO`] times its size and not beyond the limit that holds for bodies without a coding: what lies in between on
//! the way counts like the result.
//!
//! Pieces are as large as those of Python's libraries, for what is said of a bad body depends on how far it is read.
//! zstd is the reference library here, too: what it takes of a frame that is not quite right is its own.

use brotli_decompressor::{BrotliDecompressStream, BrotliResult, BrotliState, StandardAlloc};
use bytes::Bytes;
use flate2::{Decompress, FlushDecompress, Status};
use zstd_safe::{DCtx, DParameter, InBuffer, OutBuffer, ResetDirective};

/// Prompts compress to a tenth; 200 is text that repeats itself, gzip can reach 1,000 and the others have no end.
pub const MAX_RATIO: usize = 200;

/// Bytes that may come out whatever went in.
const FREE: usize = 1 << 20;

/// Codings of one body: two on top of each other are a mistake already.
pub const MAX_NESTED: usize = 3;

/// Bytes that come out at once.
pub const PIECE: usize = 65_536;

/// Bytes that come out of br at once: Python's library fills a block, and another one, less the heads of objects.
const BROTLI_BLOCKS: [usize; 2] = [(32 << 10) - 16, (64 << 10) - 16];

/// Of a gzip or zstd body: each costs a new decoder. Parallel compressors write one in 64 KiB or more.
const MAX_MEMBERS: usize = 4096;

/// 8 MiB, the largest window that RFC 9659 allows the coding `zstd`: a frame may ask for 2 GiB of memory.
const WINDOW_LOG: u32 = 23;

/// Why a body is not decoded any further.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CodingError {
    /// The body is not what its content-encoding says. The message names the coding.
    Invalid(String),
    /// The body unfolds to more than is taken. The message says to how much.
    ExpandedTooFar(String),
}

/// Why a decoder stopped.
enum Stop {
    /// The data are not in its coding. The words of each library are its own, and tell a client nothing.
    Invalid,
    /// There is more than the one body that there may be.
    Beyond(&'static str),
    /// Whoever takes the pieces ends it.
    Ended(End),
}

/// What takes the pieces.
type Sink<'a> = &'a mut dyn FnMut(&[u8]) -> Result<(), End>;

trait Codec: Send {
    fn finished(&self) -> bool;
    fn feed(&mut self, data: &[u8], sink: Sink<'_>) -> Result<(), Stop>;
}

/// Why somebody behind a decoder takes no more.
enum End {
    Error(CodingError),
    /// The reader has seen enough.
    Enough,
}

fn give(piece: &[u8], sink: Sink<'_>) -> Result<(), Stop> {
    if piece.is_empty() { Ok(()) } else { sink(piece).map_err(Stop::Ended) }
}

/// gzip, of one or more members, and deflate, with or without zlib's wrapping: both are sent.
struct Inflate {
    gzip: bool,
    first: Vec<u8>,
    members: usize,
    stream: Option<Decompress>,
    ended: bool,
}

impl Inflate {
    fn new(gzip: bool) -> Self {
        let stream = gzip.then(|| Decompress::new_gzip(15));
        Self { gzip, first: Vec::new(), members: 0, stream, ended: false }
    }

    fn begin(&mut self) -> Result<(), Stop> {
        self.members += 1;
        if !self.gzip || self.members > MAX_MEMBERS {
            return Err(Stop::Beyond("something follows its end"));
        }
        self.stream = Some(Decompress::new_gzip(15));
        self.ended = false;
        Ok(())
    }

    /// What comes out at once of `data`, and how much of that it took.
    fn step(&mut self, data: &[u8], out: &mut [u8]) -> Result<(usize, usize), Stop> {
        let Some(stream) = self.stream.as_mut() else { return Ok((data.len(), 0)) };
        let (mut taken, mut made) = (0, 0);
        while made < out.len() {
            let (before_in, before_out) = (stream.total_in(), stream.total_out());
            let status = stream.decompress(&data[taken..], &mut out[made..], FlushDecompress::Sync);
            let status = status.map_err(|_| Stop::Invalid)?;
            let (read, written) = (stream.total_in() - before_in, stream.total_out() - before_out);
            taken += usize::try_from(read).unwrap_or(0);
            made += usize::try_from(written).unwrap_or(0);
            if status == Status::StreamEnd {
                self.ended = true;
                break;
            }
            if (read == 0 && written == 0) || taken == data.len() && made < out.len() {
                break;
            }
        }
        Ok((taken, made))
    }
}

impl Codec for Inflate {
    fn finished(&self) -> bool {
        self.ended
    }

    fn feed(&mut self, data: &[u8], sink: Sink<'_>) -> Result<(), Stop> {
        let first;
        let mut data = data;
        if self.stream.is_none() {
            self.first.extend_from_slice(data);
            let [one, two, ..] = self.first[..] else { return Ok(()) };
            let wrapped = one & 15 == 8 && (u16::from(one) << 8 | u16::from(two)) % 31 == 0;
            self.stream = Some(Decompress::new(wrapped));
            first = std::mem::take(&mut self.first);
            data = &first;
        }
        let mut out = vec![0; PIECE];
        let mut pending = !data.is_empty();
        while pending {
            if self.ended {
                self.begin()?;
            }
            let (taken, made) = self.step(data, &mut out)?;
            give(&out[..made], sink)?;
            data = &data[taken..];
            // A full piece may leave output behind in the decoder although all of the input is gone.
            pending = !data.is_empty() || (made == PIECE && !self.ended);
        }
        Ok(())
    }
}

/// zstd, of one or more frames.
struct Zstd {
    frames: usize,
    stream: DCtx<'static>,
    ended: bool,
}

impl Zstd {
    fn new() -> Self {
        let mut stream = DCtx::create();
        // It can fail only for a number out of range, or in the middle of a frame.
        let set = stream.set_parameter(DParameter::WindowLogMax(WINDOW_LOG));
        debug_assert!(set.is_ok());
        Self { frames: 1, stream, ended: false }
    }

    fn begin(&mut self) -> Result<(), Stop> {
        self.frames += 1;
        if self.frames > MAX_MEMBERS {
            return Err(Stop::Beyond("too many frames"));
        }
        self.ended = false;
        self.stream.reset(ResetDirective::SessionOnly).map(drop).map_err(|_| Stop::Invalid)
    }

    /// What comes out at once of `data`, and how much of that it took.
    fn step(&mut self, data: &[u8], out: &mut [u8]) -> Result<(usize, usize), Stop> {
        let size = out.len();
        let mut input = InBuffer::around(data);
        let mut output = OutBuffer::around(out);
        loop {
            let left = self.stream.decompress_stream(&mut output, &mut input).map_err(|_| Stop::Invalid)?;
            self.ended = left == 0;
            if self.ended || output.pos() == size || input.pos == data.len() {
                return Ok((input.pos, output.pos()));
            }
        }
    }
}

impl Codec for Zstd {
    fn finished(&self) -> bool {
        self.ended
    }

    fn feed(&mut self, mut data: &[u8], sink: Sink<'_>) -> Result<(), Stop> {
        let mut out = vec![0; PIECE];
        while !data.is_empty() {
            if self.ended {
                self.begin()?;
            }
            let mut made = PIECE;
            while !self.ended && (made == PIECE || !data.is_empty()) {
                let taken;
                (taken, made) = self.step(data, &mut out)?;
                give(&out[..made], sink)?;
                data = &data[taken..];
            }
        }
        Ok(())
    }
}

/// br.
struct Brotli {
    stream: Box<BrotliState<StandardAlloc, StandardAlloc, StandardAlloc>>,
    ended: bool,
}

impl Brotli {
    fn new() -> Self {
        let state =
            BrotliState::new_strict(StandardAlloc::default(), StandardAlloc::default(), StandardAlloc::default());
        Self { stream: Box::new(state), ended: false }
    }
}

impl Codec for Brotli {
    fn finished(&self) -> bool {
        self.ended
    }

    fn feed(&mut self, data: &[u8], sink: Sink<'_>) -> Result<(), Stop> {
        if !data.is_empty() && self.ended {
            return Err(Stop::Beyond("something follows its end"));
        }
        let mut out = vec![0; BROTLI_BLOCKS[0] + BROTLI_BLOCKS[1]];
        let (mut left, mut taken, mut total) = (data.len(), 0, 0);
        loop {
            let mut made = 0;
            for mut room in BROTLI_BLOCKS {
                let result = BrotliDecompressStream(
                    &mut left,
                    &mut taken,
                    data,
                    &mut room,
                    &mut made,
                    &mut out,
                    &mut total,
                    &mut self.stream,
                );
                self.ended = matches!(result, BrotliResult::ResultSuccess);
                if matches!(result, BrotliResult::ResultFailure) || (self.ended && left > 0) {
                    return Err(Stop::Invalid);
                }
                if !matches!(result, BrotliResult::NeedsMoreOutput) {
                    break;
                }
            }
            give(&out[..made], sink)?;
            // What it holds back comes with the next bytes, or at the end, as it does in Python.
            if made < PIECE && left == 0 {
                return Ok(());
            }
        }
    }
}

fn codec(name: &str) -> Option<(&'static str, Box<dyn Codec>)> {
    Some(match name {
        "gzip" => ("gzip", Box::new(Inflate::new(true))),
        "x-gzip" => ("x-gzip", Box::new(Inflate::new(true))),
        "deflate" => ("deflate", Box::new(Inflate::new(false))),
        "zstd" => ("zstd", Box::new(Zstd::new())),
        "br" => ("br", Box::new(Brotli::new())),
        _ => return None,
    })
}

/// White space as Python's `str.strip` sees it, of the characters of ISO 8859-1.
fn is_text_space(char: char) -> bool {
    matches!(char, '\t'..='\r' | '\u{1c}'..=' ' | '\u{85}' | '\u{a0}')
}

/// The codings in a `content-encoding` header, in the order in which they were applied.
#[must_use]
pub fn codings_of(value: &[u8]) -> Vec<String> {
    let text: String = value.iter().map(|byte| char::from(*byte)).collect();
    let names = text.split(',').map(|name| name.trim_matches(is_text_space).to_lowercase());
    names.filter(|name| !matches!(name.as_str(), "" | "identity")).collect()
}

/// Whoever is fed goes on, or has seen enough.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    On,
    Enough,
}

/// Undoes codings, fed with chunks; `size` counts what came out.
pub struct Decoding {
    levels: Vec<(&'static str, Box<dyn Codec>)>,
    counts: Counts,
    pub size: usize,
}

struct Counts {
    made: [usize; MAX_NESTED],
    fed: usize,
    limit: usize,
}

impl Counts {
    fn add(&mut self, level: usize, size: usize) -> Result<(), CodingError> {
        self.made[level] += size;
        let (made, limit) = (self.made[level], self.limit);
        let text = if made > limit {
            format!("the request body is larger than {limit} bytes without its coding")
        } else if made > FREE && made > MAX_RATIO * self.fed {
            format!("the request body unfolds to more than {MAX_RATIO} times its size")
        } else {
            return Ok(());
        };
        Err(CodingError::ExpandedTooFar(text))
    }
}

impl Decoding {
    /// Undoes `codings`, the last one first. None when they are too many, or one is not known.
    #[must_use]
    pub fn new(codings: &[String], limit: usize) -> Option<Self> {
        if codings.len() > MAX_NESTED {
            return None;
        }
        let levels = codings.iter().rev().map(|name| codec(name)).collect::<Option<Vec<_>>>()?;
        Some(Self { levels, counts: Counts { made: [0; MAX_NESTED], fed: 0, limit }, size: 0 })
    }

    /// Gives the next bytes without their codings to `sink`, piece by piece, until it has seen enough.
    ///
    /// # Errors
    /// When the body is not in its coding, or unfolds too far.
    pub fn feed(&mut self, data: &[u8], sink: &mut dyn FnMut(Bytes) -> Flow) -> Result<(), CodingError> {
        self.counts.fed += data.len();
        let size = &mut self.size;
        let mut last = |piece: &[u8]| {
            *size += piece.len();
            match sink(Bytes::copy_from_slice(piece)) {
                Flow::On => Ok(()),
                Flow::Enough => Err(End::Enough),
            }
        };
        match through(&mut self.levels, 0, data, &mut self.counts, &mut last) {
            Ok(()) | Err(End::Enough) => Ok(()),
            Err(End::Error(error)) => Err(error),
        }
    }

    /// The body is complete.
    ///
    /// # Errors
    /// When it is cut off.
    pub fn finish(&self) -> Result<(), CodingError> {
        match self.levels.iter().find(|(_, codec)| self.counts.fed > 0 && !codec.finished()) {
            Some((name, _)) => Err(CodingError::Invalid(format!("the body is cut off: its {name} data do not end"))),
            None => Ok(()),
        }
    }
}

fn through(
    levels: &mut [(&'static str, Box<dyn Codec>)],
    level: usize,
    data: &[u8],
    counts: &mut Counts,
    last: Sink<'_>,
) -> Result<(), End> {
    let Some(((name, codec), rest)) = levels.split_first_mut() else { return last(data) };
    let fed = codec.feed(data, &mut |piece: &[u8]| {
        counts.add(level, piece.len()).map_err(End::Error)?;
        through(rest, level + 1, piece, counts, last)
    });
    let invalid = |why: &str| {
        let text = format!("the body is not valid {name}, which its content-encoding says{why}");
        End::Error(CodingError::Invalid(text))
    };
    fed.map_err(|stop| match stop {
        Stop::Ended(end) => end,
        Stop::Invalid => invalid(""),
        Stop::Beyond(what) => invalid(&format!(": {what}")),
    })
}
