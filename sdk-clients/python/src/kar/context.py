"""What running code knows of its turn."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar, overload

from kar import codec
from kar._session import request
from kar._turn import Turn, current
from kar.calls import Caller
from kar.errors import NotInTurn
from kar.subscriptions import Delivery
from kar.v1 import common_pb2

if TYPE_CHECKING:
    from kar._connection import Connection
    from kar.client import Client

R = TypeVar("R")


class TurnContext(Caller):
    """The turn: what is called from here belongs to its flow, and what is told is durable with its
    segment."""

    __slots__ = ("_turn",)

    def __init__(self, turn: Turn) -> None:
        self._turn = turn

    @property
    def token(self) -> str:
        """The turn's token: a fence for systems that should refuse superseded attempts. Empty for
        direct invocations, which have none."""
        return self._turn.request_token

    @property
    def attempt(self) -> int:
        """Attempt, from 1; greater after a failure."""
        return self._turn.attempt

    @property
    def step(self) -> int:
        """Step of the invocation, from 1; greater after tail calls."""
        return self._turn.step

    @property
    def method(self) -> str:
        """Name of the method."""
        return self._turn.method

    @property
    def is_tell(self) -> bool:
        """Whether nobody waits for the result."""
        return self._turn.mode == common_pb2.INVOCATION_MODE_TELL

    @property
    def is_direct(self) -> bool:
        """Whether this is a direct invocation: at most once, past all logs."""
        return self._turn.is_direct

    @property
    def trace_parent(self) -> str:
        """W3C `traceparent` of the invocation; empty if there is none. Nested calls carry it on."""
        return self._turn.trace_parent

    @property
    def delivery(self) -> Delivery | None:
        """Where the event is from that this turn delivers; `None`: it delivers none. A method that wants the event
        itself takes it as its argument: `event: kar.Event[Order]`."""
        event = self._turn.event
        if event is None:
            return None
        return Delivery(event.subscription, event.topic, event.position)

    async def flush(self) -> None:
        """Makes everything that the turn did so far durable; returns when it is. Do this before IO of
        your own: code may run on state that is never committed. In a direct invocation there is
        nothing to flush."""
        if self._turn.is_direct:
            return
        outgoing = request("flush")
        outgoing.request.flush.turn_token = self._turn.token
        await self._turn.request(outgoing)

    @overload
    async def once(self, key: str, f: Callable[[], Awaitable[Any]]) -> Any: ...

    @overload
    async def once(self, key: str, f: Callable[[], Awaitable[R]], result: type[R]) -> R: ...

    async def once(
        self, key: str, f: Callable[[], Awaitable[Any]], result: Any = Any
    ) -> Any:
        """A durable step: runs `f` and records its result under `key`, durably and with everything
        that the turn did before. A retry of the method gets the recorded result, read as the type
        `result`, instead of running `f` again: `f` runs at least once, its recorded result is one.
        If `f` raises nothing is recorded.

        The key names the step within this method call; nested calls keep their results by their
        option `step_key`. `StepKeyReused` if the key is that of a call. A direct invocation has no
        retries: it just runs `f`."""
        turn, decode = self._turn, codec.decoder(result)
        if turn.is_direct:
            return await f()
        recorded = turn.recorded(key)
        if recorded is None:
            recorded = await turn.record(key, codec.encode(await f()))
        return decode(recorded)

    def _connection(self) -> Connection:
        return self._turn.connection


def turn() -> TurnContext:
    """The turn that the running code belongs to. Raises `NotInTurn` if it belongs to none."""
    running = current.get()
    if running is None:
        raise NotInTurn("no method is running here: there is no turn")
    return TurnContext(running)


@contextmanager
def outside_turn() -> Iterator[Client]:
    """Inside a turn: a client whose calls are **not** part of the turn but roots of their own,
    carried out even if this turn is cut off and runs again."""
    from kar.client import Client

    running = current.get()
    if running is None:
        raise NotInTurn("no method is running here: there is no turn to be outside of")
    token = current.set(None)
    try:
        yield Client(running.connection, owns=False)
    finally:
        current.reset(token)
