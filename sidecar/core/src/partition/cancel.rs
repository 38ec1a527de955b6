//! What people may have done to an invocation, at its home's owner: ending it, taking a parked one up again, looking
//! at it.
//!
//! Cancelling is cooperative (section 6, item 9). What does not run ends at once, or when code of an attempt that was
//! cut off runs no more (P3); a turn that runs is told, and may stop or go on: its result counts. From the logged
//! request on no other attempt starts, whoever owns the partition then, and no further step of its chain: what a turn
//! did that ends with a tail call stays, and the invocation ends there. A chain that has gone on elsewhere is not
//! followed, since nobody knows where it is: its home keeps the mark, and ends it if it comes back.

use super::Partition;
use super::gate::Gated;
use super::questions::Question;
use super::reign::ItemStage;
use crate::effect::{CancelReason, Effect};
use crate::env::Env;
use crate::ids::{NodeId, RequestId, Uuid};
use crate::invocation::Outcome;
use crate::message::{Control, ControlResult, Controlled, Message};
use crate::record::Op;

impl Partition {
    /// A node asks for something to be done to an invocation. An owner that does not know that it was struck out may
    /// find nothing to do, so the reign is proved to be current first.
    pub(crate) fn control(
        &mut self,
        env: &mut Env,
        from: NodeId,
        request: RequestId,
        control: Control,
    ) {
        if !self.serving() || self.reign.released {
            return self.refuse_control(env, from, request);
        }
        let needs_proof = env.rules.await_barrier;
        self.question(env, (from, request), Question::Control(control), needs_proof);
    }

    /// Somebody else is to be asked, or this node a little later.
    pub(super) fn refuse_control(&self, env: &mut Env, from: NodeId, request: RequestId) {
        let result = ControlResult::NotOwner(self.owner_hint(env));
        env.send(from, Message::ControlDone { request, result });
    }

    /// The same, by a current reign; answered when it is committed (rule L5).
    pub(super) fn control_now(
        &mut self,
        env: &mut Env,
        from: NodeId,
        request: RequestId,
        control: Control,
    ) {
        if self.reign.released {
            return self.refuse_control(env, from, request);
        }
        let uuid = control.uuid();
        let is_unfinished = self.reign.items.contains_key(&uuid);
        let done = match control {
            Control::Redrive(_) => self.redrive(env, uuid),
            Control::Discard(_) => self.discard(env, uuid),
            Control::Inspect(_) => {
                // What is told is committed, the acceptance included.
                self.log_item(env, uuid);
                self.find(uuid).map(|found| Controlled::Found(Box::new(found)))
            }
            Control::Cancel(_) if is_unfinished => Some(self.cancel(env, uuid)),
            Control::Resume(_) if self.resume_parked(env, uuid) => Some(Controlled::Resumed),
            Control::Resume(_) if is_unfinished => {
                // As with all that is told: its acceptance is committed.
                self.log_item(env, uuid);
                Some(Controlled::NotParked)
            }
            Control::Cancel(_) | Control::Resume(_) => {
                self.has_outcome(uuid).then_some(Controlled::Ended)
            }
        };
        let result = done.map_or(ControlResult::Unknown, ControlResult::Done);
        let message = Message::ControlDone { request, result };
        self.gate(env, Gated::Send { to: from, message });
    }

    /// Whether the outcome of an invocation is kept for somebody.
    fn has_outcome(&self, uuid: Uuid) -> bool {
        self.state.kept.get(&uuid).is_some()
            || self.result_of(&uuid).is_some()
            || self.state.dead.contains(uuid)
    }

    fn cancel(&mut self, env: &mut Env, uuid: Uuid) -> Controlled {
        if self.is_fleeting(uuid) {
            // What somebody is answered about is in the log.
            self.log_item(env, uuid);
        }
        let waits = self.has_open_children(uuid);
        let epoch = self.reign.epoch;
        let item = self.reign.items.get(&uuid);
        let may_run_on = item.is_some_and(|item| self.code_may_run_until(env, item).is_some());
        let Some(item) = self.reign.items.get_mut(&uuid) else { return Controlled::Ended };
        let runs = may_run_on || matches!(item.stage, ItemStage::Running(_));
        if !runs && !waits && !matches!(item.stage, ItemStage::Moved) {
            self.leave_queues(env, uuid);
            self.end_unstarted(env, uuid, Outcome::Cancelled);
            return Controlled::Cancelled;
        }
        let done = match item.stage {
            ItemStage::Moved => Controlled::CancelMoved,
            _ => Controlled::CancelRequested,
        };
        if std::mem::replace(&mut item.cancel, true) {
            return done;
        }
        let token = self.reign.items.get(&uuid).map(|item| self.token(item, epoch));
        self.log_item(env, uuid);
        self.push(env, Op::Cancel { uuid });
        let Some(item) = self.reign.items.get_mut(&uuid) else { return done };
        if matches!(item.stage, ItemStage::Parked) {
            // It rests no more: it ends when its calls have, and those of its flow may enter its actor; without calls
            // when the grace is over.
            item.stage = if waits { ItemStage::WaitChildren } else { ItemStage::Queued };
            if waits {
                self.withdraw_calls(env, uuid);
                self.pump_item(env, uuid);
            }
            return done;
        }
        if let (Some(turn), Some(token)) = (item.turn(), token)
            && !turn.cancelled
            && turn.result.is_none()
        {
            let (session, reason) = (turn.session, CancelReason::Requested);
            env.emit(Effect::Cancel { session, token, reason });
        }
        done
    }
}
