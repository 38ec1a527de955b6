//! Every bound of the core (design section 13), and the rules that a simulator may switch off.
//!
//! Longer than most: two tables, with their defaults.

use std::fmt;

use crate::ids::Millis;
use crate::invocation::Refusal;

/// The longest time that anything is waited for, ms: 35,000 years. Longer ones mean as much, and added to a clock they
/// would be no time at all.
pub(crate) const TIME_MAX_MS: Millis = 1 << 50;

/// Bounds and times. Each has a flag of the same name in the sidecar.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Longest payload or state value, bytes.
    pub message_bytes_max: usize,
    /// Invocations queued per actor.
    pub queue_per_actor_max: usize,
    /// Unfinished invocations per partition.
    pub unfinished_per_partition_max: usize,
    /// Payloads of unfinished invocations and of outcomes kept for their senders, per partition, bytes. Roots beyond it
    /// are refused; what is owed already is taken.
    pub unfinished_bytes_per_partition_max: usize,
    /// Obligations that turns of a partition have made and that are not settled, the buffered ones included.
    pub outbox_per_partition_max: usize,
    /// The same, bytes.
    pub outbox_bytes_per_partition_max: usize,
    /// Requests of one channel under way that are not known to have arrived; more wait at their sender. Also
    /// outcomes that
    /// answer one statement of a channel. All channels between two nodes share one connection with its own bound.
    pub window_requests_max: usize,
    /// The same, bytes.
    pub window_bytes_max: usize,
    /// Payloads of direct calls under way at one host, bytes.
    pub direct_bytes_max: usize,
    /// Depth of a chain of calls.
    pub depth_max: usize,
    /// Root invocations of this node that are not finished (or, for tells, not accepted).
    pub roots_per_node_max: usize,
    /// Obligations and state operations one turn may buffer before it flushes, bytes.
    pub segment_bytes_max: usize,
    /// Obligations one turn may buffer before it flushes.
    pub segment_sends_max: usize,
    /// Calls that one turn may have under way at once.
    pub calls_per_turn_max: usize,
    /// Durable steps of one invocation: values recorded and keyed calls.
    pub steps_per_invocation_max: usize,
    /// What an invocation's durable steps keep, bytes; a retry gets the values with its turn. Outcomes of keyed calls
    /// that are under way may go beyond it.
    pub step_bytes_per_invocation_max: usize,
    /// Turns of one actor that may run ahead of the log (rule L6).
    pub speculation_per_actor_max: u32,
    /// Records in flight per partition; beyond it decisions wait and travel together. One is being made durable, one
    /// waits at the log for its turn, one is on its way; more would only be more messages for the same commits.
    pub records_in_flight_max: usize,
    /// Bytes of decisions after which a record is cut.
    pub record_bytes_target: usize,
    /// Results of `start` kept per partition.
    pub results_per_partition_max: usize,
    /// Results of `start` kept per partition, bytes.
    pub results_bytes_per_partition_max: usize,
    /// How long results of `start` are kept, ms.
    pub result_retention_ms: Millis,
    /// Idempotency keys remembered per partition; beyond it root invocations with new ones are refused.
    pub keys_per_partition_max: usize,
    /// The same with the outcomes that are kept under them, bytes. Outcomes of what was accepted before go beyond it:
    /// then the oldest ones are no longer known, but their keys are.
    pub keys_bytes_per_partition_max: usize,
    /// How long a key is remembered after its invocation has ended, ms.
    pub key_retention_ms: Millis,
    /// Dead letters kept per partition; the oldest ones go.
    pub dead_letters_per_partition_max: usize,
    /// The same, bytes.
    pub dead_letters_bytes_per_partition_max: usize,
    /// How long dead letters are kept, ms.
    pub dead_letter_retention_ms: Millis,
    /// How long a root call's `Accept` waits for its first `Progress` or `Complete` (rule L6), ms.
    pub accept_delay_ms: Millis,
    /// Grace: how long code of a cut-off attempt may run on (P3), ms.
    pub grace_ms: Millis,
    /// How long a host whose stream broke, and that is not known to be dead, may take to come back, ms.
    pub host_return_ms: Millis,
    /// A root tell or start that was not accepted for so long is answered with "unknown": its owner's log is away, ms.
    pub accept_timeout_ms: Millis,
    /// An append not read back for so long counts as lost (rule L4), ms.
    pub append_timeout_ms: Millis,
    /// How often channels are opened again or stated anew (rule C3), ms.
    pub channel_timer_ms: Millis,
    /// How long settled tells are gathered before they are logged, ms.
    pub settle_delay_ms: Millis,
    /// Topic partitions that a partition has a channel into; those that its turns publish to first use one up.
    pub topic_channels_per_partition_max: usize,
    /// Events of one channel into a topic that are on their way and not answered.
    pub publish_window_events_max: usize,
    /// The same, bytes; a longer event goes alone.
    pub publish_window_bytes_max: usize,
    /// Pause before a topic that could not be reached is tried again, ms; twice as long each time.
    pub publish_retry_ms: Millis,
    /// Longest pause between such tries, ms.
    pub publish_retry_max_ms: Millis,
    /// How long a departed node's channel stays open (rule C6), ms.
    pub departed_grace_ms: Millis,
    /// Closed channels of departed nodes that a partition remembers one by one; more are compressed (rule C6).
    pub closed_channels_max: usize,
    /// How long a hand-over waits for running turns before it cancels them, ms.
    pub drain_timeout_ms: Millis,
    /// State operations gathered for one write to the store, bytes.
    pub store_batch_bytes: usize,
    /// State operations that the store lacks, per partition, bytes: beyond it no turn starts there until the store has
    /// taken half of it; beyond twice of it turns that run write no state.
    pub unstored_bytes_per_partition_max: usize,
    /// Longest state of one actor, bytes: all of it can be loaded, and read in one message.
    pub state_bytes_per_actor_max: usize,
    /// Actors of a partition that are awake, with their states in memory; beyond it those become passive that have been
    /// idle for the longest time.
    pub cached_actors_max: usize,
    /// How long an actor is idle before it becomes passive: its state leaves memory, and its host is told, ms.
    pub actor_idle_ms: Millis,
    /// Turns of one partition at once that tell hosts of idle actors; more actors wait for it.
    pub deactivations_max: usize,
    /// Attempts of an invocation that may be lost with their hosts, one after the other, before it is parked.
    pub park_after_attempts: u32,
    /// Attempts that end with an error that the application marks retryable; the last one's is the outcome. For methods
    /// and calls without a retry policy of their own, as are the next three. 1: no retries.
    pub retry_attempts_max: u32,
    /// Pause before the second of them, ms.
    pub retry_initial_ms: Millis,
    /// Longest pause between them, ms.
    pub retry_max_ms: Millis,
    /// Each pause is so much longer than the one before, percent.
    pub retry_multiplier_percent: u32,
    /// How long calls wait for their actors before it is looked whether flows wait for each other in a circle, and how
    /// often then, ms.
    pub deadlock_probe_ms: Millis,
    /// Calls of one partition that this begins from at once; the others have their turn later.
    pub deadlock_probes_max: usize,
    /// Calls of one invocation that it is followed to at once; the others have their turn later.
    pub deadlock_fanout_max: usize,
    /// Calls of one partition that it comes by in each period; the others have their turn later.
    pub deadlock_visits_max: usize,
    /// Calls that wait in one circle; longer ones are not found.
    pub deadlock_path_max: usize,
    /// Longest state of an actor that one read from outside its turns answers with, bytes: a message between peers has
    /// to hold it. The same for a list of its reminders.
    pub state_read_bytes_max: usize,
    /// Changes of one transaction of the application's state, which goes past the core: checked with its other bounds.
    pub state_transaction_changes_max: usize,
    /// Keys and values of one transaction of the application's state, bytes.
    pub state_transaction_bytes_max: usize,
    /// Records of a log after which a snapshot of its partition is taken: so many, and those of the time that it takes,
    /// are read by whoever takes over. Not before the log has grown by what the last snapshot took.
    pub snapshot_after_records: u64,
    /// The same, bytes; whichever comes first.
    pub snapshot_after_bytes: u64,
    /// How far the store of actors' states may go back and is still healed from the log, ms: records are kept for so
    /// long after a snapshot has made them dispensable. 0 where the store is durable when a log is trimmed.
    pub trim_delay_ms: Millis,
    /// How long a channel has something to say and nobody of the peers to say it to before it takes the inbox of its
    /// partition, and how long a member is not connected before it is reached by its inbox, ms. Nodes without a peer
    /// plane are not waited for.
    pub inbox_after_ms: Millis,
    /// Entries of an inbox after which what was taken over is trimmed.
    pub inbox_trim_entries: u64,
    /// The same, bytes; whichever comes first.
    pub inbox_trim_bytes: usize,
    /// Reminders of one actor.
    pub reminders_per_actor_max: usize,
    /// Reminders of one partition: they stay in memory.
    pub reminders_per_partition_max: usize,
    /// The same, bytes.
    pub reminders_bytes_per_partition_max: usize,
    /// Due times that one record fires: many that come at once are taken in turn with everything else.
    pub reminder_firings_per_record_max: usize,
    /// A due time that passed longer ago counts as missed, and is subject to the reminder's policy, ms.
    pub reminder_lateness_ms: Millis,
    /// Subscriptions of one partition.
    pub subscriptions_per_partition_max: usize,
    /// Their settings, bytes; half of it is the most that one may have.
    pub subscriptions_bytes_per_partition_max: usize,
    /// Events of one topic partition that a subscription may have under way: the most that may be asked for.
    pub subscription_in_flight_max: usize,
    /// The same, bytes; one event may go beyond it.
    pub subscription_in_flight_bytes_max: usize,
    /// The same of all subscriptions of one partition together. Beyond it each has one event under way for each topic
    /// partition, so that none waits for others.
    pub deliveries_bytes_per_partition_max: usize,
    /// Events of one topic partition that wait in one partition of their target: the acceptance of those beyond it is
    /// told when they have ended, so that a slow subscriber has a lag instead of a long queue.
    pub deliveries_waiting_max: usize,
}

