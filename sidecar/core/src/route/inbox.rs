//! A channel that goes through the inbox of its partition (rules L1, C3, C6).
//!
//! Entries come in **runs**: a statement, then all that is open in order, then what is new. Each request names where
//! the one before it in its run ends, so that whoever takes the entries in order needs nothing else, however often
//! owners change and whatever of the inbox is gone. When something may have been lost a new run begins.

use std::collections::VecDeque;

use super::{Phase, Route};
use crate::cover::Transition;
use crate::env::Env;
use crate::ids::{Epoch, Millis, NodeId, Number};
use crate::inbox::{InboxBody, InboxId};
use crate::invocation::{Mode, Owed};
use crate::message::Message;
use crate::state::Outbound;

use super::Opened;

/// An open number is stated again after so many periods of the timer in which nothing has changed: each statement stays
/// in the inbox until it is trimmed, and is needed only if an answer was lost.
const PERIODS_STUCK: Millis = 4;

/// A new run begins no sooner after the last one, ms: what was lost once may be lost again. Each one that is not read
/// back either doubles it, up to as many times: what is appended stays in the inbox until somebody takes it.
const RUN_PAUSE_MS: Millis = 50;
const RUN_PAUSE_DOUBLED_MAX: u32 = 12;

/// What goes through the inbox.
#[derive(Clone, Debug, Default)]
pub(super) struct Run {
    /// Names it: the serial number of the statement that it began with.
    serial: u64,
    /// When it began.
    since: Millis,
    /// When it was stated last.
    stated_at: Millis,
    /// Who should own the partition, as it was then.
    owner: Option<NodeId>,
    /// Numbers from here on have not been appended.
    next: Number,
    /// What was appended and not read back, in order, and when the first of it was.
    unread: VecDeque<Said>,
    unread_since: Millis,
    /// Something of it was lost, or comes late.
    is_broken: bool,
    /// Runs that ended so, one after the other.
    failed: u32,
}

/// What was said in an inbox.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Said {
    /// A statement, by its serial number.
    Statement(u64),
    /// A request, by its number.
    Request(Number),
}

/// What was read back from an inbox.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ReadBack {
    /// Epoch of the reign that said it.
    pub(crate) from_epoch: Epoch,
    /// Its run.
    pub(crate) run: u64,
    /// What it is.
    pub(crate) said: Said,
}

impl Run {
    /// How long it lasts at least.
    fn pause(&self) -> Millis {
        RUN_PAUSE_MS << self.failed.min(RUN_PAUSE_DOUBLED_MAX)
    }
}

impl Route {
    /// Takes the inbox: states what is open, and appends all of it.
    pub(super) fn begin_run(&mut self, env: &mut Env, out: &Outbound) {
        env.cover(match self.phase {
            Phase::Inbox => Transition::RouteRunAgain,
            _ => Transition::RouteInbox,
        });
        self.phase = Phase::Inbox;
        self.resume_at = None;
        self.refusals = 0;
        if let Some(from) = env.inboxes.follow(&self.to, &self.sender) {
            env.read_inbox(&self.to, from);
        }
        let failed = if self.run.since > 0 { self.run.failed + 1 } else { 0 };
        let serial = self.serial + 1;
        self.run = Run { serial, since: env.now, next: 1, failed, ..Run::default() };
        // With the rule off: as if what was sent before by another way had arrived.
        let sent = if env.rules.inbox_run { 0 } else { self.by_peer };
        self.run.next = self.run.next.max(sent);
        self.window.restart(sent);
        self.state_in_inbox(env, out);
        self.pump(env, out);
        self.probe(env, out);
    }

    /// Another way is open.
    pub(super) fn leave_inbox(&mut self, env: &mut Env) {
        self.run = Run::default();
        if env.inboxes.leave(&self.to, &self.sender) {
            env.stop_inbox(&self.to);
        }
    }

    /// Whether something that was said there was not read back.
    pub(super) fn awaits_inbox(&self) -> bool {
        self.phase == Phase::Inbox && !self.run.unread.is_empty()
    }

    /// When a run is to begin again.
    pub(super) fn run_due(&self) -> Option<Millis> {
        let is_broken = self.phase == Phase::Inbox && self.run.is_broken;
        is_broken.then(|| self.run.since.saturating_add(self.run.pause()))
    }

    /// The reign that speaks here is over.
    pub(crate) fn end(&mut self, env: &mut Env) {
        if self.phase == Phase::Inbox {
            self.leave_inbox(env);
        }
    }

    pub(super) fn state_in_inbox(&mut self, env: &mut Env, out: &Outbound) {
        self.run.owner = env.desired_owner(&self.to);
        self.run.stated_at = env.now;
        let message = self.statement(env, out);
        self.append(env, message, 0, Said::Statement(self.serial));
    }

    fn append(&mut self, env: &mut Env, message: Message, closed_from: Number, said: Said) {
        if self.run.unread.is_empty() {
            self.run.unread_since = env.now;
        }
        self.run.unread.push_back(said);
        let inbox = InboxId::Partition(self.to.clone());
        let body = InboxBody::Channel { message, closed_from, run: self.run.serial };
        env.append_inbox(inbox, body);
    }

    /// Asks whoever may be the owner whether peers carry it again; until then nothing changes.
    fn probe(&mut self, env: &mut Env, out: &Outbound) {
        if let Some(node) = self.whom(env) {
            // It may well be refused: what is closed is still to be told.
            let dirty = self.dirty;
            let statement = self.statement(env, out);
            self.dirty = dirty;
            env.send(node, statement);
        }
    }

