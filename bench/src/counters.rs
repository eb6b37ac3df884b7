//! Cache and TLB misses as the processor counts them, where it lets a program see them; few virtual machines do.

use std::fs::File;
use std::io::Read;
use std::os::fd::FromRawFd;

/// What is counted, by the kernel's number of the event: loads that missed (`perf_event_open(2)`, PERF_TYPE_HW_CACHE).
const LAST_LEVEL_MISSES: u64 = 2 | 1 << 16;
const TLB_MISSES: u64 = 3 | 1 << 16;
const HW_CACHE: u32 = 3;

/// Without kernel and hypervisor, and enabled from the start: what counts is the difference of two looks.
const FLAGS: u64 = 1 << 5 | 1 << 6;

/// The first version of `struct perf_event_attr`.
#[repr(C)]
#[derive(Default)]
struct Attributes {
    kind: u32,
    size: u32,
    config: u64,
    sample_period: u64,
    sample_type: u64,
    read_format: u64,
    flags: u64,
    wakeup: u32,
    breakpoint_type: u32,
    config1: u64,
}

/// Both counters of this thread.
pub struct Counters {
    files: [File; 2],
}

/// Loads that missed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Misses {
    /// The last level of the caches.
    pub last_level: f64,
    /// The first level of the data TLB.
    pub tlb: f64,
}

impl Counters {
    /// The counters, or none where the kernel or the machine has none for us.
    pub fn open() -> Option<Counters> {
        Some(Counters {
            files: [open(LAST_LEVEL_MISSES)?, open(TLB_MISSES)?],
        })
    }

    /// The misses of some work.
    pub fn count(&mut self, work: impl FnOnce() -> Result<(), String>) -> Result<Misses, String> {
        let before = self.read()?;
        work()?;
        let after = self.read()?;
        Ok(Misses {
            last_level: after.last_level - before.last_level,
            tlb: after.tlb - before.tlb,
        })
    }

    fn read(&mut self) -> Result<Misses, String> {
        let mut figures = [0.0; 2];
        for (file, figure) in self.files.iter_mut().zip(&mut figures) {
            let mut bytes = [0; 8];
            file.read_exact(&mut bytes)
                .map_err(|error| format!("a counter cannot be read: {error}"))?;
            *figure = u64::from_ne_bytes(bytes) as f64;
        }
        Ok(Misses {
            last_level: figures[0],
            tlb: figures[1],
        })
    }
}

fn open(config: u64) -> Option<File> {
    let attributes = Attributes {
        kind: HW_CACHE,
        size: size_of::<Attributes>() as u32,
        config,
        flags: FLAGS,
        ..Attributes::default()
    };
    // SAFETY: the kernel reads as many bytes of the attributes as they say; this thread, any processor, no group.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_perf_event_open,
            &raw const attributes,
            0,
            -1,
            -1,
            0,
        )
    };
    // SAFETY: a new descriptor, owned by nobody else.
    (fd >= 0).then(|| unsafe { File::from_raw_fd(fd as i32) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn misses_are_counted_where_the_machine_has_counters_for_us() {
        let Some(mut counters) = Counters::open() else {
            eprintln!("SKIPPED: this machine gives no counters of cache and TLB misses");
            return;
        };
        let data = vec![1_u64; 16 << 20];
        let misses = counters
            .count(|| {
                let sum: u64 = (0..1 << 20).map(|at| data[at * 40_503 % data.len()]).sum();
                assert_eq!(sum, 1 << 20);
                Ok(())
            })
            .expect("counters are read");
        assert!(misses.tlb > 0.0 && misses.last_level >= 0.0, "{misses:?}");
    }
}
