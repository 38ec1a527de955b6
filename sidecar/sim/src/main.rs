//! The simulator's command line.

use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use clap::Parser;
use kar_core::limits::Rules;
use kar_sim::{
    Bounds, CONFIGS, Config, Coverage, ELSEWHERE, Explored, MUTATIONS, Mutation, Profile, Report,
    SCHEDULES, SEEDS_MAX,
};

/// Runs KAR's core on simulated logs, stores, networks and components, and judges the runs.
#[derive(Parser, Debug)]
#[command(name = "kar-sim", version)]
struct Args {
    /// One seed to run.
    seed: Option<u64>,
    /// How many seeds to run.
    #[arg(long, conflicts_with = "seed")]
    seeds: Option<u64>,
    /// The first of them.
    #[arg(long, default_value_t = 0, requires = "seeds")]
    from: u64,
    /// Print the run as it goes.
    #[arg(long)]
    trace: bool,
    /// Run one schedule of the design's section 17, or `all`.
    #[arg(long, value_name = "NAME", conflicts_with_all = ["seed", "seeds", "mutations"])]
    schedule: Option<String>,
    /// Switch one protecting rule off.
    #[arg(long, value_name = "RULE")]
    mutate: Option<String>,
    /// Keep all rules, but make the faults likely that one rule is against.
    #[arg(long, value_name = "RULE", conflicts_with = "mutate")]
    bias: Option<String>,
    /// Switch every protecting rule off (or those named), one at a time, until a violation is found.
    #[arg(
        long,
        value_name = "RULES",
        num_args = 0..=1,
        default_missing_value = "",
        conflicts_with_all = ["seeds", "mutate"]
    )]
    mutations: Option<String>,
    /// Explore a small world exhaustively: a configuration's name, `all`, or none for those of the test run.
    #[arg(long, value_name = "CONFIG", num_args = 0..=1, default_missing_value = "")]
    explore: Option<String>,
    /// With --explore: longest path.
    #[arg(long, requires = "explore")]
    depth: Option<usize>,
    /// With --explore: most worlds that are kept in mind.
    #[arg(long, requires = "explore")]
    states: Option<usize>,
    /// With --explore: how long, for each configuration, s.
    #[arg(long, requires = "explore")]
    seconds: Option<u64>,
    /// With --explore CONFIG: follow these choices, and print what happens.
    #[arg(long, requires = "explore", value_delimiter = ',')]
    path: Option<Vec<usize>>,
    /// With --seeds: print which transitions of the machine were taken, how often.
    #[arg(long, requires = "seeds")]
    coverage: bool,
    /// Go on after a violation, and print the first one of each kind.
    #[arg(long)]
    keep_going: bool,
}

/// Seeds after which progress is told.
const PROGRESS_EVERY: u64 = 20_000;

/// In so many seeds every transition must have been taken.
const COVER_SEEDS: u64 = 20_000;

/// Threads that run seeds.
const THREADS: u64 = 2;

