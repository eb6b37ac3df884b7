//! The six standard `process_` families: what any Prometheus client library shows of its process.
//!
//! Runs on the render thread. The `prometheus` crate has a collector of its own for these, which opens
//! files at every scrape; here `/proc/self/stat` and the folder of descriptors are opened once and read
//! again through the same descriptors, so that a scrape works with the descriptor table full and after
//! the process has locked itself out of `/proc`.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};

use nix::sys::resource::{Resource, getrlimit};
use nix::unistd::{SysconfVar, sysconf};

use super::families::{Kind, Unit};

/// One row of the table; `read` gives `None` when `/proc` does not tell.
pub(crate) struct ProcessFamily {
    pub(crate) name: &'static str,
    pub(crate) unit: Unit,
    pub(crate) help: &'static str,
    pub(crate) kind: Kind,
    pub(crate) read: fn(&ProcessFigures) -> Option<f64>,
}

/// The six families, with the names and meanings that all client libraries share.
pub(crate) const FAMILIES: &[ProcessFamily] = &[
    ProcessFamily {
        name: "process_cpu_seconds_total",
        unit: Unit::Seconds,
        help: "Total user and system CPU time spent.",
        kind: Kind::Counter,
        read: |figures| figures.cpu_seconds,
    },
    ProcessFamily {
        name: "process_open_fds",
        unit: Unit::Things,
        help: "Open file descriptors.",
        kind: Kind::Gauge,
        read: |figures| figures.open_fds,
    },
    ProcessFamily {
        name: "process_max_fds",
        unit: Unit::Things,
        help: "Limit of open file descriptors.",
        kind: Kind::Gauge,
        read: |figures| figures.max_fds,
    },
    ProcessFamily {
        name: "process_virtual_memory_bytes",
        unit: Unit::Bytes,
        help: "Virtual memory size.",
        kind: Kind::Gauge,
        read: |figures| figures.virtual_memory_bytes,
    },
    ProcessFamily {
        name: "process_resident_memory_bytes",
        unit: Unit::Bytes,
        help: "Resident memory size.",
        kind: Kind::Gauge,
        read: |figures| figures.resident_memory_bytes,
    },
    ProcessFamily {
        name: "process_start_time_seconds",
        unit: Unit::Seconds,
        help: "Start of the process, in seconds since the Unix epoch.",
        kind: Kind::Gauge,
        read: |figures| figures.start_time_seconds,
    },
];

/// One reading.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ProcessFigures {
    cpu_seconds: Option<f64>,
    open_fds: Option<f64>,
    max_fds: Option<f64>,
    virtual_memory_bytes: Option<f64>,
    resident_memory_bytes: Option<f64>,
    start_time_seconds: Option<f64>,
}

/// Holds what is needed to read the figures again and again.
pub(crate) struct ProcessReader {
    stat: Option<File>,
    descriptors: Option<File>,
    boot_time_seconds: Option<f64>,
    ticks_per_second: Option<f64>,
    page_bytes: Option<f64>,
}

impl ProcessReader {
    /// Opens the files. One that cannot be opened is a WARNING, and its families stay away.
    pub(crate) fn open() -> Self {
        let told = |what: &str, result: io::Result<File>| {
            result
                .map_err(|error| {
                    log::warn!(
                        "{what} cannot be opened ({error}): some process_ metrics are missing."
                    );
                })
                .ok()
        };
        let system = |variable| match sysconf(variable) {
            Ok(Some(value)) => Some(value as f64),
            Ok(None) | Err(_) => None,
        };
        Self {
            stat: told("/proc/self/stat", File::open("/proc/self/stat")),
            descriptors: told("/proc/self/fd", File::open("/proc/self/fd")),
            boot_time_seconds: boot_time_seconds(),
            ticks_per_second: system(SysconfVar::CLK_TCK),
            page_bytes: system(SysconfVar::PAGE_SIZE),
        }
    }

