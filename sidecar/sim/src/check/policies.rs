//! Cancelling, retries of errors, parking: who may end what, and which attempts may follow.

use kar_core::effect::{RequestError, Response};
use kar_core::ids::{Epoch, Millis, NodeId, Offset, PartitionId, Uuid};
use kar_core::invocation::{Outcome, RetryPolicy};
use kar_core::message::{Control, Controlled, Found};
use kar_core::trouble::{Cause, Ended};

use super::Judge;
use super::logs::{Closing, Held, QueuedBy};
use crate::history::{Answer, End, Run};
use crate::plan::{MS, SKEW_MAX_MS, Us};
use crate::world::BASE_MS;

/// What has been lost so often is given a pause.
const LOST_AT_ONCE: u32 = 3;

/// What a log says of an invocation beside its attempts.
#[derive(Clone, Debug, Default)]
pub(crate) struct Standing {
    /// Somebody asked for its end: the reign that logged it.
    cancel: Option<Epoch>,
    /// It rests: the reign that logged it, and when.
    parked: Option<(Epoch, Us)>,
    /// It has rested before.
    resumed: bool,
    failures: u32,
    losses: u32,
    /// The log says that its first attempt begins.
    pub(crate) marked: bool,
    /// How often it was parked since operators were told.
    untold: u32,
    /// The last attempt that ended without ending it, and when the next one may start.
    last: Option<(u32, Millis)>,
}

impl Standing {
    /// It rests.
    pub(crate) fn is_parked(&self) -> bool {
        self.parked.is_some()
    }

    /// It has rested, and goes on: behind others that it was in front of.
    pub(crate) fn was_resumed(&self) -> bool {
        self.resumed
    }

    /// A tail call: the next step begins anew, but for the request to end.
    pub(crate) fn next_step(&mut self) {
        *self = Self { cancel: self.cancel, untold: self.untold, ..Self::default() };
    }

    /// Operators are told that it is parked; whether it is, and they were not.
    pub(crate) fn tell_parked(&mut self) -> bool {
        let was = self.untold > 0;
        self.untold = self.untold.saturating_sub(1);
        was
    }
}

