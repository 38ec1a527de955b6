//! The schedules of DESIGN section 17, directed: each forces what its name says, runs on to rest,
//! and is judged like every run.
//!
//! Longer than most: one function for each schedule, and the words they are all written in.

use std::cell::Cell;
use std::rc::Rc;

use kar_core::ids::{Kind, Offset, PartitionId, Sender, TurnToken};
use kar_core::inbox::{InboxBody, InboxEntry, InboxId};
use kar_core::invocation::{Mode, Outcome, StateOp};
use kar_core::limits::Rules;
use kar_core::message::Message;
use kar_core::record::{End, Op, Record};

use crate::Report;
use crate::history::{Item, Seen};
use crate::log::Fate;
use crate::plan::{ClientOp, Fault, MS, Plan, ROLLBACK_MAX, Us};
use crate::rng::join;
use crate::script::{Script, Spec, Step, number_payload};
use crate::subscribe;
use crate::topic::TopicFate;
use crate::world::World;

/// A directed schedule.
#[derive(Clone, Copy, Debug)]
pub struct Schedule {
    /// Its name in the design.
    pub name: &'static str,
    stage: fn(&mut Stage),
    nodes: usize,
}

/// All of them.
pub const SCHEDULES: [Schedule; 18] = [
    Schedule { name: "twin-claim", stage: twin_claim, nodes: 3 },
    Schedule { name: "gap-then-late", stage: gap_then_late, nodes: 2 },
    Schedule { name: "sandwiched-claim", stage: sandwiched_claim, nodes: 3 },
    Schedule { name: "sleeping-outcall", stage: sleeping_outcall, nodes: 3 },
    Schedule { name: "boomerang-owner", stage: boomerang_owner, nodes: 3 },
    Schedule { name: "accept-after-forget", stage: accept_after_forget, nodes: 3 },
    Schedule { name: "route-flip", stage: route_flip, nodes: 3 },
    Schedule { name: "pingpong-tail", stage: pingpong_tail, nodes: 4 },
    Schedule { name: "dead-attempt-progress", stage: dead_attempt_progress, nodes: 3 },
    Schedule { name: "store-rollback", stage: store_rollback, nodes: 3 },
    Schedule { name: "drain-with-cross-calls", stage: drain_with_cross_calls, nodes: 3 },
    Schedule { name: "cascade", stage: cascade, nodes: 2 },
    Schedule { name: "both-ends-failing", stage: both_ends_failing, nodes: 5 },
    Schedule { name: "publisher-dies-after-append", stage: publisher_dies_after_append, nodes: 3 },
    Schedule { name: "recreated-topic", stage: recreated_topic, nodes: 3 },
    Schedule { name: "two-readers", stage: two_readers, nodes: 3 },
    Schedule { name: "poison-event", stage: poison_event, nodes: 2 },
    Schedule { name: "outdated-witness", stage: outdated_witness, nodes: 5 },
];

/// Actor type `A`, its only log; `B` and the service are 1 and 2.
const A: usize = 0;
const B: usize = 1;

/// How a call ends that its caller's owner has had withdrawn.
const WITHDRAWN: End = End::Outcome(Outcome::Withdrawn);

/// Seed of the directed runs: it decides delays only.
const SEED: u64 = 17;

/// A world that is directed.
struct Stage {
    world: World,
    asked: u64,
    /// What could not be brought about.
    missed: Option<&'static str>,
}

impl Schedule {
    /// The schedule of a name.
    pub fn named(name: &str) -> Option<Self> {
        SCHEDULES.into_iter().find(|s| s.name == name)
    }

    /// Runs it. A violation is also that it did not come about.
    pub fn run(&self, rules: Rules, trace: bool) -> Report {
        let mut plan = Plan::bare(SEED, rules, self.nodes);
        match self.name {
            "store-rollback" => {
                plan.limits.cached_actors_max = 0;
                plan.limits.snapshot_after_records = 2;
                plan.limits.trim_delay_ms = ROLLBACK_MAX / MS + 50;
            }
            // The sleeper must not look at its clock before it has read that its outcall is committed.
            "sleeping-outcall" => plan.limits.accept_delay_ms = 50,
            "accept-after-forget" => {
                plan.limits.inbox_after_ms = 40;
                plan.limits.departed_grace_ms = 100;
            }
            "route-flip" => plan.limits.inbox_after_ms = 40,
            // So that what a callee has forgotten is in no record of its log either.
            "dead-attempt-progress" => {
                plan.limits.snapshot_after_records = 2;
                plan.limits.trim_delay_ms = 0;
            }
            // The owner hears nothing, and calls that wait are looked into soon.
            "outdated-witness" => {
                plan.profile.deaf = 1_000;
                plan.limits.deadlock_probe_ms = 20;
            }
            "publisher-dies-after-append" => plan.topics_tell_numbers = false,
            "two-readers" | "poison-event" => {
                let mut names = (*plan.names).clone();
                names.kinds.push(Kind::subscriptions());
                names.counts.push(1);
                plan.names = Rc::new(names);
                plan.kinds_at.push(0);
                plan.subscribing = subscribe::directed(&[0, 1, 0]);
            }
            _ => {}
        }
        let mut stage = Stage { world: World::new(plan, trace), asked: 0, missed: None };
        stage.world.stores.iter_mut().for_each(|s| s.keep_past = true);
        stage.host(&vec![vec![A, B, 2]; self.nodes]);
        (self.stage)(&mut stage);
        let (history, broken) = stage.world.conclude();
        let mut report = crate::report(SEED, &history, broken);
        let happened = report.counts.iter().any(|(name, n)| *name == self.name && *n > 0);
        if let Some(missed) = stage.missed {
            report.violations.push(format!("{}: {missed} did not come about", self.name));
        } else if !happened {
            report.violations.push(format!("{} did not happen", self.name));
        }
        report
    }
}

