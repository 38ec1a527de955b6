//! Turns and attempts that are cut off.

use std::cell::Cell;
use std::rc::Rc;

use kar_core::ids::TurnToken;
use kar_core::invocation::Mode;
use kar_core::record::Op;

use super::{
    A, B, Stage, WITHDRAWN, answered, has, holds_from, is_accept, is_complete, is_progress,
};
use crate::history::Item;
use crate::log::Fate;
use crate::plan::{Fault, MS};
use crate::rng::join;
use crate::script::{Script, Spec, Step};
use crate::world::World;

/// The app dies while its turn's `Progress` is under way, and comes back at once: with a flush; with a join of two
/// calls, of which one throws and one takes long; and behind a keyed call that its callee has forgotten and trimmed by
/// then.
pub(super) fn dead_attempt_progress(stage: &mut Stage) {
    // The caller's app dies, and the callee's does not.
    stage.host(&[vec![A], vec![], vec![B, 2]]);
    stage.until_ready();
    let tags: Vec<u64> = (1..=3).map(|n| join(stage.world.plan.seed, n)).collect();
    let scripts = dead_attempts(stage, &tags);
    stage.world.hooks.script = Some(Rc::new(scripts));
    let from = 1;
    stage.ask(from, Mode::Call, A, 0);
    dies_in_progress(stage);
    stage.pass(200 * MS);
    let joined = stage.ask(from, Mode::Call, A, 1);
    dies_in_progress(stage);
    stage.until("the answer behind a join", answered(joined));
    let keyed = stage.ask(from, Mode::Call, A, 2);
    let kept = |op: &Op| matches!(op, Op::StepDone { .. });
    stage.until("a keyed call's outcome", move |w| holds_from(w, A, 0, kept));
    let called = stage.world.logs[B].last();
    for _ in 0..6 {
        let tell = stage.ask(from, Mode::Tell, B, 2);
        stage.until("a tell", answered(tell));
        stage.pass(100 * MS);
    }
    stage.until("a trimmed callee", move |w| w.logs[B].trimmed > called);
    dies_in_progress(stage);
    stage.until("the answer behind a keyed call", answered(keyed));
    let recalled = |w: &World| {
        let again = w.history.runs.iter().filter(|run| run.token.attempt > 1);
        let is_kept = |item: &Item| item.key.is_some() && matches!(item.answer, Some(Ok(_)));
        again.flat_map(|run| &run.items).any(is_kept)
    };
    stage.until("a kept result", recalled);
}

/// What turns do whose app dies: the first of these tags flushes, the second one joins, the third one calls with a key.
fn dead_attempts(
    stage: &Stage,
    tags: &[u64],
) -> impl Fn(&Spec, &TurnToken) -> Option<Script> + use<> {
    let names = &stage.world.plan.names;
    let target = |actor| names.target(B, Some(actor));
    let (throwing, slow, kept) = (target(0), target(1), target(2));
    let (first, second) = (stage.set(1), stage.set(2));
    let tags = tags.to_vec();
    move |spec, token| {
        // What an attempt makes is its own; the low bits say which script it runs.
        let attempt = join(spec.tag, join(token.epoch, u64::from(token.attempt)));
        let spec_of = |low: u64| Spec { tag: attempt << 8 | low, steady: true, ..Spec::default() };
        let at = tags.iter().position(|tag| *tag == spec.tag);
        let steps = match (at, spec.tag & 0xff) {
            (Some(0), _) => vec![first.clone(), Step::Flush, Step::Think(5 * MS)],
            (Some(1), _) => {
                let calls = [(throwing.clone(), spec_of(1)), (slow.clone(), spec_of(2))];
                vec![Step::Calls(calls.into(), Vec::new()), second.clone()]
            }
            (Some(2), _) => {
                let call = (kept.clone(), spec_of(3), "key".into());
                let think = Step::Think(900 * MS);
                let retries = token.attempt > 1;
                let mut steps = vec![Step::Keyed(vec![call])];
                if !retries {
                    steps.extend([think, second.clone(), Step::Flush, Step::Think(50 * MS)]);
                }
                steps
            }
            (None, 2) => vec![Step::Think(40 * MS)],
            _ => Vec::new(),
        };
        let fails = at.is_none() && spec.tag & 0xff == 1;
        Some(Script { steps, fails, ..Script::default() })
    }
}

/// The app of the actors' owner dies while the next `Progress` is under way, and comes back.
fn dies_in_progress(stage: &mut Stage) {
    let under_way = Rc::new(Cell::new(false));
    let seen = under_way.clone();
    stage.world.hooks.append = Some(Box::new(move |_, log, record| {
        if log == A && has(record, is_progress) && !seen.replace(true) {
            return Fate::Slow(15 * MS);
        }
        Fate::Lands
    }));
    stage.until("a progress", move |_| under_way.get());
    stage.pass(200);
    let slot = stage.owner(A);
    stage.world.inject(Fault::AppDeath { slot, down_us: 3 * MS });
    stage.world.hooks.append = None;
}

