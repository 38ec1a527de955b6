//! The simulated world: a virtual clock, one queue of what is due, nodes with their apps, and what they act on.

use std::collections::{BTreeMap, VecDeque};

use kar_core::Node;
use kar_core::effect::Effect;
use kar_core::event::{Event, Member, Members, Operation, TurnResult};
use kar_core::ids::{Kind, Millis, NodeId, Offset, PartitionId, RequestId, SessionId, TurnToken};
use kar_core::message::Message;
use kar_core::node::NodeConfig;
use kar_core::record::Record;

use crate::app::{App, ToApp};
use crate::history::{Finish, History, Seen, Waiter};
use crate::log::{Fate, Landing, Reader, SimLog};
use crate::net::Net;
use crate::plan::{Fault, HORIZON, MS, Plan, Us};
use crate::queue::{Lane, Queue};
use crate::rng::Rng;
use crate::script::{Script, Spec};
use crate::store::{SimStore, StoreSays, StoreStep};

/// The virtual epoch, so that times look like times.
const BASE_MS: Millis = 1_700_000_000_000;

/// Everything must have come to rest so long after the faults ended.
pub(crate) const REST_MAX: Us = 20_000 * MS;

/// Greatest number of things that may happen in one run.
const EVENTS_MAX: u64 = 400_000;

/// What is due.
#[derive(Debug)]
pub(crate) enum Due {
    Boot { slot: usize },
    Input { slot: usize, inst: u64, input: Input },
    Drain { slot: usize, inst: u64 },
    Land(Landing),
    LogLost { slot: usize, inst: u64, log: usize },
    Serve { slot: usize, inst: u64, log: usize, generation: u64, from: Option<Offset> },
    Store { slot: usize, inst: u64, hub: u64, log: usize, step: StoreStep },
    App { slot: usize, session: SessionId, what: ToApp },
    AppUp { slot: usize },
    AppDies { slot: usize, process: u64 },
    Step { run: usize },
    StopRun { run: usize },
    DirectDone { slot: usize, session: SessionId, turn: u64 },
    Client(usize),
    Abandon { req: usize },
    Await { req: usize, slot: usize },
    Connect { a: usize, b: usize },
    Unregister { node: NodeId },
    Register { kind: Kind },
    Offered { node: NodeId, member: Member },
    Fault(usize),
    Sleep { slot: usize, inst: u64, us: Us },
    Wake { slot: usize, inst: u64, resumed: bool },
    Reincarnate { slot: usize, inst: u64 },
    Lease { slot: usize, inst: u64 },
    Stop { slot: usize, inst: u64 },
    GoodbyeOver { slot: usize, session: SessionId, back: Us },
}

/// What a node takes in.
#[derive(Debug)]
pub(crate) enum Input {
    Event(Event),
    Log { log: usize, generation: u64, event: Event },
    PeerUp { other: usize, generation: u64, node: NodeId },
    Peer { other: usize, generation: u64, sent: usize, from: NodeId, message: Message },
    Ask { waiter: Waiter, operation: Operation },
    Result { run: usize, token: TurnToken, result: TurnResult },
    Tick,
}

/// A place where nodes live one after the other, each with its app.
#[derive(Debug)]
pub(crate) struct Slot {
    /// Grows with every node; things meant for an older one are dropped.
    pub(crate) inst: u64,
    /// Incarnations by `inst`.
    pub(crate) ids: Vec<NodeId>,
    pub(crate) id: NodeId,
    pub(crate) node: Option<Box<Node>>,
    pub(crate) app: App,
    pub(crate) paused: bool,
    backlog: VecDeque<Input>,
    tick_at: Option<Us>,
    drain_queued: bool,
    /// Claims read since the effects were last looked at.
    claims_read: Vec<(usize, Offset)>,
    /// It was told to leave; it comes back so long after it has gone.
    pub(crate) leaves: Option<Us>,
    /// Who made the requests, by number.
    pub(crate) waiters: Vec<Waiter>,
    /// Appends issued.
    pub(crate) issue: u64,
    pub(crate) from_app: Lane,
    pub(crate) to_app: Lane,
    pub(crate) log_lane: Lane,
    members_lane: Lane,
    store_in: Lane,
    store_out: Lane,
}

