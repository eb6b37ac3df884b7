//! The place where clients find the daemon: a folder, a lock file, and the socket in between.
//!
//! The start-up takes the lock before anything else, so that a second daemon ends at once, and opens the socket last,
//! when all is ready. The lock, not the socket, says whose path it is: a socket file without its lock is stale.
//!
//! ```text
//!   folder (made if need be) --> lock file, flock, pid inside --> ... --> stale socket away, bind, modes, listen
//!   end:    socket file away --> lock file away --> lock freed
//! ```
//!
//! A socket of the service manager is adopted instead: its file, with its rights, is the manager's, before and after.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{
    DirBuilderExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt, chown,
};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, connect, listen, socket,
};

use crate::config::{Config, SocketGroup};
use crate::error::StartError;

/// Connections that may wait for the loop to accept them.
const BACKLOG: i32 = 256;

/// How the socket is to be reached.
#[derive(Debug, Clone)]
pub struct SocketPlace {
    path: PathBuf,
    mode: u32,
    mode_was_set: bool,
    group: Option<SocketGroup>,
}

impl SocketPlace {
    /// The place that a configuration names.
    pub fn of(config: &Config) -> SocketPlace {
        SocketPlace {
            path: config.socket.clone(),
            mode: config.socket_mode,
            mode_was_set: config.socket_mode_was_set,
            group: config.socket_group.clone(),
        }
    }

    fn folder(&self) -> &Path {
        match self.path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        }
    }

    /// The folder's mode: as closed as the socket's own mode allows.
    fn folder_mode(&self) -> u32 {
        if self.mode & 0o007 != 0 {
            0o711
        } else if self.group.is_some() {
            0o750
        } else {
            0o700
        }
    }

    fn fault(&self, what: &str, path: &Path, source: impl Into<io::Error>) -> StartError {
        let source = source.into();
        let remedy = match source.raw_os_error() {
            Some(libc::EMFILE | libc::ENFILE) => {
                "raise the limit of open files (RLIMIT_NOFILE, LimitNOFILE= of its unit)"
            }
            Some(libc::ENOSPC | libc::EDQUOT) => {
                "make room in that file system or give another --socket"
            }
            Some(libc::EFBIG) => "raise the limit of file sizes (RLIMIT_FSIZE)",
            _ => "give a --socket in a folder that this user may write",
        };
        StartError::System {
            what: format!("{what} {path:?}"),
            source,
            remedy: remedy.to_owned(),
        }
    }

    /// Makes the folder if it is not there. One that is there keeps its mode; who can't pass it is warned about.
    fn make_folder(&self) -> Result<(), StartError> {
        let folder = self.folder();
        let wanted = self.folder_mode();
        match DirBuilder::new().mode(0o700).create(folder) {
            Ok(()) => {
                let made = self
                    .give_to_group(folder)
                    .and_then(|()| fs::set_permissions(folder, PermissionsExt::from_mode(wanted)));
                return made.map_err(|error| self.fault("setting up the folder", folder, error));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(StartError::SocketFolderMissing {
                    path: folder.to_owned(),
                });
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(self.fault("making the folder", folder, error)),
        }
        let found = fs::metadata(folder)
            .map_err(|error| self.fault("looking at the folder", folder, error))?;
        // Only the right to pass counts: whoever may pass the folder and write the socket can connect.
        let group_passes = found.mode() & 0o010 != 0
            && self
                .group
                .as_ref()
                .is_none_or(|group| found.gid() == group.gid);
        let all_pass = found.mode() & 0o001 != 0;
        if (wanted & 0o001 != 0 && !all_pass)
            || (self.group.is_some() && !group_passes && !all_pass)
        {
            log::warn!(
                "The folder {folder:?} has mode {:04o} and group {}: users whom the socket's mode {:04o} admits can't reach \
                 the socket; the folder should have mode {wanted:04o}{}",
                found.mode() & 0o7777,
                found.gid(),
                self.mode,
                self.group
                    .as_ref()
                    .map(|group| format!(" and group {}", group.name))
                    .unwrap_or_default(),
            );
        }
        Ok(())
    }

    /// A process whose own group it is has nothing to change, and needs no right to.
    fn give_to_group(&self, path: &Path) -> io::Result<()> {
        match &self.group {
            Some(group) if fs::symlink_metadata(path)?.gid() != group.gid => {
                chown(path, None, Some(group.gid))
            }
            _ => Ok(()),
        }
    }

    /// Says so when the file that the service manager made is not as the configuration would have made it.
    fn compare_rights(&self, found: &fs::Metadata) {
        let mode = found.mode() & 0o777;
        let other_group = self
            .group
            .as_ref()
            .filter(|group| group.gid != found.gid() || mode & 0o020 == 0);
        if let Some(group) = other_group {
            log::warn!(
                "The service manager's socket {:?} has mode {mode:04o} and group {}, so that group {} can't connect by it; set \
                 SocketGroup={} and SocketMode=0660 in the socket unit",
                self.path,
                found.gid(),
                group.name,
                group.name,
            );
        }
        if self.mode_was_set && mode != self.mode {
            log::warn!(
                "The service manager's socket {:?} has mode {mode:04o}, not {:04o}: SocketMode= of the socket unit decides, and \
                 --socket-mode does not",
                self.path,
                self.mode,
            );
        }
    }

    /// Takes the lock; from here on the path is this process's.
    pub fn lock(self) -> Result<LockedPlace, StartError> {
        self.make_folder()?;
        let mut lock_path = self.path.clone().into_os_string();
        lock_path.push(".lock");
        let lock_path = PathBuf::from(lock_path);
        loop {
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .custom_flags(libc::O_NOFOLLOW)
                .open(&lock_path)
                .map_err(|error| self.fault("opening the lock file", &lock_path, error))?;
            // The lock ends when the file is closed: nothing is to be unlocked, and nothing can fail then.
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {
                    return Err(StartError::SocketTaken {
                        pid: pid_in(file),
                        path: self.path.clone(),
                    });
                }
                Err(TryLockError::Error(error)) => {
                    return Err(self.fault("locking the lock file", &lock_path, error));
                }
            }
            let mut lock = file;
            let is_still_there = same_file(&lock, &lock_path)
                .map_err(|error| self.fault("looking at the lock file", &lock_path, error))?;
            // The one who held it may have removed the file between our open and our lock.
            if is_still_there {
                write_pid(&mut lock)
                    .map_err(|error| self.fault("writing the lock file", &lock_path, error))?;
                return Ok(LockedPlace {
                    place: self,
                    lock_path,
                    lock,
                    bound: None,
                });
            }
        }
    }
}

