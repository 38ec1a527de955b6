//! The KAR sidecar, the command line and their parts as a library, so that the binary, the demonstration and tests
//! share them.
//!
//! Arrows point one way: `grpc | peer | backend → driver → kar_core`. Nothing outside [`kar_core`] decides about
//! ownership, order or retry. Wire types stop at [`convert`].

/// A call costs some forty small allocations in each process that it passes; this allocator makes them several times
/// cheaper than the system's.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

pub mod backend;
pub mod config;
pub mod convert;
pub mod driver;
pub mod grpc;
pub mod net;
pub mod outbox;
pub mod peer;
pub mod sidecar;
