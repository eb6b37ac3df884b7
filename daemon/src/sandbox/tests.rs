//! The sandbox from within: what it refuses and what it lets through, tried by children that close themselves in, and
//! what is said about it.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::net::{TcpListener, TcpStream, ToSocketAddrs as _};
use std::os::fd::AsRawFd as _;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::fs::FileExt as _;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::path::PathBuf;
use std::process::Command;

use super::landlock::{places_to_reread, places_to_rotate};
use super::*;
use crate::segment::{create_lease, create_staging};

/// Names the folder of a child's own, with the parent's files in it.
const CHILD: &str = "HOSTKV_TEST_SANDBOX_CHILD";

/// Runs a test of this file alone as a process of its own, in a folder with `config.toml` and `sub`, both readable.
fn run_child(name: &str, folder: &Path) {
    let path = module_path!().split_once("::").unwrap().1;
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", &format!("{path}::{name}")])
        .args(["--ignored", "--nocapture", "--test-threads", "1"])
        .env(CHILD, folder)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && text.contains("1 passed"),
        "{}\n{text}\n{errors}",
        output.status
    );
}

fn child_folder() -> Option<PathBuf> {
    std::env::var_os(CHILD).map(PathBuf::from)
}

/// Closes this process in, or says why that can't be tried here; nothing after it opens what is not in the plan.
fn enter(plan: &Plan) -> bool {
    let outcome = plan.enter(Ok(Enforced::for_tests()));
    let is_whole = outcome.landlock.is_ok() && outcome.seccomp.is_ok();
    if !is_whole {
        eprintln!("SKIPPED: {}", outcome.sentence().1);
    }
    is_whole
}

/// The number of the error of what has to fail.
fn errno<T>(result: std::io::Result<T>) -> i32 {
    match result {
        Ok(_) => 0,
        Err(error) => error.raw_os_error().unwrap_or(-1),
    }
}

fn call(number: libc::c_long, arguments: [libc::c_long; 4]) -> i32 {
    let [a, b, c, d] = arguments;
    // SAFETY: the callers pass numbers and null pointers only.
    match unsafe { libc::syscall(number, a, b, c, d) } {
        -1 => std::io::Error::last_os_error().raw_os_error().unwrap(),
        _ => 0,
    }
}

