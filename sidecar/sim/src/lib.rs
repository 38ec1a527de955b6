//! A seeded simulator of KAR.
//!
//! Many [`kar_core::Node`] machines run against simulated logs, stores, members, connections and
//! components, with faults, all drawn from one seed; an independent shadow model judges what could
//! be seen from outside.
//!
//! ```
//! let report = kar_sim::run(7, &kar_sim::Profile::of_seed(7), Default::default(), false);
//! assert_eq!(report.violations, Vec::<String>::new());
//! ```

mod app;
mod check;
mod client;
mod coverage;
mod drive;
mod explore;
mod faults;
mod history;
mod inbox;
mod keys;
mod log;
mod members;
mod moods;
mod mutation;
mod net;
mod operator;
mod plan;
mod queue;
mod reading;
mod remind;
mod rng;
mod schedules;
mod script;
mod slot;
mod store;
mod subscribe;
mod topic;
mod world;

use std::any::Any;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind};

use kar_core::limits::Rules;

pub use coverage::{Coverage, ELSEWHERE};
pub use explore::{Bounds, CONFIGS, Config, Explored, explore, replay};
pub use mutation::{MUTATIONS, Mutation, SEEDS_MAX};
pub use plan::{FAULTS, Profile};
pub use schedules::{SCHEDULES, Schedule};

use history::History;
use plan::Plan;
use world::World;

/// What came of one run.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// The seed.
    pub seed: u64,
    /// Promises that were not kept, the first one first; empty for a good run.
    pub violations: Vec<String>,
    /// How often each schedule of the design's section 17 really happened, by name.
    pub counts: Vec<(&'static str, u64)>,
    /// Which transitions were taken, how often.
    pub coverage: Coverage,
    /// Turns dispatched.
    pub turns: u64,
    /// Events of the history.
    pub events: u64,
}

/// Runs one seed and judges it. `trace` prints the run as it goes.
pub fn run(seed: u64, profile: &Profile, rules: Rules, trace: bool) -> Report {
    let plan = Plan::draw(seed, profile, rules);
    let ran = catch_unwind(AssertUnwindSafe(|| World::new(plan, trace).run()));
    match ran {
        Ok((history, broken)) => report(seed, &history, broken),
        Err(panic) => {
            let violations = vec![panic_text(panic.as_ref())];
            Report { seed, violations, ..Report::default() }
        }
    }
}

/// A panic in words.
fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
    format!("panic: {}", text.unwrap_or_default())
}

/// A violation in words.
fn in_words(v: check::Violation) -> String {
    format!("{:.3} ms: {}: {}", v.at as f64 / 1e3, v.rule, v.text)
}

fn report(seed: u64, history: &History, broken: Vec<String>) -> Report {
    let (found, counts) = check::judge(history);
    let broken = broken.into_iter().map(|b| format!("driver: {b}"));
    let mut coverage = history.covered.clone();
    coverage.add(&counts.coverage);
    Report {
        seed,
        coverage,
        violations: broken.chain(found.into_iter().map(in_words)).collect(),
        counts: counts.named().to_vec(),
        turns: history.runs.len() as u64,
        events: history.events.len() as u64,
    }
}

/// Runs one seed and gives a number that stands for everything that was seen in it.
pub fn fingerprint(seed: u64, profile: &Profile) -> u64 {
    let (history, _) = World::new(Plan::draw(seed, profile, Rules::default()), false).run();
    let mut hasher = DefaultHasher::new();
    format!("{:?}", history.events).hash(&mut hasher);
    format!("{:?}", history.runs).hash(&mut hasher);
    hasher.finish()
}
