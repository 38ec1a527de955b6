//! Actors as a whole, from outside their turns: what is committed of them, and their removal.

use std::collections::BTreeMap;

use kar_proto::v1::{ActorTarget, GetAllRequest, RemoveActorRequest};
use serde_json::Value;
use tonic::Status;

use crate::Client;
use crate::grpc::value;

impl Client {
    /// The committed state of an actor: every key.
    ///
    /// # Panics
    ///
    /// If KAR refuses.
    pub async fn committed(&self, of: &ActorTarget) -> BTreeMap<String, Value> {
        let request = GetAllRequest { actor: Some(of.clone()), turn_token: String::new() };
        let state = self.actor_state().get_all(request).await.expect("read").into_inner();
        state.entries.iter().map(|(key, payload)| (key.clone(), value(payload))).collect()
    }

    /// Removes an actor; returns when that is durable.
    ///
    /// # Errors
    ///
    /// If KAR refuses.
    pub async fn remove(&self, of: &ActorTarget) -> Result<(), Status> {
        let request = RemoveActorRequest { actor: Some(of.clone()) };
        self.system().remove_actor(request).await.map(drop)
    }
}
