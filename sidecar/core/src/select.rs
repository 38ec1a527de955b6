//! What of an actor's state is read, and what the answer to that is. The core knows keys and their byte order only; a
//! sub-map of the public API is a range of them (P5: reads in a turn see its own writes).

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use crate::invocation::{Payload, StateOp};
use crate::size::entry_size;

/// Keys of an actor with their values.
pub type Entries = BTreeMap<Arc<str>, Payload>;

/// Keys in byte order, from one on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KeyRange {
    /// The first one, if it exists.
    pub from: Arc<str>,
    /// The first one that is not meant any more; absent: all that follow are meant.
    pub to: Option<Arc<str>>,
}

impl KeyRange {
    /// Every key.
    pub fn all() -> Self {
        Self { from: "".into(), to: None }
    }

    /// Whether a key is meant.
    pub fn contains(&self, key: &str) -> bool {
        *self.from <= *key && self.to.as_ref().is_none_or(|to| *key < **to)
    }

    /// The entries in it, in order of their keys.
    pub fn of<'a>(&self, entries: &'a Entries) -> impl Iterator<Item = Entry<'a>> + use<'a> {
        let from = Bound::Included(&*self.from);
        let to = self.to.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        // A map refuses to be asked for a range that ends before it begins.
        let is_empty = self.to.as_ref().is_some_and(|to| *to <= self.from);
        let found = (!is_empty).then(|| entries.range::<str, _>((from, to)));
        found.into_iter().flatten()
    }
}

/// A key with its value.
type Entry<'a> = (&'a Arc<str>, &'a Payload);

/// What is to be read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Select {
    /// These keys.
    Keys(Vec<Arc<str>>),
    /// All keys of a range.
    Range(KeyRange),
    /// The first keys of a range.
    Page {
        /// The range.
        range: KeyRange,
        /// At most so many.
        entries: usize,
        /// They end before they have more than so many bytes, with their overhead, but for the first one.
        bytes: usize,
    },
    /// How many keys a range has.
    Count(KeyRange),
}

/// What was read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Selected {
    /// Those of the keys asked for that exist.
    Entries(Entries),
    /// The first keys of a range.
    Page {
        /// They with their values.
        entries: Entries,
        /// There are more.
        more: bool,
    },
    /// How many keys there are.
    Count(u64),
}

impl Selected {
    /// The entries, if there are any in answers of its form.
    pub fn entries(&self) -> Option<&Entries> {
        match self {
            Self::Entries(entries) | Self::Page { entries, .. } => Some(entries),
            Self::Count(_) => None,
        }
    }
}

impl Select {
    /// Every key.
    pub fn all() -> Self {
        Self::Range(KeyRange::all())
    }

    /// The answer about a state that has no keys.
    pub(crate) fn of_nothing(&self) -> Selected {
        View::of(&Entries::new()).read(self)
    }

    /// Whether an answer has the form that was asked for.
    pub(crate) fn fits(&self, answer: &Selected) -> bool {
        match (self, answer) {
            (Self::Keys(_) | Self::Range(_), Selected::Entries(_))
            | (Self::Page { .. }, Selected::Page { .. })
            | (Self::Count(_), Selected::Count(_)) => true,
            (Self::Keys(_) | Self::Range(_) | Self::Page { .. } | Self::Count(_), _) => false,
        }
    }
}

/// A state as somebody sees it: what was decided, with what is buffered on top of that.
#[derive(Clone, Copy, Debug)]
pub(crate) struct View<'a> {
    /// What was decided.
    pub(crate) decided: &'a Entries,
    /// What is buffered, in order; in two parts.
    pub(crate) buffered: [&'a [StateOp]; 2],
}

impl<'a> View<'a> {
    /// What was decided alone.
    pub(crate) fn of(decided: &'a Entries) -> Self {
        Self { decided, buffered: [&[], &[]] }
    }

    /// What is selected.
    pub(crate) fn read(self, select: &Select) -> Selected {
        match select {
            Select::Keys(keys) => {
                let found = keys.iter().filter_map(|key| self.entry(key)).map(owned);
                Selected::Entries(found.collect())
            }
            Select::Range(range) => Selected::Entries(self.range(range).map(owned).collect()),
            Select::Page { range, entries, bytes } => self.page(range, *entries, *bytes),
            Select::Count(range) => Selected::Count(self.range(range).count() as u64),
        }
    }

