//! What this machine is, and what its kernel accounts for.

use nix::sched::CpuSet;
use std::path::Path;
use std::sync::LazyLock;

/// Processors that this process may use. Counted once, at the first call: what a thread is bound to later does not count.
pub fn cpu_count() -> usize {
    static COUNT: LazyLock<usize> =
        LazyLock::new(|| std::thread::available_parallelism().map_or(1, usize::from));
    *COUNT
}

/// Size of the data or unified cache of this level in bytes, as seen by the first processor; 0 when the kernel does not say.
pub fn cache_bytes(level: u32) -> u64 {
    let cpu = Path::new("/sys/devices/system/cpu/cpu0/cache");
    (0..8)
        .map(|index| cpu.join(format!("index{index}")))
        .filter(|folder| {
            word(&folder.join("level")) == level.to_string()
                && word(&folder.join("type")) != "Instruction"
        })
        .find_map(|folder| parse_size(&word(&folder.join("size"))))
        .unwrap_or(0)
}

/// Entries of the second-level data TLB for pages of this size; 0 when the processor does not say.
pub fn tlb_entries(page_bytes: u64) -> u64 {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::__cpuid;
        // AMD64 Architecture Programmer's Manual, volume 3, CPUID functions 8000_0000h and 8000_0006h: bits 27 to 16 of
        // EAX (2 MiB pages) and of EBX (4 KiB pages). Intel's processors answer 0.
        if __cpuid(0x8000_0000).eax >= 0x8000_0006 {
            let answer = __cpuid(0x8000_0006);
            let word = if page_bytes > 4096 {
                answer.eax
            } else {
                answer.ebx
            };
            return u64::from(word >> 16 & 0xfff);
        }
    }
    let _ = page_bytes;
    0
}

/// Nanoseconds of CPU, user and system, that the process has used.
pub fn cpu_ns(pid: u32) -> Result<u64, String> {
    let mut clock = 0;
    // SAFETY: the clock is written, nothing else.
    let code = unsafe { libc::clock_getcpuclockid(pid as libc::pid_t, &mut clock) };
    if code != 0 {
        return Err(format!(
            "the CPU clock of process {pid} cannot be read: {}",
            std::io::Error::from_raw_os_error(code)
        ));
    }
    let time = nix::time::clock_gettime(nix::time::ClockId::from_raw(clock))
        .map_err(|error| format!("the CPU clock of process {pid} cannot be read: {error}"))?;
    Ok(time.tv_sec() as u64 * 1_000_000_000 + time.tv_nsec() as u64)
}

/// Nanoseconds of CPU that children of this process have used which ended and were waited for.
pub fn ended_children_cpu_ns() -> u64 {
    // SAFETY: all fields are numbers, which may be 0.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: the usage is written, nothing else.
    let code = unsafe { libc::getrusage(libc::RUSAGE_CHILDREN, &mut usage) };
    if code != 0 {
        return 0;
    }
    [usage.ru_utime, usage.ru_stime]
        .iter()
        .map(|time| time.tv_sec as u64 * 1_000_000_000 + time.tv_usec as u64 * 1000)
        .sum()
}

/// Nanoseconds of CPU that the first thread of the process has used.
pub fn first_thread_cpu_ns(pid: u32) -> Result<u64, String> {
    let path = format!("/proc/{pid}/task/{pid}/schedstat");
    word(Path::new(&path))
        .split(' ')
        .next()
        .and_then(|ns| ns.parse().ok())
        .ok_or_else(|| format!("{path} does not tell the time on the processor"))
}

