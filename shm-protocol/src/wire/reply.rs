//! What the daemon answers after HELLO.

use super::codec::{Cursor, Writer};
use super::header::{FrameHeader, MessageType, flags};
use super::{MAX_BATCH_KEYS, MAX_ERROR_TEXT_BYTES, MAX_PAGE_BYTES, WireError};
use crate::id::{EntryNumber, KeyspaceId};
use crate::status::{Reason, Status};

/// One reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// A keyspace is open.
    Resolved {
        /// Its number, good in this session.
        keyspace: KeyspaceId,
        /// Tokens that one of its keys stands for.
        tokens_per_key: u32,
        /// Its layout fingerprint.
        layout_fingerprint: u64,
    },
    /// What became of each item of a reserve.
    Reserved(Vec<ReservedItem>),
    /// What became of each entry of a commit.
    Committed(Vec<CommittedItem>),
    /// What became of each entry of a commit, and of each item of the reserve behind it: no item when the commit did not do
    /// everything, and the reserve was left undone for that.
    CommitReserved(Vec<CommittedItem>, Vec<ReservedItem>),
    /// What became of each entry of an abort.
    Aborted(Vec<Status>),
    /// Which keys were removed.
    Removed(Vec<bool>),
    /// How many keys were cleared.
    Cleared(u64),
    /// The pool's figures.
    Stats(Figures),
    /// The recount.
    Audit(Audit),
    /// A sign of life.
    Pong,
    /// The session is over.
    Bye,
    /// A page of the objects that there are: a [`report::ObjectPage`](super::report::ObjectPage) as JSON.
    Listed(String),
    /// A page of the daemon's state: a [`report::StatePage`](super::report::StatePage) as JSON.
    State(String),
    /// What a new look at the configuration changed: a [`report::Reloaded`](super::report::Reloaded) as JSON.
    Reloaded(String),
    /// What a prefetch came to.
    Prefetched(Prefetched),
    /// The prefetch is over.
    PrefetchEnded,
    /// Extents that the session holds now; fewer than asked, or none, when quota or space ended it.
    Granted(Vec<GrantedExtent>),
    /// Extents that were granted are the daemon's again.
    Returned,
    /// What became of each granted entry of a commit.
    GrantedCommitted(Vec<CommittedItem>),
    /// Every commit up to the position is carried out.
    Flushed,
    /// The request was refused as a whole.
    Error {
        /// Why.
        status: Status,
        /// One sentence with the value, the limit and the remedy.
        text: String,
    },
}

/// Outcome of one item of a reserve.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReservedItem {
    /// OK, EXISTS, RESERVED, NO_SPACE or QUOTA.
    pub status: Status,
    /// Detail behind NO_SPACE and QUOTA.
    pub reason: Reason,
    /// The entry, when OK.
    pub entry: EntryNumber,
    /// Offset of the extent in units of the alignment, when OK.
    pub offset_units: u32,
    /// Offset of the place to write in the session's staging segment, in units of the alignment, when OK and it has one.
    pub staging_units: u32,
    /// Sequence number that the entry will have once it is committed, when OK.
    pub generation: u64,
}

/// An extent granted ahead of need.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GrantedExtent {
    /// Its entry.
    pub entry: EntryNumber,
    /// Its offset in units of the alignment.
    pub offset_units: u32,
    /// Sequence number that the entry will have once it is committed.
    pub generation: u64,
}

/// Outcome of one entry of a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CommittedItem {
    /// OK, EXPIRED or NOT_FOUND; SYSTEM when it can't be copied out of the staging segment; EXISTS when another commit of
    /// the key came first. Of a granted entry OK; EXISTS or NO_SPACE, and then it stays granted; INVALID_ARGUMENT.
    pub status: Status,
    /// The entry's sequence number, when OK.
    pub generation: u64,
}

