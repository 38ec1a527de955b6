//! Listings that come by pages ([`Listing`]).

use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::sync::Arc;

use kar_proto::v1 as proto;

use super::view::{BusyActor, DeadLetter, InvocationView};
use super::{events, invocations, system};
use crate::error::CallError;
use crate::event::TopicDescription;
use crate::transport::Sidecar;

/// Entries of a page, unless [`Listing::page_size`] says otherwise.
const PAGE_SIZE: u16 = 100;

/// A listing that is under way. It asks for a page when one is wanted, and holds no more than that and
/// what is wanted at once; what changes meanwhile may be in it or not.
pub struct Listing<T> {
    sidecar: Arc<Sidecar>,
    kind: String,
    page_size: u16,
    /// Token of the next page; `None`: there is none.
    next: Option<String>,
    rows: VecDeque<T>,
    left_out: LeftOut,
}

/// What a listing could not list, so that nobody takes it for complete. Listing again later, or for a
/// single kind, may.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct LeftOut {
    /// Nodes that did not tell what they serve, by name, and what happened instead.
    pub nodes: Vec<(String, String)>,
    /// Partitions that nobody told of, as `KIND/INDEX` with `s.` before services and `a.` before actor
    /// types.
    pub partitions: Vec<String>,
    /// Rows that the nodes did not tell because there were too many.
    pub rows: u64,
}

/// What is asked for, and a page of it.
pub(super) struct Ask {
    kind: String,
    page_size: i32,
    page_token: String,
}

pub(super) struct Page<T> {
    rows: Vec<T>,
    next_page_token: String,
    left_out: Option<proto::LeftOut>,
}

/// What can be listed.
pub(super) trait Listed: Sized {
    fn page(
        sidecar: &Sidecar,
        ask: Ask,
    ) -> impl Future<Output = Result<Page<Self>, CallError>> + Send;
}

/// What belongs to a service or an actor type.
trait OfKind: Listed {}

// === impl Listing ===

impl<T> Listing<T> {
    pub(crate) fn new(sidecar: Arc<Sidecar>) -> Self {
        let (next, rows) = (Some(String::new()), VecDeque::new());
        let (kind, left_out) = (String::new(), LeftOut::default());
        Self { sidecar, kind, page_size: PAGE_SIZE, next, rows, left_out }
    }

    /// Entries asked for at a time, 100 if not said; at most 10,000 (topics: 1,000).
    #[must_use]
    pub fn page_size(mut self, count: u16) -> Self {
        self.page_size = count;
        self
    }

    /// What the pages so far could not list.
    #[must_use]
    pub fn left_out(&self) -> &LeftOut {
        &self.left_out
    }
}

#[allow(private_bounds)] // Closed: what has a kind is what there is.
impl<T: OfKind> Listing<T> {
    /// Only of this service or actor type.
    #[must_use]
    pub fn of(mut self, kind: impl Into<String>) -> Self {
        self.kind = kind.into();
        self
    }
}

#[allow(private_bounds)] // Closed: what can be listed is what there is.
impl<T: Listed> Listing<T> {
    /// The next entry; `None`: there are no more. Can be dropped and called again without missing
    /// anything.
    ///
    /// # Errors
    /// The sidecar's; it may be called again after them.
    pub async fn next(&mut self) -> Result<Option<T>, CallError> {
        while self.rows.is_empty() && self.fetch().await? {}
        Ok(self.rows.pop_front())
    }

    /// The next entries, at most so many; fewer: there are no more. Can be dropped as [`next`](Self::next).
    ///
    /// # Errors
    /// As [`next`](Self::next).
    pub async fn up_to(&mut self, max: usize) -> Result<Vec<T>, CallError> {
        while self.rows.len() < max && self.fetch().await? {}
        Ok(self.rows.drain(..max.min(self.rows.len())).collect())
    }

