//! Reminders and removals in a soak: actors that live for a moment, and leave nothing.

use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime};

use kar_proto::v1::{ActorTarget, Reminder};
use serde_json::{Value, json};

use super::Soak;
use crate::fire::PROGRESS_LIMIT;
use crate::reminders::{actor, beat, once};
use crate::{Random, wait};

/// One-shots of one life, due within so many ms.
const ONES: u64 = 4;
const ONE_MAX_MS: u64 = 300;

/// How long a one-shot's turn works at most, ms; so that kills land in it.
const RING_MAX_MS: u64 = 20;

/// Period of the reminder that comes again.
const PERIOD: Duration = Duration::from_millis(300);

/// Due times of that one before it is cancelled.
const BEATS: u64 = 3;

/// How long a moment is looked for at which every due time so far was counted, and no other one has come meanwhile.
const QUIET_LIMIT: Duration = Duration::from_secs(10);

/// Longest time until all of them are counted, as long as more are.
const BEATS_LIMIT: Duration = Duration::from_secs(160);

/// Longer than any run.
const FAR: Duration = Duration::from_secs(7 * 24 * 3_600);

/// Tells and calls of a life without reminders.
const COUNTS: u64 = 10;

impl Soak {
    /// Lives of an actor with reminders: each due time is counted once, what was cancelled is not counted any more, and
    /// nothing is left when the actor was removed.
    pub(super) async fn ringers(self: Rc<Self>, number: u64, mut random: Random) {
        let own = actor("Ringer", &format!("ringer-{number}"));
        for life in 0.. {
            if self.load.over.get() {
                return;
            }
            self.ring_once(&own, life, &mut random).await;
            let (beaten, first) =
                (format!("beat-{life}"), beat(&own, &format!("beat-{life}"), PERIOD));
            let Some(first) = self.schedule(first).await else { continue };
            self.beats(&own, &beaten, first).await;
            // Every second one is cancelled; the others end with their actor.
            if life % 2 == 0 {
                self.hush(&own, &beaten, first).await;
            }
            self.judge_ones(&own, life).await;
            self.remove(&own).await;
        }
    }

    /// One-shots that ring, and one that is cancelled long before it would.
    async fn ring_once(&self, own: &ActorTarget, life: u64, random: &mut Random) {
        let never = format!("never-{life}");
        self.schedule(once(own, &never, FAR, &json!({ "key": never }))).await;
        for one in 0..ONES {
            let key = format!("once-{life}-{one}");
            let after = Duration::from_millis(random.below(ONE_MAX_MS));
            let argument = json!({ "key": key, "milliseconds": random.below(RING_MAX_MS) });
            self.schedule(once(own, &key, after, &argument)).await;
        }
        self.cancel(own, &never).await;
    }

