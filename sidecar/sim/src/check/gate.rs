//! P5, rule L5: nothing that others can see depends on a record that is not valid in its log.

use kar_core::effect::{Notice, RequestError, Response};
use kar_core::ids::{Epoch, InvocationId, Kind, NodeId, Number, PartitionId, Sender, Uuid};
use kar_core::invocation::{Invocation, Mode, Outcome, Owed, Refusal};
use kar_core::message::{AwaitResult, Message};
use kar_core::node::DIRECT_CONCURRENCY;

use super::Judge;
use super::told::What;
use crate::history::{Answer, ItemKind, Waiter};
use crate::remind::Remind;

impl Judge<'_> {
    /// Which reign sent a request to which. Inboxes are for all (epoch 0): what was sent nowhere before runs ahead of
    /// no reign's log; what was, perhaps within one node, may still do so where it came first.
    fn note_request(
        &mut self,
        from_epoch: Epoch,
        to: &PartitionId,
        epoch: Epoch,
        again: bool,
        invocation: &Invocation,
    ) {
        let key = (self.log_of(to), invocation.uuid, invocation.step);
        let sends = self.sends.entry(key).or_default();
        if epoch > 0 || (!again && sends.is_empty()) {
            sends.insert((from_epoch, epoch));
        }
    }

    /// A node gives a message to the network.
    pub(crate) fn check_sent(&mut self, from: NodeId, message: &Message) {
        match message {
            Message::Open { sender, to, highest, open, .. } => {
                self.check_open(sender, to, *highest, open);
            }
            Message::Request {
                sender, from_epoch, to, epoch, number, floor, again, owed, ..
            } => {
                if let Owed::Invocation(invocation) = owed {
                    self.meet(invocation);
                    self.note_request(*from_epoch, to, *epoch, *again, invocation);
                }
                self.check_request(from, sender, to, *number, owed.uuid());
                self.event_sent(from, sender, owed);
                self.check_floor(sender, to, *floor);
            }
            Message::Reply { sender, from: at, number, outcome } => {
                let log = self.log_of(at);
                let uuid = self.logs[log].numbers.get(&(sender.clone(), *number)).copied();
                let ended = uuid.and_then(|u| self.logs[log].outcome(u));
                if ended.is_none_or(|e| e.outcome != *outcome) {
                    let text =
                        format!("{from:?} replies to {sender:?}/{number} of {at}: {outcome:?}");
                    self.wrong("P5 gate for replies", text);
                }
            }
            Message::Accepted { sender, from: at, numbers } => {
                for number in numbers {
                    self.check_known(from, sender, at, *number, "P5 gate for acceptances");
                }
            }
            Message::Gone { sender, from: at, number } => {
                self.check_known(from, sender, at, *number, "C4 gone means taken");
            }
            Message::Awaited { result: AwaitResult::Done(outcome), .. } => {
                let durable = self.logs.iter().any(|l| {
                    l.held.values().any(|h| h.ended.as_ref().is_some_and(|e| e.outcome == *outcome))
                });
                if !durable {
                    self.wrong("P5 gate for replies", format!("{from:?} tells {outcome:?}"));
                }
            }
            Message::ChannelClosed { sender: Sender::Node(node), .. } => {
                let node = *node;
                let model = self.node(node);
                if model.gone.is_none() && !model.struck_out {
                    self.wrong("C6 closed channel", format!("{node:?} lives"));
                }
            }
            _ => {}
        }
    }

    fn check_known(
        &mut self,
        from: NodeId,
        sender: &Sender,
        at: &PartitionId,
        number: Number,
        rule: &'static str,
    ) {
        let log = self.log_of(at);
        if !self.logs[log].numbers.contains_key(&(sender.clone(), number)) {
            // A number that its node's end closed unseen is gone as well.
            let closed = matches!(sender, Sender::Node(n)
                if self.nodes.get(n).is_some_and(|m| m.gone.is_some() || m.struck_out));
            if !closed && !self.is_channel_over(log, sender, number) {
                self.wrong(rule, format!("{from:?} about {sender:?}/{number} of {at}"));
            }
        }
    }

    fn check_request(
        &mut self,
        from: NodeId,
        sender: &Sender,
        to: &PartitionId,
        number: Number,
        uuid: Uuid,
    ) {
        let log = self.log_of(to);
        match sender {
            Sender::Log { partition, log: name } => {
                let model = &self.logs[self.log_of(partition)];
                let owed = model.owed.get(&(log, number));
                if model.uuid != Some(*name) || owed.is_none_or(|o| o.uuid != uuid) {
                    let text =
                        format!("{from:?} sends {uuid}, number {number} from {partition} to {to}");
                    self.wrong("P5 gate for requests", text);
                }
            }
            Sender::Node(_) | Sender::Subscription { .. } => {
                let known = self.node_numbers.insert((sender.clone(), log, number), uuid);
                if known.is_some_and(|k| k != uuid) {
                    let text = format!("{sender:?}/{number} to {to}: {known:?}, then {uuid}");
                    self.wrong("C1 numbers are used once", text);
                }
            }
        }
    }

    /// C3: numbers stated as closed are settled by their sender's log.
    fn check_open(&mut self, sender: &Sender, to: &PartitionId, highest: Number, open: &[Number]) {
        let Sender::Log { partition, .. } = sender else { return };
        let (log, from) = (self.log_of(to), self.log_of(partition));
        let owed = &self.logs[from].owed;
        let mut wrong = Vec::new();
        for number in open.iter().copied().chain((highest > 0).then_some(highest)) {
            if !owed.contains_key(&(log, number)) {
                wrong.push(("P5 gate for requests", format!("{number} is not committed")));
            }
        }
        for ((_, number), owed) in owed.range((log, 0)..=(log, highest)) {
            if owed.awaited && !owed.settled && !open.contains(number) {
                wrong.push(("C4 closed only when committed", format!("{} ({number})", owed.uuid)));
            }
        }
        for (rule, text) in wrong {
            self.wrong(rule, format!("{partition} opens its channel to {to}: {text}"));
        }
    }

    fn check_floor(&mut self, sender: &Sender, to: &PartitionId, floor: Number) {
        let Sender::Log { partition, .. } = sender else { return };
        let (log, from) = (self.log_of(to), self.log_of(partition));
        let early = self.logs[from]
            .owed
            .range((log, 0)..(log, floor))
            .find(|(_, o)| o.awaited && !o.settled)
            .map(|(_, o)| o.uuid);
        if let Some(uuid) = early {
            let text = format!("{partition} to {to}: floor {floor}, but {uuid} is open");
            self.wrong("C4 closed only when committed", text);
        }
    }

    /// C4: a call retires when its sender holds the outcome durably.
    pub(super) fn closed(&mut self, log: usize, sender: &Sender, below: Number, open: &[Number]) {
        let mut early = Vec::new();
        let numbers = self.logs[log].numbers.iter();
        let mut closed: Vec<(Number, Uuid)> = numbers
            .filter(|((s, n), _)| s == sender && *n < below && !open.contains(n))
            .map(|((_, number), uuid)| (*number, *uuid))
            .collect();
        closed.sort_unstable();
        for (number, uuid) in closed {
            let held = self.logs[log].held.get(&uuid);
            let fine = match sender {
                Sender::Node(node) => {
                    let ended = held.is_some_and(|h| h.ended.is_some());
                    self.mode_of(uuid) != Some(Mode::Call)
                        || ended
                        || self.has_answered(*node, uuid)
                }
                Sender::Log { partition, .. } => {
                    let owed = self.logs[self.log_of(partition)].owed.get(&(log, number));
                    owed.is_some_and(|o| !o.awaited || o.settled)
                }
                Sender::Subscription { .. } => true,
            };
            if !fine {
                early.push(uuid);
            }
            if let Some(held) = self.logs[log].held.get_mut(&uuid)
                && held.sent.as_ref() == Some(&(sender.clone(), number))
            {
                held.closed = true;
            }
        }
        for uuid in early {
            let text = format!("{} closes {uuid}, which its sender needs", self.logs[log].id);
            self.wrong("C4 retired only when closed", text);
        }
    }

    /// A node has answered its client, and be it that it does not know: one that was struck out needs no outcome.
    fn has_answered(&self, node: NodeId, uuid: Uuid) -> bool {
        let asked = self.tag_of_uuid.get(&uuid).and_then(|tag| self.asked.get(tag));
        asked.is_some_and(|req| {
            self.history.reqs[*req].node == node && self.answered.contains(&(usize::MAX, *req))
        })
    }

    /// A node answers its component.
    pub(crate) fn check_answer(&mut self, node: NodeId, to: Waiter, answer: &Answer) {
        let key = match to {
            Waiter::Turn(run, item) => (run, item),
            Waiter::Client(req) => (usize::MAX, req),
        };
        if !self.answered.insert(key) {
            self.wrong("single answers", format!("{node:?} answers {to:?} again: {answer:?}"));
        }
        match to {
            Waiter::Client(req) => self.check_client_answer(node, req, answer),
            Waiter::Turn(run, item) => self.check_turn_answer(run, item, answer),
        }
    }

    fn check_client_answer(&mut self, node: NodeId, req: usize, answer: &Answer) {
        let request = &self.history.reqs[req];
        if let Some((home, control)) = &request.control {
            return self.check_control_answer((node, req), home, *control, answer);
        }
        if request.subscription.is_some() {
            return self.check_subscription_answer(node, req, answer);
        }
        if request.remind == Some(Remind::List) {
            return self.check_list(node, req, answer);
        }
        if request.reads.is_some() {
            return self.check_read(node, req, answer);
        }
        let uuid = self.uuid_of_tag.get(&request.tag).copied();
        let bad = match answer {
            Ok(Response::Scheduled { .. } | Response::Cancelled { .. }) => {
                request.remind.is_none() || !self.is_reminded(req)
            }
            Ok(Response::Outcome { invocation: None, outcome: Outcome::Refused(_) })
                if request.remind.is_some() =>
            {
                false
            }
            Ok(Response::Outcome { invocation: None, .. }) => {
                request.mode.is_some() || request.awaits.is_some()
            }
            Ok(Response::Outcome { invocation: Some(id), outcome }) => {
                let ended = self.logs[self.log_of(&id.home)].outcome(id.uuid);
                let same = uuid.is_none_or(|u| u == id.uuid)
                    && request.awaits.as_ref().is_none_or(|a| a == id);
                // One that was cancelled before its node had logged it shows nothing of what it was.
                let is_over = *outcome == Outcome::Cancelled && self.asked_to_cancel(id.uuid);
                let removes = request.removes && (self.is_removal(id.uuid) || is_over);
                let mode = request.mode == Some(Mode::Call)
                    || removes
                    || request.awaits.is_some()
                    || matches!(outcome, Outcome::Refused(_));
                // It has not ended: it may be sent again.
                let turned_away = request.keyed && matches!(outcome, Outcome::Refused(_));
                !mode || !same || (!turned_away && ended.is_none_or(|e| e.outcome != *outcome))
            }
            Ok(Response::Accepted { invocation: id }) => {
                let log = self.log_of(&id.home);
                let is_tell = request.mode == Some(Mode::Tell);
                let held = self.logs[log].held.contains_key(&id.uuid)
                    || (is_tell && self.is_promised(log, id.uuid));
                let mode = is_tell || request.mode == Some(Mode::Start);
                !mode || uuid != Some(id.uuid) || !held
            }
            Ok(_) => true,
            Err(error) => return self.check_client_error(node, req, error),
        };
        if bad {
            let text = format!("{node:?} answers q{req} (tag {:x}): {answer:?}", request.tag);
            self.wrong("P5 gate for answers", text);
        }
        match answer {
            Ok(Response::Outcome { outcome: Outcome::Refused(Refusal::ChannelClosed), .. }) => {
                self.check_struck_out(node, "refused: channel closed");
            }
            Ok(Response::Outcome { outcome: Outcome::Refused(why), .. })
                if !self.history.small_limits && request.mode.is_some() =>
            {
                self.wrong("P9 errors", format!("{node:?} refuses q{req}: {why:?}"));
            }
            Ok(Response::Outcome { invocation: Some(id), outcome: Outcome::Cancelled })
                if !self.asked_to_cancel(id.uuid) =>
            {
                self.wrong("P9 errors", format!("{node:?}: q{req} is cancelled, unasked"));
            }
            Ok(Response::Outcome { outcome: Outcome::Expired, .. })
                if !request.deadline && request.awaits.is_none() =>
            {
                self.wrong("P9 errors", format!("{node:?}: q{req} has no deadline and expired"));
            }
            _ => {}
        }
    }

    fn check_client_error(&mut self, node: NodeId, req: usize, error: &RequestError) {
        let request = &self.history.reqs[req];
        let is_direct = request.mode.is_none()
            && request.awaits.is_none()
            && request.remind.is_none()
            && !request.removes;
        let fine = match error {
            // A direct call's fate is unknown when its host dies: that is what at-most-once means.
            RequestError::Unknown(_) if is_direct => true,
            RequestError::Unknown(_) => return self.check_struck_out(node, "outcome unknown"),
            RequestError::ChannelClosed(_) => {
                return self.check_struck_out(node, "channel closed");
            }
            RequestError::Draining => self.nodes.get(&node).is_some_and(|n| n.drain_told),
            RequestError::NoHost(_) => is_direct,
            RequestError::UnknownKind(kind) => request.removes && !self.was_used(kind, req),
            // Direct calls are bounded by what the host runs at once.
            RequestError::Limit(hit) if hit.name == DIRECT_CONCURRENCY => request.mode.is_none(),
            RequestError::Limit(_) => self.history.small_limits,
            RequestError::UnknownInvocation(id) => {
                (request.awaits.is_some() || request.keyed) && {
                    let held = self.logs[self.log_of(&id.home)].held.get(&id.uuid);
                    held.is_none_or(|h| h.forgotten)
                }
            }
            _ => false,
        };
        if !fine {
            self.wrong("P9 errors", format!("{node:?} answers q{req}: {error:?}"));
        }
    }

    /// Whether a kind was in use before a request came.
    fn was_used(&self, kind: &Kind, req: usize) -> bool {
        let Some(arrived) = self.history.reqs[req].arrived else { return false };
        let logs = self.logs.iter().filter(|log| log.id.kind == *kind);
        logs.flat_map(|log| log.reigns.first()).any(|reign| reign.from < arrived)
    }

    /// "Unknown" is said only when it is: the node was struck out, or is leaving.
    pub(super) fn check_struck_out(&mut self, node: NodeId, what: &str) {
        let model = self.node(node);
        if !model.struck_out && !model.drain_told {
            self.wrong("P9 errors", format!("{node:?} lives and says: {what}"));
        }
    }

    fn check_turn_answer(&mut self, run: usize, item: usize, answer: &Answer) {
        let record = &self.history.runs[run];
        let what = &record.items[item];
        let asked_late = record
            .cancel_sent
            .is_some_and(|c| what.arrived.is_some_and(|a| a > c) && c <= self.now);
        if asked_late && answer.is_ok() {
            let text = format!("r{run}.{item} of {} was cancelled and is served", record.token);
            self.wrong("P3 turn token", text);
        }
        match answer {
            Ok(Response::Outcome { invocation, outcome }) => {
                let ItemKind::Call(tag, _) = &what.what else {
                    return self.wrong("answers", format!("r{run}.{item}: {answer:?}"));
                };
                let Some(id) = invocation else {
                    return self.wrong("answers", format!("r{run}.{item}: no invocation"));
                };
                let InvocationId { home, uuid: parent } = &record.token.invocation;
                // What runs on in a reign that is over may hear of it: there is a newer attempt.
                let is_current = self.logs[self.log_of(home)].epoch == record.token.epoch;
                let is_withdrawn = *outcome == Outcome::Withdrawn && is_current;
                if is_withdrawn && !self.asked_to_cancel(*parent) {
                    let text = format!("r{run}.{item} of {} is told of {id}", record.token);
                    self.wrong("T2 withdrawn has no caller", text);
                }
                let own = id.home == record.token.invocation.home;
                let ended = self.logs[self.log_of(&id.home)].outcome(id.uuid);
                let known = self.uuid_of_tag.get(tag);
                if known.is_none() && what.key.is_some() {
                    self.check_flush(run, item);
                    return self.check_kept_answer((run, item), id, outcome);
                }
                let wrong = known.is_some_and(|u| *u != id.uuid)
                    || (!own && (known.is_none() || ended.is_none_or(|e| e.outcome != *outcome)));
                if wrong {
                    let text = format!("r{run}.{item} gets {outcome:?} of {id}");
                    self.wrong("P5 gate for replies", text);
                }
            }
            Ok(Response::Reminders(all)) => self.check_list_in_turn((run, item), all),
            Ok(Response::Step(value)) => self.check_step_answer(run, item, value),
            Ok(Response::Ok) if matches!(what.what, ItemKind::Flush) => self.check_flush(run, item),
            Err(error @ RequestError::SharedTurn) => self.check_shared_error(run, item, error),
            Err(RequestError::ConditionFailed(_)) if !matches!(what.what, ItemKind::If(..)) => {
                self.wrong("P9 errors", format!("r{run}.{item} has no condition"));
            }
            Err(RequestError::StepKeyReused(_)) => self.check_reused(run, item),
            Err(RequestError::TopicGone(to)) if !self.is_gone(to) => {
                self.wrong("P9 errors", format!("r{run}.{item}: {to} exists"));
            }
            Err(RequestError::Invalid(why)) => {
                self.wrong("P9 errors", format!("r{run}.{item} is invalid: {why}"));
            }
            Err(RequestError::Unknown(why)) => {
                self.wrong("P9 errors", format!("r{run}.{item} is unknown: {why}"));
            }
            Err(RequestError::Limit(hit)) if !self.history.small_limits => {
                self.wrong("P9 errors", format!("r{run}.{item}: {hit}"));
            }
            _ => {}
        }
    }

    /// What a node tells its operator.
    pub(crate) fn check_notice(&mut self, node: NodeId, notice: &Notice) {
        if let Notice::Dropped { partition, .. } = notice {
            let log = self.log_of(partition);
            let epoch = self.logs[log].reigns.iter().rev().find(|r| r.node == node);
            if let Some(epoch) = epoch.map(|r| r.epoch) {
                self.node(node).dropped.insert((log, epoch));
            }
        }
        match notice {
            Notice::DeadLetter { invocation, outcome } => {
                let log = self.log_of(&invocation.home);
                let ended = self.logs[log].outcome(invocation.uuid);
                let is_first = self.dead_told.insert(invocation.uuid);
                if !is_first || ended.is_none_or(|ended| ended.outcome != *outcome) {
                    self.wrong("P5 gate for notices", format!("{node:?}: {notice:?}"));
                }
            }
            Notice::Parked { invocation, .. } => {
                let log = self.log_of(&invocation.home);
                let held = self.logs[log].held.get_mut(&invocation.uuid);
                if !held.is_some_and(|held| held.policy.tell_parked()) {
                    self.wrong("P5 gate for notices", format!("{node:?}: {notice:?}"));
                }
            }
            Notice::EventsLost { partition, to, count } => {
                self.is_told(node, partition, &What::Lost(to.clone(), *count));
            }
            Notice::SubscriptionRemoved { partition, name, .. } => {
                self.is_told(node, partition, &What::Removed(name.clone()));
            }
            Notice::EventsSkipped { partition, name, topic_partition, from, to } => {
                self.told_skipped((node, partition), name, (*topic_partition, *from, *to));
            }
            Notice::TopicGone { partition, name, .. } => self.told_gone(node, partition, name),
            Notice::Removed { partition, actor } => {
                let log = self.log_of(partition);
                if !self.is_removal_untold(log, actor) {
                    self.wrong("P5 gate for notices", format!("{node:?}: {notice:?}"));
                }
            }
            _ => {}
        }
        if let Notice::RecordTooLong { partition, bytes, .. } = notice {
            self.wrong("records", format!("{node:?} {partition}: {bytes} bytes"));
        }
        if let Notice::BrokenInvariant { what } = notice {
            self.wrong("broken invariant", format!("{node:?}: {what}"));
        }
    }
}
