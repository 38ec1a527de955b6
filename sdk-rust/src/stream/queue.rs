//! What waits to be sent, without what nobody waits for any more.

use std::collections::VecDeque;

use super::Outgoing;

/// Something that may have been given up while it waits.
pub(crate) trait Abandon {
    /// Nobody waits for it any more.
    fn is_abandoned(&self) -> bool;
}

/// First in, first out, but for what was given up.
pub(crate) struct Queue<T> {
    entries: VecDeque<T>,
    /// How many were given up since it was last cleared of them, at most.
    given_up: usize,
}

impl<T> Queue<T> {
    pub(crate) fn new() -> Self {
        Self { entries: VecDeque::new(), given_up: 0 }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub(crate) fn front(&self) -> Option<&T> {
        self.entries.front()
    }

    pub(crate) fn pop_front(&mut self) -> Option<T> {
        self.entries.pop_front()
    }

    pub(crate) fn push_back(&mut self, entry: T) {
        self.entries.push_back(entry);
    }

    pub(crate) fn clear(&mut self) {
        self.entries.clear();
    }
}

impl<T: Abandon> Queue<T> {
    /// Puts it before all others, unless it was given up.
    pub(crate) fn push_front(&mut self, entry: T) {
        if !entry.is_abandoned() {
            self.entries.push_front(entry);
        }
    }

    /// One more request was given up, maybe one of these. They are looked for once there may be as
    /// many as an eighth: that costs each of them little, and they do not gather while nothing can
    /// be sent. What stays keeps its order.
    pub(crate) fn given_up(&mut self) {
        self.given_up += 1;
        if self.given_up * 8 > self.entries.len() {
            self.given_up = 0;
            self.entries.retain(|entry| !entry.is_abandoned());
        }
    }
}

impl Abandon for Box<Outgoing> {
    fn is_abandoned(&self) -> bool {
        self.reply.is_abandoned()
    }
}
