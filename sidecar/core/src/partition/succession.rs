//! How reigns begin and end: taking over, handing over, dropping everything, and what departed nodes leave.

use std::collections::BTreeSet;

use super::{Partition, Stage};
use crate::cover::Transition;
use crate::effect::{CancelReason, Effect, Notice, RequestError};
use crate::env::Env;
use crate::ids::{NodeId, Number, Sender, Uuid};
use crate::invocation::{Refusal, Work};
use crate::record::{Op, Record};

use super::gate::{Gated, InFlight};
use super::reign::{Item, ItemStage, Reader, Reign};

impl Partition {
    /// The own claim was read back valid: the reign begins.
    pub(super) fn serve(&mut self, env: &mut Env, unclean: Option<NodeId>) {
        env.cover(Transition::ClaimingServing);
        self.stage = Stage::Serving;
        self.finish = false;
        self.claim = None;
        let replayed = std::mem::take(&mut self.reign.store_queue);
        let stamp = self.reign.stamp;
        let unstored = std::mem::take(&mut self.reign.unstored);
        let unstored_bytes = self.reign.unstored_bytes;
        let epoch = self.state.epoch;
        self.reign = Reign {
            epoch,
            store_queue: replayed,
            unstored,
            unstored_bytes,
            stamp,
            stored_stamp: stamp,
            in_store: self.reign.in_store,
            cell: self.reign.cell,
            cell_known: self.reign.cell_known,
            ends: self.reign.ends,
            barriers: self.reign.barriers,
            ..Reign::default()
        };
        if unclean.is_some() && env.rules.grace {
            self.reign.dispatch_after = env.now + env.limits.grace_ms;
        }
        self.restore_items(env, unclean);
        self.restore_routes(env);
        self.restore_publishing(env);
        self.park_lost(env);
        env.notice(Notice::Owned {
            partition: self.id.clone(),
            epoch: self.state.epoch,
            unfinished: self.state.entries.len(),
        });
        env.emit(Effect::FenceStore { partition: self.id.clone(), epoch: self.state.epoch });
        self.begin_inbox(env);
        self.begin_deliveries(env);
        self.drop_orphans(env);
        for (sender, (node, stated)) in std::mem::take(&mut self.opens) {
            self.open(env, node, sender, stated);
        }
        self.review_backlog(env);
        self.end_cancelled(env);
        self.pump_all(env);
        self.review(env);
    }

    /// Rebuilds queues and locks from the log (rule T2: a flow with a committed `Progress` holds its actor).
    fn restore_items(&mut self, env: &mut Env, unclean: Option<NodeId>) {
        // What this node dropped itself has lost no host.
        let lost = unclean.filter(|node| *node != env.id);
        let mut entries: Vec<_> = self.state.entries.values().collect();
        entries.sort_by_key(|entry| entry.order);
        let (mut items, mut later) = (Vec::with_capacity(entries.len()), Vec::new());
        for entry in entries {
            let uuid = entry.invocation.uuid;
            // No code runs for a removal.
            let lost_owner = unclean.is_some() && env.rules.inherited_ran;
            let may_have_run = lost_owner || entry.ran || entry.suspected;
            let ran = may_have_run && entry.invocation.work != Work::Remove;
            let is_parked = entry.parked && env.rules.keep_parked;
            // Nothing of an attempt is in the log, not even that it began (see `mark_start`).
            let unmarked = ran && !entry.ran && entry.attempt == 1 && !entry.holds;
            // An invocation that kills whole nodes must not take down one after the other at full speed.
            let (ended, retry_at) = if ran && !is_parked && !entry.moved {
                Self::inherited(env, (entry, self.state.clock), lost)
            } else {
                (None, 0)
            };
            let item = Item {
                logged: true,
                attempt: entry.attempt,
                started: ran || entry.attempt > 1,
                // An attempt that was logged and never ran is the next one.
                cleared: !ran && entry.attempt > 1,
                unmarked,
                shared: entry.holds && entry.shared,
                retry_at,
                ended,
                cancel: entry.cancel,
                stage: match () {
                    () if entry.moved => ItemStage::Moved,
                    () if is_parked => ItemStage::Parked,
                    () => ItemStage::Queued,
                },
                ..Item::new(entry.invocation.clone(), entry.origin.clone())
            };
            if entry.moved {
                env.cover(Transition::RestoreMoved);
                items.push((uuid, item));
                continue;
            }
            if ran {
                env.cover(Transition::RestoreRan);
            }
            if item.cleared {
                env.cover(Transition::RestoreCleared);
            }
            if item.retry_at > 0 {
                env.cover(Transition::RestorePaused);
                self.reign.retries.insert((item.retry_at, uuid));
            }
            if let (Some(deadline), true) = (entry.invocation.deadline, item.may_expire()) {
                if unmarked {
                    env.cover(Transition::RestoreUnmarked);
                }
                self.reign.deadlines.insert((deadline, uuid));
            }
            match &entry.invocation.actor {
                // It is in nobody's way, unless it holds its actor.
                _ if is_parked && !entry.holds => {}
                None => {
                    self.reign.idle.insert(uuid);
                }
                Some(actor) if entry.holds && env.rules.kept_lock => {
                    env.cover(Transition::RestoreHolds);
                    let actor = self.reign.actors.get_or_insert_with(actor, Box::default);
                    actor.lock.restore(uuid, entry.shared);
                }
                Some(_) => later.push(uuid),
            }
            items.push((uuid, item));
        }
        for (uuid, item) in items {
            self.insert_item(env, uuid, item);
        }
        for uuid in later {
            self.enqueue(env, uuid);
        }
    }

