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

    /// Removes the entries in it, and tells them.
    pub(crate) fn remove_from(&self, entries: &mut Entries) -> Vec<(Arc<str>, Payload)> {
        let keys: Vec<_> = self.of(entries).map(|(key, _)| key.clone()).collect();
        keys.iter().filter_map(|key| entries.remove_entry(key)).collect()
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

/// So many keys are looked for one by one; for more an [`Overlay`] is made first.
const FEW: usize = 8;

/// A state as somebody sees it: what was decided, with what is buffered on top of that.
#[derive(Clone, Copy, Debug)]
pub(crate) struct View<'a> {
    /// What was decided.
    pub(crate) decided: &'a Entries,
    /// What is buffered, in order.
    pub(crate) buffered: &'a [StateOp],
}

impl<'a> View<'a> {
    /// What was decided alone.
    pub(crate) fn of(decided: &'a Entries) -> Self {
        Self { decided, buffered: &[] }
    }

    /// What is selected.
    pub(crate) fn read(self, select: &Select) -> Selected {
        let overlay = || Overlay::of(self.buffered);
        match select {
            Select::Keys(keys) if keys.len() <= FEW => {
                let found = keys.iter().filter_map(|key| self.entry(key));
                Selected::Entries(found.map(owned).collect())
            }
            Select::Keys(keys) => {
                let overlay = overlay();
                let found = keys.iter().filter_map(|key| overlay.entry(self.decided, key));
                Selected::Entries(found.map(owned).collect())
            }
            Select::Range(range) => {
                Selected::Entries(overlay().range(self.decided, range).map(owned).collect())
            }
            Select::Page { range, entries, bytes } => {
                page(overlay().range(self.decided, range), *entries, *bytes)
            }
            Select::Count(range) => {
                Selected::Count(overlay().range(self.decided, range).count() as u64)
            }
        }
    }

    /// A key with its value: the last operation that touches it decides.
    fn entry(self, key: &str) -> Option<Entry<'a>> {
        for op in self.buffered.iter().rev() {
            match op {
                StateOp::Set { key: of, value } if **of == *key => return Some((of, value)),
                StateOp::Remove { key: of } if **of == *key => return None,
                StateOp::RemoveRange(range) if range.contains(key) => return None,
                StateOp::Clear => return None,
                StateOp::Set { .. } | StateOp::Remove { .. } | StateOp::RemoveRange(_) => {}
            }
        }
        self.decided.get_key_value(key)
    }
}

fn page<'a>(found: impl Iterator<Item = Entry<'a>>, max: usize, bytes_max: usize) -> Selected {
    let (mut entries, mut bytes) = (Entries::new(), 0);
    for (key, value) in found {
        bytes += entry_size(key, value);
        if entries.len() == max || (bytes > bytes_max && !entries.is_empty()) {
            return Selected::Page { entries, more: true };
        }
        entries.insert(key.clone(), value.clone());
    }
    Selected::Page { entries, more: false }
}

/// What operations come to, whatever they are carried out on. As many of them as a turn may buffer take no longer than
/// sorting them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Overlay<'a> {
    /// Keys that were set, with their values, or removed.
    touched: BTreeMap<&'a str, Option<Entry<'a>>>,
    /// Ranges of which nothing is left but what is in `touched`: where they begin and end. They do not overlap.
    removed: BTreeMap<&'a str, Option<&'a str>>,
}

impl<'a> Overlay<'a> {
    /// What these operations come to, one after the other.
    pub(crate) fn of(ops: impl IntoIterator<Item = &'a StateOp>) -> Self {
        let mut overlay = Self::default();
        ops.into_iter().for_each(|op| overlay.push(op));
        overlay
    }

    /// One more operation.
    pub(crate) fn push(&mut self, op: &'a StateOp) {
        match op {
            StateOp::Set { key, value } => {
                self.touched.insert(key, Some((key, value)));
            }
            StateOp::Remove { key } => {
                self.touched.insert(key, None);
            }
            StateOp::RemoveRange(KeyRange { from, to }) => self.remove(from, to.as_deref()),
            StateOp::Clear => self.remove("", None),
        }
    }

    fn remove(&mut self, from: &'a str, to: Option<&'a str>) {
        if to.is_some_and(|to| to <= from) {
            return;
        }
        let end = to.map_or(Bound::Unbounded, Bound::Excluded);
        let gone = self.touched.range::<str, _>((Bound::Included(from), end));
        let gone: Vec<_> = gone.map(|(key, _)| *key).collect();
        for key in gone {
            self.touched.remove(key);
        }
        // One range takes the place of all that it meets.
        let (mut from, mut to) = (from, to);
        while let Some((start, end)) = self.last_up_to(to)
            && end.is_none_or(|end| end >= from)
        {
            self.removed.remove(start);
            from = from.min(start);
            to = to.and_then(|to| end.map(|end| to.max(end)));
        }
        self.removed.insert(from, to);
    }

    /// The last removed range that begins at or before a key; of all if there is none.
    fn last_up_to(&self, key: Option<&str>) -> Option<(&'a str, Option<&'a str>)> {
        let end = key.map_or(Bound::Unbounded, Bound::Included);
        let last = self.removed.range::<str, _>((Bound::Unbounded, end)).next_back();
        last.map(|(from, to)| (*from, *to))
    }

    fn has_removed(&self, key: &str) -> bool {
        let last = self.last_up_to(Some(key));
        last.is_some_and(|(_, to)| to.is_none_or(|to| key < to))
    }

