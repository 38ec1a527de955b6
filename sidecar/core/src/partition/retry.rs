//! Attempts that end without ending their invocation: pauses, retryable errors, parking (section 6, item 9).
//!
//! An actor stays with an invocation that is to be tried again: whoever comes after it was promised its effects (P4),
//! or was sent after it (P7). Only a parked one lets others pass, if it has flushed nothing.

use super::Partition;
use super::reign::{Item, ItemStage, Turn};
use crate::cover::Transition;
use crate::effect::Notice;
use crate::env::Env;
use crate::ids::{InvocationId, Millis, NodeId, Uuid};
use crate::invocation::{ApplicationError, RetryPolicy, Work};
use crate::record::Op;
use crate::state::{Entry, Origin};
use crate::trouble::{Cause, Ended, lost_pause};

impl Partition {
    /// Whether the attempt that has just returned an error is to be followed by another one; its pause.
    pub(super) fn retry_after(
        &self,
        env: &Env,
        uuid: Uuid,
        (turn, error): (&Turn, &ApplicationError),
    ) -> Option<Millis> {
        let item = self.reign.items.get(&uuid)?;
        if !error.retryable || item.cancel || item.invocation.work != Work::Method {
            return None;
        }
        let failures = self.state.entries.get(&uuid).map_or(0, |entry| entry.trouble.failures);
        let failures = if env.rules.retry_bound { failures + 1 } else { 1 };
        turn.retry.pause(failures)
    }

    /// The call's policy, its method's, or the default one.
    pub(super) fn policy(&self, env: &Env, item: &Item) -> RetryPolicy {
        let of_method = || {
            let offer = &env.host.as_ref()?.offer;
            if offer.retries.is_empty() {
                return None;
            }
            let method = (self.id.kind.clone(), item.invocation.method.clone());
            offer.retries.get(&method).copied()
        };
        let limits = &env.limits;
        item.invocation.retry.or_else(of_method).unwrap_or(RetryPolicy {
            attempts_max: limits.retry_attempts_max,
            initial_ms: limits.retry_initial_ms,
            max_ms: limits.retry_max_ms,
            multiplier_percent: limits.retry_multiplier_percent,
        })
    }

    /// A turn returned a retryable error, and its calls have their outcomes (rule T1): its unflushed segment is
    /// dropped, and the next attempt begins after a pause. Logged now, so that the next owner keeps the pause and the
    /// count.
    pub(super) fn retry_turn(
        &mut self,
        env: &mut Env,
        uuid: Uuid,
        (turn, error): (Turn, &ApplicationError),
        pause: Millis,
    ) {
        self.drop_unflushed(turn.unflushed);
        let at = env.now + pause;
        self.log_item(env, uuid);
        let Some(item) = self.reign.items.get_mut(&uuid) else { return };
        item.retry_at = at;
        let attempt = item.attempt;
        if item.invocation.actor.is_none() {
            self.reign.idle.insert(uuid);
        }
        env.cover(Transition::RetryPaused);
        self.reign.retries.insert((at, uuid));
        let ended = Some(Ended::with_error(error, at.max(self.state.clock + pause)));
        self.push(env, Op::Attempt { uuid, attempt, ended, unmarked: false });
        self.try_release(env);
        if !env.rules.keep_place {
            self.lose_place(env, uuid);
        }
        self.pump_item(env, uuid);
    }

    /// A rule switched off: what is tried again lets others pass, as if it had come anew.
    pub(super) fn lose_place(&mut self, env: &Env, uuid: Uuid) {
        if !self.holds(uuid) {
            self.leave_queues(env, uuid);
            self.enqueue(env, uuid);
        }
    }

    /// Logs an invocation that was taken and not logged yet.
    pub(super) fn log_item(&mut self, env: &mut Env, uuid: Uuid) {
        let Some(item) = self.reign.items.get(&uuid).filter(|item| !item.logged) else { return };
        match item.origin.clone() {
            Origin::Channel { sender, number } => self.log_held(env, &sender, number),
            Origin::Idle => self.log_deactivation(env, uuid),
            // A firing is logged from the start.
            Origin::Reminder(_) => {}
        }
    }

    /// An attempt ended without a result. Tells whether the invocation is parked because of it.
    pub(super) fn note_end(
        &mut self,
        env: &mut Env,
        uuid: Uuid,
        cause: Cause,
        cancel: bool,
    ) -> bool {
        let trouble = self.state.entries.get(&uuid).map(|entry| &entry.trouble);
        let (failures, losses) = trouble.map_or((0, 0), |t| (t.failures, t.losses));
        let Some(item) = self.reign.items.get_mut(&uuid) else { return false };
        let pause = lost_pause(item.attempt.saturating_sub(failures));
        let pause = pause.filter(|_| env.rules.lost_pause);
        if let Some(pause) = pause {
            item.retry_at = env.now + pause;
            env.cover(Transition::RetryPaused);
            self.reign.retries.insert((item.retry_at, uuid));
        }
        let error = match cause {
            Cause::HostLost => "the host's process or stream was lost while it ran",
            Cause::HandOver => "it was stopped for the hand-over of its partition",
            Cause::Stopped => "its process stopped it",
            Cause::ReignLost | Cause::ApplicationError => "",
        };
        item.ended = Some(Ended::new(cause, item.retry_at, error));
        // One that is to end does so now.
        let is_poison = losses + 1 >= env.limits.park_after_attempts && env.rules.park_poison;
        if cause == Cause::HostLost && !cancel && is_poison {
            self.park(env, uuid);
            return true;
        }
        false
    }