#[test]
#[ignore = "runs as a child, closed in with every feature"]
fn child_with_every_feature() {
    let Some(folder) = child_folder() else {
        return;
    };
    let config = folder.join("sub/config.toml");
    let events = folder.join("sub/events.jsonl");
    let secret = folder.join("secret");
    let mut places = vec![
        Place::new("/proc", Reach::Read),
        Place::new(folder.join("run"), Reach::Sockets),
    ];
    places.extend(places_to_reread(&config));
    places.extend(places_to_rotate(&events));
    let plan = Plan {
        places,
        features: vec![
            Feature::Metrics,
            Feature::EventFiles,
            Feature::ServiceManager,
        ],
        keeps_abstract_sockets: false,
    };
    let parent = nix::unistd::getppid().as_raw();
    let port = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = port.local_addr().unwrap();
    let name = format!("hostkv-test-{}", std::process::id());
    let name = SocketAddr::from_abstract_name(name).unwrap();
    // Listens outside of the sandbox: the scope is that of who made it.
    let _abstract = UnixListener::bind_addr(&name).unwrap();
    // One thread that is there already gets the filter too.
    let (go, gone) = std::sync::mpsc::channel::<()>();
    let bystander = std::thread::spawn(move || {
        gone.recv().unwrap();
        errno(TcpListener::bind("127.0.0.1:0"))
    });
    if !enter(&plan) {
        return;
    }

    // Files elsewhere, and rights that a place does not give.
    assert_eq!(errno(File::open(&secret)), libc::EACCES);
    assert_eq!(errno(File::open("/etc/passwd")), libc::EACCES);
    assert_eq!(errno(fs::read_dir("/etc")), libc::EACCES);
    assert_eq!(errno(File::create(folder.join("new"))), libc::EACCES);
    assert_eq!(errno(fs::remove_file(&secret)), libc::EACCES);
    assert_eq!(errno(File::create(folder.join("run/file"))), libc::EACCES);
    assert_eq!(
        errno(fs::create_dir(folder.join("run/folder"))),
        libc::EPERM
    );
    let moved = fs::rename(folder.join("sub/next.toml"), folder.join("run/next"));
    assert!([libc::EACCES, libc::EXDEV].contains(&errno(moved)));
    // Programs, and memory that could be one.
    assert_eq!(errno(Command::new("/bin/true").status()), libc::EPERM);
    assert_eq!(call(libc::SYS_execve, [0; 4]), libc::EPERM);
    assert_eq!(
        call(libc::SYS_clone, [libc::SIGCHLD.into(), 0, 0, 0]),
        libc::EPERM
    );
    let executable = libc::c_long::from(libc::PROT_READ | libc::PROT_EXEC);
    let private = libc::c_long::from(libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    assert_eq!(
        call(libc::SYS_mmap, [0, 4096, executable, private]),
        libc::EPERM
    );
    // Ports.
    assert_eq!(errno(TcpStream::connect(address)), libc::EPERM);
    assert_eq!(errno(TcpListener::bind("127.0.0.1:0")), libc::EPERM);
    go.send(()).unwrap();
    assert_eq!(bystander.join().unwrap(), libc::EPERM);
    // Other processes.
    let attach = libc::c_long::from(libc::PTRACE_ATTACH);
    assert_eq!(
        call(libc::SYS_ptrace, [attach, parent.into(), 0, 0]),
        libc::EPERM
    );
    assert_eq!(
        call(libc::SYS_process_vm_readv, [parent.into(), 0, 0, 0]),
        libc::EPERM
    );
    assert_eq!(call(libc::SYS_kill, [parent.into(), 0, 0, 0]), libc::EPERM);
    assert_eq!(
        call(libc::SYS_tgkill, [parent.into(), parent.into(), 0, 0]),
        libc::EPERM
    );
    // Root may read it on newer kernels, by its right to measure programs (CAP_PERFMON).
    if !nix::unistd::geteuid().is_root() {
        let environment = errno(fs::read(format!("/proc/{parent}/environ")));
        assert!([libc::EACCES, libc::EPERM].contains(&environment));
    }
    // What would open the sandbox, or change a limit.
    let new_limit: libc::c_long = (&raw const folder).addr() as libc::c_long;
    assert_eq!(call(libc::SYS_prlimit64, [0, 7, new_limit, 0]), libc::EPERM);
    for never in [
        libc::SYS_seccomp,
        libc::SYS_mount,
        libc::SYS_setns,
        libc::SYS_unshare,
        libc::SYS_chroot,
        libc::SYS_bpf,
        libc::SYS_io_uring_setup,
        libc::SYS_userfaultfd,
        libc::SYS_perf_event_open,
        libc::SYS_keyctl,
        libc::SYS_setuid,
    ] {
        assert_eq!(call(never, [0; 4]), libc::EPERM, "call {never}");
    }

    // What the daemon does all the time.
    assert!(fs::read_to_string(format!("/proc/{parent}/stat")).is_ok());
    let lease = create_lease(1 << 20).unwrap();
    drop(lease.writable_fd().unwrap());
    drop(create_staging(1 << 20).unwrap());
    std::thread::spawn(|| 5).join().unwrap();
    // Another file in the place of the configuration.
    fs::rename(folder.join("sub/next.toml"), &config).unwrap();
    assert_eq!(fs::read_to_string(&config).unwrap(), "next");
    // A file that grows, is cut and rotated.
    let open = || OpenOptions::new().append(true).create(true).open(&events);
    let mut file = open().unwrap();
    file.write_all(b"an event").unwrap();
    file.set_len(2).unwrap();
    fs::rename(&events, folder.join("sub/events.jsonl.1")).unwrap();
    drop(open().unwrap());
    fs::remove_file(folder.join("sub/events.jsonl.1")).unwrap();
    // The inner hop of the metrics.
    let socket = folder.join("run/.inner");
    let listener = UnixListener::bind(&socket).unwrap();
    drop(UnixStream::connect(&socket).unwrap());
    drop(listener.accept().unwrap());
    fs::remove_file(&socket).unwrap();
}

#[test]
#[ignore = "runs as a child, closed in with every feature off"]
fn child_without_features() {
    let Some(folder) = child_folder() else {
        return;
    };
    let plan = Plan {
        places: Vec::new(),
        features: Vec::new(),
        keeps_abstract_sockets: false,
    };
    let listener = UnixListener::bind(folder.join("run/own")).unwrap();
    if !enter(&plan) {
        return;
    }
    assert_eq!(errno(UnixStream::pair()), libc::EPERM);
    assert_eq!(
        errno(UnixStream::connect(folder.join("run/own"))),
        libc::EPERM
    );
    let (from, to) = (folder.join("secret"), folder.join("other"));
    assert_eq!(errno(fs::rename(from, to)), libc::EPERM);
    assert_eq!(errno(File::open("/proc/self/stat")), libc::EACCES);
    assert_eq!(errno(fs::remove_file(folder.join("run/own"))), libc::EACCES);
    // The loop's calls are there all the same.
    listener.set_nonblocking(true).unwrap();
    assert_eq!(errno(listener.accept()), libc::EAGAIN);
    drop(create_lease(4096).unwrap());
}

#[test]
#[ignore = "runs as a child, closed in with tiers whose thread runs already"]
fn child_with_tiers() {
    let Some(folder) = child_folder() else {
        return;
    };
    let plan = Plan {
        places: Vec::new(),
        features: vec![Feature::Tiers],
        keeps_abstract_sockets: false,
    };
    let port = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = port.local_addr().unwrap();
    let (go, gone) = std::sync::mpsc::channel::<()>();
    let base = folder.join("sub/tier");
    let tier = std::thread::spawn(move || {
        if gone.recv().is_err() {
            return;
        }
        let objects = base.join("objects");
        fs::create_dir_all(&objects).unwrap();
        let (temporary, object) = (base.join("temporary"), objects.join("object"));
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&temporary)
            .unwrap();
        file.try_lock().unwrap();
        file.write_all_at(b"object", 4096).unwrap();
        file.set_len(8192).unwrap();
        file.sync_data().unwrap();
        file.sync_all().unwrap();
        file.set_modified(std::time::SystemTime::now()).unwrap();
        fs::rename(&temporary, &object).unwrap();
        assert_eq!(fs::read_dir(&objects).unwrap().count(), 1);
        fs::remove_file(&object).unwrap();
        fs::remove_dir(&objects).unwrap();
        drop(TcpStream::connect(address).unwrap());
        let named = ("localhost", address.port()).to_socket_addrs().unwrap();
        assert!(named.count() > 0);
        // What it starts has the same.
        let started = std::thread::spawn(move || errno(TcpStream::connect(address)));
        assert_eq!(started.join().unwrap(), 0);
    });
    if !enter(&plan) {
        return;
    }
    go.send(()).unwrap();
    tier.join().unwrap();
    // No other thread.
    assert_eq!(errno(File::open(folder.join("secret"))), libc::EACCES);
    assert_eq!(
        errno(fs::create_dir(folder.join("sub/tier/more"))),
        libc::EACCES
    );
    assert_eq!(errno(fs::remove_dir(folder.join("sub/tier"))), libc::EACCES);
    assert_eq!(errno(Command::new("/bin/true").status()), libc::EPERM);
}

