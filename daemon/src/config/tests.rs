//! Promises of the configuration.

mod refusals;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::setting::{self, Setting, Shape, Sources};
use super::*;
use crate::systemd::listen::ListenError;

/// A world of its own for each test.
#[derive(Default)]
struct World {
    variables: BTreeMap<String, OsString>,
    files: BTreeMap<String, String>,
    is_root: bool,
    passed_socket: Option<PathBuf>,
}

impl World {
    /// A user's world: with a runtime directory that exists.
    fn of_a_user() -> Self {
        let mut world = Self::default();
        world.set("XDG_RUNTIME_DIR", "/run/user/1000");
        world
    }

    fn set(&mut self, name: &str, value: &str) {
        self.variables.insert(name.into(), value.into());
    }

    fn write(&mut self, path: &str, text: &str) {
        self.files.insert(path.into(), text.into());
    }

    fn load(&self, flags: &[&str]) -> Result<Invocation, ConfigError> {
        load(arguments(flags), self)
    }

    fn run(&self, flags: &[&str]) -> Config {
        match self.load(flags) {
            Ok(Invocation::Run(config)) => *config,
            other => panic!("{flags:?}: {other:?}"),
        }
    }

    fn print(&self, flags: &[&str]) -> String {
        match self.load(&[flags, &["--print-config"]].concat()) {
            Ok(Invocation::PrintConfig(text)) => text,
            other => panic!("{flags:?}: {other:?}"),
        }
    }

    fn refusal(&self, flags: &[&str]) -> ConfigError {
        match self.load(flags) {
            Err(error) => error,
            other => panic!("{flags:?} is accepted: {other:?}"),
        }
    }

    fn sentence(&self, flags: &[&str]) -> String {
        let error = self.refusal(flags);
        assert_eq!(error.exit_code(), 2, "{error}");
        let sentence = error.to_string();
        assert!(!sentence.contains('\n'), "{sentence}");
        sentence
    }
}

impl Host for World {
    fn variable(&self, name: &str) -> Option<OsString> {
        self.variables.get(name).cloned()
    }

    fn read_file(&self, path: &Path) -> std::io::Result<String> {
        let found = path.to_str().and_then(|path| self.files.get(path));
        found
            .cloned()
            .ok_or_else(|| std::io::ErrorKind::NotFound.into())
    }

    fn group_id(&self, name: &str) -> std::io::Result<Option<u32>> {
        match name {
            "hostkv" => Ok(Some(990)),
            "broken" => Err(std::io::Error::other("no data base")),
            _ => Ok(None),
        }
    }

    fn has_folder(&self, path: &Path) -> bool {
        path == Path::new("/run/user/1000")
    }

    fn is_root(&self) -> bool {
        self.is_root
    }

    fn passed_socket(&self) -> Result<Option<PathBuf>, ListenError> {
        Ok(self.passed_socket.clone())
    }
}

fn arguments(flags: &[&str]) -> Vec<OsString> {
    ["hostkvd"]
        .iter()
        .chain(flags)
        .map(OsString::from)
        .collect()
}

/// All that a configuration says, without where it came from.
fn content(config: &Config) -> String {
    let mut config = config.clone();
    config.origins = Origins::default();
    config.config_file = None;
    format!("{config:?}")
}

