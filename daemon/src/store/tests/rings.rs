//! Grants, the commit ring, flushes, and what of them is left when a session ends.

use super::l2::{answer, only_in_tier, parked};
use super::*;
use hostkv_shm_protocol::wire::reply::GrantedExtent;
use hostkv_shm_protocol::wire::request::{Grant, GrantedItem};

const LEN: u32 = ALIGN;

/// A writer with a ring, its keyspace, and the position of its next record.
struct Writer {
    client: Client,
    keyspace: KeyspaceId,
    next: u64,
}

impl Writer {
    fn new(pool: &mut Pool) -> Writer {
        let client = pool.ring_client(8);
        let keyspace = pool.keyspace(client);
        Writer {
            client,
            keyspace,
            next: 0,
        }
    }

    fn ring(&self) -> Commits {
        self.client.commits.unwrap()
    }

    fn key(&self, number: u64) -> Key {
        key(self.keyspace, number)
    }

    fn push(&mut self, entry: EntryNumber, len_bytes: u32, key: &Key) {
        self.ring().write(self.next, entry, len_bytes, key);
        self.next += 1;
    }

    /// The outcome of its last record.
    fn outcome(&self) -> Status {
        assert_eq!(self.ring().tail(), self.next, "the record is not taken");
        self.ring().outcome(self.next - 1)
    }
}

impl Pool {
    fn grant(&mut self, client: Client, len_bytes: u32, count: u32) -> Vec<GrantedExtent> {
        let request = Grant { len_bytes, count };
        self.store
            .grant_extents(client.id, &request, self.now)
            .unwrap()
    }

    fn drain(&mut self) -> Vec<Resumed> {
        self.store.drain_rings(self.now)
    }

    fn recalls(&self) -> u32 {
        let header = self.store.header();
        header
            .grant_recall()
            .load(hostkv_shm_protocol::sync::Ordering::Relaxed)
    }
}

#[test]
fn a_record_makes_its_object_readable_and_pays_the_grant() {
    let mut pool = Pool::new(Options::default());
    let mut writer = Writer::new(&mut pool);
    let granted = pool.grant(writer.client, 2 * LEN, 2);
    assert_eq!(granted.len(), 2);
    assert_eq!(pool.audited().reserved_bytes, u64::from(4 * LEN));
    let name = writer.key(1);
    assert!(!pool.store.have_rings_work());
    writer.push(granted[0].entry, 2 * LEN - 5, &name);
    assert!(pool.store.have_rings_work());
    assert_eq!(pool.drain(), []);
    assert_eq!(writer.outcome(), Status::Ok);
    let found = pool.find(&name).unwrap();
    assert_eq!(
        (found.entry, found.seq, found.extent.offset_units),
        (
            granted[0].entry,
            granted[0].generation,
            granted[0].offset_units
        )
    );
    assert_eq!(found.extent.len_bytes, 2 * LEN - 5);
    let audit = pool.audited();
    assert_eq!(
        (audit.object_count, audit.reserved_bytes),
        (1, u64::from(2 * LEN))
    );
    assert_eq!(pool.store.stats().l1_write_keys, 1);
}

