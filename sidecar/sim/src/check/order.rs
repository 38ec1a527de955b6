//! P4, P7 by the log: one flow holds an actor, and what one sender sent takes effect in the order
//! sent.

use std::sync::Arc;

use kar_core::ids::{Offset, Sender, Uuid};

use super::Judge;
use super::model::QueuedBy;

/// Who sent an invocation to an actor, and its place among what they sent: twice its number, for numbers of a
/// partition, so that a step that got none has a place behind them.
pub(crate) type OrderKey = ((usize, u128), u64);

/// What a record means for the lock of its turn's actor.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Lock {
    /// The turn goes on.
    Takes,
    /// The turn ended, and its next step holds the actor.
    Keeps,
    /// The turn ended.
    Frees,
}

impl Judge<'_> {
    /// A turn's record takes effect: its flow must hold the actor, or nobody (P4).
    pub(super) fn lock(&mut self, log: usize, offset: Offset, uuid: Uuid, lock: Lock) {
        let Some(actor) = self.logs[log].held.get(&uuid).and_then(|h| h.actor.clone()) else {
            return;
        };
        let chain = self.chains.get(&uuid).cloned().unwrap_or_default();
        let shared = self.is_shared_turn(log, uuid);
        let model = &mut self.logs[log];
        let id = model.id.clone();
        let actor_model = model.actors.entry(actor.clone()).or_default();
        let stack = &mut actor_model.stack;
        let company = &mut actor_model.company;
        let inner = match stack.last() {
            None if shared => {
                let known = company.contains(&uuid);
                let inner = chain.iter().any(|caller| company.contains(caller));
                if lock == Lock::Frees {
                    company.remove(&uuid);
                } else if !known {
                    company.insert(uuid);
                }
                if lock == Lock::Frees && !inner {
                    self.shared_ends(log, offset, &actor, uuid);
                }
                return;
            }
            None if !company.is_empty() => {
                let text = format!("{id}@{offset} {actor}: {uuid} takes effect beside {company:?}");
                return self.wrong("P4 shared and exclusive", text);
            }
            None => false,
            Some(top) if *top == uuid => stack.len() > 1,
            Some(top) if chain.contains(top) => true,
            Some(top) => {
                let text = format!("{id}@{offset} {actor}: {uuid} takes effect while {top} holds");
                return self.wrong("P4 one at a time", text);
            }
        };
        if stack.last() != Some(&uuid) && lock != Lock::Frees {
            stack.push(uuid);
        }
        if lock == Lock::Frees {
            if stack.last() == Some(&uuid) {
                stack.pop();
            }
            if !inner && let Some(key) = self.order_key(log, uuid) {
                self.check_order(log, offset, &actor, (uuid, key));
            }
        }
    }

    /// P7 of shared turns: they may pass each other, but no exclusive one.
    fn shared_ends(&mut self, log: usize, offset: Offset, actor: &Arc<str>, uuid: Uuid) {
        let Some((sender, place)) = self.order_key(log, uuid) else { return };
        let Some(actor_model) = self.logs[log].actors.get_mut(actor) else { return };
        let last = actor_model.ended_shared.entry(sender).or_insert((uuid, place));
        if last.1 < place {
            *last = (uuid, place);
        }
        if let Some((earlier, other)) = actor_model.ended.get(&sender).copied()
            && other > place
        {
            let id = &self.logs[log].id;
            let text = format!("{id}@{offset} {actor}: {uuid} ends after {earlier}");
            self.wrong("P7 order", text);
        }
    }

    /// P7: what one sender sent to one actor takes effect in the order sent.
    fn check_order(
        &mut self,
        log: usize,
        offset: Offset,
        actor: &Arc<str>,
        (uuid, key): (Uuid, OrderKey),
    ) {
        let Some(actor_model) = self.logs[log].actors.get_mut(actor) else { return };
        let shared = actor_model.ended_shared.get(&key.0).copied();
        let exclusive = actor_model.ended.insert(key.0, (uuid, key.1));
        let passed = |other: &(Uuid, u64)| other.1 > key.1;
        if let Some((earlier, _)) = exclusive.filter(passed).or(shared.filter(passed)) {
            let id = &self.logs[log].id;
            let text = format!("{id}@{offset} {actor}: {uuid} ends after {earlier}");
            self.wrong("P7 order", text);
        }
    }

    /// Who sent an invocation, and its place among what was sent by them.
    fn order_key(&self, log: usize, uuid: Uuid) -> Option<OrderKey> {
        let held = &self.logs[log].held[&uuid];
        let name = |actor: &Arc<str>| self.history.names.actor(actor) as u128;
        let (sender, number) = match &held.queued_by {
            QueuedBy::Number(sender, number) => (sender, number),
            QueuedBy::Operator | QueuedBy::Reminder => return None,
            QueuedBy::Step(actor, last) => {
                let who = actor.as_ref().map_or(uuid.0, name);
                return Some(((log, who), 2 * last + 1));
            }
        };
        match sender {
            Sender::Node(_) => {
                let req = *self.asked.get(self.tag_of_uuid.get(&uuid)?)?;
                // Whoever's request came first: nobody knows whose that was.
                if self.history.reqs[req].keyed {
                    return None;
                }
                Some(((usize::MAX, u128::from(self.history.reqs[req].session.0)), req as u64))
            }
            // By partition of the topic, up to the actor.
            Sender::Subscription { subscription, topic_partition, .. } => {
                let branch = (subscription.0 << 8) | u128::from(*topic_partition);
                Some(((usize::MAX - 1, branch), 2 * number))
            }
            Sender::Log { partition, .. } => {
                let from = self.log_of(partition);
                let owed = self.logs[from].owed.get(&(log, *number))?;
                let who = owed.actor.as_ref().map_or(owed.parent.0, name);
                Some(((from, who), 2 * number))
            }
        }
    }
}