#[test]
fn no_flags_give_the_documented_defaults() {
    let config = World::of_a_user().run(&[]);
    assert_eq!(
        config.socket,
        Path::new("/run/user/1000/hostkv/hostkv.sock")
    );
    let nobody = AccessConfig {
        allow_uids: vec![],
        allow_gids: vec![],
        read_only_uids: vec![],
        untrusted_uids: vec![],
        admin_uids: vec![],
    };
    assert_eq!(config.access, nobody);
    assert_eq!(config.socket_mode, 0o600);
    assert!(!config.socket_mode_was_set);
    assert_eq!(config.socket_group, None);
    let pool = PoolConfig {
        size_bytes: 1 << 30,
        align_bytes: 4096,
        max_objects: 65_536,
        shm_name: None,
        huge_pages: HugePages::Auto,
        numa: None,
        prefault: true,
        start_wait: Duration::from_secs(60),
        is_locked: false,
    };
    assert_eq!(config.pool, pool);
    let eviction = EvictionConfig {
        policy: EvictionPolicy::Lru,
        trigger_watermark: 0.8,
        ratio: 0.2,
    };
    assert_eq!(config.eviction, eviction);
    let tenants = TenantsConfig {
        requires_salt: false,
        keyspace_quota: None,
        zeroes_on_reuse: false,
    };
    assert_eq!(config.tenants, tenants);
    let limits = LimitsConfig {
        write_ttl: None,
        read_ttl: None,
        chunk_size: 256,
        max_sessions: 256,
        max_pins: 65_536,
        max_reserved_ratio: 0.125,
        max_keyspaces: 65_536,
        spin: Duration::ZERO,
    };
    assert_eq!(config.limits, limits);
    let metrics = MetricsConfig {
        host: "127.0.0.1".parse().unwrap(),
        port: 9090,
        log_interval: Duration::from_secs(10),
    };
    assert_eq!(config.metrics, Some(metrics));
    assert_eq!(config.log_level, None);
    assert_eq!(config.config_file, None);
}

#[test]
fn a_flag_beats_the_environment_beats_the_file_beats_the_default() {
    let mut world = World::of_a_user();
    let sessions = |world: &World, flags: &[&str]| world.run(flags).limits.max_sessions;
    assert_eq!(sessions(&world, &[]), 256);
    world.write("/kv.toml", "max_sessions = 3");
    let file = ["--config", "/kv.toml"];
    assert_eq!(sessions(&world, &file), 3);
    world.set("HOSTKV_MAX_SESSIONS", "4");
    assert_eq!(sessions(&world, &file), 4);
    let all = ["--config", "/kv.toml", "--max-sessions", "5"];
    assert_eq!(sessions(&world, &all), 5);
}

#[test]
fn a_list_of_a_stronger_source_replaces_the_weaker_one_whole() {
    let mut world = World::of_a_user();
    world.write("/kv.toml", "allow_uid = [1, 2]");
    let file = ["--config", "/kv.toml"];
    assert_eq!(world.run(&file).access.allow_uids, [1, 2]);
    world.set("HOSTKV_ALLOW_UID", "3, 4,3");
    assert_eq!(world.run(&file).access.allow_uids, [3, 4]);
    let flags = ["--allow-uid", "5", "--allow-uid=6"];
    assert_eq!(world.run(&flags).access.allow_uids, [5, 6]);
    world.set("HOSTKV_ALLOW_UID", "");
    assert_eq!(world.run(&file).access.allow_uids, [0u32; 0]);
}

#[test]
fn the_file_can_be_named_by_the_environment_and_the_flag_wins() {
    let mut world = World::of_a_user();
    world.write("/a.toml", "chunk_size = 1");
    world.write("/b.toml", "chunk_size = 2");
    world.set("HOSTKV_CONFIG", "/a.toml");
    let config = world.run(&[]);
    assert_eq!(config.limits.chunk_size, 1);
    assert_eq!(config.config_file.as_deref(), Some(Path::new("/a.toml")));
    assert_eq!(world.run(&["--config", "/b.toml"]).limits.chunk_size, 2);
}

