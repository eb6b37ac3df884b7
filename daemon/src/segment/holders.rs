//! Who still maps a pool of an earlier daemon?
//!
//! A payload stays allocated until the last process that maps it has gone. The start-up asks here when its own
//! pool does not fit, and `hostkv doctor` when somebody wants to know. The answer is read from `/proc/*/maps`, so it
//! names only processes whose maps the caller may read; root sees all.

use std::fs;
use std::io::BufRead;

use super::named;

/// The name that payload memfds have in `/proc/*/maps`.
pub(super) const PAYLOAD_MEMFD_NAME: &str = "hostkv-payload";

/// A process that maps a pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// Its process id.
    pub pid: u32,
    /// Its command name, at most 15 bytes.
    pub comm: String,
}

/// All other processes that map a payload memfd, or the named payload `shm_name`, sorted by pid.
pub fn holders_of_old_pool(shm_name: Option<&str>) -> Vec<Holder> {
    let named_path = shm_name.map(|name| named::segment_path(name).display().to_string());
    let own_pid = std::process::id();
    let Ok(folder) = fs::read_dir("/proc") else {
        log::warn!("/proc cannot be read, so holders of old pools cannot be named");
        return Vec::new();
    };
    let mut holders: Vec<Holder> = folder
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok())
        .filter(|&pid| pid != own_pid && maps_a_pool(pid, named_path.as_deref()))
        .map(|pid| Holder {
            pid,
            comm: comm_of(pid),
        })
        .collect();
    holders.sort_by_key(|holder| holder.pid);
    holders
}

fn maps_a_pool(pid: u32, named_path: Option<&str>) -> bool {
    // A process that has ended meanwhile, or that is none of ours to look at, holds nothing that we could name.
    let Ok(file) = fs::File::open(format!("/proc/{pid}/maps")) else {
        return false;
    };
    std::io::BufReader::new(file)
        .split(b'\n')
        .map_while(Result::ok)
        .any(|line| is_pool_line(&String::from_utf8_lossy(&line), named_path))
}

/// `address perms offset device inode     path[ (deleted)]`
fn is_pool_line(line: &str, named_path: Option<&str>) -> bool {
    let Some(start) = line.find('/') else {
        return false;
    };
    let path = &line[start..];
    let path = path.strip_suffix(" (deleted)").unwrap_or(path);
    path.strip_prefix("/memfd:") == Some(PAYLOAD_MEMFD_NAME) || Some(path) == named_path
}

fn comm_of(pid: u32) -> String {
    fs::read_to_string(format!("/proc/{pid}/comm"))
        .map(|comm| comm.trim_end().to_string())
        .unwrap_or_else(|_| "ended meanwhile".to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_lines_of_a_payload_count() {
        let line = |path: &str| {
            format!(
                "7f0000000000-7f0040000000 rw-s 00000000 00:01 1042                       {path}"
            )
        };
        let named = Some("/dev/shm/pool");
        assert!(is_pool_line(&line("/memfd:hostkv-payload (deleted)"), None));
        assert!(is_pool_line(&line("/memfd:hostkv-payload"), named));
        assert!(is_pool_line(&line("/dev/shm/pool"), named));
        assert!(is_pool_line(&line("/dev/shm/pool (deleted)"), named));
        for other in [
            "/memfd:hostkv-control (deleted)",
            "/memfd:hostkv-payload2 (deleted)",
            "/dev/shm/pool2",
            "/home/memfd:hostkv-payload",
            "[heap]",
            "",
        ] {
            assert!(!is_pool_line(&line(other), named), "{other}");
        }
        assert!(!is_pool_line(&line("/dev/shm/pool"), None));
    }
}
