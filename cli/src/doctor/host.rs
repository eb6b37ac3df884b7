//! What the host gives: kernel, features, pages, shared memory, limits, the port of the metrics.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::statvfs::statvfs;

use super::reach::Daemon;
use super::settings::Source;
use super::{Finding, Scene};
use crate::output::human_bytes;

/// The oldest kernel that hostkvd starts on.
const OLDEST_KERNEL: (u32, u32) = (6, 1);
/// The first kernel that tells who connects from another pid namespace.
const PEER_PIDFD_KERNEL: (u32, u32) = (6, 5);
/// `SO_PEERPIDFD`, which nix has no name for.
const SO_PEERPIDFD: i32 = 77;
/// How long the metrics endpoint may take.
const METRICS_PATIENCE: Duration = Duration::from_secs(2);

/// The kernel's version.
pub fn kernel() -> Finding {
    const CHECK: &str = "kernel";
    let release = nix::sys::utsname::uname()
        .map(|name| name.release().to_string_lossy().into_owned())
        .unwrap_or_default();
    let Some(version) = version_of(&release) else {
        return Finding::not_checked(CHECK, format!("{release:?} is no version of Linux"));
    };
    if version < OLDEST_KERNEL {
        return Finding::problem(
            CHECK,
            format!("this is Linux {release}, and hostkvd needs 6.1"),
            "boot Linux 6.1 or newer; 6.5 or newer is recommended",
        );
    }
    if version < PEER_PIDFD_KERNEL {
        return Finding::ok(
            CHECK,
            format!("Linux {release}; clients in another pid namespace need 6.5"),
        );
    }
    Finding::ok(CHECK, format!("Linux {release}"))
}

fn version_of(release: &str) -> Option<(u32, u32)> {
    let mut parts = release.split(|c: char| !c.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// What hostkv asks of the kernel, tried.
pub fn features() -> Finding {
    const CHECK: &str = "features";
    let mut missing = Vec::new();
    let sealed = memfd_create(
        c"hostkv-doctor",
        MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING,
    )
    .and_then(|fd| fcntl(&fd, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_FUTURE_WRITE)));
    if let Err(errno) = sealed {
        missing.push(format!("sealed memfds ({})", errno.desc()));
    }
    // SAFETY: pidfd_open with our own pid touches no memory; the descriptor, if any, is closed at once.
    let pidfd = unsafe { libc::syscall(libc::SYS_pidfd_open, libc::getpid(), 0) };
    if pidfd < 0 {
        missing.push(format!("pidfd_open ({})", std::io::Error::last_os_error()));
    } else {
        // SAFETY: the descriptor was made above and nobody else has it.
        unsafe { libc::close(pidfd as i32) };
    }
    let peer_pidfd = has_peer_pidfd();
    // SAFETY: with this flag and no attributes the call only tells the version.
    let landlock = unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            std::ptr::null::<u8>(),
            0,
            1,
        )
    };
    if !missing.is_empty() {
        return Finding::problem(
            CHECK,
            format!(
                "the kernel, or the seccomp filter of this container, refuses {}",
                missing.join(" and ")
            ),
            "run on Linux 6.1 or newer, and let memfd_create, fcntl and pidfd_open through in the container's seccomp \
             profile",
        );
    }
    let landlock = match landlock {
        version if version > 0 => format!("landlock {version}"),
        _ => "no landlock".to_owned(),
    };
    let peer = if peer_pidfd {
        "SO_PEERPIDFD"
    } else {
        "no SO_PEERPIDFD (Linux 6.5)"
    };
    Finding::ok(CHECK, format!("sealed memfds, pidfds, {peer}, {landlock}"))
}

