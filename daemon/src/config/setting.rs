//! The one list of settings.
//!
//! Each setting is written down once, here. From this list come the flags and their help, the
//! environment variables, the keys of the file and the lines of `--print-config`, so that no
//! source can know a setting that another one lacks.
//!
//! ```text
//!   Setting "l1-size-gb" ──┬─> --l1-size-gb F        flag
//!                          ├─> HOSTKV_L1_SIZE_GB     environment
//!                          └─> l1_size_gb = F        file, --print-config
//! ```

use clap::{Arg, ArgAction, Command};

/// What a setting's value looks like, on the command line and in TOML.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// A string.
    Text,
    /// An integer or a float.
    Number,
    /// `yes` or `no`; in TOML also a boolean.
    YesNo,
    /// A flag without a value; yes or no in the environment, a boolean in TOML.
    Switch,
    /// A flag that may be repeated; comma-separated in the environment, an array in TOML.
    Numbers,
    /// A flag that may be repeated; one a line in the environment, an array of strings in TOML.
    Texts,
}

/// Which sources may give a setting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sources {
    /// Flag, environment and file.
    All,
    /// Flag and environment: the name of the file itself.
    NotFile,
    /// The file alone.
    FileOnly,
}

/// One setting: its names, its help and its form.
#[derive(Debug)]
pub(super) struct Setting {
    /// Name of the flag without its dashes.
    pub(super) name: &'static str,
    /// What stands for the value in the help.
    pub(super) placeholder: &'static str,
    /// Group in the help.
    pub(super) heading: &'static str,
    /// One line of help, with the default.
    pub(super) help: &'static str,
    /// What a value is, as the end of the sentence "allowed is".
    pub(super) allowed: &'static str,
    /// Form of the value.
    pub(super) shape: Shape,
    /// Who may give it.
    pub(super) sources: Sources,
    /// Whether SIGHUP may change it in a running daemon.
    pub(super) is_reloadable: bool,
}

impl Setting {
    const fn new(
        name: &'static str,
        placeholder: &'static str,
        shape: Shape,
        heading: &'static str,
        help: &'static str,
        allowed: &'static str,
    ) -> Self {
        Self {
            name,
            placeholder,
            heading,
            help,
            allowed,
            shape,
            sources: Sources::All,
            is_reloadable: false,
        }
    }

    const fn reloadable(mut self) -> Self {
        self.is_reloadable = true;
        self
    }

    const fn only(mut self, sources: Sources) -> Self {
        self.sources = sources;
        self
    }

    /// The flag with its dashes.
    pub(super) fn flag(&self) -> String {
        format!("--{}", self.name)
    }

    /// The environment variable.
    pub(super) fn variable(&self) -> String {
        format!("HOSTKV_{}", self.key().to_uppercase())
    }

    /// The key in the file.
    pub(super) fn key(&self) -> String {
        self.name.replace('-', "_")
    }
}

const ACCESS: &str = "Socket and access";
const POOL: &str = "Pool";
const EVICTION: &str = "Eviction";
const TENANTS: &str = "Tenants";
const LIMITS: &str = "Limits";
const TIERS: &str = "Tiers";
const INTEGRITY_HEADING: &str = "Integrity";
const PROCESS: &str = "Process";
const METRICS: &str = "Metrics";
const TELEMETRY: &str = "Telemetry";
const CONFIGURATION: &str = "Configuration";

const USER_ID: &str = "a user id, a whole number from 0 to 4294967294";
const GROUP_ID: &str = "a group id, a whole number from 0 to 4294967294";
const RATIO: &str = "a number from 0 to 1";
const TTL_SECONDS: &str = "0, or a number of seconds from 0.001 to 4294967295";

