//! Queues and locks of actors (P4, P7), and who is let in.

use std::sync::Arc;

use super::Partition;
use super::reign::ItemStage;
use crate::cover::Transition;
use crate::effect::Notice;
use crate::env::Env;
use crate::ids::{TurnToken, Uuid};

impl Partition {
    /// Puts an invocation in its actor's queue; calls of the flow that holds the actor pass it (P7).
    pub(super) fn enqueue(&mut self, env: &Env, uuid: Uuid) {
        let Some(item) = self.reign.items.get(&uuid) else { return };
        let Some(actor) = &item.invocation.actor else {
            self.reign.idle.insert(uuid);
            return;
        };
        let chain = item.invocation.chain.clone();
        let actor = self.reign.actors.entry(actor.clone()).or_default();
        if actor.stack.first().is_some_and(|bottom| chain.contains(bottom)) {
            env.cover(Transition::EnterInner);
            actor.inner.push_back(uuid);
        } else {
            env.cover(Transition::EnterQueue);
            actor.queue.push_back(uuid);
        }
    }

    /// Starts what can start: after a change that concerns everybody.
    pub(crate) fn pump_all(&mut self, env: &mut Env) {
        if !self.serving() {
            return;
        }
        let actors: Vec<_> = self.reign.actors.keys().cloned().collect();
        for actor in actors {
            self.pump_actor(env, &actor);
        }
        for uuid in self.reign.idle.clone() {
            self.try_start(env, uuid);
        }
        self.try_release(env);
    }

    /// Starts an invocation if it can start.
    pub(crate) fn pump_item(&mut self, env: &mut Env, uuid: Uuid) {
        let Some(item) = self.reign.items.get_mut(&uuid) else { return };
        match item.invocation.actor.clone() {
            Some(actor) => self.pump_actor(env, &actor),
            None => self.try_start(env, uuid),
        }
    }

    /// Whether a turn that runs is not its actor's topmost one: only that runs (section 6, item 6), so what a parallel
    /// branch of it asks for waits until the turns that were let in have ended.
    pub(crate) fn is_covered(&self, token: &TurnToken) -> bool {
        let uuid = token.invocation.uuid;
        let Some(item) = self.reign.items.get(&uuid) else { return false };
        let Some(name) = &item.invocation.actor else { return false };
        let current = self.is_current(item, token);
        let top = self.reign.actors.get(name).and_then(|actor| actor.stack.last());
        current && item.running().is_some_and(|turn| !turn.cancelled) && top != Some(&uuid)
    }

    /// A slot became free for an invocation.
    pub(crate) fn slot_granted(&mut self, env: &mut Env, uuid: Uuid) {
        if let Some(item) = self.reign.items.get_mut(&uuid)
            && matches!(item.stage, ItemStage::WaitSlot)
        {
            env.cover(Transition::WaitSlotQueued);
            item.stage = ItemStage::Queued;
            self.pump_item(env, uuid);
        }
    }

    /// Lets in whoever may hold the actor now (P4), and starts the topmost turn.
    pub(super) fn pump_actor(&mut self, env: &mut Env, name: &Arc<str>) {
        if std::mem::replace(&mut self.reign.pumping, true) {
            return;
        }
        self.pump_stack(env, name);
        self.reign.pumping = false;
    }

    fn pump_stack(&mut self, env: &mut Env, name: &Arc<str>) {
        // Every round starts, ends or lets in one invocation, and each is let in and started once at most.
        let mut rounds = 4 * self.reign.items.len() + 16;
        while let Some(actor) = self.reign.actors.get_mut(name) {
            if rounds == 0 {
                let what = "an actor's queue does not come to rest";
                return env.notice(Notice::BrokenInvariant { what });
            }
            rounds -= 1;
            let Some(top) = actor.stack.last().copied() else {
                if !self.let_in_next(env, name) {
                    return;
                }
                continue;
            };
            let Some(item) = self.reign.items.get(&top) else { return };
            let unstarted =
                item.is_root() && !item.started && !self.holds(top) && self.no_roots(env);
            if matches!(item.stage, ItemStage::Queued)
                || (unstarted && matches!(item.stage, ItemStage::WaitSlot))
            {
                if unstarted {
                    // It was let in and has not started: nested calls must not wait behind it.
                    env.cover(Transition::HandOverRootBack);
                    self.set_stage(top, ItemStage::Queued);
                    let Some(actor) = self.reign.actors.get_mut(name) else { return };
                    actor.stack.pop();
                    actor.queue.push_front(top);
                    if !self.let_in_next(env, name) {
                        return;
                    }
                    continue;
                }
                self.try_start(env, top);
                let same = self.reign.actors.get(name).and_then(|a| a.stack.last()) == Some(&top);
                let waits = self.reign.items.get(&top).is_some_and(|i| !i.suspended());
                if same && waits {
                    return;
                }
                continue;
            }
            if !item.suspended() || !self.let_in_inner(name, top) {
                return;
            }
            env.cover(Transition::LetInInner);
        }
    }

