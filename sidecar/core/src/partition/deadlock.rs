//! Flows that wait for each other in a circle (section 6, item 6): found by probing along the wait edges; the youngest
//! of the calls that wait ends as deadlocked.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

use super::Partition;
use super::gate::Gated;
use super::reign::{Item, ItemStage};
use crate::cover::Transition;
use crate::effect::Notice;
use crate::env::Env;
use crate::ids::{InvocationId, Millis, NodeId, PartitionId, Sender, Uuid};
use crate::invocation::Outcome;
use crate::message::Message;
use crate::probe::{Climb, Confirm, Place, Probe};
use crate::work;

/// What a reign remembers of probes.
#[derive(Clone, Debug, Default)]
pub(super) struct Probes {
    /// When calls that wait are probed from.
    pub(super) at: Option<Millis>,
    /// How often they were.
    round: u32,
    /// Calls that had to wait for their actors; some of them wait no more.
    waiting: BTreeSet<Uuid>,
    /// The last call probed from: the next ones are its successors, so that everyone has its turn.
    last: Uuid,
    /// What has passed in this round: from which call, about which one. A call that is reached on two ways is followed
    /// once.
    seen: BTreeSet<(Uuid, u32, Uuid)>,
    /// When that is forgotten.
    seen_until: Millis,
    /// Where chains of tail calls are that have left their home here, as far as calls of them wait.
    whereabouts: BTreeMap<Uuid, PartitionId>,
}

impl Probes {
    /// An invocation has ended here, or has come back.
    pub(super) fn forget(&mut self, uuid: Uuid) {
        self.whereabouts.remove(&uuid);
        self.waiting.remove(&uuid);
    }
}

impl Partition {
    /// A call has to wait for its actor: it is probed from after a time.
    pub(super) fn expect_probe(&mut self, env: &Env, uuid: Uuid) {
        let nested = self.reign.items.get(&uuid).is_some_and(|item| Self::is_nested(item));
        if nested && env.rules.deadlock_probes {
            let at = env.now + env.limits.deadlock_probe_ms;
            self.reign.probes.at.get_or_insert(at);
            self.reign.probes.waiting.insert(uuid);
        }
    }

    /// Whether flows wait for it; a root holds nothing while it waits.
    fn is_nested(item: &Item) -> bool {
        !item.invocation.chain.is_empty()
    }

    /// Probes from calls that wait, if it is time: a bounded number of them, in turn.
    pub(super) fn probe_due(&mut self, env: &mut Env) {
        if self.reign.probes.at.is_none_or(|at| at > env.now) {
            return;
        }
        let (items, actors) = (&self.reign.items, &self.reign.actors);
        let waits = |uuid: &Uuid| {
            work::look();
            let item = items.get(uuid).filter(|item| matches!(item.stage, ItemStage::Queued));
            let actor = item.and_then(|item| actors.get(item.invocation.actor.as_ref()?));
            actor.is_some_and(|actor| !actor.lock.holds(*uuid))
        };
        let again = env.now + env.limits.deadlock_probe_ms;
        let probes = &mut self.reign.probes;
        probes.waiting.retain(waits);
        probes.at = (!probes.waiting.is_empty()).then_some(again);
        probes.round = probes.round.wrapping_add(1);
        let next = probes.waiting.range((Bound::Excluded(probes.last), Bound::Unbounded));
        let next = next.chain(probes.waiting.range(..=probes.last));
        let next: Vec<Uuid> = next.take(env.limits.deadlock_probes_max).copied().collect();
        for uuid in next {
            self.reign.probes.last = uuid;
            self.climb(env, Climb { to: self.id.clone(), uuid, at: None });
            let Some(item) = self.reign.items.get(&uuid) else { continue };
            env.cover(Transition::ProbeBegins);
            let probe = Probe {
                to: self.id.clone(),
                uuid,
                origin: uuid,
                chain: item.invocation.chain.clone(),
                round: self.reign.probes.round,
                path: Vec::new(),
            };
            self.probe(env, probe);
        }
    }