/// A good value for each setting, other than its default: as flag and variable, in TOML.
const SAMPLES: [(&str, &str, &str); 43] = [
    ("socket", "/srv/kv.sock", "\"/srv/kv.sock\""),
    ("allow-uid", "7", "[7]"),
    ("allow-gid", "8", "[8]"),
    ("socket-group", "hostkv", "\"hostkv\""),
    ("socket-mode", "0666", "\"0666\""),
    ("read-only-uid", "9", "[9]"),
    ("untrusted-uid", "11", "[11]"),
    ("admin-uid", "10", "[10]"),
    ("l1-size-gb", "0.5", "0.5"),
    ("l1-align-bytes", "64", "64"),
    ("max-objects", "1000", "1000"),
    ("shm-name", "/kv", "\"/kv\""),
    ("hugepages", "OFF", "\"off\""),
    ("numa", "BIND:3", "\"bind:3\""),
    ("prefault", "no", "false"),
    ("start-wait", "1.5", "1.5"),
    ("mlock", "yes", "true"),
    ("eviction-policy", "NOOP", "\"noop\""),
    ("eviction-trigger-watermark", "0.9", "0.9"),
    ("eviction-ratio", "1", "1"),
    ("require-salt", "yes", "true"),
    ("keyspace-quota", "0.25", "0.25"),
    ("zero-on-reuse", "yes", "true"),
    ("l1-write-ttl-seconds", "30", "30"),
    ("l1-read-ttl-seconds", "0.5", "0.5"),
    ("chunk-size", "16", "16"),
    ("max-sessions", "1", "1"),
    ("max-pins", "300", "300"),
    ("max-reserved-ratio", "0.25", "0.25"),
    ("max-keyspaces", "5", "5"),
    ("spin-us", "50", "50"),
    ("integrity", "FULL", "\"full\""),
    ("scrub-bytes-per-second", "5000000000", "5000000000"),
    ("sandbox", "OFF", "\"off\""),
    (
        "l2-adapter",
        r#"{"type": "fs", "base_path": "/var/cache/kv"}"#,
        r#"['{"type": "fs", "base_path": "/var/cache/kv"}']"#,
    ),
    ("l2-store-policy", "SKIP_L1", "\"skip_l1\""),
    ("disable-prometheus", "yes", "true"),
    ("prometheus-host", "::1", "\"::1\""),
    ("prometheus-port", "0", "0"),
    ("prometheus-log-interval", "2.5", "2.5"),
    ("enable-telemetry", "yes", "true"),
    ("telemetry-max-queue-size", "2", "2"),
    (
        "telemetry-processor",
        r#"{"type": "logging", "log_level": "INFO"}"#,
        r#"['{"type": "logging", "log_level": "INFO"}']"#,
    ),
];

/// A flag without which a sample is refused.
const BESIDE: (&str, &str) = (
    "l2-store-policy",
    r#"--l2-adapter={"type": "fs", "base_path": "/kv"}"#,
);

fn setting_of(name: &str) -> &'static Setting {
    setting::ALL
        .into_iter()
        .find(|setting| setting.name == name)
        .expect("a sample names a setting")
}

fn flag_of(setting: &Setting, value: &str) -> String {
    match setting.shape {
        Shape::Switch => setting.flag(),
        _ => format!("{}={value}", setting.flag()),
    }
}

#[test]
fn every_setting_has_a_flag_a_variable_and_a_key_with_the_same_meaning() {
    let plain = World::of_a_user();
    for (name, value, toml) in SAMPLES {
        let setting = setting_of(name);
        let beside = (name == BESIDE.0).then_some(BESIDE.1);
        let with = |flags: &[&str]| -> Vec<String> {
            let all = beside.iter().chain(flags);
            all.map(|flag| (*flag).to_owned()).collect()
        };
        let run = |world: &World, flags: &[&str]| {
            let flags = with(flags);
            let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
            content(&world.run(&flags))
        };
        let by_flag = run(&plain, &[&flag_of(setting, value)]);
        assert_ne!(by_flag, run(&plain, &[]), "{name} has no effect");

        let mut world = World::of_a_user();
        world.set(&setting.variable(), value);
        assert_eq!(run(&world, &[]), by_flag, "{name} as a variable");

        let mut world = World::of_a_user();
        world.write("/kv.toml", &format!("{} = {toml}", setting.key()));
        let by_file = run(&world, &["--config", "/kv.toml"]);
        assert_eq!(by_file, by_flag, "{name} as a key");
    }
    let sampled = setting::ALL
        .iter()
        .filter(|setting| setting.sources == Sources::All);
    assert_eq!(
        sampled.count(),
        SAMPLES.len(),
        "every setting has its sample"
    );
}