fn has_peer_pidfd() -> bool {
    let Ok((near, _far)) = std::os::unix::net::UnixStream::pair() else {
        return false;
    };
    let mut fd: i32 = -1;
    let mut len = size_of::<i32>() as libc::socklen_t;
    // SAFETY: both pointers are to locals of the lengths that are told.
    let got = unsafe {
        libc::getsockopt(
            std::os::fd::AsRawFd::as_raw_fd(&near),
            libc::SOL_SOCKET,
            SO_PEERPIDFD,
            (&raw mut fd).cast(),
            &raw mut len,
        )
    };
    if got == 0 && fd >= 0 {
        // SAFETY: the kernel made this descriptor for us just now.
        unsafe { libc::close(fd) };
    }
    got == 0
}

/// Whether the payload lies, or will lie, on huge pages.
pub fn huge_pages(scene: &Scene<'_>) -> Finding {
    const CHECK: &str = "huge pages";
    let settings = &scene.settings;
    let wish = settings.text("hugepages").unwrap_or("auto");
    if let Daemon::Serves { info, .. } = &scene.daemon {
        let (huge, all) = (info.huge_page_bytes, info.capacity_bytes);
        if huge == all {
            return Finding::ok(
                CHECK,
                format!("all of the pool, {}, lies on them", human_bytes(all)),
            );
        }
        if settings.source == Source::Daemon && settings.text("prefault") == Some("no") {
            return Finding::not_checked(
                CHECK,
                "the pool is sparse (--prefault no), so its pages are not there yet",
            );
        }
        let remedy = match wish {
            "off" => "start hostkvd without --hugepages off".to_owned(),
            _ => format!(
                "let hostkvd have them: transparent huge pages are {}; restart it when memory is less fragmented, or \
                 reserve pages (sysctl vm.nr_hugepages={}) and use --hugepages hugetlb",
                thp_state(),
                all.div_ceil(2 << 20)
            ),
        };
        return Finding::problem(
            CHECK,
            format!(
                "{} of {} lie on huge pages; the rest costs every client page tables and start time",
                human_bytes(huge),
                human_bytes(all)
            ),
            remedy,
        );
    }
    match (wish, settings.pool_bytes()) {
        ("off", _) => Finding::problem(
            CHECK,
            "hostkvd would be started with --hugepages off",
            "leave that flag out; it costs every client page tables and start time",
        ),
        ("hugetlb", Some(bytes)) => {
            let free = meminfo_kib("HugePages_Free").unwrap_or(0) << 21;
            if free >= bytes {
                return Finding::ok(
                    CHECK,
                    format!("{} of reserved ones are free", human_bytes(free)),
                );
            }
            Finding::problem(
                CHECK,
                format!(
                    "--hugepages hugetlb takes {} and {} of reserved huge pages are free",
                    human_bytes(bytes),
                    human_bytes(free)
                ),
                format!(
                    "sysctl vm.nr_hugepages={}, or use --hugepages auto, which needs no reserve",
                    bytes.div_ceil(2 << 20)
                ),
            )
        }
        _ if !fs::exists("/sys/kernel/mm/transparent_hugepage").unwrap_or(false) => {
            Finding::problem(
                CHECK,
                "this kernel has no transparent huge pages",
                "boot a kernel with CONFIG_TRANSPARENT_HUGEPAGE, or reserve pages and use --hugepages hugetlb",
            )
        }
        _ => Finding::ok(CHECK, format!("transparent huge pages are {}", thp_state())),
    }
}

fn thp_state() -> String {
    let text =
        fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled").unwrap_or_default();
    let chosen = text
        .split_once('[')
        .and_then(|(_, rest)| rest.split_once(']'));
    chosen.map_or("unknown to this kernel".to_owned(), |(state, _)| {
        format!("set to {state:?}")
    })
}

/// The number of a line of /proc/meminfo, whatever its unit.
fn meminfo_kib(name: &str) -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text
        .lines()
        .find(|line| line.split(':').next() == Some(name))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

