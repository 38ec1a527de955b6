//! The lock of one actor (P4, P7): who holds it, and who waits to be let in.
//!
//! ```text
//! free  --(an exclusive one enters)--> alone: the stack of one flow's turns, of which only the topmost runs
//! free  --(a shared one enters)--> in company: turns of shared methods, all of which run
//! alone | in company --(the last one leaves)--> free
//! ```
//!
//! Calls of a flow that holds the actor pass the queue: onto the stack one at a time, into the company if they are
//! shared, too. (An exclusive one would wait for its own flow: it is refused, see `queue`.) Everybody else is let in in
//! the order of arrival; a shared one does not overtake an exclusive one that waits.

use std::collections::VecDeque;

use crate::ids::Uuid;

/// Invocations that a lock which is used again has room for at most.
const KEPT_CAPACITY_MAX: usize = 32;

/// Who holds an actor, and who waits.
#[derive(Clone, Debug, Default)]
pub(super) struct Lock {
    /// The flow that holds it alone: turns stacked by re-entrancy, the topmost last.
    stack: Vec<Uuid>,
    /// Turns of shared methods that hold it together, in the order in which they were let in.
    company: Vec<Uuid>,
    /// Invocations of holding flows that wait to be let in.
    inner: VecDeque<Uuid>,
    /// Everybody else.
    queue: VecDeque<Uuid>,
}

impl Lock {
    /// Whether nobody holds it.
    pub(super) fn is_free(&self) -> bool {
        self.stack.is_empty() && self.company.is_empty()
    }

    /// The topmost turn of the flow that holds it alone.
    pub(super) fn top(&self) -> Option<Uuid> {
        self.stack.last().copied()
    }

    /// The turns of the flow that holds it alone, the topmost last.
    pub(super) fn stack(&self) -> &[Uuid] {
        &self.stack
    }

    /// Whether a turn waits below others that were let in.
    pub(super) fn is_covered(&self, uuid: Uuid) -> bool {
        self.top().is_some_and(|top| top != uuid) && self.stack.contains(&uuid)
    }

    /// Those that hold it together.
    pub(super) fn company(&self) -> &[Uuid] {
        &self.company
    }

    /// How many wait behind everybody that came before them.
    pub(super) fn queued(&self) -> usize {
        self.queue.len()
    }

    /// How many wait.
    pub(super) fn waiting(&self) -> usize {
        self.queue.len() + self.inner.len()
    }

    /// Whether it is held by this turn, among others perhaps.
    pub(super) fn holds(&self, uuid: Uuid) -> bool {
        self.stack.contains(&uuid) || self.company.contains(&uuid)
    }

    /// Who has to leave before one that waits, with these callers, can be let in; nothing if it is in.
    pub(super) fn holders_before(&self, uuid: Uuid, chain: &[Uuid]) -> Option<Vec<Uuid>> {
        if self.holds(uuid) {
            return None;
        }
        if self.inner.contains(&uuid) {
            // Only turns above its caller are in its way.
            let above = self.stack.iter().rposition(|holder| chain.contains(holder));
            return Some(self.stack[above.map_or(0, |at| at + 1)..].to_vec());
        }
        Some(self.stack.first().into_iter().chain(&self.company).copied().collect())
    }

    /// An invocation came, with the callers of its flow. Tells whether it waits in a flow that holds the actor.
    pub(super) fn enqueue(&mut self, uuid: Uuid, chain: &[Uuid]) -> bool {
        let bottom = self.stack.first().into_iter();
        let is_inner = bottom.chain(&self.company).any(|holder| chain.contains(holder));
        if is_inner {
            self.inner.push_back(uuid);
        } else {
            self.queue.push_back(uuid);
        }
        is_inner
    }

    /// Somebody is let in. What others hold alone is entered by re-entrancy only, and becomes part of their stack.
    pub(super) fn enter(&mut self, uuid: Uuid, is_shared: bool) {
        debug_assert!(is_shared || self.company.is_empty(), "an exclusive turn enters a company");
        if is_shared && self.stack.is_empty() {
            self.company.push(uuid);
        } else {
            self.stack.push(uuid);
        }
    }

