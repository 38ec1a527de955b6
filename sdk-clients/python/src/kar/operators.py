"""What operators and their tools ask for (`Client.operator`): what is unfinished and what has failed, who is
there and who is busy, and that a node hands over."""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

import grpc.aio

from kar import limits
from kar._session import request
from kar._status import error_of_rpc, may_pass
from kar.errors import ApplicationError, KarError, OutcomeUnknown, Unavailable
from kar.topology import TopologyNode, read_node
from kar.v1 import common_pb2, invocation_pb2, system_pb2

if TYPE_CHECKING:
    from typing import Self

    from kar._connection import Connection

T = TypeVar("T")
M = TypeVar("M")

InvocationMode = Literal["call", "tell", "start", "direct", "deactivate", "other"]
"""How something is invoked; `other` here and below: in a way that a later version of the sidecar knows."""

InvocationState = Literal[
    "queued", "running", "suspended", "retrying", "completed", "moved", "parked", "other"
]
"""Where an invocation stands: it waits for its turn, a slot or a host; its code runs; its code waits for a call;
its next attempt waits for what the last one began; it ended and its outcome is kept; it goes on elsewhere by a
tail call; it has lost too many hosts and rests until somebody resumes or cancels it."""

InvocationEnd = Literal[
    "done", "failed", "refused", "expired", "cancelled", "deadlock", "withdrawn", "other"
]
"""How an invocation ended."""

AttemptEndCause = Literal[
    "host_lost", "owner_lost", "hand_over", "application_error", "stopped", "other"
]
"""Why an attempt ended without ending its invocation."""

_INVOCATIONS = "/kar.v1.InvocationService/"
_SYSTEM = "/kar.v1.SystemService/"


@dataclass(frozen=True, slots=True)
class InvocationTarget:
    """Whom an invocation is for."""

    name: str
    """Of the service, or of the actor's type."""
    id: str | None = None
    """Of the actor; `None`: it is a service."""

    def __str__(self) -> str:
        return self.name if self.id is None else f"{self.name}/{self.id}"


@dataclass(frozen=True, slots=True)
class AttemptEnd:
    """How an attempt ended that did not end its invocation."""

    cause: AttemptEndCause
    message: str
    """One line for people."""


