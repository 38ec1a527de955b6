//! Requests and channels in (rules C2–C5, C7).

use super::gate::Gated;
use super::reign::Item;
use super::{Partition, Stage};
use crate::cover::Transition;
use crate::effect::Notice;
use crate::env::Env;
use crate::ids::{Epoch, Millis, NodeId, Number, Sender, Uuid};
use crate::invocation::{Invocation, Outcome, Owed, Refusal, Work};
use crate::message::Message;
use crate::record::{AcceptInBrief, End, Op, Segment};
use crate::size::Tally;
use crate::state::Origin;

/// A request as it came.
#[derive(Clone, Debug)]
pub(crate) struct Incoming {
    pub(crate) from: NodeId,
    pub(crate) sender: Sender,
    pub(crate) from_epoch: Epoch,
    pub(crate) epoch: Epoch,
    pub(crate) number: Number,
    pub(crate) floor: Number,
    pub(crate) asks: bool,
    /// Its acceptance was told: it is not refused.
    pub(crate) promised: bool,
    /// It was taken from the inbox: it was meant for whoever takes it. By peers there is an epoch instead.
    pub(crate) by_inbox: bool,
    /// Every number from here up to its own is closed, or known.
    pub(crate) closed_from: Option<Number>,
    pub(crate) again: bool,
    pub(crate) owed: Owed,
}

/// What a sender says of its channel (rule C3).
#[derive(Clone, Debug)]
pub(crate) struct Stated {
    pub(crate) from_epoch: Epoch,
    pub(crate) highest: Number,
    pub(crate) open: Vec<Number>,
    /// Those of the open ones whose answer the sender has.
    pub(crate) answered: Vec<Number>,
    /// Its place among the statements of that reign.
    pub(crate) serial: u64,
}

/// What attaching to a known number came to.
enum Attached {
    /// It has not ended, or the sender is not to be told.
    Waits,
    /// So many bytes were answered.
    Answered(usize),
    /// There is an answer, and no room for it.
    LeftOut,
}

/// What a "gone" takes on its way, bytes.
const GONE_BYTES: usize = 64;

impl Partition {
    /// A sender opens or states its channel (rule C3).
    pub(crate) fn open(&mut self, env: &mut Env, from: NodeId, sender: Sender, stated: Stated) {
        match self.stage {
            Stage::Off => return self.refuse(env, from, sender),
            Stage::Reading if self.owner_hint(env) != Some(env.id) => {
                return self.refuse(env, from, sender);
            }
            Stage::Reading | Stage::Claiming => {
                env.cover(Transition::OpenKept);
                self.opens.insert(sender, (from, stated));
                return;
            }
            Stage::Serving if self.reign.released => return self.refuse(env, from, sender),
            Stage::Serving => {}
        }
        if self.is_closed(env, &sender) {
            let message = Message::ChannelClosed { sender, from: self.id.clone() };
            return self.gate(env, Gated::Send { to: from, message });
        }
        let Stated { from_epoch, highest, mut open, answered, serial } = stated;
        open.sort_unstable();
        let spoke = self.reign.senders.entry(sender.clone()).or_insert((from, from_epoch));
        if spoke.1 <= from_epoch {
            *spoke = (from, from_epoch);
        }
        let resume_at = self.attach_open(env, from, &sender, from_epoch, (&open, &answered));
        let statement = self.reign.statements.entry(sender.clone()).or_default();
        // An older statement may come later, by another connection or from the inbox: it names numbers open that are
        // closed by now.
        let is_newest = (from_epoch, serial) >= (statement.from_epoch, statement.serial);
        if is_newest || !env.rules.newest_statement {
            statement.from_epoch = from_epoch;
            statement.serial = serial;
            statement.highest = highest;
            statement.open = open;
        } else {
            env.cover(Transition::StatedOlder);
        }
        self.note_closings(env, &sender, true);
        // The lowest number that is neither known nor closed.
        let next = self.next_known(&sender);
        let (to, epoch) = (self.id.clone(), self.state.epoch);
        env.send(from, Message::Opened { sender, to, epoch, next, resume_at });
    }

