//! Topics and subscriptions.

use std::cell::Cell;
use std::rc::Rc;

use kar_core::ids::Sender;
use kar_core::invocation::Mode;
use kar_core::message::Message;
use kar_core::record::{Op, Record};

use super::{A, B, Stage, answered, holds_from, is_complete, owner};
use crate::history::Seen;
use crate::plan::MS;
use crate::rng::join;
use crate::script::{Script, Step};
use crate::topic::TopicFate;
use crate::world::World;

/// A turn's events land in their topic, which does not tell numbers apart; nobody hears of it, and the owner dies.
pub(super) fn publisher_dies_after_append(stage: &mut Stage) {
    stage.until_ready();
    let (tag, owner) = (stage.next_tag(), stage.owner(A));
    stage.scripts(vec![(tag, vec![Step::Publish(vec![(0, 0), (0, 0)])])]);
    let is_sent = Cell::new(false);
    stage.world.hooks.topic = Some(Box::new(move |_, asked| {
        let is_first = !asked.events.is_empty() && !is_sent.replace(true);
        if is_first { TopicFate::Unanswered } else { TopicFate::Arrives }
    }));
    stage.ask(stage.other(&[owner]), Mode::Tell, A, 0);
    stage.until("an append", |w| in_topics(w) == 2);
    let from = stage.world.logs[A].last();
    stage.world.crash(owner, 0, 400 * MS, MS);
    stage.until("a settlement", move |w| holds_from(w, A, from, is_published));
}

/// A topic that a turn has published to is deleted and created anew before the events are in it; the next turn
/// publishes to the new one.
pub(super) fn recreated_topic(stage: &mut Stage) {
    stage.until_ready();
    let (first, second) = (stage.next_tag(), join(stage.world.plan.seed, 2));
    let publish = || vec![Step::Publish(vec![(0, 0)])];
    stage.scripts(vec![(first, publish()), (second, publish())]);
    let is_lost = Rc::new(Cell::new(true));
    let loses = is_lost.clone();
    stage.world.hooks.topic =
        Some(Box::new(move |_, _| if loses.get() { TopicFate::Lost } else { TopicFate::Arrives }));
    let (owner, from) = (stage.owner(A), stage.world.logs[A].last());
    let req = stage.ask(owner, Mode::Call, A, 0);
    stage.until("the answer", answered(req));
    stage.world.recreate(0);
    is_lost.set(false);
    let is_gone = |op: &Op| matches!(op, Op::TopicGone { .. });
    stage.until("the loss", move |w| holds_from(w, A, from, is_gone));
    stage.ask(owner, Mode::Tell, A, 0);
    stage.until("an append", |w| in_topics(w) == 1);
}

/// How many events are in topics.
fn in_topics(world: &World) -> usize {
    world.history.events.iter().filter(|(_, seen)| matches!(seen, Seen::InTopic { .. })).count()
}

fn is_published(op: &Op) -> bool {
    matches!(op, Op::Published { .. })
}

/// The only log of subscriptions, behind those of the two actor types and the service.
const SUBSCRIPTIONS: usize = 3;

/// Somebody subscribes, and it is served.
fn subscribed(stage: &mut Stage) -> usize {
    stage.until_ready();
    stage.world.sub_op(0);
    stage.until("a subscription", |w| {
        let is_created = |op: &Op| matches!(op, Op::Subscription { .. });
        owner(w, SUBSCRIPTIONS).is_some() && holds_from(w, SUBSCRIPTIONS, 0, is_created)
    });
    stage.owner(SUBSCRIPTIONS)
}

/// A reader stands still when its deliveries are on their way, and is given up; another one delivers the same; then the
/// first ones come.
pub(super) fn two_readers(stage: &mut Stage) {
    // The reader and the target live apart.
    stage.host(&[vec![A, B, 2], vec![], vec![]]);
    let reader = subscribed(stage);
    let is_slow = Rc::new(Cell::new(0));
    let seen = is_slow.clone();
    stage.world.hooks.message = Some(Box::new(move |from, _, message| {
        let is_delivery = matches!(
            message,
            Message::Request { sender: Sender::Subscription { .. }, .. } if from == reader
        );
        seen.set(seen.get() + u32::from(is_delivery));
        if is_delivery { 900 * MS } else { 0 }
    }));
    (0..3).for_each(|event| stage.world.source_event(event));
    stage.until("deliveries under way", move |_| is_slow.get() > 0);
    stage.world.pause(reader, 700 * MS, false, Some(0), 900 * MS);
    let is_floor = |op: &Op| matches!(op, Op::Delivered { .. });
    stage.until("the other's floor", move |w| holds_from(w, SUBSCRIPTIONS, 0, is_floor));
    stage.pass(1_500 * MS);
}

/// The first of three events makes its method fail each time. The second one, of another actor, does not wait for it;
/// the third one, of the same, waits until the first one is a dead letter.
pub(super) fn poison_event(stage: &mut Stage) {
    subscribed(stage);
    let first = Rc::new(Cell::new(None));
    let known = first.clone();
    stage.world.hooks.script = Some(Rc::new(move |_, token| {
        let own = token.invocation.uuid;
        let poison = known.get().unwrap_or(own);
        known.set(Some(poison));
        let fails = poison == own;
        Some(Script { fails, retryable: fails, ..Script::default() })
    }));
    stage.world.source_event(0);
    stage.until("the first attempt", move |_| first.get().is_some());
    (1..3).for_each(|event| stage.world.source_event(event));
    stage.until("the other one's end", |w| ended(w, A) == 1 && in_topics(w) == 0);
    stage.until("a dead letter", |w| in_topics(w) == 1);
    stage.until("the third one's end", |w| ended(w, A) == 3);
}

/// How many invocations of a log have ended.
fn ended(world: &World, log: usize) -> usize {
    let records = world.logs[log].behind(0);
    let ops = records.filter_map(|entry| match &*entry.record {
        Record::Batch { ops, .. } => Some(ops),
        _ => None,
    });
    ops.flatten().filter(|op| is_complete(op)).count()
}
