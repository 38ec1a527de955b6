//! Which requests have appended which events, so that one that is repeated appends nothing.
//!
//! Times here are those of a clock that only this hub has, at the pace of its clients' own: how long ago a client has
//! sent something is compared with how long something is remembered. A wall clock that is set, or a machine that
//! sleeps, would make the one longer than the other, and a request that comes again would append a second event.

use std::collections::{HashMap, VecDeque};

use crate::topic::RequestKey;

/// Events of a partition that are remembered by their requests …
pub(super) const EVENTS_MAX: usize = 50_000;
/// … as long as they take no more than so many bytes together (they are read when a hub starts) …
pub(super) const BYTES_MAX: u64 = 64 << 20;
/// … and all partitions together remember no more than so many, some 60 MB: the one that has most forgets first …
pub(super) const ALL_EVENTS_MAX: usize = 500_000;
/// … and were appended, or read back, no longer ago than this, milliseconds.
pub(super) const AGE_MAX_MS: u64 = 120_000;

/// The newest events of a partition by their requests.
#[derive(Default)]
pub(super) struct Requests {
    offsets: HashMap<RequestKey, u64>,
    /// Oldest first.
    order: VecDeque<Remembered>,
    bytes: u64,
    /// Of what was appended up to this time not everything is remembered; `None`: everything is.
    forgotten_ms: Option<u64>,
}

struct Remembered {
    request: RequestKey,
    offset: u64,
    /// When it was appended, or read back: it may have been appended earlier, and not later.
    at_ms: u64,
    bytes: u64,
}

// === impl Requests ===

impl Requests {
    /// Nothing is known of what was appended up to this time.
    pub(super) fn since(forgotten_ms: u64) -> Self {
        Self { forgotten_ms: Some(forgotten_ms), ..Self::default() }
    }

    /// Where the event of a request is, if that is remembered.
    pub(super) fn offset(&self, request: RequestKey) -> Option<u64> {
        self.offsets.get(&request).copied()
    }

    /// Whether everything that was appended since a time is remembered.
    pub(super) fn reaches_back_to(&self, time_ms: u64) -> bool {
        self.forgotten_ms.is_none_or(|forgotten| time_ms > forgotten)
    }

    /// A request has appended an event of so many bytes, by this time.
    pub(super) fn remember(&mut self, request: RequestKey, offset: u64, at_ms: u64, bytes: u64) {
        self.offsets.insert(request, offset);
        self.order.push_back(Remembered { request, offset, at_ms, bytes });
        self.bytes += bytes;
        while self.order.len() > EVENTS_MAX || (self.bytes > BYTES_MAX && self.order.len() > 1) {
            self.forget_oldest();
        }
    }

    /// Forgets what is too old.
    pub(super) fn age(&mut self, now_ms: u64) {
        let oldest = now_ms.saturating_sub(AGE_MAX_MS);
        while self.order.front().is_some_and(|event| event.at_ms < oldest) {
            self.forget_oldest();
        }
        if self.order.is_empty() && self.offsets.capacity() > 0 {
            self.offsets = HashMap::new();
            self.order = VecDeque::new();
        }
    }

    /// How many events are remembered.
    pub(super) fn len(&self) -> usize {
        self.order.len()
    }

    /// Forgets so many, the oldest first.
    pub(super) fn forget(&mut self, count: usize) {
        (0..count).for_each(|_| self.forget_oldest());
        self.order.shrink_to(2 * self.order.len());
        self.offsets.shrink_to(2 * self.order.len());
    }

    fn forget_oldest(&mut self) {
        let Some(event) = self.order.pop_front() else { return };
        self.bytes -= event.bytes;
        self.forgotten_ms = Some(event.at_ms);
        // The same request may have appended another event when this one was forgotten already.
        if self.offsets.get(&event.request) == Some(&event.offset) {
            self.offsets.remove(&event.request);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_requests_are_remembered_by_number_bytes_and_age() {
        let mut requests = Requests::default();
        for n in 0..EVENTS_MAX as u64 + 10 {
            requests.remember(n.into(), n + 1, 1_000 + n, 1);
        }
        assert_eq!(requests.offset(9), None);
        assert_eq!(requests.offset(10), Some(11));
        assert!(!requests.reaches_back_to(1_009) && requests.reaches_back_to(1_010));
        requests.age(1_020 + AGE_MAX_MS);
        assert_eq!((requests.offset(19), requests.offset(20)), (None, Some(21)));
        requests.age(10_000_000);
        assert_eq!(requests.offset(50_000), None);
        let mut requests = Requests::default();
        for n in 0..5 {
            requests.remember(n, n as u64, n as u64, BYTES_MAX / 4);
        }
        assert_eq!((requests.offset(0), requests.offset(1)), (None, Some(1)));
    }

    #[test]
    fn a_request_that_was_forgotten_and_came_again_is_remembered_by_its_newer_event() {
        let mut requests = Requests::since(7);
        assert!(!requests.reaches_back_to(7) && requests.reaches_back_to(8));
        requests.remember(1, 10, 100, 1);
        requests.remember(1, 20, AGE_MAX_MS, 1);
        requests.age(AGE_MAX_MS + 101);
        assert_eq!(requests.offset(1), Some(20));
    }
}
