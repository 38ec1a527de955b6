//! P4: turns of shared methods have company of their kind only, and change nothing.

use kar_core::effect::RequestError;
use kar_core::ids::{Offset, Uuid};

use super::Judge;
use crate::history::{ItemKind, Run};
use crate::remind::Remind;

impl Judge<'_> {
    /// Whether a run is of a shared method.
    pub(super) fn is_shared_run(&self, run: &Run) -> bool {
        run.actor.is_some() && !run.is_told && self.history.names.is_shared(run.spec.tag)
    }

    /// Whether the current turn of an invocation is of a shared method.
    pub(super) fn is_shared_turn(&self, log: usize, uuid: Uuid) -> bool {
        let held = self.logs[log].held.get(&uuid);
        let is_method = !self.is_removal(uuid) && !self.is_deactivation(uuid);
        let is_shared = |held: &super::logs::Held| {
            held.actor.is_some() && self.history.names.is_shared(held.tag)
        };
        held.is_some_and(|held| is_method && is_shared(held))
    }

    /// An exclusive call was refused because its flow holds the actor by a shared method.
    pub(super) fn check_shared_to_exclusive(&mut self, log: usize, offset: Offset, uuid: Uuid) {
        self.counts.shared_to_exclusive += 1;
        let chain = self.chains.get(&uuid).cloned().unwrap_or_default();
        let model = &self.logs[log];
        let Some(held) = model.held.get(&uuid) else { return };
        let actor = held.actor.clone();
        let known = |caller: &Uuid| model.held.get(caller).is_some_and(|h| h.actor == actor);
        let by_shared = |caller: &Uuid| known(caller) && self.is_shared_turn(log, *caller);
        if self.is_shared_turn(log, uuid) || !chain.iter().any(by_shared) {
            let text = format!("{}@{offset} refuses {uuid}, called by {chain:?}", model.id);
            self.wrong("P9 errors", text);
        }
    }

    /// A change of state or of reminders was refused because the turn is shared.
    pub(super) fn check_shared_error(&mut self, run: usize, item: usize, error: &RequestError) {
        let record = &self.history.runs[run];
        let is_write = match &record.items[item].what {
            ItemKind::State(_) | ItemKind::If(..) => true,
            ItemKind::Remind(remind) => *remind != Remind::List,
            _ => false,
        };
        if !is_write || !self.is_shared_run(record) {
            self.wrong("P9 errors", format!("r{run}.{item}: {error}"));
        }
    }
}