/// A call goes from A to B and back, twice, by tail calls; each owner is killed before and after it accepts the
/// step, and the caller's node asks the home again meanwhile.
pub(super) fn pingpong_tail(stage: &mut Stage) {
    // The caller's node hosts nothing, and lives.
    let (hosts, from) = (vec![A, B, 2], 3);
    stage.host(&[hosts.clone(), hosts.clone(), hosts, Vec::new()]);
    stage.until_ready();
    let first = stage.next_tag();
    stage.world.hooks.script = {
        let names = &stage.world.plan.names;
        let (a, b) = (names.target(A, Some(0)), names.target(B, Some(0)));
        let tags = [first, 1, 2, 3];
        Some(Rc::new(move |spec, _| {
            let at = tags.iter().position(|tag| *tag == spec.tag)?;
            let next = tags.get(at + 1).map(|tag| {
                let target = if at % 2 == 0 { b.clone() } else { a.clone() };
                (target, Spec { tag: *tag, steady: true, ..Spec::default() }, false)
            });
            let steps = vec![Step::Think(30 * MS)];
            Some(Script { steps, tail: next, ..Script::default() })
        }))
    };
    let crash = |slot| Fault::Crash { slot, app_us: 0, down_us: 300 * MS, lease_us: 2 * MS };
    let req = stage.ask(from, Mode::Call, A, 0);
    for (log, accepts) in [(A, B), (B, A), (A, B)] {
        // The step is on its way: the one that sends it dies as soon as that is committed …
        let (sent, taken) = (stage.world.logs[log].last(), stage.world.logs[accepts].last());
        stage.until("a step", |w| holds_from(w, log, sent, is_complete));
        let sender = stage.owner(log);
        if sender != from {
            stage.world.inject(crash(sender));
        }
        // … and the one that takes it as soon as it has.
        stage.until("its acceptance", |w| holds_from(w, accepts, taken, is_accept));
        let receiver = stage.owner(accepts);
        // Where all hosts are away, the caller is the caretaker, and lives.
        if receiver != from {
            stage.world.inject(crash(receiver));
        }
    }
    stage.until("the answer", answered(req));
}

/// Two nodes are told to leave while their actors call each other and re-enter; they are the only
/// hosts.
pub(super) fn drain_with_cross_calls(stage: &mut Stage) {
    stage.host(&[vec![A], vec![B], vec![2]]);
    for slot in &mut Rc::make_mut(&mut stage.world.plan).slots {
        slot.concurrency = 1;
    }
    stage.until_ready();
    let (there, back) = (stage.next_tag(), join(stage.world.plan.seed, 2));
    let think = || Step::Think(40 * MS);
    stage.world.hooks.script = {
        let names = &stage.world.plan.names;
        let target = |kind: usize, actor: usize| names.target(kind, Some(actor));
        let (a0, b0, a1, b1) = (target(A, 0), target(B, 0), target(A, 1), target(B, 1));
        let call = |target: &kar_core::invocation::Target, tag: u64| {
            Step::Calls(vec![(target.clone(), Spec { tag, ..Spec::default() })], Vec::new())
        };
        let scripts = [
            (there, vec![think(), call(&b0, 1), think()]),
            (1, vec![think(), call(&a0, 2), think()]),
            (back, vec![think(), call(&a1, 3), think()]),
            (3, vec![think(), call(&b1, 4), think()]),
        ];
        Some(Rc::new(move |spec, token| {
            // A retry's calls have tags of their own; the low bits say which script they run.
            let own = |tag: u64| tag == spec.tag || tag == spec.tag & 0xff && spec.mask == 0;
            let found = scripts.iter().find(|(tag, _)| own(*tag));
            let mut steps = found.map(|(_, s)| s.clone()).unwrap_or_default();
            for step in &mut steps {
                if let Step::Calls(calls, _) = step {
                    let attempt = join(token.epoch, u64::from(token.attempt));
                    calls[0].1.tag |= join(spec.tag, attempt) << 8;
                }
            }
            Some(Script { steps, ..Script::default() })
        }))
    };
    let asked = [stage.ask(2, Mode::Call, A, 0), stage.ask(2, Mode::Call, B, 1)];
    stage.pass(60 * MS);
    let (a, b) = (stage.owner(A), stage.owner(B));
    stage.world.inject(Fault::Drain { slot: a, with: Some(b), back_us: 200 * MS });
    for req in asked {
        stage.until("both answers", answered(req));
    }
}

/// A call waits behind a turn that takes long, and the owners of its caller and of its callee die together: the retry
/// does not wait for that turn, which begins anew.
pub(super) fn both_ends_failing(stage: &mut Stage) {
    // The client's node hosts nothing, and lives.
    let from = 4;
    stage.host(&[vec![A], vec![A], vec![B, 2], vec![B, 2], Vec::new()]);
    stage.until_ready();
    let (long, caller) = (stage.next_tag(), join(stage.world.plan.seed, 2));
    let steps = vec![stage.call(B, 0, 3001)];
    stage.world.hooks.script = Some(Rc::new(move |spec, token| {
        let mut steps = match spec.tag {
            tag if tag == long => vec![Step::Think(600 * MS)],
            tag if tag == caller => steps.clone(),
            _ => Vec::new(),
        };
        if let Some(Step::Calls(calls, _)) = steps.first_mut() {
            calls[0].1.tag = join(spec.tag, join(token.epoch, u64::from(token.attempt)));
        }
        Some(Script { steps, ..Script::default() })
    }));
    stage.ask(from, Mode::Tell, B, 0);
    stage.pass(20 * MS);
    let sent = stage.world.logs[A].last();
    let req = stage.ask(from, Mode::Call, A, 0);
    stage.until("a call", move |w| holds_from(w, A, sent, is_progress));
    stage.pass(10 * MS);
    let taken = stage.world.logs[B].last();
    for slot in [stage.owner(A), stage.owner(B)] {
        let down_us = 300 * MS;
        stage.world.inject(Fault::Crash { slot, app_us: 0, down_us, lease_us: 2 * MS });
    }
    let is_withdrawn = |op: &Op| matches!(op, Op::Complete { end, .. } if *end == WITHDRAWN);
    stage.until("a withdrawal", move |w| holds_from(w, B, taken, is_withdrawn));
    let again = stage.world.logs[A].last();
    stage.until("the retry's call", move |w| holds_from(w, A, again, is_progress));
    stage.until("the answer", answered(req));
}
