"""Requests on the stream: packing, credits, bounds, errors."""

import asyncio
from pathlib import Path
from typing import Any

import grpc
import pytest
from fake import asynchronous, connected, status, until

import kar
from kar import limits
from kar._session import shares
from kar.v1 import common_pb2, invocation_pb2, state_pb2
from kar.v1 import component_pb2 as v1


def gather(*calls: Any) -> asyncio.Future[list[Any]]:
    return asyncio.gather(*calls)


@asynchronous
async def test_a_call_and_its_answer(tmp_path: Path) -> None:
    async with connected(tmp_path) as (fake, peer, client):
        assert (client.node, client.application) == ("fake", "app")
        assert peer.hello.protocol_version == 1
        assert peer.hello.sdk.startswith("kar-sdk-python/")
        call = gather(client.service("s").call("m", {"a": [1]}, str))
        request = await peer.request("invoke")
        invoke = request.invoke
        assert (invoke.service, invoke.method, invoke.turn_token) == ("s", "m", "")
        assert (invoke.payload.data, invoke.payload.content_type) == (
            b'{"a":[1]}',
            "application/json",
        )
        await peer.answer_call(request, '"yes"')
        assert await call == ["yes"]
        await client.close()
        await peer.closed()


@asynchronous
async def test_what_is_ready_travels_in_one_message(tmp_path: Path) -> None:
    async with connected(tmp_path) as (_, peer, client):
        count = 3 * limits.FRAMES_PER_MESSAGE_MAX
        peer.messages.clear()
        calls = gather(*(client.service("s").call("m", n) for n in range(count)))
        requests = [await peer.request("invoke") for _ in range(count)]
        assert [int(r.invoke.payload.data) for r in requests] == list(range(count)), "in order"
        assert max(peer.messages) == limits.FRAMES_PER_MESSAGE_MAX
        assert len(peer.messages) <= 4, peer.messages
        for request in reversed(requests):
            await peer.answer_call(request, request.invoke.payload.data.decode())
        assert await calls == list(range(count)), "each gets its own answer, in any order"


@asynchronous
async def test_a_message_is_bounded_in_bytes(tmp_path: Path) -> None:
    async with connected(tmp_path) as (_, peer, client):
        peer.messages.clear()
        long = b"x" * limits.MESSAGE_BYTES_TARGET
        calls = gather(*(client.service("s").call("m", data) for data in (b"a", long, b"b", b"c")))
        for _ in range(4):
            await peer.answer_call(await peer.request("invoke"))
        assert peer.messages == [1, 1, 2], "a long frame travels alone"
        await calls


@asynchronous
async def test_credits_hold_requests_back(tmp_path: Path) -> None:
    async with connected(tmp_path, welcome={"request_credits": 2}) as (_, peer, client):
        calls = gather(*(client.service("s").call("m", n) for n in range(5)))
        first = [await peer.request("invoke") for _ in range(2)]
        # A third one must not come: the next frame is what an answer allows.
        await peer.answer_call(first[0], "0")
        third = await peer.request("invoke")
        assert third.invoke.payload.data == b"2"
        await peer.send(v1.SidecarFrame(credit=v1.Credit(count=10)))
        rest = [await peer.request("invoke") for _ in range(2)]
        for request in (first[1], third, *rest):
            await peer.answer_call(request)
        await calls


def test_shares_leave_room_for_what_calls_wait_for() -> None:
    assert shares(100, False) == (100, 100)
    assert shares(128, True) == (112, 64)
    assert shares(1, True) == (1, 1)
    assert shares(2, True) == (1, 1)
    assert shares(4, True) == (3, 2)
    assert shares(8, True) == (7, 4)


@asynchronous
async def test_bounds_are_typed_errors(tmp_path: Path) -> None:
    async with connected(tmp_path, welcome={"message_bytes_max": 1000}, requests_max=1) as (_, peer, client):
        with pytest.raises(kar.LimitReached) as error:
            await client.service("s").call("m", b"x" * 1000)
        assert (error.value.limit, error.value.value) == ("message-bytes-max", "1000")
        waiting = asyncio.create_task(client.service("s").call("m"))
        request = await peer.request("invoke")
        with pytest.raises(kar.LimitReached) as error:
            await client.service("s").call("m")
        assert (error.value.limit, error.value.value) == ("client-requests", "1")
        await peer.answer_call(request)
        await waiting


