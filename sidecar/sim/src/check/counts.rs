//! Counts how often the schedules of DESIGN section 17 really happened, so that a test can insist
//! that they do.

use std::collections::BTreeMap;
use std::sync::Arc;

use kar_core::ids::{Epoch, NodeId, Offset, SessionId};
use kar_core::message::Message;
use kar_core::record::{Op, Record};

use super::Judge;
use crate::coverage::Coverage;
use crate::history::{Run, Seen};

/// So many turns of one reign that ran ahead of the log and come to nothing are a cascade by chance; the directed
/// schedule has the design's five.
const CASCADE: usize = 2;

/// How often each schedule happened.
#[derive(Clone, Debug, Default)]
pub(crate) struct Counts {
    pub(crate) twin_claim: u64,
    pub(crate) gap_then_late: u64,
    pub(crate) sandwiched_claim: u64,
    pub(crate) sleeping_outcall: u64,
    pub(crate) boomerang_owner: u64,
    pub(crate) pingpong_tail: u64,
    /// Outcomes of chains of tail calls that came home.
    pub(crate) chains_home: u64,
    pub(crate) dead_attempt_progress: u64,
    pub(crate) store_rollback: u64,
    pub(crate) drain_with_cross_calls: u64,
    pub(crate) cascade: u64,
    /// Numbers that were sent by peers and through the inbox.
    pub(crate) route_flip: u64,
    /// Entries that came to an inbox when what they ask for had been done.
    pub(crate) accept_after_forget: u64,
    /// The same behind the mark of their node.
    pub(crate) accept_after_mark: u64,
    /// Entries of inboxes that were taken.
    pub(crate) inbox_taken: u64,
    /// Tells that were told to be accepted because they were in the inbox.
    pub(crate) inbox_promised: u64,
    /// Requests that asked what had arrived: a channel's window was half used.
    pub(crate) windows_asked: u64,
    /// Statements that were answered with a part of the outcomes kept.
    pub(crate) outcomes_cut: u64,
    /// Reads from outside turns that were answered.
    pub(crate) reads: u64,
    /// Those of them during which the actor's state changed.
    pub(crate) reads_raced: u64,
    /// Durable steps that retries were dispatched with.
    pub(crate) steps_recalled: u64,
    /// Keyed calls that were answered from what is kept.
    pub(crate) calls_recalled: u64,
    /// Turns of shared methods that ran beside each other.
    pub(crate) shared_beside: u64,
    /// Invocations that were sent again under their keys.
    pub(crate) keys_again: u64,
    /// Calls that ended because flows waited for each other in a circle.
    pub(crate) deadlocks: u64,
    /// Exclusive calls that were refused because their flow holds the actor as shared.
    pub(crate) shared_to_exclusive: u64,
    /// Turns dispatched by a reign that was over, of invocations that were done.
    pub(crate) zombie_dispatch: u64,
    /// Due times that were fired, and how many of them late.
    pub(crate) reminders_fired: u64,
    pub(crate) reminders_late: u64,
    /// Firings that a change dropped before they started.
    pub(crate) firings_dropped: u64,
    /// Actors removed, those of them that had state, and those that had reminders.
    pub(crate) removals: u64,
    pub(crate) removed_states: u64,
    pub(crate) removed_reminders: u64,
    /// Turns that told of idle actors, and those of them that did something.
    pub(crate) deactivations: u64,
    pub(crate) deactivations_logged: u64,
    /// Turns that found what was remembered of their actor to be good.
    pub(crate) activations_kept: u64,
    /// Overlaps of code that a lagging node excuses.
    pub(crate) overlap_excused: u64,
    /// What was seen of which transitions.
    pub(crate) coverage: Coverage,
    /// Invocations that ended as cancelled.
    pub(crate) cancelled: u64,
    /// Invocations that expired.
    pub(crate) expired: u64,
    /// Those of them that had run ahead of the log on a node that was lost.
    pub(crate) expired_after_loss: u64,
    /// Attempts that ended with an error and were followed by another one.
    pub(crate) errors_retried: u64,
    /// Dead letters sent again.
    pub(crate) redriven: u64,
    /// Invocations parked.
    pub(crate) parked: u64,
    /// Calls that were withdrawn.
    pub(crate) withdrawn: u64,
    /// Those of them whose callers' and callees' owners had both been lost since they were made.
    pub(crate) both_ends_failing: u64,
    /// Events that came into topics.
    pub(crate) published: u64,
    /// Those that a new reign found there.
    pub(crate) publisher_dies_after_append: u64,
    /// Topics that were deleted while something was owed to them.
    pub(crate) recreated_topic: u64,
    /// Events that went to a topic for dead letters.
    pub(crate) dead_lettered: u64,
    /// Subscriptions created, events accepted for them, gone before, and not to be delivered; channels closed.
    pub(crate) subscribed: u64,
    pub(crate) delivered: u64,
    pub(crate) skipped: u64,
    pub(crate) undeliverable: u64,
    pub(crate) fences: u64,
    /// Deliveries of a reader that was over, of what was delivered; events whose retries came to nothing.
    pub(crate) two_readers: u64,
    pub(crate) poison_event: u64,
    /// Probes that reach owners which have been replaced.
    pub(crate) outdated_witness: u64,
    /// Completions in void records, by log and epoch, for `cascade`.
    dropped: BTreeMap<(usize, Epoch), usize>,
    /// Nodes draining, for `drain_with_cross_calls`.
    draining: Vec<NodeId>,
    /// Hosts that died with turns: session, when.
    down: Vec<(SessionId, u64)>,
}

