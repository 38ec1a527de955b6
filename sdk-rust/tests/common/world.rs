//! What the fake knows, and the frames of its streams.

use std::collections::{BTreeMap, HashMap, VecDeque};

use kar_proto::google::rpc;
use kar_proto::v1 as proto;
use kar_proto::v1::component_frame::Frame as FromComponent;
use kar_proto::v1::response::Result as Answer;
use kar_proto::v1::sidecar_frame::Frame as ToComponent;
use kar_proto::v1::target::Kind;
use kar_proto::v1::turn_outcome::Result as Outcome;
use prost::Message as _;
use tokio::sync::mpsc;
use tonic::Status;

use super::actor_state::{Entries, Overlay};
use super::system::{Operators, Watchers};

pub(super) type Responses = mpsc::UnboundedSender<Result<proto::ConnectResponse, Status>>;
pub(super) type Actor = (String, String);

#[derive(Default)]
pub(super) struct World {
    pub(super) credits: i32,
    pub(super) message_bytes_max: i64,
    pub(super) takes_forget: bool,
    pub(super) token: Option<String>,
    pub(super) refuse_applies: bool,
    pub(super) hold_drained: bool,
    pub(super) next: u64,
    pub(super) streams: BTreeMap<u64, StreamState>,
    pub(super) turns: HashMap<String, TurnState>,
    pub(super) waiting: VecDeque<Invocation>,
    pub(super) busy: HashMap<Actor, VecDeque<Invocation>>,
    pub(super) actors: HashMap<Actor, Entries>,
    pub(super) state: BTreeMap<String, proto::Payload>,
    pub(super) started: HashMap<String, Option<Outcome>>,
    pub(super) awaiting: Vec<(String, Origin)>,
    /// Durable steps by method and key: what its next turn has.
    pub(super) recorded: HashMap<(String, String), proto::Payload>,
    /// What components sent, one word each.
    pub(super) log: Vec<String>,
    pub(super) violations: Vec<String>,
    pub(super) messages: usize,
    pub(super) watchers: Watchers,
    pub(super) operators: Operators,
}

pub(super) struct StreamState {
    pub(super) responses: Responses,
    pub(super) hello: proto::Hello,
    pub(super) under_way: HashMap<u64, ()>,
    pub(super) leaving: bool,
}

/// Who waits for an answer.
#[derive(Clone, Copy)]
pub(super) struct Origin {
    pub(super) stream: u64,
    pub(super) request: u64,
    pub(super) actor: bool,
}

#[derive(Clone)]
pub(super) struct Invocation {
    pub(super) id: String,
    pub(super) target: Kind,
    pub(super) method: String,
    pub(super) payload: Option<proto::Payload>,
    pub(super) mode: proto::InvocationMode,
    pub(super) origin: Option<Origin>,
    pub(super) trace_parent: String,
    pub(super) step: i32,
}

pub(super) struct TurnState {
    pub(super) stream: u64,
    pub(super) invocation: Invocation,
    pub(super) overlay: Overlay,
    pub(super) cancelled: bool,
}
pub(super) fn send(stream: &StreamState, frame: ToComponent) {
    let frames = vec![proto::SidecarFrame { frame: Some(frame) }];
    let _ = stream.responses.send(Ok(proto::ConnectResponse { frames }));
}

pub(super) fn status(code: tonic::Code, reason: &str) -> Answer {
    let limit = ("limit".to_owned(), "segment-bytes-max".to_owned());
    status_with(code, reason, HashMap::from([limit]))
}

pub(super) fn status_with(
    code: tonic::Code,
    reason: &str,
    metadata: HashMap<String, String>,
) -> Answer {
    let info = tonic_types::pb::ErrorInfo {
        reason: reason.to_owned(),
        domain: "kar".to_owned(),
        metadata,
    };
    let any = prost_types::Any {
        type_url: "type.googleapis.com/google.rpc.ErrorInfo".to_owned(),
        value: info.encode_to_vec(),
    };
    let message = format!("said by the test: {reason}");
    Answer::Status(rpc::Status { code: code as i32, message, details: vec![any] })
}

