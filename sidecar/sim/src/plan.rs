//! What a run is made of, drawn from its seed before the run begins: the cluster, the clients'
//! operations and the faults with their times.
//!
//! Longer than most: all that is drawn stands in the order of the draws, which seeds depend on.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;

use kar_core::ids::{Class, Kind};
use kar_core::invocation::{Mode, Target};
use kar_core::limits::{Limits, Rules};

use crate::operator::{self, Policies};
use crate::reading::Reading;
use crate::remind::Remind;
use crate::rng::{Rng, mix};
use crate::subscribe::{self, Subscribing};
use crate::topic::{self, TopicFault};

/// Virtual time, microseconds since the start of the run.
pub(crate) type Us = u64;

/// Outcomes kept for ever are a leak.
pub(crate) const JUDGE_KEPT: bool = true;

/// One millisecond.
pub(crate) const MS: Us = 1000;

/// Actor instances per type; with the types it must fit the lock mask's 64 bits.
pub(crate) const ACTORS: usize = 3;
/// Keys of an actor's state.
const STATE_KEYS: usize = 3;

/// Clients' operations and faults happen before this time.
pub(crate) const HORIZON: Us = 2_500 * MS;

/// Nodes' clocks are ahead by no more than this, ms.
pub(crate) const SKEW_MAX_MS: u64 = 60;

/// A store goes back by no more than this.
pub(crate) const ROLLBACK_MAX: Us = 1_000 * MS;

/// How long a cut-off attempt's code may run on in well-behaved apps; less than `Limits::grace_ms`,
/// with room for the time that the cancellation travels.
pub(crate) const RUN_ON_MAX: Us = 50 * MS;

/// How likely what is. Weights are relative, chances are per mille.
#[derive(Clone, Debug)]
pub struct Profile {
    /// Greatest number of faults in a run.
    pub faults_max: u64,
    /// Weights of the faults, in the order of [`FAULTS`].
    pub fault_weights: [u32; FAULTS.len()],
    /// Chance that an append is lost.
    pub lose_append: u32,
    /// Chance that an append arrives late, after later ones of the same node.
    pub late_append: u32,
    /// Chance that a message makes its connection wait for some hundred milliseconds.
    pub stall_message: u32,
    /// Chance that a component registers `strict`.
    pub strict: u32,
    /// Chance that a run has small bounds, so that refusals happen.
    pub small_limits: u32,
    /// Weights of client operations: call, tell, start, direct.
    pub modes: [u32; 4],
    /// Greatest number of client operations.
    pub ops_max: u64,
    /// Chance that a client operation has a deadline.
    pub deadlines: u32,
    /// Chance that a step of a script is a call (or several), where it may be one.
    pub nested: u32,
    /// Chance that another step is a change to the actor's reminders, where it may be one.
    pub reminders: u32,
    /// Greatest number of changes to reminders that clients make.
    pub remind_max: u64,
    /// Greatest number of actors that clients remove.
    pub removals_max: u64,
    /// Chance that a run's actors become passive soon.
    pub idle: u32,
    /// Chance that a turn that may go on ends with a tail call.
    pub tails: u32,
    /// How many of the clients' invocations have idempotency keys.
    pub keyed_roots: u32,
    /// Chance that calls made together have step keys.
    pub keyed: u32,
    /// How much of what goes to actors is of a shared method.
    pub shared: u32,
    /// Chance that a call goes to anybody, also where flows may wait for each other in a circle.
    pub crossing: u32,
    /// Chance that a turn records a durable step; twice.
    pub once: u32,
    /// Chance that a nested call re-enters an actor that its chain holds, where it holds one.
    pub reenter: u32,
    /// Fewest and most nodes.
    pub nodes: (u64, u64),
    /// Chance of an operation to go to the same one actor.
    pub hot: u32,
    /// Longest think time of a script's step, µs.
    pub think_max: Us,
    /// How long code of a cut-off attempt runs on at most, µs. More than the grace is an app that
    /// does not heed cancellations; then overlaps of code are not judged.
    pub run_on_max: Us,
    /// Longest pause of a node that is given up meanwhile, µs.
    pub pause_max: Us,
    /// Chance that a node falls asleep, and is given up, when it has just proposed an outcall.
    pub sleep_on_outcall: u32,
    /// Chance that a node is told when it goes on after a pause.
    pub resumed: u32,
    /// Chance that a connection loses a single request, which connections never do.
    pub lose_request: u32,
    /// Chance that a run keeps no passive actor's state in memory.
    pub uncached: u32,
    /// Greatest number of reads from outside turns, at random times.
    pub reads_max: u64,
    /// Chance that whoever was told that a call ended reads the actor's state.
    pub read_after: u32,
    /// Chance that a node which is struck out while it lives hears neither from its logs nor from the membership until
    /// it is told.
    pub deaf: u32,
    /// How long after the acceptance a started invocation is awaited at most, µs.
    pub await_max: Us,
    /// Chance that a run takes snapshots after a few records.
    pub snapshots: u32,
    /// Chance that something about snapshots takes long.
    pub slow_snapshot: u32,
    /// Chance that it fails, and is perhaps done.
    pub fail_snapshot: u32,
    /// Chance that a snapshot is damaged when it is read.
    pub damage_snapshot: u32,
    /// Chance that a node has no peer plane.
    pub no_peer: u32,
    /// Chance that a run has a short grace for departed nodes: their channels are closed while they live.
    pub short_grace: u32,
    /// How often people have something done to an invocation, at most.
    pub controls_max: u64,
    /// How long a node that is struck out mostly does not know it, at most, µs.
    pub learn_max: Us,
    /// How much longer steps at the store of actors' states take at most, µs.
    pub store_lag: Us,
    /// Chance that a turn publishes; twice.
    pub publishes: u32,
    /// Chance that what is asked of a topic is lost, late, or not answered.
    pub topic_trouble: u32,
    /// Greatest number of topics that go away for a while, or for good.
    pub topic_faults_max: u64,
    /// Chance that a topic does not tell numbers apart.
    pub blind_topics: u32,
    /// Chance that a client's tell delivers an event.
    pub deliveries: u32,
    /// Chance that clients subscribe.
    pub subscribes: u32,
    /// Greatest number of events for them.
    pub events_max: u64,
    /// Greatest number of other things that clients do about subscriptions.
    pub sub_ops_max: u64,
    /// Greatest number of things that happen to their topic.
    pub source_faults_max: u64,
}

