//! Counters since the start, and the log lines of notices (P9).

use std::collections::BTreeMap;

use kar_core::effect::Notice;
use kar_core::ids::Millis;
use kar_core::invocation::Outcome;

/// Log lines about notices per second; beyond it they are only counted, so that a refusing sidecar does not drown in
/// its own log.
const NOTICE_LINES_PER_SECOND_MAX: u32 = 50;

/// Counters of one sidecar. All of them only grow.
#[derive(Debug, Default)]
#[allow(missing_docs)] // Each is named after what it counts; `GetInfo` shows them under the same names.
pub struct Counters {
    pub requests: u64,
    pub requests_failed: u64,
    pub turns: u64,
    pub turns_direct: u64,
    pub turns_cancelled: u64,
    pub appends: u64,
    pub records_read: u64,
    pub messages_sent: u64,
    pub messages_received: u64,
    /// Entries put into inboxes.
    pub inbox_appends: u64,
    /// Entries read from inboxes.
    pub inbox_entries_read: u64,
    pub store_loads: u64,
    pub store_writes: u64,
    pub reigns_begun: u64,
    pub reigns_released: u64,
    pub reigns_dropped: u64,
    pub retries: u64,
    pub parked: u64,
    /// Calls ended because flows waited for each other in a circle.
    pub deadlocks: u64,
    pub dead_letters: u64,
    pub dead_letters_dropped: u64,
    /// Actors that became passive after they had been idle.
    pub actors_passivated: u64,
    pub actors_removed: u64,
    pub deactivations_failed: u64,
    pub reminders_missed: u64,
    pub reminders_waited: u64,
    /// Times that events of turns have begun to wait for a topic that could not be reached.
    pub publish_waits: u64,
    /// Events of turns that were lost with their topic.
    pub events_lost: u64,
    /// Events that subscriptions found gone.
    pub events_skipped: u64,
    /// Events that named nobody whom they could be delivered to.
    pub events_undeliverable: u64,
    /// Subscriptions that found their topics deleted, at each take-over.
    pub subscriptions_without_topic: u64,
    /// Subscriptions that have ended with the actors that their events went to.
    pub subscriptions_removed: u64,
    /// Events of topics that this version does not understand, at each take-over.
    pub events_unreadable: u64,
    /// Topics that could not be read for seconds, by each subscription that wanted to.
    pub reading_waits: u64,
    /// Records of logs that this version does not understand, each time that they were read.
    pub log_records_unreadable: u64,
    /// The same of entries of inboxes.
    pub inbox_entries_unreadable: u64,
    pub limits_hit: u64,
    pub records_too_long: u64,
    pub logs_trimmed_unread: u64,
    pub log_trims: u64,
    pub snapshots_taken: u64,
    pub snapshot_bytes_taken: u64,
    pub snapshots_used: u64,
    pub snapshots_failed: u64,
    pub snapshots_unusable: u64,
    pub partitions_unreadable: u64,
    /// How often each bound was hit, by its name.
    pub limits_hit_by_name: BTreeMap<&'static str, u64>,
    pub store_rollbacks: u64,
    pub stores_ahead: u64,
    pub channels_closed: u64,
    /// Kinds that were not registered.
    pub kinds_refused: u64,
    pub broken_invariants: u64,
    pub resumptions: u64,
    pub evictions: u64,
    pub logs_lost: u64,
    lines: LineBudget,
}

/// How many notices were logged in the current second.
#[derive(Debug, Default)]
struct LineBudget {
    second: Millis,
    lines: u32,
    suppressed: u64,
}

