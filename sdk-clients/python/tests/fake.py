"""A sidecar that does what a test says, over a real socket."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, ParamSpec

import grpc
import grpc.aio
from followers import Follower
from scripted import json as json
from scripted import status as status

import kar
from kar.v1 import common_pb2
from kar.v1 import component_pb2 as v1
from kar.v1 import event_pb2, system_pb2

LIMIT = 20.0
"""Longest time that a test may take, seconds."""

P = ParamSpec("P")


def asynchronous(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """Runs a test on an event loop of its own, within `LIMIT`."""

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        async def within() -> None:
            async with asyncio.timeout(LIMIT):
                await test(*args, **kwargs)

        asyncio.run(within())

    return run


class Unary:
    """Answers one RPC: with what a function makes of the request, which may abort by the context."""

    def __init__(self, request: type[Any], answer: Callable[[Any, Any], Awaitable[Any]]) -> None:
        self.handler: Any = grpc.unary_unary_rpc_method_handler(
            answer, request.FromString, lambda message: message.SerializeToString()
        )


class Unaries(grpc.GenericRpcHandler):
    """Looks up who answers when somebody asks."""

    def __init__(self, fake: FakeSidecar) -> None:
        self._fake = fake

    def service(self, details: grpc.HandlerCallDetails) -> Any:
        """Who answers this path."""
        found = self._fake.unary.get(details.method)
        return found.handler if found else None


async def refuse(context: Any, code: grpc.StatusCode, reason: str, **metadata: str) -> None:
    """Ends a request that needs no stream with a status."""
    details = status(code, reason, **metadata).SerializeToString()
    await context.abort(code, "refused", (("grpc-status-details-bin", details),) if reason else ())


class FakeSidecar:
    """Listens on a Unix socket and on a port of 127.0.0.1."""

    def __init__(self, server: grpc.aio.Server, socket: Path, port: int) -> None:
        self._server, self.socket, self.port = server, socket, port
        self.streams: asyncio.Queue[Peer] = asyncio.Queue()
        self.watchers: asyncio.Queue[Watcher] = asyncio.Queue()
        """Those who follow the topology."""
        self.followers: asyncio.Queue[Follower] = asyncio.Queue()
        """Those who follow a topic."""
        self.unary: dict[str, Unary] = {}
        """What answers requests that need no stream, by the path of the RPC."""

    async def accept(self, **welcome: Any) -> Peer:
        """The next stream, whose component is welcomed."""
        peer = await self.streams.get()
        await peer.welcome(**welcome)
        return peer

    def client(self, **options: Any) -> Any:
        """A client of the SDK on the Unix socket."""
        return kar.connect(socket=self.socket, **options)

    def host(self, *things: Any, **options: Any) -> kar.Host:
        """A host of the SDK on the Unix socket."""
        return kar.Host(*things, socket=self.socket, **options)

    async def stop(self) -> None:
        """Stops listening and breaks every stream."""
        await self._server.stop(None)


class Peer:
    """A component's stream, as the sidecar sees it."""

    def __init__(self, requests: AsyncIterator[v1.ConnectRequest], context: Any) -> None:
        self._requests, self._context = requests, context
        self.keeps_open = False
        """Does not end the stream when the component closes its side."""
        self.metadata = dict(context.invocation_metadata())
        self.hello = v1.Hello()
        self._frames: asyncio.Queue[v1.ComponentFrame | None] = asyncio.Queue()
        self.messages: list[int] = []
        """How many frames each message had."""
        self._end: asyncio.Future[tuple[grpc.StatusCode, str, tuple[Any, ...]]] = (
            asyncio.get_running_loop().create_future()
        )

    async def welcome(self, **fields: Any) -> None:
        """Welcomes the component."""
        defaults: dict[str, Any] = {
            "protocol_version": 1,
            "node": "fake",
            "application": "app",
            "message_bytes_max": 4 << 20,
            "request_credits": 1000,
            "takes_forget": True,
        }
        await self.send(v1.SidecarFrame(welcome=v1.Welcome(**{**defaults, **fields})))

    async def send(self, *frames: v1.SidecarFrame) -> None:
        """Sends frames in one message."""
        await self._context.write(v1.ConnectResponse(frames=frames))

    async def frame(self) -> v1.ComponentFrame:
        """The next frame of the component."""
        frame = await self._frames.get()
        assert frame is not None, "the component closed its side"
        return frame

    async def request(self, operation: str) -> v1.Request:
        """The next frame, which must be this request."""
        frame = await self.frame()
        assert frame.request.WhichOneof("operation") == operation, frame
        return frame.request

    async def forgets(self, request: v1.Request) -> None:
        """The next frame, which must say that nobody waits for this request; answers it as the sidecar does."""
        frame = await self.frame()
        assert frame.HasField("forget") and frame.forget.id == request.id, frame
        await self.refuse(request, grpc.StatusCode.CANCELLED, "OUTCOME_UNKNOWN")

    async def outcome(self) -> v1.TurnOutcome:
        """The next frame, which must be a turn's result."""
        frame = await self.frame()
        assert frame.HasField("turn_result"), frame
        return frame.turn_result

    async def closed(self) -> None:
        """The component closes its side, with nothing more to say."""
        frame = await self._frames.get()
        assert frame is None, frame

    async def answer(self, request: v1.Request, **result: Any) -> None:
        """Answers a request."""
        await self.send(v1.SidecarFrame(response=v1.Response(id=request.id, **result)))

    async def answer_call(self, request: v1.Request, text: str = "null") -> None:
        """Answers a call with a JSON text."""
        operation = request.WhichOneof("operation")
        assert operation is not None
        payload = json(text)
        response = v1.Response(id=request.id)
        getattr(response, operation).payload.CopyFrom(payload)
        await self.send(v1.SidecarFrame(response=response))

    async def refuse(self, request: v1.Request, code: grpc.StatusCode, reason: str) -> None:
        """Answers a request with a status."""
        await self.answer(request, status=status(code, reason))

    async def invoke(
        self,
        token: str,
        method: str,
        argument: str = "null",
        *,
        service: str = "",
        actor: tuple[str, str] = ("", ""),
        **fields: Any,
    ) -> None:
        """Sends a turn."""
        target = common_pb2.Target()
        if service:
            target.service.name = service
        else:
            target.actor.type, target.actor.id = actor
        fields = {"mode": common_pb2.INVOCATION_MODE_CALL, "attempt": 1, **fields}
        frame = v1.InvocationFrame(
            turn_token=token, target=target, method=method, payload=json(argument), **fields
        )
        await self.send(v1.SidecarFrame(invocation=frame))

    async def cancel(self, token: str, *, requested: bool = False) -> None:
        """Asks a turn to stop."""
        reason = v1.CANCEL_REASON_REQUESTED if requested else v1.CANCEL_REASON_SUPERSEDED
        cancel = v1.CancelTurn(turn_token=token, reason=reason)
        await self.send(v1.SidecarFrame(cancel_turn=cancel))

    def end(
        self, code: grpc.StatusCode = grpc.StatusCode.UNAVAILABLE, reason: str = "", text: str = "end"
    ) -> None:
        """Ends the stream with a status."""
        trailers: tuple[Any, ...] = ()
        if reason:
            details = status(code, reason).SerializeToString()
            trailers = (("grpc-status-details-bin", details),)
        self._end.set_result((code, text, trailers))

    async def serve(self) -> None:
        """Reads until the component has closed its side, or the test ends the stream."""
        reading = asyncio.create_task(self._read())
        either: list[asyncio.Future[Any]] = [reading, self._end]
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if self._end.done():
            reading.cancel()
            code, text, trailers = self._end.result()
            if code is not grpc.StatusCode.OK:
                await self._context.abort(code, text, trailers)
        elif self.keeps_open:
            await self._end

    async def _read(self) -> None:
        async for message in self._requests:
            self.messages.append(len(message.frames))
            for frame in message.frames:
                self._frames.put_nowait(frame)
        self._frames.put_nowait(None)


