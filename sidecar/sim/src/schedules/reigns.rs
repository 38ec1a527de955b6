//! Reigns that overlap, and what they leave.

use std::cell::Cell;
use std::rc::Rc;

use kar_core::invocation::Mode;
use kar_core::message::Message;
use kar_core::record::{Op, Record};

use super::{A, B, Stage, answered, has, holds_from, is_accept, is_complete, is_progress, owner};
use crate::log::Fate;
use crate::plan::{Fault, MS, ROLLBACK_MAX};
use crate::reading::Reading;
use crate::rng::join;
use crate::script::{Script, Spec, Step};
use crate::world::World;

/// The owner dies; its heir's claim is slow; the heir is struck out, too, and the third node claims
/// after the same epoch. Both are busy.
pub(super) fn twin_claim(stage: &mut Stage) {
    stage.until_ready();
    let first = stage.owner(A);
    let busy = stage.next_tag();
    stage.scripts(vec![(busy, vec![stage.set(1), Step::Think(60 * MS)])]);
    let from = stage.other(&[first]);
    stage.ask(from, Mode::Call, A, 0);
    stage.pass(5 * MS);
    let claimant = Rc::new(Cell::new(None));
    let seen = claimant.clone();
    stage.world.hooks.append = Some(Box::new(move |slot, log, record| match record {
        Record::Claim { .. } if log == A && seen.get().is_none() => {
            seen.set(Some(slot));
            Fate::Late(30 * MS)
        }
        _ => Fate::Lands,
    }));
    stage.world.crash(first, 0, 400 * MS, MS);
    let seen = claimant.clone();
    stage.until("a claim", move |_| seen.get().is_some());
    if let Some(heir) = claimant.get() {
        stage.world.suspect(heir, 100 * MS);
    }
    stage.pass(200 * MS);
}

/// A record overtakes nothing but is overtaken: two later ones land before it.
pub(super) fn gap_then_late(stage: &mut Stage) {
    stage.until_ready();
    let late = Rc::new(Cell::new(false));
    let seen = late.clone();
    stage.world.hooks.append = Some(Box::new(move |_, log, record| {
        if log == A && has(record, is_complete) && !seen.replace(true) {
            return Fate::Late(15 * MS);
        }
        Fate::Lands
    }));
    stage.scripts(Vec::new());
    let slot = stage.owner(A);
    for actor in 0..3 {
        stage.ask(slot, Mode::Tell, A, actor);
        stage.pass(MS);
    }
    stage.pass(50 * MS);
}

/// A live owner is struck out and cannot read its log: the heir's claim lands between its turn's
/// `Progress` and
/// `Complete`, and both give their next obligation the same number.
pub(super) fn sandwiched_claim(stage: &mut Stage) {
    stage.until_ready();
    let zombie = stage.owner(A);
    let tag = stage.next_tag();
    let steps = vec![
        stage.set(1),
        stage.call(B, 0, 1001),
        stage.set(2),
        Step::Think(150 * MS),
        Step::Tell(stage.world.plan.names.target(B, Some(1)), Spec { tag, ..Spec::default() }),
    ];
    stage.world.hooks.script = Some(Rc::new(move |spec, token| {
        let mut steps = if spec.tag == tag { steps.clone() } else { Vec::new() };
        for step in &mut steps {
            // What an attempt makes is its own.
            let fresh = |tag: u64| join(tag, join(token.epoch, u64::from(token.attempt)));
            match step {
                Step::Calls(calls, _) => calls.iter_mut().for_each(|(_, s)| s.tag = fresh(s.tag)),
                Step::Tell(_, spec) => spec.tag = fresh(spec.tag),
                _ => {}
            }
        }
        Some(Script { steps, ..Script::default() })
    }));
    let from = stage.other(&[zombie]);
    stage.ask(from, Mode::Call, A, 0);
    stage.until("a progress", |w| holds_from(w, A, 0, is_progress));
    stage.pass(10 * MS);
    let us = 400 * MS;
    stage.world.inject(Fault::ReadStall { slot: zombie, log: A, us });
    stage.world.suspect(zombie, us);
    stage.pass(us);
}

