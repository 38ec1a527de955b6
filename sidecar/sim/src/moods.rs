//! Moods: which faults a run is rich in.

use crate::plan::Profile;
use crate::rng::Rng;

/// Nothing special.
pub(crate) fn usual(_: &mut Profile) {}

/// Appends are lost and late.
pub(crate) fn losing(profile: &mut Profile) {
    profile.lose_append = 15;
    profile.late_append = 15;
}

/// Connections break and owners change all the time.
pub(crate) fn restless(profile: &mut Profile) {
    profile.faults_max = 20;
    profile.fault_weights = [4, 2, 2, 0, 0, 4, 20, 0, 4, 0, 8, 0, 8, 0, 0];
    profile.hot = 600;
    profile.ops_max = 60;
}

/// Owners lose partitions and get them back, while messages linger.
pub(crate) fn boomerangs(profile: &mut Profile) {
    profile.faults_max = 20;
    profile.fault_weights = [0, 0, 0, 0, 0, 0, 0, 0, 0, 10, 10, 0, 10, 0, 0];
    profile.stall_message = 30;
    profile.lose_append = 10;
    profile.hot = 600;
    profile.ops_max = 60;
}

/// Many flows on few actors, and hosts that die in the middle of them.
pub(crate) fn contended(profile: &mut Profile) {
    profile.faults_max = 16;
    profile.fault_weights = [20, 10, 6, 0, 0, 8, 0, 0, 0, 0, 4, 0, 0, 0, 0];
    profile.hot = 700;
    profile.ops_max = 60;
    profile.nested = 500;
    profile.think_max = 20_000;
}

/// Hosts die while calls of their turns wait behind others.
pub(crate) fn orphaned(profile: &mut Profile) {
    profile.faults_max = 16;
    profile.fault_weights = [12, 20, 10, 0, 0, 4, 2, 0, 2, 0, 0, 0, 2, 0, 2];
    profile.no_peer = 150;
    profile.hot = 400;
    profile.ops_max = 50;
    profile.nested = 700;
    profile.keyed = 400;
    profile.think_max = 20_000;
}

/// Most calls have deadlines, and hosts that run only what is committed are lost with their nodes.
pub(crate) fn hasty(profile: &mut Profile) {
    profile.faults_max = 12;
    profile.fault_weights = [20, 0, 0, 0, 0, 10, 0, 0, 2, 0, 4, 0, 0, 0, 0];
    profile.strict = 900;
    profile.deadlines = 700;
    profile.hot = 500;
    profile.ops_max = 60;
    profile.think_max = 100_000;
}

/// Code of cut-off attempts runs on for longer than the grace.
pub(crate) fn unheeding(profile: &mut Profile) {
    profile.run_on_max = 600_000;
    profile.fault_weights = [2, 2, 8, 0, 0, 10, 0, 2, 4, 0, 20, 0, 0, 0, 0];
    profile.lose_append = 15;
    profile.hot = 500;
    profile.think_max = 20_000;
}

/// Nodes fall asleep, are given up, and wake.
pub(crate) fn sleepy(profile: &mut Profile) {
    profile.faults_max = 8;
    profile.fault_weights = [2, 2, 1, 4, 10, 2, 0, 0, 0, 2, 8, 2, 2, 0, 0];
    profile.pause_max = 1_800_000;
    profile.resumed = 200;
    profile.sleep_on_outcall = 60;
    profile.lose_append = 5;
    profile.nested = 600;
    profile.ops_max = 60;
}

/// Nodes and hosts leave in order.
pub(crate) fn leaving(profile: &mut Profile) {
    profile.faults_max = 12;
    profile.fault_weights = [1, 1, 1, 0, 0, 1, 2, 0, 20, 10, 1, 1, 1, 0, 0];
    profile.nested = 500;
    profile.think_max = 20_000;
}

/// Nodes stand still, and are told so when they go on.
pub(crate) fn dozing(profile: &mut Profile) {
    profile.faults_max = 12;
    profile.fault_weights = [0, 0, 0, 12, 12, 0, 0, 0, 0, 0, 0, 12, 0, 0, 0];
    profile.resumed = 1_000;
    profile.hot = 600;
    profile.ops_max = 80;
}

