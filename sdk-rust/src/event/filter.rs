//! Which events are wanted.

use kar_proto::v1 as proto;
use proto::event_filter::Dialect;

/// Which events are wanted, by their attributes (`type`, `source`, `subject`, …, and extensions), compared as text.
/// One that an event does not have matches nothing.
///
/// ```
/// # use kar_sdk::EventFilter;
/// let wanted = EventFilter::prefix("type", "order.").and(EventFilter::exact("country", "ch").not());
/// ```
#[derive(Clone, PartialEq, Debug)]
pub struct EventFilter(pub(super) proto::EventFilter);

// === impl EventFilter ===

impl EventFilter {
    /// The attribute has exactly this value.
    pub fn exact(attribute: impl Into<String>, value: impl Into<String>) -> Self {
        Self::compares(Dialect::Exact, attribute.into(), value.into())
    }

    /// The attribute begins with this.
    pub fn prefix(attribute: impl Into<String>, value: impl Into<String>) -> Self {
        Self::compares(Dialect::Prefix, attribute.into(), value.into())
    }

    /// The attribute ends with this.
    pub fn suffix(attribute: impl Into<String>, value: impl Into<String>) -> Self {
        Self::compares(Dialect::Suffix, attribute.into(), value.into())
    }

    /// Both match.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self::is(Dialect::All(proto::EventFilters { filters: vec![self.0, other.0] }))
    }

    /// At least one of both matches.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self::is(Dialect::Any(proto::EventFilters { filters: vec![self.0, other.0] }))
    }

    /// This does not match.
    #[must_use]
    #[expect(
        clippy::should_implement_trait,
        reason = "a filter is no number: `!` would not be looked for"
    )]
    pub fn not(self) -> Self {
        Self::is(Dialect::NotMatching(Box::new(self.0)))
    }

    fn compares(
        dialect: fn(proto::AttributeValues) -> Dialect,
        name: String,
        value: String,
    ) -> Self {
        Self::is(dialect(proto::AttributeValues { attributes: [(name, value)].into() }))
    }

    fn is(dialect: Dialect) -> Self {
        Self(proto::EventFilter { dialect: Some(dialect) })
    }
}
