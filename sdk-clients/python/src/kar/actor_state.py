"""State of actors: of the turn's own (`ActorState`) with its sub-maps (`SubMap`), and what is committed of any
actor (`CommittedState`, `CommittedSubMap`)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from typing import TYPE_CHECKING, Any, TypeVar, overload

from kar import codec
from kar._session import Outgoing, request
from kar.codec import Payload
from kar.state import Page, checked, refused
from kar.v1 import component_pb2 as v1
from kar.v1 import state_pb2

if TYPE_CHECKING:
    from kar._connection import Connection
    from kar._turn import Turn

T = TypeVar("T")


class _Reads:
    """Reads of one map: of the actor's own keys, or of those of a sub-map."""

    __slots__ = ()

    _sub_map: str
    """Its name; empty: the actor's own keys."""

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
        outgoing, fields = self._begin("actor_state_get")
        fields.keys.extend(_checked(key) for key in keys)
        return _read_all((await self._ask(outgoing)).actor_state_get.entries)

    async def contains(self, key: str) -> bool:
        """Whether a key exists."""
        outgoing, fields = self._begin("actor_state_contains")
        fields.key = _checked(key)
        return (await self._ask(outgoing)).actor_state_contains.exists

    def _begin(self, operation: str) -> tuple[Outgoing, Any]:
        outgoing = request(operation)
        fields = getattr(outgoing.request, operation)
        self._say_whose(fields)
        if self._sub_map:
            fields.sub_map = self._sub_map
        return outgoing, fields

    def _say_whose(self, fields: Any) -> None:
        raise NotImplementedError

    async def _ask(self, outgoing: Outgoing) -> v1.Response:
        raise NotImplementedError


class _ReadsOfOwn(_Reads):
    """Reads of what there is of an actor's own keys alone."""

    __slots__ = ()

    async def get_all(self) -> dict[str, Payload]:
        """Reads every key of the actor's own; sub-maps are read by themselves."""
        outgoing, _ = self._begin("actor_state_get_all")
        return _read_all((await self._ask(outgoing)).actor_state_get_all.entries)


class _ReadsOfSubMap(_Reads):
    """Reads of what there is of sub-maps alone."""

    __slots__ = ()

    async def size(self) -> int:
        """How many entries it has."""
        outgoing, _ = self._begin("actor_state_sub_map_size")
        return (await self._ask(outgoing)).actor_state_sub_map_size.size

    async def page(self, page_size: int = 0, after: str = "") -> Page:
        """Lists entries in byte order of their keys: at most `page_size` (0 means 100; at most 1,000), after
        the page that ended with the token `after`. A page may have fewer entries, and there still be a next one.
        Each shows the state at its time."""
        outgoing, fields = self._begin("actor_state_list_sub_map")
        fields.page_size, fields.page_token = page_size, after
        answer = (await self._ask(outgoing)).actor_state_list_sub_map
        entries = [(entry.key, codec.read(entry.value)) for entry in answer.entries]
        return Page(entries, answer.next_page_token)

    async def entries(self, page_size: int = 0) -> AsyncIterator[tuple[str, Payload]]:
        """Every entry, in byte order of the keys: `async for key, payload in sub_map.entries()`. They come by
        pages of at most `page_size`, as in `page`; a page is asked for when it is wanted."""
        after = ""
        while True:
            page = await self.page(page_size, after)
            for entry in page.entries:
                yield entry
            if not page.next:
                return
            after = page.next