/// An outcall is committed and its owner sleeps; the heir has the child done and closed; the callee
/// begins a new reign; the sleeper wakes and sends.
pub(super) fn sleeping_outcall(stage: &mut Stage) {
    // The caller and the callee live apart.
    stage.host(&[vec![A], vec![A], vec![B, 2]]);
    stage.until_ready();
    let (sleeper, callee) = (stage.owner(A), stage.owner(B));
    let warm = stage.next_tag();
    let tag = join(stage.world.plan.seed, 2);
    let steps = vec![stage.call(B, 0, 2001)];
    stage.world.hooks.script = Some(Rc::new(move |spec, token| {
        let mut steps = if [warm, tag].contains(&spec.tag) { steps.clone() } else { Vec::new() };
        if let Some(Step::Calls(calls, _)) = steps.first_mut() {
            calls[0].1.tag = join(spec.tag, join(token.epoch, u64::from(token.attempt)));
        }
        Some(Script { steps, ..Script::default() })
    }));
    // The channel is open already when the sleeper wakes.
    let req = stage.ask(callee, Mode::Call, A, 0);
    stage.until("the first call", answered(req));
    let before = stage.world.logs[A].last();
    stage.ask(callee, Mode::Call, A, 0);
    stage.until("a progress", move |w| holds_from(w, A, before, is_progress));
    stage.world.pause(sleeper, 1_500 * MS, false, Some(0), 20 * MS);
    let closed =
        |op: &Op| matches!(op, Op::Closed { sender: kar_core::ids::Sender::Log { .. }, .. });
    let before = stage.world.logs[B].last();
    stage.until("a closing", move |w| holds_from(w, B, before, closed));
    // The callee loses a record and has to claim anew.
    let lost = Rc::new(Cell::new(false));
    let seen = lost.clone();
    stage.world.hooks.append = Some(Box::new(move |_, log, record| {
        if log == B && has(record, is_complete) && !seen.replace(true) {
            return Fate::Lost(Some(MS));
        }
        Fate::Lands
    }));
    stage.ask(callee, Mode::Tell, B, 2);
    stage.until("a lost record", move |_| lost.get());
    stage.pass(1_500 * MS);
}

/// A node's app leaves and comes back, so that a partition goes and returns, while a request of the
/// first reign is still in its socket.
pub(super) fn boomerang_owner(stage: &mut Stage) {
    stage.until_ready();
    stage.scripts(Vec::new());
    let node = stage.owner(B);
    let from = stage.other(&[node]);
    let req = stage.ask(from, Mode::Call, B, 0);
    stage.until("the first call", answered(req));
    let held = Rc::new(Cell::new(false));
    let seen = held.clone();
    stage.world.hooks.message = Some(Box::new(move |sender, to, message| {
        let request = matches!(message, Message::Request { .. });
        if request && (sender, to) == (from, node) && !seen.replace(true) {
            return 700 * MS;
        }
        0
    }));
    stage.ask(from, Mode::Call, B, 1);
    stage.until("a request", move |_| held.get());
    stage.world.inject(Fault::Goodbye { slot: node, back_us: 50 * MS });
    stage.until("another owner", move |w| owner(w, B).is_some_and(|o| o != node));
    stage.until("the old owner", move |w| owner(w, B) == Some(node));
    stage.pass(900 * MS);
}

