//! Chains of tail calls (P6): how a turn hands its invocation on, and how outcomes come home (rule C8).
//!
//! A step in another partition is an obligation that retires when it is accepted. The first partition that a call or a
//! start leaves keeps its one live entry, `moved`: whoever waits asks there, and the last step's outcome comes back
//! there as an obligation. A step that comes back itself takes the entry over again. A chain begun by a tell needs no
//! home: nobody waits.
//!
//! A step in the same partition needs no obligation, unless something that was sent to the same actor before it is
//! still on its way: then it takes that way, too, and queues behind it (P7).

use std::sync::Arc;

use super::Partition;
use super::gate::Gated;
use super::reign::{ItemStage, Unflushed};
use crate::cover::Transition;
use crate::env::Env;
use crate::event::TailCall;
use crate::ids::{NodeId, Number, PartitionId, Sender, Uuid};
use crate::invocation::{
    ApplicationError, ChainOutcome, Invocation, Mode, Obligation, Outcome, Owed, Work,
};
use crate::record::{End, Op};

impl Partition {
    /// A turn ended with a tail call: its segment and the next step are one decision.
    pub(super) fn tail_call(
        &mut self,
        env: &mut Env,
        uuid: Uuid,
        (to, call): (PartitionId, TailCall),
        mut unflushed: Unflushed,
    ) {
        let Some(item) = self.reign.items.get(&uuid) else { return };
        let before = item.invocation.clone();
        let is_same = to == self.id && before.actor.is_some() && before.actor == call.target.actor;
        let is_alone = !item.shared;
        let wrong = if before.work == Work::Deactivate {
            Some("the invocation that deactivates an actor has no next step")
        } else if call.keeps_lock && !(is_same && is_alone) {
            Some(
                "a tail call keeps the lock only of an exclusive method, and if it goes to the same actor",
            )
        } else if self.is_too_long_to_carry(env, &before) {
            Some(
                "the event that is delivered is too long to be carried to a next step (segment-bytes-max)",
            )
        } else {
            None
        };
        if let Some(wrong) = wrong {
            env.cover(Transition::TailRefused);
            let error = ApplicationError::of_kar("kar.INVALID_TAIL_CALL", wrong);
            self.end_activation(env, uuid);
            self.drop_unflushed(unflushed);
            return self.end(env, uuid, Outcome::Failed(error), Unflushed::default());
        }
        if item.cancel && env.rules.heed_cancel {
            // Somebody asked for its end: what this step did stays, and no other one follows.
            return self.end(env, uuid, Outcome::Cancelled, unflushed);
        }
        // The entry goes on, so it is needed in full.
        self.log_item(env, uuid);
        let passes = call.keeps_lock
            || !env.rules.tail_order
            || !self.is_behind(call.target.actor.as_ref(), &unflushed);
        let stays = to == self.id && passes;
        let home = before
            .home
            .clone()
            .or_else(|| (!stays && before.mode != Mode::Tell).then(|| self.id.clone()));
        let next = Arc::new(Invocation {
            uuid,
            work: Work::Method,
            mode: before.mode,
            actor: call.target.actor,
            method: call.method,
            payload: call.payload,
            chain: before.chain.clone(),
            deadline: None,
            trace: before.trace.clone(),
            step: before.step + 1,
            home,
            retry: before.retry,
            key: None,
            event: before.event.as_ref().map(|event| event.carried(&before)),
        });
        if stays && !call.keeps_lock {
            // As with whatever is logged of a channel (rule C2): what came before it stays before it, also where the
            // next owner queues it.
            self.log_held(env, &self.as_sender(), Number::MAX);
        }
        if stays {
            env.cover(if call.keeps_lock { Transition::TailKept } else { Transition::TailStays });
            let (invocation, keeps_lock) = (next.clone(), call.keeps_lock);
            self.complete(env, uuid, End::Next { invocation, keeps_lock }, unflushed);
            self.begin_step(uuid, next);
            if !keeps_lock || !env.rules.tail_lock {
                self.enqueue(env, uuid);
            }
        } else {
            if to == self.id {
                env.cover(Transition::TailFollows);
            }
            let obligation =
                Obligation { to, owed: Owed::Invocation(next), parent: None, step_key: None };
            self.buffer(&mut unflushed, obligation);
            self.complete(env, uuid, End::Passed, unflushed);
            self.pass_on(env, uuid);
        }
        let holds = call.keeps_lock && env.rules.tail_lock;
        self.free_actor(env, uuid, before.actor.as_ref(), holds);
        if stays {
            self.pump_item(env, uuid);
        }
        self.try_release(env);
    }

