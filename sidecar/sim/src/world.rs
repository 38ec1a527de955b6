//! The simulated world: a virtual clock, one queue of what is due, nodes with their apps, and what
//! they act on.

use std::collections::BTreeMap;
use std::rc::Rc;

use kar_core::event::{Event, Member, Members, Operation, TurnResult};
use kar_core::ids::{Kind, Millis, NodeId, Offset, PartitionId, SessionId, TurnToken};
use kar_core::inbox::{InboxEntry, InboxId};
use kar_core::message::Message;
use kar_core::record::Record;

use crate::app::ToApp;
use crate::coverage::Coverage;
use crate::explore::Pending;
use crate::history::{Finish, History, Seen, Waiter};
use crate::inbox::{InboxLanding, SimInbox};
use crate::log::{Fate, Landing, SimLog};
use crate::net::Net;
use crate::plan::{Fault, HORIZON, MS, Plan, ReadOp, Us};
use crate::queue::Queue;
use crate::rng::Rng;
use crate::script::{Script, Spec, Step};
use crate::slot::Slot;
use crate::store::{SimStore, SnapshotStep, StoreStep};
use crate::subscribe::{Fetching, Source};
use crate::topic::{SimTopics, ToTopic, TopicFate, TopicLanding};

/// The virtual epoch, so that times look like times.
pub(crate) const BASE_MS: Millis = 1_700_000_000_000;

/// Everything must have come to rest so long after the faults ended.
pub(crate) const REST_MAX: Us = 20_000 * MS;

/// Greatest number of things that may happen in one run, some twenty times what the busiest one
/// needs: more is a livelock.
const EVENTS_MAX: u64 = 400_000;

/// Greatest number of effects that a node may have after an input.
pub(crate) const EFFECTS_MAX: u64 = 200_000;

/// What is due.
#[derive(Clone, Debug)]
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
    Beside { run: usize, steps: Vec<Step> },
    StopRun { run: usize },
    DirectDone { slot: usize, session: SessionId, turn: u64 },
    Trim { slot: usize, inst: u64, hub: u64, log: usize, below: Offset },
    Snapshot { slot: usize, inst: u64, hub: u64, log: usize, step: SnapshotStep },
    InboxLand(InboxLanding),
    InboxServe { slot: usize, inst: u64, inbox: InboxId, generation: u64, from: Offset },
    InboxTrim { slot: usize, inst: u64, hub: u64, inbox: InboxId, below: Offset },
    InboxLost { slot: usize, inst: u64, inbox: InboxId },
    Topic { landing: TopicLanding, is_answered: bool },
    TopicFault(usize),
    SourceEvent(usize),
    SourceFault(usize),
    SubOp(usize),
    Fetch { fetch: Fetching, fails: bool },
    FetchOver { number: u64 },
    Client(usize),
    Control(usize),
    Abandon { req: usize },
    Await { req: usize, slot: usize },
    // A client sends an operation again.
    Again { index: usize, slot: usize },
    Read(ReadOp),
    Connect { a: usize, b: usize },
    // A side that was not told of a connection is told of the next one.
    Hears { a: usize, b: usize },
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
#[derive(Clone, Debug)]
pub(crate) enum Input {
    Event(Event),
    Log { log: usize, generation: u64, event: Event },
    Inbox { inbox: InboxId, generation: u64, event: Event },
    PeerUp { other: usize, generation: u64, node: NodeId },
    Peer { other: usize, generation: u64, sent: usize, from: NodeId, message: Message },
    Ask { waiter: Waiter, operation: Operation },
    Result { run: usize, token: TurnToken, result: TurnResult },
    Tick,
}

type AppendHook = Box<dyn FnMut(usize, usize, &Record) -> Fate>;
type InboxHook = Box<dyn FnMut(usize, &InboxId, &InboxEntry) -> Fate>;
type TopicHook = Box<dyn FnMut(usize, &ToTopic) -> TopicFate>;
type MessageHook = Box<dyn FnMut(usize, usize, &Message) -> Us>;
type ScriptHook = Rc<dyn Fn(&Spec, &TurnToken) -> Option<Script>>;

/// Where a directed schedule takes part.
#[derive(Default)]
pub(crate) struct Hooks {
    /// The fate of an append: slot, log, record.
    pub(crate) append: Option<AppendHook>,
    /// The fate of what is put into an inbox: slot, inbox, entry.
    pub(crate) inbox: Option<InboxHook>,
    /// The fate of what a node asks a topic.
    pub(crate) topic: Option<TopicHook>,
    /// Extra delay of a message: from, to, message.
    pub(crate) message: Option<MessageHook>,
    /// The script of a turn.
    pub(crate) script: Option<ScriptHook>,
    /// What a node that is gone has put into inboxes lands there for certain.
    pub(crate) lands_orphaned: bool,
}