impl Stage {
    /// What each slot's component hosts; before the start.
    fn host(&mut self, kinds: &[Vec<usize>]) {
        for (slot, kinds) in kinds.iter().enumerate() {
            Rc::make_mut(&mut self.world.plan).slots[slot].kinds.clone_from(kinds);
        }
    }

    /// Waits until something holds; what it is called is reported if it does not.
    fn until(&mut self, what: &'static str, holds: impl Fn(&World) -> bool) {
        let bound = self.world.now + 3_000 * MS;
        if self.missed.is_none() && !self.world.run_until(bound, holds) {
            self.missed = Some(what);
        }
    }

    /// Lets time pass.
    fn pass(&mut self, us: Us) {
        let until = self.world.now + us;
        self.world.run_until(until, |_| false);
    }

    /// Waits until all partitions of both actor types are served and nothing is under way.
    fn until_ready(&mut self) {
        // Partitions move while the nodes come up.
        self.pass(100 * MS);
        self.until("rest", |w| w.is_quiet() && owner(w, A).is_some() && owner(w, B).is_some());
    }

    /// The tag that the next operation will have.
    fn next_tag(&self) -> u64 {
        join(self.world.plan.seed, self.asked + 1)
    }

    /// A client asks; its turn does what the script hook says of [`Stage::next_tag`].
    fn ask(&mut self, slot: usize, mode: Mode, kind: usize, actor: usize) -> usize {
        let op = ClientOp {
            at: self.world.now,
            slot,
            mode: Some(mode),
            remind: None,
            removes: false,
            kind,
            actor: Some(actor),
            fuel: 0,
            deadline_us: None,
            abandon_us: None,
            await_by: (slot, MS),
        };
        self.asked += 1;
        self.world.request(slot, self.asked - 1, &op)
    }

    /// What turns do, by the tag of their payload; turns of unknown tags do nothing.
    fn scripts(&mut self, scripts: Vec<(u64, Vec<Step>)>) {
        self.world.hooks.script = Some(Rc::new(move |spec, _| {
            let found = scripts.iter().find(|(tag, _)| *tag == spec.tag);
            let steps = found.map(|(_, steps)| steps.clone()).unwrap_or_default();
            Some(Script { steps, ..Script::default() })
        }));
    }

    fn call(&self, kind: usize, actor: usize, tag: u64) -> Step {
        let target = self.world.plan.names.target(kind, Some(actor));
        Step::Calls(vec![(target, Spec { tag, steady: true, ..Spec::default() })], Vec::new())
    }

    fn set(&self, value: u64) -> Step {
        let names = &self.world.plan.names;
        let (key, value) = (names.keys[0].clone(), number_payload(names, value));
        Step::State(StateOp::Set { key, value })
    }

    fn owner(&mut self, log: usize) -> usize {
        owner(&self.world, log).unwrap_or_else(|| {
            self.missed = Some("an owner");
            0
        })
    }

    /// A slot other than these.
    fn other(&self, slots: &[usize]) -> usize {
        (0..self.world.slots.len()).find(|s| !slots.contains(s)).unwrap_or(0)
    }
}

/// The slot that serves a log.
fn owner(world: &World, log: usize) -> Option<usize> {
    let id = &world.log_ids[log];
    world
        .slots
        .iter()
        .position(|s| s.node.as_ref().is_some_and(|n| n.partitions().iter().any(|p| p.id == *id)))
}

fn answered(req: usize) -> impl Fn(&World) -> bool {
    move |w| !w.history.reqs[req].answers.is_empty()
}

fn has(record: &Record, wanted: fn(&Op) -> bool) -> bool {
    matches!(record, Record::Batch { ops, .. } if ops.iter().any(wanted))
}

fn is_complete(op: &Op) -> bool {
    matches!(op, Op::Complete { .. })
}

fn is_accept(op: &Op) -> bool {
    matches!(op, Op::Accept { .. })
}

fn is_inbox(op: &Op) -> bool {
    matches!(op, Op::Inbox { .. })
}

fn is_progress(op: &Op) -> bool {
    matches!(op, Op::Progress { .. })
}

/// Whether a log holds a record of a kind, from a place on.
fn holds_from(world: &World, log: usize, from: Offset, wanted: fn(&Op) -> bool) -> bool {
    world.logs[log].behind(from).any(|e| has(&e.record, wanted))
}

/// The owner dies; its heir's claim is slow; the heir is struck out, too, and the third node claims
/// after the same epoch. Both are busy.
fn twin_claim(stage: &mut Stage) {
    stage.until_ready();
    let first = stage.owner(A);
    let busy = stage.next_tag();
    stage.scripts(vec![(busy, vec![stage.set(1), Step::Think(60 * MS)])]);
    let from = stage.other(&[first]);
    stage.ask(from, Mode::Call, A, 0);
    stage.pass(5 * MS);
    let claimant = Rc::new(Cell::new(None));
    let seen = claimant.clone();
    stage.world.hooks.append = Some(Box::new(move |slot, log, record| match record {
        Record::Claim { .. } if log == A && seen.get().is_none() => {
            seen.set(Some(slot));
            Fate::Late(30 * MS)
        }
        _ => Fate::Lands,
    }));
    stage.world.crash(first, 0, 400 * MS, MS);
    let seen = claimant.clone();
    stage.until("a claim", move |_| seen.get().is_some());
    if let Some(heir) = claimant.get() {
        stage.world.suspect(heir, 100 * MS);
    }
    stage.pass(200 * MS);
}

