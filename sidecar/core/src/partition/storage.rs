//! Actor state: caches, loads, and materialisation of committed operations (design section 7).

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Partition;
use super::reign::{Load, Reader, Reign, WaitingRead};
use crate::effect::{Effect, Notice, Response};
use crate::env::Env;
use crate::event::Cell;
use crate::ids::{Offset, RequestId, TurnToken};
use crate::invocation::{ActorOps, Payload, StateOp};

type State = BTreeMap<Arc<str>, Payload>;

impl Reign {
    /// Committed operations found by reading the log before the reign: the store may lack them.
    pub(super) fn replayed(&mut self, offset: Offset, ops: Vec<ActorOps>) {
        for actor in &ops {
            self.note_unstored(actor);
        }
        if !ops.is_empty() {
            self.store_queue.push_back((offset, self.stamp, ops));
        }
    }

    fn note_unstored(&mut self, ops: &ActorOps) {
        let queue = self.unstored.entry(ops.actor.clone()).or_default();
        for op in &ops.ops {
            self.stamp += 1;
            queue.push_back((self.stamp, op.clone()));
        }
    }

    /// The store has everything up to `offset`.
    fn stored(&mut self, offset: Offset) {
        while self.store_queue.front().is_some_and(|(at, _, _)| *at <= offset) {
            let Some((_, stamp, ops)) = self.store_queue.pop_front() else { break };
            self.in_store = stamp;
            for actor in ops {
                // What a load under way will bring may be older than this.
                if !self.loading.contains_key(&actor.actor) {
                    self.drop_stored(&actor.actor);
                }
            }
        }
    }

    /// Forgets operations of an actor that the store has.
    fn drop_stored(&mut self, actor: &Arc<str>) {
        let Some(queue) = self.unstored.get_mut(actor) else { return };
        while queue.front().is_some_and(|(at, _)| *at <= self.in_store) {
            queue.pop_front();
        }
        if queue.is_empty() {
            self.unstored.remove(actor);
        }
    }
}

impl Partition {
    /// Applies decided operations to what is cached, and remembers them for loads and for the store.
    pub(super) fn apply_to_cache(&mut self, ops: &ActorOps) {
        self.reign.note_unstored(ops);
        if let Some(state) = self.reign.cache.get_mut(&ops.actor) {
            for op in &ops.ops {
                apply(state, op);
            }
        }
    }

    /// Committed operations, in log order, are owed to the store.
    pub(super) fn owe_store(&mut self, offset: Offset, ops: Vec<ActorOps>) {
        // Later decisions have higher stamps; this record's last one is found by counting its operations from the
        // stamp of the record before: stamps are given in the order of decisions.
        let count: usize = ops.iter().map(|actor| actor.ops.len()).sum();
        let stamp = self.reign.stored_stamp + count as u64;
        self.reign.stored_stamp = stamp;
        self.reign.store_queue.push_back((offset, stamp, ops));
    }

    /// Starts the next write to the store if none is under way.
    pub(super) fn write_store(&mut self, env: &mut Env) {
        if !self.reign.fenced || self.reign.writing.is_some() || self.reign.store_queue.is_empty() {
            return;
        }
        let (mut ops, mut bytes, mut upto) = (Vec::new(), 0, 0);
        for (offset, _, batch) in &self.reign.store_queue {
            if bytes >= env.limits.store_batch_bytes {
                break;
            }
            bytes += batch.iter().flat_map(|a| &a.ops).map(StateOp::size).sum::<usize>();
            ops.extend(batch.iter().cloned());
            upto = *offset;
        }
        self.reign.writing = Some(upto);
        let (partition, epoch) = (self.id.clone(), self.state.epoch);
        env.emit(Effect::WriteStore { partition, epoch, upto, ops });
    }

    /// The store is fenced for this reign; it tells how far it had come.
    pub(crate) fn store_fenced(&mut self, env: &mut Env, cell: Cell) {
        if !self.serving() {
            return;
        }
        if cell.offset < self.reign.cell.offset {
            return self.rolled_back(env);
        }
        self.reign.fenced = true;
        self.reign.cell.offset = self.reign.cell.offset.max(cell.offset);
        self.reign.stored(cell.offset);
        self.write_store(env);
    }

    /// The store is behind what it was known to hold: the log heals it.
    fn rolled_back(&mut self, env: &mut Env) {
        env.notice(Notice::StoreRolledBack { partition: self.id.clone() });
        self.drop_all(env, "the store was rolled back", (0, None));
    }

    /// A write is done.
    pub(crate) fn store_written(&mut self, env: &mut Env, upto: Offset) {
        if !self.serving() || self.reign.writing != Some(upto) {
            return;
        }
        self.reign.writing = None;
        self.reign.cell.offset = self.reign.cell.offset.max(upto);
        self.reign.stored(upto);
        self.write_store(env);
    }

