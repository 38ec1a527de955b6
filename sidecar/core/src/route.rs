//! The sending end of one channel at run time (rules C1–C3): which node is asked, what may be sent, what was stated.
//!
//! ```text
//! Idle    --(something to say, owner known and reachable, open)--> Opening
//! Opening --(Opened)--> Open          every open number from `next` on is sent again, in order
//! Opening --(NotOwner | peer down | timer)--> Idle
//! Open    --(NotOwner, not older | Gap | peer down | owner gone)--> Idle
//! ```

use std::collections::BTreeSet;

use crate::env::Env;
use crate::ids::{Epoch, Millis, NodeId, Number, PartitionId, Sender};
use crate::message::Message;
use crate::state::Outbound;

/// Where a channel stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Idle,
    Opening { node: NodeId },
    Open { node: NodeId, epoch: Epoch },
}

/// The sending end of a channel.
#[derive(Debug)]
pub(crate) struct Route {
    sender: Sender,
    from_epoch: Epoch,
    to: PartitionId,
    phase: Phase,
    /// Numbers below this are committed: they may be sent and stated.
    committed: Number,
    /// Numbers closed by a proposal that is not committed: stated as open (rule C4).
    unsettled: BTreeSet<Number>,
    /// Numbers closed since the last statement: the timer states them.
    dirty: bool,
    /// When to open again or to state, at the latest.
    timer: Option<Millis>,
    /// Who owns the partition, as somebody said.
    hint: Option<NodeId>,
    /// Highest number of the last statement.
    stated: Number,
    /// Lowest open number at the last tick: one that stays open for a whole period is stated again.
    lowest: Option<Number>,
    /// Times that nodes refused in a row.
    refusals: u32,
}

impl Route {
    /// A channel to `to`, of which numbers below `committed` are committed.
    pub(crate) fn new(
        sender: Sender,
        from_epoch: Epoch,
        to: PartitionId,
        committed: Number,
    ) -> Self {
        Self {
            sender,
            from_epoch,
            to,
            phase: Phase::Idle,
            committed,
            unsettled: BTreeSet::new(),
            // What an earlier reign closed may never have been told.
            dirty: committed > 1,
            timer: None,
            hint: None,
            stated: 0,
            lowest: None,
            refusals: 0,
        }
    }

    pub(crate) fn timer(&self) -> Option<Millis> {
        self.timer
    }

    /// A number was closed by a proposal.
    pub(crate) fn unsettle(&mut self, number: Number) {
        self.unsettled.insert(number);
    }

    /// That proposal is committed: the closing may be told.
    pub(crate) fn settled(&mut self, env: &Env, number: Number) {
        self.unsettled.remove(&number);
        self.dirty = true;
        let at = env.now + env.limits.channel_timer_ms;
        self.timer = Some(self.timer.map_or(at, |t| t.min(at)));
    }

    /// An obligation is committed: sends it, or opens the channel first.
    pub(crate) fn send(&mut self, env: &mut Env, out: &Outbound, number: Number) {
        self.committed = self.committed.max(number + 1);
        match self.phase {
            Phase::Open { node, epoch } => {
                self.timer.get_or_insert(env.now + env.limits.channel_timer_ms);
                self.request(env, out, node, epoch, number);
            }
            // Whoever was refused waits for the timer.
            Phase::Idle if self.refusals < 2 => self.open(env, out),
            Phase::Idle | Phase::Opening { .. } => {
                self.timer.get_or_insert(env.now + env.limits.channel_timer_ms);
            }
        }
    }

    /// Opens the channel if there is something to say and somebody to say it to.
    pub(crate) fn open(&mut self, env: &mut Env, out: &Outbound) {
        if out.open.is_empty() && !self.dirty {
            self.timer = None;
            return;
        }
        self.timer = Some(env.now + env.limits.channel_timer_ms);
        let alive = |node: &NodeId| env.members.nodes.contains_key(node) && env.reachable(*node);
        let hinted = self.hint.take().filter(alive);
        let Some(node) = hinted.or_else(|| env.desired_owner(&self.to).filter(alive)) else {
            return;
        };
        self.phase = Phase::Opening { node };
        self.state(env, out, node);
    }

    /// The way is lost. The next owner has to be told what is closed, too.
    fn lose(&mut self) {
        self.dirty |= self.committed > 1;
        self.phase = Phase::Idle;
    }

    /// States the committed numbers that are open (rule C3).
    fn state(&mut self, env: &mut Env, out: &Outbound, node: NodeId) {
        self.dirty = false;
        self.stated = self.committed - 1;
        let closing = env.rules.close_only_committed;
        let mut open: Vec<_> = out.open.range(..self.committed).map(|(n, _)| *n).collect();
        open.extend(self.unsettled.iter().filter(|n| closing && **n < self.committed));
        open.sort_unstable();
        env.send(
            node,
            Message::Open {
                sender: self.sender.clone(),
                from_epoch: self.from_epoch,
                to: self.to.clone(),
                highest: self.committed - 1,
                open,
            },
        );
    }