pub(super) static SOCKET: Setting = Setting::new(
    "socket",
    "PATH",
    Shape::Text,
    ACCESS,
    "Unix socket to serve on [default: hostkv.sock in the first entry of $RUNTIME_DIRECTORY, else in $XDG_RUNTIME_DIR/hostkv, else, for root, in /run/hostkv]",
    "a path of 1 to 107 bytes that ends in a file name",
);
pub(super) static ALLOW_UID: Setting = Setting::new(
    "allow-uid",
    "N",
    Shape::Numbers,
    ACCESS,
    "User that may open sessions besides the daemon's own (repeatable)",
    USER_ID,
)
.reloadable();
pub(super) static ALLOW_GID: Setting = Setting::new(
    "allow-gid",
    "N",
    Shape::Numbers,
    ACCESS,
    "Group whose members may open sessions (repeatable)",
    GROUP_ID,
)
.reloadable();
pub(super) static SOCKET_GROUP: Setting = Setting::new(
    "socket-group",
    "G",
    Shape::Text,
    ACCESS,
    "Group that owns the socket and may open sessions",
    "the name of a group of this host",
);
pub(super) static SOCKET_MODE: Setting = Setting::new(
    "socket-mode",
    "M",
    Shape::Text,
    ACCESS,
    "Mode of the socket file, octal [default: 0600, 0660 with --socket-group]",
    "an octal file mode from 0000 to 0777",
);
pub(super) static READ_ONLY_UID: Setting = Setting::new(
    "read-only-uid",
    "N",
    Shape::Numbers,
    ACCESS,
    "User that may only read, whatever else names it (repeatable)",
    USER_ID,
)
.reloadable();
pub(super) static UNTRUSTED_UID: Setting = Setting::new(
    "untrusted-uid",
    "N",
    Shape::Numbers,
    ACCESS,
    "User that may write, but only into a staging segment of its own that the daemon copies from (repeatable)",
    USER_ID,
)
.reloadable();
pub(super) static ADMIN_UID: Setting = Setting::new(
    "admin-uid",
    "N",
    Shape::Numbers,
    ACCESS,
    "User that may clear, list, audit and reload, besides the daemon's own and root (repeatable)",
    USER_ID,
)
.reloadable();

pub(super) static L1_SIZE_GB: Setting = Setting::new(
    "l1-size-gb",
    "F",
    Shape::Number,
    POOL,
    "Size of the payload in GiB, rounded up to 2 MiB [default: 1]",
    "a number above 0 and at most 131072 (GiB)",
);
pub(super) static L1_ALIGN_BYTES: Setting = Setting::new(
    "l1-align-bytes",
    "N",
    Shape::Number,
    POOL,
    "Alignment of every extent [default: 4096]",
    "a power of two from 64 to 2097152",
);
pub(super) static MAX_OBJECTS: Setting = Setting::new(
    "max-objects",
    "N",
    Shape::Number,
    POOL,
    "Size of the index in objects [default: one for each 64 KiB of the payload, within 65536 to 16777216]",
    "a whole number from 1 to 134217728",
);
pub(super) static SHM_NAME: Setting = Setting::new(
    "shm-name",
    "NAME",
    Shape::Text,
    POOL,
    "Named POSIX segment for the payload instead of a sealed memfd",
    "a name of 1 to 254 bytes, with or without one leading slash and without any other",
);
pub(super) static HUGEPAGES: Setting = Setting::new(
    "hugepages",
    "auto|off|hugetlb",
    Shape::Text,
    POOL,
    "Pages of the payload [default: auto]",
    "auto, off or hugetlb",
);
pub(super) static NUMA: Setting = Setting::new(
    "numa",
    "interleave|bind:N",
    Shape::Text,
    POOL,
    "Nodes whose memory the payload takes: all in turn, or one [default: as the kernel chooses]",
    "interleave, or bind:N with the number of a node from 0 to 1023",
);
pub(super) static PREFAULT: Setting = Setting::new(
    "prefault",
    "yes|no",
    Shape::YesNo,
    POOL,
    "Be ready only when every page is there; no is for tests [default: yes]",
    "yes or no",
);
pub(super) static START_WAIT: Setting = Setting::new(
    "start-wait",
    "N",
    Shape::Number,
    POOL,
    "Seconds to wait for memory that an earlier pool still holds [default: 60]",
    "a number of seconds from 0 to 86400",
);

