//! Typed errors as a client sees them.

use tonic::{Code, Status};
use tonic_types::StatusExt as _;

/// The reason of `google.rpc.ErrorInfo` of domain `kar`; empty if the status has none.
pub fn reason(status: &Status) -> String {
    let info = status.get_details_error_info();
    info.filter(|info| info.domain == "kar").map(|info| info.reason).unwrap_or_default()
}

/// Whether a read found nobody who could answer: it changes nothing, and may be made again.
pub fn unanswered(status: &Status) -> bool {
    reason(status) == "BACKEND_UNAVAILABLE"
}

/// One entry of the error's metadata; empty if it is not there.
pub fn metadata(status: &Status, key: &str) -> String {
    let info = status.get_details_error_info();
    info.and_then(|mut info| info.metadata.remove(key)).unwrap_or_default()
}

/// Fails unless the result is an error with this code and this reason, and with a message for people.
///
/// # Panics
///
/// See above.
#[track_caller]
pub fn assert_error<T: std::fmt::Debug>(
    result: Result<T, Status>,
    code: Code,
    expected: &str,
) -> Status {
    let status = result.expect_err(&format!("expected {code:?} with reason {expected}"));
    assert_eq!((status.code(), reason(&status).as_str()), (code, expected), "{status:?}");
    assert!(!status.message().is_empty(), "no message for people: {status:?}");
    status
}
