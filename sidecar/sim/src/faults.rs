//! How faults are carried out.

use kar_core::event::Event;
use kar_core::ids::SessionId;

use crate::history::Seen;
use crate::plan::{Fault, MS, Us};
use crate::world::{Due, Input, World};

/// A host that said goodbye is gone after this time, whatever still runs.
const GOODBYE_MAX: Us = 700 * MS;

impl World {
    /// Carries out a fault, if there is something that it can hit.
    pub(crate) fn inject(&mut self, fault: Fault) {
        if !self.faults_on {
            return;
        }
        self.say(|| format!("FAULT {fault:?}"));
        match fault {
            Fault::Crash { slot, app_us, down_us, lease_us } => {
                self.crash(slot, app_us, down_us, lease_us);
            }
            Fault::AppDeath { slot, down_us } => {
                if self.slots[slot].app.session.is_some() {
                    self.app_dies(slot);
                    self.push(self.now + down_us, Due::AppUp { slot });
                }
            }
            Fault::StreamBreak { slot, back_us } => {
                if self.slots[slot].app.session.is_some() {
                    self.stream_ends(slot, false);
                    self.push(self.now + back_us, Due::AppUp { slot });
                    if self.rng.chance(300) {
                        let process = self.slots[slot].app.process;
                        let at = self.now + self.rng.range(0, back_us);
                        self.push(at, Due::AppDies { slot, process });
                        // Perhaps it was back by then.
                        self.push(self.now + back_us + MS, Due::AppUp { slot });
                    }
                }
            }
            Fault::Pause { slot, us, resumed, suspect_us, learn_us } => {
                self.pause(slot, us, resumed, suspect_us, learn_us);
            }
            Fault::Suspect { slot, learn_us } => self.suspect(slot, learn_us),
            Fault::Reset { a, b, back_us } => {
                if self.net.conn(a, b).alive {
                    self.disconnect(a, b, Some(back_us));
                }
            }
            Fault::HubCrash { lease_gap_us } => self.hub_crash(lease_gap_us),
            Fault::Drain { slot, with, back_us } => {
                self.leave(slot, back_us);
                if let Some(other) = with {
                    self.leave(other, back_us);
                }
            }
            Fault::Goodbye { slot, back_us } => self.goodbye(slot, back_us),
            Fault::LogLost { slot, log } => self.lose_log(slot, log),
            Fault::ReadStall { slot, log, us } => {
                let at = self.now + us;
                self.logs[log].readers[slot].lane.arrive(at);
            }
            Fault::NetStall { from, to, us } => self.stall(from, to, us),
            Fault::Apart { a, b, deaf, us } => self.part(a, b, deaf, us),
            Fault::Rollback { log, back_us } => self.roll_back(log, back_us),
        }
    }

    /// The sidecar dies, and its app a little later.
    pub(crate) fn crash(&mut self, slot: usize, app_us: Us, down_us: Us, lease_us: Us) {
        if self.slots[slot].node.is_none() {
            return;
        }
        let node = self.slots[slot].id;
        self.node_gone(slot);
        self.push(self.now + lease_us, Due::Unregister { node });
        if app_us == 0 {
            self.app_dies(slot);
        } else {
            self.stream_ends(slot, false);
            let process = self.slots[slot].app.process;
            self.push(self.now + app_us, Due::AppDies { slot, process });
        }
        // The next process starts only when the last one is gone.
        self.push(self.now + down_us.max(app_us + MS), Due::Boot { slot });
    }

    /// The sidecar stands still for a while.
    pub(crate) fn pause(
        &mut self,
        slot: usize,
        us: Us,
        resumed: bool,
        suspect_us: Option<Us>,
        learn_us: Us,
    ) {
        if self.slots[slot].node.is_none() || self.slots[slot].paused {
            return;
        }
        let (node, inst) = (self.slots[slot].id, self.slots[slot].inst);
        // What it decided before is carried out: the model knows the pause from this moment on.
        self.drain(slot);
        self.slots[slot].paused = true;
        self.push(self.now + us, Due::Wake { slot, inst, resumed });
        if let Some(suspect_us) = suspect_us {
            let suspect_us = suspect_us.min(us);
            self.push(self.now + suspect_us, Due::Unregister { node });
            self.push(self.now + us + learn_us + 1, Due::Reincarnate { slot, inst });
        }
    }

    /// A live sidecar is struck out of the membership; it takes a new incarnation when it learns of
    /// it.
    pub(crate) fn suspect(&mut self, slot: usize, learn_us: Us) {
        if self.slots[slot].node.is_none() || self.slots[slot].leaves.is_some() {
            return;
        }
        self.strike_out(slot, learn_us);
        if self.rng.chance(500) {
            for other in 0..self.slots.len() {
                if other != slot {
                    self.disconnect(slot, other, None);
                }
            }
        }
    }

