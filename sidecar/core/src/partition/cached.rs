//! Bounds on actors' state: how much one actor may hold, and how far the store may stay behind the log.

use std::sync::Arc;

use super::Partition;
use super::reign::{Load, Reign};
use crate::cover::Transition;
use crate::effect::{Notice, RequestError};
use crate::env::Env;
use crate::ids::{TurnToken, Uuid};
use crate::invocation::{ActorOps, StateCondition, StateOp};
use crate::limits::{LimitHit, Limits, Rules};
use crate::select::{Entries, Overlay};
use crate::size::entry_size;

/// An actor's state in memory.
#[derive(Clone, Debug, Default)]
pub(super) struct ActorState {
    keys: Entries,
    /// What it takes, as its bound counts it.
    bytes: usize,
}

impl ActorState {
    pub(super) fn new(keys: Entries) -> Self {
        let bytes = keys.iter().map(|(key, value)| entry_size(key, value)).sum();
        Self { keys, bytes }
    }

    pub(super) fn keys(&self) -> &Entries {
        &self.keys
    }

    /// Applies a decided operation.
    pub(super) fn apply(&mut self, op: &StateOp) {
        let replaced = match op {
            StateOp::Set { key, value } => {
                self.bytes += entry_size(key, value);
                self.keys.insert(key.clone(), value.clone()).map(|old| (key, old))
            }
            StateOp::Remove { key } => self.keys.remove(key).map(|old| (key, old)),
            StateOp::RemoveRange(range) => {
                let gone = range.remove_from(&mut self.keys);
                self.bytes -= gone.iter().map(|(key, old)| entry_size(key, old)).sum::<usize>();
                None
            }
            StateOp::Clear => {
                *self = Self::default();
                None
            }
        };
        if let Some((key, old)) = replaced {
            self.bytes -= entry_size(key, &old);
        }
    }

    /// What it takes after more operations, at most: nothing that they replace is taken off.
    fn bytes_at_most(&self, buffered: usize) -> usize {
        self.bytes + buffered
    }

    /// What it takes after more operations.
    fn bytes_after<'a>(&'a self, ops: impl Iterator<Item = &'a StateOp>) -> usize {
        Overlay::of(ops).bytes_after(&self.keys, self.bytes)
    }
}

impl Reign {
    /// Remembers what the store may lack.
    pub(super) fn note_unstored(&mut self, ops: &ActorOps) {
        let queue = self.unstored.entry(ops.actor.clone()).or_default();
        for op in &ops.ops {
            self.stamp += 1;
            self.unstored_bytes += op.size();
            queue.push_back((self.stamp, op.clone()));
        }
    }

    /// Forgets operations of an actor that the store has.
    pub(super) fn drop_stored(&mut self, actor: &Arc<str>) {
        let Some(queue) = self.unstored.get_mut(actor) else { return };
        while queue.front().is_some_and(|(at, _)| *at <= self.in_store) {
            if let Some((_, op)) = queue.pop_front() {
                self.unstored_bytes -= op.size();
            }
        }
        if queue.is_empty() {
            self.unstored.remove(actor);
        }
    }
}

// How far the store may stay behind.
impl Partition {
    /// Whether no turn may start, because the store lacks too much of what turns have done.
    pub(super) fn store_is_behind(&self, env: &Env) -> bool {
        self.reign.store_behind || self.reign.unstored_bytes > max_unstored(&env.limits)
    }

    /// What the store lacks has changed. Turns start again when it has taken half of the bound.
    pub(super) fn review_backlog(&mut self, env: &mut Env) {
        let (bytes, max) = (self.reign.unstored_bytes, max_unstored(&env.limits));
        if !self.reign.store_behind && bytes > max {
            self.reign.store_behind = true;
            env.notice(Notice::Limit(unstored_hit(max)));
        } else if self.reign.store_behind && bytes <= max / 2 {
            self.reign.store_behind = false;
            self.pump_all(env);
        }
    }
}

// How much an actor may hold.
impl Partition {
    /// Whether a turn is to wait until its actor's state is in memory: only then it is known how much it may write.
    /// The state is loaded then, and the turn goes on with the token in [`Env::resumable`].
    pub(crate) fn awaits_state(&mut self, env: &mut Env, token: &TurnToken) -> bool {
        if !self.serving() {
            return false;
        }
        let Ok(uuid) = self.check_turn(env, token) else { return false };
        let item = self.reign.items.get(&uuid);
        let Some(actor) = item.and_then(|item| item.invocation.actor.clone()) else { return false };
        if self.reign.cache.contains_key(&actor) {
            return false;
        }
        let writers = &mut self.load(env, actor).writers;
        if !writers.contains(token) {
            writers.push(token.clone());
        }
        true
    }

