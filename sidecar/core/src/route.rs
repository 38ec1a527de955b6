//! The sending end of one channel at run time (rules C1–C3): which node is asked, what may be sent, what was stated.
//!
//! ```text
//! Idle    --(something to say, owner known and reachable, open)--> Opening
//! Opening --(Opened)--> Open          every open number from `next` on is sent again, in order, by the window
//! Opening --(NotOwner | peer down | timer)--> Idle
//! Open    --(NotOwner, not older | Gap | peer down | owner gone)--> Idle
//! Idle, Opening --(nobody to be reached, for long enough)--> Inbox     a run of entries begins, with all that is open
//! Inbox   --(Opened by somebody connected)--> Open
//! Inbox   --(nothing to say)--> Idle
//! ```
//!
//! What goes which way is decided here alone: by the peers if the owner is connected, else through the inbox of the
//! partition (`inbox`). Both ways state first what is open, so that nothing is lost in between; what comes twice is
//! known by its number.

mod inbox;
mod said;

use std::collections::BTreeSet;

use crate::cover::Transition;
use crate::env::Env;
use crate::ids::{Epoch, Millis, NodeId, Number, PartitionId, Sender};
use crate::state::Outbound;
use crate::window::Window;

use inbox::Run;
pub(crate) use inbox::{ReadBack, Said, is_promised};

/// Where a channel stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Idle,
    Opening {
        node: NodeId,
    },
    Open {
        node: NodeId,
        epoch: Epoch,
    },
    /// Through the partition's inbox.
    Inbox,
}

/// What the receiver answers to a statement.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Opened {
    /// Its epoch.
    pub(crate) epoch: Epoch,
    /// Lowest number that it does not know.
    pub(crate) next: Number,
    /// It has more outcomes than it sends at once; this is the last one sent.
    pub(crate) resume_at: Option<Number>,
}

