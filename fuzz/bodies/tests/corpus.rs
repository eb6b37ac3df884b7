//! Replays the committed corpus of every fuzz target on plain stable: each file as it is, cut short, and with bits
//! flipped. A crash that was ever found stays in `regressions/` and is replayed with them.
//!
//! The damage comes from a seed, which is printed and taken from `HOSTKV_TEST_SEED`.
#![allow(
    clippy::unwrap_used,
    reason = "a test fails by panicking, with the place and the error"
)]

use std::collections::BTreeSet;
use std::fs;
use std::hash::{BuildHasher as _, RandomState};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use hostkv_fuzz_bodies::TARGETS;
use hostkv_shm_protocol::wire::header::{FrameHeader, MessageType};
use hostkv_shm_protocol::wire::reply::Reply;
use hostkv_shm_protocol::wire::request::Request;

/// Time for the damaged files of one target.
const DAMAGE_WITHIN: Duration = Duration::from_secs(3);
/// Damaged files of one target at most.
const DAMAGED: usize = 4000;

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }
}

fn files_of(folder: &str, target: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("..")
        .join(folder);
    let Ok(entries) = fs::read_dir(folder.join(target)) else {
        return Vec::new();
    };
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

fn play(target: &str, body: fn(&[u8]), data: &[u8], what: &str) {
    if catch_unwind(AssertUnwindSafe(|| body(data))).is_err() {
        let kept =
            std::env::temp_dir().join(format!("hostkv-fuzz-{target}-{}", std::process::id()));
        fs::write(&kept, data).unwrap();
        panic!(
            "target {target} fails with {what}; replay: scripts/fuzz.sh --replay {target} {}",
            kept.display()
        );
    }
}

fn damaged(data: &[u8], random: &mut Random) -> Vec<u8> {
    let mut data = data.to_vec();
    if random.next().is_multiple_of(4) {
        data.truncate(random.below(data.len()));
    }
    for _ in 0..random.below(4) {
        let len = data.len();
        if let Some(byte) = data.get_mut(random.below(len)) {
            *byte ^= 1 << random.below(8);
        }
    }
    data
}

fn replay(target: &str) {
    let (_, body) = TARGETS.iter().find(|(name, _)| *name == target).unwrap();
    let corpus = files_of("corpus", target);
    assert!(
        corpus.len() >= 5,
        "the corpus of {target} has {} files",
        corpus.len()
    );
    let regressions = files_of("regressions", target);
    let files: Vec<(PathBuf, Vec<u8>)> = corpus
        .into_iter()
        .chain(regressions)
        .map(|path| (path.clone(), fs::read(path).unwrap()))
        .collect();
    for (path, data) in &files {
        play(target, *body, data, &path.display().to_string());
    }
    let seed = std::env::var("HOSTKV_TEST_SEED")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or_else(|| RandomState::new().hash_one(0));
    eprintln!("HOSTKV_TEST_SEED={seed}");
    let mut random = Random(seed);
    let begin = Instant::now();
    let mut count = 0;
    while count < DAMAGED && begin.elapsed() < DAMAGE_WITHIN {
        let (path, data) = &files[random.below(files.len())];
        let data = damaged(data, &mut random);
        let what = format!("{} damaged under HOSTKV_TEST_SEED={seed}", path.display());
        play(target, *body, &data, &what);
        count += 1;
    }
    println!("{target}: {} files and {count} damaged ones", files.len());
}

#[test]
fn no_frame_harms_a_decoder() {
    replay("frames");
}

#[test]
fn no_order_of_moves_harms_the_session_and_its_store() {
    replay("session");
}

#[test]
fn no_lease_segment_harms_the_daemon() {
    replay("lease");
}

#[test]
fn no_control_segment_harms_a_client() {
    replay("control");
}

#[test]
fn no_configuration_harms_the_start() {
    replay("config");
}

/// From one that is understood, damage reaches every field behind the type.
#[test]
fn the_corpus_of_frames_has_each_request_and_each_reply() {
    let mut understood = BTreeSet::new();
    for path in files_of("corpus", "frames") {
        let mut data = fs::read(path).unwrap();
        // As the target does: the frame says its true length.
        let len = data.len() as u32;
        if let Some(said) = data.get_mut(..4) {
            said.copy_from_slice(&len.to_le_bytes());
        }
        if let Ok((header, body)) = FrameHeader::decode(&data) {
            let number = header.message as u16;
            if Request::decode(&header, body.clone()).is_ok() {
                understood.insert((number, "request"));
            }
            if Reply::decode(&header, body).is_ok() {
                understood.insert((number, "reply"));
            }
        }
    }
    let all =
        (1..=u16::MAX).map_while(|number| MessageType::from_number(number).map(|m| (number, m)));
    let missing: Vec<_> = all
        .flat_map(|(number, message)| {
            let kinds: &[&str] = match message {
                // These two have decoders of their own.
                MessageType::Challenge | MessageType::Hello => &[],
                MessageType::Error => &["reply"],
                _ => &["request", "reply"],
            };
            kinds.iter().map(move |kind| (message, (number, *kind)))
        })
        .filter(|(_, seed)| !understood.contains(seed))
        .collect();
    assert!(missing.is_empty(), "no file is one of {missing:?}");
}

#[test]
fn every_target_is_replayed_here() {
    let names: Vec<&str> = TARGETS.iter().map(|(name, _)| *name).collect();
    assert_eq!(names, ["frames", "session", "lease", "control", "config"]);
}
