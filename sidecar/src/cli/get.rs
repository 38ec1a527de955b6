//! `kar get`: who is there, and what is under way.

use kar_proto::v1::{
    ActorInfo, ApplicationError, AttemptEndCause, DeadLetter, InvocationInfo, InvocationMode,
    InvocationState, ListActorsRequest, ListDeadLettersRequest, ListInvocationsRequest,
    ListNodesRequest, NodeInfo, Target, target,
};
use serde_json::{Value, json};

use super::args::ListArgs;
use super::client::with_session;
use super::exit::{Effect, Failure, Outcome};
use super::invocation::ending;
use super::listing::{Omitted, Page, listed};
use super::output::{Table, age};

/// What Ctrl-C means.
pub(super) const NOTHING: &str = "nothing was changed";

/// `kar get nodes`.
pub(crate) async fn nodes(args: ListArgs) -> Outcome {
    with_session(&args.reach, NOTHING, async |session| {
        let answer = session.system().list_nodes(ListNodesRequest {}).await.map_err(read)?;
        let mut nodes = answer.into_inner().nodes;
        nodes.retain(|node| session.own_node() != Some(&node.name));
        let omitted = Omitted::beyond(args.limit, nodes.len());
        nodes.truncate(args.limit);
        let mut table =
            Table::new(&["NODE", "INCARNATION", "PID", "SERVICES", "ACTOR TYPES", "STATE"]);
        for node in &nodes {
            table.row(vec![
                node.name.clone(),
                node.incarnation.to_string(),
                node.process_id.to_string(),
                node.services.join(","),
                node.actor_types.join(","),
                if node.leaving { "leaving" } else { "live" }.into(),
            ]);
        }
        omitted.print(args.output, &table, nodes.iter().map(node_json).collect())
    })
    .await
}