    /// Whether something that was sent to an actor of this partition from here has not been queued there yet.
    fn is_behind(&self, actor: Option<&Arc<str>>, unflushed: &Unflushed) -> bool {
        let goes_there = |obligation: &Obligation| match &obligation.owed {
            Owed::Invocation(sent) => obligation.to == self.id && sent.actor.as_ref() == actor,
            Owed::Outcome(_) | Owed::Remind(_) | Owed::Subscription(_) | Owed::Fence(_) => false,
        };
        let known = self.next_known(&self.as_sender());
        let out = self.state.outbound.get(&self.id);
        let mut on_its_way = out.into_iter().flat_map(|out| out.open.range(known..));
        actor.is_some()
            && (unflushed.sends.iter().any(goes_there)
                || on_its_way.any(|(_, obligation)| goes_there(obligation)))
    }

    /// An invocation whose home is elsewhere ended: its outcome is owed to that (rule C8).
    pub(super) fn send_home(
        &mut self,
        env: &mut Env,
        uuid: Uuid,
        (home, outcome): (PartitionId, Outcome),
        mut unflushed: Unflushed,
    ) {
        env.cover(Transition::TailHome);
        let owed = Owed::Outcome(Arc::new(ChainOutcome { uuid, outcome }));
        let obligation = Obligation { to: home, owed, parent: None, step_key: None };
        self.buffer(&mut unflushed, obligation);
        self.complete(env, uuid, End::Passed, unflushed);
    }

    fn buffer(&mut self, unflushed: &mut Unflushed, obligation: Obligation) {
        self.reign.buffered.add(obligation.size());
        unflushed.sends.push(obligation);
    }

    /// The chain has left: its home stays, any other place of it is done.
    fn pass_on(&mut self, env: &mut Env, uuid: Uuid) {
        match self.state.entries.get(&uuid).map(|entry| entry.invocation.clone()) {
            Some(invocation) => {
                env.cover(Transition::TailMoved);
                self.begin_step(uuid, invocation);
                self.set_stage(uuid, ItemStage::Moved);
            }
            None => {
                env.cover(Transition::TailPassed);
                if let Some(item) = self.remove_item(env, uuid) {
                    self.report_withheld(env, &item);
                }
            }
        }
    }

    /// An item goes on with another step.
    fn begin_step(&mut self, uuid: Uuid, invocation: Arc<Invocation>) {
        let Some(item) = self.reign.items.get_mut(&uuid) else { return };
        self.reign.items_bytes -= item.invocation.size();
        self.reign.items_bytes += invocation.size();
        item.invocation = invocation;
        item.attempt = 1;
        item.started = false;
        item.cleared = false;
        item.resent = false;
        item.unmarked = false;
        item.retry_at = 0;
        item.shared = false;
        item.ended = None;
        item.stage = ItemStage::Queued;
        self.note_decided(uuid);
    }

    /// Whether an invocation's chain of tail calls has left, and its outcome is to come back.
    pub(super) fn is_moved(&self, uuid: Uuid) -> bool {
        self.reign.items.get(&uuid).is_some_and(|item| matches!(item.stage, ItemStage::Moved))
    }

    /// A chain of tail calls ended elsewhere; this is its home (rule C8).
    pub(super) fn take_outcome(
        &mut self,
        env: &mut Env,
        (from, sender, number): (NodeId, Sender, Number),
        done: Arc<ChainOutcome>,
    ) {
        self.log_held(env, &sender, number);
        let item = if self.is_moved(done.uuid) { self.remove_item(env, done.uuid) } else { None };
        env.cover(match item {
            Some(_) => Transition::TailOutcome,
            None => Transition::TailOutcomeAgain,
        });
        let outcome = done.outcome.clone();
        let op = Op::Outcome { sender: sender.clone(), number, done, time: env.now };
        self.push(env, op);
        self.gate(env, Gated::Accepted { to: from, sender, number });
        if let Some(item) = item {
            self.tell_outcome(env, &item, outcome);
        }
    }

    /// A chain of tail calls comes back to its home with its next step (rule C8).
    pub(super) fn take_back(
        &mut self,
        env: &mut Env,
        (from, sender, number): (NodeId, Sender, Number),
        (invocation, again): (Arc<Invocation>, bool),
    ) {
        env.cover(Transition::TailBack);
        let uuid = invocation.uuid;
        self.log_held(env, &sender, number);
        self.push(env, Op::Accept { sender: sender.clone(), number, invocation });
        self.gate(env, Gated::Accepted { to: from, sender, number });
        let Some(entry) = self.state.entries.get(&uuid) else { return };
        let invocation = entry.invocation.clone();
        self.begin_step(uuid, invocation);
        if let Some(item) = self.reign.items.get_mut(&uuid) {
            item.resent = again;
        }
        self.reign.probes.forget(uuid);
        self.enqueue(env, uuid);
        self.pump_item(env, uuid);
    }
}