/// What a prefetch came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Prefetched {
    /// Leading keys that are in the pool now and kept there until the prefetch ends.
    pub prefix_count: u32,
    /// Those of them that came out of a tier for this prefetch.
    pub loaded_count: u32,
    /// OK when the prefix is all that was asked; else what ended it: NOT_FOUND, QUOTA or NO_SPACE.
    pub status: Status,
}

/// The pool's figures, all consistent with each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Figures {
    /// Length of the payload in bytes.
    pub capacity_bytes: u64,
    /// Payload bytes that are not free.
    pub used_bytes: u64,
    /// Bytes of distinct pinned objects, at most a second old.
    pub pinned_bytes: u64,
    /// Bytes reserved and not committed yet.
    pub reserved_bytes: u64,
    /// Readable objects.
    pub object_count: u64,
    /// Open sessions.
    pub session_count: u64,
    /// Read requests.
    pub sm_read_requests: u64,
    /// Keys of them that were found.
    pub sm_read_succeed_keys: u64,
    /// The rest of their keys.
    pub sm_read_failed_keys: u64,
    /// Reserve requests.
    pub sm_write_requests: u64,
    /// Keys of them that got space.
    pub sm_write_succeed_keys: u64,
    /// The rest of their keys.
    pub sm_write_failed_keys: u64,
    /// Keys whose lease was released.
    pub l1_read_keys: u64,
    /// Keys committed.
    pub l1_write_keys: u64,
    /// Keys evicted.
    pub l1_evicted_keys: u64,
}

impl Figures {
    fn words(&self) -> [u64; 15] {
        [
            self.capacity_bytes,
            self.used_bytes,
            self.pinned_bytes,
            self.reserved_bytes,
            self.object_count,
            self.session_count,
            self.sm_read_requests,
            self.sm_read_succeed_keys,
            self.sm_read_failed_keys,
            self.sm_write_requests,
            self.sm_write_succeed_keys,
            self.sm_write_failed_keys,
            self.l1_read_keys,
            self.l1_write_keys,
            self.l1_evicted_keys,
        ]
    }

    fn from_words(w: [u64; 15]) -> Figures {
        Figures {
            capacity_bytes: w[0],
            used_bytes: w[1],
            pinned_bytes: w[2],
            reserved_bytes: w[3],
            object_count: w[4],
            session_count: w[5],
            sm_read_requests: w[6],
            sm_read_succeed_keys: w[7],
            sm_read_failed_keys: w[8],
            sm_write_requests: w[9],
            sm_write_succeed_keys: w[10],
            sm_write_failed_keys: w[11],
            l1_read_keys: w[12],
            l1_write_keys: w[13],
            l1_evicted_keys: w[14],
        }
    }
}

/// A recount: bytes and entries by state, counted one by one.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Audit {
    /// Length of the payload in bytes.
    pub capacity_bytes: u64,
    /// Bytes of readable objects, rounded up to the alignment, as all that follow.
    pub object_bytes: u64,
    /// Bytes of reservations.
    pub reserved_bytes: u64,
    /// Bytes of unpublished objects that are still pinned.
    pub zombie_bytes: u64,
    /// Bytes of expired reservations whose writer may still write.
    pub quarantined_bytes: u64,
    /// Free bytes.
    pub free_bytes: u64,
    /// Entries in all.
    pub entry_count: u64,
    /// Entries of readable objects.
    pub object_count: u64,
    /// Entries of reservations.
    pub reserved_count: u64,
    /// Entries of unpublished objects that are still pinned.
    pub zombie_count: u64,
    /// Entries of expired reservations.
    pub quarantined_count: u64,
    /// Entries whose pins were revoked and that are still named by a slot.
    pub revoked_count: u64,
    /// Free entries.
    pub free_count: u64,
    /// Pin slots that name an entry, over all sessions.
    pub pin_count: u64,
    /// What does not add up, in one sentence; empty when all does.
    pub verdict: String,
}