type AppendHook = Box<dyn FnMut(usize, usize, &Record) -> Fate>;
type MessageHook = Box<dyn FnMut(usize, usize, &Message) -> Us>;
type ScriptHook = Box<dyn Fn(&Spec, &TurnToken) -> Option<Script>>;

/// Where a directed schedule takes part.
#[derive(Default)]
pub(crate) struct Hooks {
    /// The fate of an append: slot, log, record.
    pub(crate) append: Option<AppendHook>,
    /// Extra delay of a message: from, to, message.
    pub(crate) message: Option<MessageHook>,
    /// The script of a turn.
    pub(crate) script: Option<ScriptHook>,
}

/// The world.
pub(crate) struct World {
    pub(crate) plan: Plan,
    pub(crate) rng: Rng,
    pub(crate) now: Us,
    queue: Queue<Due>,
    pub(crate) slots: Vec<Slot>,
    pub(crate) net: Net,
    pub(crate) logs: Vec<SimLog>,
    pub(crate) log_ids: Vec<PartitionId>,
    log_numbers: BTreeMap<PartitionId, usize>,
    pub(crate) stores: Vec<SimStore>,
    members: Members,
    next_id: u64,
    /// Grows when the hub is replaced.
    pub(crate) hub: u64,
    pub(crate) sessions: u64,
    pub(crate) history: History,
    pub(crate) history_lost: u64,
    pub(crate) faults_on: bool,
    /// What the core did that no driver could carry out.
    pub(crate) broken: Vec<String>,
    pub(crate) hooks: Hooks,
    trace: bool,
    steps: u64,
}

impl World {
    /// A world at its beginning.
    pub(crate) fn new(plan: Plan, trace: bool) -> Self {
        let mut rng = Rng::new(plan.seed ^ 0x0077_6f72_6c64);
        let mut log_ids = Vec::new();
        for (kind, count) in plan.names.kinds.iter().zip(&plan.names.counts) {
            log_ids.extend((0..*count).map(|index| PartitionId::new(kind.clone(), index)));
        }
        let mut members = Members::default();
        if plan.kinds_known {
            let known = plan.names.kinds.iter().cloned().zip(plan.names.counts.iter().copied());
            members.kinds = known.collect();
        }
        let slots = plan.slots.len();
        let log = SimLog { entries: Vec::new(), readers: vec![Reader::default(); slots] };
        let keep_past = plan.faults.iter().any(|(_, f)| matches!(f, Fault::Rollback { .. }));
        let store = SimStore { keep_past, ..SimStore::default() };
        let mut queue = Queue::new();
        for (slot, plan) in plan.slots.iter().enumerate() {
            queue.push(&mut rng, plan.joins_at, Due::Boot { slot });
        }
        for (index, op) in plan.ops.iter().enumerate() {
            queue.push(&mut rng, op.at, Due::Client(index));
        }
        for (index, (at, _)) in plan.faults.iter().enumerate() {
            queue.push(&mut rng, *at, Due::Fault(index));
        }
        let history = History {
            names: plan.names.clone(),
            small_limits: plan.small_limits,
            heeding: plan.profile.run_on_max <= crate::plan::RUN_ON_MAX,
            strict: plan.slots.iter().map(|s| s.strict).collect(),
            events: Vec::new(),
            runs: Vec::new(),
            reqs: Vec::new(),
            finish: Finish::default(),
        };
        Self {
            rng,
            now: 0,
            queue,
            slots: (0..slots).map(|_| Slot::empty()).collect(),
            net: Net::new(slots),
            logs: vec![log; log_ids.len()],
            log_numbers: log_ids.iter().cloned().enumerate().map(|(i, p)| (p, i)).collect(),
            stores: vec![store; log_ids.len()],
            log_ids,
            members,
            next_id: 0,
            hub: 0,
            sessions: 0,
            history,
            history_lost: 0,
            faults_on: true,
            broken: Vec::new(),
            hooks: Hooks::default(),
            trace,
            steps: 0,
            plan,
        }
    }

    /// Prints a line of the trace, if there is one.
    pub(crate) fn say(&self, line: impl FnOnce() -> String) {
        if self.trace {
            println!("{:>10.3} {}", self.now as f64 / 1000.0, line());
        }
    }

    /// Writes to the history.
    pub(crate) fn note(&mut self, seen: Seen) {
        self.history.events.push((self.now, seen));
    }

