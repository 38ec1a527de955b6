//! Actor life (design section 6, item 11): who is awake, how idle actors become passive, and how actors are removed.
//!
//! An actor is awake from its first turn in a reign on: its state may be in memory, and its host may remember
//! something of it. All that is kept of it then is a row in [`Awake`]; a passive actor has none, and costs nothing but
//! its place in the store. Rows are ordered by a lower bound of their last use, which is put right when it is looked
//! at: so a turn costs one look-up, and nothing is ever scanned.
//!
//! What a host remembers of an actor is worth something only while every turn of the actor was one of that host, and
//! all of them have taken effect. So turns carry the number of their actor's *activation*: a new one after the actor
//! was passive, removed, or had a turn that came to nothing, with another stream of the host, and in another reign.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use super::Partition;
use super::reign::{Item, Unflushed};
use crate::by_name::ByName;
use crate::cover::Transition;
use crate::effect::Notice;
use crate::env::Env;
use crate::ids::{Millis, SessionId, Uuid};
use crate::invocation::{ApplicationError, Outcome, Payload, StateOp, Work};
use crate::record::Op;
use crate::reminder::ReminderChange;
use crate::state::{Origin, deactivation};
use crate::work;

/// Actors that become passive in one step: what comes meanwhile is not to wait for more.
const PASSIVATED_AT_ONCE_MAX: usize = 256;

/// Actors that have had turns in this reign, those included that are busy.
#[derive(Clone, Debug, Default)]
pub(super) struct Awake {
    actors: ByName<Stay>,
    /// Each of them, by a time at which it was in use; its last use may be later.
    by_use: BTreeSet<(Millis, Arc<str>)>,
    /// Turns that deactivate actors and have not ended.
    deactivating: usize,
    /// Actors that have become passive since that was told.
    passivated: usize,
}

/// An actor's stay in memory.
#[derive(Clone, Copy)]
pub(super) struct Stay {
    /// The host's stream that had all its turns.
    session: SessionId,
    /// Names the activation; `None`: the next turn begins a new one.
    activation: Option<u64>,
    /// When it was last seen to be in use.
    used: Millis,
    /// As in `by_use`.
    listed: Millis,
}

impl fmt::Debug for Stay {
    /// Without the activation's name: worlds that differ in names only are the same to whoever compares them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { session, activation, used, listed } = self;
        write!(f, "{session:?} {} {used} {listed}", activation.is_some())
    }
}

impl Awake {
    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.actors.len()
    }

    /// Whether an actor is one of them.
    pub(super) fn contains(&self, name: &Arc<str>) -> bool {
        self.actors.contains_key(name)
    }

    fn insert(&mut self, name: &Arc<str>, stay: Stay) {
        self.remove(name);
        self.by_use.insert((stay.listed, name.clone()));
        self.actors.insert(name.clone(), stay);
    }

    fn remove(&mut self, name: &Arc<str>) {
        if let Some(stay) = self.actors.remove(name) {
            self.by_use.remove(&(stay.listed, name.clone()));
        }
    }

    /// An actor is in use. False: it is none of them.
    fn touch(&mut self, name: &Arc<str>, now: Millis) -> bool {
        let stay = self.actors.get_mut(name);
        stay.map(|stay| stay.used = now).is_some()
    }

    /// The one that has not been used for the longest time, and since when. `is_busy`: it is in use now.
    fn first(
        &mut self,
        now: Millis,
        is_busy: impl Fn(&Arc<str>) -> bool,
    ) -> Option<(Millis, Arc<str>)> {
        // Each round is paid for by a use since the last one.
        loop {
            work::look();
            let (listed, name) = self.by_use.first().cloned()?;
            let stay = self.actors.get_mut(&name)?;
            // Behind those that were in use until now, and are not any more.
            let used = if is_busy(&name) { now + 1 } else { stay.used };
            if used <= listed {
                return Some((listed, name));
            }
            (stay.used, stay.listed) = (used, used);
            self.by_use.pop_first();
            self.by_use.insert((used, name));
        }
    }
}

