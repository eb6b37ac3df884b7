//! The tier `fs`: one file an object, written from and read into the payload without a copy.
//!
//! ```text
//!   base_path/v1/3f/3f9a…        a file an object, in 256 folders by the first byte of its key
//!   base_path/tmp/INSTANCE/N     files that are being written; the folder is locked while its daemon lives
//!
//!   file:   0 seal, then zeros    4096 bytes of the object      4096 + length: end
//! ```
//!
//! A file gets its name by a rename when all of it was written, so whoever finds it finds it whole, wherever its writer was
//! killed. What a power failure or a bad disk makes of it the sum in the seal shows at the next load, which removes it.
//! Folders of daemons that are gone are removed by the next one.
//!
//! **Order and capacity.** The index in memory ([`Lru`]) is filled by a scan in the background; a lookup that comes first,
//! or that asks for what another daemon put into a shared folder, looks at the file itself, so a scan is in nobody's way.
//! Before a store the coldest objects go, until there is room for it. While the scan runs its objects are not known, so the
//! folder may hold more than its capacity until it ends. A file's time of modification is the time of its last use, as exact
//! as [`TOUCH_AGAIN_NS`]; that is what a restart knows.
//!
//! **The lock** guards index and counters. No thread waits for a disk while it holds it.

mod direct;
mod scan;

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{SystemTime, UNIX_EPOCH};

use nix::errno::Errno;
use nix::sys::stat::futimens;
use nix::sys::time::{TimeSpec, TimeValLike};

use hostkv_shm_protocol::sync::{AtomicBool, AtomicU64, Ordering};

use super::backend::{Backend, Fault, Got, Put, Usage};
use super::key::TierKey;
use super::lru::Lru;
use super::seal::Seal;
use super::spec::FsSpec;
use super::{PayloadRange, StoreObject};
use crate::random::random_bytes;
use crate::workers::PayloadBytes;

use direct::{BLOCK_BYTES, Transfer};

/// The folder of objects: its name changes with the layout of files.
const OBJECTS: &str = "v1";
const TEMPORARY: &str = "tmp";
/// How old the time of the last use on disk may be before it is written anew.
const TOUCH_AGAIN_NS: u64 = 60_000_000_000;

/// What the scan's thread and the tier's share.
struct Shared {
    objects: PathBuf,
    temporary: PathBuf,
    /// The folder under `temporary` that is this daemon's.
    own: PathBuf,
    state: Mutex<State>,
    is_ending: AtomicBool,
}

#[derive(Default)]
struct State {
    lru: Lru,
    /// Bytes of the files that are being written.
    pending_bytes: u64,
    evicted_keys_count: u64,
    evicted_bytes: u64,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn path_of(&self, key: &TierKey) -> PathBuf {
        let name = key.to_string();
        self.objects.join(&name[..2]).join(name)
    }

    /// Makes room for `wanted_bytes` more by removing the coldest objects, and takes it; whether there is room.
    fn make_room(&self, capacity_bytes: u64, wanted_bytes: u64) -> bool {
        if wanted_bytes > capacity_bytes {
            return false;
        }
        loop {
            let victim = {
                let mut state = self.state();
                let taken_bytes = state.lru.used_bytes() + state.pending_bytes;
                if taken_bytes + wanted_bytes <= capacity_bytes {
                    state.pending_bytes += wanted_bytes;
                    return true;
                }
                let Some((key, slot)) = state.lru.take_coldest() else {
                    return false;
                };
                state.evicted_keys_count += 1;
                state.evicted_bytes += slot.used_bytes;
                key
            };
            // What can't be removed now is found again by the next scan.
            let _ = fs::remove_file(self.path_of(&victim));
        }
    }

    /// Removes the folder of files that are being written; what is left in it goes with the next daemon's scan.
    fn remove_own(&self) {
        let _ = fs::remove_dir(&self.own);
    }
}