impl Audit {
    fn words(&self) -> [u64; 14] {
        [
            self.capacity_bytes,
            self.object_bytes,
            self.reserved_bytes,
            self.zombie_bytes,
            self.quarantined_bytes,
            self.free_bytes,
            self.entry_count,
            self.object_count,
            self.reserved_count,
            self.zombie_count,
            self.quarantined_count,
            self.revoked_count,
            self.free_count,
            self.pin_count,
        ]
    }

    fn from_words(w: [u64; 14], verdict: String) -> Audit {
        Audit {
            capacity_bytes: w[0],
            object_bytes: w[1],
            reserved_bytes: w[2],
            zombie_bytes: w[3],
            quarantined_bytes: w[4],
            free_bytes: w[5],
            entry_count: w[6],
            object_count: w[7],
            reserved_count: w[8],
            zombie_count: w[9],
            quarantined_count: w[10],
            revoked_count: w[11],
            free_count: w[12],
            pin_count: w[13],
            verdict,
        }
    }
}

pub(super) const RESERVED_ITEM_BYTES: usize = 28;
pub(super) const COMMITTED_ITEM_BYTES: usize = 16;
pub(super) const GRANTED_EXTENT_BYTES: usize = 16;

impl Reply {
    /// The message type.
    pub fn message(&self) -> MessageType {
        match self {
            Reply::Resolved { .. } => MessageType::Resolve,
            Reply::Reserved(_) => MessageType::Reserve,
            Reply::Committed(_) => MessageType::Commit,
            Reply::CommitReserved(..) => MessageType::CommitReserve,
            Reply::Aborted(_) => MessageType::Abort,
            Reply::Removed(_) => MessageType::Remove,
            Reply::Cleared(_) => MessageType::Clear,
            Reply::Stats(_) => MessageType::Stats,
            Reply::Audit(_) => MessageType::Audit,
            Reply::Pong => MessageType::Ping,
            Reply::Bye => MessageType::Bye,
            Reply::Listed(_) => MessageType::List,
            Reply::State(_) => MessageType::State,
            Reply::Reloaded(_) => MessageType::Reload,
            Reply::Prefetched(_) => MessageType::Prefetch,
            Reply::PrefetchEnded => MessageType::PrefetchEnd,
            Reply::Granted(_) => MessageType::Grant,
            Reply::Returned => MessageType::Return,
            Reply::GrantedCommitted(_) => MessageType::CommitGranted,
            Reply::Flushed => MessageType::Flush,
            Reply::Error { .. } => MessageType::Error,
        }
    }

    /// The frame.
    pub fn encode(&self, request_id: u64) -> Vec<u8> {
        let mut w = FrameHeader {
            message: self.message(),
            flags: flags::REPLY,
            request_id,
        }
        .start();
        match self {
            Reply::Resolved {
                keyspace,
                tokens_per_key,
                layout_fingerprint,
            } => {
                w.u32(keyspace.0);
                w.u32(*tokens_per_key);
                w.u64(*layout_fingerprint);
            }
            Reply::Reserved(items) => encode_reserved(&mut w, items),
            Reply::Committed(items) | Reply::GrantedCommitted(items) => {
                encode_committed(&mut w, items);
            }
            Reply::CommitReserved(committed, reserved) => {
                encode_committed(&mut w, committed);
                encode_reserved(&mut w, reserved);
            }
            Reply::Granted(extents) => {
                w.u32(extents.len() as u32);
                for extent in extents {
                    w.u32(extent.entry.0);
                    w.u32(extent.offset_units);
                    w.u64(extent.generation);
                }
            }
            Reply::Aborted(items) => {
                w.u32(items.len() as u32);
                items.iter().for_each(|s| w.i32(s.number()));
            }
            Reply::Removed(items) => {
                w.u32(items.len() as u32);
                items.iter().for_each(|removed| w.u8(u8::from(*removed)));
            }
            Reply::Cleared(count) => w.u64(*count),
            Reply::Stats(figures) => figures.words().into_iter().for_each(|word| w.u64(word)),
            Reply::Audit(audit) => {
                audit.words().into_iter().for_each(|word| w.u64(word));
                w.text(truncated(&audit.verdict));
            }
            Reply::Prefetched(outcome) => {
                w.u32(outcome.prefix_count);
                w.u32(outcome.loaded_count);
                w.i32(outcome.status.number());
            }
            Reply::Pong | Reply::Bye | Reply::PrefetchEnded | Reply::Returned | Reply::Flushed => {}
            Reply::Listed(json) | Reply::State(json) | Reply::Reloaded(json) => w.page(json),
            Reply::Error { status, text } => {
                w.i32(status.number());
                w.text(truncated(text));
            }
        }
        w.finish()
    }