    /// Holds an invocation. A tell of another partition, or one that was promised, for which there is no room is taken
    /// all the same, but not reported yet; tells whether it is to be reported.
    pub(super) fn insert_item(&mut self, env: &Env, uuid: Uuid, item: Item) -> bool {
        let bytes = item.invocation.size();
        let is_full = !item.invocation.is_awaited() && self.full(env, bytes).is_some();
        let mut withheld = None;
        match item.origin.channel() {
            Some((sender @ Sender::Subscription { .. }, number)) => {
                let waiting = self.reign.waiting_events.entry(sender.clone()).or_default();
                *waiting += 1;
                if is_full || *waiting > env.limits.deliveries_waiting_max {
                    env.cover(Transition::DeliveryWaits);
                    withheld = Some((sender.clone(), number));
                }
            }
            Some((sender, number))
                if is_full && (item.promised || matches!(sender, Sender::Log { .. })) =>
            {
                env.cover(Transition::Withheld);
                withheld = Some((sender.clone(), number));
            }
            _ => {}
        }
        let is_reported = withheld.is_none();
        self.reign.withheld.extend(withheld.map(|channel| (channel, uuid)));
        self.deactivation_held(&item);
        self.reign.items_bytes += bytes;
        self.reign.items.insert(uuid, Box::new(item));
        is_reported
    }

    /// Lets go of an invocation that ends.
    pub(super) fn remove_item(&mut self, env: &mut Env, uuid: Uuid) -> Option<Box<Item>> {
        let item = self.reign.items.remove(&uuid)?;
        self.reign.items_bytes -= item.invocation.size();
        if let Some(sender @ Sender::Subscription { .. }) = item.origin.sender()
            && let Some(waiting) = self.reign.waiting_events.get_mut(sender)
        {
            *waiting -= 1;
            if *waiting == 0 {
                self.reign.waiting_events.remove(sender);
            }
        }
        self.reign.probes.forget(uuid);
        // A pause is as long as its policy likes.
        self.reign.retries.remove(&(item.retry_at, uuid));
        self.deactivation_gone(&item);
        if matches!(item.stage, ItemStage::WaitSlot) {
            env.leave_queue(uuid);
        }
        if item.slot {
            env.free_slot();
        }
        Some(item)
    }

    /// The bound that leaves no room for one more invocation of so many bytes.
    pub(super) fn full(&self, env: &Env, bytes: usize) -> Option<Refusal> {
        let held = self.reign.items_bytes + self.state.kept.tally().bytes;
        if self.reign.items.len() >= env.limits.unfinished_per_partition_max {
            Some(Refusal::PartitionFull)
        } else if held + bytes > env.limits.unfinished_bytes_per_partition_max {
            Some(Refusal::PartitionBytesFull)
        } else {
            None
        }
    }

    fn restore_routes(&mut self, env: &mut Env) {
        let targets: Vec<_> = self.state.outbound.keys().cloned().collect();
        for to in targets {
            self.route(&to);
            let (route, out) = self.route_parts(&to);
            if !out.open.is_empty() {
                env.cover(Transition::RestoreOwed);
            }
            route.open(env, out);
        }
    }

