//! What holds an invocation back, and how it starts (rules T2, T3, L4, L6).

use super::Partition;
use super::gate::Gated;
use super::reign::{Item, ItemStage, Turn, Unflushed};
use crate::cover::Transition;
use crate::effect::{Effect, Notice};
use crate::env::Env;
use crate::ids::{Epoch, InvocationId, SessionId, TurnToken, Uuid};
use crate::invocation::{Invocation, Outcome, Payload, RetryPolicy, Work};
use crate::record::Op;
use crate::state::Origin;

impl Partition {
    /// Dispatches an invocation that holds its actor, if nothing else holds it back.
    pub(super) fn try_start(&mut self, env: &mut Env, uuid: Uuid) {
        let Some(item) = self.reign.items.get(&uuid) else { return };
        if !matches!(item.stage, ItemStage::Queued) {
            return;
        }
        if self.reign.released {
            return;
        }
        let root = item.is_root();
        let may_run_on = self.code_may_run_until(env, item).is_some();
        let is_late = item.invocation.deadline.is_some_and(|at| at <= env.now);
        if item.may_expire() && is_late && env.rules.expire {
            if may_run_on {
                return;
            }
            env.cover(Transition::QueuedEnd);
            return self.end_unstarted(env, uuid, Outcome::Expired);
        }
        // Waits for children first of all: while it does, calls of its flow get in (rule T2).
        if env.rules.retry_waits && self.has_open_children(uuid) {
            env.cover(Transition::QueuedWaitChildren);
            self.set_stage(uuid, ItemStage::WaitChildren);
            return self.withdraw_calls(env, uuid);
        }
        let buries = self.waits_to_bury(env, uuid);
        let Some(item) = self.reign.items.get(&uuid) else { return };
        if item.cancel && env.rules.heed_cancel {
            if may_run_on {
                return;
            }
            return self.end_unstarted(env, uuid, Outcome::Cancelled);
        }
        // A flow that holds its actor is served like the nested calls that may wait behind it.
        let fresh = root && !self.holds(uuid);
        let wait = self.may_run_elsewhere(env)
            || buries
            || (item.retry_at > env.now && env.rules.retry_pause)
            || (fresh && self.no_roots(env))
            || (!fresh && self.leaves_nested(env))
            || self.reign.leaving_cancelled
            || self.store_is_behind(env);
        // No code runs for a removal.
        let removes = item.invocation.work == Work::Remove;
        if self.has_lost_host(env, uuid) {
            // A removal behind it needs no host.
            env.cover(Transition::DeactivationMoot);
            return self.end_unstarted(env, uuid, Outcome::Done(Payload::default()));
        }
        let session = env.session_for(&self.id.kind);
        if session.is_none() && !removes {
            return;
        }
        if wait {
            self.give_back_slot(env, uuid);
            if !root && self.leaves_nested(env) {
                env.cover(Transition::HandOverLeft);
            }
            return;
        }
        if removes {
            return self.remove_actor(env, uuid);
        }
        let Some(session) = session else { return };
        if self.has_no_hook(env, uuid) {
            env.cover(Transition::DeactivationMoot);
            return self.end_unstarted(env, uuid, Outcome::Done(Payload::default()));
        }
        // An attempt is logged when nothing but its commit is in its way (rule T3): what waits for a slot has not run.
        let takes_slot = root || !env.rules.nested_slotless;
        if takes_slot && !self.take_slot(env, uuid) {
            env.cover(Transition::QueuedWaitSlot);
            return self.set_stage(uuid, ItemStage::WaitSlot);
        }
        let Some(item) = self.reign.items.get(&uuid) else { return };
        if item.started && !item.cleared {
            if self.log_attempt(env, uuid) {
                return;
            }
        } else if !item.started
            && !item.cleared
            && !self.may_run_ahead(env, uuid)
            && self.must_commit(env, uuid)
        {
            return;
        }
        self.dispatch(env, session, uuid);
    }

