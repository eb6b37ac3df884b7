//! F26: two daemons start at once for one socket, beside what a killed one has left there or not.
//!
//! ```text
//!   two starts ──┬─ one serves ── SIGTERM or SIGKILL ──> the next two
//!                └─ one ends with code 1 and names the other
//! ```

use std::io::Read as _;
use std::process::Child;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{Fault, Run, Skipped};
use crate::{DaemonSpec, RawClient, wait_until};

/// Two at once.
pub static FOR_ONE_SOCKET: Fault = Fault {
    id: "F26",
    name: "two daemons race for one socket, stale or free",
    required: "exactly one serves, the other ends with code 1 and names it",
    full_cycles: 1000,
    weight: 3,
    run: for_one_socket,
};

/// Ends its process with itself, so that a race that was lost leaves nothing behind.
struct Racer(Child);

impl Drop for Racer {
    fn drop(&mut self) {
        // It may have ended by itself; then both are refused, which is as good.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn for_one_socket(run: &mut Run) -> Result<(), Skipped> {
    let place = DaemonSpec::new(&[]);
    let mut stale = 0;
    while run.goes_on() {
        stale += u64::from(place.socket().exists());
        let mut racers: Vec<Racer> = (0..2)
            .map(|_| {
                let flags = ["--disable-prometheus", "--l1-size-gb", "0.0078125"];
                let spec = DaemonSpec::new(&flags).beside(&place);
                Racer(spec.command().spawn().expect("hostkvd can be run"))
            })
            .collect();
        let mut loser = None;
        wait_until("one serves and one has ended", || {
            let ended = racers
                .iter_mut()
                .position(|racer| racer.0.try_wait().unwrap().is_some());
            if let Some(at) = ended {
                assert!(loser.is_none(), "both have ended");
                loser = Some(racers.remove(at));
            }
            loser.is_some() && RawClient::connect(place.socket()).is_ok()
        });
        let mut winner = racers.pop().expect("one of two is left");
        let mut loser = loser.expect("one of two has ended");
        let mut said = String::new();
        let stderr = loser.0.stderr.as_mut().expect("standard error is a pipe");
        stderr.read_to_string(&mut said).unwrap();
        let last = said.lines().last().unwrap_or_default();
        let names_it = last.contains(&format!("pid {}", winner.0.id()));
        assert_eq!(loser.0.wait().unwrap().code(), Some(1), "{said}");
        assert!(last.starts_with("hostkvd: ") && names_it, "{said}");
        let signal = match run.random.below(2) {
            0 => Signal::SIGKILL,
            _ => Signal::SIGTERM,
        };
        // The child is not reaped, so the pid is still its own.
        kill(Pid::from_raw(winner.0.id() as i32), signal).unwrap();
        let status = winner.0.wait().unwrap();
        let is_clean = signal == Signal::SIGKILL || status.success();
        assert!(is_clean, "the winner ended with {status}");
        run.count(1);
    }
    run.note(format!("{stale} times beside a stale socket"));
    Ok(())
}