    /// The store knows a newer reign: this one is over, whatever the log has shown so far.
    pub(crate) fn store_stale(&mut self, env: &mut Env) {
        if self.serving() {
            self.drop_all(env, "the store knows a newer reign", (0, None));
        }
    }

    /// Steps under way at the store are lost: they are made again.
    pub(crate) fn store_reset(&mut self, env: &mut Env) {
        if !self.serving() {
            return;
        }
        self.reign.writing = None;
        self.reign.fenced = false;
        env.emit(Effect::FenceStore { partition: self.id.clone(), epoch: self.state.epoch });
        for (actor, load) in &mut self.reign.loading {
            load.known = self.reign.cell.offset;
            let actor = actor.clone();
            env.emit(Effect::LoadActor { partition: self.id.clone(), actor });
        }
    }

    /// An actor's state came from the store.
    pub(crate) fn actor_loaded(
        &mut self,
        env: &mut Env,
        actor: &Arc<str>,
        cell: Cell,
        mut state: State,
    ) {
        if !self.serving() {
            return;
        }
        let Some(load) = self.reign.loading.get(actor) else { return };
        if cell.offset < load.known {
            return self.rolled_back(env);
        }
        let Some(load) = self.reign.loading.remove(actor) else { return };
        for (_, op) in self.reign.unstored.get(actor).into_iter().flatten() {
            apply(&mut state, op);
        }
        self.reign.drop_stored(actor);
        let for_turns = load.waiting.iter().any(|read| matches!(read.reader, Reader::Turn(_)));
        // Reads from outside must not fill the cache: only an actor that ends its turns is dropped from it.
        let keeps = for_turns || self.reign.actors.contains_key(actor);
        for read in &load.waiting {
            if let Reader::Node(from) = read.reader {
                self.answer_read(env, from, read.request, &state, read.keys.as_deref());
            }
        }
        if keeps {
            self.reign.cache.insert(actor.clone(), state);
        }
        for read in load.waiting {
            if let Reader::Turn(token) = read.reader {
                self.state_read(env, read.request, &token, read.keys);
            }
        }
    }

    /// Reads keys of the turn's actor: what was decided, and what the turn has buffered.
    pub(crate) fn state_read(
        &mut self,
        env: &mut Env,
        request: RequestId,
        token: &TurnToken,
        keys: Option<Vec<Arc<str>>>,
    ) {
        let uuid = match self.check_turn(env, token) {
            Ok(uuid) => uuid,
            Err(error) => return env.respond(request, Err(error)),
        };
        let Some(item) = self.reign.items.get(&uuid) else { return };
        let (Some(actor), Some(turn)) = (item.invocation.actor.clone(), item.running()) else {
            let error = crate::effect::RequestError::Invalid("services have no actor state");
            return env.respond(request, Err(error));
        };
        let Some(state) = self.reign.cache.get(&actor) else {
            let reader = Reader::Turn(token.clone());
            return self.load_for(env, actor, WaitingRead { request, reader, keys });
        };
        let answer = read(state, &turn.state, keys.as_deref());
        env.respond(request, Ok(Response::State(answer)));
    }

    /// Lets a read wait for the actor's state, and has it loaded if that is not under way.
    pub(super) fn load_for(&mut self, env: &mut Env, actor: Arc<str>, read: WaitingRead) {
        let first = !self.reign.loading.contains_key(&actor);
        let known = self.reign.cell.offset;
        let load = Load { known, waiting: Vec::new() };
        self.reign.loading.entry(actor.clone()).or_insert(load).waiting.push(read);
        if first {
            env.emit(Effect::LoadActor { partition: self.id.clone(), actor });
        }
    }
}

/// The wanted keys of `state` after `buffered`.
pub(super) fn read(state: &State, buffered: &[StateOp], keys: Option<&[Arc<str>]>) -> State {
    let mut answer: State = match keys {
        None => state.clone(),
        Some(keys) => {
            let found = keys.iter().filter_map(|k| state.get_key_value(k));
            found.map(|(k, v)| (k.clone(), v.clone())).collect()
        }
    };
    for op in buffered {
        match (op, keys) {
            (StateOp::Set { key, .. } | StateOp::Remove { key }, Some(keys))
                if !keys.contains(key) => {}
            _ => apply(&mut answer, op),
        }
    }
    answer
}

fn apply(state: &mut State, op: &StateOp) {
    match op {
        StateOp::Set { key, value } => {
            state.insert(key.clone(), value.clone());
        }
        StateOp::Remove { key } => {
            state.remove(key);
        }
        StateOp::Clear => state.clear(),
    }
}
