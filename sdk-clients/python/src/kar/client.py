"""What a component asks of its sidecar outside turns."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Generator
from typing import TYPE_CHECKING, Any, Literal, TypeVar, overload

from kar import codec, limits
from kar._connection import Connection
from kar._session import request
from kar._transport import Settings
from kar.calls import Caller, Started
from kar.hosting import Actor
from kar.operators import Operator
from kar.reminders import Reminders
from kar.state import ApplicationState
from kar.subscriptions import Subscriptions
from kar.topics import TopicDescription, every_topic
from kar.topology import Topology, follow
from kar.v1 import component_pb2 as v1
from kar.v1 import invocation_pb2

if TYPE_CHECKING:
    from typing import Self

R = TypeVar("R")

Cancelling = Literal["cancelled", "requested", "moved", "ended"]
"""What a request for an invocation's end came to: it has ended so; it runs and was told; it has gone on
elsewhere by a tail call, where its id does not reach it; it had ended before."""

_CANCELLING: dict[int, Cancelling] = {
    invocation_pb2.CANCEL_RESULT_CANCELLED: "cancelled",
    invocation_pb2.CANCEL_RESULT_REQUESTED: "requested",
    invocation_pb2.CANCEL_RESULT_MOVED: "moved",
    invocation_pb2.CANCEL_RESULT_ENDED: "ended",
}


class Client(Caller):
    """A connection to the sidecar. Calls made outside turns are the roots of flows; inside a turn of
    the same connection they are nested in it by themselves."""

    __slots__ = ("_kar_connection", "_owns")

    def __init__(self, connection: Connection, *, owns: bool) -> None:
        self._kar_connection, self._owns = connection, owns

    @property
    def node(self) -> str:
        """Name of the sidecar's node."""
        return self._kar_connection.welcome.node

    @property
    def application(self) -> str:
        """Name of the application."""
        return self._kar_connection.welcome.application

    @property
    def subscriptions(self) -> Subscriptions:
        """What of topics is delivered to methods of the application."""
        return Subscriptions(self._kar_connection)

    @property
    def operator(self) -> Operator:
        """What operators and their tools ask for: what is unfinished, dead letters, who is busy."""
        return Operator(self._kar_connection)

    @property
    def state(self) -> ApplicationState:
        """State of the application as a whole."""
        return ApplicationState(self._kar_connection)

    @overload
    def started(self, id: str) -> Started[Any]: ...

    @overload
    def started(self, id: str, result: type[R]) -> Started[R]: ...

    def started(self, id: str, result: Any = Any) -> Started[Any]:
        """A started invocation by its id; its result is read as the type `result`."""
        return Started(self._kar_connection, id, codec.decoder(result))

    def reminders(self, actor: type[Actor] | str, id: str) -> Reminders:
        """The reminders of an actor, from outside its turns."""
        name = actor if isinstance(actor, str) else actor.kar_name
        return Reminders(self._kar_connection, None, (name, id))

    async def remove(self, actor: type[Actor] | str, id: str) -> None:
        """Removes an actor: its state and its reminders, in one step, behind what was accepted before;
        what comes behind it begins with an empty actor. Returns when that is durable. An actor that has
        nothing is removed, too. A turn that awaits the removal of its own actor waits for itself.

        `Rejected` with reason `UNKNOWN_TYPE` if nobody has ever used the type; `LimitReached` if the
        actor's queue is full; `OutcomeUnknown` if the connection broke: whoever does it again may remove
        what was made since."""
        outgoing = request("remove_actor")
        target = outgoing.request.remove_actor.actor
        target.type = actor if isinstance(actor, str) else actor.kar_name
        target.id = id
        await self._kar_connection.request(outgoing)

    def topics(self, *, page_size: int = 0) -> AsyncGenerator[TopicDescription, None]:
        """All topics, by name, with what is in them: `async for topic in client.topics()`. They are asked for in pages
        of `page_size` (100 if not said; at most 1,000)."""
        return every_topic(self._kar_connection, page_size)

    def watch_topology(self) -> AsyncGenerator[Topology, None]:
        """Follows who is there, and which node owns which partition: `async for topology in
        client.watch_topology()`. The topology comes at once, and again when it has changed; changes that come
        close together, or while nobody asks, are told as one, the newest. It has a connection of its own, made
        again when it breaks; whoever leaves the loop early closes it: `async with
        contextlib.aclosing(client.watch_topology()) as topologies`.

        Raises `LimitReached` if as many follow it already as the sidecar lets, `Unavailable` or `OutcomeUnknown`
        if the sidecar cannot be reached for as long as the client's `reconnect_timeout`, and what it refuses;
        it is over then."""
        connection = self._kar_connection
        return follow(connection.dialer, connection.settings.reconnect_timeout)

    async def cancel(self, id: str) -> Cancelling:
        """Asks for the end of an invocation. One that does not run ends at once; one that runs is told (in
        Python its code gets a `CancelledError`), and its result counts if it has one; it is not tried
        again. `UnknownInvocation` if there is none, or it has ended and left nothing."""
        outgoing = request("cancel")
        outgoing.request.cancel.invocation_id = id
        response = await self._kar_connection.request(outgoing)
        return _CANCELLING[response.cancel.result]

    async def resume(self, id: str) -> None:
        """Lets an invocation go on that is parked because it has lost too many hosts. `Rejected` with
        reason `NOT_PARKED` if it is not; `UnknownInvocation` if there is none."""
        outgoing = request("resume")
        outgoing.request.resume.invocation_id = id
        await self._kar_connection.request(outgoing)

    async def close(self) -> None:
        """Closes the connection when the requests under way are answered, or after the drain
        timeout. A host's client leaves that to the host."""
        if self._owns:
            self._kar_connection.leave()
            await self._kar_connection.ended()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None or not self._owns:
            await self.close()
        else:
            # Something failed; what is under way is given up.
            await self._kar_connection.abort()

    def _connection(self) -> Connection:
        return self._kar_connection


