//! A component of the demonstration: hosts the whole bank.

use kar_sdk::Host;
use kar_sdk::samples::bank::Parts;

use super::super::exit::{Failure, Outcome};

/// Hosts accounts, ledgers and tellers until it is asked to end.
pub(crate) async fn run() -> Outcome {
    Parts::Both
        .host(Host::builder())
        .serve()
        .await
        .map_err(|e| Failure::internal(format!("the component ended: {e}")))
}
