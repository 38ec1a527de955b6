//! What is read of an actor's state, and what must be found then.

use kar_core::select::{KeyRange, Select, Selected};

use crate::history::Keys;
use crate::plan::Names;
use crate::rng::Rng;

/// What is read; keys by number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Reading {
    All,
    Key(usize),
    /// The first ones from one on, up to but without another one.
    Page {
        from: usize,
        to: usize,
        entries: usize,
    },
    Count {
        from: usize,
        to: usize,
    },
}

impl Reading {
    /// Draws one; so many of a thousand are of one key.
    pub(crate) fn draw(rng: &mut Rng, keys: usize, of_one: u32) -> Self {
        if rng.chance(of_one) {
            return Self::Key(rng.index(keys));
        }
        match rng.below(6) {
            0 => {
                let (from, to) = (rng.index(keys), rng.index(keys + 1));
                Self::Page { from, to, entries: 1 + rng.index(2) }
            }
            1 => Self::Count { from: rng.index(keys), to: rng.index(keys + 1) },
            _ => Self::All,
        }
    }

    pub(crate) fn select(self, names: &Names) -> Select {
        match self {
            Self::All => Select::all(),
            Self::Key(key) => Select::Keys(vec![names.keys[key].clone()]),
            Self::Page { from, to, entries } => {
                Select::Page { range: range(names, from, to), entries, bytes: usize::MAX }
            }
            Self::Count { from, to } => Select::Count(range(names, from, to)),
        }
    }

    /// What it finds in a state.
    pub(crate) fn of(self, names: &Names, state: &Keys) -> Selected {
        let within = |from, to| {
            let numbers = (0..names.keys.len()).filter(move |n| (from..to).contains(n));
            let found = numbers.filter_map(|n| state.get_key_value(&names.keys[n]));
            found.map(|(key, value)| (key.clone(), value.clone()))
        };
        match self {
            Self::All => Selected::Entries(state.clone()),
            Self::Key(key) => Selected::Entries(within(key, key + 1).collect()),
            Self::Page { from, to, entries } => Selected::Page {
                entries: within(from, to).take(entries).collect(),
                more: within(from, to).count() > entries,
            },
            Self::Count { from, to } => Selected::Count(within(from, to).count() as u64),
        }
    }
}

/// Keys from one number on, up to but without another one, or all that follow.
pub(crate) fn range(names: &Names, from: usize, to: usize) -> KeyRange {
    KeyRange { from: names.keys[from].clone(), to: names.keys.get(to).cloned() }
}
