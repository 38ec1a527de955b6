//! P1, leaks: when everything has come to rest, everything accepted is done, and nothing is left
//! over.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Judge;
use crate::history::Keys;
use crate::plan::{MS, Us};
use crate::store::apply;

/// Twice the simulator's grace for departed nodes.
const RECENT: Us = 3_000 * MS;

impl Judge<'_> {
    /// Checks the end of the run.
    pub(crate) fn check_end(&mut self) {
        let finish = &self.history.finish;
        // First: what is not delivered never comes to rest.
        self.check_delivered();
        if !finish.quiet {
            self.wrong("P1 rest", self.unrest());
        }
        self.check_logs_done();
        self.check_promised();
        self.check_published();
        self.check_requests_done();
        if finish.quiet {
            self.check_leaks();
            self.check_told();
            self.check_passive();
        }
        self.check_stores();
    }

    /// What is not at rest, in words.
    fn unrest(&self) -> String {
        let finish = &self.history.finish;
        let mut text = String::from("not at rest:");
        for (node, views, roots) in &finish.views {
            for view in views.iter().filter(|v| !v.invocations.is_empty() || v.owed + v.kept > 0) {
                let (first, owed, kept) = (view.invocations.first(), view.owed, view.kept);
                text +=
                    &format!(" {node:?} {} owes {owed}, keeps {kept}, runs {first:?};", view.id);
            }
            if *roots > 0 {
                text += &format!(" {node:?} has {roots} roots;");
            }
        }
        let waits = self.history.runs.iter().enumerate();
        for (run, record) in waits.filter(|(_, r)| r.started.is_some() && r.ended.is_none()) {
            text += &format!(" r{run} {} runs;", record.token);
        }
        for model in &self.logs {
            let shown = finish.views.iter().any(|(_, v, _)| v.iter().any(|v| v.id == model.id));
            if model.epoch > 0 && !shown {
                text += &format!(" {} is not served;", model.id);
            }
        }
        for (index, req) in self.history.reqs.iter().enumerate() {
            let lives = self.nodes.get(&req.node).is_some_and(|n| n.gone.is_none());
            if req.answers.is_empty() && !req.abandoned && lives {
                text += &format!(" q{index} is not answered;");
            }
        }
        text
    }

    fn check_logs_done(&mut self) {
        let mut wrong = Vec::new();
        for (log, model) in self.logs.iter().enumerate() {
            let open = model.held.iter().filter(|(_, h)| !h.is_over()).map(|(u, _)| *u).min();
            if let Some(uuid) = open {
                wrong.push(("P1 accepted means done", format!("{} holds {uuid}", model.id)));
            }
            let lost = model
                .owed
                .iter()
                .filter(|((to, number), o)| {
                    let ended = self.logs[*to].outcome(o.uuid).is_some();
                    if o.awaited { !ended } else { !self.takes(log, *to, *number) }
                })
                .map(|((to, _), o)| (*to, o.uuid))
                .next();
            if let Some((to, uuid)) = lost {
                let text = format!("{} owes {uuid} to {}", model.id, self.logs[to].id);
                wrong.push(("P1 accepted means done", text));
            }
        }
        for (rule, text) in wrong {
            self.wrong(rule, text);
        }
    }

    fn check_requests_done(&mut self) {
        for (index, req) in self.history.reqs.iter().enumerate() {
            let lives = self.nodes.get(&req.node).is_some_and(|n| n.gone.is_none());
            let waits = req.arrived.is_some() && !req.abandoned && lives;
            if waits && req.answers.is_empty() {
                self.wrong("P1 answered", format!("q{index} (tag {:x}) has no answer", req.tag));
            }
        }
    }

    /// No partition holds anything but results of `start` (which its view does not count), and no
    /// turn runs.
    fn check_leaks(&mut self) {
        let mut wrong = Vec::new();
        // Marks of closed channels are kept for nodes that live or have just gone, and for a few others.
        let since = self.now.saturating_sub(RECENT);
        let recent = self.nodes.values().filter(|n| n.gone.is_none_or(|at| at >= since)).count();
        for (node, views, _) in &self.history.finish.views {
            for view in views {
                let model = &self.logs[self.log_of(&view.id)];
                if crate::plan::JUDGE_KEPT && view.kept > 0 {
                    wrong.push(format!("{node:?} {}: {} outcomes kept", view.id, view.kept));
                }
                let most = self.history.closed_channels_max + recent + 2;
                if view.closed_channels > most {
                    let found = view.closed_channels;
                    wrong.push(format!("{node:?} {}: {found} marks, not {most}", view.id));
                }
                let dead = view.dead.iter().map(|letter| letter.uuid).collect();
                if model.dead != dead {
                    wrong.push(format!(
                        "{node:?} {}: dead are {dead:?}, not {:?}",
                        view.id, model.dead
                    ));
                }
                if model.epoch != view.epoch {
                    wrong.push(format!("{node:?} {}: serves epoch {}", view.id, view.epoch));
                }
            }
        }
        let running = self.history.runs.iter().any(|r| r.started.is_some() && r.ended.is_none());
        if running {
            wrong.push("a turn runs on".into());
        }
        for text in wrong {
            self.wrong("leak", text);
        }
    }

    /// The store holds what the log says, up to its fence cell; and it has caught up if the owner
    /// knows where it stands.
    fn check_stores(&mut self) {
        let mut wrong = Vec::new();
        let finish = &self.history.finish;
        let known = self.logs.iter().zip(finish.stores.iter().zip(&finish.stores_known_to));
        for (model, (store, _)) in
            known.filter(|(m, (_, by))| finish.quiet && **by == Some(m.epoch))
        {
            let last = model.writes.last().map_or(0, |(offset, _, _)| *offset);
            if store.cell.offset < last {
                wrong.push(format!("{} stays at {:?}, the log at {last}", model.id, store.cell));
            }
        }
        for (model, store) in self.logs.iter().zip(&self.history.finish.stores) {
            let mut expected: BTreeMap<Arc<str>, Keys> = BTreeMap::new();
            for (offset, actor, ops) in &model.writes {
                if *offset <= store.cell.offset {
                    let state = expected.entry(actor.clone()).or_default();
                    ops.iter().for_each(|op| apply(state, op));
                }
            }
            expected.retain(|_, keys| !keys.is_empty());
            let mut found = store.actors.clone();
            found.retain(|_, keys| !keys.is_empty());
            if found != expected {
                wrong.push(format!(
                    "{} at {:?} holds {found:?}, the log says {expected:?}",
                    model.id, store.cell
                ));
            }
        }
        for text in wrong {
            self.wrong("store", text);
        }
    }
}
