//! Shared memory on 4 KiB or 2 MiB pages, what a second mapping of it costs to touch, and what zeroing costs.

use std::ffi::c_void;
use std::num::NonZeroUsize;
use std::os::fd::{AsRawFd, OwnedFd};
use std::ptr::NonNull;
use std::time::Instant;

use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::mman::{MapFlags, ProtFlags, mmap, mmap_anonymous, munmap};

/// Size of a small page.
pub const PAGE_BYTES: usize = 4096;
/// Size of a huge page.
pub const HUGE_PAGE_BYTES: usize = 2 << 20;
/// `MADV_COLLAPSE`, Linux 6.1.
const MADV_COLLAPSE: i32 = 25;

/// Which pages a region shall have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pages {
    /// 4 KiB.
    Small,
    /// 2 MiB where the kernel gives them.
    Huge,
}

impl Pages {
    /// For tables.
    pub fn name(self) -> &'static str {
        match self {
            Pages::Small => "4 KiB pages",
            Pages::Huge => "2 MiB pages",
        }
    }
}

/// A mapping of a memfd at a multiple of 2 MiB.
pub struct Region {
    fd: OwnedFd,
    base: NonNull<c_void>,
    len: usize,
    huge_bytes: usize,
}

impl Region {
    /// A region of at least `len` zeroed bytes, all of which have their page.
    pub fn new(len: usize, pages: Pages) -> Result<Region, String> {
        let len = len.next_multiple_of(HUGE_PAGE_BYTES);
        let fd = memfd_create("hostkv-bench", MFdFlags::MFD_CLOEXEC)
            .map_err(|error| format!("memfd_create: {error}"))?;
        nix::unistd::ftruncate(&fd, len as i64).map_err(|error| format!("ftruncate: {error}"))?;
        let base = map(&fd, len)?;
        let mut region = Region {
            fd,
            base,
            len,
            huge_bytes: 0,
        };
        for block in (0..len).step_by(HUGE_PAGE_BYTES) {
            // SAFETY: the block lies in the mapping, which is ours alone.
            unsafe { region.bytes().add(block).write_volatile(0) };
            if pages == Pages::Huge {
                // SAFETY: as above.
                let code = unsafe {
                    libc::madvise(
                        region.bytes().add(block).cast(),
                        HUGE_PAGE_BYTES,
                        MADV_COLLAPSE,
                    )
                };
                region.huge_bytes += HUGE_PAGE_BYTES * usize::from(code == 0);
            }
        }
        region.touch_all();
        Ok(region)
    }

    /// First byte.
    pub fn bytes(&self) -> *mut u8 {
        self.base.as_ptr().cast()
    }

    /// Share of the bytes on 2 MiB pages.
    pub fn huge_share(&self) -> f64 {
        self.huge_bytes as f64 / self.len as f64
    }

    /// A second mapping of the same bytes.
    pub fn map_again(&self) -> Result<Region, String> {
        let fd = self
            .fd
            .try_clone()
            .map_err(|error| format!("dup: {error}"))?;
        let base = map(&fd, self.len)?;
        Ok(Region {
            fd,
            base,
            len: self.len,
            huge_bytes: self.huge_bytes,
        })
    }

    /// Nanoseconds to read a byte of each small page.
    pub fn touch_all(&self) -> f64 {
        // SAFETY: the mapping is `len` bytes long.
        unsafe { touch_ns(self.bytes(), self.len) }
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and nothing borrowed from it outlives us.
        let _ = unsafe { munmap(self.base, self.len) };
    }
}

/// Maps `len` bytes of the descriptor at a multiple of 2 MiB.
fn map(fd: &OwnedFd, len: usize) -> Result<NonNull<c_void>, String> {
    let fault = |error: nix::Error| format!("mmap of {len} bytes: {error}");
    let wide = NonZeroUsize::new(len + HUGE_PAGE_BYTES).ok_or("an empty mapping")?;
    let exact = NonZeroUsize::new(len).ok_or("an empty mapping")?;
    // SAFETY: a new range of addresses, reserved and not used before it is mapped over.
    let reserved = unsafe {
        mmap_anonymous(
            None,
            wide,
            ProtFlags::PROT_NONE,
            MapFlags::MAP_PRIVATE | MapFlags::MAP_NORESERVE,
        )
    }
    .map_err(fault)?;
    let start = reserved.as_ptr() as usize;
    let aligned = start.next_multiple_of(HUGE_PAGE_BYTES);
    let give_back = |from: usize, to: usize| {
        if let Some(from_ptr) = NonNull::new(from as *mut c_void).filter(|_| to > from) {
            // SAFETY: a part of the range reserved above that nothing uses.
            let _ = unsafe { munmap(from_ptr, to - from) };
        }
    };
    give_back(start, aligned);
    give_back(aligned + len, start + wide.get());
    // SAFETY: the range is ours and nothing is in it.
    unsafe {
        mmap(
            NonZeroUsize::new(aligned),
            exact,
            ProtFlags::PROT_READ | ProtFlags::PROT_WRITE,
            MapFlags::MAP_SHARED | MapFlags::MAP_FIXED,
            fd,
            0,
        )
    }
    .map_err(fault)
}

/// Nanoseconds to read a byte of each small page of a range.
///
/// # Safety
///
/// The range is mapped and may be read.
pub unsafe fn touch_ns(base: *const u8, len: usize) -> f64 {
    let begin = Instant::now();
    for page in (0..len).step_by(PAGE_BYTES) {
        // SAFETY: the caller's promise.
        unsafe { base.add(page).read_volatile() };
    }
    begin.elapsed().as_nanos() as f64
}

/// Nanoseconds to make and zero a region of `len` bytes on 2 MiB pages, by `threads` threads: one page of each block, and
/// its collapse. The page is allocated, not touched, so that the collapse finds nothing mapped. Small pages where the kernel
/// refuses, as anybody would have to take.
pub fn zeroing_ns(len: usize, threads: usize) -> Result<f64, String> {
    let begin = Instant::now();
    let fd = memfd_create("hostkv-bench", MFdFlags::MFD_CLOEXEC)
        .map_err(|error| format!("memfd_create: {error}"))?;
    nix::unistd::ftruncate(&fd, len as i64).map_err(|error| format!("ftruncate: {error}"))?;
    let base = map(&fd, len)?;
    let first = base.as_ptr() as usize;
    let raw = fd.as_raw_fd();
    std::thread::scope(|scope| {
        let stripe = (len / threads.max(1)).next_multiple_of(HUGE_PAGE_BYTES);
        for from in (0..len).step_by(stripe) {
            scope.spawn(move || {
                for at in (from..(from + stripe).min(len)).step_by(HUGE_PAGE_BYTES) {
                    let block = (first + at) as *mut u8;
                    // SAFETY: the block lies in the file and in its mapping, and each block is one thread's.
                    unsafe {
                        libc::fallocate(raw, 0, at as i64, PAGE_BYTES as i64);
                        if libc::madvise(block.cast(), HUGE_PAGE_BYTES, MADV_COLLAPSE) != 0 {
                            for page in (0..HUGE_PAGE_BYTES).step_by(PAGE_BYTES) {
                                block.add(page).write_volatile(0);
                            }
                        }
                    }
                }
            });
        }
    });
    let ns = begin.elapsed().as_nanos() as f64;
    // SAFETY: the mapping made above, used by nobody any more.
    let _ = unsafe { munmap(base, len) };
    Ok(ns)
}
