//! LMDB in process, on a file in memory where there is a `/dev/shm`, without syncing: the fastest that it can be told to be.
//!
//! A reader keeps one transaction and renews it for each call, as its documentation advises for short reads.

use super::Peer;
use crate::limits::copy;
use hostkv::ChunkKey;
use lmdb_master_sys as ffi;
use std::ffi::CString;
use std::path::{Path, PathBuf};
use std::ptr::{copy_nonoverlapping, null, null_mut};

/// Room for the largest table here, several times over.
const MAP_BYTES: usize = 8 << 30;

/// An open database.
struct Database {
    env: *mut ffi::MDB_env,
    table: ffi::MDB_dbi,
}

impl Database {
    fn open(folder: &Path) -> Result<Database, String> {
        let path = CString::new(folder.as_os_str().as_encoded_bytes())
            .map_err(|error| error.to_string())?;
        let mut database = Database {
            env: null_mut(),
            table: 0,
        };
        // SAFETY: the calls of a new environment, in the order of its documentation; each writes to memory of ours.
        unsafe {
            check(ffi::mdb_env_create(&mut database.env))?;
            check(ffi::mdb_env_set_mapsize(database.env, MAP_BYTES))?;
            let flags = ffi::MDB_NOSYNC | ffi::MDB_WRITEMAP | ffi::MDB_NOMEMINIT | ffi::MDB_NOTLS;
            check(ffi::mdb_env_open(database.env, path.as_ptr(), flags, 0o600))?;
            let mut txn = null_mut();
            check(ffi::mdb_txn_begin(database.env, null_mut(), 0, &mut txn))?;
            let opened = check(ffi::mdb_dbi_open(txn, null(), 0, &mut database.table));
            check(ffi::mdb_txn_commit(txn))?;
            opened?;
        }
        Ok(database)
    }

    /// Does something in a transaction that writes, and commits.
    fn write(
        &self,
        work: impl FnOnce(*mut ffi::MDB_txn) -> Result<(), String>,
    ) -> Result<(), String> {
        let mut txn = null_mut();
        // SAFETY: the environment is open; the transaction ends below.
        unsafe {
            check(ffi::mdb_txn_begin(self.env, null_mut(), 0, &mut txn))?;
            if let Err(error) = work(txn) {
                ffi::mdb_txn_abort(txn);
                return Err(error);
            }
            check(ffi::mdb_txn_commit(txn))
        }
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        // SAFETY: the environment is ours, and its transactions have ended.
        unsafe { ffi::mdb_env_close(self.env) };
    }
}

/// A database and a transaction to read it.
pub struct Reader {
    txn: *mut ffi::MDB_txn,
    database: Database,
}

impl Reader {
    /// A reader of the database in this folder.
    pub fn open(folder: &Path) -> Result<Reader, String> {
        let database = Database::open(folder)?;
        let mut txn = null_mut();
        // SAFETY: the environment is open and outlives the transaction, which a drop ends first.
        unsafe {
            check(ffi::mdb_txn_begin(
                database.env,
                null_mut(),
                ffi::MDB_RDONLY,
                &mut txn,
            ))?;
            ffi::mdb_txn_reset(txn);
        }
        Ok(Reader { txn, database })
    }

    /// Calls `visit` with each object found in one transaction; how many there were.
    fn visit(&self, keys: &[ChunkKey], mut visit: impl FnMut(&[u8])) -> Result<usize, String> {
        // SAFETY: the transaction was reset; views are used only before it is again.
        unsafe {
            check(ffi::mdb_txn_renew(self.txn))?;
            let mut found = 0;
            for key in keys {
                let mut name = value(&key.chunk_hash);
                let mut object = value(&[]);
                if ffi::mdb_get(self.txn, self.database.table, &mut name, &mut object) == 0 {
                    found += 1;
                    visit(std::slice::from_raw_parts(
                        object.mv_data.cast(),
                        object.mv_size,
                    ));
                }
            }
            ffi::mdb_txn_reset(self.txn);
            Ok(found)
        }
    }

