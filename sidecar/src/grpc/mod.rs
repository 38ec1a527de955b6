//! The component's side: gRPC services on a Unix socket and on loopback. The stream ([`connect`]) and the unary RPCs
//! ([`unary`]) build the same operations and enter the core through [`api`].

pub mod api;
pub mod auth;
pub mod connect;
pub mod consume;
pub mod events;
pub mod hosted;
pub mod listing;
mod redrive;
pub mod requests;
pub mod serve;
pub mod session;
mod subscriptions;
pub mod system;
pub mod topology;
pub mod typed;
pub mod unary;