    /// Takes a slot of the host for a root's turn, or queues it for one.
    fn take_slot(&mut self, env: &mut Env, uuid: Uuid) -> bool {
        let Some(item) = self.reign.items.get_mut(&uuid) else { return false };
        item.slot = item.slot || env.take_slot(&self.id, uuid);
        item.slot
    }

    /// An invocation needs its slot no longer, if it has one.
    pub(super) fn give_back_slot(&mut self, env: &mut Env, uuid: Uuid) {
        let item = self.reign.items.get_mut(&uuid);
        if item.is_some_and(|item| std::mem::take(&mut item.slot)) {
            env.free_slot();
        }
    }

    /// Whether what this partition holds may be running at another node. Without a lease another one may reign already,
    /// and its grace be over (rule L6).
    pub(super) fn may_run_elsewhere(&self, env: &Env) -> bool {
        let lapsed = !env.lease_valid && env.rules.lease;
        self.reign.barriers > 0 || lapsed || env.now < self.reign.dispatch_after
    }

    /// Whether an invocation's first attempt may start before everything decided is committed (rule L6): never a
    /// reminder's, nor what was sent to an earlier reign, too.
    fn may_run_ahead(&self, env: &Env, uuid: Uuid) -> bool {
        let item = self.reign.items.get(&uuid);
        if item.is_some_and(|item| item.resent) && env.rules.log_resent {
            return false;
        }
        if item.is_some_and(|item| matches!(item.origin, Origin::Reminder(_)))
            && env.rules.firing_after_commit
        {
            return false;
        }
        if item.is_some_and(|item| item.origin == Origin::Idle) {
            return false;
        }
        let actor = item.and_then(|item| item.invocation.actor.as_ref());
        let ahead = actor.and_then(|name| self.reign.actors.get(name)).map_or(0, |a| a.ahead);
        // Others are bounded where they are let in; a step that kept the lock never left.
        env.may_speculate() && (ahead < env.limits.speculation_per_actor_max || !self.holds(uuid))
    }

    /// Whether an invocation holds its actor until it ends, by the log (rule T2).
    pub(super) fn holds(&self, uuid: Uuid) -> bool {
        self.state.entries.get(&uuid).is_some_and(|entry| entry.holds)
    }

    /// Logs a new attempt (rule T3); it starts when that is committed.
    fn log_attempt(&mut self, env: &mut Env, uuid: Uuid) -> bool {
        let Some(item) = self.reign.items.get_mut(&uuid) else { return true };
        item.attempt += 1;
        item.unmarked = false;
        let (attempt, ended) = (item.attempt, item.ended.take());
        if !item.logged {
            env.cover(Transition::AttemptFresh);
            self.log_item(env, uuid);
        }
        self.push(env, Op::Attempt { uuid, attempt, ended, unmarked: false });
        let invocation = InvocationId { home: self.id.clone(), uuid };
        env.notice(Notice::Retried { invocation, attempt });
        if !env.rules.settled_proposals {
            return false;
        }
        env.cover(Transition::QueuedWaitAttempt);
        self.set_stage(uuid, ItemStage::WaitCommit);
        self.gate(env, Gated::Start { uuid });
        true
    }

    /// Without speculation an invocation starts when all that it stands on is committed: a root's acceptance, or that
    /// of what was sent before, what its actor did before, and with a deadline its start. For nothing else: a slow
    /// disk would make it wait twice. True: it has to wait.
    fn must_commit(&mut self, env: &mut Env, uuid: Uuid) -> bool {
        let Some(item) = self.reign.items.get(&uuid) else { return true };
        let has_deadline = item.invocation.deadline.is_some();
        let is_root = matches!(item.origin.sender(), Some(crate::ids::Sender::Node(_)));
        if !item.logged && (has_deadline || is_root || item.resent) {
            self.log_item(env, uuid);
        }
        self.mark_start(env, uuid);
        let Some(item) = self.reign.items.get(&uuid) else { return true };
        let actor = item.invocation.actor.as_ref().and_then(|name| self.reign.actors.get(name));
        let seq = item.decided.max(actor.map_or(0, |actor| actor.decided));
        if seq <= self.reign.committed {
            return false;
        }
        env.cover(Transition::QueuedWaitStrict);
        self.set_stage(uuid, ItemStage::WaitCommit);
        self.gate_at(seq, Gated::Start { uuid });
        true
    }

