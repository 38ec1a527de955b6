//! State of the application in the hub.

use kar_hub::{HubClient, HubError};

use super::hub::{value_from, value_to};
use crate::application_state::{
    ApplicationState, StateAnswer, StateEntry, StateError, StateFuture, StateOperation,
};

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
            StateOperation::Set { key, value, etag, request_id } => {
                let value = value_to(value);
                let set =
                    self.client.state_set(&key, value, etag.as_deref(), request_id.as_deref());
                Ok(StateAnswer::Written { etag: set.await.map_err(write_error)? })
            }
            StateOperation::Delete { key, etag, request_id } => {
                let delete = self.client.state_delete(&key, etag.as_deref(), request_id.as_deref());
                Ok(StateAnswer::Deleted { existed: delete.await.map_err(write_error)? })
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

fn entry_from(entry: kar_hub::StateEntry) -> StateEntry {
    StateEntry { key: entry.key, value: value_from(entry.value), etag: entry.etag }
}

/// A read that failed can simply be asked for again.
fn read_error(error: HubError) -> StateError {
    match error {
        HubError::ConditionFailed { etag } => StateError::ConditionFailed { etag },
        HubError::Invalid(what) => StateError::Invalid(what),
        other => StateError::Unavailable(other.to_string()),
    }
}

/// A write that was not answered may have been done.
fn write_error(error: HubError) -> StateError {
    match read_error(error) {
        StateError::Unavailable(what) => StateError::Unknown(what),
        other => other,
    }
}
