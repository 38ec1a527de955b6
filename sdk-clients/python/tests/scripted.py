"""What a scripted sidecar says."""

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc import status_pb2
from google.rpc.error_details_pb2 import ErrorInfo

from kar.v1 import common_pb2


def json(text: str) -> common_pb2.Payload:
    """A payload of a JSON text."""
    return common_pb2.Payload(data=text.encode(), content_type="application/json")


def status(code: grpc.StatusCode, reason: str, **metadata: str) -> status_pb2.Status:
    """A status as the sidecar makes it."""
    info = AnyMessage()
    info.Pack(ErrorInfo(domain="kar", reason=reason, metadata=metadata))
    return status_pb2.Status(code=code.value[0], message="because", details=[info])
