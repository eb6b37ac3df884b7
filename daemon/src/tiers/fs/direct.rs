//! The bytes of one file, from and to the payload: no copy, large pieces, summed while they are in the cache.
//!
//! Called by the threads of the tier. The kernel gets the payload's own address, so what another process does to the bytes
//! meanwhile changes what is stored, which the sum shows, and nothing else.
//!
//! Around the page cache (O_DIRECT) address, offset and length must be multiples of [`BLOCK_BYTES`]. The last bytes of an
//! object go through a private block, padded with zeros; an extent that begins elsewhere goes through a private buffer.
//!
//! ```text
//!   direct:   payload ──whole blocks, up to 4 MiB a call──> file      last bytes ──> private block ──> file
//!   else:     payload ──up to 4 MiB a call──> file
//! ```

use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::fd::AsRawFd;

use nix::errno::Errno;

use hostkv_shm_protocol::sum::{Sum, Summing};
use hostkv_shm_protocol::sync::{AtomicBool, Ordering};

use crate::tiers::PayloadRange;
use crate::tiers::seal::SEAL_BYTES;
use crate::workers::PayloadBytes;

/// Block of a file: enough for every disk there is.
pub(super) const BLOCK_BYTES: u64 = 4096;
/// Bytes of one call: the kernel splits it over the queues of an NVMe disk, and the end of the daemon waits for one.
const PIECE_BYTES: u64 = 4 << 20;

/// A private block that may go around the page cache.
#[repr(C, align(4096))]
struct Block([u8; BLOCK_BYTES as usize]);

/// What a whole object read gives.
pub(super) struct Read {
    /// The seal as it stands in the file.
    pub(super) seal: [u8; SEAL_BYTES],
    /// The sum of what is at the destination.
    pub(super) sum: Sum,
}

/// One file and the payload.
pub(super) struct Transfer<'a> {
    /// The file.
    pub(super) file: &'a File,
    /// The payload.
    pub(super) payload: &'a PayloadBytes,
    /// Whether the file was opened with O_DIRECT.
    pub(super) is_direct: bool,
    /// The daemon ends.
    pub(super) is_ending: &'a AtomicBool,
}

/// Writes the first block: the seal, then zeros.
pub(super) fn write_seal(file: &File, seal: &[u8]) -> io::Result<()> {
    let mut block = Block([0; BLOCK_BYTES as usize]);
    block.0[..seal.len()].copy_from_slice(seal);
    put(file, block.0.as_ptr(), BLOCK_BYTES, 0)
}

