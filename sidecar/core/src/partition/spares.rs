//! Busy actors come and go with every call: what one took from the allocator is kept for the next one.

use std::fmt;

use super::reign::Actor;

/// Idle actors' memory that is kept; what is beyond goes back to the allocator.
const SPARES_MAX: usize = 64;

/// Actors without holders and queue, whose memory is used again.
#[derive(Default)]
// Boxed where they are used: unpacking them would give back the memory that is to be kept.
#[expect(clippy::vec_box)]
pub(super) struct Spares(Vec<Box<Actor>>);

impl Spares {
    /// An actor that has nothing to do yet.
    pub(super) fn take(&mut self) -> Box<Actor> {
        self.0.pop().unwrap_or_default()
    }

    /// An actor has nothing to do any more.
    pub(super) fn put(&mut self, mut actor: Box<Actor>) {
        let is_kept = actor.lock.reset();
        (actor.ahead, actor.decided) = (0, 0);
        if is_kept && self.0.len() < SPARES_MAX {
            self.0.push(actor);
        }
    }
}

impl Clone for Spares {
    /// They are worth nothing to a copy.
    fn clone(&self) -> Self {
        Self::default()
    }
}

impl fmt::Debug for Spares {
    /// Without them: worlds that differ in spare memory only are the same to whoever compares them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Spares")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Uuid;

    #[test]
    fn an_actor_that_is_used_again_is_like_a_new_one() {
        let mut spares = Spares::default();
        let mut actor = spares.take();
        assert!(!actor.lock.enqueue(Uuid(1), &[]));
        actor.lock.enter(Uuid(2), false);
        actor.lock.enqueue(Uuid(3), &[Uuid(2)]);
        (actor.ahead, actor.decided) = (2, 9);
        spares.put(actor);
        assert_eq!(format!("{:?}", spares.take()), format!("{:?}", Actor::default()));
    }

    #[test]
    fn what_has_held_many_is_not_kept_nor_too_many() {
        let mut spares = Spares::default();
        let mut busy = spares.take();
        for uuid in 0..10_000 {
            busy.lock.enqueue(Uuid(uuid), &[]);
        }
        spares.put(busy);
        assert!(spares.0.is_empty());
        for _ in 0..2 * SPARES_MAX {
            spares.put(Box::default());
        }
        assert_eq!(spares.0.len(), SPARES_MAX);
    }
}
