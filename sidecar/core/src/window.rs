//! How much of a channel is under way at once: a window of requests and bytes, so that what has to be sent again
//! after a connection broke does not all go at once.
//!
//! Known numbers of a channel form a prefix, so any sign that the receiver has number n (an outcome, an acceptance, an
//! answer to a statement) is a sign that it has all below n. Where such signs do not come by themselves (calls that
//! take
//! long), a request asks for one. The window moves with what has *arrived*, never with what has ended: calls that take
//! long hold up nobody (rule C7).

use std::collections::VecDeque;

use crate::ids::Number;
use crate::limits::Limits;

/// What was sent on the way that is open.
#[derive(Clone, Debug, Default)]
pub(crate) struct Window {
    /// Every open number below this was sent, or is known to the receiver.
    cursor: Number,
    /// Sent, and not known to have arrived: number and bytes.
    under_way: VecDeque<(Number, usize)>,
    bytes: usize,
    /// The request that asked what has arrived, while it is not answered.
    asked: Option<Number>,
}

impl Window {
    /// A new way: the receiver knows everything below `next`.
    pub(crate) fn restart(&mut self, next: Number) {
        *self = Self { cursor: next, ..Self::default() };
    }

    /// The first number that was not sent.
    pub(crate) fn cursor(&self) -> Number {
        self.cursor
    }

    /// The receiver has everything below `next`.
    pub(crate) fn arrived(&mut self, next: Number) {
        while let Some((number, bytes)) = self.under_way.front().copied()
            && number < next
        {
            self.under_way.pop_front();
            self.bytes -= bytes;
        }
        self.asked = self.asked.filter(|number| *number >= next);
    }

    /// Takes the next number to send; `None`: it has to wait. Otherwise whether it asks what has arrived: once half of
    /// the window is used, so that the answer comes before all of it is. One request more than fits may go if nothing
    /// was asked: it asks.
    pub(crate) fn take(&mut self, limits: &Limits, number: Number, bytes: usize) -> Option<bool> {
        let (requests_max, bytes_max) = (limits.window_requests_max, limits.window_bytes_max);
        let count = self.under_way.len() + 1;
        let is_full = count > requests_max || self.bytes + bytes > bytes_max;
        if is_full && count > 1 && self.asked.is_some() {
            return None;
        }
        self.cursor = number + 1;
        self.under_way.push_back((number, bytes));
        self.bytes += bytes;
        let is_half = 2 * count >= requests_max || 2 * self.bytes >= bytes_max;
        let asks = is_half && self.asked.is_none();
        if asks {
            self.asked = Some(number);
        }
        Some(asks)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(requests: usize, bytes: usize) -> Limits {
        Limits { window_requests_max: requests, window_bytes_max: bytes, ..Limits::default() }
    }

    #[test]
    fn it_asks_at_half_and_stops_when_it_is_full() {
        let limits = limits(4, 1_000);
        let mut window = Window::default();
        window.restart(1);
        let taken: Vec<_> = (1..=5).map(|n| window.take(&limits, n, 1)).collect();
        assert_eq!(taken, [Some(false), Some(true), Some(false), Some(false), None]);
        assert_eq!(window.cursor(), 5);
        window.arrived(3);
        assert_eq!(window.take(&limits, 5, 1), Some(true));
        assert_eq!(window.take(&limits, 6, 1), Some(false));
        assert_eq!(window.take(&limits, 7, 1), None);
        // An outcome of the last one is as good as an answer.
        window.arrived(7);
        assert_eq!(window.take(&limits, 7, 1), Some(false));
    }

    #[test]
    fn what_is_longer_than_the_window_goes_alone() {
        let limits = limits(100, 10);
        let mut window = Window::default();
        window.restart(1);
        assert_eq!(window.take(&limits, 1, 50), Some(true));
        assert_eq!(window.take(&limits, 2, 50), None);
        window.arrived(2);
        assert_eq!(window.take(&limits, 2, 50), Some(true));
    }

    #[test]
    fn it_never_stands_still_without_having_asked() {
        let limits = limits(100, 10);
        let mut window = Window::default();
        window.restart(1);
        assert_eq!(window.take(&limits, 1, 5), Some(true));
        assert_eq!(window.take(&limits, 2, 5), Some(false));
        window.arrived(2);
        // It does not fit beside the second one, which nobody asked about: so it goes, and asks.
        assert_eq!(window.take(&limits, 3, 6), Some(true));
        assert_eq!(window.take(&limits, 4, 1), None);
    }
}
