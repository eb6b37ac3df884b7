//! The configuration of the daemon: flags, environment, file, defaults.
//!
//! `main` calls [`from_process`] before anything else exists; the loop calls [`reload`] on SIGHUP.
//! Both run on the main thread. What comes out is checked whole: no later part of the daemon has to
//! ask again whether a number is in range.
//!
//! ```text
//!   setting   the one list: names, help, form, allowed values
//!      │
//!   source    flags, environment and file as texts; the strongest wins
//!      │
//!   check     text -> value, or the sentence that refuses it
//!      │
//!   resolve   defaults, rules between settings ──> Config
//!      │
//!   print     --print-config, differences at SIGHUP
//! ```
//!
//! [`document`] gives the same list to the manual pages.
//!
//! A refused configuration is a [`ConfigError`]: one sentence that names the setting, the value and
//! what is allowed.

mod check;
pub mod document;
mod error;
mod print;
mod resolve;
mod setting;
mod source;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

pub use error::ConfigError;
pub use source::Host;

use crate::tiers::AdapterSpec;
use print::Shown;
use source::{CommandLine, Layers};

/// What the process was started for.
#[derive(Debug)]
pub enum Invocation {
    /// To serve.
    Run(Box<Config>),
    /// To print the configuration, which this is, and end with exit code 0.
    PrintConfig(String),
    /// To print help or version, which this is, and end with exit code 0.
    Text(String),
}

/// A checked configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// Path of the Unix socket.
    pub socket: PathBuf,
    /// Who may do what.
    pub access: AccessConfig,
    /// File mode of the socket.
    pub socket_mode: u32,
    /// Group that owns the socket.
    pub socket_group: Option<SocketGroup>,
    /// Whether the mode was asked for, rather than the default.
    pub socket_mode_was_set: bool,
    /// The payload and the index.
    pub pool: PoolConfig,
    /// Which objects have sums, and when.
    pub integrity: Integrity,
    /// Payload bytes that scrubber and first sums may read in a second; 0 = none.
    pub scrub_bytes_per_second: u64,
    /// How room is made.
    pub eviction: EvictionConfig,
    /// What keeps tenants apart.
    pub tenants: TenantsConfig,
    /// What sessions may hold, and for how long.
    pub limits: LimitsConfig,
    /// Whether the process closes itself in once it has started.
    pub is_sandboxed: bool,
    /// The tiers behind L1.
    pub tiers: TiersConfig,
    /// The HTTP endpoint; `None` = disabled.
    pub metrics: Option<MetricsConfig>,
    /// Events for the processors.
    pub telemetry: TelemetryConfig,
    /// Log level of the file, in capitals. `LMCACHE_LOG_LEVEL` goes before it.
    pub log_level: Option<String>,
    /// The file that was read.
    pub config_file: Option<PathBuf>,
    /// What [`reload`] needs.
    origins: Origins,
}

impl Config {
    /// Every setting as it came out: its key, its value as TOML (empty = none) and where that comes from, in the order
    /// of the help.
    pub fn settings(&self) -> impl Iterator<Item = (String, String, String)> + '_ {
        self.origins.shown.iter().map(Shown::described)
    }
}

/// The group of the socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SocketGroup {
    /// Its name as it was given.
    pub name: String,
    /// Its number.
    pub gid: u32,
}

/// Who may do what. The daemon's own uid and root have their rights without being listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessConfig {
    /// Users that may open sessions.
    pub allow_uids: Vec<u32>,
    /// Groups whose members may open sessions, the socket's group among them.
    pub allow_gids: Vec<u32>,
    /// Users that may only read, whatever else names them.
    pub read_only_uids: Vec<u32>,
    /// Users that may write, but never into the payload itself.
    pub untrusted_uids: Vec<u32>,
    /// Users that may clear, list, audit and reload.
    pub admin_uids: Vec<u32>,
}

impl AccessConfig {
    /// Whether anybody may map the payload writable, given the daemon's own user.
    pub fn has_trusted_writer(&self, own_uid: u32) -> bool {
        let is_trusted =
            |uid: &u32| !self.untrusted_uids.contains(uid) && !self.read_only_uids.contains(uid);
        let named = self.allow_uids.iter().chain(&self.admin_uids);
        // Members of a group can't be told beforehand.
        !self.allow_gids.is_empty() || [own_uid, 0].iter().chain(named).any(is_trusted)
    }
}

