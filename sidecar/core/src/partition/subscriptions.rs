//! Commands about subscriptions, and what is told when some are over (`docs/adr/0009`).
//!
//! A command comes on its sender's channel, and the owner carries it out at once, so that asking again repeats nothing.
//! The channels of a subscription that is over would be remembered by their receivers for ever, and what comes late on
//! one that was forgotten would be new. So its end owes them a *fence*: which subscriptions of this partition there
//! still are, and that all others up to now are over. Receivers need one fence for each partition that sends.

use std::sync::Arc;

use super::Partition;
use super::gate::Gated;
use super::questions::Question;
use super::reign::Unflushed;
use crate::cover::Transition;
use crate::effect::{Notice, RequestError, Response};
use crate::env::Env;
use crate::ids::{Kind, NodeId, Number, PartitionId, RequestId, Sender, Uuid};
use crate::invocation::{Fence, Obligation, Outcome, Owed, Payload, Refusal};
use crate::message::{Message, ReadResult};
use crate::record::{Op, Send, SubscriptionOp};
use crate::subscription::{
    Subscription, SubscriptionAsk, SubscriptionChange, SubscriptionCommand, SubscriptionSpec,
};

/// What a command comes to.
enum Decided {
    /// It is refused.
    Refused(Refusal),
    /// Carried out, with what is told to whoever asked.
    Done(SubscriptionOp, String),
}

/// Told of what was not so before.
const CHANGED: &str = "changed";
/// Told of what was so already.
const UNCHANGED: &str = "unchanged";

// Commands.
impl Partition {
    /// A command: decided, and answered when it is committed.
    pub(super) fn take_command(
        &mut self,
        env: &mut Env,
        (from, sender, number): (NodeId, Sender, Number),
        command: &SubscriptionCommand,
    ) {
        let uuid = command.uuid;
        let (change, text) = match self.decide(env, uuid, &command.ask) {
            Decided::Refused(refusal) => {
                return self.turn_away(env, from, sender, number, uuid, refusal);
            }
            Decided::Done(change, text) => (change, text),
        };
        self.log_held(env, &sender, number);
        let sends = self.fences_of(env, &change);
        let owed: Vec<_> = sends.iter().map(|s| (s.obligation.to.clone(), s.number)).collect();
        let outcome = command.is_awaited().then(|| Outcome::Done(text_to(text)));
        self.end_deliveries(env, &change);
        let (op_sender, answer) = (sender.clone(), outcome.clone());
        let op = change.clone();
        self.push(
            env,
            Op::Subscription { sender: op_sender, number, uuid, change: op, outcome, sends },
        );
        self.gate_sends(env, owed);
        if let (SubscriptionAsk::ActorRemoved { actor, .. }, SubscriptionOp::End { names }) =
            (&command.ask, &change)
        {
            for name in names {
                let (partition, name, actor) = (self.id.clone(), name.clone(), actor.clone());
                self.gate_notice(env, Notice::SubscriptionRemoved { partition, name, actor });
            }
        }
        match answer {
            Some(outcome) => {
                let message = Message::Reply { sender, from: self.id.clone(), number, outcome };
                self.gate(env, Gated::Send { to: from, message });
            }
            None => self.gate(env, Gated::Accepted { to: from, sender, number }),
        }
        let begins = match &change {
            SubscriptionOp::Create(subscription) => Some(subscription.uuid),
            SubscriptionOp::Pause { name, paused: false } => self.id_of(name),
            _ => None,
        };
        if let Some(subscription) = begins {
            // What nobody has committed delivers nothing, also where a read is under way (rule L5).
            self.reign.deliveries.resumes(subscription);
            self.gate(env, Gated::Deliver { subscription });
        }
    }

    pub(super) fn id_of(&self, name: &Arc<str>) -> Option<Uuid> {
        self.state.subscriptions.get(name).map(|one| one.subscription.uuid)
    }

