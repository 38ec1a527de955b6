//! State outside of turns, in the hub: the application's keys, and the committed state of actors.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};

use kar_core::assign::partition_index;
use kar_core::ids::{Kind, PartitionId, Uuid};
use kar_core::invocation::{Payload, Target};
use kar_hub::{ClientConfig, HubClient, HubError, HubEvent, LogName};
use tokio::sync::{OnceCell, oneshot};

use super::hub::{Kinds, lock, value_from, value_to};
use super::{ApplicationState, StateAnswer, StateEntry, StateError, StateFuture, StateOperation};

/// The application's state in the hub. Cheap to clone.
#[derive(Clone)]
pub struct HubState {
    client: HubClient,
    kinds: Kinds,
    actors: Arc<ActorReader>,
}

/// Reads actors over a connection of its own, made when it is first needed: answers to the core's loads and to these
/// could otherwise not be told apart.
struct ActorReader {
    config: ClientConfig,
    client: OnceCell<HubClient>,
    waiting: Arc<Mutex<Waiting>>,
}

type ActorState = BTreeMap<Arc<str>, Payload>;
type Waiting = HashMap<(LogName, String), Vec<oneshot::Sender<ActorState>>>;

// === impl HubState ===

impl HubState {
    /// The state behind a client.
    pub(super) fn new(client: HubClient, mut config: ClientConfig, kinds: Kinds) -> Self {
        config.observer = true;
        let waiting = Arc::default();
        let actors = Arc::new(ActorReader { config, client: OnceCell::new(), waiting });
        Self { client, kinds, actors }
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
            StateOperation::Actor { kind, actor } => self.read_actor(kind, actor).await,
        }
    }

    async fn read_actor(&self, kind: Kind, actor: Arc<str>) -> Result<StateAnswer, StateError> {
        let Some(count) = lock(&self.kinds).get(&kind).copied() else {
            // Nobody ever used the kind: none of its actors has state.
            return Ok(StateAnswer::Actor(BTreeMap::new()));
        };
        let target = Target { kind: kind.clone(), actor: Some(actor.clone()), affinity: None };
        // The partition of an actor does not depend on the invocation.
        let index = partition_index(&target, Uuid::default(), count);
        let log = LogName::from(PartitionId::new(kind, index).to_string());
        self.actors.read(log, &actor).await.map(StateAnswer::Actor)
    }
}

impl ApplicationState for HubState {
    fn run(&self, operation: StateOperation) -> StateFuture {
        Box::pin(self.clone().carry_out(operation))
    }
}

// === impl ActorReader ===

impl ActorReader {
    async fn read(&self, log: LogName, actor: &str) -> Result<ActorState, StateError> {
        let connect = || {
            let waiting = self.waiting.clone();
            let handler = move |events: Vec<HubEvent>| hear(&waiting, events);
            HubClient::connect(self.config.clone(), handler)
        };
        let client = self.client.get_or_try_init(connect).await.map_err(read_error)?;
        let (sender, receiver) = oneshot::channel();
        lock(&self.waiting).entry((log.clone(), actor.to_owned())).or_default().push(sender);
        client.load_actor(log, 0, actor.to_owned());
        let away = |what: &str| StateError::Unavailable(what.to_owned());
        match tokio::time::timeout(self.config.request_timeout, receiver).await {
            Ok(Ok(state)) => Ok(state),
            Ok(Err(_)) => Err(away("the hub was replaced meanwhile; ask again")),
            Err(_) => Err(away("the hub did not answer in time; ask again")),
        }
    }
}

/// Gives states to those who wait for them; they learn of a lost connection at once.
fn hear(waiting: &Mutex<Waiting>, events: Vec<HubEvent>) {
    for event in events {
        match event {
            HubEvent::ActorLoaded { log, actor, state, .. } => {
                let state: ActorState =
                    state.into_iter().map(|(k, v)| (k.into(), value_from(v))).collect();
                for sender in lock(waiting).remove(&(log, actor)).unwrap_or_default() {
                    // Whoever stopped waiting does not need it.
                    drop(sender.send(state.clone()));
                }
            }
            HubEvent::Disconnected => lock(waiting).clear(),
            _ => {}
        }
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
