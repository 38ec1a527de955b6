//! The end of an incarnation: the membership has struck the node out, and the sidecar goes on as another one.

use super::{DirectCall, Node};
use crate::effect::{Effect, RequestError};
use crate::event::Operation;
use crate::ids::RequestId;

impl Node {
    /// Ends the incarnation: nothing is to be fed to it any more. Requests of the component that changed nothing, or
    /// were never sent, are given back in the order in which they were made, for the next incarnation to take in. All
    /// others are answered: drain [`Node::poll_effect`], which has nothing but answers now.
    pub fn end(&mut self) -> Vec<(RequestId, Operation)> {
        for partition in self.partitions.values_mut().filter(|p| p.serving()) {
            partition.abandon(&mut self.env);
        }
        // Operations of turns that waited for something end with their turns.
        for token in self.waiting_turns.keys().cloned().collect::<Vec<_>>() {
            self.supersede(&token);
        }
        self.roots.end(&mut self.env);
        for request in std::mem::take(&mut self.direct).into_keys() {
            let error = RequestError::Unknown("this sidecar was given up while the call ran");
            self.env.respond(request, Err(error));
        }
        self.env.appends.clear();
        self.env.local.clear();
        self.env.granted.clear();
        self.env.resumable.clear();
        // Whoever is told anything else holds it to be dead, and it is.
        self.env.effects.retain(|effect| matches!(effect, Effect::Respond { .. }));
        let direct = std::mem::take(&mut self.direct_waiting).into_iter();
        let direct = direct.map(|(request, (_, call))| {
            let DirectCall { kind, method, payload, trace } = call;
            (request, Operation::InvokeDirect { kind, method, payload, trace })
        });
        let mut again = self.asks.end_all();
        again.extend(self.views.end_all());
        again.extend(std::mem::take(&mut self.parked).into_values().flatten());
        again.extend(direct);
        // Requests are numbered in the order in which they were made.
        again.sort_by_key(|(request, _)| *request);
        again
    }
}
