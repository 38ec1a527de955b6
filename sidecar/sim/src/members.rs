//! The membership: who is there, what they host, and how everybody hears of it.

use kar_core::Node;
use kar_core::event::{Event, Member};
use kar_core::ids::{Kind, NodeId};
use kar_core::node::NodeConfig;

use crate::history::Seen;
use crate::plan::MS;
use crate::rng::join;
use crate::world::{Due, Input, World};

impl World {
    /// A new node starts in a slot.
    pub(crate) fn boot(&mut self, slot: usize) {
        if self.slots[slot].node.is_some() {
            return;
        }
        self.next_id += 1;
        let id = NodeId(self.next_id);
        let mut seed = (u128::from(self.rng.next()) << 64) | u128::from(self.rng.next());
        if self.pending.is_some() {
            // Without chance the incarnation makes the difference.
            seed = u128::from(join(self.plan.seed, id.0));
        }
        let (limits, rules) = (self.plan.limits.clone(), self.plan.rules);
        let no_peer = self.plan.slots[slot].no_peer;
        let node = Node::new(NodeConfig { id, seed, limits, rules, no_peer });
        self.slots[slot].occupy(id, node);
        self.say(|| format!("n{slot} boots as {id:?}"));
        self.note(Seen::NodeUp { node: id });
        let member = self.member(slot);
        self.members.nodes.insert(id, member);
        let members = Event::Members(self.members.clone());
        self.give(slot, members);
        self.publish();
        for other in 0..self.slots.len() {
            if other != slot {
                let at = self.now + self.rng.range(100, 2 * MS);
                self.push(at, Due::Connect { a: slot, b: other });
            }
        }
        let at = self.now + self.rng.range(100, 5 * MS);
        self.push(at, Due::AppUp { slot });
    }

    /// The member in a slot, without what it hosts.
    pub(crate) fn member(&self, slot: usize) -> Member {
        Member { no_peer: self.plan.slots[slot].no_peer, ..Member::default() }
    }

    /// A node is no more. Its app, its connections and its membership are other matters.
    pub(crate) fn node_gone(&mut self, slot: usize) {
        let id = self.slots[slot].id;
        self.say(|| format!("n{slot} {id:?} is gone"));
        self.note(Seen::NodeGone { node: id });
        if let Some(node) = self.slots[slot].node.as_ref() {
            self.history.covered.add_node(node.covered());
        }
        self.slots[slot].vacate();
        for log in 0..self.logs.len() {
            self.stop_reading(slot, log);
        }
        for inbox in self.inboxes_read(slot) {
            self.stop_inbox(slot, &inbox);
        }
        for other in 0..self.slots.len() {
            if other != slot {
                self.disconnect(slot, other, None);
            }
        }
    }

    pub(crate) fn unregister(&mut self, node: NodeId) {
        if self.members.nodes.remove(&node).is_some() {
            self.say(|| format!("members: {node:?} is struck out"));
            self.note(Seen::StruckOut { node });
            self.publish();
        }
    }

    pub(crate) fn register_kind(&mut self, kind: &Kind) {
        if !self.members.kinds.contains_key(kind) {
            let count = self.plan.names.counts[self.plan.names.kind(kind)];
            self.members.kinds.insert(kind.clone(), count);
            self.publish();
        }
    }

    pub(crate) fn offered(&mut self, node: NodeId, member: Member) {
        if let Some(known) = self.members.nodes.get_mut(&node) {
            *known = member;
            self.publish();
        }
    }

    /// Tells everybody how the membership stands.
    fn publish(&mut self) {
        for slot in 0..self.slots.len() {
            if self.slots[slot].node.is_none() {
                continue;
            }
            let mut wanted = self.now + self.rng.range(50, 2 * MS) + self.hiccup();
            if self.faults_on && self.rng.chance(20) {
                wanted += self.rng.range(10 * MS, 200 * MS);
            }
            let at = self.slots[slot].members_lane.arrive(wanted);
            let members = Event::Members(self.members.clone());
            self.input(at, slot, Input::Event(members));
        }
    }
}
