//! `kar subscribe`: follows a topic on the terminal.

use std::time::Duration;

use kar_proto::v1::consume_start::Start;
use kar_proto::v1::{ConsumeRequest, ConsumeResponse, ConsumeStart, Event, StartPositions};
use serde_json::{Map, Value};
use tokio::signal::ctrl_c;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use super::args::{Format, SubscribeArgs};
use super::client::{Session, with_session_to_its_end};
use super::exit::{Code, Failure, Outcome};
use super::filter::filter;
use super::get::read;
use super::payload::{self, line_if_read};

/// Events that may come before those that were printed are acknowledged.
const CREDITS: i32 = 256;
/// How long acknowledgements are waited for after Ctrl-C.
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(5);

/// Whoever follows.
struct Follower<'a> {
    args: &'a SubscribeArgs,
    requests: mpsc::Sender<ConsumeRequest>,
    answers: Streaming<ConsumeResponse>,
    printed: usize,
    /// Printed, and not known to be acknowledged durably.
    unconfirmed: usize,
    /// Nobody reads what is printed any more (`| head`).
    is_unread: bool,
}

/// Until it is interrupted, or has printed as many events as were wanted.
pub(crate) async fn subscribe(args: SubscribeArgs) -> Outcome {
    let first = ConsumeRequest {
        topic: args.topic.clone(),
        credits: CREDITS,
        consumer: args.consumer.clone().unwrap_or_default(),
        start: Some(start(&args.from)?),
        filter: filter(&args.filter),
        confirm: args.consumer.is_some(),
        ..Default::default()
    };
    with_session_to_its_end(&args.reach, async |session| {
        let follow = async {
            let mut follower = Follower::open(session, &args, first).await?;
            tokio::select! {
                outcome = follower.print() => outcome,
                _ = ctrl_c() => Err(follower.stop().await),
            }
        };
        follow.await
    })
    .await
}

// === impl Follower ===

impl<'a> Follower<'a> {
    async fn open(
        session: &Session,
        args: &'a SubscribeArgs,
        first: ConsumeRequest,
    ) -> Outcome<Self> {
        let (requests, outgoing) = mpsc::channel(CREDITS as usize);
        requests.try_send(first).map_err(|_| Failure::internal("a new queue has no room"))?;
        let answer = session.events().consume(ReceiverStream::new(outgoing)).await.map_err(read)?;
        let answers = answer.into_inner();
        Ok(Self { args, requests, answers, printed: 0, unconfirmed: 0, is_unread: false })
    }

    /// Prints events until that is enough, and none of them comes again. May be left wherever it waits.
    async fn print(&mut self) -> Outcome {
        let requests = self.requests.clone();
        let gone = |_| Failure::internal("the connection to the sidecar has no use for more");
        while !(self.has_enough() && self.unconfirmed == 0) {
            // Room comes first, so that nothing that was printed waits to be acknowledged.
            let room = requests.reserve().await.map_err(gone)?;
            let told = self.next().await?;
            let Some(event) = &told.event else { continue };
            if self.has_enough() {
                continue;
            }
            if !line_if_read(&shown(&told, event, self.args.output))? {
                self.is_unread = true;
                continue;
            }
            self.printed += 1;
            let mut more = ConsumeRequest { credits: 1, ..Default::default() };
            if self.args.consumer.is_some() {
                more.acknowledged.push(told.position);
                self.unconfirmed += 1;
            }
            room.send(more);
        }
        Ok(())
    }

    fn has_enough(&self) -> bool {
        self.is_unread || self.args.limit.is_some_and(|limit| self.printed >= limit)
    }

    /// Somebody has pressed Ctrl-C: what was printed is not to come again.
    async fn stop(&mut self) -> Failure {
        let confirmed = async { while self.unconfirmed > 0 && self.next().await.is_ok() {} };
        tokio::select! {
            // What is left says whether it was in time.
            _ = timeout(CONFIRM_TIMEOUT, confirmed) => {}
            _ = ctrl_c() => {}
        }
        let text = match (&self.args.consumer, self.unconfirmed) {
            (None, _) => "interrupted".to_owned(),
            (Some(name), 0) => format!("interrupted; '{name}' goes on behind what was printed"),
            (Some(_), left) => {
                format!("interrupted; the last {left} events that were printed may come again")
            }
        };
        Failure::new(Code::Interrupted, text)
    }

    /// The next answer, with what it tells about earlier ones taken note of.
    async fn next(&mut self) -> Outcome<ConsumeResponse> {
        let Some(told) = self.answers.message().await.map_err(read)? else {
            return Err(Failure::new(Code::Unavailable, "the sidecar ended")
                .advise("follow the topic through another one"));
        };
        self.unconfirmed = self.unconfirmed.saturating_sub(told.acknowledged.len());
        if let Some(skipped) = &told.skipped {
            eprintln!(
                "kar: {} events of partition {} are not there any more, from {}/{} on",
                skipped.count, skipped.partition, skipped.partition, skipped.first
            );
        }
        Ok(told)
    }
}

