//! Promises about what is refused, and how.

use std::os::unix::ffi::OsStringExt;

use super::*;

/// Values that are refused, for each setting that does not take every text.
const BAD: [(&str, &[&str]); 34] = [
    (
        "socket",
        &[
            "",
            "/a/",
            "/",
            "..",
            "/one/byte/more/than/the/hundred/and/seven/bytes/that/the/kernel/has/for/the/path/of/a/unix/socket/kkkkkkkkkk",
        ],
    ),
    ("allow-uid", &["-1", "root", "4294967295", "1.5", ""]),
    ("allow-gid", &["-1", "4294967296"]),
    ("socket-group", &["nosuch", "", "990"]),
    ("socket-mode", &["0800", "1777", "rw", "", "+600"]),
    ("read-only-uid", &["x"]),
    ("untrusted-uid", &["-1", "root", "4294967295"]),
    ("admin-uid", &["x"]),
    (
        "l1-size-gb",
        &["0", "-0", "-1", "nan", "inf", "131072.1", "1GiB", ""],
    ),
    ("l1-align-bytes", &["0", "32", "96", "4194304", "4096.5"]),
    ("max-objects", &["0", "-5", "134217729", "many"]),
    ("shm-name", &["", "/", "/a/b", "//a", "..", "."]),
    ("hugepages", &["on", ""]),
    (
        "numa",
        &[
            "",
            "on",
            "bind",
            "bind:",
            "bind:-1",
            "bind:1024",
            "bind:0,1",
        ],
    ),
    ("prefault", &["maybe", ""]),
    ("start-wait", &["-1", "86401", "nan"]),
    ("eviction-policy", &["LFU"]),
    ("eviction-trigger-watermark", &["-0.1", "1.1", "80%"]),
    ("eviction-ratio", &["-0.1", "1.01", "nan"]),
    (
        "l1-write-ttl-seconds",
        &["-1", "inf", "0.0001", "4294967296"],
    ),
    ("l1-read-ttl-seconds", &["-1", "0.0009"]),
    ("chunk-size", &["0", "4294967296"]),
    ("max-sessions", &["0", "65537"]),
    ("max-pins", &["255", "1048577"]),
    ("max-reserved-ratio", &["0.51", "-0.5"]),
    ("max-keyspaces", &["0", "1048577"]),
    ("keyspace-quota", &["0", "1.01", "-0.5", "nan", "half"]),
    ("spin-us", &["51", "-1", "0.5"]),
    ("integrity", &["on", "crc", ""]),
    (
        "scrub-bytes-per-second",
        &["-1", "1.5", "1099511627777", ""],
    ),
    ("sandbox", &["yes", "auto", ""]),
    ("l2-store-policy", &["never", "skip", ""]),
    ("prometheus-host", &["localhost", "", "127.0.0.1:9090"]),
    ("prometheus-port", &["65536", "-1", "http"]),
];

#[test]
fn every_bad_value_is_refused_by_name_with_the_value_and_what_is_allowed() {
    let more: [(&str, &[&str]); 2] = [
        ("prometheus-log-interval", &["0", "-1", "inf", "86401"]),
        ("telemetry-max-queue-size", &["0", "1", "100000001", "2.5"]),
    ];
    for (name, values) in BAD.into_iter().chain(more) {
        let setting = setting_of(name);
        let variable = setting.variable();
        for value in values {
            let check = |sentence: String, spelling: &str| {
                let start = format!("{spelling} is {value:?}; allowed is {}", setting.allowed);
                assert_eq!(sentence, start);
            };
            let world = World::of_a_user();
            check(world.sentence(&[&flag_of(setting, value)]), &setting.flag());

            // An empty variable is an empty list.
            if !(value.is_empty() && setting.shape == Shape::Numbers) {
                let mut world = World::of_a_user();
                world.set(&variable, value);
                check(world.sentence(&[]), &variable);
            }

            let key = format!("{} in \"/kv.toml\"", setting.key());
            let toml = match setting.shape {
                Shape::Text | Shape::YesNo => print::string(value),
                Shape::Numbers if value.parse::<f64>().is_ok() => format!("[{value}]"),
                Shape::Number if value.parse::<i32>().is_ok() && *value != "-0" => (*value).into(),
                _ => continue,
            };
            let mut world = World::of_a_user();
            world.write("/kv.toml", &format!("{} = {toml}", setting.key()));
            check(world.sentence(&["--config", "/kv.toml"]), &key);
        }
    }
    let named = BAD.len() + more.len();
    let all = setting::ALL
        .iter()
        .filter(|setting| setting.sources == Sources::All);
    // A switch has no value, and what a processor may be is for the telemetry to say.
    let unchecked = all
        .clone()
        .filter(|setting| matches!(setting.shape, Shape::Switch | Shape::Texts))
        .count();
    assert_eq!(
        all.count() - unchecked,
        named,
        "every setting refuses something"
    );
}

