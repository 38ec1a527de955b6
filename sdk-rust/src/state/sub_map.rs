//! Sub-maps of an actor's state ([`SubMapReader`], [`SubMapWriter`]).

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use kar_proto::v1 as proto;
use kar_proto::v1::state_change::Change;

use super::view::View;
use super::{checked_key, checked_sub_map, compare_and_set};
use crate::application_state::Page;
use crate::codec::{Decode, Encode, Payload};
use crate::error::CallError;
use crate::turn::Turn;

/// A sub-map of an actor's state, for reading: a map of its own, which exists while it has entries.
/// Its keys, those of other sub-maps and the actor's own never meet.
///
/// In a turn ([`StateReader::sub_map`](crate::StateReader::sub_map)) reads see the turn's own writes;
/// from outside ([`ActorRef::committed_sub_map`](crate::ActorRef::committed_sub_map)) what is committed.
/// A name that is not of 1 to 512 bytes, or has U+0000, is told by whatever is asked of it
/// ([`CallError::Rejected`] with reason `INVALID_FIELD`), and so are keys.
///
/// What may only read cannot write:
///
/// ```compile_fail,E0599
/// fn sell(ctx: &impl kar_sdk::ReadsState) -> Result<(), kar_sdk::CallError> {
///     ctx.read_state().sub_map("stock").remove("apples")
/// }
/// ```
#[derive(Clone, Debug)]
pub struct SubMapReader<'a> {
    view: View<'a>,
    name: String,
}

/// A sub-map of the state of the turn's actor. Its writes are gathered, and durable, as those of
/// [`StateWriter`](crate::StateWriter).
///
/// ```no_run
/// # use kar_sdk::{Decode, Error};
/// # async fn method(ctx: &mut kar_sdk::ActorContext) -> Result<u32, Error> {
/// let stock = ctx.state().sub_map("stock");
/// stock.set("apples", &3)?;
/// stock.remove("pears")?;
/// let mut total = 0;
/// let mut entries = stock.entries();
/// while let Some((_kind, count)) = entries.next().await? {
///     total += u32::decode(count)?;
/// }
/// # Ok(total) }
/// ```
#[derive(Clone)]
pub struct SubMapWriter<'a> {
    reader: SubMapReader<'a>,
    turn: &'a Arc<Turn>,
}

/// The entries of a sub-map, in byte order of their keys, asked for by pages when they are wanted. Each
/// page shows the sub-map at its time: what is written meanwhile is there if its place is still to come.
#[derive(Debug)]
#[must_use = "nothing is read before `next` or `up_to`"]
pub struct SubMapEntries<'a> {
    sub_map: SubMapReader<'a>,
    page_size: u32,
    /// Token of the next page; `None`: there is none.
    next: Option<String>,
    ready: VecDeque<(String, Payload)>,
}

// === impl SubMapReader ===

impl<'a> SubMapReader<'a> {
    pub(crate) fn new(view: View<'a>, name: String) -> Self {
        Self { view, name }
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Reads a key; `None` if it is absent.
    ///
    /// # Errors
    /// The sidecar's, or [`CallError::Codec`] if the value is none of `T`.
    pub async fn get<T: Decode>(&self, key: &str) -> Result<Option<T>, CallError> {
        self.view.get(&self.checked()?, key).await
    }

    /// Reads several keys at once, for the price of one; absent ones are absent in the answer.
    ///
    /// # Errors
    /// The sidecar's.
    pub async fn get_many(&self, keys: &[&str]) -> Result<BTreeMap<String, Payload>, CallError> {
        self.view.get_many(&self.checked()?, keys).await
    }

    /// Whether a key exists.
    ///
    /// # Errors
    /// The sidecar's.
    pub async fn contains(&self, key: &str) -> Result<bool, CallError> {
        self.view.contains(&self.checked()?, key).await
    }

    /// How many entries it has.
    ///
    /// # Errors
    /// The sidecar's.
    pub async fn len(&self) -> Result<u64, CallError> {
        self.view.size(self.checked()?).await
    }

    /// Whether it has no entries, which is to say that it does not exist.
    ///
    /// # Errors
    /// The sidecar's.
    pub async fn is_empty(&self) -> Result<bool, CallError> {
        Ok(self.len().await? == 0)
    }

    /// Lists entries, in byte order of their keys: at most `page_size` (0 means 100, at most 1,000),
    /// after the page that ended with the token `after` (empty: from the start). To walk through all
    /// there is [`entries`](Self::entries).
    ///
    /// # Errors
    /// The sidecar's.
    pub async fn list(&self, page_size: u32, after: &str) -> Result<Page, CallError> {
        self.view.list(self.checked()?, page_size, after).await
    }

    /// All entries, in byte order of their keys, a page at a time.
    pub fn entries(&self) -> SubMapEntries<'a> {
        let (next, ready) = (Some(String::new()), VecDeque::new());
        SubMapEntries { sub_map: self.clone(), page_size: 0, next, ready }
    }