/// What came of many runs.
#[derive(Default)]
struct Totals {
    runs: u64,
    turns: u64,
    events: u64,
    counts: Vec<(&'static str, u64)>,
    coverage: Coverage,
    bad: Vec<Report>,
}

fn main() -> ExitCode {
    let args = Args::parse();
    std::panic::set_hook(Box::new(|info| {
        if std::env::var_os("RUST_BACKTRACE").is_some() {
            eprintln!("{info}\n{}", std::backtrace::Backtrace::force_capture());
        } else {
            eprintln!("{info}");
        }
    }));
    let (fixed, rules) = match args.mutate.as_ref().or(args.bias.as_ref()) {
        None => (None, Rules::default()),
        Some(name) => match Mutation::named(name) {
            Some(mutation) if args.bias.is_some() => (Some(mutation.profile()), mutation.control()),
            Some(mutation) => (Some(mutation.profile()), mutation.rules()),
            None => {
                let names: Vec<_> = MUTATIONS.iter().map(|m| m.name).collect();
                eprintln!("there is no rule '{name}'; rules: {}", names.join(", "));
                return ExitCode::from(2);
            }
        },
    };
    let profile = |seed| fixed.clone().unwrap_or_else(|| Profile::of_seed(seed));
    if let Some(names) = &args.mutations {
        return mutations(names);
    }
    if let Some(name) = &args.schedule {
        return schedules(name, rules, args.trace);
    }
    if let Some(name) = &args.explore {
        return explore(name, rules, &args);
    }
    match (args.seed, args.seeds) {
        (Some(seed), _) => one(seed, &profile(seed), rules, args.trace),
        (None, Some(seeds)) => many(&profile, rules, seeds, &args),
        (None, None) => {
            eprintln!("give a seed, --seeds N or --mutations");
            ExitCode::from(2)
        }
    }
}

/// Runs one directed schedule, or all.
fn schedules(name: &str, rules: Rules, trace: bool) -> ExitCode {
    let mut chosen = SCHEDULES.into_iter().filter(|s| name == "all" || s.name == name).peekable();
    if chosen.peek().is_none() {
        let names: Vec<_> = SCHEDULES.iter().map(|s| s.name).collect();
        eprintln!("there is no schedule '{name}'; schedules: {}", names.join(", "));
        return ExitCode::from(2);
    }
    let mut bad = false;
    for schedule in chosen {
        let report = schedule.run(rules, trace);
        println!("{}: {} turns", schedule.name, report.turns);
        for violation in &report.violations {
            println!("VIOLATION {violation}");
            bad = true;
        }
    }
    if bad { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// Explores configurations, or follows a path in one.
fn explore(name: &str, rules: Rules, args: &Args) -> ExitCode {
    let wanted = |c: &Config| c.name == name || name == "all" || name.is_empty() && !c.nightly;
    let configs: Vec<_> = CONFIGS.into_iter().filter(wanted).collect();
    if configs.is_empty() {
        let names: Vec<_> = CONFIGS.iter().map(|c| c.name).collect();
        eprintln!("there is no configuration '{name}'; configurations: {}", names.join(", "));
        return ExitCode::from(2);
    }
    if let (Some(path), [config]) = (&args.path, configs.as_slice()) {
        let found = kar_sim::replay(config, rules, path);
        found.iter().for_each(|text| println!("VIOLATION {text}"));
        return if found.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    let usual = Bounds::default();
    let bounds = Bounds {
        depth: args.depth.unwrap_or(usual.depth),
        states: args.states.unwrap_or(usual.states),
        time: args.seconds.map_or(usual.time, Duration::from_secs),
    };
    let mut bad = false;
    for config in configs {
        let explored = kar_sim::explore(&config, rules, bounds);
        let Explored { states, actions, rests, depth, took, complete, found } = explored;
        let whole = if complete { "complete" } else { "NOT complete" };
        let seconds = took.as_secs_f64();
        println!(
            "{}: {states} states, {actions} actions, {rests} ends, depth {depth}, {seconds:.1} s, {whole}",
            config.name
        );
        if let Some((path, found)) = found {
            found.iter().for_each(|text| println!("VIOLATION {text}"));
            let path: Vec<_> = path.iter().map(usize::to_string).collect();
            println!("replay: cargo sim -- --explore {} --path {}", config.name, path.join(","));
            bad = true;
        }
    }
    if bad { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// Hunts every mutation, or those named, and prints the table of the README.
fn mutations(names: &str) -> ExitCode {
    let named = names.split(',').filter(|name| !name.is_empty());
    if let Some(name) = named.clone().find(|name| Mutation::named(name).is_none()) {
        eprintln!("there is no rule '{name}'");
        return ExitCode::from(2);
    }
    let wanted = |m: &Mutation| names.is_empty() || named.clone().any(|name| name == m.name);
    let mut missed = false;
    println!("| rule | seeds needed | violation |\n|---|---|---|");
    for mutation in MUTATIONS.into_iter().filter(wanted) {
        match mutation.hunt(SEEDS_MAX) {
            Some((seeds, report)) => {
                println!("| {} | {seeds} | {} |", mutation.name, report.violations[0]);
            }
            None => {
                println!("| {} | > {SEEDS_MAX} | NOT FOUND |", mutation.name);
                missed = true;
            }
        }
    }
    if missed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn one(seed: u64, profile: &Profile, rules: Rules, trace: bool) -> ExitCode {
    let report = kar_sim::run(seed, profile, rules, trace);
    println!("seed {seed}: {} turns, {} events", report.turns, report.events);
    for violation in &report.violations {
        println!("VIOLATION {violation}");
    }
    if report.violations.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn many(
    profile: &(impl Fn(u64) -> Profile + Sync),
    rules: Rules,
    seeds: u64,
    args: &Args,
) -> ExitCode {
    let (from, keep_going) = (args.from, args.keep_going);
    let begun = Instant::now();
    let next = AtomicU64::new(from);
    let stop = AtomicBool::new(false);
    let totals = Mutex::new(Totals::default());
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= from + seeds {
                        break;
                    }
                    let report = kar_sim::run(seed, &profile(seed), rules, false);
                    let bad = !report.violations.is_empty();
                    let mut totals = totals.lock().unwrap_or_else(PoisonError::into_inner);
                    totals.add(report);
                    if totals.runs.is_multiple_of(PROGRESS_EVERY) {
                        let rate = totals.runs as f64 / begun.elapsed().as_secs_f64();
                        eprintln!("{} seeds, {rate:.0} a second", totals.runs);
                    }
                    drop(totals);
                    if bad && !keep_going {
                        stop.store(true, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    let totals = totals.into_inner().unwrap_or_else(PoisonError::into_inner);
    println!(
        "{} seeds in {:.1} s: {} turns, {} events",
        totals.runs,
        begun.elapsed().as_secs_f64(),
        totals.turns,
        totals.events
    );
    for (name, count) in &totals.counts {
        println!("  {name:<24} {count}");
    }
    if args.coverage {
        print_coverage(&totals.coverage);
    }
    let missing = if seeds < COVER_SEEDS { Vec::new() } else { totals.coverage.missing() };
    for name in &missing {
        println!("NEVER TAKEN in {seeds} seeds: {name}");
    }
    let mut kinds = std::collections::BTreeMap::new();
    for report in &totals.bad {
        let first = &report.violations[0];
        let kind = first.split(": ").nth(1).unwrap_or("").to_owned();
        kinds.entry(kind).or_insert_with(Vec::new).push(report);
    }
    for (kind, mut reports) in kinds {
        reports.sort_by_key(|r| r.seed);
        println!("VIOLATION {kind}: {} seeds, first {}", reports.len(), reports[0].seed);
        for report in reports.iter().take(4) {
            println!("    seed {}: {}", report.seed, report.violations[0]);
        }
    }
    let fine = totals.bad.is_empty() && missing.is_empty();
    if fine { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Prints the table of transitions, the rare ones first.
fn print_coverage(coverage: &Coverage) {
    let mut table = coverage.table();
    table.sort_by_key(|(_, count)| *count);
    for (name, count) in table {
        let why = ELSEWHERE.iter().find(|(n, _)| *n == name).map_or("", |(_, why)| why);
        println!("{count:>12}  {name}  {why}");
    }
}

impl Totals {
    fn add(&mut self, report: Report) {
        self.runs += 1;
        self.turns += report.turns;
        self.coverage.add(&report.coverage);
        self.events += report.events;
        if self.counts.is_empty() {
            self.counts.clone_from(&report.counts);
        } else {
            for (total, one) in self.counts.iter_mut().zip(&report.counts) {
                total.1 += one.1;
            }
        }
        if !report.violations.is_empty() {
            self.bad.push(report);
        }
    }
}
