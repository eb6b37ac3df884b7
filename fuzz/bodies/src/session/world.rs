//! Four places for clients, one pool, and the part of the loop that calls them.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::rc::Rc;

use hostkv_daemon::config::Config;
use hostkv_daemon::request::{Applicant, resumed};
use hostkv_daemon::server::{
    AccessRules, Client, Credentials, Handout, Peer, Shared, Step, pidfd_open,
};
use hostkv_daemon::store::{Nanos, SLICE_NS};
use hostkv_shm_protocol::control::reader::IndexReader;
use hostkv_shm_protocol::id::{KeyspaceId, OpId};
use hostkv_shm_protocol::lease::pins::pin_fence;
use hostkv_shm_protocol::status::Status;
use hostkv_shm_protocol::sync::Ordering;
use hostkv_shm_protocol::version::{ABI_HASH, PROTOCOL_VERSION};
use hostkv_shm_protocol::wire::MAX_OUTSTANDING;
use hostkv_shm_protocol::wire::hello::{Hello, HelloPrefix, hello_flags};
use hostkv_shm_protocol::wire::reply::Reply;
use hostkv_shm_protocol::wire::request::{
    Held, HeldItem, Prefetch, Request, Reserve, ReserveItem, Resolve, clear_flags, resolve_flags,
};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};

use super::far::{Far, Grant, Heard};
use super::moves::{Ask, Damage, Move, Play};
use crate::pool::{ALIGN, Pool, audited, default_config, key, settle};

const PLACES: usize = 4;
const TENTH_OF_A_SECOND: Nanos = 100_000_000;
const SECOND: Nanos = 1_000_000_000;
/// Packets of one client in one turn, as in the loop.
const FRAMES_PER_TURN: usize = 16;
/// Keyspaces that a daemon of a play may have.
const MAX_KEYSPACES: u32 = 6;

/// What every play needs and none changes.
struct Common {
    config: Config,
    pidfd: OwnedFd,
    null: Rc<OwnedFd>,
}

thread_local! {
    static COMMON: Common = Common {
        config: default_config(),
        pidfd: pidfd_open(std::process::id() as i32).unwrap(),
        null: Rc::new(File::open("/dev/null").unwrap().into()),
    };
}

/// One client: both ends.
struct Place {
    number: u64,
    client: Client,
    far: Far,
}

/// Everything of one play.
pub struct World {
    shared: Shared,
    reader: IndexReader,
    places: [Option<Place>; PLACES],
    last_client: u64,
    now: Nanos,
    pins_may_expire: bool,
    // Below `shared`, whose store stands on its memory: fields are dropped in order.
    _pool: Pool,
}

impl World {
    /// A pool without clients.
    pub fn new(play: &Play) -> World {
        COMMON.with(|common| {
            let mut pool = Pool::new(&common.config, |store| {
                store.watermark = 0.8;
                store.max_reserved_ratio = 0.4;
                store.max_keyspaces = MAX_KEYSPACES;
                store.write_ttl_ns = play.has_write_ttl.then_some(SECOND);
                store.read_ttl_ns = play.has_read_ttl.then_some(SECOND);
                store.slice_ns = if play.has_short_slices { 1 } else { SLICE_NS };
            });
            let mut limits = common.config.limits.clone();
            limits.max_sessions = PLACES as u32 - 1;
            let null = || Rc::clone(&common.null);
            let handout = Handout {
                control: null(),
                payload_writable: Some(null()),
                payload_read_only: null(),
                daemon: null(),
            };
            let access = AccessRules::new(0, &common.config.access);
            let mut store = pool.store.take().unwrap();
            store.collect_events();
            World {
                shared: Shared::new(
                    store,
                    pool.facts.clone(),
                    limits,
                    access,
                    handout,
                    None,
                    None,
                ),
                reader: pool.reader,
                places: [const { None }; PLACES],
                last_client: 0,
                now: 100 * SECOND,
                pins_may_expire: play.has_read_ttl,
                _pool: pool,
            }
        })
    }