/// Names of the faults, in the order of [`Profile::fault_weights`].
pub const FAULTS: [&str; 15] = [
    "crash",
    "app-death",
    "stream-break",
    "pause",
    "pause-suspect",
    "suspect",
    "reset",
    "hub-crash",
    "drain",
    "app-goodbye",
    "log-lost",
    "read-stall",
    "net-stall",
    "store-rollback",
    "apart",
];

impl Default for Profile {
    fn default() -> Self {
        Self {
            faults_max: 8,
            //               cr ap st pa ps su re hu dr go lo rs ns rb aa
            fault_weights: [10, 8, 4, 6, 6, 6, 8, 2, 4, 2, 4, 4, 4, 4, 4],
            lose_append: 3,
            late_append: 2,
            stall_message: 2,
            strict: 200,
            small_limits: 60,
            modes: [10, 6, 3, 1],
            ops_max: 40,
            deadlines: 60,
            nested: 350,
            reminders: 200,
            remind_max: 6,
            removals_max: 5,
            idle: 500,
            tails: 250,
            keyed_roots: 120,
            keyed: 250,
            once: 200,
            shared: 250,
            crossing: 0,
            reenter: 300,
            nodes: (2, 4),
            hot: 200,
            think_max: 8 * MS,
            run_on_max: RUN_ON_MAX,
            pause_max: 700 * MS,
            sleep_on_outcall: 0,
            resumed: 600,
            lose_request: 0,
            uncached: 300,
            reads_max: 12,
            read_after: 250,
            deaf: 200,
            await_max: 300 * MS,
            snapshots: 700,
            slow_snapshot: 100,
            fail_snapshot: 20,
            damage_snapshot: 30,
            no_peer: 60,
            short_grace: 60,
            controls_max: 10,
            learn_max: 20 * MS,
            store_lag: 0,
            publishes: 120,
            topic_trouble: 60,
            topic_faults_max: 3,
            blind_topics: 500,
            deliveries: 400,
            subscribes: 200,
            events_max: 20,
            sub_ops_max: 8,
            source_faults_max: 2,
        }
    }
}

