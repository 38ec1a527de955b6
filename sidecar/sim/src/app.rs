//! The simulated component of each node: it runs turns by their scripts and makes clients'
//! requests.

use std::collections::BTreeMap;
use std::sync::Arc;

use kar_core::effect::{CancelReason, RequestError, Turn};
use kar_core::event::{Event, Offer, Operation, TailCall, TurnResult};
use kar_core::ids::{Millis, SessionId, TurnToken};
use kar_core::invocation::{ApplicationError, Mode, Outcome, StateCondition, Work};
use kar_core::record::RecordedStep;

use crate::history::{Answer, End, Item, ItemKind, Run, Seen, Waiter};
use crate::plan::{HORIZON, MS};
use crate::rng::join;
use crate::script::{self, Spec, Step, number_payload};
use crate::world::{Due, Input, World};

/// An app's process, as its sidecar sees it.
#[derive(Clone, Debug, Default)]
pub(crate) struct App {
    /// Grows with every process.
    pub(crate) process: u64,
    pub(crate) alive: bool,
    /// The open stream.
    pub(crate) session: Option<SessionId>,
    /// It said goodbye.
    pub(crate) leaving: bool,
    /// The newest stream, open or not.
    pub(crate) last_session: Option<SessionId>,
    /// A process said goodbye to this node, and may be gone by now.
    pub(crate) said_goodbye: bool,
    /// Runs that have not ended, of this stream.
    pub(crate) runs: BTreeMap<TurnToken, usize>,
}

/// What a sidecar tells its app.
#[derive(Clone, Debug)]
pub(crate) enum ToApp {
    Run(usize),
    Cancel(usize),
    Answer(Waiter, Answer),
    Direct(u64),
}

impl World {
    /// A new process of a slot's app, or a new stream of the one that lives.
    pub(crate) fn app_up(&mut self, slot: usize) {
        if self.slots[slot].node.is_none() || self.slots[slot].app.session.is_some() {
            return;
        }
        self.sessions += 1;
        let session = SessionId(self.sessions);
        let plan = &self.plan.slots[slot];
        let offer = Offer {
            kinds: plan.kinds.iter().map(|k| self.plan.names.kinds[*k].clone()).collect(),
            concurrency: plan.concurrency,
            strict: plan.strict,
            shared: plan.shared(&self.plan.names),
            deactivates: plan.deactivates(&self.plan.names),
            retries: self.plan.policies.offered(&self.plan.names, &plan.kinds),
        };
        let app = &mut self.slots[slot].app;
        if !app.alive {
            app.alive = true;
            app.process += 1;
        }
        app.session = Some(session);
        app.last_session = Some(session);
        app.leaving = false;
        self.say(|| format!("n{slot} app up {session:?}"));
        self.app_says(slot, Input::Event(Event::HostUp { session, offer }));
    }

    /// The app's process ends; nothing of it runs on.
    pub(crate) fn app_dies(&mut self, slot: usize) {
        self.say(|| format!("n{slot} app dies"));
        self.slots[slot].app.alive = false;
        let last = self.slots[slot].app.last_session.take();
        let at = self.now;
        let lost: Vec<usize> = (0..self.history.runs.len())
            .filter(|r| self.history.runs[*r].slot == slot && self.runs_now(*r))
            .collect();
        for run in lost {
            self.finish_run(run, End::CutOff, at);
        }
        if let (Some(session), None) = (last, self.slots[slot].app.session)
            && self.slots[slot].node.is_some()
        {
            // Its stream had broken before: that nothing of it runs is known only now.
            self.app_says(slot, Input::Event(Event::HostDown { session, dead: true }));
        }
        self.stream_ends(slot, true);
    }

    /// Whether a run's code is under way.
    fn runs_now(&self, run: usize) -> bool {
        let run = &self.history.runs[run];
        run.started.is_some() && run.ended.is_none()
    }

