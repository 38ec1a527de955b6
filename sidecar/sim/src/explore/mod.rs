//! Explores small worlds exhaustively: the same machines, logs, stores, components and checkers as
//! in the random runs, but everything that may happen next is an action to choose, and all choices
//! are tried.
//!
//! What is chosen: which route moves next (connections, appends, reading, the store, components,
//! the membership), when clients ask and code goes on that thinks, and what breaks, where and when,
//! up to a number of faults. What is not: a node's effects are carried out at once, steps of code
//! follow each other at once, what breaks off is known at once to who is connected, and time passes
//! only when nothing else can happen (but for appends that are made late). Worlds that differ only
//! in the order of past events are the same; the search is depth-first.

mod act;
mod configs;
mod pending;
mod print;

use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use kar_core::limits::Rules;

pub(crate) use act::{Action, FAULTS};
pub use configs::{CONFIGS, Config};
pub(crate) use pending::Pending;
pub(crate) use print::Print;

use crate::check;
use crate::history::Seen;
use crate::plan::{MS, Us};
use crate::world::World;

/// A world that has not come to rest by then never will.
const TIME_MAX: Us = 60_000 * MS;

/// How far a search may go.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Longest path.
    pub depth: usize,
    /// Worlds kept in mind.
    pub states: usize,
    /// Time.
    pub time: Duration,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { depth: 1_000, states: 20_000_000, time: Duration::from_secs(3_600) }
    }
}

/// What a search came to.
#[derive(Clone, Debug, Default)]
pub struct Explored {
    /// Different worlds.
    pub states: usize,
    /// Actions tried.
    pub actions: u64,
    /// Paths that came to rest.
    pub rests: u64,
    /// Longest path.
    pub depth: usize,
    /// How long it took.
    pub took: Duration,
    /// Every choice was tried.
    pub complete: bool,
    /// The choices that lead to a violation, and what was found.
    pub found: Option<(Vec<usize>, Vec<String>)>,
}

/// A world on the path, and the choices that it leaves.
struct Frame {
    world: World,
    used: Vec<u8>,
    actions: Vec<Action>,
    next: usize,
    /// Events before it.
    events: usize,
}

/// Tries all choices of a configuration.
pub fn explore(config: &Config, rules: Rules, bounds: Bounds) -> Explored {
    Search::new(config, bounds).run(rules)
}

/// Follows given choices, and prints what happens.
pub fn replay(config: &Config, rules: Rules, choices: &[usize]) -> Vec<String> {
    let mut search = Search::new(config, Bounds::default());
    let mut frame = search.root(config.world(rules));
    frame.world.trace = true;
    for choice in choices {
        let Some(action) = frame.actions.get(*choice).copied() else {
            return vec![format!("there is no choice {choice}: {:?}", frame.actions)];
        };
        println!("---------- {choice} of {}: {action}", frame.actions.len());
        match search.step(&frame, action) {
            Ok(next) => frame = next,
            Err(found) => return found,
        }
    }
    search.judge(&mut frame, true)
}

struct Search<'c> {
    config: &'c Config,
    bounds: Bounds,
    known: HashSet<u64>,
    /// What was seen on the path.
    events: Vec<(Us, Seen)>,
    explored: Explored,
}

impl<'c> Search<'c> {
    fn new(config: &'c Config, bounds: Bounds) -> Self {
        let (known, events) = (HashSet::new(), Vec::new());
        Self { config, bounds, known, events, explored: Explored::default() }
    }