    /// The open numbers of a statement count as asked for again. A window of kept answers goes at once, the lowest
    /// first; if there are more, the number of the last one is given, and the sender states again when it has that.
    fn attach_open(
        &mut self,
        env: &mut Env,
        from: NodeId,
        sender: &Sender,
        from_epoch: Epoch,
        (open, answered): (&[Number], &[Number]),
    ) -> Option<Number> {
        let next = self.next_known(sender);
        let (mut sent, mut last, mut is_cut) = (Tally::default(), None, false);
        for number in open.iter().take_while(|number| **number < next) {
            if answered.binary_search(number).is_ok() {
                continue;
            }
            // The first one always goes: the rest comes once it has.
            let has_room = sent.count == 0
                || (sent.count < env.limits.window_requests_max
                    && sent.bytes < env.limits.window_bytes_max);
            match self.attach(env, from, sender, from_epoch, *number, has_room) {
                Attached::Waits => {}
                Attached::Answered(more) => {
                    env.cover(Transition::StatedKept);
                    sent.add(more);
                    last = Some(*number);
                }
                Attached::LeftOut => is_cut = true,
            }
        }
        if is_cut {
            env.cover(Transition::StatedCut);
        }
        last.filter(|_| is_cut)
    }

    /// A request.
    pub(crate) fn request(&mut self, env: &mut Env, incoming: Incoming) {
        let asks = incoming.asks.then(|| (incoming.from, incoming.sender.clone()));
        let has_come = self.receive(env, incoming);
        if let Some((from, sender)) = asks
            && has_come
        {
            let (next, epoch) = (self.next_known(&sender), self.state.epoch);
            env.send(from, Message::Known { sender, from: self.id.clone(), epoch, next });
        }
    }

    /// A request (rule C4); tells whether its number is known now.
    fn receive(&mut self, env: &mut Env, incoming: Incoming) -> bool {
        let Incoming { from, sender, number, .. } = &incoming;
        let (from, number) = (*from, *number);
        if !self.serving() || self.reign.released {
            if self.serving() {
                env.cover(Transition::RequestReleased);
            }
            let epoch = incoming.epoch.max(self.newest_epoch).max(self.state.epoch);
            self.refuse_epoch(env, from, sender.clone(), epoch);
            return false;
        }
        let is_ours = incoming.by_inbox || incoming.epoch == self.state.epoch;
        if env.rules.request_epoch && !is_ours {
            env.cover(Transition::RequestEpoch);
            let message = Message::NotOwner {
                sender: sender.clone(),
                partition: self.id.clone(),
                epoch: self.state.epoch,
                hint: Some(env.id),
            };
            env.send(from, message);
            return false;
        }
        if self.is_closed(env, sender) {
            let message = Message::ChannelClosed { sender: sender.clone(), from: self.id.clone() };
            self.gate(env, Gated::Send { to: from, message });
            return false;
        }
        let statement = self.reign.statements.entry(sender.clone()).or_default();
        statement.floor = statement.floor.max(incoming.floor);
        self.note_closings(env, sender, false);
        let next = self.next_known(sender);
        if number < next {
            let live = self.uuid_of(sender, number).is_some();
            if live || env.rules.remember_retired {
                self.attach(env, from, sender, incoming.from_epoch, number, true);
                return true;
            }
        } else if incoming.closed_from.is_none_or(|from| from > next)
            && !self.closed_between(sender, next, number)
            && env.rules.channel_gap
        {
            env.cover(Transition::RequestGap);
            let message = Message::Gap {
                sender: sender.clone(),
                from: self.id.clone(),
                epoch: self.state.epoch,
                expected: next,
            };
            env.send(from, message);
            return false;
        } else if number > next {
            env.cover(Transition::RequestJumps);
        }
        self.take(env, incoming);
        true
    }