/// A bound that was hit, by name, so that people know what to raise or send less of.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct LimitHit {
    /// Name of the bound, as in [`Limits`] and in the sidecar's flags.
    pub name: &'static str,
    /// Its value.
    pub limit: u64,
}

/// The protecting rules, by name. All on in production; with the feature `mutations` the simulator switches single ones
/// off, to show that its checkers find out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
#[allow(missing_docs)] // Each is named after the rule it stands for; see `kar-sim`'s README.
pub struct Rules {
    pub compare_claim: bool,
    pub gapless_sequence: bool,
    pub drop_all_after_void: bool,
    pub channel_gap: bool,
    pub resend_in_order: bool,
    pub request_epoch: bool,
    pub gate_calls: bool,
    pub gate_replies: bool,
    pub gate_acceptances: bool,
    pub retire_only_closed: bool,
    pub close_only_committed: bool,
    pub remember_retired: bool,
    pub attach: bool,
    pub settled_proposals: bool,
    pub kept_lock: bool,
    pub turn_token: bool,
    pub only_top: bool,
    pub tail_lock: bool,
    pub tail_home: bool,
    pub tail_order: bool,
    /// Kept by the store: a simulated one ignores what writes expect.
    pub write_expects: bool,
    pub load_checks: bool,
    pub heed_cancel: bool,
    pub retry_bound: bool,
    pub keep_parked: bool,
    pub await_barrier: bool,
    pub read_barrier: bool,
    pub gate_reads: bool,
    pub state_conditions: bool,
    pub recorded_steps: bool,
    pub kept_results: bool,
    pub shared_apart: bool,
    pub deadlock_probes: bool,
    pub remember_keys: bool,
    pub snapshot_complete: bool,
    pub snapshot_committed: bool,
    pub trim_after_snapshot: bool,
    pub trim_after_stored: bool,
    pub trim_delay: bool,
    pub firing_moves_due: bool,
    pub cancel_drops_firings: bool,
    pub firing_after_commit: bool,
    pub hold_hostless: bool,
    pub mark_starts: bool,
    pub inbox_offset: bool,
    pub inbox_run: bool,
    pub inbox_mark: bool,
    pub inbox_read_back: bool,
    pub inbox_order: bool,
    pub inbox_promise: bool,
    pub inbox_again: bool,
    pub fresh_activations: bool,
    pub lone_activations: bool,
    pub removal_in_queue: bool,
    pub removal_cancels: bool,
    pub removal_drops_firings: bool,
    pub count_started: bool,
    pub log_resent: bool,
    pub gate_notices: bool,
    pub hold_ends: bool,
    pub unmarked_stays: bool,
    pub withdraw_unstarted: bool,
    pub log_withdrawn: bool,
    pub keep_keyed: bool,
    pub confirm_circles: bool,
    pub confirm_in_reign: bool,
    pub floor_after_accept: bool,
    pub deliver_by_offset: bool,
    pub filter_closes: bool,
    pub topic_by_id: bool,
    pub removal_ends_subscriptions: bool,
    pub gate_publishes: bool,
    pub learn_published: bool,
    pub bury_with_end: bool,
    pub settle_landed: bool,
    pub read_on: bool,
    pub end_waits: bool,
    pub retry_waits: bool,
    pub pause_barrier: bool,
    pub lease: bool,
    pub grace: bool,
    pub host_grace: bool,
    pub release_after_turns: bool,
    pub release_after_grace: bool,
    pub abandon_turns: bool,
    pub append_timeout: bool,
    pub drop_failed: bool,
    pub retry_pause: bool,
    pub lost_pause: bool,
    pub park_poison: bool,
    pub strict: bool,
    pub gate_flushes: bool,
    pub gate_release: bool,
    pub gate_taken: bool,
    pub gate_named: bool,
    pub log_lower: bool,
    pub take_owed: bool,
    pub refuse_closed: bool,
    pub descendants_only: bool,
    pub queue_order: bool,
    pub hand_over_order: bool,
    pub nested_slotless: bool,
    pub slots: bool,
    pub expire: bool,
    pub inherited_ran: bool,
    pub clock_forward: bool,
    pub settle_late: bool,
    pub newest_statement: bool,
    pub keep_unstored: bool,
    pub gate_deliveries: bool,
    pub give_back_slots: bool,
    pub keep_place: bool,
    pub parked_holds: bool,
    pub kept_flushes: bool,
    pub stop_reading: bool,
    pub bound_deliveries: bool,
    pub wait_unreadable: bool,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            message_bytes_max: 4 << 20,
            queue_per_actor_max: 10_000,
            unfinished_per_partition_max: 100_000,
            unfinished_bytes_per_partition_max: 256 << 20,
            outbox_per_partition_max: 100_000,
            outbox_bytes_per_partition_max: 256 << 20,
            window_requests_max: 512,
            window_bytes_max: 1 << 20,
            direct_bytes_max: 64 << 20,
            depth_max: 64,
            roots_per_node_max: 20_000,
            segment_bytes_max: 6 << 20,
            segment_sends_max: 10_000,
            calls_per_turn_max: 4_096,
            steps_per_invocation_max: 1_000,
            step_bytes_per_invocation_max: 4 << 20,
            speculation_per_actor_max: 256,
            records_in_flight_max: 3,
            record_bytes_target: 1 << 20,
            results_per_partition_max: 100_000,
            results_bytes_per_partition_max: 128 << 20,
            result_retention_ms: 24 * 3600 * 1000,
            keys_per_partition_max: 100_000,
            keys_bytes_per_partition_max: 64 << 20,
            key_retention_ms: 24 * 3_600_000,
            dead_letters_per_partition_max: 1_000,
            dead_letters_bytes_per_partition_max: 16 << 20,
            dead_letter_retention_ms: 7 * 24 * 3600 * 1000,
            accept_delay_ms: 1,
            grace_ms: 100,
            host_return_ms: 1000,
            accept_timeout_ms: 15_000,
            append_timeout_ms: 10_000,
            channel_timer_ms: 500,
            settle_delay_ms: 20,
            topic_channels_per_partition_max: 4_096,
            publish_window_events_max: 512,
            publish_window_bytes_max: 1 << 20,
            publish_retry_ms: 100,
            publish_retry_max_ms: 5_000,
            departed_grace_ms: 30_000,
            closed_channels_max: 64,
            drain_timeout_ms: 10_000,
            store_batch_bytes: 1 << 20,
            unstored_bytes_per_partition_max: 256 << 20,
            // More than a segment, so that one turn may fill an actor; less than a message to a component.
            state_bytes_per_actor_max: 7 << 20,
            cached_actors_max: 10_000,
            actor_idle_ms: 600_000,
            deactivations_max: 64,
            park_after_attempts: 20,
            retry_attempts_max: 1,
            retry_initial_ms: 100,
            retry_max_ms: 30_000,
            retry_multiplier_percent: 200,
            deadlock_probe_ms: 1_000,
            deadlock_probes_max: 64,
            deadlock_fanout_max: 32,
            deadlock_visits_max: 10_000,
            deadlock_path_max: 64,
            state_read_bytes_max: 16 << 20,
            state_transaction_changes_max: 1_000,
            state_transaction_bytes_max: 4 << 20,
            snapshot_after_records: 5_000,
            snapshot_after_bytes: 8 << 20,
            // The hub syncs its store before it trims a log.
            trim_delay_ms: 0,
            inbox_after_ms: 1_000,
            inbox_trim_entries: 1_000,
            inbox_trim_bytes: 1 << 20,
            reminders_per_actor_max: 1_000,
            reminders_per_partition_max: 100_000,
            reminders_bytes_per_partition_max: 64 << 20,
            reminder_firings_per_record_max: 256,
            reminder_lateness_ms: 1_000,
            // Each end of one tells every partition of its target which ones there still are.
            subscriptions_per_partition_max: 256,
            subscriptions_bytes_per_partition_max: 8 << 20,
            subscription_in_flight_max: 1_000,
            subscription_in_flight_bytes_max: 2 << 20,
            deliveries_bytes_per_partition_max: 64 << 20,
            deliveries_waiting_max: 1_000,
        }
    }
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            compare_claim: true,
            gapless_sequence: true,
            drop_all_after_void: true,
            channel_gap: true,
            resend_in_order: true,
            request_epoch: true,
            gate_calls: true,
            gate_replies: true,
            gate_acceptances: true,
            retire_only_closed: true,
            close_only_committed: true,
            remember_retired: true,
            attach: true,
            settled_proposals: true,
            kept_lock: true,
            turn_token: true,
            only_top: true,
            tail_lock: true,
            tail_home: true,
            tail_order: true,
            write_expects: true,
            load_checks: true,
            heed_cancel: true,
            retry_bound: true,
            keep_parked: true,
            await_barrier: true,
            read_barrier: true,
            gate_reads: true,
            state_conditions: true,
            recorded_steps: true,
            kept_results: true,
            shared_apart: true,
            deadlock_probes: true,
            remember_keys: true,
            snapshot_complete: true,
            snapshot_committed: true,
            trim_after_snapshot: true,
            trim_after_stored: true,
            trim_delay: true,
            firing_moves_due: true,
            cancel_drops_firings: true,
            firing_after_commit: true,
            hold_hostless: true,
            mark_starts: true,
            inbox_offset: true,
            inbox_run: true,
            inbox_mark: true,
            inbox_read_back: true,
            inbox_order: true,
            inbox_promise: true,
            inbox_again: true,
            fresh_activations: true,
            lone_activations: true,
            removal_in_queue: true,
            removal_cancels: true,
            removal_drops_firings: true,
            count_started: true,
            log_resent: true,
            gate_notices: true,
            hold_ends: true,
            unmarked_stays: true,
            withdraw_unstarted: true,
            log_withdrawn: true,
            keep_keyed: true,
            confirm_circles: true,
            confirm_in_reign: true,
            floor_after_accept: true,
            deliver_by_offset: true,
            filter_closes: true,
            topic_by_id: true,
            removal_ends_subscriptions: true,
            gate_publishes: true,
            learn_published: true,
            bury_with_end: true,
            settle_landed: true,
            read_on: true,
            end_waits: true,
            retry_waits: true,
            pause_barrier: true,
            lease: true,
            grace: true,
            host_grace: true,
            release_after_turns: true,
            release_after_grace: true,
            abandon_turns: true,
            append_timeout: true,
            drop_failed: true,
            retry_pause: true,
            lost_pause: true,
            park_poison: true,
            strict: true,
            gate_flushes: true,
            gate_release: true,
            gate_taken: true,
            gate_named: true,
            log_lower: true,
            take_owed: true,
            refuse_closed: true,
            descendants_only: true,
            queue_order: true,
            hand_over_order: true,
            nested_slotless: true,
            slots: true,
            expire: true,
            inherited_ran: true,
            clock_forward: true,
            settle_late: true,
            newest_statement: true,
            keep_unstored: true,
            gate_deliveries: true,
            give_back_slots: true,
            keep_place: true,
            parked_holds: true,
            kept_flushes: true,
            stop_reading: true,
            bound_deliveries: true,
            wait_unreadable: true,
        }
    }
}