impl Judge<'_> {
    /// The policy of an invocation where it runs; by default nothing is retried.
    fn policy_of(&self, log: usize, uuid: Uuid) -> RetryPolicy {
        let tag = self.tag_of_uuid.get(&uuid).copied().unwrap_or_default();
        let kind = self.history.names.kind(&self.logs[log].id.kind);
        let once =
            RetryPolicy { attempts_max: 1, initial_ms: 0, max_ms: 0, multiplier_percent: 100 };
        let policies = &self.history.policies;
        // Reminders do not say how their firings are retried.
        let firing = self.is_firing(uuid);
        // Subscriptions say it for all that they deliver.
        if let Some(own) = self.subscribed_policy(uuid) {
            return own.or_else(|| policies.of_kind(kind)).unwrap_or(once);
        }
        let policy = if firing { policies.of_kind(kind) } else { policies.of(tag, kind) };
        policy.unwrap_or(once)
    }

    /// Whether somebody had asked for an invocation's end by now.
    pub(crate) fn asked_to_cancel(&self, uuid: Uuid) -> bool {
        self.asked_for(Control::Cancel(uuid))
    }

    /// Whether an invocation has flushed, and holds its actor.
    pub(crate) fn holds(&self, log: usize, uuid: Uuid) -> bool {
        let mut actors = self.logs[log].actors.values();
        actors.any(|actor| actor.stack.contains(&uuid) || actor.company.contains(&uuid))
    }

    /// No attempt starts after the request for an end is logged, nor while its invocation is parked, nor before its
    /// pause is over.
    pub(crate) fn check_policy(&mut self, run: usize, record: &Run, log: usize, uuid: Uuid) {
        let Some(held) = self.logs[log].held.get(&uuid) else { return };
        let (standing, epoch) = (held.policy.clone(), record.token.epoch);
        if held.step != record.token.step {
            return;
        }
        let by = |reign: Option<Epoch>| reign.is_some_and(|reign| reign <= epoch);
        if by(standing.cancel) {
            let text = format!("r{run} {} after somebody asked for its end", record.token);
            self.wrong("cancelled never starts", text);
        }
        if by(standing.parked.map(|(epoch, _)| epoch)) {
            self.wrong("parked rests", format!("r{run} {} is parked", record.token));
        }
        let now = BASE_MS + self.now / MS;
        if let Some((attempt, not_before)) = standing.last
            && record.token.attempt > attempt
            && now + SKEW_MAX_MS < not_before
        {
            let text = format!("r{run} {} at {now}, not before {not_before}", record.token);
            self.wrong("retries pause", text);
        }
    }

    /// Whether the log says that a turn's attempt ended, and is followed by another one.
    pub(crate) fn is_retried(&self, log: usize, run: &Run) -> bool {
        let held = self.logs[log].held.get(&run.token.invocation.uuid);
        let last = held.filter(|h| h.step == run.token.step).and_then(|h| h.policy.last);
        last.is_some_and(|(attempt, _)| attempt >= run.token.attempt)
    }

    /// A log says how an attempt ended that did not end its invocation.
    pub(crate) fn attempt_ended(&mut self, log: usize, offset: Offset, uuid: Uuid, ended: &Ended) {
        let policy = self.policy_of(log, uuid);
        let model = &mut self.logs[log];
        let (id, epoch) = (model.id.clone(), model.epoch);
        let Some(held) = model.held.get_mut(&uuid) else { return };
        let (step, attempt) = (held.step, held.attempt);
        if held.policy.last.is_some_and(|(known, _)| known == attempt) {
            return;
        }
        held.policy.last = Some((attempt, 0));
        match ended.cause {
            Cause::HostLost => {
                held.policy.losses += 1;
                // A later attempt is in the log before it begins.
                let told = held.policy.marked || attempt > 1;
                if !told && !self.ever_dispatched(log, uuid, step) {
                    let text = format!("{id}@{offset}: {uuid} has never begun");
                    self.wrong("only what began is lost", text);
                }
            }
            Cause::ApplicationError => {
                held.policy.failures += 1;
                held.policy.last = Some((attempt, ended.not_before));
                let failures = held.policy.failures;
                self.counts.errors_retried += 1;
                let run = self.dispatched.get(&(log, uuid, step, attempt, epoch)).copied();
                let error = run.and_then(|run| match &self.history.runs[run].end {
                    End::Ended(Outcome::Failed(error)) => Some(error),
                    _ => None,
                });
                if error.is_none_or(|error| !error.retryable) {
                    let text = format!("{id}@{offset}: {uuid} attempt {attempt} had no such error");
                    self.wrong("retried only if asked", text);
                }
                if failures >= policy.attempts_max {
                    let text = format!("{id}@{offset}: {uuid} after {failures} of {policy:?}");
                    self.wrong("retries are bounded", text);
                }
                let from = run.and_then(|run| self.history.runs[run].ended).unwrap_or_default();
                let least = policy.initial_ms.min(policy.max_ms);
                if ended.not_before < BASE_MS + from / MS + least {
                    let text = format!("{id}@{offset}: {uuid} by {policy:?}: {ended:?}");
                    self.wrong("retries pause", text);
                }
            }
            Cause::ReignLost | Cause::HandOver | Cause::Stopped => {}
        }
    }

    /// Another attempt follows one that was lost: after its pause, and not where so many were lost that it rests.
    pub(crate) fn attempt_follows(
        &mut self,
        (log, offset): (usize, Offset),
        (uuid, next): (Uuid, u32),
        ended: &Ended,
    ) {
        let model = &self.logs[log];
        let (id, clock) = (&model.id, model.time);
        let Some(held) = model.held.get(&uuid).filter(|held| next > held.attempt) else { return };
        let (losses, failures) = (held.policy.losses, held.policy.failures);
        let was_lost = ended.cause != Cause::ApplicationError;
        let mut wrong = Vec::new();
        if was_lost && clock < ended.not_before {
            let text = format!("{id}@{offset}: {uuid} attempt {next} at {clock}: {ended:?}");
            wrong.push(("retries pause", text));
        }
        if was_lost && held.attempt >= failures + LOST_AT_ONCE && ended.not_before == 0 {
            let text = format!("{id}@{offset}: {uuid} attempt {next} begins at once: {ended:?}");
            wrong.push(("retries pause", text));
        }
        let is_poison = ended.cause == Cause::HostLost && losses >= self.history.park_after;
        if is_poison && held.policy.cancel.is_none() {
            let text = format!("{id}@{offset}: {uuid} goes on after {losses} lost hosts");
            wrong.push(("poison rests", text));
        }
        for (rule, text) in wrong {
            self.wrong(rule, text);
        }
    }

    /// Whether some reign has dispatched the first attempt of a step.
    fn ever_dispatched(&self, log: usize, uuid: Uuid, step: u32) -> bool {
        let reigns = self.logs[log].reigns.iter();
        reigns.map(|r| (log, uuid, step, 1, r.epoch)).any(|key| self.dispatched.contains_key(&key))
    }

    /// An error that is the outcome was not to be retried (any more).
    pub(crate) fn check_last_error(
        &mut self,
        log: usize,
        offset: Offset,
        uuid: Uuid,
        closing: &Closing,
    ) {
        let Closing::Outcome(Outcome::Failed(error)) = closing else { return };
        if self.is_deactivation(uuid) {
            // Nobody asked for it, so nobody asked for its retries.
            return;
        }
        let policy = self.policy_of(log, uuid);
        let standing = self.logs[log].held.get(&uuid).map(|held| held.policy.clone());
        let Some(Standing { failures, cancel, .. }) = standing else { return };
        if error.retryable && failures + 1 < policy.attempts_max && cancel.is_none() {
            let id = &self.logs[log].id;
            let text = format!("{id}@{offset}: {uuid} after {failures} of {policy:?}");
            self.wrong("retries as asked", text);
        }
    }

    /// An invocation ends as cancelled: because somebody asked, and without code that goes on.
    pub(crate) fn check_cancelled(&mut self, log: usize, offset: Offset, uuid: Uuid) {
        self.counts.cancelled += 1;
        if !self.asked_to_cancel(uuid) {
            let text =
                format!("{}@{offset}: nobody asked for the end of {uuid}", self.logs[log].id);
            self.wrong("cancelled only if asked", text);
        }
    }

    pub(crate) fn cancel_landed(&mut self, log: usize, offset: Offset, uuid: Uuid) {
        if !self.asked_to_cancel(uuid) {
            let text =
                format!("{}@{offset}: nobody asked for the end of {uuid}", self.logs[log].id);
            self.wrong("cancelled only if asked", text);
        }
        let model = &mut self.logs[log];
        let epoch = model.epoch;
        if let Some(held) = model.held.get_mut(&uuid) {
            held.policy.cancel.get_or_insert(epoch);
        }
    }

    pub(crate) fn parked(&mut self, log: usize, offset: Offset, uuid: Uuid) {
        self.counts.parked += 1;
        let (least, now) = (self.history.park_after, self.now);
        let model = &mut self.logs[log];
        let (id, epoch) = (model.id.clone(), model.epoch);
        let Some(held) = model.held.get_mut(&uuid) else { return };
        held.policy.parked = Some((epoch, now));
        held.policy.untold += 1;
        // Others pass it.
        held.queued_by = QueuedBy::Operator;
        let losses = held.policy.losses;
        if losses < least {
            let text = format!("{id}@{offset}: {uuid} after {losses} lost attempts, not {least}");
            self.wrong("parked only after losses", text);
        }
    }

    pub(crate) fn resumed(&mut self, log: usize, offset: Offset, uuid: Uuid) {
        if !self.asked_for(Control::Resume(uuid)) {
            let text = format!("{}@{offset}: nobody asked for {uuid}", self.logs[log].id);
            self.wrong("resumed only if asked", text);
        }
        if let Some(held) = self.logs[log].held.get_mut(&uuid) {
            held.policy.parked = None;
            held.policy.resumed = true;
            held.policy.losses = 0;
        }
    }

    /// What a dead letter that was sent again was when it was told first.
    pub(crate) fn original(&self, uuid: Uuid) -> Uuid {
        let mut uuid = uuid;
        while let Some(before) = self.redriven.get(&uuid) {
            uuid = *before;
        }
        uuid
    }

    /// A dead letter is sent again: once, and only if somebody asked.
    pub(crate) fn redriven(&mut self, log: usize, offset: Offset, uuid: Uuid, new: Uuid) {
        self.counts.redriven += 1;
        let asked = self.asked_for(Control::Redrive(uuid));
        let model = &mut self.logs[log];
        let id = model.id.clone();
        let held = model.held.get(&uuid).cloned();
        if !model.dead.remove(&uuid) || !asked || model.held.contains_key(&new) {
            let text = format!("{id}@{offset}: {uuid} as {new}, asked: {asked}");
            self.wrong("redriven once, and only if asked", text);
        }
        let Some(held) = held else { return };
        let again = Held {
            queued_by: QueuedBy::Operator,
            attempt: 1,
            ended: None,
            left: false,
            gone: false,
            policy: Standing::default(),
            ..held
        };
        self.logs[log].held.insert(new, again);
        self.redriven.insert(new, uuid);
        if let Some(tag) = self.tag_of_uuid.get(&uuid).copied() {
            self.tag_of_uuid.insert(new, tag);
        }
        if let Some(chain) = self.chains.get(&uuid).cloned() {
            self.chains.insert(new, chain);
        }
    }

    /// Dead letters are dropped: because somebody asked, or beyond the bounds.
    pub(crate) fn discarded(&mut self, log: usize, offset: Offset, uuids: &[Uuid]) {
        let id = self.logs[log].id.clone();
        for uuid in uuids {
            let was = self.logs[log].dead.remove(uuid);
            let surplus = self.logs[log].dead.len() >= self.history.dead_letters_max;
            if !was || !(surplus || self.asked_for(Control::Discard(*uuid))) {
                self.wrong("dead letters are kept", format!("{id}@{offset} drops {uuid}"));
            }
        }
    }

    fn asked_for(&self, wanted: Control) -> bool {
        self.history.reqs.iter().any(|req| {
            req.control.as_ref().is_some_and(|(_, control)| *control == wanted)
                && req.arrived.is_some_and(|at| at <= self.now)
        })
    }

    /// What was said about it is committed.
    pub(crate) fn check_control_answer(
        &mut self,
        (node, req): (NodeId, usize),
        home: &PartitionId,
        control: Control,
        answer: &Answer,
    ) {
        let asked = self.history.reqs[req].arrived;
        let held = self.logs[self.log_of(home)].held.get(&control.uuid());
        let ended = held.and_then(|h| h.ended.as_ref()).map(|ended| &ended.outcome);
        let fine = match answer {
            Ok(Response::Controlled(done)) => match (control, done) {
                (Control::Cancel(_), Controlled::Cancelled) => {
                    ended == Some(&Outcome::Cancelled) || held.is_some_and(|held| held.gone)
                }
                (Control::Cancel(_), Controlled::CancelRequested | Controlled::CancelMoved) => {
                    held.is_some_and(|held| held.policy.cancel.is_some())
                }
                (_, Controlled::Ended) => ended.is_some(),
                (Control::Resume(_), Controlled::Resumed | Controlled::NotParked) => {
                    // A parked one that is to end rests no more: it waits for its calls. It may have been parked again
                    // while the answer was on its way.
                    let since = held.and_then(|held| held.policy.parked).map(|(_, at)| at);
                    let rests = since.is_some_and(|at| asked.is_none_or(|asked| at <= asked));
                    held.is_some_and(|held| !rests || held.policy.cancel.is_some())
                }
                (Control::Redrive(uuid), Controlled::Redriven(new)) => {
                    self.redriven.get(new) == Some(&uuid)
                }
                (Control::Discard(uuid), Controlled::Discarded) => {
                    !self.logs[self.log_of(home)].dead.contains(&uuid)
                }
                // It may have gone on since.
                (Control::Inspect(_), Controlled::Found(found)) => match &**found {
                    Found::Unfinished(_) => held.is_some(),
                    Found::Ended(_) => ended.is_some(),
                    Found::Dead(letter) => ended == Some(&letter.outcome),
                },
                _ => false,
            },
            Err(RequestError::UnknownInvocation(_)) => match control {
                Control::Redrive(uuid) | Control::Discard(uuid) => {
                    !self.logs[self.log_of(home)].dead.contains(&uuid)
                }
                // It may have been accepted while the answer was on its way.
                _ => {
                    held.is_none_or(|held| held.is_over() || asked.is_none_or(|at| at < held.since))
                }
            },
            Err(RequestError::Unknown(_)) => true,
            Err(RequestError::Limit(_)) => self.history.small_limits,
            _ => false,
        };
        if !fine {
            let text = format!("{node:?} answers q{req} {control:?}: {answer:?}, of {held:?}");
            self.wrong("control answers", text);
        }
    }
}