/// The sending end of a channel.
#[derive(Clone, Debug)]
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
    /// First number that had not been sent when the channel was last stated.
    stated: Number,
    /// What is under way.
    window: Window,
    /// Open numbers whose answer is here: they are stated as open, and not answered again.
    heard: BTreeSet<Number>,
    /// The receiver has more outcomes than it sent at once; with this one's it is asked for the rest.
    resume_at: Option<Number>,
    /// Lowest open number at the last tick: one that stays open for a whole period is stated again.
    lowest: Option<Number>,
    /// Times that nodes refused in a row.
    refusals: u32,
    /// Counts statements.
    serial: u64,
    /// Since when there is something to say and nobody to say it to.
    silent_since: Option<Millis>,
    /// What goes through the inbox.
    run: Run,
    /// Numbers below this were sent by peers: what became of them nobody knows before their receiver has told.
    by_peer: Number,
    /// Open numbers that are accepted, as their requesters were told: they are durable in the inbox.
    promised: BTreeSet<Number>,
    /// Numbers below this may have been sent before, by an earlier reign too.
    sent: Number,
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
            window: Window::default(),
            heard: BTreeSet::new(),
            resume_at: None,
            lowest: None,
            refusals: 0,
            serial: 0,
            silent_since: None,
            run: Run::default(),
            by_peer: 0,
            promised: BTreeSet::new(),
            sent: committed,
        }
    }

    /// The node that serves the partition as far as this channel knows.
    pub(crate) fn node(&self) -> Option<NodeId> {
        match self.phase {
            Phase::Open { node, .. } => Some(node),
            _ => None,
        }
    }

    /// Whether it goes through the inbox.
    pub(crate) fn by_inbox(&self) -> bool {
        self.phase == Phase::Inbox
    }

    pub(crate) fn timer(&self) -> Option<Millis> {
        self.timer
    }

    /// A number was closed by a proposal.
    pub(crate) fn unsettle(&mut self, number: Number) {
        self.heard.remove(&number);
        self.promised.remove(&number);
        self.unsettled.insert(number);
    }

    /// An obligation is no longer owed, and nobody else has to be told.
    pub(crate) fn forget(&mut self, number: Number) {
        self.heard.remove(&number);
        self.promised.remove(&number);
    }

    /// A number was answered, with its outcome or its acceptance: everything up to it has arrived.
    pub(crate) fn answered(&mut self, env: &mut Env, out: &Outbound, number: Number) {
        self.window.arrived(number + 1);
        if out.open.contains_key(&number) {
            self.heard.insert(number);
        }
        if self.resume_at == Some(number) {
            self.resume(env, out);
        }
        self.pump(env, out);
    }

    /// Everything below `next` has arrived.
    pub(crate) fn known(
        &mut self,
        env: &mut Env,
        out: &Outbound,
        from: NodeId,
        epoch: Epoch,
        next: Number,
    ) {
        if self.phase == (Phase::Open { node: from, epoch }) || self.phase == Phase::Inbox {
            self.window.arrived(next);
            self.pump(env, out);
        }
    }

    /// Asks for the outcomes that the last statement's answer left out.
    fn resume(&mut self, env: &mut Env, out: &Outbound) {
        self.resume_at = None;
        match self.phase {
            Phase::Open { node, .. } => {
                env.cover(Transition::RouteResumes);
                self.state(env, out, node);
            }
            Phase::Inbox => self.state_in_inbox(env, out),
            Phase::Idle | Phase::Opening { .. } => {}
        }
    }

    /// Sends what was not sent yet, in order, as far as the window goes.
    fn pump(&mut self, env: &mut Env, out: &Outbound) {
        let Phase::Open { node, epoch } = self.phase else {
            if self.phase == Phase::Inbox {
                self.pump_inbox(env, out);
            }
            return;
        };
        // Bounded: every round sends one obligation.
        loop {
            let (from, below) = (self.window.cursor(), self.committed);
            let next = (from < below).then(|| out.open.range(from..below).next()).flatten();
            let Some((number, obligation)) = next else { return };
            let bytes = obligation.owed.size();
            let Some(asks) = self.window.take(&env.limits, *number, bytes) else {
                return env.cover(Transition::RouteFull);
            };
            self.request(env, out, (node, epoch), *number, asks);
        }
    }

    /// That proposal is committed: the closing may be told.
    pub(crate) fn settled(&mut self, env: &Env, number: Number) {
        self.unsettled.remove(&number);
        self.promised.remove(&number);
        self.dirty = true;
        let at = env.now + env.limits.channel_timer_ms;
        self.timer = Some(self.timer.map_or(at, |t| t.min(at)));
    }

    /// An obligation is committed: sends it, or opens the channel first.
    pub(crate) fn send(&mut self, env: &mut Env, out: &Outbound, number: Number) {
        self.committed = self.committed.max(number + 1);
        match self.phase {
            Phase::Open { node, epoch } if number < self.window.cursor() => {
                // The receiver knows it already, and is asked what became of it: an earlier reign has sent it.
                env.cover(Transition::RouteKnown);
                self.timer.get_or_insert(env.now + env.limits.channel_timer_ms);
                self.request(env, out, (node, epoch), number, false);
            }
            Phase::Open { .. } | Phase::Inbox => {
                self.timer.get_or_insert(env.now + env.limits.channel_timer_ms);
                self.pump(env, out);
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
            self.silent_since = None;
            return;
        }
        let since = *self.silent_since.get_or_insert(env.now);
        self.timer = Some(env.now + env.limits.channel_timer_ms);
        let patience = since.saturating_add(env.limits.inbox_after_ms);
        let node = self.whom(env);
        let apart = node.is_none() && env.desired_owner(&self.to).is_some_and(|n| env.apart(n));
        match node {
            _ if apart || patience <= env.now => self.begin_run(env, out),
            Some(node) => {
                self.phase = Phase::Opening { node };
                self.state(env, out, node);
            }
            None => self.timer = self.timer.map(|at| at.min(patience)),
        }
    }

    /// Whom peers would carry it to.
    fn whom(&mut self, env: &Env) -> Option<NodeId> {
        let alive = |node: &NodeId| env.members.nodes.contains_key(node) && env.connected(*node);
        let hinted = self.hint.take().filter(alive);
        hinted.or_else(|| env.desired_owner(&self.to).filter(alive))
    }

    /// The way is lost. The next owner has to be told what is closed, too.
    fn lose(&mut self) {
        self.dirty |= self.committed > 1;
        self.phase = Phase::Idle;
        self.window.restart(0);
        self.resume_at = None;
    }

    /// The owner answered: everything that it does not know is sent again, in order, before anything new.
    pub(crate) fn opened(&mut self, env: &mut Env, out: &Outbound, from: NodeId, opened: Opened) {
        let Opened { epoch, next, resume_at } = opened;
        let upto = match self.phase {
            Phase::Opening { node } if node == from => self.committed,
            Phase::Open { node, epoch: known } if node == from && known < epoch => self.committed,
            // Answers a statement on an open channel: what was sent after it is under way.
            Phase::Open { node, epoch: known } if node == from && known == epoch => self.stated,
            Phase::Inbox if env.connected(from) => {
                env.cover(Transition::RouteBack);
                // Not all that was closed may have been heard on the other way.
                self.dirty |= self.committed > 1;
                self.leave_inbox(env);
                self.committed
            }
            Phase::Inbox => return self.opened_by_inbox(env, out, opened),
            _ => return,
        };
        self.silent_since = None;
        let is_new = self.phase != (Phase::Open { node: from, epoch });
        self.phase = Phase::Open { node: from, epoch };
        self.refusals = 0;
        let busy = self.dirty || !out.open.is_empty();
        self.timer = busy.then_some(env.now + env.limits.channel_timer_ms);
        let mut missing = out.open.range(next..upto.max(next)).map(|(number, _)| *number);
        if !env.rules.resend_in_order {
            for number in missing.collect::<Vec<_>>().into_iter().rev() {
                self.request(env, out, (from, epoch), number, false);
            }
            self.window.restart(self.committed);
        } else if is_new || missing.next().is_some() {
            self.window.restart(next);
        } else {
            self.window.arrived(next);
        }
        self.resume_at = resume_at;
        // Its outcome may have come before this answer.
        let waits = |number| out.open.contains_key(&number) && !self.heard.contains(&number);
        if resume_at.is_some_and(|number| !waits(number)) {
            self.resume(env, out);
        }
        self.pump(env, out);
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
            Phase::Inbox => {
                self.hint = hint.filter(|node| *node != from);
                return;
            }
            _ => return,
        }
        self.lose();
        self.silent_since.get_or_insert(env.now);
        self.refusals += 1;
        self.hint = hint.filter(|node| *node != from);
        // One more step at once, to whom the refuser named; then in steps of the timer: two nodes that name each other
        // (or one that names itself) must not be asked in a loop.
        if self.refusals == 1 && self.hint.is_some_and(|node| env.connected(node)) {
            env.cover(Transition::RouteHop);
            self.open(env, out);
        } else {
            env.cover(Transition::RouteWaits);
            self.timer = Some(env.now + env.limits.channel_timer_ms.min(50));
        }
    }

    /// Numbers are missing at the receiver: the channel is opened again.
    pub(crate) fn gap(&mut self, env: &mut Env, out: &Outbound, from: NodeId, epoch: Epoch) {
        if self.phase == (Phase::Open { node: from, epoch }) {
            env.cover(Transition::RouteGap);
            self.lose();
            self.open(env, out);
        } else if self.phase == Phase::Inbox {
            self.break_run(env);
        }
    }

    /// The connection to a node broke, or a peer appeared, or the membership changed: finds its way anew.
    pub(crate) fn reconsider(&mut self, env: &mut Env, out: &Outbound, lost: Option<NodeId>) {
        self.refusals = 0;
        match self.phase {
            Phase::Open { node, .. } | Phase::Opening { node } => {
                let gone = !env.members.nodes.contains_key(&node) || !env.connected(node);
                if lost == Some(node) || gone {
                    env.cover(Transition::RouteLost);
                    self.lose();
                    self.open(env, out);
                }
            }
            Phase::Idle => self.open(env, out),
            Phase::Inbox => self.review_run(env, out, lost),
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
                    env.cover(Transition::RouteStates);
                    self.state(env, out, node);
                }
            }
            Phase::Idle | Phase::Opening { .. } => {
                self.lose();
                return self.open(env, out);
            }
            Phase::Inbox => {
                if !self.tick_run(env, out, lowest) {
                    return;
                }
            }
        }
        self.lowest = lowest;
        let busy = self.dirty || lowest.is_some() || self.awaits_inbox();
        let again = busy.then_some(env.now + env.limits.channel_timer_ms);
        self.timer = [again, self.run_due()].into_iter().flatten().min();
    }
}
