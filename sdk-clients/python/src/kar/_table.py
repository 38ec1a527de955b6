"""What a component hosts, by name."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

from kar import codec
from kar._turn import TailCall, Turn
from kar.codec import Payload
from kar.errors import ApplicationError, HostError
from kar.hosting import Actor, Hosted, MethodSpec, Service
from kar.v1 import common_pb2
from kar.v1 import component_pb2 as v1


class Table:
    """Services and actor types by name."""

    def __init__(self, things: Iterable[Hosted | type[Hosted]]) -> None:
        self._services: dict[str, _Entry] = {}
        self._actors: dict[str, _Entry] = {}
        for thing in things:
            self._add(thing)
        if not self._services and not self._actors:
            raise HostError("nothing to host: name at least one service or actor")

    def _add(self, thing: Hosted | type[Hosted]) -> None:
        hosted = thing() if isinstance(thing, type) else thing
        if isinstance(hosted, Service):
            entries, what = self._services, "service"
        elif isinstance(hosted, Actor):
            entries, what = self._actors, "actor type"
        else:
            raise HostError(f"{thing!r} is neither a kar.Service nor a kar.Actor")
        name = type(hosted).kar_name
        if name in entries:
            raise HostError(f"{what} {name} is hosted twice")
        entries[name] = _Entry(what, hosted)

    def hello(self) -> v1.Hello:
        """As the sidecar is told of it."""
        hello = v1.Hello()
        for name, entry in sorted(self._services.items()):
            hello.services.append(v1.HostedService(name=name, methods=entry.hosted_methods()))
        for name, entry in sorted(self._actors.items()):
            hosted = v1.HostedActorType(name=name, methods=entry.hosted_methods())
            hosted.deactivates = entry.deactivates
            hello.actor_types.append(hosted)
        return hello

    async def run(self, turn: Turn, invocation: v1.InvocationFrame) -> Payload | TailCall:
        """Runs a method, on an object of its own."""
        is_actor = invocation.target.HasField("actor")
        entries, what = (self._actors, "actor type") if is_actor else (self._services, "service")
        entry = entries.get(turn.kind)
        if entry is None:
            text = f"this host has no {what} `{turn.kind}`; it has: {_names(entries)}"
            raise ApplicationError("kar.UNKNOWN_METHOD", text)
        if turn.mode == common_pb2.INVOCATION_MODE_DEACTIVATE:
            actor = copy.copy(entry.prototype)
            assert isinstance(actor, Actor), "only actors are deactivated"
            actor._kar_turn = turn
            await actor.on_deactivate()
            return codec.encode(None)
        spec = entry.methods.get(turn.method)
        if spec is None:
            known = _names(entry.methods)
            text = f"{what} {turn.kind} has no method `{turn.method}`; it has: {known}"
            raise ApplicationError("kar.UNKNOWN_METHOD", text)
        # What an instance remembers is in its state; attributes that a method sets are gone after it.
        hosted = copy.copy(entry.prototype)
        hosted._kar_turn = turn
        arguments = spec.arguments(codec.read(invocation.payload), turn.event)
        result: Any = await getattr(hosted, spec.attribute)(*arguments)
        return result if isinstance(result, TailCall) else codec.encode(result)


class _Entry:
    __slots__ = ("methods", "prototype")

    def __init__(self, what: str, prototype: Hosted) -> None:
        self.prototype = prototype
        self.methods: dict[str, MethodSpec] = type(prototype).kar_methods
        if not self.methods:
            raise HostError(f"{what} {prototype.kar_name} has no method: mark some with @kar.method")
        for spec in self.methods.values():
            spec.resolve()

    @property
    def deactivates(self) -> bool:
        """Whether it wants to know when instances become passive."""
        hook = getattr(type(self.prototype), "on_deactivate", Actor.on_deactivate)
        return hook is not Actor.on_deactivate

    def hosted_methods(self) -> list[v1.HostedMethod]:
        return [spec.hosted() for spec in self.methods.values()]


def _names(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "none"
