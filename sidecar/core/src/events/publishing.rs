//! Events on their way into a topic: what a turn asks for, and what a bus answers.
//!
//! They are obligations with numbers: the channel goes from a partition's log to a partition of a topic. Its sender
//! *learns the highest number that has landed, and sends what is above it, in order*: before the first event of a
//! reign, and whenever an answer is missing. With learning, everything that was sent before it comes to nothing
//! unless it has landed; a bus that keeps the highest number of each channel can tell late ones by it, too.

use bytes::Bytes;

use crate::ids::{Number, Offset, TopicPartition};

/// An event that is to be published.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Publication {
    /// Where to.
    pub to: TopicPartition,
    /// The event as topics keep it; the core does not look inside.
    pub event: Bytes,
}

/// What a bus says of a channel.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum PublishResult {
    /// Everything of the channel up to a number is in the topic for good, and nothing above it.
    Landed {
        /// The number; 0: nothing is.
        upto: Number,
        /// An offset of the topic's partition that everything above the number comes after.
        offset: Offset,
    },
    /// There is no topic with this id, nor will there ever be one. Only a bus that knows says so: what is owed to
    /// it is lost.
    Gone,
    /// Nobody could answer; what was sent may be in the topic or come into it until something is learned.
    Unavailable,
}
