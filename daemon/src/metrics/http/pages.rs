//! What each path answers. Runs on the render thread.

use std::sync::{Mutex, PoisonError, TryLockError};
use std::time::{Duration, Instant};

use super::status::{self, Status};
use crate::metrics::SnapshotSource;
use crate::metrics::families::Snapshot;
use crate::metrics::history::History;
use crate::metrics::render::Renderer;

/// Whatever `Accept` says: a scraper that negotiates must never see a second spelling of a name.
const TEXT_0_0_4: &str = "text/plain; version=0.0.4; charset=utf-8";
const PLAIN: &str = "text/plain; charset=utf-8";
const HTML: &str = "text/html; charset=utf-8";

/// One answer, before tiny_http puts it on the wire.
pub(super) struct Page {
    pub(super) status: u16,
    pub(super) content_type: &'static str,
    pub(super) body: String,
    /// Says which methods are allowed.
    pub(super) has_allow: bool,
    /// What a browser may do with it, where it is for one.
    pub(super) content_policy: Option<&'static str>,
}

impl Page {
    fn new(status: u16, content_type: &'static str, body: impl Into<String>) -> Self {
        Self {
            status,
            content_type,
            body: body.into(),
            has_allow: false,
            content_policy: None,
        }
    }

    /// The answer to a request that met a defect.
    pub(super) fn panicked() -> Self {
        Self::new(
            500,
            PLAIN,
            "The page met a defect; the daemon's log says more.\n",
        )
    }
}

/// Everything that pages are made of; outlives a rebuild of the inner hop.
pub(super) struct Pages {
    renderer: Renderer,
    /// Locked by the render thread for the time of one question. A render thread that was given up may
    /// still hold it, so nobody waits for it.
    source: Mutex<Box<dyn SnapshotSource>>,
    snapshot_within: Duration,
    started: Instant,
    /// Locked for the time of a push or a copy, never while the loop thread is asked.
    history: Mutex<History>,
}

impl Pages {
    pub(super) fn new(
        renderer: Renderer,
        source: Box<dyn SnapshotSource>,
        snapshot_within: Duration,
    ) -> Self {
        Self {
            renderer,
            source: Mutex::new(source),
            snapshot_within,
            started: Instant::now(),
            history: Mutex::default(),
        }
    }

    /// Answers one request; a query behind the path is ignored.
    pub(super) fn answer(&self, method: &str, target: &str) -> Page {
        let path = target.split_once('?').map_or(target, |(path, _)| path);
        let page: fn(&Self) -> Page = match path {
            "/metrics" => Self::metrics,
            "/healthz" => Self::health,
            "/" => Self::front,
            _ => {
                return Page::new(
                    404,
                    PLAIN,
                    "Nothing is here; the metrics are at /metrics.\n",
                );
            }
        };
        if method != "GET" && method != "HEAD" {
            let mut refused = Page::new(405, PLAIN, "Only GET and HEAD are allowed here.\n");
            refused.has_allow = true;
            return refused;
        }
        page(self)
    }

    fn metrics(&self) -> Page {
        let Some(snapshot) = self.snapshot() else {
            let waited = self.snapshot_within.as_secs_f64();
            return Page::new(
                503,
                PLAIN,
                format!("The daemon is busy: it gave no figures within {waited} seconds.\n"),
            );
        };
        match self.renderer.render(&snapshot) {
            Ok(text) => Page::new(200, TEXT_0_0_4, text),
            Err(error) => {
                log::warn!("A scrape failed: {error}.");
                Page::new(
                    500,
                    PLAIN,
                    format!("The figures cannot be shown: {error}.\n"),
                )
            }
        }
    }

    fn health(&self) -> Page {
        if self.ask(|source| source.is_serving()).unwrap_or(false) {
            Page::new(200, PLAIN, "ok\n")
        } else {
            Page::new(503, PLAIN, "The daemon is not serving.\n")
        }
    }

    fn front(&self) -> Page {
        let snapshot = self.snapshot();
        let uptime = self.started.elapsed();
        let now = snapshot.as_ref().map(|snapshot| {
            let history = self.history.lock().unwrap_or_else(PoisonError::into_inner);
            (snapshot, history.series(uptime, snapshot))
        });
        let body = status::render(&Status {
            now: now.as_ref().map(|(snapshot, series)| (*snapshot, series)),
            is_serving: self.ask(|source| source.is_serving()).unwrap_or(false),
            uptime,
        });
        let mut page = Page::new(200, HTML, body);
        page.content_policy = Some(status::CONTENT_POLICY);
        page
    }

    fn snapshot(&self) -> Option<Snapshot> {
        let deadline = Instant::now() + self.snapshot_within;
        let snapshot = self.ask(|source| source.snapshot(deadline)).flatten()?;
        self.history
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .record(self.started.elapsed(), &snapshot);
        Some(snapshot)
    }

    /// `None` when a render thread that was given up still asks.
    fn ask<T>(&self, question: impl FnOnce(&dyn SnapshotSource) -> T) -> Option<T> {
        match self.source.try_lock() {
            Ok(source) => Some(question(source.as_ref())),
            // A source that panicked once is asked again: it has no state that we know of.
            Err(TryLockError::Poisoned(poisoned)) => Some(question(poisoned.into_inner().as_ref())),
            Err(TryLockError::WouldBlock) => None,
        }
    }
}
