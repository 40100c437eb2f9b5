//! Layers come plain, gzipped or compressed with zstd; which, their first bytes tell.

use std::io::{self, BufReader, Chain, Cursor, Read};

use flate2::bufread::MultiGzDecoder;

const GZIP: &[u8] = &[0x1f, 0x8b];
const ZSTD: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];
/// The largest zstd window that is accepted, as a power of two: 128 MiB, the tool's own bound.
const ZSTD_WINDOW: u32 = 27;
const BUFFER: usize = 128 << 10;

/// The first bytes, read to look at them, and the rest.
type Input<R> = BufReader<Chain<Cursor<Vec<u8>>, R>>;

pub(crate) enum Decompress<R: Read> {
    Plain(Input<R>),
    Gzip(Box<MultiGzDecoder<Input<R>>>),
    Zstd(Box<zstd::Decoder<'static, Input<R>>>),
}

impl<R: Read> Decompress<R> {
    pub(crate) fn new(mut input: R) -> io::Result<Self> {
        let mut start = Vec::new();
        input.by_ref().take(ZSTD.len() as u64).read_to_end(&mut start)?;
        let (gzip, zstd) = (start.starts_with(GZIP), start == ZSTD);
        let input = BufReader::with_capacity(BUFFER, Cursor::new(start).chain(input));
        Ok(if gzip {
            Self::Gzip(Box::new(MultiGzDecoder::new(input)))
        } else if zstd {
            let mut decoder = zstd::Decoder::with_buffer(input)?;
            decoder.window_log_max(ZSTD_WINDOW)?;
            Self::Zstd(Box::new(decoder))
        } else {
            Self::Plain(input)
        })
    }

    /// The compressed stream, with whatever of it was not needed.
    pub(crate) fn drain(self) -> io::Result<R> {
        let mut input = match self {
            Self::Plain(input) => input,
            Self::Gzip(decoder) => decoder.into_inner(),
            Self::Zstd(decoder) => decoder.finish(),
        };
        io::copy(&mut input, &mut io::sink())?;
        Ok(input.into_inner().into_inner().1)
    }

    pub(crate) fn is_compressed(&self) -> bool {
        !matches!(self, Self::Plain(_))
    }
}

impl<R: Read> Read for Decompress<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(input) => input.read(buffer),
            Self::Gzip(decoder) => decoder.read(buffer),
            Self::Zstd(decoder) => decoder.read(buffer),
        }
    }
}
