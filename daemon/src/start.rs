//! The start and the end of the daemon, in their order.
//!
//! ```text
//!   signals blocked -> log -> kernel -> lock file -> metrics port -> memory, payload, prefault -> control segment
//!   -> store -> liveness word -> tiers -> socket (own or passed) -> sandbox -> telemetry, workers, metrics -> READY -> the
//!   loop ... -> counters folded, clients told, the rest stored in the tiers -> metrics -> socket and lock files -> log flushed
//! ```
//!
//! What is cheap and may fail comes first, what others can see comes last. Everything runs on the main thread, which
//! becomes the loop's. Before the sandbox there is no other but the log's, since each thread has to be in it.

use std::io;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::stat::{Mode, umask};

use hostkv_shm_protocol::control::Geometry;
use hostkv_shm_protocol::control::header::{HeaderInit, HeaderView, flags};
use hostkv_shm_protocol::id::InstanceId;
use hostkv_shm_protocol::key::HashSecret;
use hostkv_shm_protocol::version::PACKAGE_VERSION;
use hostkv_shm_protocol::view::View;

use crate::config::{Config, ConfigError, HugePages, Integrity, StorePolicy};
use crate::error::StartError;
use crate::metrics::{Bound, Endpoint};
use crate::request::hello::PoolFacts;
use crate::sandbox::{self, Lack};
use crate::segment::{self, Payload, PayloadOptions, Segment, StartProgress};
use crate::server::alive::AliveMark;
use crate::server::{
    AccessRules, Handout, LockedPlace, Parts, PayloadUse, Server, SocketPlace, StartFacts,
    monotonic_ns, pidfd_open, questions,
};
use crate::signal::Signals;
use crate::store::l2::L2Config;
use crate::store::{GRANT_SHARES, SLICE_NS, Store, StoreConfig};
use crate::systemd::listen;
use crate::telemetry::{PROCESSORS, Processor, Telemetry};
use crate::tiers::{self, Tiers};
use crate::workers::{self, PayloadBytes, WORKER_THREADS, Workers};
use crate::{ballast, critical, logging, random, systemd, telemetry};

/// How long the last lines of the log may take.
const FLUSH_WITHIN: Duration = Duration::from_secs(2);
/// Descriptors of one session: socket, pidfd, lease segment, staging segment.
const DESCRIPTORS_PER_SESSION: u64 = 4;
/// Descriptors of all else: segments, metrics, epoll and its like, and those kept in reserve.
const DESCRIPTORS_BESIDE: u64 = 96;

/// What the daemon takes beside its segments: stacks, queues, sessions, and what the kernel keeps for it.
const OWN_BYTES: u64 = 8 << 20;
/// Private memory of an entry when all are in use: its record, its extent and the hole behind that, a mark, an order.
const OWN_BYTES_PER_ENTRY: u64 = 80;

/// What became of the log's thread when it closed itself in.
type LogThread = Receiver<Result<sandbox::Enforced, Lack>>;

/// Runs the daemon until a signal ends it.
pub fn run(config: Config) -> Result<(), StartError> {
    // Before the first thread, so that all inherit the mask.
    let signals = Signals::block().map_err(|error| fault("blocking the signals", error))?;
    let is_sandboxed = config.is_sandboxed;
    let (sender, log_thread) = sync_channel(1);
    let log = logging::init(config.log_level.as_deref(), move || {
        if is_sandboxed {
            // Heard by nobody when the start has failed meanwhile.
            let _ = sender.send(sandbox::restrict_to_nothing());
        }
    });
    abort_on_panic(log.clone());
    umask(Mode::from_bits_truncate(0o077));
    let result = serve(config, signals, &log_thread);
    log.flush(FLUSH_WITHIN);
    result
}

