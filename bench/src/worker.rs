//! Other processes that read or store at the same time: this program again, told what to do.
//!
//! ```text
//!   parent                              worker
//!     spawn ───────────────────────────>  opens its session, says "ready"
//!     "go MILLISECONDS" ───────────────>  works for as long
//!     <──────────── "OPS KEYS CPU_NS WALL_NS"   and so on, until its standard input ends
//! ```

use crate::keys::{SEED, random_keys};
use crate::machine;
use crate::peers::LmdbReader;
use crate::pool::{attach, items, keyspace, said, session, store_unwritten};
use hostkv::session::ACQUIRE_ALL;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

/// Keys of a call.
pub const BATCH: usize = 32;
/// Keys of a store of the churning writer.
const CHURN_BATCH: u64 = 256;
/// Random keys that a reader goes through again and again.
const SAMPLE: usize = 65_536;

/// What a worker does.
#[derive(Debug, Clone, Copy)]
pub enum Work {
    /// Acquires and releases 32 random keys of `0..live`.
    Read(u64),
    /// The same on LMDB.
    ReadLmdb(u64),
    /// Stores new objects of this many bytes, without writing them.
    Churn(u64),
}

/// What a worker did in one go.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Done {
    /// Calls.
    pub calls: f64,
    /// Keys found, or stored.
    pub keys: f64,
    /// Nanoseconds of CPU, user and system.
    pub cpu_ns: f64,
    /// Nanoseconds.
    pub wall_ns: f64,
}

impl Done {
    /// Keys for each second of CPU.
    pub fn keys_per_cpu_second(&self) -> f64 {
        self.keys / self.cpu_ns * 1e9
    }
}

impl std::iter::Sum for Done {
    fn sum<I: Iterator<Item = Done>>(all: I) -> Done {
        all.fold(Done::default(), |a, b| Done {
            calls: a.calls + b.calls,
            keys: a.keys + b.keys,
            cpu_ns: a.cpu_ns + b.cpu_ns,
            wall_ns: a.wall_ns.max(b.wall_ns),
        })
    }
}

/// A worker's process; it ends with this value.
pub struct Worker {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Worker {
    /// Starts one on the daemon at this socket, or on the database in this folder; `seed` makes its keys its own.
    pub fn start(work: Work, at: &Path, seed: u64) -> Result<Worker, String> {
        let fault = |error: std::io::Error| format!("a worker does not start: {error}");
        let (name, number) = match work {
            Work::Read(live) => ("read", live),
            Work::ReadLmdb(live) => ("read-lmdb", live),
            Work::Churn(len) => ("churn", len),
        };
        let mut command = Command::new(std::env::current_exe().map_err(fault)?);
        command
            .args(["worker", name, &number.to_string(), &seed.to_string()])
            .arg(at)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        attach(&mut command);
        let mut child = command.spawn().map_err(fault)?;
        let (input, output) = (child.stdin.take(), child.stdout.take());
        let mut worker = Worker {
            child,
            input,
            output: BufReader::new(output.ok_or("a worker has no output")?),
        };
        match worker.line()?.as_str() {
            "ready" => Ok(worker),
            other => Err(format!("a worker said '{other}' instead of 'ready'")),
        }
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Lets it work for as long.
    pub fn go(&mut self, time: Duration) -> Result<(), String> {
        let input = self.input.as_mut().ok_or("a worker has no input")?;
        writeln!(input, "go {}", time.as_millis()).map_err(|error| format!("a worker: {error}"))
    }

    /// Waits for what it did.
    pub fn done(&mut self) -> Result<Done, String> {
        let line = self.line()?;
        let figures: Vec<f64> = line
            .split(' ')
            .filter_map(|text| text.parse().ok())
            .collect();
        match figures[..] {
            [calls, keys, cpu_ns, wall_ns] if calls > 0.0 => Ok(Done {
                calls,
                keys,
                cpu_ns,
                wall_ns,
            }),
            _ => Err(format!("a worker failed: {line}")),
        }
    }

    fn line(&mut self) -> Result<String, String> {
        let mut line = String::new();
        self.output
            .read_line(&mut line)
            .map_err(|error| format!("a worker: {error}"))?;
        Ok(line.trim().to_owned())
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // Its input ends, and so does it.
        self.input = None;
        let _ = self.child.wait();
    }
}

/// Lets all work at once, and sums up what they did.
pub fn together(workers: &mut [Worker], time: Duration) -> Result<Done, String> {
    workers.iter_mut().try_for_each(|worker| worker.go(time))?;
    workers
        .iter_mut()
        .map(Worker::done)
        .collect::<Result<Vec<Done>, String>>()
        .map(|all| all.into_iter().sum())
}

/// The worker's own `main`, with the arguments behind "worker".
pub fn run(arguments: &[String]) -> Result<(), String> {
    let [name, number, seed, at] = arguments else {
        return Err("a worker needs its work, a number, a seed and a place".to_owned());
    };
    let number: u64 = number.parse().map_err(|_| "not a number")?;
    let seed: u64 = seed.parse().map_err(|_| "not a seed")?;
    let at = Path::new(at);
    match name.as_str() {
        "read" => {
            let session = session(at, 0)?;
            let keyspace = keyspace(&session)?;
            let keys = random_keys(SEED ^ seed, number, SAMPLE);
            let request = hostkv::session::Request {
                flags: ACQUIRE_ALL,
                ..Default::default()
            };
            serve(|turn| {
                let first = turn * BATCH % SAMPLE;
                let lease = session
                    .acquire(keyspace, &keys[first..first + BATCH], &request)
                    .map_err(said)?;
                // Most often all of them.
                let found = match lease.prefix_count() {
                    BATCH => BATCH,
                    _ => (0..BATCH).filter(|at| lease.span(*at).is_ok()).count(),
                };
                lease.release().map_err(said)?;
                Ok(found as u64)
            })
        }
        "read-lmdb" => {
            let reader = LmdbReader::open(at)?;
            let keys = random_keys(SEED ^ seed, number, SAMPLE);
            serve(|turn| {
                let first = turn * BATCH % SAMPLE;
                Ok(reader.find(&keys[first..first + BATCH])? as u64)
            })
        }
        "churn" => {
            let session = session(at, 0)?;
            let keyspace = keyspace(&session)?;
            let mut next = seed << 40;
            serve(|_| {
                store_unwritten(&session, keyspace, &items(next..next + CHURN_BATCH, number))?;
                next += CHURN_BATCH;
                Ok(CHURN_BATCH)
            })
        }
        other => Err(format!("unknown work '{other}'")),
    }
}

/// Answers each "go" with what `call`, which gives the keys it found or stored, did meanwhile.
fn serve(mut call: impl FnMut(usize) -> Result<u64, String>) -> Result<(), String> {
    println!("ready");
    let own = std::process::id();
    let mut turn = 0;
    for line in std::io::stdin().lines() {
        let line = line.map_err(|error| error.to_string())?;
        let time = line
            .strip_prefix("go ")
            .and_then(|text| text.parse().ok())
            .map(Duration::from_millis)
            .ok_or("a worker was told something else than to go")?;
        let (begin, cpu) = (Instant::now(), machine::cpu_ns(own)?);
        let (mut calls, mut keys) = (0_u64, 0);
        while begin.elapsed() < time {
            // The clock is looked at rarely.
            for _ in 0..16 {
                keys += call(turn)?;
                turn += 1;
            }
            calls += 16;
        }
        println!(
            "{calls} {keys} {} {}",
            machine::cpu_ns(own)? - cpu,
            begin.elapsed().as_nanos()
        );
    }
    Ok(())
}
