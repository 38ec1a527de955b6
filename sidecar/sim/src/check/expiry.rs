//! Deadlines: what has started does not expire, as far as anybody can tell afterwards.

use kar_core::ids::{Offset, Uuid};

use super::Judge;
use super::logs::Held;

impl Judge<'_> {
    /// An invocation expires: no code of it ran. Without `strict` code may have run ahead of the log on a node that was
    /// lost, but nothing of it came out, and it ran in no reign that knew.
    pub(crate) fn check_expired(&mut self, log: usize, offset: Offset, uuid: Uuid) {
        self.counts.expired += 1;
        let model = &self.logs[log];
        let (id, epoch) = (model.id.clone(), model.epoch);
        let Some(held) = model.held.get(&uuid) else { return };
        let (step, last) = (held.step, held.attempt);
        if last > 1 {
            let text = format!("{id}@{offset}: {uuid} expires after attempt {last}");
            return self.wrong("started never expires", text);
        }
        let flushed = model.turns.keys().any(|(u, s, _, _)| (*u, *s) == (uuid, step));
        if flushed {
            let text = format!("{id}@{offset}: {uuid} expires, and has flushed");
            return self.wrong("started never expires", text);
        }
        // The log knows no second attempt, so no reign up to this one has dispatched one.
        let reigns: Vec<_> = model.reigns.iter().map(|r| r.epoch).collect();
        for reign in reigns.into_iter().filter(|reign| *reign <= epoch) {
            let Some(run) = self.dispatched.get(&(log, uuid, step, 1, reign)).copied() else {
                continue;
            };
            self.counts.expired_after_loss += 1;
            let record = &self.history.runs[run];
            if self.history.strict[record.slot] || reign == epoch {
                let text = format!("{id}@{offset}: {uuid} expires, and r{run} has run");
                self.wrong("started never expires", text);
            }
        }
    }
    /// A first attempt is said to have run: what only waited would not expire any more, nor be withdrawn.
    pub(super) fn check_said_to_run(
        &mut self,
        log: usize,
        offset: Offset,
        uuid: Uuid,
        attempt: u32,
    ) {
        let model = &self.logs[log];
        // What has a deadline is marked when it is about to start, which may come to nothing.
        let is_new = |held: &&Held| attempt == 1 && !held.policy.marked;
        let Some(held) = model.held.get(&uuid).filter(is_new) else { return };
        let (id, step) = (model.id.clone(), held.step);
        let mut reigns = model.reigns.iter().map(|reign| reign.epoch);
        // A later step that keeps its actor goes on with what has begun.
        if step == 1
            && !reigns.any(|epoch| self.dispatched.contains_key(&(log, uuid, step, 1, epoch)))
        {
            let text = format!("{id}@{offset}: {uuid} is said to have run, and has only waited");
            self.wrong("T3 what only waited", text);
        }
    }
}