/// A record overtakes nothing but is overtaken: two later ones land before it.
fn gap_then_late(stage: &mut Stage) {
    stage.until_ready();
    let late = Rc::new(Cell::new(false));
    let seen = late.clone();
    stage.world.hooks.append = Some(Box::new(move |_, log, record| {
        if log == A && has(record, is_complete) && !seen.replace(true) {
            return Fate::Late(15 * MS);
        }
        Fate::Lands
    }));
    stage.scripts(Vec::new());
    let slot = stage.owner(A);
    for actor in 0..3 {
        stage.ask(slot, Mode::Tell, A, actor);
        stage.pass(MS);
    }
    stage.pass(50 * MS);
}

/// A live owner is struck out and cannot read its log: the heir's claim lands between its turn's
/// `Progress` and
/// `Complete`, and both give their next obligation the same number.
fn sandwiched_claim(stage: &mut Stage) {
    stage.until_ready();
    let zombie = stage.owner(A);
    let tag = stage.next_tag();
    let steps = vec![
        stage.set(1),
        stage.call(B, 0, 1001),
        stage.set(2),
        Step::Think(150 * MS),
        Step::Tell(stage.world.plan.names.target(B, Some(1)), Spec { tag, ..Spec::default() }),
    ];
    stage.world.hooks.script = Some(Rc::new(move |spec, token| {
        let mut steps = if spec.tag == tag { steps.clone() } else { Vec::new() };
        for step in &mut steps {
            // What an attempt makes is its own.
            let fresh = |tag: u64| join(tag, join(token.epoch, u64::from(token.attempt)));
            match step {
                Step::Calls(calls, _) => calls.iter_mut().for_each(|(_, s)| s.tag = fresh(s.tag)),
                Step::Tell(_, spec) => spec.tag = fresh(spec.tag),
                _ => {}
            }
        }
        Some(Script { steps, ..Script::default() })
    }));
    let from = stage.other(&[zombie]);
    stage.ask(from, Mode::Call, A, 0);
    stage.until("a progress", |w| holds_from(w, A, 0, is_progress));
    stage.pass(10 * MS);
    let us = 400 * MS;
    stage.world.inject(Fault::ReadStall { slot: zombie, log: A, us });
    stage.world.suspect(zombie, us);
    stage.pass(us);
}

/// An outcall is committed and its owner sleeps; the heir has the child done and closed; the callee
/// begins a new reign; the sleeper wakes and sends.
fn sleeping_outcall(stage: &mut Stage) {
    // The caller and the callee live apart.
    stage.host(&[vec![A], vec![A], vec![B, 2]]);
    stage.until_ready();
    let (sleeper, callee) = (stage.owner(A), stage.owner(B));
    let warm = stage.next_tag();
    let tag = join(stage.world.plan.seed, 2);
    let steps = vec![stage.call(B, 0, 2001)];
    stage.world.hooks.script = Some(Rc::new(move |spec, token| {
        let mut steps = if [warm, tag].contains(&spec.tag) { steps.clone() } else { Vec::new() };
        if let Some(Step::Calls(calls, _)) = steps.first_mut() {
            calls[0].1.tag = join(spec.tag, join(token.epoch, u64::from(token.attempt)));
        }
        Some(Script { steps, ..Script::default() })
    }));
    // The channel is open already when the sleeper wakes.
    let req = stage.ask(callee, Mode::Call, A, 0);
    stage.until("the first call", answered(req));
    let before = stage.world.logs[A].last();
    stage.ask(callee, Mode::Call, A, 0);
    stage.until("a progress", move |w| holds_from(w, A, before, is_progress));
    stage.world.pause(sleeper, 1_500 * MS, false, Some(0), 20 * MS);
    let closed =
        |op: &Op| matches!(op, Op::Closed { sender: kar_core::ids::Sender::Log { .. }, .. });
    let before = stage.world.logs[B].last();
    stage.until("a closing", move |w| holds_from(w, B, before, closed));
    // The callee loses a record and has to claim anew.
    let lost = Rc::new(Cell::new(false));
    let seen = lost.clone();
    stage.world.hooks.append = Some(Box::new(move |_, log, record| {
        if log == B && has(record, is_complete) && !seen.replace(true) {
            return Fate::Lost(Some(MS));
        }
        Fate::Lands
    }));
    stage.ask(callee, Mode::Tell, B, 2);
    stage.until("a lost record", move |_| lost.get());
    stage.pass(1_500 * MS);
}

/// A node's app leaves and comes back, so that a partition goes and returns, while a request of the
/// first reign is still in its socket.
fn boomerang_owner(stage: &mut Stage) {
    stage.until_ready();
    stage.scripts(Vec::new());
    let node = stage.owner(B);
    let from = stage.other(&[node]);
    let req = stage.ask(from, Mode::Call, B, 0);
    stage.until("the first call", answered(req));
    let held = Rc::new(Cell::new(false));
    let seen = held.clone();
    stage.world.hooks.message = Some(Box::new(move |sender, to, message| {
        let request = matches!(message, Message::Request { .. });
        if request && (sender, to) == (from, node) && !seen.replace(true) {
            return 700 * MS;
        }
        0
    }));
    stage.ask(from, Mode::Call, B, 1);
    stage.until("a request", move |_| held.get());
    stage.world.inject(Fault::Goodbye { slot: node, back_us: 50 * MS });
    stage.until("another owner", move |w| owner(w, B).is_some_and(|o| o != node));
    stage.until("the old owner", move |w| owner(w, B) == Some(node));
    stage.pass(900 * MS);
}

/// Whether an entry is a request to a log.
fn requests(inbox: &InboxId, entry: &InboxEntry, of: &PartitionId) -> bool {
    let InboxBody::Channel { message: Message::Request { .. }, .. } = entry.body else {
        return false;
    };
    *inbox == InboxId::Partition(of.clone())
}

