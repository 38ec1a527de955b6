"""Who is there, and who owns what, as it changes (`Client.watch_topology`)."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass

import grpc.aio

from kar import limits
from kar._status import error_of_rpc, may_pass
from kar._transport import Dialer
from kar.errors import KarError, Unavailable
from kar.v1 import system_pb2


@dataclass(frozen=True, slots=True)
class TopologyNode:
    """A live node."""

    name: str
    incarnation: int
    """Another one is another node, whatever its name."""
    services: tuple[str, ...]
    """Services that it hosts."""
    actor_types: tuple[str, ...]
    """Actor types that it hosts."""
    process_id: int
    """Of its sidecar, in local mode."""
    is_leaving: bool


@dataclass(frozen=True, slots=True)
class Topology:
    """The application as it is now."""

    nodes: tuple[TopologyNode, ...]
    """The live nodes, by incarnation."""
    services: dict[str, tuple[int | None, ...]]
    """The known services: for each of their partitions the incarnation of the node that it belongs to; `None`:
    there is none. While one changes hands its former owner may still serve it, or nobody."""
    actor_types: dict[str, tuple[int | None, ...]]
    """The same of the known actor types."""

    def node(self, incarnation: int | None) -> TopologyNode | None:
        """The node of an incarnation, if it lives."""
        return next((node for node in self.nodes if node.incarnation == incarnation), None)


async def follow(dialer: Dialer, patience: float) -> AsyncGenerator[Topology, None]:
    """The topology, and again whenever it has changed, over any number of streams."""
    told: Topology | None = None
    loop = asyncio.get_running_loop()
    lost, pause = None, limits.BACKOFF_MIN
    while True:
        error: KarError = Unavailable("the sidecar has ended the stream")
        try:
            async with aclosing(dialer.watch_topology()) as messages:
                async for message in messages:
                    lost, pause = None, limits.BACKOFF_MIN
                    topology = _read(message)
                    # A stream that was made again begins with what is known, mostly.
                    if topology != told:
                        told = topology
                        yield topology
        except grpc.aio.AioRpcError as raised:
            error = error_of_rpc(raised)
        now = loop.time()
        lost = now if lost is None else lost
        if not may_pass(error) or now - lost + pause >= patience:
            raise error
        await asyncio.sleep(pause * (0.5 + random.random() / 2))
        pause = min(pause * 2, limits.BACKOFF_MAX)


def _read(message: system_pb2.WatchTopologyResponse) -> Topology:
    owners: dict[str, dict[str, tuple[int | None, ...]]] = {"s": {}, "a": {}}
    for kind in message.kinds:
        letter, _, name = kind.kind.partition(".")
        # Kinds of a class that this version does not know are nobody's here.
        if letter in owners:
            owners[letter][name] = tuple(owner or None for owner in kind.owners)
    nodes = tuple(map(read_node, message.nodes))
    return Topology(nodes, owners["s"], owners["a"])


def read_node(node: system_pb2.NodeInfo) -> TopologyNode:
    """From the wire."""
    return TopologyNode(
        node.name,
        node.incarnation,
        tuple(node.services),
        tuple(node.actor_types),
        node.process_id,
        node.leaving,
    )