    /// Whether no root may start: the partition, the host or the node is leaving.
    pub(super) fn no_roots(&self, env: &Env) -> bool {
        self.reign.leaving.is_some() || env.host.as_ref().is_some_and(|host| host.leaving)
    }

    /// Whether nested calls are left to the next owner, too. They start in a hand-over only while some turn here waits
    /// for calls: nothing else that runs here can be waiting for them, through whatever chain, and steady nested load
    /// would keep the partition busy up to the bound. Where nobody follows they are served to the end.
    pub(super) fn leaves_nested(&self, env: &Env) -> bool {
        self.reign.leaving.is_some()
            && env.desired_owner(&self.id).is_some_and(|node| node != env.id)
            && !self.any_suspended()
    }

    /// Whether some turn here waits for calls.
    pub(super) fn any_suspended(&self) -> bool {
        self.reign.items.values().any(|item| item.suspended())
    }

    /// Lets a descendant of the suspended turn in (section 18, decision 6).
    fn let_in_inner(&mut self, name: &Arc<str>, top: Uuid) -> bool {
        let Some(actor) = self.reign.actors.get_mut(name) else { return false };
        let items = &self.reign.items;
        let descends =
            |uuid: &Uuid| items.get(uuid).is_some_and(|i| i.invocation.chain.contains(&top));
        let Some(at) = actor.inner.iter().position(descends) else { return false };
        let Some(uuid) = actor.inner.remove(at) else { return false };
        actor.stack.push(uuid);
        true
    }

    /// The actor is free: lets the next one in; an actor without work is forgotten.
    fn let_in_next(&mut self, env: &mut Env, name: &Arc<str>) -> bool {
        let nested_only = self.no_roots(env);
        let Some(actor) = self.reign.actors.get_mut(name) else { return false };
        let bound = if env.may_speculate() { env.limits.speculation_per_actor_max } else { 1 };
        if actor.ahead >= bound {
            env.cover(Transition::AheadMax);
            return false;
        }
        // Those that waited to be let in to a flow that has ended come first.
        while let Some(uuid) = actor.inner.pop_back() {
            env.cover(Transition::InnerLeft);
            actor.queue.push_front(uuid);
        }
        let next = if nested_only {
            // No new roots, but calls of flows that hold locks elsewhere, unless they would overtake what the same
            // sender sent before (P7): those wait for the next owner.
            let items = &self.reign.items;
            let mut before = std::collections::BTreeSet::new();
            let at = actor.queue.iter().position(|uuid| {
                items.get(uuid).is_some_and(|i| {
                    !i.is_root() && !before.contains(&i.sender) || {
                        before.insert(&i.sender);
                        false
                    }
                })
            });
            at.and_then(|at| actor.queue.remove(at))
        } else {
            // Those that expired meanwhile are skipped.
            let items = &self.reign.items;
            std::iter::from_fn(|| actor.queue.pop_front()).find(|uuid| items.contains_key(uuid))
        };
        if let Some(uuid) = next {
            if nested_only {
                env.cover(Transition::HandOverNested);
            }
            actor.stack.push(uuid);
            let bottom = uuid;
            let items = &self.reign.items;
            let descends =
                |uuid: &Uuid| items.get(uuid).is_some_and(|i| i.invocation.chain.contains(&bottom));
            // Only what has flushed can have descendants.
            let progressed = self.state.entries.get(&uuid).is_some_and(|e| e.holds);
            if progressed && actor.queue.iter().any(descends) {
                env.cover(Transition::QueueToInner);
                let (inner, queue) = actor.queue.drain(..).partition(descends);
                actor.inner = inner;
                actor.queue = queue;
            }
            return true;
        }
        if actor.queue.is_empty() && actor.ahead == 0 {
            self.reign.actors.remove(name);
            if self.reign.cache.len() > env.limits.cached_actors_max {
                self.reign.cache.remove(name);
            }
        }
        false
    }
}
