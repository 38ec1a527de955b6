//! Events: what a CloudEvent is ([`cloud_event`]), which ones are wanted ([`filter`]), where they go
//! ([`partition_of`]), and how far a consumer has come ([`consumer`]). All of it is pure, as everything here; nothing
//! of it is part of a partition's state yet.

pub mod cloud_event;
pub mod consumer;
pub mod filter;

mod place;
mod ranges;
mod uri;

pub use cloud_event::{CloudEvent, Draft, EventError, EventTime};
pub use consumer::{Consumer, ConsumerLimits, ConsumerPosition};
pub use filter::{Filter, FilterError};
pub use place::{EventPosition, PositionError, partition_of};