    /// A call of an invocation's flow waits: remembers where its chain of tail calls is, and tells its callers.
    pub(crate) fn climb(&mut self, env: &mut Env, climb: Climb) {
        let Climb { uuid, at, .. } = climb;
        let Some(item) = self.reign.items.get(&uuid).filter(|_| self.serving()) else { return };
        let next = match (&item.invocation.home, item.origin.sender(), item.invocation.chain.last())
        {
            (Some(home), ..) if *home != self.id => {
                Climb { to: home.clone(), uuid, at: Some(self.id.clone()) }
            }
            (_, Some(Sender::Log { partition, .. }), Some(caller)) => {
                Climb { to: partition.clone(), uuid: *caller, at: None }
            }
            _ => return,
        };
        if let Some(at) = at.filter(|_| self.is_moved(uuid)) {
            self.reign.probes.whereabouts.insert(uuid, at);
        }
        let to = next.to.clone();
        self.send_soft(env, &to, Message::Climb(Box::new(next)));
    }

    /// Follows a probe (the first walk).
    pub(crate) fn probe(&mut self, env: &mut Env, mut probe: Probe) {
        if !self.serving() {
            return;
        }
        let longest = env.limits.deadlock_path_max;
        if probe.path.len() >= longest {
            env.limit("deadlock_path_max", longest);
            return;
        }
        if !self.is_first_visit(env, &probe) {
            return;
        }
        let uuid = probe.uuid;
        let Some(item) = self.reign.items.get(&uuid) else { return };
        if matches!(item.stage, ItemStage::Moved) {
            if let Some(at) = self.reign.probes.whereabouts.get(&uuid).cloned() {
                env.cover(Transition::ProbeMoved);
                probe.to = at.clone();
                self.send_soft(env, &at, Message::Probe(Box::new(probe)));
            }
            return;
        }
        let Some(actor) = item.invocation.actor.clone() else {
            return self.probe_children(env, uuid, &probe);
        };
        let Some(holders) = self.holders(uuid) else {
            return self.probe_children(env, uuid, &probe);
        };
        for holder in holders {
            let mut next = probe.clone();
            let (partition, epoch) = (self.id.clone(), self.reign.epoch);
            next.path.push(Place { partition, epoch, uuid, actor: actor.clone(), holder });
            if probe.chain.contains(&holder) {
                self.cycle_found(env, next.path);
            } else {
                self.probe_children(env, holder, &next);
            }
        }
    }

    /// Whether a probe may be followed: each one about each call once, and not too many in one period.
    fn is_first_visit(&mut self, env: &mut Env, probe: &Probe) -> bool {
        let probes = &mut self.reign.probes;
        if probes.seen_until <= env.now {
            probes.seen.clear();
            probes.seen_until = env.now + env.limits.deadlock_probe_ms;
        }
        let most = env.limits.deadlock_visits_max;
        if probes.seen.len() >= most {
            env.limit("deadlock_visits_max", most);
            return false;
        }
        self.reign.probes.seen.insert((probe.origin, probe.round, probe.uuid))
    }

    /// Follows the calls that an invocation waits for; not all at once if they are many.
    fn probe_children(&mut self, env: &mut Env, uuid: Uuid, probe: &Probe) {
        let Some(entry) = self.state.entries.get(&uuid) else { return };
        let open = entry.children.iter().filter(|child| !self.reign.outcomes.contains(child));
        let call = |(to, number): &(PartitionId, crate::ids::Number)| {
            let obligation = self.state.outbound.get(to)?.open.get(number)?;
            Some((to.clone(), obligation.owed.uuid()))
        };
        let mut calls: Vec<_> = open.filter_map(call).collect();
        let most = env.limits.deadlock_fanout_max;
        if calls.len() > most {
            env.cover(Transition::ProbeFanout);
            let first = probe.round as usize * most % calls.len();
            calls.rotate_left(first);
            calls.truncate(most);
        }
        for (to, uuid) in calls {
            let next = Probe { to: to.clone(), uuid, ..probe.clone() };
            self.send_soft(env, &to, Message::Probe(Box::new(next)));
        }
    }

    /// Who holds the actor that an invocation waits for; nothing if it does not wait for one.
    fn holders(&self, uuid: Uuid) -> Option<Vec<Uuid>> {
        let item = self.reign.items.get(&uuid)?;
        if !matches!(item.stage, ItemStage::Queued) {
            return None;
        }
        let actor = self.reign.actors.get(item.invocation.actor.as_ref()?)?;
        actor.lock.holders_before(uuid, &item.invocation.chain)
    }

    /// The first walk has closed a circle: the second one begins.
    fn cycle_found(&mut self, env: &mut Env, path: Vec<Place>) {
        env.cover(Transition::ProbeFound);
        if let Some(mut confirm) = Confirm::new(path) {
            if !env.rules.confirm_circles {
                // A rule switched off: the youngest ends without another look at the others.
                confirm.at = confirm.places.len() - 1;
            }
            if let Some(to) = confirm.place().map(|place| place.partition.clone()) {
                self.send_soft(env, &to, Message::Confirm(Box::new(confirm)));
            }
        }
    }