    /// Takes a page in; false: there are no more.
    async fn fetch(&mut self) -> Result<bool, CallError> {
        let Some(page_token) = self.next.clone() else { return Ok(false) };
        let (kind, page_size) = (self.kind.clone(), self.page_size.into());
        let page = T::page(&self.sidecar, Ask { kind, page_size, page_token }).await?;
        self.next = Some(page.next_page_token).filter(|token| !token.is_empty());
        self.rows.extend(page.rows);
        if let Some(left_out) = page.left_out {
            self.left_out = LeftOut::from_proto(left_out);
        }
        Ok(true)
    }
}

impl<T> fmt::Debug for Listing<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_over = self.next.is_none() && self.rows.is_empty();
        f.debug_struct("Listing")
            .field("kind", &self.kind)
            .field("is_over", &is_over)
            .finish_non_exhaustive()
    }
}

// === impl LeftOut ===

impl LeftOut {
    /// Whether nothing was left out.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    fn from_proto(left_out: proto::LeftOut) -> Self {
        Self {
            nodes: left_out.nodes.into_iter().map(|node| (node.name, node.cause)).collect(),
            partitions: left_out.partitions,
            rows: u64::try_from(left_out.rows).unwrap_or_default(),
        }
    }
}

// === impl Listed ===

impl OfKind for InvocationView {}
impl OfKind for DeadLetter {}
impl OfKind for BusyActor {}

impl Listed for InvocationView {
    async fn page(sidecar: &Sidecar, ask: Ask) -> Result<Page<Self>, CallError> {
        let Ask { kind, page_size, page_token } = ask;
        let request = proto::ListInvocationsRequest { kind, page_size, page_token };
        let answer = sidecar.ask(|channel| {
            let request = sidecar.dialer.authorized(request.clone());
            async move { invocations(channel).list_invocations(request).await }
        });
        let page = answer.await?;
        let rows = page.invocations.into_iter().map(Self::from_proto).collect();
        Ok(Page { rows, next_page_token: page.next_page_token, left_out: page.left_out })
    }
}

impl Listed for DeadLetter {
    async fn page(sidecar: &Sidecar, ask: Ask) -> Result<Page<Self>, CallError> {
        let Ask { kind, page_size, page_token } = ask;
        let request = proto::ListDeadLettersRequest { kind, page_size, page_token };
        let answer = sidecar.ask(|channel| {
            let request = sidecar.dialer.authorized(request.clone());
            async move { invocations(channel).list_dead_letters(request).await }
        });
        let page = answer.await?;
        let rows = page.dead_letters.into_iter().map(Self::from_proto).collect();
        Ok(Page { rows, next_page_token: page.next_page_token, left_out: page.left_out })
    }
}

impl Listed for BusyActor {
    async fn page(sidecar: &Sidecar, ask: Ask) -> Result<Page<Self>, CallError> {
        let Ask { kind, page_size, page_token } = ask;
        let request = proto::ListActorsRequest { r#type: kind, page_size, page_token };
        let answer = sidecar.ask(|channel| {
            let request = sidecar.dialer.authorized(request.clone());
            async move { system(channel).list_actors(request).await }
        });
        let page = answer.await?;
        let rows = page.actors.into_iter().map(Self::from_proto).collect();
        Ok(Page { rows, next_page_token: page.next_page_token, left_out: page.left_out })
    }
}

impl Listed for TopicDescription {
    async fn page(sidecar: &Sidecar, ask: Ask) -> Result<Page<Self>, CallError> {
        let Ask { page_size, page_token, .. } = ask;
        let request = proto::ListTopicsRequest { page_size, page_token };
        let answer = sidecar.ask(|channel| {
            let request = sidecar.dialer.authorized(request.clone());
            async move { events(channel).list_topics(request).await }
        });
        let page = answer.await?;
        let rows = page.topics.into_iter().map(Self::from_proto).collect();
        Ok(Page { rows, next_page_token: page.next_page_token, left_out: None })
    }
}