/// The payload and the index.
#[derive(Clone, Debug, PartialEq)]
pub struct PoolConfig {
    /// Size of the payload, a multiple of 2 MiB.
    pub size_bytes: u64,
    /// Alignment of extents, a power of two from 64 to 2 MiB.
    pub align_bytes: u64,
    /// Entries of the index.
    pub max_objects: u32,
    /// Name of a POSIX segment, with its leading slash; `None` = a memfd.
    pub shm_name: Option<String>,
    /// Which pages to use.
    pub huge_pages: HugePages,
    /// Nodes whose memory it takes; `None` = as the kernel chooses.
    pub numa: Option<Numa>,
    /// Whether every page is there before the daemon is ready.
    pub prefault: bool,
    /// How long to wait for memory that an earlier pool still holds.
    pub start_wait: Duration,
    /// Whether payload and control segment are locked in memory.
    pub is_locked: bool,
}

/// Which pages the payload uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HugePages {
    /// Transparent huge pages where the kernel gives them.
    Auto,
    /// Small pages.
    Off,
    /// Pages of the reserved pool, or a start-up error.
    Hugetlb,
}

impl HugePages {
    const ALL: [Self; 3] = [Self::Auto, Self::Off, Self::Hugetlb];

    /// The value of the flag.
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Off => "off",
            Self::Hugetlb => "hugetlb",
        }
    }
}

/// Which NUMA nodes the payload's memory comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Numa {
    /// All nodes in turn.
    Interleave,
    /// One node.
    Bind(u32),
}

impl Numa {
    /// The largest number of a node that a Linux kernel can be built for.
    pub const MAX_NODE: u32 = 1023;
}

impl std::fmt::Display for Numa {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Numa::Interleave => f.write_str("interleave"),
            Numa::Bind(node) => write!(f, "bind:{node}"),
        }
    }
}

/// Which objects have sums that their bytes are compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Integrity {
    /// None.
    Off,
    /// Every object, some time after it can be read; readers compare some.
    Sampled,
    /// Every object, before it can be read; readers compare all.
    Full,
}

impl Integrity {
    const ALL: [Self; 3] = [Self::Off, Self::Sampled, Self::Full];

    /// The value of the flag.
    pub fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Sampled => "sampled",
            Self::Full => "full",
        }
    }

    /// Readers compare one acquired object in this many; 0 = none.
    pub fn check_every(self) -> u32 {
        match self {
            Self::Off => 0,
            Self::Sampled => 64,
            Self::Full => 1,
        }
    }
}

/// When and how much to evict.
#[derive(Clone, Debug, PartialEq)]
pub struct EvictionConfig {
    /// What chooses the victims.
    pub policy: EvictionPolicy,
    /// Share of the payload, or of the index, in use at which eviction starts.
    pub trigger_watermark: f64,
    /// Share of what is used that one pass frees.
    pub ratio: f64,
}

/// What chooses the victims.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EvictionPolicy {
    /// The coldest first.
    Lru,
    /// Nothing is evicted.
    Noop,
}

impl EvictionPolicy {
    const ALL: [Self; 2] = [Self::Lru, Self::Noop];

    /// The value of the flag.
    pub fn name(self) -> &'static str {
        match self {
            Self::Lru => "LRU",
            Self::Noop => "noop",
        }
    }
}

/// What keeps tenants apart.
#[derive(Clone, Debug, PartialEq)]
pub struct TenantsConfig {
    /// Whether a keyspace without a cache salt is refused.
    pub requires_salt: bool,
    /// Share of the payload that one keyspace may use; `None` = all of it.
    pub keyspace_quota: Option<f64>,
    /// Whether an extent is zeroed before it is used again.
    pub zeroes_on_reuse: bool,
}

/// What sessions may hold, and for how long.
#[derive(Clone, Debug, PartialEq)]
pub struct LimitsConfig {
    /// Life of a reservation; `None` = while its process lives.
    pub write_ttl: Option<Duration>,
    /// Life of a lease; `None` = while its process lives.
    pub read_ttl: Option<Duration>,
    /// Tokens per key unless the keyspace says otherwise.
    pub chunk_size: u32,
    /// Sessions at one time.
    pub max_sessions: u32,
    /// The largest pin slot count a session may ask.
    pub max_pins: u32,
    /// Share of the payload that one session may hold reserved.
    pub max_reserved_ratio: f64,
    /// Keyspaces in the daemon.
    pub max_keyspaces: u32,
    /// How long the loop spins before it sleeps.
    pub spin: Duration,
}

/// The tiers behind L1.
#[derive(Clone, Debug, PartialEq)]
pub struct TiersConfig {
    /// What they are, in the order of preference.
    pub adapters: Vec<AdapterSpec>,
    /// What becomes of an object in L1 once a tier holds it.
    pub store_policy: StorePolicy,
}

