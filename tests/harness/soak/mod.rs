//! A soak: a mixed load for as long as one likes, with kills all the time, judged in the end, and with memory and disk
//! sampled meanwhile. `cargo xtask soak` runs it for long, `tests/faults` for a moment.

mod clients;
mod ears;
mod levels;
mod lives;
mod measure;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

use serde::Serialize;
use tokio::task::{JoinHandle, LocalSet};

use crate::fire::{Fire, Kills, Load, PROGRESS_LIMIT, nothing_left};
pub use crate::soak::measure::Verdict;
use crate::soak::measure::{Sample, Trend};
use crate::toll::Hits;
use crate::{Client, Random, World, wait};

/// P3: code of a cut-off attempt may run on for so long.
const GRACE: Duration = Duration::from_millis(100);

/// Findings that are told in words; the others are only counted.
const WRONG_MAX: usize = 20;

/// Hosts by name, roles, and a kind that says that they are there. Each is there twice.
const HOSTS: [(&str, &[&str], &str); 2] = [
    ("front-office", &["slow", "auditors", "errands", "relay", "ringer"], "Slow"),
    ("back-office", &["vaults", "shops", "echo", "relay", "ears"], "Vault"),
];

/// How much longer a run may become because few kills have landed in turns.
const LONGER_MAX: u32 = 8;

/// One of each has no peer plane: what its actors say to others and hear from them goes through inboxes.
const WITHOUT_PEERS: u32 = 2;

/// What to do.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// How long the load lasts.
    pub length: Duration,
    /// Time from a kill to the next, on average.
    pub kill_every: Duration,
    /// Time between two samples of memory and disk.
    pub sample_every: Duration,
    /// How long nodes keep results, idempotency keys and dead letters, and a topic its events (60 s at least). What is
    /// kept for longer than a run would seem to grow without end.
    pub retention: Duration,
    /// It goes on until so many kills have landed in turns, but no longer than [`LONGER_MAX`] times its length.
    pub hits_min: usize,
    /// Samples are printed as they are taken.
    pub verbose: bool,
}

/// What came of it.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// How long the load lasted, seconds.
    pub seconds: f64,
    /// Who was killed how often.
    pub kills: Kills,
    /// What was finished, by kind of load.
    pub finished: BTreeMap<&'static str, u64>,
    /// Attempts that did not reach their end.
    pub cut_off: usize,
    /// What the kills hit.
    pub hits: Hits,
    /// Effects that are missing.
    pub lost: u64,
    /// Effects that are there more than once.
    pub repeated: u64,
    /// Attempts that overlapped beyond the grace.
    pub overlapping: usize,
    /// Answers that must not be.
    pub errors: u64,
    /// Reads that nobody could answer for long (`BACKEND_UNAVAILABLE`), and that were made again.
    pub asked_again: u64,
    /// The first findings, in words.
    pub wrong: Vec<String>,
    /// What sidecars and the topic hold more than before the load, though all is answered and nothing is kept any more:
    /// by figure, before and now.
    pub left: BTreeMap<&'static str, (i64, i64)>,
    /// How memory and disk went.
    pub trends: Vec<Trend>,
    /// Memory and disk over time.
    pub samples: Vec<Sample>,
}

/// What the clients share.
struct Soak {
    client: Client,
    load: Load,
    finished: RefCell<BTreeMap<&'static str, u64>>,
    lost: Cell<u64>,
    repeated: Cell<u64>,
    errors: Cell<u64>,
    asked_again: Cell<u64>,
    wrong: RefCell<Vec<String>>,
    vaults: RefCell<[clients::Vault; clients::VAULTS]>,
}

/// Runs a soak in a world of its own.
///
/// # Panics
///
/// If the load stands still, or a process cannot be started.
pub async fn run(options: Options) -> Report {
    let mut random = Random::seeded("soak");
    let world = World::new("soak");
    let retention = options.retention.as_millis().to_string();
    for kept in ["--result-retention-ms", "--key-retention-ms", "--dead-letter-retention-ms"] {
        world.add_run_args(&[kept, &retention]);
    }
    let front = world.bare("front").await;
    let mut fire = Fire::new(&world, random.fork());
    for number in 1..=2 {
        for (name, roles, kind) in HOSTS {
            let mut options = world.app_options(&format!("{name}-{number}"), roles);
            if number == WITHOUT_PEERS {
                options.args.push("--no-peer".into());
            }
            fire.host(options, kind).await;
        }
    }
    let soak = Rc::new(Soak {
        client: front.client().await,
        load: Load::default(),
        finished: RefCell::default(),
        lost: Cell::default(),
        repeated: Cell::default(),
        errors: Cell::default(),
        asked_again: Cell::default(),
        wrong: RefCell::default(),
        vaults: RefCell::default(),
    });
    soak.open_vaults().await;
    let topic_retention = options.retention.max(ears::RETENTION_MIN);
    soak.open_ears(topic_retention).await;
    let before = soak.levels(&front, &fire).await.expect("nobody was killed yet");
    let local = LocalSet::new();
    let start = Instant::now();
    let (samples, took) = local
        .run_until(async {
            let clients = soak.clone().begin(&mut random);
            let samples = burn(&soak, &mut fire, &world, front.pid(), options, random).await;
            soak.load.over.set(true);
            join(clients).await;
            nothing_left(&world).await;
            soak.judge().await;
            (samples, start.elapsed())
        })
        .await;
    let left = soak.left(before, &front, &fire, topic_retention).await;
    let report = soak.report(took, &fire, &world, (samples, topic_retention));
    Report { left, ..report }
}