    /// What the log says of an attempt that a reign before this one may have run: how it ended, and when the next one
    /// may start. `lost`: the node whose reign ended in disorder, if it was another one.
    pub(super) fn inherited(
        env: &Env,
        (entry, clock): (&Entry, Millis),
        lost: Option<NodeId>,
    ) -> (Option<Ended>, Millis) {
        if let Some(ended) = entry.trouble.of(entry.attempt) {
            // By the partition's clock, which this node's may be behind.
            let rest = ended.not_before.saturating_sub(clock);
            return (None, ended.not_before.min(env.now + rest));
        }
        let lost_ones = entry.attempt.saturating_sub(entry.trouble.failures);
        let pause = lost_pause(lost_ones).filter(|_| env.rules.lost_pause);
        let retry_at = pause.map_or(0, |pause| env.now + pause);
        // Of a first attempt the log tells that it began only where that had to be told, or where it has flushed. What
        // began untold and took its node along is logged when it begins again; what only waited never counts.
        let may_have_run = entry.attempt > 1 || entry.ran || !env.rules.count_started;
        let ended = match lost {
            Some(node) if may_have_run => {
                let text = format!("its node {} was lost", node.0);
                Ended::new(Cause::HostLost, retry_at, &text)
            }
            Some(node) => {
                let text = format!("its node {} was lost before it began, or as it began", node.0);
                Ended::new(Cause::ReignLost, retry_at, &text)
            }
            None => Ended::new(Cause::ReignLost, retry_at, "its owner dropped the partition"),
        };
        (Some(ended), retry_at)
    }

    /// Parks what a take-over has found to have lost too many hosts.
    pub(super) fn park_lost(&mut self, env: &mut Env) {
        let most = env.limits.park_after_attempts;
        let entries = &self.state.entries;
        let is_lost = |uuid: &Uuid, item: &Item| {
            let losses = entries.get(uuid).map_or(0, |entry| entry.trouble.losses);
            let lost = item.ended.as_ref().is_some_and(|e| e.cause == Cause::HostLost);
            lost && !item.cancel && losses + 1 >= most && env.rules.park_poison
        };
        let items = self.reign.items.iter().filter(|(uuid, item)| is_lost(uuid, item));
        let lost: Vec<Uuid> = items.map(|(uuid, _)| *uuid).collect();
        for uuid in lost {
            self.park(env, uuid);
        }
    }

    /// An invocation has lost too many hosts: it rests until somebody takes it up again. It is never dropped; others
    /// pass it, unless it has flushed: then what it did is not to be seen half done, and its actor rests with it.
    fn park(&mut self, env: &mut Env, uuid: Uuid) {
        self.log_item(env, uuid);
        let Some(item) = self.reign.items.get_mut(&uuid) else { return };
        let (attempt, ended) = (item.attempt, item.ended.take());
        let item_actor = item.invocation.actor.is_some();
        let error = ended.as_ref().map(|e| e.error.clone()).unwrap_or_default();
        item.stage = ItemStage::Parked;
        item.retry_at = 0;
        self.push(env, Op::Attempt { uuid, attempt, ended, unmarked: false });
        self.push(env, Op::Park { uuid });
        self.leave_queues(env, uuid);
        let losses = self.state.entries.get(&uuid).map_or(0, |entry| entry.trouble.losses);
        let invocation = InvocationId { home: self.id.clone(), uuid };
        let holds = item_actor && self.holds(uuid);
        self.gate_notice(env, Notice::Parked { invocation, losses, error, holds });
    }

    /// Takes an invocation that does not hold its actor out of everybody's way.
    pub(super) fn leave_queues(&mut self, env: &Env, uuid: Uuid) {
        self.reign.idle.remove(&uuid);
        if self.holds(uuid) && env.rules.parked_holds {
            return;
        }
        let Some(item) = self.reign.items.get(&uuid) else { return };
        let Some(name) = &item.invocation.actor else { return };
        let Some(actor) = self.reign.actors.get_mut(name) else { return };
        actor.lock.leave(uuid);
        actor.lock.forget(|u| *u != uuid);
    }

    /// A parked invocation goes on, behind what is queued unless it holds its actor; tells whether it was parked.
    pub(super) fn resume_parked(&mut self, env: &mut Env, uuid: Uuid) -> bool {
        let Some(item) = self.reign.items.get_mut(&uuid) else { return false };
        if !matches!(item.stage, ItemStage::Parked) {
            return false;
        }
        item.stage = ItemStage::Queued;
        // Only actors are held.
        let stayed = item.invocation.actor.is_some() && self.holds(uuid);
        self.push(env, Op::Resume { uuid });
        if !stayed {
            self.enqueue(env, uuid);
        }
        self.pump_item(env, uuid);
        true
    }
}
