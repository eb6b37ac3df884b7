//! End-to-end tests: the real daemon, the real client library, real processes. One module for each promise.
//!
//! Every test starts a daemon of its own and ends it with [`hostkv_tests::Daemon::finish`]: an audit that finds
//! nothing, and a clean SIGTERM. `HOSTKV_TEST_SEED` repeats a random test.

#![allow(
    clippy::unwrap_used,
    reason = "a test fails by panicking, with the place and the error"
)]

mod access;
mod async_commit;
mod budgets;
mod client_crash;
mod commit_and_reserve;
mod containers;
mod core_files;
mod daemon_crash;
mod endpoint_abuse;
mod eviction;
mod grants_ahead;
mod hostile_memory;
mod huge_pages;
mod integrity;
mod key_messages;
mod keyspaces;
mod lifecycle;
mod locked_memory;
mod logging;
mod machine_code;
mod metrics;
mod prefetch;
mod quota;
mod read_path;
mod reload;
mod sandbox;
mod scrapes;
mod service_manager;
mod socket_activation;
mod startup_errors;
mod system_calls;
mod telemetry;
mod tenants;
mod tiers;
mod timeout;
mod torture;
mod untrusted;
mod versions;
mod write_path;

use hostkv::Status;
use hostkv_shm_protocol::sync::{AtomicBool, Ordering};

/// The status of a call that must have failed.
fn refusal<T>(outcome: hostkv::Result<T>) -> hostkv::Error {
    match outcome {
        Ok(_) => panic!("the call is carried out where it must be refused"),
        Err(error) => error,
    }
}

/// Panics unless the call was refused with this status.
fn assert_refused<T>(outcome: hostkv::Result<T>, status: Status) -> String {
    let error = refusal(outcome);
    assert_eq!(error.status, status, "{}", error.message);
    error.message
}

/// Tells a thread to end, also when the test that started it fails.
struct EndOnDrop<'a>(&'a AtomicBool);

impl Drop for EndOnDrop<'_> {
    fn drop(&mut self) {
        // Relaxed: only the end of a loop.
        self.0.store(true, Ordering::Relaxed);
    }
}