    /// The owner answered: everything stated that it does not know is sent again, in order.
    pub(crate) fn opened(
        &mut self,
        env: &mut Env,
        out: &Outbound,
        from: NodeId,
        epoch: Epoch,
        next: Number,
    ) {
        let upto = match self.phase {
            Phase::Opening { node } if node == from => self.committed,
            Phase::Open { node, epoch: known } if node == from && known < epoch => self.committed,
            // Answers a statement on an open channel: what was sent after it is under way.
            Phase::Open { node, epoch: known } if node == from && known == epoch => self.stated + 1,
            _ => return,
        };
        self.phase = Phase::Open { node: from, epoch };
        self.refusals = 0;
        let busy = self.dirty || !out.open.is_empty();
        self.timer = busy.then_some(env.now + env.limits.channel_timer_ms);
        let missing = out.open.range(next..upto.max(next));
        let mut numbers: Vec<_> = missing.map(|(n, _)| *n).collect();
        if !env.rules.resend_in_order {
            numbers.reverse();
        }
        for number in numbers {
            self.request(env, out, from, epoch, number);
        }
    }

    /// Somebody said that it does not own the partition (any more). Epochs are compared, not nodes.
    pub(crate) fn not_owner(
        &mut self,
        env: &mut Env,
        out: &Outbound,
        from: NodeId,
        epoch: Epoch,
        hint: Option<NodeId>,
    ) {
        match self.phase {
            Phase::Open { node, epoch: known } if node == from && epoch >= known => {}
            Phase::Opening { node } if node == from => {}
            _ => return,
        }
        self.lose();
        self.refusals += 1;
        self.hint = hint.filter(|node| *node != from);
        // One more step at once, to whom the refuser named; then in steps of the timer: two nodes that name each other
        // (or one that names itself) must not be asked in a loop.
        if self.refusals == 1 && self.hint.is_some_and(|node| env.reachable(node)) {
            self.open(env, out);
        } else {
            self.timer = Some(env.now + env.limits.channel_timer_ms.min(50));
        }
    }

    /// Numbers are missing at the receiver: the channel is opened again.
    pub(crate) fn gap(&mut self, env: &mut Env, out: &Outbound, from: NodeId, epoch: Epoch) {
        if self.phase == (Phase::Open { node: from, epoch }) {
            self.lose();
            self.open(env, out);
        }
    }

    /// The connection to a node broke, or a peer appeared, or the membership changed: finds its way anew.
    pub(crate) fn reconsider(&mut self, env: &mut Env, out: &Outbound, lost: Option<NodeId>) {
        self.refusals = 0;
        match self.phase {
            Phase::Open { node, .. } | Phase::Opening { node } => {
                let gone = !env.members.nodes.contains_key(&node) || !env.reachable(node);
                if lost == Some(node) || gone {
                    self.lose();
                    self.open(env, out);
                }
            }
            Phase::Idle => self.open(env, out),
        }
    }

    /// The timer: opens again what is not open, states what was closed.
    pub(crate) fn tick(&mut self, env: &mut Env, out: &Outbound) {
        if self.timer.is_none_or(|at| at > env.now) {
            return;
        }
        let lowest = out.open.first_key_value().map(|(n, _)| *n).filter(|n| *n < self.committed);
        match self.phase {
            Phase::Open { node, .. } => {
                if self.dirty || (lowest.is_some() && lowest == self.lowest) {
                    self.state(env, out, node);
                }
            }
            Phase::Idle | Phase::Opening { .. } => {
                self.lose();
                return self.open(env, out);
            }
        }
        self.lowest = lowest;
        let busy = self.dirty || lowest.is_some();
        self.timer = busy.then_some(env.now + env.limits.channel_timer_ms);
    }

    fn request(&self, env: &mut Env, out: &Outbound, node: NodeId, epoch: Epoch, number: Number) {
        let Some(obligation) = out.open.get(&number) else { return };
        let lowest = [
            out.open.first_key_value().map(|(n, _)| *n),
            self.unsettled.first().copied().filter(|_| env.rules.close_only_committed),
        ];
        let floor = lowest.into_iter().flatten().min().unwrap_or(number);
        env.send(
            node,
            Message::Request {
                sender: self.sender.clone(),
                from_epoch: self.from_epoch,
                to: self.to.clone(),
                epoch,
                number,
                floor,
                invocation: obligation.invocation.clone(),
            },
        );
    }
}
