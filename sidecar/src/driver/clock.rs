//! The one clock of a sidecar.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use kar_core::ids::Millis;
use rustix::time::{ClockId, clock_gettime};

/// Milliseconds since the Unix epoch that never run back: the wall clock as it was at the start, carried on by a
/// monotonic clock that also counts while the machine sleeps. Steps of the wall clock are not followed.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    /// Wall clock minus monotonic clock, at the start.
    offset: Duration,
}

impl Clock {
    /// A clock that agrees with the wall clock now.
    pub fn new() -> Self {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { offset: wall.saturating_sub(monotonic()) }
    }

    /// The time.
    pub fn now(&self) -> Millis {
        (self.offset + monotonic()).as_millis() as Millis
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::new()
    }
}

fn monotonic() -> Duration {
    let time = clock_gettime(ClockId::Boottime);
    // Both parts are never negative for this clock.
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// CPU time that this thread has used.
pub(super) fn thread_cpu() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    // Both parts are never negative for this clock.
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}