/// A thread that has ended what it does when `stay` has been dropped and it is joined.
struct Scan {
    thread: JoinHandle<()>,
    stay: Sender<()>,
}

/// The opened tier.
pub(super) struct FsTier {
    shared: Arc<Shared>,
    payload: PayloadBytes,
    is_direct: bool,
    capacity_bytes: Option<u64>,
    next_temporary: AtomicU64,
    /// The thread that scans, and then waits to remove the tier's own folder.
    scan: Option<Scan>,
    /// Locked, so that no other daemon takes the files in it for leftovers.
    _own_lock: File,
}

impl FsTier {
    /// Makes the folders, sees that a file can be written and read, and starts the scan.
    pub(super) fn open(spec: &FsSpec, payload: PayloadBytes) -> Result<FsTier, Fault> {
        let base = &spec.base_path;
        let failed = |what: &str, error: io::Error| {
            Fault::error(format!(
                "{what} {base:?} failed: {error}; give a base_path where hostkvd may make folders and files"
            ))
        };
        let objects = base.join(OBJECTS);
        let temporary = base.join(TEMPORARY);
        for folder in [&objects, &temporary] {
            make_folder(folder).map_err(|error| failed("making the folders of", error))?;
        }
        for first in 0..=255_u8 {
            make_folder(&objects.join(format!("{first:02x}")))
                .map_err(|error| failed("making the folders of", error))?;
        }
        let (own, own_lock) =
            own_folder(&temporary).map_err(|error| failed("making the folders of", error))?;
        let mut tier = FsTier {
            shared: Arc::new(Shared {
                objects,
                temporary,
                own,
                state: Mutex::default(),
                is_ending: AtomicBool::new(false),
            }),
            payload,
            is_direct: spec.is_direct,
            capacity_bytes: spec.capacity_bytes,
            next_temporary: AtomicU64::new(0),
            scan: None,
            _own_lock: own_lock,
        };
        tier.write_probe().map_err(|error| match error {
            error if spec.is_direct && error.raw_os_error() == Some(libc::EINVAL) => {
                Fault::error(format!(
                    "the file system of {base:?} has no direct I/O (O_DIRECT); leave use_odirect out or give another base_path"
                ))
            }
            error => failed("writing a file in", error),
        })?;
        let shared = Arc::clone(&tier.shared);
        let capacity_bytes = spec.capacity_bytes;
        let (stay, stayed) = channel();
        let work = move || {
            scan::run(&shared, capacity_bytes);
            // Nothing is ever sent: it ends when the other side is dropped.
            let _ = stayed.recv();
            shared.remove_own();
        };
        let thread = std::thread::Builder::new()
            .name("l2-scan".to_owned())
            .spawn(work)
            .map_err(|error| failed("starting the thread that scans", error))?;
        tier.scan = Some(Scan { thread, stay });
        Ok(tier)
    }

    fn write_probe(&self) -> io::Result<()> {
        let path = self.temporary_path();
        let result = self.create(&path).and_then(|file| {
            direct::write_seal(&file, &[])?;
            Ok(())
        });
        let _ = fs::remove_file(&path);
        result
    }

    fn temporary_path(&self) -> PathBuf {
        // Relaxed: only that no number comes twice.
        let number = self.next_temporary.fetch_add(1, Ordering::Relaxed);
        self.shared.own.join(number.to_string())
    }

    fn create(&self, path: &Path) -> io::Result<File> {
        OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .custom_flags(self.flags())
            .open(path)
    }

    fn flags(&self) -> libc::c_int {
        let direct = if self.is_direct { libc::O_DIRECT } else { 0 };
        direct | libc::O_NOFOLLOW
    }

    fn transfer<'a>(&'a self, file: &'a File) -> Transfer<'a> {
        Transfer {
            file,
            payload: &self.payload,
            is_direct: self.is_direct,
            is_ending: &self.shared.is_ending,
        }
    }

