//! A small pool: the daemon's store over a control segment of this process's memory.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use hostkv_daemon::config::{self, Config, Host, Invocation};
use hostkv_daemon::request::hello::PoolFacts;
use hostkv_daemon::store::{Nanos, Store, StoreConfig};
use hostkv_daemon::systemd::listen::ListenError;
use hostkv_shm_protocol::control::Geometry;
use hostkv_shm_protocol::control::header::{HeaderInit, HeaderView};
use hostkv_shm_protocol::control::reader::IndexReader;
use hostkv_shm_protocol::id::{InstanceId, KeyspaceId};
use hostkv_shm_protocol::key::{HashSecret, Key};

use crate::memory::Memory;

/// Unit of extents in bytes.
pub const ALIGN: u32 = 4096;
/// Units of the payload.
pub const UNITS: u32 = 64;
/// Entries of the index.
pub const ENTRIES: u32 = 64;
/// Calls within which a store that is asked nothing more comes to rest.
const SLICES_TO_REST: u32 = 20_000;

/// A store, and the memory that it stands on.
pub struct Pool {
    /// The cache.
    pub store: Option<Store>,
    /// What clients see of it.
    pub reader: IndexReader,
    /// What sessions are told.
    pub facts: PoolFacts,
    _control: Memory,
}

/// The configuration of a daemon without flags.
pub fn default_config() -> Config {
    struct Nowhere;
    impl Host for Nowhere {
        fn variable(&self, _: &str) -> Option<OsString> {
            None
        }
        fn read_file(&self, _: &Path) -> io::Result<String> {
            Err(io::ErrorKind::NotFound.into())
        }
        fn group_id(&self, _: &str) -> io::Result<Option<u32>> {
            Ok(None)
        }
        fn has_folder(&self, _: &Path) -> bool {
            true
        }
        fn passed_socket(&self) -> Result<Option<PathBuf>, ListenError> {
            Ok(None)
        }
        fn is_root(&self) -> bool {
            true
        }
    }
    let arguments = ["hostkvd", "--socket", "/nowhere/hostkv.sock"];
    match config::load(arguments.map(OsString::from).to_vec(), &Nowhere) {
        Ok(Invocation::Run(config)) => *config,
        other => panic!("the defaults are refused: {other:?}"),
    }
}

impl Pool {
    /// An empty pool; `change` may differ from the defaults of the daemon.
    pub fn new(config: &Config, change: impl FnOnce(&mut StoreConfig)) -> Pool {
        let geometry = Geometry::for_entries(ENTRIES);
        let control = Memory::new(geometry.segment_len());
        let payload_len = u64::from(UNITS) * u64::from(ALIGN);
        let instance_id = InstanceId([7; 16]);
        HeaderView::new(control.view())
            .unwrap()
            .initialise(&HeaderInit {
                instance_id,
                boot_id: [0; 2],
                created_mono_ns: 0,
                flags: 0,
                check_every: 0,
                geometry,
                align_bytes: ALIGN,
                hash_secret: HashSecret { k0: 1, k1: 2 },
                payload_len,
                max_sessions: config.limits.max_sessions,
            });
        let mut store_config = hostkv_daemon::store_config(config, payload_len);
        store_config.align_bytes = ALIGN;
        change(&mut store_config);
        Pool {
            store: Some(Store::new(store_config, control.view()).unwrap()),
            reader: IndexReader::new(control.view()).unwrap(),
            facts: PoolFacts {
                instance_id,
                daemon_thread_id: 42,
                capacity_bytes: payload_len,
                align_bytes: u64::from(ALIGN),
                huge_page_bytes: 0,
                entry_count: ENTRIES,
                is_sealed: false,
            },
            _control: control,
        }
    }
}

#[cfg(shuttle)]
impl Pool {
    /// The control segment. Whoever has the pool keeps it for longer than every copy of the view.
    pub fn control_view(&self) -> hostkv_shm_protocol::view::View {
        self._control.view()
    }
}

/// A key that a number names.
pub fn key(keyspace: KeyspaceId, number: u8) -> Key {
    Key::new(&[number; 32], 32, 0, 0, keyspace).unwrap()
}

/// Runs what is due now; panics when the store never comes to rest.
pub fn settle(store: &mut Store, now: Nanos) {
    for _ in 0..SLICES_TO_REST {
        if !store.has_work() {
            return;
        }
        store.slice(now);
    }
    panic!("the store never comes to rest");
}

/// Panics when the recount does not add up.
pub fn audited(store: &mut Store) -> hostkv_shm_protocol::wire::reply::Audit {
    let audit = store.audit();
    assert_eq!(audit.verdict, "", "the audit does not add up: {audit:?}");
    audit
}