/// Two nodes do not reach each other; a call goes into the inbox, and arrives there only when they do again, and it has
/// been carried out and closed. Then once more, and the node that sent it dies and is given up before it arrives: behind
/// the mark of its node it is not taken.
fn accept_after_forget(stage: &mut Stage) {
    stage.until_ready();
    stage.scripts(Vec::new());
    let owner = stage.owner(A);
    let from = stage.other(&[owner]);
    let id = stage.world.log_ids[A].clone();
    let late = Rc::new(Cell::new(false));
    let seen = late.clone();
    stage.world.hooks.inbox = Some(Box::new(move |_, inbox, entry| {
        if requests(inbox, entry, &id) && !seen.replace(true) {
            return Fate::Late(900 * MS);
        }
        Fate::Lands
    }));
    stage.world.inject(Fault::Apart { a: from, b: owner, deaf: None, us: 200 * MS });
    stage.pass(20 * MS);
    let req = stage.ask(from, Mode::Call, A, 0);
    stage.until("an entry", move |_| late.get());
    stage.until("the answer", answered(req));
    stage.pass(1_200 * MS);
    let id = stage.world.log_ids[A].clone();
    let late = Rc::new(Cell::new(false));
    let seen = late.clone();
    stage.world.hooks.inbox = Some(Box::new(move |_, inbox, entry| {
        if requests(inbox, entry, &id) && !seen.replace(true) {
            return Fate::Late(900 * MS);
        }
        Fate::Lands
    }));
    stage.world.hooks.lands_orphaned = true;
    stage.world.inject(Fault::Apart { a: from, b: owner, deaf: None, us: 200 * MS });
    stage.pass(20 * MS);
    stage.ask(from, Mode::Call, A, 1);
    stage.until("an entry of the node that dies", move |_| late.get());
    let before = stage.world.logs[A].last();
    stage.world.crash(from, 0, 2_000 * MS, MS);
    let is_closing = |op: &Op| matches!(op, Op::CloseChannel { .. });
    stage.until("a closed channel", move |w| holds_from(w, A, before, is_closing));
    let closed = stage.world.logs[A].last();
    stage.pass(1_000 * MS);
    if holds_from(&stage.world, A, closed, is_accept) {
        stage.missed = Some("the refusal of what lies behind the mark");
    }
}

/// Requests are in a socket when that breaks; they go into the inbox with others, whose owner dies when it has taken
/// some of them; the next one takes the rest from there, and from a socket again.
fn route_flip(stage: &mut Stage) {
    stage.until_ready();
    stage.scripts(Vec::new());
    let owner = stage.owner(A);
    let from = stage.other(&[owner]);
    for _ in 0..2 {
        let req = stage.ask(from, Mode::Call, A, 0);
        stage.until("a call", answered(req));
    }
    stage.world.hooks.message = Some(Box::new(move |sender, to, message| {
        let request = matches!(message, Message::Request { .. });
        if request && (sender, to) == (from, owner) { 500 * MS } else { 0 }
    }));
    let mut tells: Vec<usize> = (0..3).map(|_| stage.ask(from, Mode::Tell, A, 0)).collect();
    stage.pass(5 * MS);
    stage.world.inject(Fault::Apart { a: from, b: owner, deaf: None, us: 400 * MS });
    stage.pass(60 * MS);
    tells.extend((0..3).map(|_| stage.ask(from, Mode::Tell, A, 0)));
    stage.until("a request from the inbox", |w| holds_from(w, A, 0, is_inbox));
    let down = Fault::Crash { slot: owner, app_us: 0, down_us: 300 * MS, lease_us: 2 * MS };
    stage.world.inject(down);
    for tell in tells {
        stage.until("an acceptance", answered(tell));
    }
    stage.pass(600 * MS);
}

/// The app dies while its turn's `Progress` is under way, and comes back at once: with a flush; with a join of two calls,
/// of which one throws and one takes long; and behind a keyed call that its callee has forgotten and trimmed by then.
fn dead_attempt_progress(stage: &mut Stage) {
    // The caller's app dies, and the callee's does not.
    stage.host(&[vec![A], vec![], vec![B, 2]]);
    stage.until_ready();
    let tags: Vec<u64> = (1..=3).map(|n| join(stage.world.plan.seed, n)).collect();
    let scripts = dead_attempts(stage, &tags);
    stage.world.hooks.script = Some(Rc::new(scripts));
    let from = 1;
    stage.ask(from, Mode::Call, A, 0);
    dies_in_progress(stage);
    stage.pass(200 * MS);
    let joined = stage.ask(from, Mode::Call, A, 1);
    dies_in_progress(stage);
    stage.until("the answer behind a join", answered(joined));
    let keyed = stage.ask(from, Mode::Call, A, 2);
    let kept = |op: &Op| matches!(op, Op::StepDone { .. });
    stage.until("a keyed call's outcome", move |w| holds_from(w, A, 0, kept));
    let called = stage.world.logs[B].last();
    for _ in 0..6 {
        let tell = stage.ask(from, Mode::Tell, B, 2);
        stage.until("a tell", answered(tell));
        stage.pass(100 * MS);
    }
    stage.until("a trimmed callee", move |w| w.logs[B].trimmed > called);
    dies_in_progress(stage);
    stage.until("the answer behind a keyed call", answered(keyed));
    let recalled = |w: &World| {
        let again = w.history.runs.iter().filter(|run| run.token.attempt > 1);
        let is_kept = |item: &Item| item.key.is_some() && matches!(item.answer, Some(Ok(_)));
        again.flat_map(|run| &run.items).any(is_kept)
    };
    stage.until("a kept result", recalled);
}