    /// Makes one move, and lets the loop serve what came of it.
    pub fn make(&mut self, step: Move) {
        match step {
            Move::Connect {
                who,
                is_silent,
                is_read_only,
                is_admin,
            } => self.connect(at(who), is_silent, is_read_only, is_admin),
            Move::Ask {
                who,
                ask,
                wants_reply,
                damage,
            } => {
                if let Some(place) = &mut self.places[at(who)] {
                    let frame = place.far.request(&ask);
                    let number = place.far.number();
                    let mut frame = frame.encode(number, wants_reply);
                    if let Some(damage) = damage {
                        harm(&mut frame, &damage);
                    }
                    place.far.say(&frame);
                    self.turn(at(who));
                }
            }
            Move::Send { who, bytes } => {
                if let Some(place) = &mut self.places[at(who)] {
                    // An empty packet is no packet.
                    if !bytes.is_empty() {
                        place.far.say(&bytes);
                    }
                    self.turn(at(who));
                }
            }
            Move::Listen { who, is_listening } => {
                if let Some(place) = &mut self.places[at(who)] {
                    place.far.is_listening = is_listening;
                    self.turn(at(who));
                }
            }
            Move::Pin { who, slot, key } => self.pin(at(who), usize::from(slot), key),
            Move::Unpin { who, slot } => self.unpin(at(who), usize::from(slot)),
            Move::Touch { who, entry } => {
                if let Some(lease) = self.places[at(who)]
                    .as_ref()
                    .and_then(|p| p.far.lease.as_ref())
                {
                    lease
                        .recency
                        .touch(hostkv_shm_protocol::id::EntryNumber(u32::from(entry)));
                }
            }
            Move::Scribble { who, words } => {
                if let Some(place) = &mut self.places[at(who)]
                    && let Some(lease) = &place.far.lease
                {
                    words.iter().for_each(|word| lease.scribble(word));
                    place.far.is_honest = false;
                    place.far.pins.clear();
                }
            }
            Move::Close { who } => {
                if let Some(place) = &mut self.places[at(who)]
                    && place.far.socket.take().is_some()
                    && place.client.connection().is_some()
                {
                    let step = place.client.hung_up(&mut self.shared, self.now);
                    assert!(matches!(step, Step::Orphaned | Step::Ended));
                    self.after(at(who), step);
                }
            }
            Move::Die { who } => self.die(at(who)),
            Move::Tick { tenths } => {
                self.now += (1 + Nanos::from(tenths % 32)) * TENTH_OF_A_SECOND;
                self.shared.store.tick(self.now);
                self.shared.store.fold();
                self.work();
            }
            Move::Slices { count } => {
                for _ in 0..count {
                    self.work();
                }
            }
        }
    }

    /// What holds after every move.
    pub fn check(&mut self) {
        let audit = audited(&mut self.shared.store);
        let store = &mut self.shared.store;
        let sessions = u64::from(store.session_count());
        assert!(sessions < PLACES as u64, "{sessions} sessions");
        let charged = audit.reserved_bytes + audit.quarantined_bytes;
        assert!(
            charged <= store.pool_reserve_quota_bytes()
                && charged <= sessions * store.reserve_quota_bytes(),
            "{charged} bytes are charged to {sessions} sessions: {audit:?}"
        );
        let figures = store.figures();
        assert!(figures.used_bytes <= figures.capacity_bytes);
        for place in self.places.iter().flatten() {
            for found in place.far.pins.values() {
                let moved = self.reader.seq(found.entry).wrapping_sub(found.seq);
                assert!(moved <= 1, "an honest pin did not hold: {found:?}");
            }
            if let Some(connection) = place.client.connection() {
                assert!(connection.waiting_count() <= MAX_OUTSTANDING + 1);
            }
        }
    }

