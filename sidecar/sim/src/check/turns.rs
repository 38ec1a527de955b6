//! P2, P3: what may be dispatched, and when.

use kar_core::ids::{Epoch, Uuid};

use super::Judge;
use crate::history::{ItemKind, Run};

impl Judge<'_> {
    /// A node asks its host to run a turn.
    pub(crate) fn check_dispatch(&mut self, run: usize) {
        let record = &self.history.runs[run];
        let token = &record.token;
        let (uuid, attempt, epoch) = (token.invocation.uuid, token.attempt, token.epoch);
        let step = token.step;
        let log = self.log_of(&token.invocation.home);
        let tag = record.spec.tag;
        self.tag_of_uuid.entry(uuid).or_insert(tag);
        self.check_activation(run, record, log);
        if self.reminder_tags.contains_key(&tag) {
            self.check_rings(run, record, log);
        } else {
            self.check_tag(run, record, tag);
        }
        if let Some(before) = self.dispatched.insert((log, uuid, step, attempt, epoch), run) {
            self.wrong("P2 dispatched once", format!("r{run} is {token}, as r{before} was"));
        }
        let model = &self.logs[log];
        let reign = model.reigns.iter().find(|r| r.epoch == epoch);
        if reign.is_none_or(|r| r.node != record.node) {
            let text = format!("r{run} {token} by {:?}, which has no such reign", record.node);
            return self.wrong("L2 reign", text);
        }
        self.check_not_done(run, record, log, uuid);
        self.check_knowledge(run, record, log);
        self.check_attempt(run, record, log, uuid);
        self.check_policy(run, record, log, uuid);
        self.check_source(run, record, log, uuid);
        self.check_resent(run, record, log, uuid);
        self.check_recorded(run, record, log);
        self.check_inherited(run, record, log);
        self.check_slots(run, record);
        self.note_start(run, record);
    }

    /// P2: what was asked for once is one invocation.
    fn check_tag(&mut self, run: usize, record: &Run, tag: u64) {
        let uuid = record.token.invocation.uuid;
        let known = *self.uuid_of_tag.entry(tag).or_insert(uuid);
        if self.original(known) != self.original(uuid) {
            let text = format!("r{run} {}: tag {tag:x}", record.token);
            self.wrong("P2 one request, one invocation", text);
        }
    }

    /// P2: never after its completion, as far as this reign or an earlier one completed it.
    fn check_not_done(&mut self, run: usize, record: &Run, log: usize, uuid: Uuid) {
        let epoch = record.token.epoch;
        let model = &self.logs[log];
        let ended = model.outcome(uuid).map(|e| (e.epoch, e.offset));
        let done = model.done.get(&(uuid, record.token.step)).copied().or(ended);
        if let Some((by, offset)) = done
            && by <= epoch
        {
            let text = format!("r{run} {} after its completion @{offset}", record.token);
            self.wrong("P2 completed is never repeated", text);
        } else if done.is_some() {
            self.counts.zombie_dispatch += 1;
        }
    }

    /// L4: no dispatch by a node that has read of a newer reign, or has not read on after it was
    /// away.
    fn check_knowledge(&mut self, run: usize, record: &Run, log: usize) {
        let epoch = record.token.epoch;
        let Some(node) = self.nodes.get(&record.node) else { return };
        let newer = node.claims.range((log, epoch + 1)..(log + 1, 0)).next();
        if newer.is_some() {
            self.wrong("L4 reign is over", format!("r{run} {} after a newer claim", record.token));
        } else if node.unread.contains(&log) {
            let text = format!("r{run} {} before the log was read to its end", record.token);
            self.wrong("L4 read before acting", text);
        } else if node.lapsed {
            let text = format!("r{run} {} by {:?}, without a lease", record.token, record.node);
            self.wrong("L6 only with a lease", text);
        }
    }

    /// P3, T2, T3: a retry is logged first, and starts after all calls of earlier attempts have
    /// outcomes.
    fn check_attempt(&mut self, run: usize, record: &Run, log: usize, uuid: Uuid) {
        let token = &record.token;
        let model = &self.logs[log];
        let current = model.held.get(&uuid).map_or((0, 0), |h| (h.step, h.attempt));
        let own = (token.step, token.attempt);
        if token.attempt > 1 && current < own {
            let text = format!("r{run} {token}, but the log knows attempt {current:?}");
            return self.wrong("T3 attempt is logged", text);
        }
        if model.epoch == token.epoch && current > own {
            let text = format!("r{run} {token}, but the log is at attempt {current:?}");
            return self.wrong("P3 current attempt", text);
        }
        let children = model.owed.iter().filter(|(_, o)| {
            // What a newer reign called is not this one's business.
            let earlier = (o.attempt, o.epoch) < (own, token.epoch) && o.epoch <= token.epoch;
            o.parent == uuid && o.awaited && earlier
        });
        let open = children
            .filter(|((to, _), o)| self.logs[*to].outcome(o.uuid).is_none())
            .map(|(_, o)| o.uuid)
            .next();
        if let Some(child) = open {
            self.wrong("P3 retry waits for calls", format!("r{run} {token}: {child} is open"));
        }
    }

    /// What was sent to an earlier reign may have run there ahead of the log, and have taken its node along: it starts
    /// when it is accepted, so that it can be counted.
    fn check_resent(&mut self, run: usize, record: &Run, log: usize, uuid: Uuid) {
        let token = &record.token;
        let from = self.sent_by(record, log, uuid);
        let first = self.first_sent(log, uuid, token.step, from);
        // Under an idempotency key several clients may send it, each for the first time.
        let asked = self.asked.get(&record.spec.tag);
        if asked.is_some_and(|req| self.history.reqs[*req].keyed) {
            return;
        }
        let held = self.logs[log].held.get(&uuid);
        let is_logged = held.is_some_and(|held| held.step >= token.step);
        if !is_logged && first.is_some_and(|first| first < token.epoch) {
            let text = format!("r{run} {token} was sent to epoch {first:?}, and is not accepted");
            self.wrong("L6 never ahead of the log twice", text);
        }
    }

    /// The oldest reign of its sender that may have sent this turn to where it starts. A reign that was replaced, and
    /// does not know it, may send for the first time what its successor has sent long since: it knows nothing of that.
    fn sent_by(&self, record: &Run, log: usize, uuid: Uuid) -> Epoch {
        let token = &record.token;
        let sends = self.sends.get(&(log, uuid, token.step)).into_iter().flatten();
        let over_network = sends.filter(|(_, to)| *to == token.epoch).map(|(from, _)| *from);
        let parent = self.issued.get(&record.spec.tag).map(|(run, _)| &self.history.runs[*run]);
        // Within a node no message is seen.
        let within_node = parent.filter(|p| p.node == record.node).map(|p| p.token.epoch);
        over_network.chain(within_node).min().unwrap_or(Epoch::MAX)
    }

    /// The lowest epoch that reigns of the sender up to `from` sent it to.
    pub(super) fn first_sent(
        &self,
        log: usize,
        uuid: Uuid,
        step: u32,
        from: Epoch,
    ) -> Option<Epoch> {
        let sends = self.sends.get(&(log, uuid, step))?;
        sends.iter().filter(|(by, _)| *by <= from).map(|(_, to)| *to).min()
    }

    /// Rule L5: what comes from another partition is committed there; with `strict`, everything is.
    fn check_source(&mut self, run: usize, record: &Run, log: usize, uuid: Uuid) {
        let strict = self.history.strict[record.slot];
        if strict {
            self.check_strict(run, record, log);
        }
        let held = self.logs[log].held.contains_key(&uuid);
        let token = &record.token;
        match self.issued.get(&record.spec.tag) {
            None if record.is_told || self.reminder_tags.contains_key(&record.spec.tag) => {}
            None => {
                if strict && !held {
                    self.wrong("strict", format!("r{run} {token} is not accepted yet"));
                }
            }
            Some((parent, item)) => {
                let parent = &self.history.runs[*parent];
                let is_tail = matches!(parent.items[*item].what, ItemKind::Tail(..));
                let own = parent.token.invocation.home == token.invocation.home;
                let first = self.original(uuid);
                let from = self.log_of(&parent.token.invocation.home);
                let committed = if own && is_tail {
                    let held = self.logs[log].held.get(&uuid);
                    held.is_some_and(|h| h.step >= token.step)
                } else {
                    let mut owed = self.logs[from].owed.range((log, 0)..(log + 1, 0));
                    owed.any(|(_, o)| {
                        self.original(o.uuid) == first
                            && (!is_tail || o.attempt.0 + 1 == token.step)
                    })
                };
                if !committed && !own {
                    self.wrong("P5 gate for requests", format!("r{run} {token} is not committed"));
                } else if !committed && strict {
                    self.wrong("strict", format!("r{run} {token} is not committed"));
                }
            }
        }
    }

    /// With `strict` a turn starts only when what ended before it on its actor is committed.
    fn check_strict(&mut self, run: usize, record: &Run, log: usize) {
        let Some(actor) = record.actor else { return };
        let uncommitted = self.history.runs[..run].iter().rposition(|before| {
            (before.kind, before.actor) == (record.kind, Some(actor))
                && before.token.epoch == record.token.epoch
                // A deactivation that has done nothing leaves nothing.
                && !before.is_told
                // A shared turn does not stand on another one: neither changes anything.
                && !(self.is_shared_run(before) && self.is_shared_run(record))
                // Its result waited behind an operation of it, and was lost with its host: this is the retry.
                && before.token.invocation != record.token.invocation
                && before.cancel_sent.is_none_or(|at| at > self.now)
                && before.result_taken.is_some_and(|at| at <= self.now)
                && !self.logs[log]
                    .done
                    .contains_key(&(before.token.invocation.uuid, before.token.step))
                // One that has returned and waits for its calls lets those re-enter.
                && !self.is_inside(record, before.token.invocation.uuid)
                && !self.is_retried(log, before)
        });
        if let Some(before) = uncommitted {
            let text = format!("r{run} {} before r{before} is committed", record.token);
            self.wrong("strict", text);
        }
    }

    /// Whether `inner` was called, directly or through others, by `outer`.
    pub(crate) fn is_inside(&self, inner: &Run, outer: Uuid) -> bool {
        let mut tag = inner.spec.tag;
        // A chain is never longer than there are runs.
        for _ in 0..self.history.runs.len() {
            let Some((run, item)) = self.issued.get(&tag) else { return false };
            let parent = &self.history.runs[*run];
            match parent.items[*item].what {
                ItemKind::Call(..) => {}
                // Its callers are those of the step before.
                ItemKind::Tail(..) => {
                    tag = parent.spec.tag;
                    continue;
                }
                _ => return false,
            }
            if parent.token.invocation.uuid == outer {
                return true;
            }
            tag = parent.spec.tag;
        }
        false
    }
}
