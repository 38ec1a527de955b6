//! What came of the demonstration.

use kar_sdk::samples::bank::Report;

use super::chaos::Kills;

/// Durable operations of one transfer: the call of the teller, its two nested calls, and the
/// message to the ledger.
const OPERATIONS_PER_TRANSFER: f64 = 4.0;

/// Books and kills.
#[derive(Debug)]
pub(super) struct Figures {
    report: Report,
    sidecars: u32,
    components: u32,
    hubs: u32,
}

impl Figures {
    /// Takes the counts as they are.
    pub(super) fn new(report: Report, kills: &Kills) -> Self {
        let (sidecars, components) = (kills.sidecars.get(), kills.components.get());
        Self { report, sidecars, components, hubs: kills.hubs.get() }
    }

    /// Whether everything that was promised was kept: the load's own sidecar was never killed, so
    /// that no outcome may be unknown.
    pub(super) fn good(&self) -> bool {
        let report = &self.report;
        report.balanced && report.errors == 0 && report.unknown == 0
    }

    /// The figures for people.
    pub(super) fn text(&self) -> String {
        let Self { report: r, sidecars, components, hubs } = self;
        let killed = sidecars + components + hubs;
        let rows = [
            ("money before", r.sum_before.to_string()),
            ("money after", r.sum_after.to_string()),
            ("transfers", format!("{} done, {} refused for want of money", r.done, r.refused)),
            ("lost", r.lost.to_string()),
            ("repeated", r.repeated.to_string()),
            ("torn", r.torn.to_string()),
            ("errors, unknown", format!("{}, {}", r.errors, r.unknown)),
            (
                "durable calls/s",
                format!(
                    "{:.0} ({:.0} transfers/s)",
                    r.per_second * OPERATIONS_PER_TRANSFER,
                    r.per_second
                ),
            ),
            (
                "kills survived",
                format!("{killed} ({sidecars} sidecars, {components} components, {hubs} hubs)"),
            ),
            ("turns cut off", format!("{} postings were asked for again", r.postings_asked_again)),
            (
                "transfer",
                format!(
                    "median {:.1} ms, p99 {:.0} ms, slowest {:.0} ms",
                    r.p50_ms, r.p99_ms, r.slowest_ms
                ),
            ),
        ];
        let mut text: Vec<String> =
            rows.iter().map(|(name, value)| format!("  {name:16} {value}")).collect();
        if !r.first_error.is_empty() {
            text.push(format!("  {:16} {}", "first error", r.first_error));
        }
        text.push(match self.good() {
            true => "\nThe books balance: nothing was lost, nothing was done twice.".into(),
            false => "\nTHE BOOKS DO NOT BALANCE. This is a defect of KAR.".into(),
        });
        text.join("\n")
    }
}