    /// Takes a new obligation in: nobody else has it, and this partition now owes it.
    fn take(&mut self, env: &mut Env, incoming: Incoming) {
        let Incoming { from, sender, from_epoch, number, promised, again, owed, .. } = incoming;
        let invocation = match owed {
            Owed::Outcome(done) => return self.take_outcome(env, (from, sender, number), done),
            Owed::Remind(remind) => {
                return self.take_remind(env, (from, sender, number), &remind);
            }
            Owed::Subscription(command) => {
                return self.take_command(env, (from, sender, number), &command);
            }
            Owed::Fence(fence) => return self.take_fence(env, (from, sender, number), &fence),
            Owed::Invocation(invocation) => invocation,
        };
        let invocation = match self.known_by_key(env, (from, &sender, number), invocation) {
            Some(invocation) => invocation,
            None => return,
        };
        let uuid = invocation.uuid;
        if self.is_moved(uuid) {
            return self.take_back(env, (from, sender, number), (invocation, again));
        }
        if let Some(refusal) = self.refusal(env, &sender, &invocation)
            && !promised
        {
            let uuid = refused_as(env, &invocation);
            return self.turn_away(env, from, sender, number, uuid, refusal);
        }
        if let Some(deadline) = invocation.deadline {
            self.reign.deadlines.insert((deadline, uuid));
        }
        let root = matches!(sender, Sender::Node(_));
        let is_awaited = invocation.is_awaited();
        let removes = invocation.work == Work::Remove;
        let origin = Origin::Channel { sender: sender.clone(), number };
        let reply_to = Some((from, from_epoch));
        // Nobody waits for an event, so it never runs ahead of the log (rule L6).
        let resent = again || matches!(sender, Sender::Subscription { .. });
        let item = Item { resent, promised, reply_to, ..Item::new(invocation, origin) };
        let is_reported = self.insert_item(env, uuid, item);
        self.reign.held.entry(sender.clone()).or_default().push_back((number, uuid));
        if !is_awaited {
            // An acceptance is told, so it is never held back (rule L6).
            self.log_held(env, &sender, number);
            if is_reported {
                self.gate(env, Gated::Accepted { to: from, sender, number });
            }
        } else if root {
            let at = env.now + self.accept_delay(env, uuid);
            self.reign.accept_at = Some(self.reign.accept_at.map_or(at, |t| t.min(at)));
        }
        if removes && !env.rules.removal_in_queue {
            return self.remove_actor(env, uuid);
        }
        self.enqueue(env, uuid);
        self.pump_item(env, uuid);
    }

    /// How long a root call may wait for a record to ride in. Without speculation one that waits behind a turn is
    /// logged with the end of that: a record of its own would only stand in the way of it at the disk.
    fn accept_delay(&self, env: &Env, uuid: Uuid) -> Millis {
        let actor = self.reign.items.get(&uuid).and_then(|item| item.invocation.actor.as_ref());
        let actor = actor.and_then(|name| self.reign.actors.get(name));
        let waits = actor.is_some_and(|actor| !actor.lock.is_free() || actor.ahead > 0);
        if waits && !env.may_speculate() {
            env.limits.settle_delay_ms
        } else {
            env.limits.accept_delay_ms
        }
    }

    /// Bounds that act on roots (rule C7: what is owed already, a partition's obligation, is always taken).
    fn refusal(&self, env: &Env, sender: &Sender, invocation: &Invocation) -> Option<Refusal> {
        if !matches!(sender, Sender::Node(_)) && env.rules.take_owed {
            return None;
        }
        if let Some(refusal) = self.full(env, invocation.size()) {
            return Some(refusal);
        }
        let queued = invocation.actor.as_ref().and_then(|a| self.reign.actors.get(a));
        (queued.is_some_and(|a| a.lock.queued() >= env.limits.queue_per_actor_max))
            .then_some(Refusal::ActorQueueFull)
    }

