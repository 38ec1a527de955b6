"""Who is there, as it changes."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from pathlib import Path

import grpc
import pytest
from fake import asynchronous, connected

import kar
from kar.v1 import system_pb2


def topology(*names: str) -> system_pb2.WatchTopologyResponse:
    """A node for each of these, and one partition of an actor type that the first one owns."""
    told = system_pb2.WatchTopologyResponse()
    for incarnation, name in enumerate(names, 1):
        node = told.nodes.add(name=name, incarnation=incarnation, process_id=77)
        node.actor_types.append("Account")
        node.leaving = name == "leaving"
    told.kinds.add(kind="a.Account", owners=[1, 0])
    told.kinds.add(kind="s.teller", owners=[2])
    told.kinds.add(kind="x.new", owners=[1])
    return told


@asynchronous
async def test_the_topology_is_told_at_once_and_when_it_has_changed(tmp_path: Path) -> None:
    async with connected(tmp_path, api_token="secret") as (fake, peer, client):
        async with aclosing(client.watch_topology()) as topologies:
            first = asyncio.create_task(anext(topologies))
            watcher = await fake.watchers.get()
            assert watcher.metadata["authorization"] == "Bearer secret"
            await watcher.tell(topology("a"))
            told = await first
            assert told.actor_types == {"Account": (1, None)} and told.services == {"teller": (2,)}
            node = told.node(1)
            assert node == kar.TopologyNode("a", 1, (), ("Account",), 77, False)
            assert told.node(2) is None, "the owner of a partition may have gone already"
            await watcher.tell(topology("a"))
            await watcher.tell(topology("a", "leaving"))
            told = await anext(topologies)
            assert [node.is_leaving for node in told.nodes] == [False, True]
            # It is apart from the component's stream, and lives as long as it is used.
            peer.end()
            await watcher.tell(topology("b"))
            assert [node.name for node in (await anext(topologies)).nodes] == ["b"]
        await watcher.ended()
        await fake.accept()


@asynchronous
async def test_a_watch_goes_on_when_its_stream_was_lost(tmp_path: Path) -> None:
    async with connected(tmp_path) as (fake, _, client):
        async with aclosing(client.watch_topology()) as topologies:
            first = asyncio.create_task(anext(topologies))
            watcher = await fake.watchers.get()
            await watcher.tell(topology("a"))
            await first
            second = asyncio.create_task(anext(topologies))
            for code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED, grpc.StatusCode.OK):
                watcher.end(code)
                watcher = await fake.watchers.get()
                await watcher.tell(topology("a"))
            await watcher.tell(topology("b"))
            told = await second
            assert [node.name for node in told.nodes] == ["b"], "what was known is not told again"


@asynchronous
async def test_a_watch_that_is_refused_says_why(tmp_path: Path) -> None:
    async with connected(tmp_path, reconnect_timeout=0.02) as (fake, _, client):
        first = asyncio.create_task(anext(client.watch_topology()))
        watcher = await fake.watchers.get()
        watcher.end(grpc.StatusCode.RESOURCE_EXHAUSTED, "LIMIT_REACHED", limit="topology_watchers_max")
        with pytest.raises(kar.LimitReached) as refused:
            await first
        assert refused.value.limit == "topology_watchers_max"
        first = asyncio.create_task(anext(client.watch_topology()))
        tries = 0
        while not first.done():
            waiting = asyncio.create_task(fake.watchers.get())
            await asyncio.wait([waiting, first], return_when=asyncio.FIRST_COMPLETED)
            if waiting.done():
                tries += 1
                waiting.result().end(grpc.StatusCode.UNAVAILABLE)
            else:
                waiting.cancel()
        with pytest.raises(kar.Unavailable):
            await first
        assert tries > 1, "it is tried for a while"