    /// The stream between a sidecar and its app is gone. Code under way runs on for a while if its
    /// process lives.
    pub(crate) fn stream_ends(&mut self, slot: usize, dead: bool) {
        let Some(session) = self.slots[slot].app.session.take() else { return };
        let runs = std::mem::take(&mut self.slots[slot].app.runs);
        for run in runs.into_values() {
            self.history.runs[run].connected = false;
            let at = self.now + self.rng.range(0, self.plan.profile.run_on_max);
            self.push(at, Due::StopRun { run });
        }
        for waiter in self.slots[slot].waiters.clone().into_iter().enumerate() {
            let (request, Waiter::Client(req)) = waiter else { continue };
            let req = &mut self.history.reqs[req];
            if req.session == session && req.answers.is_empty() && !req.abandoned {
                req.abandoned = true;
                let request = kar_core::ids::RequestId(request as u64);
                self.app_says(slot, Input::Event(Event::Abandoned { request }));
            }
        }
        if self.slots[slot].node.is_some() {
            self.app_says(slot, Input::Event(Event::HostDown { session, dead }));
        }
    }

    /// Puts something on the route from app to sidecar.
    pub(crate) fn app_says(&mut self, slot: usize, input: Input) {
        let wanted = self.now + self.rng.range(20, 150);
        let at = self.slots[slot].from_app.arrive(wanted);
        self.input(at, slot, input);
    }

    /// Puts something on the route from sidecar to app.
    pub(crate) fn tell_app(&mut self, slot: usize, session: SessionId, what: ToApp) {
        let wanted = self.now + self.rng.range(20, 150);
        let at = self.slots[slot].to_app.arrive(wanted);
        self.push(at, Due::App { slot, session, what });
    }

    /// The app takes something from its stream.
    pub(crate) fn app_hears(&mut self, slot: usize, session: SessionId, what: ToApp) {
        if self.slots[slot].app.session != Some(session) {
            return;
        }
        match what {
            ToApp::Run(run) => self.start_run(slot, run),
            ToApp::Cancel(run) => self.cancel_run(run),
            ToApp::Direct(turn) => {
                let at = self.now + self.rng.range(50, 5 * MS);
                self.push(at, Due::DirectDone { slot, session, turn });
            }
            ToApp::Answer(Waiter::Client(req), answer) => self.client_hears(req, &answer),
            ToApp::Answer(Waiter::Turn(run, item), answer) => self.turn_hears(run, item, &answer),
        }
    }

    /// A node dispatches a turn: it gets its place in the history and its script.
    pub(crate) fn dispatch(&mut self, slot: usize, session: SessionId, turn: Turn) {
        let names = &self.plan.names;
        let is_told = turn.work == Work::Deactivate;
        let spec = if is_told { self.deactivation(&turn.token) } else { Spec::read(&turn.payload) };
        let kind = names.kind(&turn.kind);
        let actor = turn.actor.as_ref().map(|a| names.actor(a));
        let own = actor.map(|a| (kind, a));
        let mut script = match self.hooks.script.as_ref().and_then(|h| h(&spec, &turn.token)) {
            Some(script) => script,
            None => {
                script::write(names, &self.plan.profile, self.plan.seed, spec, &turn.token, own)
            }
        };
        if is_told {
            // It has no next step.
            script.tail = None;
        }
        let run = self.history.runs.len();
        let unheeding = self.rng.chance(400);
        self.say(|| {
            let actor = actor.map_or(String::new(), |a| format!("x{a}"));
            format!("n{slot} dispatch r{run} {} {actor} tag {:x}", turn.token, spec.tag)
        });
        self.history.runs.push(Run {
            slot,
            node: self.slots[slot].id,
            session,
            token: turn.token,
            is_told,
            activation: turn.activation,
            spec,
            kind,
            actor,
            recorded: turn.recorded_steps,
            started: None,
            ended: None,
            end: End::Running,
            items: Vec::new(),
            cancel_sent: None,
            result_taken: None,
            script,
            next: 0,
            pending: 0,
            cancelled: false,
            unheeding,
            connected: true,
        });
        self.note(Seen::Dispatched { run });
        self.tell_app(slot, session, ToApp::Run(run));
    }