    /// Reads the body of a reply whose header has been read.
    pub fn decode(header: &FrameHeader, mut c: Cursor<'_>) -> Result<Reply, WireError> {
        if header.flags != flags::REPLY {
            return Err(WireError::UnknownBits {
                field: "a reply's flags",
                bits: u32::from(header.flags),
            });
        }
        let reply = match header.message {
            MessageType::Resolve => Reply::Resolved {
                keyspace: KeyspaceId(c.u32("the keyspace")?),
                tokens_per_key: c.u32("tokens_per_key")?,
                layout_fingerprint: c.u64("layout_fingerprint")?,
            },
            MessageType::Reserve => Reply::Reserved(decode_reserved(&mut c, 1)?),
            MessageType::Commit => Reply::Committed(decode_committed(&mut c)?),
            MessageType::CommitReserve => {
                let committed = decode_committed(&mut c)?;
                Reply::CommitReserved(committed, decode_reserved(&mut c, 0)?)
            }
            MessageType::CommitGranted => Reply::GrantedCommitted(decode_committed(&mut c)?),
            MessageType::Grant => {
                let count = c.count(0, MAX_BATCH_KEYS, GRANTED_EXTENT_BYTES, "the extent count")?;
                let mut extents = Vec::with_capacity(count);
                for _ in 0..count {
                    extents.push(GrantedExtent {
                        entry: EntryNumber(c.u32("an entry")?),
                        offset_units: c.u32("an offset")?,
                        generation: c.u64("a generation")?,
                    });
                }
                Reply::Granted(extents)
            }
            MessageType::Return => Reply::Returned,
            MessageType::Flush => Reply::Flushed,
            MessageType::Abort => {
                let count = c.count(1, MAX_BATCH_KEYS, 4, "the item count")?;
                let items: Result<Vec<Status>, WireError> =
                    (0..count).map(|_| decode_status(&mut c)).collect();
                Reply::Aborted(items?)
            }
            MessageType::Remove => {
                let count = c.count(1, MAX_BATCH_KEYS, 1, "the key count")?;
                Reply::Removed(
                    c.bytes(count, "the answers")?
                        .iter()
                        .map(|b| *b != 0)
                        .collect(),
                )
            }
            MessageType::Clear => Reply::Cleared(c.u64("the count")?),
            MessageType::Stats => {
                let mut words = [0; 15];
                for word in &mut words {
                    *word = c.u64("a figure")?;
                }
                Reply::Stats(Figures::from_words(words))
            }
            MessageType::Audit => {
                let mut words = [0; 14];
                for word in &mut words {
                    *word = c.u64("a figure")?;
                }
                let verdict = c.text(0, MAX_ERROR_TEXT_BYTES, "the verdict")?.to_owned();
                Reply::Audit(Audit::from_words(words, verdict))
            }
            MessageType::Ping => Reply::Pong,
            MessageType::Bye => Reply::Bye,
            MessageType::List => Reply::Listed(decode_page(&mut c)?),
            MessageType::State => Reply::State(decode_page(&mut c)?),
            MessageType::Reload => Reply::Reloaded(decode_page(&mut c)?),
            MessageType::Prefetch => {
                let prefix_count = c.within(0, MAX_BATCH_KEYS, "the prefix count")?;
                Reply::Prefetched(Prefetched {
                    prefix_count,
                    loaded_count: c.within(0, prefix_count as usize, "the loaded count")?,
                    status: decode_status(&mut c)?,
                })
            }
            MessageType::PrefetchEnd => Reply::PrefetchEnded,
            MessageType::Error => Reply::Error {
                status: decode_status(&mut c)?,
                text: c
                    .text(0, MAX_ERROR_TEXT_BYTES, "the error's text")?
                    .to_owned(),
            },
            MessageType::Challenge | MessageType::Hello => {
                return Err(WireError::UnknownType(header.message as u16));
            }
        };
        c.finish()?;
        Ok(reply)
    }
}

