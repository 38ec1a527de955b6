//! The KAR sidecar, the command line and their parts as a library, so that the binary, the demonstration and tests
//! share them.
//!
//! Arrows point one way: `grpc | peer | backend → driver → kar_core`. Nothing outside [`kar_core`] decides about
//! ownership, order or retry.

pub mod config;
pub mod sidecar;
