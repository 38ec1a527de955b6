//! Reading the state of an actor: its own keys and its sub-maps, in its turn and from outside.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;

use kar_proto::v1 as proto;

use super::{checked_key, payloads};
use crate::application_state::Page;
use crate::codec::{Decode, Payload};
use crate::error::CallError;
use crate::stream::{Answer, Handle, Operation, Reply};
use crate::turn::Turn;

/// Stands for the actor's own keys where a sub-map's name could be.
pub(super) const OWN: &str = "";

/// Whose state is read, and through what.
#[derive(Clone)]
pub(crate) enum View<'a> {
    /// That of the turn's own actor, with what the turn has written.
    Turn(&'a Arc<Turn>),
    /// What is committed of any actor, from outside its turns.
    Committed(Handle, proto::ActorTarget),
}

// === impl View ===

impl View<'_> {
    /// Reads one of the actor's own keys.
    pub(crate) async fn get_own<T: Decode>(&self, key: &str) -> Result<Option<T>, CallError> {
        self.get(OWN, key).await
    }

    pub(super) async fn get<T: Decode>(
        &self,
        sub_map: &str,
        key: &str,
    ) -> Result<Option<T>, CallError> {
        let value = self.entries(sub_map, vec![checked_key(key)?]).await?.remove(key);
        Ok(value.map(|p| T::decode(Payload::from_proto(Some(p)))).transpose()?)
    }

    pub(super) async fn get_many(
        &self,
        sub_map: &str,
        keys: &[&str],
    ) -> Result<BTreeMap<String, Payload>, CallError> {
        let keys = keys.iter().map(|key| checked_key(key)).collect::<Result<_, _>>()?;
        Ok(payloads(self.entries(sub_map, keys).await?))
    }

    /// Reads all of the actor's own keys.
    pub(crate) async fn get_all_own(&self) -> Result<BTreeMap<String, Payload>, CallError> {
        let (turn_token, actor) = self.address();
        let request = proto::GetAllRequest { turn_token, actor };
        match self.request(Operation::ActorStateGetAll(request)).await? {
            Answer::ActorStateGetAll(all) => Ok(payloads(all.entries)),
            _ => Err(CallError::mismatch("actor_state_get_all")),
        }
    }

    pub(super) async fn contains(&self, sub_map: &str, key: &str) -> Result<bool, CallError> {
        let ((turn_token, actor), key) = (self.address(), checked_key(key)?);
        let sub_map = sub_map.to_owned();
        let request = proto::ContainsRequest { turn_token, key, actor, sub_map };
        match self.request(Operation::ActorStateContains(request)).await? {
            Answer::ActorStateContains(answer) => Ok(answer.exists),
            _ => Err(CallError::mismatch("actor_state_contains")),
        }
    }

    pub(super) async fn size(&self, sub_map: String) -> Result<u64, CallError> {
        let (turn_token, actor) = self.address();
        let request = proto::GetSubMapSizeRequest { turn_token, actor, sub_map };
        match self.request(Operation::ActorStateSubMapSize(request)).await? {
            Answer::ActorStateSubMapSize(answer) => {
                Ok(u64::try_from(answer.size).unwrap_or_default())
            }
            _ => Err(CallError::mismatch("actor_state_sub_map_size")),
        }
    }

    pub(super) async fn list(
        &self,
        sub_map: String,
        page_size: u32,
        after: &str,
    ) -> Result<Page, CallError> {
        let (turn_token, actor) = self.address();
        let request = proto::ListSubMapRequest {
            turn_token,
            actor,
            sub_map,
            page_size: i32::try_from(page_size).unwrap_or(i32::MAX),
            page_token: after.to_owned(),
        };
        match self.request(Operation::ActorStateListSubMap(request)).await? {
            Answer::ActorStateListSubMap(page) => {
                Ok(Page::from_proto(page.entries, page.next_page_token))
            }
            _ => Err(CallError::mismatch("actor_state_list_sub_map")),
        }
    }

    async fn entries(
        &self,
        sub_map: &str,
        keys: Vec<String>,
    ) -> Result<HashMap<String, proto::Payload>, CallError> {
        let ((turn_token, actor), sub_map) = (self.address(), sub_map.to_owned());
        let request = proto::ActorStateServiceGetRequest { turn_token, keys, actor, sub_map };
        match self.request(Operation::ActorStateGet(request)).await? {
            Answer::ActorStateGet(answer) => Ok(answer.entries),
            _ => Err(CallError::mismatch("actor_state_get")),
        }
    }

    /// Token of the turn, or else the actor.
    fn address(&self) -> (String, Option<proto::ActorTarget>) {
        match self {
            Self::Turn(turn) => (turn.token.clone(), None),
            Self::Committed(_, actor) => (String::new(), Some(actor.clone())),
        }
    }

    async fn request(&self, operation: Operation) -> Reply {
        match self {
            Self::Turn(turn) => turn.request(operation).await,
            Self::Committed(handle, _) => handle.request(operation).await,
        }
    }
}

impl fmt::Debug for View<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, id) = match self {
            Self::Turn(turn) => (&turn.kind, &turn.id),
            Self::Committed(_, actor) => (&actor.r#type, &actor.id),
        };
        f.debug_tuple("State").field(kind).field(id).finish()
    }
}