    /// A key with its value, if it exists afterwards.
    pub(crate) fn entry(&self, decided: &'a Entries, key: &str) -> Option<Entry<'a>> {
        match self.touched.get(key) {
            Some(found) => *found,
            None if self.has_removed(key) => None,
            None => decided.get_key_value(key),
        }
    }

    /// The entries of a range afterwards, in order of their keys.
    fn range(
        mut self,
        decided: &'a Entries,
        range: &KeyRange,
    ) -> impl Iterator<Item = Entry<'a>> + use<'a> {
        let mut touched = std::mem::take(&mut self.touched);
        touched.retain(|key, _| range.contains(key));
        let is_left = move |(key, _): &Entry<'_>| !self.has_removed(key);
        let mut decided = range.of(decided).filter(is_left).peekable();
        let mut touched = touched.into_iter().peekable();
        std::iter::from_fn(move || {
            loop {
                let Some((key, _)) = touched.peek() else { return decided.next() };
                if decided.peek().is_some_and(|(decided, _)| ***decided < **key) {
                    return decided.next();
                }
                let (key, found) = touched.next()?;
                decided.next_if(|(decided, _)| ***decided == *key);
                if found.is_some() {
                    return found;
                }
            }
        })
    }

    /// Bytes that a state takes afterwards, of which it takes so many now.
    pub(crate) fn bytes_after(&self, decided: &Entries, bytes: usize) -> usize {
        let size = |(key, value): Entry<'_>| entry_size(key, value);
        let is_all = self.removed.get("").is_some_and(Option::is_none);
        let removed = self.removed.iter().map(|(from, to)| -> usize {
            let range = KeyRange { from: (*from).into(), to: to.map(Into::into) };
            range.of(decided).map(size).sum()
        });
        let removed = if is_all { bytes } else { removed.sum() };
        let replaced = self.touched.keys().filter(|key| !self.has_removed(key));
        let replaced = replaced.filter_map(|key| decided.get_key_value(*key)).map(size);
        let new = self.touched.values().copied().flatten().map(size);
        bytes - removed - replaced.sum::<usize>() + new.sum::<usize>()
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
            assert_view(&decided, ops, &ranges);
        }
    }

    /// All sequences of a few operations that meet each other in many ways.
    #[test]
    fn removed_ranges_meet_each_other_in_any_order() {
        let decided = entries(&[("a", "1"), ("b", "2"), ("c", "3"), ("d", "4"), ("e", "5")]);
        let open = |from: &str| StateOp::RemoveRange(KeyRange { from: from.into(), to: None });
        let removal = |from, to| StateOp::RemoveRange(range(from, to));
        let all = [
            removal("a", "b"),
            removal("b", "d"),
            removal("c", "e"),
            removal("d", "e"),
            removal("bb", "c"),
            open("e"),
            open("c"),
            StateOp::Clear,
            set("c", "x"),
            set("bb", "y"),
            StateOp::Remove { key: "d".into() },
        ];
        let ranges = [KeyRange::all(), range("b", "d")];
        let count = all.len();
        for n in 0..count.pow(4) {
            let ops = [n, n / count, n / count.pow(2), n / count.pow(3)];
            let ops = ops.map(|n| all[n % count].clone());
            assert_view(&decided, &ops, &ranges);
        }
    }

    #[track_caller]
    fn assert_view(decided: &Entries, ops: &[StateOp], ranges: &[KeyRange]) {
        let (view, wanted) = (View { decided, buffered: ops }, carried_out(decided, ops));
        let overlay = Overlay::of(ops);
        for key in ["a", "b", "bb", "c", "d", "e", "f"] {
            let found = wanted.get_key_value(key);
            assert_eq!(overlay.entry(decided, key), found, "{key} after {ops:?}");
            let read = view.read(&Select::Keys(vec![key.into()]));
            let found = found.map(owned).into_iter().collect();
            assert_eq!(read, Selected::Entries(found), "{key} after {ops:?}");
        }
        let many = ["a", "b", "bb", "c", "d", "e", "f", "g", "h", "i"].map(Into::into).to_vec();
        assert_eq!(view.read(&Select::Keys(many)), Selected::Entries(wanted.clone()), "{ops:?}");
        for range in ranges {
            let mut within = wanted.clone();
            within.retain(|key, _| range.contains(key));
            let count = Selected::Count(within.len() as u64);
            assert_eq!(view.read(&Select::Count(range.clone())), count, "{ops:?}");
            let read = view.read(&Select::Range(range.clone()));
            assert_eq!(read, Selected::Entries(within), "{range:?} after {ops:?}");
        }
        let bytes = |state: &Entries| state.iter().map(|(k, v)| entry_size(k, v)).sum::<usize>();
        let after = overlay.bytes_after(decided, bytes(decided));
        assert_eq!(after, bytes(&wanted), "bytes after {ops:?}");
    }

    /// As many operations as a turn may buffer, each of which meets all others: a search among all of them for each
    /// would take minutes.
    #[test]
    fn many_operations_take_no_longer_than_sorting_them() {
        let decided: Entries =
            (0..20_000).map(|n| (format!("d{n:05}").into(), payload("1"))).collect();
        let mut ops = Vec::new();
        for n in 0..40_000 {
            ops.push(set(&format!("d{:05}", n * 7 % 20_000), "2"));
            ops.push(StateOp::RemoveRange(range(&format!("d{:05}", n % 20_000), "d10000")));
        }
        let view = View { decided: &decided, buffered: &ops };
        let (count, keys) = (Select::Count(KeyRange::all()), decided.keys().cloned().collect());
        let Selected::Entries(found) = view.read(&Select::Keys(keys)) else { panic!("entries") };
        assert_eq!(view.read(&count), Selected::Count(found.len() as u64));
        assert!((10_000..20_000).contains(&found.len()), "{}", found.len());
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