// Awake and passive.
impl Partition {
    /// A turn of an actor starts: the number of its activation.
    pub(super) fn activation(&mut self, env: &mut Env, name: &Arc<str>, session: SessionId) -> u64 {
        let is_fresh = env.rules.fresh_activations;
        let known = self.reign.awake.actors.get(name);
        let known = known.filter(|stay| stay.session == session || !is_fresh);
        if let Some(activation) = known.and_then(|stay| stay.activation) {
            return activation;
        }
        env.cover(Transition::Activated);
        let activation = env.activation();
        // A turn that waits below this one is of an earlier activation, and will go on: what it does then is in nobody
        // else's memory.
        let actor = self.reign.actors.get(name);
        let is_lone = actor.is_none_or(|actor| actor.lock.stack().len() <= 1);
        if !is_lone {
            env.cover(Transition::ActivatedAbove);
        }
        let is_good = is_lone || !env.rules.lone_activations;
        let now = env.now;
        let stay =
            Stay { session, activation: is_good.then_some(activation), used: now, listed: now };
        self.reign.awake.insert(name, stay);
        activation
    }

    /// A turn of an actor came to nothing, and may have left something in its host's memory.
    pub(super) fn end_activation(&mut self, env: &Env, uuid: Uuid) {
        let actor = self.reign.items.get(&uuid).and_then(|item| item.invocation.actor.as_ref());
        let stay = actor.and_then(|actor| self.reign.awake.actors.get_mut(actor));
        if let Some(stay) = stay.filter(|_| env.rules.fresh_activations) {
            stay.activation = None;
        }
    }

    /// An actor has nothing more to do.
    pub(super) fn rests(&mut self, env: &Env, name: &Arc<str>) {
        if !self.reign.awake.touch(name, env.now) {
            self.reign.cache.remove(name);
        }
    }

    fn longest_idle(&mut self, env: &Env) -> Option<(Millis, Arc<str>)> {
        let actors = &self.reign.actors;
        let first = self.reign.awake.first(env.now, |name| actors.contains_key(name));
        first.filter(|(_, name)| !actors.contains_key(name))
    }

    /// Whether more actors are awake than may be, those left out that are on their way to be passive.
    fn too_many_awake(&self, env: &Env) -> bool {
        let awake = &self.reign.awake;
        awake.len() - awake.deactivating.min(awake.len()) > env.limits.cached_actors_max
    }

    /// When an actor may have been idle for long enough.
    pub(super) fn next_passive(&self, env: &Env) -> Option<Millis> {
        let (listed, _) = self.reign.awake.by_use.first()?;
        if self.too_many_awake(env) && self.reign.actors.len() < self.reign.awake.len() {
            // Some of them are not busy.
            return Some(env.now);
        }
        // Whichever of them ends looks again.
        let is_full = self.reign.awake.deactivating >= env.limits.deactivations_max;
        listed.checked_add(env.limits.actor_idle_ms).filter(|_| !is_full)
    }

    /// Actors that have been idle for long enough become passive, and those that have been for longest if there are too
    /// many.
    pub(super) fn passivate_due(&mut self, env: &mut Env) {
        if self.next_passive(env).is_none_or(|at| at > env.now) {
            return;
        }
        for _ in 0..PASSIVATED_AT_ONCE_MAX {
            let too_many = self.too_many_awake(env);
            let Some((used, name)) = self.longest_idle(env) else { break };
            if !too_many && used.saturating_add(env.limits.actor_idle_ms) > env.now {
                break;
            }
            if self.passivate(env, &name) {
                continue;
            }
            if !too_many {
                break;
            }
            env.cover(Transition::PassiveFull);
            self.forget_actor(&name);
        }
        self.tell_passive(env);
    }

    /// Tells people how many actors have become passive.
    fn tell_passive(&mut self, env: &mut Env) {
        let count = std::mem::take(&mut self.reign.awake.passivated);
        if count > 0 {
            env.notice(Notice::Passivated { partition: self.id.clone(), count });
        }
    }