/// Kills and samples until the time is over.
async fn burn(
    soak: &Soak,
    fire: &mut Fire,
    world: &World,
    front: u32,
    options: Options,
    mut random: Random,
) -> Vec<Sample> {
    let start = Instant::now();
    let (mut kill_at, mut sample_at) = (Duration::ZERO, Duration::ZERO);
    let (mut samples, mut kills) = (Vec::new(), fire.kills.total());
    let enough = |fire: &Fire| {
        let took = start.elapsed();
        let is_long = took >= options.length;
        is_long && (took >= options.length * LONGER_MAX || fire.hits().in_turns >= options.hits_min)
    };
    while !enough(fire) {
        if sample_at <= kill_at {
            until(start, sample_at).await;
            let nodes: Vec<u32> = fire.nodes().map(crate::Node::pid).collect();
            let finished = soak.load.finished.get();
            let sample = Sample::take(start.elapsed(), world, front, &nodes, finished).await;
            if options.verbose {
                println!("{sample}");
            }
            samples.push(sample);
            sample_at += options.sample_every;
            continue;
        }
        until(start, kill_at).await;
        let finished = soak.load.finished.get();
        fire.strike().await;
        wait::until_true("the load to go on", PROGRESS_LIMIT, async || {
            soak.load.finished.get() > finished
        })
        .await;
        // So many died at once; the next ones are due accordingly.
        for _ in kills..fire.kills.total() {
            let mean = u64::try_from(options.kill_every.as_millis()).unwrap_or(u64::MAX);
            kill_at += Duration::from_millis(random.below(2 * mean));
        }
        kills = fire.kills.total();
    }
    samples
}

async fn until(start: Instant, at: Duration) {
    wait::moment(at.saturating_sub(start.elapsed())).await;
}

async fn join(clients: Vec<JoinHandle<()>>) {
    for client in clients {
        client.await.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()));
    }
}

// === impl Soak ===

impl Soak {
    /// Something of this kind was finished.
    fn done(&self, kind: &'static str) {
        self.done_many(kind, 1);
    }

    /// So many of this kind were finished.
    fn done_many(&self, kind: &'static str, count: u64) {
        *self.finished.borrow_mut().entry(kind).or_default() += count;
        self.load.done();
    }

    /// Something was found that must not be.
    fn note(&self, what: String) {
        let mut wrong = self.wrong.borrow_mut();
        if wrong.len() < WRONG_MAX {
            wrong.push(what);
        }
    }

    /// A call failed though no client's sidecar was killed.
    fn error(&self, what: &str, error: &dyn std::fmt::Debug) {
        self.errors.set(self.errors.get() + 1);
        self.note(format!("{what}: {error:?}"));
    }

    /// Compares a count with what it must be.
    fn expect(&self, what: &str, expected: u64, found: u64) {
        if expected == found {
            return;
        }
        let side = if found < expected { &self.lost } else { &self.repeated };
        side.set(side.get() + expected.abs_diff(found));
        self.note(format!("{what}: {found} instead of {expected}"));
    }

    fn report(
        &self,
        took: Duration,
        fire: &Fire,
        world: &World,
        (samples, retention): (Vec<Sample>, Duration),
    ) -> Report {
        let overlaps = world.journal().overlaps(GRACE, &[]);
        let overlapping = overlaps.len();
        overlaps.into_iter().for_each(|overlap| self.note(overlap));
        let attempts = world.journal().attempts();
        let cut_off = attempts.values().flatten().filter(|attempt| !attempt.ended).count();
        Report {
            seconds: took.as_secs_f64(),
            kills: fire.kills,
            hits: fire.hits(),
            finished: self.finished.borrow().clone(),
            cut_off,
            lost: self.lost.get(),
            repeated: self.repeated.get(),
            overlapping,
            errors: self.errors.get(),
            asked_again: self.asked_again.get(),
            wrong: self.wrong.borrow().clone(),
            left: BTreeMap::new(),
            trends: measure::trends(&samples, retention),
            samples,
        }
    }
}

// === impl Report ===

impl Report {
    /// Whether nothing was lost, repeated, overlapping or refused.
    pub fn right(&self) -> bool {
        let found = self.lost + self.repeated + self.errors;
        found == 0 && self.overlapping == 0 && self.wrong.is_empty()
    }

    /// Whether memory or disk grow, as far as the run was long enough to tell, or something is held that nobody needs.
    pub fn grows(&self) -> bool {
        !self.left.is_empty() || self.trends.iter().any(|trend| trend.verdict == Verdict::Grows)
    }
}
