//! A client with all unary services, over the Unix socket or TCP.

use std::path::{Path, PathBuf};
use std::str::FromStr as _;
use std::time::Duration;

use bytes::{Buf as _, BufMut as _, Bytes};
use hyper_util::rt::TokioIo;
use kar_proto::v1::actor_state_service_client::ActorStateServiceClient;
use kar_proto::v1::component_service_client::ComponentServiceClient;
use kar_proto::v1::event_service_client::EventServiceClient;
use kar_proto::v1::invocation_service_client::InvocationServiceClient;
use kar_proto::v1::reminder_service_client::ReminderServiceClient;
use kar_proto::v1::state_service_client::StateServiceClient;
use kar_proto::v1::system_service_client::SystemServiceClient;
use kar_proto::v1::{
    ActorTarget, ApplicationError, CallActorRequest, GetInfoRequest, InvokeRequest, Payload,
    call_actor_response, invoke_response, payload,
};
use tokio_stream::StreamExt as _;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::http::uri::PathAndQuery;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

/// How long connecting may take.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// A channel that adds the API token.
pub type Transport = InterceptedService<Channel, Token>;

/// Adds `authorization: Bearer …` where there is a token.
#[derive(Clone, Debug, Default)]
pub struct Token(Option<MetadataValue<Ascii>>);

impl tonic::service::Interceptor for Token {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(token) = &self.0 {
            request.metadata_mut().insert("authorization", token.clone());
        }
        Ok(request)
    }
}

/// Payloads above KAR's own bound must be able to leave the client.
const MESSAGE_MAX: usize = 64 << 20;

/// All unary services of one sidecar.
#[derive(Clone, Debug)]
pub struct Client {
    channel: Channel,
    token: Token,
}

