//! The core under the simulator: random seeds, directed schedules, and proof that the checkers
//! bite.

use std::collections::BTreeSet;

use kar_core::limits::Rules;
use kar_sim::{
    Bounds, CONFIGS, Config, MUTATIONS, Mutation, Profile, Report, SCHEDULES, SEEDS_MAX, Schedule,
};

/// Random seeds of the quick test; `cargo sim -- --seeds 10000` is the long one.
const SMOKE_SEEDS: u64 = 300;

/// Within so many seeds every schedule of the design must have happened by chance.
const HAPPEN_SEEDS: u64 = 2_000;

/// Rules whose absence a small configuration shows, without chance.
const EXPLORED_MUTATIONS: [(&str, &str); 12] = [
    ("two-nodes-call", "gate-replies"),
    ("tell", "gate-acceptances"),
    ("nested", "gate-calls"),
    ("two-nodes-call", "attach"),
    ("claim-race", "compare-claim"),
    ("nested", "retire-only-closed"),
    ("nested", "settled-proposals"),
    ("withdraw", "withdraw-unstarted"),
    ("withdraw", "log-withdrawn"),
    ("withdraw-keyed", "keep-keyed"),
    ("publish", "publish-before-commit"),
    ("publish", "publish-without-learning"),
];

fn clean(report: &Report) {
    assert!(
        report.violations.is_empty(),
        "seed {}: replay with `cargo sim -- {} --trace`: {:#?}",
        report.seed,
        report.seed,
        report.violations
    );
}

#[test]
fn random_runs_keep_every_promise() {
    for seed in 0..SMOKE_SEEDS {
        clean(&kar_sim::run(seed, &Profile::of_seed(seed), Rules::default(), false));
    }
}

#[test]
fn equal_seeds_give_equal_runs() {
    for seed in 0..20 {
        let profile = Profile::of_seed(seed);
        let first = kar_sim::fingerprint(seed, &profile);
        assert_eq!(first, kar_sim::fingerprint(seed, &profile), "seed {seed}");
        assert_ne!(first, kar_sim::fingerprint(seed + 1, &profile), "seed {seed} and the next");
    }
}

#[test]
fn directed_schedules_happen_and_keep_every_promise() {
    for schedule in SCHEDULES {
        let report = schedule.run(Rules::default(), false);
        assert!(report.violations.is_empty(), "{}: {:#?}", schedule.name, report.violations);
    }
}

/// A rule whose absence shows once in a million seeds: directed.
#[test]
fn an_owner_that_was_replaced_is_no_witness_of_a_circle() {
    let schedule = Schedule::named("outdated-witness").expect("it is one of them");
    let mut rules = Rules::default();
    rules.confirm_in_reign = false;
    let report = schedule.run(rules, false);
    let found = report.violations.iter().any(|text| text.contains("P9 deadlock"));
    assert!(found, "{:#?}", report.violations);
}

#[test]
fn every_schedule_really_happens_in_random_runs() {
    let rare = [
        "(windows asked)",
        "(outcomes cut)",
        "(reads raced)",
        "(steps recalled)",
        "(calls recalled)",
        "(keys again)",
        "(deadlocks)",
        "(shared beside)",
        "(shared to exclusive)",
        "(cancelled)",
        "(errors retried)",
        "(parked)",
        "(withdrawn)",
        "(redriven)",
        "(reminders fired)",
        "(reminders late)",
        "(firings dropped)",
        "(inbox entries taken)",
        "(promised by inboxes)",
        "(events published)",
        "(dead-lettered)",
    ];
    let schedules = SCHEDULES.iter().map(|schedule| schedule.name);
    // Too rare by chance: searched for where chains of tail calls are long.
    let wandering = ["pingpong-tail"];
    let usual = schedules.chain(rare).filter(|name| !wandering.contains(name));
    happen(usual, Profile::of_seed);
    happen(wandering, |_| Profile::wandering());
}

/// Runs seeds until all that is named has happened.
fn happen(names: impl IntoIterator<Item = &'static str>, profile: impl Fn(u64) -> Profile) {
    let mut missing: BTreeSet<_> = names.into_iter().collect();
    for seed in 0..HAPPEN_SEEDS {
        let report = kar_sim::run(seed, &profile(seed), Rules::default(), false);
        clean(&report);
        for (name, count) in report.counts {
            if count > 0 {
                missing.remove(name);
            }
        }
        if missing.is_empty() {
            return;
        }
    }
    panic!("never happened within {HAPPEN_SEEDS} seeds: {missing:?}");
}

#[test]
fn without_any_rule_a_promise_is_broken() {
    for mutation in MUTATIONS {
        let found = mutation.hunt(SEEDS_MAX);
        assert!(found.is_some(), "{} off: nothing found in {SEEDS_MAX} seeds", mutation.name);
    }
}

#[test]
fn the_table_of_the_readme_has_a_row_for_every_rule() {
    let readme = include_str!("../README.md");
    let row = |rule: &&Mutation| !readme.contains(&format!("\n| {} | ", rule.name));
    let missing: Vec<_> = MUTATIONS.iter().filter(row).map(|rule| rule.name).collect();
    assert!(missing.is_empty(), "print the table with `cargo sim -- --mutations`: {missing:?}");
}

#[test]
fn small_worlds_keep_every_promise_whatever_happens_next() {
    for config in CONFIGS.into_iter().filter(|c| !c.nightly) {
        let explored = kar_sim::explore(&config, Rules::default(), Bounds::default());
        assert_eq!(explored.found, None, "{}: replay with --path", config.name);
        assert!(explored.complete, "{} is to be explored whole: {explored:?}", config.name);
    }
}

#[test]
fn exploring_finds_what_each_of_these_rules_is_for() {
    for (config, rule) in EXPLORED_MUTATIONS {
        let config = Config::named(config).expect("it is in the table");
        let mutation = Mutation::named(rule).expect("it is in the table");
        let explored = kar_sim::explore(&config, mutation.rules(), Bounds::default());
        assert!(explored.found.is_some(), "{} without {rule}: nothing found", config.name);
    }
}