class _InTurn(_Reads):
    """A map of the turn's actor: reads see the turn's own writes, which are gathered."""

    __slots__ = ("_sub_map", "_turn")

    def __init__(self, turn: Turn, sub_map: str = "") -> None:
        self._turn, self._sub_map = turn, sub_map

    def set(self, key: str, value: Any) -> None:
        """Sets a key."""
        self._turn.write(self._setting(key, value))

    def remove(self, key: str) -> None:
        """Removes a key; nothing happens if it is absent."""
        change = state_pb2.StateChange()
        if self._sub_map:
            where = change.remove_from_sub_map
            where.sub_map, where.key = self._sub_map, _checked(key)
        else:
            change.remove = _checked(key)
        self._turn.write(change)

    async def compare_and_set(self, key: str, expected: Any, value: Any) -> bool:
        """Sets a key only if it has a value, as the turn sees it with its own writes; `expected` is `None`: only if
        it is absent. False if not: nothing was changed then, and the turn goes on.

        Values are compared as they are written, byte for byte, content type included: `{"a":1}` is not
        `{"a": 1}`, which another language may write. What was read is compared best as the `Payload` that it was:
        `seen = await state.get(key, kar.Payload)`. A JSON null is `kar.Payload(b"null", "application/json")`."""
        condition = state_pb2.StateChange()
        require = condition.require
        require.key, require.sub_map = _checked(key), self._sub_map
        if expected is not None:
            codec.write(codec.encode(expected), require.value)
        return await self._turn.write_if(condition, self._setting(key, value))

    def _setting(self, key: str, value: Any) -> state_pb2.StateChange:
        change = state_pb2.StateChange()
        entry: state_pb2.StateEntry | state_pb2.SubMapEntry
        if self._sub_map:
            entry = change.set_in_sub_map
            entry.key.sub_map, entry.key.key = self._sub_map, _checked(key)
        else:
            entry = change.set
            entry.key = _checked(key)
        codec.write(codec.encode(value), entry.value)
        return change

    def _say_whose(self, fields: Any) -> None:
        fields.turn_token = self._turn.token

    async def _ask(self, outgoing: Outgoing) -> v1.Response:
        return await self._turn.request(outgoing)


class ActorState(_InTurn, _ReadsOfOwn):
    """The state of the turn's actor. Reads see the turn's own writes.

    Writes are gathered and go to the sidecar with the turn's next operation; they are durable with
    the turn's segment: its next call, its flush, or its end, or not at all. That the sidecar
    refused one shows at the next operation, or as the error of the turn.
    """

    __slots__ = ()

    def clear(self) -> None:
        """Removes every key and every sub-map."""
        self._turn.write(state_pb2.StateChange(clear=True))

    def sub_map(self, name: str) -> SubMap:
        """A map of its own within the state, for a collection that need not be read whole. It exists while it has
        entries; its keys do not meet the actor's own or those of other sub-maps. The name has 1 to 512 bytes
        and no U+0000, as its keys."""
        return SubMap(self._turn, name)


class SubMap(_InTurn, _ReadsOfSubMap):
    """A sub-map of the state of the turn's actor: reads and writes as of `ActorState`."""

    __slots__ = ()

    def __init__(self, turn: Turn, name: str) -> None:
        super().__init__(turn, _checked(name, "sub_map", "a sub-map's name"))

    def clear(self) -> None:
        """Removes every entry."""
        self._turn.write(state_pb2.StateChange(clear_sub_map=self._sub_map))


class _Committed(_Reads):
    """A map of an actor's committed state, from outside its turns. Reads survive the loss of the connection."""

    __slots__ = ("_connection", "_id", "_sub_map", "_type")

    def __init__(self, connection: Connection, type: str, id: str, sub_map: str = "") -> None:
        self._connection, self._type, self._id, self._sub_map = connection, type, id, sub_map

    def _say_whose(self, fields: Any) -> None:
        fields.actor.type, fields.actor.id = self._type, self._id

    async def _ask(self, outgoing: Outgoing) -> v1.Response:
        return await self._connection.request(outgoing)


class CommittedState(_Committed, _ReadsOfOwn):
    """The actor's own keys."""

    __slots__ = ()


class CommittedSubMap(_Committed, _ReadsOfSubMap):
    """A sub-map of an actor's committed state, from outside its turns."""

    __slots__ = ()

    def __init__(self, connection: Connection, type: str, id: str, name: str) -> None:
        super().__init__(connection, type, id, _checked(name, "sub_map", "a sub-map's name"))


def _read_all(entries: Any) -> dict[str, Payload]:
    return {key: codec.read(value) for key, value in entries.items()}


def _checked(text: str, field: str = "key", what: str = "a key") -> str:
    if "\0" in text:
        raise refused(field, f"{what} has no U+0000")
    return checked(text, field, what)
