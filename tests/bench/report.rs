//! The figures, beside the limits and the promises.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use kar_proto::hub::v1::GetStatsResponse;
use serde::Serialize;

use crate::attempt::Failure;
use crate::budget::{Promise, Scenario, Target};
use crate::failover::Failovers;
use crate::limits::Limits;
use crate::load::LoadResult;

/// Everything that was measured.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Report {
    pub(crate) limits: Limits,
    pub(crate) rows: Vec<Row>,
    pub(crate) failovers: Failovers,
    pub(crate) idle_sidecar_kib: u64,
    pub(crate) idle_hub_kib: u64,
    /// What has no figures, or not all.
    pub(crate) failures: Vec<Failure>,
    /// Of the last minute before the run; others' work makes every figure worse.
    pub(crate) load_average: f64,
}

/// A load average above which the figures come with a warning.
const LOAD_NOTED: f64 = 0.7;

/// One scenario's figures.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Row {
    pub(crate) name: &'static str,
    pub(crate) calls_per_second: f64,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    pub(crate) p999_us: f64,
    pub(crate) max_us: f64,
    /// Over all processes, µs per call.
    pub(crate) cpu_us: f64,
    /// By process, µs per call.
    pub(crate) cpu_us_by_process: BTreeMap<&'static str, f64>,
    /// What of it the owner's state machine takes, µs per call.
    pub(crate) machine_us: f64,
    pub(crate) records_per_commit: f64,
    pub(crate) calls_per_commit: f64,
    pub(crate) commit_p50_us: u64,
    #[serde(skip)]
    scenario: Scenario,
}

impl Row {
    pub(crate) fn new(
        scenario: &Scenario,
        load: &LoadResult,
        (cpu, machine): (BTreeMap<&'static str, f64>, f64),
        before: &GetStatsResponse,
        after: &GetStatsResponse,
    ) -> Self {
        let calls = load.calls.max(1) as f64;
        let commits = after.commits.saturating_sub(before.commits) as f64;
        let records = after.records.saturating_sub(before.records) as f64;
        let per_commit = |count: f64| if commits > 0.0 { count / commits } else { 0.0 };
        let by_process: BTreeMap<_, _> = cpu.into_iter().map(|(n, us)| (n, us / calls)).collect();
        Self {
            name: scenario.name,
            calls_per_second: load.calls as f64 / load.seconds,
            p50_us: load.p50_us,
            p99_us: load.p99_us,
            p999_us: load.p999_us,
            max_us: load.max_us,
            cpu_us: by_process.values().sum(),
            cpu_us_by_process: by_process,
            machine_us: machine / calls,
            records_per_commit: per_commit(records),
            calls_per_commit: per_commit(calls),
            commit_p50_us: after.commit_p50_us,
            scenario: *scenario,
        }
    }

    /// Calls under way at once.
    pub(crate) fn clients(&self) -> usize {
        self.scenario.clients
    }

    /// A figure about commits, where there are any but the odd one of a lease.
    fn per_commit(&self, figure: f64) -> String {
        if self.scenario.target == Target::Direct { String::new() } else { format!("{figure:.1}") }
    }

    /// The physical limit of its latency, µs.
    fn limit_us(&self, limits: Limits) -> f64 {
        match self.scenario.target {
            Target::Direct => limits.direct_us(),
            Target::Delivery => limits.event_us(),
            _ => limits.durable_us(),
        }
    }

    /// How many times worse it is than its physical limit: its latency with one client, its throughput with more.
    fn times_limit(&self, limits: Limits) -> f64 {
        if self.scenario.clients == 1 {
            return self.p50_us / self.limit_us(limits).max(f64::MIN_POSITIVE);
        }
        limits.per_second(self.scenario.strict) / self.calls_per_second.max(f64::MIN_POSITIVE)
    }

    /// Each promise with its figure.
    fn judged(&self, limits: Limits) -> Vec<Judged> {
        let alone = limits.slower_alone();
        let together = limits.slower_together(self.scenario.strict);
        let judge = |promise: &Promise| match *promise {
            Promise::P50(bound) => Judged::at_most("p50 µs", self.p50_us, bound, alone),
            Promise::P99(bound) => Judged::at_most("p99 µs", self.p99_us, bound, alone),
            Promise::Throughput(bound) => {
                Judged::at_least("calls/s", self.calls_per_second, bound, together)
            }
            Promise::Cpu(bound) => Judged::at_most("CPU µs", self.cpu_us, bound, together),
            Promise::MachineCpu(bound) => {
                Judged::at_most("owner's machine, CPU µs", self.machine_us, bound, together)
            }
            Promise::Calls(bound) => {
                Judged::at_least("calls/commit", self.calls_per_commit, bound, 1.0)
            }
            Promise::RoundTrips(times) => {
                Judged::at_most("p50 µs", self.p50_us, times * limits.direct_us(), 1.0)
            }
        };
        self.scenario.promises.iter().map(judge).collect()
    }
}

/// A promise with its figure.
struct Judged {
    text: String,
    /// How many times better (above 1) or worse (below 1) than promised the figure is.
    stated: f64,
    /// The same, with the promise made as many times easier as the physical limits of this run are worse than those
    /// where it was made.
    here: f64,
}

impl Judged {
    fn at_most(what: &str, is: f64, bound: f64, slower: f64) -> Self {
        let stated = bound / is.max(f64::MIN_POSITIVE);
        Self { text: format!("{what} {is:.0} ≤ {bound:.0}"), stated, here: stated * slower }
    }

