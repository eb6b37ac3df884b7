//! What the daemon gives up once it has started, so that a daemon that was taken over reaches little.
//!
//! The start-up makes a [`Plan`] from the configuration, and enters the sandbox on the main thread when everything that
//! it needs is open, before it starts the threads that meet what others send. Nothing leaves the sandbox again.
//!
//! ```text
//!   hostkvd-log ── begins ──> landlock, nothing allowed
//!   main ── payload, index, lock file, ports, socket ──> enter ──> workers, telemetry, metrics, loop
//!                                                          ├ landlock: this thread, and those that it starts
//!                                                          └ seccomp: every thread of the process
//! ```
//!
//! The threads of the tiers run by then: landlock leaves them the folders and the network that they are for.
//!
//! `landlock` says which files, ports, abstract sockets and foreign processes there are; `seccomp` which system calls.
//! Each has a table of its own, whose rows say which [`Feature`] wants them: a feature that is switched off gets nothing.
//! A part of the daemon that needs more adds its feature here and its rows there.
//!
//! A refused call fails with EPERM (seccomp) or EACCES (landlock) and goes to the kernel's audit log. It does not kill the
//! daemon: a C library that begins to make a call of which the tables know nothing costs one answer, not the pool of
//! every worker on the host. For an attacker it makes no difference.
//!
//! A kernel that lacks one of the two gives a daemon that goes on without it, and one WARNING ([`Outcome::say`]).

mod landlock;
mod seccomp;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

pub use self::landlock::{Enforced, restrict_to_nothing};
use self::landlock::{Place, Reach};
use crate::config::Config;
use crate::{segment, systemd};

/// A part of the daemon that can be switched off, and needs something of its own while it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Feature {
    /// The metrics endpoint, which may have to build its inner hop anew.
    Metrics,
    /// Telemetry that goes to files, which are rotated.
    EventFiles,
    /// A service manager that is told how the daemon fares.
    ServiceManager,
    /// Tiers, whose threads write files and talk to stores.
    Tiers,
}

/// What the daemon still needs after its start.
#[derive(Clone, Debug)]
pub struct Plan {
    places: Vec<Place>,
    features: Vec<Feature>,
    /// A service manager that listens on an abstract socket can't be told from any other abstract socket.
    keeps_abstract_sockets: bool,
}

impl Plan {
    /// The plan for this configuration, with the folder of the socket and the files of the telemetry.
    pub fn new(config: &Config, socket_folder: &Path, event_files: &[PathBuf]) -> Plan {
        let mut places = vec![
            // Whether a client still has memory, and the process's own figures. What says more of another process
            // is shut all the same, but to root: landlock keeps processes outside of the sandbox from being looked into.
            Place::new("/proc", Reach::Read),
            // The socket and its lock are removed at the end; the inner hop of the metrics gets a name in it.
            Place::new(socket_folder, Reach::Sockets),
        ];
        if let Some(file) = &config.config_file {
            places.extend(landlock::places_to_reread(file));
        }
        if config.pool.shm_name.is_some() {
            places.push(Place::new(segment::SHM_FOLDER, Reach::Remove));
        }
        for file in event_files {
            places.extend(landlock::places_to_rotate(file));
        }
        let wanted = [
            (Feature::Metrics, config.metrics.is_some()),
            (Feature::EventFiles, !event_files.is_empty()),
            (Feature::ServiceManager, systemd::is_heard()),
            (Feature::Tiers, !config.tiers.adapters.is_empty()),
        ];
        Plan {
            places,
            features: wanted
                .into_iter()
                .filter_map(|(feature, is_on)| is_on.then_some(feature))
                .collect(),
            keeps_abstract_sockets: systemd::is_heard_at_abstract_socket(),
        }
    }

    /// Closes this thread in, and by seccomp all others; `log_thread` is what became of the thread that writes the log.
    /// Called with no thread running but that one and those of the tiers.
    pub fn enter(&self, log_thread: Result<Enforced, Lack>) -> Outcome {
        let landlock = landlock::restrict(&self.places, self.keeps_abstract_sockets)
            .and_then(|enforced| log_thread.map(|_| enforced));
        // Last: its filter has no place for the calls that set up either.
        let seccomp = seccomp::restrict(&self.features);
        Outcome { landlock, seccomp }
    }
}

/// Why one of the two is not in force.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Lack {
    /// The kernel was built without it.
    #[error("this kernel was built without it")]
    NotBuilt,
    /// The kernel has it and does not use it.
    #[error("this kernel does not use it")]
    NotEnabled,
    /// A call was refused.
    #[error("{0}")]
    Refused(String),
}

/// What is in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    landlock: Result<Enforced, Lack>,
    seccomp: Result<(), Lack>,
}

impl Outcome {
    /// The one line about the sandbox: at INFO, or at WARNING when a part of it is missing.
    pub fn say(&self) {
        let (level, sentence) = self.sentence();
        log::log!(level, "{sentence}");
    }

    fn sentence(&self) -> (log::Level, String) {
        const FILES: &str = "files, ports and processes";
        const CALLS: &str = "system calls";
        let missing = |name: &str, why: &Lack, open: &str, remedy: &str| {
            format!(
                "{name} is missing ({why}), so all {open} that its user may use stay open to a hostkvd that was taken over; \
                 {remedy}"
            )
        };
        let no_landlock = |why| {
            let remedy =
                "use a kernel with landlock among its security modules (lsm= on its command line)";
            missing("landlock", why, FILES, remedy)
        };
        let no_seccomp = |why| {
            let remedy =
                "use a kernel with CONFIG_SECCOMP_FILTER, and let containers pass the call";
            missing("seccomp", why, CALLS, remedy)
        };
        match (&self.landlock, &self.seccomp) {
            (Ok(enforced), Ok(())) => {
                (log::Level::Info, format!("Sandbox: {enforced} and seccomp"))
            }
            (Err(why), Ok(())) => (
                log::Level::Warn,
                format!("Sandbox: seccomp only: {}", no_landlock(why)),
            ),
            (Ok(enforced), Err(why)) => (
                log::Level::Warn,
                format!("Sandbox: {enforced} only: {}", no_seccomp(why)),
            ),
            (Err(landlock), Err(seccomp)) => (
                log::Level::Warn,
                format!(
                    "Sandbox: none: {}; {}",
                    no_landlock(landlock),
                    no_seccomp(seccomp)
                ),
            ),
        }
    }
}