    /// An idle actor becomes passive; its host is told by a turn, if it wants to know. False: there are too many such
    /// turns.
    fn passivate(&mut self, env: &mut Env, name: &Arc<str>) -> bool {
        let session = self.reign.awake.actors.get(name).map(|stay| stay.session);
        let told = session.is_some()
            && env.session_for(&self.id.kind) == session
            && self.is_deactivated_by_turn(env)
            && !self.no_roots(env)
            && !self.reign.released;
        if !told {
            env.cover(Transition::PassiveSilent);
            self.forget_actor(name);
            return true;
        }
        if self.reign.awake.deactivating >= env.limits.deactivations_max {
            return false;
        }
        self.begin_deactivation(env, name);
        true
    }

    /// Whether the host has a hook for actors that become passive.
    fn is_deactivated_by_turn(&self, env: &Env) -> bool {
        env.host.as_ref().is_some_and(|host| host.offer.deactivates.contains(&self.id.kind))
    }

    /// Nothing of an idle actor stays in memory.
    fn forget_actor(&mut self, name: &Arc<str>) {
        self.reign.awake.remove(name);
        self.reign.cache.remove(name);
        self.reign.awake.passivated += 1;
    }

    fn begin_deactivation(&mut self, env: &mut Env, name: &Arc<str>) {
        env.cover(Transition::Deactivates);
        let uuid = env.uuid();
        let item = Item::new(Arc::new(deactivation(name, uuid)), Origin::Idle);
        self.insert_item(env, uuid, item);
        self.enqueue(env, uuid);
        self.pump_item(env, uuid);
    }

    /// Whether an invocation is a deactivation of which the log knows nothing: nobody is owed it.
    pub(super) fn is_fleeting(&self, uuid: Uuid) -> bool {
        let item = self.reign.items.get(&uuid);
        item.is_some_and(|item| item.invocation.work == Work::Deactivate && !item.logged)
    }

    /// A deactivation that the host has no hook for (any more) is over.
    pub(super) fn has_no_hook(&self, env: &Env, uuid: Uuid) -> bool {
        let item = self.reign.items.get(&uuid);
        let deactivates = item.is_some_and(|item| item.invocation.work == Work::Deactivate);
        deactivates && !self.is_deactivated_by_turn(env)
    }

    /// Whether a deactivation that has done nothing has lost its host: nobody who knows of the actor is left to be
    /// told.
    pub(super) fn has_lost_host(&self, env: &Env, uuid: Uuid) -> bool {
        if !self.is_fleeting(uuid) {
            return false;
        }
        let actor = self.reign.items.get(&uuid).and_then(|item| item.invocation.actor.as_ref());
        let stay = actor.and_then(|actor| self.reign.awake.actors.get(actor));
        stay.map(|stay| stay.session) != env.host.as_ref().map(|host| host.session)
    }

    /// A deactivation ends, whatever became of it: the actor is passive. Only what it did is logged. True: nothing of
    /// it is.
    pub(super) fn end_deactivation(
        &mut self,
        env: &mut Env,
        uuid: Uuid,
        unflushed: &Unflushed,
    ) -> bool {
        let Some(item) = self.reign.items.get(&uuid) else { return false };
        if item.invocation.work != Work::Deactivate {
            return false;
        }
        let Some(name) = item.invocation.actor.clone() else { return false };
        env.cover(Transition::Deactivated);
        self.forget_actor(&name);
        self.tell_passive(env);
        if self.is_fleeting(uuid) && !unflushed.is_empty() {
            env.cover(Transition::DeactivationLogged);
            self.log_item(env, uuid);
        }
        self.is_fleeting(uuid)
    }

    /// What has become of an invocation that is none of a method is told to people.
    pub(super) fn tell_life(&mut self, env: &mut Env, item: &Item, outcome: &Outcome) {
        let Some(actor) = item.invocation.actor.clone() else { return };
        let partition = self.id.clone();
        let notice = match (item.invocation.work, outcome) {
            (Work::Remove, Outcome::Done(_)) => Notice::Removed { partition, actor },
            (Work::Deactivate, Outcome::Failed(error)) => {
                Notice::DeactivationFailed { partition, actor, error: error_text(error) }
            }
            _ => return,
        };
        // Of a deactivation that did nothing there is nothing to be made again.
        if item.origin == Origin::Idle && !item.logged {
            env.notice(notice);
        } else {
            self.gate_notice(env, notice);
        }
    }

