"""What operators ask for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import grpc
import pytest
from fake import FakeSidecar, Peer, Unary, asynchronous, connected, refuse

import kar
from kar.v1 import component_pb2 as v1
from kar.v1 import invocation_pb2, system_pb2

INVOCATIONS = "/kar.v1.InvocationService/"
SYSTEM = "/kar.v1.SystemService/"


@asynccontextmanager
async def operated(folder: Path, **options: Any) -> AsyncIterator[tuple[FakeSidecar, Peer, kar.Operator]]:
    async with connected(folder, **options) as (fake, peer, client):
        yield fake, peer, client.operator


def told() -> invocation_pb2.InvocationInfo:
    """Everything that there is to tell."""
    info = invocation_pb2.InvocationInfo(
        invocation_id="a.Account/0/u",
        method="deposit",
        mode="INVOCATION_MODE_TELL",
        state=invocation_pb2.INVOCATION_STATE_RETRYING,
        attempt=3,
        node="n1",
        cancel_requested=True,
        behind_invocation_id="a.Account/0/p",
    )
    # As a later version may say.
    info.MergeFromString(b"\x60\x4d")
    info.target.actor.type, info.target.actor.id = "Account", "alice"
    info.create_time.FromSeconds(1_700_000_000)
    info.last_attempt_end.cause = invocation_pb2.ATTEMPT_END_CAUSE_APPLICATION_ERROR
    info.last_attempt_end.message = "busy"
    info.error.code, info.error.message = "broke", "no money"
    return info


@asynchronous
async def test_all_that_is_known_of_an_invocation_is_told(tmp_path: Path) -> None:
    async with operated(tmp_path, api_token="secret") as (fake, _, operator):
        async def answer(asked: invocation_pb2.GetInvocationRequest, context: Any) -> Any:
            assert dict(context.invocation_metadata())["authorization"] == "Bearer secret"
            if asked.invocation_id == "nonsense":
                await refuse(context, grpc.StatusCode.NOT_FOUND, "UNKNOWN_INVOCATION")
            return invocation_pb2.GetInvocationResponse(
                invocation=told() if asked.invocation_id == "all" else None
            )

        fake.unary[INVOCATIONS + "GetInvocation"] = Unary(invocation_pb2.GetInvocationRequest, answer)
        view = await operator.invocation("all")
        assert view.target == kar.InvocationTarget("Account", "alice") and str(view.target) == "Account/alice"
        assert (view.mode, view.state, view.attempt) == ("tell", "retrying", 3)
        assert view.created == datetime.fromtimestamp(1_700_000_000, timezone.utc)
        assert view.last_attempt_end == kar.AttemptEnd("application_error", "busy")
        assert (view.end, view.behind) == ("other", "a.Account/0/p"), "a later version knows the end"
        assert view.error is not None and view.error.code == "broke" and view.is_cancel_requested
        nothing = await operator.invocation("")
        assert (nothing.target, nothing.mode, nothing.end, nothing.ended) == (None, None, None, None)
        with pytest.raises(kar.UnknownInvocation):
            await operator.invocation("nonsense")


@asynchronous
async def test_listings_come_by_pages_and_say_what_they_leave_out(tmp_path: Path) -> None:
    async with operated(tmp_path) as (fake, _, operator):
        asked: list[tuple[str, int, str]] = []

        async def page(request: invocation_pb2.ListInvocationsRequest, context: Any) -> Any:
            asked.append((request.kind, request.page_size, request.page_token))
            answer = invocation_pb2.ListInvocationsResponse()
            number = int(request.page_token or 0)
            if number == 2 and len(asked) == 3:
                await refuse(context, grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD")
            # One page in the middle is empty: that is not the end.
            for at in range(0 if number == 1 else 2):
                answer.invocations.add(invocation_id=f"{number}.{at}")
            answer.next_page_token = str(number + 1) if number < 2 else ""
            if number == 1:
                answer.left_out.nodes.add(name="n2", cause="away")
                answer.left_out.rows = 7
            return answer

        fake.unary[INVOCATIONS + "ListInvocations"] = Unary(invocation_pb2.ListInvocationsRequest, page)
        listing = operator.invocations("Account", page_size=2)
        assert [view.id for view in await listing.up_to(1)] == ["0.0"]
        assert len(asked) == 1 and not listing.left_out, "no page is asked for before it is wanted"
        with pytest.raises(kar.Rejected):
            await listing.up_to(9)
        assert [view.id async for view in listing] == ["0.1", "2.0", "2.1"], "nothing is lost"
        assert asked == [("Account", 2, token) for token in ("", "1", "2", "2")]
        assert listing.left_out.nodes == {"n2": "away"} and listing.left_out.rows == 7
        assert await listing.up_to(5) == [] and len(asked) == 4


@asynchronous
async def test_dead_letters_are_listed_sent_again_and_dropped(tmp_path: Path) -> None:
    async with operated(tmp_path) as (fake, peer, operator):
        async def page(_: invocation_pb2.ListDeadLettersRequest, __: Any) -> Any:
            answer = invocation_pb2.ListDeadLettersResponse()
            letter = answer.dead_letters.add(invocation_id="d1", method="m", attempts=2)
            letter.target.service.name = "mail"
            letter.end_time.FromSeconds(60)
            return answer

        fake.unary[INVOCATIONS + "ListDeadLetters"] = Unary(invocation_pb2.ListDeadLettersRequest, page)
        [letter] = [letter async for letter in operator.dead_letters("mail")]
        assert (letter.target, letter.error, letter.attempts) == (kar.InvocationTarget("mail"), None, 2)
        assert letter.ended == datetime.fromtimestamp(60, timezone.utc) and letter.created is None
        redriving = asyncio.create_task(operator.redrive("d1"))
        request = await peer.request("redrive_dead_letter")
        assert request.redrive_dead_letter.invocation_id == "d1"
        done = invocation_pb2.RedriveDeadLetterResponse(invocation_id="new")
        await peer.answer(request, redrive_dead_letter=done)
        assert await redriving == "new"
        discarding = asyncio.create_task(operator.discard("d1"))
        request = await peer.request("discard_dead_letter")
        await peer.refuse(request, grpc.StatusCode.NOT_FOUND, "UNKNOWN_INVOCATION")
        with pytest.raises(kar.UnknownInvocation):
            await discarding
        # It may have been sent again, so it is not sent once more.
        redriving = asyncio.create_task(operator.redrive("d1"))
        await peer.request("redrive_dead_letter")
        peer.end()
        with pytest.raises(kar.OutcomeUnknown):
            await redriving
        await fake.accept()


@asynchronous
async def test_what_only_asks_is_asked_again_while_nobody_answers(tmp_path: Path) -> None:
    async with operated(tmp_path) as (fake, _, operator):
        tries = 0

        async def actors(asked: system_pb2.ListActorsRequest, context: Any) -> Any:
            nonlocal tries
            tries += 1
            if tries < 3:
                code = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)[tries - 1]
                await refuse(context, code, "DRAINING" if tries == 1 else "")
            assert asked.type == "Account"
            answer = system_pb2.ListActorsResponse()
            info = answer.actors.add(node="n1", queued=4, busy=True)
            info.actor.type, info.actor.id = "Account", "alice"
            return answer

        fake.unary[SYSTEM + "ListActors"] = Unary(system_pb2.ListActorsRequest, actors)
        assert await operator.actors("Account").up_to(9) == [kar.BusyActor("Account", "alice", "n1", 4, True)]
        assert tries == 3


@asynchronous
async def test_patience_with_a_sidecar_that_does_not_answer_ends(tmp_path: Path) -> None:
    async with operated(tmp_path, reconnect_timeout=0.05) as (fake, _, operator):
        async def info(_: system_pb2.GetInfoRequest, context: Any) -> Any:
            await refuse(context, grpc.StatusCode.UNAVAILABLE, "BACKEND_UNAVAILABLE")

        fake.unary[SYSTEM + "GetInfo"] = Unary(system_pb2.GetInfoRequest, info)
        with pytest.raises(kar.Unavailable) as refused:
            await operator.info()
        assert refused.value.reason == "BACKEND_UNAVAILABLE"


@asynchronous
async def test_handing_over_is_asked_for_once(tmp_path: Path) -> None:
    async with operated(tmp_path) as (fake, _, operator):
        broken, away = grpc.StatusCode.CANCELLED, grpc.StatusCode.UNAVAILABLE
        refusals = [
            (away, "DRAINING", kar.Unavailable),
            (away, "", kar.OutcomeUnknown),
            (broken, "", kar.OutcomeUnknown),
            (None, "", None),
        ]
        tries = 0

        async def drain(_: system_pb2.DrainRequest, context: Any) -> Any:
            nonlocal tries
            tries += 1
            if code is not None:
                await refuse(context, code, reason)
            return system_pb2.DrainResponse()

        fake.unary[SYSTEM + "Drain"] = Unary(system_pb2.DrainRequest, drain)
        for number, (code, reason, error) in enumerate(refusals, 1):
            if error is None:
                await operator.drain()
            else:
                with pytest.raises(error):
                    await operator.drain()
            assert tries == number


@asynchronous
async def test_nodes_and_the_sidecar_tell_of_themselves(tmp_path: Path) -> None:
    async with operated(tmp_path) as (fake, _, operator):
        node = system_pb2.NodeInfo(name="n1", incarnation=7, services=["mail"], process_id=5)

        async def nodes(_: system_pb2.ListNodesRequest, __: Any) -> Any:
            return system_pb2.ListNodesResponse(nodes=[node])

        async def info(_: system_pb2.GetInfoRequest, __: Any) -> Any:
            return system_pb2.GetInfoResponse(
                application="app", node=node, limits={"a_max": 1}, counters={"b": 2}, faults=["f"]
            )

        fake.unary[SYSTEM + "ListNodes"] = Unary(system_pb2.ListNodesRequest, nodes)
        fake.unary[SYSTEM + "GetInfo"] = Unary(system_pb2.GetInfoRequest, info)
        [listed] = await operator.nodes()
        assert listed == kar.TopologyNode("n1", 7, ("mail",), (), 5, False)
        own = await operator.info()
        assert own.node == listed and own.limits == {"a_max": 1} and own.faults == ("f",)


def test_the_ways_in_that_are_named_exist() -> None:
    services = [invocation_pb2.DESCRIPTOR, system_pb2.DESCRIPTOR, v1.DESCRIPTOR]
    paths = {
        f"/{service.full_name}/{method.name}"
        for file in services
        for service in file.services_by_name.values()
        for method in service.methods
    }
    for name in ("GetInvocation", "ListInvocations", "ListDeadLetters"):
        assert INVOCATIONS + name in paths
    for name in ("ListActors", "ListNodes", "GetInfo", "Drain", "Shutdown"):
        assert SYSTEM + name in paths