/// What becomes of an object in L1 once a tier holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StorePolicy {
    /// It stays until it is evicted.
    Default,
    /// It leaves L1.
    SkipL1,
}

impl StorePolicy {
    const ALL: [Self; 2] = [Self::Default, Self::SkipL1];

    /// The value of the flag.
    pub fn name(self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::SkipL1 => "skip_l1",
        }
    }
}

/// The HTTP endpoint for metrics.
#[derive(Clone, Debug, PartialEq)]
pub struct MetricsConfig {
    /// Address to bind.
    pub host: IpAddr,
    /// Port to bind; 0 = a free one.
    pub port: u16,
    /// Time between folds of the workers' counters.
    pub log_interval: Duration,
}

/// Events of lookup, store and retrieve for the processors.
#[derive(Clone, Debug, PartialEq)]
pub struct TelemetryConfig {
    /// Whether events are made at all.
    pub is_enabled: bool,
    /// Most events that wait; over it the newest is dropped.
    pub max_queue_size: u32,
    /// The processors' specifications as JSON, in order; [`crate::telemetry`] reads them.
    pub processors: Vec<String>,
}

/// What the process was started with, kept so that the file can be read again under the same flags
/// and environment.
#[derive(Clone, Debug, Default)]
struct Origins {
    arguments: Vec<OsString>,
    environment: BTreeMap<String, String>,
    shown: Vec<Shown>,
    /// `allow_gids` without the socket's group.
    named_gids: Vec<u32>,
}

/// Reads the configuration of this process.
pub fn from_process() -> Result<Invocation, ConfigError> {
    load(std::env::args_os().collect(), &source::Process)
}

/// Reads the configuration from `arguments`, which begin with the program's name, and from what
/// `host` tells.
pub fn load(arguments: Vec<OsString>, host: &dyn Host) -> Result<Invocation, ConfigError> {
    let (flags, prints) = match source::command_line(&arguments)? {
        CommandLine::Flags(flags, prints) => (flags, prints),
        CommandLine::Text(text) => return Ok(Invocation::Text(text)),
    };
    let environment = source::environment(host)?;
    let origins = Origins {
        arguments,
        environment: environment.clone(),
        ..Origins::default()
    };
    let layers = Layers::read(flags, environment, host)?;
    let config = resolve::resolve(&layers, host, origins)?;
    if prints {
        return Ok(Invocation::PrintConfig(print::config(
            &config.origins.shown,
        )));
    }
    Ok(Invocation::Run(Box::new(config)))
}

/// Reads the file again, under the flags and the environment of the start.
///
/// Gives the configuration to go on with, one sentence for each setting that changed, and one for
/// each that would need a restart and therefore stays. On an error the current one stays whole.
pub fn reload(current: &Config) -> Result<(Config, Vec<String>, Vec<String>), ConfigError> {
    reload_from(current, &source::Process)
}

/// As [`reload`], with what `host` tells except for the environment.
pub fn reload_from(
    current: &Config,
    host: &dyn Host,
) -> Result<(Config, Vec<String>, Vec<String>), ConfigError> {
    let origins = &current.origins;
    let flags = match source::command_line(&origins.arguments)? {
        CommandLine::Flags(flags, _) => flags,
        // A process that printed a text has ended and rereads nothing.
        CommandLine::Text(_) => BTreeMap::new(),
    };
    let layers = Layers::read(flags, origins.environment.clone(), host)?;
    let host = source::WithoutGroups(host);
    let new = resolve::resolve(&layers, &host, origins.clone())?;
    let (changed, kept) = print::differences(&origins.shown, &new.origins.shown);

    let mut next = current.clone();
    next.log_level = new.log_level;
    next.eviction.trigger_watermark = new.eviction.trigger_watermark;
    next.eviction.ratio = new.eviction.ratio;
    next.access = AccessConfig {
        allow_gids: new.origins.named_gids.clone(),
        ..new.access
    };
    resolve::admit_group(&mut next.access, current.socket_group.as_ref());
    next.limits.max_reserved_ratio = new.limits.max_reserved_ratio;
    next.limits.max_pins = new.limits.max_pins;
    next.limits.max_keyspaces = new.limits.max_keyspaces;
    next.limits.max_sessions = new.limits.max_sessions;
    next.origins.named_gids = new.origins.named_gids;
    for (mine, theirs) in next.origins.shown.iter_mut().zip(new.origins.shown) {
        if theirs.setting.is_reloadable {
            *mine = theirs;
        }
    }
    Ok((next, changed, kept))
}