    /// A deactivation is to be in the log from here on: it does something.
    pub(super) fn log_deactivation(&mut self, env: &mut Env, uuid: Uuid) {
        let Some(item) = self.reign.items.get_mut(&uuid) else { return };
        let Some(actor) = item.invocation.actor.clone() else { return };
        item.logged = true;
        self.push(env, Op::Deactivate { actor, uuid });
        self.note_decided(uuid);
    }

    /// An invocation is held from here on.
    pub(super) fn deactivation_held(&mut self, item: &Item) {
        self.reign.awake.deactivating += usize::from(item.origin == Origin::Idle);
    }

    /// An invocation is let go of.
    pub(super) fn deactivation_gone(&mut self, item: &Item) {
        self.reign.awake.deactivating -= usize::from(item.origin == Origin::Idle);
    }
}

// Removal.
impl Partition {
    /// The turn of a removal has come: the actor is its alone. State, reminders, and firings that wait go in one
    /// decision with its outcome; what is queued behind it begins with an empty actor.
    pub(super) fn remove_actor(&mut self, env: &mut Env, uuid: Uuid) {
        let Some(item) = self.reign.items.get(&uuid) else { return };
        let Some(actor) = item.invocation.actor.clone() else { return };
        env.cover(Transition::Removed);
        self.reign.awake.remove(&actor);
        let mut unflushed = Unflushed { state: vec![StateOp::Clear], ..Unflushed::default() };
        if env.rules.removal_cancels {
            unflushed.reminders.push(ReminderChange::CancelAll);
        }
        if env.rules.removal_ends_subscriptions {
            self.tell_subscriptions(env, (uuid, &actor), &mut unflushed);
        }
        self.end(env, uuid, Outcome::Done(Payload::default()), unflushed);
    }

    /// Whether an actor is being removed: then none of its firings that wait has run, whatever was lost before.
    pub(super) fn is_being_removed(&self, actor: &Arc<str>) -> bool {
        let top = self.reign.actors.get(actor).and_then(|actor| actor.lock.top());
        let item = top.and_then(|top| self.reign.items.get(&top));
        item.is_some_and(|item| item.invocation.work == Work::Remove)
    }
}

fn error_text(error: &ApplicationError) -> Arc<str> {
    format!("{}: {}", error.code, error.message).into()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    const ACTORS: u64 = 2_000;

    fn name(n: u64) -> Arc<str> {
        format!("a{n}").into()
    }

    /// Those that have been idle for longest go first, and each look at one of them was paid for by a use of it.
    #[test]
    fn actors_go_in_the_order_of_their_last_use_and_nothing_is_scanned() {
        let mut awake = Awake::default();
        for n in 0..ACTORS {
            let stay = Stay { session: SessionId(1), activation: Some(n), used: n, listed: n };
            awake.insert(&name(n), stay);
        }
        // Every second one is used again, the last ones first.
        let again = (0..ACTORS).filter(|n| n % 2 == 0).map(|n| (2 * ACTORS - n, n));
        let again: BTreeMap<u64, u64> = again.collect();
        assert!(again.iter().all(|(at, n)| awake.touch(&name(*n), *at)));
        let last = (0..ACTORS).filter(|n| n % 2 == 1).chain(again.into_values());
        let before = work::looks();
        for n in last {
            let (_, first) = awake.first(3 * ACTORS, |_| false).expect("it is there");
            assert_eq!(first, name(n));
            awake.remove(&first);
        }
        let looks = work::looks() - before;
        assert_eq!(looks as u64, ACTORS + ACTORS / 2, "one for each use");
        assert_eq!((awake.len(), awake.by_use.len()), (0, 0));
    }

    #[test]
    fn who_is_busy_is_not_idle() {
        let mut awake = Awake::default();
        for n in 0..3 {
            let stay = Stay { session: SessionId(1), activation: None, used: n, listed: n };
            awake.insert(&name(n), stay);
        }
        let busy = name(0);
        let (used, first) = awake.first(10, |actor| *actor == busy).expect("it is there");
        assert_eq!((used, first), (1, name(1)));
    }
}