#[test]
fn print_config_shows_value_and_origin_aligned_under_the_headings() {
    let mut world = World::of_a_user();
    world.set("HOSTKV_MAX_PINS", "512");
    world.write("/etc/kv.toml", "chunk_size = 16\nlog_level = \"debug\"");
    let text = world.print(&["--config", "/etc/kv.toml", "--l1-size-gb", "1.5"]);
    let line = |key: &str| {
        let found = text
            .lines()
            .find(|line| line.trim_start_matches("# ").starts_with(key));
        let words: Vec<_> = found
            .unwrap_or_else(|| panic!("{key}: {text}"))
            .split_whitespace()
            .collect();
        words.join(" ")
    };
    assert_eq!(line("l1_size_gb"), "l1_size_gb = 1.5 # flag");
    assert_eq!(
        line("max_pins"),
        "max_pins = 512 # environment HOSTKV_MAX_PINS"
    );
    assert_eq!(line("chunk_size"), "chunk_size = 16 # file /etc/kv.toml");
    assert_eq!(
        line("log_level"),
        "log_level = \"DEBUG\" # file /etc/kv.toml"
    );
    assert_eq!(line("spin_us"), "spin_us = 0 # default");
    assert_eq!(line("shm_name"), "# shm_name = # default, none");
    assert_eq!(
        line("max_objects"),
        "# max_objects = 65536 # default, follows from l1_size_gb"
    );

    let equals: Vec<_> = text.lines().filter_map(|line| line.find(" = ")).collect();
    assert_eq!(equals.len(), 44, "one line for each setting: {text}");
    assert!(equals.iter().all(|place| *place == equals[0]), "{text}");
    let headings = [
        "Socket and access",
        "Pool",
        "Eviction",
        "Tenants",
        "Limits",
        "Integrity",
        "Process",
        "Tiers",
        "Metrics",
        "Telemetry",
        "Configuration",
    ];
    let places = headings.map(|heading| text.find(&format!("# {heading}\n")).expect(heading));
    assert!(places.is_sorted(), "{text}");
}

#[test]
fn printed_configuration_given_back_as_a_file_is_the_same_configuration() {
    let all: Vec<_> = SAMPLES
        .iter()
        .map(|(name, value, _)| flag_of(setting_of(name), value))
        .collect();
    let one_each = SAMPLES.iter().zip(&all).map(|((name, _, _), flag)| {
        let beside = (*name == BESIDE.0).then_some(BESIDE.1);
        beside
            .into_iter()
            .chain([flag.as_str()])
            .collect::<Vec<_>>()
    });
    // It does not go together with --prefault no.
    let together = all.iter().map(String::as_str);
    let together = together.filter(|flag| *flag != "--mlock").collect();
    for flags in one_each.chain([vec![], together, vec!["--socket=/a \"b\"\\\n#c"]]) {
        let mut world = World::of_a_user();
        let printed = world.print(&flags);
        let before = content(&world.run(&flags));
        world.write("/printed.toml", &printed);
        let after = content(&world.run(&["--config", "/printed.toml"]));
        assert_eq!(after, before, "{flags:?}\n{printed}");
    }
}

#[test]
fn the_payload_is_counted_by_32_bits_of_its_alignment() {
    let world = World::of_a_user();
    let at = |size: &str| world.load(&["--l1-align-bytes", "64", "--l1-size-gb", size]);
    assert!(
        at("255.998046875").is_ok(),
        "2^32 units less one step of 2 MiB"
    );
    assert!(at("256").is_err(), "2^32 units");
}

