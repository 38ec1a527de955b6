//! Waiting for a condition, with a bound.

use std::time::{Duration, Instant};

/// Longest pause between two looks.
const PAUSE_MAX: Duration = Duration::from_millis(40);

/// Looks until `probe` yields something.
///
/// # Panics
///
/// If it does not within `limit`; the message says `what` was waited for.
pub async fn until<T>(what: &str, limit: Duration, mut probe: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + limit;
    let mut pause = Duration::from_millis(2);
    loop {
        if let Some(found) = probe().await {
            return found;
        }
        assert!(Instant::now() < deadline, "waited {limit:?} in vain for: {what}");
        // Right to sleep here: it is the pause between two looks at a condition, which has a bound.
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// Looks until `probe` holds.
///
/// # Panics
///
/// If it does not within `limit`.
pub async fn until_true(what: &str, limit: Duration, mut probe: impl AsyncFnMut() -> bool) {
    until(what, limit, async || probe().await.then_some(())).await;
}

/// Lets a moment of a fault pass: the time of the kill is what the test is about, so this waits for nothing.
pub async fn moment(length: Duration) {
    // Right to sleep here: the random instant of a kill, a tick, the length of a load are themselves what is
    // wanted; no test concludes anything from the time having passed.
    tokio::time::sleep(length).await;
}