/// What turns do whose app dies: the first of these tags flushes, the second one joins, the third one calls with a key.
fn dead_attempts(
    stage: &Stage,
    tags: &[u64],
) -> impl Fn(&Spec, &TurnToken) -> Option<Script> + use<> {
    let names = &stage.world.plan.names;
    let target = |actor| names.target(B, Some(actor));
    let (throwing, slow, kept) = (target(0), target(1), target(2));
    let (first, second) = (stage.set(1), stage.set(2));
    let tags = tags.to_vec();
    move |spec, token| {
        // What an attempt makes is its own; the low bits say which script it runs.
        let attempt = join(spec.tag, join(token.epoch, u64::from(token.attempt)));
        let spec_of = |low: u64| Spec { tag: attempt << 8 | low, steady: true, ..Spec::default() };
        let at = tags.iter().position(|tag| *tag == spec.tag);
        let steps = match (at, spec.tag & 0xff) {
            (Some(0), _) => vec![first.clone(), Step::Flush, Step::Think(5 * MS)],
            (Some(1), _) => {
                let calls = [(throwing.clone(), spec_of(1)), (slow.clone(), spec_of(2))];
                vec![Step::Calls(calls.into(), Vec::new()), second.clone()]
            }
            (Some(2), _) => {
                let call = (kept.clone(), spec_of(3), "key".into());
                let think = Step::Think(900 * MS);
                let retries = token.attempt > 1;
                let mut steps = vec![Step::Keyed(vec![call])];
                if !retries {
                    steps.extend([think, second.clone(), Step::Flush, Step::Think(50 * MS)]);
                }
                steps
            }
            (None, 2) => vec![Step::Think(40 * MS)],
            _ => Vec::new(),
        };
        let fails = at.is_none() && spec.tag & 0xff == 1;
        Some(Script { steps, fails, ..Script::default() })
    }
}

/// The app of the actors' owner dies while the next `Progress` is under way, and comes back.
fn dies_in_progress(stage: &mut Stage) {
    let under_way = Rc::new(Cell::new(false));
    let seen = under_way.clone();
    stage.world.hooks.append = Some(Box::new(move |_, log, record| {
        if log == A && has(record, is_progress) && !seen.replace(true) {
            return Fate::Slow(15 * MS);
        }
        Fate::Lands
    }));
    stage.until("a progress", move |_| under_way.get());
    stage.pass(200);
    let slot = stage.owner(A);
    stage.world.inject(Fault::AppDeath { slot, down_us: 3 * MS });
    stage.world.hooks.append = None;
}

/// The store goes back three times: under a passive actor that is read next, under one that is written without being
/// read, and to before its owner's fence while a write of the reign before is still on its way; then as far as it may,
/// when the log was trimmed, under a live owner and without one.
fn store_rollback(stage: &mut Stage) {
    stage.until_ready();
    let tags: Vec<u64> = (1..=14).map(|n| join(stage.world.plan.seed, n)).collect();
    let set: fn(&Stage, u64) -> Vec<Step> = |stage, value| vec![stage.set(value)];
    let read: fn(&Stage, u64) -> Vec<Step> =
        |stage, value| vec![Step::Read(None), stage.set(value)];
    let scripts = [set, read, set, set, set, read, set, set, set, set, set, read, read, read];
    let scripts = tags.iter().zip(scripts).zip(1..);
    let scripts = scripts.map(|((tag, script), value)| (*tag, script(stage, value))).collect();
    stage.scripts(scripts);
    let owner = stage.owner(A);
    let from = stage.other(&[owner]);
    let ask = |stage: &mut Stage, actor| {
        let req = stage.ask(from, Mode::Call, A, actor);
        stage.until("a call", answered(req));
    };
    ask(stage, 0);
    stage.pass(100 * MS);
    stage.world.inject(Fault::Rollback { log: A, back_us: 90 * MS });
    stage.world.inject(Fault::Rollback { log: A, back_us: 150 * MS });
    ask(stage, 0);
    stage.pass(100 * MS);
    stage.world.inject(Fault::Rollback { log: A, back_us: 150 * MS });
    ask(stage, 1);
    stage.pass(300 * MS);
    // The owner's write is slow, and the owner is struck out.
    let zombie = stage.owner(A);
    let slow = stage.world.now + 400 * MS;
    stage.world.slots[zombie].store_in.arrive(slow);
    ask(stage, 1);
    let struck_out = stage.world.now;
    let us = 600 * MS;
    stage.world.inject(Fault::ReadStall { slot: zombie, log: A, us });
    stage.world.suspect(zombie, us);
    stage.pass(200 * MS);
    ask(stage, 1);
    stage.pass(20 * MS);
    let back_us = stage.world.now - struck_out;
    stage.world.inject(Fault::Rollback { log: A, back_us });
    stage.pass(us);
    ask(stage, 1);
    // What the log has forgotten is in a snapshot, and the store goes back as far as it may.
    stage.pass(ROLLBACK_MAX);
    for _ in 0..5 {
        ask(stage, 0);
        stage.pass(60 * MS);
    }
    stage.until("a trimmed log", |w| w.logs[A].trimmed > 0);
    stage.world.inject(Fault::Rollback { log: A, back_us: ROLLBACK_MAX });
    ask(stage, 1);
    ask(stage, 0);
    // Its owner is gone, too, when it goes back again.
    let owner = stage.owner(A);
    stage.world.inject(Fault::Rollback { log: A, back_us: ROLLBACK_MAX });
    stage.world.suspect(owner, 100 * MS);
    stage.pass(400 * MS);
    ask(stage, 0);
}

