"""Durable steps: what is recorded is not done again, and calls carry their keys."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest
from fake import Peer, asynchronous, hosting, json

import kar
from kar.v1 import common_pb2
from kar.v1 import component_pb2 as v1


class Till(kar.Actor):
    """Pays, and counts how often."""

    paid = 0

    @kar.method
    async def pay(self, amount: int) -> int:
        """Pays once, and asks again."""
        first = await kar.turn().once("pay", lambda: self._pay(amount), int)
        again = await kar.turn().once("pay", lambda: self._pay(amount), int)
        assert first == again
        return first

    @kar.method
    async def hoard(self, argument: str) -> int:
        """Has recorded as much as an invocation may keep."""
        count = len(argument)
        for n in range(4):
            count += len(await kar.turn().once(f"k{n}", self._fail, str))
        return count

    @kar.method
    async def stumble(self) -> str:
        """Its step fails at first."""
        with pytest.raises(ValueError, match="no"):
            await kar.turn().once("try", self._fail)
        return await kar.turn().once("try", self._text, str)

    @kar.method
    async def call(self, key: str) -> int:
        """A call with a key."""
        return await kar.turn().actor(Till, "other", step_key=key).pay(3)

    async def _pay(self, amount: int) -> int:
        Till.paid += 1
        return amount

    async def _fail(self) -> str:
        raise ValueError("no")

    async def _text(self) -> str:
        return "yes"


@asynccontextmanager
async def hosted(folder: Path) -> AsyncIterator[Peer]:
    async with hosting(folder, Till) as (_, peer, _host):
        yield peer


@asynchronous
async def test_a_step_is_recorded_and_then_not_done_again(tmp_path: Path) -> None:
    Till.paid = 0
    async with hosted(tmp_path) as peer:
        await peer.invoke("t1", "pay", "30", actor=("Till", "a"))
        request = await peer.request("record_step")
        assert (request.record_step.turn_token, request.record_step.key) == ("t1", "pay")
        assert request.record_step.payload.data == b"30"
        # What counts is what the sidecar says.
        response = v1.Response(id=request.id)
        response.record_step.payload.CopyFrom(json("29"))
        await peer.send(v1.SidecarFrame(response=response))
        outcome = await peer.outcome()
        assert (outcome.payload.data, Till.paid) == (b"29", 1)


@asynchronous
async def test_a_retry_has_what_was_recorded(tmp_path: Path) -> None:
    Till.paid = 0
    async with hosted(tmp_path) as peer:
        steps: dict[str, common_pb2.Payload] = {"pay": json("7")}
        actor = ("Till", "a")
        await peer.invoke("t1", "pay", "30", actor=actor, attempt=2, recorded_steps=steps)
        outcome = await peer.outcome()
        assert (outcome.payload.data, Till.paid) == (b"7", 0)


@asynchronous
async def test_a_failure_is_not_recorded(tmp_path: Path) -> None:
    async with hosted(tmp_path) as peer:
        await peer.invoke("t1", "stumble", actor=("Till", "a"))
        request = await peer.request("record_step")
        assert request.record_step.payload.data == b'"yes"'
        response = v1.Response(id=request.id)
        response.record_step.payload.CopyFrom(request.record_step.payload)
        await peer.send(v1.SidecarFrame(response=response))
        assert (await peer.outcome()).payload.data == b'"yes"'


@asynchronous
async def test_calls_carry_their_keys(tmp_path: Path) -> None:
    async with hosted(tmp_path) as peer:
        await peer.invoke("t1", "call", '"add"', actor=("Till", "a"))
        request = await peer.request("call_actor")
        assert (request.call_actor.step_key, request.call_actor.turn_token) == ("add", "t1")
        await peer.answer_call(request, "3")
        assert (await peer.outcome()).payload.data == b"3"
        await peer.invoke("t2", "call", '"reused"', actor=("Till", "a"))
        request = await peer.request("call_actor")
        await peer.refuse(request, grpc.StatusCode.FAILED_PRECONDITION, "STEP_KEY_REUSED")
        assert (await peer.outcome()).error.code == "step_key_reused"


@asynchronous
async def test_the_longest_turn_is_taken(tmp_path: Path) -> None:
    """The longest argument, and all that its steps may have recorded, behind other frames of its message."""
    async with hosted(tmp_path) as peer:
        steps = {f"k{n}": json('"' + "v" * (1 << 20) + '"') for n in range(4)}
        argument = "a" * ((4 << 20) - 1_000)
        actor = ("Till", "a")
        await peer.invoke(
            "t1", "hoard", f'"{argument}"', actor=actor, attempt=2, recorded_steps=steps
        )
        outcome = await peer.outcome()
        assert outcome.payload.data == str((4 << 20) + len(argument)).encode()