    /// Appends what was not appended yet, in order, as far as the window goes.
    pub(super) fn pump_inbox(&mut self, env: &mut Env, out: &Outbound) {
        // Bounded: every round appends one obligation.
        loop {
            let (from, below) = (self.window.cursor(), self.committed);
            let mut open =
                (from < below).then(|| out.open.range(from..below)).into_iter().flatten();
            // Whoever has answered knows it.
            let Some((number, obligation)) = open.find(|(n, _)| !self.heard.contains(n)) else {
                return;
            };
            let (number, bytes) = (*number, obligation.owed.size());
            if self.window.take(&env.limits, number, bytes).is_none() {
                return env.cover(Transition::RouteFull);
            }
            let Some(message) = self.request_of(env, out, 0, (number, false)) else { return };
            let closed_from = self.run.next;
            self.run.next = number + 1;
            self.append(env, message, closed_from, Said::Request(number));
        }
    }

    /// Something was read back from the inbox. Tells whether it is a request that is durable there for whoever owns the
    /// partition: taken in any case, and not known to have been sent in any other way.
    pub(crate) fn read_back(&mut self, env: &mut Env, out: &Outbound, what: ReadBack) -> bool {
        let ReadBack { from_epoch, run, said } = what;
        let is_own = (from_epoch, run) == (self.from_epoch, self.run.serial);
        if self.phase != Phase::Inbox || !is_own || self.run.is_broken {
            return false;
        }
        if self.run.unread.front() != Some(&said) && env.rules.inbox_order {
            // What was appended before it is not in the inbox: whoever takes the entries takes none from there on.
            self.break_run(env);
            return false;
        }
        if self.run.unread.front() == Some(&said) {
            self.run.unread.pop_front();
        } else {
            // Only with the rule off.
            self.run.unread.retain(|other| *other != said);
        }
        self.run.unread_since = env.now;
        if self.run.unread.is_empty() {
            self.run.failed = 0;
        }
        let Said::Request(number) = said else { return false };
        self.window.arrived(number + 1);
        let is_durable = number >= self.by_peer;
        if is_durable && out.open.get(&number).is_some_and(|o| is_promised(&o.owed)) {
            self.promised.insert(number);
        }
        self.pump(env, out);
        is_durable
    }

    /// Something may have been lost on this way.
    pub(crate) fn break_run(&mut self, env: &Env) {
        if self.phase == Phase::Inbox {
            self.run.is_broken = true;
            let due = self.run_due().map(|at| at.max(env.now));
            self.timer = [self.timer, due].into_iter().flatten().min();
        }
    }

    /// An owner that peers do not reach answers a statement.
    pub(super) fn opened_by_inbox(&mut self, env: &mut Env, out: &Outbound, opened: Opened) {
        self.window.arrived(opened.next);
        self.resume_at = opened.resume_at;
        let waits = |number| out.open.contains_key(&number) && !self.heard.contains(&number);
        if opened.resume_at.is_some_and(|number| !waits(number)) {
            self.resume(env, out);
        }
        self.pump(env, out);
    }

    /// Peers or members changed: another owner has to be told who waits for what.
    pub(super) fn review_run(&mut self, env: &mut Env, out: &Outbound, lost: Option<NodeId>) {
        let is_lost = lost.is_some() && lost == self.run.owner;
        let is_other = self.run.owner != env.desired_owner(&self.to);
        if (is_lost || is_other) && !self.run.is_broken {
            env.cover(Transition::RouteInboxOwner);
            self.state_in_inbox(env, out);
        }
        self.probe(env, out);
    }

    /// The timer; tells whether it goes on this way.
    pub(super) fn tick_run(
        &mut self,
        env: &mut Env,
        out: &Outbound,
        lowest: Option<Number>,
    ) -> bool {
        let is_heard = self.run.unread.is_empty() && !self.run.is_broken;
        if out.open.is_empty() && !self.dirty && self.unsettled.is_empty() && is_heard {
            self.leave_inbox(env);
            self.phase = Phase::Idle;
            self.silent_since = None;
            self.timer = None;
            return false;
        }
        let patience = env.limits.append_timeout_ms.max(self.run.pause());
        let late = self.run.unread_since.saturating_add(patience) <= env.now;
        let is_due = self.run_due().is_some_and(|at| at <= env.now);
        if is_due || (late && !self.run.unread.is_empty() && !self.run.is_broken) {
            self.begin_run(env, out);
        } else if !self.run.is_broken {
            let stuck_at = self.run.stated_at + PERIODS_STUCK * env.limits.channel_timer_ms;
            let is_stuck = lowest.is_some() && lowest == self.lowest && stuck_at <= env.now;
            // Where nothing is read, what is appended does not help.
            let unread_at = self.run.unread_since.saturating_add(env.limits.channel_timer_ms);
            let is_read = self.run.unread.is_empty() || unread_at > env.now;
            if is_read && (self.dirty || is_stuck) {
                self.state_in_inbox(env, out);
            }
            self.probe(env, out);
        }
        true
    }
}

/// Whether its acceptance is told when it is durable in the inbox: of tells, which have no other answer. What has a key
/// may be refused for it, and the outcome of a start is asked for where it has been accepted.
pub(crate) fn is_promised(owed: &Owed) -> bool {
    matches!(owed, Owed::Invocation(i) if i.mode == Mode::Tell && i.key.is_none())
}
