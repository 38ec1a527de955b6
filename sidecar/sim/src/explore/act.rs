//! What may happen next in an explored world, and making it happen.

use std::fmt;

use crate::explore::pending::{Fate, Lane};
use crate::plan::{MS, Us};
use crate::world::{Due, Input, World};

/// One step of an explored world.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Action {
    /// The first of a route arrives.
    Take(Lane),
    /// What nobody waits for never arrives, nor what is behind it.
    Lose(Lane),
    /// Nothing else can happen: time passes until somebody looks at the clock.
    Pass,
    /// A fault, by its place in [`FAULTS`].
    Fault(usize, Where),
}

/// What a fault hits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Where {
    Slot(usize),
    /// Two slots' connection.
    Pair(usize, usize),
    /// A slot's reading of a log.
    Reading(usize, usize),
    Lane(Lane),
}

/// A kind of fault: a row of the table.
pub(crate) struct FaultKind {
    pub(crate) name: &'static str,
    /// What it can hit now.
    targets: fn(&World) -> Vec<Where>,
    carry_out: fn(&mut World, Where),
}

/// How long what is broken stays so, µs: longer than anything on a route, so the number tells only an order.
const AWAY: Us = 50 * MS;

/// Every kind of fault. A new one needs its row, and a configuration that has it.
pub(crate) const FAULTS: [FaultKind; 8] = [
    FaultKind {
        name: "crash",
        targets: |w| slots(w, |w, s| w.slots[s].node.is_some()),
        carry_out: |w, at| on_slot(at, |s| w.crash(s, 0, AWAY, MS)),
    },
    FaultKind {
        name: "suspect",
        targets: |w| slots(w, |w, s| w.slots[s].node.is_some() && !w.slots[s].leaving()),
        carry_out: |w, at| on_slot(at, |s| w.suspect(s, AWAY)),
    },
    FaultKind {
        name: "drain",
        targets: |w| slots(w, |w, s| w.slots[s].node.is_some() && !w.slots[s].leaving()),
        carry_out: |w, at| on_slot(at, |s| w.leave(s, AWAY)),
    },
    FaultKind {
        name: "app-death",
        targets: |w| slots(w, |w, s| w.slots[s].app.session.is_some()),
        carry_out: |w, at| {
            on_slot(at, |s| {
                w.app_dies(s);
                w.push(w.now + AWAY, Due::AppUp { slot: s });
            });
        },
    },
    FaultKind {
        name: "stream-break",
        targets: |w| slots(w, |w, s| w.slots[s].app.session.is_some()),
        carry_out: |w, at| {
            on_slot(at, |s| {
                w.stream_ends(s, false);
                w.push(w.now + AWAY, Due::AppUp { slot: s });
            });
        },
    },
    FaultKind {
        name: "reset",
        targets: |w| {
            let count = w.slots.len();
            let pairs = (0..count).flat_map(|a| (a + 1..count).map(move |b| (a, b)));
            let open = pairs.filter(|(a, b)| w.net.get(*a, *b).alive);
            open.map(|(a, b)| Where::Pair(a, b)).collect()
        },
        carry_out: |w, at| {
            if let Where::Pair(a, b) = at {
                w.disconnect(a, b, Some(AWAY));
            }
        },
    },
    FaultKind {
        name: "log-lost",
        targets: |w| {
            let logs = 0..w.logs.len();
            let all = logs.flat_map(|l| (0..w.slots.len()).map(move |s| (s, l)));
            let read = all.filter(|(s, l)| w.logs[*l].readers[*s].wanted);
            read.map(|(s, l)| Where::Reading(s, l)).collect()
        },
        carry_out: |w, at| {
            if let Where::Reading(slot, log) = at {
                w.lose_log(slot, log);
            }
        },
    },
    FaultKind {
        name: "late-append",
        targets: |w| {
            let lanes = w.pending.iter().flat_map(|p| p.lanes.keys());
            let is_append = |l: &&Lane| matches!(l, Lane::Append { .. } | Lane::InboxAppend { .. });
            let appends = lanes.filter(is_append);
            appends.map(|l| Where::Lane(*l)).collect()
        },
        carry_out: |w, at| {
            if let (Where::Lane(lane), Some(pending)) = (at, w.pending.as_mut()) {
                pending.make_late(lane);
            }
        },
    },
];

fn slots(world: &World, wanted: impl Fn(&World, usize) -> bool) -> Vec<Where> {
    (0..world.slots.len()).filter(|s| wanted(world, *s)).map(Where::Slot).collect()
}

fn on_slot(at: Where, act: impl FnOnce(usize)) {
    if let Where::Slot(slot) = at {
        act(slot);
    }
}

impl World {
    /// What may happen next, the faults left out. Empty: all is at rest, or stuck.
    pub(crate) fn choices(&self) -> Vec<Action> {
        let Some(pending) = self.pending.as_ref() else { return Vec::new() };
        let lanes = pending.lanes.keys().filter(|lane| match lane {
            // A client whose components are all away waits.
            Lane::Client { .. } => {
                self.slots.iter().any(|s| s.app.session.is_some() && !s.leaving())
            }
            _ => true,
        });
        let mut actions: Vec<_> = lanes.map(|lane| Action::Take(*lane)).collect();
        let waits = actions.is_empty();
        for lane in pending.loose.keys() {
            actions.extend([Action::Take(*lane), Action::Lose(*lane)]);
        }
        if waits && self.next_time().is_some() && !(actions.is_empty() && self.is_at_rest()) {
            actions.push(Action::Pass);
        }
        actions
    }