    /// Nothing more comes: everything is answered, everyone dies, nothing is left.
    pub fn finish(mut self) {
        for place in self.places.iter_mut().flatten() {
            place.far.is_listening = true;
        }
        let mut slices = 0;
        // A client has at most this many requests under way and as many behind them in its socket.
        for _ in 0..4 * MAX_OUTSTANDING {
            for at in 0..PLACES {
                self.turn(at);
            }
            while self.shared.store.has_work() {
                self.work();
                slices += 1;
                assert!(slices < 100_000, "the store never comes to rest");
            }
        }
        for place in self.places.iter().flatten() {
            let is_served = place.far.lease.is_some() && place.client.connection().is_some();
            assert!(
                !is_served || place.far.owed_count() == 0,
                "{} requests were never answered",
                place.far.owed_count()
            );
        }
        for at in 0..PLACES {
            self.die(at);
        }
        assert!(self.shared.clients.is_empty());
        let store = &mut self.shared.store;
        store.tick(self.now + SECOND);
        settle(store, self.now + SECOND);
        let audit = audited(store);
        assert_eq!(
            (
                audit.reserved_count,
                audit.quarantined_count,
                audit.zombie_count,
                audit.revoked_count,
                audit.pin_count
            ),
            (0, 0, 0, 0, 0),
            "something outlives its session: {audit:?}"
        );
        assert_eq!(store.session_count(), 0);
    }