    /// A turn holds it by the log. An exclusive one and shared ones are one flow's, which re-entered.
    pub(super) fn restore(&mut self, uuid: Uuid, is_shared: bool) {
        if !is_shared {
            self.stack.append(&mut self.company);
        }
        self.enter(uuid, is_shared);
    }

    /// The only holder turns out to be shared before it has started.
    pub(super) fn share(&mut self, uuid: Uuid) {
        if self.stack == [uuid] {
            self.stack.clear();
            self.company.push(uuid);
        }
    }

    /// A holder has ended.
    pub(super) fn leave(&mut self, uuid: Uuid) {
        self.stack.retain(|holder| *holder != uuid);
        self.company.retain(|holder| *holder != uuid);
    }

    /// A holder that has not started goes back to its place at the head of the queue.
    pub(super) fn put_back(&mut self, uuid: Uuid) {
        self.leave(uuid);
        self.queue.push_front(uuid);
    }

    /// The first of those that wait in a flow, and are wanted.
    pub(super) fn take_inner(&mut self, wanted: impl FnMut(&Uuid) -> bool) -> Option<Uuid> {
        let at = self.inner.iter().position(wanted)?;
        self.inner.remove(at)
    }

    /// Those that waited in a flow that holds nothing any more come before everybody else. Tells whether there are any.
    pub(super) fn requeue_inner(&mut self) -> bool {
        let any = !self.inner.is_empty();
        while let Some(uuid) = self.inner.pop_back() {
            self.queue.push_front(uuid);
        }
        any
    }

    /// Who is next; those that are gone by now are forgotten.
    pub(super) fn next(&mut self, is_here: impl Fn(&Uuid) -> bool) -> Option<Uuid> {
        while let Some(uuid) = self.queue.front() {
            if is_here(uuid) {
                return Some(*uuid);
            }
            self.queue.pop_front();
        }
        None
    }

    /// Who came last: only with the rule of the order switched off.
    pub(super) fn last(&self, is_here: impl Fn(&Uuid) -> bool) -> Option<Uuid> {
        self.queue.iter().rev().copied().find(is_here)
    }

    /// The first in the queue that is wanted leaves it.
    pub(super) fn take(&mut self, wanted: impl FnMut(&Uuid) -> bool) -> Option<Uuid> {
        let at = self.queue.iter().position(wanted)?;
        self.queue.remove(at)
    }

    /// Those in the queue that belong to who has just been let in wait in its flow. Tells whether there are any.
    pub(super) fn adopt(&mut self, belongs: impl Fn(&Uuid) -> bool) -> bool {
        let any = self.queue.iter().any(&belongs);
        if any {
            let (inner, queue): (VecDeque<_>, _) = self.queue.drain(..).partition(belongs);
            self.inner.extend(inner);
            self.queue = queue;
        }
        any
    }

    /// Makes it free, with nobody waiting. False: it has held so many that its memory is not worth keeping.
    pub(super) fn reset(&mut self) -> bool {
        let Self { stack, company, inner, queue } = self;
        stack.clear();
        company.clear();
        inner.clear();
        queue.clear();
        let capacity = stack.capacity() + company.capacity() + inner.capacity() + queue.capacity();
        capacity <= KEPT_CAPACITY_MAX
    }

