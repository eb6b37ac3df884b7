//! The short forms of the faults: each promise of the fault table in a hundredth of its cycles.
//!
//! `make torture` does the whole.

use hostkv_tests::torture::{
    self, FAULTS, Fault, abroad, calls, changed, clock, closed, flood, fork, greedy, hostile, kill,
    little, paused, race, refused, restart, short, stopped, stuck, threads, verify,
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
    an_object_that_its_writer_changes_after_the_commit_is_a_miss => changed::AFTER_COMMIT,
    clients_outlive_a_daemon_killed_under_load => restart::UNDER_LOAD,
    a_daemon_in_little_memory_waits_for_the_old_pool_and_names_its_holder => restart::IN_LITTLE_MEMORY,
    in_any_dev_shm_a_named_pool_is_refused_or_whole => little::SHM,
    in_any_memory_cgroup_a_pool_is_refused_or_whole => little::CGROUP,
    a_flood_of_connections_costs_little_and_keeps_nobody_out => flood::OF_CONNECTIONS,
    with_few_descriptors_sessions_are_refused_and_open_again => flood::OF_DESCRIPTORS,
    a_wall_clock_that_jumps_expires_nothing_early_and_nothing_late => clock::JUMPS,
    a_log_that_goes_nowhere_stalls_nobody => stuck::LOG,
    a_client_in_namespaces_of_its_own_works_and_dies_like_any_other => abroad::IN_NAMESPACES,
    a_system_call_of_the_daemon_that_fails_ends_it_by_a_sentence_or_nothing => refused::OF_THE_DAEMON,
    a_system_call_of_a_client_that_fails_is_a_status => refused::OF_A_CLIENT,
    without_memory_the_daemon_refuses_and_goes_on => short::OF_MEMORY,
    of_two_daemons_that_race_exactly_one_serves => race::FOR_ONE_SOCKET,
    a_daemon_that_stands_still_lets_reads_go_on_and_calls_time_out => paused::BY_SIGNAL,
}
