//! Root invocations with idempotency keys (section 5): what is sent again is not owed again.

use std::sync::Arc;

use super::Partition;
use super::gate::Gated;
use super::inbound::refused_as;
use crate::cover::Transition;
use crate::env::Env;
use crate::ids::{NodeId, Number, Sender, Uuid};
use crate::invocation::{Invocation, Outcome, Refusal};
use crate::record::Op;

impl Partition {
    /// Deals with what is known by its key already, and with what cannot be remembered; gives the rest back.
    pub(super) fn known_by_key(
        &mut self,
        env: &mut Env,
        (from, sender, number): (NodeId, &Sender, Number),
        invocation: Arc<Invocation>,
    ) -> Option<Arc<Invocation>> {
        let Some(digest) = invocation.key else { return Some(invocation) };
        let keys = self.state.keys.tally();
        let refusal = match self.state.keys.get(&invocation.uuid) {
            Some(known) if known.digest == digest => {
                env.cover(Transition::KeyAgain);
                self.log_held(env, sender, number);
                self.push(env, Op::Again { sender: sender.clone(), number, uuid: invocation.uuid });
                let sender = sender.clone();
                self.gate(env, Gated::Accepted { to: from, sender, number });
                return None;
            }
            Some(_) => Refusal::KeyReused,
            None if keys.count >= env.limits.keys_per_partition_max => Refusal::KeysFull,
            None if keys.bytes >= env.limits.keys_bytes_per_partition_max => Refusal::KeysBytesFull,
            None if !env.rules.remember_keys => {
                let invocation = Invocation { key: None, ..(*invocation).clone() };
                return Some(Arc::new(invocation));
            }
            None => return Some(invocation),
        };
        let uuid = refused_as(env, &invocation);
        self.turn_away(env, from, sender.clone(), number, uuid, refusal);
        None
    }

    /// Drops keys whose time is over.
    pub(super) fn forget_keys(&mut self, env: &mut Env) {
        let Some(by) = env.now.checked_sub(env.limits.key_retention_ms) else { return };
        let uuids: Vec<Uuid> = self.state.keys.ended_by(by).collect();
        if !uuids.is_empty() {
            env.cover(Transition::KeysForgotten);
            self.push(env, Op::ForgetKeys { uuids });
        }
    }

    /// The outcome of something started that is kept for whoever asks.
    pub(super) fn result_of(&self, uuid: &Uuid) -> Option<&Outcome> {
        self.state.results.get(uuid).or_else(|| self.state.keys.outcome(uuid))
    }
}
