//! SIGHUP: what changes, what can't, and a file that is wrong.

use hostkv::Status;
use hostkv::session::{Session, SessionConfig};
use hostkv_tests::{Daemon, DaemonSpec, Worker, is_root, keys, keyspace, skip, store};
use nix::sys::signal::Signal;

use crate::assert_refused;

struct Configured {
    file: std::path::PathBuf,
    daemon: Daemon,
}

impl Configured {
    fn start(text: &str, prepare: impl Fn(DaemonSpec) -> DaemonSpec) -> Configured {
        let spec = prepare(DaemonSpec::default());
        let file = spec.folder().join("hostkv.toml");
        let basis = format!("l1_size_gb = 0.03125\nprometheus_port = 0\n{text}");
        std::fs::write(&file, basis).unwrap();
        let daemon = spec.flag("--config", &file).start();
        Configured { file, daemon }
    }

    /// Writes the file, sends SIGHUP and waits for the last word on it.
    fn reload(&self, text: &str, last_word: &str) {
        std::fs::write(&self.file, text).unwrap();
        let before = self.words(last_word);
        self.daemon.signal(Signal::SIGHUP);
        hostkv_tests::wait_until("the file is read again", || self.words(last_word) > before);
    }

    fn words(&self, part: &str) -> usize {
        self.daemon
            .log_lines()
            .iter()
            .filter(|line| line.contains(part))
            .count()
    }
}

const BASIS: &str = "l1_size_gb = 0.03125\nprometheus_port = 0\n";

#[test]
fn a_new_watermark_holds_at_once_and_what_needs_a_restart_is_said() {
    let configured = Configured::start("eviction_trigger_watermark = 0.9\n", |spec| spec);
    let daemon = &configured.daemon;
    let session = daemon.session();
    store(&session, keyspace(&session), &keys("k", 20), 1 << 20);
    assert_eq!(daemon.scrape().counter("l1_evicted_keys_total"), 0);
    configured.reload(
        "l1_size_gb = 0.0625\nprometheus_port = 0\neviction_trigger_watermark = 0.5\nmax_pins = 1000\n",
        "Reload: done.",
    );
    for line in [
        "LMCache INFO: Reload: eviction_trigger_watermark is now 0.5, was 0.9",
        "LMCache INFO: Reload: max_pins is now 1000, was 65536",
        "LMCache WARNING: Reload: l1_size_gb stays 0.03125, because 0.0625 needs a restart",
    ] {
        assert!(
            daemon.log_text().contains(line),
            "{line:?} is not in:\n{}",
            daemon.log_text()
        );
    }
    daemon.audit_until("the new watermark evicts", |audit| audit.object_count == 16);
    assert_eq!(daemon.scrape().counter("l1_evicted_keys_total"), 4);
    // Quotas hold for sessions opened after it.
    assert_eq!(session.info().unwrap().pin_slot_count, 16_384);
    let many = SessionConfig {
        pin_slot_count: 1001,
        ..daemon.config(0)
    };
    assert_refused(Session::open(&many), Status::InvalidArgument);
    drop(session);
    configured.daemon.finish();
}

#[test]
fn the_level_of_the_file_changes_unless_the_environment_sets_one() {
    let configured = Configured::start("", |spec| spec);
    configured.reload(&format!("{BASIS}log_level = \"DEBUG\"\n"), "Reload: done.");
    drop(configured.daemon.session());
    configured.daemon.wait_for_line("LMCache DEBUG: ");
    configured.daemon.finish();

    let configured = Configured::start("", |spec| spec.variable("LMCACHE_LOG_LEVEL", "INFO"));
    configured.reload(&format!("{BASIS}log_level = \"DEBUG\"\n"), "Reload: done.");
    drop(configured.daemon.session());
    configured.daemon.wait_for_sessions(0);
    assert!(!configured.daemon.log_text().contains("LMCache DEBUG: "));
    configured.daemon.finish();
}

#[test]
fn a_file_that_is_wrong_changes_nothing() {
    let configured = Configured::start("max_pins = 1000\n", |spec| spec);
    for (text, part) in [
        ("max_pins = 5\n", "max_pins"),
        ("no_such_key = 5\n", "no_such_key"),
        ("max_pins = \n", "line 1"),
    ] {
        configured.reload(text, "Reload: nothing is changed");
        let lines = configured.daemon.log_lines();
        let last = lines
            .iter()
            .rfind(|line| line.contains("Reload: nothing is changed"))
            .unwrap();
        assert!(
            last.contains("LMCache ERROR: ") && last.contains(part),
            "{last}"
        );
    }
    let info = configured.daemon.session().info().unwrap();
    assert_eq!(info.pin_slot_count, 1000);
    configured.daemon.finish();
}

#[test]
fn new_access_lists_hold_for_sessions_opened_after_it() {
    if !is_root() {
        skip("access lists after SIGHUP: becoming another user needs root");
        return;
    }
    let configured = Configured::start("socket_mode = \"666\"\n", |spec| {
        let socket = crate::access::open_folder(&spec);
        spec.at(socket)
    });
    let daemon = &configured.daemon;
    let open = || {
        let mut worker = Worker::start(daemon);
        worker.must("uid 65534");
        let answer = worker.ask("open");
        (worker, answer)
    };
    assert!(open().1.starts_with("PERMISSION"), "{}", open().1);
    let basis = format!("{BASIS}socket_mode = \"666\"\n");
    configured.reload(&format!("{basis}allow_uid = [65534]\n"), "Reload: done.");
    let (mut worker, answer) = open();
    assert_eq!(answer, "OK");
    configured.reload(&basis, "Reload: done.");
    assert!(open().1.starts_with("PERMISSION"));
    // A session that is open stays so.
    assert_eq!(worker.must("figures"), "0");
    drop(worker);
    daemon.wait_for_sessions(0);
    configured.daemon.finish();
}
