//! What a channel says: statements and requests, whichever way they go.

use super::Route;
use crate::env::Env;
use crate::ids::{Epoch, NodeId, Number, Sender};
use crate::message::Message;
use crate::state::Outbound;

impl Route {
    /// States the committed numbers that are open (rule C3).
    pub(super) fn state(&mut self, env: &mut Env, out: &Outbound, node: NodeId) {
        self.stated = self.window.cursor();
        let statement = self.statement(env, out);
        env.send(node, statement);
    }

    /// What is open; what is closed is told with it.
    pub(super) fn statement(&mut self, env: &Env, out: &Outbound) -> Message {
        self.dirty = false;
        self.serial += 1;
        let closing = env.rules.close_only_committed;
        let mut open: Vec<_> = out.open.range(..self.committed).map(|(n, _)| *n).collect();
        let unsettled = self.unsettled.iter().filter(|n| closing && **n < self.committed);
        open.extend(unsettled.clone());
        open.sort_unstable();
        let mut answered: Vec<_> = self.heard.range(..self.committed).copied().collect();
        answered.extend(unsettled);
        answered.sort_unstable();
        let is_subscription = matches!(self.sender, Sender::Subscription { .. });
        let closes = env.rules.filter_closes || !is_subscription;
        Message::Open {
            sender: self.sender.clone(),
            from_epoch: self.from_epoch,
            to: self.to.clone(),
            highest: if closes { self.committed - 1 } else { 0 },
            open,
            answered,
            serial: self.serial,
        }
    }

    pub(super) fn request(
        &mut self,
        env: &mut Env,
        out: &Outbound,
        (node, epoch): (NodeId, Epoch),
        number: Number,
        asks: bool,
    ) {
        self.by_peer = self.by_peer.max(number + 1);
        if let Some(message) = self.request_of(env, out, epoch, (number, asks)) {
            env.send(node, message);
        }
    }

    /// From where on all numbers below one are closed, where that is not told by statements: numbers of subscriptions
    /// go to many receivers, and each gets only some.
    fn closed_from(&self, env: &Env, out: &Outbound, number: Number) -> Option<Number> {
        let before = || out.open.range(..number).next_back().map_or(1, |(before, _)| before + 1);
        // With the rule off: as if all lower ones were to come.
        let closed_from = if env.rules.filter_closes { before() } else { number };
        matches!(self.sender, Sender::Subscription { .. }).then_some(closed_from)
    }

    /// A request, as it goes either way. That it has gone is noted: whatever takes its receiver along in a first
    /// attempt is seen when it comes again.
    pub(super) fn request_of(
        &mut self,
        env: &Env,
        out: &Outbound,
        epoch: Epoch,
        (number, asks): (Number, bool),
    ) -> Option<Message> {
        let obligation = out.open.get(&number)?;
        let lowest = [
            out.open.first_key_value().map(|(n, _)| *n),
            self.unsettled.first().copied().filter(|_| env.rules.close_only_committed),
        ];
        let floor = lowest.into_iter().flatten().min().unwrap_or(number);
        let again = number < self.sent;
        self.sent = self.sent.max(number + 1);
        Some(Message::Request {
            sender: self.sender.clone(),
            from_epoch: self.from_epoch,
            to: self.to.clone(),
            epoch,
            number,
            floor,
            closed_from: self.closed_from(env, out, number),
            asks,
            promised: self.promised.contains(&number),
            again,
            owed: obligation.owed.clone(),
        })
    }
}
