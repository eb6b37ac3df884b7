//! A session: one client's life in the daemon, and the calls on it.
//!
//! Engines, the C interface, the tool, tests and benches call this, on any thread; all methods take `&self`.
//! Reads ([`Session::lookup`], [`Session::acquire`]) stay in shared memory; everything else is a request on the
//! socket and ends within the session's timeout.
//!
//! ```text
//!   open --> session --open_keyspace--> keyspace
//!              |--reserve--> reservation --commit--> readable objects
//!              |--acquire--> lease --release-->
//!              |--prefetch--> prefetch --end-->
//!              \--close--> no new calls; leases and reservations go on, the last one ends it all
//! ```

mod checks;
pub(crate) mod granted;
pub(crate) mod inner;
mod keyspaces;
mod life;
pub(crate) mod places;
pub(crate) mod reserving;

use crate::chunk_keys::ChunkKey;
use crate::error::{Error, Result};
use crate::lease::Lease;
use crate::lease_pool::LeaseMemory;
use crate::prefetch::Prefetch;
use crate::reservation::Reservation;
use hostkv_shm_protocol::id::KeyspaceId;
use hostkv_shm_protocol::key::Key;
use hostkv_shm_protocol::status::Status;
use hostkv_shm_protocol::wire::reply::{Audit, Figures, Reply};
use hostkv_shm_protocol::wire::request::{
    Prefetch as WirePrefetch, Request as WireRequest, Resolve, clear_flags, resolve_flags,
};
use inner::{Hold, Inner};
use std::os::fd::RawFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// [`SessionConfig::flags`]: the session will not write.
pub const READ_ONLY: u32 = 1;
/// [`SessionConfig::flags`]: every page of the payload is mapped at open.
pub const POPULATE: u32 = 1 << 1;
/// [`SessionConfig::flags`]: reads use the writable mapping, so that one DMA registration serves both.
pub const SINGLE_MAPPING: u32 = 1 << 2;
/// [`SessionConfig::flags`]: stores take no round trip; what was committed is readable a moment later, or after
/// [`Session::flush`].
pub const ASYNC_COMMIT: u32 = 1 << 3;

/// [`Request::flags`]: acquire pins every present key, not only the leading run.
pub const ACQUIRE_ALL: u32 = 1;
/// [`Request::flags`]: a reserve, alone or behind a commit, is sent and not waited for; [`Reservation::wait`] does that.
pub const RESERVE_NO_WAIT: u32 = 1 << 1;

/// How a session is opened. The default is a writer at the usual socket.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SessionConfig {
    /// [`READ_ONLY`], [`POPULATE`], [`SINGLE_MAPPING`], [`ASYNC_COMMIT`].
    pub flags: u32,
    /// The daemon's socket; `None` looks at `HOSTKV_SOCKET` and the usual places.
    pub socket_path: Option<PathBuf>,
    /// Name for the daemon's log, at most 64 bytes.
    pub client_name: String,
    /// Pin slots; 0 = 16384, at most the daemon's `--max-pins`.
    pub pin_slot_count: u32,
    /// Limit of a call that uses the socket, in milliseconds; 0 = 5000.
    pub timeout_ms: u32,
}

/// Which model and layout, and which tenant.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KeyspaceConfig {
    /// Name of the model, 1 to 144 bytes.
    pub model_name: String,
    /// Salt of the tenant, at most 128 bytes.
    pub cache_salt: String,
    /// The caller's number for dtype, shape, layer count and quantisation.
    pub layout_fingerprint: u64,
    /// Tokens that one key stands for; 0 = the daemon's chunk size.
    pub tokens_per_key: u32,
    /// Take the keyspace whatever its fingerprint, and never take it over; for the operator's tool.
    pub as_it_stands: bool,
}

/// What goes with a reserve, an acquire or a prefetch; the default is nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Request<'a> {
    /// [`ACQUIRE_ALL`] (acquire only), [`RESERVE_NO_WAIT`] (reserve only).
    pub flags: u32,
    /// The caller's id for telemetry, 1 to 128 bytes without control characters.
    pub request_id: Option<&'a str>,
    /// The caller's device name, at most 32 bytes without control characters.
    pub device: Option<&'a str>,
}

