//! `kar actor`: what is done to an actor as a whole.

use kar_proto::v1::{ActorTarget, RemoveActorRequest};

use super::args::{ActorArgs, ActorCommand};
use super::client::with_session;
use super::exit::{Effect, Failure, Outcome};
use super::payload;

/// What Ctrl-C means for a removal that was sent.
const UNKNOWN: &str = "whether it was removed is unknown: `kar state actor` shows what it has";

/// `kar actor …`.
pub(crate) async fn actor(command: ActorCommand) -> Outcome {
    let ActorCommand::Remove { reach, actor: ActorArgs { kind, id } } = command;
    let name = format!("{kind} {id}");
    let request = RemoveActorRequest { actor: Some(ActorTarget { r#type: kind, id }) };
    with_session(&reach, UNKNOWN, async |session| {
        let failed = |status| Failure::from_status(&status, Effect::Writes);
        session.system().remove_actor(request).await.map_err(failed)?;
        payload::line(&format!("removed: {name}"))
    })
    .await
}