class Watcher:
    """Somebody who follows the topology, as the sidecar sees them."""

    def __init__(self, context: Any) -> None:
        self._context = context
        self.metadata = dict(context.invocation_metadata())
        loop = asyncio.get_running_loop()
        self._end: asyncio.Future[tuple[grpc.StatusCode, tuple[Any, ...]]] = loop.create_future()
        self._ended = asyncio.Event()

    async def tell(self, topology: system_pb2.WatchTopologyResponse) -> None:
        """The topology is this now."""
        await self._context.write(topology)

    def end(self, code: grpc.StatusCode, reason: str = "", **metadata: str) -> None:
        """Ends the stream with a status."""
        details = status(code, reason, **metadata).SerializeToString() if reason else b""
        trailers = (("grpc-status-details-bin", details),) if details else ()
        self._end.set_result((code, trailers))

    async def ended(self) -> None:
        """Waits until they do not follow any more."""
        await self._ended.wait()

    async def serve(self) -> None:
        """Goes on until either side ends it."""
        try:
            code, trailers = await self._end
            if code is not grpc.StatusCode.OK:
                await self._context.abort(code, "end", trailers)
        finally:
            self._ended.set()


@asynccontextmanager
async def sidecar(folder: Path) -> AsyncIterator[FakeSidecar]:
    """A fake sidecar that listens in a folder."""
    fake = await listen(folder / "kar.sock")
    try:
        yield fake
    finally:
        await fake.stop()


