//! The event queue of the virtual clock: ordered by time, then by a tie-break from the seed.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::plan::Us;
use crate::rng::Rng;

/// A FIFO route: what is put on it later arrives later.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Lane(Us);

impl Lane {
    /// The time of arrival of something that would like to arrive at `wanted`.
    pub(crate) fn arrive(&mut self, wanted: Us) -> Us {
        self.0 = wanted.max(self.0 + 1);
        self.0
    }
}

/// What is due when. Payloads sit beside the heap, so that only small keys are moved.
#[derive(Clone, Debug)]
pub(crate) struct Queue<T> {
    heap: BinaryHeap<Reverse<(Us, u32, u64, u32)>>,
    slab: Vec<Option<T>>,
    free: Vec<u32>,
    count: u64,
}

impl<T> Queue<T> {
    pub(crate) fn new() -> Self {
        Self { heap: BinaryHeap::new(), slab: Vec::new(), free: Vec::new(), count: 0 }
    }

    /// Puts something in; the order of equal times is drawn.
    pub(crate) fn push(&mut self, rng: &mut Rng, at: Us, due: T) {
        let index = match self.free.pop() {
            Some(index) => index,
            None => {
                self.slab.push(None);
                (self.slab.len() - 1) as u32
            }
        };
        self.slab[index as usize] = Some(due);
        self.count += 1;
        self.heap.push(Reverse((at, rng.next() as u32, self.count, index)));
    }

    /// Takes the earliest out.
    pub(crate) fn pop(&mut self) -> Option<(Us, T)> {
        let Reverse((at, _, _, index)) = self.heap.pop()?;
        let due = self.slab[index as usize].take().expect("a key stands for one payload");
        self.free.push(index);
        Some((at, due))
    }

    /// When the earliest is due.
    pub(crate) fn next_at(&self) -> Option<Us> {
        self.heap.peek().map(|Reverse((at, ..))| *at)
    }
}
