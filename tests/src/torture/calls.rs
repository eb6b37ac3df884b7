//! F1: a client is SIGKILLed at every system call of its life, one after the other.
//!
//! ```text
//!   strace, once            how often a whole life makes each call: connect, sendmsg, mmap, ...
//!   strace -e inject=CALL:signal=KILL:when=N    for each call and each N: killed on its way into the N-th
//! ```
//!
//! A whole life is open, reserve, write, commit, acquire, read, release, remove and close. Whatever the kill leaves is
//! given back, and what can be read is right.

use std::collections::BTreeMap;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};

use super::{Fault, Run, Skipped, Stage};
use crate::{Worker, end_with_parent, is_filled, keys, keyspace, request};

/// Killed at every call.
pub static AT_EVERY_CALL: Fault = Fault {
    id: "F1",
    name: "a client is SIGKILLed at every system call of its life",
    required: "every call of every kind, N = 1 until none is left: 0 leaked bytes, 0 wrong bytes",
    full_cycles: 1000,
    weight: 5,
    run: at_every_call,
};

/// The orders of a life.
const LIFE: &str = "open\nreserve life 4 8000\nfill\ncommit\nacquire life 4\nverify\nrelease\nremove life 4\nclose\n";

/// Calls by which a program begins and ends.
const NOT_OF_IT: [&str; 2] = ["execve", "exit_group"];

/// Runs a life under strace with these arguments; gives whether it came to its end.
fn live(stage: &Stage, arguments: &[&str]) -> bool {
    let orders = stage.daemon.spec().folder().join("life");
    let mut command = Command::new("strace");
    command
        .args(["-qq", "-f"])
        .args(arguments)
        .arg(Worker::program())
        .arg(stage.daemon.socket())
        .stdin(std::fs::File::open(orders).expect("the orders are written"))
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    // SAFETY: prctl is async-signal-safe and touches nothing of this process.
    unsafe { command.pre_exec(end_with_parent) };
    command.status().is_ok_and(|status| status.success())
}

fn at_every_call(run: &mut Run) -> Result<(), Skipped> {
    let stage = Stage::new(&[]);
    let folder = stage.daemon.spec().folder().to_owned();
    std::fs::write(folder.join("life"), LIFE).unwrap();
    let trace = folder.join("calls");
    let trace = trace.to_str().expect("the path is text");
    if !live(&stage, &["-o", trace]) {
        return Err(Skipped("strace is missing, or may not trace".to_owned()));
    }
    stage.assert_nothing_leaked();
    let points = points(&std::fs::read_to_string(trace).unwrap());
    assert!(!points.is_empty(), "the trace of a life shows no call");
    let mut left = points.clone();
    let space = keyspace(&stage.witness);
    let own = keys("life", 4);
    let mut killed = 0;
    while run.goes_on() {
        if left.is_empty() {
            left.clone_from(&points);
        }
        // In any order, so that a short run has some of each.
        let (call, number) = left.swap_remove(run.random.below(left.len() as u64) as usize);
        let inject = format!("inject={call}:signal=KILL:when={number}");
        killed += u32::from(!live(&stage, &["-o", "/dev/null", "-e", &inject]));
        stage.wait_until_alone();
        let lease = stage.witness.acquire(space, &own, &request(0)).unwrap();
        for (index, key) in own.iter().enumerate().take(lease.prefix_count()) {
            let span = lease.span(index).unwrap();
            // SAFETY: the lease keeps the bytes, and committed bytes do not change.
            let is_right = unsafe { is_filled(key, span.data, span.len_bytes) };
            assert!(
                is_right && span.len_bytes == 8000,
                "killed at {call} {number}: wrong bytes"
            );
        }
        lease.release().unwrap();
        stage.witness.remove(space, &own, None).unwrap();
        stage.assert_nothing_leaked();
        run.count(1);
    }
    run.note(format!(
        "a life makes {} calls; {killed} lives were cut short",
        points.len()
    ));
    assert!(killed > 0, "no life was cut short");
    stage.finish(run);
    Ok(())
}

/// Each call and its number, of every call that the trace has.
fn points(trace: &str) -> Vec<(String, u32)> {
    let mut counts: BTreeMap<&str, u32> = BTreeMap::new();
    for line in trace.lines() {
        // "1234 sendmsg(3, ..."
        let call = line
            .split_whitespace()
            .nth(1)
            .and_then(|rest| rest.split_once('('));
        if let Some((call, _)) = call
            && call
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
            && !NOT_OF_IT.contains(&call)
        {
            *counts.entry(call).or_default() += 1;
        }
    }
    counts
        .into_iter()
        .flat_map(|(call, count)| (1..=count).map(move |number| (call.to_owned(), number)))
        .collect()
}