fn serve(config: Config, signals: Signals, log_thread: &LogThread) -> Result<(), StartError> {
    ballast::take_up();
    segment::min_kernel_check()?;
    raise_descriptor_limit(config.limits.max_sessions);
    let mut place = SocketPlace::of(&config).lock()?;
    let metrics = match &config.metrics {
        Some(metrics) => Some(Endpoint::bind(metrics.host, metrics.port)?),
        None => None,
    };

    let geometry = Geometry::for_entries(config.pool.max_objects)
        .with_sums(config.integrity != Integrity::Off);
    let payload = make_payload(&config, geometry)?;
    let control = segment::create_control(geometry.segment_len(), huge_pages(&config))?;
    if config.pool.is_locked {
        segment::lock_in_memory(&payload, &control)?;
    }
    // SAFETY: the mapping is page-aligned and as long as the segment, and `control` is dropped at the end of this
    // function, after the store and the loop. Nobody makes a reference to the bytes.
    let view = unsafe { View::new(control.base().as_ptr(), control.len_bytes()) };
    let facts = init_header(&config, &payload, view, geometry)?;
    let mut store = Store::new(store_config(&config, payload.len_bytes()), view)
        .map_err(|error| fault("setting the index up", io::Error::other(error)))?;
    let processors = match &config.telemetry {
        telemetry if telemetry.is_enabled => {
            store.collect_events();
            let processors = PROCESSORS
                .parse(&telemetry.processors)
                .map_err(ConfigError::from)?;
            Some(processors)
        }
        _ => None,
    };
    let alive = AliveMark::set(store.header());
    let facts = PoolFacts {
        daemon_thread_id: alive.thread_id(),
        ..facts
    };

    let handout = handout(&control, &payload, facts.is_sealed)?;
    // SAFETY: workers and tiers end with the server, which `run` consumes, and `payload` is dropped at the end of this
    // function, or not at all when a tier may still use it.
    let bytes = unsafe { PayloadBytes::new(payload.base(), payload.len_bytes()) };
    // Before the sandbox: their threads keep the folders and the network that landlock takes from all others.
    let tiers = match config.tiers.adapters.as_slice() {
        [] => None,
        adapters => Some(Tiers::open(adapters, bytes)?),
    };
    let (asker, questions) =
        questions().map_err(|error| fault("making an eventfd for the metrics", error))?;
    let socket = match listen::take()? {
        Some(passed) => place.adopt(passed)?,
        None => place.listen()?,
    };
    let worker_count = workers::thread_count();
    if config.is_sandboxed {
        enter_sandbox(&config, &place, processors.as_deref(), log_thread);
    }
    let telemetry = match processors {
        Some(processors) => Some(Telemetry::start(
            processors,
            config.telemetry.max_queue_size,
        )?),
        None => None,
    };
    let workers = Workers::start(bytes, worker_count)
        .map_err(|error| fault("starting the threads for payload bytes", error))?;
    say_start(&config, &payload, &place, metrics.as_ref());
    let start = StartFacts {
        started_at: monotonic_ns(),
        page_kind: payload.kind(),
        metrics_address: metrics.as_ref().map(|bound| bound.local_addr().to_string()),
        descriptors_wanted: descriptors_wanted(config.limits.max_sessions),
    };
    let access = AccessRules::new(nix::unistd::geteuid().as_raw(), &config.access);
    let server = Server::new(Parts {
        config,
        store,
        facts,
        handout,
        access,
        alive,
        signals,
        questions,
        workers,
        tiers,
        socket,
        telemetry,
        start,
    })
    .map_err(|error| fault("setting the loop up", error))?;
    let endpoint = match metrics {
        Some(bound) => Some(bound.serve(Box::new(asker), place.folder())?),
        None => None,
    };
    systemd::ready();
    let ended = server.run().map_err(|error| fault("the loop", error));
    if !matches!(ended, Ok(PayloadUse::Over)) {
        // A tier that hangs in the kernel may yet read or write it; the end of the process unmaps it.
        std::mem::forget(payload);
    }

    place.remove_socket();
    if let Some(endpoint) = endpoint {
        endpoint.stop();
    }
    log::info!("Stopped.");
    ended.map(drop)
}

/// Closes the process in, and says how far that went.
fn enter_sandbox(
    config: &Config,
    place: &LockedPlace,
    processors: Option<&[Box<dyn Processor>]>,
    log_thread: &LogThread,
) {
    let processors = processors.unwrap_or_default().iter();
    let event_files: Vec<PathBuf> = processors
        .filter_map(|processor| processor.path().map(PathBuf::from))
        .collect();
    // It answers before it writes a line, so that nothing holds it up. Where it could not be started there is no answer.
    let log_thread = log_thread
        .recv()
        .unwrap_or_else(|_| Err(Lack::Refused("the log has no thread".to_owned())));
    let plan = sandbox::Plan::new(config, place.folder(), &event_files);
    plan.enter(log_thread).say();
}

fn fault(what: &str, source: io::Error) -> StartError {
    StartError::System {
        what: what.to_owned(),
        source,
        remedy: "see the limits of this process, in particular those on descriptors and memory"
            .to_owned(),
    }
}