/// The store goes back three times: under a passive actor that is read next, under one that is written without being
/// read, and to before its owner's fence while a write of the reign before is still on its way; then as far as it may,
/// when the log was trimmed, under a live owner and without one.
pub(super) fn store_rollback(stage: &mut Stage) {
    stage.until_ready();
    let tags: Vec<u64> = (1..=14).map(|n| join(stage.world.plan.seed, n)).collect();
    let set: fn(&Stage, u64) -> Vec<Step> = |stage, value| vec![stage.set(value)];
    let read: fn(&Stage, u64) -> Vec<Step> =
        |stage, value| vec![Step::Read(Reading::All), stage.set(value)];
    let scripts = [set, read, set, set, set, read, set, set, set, set, set, read, read, read];
    let scripts = tags.iter().zip(scripts).zip(1..);
    let scripts = scripts.map(|((tag, script), value)| (*tag, script(stage, value))).collect();
    stage.scripts(scripts);
    let owner = stage.owner(A);
    let from = stage.other(&[owner]);
    let ask = |stage: &mut Stage, actor| {
        let req = stage.ask(from, Mode::Call, A, actor);
        stage.until("a call", answered(req));
    };
    ask(stage, 0);
    stage.pass(100 * MS);
    stage.world.inject(Fault::Rollback { log: A, back_us: 90 * MS });
    stage.world.inject(Fault::Rollback { log: A, back_us: 150 * MS });
    ask(stage, 0);
    stage.pass(100 * MS);
    stage.world.inject(Fault::Rollback { log: A, back_us: 150 * MS });
    ask(stage, 1);
    stage.pass(300 * MS);
    // The owner's write is slow, and the owner is struck out.
    let zombie = stage.owner(A);
    let slow = stage.world.now + 400 * MS;
    stage.world.slots[zombie].store_in.arrive(slow);
    ask(stage, 1);
    let struck_out = stage.world.now;
    let us = 600 * MS;
    stage.world.inject(Fault::ReadStall { slot: zombie, log: A, us });
    stage.world.suspect(zombie, us);
    stage.pass(200 * MS);
    ask(stage, 1);
    stage.pass(20 * MS);
    let back_us = stage.world.now - struck_out;
    stage.world.inject(Fault::Rollback { log: A, back_us });
    stage.pass(us);
    ask(stage, 1);
    // What the log has forgotten is in a snapshot, and the store goes back as far as it may.
    stage.pass(ROLLBACK_MAX);
    for _ in 0..5 {
        ask(stage, 0);
        stage.pass(60 * MS);
    }
    stage.until("a trimmed log", |w| w.logs[A].trimmed > 0);
    stage.world.inject(Fault::Rollback { log: A, back_us: ROLLBACK_MAX });
    ask(stage, 1);
    ask(stage, 0);
    // Its owner is gone, too, when it goes back again.
    let owner = stage.owner(A);
    stage.world.inject(Fault::Rollback { log: A, back_us: ROLLBACK_MAX });
    stage.world.suspect(owner, 100 * MS);
    stage.pass(400 * MS);
    ask(stage, 0);
}

/// Five turns run ahead of the log; the second one's record never arrives, and the app runs on. Then five more, and
/// another node's claim lands there.
pub(super) fn cascade(stage: &mut Stage) {
    stage.until_ready();
    let slot = stage.owner(A);
    let tags: Vec<u64> = (1..=5).map(|n| join(stage.world.plan.seed, n)).collect();
    let script = |n: u64| vec![Step::Read(Reading::All), stage.set(n)];
    stage.scripts(tags.iter().enumerate().map(|(n, tag)| (*tag, script(n as u64))).collect());
    let completed = Rc::new(Cell::new(0));
    stage.world.hooks.append = Some(Box::new(move |_, log, record| {
        if log != A || !has(record, is_complete) {
            return Fate::Lands;
        }
        completed.set(completed.get() + 1);
        if completed.get() == 2 { Fate::Lost(Some(20 * MS)) } else { Fate::Lands }
    }));
    for _ in 0..5 {
        stage.ask(slot, Mode::Call, A, 0);
    }
    stage.pass(300 * MS);
    let slot = stage.owner(A);
    let from = stage.other(&[slot]);
    let completed = Rc::new(Cell::new(0));
    let seen = completed.clone();
    stage.world.hooks.append = Some(Box::new(move |_, log, record| {
        if log != A || !has(record, is_complete) {
            return Fate::Lands;
        }
        seen.set(seen.get() + 1);
        if seen.get() == 2 { Fate::Slow(60 * MS) } else { Fate::Lands }
    }));
    let before = stage.world.logs[A].last();
    for _ in 0..5 {
        stage.ask(from, Mode::Call, A, 0);
        stage.pass(2 * MS);
    }
    stage.until("records under way", move |_| completed.get() >= 2);
    let us = 300 * MS;
    stage.world.inject(Fault::ReadStall { slot, log: A, us });
    stage.world.strike_out(slot, us);
    let is_void = |w: &World| {
        let mut records = w.logs[A].behind(before).map(|entry| &entry.record);
        let claim = records.position(|record| matches!(**record, Record::Claim { .. }));
        claim.is_some() && records.filter(|record| has(record, is_complete)).count() > 1
    };
    stage.until("a claim before ends of turns", is_void);
    stage.pass(600 * MS);
}

