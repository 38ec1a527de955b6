//! The schedules of DESIGN section 17, directed: each forces what its name says, runs on to rest,
//! and is judged like every run.

mod events;
mod reigns;
mod routes;
mod turns;

use std::rc::Rc;

use kar_core::ids::{Kind, Offset};
use kar_core::invocation::{Mode, Outcome, StateOp};
use kar_core::limits::Rules;
use kar_core::record::{End, Op, Record};

use crate::Report;
use crate::plan::{ClientOp, MS, Plan, ROLLBACK_MAX, Us};
use crate::rng::join;
use crate::script::{Script, Spec, Step, number_payload};
use crate::subscribe;
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
    Schedule { name: "twin-claim", stage: reigns::twin_claim, nodes: 3 },
    Schedule { name: "gap-then-late", stage: reigns::gap_then_late, nodes: 2 },
    Schedule { name: "sandwiched-claim", stage: reigns::sandwiched_claim, nodes: 3 },
    Schedule { name: "sleeping-outcall", stage: reigns::sleeping_outcall, nodes: 3 },
    Schedule { name: "boomerang-owner", stage: reigns::boomerang_owner, nodes: 3 },
    Schedule { name: "accept-after-forget", stage: routes::accept_after_forget, nodes: 3 },
    Schedule { name: "route-flip", stage: routes::route_flip, nodes: 3 },
    Schedule { name: "pingpong-tail", stage: turns::pingpong_tail, nodes: 4 },
    Schedule { name: "dead-attempt-progress", stage: turns::dead_attempt_progress, nodes: 3 },
    Schedule { name: "store-rollback", stage: reigns::store_rollback, nodes: 3 },
    Schedule { name: "drain-with-cross-calls", stage: turns::drain_with_cross_calls, nodes: 3 },
    Schedule { name: "cascade", stage: reigns::cascade, nodes: 2 },
    Schedule { name: "both-ends-failing", stage: turns::both_ends_failing, nodes: 5 },
    Schedule {
        name: "publisher-dies-after-append",
        stage: events::publisher_dies_after_append,
        nodes: 3,
    },
    Schedule { name: "recreated-topic", stage: events::recreated_topic, nodes: 3 },
    Schedule { name: "two-readers", stage: events::two_readers, nodes: 3 },
    Schedule { name: "poison-event", stage: events::poison_event, nodes: 2 },
    Schedule { name: "outdated-witness", stage: reigns::outdated_witness, nodes: 5 },
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
