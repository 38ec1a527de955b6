//! What turns do: a script drawn from the payload that the turn was invoked with. Scripts of most seeds cannot wait for
//! each other in a circle (`Profile::crossing` lets them): a turn calls only actors of a higher rank than all that its
//! chain holds, or re-enters one that its chain holds; a turn that re-entered calls no actors but what its chain holds;
//! and where several calls of the flow run beside each other, it calls only its own (two such could wait for each
//! other's actors).

use std::sync::Arc;

use bytes::Bytes;
use kar_core::ids::TurnToken;
use kar_core::invocation::{Payload, StateOp, Target};

use crate::keys;
use crate::plan::{ACTORS, MS, Names, Profile, Us};
use crate::reading::{self, Reading};
use crate::remind::Remind;
use crate::rng::{Rng, join};
use crate::topic;

/// What a payload says: which invocation of the script tree it is, and what its turn may do.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Spec {
    /// Unique per sending.
    pub(crate) tag: u64,
    /// Ranks of the actors that the chain of callers holds.
    pub(crate) mask: u64,
    /// How many more invocations this one may cause.
    pub(crate) fuel: u8,
    /// Only what the chain holds may be called.
    pub(crate) confined: bool,
    /// Other calls of the flow may run beside it.
    pub(crate) joined: bool,
    /// A retry does the same again (else every attempt draws anew).
    pub(crate) steady: bool,
    /// A reminder's: every firing has the same payload.
    pub(crate) rings: bool,
}

impl Spec {
    /// The payload that carries it.
    pub(crate) fn payload(self, names: &Names) -> Payload {
        let mut data = [0_u8; 18];
        data[..8].copy_from_slice(&self.tag.to_le_bytes());
        data[8..16].copy_from_slice(&self.mask.to_le_bytes());
        data[16] = self.fuel;
        data[17] = u8::from(self.confined)
            | (u8::from(self.steady) << 1)
            | (u8::from(self.joined) << 2)
            | (u8::from(self.rings) << 3);
        Payload { data: Bytes::copy_from_slice(&data), content_type: names.empty.clone() }
    }

    /// Reads a payload back.
    pub(crate) fn read(payload: &Payload) -> Self {
        let data = &payload.data;
        let number = |at: usize| {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(&data[at..at + 8]);
            u64::from_le_bytes(bytes)
        };
        Self {
            tag: number(0),
            mask: number(8),
            fuel: data[16],
            confined: data[17] & 1 != 0,
            steady: data[17] & 2 != 0,
            joined: data[17] & 4 != 0,
            rings: data[17] & 8 != 0,
        }
    }
}

/// A payload of one number.
pub(crate) fn number_payload(names: &Names, number: u64) -> Payload {
    let data = Bytes::copy_from_slice(&number.to_le_bytes());
    Payload { data, content_type: names.empty.clone() }
}

/// Rank of an actor in the lock order.
pub(crate) fn rank(kind: usize, actor: usize) -> usize {
    kind * ACTORS + actor
}

/// One step of a turn.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    /// Time passes.
    Think(Us),
    /// A change to the actor's state.
    State(StateOp),
    /// A change to the actor's state, if this key is absent.
    If(Arc<str>, StateOp),
    /// Reads of the actor's state.
    Read(Reading),
    /// A tell.
    Tell(Target, Spec),
    /// Calls made together and waited for together; another branch of the turn does the rest beside them.
    Calls(Vec<(Target, Spec)>, Vec<Step>),
    /// Makes the segment durable.
    Flush,
    /// Calls whose outcomes the turn does not wait for: it returns while they are under way (T1).
    Leave(Vec<(Target, Spec)>),
    /// Records a value under a key, unless it is recorded.
    Once(Arc<str>),
    /// Calls with step keys, made together and waited for together.
    Keyed(Vec<(Target, Spec, Arc<str>)>),
    /// A change to the actor's reminders.
    Remind(Remind),
    /// Publishes events: to these topics' partitions, by number.
    Publish(Vec<(usize, u32)>),
}

/// The script of a turn.
#[derive(Clone, Debug, Default)]
pub(crate) struct Script {
    pub(crate) steps: Vec<Step>,
    /// The turn ends with an application error.
    pub(crate) fails: bool,
    /// Trying again may help.
    pub(crate) retryable: bool,
    /// It ends with a tail call; to its own actor, it may keep the lock.
    pub(crate) tail: Option<(Target, Spec, bool)>,
    /// Operations that need no answer are sent one after the other.
    pub(crate) pipelined: bool,
}

struct Writer<'a> {
    rng: Rng,
    names: &'a Names,
    profile: &'a Profile,
    spec: Spec,
    /// What everything made by this attempt of this turn is derived from.
    base: u64,
    made: u64,
    actor_types: usize,
    own: Option<(usize, usize)>,
    /// Held by the chain and by this turn.
    mask: u64,
    confined: bool,
    fuel: u8,
    /// It ends with an error that may pass.
    troubled: bool,
}