    /// The same, of one whose connections hold.
    pub(crate) fn strike_out(&mut self, slot: usize, learn_us: Us) {
        let (node, inst) = (self.slots[slot].id, self.slots[slot].inst);
        self.push(self.now, Due::Unregister { node });
        self.push(self.now + learn_us + 1, Due::Reincarnate { slot, inst });
        if self.rng.chance(self.plan.profile.deaf) {
            let at = self.now + learn_us;
            for log in &mut self.logs {
                log.readers[slot].lane.arrive(at);
            }
            // Nor from the membership: it goes by what it knew.
            self.slots[slot].members_lane.arrive(at);
        }
    }

    /// The process goes on under a new incarnation; what it ran before is abandoned.
    pub(crate) fn reincarnate(&mut self, slot: usize) {
        let runs: Vec<usize> = self.slots[slot].app.runs.values().copied().collect();
        let node = self.slots[slot].id;
        self.node_gone(slot);
        self.push(self.now, Due::Unregister { node });
        for run in runs {
            let at = self.now;
            self.history.runs[run].cancel_sent.get_or_insert(at);
            self.cancel_run(run);
        }
        self.stream_ends(slot, false);
        self.boot(slot);
    }

    /// The hub is replaced: everything under way to it may be lost.
    pub(crate) fn hub_crash(&mut self, lease_gap_us: Us) {
        self.hub += 1;
        for slot in 0..self.slots.len() {
            if self.slots[slot].node.is_none() {
                continue;
            }
            let inst = self.slots[slot].inst;
            self.input(self.now, slot, Input::Event(Event::Lease { valid: false }));
            self.push(self.now + lease_gap_us, Due::Lease { slot, inst });
            for log in 0..self.logs.len() {
                self.lose_log(slot, log);
            }
            for inbox in self.inboxes_read(slot) {
                self.lose_inbox(slot, inbox);
            }
            self.input(self.now + 1, slot, Input::Event(Event::StoreReset));
        }
    }

    /// A sidecar is told to leave.
    pub(crate) fn leave(&mut self, slot: usize, back_us: Us) {
        if self.slots[slot].node.is_none() || self.slots[slot].leaves.is_some() {
            return;
        }
        self.slots[slot].leaves = Some(back_us);
        self.input(self.now, slot, Input::Event(Event::Drain));
    }

    /// A sidecar owns nothing more: its process ends soon.
    pub(crate) fn drained(&mut self, slot: usize) {
        let node = self.slots[slot].id;
        self.say(|| format!("n{slot} drained"));
        self.note(Seen::Drained { node });
        if self.slots[slot].app.said_goodbye && self.slots[slot].leaves.is_none() {
            // The host's goodbye is done: its process ends.
            let session = self.slots[slot].app.session.filter(|_| self.slots[slot].app.leaving);
            if let Some(session) = session {
                let back = self.rng.range(10 * MS, 300 * MS);
                let at = self.now + self.rng.range(MS, 20 * MS);
                self.push(at, Due::GoodbyeOver { slot, session, back });
            }
            return;
        }
        if self.slots[slot].leaves.is_none() {
            self.broken.push(format!("{node:?} says Drained and was not told to leave"));
            return;
        }
        let inst = self.slots[slot].inst;
        // Its own clients' last answers go out.
        let at = self.now + self.rng.range(MS, 100 * MS);
        self.push(at, Due::Stop { slot, inst });
    }

    /// A drained sidecar ends, and its app with it.
    pub(crate) fn stopped(&mut self, slot: usize) {
        let node = self.slots[slot].id;
        let back = self.slots[slot].leaves.unwrap_or(0);
        self.node_gone(slot);
        self.push(self.now, Due::Unregister { node });
        self.app_dies(slot);
        self.push(self.now + back, Due::Boot { slot });
    }

    fn goodbye(&mut self, slot: usize, back: Us) {
        let Some(session) = self.slots[slot].app.session else { return };
        if self.slots[slot].leaving() {
            return;
        }
        self.slots[slot].app.leaving = true;
        self.slots[slot].app.said_goodbye = true;
        self.app_says(slot, Input::Event(Event::HostLeaving { session }));
        let at = self.now + self.rng.range(20 * MS, GOODBYE_MAX);
        self.push(at, Due::GoodbyeOver { slot, session, back });
    }

    /// A host that said goodbye ends its process.
    pub(crate) fn goodbye_over(&mut self, slot: usize, session: SessionId, back: Us) {
        if self.slots[slot].app.session == Some(session) {
            self.app_dies(slot);
            self.push(self.now + back, Due::AppUp { slot });
        }
    }

    fn roll_back(&mut self, log: usize, back: Us) {
        let to = self.now.saturating_sub(back);
        if self.stores[log].roll_back(to) {
            self.note(Seen::RolledBack);
        }
    }
}