    /// Looks whether a call still waits as the first walk has seen it (the second walk). An owner that was struck out
    /// and does not know it sees what was so at its end, however often it looks: the reign is proved to be current
    /// first. At the last call it need not be, for what is decided of it counts in a current reign only.
    pub(crate) fn confirm(&mut self, env: &mut Env, confirm: Confirm) {
        if !self.serving() || self.reign.released {
            return;
        }
        let is_last = confirm.at + 1 >= confirm.places.len();
        if is_last || !env.rules.confirm_in_reign {
            self.confirm_current(env, confirm);
        } else {
            self.confirm_proved(env, confirm);
        }
    }

    /// The same, by a current reign. The last one is the youngest, and ends.
    pub(super) fn confirm_current(&mut self, env: &mut Env, mut confirm: Confirm) {
        let (Some(place), Some(before)) = (confirm.place(), confirm.before()) else { return };
        let is_here = !self.reign.released && place.epoch == self.reign.epoch;
        let Some(item) = self.reign.items.get(&place.uuid).filter(|_| is_here) else { return };
        let waits_for = item.invocation.chain.contains(&before.holder);
        let holders = self.holders(place.uuid).unwrap_or_default();
        let is_so = waits_for && holders.contains(&place.holder);
        if !is_so && (env.rules.confirm_circles || holders.is_empty()) {
            return env.cover(Transition::ProbeStale);
        }
        let uuid = place.uuid;
        if confirm.at + 1 < confirm.places.len() {
            confirm.at += 1;
            let next = confirm.places[confirm.at].partition.clone();
            if let Some(to) = self.likely_owner(env, &next) {
                // What was seen may have been decided, and not be committed yet.
                self.gate(env, Gated::Send { to, message: Message::Confirm(Box::new(confirm)) });
            }
            return;
        }
        // An attempt that may run elsewhere has flushed nothing, or it would hold the actor; it ends first, though.
        if self.may_run_elsewhere(env) {
            return;
        }
        let cycle = confirm.text();
        let invocation = InvocationId { home: self.id.clone(), uuid };
        let actor = place.actor.clone();
        self.end_unstarted(env, uuid, Outcome::Deadlock(cycle.clone()));
        self.gate_notice(env, Notice::Deadlock { invocation, cycle });
        self.forget_waiters(&actor);
    }

    /// Those that are gone no longer wait.
    fn forget_waiters(&mut self, actor: &Arc<str>) {
        let items = &self.reign.items;
        if let Some(actor) = self.reign.actors.get_mut(actor) {
            actor.lock.forget(|uuid| items.contains_key(uuid));
        }
    }

    /// Sends what is sent again if it is lost, to whoever is likely to own a partition.
    fn send_soft(&mut self, env: &mut Env, to: &PartitionId, message: Message) {
        if let Some(node) = self.likely_owner(env, to) {
            env.send(node, message);
        }
    }

    fn likely_owner(&self, env: &Env, of: &PartitionId) -> Option<NodeId> {
        let known = self.reign.routes.get(of).and_then(crate::route::Route::node);
        let node = if *of == self.id { Some(env.id) } else { known };
        node.or_else(|| env.desired_owner(of))
    }
}

#[cfg(test)]
mod tests {
    use crate::ids::Kind;
    use crate::invocation::Mode;
    use crate::script::Script;
    use crate::work;

    /// Clients' calls that wait in long queues hold nothing: nobody looks at them.
    #[test]
    fn roots_that_wait_are_not_scanned() {
        let mut script = Script::new(&[Kind::actor("Account")]);
        for actor in ["alice", "bob"] {
            script.invoke(None, Mode::Call, actor, "m");
        }
        let (_alice, bob) = (script.turn("m"), script.turn("m"));
        for _ in 0..2_000 {
            script.invoke(None, Mode::Call, "alice", "m");
        }
        script.invoke(Some(&bob), Mode::Call, "alice", "m");
        assert!(script.turns.is_empty());
        let before = work::looks();
        let periods = 5;
        script.advance(periods * script.limits.deadlock_probe_ms);
        let looks = work::looks() - before;
        assert!((4..50).contains(&looks), "{looks} looks in {periods} periods");
    }
}