/// A call goes from A to B and back, twice, by tail calls; each owner is killed before and after it accepts the
/// step, and the caller's node asks the home again meanwhile.
fn pingpong_tail(stage: &mut Stage) {
    // The caller's node hosts nothing, and lives.
    let (hosts, from) = (vec![A, B, 2], 3);
    stage.host(&[hosts.clone(), hosts.clone(), hosts, Vec::new()]);
    stage.until_ready();
    let first = stage.next_tag();
    stage.world.hooks.script = {
        let names = &stage.world.plan.names;
        let (a, b) = (names.target(A, Some(0)), names.target(B, Some(0)));
        let tags = [first, 1, 2, 3];
        Some(Rc::new(move |spec, _| {
            let at = tags.iter().position(|tag| *tag == spec.tag)?;
            let next = tags.get(at + 1).map(|tag| {
                let target = if at % 2 == 0 { b.clone() } else { a.clone() };
                (target, Spec { tag: *tag, steady: true, ..Spec::default() }, false)
            });
            let steps = vec![Step::Think(30 * MS)];
            Some(Script { steps, tail: next, ..Script::default() })
        }))
    };
    let crash = |slot| Fault::Crash { slot, app_us: 0, down_us: 300 * MS, lease_us: 2 * MS };
    let req = stage.ask(from, Mode::Call, A, 0);
    for (log, accepts) in [(A, B), (B, A), (A, B)] {
        // The step is on its way: the one that sends it dies as soon as that is committed …
        let (sent, taken) = (stage.world.logs[log].last(), stage.world.logs[accepts].last());
        stage.until("a step", |w| holds_from(w, log, sent, is_complete));
        let sender = stage.owner(log);
        if sender != from {
            stage.world.inject(crash(sender));
        }
        // … and the one that takes it as soon as it has.
        stage.until("its acceptance", |w| holds_from(w, accepts, taken, is_accept));
        let receiver = stage.owner(accepts);
        // Where all hosts are away, the caller is the caretaker, and lives.
        if receiver != from {
            stage.world.inject(crash(receiver));
        }
    }
    stage.until("the answer", answered(req));
}

/// Two nodes are told to leave while their actors call each other and re-enter; they are the only
/// hosts.
fn drain_with_cross_calls(stage: &mut Stage) {
    stage.host(&[vec![A], vec![B], vec![2]]);
    for slot in &mut Rc::make_mut(&mut stage.world.plan).slots {
        slot.concurrency = 1;
    }
    stage.until_ready();
    let (there, back) = (stage.next_tag(), join(stage.world.plan.seed, 2));
    let think = || Step::Think(40 * MS);
    stage.world.hooks.script = {
        let names = &stage.world.plan.names;
        let target = |kind: usize, actor: usize| names.target(kind, Some(actor));
        let (a0, b0, a1, b1) = (target(A, 0), target(B, 0), target(A, 1), target(B, 1));
        let call = |target: &kar_core::invocation::Target, tag: u64| {
            Step::Calls(vec![(target.clone(), Spec { tag, ..Spec::default() })], Vec::new())
        };
        let scripts = [
            (there, vec![think(), call(&b0, 1), think()]),
            (1, vec![think(), call(&a0, 2), think()]),
            (back, vec![think(), call(&a1, 3), think()]),
            (3, vec![think(), call(&b1, 4), think()]),
        ];
        Some(Rc::new(move |spec, token| {
            // A retry's calls have tags of their own; the low bits say which script they run.
            let own = |tag: u64| tag == spec.tag || tag == spec.tag & 0xff && spec.mask == 0;
            let found = scripts.iter().find(|(tag, _)| own(*tag));
            let mut steps = found.map(|(_, s)| s.clone()).unwrap_or_default();
            for step in &mut steps {
                if let Step::Calls(calls, _) = step {
                    let attempt = join(token.epoch, u64::from(token.attempt));
                    calls[0].1.tag |= join(spec.tag, attempt) << 8;
                }
            }
            Some(Script { steps, ..Script::default() })
        }))
    };
    stage.ask(2, Mode::Call, A, 0);
    stage.ask(2, Mode::Call, B, 1);
    stage.pass(60 * MS);
    let (a, b) = (stage.owner(A), stage.owner(B));
    stage.world.inject(Fault::Drain { slot: a, with: Some(b), back_us: 200 * MS });
    stage.pass(1_500 * MS);
}

/// Five turns run ahead of the log; the second one's record never arrives, and the app runs on. Then five more, and
/// another node's claim lands there.
fn cascade(stage: &mut Stage) {
    stage.until_ready();
    let slot = stage.owner(A);
    let tags: Vec<u64> = (1..=5).map(|n| join(stage.world.plan.seed, n)).collect();
    let script = |n: u64| vec![Step::Read(None), stage.set(n)];
    stage.scripts(tags.iter().enumerate().map(|(n, tag)| (*tag, script(n as u64))).collect());
    let completed = Rc::new(Cell::new(0));
    stage.world.hooks.append = Some(Box::new(move |_, log, record| {
        if log != A || !has(record, is_complete) {
            return Fate::Lands;
        }
        completed.set(completed.get() + 1);
        if completed.get() == 2 { Fate::Lost(Some(20 * MS)) } else { Fate::Lands }
    }));
    for _ in 0..5 {
        stage.ask(slot, Mode::Call, A, 0);
    }
    stage.pass(300 * MS);
    let slot = stage.owner(A);
    let from = stage.other(&[slot]);
    let completed = Rc::new(Cell::new(0));
    let seen = completed.clone();
    stage.world.hooks.append = Some(Box::new(move |_, log, record| {
        if log != A || !has(record, is_complete) {
            return Fate::Lands;
        }
        seen.set(seen.get() + 1);
        if seen.get() == 2 { Fate::Slow(60 * MS) } else { Fate::Lands }
    }));
    let before = stage.world.logs[A].last();
    for _ in 0..5 {
        stage.ask(from, Mode::Call, A, 0);
        stage.pass(2 * MS);
    }
    stage.until("records under way", move |_| completed.get() >= 2);
    let us = 300 * MS;
    stage.world.inject(Fault::ReadStall { slot, log: A, us });
    stage.world.strike_out(slot, us);
    let is_void = |w: &World| {
        let mut records = w.logs[A].behind(before).map(|entry| &entry.record);
        let claim = records.position(|record| matches!(**record, Record::Claim { .. }));
        claim.is_some() && records.filter(|record| has(record, is_complete)).count() > 1
    };
    stage.until("a claim before ends of turns", is_void);
    stage.pass(600 * MS);
}

