"""Where the sidecar is, and how to open a stream to it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import grpc
import grpc.aio

from kar import limits
from kar._status import error_of_rpc
from kar._version import SDK
from kar.errors import ConnectError, NotConfigured, ProtocolError, Refused, Unreachable
from kar.v1 import component_pb2 as v1
from kar.v1 import event_pb2, system_pb2

ENV_SOCKET = "KAR_SOCKET"
"""Path of the sidecar's Unix socket."""
ENV_PORT = "KAR_GRPC_PORT"
"""The sidecar's port on 127.0.0.1; used where `KAR_SOCKET` is not set."""
ENV_TOKEN = "KAR_API_TOKEN"
"""Bearer token of the sidecar's API, if it wants one."""

PROTOCOL_VERSION = 1
"""Newest version of the stream's protocol that is spoken here."""

_CONNECT = "/kar.v1.ComponentService/Connect"
_WATCH_TOPOLOGY = "/kar.v1.SystemService/WatchTopology"
_CONSUME = "/kar.v1.EventService/Consume"

M = TypeVar("M")

# What the gRPC library raises where a stream is over already.
BROKEN = (grpc.RpcError, asyncio.InvalidStateError, grpc.aio.UsageError)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How to reach the sidecar, and with what patience (seconds)."""

    socket: str | os.PathLike[str] | None = None
    port: int | None = None
    api_token: str | None = None
    connect_timeout: float = limits.CONNECT_TIMEOUT
    reconnect_timeout: float = limits.RECONNECT_TIMEOUT
    drain_timeout: float = limits.DRAIN_TIMEOUT
    requests_max: int = limits.CLIENT_REQUESTS_MAX

    def dialer(self, env: Mapping[str, str] = os.environ) -> Dialer:
        """Fills in from the environment what was not said, and checks it."""
        token = self.api_token if self.api_token is not None else env.get(ENV_TOKEN, "")
        if not all(" " <= c <= "~" for c in token):
            raise NotConfigured(f"{ENV_TOKEN} has characters that gRPC metadata must not have")
        if self.socket is None and self.port is not None:
            return Dialer.tcp(self.port, token)
        socket = os.fspath(self.socket) if self.socket is not None else env.get(ENV_SOCKET, "")
        if socket:
            return Dialer(f"unix:{os.path.abspath(socket)}", socket, _OPTIONS, token)
        port = env.get(ENV_PORT, "")
        if not port:
            raise NotConfigured(
                f"no sidecar to talk to: run this program under `kar run`, or set {ENV_SOCKET}"
            )
        if not (port.isascii() and port.isdigit() and 0 < int(port) <= 65535):
            raise NotConfigured(f"{ENV_PORT} is not a port number: {port!r}")
        return Dialer.tcp(int(port), token)


_OPTIONS: tuple[tuple[str, Any], ...] = (
    # The library would send the percent-encoded path of a Unix socket, which HTTP/2 servers refuse.
    ("grpc.default_authority", "localhost"),
    ("grpc.max_receive_message_length", limits.MESSAGE_BYTES_DECODE_MAX),
    ("grpc.max_send_message_length", -1),
    # The sidecar is on this machine; a proxy in the environment is for others.
    ("grpc.enable_http_proxy", 0),
    ("grpc.enable_retries", 0),
    # Else channels share subchannels, and with them a backoff of 20 s and more: this package has its own.
    ("grpc.use_local_subchannel_pool", 1),
)

_TCP_OPTIONS: tuple[tuple[str, Any], ...] = (
    *_OPTIONS,
    ("grpc.keepalive_time_ms", int(limits.KEEP_ALIVE * 1000)),
    ("grpc.keepalive_timeout_ms", int(limits.KEEP_ALIVE * 1000)),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
)


@dataclass(frozen=True, slots=True)
class Dialer:
    """A sidecar that can be connected to, any number of times."""

    target: str
    address: str
    options: tuple[tuple[str, Any], ...]
    token: str

    @classmethod
    def tcp(cls, port: int, token: str) -> Dialer:
        """A sidecar on a port of 127.0.0.1."""
        address = f"127.0.0.1:{port}"
        return cls(f"ipv4:{address}", address, _TCP_OPTIONS, token)

    async def open(self, hello: v1.Hello) -> Wire:
        """Connects and registers; one attempt. A channel of its own each time: one that has failed
        waits before it tries again."""
        channel = grpc.aio.insecure_channel(self.target, options=self.options)
        try:
            async with asyncio.timeout(limits.WELCOME_TIMEOUT):
                return await self._welcomed(channel, hello)
        except TimeoutError as error:
            await channel.close(None)
            raise self.unreachable("no welcome in time") from error
        except BaseException:
            await channel.close(None)
            raise

    async def _welcomed(self, channel: grpc.aio.Channel, hello: v1.Hello) -> Wire:
        # No serialiser: frames are encoded one by one, when they are made, and joined.
        connect: Any = channel.stream_stream(
            _CONNECT, None, v1.ConnectResponse.FromString
        )
        call = connect(metadata=self._metadata())
        hello.protocol_version = PROTOCOL_VERSION
        hello.sdk = SDK
        first = v1.ConnectRequest(frames=[v1.ComponentFrame(hello=hello)])
        try:
            await call.write(first.SerializeToString())
        except BROKEN:
            pass  # Reading tells why.
        frames: list[v1.SidecarFrame] = []
        while not frames:
            try:
                message = await call.read()
            except grpc.aio.AioRpcError as error:
                raise self._refused(error) from error
            if message is grpc.aio.EOF:
                raise ProtocolError("the stream ended before a welcome")
            frames.extend(message.frames)
        return Wire(channel, call, check_welcome(frames[0]), frames[1:])

    async def watch_topology(self) -> AsyncGenerator[system_pb2.WatchTopologyResponse, None]:
        """Follows the topology, on a channel of its own."""
        channel = grpc.aio.insecure_channel(self.target, options=self.options)
        try:
            watch: Any = channel.unary_stream(
                _WATCH_TOPOLOGY,
                system_pb2.WatchTopologyRequest.SerializeToString,
                system_pb2.WatchTopologyResponse.FromString,
            )
            request = system_pb2.WatchTopologyRequest()
            async for message in watch(request, metadata=self._metadata()):
                yield message
        finally:
            await channel.close(None)

    async def ask(self, path: str, request: Any, answer: type[M]) -> M:
        """A request that needs no stream, on a channel of its own; one attempt."""
        channel = grpc.aio.insecure_channel(self.target, options=self.options)
        try:
            reader: Any = answer
            ask: Any = channel.unary_unary(path, type(request).SerializeToString, reader.FromString)
            message: M = await ask(request, metadata=self._metadata())
            return message
        finally:
            await channel.close(None)

    @asynccontextmanager
    async def consuming(self) -> AsyncIterator[Any]:
        """A consumer's stream, on a channel of its own, to be written and read."""
        channel = grpc.aio.insecure_channel(self.target, options=self.options)
        try:
            consume: Any = channel.stream_stream(
                _CONSUME,
                event_pb2.ConsumeRequest.SerializeToString,
                event_pb2.ConsumeResponse.FromString,
            )
            call = consume(metadata=self._metadata())
            try:
                yield call
            finally:
                call.cancel()
        finally:
            await channel.close(None)

    def _metadata(self) -> tuple[tuple[str, str], ...]:
        return (("authorization", f"Bearer {self.token}"),) if self.token else ()

    def _refused(self, error: grpc.aio.AioRpcError) -> ConnectError:
        refusal = error_of_rpc(error)
        # Without a reason it is not the sidecar that says so, but the library in its place.
        if error.code() is grpc.StatusCode.UNAVAILABLE and not refusal.reason:
            return self.unreachable(refusal.message)
        return Refused(refusal)

    def unreachable(self, cause: str) -> Unreachable:
        """Nothing answers there."""
        return Unreachable(f"no sidecar answers at {self.address}: {cause}")