@dataclass(frozen=True, slots=True)
class InvocationView:
    """What is known of an invocation."""

    id: str
    target: InvocationTarget | None
    """`None`, and what follows is empty, if only its end is known."""
    method: str
    mode: InvocationMode | None
    state: InvocationState
    attempt: int
    """Attempts begun."""
    created: datetime | None
    """`None` if it has an idempotency key: its id is made of that, and of no time."""
    node: str
    """Name of the node that owns it now; empty if there is none."""
    is_cancel_requested: bool
    """Somebody asked for its end."""
    last_attempt_end: AttemptEnd | None
    retry_at: datetime | None
    """The next attempt starts then at the earliest; `None`: as soon as it can."""
    end: InvocationEnd | None
    """`None` if it has not ended."""
    error: ApplicationError | None
    """What its method failed with, without its payload."""
    ended: datetime | None
    """When it ended; only of dead letters."""
    behind: str | None
    """Id of the parked invocation that keeps its actor: it waits until that one is resumed or cancelled."""


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A tell that ended without success."""

    id: str
    target: InvocationTarget | None
    method: str
    error: ApplicationError | None
    """What it failed with, without its payload; `None` if its deadline passed before it started."""
    attempts: int
    created: datetime | None
    """`None` if it was told with an idempotency key."""
    ended: datetime | None


@dataclass(frozen=True, slots=True)
class BusyActor:
    """An actor that is busy, or has invocations queued."""

    type: str
    id: str
    node: str
    """Name of its owner."""
    queued: int
    """Invocations waiting for it."""
    is_busy: bool
    """A turn holds it."""


@dataclass(frozen=True, slots=True)
class SidecarInfo:
    """What a sidecar says of itself."""

    application: str
    node: TopologyNode | None
    """`None` while it has not joined."""
    version: str
    partitions: tuple[str, ...]
    """What it owns, as `KIND/INDEX` with `s.` before services and `a.` before actor types."""
    limits: dict[str, int]
    """Every bound with its value, by name."""
    counters: dict[str, int]
    """Since its start, by name."""
    faults: tuple[str, ...]
    """What stands still on its node until somebody mends it, for people."""


@dataclass(frozen=True, slots=True)
class LeftOut:
    """What a listing could not list, so that nobody takes it for complete; false if there is nothing. Listing
    again later, or for a single kind, may."""

    nodes: dict[str, str]
    """Nodes that did not tell what they serve, by name, and what happened instead."""
    partitions: tuple[str, ...]
    """Partitions that nobody told of, as in `SidecarInfo`."""
    rows: int
    """Rows that the nodes did not tell because there were too many."""

    def __bool__(self) -> bool:
        return bool(self.nodes or self.partitions or self.rows)


@dataclass(frozen=True, slots=True)
class _Page(Generic[T]):
    rows: Iterable[T]
    next: str
    left_out: common_pb2.LeftOut | None


class Listing(Generic[T]):
    """A listing that is under way: `async for invocation in client.operator.invocations()`. It asks for a page when
    one is wanted, and holds no more than that; what changes meanwhile may be in it or not. After an error it can
    be gone on with."""

    __slots__ = ("_fetch", "_next", "_rows", "left_out")

    def __init__(self, fetch: Callable[[str], Awaitable[_Page[T]]]) -> None:
        self._fetch = fetch
        self._next: str | None = ""
        self._rows: deque[T] = deque()
        self.left_out = LeftOut({}, (), 0)
        """What the pages so far could not list."""

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        while not self._rows:
            if not await self._take():
                raise StopAsyncIteration
        return self._rows.popleft()

    async def up_to(self, count: int) -> list[T]:
        """The next entries, at most so many; fewer: there are no more."""
        while len(self._rows) < count and await self._take():
            pass
        return [self._rows.popleft() for _ in range(min(count, len(self._rows)))]

    async def _take(self) -> bool:
        """Takes a page in; false: there are no more."""
        if self._next is None:
            return False
        page = await self._fetch(self._next)
        self._next = page.next or None
        self._rows.extend(page.rows)
        if page.left_out is not None:
            told = page.left_out
            nodes = {node.name: node.cause for node in told.nodes}
            self.left_out = LeftOut(nodes, tuple(told.partitions), told.rows)
        return True


class Operator:
    """What operators and their tools ask for.

    What only asks has a connection of its own for each request, and is asked again while the sidecar cannot be
    reached, for as long as the client's `reconnect_timeout`; then it raises `Unavailable` or `OutcomeUnknown`.
    To end invocations, or to let parked ones go on, see `Client.cancel` and `Client.resume`."""

    __slots__ = ("_connection",)

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def invocation(self, id: str) -> InvocationView:
        """What is known of one invocation: of an unfinished one, of a dead letter, and of one whose outcome is
        kept for somebody (then only how it ended). `UnknownInvocation` if nothing is."""
        asked = invocation_pb2.GetInvocationRequest(invocation_id=id)
        answer = invocation_pb2.GetInvocationResponse
        return _invocation((await self._ask(_INVOCATIONS, asked, answer)).invocation)

    def invocations(self, kind: str = "", *, page_size: int = 0) -> Listing[InvocationView]:
        """The unfinished invocations of the application, oldest first; with `kind` only of that service or actor
        type. They are asked for in pages of `page_size` (100 if not said; at most 10,000)."""

        async def fetch(token: str) -> _Page[InvocationView]:
            asked = invocation_pb2.ListInvocationsRequest(kind=kind, page_size=page_size, page_token=token)
            page = await self._ask(_INVOCATIONS, asked, invocation_pb2.ListInvocationsResponse)
            return _Page(map(_invocation, page.invocations), page.next_page_token, _left_out(page))

        return Listing(fetch)

    def dead_letters(self, kind: str = "", *, page_size: int = 0) -> Listing[DeadLetter]:
        """The dead letters of the application, oldest first: tells that ended without success, because their
        method failed or their deadline passed. They go by themselves after a time. As `invocations`."""

        async def fetch(token: str) -> _Page[DeadLetter]:
            asked = invocation_pb2.ListDeadLettersRequest(kind=kind, page_size=page_size, page_token=token)
            page = await self._ask(_INVOCATIONS, asked, invocation_pb2.ListDeadLettersResponse)
            return _Page(map(_dead_letter, page.dead_letters), page.next_page_token, _left_out(page))

        return Listing(fetch)

    def actors(self, type: str = "", *, page_size: int = 0) -> Listing[BusyActor]:
        """The actors of the application that are busy, or have invocations queued, by type and id. As
        `invocations`."""

        async def fetch(token: str) -> _Page[BusyActor]:
            asked = system_pb2.ListActorsRequest(type=type, page_size=page_size, page_token=token)
            page = await self._ask(_SYSTEM, asked, system_pb2.ListActorsResponse)
            return _Page(map(_actor, page.actors), page.next_page_token, _left_out(page))

        return Listing(fetch)

    async def redrive(self, id: str) -> str:
        """Sends a dead letter again, as a new tell without a deadline, whose id this returns; it is no dead letter
        any more. It is neither lost nor sent twice. `UnknownInvocation` if there is no such dead letter (any
        more); `OutcomeUnknown` if the connection broke: see whether it is still listed."""
        outgoing = request("redrive_dead_letter")
        outgoing.request.redrive_dead_letter.invocation_id = id
        response = await self._connection.request(outgoing)
        return response.redrive_dead_letter.invocation_id

    async def discard(self, id: str) -> None:
        """Drops a dead letter. Errors as of `redrive`."""
        outgoing = request("discard_dead_letter")
        outgoing.request.discard_dead_letter.invocation_id = id
        await self._connection.request(outgoing)

    async def nodes(self) -> tuple[TopologyNode, ...]:
        """The live nodes of the application, by incarnation."""
        asked = system_pb2.ListNodesRequest()
        answer = await self._ask(_SYSTEM, asked, system_pb2.ListNodesResponse)
        return tuple(map(read_node, answer.nodes))

    async def info(self) -> SidecarInfo:
        """What the client's sidecar says of itself."""
        info = await self._ask(_SYSTEM, system_pb2.GetInfoRequest(), system_pb2.GetInfoResponse)
        return SidecarInfo(
            info.application,
            read_node(info.node) if info.HasField("node") else None,
            info.sidecar_version,
            tuple(info.partitions),
            dict(info.limits),
            dict(info.counters),
            tuple(info.faults),
        )

    async def drain(self) -> None:
        """Has the client's sidecar hand over every partition that it owns; returns when it owns none. It can be
        stopped then without anybody noticing. `Unavailable` with reason `DRAINING` if it takes longer than the
        sidecar allows: it goes on, ask again. `OutcomeUnknown` if the connection broke."""
        await self._write(system_pb2.DrainRequest(), system_pb2.DrainResponse)

    async def shut_down(self) -> None:
        """Has the client's sidecar hand over, and then end: also the component that runs under it, which may be
        this very program. Returns at once. `OutcomeUnknown` if the connection broke."""
        await self._write(system_pb2.ShutdownRequest(), system_pb2.ShutdownResponse)

    async def _ask(self, service: str, asked: Any, answer: type[M]) -> M:
        """Asks for something that may be asked any number of times; again for a while if nobody answers."""
        loop, patience = asyncio.get_running_loop(), self._connection.settings.reconnect_timeout
        start, pause = loop.time(), limits.BACKOFF_MIN
        while True:
            try:
                return await self._connection.dialer.ask(_path(service, asked), asked, answer)
            except grpc.aio.AioRpcError as raised:
                error = error_of_rpc(raised)
            if not may_pass(error) or loop.time() - start + pause >= patience:
                raise error
            await asyncio.sleep(pause * (0.5 + random.random() / 2))
            pause = min(pause * 2, limits.BACKOFF_MAX)

    async def _write(self, asked: Any, answer: type[M]) -> M:
        """Asks once."""
        try:
            return await self._connection.dialer.ask(_path(_SYSTEM, asked), asked, answer)
        except grpc.aio.AioRpcError as raised:
            error: KarError = error_of_rpc(raised)
        # Unless the sidecar says so itself, it may have been carried out.
        if may_pass(error) and not error.reason:
            raise OutcomeUnknown(error.message, reason="OUTCOME_UNKNOWN", status=error.status)
        raise error