#[test]
fn the_payload_is_rounded_up_to_two_mebibytes() {
    let world = World::of_a_user();
    let bytes = |size: &str| {
        world
            .run(&["--l1-align-bytes=2097152", "--l1-size-gb", size])
            .pool
            .size_bytes
    };
    assert_eq!(bytes("0.000000001"), 2 << 20);
    assert_eq!(bytes("0.001953125"), 2 << 20);
    assert_eq!(bytes("0.0019531251"), 4 << 20);
    assert_eq!(bytes("1.5"), 3 << 29);
    assert_eq!(bytes("131072"), 1 << 47);
}

#[test]
fn the_index_follows_from_the_payload_within_its_bounds() {
    let world = World::of_a_user();
    let objects = |size: &str| {
        world
            .run(&["--l1-align-bytes=2097152", "--l1-size-gb", size])
            .pool
            .max_objects
    };
    assert_eq!(objects("0.1"), 65_536);
    assert_eq!(objects("8"), 131_072);
    assert_eq!(objects("131072"), 16 << 20);
}

#[test]
fn a_segment_name_has_one_leading_slash_and_at_most_255_bytes() {
    let world = World::of_a_user();
    let name = |text: &str| world.run(&["--shm-name", text]).pool.shm_name;
    assert_eq!(name("kv").as_deref(), Some("/kv"));
    assert_eq!(name("/kv").as_deref(), Some("/kv"));
    let longest = "n".repeat(254);
    assert_eq!(name(&longest), Some(format!("/{longest}")));
    assert!(world.load(&["--shm-name", &"n".repeat(255)]).is_err());
}

#[test]
fn a_time_to_live_of_zero_is_none() {
    let world = World::of_a_user();
    let config = world.run(&[
        "--l1-write-ttl-seconds",
        "0",
        "--l1-read-ttl-seconds",
        "0.25",
    ]);
    assert_eq!(config.limits.write_ttl, None);
    assert_eq!(config.limits.read_ttl, Some(Duration::from_millis(250)));
}

#[test]
fn a_passed_socket_says_where_and_another_path_is_refused() {
    let mut world = World {
        passed_socket: Some("/run/hostkv/hostkv.sock".into()),
        ..World::default()
    };
    // Not even a folder for a socket of its own is needed.
    let config = world.run(&[]);
    assert_eq!(config.socket, Path::new("/run/hostkv/hostkv.sock"));
    let print = world.print(&[]);
    assert!(
        print.contains("# socket of the service manager\n"),
        "{print}"
    );
    world.run(&["--socket", "/run/hostkv/hostkv.sock"]);
    world.set("HOSTKV_SOCKET", "/tmp/x.sock");
    let sentence = world.sentence(&[]);
    for part in ["HOSTKV_SOCKET", "/tmp/x.sock", "/run/hostkv/hostkv.sock"] {
        assert!(sentence.contains(part), "{sentence}");
    }
}

#[test]
fn the_socket_goes_into_the_runtime_directory_of_service_user_or_root() {
    let mut world = World::default();
    let error = world.refusal(&[]);
    assert_eq!(error.exit_code(), 1);
    assert!(error.to_string().contains("give --socket PATH"), "{error}");
    assert_eq!(
        world.run(&["--socket", "kv.sock"]).socket,
        Path::new("kv.sock")
    );

    world.is_root = true;
    let place = |world: &World| world.run(&[]).socket.display().to_string();
    assert_eq!(place(&world), "/run/hostkv/hostkv.sock");
    world.set("XDG_RUNTIME_DIR", "/run/user/7");
    assert_eq!(
        place(&world),
        "/run/hostkv/hostkv.sock",
        "that folder is not there"
    );
    world.set("XDG_RUNTIME_DIR", "/run/user/1000");
    assert_eq!(place(&world), "/run/user/1000/hostkv/hostkv.sock");
    world.set("RUNTIME_DIRECTORY", "");
    assert_eq!(place(&world), "/run/user/1000/hostkv/hostkv.sock");
    world.set("RUNTIME_DIRECTORY", "/run/a:/run/b");
    assert_eq!(place(&world), "/run/a/hostkv.sock");
}

