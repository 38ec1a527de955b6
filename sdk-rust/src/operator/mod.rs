//! What an operator asks for ([`Operator`]): what is unfinished and what has failed, who is there and
//! who is busy, and that a node hands over.

mod listing;
mod view;

use std::collections::BTreeMap;

use kar_proto::v1 as proto;
use kar_proto::v1::event_service_client::EventServiceClient;
use kar_proto::v1::invocation_service_client::InvocationServiceClient;
use kar_proto::v1::system_service_client::SystemServiceClient;
use tokio::time::{Instant, sleep};
use tonic::Status;
use tonic::transport::Channel;

pub use listing::{LeftOut, Listing};
pub use view::{
    AttemptEnd, AttemptEndCause, BusyActor, DeadLetter, InvocationEnd, InvocationMode,
    InvocationState, InvocationTarget, InvocationView,
};

use crate::call::InvocationId;
use crate::error::CallError;
use crate::limits::{BACKOFF_MAX, BACKOFF_MIN, MESSAGE_BYTES_DECODE_MAX};
use crate::stream::driver::jittered;
use crate::stream::{Answer, Handle, Operation};
use crate::topology::{TopologyNode, unavailable};
use crate::transport::Sidecar;

/// What operators and their tools ask for: [`Client::operator`](crate::Client::operator). Cheap to
/// clone.
///
/// What only asks has a connection of its own for each request, and is asked again while the sidecar
/// cannot be reached, for as long as the client's `reconnect_timeout`; then it fails with
/// [`CallError::Unavailable`] or [`CallError::Unknown`]. To end invocations, or to let parked ones go
/// on, see [`Client::cancel`](crate::Client::cancel) and [`Client::resume`](crate::Client::resume).
///
/// ```no_run
/// # async fn f(client: kar_sdk::Client) -> Result<(), kar_sdk::CallError> {
/// let operator = client.operator();
/// let mut letters = operator.dead_letters().of("Account");
/// while let Some(letter) = letters.next().await? {
///     match &letter.error {
///         Some(error) if error.code == "busy" => drop(operator.redrive(&letter.id).await?),
///         _ => operator.discard(&letter.id).await?,
///     }
/// }
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct Operator {
    handle: Handle,
}

/// What a sidecar says of itself.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct SidecarInfo {
    /// Its application.
    pub application: String,
    /// Its node; `None` while it has not joined.
    pub node: Option<TopologyNode>,
    /// Its version.
    pub version: String,
    /// Partitions that it owns, as `KIND/INDEX` with `s.` before services and `a.` before actor types.
    pub partitions: Vec<String>,
    /// Every bound with its value, by name.
    pub limits: BTreeMap<String, i64>,
    /// Counters since its start, by name.
    pub counters: BTreeMap<String, i64>,
    /// What stands still on its node until somebody mends it, for people.
    pub faults: Vec<String>,
}

// === impl Operator ===

impl Operator {
    pub(crate) fn new(handle: Handle) -> Self {
        Self { handle }
    }

    /// What is known of one invocation: of an unfinished one, of a dead letter, and of one whose
    /// outcome is kept for somebody (then only how it ended).
    ///
    /// # Errors
    /// [`CallError::UnknownInvocation`] if nothing is; [`CallError::Rejected`] with reason
    /// `INVALID_FIELD` if it is no id.
    pub async fn invocation(&self, id: &InvocationId) -> Result<InvocationView, CallError> {
        let sidecar = self.handle.sidecar();
        let request = proto::GetInvocationRequest { invocation_id: id.0.clone() };
        let answer = sidecar.ask(|channel| {
            let request = sidecar.dialer.authorized(request.clone());
            async move { invocations(channel).get_invocation(request).await }
        });
        let info = answer.await?.invocation;
        let info = info.ok_or_else(|| CallError::mismatch("get_invocation"))?;
        Ok(InvocationView::from_proto(info))
    }

    /// The unfinished invocations of the application, oldest first.
    #[must_use]
    pub fn invocations(&self) -> Listing<InvocationView> {
        Listing::new(self.handle.sidecar().clone())
    }

    /// The dead letters of the application, oldest first: tells that ended without success, because
    /// their method failed or their deadline passed. They go by themselves after a time.
    #[must_use]
    pub fn dead_letters(&self) -> Listing<DeadLetter> {
        Listing::new(self.handle.sidecar().clone())
    }

    /// The actors of the application that are busy, or have invocations queued, by type and id.
    #[must_use]
    pub fn actors(&self) -> Listing<BusyActor> {
        Listing::new(self.handle.sidecar().clone())
    }

    /// Sends a dead letter again, as a new tell without a deadline, whose id this is; it is no dead
    /// letter any more. It is neither lost nor sent twice.
    ///
    /// # Errors
    /// [`CallError::UnknownInvocation`] if there is no such dead letter (any more);
    /// [`CallError::Unknown`] if the connection broke: see whether it is still listed.
    pub async fn redrive(&self, id: &InvocationId) -> Result<InvocationId, CallError> {
        let request = proto::RedriveDeadLetterRequest { invocation_id: id.0.clone() };
        match self.handle.request(Operation::RedriveDeadLetter(request)).await? {
            Answer::RedriveDeadLetter(answer) => Ok(InvocationId(answer.invocation_id)),
            _ => Err(CallError::mismatch("redrive_dead_letter")),
        }
    }

