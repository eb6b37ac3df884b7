//! What can be wrong with a configuration.
//!
//! Made by every part of this folder while the process starts or rereads its file, on the main
//! thread. Each variant prints one sentence that names the setting in the spelling in which it was
//! given (flag, environment variable or key of the file), the value and what is allowed.

use std::io;
use std::path::PathBuf;

use crate::specs::SpecError;
use crate::systemd::listen::ListenError;
use crate::tiers::spec::AdapterSpecError;

/// One reason why a configuration is refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A value outside what the setting allows.
    #[error("{name} is {value:?}; allowed is {allowed}")]
    BadValue {
        /// The flag, the variable, or the key and its file.
        name: String,
        /// The value as it was given.
        value: String,
        /// What may stand there.
        allowed: String,
    },
    /// Two settings, each allowed alone, that contradict each other.
    #[error("{first} and {second} do not go together: {remedy}")]
    BadCombination {
        /// One setting and its value.
        first: String,
        /// The other setting and its value.
        second: String,
        /// The way out.
        remedy: String,
    },
    /// The spec of a part that can't be.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// The specs of the tiers, which can't be.
    #[error(transparent)]
    Adapter(#[from] AdapterSpecError),
    /// A flag that this version does not have.
    #[error("unknown flag {flag:?}{}; hostkvd --help lists all", did_you_mean(.nearest))]
    UnknownFlag {
        /// The flag as it was typed.
        flag: String,
        /// The flag that is spelled most like it.
        nearest: Option<String>,
    },
    /// An argument that belongs to no flag.
    #[error(
        "unexpected argument {argument:?}; allowed are only flags, and hostkvd --help lists all"
    )]
    UnexpectedArgument {
        /// The argument as it was typed.
        argument: String,
    },
    /// A flag given twice that takes one value.
    #[error("{flag} is given more than once; allowed is once")]
    GivenTwice {
        /// The flag.
        flag: String,
    },
    /// A flag at the end of the line, or before another flag, without its value.
    #[error("{flag} lacks its value; allowed is {allowed}")]
    MissingValue {
        /// The flag.
        flag: String,
        /// What may stand there.
        allowed: String,
    },
    /// A switch that was given a value.
    #[error("{flag} is given the value {value:?}; allowed is the flag alone")]
    SwitchWithValue {
        /// The flag.
        flag: String,
        /// The value as it was given.
        value: String,
    },
    /// Arguments that cannot be understood in some other way.
    #[error("{message}; hostkvd --help lists what is allowed")]
    Arguments {
        /// What the argument parser says, as one line.
        message: String,
    },
    /// Bytes that are no text.
    #[error("{name} is not valid UTF-8; allowed is UTF-8 text")]
    NotUtf8 {
        /// Where the bytes stand.
        name: String,
    },
    /// The named configuration file cannot be read.
    #[error(
        "{name} names {path:?}, which cannot be read ({source}); allowed is a readable TOML file"
    )]
    FileUnreadable {
        /// The flag or the variable that names the file.
        name: String,
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The configuration file is no TOML.
    #[error("configuration file {path:?} is not valid TOML at line {line}: {message}")]
    FileSyntax {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// What the TOML parser says, as one line.
        message: String,
    },
    /// A key that this version does not have.
    #[error(
        "configuration file {path:?} has the unknown key {key:?}; allowed are the names of the flags that hostkvd --help lists, with underscores, and log_level"
    )]
    UnknownKey {
        /// The file.
        path: PathBuf,
        /// The key as it stands there.
        key: String,
    },
    /// The group data base cannot be asked.
    #[error(
        "{name} is {value:?}, and looking up that group failed ({source}); allowed is the name of a group of this host"
    )]
    GroupLookup {
        /// The flag, the variable, or the key and its file.
        name: String,
        /// The group as it was given.
        value: String,
        /// What the system says.
        source: io::Error,
    },
    /// The service manager passed a socket that is elsewhere.
    #[error(
        "{name} is {socket:?}, and the socket that the service manager passes is at {passed:?}; leave {name} away, or give the same path to the socket unit"
    )]
    OtherSocketPassed {
        /// The flag, the variable, or the key and its file.
        name: String,
        /// Where the configuration wants it.
        socket: String,
        /// Where it is.
        passed: PathBuf,
    },
    /// What the service manager passed is no socket that can be served on.
    #[error(transparent)]
    PassedSocket(#[from] ListenError),
    /// Nothing says where the socket belongs.
    #[error(
        "there is no folder for the socket: neither RUNTIME_DIRECTORY nor XDG_RUNTIME_DIR names one, and only root uses /run/hostkv; give --socket PATH"
    )]
    NoSocketPlace,
}

impl ConfigError {
    /// 2 for what the operator wrote, 1 for what the environment lacks.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::NoSocketPlace | Self::PassedSocket(_) => 1,
            _ => 2,
        }
    }
}

fn did_you_mean(nearest: &Option<String>) -> String {
    match nearest {
        Some(nearest) => format!(", perhaps {nearest} is meant"),
        None => String::new(),
    }
}