REASONS = [
    (grpc.StatusCode.ABORTED, "TURN_SUPERSEDED", kar.TurnSuperseded),
    (grpc.StatusCode.FAILED_PRECONDITION, "TURN_ENDED", kar.TurnEnded),
    (grpc.StatusCode.DEADLINE_EXCEEDED, "EXPIRED", kar.Expired),
    (grpc.StatusCode.UNKNOWN, "OUTCOME_UNKNOWN", kar.OutcomeUnknown),
    (grpc.StatusCode.UNAVAILABLE, "NO_HOST", kar.NoHost),
    (grpc.StatusCode.NOT_FOUND, "UNKNOWN_INVOCATION", kar.UnknownInvocation),
    (grpc.StatusCode.NOT_FOUND, "UNKNOWN_METHOD", kar.UnknownMethod),
    (grpc.StatusCode.ABORTED, "CONDITION_FAILED", kar.ConditionFailed),
    (grpc.StatusCode.RESOURCE_EXHAUSTED, "LIMIT_REACHED", kar.LimitReached),
    (grpc.StatusCode.RESOURCE_EXHAUSTED, "MESSAGE_TOO_LARGE", kar.LimitReached),
    (grpc.StatusCode.UNAVAILABLE, "DRAINING", kar.Unavailable),
    (grpc.StatusCode.UNAVAILABLE, "BACKEND_UNAVAILABLE", kar.Unavailable),
    (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD", kar.Rejected),
    (grpc.StatusCode.UNIMPLEMENTED, "NOT_IMPLEMENTED", kar.Rejected),
    (grpc.StatusCode.INTERNAL, "SOMETHING_NEWER", kar.Rejected),
]


@asynchronous
async def test_each_reason_is_an_error_of_its_own(tmp_path: Path) -> None:
    async with connected(tmp_path) as (_, peer, client):
        for code, reason, kind in REASONS:
            call = asyncio.create_task(client.service("s").call("m"))
            request = await peer.request("invoke")
            await peer.answer(request, status=status(code, reason, limit="queue", value="7"))
            with pytest.raises(kind) as error:
                await call
            assert type(error.value) is kind
            assert isinstance(error.value, kar.KarError)
            assert (error.value.reason, error.value.status) == (reason, code.value[0])
            assert error.value.metadata == {"limit": "queue", "value": "7"}
            assert str(error.value) == f"{reason}: because"
            if isinstance(error.value, kar.ConditionFailed):
                # As a condition, what it says of a key that is not there must mean just that, and not nothing.
                assert error.value.etag == "*"


@asynchronous
async def test_an_application_error_keeps_its_parts(tmp_path: Path) -> None:
    async with connected(tmp_path) as (_, peer, client):
        call = asyncio.create_task(client.actor("T", "1").call("m"))
        request = await peer.request("call_actor")
        assert (request.call_actor.actor.type, request.call_actor.actor.id) == ("T", "1")
        failed = common_pb2.ApplicationError(code="c", message="m", detail="at line 1")
        failed.payload.data = b"[1]"
        await peer.answer(request, call_actor=invocation_pb2.CallActorResponse(error=failed))
        with pytest.raises(kar.ApplicationError) as error:
            await call
        assert (error.value.code, error.value.message) == ("c", "m")
        assert error.value.detail == "at line 1"
        assert error.value.payload is not None and error.value.payload.decode(list[int]) == [1]
        assert "at line 1" in error.value.__notes__[0]


@asynchronous
async def test_a_caller_that_went_away_is_not_waited_for(tmp_path: Path) -> None:
    async with connected(tmp_path, welcome={"request_credits": 1}) as (_, peer, client):
        first = asyncio.create_task(client.service("s").call("m", 1))
        request = await peer.request("invoke")
        second = asyncio.create_task(client.service("s").call("m", 2))
        third = asyncio.create_task(client.service("s").call("m", 3))
        await asyncio.sleep(0)
        for task in (first, second):
            task.cancel()
        await asyncio.wait([first, second])
        # The late answer goes nowhere; what was given up before it was sent is never sent.
        await peer.forgets(request)
        request = await peer.request("invoke")
        assert request.invoke.payload.data == b"3"
        await peer.answer_call(request)
        await third


@asynchronous
async def test_tell_start_and_await(tmp_path: Path) -> None:
    class Worker(kar.Actor):
        @kar.method
        async def work(self, n: int) -> int:
            raise NotImplementedError

    async with connected(tmp_path) as (_, peer, client):
        told = asyncio.create_task(kar.tell(client.actor(Worker, "w").work, 5))
        request = await peer.request("tell")
        assert request.tell.target.actor.type == "Worker"
        assert (request.tell.method, request.tell.payload.data) == ("work", b"5")
        await peer.answer(request, tell=invocation_pb2.TellResponse(invocation_id="i1"))
        assert await told == "i1"
        proxy = client.actor(Worker, "w", start_within=1.5)
        starting = asyncio.create_task(kar.start(proxy.work, 6))
        request = await peer.request("start")
        assert request.start.options.start_within.ToMilliseconds() == 1500
        await peer.answer(request, start=invocation_pb2.StartResponse(invocation_id="i2"))
        started = await starting
        assert started.id == "i2"
        result = asyncio.create_task(started.result())
        request = await peer.request("await_outcome")
        assert request.await_outcome.invocation_id == "i2"
        await peer.answer_call(request, "36")
        assert await result == 36


@asynchronous
async def test_application_state(tmp_path: Path) -> None:
    async with connected(tmp_path) as (_, peer, client):
        getting = asyncio.create_task(client.state.get("k", int))
        request = await peer.request("state_get")
        await peer.answer(request, state_get=state_pb2.StateServiceGetResponse())
        assert await getting is None
        creating = asyncio.create_task(client.state.create("k", 5))
        request = await peer.request("state_set")
        assert (request.state_set.etag, request.state_set.value.data) == ("*", b"5")
        assert request.state_set.request_id
        await peer.answer(request, state_set=state_pb2.SetResponse(etag="1"))
        assert await creating == "1"
        deleting = asyncio.create_task(client.state.delete("k"))
        request = await peer.request("state_delete")
        await peer.answer(request, state_delete=state_pb2.DeleteResponse(existed=True))
        assert await deleting
        changing = asyncio.create_task(
            client.state.transact(
                kar.Delete("a", if_etag="1"),
                kar.Set("b", 5, if_etag="*", time_to_live=1.5),
                kar.Delete("c"),
            )
        )
        request = await peer.request("state_transact")
        asked = request.state_transact
        assert [(one.key, one.etag) for one in asked.deletes] == [("a", "1"), ("c", "")]
        assert (asked.sets[0].key, asked.sets[0].value.data, asked.sets[0].etag) == ("b", b"5", "*")
        assert asked.sets[0].time_to_live.ToMilliseconds() == 1500
        assert asked.request_id
        done = state_pb2.TransactResponse(etags=["7"], existed=[True, False])
        await peer.answer(request, state_transact=done)
        assert await changing == [True, "7", False]
        assert await client.state.transact() == []
        listing = asyncio.create_task(client.state.list("p", page_size=2))
        request = await peer.request("state_list")
        entry = state_pb2.StateEntry(key="p1")
        entry.value.data = b"1"
        listed = state_pb2.ListResponse(entries=[entry], next_page_token="t")
        await peer.answer(request, state_list=listed)
        page = await listing
        assert (page.entries[0][0], page.entries[0][1].decode(int), page.next) == ("p1", 1, "t")
        with pytest.raises(kar.Rejected, match="1 to 512 bytes"):
            await client.state.get("", int)


@asynchronous
async def test_an_answer_of_another_kind_is_an_unknown_outcome(tmp_path: Path) -> None:
    async with connected(tmp_path) as (_, peer, client):
        call = asyncio.create_task(client.service("s").call("m"))
        request = await peer.request("invoke")
        await peer.answer(request, tell=invocation_pb2.TellResponse())
        with pytest.raises(kar.OutcomeUnknown, match="answered invoke with tell"):
            await call


@asynchronous
async def test_a_sidecar_that_breaks_the_protocol_is_left(tmp_path: Path) -> None:
    async with connected(tmp_path) as (fake, peer, client):
        for frame in (
            v1.SidecarFrame(response=v1.Response(id=99)),
            v1.SidecarFrame(credit=v1.Credit(count=0)),
            v1.SidecarFrame(welcome=v1.Welcome()),
        ):
            await peer.send(frame)
            peer = await fake.accept()
        # A frame of a later version is none.
        await peer.send(v1.SidecarFrame())
        call = asyncio.create_task(client.service("s").call("m"))
        await peer.answer_call(await peer.request("invoke"))
        await call


@asynchronous
async def test_closing_waits_for_what_is_under_way(tmp_path: Path) -> None:
    async with connected(tmp_path) as (_, peer, client):
        call = asyncio.create_task(client.service("s").call("m"))
        request = await peer.request("invoke")
        closing = asyncio.create_task(client.close())
        await until("the client to close", lambda: client._kar_connection.is_leaving)
        assert not closing.done()
        await peer.answer_call(request, "1")
        assert await call == 1
        await peer.closed()
        await closing
        with pytest.raises(kar.Closed):
            await client.service("s").call("m")
