//! The promises of the text: names, identities, the form that promtool accepts.

use std::collections::BTreeMap;
use std::io::Write;
use std::process::{Command, Stdio};

use super::families::{FAMILIES, Kind, Unit, defect};
use super::{Renderer, RequestDurations, Snapshot, TimedRequest, WriteFailures, process};
use crate::histogram::Histogram;

fn render(snapshot: &Snapshot) -> String {
    Renderer::new().unwrap().render(snapshot).unwrap()
}

/// Name with labels -> value, of one text.
fn samples(text: &str) -> BTreeMap<&str, f64> {
    text.lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| line.rsplit_once(' ').unwrap())
        .map(|(name, value)| (name, value.parse().unwrap()))
        .collect()
}

/// One duration of this many seconds.
fn durations(seconds: u64) -> Histogram {
    let mut histogram = Histogram::new(&[1]);
    histogram.observe(seconds * 1_000_000_000);
    histogram
}

/// The lines of one family.
fn lines_of(snapshot: &Snapshot, family: &str) -> String {
    let text = render(snapshot);
    let lines: Vec<&str> = text.lines().filter(|line| line.contains(family)).collect();
    lines.join("\n")
}

/// A small generator of numbers, enough to vary a test; its seed is printed and can be given.
pub(super) struct Random(u64);

