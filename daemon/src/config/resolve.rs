//! From the sources to the [`Config`]: defaults, checks, and the rules between settings.
//!
//! Runs on the main thread, before anything of the daemon exists. One function for each group of
//! the help; each value is noted on the way, so that `--print-config` and SIGHUP show exactly what
//! was decided here.

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::check;
use super::error::ConfigError;
use super::print::{self, Shown};
use super::setting::{self, Setting};
use super::source::{Given, Host, Layers, Origin};
use super::{
    AccessConfig, Config, EvictionConfig, EvictionPolicy, HugePages, Integrity, LimitsConfig,
    MetricsConfig, Numa, Origins, PoolConfig, SocketGroup, StorePolicy, TelemetryConfig,
    TenantsConfig, TiersConfig,
};
use crate::telemetry::PROCESSORS;
use crate::tiers::spec;

/// The payload is a whole number of these, so that huge pages fit it.
const PAYLOAD_UNIT_BYTES: u64 = 2 << 20;
const GIB_BYTES: f64 = (1u64 << 30) as f64;
/// 2^47 bytes: half of what a process of four page table levels can address.
const MAX_SIZE_GIB: f64 = (1u64 << 17) as f64;
/// Extents are counted in units of the alignment, by numbers of 32 bits.
const MAX_UNITS: u64 = u32::MAX as u64;
/// One object of this many bytes has its index entry by default.
const DEFAULT_OBJECT_BYTES: u64 = 64 << 10;
const DEFAULT_OBJECTS: (u64, u64) = (1 << 16, 1 << 24);
/// A slot word and a pin slot hold the entry number plus one in 32 bits. The bound stays five bits
/// below that, at an index of about 20 GiB.
const MAX_OBJECTS: u32 = 1 << 27;
/// `sun_path` with its closing zero.
const MAX_SOCKET_PATH_BYTES: usize = 107;

/// About a hundredth of what one core reads.
const DEFAULT_SCRUB_BYTES_PER_SECOND: u64 = 64 << 20;
const MAX_SCRUB_BYTES_PER_SECOND: u64 = 1 << 40;

/// The names of the log levels.
pub(super) const LOG_LEVELS: [&str; 5] = ["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"];

/// Reads settings and notes what came out.
struct Resolver<'a> {
    layers: &'a Layers,
    host: &'a dyn Host,
    shown: Vec<Shown>,
}

/// Builds the configuration; `origins` is kept in it for the next reading.
pub(super) fn resolve(
    layers: &Layers,
    host: &dyn Host,
    mut origins: Origins,
) -> Result<Config, ConfigError> {
    let mut resolver = Resolver {
        layers,
        host,
        shown: Vec::new(),
    };
    let socket = resolver.socket()?;
    let (mut access, socket_group) = resolver.access()?;
    let (socket_mode, socket_mode_was_set) = resolver.socket_mode(socket_group.is_some())?;
    let pool = resolver.pool()?;
    let eviction = resolver.eviction()?;
    let tenants = resolver.tenants()?;
    let limits = resolver.limits()?;
    let (integrity, scrub_bytes_per_second) = resolver.integrity()?;
    let is_sandboxed = resolver.sandbox()?;
    let tiers = resolver.tiers()?;
    let metrics = resolver.metrics()?;
    let telemetry = resolver.telemetry()?;
    let log_level = resolver.log_level()?;
    origins.shown = resolver.shown;
    origins.named_gids = access.allow_gids.clone();
    admit_group(&mut access, socket_group.as_ref());
    Ok(Config {
        socket,
        access,
        socket_mode,
        socket_group,
        socket_mode_was_set,
        pool,
        eviction,
        tenants,
        limits,
        integrity,
        scrub_bytes_per_second,
        is_sandboxed,
        tiers,
        metrics,
        telemetry,
        log_level,
        config_file: layers
            .config_file
            .as_ref()
            .map(|given| PathBuf::from(given.text())),
        origins,
    })
}

/// The socket's group may open sessions too.
pub(super) fn admit_group(access: &mut AccessConfig, group: Option<&SocketGroup>) {
    if let Some(group) = group
        && !access.allow_gids.contains(&group.gid)
    {
        access.allow_gids.push(group.gid);
    }
}