#[test]
fn the_payload_has_a_trusted_writer_unless_each_who_may_write_is_named_untrusted() {
    let world = World::of_a_user();
    let trusts = |flags: &[&str]| world.run(flags).access.has_trusted_writer(500);
    assert!(trusts(&[]));
    assert!(trusts(&["--untrusted-uid", "500"]), "root may write");
    let nobody = ["--untrusted-uid", "500", "--untrusted-uid", "0"];
    assert!(!trusts(&nobody));
    assert!(!trusts(&[&nobody[..], &["--read-only-uid", "7"]].concat()));
    for one in [
        ["--allow-uid", "7"],
        ["--admin-uid", "7"],
        ["--allow-gid", "7"],
    ] {
        assert!(trusts(&[&nobody[..], &one].concat()), "{one:?}");
    }
}

#[test]
fn a_socket_path_has_the_107_bytes_of_the_kernel() {
    let world = World::of_a_user();
    let longest = format!("/{}", "k".repeat(106));
    let flags = ["--socket", &longest];
    assert_eq!(world.run(&flags).socket, Path::new(&longest));
}

#[test]
fn a_socket_group_opens_the_socket_to_its_members() {
    let world = World::of_a_user();
    let config = world.run(&["--socket-group", "hostkv", "--allow-gid", "5"]);
    let group = SocketGroup {
        name: "hostkv".into(),
        gid: 990,
    };
    assert_eq!(config.socket_group, Some(group));
    assert_eq!(config.access.allow_gids, [5, 990]);
    assert_eq!(config.socket_mode, 0o660);
    assert!(!config.socket_mode_was_set);
    let config = world.run(&["--socket-group", "hostkv", "--socket-mode", "0600"]);
    assert_eq!(
        (config.socket_mode, config.socket_mode_was_set),
        (0o600, true)
    );
    let sentence = world.sentence(&["--socket-group", "broken"]);
    assert!(
        sentence.starts_with("--socket-group is \"broken\", and looking up "),
        "{sentence}"
    );
}

#[test]
fn help_and_version_are_texts_that_end_well() {
    let world = World::of_a_user();
    let text = |flag| match world.load(&[flag]) {
        Ok(Invocation::Text(text)) => text,
        other => panic!("{other:?}"),
    };
    assert_eq!(
        text("--version"),
        format!("hostkvd {}\n", env!("CARGO_PKG_VERSION"))
    );
    let help = text("--help");
    for setting in setting::ALL
        .iter()
        .filter(|setting| setting.sources != Sources::FileOnly)
    {
        assert!(help.contains(&setting.flag()), "{}", setting.name);
    }
    let headings = [
        "Socket and access:",
        "Pool:",
        "Eviction:",
        "Tenants:",
        "Limits:",
        "Metrics:",
        "Configuration:",
    ];
    let places = headings.map(|heading| help.find(heading).expect(heading));
    assert!(places.is_sorted(), "{help}");
}

