//! Keeps a component connected: opens streams, runs them one after the other, and backs off in
//! between.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use kar_proto::v1::Hello;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout_at};
use tonic::Code;

use super::queue::Queue;
use super::session::{End, Lasting, Live};
use super::{Command, Handle};
use crate::error::ConnectError;
use crate::hosted::Table;
use crate::limits::{BACKOFF_MAX, BACKOFF_MIN};
use crate::transport::{Dialer, Session, Settings, Sidecar};

/// How long the first connection waits for an earlier host stream of the same sidecar to go away:
/// the one of this component's predecessor, which has just died.
const PREDECESSOR_TIMEOUT: Duration = Duration::from_secs(1);

/// Who the sidecar said it is.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) name: String,
    pub(crate) application: String,
}

/// A running connection.
pub(crate) struct Connected {
    pub(crate) handle: Handle,
    pub(crate) node: Node,
    /// Ends with the connection; an error says why it was given up.
    pub(crate) task: JoinHandle<Result<(), String>>,
}

/// Connects, and keeps connected in a task of its own.
pub(crate) async fn connect(
    settings: Settings,
    table: Option<Table>,
    hello: Hello,
) -> Result<Connected, ConnectError> {
    let sidecar = Sidecar { dialer: settings.dialer()?, patience: settings.reconnect_timeout };
    let sidecar = Arc::new(sidecar);
    let first =
        dial(&sidecar.dialer, &hello, settings.connect_timeout, PREDECESSOR_TIMEOUT).await?;
    let node =
        Node { name: first.welcome.node.clone(), application: first.welcome.application.clone() };
    let (handle, commands) = Handle::new(settings.requests_max, sidecar.clone());
    let lasting = Lasting {
        settings,
        commands,
        handle: handle.downgrade(),
        table: table.map(Arc::new),
        roots: Queue::new(),
        number: 0,
        leaving: false,
        unneeded: false,
    };
    let task = tokio::spawn(run(lasting, sidecar, hello, first));
    Ok(Connected { handle, node, task })
}

async fn run(
    mut lasting: Lasting,
    sidecar: Arc<Sidecar>,
    hello: Hello,
    first: Session,
) -> Result<(), String> {
    let mut next = first;
    let result = loop {
        let mut live = Live::new(&mut lasting, next);
        let end = poll_fn(|cx| live.poll(cx)).await;
        let reason = match &end {
            End::Closed => "the connection was shut down",
            End::Broken(reason) => reason,
        };
        live.give_up(reason).await;
        match &end {
            End::Broken(_) if lasting.leaving || lasting.unneeded => break Ok(()),
            End::Closed => break Ok(()),
            End::Broken(reason) => tracing::warn!(%reason, "lost the sidecar, connecting again"),
        }
        match redial(&mut lasting, &sidecar.dialer, &hello).await {
            Some(Ok(session)) => next = session,
            Some(Err(error)) => break Err(error.to_string()),
            None => break Ok(()),
        }
        tracing::info!("connected again");
    };
    if let Err(reason) = &result {
        lasting.handle.set_closed(reason);
    }
    result
}

/// Connects again, taking commands meanwhile; `None` if there is no need any more.
async fn redial(
    lasting: &mut Lasting,
    dialer: &Dialer,
    hello: &Hello,
) -> Option<Result<Session, ConnectError>> {
    let patience = lasting.settings.reconnect_timeout;
    let mut dialing = pin!(dial(dialer, hello, patience, patience));
    loop {
        tokio::select! {
            session = &mut dialing => return Some(session),
            command = lasting.commands.recv() => match command {
                Some(Command::Request(request)) => {
                    // Turns of the broken stream have stopped; what they asked for last is void.
                    if matches!(request.sender, super::Sender::Root(_)) {
                        lasting.roots.push_back(request);
                    }
                }
                // Whatever number it had was the broken stream's.
                Some(Command::GivenUp(_)) => lasting.roots.given_up(),
                Some(Command::TurnDone { .. }) => {}
                Some(Command::Leave | Command::Stop) | None => return None,
            },
        }
    }
}

/// Tries to connect for as long as `patience` lasts.
async fn dial(
    dialer: &Dialer,
    hello: &Hello,
    patience: Duration,
    predecessor: Duration,
) -> Result<Session, ConnectError> {
    let start = Instant::now();
    let mut pause = BACKOFF_MIN;
    loop {
        let opened = timeout_at(start + patience, dialer.open(hello.clone())).await;
        let error = match opened {
            Ok(Ok(session)) => return Ok(session),
            Ok(Err(error)) => error,
            Err(_) => return Err(dialer.unreachable("no answer in time")),
        };
        let enough = match error.is_final() {
            Finality::Final => true,
            Finality::Predecessor => start.elapsed() + pause >= predecessor.min(patience),
            Finality::Passing => start.elapsed() + pause >= patience,
        };
        if enough {
            return Err(error);
        }
        tracing::debug!(%error, ?pause, "cannot connect yet");
        sleep(jittered(pause)).await;
        pause = (pause * 2).min(BACKOFF_MAX);
    }
}

/// Whether another attempt to connect can come to something else.
enum Finality {
    Final,
    /// Another component still hosts on that sidecar, maybe one that has just died.
    Predecessor,
    Passing,
}

impl ConnectError {
    fn is_final(&self) -> Finality {
        let Self::Refused(rejection) = self else {
            return match self {
                Self::Unreachable { .. } => Finality::Passing,
                _ => Finality::Final,
            };
        };
        match Code::from_i32(rejection.code) {
            Code::AlreadyExists => Finality::Predecessor,
            Code::Unauthenticated
            | Code::PermissionDenied
            | Code::InvalidArgument
            | Code::FailedPrecondition
            | Code::Unimplemented => Finality::Final,
            _ => Finality::Passing,
        }
    }
}

/// Between a half and the whole of `pause`, so that many components do not come back at once.
pub(crate) fn jittered(pause: Duration) -> Duration {
    let random = f64::from(uuid::Uuid::new_v4().as_bytes()[0]) / 255.0;
    pause.mul_f64(0.5 + random / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jitter_stays_within_half_and_whole() {
        for _ in 0..1000 {
            let pause = jittered(BACKOFF_MAX);
            assert!(pause >= BACKOFF_MAX / 2 && pause <= BACKOFF_MAX, "{pause:?}");
        }
    }
}