pub(super) static MLOCK: Setting = Setting::new(
    "mlock",
    "",
    Shape::Switch,
    POOL,
    "Lock payload and index in memory, so that they are never swapped out; needs as much RLIMIT_MEMLOCK",
    "yes or no",
);

pub(super) static EVICTION_POLICY: Setting = Setting::new(
    "eviction-policy",
    "LRU|noop",
    Shape::Text,
    EVICTION,
    "What makes room [default: LRU]",
    "LRU or noop",
);
pub(super) static EVICTION_TRIGGER_WATERMARK: Setting = Setting::new(
    "eviction-trigger-watermark",
    "F",
    Shape::Number,
    EVICTION,
    "Share of the payload, or of the index, in use at which eviction starts [default: 0.8]",
    RATIO,
)
.reloadable();
pub(super) static EVICTION_RATIO: Setting = Setting::new(
    "eviction-ratio",
    "F",
    Shape::Number,
    EVICTION,
    "Share of what is used that one pass frees [default: 0.2]",
    RATIO,
)
.reloadable();

pub(super) static REQUIRE_SALT: Setting = Setting::new(
    "require-salt",
    "",
    Shape::Switch,
    TENANTS,
    "Refuse keyspaces without a cache salt, instead of letting all who give none share one",
    "yes or no",
);
pub(super) static KEYSPACE_QUOTA: Setting = Setting::new(
    "keyspace-quota",
    "F",
    Shape::Number,
    TENANTS,
    "Share of the payload that one keyspace may use; at its quota it evicts its own objects, and no others [default: 1, no quota]",
    "a number above 0 and at most 1",
);

pub(super) static ZERO_ON_REUSE: Setting = Setting::new(
    "zero-on-reuse",
    "",
    Shape::Switch,
    TENANTS,
    "Zero every extent that is given back before anybody gets it again",
    "yes or no",
);

pub(super) static L1_WRITE_TTL_SECONDS: Setting = Setting::new(
    "l1-write-ttl-seconds",
    "N",
    Shape::Number,
    LIMITS,
    "Life of a reservation; 0 = while its process lives [default: 0]",
    TTL_SECONDS,
);
pub(super) static L1_READ_TTL_SECONDS: Setting = Setting::new(
    "l1-read-ttl-seconds",
    "N",
    Shape::Number,
    LIMITS,
    "Life of a lease; 0 = while its process lives [default: 0]",
    TTL_SECONDS,
);
pub(super) static CHUNK_SIZE: Setting = Setting::new(
    "chunk-size",
    "N",
    Shape::Number,
    LIMITS,
    "Tokens per key unless the keyspace says otherwise [default: 256]",
    "a whole number from 1 to 4294967295",
);
pub(super) static MAX_SESSIONS: Setting = Setting::new(
    "max-sessions",
    "N",
    Shape::Number,
    LIMITS,
    "Sessions at one time [default: 256]",
    "a whole number from 1 to 65536",
)
.reloadable();
pub(super) static MAX_PINS: Setting = Setting::new(
    "max-pins",
    "N",
    Shape::Number,
    LIMITS,
    "The largest pin slot count a session may ask [default: 65536]",
    "a whole number from 256 to 1048576",
)
.reloadable();
pub(super) static MAX_RESERVED_RATIO: Setting = Setting::new(
    "max-reserved-ratio",
    "F",
    Shape::Number,
    LIMITS,
    "Share of the payload that one session may hold reserved [default: 0.125]",
    "a number from 0 to 0.5",
)
.reloadable();
pub(super) static MAX_KEYSPACES: Setting = Setting::new(
    "max-keyspaces",
    "N",
    Shape::Number,
    LIMITS,
    "Keyspaces in the daemon [default: 65536]",
    "a whole number from 1 to 1048576",
)
.reloadable();
pub(super) static SPIN_US: Setting = Setting::new(
    "spin-us",
    "N",
    Shape::Number,
    LIMITS,
    "Microseconds to spin before the loop sleeps [default: 0]",
    "a whole number from 0 to 50",
);

