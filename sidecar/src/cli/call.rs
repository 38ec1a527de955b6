//! `kar call`, `tell`, `invoke`, `start`, `await`.

use std::pin::pin;
use std::time::Duration;

use kar_proto::v1::{
    ActorTarget, ApplicationError, AwaitRequest, CallActorRequest, DeliveryMode, InvocationOptions,
    InvokeRequest, ListNodesRequest, Payload, RetryPolicy, ServiceTarget, StartRequest, Target,
    TellRequest, await_response, call_actor_response, invoke_response, target,
};
use serde_json::json;
use tokio::time::{sleep, timeout};

use super::args::{AwaitArgs, CallArgs, Format, InvocationArgs, InvokeArgs, OptionArgs, TellArgs};
use super::client::{Session, with_session};
use super::exit::{Code, Effect, Failure, Outcome};
use super::payload;

/// What Ctrl-C means for something that was sent and not yet acknowledged.
const UNKNOWN: &str =
    "whether it was accepted is unknown; if it was, it is carried out (`kar get invocations`)";

/// How long a call may go unanswered before its user is told if nobody hosts the target.
const NOTE_AFTER: Duration = Duration::from_secs(2);

/// A target, its method and the argument.
struct Invocation {
    target: target::Kind,
    method: String,
    payload: Payload,
}

/// How an invocation ended.
type Ending = Result<Payload, ApplicationError>;

/// `kar call`.
pub(crate) async fn call(args: CallArgs) -> Outcome {
    let invocation = parse(&args.invocation)?;
    let options = options(&args.options)?;
    let target = invocation.target.clone();
    with_session(&args.reach, UNKNOWN, async |session| {
        let call = bounded(args.timeout, call_durably(session, invocation, options));
        print(explained(session, &target, call).await?)
    })
    .await
}

/// `kar invoke`.
pub(crate) async fn invoke(args: InvokeArgs) -> Outcome {
    let [service, method, rest @ ..] = args.words.as_slice() else {
        return Err(Failure::usage("give SERVICE METHOD [JSON]"));
    };
    let payload =
        payload::read(rest.first().map(String::as_str), args.file.as_deref(), &args.content_type)?;
    let request = InvokeRequest {
        service: service.clone(),
        method: method.clone(),
        payload: Some(payload),
        delivery_mode: DeliveryMode::Direct.into(),
        ..InvokeRequest::default()
    };
    with_session(&args.reach, "whether it ran is unknown", async |session| {
        let answer = bounded(args.timeout, invoke_service(session, request)).await?;
        print(answer)
    })
    .await
}

/// `kar tell`.
pub(crate) async fn tell(args: TellArgs) -> Outcome {
    let Invocation { target, method, payload } = parse(&args.invocation)?;
    let request = TellRequest {
        target: Some(Target { kind: Some(target) }),
        method,
        payload: Some(payload),
        options: options(&args.options)?,
        ..TellRequest::default()
    };
    with_session(&args.reach, UNKNOWN, async |session| {
        let answer = session.invocations().tell(request).await.map_err(written)?;
        print_id(args.output, &answer.into_inner().invocation_id)
    })
    .await
}

/// `kar start`.
pub(crate) async fn start(args: TellArgs) -> Outcome {
    let Invocation { target, method, payload } = parse(&args.invocation)?;
    let request = StartRequest {
        target: Some(Target { kind: Some(target) }),
        method,
        payload: Some(payload),
        options: options(&args.options)?,
    };
    with_session(&args.reach, UNKNOWN, async |session| {
        let answer = session.invocations().start(request).await.map_err(written)?;
        print_id(args.output, &answer.into_inner().invocation_id)
    })
    .await
}

/// `kar await`.
pub(crate) async fn wait(args: AwaitArgs) -> Outcome {
    let request = AwaitRequest { invocation_id: args.id };
    with_session(&args.reach, "the invocation goes on", async |session| {
        let mut client = session.invocations();
        let waiting = async {
            let answer = client.r#await(request).await;
            let answer = answer.map_err(|s| Failure::from_status(&s, Effect::Reads))?;
            match answer.into_inner().result {
                Some(await_response::Result::Payload(payload)) => Ok(Ok(payload)),
                Some(await_response::Result::Error(error)) => Ok(Err(error)),
                None => Ok(Ok(Payload::default())),
            }
        };
        print(bounded(args.timeout, waiting).await?)
    })
    .await
}