    /// Drops a dead letter.
    ///
    /// # Errors
    /// As [`redrive`](Self::redrive).
    pub async fn discard(&self, id: &InvocationId) -> Result<(), CallError> {
        let request = proto::DiscardDeadLetterRequest { invocation_id: id.0.clone() };
        match self.handle.request(Operation::DiscardDeadLetter(request)).await? {
            Answer::DiscardDeadLetter(_) => Ok(()),
            _ => Err(CallError::mismatch("discard_dead_letter")),
        }
    }

    /// The live nodes of the application, by incarnation.
    ///
    /// # Errors
    /// The sidecar's.
    pub async fn nodes(&self) -> Result<Vec<TopologyNode>, CallError> {
        let sidecar = self.handle.sidecar();
        let answer = sidecar.ask(|channel| {
            let request = sidecar.dialer.authorized(proto::ListNodesRequest {});
            async move { system(channel).list_nodes(request).await }
        });
        Ok(answer.await?.nodes.into_iter().map(TopologyNode::from_proto).collect())
    }

    /// What the client's sidecar says of itself.
    ///
    /// # Errors
    /// The sidecar's.
    pub async fn info(&self) -> Result<SidecarInfo, CallError> {
        let sidecar = self.handle.sidecar();
        let answer = sidecar.ask(|channel| {
            let request = sidecar.dialer.authorized(proto::GetInfoRequest {});
            async move { system(channel).get_info(request).await }
        });
        let info = answer.await?;
        Ok(SidecarInfo {
            application: info.application,
            node: info.node.map(TopologyNode::from_proto),
            version: info.sidecar_version,
            partitions: info.partitions,
            limits: info.limits.into_iter().collect(),
            counters: info.counters.into_iter().collect(),
            faults: info.faults,
        })
    }

    /// Has the client's sidecar hand over every partition that it owns; returns when it owns none. It
    /// can be stopped then without anybody noticing.
    ///
    /// # Errors
    /// [`CallError::Unavailable`] with reason `DRAINING` if it takes longer than the sidecar allows:
    /// it goes on, ask again. [`CallError::Unknown`] if the connection broke.
    pub async fn drain(&self) -> Result<(), CallError> {
        let sidecar = self.handle.sidecar();
        let mut client = system(sidecar.connected().await?);
        let answer = client.drain(sidecar.dialer.authorized(proto::DrainRequest {})).await;
        answer.map(drop).map_err(|status| written(&status))
    }

    /// Has the client's sidecar hand over, and then end: also the component that runs under it, which
    /// may be this very program. Returns at once.
    ///
    /// # Errors
    /// [`CallError::Unknown`] if the connection broke.
    pub async fn shut_down(&self) -> Result<(), CallError> {
        let sidecar = self.handle.sidecar();
        let mut client = system(sidecar.connected().await?);
        let answer = client.shutdown(sidecar.dialer.authorized(proto::ShutdownRequest {})).await;
        answer.map(drop).map_err(|status| written(&status))
    }
}

// === impl Sidecar ===

impl Sidecar {
    /// Asks for something that may be asked any number of times, on a connection of its own; again for a
    /// while if the sidecar cannot be reached.
    pub(crate) async fn ask<T, F>(&self, request: impl Fn(Channel) -> F) -> Result<T, CallError>
    where
        F: Future<Output = Result<tonic::Response<T>, Status>>,
    {
        let (start, mut pause) = (Instant::now(), BACKOFF_MIN);
        loop {
            let answer = match self.connected().await {
                Ok(channel) => {
                    let answer = request(channel).await.map(tonic::Response::into_inner);
                    answer.map_err(|status| CallError::from_grpc(&status))
                }
                Err(error) => Err(error),
            };
            match answer {
                Err(CallError::Unavailable(_) | CallError::Unknown(_))
                    if start.elapsed() + pause < self.patience => {}
                done => return done,
            }
            sleep(jittered(pause)).await;
            pause = (pause * 2).min(BACKOFF_MAX);
        }
    }

    async fn connected(&self) -> Result<Channel, CallError> {
        self.dialer.channel().await.map_err(|error| unavailable(&error.to_string()))
    }
}

fn invocations(channel: Channel) -> InvocationServiceClient<Channel> {
    InvocationServiceClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_DECODE_MAX)
}

fn events(channel: Channel) -> EventServiceClient<Channel> {
    EventServiceClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_DECODE_MAX)
}

fn system(channel: Channel) -> SystemServiceClient<Channel> {
    SystemServiceClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_DECODE_MAX)
}

/// What was sent may have been carried out unless it is the sidecar that says otherwise.
fn written(status: &Status) -> CallError {
    match CallError::from_grpc(status) {
        CallError::Unavailable(rejection) if rejection.reason.is_empty() => {
            CallError::Unknown(rejection.message)
        }
        error => error,
    }
}
