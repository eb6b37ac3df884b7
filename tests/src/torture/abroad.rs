//! F21: a client in namespaces of its own, as in a container, that has nothing of the host but the socket's path.
//!
//! ```text
//!   unshare -i -m -n -p: no System V IPC, an empty /dev/shm, no network, pid 1 ── opens, stores, reads ── ends or is killed
//! ```

use super::{Fault, Run, Skipped, Stage};
use crate::Worker;

/// In namespaces.
pub static IN_NAMESPACES: Fault = Fault {
    id: "F21",
    name: "a client in IPC, mount, network and PID namespaces of its own",
    required: "all works by the socket's path alone; its death is seen: 0 leaked bytes",
    full_cycles: 500,
    weight: 2,
    run: in_namespaces,
};

/// What runs the client. The shell makes the memory folder useless, then becomes the client.
const WRAPPER: &[&str] = &[
    "unshare",
    "-i",
    "-m",
    "-n",
    "-p",
    "-f",
    "--kill-child",
    "sh",
    "-c",
    "mount -t tmpfs -o size=4k tmpfs /dev/shm && exec \"$@\"",
    "sh",
];

fn in_namespaces(run: &mut Run) -> Result<(), Skipped> {
    let (first, rest) = WRAPPER.split_first().expect("it is not empty");
    let can_unshare = std::process::Command::new(first)
        .args(rest)
        .arg("true")
        .output()
        .is_ok_and(|output| output.status.success());
    if !can_unshare {
        return Err(Skipped(
            "this process may not make namespaces of its own".to_owned(),
        ));
    }
    let stage = Stage::new(&[]);
    let orders = [
        "open",
        "reserve abroad 4 8000",
        "fill",
        "commit",
        "acquire abroad 4",
        "verify",
        "release",
        "remove abroad 4",
    ];
    let mut killed = 0;
    while run.goes_on() {
        let mut worker = Worker::start_at(&stage.daemon.socket(), WRAPPER);
        // Half of them are killed behind one of their orders.
        let most = 2 * orders.len() as u64;
        let last = (run.random.below(most) as usize).min(orders.len() - 1);
        for order in &orders[..=last] {
            let answer = worker.must(order);
            assert!(*order != "verify" || answer == "4", "wrong bytes");
        }
        if last + 1 < orders.len() {
            worker.kill();
            killed += 1;
        } else {
            worker.must("close");
            assert!(worker.end().success());
        }
        stage.assert_nothing_leaked();
        let space = crate::keyspace(&stage.witness);
        let left = crate::keys("abroad", 4);
        stage.witness.remove(space, &left, None).unwrap();
        run.count(1);
    }
    run.note(format!("{killed} killed behind one of their calls"));
    stage.finish(run);
    Ok(())
}