    /// A refusal is an outcome: logged before it is told (rule C5).
    pub(super) fn turn_away(
        &mut self,
        env: &mut Env,
        from: NodeId,
        sender: Sender,
        number: Number,
        uuid: Uuid,
        refusal: Refusal,
    ) {
        if let Some(hit) = env.limits.behind(refusal) {
            env.notice(Notice::Limit(hit));
        }
        self.log_held(env, &sender, number);
        let outcome = Outcome::Refused(refusal);
        self.push(
            env,
            Op::Complete {
                uuid,
                attempt: 1,
                accept: Some(AcceptInBrief { sender: sender.clone(), number, actor: None }),
                end: End::Outcome(outcome.clone()),
                segment: Segment::default(),
                time: env.now,
            },
        );
        let message = Message::Reply { sender, from: self.id.clone(), number, outcome };
        self.gate(env, Gated::Send { to: from, message });
    }

    /// A known number was asked for again (rule C4).
    fn attach(
        &mut self,
        env: &mut Env,
        from: NodeId,
        sender: &Sender,
        from_epoch: Epoch,
        number: Number,
        has_room: bool,
    ) -> Attached {
        let (sender, partition) = (sender.clone(), self.id.clone());
        let withheld = self.reign.withheld.get(&(sender.clone(), number)).copied();
        let Some(uuid) = withheld.or_else(|| self.uuid_of(&sender, number)) else {
            if !has_room {
                return Attached::LeftOut;
            }
            env.cover(Transition::AttachGone);
            let message = Message::Gone { sender, from: partition, number };
            self.gate(env, Gated::Send { to: from, message });
            return Attached::Answered(GONE_BYTES);
        };
        if !env.rules.attach {
            return Attached::Waits;
        }
        if let Some(outcome) = self.state.kept.get(&uuid) {
            if !has_room {
                return Attached::LeftOut;
            }
            env.cover(Transition::AttachKept);
            let (outcome, bytes) = (outcome.clone(), outcome.size());
            let message = Message::Reply { sender, from: partition, number, outcome };
            self.gate(env, Gated::Send { to: from, message });
            return Attached::Answered(bytes);
        }
        if let Some(item) = self.reign.items.get_mut(&uuid)
            && item.reply_to.is_none_or(|(_, epoch)| epoch <= from_epoch)
        {
            item.reply_to = Some((from, from_epoch));
            env.cover(match withheld {
                Some(_) => Transition::AttachWithheld,
                None => Transition::AttachWaits,
            });
        } else {
            env.cover(Transition::AttachOlder);
        }
        Attached::Waits
    }

    /// The invocation behind a known number, if it is live or held.
    fn uuid_of(&self, sender: &Sender, number: Number) -> Option<Uuid> {
        let live = self.state.inbound.get(sender).and_then(|i| i.live.get(&number));
        live.copied().or_else(|| {
            let held = self.reign.held.get(sender)?;
            let at = held.binary_search_by_key(&number, |(n, _)| *n).ok()?;
            Some(held[at].1)
        })
    }

    /// The lowest number of a channel that is not known.
    pub(super) fn next_known(&self, sender: &Sender) -> Number {
        let held = self.reign.held.get(sender).and_then(|h| h.back()).map(|(n, _)| n + 1);
        held.unwrap_or_else(|| self.state.inbound.get(sender).map_or(1, |i| i.next))
    }

    /// Whether the sender said that every number from `next` up to below `number` is closed.
    fn closed_between(&self, sender: &Sender, next: Number, number: Number) -> bool {
        let Some(statement) = self.reign.statements.get(sender) else { return next == number };
        let from = next.max(statement.floor);
        if from >= number {
            return true;
        }
        number - 1 <= statement.highest
            && statement.open.iter().all(|n| !(from..number).contains(n))
    }

    fn is_closed(&self, env: &Env, sender: &Sender) -> bool {
        match sender {
            Sender::Node(node) => {
                self.state.closed_nodes.contains(*node) && env.rules.refuse_closed
            }
            Sender::Subscription { .. } => self.state.fences.close(sender),
            Sender::Log { .. } => false,
        }
    }