    fn decide(&mut self, env: &mut Env, asked: Uuid, ask: &SubscriptionAsk) -> Decided {
        let all = &self.state.subscriptions;
        match ask {
            SubscriptionAsk::Subscribe { spec, target_partitions } => {
                self.subscribe(env, asked, (spec, *target_partitions))
            }
            SubscriptionAsk::ActorRemoved { kind, actor, time } => {
                let ends = all.iter().map(|one| &one.subscription).filter(|subscription| {
                    subscription.spec.is_of(kind, actor) && subscription.created <= *time
                });
                let names: Vec<_> = ends.map(|ends| ends.spec.name.clone()).collect();
                if names.is_empty() {
                    return Decided::Done(SubscriptionOp::Nothing, UNCHANGED.into());
                }
                env.cover(Transition::SubscriptionRemoved);
                Decided::Done(SubscriptionOp::End { names }, CHANGED.into())
            }
            SubscriptionAsk::Change { name, change } => {
                let one = all.get(name);
                let paused = one.map(|one| one.paused);
                let op = match (change, paused) {
                    (SubscriptionChange::Unsubscribe, Some(_)) => {
                        SubscriptionOp::End { names: vec![name.clone()] }
                    }
                    (SubscriptionChange::Unsubscribe, None) => SubscriptionOp::Nothing,
                    (_, None) => {
                        env.cover(Transition::SubscriptionUnknown);
                        return Decided::Refused(Refusal::SubscriptionUnknown);
                    }
                    (SubscriptionChange::Pause, Some(false)) => {
                        SubscriptionOp::Pause { name: name.clone(), paused: true }
                    }
                    (SubscriptionChange::Resume, Some(true)) => {
                        SubscriptionOp::Pause { name: name.clone(), paused: false }
                    }
                    (SubscriptionChange::Pause | SubscriptionChange::Resume, Some(_)) => {
                        SubscriptionOp::Nothing
                    }
                };
                let changed = op != SubscriptionOp::Nothing;
                Decided::Done(op, if changed { CHANGED } else { UNCHANGED }.into())
            }
        }
    }

    fn subscribe(
        &mut self,
        env: &mut Env,
        asked: Uuid,
        (spec, target_partitions): (&Arc<SubscriptionSpec>, u32),
    ) -> Decided {
        let all = &self.state.subscriptions;
        if let Some(one) = all.get(&spec.name) {
            if !one.subscription.spec.says_the_same(spec) {
                env.cover(Transition::SubscriptionDiffers);
                return Decided::Refused(Refusal::SubscriptionDiffers);
            }
            env.cover(Transition::SubscriptionAgain);
            let uuid = one.subscription.uuid;
            return Decided::Done(SubscriptionOp::Nothing, format!("{UNCHANGED} {uuid}"));
        }
        // Ids ascend, so that all that were ever created up to now can be named at once.
        let uuid = env.uuid().max(Uuid(all.newest().0.saturating_add(1)));
        let created = asked.time();
        let spec = (**spec).clone();
        let subscription = Subscription { uuid, target_partitions, created, spec };
        let held = all.tally();
        if held.count >= env.limits.subscriptions_per_partition_max {
            return Decided::Refused(Refusal::SubscriptionsFull);
        }
        let bytes_max = env.limits.subscriptions_bytes_per_partition_max;
        if held.bytes + subscription.size() > bytes_max {
            return Decided::Refused(Refusal::SubscriptionsBytesFull);
        }
        Decided::Done(SubscriptionOp::Create(Arc::new(subscription)), format!("{CHANGED} {uuid}"))
    }

    /// Obligations to the receivers of subscriptions that end: their channels are over.
    fn fences_of(&mut self, env: &mut Env, change: &SubscriptionOp) -> Vec<Send> {
        let SubscriptionOp::End { names } = change else { return Vec::new() };
        let all = &self.state.subscriptions;
        let ended: Vec<_> = names.iter().filter_map(|name| all.get(name)).collect();
        let ids: Vec<_> = ended.iter().map(|one| one.subscription.uuid).collect();
        let fence = all.fence(&ids);
        let mut to: Vec<PartitionId> =
            ended.iter().flat_map(|one| one.subscription.receivers()).collect();
        to.sort_unstable();
        to.dedup();
        let obligations = to.into_iter().map(|to| {
            let owed = Owed::Fence(Arc::new(Fence { uuid: env.uuid(), fence: fence.clone() }));
            Obligation { to, owed, parent: None, step_key: None }
        });
        let obligations = obligations.collect();
        self.number(obligations)
    }

