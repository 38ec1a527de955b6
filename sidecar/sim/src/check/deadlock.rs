//! P9: a call ends as deadlocked only where flows can wait for each other in a circle.

use std::collections::BTreeSet;
use std::sync::Arc;

use kar_core::ids::{Offset, PartitionId, Uuid};
use kar_core::invocation::Invocation;

use super::Judge;
use super::model::Held;
use crate::plan::{MS, Us};

/// A circle was there when its second walk began. Another one that shares calls with it may have been broken since.
const WALK_MAX: Us = 2_000 * MS;

impl Judge<'_> {
    /// A partition sends a call, or a chain's next step.
    pub(super) fn sent_to(&mut self, to: &PartitionId, invocation: &Invocation) {
        let Some(actor) = &invocation.actor else { return };
        let target = (invocation.step, self.log_of(to), actor.clone());
        let known = self.targets.entry(invocation.uuid).or_insert_with(|| target.clone());
        if known.0 < target.0 {
            *known = target;
        }
    }

    fn ran_lately(&self, held: &Held) -> bool {
        let ended = held.ended.as_ref().map(|ended| ended.at);
        let is_over = ended.is_some_and(|at| at + WALK_MAX < self.now);
        !is_over && !held.gone && !held.left
    }

    /// Whether an invocation may still run, by the log where it was sent.
    fn may_run(&self, log: usize, uuid: Uuid) -> bool {
        self.logs[log].held.get(&uuid).is_none_or(|held| self.ran_lately(held))
    }

    /// From the call that ended: whoever may hold its actor, what those may have called and wait for, whoever may hold
    /// those actors; in the end a caller of the first one. More edges than there are, so a circle must be among them.
    pub(super) fn check_deadlock(&mut self, log: usize, offset: Offset, victim: Uuid) {
        self.counts.deadlocks += 1;
        let callers = self.chains.get(&victim).cloned().unwrap_or_default();
        let mut waiting: Vec<(usize, Arc<str>)> = self.logs[log]
            .held
            .get(&victim)
            .and_then(|held| Some((log, held.actor.clone()?)))
            .into_iter()
            .collect();
        let mut seen = BTreeSet::new();
        while let Some((log, actor)) = waiting.pop() {
            if !seen.insert((log, actor.clone())) {
                continue;
            }
            let held = self.logs[log].held.iter();
            let holders = held.filter(|(u, h)| {
                **u != victim && h.actor.as_ref() == Some(&actor) && self.ran_lately(h)
            });
            for (holder, _) in holders {
                if callers.contains(holder) {
                    return;
                }
                let called = self.targets.iter().filter(|(uuid, (_, log, _))| {
                    let chain = self.chains.get(*uuid);
                    chain.is_some_and(|chain| chain.contains(holder)) && self.may_run(*log, **uuid)
                });
                waiting.extend(called.map(|(_, (_, log, actor))| (*log, actor.clone())));
            }
        }
        let id = &self.logs[log].id;
        let text = format!("{id}@{offset}: {victim} waits in no circle of flows");
        self.wrong("P9 deadlock", text);
    }
}