/// A fault with its own parameters; `slot` numbers a place where nodes live one after the other.
#[derive(Clone, Debug)]
pub(crate) enum Fault {
    /// The sidecar dies; its app `app_us` later.
    Crash { slot: usize, app_us: Us, down_us: Us, lease_us: Us },
    /// The app's process dies.
    AppDeath { slot: usize, down_us: Us },
    /// The app's stream breaks; its code runs on for a while.
    StreamBreak { slot: usize, back_us: Us },
    /// The sidecar stands still; `suspect_us`: it is struck out so long after the start.
    Pause { slot: usize, us: Us, resumed: bool, suspect_us: Option<Us>, learn_us: Us },
    /// The live sidecar is struck out and learns of it later.
    Suspect { slot: usize, learn_us: Us },
    /// A connection breaks.
    Reset { a: usize, b: usize, back_us: Us },
    /// The hub is replaced.
    HubCrash { lease_gap_us: Us },
    /// The sidecar is told to leave (and another one, at the same time), and comes back later.
    Drain { slot: usize, with: Option<usize>, back_us: Us },
    /// The app says goodbye, and comes back later.
    Goodbye { slot: usize, back_us: Us },
    /// Reading a log breaks off.
    LogLost { slot: usize, log: usize },
    /// A node's reading of a log stands still.
    ReadStall { slot: usize, log: usize, us: Us },
    /// A direction of a connection stands still.
    NetStall { from: usize, to: usize, us: Us },
    /// Two nodes do not reach each other; or only `deaf` does not reach the other one.
    Apart { a: usize, b: usize, deaf: Option<usize>, us: Us },
    /// The store of a partition goes back to what it was.
    Rollback { log: usize, back_us: Us },
}

/// An operation of a client.
#[derive(Clone, Debug)]
pub(crate) struct ClientOp {
    pub(crate) at: Us,
    pub(crate) slot: usize,
    /// `None`: direct.
    pub(crate) mode: Option<Mode>,
    /// A change to reminders; `mode` is none then.
    pub(crate) remind: Option<Remind>,
    /// The actor's removal; `mode` is none then.
    pub(crate) removes: bool,
    pub(crate) kind: usize,
    pub(crate) actor: Option<usize>,
    pub(crate) fuel: u8,
    pub(crate) deadline_us: Option<Us>,
    pub(crate) abandon_us: Option<Us>,
    /// For starts: which slot asks for the outcome, how long after the acceptance.
    pub(crate) await_by: (usize, Us),
}

/// A read of an actor's state from outside its turns.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ReadOp {
    pub(crate) at: Us,
    pub(crate) slot: usize,
    pub(crate) kind: usize,
    pub(crate) actor: usize,
    pub(crate) reading: Reading,
}

/// What lives in a slot.
#[derive(Clone, Debug)]
pub(crate) struct SlotPlan {
    pub(crate) joins_at: Us,
    pub(crate) kinds: Vec<usize>,
    pub(crate) concurrency: u32,
    pub(crate) strict: bool,
    /// It has no peer plane.
    pub(crate) no_peer: bool,
    /// Its component is told when actors become passive.
    pub(crate) hooks: bool,
    /// How far its clock is ahead of what clients and components go by, ms.
    pub(crate) skew_ms: u64,
}

impl SlotPlan {
    /// The actor types that its component has a hook for.
    pub(crate) fn deactivates(&self, names: &Names) -> BTreeSet<Kind> {
        let kinds = self.kinds.iter().map(|kind| names.kinds[*kind].clone());
        kinds.filter(|kind| self.hooks && kind.class == Class::Actor).collect()
    }

    /// What its component registers as shared.
    pub(crate) fn shared(&self, names: &Names) -> BTreeMap<Kind, BTreeSet<Arc<str>>> {
        let kinds = self.kinds.iter().map(|kind| names.kinds[*kind].clone());
        let actors = kinds.filter(|kind| kind.class == Class::Actor);
        actors.map(|kind| (kind, [names.shared_method.clone()].into())).collect()
    }
}

/// A whole run, before it begins.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    pub(crate) profile: Profile,
    pub(crate) rules: Rules,
    pub(crate) limits: Limits,
    pub(crate) small_limits: bool,
    pub(crate) names: Rc<Names>,
    pub(crate) slots: Vec<SlotPlan>,
    pub(crate) ops: Vec<ClientOp>,
    pub(crate) reads: Vec<ReadOp>,
    pub(crate) faults: Vec<(Us, Fault)>,
    /// Kinds are known to the membership from the start.
    pub(crate) kinds_known: bool,
    /// Otherwise: the membership makes each kind known at this time at the earliest.
    pub(crate) kinds_at: Vec<Us>,
    /// How retryable errors are retried.
    pub(crate) policies: Policies,
    /// When somebody has something done to an invocation, and what.
    pub(crate) controls: Vec<(Us, bool)>,
    /// What happens to topics when.
    pub(crate) topic_faults: Vec<(Us, TopicFault)>,
    /// Topics tell numbers apart.
    pub(crate) topics_tell_numbers: bool,
    /// What happens about subscriptions.
    pub(crate) subscribing: Subscribing,
}

/// Shared names, so that nothing is allocated per message.
#[derive(Clone, Debug)]
pub(crate) struct Names {
    pub(crate) kinds: Vec<Kind>,
    /// Partitions of each kind.
    pub(crate) counts: Vec<u32>,
    pub(crate) actors: Vec<Arc<str>>,
    pub(crate) keys: Vec<Arc<str>>,
    pub(crate) affinities: Vec<Arc<str>>,
    pub(crate) method: Arc<str>,
    /// A method that actors' hosts register as shared.
    pub(crate) shared_method: Arc<str>,
    /// How much of what goes to actors is of it, ‰.
    pub(crate) shared: u32,
    pub(crate) empty: Arc<str>,
}