async fn call_durably(
    session: &Session,
    invocation: Invocation,
    options: Option<InvocationOptions>,
) -> Outcome<Ending> {
    let Invocation { target, method, payload } = invocation;
    match target {
        target::Kind::Actor(actor) => {
            let request = CallActorRequest {
                actor: Some(actor),
                method,
                payload: Some(payload),
                options,
                ..CallActorRequest::default()
            };
            let answer = session.invocations().call_actor(request).await.map_err(written)?;
            Ok(match answer.into_inner().result {
                Some(call_actor_response::Result::Payload(payload)) => Ok(payload),
                Some(call_actor_response::Result::Error(error)) => Err(error),
                None => Ok(Payload::default()),
            })
        }
        target::Kind::Service(service) => {
            let request = InvokeRequest {
                service: service.name,
                affinity_key: service.affinity_key,
                method,
                payload: Some(payload),
                options,
                ..InvokeRequest::default()
            };
            invoke_service(session, request).await
        }
    }
}

async fn invoke_service(session: &Session, request: InvokeRequest) -> Outcome<Ending> {
    let answer = session.invocations().invoke(request).await.map_err(written)?;
    Ok(match answer.into_inner().result {
        Some(invoke_response::Result::Payload(payload)) => Ok(payload),
        Some(invoke_response::Result::Error(error)) => Err(error),
        None => Ok(Payload::default()),
    })
}