/// The hub is replaced again and again, and leases are back late.
pub(crate) fn hubless(profile: &mut Profile) {
    profile.fault_weights = [4, 0, 0, 0, 0, 0, 0, 20, 0, 0, 0, 0, 0, 0, 0];
    profile.hot = 600;
    profile.ops_max = 80;
}

/// Nodes and hosts leave in order, while code of streams that broke runs on.
pub(crate) fn parting(profile: &mut Profile) {
    leaving(profile);
    profile.fault_weights = [4, 2, 20, 0, 0, 6, 2, 0, 20, 10, 2, 0, 2, 0, 0];
    profile.faults_max = 16;
    profile.lose_append = 10;
    profile.hot = 600;
    profile.ops_max = 60;
}

/// Turns think for long, and owners are lost meanwhile.
pub(crate) fn thoughtful(profile: &mut Profile) {
    contended(profile);
    profile.think_max = 400_000;
    profile.lose_append = 10;
}

/// The store is far behind the logs, which are saved all the time.
pub(crate) fn lagging(profile: &mut Profile) {
    profile.store_lag = 200_000;
    profile.snapshots = 1_000;
    profile.hot = 700;
    profile.ops_max = 80;
}

/// Actors are removed, used again, and passive all the time.
pub(crate) fn mortal(profile: &mut Profile) {
    profile.removals_max = 40;
    profile.idle = 1_000;
    profile.remind_max = 20;
    profile.hot = 500;
    profile.ops_max = 60;
    profile.faults_max = 14;
    profile.fault_weights = [10, 10, 4, 0, 2, 10, 0, 1, 6, 2, 8, 2, 0, 0, 2];
}

/// Stores go back, and actors are not kept in memory.
pub(crate) fn forgetful(profile: &mut Profile) {
    profile.faults_max = 14;
    profile.fault_weights = [4, 2, 2, 2, 4, 12, 2, 2, 2, 2, 6, 12, 2, 30, 0];
    profile.uncached = 1_000;
    profile.hot = 500;
    profile.ops_max = 60;
}

/// Calls past the logs, more at once than hosts take.
pub(crate) fn direct(profile: &mut Profile) {
    profile.modes = [4, 2, 2, 16];
    profile.ops_max = 100;
    profile.faults_max = 20;
    profile.fault_weights = [6, 20, 20, 2, 2, 2, 2, 1, 2, 2, 2, 2, 2, 0, 0];
}

/// Flows wait for each other in circles.
pub(crate) fn crossing(profile: &mut Profile) {
    profile.crossing = 700;
    profile.hot = 300;
    profile.ops_max = 80;
    profile.nested = 700;
    profile.think_max = 20_000;
    profile.faults_max = 6;
}

/// Flows wait for each other, and what waits is ended by deadlines and by people while that is looked into.
pub(crate) fn dissolving(profile: &mut Profile) {
    crossing(profile);
    profile.stall_message = 60;
    profile.deadlines = 300;
    profile.controls_max = 40;
    profile.fault_weights = [2, 20, 6, 0, 0, 0, 6, 0, 0, 0, 0, 0, 12, 0, 0];
    profile.faults_max = 12;
    profile.nodes = (3, 4);
}

/// Owners are given up while they live or sleep, and are asked when they do not know it yet.
pub(crate) fn outdated(profile: &mut Profile) {
    profile.faults_max = 16;
    profile.fault_weights = [0, 0, 0, 4, 20, 20, 0, 0, 0, 0, 0, 20, 0, 0, 0];
    profile.resumed = 100;
    profile.hot = 700;
    profile.ops_max = 80;
    profile.modes = [10, 2, 10, 0];
    profile.reads_max = 60;
    profile.deaf = 1_000;
    profile.await_max = 5_000;
    profile.nodes = (2, 2);
    profile.read_after = 800;
}

/// The same, where much is started and asked for at once.
pub(crate) fn awaited(profile: &mut Profile) {
    outdated(profile);
    profile.modes = [1, 0, 20, 0];
    profile.reads_max = 0;
    profile.tails = 0;
    profile.keyed = 0;
    profile.once = 0;
    profile.shared = 0;
    profile.await_max = 2_000;
    profile.learn_max = 250_000;
}