    /// Writes the file under a temporary name and gives it its own.
    fn write(&self, object: &StoreObject, temporary: &Path) -> io::Result<()> {
        let file = self.create(temporary)?;
        let sum = self.transfer(&file).write(object.source, object.sum)?;
        let seal = Seal {
            key: object.key,
            len_bytes: object.source.len_bytes,
            sum,
        };
        direct::write_seal(&file, &seal.to_bytes())?;
        // Behind the last block, which is padded when it goes around the page cache.
        file.set_len(BLOCK_BYTES + object.source.len_bytes)?;
        fs::rename(temporary, self.shared.path_of(&object.key))
    }

    /// What is under the key is none of it: the next store may put it there again.
    fn discard(&self, key: &TierKey) -> Got {
        self.shared.state().lru.remove(key);
        let _ = fs::remove_file(self.shared.path_of(key));
        Got::Damaged
    }

    fn fault(&self, what: &str, error: &io::Error) -> Fault {
        let sentence = format!("{what} in {:?} failed: {error}", self.shared.objects);
        match error.raw_os_error().map(Errno::from_raw) {
            Some(Errno::ENOSPC | Errno::EDQUOT | Errno::EFBIG) => Fault::full(sentence),
            Some(Errno::ETIMEDOUT) => Fault::timeout(sentence),
            _ => Fault::error(sentence),
        }
    }
}

impl Backend for FsTier {
    fn find(&self, keys: &[TierKey]) -> Result<Vec<Option<u64>>, Fault> {
        let known: Vec<Option<u64>> = {
            let state = self.shared.state();
            keys.iter()
                .map(|key| state.lru.get(key).map(|slot| slot.len_bytes))
                .collect()
        };
        keys.iter()
            .zip(known)
            .map(|(key, known)| match known {
                Some(len_bytes) => Ok(Some(len_bytes)),
                None => match fs::symlink_metadata(self.shared.path_of(key)) {
                    Ok(metadata) => Ok(metadata.len().checked_sub(BLOCK_BYTES)),
                    Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
                    Err(error) => Err(self.fault("looking for an object", &error)),
                },
            })
            .collect()
    }

    fn put(&self, object: &StoreObject) -> Result<Put, Fault> {
        let len_bytes = object.source.len_bytes;
        let used_bytes = used_bytes_of(len_bytes);
        {
            let mut state = self.shared.state();
            if state
                .lru
                .get(&object.key)
                .is_some_and(|slot| slot.len_bytes == len_bytes)
            {
                state.lru.touch(&object.key, now_ns());
                return Ok(Put::Known);
            }
        }
        if let Some(capacity_bytes) = self.capacity_bytes
            && !self.shared.make_room(capacity_bytes, used_bytes)
        {
            return Err(Fault::full(format!(
                "an object of {len_bytes} bytes has no room in the {capacity_bytes} bytes of max_capacity_gb"
            )));
        }
        let temporary = self.temporary_path();
        let result = self.write(object, &temporary);
        let mut state = self.shared.state();
        if self.capacity_bytes.is_some() {
            state.pending_bytes -= used_bytes;
        }
        match result {
            Ok(()) => {
                state
                    .lru
                    .insert(object.key, len_bytes, used_bytes, now_ns());
                Ok(Put::Stored)
            }
            Err(error) => {
                drop(state);
                let _ = fs::remove_file(&temporary);
                Err(self.fault("storing an object", &error))
            }
        }
    }

