//! The resp tier beside `redis-benchmark`, Redis's own: as many values of the same length, on the same socket.
//!
//! An object of these lengths is one value of Redis. The benchmark writes the same bytes again and again and throws away
//! what it reads; the tier copies, sums, asks whether the object is there, and stores its seal.

use std::path::Path;
use std::process::Command;

use super::{Bench, OBJECTS, Times, show};
use crate::measure::crowded_runs;
use crate::peers::redis::Redis;
use crate::pool::attach;
use crate::report::Report;
use crate::table::Row;

const LENS_BYTES: [u64; 2] = [1 << 20, 2 << 20];
/// Connections of the benchmark, and commands that each sends before it reads an answer: the best of these is the limit, as
/// more of either are often slower with values of this length.
const WAYS: [Way; 6] = [
    Way("2", "1"),
    Way("4", "1"),
    Way("8", "1"),
    Way("2", "4"),
    Way("4", "4"),
    Way("8", "4"),
];
/// Times that each is tried.
const TRIALS: usize = 3;
/// Random keys of so many objects are written so many times that the reads find them.
const FILLINGS: usize = 8;

/// Connections and commands.
#[derive(Clone, Copy)]
struct Way(&'static str, &'static str);

/// Stores and loads of objects of 1 and 2 MiB; absent where there is no Redis.
pub fn rows(report: &mut Report) -> Result<(), String> {
    let redis = match Redis::start() {
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
        run(&socket, "set", len_bytes, WAYS[0], FILLINGS * OBJECTS)?;
        let set = quickest(&socket, "set", len_bytes)?;
        let get = quickest(&socket, "get", len_bytes)?;
        let mut number = 0;
        let measured = crowded_runs(&[redis.pid()], || {
            number += 1;
            let times = Times {
                store: bench.store(number)?,
                store_limit: limit(&socket, "set", len_bytes, set)?,
                load: bench.load(number)?,
                load_limit: limit(&socket, "get", len_bytes, get)?,
            };
            bench.remove(number)?;
            Ok(times)
        })?;
        let limits = [set, get].map(|Way(c, p)| format!("redis-benchmark -c {c} -P {p}"));
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

fn quickest(socket: &Path, command: &str, len_bytes: u64) -> Result<Way, String> {
    let mut best = (WAYS[0], f64::INFINITY);
    for _ in 0..TRIALS {
        for way in WAYS {
            let ns = limit(socket, command, len_bytes, way)?;
            if ns < best.1 {
                best = (way, ns);
            }
        }
    }
    Ok(best.0)
}

/// Nanoseconds of one command, over as many as a run has objects, on as many keys.
fn limit(socket: &Path, command: &str, len_bytes: u64, way: Way) -> Result<f64, String> {
    run(socket, command, len_bytes, way, OBJECTS)
}

fn run(
    socket: &Path,
    command: &str,
    len_bytes: u64,
    Way(connections, pipeline): Way,
    commands: usize,
) -> Result<f64, String> {
    let (commands, objects) = (commands.to_string(), OBJECTS.to_string());
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
            &objects,
        ])
        .args(["-d", &len_bytes.to_string(), "-t", command, "--csv"]);
    attach(&mut program);
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
