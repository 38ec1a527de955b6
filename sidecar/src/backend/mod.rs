//! What is durable, behind small traits ([`Log`], [`Store`](crate::driver::outlets::Store),
//! [`Membership`](crate::driver::outlets::Membership), [`ApplicationState`], [`Bus`]): adapters hold no decisions.
//!
//! [`Log`]: crate::driver::outlets::Log
//! [`ApplicationState`]: crate::application_state::ApplicationState
//! [`Bus`]: crate::bus::Bus

pub mod hub;
mod hub_bus;
mod hub_inboxes;
mod hub_snapshots;
mod hub_state;

pub use hub_bus::HubBus;
pub use hub_state::HubState;