    /// How many of the keys are there.
    pub fn find(&self, keys: &[ChunkKey]) -> Result<usize, String> {
        self.visit(keys, |object| {
            std::hint::black_box(object.as_ptr());
        })
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        // SAFETY: the transaction is ours.
        unsafe { ffi::mdb_txn_abort(self.txn) };
    }
}

/// The peer: a database in a folder of its own.
pub struct Lmdb {
    reader: Reader,
    folder: tempfile::TempDir,
}

impl Lmdb {
    /// Opens an empty database.
    pub fn start() -> Result<Lmdb, String> {
        let memory = Path::new("/dev/shm");
        let folder = tempfile::tempdir_in(memory)
            .or_else(|_| tempfile::tempdir())
            .map_err(|error| format!("temporary folder: {error}"))?;
        Ok(Lmdb {
            reader: Reader::open(folder.path())?,
            folder,
        })
    }

    /// Where it is, for other processes.
    pub fn folder(&self) -> PathBuf {
        self.folder.path().to_owned()
    }
}

impl Peer for Lmdb {
    fn name(&self) -> &'static str {
        "LMDB"
    }

    fn is_in_process(&self) -> bool {
        true
    }

    fn gives_views(&self) -> bool {
        true
    }

    fn clear(&mut self) -> Result<(), String> {
        let table = self.reader.database.table;
        // SAFETY: the transaction is the one that is going on.
        self.reader
            .database
            .write(|txn| check(unsafe { ffi::mdb_drop(txn, table, 0) }))
    }

    fn store(&mut self, keys: &[ChunkKey], bytes: &[u8]) -> Result<(), String> {
        let table = self.reader.database.table;
        self.reader.database.write(|txn| {
            for key in keys {
                let mut name = value(&key.chunk_hash);
                let mut object = value(bytes);
                // SAFETY: with MDB_RESERVE the call gives room of this size in the map, which is ours to write until the
                // next call.
                unsafe {
                    check(ffi::mdb_put(
                        txn,
                        table,
                        &mut name,
                        &mut object,
                        ffi::MDB_RESERVE,
                    ))?;
                    copy_nonoverlapping(bytes.as_ptr(), object.mv_data.cast(), bytes.len());
                }
            }
            Ok(())
        })
    }

    fn find(&mut self, keys: &[ChunkKey]) -> Result<usize, String> {
        self.reader.find(keys)
    }

    fn sum(&mut self, key: &ChunkKey, len: usize) -> Result<u64, String> {
        let mut sum = None;
        self.reader.visit(std::slice::from_ref(key), |object| {
            if object.len() == len {
                sum = Some(sum_unaligned(object));
            }
        })?;
        sum.ok_or_else(|| format!("LMDB has no object of {len} bytes under this key"))
    }
}

/// As [`copy::sum`], of an object that LMDB laid at a multiple of 2 or 8 bytes.
fn sum_unaligned(object: &[u8]) -> u64 {
    if object.as_ptr().align_offset(8) == 0 {
        // SAFETY: the object is aligned, and its transaction keeps it.
        return unsafe { copy::sum(object.as_ptr(), object.len() / 8) };
    }
    object
        .chunks_exact(8)
        .filter_map(|word| word.try_into().ok().map(u64::from_le_bytes))
        .fold(0, u64::wrapping_add)
}

fn value(bytes: &[u8]) -> ffi::MDB_val {
    ffi::MDB_val {
        mv_size: bytes.len(),
        mv_data: bytes.as_ptr().cast_mut().cast(),
    }
}

fn check(code: i32) -> Result<(), String> {
    if code == 0 {
        return Ok(());
    }
    // SAFETY: the text is a constant of the library.
    let text = unsafe { std::ffi::CStr::from_ptr(ffi::mdb_strerror(code)) };
    Err(format!("LMDB: {}", text.to_string_lossy()))
}