#[test]
fn grants_stay_within_their_shares_the_quotas_and_what_is_free() {
    // 64 units: a quarter for one session, half for all, by the shares of these tests. All but one of the others are used.
    let mut pool = Pool::new(Options {
        policy: EvictionPolicy::Noop,
        ..Options::default()
    });
    let other = pool.client();
    let keyspace = pool.keyspace(other);
    for number in 0..31 {
        assert_eq!(
            pool.store_one(other, key(keyspace, number), LEN),
            Status::Ok
        );
    }
    let writers: Vec<Writer> = (0..3).map(|_| Writer::new(&mut pool)).collect();
    let counts: Vec<usize> = writers
        .iter()
        .map(|writer| pool.grant(writer.client, LEN, 100).len())
        .collect();
    assert_eq!(counts, [16, 16, 0]);
    assert_eq!(pool.recalls(), 1, "what the others do not use is asked for");
    pool.audited();
    let first = writers[0].client;
    pool.store
        .close_session(writers[1].client.id, SessionEnd::Bye, pool.now);
    pool.settle();
    assert_eq!(pool.audited().reserved_count, 16);
    assert_eq!(pool.grant(first, LEN, 1).len(), 0, "its share is used up");
    assert_eq!(pool.grant(writers[2].client, 5 * LEN, 9).len(), 3);
    assert_eq!(pool.grant(writers[2].client, LEN, 9).len(), 1);
    let refusal = pool.store.grant_extents(
        other.id,
        &Grant {
            len_bytes: LEN,
            count: 1,
        },
        pool.now,
    );
    assert_eq!(refusal.unwrap_err().status, Status::InvalidArgument);
    for len_bytes in [0, u32::MAX] {
        let request = Grant {
            len_bytes,
            count: 1,
        };
        let refusal = pool.store.grant_extents(first.id, &request, pool.now);
        assert_eq!(refusal.unwrap_err().status, Status::InvalidArgument);
    }
    pool.audited();
}

#[test]
fn a_returned_grant_is_free_and_an_old_return_takes_nothing() {
    let mut pool = Pool::new(Options::default());
    let writer = Writer::new(&mut pool);
    let granted = pool.grant(writer.client, LEN, 3);
    let held: Vec<HeldItem> = granted
        .iter()
        .map(|extent| HeldItem {
            entry: extent.entry,
            generation: extent.generation,
        })
        .collect();
    let id = writer.client.id;
    pool.store.return_grants(id, &held).unwrap();
    assert_eq!(pool.audited().reserved_count, 0);
    assert_eq!(pool.grant(writer.client, LEN, 3).len(), 3);
    pool.store.return_grants(id, &held).unwrap();
    assert_eq!(pool.audited().reserved_count, 3, "other generations");
    let beyond = HeldItem {
        entry: EntryNumber(u32::MAX),
        generation: 2,
    };
    pool.store.return_grants(id, &[beyond]).unwrap();
    pool.audited();
}

#[test]
fn a_key_that_is_there_leaves_the_extent_granted() {
    let mut pool = Pool::new(Options::default());
    let (mut first, mut second) = (Writer::new(&mut pool), Writer::new(&mut pool));
    let name = first.key(1);
    let mine = pool.grant(first.client, LEN, 1)[0];
    let other = pool.grant(second.client, LEN, 1)[0];
    first.push(mine.entry, LEN, &name);
    second.push(other.entry, LEN, &name);
    pool.drain();
    assert_eq!(
        (first.outcome(), second.outcome()),
        (Status::Ok, Status::Exists)
    );
    let next = second.key(2);
    second.push(other.entry, LEN, &next);
    pool.drain();
    assert_eq!(second.outcome(), Status::Ok);
    assert_eq!(pool.audited().object_count, 2);
}

#[test]
fn the_first_commit_wins_over_a_reservation_whose_own_commit_then_says_exists() {
    for writer_aborts in [false, true] {
        let mut pool = Pool::new(Options {
            write_ttl_ns: Some(SECOND),
            ..Options::default()
        });
        let mut writer = Writer::new(&mut pool);
        let slow = pool.client();
        let keyspace = pool.keyspace(slow);
        let (name, beside) = (key(keyspace, 1), key(keyspace, 2));
        let (op_id, answers) = pool.reserve(slow, &[(name, LEN), (beside, LEN)]);
        let granted = pool.grant(writer.client, LEN, 1)[0];
        writer.push(granted.entry, LEN, &name);
        pool.drain();
        assert_eq!(writer.outcome(), Status::Ok);
        assert_eq!(pool.audited().quarantined_count, 1);
        if writer_aborts {
            let held = held(op_id, &answers);
            let told = pool.store.abort(slow.id, &held, pool.now).unwrap();
            assert_eq!(told, [Status::Ok, Status::Ok]);
        } else {
            assert_eq!(
                pool.commit(slow, op_id, &answers),
                [Status::Exists, Status::Ok]
            );
        }
        let audit = pool.audited();
        assert_eq!((audit.quarantined_count, audit.reserved_count), (0, 0));
        assert_eq!(pool.find(&name).unwrap().entry, granted.entry);
    }
}

