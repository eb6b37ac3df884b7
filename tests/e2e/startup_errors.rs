//! A start that can't come about ends with the right exit code and one sentence with the remedy.

use std::net::TcpListener;

use hostkv_tests::{DaemonSpec, is_root, skip};

fn fails(flags: &[&str], code: i32, parts: &[&str]) {
    DaemonSpec::new(flags)
        .start_must_fail()
        .assert_says(code, parts);
}

#[test]
fn a_numa_node_that_is_not_there_is_one_sentence_and_node_0_is_there() {
    fails(
        &["--numa", "bind:1023"],
        1,
        &[
            "--numa bind:1023",
            "no NUMA node 1023 with memory",
            "one of 0",
        ],
    );
    let daemon = DaemonSpec::new(&["--numa", "bind:0"]).start();
    drop(daemon.session());
    daemon.finish();
}

#[test]
fn a_bad_value_is_code_2_and_names_flag_value_and_limit() {
    let cases: [(&[&str], &[&str]); 22] = [
        (
            &["--l1-size-gb", "0"],
            &["--l1-size-gb", "\"0\"", "above 0"],
        ),
        (
            &["--l1-size-gb", "-1"],
            &["--l1-size-gb", "\"-1\"", "above 0"],
        ),
        (
            &["--l1-size-gb", "much"],
            &["--l1-size-gb", "\"much\"", "131072"],
        ),
        (
            &["--l1-align-bytes", "4095"],
            &["--l1-align-bytes", "\"4095\"", "64 to 2097152"],
        ),
        (
            &["--max-objects", "0"],
            &["--max-objects", "\"0\"", "from 1"],
        ),
        (
            &["--max-sessions", "0"],
            &["--max-sessions", "\"0\"", "from 1"],
        ),
        (&["--max-pins", "255"], &["--max-pins", "\"255\"", "256"]),
        (
            &["--max-reserved-ratio", "0.6"],
            &["--max-reserved-ratio", "\"0.6\"", "0 to 0.5"],
        ),
        (
            &["--max-keyspaces", "-1"],
            &["--max-keyspaces", "\"-1\"", "from 1"],
        ),
        (
            &["--eviction-policy", "FIFO"],
            &["--eviction-policy", "\"FIFO\"", "LRU or noop"],
        ),
        (
            &["--eviction-trigger-watermark", "1.5"],
            &["--eviction-trigger-watermark", "\"1.5\"", "0 to 1"],
        ),
        (
            &["--eviction-ratio", "NaN"],
            &["--eviction-ratio", "\"NaN\"", "0 to 1"],
        ),
        (
            &["--hugepages", "yes"],
            &["--hugepages", "\"yes\"", "auto, off or hugetlb"],
        ),
        (
            &["--prefault", "maybe"],
            &["--prefault", "\"maybe\"", "yes or no"],
        ),
        (&["--spin-us", "51"], &["--spin-us", "\"51\"", "0 to 50"]),
        (
            &["--prometheus-port", "70000"],
            &["--prometheus-port", "\"70000\"", "65535"],
        ),
        (
            &["--prometheus-host", "example"],
            &["--prometheus-host", "\"example\"", "IP address"],
        ),
        (
            &["--prometheus-log-interval", "-1"],
            &["--prometheus-log-interval", "\"-1\"", "seconds"],
        ),
        (
            &["--socket-mode", "888"],
            &["--socket-mode", "\"888\"", "octal"],
        ),
        (
            &["--allow-uid", "nobody"],
            &["--allow-uid", "\"nobody\"", "user id"],
        ),
        (&["--shm-name", "a/b"], &["--shm-name", "\"a/b\"", "254"]),
        (
            &["--socket-group", "no-such-group-here"],
            &[
                "--socket-group",
                "\"no-such-group-here\"",
                "group of this host",
            ],
        ),
    ];
    for (flags, parts) in cases {
        fails(flags, 2, parts);
    }
}

