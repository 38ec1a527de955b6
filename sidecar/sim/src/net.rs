//! Connections between nodes: FIFO in each direction, lost with all that is under way on them.

use kar_core::event::Event;
use kar_core::ids::NodeId;
use kar_core::message::Message;

use crate::history::Seen;
use crate::plan::{MS, Us};
use crate::queue::Lane;
use crate::world::{Due, Input, World};

/// The connection between two slots.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Conn {
    /// Grows with every connection and every break.
    pub(crate) generation: u64,
    pub(crate) alive: bool,
    /// Which sides know that it is open: the lower slot's, the higher slot's.
    pub(crate) known: [bool; 2],
    /// No connection comes about before this.
    apart: Us,
    /// Or one that this slot does not know of.
    deaf: Option<usize>,
    /// Towards the lower slot, towards the higher slot.
    lanes: [Lane; 2],
}

/// Connections of all pairs of slots.
#[derive(Clone, Debug, Default)]
pub(crate) struct Net {
    conns: Vec<Conn>,
    slots: usize,
}

impl Net {
    pub(crate) fn new(slots: usize) -> Self {
        Self { conns: vec![Conn::default(); slots * slots], slots }
    }

    pub(crate) fn conn(&mut self, a: usize, b: usize) -> &mut Conn {
        let at = self.place(a, b);
        &mut self.conns[at]
    }

    pub(crate) fn get(&self, a: usize, b: usize) -> &Conn {
        &self.conns[self.place(a, b)]
    }

    /// All of them.
    pub(crate) fn all(&self) -> &[Conn] {
        &self.conns
    }

    fn place(&self, a: usize, b: usize) -> usize {
        a.min(b) * self.slots + a.max(b)
    }
}

/// Which side of the connection a slot is.
fn side(own: usize, other: usize) -> usize {
    usize::from(own > other)
}

impl World {
    /// Opens the connection between two slots, if both have nodes and none is open.
    pub(crate) fn connect(&mut self, a: usize, b: usize) {
        if self.slots[a].node.is_none() || self.slots[b].node.is_none() {
            return;
        }
        if self.plan.slots[a].no_peer || self.plan.slots[b].no_peer {
            return;
        }
        let now = self.now;
        let conn = self.net.conn(a, b);
        if conn.alive {
            return;
        }
        let deaf = conn.deaf.filter(|_| now < conn.apart);
        if now < conn.apart && deaf.is_none() {
            // Who parted them connects them again.
            return;
        }
        conn.generation += 1;
        conn.alive = true;
        conn.known = [false; 2];
        let generation = conn.generation;
        for (own, other) in [(a, b), (b, a)] {
            if deaf == Some(own) {
                continue;
            }
            let node = self.slots[other].id;
            let wanted = self.now + self.rng.range(200, 2000);
            let at = self.net.conn(a, b).lanes[side(own, other)].arrive(wanted);
            self.input(at, own, Input::PeerUp { other, generation, node });
        }
    }

    /// Breaks the connection between two slots; it comes back after `back`, if ever.
    pub(crate) fn disconnect(&mut self, a: usize, b: usize, back: Option<Us>) {
        let conn = self.net.conn(a, b);
        if conn.alive {
            conn.alive = false;
            conn.generation += 1;
            for (own, other) in [(a, b), (b, a)] {
                if self.net.conn(a, b).known[side(own, other)] {
                    let node = self.slots[other].id;
                    let at = self.now + self.rng.range(10, 2000) + self.hiccup();
                    self.input(at, own, Input::Event(Event::PeerDown { node }));
                }
            }
        }
        if let Some(back) = back {
            // Later than both sides' `PeerDown`, so that no side sees two connections at once.
            self.push(self.now + back.max(20 * MS), Due::Connect { a, b });
        }
    }

    /// Two nodes do not reach each other for a while; or only one of them the other.
    pub(crate) fn part(&mut self, a: usize, b: usize, deaf: Option<usize>, us: Us) {
        let until = self.now + us.max(30 * MS);
        let conn = self.net.conn(a, b);
        (conn.apart, conn.deaf) = (until, deaf);
        self.disconnect(a, b, Some(20 * MS));
        self.push(until, Due::Hears { a, b });
    }

    /// Nothing keeps two nodes apart any more.
    pub(crate) fn hears(&mut self, a: usize, b: usize) {
        let now = self.now;
        let conn = self.net.conn(a, b);
        if now < conn.apart {
            return;
        }
        conn.deaf = None;
        // A side that does not know of the connection gets to know the next one.
        self.disconnect(a, b, Some(20 * MS));
    }

    /// Whether an input of a connection still counts; a `PeerUp` makes the side know.
    pub(crate) fn peer_input(
        &mut self,
        own: usize,
        other: usize,
        generation: u64,
        up: bool,
    ) -> bool {
        let conn = self.net.conn(own, other);
        if !conn.alive || conn.generation != generation {
            return false;
        }
        if up {
            conn.known[side(own, other)] = true;
        }
        true
    }

    /// A node sends to a peer.
    pub(crate) fn send(&mut self, slot: usize, to: NodeId, message: Message) {
        let from = self.slots[slot].id;
        self.say(|| format!("n{slot} send {to:?} {message:?}"));
        let sent = self.history.before + self.history.events.len();
        self.note(Seen::Sent { from, message: message.clone() });
        let Some(other) = self.slots.iter().position(|s| s.id == to && s.node.is_some()) else {
            return;
        };
        let mut wanted = self.now + self.rng.range(80, 600) + self.hiccup();
        if self.faults_on && self.rng.chance(self.plan.profile.stall_message) {
            wanted += self.rng.range(20 * MS, 400 * MS);
        }
        let request = matches!(message, Message::Request { .. });
        if request && self.faults_on && self.rng.chance(self.plan.profile.lose_request) {
            return;
        }
        if let Some(hook) = self.hooks.message.as_mut() {
            wanted += hook(slot, other, &message);
        }
        if other == slot {
            let input = Input::Peer { other, generation: 0, sent, from, message };
            return self.input(wanted, slot, input);
        }
        let conn = self.net.conn(slot, other);
        if !conn.alive || !conn.known[side(slot, other)] {
            return;
        }
        let generation = conn.generation;
        let at = conn.lanes[side(other, slot)].arrive(wanted);
        self.input(at, other, Input::Peer { other: slot, generation, sent, from, message });
    }

    /// Everything that is sent in one direction from now on arrives later than in `us`.
    pub(crate) fn stall(&mut self, from: usize, to: usize, us: Us) {
        let at = self.now + us;
        self.net.conn(from, to).lanes[side(to, from)].arrive(at);
    }
}