#[test]
fn a_negative_number_after_a_space_is_a_bad_value_and_no_unknown_flag() {
    let sentence = World::of_a_user().sentence(&["--eviction-ratio", "-0.5"]);
    assert_eq!(
        sentence,
        "--eviction-ratio is \"-0.5\"; allowed is a number from 0 to 1"
    );
}

#[test]
fn a_switch_in_the_environment_is_yes_or_no_and_nothing_else() {
    let mut world = World::of_a_user();
    for (value, is_disabled) in [("1", true), ("True", true), ("no", false), ("0", false)] {
        world.set("HOSTKV_DISABLE_PROMETHEUS", value);
        assert_eq!(world.run(&[]).metrics.is_none(), is_disabled, "{value}");
    }
    world.set("HOSTKV_DISABLE_PROMETHEUS", "off-ish");
    let sentence = world.sentence(&[]);
    assert_eq!(
        sentence,
        "HOSTKV_DISABLE_PROMETHEUS is \"off-ish\"; allowed is yes or no"
    );
}

#[test]
fn the_command_line_is_refused_in_one_sentence_that_names_the_flag() {
    let world = World::of_a_user();
    let cases: [(&[&str], &str); 10] = [
        (
            &["--max-sesions", "3"],
            "unknown flag \"--max-sesions\", perhaps --max-sessions is meant; hostkvd --help lists all",
        ),
        (
            &["--gpudirect"],
            "unknown flag \"--gpudirect\"; hostkvd --help lists all",
        ),
        (&["--mlockall"], "unknown flag \"--mlockall\""),
        (&["-x"], "unknown flag \"-x\"; hostkvd --help lists all"),
        (
            &["serve"],
            "unexpected argument \"serve\"; allowed are only flags, and hostkvd --help lists all",
        ),
        (
            &["--spin-us"],
            "--spin-us lacks its value; allowed is a whole number from 0 to 50",
        ),
        (
            &["--spin-us", "--socket", "/a"],
            "--spin-us lacks its value; allowed is a whole number from 0 to 50",
        ),
        (
            &["--spin-us", "1", "--spin-us", "2"],
            "--spin-us is given more than once; allowed is once",
        ),
        (
            &["--disable-prometheus=yes"],
            "--disable-prometheus is given the value \"yes\"; allowed is the flag alone",
        ),
        (&["--log-level", "DEBUG"], "unknown flag \"--log-level\""),
    ];
    for (flags, start) in cases {
        let sentence = world.sentence(flags);
        assert!(sentence.starts_with(start), "{sentence}");
    }
    let bytes = OsString::from_vec(vec![b'/', 0xff]);
    let arguments = vec!["hostkvd".into(), "--socket".into(), bytes.clone()];
    let error = load(arguments, &world).unwrap_err();
    assert_eq!(
        error.to_string(),
        "an argument is not valid UTF-8; allowed is UTF-8 text"
    );
    let mut world = World::of_a_user();
    world.variables.insert("HOSTKV_SOCKET".into(), bytes);
    assert!(
        world
            .sentence(&[])
            .starts_with("HOSTKV_SOCKET is not valid UTF-8")
    );
}

