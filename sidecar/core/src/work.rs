//! Counts, in this crate's tests only, what is looked at one by one: what happens often must not look at all that there
//! is. (Times would tell it, too, but not on a busy machine.)

/// Something is looked at.
#[cfg(not(test))]
pub(crate) const fn look() {}

#[cfg(test)]
pub(crate) use counted::{look, looks};

#[cfg(test)]
mod counted {
    use std::cell::Cell;

    std::thread_local! {
        static LOOKS: Cell<usize> = const { Cell::new(0) };
    }

    /// Something is looked at.
    pub(crate) fn look() {
        LOOKS.set(LOOKS.get() + 1);
    }

    /// How often something was, by this thread.
    pub(crate) fn looks() -> usize {
        LOOKS.get()
    }
}