    /// What a turn does that deactivates an actor. Seldom something that wakes others, which are deactivated, too:
    /// there would be no end; and in the end never, so that the run comes to rest.
    fn deactivation(&self, token: &TurnToken) -> Spec {
        let uuid = token.invocation.uuid.0;
        let tag = join(uuid as u64, join((uuid >> 64) as u64, 0x6465_6163));
        let fuel = u8::from(self.now < HORIZON && tag & 7 == 0);
        Spec { tag, fuel, steady: tag & 8 != 0, ..Spec::default() }
    }

    /// A node cancels a turn.
    pub(crate) fn cancel(
        &mut self,
        slot: usize,
        session: SessionId,
        token: &TurnToken,
        reason: CancelReason,
    ) {
        self.say(|| format!("n{slot} cancel {token} {reason:?}"));
        let found = self
            .history
            .runs
            .iter()
            .rposition(|r| r.slot == slot && r.session == session && r.token == *token);
        let Some(run) = found else {
            self.broken.push(format!("cancel of {token}, which was never dispatched"));
            return;
        };
        let at = self.now;
        match reason {
            CancelReason::Superseded => {
                self.history.runs[run].cancel_sent.get_or_insert(at);
                self.tell_app(slot, session, ToApp::Cancel(run));
            }
            // It may stop, or go on.
            CancelReason::Requested if self.rng.chance(600) => {
                self.tell_app(slot, session, ToApp::Cancel(run));
            }
            CancelReason::Requested => {}
        }
    }

    fn start_run(&mut self, slot: usize, run: usize) {
        self.history.runs[run].started = Some(self.now);
        let token = self.history.runs[run].token.clone();
        self.slots[slot].app.runs.insert(token, run);
        let at = self.now + self.rng.range(10, 200);
        self.push(at, Due::Step { run });
    }

    /// A turn is to stop: it does so after a while, whatever it does until then.
    pub(crate) fn cancel_run(&mut self, run: usize) {
        if !self.runs_now(run) || self.history.runs[run].cancelled {
            return;
        }
        self.history.runs[run].cancelled = true;
        let at = self.now + self.rng.range(0, self.plan.profile.run_on_max);
        self.push(at, Due::StopRun { run });
    }

    /// The code of a cut-off turn ends at last.
    pub(crate) fn stop_run(&mut self, run: usize) {
        if !self.runs_now(run) {
            return;
        }
        let at = self.now;
        if self.history.runs[run].connected {
            self.end_turn(run, TurnResult::Cancelled, End::Cancelled);
        } else {
            self.finish_run(run, End::CutOff, at);
        }
    }

    fn end_turn(&mut self, run: usize, result: TurnResult, end: End) {
        let (slot, token) = (self.history.runs[run].slot, self.history.runs[run].token.clone());
        self.say(|| format!("n{slot} app r{run} {token} -> {end:?}"));
        self.slots[slot].app.runs.remove(&token);
        let at = self.now;
        self.finish_run(run, end, at);
        self.app_says(slot, Input::Result { run, token, result });
    }

    fn finish_run(&mut self, run: usize, end: End, at: u64) {
        let record = &mut self.history.runs[run];
        record.end = end;
        record.ended = Some(at);
    }

