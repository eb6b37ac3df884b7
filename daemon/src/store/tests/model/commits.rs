//! Commits in the model: alone or with a reserve behind them, carried out at once or by workers.

use super::*;

impl World {
    /// Commits what a reservation was granted and reserves these keys in one request.
    pub(super) fn commit_reserve(
        &mut self,
        client: usize,
        which: usize,
        next_keys: Vec<(u64, u32)>,
    ) {
        if which >= self.writers[client].open.len() {
            return;
        }
        let (op_id, keys, answers) = self.writers[client].open.swap_remove(which);
        let session = self.writers[client].client.id;
        self.pool.next_op += 1;
        let next_op = OpId(self.pool.next_op);
        let wanted: Vec<_> = next_keys
            .iter()
            .map(|(n, len)| (key(self.keyspace, *n), *len))
            .collect();
        let outcome = self.pool.store.commit_reserve(
            session,
            &held(op_id, &answers),
            reserve_of(next_op, &wanted),
            self.pool.now,
        );
        let is_waiting = |answer: &ReservedItem| {
            answer.status == Status::Ok
                && self.pool.store.entries.state(answer.entry) == EntryState::Committing
        };
        match outcome {
            Ok(Outcome::Done(pair)) => {
                self.stored(&keys, &answers, &outcomes(&pair.committed));
                self.granted_behind(client, next_op, next_keys, pair);
            }
            Ok(Outcome::Parked(ticket)) if answers.iter().any(is_waiting) => {
                self.park(client, ticket, keys, answers, Some((next_op, next_keys)));
            }
            Ok(Outcome::Parked(ticket)) => {
                let outcome = self.outcome_of(&keys, &answers);
                self.stored(&keys, &answers, &outcome);
                let parked = &mut self.writers[client].parked;
                parked.insert(ticket.0, (next_op, next_keys));
            }
            Err(refusal) => {
                let most = self.pool.store.max_object_bytes();
                let is_long = |(_, len): &(u64, u32)| u64::from(*len) > most;
                assert!(next_keys.iter().any(is_long), "{refusal:?}");
                // Nothing is committed.
                self.writers[client].open.push((op_id, keys, answers));
            }
        }
    }

    /// A reserve behind a commit was answered with it: only a commit that is over as a whole has one.
    fn granted_behind(&mut self, who: usize, op_id: OpId, keys: Vec<(u64, u32)>, pair: Pair) {
        let is_over = |item: &CommittedItem| matches!(item.status, Status::Ok | Status::Exists);
        let is_reserved = pair.committed.iter().all(is_over);
        assert_eq!(
            pair.reserved.len(),
            if is_reserved { keys.len() } else { 0 }
        );
        self.granted(who, op_id, keys, pair.reserved);
    }

    /// A commit waits for workers.
    pub(super) fn park(
        &mut self,
        client: usize,
        ticket: Ticket,
        keys: Vec<(u64, u32)>,
        mut answers: Vec<ReservedItem>,
        next: Option<(OpId, Vec<(u64, u32)>)>,
    ) {
        // What a commit through a ring overtook has been given back by now.
        for answer in &mut answers {
            if answer.status == Status::Ok
                && self.pool.store.entries.state(answer.entry) != EntryState::Committing
            {
                answer.status = Status::Exists;
            }
        }
        self.waiting.push(Waiting {
            session: self.writers[client].client.id,
            who: Some(client),
            ticket,
            keys,
            answers,
            next,
        });
    }

    /// What became of a commit that nobody has told of yet.
    fn outcome_of(&self, keys: &[(u64, u32)], answers: &[ReservedItem]) -> Vec<Status> {
        let granted = keys.iter().zip(answers);
        let granted = granted.filter(|(_, answer)| answer.status == Status::Ok);
        granted
            .map(|((number, _), answer)| {
                let found = self.pool.find(&key(self.keyspace, *number));
                match found.is_some_and(|found| found.entry == answer.entry) {
                    true => Status::Ok,
                    false => Status::Exists,
                }
            })
            .collect()
    }

    /// A commit was carried out.
    pub(super) fn stored(
        &mut self,
        keys: &[(u64, u32)],
        answers: &[ReservedItem],
        outcome: &[Status],
    ) {
        if outcome.contains(&Status::Expired) {
            assert!(outcome.iter().all(|status| *status == Status::Expired));
            return;
        }
        // EXISTS: a commit through a ring came first.
        let is_over = |status: &Status| matches!(status, Status::Ok | Status::Exists);
        assert!(outcome.iter().all(is_over), "{outcome:?}");
        let granted = keys.iter().zip(answers);
        let granted = granted.filter(|(_, answer)| answer.status == Status::Ok);
        for (((number, len), answer), outcome) in granted.zip(outcome) {
            if *outcome == Status::Ok {
                self.committed.insert(*number, range(answer, *len));
                assert!(self.pool.find(&key(self.keyspace, *number)).is_some());
            }
        }
    }

    /// A worker has done a job; what became readable by it was waiting, and whoever lives is answered.
    pub(super) fn work(&mut self, job: &Job) {
        let resumed = self.pool.do_job(job);
        let is_done = |commit: &Waiting| {
            let is_there = |((number, len), answer): (&(u64, u32), &ReservedItem)| {
                answer.status == Status::Ok
                    && self
                        .pool
                        .find(&key(self.keyspace, *number))
                        .is_some_and(|found| {
                            found.entry == answer.entry
                                && found.seq == answer.generation
                                && found.extent.len_bytes == *len
                        })
            };
            commit.keys.iter().zip(&commit.answers).any(is_there)
        };
        let Some(at) = self.waiting.iter().position(is_done) else {
            assert!(resumed.is_none_or(|resumed| matches!(
                resumed.answer,
                ResumedAnswer::GrantedCommitted(_)
            )));
            self.settle_taken();
            return;
        };
        let commit = self.waiting.remove(at);
        let Some(resumed) = resumed else {
            let outcome = self.outcome_of(&commit.keys, &commit.answers);
            self.stored(&commit.keys, &commit.answers, &outcome);
            if let Some(who) = commit.who {
                let next = commit.next.expect("a living writer is answered");
                self.writers[who].parked.insert(commit.ticket.0, next);
            }
            return;
        };
        assert_eq!(
            (resumed.session, resumed.ticket),
            (commit.session, commit.ticket)
        );
        let (items, pair) = match resumed.answer {
            ResumedAnswer::Committed(items) => (items, None),
            ResumedAnswer::CommitReserved(pair) => (pair.committed.clone(), Some(pair)),
            other => panic!("a commit is answered as {other:?}"),
        };
        let mut outcome = outcomes(&items);
        outcome.retain(|status| *status != Status::Exists);
        self.stored(&commit.keys, &commit.answers, &outcome);
        assert_eq!(pair.is_some(), commit.next.is_some());
        if let (Some(pair), Some((op_id, keys)), Some(who)) = (pair, commit.next, commit.who) {
            self.granted_behind(who, op_id, keys, pair);
        }
    }
}
