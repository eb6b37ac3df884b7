//! A reader that knows how often the library looks at the clock, and that can be killed at one of those looks.
//!
//! The library reads the clock for nothing but its events, so the looks are places between a START and its END that no
//! order from outside can reach. This program has a `clock_gettime` of its own, which the linker takes for every call.
//!
//! ```text
//!   hostkv-test-clock SOCKET count       prints the looks of an acquire, of its first span, of another, of the release
//!   hostkv-test-clock SOCKET lookup      SIGKILLed inside an acquire: its START is written, its END is not
//!   hostkv-test-clock SOCKET nothing     SIGKILLed inside an acquire, before its START
//!   hostkv-test-clock SOCKET retrieve    SIGKILLed inside a release: the place of its END is taken and empty
//! ```
//!
//! It reads two keys of the family `clock` of the tests' keyspace under the request id `dying` and the device `gpu0`.

#![allow(
    clippy::unwrap_used,
    reason = "a helper of tests fails by panicking, with the place and the error"
)]

use hostkv::session::{Request, Session, SessionConfig};
use hostkv_shm_protocol::sync::{AtomicU64, Ordering};
use hostkv_tests::{keys, keyspace};

/// Looks at the clock so far.
static LOOKS: AtomicU64 = AtomicU64::new(0);
/// The look at which this process dies; 0 = at none.
static LAST_LOOK: AtomicU64 = AtomicU64::new(0);

/// What every call of `clock_gettime` in this program runs.
///
/// # Safety
///
/// As for the function of the C library: `time` is a place for the result.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn clock_gettime(
    clock: libc::clockid_t,
    time: *mut libc::timespec,
) -> libc::c_int {
    // Relaxed, both: this program has one thread.
    let look = LOOKS.fetch_add(1, Ordering::Relaxed) + 1;
    if look == LAST_LOOK.load(Ordering::Relaxed) {
        // SAFETY: two numbers; the signal ends this process.
        unsafe { libc::kill(libc::getpid(), libc::SIGKILL) };
    }
    // SAFETY: the caller's promise.
    unsafe { libc::syscall(libc::SYS_clock_gettime, clock, time) as libc::c_int }
}

/// Looks that the call makes.
fn looks_of<T>(call: impl FnOnce() -> T) -> (T, u64) {
    // Relaxed: as above.
    let before = LOOKS.load(Ordering::Relaxed);
    let result = call();
    (result, LOOKS.load(Ordering::Relaxed) - before)
}

/// From here on, dies at this look.
fn die_at_look(number: u64) {
    // Relaxed: as above.
    LAST_LOOK.store(LOOKS.load(Ordering::Relaxed) + number, Ordering::Relaxed);
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let (socket, what) = (arguments.next().unwrap(), arguments.next().unwrap());
    let session = Session::open(&SessionConfig {
        socket_path: Some(socket.into()),
        client_name: "clock".to_owned(),
        ..SessionConfig::default()
    })
    .unwrap();
    let space = keyspace(&session);
    let wanted = keys("clock", 2);
    let request = Request {
        request_id: Some("dying"),
        device: Some("gpu0"),
        ..Request::default()
    };
    match what.as_str() {
        "nothing" => die_at_look(1),
        "lookup" => die_at_look(2),
        _ => {}
    }
    let (lease, acquire) = looks_of(|| session.acquire(space, &wanted, &request).unwrap());
    assert_eq!(lease.prefix_count(), wanted.len());
    let (_, first) = looks_of(|| lease.span(0).unwrap());
    let (_, second) = looks_of(|| lease.span(1).unwrap());
    if what == "retrieve" {
        die_at_look(1);
    }
    let ((), release) = looks_of(|| lease.release().unwrap());
    assert_eq!(what, "count", "it was to be dead by now");
    println!("{acquire} {first} {second} {release}");
}