    /// Puts something into the queue.
    pub(crate) fn push(&mut self, at: Us, due: Due) {
        self.queue.push(&mut self.rng, at, due);
    }

    /// Lets a node take something in later.
    pub(crate) fn input(&mut self, at: Us, slot: usize, input: Input) {
        let inst = self.slots[slot].inst;
        self.push(at, Due::Input { slot, inst, input });
    }

    /// The time that nodes know for a time of the world.
    pub(crate) fn millis(&self, at: Us) -> Millis {
        BASE_MS + at / MS
    }

    /// Now and then something takes some milliseconds longer.
    pub(crate) fn hiccup(&mut self) -> Us {
        if self.rng.chance(30) { self.rng.range(500, 5 * MS) } else { 0 }
    }

    /// The number of a partition's log.
    pub(crate) fn log_of(&self, partition: &PartitionId) -> usize {
        *self.log_numbers.get(partition).expect("only partitions of the plan are used")
    }

    /// Runs to the end: operations and faults, then rest.
    pub(crate) fn run(mut self) -> (History, Vec<String>) {
        self.run_until(HORIZON, |_| false);
        self.conclude()
    }

    /// Lets everything come to rest.
    pub(crate) fn conclude(mut self) -> (History, Vec<String>) {
        self.calm();
        let bound = self.now + REST_MAX;
        let mut next = self.now + 300 * MS;
        let mut calm_since = None;
        while self.now < bound && self.steps < EVENTS_MAX {
            self.run_until(next, |_| false);
            next = self.now + 50 * MS;
            if !self.is_quiet() {
                calm_since = None;
            } else if *calm_since.get_or_insert(self.now) + 450 * MS <= self.now {
                // Still at rest after everybody's timers have gone round.
                self.history.finish.quiet = true;
                break;
            }
        }
        self.finish();
        (self.history, self.broken)
    }

    /// Runs until a time, or until something holds; says whether it came to hold.
    pub(crate) fn run_until(&mut self, until: Us, holds: impl Fn(&Self) -> bool) -> bool {
        while self.steps < EVENTS_MAX {
            if holds(self) {
                return true;
            }
            match self.queue.next_at() {
                Some(at) if at <= until => {
                    let (at, due) = self.queue.pop().expect("it was just looked at");
                    self.now = self.now.max(at);
                    self.steps += 1;
                    self.happen(due);
                }
                _ => break,
            }
        }
        self.now = self.now.max(until);
        false
    }

    /// Ends all faults: whoever is away comes back.
    pub(crate) fn calm(&mut self) {
        self.say(|| "-- calm --".into());
        self.faults_on = false;
    }

    fn finish(&mut self) {
        let livelock = self.steps >= EVENTS_MAX;
        let views = |s: &Slot| s.node.as_ref().map(|n| (s.id, n.partitions(), n.roots_open()));
        self.history.finish.views = self.slots.iter().filter_map(views).collect();
        self.history.finish.stores = self.stores.iter().map(|s| s.now.clone()).collect();
        self.history.finish.livelock = livelock;
        self.history.finish.at = self.now;
    }

    /// Whether nothing is owed or under way anywhere.
    pub(crate) fn is_quiet(&self) -> bool {
        let up = |s: &Slot| {
            s.app.session.is_some() && !s.paused && s.leaves.is_none() && s.app.runs.is_empty()
        };
        let live = |node: NodeId| self.slots.iter().any(|s| s.node.is_some() && s.id == node);
        let answered =
            |req: &crate::history::Req| !req.answers.is_empty() || req.abandoned || !live(req.node);
        if !self.slots.iter().all(up) || !self.history.reqs.iter().all(answered) {
            return false;
        }
        if self.members.nodes.len() != self.slots.len() {
            return false;
        }
        let mut served = 0;
        let used = self.logs.iter().filter(|l| !l.entries.is_empty()).count();
        for node in self.slots.iter().filter_map(|s| s.node.as_ref()) {
            if node.roots_open() > 0 {
                return false;
            }
            for view in node.partitions() {
                served += 1;
                if !view.invocations.is_empty()
                    || view.owed > 0
                    || (crate::plan::JUDGE_KEPT && view.kept > 0)
                    || view.actors.iter().any(|a| a.2)
                {
                    return false;
                }
            }
        }
        served >= used
    }