#[test]
fn a_bad_file_is_refused_by_its_name_and_place() {
    let mut world = World::of_a_user();
    let flags = ["--config", "/kv.toml"];
    let sentence = world.sentence(&flags);
    assert!(
        sentence.starts_with("--config names \"/kv.toml\", which cannot be read ("),
        "{sentence}"
    );
    world.set("HOSTKV_CONFIG", "/other.toml");
    let sentence = world.sentence(&[]);
    assert!(
        sentence.starts_with("HOSTKV_CONFIG names \"/other.toml\""),
        "{sentence}"
    );

    let cases = [
        (
            "chunk_size = 1\nmax_pin = 3",
            "configuration file \"/kv.toml\" has the unknown key \"max_pin\"",
        ),
        (
            "config = \"x\"",
            "configuration file \"/kv.toml\" has the unknown key \"config\"",
        ),
        (
            "chunk-size = 1",
            "configuration file \"/kv.toml\" has the unknown key \"chunk-size\"",
        ),
        (
            "[pool]\nl1_size_gb = 1",
            "configuration file \"/kv.toml\" has the unknown key \"pool\"",
        ),
        (
            "chunk_size = 1\nchunk_size = 2",
            "configuration file \"/kv.toml\" is not valid TOML at line 2: ",
        ),
        (
            "\n\nchunk_size",
            "configuration file \"/kv.toml\" is not valid TOML at line 3: ",
        ),
        (
            "socket = 5",
            "socket in \"/kv.toml\" is \"5\"; allowed is a string in TOML: a path of ",
        ),
        (
            "socket_mode = 432",
            "socket_mode in \"/kv.toml\" is \"432\"; allowed is a string in TOML: an octal ",
        ),
        (
            "allow_uid = 5",
            "allow_uid in \"/kv.toml\" is \"5\"; allowed is an array of numbers in TOML: a user id",
        ),
        (
            "allow_uid = [\"a\"]",
            "allow_uid in \"/kv.toml\" is \"[\\\"a\\\"]\"; allowed is an array of numbers",
        ),
        (
            "max_pins = true",
            "max_pins in \"/kv.toml\" is \"true\"; allowed is a number in TOML: a whole ",
        ),
        (
            "disable_prometheus = 1",
            "disable_prometheus in \"/kv.toml\" is \"1\"; allowed is a boolean in TOML: yes or no",
        ),
        (
            "log_level = \"LOUD\"",
            "log_level in \"/kv.toml\" is \"LOUD\"; allowed is DEBUG, INFO, WARNING, ",
        ),
    ];
    for (text, start) in cases {
        world.write("/kv.toml", text);
        let sentence = world.sentence(&flags);
        assert!(sentence.starts_with(start), "{sentence}");
    }
}

#[test]
fn settings_that_contradict_each_other_are_refused_with_both_names() {
    let mut world = World::of_a_user();
    let sentence = world.sentence(&["--hugepages", "hugetlb", "--shm-name", "kv"]);
    assert!(
        sentence.starts_with(
            "--hugepages \"hugetlb\" and --shm-name \"/kv\" do not go together: allowed "
        ),
        "{sentence}"
    );
    let sentence = world.sentence(&["--mlock", "--prefault", "no"]);
    assert!(
        sentence.starts_with("--mlock true and --prefault \"no\" do not go together: "),
        "{sentence}"
    );
    world.set("HOSTKV_L1_SIZE_GB", "300");
    let sentence = world.sentence(&["--l1-align-bytes", "64"]);
    assert!(
        sentence.starts_with(
            "HOSTKV_L1_SIZE_GB 300 and --l1-align-bytes 64 do not go together: allowed "
        ),
        "{sentence}"
    );
}