    /// A turn goes on with its script.
    pub(crate) fn step(&mut self, run: usize) {
        while self.runs_now(run) {
            let record = &mut self.history.runs[run];
            if record.pending > 0 {
                return;
            }
            let Some(step) = record.script.steps.get(record.next).cloned() else {
                return self.returns(run);
            };
            record.next += 1;
            let pipelined = record.script.pipelined;
            match step {
                Step::Think(us) => {
                    let at = self.now + us;
                    return self.push(at, Due::Step { run });
                }
                Step::State(op) => self.ask(run, ItemKind::State(op), Mode::Tell, None, !pipelined),
                Step::If(key, op) => {
                    self.ask(run, ItemKind::If(key, op), Mode::Tell, None, true);
                }
                Step::Read(key) => self.ask(run, ItemKind::Read(key), Mode::Tell, None, true),
                Step::Once(key) if record.recorded.contains_key(&key) => {}
                Step::Once(key) => self.ask(run, ItemKind::Once(key), Mode::Tell, None, true),
                Step::Keyed(calls) => {
                    for (target, spec, key) in calls {
                        let kind = ItemKind::Call(spec.tag, target);
                        self.ask_with(run, kind, Mode::Call, Some(spec), true, Some(key));
                    }
                }
                Step::Flush => self.ask(run, ItemKind::Flush, Mode::Tell, None, true),
                Step::Remind(remind) => {
                    self.ask(run, ItemKind::Remind(remind), Mode::Tell, None, !pipelined);
                }
                Step::Publish(to) => {
                    self.ask(run, ItemKind::Publish(to), Mode::Tell, None, !pipelined);
                }
                Step::Tell(target, spec) => {
                    let kind = ItemKind::Tell(spec.tag, target);
                    self.ask(run, kind, Mode::Tell, Some(spec), !pipelined);
                }
                Step::Leave(calls) => {
                    for (target, spec) in calls {
                        let kind = ItemKind::Call(spec.tag, target);
                        self.ask(run, kind, Mode::Call, Some(spec), false);
                    }
                }
                Step::Calls(calls, beside) => {
                    if !beside.is_empty() {
                        let at = self.now + self.rng.range(10, self.plan.profile.think_max * 4);
                        self.push(at, Due::Beside { run, steps: beside });
                    }
                    for (target, spec) in calls {
                        let kind = ItemKind::Call(spec.tag, target);
                        self.ask(run, kind, Mode::Call, Some(spec), true);
                    }
                }
            }
        }
    }

    /// Another branch of a turn does something, if the calls that it runs beside have not all ended.
    pub(crate) fn beside(&mut self, run: usize, steps: Vec<Step>) {
        let items = &self.history.runs[run].items;
        let calls =
            items.iter().any(|i| matches!(i.what, ItemKind::Call(..)) && i.answer.is_none());
        if !self.runs_now(run) || !calls {
            return;
        }
        for step in steps {
            match step {
                Step::State(op) => self.ask(run, ItemKind::State(op), Mode::Tell, None, true),
                Step::Read(key) => self.ask(run, ItemKind::Read(key), Mode::Tell, None, true),
                _ => self.ask(run, ItemKind::Flush, Mode::Tell, None, true),
            }
        }
    }

    /// A turn comes to its end.
    fn returns(&mut self, run: usize) {
        let record = &self.history.runs[run];
        let token = &record.token;
        let uuid = token.invocation.uuid.0;
        let turn = join(u64::from(token.step), u64::from(token.attempt));
        let number = join(join(uuid as u64, token.epoch), turn);
        let payload = number_payload(&self.plan.names, number);
        let outcome = if record.script.fails {
            let empty = &self.plan.names.empty;
            let (code, message, detail) = (empty.clone(), empty.clone(), empty.clone());
            let retryable = record.script.retryable;
            Outcome::Failed(ApplicationError { code, message, detail, payload, retryable })
        } else {
            Outcome::Done(payload)
        };
        if !record.connected {
            let at = self.now;
            return self.finish_run(run, End::CutOff, at);
        }
        if let Some((target, spec, keeps_lock)) = record.script.tail.clone() {
            let what = ItemKind::Tail(spec.tag);
            let item =
                Item { what, waited: false, beside: false, arrived: None, answer: None, key: None };
            self.history.runs[run].items.push(item);
            let (method, payload) = (
                self.plan.names.method_of(spec.tag, target.actor.is_some()),
                spec.payload(&self.plan.names),
            );
            let call = TailCall { target, method, payload, keeps_lock };
            let end = End::Tail(spec.tag, keeps_lock);
            return self.end_turn(run, TurnResult::TailCall(call), end);
        }
        self.end_turn(run, TurnResult::Ended(outcome.clone()), End::Ended(outcome));
    }

    /// One in sixteen of what turns invoke has a deadline, up to 200 ms.
    fn nested_deadline(&self, tag: u64) -> Option<Millis> {
        tag.is_multiple_of(16).then(|| self.millis(self.now) + 1 + (tag >> 8) % 200)
    }