    fn connect(&mut self, at: usize, is_silent: bool, is_read_only: bool, is_admin: bool) {
        if self.places[at].is_some() {
            return;
        }
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let (ours, theirs) =
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags).unwrap();
        let pid = std::process::id() as i32;
        let peer = Peer {
            credentials: Credentials {
                pid,
                uid: 1000,
                gids: vec![1000],
            },
            pidfd: COMMON.with(|common| common.pidfd.try_clone()).unwrap(),
            must_attest: false,
        };
        let user = Applicant {
            pid,
            uid: 1000,
            may_write: true,
            is_trusted: true,
            is_admin,
        };
        self.last_client += 1;
        let client = Client::new(self.last_client, ours, peer, user, [9; 16]).unwrap();
        let mut far = Far::new(theirs);
        let Some(Heard::Challenge(nonce)) = far.hear() else {
            panic!("no challenge");
        };
        if !is_silent {
            let hello = Hello {
                prefix: HelloPrefix {
                    nonce,
                    protocol_version: PROTOCOL_VERSION,
                    abi_hash: ABI_HASH,
                },
                flags: if is_read_only {
                    hello_flags::READ_ONLY
                } else {
                    0
                },
                pin_slot_count: 256,
                mono_ns: self.now,
                client_version: String::new(),
                client_name: String::new(),
            };
            far.say(&hello.encode(1));
        }
        self.places[at] = Some(Place {
            number: self.last_client,
            client,
            far,
        });
        self.turn(at);
    }

    /// The loop's turn for one client: output, input, and what the client then reads.
    fn turn(&mut self, at: usize) {
        let Some(place) = &mut self.places[at] else {
            return;
        };
        if place.client.connection().is_some() {
            let step = place.client.writable(&mut self.shared);
            if self.after(at, step) {
                return;
            }
        }
        for _ in 0..FRAMES_PER_TURN {
            let Some(place) = &mut self.places[at] else {
                return;
            };
            if !place.client.may_read() {
                break;
            }
            let mut step = place.client.step(&mut self.shared, self.now);
            if let Step::Asks(_, asked) = step {
                // There is no loop here that could carry it out.
                let reply = Reply::Error {
                    status: Status::System,
                    text: "not in a play".to_owned(),
                };
                step = place.client.answer(&mut self.shared, asked, &reply);
            }
            if self.after(at, step) || step == Step::Idle {
                break;
            }
        }
        self.listen(at);
    }

    fn listen(&mut self, at: usize) {
        while let Some(heard) = self.places[at].as_mut().and_then(|place| place.far.hear()) {
            if let Heard::Grants(grants) = heard {
                self.check_grants(&grants);
                if let Some(place) = &mut self.places[at]
                    && place.client.connection().is_some()
                {
                    place.far.grants.extend(grants);
                }
            }
        }
    }

    /// Does what a client's last step asks; true when it is not served any more.
    fn after(&mut self, at: usize, step: Step) -> bool {
        match step {
            Step::Idle | Step::Handled | Step::Opened | Step::Asks(..) => false,
            Step::Orphaned => {
                self.listen(at);
                true
            }
            Step::Ended => {
                self.listen(at);
                self.places[at] = None;
                true
            }
        }
    }

    fn die(&mut self, at: usize) {
        if let Some(place) = &mut self.places[at] {
            place.far.socket = None;
            let step = place.client.died(&mut self.shared, self.now);
            assert_eq!(step, Step::Ended, "a process has ended");
            self.places[at] = None;
        }
    }

    /// One slice of the store's work, and the replies of what it finished.
    fn work(&mut self) {
        for done in self.shared.store.slice(self.now) {
            let number = self.shared.clients.get(&done.session).copied();
            let Some(at) = number.and_then(|number| self.place_of(number)) else {
                continue;
            };
            let ticket = done.ticket;
            let reply = resumed(done);
            if let Some(place) = &mut self.places[at] {
                let step = place.client.resumed(&mut self.shared, ticket, &reply);
                self.after(at, step);
                self.listen(at);
            }
        }
        for session in self.shared.store.take_offenders() {
            let number = self.shared.clients.get(&session).copied();
            let Some(at) = number.and_then(|number| self.place_of(number)) else {
                continue;
            };
            if let Some(place) = &mut self.places[at] {
                assert!(
                    !place.far.is_honest,
                    "an honest session is called an offender"
                );
                let step = place
                    .client
                    .lose(&mut self.shared, Some("too many pins".to_owned()));
                self.after(at, step);
            }
        }
        self.shared.store.take_events();
    }

    fn place_of(&self, number: u64) -> Option<usize> {
        self.places
            .iter()
            .position(|place| place.as_ref().is_some_and(|place| place.number == number))
    }

    /// Nobody may be given units that another one writes or an honest session reads.
    fn check_grants(&self, grants: &[Grant]) {
        for (index, grant) in grants.iter().enumerate() {
            let overlaps = |start: u32, end: u32| grant.start < end && start < grant.end;
            for other in &grants[..index] {
                assert!(!overlaps(other.start, other.end), "{grant:?} twice");
            }
            for place in self.places.iter().flatten() {
                for other in &place.far.grants {
                    assert!(!overlaps(other.start, other.end), "{grant:?} and {other:?}");
                }
                for found in place.far.pins.values() {
                    let start = found.extent.offset_units;
                    let end = start + found.extent.len_bytes.div_ceil(ALIGN);
                    assert!(!overlaps(start, end), "{grant:?} while {found:?} is pinned");
                }
            }
        }
    }

    /// Steps R1 to R5, within the quota and while the gate is open, as the library has it.
    fn pin(&mut self, at: usize, slot: usize, number: u8) {
        let quota = self.shared.store.pin_quota_bytes();
        let is_shut = self
            .shared
            .store
            .header()
            .pin_gate()
            .load(Ordering::Relaxed)
            != 0;
        let Some(place) = &mut self.places[at] else {
            return;
        };
        let far = &mut place.far;
        let Some(lease) = far.lease.as_ref().filter(|_| !is_shut) else {
            return;
        };
        let keyspace = far.keyspaces.first().copied().unwrap_or(KeyspaceId(1));
        let key = key(keyspace, number);
        let Some(found) = self.reader.find(&key, self.reader.hash(&key)) else {
            return;
        };
        // An upper bound of the distinct bytes: each pin counts.
        let bytes: u64 = far
            .pins
            .values()
            .chain([&found])
            .map(|found| u64::from(found.extent.len_bytes.next_multiple_of(ALIGN)))
            .sum();
        let slot = slot % lease.pins.count();
        if bytes > quota || far.pins.contains_key(&slot) {
            return;
        }
        lease.pins.raise_high_water(slot as u32 + 1);
        lease.pins.publish(slot, found.entry);
        pin_fence();
        assert!(
            self.reader.is_current(&found),
            "nothing happened in between"
        );
        if far.is_honest && !self.pins_may_expire {
            far.pins.insert(slot, found);
        }
    }

    fn unpin(&mut self, at: usize, slot: usize) {
        if let Some(place) = &mut self.places[at]
            && let Some(lease) = &place.far.lease
        {
            let slot = slot % lease.pins.count();
            lease.pins.clear(slot);
            place.far.pins.remove(&slot);
        }
    }
}

fn at(who: u8) -> usize {
    usize::from(who) % PLACES
}