#[test]
fn an_overtaken_reservation_that_also_expires_is_charged_once() {
    let mut pool = Pool::new(Options {
        write_ttl_ns: Some(SECOND),
        ..Options::default()
    });
    let mut writer = Writer::new(&mut pool);
    let slow = pool.client();
    let name = key(pool.keyspace(slow), 1);
    let (op_id, answers) = pool.reserve(slow, &[(name, LEN)]);
    let granted = pool.grant(writer.client, LEN, 1)[0];
    writer.push(granted.entry, LEN, &name);
    pool.drain();
    pool.next_second();
    pool.next_second();
    assert_eq!(pool.audited().quarantined_count, 1);
    assert_eq!(pool.commit(slow, op_id, &answers), [Status::Expired]);
    assert_eq!(pool.audited().quarantined_count, 0);
}

#[test]
fn a_flush_waits_for_a_record_that_another_thread_has_not_finished() {
    let mut pool = Pool::new(Options::default());
    let mut writer = Writer::new(&mut pool);
    let granted = pool.grant(writer.client, LEN, 2);
    let names = [writer.key(1), writer.key(2)];
    // The first record is claimed and not written.
    writer.ring().write(1, granted[1].entry, LEN, &names[1]);
    let id = writer.client.id;
    let outcome = pool.store.flush(id, 2).unwrap();
    let Outcome::Parked(ticket) = outcome else {
        panic!("{outcome:?}");
    };
    assert_eq!(pool.drain(), []);
    assert!(pool.find(&names[1]).is_none());
    writer.push(granted[0].entry, LEN, &names[0]);
    let done = pool.drain();
    let expected = Resumed {
        session: id,
        ticket,
        answer: ResumedAnswer::Flushed,
    };
    assert_eq!(done, [expected]);
    assert!(pool.find(&names[0]).is_some() && pool.find(&names[1]).is_some());
    assert_eq!(pool.store.flush(id, 2), Ok(Outcome::Done(())));
    assert_eq!(
        pool.store.flush(id, 11).unwrap_err().status,
        Status::InvalidArgument
    );
}

#[test]
fn a_flush_waits_until_the_workers_have_summed_what_was_committed() {
    let mut pool = Pool::new(Options {
        integrity: Integrity::Full,
        ..Options::default()
    });
    let mut writer = Writer::new(&mut pool);
    let granted = pool.grant(writer.client, LEN, 3);
    let name = writer.key(1);
    writer.push(granted[0].entry, LEN, &name);
    pool.drain();
    assert_eq!(writer.outcome(), Status::Ok);
    assert!(pool.find(&name).is_none());
    let Ok(Outcome::Parked(ticket)) = pool.store.flush(writer.client.id, 1) else {
        panic!("it does not wait");
    };
    // What comes later is not waited for.
    let later = writer.key(2);
    writer.push(granted[1].entry, LEN, &later);
    assert_eq!(pool.drain(), []);
    let jobs = pool.store.take_jobs();
    assert_eq!(jobs.len(), 2);
    pool.do_job(&jobs[0]);
    let found = pool.find(&name).unwrap();
    assert_eq!(pool.reader.sum(found.entry), Some(sum(found.extent)));
    assert_eq!(pool.drain().first().map(|done| done.ticket), Some(ticket));
    // A commit that is under way goes on when its session ends.
    pool.store
        .close_session(writer.client.id, SessionEnd::Death, pool.now);
    pool.do_job(&jobs[1]);
    assert!(pool.find(&later).is_some());
    let audit = pool.audited();
    assert_eq!((audit.reserved_count, audit.object_count), (0, 2));
}

