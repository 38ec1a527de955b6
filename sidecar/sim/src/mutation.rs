//! Every protecting rule of the core, switched off one at a time: the checkers must find out.

use kar_core::limits::Rules;

use crate::Report;
use crate::moods::{
    apart, awaited, boomerangs, burying, contended, crossing, dissolving, dozing, forgetful, hasty,
    hubless, lagging, losing, mortal, orphaned, outdated, parting, publishing, removing, restless,
    subscribing, thoughtful, told, unheeding, usual,
};
use crate::plan::Profile;

/// A rule that can be switched off.
#[derive(Clone, Copy, Debug)]
pub struct Mutation {
    /// Its name, as in [`Rules`].
    pub name: &'static str,
    flip: fn(&mut Rules),
    /// A rule behind this one that is off in the control run, too: it would hide what this one is
    /// for.
    behind: fn(&mut Rules),
    /// What makes the faults more likely that the rule is against.
    bias: fn(&mut Profile),
}

/// All rules.
pub const MUTATIONS: [Mutation; 116] = [
    one("compare-claim", |r| r.compare_claim = false, usual),
    one("gapless-sequence", |r| r.gapless_sequence = false, losing),
    one("drop-all-after-void", |r| r.drop_all_after_void = false, losing),
    one("channel-gap", |r| r.channel_gap = false, |p| p.lose_request = 30),
    behind_gap("resend-in-order", |r| r.resend_in_order = false, restless),
    behind_gap("request-epoch", |r| r.request_epoch = false, boomerangs),
    one("gate-calls", |r| r.gate_calls = false, usual),
    one("gate-replies", |r| r.gate_replies = false, usual),
    one("gate-acceptances", |r| r.gate_acceptances = false, usual),
    one("retire-only-closed", |r| r.retire_only_closed = false, usual),
    one("close-only-committed", |r| r.close_only_committed = false, usual),
    one("remember-retired", |r| r.remember_retired = false, usual),
    one("attach", |r| r.attach = false, usual),
    one("end-waits", |r| r.end_waits = false, usual),
    one("retry-waits", |r| r.retry_waits = false, usual),
    one("settled-proposals", |r| r.settled_proposals = false, usual),
    one("kept-lock", |r| r.kept_lock = false, contended),
    one("turn-token", |r| r.turn_token = false, unheeding),
    one("write-expects", |r| r.write_expects = false, forgetful),
    one("only-top", |r| r.only_top = false, usual),
    one("tail-lock", |r| r.tail_lock = false, contended),
    one("tail-home", |r| r.tail_home = false, usual),
    one("tail-order", |r| r.tail_order = false, usual),
    one("load-checks", |r| r.load_checks = false, forgetful),
    one("heed-cancel", |r| r.heed_cancel = false, contended),
    one("retry-bound", |r| r.retry_bound = false, usual),
    one("keep-parked", |r| r.keep_parked = false, contended),
    one("await-barrier", |r| r.await_barrier = false, awaited),
    one("read-barrier", |r| r.read_barrier = false, outdated),
    one("gate-reads", |r| r.gate_reads = false, usual),
    one("state-conditions", |r| r.state_conditions = false, usual),
    one("shared-apart", |r| r.shared_apart = false, contended),
    one("deadlock-probes", |r| r.deadlock_probes = false, crossing),
    one("remember-keys", |r| r.remember_keys = false, usual),
    one("recorded-steps", |r| r.recorded_steps = false, usual),
    one("kept-results", |r| r.kept_results = false, usual),
    one("snapshot-complete", |r| r.snapshot_complete = false, usual),
    one("snapshot-committed", |r| r.snapshot_committed = false, usual),
    one("trim-after-snapshot", |r| r.trim_after_snapshot = false, usual),
    one("trim-after-stored", |r| r.trim_after_stored = false, lagging),
    one("trim-delay", |r| r.trim_delay = false, forgetful),
    one("firing-moves-due", |r| r.firing_moves_due = false, usual),
    one("cancel-drops-firings", |r| r.cancel_drops_firings = false, usual),
    one("firing-after-commit", |r| r.firing_after_commit = false, usual),
    one("hold-hostless", |r| r.hold_hostless = false, usual),
    one("mark-starts", |r| r.mark_starts = false, hasty),
    one("inbox-offset", |r| r.inbox_offset = false, told),
    one("inbox-run", |r| r.inbox_run = false, apart),
    one("inbox-mark", |r| r.inbox_mark = false, told),
    one("inbox-read-back", |r| r.inbox_read_back = false, told),
    one("inbox-order", |r| r.inbox_order = false, told),
    one("inbox-promise", |r| r.inbox_promise = false, told),
    one("inbox-again", |r| r.inbox_again = false, apart),
    one("fresh-activations", |r| r.fresh_activations = false, mortal),
    one("lone-activations", |r| r.lone_activations = false, mortal),
    one("removal-in-queue", |r| r.removal_in_queue = false, mortal),
    one("removal-cancels", |r| r.removal_cancels = false, mortal),
    one("removal-drops-firings", |r| r.removal_drops_firings = false, mortal),
    one("count-started", |r| r.count_started = false, contended),
    one("log-resent", |r| r.log_resent = false, contended),
    one("gate-notices", |r| r.gate_notices = false, losing),
    one("hold-ends", |r| r.hold_ends = false, hasty),
    one("unmarked-stays", |r| r.unmarked_stays = false, usual),
    one("withdraw-unstarted", |r| r.withdraw_unstarted = false, orphaned),
    one("log-withdrawn", |r| r.log_withdrawn = false, orphaned),
    one("confirm-circles", |r| r.confirm_circles = false, dissolving),
    one("keep-keyed", |r| r.keep_keyed = false, orphaned),
    one("publish-before-commit", |r| r.gate_publishes = false, publishing),
    one("publish-without-learning", |r| r.learn_published = false, publishing),
    one("commit-before-accept", |r| r.floor_after_accept = false, subscribing),
    one("deliver-unnumbered", |r| r.deliver_by_offset = false, subscribing),
    one("filter-without-closing", |r| r.filter_closes = false, subscribing),
    one("topic-by-name", |r| r.topic_by_id = false, subscribing),
    one("removal-ends-subscriptions", |r| r.removal_ends_subscriptions = false, removing),
    one("dead-letter-apart", |r| r.bury_with_end = false, burying),
    one("settle-before-answer", |r| r.settle_landed = false, publishing),
    one("read-on", |r| r.read_on = false, subscribing),
    one("pause-barrier", |r| r.pause_barrier = false, dozing),
    one("lease", |r| r.lease = false, hubless),
    one("grace", |r| r.grace = false, contended),
    one("host-grace", |r| r.host_grace = false, parting),
    one("release-after-turns", |r| r.release_after_turns = false, parting),
    one("release-after-grace", |r| r.release_after_grace = false, parting),
    one("abandon-turns", |r| r.abandon_turns = false, thoughtful),
    one("append-timeout", |r| r.append_timeout = false, losing),
    one("drop-failed", |r| r.drop_failed = false, usual),
    one("retry-pause", |r| r.retry_pause = false, contended),
    one("lost-pause", |r| r.lost_pause = false, contended),
    one("park-poison", |r| r.park_poison = false, contended),
    one("strict", |r| r.strict = false, |p| p.strict = 900),
    one("gate-flushes", |r| r.gate_flushes = false, usual),
    one("gate-release", |r| r.gate_release = false, parting),
    one("gate-taken", |r| r.gate_taken = false, told),
    one("gate-named", |r| r.gate_named = false, losing),
    one("log-lower", |r| r.log_lower = false, contended),
    one("take-owed", |r| r.take_owed = false, |p| p.small_limits = 1_000),
    one("refuse-closed", |r| r.refuse_closed = false, told),
    one("descendants-only", |r| r.descendants_only = false, contended),
    one("queue-order", |r| r.queue_order = false, usual),
    one("hand-over-order", |r| r.hand_over_order = false, parting),
    Mutation {
        name: "nested-slotless",
        flip: |r| r.nested_slotless = false,
        behind: |r| r.give_back_slots = false,
        bias: contended,
    },
    Mutation {
        name: "give-back-slots",
        flip: |r| r.give_back_slots = false,
        behind: |r| r.nested_slotless = false,
        bias: contended,
    },
    one("slots", |r| r.slots = false, usual),
    one("expire", |r| r.expire = false, hasty),
    one("inherited-ran", |r| r.inherited_ran = false, contended),
    one("clock-forward", |r| r.clock_forward = false, contended),
    one("settle-late", |r| r.settle_late = false, usual),
    one("newest-statement", |r| r.newest_statement = false, apart),
    one("keep-place", |r| r.keep_place = false, contended),
    one("parked-holds", |r| r.parked_holds = false, contended),
    one("kept-flushes", |r| r.kept_flushes = false, orphaned),
    one("gate-deliveries", |r| r.gate_deliveries = false, subscribing),
    one("keep-unstored", |r| r.keep_unstored = false, forgetful),
    one("stop-reading", |r| r.stop_reading = false, subscribing),
    one("bound-deliveries", |r| r.bound_deliveries = false, subscribing),
    one("wait-unreadable", |r| r.wait_unreadable = false, subscribing),
];

