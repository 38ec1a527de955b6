//! Fingerprints of explored worlds: equal worlds have equal ones, whatever order of events led
//! there.
//!
//! Everything that can matter later is in them: the nodes, what is on its way, the logs, the
//! stores, what components and clients know. What is numbered in the order of events (turns,
//! requests) goes by names that do not depend on it. The order of past events itself is left out:
//! what the checkers could still find in it they are asked before a world is given up as known.

use std::fmt::{self, Write};

use crate::app::ToApp;
use crate::explore::pending::Lane;
use crate::history::{Run, Waiter};
use crate::rng::{join, mix};
use crate::slot::Slot;
use crate::world::{Due, Input, World};

/// A hash of text, as it is written.
#[derive(Clone, Copy, Default)]
pub(crate) struct Print {
    hash: u64,
    length: u64,
}

impl Print {
    pub(crate) fn number(self) -> u64 {
        mix(self.hash ^ self.length.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    /// The hash of one thing.
    pub(crate) fn of(thing: &impl fmt::Debug) -> u64 {
        let mut print = Self::default();
        print.add(thing);
        print.number()
    }

    pub(crate) fn add(&mut self, thing: &impl fmt::Debug) {
        // It takes whatever is written.
        let _ = write!(self, "{thing:?};");
    }
}

impl fmt::Write for Print {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for chunk in text.as_bytes().chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            let word = u64::from_le_bytes(word);
            self.hash = (self.hash.rotate_left(5) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        }
        self.hash ^= self.hash >> 29;
        self.length += text.len() as u64;
        Ok(())
    }
}

impl World {
    /// A number that stands for this world, with what faults are still to come.
    pub(crate) fn print(&mut self, used: &[u8]) -> u64 {
        let mut print = Print::default();
        print.add(&(self.now, self.hub, self.sessions, self.next_id, used));
        for slot in 0..self.slots.len() {
            let node = self.node_print(slot);
            print.add(&node);
            self.add_slot(&mut print, &self.slots[slot]);
        }
        print.add(
            &self.net.all().iter().map(|c| (c.generation, c.alive, c.known)).collect::<Vec<_>>(),
        );
        print.add(&self.members);
        for (log, store) in self.logs.iter().zip(&self.stores) {
            print.add(&log.print);
            for reader in &log.readers {
                print.add(&(reader.generation, reader.wanted, reader.active, reader.since));
            }
            print.add(&(&store.now, store.known_to));
        }
        print.add(&self.inboxes);
        self.topics.add_to(&mut print);
        self.add_pending(&mut print);
        let mut others: Vec<u64> = self.history.runs.iter().map(|r| self.run_print(r)).collect();
        others.sort_unstable();
        print.add(&others);
        let requests = self.history.reqs.iter();
        let mut requests: Vec<u64> = requests
            .map(|r| {
                let answers: Vec<_> = r.answers.iter().map(|(_, answer)| answer).collect();
                let is_here = r.arrived.is_some();
                Print::of(&(r.tag, r.node, r.awaits.is_some(), is_here, r.abandoned, answers))
            })
            .collect();
        requests.sort_unstable();
        print.add(&requests);
        print.number()
    }

    /// Most actions change one node: the others' prints are kept.
    fn node_print(&mut self, slot: usize) -> u64 {
        let slot = &mut self.slots[slot];
        let node = &slot.node;
        *slot.print.get_or_insert_with(|| Print::of(node))
    }

    fn add_slot(&self, print: &mut Print, slot: &Slot) {
        print.add(&(slot.inst, slot.id, slot.leaves, slot.issue, slot.tick_at));
        let app = &slot.app;
        print.add(&(app.process, app.alive, app.session, app.leaving, app.said_goodbye));
        print.add(&app.runs.keys().collect::<Vec<_>>());
        for waiter in &slot.waiters {
            print.add(&self.waiter(*waiter));
        }
    }

    fn run_print(&self, run: &Run) -> u64 {
        let mut print = Print::default();
        let flags = [run.cancel_sent.is_some(), run.result_taken.is_some(), run.cancelled];
        print.add(&(&run.token, run.session, run.started.is_some(), &run.end, flags));
        print.add(&(run.next, run.pending, run.connected, run.unheeding));
        for item in &run.items {
            print.add(&(&item.what, item.waited, item.arrived.is_some(), &item.answer));
        }
        print.number()
    }

    /// Who waits, by names that do not depend on the order of events.
    fn waiter(&self, waiter: Waiter) -> u64 {
        match waiter {
            Waiter::Turn(run, item) => join(self.run_name(run), item as u64),
            Waiter::Client(req) => {
                let req = &self.history.reqs[req];
                join(req.tag, u64::from(req.awaits.is_some()))
            }
        }
    }

    fn run_name(&self, run: usize) -> u64 {
        let run = &self.history.runs[run];
        Print::of(&(&run.token, run.session))
    }

    fn add_pending(&self, print: &mut Print) {
        let Some(pending) = self.pending.as_ref() else { return };
        let mut lanes = Vec::new();
        for (lane, queue) in pending.lanes.iter().chain(&pending.loose) {
            let mut one = Print::default();
            match lane {
                Lane::Run { run, what } => one.add(&(self.run_name(*run), what)),
                lane => one.add(lane),
            }
            queue.iter().for_each(|due| self.add_due(&mut one, due));
            lanes.push(one.number());
        }
        lanes.sort_unstable();
        print.add(&lanes);
        for (at, due) in &pending.later {
            print.add(at);
            self.add_due(print, due);
        }
        print.add(&pending.late);
    }

    fn add_due(&self, print: &mut Print, due: &Due) {
        match due {
            Due::Step { .. } => print.add(&"step"),
            Due::StopRun { .. } => print.add(&"stop"),
            Due::Beside { steps, .. } => print.add(steps),
            Due::App { what, session, .. } => match what {
                ToApp::Run(run) => print.add(&("run", self.run_name(*run), session)),
                ToApp::Cancel(run) => print.add(&("cancel", self.run_name(*run), session)),
                ToApp::Answer(to, answer) => print.add(&(self.waiter(*to), answer)),
                ToApp::Direct(turn) => print.add(&("direct", turn)),
            },
            Due::Input { input, inst, .. } => match input {
                Input::Peer { generation, from, message, .. } => {
                    print.add(&(generation, from, message));
                }
                Input::Ask { waiter, operation } => print.add(&(self.waiter(*waiter), operation)),
                Input::Result { token, result, .. } => print.add(&(token, result)),
                input => print.add(&(inst, input)),
            },
            due => print.add(due),
        }
    }
}
