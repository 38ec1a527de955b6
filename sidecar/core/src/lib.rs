//! The pure core of KAR: ordering, ownership, retry and de-duplication. **No IO, no clock, no async, no hash-map
//! iteration, no environment**: time and randomness are arguments, so that a seed reproduces every decision.
//!
//! One [`Node`] is the whole decision-making of one sidecar. A driver (the sidecar, or the simulator) feeds it
//! [`Event`]s with [`Node::handle`], and then drains, in this order:
//!
//! 1. [`Node::poll_append`]: records to append to logs (durable effects), until `None`;
//! 2. [`Node::poll_effect`]: everything else (messages, turns, answers), until `None`; what has to wait for a commit
//!    (DESIGN rule L5, the gate) is held back inside and comes out after the event that reports the commit;
//! 3. [`Node::poll_timeout`]: when to call [`Node::handle`] with [`Event::Tick`] at the latest.
//!
//! A driver may handle several events (the frames of one message, say) before it drains: everything they propose for
//! one partition then travels in one record.
//!
//! Map of modules: [`ids`] names; [`invocation`] what is called and how it ended; [`record`] what is stored in a
//! partition's log; [`snapshot`] what stands for the records before a place in it; [`trouble`] how attempts end that
//! do not end it; [`reminder`] and [`schedule`] invocations at due times; [`subscription`] those that events make;
//! [`message`] what nodes tell each other, and
//! [`inbox`] where peers do not carry that; [`event`] and [`effect`] the driver's interface; [`assign`] which node
//! should own which partition; [`limits`] every bound; [`cover`] which transitions were taken.
//! The machines are private: the log state (what applying a log yields), the partition (reign, turns, channels in and
//! out), the node (routes, roots, sessions).

pub mod assign;
pub mod cover;
pub mod effect;
pub mod event;
pub mod events;
pub mod ids;
pub mod inbox;
pub mod invocation;
pub mod keys;
pub mod limits;
pub mod message;
pub mod node;
pub mod probe;
pub mod record;
pub mod reminder;
pub mod schedule;
pub mod select;
pub mod snapshot;
pub mod subscription;
pub mod trouble;

mod agenda;
mod by_name;
mod dead;
mod env;
mod inboxes;
mod partition;
mod roots;
mod route;
mod size;
mod state;
mod steps;
mod subscriptions;
mod timers;
mod window;
mod work;

pub use effect::Effect;
pub use event::Event;
pub use node::{Node, NodeConfig};

// The scripts of the integration tests, for those that count inside.
#[cfg(test)]
extern crate self as kar_core;
#[cfg(test)]
#[path = "../tests/script/mod.rs"]
mod script;