/// Seeds within which every mutation must be found.
pub const SEEDS_MAX: u64 = 10_000;

const fn one(name: &'static str, flip: fn(&mut Rules), bias: fn(&mut Profile)) -> Mutation {
    Mutation { name, flip, behind: |_| {}, bias }
}

/// A rule whose absence the gap rule makes good.
const fn behind_gap(name: &'static str, flip: fn(&mut Rules), bias: fn(&mut Profile)) -> Mutation {
    Mutation { name, flip, behind: |r| r.channel_gap = false, bias }
}

impl Mutation {
    /// The mutation of a name.
    pub fn named(name: &str) -> Option<Self> {
        let name = name.replace('_', "-");
        MUTATIONS.into_iter().find(|m| m.name == name)
    }

    /// The rules without this one.
    pub fn rules(&self) -> Rules {
        let mut rules = self.control();
        (self.flip)(&mut rules);
        rules
    }

    /// The rules of the control run.
    pub fn control(&self) -> Rules {
        let mut rules = Rules::default();
        (self.behind)(&mut rules);
        rules
    }

    /// The profile of runs that look for it.
    pub fn profile(&self) -> Profile {
        let mut profile = Profile::default();
        (self.bias)(&mut profile);
        profile
    }

    /// Runs seeds until a violation is found that the rule would have prevented: the same seed is
    /// clean with it. Gives how many seeds were needed and what was found.
    pub fn hunt(&self, seeds: u64) -> Option<(u64, Report)> {
        let (profile, rules) = (self.profile(), self.rules());
        (0..seeds).find_map(|seed| {
            let report = crate::run(seed, &profile, rules, false);
            let found = !report.violations.is_empty()
                && crate::run(seed, &profile, self.control(), false).violations.is_empty();
            found.then_some((seed + 1, report))
        })
    }
}