pub(super) static INTEGRITY: Setting = Setting::new(
    "integrity",
    "off|sampled|full",
    Shape::Text,
    INTEGRITY_HEADING,
    "Checksums of objects: none; made in the background and compared by readers for one object in 64; made before an object can be read and compared for every one [default: sampled]",
    "off, sampled or full",
);
pub(super) static SCRUB_BYTES_PER_SECOND: Setting = Setting::new(
    "scrub-bytes-per-second",
    "N",
    Shape::Number,
    INTEGRITY_HEADING,
    "Payload bytes a second that are read in the background to make and compare checksums; 0 = none [default: 67108864]",
    "a whole number from 0 to 1099511627776",
);

pub(super) static SANDBOX: Setting = Setting::new(
    "sandbox",
    "on|off",
    Shape::Text,
    PROCESS,
    "Whether the daemon, once started, gives up every file, port and system call that it does not need (landlock, seccomp) [default: on]",
    "on or off",
);

pub(super) static L2_ADAPTER: Setting = Setting::new(
    "l2-adapter",
    "JSON",
    Shape::Texts,
    TIERS,
    "A tier behind L1, as {\"type\": \"fs\", \"base_path\": \"/var/cache/hostkv\"}: fs, resp, s3 or fault_inject (repeatable, in order of preference)",
    "a JSON object with a type",
);
pub(super) static L2_STORE_POLICY: Setting = Setting::new(
    "l2-store-policy",
    "default|skip_l1",
    Shape::Text,
    TIERS,
    "What becomes of an object in L1 once a tier holds it: default keeps it until it is evicted, skip_l1 takes it out [default: default]",
    "default or skip_l1",
);

pub(super) static DISABLE_PROMETHEUS: Setting = Setting::new(
    "disable-prometheus",
    "",
    Shape::Switch,
    METRICS,
    "Serve no metrics over HTTP",
    "yes or no",
);
pub(super) static PROMETHEUS_HOST: Setting = Setting::new(
    "prometheus-host",
    "ADDRESS",
    Shape::Text,
    METRICS,
    "Address to serve metrics on; 0.0.0.0 lets other hosts scrape [default: 127.0.0.1]",
    "an IP address, as 127.0.0.1, 0.0.0.0 or ::1",
);
pub(super) static PROMETHEUS_PORT: Setting = Setting::new(
    "prometheus-port",
    "N",
    Shape::Number,
    METRICS,
    "Port to serve metrics on; 0 picks a free one [default: 9090]",
    "a whole number from 0 to 65535",
);
pub(super) static PROMETHEUS_LOG_INTERVAL: Setting = Setting::new(
    "prometheus-log-interval",
    "F",
    Shape::Number,
    METRICS,
    "Seconds between folds of the workers' counters [default: 10.0]",
    "a number of seconds from 0.01 to 86400",
);

pub(super) static ENABLE_TELEMETRY: Setting = Setting::new(
    "enable-telemetry",
    "",
    Shape::Switch,
    TELEMETRY,
    "Give START and END events of lookup, store and retrieve to the processors",
    "yes or no",
);
pub(super) static TELEMETRY_MAX_QUEUE_SIZE: Setting = Setting::new(
    "telemetry-max-queue-size",
    "N",
    Shape::Number,
    TELEMETRY,
    "Most events that wait for the processors; the newest is dropped [default: 10000]",
    "a whole number from 2 to 100000000",
);
pub(super) static TELEMETRY_PROCESSOR: Setting = Setting::new(
    "telemetry-processor",
    "JSON",
    Shape::Texts,
    TELEMETRY,
    "A processor of events, as {\"type\": \"logging\", \"log_level\": \"INFO\"} (repeatable, in order; checked also without --enable-telemetry)",
    "a JSON object with a type",
);

pub(super) static CONFIG: Setting = Setting::new(
    "config",
    "FILE",
    Shape::Text,
    CONFIGURATION,
    "TOML file with any of these settings, keys as the flags with underscores, and log_level",
    "the path of a TOML file",
)
.only(Sources::NotFile);
pub(super) static LOG_LEVEL: Setting = Setting::new(
    "log-level",
    "",
    Shape::Text,
    CONFIGURATION,
    "",
    "DEBUG, INFO, WARNING, ERROR or CRITICAL",
)
.only(Sources::FileOnly)
.reloadable();

