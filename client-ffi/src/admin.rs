//! What an operator asks of the daemon: which objects there are, what it knows of itself and its sessions, a new look at
//! its configuration.
//!
//! The tool calls this, on a session whose user is an admin (the daemon's own, root, or one of `--admin-uid`); any
//! other gets PERMISSION. It is no part of the C interface: engines have no use for it.
//!
//! ```text
//!   objects, state --> a page --next_cursor--> a page --> ... --> a page without one
//! ```

use crate::error::{Error, Result};
use crate::session::Session;
use hostkv_shm_protocol::status::Status;
use hostkv_shm_protocol::wire::MAX_LIST_OBJECTS;
use hostkv_shm_protocol::wire::reply::Reply;
pub use hostkv_shm_protocol::wire::report::{
    DaemonState, ListedObject, ObjectPage, PoolCounters, PoolLimits, PoolUsage, Reloaded,
    SessionState, SettingState, StatePage, TierState,
};
use hostkv_shm_protocol::wire::request::{List, Request, list_flags};
use serde::de::DeserializeOwned;
use std::path::PathBuf;

/// Which objects to list; the default is all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ObjectFilter {
    /// Only those of this model.
    pub model_name: Option<String>,
    /// Only those of this tenant.
    pub cache_salt: Option<String>,
}

/// Where a client without a socket of its own choice finds the daemon: `HOSTKV_SOCKET`, the user's runtime directory,
/// `/run`; the first that is set, or exists.
pub fn usual_socket() -> Result<PathBuf> {
    Ok(crate::connection::hello::socket_path(None)?)
}

impl Session {
    /// The page of the objects that begins at `cursor`; 0 = the first. At most `limit` objects, itself at most 1024; a
    /// page may have fewer, even none, and not be the last.
    pub fn list_page(&self, filter: &ObjectFilter, cursor: u64, limit: u32) -> Result<ObjectPage> {
        if limit == 0 || limit as usize > MAX_LIST_OBJECTS {
            return Err(Error::invalid(format!(
                "a page of {limit} objects was asked; allowed are 1 to {MAX_LIST_OBJECTS}"
            )));
        }
        let bit = |is_set: bool, bit| if is_set { bit } else { 0 };
        let request = Request::List(List {
            flags: bit(filter.model_name.is_some(), list_flags::BY_MODEL)
                | bit(filter.cache_salt.is_some(), list_flags::BY_SALT),
            limit,
            cursor,
            model_name: filter.model_name.clone().unwrap_or_default(),
            cache_salt: filter.cache_salt.clone().unwrap_or_default(),
        });
        match self.ask_daemon(&request)? {
            Reply::Listed(json) => parse("LIST", &json),
            _ => Err(self.strange_reply("LIST")),
        }
    }

    /// The page of the daemon's state that begins after session `cursor`; 0 = the first, which has the daemon itself.
    pub fn state_page(&self, cursor: u64) -> Result<StatePage> {
        match self.ask_daemon(&Request::State { cursor })? {
            Reply::State(json) => parse("STATE", &json),
            _ => Err(self.strange_reply("STATE")),
        }
    }

    /// The daemon's state and all its sessions.
    pub fn state(&self) -> Result<(DaemonState, Vec<SessionState>)> {
        let mut page = self.state_page(0)?;
        let daemon = page.daemon.take().ok_or_else(|| {
            Error::internal(
                "the first page of the state does not tell of the daemon; report this defect of hostkvd",
            )
        })?;
        let mut sessions = page.sessions;
        let mut last = 0;
        while let Some(cursor) = page.next_cursor.filter(|cursor| *cursor > last) {
            last = cursor;
            page = self.state_page(cursor)?;
            sessions.append(&mut page.sessions);
        }
        Ok((daemon, sessions))
    }

    /// Has the daemon read its configuration again, and tells what changed.
    pub fn reload(&self) -> Result<Reloaded> {
        match self.ask_daemon(&Request::Reload)? {
            Reply::Reloaded(json) => parse("RELOAD", &json),
            _ => Err(self.strange_reply("RELOAD")),
        }
    }
}

fn parse<T: DeserializeOwned>(message: &str, json: &str) -> Result<T> {
    serde_json::from_str(json).map_err(|error| {
        Error::new(
            Status::Internal,
            format!(
                "the reply to {message} is not what this release expects ({error}); install hostkv and hostkvd of one \
                 release"
            ),
        )
    })
}