impl Far {
    /// A request of the right form.
    fn request(&self, ask: &Ask) -> Request {
        let keyspace = |which: u8| match self.keyspaces.len() {
            0 => KeyspaceId(u32::from(which)),
            len => self.keyspaces[usize::from(which) % len],
        };
        let held = |op: u8, skew: u8| {
            let op_id = OpId(u64::from(op));
            let mut items: Vec<HeldItem> = self
                .grants
                .iter()
                .filter(|grant| grant.op == op_id)
                .map(|grant| HeldItem {
                    entry: grant.entry,
                    generation: grant.generation,
                })
                .collect();
            if items.is_empty() {
                items.push(HeldItem {
                    entry: hostkv_shm_protocol::id::EntryNumber(u32::from(skew)),
                    generation: 2,
                });
            }
            match skew {
                1 => items[0].generation += 2,
                2 => items.extend_from_within(..),
                3 => items.truncate(1),
                _ => {}
            }
            Held { op_id, items }
        };
        match ask {
            Ask::Resolve {
                model,
                salt,
                tokens,
                as_it_stands,
            } => Request::Resolve(Resolve {
                flags: if *as_it_stands {
                    resolve_flags::AS_IT_STANDS
                } else {
                    0
                },
                tokens_per_key: u32::from(*tokens),
                layout_fingerprint: u64::from(model >> 4),
                model_name: format!("model-{}", model % 4),
                cache_salt: "s".repeat(usize::from(salt % 3)),
            }),
            Ask::Reserve {
                op,
                keyspace: which,
                items,
            } => Request::Reserve(reserve(*op, keyspace(*which), items)),
            Ask::CommitReserve {
                op,
                skew,
                next,
                keyspace: which,
                items,
            } => Request::CommitReserve(held(*op, *skew), reserve(*next, keyspace(*which), items)),
            Ask::Commit { op, skew } => Request::Commit(held(*op, *skew)),
            Ask::Abort { op, skew } => Request::Abort(held(*op, *skew)),
            Ask::Remove {
                keyspace: which,
                keys,
            } => Request::Remove(
                keys.iter()
                    .map(|number| key(keyspace(*which), number % 32))
                    .collect(),
            ),
            Ask::Clear { is_all } => Request::Clear {
                flags: if *is_all {
                    clear_flags::ALL_KEYSPACES
                } else {
                    0
                },
            },
            Ask::Stats => Request::Stats,
            Ask::Audit => Request::Audit,
            Ask::Ping => Request::Ping,
            Ask::Bye => Request::Bye,
            Ask::Prefetch {
                op,
                keyspace: which,
                keys,
            } => Request::Prefetch(Prefetch {
                op_id: OpId(u64::from(*op)),
                request_id: String::new(),
                device: String::new(),
                keys: keys
                    .iter()
                    .map(|number| key(keyspace(*which), number % 32))
                    .collect(),
            }),
            Ask::PrefetchEnd { op } => Request::PrefetchEnd {
                op_id: OpId(u64::from(*op)),
            },
        }
    }
}

fn reserve(op: u8, keyspace: KeyspaceId, items: &[(u8, u16)]) -> Reserve {
    Reserve {
        op_id: OpId(u64::from(op)),
        request_id: String::new(),
        device: String::new(),
        items: items
            .iter()
            .map(|(number, len)| ReserveItem {
                key: key(keyspace, number % 32),
                len_bytes: u32::from(*len),
            })
            .collect(),
    }
}

fn harm(frame: &mut Vec<u8>, damage: &Damage) {
    let is_told = match damage {
        Damage::Flip { at, bits } => {
            let at = usize::from(*at) % frame.len();
            frame[at] ^= bits;
            false
        }
        Damage::Cut { by, is_told } => {
            let by = usize::from(*by) % frame.len();
            frame.truncate(frame.len() - by);
            *is_told
        }
        Damage::Append { bytes, is_told } => {
            frame.extend_from_slice(bytes);
            *is_told
        }
    };
    let len = frame.len() as u32;
    if is_told && let Some(told) = frame.get_mut(..4) {
        told.copy_from_slice(&len.to_le_bytes());
    }
}
