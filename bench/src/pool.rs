//! A real daemon in a temporary folder, and keys to fill it with.
//!
//! Default flags and log level, except for what a row names and for the port of the metrics, which is a free one.

use crate::keys::key;
use crate::limits::trip::processors;
use crate::machine;
use hostkv::reservation::Reservation;
use hostkv::session::{KeyspaceConfig, ReserveItem, Session, SessionConfig};
use hostkv::{ChunkKey, KeyspaceId, Status};
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Longest start.
const START: Duration = Duration::from_secs(120);
/// Most keys of a reserve that fills.
const FILL_KEYS: usize = 1024;

/// What the client says when a call fails.
pub fn said(error: hostkv::Error) -> String {
    error.message
}

/// A daemon that ends with this value.
pub struct Pool {
    daemon: Child,
    folder: tempfile::TempDir,
    ready_ns: f64,
}

impl Pool {
    /// Starts a daemon at the default log level with these flags.
    pub fn start(flags: &[&str]) -> Result<Pool, String> {
        Pool::launch(&[&["--prometheus-port", "0"], flags].concat(), "INFO")
    }

    /// Starts a daemon with these flags beside the socket's, and this level of its log.
    pub fn launch(flags: &[&str], log_level: &str) -> Result<Pool, String> {
        let fault = |what: &str, error: std::io::Error| format!("{what}: {error}");
        let folder = tempfile::tempdir().map_err(|error| fault("temporary folder", error))?;
        let notified = folder.path().join("notify");
        let notices =
            UnixDatagram::bind(&notified).map_err(|error| fault("socket for READY", error))?;
        notices
            .set_read_timeout(Some(Duration::from_millis(100)))
            .map_err(|error| fault("socket for READY", error))?;
        let mut command = Command::new(daemon_path()?);
        // The caller's own settings must not change what is measured.
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("HOSTKV_")) {
            command.env_remove(name);
        }
        command
            .arg("--socket")
            .arg(folder.path().join("hostkv.sock"))
            .args(flags)
            .env("LMCACHE_LOG_LEVEL", log_level)
            .env("NOTIFY_SOCKET", &notified)
            .env_remove("WATCHDOG_USEC")
            .stderr(Stdio::null());
        attach(&mut command);
        let begin = Instant::now();
        let daemon = command
            .spawn()
            .map_err(|error| fault("hostkvd does not start", error))?;
        let mut pool = Pool {
            daemon,
            folder,
            ready_ns: 0.0,
        };
        let mut notice = [0; 4096];
        while begin.elapsed() < START {
            if let Ok(len) = notices.recv(&mut notice)
                && String::from_utf8_lossy(&notice[..len])
                    .lines()
                    .any(|line| line == "READY=1")
            {
                pool.ready_ns = begin.elapsed().as_nanos() as f64;
                return Ok(pool);
            }
            if let Ok(Some(status)) = pool.daemon.try_wait() {
                return Err(format!(
                    "hostkvd {} ended at its start: {status}",
                    flags.join(" ")
                ));
            }
        }
        Err(format!("hostkvd is not ready after {} s", START.as_secs()))
    }

    /// The daemon's process.
    pub fn pid(&self) -> u32 {
        self.daemon.id()
    }

    /// Nanoseconds from its start until it said that it was ready.
    pub fn ready_ns(&self) -> f64 {
        self.ready_ns
    }

    /// Nanoseconds of CPU that its loop has used, which is its first thread.
    pub fn loop_cpu_ns(&self) -> Result<u64, String> {
        machine::first_thread_cpu_ns(self.pid())
    }

    /// Nanoseconds of CPU that all its threads have used.
    pub fn cpu_ns(&self) -> Result<u64, String> {
        machine::cpu_ns(self.pid())
    }

    /// Puts its loop on the processor of a round trip's server, and this thread on the client's, so that the two are compared
    /// with a round trip between the same processors.
    pub fn bind_apart(&self) -> Result<(), String> {
        let Some((client, server)) = processors() else {
            return Ok(());
        };
        machine::bind(0, Some(client))?;
        machine::bind(self.pid(), Some(server))
    }

    /// Its socket.
    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("hostkv.sock")
    }

    /// A session of this daemon.
    pub fn session(&self) -> Result<Session, String> {
        session(&self.socket(), 0)
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        // SAFETY: the pid is that of our own child, which has not been waited for.
        unsafe { libc::kill(self.daemon.id() as i32, libc::SIGTERM) };
        let _ = self.daemon.wait();
    }
}