#[test]
fn an_unknown_flag_or_argument_is_code_2() {
    fails(
        &["--l1-size", "1"],
        2,
        &["--l1-size", "--l1-size-gb", "--help"],
    );
    fails(&["--l3-adapter", "5"], 2, &["--l3-adapter", "--help"]);
    fails(&["start"], 2, &["\"start\"", "--help"]);
    fails(&["--max-pins"], 2, &["--max-pins", "lacks its value"]);
    fails(
        &["--spin-us", "1", "--spin-us", "2"],
        2,
        &["--spin-us", "more than once"],
    );
}

#[test]
fn a_bad_combination_is_code_2_and_names_both_flags() {
    let flags = ["--hugepages", "hugetlb", "--shm-name", "hostkv-e2e-never"];
    fails(
        &flags,
        2,
        &["--hugepages", "hugetlb", "--shm-name", "hostkv-e2e-never"],
    );
}

#[test]
fn a_configuration_file_that_is_missing_or_wrong_is_code_2() {
    let spec = DaemonSpec::default();
    let path = spec.folder().join("hostkv.toml");
    let given = spec.clone().flag("--config", &path);
    let name = path.to_str().unwrap();
    given
        .start_must_fail()
        .assert_says(2, &["--config", name, "readable TOML file"]);
    for (text, parts) in [
        ("l1_size = 1\n", &["unknown key", "l1_size"][..]),
        ("l1_size_gb = \n", &["not valid TOML", "line 1"]),
        ("l1_size_gb = 0\n", &["l1_size_gb", "\"0\"", "above 0"]),
        (
            "log_level = \"LOUD\"\n",
            &["log_level", "\"LOUD\"", "CRITICAL"],
        ),
    ] {
        std::fs::write(&path, text).unwrap();
        let failed = given.start_must_fail();
        failed.assert_says(2, parts);
        assert!(failed.last_line().contains(name), "{}", failed.last_line());
    }
}

#[test]
fn a_bad_environment_variable_is_named_as_it_was_given() {
    let spec = DaemonSpec::default().variable("HOSTKV_SPIN_US", "many");
    spec.start_must_fail()
        .assert_says(2, &["HOSTKV_SPIN_US", "\"many\"", "0 to 50"]);
}

#[test]
fn a_pool_larger_than_the_machine_is_code_1_at_once() {
    let begin = std::time::Instant::now();
    fails(
        &["--l1-size-gb", "10000"],
        1,
        &["machine's memory", "GiB", "--l1-size-gb"],
    );
    // It does not wait for anybody: no wait can make the machine larger.
    assert!(begin.elapsed() < std::time::Duration::from_secs(4));
}

#[test]
fn a_pool_larger_than_the_limit_of_its_cgroup_is_code_1() {
    let Some(group) = MemoryGroup::new(256 << 20) else {
        skip("a pool larger than its cgroup's limit: no memory cgroup can be made here");
        return;
    };
    let join = format!("echo $$ > {}/cgroup.procs && exec \"$@\"", group.0);
    let spec = DaemonSpec::new(&["--l1-size-gb", "1"]).wrapped(&["sh", "-c", &join, "sh"]);
    spec.start_must_fail().assert_says(
        1,
        &["memory cgroup", "256.0 MiB", "--l1-size-gb", "MemoryMax="],
    );
}

/// A memory cgroup of this test's own.
struct MemoryGroup(String);

impl MemoryGroup {
    fn new(limit_bytes: u64) -> Option<MemoryGroup> {
        for (root, file) in [
            ("/sys/fs/cgroup/memory", "memory.limit_in_bytes"),
            ("/sys/fs/cgroup", "memory.max"),
        ] {
            let group = MemoryGroup(format!("{root}/hostkv-e2e-{}", std::process::id()));
            if !std::path::Path::new(root).join(file).exists() && file != "memory.max" {
                continue;
            }
            if std::fs::create_dir(&group.0).is_ok()
                && std::fs::write(format!("{}/{file}", group.0), limit_bytes.to_string()).is_ok()
            {
                return Some(group);
            }
        }
        None
    }
}