/// A panic of this thread, which becomes the loop's, leaves the store half changed, one of a worker a commit without its
/// answer, and one of a tier a task that is never over, with the bytes that it holds: the process ends at once, and clients
/// see it by the liveness word. Other threads have nothing that others depend on.
fn abort_on_panic(log: logging::Logging) {
    let loop_thread = std::thread::current().id();
    std::panic::set_hook(Box::new(move |panic| {
        let thread = std::thread::current();
        if thread.name() == Some(telemetry::DISPATCHER_THREAD) {
            // It catches what processors do and says so itself, not once for each event.
            return;
        }
        let name = thread.name().unwrap_or("without a name");
        let is_needed = name.starts_with(WORKER_THREADS) || tiers::is_needed(name);
        if thread.id() != loop_thread && !is_needed {
            log::error!("Thread {name} panicked: {panic}");
            return;
        }
        critical!(
            "The loop, a worker or a tier (thread {name}) panicked, the daemon aborts: {panic}"
        );
        log.flush(FLUSH_WITHIN);
        std::process::abort();
    }));
}

/// Descriptors that this many sessions and all else take.
fn descriptors_wanted(max_sessions: u32) -> u64 {
    u64::from(max_sessions) * DESCRIPTORS_PER_SESSION + DESCRIPTORS_BESIDE
}

/// Sessions need descriptors; a soft limit below the hard one is ours to raise.
fn raise_descriptor_limit(max_sessions: u32) {
    let wanted = descriptors_wanted(max_sessions);
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else {
        return;
    };
    if soft >= wanted {
        return;
    }
    let possible = wanted.min(hard);
    if setrlimit(Resource::RLIMIT_NOFILE, possible, hard).is_err() || possible < wanted {
        log::warn!(
            "--max-sessions {max_sessions} needs {wanted} descriptors and the limit of this process is {}: fewer sessions \
             will open; raise it, e.g. by LimitNOFILE= of the unit",
            possible.max(soft)
        );
    }
}

fn make_payload(config: &Config, geometry: Geometry) -> Result<Payload, StartError> {
    let pool = &config.pool;
    let options = PayloadOptions {
        size_bytes: pool.size_bytes,
        extra_bytes: geometry.segment_len()
            + OWN_BYTES
            + u64::from(geometry.entry_count) * OWN_BYTES_PER_ENTRY,
        shm_name: pool.shm_name.as_deref(),
        huge_pages: huge_pages(config),
        numa: pool.numa,
        prefault: pool.prefault,
        writers_allowed: has_trusted_writer(config),
        start_wait: pool.start_wait,
    };
    Ok(segment::create_payload(
        &options,
        &mut StartProgress::new(),
    )?)
}

fn huge_pages(config: &Config) -> segment::HugePages {
    match config.pool.huge_pages {
        HugePages::Auto => segment::HugePages::Auto,
        HugePages::Off => segment::HugePages::Off,
        HugePages::Hugetlb => segment::HugePages::Hugetlb,
    }
}

/// Whether a user that may write is trusted to write into the payload itself.
fn has_trusted_writer(config: &Config) -> bool {
    config
        .access
        .has_trusted_writer(nix::unistd::geteuid().as_raw())
}

/// Fills the control header, and gives what sessions are told; the loop's thread id is still missing in it.
fn init_header(
    config: &Config,
    payload: &Payload,
    view: View,
    geometry: Geometry,
) -> Result<PoolFacts, StartError> {
    let random_fault = |error| fault("drawing random bytes", error);
    let instance_id = InstanceId(random::random_bytes().map_err(random_fault)?);
    let secret = InstanceId(random::random_bytes().map_err(random_fault)?).words();
    let header = HeaderView::new(view)
        .map_err(|error| fault("setting the index up", io::Error::other(error)))?;
    let huge_page_bytes = payload.huge_page_bytes();
    header.initialise(&HeaderInit {
        instance_id,
        boot_id: boot_id().map_err(|error| fault("reading the boot id", error))?,
        created_mono_ns: monotonic_ns(),
        flags: header_flags(config, huge_page_bytes),
        geometry,
        align_bytes: config.pool.align_bytes as u32,
        hash_secret: HashSecret {
            k0: secret[0],
            k1: secret[1],
        },
        payload_len: payload.len_bytes(),
        max_sessions: config.limits.max_sessions,
        check_every: config.integrity.check_every(),
    });
    Ok(PoolFacts {
        instance_id,
        daemon_thread_id: 0,
        capacity_bytes: payload.len_bytes(),
        align_bytes: config.pool.align_bytes,
        huge_page_bytes,
        entry_count: geometry.entry_count,
        is_sealed: !payload.is_named() && !has_trusted_writer(config),
    })
}