#[test]
fn a_death_counts_what_is_finished_and_gives_the_grants_back() {
    for finished in [vec![], vec![0], vec![0, 1], vec![1], vec![3], vec![0, 2, 3]] {
        let mut pool = Pool::new(Options::default());
        let writer = Writer::new(&mut pool);
        let granted = pool.grant(writer.client, LEN, 6);
        let name = |n: u64| key(writer.keyspace, n);
        for position in &finished {
            let extent = granted[*position as usize];
            writer
                .ring()
                .write(*position, extent.entry, LEN, &name(*position));
        }
        pool.store
            .close_session(writer.client.id, SessionEnd::Death, pool.now);
        let audit = pool.audited();
        assert_eq!(audit.object_count, finished.len() as u64, "{finished:?}");
        assert_eq!(audit.reserved_bytes, 0, "{finished:?}");
        assert_eq!(audit.free_bytes + audit.object_bytes, audit.capacity_bytes);
        for position in &finished {
            let found = pool.find(&name(*position)).unwrap();
            assert_eq!(found.entry, granted[*position as usize].entry);
        }
        assert!(!pool.store.has_rings());
    }
}

#[test]
fn grants_of_a_session_that_has_ended_are_nobodys_before_they_are_free() {
    let mut pool = Pool::new(Options {
        entries: 16_384,
        units: 16_384,
        ..Options::default()
    });
    let writer = Writer::new(&mut pool);
    let mut granted = Vec::new();
    for _ in 0..4 {
        granted.extend(pool.grant(writer.client, LEN, 1024));
    }
    assert_eq!(granted.len(), 4096);
    pool.store
        .close_session(writer.client.id, SessionEnd::Death, pool.now);
    // The next session has the same slot.
    let mut next = Writer::new(&mut pool);
    let name = next.key(1);
    let is_granted =
        |extent: &&GrantedExtent| pool.store.entries.state(extent.entry) == EntryState::Granted;
    let left = *granted
        .iter()
        .find(is_granted)
        .expect("not all went at once");
    next.push(left.entry, LEN, &name);
    pool.drain();
    assert_eq!(next.outcome(), Status::InvalidArgument);
    pool.audited();
    pool.settle();
    assert_eq!(pool.audited().reserved_count, 0);
}

#[test]
fn a_parked_reserve_comes_before_grants_and_recalls_them() {
    let mut pool = Pool::new(Options {
        units: 16,
        ..Options::default()
    });
    let mut writer = Writer::new(&mut pool);
    let granted = pool.grant(writer.client, LEN, 4);
    for (number, extent) in (0..).zip(&granted) {
        let name = writer.key(number);
        writer.push(extent.entry, LEN, &name);
    }
    pool.drain();
    let other = pool.client();
    let keyspace = pool.keyspace(other);
    for number in 10..22 {
        assert_eq!(
            pool.store_one(other, key(keyspace, number), LEN),
            Status::Ok
        );
    }
    // Full of objects; what it lacks is to be evicted.
    let (_, outcome) = pool.try_reserve(other, &[(key(keyspace, 99), LEN)]);
    let Ok(Outcome::Parked(ticket)) = outcome else {
        panic!("{outcome:?}");
    };
    assert_eq!(pool.grant(writer.client, LEN, 1), []);
    assert_eq!(statuses(&pool.wait_for(ticket)), [Status::Ok]);
    pool.audited();
}

#[test]
fn granted_entries_are_committed_by_a_message_too() {
    for integrity in [Integrity::Off, Integrity::Full] {
        let mut pool = Pool::new(Options {
            integrity,
            ..Options::default()
        });
        let writer = Writer::new(&mut pool);
        let granted = pool.grant(writer.client, LEN, 3);
        let item = |at: usize, number| GrantedItem {
            key: key(writer.keyspace, number),
            entry: granted[at].entry,
            len_bytes: LEN,
        };
        let items = [item(0, 1), item(1, 2), item(2, 1)];
        let outcome = pool
            .store
            .commit_granted(writer.client.id, &items, pool.now)
            .unwrap();
        let told = match outcome {
            Outcome::Done(told) => told,
            Outcome::Parked(ticket) => {
                let job = pool.store.take_jobs().remove(0);
                let resumed = pool.do_job(&job).unwrap();
                assert_eq!(resumed.ticket, ticket);
                match resumed.answer {
                    ResumedAnswer::GrantedCommitted(told) => told,
                    other => panic!("{other:?}"),
                }
            }
        };
        // The last of the request comes first.
        assert_eq!(outcomes(&told), [Status::Exists, Status::Ok, Status::Ok]);
        assert_eq!(told[1].generation, granted[1].generation);
        let audit = pool.audited();
        assert_eq!((audit.object_count, audit.reserved_count), (2, 1));
    }
}