    /// Reads all six.
    pub(crate) fn read(&self) -> ProcessFigures {
        let mut figures = ProcessFigures {
            open_fds: self.open_fds(),
            max_fds: getrlimit(Resource::RLIMIT_NOFILE)
                .ok()
                .map(|(soft_limit, _)| soft_limit as f64),
            ..ProcessFigures::default()
        };
        let Some(stat) = self.stat.as_ref().and_then(|file| Stat::read(file).ok()) else {
            return figures;
        };
        if let Some(ticks_per_second) = self.ticks_per_second {
            figures.cpu_seconds = Some(stat.cpu_ticks / ticks_per_second);
            figures.start_time_seconds = self
                .boot_time_seconds
                .map(|boot| boot + stat.start_ticks / ticks_per_second);
        }
        figures.virtual_memory_bytes = Some(stat.virtual_bytes);
        figures.resident_memory_bytes = self.page_bytes.map(|bytes| stat.resident_pages * bytes);
        figures
    }

    /// Since Linux 6.2 the size of the folder is the number of descriptors, and takes no descriptor to
    /// ask for; before, the size is 0 and the folder must be listed.
    fn open_fds(&self) -> Option<f64> {
        let size = self.descriptors.as_ref()?.metadata().ok()?.size();
        if size > 0 {
            return Some(size as f64);
        }
        // The listing has a descriptor itself, which it lists.
        let listed = std::fs::read_dir("/proc/self/fd").ok()?.count();
        Some(listed.saturating_sub(1) as f64)
    }
}

/// The fields of `/proc/self/stat` that are shown (proc_pid_stat(5) numbers them from 1).
struct Stat {
    cpu_ticks: f64,
    start_ticks: f64,
    virtual_bytes: f64,
    resident_pages: f64,
}

impl Stat {
    fn read(file: &File) -> io::Result<Self> {
        // The line has 52 numbers of at most 20 digits, and a name of at most 64 bytes.
        let mut line = [0; 2048];
        let read_bytes = file.read_at(&mut line, 0)?;
        let line = String::from_utf8_lossy(&line[..read_bytes]);
        Self::parse(&line).ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))
    }

    /// The name in field 2 may hold blanks and brackets: the fields are counted after its last bracket.
    fn parse(line: &str) -> Option<Self> {
        let fields: Vec<&str> = line.rsplit_once(')')?.1.split_ascii_whitespace().collect();
        let field = |number: usize| fields.get(number - 3)?.parse::<f64>().ok();
        Some(Self {
            cpu_ticks: field(14)? + field(15)?,
            start_ticks: field(22)?,
            virtual_bytes: field(23)?,
            resident_pages: field(24)?,
        })
    }
}

fn boot_time_seconds() -> Option<f64> {
    let text = std::fs::read_to_string("/proc/stat").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("btime "))?;
    line.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_name_with_blanks_and_brackets_shifts_no_field() {
        let line = "7 (a ) b) S 1 7 7 0 -1 4194560 1 0 0 0 250 50 0 0 20 0 9 0 400 8192 3 18446744073709551615";
        let stat = Stat::parse(line).unwrap();
        assert_eq!(stat.cpu_ticks, 300.0);
        assert_eq!(stat.start_ticks, 400.0);
        assert_eq!(stat.virtual_bytes, 8192.0);
        assert_eq!(stat.resident_pages, 3.0);
    }

    #[test]
    fn readings_are_fresh_and_plausible() {
        let reader = ProcessReader::open();
        let before = reader.read();
        let _held: Vec<File> = (0..20).map(|_| File::open("/dev/null").unwrap()).collect();
        let memory = vec![1_u8; 64 << 20];
        std::hint::black_box(&memory);
        let after = reader.read();
        // Other tests of this process open and close descriptors at the same time, a few at once.
        assert!(after.open_fds.unwrap() >= before.open_fds.unwrap() + 4.0);
        let growth = after.resident_memory_bytes.unwrap() - before.resident_memory_bytes.unwrap();
        assert!(growth > f64::from(32 << 20), "{growth}");
        assert!(after.virtual_memory_bytes.unwrap() >= after.resident_memory_bytes.unwrap());
        assert!(after.cpu_seconds.unwrap() >= before.cpu_seconds.unwrap());
        let now = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap()
            .as_secs_f64();
        let age = now - after.start_time_seconds.unwrap();
        assert!((-2.0..3600.0).contains(&age), "{age}");
    }
}
