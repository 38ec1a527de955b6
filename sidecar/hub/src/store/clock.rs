//! The store's time.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, clock_gettime};

/// Tells the time somehow, in milliseconds since the Unix epoch.
pub(crate) type Source = Box<dyn Fn() -> u64 + Send>;

/// Milliseconds since the Unix epoch that never run back: not while the hub runs, and not when another one takes over
/// after the system's clock was set back, for what the former told of it is stored.
pub(super) struct Clock {
    source: Source,
    /// How far it is ahead of its source.
    ahead: u64,
}

// === impl Clock ===

impl Clock {
    /// A clock that goes on from a time that was told before, or is at its source's if that is later.
    pub(super) fn new(source: Source, told: u64) -> Self {
        let ahead = told.saturating_sub(source());
        Self { source, ahead }
    }

    pub(super) fn now(&self) -> u64 {
        (self.source)().saturating_add(self.ahead)
    }
}

/// The wall clock as it is now, carried on by a clock that also counts while the machine sleeps. Steps of the wall
/// clock are not followed.
pub(crate) fn system() -> Source {
    let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let offset = wall.saturating_sub(since_boot());
    Box::new(move || (offset + since_boot()).as_millis() as u64)
}

fn since_boot() -> Duration {
    let time = clock_gettime(ClockId::Boottime);
    // Both parts are never negative for this clock.
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}
