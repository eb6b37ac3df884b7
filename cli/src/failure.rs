//! Why a command did not do what was asked: a sentence for a person and an exit code for a program.
//!
//! | code | means |
//! |---|---|
//! | 0 | done |
//! | 1 | failed; `doctor`: something was found |
//! | 2 | the command line is wrong |
//! | 3 | not found: `get`, and `rm` when no key was there |
//! | 4 | the daemon can't be reached |

use std::fmt::Display;
use std::io;

use hostkv::Status;

/// Exit code of what failed.
pub const FAILED: u8 = 1;
/// Exit code of a wrong command line.
pub const USAGE: u8 = 2;
/// Exit code of a key that is not there.
pub const NOT_FOUND: u8 = 3;
/// Exit code of a daemon that can't be reached.
pub const UNREACHABLE: u8 = 4;

/// Why a command ended early.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// The reader of standard output has gone; nobody is to be told.
    Closed,
    /// Something to be told on standard error.
    Told {
        /// The exit code.
        code: u8,
        /// One sentence with the value, the limit and the remedy.
        text: String,
    },
}

impl Failure {
    /// What was asked can't be done.
    pub fn failed(text: impl Into<String>) -> Failure {
        Failure::Told {
            code: FAILED,
            text: text.into(),
        }
    }

    /// The command line makes no sense.
    pub fn usage(text: impl Into<String>) -> Failure {
        Failure::Told {
            code: USAGE,
            text: text.into(),
        }
    }

    /// A key is not there.
    pub fn not_found(text: impl Into<String>) -> Failure {
        Failure::Told {
            code: NOT_FOUND,
            text: text.into(),
        }
    }

    /// A file that can't be read or written.
    pub fn file(what: &str, path: impl Display, error: &io::Error) -> Failure {
        Failure::failed(format!("{what} {path}: {error}"))
    }
}

impl From<hostkv::Error> for Failure {
    fn from(error: hostkv::Error) -> Failure {
        let code = match error.status {
            Status::Disconnected | Status::Timeout => UNREACHABLE,
            Status::NotFound => NOT_FOUND,
            _ => FAILED,
        };
        Failure::Told {
            code,
            text: error.message,
        }
    }
}

/// Writing to standard output failed.
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Failure::Closed,
            _ => Failure::failed(format!("writing to standard output: {error}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_library_says_has_its_exit_code() {
        for (status, wanted) in [
            (Status::Disconnected, UNREACHABLE),
            (Status::Timeout, UNREACHABLE),
            (Status::NotFound, NOT_FOUND),
            (Status::Permission, FAILED),
            (Status::VersionMismatch, FAILED),
        ] {
            let failure = Failure::from(hostkv::Error::new(status, "why"));
            let text = "why".to_owned();
            assert_eq!(failure, Failure::Told { code: wanted, text });
        }
    }

    #[test]
    fn a_closed_pipe_is_nobodys_fault() {
        let closed = io::Error::from(io::ErrorKind::BrokenPipe);
        assert_eq!(Failure::from(closed), Failure::Closed);
        let full = io::Error::from(io::ErrorKind::StorageFull);
        assert!(matches!(
            Failure::from(full),
            Failure::Told { code: FAILED, .. }
        ));
    }
}
