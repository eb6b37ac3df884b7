//! A real daemon in a temporary folder, and keys to fill it with.

use hostkv::ChunkKey;
use hostkv::session::{KeyspaceConfig, ReserveItem, Session, SessionConfig};
use hostkv::{KeyspaceId, Status};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A daemon that ends with this value.
pub struct Pool {
    daemon: Child,
    folder: tempfile::TempDir,
}

impl Pool {
    /// Starts a daemon at the default log level without an endpoint, with these flags.
    pub fn start(flags: &[&str]) -> Result<Pool, String> {
        Pool::launch(&[&["--disable-prometheus"], flags].concat(), "INFO")
    }

    /// Starts a daemon with these flags beside the socket's, and this level of its log.
    pub fn launch(flags: &[&str], log_level: &str) -> Result<Pool, String> {
        let folder = tempfile::tempdir().map_err(|error| format!("temporary folder: {error}"))?;
        let socket = folder.path().join("hostkv.sock");
        let mut command = Command::new(daemon_path()?);
        command
            .arg("--socket")
            .arg(&socket)
            .args(flags)
            .env("LMCACHE_LOG_LEVEL", log_level)
            .stderr(Stdio::null());
        // SAFETY: prctl is async-signal-safe; it makes the daemon end with this process.
        unsafe {
            command.pre_exec(|| {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                Ok(())
            });
        }
        let daemon = command
            .spawn()
            .map_err(|error| format!("hostkvd does not start: {error}"))?;
        let pool = Pool { daemon, folder };
        let deadline = Instant::now() + Duration::from_secs(60);
        while pool.session().is_err() {
            if Instant::now() > deadline {
                return Err("hostkvd is not ready after 60 s".to_owned());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(pool)
    }

    /// A session of this daemon.
    pub fn session(&self) -> Result<Session, String> {
        Session::open(&SessionConfig {
            socket_path: Some(self.folder.path().join("hostkv.sock")),
            client_name: "hostkv-bench".to_owned(),
            pin_slot_count: 4096,
            ..SessionConfig::default()
        })
        .map_err(|error| error.message)
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        // SAFETY: the pid is that of our own child, which has not been waited for.
        unsafe { libc::kill(self.daemon.id() as i32, libc::SIGTERM) };
        let _ = self.daemon.wait();
    }
}

fn daemon_path() -> Result<PathBuf, String> {
    let own = std::env::current_exe().map_err(|error| error.to_string())?;
    let path = own.parent().unwrap_or(Path::new(".")).join("hostkvd");
    if path.exists() {
        Ok(path)
    } else {
        Err(format!(
            "there is no {}; run cargo build --release -p hostkv-daemon first",
            path.display()
        ))
    }
}

/// The benchmark's keyspace.
pub fn keyspace(session: &Session) -> Result<KeyspaceId, String> {
    session
        .open_keyspace(&KeyspaceConfig {
            model_name: "bench".to_owned(),
            cache_salt: String::new(),
            layout_fingerprint: 1,
            tokens_per_key: 0,
            as_it_stands: false,
        })
        .map_err(|error| error.message)
}

/// Key number `n`: 32 bytes that look like a hash.
pub fn key(n: u64) -> ChunkKey {
    let mut chunk_hash = [0; 32];
    let mut state = n;
    for chunk in chunk_hash.chunks_exact_mut(8) {
        chunk.copy_from_slice(&mix(&mut state).to_le_bytes());
    }
    ChunkKey {
        chunk_hash,
        chunk_hash_len: 32,
        kv_rank: 0,
        object_group_id: 0,
    }
}

/// One step of SplitMix64 (Steele, Lea, Flood 2014).
pub fn mix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Stores keys `0..count` of `len_bytes` each; fails unless every one is granted.
pub fn fill(
    session: &Session,
    keyspace: KeyspaceId,
    count: u64,
    len_bytes: u64,
) -> Result<(), String> {
    let numbers: Vec<u64> = (0..count).collect();
    for batch in numbers.chunks(1024) {
        let items: Vec<ReserveItem> = batch
            .iter()
            .map(|n| ReserveItem {
                key: key(*n),
                len_bytes,
            })
            .collect();
        let reservation = session
            .reserve(keyspace, &items, &Default::default())
            .map_err(|error| error.message)?;
        for index in 0..items.len() {
            match reservation.span(index) {
                Ok(_) => {}
                Err(error) if error.status == Status::Exists => {}
                Err(error) => return Err(format!("filling: {}", error.message)),
            }
        }
        reservation.commit().map_err(|error| error.message)?;
    }
    Ok(())
}
