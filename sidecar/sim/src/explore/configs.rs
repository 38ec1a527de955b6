//! The small worlds that are explored: a table. A new operation needs a row with a script that uses it.

use std::rc::Rc;

use kar_core::ids::TurnToken;
use kar_core::invocation::{Mode, StateOp};
use kar_core::limits::Rules;

use super::Pending;
use crate::plan::{ClientOp, MS, Names, Plan};
use crate::reading::Reading;
use crate::rng::join;
use crate::script::{Script, Spec, Step, number_payload};
use crate::world::{Due, World};

/// A small world.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Its name.
    pub name: &'static str,
    /// What it is.
    pub about: &'static str,
    /// What the component of each slot hosts: one letter a kind.
    slots: &'static [&'static str],
    /// What clients ask for: through which slot, how, which kind.
    clients: &'static [(usize, Mode, usize)],
    /// What turns of each kind do.
    scripts: fn(&Names, &Spec, &TurnToken) -> Script,
    /// Faults by name, with how often each may happen.
    pub(super) faults: &'static [(&'static str, u8)],
    /// How many faults may happen in all.
    pub(super) faults_max: u8,
    /// The cluster comes up in the explored part; otherwise it is up and at rest.
    cold: bool,
    /// The store is explored, too.
    store: bool,
    /// No node has a peer plane; inboxes are explored, too.
    no_peer: bool,
    /// Records after which a snapshot is taken; storing, finding and trimming are explored, too.
    snapshots: Option<u64>,
    /// It takes long: not in the test run.
    pub nightly: bool,
}

/// Seed of everything: it decides names only.
const SEED: u64 = 17;

/// Kinds of the plan: actor types.
const A: usize = 0;
const B: usize = 1;
const LETTERS: [&str; 2] = ["A", "B"];

const BASE: Config = Config {
    name: "",
    about: "",
    slots: &["A", ""],
    clients: &[(1, Mode::Call, A)],
    scripts: |_, _, _| Script::default(),
    faults: &[],
    faults_max: 0,
    cold: false,
    store: false,
    no_peer: false,
    snapshots: None,
    nightly: false,
};