    fn checked(&self) -> Result<String, CallError> {
        checked_sub_map(&self.name)
    }
}

// === impl SubMapWriter ===

impl<'a> SubMapWriter<'a> {
    pub(super) fn new(turn: &'a Arc<Turn>, name: String) -> Self {
        Self { reader: SubMapReader::new(View::Turn(turn), name), turn }
    }

    /// Sets a key.
    ///
    /// # Errors
    /// As [`StateWriter::set`](crate::StateWriter::set).
    pub fn set<T: Encode + ?Sized>(&self, key: &str, value: &T) -> Result<(), CallError> {
        let value = Some(value.encode()?.into_proto());
        let key = Some(self.key(key)?);
        self.turn.write(Change::SetInSubMap(proto::SubMapEntry { key, value }))
    }

    /// Removes a key; nothing happens if it is absent.
    ///
    /// # Errors
    /// As [`set`](Self::set).
    pub fn remove(&self, key: &str) -> Result<(), CallError> {
        self.turn.write(Change::RemoveFromSubMap(self.key(key)?))
    }

    /// Removes every entry.
    ///
    /// # Errors
    /// As [`set`](Self::set).
    pub fn clear(&self) -> Result<(), CallError> {
        self.turn.write(Change::ClearSubMap(self.checked()?))
    }

    /// Sets a key only if it holds `expected`; `None`: only if it is absent. As
    /// [`StateWriter::compare_and_set`](crate::StateWriter::compare_and_set), also in what it compares.
    ///
    /// # Errors
    /// As there.
    pub async fn compare_and_set<T: Encode + ?Sized>(
        &self,
        key: &str,
        expected: Option<&T>,
        new: &T,
    ) -> Result<bool, CallError> {
        let at = self.key(key)?;
        let sub_map = at.sub_map.clone();
        let value = Some(new.encode()?.into_proto());
        let set = Change::SetInSubMap(proto::SubMapEntry { key: Some(at), value });
        compare_and_set(self.turn, sub_map, key, expected, set).await
    }

    fn key(&self, key: &str) -> Result<proto::SubMapKey, CallError> {
        Ok(proto::SubMapKey { sub_map: self.checked()?, key: checked_key(key)? })
    }
}

impl<'a> Deref for SubMapWriter<'a> {
    type Target = SubMapReader<'a>;

    fn deref(&self) -> &SubMapReader<'a> {
        &self.reader
    }
}

impl fmt::Debug for SubMapWriter<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.reader.fmt(f)
    }
}

// === impl SubMapEntries ===

impl SubMapEntries<'_> {
    /// Entries asked for at a time, 100 if not said; at most 1,000.
    pub fn page_size(mut self, count: u32) -> Self {
        self.page_size = count;
        self
    }

    /// The next entry; `None`: there are no more. Can be dropped and called again without missing
    /// anything.
    ///
    /// # Errors
    /// The sidecar's; it may be called again after them.
    pub async fn next(&mut self) -> Result<Option<(String, Payload)>, CallError> {
        while self.ready.is_empty() && self.fetch().await? {}
        Ok(self.ready.pop_front())
    }

    /// The next entries, at most so many; fewer: there are no more. Can be dropped as
    /// [`next`](Self::next).
    ///
    /// # Errors
    /// As [`next`](Self::next).
    pub async fn up_to(&mut self, max: usize) -> Result<Vec<(String, Payload)>, CallError> {
        while self.ready.len() < max && self.fetch().await? {}
        Ok(self.ready.drain(..max.min(self.ready.len())).collect())
    }

    /// Takes a page in; false: there are no more.
    async fn fetch(&mut self) -> Result<bool, CallError> {
        let Some(after) = &self.next else { return Ok(false) };
        let page = self.sub_map.list(self.page_size, after).await?;
        self.next = page.next;
        self.ready.extend(page.entries);
        Ok(true)
    }
}
