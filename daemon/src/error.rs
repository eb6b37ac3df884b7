//! What ends the process, at the start or while it serves.
//!
//! Every part of the daemon hands its fault up as it is; `main` turns it into the last line on
//! standard error and the exit code with [`StartError::report`]. Each sentence carries the values,
//! the limit and the remedy.
//!
//! ```text
//!   2   what the operator wrote: flags, environment, file
//!   1   what the surroundings lack: memory, /dev/shm, port, socket, kernel
//! ```

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use crate::config::ConfigError;
use crate::logging;

/// A fault that ends the process.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration is refused.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The kernel lacks what the daemon stands on.
    #[error("this kernel is Linux {have}, and hostkvd needs {need} or newer; upgrade the kernel")]
    KernelTooOld {
        /// Release of the running kernel.
        have: String,
        /// The oldest release that will do.
        need: String,
    },
    /// The pool can never fit.
    #[error(
        "a pool of {pool_bytes} bytes is more than {limit}, {limit_bytes} bytes; give a smaller --l1-size-gb or raise that limit"
    )]
    PoolTooLarge {
        /// Payload, index and what belongs to them.
        pool_bytes: u64,
        /// What it was compared with.
        limit_bytes: u64,
        /// Whose limit that is, as "the memory of this machine".
        limit: String,
    },
    /// The pool does not fit now, and waiting did not help.
    #[error(
        "a pool of {pool_bytes} bytes does not fit into the {available_bytes} bytes of memory that are available after waiting {} s{}; free memory, give a smaller --l1-size-gb or a longer --start-wait",
        .waited.as_secs(),
        held_by(.holder_pids)
    )]
    MemoryShort {
        /// Payload, index and what belongs to them.
        pool_bytes: u64,
        /// What is available.
        available_bytes: u64,
        /// How long the start waited.
        waited: Duration,
        /// Processes that still map an earlier pool.
        holder_pids: Vec<u32>,
    },
    /// A named segment does not fit into its file system.
    #[error(
        "a segment of {segment_bytes} bytes does not fit into the {free_bytes} free bytes of /dev/shm; enlarge it, remove what is there, or leave out --shm-name"
    )]
    ShmFull {
        /// Size of the segment.
        segment_bytes: u64,
        /// What is free.
        free_bytes: u64,
    },
    /// Another daemon serves on the socket.
    #[error(
        "socket {path:?} is taken by the hostkvd with pid {pid}; stop that one or give another --socket"
    )]
    SocketTaken {
        /// The other daemon.
        pid: u32,
        /// The socket.
        path: PathBuf,
    },
    /// The folder of the socket is not there and is not the daemon's to make.
    #[error("the folder {path:?} of the socket does not exist; make it or give another --socket")]
    SocketFolderMissing {
        /// The folder.
        path: PathBuf,
    },
    /// Somebody listens on the metrics port.
    #[error(
        "the metrics port {addr} is in use, by default also by a Prometheus server itself; give another --prometheus-port, 0 for a free one, or --disable-prometheus"
    )]
    PortTaken {
        /// Address and port.
        addr: SocketAddr,
    },
    /// The named segment exists and belongs to somebody.
    #[error(
        "a shared memory segment {name:?} exists already; give another --shm-name, or remove /dev/shm{name} if nothing uses it"
    )]
    ShmNameTaken {
        /// Its name, with the leading slash.
        name: String,
    },
    /// A system call failed that has no sentence of its own.
    #[error("{what} failed: {source}; {remedy}")]
    System {
        /// What was tried, as "binding the socket /run/hostkv/hostkv.sock".
        what: String,
        /// What the system says.
        source: io::Error,
        /// What the operator can do.
        remedy: String,
    },
}

impl StartError {
    /// The exit code of the process.
    pub fn code(&self) -> u8 {
        match self {
            Self::Config(error) => error.exit_code(),
            _ => 1,
        }
    }

    /// Prints the sentence as a line of standard error and gives the exit code.
    ///
    /// It is the last line if the log was flushed before and nothing is logged after. A reader of
    /// standard error that does not read holds it up for a second at most.
    pub fn report(&self) -> ExitCode {
        logging::write_last_line(&format!("hostkvd: {self}"));
        ExitCode::from(self.code())
    }
}

fn held_by(pids: &[u32]) -> String {
    if pids.is_empty() {
        return String::new();
    }
    let pids: Vec<_> = pids.iter().map(u32::to_string).collect();
    format!(", while pid {} still maps an earlier pool", pids.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> Vec<StartError> {
        let path = PathBuf::from("/run/hostkv");
        vec![
            ConfigError::NoSocketPlace.into(),
            StartError::KernelTooOld {
                have: "5.15".into(),
                need: "6.1".into(),
            },
            StartError::PoolTooLarge {
                pool_bytes: 9,
                limit_bytes: 8,
                limit: "the memory of this machine".into(),
            },
            StartError::MemoryShort {
                pool_bytes: 9,
                available_bytes: 8,
                waited: Duration::from_secs(60),
                holder_pids: vec![17, 18],
            },
            StartError::ShmFull {
                segment_bytes: 9,
                free_bytes: 8,
            },
            StartError::SocketTaken {
                pid: 7,
                path: path.clone(),
            },
            StartError::SocketFolderMissing { path },
            StartError::PortTaken {
                addr: "127.0.0.1:9090".parse().unwrap(),
            },
            StartError::ShmNameTaken { name: "/kv".into() },
            StartError::System {
                what: "binding the socket".into(),
                source: io::Error::from_raw_os_error(libc::EACCES),
                remedy: "give another --socket".into(),
            },
        ]
    }

    #[test]
    fn what_the_surroundings_lack_ends_with_code_1_and_one_line_with_a_remedy() {
        let remedies = [
            "--socket",
            "upgrade",
            "--l1-size-gb",
            "--start-wait",
            "--shm-name",
            "--socket",
            "--socket",
            "--prometheus-port",
            "--shm-name",
            "--socket",
        ];
        for (error, remedy) in all().iter().zip(remedies) {
            let sentence = error.to_string();
            assert_eq!(error.code(), 1, "{sentence}");
            assert!(sentence.contains(remedy), "{sentence}");
            assert!(!sentence.contains('\n'), "{sentence}");
        }
    }

    #[test]
    fn what_the_operator_wrote_ends_with_code_2() {
        let error = StartError::from(ConfigError::GivenTwice {
            flag: "--socket".into(),
        });
        assert_eq!(error.code(), 2);
    }

    #[test]
    fn holders_of_an_earlier_pool_are_named() {
        assert_eq!(held_by(&[]), "");
        let text = held_by(&[17, 18]);
        assert_eq!(text, ", while pid 17, 18 still maps an earlier pool");
    }
}