/// Nodes without a peer plane, or that do not reach each other for a while.
pub(crate) fn apart(profile: &mut Profile) {
    profile.faults_max = 14;
    profile.fault_weights = [10, 3, 2, 3, 4, 8, 4, 2, 3, 1, 2, 2, 2, 0, 24];
    profile.no_peer = 400;
    profile.hot = 500;
    profile.ops_max = 60;
    profile.nested = 500;
}

/// The same, where much is told and its senders are given up.
pub(crate) fn told(profile: &mut Profile) {
    apart(profile);
    profile.modes = [3, 20, 2, 0];
    profile.fault_weights = [20, 0, 0, 2, 8, 16, 2, 2, 2, 0, 2, 2, 0, 0, 10];
    profile.no_peer = 800;
    profile.short_grace = 700;
    profile.lose_append = 15;
    profile.late_append = 15;
}

/// Turns publish all the time, into topics that go away and come back, and owners are lost in the middle of it.
pub(crate) fn publishing(profile: &mut Profile) {
    profile.publishes = 700;
    profile.topic_trouble = 250;
    profile.topic_faults_max = 8;
    profile.deliveries = 800;
    profile.modes = [8, 12, 2, 0];
    profile.hot = 400;
    profile.faults_max = 14;
    profile.fault_weights = [16, 6, 2, 2, 8, 14, 0, 3, 4, 0, 6, 2, 0, 0, 0];
    profile.lose_append = 10;
    profile.late_append = 10;
}

/// The same, and deliveries fail all the time, on hosts that die.
pub(crate) fn burying(profile: &mut Profile) {
    publishing(profile);
    profile.modes = [2, 20, 1, 0];
    profile.deliveries = 1_000;
    profile.controls_max = 30;
    profile.deadlines = 300;
    profile.tails = 500;
    profile.small_limits = 400;
    profile.topic_faults_max = 14;
}

/// Events are delivered while owners of subscriptions and of their targets are lost and given up.
pub(crate) fn subscribing(profile: &mut Profile) {
    profile.subscribes = 1_000;
    profile.events_max = 60;
    profile.sub_ops_max = 16;
    profile.source_faults_max = 5;
    profile.topic_trouble = 150;
    profile.ops_max = 20;
    profile.faults_max = 14;
    // Readers sleep while what they have sent lingers, and others read the same.
    profile.fault_weights = [14, 4, 2, 4, 16, 14, 4, 2, 4, 2, 8, 4, 8, 0, 4];
    profile.stall_message = 30;
    profile.lose_append = 10;
    profile.late_append = 10;
}

/// The same, and actors that have subscriptions of their own are removed.
pub(crate) fn removing(profile: &mut Profile) {
    subscribing(profile);
    profile.removals_max = 40;
}

/// Long chains of tail calls among few actors, whose owners are lost again and again.
pub(crate) fn wandering(profile: &mut Profile) {
    profile.faults_max = 16;
    profile.fault_weights = [12, 0, 0, 0, 6, 20, 0, 0, 6, 0, 4, 0, 0, 0, 0];
    profile.hot = 700;
    profile.ops_max = 60;
    profile.tails = 700;
}

impl Profile {
    /// Long chains of tail calls among few actors, whose owners are lost again and again.
    pub fn wandering() -> Self {
        let mut profile = Self::default();
        wandering(&mut profile);
        profile
    }

    /// The mood of a seed: the usual one half of the time. One seed of twelve is in a mood that is against a single
    /// rule, half of them on top of another one: what this one does not say stays.
    pub fn of_seed(seed: u64) -> Self {
        let mut profile = Self::default();
        let moods = [
            losing,
            restless,
            boomerangs,
            contended,
            unheeding,
            sleepy,
            leaving,
            forgetful,
            outdated,
            direct,
            crossing,
            mortal,
            orphaned,
            apart,
            told,
            publishing,
            burying,
            subscribing,
        ];
        let mut rng = Rng::new(seed ^ 0x6d6f_6f64);
        if rng.chance(500) {
            moods[rng.index(moods.len())](&mut profile);
        }
        let single =
            [hasty, lagging, dissolving, awaited, removing, wandering, dozing, hubless, parting];
        if rng.chance(80) {
            single[rng.index(single.len())](&mut profile);
        }
        profile
    }
}