class Connecting:
    """What `connect` returns: `await` it, or use it in `async with`."""

    __slots__ = ("_client", "_settings")

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._client: Client | None = None

    def __await__(self) -> Generator[Any, None, Client]:
        return self._connect().__await__()

    async def _connect(self) -> Client:
        connection = Connection(self._settings, v1.Hello())
        await connection.open()
        return Client(connection, owns=True)

    async def __aenter__(self) -> Client:
        self._client = await self._connect()
        return self._client

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        assert self._client is not None, "entered before it is left"
        await self._client.__aexit__(kind)


def connect(
    *,
    socket: str | os.PathLike[str] | None = None,
    port: int | None = None,
    api_token: str | None = None,
    connect_timeout: float = limits.CONNECT_TIMEOUT,
    reconnect_timeout: float = limits.RECONNECT_TIMEOUT,
    drain_timeout: float = limits.DRAIN_TIMEOUT,
    requests_max: int = limits.CLIENT_REQUESTS_MAX,
) -> Connecting:
    """Connects to the sidecar: `async with kar.connect() as client`, or `await kar.connect()`.

    Where it is, and its token, are said by `KAR_SOCKET` or `KAR_GRPC_PORT`, and `KAR_API_TOKEN`,
    which `kar run` sets, unless they are said here. The connection is made again by itself when the
    sidecar restarts; what was under way then, and may have been carried out, fails with
    `OutcomeUnknown`. Raises `ConnectError`.
    """
    return Connecting(
        Settings(
            socket=socket,
            port=port,
            api_token=api_token,
            connect_timeout=connect_timeout,
            reconnect_timeout=reconnect_timeout,
            drain_timeout=drain_timeout,
            requests_max=requests_max,
        )
    )