/// What the daemon granted the session at open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionInfo {
    /// Random for each start of the daemon.
    pub instance_id: [u8; 16],
    /// Number of the session.
    pub session_id: u64,
    /// Length of the payload in bytes.
    pub capacity_bytes: u64,
    /// Unit of extents in bytes.
    pub align_bytes: u64,
    /// Payload bytes on huge pages.
    pub huge_page_bytes: u64,
    /// Most bytes that the session may pin.
    pub pin_quota_bytes: u64,
    /// Most bytes that the session may have reserved.
    pub reserve_quota_bytes: u64,
    /// Largest object in bytes.
    pub max_object_bytes: u64,
    /// Pin slots of the session.
    pub pin_slot_count: u32,
    /// Most keys of one call.
    pub max_batch_keys: u32,
    /// Tokens per key of a keyspace that names none.
    pub chunk_size: u32,
    /// Version of the daemon.
    pub server_version: String,
}

/// One key of a reserve.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct ReserveItem {
    /// The key.
    pub key: ChunkKey,
    /// Length of its object in bytes.
    pub len_bytes: u64,
}

/// Which mapping of the payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mapping {
    /// The one that spans of leases lie in.
    Read,
    /// The one that spans of reservations lie in; of an untrusted writer that is its staging segment.
    Write,
}

/// A session's handle. Closes by drop.
pub struct Session {
    inner: Arc<Inner>,
}

impl Session {
    /// Opens a session at the daemon's socket.
    pub fn open(config: &SessionConfig) -> Result<Session> {
        checks::config(config)?;
        Ok(Session {
            inner: Arc::new(Inner::open(config)?),
        })
    }

    /// Ends the handle and refuses further calls. Leases and reservations go on; with the last of them, or now, the
    /// mappings go and the daemon is told. In a forked child it only closes descriptors.
    pub fn close(&self) -> Result<()> {
        self.inner.close()
    }

    /// What the daemon granted at open.
    pub fn info(&self) -> Result<SessionInfo> {
        let _hold = self.inner.enter_even_dead()?;
        let hello = &self.inner.hello;
        Ok(SessionInfo {
            instance_id: hello.instance_id.0,
            session_id: hello.session_id.0,
            capacity_bytes: hello.capacity_bytes,
            align_bytes: hello.align_bytes,
            huge_page_bytes: hello.huge_page_bytes,
            pin_quota_bytes: hello.pin_quota_bytes,
            reserve_quota_bytes: hello.reserve_quota_bytes,
            max_object_bytes: hello.max_object_bytes,
            pin_slot_count: hello.pin_slot_count,
            max_batch_keys: hello.max_batch_keys,
            chunk_size: hello.chunk_size,
            server_version: hello.server_version.clone(),
        })
    }

    /// The pool's figures now.
    pub fn figures(&self) -> Result<Figures> {
        let _hold = self.inner.enter()?;
        match self.inner.call(&WireRequest::Stats)? {
            Reply::Stats(figures) => Ok(figures),
            _ => Err(self.inner.strange_reply("STATS")),
        }
    }

    /// Base and length of a payload mapping, for a driver to register. From then on only the close unmaps it.
    pub fn mapping(&self, which: Mapping) -> Result<(*mut u8, u64)> {
        let _hold = self.inner.enter()?;
        let base = match which {
            Mapping::Read => self.inner.read_base().cast_mut(),
            Mapping::Write => self.inner.write_base().ok_or_else(|| {
                Error::invalid(
                    "a read-only session has no writable mapping; ask for the one for reads",
                )
            })?,
        };
        self.inner.give_payload_away();
        let len_bytes = match which {
            Mapping::Read => self.inner.hello.capacity_bytes,
            Mapping::Write => self.inner.write_bytes(),
        };
        Ok((base, len_bytes))
    }

    /// A descriptor that becomes readable when the daemon has ended; good until the session's last handle is ended.
    pub fn daemon_fd(&self) -> RawFd {
        self.inner.daemon_fd()
    }

