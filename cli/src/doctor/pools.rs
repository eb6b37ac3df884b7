//! Who still maps the pool of an earlier daemon? Its memory stays in use for as long.
//!
//! Read from `/proc/*/maps`: a payload memfd that no running hostkvd maps is an old one. Only processes whose maps this
//! user may read can be named; root sees all.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::io::{BufRead as _, BufReader};

use super::{Finding, Scene};
use crate::output::shown;

/// What the maps call a payload.
const PAYLOAD: &str = "/memfd:hostkv-payload";
/// The command name of the daemon.
const DAEMON: &str = "hostkvd";

/// Processes that are named at most.
const NAMED_AT_MOST: usize = 8;

/// Whether an old pool is still held.
pub fn old_pools(_: &Scene<'_>) -> Finding {
    const CHECK: &str = "old pools";
    let Ok(folder) = fs::read_dir("/proc") else {
        return Finding::not_checked(CHECK, "/proc can't be read");
    };
    let mut holders: BTreeMap<u64, Vec<(u32, String)>> = BTreeMap::new();
    let mut current = HashSet::new();
    let mut unreadable = 0;
    for pid in folder.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok()) {
        let Some(inodes) = payloads_of(pid) else {
            unreadable += 1;
            continue;
        };
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        let name = name.trim_end().to_owned();
        for inode in inodes {
            if name == DAEMON {
                current.insert(inode);
            }
            holders.entry(inode).or_default().push((pid, name.clone()));
        }
    }
    holders.retain(|inode, _| !current.contains(inode));
    let named: Vec<String> = holders
        .values()
        .flatten()
        .map(|(pid, name)| format!("{pid} ({})", shown(name)))
        .collect();
    if named.is_empty() {
        let text = match unreadable {
            0 => "nobody maps the pool of a daemon that has ended".to_owned(),
            n => format!(
                "nobody whose maps may be read maps the pool of a daemon that has ended ({n} may not; root sees all)"
            ),
        };
        return Finding::ok(CHECK, text);
    }
    let more = match named.len().saturating_sub(NAMED_AT_MOST) {
        0 => String::new(),
        n => format!(" and {n} more"),
    };
    let shown_names = named[..named.len().min(NAMED_AT_MOST)].join(", ");
    Finding::problem(
        CHECK,
        format!(
            "the pool of a daemon that has ended stays in memory, because it is mapped by pid {shown_names}{more}"
        ),
        "have these processes end their handles (or restart them); until then a new daemon may wait for the memory",
    )
}

/// Inodes of the payloads that a process maps; none when its maps may not be read.
fn payloads_of(pid: u32) -> Option<HashSet<u64>> {
    let file = fs::File::open(format!("/proc/{pid}/maps")).ok()?;
    let mut inodes = HashSet::new();
    for line in BufReader::new(file).split(b'\n') {
        match line {
            Ok(line) => inodes.extend(payload_inode(&String::from_utf8_lossy(&line))),
            // It has ended meanwhile, which is as good as mapping nothing; or it is none of ours to look at.
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => break,
            Err(_) => return None,
        }
    }
    Some(inodes)
}

/// `address perms offset device inode     path[ (deleted)]`
fn payload_inode(line: &str) -> Option<u64> {
    let (fields, path) = line.split_at(line.find('/')?);
    if path.trim_end_matches(" (deleted)") != PAYLOAD {
        return None;
    }
    fields.split_whitespace().nth(4)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_payloads_are_pools() {
        let line = |path: &str| format!("7f00-7f40 rw-s 00000000 00:01 1042      {path}");
        assert_eq!(
            payload_inode(&line("/memfd:hostkv-payload (deleted)")),
            Some(1042)
        );
        for other in [
            "/memfd:hostkv-control (deleted)",
            "/memfd:hostkv-payload2",
            "[heap]",
            "",
        ] {
            assert_eq!(payload_inode(&line(other)), None, "{other}");
        }
    }
}