impl Names {
    pub(crate) fn new(actor_types: usize, services: usize, counts: Vec<u32>) -> Self {
        let actors = ["A", "B"].iter().take(actor_types).map(|n| Kind::actor(n));
        let services = ["s", "t"].iter().take(services).map(|n| Kind::service(n));
        Self {
            kinds: actors.chain(services).collect(),
            counts,
            actors: (0..ACTORS).map(|i| format!("x{i}").into()).collect(),
            keys: (0..STATE_KEYS).map(|i| format!("k{i}").into()).collect(),
            affinities: (0..2).map(|i| format!("f{i}").into()).collect(),
            method: "m".into(),
            shared_method: "r".into(),
            shared: 0,
            empty: "".into(),
        }
    }

    /// Kinds that are called: the system's own come behind them.
    pub(crate) fn targets(&self) -> usize {
        self.kinds.iter().filter(|kind| kind.class != Class::System).count()
    }

    /// Subscriptions are used.
    pub(crate) fn subscribe(&mut self, seed: u64) {
        self.kinds.push(Kind::subscriptions());
        self.counts.push(Rng::new(seed ^ 0x6b69_6e64).range(1, 2) as u32);
    }

    /// The method that a payload's tag stands for.
    pub(crate) fn method_of(&self, tag: u64, is_actor: bool) -> Arc<str> {
        if is_actor && self.is_shared(tag) { &self.shared_method } else { &self.method }.clone()
    }

    /// Whether what a tag stands for is of a shared method, if it goes to an actor.
    pub(crate) fn is_shared(&self, tag: u64) -> bool {
        mix(tag ^ 0x7368_6172) % 1000 < u64::from(self.shared)
    }

    /// Number of a kind; kinds outside the plan do not occur.
    pub(crate) fn kind(&self, kind: &Kind) -> usize {
        self.kinds.iter().position(|k| k == kind).expect("only kinds of the plan are used")
    }

    /// Number of an actor instance.
    pub(crate) fn actor(&self, actor: &str) -> usize {
        self.actors.iter().position(|a| &**a == actor).expect("only actors of the plan are used")
    }

    /// The target that a number of a kind and of an actor stand for.
    pub(crate) fn target(&self, kind: usize, actor: Option<usize>) -> Target {
        Target {
            kind: self.kinds[kind].clone(),
            actor: actor.map(|a| self.actors[a].clone()),
            affinity: None,
        }
    }
}

/// The simulator's bounds: short times, so that a run sees timeouts, retries and closed channels.
pub(crate) fn limits(rng: &mut Rng, small: bool) -> Limits {
    let mut limits = Limits {
        grace_ms: 100,
        append_timeout_ms: 600,
        channel_timer_ms: 200,
        // Longer than clients send again, and shorter than a run.
        key_retention_ms: 8_000,
        deadlock_probe_ms: rng.range(20, 100),
        deadlock_probes_max: rng.range(3, 8) as usize,
        deadlock_fanout_max: rng.range(2, 4) as usize,
        departed_grace_ms: 1_500,
        drain_timeout_ms: 300,
        host_return_ms: 150,
        // A hand-over's work is bounded by these: a node that does not come to rest is found soon.
        unfinished_per_partition_max: 2_000,
        roots_per_node_max: 2_000,
        closed_channels_max: rng.range(0, 2) as usize,
        // See `draw_snapshots`.
        snapshot_after_records: u64::MAX,
        snapshot_after_bytes: u64::MAX,
        reminder_lateness_ms: 100,
        publish_retry_ms: 20,
        publish_retry_max_ms: 150,
        // See `draw_idle`.
        actor_idle_ms: u64::MAX,
        ..Limits::default()
    };
    if small {
        limits.queue_per_actor_max = rng.range(1, 3) as usize;
        limits.unfinished_per_partition_max = rng.range(4, 12) as usize;
        limits.depth_max = rng.range(2, 4) as usize;
        limits.segment_sends_max = 1;
        limits.records_in_flight_max = rng.range(1, 4) as usize;
        limits.speculation_per_actor_max = rng.range(1, 3) as u32;
        limits.roots_per_node_max = rng.range(4, 10) as usize;
    }
    limits
}