@asynccontextmanager
async def connected(
    folder: Path, *, welcome: Mapping[str, Any] = MappingProxyType({}), **options: Any
) -> AsyncIterator[tuple[FakeSidecar, Peer, kar.Client]]:
    """A client of a fake sidecar, which has welcomed it. Closed in the end, or at once where the test fails."""
    async with sidecar(folder) as fake:
        connecting = asyncio.create_task(fake.client(**options)._connect())
        peer = await fake.accept(**welcome)
        async with await connecting as client:
            yield fake, peer, client


@asynccontextmanager
async def hosting(
    folder: Path, *things: Any, welcome: Mapping[str, Any] = MappingProxyType({}), **options: Any
) -> AsyncIterator[tuple[FakeSidecar, Peer, kar.Host]]:
    """A host of these at a fake sidecar, which has welcomed it. Gone in the end, with all that it runs."""
    async with sidecar(folder) as fake:
        host = fake.host(*things, **options)
        starting = asyncio.create_task(host.start())
        peer = await fake.accept(**welcome)
        await starting
        try:
            yield fake, peer, host
        finally:
            await host.abort()


async def listen(socket: Path) -> FakeSidecar:
    """Starts a fake sidecar."""
    server = grpc.aio.server()
    server.add_insecure_port(f"unix:{socket}")
    port = server.add_insecure_port("127.0.0.1:0")
    fake = FakeSidecar(server, socket, port)

    async def connect(requests: AsyncIterator[v1.ConnectRequest], context: Any) -> None:
        peer = Peer(requests, context)
        first = await anext(requests)
        assert len(first.frames) == 1, first
        peer.hello.CopyFrom(first.frames[0].hello)
        fake.streams.put_nowait(peer)
        await peer.serve()

    async def watch(_: system_pb2.WatchTopologyRequest, context: Any) -> None:
        watcher = Watcher(context)
        fake.watchers.put_nowait(watcher)
        await watcher.serve()

    async def consume(requests: AsyncIterator[event_pb2.ConsumeRequest], context: Any) -> None:
        follower = Follower(requests, context)
        follower.first.CopyFrom(await anext(requests))
        fake.followers.put_nowait(follower)
        await follower.serve()

    handler = grpc.stream_stream_rpc_method_handler(
        connect, v1.ConnectRequest.FromString, v1.ConnectResponse.SerializeToString
    )
    service = "kar.v1.ComponentService"
    watching = grpc.unary_stream_rpc_method_handler(
        watch,
        system_pb2.WatchTopologyRequest.FromString,
        system_pb2.WatchTopologyResponse.SerializeToString,
    )
    consuming = grpc.stream_stream_rpc_method_handler(
        consume,
        event_pb2.ConsumeRequest.FromString,
        event_pb2.ConsumeResponse.SerializeToString,
    )
    server.add_generic_rpc_handlers(
        [
            grpc.method_handlers_generic_handler(service, {"Connect": handler}),
            grpc.method_handlers_generic_handler(
                "kar.v1.SystemService", {"WatchTopology": watching}
            ),
            grpc.method_handlers_generic_handler("kar.v1.EventService", {"Consume": consuming}),
            Unaries(fake),
        ]
    )
    await server.start()
    return fake


async def until(what: str, holds: Callable[[], bool] | Callable[[], Awaitable[bool]]) -> None:
    """Waits for a condition that only looking can tell; the test's limit is its bound."""
    pause = 0.001
    while True:
        seen = holds()
        if seen if isinstance(seen, bool) else await seen:
            return
        await asyncio.sleep(pause)
        pause = min(pause * 2, 0.02)
