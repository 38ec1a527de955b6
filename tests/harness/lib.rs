//! What the end-to-end tests stand on: the real binary in processes of its own, in a data directory of its own, spoken
//! to through real sockets, in the words of the contract itself (not through the SDK, so that a mistake in the SDK
//! cannot hide one in the sidecar).
//!
//! - [`World`] is one application in a temporary data directory. Everything that was started in it is killed, and its
//!   folder removed, when it is dropped; if the test failed, the ends of all logs are printed first, and if any process
//!   panicked, the test fails.
//! - [`Node`] is one `kar run`. [`World::kar`] runs other commands.
//! - [`Client`] has all unary services; [`Component`] is a component's stream.
//! - [`fire::Fire`] kills hosts at random, and starts them again; [`toll::Toll`] tells what kills hit.
//! - [`Journal`] is where `kar-test-app` writes what its code did.
//! - [`wait::until`] is the only way to wait.
//!
//! The rule of all tests here: never wait for time, always for a condition, always with a bound.

mod actors;
pub mod binaries;
pub mod component;
pub mod errors;
pub mod events;
pub mod fire;
pub mod grpc;
pub mod journal;
pub mod mount;
pub mod process;
pub mod python;
pub mod random;
pub mod reminders;
pub mod soak;
pub mod toll;
pub mod wait;
pub mod world;

use std::future::Future;
use std::time::Duration;

pub use component::{Component, Handle, Turn};
pub use grpc::Client;
pub use journal::Journal;
pub use random::Random;
pub use toll::Toll;
pub use world::{Node, NodeOptions, World};

/// Says that a test cannot run here, past the test runner's capture, so that `cargo xtask test` can count it.
pub fn skip(reason: &str) {
    use std::io::Write as _;
    // Nobody to tell is no reason to fail.
    let _ = writeln!(std::io::stderr(), "SKIPPED: {reason}");
}

/// Longest time that one test may take, unless it says otherwise.
pub const TEST_LIMIT: Duration = Duration::from_secs(120);

/// Runs a test on a runtime of its own, within [`TEST_LIMIT`].
pub fn test(body: impl Future<Output = ()>) {
    test_within(TEST_LIMIT, body);
}

/// Runs a test on a runtime of its own, within `limit`.
///
/// # Panics
///
/// If the test takes longer.
pub fn test_within(limit: Duration, body: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime can be made");
    runtime.block_on(async {
        if tokio::time::timeout(limit, body).await.is_err() {
            panic!("the test did not end within {limit:?}");
        }
    });
    // Blocking tasks that are stuck must not keep a failed test alive.
    runtime.shutdown_timeout(Duration::from_secs(1));
}