/// Half of the runs have windows of a few requests or bytes, so that channels wait for them; small bounds are small in
/// bytes, too. Drawn apart, so that the rest of a seed's plan does not depend on it.
fn bound_bytes(limits: &mut Limits, seed: u64, small: bool) {
    let mut rng = Rng::new(seed ^ 0x6279_7465);
    if rng.chance(500) {
        limits.window_requests_max = rng.range(1, 4) as usize;
        limits.window_bytes_max = rng.range(1, 800) as usize;
    }
    if rng.chance(150) {
        limits.results_per_partition_max = rng.range(0, 2) as usize;
        limits.result_retention_ms = rng.range(50, 1_000);
    }
    if rng.chance(100) {
        limits.record_bytes_target = rng.range(100, 600) as usize;
    }
    if small {
        limits.calls_per_turn_max = rng.range(1, 2) as usize;
        if rng.chance(500) {
            limits.unfinished_per_partition_max = rng.range(1, 3) as usize;
        }
        limits.segment_bytes_max = rng.range(100, 600) as usize;
        limits.direct_bytes_max = rng.range(1, 40) as usize;
        limits.outbox_per_partition_max = rng.range(2, 6) as usize;
        limits.outbox_bytes_per_partition_max = rng.range(300, 2_000) as usize;
        limits.unfinished_bytes_per_partition_max = rng.range(600, 4_000) as usize;
        limits.unstored_bytes_per_partition_max = rng.range(100, 1_000) as usize;
        limits.state_bytes_per_actor_max = rng.range(60, 400) as usize;
        limits.steps_per_invocation_max = rng.range(1, 3) as usize;
        limits.step_bytes_per_invocation_max = rng.range(40, 400) as usize;
    }
}

/// Some runs have room for few reminders, or fire few at once. Drawn apart, too.
fn bound_reminders(limits: &mut Limits, seed: u64, small: bool) {
    let mut rng = Rng::new(seed ^ 0x626f_756e_6473);
    if rng.chance(200) {
        limits.reminder_firings_per_record_max = 1;
    }
    if small {
        match rng.below(4) {
            0 => limits.reminders_per_actor_max = 1,
            1 => limits.reminders_per_partition_max = rng.range(1, 2) as usize,
            2 => limits.reminders_bytes_per_partition_max = rng.range(50, 300) as usize,
            _ => {}
        }
    }
}

/// Some runs with small bounds remember few bytes under idempotency keys. Drawn apart, too.
fn bound_keys(limits: &mut Limits, seed: u64, small: bool) {
    let mut rng = Rng::new(seed ^ 0x6b65_7973_6d61_7800);
    if small && rng.chance(500) {
        limits.keys_bytes_per_partition_max = rng.range(64, 300) as usize;
    }
}

/// Some runs have small windows into topics, or few channels. Tells whether topics tell numbers apart. Drawn apart.
fn bound_topics(limits: &mut Limits, profile: &Profile, seed: u64, small: bool) -> bool {
    let mut rng = Rng::new(seed ^ 0x0077_696e_646f_7773);
    if rng.chance(500) {
        limits.publish_window_events_max = rng.range(1, 3) as usize;
        limits.publish_window_bytes_max = rng.range(1, 40) as usize;
    }
    if small {
        limits.topic_channels_per_partition_max = rng.range(1, 2) as usize;
    }
    !rng.chance(profile.blind_topics)
}

/// How soon actors become passive, and who is told of it; drawn apart, too.
fn draw_idle(limits: &mut Limits, slots: &mut [SlotPlan], profile: &Profile, seed: u64) {
    let mut rng = Rng::new(seed ^ 0x6964_6c65);
    for slot in slots {
        slot.hooks = rng.chance(700);
    }
    if limits.cached_actors_max == 0 {
        limits.cached_actors_max = rng.range(0, 2) as usize;
    }
    if rng.chance(profile.idle) {
        limits.actor_idle_ms = if rng.chance(500) { rng.range(1, 20) } else { rng.range(20, 300) };
        limits.deactivations_max = rng.range(1, 3) as usize;
    }
}

/// In half of the runs no two nodes' clocks show the same; drawn apart, too.
fn draw_skew(slots: &mut [SlotPlan], seed: u64) {
    let mut rng = Rng::new(seed ^ 0x736b_6577);
    if rng.chance(500) {
        slots.iter_mut().for_each(|slot| slot.skew_ms = rng.range(0, SKEW_MAX_MS));
    }
}

/// How often snapshots are taken, and how far a store may go back: drawn apart, too.
fn draw_snapshots(limits: &mut Limits, profile: &Profile, seed: u64, goes_back: bool) {
    let mut rng = Rng::new(seed ^ 0x736e_6170);
    if !rng.chance(profile.snapshots) {
        return;
    }
    if rng.chance(800) {
        limits.snapshot_after_records = rng.range(1, 12);
    } else {
        limits.snapshot_after_bytes = rng.range(1, 4_000);
    }
    limits.trim_delay_ms = match () {
        () if goes_back => ROLLBACK_MAX / MS + 50,
        () if rng.chance(700) => 0,
        () => rng.range(1, 300),
    };
}

