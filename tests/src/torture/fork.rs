//! F5: a process forks, is cloned or replaces itself while it has a session.
//!
//! ```text
//!   parent: session, lease, reservation ──┬─ fork or bare clone ──> child: FORKED everywhere, nothing mapped
//!                                         ├─ goes on as if nothing had been
//!                                         └─ SIGKILL while a child lives: all is back, the child reads nothing
//!   exec: nothing mapped, nothing open, the session reclaimed though the process lives
//! ```

use super::{Fault, Run, Skipped, Stage};
use crate::{Worker, keys, keyspace, store};

/// A child is made in every way.
pub static INTO_CHILDREN: Fault = Fault {
    id: "F5",
    name: "a client with a session forks, is cloned, or replaces itself",
    required: "a child gets FORKED and has nothing mapped; the parent is not hurt; exec ends the session",
    full_cycles: 1000,
    weight: 3,
    run: into_children,
};

/// Another thread forks in the middle of an open.
pub static DURING_OPENS: Fault = Fault {
    id: "F5",
    name: "a client forks while another of its threads opens sessions",
    required: "no child can access a segment: 0",
    full_cycles: 10_000,
    weight: 2,
    run: during_opens,
};

const BASE: usize = 3;

fn into_children(run: &mut Run) -> Result<(), Skipped> {
    let stage = Stage::new(&[]);
    let space = keyspace(&stage.witness);
    store(&stage.witness, space, &keys("base", BASE), 5000);
    while run.goes_on() {
        let mut worker = Worker::start(&stage.daemon);
        for order in ["open", "acquire base 3"] {
            worker.must(order);
        }
        assert_eq!(worker.must("reserve k 4 8000"), "OK,OK,OK,OK");
        worker.must("fill");
        match run.done() % 4 {
            way @ 0..=1 => {
                let order = if way == 0 { "fork" } else { "clone" };
                let wrong = worker.must(order);
                assert_eq!(
                    wrong, "0",
                    "{order}: the number of the first call that went wrong"
                );
                // The parent goes on as if nothing had been.
                assert_eq!(worker.must("verify"), "3");
                worker.must("commit");
                assert_eq!(worker.must("lookup k 4"), "4");
                worker.must("remove k 4");
                worker.must("release");
                worker.must("close");
                assert!(worker.end().success());
            }
            2 => {
                // The child outlives the parent, and what the parent held is back all the same.
                let child: i32 = worker.must("leave-child").parse().unwrap();
                worker.kill();
                stage.wait_until_alone();
                let maps = std::fs::read_to_string(format!("/proc/{child}/maps")).unwrap();
                assert!(
                    !maps.contains("memfd:hostkv"),
                    "the child has a segment:\n{maps}"
                );
                nix::sys::signal::kill(
                    nix::unistd::Pid::from_raw(child),
                    nix::sys::signal::Signal::SIGKILL,
                )
                .unwrap();
            }
            _ => {
                assert!(worker.must("maps").contains("memfd:"));
                assert!(worker.must("descriptors").contains("socket:"));
                worker.must("exec");
                // The program that follows answers in the same place.
                assert_eq!(worker.must("maps"), "");
                assert_eq!(worker.must("descriptors"), "");
                stage.wait_until_alone();
                assert!(worker.end().success());
            }
        }
        stage.assert_nothing_leaked();
        run.count(1);
    }
    stage.finish(run);
    Ok(())
}

fn during_opens(run: &mut Run) -> Result<(), Skipped> {
    let stage = Stage::new(&[]);
    let mut opened = 0_u64;
    while run.goes_on() {
        let forks = (run.wanted() - run.done()).min(100);
        let mut worker = Worker::start(&stage.daemon);
        let answer = worker.must(&format!("fork-during-opens {forks}"));
        let (accessible, opens) = answer.split_once(' ').unwrap();
        assert_eq!(accessible, "0", "a child can access a segment");
        opened += opens.parse::<u64>().unwrap();
        assert!(worker.end().success());
        stage.wait_until_alone();
        run.count(forks);
    }
    assert!(opened > 0, "no session was opened meanwhile");
    run.note(format!("{opened} opens meanwhile"));
    stage.finish(run);
    Ok(())
}
