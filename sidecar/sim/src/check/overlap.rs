//! P3, P4: code of different flows on one actor, or of two attempts of one invocation, does not
//! overlap, except where a node did not know that its reign was over. Nor does it go on when an outcome is told that
//! no code made.

use std::collections::BTreeMap;

use kar_core::ids::{Offset, Uuid};

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
        self.check_releases();
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

    /// An invocation ends, and no turn did it: code of it that was cut off runs no more.
    pub(super) fn check_code_over(&mut self, log: usize, offset: Offset, uuid: Uuid) {
        let now = self.now;
        let runs_on = |run: &Run| {
            run.token.invocation.uuid == uuid
                && run.started.is_some_and(|at| at <= now)
                && run.ended.is_none_or(|at| at > now)
        };
        let runs = self.history.runs.iter().enumerate().filter(|(_, run)| runs_on(run));
        let (mut excused, mut wrong) = (0, None);
        for (index, run) in runs {
            if self.lagged(run) {
                excused += 1;
            } else {
                wrong = Some(index);
            }
        }
        self.counts.overlap_excused += excused;
        if let Some(run) = wrong {
            let id = self.logs[log].id.clone();
            self.wrong(
                "P3 code is over",
                format!("{id}@{offset}: {uuid} ends, and r{run} runs on"),
            );
        }
    }

    /// An orderly end tells that no code runs: of its reign, nor of those before it.
    fn check_releases(&mut self) {
        let mut wrong = Vec::new();
        for (index, run) in
            self.history.runs.iter().enumerate().filter(|(_, r)| r.started.is_some())
        {
            let model = &self.logs[self.log_of(&run.token.invocation.home)];
            let later = model.reigns.iter().filter(|reign| reign.epoch >= run.token.epoch);
            let released = later.filter_map(|reign| Some((reign.epoch, reign.released?)));
            for (epoch, at) in released {
                let runs_on = run.ended.is_none_or(|ended| ended > at);
                if runs_on && (epoch == run.token.epoch || !self.lagged(run)) {
                    let (id, token) = (&model.id, &run.token);
                    wrong.push(format!("{id}: epoch {epoch} is released, r{index} {token} runs"));
                }
            }
        }
        for text in wrong {
            self.wrong("P3 release follows the code", text);
        }
    }

    /// Whether a node lagged behind when the reign after a run's began.
    fn lagged(&self, run: &Run) -> bool {
        let log = self.log_of(&run.token.invocation.home);
        let Some(next) = self.logs[log].next_reign(run.token.epoch) else { return false };
        let Some(node) = self.nodes.get(&run.node) else { return false };
        let read = node.claims.get(&(log, next.epoch)).copied();
        let knew = [read, node.gone].into_iter().flatten().min();
        knew.is_none_or(|at| at > next.from + LAG)
    }

    /// Whether the older reign's node lagged behind when the newer one began.
    fn may_overlap(&self, a: &Run, b: &Run) -> bool {
        // In one log the older reign is; elsewhere the earlier step of the invocation (P6).
        let same_log = a.token.invocation.home == b.token.invocation.home;
        let age = |run: &Run| if same_log { run.token.epoch } else { u64::from(run.token.step) };
        if age(a) == age(b) {
            return false;
        }
        self.lagged(if age(a) < age(b) { a } else { b })
    }
}

/// Whether one run was over before the other one began.
fn before(a: &Run, b: &Run) -> bool {
    match (a.ended, b.started) {
        (Some(ended), Some(started)) => ended <= started,
        _ => false,
    }
}
