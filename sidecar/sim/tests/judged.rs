//! The core under the simulator: random seeds, directed schedules, and proof that the checkers
//! bite.

use std::collections::{BTreeMap, BTreeSet};

use kar_core::limits::Rules;
use kar_sim::{
    Bounds, CONFIGS, Config, MUTATIONS, Mutation, Profile, Report, SCHEDULES, SEEDS_MAX, Schedule,
};

/// Random seeds of the quick test; `cargo sim -- --seeds 10000` is the long one.
const SMOKE_SEEDS: u64 = 300;

/// Within so many seeds every schedule of the design must have happened by chance.
const HAPPEN_SEEDS: u64 = 4_000;

/// Counts of what need not happen: where the checkers let something pass, and why is said there.
const EXCUSES: [&str; 2] = ["(overlaps excused)", "(zombie dispatches)"];

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
    let counted = kar_sim::run(0, &Profile::default(), Rules::default(), false).counts;
    let names: BTreeSet<_> = counted.into_iter().map(|(name, _)| name).collect();
    let unnamed = SCHEDULES.iter().map(|schedule| schedule.name).find(|name| !names.contains(name));
    assert_eq!(unnamed, None, "it is counted");
    // Too rare by chance: searched for where chains of tail calls are long.
    let wandering = ["pingpong-tail"];
    let is_usual = |name: &&str| !wandering.contains(name) && !EXCUSES.contains(name);
    happen(names.into_iter().filter(is_usual), Profile::of_seed);
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

/// Rules that a directed schedule shows: by the name of the field, and of the schedule.
const DIRECTED: [(&str, &str); 1] = [("confirm_in_reign", "outdated-witness")];

/// Rows of the README's table of rules: the rule, what it says, what shows it.
fn rows() -> Vec<[&'static str; 3]> {
    let readme = include_str!("../README.md");
    let (_, section) = readme.split_once("## Rules, and what shows each\n").expect("a heading");
    let section = section.split("\n## ").next().unwrap_or_default();
    let rows = section.lines().filter(|line| line.starts_with("| ")).skip(1);
    let cells = |line: &'static str| {
        let mut cells = line.trim_matches('|').split('|').map(str::trim);
        [(); 3].map(|()| cells.next().expect("a row has three cells"))
    };
    rows.map(cells).collect()
}

/// The names in backticks of a cell.
fn named(cell: &'static str) -> impl Iterator<Item = &'static str> {
    cell.split('`').skip(1).step_by(2)
}

/// What may stand for a mutation.
const REASON: &str = "reason: ";

#[test]
fn every_rule_has_a_mutation_or_a_reason() {
    let rows = rows();
    let known = |name: &str| {
        Mutation::named(name).is_some() || DIRECTED.iter().any(|(_, schedule)| *schedule == name)
    };
    for [rule, says, shown] in &rows {
        let reason = shown.strip_prefix(REASON);
        assert!(!says.is_empty(), "{rule} says nothing");
        match reason {
            Some(reason) => assert!(reason.len() > 30, "{rule}, {says}: no reason is stated"),
            None => {
                let names: Vec<_> = named(shown).collect();
                assert!(!names.is_empty(), "{rule}, {says}: neither a mutation nor a reason");
                let unknown: Vec<_> = names.into_iter().filter(|name| !known(name)).collect();
                assert!(unknown.is_empty(), "{rule}, {says}: there are no mutations {unknown:?}");
            }
        }
    }
    let shown: BTreeSet<_> = rows.iter().flat_map(|[_, _, shown]| named(shown)).collect();
    let lost: Vec<_> = MUTATIONS.iter().filter(|m| !shown.contains(m.name)).collect();
    assert!(lost.is_empty(), "in no row of the table of rules: {lost:?}");
}

/// The core's comments name rules; each has its row.
#[test]
fn every_rule_that_the_core_names_has_a_row() {
    let rules: BTreeSet<_> = rows().into_iter().map(|[rule, _, _]| rule).collect();
    let core = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../core/src");
    let (mut folders, mut found) = (vec![core], BTreeMap::new());
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("the core's source is here") {
            let path = entry.expect("it can be listed").path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let source = std::fs::read_to_string(&path).expect("it is text");
            let words = source.split(|c: char| !c.is_ascii_alphanumeric());
            let is_rule = |word: &&str| {
                let mut chars = word.chars();
                let letter = chars.next().is_some_and(|c| "LCTP".contains(c));
                letter && chars.next().is_some_and(|c| c.is_ascii_digit()) && word.len() == 2
            };
            for word in words.filter(is_rule) {
                found.entry(word.to_owned()).or_insert_with(|| path.clone());
            }
        }
    }
    assert!(found.len() > 20, "rules are named otherwise now: {found:?}");
    for (rule, path) in found {
        assert!(rules.contains(&*rule), "{} names {rule}, which has no row", path.display());
    }
}

/// What can be switched off is, by something.
#[test]
fn every_switch_is_thrown() {
    let fields = |rules: &Rules| -> BTreeSet<String> {
        let text = format!("{rules:?}");
        let off =
            text.split([',', '{', '}']).filter_map(|field| field.trim().strip_suffix(": false"));
        off.map(str::to_owned).collect()
    };
    let off = |mutation: &Mutation| fields(&mutation.rules());
    let mut thrown: BTreeSet<String> = MUTATIONS.iter().flat_map(off).collect();
    thrown.extend(DIRECTED.iter().map(|(field, _)| (*field).to_owned()));
    let text = format!("{:?}", Rules::default());
    let all = text.split([',', '{', '}']).filter_map(|f| f.trim().strip_suffix(": true"));
    let idle: Vec<_> = all.filter(|field| !thrown.contains(*field)).collect();
    assert!(idle.is_empty(), "no mutation switches these off: {idle:?}");
    assert!(thrown.len() >= MUTATIONS.len(), "{thrown:?}");
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
