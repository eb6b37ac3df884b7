//! One scrape of `/metrics`, over a plain TCP connection.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};

use crate::PATIENCE;

/// The nine contract counters, without their common prefix `lmcache_mp:`.
pub const NINE: [&str; 9] = [
    "sm_read_requests_total",
    "sm_read_succeed_keys_total",
    "sm_read_failed_keys_total",
    "sm_write_requests_total",
    "sm_write_succeed_keys_total",
    "sm_write_failed_keys_total",
    "l1_read_keys_total",
    "l1_write_keys_total",
    "l1_evicted_keys_total",
];

/// What an endpoint answered.
#[derive(Debug, Clone)]
pub struct Scrape {
    /// Status line and headers.
    pub head: String,
    /// The body as it came.
    pub body: String,
    samples: BTreeMap<String, f64>,
}

impl Scrape {
    /// Asks `path` of the endpoint.
    pub fn get(address: SocketAddr, path: &str) -> std::io::Result<Scrape> {
        let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let ask = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
        stream.write_all(ask.as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
        let samples = body
            .lines()
            .filter(|line| !line.starts_with('#'))
            .filter_map(|line| line.rsplit_once(' '))
            .filter_map(|(name, number)| Some((name.to_owned(), number.parse().ok()?)))
            .collect();
        Ok(Scrape {
            head: head.to_owned(),
            body: body.to_owned(),
            samples,
        })
    }

    /// The sample of this name, labels included.
    pub fn sample(&self, name: &str) -> f64 {
        match self.samples.get(name) {
            Some(number) => *number,
            None => panic!("there is no sample {name:?} in:\n{}", self.body),
        }
    }

    /// The sample of this name, if there is one.
    pub fn find(&self, name: &str) -> Option<f64> {
        self.samples.get(name).copied()
    }

    /// A contract counter, named without its prefix `lmcache_mp:`.
    pub fn counter(&self, name: &str) -> u64 {
        self.sample(&format!("lmcache_mp:{name}")) as u64
    }

    /// The nine contract counters in the order of [`NINE`].
    pub fn nine(&self) -> [u64; 9] {
        NINE.map(|name| self.counter(name))
    }

    /// Keys of a failed write for this reason.
    pub fn write_failures(&self, reason: &str) -> u64 {
        self.sample(&format!(
            "hostkv_write_failures_total{{reason=\"{reason}\"}}"
        )) as u64
    }

    /// Every sample whose name ends like a counter's.
    pub fn counters(&self) -> impl Iterator<Item = (&str, f64)> {
        self.samples
            .iter()
            .filter(|(name, _)| name.split('{').next().unwrap_or("").ends_with("_total"))
            .map(|(name, number)| (name.as_str(), *number))
    }

    /// Panics unless found + failed = asked, for reads and for writes.
    pub fn assert_adds_up(&self) {
        for (what, asked) in [
            ("read", "hostkv_read_keys_total"),
            ("write", "hostkv_write_keys_total"),
        ] {
            let succeeded = self.counter(&format!("sm_{what}_succeed_keys_total"));
            let failed = self.counter(&format!("sm_{what}_failed_keys_total"));
            assert_eq!(
                succeeded + failed,
                self.sample(asked) as u64,
                "{what}: {succeeded} succeeded, {failed} failed"
            );
        }
    }
}