impl Clone for Hooks {
    /// Worlds that the explorer branches off share scripts; other hooks have states of their own.
    fn clone(&self) -> Self {
        let appends = self.append.is_some() || self.inbox.is_some() || self.topic.is_some();
        let directed = appends || self.message.is_some();
        assert!(!directed, "directed worlds do not branch");
        let script = self.script.clone();
        Self { script, ..Self::default() }
    }
}

/// The world.
#[derive(Clone)]
pub(crate) struct World {
    pub(crate) plan: Rc<Plan>,
    pub(crate) rng: Rng,
    pub(crate) now: Us,
    queue: Queue<Due>,
    /// In an explored world, what is due without a time: the explorer chooses.
    pub(crate) pending: Option<Pending>,
    pub(crate) slots: Vec<Slot>,
    pub(crate) net: Net,
    pub(crate) logs: Vec<SimLog>,
    pub(crate) inboxes: BTreeMap<InboxId, SimInbox>,
    pub(crate) topics: SimTopics,
    pub(crate) source: Source,
    pub(crate) log_ids: Vec<PartitionId>,
    log_numbers: BTreeMap<PartitionId, usize>,
    pub(crate) stores: Vec<SimStore>,
    pub(crate) members: Members,
    pub(crate) next_id: u64,
    /// Grows when the hub is replaced.
    pub(crate) hub: u64,
    pub(crate) sessions: u64,
    pub(crate) history: History,
    pub(crate) history_lost: u64,
    pub(crate) faults_on: bool,
    /// What the core did that no driver could carry out.
    pub(crate) broken: Vec<String>,
    pub(crate) hooks: Hooks,
    pub(crate) trace: bool,
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
        let log = SimLog::new(slots);
        let keep_past = plan.faults.iter().any(|(_, f)| matches!(f, Fault::Rollback { .. }));
        let store = SimStore { keep_past, ..SimStore::default() };
        let mut queue = Queue::new();
        for (slot, plan) in plan.slots.iter().enumerate() {
            queue.push(&mut rng, plan.joins_at, Due::Boot { slot });
        }
        for (index, op) in plan.ops.iter().enumerate() {
            queue.push(&mut rng, op.at, Due::Client(index));
        }
        for (index, (at, _)) in plan.controls.iter().enumerate() {
            queue.push(&mut rng, *at, Due::Control(index));
        }
        for (index, (at, _)) in plan.topic_faults.iter().enumerate() {
            queue.push(&mut rng, *at, Due::TopicFault(index));
        }
        let subscribing = &plan.subscribing;
        for (index, (at, _)) in subscribing.events.iter().enumerate() {
            queue.push(&mut rng, *at, Due::SourceEvent(index));
        }
        for (index, (at, _)) in subscribing.ops.iter().enumerate() {
            queue.push(&mut rng, *at, Due::SubOp(index));
        }
        for (index, (at, _)) in subscribing.faults.iter().enumerate() {
            queue.push(&mut rng, *at, Due::SourceFault(index));
        }
        for read in &plan.reads {
            queue.push(&mut rng, read.at, Due::Read(*read));
        }
        for (index, (at, _)) in plan.faults.iter().enumerate() {
            queue.push(&mut rng, *at, Due::Fault(index));
        }
        let history = History {
            names: plan.names.clone(),
            small_limits: plan.small_limits,
            closed_channels_max: plan.limits.closed_channels_max,
            deliveries_bytes_max: plan.limits.deliveries_bytes_per_partition_max,
            state_bytes_max: plan.limits.state_bytes_per_actor_max,
            reminders_max: (
                plan.limits.reminders_per_actor_max,
                plan.limits.reminders_per_partition_max,
                plan.limits.reminders_bytes_per_partition_max,
            ),
            actor_idle: plan.limits.actor_idle_ms,
            accept_timeout: plan.limits.accept_timeout_ms * MS,
            heeding: plan.profile.run_on_max <= crate::plan::RUN_ON_MAX,
            concurrency: plan.slots.iter().map(|s| s.concurrency).collect(),
            strict: plan.slots.iter().map(|s| s.strict).collect(),
            before: 0,
            policies: plan.policies.clone(),
            park_after: plan.limits.park_after_attempts,
            dead_letters_max: plan.limits.dead_letters_per_partition_max,
            keeps_results: plan.keeps_results(),
            goes_back: keep_past,
            events: Vec::new(),
            runs: Vec::new(),
            reqs: Vec::new(),
            covered: Coverage::default(),
            finish: Finish::default(),
        };
        Self {
            rng,
            now: 0,
            queue,
            pending: None,
            slots: (0..slots).map(|_| Slot::empty()).collect(),
            net: Net::new(slots),
            logs: vec![log; log_ids.len()],
            inboxes: BTreeMap::new(),
            topics: SimTopics::default(),
            source: Source::default(),
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
            plan: Rc::new(plan),
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

    /// From now on everything that may happen is chosen.
    pub(crate) fn open(&mut self, pending: Pending) {
        self.queue = Queue::new();
        self.rng = Rng::still();
        self.pending = Some(pending);
    }

    /// Puts something into the queue.
    pub(crate) fn push(&mut self, at: Us, due: Due) {
        match self.pending.as_mut() {
            Some(pending) => pending.push(self.now, at, due),
            None => self.queue.push(&mut self.rng, at, due),
        }
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

    /// What a slot's clock shows.
    pub(crate) fn clock(&self, slot: usize) -> Millis {
        self.millis(self.now) + self.plan.slots[slot].skew_ms
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
        let (mut calm_since, mut records) = (None, 0);
        while self.now < bound && self.steps < EVENTS_MAX {
            self.resume_parked();
            self.run_until(next, |_| false);
            next = self.now + 50 * MS;
            // A turn of an actor that has been idle may begin and end between two looks.
            let now_records = self.logs.iter().map(|log| log.last()).sum();
            let is_still = std::mem::replace(&mut records, now_records) == now_records;
            if !is_still || !self.is_quiet() {
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

    /// Ends the run: it will not come to rest.
    pub(crate) fn give_up(&mut self) {
        self.steps = EVENTS_MAX;
    }

    pub(crate) fn finish(&mut self) {
        for node in self.slots.iter().filter_map(|s| s.node.as_ref()) {
            self.history.covered.add_node(node.covered());
        }
        let livelock = self.steps >= EVENTS_MAX;
        let views = |s: &Slot| s.node.as_ref().map(|n| (s.id, n.partitions(), n.roots_open()));
        self.history.finish.views = self.slots.iter().filter_map(views).collect();
        let awake = |s: &Slot| s.node.as_ref().map(|n| (s.id, n.held().awake));
        self.history.finish.awake = self.slots.iter().filter_map(awake).collect();
        self.history.finish.stores = self.stores.iter().map(|s| s.now.clone()).collect();
        self.history.finish.stores_known_to = self.stores.iter().map(|s| s.known_to).collect();
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
        if self.members.nodes.len() != self.slots.len() || !self.has_delivered() {
            return false;
        }
        let mut served = 0;
        let used = self.logs.iter().filter(|l| l.last() > 0).count();
        for node in self.slots.iter().filter_map(|s| s.node.as_ref()) {
            // What is to fire is yet to come.
            if node.roots_open() > 0 || node.held().reminders > 0 {
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

    pub(crate) fn happen(&mut self, due: Due) {
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
            Due::Trim { slot, inst, hub, log, below } => {
                let orphan = self.slots[slot].inst != inst || self.hub != hub;
                if !orphan || self.rng.chance(500) {
                    self.trim(log, below);
                }
            }
            Due::InboxLand(landing) => self.inbox_lands(landing),
            Due::InboxServe { slot, inst, inbox, generation, from } if self.is(slot, inst) => {
                self.serve_inbox(slot, &inbox, generation, from);
            }
            Due::InboxTrim { slot, inst, hub, inbox, below } => {
                let orphan = self.slots[slot].inst != inst || self.hub != hub;
                if !orphan || self.rng.chance(500) {
                    self.trim_inbox(&inbox, below);
                }
            }
            Due::InboxLost { slot, inst, inbox } if self.is(slot, inst) => {
                self.lose_inbox(slot, inbox);
            }
            Due::Topic { landing, is_answered } => self.at_topic(landing, is_answered),
            Due::TopicFault(index) => self.topic_fault(index),
            Due::SourceEvent(index) => self.source_event(index),
            Due::SourceFault(index) => self.source_fault(index),
            Due::SubOp(index) => self.sub_op(index),
            Due::Fetch { fetch, fails } => self.at_source(fetch, fails),
            Due::FetchOver { number } => self.fetch_over(number),
            Due::Hears { a, b } => self.hears(a, b),
            Due::Snapshot { slot, inst, hub, log, step } => {
                self.snapshot(slot, inst, hub, log, step);
            }
            Due::App { slot, session, what } => self.app_hears(slot, session, what),
            Due::AppUp { slot } => self.app_up(slot),
            Due::AppDies { slot, process } => {
                if self.slots[slot].app.process == process && self.slots[slot].app.alive {
                    self.app_dies(slot);
                }
            }
            Due::Step { run } => self.step(run),
            Due::Beside { run, steps } => self.beside(run, steps),
            Due::StopRun { run } => self.stop_run(run),
            Due::DirectDone { slot, session, turn } => self.direct_done(slot, session, turn),
            Due::Client(index) => self.client(index),
            Due::Control(index) => self.control(index),
            Due::Abandon { req } => self.abandon(req),
            Due::Await { req, slot } => self.await_start(req, slot),
            Due::Again { index, slot } => self.client_again(index, slot),
            Due::Read(read) => self.read_actor(read),
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
            | Due::InboxServe { .. }
            | Due::InboxLost { .. }
            | Due::Serve { .. }
            | Due::Sleep { .. }
            | Due::Wake { .. }
            | Due::Reincarnate { .. }
            | Due::Lease { .. }
            | Due::Stop { .. } => {}
        }
    }

    pub(crate) fn is(&self, slot: usize, inst: u64) -> bool {
        self.slots[slot].inst == inst && self.slots[slot].node.is_some()
    }
}