#[test]
#[ignore = "runs as a child, which a landlock that allows nothing keeps from opening a file"]
fn child_that_needs_nothing() {
    if child_folder().is_none() {
        return;
    }
    let pipe = nix::unistd::pipe().unwrap();
    let Ok(_) = restrict_to_nothing() else {
        eprintln!("SKIPPED: this kernel has no landlock");
        return;
    };
    assert_eq!(errno(File::open("/proc/self/stat")), libc::EACCES);
    assert_eq!(errno(File::open("/dev/null")), libc::EACCES);
    // What is open stays so.
    nix::unistd::write(&pipe.1, b"line").unwrap();
    assert!(pipe.0.as_raw_fd() >= 0);
}

fn folder_for_a_child() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for sub in ["sub", "run"] {
        fs::create_dir(folder.path().join(sub)).unwrap();
    }
    for (file, text) in [
        ("secret", "secret"),
        ("sub/config.toml", "first"),
        ("sub/next.toml", "next"),
    ] {
        fs::write(folder.path().join(file), text).unwrap();
    }
    folder
}

#[test]
fn a_closed_in_process_reaches_what_is_planned_and_nothing_else() {
    let folder = folder_for_a_child();
    run_child("child_with_every_feature", folder.path());
}

#[test]
fn what_is_switched_off_is_shut() {
    let folder = folder_for_a_child();
    run_child("child_without_features", folder.path());
}