/// A call waits behind a turn that takes long, and the owners of its caller and of its callee die together: the retry
/// does not wait for that turn, which begins anew.
fn both_ends_failing(stage: &mut Stage) {
    // The client's node hosts nothing, and lives.
    let from = 4;
    stage.host(&[vec![A], vec![A], vec![B, 2], vec![B, 2], Vec::new()]);
    stage.until_ready();
    let (long, caller) = (stage.next_tag(), join(stage.world.plan.seed, 2));
    let steps = vec![stage.call(B, 0, 3001)];
    stage.world.hooks.script = Some(Rc::new(move |spec, token| {
        let mut steps = match spec.tag {
            tag if tag == long => vec![Step::Think(600 * MS)],
            tag if tag == caller => steps.clone(),
            _ => Vec::new(),
        };
        if let Some(Step::Calls(calls, _)) = steps.first_mut() {
            calls[0].1.tag = join(spec.tag, join(token.epoch, u64::from(token.attempt)));
        }
        Some(Script { steps, ..Script::default() })
    }));
    stage.ask(from, Mode::Tell, B, 0);
    stage.pass(20 * MS);
    let sent = stage.world.logs[A].last();
    let req = stage.ask(from, Mode::Call, A, 0);
    stage.until("a call", move |w| holds_from(w, A, sent, is_progress));
    stage.pass(10 * MS);
    let taken = stage.world.logs[B].last();
    for slot in [stage.owner(A), stage.owner(B)] {
        let down_us = 300 * MS;
        stage.world.inject(Fault::Crash { slot, app_us: 0, down_us, lease_us: 2 * MS });
    }
    let is_withdrawn = |op: &Op| matches!(op, Op::Complete { end, .. } if *end == WITHDRAWN);
    stage.until("a withdrawal", move |w| holds_from(w, B, taken, is_withdrawn));
    let again = stage.world.logs[A].last();
    stage.until("the retry's call", move |w| holds_from(w, A, again, is_progress));
    stage.until("the answer", answered(req));
}

/// A service's call waits for an actor. The actor's owner is struck out and does not hear of it; the heir ends the
/// call, and the actor calls, in its turn, who waits for the service. Its caller does not hear of the end, nor of
/// the heir: the old owner is asked for whom that call waits.
fn outdated_witness(stage: &mut Stage) {
    let (caller, from) = (3, 4);
    stage.host(&[vec![A], vec![A], vec![B], vec![2], Vec::new()]);
    stage.until_ready();
    let old = stage.owner(A);
    let heir = 1 - old;
    let (holds, waits) = (stage.next_tag(), join(stage.world.plan.seed, 2));
    let to_b = stage.call(B, 0, 0);
    let names = &stage.world.plan.names;
    let spec = |tag| Spec { tag, steady: true, ..Spec::default() };
    let service = names.target(2, None);
    let to_service = vec![(service.clone(), spec(4001)), (service, spec(4003))];
    // What is told behind the call on the same way, so that the log has both.
    let tell = Step::Tell(names.target(A, Some(1)), spec(4004));
    let to_a = stage.call(A, 0, 4002);
    stage.world.hooks.script = Some(Rc::new(move |spec, token| {
        let mut steps = match spec.tag {
            tag if tag == holds && token.attempt == 1 => vec![Step::Think(2_000 * MS)],
            tag if tag == holds => vec![Step::Think(60 * MS), to_b.clone()],
            tag if tag == waits => vec![Step::Calls(to_service.clone(), Vec::new())],
            4001 => vec![to_a.clone()],
            4003 => vec![Step::Think(10 * MS), tell.clone(), Step::Flush],
            _ => Vec::new(),
        };
        if let Some(Step::Calls(calls, _)) = steps.last_mut().filter(|_| spec.tag == holds) {
            calls[0].1.tag = join(spec.tag, join(token.epoch, u64::from(token.attempt)));
        }
        Some(Script { steps, ..Script::default() })
    }));
    let req = stage.ask(from, Mode::Call, A, 0);
    stage.pass(20 * MS);
    let begun = stage.world.logs[A].last();
    stage.ask(from, Mode::Call, B, 0);
    stage.until("a call that waits", move |w| holds_from(w, A, begun, is_accept));
    stage.pass(5 * MS);
    let (us, taken) = (600 * MS, stage.world.logs[A].last());
    stage.world.hooks.message =
        Some(Box::new(move |sender, to, _| if (sender, to) == (heir, caller) { us } else { 0 }));
    let deaf_until = stage.world.now + us;
    stage.world.slots[caller].members_lane.arrive(deaf_until);
    stage.world.inject(Fault::ReadStall { slot: old, log: A, us });
    stage.world.strike_out(old, us);
    let is_claim = |record: &Record| matches!(record, Record::Claim { .. });
    stage.until("a claim", move |w| w.logs[A].behind(taken).any(|e| is_claim(&e.record)));
    stage.pass(5 * MS);
    stage.world.cancel_waiting(heir, A);
    stage.until("an end", move |w| holds_from(w, A, taken, is_complete));
    stage.until("the answer", answered(req));
}