impl Plan {
    /// A cluster without operations and faults, for directed schedules.
    pub(crate) fn bare(seed: u64, rules: Rules, nodes: usize) -> Self {
        let profile =
            Profile { lose_append: 0, late_append: 0, stall_message: 0, ..Profile::default() };
        let names = Rc::new(Names::new(2, 1, vec![1, 1, 1]));
        let slot = SlotPlan {
            joins_at: 0,
            kinds: vec![0, 1, 2],
            concurrency: 16,
            strict: false,
            no_peer: false,
            hooks: false,
            skew_ms: 0,
        };
        Self {
            seed,
            profile,
            rules,
            limits: limits(&mut Rng::new(seed), false),
            small_limits: false,
            names,
            slots: vec![slot; nodes],
            ops: Vec::new(),
            reads: Vec::new(),
            faults: Vec::new(),
            kinds_known: true,
            kinds_at: vec![0; 3],
            policies: Policies::default(),
            controls: Vec::new(),
            topic_faults: Vec::new(),
            topics_tell_numbers: true,
            subscribing: Subscribing::default(),
        }
    }

    /// Whether bounds and times of what is kept for whoever asks are those of real life.
    pub(crate) fn keeps_results(&self) -> bool {
        let (limits, usual) = (&self.limits, Limits::default());
        (limits.results_per_partition_max, limits.keys_bytes_per_partition_max)
            == (usual.results_per_partition_max, usual.keys_bytes_per_partition_max)
    }

    /// Draws a run from a seed.
    pub(crate) fn draw(seed: u64, profile: &Profile, rules: Rules) -> Self {
        let mut rng = Rng::new(seed);
        let (actor_types, services) = (rng.range(1, 2) as usize, rng.range(1, 2) as usize);
        let counts = (0..actor_types + services).map(|_| rng.range(1, 3) as u32).collect();
        let mut names = Names::new(actor_types, services, counts);
        names.shared = profile.shared;
        let subscribes = Rng::new(seed ^ 0x7375_6273).chance(profile.subscribes);
        if subscribes {
            names.subscribe(seed);
        }
        let names = Rc::new(names);
        let mut slots = draw_slots(&mut rng, profile, names.targets());
        let small = rng.chance(profile.small_limits);
        let mut limits = limits(&mut rng, small);
        if rng.chance(profile.uncached) {
            limits.cached_actors_max = 0;
        }
        bound_bytes(&mut limits, seed, small);
        bound_reminders(&mut limits, seed, small);
        bound_keys(&mut limits, seed, small);
        draw_inboxes(&mut limits, &mut slots, profile, seed);
        draw_idle(&mut limits, &mut slots, profile, seed);
        let topics_tell_numbers = bound_topics(&mut limits, profile, seed, small);
        let topic_faults = topic::draw_faults(seed, profile);
        let subscribing = if subscribes {
            bound_deliveries(&mut limits, seed);
            subscribe::draw(seed, profile, slots.len())
        } else {
            Subscribing::default()
        };
        draw_skew(&mut slots, seed);
        let (policies, controls) =
            operator::draw(seed, names.targets(), profile.controls_max, &mut limits);
        let mut ops: Vec<_> = (0..rng.range(6, profile.ops_max))
            .map(|_| draw_op(&mut rng, profile, actor_types, &names, slots.len()))
            .collect();
        ops.extend(draw_reminds(seed, profile, actor_types, slots.len()));
        ops.extend(draw_removals(seed, profile, actor_types, slots.len()));
        let reads = draw_reads(seed, profile, actor_types, slots.len());
        let logs = names.counts.iter().sum::<u32>() as usize;
        let faults: Vec<(Us, Fault)> = (0..rng.range(0, profile.faults_max))
            .map(|_| {
                let at = rng.range(30 * MS, HORIZON);
                (at, draw_fault(&mut rng, profile, slots.len(), logs))
            })
            .collect();
        let goes_back = faults.iter().any(|(_, f)| matches!(f, Fault::Rollback { .. }));
        draw_snapshots(&mut limits, profile, seed, goes_back);
        let kinds_known = rng.chance(850);
        let kinds_at = names.kinds.iter().map(|_| span(&mut rng, 5 * MS, 600 * MS)).collect();
        let profile = profile.clone();
        Self {
            seed,
            profile,
            rules,
            limits,
            small_limits: small,
            names,
            slots,
            ops,
            reads,
            faults,
            kinds_known,
            kinds_at,
            policies,
            controls,
            topic_faults,
            topics_tell_numbers,
            subscribing,
        }
    }
}