impl Resolver<'_> {
    /// Checks a setting, or takes its default, and notes the outcome.
    fn take<T>(
        &mut self,
        setting: &'static Setting,
        default: T,
        check: impl FnOnce(&Given) -> Result<T, ConfigError>,
        text: impl FnOnce(&T) -> String,
    ) -> Result<T, ConfigError> {
        let (value, origin) = match self.layers.given(setting) {
            Some(given) => (check(&given)?, given.origin),
            None => (default, Origin::Default),
        };
        self.shown.push(Shown {
            setting,
            value: print::value(setting.shape, &text(&value)),
            origin,
            follows: None,
        });
        Ok(value)
    }

    /// As `take`, for a setting that may be absent.
    fn take_optional<T>(
        &mut self,
        setting: &'static Setting,
        check: impl FnOnce(&Given) -> Result<T, ConfigError>,
        text: impl FnOnce(&T) -> String,
    ) -> Result<Option<T>, ConfigError> {
        let (value, origin) = match self.layers.given(setting) {
            Some(given) => (Some(check(&given)?), given.origin),
            None => (None, Origin::Default),
        };
        let text = value.as_ref().map(text);
        self.shown.push(Shown {
            setting,
            value: text.map_or(String::new(), |text| print::value(setting.shape, &text)),
            origin,
            follows: None,
        });
        Ok(value)
    }

    /// Says that the setting noted last follows from another one while nobody gives it.
    fn default_follows(&mut self, other: &'static Setting) {
        if let Some(shown) = self.shown.last_mut()
            && shown.origin == Origin::Default
        {
            shown.follows = Some(other);
        }
    }

    fn number(
        &mut self,
        setting: &'static Setting,
        default: f64,
        least: f64,
        most: f64,
    ) -> Result<f64, ConfigError> {
        let check = |given: &Given| check::number(given, least, most);
        self.take(setting, default, check, |value| print::number(*value))
    }

    fn whole(
        &mut self,
        setting: &'static Setting,
        default: u32,
        least: u32,
        most: u32,
    ) -> Result<u32, ConfigError> {
        let check = |given: &Given| check::whole_u32(given, least, most);
        self.take(setting, default, check, u32::to_string)
    }

    fn seconds(
        &mut self,
        setting: &'static Setting,
        default: u64,
        least: f64,
    ) -> Result<Duration, ConfigError> {
        let check = |given: &Given| check::seconds(given, least, 86400.0);
        let default = Duration::from_secs(default);
        self.take(setting, default, check, |value| {
            print::number(value.as_secs_f64())
        })
    }

    fn ids(&mut self, setting: &'static Setting) -> Result<Vec<u32>, ConfigError> {
        self.take(setting, Vec::new(), check::ids, |value| {
            print::numbers(value)
        })
    }

    fn socket(&mut self) -> Result<PathBuf, ConfigError> {
        let check = |given: &Given| {
            let text = given.text();
            let is_good = (1..=MAX_SOCKET_PATH_BYTES).contains(&text.len())
                && !text.contains('\0')
                && !text.ends_with('/')
                && PathBuf::from(&text).file_name().is_some();
            if is_good { Ok(text) } else { Err(given.bad()) }
        };
        let given = self.layers.given(&setting::SOCKET);
        let passed = self.host.passed_socket()?;
        if let (Some(given), Some(passed)) = (&given, &passed)
            && passed != Path::new(&given.text())
        {
            return Err(ConfigError::OtherSocketPassed {
                name: given.name(),
                socket: given.text(),
                passed: passed.clone(),
            });
        }
        // The same rule, whoever chose the path.
        let chosen = |path, origin| Given {
            setting: &setting::SOCKET,
            texts: vec![path],
            origin,
        };
        let given = match (given, passed) {
            (Some(given), _) => given,
            (None, Some(passed)) => chosen(passed.to_string_lossy().into_owned(), Origin::Passed),
            (None, None) => chosen(self.socket_folder()? + "/hostkv.sock", Origin::Default),
        };
        let path = check(&given)?;
        self.shown.push(Shown {
            setting: &setting::SOCKET,
            value: print::string(&path),
            origin: given.origin,
            follows: None,
        });
        Ok(PathBuf::from(path))
    }

    /// The folder of a socket that nobody named. Only the parent has to be there: the daemon makes
    /// the last folder itself.
    fn socket_folder(&self) -> Result<String, ConfigError> {
        let first = self
            .layers
            .variable("RUNTIME_DIRECTORY")
            .and_then(|folders| folders.split(':').next())
            .filter(|folder| folder.starts_with('/'));
        if let Some(folder) = first {
            return Ok(folder.trim_end_matches('/').to_owned());
        }
        let user = self
            .layers
            .variable("XDG_RUNTIME_DIR")
            .filter(|folder| folder.starts_with('/') && self.host.has_folder(folder.as_ref()));
        match user {
            Some(folder) => Ok(format!("{}/hostkv", folder.trim_end_matches('/'))),
            None if self.host.is_root() => Ok("/run/hostkv".into()),
            None => Err(ConfigError::NoSocketPlace),
        }
    }

    fn access(&mut self) -> Result<(AccessConfig, Option<SocketGroup>), ConfigError> {
        let access = AccessConfig {
            allow_uids: self.ids(&setting::ALLOW_UID)?,
            allow_gids: self.ids(&setting::ALLOW_GID)?,
            read_only_uids: self.ids(&setting::READ_ONLY_UID)?,
            untrusted_uids: self.ids(&setting::UNTRUSTED_UID)?,
            admin_uids: self.ids(&setting::ADMIN_UID)?,
        };
        let host = self.host;
        let group = |given: &Given| {
            let name = given.text();
            // A zero byte cannot be part of a name that is looked up.
            let found = match name.contains('\0') {
                true => Ok(None),
                false => host.group_id(&name),
            };
            match found {
                Ok(Some(gid)) => Ok(SocketGroup { name, gid }),
                Ok(None) => Err(given.bad()),
                Err(source) => Err(ConfigError::GroupLookup {
                    name: given.name(),
                    value: name,
                    source,
                }),
            }
        };
        let group =
            self.take_optional(&setting::SOCKET_GROUP, group, |group| group.name.clone())?;
        Ok((access, group))
    }

    fn socket_mode(&mut self, has_group: bool) -> Result<(u32, bool), ConfigError> {
        let default = if has_group { 0o660 } else { 0o600 };
        let text = |mode: &u32| format!("{mode:04o}");
        let mode = self.take(&setting::SOCKET_MODE, default, check::file_mode, text)?;
        self.default_follows(&setting::SOCKET_GROUP);
        Ok((mode, self.layers.given(&setting::SOCKET_MODE).is_some()))
    }

    fn pool(&mut self) -> Result<PoolConfig, ConfigError> {
        let size_gib = |given: &Given| match check::number(given, 0.0, MAX_SIZE_GIB)? {
            size if size > 0.0 => Ok(size),
            _ => Err(given.bad()),
        };
        let text = |size: &f64| print::number(*size);
        let size_gib = self.take(&setting::L1_SIZE_GB, 1.0, size_gib, text)?;
        // Exact: the product is at most 2^47, and a double counts whole numbers up to 2^53.
        let size_bytes =
            ((size_gib * GIB_BYTES).ceil() as u64).next_multiple_of(PAYLOAD_UNIT_BYTES);

        let align = |given: &Given| match check::whole(given, 64, PAYLOAD_UNIT_BYTES)? {
            align if align.is_power_of_two() => Ok(align),
            _ => Err(given.bad()),
        };
        let align_bytes = self.take(&setting::L1_ALIGN_BYTES, 4096, align, u64::to_string)?;
        if size_bytes / align_bytes > MAX_UNITS {
            return Err(self.combination(
                &setting::L1_SIZE_GB,
                &setting::L1_ALIGN_BYTES,
                "allowed is a payload of at most 4294967295 units of the alignment; \
                 make the alignment larger or the payload smaller",
            ));
        }

        let (least, most) = DEFAULT_OBJECTS;
        let default = (size_bytes / DEFAULT_OBJECT_BYTES).clamp(least, most) as u32;
        let max_objects = self.whole(&setting::MAX_OBJECTS, default, 1, MAX_OBJECTS)?;
        self.default_follows(&setting::L1_SIZE_GB);
        let shm_name = self.take_optional(&setting::SHM_NAME, check::shm_name, String::clone)?;
        let huge_pages = |given: &Given| {
            let place = check::word(given, &HugePages::ALL.map(HugePages::name))?;
            Ok(HugePages::ALL[place])
        };
        let text = |pages: &HugePages| pages.name().to_owned();
        let huge_pages = self.take(&setting::HUGEPAGES, HugePages::Auto, huge_pages, text)?;
        if huge_pages == HugePages::Hugetlb && shm_name.is_some() {
            return Err(self.combination(
                &setting::HUGEPAGES,
                &setting::SHM_NAME,
                "allowed with a named segment is auto or off, and hugetlb only without a name",
            ));
        }
        let numa = self.take_optional(&setting::NUMA, check::numa, Numa::to_string)?;
        let text = |is_on: &bool| if *is_on { "yes" } else { "no" }.to_owned();
        let prefault = self.take(&setting::PREFAULT, true, check::yes_no, text)?;
        let start_wait = self.seconds(&setting::START_WAIT, 60, 0.0)?;
        let is_locked = self.take(&setting::MLOCK, false, check::yes_no, bool::to_string)?;
        if is_locked && !prefault {
            return Err(self.combination(
                &setting::MLOCK,
                &setting::PREFAULT,
                "what is locked in memory is there whole; leave one of the two away",
            ));
        }
        Ok(PoolConfig {
            size_bytes,
            align_bytes,
            max_objects,
            shm_name,
            huge_pages,
            numa,
            prefault,
            start_wait,
            is_locked,
        })
    }

    /// The complaint about two settings, with the values they came to.
    fn combination(
        &self,
        first: &'static Setting,
        second: &'static Setting,
        remedy: &str,
    ) -> ConfigError {
        let describe = |setting: &'static Setting| {
            let name = match self.layers.given(setting) {
                Some(given) => given.name(),
                None => setting.flag(),
            };
            let shown = self.shown.iter().find(|shown| shown.setting == setting);
            format!("{name} {}", shown.map_or("", |shown| shown.value.as_str()))
        };
        ConfigError::BadCombination {
            first: describe(first),
            second: describe(second),
            remedy: remedy.to_owned(),
        }
    }

    fn eviction(&mut self) -> Result<EvictionConfig, ConfigError> {
        let policy = |given: &Given| {
            let place = check::word(given, &EvictionPolicy::ALL.map(EvictionPolicy::name))?;
            Ok(EvictionPolicy::ALL[place])
        };
        let text = |policy: &EvictionPolicy| policy.name().to_owned();
        Ok(EvictionConfig {
            policy: self.take(&setting::EVICTION_POLICY, EvictionPolicy::Lru, policy, text)?,
            trigger_watermark: self.number(&setting::EVICTION_TRIGGER_WATERMARK, 0.8, 0.0, 1.0)?,
            ratio: self.number(&setting::EVICTION_RATIO, 0.2, 0.0, 1.0)?,
        })
    }

    fn tenants(&mut self) -> Result<TenantsConfig, ConfigError> {
        let text = bool::to_string;
        let requires_salt = self.take(&setting::REQUIRE_SALT, false, check::yes_no, text)?;
        let share = |given: &Given| match check::number(given, 0.0, 1.0)? {
            share if share > 0.0 => Ok(share),
            _ => Err(given.bad()),
        };
        let text = |share: &f64| print::number(*share);
        let share = self.take(&setting::KEYSPACE_QUOTA, 1.0, share, text)?;
        let text = bool::to_string;
        let zeroes_on_reuse = self.take(&setting::ZERO_ON_REUSE, false, check::yes_no, text)?;
        Ok(TenantsConfig {
            requires_salt,
            keyspace_quota: (share < 1.0).then_some(share),
            zeroes_on_reuse,
        })
    }

    fn limits(&mut self) -> Result<LimitsConfig, ConfigError> {
        let text =
            |life: &Option<Duration>| print::number(life.unwrap_or(Duration::ZERO).as_secs_f64());
        let mut life = |setting| self.take(setting, None, check::time_to_live, text);
        Ok(LimitsConfig {
            write_ttl: life(&setting::L1_WRITE_TTL_SECONDS)?,
            read_ttl: life(&setting::L1_READ_TTL_SECONDS)?,
            chunk_size: self.whole(&setting::CHUNK_SIZE, 256, 1, u32::MAX)?,
            max_sessions: self.whole(&setting::MAX_SESSIONS, 256, 1, 1 << 16)?,
            max_pins: self.whole(&setting::MAX_PINS, 1 << 16, 256, 1 << 20)?,
            max_reserved_ratio: self.number(&setting::MAX_RESERVED_RATIO, 0.125, 0.0, 0.5)?,
            max_keyspaces: self.whole(&setting::MAX_KEYSPACES, 1 << 16, 1, 1 << 20)?,
            spin: Duration::from_micros(self.whole(&setting::SPIN_US, 0, 0, 50)?.into()),
        })
    }

    fn integrity(&mut self) -> Result<(Integrity, u64), ConfigError> {
        let mode = |given: &Given| {
            let place = check::word(given, &Integrity::ALL.map(Integrity::name))?;
            Ok(Integrity::ALL[place])
        };
        let text = |mode: &Integrity| mode.name().to_owned();
        let mode = self.take(&setting::INTEGRITY, Integrity::Sampled, mode, text)?;
        let rate = |given: &Given| check::whole(given, 0, MAX_SCRUB_BYTES_PER_SECOND);
        let setting = &setting::SCRUB_BYTES_PER_SECOND;
        let rate = self.take(
            setting,
            DEFAULT_SCRUB_BYTES_PER_SECOND,
            rate,
            u64::to_string,
        )?;
        if mode == Integrity::Sampled && rate == 0 {
            return Err(self.combination(
                &setting::INTEGRITY,
                &setting::SCRUB_BYTES_PER_SECOND,
                "allowed with sampled is a number above 0, because checksums are made in the background then; \
                 say off or full for a scrubber that does nothing",
            ));
        }
        Ok((mode, rate))
    }

    fn sandbox(&mut self) -> Result<bool, ConfigError> {
        let is_on = |given: &Given| Ok(check::word(given, &["off", "on"])? == 1);
        let text = |is_on: &bool| if *is_on { "on" } else { "off" }.to_owned();
        self.take(&setting::SANDBOX, true, is_on, text)
    }

    fn tiers(&mut self) -> Result<TiersConfig, ConfigError> {
        let mut adapters = Vec::new();
        let check = |given: &Given| {
            // This opens nothing.
            adapters = spec::parse(&given.texts)?;
            Ok(given.texts.clone())
        };
        let shown = |specs: &Vec<String>| {
            let shown: Vec<String> = specs
                .iter()
                .map(|text| print::spec_without_secrets(text))
                .collect();
            print::strings(&shown)
        };
        self.take(&setting::L2_ADAPTER, Vec::new(), check, shown)?;
        let policy = |given: &Given| {
            let names = StorePolicy::ALL.map(StorePolicy::name);
            Ok(StorePolicy::ALL[check::word(given, &names)?])
        };
        let default = StorePolicy::Default;
        let name = |policy: &StorePolicy| policy.name().to_owned();
        let store_policy = self.take(&setting::L2_STORE_POLICY, default, policy, name)?;
        if store_policy == StorePolicy::SkipL1 && adapters.is_empty() {
            return Err(self.combination(
                &setting::L2_STORE_POLICY,
                &setting::L2_ADAPTER,
                "allowed without an adapter is only default, because objects leave L1 for a tier; give an --l2-adapter",
            ));
        }
        Ok(TiersConfig {
            adapters,
            store_policy,
        })
    }

    fn metrics(&mut self) -> Result<Option<MetricsConfig>, ConfigError> {
        let text = bool::to_string;
        let is_disabled = self.take(&setting::DISABLE_PROMETHEUS, false, check::yes_no, text)?;
        let host = |given: &Given| given.text().parse::<IpAddr>().map_err(|_| given.bad());
        let default = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let host = self.take(&setting::PROMETHEUS_HOST, default, host, IpAddr::to_string)?;
        let port = |given: &Given| given.text().parse::<u16>().map_err(|_| given.bad());
        let port = self.take(&setting::PROMETHEUS_PORT, 9090, port, u16::to_string)?;
        let log_interval = self.seconds(&setting::PROMETHEUS_LOG_INTERVAL, 10, 0.01)?;
        Ok((!is_disabled).then_some(MetricsConfig {
            host,
            port,
            log_interval,
        }))
    }

    fn telemetry(&mut self) -> Result<TelemetryConfig, ConfigError> {
        let text = bool::to_string;
        let is_enabled = self.take(&setting::ENABLE_TELEMETRY, false, check::yes_no, text)?;
        let size = |given: &Given| check::whole_u32(given, 2, 100_000_000);
        let setting = &setting::TELEMETRY_MAX_QUEUE_SIZE;
        let max_queue_size = self.take(setting, 10_000, size, u32::to_string)?;
        let specs = |given: &Given| {
            // Checked also when telemetry is off; this opens nothing.
            PROCESSORS.parse(&given.texts)?;
            Ok(given.texts.clone())
        };
        let text = |specs: &Vec<String>| print::strings(specs);
        let processors = self.take(&setting::TELEMETRY_PROCESSOR, Vec::new(), specs, text)?;
        Ok(TelemetryConfig {
            is_enabled,
            max_queue_size,
            processors,
        })
    }

    fn log_level(&mut self) -> Result<Option<String>, ConfigError> {
        let level = |given: &Given| Ok(LOG_LEVELS[check::word(given, &LOG_LEVELS)?].to_owned());
        self.take_optional(&setting::LOG_LEVEL, level, String::clone)
    }
}