def check_welcome(frame: v1.SidecarFrame) -> v1.Welcome:
    """The welcome, if it is one."""
    if not frame.HasField("welcome"):
        raise ProtocolError("the first frame is not a welcome")
    welcome = frame.welcome
    if welcome.protocol_version != PROTOCOL_VERSION:
        raise ProtocolError(
            f"the sidecar speaks version {welcome.protocol_version}, this SDK {PROTOCOL_VERSION}"
        )
    if welcome.request_credits < 1 or welcome.message_bytes_max < 1:
        raise ProtocolError("the welcome allows no requests")
    if welcome.stream_message_bytes_max > limits.MESSAGE_BYTES_DECODE_MAX:
        raise ProtocolError(
            f"the sidecar's messages may have {welcome.stream_message_bytes_max} bytes, and this SDK "
            f"takes {limits.MESSAGE_BYTES_DECODE_MAX}: lower step-bytes-per-invocation-max or "
            "message-bytes-max"
        )
    return welcome


class Wire:
    """A stream on which the component was welcomed."""

    __slots__ = ("_call", "_channel", "first", "read", "welcome", "write")

    def __init__(
        self,
        channel: grpc.aio.Channel,
        call: Any,
        welcome: v1.Welcome,
        first: list[v1.SidecarFrame],
    ) -> None:
        self._channel, self._call = channel, call
        self.welcome = welcome
        self.first = first
        """Frames that came with the welcome."""
        self.read = call.read
        self.write = call.write

    async def done_writing(self) -> None:
        """Closes this side, in order."""
        await self._call.done_writing()

    def cancel(self) -> None:
        """Breaks the stream off."""
        self._call.cancel()

    async def close(self) -> None:
        """Gives the connection back."""
        self._call.cancel()
        await self._channel.close(None)