impl Counters {
    /// By name, for `GetInfo`.
    pub fn by_name(&self) -> BTreeMap<String, i64> {
        [
            ("requests", self.requests),
            ("requests_failed", self.requests_failed),
            ("turns", self.turns),
            ("turns_direct", self.turns_direct),
            ("turns_cancelled", self.turns_cancelled),
            ("appends", self.appends),
            ("records_read", self.records_read),
            ("messages_sent", self.messages_sent),
            ("messages_received", self.messages_received),
            ("inbox_appends", self.inbox_appends),
            ("inbox_entries_read", self.inbox_entries_read),
            ("store_loads", self.store_loads),
            ("store_writes", self.store_writes),
            ("reigns_begun", self.reigns_begun),
            ("reigns_released", self.reigns_released),
            ("reigns_dropped", self.reigns_dropped),
            ("retries", self.retries),
            ("parked", self.parked),
            ("deadlocks", self.deadlocks),
            ("dead_letters", self.dead_letters),
            ("dead_letters_dropped", self.dead_letters_dropped),
            ("actors_passivated", self.actors_passivated),
            ("actors_removed", self.actors_removed),
            ("deactivations_failed", self.deactivations_failed),
            ("reminders_missed", self.reminders_missed),
            ("reminders_waited", self.reminders_waited),
            ("publish_waits", self.publish_waits),
            ("events_lost", self.events_lost),
            ("events_skipped", self.events_skipped),
            ("events_undeliverable", self.events_undeliverable),
            ("events_unreadable", self.events_unreadable),
            ("reading_waits", self.reading_waits),
            ("log_records_unreadable", self.log_records_unreadable),
            ("inbox_entries_unreadable", self.inbox_entries_unreadable),
            ("subscriptions_without_topic", self.subscriptions_without_topic),
            ("subscriptions_removed", self.subscriptions_removed),
            ("limits_hit", self.limits_hit),
            ("records_too_long", self.records_too_long),
            ("logs_trimmed_unread", self.logs_trimmed_unread),
            ("log_trims", self.log_trims),
            ("snapshots_taken", self.snapshots_taken),
            ("snapshot_bytes_taken", self.snapshot_bytes_taken),
            ("snapshots_used", self.snapshots_used),
            ("snapshots_failed", self.snapshots_failed),
            ("snapshots_unusable", self.snapshots_unusable),
            ("partitions_unreadable", self.partitions_unreadable),
            ("store_rollbacks", self.store_rollbacks),
            ("stores_ahead", self.stores_ahead),
            ("channels_closed", self.channels_closed),
            ("kinds_refused", self.kinds_refused),
            ("broken_invariants", self.broken_invariants),
            ("resumptions", self.resumptions),
            ("evictions", self.evictions),
            ("logs_lost", self.logs_lost),
            ("notices_not_logged", self.lines.suppressed),
        ]
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .chain(self.limits_hit_by_name.iter().map(|(name, n)| (format!("limits_hit.{name}"), *n)))
        .map(|(name, value)| (name, i64::try_from(value).unwrap_or(i64::MAX)))
        .collect()
    }