/// `kar get actors`.
pub(crate) async fn actors(args: ListArgs, kind: Option<String>) -> Outcome {
    with_session(&args.reach, NOTHING, async |session| {
        let table = Table::new(&["TYPE", "ID", "NODE", "QUEUED", "STATE"]);
        let kind = kind.unwrap_or_default();
        listed(&args, table, actor, async |page_size, page_token| {
            let request = ListActorsRequest { r#type: kind.clone(), page_size, page_token };
            let page = session.system().list_actors(request).await?.into_inner();
            let (rows, next_page_token) = (page.actors, page.next_page_token);
            Ok(Page { rows, left_out: page.left_out, next_page_token })
        })
        .await
    })
    .await
}

/// `kar get invocations`.
pub(crate) async fn invocations(args: ListArgs, kind: Option<String>) -> Outcome {
    with_session(&args.reach, NOTHING, async |session| {
        let table = Table::new(&[
            "TARGET",
            "METHOD",
            "MODE",
            "STATE",
            "ATTEMPT",
            "AGE",
            "NODE",
            "INVOCATION",
        ]);
        let kind = kind.unwrap_or_default();
        let show = |info: InvocationInfo| {
            let json = invocation_json(&info);
            (invocation_row(info), json)
        };
        listed(&args, table, show, async |page_size, page_token| {
            let request = ListInvocationsRequest { kind: kind.clone(), page_size, page_token };
            let page = session.invocations().list_invocations(request).await?.into_inner();
            let (rows, next_page_token) = (page.invocations, page.next_page_token);
            Ok(Page { rows, left_out: page.left_out, next_page_token })
        })
        .await
    })
    .await
}

/// `kar get dead-letters`.
pub(crate) async fn dead_letters(args: ListArgs, kind: Option<String>) -> Outcome {
    with_session(&args.reach, NOTHING, async |session| {
        let table = Table::new(&["TARGET", "METHOD", "ERROR", "ATTEMPTS", "ENDED", "INVOCATION"]);
        let kind = kind.unwrap_or_default();
        let show = |letter: DeadLetter| {
            let json = dead_letter_json(&letter);
            (dead_letter_row(letter), json)
        };
        listed(&args, table, show, async |page_size, page_token| {
            let request = ListDeadLettersRequest { kind: kind.clone(), page_size, page_token };
            let page = session.invocations().list_dead_letters(request).await?.into_inner();
            let (rows, next_page_token) = (page.dead_letters, page.next_page_token);
            Ok(Page { rows, left_out: page.left_out, next_page_token })
        })
        .await
    })
    .await
}

fn actor(info: ActorInfo) -> (Vec<String>, Value) {
    let actor = info.actor.unwrap_or_default();
    let json = json!({
        "type": actor.r#type, "id": actor.id, "node": info.node,
        "queued": info.queued, "busy": info.busy,
    });
    let state = if info.busy { "busy" } else { "idle" };
    let cells = vec![actor.r#type, actor.id, info.node, info.queued.to_string(), state.into()];
    (cells, json)
}

fn dead_letter_json(letter: &DeadLetter) -> Value {
    json!({
        "invocation_id": letter.invocation_id, "target": target_text(letter.target.as_ref()),
        "method": letter.method, "attempts": letter.attempts,
        "error": letter.error.as_ref().map(error_json),
        "create_time": letter.create_time.as_ref().map(ToString::to_string),
        "end_time": letter.end_time.as_ref().map(ToString::to_string),
    })
}

fn dead_letter_row(letter: DeadLetter) -> Vec<String> {
    vec![
        target_text(letter.target.as_ref()),
        letter.method,
        letter.error.map_or("expired".into(), |error| format!("{}: {}", error.code, error.message)),
        letter.attempts.to_string(),
        age(letter.end_time.as_ref()),
        letter.invocation_id,
    ]
}

pub(super) fn node_json(node: &NodeInfo) -> Value {
    json!({
        "name": node.name, "incarnation": node.incarnation, "process_id": node.process_id,
        "services": node.services, "actor_types": node.actor_types, "address": node.address,
        "leaving": node.leaving,
    })
}

pub(super) fn invocation_json(info: &InvocationInfo) -> Value {
    // Of one that has ended only that may be known.
    let known = |text: &'static str| (text != "-" && !text.is_empty()).then_some(text);
    json!({
        "invocation_id": info.invocation_id,
        "target": info.target.as_ref().map(|target| target_text(Some(target))),
        "method": info.method, "mode": known(mode(info.mode())),
        "state": standing(info.state()), "attempt": info.attempt, "node": info.node,
        "create_time": info.create_time.as_ref().map(ToString::to_string),
        "cancel_requested": info.cancel_requested,
        "retry_time": info.retry_time.as_ref().map(ToString::to_string),
        "behind_invocation_id": info.behind_invocation_id,
        "last_attempt_end": info.last_attempt_end.as_ref().map(|end| {
            json!({ "cause": cause(end.cause()), "message": end.message })
        }),
        "end": known(ending(info.end())),
        "end_time": info.end_time.as_ref().map(ToString::to_string),
        "error": info.error.as_ref().map(error_json),
    })
}

fn error_json(error: &ApplicationError) -> Value {
    json!({ "code": error.code, "message": error.message, "detail": error.detail })
}

fn invocation_row(info: InvocationInfo) -> Vec<String> {
    vec![
        target_text(info.target.as_ref()),
        info.method.clone(),
        mode(info.mode()).into(),
        match () {
            () if info.cancel_requested => "cancelling",
            // Somebody has to look at what it waits for: `-o json` names that.
            () if !info.behind_invocation_id.is_empty() => "behind-parked",
            () => standing(info.state()),
        }
        .into(),
        info.attempt.to_string(),
        age(info.create_time.as_ref()),
        info.node,
        info.invocation_id,
    ]
}

pub(super) fn target_text(target: Option<&Target>) -> String {
    match target.and_then(|t| t.kind.as_ref()) {
        Some(target::Kind::Service(service)) => service.name.clone(),
        Some(target::Kind::Actor(actor)) => format!("{}/{}", actor.r#type, actor.id),
        None => "-".into(),
    }
}

pub(super) fn mode(mode: InvocationMode) -> &'static str {
    match mode {
        InvocationMode::Unspecified => "-",
        InvocationMode::Call => "call",
        InvocationMode::Tell => "tell",
        InvocationMode::Start => "start",
        InvocationMode::Direct => "direct",
        InvocationMode::Deactivate => "deactivate",
    }
}

pub(super) fn standing(state: InvocationState) -> &'static str {
    match state {
        InvocationState::Unspecified => "-",
        InvocationState::Queued => "queued",
        InvocationState::Running => "running",
        InvocationState::Suspended => "suspended",
        InvocationState::Retrying => "retrying",
        InvocationState::Completed => "completed",
        InvocationState::Moved => "moved",
        InvocationState::Parked => "parked",
    }
}

pub(super) fn cause(cause: AttemptEndCause) -> &'static str {
    match cause {
        AttemptEndCause::Unspecified => "-",
        AttemptEndCause::HostLost => "host-lost",
        AttemptEndCause::OwnerLost => "owner-lost",
        AttemptEndCause::HandOver => "hand-over",
        AttemptEndCause::ApplicationError => "application-error",
        AttemptEndCause::Stopped => "stopped",
    }
}

pub(super) fn read(status: tonic::Status) -> Failure {
    Failure::from_status(&status, Effect::Reads)
}
