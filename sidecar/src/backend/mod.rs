//! What is durable, behind small traits ([`Log`], [`Store`](crate::driver::outlets::Store),
//! [`Membership`](crate::driver::outlets::Membership), [`ApplicationState`]): adapters hold no decisions.
//!
//! [`Log`]: crate::driver::outlets::Log
//! [`ApplicationState`]: crate::application_state::ApplicationState

pub mod hub;
mod hub_inboxes;
mod hub_snapshots;
mod hub_state;

pub use hub_state::HubState;
