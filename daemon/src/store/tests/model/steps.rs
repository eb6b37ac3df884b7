//! What clients, workers, the tier and time can do to the model's store.

use super::*;

#[derive(Debug, Clone)]
pub(super) enum Step {
    Reserve {
        client: usize,
        keys: Vec<(u64, u32)>,
    },
    Commit {
        client: usize,
        which: usize,
    },
    /// A commit and the next reserve in one request.
    CommitReserve {
        client: usize,
        which: usize,
        keys: Vec<(u64, u32)>,
    },
    Abort {
        client: usize,
        which: usize,
    },
    Remove {
        client: usize,
        key: u64,
    },
    Clear {
        client: usize,
    },
    Pin {
        client: usize,
        slot: usize,
        key: u64,
    },
    Unpin {
        client: usize,
        slot: usize,
    },
    Touch {
        client: usize,
        key: u64,
    },
    /// Extents ahead of need.
    Grant {
        client: usize,
        len_bytes: u32,
    },
    /// A record of the commit ring, for an object of `percent` of the granted length; claimed and not written at first, when
    /// it is late.
    Push {
        client: usize,
        key: u64,
        percent: u32,
        is_late: bool,
    },
    /// The record that was claimed first and not written is written.
    Finish {
        client: usize,
    },
    /// What is granted and not used goes back.
    Return {
        client: usize,
    },
    DrainRings,
    Slice,
    /// The loop hands the jobs to the workers.
    Take,
    /// A worker has done one.
    Work {
        which: usize,
    },
    Prefetch {
        client: usize,
        keys: Vec<u64>,
    },
    EndPrefetch {
        client: usize,
        which: usize,
    },
    /// The loop hands their work to the tiers.
    TakeTiers,
    /// A tier is done with one object, or fails.
    Tier {
        which: usize,
        is_well: bool,
    },
    /// The oldest store is given up, if a reserve wants that.
    GiveWay,
    Tick {
        ms: u64,
    },
    Die {
        client: usize,
        bye: bool,
    },
}

pub(super) fn step() -> impl Strategy<Value = Step> {
    let client = 0..CLIENTS;
    let item = (0..KEYS, prop_oneof![1_u32..9000, 1_u32..32_768]);
    prop_oneof![
        6 => (client.clone(), prop::collection::vec(item.clone(), 1..6))
            .prop_map(|(client, keys)| Step::Reserve { client, keys }),
        4 => (client.clone(), 0_usize..4, prop::collection::vec(item, 1..6))
            .prop_map(|(client, which, keys)| Step::CommitReserve { client, which, keys }),
        5 => (client.clone(), 0_usize..4).prop_map(|(client, which)| Step::Commit { client, which }),
        1 => (client.clone(), 0_usize..4).prop_map(|(client, which)| Step::Abort { client, which }),
        1 => (client.clone(), 0..KEYS).prop_map(|(client, key)| Step::Remove { client, key }),
        1 => client.clone().prop_map(|client| Step::Clear { client }),
        5 => (client.clone(), 0..SLOTS, 0..KEYS)
            .prop_map(|(client, slot, key)| Step::Pin { client, slot, key }),
        4 => (client.clone(), 0..SLOTS).prop_map(|(client, slot)| Step::Unpin { client, slot }),
        2 => (client.clone(), 0..KEYS).prop_map(|(client, key)| Step::Touch { client, key }),
        3 => (client.clone(), 1_u32..9000)
            .prop_map(|(client, len_bytes)| Step::Grant { client, len_bytes }),
        5 => (client.clone(), 0..KEYS, 1_u32..=100, prop::bool::weighted(0.2)).prop_map(
            |(client, key, percent, is_late)| Step::Push { client, key, percent, is_late }
        ),
        3 => client.clone().prop_map(|client| Step::Finish { client }),
        1 => client.clone().prop_map(|client| Step::Return { client }),
        4 => Just(Step::DrainRings),
        3 => Just(Step::Slice),
        4 => Just(Step::Take),
        4 => (0_usize..4).prop_map(|which| Step::Work { which }),
        3 => (client.clone(), prop::collection::vec(0..KEYS, 1..6))
            .prop_map(|(client, keys)| Step::Prefetch { client, keys }),
        2 => (client.clone(), 0_usize..4)
            .prop_map(|(client, which)| Step::EndPrefetch { client, which }),
        4 => Just(Step::TakeTiers),
        6 => (0_usize..8, prop::bool::weighted(0.9))
            .prop_map(|(which, is_well)| Step::Tier { which, is_well }),
        3 => Just(Step::GiveWay),
        2 => (1_u64..1500).prop_map(|ms| Step::Tick { ms }),
        1 => (client, any::<bool>()).prop_map(|(client, bye)| Step::Die { client, bye }),
    ]
}