    /// Nothing is under way, owed or kept anywhere.
    pub(crate) fn is_at_rest(&self) -> bool {
        let under_way =
            |p: &super::Pending| p.lanes.len() + p.loose.len() + p.at_once.len() + p.later.len();
        self.pending.as_ref().map_or(0, under_way) == 0 && self.is_quiet()
    }

    /// The faults that are possible now, of a kind.
    pub(crate) fn possible(&self, kind: usize) -> impl Iterator<Item = Action> + use<> {
        (FAULTS[kind].targets)(self).into_iter().map(move |at| Action::Fault(kind, at))
    }

    /// Lets an action happen, and what happens with it.
    pub(crate) fn act(&mut self, action: Action) {
        match action {
            Action::Take(lane) => {
                if let Some(due) = self.pending.as_mut().and_then(|p| p.take(lane)) {
                    self.happen(due);
                }
            }
            Action::Lose(lane) => {
                if let Some(pending) = self.pending.as_mut() {
                    pending.loose.remove(&lane);
                }
            }
            Action::Pass => self.pass(),
            Action::Fault(kind, at) => (FAULTS[kind].carry_out)(self, at),
        }
        self.settle();
    }

    /// What happens with what has happened; what is over is forgotten.
    pub(crate) fn settle(&mut self) {
        loop {
            let Some(mut pending) = self.pending.take() else { return };
            pending.review(|due| self.fate(due));
            let next = pending.at_once.pop_front();
            self.pending = Some(pending);
            let Some(due) = next else { return };
            self.happen(due);
        }
    }

    fn fate(&self, due: &Due) -> Fate {
        let counts = match due {
            Due::Land(l) => return loose(self.slots[l.slot].inst == l.inst && self.hub == l.hub),
            Due::InboxLand(l) => {
                return loose(self.slots[l.slot].inst == l.inst && self.hub == l.hub);
            }
            Due::Topic { landing: l, .. } => {
                return loose(self.slots[l.slot].inst == l.inst && self.hub == l.hub);
            }
            Due::Store { slot, inst, hub, .. }
            | Due::Snapshot { slot, inst, hub, .. }
            | Due::InboxTrim { slot, inst, hub, .. }
            | Due::Trim { slot, inst, hub, .. } => {
                return loose(self.slots[*slot].inst == *inst && self.hub == *hub);
            }
            Due::Input { slot, inst, input } => {
                self.is(*slot, *inst)
                    && match input {
                        Input::Log { log, generation, .. } => {
                            self.logs[*log].readers[*slot].generation == *generation
                        }
                        Input::Inbox { inbox, generation, .. } => {
                            self.inbox_counts(*slot, inbox, *generation)
                        }
                        Input::PeerUp { other, generation, .. }
                        | Input::Peer { other, generation, .. } => {
                            let conn = self.net.get(*slot, *other);
                            other == slot || conn.alive && conn.generation == *generation
                        }
                        _ => true,
                    }
            }
            Due::Serve { slot, inst, log, generation, .. } => {
                let reader = &self.logs[*log].readers[*slot];
                self.is(*slot, *inst) && reader.generation == *generation && reader.wanted
            }
            Due::InboxServe { slot, inst, inbox, generation, .. } => {
                self.is(*slot, *inst) && self.inbox_counts(*slot, inbox, *generation)
            }
            Due::App { slot, session, .. } => self.slots[*slot].app.session == Some(*session),
            Due::Step { run } | Due::Beside { run, .. } | Due::StopRun { run } => {
                let run = &self.history.runs[*run];
                run.started.is_some() && run.ended.is_none()
            }
            Due::Reincarnate { slot, inst } | Due::Stop { slot, inst } => self.is(*slot, *inst),
            Due::Boot { slot } => self.slots[*slot].node.is_none(),
            Due::AppUp { slot } => {
                self.slots[*slot].node.is_none() || self.slots[*slot].app.session.is_none()
            }
            Due::Unregister { node } => self.members.nodes.contains_key(node),
            _ => true,
        };
        if counts { Fate::Counts } else { Fate::Stale }
    }

    /// When somebody looks at the clock next, or something slow happens.
    fn next_time(&self) -> Option<Us> {
        let ticks = self.slots.iter().filter(|s| s.node.is_some()).filter_map(|s| s.tick_at);
        let later = self.pending.iter().flat_map(|p| p.later.iter().map(|(at, _)| *at));
        ticks.chain(later).min()
    }

    fn pass(&mut self) {
        let Some(at) = self.next_time() else { return };
        self.now = self.now.max(at);
        let due = self.pending.as_mut().and_then(|p| {
            let first = p.later.iter().position(|(t, _)| *t == at)?;
            Some(p.later.remove(first).1)
        });
        if let Some(due) = due {
            return self.happen(due);
        }
        let ticks = |s: &crate::slot::Slot| s.node.is_some() && s.tick_at == Some(at);
        if let Some(slot) = self.slots.iter().position(ticks) {
            self.slots[slot].tick_at = Some(self.now);
            let inst = self.slots[slot].inst;
            self.take(slot, inst, Input::Tick);
        }
    }
}

fn loose(counts: bool) -> Fate {
    if counts { Fate::Counts } else { Fate::Loose }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Take(lane) => write!(f, "{lane:?}"),
            Self::Lose(lane) => write!(f, "never: {lane:?}"),
            Self::Pass => write!(f, "time passes"),
            Self::Fault(kind, at) => write!(f, "FAULT {} {at:?}", FAULTS[*kind].name),
        }
    }
}