/// All of them.
pub const CONFIGS: [Config; 19] = [
    Config {
        name: "two-nodes-call",
        about: "two nodes, one call from the one to the other; a crash",
        slots: &["A", "A"],
        faults: &[("crash", 1)],
        faults_max: 1,
        ..BASE
    },
    Config {
        name: "tell",
        about: "two nodes, one tell; a crash",
        slots: &["A", "A"],
        clients: &[(1, Mode::Tell, A)],
        faults: &[("crash", 1)],
        faults_max: 1,
        ..BASE
    },
    Config {
        name: "claim-race",
        about: "two nodes come up; what is claimed is late or lost",
        slots: &["A", "A"],
        clients: &[],
        faults: &[("late-append", 1)],
        faults_max: 1,
        cold: true,
        ..BASE
    },
    Config {
        name: "nested",
        about: "two actors, one nested call; the caller's or the callee's node crashes",
        slots: &["A", "B"],
        scripts: nested,
        faults: &[("crash", 1)],
        faults_max: 1,
        ..BASE
    },
    Config {
        name: "withdraw",
        about: "a call waits behind another one, and its caller's host dies",
        slots: &["A", "B"],
        clients: &[(1, Mode::Tell, B), (0, Mode::Tell, A)],
        scripts: nested,
        faults: &[("app-death", 1)],
        faults_max: 1,
        ..BASE
    },
    Config {
        name: "withdraw-keyed",
        about: "a call with a step key waits behind another one, and its caller's host dies",
        slots: &["A", "B"],
        clients: &[(1, Mode::Tell, B), (0, Mode::Tell, A)],
        scripts: keyed,
        faults: &[("app-death", 1)],
        faults_max: 1,
        ..BASE
    },
    Config {
        name: "tail",
        about: "two actors, one tail call from the one to the other; a crash",
        slots: &["A", "B"],
        scripts: tail,
        faults: &[("crash", 1)],
        faults_max: 1,
        ..BASE
    },
    Config {
        name: "state",
        about: "an actor's state is read and written; a crash; the store is explored, too",
        slots: &["A", "A"],
        scripts: state,
        faults: &[("crash", 1)],
        faults_max: 1,
        store: true,
        ..BASE
    },
    Config {
        name: "snapshot",
        about: "an actor's state is written; snapshots after each record; a crash at every step of them",
        slots: &["A"],
        clients: &[(0, Mode::Tell, A)],
        scripts: write,
        faults: &[("crash", 1)],
        faults_max: 1,
        snapshots: Some(1),
        ..BASE
    },
    Config {
        name: "publish",
        about: "a turn publishes; a crash; its topic does not tell numbers apart",
        slots: &["A", "A"],
        clients: &[(1, Mode::Tell, A)],
        scripts: publish,
        faults: &[("crash", 1)],
        faults_max: 1,
        ..BASE
    },
    Config {
        name: "inbox",
        about: "two nodes without peers, one tell through the partition's inbox; a crash",
        clients: &[(1, Mode::Tell, A)],
        faults: &[("crash", 1)],
        faults_max: 1,
        no_peer: true,
        nightly: true,
        ..BASE
    },
    Config {
        name: "inbox-call",
        about: "two nodes without peers, one call and its answer; an append is late or lost",
        faults: &[("late-append", 1)],
        faults_max: 1,
        no_peer: true,
        ..BASE
    },
    Config {
        name: "late-claim",
        about: "two nodes come up, one call; an append (a claim, say) is late or lost",
        slots: &["A", "A"],
        faults: &[("late-append", 1)],
        faults_max: 1,
        cold: true,
        nightly: true,
        ..BASE
    },
    Config {
        name: "zombie",
        about: "one call; an owner is struck out and lives on; an append is late or lost",
        slots: &["A", "A"],
        faults: &[("suspect", 1), ("late-append", 1)],
        faults_max: 2,
        nightly: true,
        ..BASE
    },
    Config {
        name: "flow",
        about: "two actors; one flow of a nested call, a tell and a tail call, and nothing that breaks",
        slots: &["A", "B"],
        scripts: flow,
        ..BASE
    },
    Config {
        name: "flow-crash",
        about: "the same; a crash",
        slots: &["A", "B"],
        scripts: flow,
        faults: &[("crash", 1)],
        faults_max: 1,
        nightly: true,
        ..BASE
    },
    Config {
        name: "nested-crash",
        about: "two actors, one nested call; a crash",
        slots: &["AB", "AB"],
        scripts: nested,
        faults: &[("crash", 1)],
        faults_max: 1,
        nightly: true,
        ..BASE
    },
    Config {
        name: "nested-host",
        about: "two actors, one nested call; a host dies, or its stream or a connection breaks, or it leaves",
        slots: &["AB", "AB"],
        scripts: nested,
        faults: &[("app-death", 1), ("stream-break", 1), ("reset", 1), ("drain", 1)],
        faults_max: 1,
        nightly: true,
        ..BASE
    },
    Config {
        name: "two-crashes",
        about: "one call; two crashes, one log lost",
        slots: &["A", "A"],
        faults: &[("crash", 2), ("log-lost", 1)],
        faults_max: 2,
        nightly: true,
        ..BASE
    },
];

/// An actor writes its state and reads it.
fn state(names: &Names, spec: &Spec, token: &TurnToken) -> Script {
    let value = number_payload(names, join(spec.tag, u64::from(token.attempt)));
    let set = Step::State(StateOp::Set { key: names.keys[0].clone(), value });
    steps(vec![Step::Read(Reading::All), set, Step::Flush])
}

/// An actor writes its state.
fn write(names: &Names, spec: &Spec, token: &TurnToken) -> Script {
    let value = number_payload(names, join(spec.tag, u64::from(token.attempt)));
    steps(vec![Step::State(StateOp::Set { key: names.keys[0].clone(), value })])
}

/// A turn publishes an event.
fn publish(_: &Names, _: &Spec, _: &TurnToken) -> Script {
    steps(vec![Step::Publish(vec![(0, 0)])])
}

/// An actor calls one of the other type.
fn nested(names: &Names, spec: &Spec, token: &TurnToken) -> Script {
    if token.invocation.home.kind != names.kinds[A] || token.step > 1 {
        return Script::default();
    }
    steps(vec![call(names, spec, token, B)])
}

/// The same with a step key: a retry attaches to the call.
fn keyed(names: &Names, spec: &Spec, token: &TurnToken) -> Script {
    let Script { steps: calls, .. } = nested(names, spec, token);
    let keyed = calls.into_iter().map(|step| match step {
        Step::Calls(calls, _) => {
            let with_key = calls.into_iter().map(|(target, spec)| (target, spec, "key".into()));
            Step::Keyed(with_key.collect())
        }
        other => other,
    });
    steps(keyed.collect())
}