    /// Notes that the sender closed numbers that are live here: they are logged with the next record (rule C4).
    fn note_closings(&mut self, env: &Env, sender: &Sender, stated: bool) {
        let Some(statement) = self.reign.statements.get(sender) else { return };
        let Some(inbound) = self.state.inbound.get(sender) else { return };
        let first = inbound.live.first_key_value().map(|(n, _)| *n);
        let below_floor = first.is_some_and(|n| n < statement.floor);
        let closed = |n: &Number| statement.open.binary_search(n).is_err();
        let below = statement.highest + 1;
        let stated = stated && inbound.live.range(..below).any(|(n, _)| closed(n));
        if below_floor || stated {
            *self.reign.closings.entry(sender.clone()).or_default() |= stated;
            let at = env.now + env.limits.channel_timer_ms;
            self.reign.close_at = Some(self.reign.close_at.map_or(at, |t| t.min(at)));
        }
    }

    /// Logs what senders closed below their lowest open number: rides with any record.
    pub(super) fn log_floors(&mut self, env: &mut Env) {
        let closings = std::mem::take(&mut self.reign.closings);
        for (sender, stated) in closings {
            let floor = self.reign.statements.get(&sender).map_or(0, |s| s.floor);
            let live = self.state.inbound.get(&sender).and_then(|i| i.live.first_key_value());
            if live.is_some_and(|(n, _)| *n < floor) {
                env.cover(Transition::LogFloor);
                let open = Vec::new();
                self.push(env, Op::Closed { sender: sender.clone(), below: floor, open });
            }
            if stated {
                self.reign.closings.insert(sender, true);
            }
        }
        if self.reign.closings.is_empty() {
            self.reign.close_at = None;
        }
    }

    /// Logs everything that senders closed.
    pub(super) fn log_closings(&mut self, env: &mut Env) {
        self.reign.close_at = None;
        for (sender, _) in std::mem::take(&mut self.reign.closings) {
            let Some(statement) = self.reign.statements.get(&sender) else { continue };
            env.cover(Transition::LogStated);
            let below = statement.floor.max(statement.highest + 1);
            let open: Vec<_> =
                statement.open.iter().copied().filter(|n| *n >= statement.floor).collect();
            self.push(env, Op::Closed { sender, below, open });
        }
    }

    /// Logs calls of a channel that were taken and held back, up to a number (rule C2).
    pub(super) fn log_held(&mut self, env: &mut Env, sender: &Sender, upto: Number) {
        while let Some(held) = self.reign.held.get_mut(sender) {
            match held.front() {
                Some((number, _)) if *number <= upto => {}
                Some(_) => break,
                None => {
                    self.reign.held.remove(sender);
                    break;
                }
            }
            let Some((number, uuid)) = held.pop_front() else { break };
            if held.is_empty() {
                self.reign.held.remove(sender);
            }
            let Some(item) = self.reign.items.get_mut(&uuid) else { continue };
            item.logged = true;
            let (invocation, has_started) = (item.invocation.clone(), item.started);
            self.push(env, Op::Accept { sender: sender.clone(), number, invocation });
            self.note_decided(uuid);
            if has_started {
                self.mark_start(env, uuid);
            }
        }
    }

    /// Logs every held root call: they have waited long enough for a record to ride in (rule L6).
    pub(super) fn log_held_roots(&mut self, env: &mut Env) {
        let roots: Vec<_> = self
            .reign
            .held
            .keys()
            .filter(|sender| matches!(sender, Sender::Node(_)))
            .cloned()
            .collect();
        for sender in roots {
            env.cover(Transition::LogHeldRoots);
            self.log_held(env, &sender, Number::MAX);
        }
    }
}

/// Under which id an invocation is refused: what may be sent again under its key has not ended.
pub(super) fn refused_as(env: &mut Env, invocation: &Invocation) -> Uuid {
    if invocation.key.is_some() { env.uuid() } else { invocation.uuid }
}
