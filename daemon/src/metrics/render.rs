//! A snapshot as Prometheus text 0.0.4.
//!
//! Runs on the render thread of the endpoint. The registry of the `prometheus` crate is built once and
//! proves that no name is declared twice; its one collector turns the snapshot at hand into families.
//! No counter lives in the crate: what is shown is what the loop thread copied, to the last digit.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use prometheus::core::{Collector, Desc};
use prometheus::proto::{
    Bucket, Counter, Gauge, Histogram as HistogramSample, LabelPair, Metric, MetricFamily,
    MetricType,
};
use prometheus::{Registry, TextEncoder};

use super::durations::TimedRequest;
use super::families::{FAMILIES, Kind, Read, Snapshot, Unit, defect};
use super::process::{ProcessFigures, ProcessReader};
use super::tiers::TIER_FAMILIES;
use crate::histogram::Histogram;

/// What the daemon says of its own build; its one sample is always 1.
const BUILD_INFO: (&str, Unit, &str) = (
    "hostkv_build_info",
    Unit::Info,
    "Always 1; the label says which version of hostkvd this is.",
);

/// What a histogram of durations counts in a second.
pub(super) const NS_PER_SECOND: f64 = 1e9;

/// Why no text came out.
#[derive(Debug, thiserror::Error)]
pub enum RenderError {
    /// A family is declared against the rules of names.
    #[error("the metric family {name} is declared wrongly: {defect}")]
    Declaration {
        /// The family.
        name: String,
        /// What is wrong.
        defect: &'static str,
    },
    /// A declared family is refused by the `prometheus` crate.
    #[error("the metric families cannot be registered: {0}")]
    Register(#[source] prometheus::Error),
    /// The `prometheus` crate could not write the families.
    #[error("the metric families cannot be written as text: {0}")]
    Encode(#[source] prometheus::Error),
}

/// Turns snapshots into text.
///
/// Opens the files of `/proc/self` that it needs when it is made, so that it goes on working when the
/// process later has no descriptors left or may no longer see `/proc`.
pub struct Renderer {
    registry: Registry,
    current: Arc<Mutex<Current>>,
    process: ProcessReader,
}

/// What the next gathering shows. The lock only hands it from [`Renderer::render`] to the collector,
/// which the registry owns; nothing waits or logs while holding it.
#[derive(Default)]
struct Current {
    snapshot: Snapshot,
    process: ProcessFigures,
}

impl Renderer {
    /// A renderer for this process.
    pub fn new() -> Result<Self, RenderError> {
        let current = Arc::new(Mutex::new(Current::default()));
        let registry = Registry::new();
        let collector = SnapshotCollector::new(Arc::clone(&current))?;
        registry
            .register(Box::new(collector))
            .map_err(RenderError::Register)?;
        Ok(Self {
            registry,
            current,
            process: ProcessReader::open(),
        })
    }

    /// The text of one scrape.
    pub fn render(&self, snapshot: &Snapshot) -> Result<String, RenderError> {
        *lock(&self.current) = Current {
            snapshot: snapshot.clone(),
            process: self.process.read(),
        };
        TextEncoder::new()
            .encode_to_string(&self.registry.gather())
            .map_err(RenderError::Encode)
    }
}

/// A panic while the lock was held leaves plain figures behind, which the next scrape overwrites.
fn lock(current: &Mutex<Current>) -> std::sync::MutexGuard<'_, Current> {
    current.lock().unwrap_or_else(PoisonError::into_inner)
}

struct SnapshotCollector {
    descriptions: Vec<Desc>,
    current: Arc<Mutex<Current>>,
}

impl SnapshotCollector {
    fn new(current: Arc<Mutex<Current>>) -> Result<Self, RenderError> {
        let mut descriptions = vec![describe(
            BUILD_INFO.0,
            BUILD_INFO.1,
            Kind::Gauge,
            BUILD_INFO.2,
            &["version"],
        )?];
        for row in FAMILIES {
            let labels: &[&str] = match row.read {
                Read::One(_) | Read::Durations(_) => &[],
                Read::ByReason(_) => &["reason"],
                Read::ByRequest(_) => &["request"],
            };
            descriptions.push(describe(row.name, row.unit, row.kind, row.help, labels)?);
        }
        for row in TIER_FAMILIES {
            descriptions.push(describe(
                row.name,
                row.unit,
                row.kind,
                row.help,
                row.labels(),
            )?);
        }
        for row in super::process::FAMILIES {
            descriptions.push(describe(row.name, row.unit, row.kind, row.help, &[])?);
        }
        Ok(Self {
            descriptions,
            current,
        })
    }
}

fn describe(
    name: &str,
    unit: Unit,
    kind: Kind,
    help: &str,
    labels: &[&str],
) -> Result<Desc, RenderError> {
    if let Some(defect) = defect(name, unit, kind, help) {
        let name = name.to_owned();
        return Err(RenderError::Declaration { name, defect });
    }
    let labels = labels.iter().map(ToString::to_string).collect();
    Desc::new(name.to_owned(), help.to_owned(), labels, HashMap::new())
        .map_err(RenderError::Register)
}

impl Collector for SnapshotCollector {
    fn desc(&self) -> Vec<&Desc> {
        self.descriptions.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let current = lock(&self.current);
        let version = sample(Kind::Gauge, 1.0, &[("version", env!("CARGO_PKG_VERSION"))]);
        let mut families = vec![whole(
            BUILD_INFO.0,
            BUILD_INFO.2,
            Kind::Gauge,
            vec![version],
        )];
        for row in FAMILIES {
            let samples = match row.read {
                Read::One(read) => vec![sample(row.kind, read(&current.snapshot), &[])],
                Read::ByReason(read) => read(&current.snapshot)
                    .into_iter()
                    .map(|(reason, count)| sample(row.kind, count as f64, &[("reason", reason)]))
                    .collect(),
                Read::Durations(read) => {
                    vec![distribution(read(&current.snapshot), NS_PER_SECOND, &[])]
                }
                Read::ByRequest(read) => {
                    let all = read(&current.snapshot);
                    TimedRequest::ALL
                        .into_iter()
                        .map(|request| {
                            let label = ("request", request.label());
                            distribution(all.of(request), NS_PER_SECOND, &[label])
                        })
                        .collect()
                }
            };
            families.push(whole(row.name, row.help, row.kind, samples));
        }
        for row in TIER_FAMILIES {
            let samples = row.samples(&current.snapshot.tiers);
            // Without a tier there is nothing to show, and a family without a sample is none.
            if !samples.is_empty() {
                families.push(whole(row.name, row.help, row.kind, samples));
            }
        }
        for row in super::process::FAMILIES {
            // What /proc does not tell is left out: a made-up 0 would look like a reading.
            if let Some(value) = (row.read)(&current.process) {
                let samples = vec![sample(row.kind, value, &[])];
                families.push(whole(row.name, row.help, row.kind, samples));
            }
        }
        families
    }
}

/// A counter or a gauge.
pub(super) fn sample(kind: Kind, value: f64, labels: &[(&str, &str)]) -> Metric {
    let mut metric = labelled(labels);
    if kind == Kind::Counter {
        let mut counter = Counter::default();
        counter.set_value(value);
        metric.set_counter(counter);
    } else {
        let mut gauge = Gauge::default();
        gauge.set_value(value);
        metric.set_gauge(gauge);
    }
    metric
}

/// A histogram, its bounds and its sum in a unit of which one is `per_unit` of its own. The encoder adds the bucket
/// without a bound.
pub(super) fn distribution(
    histogram: &Histogram,
    per_unit: f64,
    labels: &[(&str, &str)],
) -> Metric {
    let buckets = histogram.cumulative().map(|(bound, count)| {
        let mut bucket = Bucket::default();
        bucket.set_upper_bound(bound as f64 / per_unit);
        bucket.set_cumulative_count(count);
        bucket
    });
    let mut sample = HistogramSample::default();
    sample.set_bucket(buckets.collect());
    sample.set_sample_count(histogram.count());
    sample.set_sample_sum(histogram.sum() as f64 / per_unit);
    let mut metric = labelled(labels);
    metric.set_histogram(sample);
    metric
}

fn labelled(labels: &[(&str, &str)]) -> Metric {
    let mut metric = Metric::default();
    let pairs = labels.iter().map(|(name, value)| {
        let mut pair = LabelPair::default();
        pair.set_name((*name).to_owned());
        pair.set_value((*value).to_owned());
        pair
    });
    metric.set_label(pairs.collect());
    metric
}

fn whole(name: &str, help: &str, kind: Kind, samples: Vec<Metric>) -> MetricFamily {
    let mut family = MetricFamily::default();
    family.set_name(name.to_owned());
    family.set_help(help.to_owned());
    family.set_field_type(match kind {
        Kind::Counter => MetricType::COUNTER,
        Kind::Gauge => MetricType::GAUGE,
        Kind::Histogram => MetricType::HISTOGRAM,
    });
    family.set_metric(samples);
    family
}
