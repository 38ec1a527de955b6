//! Numbers for what is under way, used again when it is done.

/// Values by small numbers.
pub(super) struct Slab<T> {
    entries: Vec<Option<T>>,
    free: Vec<usize>,
}

impl<T> Slab<T> {
    pub(super) fn new() -> Self {
        Self { entries: Vec::new(), free: Vec::new() }
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.entries.len() - self.free.len()
    }

    /// Those that there are.
    pub(super) fn iter(&self) -> impl Iterator<Item = &T> {
        self.entries.iter().flatten()
    }

    /// One that is kept.
    pub(super) fn get(&self, number: u64) -> Option<&T> {
        self.entries.get(usize::try_from(number).ok()?)?.as_ref()
    }

    /// Keeps a value; returns its number, unique among those kept.
    pub(super) fn insert(&mut self, value: T) -> u64 {
        let slot = if let Some(slot) = self.free.pop() {
            self.entries[slot] = Some(value);
            slot
        } else {
            self.entries.push(Some(value));
            self.entries.len() - 1
        };
        slot as u64
    }

    /// Takes a value out.
    pub(super) fn remove(&mut self, number: u64) -> Option<T> {
        let slot = usize::try_from(number).ok()?;
        let value = self.entries.get_mut(slot)?.take()?;
        self.free.push(slot);
        Some(value)
    }

    /// Takes all values out, in the order of their numbers.
    pub(super) fn drain(&mut self) -> impl Iterator<Item = T> + '_ {
        self.free.clear();
        self.entries.drain(..).flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_unique_while_in_use() {
        let mut slab = Slab::new();
        let (a, b) = (slab.insert('a'), slab.insert('b'));
        assert_ne!(a, b);
        assert_eq!(slab.remove(a), Some('a'));
        assert_eq!((slab.remove(a), slab.remove(99)), (None, None));
        assert_eq!(slab.insert('c'), a);
        assert_eq!(slab.len(), 2);
        assert_eq!(slab.drain().collect::<String>(), "cb");
        assert_eq!(slab.len(), 0);
    }
}