    fn run(mut self, rules: Rules) -> Explored {
        let begun = Instant::now();
        let mut stack = vec![self.root(self.config.world(rules))];
        self.explored.complete = true;
        while let Some(frame) = stack.last_mut() {
            let Some(action) = frame.actions.get(frame.next).copied() else {
                self.events.truncate(frame.events);
                stack.pop();
                continue;
            };
            frame.next += 1;
            self.events.truncate(frame.events);
            self.explored.actions += 1;
            let found = match self.step(frame, action) {
                Ok(next) => self.enter(next, &mut stack),
                Err(found) => found,
            };
            if !found.is_empty() {
                let choices = stack.iter().map(|f| f.next - 1).collect();
                self.explored.found = Some((choices, found));
                self.explored.complete = false;
                break;
            }
            let is_over = self.known.len() >= self.bounds.states
                || self.explored.actions.is_multiple_of(1_024)
                    && begun.elapsed() > self.bounds.time;
            if is_over {
                self.explored.complete = false;
                break;
            }
        }
        self.explored.states = self.known.len();
        self.explored.took = begun.elapsed();
        self.explored
    }

    /// Goes on from a world, if it is a new one; it is judged where the path ends.
    fn enter(&mut self, mut frame: Frame, stack: &mut Vec<Frame>) -> Vec<String> {
        self.explored.depth = self.explored.depth.max(stack.len());
        let is_new = self.known.insert(frame.world.print(&frame.used));
        let is_over = frame.world.choices().is_empty() || frame.world.now > TIME_MAX;
        let is_cut = stack.len() >= self.bounds.depth;
        if is_cut {
            self.explored.complete = false;
        }
        if is_over && is_new {
            self.explored.rests += 1;
        }
        let mut found = Vec::new();
        if !is_new || is_over || is_cut {
            found = self.judge(&mut frame, is_over);
        }
        if found.is_empty() && is_new && !is_cut {
            stack.push(frame);
        } else if !found.is_empty() {
            // Its last choice is the parent's.
            frame.next = 0;
        }
        found
    }

    fn root(&mut self, world: World) -> Frame {
        let used = vec![0; FAULTS.len()];
        let mut frame = Frame { world, used, actions: Vec::new(), next: 0, events: 0 };
        self.events = std::mem::take(&mut frame.world.history.events);
        frame.world.history.before = self.events.len();
        frame.events = self.events.len();
        frame.actions = self.actions(&frame);
        frame
    }

    /// What may happen next, the faults included.
    fn actions(&self, frame: &Frame) -> Vec<Action> {
        let mut actions = frame.world.choices();
        if frame.used.iter().sum::<u8>() < self.config.faults_max {
            for (name, most) in self.config.faults {
                let Some(kind) = FAULTS.iter().position(|f| f.name == *name) else { continue };
                if frame.used[kind] < *most {
                    actions.extend(frame.world.possible(kind));
                }
            }
        }
        actions
    }

    /// Branches a world off.
    fn step(&mut self, frame: &Frame, action: Action) -> Result<Frame, Vec<String>> {
        let (mut world, mut used) = (frame.world.clone(), frame.used.clone());
        if let Action::Fault(kind, _) = action {
            used[kind] += 1;
        }
        catch_unwind(AssertUnwindSafe(|| world.act(action)))
            .map_err(|panic| vec![crate::panic_text(panic.as_ref())])?;
        self.events.append(&mut world.history.events);
        world.history.before = self.events.len();
        let broken = std::mem::take(&mut world.broken);
        if !broken.is_empty() {
            return Err(broken);
        }
        let events = self.events.len();
        let mut next = Frame { world, used, actions: Vec::new(), next: 0, events };
        next.actions = self.actions(&next);
        Ok(next)
    }

    /// Judges the path so far; `rest`: it ends here, so everything must be done.
    fn judge(&mut self, frame: &mut Frame, rest: bool) -> Vec<String> {
        let world = &mut frame.world;
        world.history.events = std::mem::take(&mut self.events);
        world.history.before = 0;
        if rest {
            world.finish();
            world.history.finish.quiet = world.is_at_rest();
        }
        let found =
            if rest { check::judge(&world.history).0 } else { check::judge_so_far(&world.history) };
        self.events = std::mem::take(&mut world.history.events);
        world.history.before = self.events.len();
        found.into_iter().map(crate::in_words).collect()
    }
}