#[test]
fn the_threads_of_tiers_keep_files_and_network_and_no_other_thread_does() {
    let folder = folder_for_a_child();
    run_child("child_with_tiers", folder.path());
}

#[test]
fn the_thread_of_the_log_opens_nothing_and_writes_on() {
    run_child("child_that_needs_nothing", folder_for_a_child().path());
}

#[test]
fn the_plan_names_what_the_configuration_switches_on() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("kv.toml");
    fs::write(&file, "").unwrap();
    let config = |flags: &[&str]| {
        let mut words = vec!["hostkvd", "--socket", "/run/kv/kv.sock"];
        words.extend(flags);
        let words = words.into_iter().map(Into::into).collect();
        match crate::config::load(words, &crate::config::document::Silent).unwrap() {
            crate::config::Invocation::Run(config) => config,
            other => panic!("{other:?}"),
        }
    };
    let always = [
        Place::new("/proc", Reach::Read),
        Place::new("/run/kv", Reach::Sockets),
    ];
    let plan =
        |flags: &[&str], files: &[PathBuf]| Plan::new(&config(flags), Path::new("/run/kv"), files);
    let least = plan(&["--disable-prometheus"], &[]);
    assert_eq!(least.places, always);
    assert_eq!(least.features, []);
    let most = plan(&["--shm-name", "kv"], &[folder.path().join("events.jsonl")]);
    let real = fs::canonicalize(folder.path()).unwrap();
    let more = [
        Place::new("/dev/shm", Reach::Remove),
        Place::new(&real, Reach::Events),
    ];
    assert_eq!(most.places, [&always[..], &more].concat());
    assert_eq!(most.features, [Feature::Metrics, Feature::EventFiles]);
}

#[test]
fn a_file_is_reached_through_its_folder_and_through_that_of_the_file_it_links_to() {
    let folder = folder_for_a_child();
    let at = |name: &str| fs::canonicalize(folder.path()).unwrap().join(name);
    std::os::unix::fs::symlink(at("sub/config.toml"), at("run/link.toml")).unwrap();
    assert_eq!(
        places_to_reread(&at("run/link.toml")),
        [
            Place::new(at("run"), Reach::Read),
            Place::new(at("sub"), Reach::Read)
        ]
    );
    assert_eq!(
        places_to_rotate(&at("run/none.jsonl")),
        [Place::new(at("run"), Reach::Events)]
    );
    // A device is opened again and neither made nor renamed; nothing else in its folder is opened.
    assert_eq!(
        places_to_rotate(Path::new("/dev/null")),
        [Place::new("/dev/null", Reach::Write)]
    );
    // All files are not opened for one.
    assert_eq!(
        places_to_reread(Path::new("/kv.toml")),
        [Place::new("/kv.toml", Reach::Read)]
    );
}

#[test]
fn what_a_kernel_lacks_is_one_warning_that_says_what_stays_open_and_what_to_do() {
    let sentence = |landlock: Option<Lack>, seccomp: Option<Lack>| {
        Outcome {
            landlock: landlock.map_or(Ok(Enforced::for_tests()), Err),
            seccomp: seccomp.map_or(Ok(()), Err),
        }
        .sentence()
    };
    let refused = || Some(Lack::Refused("seccomp: Invalid argument".to_owned()));
    assert_eq!(
        sentence(None, None),
        (
            log::Level::Info,
            "Sandbox: landlock (version 7) and seccomp".to_owned()
        )
    );
    for (landlock, seccomp, parts) in [
        (
            Some(Lack::NotEnabled),
            None,
            &[
                "seccomp only",
                "landlock is missing",
                "files, ports",
                "lsm=",
            ][..],
        ),
        (
            Some(Lack::NotBuilt),
            None,
            &["seccomp only", "built without it", "lsm="],
        ),
        (
            None,
            refused(),
            &[
                "landlock (version 7) only",
                "seccomp is missing (seccomp: Invalid argument)",
                "CONFIG_SECCOMP_FILTER",
            ],
        ),
        (
            Some(Lack::NotBuilt),
            refused(),
            &["none", "landlock is missing", "seccomp is missing"],
        ),
    ] {
        let (level, text) = sentence(landlock, seccomp);
        assert_eq!(level, log::Level::Warn, "{text}");
        for part in parts {
            assert!(text.contains(part), "{part:?} is not in: {text}");
        }
        assert!(!text.contains('\n'), "{text}");
    }
}