def _path(service: str, asked: Any) -> str:
    """Each request is of one RPC, and has its name."""
    return service + str(asked.DESCRIPTOR.name).removesuffix("Request")


def _left_out(page: Any) -> common_pb2.LeftOut | None:
    return page.left_out if page.HasField("left_out") else None


def _name(kind: Any, prefix: str, value: int) -> Any:
    """The name of an enum's value, in short; one that is not known here is another one."""
    known = kind.values_by_number.get(value)
    return "other" if known is None else known.name.removeprefix(prefix).lower()


def _name_unless_unspecified(kind: Any, prefix: str, value: int) -> Any:
    return None if value == 0 else _name(kind, prefix, value)


_MODE = common_pb2.InvocationMode.DESCRIPTOR
_STATE = invocation_pb2.InvocationState.DESCRIPTOR
_END = invocation_pb2.InvocationEnd.DESCRIPTOR
_CAUSE = invocation_pb2.AttemptEndCause.DESCRIPTOR


def _invocation(info: invocation_pb2.InvocationInfo) -> InvocationView:
    last = None
    if info.HasField("last_attempt_end"):
        cause = _name(_CAUSE, "ATTEMPT_END_CAUSE_", info.last_attempt_end.cause)
        last = AttemptEnd(cause, info.last_attempt_end.message)
    return InvocationView(
        id=info.invocation_id,
        target=_target(info),
        method=info.method,
        mode=_name_unless_unspecified(_MODE, "INVOCATION_MODE_", info.mode),
        state=_name(_STATE, "INVOCATION_STATE_", info.state),
        attempt=info.attempt,
        created=_time(info, "create_time"),
        node=info.node,
        is_cancel_requested=info.cancel_requested,
        last_attempt_end=last,
        retry_at=_time(info, "retry_time"),
        end=_name_unless_unspecified(_END, "INVOCATION_END_", info.end),
        error=_error(info),
        ended=_time(info, "end_time"),
        behind=info.behind_invocation_id or None,
    )


def _dead_letter(letter: invocation_pb2.DeadLetter) -> DeadLetter:
    return DeadLetter(
        id=letter.invocation_id,
        target=_target(letter),
        method=letter.method,
        error=_error(letter),
        attempts=letter.attempts,
        created=_time(letter, "create_time"),
        ended=_time(letter, "end_time"),
    )


def _actor(info: system_pb2.ActorInfo) -> BusyActor:
    return BusyActor(info.actor.type, info.actor.id, info.node, info.queued, info.busy)


def _target(of: Any) -> InvocationTarget | None:
    match of.target.WhichOneof("kind"):
        case "service":
            return InvocationTarget(of.target.service.name)
        case "actor":
            return InvocationTarget(of.target.actor.type, of.target.actor.id)
        case _:
            return None


def _error(of: Any) -> ApplicationError | None:
    if not of.HasField("error"):
        return None
    error = of.error
    return ApplicationError(
        error.code, error.message, detail=error.detail, retryable=error.retryable
    )


def _time(of: Any, field: str) -> datetime | None:
    return getattr(of, field).ToDatetime(timezone.utc) if of.HasField(field) else None