/// Makes the command's process end with this one, and run on all processors, whatever this thread is bound to.
pub fn attach(command: &mut Command) {
    let cpus = machine::all_cpus();
    // SAFETY: both are system calls and nothing else, hence async-signal-safe.
    unsafe {
        command.pre_exec(move || {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            nix::sched::sched_setaffinity(nix::unistd::Pid::from_raw(0), &cpus)?;
            Ok(())
        });
    }
}

/// A session at this socket.
pub fn session(socket: &Path, flags: u32) -> Result<Session, String> {
    Session::open(&SessionConfig {
        socket_path: Some(socket.to_owned()),
        client_name: "hostkv-bench".to_owned(),
        flags,
        ..SessionConfig::default()
    })
    .map_err(said)
}

fn daemon_path() -> Result<PathBuf, String> {
    let own = std::env::current_exe().map_err(|error| error.to_string())?;
    let mut folder = own.parent().unwrap_or(Path::new(".")).to_owned();
    if folder.ends_with("deps") {
        folder.pop();
    }
    let path = folder.join("hostkvd");
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
        .map_err(said)
}

/// Items of a reserve of these key numbers.
pub fn items(numbers: impl IntoIterator<Item = u64>, len_bytes: u64) -> Vec<ReserveItem> {
    numbers
        .into_iter()
        .map(|number| ReserveItem {
            key: key(number),
            len_bytes,
        })
        .collect()
}

/// Reserves and commits items without writing their bytes; fails unless every one is granted.
pub fn store_unwritten(
    session: &Session,
    keyspace: KeyspaceId,
    items: &[ReserveItem],
) -> Result<(), String> {
    let reservation = session
        .reserve(keyspace, items, &Default::default())
        .map_err(said)?;
    for index in 0..items.len() {
        reservation.span(index).map_err(said)?;
    }
    reservation.commit().map_err(said)
}

/// Reserves items, copies as many bytes of `source` as each has into it, and commits; fails unless every one is granted.
pub fn store(
    session: &Session,
    keyspace: KeyspaceId,
    items: &[ReserveItem],
    source: &[u64],
) -> Result<(), String> {
    let reservation = session
        .reserve(keyspace, items, &Default::default())
        .map_err(said)?;
    write(&reservation, source)?;
    reservation.commit().map_err(said)
}

/// Copies as many bytes of `source` as each item has into it; fails unless every one is granted.
pub fn write(reservation: &Reservation, source: &[u64]) -> Result<(), String> {
    for index in 0..reservation.count() {
        let span = reservation.span(index).map_err(said)?;
        if span.len_bytes as usize > std::mem::size_of_val(source) {
            return Err(format!("a source is shorter than {} bytes", span.len_bytes));
        }
        // SAFETY: the span is ours until the commit, and no longer than the source.
        unsafe {
            hostkv::copy::copy(span.data, source.as_ptr().cast(), span.len_bytes as usize);
        }
    }
    Ok(())
}

/// Stores keys `0..count` of `len_bytes` each; fails unless every one is granted or there already.
pub fn fill(
    session: &Session,
    keyspace: KeyspaceId,
    count: u64,
    len_bytes: u64,
) -> Result<(), String> {
    let numbers: Vec<u64> = (0..count).collect();
    for batch in numbers.chunks(FILL_KEYS) {
        let items = items(batch.iter().copied(), len_bytes);
        let reservation = session
            .reserve(keyspace, &items, &Default::default())
            .map_err(said)?;
        for index in 0..items.len() {
            match reservation.span(index) {
                Ok(_) => {}
                Err(error) if error.status == Status::Exists => {}
                Err(error) => return Err(format!("filling: {}", error.message)),
            }
        }
        reservation.commit().map_err(said)?;
    }
    Ok(())
}

/// Removes keys; each must have been there.
pub fn remove(session: &Session, keyspace: KeyspaceId, keys: &[ChunkKey]) -> Result<(), String> {
    for keys in keys.chunks(FILL_KEYS) {
        let mut removed = vec![0; keys.len()];
        session
            .remove(keyspace, keys, Some(&mut removed))
            .map_err(said)?;
        if removed.contains(&0) {
            return Err("a key that was stored is not there any more".to_owned());
        }
    }
    Ok(())
}