/// Does `work`, and says on standard error if it takes long because nobody hosts the target.
async fn explained<T>(
    session: &Session,
    target: &target::Kind,
    work: impl Future<Output = T>,
) -> T {
    let mut work = pin!(work);
    let note = async {
        sleep(NOTE_AFTER).await;
        // Only a note: where the nodes cannot be listed, the call itself will say what is wrong.
        let Ok(listed) = session.system().list_nodes(ListNodesRequest {}).await else { return };
        let nodes = listed.into_inner().nodes;
        let (name, hosted) = match target {
            target::Kind::Service(service) => (
                format!("service '{}'", service.name),
                nodes.iter().any(|node| node.services.contains(&service.name)),
            ),
            target::Kind::Actor(actor) => (
                format!("actor type '{}'", actor.r#type),
                nodes.iter().any(|node| node.actor_types.contains(&actor.r#type)),
            ),
        };
        if !hosted {
            eprintln!("kar: waiting for a host of {name}: no live node has one (`kar get nodes`)");
        }
    };
    tokio::select! {
        done = &mut work => return done,
        () = note => {}
    }
    work.await
}

fn written(status: tonic::Status) -> Failure {
    Failure::from_status(&status, Effect::Writes)
}

/// Waits for `work` no longer than `limit`. What was sent goes on: the outcome is then unknown, as
/// it is for every client that stops waiting.
async fn bounded<T>(limit: Option<Duration>, work: impl Future<Output = Outcome<T>>) -> Outcome<T> {
    let Some(limit) = limit else { return work.await };
    timeout(limit, work).await.unwrap_or_else(|_| {
        Err(Failure::new(Code::Unknown, format!("no answer within {limit:?}; stopped waiting"))
            .advise(
                "the outcome is unknown: if it was accepted, it is carried out \
                 (`kar get invocations`)",
            ))
    })
}

fn print(ending: Ending) -> Outcome {
    match ending {
        Ok(payload) => payload::print(&payload),
        Err(error) => Err(Failure::application(&error)),
    }
}

fn print_id(format: Format, id: &str) -> Outcome {
    match format {
        Format::Table => payload::line(id),
        Format::Json => payload::line(&json!({ "invocation_id": id }).to_string()),
    }
}

fn options(args: &OptionArgs) -> Outcome<Option<InvocationOptions>> {
    let OptionArgs {
        start_within,
        idempotency_key,
        retry_attempts,
        retry_backoff,
        retry_backoff_max,
        retry_multiplier,
        trace_parent,
    } = args;
    let policy = RetryPolicy {
        max_attempts: retry_attempts.unwrap_or_default(),
        initial_backoff: wire("--retry-backoff", *retry_backoff)?,
        max_backoff: wire("--retry-backoff-max", *retry_backoff_max)?,
        multiplier: retry_multiplier.unwrap_or_default(),
    };
    let retry_policy = (policy != RetryPolicy::default()).then_some(policy);
    let start_within = wire("--start-within", *start_within)?;
    let idempotency_key = idempotency_key.clone().unwrap_or_default();
    let options = InvocationOptions {
        start_within,
        retry_policy,
        idempotency_key,
        trace_parent: trace_parent.clone().unwrap_or_default(),
    };
    Ok((options != InvocationOptions::default()).then_some(options))
}

fn wire(flag: &str, duration: Option<Duration>) -> Outcome<Option<prost_types::Duration>> {
    let converted = duration.map(prost_types::Duration::try_from).transpose();
    converted.map_err(|e| Failure::usage(format!("{flag}: {e}")))
}

/// Reads `SERVICE METHOD [JSON]`, or with `--actor TYPE ID`: `METHOD [JSON]`.
fn parse(args: &InvocationArgs) -> Outcome<Invocation> {
    let (target, rest) = match (&args.actor, args.words.as_slice()) {
        (Some(actor), rest) => {
            let [kind, id] = actor.as_slice() else {
                return Err(Failure::usage("--actor takes a type and an id"));
            };
            let actor = ActorTarget { r#type: kind.clone(), id: id.clone() };
            (target::Kind::Actor(actor), rest)
        }
        (None, [service, rest @ ..]) => {
            let affinity_key = args.affinity_key.clone().unwrap_or_default();
            let service = ServiceTarget { name: service.clone(), affinity_key };
            (target::Kind::Service(service), rest)
        }
        (None, []) => return Err(Failure::usage("give SERVICE METHOD [JSON]")),
    };
    let (method, json) = match (rest, args.actor.is_some()) {
        ([method], _) => (method, None),
        ([method, json], _) => (method, Some(json.as_str())),
        ([], false) => return Err(Failure::usage("which method? give SERVICE METHOD [JSON]")),
        (_, true) => return Err(Failure::usage("give METHOD [JSON] after --actor TYPE ID")),
        (_, false) => return Err(Failure::usage("give SERVICE METHOD [JSON]")),
    };
    let payload = payload::read(json, args.file.as_deref(), &args.content_type)?;
    Ok(Invocation { target, method: method.clone(), payload })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(actor: Option<[&str; 2]>, words: &[&str]) -> Outcome<Invocation> {
        parse(&InvocationArgs {
            actor: actor.map(|words| words.map(String::from).into()),
            affinity_key: None,
            words: words.iter().map(ToString::to_string).collect(),
            file: None,
            content_type: "application/json".into(),
        })
    }

    #[test]
    fn services_and_actors_are_told_apart() {
        let service = parsed(None, &["greeter", "hello", "{}"]).expect("accepted");
        assert!(matches!(service.target, target::Kind::Service(s) if s.name == "greeter"));
        let actor = parsed(Some(["Account", "alice"]), &["balance"]).expect("accepted");
        assert!(matches!(actor.target, target::Kind::Actor(a) if a.id == "alice"));
        assert_eq!(actor.method, "balance");
    }

    #[test]
    fn too_few_or_too_many_words_are_refused() {
        assert_eq!(parsed(None, &["greeter"]).map(drop).expect_err("refused").code, Code::Usage);
        let many = parsed(Some(["A", "1"]), &["m", "{}", "x"]).map(drop).expect_err("refused");
        assert_eq!(many.code, Code::Usage);
    }

    #[tokio::test]
    async fn a_client_that_stops_waiting_says_unknown() {
        let never = std::future::pending::<Outcome<()>>();
        let failure = bounded(Some(Duration::from_millis(1)), never).await.expect_err("timed out");
        assert_eq!(failure.code, Code::Unknown);
    }
}
