//! Durable steps in scripts: some calls get keys, and some values are recorded. Drawn apart from the rest of a script,
//! so that what that does depends on its own chances only.

use std::sync::Arc;

use kar_core::invocation::Target;

use crate::plan::{Names, Profile};
use crate::rng::Rng;
use crate::script::{Spec, Step, rank};

/// Keys of values; calls use them, too, now and then, and are refused.
const KEYS: usize = 3;

/// Chance that a call's key does not say what it calls, ‰.
const CARELESS: u32 = 60;

/// Gives a script durable steps.
pub(crate) fn add(steps: &mut Vec<Step>, seed: u64, names: &Names, profile: &Profile) {
    let mut rng = Rng::new(seed ^ 0x6b65_7973);
    for step in steps.iter_mut() {
        if let Step::Calls(calls, beside) = step
            && beside.is_empty()
            && rng.chance(profile.keyed)
        {
            let keyed = |(target, spec): &(Target, Spec)| {
                (target.clone(), *spec, call_key(&mut rng, target, names))
            };
            *step = Step::Keyed(calls.iter().map(keyed).collect());
        }
    }
    for _ in 0..2 {
        if rng.chance(profile.once) {
            let at = rng.index(steps.len() + 1);
            let key = value_key(rng.index(KEYS));
            steps.insert(at, Step::Once(key));
        }
    }
}

fn value_key(number: usize) -> Arc<str> {
    format!("k{number}").into()
}

/// Mostly the same key means the same call.
fn call_key(rng: &mut Rng, target: &Target, names: &Names) -> Arc<str> {
    let number = rng.index(KEYS);
    if rng.chance(CARELESS) {
        return value_key(number);
    }
    let kind = names.kind(&target.kind);
    match &target.actor {
        Some(actor) => format!("call {} {number}", rank(kind, names.actor(actor))).into(),
        None => format!("call {} {number}", target.kind.name).into(),
    }
}
