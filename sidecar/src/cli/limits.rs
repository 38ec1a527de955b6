//! The flags of every bound: named as in the code, so that an error's name is the flag to raise.

use clap::Args;
use kar::config::Bounds;
use kar_core::limits::Limits;

/// Makes a struct of optional flags and a function that applies those that were given.
macro_rules! bound_flags {
    ($(#[$doc:meta])* $name:ident for $target:ident, $heading:literal,
     { $($(#[$field_doc:meta])* $field:ident: $type:ty,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Debug, Default, Args)]
        #[command(next_help_heading = $heading)]
        pub(crate) struct $name {
            $($(#[$field_doc])*
            #[arg(long, value_name = "N", hide_short_help = true)]
            pub(crate) $field: Option<$type>,)*
        }

        impl $name {
            /// Overwrites what was given. Every bound has a flag, or this does not compile.
            pub(crate) fn apply(&self, target: &mut $target) {
                let $target { $($field,)* } = target;
                $(if let Some(value) = self.$field { *$field = value; })*
            }
        }
    };
}

bound_flags! {
    /// Bounds of the decisions.
    LimitArgs for Limits, "Bounds (decisions)", {
        /// Longest payload or state value, bytes
        message_bytes_max: usize,
        /// Invocations queued per actor
        queue_per_actor_max: usize,
        /// Unfinished invocations per partition
        unfinished_per_partition_max: usize,
        /// Payloads of unfinished invocations and kept outcomes per partition, bytes
        unfinished_bytes_per_partition_max: usize,
        /// Obligations of turns that are not settled, per partition
        outbox_per_partition_max: usize,
        /// Obligations of turns that are not settled, per partition, bytes
        outbox_bytes_per_partition_max: usize,
        /// Requests of one channel under way that are not known to have arrived
        window_requests_max: usize,
        /// Requests, or outcomes sent again, of one channel under way, bytes
        window_bytes_max: usize,
        /// Payloads of direct calls under way at one host, bytes
        direct_bytes_max: usize,
        /// Depth of a chain of calls
        depth_max: usize,
        /// Root invocations of this node that are not finished
        roots_per_node_max: usize,
        /// Obligations and state operations one turn may buffer before it flushes, bytes
        segment_bytes_max: usize,
        /// Obligations one turn may buffer before it flushes
        segment_sends_max: usize,
        /// Calls that one turn may have under way at once
        calls_per_turn_max: usize,
        /// Durable steps of one invocation: values recorded and keyed calls
        steps_per_invocation_max: usize,
        /// What the durable steps of one invocation keep, bytes
        step_bytes_per_invocation_max: usize,
        /// Turns of one actor that may run ahead of the log
        speculation_per_actor_max: u32,
        /// Records in flight per partition
        records_in_flight_max: usize,
        /// Bytes of decisions after which a record is cut
        record_bytes_target: usize,
        /// Results of `start` kept per partition
        results_per_partition_max: usize,
        /// Results of `start` kept per partition, bytes
        results_bytes_per_partition_max: usize,
        /// How long results of `start` are kept, ms
        result_retention_ms: u64,
        /// Idempotency keys remembered per partition; beyond it new ones are refused
        keys_per_partition_max: usize,
        /// The same with the outcomes that are kept under them, bytes
        keys_bytes_per_partition_max: usize,
        /// How long a key is remembered after its invocation has ended, ms
        key_retention_ms: u64,
        /// Dead letters kept per partition; the oldest go
        dead_letters_per_partition_max: usize,
        /// Dead letters kept per partition, bytes
        dead_letters_bytes_per_partition_max: usize,
        /// How long dead letters are kept, ms
        dead_letter_retention_ms: u64,
        /// How long a root call's acceptance waits for its first progress, ms
        accept_delay_ms: u64,
        /// How long code of a cut-off attempt may run on, ms
        grace_ms: u64,
        /// How long a host whose stream broke may take to come back, ms
        host_return_ms: u64,
        /// A tell or start not accepted for so long is answered with "unknown", ms
        accept_timeout_ms: u64,
        /// An append not read back for so long counts as lost, ms
        append_timeout_ms: u64,
        /// How often channels are stated anew, ms
        channel_timer_ms: u64,
        /// How long settled tells are gathered before they are logged, ms
        settle_delay_ms: u64,
        /// Topic partitions that turns of one partition publish to
        topic_channels_per_partition_max: usize,
        /// Events of turns on their way from one partition into one of a topic
        publish_window_events_max: usize,
        /// The same, bytes
        publish_window_bytes_max: usize,
        /// First pause before a topic that could not be reached is tried again, ms
        publish_retry_ms: u64,
        /// Longest such pause, ms
        publish_retry_max_ms: u64,
        /// Subscriptions of one partition
        subscriptions_per_partition_max: usize,
        /// Their settings, bytes; half of it is the most that one may have
        subscriptions_bytes_per_partition_max: usize,
        /// Events of one topic partition that a subscription may have under way
        subscription_in_flight_max: usize,
        /// The same, bytes
        subscription_in_flight_bytes_max: usize,
        /// The same of all subscriptions of a partition, bytes: beyond it each delivers one by one
        deliveries_bytes_per_partition_max: usize,
        /// Events of one topic partition that wait in one partition of a slow subscriber
        deliveries_waiting_max: usize,
        /// How long a departed node's channel stays open, ms
        departed_grace_ms: u64,
        /// How long a hand-over waits for running turns before it cancels them, ms
        drain_timeout_ms: u64,
        /// State operations gathered for one write to the store, bytes
        store_batch_bytes: usize,
        /// Closed channels of departed nodes remembered one by one
        closed_channels_max: usize,
        /// State operations that the store lacks, per partition, bytes: beyond it no turn starts there
        unstored_bytes_per_partition_max: usize,
        /// Longest state of one actor, bytes
        state_bytes_per_actor_max: usize,
        /// Actors of a partition that stay awake, with their states in memory, when they have nothing to do
        cached_actors_max: usize,
        /// How long an actor is idle before it becomes passive, ms
        actor_idle_ms: u64,
        /// Turns of one partition at once that tell hosts of idle actors
        deactivations_max: usize,
        /// Attempts lost with their hosts, one after the other, before an invocation is parked
        park_after_attempts: u32,
        /// Attempts that end with a retryable error, where no method or call says; 1: no retries
        retry_attempts_max: u32,
        /// Pause before the second of them, ms
        retry_initial_ms: u64,
        /// Longest pause between them, ms
        retry_max_ms: u64,
        /// Each pause is so much longer than the one before, percent
        retry_multiplier_percent: u32,
        /// How long calls wait before it is looked whether flows wait for each other, and how often then, ms
        deadlock_probe_ms: u64,
        /// Calls of one partition that this begins from at once
        deadlock_probes_max: usize,
        /// Calls of one invocation that it is followed to at once
        deadlock_fanout_max: usize,
        /// Calls of one partition that it comes by in each period
        deadlock_visits_max: usize,
        /// Calls that wait in one circle
        deadlock_path_max: usize,
        /// Longest state of an actor that one read from outside its turns answers with, bytes
        state_read_bytes_max: usize,
        /// Changes of one transaction of the application's state
        state_transaction_changes_max: usize,
        /// Keys and values of one transaction of the application's state, bytes
        state_transaction_bytes_max: usize,
        /// Records of a log after which a snapshot of its partition is taken
        snapshot_after_records: u64,
        /// Bytes of a log after which a snapshot of its partition is taken
        snapshot_after_bytes: u64,
        /// How far the store of actors' states may go back and is healed from the log, ms
        trim_delay_ms: u64,
        /// How long peers are waited for before an inbox is taken, ms
        inbox_after_ms: u64,
        /// Entries of an inbox after which what was taken over is trimmed
        inbox_trim_entries: u64,
        /// Bytes of an inbox after which what was taken over is trimmed
        inbox_trim_bytes: usize,
        /// Reminders of one actor
        reminders_per_actor_max: usize,
        /// Reminders of one partition
        reminders_per_partition_max: usize,
        /// Reminders of one partition, bytes
        reminders_bytes_per_partition_max: usize,
        /// Due times that one record fires
        reminder_firings_per_record_max: usize,
        /// A due time that passed longer ago counts as missed, ms
        reminder_lateness_ms: u64,
    }
}

bound_flags! {
    /// Bounds of the connections.
    BoundArgs for Bounds, "Bounds (connections)", {
        /// Frames waiting to be written to one component stream
        session_queue_frames_max: usize,
        /// Bytes waiting to be written to one component stream
        session_queue_bytes_max: usize,
        /// Frames waiting to be written to one peer
        peer_queue_frames_max: usize,
        /// Bytes waiting to be written to one peer
        peer_queue_bytes_max: usize,
        /// Frames in one stream message
        frames_per_message_max: usize,
        /// Requests that may be under way on one component stream; 2 at least for a host whose turns call what it hosts
        request_credits: u32,
        /// Requests of the component under way, on all streams and connections
        requests_max: usize,
        /// Component streams open at once
        sessions_max: usize,
        /// Clients that follow the topology at once
        topology_watchers_max: usize,
        /// Events published at once
        publish_batch_events_max: usize,
        /// Consumers' streams open at once
        consume_streams_max: usize,
        /// Events given to a consumer that it has not acknowledged
        consume_unacknowledged_max: usize,
        /// Events read ahead for one consumer from one partition, bytes
        consume_fetch_bytes: u32,
        /// Longest message that the transport takes, bytes
        transport_message_bytes_max: usize,
        /// How long a component may take to say hello on a stream that it opened, ms
        hello_timeout_ms: u64,
        /// How long the start waits for the hub, ms
        start_timeout_ms: u64,
        /// How long requests to the store wait for a hub that is away, ms
        backend_timeout_ms: u64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_given_changes() {
        let mut limits = Limits::default();
        let args = LimitArgs { depth_max: Some(3), ..LimitArgs::default() };
        args.apply(&mut limits);
        assert_eq!(limits, Limits { depth_max: 3, ..Limits::default() });
    }
}