impl Limits {
    /// The same with times that can be added to any clock.
    pub(crate) fn within_time(mut self) -> Self {
        let times = [
            &mut self.result_retention_ms,
            &mut self.key_retention_ms,
            &mut self.dead_letter_retention_ms,
            &mut self.accept_delay_ms,
            &mut self.grace_ms,
            &mut self.host_return_ms,
            &mut self.accept_timeout_ms,
            &mut self.append_timeout_ms,
            &mut self.channel_timer_ms,
            &mut self.settle_delay_ms,
            &mut self.publish_retry_ms,
            &mut self.publish_retry_max_ms,
            &mut self.departed_grace_ms,
            &mut self.drain_timeout_ms,
            &mut self.retry_initial_ms,
            &mut self.retry_max_ms,
            &mut self.deadlock_probe_ms,
            &mut self.trim_delay_ms,
            &mut self.reminder_lateness_ms,
            &mut self.inbox_after_ms,
        ];
        for time in times {
            *time = (*time).min(TIME_MAX_MS);
        }
        self
    }

    /// The bound that made an owner refuse, if it was one.
    pub fn behind(&self, refusal: Refusal) -> Option<LimitHit> {
        let (name, limit) = match refusal {
            Refusal::ActorQueueFull => ("queue_per_actor_max", self.queue_per_actor_max),
            Refusal::PartitionFull => {
                ("unfinished_per_partition_max", self.unfinished_per_partition_max)
            }
            Refusal::PartitionBytesFull => {
                ("unfinished_bytes_per_partition_max", self.unfinished_bytes_per_partition_max)
            }
            Refusal::KeysFull => ("keys_per_partition_max", self.keys_per_partition_max),
            Refusal::KeysBytesFull => {
                ("keys_bytes_per_partition_max", self.keys_bytes_per_partition_max)
            }
            Refusal::TooDeep => ("depth_max", self.depth_max),
            Refusal::ActorRemindersFull => {
                ("reminders_per_actor_max", self.reminders_per_actor_max)
            }
            Refusal::RemindersFull => {
                ("reminders_per_partition_max", self.reminders_per_partition_max)
            }
            Refusal::RemindersBytesFull => {
                ("reminders_bytes_per_partition_max", self.reminders_bytes_per_partition_max)
            }
            Refusal::SubscriptionsFull => {
                ("subscriptions_per_partition_max", self.subscriptions_per_partition_max)
            }
            Refusal::SubscriptionsBytesFull => (
                "subscriptions_bytes_per_partition_max",
                self.subscriptions_bytes_per_partition_max,
            ),
            Refusal::ChannelClosed
            | Refusal::SharedToExclusive
            | Refusal::KeyReused
            | Refusal::SubscriptionDiffers
            | Refusal::SubscriptionUnknown => return None,
        };
        Some(LimitHit { name, limit: limit as u64 })
    }
}

impl fmt::Display for LimitHit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "limit {} ({}) reached", self.name.replace('_', "-"), self.limit)
    }
}