    /// An actor is removed: subscriptions to that instance end with it. Who subscribes is not known here, so all
    /// partitions of subscriptions are told, if there are any.
    ///
    /// Which ones were there before is told by when both were asked for, by the clocks of the nodes that were asked:
    /// who asks one for a removal, and then for a subscription, has that one, whatever the clocks of their owners show.
    pub(super) fn tell_subscriptions(
        &mut self,
        env: &mut Env,
        (removal, actor): (Uuid, &Arc<str>),
        unflushed: &mut Unflushed,
    ) {
        let kind = Kind::subscriptions();
        let count = env.members.kinds.get(&kind).copied().unwrap_or(0);
        for index in 0..count {
            let (of, actor, time) = (self.id.kind.clone(), actor.clone(), removal.time());
            let ask = SubscriptionAsk::ActorRemoved { kind: of, actor, time };
            let command = SubscriptionCommand { uuid: env.uuid(), ask };
            let obligation = Obligation {
                to: PartitionId::new(kind.clone(), index),
                owed: Owed::Subscription(Arc::new(command)),
                parent: None,
                step_key: None,
            };
            self.reign.buffered.add(obligation.size());
            unflushed.sends.push(obligation);
        }
    }

    /// Channels of subscriptions are over: they are forgotten, and nothing comes on them any more.
    pub(super) fn take_fence(
        &mut self,
        env: &mut Env,
        (from, sender, number): (NodeId, Sender, Number),
        fence: &Fence,
    ) {
        self.log_held(env, &sender, number);
        let fence = fence.fence.clone();
        self.push(env, Op::Fence { sender: sender.clone(), number, fence });
        let before = self.reign.senders.len();
        let fences = &self.state.fences;
        self.reign.senders.retain(|sender, _| !fences.close(sender));
        self.reign.statements.retain(|sender, _| !fences.close(sender));
        if self.reign.senders.len() < before {
            env.cover(Transition::FenceCloses);
        }
        self.gate(env, Gated::Accepted { to: from, sender, number });
    }
}

// Lists.
impl Partition {
    /// A node asks for subscriptions.
    pub(crate) fn list_subscriptions(
        &mut self,
        env: &mut Env,
        from: NodeId,
        request: RequestId,
        name: Option<Arc<str>>,
    ) {
        // Without a lease a successor may reign already, and can be asked at once.
        if !self.serving() || !env.lease_valid {
            return self.refuse_read(env, from, request);
        }
        let needs_proof = env.rules.read_barrier;
        self.question(env, (from, request), Question::Subscriptions { name }, needs_proof);
    }

    /// The reign is current: what was decided, once it is committed (rule L5).
    pub(super) fn subscriptions_current(
        &mut self,
        env: &mut Env,
        from: NodeId,
        request: RequestId,
        name: Option<&Arc<str>>,
    ) {
        let is_wanted = |wanted: &Arc<str>| name.is_none_or(|name| name == wanted);
        let all = self.state.subscriptions.iter();
        let all: Vec<_> = all.filter(|one| is_wanted(&one.subscription.spec.name)).collect();
        let max = env.limits.state_read_bytes_max;
        let result = if all.iter().map(|one| one.subscription.size()).sum::<usize>() > max {
            ReadResult::TooLong(max as u64)
        } else {
            ReadResult::Subscriptions(all.into_iter().map(|one| self.progress_of(one)).collect())
        };
        self.gate_read(env, from, request, result);
    }
}

fn text_to(text: String) -> Payload {
    Payload { data: bytes::Bytes::from(text), content_type: Arc::default() }
}

/// The answer to a command from outside, by its outcome.
pub(crate) fn answer_to_command(
    command: &SubscriptionCommand,
    outcome: Outcome,
) -> Result<Response, RequestError> {
    let unread = || RequestError::Unknown("the owner's answer is not understood");
    let name = match &command.ask {
        SubscriptionAsk::Subscribe { spec, .. } => spec.name.clone(),
        SubscriptionAsk::Change { name, .. } => name.clone(),
        SubscriptionAsk::ActorRemoved { .. } => Arc::default(),
    };
    match outcome {
        Outcome::Done(payload) => {
            let text = std::str::from_utf8(&payload.data).map_err(|_| unread())?;
            let (word, uuid) = text.split_once(' ').unwrap_or((text, ""));
            let changed = word == CHANGED;
            if let SubscriptionAsk::Subscribe { .. } = &command.ask {
                let subscription = uuid.parse().map_err(|_| unread())?;
                return Ok(Response::Subscribed { subscription, created: changed });
            }
            Ok(Response::SubscriptionChanged { changed })
        }
        Outcome::Refused(Refusal::SubscriptionDiffers) => {
            Err(RequestError::SubscriptionDiffers(name))
        }
        Outcome::Refused(Refusal::SubscriptionUnknown) => {
            Err(RequestError::UnknownSubscription(name))
        }
        // Bounds are told as those of calls.
        outcome => Ok(Response::Outcome { invocation: None, outcome }),
    }
}
