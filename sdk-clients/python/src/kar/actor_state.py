"""State of the turn's actor."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, TypeVar, overload

from kar import codec
from kar._session import request
from kar.codec import Payload
from kar.state import checked
from kar.v1 import state_pb2

if TYPE_CHECKING:
    from kar._turn import Turn

T = TypeVar("T")


class ActorState:
    """The state of the turn's actor. Reads see the turn's own writes.

    Writes are gathered and go to the sidecar with the turn's next operation; they are durable with
    the turn's segment: its next call, its flush, or its end, or not at all. That the sidecar
    refused one shows at the next operation, or as the error of the turn.
    """

    __slots__ = ("_turn",)

    def __init__(self, turn: Turn) -> None:
        self._turn = turn

    @overload
    async def get(self, key: str, of: type[T]) -> T | None: ...

    @overload
    async def get(self, key: str, of: type[T], default: T) -> T: ...

    @overload
    async def get(self, key: str) -> Any: ...

    async def get(self, key: str, of: Any = Any, default: Any = None) -> Any:
        """Reads a key as a type; `default` if it is absent."""
        entries = await self.get_many([key])
        return entries[key].decode(of) if key in entries else default

    async def get_many(self, keys: Iterable[str]) -> dict[str, Payload]:
        """Reads several keys at once, for the price of one; absent ones are absent in the answer."""
        outgoing = request("actor_state_get")
        fields = outgoing.request.actor_state_get
        fields.turn_token = self._turn.token
        fields.keys.extend(checked(key) for key in keys)
        response = await self._turn.request(outgoing)
        entries = response.actor_state_get.entries
        return {key: codec.read(value) for key, value in entries.items()}

    async def get_all(self) -> dict[str, Payload]:
        """Reads every key."""
        outgoing = request("actor_state_get_all")
        outgoing.request.actor_state_get_all.turn_token = self._turn.token
        response = await self._turn.request(outgoing)
        entries = response.actor_state_get_all.entries
        return {key: codec.read(value) for key, value in entries.items()}

    async def contains(self, key: str) -> bool:
        """Whether a key exists."""
        outgoing = request("actor_state_contains")
        fields = outgoing.request.actor_state_contains
        fields.turn_token, fields.key = self._turn.token, checked(key)
        return (await self._turn.request(outgoing)).actor_state_contains.exists

    def set(self, key: str, value: Any) -> None:
        """Sets a key."""
        change = state_pb2.StateChange()
        change.set.key = checked(key)
        codec.write(codec.encode(value), change.set.value)
        self._turn.write(change)

    def remove(self, key: str) -> None:
        """Removes a key; nothing happens if it is absent."""
        self._turn.write(state_pb2.StateChange(remove=checked(key)))

    def clear(self) -> None:
        """Removes every key."""
        self._turn.write(state_pb2.StateChange(clear=True))
