//! Actor state: caches, loads, and materialisation of committed operations (design section 7).
//!
//! The store may go back in time: a backup was restored, a replica without the last writes took over, power was lost.
//! Rules that make this safe:
//!
//! - What the store holds is a function of its cell: all valid operations up to the cell's offset. Fences leave the
//!   offset alone; a write names the whole cell that it follows, and the store refuses it on any other one. So a write
//!   that was sent before a rollback, or by a reign that is over, either lands where it belongs or not at all.
//! - An owner keeps every operation above the offset that it knows the store to have reached. A load or a fence that
//!   shows less is a rollback: the owner lets go of everything and reads the log again, which holds what is missing.
//! - An owner that never looks at the store again is not disturbed; the next reign's fence shows where to go on from.

use std::sync::Arc;

use super::cached::ActorState;
use super::reign::{Reader, Reign, WaitingRead};
use super::{Partition, Stage};
use crate::cover::Transition;
use crate::effect::{Effect, Notice, Response};
use crate::env::Env;
use crate::event::Cell;
use crate::ids::{Epoch, Offset, RequestId, TurnToken};
use crate::invocation::{ActorOps, StateOp};
use crate::select::{Entries, Select, View};

impl Reign {
    /// Committed operations found by reading the log before the reign: the store may lack them.
    pub(super) fn replayed(&mut self, env: &Env, offset: Offset, ops: Vec<ActorOps>) {
        if offset <= self.cell.offset {
            if !ops.is_empty() {
                env.cover(Transition::CellSkips);
            }
            return;
        }
        for actor in &ops {
            self.note_unstored(actor);
        }
        if !ops.is_empty() {
            env.cover(Transition::Replayed);
            self.store_queue.push_back((offset, self.stamp, ops));
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
}

impl Partition {
    /// Applies decided operations to what is cached, and remembers them for loads and for the store.
    pub(super) fn apply_to_cache(&mut self, env: &mut Env, ops: &ActorOps) {
        self.reign.note_unstored(ops);
        if let Some(state) = self.reign.cache.get_mut(&ops.actor) {
            ops.ops.iter().for_each(|op| state.apply(op));
        }
        self.review_backlog(env);
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
            let next = batch.iter().map(ActorOps::size).sum::<usize>();
            // One record's operations go together, however long: a record is bounded.
            if !ops.is_empty() && bytes + next > env.limits.store_batch_bytes {
                break;
            }
            bytes += next;
            ops.extend(batch.iter().cloned());
            upto = *offset;
        }
        self.reign.writing = Some(upto);
        let (partition, expected) = (self.id.clone(), self.reign.cell);
        env.emit(Effect::WriteStore { partition, expected, upto, ops });
    }

    /// The store tells where it stands. Before the reign: what it has need not be kept. Should it go back before it is
    /// fenced, the fence shows.
    pub(crate) fn store_cell(&mut self, env: &mut Env, cell: Cell) {
        if self.serving() {
            return self.store_checked(env, cell);
        }
        if !matches!(self.stage, Stage::Reading | Stage::Claiming) {
            return;
        }
        if cell.offset > self.reign.cell.offset {
            self.reign.cell = cell;
            self.reign.stored(cell.offset);
        }
        self.reign.cell_known = true;
        self.use_snapshot(env);
    }

    /// The store is fenced for this reign; it tells how far it had come.
    pub(crate) fn store_fenced(&mut self, env: &mut Env, epoch: Epoch, cell: Cell) {
        if !self.serving() || epoch != self.reign.epoch || self.reign.fenced {
            return;
        }
        if cell.offset < self.reign.cell.offset {
            env.cover(Transition::FencedBehind);
            return self.rolled_back(env);
        }
        if cell.offset > self.state.offset {
            return self.store_ahead(env, cell);
        }
        env.cover(Transition::Fenced);
        if self.reign.store_since == 0 {
            self.reign.store_since = env.now;
        }
        self.reign.fenced = true;
        self.reign.cell = Cell { epoch, offset: cell.offset };
        self.reign.stored(cell.offset);
        self.review_backlog(env);
        if self.reign.fence_at.take().is_some() {
            self.load_again(env);
        }
        self.write_store(env);
        self.put_snapshot(env);
    }

    /// The store is behind what it was known to hold: the log heals it.
    fn rolled_back(&mut self, env: &mut Env) {
        env.notice(Notice::StoreRolledBack { partition: self.id.clone() });
        self.drop_all(env, "the store was rolled back", (0, None));
    }

    /// The store holds more than the log, and so something else: it is not used, and asked again later.
    fn store_ahead(&mut self, env: &mut Env, cell: Cell) {
        let (partition, log) = (self.id.clone(), self.state.offset);
        env.cover(Transition::StoreAhead);
        env.notice(Notice::StoreAhead { partition, store: cell.offset, log });
        self.reign.fenced = false;
        self.reign.fence_at = Some(env.now + env.limits.append_timeout_ms);
    }

    /// Asks a store again that held more than the log.
    pub(super) fn fence_due(&mut self, env: &mut Env) {
        if self.reign.fence_at.is_some_and(|at| at <= env.now) {
            self.reign.fence_at = Some(env.now + env.limits.append_timeout_ms);
            self.fence(env);
        }
    }

    pub(super) fn fence(&mut self, env: &mut Env) {
        self.reign.fenced = false;
        let (partition, epoch) = (self.id.clone(), self.reign.epoch);
        env.emit(Effect::FenceStore { partition, epoch });
    }

    /// A write is done.
    pub(crate) fn store_written(&mut self, env: &mut Env, epoch: Epoch, upto: Offset) {
        if !self.serving() || epoch != self.reign.epoch || self.reign.writing != Some(upto) {
            return;
        }
        self.reign.writing = None;
        self.reign.cell.offset = upto;
        self.reign.stored(upto);
        if !self.reign.store_queue.is_empty() {
            env.cover(Transition::WriteBehind);
        }
        self.write_store(env);
        self.put_snapshot(env);
        self.review_backlog(env);
    }

    /// The store refused a step. If it knows a newer reign this one is over, whatever the log has shown so far.
    /// Otherwise its cell is not the expected one: it went back, or a write landed that was given up for lost. The
    /// fence, set anew, tells which.
    pub(crate) fn store_refused(&mut self, env: &mut Env, epoch: Epoch, cell: Cell) {
        if !self.serving() || epoch != self.reign.epoch {
            return;
        }
        if cell.epoch > epoch {
            env.cover(Transition::RefusedNewer);
            return self.drop_all(env, "the store knows a newer reign", (0, None));
        }
        env.cover(Transition::FenceAgain);
        self.reign.writing = None;
        self.fence(env);
    }

    /// Steps under way at the store are lost: they are made again.
    pub(crate) fn store_reset(&mut self, env: &mut Env) {
        if matches!(self.stage, Stage::Reading | Stage::Claiming) {
            env.emit(Effect::ReadCell { partition: self.id.clone() });
            self.find_again(env);
        }
        if !self.serving() {
            return;
        }
        env.cover(Transition::StoreReset);
        self.reign.writing = None;
        self.put_again(env);
        self.fence(env);
        self.load_again(env);
    }

    fn load_again(&mut self, env: &mut Env) {
        let (partition, epoch) = (&self.id, self.reign.epoch);
        for (actor, load) in &mut self.reign.loading {
            load.known = self.reign.cell.offset;
            let (partition, actor) = (partition.clone(), actor.clone());
            env.emit(Effect::LoadActor { partition, epoch, actor });
        }
    }

    /// An actor's state came from the store.
    pub(crate) fn actor_loaded(
        &mut self,
        env: &mut Env,
        epoch: Epoch,
        actor: &Arc<str>,
        cell: Cell,
        mut state: Entries,
    ) {
        if !self.serving() || epoch != self.reign.epoch {
            return;
        }
        let Some(load) = self.reign.loading.get(actor) else { return };
        if cell.epoch > epoch {
            env.cover(Transition::LoadNewer);
            return self.drop_all(env, "the store knows a newer reign", (0, None));
        }
        if cell.offset < load.known && env.rules.load_checks {
            env.cover(Transition::LoadBehind);
            return self.rolled_back(env);
        }
        if cell.offset > self.state.offset {
            return self.store_ahead(env, cell);
        }
        let Some(load) = self.reign.loading.remove(actor) else { return };
        if self.reign.unstored.contains_key(actor) {
            env.cover(Transition::LoadOverlay);
        }
        let lacks = self.reign.unstored.get(actor).filter(|_| env.rules.keep_unstored);
        for (_, op) in lacks.into_iter().flatten() {
            apply(&mut state, op);
        }
        self.reign.drop_stored(actor);
        // Reads from outside must not fill the cache, nor those of a turn that is over: only an actor that has turns,
        // and becomes passive, is dropped from it.
        let keeps = self.reign.awake.contains(actor) || self.reign.actors.contains_key(actor);
        for read in &load.waiting {
            if let Reader::Node(from) = read.reader {
                self.answer_read(env, from, read.request, &state, &read.select);
            }
        }
        if keeps {
            self.reign.cache.insert(actor.clone(), ActorState::new(state));
        }
        for read in load.waiting {
            if let Reader::Turn(token) = read.reader {
                self.state_read(env, read.request, &token, read.select);
            }
        }
        env.resumable.extend(load.writers);
        self.review_backlog(env);
    }

    /// Reads of the state of the turn's actor: what was decided, and what the turn has buffered.
    pub(crate) fn state_read(
        &mut self,
        env: &mut Env,
        request: RequestId,
        token: &TurnToken,
        select: Select,
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
            return self.load_for(env, actor, WaitingRead { request, reader, select });
        };
        let view = View { decided: state.keys(), buffered: &turn.unflushed.state };
        let answer = view.read(&select);
        env.respond(request, Ok(Response::State(answer)));
    }

    /// Lets a read wait for the actor's state, and has it loaded if that is not under way.
    pub(super) fn load_for(&mut self, env: &mut Env, actor: Arc<str>, read: WaitingRead) {
        self.load(env, actor).waiting.push(read);
    }
}

fn apply(state: &mut Entries, op: &StateOp) {
    match op {
        StateOp::Set { key, value } => {
            state.insert(key.clone(), value.clone());
        }
        StateOp::Remove { key } => {
            state.remove(key);
        }
        StateOp::RemoveRange(range) => drop(range.remove_from(state)),
        StateOp::Clear => state.clear(),
    }
}
