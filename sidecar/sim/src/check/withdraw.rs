//! T2: what is withdrawn had not started, was called by an attempt that is over, and has no key.

use kar_core::ids::{Epoch, Offset, Sender, Uuid};

use super::Judge;

impl Judge<'_> {
    /// A call ends as withdrawn. Code of it may have run ahead of the log in a reign that was lost, as that of a call
    /// that expires; nothing of it came out.
    pub(super) fn check_withdrawn(&mut self, log: usize, offset: Offset, uuid: Uuid) {
        self.counts.withdrawn += 1;
        let model = &self.logs[log];
        let Some(held) = model.held.get(&uuid) else { return };
        let (id, step, attempt, epoch) = (model.id.clone(), held.step, held.attempt, model.epoch);
        let sent = held.sent.clone();
        let flushed = model.turns.keys().any(|(u, _, _, _)| *u == uuid);
        let begun = self.dispatched.get(&(log, uuid, step, 1, epoch)).copied();
        if attempt > 1 || step > 1 || flushed || begun.is_some() {
            let text = format!(
                "{id}@{offset}: {uuid} at step {step}, attempt {attempt}, flushed: {flushed}, run: {begun:?}"
            );
            self.wrong("T2 withdrawn never started", text);
        }
        let Some((Sender::Log { partition, .. }, number)) = sent else {
            return self.wrong("T2 withdrawn calls are nested", format!("{id}@{offset}: {uuid}"));
        };
        let from = self.log_of(&partition);
        let Some(owed) = self.logs[from].owed.get(&(log, number)).cloned() else { return };
        if self.is_keyed(from, (log, number)) {
            let text = format!("{id}@{offset}: {uuid} has a step key");
            self.wrong("T2 keyed calls stay", text);
        }
        let first = self.first_sent(log, uuid, 1, Epoch::MAX).unwrap_or(epoch);
        let both = self.logs[from].epoch > owed.epoch && first < epoch;
        self.counts.both_ends_failing += u64::from(both);
        let (step, attempt) = owed.attempt;
        let caller = self.dispatched.get(&(from, owed.parent, step, attempt, owed.epoch));
        let is_over = self.logs[from].epoch > owed.epoch
            || caller.is_some_and(|run| {
                let run = &self.history.runs[*run];
                run.ended.is_some_and(|at| at <= self.now) || self.counts.is_down(run.session)
            });
        if !is_over {
            let text = format!("{id}@{offset}: {uuid}, whose caller {} goes on", owed.parent);
            self.wrong("T2 withdrawn has no caller", text);
        }
    }
}