    /// Forgets those that wait and are gone.
    pub(super) fn forget(&mut self, is_here: impl Fn(&Uuid) -> bool) {
        self.queue.retain(&is_here);
        self.inner.retain(is_here);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Uuid = Uuid(1);
    const B: Uuid = Uuid(2);
    const C: Uuid = Uuid(3);
    const D: Uuid = Uuid(4);

    fn any(_: &Uuid) -> bool {
        true
    }

    #[test]
    fn exclusive_turns_of_one_flow_stack() {
        let mut lock = Lock::default();
        lock.enter(A, false);
        lock.enqueue(B, &[A]);
        lock.enqueue(C, &[D]);
        assert_eq!((lock.waiting(), lock.queued()), (2, 1));
        assert_eq!(lock.take_inner(any), Some(B));
        // A shared method that re-enters what its flow holds alone is a turn of the stack like others.
        lock.enter(B, true);
        assert_eq!((lock.top(), lock.company()), (Some(B), &[] as &[Uuid]));
        assert!(lock.is_covered(A) && !lock.is_covered(B) && !lock.is_covered(C));
        lock.leave(B);
        lock.leave(A);
        assert!(lock.is_free());
        assert_eq!(lock.next(any), Some(C));
    }

    #[test]
    fn shared_turns_hold_it_together_and_cover_nobody() {
        let mut lock = Lock::default();
        lock.enter(A, true);
        lock.enter(B, true);
        assert_eq!((lock.top(), lock.company()), (None, &[A, B] as &[Uuid]));
        assert!(!lock.is_covered(A) && !lock.is_covered(B));
        // Calls of either flow wait in it, not in the queue.
        lock.enqueue(C, &[B]);
        lock.enqueue(D, &[]);
        assert_eq!((lock.waiting(), lock.queued()), (2, 1));
        lock.leave(A);
        assert!(!lock.is_free());
        lock.leave(B);
        assert!(lock.is_free());
        lock.requeue_inner();
        assert_eq!(lock.take(any), Some(C));
        assert_eq!(lock.take(any), Some(D));
    }

    #[test]
    fn who_has_not_started_goes_back_to_the_head() {
        let mut lock = Lock::default();
        for uuid in [A, B, C] {
            lock.enqueue(uuid, &[]);
        }
        for _ in 0..2 {
            let uuid = lock.take(any).expect("three wait");
            lock.enter(uuid, true);
        }
        for uuid in [B, A] {
            lock.put_back(uuid);
        }
        assert!(lock.is_free());
        let order: Vec<_> = std::iter::from_fn(|| lock.take(any)).collect();
        assert_eq!(order, [A, B, C]);
    }

    #[test]
    fn who_waits_is_told_from_who_holds() {
        let mut lock = Lock::default();
        lock.enter(A, false);
        lock.enter(B, true);
        lock.enqueue(C, &[A]);
        lock.enqueue(D, &[]);
        assert_eq!(lock.holders_before(A, &[]), None);
        assert_eq!(
            lock.holders_before(C, &[A]),
            Some(vec![B]),
            "a branch beside it, not its caller"
        );
        assert_eq!(lock.holders_before(D, &[]), Some(vec![A]));
        assert!(lock.holds(A) && lock.holds(B) && !lock.holds(C) && !lock.holds(D));
        let mut lock = Lock::default();
        lock.enter(A, true);
        lock.enter(B, true);
        lock.enqueue(C, &[]);
        assert_eq!(lock.holders_before(C, &[]), Some(vec![A, B]));
    }

    #[test]
    fn the_log_restores_a_company_or_one_flow() {
        let mut lock = Lock::default();
        lock.restore(A, true);
        lock.restore(B, true);
        assert_eq!(lock.company(), [A, B]);
        let mut lock = Lock::default();
        lock.restore(A, false);
        lock.restore(B, true);
        assert_eq!((lock.top(), lock.is_covered(A)), (Some(B), true));
        // Whatever the order: exclusive and shared together are one flow.
        let mut lock = Lock::default();
        lock.restore(A, true);
        lock.restore(B, false);
        assert_eq!((lock.top(), lock.is_covered(A)), (Some(B), true));
    }

    #[test]
    fn one_that_turns_out_to_be_shared_makes_room() {
        let mut lock = Lock::default();
        lock.enter(A, false);
        lock.share(A);
        assert_eq!((lock.top(), lock.company()), (None, &[A] as &[Uuid]));
        let mut lock = Lock::default();
        lock.enter(A, false);
        lock.enter(B, false);
        lock.share(B);
        assert_eq!(lock.top(), Some(B), "it is in a flow that holds the actor alone");
    }

    #[test]
    fn what_is_gone_is_skipped_and_what_belongs_is_adopted() {
        let mut lock = Lock::default();
        for uuid in [A, B, C, D] {
            lock.enqueue(uuid, &[]);
        }
        assert_eq!(lock.next(|uuid| *uuid != A), Some(B));
        assert_eq!(lock.queued(), 3);
        lock.adopt(|uuid| *uuid == C);
        assert_eq!((lock.queued(), lock.waiting()), (2, 3));
        lock.requeue_inner();
        assert_eq!(lock.take(any), Some(C));
        lock.forget(|uuid| *uuid == D);
        assert_eq!(lock.take(any), Some(D));
        assert_eq!(lock.waiting(), 0);
    }
}