impl Random {
    pub(super) fn from_environment() -> Self {
        let seed = std::env::var("HOSTKV_TEST_SEED")
            .map_or(u64::from(std::process::id()), |seed| seed.parse().unwrap());
        println!("HOSTKV_TEST_SEED={seed}");
        Self(seed)
    }

    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

#[test]
fn the_nine_contract_counters_are_there_at_0_from_the_start() {
    let text = render(&Snapshot::default());
    for name in [
        "lmcache_mp:sm_read_requests_total",
        "lmcache_mp:sm_read_succeed_keys_total",
        "lmcache_mp:sm_read_failed_keys_total",
        "lmcache_mp:sm_write_requests_total",
        "lmcache_mp:sm_write_succeed_keys_total",
        "lmcache_mp:sm_write_failed_keys_total",
        "lmcache_mp:l1_read_keys_total",
        "lmcache_mp:l1_write_keys_total",
        "lmcache_mp:l1_evicted_keys_total",
    ] {
        assert!(text.contains(&format!("\n{name} 0\n")), "{name}:\n{text}");
        assert!(text.contains(&format!("# TYPE {name} counter\n")), "{name}");
    }
    assert_eq!(text.matches("# TYPE lmcache_mp:").count(), 9);
}

#[test]
fn every_figure_shows_under_its_own_name() {
    let snapshot = Snapshot {
        read_requests: 101,
        read_succeed_keys: 102,
        read_failed_keys: 103,
        write_requests: 104,
        write_succeed_keys: 105,
        write_failed_keys: 106,
        l1_read_keys: 107,
        l1_write_keys: 108,
        l1_evicted_keys: 109,
        read_keys: 110,
        write_keys: 111,
        l1_capacity_bytes: 112,
        l1_used_bytes: 113,
        l1_pinned_bytes: 114,
        l1_reserved_bytes: 115,
        l1_quarantined_bytes: 116,
        orphaned_bytes: 117,
        l1_zeroing_bytes: 156,
        integrity_failures: 171,
        integrity_failures_scrubbed: 172,
        integrity_reports_refuted: 173,
        scrubbed_bytes: 174,
        scrub_passes: 175,
        last_scrub_pass_seconds: 176.5,
        l1_objects: 118,
        l1_usage_ratio: 0.25,
        eviction_watermark_ratio: 0.75,
        index_entries: 119,
        index_entries_used: 120,
        huge_page_bytes: 121,
        largest_free_extent_bytes: 122,
        sessions: 123,
        keyspaces: 124,
        oldest_pin_seconds: 1.5,
        is_pin_gate_shut: true,
        eviction_passes: 125,
        quota_evicted_keys: 155,
        evicted_bytes: 126,
        eviction_passes_all_pinned: 127,
        removed_keys: 128,
        cleared_keys: 129,
        layout_replaced_keys: 130,
        reclaimed_pins: 131,
        reclaimed_reservations: 132,
        voided_pins: 133,
        expired_pins: 134,
        rejected_frames: 135,
        log_lines_dropped: 136,
        recency_hints_overflowed: 137,
        write_failures: WriteFailures {
            no_space: 138,
            no_entry: 139,
            bucket_full: 140,
            exists: 141,
            reserved: 142,
            quota: 143,
            keyspace_quota: 154,
            invalid: 144,
        },
        l1_pinned_objects: 145,
        l1_reserved_objects: 146,
        l1_quarantined_objects: 147,
        orphaned_objects: 148,
        telemetry_events_dropped: 149,
        object_lifetime: durations(150),
        idle_before_eviction: durations(151),
        reuse_gap: durations(152),
        owner_death: durations(153),
        l2_prefetches: 180,
        l2_prefetched_keys: 181,
        l2_left_out_keys: 182,
        l2_evicted_unstored_keys: 183,
        l2_displaced_stores: 184,
        l2_skipped_l1_keys: 185,
        l2_waiting_objects: 186,
        l2_storing_objects: 187,
        l2_storing_bytes: 188,
        l2_loading_bytes: 189,
        l2_open_prefetches: 190,
        l2_kept_bytes: 191,
        tiers: Vec::new(),
        request_durations: RequestDurations::default(),
    };
    let text = render(&snapshot);
    // What histograms show of their buckets, and the histogram of each request, have tests of their own.
    let shown: Vec<&str> = text
        .lines()
        .filter(|line| !line.starts_with('#') && !line.starts_with("process_"))
        .filter(|line| !line.contains("_bucket{") && !line.contains("{request="))
        .collect();
    let version = env!("CARGO_PKG_VERSION");
    let mut expected: Vec<String> = vec![format!("hostkv_build_info{{version=\"{version}\"}} 1")];
    expected.extend(EXPECTED.lines().map(|line| line.trim().to_owned()));
    expected.retain(|line| !line.is_empty());
    let sorted = |mut lines: Vec<String>| {
        lines.sort();
        lines.join("\n")
    };
    assert_eq!(
        sorted(shown.into_iter().map(str::to_owned).collect()),
        sorted(expected)
    );
}

const EXPECTED: &str = "
    lmcache_mp:sm_read_requests_total 101
    lmcache_mp:sm_read_succeed_keys_total 102
    lmcache_mp:sm_read_failed_keys_total 103
    lmcache_mp:sm_write_requests_total 104
    lmcache_mp:sm_write_succeed_keys_total 105
    lmcache_mp:sm_write_failed_keys_total 106
    lmcache_mp:l1_read_keys_total 107
    lmcache_mp:l1_write_keys_total 108
    lmcache_mp:l1_evicted_keys_total 109
    hostkv_read_keys_total 110
    hostkv_write_keys_total 111
    hostkv_l1_capacity_bytes 112
    hostkv_l1_used_bytes 113
    hostkv_l1_pinned_bytes 114
    hostkv_l1_reserved_bytes 115
    hostkv_l1_quarantined_bytes 116
    hostkv_orphaned_bytes 117
    hostkv_l1_objects 118
    hostkv_integrity_failures_total 171
    hostkv_integrity_failures_scrubbed_total 172
    hostkv_integrity_reports_refuted_total 173
    hostkv_scrubbed_bytes_total 174
    hostkv_scrub_passes_total 175
    hostkv_last_scrub_pass_seconds 176.5
    hostkv_l1_zeroing_bytes 156
    hostkv_l1_usage_ratio 0.25
    hostkv_eviction_watermark_ratio 0.75
    hostkv_index_entries 119
    hostkv_index_entries_used 120
    hostkv_huge_page_bytes 121
    hostkv_largest_free_extent_bytes 122
    hostkv_sessions 123
    hostkv_keyspaces 124
    hostkv_oldest_pin_seconds 1.5
    hostkv_pin_gate_shut 1
    hostkv_eviction_passes_total 125
    hostkv_evicted_bytes_total 126
    hostkv_eviction_passes_all_pinned_total 127
    hostkv_removed_keys_total 128
    hostkv_cleared_keys_total 129
    hostkv_layout_replaced_keys_total 130
    hostkv_reclaimed_pins_total 131
    hostkv_reclaimed_reservations_total 132
    hostkv_voided_pins_total 133
    hostkv_expired_pins_total 134
    hostkv_rejected_frames_total 135
    hostkv_log_lines_dropped_total 136
    hostkv_recency_hints_overflowed_total 137
    hostkv_write_failures_total{reason=\"no_space\"} 138
    hostkv_write_failures_total{reason=\"no_entry\"} 139
    hostkv_write_failures_total{reason=\"bucket_full\"} 140
    hostkv_write_failures_total{reason=\"exists\"} 141
    hostkv_write_failures_total{reason=\"reserved\"} 142
    hostkv_write_failures_total{reason=\"quota\"} 143
    hostkv_write_failures_total{reason=\"keyspace_quota\"} 154
    hostkv_keyspace_quota_evictions_total 155
    hostkv_write_failures_total{reason=\"invalid\"} 144
    hostkv_l1_pinned_objects 145
    hostkv_l1_reserved_objects 146
    hostkv_l1_quarantined_objects 147
    hostkv_orphaned_objects 148
    hostkv_telemetry_events_dropped_total 149
    hostkv_object_lifetime_seconds_sum 150
    hostkv_object_lifetime_seconds_count 1
    hostkv_idle_before_eviction_seconds_sum 151
    hostkv_idle_before_eviction_seconds_count 1
    hostkv_reuse_gap_seconds_sum 152
    hostkv_reuse_gap_seconds_count 1
    hostkv_owner_death_seconds_sum 153
    hostkv_owner_death_seconds_count 1
    hostkv_l2_prefetches_total 180
    hostkv_l2_prefetched_keys_total 181
    hostkv_l2_left_out_keys_total 182
    hostkv_l2_evicted_unstored_keys_total 183
    hostkv_l2_displaced_stores_total 184
    hostkv_l2_skipped_l1_keys_total 185
    hostkv_l2_waiting_objects 186
    hostkv_l2_storing_objects 187
    hostkv_l2_storing_bytes 188
    hostkv_l2_loading_bytes 189
    hostkv_l2_open_prefetches 190
    hostkv_l2_kept_bytes 191
";

#[test]
fn succeeded_and_failed_keys_add_up_to_the_keys_asked_in_every_text() {
    let mut random = Random::from_environment();
    let renderer = Renderer::new().unwrap();
    // Exact up to 2^53, beyond any count that a process lives to see.
    for bound in [10, 1 << 20, 1 << 30].repeat(20) {
        let scale = if bound == 1 << 30 { 1 << 21 } else { 1 };
        let mut some = || random.below(bound) * scale + 1;
        let write_failures = WriteFailures {
            no_space: some() / 8,
            no_entry: some() / 8,
            bucket_full: some() / 8,
            exists: some() / 8,
            reserved: some() / 8,
            quota: some() / 8,
            keyspace_quota: some() / 8,
            invalid: some(),
        };
        let failed_by_reason = write_failures
            .by_reason()
            .into_iter()
            .filter(|(reason, _)| *reason != "invalid")
            .map(|(_, count)| count)
            .sum::<u64>();
        let mut snapshot = Snapshot {
            read_succeed_keys: some(),
            read_failed_keys: some(),
            write_succeed_keys: some(),
            write_failed_keys: failed_by_reason,
            write_failures,
            ..Snapshot::default()
        };
        snapshot.read_keys = snapshot.read_succeed_keys + snapshot.read_failed_keys;
        snapshot.write_keys = snapshot.write_succeed_keys + snapshot.write_failed_keys;
        let text = renderer.render(&snapshot).unwrap();
        let shown = samples(&text);
        for operation in ["read", "write"] {
            let contract = |outcome| shown[&*format!("lmcache_mp:sm_{operation}_{outcome}_total")];
            let asked = shown[&*format!("hostkv_{operation}_keys_total")];
            assert_eq!(contract("succeed_keys") + contract("failed_keys"), asked);
        }
        let of_reasons: f64 = shown
            .iter()
            .filter(|(name, _)| {
                name.starts_with("hostkv_write_failures") && !name.contains("invalid")
            })
            .map(|(_, count)| count)
            .sum();
        assert_eq!(of_reasons, shown["lmcache_mp:sm_write_failed_keys_total"]);
    }
}

#[test]
fn the_six_standard_process_families_are_shown() {
    let text = render(&Snapshot::default());
    let shown = samples(&text);
    for name in [
        "process_cpu_seconds_total",
        "process_open_fds",
        "process_max_fds",
        "process_virtual_memory_bytes",
        "process_resident_memory_bytes",
        "process_start_time_seconds",
    ] {
        assert!(shown.contains_key(name), "{name} is missing:\n{text}");
    }
    assert_eq!(text.matches("# TYPE process_").count(), 6);
}

#[test]
fn no_label_but_version_reason_and_request_exists_beside_the_bound_of_a_bucket() {
    for line in render(&Snapshot::default()).lines() {
        let Some((name, labels)) = line.split_once('{').filter(|_| !line.starts_with('#')) else {
            continue;
        };
        let (labels, _) = labels.split_once('}').unwrap();
        let mut labels: Vec<&str> = labels
            .split(',')
            .map(|label| label.split_once('=').unwrap().0)
            .collect();
        if name.ends_with("_bucket") {
            assert_eq!(labels.pop(), Some("le"), "{line}");
        }
        let is_known = match labels[..] {
            [] => name.ends_with("_bucket"),
            [label] => ["version", "reason", "request"].contains(&label),
            _ => false,
        };
        assert!(is_known, "{line}");
    }
}

#[test]
fn a_histogram_shows_its_buckets_cumulated_its_sum_and_its_count_in_seconds() {
    let mut snapshot = Snapshot {
        owner_death: Histogram::new(&[1_000_000, 2_500_000_000]),
        ..Snapshot::default()
    };
    for duration_ns in [0, 1_000_000, 1_000_001, 2_500_000_000, 3_000_000_000] {
        snapshot.owner_death.observe(duration_ns);
    }
    let shown = lines_of(&snapshot, "hostkv_owner_death_seconds");
    assert_eq!(
        shown,
        "# HELP hostkv_owner_death_seconds Time from the end of a dead session's socket to the end of its process, \
         0 if they were seen together.\n\
         # TYPE hostkv_owner_death_seconds histogram\n\
         hostkv_owner_death_seconds_bucket{le=\"0.001\"} 2\n\
         hostkv_owner_death_seconds_bucket{le=\"2.5\"} 4\n\
         hostkv_owner_death_seconds_bucket{le=\"+Inf\"} 5\n\
         hostkv_owner_death_seconds_sum 5.502000001\n\
         hostkv_owner_death_seconds_count 5"
    );
}

#[test]
fn a_histogram_of_each_request_spans_1_us_to_10_s() {
    let mut snapshot = Snapshot::default();
    let request_durations = &mut snapshot.request_durations;
    request_durations.observe(TimedRequest::Reserve, 1_000);
    request_durations.observe(TimedRequest::Reserve, 60_000_000_000);
    request_durations.observe(TimedRequest::Hello, 10_000_000_000);
    let shown = lines_of(&snapshot, "hostkv_request_duration_seconds");
    let name = "hostkv_request_duration_seconds";
    for line in [
        "_bucket{request=\"reserve\",le=\"0.000001\"} 1",
        "_bucket{request=\"reserve\",le=\"0.0000025\"} 1",
        "_bucket{request=\"reserve\",le=\"10\"} 1",
        "_bucket{request=\"reserve\",le=\"+Inf\"} 2",
        "_sum{request=\"reserve\"} 60.000001",
        "_count{request=\"reserve\"} 2",
        "_bucket{request=\"hello\",le=\"5\"} 0",
        "_bucket{request=\"hello\",le=\"10\"} 1",
        "_count{request=\"ping\"} 0",
    ] {
        let line = format!("{name}{line}");
        assert!(shown.lines().any(|found| found == line), "{line}\n{shown}");
    }
    let requests = shown.matches("_count{").count();
    assert_eq!(requests, 20, "{shown}");
}

#[test]
fn every_histogram_is_whole_from_the_start() {
    let text = render(&Snapshot::default());
    let shown = samples(&text);
    for name in [
        "hostkv_object_lifetime_seconds",
        "hostkv_idle_before_eviction_seconds",
        "hostkv_reuse_gap_seconds",
        "hostkv_owner_death_seconds",
    ] {
        assert!(
            text.contains(&format!("# TYPE {name} histogram\n")),
            "{name}"
        );
        for sample in [
            "_bucket{le=\"+Inf\"}",
            "_bucket{le=\"1\"}",
            "_sum",
            "_count",
        ] {
            assert_eq!(shown[&*format!("{name}{sample}")], 0.0, "{name}{sample}");
        }
    }
}

#[test]
fn declarations_are_unique_and_tell_their_unit_and_meaning() {
    let mut names: Vec<&str> = FAMILIES.iter().map(|row| row.name).collect();
    names.extend(process::FAMILIES.iter().map(|row| row.name));
    let declared = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), declared, "a name is declared twice");
    for row in FAMILIES {
        assert_eq!(
            defect(row.name, row.unit, row.kind, row.help),
            None,
            "{}",
            row.name
        );
    }
}

#[test]
fn a_declaration_without_unit_or_sentence_is_refused() {
    let help = "Something that counts.";
    for (name, unit, kind, help) in [
        ("hostkv_evicted", Unit::Bytes, Kind::Counter, help),
        ("hostkv_evicted_bytes", Unit::Bytes, Kind::Counter, help),
        ("hostkv_evicted_total", Unit::Bytes, Kind::Counter, help),
        ("hostkv_used", Unit::Bytes, Kind::Gauge, help),
        ("hostkv_age", Unit::Seconds, Kind::Gauge, help),
        ("hostkv_usage", Unit::Ratio, Kind::Gauge, help),
        ("hostkv_session", Unit::Things, Kind::Gauge, help),
        ("hostkv_age", Unit::Seconds, Kind::Histogram, help),
        ("hostkv_size_bytes", Unit::Bytes, Kind::Histogram, help),
        ("hostkv_sessions_total", Unit::Things, Kind::Gauge, help),
        ("hostkv_sessions", Unit::Things, Kind::Gauge, ""),
        (
            "hostkv_sessions",
            Unit::Things,
            Kind::Gauge,
            "Open sessions",
        ),
    ] {
        assert!(defect(name, unit, kind, help).is_some(), "{name} {help:?}");
    }
}

#[test]
fn promtool_has_nothing_to_say_about_our_names() {
    let promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut promtool = match promtool {
        Ok(promtool) => promtool,
        Err(error) => {
            println!("SKIPPED: promtool cannot be run ({error})");
            return;
        }
    };
    let text = render(&Snapshot::default());
    let mut input = promtool.stdin.take().unwrap();
    input.write_all(text.as_bytes()).unwrap();
    drop(input);
    let output = promtool.wait_with_output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8(said).unwrap();
    // The colon of the contract names is kept on purpose; promtool has only that to say.
    let ours: Vec<&str> = said
        .lines()
        .filter(|line| !(line.contains("lmcache_mp:") && line.contains("should not contain ':'")))
        .collect();
    assert!(ours.is_empty(), "{said}");
    assert!(
        said.contains("lmcache_mp:"),
        "promtool did not look: {said}"
    );
}