    /// The value of a key.
    pub(crate) fn get(self, key: &Arc<str>) -> Option<&'a Payload> {
        self.entry(key).map(|(_, value)| value)
    }

    fn entry(self, key: &Arc<str>) -> Option<Entry<'a>> {
        let [first, second] = self.buffered;
        // The last one that touches it decides.
        for op in second.iter().rev().chain(first.iter().rev()) {
            match op {
                StateOp::Set { key: of, value } if of == key => return Some((of, value)),
                StateOp::Remove { key: of } if of == key => return None,
                StateOp::RemoveRange(range) if range.contains(key) => return None,
                StateOp::Clear => return None,
                StateOp::Set { .. } | StateOp::Remove { .. } | StateOp::RemoveRange(_) => {}
            }
        }
        self.decided.get_key_value(key)
    }

    fn page(self, range: &KeyRange, max: usize, bytes_max: usize) -> Selected {
        let (mut entries, mut bytes) = (Entries::new(), 0);
        for (key, value) in self.range(range) {
            bytes += entry_size(key, value);
            if entries.len() == max || (bytes > bytes_max && !entries.is_empty()) {
                return Selected::Page { entries, more: true };
            }
            entries.insert(key.clone(), value.clone());
        }
        Selected::Page { entries, more: false }
    }

    /// The entries of a range, in order of their keys.
    fn range(self, range: &KeyRange) -> impl Iterator<Item = Entry<'a>> + use<'a> {
        let mut touched: BTreeMap<&Arc<str>, Option<&Payload>> = BTreeMap::new();
        let (mut removed, mut cleared): (Vec<&KeyRange>, _) = (Vec::new(), false);
        for op in self.buffered.into_iter().flatten() {
            match op {
                StateOp::Set { key, value } if range.contains(key) => {
                    touched.insert(key, Some(value));
                }
                StateOp::Remove { key } if range.contains(key) => {
                    touched.insert(key, None);
                }
                StateOp::Set { .. } | StateOp::Remove { .. } => {}
                StateOp::RemoveRange(gone) => {
                    touched.retain(|key, _| !gone.contains(key));
                    removed.push(gone);
                }
                StateOp::Clear => {
                    touched.clear();
                    cleared = true;
                }
            }
        }
        let is_left =
            move |(key, _): &Entry<'_>| !cleared && !removed.iter().any(|r| r.contains(key));
        let mut decided = range.of(self.decided).filter(is_left).peekable();
        let mut touched = touched.into_iter().peekable();
        std::iter::from_fn(move || {
            loop {
                let Some((key, _)) = touched.peek() else { return decided.next() };
                if decided.peek().is_some_and(|(decided, _)| decided < key) {
                    return decided.next();
                }
                let (key, value) = touched.next()?;
                decided.next_if(|(decided, _)| *decided == key);
                if let Some(value) = value {
                    return Some((key, value));
                }
            }
        })
    }
}

fn owned((key, value): Entry<'_>) -> (Arc<str>, Payload) {
    (key.clone(), value.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(key: &str, value: &'static str) -> StateOp {
        StateOp::Set { key: key.into(), value: payload(value) }
    }

    fn payload(text: &'static str) -> Payload {
        Payload { data: text.as_bytes().into(), content_type: "".into() }
    }

    fn range(from: &str, to: &str) -> KeyRange {
        KeyRange { from: from.into(), to: Some(to.into()) }
    }

    fn entries(all: &[(&str, &'static str)]) -> Entries {
        all.iter().map(|(key, value)| ((*key).into(), payload(value))).collect()
    }

    /// What reading must find: the operations carried out one after the other.
    fn carried_out(decided: &Entries, ops: &[StateOp]) -> Entries {
        let mut state = decided.clone();
        for op in ops {
            match op {
                StateOp::Set { key, value } => {
                    state.insert(key.clone(), value.clone());
                }
                StateOp::Remove { key } => {
                    state.remove(key);
                }
                StateOp::RemoveRange(range) => state.retain(|key, _| !range.contains(key)),
                StateOp::Clear => state.clear(),
            }
        }
        state
    }

    #[test]
    fn a_view_shows_what_its_operations_make_of_what_was_decided() {
        let decided = entries(&[("a", "1"), ("b", "2"), ("c", "3"), ("d", "4")]);
        let remove = |key: &str| StateOp::Remove { key: key.into() };
        let removal = |from, to| StateOp::RemoveRange(range(from, to));
        let steps: Vec<Vec<StateOp>> = vec![
            vec![],
            vec![set("b", "x"), set("bb", "y"), remove("c")],
            vec![remove("a"), set("a", "z"), remove("x")],
            vec![removal("b", "d"), set("c", "new")],
            vec![set("c", "new"), removal("b", "d"), set("e", "5")],
            vec![StateOp::Clear, set("c", "6")],
            vec![set("c", "6"), StateOp::Clear],
            vec![removal("c", "b"), removal("b", "b")],
        ];
        let ranges = [KeyRange::all(), range("b", "d"), range("bb", "z"), range("d", "a")];
        for ops in &steps {
            let (whole, wanted) = (ops.as_slice(), carried_out(&decided, ops));
            for cut in 0..=whole.len() {
                let (first, second) = whole.split_at(cut);
                let view = View { decided: &decided, buffered: [first, second] };
                for key in ["a", "b", "bb", "c", "d", "e", "f"] {
                    let key: Arc<str> = key.into();
                    assert_eq!(view.get(&key), wanted.get(&key), "{key} after {ops:?}");
                    let read = view.read(&Select::Keys(vec![key.clone()]));
                    let found = wanted.get_key_value(&key).map(owned).into_iter().collect();
                    assert_eq!(read, Selected::Entries(found), "{key} after {ops:?}");
                }
                for range in &ranges {
                    let mut within = wanted.clone();
                    within.retain(|key, _| range.contains(key));
                    let count = Selected::Count(within.len() as u64);
                    assert_eq!(view.read(&Select::Count(range.clone())), count, "{ops:?}");
                    let read = view.read(&Select::Range(range.clone()));
                    assert_eq!(read, Selected::Entries(within), "{range:?} after {ops:?}");
                }
            }
        }
    }

    #[test]
    fn a_page_ends_at_its_bounds_but_has_one_entry_at_least() {
        let decided = entries(&[("a", "1"), ("b", "2"), ("c", "3")]);
        let page = |entries, bytes| {
            let select = Select::Page { range: KeyRange::all(), entries, bytes };
            match View::of(&decided).read(&select) {
                Selected::Page { entries, more } => (entries.len(), more),
                other => panic!("{other:?}"),
            }
        };
        let one = entry_size("a", &payload("1"));
        assert_eq!(page(3, usize::MAX), (3, false));
        assert_eq!(page(2, usize::MAX), (2, true));
        assert_eq!(page(9, 2 * one), (2, true));
        assert_eq!(page(9, 2 * one - 1), (1, true));
        assert_eq!(page(9, 0), (1, true));
    }
}