    /// Every one-shot was counted once.
    async fn judge_ones(&self, own: &ActorTarget, life: u64) {
        let keys: Vec<_> = (0..ONES).map(|one| format!("once-{life}-{one}")).collect();
        let all = |state: &Value| keys.iter().all(|key| !state[key].is_null());
        let state = self.state_when(&own.r#type, &own.id, all).await;
        for key in keys {
            self.expect(&key, 1, number(&state, &key));
        }
        // Of this life, and of no other one.
        let known = |key: &str| {
            key == format!("beat-{life}")
                || key.starts_with(&format!("once-{life}-"))
                || key == format!("bell-{life}")
                || ["again", "rested"].contains(&key)
        };
        let strange = |key: &&String| !known(key);
        for key in state.as_object().into_iter().flat_map(serde_json::Map::keys).filter(strange) {
            self.error("of another life, or cancelled", &(own, life, key));
        }
        self.done_many("rings", ONES);
    }

    /// Waits for some due times of the one that comes again, until each so far was counted, and none twice: there are
    /// so many as there are periods from the first due time to the next one. Where due times follow each other too fast
    /// for whoever looks, at least those before a look must be counted in the end, and at most those after the last.
    async fn beats(&self, own: &ActorTarget, key: &str, first: SystemTime) {
        let begun = Instant::now();
        let (mut least, mut last) = (None, (0, begun));
        let found = wait::until("due times to be counted", BEATS_LIMIT, async || {
            let before = self.fired(own, first).await?;
            let state = self.state_of(&own.r#type, &own.id).await?;
            let after = self.fired(own, first).await?;
            let counted = number(&state, key);
            let is_fast = begun.elapsed() > QUIET_LIMIT;
            let least = if is_fast { *least.get_or_insert(before.max(BEATS)) } else { before };
            // A host that was starved or dead for long has many to count.
            if counted > last.0 {
                last = (counted, Instant::now());
            }
            let all = before >= BEATS && counted >= least && (is_fast || before == after);
            let is_over = counted > after || last.1.elapsed() > PROGRESS_LIMIT;
            (all || is_over).then_some((least, counted, after))
        });
        let (least, counted, after) = found.await;
        self.expect(&format!("{key} of {own:?}"), counted.clamp(least.min(after), after), counted);
        self.done_many("rings", counted);
    }

    /// How many due times of `beat` have led to invocations.
    async fn fired(&self, own: &ActorTarget, first: SystemTime) -> Option<u64> {
        let listed = self.asked("reminders", async || self.client.reminders(own).await).await?;
        let beat = listed.into_iter().find(|reminder| reminder.id == "beat")?;
        let next = SystemTime::try_from(beat.due_time?).ok()?;
        let since = next.duration_since(first).unwrap_or_default();
        u64::try_from(since.as_millis() / PERIOD.as_millis()).ok()
    }

    /// Cancels the one that comes again: what has been due by then may still be counted, later ones may not.
    async fn hush(&self, own: &ActorTarget, key: &str, first: SystemTime) {
        self.cancel(own, "beat").await;
        let since = SystemTime::now().duration_since(first).unwrap_or_default();
        let due = u64::try_from(since.as_millis() / PERIOD.as_millis()).unwrap_or_default() + 1;
        // Behind all that was accepted before.
        let bell = key.replace("beat", "bell");
        self.call(&own.r#type, &own.id, "ring", &json!({ "key": bell })).await;
        let Some(state) = self.state_of(&own.r#type, &own.id).await else { return };
        let counted = number(&state, key);
        self.expect(&format!("{key} at most"), 0, counted.saturating_sub(due));
        // Some periods later.
        self.schedule(once(own, &bell, PERIOD * 3, &json!({ "key": bell }))).await;
        let rang = |state: &Value| number(state, &bell) == 2;
        let state = self.state_when(&own.r#type, &own.id, rang).await;
        self.expect(&bell, 2, number(&state, &bell));
        self.expect(&format!("{key} when it was cancelled"), counted, number(&state, key));
        self.done("cancelled");
    }

    /// Lives of an actor that counts: each begins with nothing.
    pub(super) async fn removals(self: Rc<Self>, number: u64) {
        let own = actor("Echo", &format!("gone-{number}"));
        while !self.load.over.get() {
            for count in 1..=COUNTS {
                self.tell_to_count(&own.id).await;
                let answer = self.call(&own.r#type, &own.id, "count", &Value::Null).await;
                if let Some(found) = answer.as_ref().and_then(Value::as_u64) {
                    self.expect(&own.id, 2 * count, found);
                }
            }
            // It goes with the actor.
            self.tell_to_count(&own.id).await;
            self.remove(&own).await;
        }
    }

    /// Removes an actor, of which nothing is left then.
    async fn remove(&self, own: &ActorTarget) {
        if let Err(error) = self.client.remove(own).await {
            self.error(&format!("removal of {own:?}"), &error);
        }
        if let Some(state) = self.state_of(&own.r#type, &own.id).await
            && state != json!({})
        {
            self.error("state of a removed actor", &(own, state));
        }
        match self.asked("reminders", async || self.client.reminders(own).await).await {
            Some(left) if !left.is_empty() => self.error("of a removed actor", &(own, left)),
            _ => self.done("removals"),
        }
    }

    /// Schedules a reminder; its first due time, or `None` and a finding.
    async fn schedule(&self, reminder: Reminder) -> Option<SystemTime> {
        let what = format!("schedule {}", reminder.id);
        let scheduled = self.client.schedule(reminder).await;
        scheduled.map_err(|error| self.error(&what, &error)).ok()
    }

    /// Cancels a reminder that is there.
    async fn cancel(&self, own: &ActorTarget, id: &str) {
        match self.client.cancel_reminder(own, id).await {
            Ok(1) => {}
            other => self.error(&format!("cancel {id}"), &other),
        }
    }
}

fn number(state: &Value, key: &str) -> u64 {
    state[key].as_u64().unwrap_or_default()
}
