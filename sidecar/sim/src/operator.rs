//! What people do to invocations while a run goes on, and how errors are retried. Drawn apart from the rest of a plan,
//! so that that does not depend on it.

use std::collections::BTreeMap;
use std::sync::Arc;

use kar_core::event::Operation;
use kar_core::ids::{InvocationId, Kind};
use kar_core::invocation::RetryPolicy;
use kar_core::limits::Limits;
use kar_core::message::Control;
use kar_core::node::{InvocationView, Phase};

use crate::history::Waiter;
use crate::plan::{ClientOp, HORIZON, MS, Names, Us};
use crate::rng::{Rng, join};
use crate::world::{Input, World};

/// How retryable errors are retried.
#[derive(Clone, Debug, Default)]
pub(crate) struct Policies {
    seed: u64,
    /// What hosts register for the methods of their kinds.
    by_kind: Vec<Option<RetryPolicy>>,
}

impl Policies {
    /// What a call says, by the tag that it was made with.
    pub(crate) fn of_tag(&self, tag: u64) -> Option<RetryPolicy> {
        let mut rng = Rng::new(join(self.seed, tag));
        (self.seed > 0 && rng.chance(150)).then(|| policy(&mut rng))
    }

    /// What holds for an invocation made with a tag, where it runs on a kind.
    pub(crate) fn of(&self, tag: u64, kind: usize) -> Option<RetryPolicy> {
        self.of_tag(tag).or_else(|| self.of_kind(kind))
    }

    /// What holds for what nobody has called, where it runs on a kind.
    pub(crate) fn of_kind(&self, kind: usize) -> Option<RetryPolicy> {
        self.by_kind.get(kind).copied().flatten()
    }

    /// What a host of some kinds registers.
    pub(crate) fn offered(
        &self,
        names: &Names,
        kinds: &[usize],
    ) -> BTreeMap<(Kind, Arc<str>), RetryPolicy> {
        let of_kind = |kind: &usize| {
            let policy = self.by_kind.get(*kind).copied().flatten()?;
            let of_method =
                |method: &Arc<str>| ((names.kinds[*kind].clone(), method.clone()), policy);
            Some([&names.method, &names.shared_method].map(of_method))
        };
        kinds.iter().filter_map(of_kind).flatten().collect()
    }
}

fn policy(rng: &mut Rng) -> RetryPolicy {
    RetryPolicy {
        attempts_max: rng.range(1, 4) as u32,
        initial_ms: rng.range(0, 60),
        max_ms: rng.range(20, 200),
        multiplier_percent: rng.range(100, 300) as u32,
    }
}

/// Draws policies, bounds, and what people do when; true: to what waits, where there is something that does.
pub(crate) fn draw(
    seed: u64,
    kinds: usize,
    most: u64,
    limits: &mut Limits,
) -> (Policies, Vec<(Us, bool)>) {
    let mut rng = Rng::new(seed ^ 0x706f_6c69_6379);
    let by_kind = (0..kinds).map(|_| rng.chance(500).then(|| policy(&mut rng))).collect();
    if rng.chance(600) {
        limits.park_after_attempts = rng.range(1, 3) as u32;
    }
    if rng.chance(200) {
        limits.dead_letters_per_partition_max = rng.range(0, 2) as usize;
    }
    let count = if rng.chance(700) { rng.range(1, most) } else { 0 };
    let controls = (0..count).map(|_| (rng.range(20 * MS, HORIZON), rng.chance(400))).collect();
    (Policies { seed: seed + 1, by_kind }, controls)
}

impl World {
    /// Somebody looks at what is unfinished, and ends or resumes one.
    pub(crate) fn control(&mut self, index: usize) {
        let (_, waiting) = self.plan.controls[index];
        let mut dead = self.dead_letters();
        if !dead.is_empty() && self.rng.chance(500) {
            let id = dead.swap_remove(self.rng.index(dead.len()));
            let control = match self.rng.below(10) {
                0 => Control::Inspect(id.uuid),
                1..=6 => Control::Redrive(id.uuid),
                _ => Control::Discard(id.uuid),
            };
            return self.ask_control(id, control);
        }
        let mut seen = self.unfinished();
        if waiting && seen.iter().any(|(_, view)| view.phase != Phase::Running) {
            seen.retain(|(_, view)| view.phase != Phase::Running);
        }
        if seen.is_empty() {
            return;
        }
        let (id, view) = seen.swap_remove(self.rng.index(seen.len()));
        let control = if self.rng.chance(150) {
            Control::Inspect(id.uuid)
        } else if view.phase == Phase::Parked && self.rng.chance(600) {
            Control::Resume(id.uuid)
        } else {
            Control::Cancel(id.uuid)
        };
        self.ask_control(id, control);
    }

    /// In the end everything that is parked is taken up again.
    pub(crate) fn resume_parked(&mut self) {
        let parked = self.unfinished().into_iter().filter(|(_, v)| v.phase == Phase::Parked);
        for (id, _) in parked.collect::<Vec<_>>() {
            let control = Control::Resume(id.uuid);
            self.ask_control(id, control);
        }
    }

    fn dead_letters(&self) -> Vec<InvocationId> {
        let nodes = self.slots.iter().filter_map(|slot| slot.node.as_ref());
        let views = nodes.flat_map(|node| node.partitions());
        let ids = views.flat_map(|view| {
            let home = view.id;
            view.dead
                .into_iter()
                .map(move |letter| InvocationId { home: home.clone(), uuid: letter.uuid })
        });
        ids.collect()
    }

    fn unfinished(&self) -> Vec<(InvocationId, InvocationView)> {
        let nodes = self.slots.iter().filter_map(|slot| slot.node.as_ref());
        let views = nodes.flat_map(|node| node.partitions());
        let rows = views.flat_map(|view| {
            let home = view.id;
            view.invocations
                .into_iter()
                .map(move |i| (InvocationId { home: home.clone(), uuid: i.uuid }, i))
        });
        rows.collect()
    }

    fn ask_control(&mut self, id: InvocationId, control: Control) {
        let usable =
            |slot: &usize| self.slots[*slot].app.session.is_some() && !self.slots[*slot].leaving();
        let usable: Vec<usize> = (0..self.slots.len()).filter(usable).collect();
        if usable.is_empty() {
            return;
        }
        let slot = usable[self.rng.index(usable.len())];
        self.ask_control_at(slot, id, control);
    }

    /// Somebody ends the youngest of what waits in a partition, at its owner's node.
    pub(crate) fn cancel_waiting(&mut self, slot: usize, log: usize) {
        let waiting = |(id, view): &(InvocationId, InvocationView)| {
            id.home == self.log_ids[log] && view.phase != Phase::Running
        };
        let waiting = self.unfinished().into_iter().filter(waiting).map(|(id, _)| id);
        if let Some(youngest) = waiting.max() {
            let control = Control::Cancel(youngest.uuid);
            self.ask_control_at(slot, youngest, control);
        }
    }

    fn ask_control_at(&mut self, slot: usize, id: InvocationId, control: Control) {
        let op = ClientOp {
            at: self.now,
            slot,
            mode: None,
            remind: None,
            removes: false,
            kind: 0,
            actor: None,
            fuel: 0,
            deadline_us: None,
            abandon_us: None,
            await_by: (0, 0),
        };
        let req = self.open_request(slot, 0, &op, None);
        self.history.reqs[req].control = Some((id.home.clone(), control));
        self.say(|| format!("n{slot} client q{req} {control:?} of {id}"));
        let operation = Operation::Control { home: id.home, control };
        self.app_says(slot, Input::Ask { waiter: Waiter::Client(req), operation });
    }
}
