//! What the kernel says about memory: machine, memory cgroups, huge pages, `/dev/shm`.
//!
//! Called by `memory` at start-up. All paths hang below a root folder, so that tests can lay out a machine of their
//! own.
//!
//! A daemon is bound by its own memory cgroup and by every ancestor of it. Both generations can be mounted at once;
//! what is not mounted, or has no memory controller, sets no limit.
//!
//! ```text
//!   /proc/self/cgroup     4:memory:/a/b      0::/a/b
//!   /proc/self/mountinfo  where each generation is mounted, and which cgroup is the root of that mount
//!   folders               mount/a/b, mount/a, mount   -> the limit and the usage of each
//! ```

use std::fs;
use std::path::{Path, PathBuf};

use super::HUGE_PAGE_BYTES;
use super::error::{Budget, Resource, SegmentError};
use super::named::SHM_FOLDER;

/// A limit this high is the kernel's way to say that there is none.
const NO_LIMIT_BYTES: u64 = 1 << 60;

/// What a pool needs, by who must provide it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Need {
    /// Ordinary pages: the control segment, and the payload unless it has pages of its own.
    pub memory_bytes: u64,
    /// Pages of the kernel's pool of 2 MiB pages.
    pub huge_pool_bytes: u64,
    /// Part of `memory_bytes` that lies in `/dev/shm`.
    pub shm_bytes: u64,
}

/// Every resource that `need` touches, as it stands now.
pub(super) fn read_budgets(root: &Path, need: &Need) -> Result<Vec<Budget>, SegmentError> {
    let mut budgets = Vec::new();
    if need.memory_bytes > 0 {
        budgets.push(machine_budget(root, need.memory_bytes)?);
        budgets.extend(cgroup_budgets(root, need.memory_bytes)?);
    }
    if need.huge_pool_bytes > 0 {
        budgets.push(huge_pool_budget(root, need.huge_pool_bytes)?);
    }
    if need.shm_bytes > 0 {
        budgets.extend(shm_budget(
            &below(root, Path::new(SHM_FOLDER)),
            need.shm_bytes,
        )?);
    }
    Ok(budgets)
}

fn machine_budget(root: &Path, need_bytes: u64) -> Result<Budget, SegmentError> {
    let path = below(root, Path::new("/proc/meminfo"));
    let text = read(&path)?;
    let field = |name: &str| {
        text.lines()
            .find_map(|line| {
                line.strip_prefix(name)?
                    .strip_prefix(':')?
                    .trim()
                    .strip_suffix("kB")?
                    .trim()
                    .parse()
                    .ok()
            })
            .and_then(|kib: u64| kib.checked_mul(1024))
            .ok_or_else(|| SegmentError::KernelFile {
                path: path.clone(),
                reason: format!("no line {name}"),
            })
    };
    Ok(Budget {
        resource: Resource::Machine,
        need_bytes,
        total_bytes: field("MemTotal")?,
        available_bytes: field("MemAvailable")?,
    })
}

fn huge_pool_budget(root: &Path, need_bytes: u64) -> Result<Budget, SegmentError> {
    let folder = below(root, Path::new("/sys/kernel/mm/hugepages/hugepages-2048kB"));
    // A kernel without hugetlb has no such folder: a pool of none.
    let pages = |name: &str| read_number(&folder.join(name)).unwrap_or(0);
    // Reserved pages are free but promised to others; surplus pages may be made on demand.
    let overcommit = pages("nr_overcommit_hugepages").saturating_sub(pages("surplus_hugepages"));
    let free = pages("free_hugepages").saturating_sub(pages("resv_hugepages"));
    Ok(Budget {
        resource: Resource::HugePages,
        need_bytes,
        total_bytes: (pages("nr_hugepages") + overcommit).saturating_mul(HUGE_PAGE_BYTES),
        available_bytes: (free + overcommit).saturating_mul(HUGE_PAGE_BYTES),
    })
}