/// A turn's events land in their topic, which does not tell numbers apart; nobody hears of it, and the owner dies.
fn publisher_dies_after_append(stage: &mut Stage) {
    stage.until_ready();
    let (tag, owner) = (stage.next_tag(), stage.owner(A));
    stage.scripts(vec![(tag, vec![Step::Publish(vec![(0, 0), (0, 0)])])]);
    let is_sent = Cell::new(false);
    stage.world.hooks.topic = Some(Box::new(move |_, asked| {
        let is_first = !asked.events.is_empty() && !is_sent.replace(true);
        if is_first { TopicFate::Unanswered } else { TopicFate::Arrives }
    }));
    stage.ask(stage.other(&[owner]), Mode::Tell, A, 0);
    stage.until("an append", |w| in_topics(w) == 2);
    let from = stage.world.logs[A].last();
    stage.world.crash(owner, 0, 400 * MS, MS);
    stage.until("a settlement", move |w| holds_from(w, A, from, is_published));
}

/// A topic that a turn has published to is deleted and created anew before the events are in it; the next turn
/// publishes to the new one.
fn recreated_topic(stage: &mut Stage) {
    stage.until_ready();
    let (first, second) = (stage.next_tag(), join(stage.world.plan.seed, 2));
    let publish = || vec![Step::Publish(vec![(0, 0)])];
    stage.scripts(vec![(first, publish()), (second, publish())]);
    let is_lost = Rc::new(Cell::new(true));
    let loses = is_lost.clone();
    stage.world.hooks.topic =
        Some(Box::new(move |_, _| if loses.get() { TopicFate::Lost } else { TopicFate::Arrives }));
    let (owner, from) = (stage.owner(A), stage.world.logs[A].last());
    let req = stage.ask(owner, Mode::Call, A, 0);
    stage.until("the answer", answered(req));
    stage.world.recreate(0);
    is_lost.set(false);
    let is_gone = |op: &Op| matches!(op, Op::TopicGone { .. });
    stage.until("the loss", move |w| holds_from(w, A, from, is_gone));
    stage.ask(owner, Mode::Tell, A, 0);
    stage.until("an append", |w| in_topics(w) == 1);
}

/// How many events are in topics.
fn in_topics(world: &World) -> usize {
    world.history.events.iter().filter(|(_, seen)| matches!(seen, Seen::InTopic { .. })).count()
}

fn is_published(op: &Op) -> bool {
    matches!(op, Op::Published { .. })
}

/// The only log of subscriptions, behind those of the two actor types and the service.
const SUBSCRIPTIONS: usize = 3;

/// Somebody subscribes, and it is served.
fn subscribed(stage: &mut Stage) -> usize {
    stage.until_ready();
    stage.world.sub_op(0);
    stage.until("a subscription", |w| {
        let is_created = |op: &Op| matches!(op, Op::Subscription { .. });
        owner(w, SUBSCRIPTIONS).is_some() && holds_from(w, SUBSCRIPTIONS, 0, is_created)
    });
    stage.owner(SUBSCRIPTIONS)
}

/// A reader stands still when its deliveries are on their way, and is given up; another one delivers the same; then the
/// first ones come.
fn two_readers(stage: &mut Stage) {
    // The reader and the target live apart.
    stage.host(&[vec![A, B, 2], vec![], vec![]]);
    let reader = subscribed(stage);
    let is_slow = Rc::new(Cell::new(0));
    let seen = is_slow.clone();
    stage.world.hooks.message = Some(Box::new(move |from, _, message| {
        let is_delivery = matches!(
            message,
            Message::Request { sender: Sender::Subscription { .. }, .. } if from == reader
        );
        seen.set(seen.get() + u32::from(is_delivery));
        if is_delivery { 900 * MS } else { 0 }
    }));
    (0..3).for_each(|event| stage.world.source_event(event));
    stage.until("deliveries under way", move |_| is_slow.get() > 0);
    stage.world.pause(reader, 700 * MS, false, Some(0), 900 * MS);
    let is_floor = |op: &Op| matches!(op, Op::Delivered { .. });
    stage.until("the other's floor", move |w| holds_from(w, SUBSCRIPTIONS, 0, is_floor));
    stage.pass(1_500 * MS);
}

/// The first of three events makes its method fail each time. The second one, of another actor, does not wait for it;
/// the third one, of the same, waits until the first one is a dead letter.
fn poison_event(stage: &mut Stage) {
    subscribed(stage);
    let first = Rc::new(Cell::new(None));
    let known = first.clone();
    stage.world.hooks.script = Some(Rc::new(move |_, token| {
        let own = token.invocation.uuid;
        let poison = known.get().unwrap_or(own);
        known.set(Some(poison));
        let fails = poison == own;
        Some(Script { fails, retryable: fails, ..Script::default() })
    }));
    stage.world.source_event(0);
    stage.until("the first attempt", move |_| first.get().is_some());
    (1..3).for_each(|event| stage.world.source_event(event));
    stage.until("the other one's end", |w| ended(w, A) == 1 && in_topics(w) == 0);
    stage.until("a dead letter", |w| in_topics(w) == 1);
    stage.until("the third one's end", |w| ended(w, A) == 3);
}

/// How many invocations of a log have ended.
fn ended(world: &World, log: usize) -> usize {
    let records = world.logs[log].behind(0);
    let ops = records.filter_map(|entry| match &*entry.record {
        Record::Batch { ops, .. } => Some(ops),
        _ => None,
    });
    ops.flatten().filter(|op| is_complete(op)).count()
}
