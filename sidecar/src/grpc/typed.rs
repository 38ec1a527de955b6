//! Typed detail for what the transport refuses before KAR sees it: bytes that are no message, messages over the
//! limit, RPCs that do not exist; and for deadlines of the client's own that pass. The transport answers these with a
//! bare gRPC status.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use kar_proto::v1::ErrorReason;
use tonic::codegen::http;
use tonic::{Code, Status};
use tower::{Layer, Service};

use crate::convert::error;

/// How the transport's messages about bytes that are no message begin. It has no other mark for them: their code is
/// the one of a defect (`INTERNAL`).
const MALFORMED: [&str; 4] = [
    "failed to decode Protobuf message",
    "Missing request message",
    "Unexpected EOF decoding stream",
    "protocol error: received message with",
];

/// Header with the time for which a client waits.
const TIMEOUT: &str = "grpc-timeout";

/// The client is told so much before its deadline: an answer takes its time to arrive, and the transport itself has but
/// a bare status.
const TOLD_BEFORE: Duration = Duration::from_millis(5);
/// … or by one over this part of it, if that is less: a short one leaves time to do what was asked for.
const TOLD_BEFORE_PART: u32 = 4;

/// Adds typed detail to bare statuses of a server.
#[derive(Clone, Copy, Debug)]
pub struct TypedErrors {
    /// Longest message that the server takes, bytes.
    pub message_bytes_max: usize,
}

/// A server whose bare statuses get typed detail.
#[derive(Clone, Debug)]
pub struct Typed<S> {
    inner: S,
    errors: TypedErrors,
}

// === impl TypedErrors ===

impl TypedErrors {
    /// The same with typed detail, if the transport made the status for what `method` was sent.
    pub fn typed(self, status: &Status, method: &str) -> Option<Status> {
        if !status.details().is_empty() {
            return None;
        }
        let text = status.message();
        match status.code() {
            Code::OutOfRange => Some(self.too_large(text)),
            Code::Unimplemented => Some(unknown_rpc(method, text)),
            Code::Internal if MALFORMED.iter().any(|start| text.starts_with(start)) => {
                let message = format!("what was sent is no request of {method}: {text}");
                let metadata = [("method", method.to_owned())];
                Some(error::status(ErrorReason::MalformedMessage, message, metadata))
            }
            _ => None,
        }
    }

    fn too_large(self, text: &str) -> Status {
        let max = self.message_bytes_max;
        let metadata =
            [("limit", "transport_message_bytes_max".to_owned()), ("value", max.to_string())];
        let message = format!("a message may have {max} bytes, send less at once: {text}");
        error::status(ErrorReason::MessageTooLarge, message, metadata)
    }
}

/// The client's own deadline has passed: the RPC is given up, what it asked for is not.
fn late(method: &str, limit: Duration) -> Status {
    let ms = limit.as_millis();
    let message = format!(
        "{method} was not answered within {ms} ms, the client's own deadline: whether it was carried out is unknown, \
         and what was accepted goes on (options.start_within is what makes it expire)"
    );
    let metadata = [("method", method.to_owned())];
    error::status_as(Code::DeadlineExceeded, ErrorReason::OutcomeUnknown, message, metadata)
}

/// When the client is told that its deadline passes.
fn told_after(limit: Duration) -> Duration {
    limit.saturating_sub(TOLD_BEFORE.min(limit / TOLD_BEFORE_PART))
}

/// Reads `grpc-timeout`: at most eight digits and a unit.
fn timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let count: u32 = digits.parse().ok()?;
    let unit = match unit {
        "H" => Duration::from_secs(3_600),
        "M" => Duration::from_secs(60),
        "S" => Duration::from_secs(1),
        "m" => Duration::from_millis(1),
        "u" => Duration::from_micros(1),
        "n" => Duration::from_nanos(1),
        _ => return None,
    };
    unit.checked_mul(count)
}

fn unknown_rpc(method: &str, text: &str) -> Status {
    let message = if text.is_empty() {
        format!("there is no RPC {method}; reflection lists those that this version has")
    } else {
        text.to_owned()
    };
    error::status(ErrorReason::NotImplemented, message, [("operation", method.to_owned())])
}

impl<S> Layer<S> for TypedErrors {
    type Service = Typed<S>;

