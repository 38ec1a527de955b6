//! A bare echo over the same kind of stream: tonic, bidirectional, over a Unix socket, several
//! frames a message; and a relay that passes messages on to one. No KAR: what they take is what the
//! transport takes.

use std::path::Path;
use std::pin::Pin;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use hdrhistogram::Histogram;
use kar_proto::v1::component_service_client::ComponentServiceClient;
use kar_proto::v1::component_service_server::{ComponentService, ComponentServiceServer};
use kar_proto::v1::{
    ComponentFrame, ConnectRequest, ConnectResponse, Payload, Request, Response, SetRequest,
    SidecarFrame, StateServiceGetResponse, component_frame, payload, request, response,
    sidecar_frame,
};
use kar_tests::grpc::Transport;
use tokio::net::UnixListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt as _};
use tonic::{Status, Streaming};

use crate::load::PAYLOAD_BYTES;

/// Messages under way.
const QUEUE_MAX: usize = 1024;

/// Answers itself, or passes on.
struct Echo {
    next: Option<ComponentServiceClient<Transport>>,
}

#[tonic::async_trait]
impl ComponentService for Echo {
    type ConnectStream = Pin<Box<dyn Stream<Item = Result<ConnectResponse, Status>> + Send>>;

    async fn connect(
        &self,
        request: tonic::Request<Streaming<ConnectRequest>>,
    ) -> Result<tonic::Response<Self::ConnectStream>, Status> {
        if let Some(mut next) = self.next.clone() {
            let messages = request.into_inner().map_while(Result::ok);
            let answers = next.connect(messages).await?.into_inner();
            return Ok(tonic::Response::new(Box::pin(answers)));
        }
        let answers = request.into_inner().map(|message| {
            let frames = message?.frames.into_iter().filter_map(answer).collect();
            Ok(ConnectResponse { frames })
        });
        Ok(tonic::Response::new(Box::pin(answers)))
    }
}

fn answer(frame: ComponentFrame) -> Option<SidecarFrame> {
    let Some(component_frame::Frame::Request(request)) = frame.frame else { return None };
    let Some(request::Operation::StateSet(set)) = request.operation else { return None };
    let got = StateServiceGetResponse { value: set.value, ..Default::default() };
    let response = Response { id: request.id, result: Some(response::Result::StateGet(got)) };
    Some(SidecarFrame { frame: Some(sidecar_frame::Frame::Response(response)) })
}

/// Serves until killed; with `next` it passes on to the one that listens there.
pub(crate) async fn serve(socket: &Path, next: Option<&Path>) -> Result<()> {
    let next = match next {
        Some(path) => Some(kar_tests::Client::unix(path).await?.component()),
        None => None,
    };
    let listener = kar_unix::incoming(UnixListener::bind(socket)?);
    tonic::transport::Server::builder()
        .add_service(ComponentServiceServer::new(Echo { next }))
        .serve_with_incoming(listener)
        .await?;
    Ok(())
}

/// p50 (µs) and answers per second with so many requests under way.
pub(crate) async fn measure(socket: &Path, in_flight: u64, length: Duration) -> Result<(f64, f64)> {
    let client = kar_tests::Client::unix(socket).await?;
    let (messages, outgoing) = mpsc::channel(QUEUE_MAX);
    let stream = client.component().connect(ReceiverStream::new(outgoing)).await?;
    let mut stream = stream.into_inner();
    let begin = Instant::now();
    let mut histogram = Histogram::<u64>::new_with_bounds(1, 60_000_000, 3)?;
    // A request's number is the time of its start, ns since the beginning; equal ones do no harm.
    let now = || u64::try_from(begin.elapsed().as_nanos()).unwrap_or(u64::MAX);
    let frames = (0..in_flight).map(|_| request(now())).collect();
    messages.send(ConnectRequest { frames }).await.context("the stream is open")?;
    while begin.elapsed() < length {
        let Some(message) = stream.message().await? else { bail!("the echo ended") };
        let mut frames = Vec::with_capacity(message.frames.len());
        for frame in message.frames {
            let Some(sidecar_frame::Frame::Response(response)) = frame.frame else { continue };
            histogram.saturating_record((now() - response.id) / 1_000);
            frames.push(request(now()));
        }
        // At most 16 frames a message, so that both ends work at once.
        let mut rest = frames.into_iter().peekable();
        while rest.peek().is_some() {
            let frames = rest.by_ref().take(16).collect();
            messages.send(ConnectRequest { frames }).await.context("the stream is open")?;
        }
    }
    let per_second = histogram.len() as f64 / begin.elapsed().as_secs_f64();
    Ok((histogram.value_at_quantile(0.5) as f64, per_second))
}

fn request(id: u64) -> ComponentFrame {
    let value = Payload {
        body: Some(payload::Body::Data(vec![7; PAYLOAD_BYTES].into())),
        content_type: String::new(),
    };
    let set = SetRequest { key: "k".into(), value: Some(value), ..Default::default() };
    let request = Request { id, operation: Some(request::Operation::StateSet(set)) };
    ComponentFrame { frame: Some(component_frame::Frame::Request(Box::new(request))) }
}