impl Drop for MemoryGroup {
    fn drop(&mut self) {
        // The process in it has just ended, and may still be counted for a moment.
        for _ in 0..100 {
            if std::fs::remove_dir(&self.0).is_ok() {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    }
}

/// Whether a private mount namespace can be had and this be mounted in it.
fn can_mount(mount: &str) -> bool {
    is_root()
        && std::process::Command::new("unshare")
            .args(["-m", "sh", "-c", mount])
            .stderr(std::process::Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
}

/// Runs the daemon where /dev/shm is another file system, of which all but some is used up.
fn with_small_dev_shm(size: &str, used: &str, flags: &[&str]) -> Option<DaemonSpec> {
    let mount = format!(
        "mount -t tmpfs -o size={size} tmpfs /dev/shm && head -c {used} /dev/zero > /dev/shm/used && exec \"$@\""
    );
    if !can_mount("mount -t tmpfs tmpfs /dev/shm") {
        skip("a small or full /dev/shm: a private mount namespace needs root and unshare");
        return None;
    }
    Some(DaemonSpec::new(flags).wrapped(&["unshare", "-m", "sh", "-c", &mount, "sh"]))
}

#[test]
fn a_small_dev_shm_refuses_a_named_segment_with_the_remedy() {
    if let Some(spec) = with_small_dev_shm("4m", "0", &["--shm-name", "small"]) {
        spec.start_must_fail().assert_says(
            1,
            &[
                "32.0 MiB",
                "/dev/shm",
                "4.0 MiB",
                "remount,size=32m",
                "--shm-name",
                "--l1-size-gb",
            ],
        );
    }
}

#[test]
fn a_full_dev_shm_refuses_a_named_segment_with_the_remedy() {
    let flags = ["--shm-name", "full", "--start-wait", "0"];
    if let Some(spec) = with_small_dev_shm("40m", "30M", &flags) {
        spec.start_must_fail().assert_says(
            1,
            &[
                "32.0 MiB",
                "/dev/shm",
                "10.0 MiB",
                "40.0 MiB",
                "remount,size=",
                "--shm-name",
            ],
        );
    }
}

#[test]
fn a_sealed_pool_is_not_bound_by_dev_shm() {
    if let Some(spec) = with_small_dev_shm("4m", "0", &[]) {
        spec.start().finish();
    }
}

#[test]
fn a_taken_metrics_port_is_code_1() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let port = taken.local_addr().unwrap().port().to_string();
    fails(
        &["--prometheus-port", &port],
        1,
        &[&address, "Prometheus server", "9090", "--prometheus-port"],
    );
}

#[test]
fn a_missing_socket_folder_is_code_1() {
    let spec = DaemonSpec::default();
    let socket = spec.folder().join("no/such/hostkv.sock");
    spec.at(socket)
        .start_must_fail()
        .assert_says(1, &["no/such", "--socket"]);
}

#[test]
fn no_place_for_the_socket_is_code_1() {
    if !is_root() {
        skip("no place for the socket: becoming another user needs root");
        return;
    }
    // Another user, no runtime folder, no flag.
    let mut command = std::process::Command::new("setpriv");
    command
        .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
        .arg(hostkv_tests::daemon_program())
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default());
    let output = match command.output() {
        Ok(output) if output.status.code() != Some(126) && output.status.code() != Some(127) => {
            output
        }
        _ => {
            skip(
                "no place for the socket: setpriv is missing, or another user can't run the daemon",
            );
            return;
        }
    };
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{text}");
    let line = text.lines().last().unwrap();
    assert!(
        line.starts_with("hostkvd: ") && line.contains("--socket"),
        "{line}"
    );
}

#[test]
fn a_kernel_that_is_too_old_is_code_1() {
    let spec = DaemonSpec::default();
    let release = spec.folder().join("osrelease");
    std::fs::write(&release, "5.15.0-old\n").unwrap();
    let mount = format!(
        "mount --bind {} /proc/sys/kernel/osrelease",
        release.display()
    );
    if !can_mount(&mount) {
        skip("a kernel that is too old: a private mount namespace needs root and unshare");
        return;
    }
    let run = format!("{mount} && exec \"$@\"");
    spec.wrapped(&["unshare", "-m", "sh", "-c", &run, "sh"])
        .start_must_fail()
        .assert_says(1, &["kernel 5.15.0-old", "6.1", "update"]);
}
