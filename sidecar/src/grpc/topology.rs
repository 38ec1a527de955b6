//! `SystemService.WatchTopology`: the whole topology, again whenever it has changed.
//!
//! A watcher holds one topology, the last one told, and asks for the next one when its client takes it: so a slow
//! client costs no more than a quick one, and is told the newest. Each is computed once for all of them: there may be
//! many partitions, and the computing holds up everything else here.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::stream::{self, Stream};
use kar_core::assign::desired_owner;
use kar_core::ids::PartitionId;
use kar_core::limits::LimitHit;
use kar_proto::v1 as pb;
use tokio::sync::watch;
use tonic::Status;

use super::serve::closed;
use super::system::node_info;
use crate::config::Bounds;
use crate::convert::error::{limit_reached, status};
use crate::driver::Driver;

/// What comes within this time of a change is told with it: one node that joins is several changes.
const GATHER: Duration = Duration::from_millis(20);

/// Those who follow the topology of one sidecar.
#[derive(Clone, Debug)]
pub struct Watchers {
    open: Arc<AtomicUsize>,
    newest: Arc<Newest<pb::WatchTopologyResponse>>,
    closing: watch::Receiver<bool>,
}

/// The newest of something that has versions.
#[derive(Debug)]
struct Newest<T>(Mutex<Option<(u64, Arc<T>)>>);

/// Counts one watcher while it is there.
struct Open(Arc<AtomicUsize>);

/// One of them.
struct Watcher {
    driver: Arc<Driver>,
    changes: watch::Receiver<u64>,
    newest: Arc<Newest<pb::WatchTopologyResponse>>,
    closing: watch::Receiver<bool>,
    told: Option<Arc<pb::WatchTopologyResponse>>,
    ended: bool,
    _open: Open,
}

// === impl Watchers ===

impl Watchers {
    /// Nobody yet; all end when `closing` turns true.
    pub fn new(closing: watch::Receiver<bool>) -> Self {
        Self { open: Arc::default(), newest: Arc::default(), closing }
    }

    /// Follows the topology.
    ///
    /// # Errors
    ///
    /// If there are too many already.
    pub fn watch(
        &self,
        driver: Arc<Driver>,
        bounds: &Bounds,
    ) -> Result<impl Stream<Item = Result<pb::WatchTopologyResponse, Status>> + use<>, Status> {
        let limit = bounds.topology_watchers_max;
        let before = self.open.fetch_add(1, Ordering::Relaxed);
        let open = Open(self.open.clone());
        if before >= limit {
            let name = "topology_watchers_max";
            return Err(limit_reached(LimitHit { name, limit: limit as u64 }));
        }
        let watcher = Watcher {
            changes: driver.topology_changes(),
            driver,
            newest: self.newest.clone(),
            closing: self.closing.clone(),
            told: None,
            ended: false,
            _open: open,
        };
        Ok(stream::unfold(watcher, Watcher::next))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

// === impl Newest ===

impl<T> Default for Newest<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T> Newest<T> {
    /// That of a version: as it was made for it, or made now.
    fn of(&self, version: u64, make: impl FnOnce() -> T) -> Arc<T> {
        let mut newest = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((known, made)) = &*newest
            && *known == version
        {
            return made.clone();
        }
        let made = Arc::new(make());
        *newest = Some((version, made.clone()));
        made
    }
}

// === impl Watcher ===

impl Watcher {
    async fn next(mut self) -> Option<(Result<pb::WatchTopologyResponse, Status>, Self)> {
        if self.ended {
            return None;
        }
        loop {
            if self.told.is_some() && !self.changed().await {
                self.ended = true;
                let what = "the sidecar leaves: follow the topology through another one";
                return Some((Err(status(pb::ErrorReason::Draining, what, [])), self));
            }
            // What changes from here on is a later version, and told again if it is computed with this one.
            let version = *self.changes.borrow_and_update();
            let topology = self.newest.of(version, || topology(&self.driver));
            if self.told.as_ref() != Some(&topology) {
                self.told = Some(topology.clone());
                return Some((Ok(topology.as_ref().clone()), self));
            }
        }
    }

    /// Returns when something may have changed; false: the sidecar leaves.
    async fn changed(&mut self) -> bool {
        let (changes, closing) = (&mut self.changes, self.closing.clone());
        let change = async {
            let changed = changes.changed().await.is_ok();
            tokio::time::sleep(GATHER).await;
            changed
        };
        tokio::select! {
            changed = change => changed,
            () = closed(closing) => false,
        }
    }
}

/// The topology now.
fn topology(driver: &Driver) -> pb::WatchTopologyResponse {
    let (directory, members) = driver.topology();
    let owners = |(kind, count): (&kar_core::ids::Kind, &u32)| {
        let owner = |index| {
            let partition = PartitionId::new(kind.clone(), index);
            desired_owner(&members, &partition).map_or(0, |node| node.0)
        };
        pb::KindOwners { kind: kind.to_string(), owners: (0..*count).map(owner).collect() }
    };
    pb::WatchTopologyResponse {
        nodes: directory.values().map(node_info).collect(),
        kinds: members.kinds.iter().map(owners).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_many_want_is_made_once() {
        let (newest, mut made) = (Newest::default(), 0);
        for version in [1, 1, 1, 2, 2] {
            newest.of(version, || made += 1);
        }
        assert_eq!(made, 2);
    }
}