    /// Opens a keyspace; the same one again gives the same number.
    pub fn open_keyspace(&self, config: &KeyspaceConfig) -> Result<KeyspaceId> {
        let _hold = self.inner.enter()?;
        checks::keyspace(config)?;
        let request = WireRequest::Resolve(Resolve {
            flags: if config.as_it_stands {
                resolve_flags::AS_IT_STANDS
            } else {
                0
            },
            tokens_per_key: config.tokens_per_key,
            layout_fingerprint: config.layout_fingerprint,
            model_name: config.model_name.clone(),
            cache_salt: config.cache_salt.clone(),
        });
        let Reply::Resolved { keyspace, .. } = self.inner.call(&request)? else {
            return Err(self.inner.strange_reply("RESOLVE"));
        };
        if !self.inner.keyspaces.insert(keyspace) {
            return Err(Error::new(
                Status::Quota,
                format!(
                    "keyspace {} passes the limit of {} keyspaces a session; open another session",
                    keyspace.0,
                    keyspaces::MAX_KEYSPACES
                ),
            ));
        }
        Ok(keyspace)
    }

    /// Asks for room. OK also when nothing was granted: each item has its own status. With [`RESERVE_NO_WAIT`] OK says that
    /// the request was sent.
    pub fn reserve(
        &self,
        keyspace: KeyspaceId,
        items: &[ReserveItem],
        request: &Request<'_>,
    ) -> Result<Reservation> {
        let hold = self.inner.enter()?;
        self.refuse_read_only("reserve")?;
        let reserve = self.inner.checked_reserve(keyspace, items, request)?;
        let place = self.inner.place_for(request)?;
        let reservation = Reservation::make(&self.inner, keyspace, reserve, place)?;
        hold.hand_over();
        Ok(reservation)
    }

    /// How many leading keys are readable now, without a pin. With `present`, one byte a key says which.
    pub fn lookup(
        &self,
        keyspace: KeyspaceId,
        keys: &[ChunkKey],
        present: Option<&mut [u8]>,
    ) -> Result<usize> {
        let _hold = self.enter_batch(keyspace, "keys", keys.len())?;
        checks::answers("present", present.as_ref().map(|p| p.len()), keys.len())?;
        checks::key_lengths(keys.iter())?;
        self.inner.refuse_without_daemon()?;
        Ok(self.inner.read.lookup(keyspace, keys, present))
    }

    /// Pins the leading run of present keys, or with [`ACQUIRE_ALL`] every present key. OK also when nothing was
    /// found.
    pub fn acquire(
        &self,
        keyspace: KeyspaceId,
        keys: &[ChunkKey],
        request: &Request<'_>,
    ) -> Result<Lease> {
        let read = &self.inner.read;
        let hash = read.ask_ahead(keyspace, keys);
        let hold = self.enter_batch(keyspace, "keys", keys.len())?;
        checks::request(request, ACQUIRE_ALL)?;
        checks::key_lengths(keys.iter())?;
        self.inner.refuse_without_daemon()?;
        let ahead = read.locate_ahead(hash);
        let mut held = self.inner.lease_pool.take();
        let LeaseMemory { pins, trace, .. } = &mut *held;
        let is_all = request.flags & ACQUIRE_ALL != 0;
        let events = &read.events;
        *trace = events.begin_lookup(keyspace, request, &mut pins.caller);
        read.acquire(keyspace, keys, is_all, ahead, pins);
        events.end_lookup(trace, pins);
        hold.hand_over();
        Ok(Lease::new(Arc::clone(&self.inner), held))
    }

    /// Has keys brought into the pool: asks L1, then the tiers for the rest, loads the longest prefix and keeps it from
    /// being evicted until the prefetch ends. Does not wait for it.
    pub fn prefetch(
        &self,
        keyspace: KeyspaceId,
        keys: &[ChunkKey],
        request: &Request<'_>,
    ) -> Result<Prefetch> {
        let hold = self.enter_batch(keyspace, "keys", keys.len())?;
        checks::request(request, 0)?;
        checks::key_lengths(keys.iter())?;
        let place = self.inner.prefetches.enter()?;
        let op_id = self.inner.next_op_id();
        let wire = WireRequest::Prefetch(WirePrefetch {
            op_id,
            request_id: request.request_id.unwrap_or_default().to_owned(),
            device: request.device.unwrap_or_default().to_owned(),
            keys: in_keyspace(keyspace, keys)?,
        });
        let wire_id = self.inner.begin(&wire)?;
        place.hand_over();
        hold.hand_over();
        Ok(Prefetch::new(
            Arc::clone(&self.inner),
            op_id,
            wire_id,
            keys.len(),
        ))
    }