#[test]
fn rereading_takes_over_level_eviction_access_and_quotas_and_names_the_rest() {
    let mut world = World::of_a_user();
    world.write("/kv.toml", "l1_size_gb = 1");
    let flags = [
        "--config",
        "/kv.toml",
        "--max-pins",
        "512",
        "--socket-group",
        "hostkv",
    ];
    let config = world.run(&flags);
    let (same, changed, kept) = reload_from(&config, &world).unwrap();
    assert_eq!(content(&same), content(&config));
    assert_eq!((changed.len(), kept.len()), (0, 0));

    world.write(
        "/kv.toml",
        "l1_size_gb = 16\nlog_level = \"debug\"\neviction_trigger_watermark = 0.5\neviction_ratio = 0.1\n\
         allow_uid = [1]\nallow_gid = [2]\nread_only_uid = [3]\nuntrusted_uid = [5]\nadmin_uid = [4]\nmax_pins = 1024\n\
         max_reserved_ratio = 0.2\nmax_keyspaces = 7\nmax_sessions = 8\nspin_us = 9\nshm_name = \"kv\"\n",
    );
    // What the process did not start with does not count.
    world.set("HOSTKV_MAX_SESSIONS", "99");
    let (next, changed, kept) = reload_from(&config, &world).unwrap();
    assert_eq!(next.log_level.as_deref(), Some("DEBUG"));
    assert_eq!(
        (next.eviction.trigger_watermark, next.eviction.ratio),
        (0.5, 0.1)
    );
    assert_eq!(next.access.allow_uids, [1]);
    assert_eq!(next.access.allow_gids, [2, 990]);
    assert_eq!(next.access.read_only_uids, [3]);
    assert_eq!(next.access.untrusted_uids, [5]);
    assert_eq!(next.access.admin_uids, [4]);
    let limits = &next.limits;
    assert_eq!(
        (
            limits.max_reserved_ratio,
            limits.max_keyspaces,
            limits.max_sessions
        ),
        (0.2, 7, 8)
    );
    assert_eq!(limits.max_pins, 512, "the flag still wins");
    assert_eq!(limits.spin, Duration::ZERO);
    assert_eq!(next.pool, config.pool);
    assert_eq!(changed.len(), 11, "{changed:?}");
    assert!(
        changed.contains(&"max_sessions is now 8, was 256".into()),
        "{changed:?}"
    );
    assert!(
        changed.contains(&"log_level is now \"DEBUG\", was none".into()),
        "{changed:?}"
    );
    let stays = [
        "l1_size_gb stays 1, because 16 needs a restart",
        "shm_name stays none, because \"/kv\" needs a restart",
        "spin_us stays 0, because 9 needs a restart",
    ];
    assert_eq!(kept, stays);

    // A second reading says again what waits for a restart, and changes nothing.
    let (_, changed, kept) = reload_from(&next, &world).unwrap();
    assert_eq!((changed.len(), kept.len()), (0, 3));
}

#[test]
fn rereading_looks_no_group_up_and_keeps_that_of_the_socket() {
    let mut world = World::of_a_user();
    world.write("/kv.toml", "socket_group = \"hostkv\"");
    let config = world.run(&["--config", "/kv.toml"]);
    // A lookup of this one fails.
    world.write("/kv.toml", "socket_group = \"broken\"");
    let (next, changed, kept) = reload_from(&config, &world).unwrap();
    assert_eq!(next.socket_group, config.socket_group);
    assert_eq!(next.access.allow_gids, [990]);
    assert_eq!(changed.len(), 0);
    assert_eq!(
        kept,
        ["socket_group stays \"hostkv\", because \"broken\" needs a restart"]
    );
}

#[test]
fn rereading_a_bad_file_is_an_error_and_leaves_the_current_configuration() {
    let mut world = World::of_a_user();
    world.write("/kv.toml", "max_pins = 512");
    let config = world.run(&["--config", "/kv.toml"]);
    world.write("/kv.toml", "max_pins = 1");
    let error = reload_from(&config, &world).unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("max_pins in \"/kv.toml\" is \"1\"; allowed is"),
        "{error}"
    );
    assert_eq!(config.limits.max_pins, 512);
}

#[test]
fn the_real_world_reads_files_and_knows_groups() {
    use super::source::Process;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("kv.toml");
    std::fs::write(&path, "chunk_size = 5").unwrap();
    assert_eq!(Process.read_file(&path).unwrap(), "chunk_size = 5");
    assert!(Process.has_folder(folder.path()));
    assert!(!Process.has_folder(&path));
    assert_eq!(Process.group_id("root").unwrap(), Some(0));
    assert_eq!(Process.group_id("hostkv-no-such-group").unwrap(), None);
}
