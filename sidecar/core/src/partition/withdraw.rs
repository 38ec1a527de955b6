//! Calls that have not started are withdrawn instead of waited for (rule T2).
//!
//! A retry starts when every call of earlier attempts has an outcome. One that waits for its actor, or for a host,
//! could take long, and its caller's actor would wait with it. So the caller's owner asks the callee's to withdraw
//! what has not started. The callee ends that as `Withdrawn`: its outcome, logged before it is told (rule C5). The
//! retry makes a call of its own. A call with a step key is not withdrawn: the retry attaches to it. The same goes for
//! calls of a turn that has stopped because somebody asked for its end.
//!
//! That an attempt is over never changes, whoever owns it later, so an old question does no harm; but a number that was
//! never committed may be another call's by then: a question goes when what it asks for is committed, and names the
//! call, too. It is owed to nobody: lost, it is asked again while its caller waits.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::Partition;
use super::gate::Gated;
use super::reign::{Item, ItemStage, TurnEnd};
use crate::cover::Transition;
use crate::env::Env;
use crate::ids::{Millis, Number, PartitionId, Sender, Uuid};
use crate::invocation::Outcome;
use crate::message::Message;

/// Who waits for calls that may be withdrawn.
#[derive(Clone, Debug, Default)]
pub(super) struct Withdrawals {
    /// Invocations whose calls were asked for.
    waiting: BTreeSet<Uuid>,
    /// When they are asked for again.
    pub(super) at: Option<Millis>,
}

impl Withdrawals {
    /// An invocation waits for no calls any more.
    pub(super) fn forget(&mut self, uuid: Uuid) {
        self.waiting.remove(&uuid);
    }
}

// At the caller's owner.
impl Partition {
    /// An invocation waits for calls that nobody wants the outcomes of: asks for those to be withdrawn that have not
    /// started.
    pub(super) fn withdraw_calls(&mut self, env: &mut Env, uuid: Uuid) {
        // Each outcome that comes may find others missing: they were asked for.
        if self.reign.withdrawals.waiting.contains(&uuid) {
            return;
        }
        let Some(entry) = self.state.entries.get(&uuid) else { return };
        let mut calls: BTreeMap<PartitionId, Vec<(Number, Uuid)>> = BTreeMap::new();
        for (to, number) in &entry.children {
            let open = self.state.outbound.get(to).and_then(|out| out.open.get(number));
            let Some(call) = open else { continue };
            let is_here = self.reign.outcomes.contains(&(to.clone(), *number));
            let is_kept = call.step_key.is_some() && env.rules.keep_keyed;
            if !is_here && !is_kept {
                calls.entry(to.clone()).or_default().push((*number, call.owed.uuid()));
            }
        }
        if calls.is_empty() {
            return;
        }
        self.reign.withdrawals.waiting.insert(uuid);
        self.reign.withdrawals.at.get_or_insert(env.now + env.limits.channel_timer_ms);
        for (to, calls) in calls {
            let known = self.reign.routes.get(&to).and_then(crate::route::Route::node);
            let Some(node) = known.or_else(|| env.desired_owner(&to)) else { continue };
            env.cover(Transition::WithdrawAsked);
            let message = Message::Withdraw { sender: self.as_sender(), to, calls };
            self.gate(env, Gated::Send { to: node, message });
        }
    }

    /// Asks again for those who still wait.
    pub(super) fn withdraw_due(&mut self, env: &mut Env) {
        if self.reign.withdrawals.at.is_none_or(|at| at > env.now) {
            return;
        }
        self.reign.withdrawals.at = None;
        for uuid in std::mem::take(&mut self.reign.withdrawals.waiting) {
            if self.reign.items.get(&uuid).is_some_and(|item| item.wants_no_calls()) {
                self.withdraw_calls(env, uuid);
            }
        }
    }
}

// At the callee's.
impl Partition {
    /// Calls of a partition whose attempt is over: those that have not started end.
    pub(crate) fn withdraw(&mut self, env: &mut Env, sender: &Sender, calls: &[(Number, Uuid)]) {
        // What may run elsewhere has left nothing so far, or it would hold its actor; it is over first, though.
        if !self.serving() || self.reign.released || self.may_run_elsewhere(env) {
            return;
        }
        let mut actors: BTreeSet<Arc<str>> = BTreeSet::new();
        for (number, uuid) in calls {
            let Some(item) = self.reign.items.get(uuid) else { continue };
            if item.origin.channel() != Some((sender, *number)) {
                continue;
            }
            if !item.can_be_withdrawn() && env.rules.withdraw_unstarted {
                env.cover(Transition::WithdrawLate);
                continue;
            }
            env.cover(Transition::WithdrawnQueued);
            actors.extend(item.invocation.actor.clone());
            if env.rules.log_withdrawn {
                self.end_unstarted(env, *uuid, Outcome::Withdrawn);
            } else {
                self.withdraw_unlogged(env, *uuid);
            }
        }
        // Once for all of them: a queue may be long.
        for name in actors {
            if let Some(actor) = self.reign.actors.get_mut(&name) {
                let items = &self.reign.items;
                actor.lock.forget(|uuid| items.contains_key(uuid));
            }
            self.pump_actor(env, &name);
        }
    }

    /// A rule switched off: the caller is told, and the log is not.
    fn withdraw_unlogged(&mut self, env: &mut Env, uuid: Uuid) {
        let Some(item) = self.remove_item(env, uuid) else { return };
        self.reign.idle.remove(&uuid);
        let (Some((sender, number)), Some((to, _))) = (item.origin.channel(), item.reply_to) else {
            return;
        };
        let (sender, from, outcome) = (sender.clone(), self.id.clone(), Outcome::Withdrawn);
        env.send(to, Message::Reply { sender, from, number, outcome });
        self.free_actor(env, uuid, item.invocation.actor.as_ref(), false);
    }
}

impl Item {
    /// Whether it waits for calls whose outcomes nobody wants: of an attempt that is over, or of a turn that has
    /// stopped because somebody asked for it.
    fn wants_no_calls(&self) -> bool {
        match &self.stage {
            ItemStage::WaitChildren => true,
            ItemStage::Running(turn) => matches!(turn.result, Some(TurnEnd::Cancelled)),
            _ => false,
        }
    }

    /// Whether it may end instead of starting: no attempt of it has begun, as far as anybody can tell. A later step of
    /// a chain of tail calls goes on with what has.
    fn can_be_withdrawn(&self) -> bool {
        // Nested calls need no slot.
        let waits = matches!(self.stage, ItemStage::Queued);
        waits && self.may_expire() && self.invocation.step == 1
    }
}
