//! Runs schedules of daemon and clients together; a build without `--cfg shuttle` has no test here.
//!
//! `scripts/shuttle.sh` sets HOSTKV_SCHEDULES and HOSTKV_TEST_SEED.
#![cfg(shuttle)]

use hostkv_fuzz_bodies::schedules;

fn number(variable: &str, otherwise: u64) -> u64 {
    std::env::var(variable).map_or(otherwise, |text| {
        text.parse()
            .unwrap_or_else(|_| panic!("{variable} is '{text}', not a whole number"))
    })
}

#[test]
fn readers_a_writer_and_an_evicting_daemon_never_disturb_each_other() {
    let count = number("HOSTKV_SCHEDULES", 10_000);
    let seed = number("HOSTKV_TEST_SEED", 1);
    println!("{count} schedules from HOSTKV_TEST_SEED={seed}");
    let reached = schedules::run(seed, count as usize);
    println!("{reached:?}");
    assert!(
        reached.proven > count && reached.evicted > count && reached.kept > 0,
        "the schedules reach too little: {reached:?}"
    );
}