    /// Ends a reign in disorder: nothing held survives.
    pub(crate) fn abandon(&mut self, env: &mut Env) {
        let mut reign = std::mem::take(&mut self.reign);
        self.refuse_questions(env, &mut reign);
        reign.routes.values_mut().for_each(|route| route.end(env));
        reign.deliveries.end(env);
        self.end_inbox(env);
        let attached =
            reign.items.values().filter_map(|i| Some((i.origin.sender()?, i.reply_to?.0)));
        let spoke = reign.senders.iter().map(|(sender, (node, _))| (sender, *node));
        for (sender, node) in attached.chain(spoke).collect::<BTreeSet<_>>() {
            self.refuse(env, node, sender.clone());
        }
        // Turns that the driver has not taken over yet never start.
        let mut undelivered = BTreeSet::new();
        env.effects.retain(|effect| match effect {
            Effect::Dispatch { turn, .. } if turn.token.invocation.home == self.id => {
                undelivered.insert(turn.token.clone());
                false
            }
            _ => true,
        });
        // Nor are they cancelled, if they were to be.
        env.effects.retain(|effect| match effect {
            Effect::Cancel { token, .. } => !undelivered.contains(token),
            _ => true,
        });
        for (uuid, item) in &reign.items {
            let token = self.token(item, reign.epoch);
            if matches!(item.stage, ItemStage::WaitSlot) {
                env.leave_queue(*uuid);
            }
            if item.slot {
                env.free_slot();
            }
            let ItemStage::Running(turn) = &item.stage else { continue };
            if !undelivered.contains(&token) && env.rules.abandon_turns {
                let (session, token) = (turn.session, token.clone());
                let reason = CancelReason::Superseded;
                env.emit(Effect::Cancel { session, token, reason });
            }
            for request in turn.calls.values() {
                let error = RequestError::TurnSuperseded(Box::new(token.clone()));
                env.respond(*request, Err(error));
            }
        }
        for load in reign.loading.values_mut() {
            env.resumable.extend(load.writers.drain(..));
        }
        for read in reign.loading.into_values().flat_map(|load| load.waiting) {
            match read.reader {
                Reader::Turn(token) => {
                    let error = RequestError::TurnSuperseded(Box::new(token));
                    env.respond(read.request, Err(error));
                }
                Reader::Node(from) => self.refuse_read(env, from, read.request),
            }
        }
        for (_, gated) in reign.gated {
            if let Gated::Flushed { request, token, .. } = gated {
                env.respond(request, Err(RequestError::TurnSuperseded(Box::new(token))));
            }
        }
    }

    /// The node begins to hand the partition over: no new roots start (design section 7).
    pub(super) fn begin_hand_over(&mut self, env: &mut Env) {
        if self.reign.leaving.is_none() {
            env.cover(Transition::HandOver);
            self.reign.leaving = Some(env.now);
        }
        self.try_release(env);
    }

    /// The partition is wanted here again.
    pub(super) fn end_hand_over(&mut self, env: &mut Env) {
        if self.reign.leaving.is_some() && !self.reign.released && !self.reign.leaving_cancelled {
            env.cover(Transition::HandOverEnded);
            self.reign.leaving = None;
            self.pump_all(env);
        }
    }