fn start(text: &str) -> Outcome<ConsumeStart> {
    let start = match text {
        "earliest" => Start::Earliest(true),
        "latest" => Start::Latest(true),
        text if text.contains('/') => {
            Start::Positions(StartPositions { positions: vec![text.to_owned()] })
        }
        text => {
            let time = text.parse::<prost_types::Timestamp>();
            Start::Time(time.map_err(|_| {
                Failure::usage(format!("--from: '{text}' is no place to begin")).advise(
                    "earliest, latest, a time such as 2030-01-31T09:30:00Z, or PARTITION/OFFSET",
                )
            })?)
        }
    };
    Ok(ConsumeStart { start: Some(start) })
}

/// An event on a line.
fn shown(told: &ConsumeResponse, event: &Event, format: Format) -> String {
    match format {
        Format::Json => cloud_event(told, event.clone()).to_string(),
        Format::Table => {
            let data = event.data.as_ref().map_or(Value::Null, payload::to_json);
            let subject = if event.subject.is_empty() { "-" } else { &event.subject };
            let head = [&*told.position, &*event.r#type, &*event.source, subject];
            let head = head.map(|text| text.escape_debug().to_string()).join("  ");
            format!("{head}  {data}")
        }
    }
}

/// The JSON form of CloudEvents, and where the event is.
fn cloud_event(told: &ConsumeResponse, event: Event) -> Value {
    let mut shown = Map::new();
    let mut set = |name: &str, value: Value| {
        shown.insert(name.to_owned(), value);
    };
    set("specversion", "1.0".into());
    set("id", event.id.into());
    set("source", event.source.into());
    set("type", event.r#type.into());
    if !event.subject.is_empty() {
        set("subject", event.subject.into());
    }
    if let Some(time) = event.time {
        set("time", time.to_string().into());
    }
    if !event.data_schema.is_empty() {
        set("dataschema", event.data_schema.into());
    }
    if let Some(data) = &event.data {
        if !data.content_type.is_empty() {
            set("datacontenttype", data.content_type.clone().into());
        }
        if let Some((name, value)) = payload::to_event_data(data) {
            set(name, value);
        }
    }
    for (name, value) in event.attributes {
        set(&name, value.into());
    }
    // No attribute of an event can have a name with a capital.
    set("karPosition", told.position.clone().into());
    if let Some(time) = told.publish_time {
        set("karPublishTime", time.to_string().into());
    }
    Value::Object(shown)
}

#[cfg(test)]
mod tests {
    use kar_proto::v1::Payload;
    use kar_proto::v1::payload::Body;
    use serde_json::json;

    use super::*;

    #[test]
    fn where_to_begin_is_understood() {
        let told = |text| start(text).map(|start| start.start.expect("never empty"));
        assert_eq!(told("earliest").expect("known"), Start::Earliest(true));
        assert_eq!(told("latest").expect("known"), Start::Latest(true));
        assert!(
            matches!(told("3/17"), Ok(Start::Positions(places)) if places.positions == ["3/17"])
        );
        assert!(matches!(told("2030-01-31T09:30:00Z"), Ok(Start::Time(_))));
        assert_eq!(told("yesterday").expect_err("not understood").code, Code::Usage);
    }

    #[test]
    fn events_are_printed_as_cloud_events() {
        let data = |bytes: &'static [u8], content_type: &str| Payload {
            body: Some(Body::Data(bytes.into())),
            content_type: content_type.into(),
        };
        let event = |data| Event {
            id: "1".into(),
            source: "/s".into(),
            r#type: "t".into(),
            data,
            attributes: [("customer".to_owned(), "alice".to_owned())].into(),
            ..Default::default()
        };
        let told = ConsumeResponse { position: "0/1".into(), ..Default::default() };
        let shown = cloud_event(&told, event(Some(data(b"{\"a\":1}", "application/json"))));
        assert_eq!(
            shown,
            json!({
                "specversion": "1.0", "id": "1", "source": "/s", "type": "t", "customer": "alice",
                "datacontenttype": "application/json", "data": { "a": 1 }, "karPosition": "0/1",
            })
        );
        let shown = cloud_event(&told, event(Some(data(&[0xff], "image/png"))));
        assert_eq!(shown["data_base64"], json!("/w=="));
        let shown = cloud_event(&told, event(Some(data(b"hello", "text/plain"))));
        assert_eq!(shown["data"], json!("hello"));
        assert_eq!(cloud_event(&told, event(None)).get("data"), None);
    }
}
