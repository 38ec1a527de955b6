//! P3, P4: code of different flows on one actor, or of two attempts of one invocation, does not
//! overlap, except where a node did not know that its reign was over.

use std::collections::BTreeMap;

use super::Judge;
use crate::history::Run;
use crate::plan::{MS, Us};

/// A node that reads of a newer reign later than this after it began is lagging: its code is cut
/// off late. With the travel of the cancellation and the run-on time this stays below the grace.
const LAG: Us = 35 * MS;

impl Judge<'_> {
    /// Goes through all pairs of runs on one actor, and of one invocation.
    pub(crate) fn check_overlaps(&mut self) {
        let mut groups: BTreeMap<(usize, usize), Vec<usize>> = BTreeMap::new();
        let mut services = BTreeMap::new();
        for (index, run) in self.history.runs.iter().enumerate() {
            if run.started.is_none() {
                continue;
            }
            match run.actor {
                Some(actor) => groups.entry((run.kind, actor)).or_default().push(index),
                None => {
                    let uuid = run.token.invocation.uuid;
                    services.entry(uuid).or_insert_with(Vec::new).push(index);
                }
            }
        }
        for group in groups.into_values().chain(services.into_values()) {
            self.check_group(&group);
        }
    }

    fn check_group(&mut self, group: &[usize]) {
        for (at, first) in group.iter().enumerate() {
            for second in &group[at + 1..] {
                let (a, b) = (&self.history.runs[*first], &self.history.runs[*second]);
                // Runs are in the order of their dispatch.
                if a.ended.is_some_and(|e| e <= b.started.unwrap_or(0)) || before(b, a) {
                    continue;
                }
                let (ua, ub) = (a.token.invocation.uuid, b.token.invocation.uuid);
                if ua != ub && (self.is_inside(b, ua) || self.is_inside(a, ub)) {
                    continue;
                }
                if ua != ub && self.is_shared_run(a) && self.is_shared_run(b) {
                    self.counts.shared_beside += 1;
                    continue;
                }
                if !self.may_overlap(a, b) {
                    let text = format!(
                        "r{first} {} [{:?}..{:?}] and r{second} {} [{:?}..{:?}] µs",
                        a.token, a.started, a.ended, b.token, b.started, b.ended
                    );
                    self.wrong("P3 overlap", text);
                } else {
                    self.counts.overlap_excused += 1;
                }
            }
        }
    }

    /// Whether the older reign's node lagged behind when the newer one began.
    fn may_overlap(&self, a: &Run, b: &Run) -> bool {
        // In one log the older reign is; elsewhere the earlier step of the invocation (P6).
        let same_log = a.token.invocation.home == b.token.invocation.home;
        let age = |run: &Run| if same_log { run.token.epoch } else { u64::from(run.token.step) };
        if age(a) == age(b) {
            return false;
        }
        let old = if age(a) < age(b) { a } else { b };
        let log = self.log_of(&old.token.invocation.home);
        let Some(next) = self.logs[log].next_reign(old.token.epoch) else { return false };
        let Some(node) = self.nodes.get(&old.node) else { return false };
        let read = node.claims.get(&(log, next.epoch)).copied();
        let knew = [read, node.gone].into_iter().flatten().min();
        knew.is_none_or(|at| at > next.from + LAG)
    }
}

/// Whether one run was over before the other one began.
fn before(a: &Run, b: &Run) -> bool {
    match (a.ended, b.started) {
        (Some(ended), Some(started)) => ended <= started,
        _ => false,
    }
}