/// Whether a named segment fits into /dev/shm.
pub fn shm(scene: &Scene<'_>) -> Finding {
    const CHECK: &str = "/dev/shm";
    let settings = &scene.settings;
    if matches!(settings.source, Source::Nobody(_) | Source::Refused(_)) {
        return Finding::not_checked(CHECK, "whether hostkvd uses --shm-name is not known");
    }
    let Some(name) = settings.text("shm_name") else {
        return Finding::ok(
            CHECK,
            "not used: the pool is a memfd, whatever the size of /dev/shm",
        );
    };
    let Ok(found) = statvfs("/dev/shm") else {
        return Finding::problem(
            CHECK,
            format!("--shm-name {name} needs /dev/shm, which is not there"),
            "mount a tmpfs there, or leave --shm-name out: a memfd needs none",
        );
    };
    let unit = found.fragment_size();
    let (size, free) = (found.blocks() * unit, found.blocks_available() * unit);
    if settings.source == Source::Daemon {
        return Finding::ok(
            CHECK,
            format!(
                "{name} is in it; {} of {} are free",
                human_bytes(free),
                human_bytes(size)
            ),
        );
    }
    let Some(pool_bytes) = settings.pool_bytes() else {
        return Finding::not_checked(CHECK, "the size of the pool is not known");
    };
    // A segment of that name is replaced, and its bytes with it.
    let own =
        fs::metadata(format!("/dev/shm/{}", name.trim_start_matches('/'))).map_or(0, |file| {
            use std::os::unix::fs::MetadataExt as _;
            file.blocks() * 512
        });
    if size == 0 || free + own >= pool_bytes {
        return Finding::ok(
            CHECK,
            format!(
                "{} of {} are free for {name}",
                human_bytes(free),
                human_bytes(size)
            ),
        );
    }
    Finding::problem(
        CHECK,
        format!(
            "--shm-name {name} puts a pool of {} into /dev/shm, where {} of {} are free",
            human_bytes(pool_bytes),
            human_bytes(free),
            human_bytes(size)
        ),
        format!(
            "mount -o remount,size={}M /dev/shm (docker: --shm-size), a smaller --l1-size-gb, or leave --shm-name out: \
             a memfd is not bound by it",
            (pool_bytes + (size - free)).div_ceil(1 << 20)
        ),
    )
}

/// Whether the daemon may open as many descriptors as its sessions take.
pub fn descriptors(scene: &Scene<'_>) -> Finding {
    const CHECK: &str = "descriptors";
    let Some(state) = scene.daemon.state() else {
        return Finding::not_checked(CHECK, "only a daemon that serves an admin tells its limit");
    };
    let (limit, wanted) = (state.descriptor_limit, state.descriptors_wanted);
    if limit < wanted {
        return Finding::problem(
            CHECK,
            format!(
                "the daemon may open {limit} descriptors and --max-sessions {} needs {wanted}: fewer sessions will open",
                state.limits.max_sessions
            ),
            format!(
                "raise LimitNOFILE= of its unit (or ulimit -n) to {wanted}, or lower --max-sessions"
            ),
        );
    }
    Finding::ok(
        CHECK,
        format!("the daemon may open {limit}, and needs {wanted} at most"),
    )
}

/// Whether the daemon may lock its pool, when it is asked to.
pub fn locked_memory(scene: &Scene<'_>) -> Finding {
    const CHECK: &str = "locked memory";
    let settings = &scene.settings;
    if matches!(settings.source, Source::Nobody(_) | Source::Refused(_)) {
        return Finding::not_checked(CHECK, "whether hostkvd uses --mlock is not known");
    }
    if !settings.is("mlock") {
        return Finding::ok(CHECK, "not used: --mlock is not given");
    }
    let whose = scene
        .daemon
        .pid()
        .map_or("self".to_owned(), |pid| pid.to_string());
    let Some(limit) = memlock_of(&whose) else {
        return Finding::not_checked(CHECK, format!("/proc/{whose}/limits can't be read"));
    };
    let wanted = settings.pool_bytes().unwrap_or(0);
    if limit < wanted && scene.daemon.state().is_none_or(|state| state.uid != 0) {
        return Finding::problem(
            CHECK,
            format!(
                "--mlock locks {} and the limit is {}",
                human_bytes(wanted),
                human_bytes(limit)
            ),
            "set LimitMEMLOCK=infinity in the daemon's unit (or ulimit -l unlimited), or leave --mlock out",
        );
    }
    Finding::ok(CHECK, "the daemon may lock its pool")
}

