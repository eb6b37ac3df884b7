//! From a spec to an opened tier, within its deadline.

use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread::Builder;
use std::time::Duration;

use super::backend::{Backend, Fault};
use super::fault::FaultInject;
use super::fs::FsTier;
use super::spec::{Adapter, AdapterSpec};
use crate::workers::PayloadBytes;

/// Opens what a spec says; may wait for as long as the store likes.
pub(super) fn open(spec: &AdapterSpec, payload: PayloadBytes) -> Result<Arc<dyn Backend>, Fault> {
    Ok(match &spec.adapter {
        Adapter::Fs(fs) => Arc::new(FsTier::open(fs, payload)?),
        #[cfg(feature = "l2-remote")]
        Adapter::Resp(resp) => Arc::new(super::remote::open_resp(resp, spec.timeout, payload)?),
        #[cfg(feature = "l2-remote")]
        Adapter::S3(s3) => Arc::new(super::remote::open_s3(s3, spec.timeout, payload)?),
        #[cfg(not(feature = "l2-remote"))]
        Adapter::Resp(_) | Adapter::S3(_) => {
            return Err(Fault::error(
                "this hostkvd was built without the feature l2-remote; build it with that or leave the adapter out",
            ));
        }
        Adapter::FaultInject(fault) => {
            let inner = open(&fault.inner, payload)?;
            Arc::new(FaultInject::new(fault, inner, spec.timeout, payload))
        }
    })
}

/// The least that an opening may take: it makes folders, looks names up, logs in.
const LEAST_TIMEOUT: Duration = Duration::from_secs(5);

/// How long the opening of what a spec says may take.
pub(super) fn timeout_of(spec: &AdapterSpec) -> Duration {
    spec.timeout.max(LEAST_TIMEOUT)
}

/// Opens what a spec says, or gives up at its deadline; then the thread that waits goes on alone.
pub(super) fn open_in_time(
    spec: &AdapterSpec,
    payload: PayloadBytes,
) -> Result<Arc<dyn Backend>, Fault> {
    let (sender, receiver) = channel();
    let timeout = timeout_of(spec);
    let spec = spec.clone();
    Builder::new()
        .name(super::OPEN_THREAD.to_owned())
        .spawn(move || {
            // Nobody receives what comes too late.
            let _ = sender.send(open(&spec, payload));
        })
        .map_err(|error| Fault::error(format!("starting a thread failed: {error}")))?;
    receiver.recv_timeout(timeout).unwrap_or_else(|why| match why {
        RecvTimeoutError::Disconnected => Err(Fault::error(
            "the thread that opens it panicked; report this defect of hostkvd with the ERROR line of its log".to_owned(),
        )),
        RecvTimeoutError::Timeout => Err(Fault::timeout(format!(
            "it did not answer within {} ms; start what it needs, give it a longer timeout_ms, or let hostkvd start without it by \"required\": false",
            timeout.as_millis()
        ))),
    })
}