/// Nanoseconds of CPU that this thread has used.
pub fn this_thread_cpu_ns() -> u64 {
    // The clock is always there; with a zero the worst would be a figure that is off.
    nix::time::clock_gettime(nix::time::ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(0, |time| {
        time.tv_sec() as u64 * 1_000_000_000 + time.tv_nsec() as u64
    })
}

/// Nanoseconds that threads of the process were ready to run and did not.
pub fn run_queue_wait_ns(pid: u32) -> u64 {
    let Ok(threads) = std::fs::read_dir(format!("/proc/{pid}/task")) else {
        return 0;
    };
    threads
        .flatten()
        .map(|thread| {
            let text = word(&thread.path().join("schedstat"));
            text.split(' ')
                .nth(1)
                .and_then(|ns| ns.parse::<u64>().ok())
                .unwrap_or(0)
        })
        .sum()
}

/// Nanoseconds that the hypervisor gave to others, over all processors.
pub fn steal_ns() -> u64 {
    stat_ns(&[8])
}

/// Nanoseconds that the processors worked, for whomever.
pub fn busy_ns() -> u64 {
    // user, nice, system, irq, softirq; a guest's time is in user.
    stat_ns(&[1, 2, 3, 6, 7])
}

/// The sum of columns of the first line of `/proc/stat`.
fn stat_ns(columns: &[usize]) -> u64 {
    const USER_HZ_NS: u64 = 10_000_000;
    let text = word(Path::new("/proc/stat"));
    let words: Vec<&str> = text
        .lines()
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .collect();
    columns
        .iter()
        .filter_map(|column| words.get(*column)?.parse::<u64>().ok())
        .sum::<u64>()
        * USER_HZ_NS
}

/// Page faults of a process that needed no I/O and of those that did.
pub fn faults(pid: u32) -> u64 {
    let text = word(Path::new(&format!("/proc/{pid}/stat")));
    // The name, in parentheses, may hold spaces.
    let Some((_, rest)) = text.rsplit_once(')') else {
        return 0;
    };
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let field = |at: usize| {
        fields
            .get(at)
            .and_then(|field| field.parse::<u64>().ok())
            .unwrap_or(0)
    };
    field(7) + field(9)
}

/// Whether most of what a process maps under names that contain `name` lies on 2 MiB pages.
pub fn is_mostly_huge(pid: u32, name: &str) -> bool {
    let huge =
        mapped_bytes(pid, name, "ShmemPmdMapped:") + mapped_bytes(pid, name, "FilePmdMapped:");
    2 * huge > mapped_bytes(pid, name, "Size:")
}

/// Sum of a field of `/proc/PID/smaps` in bytes over the mappings whose name contains `name` (all with an empty one).
pub fn mapped_bytes(pid: u32, name: &str, field: &str) -> u64 {
    let text = word(Path::new(&format!("/proc/{pid}/smaps")));
    let mut is_meant = false;
    let mut sum = 0;
    for line in text.lines() {
        let first = line.split_whitespace().next().unwrap_or_default();
        if first.contains('-') && !first.ends_with(':') {
            is_meant = line.contains(name);
        } else if is_meant && first == field {
            let kib = line.split_whitespace().nth(1);
            sum += kib.and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) << 10;
        }
    }
    sum
}

/// Bytes of shared memory that a process maps by 2 MiB pages.
pub fn huge_mapped_bytes(pid: u32) -> u64 {
    ["ShmemPmdMapped:", "FilePmdMapped:"]
        .into_iter()
        .map(|field| mapped_bytes(pid, "", field))
        .sum()
}

/// All processors, whether the machine has them or not: the kernel takes those that it has.
pub fn all_cpus() -> CpuSet {
    let mut set = CpuSet::new();
    for cpu in 0..CpuSet::count() {
        // The number is below the set's size, which is all that can be wrong with it.
        let _ = set.set(cpu);
    }
    set
}

/// Binds a thread (0 = this one) to one processor, or to all with `None`.
pub fn bind(thread: u32, cpu: Option<usize>) -> Result<(), String> {
    let set = match cpu {
        Some(cpu) => {
            let mut set = CpuSet::new();
            set.set(cpu)
                .map_err(|error| format!("processor {cpu}: {error}"))?;
            set
        }
        None => all_cpus(),
    };
    nix::sched::sched_setaffinity(nix::unistd::Pid::from_raw(thread as i32), &set)
        .map_err(|error| format!("cannot bind thread {thread} to a processor: {error}"))
}