/// How many events wait for a slow subscriber; drawn apart, too.
fn bound_deliveries(limits: &mut Limits, seed: u64) {
    let mut rng = Rng::new(seed ^ 0x776a_6974);
    if rng.chance(400) {
        limits.deliveries_waiting_max = rng.range(1, 3) as usize;
    }
    if rng.chance(300) {
        limits.subscription_in_flight_bytes_max = rng.range(1, 600) as usize;
        // Of one topic partition, so that several of them are in each other's way.
        limits.deliveries_bytes_per_partition_max = limits.subscription_in_flight_bytes_max;
    }
}

/// Who has no peer plane, and when inboxes are taken; drawn apart.
fn draw_inboxes(limits: &mut Limits, slots: &mut [SlotPlan], profile: &Profile, seed: u64) {
    let mut rng = Rng::new(seed ^ 0x0069_6e62_6f78);
    limits.inbox_after_ms = rng.range(30, 500);
    limits.inbox_trim_entries = rng.range(3, 60);
    if rng.chance(300) {
        limits.inbox_trim_bytes = rng.range(200, 4_000) as usize;
    }
    if rng.chance(profile.short_grace) {
        limits.departed_grace_ms = rng.range(5, 60);
    }
    for slot in slots {
        slot.no_peer = rng.chance(profile.no_peer);
    }
}

fn draw_slots(rng: &mut Rng, profile: &Profile, kinds: usize) -> Vec<SlotPlan> {
    let nodes = rng.range(profile.nodes.0, profile.nodes.1);
    let mut slots: Vec<SlotPlan> = (0..nodes)
        .map(|_| SlotPlan {
            joins_at: if rng.chance(800) {
                rng.range(0, 30 * MS)
            } else {
                rng.range(0, HORIZON / 2)
            },
            kinds: (0..kinds).filter(|_| rng.chance(700)).collect(),
            concurrency: rng.range(1, 6) as u32,
            strict: rng.chance(profile.strict),
            no_peer: false,
            // Drawn apart, see `draw_idle` and `draw_skew`.
            hooks: false,
            skew_ms: 0,
        })
        .collect();
    for kind in 0..kinds {
        // Every kind has hosts, two where possible, so that failover has somewhere to go.
        for _ in 0..2 {
            let slot = rng.index(slots.len());
            if !slots[slot].kinds.contains(&kind) {
                slots[slot].kinds.push(kind);
            }
        }
    }
    slots
}

fn draw_op(
    rng: &mut Rng,
    profile: &Profile,
    actor_types: usize,
    names: &Names,
    slots: usize,
) -> ClientOp {
    let mode = match rng.weighted(&profile.modes) {
        0 => Some(Mode::Call),
        1 => Some(Mode::Tell),
        2 => Some(Mode::Start),
        _ => None,
    };
    let hot = rng.chance(profile.hot);
    let kind = match (mode, hot) {
        (None, _) => actor_types + rng.index(names.targets() - actor_types),
        (_, true) => 0,
        _ => rng.index(names.targets()),
    };
    let actor = (kind < actor_types).then(|| if hot { 0 } else { rng.index(ACTORS) });
    ClientOp {
        at: rng.range(20 * MS, HORIZON),
        slot: rng.index(slots),
        mode,
        remind: None,
        removes: false,
        kind,
        actor,
        fuel: rng.range(0, 5) as u8,
        deadline_us: rng.chance(profile.deadlines).then(|| rng.range(5 * MS, 400 * MS)),
        abandon_us: rng.chance(60).then(|| rng.range(0, 200 * MS)),
        await_by: (rng.index(slots), rng.range(0, profile.await_max)),
    }
}

/// Reads from outside turns, drawn apart as the bounds in bytes are.
fn draw_reads(seed: u64, profile: &Profile, actor_types: usize, slots: usize) -> Vec<ReadOp> {
    let mut rng = Rng::new(seed ^ 0x7265_6164);
    let count = rng.range(0, profile.reads_max);
    let draw = |_| {
        let at = rng.range(20 * MS, HORIZON);
        draw_read(&mut rng, profile, (at, actor_types, slots))
    };
    (0..count).map(draw).collect()
}

/// A read at a time, of one of some actor types, at one of some slots.
fn draw_read(
    rng: &mut Rng,
    profile: &Profile,
    (at, actor_types, slots): (Us, usize, usize),
) -> ReadOp {
    let hot = rng.chance(profile.hot.max(500));
    ReadOp {
        at,
        slot: rng.index(slots),
        kind: if hot { 0 } else { rng.index(actor_types) },
        actor: if hot { 0 } else { rng.index(ACTORS) },
        reading: Reading::draw(rng, STATE_KEYS, 300),
    }
}

