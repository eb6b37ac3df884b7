//! A control group of a test's own, of whichever version the machine has.
//!
//! ```text
//!   Cgroup::with_memory(bytes)  v1 memory.limit_in_bytes   v2 memory.max
//!   Cgroup::freezable()         v1 freezer.state           v2 cgroup.freeze
//! ```
//!
//! It is a folder under the mount of its controller; a drop removes it when no process is left in it.

use std::fs;
use std::path::{Path, PathBuf};

use hostkv_shm_protocol::sync::{AtomicU64, Ordering};

/// The group.
#[derive(Debug)]
pub struct Cgroup {
    folder: PathBuf,
    is_v2: bool,
}

/// Where a controller is mounted, and whether that is version 2.
fn mount_of(controller: &str) -> Result<(PathBuf, bool), String> {
    let mounts =
        fs::read_to_string("/proc/mounts").map_err(|error| format!("/proc/mounts: {error}"))?;
    let mut second = None;
    for line in mounts.lines() {
        let mut words = line.split(' ').skip(1);
        let (Some(place), Some(kind), Some(options)) = (words.next(), words.next(), words.next())
        else {
            continue;
        };
        if kind == "cgroup" && options.split(',').any(|option| option == controller) {
            return Ok((PathBuf::from(place), false));
        }
        if kind == "cgroup2" {
            second = Some(PathBuf::from(place));
        }
    }
    // Freezing belongs to the core of version 2, memory has to be switched on for groups below.
    let has_it = |place: &PathBuf| {
        controller == "freezer"
            || fs::read_to_string(place.join("cgroup.subtree_control"))
                .is_ok_and(|list| list.split_whitespace().any(|word| word == controller))
    };
    match second.filter(has_it) {
        Some(place) => Ok((place, true)),
        None => Err(format!(
            "no cgroup with the controller {controller} is mounted"
        )),
    }
}

impl Cgroup {
    fn new(controller: &str) -> Result<Cgroup, String> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let (place, is_v2) = mount_of(controller)?;
        // Relaxed: only a number of its own for each.
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let folder = place.join(format!("hostkv-test-{}-{number}", std::process::id()));
        fs::create_dir(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        Ok(Cgroup { folder, is_v2 })
    }

    fn write(&self, file: &str, text: &str) -> Result<(), String> {
        let path = self.folder.join(file);
        fs::write(&path, text).map_err(|error| format!("{}: {error}", path.display()))
    }

    /// A group whose processes may use this much memory, or why there is none.
    pub fn with_memory(bytes: u64) -> Result<Cgroup, String> {
        let group = Cgroup::new("memory")?;
        let file = if group.is_v2 {
            "memory.max"
        } else {
            "memory.limit_in_bytes"
        };
        group.write(file, &bytes.to_string())?;
        Ok(group)
    }

    /// A group whose processes can be frozen, or why there is none.
    pub fn freezable() -> Result<Cgroup, String> {
        let group = Cgroup::new("freezer")?;
        group.freeze(false)?;
        Ok(group)
    }

    /// The file that takes the number of a process to be moved here.
    pub fn procs(&self) -> PathBuf {
        self.folder.join("cgroup.procs")
    }

    /// Moves a process here.
    pub fn take(&self, pid: u32) -> Result<(), String> {
        self.write("cgroup.procs", &pid.to_string())
    }

    /// Freezes all its processes, or lets them go on.
    pub fn freeze(&self, is_frozen: bool) -> Result<(), String> {
        match (self.is_v2, is_frozen) {
            (true, true) => self.write("cgroup.freeze", "1"),
            (true, false) => self.write("cgroup.freeze", "0"),
            (false, true) => self.write("freezer.state", "FROZEN"),
            (false, false) => self.write("freezer.state", "THAWED"),
        }
    }

    /// Its folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let _ = self.freeze(false);
        // The kernel lets go of ended processes a moment after they are reaped.
        for _ in 0..200 {
            if fs::remove_dir(&self.folder).is_ok() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        eprintln!(
            "{} cannot be removed: a process is left in it",
            self.folder.display()
        );
    }
}
