"""Typed errors made of gRPC statuses."""

from __future__ import annotations

from typing import Any

import grpc
from google.rpc import status_pb2
from google.rpc.error_details_pb2 import ErrorInfo

from kar import errors
from kar.errors import KarError

_DOMAIN = "kar"

_CODES = {code.value[0]: code for code in grpc.StatusCode}

_BY_REASON: dict[str, type[KarError]] = {
    "TURN_SUPERSEDED": errors.TurnSuperseded,
    "TURN_ENDED": errors.TurnEnded,
    "EXPIRED": errors.Expired,
    "CANCELLED": errors.Cancelled,
    "OUTCOME_UNKNOWN": errors.OutcomeUnknown,
    "UNKNOWN_TOPIC": errors.UnknownTopic,
    "TOPIC_EXISTS": errors.TopicExists,
    "CONSUMER_TAKEN_OVER": errors.ConsumerTakenOver,
    "SUBSCRIPTION_EXISTS": errors.SubscriptionExists,
    "UNKNOWN_SUBSCRIPTION": errors.UnknownSubscription,
    "NO_HOST": errors.NoHost,
    "UNKNOWN_INVOCATION": errors.UnknownInvocation,
    "DEADLOCK": errors.Deadlock,
    "IDEMPOTENCY_KEY_REUSED": errors.IdempotencyKeyReused,
    "UNKNOWN_METHOD": errors.UnknownMethod,
    "STEP_KEY_REUSED": errors.StepKeyReused,
    "CONDITION_FAILED": errors.ConditionFailed,
    "LIMIT_REACHED": errors.LimitReached,
    "MESSAGE_TOO_LARGE": errors.LimitReached,
    "DRAINING": errors.Unavailable,
    "BACKEND_UNAVAILABLE": errors.Unavailable,
}

_BY_CODE: dict[grpc.StatusCode, type[KarError]] = {
    grpc.StatusCode.UNAVAILABLE: errors.Unavailable,
    grpc.StatusCode.UNKNOWN: errors.OutcomeUnknown,
}


_BROKEN_OFF = frozenset(
    code.value[0] for code in (grpc.StatusCode.CANCELLED, grpc.StatusCode.INTERNAL)
)
"""What the library calls a stream that broke; without a reason it is not the sidecar that says so."""


def may_pass(error: KarError) -> bool:
    """Whether asking once more may do better, if asking twice does no harm."""
    if isinstance(error, errors.Unavailable | errors.OutcomeUnknown):
        return True
    return not error.reason and error.status in _BROKEN_OFF


def error_of(status: status_pb2.Status) -> KarError:
    """The error that a status stands for."""
    reason, metadata = "", {}
    for any_detail in status.details:
        if not any_detail.type_url.endswith("/google.rpc.ErrorInfo"):
            continue
        info = ErrorInfo.FromString(any_detail.value)
        if info.domain == _DOMAIN:
            reason, metadata = info.reason, dict(info.metadata)
            break
    code = _CODES.get(status.code, grpc.StatusCode.UNKNOWN)
    kind = _BY_REASON.get(reason) or _BY_CODE.get(code) or errors.Rejected
    return kind(status.message, reason=reason, status=status.code, metadata=metadata)


def error_of_rpc(error: grpc.aio.AioRpcError) -> KarError:
    """The error that ended a stream: its details are an encoded `google.rpc.Status`."""
    status = status_pb2.Status()
    trailers: Any = error.trailing_metadata() or ()
    for key, value in trailers:
        if key == "grpc-status-details-bin":
            status.ParseFromString(value)
    status.code = error.code().value[0]
    status.message = error.details() or error.code().name.lower()
    return error_of(status)
