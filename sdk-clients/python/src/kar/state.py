"""State of the application as a whole (`ApplicationState`); that of actors is in `actor_state`."""

from __future__ import annotations

import builtins
import uuid
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

import grpc

from kar import codec, limits
from kar._session import request
from kar.codec import Payload
from kar.errors import Rejected
from kar.v1 import state_pb2

if TYPE_CHECKING:
    from kar._connection import Connection

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Versioned(Generic[T]):
    """A value with its version."""

    value: T
    etag: str
    """Changes with every write; for conditions."""


@dataclass(frozen=True, slots=True)
class Set:
    """A key of the application's state to be set, one of the changes of `ApplicationState.transact`."""

    key: str
    value: Any
    if_etag: str = ""
    """Only if that is still its version; `*`: only if it is absent."""
    time_to_live: float | None = None
    """It is absent after so many seconds; else it stays."""

    def write(self, target: state_pb2.SetRequest) -> None:
        """For the wire."""
        target.key, target.etag = checked(self.key), self.if_etag
        codec.write(codec.encode(self.value), target.value)
        if self.time_to_live is not None:
            target.time_to_live.FromTimedelta(timedelta(seconds=self.time_to_live))


@dataclass(frozen=True, slots=True)
class Delete:
    """A key of the application's state to be deleted, one of the changes of `ApplicationState.transact`."""

    key: str
    if_etag: str = ""
    """Only if that is still its version."""

    def write(self, target: state_pb2.DeleteRequest) -> None:
        """For the wire."""
        target.key, target.etag = checked(self.key), self.if_etag


@dataclass(frozen=True, slots=True)
class Page:
    """Some keys of the application's state, or of a sub-map of an actor's, in byte order. There may be fewer
    than asked for, even none, and still a next page."""

    entries: list[tuple[str, Payload]]
    """Keys with their values."""
    next: str
    """Token of the next page; empty if there is none."""


class ApplicationState:
    """State of the application as a whole: a key-value store for components without actors. It is
    not part of turns: a write is durable when it is answered. Reads and writes survive the loss of
    the connection."""

    __slots__ = ("_connection",)

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    @overload
    async def get(self, key: str, of: type[T]) -> T | None: ...

    @overload
    async def get(self, key: str) -> Any: ...

    async def get(self, key: str, of: Any = Any) -> Any:
        """Reads a key as a type; `None` if it is absent."""
        versioned = await self.get_versioned(key, of)
        return None if versioned is None else versioned.value

    async def get_versioned(self, key: str, of: type[T]) -> Versioned[T] | None:
        """Reads a key with its version."""
        outgoing = request("state_get")
        outgoing.request.state_get.key = checked(key)
        answer = (await self._connection.request(outgoing)).state_get
        if not answer.HasField("value"):
            return None
        return Versioned(codec.read(answer.value).decode(of), answer.etag)

    async def set(
        self, key: str, value: Any, *, if_etag: str = "", time_to_live: float | None = None
    ) -> str:
        """Sets a key; returns its new version. With `if_etag` only if that is still its version, else
        `ConditionFailed`. With `time_to_live` (seconds, at least 0.001, from when it is carried out)
        the key is absent after that time, else it stays."""
        outgoing = request("state_set")
        fields = outgoing.request.state_set
        Set(key, value, if_etag, time_to_live).write(fields)
        fields.request_id = _request_id()
        return (await self._connection.request(outgoing)).state_set.etag

    async def create(self, key: str, value: Any, *, time_to_live: float | None = None) -> str:
        """Sets a key only if it is absent, else `ConditionFailed`; returns its version."""
        return await self.set(key, value, if_etag="*", time_to_live=time_to_live)

    async def delete(self, key: str, *, if_etag: str = "") -> bool:
        """Deletes a key; returns whether it existed. `if_etag` as in `set`."""
        outgoing = request("state_delete")
        fields = outgoing.request.state_delete
        Delete(key, if_etag).write(fields)
        fields.request_id = _request_id()
        return (await self._connection.request(outgoing)).state_delete.existed

    async def transact(self, *changes: Set | Delete) -> builtins.list[str | bool]:
        """Makes several changes, all or none, and nothing comes between them: `await
        state.transact(kar.Set("a", 1), kar.Delete("b", if_etag=etag))`. Returns what became of each:
        its new version, or whether it existed. No key may be changed twice. `ConditionFailed` names
        the key if a condition does not hold, `LimitReached` if they are too many or too large together:
        nothing was done then."""
        if not changes:
            return []
        outgoing = request("state_transact")
        fields = outgoing.request.state_transact
        for change in changes:
            if isinstance(change, Set):
                change.write(fields.sets.add())
            else:
                change.write(fields.deletes.add())
        fields.request_id = _request_id()
        answer = (await self._connection.request(outgoing)).state_transact
        etags, existed = iter(answer.etags), iter(answer.existed)
        return [next(etags) if isinstance(one, Set) else next(existed) for one in changes]

    async def list(self, prefix: str = "", *, page_size: int = 0, after: str = "") -> Page:
        """Lists keys that start with `prefix`, in byte order: at most `page_size` (0 means 100; at
        most 1,000), after the page that ended with the token `after`."""
        outgoing = request("state_list")
        fields = outgoing.request.state_list
        fields.prefix, fields.page_size, fields.page_token = prefix, page_size, after
        answer = (await self._connection.request(outgoing)).state_list
        entries = [(entry.key, codec.read(entry.value)) for entry in answer.entries]
        return Page(entries, answer.next_page_token)


def _request_id() -> str:
    """Makes it safe to send a write again after the connection broke."""
    return str(uuid.uuid4())


def checked(text: str, field: str = "key", what: str = "a key") -> str:
    """A key, or a name that has the bounds of one. `Rejected` if it is empty or too long."""
    size = len(text.encode())
    if 1 <= size <= limits.STATE_KEY_BYTES_MAX:
        return text
    raise refused(field, f"{what} has 1 to {limits.STATE_KEY_BYTES_MAX} bytes, this one has {size}")


def refused(field: str, text: str) -> Rejected:
    """What is asked for cannot be meant; the sidecar would say so, too."""
    return Rejected(
        text,
        reason="INVALID_FIELD",
        status=grpc.StatusCode.INVALID_ARGUMENT.value[0],
        metadata={"field": field},
    )
