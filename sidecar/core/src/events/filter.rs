//! Which events are wanted, after the filters of the CloudEvents Subscriptions API.

use super::CloudEvent;
use super::cloud_event::{ATTRIBUTE_BYTES_MAX, is_attribute_name};

/// Deepest filter: filters in filters.
pub const DEPTH_MAX: usize = 16;
/// Most comparisons in a filter.
pub const COMPARISONS_MAX: usize = 256;

/// A filter.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Filter {
    /// Each attribute has exactly this value.
    Exact(Comparisons),
    /// Each attribute begins with this.
    Prefix(Comparisons),
    /// Each attribute ends with this.
    Suffix(Comparisons),
    /// All of them match.
    All(Vec<Filter>),
    /// At least one of them matches.
    Any(Vec<Filter>),
    /// It does not match.
    Not(Box<Filter>),
}

/// Attributes and what they are compared with.
pub type Comparisons = Vec<(String, String)>;

/// Why something is no filter.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FilterError {
    /// Nothing is compared, or nothing combined.
    #[error("a filter is empty: name at least one attribute, or one filter")]
    Empty,
    /// There is no such attribute.
    #[error("'{0}' is no name of an attribute: 1 to 20 of a-z 0-9")]
    Name(String),
    /// What is compared with is empty, or longer than values are.
    #[error("what '{0}' is compared with must have 1 to {ATTRIBUTE_BYTES_MAX} bytes")]
    Value(String),
    /// It is too deep.
    #[error("filters are more than {DEPTH_MAX} deep")]
    Depth,
    /// It has too many comparisons.
    #[error("a filter has more than {COMPARISONS_MAX} comparisons")]
    Comparisons,
}

// === impl Filter ===

impl Filter {
    /// Whether an event is wanted.
    pub fn matches(&self, event: &CloudEvent) -> bool {
        let each = |comparisons: &Comparisons, holds: fn(&str, &str) -> bool| {
            comparisons.iter().all(|(name, wanted)| {
                event.attribute(name).is_some_and(|value| holds(&value, wanted))
            })
        };
        match self {
            Self::Exact(comparisons) => each(comparisons, |value, wanted| value == wanted),
            Self::Prefix(comparisons) => {
                each(comparisons, |value, wanted| value.starts_with(wanted))
            }
            Self::Suffix(comparisons) => each(comparisons, |value, wanted| value.ends_with(wanted)),
            Self::All(filters) => filters.iter().all(|filter| filter.matches(event)),
            Self::Any(filters) => filters.iter().any(|filter| filter.matches(event)),
            Self::Not(filter) => !filter.matches(event),
        }
    }

    /// Whether it is one, within the bounds.
    ///
    /// # Errors
    ///
    /// The first thing that is wrong.
    pub fn check(&self) -> Result<(), FilterError> {
        self.check_at(1, &mut 0)
    }

    fn check_at(&self, depth: usize, comparisons: &mut usize) -> Result<(), FilterError> {
        if depth > DEPTH_MAX {
            return Err(FilterError::Depth);
        }
        match self {
            Self::Exact(compared) | Self::Prefix(compared) | Self::Suffix(compared) => {
                *comparisons += compared.len();
                if *comparisons > COMPARISONS_MAX {
                    return Err(FilterError::Comparisons);
                }
                check_comparisons(compared)
            }
            Self::All(filters) | Self::Any(filters) => {
                if filters.is_empty() {
                    return Err(FilterError::Empty);
                }
                filters.iter().try_for_each(|filter| filter.check_at(depth + 1, comparisons))
            }
            Self::Not(filter) => filter.check_at(depth + 1, comparisons),
        }
    }
}

fn check_comparisons(compared: &Comparisons) -> Result<(), FilterError> {
    if compared.is_empty() {
        return Err(FilterError::Empty);
    }
    for (name, value) in compared {
        if !is_attribute_name(name) {
            return Err(FilterError::Name(name.chars().take(64).collect()));
        }
        if !(1..=ATTRIBUTE_BYTES_MAX).contains(&value.len()) {
            return Err(FilterError::Value(name.clone()));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::{Draft, EventTime};
    use super::*;

    fn pairs(text: &str) -> Comparisons {
        let pair = |pair: &str| pair.split_once('=').map(|(a, b)| (a.into(), b.into()));
        text.split(' ').filter_map(pair).collect()
    }

    fn exact(text: &str) -> Filter {
        Filter::Exact(pairs(text))
    }

    fn prefix(text: &str) -> Filter {
        Filter::Prefix(pairs(text))
    }

    fn suffix(text: &str) -> Filter {
        Filter::Suffix(pairs(text))
    }

    fn not(filter: Filter) -> Filter {
        Filter::Not(Box::new(filter))
    }

    #[test]
    fn filters_want_what_they_say() {
        let draft = Draft {
            kind: "order.created".into(),
            source: "/shop/eu".into(),
            attributes: [("customer".to_owned(), "alice".to_owned())].into(),
            ..Draft::default()
        };
        let event = draft.complete(|| "1".into(), "", EventTime::default()).unwrap();
        let no = || exact("type=other");
        let yes = || exact("type=order.created");
        for (filter, wanted) in [
            (exact("type=order.created"), true),
            (exact("type=order"), false),
            (exact("type=Order.created"), false),
            (exact("type=order.created customer=alice"), true),
            (exact("type=order.created customer=bob"), false),
            // What an event does not have matches nothing, nor does its absence.
            (exact("subject=x"), false),
            (not(exact("subject=x")), true),
            (prefix("source=/shop"), true),
            (prefix("source=/shop type=item."), false),
            (suffix("type=.created"), true),
            (suffix("type=.deleted"), false),
            (exact("time=1970-01-01T00:00:00Z specversion=1.0 id=1"), true),
            (Filter::All(vec![yes(), yes()]), true),
            (Filter::All(vec![yes(), no()]), false),
            (Filter::Any(vec![no(), yes()]), true),
            (Filter::Any(vec![no(), no()]), false),
            (not(Filter::Any(vec![no(), not(yes())])), true),
        ] {
            assert_eq!(filter.check(), Ok(()));
            assert_eq!(filter.matches(&event), wanted, "{filter:?}");
        }
    }

    #[test]
    fn what_is_no_filter_is_refused() {
        let deep = |levels| (1..levels).fold(exact("a=b"), |filter, _| not(filter));
        let many =
            |count: usize| Filter::Any((0..count).map(|n| exact(&format!("a{n}=b"))).collect());
        assert_eq!(deep(DEPTH_MAX).check(), Ok(()));
        assert_eq!(many(COMPARISONS_MAX).check(), Ok(()));
        for (filter, error) in [
            (exact(""), FilterError::Empty),
            (Filter::All(Vec::new()), FilterError::Empty),
            (not(Filter::Any(Vec::new())), FilterError::Empty),
            (exact("a-b=c"), FilterError::Name("a-b".into())),
            (prefix("data=c"), FilterError::Name("data".into())),
            (suffix("a="), FilterError::Value("a".into())),
            (deep(DEPTH_MAX + 1), FilterError::Depth),
            (many(COMPARISONS_MAX + 1), FilterError::Comparisons),
        ] {
            assert_eq!(filter.check(), Err(error));
        }
    }
}