/// The script of one attempt.
pub(crate) fn write(
    names: &Names,
    profile: &Profile,
    seed: u64,
    spec: Spec,
    token: &TurnToken,
    own: Option<(usize, usize)>,
) -> Script {
    let uuid = token.invocation.uuid.0;
    let attempt = join(token.epoch, u64::from(token.attempt));
    let mut step = join(attempt, u64::from(token.step));
    if token.step > 1 {
        // Chains go from log to log, and epochs of different logs may be equal.
        let home = &token.invocation.home;
        step = join(step, join(names.kind(&home.kind) as u64, u64::from(home.index)));
    }
    let base = join(join(uuid as u64, (uuid >> 64) as u64), step);
    let mut same = join(seed, spec.tag);
    if spec.rings {
        same = join(same, uuid as u64);
    }
    let rng = Rng::new(if spec.steady { same } else { join(same, attempt) });
    let bit = own.map_or(0, |(kind, actor)| 1 << rank(kind, actor));
    let confined = spec.confined || spec.mask & bit != 0;
    let actor_types = names.targets() - services(names);
    let mut writer = Writer {
        rng,
        names,
        profile,
        spec,
        base,
        made: 0,
        actor_types,
        own,
        mask: if confined && spec.joined && bit != 0 { bit } else { spec.mask | bit },
        confined,
        fuel: spec.fuel,
        // Drawn apart, so that the rest of a seed's scripts does not depend on it.
        troubled: Rng::new(join(if spec.steady { same } else { join(same, step) }, 0x7261_7274))
            .chance(120),
    };
    let mut script = writer.script(own.is_some());
    let seed = if spec.steady { same } else { join(same, attempt) };
    keys::add(&mut script.steps, seed, names, profile);
    topic::add(&mut script, seed, profile);
    if own.is_some() && names.is_shared(spec.tag) {
        only_read(&mut script, seed);
    }
    script
}

/// What a shared method does: now and then it tries to write all the same.
fn only_read(script: &mut Script, seed: u64) {
    let mut rng = Rng::new(seed ^ 0x7265_6164);
    let writes = |step: &Step| match step {
        Step::State(_) => true,
        Step::Remind(remind) => *remind != Remind::List,
        _ => false,
    };
    let mut keeps = |step: &Step| !writes(step) || rng.chance(100);
    script.steps.retain(&mut keeps);
    for step in &mut script.steps {
        if let Step::Calls(_, beside) = step {
            beside.retain(&mut keeps);
        }
    }
    if let Some((_, _, keeps_lock)) = &mut script.tail {
        *keeps_lock = false;
    }
}

fn services(names: &Names) -> usize {
    names.kinds.iter().filter(|k| k.class == kar_core::ids::Class::Service).count()
}