    /// Counts and logs what the core wants people to know.
    pub fn notice(&mut self, now: Millis, notice: Notice) {
        let line = self.lines.take(now);
        match notice {
            Notice::Owned { partition, epoch, unfinished } => {
                self.reigns_begun += 1;
                // With nothing in it there is nothing to tell: every start takes all of them.
                if line && unfinished > 0 {
                    tracing::info!(%partition, epoch, unfinished, "partition taken over with work");
                } else {
                    tracing::debug!(%partition, epoch, "partition taken");
                }
            }
            Notice::Released { partition } => {
                self.reigns_released += 1;
                tracing::debug!(%partition, "partition released");
            }
            Notice::Dropped { partition, reason } => {
                self.reigns_dropped += 1;
                if line {
                    tracing::warn!(%partition, reason, "partition dropped");
                }
            }
            Notice::Retried { invocation, attempt } => {
                self.retries += 1;
                if line {
                    tracing::info!(%invocation, attempt, "invocation is tried again");
                }
            }
            Notice::Deadlock { invocation, cycle } => {
                self.deadlocks += 1;
                if line {
                    tracing::warn!(%invocation, %cycle, "flows waited for each other; call ended");
                }
            }
            Notice::Parked { invocation, losses, error, holds } => {
                self.parked += 1;
                if line {
                    tracing::error!(
                        %invocation, losses, %error, holds_actor = holds,
                        "invocation parked: it has lost too many hosts (holds_actor: what it flushed \
                         is half done, so calls of its actor wait); mend its method, then \
                         `kar resume`, or `kar cancel`"
                    );
                }
            }
            Notice::DeadLetter { invocation, outcome } => {
                self.dead_letters += 1;
                if line {
                    let (reason, message) = in_short(&outcome);
                    tracing::warn!(%invocation, reason, message, "tell ended without success");
                }
            }
            Notice::DeadLettersDropped { partition, count } => {
                self.dead_letters_dropped += count as u64;
                if line {
                    tracing::warn!(
                        %partition, count,
                        "dead letters dropped: too many or too old; see `kar get dead-letters`"
                    );
                }
            }
            Notice::Passivated { partition, count } => {
                self.actors_passivated += count as u64;
                tracing::debug!(%partition, count, "idle actors became passive");
            }
            Notice::DeactivationFailed { partition, actor, error } => {
                self.deactivations_failed += 1;
                if line {
                    tracing::warn!(
                        %partition, %actor, %error,
                        "an actor's deactivation failed; it is passive all the same"
                    );
                }
            }
            Notice::Removed { partition, actor } => {
                self.actors_removed += 1;
                tracing::debug!(%partition, %actor, "actor removed");
            }
            Notice::Limit(hit) => {
                self.limits_hit += 1;
                // Bounded: names are those of the bounds that exist.
                *self.limits_hit_by_name.entry(hit.name).or_default() += 1;
                if line {
                    tracing::warn!(limit = hit.name, value = hit.limit, "limit reached");
                }
            }
            Notice::RemindersMissed { partition, actor, id, due, next } => {
                self.reminders_missed += 1;
                if line {
                    tracing::warn!(
                        %partition, %actor, reminder = %id, due_ms = due, next_ms = next,
                        "due times were missed, and are not made up for"
                    );
                }
            }
            Notice::RemindersWait { partition, actor, hit } => {
                self.reminders_waited += 1;
                *self.limits_hit_by_name.entry(hit.name).or_default() += 1;
                if line {
                    let actor = actor.as_deref();
                    tracing::warn!(
                        %partition, actor, limit = hit.name, value = hit.limit,
                        "due reminders wait for room"
                    );
                }
            }
            Notice::PublishWaits { partition, to, waiting } => {
                self.publish_waits += 1;
                if line {
                    tracing::warn!(
                        %partition, topic = %to, waiting,
                        "events wait for a topic that cannot be reached"
                    );
                }
            }
            Notice::EventsLost { partition, to, count } => {
                self.events_lost += count as u64;
                tracing::error!(
                    %partition, topic = %to, count,
                    "events are lost: their topic was deleted before they were in it"
                );
            }
            Notice::EventsSkipped { partition, name, topic_partition, from, to } => {
                self.events_skipped += to - from;
                if line {
                    tracing::warn!(
                        %partition, subscription = %name, topic_partition, from, to,
                        "events are gone by retention before they were delivered"
                    );
                }
            }
            Notice::Undeliverable {
                partition,
                name,
                topic_partition,
                offset,
                why,
                dead_letter,
            } => {
                self.events_undeliverable += 1;
                if line {
                    tracing::warn!(
                        %partition, subscription = %name, topic_partition, offset, why, dead_letter,
                        "an event cannot be delivered"
                    );
                }
            }
            Notice::EventUnreadable { partition, name, topic_partition, offset } => {
                self.events_unreadable += 1;
                // Always: it waits there until somebody does something.
                tracing::error!(
                    %partition, subscription = %name, topic_partition, offset,
                    "an event is not understood by this version: the subscription waits there; use the newer \
                     version, or let the event go (retention, or a new topic)"
                );
            }
            Notice::ReadingWaits { partition, name, topic_partition } => {
                self.reading_waits += 1;
                if line {
                    tracing::warn!(
                        %partition, subscription = %name, topic_partition,
                        "a subscription's topic cannot be read for seconds; it is tried again"
                    );
                }
            }
            Notice::TopicGone { partition, name, topic } => {
                self.subscriptions_without_topic += 1;
                if line {
                    tracing::error!(
                        %partition, subscription = %name, %topic,
                        "the topic of a subscription is deleted: unsubscribe it, and subscribe to one that exists"
                    );
                }
            }
            Notice::SubscriptionRemoved { partition, name, actor } => {
                self.subscriptions_removed += 1;
                if line {
                    tracing::info!(
                        %partition, subscription = %name, %actor,
                        "a subscription has ended with the actor that its events went to"
                    );
                }
            }
            Notice::RecordTooLong { partition, bytes, bytes_max } => {
                self.records_too_long += 1;
                if line {
                    tracing::error!(
                        %partition, bytes, bytes_max,
                        "a record was not written: lower segment-bytes-max or message-bytes-max"
                    );
                }
            }
            Notice::StoreRolledBack { partition } => {
                self.store_rollbacks += 1;
                tracing::error!(%partition, "the store was rolled back; the log is replayed");
            }
            Notice::StoreAhead { partition, store, log } => {
                self.stores_ahead += 1;
                tracing::error!(
                    %partition, store, log,
                    "the store holds more than the log: they do not belong together, so it is not \
                     used; put back the log, or delete the store so that it is made anew from it"
                );
            }
            Notice::SnapshotTaken { partition, key, bytes } => {
                self.snapshots_taken += 1;
                self.snapshot_bytes_taken += bytes;
                tracing::debug!(%partition, %key, bytes, "snapshot taken");
            }
            Notice::SnapshotUsed { partition, key, records } => {
                self.snapshots_used += 1;
                tracing::debug!(%partition, %key, records, "log read from a snapshot on");
            }
            Notice::SnapshotFailed { partition, key, fault } => {
                self.snapshots_failed += 1;
                if line {
                    let key = key.map(|key| key.to_string()).unwrap_or_default();
                    tracing::warn!(
                        %partition, key, %fault,
                        "a snapshot was not stored, read or deleted; the log stays as it is"
                    );
                }
            }
            Notice::SnapshotUnusable { partition, key, why } => {
                self.snapshots_unusable += 1;
                tracing::error!(
                    %partition, %key, why,
                    "snapshot not used: an older one is, or the log from its start"
                );
            }
            Notice::Unreadable { partition, start, why } => {
                self.partitions_unreadable += 1;
                tracing::error!(
                    %partition, start, why,
                    "the log was trimmed and no snapshot can be used: the partition is not served \
                     until the data directory is as it was; trying again"
                );
            }
            Notice::KindRefused(refused) => {
                self.kinds_refused += 1;
                if line {
                    tracing::error!("nobody can call what is not registered: {refused}");
                }
            }
            Notice::ChannelClosed { partition } => {
                self.channels_closed += 1;
                tracing::error!(
                    %partition,
                    "this node was gone for too long and is not heard any more; it has to join anew"
                );
            }
            Notice::BrokenInvariant { what } => {
                self.broken_invariants += 1;
                tracing::error!(what, "broken invariant; please report this");
            }
        }
    }
}