    fn happen(&mut self, due: Due) {
        match due {
            Due::Boot { slot } => self.boot(slot),
            Due::Input { slot, inst, input } => self.take(slot, inst, input),
            Due::Drain { slot, inst } => {
                if self.slots[slot].inst == inst && !self.slots[slot].paused {
                    self.slots[slot].drain_queued = false;
                    self.drain(slot);
                }
            }
            Due::Land(landing) => self.land(landing),
            Due::LogLost { slot, inst, log } if self.is(slot, inst) => self.lose_log(slot, log),
            Due::Serve { slot, inst, log, generation, from } if self.is(slot, inst) => {
                self.serve(slot, log, generation, from);
            }
            Due::Store { slot, inst, hub, log, step } => self.store(slot, inst, hub, log, step),
            Due::App { slot, session, what } => self.app_hears(slot, session, what),
            Due::AppUp { slot } => self.app_up(slot),
            Due::AppDies { slot, process } => {
                if self.slots[slot].app.process == process && self.slots[slot].app.alive {
                    self.app_dies(slot);
                }
            }
            Due::Step { run } => self.step(run),
            Due::StopRun { run } => self.stop_run(run),
            Due::DirectDone { slot, session, turn } => self.direct_done(slot, session, turn),
            Due::Client(index) => self.client(index),
            Due::Abandon { req } => self.abandon(req),
            Due::Await { req, slot } => self.await_start(req, slot),
            Due::Connect { a, b } => self.connect(a, b),
            Due::Unregister { node } => self.unregister(node),
            Due::Register { kind } => self.register_kind(&kind),
            Due::Offered { node, member } => self.offered(node, member),
            Due::Fault(index) => {
                let fault = self.plan.faults[index].1.clone();
                self.inject(fault);
            }
            Due::Sleep { slot, inst, us } if self.is(slot, inst) => {
                let resumed = self.rng.chance(self.plan.profile.resumed);
                self.pause(slot, us, resumed, Some(0), MS);
            }
            Due::Wake { slot, inst, resumed } if self.is(slot, inst) => self.wake(slot, resumed),
            Due::Reincarnate { slot, inst } if self.is(slot, inst) => self.reincarnate(slot),
            Due::Lease { slot, inst } if self.is(slot, inst) => {
                self.input(self.now, slot, Input::Event(Event::Lease { valid: true }));
            }
            Due::Stop { slot, inst } if self.is(slot, inst) => self.stopped(slot),
            Due::GoodbyeOver { slot, session, back } => self.goodbye_over(slot, session, back),
            Due::LogLost { .. }
            | Due::Serve { .. }
            | Due::Sleep { .. }
            | Due::Wake { .. }
            | Due::Reincarnate { .. }
            | Due::Lease { .. }
            | Due::Stop { .. } => {}
        }
    }

    fn is(&self, slot: usize, inst: u64) -> bool {
        self.slots[slot].inst == inst && self.slots[slot].node.is_some()
    }

    /// A new node starts in a slot.
    pub(crate) fn boot(&mut self, slot: usize) {
        if self.slots[slot].node.is_some() {
            return;
        }
        self.next_id += 1;
        let id = NodeId(self.next_id);
        let seed = (u128::from(self.rng.next()) << 64) | u128::from(self.rng.next());
        let (limits, rules) = (self.plan.limits.clone(), self.plan.rules);
        let node = Node::new(NodeConfig { id, seed, limits, rules });
        self.slots[slot].occupy(id, Box::new(node));
        self.say(|| format!("n{slot} boots as {id:?}"));
        self.note(Seen::NodeUp { node: id });
        self.members.nodes.insert(id, Member::default());
        let members = Event::Members(self.members.clone());
        self.give(slot, members);
        self.publish();
        for other in 0..self.slots.len() {
            if other != slot {
                let at = self.now + self.rng.range(100, 2 * MS);
                self.push(at, Due::Connect { a: slot, b: other });
            }
        }
        let at = self.now + self.rng.range(100, 5 * MS);
        self.push(at, Due::AppUp { slot });
    }