fn memlock_of(whose: &str) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{whose}/limits")).ok()?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("Max locked memory"))?;
    match line.split_whitespace().next()? {
        "unlimited" => Some(u64::MAX),
        number => number.parse().ok(),
    }
}

/// Whether the metrics are served, or could be.
pub fn metrics_port(scene: &Scene<'_>) -> Finding {
    const CHECK: &str = "metrics port";
    if let Some(state) = scene.daemon.state() {
        return match &state.metrics_address {
            None => Finding::ok(CHECK, "off: --disable-prometheus is given"),
            Some(address) => served_metrics(address),
        };
    }
    if scene.daemon.is_up() {
        return Finding::not_checked(
            CHECK,
            "only a daemon that serves an admin tells where its metrics are",
        );
    }
    let settings = &scene.settings;
    if matches!(settings.source, Source::Nobody(_) | Source::Refused(_)) {
        return Finding::not_checked(CHECK, "the port that hostkvd would use is not known");
    }
    if settings.is("disable_prometheus") {
        return Finding::ok(CHECK, "off: --disable-prometheus is given");
    }
    let host: IpAddr = match settings
        .text("prometheus_host")
        .unwrap_or("127.0.0.1")
        .parse()
    {
        Ok(host) => host,
        Err(_) => return Finding::not_checked(CHECK, "--prometheus-host is no address"),
    };
    let port = settings.number("prometheus_port").unwrap_or(9090.0) as u16;
    match TcpListener::bind((host, port)) {
        Ok(_) => Finding::ok(CHECK, format!("{} is free", SocketAddr::new(host, port))),
        Err(error) => Finding::problem(
            CHECK,
            format!(
                "hostkvd could not serve its metrics at {}: {error}",
                SocketAddr::new(host, port)
            ),
            format!(
                "find who has it (ss -ltnp 'sport = :{port}'; a Prometheus server itself also uses 9090) and stop that, \
                 or give hostkvd another --prometheus-port"
            ),
        ),
    }
}

fn served_metrics(address: &str) -> Finding {
    const CHECK: &str = "metrics port";
    match health_of(address) {
        Ok(answer) if answer.starts_with("HTTP/1.1 200") => {
            Finding::ok(CHECK, format!("served at http://{address}/metrics"))
        }
        Ok(answer) => Finding::problem(
            CHECK,
            format!(
                "the endpoint at {address} does not say that the daemon serves: {}",
                answer.lines().next().unwrap_or("an empty answer")
            ),
            "see the daemon's log",
        ),
        Err(error) => Finding::problem(
            CHECK,
            format!("the daemon's endpoint at {address} does not answer: {error}"),
            "look from the daemon's own network namespace, and see its log",
        ),
    }
}

fn health_of(address: &str) -> std::io::Result<String> {
    let mut address: SocketAddr = address.parse().map_err(std::io::Error::other)?;
    if address.ip().is_unspecified() {
        address.set_ip(match address {
            SocketAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
            SocketAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
        });
    }
    let mut stream = TcpStream::connect_timeout(&address, METRICS_PATIENCE)?;
    stream.set_read_timeout(Some(METRICS_PATIENCE))?;
    stream.set_write_timeout(Some(METRICS_PATIENCE))?;
    stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut answer = [0; 64];
    let len = stream.read(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer[..len]).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_of_linux_are_understood() {
        for (release, wanted) in [
            ("6.18.0", Some((6, 18))),
            ("5.10.0-28-amd64", Some((5, 10))),
            ("6.1-rc1", Some((6, 1))),
            ("", None),
            ("next", None),
        ] {
            assert_eq!(version_of(release), wanted, "{release}");
        }
    }
}