/// The file system of named segments; a tmpfs without a size sets no limit.
pub(super) fn shm_budget(folder: &Path, need_bytes: u64) -> Result<Option<Budget>, SegmentError> {
    let stat = nix::sys::statvfs::statvfs(folder).map_err(|errno| SegmentError::KernelFile {
        path: folder.to_path_buf(),
        reason: errno.to_string(),
    })?;
    if stat.blocks() == 0 {
        return Ok(None);
    }
    let bytes = |blocks: u64| blocks.saturating_mul(stat.fragment_size());
    Ok(Some(Budget {
        resource: Resource::ShmFileSystem,
        need_bytes,
        total_bytes: bytes(stat.blocks()),
        available_bytes: bytes(stat.blocks_available()),
    }))
}

/// The generation of a cgroup hierarchy: what its files are called.
#[derive(Debug, Clone, Copy)]
struct Generation {
    limits: &'static [&'static str],
    usage: &'static str,
    inactive_file: &'static str,
}

const V1: Generation = Generation {
    limits: &["memory.limit_in_bytes"],
    usage: "memory.usage_in_bytes",
    inactive_file: "total_inactive_file",
};

/// Above memory.high an allocation is slowed without end when nothing can be reclaimed, so it limits a pool too.
const V2: Generation = Generation {
    limits: &["memory.max", "memory.high"],
    usage: "memory.current",
    inactive_file: "inactive_file",
};

fn cgroup_budgets(root: &Path, need_bytes: u64) -> Result<Vec<Budget>, SegmentError> {
    let memberships = read(&below(root, Path::new("/proc/self/cgroup")))?;
    let mounts = read(&below(root, Path::new("/proc/self/mountinfo")))?;
    let mut budgets = Vec::new();
    for line in memberships.lines() {
        // number:controllers:path
        let mut fields = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) =
            (fields.next(), fields.next(), fields.next())
        else {
            continue;
        };
        let generation = if controllers.is_empty() {
            V2
        } else if controllers.split(',').any(|name| name == "memory") {
            V1
        } else {
            continue;
        };
        let Some((mount, mount_root)) = cgroup_mount(&mounts, controllers.is_empty()) else {
            log::debug!(
                "no mount of cgroup hierarchy {controllers:?}, so its limits are not known"
            );
            continue;
        };
        let mount = below(root, &mount);
        // A path outside the mount's root (a container with the host's cgroup path) is the mount itself.
        let inside = Path::new(path)
            .strip_prefix(&mount_root)
            .unwrap_or(Path::new(""));
        for folder in mount
            .join(inside)
            .ancestors()
            .take_while(|folder| folder.starts_with(&mount))
        {
            budgets.extend(budget_of_cgroup(folder, generation, need_bytes));
        }
    }
    Ok(budgets)
}

fn budget_of_cgroup(folder: &Path, generation: Generation, need_bytes: u64) -> Option<Budget> {
    // The root of a hierarchy has no limit file, and `max` is not a number: both mean that nothing limits.
    let total_bytes = generation
        .limits
        .iter()
        .filter_map(|name| read_number(&folder.join(name)))
        .filter(|&limit| limit < NO_LIMIT_BYTES)
        .min()?;
    let usage_bytes = read_number(&folder.join(generation.usage)).unwrap_or(0);
    // Pages of files that nobody used lately are charged but go away on demand.
    let inactive_bytes = fs::read_to_string(folder.join("memory.stat"))
        .ok()
        .and_then(|text| {
            text.lines().find_map(|line| {
                line.strip_prefix(generation.inactive_file)?
                    .trim()
                    .parse::<u64>()
                    .ok()
            })
        })
        .unwrap_or(0);
    Some(Budget {
        resource: Resource::Cgroup {
            path: folder.to_path_buf(),
        },
        need_bytes,
        total_bytes,
        available_bytes: total_bytes.saturating_sub(usage_bytes.saturating_sub(inactive_bytes)),
    })
}