    /// A node is no more. Its app, its connections and its membership are other matters.
    pub(crate) fn node_gone(&mut self, slot: usize) {
        let id = self.slots[slot].id;
        self.say(|| format!("n{slot} {id:?} is gone"));
        self.note(Seen::NodeGone { node: id });
        self.slots[slot].vacate();
        for log in 0..self.logs.len() {
            self.stop_reading(slot, log);
        }
        for other in 0..self.slots.len() {
            if other != slot {
                self.disconnect(slot, other, None);
            }
        }
    }

    fn unregister(&mut self, node: NodeId) {
        if self.members.nodes.remove(&node).is_some() {
            self.say(|| format!("members: {node:?} is struck out"));
            self.note(Seen::StruckOut { node });
            self.publish();
        }
    }

    fn register_kind(&mut self, kind: &Kind) {
        if !self.members.kinds.contains_key(kind) {
            let count = self.plan.names.counts[self.plan.names.kind(kind)];
            self.members.kinds.insert(kind.clone(), count);
            self.publish();
        }
    }

    fn offered(&mut self, node: NodeId, member: Member) {
        if let Some(known) = self.members.nodes.get_mut(&node) {
            *known = member;
            self.publish();
        }
    }

    /// Tells everybody how the membership stands.
    fn publish(&mut self) {
        for slot in 0..self.slots.len() {
            if self.slots[slot].node.is_none() {
                continue;
            }
            let mut wanted = self.now + self.rng.range(50, 2 * MS) + self.hiccup();
            if self.faults_on && self.rng.chance(20) {
                wanted += self.rng.range(10 * MS, 200 * MS);
            }
            let at = self.slots[slot].members_lane.arrive(wanted);
            let members = Event::Members(self.members.clone());
            self.input(at, slot, Input::Event(members));
        }
    }

    /// A node takes an input, or lets it wait while it stands still.
    fn take(&mut self, slot: usize, inst: u64, input: Input) {
        if !self.is(slot, inst) {
            return;
        }
        if let Input::Tick = input
            && self.slots[slot].tick_at != Some(self.now)
        {
            return;
        }
        if self.slots[slot].paused {
            self.slots[slot].backlog.push_back(input);
            return;
        }
        self.feed(slot, input);
        if self.slots[slot].drain_queued {
            return;
        }
        if self.rng.chance(150) {
            // Several events are handled before the effects are looked at.
            self.slots[slot].drain_queued = true;
            let at = self.now + self.rng.range(1, 150);
            self.push(at, Due::Drain { slot, inst });
        } else {
            self.drain(slot);
        }
    }

    fn give(&mut self, slot: usize, event: Event) {
        let now = self.millis(self.now);
        self.say(|| format!("n{slot} <- {event:?}"));
        if let Some(node) = self.slots[slot].node.as_mut() {
            node.handle(now, event);
        }
    }

    fn feed(&mut self, slot: usize, input: Input) {
        let node = self.slots[slot].id;
        match input {
            Input::Event(event) => {
                match &event {
                    Event::HostDown { session, dead } => {
                        let (session, dead) = (*session, *dead);
                        self.note(Seen::HostDown { node, session, dead });
                    }
                    Event::Drain => self.note(Seen::DrainTold { node }),
                    _ => {}
                }
                self.give(slot, event);
            }
            Input::Log { log, generation, event } => {
                if self.logs[log].readers[slot].generation != generation {
                    return;
                }
                match &event {
                    Event::LogEnd { .. } => self.note(Seen::ReadToEnd { node, log }),
                    Event::LogOwn { offset, .. } | Event::LogRead { offset, .. } => {
                        let entry = &self.logs[log].entries[*offset as usize - 1];
                        if let Record::Claim { .. } = *entry.record {
                            self.slots[slot].claims_read.push((log, *offset));
                        }
                    }
                    _ => {}
                }
                self.give(slot, event);
            }
            Input::PeerUp { other, generation, node } => {
                if self.peer_input(slot, other, generation, true) {
                    self.give(slot, Event::PeerUp { node });
                }
            }
            Input::Peer { other, generation, sent, from, message } => {
                if other == slot || self.peer_input(slot, other, generation, false) {
                    self.note(Seen::Arrived { to: node, sent });
                    self.give(slot, Event::Peer { from, message });
                }
            }
            Input::Ask { waiter, operation } => self.ask_node(slot, waiter, operation),
            Input::Result { run, token, result } => {
                if let TurnResult::Ended(_) = result {
                    self.history.runs[run].result_taken = Some(self.now);
                }
                self.give(slot, Event::TurnResult { token, result });
            }
            Input::Tick => {
                self.slots[slot].tick_at = None;
                self.give(slot, Event::Tick);
            }
        }
    }