macro_rules! services {
    ($($(#[$doc:meta])* $name:ident: $client:ident),* $(,)?) => {
        $(
            $(#[$doc])*
            pub fn $name(&self) -> $client<Transport> {
                $client::new(self.transport())
                    .max_decoding_message_size(MESSAGE_MAX)
                    .max_encoding_message_size(MESSAGE_MAX)
            }
        )*
    };
}

impl Client {
    /// Connects over a Unix socket.
    ///
    /// # Errors
    ///
    /// If nobody listens.
    pub async fn unix(socket: &Path) -> Result<Self, tonic::transport::Error> {
        let socket: PathBuf = socket.to_owned();
        let connector = tower::service_fn(move |_| {
            let socket = socket.clone();
            async move { kar_unix::connect(socket).await.map(TokioIo::new) }
        });
        let endpoint = Endpoint::from_static("http://localhost").connect_timeout(CONNECT_LIMIT);
        let channel = endpoint.connect_with_connector(connector).await?;
        Ok(Self { channel, token: Token::default() })
    }

    /// Connects over loopback TCP.
    ///
    /// # Errors
    ///
    /// If nobody listens.
    pub async fn tcp(port: u16) -> Result<Self, tonic::transport::Error> {
        let endpoint = Endpoint::from_shared(format!("http://127.0.0.1:{port}"))?;
        let channel = endpoint.connect_timeout(CONNECT_LIMIT).connect().await?;
        Ok(Self { channel, token: Token::default() })
    }

    /// The same connection with an API token.
    ///
    /// # Panics
    ///
    /// If the token is not ASCII.
    pub fn with_token(&self, token: &str) -> Self {
        let value = MetadataValue::from_str(&format!("Bearer {token}")).expect("ASCII");
        Self { channel: self.channel.clone(), token: Token(Some(value)) }
    }

    /// For generated clients of other services (health, reflection).
    pub fn transport(&self) -> Transport {
        InterceptedService::new(self.channel.clone(), self.token.clone())
    }

    services! {
        /// Calls, tells, started invocations.
        invocation: InvocationServiceClient,
        /// The component's stream.
        component: ComponentServiceClient,
        /// State of actors.
        actor_state: ActorStateServiceClient,
        /// State of the application.
        state: StateServiceClient,
        /// Reminders.
        reminder: ReminderServiceClient,
        /// Events.
        event: EventServiceClient,
        /// The sidecar itself.
        system: SystemServiceClient,
    }

    /// Invokes a service durably with JSON; the outer error is KAR's, the inner one the application's.
    ///
    /// # Errors
    ///
    /// See above.
    pub async fn invoke(
        &self,
        service: &str,
        method: &str,
        argument: &serde_json::Value,
    ) -> Result<Result<serde_json::Value, ApplicationError>, Status> {
        let request = InvokeRequest {
            service: service.into(),
            method: method.into(),
            payload: Some(json(argument)),
            ..Default::default()
        };
        match self.invocation().invoke(request).await?.into_inner().result {
            Some(invoke_response::Result::Payload(payload)) => Ok(Ok(value(&payload))),
            Some(invoke_response::Result::Error(error)) => Ok(Err(error)),
            None => Err(Status::internal("the response has no result")),
        }
    }

    /// Calls an actor with JSON; the outer error is KAR's, the inner one the application's.
    ///
    /// # Errors
    ///
    /// See above.
    pub async fn call(
        &self,
        actor: (&str, &str),
        method: &str,
        argument: &serde_json::Value,
    ) -> Result<Result<serde_json::Value, ApplicationError>, Status> {
        let request = CallActorRequest {
            actor: Some(ActorTarget { r#type: actor.0.into(), id: actor.1.into() }),
            method: method.into(),
            payload: Some(json(argument)),
            ..Default::default()
        };
        match self.invocation().call_actor(request).await?.into_inner().result {
            Some(call_actor_response::Result::Payload(payload)) => Ok(Ok(value(&payload))),
            Some(call_actor_response::Result::Error(error)) => Ok(Err(error)),
            None => Err(Status::internal("the response has no result")),
        }
    }

    /// A counter of the sidecar, or a limit of it, by name; `None` if there is no such name.
    ///
    /// # Errors
    ///
    /// If the sidecar does not answer.
    pub async fn figure(&self, name: &str) -> Result<Option<i64>, Status> {
        let info = self.system().get_info(GetInfoRequest {}).await?.into_inner();
        Ok(info.counters.get(name).or(info.limits.get(name)).copied())
    }
}

/// JSON as bytes.
pub fn json(value: &serde_json::Value) -> Payload {
    Payload {
        body: Some(payload::Body::Data(value.to_string().into())),
        content_type: "application/json".into(),
    }
}

/// The JSON in a payload; `null` for one without bytes.
///
/// # Panics
///
/// If the bytes are no JSON.
pub fn value(payload: &Payload) -> serde_json::Value {
    match &payload.body {
        Some(payload::Body::Data(data)) if !data.is_empty() => {
            serde_json::from_slice(data).expect("the payload is JSON")
        }
        Some(payload::Body::Json(_)) => panic!("a request in bytes is answered in bytes"),
        _ => serde_json::Value::Null,
    }
}

/// Calls a method with bytes that need not be a message.
///
/// # Errors
///
/// What the server answers.
///
/// # Panics
///
/// If `method` is no path.
pub async fn raw_unary(client: &Client, method: &str, bytes: Bytes) -> Result<Bytes, Status> {
    let mut grpc = tonic::client::Grpc::new(client.transport());
    grpc.ready().await.map_err(|e| Status::unavailable(e.to_string()))?;
    let path = PathAndQuery::from_str(method).expect("a path");
    Ok(grpc.unary(Request::new(bytes), path, RawCodec).await?.into_inner())
}

/// Sends bytes that need not be messages on a stream that stays open, and returns how many messages came back when the
/// server ended it.
///
/// # Errors
///
/// The status that it ended the stream with.
///
/// # Panics
///
/// If `method` is no path.
pub async fn raw_stream(
    client: &Client,
    method: &str,
    messages: Vec<Bytes>,
) -> Result<usize, Status> {
    let mut grpc = tonic::client::Grpc::new(client.transport())
        .max_encoding_message_size(MESSAGE_MAX)
        .max_decoding_message_size(MESSAGE_MAX);
    grpc.ready().await.map_err(|e| Status::unavailable(e.to_string()))?;
    let path = PathAndQuery::from_str(method).expect("a path");
    let outgoing = tokio_stream::iter(messages).chain(tokio_stream::pending());
    let mut answers = grpc.streaming(Request::new(outgoing), path, RawCodec).await?.into_inner();
    let mut count = 0;
    while answers.message().await?.is_some() {
        count += 1;
    }
    Ok(count)
}

/// Bytes as they are.
#[derive(Clone, Copy, Debug, Default)]
struct RawCodec;

impl Codec for RawCodec {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for RawCodec {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put(item);
        Ok(())
    }
}

impl Decoder for RawCodec {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(buffer.copy_to_bytes(buffer.remaining())))
    }
}

/// Opens a stream on which messages are bytes that need not be messages; ends when `outgoing` has ended.
///
/// # Errors
///
/// What the server answers.
///
/// # Panics
///
/// If `method` is no path.
pub async fn raw_bidi(
    client: &Client,
    method: &str,
    outgoing: impl tokio_stream::Stream<Item = Bytes> + Send + 'static,
) -> Result<tonic::Streaming<Bytes>, Status> {
    let mut grpc = tonic::client::Grpc::new(client.transport());
    grpc.ready().await.map_err(|e| Status::unavailable(e.to_string()))?;
    let path = PathAndQuery::from_str(method).expect("a path");
    Ok(grpc.streaming(Request::new(outgoing), path, RawCodec).await?.into_inner())
}
