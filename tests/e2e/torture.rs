//! The short forms of the faults: each promise of the fault table in a hundredth of its cycles.
//!
//! `make torture` does the whole.

use hostkv_tests::torture::{
    self, FAULTS, Fault, calls, closed, fork, greedy, hostile, kill, restart, stopped, threads,
    verify,
};

/// A test for each row of the table, and one that no row is left out.
macro_rules! short_forms {
    ($($name:ident => $fault:path,)*) => {
        $(
            #[test]
            fn $name() {
                torture::short(&$fault);
            }
        )*

        #[test]
        fn every_fault_of_the_table_has_a_short_form() {
            let tested: Vec<&Fault> = vec![$(&$fault),*];
            for fault in FAULTS {
                let is_tested = tested.iter().any(|other| std::ptr::eq(*other, *fault));
                assert!(is_tested, "{} {} has no test here", fault.id, fault.name);
            }
            assert_eq!(tested.len(), FAULTS.len());
        }
    };
}

short_forms! {
    ten_million_reads_under_writes_evictions_removes_clears_and_kills_are_right => verify::READS,
    a_client_killed_at_any_step_leaves_what_it_committed_and_nothing_else => kill::AT_EVERY_STEP,
    a_client_killed_at_a_random_moment_leaves_nothing_behind => kill::AT_RANDOM,
    a_client_killed_with_every_slot_in_use_leaves_nothing_behind => kill::WITH_ALL_SLOTS,
    a_client_killed_at_any_system_call_leaves_nothing_behind => calls::AT_EVERY_CALL,
    a_stopped_client_holds_nobody_up_and_goes_on => stopped::BY_SIGNAL,
    a_frozen_client_holds_nobody_up_and_goes_on => stopped::BY_FREEZER,
    a_client_stopped_beyond_its_time_finds_its_leases_expired => stopped::BEYOND_ITS_TIME,
    two_greedy_clients_get_their_quota_and_leave_the_rest => greedy::TWO_AT_ONCE,
    a_client_that_ignores_its_quota_loses_what_is_beyond_and_is_sent_away => greedy::WITHOUT_A_QUOTA,
    what_a_client_without_a_socket_writes_is_never_anybody_elses => closed::AND_WRITING,
    children_and_successors_of_a_client_have_nothing_of_its_session => fork::INTO_CHILDREN,
    a_fork_in_the_middle_of_an_open_gives_no_child_access => fork::DURING_OPENS,
    a_client_of_many_threads_killed_at_work_leaves_nothing_behind => threads::KILLED,
    a_client_that_flips_its_lease_and_lies_hurts_nobody => hostile::FLIPS_AND_LIES,
    clients_outlive_a_daemon_killed_under_load => restart::UNDER_LOAD,
    a_daemon_in_little_memory_waits_for_the_old_pool_and_names_its_holder => restart::IN_LITTLE_MEMORY,
}
