//! The resp tier beside `redis-benchmark`, Redis's own: as many values of the same length, on the same socket.
//!
//! An object of these lengths is one value of Redis. The benchmark writes the same bytes again and again and throws away
//! what it reads; the tier copies, sums, asks whether the object is there, and stores its seal. Both store under names that
//! are new to an empty server, which has to find memory for them, and load what is there.

use std::fmt;
use std::path::Path;
use std::process::Command;

use super::{Bench, OBJECTS, Times, show};
use crate::measure::crowded_runs;
use crate::peers::Peer;
use crate::peers::redis::Redis;
use crate::report::Report;
use crate::table::Row;

const LENS_BYTES: [u64; 2] = [1 << 20, 2 << 20];
/// Connections of the benchmark, and commands that each sends before it reads an answer: the best of these is the limit, as
/// more of either are often slower with values of this length.
const PIPELINED: [Way; 6] = [
    Way("1", "2"),
    Way("2", "2"),
    Way("4", "2"),
    Way("1", "4"),
    Way("2", "4"),
    Way("4", "4"),
];
/// The same without a pipeline, which is quicker with values of this length: shown beside the limit.
const ONE_BY_ONE: [Way; 3] = [Way("2", "1"), Way("4", "1"), Way("8", "1")];
/// Times that each is tried.
const TRIALS: usize = 3;
/// Names among which the benchmark chooses what it stores: hardly ever one twice.
const NEW_NAMES: usize = 1_000_000_000;
/// Names among which it chooses what it loads are written so many times that all are there.
const FILLINGS: usize = 8;

/// Connections and commands.
#[derive(Clone, Copy)]
struct Way(&'static str, &'static str);

/// Stores and loads of objects of 1 and 2 MiB; absent where there is no Redis.
pub fn rows(report: &mut Report) -> Result<(), String> {
    let mut redis = match Redis::start() {
        Ok(redis) => redis,
        Err(why) => {
            report.row(Row::absent("resp tier", why));
            return Ok(());
        }
    };
    let socket = redis.socket();
    for len_bytes in LENS_BYTES {
        let text = format!(r#"{{"type": "resp", "unix_socket": {socket:?}}}"#);
        let mut bench = Bench::open(text, len_bytes)?;
        let set = Ways::of(|way| stored(&mut redis, len_bytes, way))?;
        fill(&mut redis, len_bytes)?;
        let get = Ways::of(|way| loaded(&socket, len_bytes, way))?;
        let mut number = 0;
        let measured = crowded_runs(&[redis.pid()], || {
            number += 1;
            let store_limit = stored(&mut redis, len_bytes, set.pipelined)?;
            redis.clear()?;
            let store = bench.store(number)?;
            let load = bench.load(number)?;
            bench.remove(number)?;
            fill(&mut redis, len_bytes)?;
            Ok(Times {
                store,
                store_limit,
                load,
                load_limit: loaded(&socket, len_bytes, get.pipelined)?,
            })
        })?;
        let limits = [set, get].map(|ways| ways.to_string());
        show(
            report,
            "resp",
            len_bytes,
            limits.each_ref().map(String::as_str),
            &measured,
        );
    }
    Ok(())
}

/// The quickest ways of a command.
#[derive(Clone, Copy)]
struct Ways {
    pipelined: Way,
    one_by_one: Way,
    one_by_one_ns: f64,
}

impl Ways {
    fn of(mut measure: impl FnMut(Way) -> Result<f64, String>) -> Result<Ways, String> {
        let (pipelined, _) = quickest(&PIPELINED, &mut measure)?;
        let (one_by_one, one_by_one_ns) = quickest(&ONE_BY_ONE, &mut measure)?;
        Ok(Ways {
            pipelined,
            one_by_one,
            one_by_one_ns,
        })
    }
}

impl fmt::Display for Ways {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Way(c, p), Way(alone, _)) = (self.pipelined, self.one_by_one);
        write!(
            f,
            "redis-benchmark -c {c} -P {p}; its best without a pipeline, -c {alone}: {:.0} us",
            self.one_by_one_ns / 1000.0
        )
    }
}

fn quickest(
    ways: &[Way],
    measure: &mut impl FnMut(Way) -> Result<f64, String>,
) -> Result<(Way, f64), String> {
    let mut best = (ways[0], f64::INFINITY);
    for _ in 0..TRIALS {
        for way in ways {
            let ns = measure(*way)?;
            if ns < best.1 {
                best = (*way, ns);
            }
        }
    }
    Ok(best)
}

/// Nanoseconds of one store, over as many as a run has objects.
fn stored(redis: &mut Redis, len_bytes: u64, way: Way) -> Result<f64, String> {
    redis.clear()?;
    run(&redis.socket(), "set", len_bytes, way, OBJECTS, NEW_NAMES)
}

/// Stores what is to be loaded.
fn fill(redis: &mut Redis, len_bytes: u64) -> Result<(), String> {
    redis.clear()?;
    let (way, commands) = (ONE_BY_ONE[0], FILLINGS * OBJECTS);
    run(&redis.socket(), "set", len_bytes, way, commands, OBJECTS).map(drop)
}

/// Nanoseconds of one load, over as many as a run has objects.
fn loaded(socket: &Path, len_bytes: u64, way: Way) -> Result<f64, String> {
    run(socket, "get", len_bytes, way, OBJECTS, OBJECTS)
}

/// Nanoseconds of one of so many commands, each on one of so many names.
///
/// The benchmark ends by itself, at the latest when the server does. What is done to a process before its program begins, as
/// to end it with this one, makes it a fork: that would have this process copy or claim again each page that it writes next.
fn run(
    socket: &Path,
    command: &str,
    len_bytes: u64,
    Way(connections, pipeline): Way,
    commands: usize,
    names: usize,
) -> Result<f64, String> {
    let (commands, names) = (commands.to_string(), names.to_string());
    let mut program = Command::new("redis-benchmark");
    program
        .arg("-s")
        .arg(socket)
        .args([
            "-c",
            connections,
            "-P",
            pipeline,
            "-n",
            &commands,
            "-r",
            &names,
        ])
        .args(["-d", &len_bytes.to_string(), "-t", command, "--csv"]);
    let output = program
        .output()
        .map_err(|error| format!("redis-benchmark does not start: {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    // "SET","251.97",...
    text.lines()
        .find_map(|line| {
            let (name, rest) = line.strip_prefix('"')?.split_once("\",\"")?;
            let per_second: f64 = rest.split('"').next()?.parse().ok()?;
            (name.eq_ignore_ascii_case(command) && per_second > 0.0).then_some(1e9 / per_second)
        })
        .ok_or_else(|| format!("redis-benchmark said {text:?}"))
}
