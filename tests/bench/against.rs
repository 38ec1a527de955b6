//! An earlier report beside this one: whether anything got worse.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde::Deserialize;

use crate::limits::Limits;
use crate::report::Row;

/// What is read of an earlier report; what else it has, and what it has not measured, is left out.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Earlier {
    limits: EarlierLimits,
    rows: Vec<EarlierRow>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
struct EarlierLimits {
    echo_us: f64,
    chain_us: f64,
    echo_per_second: f64,
    append_us: f64,
}

#[derive(Clone, Debug, Deserialize)]
struct EarlierRow {
    name: String,
    calls_per_second: f64,
    p50_us: f64,
    cpu_us: f64,
}

impl Earlier {
    /// Reads a report that `-o json` has printed.
    ///
    /// # Errors
    ///
    /// If there is none.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let what = || format!("{} is no report that `-o json` has printed", path.display());
        let text = std::fs::read_to_string(path).with_context(what)?;
        serde_json::from_str(&text).with_context(what)
    }

    /// Each row that both have. How many times better it is than then is told by the physical limits of either run, so
    /// that a machine that was slower then, or is now, does not count: by the latency of one call where there is one
    /// client, else by throughput, and by CPU per call.
    pub(crate) fn compare(&self, rows: &[Row], limits: Limits) -> String {
        let then = self.limits;
        let alone = limits.durable_us() / (then.chain_us + then.echo_us + then.append_us);
        let together = then.echo_per_second / limits.echo_per_second.max(f64::MIN_POSITIVE);
        let by_name: BTreeMap<_, _> =
            self.rows.iter().map(|row| (row.name.as_str(), row)).collect();
        let mut out = format!(
            "\nAgainst the earlier report, above 1.00× is better than then. The machine is {alone:.2} times as \
             slow for one call\nafter the other as it was then, and {together:.2} times for many at once, which is \
             taken out\n"
        );
        for row in rows {
            let Some(before) = by_name.get(row.name) else { continue };
            let cpu = before.cpu_us / row.cpu_us.max(f64::MIN_POSITIVE) * together;
            let (what, is, was, better) = if row.clients() == 1 {
                let better = before.p50_us / row.p50_us.max(f64::MIN_POSITIVE) * alone;
                ("p50 µs", row.p50_us, before.p50_us, better)
            } else {
                let better = row.calls_per_second / before.calls_per_second.max(f64::MIN_POSITIVE);
                ("calls/s", row.calls_per_second, before.calls_per_second, better * together)
            };
            // Writing to a string cannot fail.
            let _ = writeln!(
                out,
                "  {better:>5.2}×  {}: {what} {was:.0} then, {is:.0} now;  CPU {cpu:.2}×: {:.1} µs then, {:.1} now",
                row.name, before.cpu_us, row.cpu_us
            );
        }
        out
    }
}
