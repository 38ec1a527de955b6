"""A component that misbehaves in one way, named by its argument, and says what it got for it. The
cases and what is expected stand in sdk-clients/conformance/nonsense.txt; `cargo xtask test` runs all.

It uses the generated messages alone, because the SDK would not do such things.
"""

from __future__ import annotations

import os
import queue
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn

import grpc
from google.rpc import status_pb2
from google.rpc.error_details_pb2 import ErrorInfo

from kar.v1 import component_pb2 as v1

MIB = 1 << 20

UNKNOWN_FRAME = bytes([0x0A, 0x03, 0x9A, 0x06, 0x00])
"""`ConnectRequest{frames: [ComponentFrame{99: ""}]}` on the wire."""

GARBAGE = b"\xff" * 40


class Stream:
    """What goes out: bytes, so that what no stub could send can be sent too."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[bytes] = queue.SimpleQueue()

    def __iter__(self) -> Stream:
        return self

    def __next__(self) -> bytes:
        return self._queue.get()

    def send(self, *frames: v1.ComponentFrame) -> None:
        self.send_bytes(v1.ConnectRequest(frames=frames).SerializeToString())

    def send_bytes(self, data: bytes) -> None:
        self._queue.put(data)


@dataclass(kw_only=True)
class Behaviour:
    first: Callable[[Stream], None] | None = None
    """What it does at first instead of saying hello."""
    hosts: bool = False
    """It registers the service `nonsense`."""
    welcomed: Callable[[Stream, v1.Welcome], None] = lambda stream, welcome: None
    invoked: Callable[[Stream, str], None] = lambda stream, token: None


def hello(hosts: bool) -> v1.ComponentFrame:
    services = [v1.HostedService(name="nonsense")] if hosts else []
    greeting = v1.Hello(protocol_version=1, sdk="nonsense-python", services=services)
    return v1.ComponentFrame(hello=greeting)


def call(id: int, payload_bytes: int = 0) -> v1.ComponentFrame:
    """A call that stays under way: nobody hosts that service."""
    frame = v1.ComponentFrame()
    frame.request.id = id
    frame.request.invoke.service, frame.request.invoke.method = "nobody", "m"
    frame.request.invoke.payload.data = bytes(payload_bytes)
    return frame


def finish(token: str) -> v1.ComponentFrame:
    frame = v1.ComponentFrame()
    frame.turn_result.turn_token = token
    frame.turn_result.payload.data = b"1"
    frame.turn_result.payload.content_type = "application/json"
    return frame


def credit() -> v1.ComponentFrame:
    frame = v1.ComponentFrame()
    frame.credit.SetInParent()
    return frame


def flush(token: str) -> v1.ComponentFrame:
    frame = v1.ComponentFrame()
    frame.request.id = 1
    frame.request.flush.turn_token = token
    return frame


def overrun(stream: Stream, welcome: v1.Welcome) -> None:
    for id in range(welcome.request_credits + 1):
        stream.send(call(id))


BEHAVIOURS: dict[str, Behaviour] = {
    "silence": Behaviour(first=lambda stream: None),
    "no-hello": Behaviour(first=lambda stream: stream.send(credit())),
    "two-hellos": Behaviour(welcomed=lambda stream, _: stream.send(hello(False))),
    "unknown-frame": Behaviour(welcomed=lambda stream, _: stream.send_bytes(UNKNOWN_FRAME)),
    "garbage": Behaviour(welcomed=lambda stream, _: stream.send_bytes(GARBAGE)),
    "no-operation": Behaviour(
        welcomed=lambda stream, _: stream.send(v1.ComponentFrame(request=v1.Request(id=1)))
    ),
    "credit-overrun": Behaviour(welcomed=overrun),
    "credit-of-nothing": Behaviour(welcomed=lambda stream, _: stream.send(credit())),
    "wrong-api-token": Behaviour(),
    "made-up-token": Behaviour(hosts=True, welcomed=lambda stream, _: stream.send(finish("made/up"))),
    "result-of-a-client": Behaviour(welcomed=lambda stream, _: stream.send(finish("made/up"))),
    "second-result": Behaviour(
        hosts=True, invoked=lambda stream, token: stream.send(finish(token), finish(token))
    ),
    "ended-turn": Behaviour(
        hosts=True, invoked=lambda stream, token: stream.send(finish(token), flush(token))
    ),
    "large-payload": Behaviour(welcomed=lambda stream, _: stream.send(call(1, 5 * MIB))),
    "large-message": Behaviour(welcomed=lambda stream, _: stream.send(call(1, 9 * MIB))),
}


def report(what: str, status: status_pb2.Status) -> NoReturn:
    reasons = [
        ErrorInfo.FromString(detail.value).reason
        for detail in status.details
        if detail.type_url.endswith("/google.rpc.ErrorInfo")
    ]
    names = {code.value[0]: code.name for code in grpc.StatusCode}
    print(what, names[status.code], *(reasons or ["(no reason)"]), flush=True)
    print(status.message, file=sys.stderr, flush=True)
    # The stream is still being read from and written to; there is nothing to wait for.
    os._exit(0)


def status_of(error: Any) -> status_pb2.Status:
    status = status_pb2.Status()
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin":
            status.ParseFromString(value)
    status.code, status.message = error.code().value[0], error.details() or ""
    return status


def main(name: str) -> None:
    behaviour = BEHAVIOURS[name]
    token = "nonsense" if name == "wrong-api-token" else os.environ.get("KAR_API_TOKEN", "")
    socket, port = os.environ.get("KAR_SOCKET"), os.environ.get("KAR_GRPC_PORT")
    options = (("grpc.default_authority", "localhost"), ("grpc.max_send_message_length", -1))
    channel = grpc.insecure_channel(f"unix:{socket}" if socket else f"127.0.0.1:{port}", options)
    stream = Stream()
    connect: Any = channel.stream_stream(
        "/kar.v1.ComponentService/Connect", None, v1.ConnectResponse.FromString
    )
    answers = connect(stream, metadata=(("authorization", f"Bearer {token}"),))
    if behaviour.first is not None:
        behaviour.first(stream)
    else:
        stream.send(hello(behaviour.hosts))
    try:
        for message in answers:
            for frame in message.frames:
                if frame.HasField("welcome"):
                    behaviour.welcomed(stream, frame.welcome)
                elif frame.HasField("invocation"):
                    behaviour.invoked(stream, frame.invocation.turn_token)
                elif frame.response.HasField("status"):
                    report("answered", frame.response.status)
    except grpc.RpcError as error:
        report("ended", status_of(error))
    report("ended", status_pb2.Status(message="without a word"))


if __name__ == "__main__":
    main(sys.argv[1])