fn header_flags(config: &Config, huge_page_bytes: u64) -> u32 {
    let mut bits = 0;
    if huge_page_bytes > 0 {
        bits |= flags::HUGE_PAGES;
    }
    if config.telemetry.is_enabled {
        bits |= flags::TELEMETRY;
    }
    bits
}

/// The kernel's boot id, a UUID, as two words.
fn boot_id() -> io::Result<[u64; 2]> {
    parse_boot_id(&std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?)
}

fn parse_boot_id(text: &str) -> io::Result<[u64; 2]> {
    let digits: String = text.trim().chars().filter(|c| *c != '-').collect();
    let number = u128::from_str_radix(&digits, 16).map_err(io::Error::other)?;
    Ok(InstanceId(number.to_be_bytes()).words())
}

/// What the store is told of a checked configuration and of the payload's length in bytes.
pub fn store_config(config: &Config, payload_len: u64) -> StoreConfig {
    let nanos = |ttl: Duration| ttl.as_nanos() as u64;
    StoreConfig {
        grant_shares: GRANT_SHARES,
        payload_len,
        align_bytes: config.pool.align_bytes as u32,
        policy: config.eviction.policy,
        watermark: config.eviction.trigger_watermark,
        ratio: config.eviction.ratio,
        write_ttl_ns: config.limits.write_ttl.map(nanos),
        read_ttl_ns: config.limits.read_ttl.map(nanos),
        chunk_size: config.limits.chunk_size,
        max_sessions: config.limits.max_sessions,
        max_reserved_ratio: config.limits.max_reserved_ratio,
        max_keyspaces: config.limits.max_keyspaces,
        requires_salt: config.tenants.requires_salt,
        keyspace_quota: config.tenants.keyspace_quota,
        zeroes_on_reuse: config.tenants.zeroes_on_reuse,
        integrity: config.integrity,
        scrub_bytes_per_second: config.scrub_bytes_per_second,
        l2: L2Config {
            tier_count: config.tiers.adapters.len(),
            skips_l1: config.tiers.store_policy == StorePolicy::SkipL1,
        },
        slice_ns: SLICE_NS,
    }
}

fn handout(control: &Segment, payload: &Payload, is_sealed: bool) -> Result<Handout, StartError> {
    let own_pid = std::process::id() as i32;
    let daemon = pidfd_open(own_pid)
        .map_err(|errno| fault("opening the daemon's own pidfd", errno.into()))?;
    Ok(Handout {
        control: Rc::new(control.read_only_fd()?),
        payload_writable: match is_sealed {
            false => Some(Rc::new(payload.writable_fd()?)),
            true => None,
        },
        payload_read_only: Rc::new(payload.read_only_fd()?),
        daemon: Rc::new(daemon),
    })
}

/// The one line of a start.
fn say_start(config: &Config, payload: &Payload, place: &LockedPlace, metrics: Option<&Bound>) {
    let metrics = match metrics {
        None => "off".to_owned(),
        Some(bound) => {
            let address = bound.local_addr();
            let reach = if address.ip().is_loopback() {
                ", loopback only: --prometheus-host opens it to others"
            } else {
                ""
            };
            format!("{address}{reach}")
        }
    };
    let limits = &config.limits;
    log::info!(
        "hostkvd {PACKAGE_VERSION}, pid {}: L1 {} bytes ({}), {} objects at most, {} eviction from {:.2} on; socket {}; at most {} \
         sessions, {} pins and {:.3} of L1 reserved a session, {} keyspaces; metrics {metrics}",
        std::process::id(),
        payload.len_bytes(),
        payload.kind(),
        config.pool.max_objects,
        config.eviction.policy.name(),
        config.eviction.trigger_watermark,
        place.path().display(),
        limits.max_sessions,
        limits.max_pins,
        limits.max_reserved_ratio,
        limits.max_keyspaces,
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_boot_id_keeps_its_bytes_in_order() {
        let words = parse_boot_id("00010203-0405-0607-0809-0a0b0c0d0e0f\n").unwrap();
        assert_eq!(
            InstanceId::from_words(words).0,
            std::array::from_fn(|i| i as u8)
        );
        assert!(parse_boot_id("no boot id").is_err());
        assert_ne!(boot_id().unwrap(), [0; 2]);
    }
}
