//! The task that keeps time for the core.

use std::sync::Arc;
use std::time::Duration;

use kar_core::{Event, Node};

use super::{Driver, HEARTBEAT_MS};

/// Wakes the core whenever it wants to be woken; runs until it is dropped.
pub async fn run(driver: Arc<Driver>) {
    loop {
        let sleep = driver.arm();
        tokio::select! {
            () = tokio::time::sleep(sleep) => {}
            () = driver.sooner.notified() => {}
        }
        driver.tick();
    }
}

impl Driver {
    /// Sets when the timer wakes next, and says how long that is.
    fn arm(&self) -> Duration {
        let mut state = self.lock();
        let now = state.clock.now();
        let due = state.node.as_ref().and_then(Node::poll_timeout).unwrap_or(now + HEARTBEAT_MS);
        state.armed = due.min(now + HEARTBEAT_MS);
        Duration::from_millis(state.armed.saturating_sub(now))
    }

    /// Tells the core the time if it asked for that.
    fn tick(&self) {
        // The batch looks at the old heartbeat first: that is how an absence is noticed.
        let mut batch = self.batch();
        batch.state.heartbeat = batch.now;
        let due = batch.state.node.as_ref().and_then(Node::poll_timeout);
        if due.is_some_and(|due| due <= batch.now) {
            batch.event(Event::Tick);
        }
    }
}
