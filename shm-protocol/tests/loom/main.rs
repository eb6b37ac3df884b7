//! Models of everything that two processes do to the same words: loom tries the interleavings.
//!
//! Run by `scripts/models.sh`; a build without `--cfg loom` has no test here. Each file is one protocol. A model
//! is a small program of two or three threads that runs the crate's own code on pretended segments
//! ([`segments`]); where the protocol is another crate's (the bitmap of slots, a check before release) or its
//! steps are split over processes (doorbell, commit ring), the model has steps of its own that follow the rule
//! it names. [`harness`] runs it whole, then once for each way to break it, and every break must be found.
//!
//! Loom makes SeqCst fences somewhat stronger than the language does: it treats two of them as if the earlier
//! released to the later. It does not let a load take effect after a later store (load buffering). So a pass
//! here is not a proof on its own; SPEC.md gives the argument. Loom has no switch for fences that only order
//! coherence, hence no run with them.
#![cfg(loom)]
#![allow(clippy::unwrap_used, reason = "the helpers are test code too")]

mod doorbell;
mod events;
mod harness;
mod index;
mod pins;
mod quota;
mod recency;
mod revoke;
mod ring;
mod segments;
mod slots;
