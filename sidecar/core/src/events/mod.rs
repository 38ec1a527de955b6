//! Events: what a CloudEvent is ([`cloud_event`]), which ones are wanted ([`filter`]), where they go
//! ([`partition_of`]), how they get there ([`Publication`]), what is delivered ([`EventOrigin`]), and how far a
//! consumer has come ([`consumer`]). All of it is pure, as everything here.

pub mod cloud_event;
pub mod consumer;
pub mod filter;
pub mod origin;

mod place;
mod publishing;
mod ranges;
mod uri;

pub use cloud_event::{CloudEvent, Draft, EventError, EventTime};
pub use consumer::{Consumer, ConsumerLimits, ConsumerPosition};
pub use filter::{Filter, FilterError};
pub use origin::{DEAD_LETTER_BYTES_MAX, EventOrigin, dead_letter};
pub use place::{EventPosition, PositionError, partition_of};
pub use publishing::{Publication, PublishResult};