impl Transfer<'_> {
    /// Writes an object behind its seal, and gives its sum, made here unless it is known.
    pub(super) fn write(&self, source: PayloadRange, known: Option<Sum>) -> io::Result<Sum> {
        let mut summing = Summing::new();
        self.in_pieces(source, |piece, at, in_place| {
            if known.is_none() {
                self.add(&mut summing, piece)?;
            }
            if in_place {
                let from = self.payload.at(piece.offset_bytes, piece.len_bytes)?;
                return put(self.file, from, piece.len_bytes, at);
            }
            let mut block = Block([0; BLOCK_BYTES as usize]);
            self.copy_out(piece, &mut block)?;
            put(self.file, block.0.as_ptr(), BLOCK_BYTES, at)
        })?;
        Ok(known.unwrap_or_else(|| summing.finish()))
    }

    /// Reads an object and its seal.
    pub(super) fn read(&self, destination: PayloadRange) -> io::Result<Read> {
        let mut block = Block([0; BLOCK_BYTES as usize]);
        get(self.file, block.0.as_mut_ptr(), BLOCK_BYTES, BLOCK_BYTES, 0)?;
        let mut seal = [0; SEAL_BYTES];
        seal.copy_from_slice(&block.0[..SEAL_BYTES]);
        let mut summing = Summing::new();
        self.in_pieces(destination, |piece, at, in_place| {
            if in_place {
                let to = self.payload.at(piece.offset_bytes, piece.len_bytes)?;
                get(self.file, to, piece.len_bytes, piece.len_bytes, at)?;
            } else {
                get(
                    self.file,
                    block.0.as_mut_ptr(),
                    BLOCK_BYTES,
                    piece.len_bytes,
                    at,
                )?;
                let bytes = &block.0[..piece.len_bytes as usize];
                self.payload.copy_in(piece.offset_bytes, bytes)?;
            }
            self.add(&mut summing, piece)
        })?;
        Ok(Read {
            seal,
            sum: summing.finish(),
        })
    }

    /// Calls `step` with each piece of the object, where it is in the file, and whether the kernel may have its address.
    fn in_pieces(
        &self,
        range: PayloadRange,
        mut step: impl FnMut(PayloadRange, u64, bool) -> io::Result<()>,
    ) -> io::Result<()> {
        let is_aligned = range.offset_bytes.is_multiple_of(BLOCK_BYTES);
        let mut done = 0;
        while done < range.len_bytes {
            // Relaxed: a sign to stop, nothing stands behind it.
            if self.is_ending.load(Ordering::Relaxed) {
                return Err(Errno::ECANCELED.into());
            }
            let left = range.len_bytes - done;
            let (len_bytes, in_place) = match self.is_direct {
                false => (left.min(PIECE_BYTES), true),
                true if is_aligned && left >= BLOCK_BYTES => {
                    ((left - left % BLOCK_BYTES).min(PIECE_BYTES), true)
                }
                true => (left.min(BLOCK_BYTES), false),
            };
            let piece = PayloadRange {
                offset_bytes: range.offset_bytes + done,
                len_bytes,
            };
            step(piece, BLOCK_BYTES + done, in_place)?;
            done += len_bytes;
        }
        Ok(())
    }

    fn add(&self, summing: &mut Summing, piece: PayloadRange) -> io::Result<()> {
        summing
            .add(&self.payload.view(), piece.offset_bytes, piece.len_bytes)
            .map_err(|_| Errno::ERANGE.into())
    }

    fn copy_out(&self, piece: PayloadRange, block: &mut Block) -> io::Result<()> {
        let bytes = self
            .payload
            .private_copy(piece.offset_bytes, piece.len_bytes)?;
        block.0[..bytes.len()].copy_from_slice(&bytes);
        Ok(())
    }
}

/// Writes `len_bytes` at `from`, all of them.
fn put(file: &File, from: *const u8, len_bytes: u64, at: u64) -> io::Result<()> {
    let mut done = 0;
    while done < len_bytes {
        let left = (len_bytes - done) as usize;
        let place = i64::try_from(at + done).map_err(|_| Errno::EFBIG)?;
        // SAFETY: every caller has checked that the bytes from `from` on are there for `len_bytes`, private or of the
        // payload, which stays mapped; the kernel only reads them.
        let wrote = unsafe {
            libc::pwrite(
                file.as_raw_fd(),
                from.wrapping_add(done as usize).cast(),
                left,
                place,
            )
        };
        match Errno::result(wrote) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(wrote) => done += wrote as u64,
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}

/// Reads to `to`, which has room for `room_bytes`, at least `least_bytes`.
fn get(file: &File, to: *mut u8, room_bytes: u64, least_bytes: u64, at: u64) -> io::Result<()> {
    let mut done = 0;
    while done < least_bytes {
        let left = (room_bytes - done) as usize;
        let place = i64::try_from(at + done).map_err(|_| Errno::EFBIG)?;
        // SAFETY: every caller has checked that `room_bytes` are there from `to` on, in a private block or in the
        // destination of a load, which is nobody else's; the kernel writes no more than `left` and makes no reference.
        let got = unsafe {
            libc::pread(
                file.as_raw_fd(),
                to.wrapping_add(done as usize).cast(),
                left,
                place,
            )
        };
        match Errno::result(got) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(got) => done += got as u64,
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}
