//! `kar get`: who is there, and what is under way.

use kar_proto::v1::{
    AttemptEndCause, DeadLetter, InvocationInfo, InvocationMode, InvocationState, LeftOut,
    ListActorsRequest, ListDeadLettersRequest, ListInvocationsRequest, ListNodesRequest, NodeInfo,
    SilentNode, Target, target,
};
use serde_json::{Value, json};

use super::args::{Format, ListArgs};
use super::client::with_session;
use super::exit::{Effect, Failure, Outcome};
use super::output::{self, Table, age};

/// Entries asked for at a time.
const PAGE_SIZE: usize = 1_000;
/// Partitions whose names are shown of those that a listing leaves out.
const PARTITIONS_SHOWN: usize = 10;
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
        let mut table = Table::new(&["TYPE", "ID", "NODE", "QUEUED", "STATE"]);
        let (mut listed, mut omitted) = (Vec::new(), Omitted::default());
        let mut request = ListActorsRequest {
            r#type: kind.unwrap_or_default(),
            page_size: page_size(args.limit),
            page_token: String::new(),
        };
        loop {
            let page =
                session.system().list_actors(request.clone()).await.map_err(read)?.into_inner();
            for info in page.actors {
                let actor = info.actor.unwrap_or_default();
                listed.push(json!({
                    "type": actor.r#type, "id": actor.id, "node": info.node,
                    "queued": info.queued, "busy": info.busy,
                }));
                let state = if info.busy { "busy" } else { "idle" };
                table.row(vec![
                    actor.r#type,
                    actor.id,
                    info.node,
                    info.queued.to_string(),
                    state.into(),
                ]);
            }
            omitted.note(page.left_out);
            let next = &page.next_page_token;
            let Some(left) = omitted.left(args.limit, listed.len(), next) else { break };
            request.page_size = page_size(left);
            request.page_token = page.next_page_token;
        }
        omitted.print(args.output, &table, listed)
    })
    .await
}

/// `kar get invocations`.
pub(crate) async fn invocations(args: ListArgs, kind: Option<String>) -> Outcome {
    with_session(&args.reach, NOTHING, async |session| {
        let mut table = Table::new(&[
            "TARGET",
            "METHOD",
            "MODE",
            "STATE",
            "ATTEMPT",
            "AGE",
            "NODE",
            "INVOCATION",
        ]);
        let (mut listed, mut omitted) = (Vec::new(), Omitted::default());
        let mut request = ListInvocationsRequest {
            kind: kind.unwrap_or_default(),
            page_size: page_size(args.limit),
            page_token: String::new(),
        };
        loop {
            let answer = session.invocations().list_invocations(request.clone()).await;
            let page = answer.map_err(read)?.into_inner();
            for info in page.invocations {
                listed.push(invocation_json(&info));
                table.row(invocation_row(info));
            }
            omitted.note(page.left_out);
            let next = &page.next_page_token;
            let Some(left) = omitted.left(args.limit, listed.len(), next) else { break };
            request.page_size = page_size(left);
            request.page_token = page.next_page_token;
        }
        omitted.print(args.output, &table, listed)
    })
    .await
}

/// `kar get dead-letters`.
pub(crate) async fn dead_letters(args: ListArgs, kind: Option<String>) -> Outcome {
    with_session(&args.reach, NOTHING, async |session| {
        let mut table =
            Table::new(&["TARGET", "METHOD", "ERROR", "ATTEMPTS", "ENDED", "INVOCATION"]);
        let (mut listed, mut omitted) = (Vec::new(), Omitted::default());
        let mut request = ListDeadLettersRequest {
            kind: kind.unwrap_or_default(),
            page_size: page_size(args.limit),
            page_token: String::new(),
        };
        loop {
            let answer = session.invocations().list_dead_letters(request.clone()).await;
            let page = answer.map_err(read)?.into_inner();
            for letter in page.dead_letters {
                listed.push(dead_letter_json(&letter));
                table.row(dead_letter_row(letter));
            }
            omitted.note(page.left_out);
            let next = &page.next_page_token;
            let Some(left) = omitted.left(args.limit, listed.len(), next) else { break };
            request.page_size = page_size(left);
            request.page_token = page.next_page_token;
        }
        omitted.print(args.output, &table, listed)
    })
    .await
}

