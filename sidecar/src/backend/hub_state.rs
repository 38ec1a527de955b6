//! State of the application in the hub.

use std::time::Duration;

use kar_hub::{HubClient, HubError};

use super::hub::{value_from, value_to};
use crate::application_state::{
    ApplicationState, StateAnswer, StateDelete, StateEntry, StateError, StateFuture,
    StateOperation, StateSet,
};
use crate::convert::owned;

/// The application's state in the hub. Cheap to clone.
#[derive(Clone)]
pub struct HubState {
    client: HubClient,
}

// === impl HubState ===

impl HubState {
    /// The state behind a client.
    pub(super) fn new(client: HubClient) -> Self {
        Self { client }
    }

    async fn carry_out(self, operation: StateOperation) -> Result<StateAnswer, StateError> {
        match operation {
            StateOperation::Get { key } => {
                let entry = self.client.state_get(&key).await.map_err(read_error)?;
                Ok(StateAnswer::Entry(entry.map(entry_from)))
            }
            StateOperation::Set { set, request_id } => {
                let set = self.client.state_set(set_to(set), request_id.as_deref());
                Ok(StateAnswer::Written { etag: set.await.map_err(write_error)? })
            }
            StateOperation::Delete { delete, request_id } => {
                let delete = self.client.state_delete(delete_to(delete), request_id.as_deref());
                Ok(StateAnswer::Deleted { existed: delete.await.map_err(write_error)? })
            }
            StateOperation::Transact { sets, deletes, request_id } => {
                let sets = sets.into_iter().map(set_to).collect();
                let deletes = deletes.into_iter().map(delete_to).collect();
                let done = self.client.state_transact(sets, deletes, request_id.as_deref());
                let done = done.await.map_err(write_error)?;
                Ok(StateAnswer::Transacted { etags: done.etags, existed: done.existed })
            }
            StateOperation::List { prefix, page_size, page_token } => {
                let page = self.client.state_list(&prefix, page_size, &page_token);
                let page = page.await.map_err(read_error)?;
                Ok(StateAnswer::Page {
                    entries: page.entries.into_iter().map(entry_from).collect(),
                    next_page_token: page.next_page_token,
                })
            }
        }
    }
}

impl ApplicationState for HubState {
    fn run(&self, operation: StateOperation) -> StateFuture {
        Box::pin(self.clone().carry_out(operation))
    }
}

fn set_to(set: StateSet) -> kar_hub::StateSet {
    kar_hub::StateSet {
        key: owned(&set.key),
        value: value_to(set.value),
        etag: set.etag,
        time_to_live: set.time_to_live.map(Duration::from_millis),
    }
}

fn delete_to(delete: StateDelete) -> kar_hub::StateDelete {
    kar_hub::StateDelete { key: owned(&delete.key), etag: delete.etag }
}

fn entry_from(entry: kar_hub::StateEntry) -> StateEntry {
    StateEntry {
        key: entry.key,
        value: value_from(entry.value),
        etag: entry.etag,
        expires: entry.expires_ms,
    }
}

/// A read that failed can simply be asked for again.
fn read_error(error: HubError) -> StateError {
    match error {
        HubError::ConditionFailed { key, etag } => StateError::ConditionFailed { key, etag },
        HubError::Invalid(what) => StateError::Invalid(what),
        other => StateError::Unavailable(other.to_string()),
    }
}

/// A write that was not answered may have been done; one that was not even taken has not.
fn write_error(error: HubError) -> StateError {
    if matches!(error, HubError::Busy(_)) {
        return read_error(error);
    }
    match read_error(error) {
        StateError::Unavailable(what) => StateError::Unknown(what),
        other => other,
    }
}
