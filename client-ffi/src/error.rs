//! What a call of the library answers when it is not done: a status and one sentence.
//!
//! The layers below have enums of their own ([`crate::connection::ConnectionError`],
//! [`crate::mapping::MappingError`]); here they become the statuses of the C interface. The sentence names the
//! value, the limit and the remedy, because a caller of the C interface sees nothing else.

use crate::connection::ConnectionError;
use crate::mapping::MappingError;
use hostkv_shm_protocol::control::ControlError;
use hostkv_shm_protocol::lease::LeaseError;
use hostkv_shm_protocol::status::Status;
use hostkv_shm_protocol::view::OutOfBounds;
use thiserror::Error;

/// Why a call was not done.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{message}")]
pub struct Error {
    /// The outcome as the C interface numbers it; never OK.
    pub status: Status,
    /// One sentence that names the value, the limit and the remedy.
    pub message: String,
}

/// Result of a call.
pub type Result<T> = core::result::Result<T, Error>;

impl Error {
    /// An error of this status and sentence.
    pub fn new(status: Status, message: impl Into<String>) -> Error {
        Error {
            status,
            message: message.into(),
        }
    }

    /// An argument that is not allowed.
    pub fn invalid(message: impl Into<String>) -> Error {
        Error::new(Status::InvalidArgument, message)
    }

    /// A defect of hostkv itself, on this side or the daemon's.
    pub fn internal(message: impl Into<String>) -> Error {
        Error::new(Status::Internal, message)
    }
}

impl From<ConnectionError> for Error {
    fn from(error: ConnectionError) -> Error {
        let status = match &error {
            ConnectionError::NoDaemon { .. }
            | ConnectionError::Ended { .. }
            | ConnectionError::Protocol(_)
            | ConnectionError::TooManyLate => Status::Disconnected,
            ConnectionError::Denied { .. } => Status::Permission,
            ConnectionError::PathLength { .. } => Status::InvalidArgument,
            ConnectionError::Timeout { .. } => Status::Timeout,
            ConnectionError::Refused { status, .. } => *status,
            ConnectionError::System { .. } => Status::System,
        };
        Error::new(status, error.to_string())
    }
}

impl From<MappingError> for Error {
    fn from(error: MappingError) -> Error {
        let status = match &error {
            MappingError::System { .. } => Status::System,
            MappingError::TooShort { .. } => Status::Internal,
        };
        Error::new(status, error.to_string())
    }
}

impl From<ControlError> for Error {
    fn from(error: ControlError) -> Error {
        let status = match &error {
            ControlError::AbiHash { .. } => Status::VersionMismatch,
            ControlError::TooShort(_) | ControlError::Magic { .. } | ControlError::Field { .. } => {
                Status::Internal
            }
        };
        Error::new(
            status,
            format!("{error}; install the library and the daemon of one release"),
        )
    }
}

impl From<LeaseError> for Error {
    fn from(error: LeaseError) -> Error {
        let status = match &error {
            LeaseError::Foreign { .. } => Status::VersionMismatch,
            LeaseError::TooShort(_) | LeaseError::Recency(_) | LeaseError::Commits(_) => {
                Status::Internal
            }
        };
        Error::new(
            status,
            format!("{error}; install the library and the daemon of one release"),
        )
    }
}

impl From<OutOfBounds> for Error {
    fn from(error: OutOfBounds) -> Error {
        Error::internal(format!("a shared segment is laid out wrongly: {error}"))
    }
}
