//! The KAR sidecar, the command line and their parts as a library, so that the binary, the demonstration and tests
//! share them.
//!
//! Arrows point one way: `grpc | peer | backend → driver → kar_core`. Nothing outside [`kar_core`] decides about
//! ownership, order or retry. Wire types stop at [`convert`].

pub mod application_state;
pub mod backend;
pub mod bus;
pub mod config;
pub mod convert;
pub mod driver;
pub mod events;
pub mod grpc;
pub mod net;
pub mod outbox;
pub mod peer;
pub mod sidecar;
pub mod topics;