    fn ask_node(&mut self, slot: usize, waiter: Waiter, operation: Operation) {
        let request = RequestId(self.slots[slot].waiters.len() as u64);
        self.slots[slot].waiters.push(waiter);
        let at = Some(self.now);
        match waiter {
            Waiter::Client(req) => self.history.reqs[req].arrived = at,
            Waiter::Turn(run, item) => self.history.runs[run].items[item].arrived = at,
        }
        self.give(slot, Event::Request { request, operation });
    }

    /// Carries out everything that a node wants done.
    pub(crate) fn drain(&mut self, slot: usize) {
        // The node is out while its effects are carried out; nothing calls back into it.
        let Some(mut node) = self.slots[slot].node.take() else { return };
        while let Some(append) = node.poll_append() {
            self.append(slot, append);
        }
        while let Some(effect) = node.poll_effect() {
            self.perform(slot, effect);
        }
        let timeout = node.poll_timeout();
        self.slots[slot].node = Some(node);
        // Only what a node wants done from now on can be judged by what it has read.
        let node = self.slots[slot].id;
        for (log, offset) in std::mem::take(&mut self.slots[slot].claims_read) {
            self.note(Seen::ClaimRead { node, log, offset });
        }
        let at = timeout.map(|t| (t.saturating_sub(BASE_MS) * MS).max(self.now + 1));
        if at != self.slots[slot].tick_at {
            self.slots[slot].tick_at = at;
            if let Some(at) = at {
                self.input(at, slot, Input::Tick);
            }
        }
    }

    fn perform(&mut self, slot: usize, effect: Effect) {
        match effect {
            Effect::ReadLog { partition, from } => {
                let log = self.log_of(&partition);
                self.say(|| format!("n{slot} reads log {log} ({partition}) from {from}"));
                self.ask_read(slot, log, from);
            }
            Effect::ReadBarrier { partition } => {
                let log = self.log_of(&partition);
                self.ask_barrier(slot, log);
            }
            Effect::StopLog { partition } => {
                let log = self.log_of(&partition);
                self.stop_reading(slot, log);
            }
            Effect::Send { to, message } => self.send(slot, to, message),
            Effect::Dispatch { session, turn } => self.dispatch(slot, session, turn),
            Effect::DispatchDirect { session, turn, .. } => {
                self.tell_app(slot, session, ToApp::Direct(turn));
            }
            Effect::Cancel { session, token } => self.cancel(slot, session, &token),
            Effect::Respond { request, response } => self.respond(slot, request, response),
            Effect::LoadActor { partition, actor } => {
                self.ask_store(slot, &partition, StoreStep::Load { actor });
            }
            Effect::FenceStore { partition, epoch } => {
                self.ask_store(slot, &partition, StoreStep::Fence { epoch });
            }
            Effect::WriteStore { partition, epoch, upto, ops } => {
                self.ask_store(slot, &partition, StoreStep::Write { epoch, upto, ops });
            }
            Effect::EnsureKind { kind } => {
                let at = self.now + self.rng.range(200, 3 * MS);
                self.push(at, Due::Register { kind });
            }
            Effect::Offer { kinds, leaving } => {
                let node = self.slots[slot].id;
                let wanted = self.now + self.rng.range(100, MS);
                let at = self.slots[slot].log_lane.arrive(wanted);
                self.push(at, Due::Offered { node, member: Member { kinds, leaving } });
            }
            Effect::Drained => self.drained(slot),
            Effect::Notice(notice) => {
                self.say(|| format!("n{slot} notice {notice:?}"));
                let node = self.slots[slot].id;
                self.note(Seen::Noticed { node, notice });
            }
        }
    }

    fn respond(&mut self, slot: usize, request: RequestId, answer: crate::history::Answer) {
        self.say(|| format!("n{slot} responds {request:?} {answer:?}"));
        let Some(&to) = self.slots[slot].waiters.get(request.0 as usize) else {
            self.broken.push(format!("answer to {request:?}, which was never asked"));
            return;
        };
        let node = self.slots[slot].id;
        self.note(Seen::Responded { node, to, answer: answer.clone() });
        let session = match to {
            Waiter::Client(req) => {
                let at = self.now;
                self.history.reqs[req].answers.push((at, answer.clone()));
                self.history.reqs[req].session
            }
            Waiter::Turn(run, item) => {
                let record = &mut self.history.runs[run];
                record.items[item].answer = Some(answer.clone());
                record.session
            }
        };
        self.tell_app(slot, session, ToApp::Answer(to, answer));
    }