impl Writer<'_> {
    fn script(&mut self, actor: bool) -> Script {
        let fails = self.rng.chance(80) || self.troubled;
        let retryable = self.troubled;
        let pipelined = self.rng.chance(400);
        let mut steps = Vec::new();
        if self.spec.rings && actor && self.rng.chance(500) {
            // So that the run comes to an end.
            steps.push(Step::Remind(Remind::CancelAll));
        }
        for _ in 0..self.rng.range(1, 5) {
            if self.rng.chance(400) {
                steps.push(Step::Think(self.think()));
            }
            if let Some(step) = self.step(actor) {
                steps.push(step);
            }
        }
        steps.push(Step::Think(self.think()));
        let tail = if self.fuel > 0 && !fails && self.rng.chance(self.profile.tails) {
            self.tail()
        } else {
            None
        };
        if tail.is_none() && self.fuel > 0 && self.rng.chance(100) {
            let calls = self.calls();
            steps.push(Step::Leave(calls));
        }
        Script { steps, fails, retryable, tail, pipelined }
    }

    /// The next step: whoever the callers might have called; the own actor's lock goes first, unless it is kept.
    fn tail(&mut self) -> Option<(Target, Spec, bool)> {
        let fuel = self.fuel - 1;
        let spec = Spec { tag: self.fresh(), fuel, ..self.spec };
        if let Some((kind, actor)) = self.own
            && self.rng.chance(400)
        {
            let keeps = self.rng.chance(600);
            return Some((self.target(kind, Some(actor)), spec, keeps));
        }
        let held_above = self.spec.mask;
        let above = std::mem::replace(&mut self.mask, held_above);
        let next = if self.spec.joined { None } else { self.callee() };
        self.mask = above;
        let service = self.actor_types + self.rng.index(self.names.targets() - self.actor_types);
        let (kind, actor) = next.unwrap_or((service, None));
        Some((self.target(kind, actor), spec, false))
    }

    fn think(&mut self) -> Us {
        if self.rng.chance(30) {
            return self.rng.range(10 * MS, 150 * MS);
        }
        self.rng.range(20, self.profile.think_max)
    }

    fn step(&mut self, actor: bool) -> Option<Step> {
        if self.fuel > 0 && self.rng.chance(self.profile.nested) {
            let calls = self.calls();
            let branch = actor && !calls.is_empty() && self.rng.chance(200);
            let beside = if branch { self.beside() } else { Vec::new() };
            return (!calls.is_empty()).then_some(Step::Calls(calls, beside));
        }
        if self.fuel > 0 && self.rng.chance(250) {
            let fuel = self.take_fuel();
            let (kind, actor) = self.anything();
            let spec = Spec { tag: self.fresh(), mask: 0, fuel, ..self.spec };
            let spec = Spec { confined: false, joined: false, ..spec };
            return Some(Step::Tell(self.target(kind, actor), spec));
        }
        if actor && self.fuel > 0 && self.rng.chance(self.profile.reminders) {
            self.fuel -= 1;
            let tag = self.fresh();
            return Some(Step::Remind(Remind::draw(&mut self.rng, tag)));
        }
        match self.alone(actor) {
            Some(Step::State(op)) if self.rng.chance(200) => {
                Some(Step::If(self.names.keys[self.key()].clone(), op))
            }
            step => step,
        }
    }

    /// What another branch does while calls are under way.
    fn beside(&mut self) -> Vec<Step> {
        let count = self.rng.range(1, 3);
        (0..count).filter_map(|_| self.alone(true)).collect()
    }

    /// A step that concerns nobody else.
    fn alone(&mut self, actor: bool) -> Option<Step> {
        match self.rng.below(10) {
            0 => Some(Step::Flush),
            _ if !actor => None,
            1..=4 => Some(Step::Read(Reading::draw(&mut self.rng, self.names.keys.len(), 500))),
            5 => Some(Step::State(StateOp::Remove { key: self.names.keys[self.key()].clone() })),
            6 if self.rng.chance(300) => Some(Step::State(StateOp::Clear)),
            6 if self.rng.chance(300) => {
                let (from, to) = (self.key(), self.rng.index(self.names.keys.len() + 1));
                Some(Step::State(StateOp::RemoveRange(reading::range(self.names, from, to))))
            }
            _ => {
                let value = number_payload(self.names, self.fresh());
                let key = self.names.keys[self.key()].clone();
                Some(Step::State(StateOp::Set { key, value }))
            }
        }
    }

    fn key(&mut self) -> usize {
        self.rng.index(self.names.keys.len())
    }

    /// A number that nothing else in the run is called.
    fn fresh(&mut self) -> u64 {
        self.made += 1;
        join(self.base, self.made)
    }

    fn take_fuel(&mut self) -> u8 {
        self.fuel -= 1;
        let given = self.rng.range(0, u64::from(self.fuel)) as u8;
        self.fuel -= given;
        given
    }

    fn target(&mut self, kind: usize, actor: Option<usize>) -> Target {
        let mut target = self.names.target(kind, actor);
        if actor.is_none() && self.rng.chance(300) {
            let index = self.rng.index(self.names.affinities.len());
            target.affinity = Some(self.names.affinities[index].clone());
        }
        target
    }

    fn anything(&mut self) -> (usize, Option<usize>) {
        let kind = self.rng.index(self.names.targets());
        (kind, (kind < self.actor_types).then(|| self.rng.index(ACTORS)))
    }

    /// One call, or several to be joined.
    fn calls(&mut self) -> Vec<(Target, Spec)> {
        let count = if self.rng.chance(250) { self.rng.range(2, 3) } else { 1 };
        let joined = self.spec.joined || count > 1;
        let mut calls = Vec::new();
        for _ in 0..count {
            if self.fuel == 0 {
                break;
            }
            let Some((kind, actor)) = self.callee() else { break };
            let fuel = self.take_fuel();
            let (tag, mask, confined) = (self.fresh(), self.mask, self.confined);
            let spec = Spec { tag, mask, fuel, confined, joined, ..self.spec };
            calls.push((self.target(kind, actor), spec));
        }
        calls
    }

    /// Somebody who may be called without a circle; anybody, in runs that are to have some.
    fn callee(&mut self) -> Option<(usize, Option<usize>)> {
        if self.profile.crossing > 0 && self.rng.chance(self.profile.crossing) {
            return Some(self.anything());
        }
        let held = |rank: usize| self.mask & (1 << rank) != 0;
        let ranks = self.actor_types * ACTORS;
        let actor = |rank: usize| (rank / ACTORS, Some(rank % ACTORS));
        let inside: Vec<usize> = (0..ranks).filter(|r| held(*r)).collect();
        if !inside.is_empty() && self.rng.chance(self.profile.reenter) {
            return Some(actor(inside[self.rng.index(inside.len())]));
        }
        if self.confined || self.rng.chance(250) {
            let kind = self.actor_types + self.rng.index(self.names.targets() - self.actor_types);
            return Some((kind, None));
        }
        let lowest = (64 - self.mask.leading_zeros()) as usize;
        (lowest < ranks).then(|| actor(lowest + self.rng.index(ranks - lowest)))
    }
}
