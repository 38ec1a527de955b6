"""Calls that are given up: their credits come back though their answers never do."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from fake import Peer, asynchronous, connected, hosting, until

import kar
from kar._session import Session
from kar.v1 import invocation_pb2


async def cancel(task: asyncio.Task[Any]) -> None:
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()


@asynchronous
async def test_calls_that_are_given_up_give_their_credits_back(tmp_path: Path) -> None:
    async with connected(tmp_path, welcome={"request_credits": 1}) as (_, peer, client):
        for _ in range(10):
            call = asyncio.create_task(client.service("s").call("m"))
            request = await peer.request("invoke")
            await cancel(call)
            await peer.forgets(request)
        last = asyncio.create_task(client.service("s").call("m"))
        await peer.answer_call(await peer.request("invoke"), "1")
        assert await last == 1
        await client.close()
        await peer.closed()


@asynchronous
async def test_the_credit_is_kept_until_the_sidecar_has_answered(tmp_path: Path) -> None:
    async with connected(tmp_path, welcome={"request_credits": 1}) as (_, peer, client):
        first = asyncio.create_task(client.service("s").call("m", 1))
        request = await peer.request("invoke")
        second = asyncio.create_task(client.service("s").call("m", 2))
        await cancel(first)
        frame = await peer.frame()
        assert frame.forget.id == request.id, frame
        # Its own answer was on its way; there is no other one.
        await peer.answer_call(request, "1")
        request = await peer.request("invoke")
        assert request.invoke.payload.data == b"2"
        await peer.answer_call(request, "2")
        assert await second == 2


@asynchronous
async def test_a_sidecar_that_does_not_know_forget_is_not_sent_it(tmp_path: Path) -> None:
    async with connected(tmp_path, welcome={"takes_forget": False}) as (_, peer, client):
        call = asyncio.create_task(client.service("s").call("m"))
        await peer.request("invoke")
        await cancel(call)
        told = asyncio.create_task(client.service("s").tell("m"))
        request = await peer.request("tell")
        await peer.answer(request, tell=invocation_pb2.TellResponse(invocation_id="i"))
        await told
        await client.close()
        await peer.closed()


@asynchronous
async def test_only_calls_are_forgotten(tmp_path: Path) -> None:
    async with connected(tmp_path) as (_, peer, client):
        told = asyncio.create_task(client.service("s").tell("m"))
        await peer.request("tell")
        await cancel(told)
        call = asyncio.create_task(client.service("s").call("m"))
        request = await peer.request("invoke")
        await cancel(call)
        await peer.forgets(request)
        await client.close()
        await peer.closed()


class Impatient(kar.Service, name="impatient"):
    """Gives its calls up when it is told to."""

    def __init__(self) -> None:
        self.calls: list[asyncio.Task[Any]] = []
        self.has_asked = asyncio.Event()

    @kar.method
    async def call(self) -> bool:
        call = asyncio.create_task(self.turn.service("s").call("m"))
        self.calls.append(call)
        await asyncio.wait([call])
        return call.cancelled()

    @kar.method
    async def tell(self) -> None:
        await self.turn.service("s").tell("m")

    @kar.method
    async def leaves(self) -> None:
        """Leaves somebody behind who waits for a credit."""
        self.calls.append(asyncio.create_task(self.turn.service("s").tell("m")))
        await asyncio.sleep(0)

    @kar.method
    async def asks_many(self, way: str) -> None:
        """As many as wait for a credit, and none that does any more."""
        service = self.turn.service("s")
        for _ in range(200):
            asking: asyncio.Task[Any]
            if way == "call":
                asking = asyncio.create_task(service.call("never sent"))
            else:
                asking = asyncio.create_task(service.tell("never sent"))
            # It has asked, and waits.
            await asyncio.sleep(0)
            await cancel(asking)
        self.has_asked.set()


@asynchronous
async def test_a_turn_gives_its_calls_up_too(tmp_path: Path) -> None:
    impatient = Impatient()
    async with hosting(tmp_path, impatient, welcome={"request_credits": 1}) as (_, peer, _host):
        for round in range(5):
            await peer.invoke(f"t{round}", "call", service="impatient")
            request = await peer.request("invoke")
            assert request.invoke.turn_token == f"t{round}"
            await cancel(impatient.calls[round])
            await peer.forgets(request)
            assert (await peer.outcome()).payload.data == b"true"


@asynccontextmanager
async def without_credits(tmp_path: Path, impatient: Impatient) -> AsyncIterator[tuple[Peer, Session, Any]]:
    """A host whose only credit a turn's call has taken: with the other side, its session, and that call."""
    async with hosting(tmp_path, impatient, welcome={"request_credits": 1}) as (_, peer, host):
        await peer.invoke("holds", "call", service="impatient")
        held = await peer.request("invoke")
        session = host.client._kar_connection._session
        assert session is not None
        yield peer, session, held


@pytest.mark.parametrize(("way", "first"), [("call", "call"), ("tell", "call"), ("tell", "tell")])
@asynchronous
async def test_what_turns_give_up_while_it_waits_for_a_credit_does_not_gather(
    tmp_path: Path, way: str, first: str
) -> None:
    impatient = Impatient()
    async with without_credits(tmp_path, impatient) as (peer, session, held):
        await peer.invoke("waits", first, service="impatient")
        await until("it to wait", lambda: bool(session._nested or session._ordered))
        await peer.invoke("many", "asks_many", f'"{way}"', service="impatient")
        await until("it to be over", lambda: impatient.has_asked.is_set() and "many" not in session.turns)
        assert len(session._nested) == (first == "call")
        # What was asked for first, and the result behind it.
        assert len(session._ordered) == 2 * (first == "tell")
        outcomes = set()
        if first == "call":
            # Nothing is in the way of its result.
            outcomes.add((await peer.outcome()).turn_token)
        await peer.answer_call(held)
        if first == "call":
            request = await peer.request("invoke")
            assert request.invoke.turn_token == "waits", "those that were given up are not sent"
            await peer.answer_call(request)
        else:
            request = await peer.request("tell")
            assert request.tell.turn_token == "waits", "those that were given up are not sent"
            await peer.answer(request, tell=invocation_pb2.TellResponse(invocation_id="i"))
        outcomes |= {(await peer.outcome()).turn_token for _ in range(3 - len(outcomes))}
        assert outcomes == {"holds", "waits", "many"}


@pytest.mark.parametrize("others", [0, 20], ids=["alone", "before others"])
@asynchronous
async def test_a_result_goes_when_what_it_waits_behind_is_given_up(tmp_path: Path, others: int) -> None:
    impatient = Impatient()
    async with without_credits(tmp_path, impatient) as (peer, session, held):
        await peer.invoke("leaves", "leaves", service="impatient")
        await until("its result to wait", lambda: len(session._ordered) == 2)
        # So many that one which is given up is not worth looking for.
        for number in range(others):
            await peer.invoke(f"tells {number}", "tell", service="impatient")
        await until("others to wait", lambda: len(session._ordered) == 2 + others)
        await cancel(impatient.calls[-1])
        assert (await peer.outcome()).turn_token == "leaves"
        await peer.answer_call(held)
        for _ in range(others):
            request = await peer.request("tell")
            assert request.tell.turn_token.startswith("tells ")
            await peer.answer(request, tell=invocation_pb2.TellResponse(invocation_id="i"))
        assert "holds" in {(await peer.outcome()).turn_token for _ in range(1 + others)}