/// Mount point and root of the memory hierarchy of one generation.
fn cgroup_mount(mountinfo: &str, is_v2: bool) -> Option<(PathBuf, PathBuf)> {
    mountinfo.lines().find_map(|line| {
        // id parent device root mount-point options [tags] - type source super-options
        let (left, right) = line.split_once(" - ")?;
        let mut left = left.split(' ').skip(3);
        let (mount_root, mount) = (left.next()?, left.next()?);
        let mut right = right.split(' ');
        let (kind, options) = (right.next()?, right.nth(1)?);
        let fits = match is_v2 {
            true => kind == "cgroup2",
            false => kind == "cgroup" && options.split(',').any(|option| option == "memory"),
        };
        fits.then(|| (unescape(mount), unescape(mount_root)))
    })
}

/// mountinfo writes space, tab, newline and backslash as three octal digits.
fn unescape(text: &str) -> PathBuf {
    let mut plain = text.to_string();
    for (code, letter) in [
        ("\\040", " "),
        ("\\011", "\t"),
        ("\\012", "\n"),
        ("\\134", "\\"),
    ] {
        plain = plain.replace(code, letter);
    }
    PathBuf::from(plain)
}

fn below(root: &Path, absolute: &Path) -> PathBuf {
    root.join(absolute.strip_prefix("/").unwrap_or(absolute))
}

fn read(path: &Path) -> Result<String, SegmentError> {
    fs::read_to_string(path).map_err(|error| SegmentError::KernelFile {
        path: path.to_path_buf(),
        reason: error.to_string(),
    })
}