fn dead_letter_json(letter: &DeadLetter) -> Value {
    json!({
        "invocation_id": letter.invocation_id, "target": target_text(letter.target.as_ref()),
        "method": letter.method, "attempts": letter.attempts,
        "error": letter.error.as_ref().map(|error| {
            json!({ "code": error.code, "message": error.message, "detail": error.detail })
        }),
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

fn invocation_json(info: &InvocationInfo) -> Value {
    json!({
        "invocation_id": info.invocation_id, "target": target_text(info.target.as_ref()),
        "method": info.method, "mode": mode(info.mode()), "state": standing(info.state()),
        "attempt": info.attempt, "node": info.node,
        "create_time": info.create_time.as_ref().map(ToString::to_string),
        "cancel_requested": info.cancel_requested,
        "retry_time": info.retry_time.as_ref().map(ToString::to_string),
        "behind_invocation_id": info.behind_invocation_id,
        "last_attempt_end": info.last_attempt_end.as_ref().map(|end| {
            json!({ "cause": cause(end.cause()), "message": end.message })
        }),
    })
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

fn target_text(target: Option<&Target>) -> String {
    match target.and_then(|t| t.kind.as_ref()) {
        Some(target::Kind::Service(service)) => service.name.clone(),
        Some(target::Kind::Actor(actor)) => format!("{}/{}", actor.r#type, actor.id),
        None => "-".into(),
    }
}

fn mode(mode: InvocationMode) -> &'static str {
    match mode {
        InvocationMode::Unspecified => "-",
        InvocationMode::Call => "call",
        InvocationMode::Tell => "tell",
        InvocationMode::Start => "start",
        InvocationMode::Direct => "direct",
        InvocationMode::Deactivate => "deactivate",
    }
}

fn standing(state: InvocationState) -> &'static str {
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

fn cause(cause: AttemptEndCause) -> &'static str {
    match cause {
        AttemptEndCause::Unspecified => "-",
        AttemptEndCause::HostLost => "host-lost",
        AttemptEndCause::OwnerLost => "owner-lost",
        AttemptEndCause::HandOver => "hand-over",
        AttemptEndCause::ApplicationError => "application-error",
        AttemptEndCause::Stopped => "stopped",
    }
}

/// What a listing does not show.
#[derive(Default)]
struct Omitted {
    left_out: Option<LeftOut>,
    /// There are more than this, which is what was asked for.
    limit: Option<usize>,
}

// === impl Omitted ===

impl Omitted {
    fn beyond(limit: usize, found: usize) -> Self {
        Self { left_out: None, limit: (found > limit).then_some(limit) }
    }

    /// What a page could not tell.
    fn note(&mut self, left_out: Option<LeftOut>) {
        self.left_out = left_out.or(self.left_out.take());
    }

    /// How many more are wanted, if there are any. That there are more than are wanted is told.
    fn left(&mut self, limit: usize, listed: usize, next_page_token: &str) -> Option<usize> {
        if next_page_token.is_empty() {
            return None;
        }
        if listed >= limit {
            self.limit = Some(limit);
            return None;
        }
        Some(limit - listed)
    }

    /// Prints a listing and what it leaves out: below a table, or as the last element of a JSON array, which has no
    /// other field than `left_out`.
    fn print(&self, format: Format, table: &Table, mut rows: Vec<Value>) -> Outcome {
        match format {
            Format::Json => rows.extend(self.to_json()),
            Format::Table => {}
        }
        output::print(format, table, &Value::Array(rows))?;
        if format == Format::Table {
            self.lines().iter().for_each(|line| eprintln!("{line}"));
        }
        Ok(())
    }

    fn to_json(&self) -> Option<Value> {
        if self.left_out.is_none() && self.limit.is_none() {
            return None;
        }
        let left_out = self.left_out.clone().unwrap_or_default();
        let node = |node: &SilentNode| json!({ "name": node.name, "cause": node.cause });
        let nodes: Vec<Value> = left_out.nodes.iter().map(node).collect();
        Some(json!({ "left_out": {
            "nodes": nodes, "partitions": left_out.partitions, "rows": left_out.rows,
            "beyond_limit": self.limit,
        } }))
    }

    fn lines(&self) -> Vec<String> {
        let left_out = self.left_out.clone().unwrap_or_default();
        let mut lines = Vec::new();
        for node in &left_out.nodes {
            lines.push(format!("left out: node {} did not answer ({})", node.name, node.cause));
        }
        if !left_out.partitions.is_empty() {
            let shown = left_out.partitions.iter().take(PARTITIONS_SHOWN);
            let names = shown.map(String::as_str).collect::<Vec<_>>().join(", ");
            let count = left_out.partitions.len();
            let more = if count > PARTITIONS_SHOWN { ", …" } else { "" };
            lines.push(format!("left out: {count} partitions that nobody tells of: {names}{more}"));
        }
        if left_out.rows > 0 {
            lines.push(format!(
                "left out: {} rows of partitions that have too many; list a single kind",
                left_out.rows
            ));
        }
        if let Some(limit) = self.limit {
            lines.push(format!("left out: there are more than {limit} (--limit)"));
        }
        lines
    }
}

fn page_size(limit: usize) -> i32 {
    i32::try_from(limit.clamp(1, PAGE_SIZE)).unwrap_or(i32::MAX)
}

pub(super) fn read(status: tonic::Status) -> Failure {
    Failure::from_status(&status, Effect::Reads)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_out_is_told_in_both_forms() {
        assert!(Omitted::default().to_json().is_none() && Omitted::default().lines().is_empty());
        let silent = SilentNode { name: "n1".into(), cause: "no answer in time".into() };
        let partitions: Vec<_> = (0..12).map(|n| format!("a.K/{n}")).collect();
        let mut omitted = Omitted::default();
        omitted.note(Some(LeftOut { nodes: vec![silent], partitions, rows: 7 }));
        omitted.note(None);
        assert_eq!(omitted.left(5, 5, "more"), None);
        let lines = omitted.lines();
        assert_eq!(lines.len(), 4, "{lines:?}");
        assert!(lines[0].contains("n1") && lines[1].contains("12 partitions"), "{lines:?}");
        assert!(lines[1].ends_with("a.K/9, …") && lines[2].contains("7 rows"), "{lines:?}");
        let json = omitted.to_json().expect("something is left out");
        assert_eq!(json["left_out"]["nodes"][0]["name"], "n1");
        assert_eq!(json["left_out"]["rows"], 7);
        assert_eq!(json["left_out"]["beyond_limit"], 5);
    }
}
