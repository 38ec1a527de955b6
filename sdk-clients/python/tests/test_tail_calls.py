"""Tail calls: how a method hands its invocation on, and what is not taken for one."""

from pathlib import Path
from typing import Any

import grpc
import pytest
from fake import Peer, asynchronous, hosting, json

import kar
from kar.v1 import common_pb2, state_pb2


class Walker(kar.Service, name="walker"):
    def __init__(self) -> None:
        self.kept: list[Any] = []

    @kar.method
    async def typed(self, steps: int) -> int:
        return kar.tail(self.turn.actor(Stock, "s").take, steps)

    @kar.method
    async def by_name(self) -> str:
        return self.turn.service("other", affinity_key="k").tail("m", [self.turn.step], str)

    @kar.method
    async def untyped(self) -> Any:
        return self.turn.actor("Stock", "s").tail("take", 1, keep_lock=True)

    @kar.method
    async def forgotten(self) -> str:
        kar.tail(self.turn.actor(Stock, "s").take, 4)
        return "as if nothing had happened"

    @kar.method
    async def twice(self) -> int:
        kar.tail(self.turn.actor(Stock, "s").take, 4)
        return kar.tail(self.turn.actor(Stock, "s").take, 5)

    @kar.method
    async def direct(self) -> Any:
        return self.turn.service("other", direct=True).tail("m")

    @kar.method
    async def late(self) -> int:
        return kar.tail(self.turn.actor(Stock, "s", start_within=1.0).take, 1)

    @kar.method
    async def keyed(self) -> int:
        return kar.tail(self.turn.actor(Stock, "s", step_key="k").take, 1)

    @kar.method
    async def keep(self) -> Any:
        self.kept.append(kar.tail(self.turn.actor(Stock, "s").take, 4))
        return self.kept[0]

    @kar.method
    async def of_another(self) -> Any:
        return self.kept[0]

    @kar.method
    async def inside(self) -> Any:
        return [kar.tail(self.turn.actor(Stock, "s").take, 4)]


class Stock(kar.Actor):
    @kar.method
    async def take(self, count: int) -> int:
        return count

    @kar.method
    async def fill(self, count: int) -> int:
        self.state.set("left", count)
        return kar.tail_keeping_lock(self.turn.actor(Stock, self.id).take, 1)


async def run(peer: Peer, method: str, argument: str = "null", **fields: Any) -> Any:
    await peer.invoke("t", method, argument, service="walker", **fields)
    return await peer.outcome()


@asynchronous
async def test_a_tail_call_ends_the_turn(tmp_path: Path) -> None:
    async with hosting(tmp_path, Walker(), Stock) as (_, peer, _host):
        call = (await run(peer, "typed", "4")).tail_call
        assert (call.target.actor.type, call.target.actor.id, call.method) == ("Stock", "s", "take")
        assert (call.payload, call.keep_lock) == (json("4"), False)
        call = (await run(peer, "by_name", step=7)).tail_call
        service = call.target.service
        assert (service.name, service.affinity_key, call.method) == ("other", "k", "m")
        assert call.payload == json("[7]"), "the turn knows its step"
        assert (await run(peer, "untyped")).tail_call.keep_lock
        outcome = await run(peer, "twice")
        assert outcome.tail_call.payload == json("5"), "the one that is returned counts"


@asynchronous
async def test_what_was_written_goes_before_a_tail_call(tmp_path: Path) -> None:
    async with hosting(tmp_path, Walker(), Stock) as (_, peer, _host):
        await peer.invoke("t", "fill", "3", actor=("Stock", "s"))
        request = await peer.request("actor_state_apply")
        assert request.actor_state_apply.changes[0].set.key == "left"
        await peer.answer(request, actor_state_apply=state_pb2.ApplyResponse())
        call = (await peer.outcome()).tail_call
        assert (call.target.actor.id, call.method, call.keep_lock) == ("s", "take", True)
        # A refused write must not be lost behind the tail call.
        await peer.invoke("u", "fill", "3", actor=("Stock", "s"))
        request = await peer.request("actor_state_apply")
        await peer.refuse(request, grpc.StatusCode.RESOURCE_EXHAUSTED, "LIMIT_REACHED")
        assert (await peer.outcome()).error.code == "limit"


@asynchronous
async def test_a_tail_call_that_is_not_returned_is_an_error(tmp_path: Path) -> None:
    async with hosting(tmp_path, Walker(), Stock) as (_, peer, _host):
        error = (await run(peer, "forgotten")).error
        assert error.code == "tail_call"
        assert error.message.startswith("<TailCall of <ActorRef Stock/s>.take> was made and not returned")
        assert (await run(peer, "inside")).error.code == "codec"
        assert (await run(peer, "keep")).HasField("tail_call")
        error = (await run(peer, "of_another")).error
        assert error.code == "tail_call" and "by another turn" in error.message


@asynchronous
async def test_a_tail_call_that_cannot_be_meant_is_an_error(tmp_path: Path) -> None:
    async with hosting(tmp_path, Walker(), Stock) as (_, peer, host):
        direct = common_pb2.INVOCATION_MODE_DIRECT
        error = (await run(peer, "typed", "4", mode=direct)).error
        assert error.code == "tail_call" and "direct" in error.message
        error = (await run(peer, "direct")).error
        assert error.code == "tail_call" and "direct" in error.message
        error = (await run(peer, "late")).error
        assert error.code == "tail_call" and "start_within" in error.message
        error = (await run(peer, "keyed")).error
        assert error.code == "tail_call" and "step_key" in error.message
        with pytest.raises(kar.NotInTurn):
            kar.tail(host.client.actor(Stock, "s").take, 1)