    fn ask_store(&mut self, slot: usize, partition: &PartitionId, step: StoreStep) {
        let (log, hub, inst) = (self.log_of(partition), self.hub, self.slots[slot].inst);
        let wanted = self.now + self.rng.range(50, 800) + self.hiccup();
        let at = self.slots[slot].store_in.arrive(wanted);
        self.push(at, Due::Store { slot, inst, hub, log, step });
    }

    /// The store does what it was asked, and answers, unless who asked or the store is gone by now.
    fn store(&mut self, slot: usize, inst: u64, hub: u64, log: usize, step: StoreStep) {
        let orphan = self.slots[slot].inst != inst || self.hub != hub;
        if orphan && self.rng.chance(500) {
            return;
        }
        self.say(|| format!("store {log} n{slot} {step:?}"));
        let says = self.stores[log].carry_out(self.now, step);
        if orphan || self.slots[slot].node.is_none() {
            return;
        }
        let partition = self.log_ids[log].clone();
        let event = match says {
            StoreSays::Loaded { actor, cell, state } => {
                Event::ActorLoaded { partition, actor, cell, state }
            }
            StoreSays::Fenced { cell } => Event::StoreFenced { partition, cell },
            StoreSays::Written { upto } => Event::StoreWritten { partition, upto },
            StoreSays::Stale => Event::StoreStale { partition },
        };
        let wanted = self.now + self.rng.range(50, 400) + self.hiccup();
        let at = self.slots[slot].store_out.arrive(wanted);
        let input = Input::Event(event);
        self.push(at, Due::Input { slot, inst, input });
    }

    /// A paused node goes on, with everything that came meanwhile.
    pub(crate) fn wake(&mut self, slot: usize, resumed: bool) {
        if !std::mem::take(&mut self.slots[slot].paused) {
            return;
        }
        let node = self.slots[slot].id;
        self.say(|| format!("n{slot} wakes, resumed={resumed}"));
        self.note(Seen::Woke { node, resumed });
        self.slots[slot].drain_queued = false;
        if resumed {
            self.give(slot, Event::Resumed);
        }
        let inst = self.slots[slot].inst;
        while let Some(input) = self.slots[slot].backlog.pop_front() {
            self.feed(slot, input);
            if self.rng.chance(700) {
                self.drain(slot);
            }
        }
        if self.is(slot, inst) {
            self.slots[slot].tick_at = None;
            self.drain(slot);
        }
    }
}

impl Slot {
    fn empty() -> Self {
        Self {
            inst: 0,
            ids: vec![NodeId(0)],
            id: NodeId(0),
            node: None,
            app: App::default(),
            paused: false,
            backlog: VecDeque::new(),
            tick_at: None,
            drain_queued: false,
            claims_read: Vec::new(),
            leaves: None,
            waiters: Vec::new(),
            issue: 0,
            from_app: Lane::default(),
            to_app: Lane::default(),
            log_lane: Lane::default(),
            members_lane: Lane::default(),
            store_in: Lane::default(),
            store_out: Lane::default(),
        }
    }

    /// The node was told to leave, or its app is leaving.
    pub(crate) fn leaving(&self) -> bool {
        self.leaves.is_some() || self.app.leaving
    }

    fn occupy(&mut self, id: NodeId, node: Box<Node>) {
        self.inst += 1;
        self.ids.push(id);
        self.id = id;
        self.node = Some(node);
        self.paused = false;
        self.backlog.clear();
        self.tick_at = None;
        self.drain_queued = false;
        self.claims_read.clear();
        self.leaves = None;
        self.waiters.clear();
        self.issue = 0;
    }

    fn vacate(&mut self) {
        // Things under way are meant for a node that is no more; its number stays with it for the history.
        self.inst += 1;
        self.ids.push(self.id);
        self.node = None;
        self.paused = false;
        self.backlog.clear();
        self.leaves = None;
    }
}