fn truncated(text: &str) -> &str {
    &text[..text.floor_char_boundary(MAX_ERROR_TEXT_BYTES)]
}

fn encode_reserved(w: &mut Writer, items: &[ReservedItem]) {
    w.records(items.iter().map(|item| {
        let mut record = [0; RESERVED_ITEM_BYTES];
        record[..4].copy_from_slice(&item.status.number().to_le_bytes());
        record[4] = item.reason as u8;
        record[8..12].copy_from_slice(&item.entry.0.to_le_bytes());
        record[12..16].copy_from_slice(&item.offset_units.to_le_bytes());
        record[16..20].copy_from_slice(&item.staging_units.to_le_bytes());
        record[20..].copy_from_slice(&item.generation.to_le_bytes());
        record
    }));
}

fn decode_reserved(c: &mut Cursor<'_>, least: usize) -> Result<Vec<ReservedItem>, WireError> {
    let count = c.count(least, MAX_BATCH_KEYS, RESERVED_ITEM_BYTES, "the item count")?;
    let mut items = Vec::with_capacity(count);
    for _ in 0..count {
        let status = decode_status(c)?;
        let reason = c.u8("a reason")?;
        c.bytes(3, "padding")?;
        items.push(ReservedItem {
            status,
            reason: Reason::from_number(reason).unwrap_or(Reason::None),
            entry: EntryNumber(c.u32("an entry")?),
            offset_units: c.u32("an offset")?,
            staging_units: c.u32("an offset in the staging segment")?,
            generation: c.u64("a generation")?,
        });
    }
    Ok(items)
}

fn encode_committed(w: &mut Writer, items: &[CommittedItem]) {
    w.records(items.iter().map(|item| {
        let mut record = [0; COMMITTED_ITEM_BYTES];
        record[..4].copy_from_slice(&item.status.number().to_le_bytes());
        record[8..].copy_from_slice(&item.generation.to_le_bytes());
        record
    }));
}

fn decode_committed(c: &mut Cursor<'_>) -> Result<Vec<CommittedItem>, WireError> {
    let count = c.count(1, MAX_BATCH_KEYS, COMMITTED_ITEM_BYTES, "the entry count")?;
    let mut items = Vec::with_capacity(count);
    for _ in 0..count {
        let status = decode_status(c)?;
        c.u32("padding")?;
        items.push(CommittedItem {
            status,
            generation: c.u64("a generation")?,
        });
    }
    Ok(items)
}

fn decode_page(c: &mut Cursor<'_>) -> Result<String, WireError> {
    Ok(c.page(MAX_PAGE_BYTES, "the page")?.to_owned())
}

fn decode_status(c: &mut Cursor<'_>) -> Result<Status, WireError> {
    let number = c.i32("a status")?;
    Status::from_number(number).ok_or(WireError::Range {
        field: "a status",
        value: u64::from(number.unsigned_abs()),
        least: 0,
        most: 17,
    })
}