#[test]
fn no_ring_holds_the_loop_longer_than_a_slice_and_none_is_left_out() {
    let mut pool = Pool::new(Options {
        slice_ns: 1,
        ..Options::default()
    });
    let mut writers: Vec<Writer> = (0..3).map(|_| Writer::new(&mut pool)).collect();
    for (at, writer) in writers.iter_mut().enumerate() {
        for number in 0..4 {
            let extent = pool.grant(writer.client, LEN, 1)[0];
            let name = writer.key(at as u64 * 10 + number);
            writer.push(extent.entry, LEN, &name);
        }
    }
    for turn in 1..=12 {
        assert!(pool.store.have_rings_work());
        pool.drain();
        let tails: Vec<u64> = writers.iter().map(|writer| writer.ring().tail()).collect();
        assert_eq!(tails.iter().sum::<u64>(), turn);
        let spread = tails.iter().max().unwrap() - tails.iter().min().unwrap();
        assert!(spread <= 1, "{tails:?}");
    }
    assert!(!pool.store.have_rings_work());
    pool.audited();
}

#[test]
fn a_granted_extent_is_zeroed_before_another_gets_it() {
    let mut pool = Pool::new(Options {
        zeroes_on_reuse: true,
        ..Options::default()
    });
    let writer = Writer::new(&mut pool);
    pool.grant(writer.client, LEN, 2);
    pool.store
        .close_session(writer.client.id, SessionEnd::Death, pool.now);
    let jobs = pool.store.take_jobs();
    let is_zeroing = |job: &Job| matches!(job.task, Task::Zero { .. });
    assert_eq!(jobs.iter().filter(|job| is_zeroing(job)).count(), 2);
    pool.audited();
    for job in &jobs {
        pool.do_job(job);
    }
    let audit = pool.audited();
    assert_eq!(audit.free_bytes, audit.capacity_bytes);
}

#[test]
fn a_commit_overtakes_a_load_of_its_key_which_may_still_come_to_nothing() {
    for is_lost in [false, true] {
        let (mut pool, mut tier) = super::l2::pool();
        let mut writer = Writer::new(&mut pool);
        let names = only_in_tier(&mut pool, &mut tier, writer.client, 1);
        let (_, asked) = pool.prefetch(writer.client, &names);
        let ticket = parked(asked);
        tier.take(&mut pool);
        let lookup = tier.work.pop().unwrap();
        for completion in tier.completions(lookup) {
            pool.store.tier_ended(completion, pool.now);
        }
        // The load is under way now.
        let granted = pool.grant(writer.client, LEN, 1);
        writer.push(granted[0].entry, LEN, &names[0]);
        assert_eq!(pool.drain(), []);
        assert_eq!(writer.outcome(), Status::Ok);
        let flushed = pool.store.flush(writer.client.id, writer.next).unwrap();
        assert!(matches!(flushed, Outcome::Done(())), "{flushed:?}");
        let found = pool.find(&names[0]).unwrap();
        assert_eq!(found.entry, granted[0].entry);
        pool.audited();
        if is_lost {
            tier.objects.clear();
        }
        let resumed = tier.serve(&mut pool);
        assert_eq!(answer(&resumed, ticket).status, Status::NotFound);
        assert_eq!(pool.find(&names[0]).unwrap().entry, granted[0].entry);
        assert_eq!(pool.audited().reserved_count, 0);
    }
}