    /// Makes keys unreadable. With `removed`, one byte a key says whether it was there.
    pub fn remove(
        &self,
        keyspace: KeyspaceId,
        keys: &[ChunkKey],
        removed: Option<&mut [u8]>,
    ) -> Result<()> {
        let _hold = self.enter_batch(keyspace, "keys", keys.len())?;
        self.refuse_read_only("remove")?;
        checks::answers("removed", removed.as_ref().map(|r| r.len()), keys.len())?;
        let wire_keys = in_keyspace(keyspace, keys)?;
        let answers = match self.inner.call(&WireRequest::Remove(wire_keys))? {
            Reply::Removed(answers) if answers.len() == keys.len() => answers,
            _ => return Err(self.inner.strange_reply("REMOVE")),
        };
        for (byte, was_there) in removed.into_iter().flatten().zip(answers) {
            *byte = u8::from(was_there);
        }
        Ok(())
    }

    /// Removes every key of every keyspace that this session opened, or with
    /// [`clear_flags::ALL_KEYSPACES`] every key there is (admin users only); gives their number.
    pub fn clear(&self, flags: u32) -> Result<u64> {
        let _hold = self.inner.enter()?;
        self.refuse_read_only("clear")?;
        checks::known_bits("flags", flags, clear_flags::ALL)?;
        match self.inner.call(&WireRequest::Clear { flags })? {
            Reply::Cleared(count) => Ok(count),
            _ => Err(self.inner.strange_reply("CLEAR")),
        }
    }

    /// A recount of everything in the pool; admin users only.
    pub fn audit(&self) -> Result<Audit> {
        let _hold = self.inner.enter()?;
        match self.inner.call(&WireRequest::Audit)? {
            Reply::Audit(audit) => Ok(audit),
            _ => Err(self.inner.strange_reply("AUDIT")),
        }
    }

    /// How long the daemon takes to answer.
    pub fn ping(&self) -> Result<Duration> {
        let _hold = self.inner.enter()?;
        let start = Instant::now();
        match self.inner.call(&WireRequest::Ping)? {
            Reply::Pong => Ok(start.elapsed()),
            _ => Err(self.inner.strange_reply("PING")),
        }
    }

    /// One request of an operator and its reply.
    pub(crate) fn ask_daemon(&self, request: &WireRequest) -> Result<Reply> {
        let _hold = self.inner.enter()?;
        self.inner.call(request)
    }

    pub(crate) fn strange_reply(&self, message: &str) -> Error {
        self.inner.strange_reply(message)
    }

    /// What every call with a keyspace begins with.
    #[inline]
    fn enter_batch(&self, keyspace: KeyspaceId, what: &str, count: usize) -> Result<Hold<'_>> {
        let hold = self.inner.enter()?;
        checks::count(what, count, self.inner.hello.max_batch_keys)?;
        self.inner.refuse_unopened(keyspace)?;
        Ok(hold)
    }

    fn refuse_read_only(&self, call: &str) -> Result<()> {
        if self.inner.is_read_only() {
            return Err(Error::new(
                Status::ReadOnly,
                format!(
                    "{call} writes, and the session was opened READ_ONLY; open one without that flag"
                ),
            ));
        }
        Ok(())
    }
}

fn in_keyspace(keyspace: KeyspaceId, keys: &[ChunkKey]) -> Result<Vec<Key>> {
    keys.iter()
        .enumerate()
        .map(|(index, key)| key.in_keyspace(keyspace, index))
        .collect()
}

impl Drop for Session {
    fn drop(&mut self) {
        // An error says that it was closed before, or that the daemon did not answer the goodbye.
        let _ = self.inner.close();
    }
}