/// All settings, in the order of the help.
pub(super) static ALL: [&Setting; 45] = [
    &SOCKET,
    &ALLOW_UID,
    &ALLOW_GID,
    &SOCKET_GROUP,
    &SOCKET_MODE,
    &READ_ONLY_UID,
    &UNTRUSTED_UID,
    &ADMIN_UID,
    &L1_SIZE_GB,
    &L1_ALIGN_BYTES,
    &MAX_OBJECTS,
    &SHM_NAME,
    &HUGEPAGES,
    &NUMA,
    &PREFAULT,
    &START_WAIT,
    &MLOCK,
    &EVICTION_POLICY,
    &EVICTION_TRIGGER_WATERMARK,
    &EVICTION_RATIO,
    &REQUIRE_SALT,
    &KEYSPACE_QUOTA,
    &ZERO_ON_REUSE,
    &L1_WRITE_TTL_SECONDS,
    &L1_READ_TTL_SECONDS,
    &CHUNK_SIZE,
    &MAX_SESSIONS,
    &MAX_PINS,
    &MAX_RESERVED_RATIO,
    &MAX_KEYSPACES,
    &SPIN_US,
    &INTEGRITY,
    &SCRUB_BYTES_PER_SECOND,
    &SANDBOX,
    &L2_ADAPTER,
    &L2_STORE_POLICY,
    &DISABLE_PROMETHEUS,
    &PROMETHEUS_HOST,
    &PROMETHEUS_PORT,
    &PROMETHEUS_LOG_INTERVAL,
    &ENABLE_TELEMETRY,
    &TELEMETRY_MAX_QUEUE_SIZE,
    &TELEMETRY_PROCESSOR,
    &LOG_LEVEL,
    &CONFIG,
];

/// Name of the switch that prints the configuration and ends.
pub(super) const PRINT_CONFIG: &str = "print-config";

/// The command line: one argument for each setting, and the three that only print.
///
/// The values stay texts here: their meaning is checked by one piece of code for all sources.
pub(super) fn command() -> Command {
    let mut command = Command::new("hostkvd")
        .version(env!("CARGO_PKG_VERSION"))
        .about("Owner of the KV-cache pool of this host")
        .after_help(
            "Every flag has an environment variable, --l1-size-gb is HOSTKV_L1_SIZE_GB, and a key in \
             the file, l1_size_gb. A flag beats the environment, the environment beats the file. A \
             repeatable flag is a comma-separated list in the environment (of processors and tiers, one a line) \
             and an array in the file.",
        )
        .disable_help_flag(true)
        .disable_version_flag(true);
    for setting in ALL {
        if setting.sources == Sources::FileOnly {
            continue;
        }
        let argument = Arg::new(setting.name)
            .long(setting.name)
            .help(setting.help)
            .help_heading(setting.heading);
        command = command.arg(match setting.shape {
            Shape::Switch => argument.action(ArgAction::SetTrue),
            Shape::Numbers | Shape::Texts => argument
                .action(ArgAction::Append)
                .value_name(setting.placeholder)
                .allow_negative_numbers(true),
            Shape::Text | Shape::Number | Shape::YesNo => argument
                .action(ArgAction::Set)
                .value_name(setting.placeholder)
                .allow_negative_numbers(true),
        });
    }
    command
        .arg(
            Arg::new(PRINT_CONFIG)
                .long(PRINT_CONFIG)
                .action(ArgAction::SetTrue)
                .help("Show each setting, its value and where it comes from, as TOML, and end")
                .help_heading(CONFIGURATION),
        )
        .arg(
            Arg::new("help")
                .short('h')
                .long("help")
                .action(ArgAction::Help)
                .help("Show this help and end")
                .help_heading(CONFIGURATION),
        )
        .arg(
            Arg::new("version")
                .short('V')
                .long("version")
                .action(ArgAction::Version)
                .help("Show the version and end")
                .help_heading(CONFIGURATION),
        )
}