impl World {
    pub(super) fn on_frame(
        &mut self,
        stream: u64,
        responses: &Responses,
        frame: Option<FromComponent>,
    ) -> Result<(), String> {
        if let Some(FromComponent::Hello(hello)) = frame {
            return self.on_hello(stream, responses, hello);
        }
        if !self.streams.contains_key(&stream) {
            // Broken by the test: what still comes is lost.
            return Ok(());
        }
        match frame {
            Some(FromComponent::Request(request)) => {
                let id = request.id;
                let credits = self.credits as usize;
                let state = self.streams.get_mut(&stream).unwrap();
                if state.under_way.insert(id, ()).is_some() {
                    return Err(format!("request number {id} used twice"));
                }
                if state.under_way.len() > credits {
                    return Err("requests overrun the credits".to_owned());
                }
                let operation = request.operation.ok_or("a request without operation")?;
                let origin = Origin { stream, request: id, actor: false };
                if let Some(answer) = self.on_operation(origin, operation) {
                    self.answer(origin, answer);
                }
            }
            Some(FromComponent::TurnResult(outcome)) => self.on_outcome(outcome)?,
            Some(FromComponent::Goodbye(_)) => {
                self.log.push("goodbye".to_owned());
                self.streams.get_mut(&stream).unwrap().leaving = true;
                self.drain();
            }
            Some(FromComponent::Forget(forget)) => self.on_forget(stream, forget.id)?,
            Some(FromComponent::Credit(_)) | None => {}
            Some(FromComponent::Hello(_)) => unreachable!(),
        }
        Ok(())
    }

    fn on_hello(
        &mut self,
        stream: u64,
        responses: &Responses,
        hello: proto::Hello,
    ) -> Result<(), String> {
        if self.streams.contains_key(&stream) {
            return Err("a second hello".to_owned());
        }
        let hosts = |h: &proto::Hello| !h.services.is_empty() || !h.actor_types.is_empty();
        if hosts(&hello) && self.streams.values().any(|s| hosts(&s.hello)) {
            let _ = responses.send(Err(Status::already_exists("there is a host stream")));
            return Ok(());
        }
        self.log.push("hello".to_owned());
        let state = StreamState {
            responses: responses.clone(),
            hello,
            under_way: HashMap::new(),
            leaving: false,
        };
        let welcome = proto::Welcome {
            protocol_version: 1,
            node: "fake".to_owned(),
            incarnation: stream,
            application: "test".to_owned(),
            sidecar_version: "0".to_owned(),
            message_bytes_max: self.message_bytes_max,
            request_credits: self.credits,
            stream_message_bytes_max: 64 << 20,
            takes_forget: self.takes_forget,
        };
        send(&state, ToComponent::Welcome(welcome));
        self.streams.insert(stream, state);
        for invocation in std::mem::take(&mut self.waiting) {
            self.dispatch(invocation);
        }
        Ok(())
    }

    /// Answers at once, as the sidecar does; what comes later is not answered.
    fn on_forget(&mut self, stream: u64, request: u64) -> Result<(), String> {
        if !self.takes_forget {
            return Err("a frame that this sidecar does not know".to_owned());
        }
        self.log.push("forget".to_owned());
        let answer = status(tonic::Code::Cancelled, "OUTCOME_UNKNOWN");
        self.answer(Origin { stream, request, actor: false }, answer);
        Ok(())
    }

    pub(super) fn answer(&mut self, origin: Origin, answer: Answer) {
        let Some(stream) = self.streams.get_mut(&origin.stream) else { return };
        if stream.under_way.remove(&origin.request).is_none() {
            return;
        }
        let response = proto::Response { id: origin.request, result: Some(answer) };
        send(stream, ToComponent::Response(response));
    }
}