    /// The bound that operations of a turn would break: its actor's, or the store's.
    pub(super) fn check_state(
        &self,
        env: &mut Env,
        uuid: Uuid,
        ops: &[StateOp],
    ) -> Result<(), RequestError> {
        let bytes: usize = ops.iter().map(StateOp::size).sum();
        // No turn starts beyond the bound; those that run may go on to twice of it.
        let max = max_unstored(&env.limits);
        if self.reign.unstored_bytes.saturating_add(bytes) > max.saturating_mul(2) {
            env.notice(Notice::Limit(unstored_hit(max)));
            return Err(RequestError::Limit(unstored_hit(max)));
        }
        let Some(item) = self.reign.items.get(&uuid) else { return Ok(()) };
        let (Some(own), Some(actor)) = (item.running(), &item.invocation.actor) else {
            return Ok(());
        };
        let Some(state) = self.reign.cache.get(actor) else { return Ok(()) };
        let max = env.limits.state_bytes_per_actor_max;
        // What turns below it have buffered takes effect after what it does itself, the topmost's first.
        let stack = self.reign.actors.get(actor).map(|actor| actor.lock.stack());
        let below = stack.unwrap_or_default().iter().rev().filter(|other| **other != uuid);
        let below = below.filter_map(|other| self.reign.items.get(other)?.running());
        let below: Vec<&[StateOp]> = below.map(|turn| turn.unflushed.state.as_slice()).collect();
        let size_of = |ops: &[StateOp]| ops.iter().map(StateOp::size).sum::<usize>();
        let buffered = own.unflushed.bytes + below.iter().map(|ops| size_of(ops)).sum::<usize>();
        if state.bytes_at_most(buffered + bytes) <= max {
            return Ok(());
        }
        let fits = |turns: usize| {
            let later = || below[..turns].iter().copied().flatten();
            let before = state.bytes_after(own.unflushed.state.iter().chain(later()));
            let after = state.bytes_after(own.unflushed.state.iter().chain(ops).chain(later()));
            // What is too long already, because the bound was lowered, may still be cut down.
            after <= max || after <= before
        };
        if (0..=below.len()).all(fits) {
            return Ok(());
        }
        Err(RequestError::Limit(env.limit("state_bytes_per_actor_max", max)))
    }

    /// The first condition among changes that does not hold: as the turn sees the state where it stands among them.
    pub(super) fn check_conditions(
        &self,
        rules: &Rules,
        uuid: Uuid,
        (ops, conditions): (&[StateOp], &[StateCondition]),
    ) -> Result<(), RequestError> {
        if conditions.is_empty() || !rules.state_conditions {
            return Ok(());
        }
        let item = self.reign.items.get(&uuid);
        let actor = item.and_then(|item| item.invocation.actor.as_ref());
        let state = actor.and_then(|actor| self.reign.cache.get(actor));
        let (Some(state), Some(turn)) = (state, item.and_then(|item| item.running())) else {
            // It was loaded before (see `awaits_state`): nobody has seen this.
            return Err(RequestError::Unavailable("the actor's state is not there: ask again"));
        };
        let mut overlay = Overlay::of(&turn.unflushed.state);
        let mut before = ops.iter();
        for condition in conditions {
            let passed = ops.len() - before.len();
            before
                .by_ref()
                .take(condition.after.saturating_sub(passed))
                .for_each(|op| overlay.push(op));
            let value = overlay.entry(state.keys(), &condition.key).map(|(_, value)| value);
            if value != condition.value.as_ref() {
                return Err(RequestError::ConditionFailed(condition.key.clone()));
            }
        }
        Ok(())
    }

    /// The load of an actor's state that is under way, or a new one.
    pub(super) fn load(&mut self, env: &mut Env, actor: Arc<str>) -> &mut Load {
        let known = self.reign.cell.offset;
        let is_first = !self.reign.loading.contains_key(&actor);
        env.cover(if is_first { Transition::Loads } else { Transition::LoadJoined });
        // A store that is not to be used is asked when it is again.
        if is_first && self.reign.fence_at.is_none() {
            let (partition, epoch) = (self.id.clone(), self.reign.epoch);
            let actor = actor.clone();
            env.emit(crate::effect::Effect::LoadActor { partition, epoch, actor });
        }
        let load = Load { known, waiting: Vec::new(), writers: Vec::new() };
        self.reign.loading.entry(actor).or_insert(load)
    }
}

fn max_unstored(limits: &Limits) -> usize {
    limits.unstored_bytes_per_partition_max
}

fn unstored_hit(max: usize) -> LimitHit {
    LimitHit { name: "unstored_bytes_per_partition_max", limit: max as u64 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invocation::Payload;

    fn set(key: &str, bytes: usize) -> StateOp {
        let value = Payload { data: vec![0; bytes].into(), content_type: "".into() };
        StateOp::Set { key: key.into(), value }
    }

    fn remove(key: &str) -> StateOp {
        StateOp::Remove { key: key.into() }
    }

    fn removal(from: &str, to: &str) -> StateOp {
        let to = Some(to.into());
        StateOp::RemoveRange(crate::select::KeyRange { from: from.into(), to })
    }

    /// What is foretold of operations is what they come to, whatever they replace.
    #[test]
    fn sizes_foretold_are_sizes_reached() {
        let table = [
            vec![set("a", 10), set("b", 20)],
            vec![set("a", 15), remove("b"), remove("c")],
            vec![set("c", 1), StateOp::Clear, set("d", 7), set("d", 9)],
            vec![remove("d"), set("e", 3), remove("e")],
            vec![set("e", 3), set("f", 4), set("g", 5)],
            vec![set("h", 6), removal("f", "z"), set("g", 7), removal("z", "f")],
            vec![StateOp::Clear],
        ];
        let mut state = ActorState::default();
        for ops in table {
            let at_most = state.bytes_at_most(ops.iter().map(StateOp::size).sum());
            let foretold = state.bytes_after(ops.iter());
            ops.iter().for_each(|op| state.apply(op));
            let counted = ActorState::new(state.keys.clone()).bytes;
            assert_eq!((foretold, state.bytes), (counted, counted), "after {ops:?}");
            assert!(counted <= at_most, "{counted} > {at_most} after {ops:?}");
        }
        assert_eq!(state.bytes, 0);
    }
}