/// The pid that the holder of a lock file wrote into it; 0 while it has not written yet.
fn pid_in(mut file: File) -> u32 {
    // The holder locks first and writes next.
    for _ in 0..50 {
        let mut text = String::new();
        let read = file.rewind().and_then(|()| file.read_to_string(&mut text));
        if let (Ok(_), Ok(pid)) = (read, text.trim().parse()) {
            return pid;
        }
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    0
}

fn write_pid(file: &mut File) -> io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    writeln!(file, "{}", std::process::id())
}

fn same_file(open: &File, path: &Path) -> io::Result<bool> {
    let open = open.metadata()?;
    match fs::symlink_metadata(path) {
        Ok(found) => Ok((open.dev(), open.ino()) == (found.dev(), found.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// A socket path that belongs to this process. What it made is removed on drop, the lock file last.
#[derive(Debug)]
pub struct LockedPlace {
    place: SocketPlace,
    lock_path: PathBuf,
    lock: File,
    /// The socket file that this process made, as device and inode.
    bound: Option<(u64, u64)>,
}

impl LockedPlace {
    /// Where the socket is.
    pub fn path(&self) -> &Path {
        &self.place.path
    }

    /// The folder that it is in.
    pub fn folder(&self) -> &Path {
        self.place.folder()
    }

    /// Replaces a stale socket and listens.
    pub fn listen(&mut self) -> Result<OwnedFd, StartError> {
        let path = self.place.path.clone();
        self.remove_stale(&path)?;
        let fault = |what: &str, error: io::Error| self.place.fault(what, &path, error);
        let address =
            UnixAddr::new(&path).map_err(|errno| fault("binding the socket", errno.into()))?;
        let server = new_socket().map_err(|errno| fault("making the socket", errno.into()))?;
        bind(server.as_raw_fd(), &address)
            .map_err(|errno| fault("binding the socket", errno.into()))?;
        let made = fs::symlink_metadata(&path)
            .map_err(|error| self.place.fault("looking at", &path, error))?;
        self.bound = Some((made.dev(), made.ino()));
        let place = &self.place;
        // Nobody can connect before the listen, so the modes are right from the first connection on.
        place
            .give_to_group(&path)
            .and_then(|()| fs::set_permissions(&path, PermissionsExt::from_mode(place.mode)))
            .map_err(|error| place.fault("setting the rights of the socket", &path, error))?;
        let backlog =
            Backlog::new(BACKLOG).map_err(|errno| place.fault("listening on", &path, errno))?;
        listen(&server, backlog).map_err(|errno| place.fault("listening on", &path, errno))?;
        Ok(server)
    }

    /// Serves on the socket that the service manager made at this path. It keeps the file: nothing here removes it.
    pub fn adopt(&mut self, socket: OwnedFd) -> Result<OwnedFd, StartError> {
        let path = &self.place.path;
        match fs::symlink_metadata(path) {
            Ok(found) if found.file_type().is_socket() => {
                self.place.compare_rights(&found);
                Ok(socket)
            }
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(self.place.fault("looking at", path, error))
            }
            _ => Err(StartError::PassedSocketGone {
                path: path.to_owned(),
            }),
        }
    }

    fn remove_stale(&self, path: &Path) -> Result<(), StartError> {
        let found = match fs::symlink_metadata(path) {
            Ok(found) => found,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(self.place.fault("looking at", path, error)),
        };
        if !found.file_type().is_socket() {
            return Err(StartError::NoSocketAtPath {
                path: path.to_owned(),
            });
        }
        // Only this answer says that no process has the socket any more. A full queue, no right to connect or another
        // type of socket do not.
        let is_served = UnixAddr::new(path)
            .and_then(|address| connect(new_socket()?.as_raw_fd(), &address))
            != Err(Errno::ECONNREFUSED);
        if is_served {
            let error = io::Error::from(io::ErrorKind::AddrInUse);
            return Err(self.place.fault(
                "replacing the socket that another process serves at",
                path,
                error,
            ));
        }
        fs::remove_file(path)
            .map_err(|error| self.place.fault("removing the stale socket", path, error))
    }

    /// Removes the socket file, so that nobody connects any more. One that somebody else has put there stays.
    pub fn remove_socket(&mut self) {
        let Some(bound) = self.bound.take() else {
            return;
        };
        let path = &self.place.path;
        match fs::symlink_metadata(path) {
            Ok(found) if (found.dev(), found.ino()) != bound => {
                log::warn!(
                    "The socket {path:?} is not the one that this process made and stays; do not remove lock files of running \
                     daemons"
                );
            }
            _ => {
                if let Err(error) = fs::remove_file(path) {
                    log::warn!("The socket {path:?} can't be removed: {error}");
                }
            }
        }
    }
}

impl Drop for LockedPlace {
    fn drop(&mut self) {
        self.remove_socket();
        // The lock is freed after this, so the file is another one only if somebody removed ours.
        if !matches!(same_file(&self.lock, &self.lock_path), Ok(true)) {
            return;
        }
        if let Err(error) = fs::remove_file(&self.lock_path) {
            log::warn!(
                "The lock file {:?} can't be removed: {error}",
                self.lock_path
            );
        }
    }
}

fn new_socket() -> nix::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    socket(AddressFamily::Unix, SockType::SeqPacket, flags, None)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(path: PathBuf, mode: u32) -> SocketPlace {
        SocketPlace {
            path,
            mode,
            mode_was_set: true,
            group: None,
        }
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o7777
    }

    #[test]
    fn the_folder_is_made_as_closed_as_the_socket_allows() {
        let root = tempfile::tempdir().unwrap();
        for (name, socket_mode, folder_mode) in [("a", 0o600, 0o700), ("b", 0o666, 0o711)] {
            let path = root.path().join(name).join("hostkv.sock");
            let mut locked = place(path.clone(), socket_mode).lock().unwrap();
            let _server = locked.listen().unwrap();
            assert_eq!(mode(path.parent().unwrap()), folder_mode);
            assert_eq!(mode(&path), socket_mode);
            assert_eq!(mode(&locked.lock_path), 0o600);
        }
        let grouped = SocketPlace {
            path: root.path().join("c/hostkv.sock"),
            mode: 0o660,
            mode_was_set: false,
            group: Some(SocketGroup {
                name: "own".to_owned(),
                gid: nix::unistd::getegid().as_raw(),
            }),
        };
        let _locked = grouped.lock().unwrap();
        assert_eq!(mode(&root.path().join("c")), 0o750);
    }

    #[test]
    fn a_missing_parent_is_named_and_nothing_is_made() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("x/y/hostkv.sock");
        let error = place(path, 0o600).lock().unwrap_err();
        assert!(
            matches!(&error, StartError::SocketFolderMissing { path } if path.ends_with("x/y")),
            "{error}"
        );
        assert!(!root.path().join("x").exists());
    }

    #[test]
    fn the_second_is_told_the_pid_of_the_first() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("hostkv.sock");
        let first = place(path.clone(), 0o600).lock().unwrap();
        let error = place(path.clone(), 0o600).lock().unwrap_err();
        assert!(
            matches!(error, StartError::SocketTaken { pid, .. } if pid == std::process::id()),
            "{error}"
        );
        drop(first);
        assert_eq!(
            fs::read_dir(root.path()).unwrap().count(),
            0,
            "all is removed"
        );
        drop(place(path, 0o600).lock().unwrap());
    }

    #[test]
    fn a_stale_socket_is_replaced_and_a_served_one_is_not() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("hostkv.sock");
        let other = new_socket().unwrap();
        bind(other.as_raw_fd(), &UnixAddr::new(&path).unwrap()).unwrap();
        listen(&other, Backlog::new(1).unwrap()).unwrap();

        let mut locked = place(path.clone(), 0o600).lock().unwrap();
        let error = locked.listen().unwrap_err();
        assert!(
            error.to_string().contains("another process serves"),
            "{error}"
        );
        drop(other);
        let _server = locked.listen().unwrap();
        let client = new_socket().unwrap();
        connect(client.as_raw_fd(), &UnixAddr::new(&path).unwrap()).unwrap();
    }

    #[test]
    fn the_socket_of_a_program_that_speaks_otherwise_or_is_busy_is_left_alone() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("hostkv.sock");
        let other = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let mut locked = place(path.clone(), 0o600).lock().unwrap();
        let error = locked.listen().unwrap_err();
        assert!(
            error.to_string().contains("another process serves"),
            "{error}"
        );
        std::os::unix::net::UnixStream::connect(&path).unwrap();
        drop((locked, other));
        fs::remove_file(&path).unwrap();

        let busy = new_socket().unwrap();
        let address = UnixAddr::new(&path).unwrap();
        bind(busy.as_raw_fd(), &address).unwrap();
        listen(&busy, Backlog::new(1).unwrap()).unwrap();
        let waiting: Vec<OwnedFd> = (0..8)
            .map(|_| new_socket().unwrap())
            .take_while(|client| connect(client.as_raw_fd(), &address).is_ok())
            .collect();
        assert!(waiting.len() < 8, "its queue is full");
        let mut locked = place(path.clone(), 0o600).lock().unwrap();
        assert!(locked.listen().is_err());
        assert!(path.exists());
    }

    #[test]
    fn after_its_files_were_removed_a_daemon_leaves_those_of_its_successor() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("hostkv.sock");
        let mut first = place(path.clone(), 0o600).lock().unwrap();
        let _first_socket = first.listen().unwrap();
        fs::remove_file(&path).unwrap();
        fs::remove_file(&first.lock_path).unwrap();
        let mut second = place(path.clone(), 0o600).lock().unwrap();
        let _second_socket = second.listen().unwrap();
        drop(first);
        assert!(path.exists() && second.lock_path.exists());
        drop(second);
        assert!(!path.exists());
    }

    #[test]
    fn a_socket_of_the_service_manager_is_served_on_and_stays() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("hostkv.sock");
        let passed = new_socket().unwrap();
        bind(passed.as_raw_fd(), &UnixAddr::new(&path).unwrap()).unwrap();
        listen(&passed, Backlog::new(1).unwrap()).unwrap();
        let mut locked = place(path.clone(), 0o600).lock().unwrap();
        let served = locked.adopt(passed.try_clone().unwrap()).unwrap();
        assert!(place(path.clone(), 0o600).lock().is_err(), "one instance");
        drop((locked, served));
        assert!(path.exists());
        assert_eq!(
            fs::read_dir(root.path()).unwrap().count(),
            1,
            "the lock is gone"
        );

        fs::remove_file(&path).unwrap();
        let mut locked = place(path, 0o600).lock().unwrap();
        let error = locked.adopt(passed).unwrap_err().to_string();
        assert!(error.contains("restart the socket unit"), "{error}");
    }

    #[test]
    fn what_is_no_socket_is_left_alone() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("hostkv.sock");
        fs::write(&path, "precious").unwrap();
        let mut locked = place(path.clone(), 0o600).lock().unwrap();
        let error = locked.listen().unwrap_err().to_string();
        assert!(
            error.contains("is no socket; remove it or give another --socket"),
            "{error}"
        );
        drop(locked);
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    }
}
