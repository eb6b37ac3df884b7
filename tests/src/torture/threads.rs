//! F6: sixteen threads share one session, and their process is killed.
//!
//! ```text
//!   one session ── 16 threads: acquire, verify, reserve, commit, abort, remove ── SIGKILL ──> all is back
//! ```

use std::time::Duration;

use super::{Fault, Run, Skipped, Stage, Timings};
use crate::Worker;

/// Killed with all of them at work.
pub static KILLED: Fault = Fault {
    id: "F6",
    name: "a client of 16 threads on one session is SIGKILLed",
    required: "0 leaked bytes, 0 wrong bytes",
    full_cycles: 1000,
    weight: 3,
    run: killed,
};

fn killed(run: &mut Run) -> Result<(), Skipped> {
    let stage = Stage::new(&[]);
    let mut reclaims = Timings::default();
    while run.goes_on() {
        let mut worker = Worker::start(&stage.daemon);
        worker.must("open");
        worker.must(&format!(
            "load-with-threads 16 {}",
            run.random.below(1 << 40)
        ));
        std::thread::sleep(Duration::from_micros(run.random.below(30_000)));
        worker.kill();
        reclaims.add(stage.wait_until_alone());
        stage.assert_nothing_leaked();
        run.count(1);
    }
    run.note(format!("reclaim {}", reclaims.summary()));
    stage.finish(run);
    Ok(())
}