fn read_number(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    /// A machine of 8 GiB with 6 GiB available; `files` are added to it.
    fn machine(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        let base = [
            (
                "/proc/meminfo",
                "MemTotal:        8388608 kB\nMemFree:   1 kB\nMemAvailable:    6291456 kB\n",
            ),
            ("/proc/self/cgroup", ""),
            ("/proc/self/mountinfo", ""),
        ];
        for (path, text) in base.iter().chain(files) {
            let path = below(root.path(), Path::new(path));
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        root
    }

    fn figures(root: &tempfile::TempDir) -> Vec<(u64, u64)> {
        let need = Need {
            memory_bytes: GIB,
            ..Need::default()
        };
        let budgets = read_budgets(root.path(), &need).unwrap();
        budgets
            .iter()
            .map(|budget| (budget.total_bytes, budget.available_bytes))
            .collect()
    }

    #[test]
    fn without_cgroups_the_machine_is_the_only_limit() {
        assert_eq!(figures(&machine(&[])), [(8 * GIB, 6 * GIB)]);
    }

    #[test]
    fn every_cgroup_from_the_own_one_up_to_the_root_limits_on_v2() {
        let root = machine(&[
            ("/proc/self/cgroup", "0::/kube/pod one/main\n"),
            (
                "/proc/self/mountinfo",
                "41 31 0:38 / /sys/fs/cgroup rw,relatime shared:9 - cgroup2 cgroup2 rw\n",
            ),
            ("/sys/fs/cgroup/kube/pod one/main/memory.max", "max\n"),
            (
                "/sys/fs/cgroup/kube/pod one/main/memory.high",
                "3221225472\n",
            ),
            (
                "/sys/fs/cgroup/kube/pod one/main/memory.current",
                "1073741824\n",
            ),
            ("/sys/fs/cgroup/kube/pod one/memory.max", "2147483648\n"),
            ("/sys/fs/cgroup/kube/pod one/memory.current", "1610612736\n"),
            (
                "/sys/fs/cgroup/kube/pod one/memory.stat",
                "anon 5\ninactive_file 1073741824\nactive_file 7\n",
            ),
            ("/sys/fs/cgroup/kube/memory.max", "max\n"),
        ]);
        assert_eq!(
            figures(&root),
            [
                (8 * GIB, 6 * GIB),
                (3 * GIB, 2 * GIB),
                (2 * GIB, 3 * GIB / 2)
            ]
        );
    }

    #[test]
    fn a_v1_limit_counts_and_its_huge_number_for_none_does_not() {
        let root = machine(&[
            (
                "/proc/self/cgroup",
                "5:cpu,cpuacct:/x\n4:memory:/docker/abc\n0::/\n",
            ),
            (
                "/proc/self/mountinfo",
                "32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu,cpuacct\n\
                 35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n",
            ),
            (
                "/sys/fs/cgroup/memory/docker/abc/memory.limit_in_bytes",
                "4294967296\n",
            ),
            (
                "/sys/fs/cgroup/memory/docker/abc/memory.usage_in_bytes",
                "1073741824\n",
            ),
            (
                "/sys/fs/cgroup/memory/docker/abc/memory.stat",
                "inactive_file 1\ntotal_inactive_file 0\n",
            ),
            (
                "/sys/fs/cgroup/memory/memory.limit_in_bytes",
                "9223372036854771712\n",
            ),
        ]);
        assert_eq!(figures(&root), [(8 * GIB, 6 * GIB), (4 * GIB, 3 * GIB)]);
    }

    #[test]
    fn in_a_container_the_mounts_root_is_taken_off_the_path() {
        for membership in ["4:memory:/docker/abc\n", "4:memory:/elsewhere\n"] {
            let root = machine(&[
                ("/proc/self/cgroup", membership),
                (
                    "/proc/self/mountinfo",
                    "35 31 0:32 /docker/abc /sys/fs/c\\040group ro,nosuid master:11 - cgroup cgroup rw,memory\n",
                ),
                ("/sys/fs/c group/memory.limit_in_bytes", "4294967296\n"),
                ("/sys/fs/c group/memory.usage_in_bytes", "0\n"),
            ]);
            assert_eq!(
                figures(&root),
                [(8 * GIB, 6 * GIB), (4 * GIB, 4 * GIB)],
                "{membership}"
            );
        }
    }

    #[test]
    fn huge_pages_promised_to_others_are_not_available() {
        let folder = "/sys/kernel/mm/hugepages/hugepages-2048kB";
        let root = machine(&[
            (&format!("{folder}/nr_hugepages"), "1024\n"),
            (&format!("{folder}/free_hugepages"), "600\n"),
            (&format!("{folder}/resv_hugepages"), "88\n"),
        ]);
        let need = Need {
            huge_pool_bytes: GIB,
            ..Need::default()
        };
        let budgets = read_budgets(root.path(), &need).unwrap();
        assert_eq!(budgets.len(), 1);
        assert_eq!(
            (budgets[0].total_bytes, budgets[0].available_bytes),
            (2 * GIB, GIB)
        );
        let none = read_budgets(machine(&[]).path(), &need).unwrap();
        assert_eq!((none[0].total_bytes, none[0].available_bytes), (0, 0));
    }

    #[test]
    fn a_meminfo_that_cannot_be_read_is_an_error_that_names_it() {
        let root = machine(&[("/proc/meminfo", "MemTotal: 5 kB\n")]);
        let error = read_budgets(
            root.path(),
            &Need {
                memory_bytes: 1,
                ..Need::default()
            },
        )
        .expect_err("no line");
        assert!(
            error.to_string().contains("meminfo") && error.to_string().contains("MemAvailable"),
            "{error}"
        );
    }

    #[test]
    fn this_machine_can_be_read() {
        let need = Need {
            memory_bytes: 1,
            huge_pool_bytes: 1,
            shm_bytes: 1,
        };
        let budgets = read_budgets(Path::new("/"), &need).unwrap();
        assert!(
            budgets[0].total_bytes >= budgets[0].available_bytes && budgets[0].available_bytes > 0
        );
        for budget in &budgets {
            assert!(budget.available_bytes <= budget.total_bytes, "{budget:?}");
        }
    }
}