    /// Tells the log that an invocation starts whose deadline is over then, whoever owns the partition later. Without
    /// speculation it starts when that is committed. With it a start may be lost with its host, as an acceptance may:
    /// then the invocation may still expire, and nothing of that attempt has come out (rule L6). What is not logged
    /// itself is marked when it is.
    pub(super) fn mark_start(&mut self, env: &mut Env, uuid: Uuid) {
        let Some(item) = self.reign.items.get(&uuid) else { return };
        let has_deadline = item.logged && item.invocation.deadline.is_some();
        if !has_deadline || item.attempt > 1 || !env.rules.mark_starts {
            return;
        }
        if self.state.entries.get(&uuid).is_none_or(|entry| entry.ran) {
            return;
        }
        env.cover(Transition::StartMarked);
        self.push(env, Op::Attempt { uuid, attempt: 1, ended: None, unmarked: false });
        self.note_decided(uuid);
    }

    pub(super) fn set_stage(&mut self, uuid: Uuid, stage: ItemStage) {
        if let Some(item) = self.reign.items.get_mut(&uuid) {
            item.stage = stage;
        }
    }

    fn dispatch(&mut self, env: &mut Env, session: SessionId, uuid: Uuid) {
        let epoch = self.reign.epoch;
        let recorded_steps = self.recorded_steps(env, uuid);
        let Some(item) = self.reign.items.get(&uuid) else { return };
        let retry = self.policy(env, item);
        let actor = item.invocation.actor.clone();
        let activation = actor.map_or(0, |actor| self.activation(env, &actor, session));
        let Some(item) = self.reign.items.get_mut(&uuid) else { return };
        env.cover(Transition::QueuedRunning);
        item.started = true;
        item.cleared = false;
        item.stage = ItemStage::Running(Box::new(Turn::new(session, retry, &item.invocation)));
        let (invocation, slot) = (item.invocation.clone(), item.slot);
        let token = TurnToken {
            invocation: InvocationId { home: self.id.clone(), uuid },
            step: invocation.step,
            attempt: item.attempt,
            epoch,
        };
        self.reign.idle.remove(&uuid);
        self.reign.withdrawals.forget(uuid);
        if let Some(deadline) = invocation.deadline {
            self.reign.deadlines.remove(&(deadline, uuid));
            self.mark_start(env, uuid);
        }
        let turn = crate::effect::Turn {
            token,
            kind: self.id.kind.clone(),
            actor: invocation.actor.clone(),
            method: invocation.method.clone(),
            payload: invocation.payload.clone(),
            mode: invocation.mode,
            work: invocation.work,
            activation,
            deadline: invocation.deadline,
            // A later step has an argument of its own.
            event: invocation.event.clone().filter(|_| invocation.step == 1),
            trace: invocation.trace.clone(),
            recorded_steps,
            slot,
        };
        env.emit(Effect::Dispatch { session, turn });
    }

    /// The token of an item's current attempt.
    pub(super) fn token(&self, item: &Item, epoch: Epoch) -> TurnToken {
        let invocation = InvocationId { home: self.id.clone(), uuid: item.invocation.uuid };
        TurnToken { invocation, step: item.invocation.step, attempt: item.attempt, epoch }
    }

    /// Whether a token names an item's current attempt.
    pub(super) fn is_current(&self, item: &Item, token: &TurnToken) -> bool {
        (item.invocation.step, item.attempt, self.reign.epoch)
            == (token.step, token.attempt, token.epoch)
    }
}

impl Turn {
    fn new(session: SessionId, retry: RetryPolicy, invocation: &Invocation) -> Self {
        Self {
            session,
            unflushed: Unflushed::of(invocation),
            reminders: None,
            calls: Default::default(),
            received: Vec::new(),
            returned: false,
            result: None,
            retry,
            cancelled: false,
        }
    }
}
