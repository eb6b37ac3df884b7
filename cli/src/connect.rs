//! How commands reach the daemon: one session of the Rust client, small and named after the command.

use std::path::Path;

use hostkv::admin::SessionState;
use hostkv::session::{KeyspaceConfig, READ_ONLY, Session, SessionConfig};
use hostkv::{KeyspaceId, Status};

use crate::args::Common;
use crate::failure::Failure;

/// Pin slots of the tool's sessions; the fewest that there are.
const PIN_SLOTS: u32 = 256;
/// A salt file that is longer holds something else.
const MAX_SALT_FILE_BYTES: usize = 4096;

/// A session that only reads and asks.
pub fn reader(common: &Common, command: &str) -> Result<Session, Failure> {
    Ok(open(common, command, READ_ONLY, common.timeout_ms)?)
}

/// A session that may write.
pub fn writer(common: &Common, command: &str) -> Result<Session, Failure> {
    Ok(open(common, command, 0, common.timeout_ms)?)
}

/// A session whose error is still to be looked at.
pub fn open(
    common: &Common,
    command: &str,
    flags: u32,
    timeout_ms: u32,
) -> hostkv::Result<Session> {
    open_at(common.socket.as_deref(), command, flags, timeout_ms)
}

/// A session at this socket, or the usual one.
pub fn open_at(
    socket: Option<&Path>,
    command: &str,
    flags: u32,
    timeout_ms: u32,
) -> hostkv::Result<Session> {
    Session::open(&SessionConfig {
        flags,
        socket_path: socket.map(Path::to_owned),
        client_name: format!("hostkv {command}"),
        pin_slot_count: PIN_SLOTS,
        timeout_ms,
    })
}

/// The tenant's salt: of the file, else of the environment. Never of the command line, where every user of the host
/// could read it.
pub fn salt(common: &Common) -> Result<Option<String>, Failure> {
    let Some(path) = &common.salt_file else {
        return match std::env::var("HOSTKV_SALT") {
            Ok(salt) if salt.is_empty() => Ok(None),
            Ok(salt) => Ok(Some(salt)),
            Err(std::env::VarError::NotPresent) => Ok(None),
            Err(std::env::VarError::NotUnicode(_)) => {
                Err(Failure::usage("HOSTKV_SALT is not UTF-8; salts are"))
            }
        };
    };
    let bytes = std::fs::read(path)
        .map_err(|error| Failure::file("reading the salt file", path.display(), &error))?;
    if bytes.len() > MAX_SALT_FILE_BYTES {
        return Err(Failure::usage(format!(
            "the salt file {} has {} bytes; a salt has at most 128",
            path.display(),
            bytes.len()
        )));
    }
    let mut salt = String::from_utf8(bytes).map_err(|_| {
        Failure::usage(format!(
            "the salt file {} is not UTF-8; salts are",
            path.display()
        ))
    })?;
    if salt.ends_with('\n') {
        salt.pop();
        if salt.ends_with('\r') {
            salt.pop();
        }
    }
    Ok(Some(salt))
}

/// Opens a model's keyspace as it stands: whatever its layout is, and without taking it over.
pub fn keyspace(common: &Common, session: &Session, model: &str) -> Result<KeyspaceId, Failure> {
    let config = KeyspaceConfig {
        model_name: model.to_owned(),
        cache_salt: salt(common)?.unwrap_or_default(),
        layout_fingerprint: 0,
        tokens_per_key: 0,
        as_it_stands: true,
    };
    session
        .open_keyspace(&config)
        .map_err(|error| match error.status {
            Status::InvalidArgument => Failure::usage(error.message),
            _ => Failure::from(error),
        })
}

/// What a session may do, in words.
pub fn rights(session: &SessionState) -> String {
    let mut words = vec![if session.can_write {
        "read-write"
    } else {
        "read-only"
    }];
    if session.is_admin {
        words.push("admin");
    }
    if session.is_orphaned {
        words.push("ORPHAN");
    }
    words.join(" ")
}