    fn at_least(what: &str, is: f64, bound: f64, slower: f64) -> Self {
        let stated = is / bound;
        Self { text: format!("{what} {is:.0} ≥ {bound:.0}"), stated, here: stated * slower }
    }

    fn line(&self, name: &str) -> String {
        let Self { text, stated, here } = self;
        format!("  {} {stated:>6.2}× {here:>6.2}×  {name}: {text}", mark(*here))
    }
}

/// The row with the median throughput, with the medians of the other figures; `None`: there is nothing.
pub(crate) fn median(rows: &[Row]) -> Option<Row> {
    let middle = |figure: &dyn Fn(&Row) -> f64| {
        let mut all: Vec<f64> = rows.iter().map(figure).collect();
        all.sort_by(f64::total_cmp);
        all[all.len() / 2]
    };
    let mut row = rows.first()?.clone();
    row.calls_per_second = middle(&|r| r.calls_per_second);
    row.p50_us = middle(&|r| r.p50_us);
    row.p99_us = middle(&|r| r.p99_us);
    row.p999_us = middle(&|r| r.p999_us);
    row.max_us = middle(&|r| r.max_us);
    row.cpu_us = middle(&|r| r.cpu_us);
    row.machine_us = middle(&|r| r.machine_us);
    row.records_per_commit = middle(&|r| r.records_per_commit);
    row.calls_per_commit = middle(&|r| r.calls_per_commit);
    for (name, figure) in &mut row.cpu_us_by_process {
        *figure = middle(&|r| r.cpu_us_by_process[name]);
    }
    Some(row)
}

impl Report {
    /// For people.
    pub(crate) fn table(&self) -> String {
        let mut out = String::new();
        // Writing to a string cannot fail, so its results are left alone.
        let _ = self.write_table(&mut out);
        out
    }

