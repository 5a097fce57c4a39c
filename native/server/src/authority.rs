//! Makes `:authority` one that h2 takes. Envoy puts the name of its cluster there (`outbound|9002||picker...` on Istio),
//! h2 answers what is no host with a reset, and nothing here reads it: a literal value becomes one letter.
//!
//! A shorter value is safe in HPACK: the decoder's table then drops entries later than the encoder's, and an encoder never
//! points at what it has dropped.

use crate::limits::MAX_FRAME;

const HEADERS: u8 = 1;
const PADDED: u8 = 0x08;
const PRIORITY: u8 = 0x20;
const FRAME_HEADER: usize = 9;

/// `:authority` in HPACK's static table.
const AUTHORITY: usize = 1;

/// Passes what a client sends on, HEADERS once they are whole and with their authority replaced.
pub(crate) struct Rewriter {
    skip: usize,
    header: [u8; FRAME_HEADER],
    header_len: usize,
    held: Vec<u8>,
    wanted: usize,
}

impl Rewriter {
    /// `skip`: bytes before the first frame.
    pub(crate) fn new(skip: usize) -> Self {
        Self { skip, header: [0; FRAME_HEADER], header_len: 0, held: Vec::new(), wanted: 0 }
    }

    /// Bytes of memory in which a frame may lie.
    #[cfg(test)]
    pub(crate) fn holds(&self) -> usize {
        self.held.capacity()
    }

    /// Append to `out` what may pass.
    pub(crate) fn pass(&mut self, mut bytes: &[u8], out: &mut Vec<u8>) {
        loop {
            let passed = self.skip.min(bytes.len());
            self.skip -= passed;
            out.extend_from_slice(&bytes[..passed]);
            bytes = &bytes[passed..];
            if self.wanted > 0 {
                let take = bytes.len().min(self.wanted - self.held.len());
                self.held.extend_from_slice(&bytes[..take]);
                bytes = &bytes[take..];
                if self.held.len() == self.wanted {
                    rewrite(&self.held, out);
                    self.held.clear();
                    self.wanted = 0;
                }
            }
            if bytes.is_empty() {
                return;
            }
            let take = bytes.len().min(FRAME_HEADER - self.header_len);
            self.header[self.header_len..self.header_len + take].copy_from_slice(&bytes[..take]);
            self.header_len += take;
            bytes = &bytes[take..];
            if self.header_len == FRAME_HEADER {
                self.header_len = 0;
                self.begin(out);
            }
        }
    }

    fn begin(&mut self, out: &mut Vec<u8>) {
        let [_, a, b, ..] = self.header;
        let length = usize::from(self.header[0]) << 16 | usize::from(a) << 8 | usize::from(b);
        // A longer frame than is allowed is h2's to refuse.
        if length > 0 && length <= MAX_FRAME as usize && is_headers(&self.header) {
            self.held.extend_from_slice(&self.header);
            self.wanted = FRAME_HEADER + length;
        } else {
            out.extend_from_slice(&self.header);
            self.skip = length;
        }
    }
}

/// Whether a frame with this header is one to rewrite.
fn is_headers(header: &[u8; FRAME_HEADER]) -> bool {
    header[3] == HEADERS && header[4] & PADDED == 0
}

/// Append a whole HEADERS frame to `out`, with its authority replaced. What cannot be read goes as it is: h2 refuses it.
fn rewrite(frame: &[u8], out: &mut Vec<u8>) {
    let start = out.len();
    let skip = FRAME_HEADER + if frame[4] & PRIORITY == 0 { 0 } else { 5 };
    if frame.len() >= skip {
        out.extend_from_slice(&frame[..skip]);
        if block(&frame[skip..], out).is_some() {
            let length = (out.len() - start - FRAME_HEADER) as u32;
            out[start..start + 3].copy_from_slice(&length.to_be_bytes()[1..]);
            return;
        }
        out.truncate(start);
    }
    out.extend_from_slice(frame);
}

/// Append a header block, up to a string that ends in another frame. None for what is no HPACK.
fn block(mut rest: &[u8], out: &mut Vec<u8>) -> Option<()> {
    while let Some(&first) = rest.first() {
        let begun = rest;
        let literal = first & 0x80 == 0 && first & 0xE0 != 0x20;
        let bits = if first & 0x80 != 0 {
            7
        } else if first & 0x40 != 0 {
            6
        } else if literal {
            4
        } else {
            5
        };
        let index = integer(&mut rest, bits)?;
        if literal {
            let mut named = index == AUTHORITY;
            if index == 0 {
                let name = rest;
                string(&mut rest)?;
                named = name[..name.len() - rest.len()] == *b"\x0a:authority"; // as gRPC's C core writes it
            }
            let before = begun.len() - rest.len();
            string(&mut rest)?;
            let value = begun.len() - rest.len() - before;
            if named && value > 2 {
                out.extend_from_slice(&begun[..before]);
                out.extend_from_slice(b"\x01a");
                continue;
            }
        }
        out.extend_from_slice(&begun[..begun.len() - rest.len()]);
    }
    Some(())
}

/// An integer with a prefix of so many bits.
fn integer(rest: &mut &[u8], bits: u32) -> Option<usize> {
    let (first, mut left) = rest.split_first()?;
    let most = (1usize << bits) - 1;
    let mut value = usize::from(*first) & most;
    if value == most {
        for shift in [0, 7, 14, 21] {
            let (byte, more) = left.split_first()?;
            left = more;
            value += usize::from(byte & 0x7F) << shift;
            if byte & 0x80 == 0 {
                *rest = left;
                return Some(value);
            }
        }
        return None;
    }
    *rest = left;
    Some(value)
}

/// Pass a string.
fn string(rest: &mut &[u8]) -> Option<()> {
    let length = integer(rest, 7)?;
    *rest = rest.get(length..)?;
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(block: &[u8]) -> Vec<u8> {
        let mut out = vec![0, 0, block.len() as u8, HEADERS, 4, 0, 0, 0, 1];
        out.extend_from_slice(block);
        out
    }

    fn rewritten(block: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        rewrite(&frame(block), &mut out);
        out
    }

    #[test]
    fn the_authority_and_nothing_else_is_replaced() {
        // Method and path by index, authority as a literal to index, then a literal with a name of its own.
        let sent = b"\x83\x41\x03a|b\x3f\xe1\x1f\x04\x02/x\x00\x01n\x05value\xbe";
        let want = b"\x83\x41\x01a\x3f\xe1\x1f\x04\x02/x\x00\x01n\x05value\xbe";
        assert_eq!(rewritten(sent), frame(want));
        assert_eq!(rewritten(b"\x01\x82\xff\xff\x88"), frame(b"\x01\x01a\x88"), "not to be indexed, Huffman");
    }

    #[test]
    fn its_name_may_be_spelled_out() {
        assert_eq!(rewritten(b"\x40\x0a:authority\x03a|b\x88"), frame(b"\x40\x0a:authority\x01a\x88"));
    }

    #[test]
    fn what_is_no_hpack_goes_as_it_is() {
        for wrong in [&b"\x41"[..], b"\x41\x7f", b"\x41\x05ab", b"\xff\xff\xff\xff\xff\xff", b"\x00"] {
            assert_eq!(rewritten(wrong), frame(wrong));
        }
    }
}