/// An actor hands its invocation on to one of the other type.
fn tail(names: &Names, spec: &Spec, token: &TurnToken) -> Script {
    if token.step > 1 {
        return Script::default();
    }
    let tag = join(spec.tag, join(token.epoch, u64::from(token.attempt)));
    let next = Spec { tag, ..Spec::default() };
    Script { tail: Some((names.target(B, Some(0)), next, false)), ..Script::default() }
}

/// An actor tells one of the other type, calls it, and hands its invocation on to it: all in one flow.
fn flow(names: &Names, spec: &Spec, token: &TurnToken) -> Script {
    let Script { steps: calls, .. } = nested(names, spec, token);
    if calls.is_empty() {
        return Script::default();
    }
    let attempt = join(spec.tag, join(token.epoch, u64::from(token.attempt)));
    let own = |number| Spec { tag: join(attempt, number), ..Spec::default() };
    let target = names.target(B, Some(0));
    let mut all = vec![Step::Tell(target.clone(), own(1))];
    all.extend(calls);
    Script { tail: Some((target, own(2), false)), ..steps(all) }
}

fn steps(steps: Vec<Step>) -> Script {
    Script { steps, ..Script::default() }
}

/// A call of the one actor of a kind.
fn call(names: &Names, spec: &Spec, token: &TurnToken, kind: usize) -> Step {
    // What an attempt makes is its own.
    let tag = join(spec.tag, join(token.epoch, u64::from(token.attempt)));
    Step::Calls(vec![(names.target(kind, Some(0)), Spec { tag, ..Spec::default() })], Vec::new())
}

impl Config {
    /// The configuration of a name.
    pub fn named(name: &str) -> Option<Self> {
        CONFIGS.into_iter().find(|c| c.name == name)
    }

    /// Its world, before anything is chosen.
    pub(crate) fn world(&self, rules: Rules) -> World {
        let mut plan = Plan::bare(SEED, rules, self.slots.len());
        // Partitions that nobody uses would only make more worlds.
        let types = if self.slots.iter().any(|hosted| hosted.contains(LETTERS[B])) { 2 } else { 1 };
        plan.names = Rc::new(Names::new(types, 0, vec![1; types]));
        for (slot, hosted) in plan.slots.iter_mut().zip(self.slots) {
            slot.kinds = (0..LETTERS.len()).filter(|k| hosted.contains(LETTERS[*k])).collect();
            slot.no_peer = self.no_peer;
        }
        let (names, scripts) = (plan.names.clone(), self.scripts);
        let op = |(slot, mode, kind): &(usize, Mode, usize)| ClientOp {
            at: 0,
            slot: *slot,
            mode: Some(*mode),
            remind: None,
            removes: false,
            kind: *kind,
            actor: Some(0),
            fuel: 0,
            deadline_us: None,
            abandon_us: None,
            await_by: (*slot, MS),
        };
        if let Some(records) = self.snapshots {
            plan.limits.snapshot_after_records = records;
        }
        // Time does not pass here as it does elsewhere: peers are waited for, where there are any.
        plan.limits.inbox_after_ms = u64::MAX;
        plan.topics_tell_numbers = false;
        plan.ops = self.clients.iter().map(op).collect();
        let mut world = World::new(plan, false);
        world.hooks.script = Some(Rc::new(move |spec, token| Some(scripts(&names, spec, token))));
        let quick_inboxes = !self.no_peer;
        let (quick_store, quick_snapshots) = (!self.store, self.snapshots.is_none());
        world.open(Pending { quick_store, quick_snapshots, quick_inboxes, ..Pending::default() });
        for slot in 0..self.slots.len() {
            world.boot(slot);
        }
        world.settle();
        if !self.cold {
            come_to_rest(&mut world);
        }
        for index in 0..self.clients.len() {
            world.push(world.now, Due::Client(index));
        }
        world
    }
}

/// Lets the world come to rest by the first choice that there is.
fn come_to_rest(world: &mut World) {
    // Bounded: a few dozen steps make a cluster.
    for _ in 0..10_000 {
        match world.choices().first().copied() {
            Some(action) => world.act(action),
            None => break,
        }
    }
    assert!(world.is_at_rest(), "a cluster without faults and clients comes to rest");
}
