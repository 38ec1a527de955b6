//! Queues and locks of actors (P4, P7), and who is let in.

use std::sync::Arc;

use super::Partition;
use super::reign::ItemStage;
use crate::cover::Transition;
use crate::effect::Notice;
use crate::env::Env;
use crate::ids::{TurnToken, Uuid};
use crate::invocation::{Outcome, Refusal, Work};
use crate::work;

impl Partition {
    /// Puts an invocation in its actor's queue; calls of the flow that holds the actor pass it (P7).
    pub(super) fn enqueue(&mut self, env: &Env, uuid: Uuid) {
        let Some(item) = self.reign.items.get(&uuid) else { return };
        let Some(actor) = &item.invocation.actor else {
            self.reign.idle.insert(uuid);
            return;
        };
        let chain = item.invocation.chain.clone();
        let new = || self.reign.spare_actors.take();
        let actor = self.reign.actors.get_or_insert_with(actor, new);
        let is_inner = actor.lock.enqueue(uuid, &chain);
        env.cover(if is_inner { Transition::EnterInner } else { Transition::EnterQueue });
        self.expect_probe(env, uuid);
    }

    /// Starts what can start: after a change that concerns everybody.
    pub(crate) fn pump_all(&mut self, env: &mut Env) {
        if !self.serving() {
            return;
        }
        self.release_reminders(env);
        let mut actors: Vec<_> = self.reign.actors.keys().cloned().collect();
        actors.sort_unstable();
        for actor in actors {
            let company = self.reign.actors.get(&actor).map(|a| a.lock.company().to_vec());
            self.start_members(env, &actor, &company.unwrap_or_default());
            self.pump_actor(env, &actor);
        }
        for uuid in self.reign.idle.clone() {
            self.try_start(env, uuid);
        }
        if env.rules.read_on {
            self.read_all(env);
        }
        self.try_release(env);
    }

    /// Starts an invocation if it can start.
    pub(crate) fn pump_item(&mut self, env: &mut Env, uuid: Uuid) {
        let Some(item) = self.reign.items.get_mut(&uuid) else { return };
        match item.invocation.actor.clone() {
            Some(actor) => {
                self.start_members(env, &actor, &[uuid]);
                self.pump_actor(env, &actor);
            }
            None => self.try_start(env, uuid),
        }
    }

    /// Starts turns of shared methods that were let in, and waited since for something that may have come: for one of
    /// them, or for all. Nobody else looks at them: they may be many.
    fn start_members(&mut self, env: &mut Env, name: &Arc<str>, members: &[Uuid]) {
        let actor = self.reign.actors.get(name);
        let is_shared = actor.is_some_and(|actor| !actor.lock.company().is_empty());
        if !is_shared || self.reign.pumping || !self.may_start_members(env) {
            return;
        }
        for uuid in members {
            work::look();
            let actor = self.reign.actors.get(name);
            if self.waits_to_start(*uuid) && actor.is_some_and(|a| a.lock.company().contains(uuid))
            {
                self.try_start(env, *uuid);
            }
        }
    }

    /// Without a host nobody knows which methods are shared; what may run elsewhere is neither started nor ended.
    fn may_start_members(&self, env: &Env) -> bool {
        env.session_for(&self.id.kind).is_some() && !self.may_run_elsewhere(env)
    }