impl Counts {
    /// The counts by the names of the schedules.
    pub(crate) fn named(&self) -> [(&'static str, u64); 57] {
        [
            ("twin-claim", self.twin_claim),
            ("gap-then-late", self.gap_then_late),
            ("sandwiched-claim", self.sandwiched_claim),
            ("sleeping-outcall", self.sleeping_outcall),
            ("boomerang-owner", self.boomerang_owner),
            ("pingpong-tail", self.pingpong_tail),
            ("dead-attempt-progress", self.dead_attempt_progress),
            ("store-rollback", self.store_rollback),
            ("drain-with-cross-calls", self.drain_with_cross_calls),
            ("cascade", self.cascade),
            ("route-flip", self.route_flip),
            ("accept-after-forget", self.accept_after_forget),
            ("(accepted after a mark)", self.accept_after_mark),
            ("(inbox entries taken)", self.inbox_taken),
            ("(promised by inboxes)", self.inbox_promised),
            ("both-ends-failing", self.both_ends_failing),
            ("two-readers", self.two_readers),
            ("poison-event", self.poison_event),
            ("outdated-witness", self.outdated_witness),
            ("(subscribed)", self.subscribed),
            ("(events delivered)", self.delivered),
            ("(events skipped)", self.skipped),
            ("(events for nobody)", self.undeliverable),
            ("(channels of subscriptions closed)", self.fences),
            ("(chains home)", self.chains_home),
            ("(windows asked)", self.windows_asked),
            ("(outcomes cut)", self.outcomes_cut),
            ("(cancelled)", self.cancelled),
            ("(expired)", self.expired),
            ("(expired after a loss)", self.expired_after_loss),
            ("(errors retried)", self.errors_retried),
            ("(parked)", self.parked),
            ("(withdrawn)", self.withdrawn),
            ("(redriven)", self.redriven),
            ("(reads)", self.reads),
            ("(reads raced)", self.reads_raced),
            ("(steps recalled)", self.steps_recalled),
            ("(calls recalled)", self.calls_recalled),
            ("(keys again)", self.keys_again),
            ("(deadlocks)", self.deadlocks),
            ("(shared beside)", self.shared_beside),
            ("(shared to exclusive)", self.shared_to_exclusive),
            ("(reminders fired)", self.reminders_fired),
            ("(reminders late)", self.reminders_late),
            ("(firings dropped)", self.firings_dropped),
            ("(actors removed)", self.removals),
            ("(removed with state)", self.removed_states),
            ("(removed with reminders)", self.removed_reminders),
            ("(deactivations)", self.deactivations),
            ("(deactivations logged)", self.deactivations_logged),
            ("(activations kept)", self.activations_kept),
            ("(zombie dispatches)", self.zombie_dispatch),
            ("(overlaps excused)", self.overlap_excused),
            ("publisher-dies-after-append", self.publisher_dies_after_append),
            ("recreated-topic", self.recreated_topic),
            ("(events published)", self.published),
            ("(dead-lettered)", self.dead_lettered),
        ]
    }

    /// Whether a host's stream is known to be gone.
    pub(crate) fn is_down(&self, session: SessionId) -> bool {
        self.down.iter().any(|(down, _)| *down == session)
    }
}

impl Judge<'_> {
    /// Looks at a record before it is applied.
    pub(crate) fn count_record(
        &mut self,
        log: usize,
        _offset: Offset,
        node: NodeId,
        record: &Arc<Record>,
    ) {
        let model = &mut self.logs[log];
        match &**record {
            // Two claims after the same epoch; both claimants live, and the first one has served.
            Record::Claim { after, node: by, .. } => {
                let twin = *after != model.epoch
                    && model.reigns.iter().any(|r| r.epoch == model.epoch && r.node != *by)
                    && model.reigns.iter().rev().nth(1).map_or(0, |r| r.epoch) == *after;
                self.counts.twin_claim += u64::from(twin);
            }
            Record::Batch { epoch, seq, ops, .. } => {
                let highest = model.highest.entry(*epoch).or_insert(0);
                let last = model.last_seqs.get(epoch).copied().unwrap_or(0);
                let late = *seq < *highest && *seq > last;
                *highest = (*highest).max(*seq);
                self.counts.gap_then_late += u64::from(late);
                if *epoch < model.epoch {
                    self.count_zombie(log, node, *epoch, ops);
                } else if *epoch == model.epoch && *seq > model.seq + 1 {
                    self.count_cascade(log, *epoch, ops);
                } else {
                    self.count_dead_attempt(log, ops);
                }
            }
            Record::Release { .. } => {}
        }
    }