    /// A turn asks its sidecar for something.
    fn ask(&mut self, run: usize, what: ItemKind, mode: Mode, spec: Option<Spec>, waits: bool) {
        self.ask_with(run, what, mode, spec, waits, None);
    }

    /// The same, with the step key of a call.
    fn ask_with(
        &mut self,
        run: usize,
        what: ItemKind,
        mode: Mode,
        spec: Option<Spec>,
        waits: bool,
        key: Option<Arc<str>>,
    ) {
        let record = &self.history.runs[run];
        let turn = record.token.clone();
        let (slot, connected) = (record.slot, record.connected);
        let names = &self.plan.names;
        let deadline = spec.and_then(|spec| self.nested_deadline(spec.tag));
        let operation = match &what {
            ItemKind::State(op) => {
                Operation::StateApply { turn, ops: vec![op.clone()], conditions: Vec::new() }
            }
            ItemKind::If(key, op) => {
                let condition = StateCondition { after: 0, key: key.clone(), value: None };
                Operation::StateApply { turn, ops: vec![op.clone()], conditions: vec![condition] }
            }
            ItemKind::Read(reading) => Operation::StateRead { turn, select: reading.select(names) },
            ItemKind::Flush => Operation::Flush { turn },
            ItemKind::Remind(remind) => {
                let Some(actor) = record.actor else { return };
                let (kind, actor) = (names.kinds[record.kind].clone(), names.actors[actor].clone());
                remind.operation(names, self.millis(self.now), Some(turn), (kind, actor))
            }
            ItemKind::Once(key) => {
                // No two requests of a run give the same value.
                let number = join(run as u64, record.items.len() as u64);
                let payload = number_payload(names, number);
                let step = RecordedStep { key: key.clone(), payload };
                Operation::RecordStep { turn, step }
            }
            ItemKind::Publish(to) => {
                let events = self.publications((run, record.items.len()), to);
                Operation::Publish { turn, events }
            }
            // It is how a turn ends.
            ItemKind::Tail(..) => return,
            ItemKind::Tell(_, target) | ItemKind::Call(_, target) => Operation::Invoke {
                turn: Some(turn),
                mode,
                target: target.clone(),
                method: names.method_of(spec.unwrap_or_default().tag, target.actor.is_some()),
                payload: spec.unwrap_or_default().payload(names),
                deadline,
                trace: names.empty.clone(),
                step_key: key.clone(),
                retry: self.plan.policies.of_tag(spec.unwrap_or_default().tag),
                key: None,
            },
        };
        let record = &mut self.history.runs[run];
        // A turn itself asks for nothing while it waits.
        let beside = record.pending > 0 && !matches!(what, ItemKind::Call(..));
        record.items.push(Item { what, waited: waits, beside, arrived: None, answer: None, key });
        let item = record.items.len() - 1;
        if waits {
            record.pending += 1;
        }
        // Without a stream nothing gets through; the code hangs until it notices.
        if connected {
            self.say(|| format!("n{slot} app r{run}.{item} {operation:?}"));
            self.app_says(slot, Input::Ask { waiter: Waiter::Turn(run, item), operation });
        }
    }

    fn turn_hears(&mut self, run: usize, item: usize, answer: &Answer) {
        if !self.runs_now(run) {
            return;
        }
        let stop =
            matches!(answer, Err(RequestError::TurnSuperseded(_) | RequestError::TurnEnded(_)));
        let record = &mut self.history.runs[run];
        let waited = record.items[item].waited;
        if stop && !record.unheeding {
            return self.end_turn(run, TurnResult::Cancelled, End::Cancelled);
        }
        if stop && !record.cancelled {
            // It does not heed the refusal, but no longer than a cancelled one would.
            self.cancel_run(run);
        }
        let record = &mut self.history.runs[run];
        if waited {
            record.pending -= 1;
            if record.pending == 0 {
                let at = self.now + self.rng.range(10, 100);
                self.push(at, Due::Step { run });
            }
        }
    }
}
