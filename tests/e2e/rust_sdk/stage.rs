//! Where methods of a test's own host say what they do, and wait until the test lets them go on.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use kar_tests::wait;
use kar_tests::world::READY_LIMIT;
use tokio::sync::watch;

/// Shared by a test and what it hosts.
#[derive(Clone, Default)]
pub(super) struct Stage(Arc<Inner>);

struct Inner {
    log: Mutex<Vec<String>>,
    open: watch::Sender<BTreeSet<String>>,
}

impl Default for Inner {
    fn default() -> Self {
        Self { log: Mutex::default(), open: watch::Sender::new(BTreeSet::new()) }
    }
}

impl Stage {
    /// Something happens.
    pub(super) fn note(&self, what: impl Into<String>) {
        self.0.log.lock().expect("nobody panics here").push(what.into());
    }

    /// What has happened, in order.
    pub(super) fn log(&self) -> Vec<String> {
        self.0.log.lock().expect("nobody panics here").clone()
    }

    /// How often something has happened.
    pub(super) fn count(&self, what: &str) -> usize {
        self.log().iter().filter(|noted| *noted == what).count()
    }

    /// Waits until something has happened so often.
    pub(super) async fn until(&self, what: &str, times: usize) {
        let text = format!("{what}, {times} times");
        wait::until_true(&text, READY_LIMIT, async || self.count(what) >= times).await;
    }

    /// Lets those go on who wait at a gate, and who come to it later.
    pub(super) fn open(&self, gate: &str) {
        self.0.open.send_modify(|open| {
            open.insert(gate.to_owned());
        });
    }

    /// Waits at a gate.
    pub(super) async fn pass(&self, gate: &str) {
        let mut open = self.0.open.subscribe();
        open.wait_for(|open| open.contains(gate)).await.expect("the sender is in here");
    }
}