    /// Whether a turn that runs is not its actor's topmost one: only that runs (section 6, item 6), so what a parallel
    /// branch of it asks for waits until the turns that were let in have ended.
    pub(crate) fn is_covered(&self, token: &TurnToken) -> bool {
        let uuid = token.invocation.uuid;
        let Some(item) = self.reign.items.get(&uuid) else { return false };
        let Some(name) = &item.invocation.actor else { return false };
        let current = self.is_current(item, token);
        let below = self.reign.actors.get(name).is_some_and(|actor| actor.lock.is_covered(uuid));
        current && item.running().is_some_and(|turn| !turn.cancelled) && below
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
        self.resume_reminders(env, name);
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
            let Some(top) = actor.lock.top() else {
                let goes_on = match actor.lock.is_free() {
                    true => self.let_in_next(env, name),
                    false => self.pump_company(env, name),
                };
                if goes_on {
                    continue;
                }
                return;
            };
            let Some(item) = self.reign.items.get(&top) else { return };
            let unstarted = self.is_unstarted_root(top) && self.no_roots(env);
            if matches!(item.stage, ItemStage::Queued)
                || (unstarted && matches!(item.stage, ItemStage::WaitSlot))
            {
                if unstarted {
                    // It was let in and has not started: nested calls must not wait behind it.
                    env.cover(Transition::HandOverRootBack);
                    self.set_stage(top, ItemStage::Queued);
                    self.give_back_slot(env, top);
                    let Some(actor) = self.reign.actors.get_mut(name) else { return };
                    actor.lock.put_back(top);
                    if !self.let_in_next(env, name) {
                        return;
                    }
                    continue;
                }
                if self.turns_out_shared(env, name, top) {
                    continue;
                }
                self.try_start(env, top);
                let same = self.reign.actors.get(name).and_then(|a| a.lock.top()) == Some(top);
                let waits = self.reign.items.get(&top).is_some_and(|i| !i.lets_in());
                if same && waits {
                    return;
                }
                continue;
            }
            if !item.lets_in() || !self.let_in_inner(env, name, top) {
                return;
            }
            env.cover(match self.reign.items.get(&top).map(|item| &item.stage) {
                Some(ItemStage::Parked) => Transition::LetInParked,
                _ => Transition::LetInInner,
            });
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

    /// Whether a root was let in, and can wait outside as well.
    fn is_unstarted_root(&self, uuid: Uuid) -> bool {
        let item = self.reign.items.get(&uuid);
        item.is_some_and(|item| item.is_root() && !item.started) && !self.holds(uuid)
    }

    /// Whether the host has registered an invocation's method as shared.
    fn is_of_shared_method(&self, env: &Env, uuid: Uuid) -> bool {
        let host = env.host.as_ref();
        let methods = host.and_then(|host| host.offer.shared.get(&self.id.kind));
        let item = self.reign.items.get(&uuid);
        methods.zip(item).is_some_and(|(methods, item)| {
            let invocation = &item.invocation;
            invocation.work == Work::Method && methods.contains(&invocation.method)
        })
    }

    /// Gives an invocation the actor.
    fn let_in(&mut self, name: &Arc<str>, uuid: Uuid, is_shared: bool) {
        if let Some(item) = self.reign.items.get_mut(&uuid) {
            item.shared = is_shared;
        }
        if let Some(actor) = self.reign.actors.get_mut(name) {
            actor.lock.enter(uuid, is_shared);
        }
    }

    /// Without a host nobody knows which methods are shared. Tells whether a turn that was let in then, alone, now is
    /// one of several that may hold the actor.
    fn turns_out_shared(&mut self, env: &Env, name: &Arc<str>, uuid: Uuid) -> bool {
        let is_late = self.is_of_shared_method(env, uuid) && !self.holds(uuid);
        let Some(item) = self.reign.items.get_mut(&uuid).filter(|i| is_late && !i.shared) else {
            return false;
        };
        item.shared = true;
        env.cover(Transition::ShareLate);
        let Some(actor) = self.reign.actors.get_mut(name) else { return false };
        actor.lock.share(uuid);
        actor.lock.top() != Some(uuid)
    }

    /// Turns of shared methods hold the actor: lets more of them in, and starts those. Tells whether there is more to
    /// do.
    fn pump_company(&mut self, env: &mut Env, name: &Arc<str>) -> bool {
        if !self.may_start_members(env) {
            return false;
        }
        let Some(actor) = self.reign.actors.get_mut(name) else { return false };
        let company = actor.lock.company().to_vec();
        let items = &self.reign.items;
        let is_of_flow = |uuid: &Uuid| {
            let chain = items.get(uuid).map(|item| &item.invocation.chain);
            chain.is_some_and(|chain| company.iter().any(|holder| chain.contains(holder)))
        };
        if let Some(uuid) = actor.lock.take_inner(is_of_flow) {
            if self.is_of_shared_method(env, uuid) {
                env.cover(Transition::ShareInner);
                self.let_in(name, uuid, true);
                self.try_start(env, uuid);
            } else {
                env.cover(Transition::ShareRefused);
                // An attempt that ran elsewhere has left nothing: it would hold the actor otherwise.
                self.end_unstarted(env, uuid, Outcome::Refused(Refusal::SharedToExclusive));
            }
            return true;
        }
        actor.lock.requeue_inner();
        if self.no_roots(env) {
            self.put_members_back(env, name, &company);
        }
        // The one that was let in last shows whether more of them would only wait, too: for a slot, perhaps.
        let mut last = self.last_member(name);
        while let Some(uuid) = last {
            work::look();
            self.try_start(env, uuid);
            last = if self.waits_to_start(uuid) { None } else { self.let_in_company(env, name) };
        }
        self.reign.actors.get(name).is_some_and(|actor| actor.lock.is_free())
    }

    fn last_member(&self, name: &Arc<str>) -> Option<Uuid> {
        self.reign.actors.get(name)?.lock.company().last().copied()
    }

    /// No root is to start: those that were let in and have not started leave.
    fn put_members_back(&mut self, env: &mut Env, name: &Arc<str>, company: &[Uuid]) {
        let can_leave =
            |uuid: &&Uuid| self.waits_to_start(**uuid) && self.is_unstarted_root(**uuid);
        let leaving: Vec<_> = company.iter().rev().filter(can_leave).copied().collect();
        for uuid in leaving {
            env.cover(Transition::ShareBack);
            self.set_stage(uuid, ItemStage::Queued);
            self.give_back_slot(env, uuid);
            let Some(actor) = self.reign.actors.get_mut(name) else { return };
            actor.lock.put_back(uuid);
        }
    }

    fn waits_to_start(&self, uuid: Uuid) -> bool {
        let stage = self.reign.items.get(&uuid).map(|item| &item.stage);
        matches!(stage, Some(ItemStage::Queued | ItemStage::WaitSlot))
    }

    /// Lets in the next one, if it is shared, too: those behind an exclusive one wait for that (P7).
    fn let_in_company(&mut self, env: &Env, name: &Arc<str>) -> Option<Uuid> {
        let bound = self.ahead_max(env);
        let actor = self.reign.actors.get_mut(name)?;
        let items = &self.reign.items;
        let next = actor.lock.next(|uuid| items.contains_key(uuid));
        let uuid = next.filter(|_| actor.ahead < bound && !actor.lock.is_free())?;
        let is_fresh_root = self.is_unstarted_root(uuid) && self.no_roots(env);
        let is_shared = self.is_of_shared_method(env, uuid) || !env.rules.shared_apart;
        if is_fresh_root || !is_shared {
            return None;
        }
        let actor = self.reign.actors.get_mut(name)?;
        actor.lock.take(|other| *other == uuid);
        env.cover(Transition::ShareJoin);
        self.let_in(name, uuid, true);
        Some(uuid)
    }

    /// How many of an actor's turns may run ahead of the log (rule L6).
    fn ahead_max(&self, env: &Env) -> u32 {
        if env.may_speculate() { env.limits.speculation_per_actor_max } else { 1 }
    }

    /// Lets a descendant of the suspended turn in (section 18, decision 6).
    fn let_in_inner(&mut self, env: &Env, name: &Arc<str>, top: Uuid) -> bool {
        let Some(actor) = self.reign.actors.get_mut(name) else { return false };
        let items = &self.reign.items;
        let chain = |uuid: &Uuid| items.get(uuid).map(|item| &item.invocation.chain);
        let root = |uuid: &Uuid| chain(uuid)?.first().copied().or(Some(*uuid));
        let descends = |uuid: &Uuid| match env.rules.descendants_only {
            true => chain(uuid).is_some_and(|chain| chain.contains(&top)),
            false => root(uuid) == root(&top),
        };
        let Some(uuid) = actor.lock.take_inner(descends) else { return false };
        let is_shared = self.is_of_shared_method(env, uuid);
        self.let_in(name, uuid, is_shared);
        true
    }

    /// The actor is free: lets the next one in; an actor without work is forgotten.
    fn let_in_next(&mut self, env: &mut Env, name: &Arc<str>) -> bool {
        let nested_only = self.no_roots(env);
        let bound = self.ahead_max(env);
        let Some(actor) = self.reign.actors.get_mut(name) else { return false };
        if actor.ahead >= bound {
            env.cover(Transition::AheadMax);
            return false;
        }
        // Those that waited to be let in to a flow that has ended come first.
        if actor.lock.requeue_inner() {
            env.cover(Transition::InnerLeft);
        }
        let next = if nested_only {
            // No new roots, but calls of flows that hold locks elsewhere, unless they would overtake what the same
            // sender sent before (P7): those wait for the next owner.
            let items = &self.reign.items;
            let mut before = std::collections::BTreeSet::new();
            let mut step_before = false;
            actor.lock.take(|uuid| {
                let Some(item) = items.get(uuid) else { return false };
                // Who sent a step that follows here is not known any more: it passes nobody, and nobody passes it.
                let is_step = item.invocation.step > 1;
                let passes = if is_step {
                    before.is_empty()
                } else {
                    !before.contains(&item.origin.sender())
                };
                let passes = (passes && !step_before) || !env.rules.hand_over_order;
                if !item.is_root() && passes {
                    return true;
                }
                before.insert(item.origin.sender());
                step_before |= is_step;
                false
            })
        } else {
            // Those that expired meanwhile are skipped.
            let items = &self.reign.items;
            let next = match env.rules.queue_order {
                true => actor.lock.next(|uuid| items.contains_key(uuid)),
                false => actor.lock.last(|uuid| items.contains_key(uuid)),
            };
            next.and_then(|next| actor.lock.take(|uuid| *uuid == next))
        };
        let is_idle = actor.lock.waiting() == 0 && actor.ahead == 0;
        if let Some(uuid) = next {
            if nested_only {
                env.cover(Transition::HandOverNested);
            }
            let progressed = self.holds(uuid);
            // A step that kept the lock is exclusive, whatever its method.
            let is_shared = self.is_of_shared_method(env, uuid) && !progressed;
            self.let_in(name, uuid, is_shared);
            // Only what has flushed can have descendants.
            let items = &self.reign.items;
            let descends =
                |other: &Uuid| items.get(other).is_some_and(|i| i.invocation.chain.contains(&uuid));
            if let Some(actor) = self.reign.actors.get_mut(name).filter(|_| progressed)
                && actor.lock.adopt(descends)
            {
                env.cover(Transition::QueueToInner);
            }
            return true;
        }
        if is_idle {
            if let Some(actor) = self.reign.actors.remove(name) {
                self.reign.spare_actors.put(actor);
            }
            self.rests(env, name);
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use crate::event::Offer;
    use crate::ids::{Kind, SessionId};
    use crate::invocation::Mode;
    use crate::script::{Script, done};
    use crate::{Event, work};

    /// A call of a shared method makes a partition look at few of those that run beside it.
    #[test]
    fn many_shared_turns_are_not_scanned() {
        let (many, kinds) = (500, [Kind::actor("Account")]);
        let mut script = Script::new(&kinds);
        let shared = [(kinds[0].clone(), [Arc::from("look")].into())].into();
        let offer = Offer { kinds: kinds.to_vec(), concurrency: many, shared, ..Offer::default() };
        script.event(Event::HostUp { session: SessionId(100), offer });
        for _ in 0..many {
            script.invoke(None, Mode::Call, "alice", "look");
        }
        assert_eq!(script.turns.len(), many as usize);
        let before = work::looks();
        for n in 1..=100 {
            let turn = script.turn("look");
            script.finish(&turn, done("seen"));
            script.invoke(None, Mode::Call, "alice", "look");
            assert_eq!(script.turns.len(), many as usize);
            let looks = work::looks() - before;
            assert!(looks <= 10 * n, "{looks} turns were looked at for {n} calls");
        }
    }
}
