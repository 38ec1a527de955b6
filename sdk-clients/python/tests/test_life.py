"""Actor life: what is told of idle actors, and their removal."""

from __future__ import annotations

import asyncio
from pathlib import Path

from fake import asynchronous, connected, hosting

import kar
from kar.v1 import common_pb2
from kar.v1 import component_pb2 as v1


class Cached(kar.Actor):
    """Keeps something of its instances in memory."""

    kept: dict[str, int] = {}  # noqa: RUF012

    @kar.method
    async def look(self) -> int:
        """Which activation it is."""
        self.kept[self.id] = self.activation
        return self.activation

    async def on_deactivate(self) -> None:
        del self.kept[self.id]


class Plain(kar.Actor):
    """Does not want to know."""

    @kar.method
    async def look(self) -> None: ...


@asynchronous
async def test_a_hook_is_told_of_by_hello_and_called_by_a_turn(tmp_path: Path) -> None:
    async with hosting(tmp_path, Cached, Plain) as (_, peer, _host):
        hooks = {hosted.name: hosted.deactivates for hosted in peer.hello.actor_types}
        assert hooks == {"Cached": True, "Plain": False}
        await peer.invoke("t1", "look", actor=("Cached", "a"), activation=7)
        assert (await peer.outcome()).payload.data == b"7"
        assert Cached.kept == {"a": 7}
        mode = common_pb2.INVOCATION_MODE_DEACTIVATE
        await peer.invoke("t2", "", actor=("Cached", "a"), activation=7, mode=mode)
        assert (await peer.outcome()).payload.data == b"null"
        assert Cached.kept == {}


@asynchronous
async def test_an_actor_is_removed_by_its_class_or_name(tmp_path: Path) -> None:
    async with connected(tmp_path) as (_, peer, client):
        for actor in (Plain, "Plain"):
            removing = asyncio.create_task(client.remove(actor, "a"))
            request = await peer.request("remove_actor")
            target = request.remove_actor.actor
            assert (target.type, target.id) == ("Plain", "a")
            response = v1.Response(id=request.id)
            response.remove_actor.SetInParent()
            await peer.send(v1.SidecarFrame(response=response))
            await removing