    fn write_table(&self, out: &mut String) -> std::fmt::Result {
        let Limits { echo_us, echo_per_second, chain_per_second, append_us, append_p99_us, .. } =
            self.limits;
        let load = self.load_average;
        if load > LOAD_NOTED {
            writeln!(
                out,
                "NOTE: the load average was {load:.1} before it began: all figures are noisy"
            )?;
        }
        writeln!(out, "Physical limits of this run (1 KiB)")?;
        writeln!(
            out,
            "  stream round trip        {echo_us:>9.0} µs   {echo_per_second:>9.0}/s with 64 under way"
        )?;
        writeln!(
            out,
            "  append + fdatasync       {append_us:>9.0} µs   p99 {append_p99_us:.0} µs"
        )?;
        let (direct, durable) = (self.limits.direct_us(), self.limits.durable_us());
        writeln!(
            out,
            "  direct: 3 in a chain     {direct:>9.0} µs   {chain_per_second:>9.0}/s with 64 under way"
        )?;
        writeln!(out, "  durable: 1 more + append {durable:>9.0} µs")?;
        writeln!(out, "  event: 4 durable steps   {:>9.0} µs", self.limits.event_us())?;
        writeln!(
            out,
            "  ×limit: how many times slower a row is, by its p50 (1 client) or its calls/s (64)\n"
        )?;
        writeln!(
            out,
            "{:<36}{:>9}{:>9}{:>9}{:>8}{:>9}{:>10}{:>11}",
            "scenario", "calls/s", "p50 µs", "p99 µs", "×limit", "CPU µs", "rec/sync", "call/sync"
        )?;
        for row in &self.rows {
            let times = row.times_limit(self.limits);
            writeln!(
                out,
                "{:<36}{:>9.0}{:>9.0}{:>9.0}{times:>8.2}{:>9.1}{:>10}{:>11}",
                row.name,
                row.calls_per_second,
                row.p50_us,
                row.p99_us,
                row.cpu_us,
                row.per_commit(row.records_per_commit),
                row.per_commit(row.calls_per_commit)
            )?;
        }
        writeln!(
            out,
            "\nCPU µs per call by process (machine: the state machine's part of the owner)"
        )?;
        for row in &self.rows {
            write!(out, "  {:<34}", row.name)?;
            for (name, us) in &row.cpu_us_by_process {
                write!(out, " {name} {us:.1} ")?;
            }
            write!(out, " machine {:.1}", row.machine_us)?;
            writeln!(out)?;
        }
        // Nothing is promised of other languages, and nothing else is measured with them.
        if self.idle_sidecar_kib > 0 {
            self.write_heading(out)?;
        }
        for row in &self.rows {
            for judged in row.judged(self.limits) {
                writeln!(out, "{}", judged.line(row.name))?;
            }
        }
        self.write_rest(out)
    }

    fn write_heading(&self, out: &mut String) -> std::fmt::Result {
        let [alone, many, strict] = [
            self.limits.slower_alone(),
            self.limits.slower_together(false),
            self.limits.slower_together(true),
        ];
        writeln!(
            out,
            "\nPromises (design section 15); above 1.00× is better than promised. First as stated; then as this \
             machine is now,\nwhose physical limits are worse than those where the promises were made: {alone:.2} \
             times for one call after the\nother, {many:.2} times for many at once, {strict:.2} times for a strict \
             hot actor. MISS: worse than 1.5 times\nafter that"
        )
    }

    fn write_rest(&self, out: &mut String) -> std::fmt::Result {
        let mut judge = |what: &str, is: f64, bound: f64, unit: &str| {
            writeln!(out, "{} {unit}", Judged::at_most("", is, bound, 1.0).line(what))
        };
        // Not measured together with other languages.
        if self.idle_sidecar_kib > 0 {
            judge("idle sidecar", self.idle_sidecar_kib as f64, Scenario::IDLE_SIDECAR_KIB, "KiB")?;
            judge("idle hub", self.idle_hub_kib as f64, Scenario::IDLE_HUB_KIB, "KiB")?;
        }
        let Failovers { ms, before, after } = &self.failovers;
        if let Some(middle) = ms.get(ms.len() / 2) {
            judge("failover, kill -9 to the retry's answer", *middle, Scenario::FAILOVER_MS, "ms")?;
            let (p99, max) = (before.p99_us, before.max_us);
            judge(
                "meanwhile, calls to the other owner, p99",
                after.p99_us,
                p99,
                "µs, as before the kill",
            )?;
            judge(
                "meanwhile, calls to the other owner, slowest",
                after.max_us,
                max,
                "µs, as before the kill",
            )?;
            writeln!(out, "                       all failovers: {ms:.0?} ms")?;
        }
        if !self.failures.is_empty() {
            writeln!(out, "\nFAILED: no figures of these, or not all")?;
        }
        for Failure { what, cause } in &self.failures {
            writeln!(out, "  {what}: {}", cause.trim_end().replace('\n', "\n    "))?;
        }
        Ok(())
    }

    /// What failed, by name.
    pub(crate) fn failed(&self) -> String {
        let names: Vec<_> = self.failures.iter().map(|failure| failure.what.as_str()).collect();
        names.join("; ")
    }
}

/// Worse than two thirds of a promise, as the machine is, is a defect.
fn mark(ratio: f64) -> &'static str {
    match ratio {
        r if r >= 1.0 => "ok  ",
        r if r >= 1.0 / 1.5 => "near",
        _ => "MISS",
    }
}