/// Changes to reminders that clients make; drawn apart, so that the rest of a seed's plan does not depend on them.
fn draw_reminds(seed: u64, profile: &Profile, actor_types: usize, slots: usize) -> Vec<ClientOp> {
    let mut rng = Rng::new(seed ^ 0x7265_6d69_6e64);
    let count = rng.range(0, profile.remind_max);
    let mut draw = || ClientOp {
        at: rng.range(20 * MS, HORIZON),
        slot: rng.index(slots),
        mode: None,
        // The tag is the request's.
        remind: Some(Remind::draw(&mut rng, 0)),
        removes: false,
        kind: rng.index(actor_types),
        actor: Some(rng.index(ACTORS)),
        fuel: 0,
        deadline_us: None,
        abandon_us: rng.chance(60).then(|| rng.range(0, 200 * MS)),
        await_by: (0, 0),
    };
    (0..count).map(|_| draw()).collect()
}

/// Actors that clients remove; drawn apart, too.
fn draw_removals(seed: u64, profile: &Profile, actor_types: usize, slots: usize) -> Vec<ClientOp> {
    let mut rng = Rng::new(seed ^ 0x7265_6d6f_7665);
    let count = rng.range(0, profile.removals_max);
    let mut draw = || {
        let hot = rng.chance(profile.hot);
        ClientOp {
            at: rng.range(20 * MS, HORIZON),
            slot: rng.index(slots),
            mode: None,
            remind: None,
            removes: true,
            kind: if hot { 0 } else { rng.index(actor_types) },
            actor: Some(if hot { 0 } else { rng.index(ACTORS) }),
            fuel: 0,
            deadline_us: None,
            abandon_us: rng.chance(60).then(|| rng.range(0, 200 * MS)),
            await_by: (0, 0),
        }
    };
    (0..count).map(|_| draw()).collect()
}

/// A duration that is mostly short, sometimes long.
fn span(rng: &mut Rng, short: Us, long: Us) -> Us {
    if rng.chance(700) { rng.range(0, short) } else { rng.range(short, long) }
}

fn draw_fault(rng: &mut Rng, profile: &Profile, slots: usize, logs: usize) -> Fault {
    let slot = rng.index(slots);
    let other = (slot + 1 + rng.index(slots - 1)) % slots;
    let log = rng.index(logs);
    match rng.weighted(&profile.fault_weights) {
        0 => Fault::Crash {
            slot,
            app_us: if rng.chance(500) { 0 } else { rng.range(0, profile.run_on_max) },
            down_us: rng.range(20 * MS, 800 * MS),
            lease_us: span(rng, 5 * MS, 300 * MS),
        },
        1 => Fault::AppDeath { slot, down_us: span(rng, 50 * MS, 500 * MS) },
        2 => Fault::StreamBreak { slot, back_us: span(rng, 20 * MS, 300 * MS) },
        3 => Fault::Pause {
            slot,
            us: span(rng, 60 * MS, 600 * MS),
            resumed: rng.chance(profile.resumed),
            suspect_us: None,
            learn_us: 0,
        },
        4 => Fault::Pause {
            slot,
            us: rng.range(60 * MS, profile.pause_max),
            resumed: rng.chance(profile.resumed),
            suspect_us: Some(rng.range(0, 50 * MS)),
            learn_us: span(rng, 5 * MS, 100 * MS),
        },
        5 => Fault::Suspect { slot, learn_us: span(rng, profile.learn_max, 300 * MS) },
        6 => Fault::Reset { a: slot, b: other, back_us: span(rng, 20 * MS, 200 * MS) },
        7 => Fault::HubCrash { lease_gap_us: rng.range(MS, 100 * MS) },
        8 => Fault::Drain {
            slot,
            with: rng.chance(400).then_some(other),
            back_us: rng.range(10 * MS, 600 * MS),
        },
        9 => Fault::Goodbye { slot, back_us: rng.range(50 * MS, 600 * MS) },
        10 => Fault::LogLost { slot, log },
        11 => Fault::ReadStall { slot, log, us: rng.range(20 * MS, 400 * MS) },
        14 => Fault::Apart {
            a: slot,
            b: other,
            deaf: rng.chance(400).then_some(if rng.chance(500) { slot } else { other }),
            us: span(rng, 300 * MS, 1_500 * MS),
        },
        12 => Fault::NetStall { from: slot, to: other, us: rng.range(20 * MS, 500 * MS) },
        _ => Fault::Rollback { log, back_us: rng.range(10 * MS, ROLLBACK_MAX) },
    }
}