    /// A record of a reign that is over: with a `Complete` whose `Progress` was in time it is a
    /// sandwich, with several turns' completions a cascade.
    fn count_zombie(&mut self, log: usize, _node: NodeId, epoch: u64, ops: &[Op]) {
        let model = &self.logs[log];
        let sandwiched = ops.iter().any(|op| match op {
            Op::Complete { uuid, attempt, .. } => {
                let step = model.held.get(uuid).map_or(1, |held| held.step);
                model.turns.contains_key(&(*uuid, step, *attempt, epoch))
            }
            _ => false,
        });
        self.counts.sandwiched_claim += u64::from(sandwiched);
        self.count_cascade(log, epoch, ops);
    }

    /// Turns whose ends are dropped with one reign; the last of so many counts.
    fn count_cascade(&mut self, log: usize, epoch: Epoch, ops: &[Op]) {
        let ended = ops.iter().filter(|o| matches!(o, Op::Complete { .. })).count();
        let dropped = self.counts.dropped.entry((log, epoch)).or_default();
        let before = *dropped;
        *dropped += ended;
        self.counts.cascade += u64::from(before < CASCADE && *dropped >= CASCADE);
    }

    /// A valid `Progress` of a turn whose host is dead: the next attempt comes after it.
    fn count_dead_attempt(&mut self, _log: usize, ops: &[Op]) {
        for op in ops {
            let Op::Progress { uuid, attempt, .. } = op else { continue };
            let Some(tag) = self.tag_of_uuid.get(uuid) else { continue };
            let dead = self.counts.down.iter().any(|(session, at)| {
                *at <= self.now
                    && self.history.runs.iter().any(|r| {
                        r.session == *session
                            && r.spec.tag == *tag
                            && r.token.attempt == *attempt
                            && r.token.invocation.uuid == *uuid
                    })
            });
            self.counts.dead_attempt_progress += u64::from(dead);
        }
    }

    /// A message arrives: is it from another time?
    pub(crate) fn count_arrival(&mut self, to: NodeId, sent: usize) {
        let Seen::Sent { message, .. } = &self.history.events[sent].1 else { return };
        self.counts.coverage.arrived(message);
        if let Message::Opened { resume_at, .. } = message {
            self.counts.outcomes_cut += u64::from(resume_at.is_some());
        }
        if let Message::Probe(probe) = message {
            let model = &self.logs[self.log_of(&probe.to)];
            let was_owner = model.owner != Some(to) && model.reigns.iter().any(|r| r.node == to);
            self.counts.outdated_witness += u64::from(was_owner);
        }
        let Message::Request { sender, to: partition, epoch, number, from_epoch, asks, .. } =
            message
        else {
            return;
        };
        self.counts.windows_asked += u64::from(*asks);
        let log = self.log_of(partition);
        let model = &self.logs[log];
        let held_then = model.reigns.iter().any(|r| r.epoch == *epoch && r.node == to);
        if held_then && model.owner == Some(to) && model.epoch > *epoch {
            self.counts.boomerang_owner += 1;
        }
        if let kar_core::ids::Sender::Subscription { partition, .. } = sender {
            let is_late = self.logs[self.log_of(partition)].epoch > *from_epoch;
            let is_known = model.numbers.contains_key(&(sender.clone(), *number));
            self.counts.two_readers += u64::from(is_late && is_known);
        }
        if let kar_core::ids::Sender::Log { partition, .. } = sender {
            let caller = &self.logs[self.log_of(partition)];
            let done = model.numbers.get(&(sender.clone(), *number));
            let closed = done.and_then(|u| model.held.get(u)).is_some_and(|h| h.closed);
            if caller.epoch > *from_epoch && closed {
                self.counts.sleeping_outcall += 1;
            }
        }
    }

    /// A host is gone.
    pub(crate) fn count_host_down(&mut self, _node: NodeId, session: SessionId, _dead: bool) {
        let now = self.now;
        self.counts.down.push((session, now));
    }

    /// A node is told to leave: does another one leave at the same time, with a turn of one of them under way that was
    /// called by a turn of the other one? (In both directions, with re-entry, it is directed only.)
    pub(crate) fn count_drain(&mut self, node: NodeId) {
        let runs_now = |run: &&Run| {
            run.started.is_some_and(|at| at <= self.now) && run.ended.is_none_or(|at| at > self.now)
        };
        let running =
            |node| self.history.runs.iter().filter(runs_now).filter(move |r| r.node == node);
        let calls = |from, to| {
            running(from).any(|outer| {
                running(to).any(|inner| self.is_inside(inner, outer.token.invocation.uuid))
            })
        };
        let others = self.counts.draining.iter().copied();
        let lives = |n: &NodeId| self.nodes.get(n).is_some_and(|m| m.gone.is_none());
        let both = others.filter(lives).any(|other| calls(node, other) || calls(other, node));
        self.counts.drain_with_cross_calls += u64::from(both);
        self.counts.draining.push(node);
    }
}
