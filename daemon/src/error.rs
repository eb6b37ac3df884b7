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
use std::path::PathBuf;
use std::process::ExitCode;

use crate::config::ConfigError;
use crate::logging;
use crate::metrics::{BindError, ServeError};
use crate::segment::SegmentError;
use crate::systemd::listen::ListenError;
use crate::telemetry::TelemetryError;
use crate::tiers::TierError;

/// A fault that ends the process.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration is refused.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The kernel is too old, or a segment can't be had.
    #[error(transparent)]
    Segment(#[from] SegmentError),
    /// The metrics address can't be had.
    #[error(transparent)]
    MetricsAddress(#[from] BindError),
    /// A processor of the telemetry can't begin.
    #[error(transparent)]
    Telemetry(#[from] TelemetryError),
    /// A tier can't be had.
    #[error(transparent)]
    Tier(#[from] TierError),
    /// The metrics endpoint can't begin to serve.
    #[error(transparent)]
    MetricsEndpoint(#[from] ServeError),
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
    /// Something else is where the socket is to be.
    #[error("what is at {path:?} is no socket; remove it or give another --socket")]
    NoSocketAtPath {
        /// The path.
        path: PathBuf,
    },
    /// The file of the socket that the service manager passed is not there any more.
    #[error(
        "the service manager's socket is not at {path:?} any more, so no client could find it; restart the socket unit"
    )]
    PassedSocketGone {
        /// Where it was.
        path: PathBuf,
    },
    /// What the service manager passed can't be served on.
    #[error(transparent)]
    PassedSocket(#[from] ListenError),
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

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> Vec<StartError> {
        let path = PathBuf::from("/run/hostkv");
        vec![
            ConfigError::NoSocketPlace.into(),
            SegmentError::KernelTooOld {
                release: "5.15".into(),
            }
            .into(),
            StartError::SocketTaken {
                pid: 7,
                path: path.clone(),
            },
            StartError::SocketFolderMissing { path: path.clone() },
            StartError::NoSocketAtPath { path: path.clone() },
            StartError::PassedSocketGone { path },
            ListenError::Several {
                count: 2,
                names: "a, b".into(),
            }
            .into(),
            BindError::PortTaken("127.0.0.1:9090".parse().unwrap()).into(),
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
            "update",
            "--socket",
            "--socket",
            "--socket",
            "restart the socket unit",
            "socket unit",
            "--prometheus-port",
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
}