/// The machine in a few lines of Markdown, for the head of the report.
pub fn describe() -> String {
    let cpuinfo = word(Path::new("/proc/cpuinfo"));
    let model = cpuinfo
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .map_or("unknown", |rest| rest.trim_start_matches([' ', '\t', ':']));
    let vectors: Vec<&str> = ["avx2", "avx512f", "asimd"]
        .into_iter()
        .filter(|flag| cpuinfo.split_whitespace().any(|word| word == *flag))
        .collect();
    let memory = word(Path::new("/proc/meminfo"))
        .lines()
        .next()
        .and_then(|line| line.split_whitespace().nth(1))
        .and_then(|kib| kib.parse::<u64>().ok())
        .unwrap_or(0);
    let choice = |file: &str| {
        let text = word(&Path::new("/sys/kernel/mm/transparent_hugepage").join(file));
        text.split(['[', ']'])
            .nth(1)
            .unwrap_or("unknown")
            .to_owned()
    };
    let commit = std::process::Command::new("git")
        .args(["describe", "--always", "--dirty", "--abbrev=12"])
        .stderr(std::process::Stdio::null())
        .output()
        .ok()
        .and_then(|output| String::from_utf8(output.stdout).ok())
        .map(|text| text.trim().to_owned())
        .filter(|text| !text.is_empty())
        .unwrap_or_else(|| "unknown".to_owned());
    format!(
        "| | |\n|---|---|\n| commit | {commit} |\n| processor | {model}, {} usable, {} |\n\
         | caches | {} KiB L1d, {} KiB L2, {} MiB L3 |\n| memory | {} GiB |\n| kernel | {} |\n\
         | pages | transparent_hugepage={}, shmem_enabled={} |\n| load at the start | {} |\n",
        cpu_count(),
        if vectors.is_empty() {
            "no vectors known".to_owned()
        } else {
            vectors.join(" ")
        },
        cache_bytes(1) >> 10,
        cache_bytes(2) >> 10,
        cache_bytes(3) >> 20,
        memory >> 20,
        word(Path::new("/proc/sys/kernel/osrelease")),
        choice("enabled"),
        choice("shmem_enabled"),
        word(Path::new("/proc/loadavg")),
    )
}

fn word(path: &Path) -> String {
    std::fs::read_to_string(path)
        .unwrap_or_default()
        .trim()
        .to_owned()
}

/// `512K` or `32M` in bytes.
fn parse_size(text: &str) -> Option<u64> {
    let (digits, shift) = match text.as_bytes().last()? {
        b'K' => (&text[..text.len() - 1], 10),
        b'M' => (&text[..text.len() - 1], 20),
        b'G' => (&text[..text.len() - 1], 30),
        _ => (text, 0),
    };
    Some(digits.parse::<u64>().ok()? << shift)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_of_caches_are_read_with_their_unit() {
        assert_eq!(parse_size("512K"), Some(512 << 10));
        assert_eq!(parse_size("32M"), Some(32 << 20));
        assert_eq!(parse_size("77"), Some(77));
        assert_eq!(parse_size(""), None);
    }

    #[test]
    fn the_processor_time_and_the_faults_of_a_process_grow_with_its_work() {
        let own = std::process::id();
        let (cpu, seen) = (cpu_ns(own).expect("own clock"), faults(own));
        let pages = vec![1_u8; 8 << 20];
        assert_eq!(
            pages.iter().map(|byte| u64::from(*byte)).sum::<u64>(),
            8 << 20
        );
        assert!(cpu_ns(own).expect("own clock") > cpu);
        assert!(faults(own) > seen);
    }
}