/// An outcome without its payload.
fn in_short(outcome: &Outcome) -> (&str, &str) {
    match outcome {
        Outcome::Done(_) => ("done", ""),
        Outcome::Failed(error) => (&error.code, &error.message),
        Outcome::Refused(_) => ("refused", ""),
        Outcome::Deadlock(cycle) => ("deadlock", cycle),
        Outcome::Expired => ("expired", ""),
        Outcome::Cancelled => ("cancelled", ""),
        Outcome::Withdrawn => ("withdrawn", ""),
    }
}

impl LineBudget {
    /// Whether one more line may be written now.
    fn take(&mut self, now: Millis) -> bool {
        let second = now / 1000;
        if second != self.second {
            *self = Self { second, lines: 0, suppressed: self.suppressed };
        }
        if self.lines < NOTICE_LINES_PER_SECOND_MAX {
            self.lines += 1;
            return true;
        }
        self.suppressed += 1;
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_notices_is_counted_but_not_logged() {
        let mut counters = Counters::default();
        for _ in 0..200 {
            counters.notice(1_000, Notice::BrokenInvariant { what: "test" });
        }
        counters.notice(2_000, Notice::BrokenInvariant { what: "test" });
        let by_name = counters.by_name();
        assert_eq!(by_name["broken_invariants"], 201);
        assert_eq!(by_name["notices_not_logged"], 150);
    }
}
