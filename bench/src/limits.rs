//! The physical limits, by programs that do nothing else: a copy, a read, a round trip, an index miss.

use crate::table::median;
use std::hint::black_box;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Instant;

/// Nanoseconds to sum `bytes` bytes of warm memory.
pub fn read_ns(data: &[u64]) -> f64 {
    median(|| {
        let start = Instant::now();
        black_box(sum(data));
        start.elapsed().as_nanos() as f64
    })
}

/// The sum that stands for "all bytes were read".
pub fn sum(data: &[u64]) -> u64 {
    data.iter().fold(0_u64, |acc, word| acc.wrapping_add(*word))
}

/// Nanoseconds to copy `source` to `destination` with the faster of memcpy and streaming stores.
///
/// # Safety
///
/// `destination` is writable for `source.len()` bytes and nobody else uses it.
pub unsafe fn copy_ns(destination: *mut u8, source: &[u8]) -> f64 {
    let plain = median(|| {
        let start = Instant::now();
        // SAFETY: the caller's promise.
        unsafe { destination.copy_from_nonoverlapping(source.as_ptr(), source.len()) };
        start.elapsed().as_nanos() as f64
    });
    let streaming = median(|| {
        let start = Instant::now();
        // SAFETY: the caller's promise.
        unsafe { hostkv::copy::copy(destination, source.as_ptr(), source.len()) };
        start.elapsed().as_nanos() as f64
    });
    plain.min(streaming)
}

/// Nanoseconds of one blocking round trip of `bytes` bytes each way on a SEQPACKET socket between two threads.
pub fn trip_ns(bytes: usize) -> Result<f64, String> {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
    const TRIPS: u32 = 2000;
    let (ours, theirs) = socketpair(
        AddressFamily::Unix,
        SockType::SeqPacket,
        None,
        SockFlag::SOCK_CLOEXEC,
    )
    .map_err(|error| format!("socketpair: {error}"))?;
    let echo = std::thread::spawn(move || {
        let mut buffer = vec![0; bytes];
        while matches!(nix::unistd::read(&theirs, &mut buffer), Ok(n) if n > 0) {
            if nix::unistd::write(&theirs, &buffer).is_err() {
                break;
            }
        }
    });
    let mut buffer = vec![0; bytes];
    let trip = |socket: &OwnedFd, buffer: &mut [u8]| {
        nix::unistd::write(socket, buffer).is_ok() && nix::unistd::read(socket, buffer).is_ok()
    };
    let mut is_whole = true;
    let ns = median(|| {
        let start = Instant::now();
        for _ in 0..TRIPS {
            is_whole &= trip(&ours, &mut buffer);
        }
        start.elapsed().as_nanos() as f64 / f64::from(TRIPS)
    });
    nix::sys::socket::shutdown(ours.as_raw_fd(), nix::sys::socket::Shutdown::Both)
        .map_err(|error| format!("shutdown: {error}"))?;
    echo.join()
        .map_err(|_| "the echo thread failed".to_owned())?;
    if is_whole {
        Ok(ns)
    } else {
        Err("a round trip failed".to_owned())
    }
}
