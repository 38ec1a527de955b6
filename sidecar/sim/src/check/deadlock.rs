//! P9: a call ends as deadlocked only where flows can wait for each other in a circle.

use std::sync::Arc;

use kar_core::ids::{Offset, PartitionId, Uuid};
use kar_core::invocation::Invocation;

use super::Judge;
use super::model::Held;
use crate::plan::{MS, Us};

/// A wait for an actor of a log, in a circle whose calls were all made by the one time, and none of which was over
/// before the other.
type Waits = (usize, Arc<str>, Us, Us);

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

    /// When a call was made, as its caller's node took it in.
    fn made_at(&self, uuid: Uuid) -> Us {
        let item = self.tag_of_uuid.get(&uuid).and_then(|tag| self.issued.get(tag));
        let arrived = item.and_then(|(run, item)| self.history.runs[*run].items[*item].arrived);
        arrived.unwrap_or_default()
    }

    /// When an invocation was over at the latest, if it is.
    fn over_at(&self, log: usize, uuid: Uuid) -> Us {
        let ended = self.logs[log].held.get(&uuid).and_then(|held| held.ended.as_ref());
        ended.map_or(Us::MAX, |ended| ended.at)
    }

    /// From the call that ended: whoever may hold its actor, what those may have called and wait for, whoever may hold
    /// those actors; in the end a caller of the first one. More edges than there are, so a circle must be among them,
    /// and one that was there all at once: all its calls were made before the first of them, or of the holders, ended.
    pub(super) fn check_deadlock(&mut self, log: usize, offset: Offset, victim: Uuid) {
        self.counts.deadlocks += 1;
        let callers = self.chains.get(&victim).cloned().unwrap_or_default();
        let actor = self.logs[log].held.get(&victim).and_then(|held| held.actor.clone());
        let mut waiting: Vec<Waits> = Vec::new();
        waiting.extend(actor.map(|actor| (log, actor, self.made_at(victim), self.now)));
        let mut seen: Vec<Waits> = Vec::new();
        while let Some((log, actor, from, upto)) = waiting.pop() {
            let is_known = |w: &Waits| (w.0, &w.1) == (log, &actor) && w.2 <= from && w.3 >= upto;
            if seen.iter().any(is_known) {
                continue;
            }
            seen.push((log, actor.clone(), from, upto));
            let held = self.logs[log].held.iter();
            let holders = held.filter(|(u, h)| {
                **u != victim && h.actor.as_ref() == Some(&actor) && self.ran_lately(h)
            });
            for (holder, _) in holders {
                let upto = upto.min(self.over_at(log, *holder));
                if from > upto {
                    continue;
                }
                if callers.contains(holder) {
                    return;
                }
                for (uuid, (_, log, actor)) in &self.targets {
                    let chain = self.chains.get(uuid);
                    let is_called = chain.is_some_and(|chain| chain.contains(holder));
                    let from = from.max(self.made_at(*uuid));
                    let upto = upto.min(self.over_at(*log, *uuid));
                    if is_called && self.may_run(*log, *uuid) && from <= upto {
                        waiting.push((*log, actor.clone(), from, upto));
                    }
                }
            }
        }
        let id = &self.logs[log].id;
        let text = format!("{id}@{offset}: {victim} waits in no circle of flows");
        self.wrong("P9 deadlock", text);
    }
}