    /// Releases when no turn runs any more.
    pub(super) fn try_release(&mut self, env: &mut Env) {
        if self.reign.leaving.is_none() || self.reign.released || !self.serving() {
            return;
        }
        let runs = self.reign.items.values().any(|item| item.running().is_some());
        if runs && env.rules.release_after_turns {
            return;
        }
        // An orderly end tells the next owner that no code runs. Code of a host's broken stream, or of the reign before
        // an unclean take-over, may run until the grace is over (P3); `pump_all` comes back then.
        let runs_until = self.reign.dispatch_after.max(env.host_grace_until);
        if env.now < runs_until && env.rules.release_after_grace {
            env.cover(Transition::HandOverGrace);
            return;
        }
        // Everything held goes into the log, and what may have started is logged as such: the next owner takes an
        // orderly end as proof that the rest has not.
        let senders: Vec<_> = self.reign.held.keys().cloned().collect();
        for sender in senders {
            env.cover(Transition::HandOverHeld);
            self.log_held(env, &sender, Number::MAX);
        }
        // What counts as started only because a host was lost stays so: marked, it would not expire any more, though it
        // has only waited.
        let stays = env.rules.unmarked_stays;
        let ran = self.reign.items.iter().filter(|(_, item)| item.attempt_ran());
        let ops = ran.map(|(uuid, item)| Op::Attempt {
            uuid: *uuid,
            attempt: item.attempt,
            ended: item.ended.clone(),
            unmarked: item.unmarked && stays,
        });
        for op in ops.collect::<Vec<_>>() {
            env.cover(Transition::HandOverRan);
            // The same number again: it may have run. The next one is counted when it starts.
            self.push(env, op);
        }
        self.log_taken(env);
        // So that the next owner reads little again.
        self.log_delivered(env);
        self.cut(env);
        self.state.seq += 1;
        let seq = self.state.seq;
        let proposal = env.proposal();
        let record = Record::Release { epoch: self.state.epoch, seq };
        self.reign.inflight.push_back(InFlight::new(seq, proposal, env.now));
        self.append(env, proposal, record);
        self.reign.released = true;
        self.gate(env, Gated::Released);
    }

    /// The own `Release` was read back: whoever waits is sent to the next owner.
    pub(super) fn released(&mut self, env: &mut Env) {
        env.notice(Notice::Released { partition: self.id.clone() });
        self.state.released = true;
        self.abandon(env);
        if self.wanted(env) {
            env.cover(Transition::ReleasedWanted);
            self.read_anew(env);
        } else {
            self.rest(env);
        }
    }

    /// A node of the membership is gone: its channel closes after a grace (rule C6).
    pub(super) fn review_departed(&mut self, env: &mut Env) {
        let channels = self.state.inbound.keys().chain(self.reign.held.keys());
        let spoke = self.reign.senders.keys().chain(self.reign.statements.keys());
        for sender in channels.chain(spoke) {
            if let Sender::Node(node) = sender
                && env.has_departed(*node)
            {
                self.reign.departed.entry(*node).or_insert(env.now);
            }
        }
        self.reign.departed.retain(|node, _| !env.members.nodes.contains_key(node));
    }

    /// Closes the channels of nodes that have been gone for the grace.
    pub(super) fn close_departed(&mut self, env: &mut Env) {
        let grace = env.limits.departed_grace_ms;
        let due: Vec<_> = self
            .reign
            .departed
            .iter()
            .filter(|(_, since)| **since + grace <= env.now)
            .map(|(node, _)| *node)
            .collect();
        for (marked, node) in due.into_iter().enumerate() {
            let sender = Sender::Node(node);
            self.log_held(env, &sender, Number::MAX);
            if !self.state.inbound.contains_key(&sender) {
                // It has never sent anything.
                self.reign.departed.remove(&node);
                self.reign.statements.remove(&sender);
                self.reign.senders.remove(&sender);
                continue;
            }
            let many = self.state.closed_nodes.above() + marked >= env.limits.closed_channels_max;
            // It was gone for the grace, so lower incarnations that are not here came and went long ago.
            let floor = if many { NodeId(node.0 + 1) } else { NodeId(0) };
            // The channel closes when the mark comes; if it does not it is made again.
            let again = env.now + env.limits.append_timeout_ms;
            self.reign.departed.insert(node, again.saturating_sub(grace));
            self.mark_departed(env, node, floor);
        }
    }

    /// Incarnations below `floor` whose channels may be in use: members, and those whose grace is not over.
    pub(super) fn open_below(&self, env: &Env, floor: NodeId) -> Vec<NodeId> {
        let members = env.members.nodes.keys();
        let here = self.state.inbound.keys().chain(self.reign.held.keys());
        let here = here.filter_map(|sender| match sender {
            Sender::Node(node) => Some(node),
            Sender::Log { .. } | Sender::Subscription { .. } => None,
        });
        let all = members.chain(self.reign.departed.keys()).chain(here);
        let closed = &self.state.closed_nodes;
        // The last one is being closed itself.
        let wanted = |node: &&NodeId| node.0 + 1 < floor.0 && !closed.contains(**node);
        all.filter(wanted).copied().collect::<BTreeSet<_>>().into_iter().collect()
    }
}