    fn get(&self, key: &TierKey, destination: PayloadRange) -> Result<Got, Fault> {
        let opened = OpenOptions::new()
            .read(true)
            .custom_flags(self.flags())
            .open(self.shared.path_of(key));
        let file = match opened {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                self.shared.state().lru.remove(key);
                return Ok(Got::Absent);
            }
            Err(error) => return Err(self.fault("opening an object", &error)),
        };
        let failed = |error: io::Error| self.fault("loading an object", &error);
        let metadata = file.metadata().map_err(failed)?;
        if metadata.len() != BLOCK_BYTES + destination.len_bytes {
            return Ok(self.discard(key));
        }
        let read = match self.transfer(&file).read(destination) {
            Ok(read) => read,
            // The file is shorter than it was, or the disk says that it can't read it.
            Err(error)
                if error.kind() == ErrorKind::UnexpectedEof
                    || error.raw_os_error() == Some(libc::EIO) =>
            {
                return Ok(self.discard(key));
            }
            Err(error) => return Err(failed(error)),
        };
        let seal = Seal::of(&read.seal, key, destination.len_bytes);
        if seal.is_none_or(|seal| seal.sum != read.sum) {
            return Ok(self.discard(key));
        }
        let now_ns = now_ns();
        let touched_ns = metadata.modified().map_or(0, ns_of);
        if touched_ns.saturating_add(TOUCH_AGAIN_NS) < now_ns {
            let now = TimeSpec::nanoseconds(now_ns as i64);
            // Only the order after a restart is less exact without it.
            let _ = futimens(&file, &now, &now);
        }
        let mut state = self.shared.state();
        let used_bytes = used_bytes_of(destination.len_bytes);
        state
            .lru
            .insert(*key, destination.len_bytes, used_bytes, now_ns);
        Ok(Got::Loaded(read.sum))
    }

    fn remove(&self, key: &TierKey) -> Result<(), Fault> {
        self.shared.state().lru.remove(key);
        match fs::remove_file(self.shared.path_of(key)) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(self.fault("removing an object", &error))
            }
            _ => Ok(()),
        }
    }

    fn probe(&self) -> Result<(), Fault> {
        self.write_probe()
            .map_err(|error| self.fault("writing a file", &error))
    }

    fn usage(&self) -> Usage {
        let state = self.shared.state();
        Usage {
            used_bytes: state.lru.used_bytes(),
            objects: state.lru.count() as u64,
            capacity_bytes: self.capacity_bytes,
            evicted_keys_count: state.evicted_keys_count,
            evicted_bytes: state.evicted_bytes,
        }
    }

    fn end(&self) {
        // Relaxed: a sign to stop, nothing stands behind it.
        self.shared.is_ending.store(true, Ordering::Relaxed);
    }
}

impl Drop for FsTier {
    fn drop(&mut self) {
        self.end();
        match self.scan.take() {
            // By its thread: the one that drops the daemon's tiers may have given the folder up by then.
            Some(Scan { thread, stay }) => {
                drop(stay);
                // A panic was logged when it happened.
                let _ = thread.join();
            }
            // The opening failed.
            None => self.shared.remove_own(),
        }
    }
}

/// What the file of an object takes, in whole blocks.
fn used_bytes_of(len_bytes: u64) -> u64 {
    BLOCK_BYTES + len_bytes.next_multiple_of(BLOCK_BYTES)
}

fn make_folder(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
}

/// A folder of temporary files that no other daemon has, and the lock on it.
fn own_folder(temporary: &Path) -> io::Result<(PathBuf, File)> {
    let name = u64::from_le_bytes(random_bytes::<8>()?);
    let path = temporary.join(format!("{name:016x}"));
    make_folder(&path)?;
    let lock = File::open(&path)?;
    match lock.try_lock() {
        Ok(()) => {}
        // Somebody took it for a leftover in between; or the file system knows no locks, and then nobody takes any.
        Err(fs::TryLockError::WouldBlock) => return Err(ErrorKind::ResourceBusy.into()),
        Err(fs::TryLockError::Error(_)) => {}
    }
    Ok((path, lock))
}

/// Nanoseconds of the wall clock, which the times of files are made of.
fn now_ns() -> u64 {
    ns_of(SystemTime::now())
}

fn ns_of(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX >> 1)
}