    fn layer(&self, inner: S) -> Typed<S> {
        Typed { inner, errors: *self }
    }
}

// === impl Typed ===

impl<S, A, B> Service<http::Request<A>> for Typed<S>
where
    S: Service<http::Request<A>, Response = http::Response<B>>,
    S::Future: Send + 'static,
    B: Default,
{
    type Response = http::Response<B>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<http::Response<B>, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<A>) -> Self::Future {
        let (errors, uri) = (self.errors, request.uri().clone());
        let limit = request.headers().get(TIMEOUT).and_then(|value| timeout(value.to_str().ok()?));
        let response = self.inner.call(request);
        Box::pin(async move {
            let mut response = match limit {
                None => response.await?,
                Some(limit) => match tokio::time::timeout(told_after(limit), response).await {
                    Ok(response) => response?,
                    Err(_) => return Ok(late(uri.path(), limit).into_http()),
                },
            };
            // Only a refusal has its status among the headers: answers have it behind them.
            let status = Status::from_header_map(response.headers());
            if let Some(typed) = status.and_then(|status| errors.typed(&status, uri.path())) {
                // It replaces the bare one. A header that cannot be written is none of ours.
                let _unchanged = typed.add_header(response.headers_mut());
            }
            Ok(response)
        })
    }
}

#[cfg(test)]
mod tests {
    use prost::Message as _;
    use tonic_types::StatusExt as _;

    use super::*;

    const ERRORS: TypedErrors = TypedErrors { message_bytes_max: 100 };

    fn reason(status: &Status) -> Option<String> {
        let typed = ERRORS.typed(status, "/kar.v1.S/M")?;
        Some(typed.get_details_error_info()?.reason)
    }

    #[test]
    fn bare_statuses_of_the_transport_get_a_reason() {
        let malformed = Status::internal("failed to decode Protobuf message: invalid tag");
        assert_eq!(reason(&malformed).as_deref(), Some("MALFORMED_MESSAGE"));
        let large = Status::out_of_range("Error, decoded message length too large");
        assert_eq!(reason(&large).as_deref(), Some("MESSAGE_TOO_LARGE"));
        assert_eq!(reason(&Status::unimplemented("")).as_deref(), Some("NOT_IMPLEMENTED"));
    }

    #[test]
    fn clients_deadlines_are_read() {
        assert_eq!(timeout("250m"), Some(Duration::from_millis(250)));
        assert_eq!(timeout("99999999H"), Some(Duration::from_secs(99_999_999 * 3_600)));
        for wrong in ["", "m", "5", "5x", "-1S", "ü", "1ü"] {
            assert_eq!(timeout(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn short_deadlines_leave_time_to_answer() {
        for (limit, told) in [(1_000, 995), (20, 15), (8, 6), (4, 3)] {
            assert_eq!(told_after(Duration::from_millis(limit)), Duration::from_millis(told));
        }
    }

    #[tokio::test]
    async fn a_clients_deadline_leaves_the_outcome_unknown() {
        let never = tower::service_fn(|_: http::Request<()>| {
            std::future::pending::<Result<http::Response<()>, std::convert::Infallible>>()
        });
        let request = http::Request::builder().uri("/kar.v1.S/M").header(TIMEOUT, "10m");
        let request = request.body(()).expect("sound");
        let response = ERRORS.layer(never).call(request).await.expect("answered");
        let status = Status::from_header_map(response.headers()).expect("refused");
        assert_eq!(status.code(), Code::DeadlineExceeded);
        let info = status.get_details_error_info().expect("typed");
        assert_eq!((info.domain.as_str(), info.reason.as_str()), ("kar", "OUTCOME_UNKNOWN"));
        assert!(status.message().contains("within 10 ms"), "{status:?}");
        // Some clients (Go's) take no details that say another code than the status.
        let details = kar_proto::google::rpc::Status::decode(status.details()).expect("sound");
        assert_eq!(details.code, Code::DeadlineExceeded as i32);
    }

    #[test]
    fn nothing_else_is_touched() {
        assert_eq!(reason(&Status::internal("a defect")), None);
        assert_eq!(reason(&Status::not_found("no such service")), None);
        assert_eq!(reason(&error::invalid_field("method", "is missing")), None);
    }
}