/// A service's call waits for an actor. The actor's owner is struck out and does not hear of it; the heir ends the
/// call, and the actor calls, in its turn, who waits for the service. Its caller does not hear of the end, nor of
/// the heir: the old owner is asked for whom that call waits.
pub(super) fn outdated_witness(stage: &mut Stage) {
    let (caller, from) = (3, 4);
    stage.host(&[vec![A], vec![A], vec![B], vec![2], Vec::new()]);
    stage.until_ready();
    let old = stage.owner(A);
    let heir = 1 - old;
    let (holds, waits) = (stage.next_tag(), join(stage.world.plan.seed, 2));
    let to_b = stage.call(B, 0, 0);
    let names = &stage.world.plan.names;
    let spec = |tag| Spec { tag, steady: true, ..Spec::default() };
    let service = names.target(2, None);
    let to_service = vec![(service.clone(), spec(4001)), (service, spec(4003))];
    // What is told behind the call on the same way, so that the log has both.
    let tell = Step::Tell(names.target(A, Some(1)), spec(4004));
    let to_a = stage.call(A, 0, 4002);
    stage.world.hooks.script = Some(Rc::new(move |spec, token| {
        let mut steps = match spec.tag {
            tag if tag == holds && token.attempt == 1 => vec![Step::Think(2_000 * MS)],
            tag if tag == holds => vec![Step::Think(60 * MS), to_b.clone()],
            tag if tag == waits => vec![Step::Calls(to_service.clone(), Vec::new())],
            4001 => vec![to_a.clone()],
            4003 => vec![Step::Think(10 * MS), tell.clone(), Step::Flush],
            _ => Vec::new(),
        };
        if let Some(Step::Calls(calls, _)) = steps.last_mut().filter(|_| spec.tag == holds) {
            calls[0].1.tag = join(spec.tag, join(token.epoch, u64::from(token.attempt)));
        }
        Some(Script { steps, ..Script::default() })
    }));
    let req = stage.ask(from, Mode::Call, A, 0);
    stage.pass(20 * MS);
    let begun = stage.world.logs[A].last();
    stage.ask(from, Mode::Call, B, 0);
    stage.until("a call that waits", move |w| holds_from(w, A, begun, is_accept));
    stage.pass(5 * MS);
    let (us, taken) = (600 * MS, stage.world.logs[A].last());
    stage.world.hooks.message =
        Some(Box::new(move |sender, to, _| if (sender, to) == (heir, caller) { us } else { 0 }));
    let deaf_until = stage.world.now + us;
    stage.world.slots[caller].members_lane.arrive(deaf_until);
    stage.world.inject(Fault::ReadStall { slot: old, log: A, us });
    stage.world.strike_out(old, us);
    let is_claim = |record: &Record| matches!(record, Record::Claim { .. });
    stage.until("a claim", move |w| w.logs[A].behind(taken).any(|e| is_claim(&e.record)));
    stage.pass(5 * MS);
    stage.world.cancel_waiting(heir, A);
    stage.until("an end", move |w| holds_from(w, A, taken, is_complete));
    stage.until("the answer", answered(req));
}
