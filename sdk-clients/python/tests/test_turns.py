"""Turns: arguments and results, errors, what a turn asks for, state, cancellation."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from fake import FakeSidecar, Peer, asynchronous, hosting, json, until

import kar
from kar import limits
from kar.v1 import common_pb2, invocation_pb2, state_pb2
from kar.v1 import component_pb2 as v1


@dataclass
class Order:
    item: str
    count: int = 1


class Forgetful(kar.Actor):
    """Leaves a task behind that writes."""

    gate = asyncio.Event()
    wrote = False
    left: asyncio.Task[None] | None = None

    @kar.method
    async def leave(self) -> None:
        self.state.set("early", 1)
        Forgetful.left = asyncio.create_task(self._write())

    async def _write(self) -> None:
        await self.gate.wait()
        self.state.set("late", 2)
        Forgetful.wrote = True


class Shop(kar.Service, name="shop"):
    def __init__(self) -> None:
        self.log: list[str] = []
        self.gate = asyncio.Event()
        self.counter = 0
        self.background: asyncio.Task[Any] | None = None

    @kar.method
    async def order(self, order: Order) -> str:
        self.counter += 1
        return f"{order.count} {order.item} {self.counter}"

    @kar.method
    async def refuse(self) -> None:
        raise kar.ApplicationError("sold_out", "none left", payload=kar.Payload(b"[0]"))

    @kar.method
    async def crowd(self, failing: int) -> None:
        async def fail() -> None:
            raise kar.ApplicationError("sold_out", "none left", retryable=True)

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(asyncio.sleep(0))
            for _ in range(failing):
                tasks.create_task(fail())

    @kar.method
    async def crash(self) -> None:
        raise ValueError("what a pity")

    @kar.method
    async def big(self) -> bytes:
        return bytes(2000)

    @kar.method
    async def odd(self) -> object:
        return object()

    @kar.method
    async def ask(self, way: str) -> Any:
        stock = self.turn.actor(Stock, "s")
        match way:
            case "call":
                return await stock.take(1)
            case "in a task":
                return await asyncio.create_task(kar.turn().service("other").call("m"))
            case "tell":
                return await kar.tell(stock.take, 1)
            case "gather":
                return sum(await asyncio.gather(stock.take(1), stock.take(2)))
            case "outside":
                with kar.outside_turn() as client:
                    return await client.actor(Stock, "s").take(1)
            case "start":
                return (await kar.start(stock.take, 1)).id
            case "flush":
                return await self.turn.flush()
            case "later":
                self.background = asyncio.create_task(self.later(stock))
                self.log.append("returned")
                return None
        raise ValueError(way)

    async def later(self, stock: "Stock") -> None:
        await self.gate.wait()
        try:
            await stock.take(1)
        except kar.TurnEnded:
            self.log.append("ended")

    @kar.method
    async def wait(self) -> str:
        self.log.append("waits")
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.log.append("cancelled")
            raise
        return "done"

    @kar.method
    async def stubborn(self) -> str:
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.log.append("ignored")
        return "as if nothing had happened"

    @kar.method(retry=kar.RetryPolicy(3, initial_backoff=0.5))
    async def busy(self) -> None:
        raise kar.ApplicationError("busy", retryable=True)

    @kar.method
    async def own_cancel(self) -> None:
        raise asyncio.CancelledError


class Stock(kar.Actor):
    @kar.method
    async def take(self, count: int) -> int:
        left = await self.state.get("left", int, 10) - count
        self.state.set("left", left)
        self.state.remove("old")
        return left

    @kar.method(shared=True)
    async def look(self) -> dict[str, int]:
        assert await self.state.contains("left")
        return {key: value.decode(int) for key, value in (await self.state.get_all()).items()}

    @kar.method
    async def fill(self, size: int) -> None:
        for n in range(size):
            self.state.set(f"k{n}", "x" * 100_000)


@asynccontextmanager
async def selling(
    folder: Path, *more: type[kar.Actor], **options: Any
) -> AsyncIterator[tuple[FakeSidecar, Peer, kar.Host, Shop]]:
    """A host of a shop and its stock."""
    shop = Shop()
    async with hosting(folder, shop, Stock, *more, **options) as (fake, peer, host):
        yield fake, peer, host, shop


async def run(peer: Peer, method: str, argument: str = "null", **fields: Any) -> Any:
    """Runs a turn of the shop that asks for nothing."""
    await peer.invoke("t", method, argument, service="shop", **fields)
    outcome = await peer.outcome()
    assert outcome.turn_token == "t"
    return outcome


@asynchronous
async def test_it_registers_what_it_hosts(tmp_path: Path) -> None:
    options = {"concurrency": 7, "strict": True, "invocation_credits": 3}
    async with selling(tmp_path, **options) as (_, peer, host, _shop):
        hello = peer.hello
        assert [s.name for s in hello.services] == ["shop"]
        assert [(t.name, [(m.name, m.shared) for m in t.methods]) for t in hello.actor_types] == [
            ("Stock", [("fill", False), ("look", True), ("take", False)])
        ]
        assert (hello.concurrency, hello.strict, hello.invocation_credits) == (7, True, 3)
        # The host's client is on the same stream.
        call = asyncio.create_task(host.client.service("s").call("m"))
        await peer.answer_call(await peer.request("invoke"), "1")
        assert await call == 1


@asynchronous
async def test_arguments_and_results_are_typed(tmp_path: Path) -> None:
    async with selling(tmp_path) as (_, peer, _host, shop):
        outcome = await run(peer, "order", '{"item":"tea","count":2}')
        assert outcome.payload == json('"2 tea 1"')
        outcome = await run(peer, "order", '{"item":"tea"}')
        assert outcome.payload == json('"1 tea 1"'), "an object of its own for each turn"
        assert shop.counter == 0
        outcome = await run(peer, "order")
        assert outcome.error.code == "codec"
        assert outcome.error.message == "not a JSON value of Order: expected Order, got NoneType"
        outcome = await run(peer, "order", '{"item":"tea","count":"2"}')
        assert outcome.error.message == "not a JSON value of Order: expected int, got str"


@asynchronous
async def test_exceptions_become_application_errors(tmp_path: Path) -> None:
    async with selling(tmp_path, welcome={"message_bytes_max": 1500}) as (_, peer, _host, _shop):
        error = (await run(peer, "refuse")).error
        assert (error.code, error.message, error.payload.data) == ("sold_out", "none left", b"[0]")
        error = (await run(peer, "crash")).error
        assert (error.code, error.message) == ("ValueError", "what a pity")
        assert 'in crash\n    raise ValueError("what a pity")' in error.detail
        assert "_turn.py" not in error.detail, "frames of the SDK are left out"
        error = (await run(peer, "odd")).error
        assert error.code == "codec" and "object has no JSON form" in error.message
        error = (await run(peer, "big")).error
        assert error.code == "message_too_large" and "message-bytes-max (1500)" in error.message
        error = (await run(peer, "busy")).error
        assert error.retryable and not (await run(peer, "refuse")).error.retryable
        error = (await run(peer, "own_cancel")).error
        assert error.code == "CancelledError"
        error = (await run(peer, "nonsense")).error
        assert error.code == "kar.UNKNOWN_METHOD"
        assert error.message.startswith("service shop has no method `nonsense`; it has: ask, big")
        await peer.invoke("u", "m", service="other")
        error = (await peer.outcome()).error
        assert error.message == "this host has no service `other`; it has: shop"


@asynchronous
async def test_the_only_error_of_a_task_group_is_the_methods_error(tmp_path: Path) -> None:
    async with selling(tmp_path) as (_, peer, _host, _shop):
        error = (await run(peer, "crowd", "1")).error
        assert (error.code, error.message, error.retryable) == ("sold_out", "none left", True)
        error = (await run(peer, "crowd", "2")).error
        assert error.code == "ExceptionGroup"
        assert error.detail.count("sold_out: none left") == 2, "both are told"


@asynchronous
async def test_a_long_stack_trace_is_cut(tmp_path: Path) -> None:
    class Deep(kar.Service):
        @kar.method
        async def fail(self) -> None:
            raise ValueError("x" * 2 * limits.DETAIL_BYTES_MAX + "the end")

    async with hosting(tmp_path, Deep) as (_, peer, _host):
        await peer.invoke("t", "fail", service="Deep")
        detail = (await peer.outcome()).error.detail
        assert len(detail.encode()) <= limits.DETAIL_BYTES_MAX + 3 and detail.endswith("the end")


@asynchronous
async def test_nested_calls_carry_the_turn_by_themselves(tmp_path: Path) -> None:
    async with selling(tmp_path) as (_, peer, _host, _shop):
        fields: dict[str, Any] = {"service": "shop", "trace_parent": "00-trace"}
        await peer.invoke("t", "ask", '"call"', **fields)
        request = await peer.request("call_actor")
        call = request.call_actor
        assert (call.turn_token, call.options.trace_parent) == ("t", "00-trace")
        assert (call.actor.type, call.actor.id, call.payload.data) == ("Stock", "s", b"1")
        await peer.answer_call(request, "9")
        assert (await peer.outcome()).payload.data == b"9"

        await peer.invoke("t", "ask", '"in a task"', **fields)
        request = await peer.request("invoke")
        assert (request.invoke.service, request.invoke.turn_token) == ("other", "t")
        await peer.answer_call(request, "8")
        assert (await peer.outcome()).payload.data == b"8"

        await peer.invoke("t", "ask", '"gather"', **fields)
        both = [await peer.request("call_actor") for _ in range(2)]
        assert {r.call_actor.turn_token for r in both} == {"t"}
        for request in reversed(both):
            await peer.answer_call(request, request.call_actor.payload.data.decode())
        assert (await peer.outcome()).payload.data == b"3"

        await peer.invoke("t", "ask", '"tell"', **fields)
        request = await peer.request("tell")
        assert (request.tell.turn_token, request.tell.target.actor.id) == ("t", "s")
        await peer.answer(request, tell=invocation_pb2.TellResponse(invocation_id="i"))
        assert (await peer.outcome()).payload.data == b'"i"'

        await peer.invoke("t", "ask", '"flush"', **fields)
        request = await peer.request("flush")
        assert request.flush.turn_token == "t"
        await peer.answer(request, flush=state_pb2.FlushResponse())
        assert (await peer.outcome()).payload.data == b"null"


@asynchronous
async def test_what_is_not_part_of_the_turn_says_so(tmp_path: Path) -> None:
    async with selling(tmp_path) as (_, peer, host, _shop):
        await peer.invoke("t", "ask", '"outside"', service="shop")
        request = await peer.request("call_actor")
        assert request.call_actor.turn_token == ""
        await peer.answer_call(request, "1")
        await peer.outcome()
        await peer.invoke("t", "ask", '"start"', service="shop")
        assert "never part of a turn" in (await peer.outcome()).error.message
        direct = common_pb2.INVOCATION_MODE_DIRECT
        await peer.invoke("d", "ask", '"call"', service="shop", mode=direct)
        request = await peer.request("call_actor")
        assert request.call_actor.turn_token == "", "a direct turn asks without a token"
        await peer.answer_call(request, "1")
        await peer.outcome()
        with pytest.raises(kar.NotInTurn):
            kar.turn()
        with pytest.raises(kar.NotInTurn):
            _ = Stock().state
        del host


@asynchronous
async def test_what_outlives_its_turn_is_refused(tmp_path: Path) -> None:
    async with selling(tmp_path) as (_, peer, _host, shop):
        await peer.invoke("t", "ask", '"later"', service="shop")
        await peer.outcome()
        shop.gate.set()
        await until("the task to be refused", lambda: shop.log == ["returned", "ended"])


@asynchronous
async def test_state_is_written_with_the_next_operation_or_the_end(tmp_path: Path) -> None:
    async with selling(tmp_path) as (_, peer, _host, _shop):
        await peer.invoke("t", "take", "3", actor=("Stock", "s"))
        request = await peer.request("actor_state_get")
        assert request.actor_state_get.turn_token == "t"
        assert list(request.actor_state_get.keys) == ["left"]
        answer = state_pb2.ActorStateServiceGetResponse(entries={"left": json("5")})
        await peer.answer(request, actor_state_get=answer)
        request = await peer.request("actor_state_apply")
        changes = request.actor_state_apply.changes
        assert request.actor_state_apply.turn_token == "t"
        assert (changes[0].set.key, changes[0].set.value.data) == ("left", b"2")
        assert changes[1].remove == "old"
        await peer.answer(request, actor_state_apply=state_pb2.ApplyResponse())
        assert (await peer.outcome()).payload.data == b"2"

        await peer.invoke("t", "look", actor=("Stock", "s"))
        request = await peer.request("actor_state_contains")
        await peer.answer(
            request, actor_state_contains=state_pb2.ContainsResponse(exists=True)
        )
        request = await peer.request("actor_state_get_all")
        everything = state_pb2.GetAllResponse(entries={"left": json("2")})
        await peer.answer(request, actor_state_get_all=everything)
        assert (await peer.outcome()).payload.data == b'{"left":2}'


@asynchronous
async def test_what_a_task_writes_while_its_turn_ends_is_not_lost(tmp_path: Path) -> None:
    async with selling(tmp_path, Forgetful) as (_, peer, _host, _shop):
        await peer.invoke("t", "leave", actor=("Forgetful", "f"))
        first = await peer.request("actor_state_apply")
        # The method has returned, and its result waits for this answer.
        Forgetful.gate.set()
        await until("the task to write", lambda: Forgetful.wrote)
        await peer.answer(first, actor_state_apply=state_pb2.ApplyResponse())
        second = await peer.request("actor_state_apply")
        assert [change.set.key for change in second.actor_state_apply.changes] == ["late"]
        await peer.answer(second, actor_state_apply=state_pb2.ApplyResponse())
        assert (await peer.outcome()).payload.data == b"null"


@asynchronous
async def test_a_refused_write_is_the_turns_error(tmp_path: Path) -> None:
    async with selling(tmp_path) as (_, peer, _host, _shop):
        await peer.invoke("t", "fill", "1", actor=("Stock", "s"))
        request = await peer.request("actor_state_apply")
        await peer.refuse(request, grpc.StatusCode.RESOURCE_EXHAUSTED, "LIMIT_REACHED")
        assert (await peer.outcome()).error.code == "limit"


@asynchronous
async def test_many_writes_go_in_several_frames(tmp_path: Path) -> None:
    async with selling(tmp_path) as (_, peer, _host, _shop):
        await peer.invoke("t", "fill", "5", actor=("Stock", "s"))
        sizes = []
        for _ in range(3):
            request = await peer.request("actor_state_apply")
            sizes.append(len(request.actor_state_apply.changes))
            await peer.answer(request, actor_state_apply=state_pb2.ApplyResponse())
        assert sizes == [2, 2, 1]
        assert (await peer.outcome()).HasField("payload")
        await peer.invoke("t", "fill", "100", actor=("Stock", "s"))
        error = (await peer.outcome()).error
        assert error.code == "limit" and "turn-write-bytes" in error.message


@asynchronous
async def test_a_superseded_turn_is_cancelled_and_says_so(tmp_path: Path) -> None:
    async with selling(tmp_path) as (_, peer, _host, shop):
        await peer.invoke("t", "wait", service="shop")
        await until("the method to run", lambda: shop.log == ["waits"])
        await peer.cancel("t")
        assert (await peer.outcome()).HasField("cancelled")
        assert shop.log == ["waits", "cancelled"]
        # A turn that has ended needs no answer.
        await peer.cancel("t")
        assert (await run(peer, "order", '{"item":"x"}')).HasField("payload")


@asynchronous
async def test_a_turn_that_is_asked_to_stop_may_stop_or_go_on(tmp_path: Path) -> None:
    async with selling(tmp_path) as (_, peer, _host, shop):
        await peer.invoke("t", "wait", service="shop")
        await until("the method to run", lambda: shop.log == ["waits"])
        await peer.cancel("t", requested=True)
        assert (await peer.outcome()).HasField("cancelled")
        assert shop.log == ["waits", "cancelled"]
        # One that catches it and returns: its result counts.
        await peer.invoke("u", "stubborn", service="shop")
        await peer.invoke("v", "order", '{"item":"x"}', service="shop")
        assert (await peer.outcome()).turn_token == "v"
        await peer.cancel("u", requested=True)
        outcome = await peer.outcome()
        assert (outcome.turn_token, outcome.WhichOneof("result")) == ("u", "payload")


@asynchronous
async def test_a_turn_that_is_cancelled_before_it_starts(tmp_path: Path) -> None:
    async with selling(tmp_path) as (_, peer, _host, shop):
        target = common_pb2.Target(service=common_pb2.ServiceTarget(name="shop"))
        invocation = v1.InvocationFrame(turn_token="t", target=target, method="wait", attempt=1)
        cancel = v1.CancelTurn(turn_token="t")
        await peer.send(v1.SidecarFrame(invocation=invocation), v1.SidecarFrame(cancel_turn=cancel))
        assert (await peer.outcome()).HasField("cancelled")
        assert shop.log == []


@asynchronous
async def test_code_that_ignores_its_cancellation_counts_for_nothing(tmp_path: Path) -> None:
    async with selling(tmp_path) as (_, peer, _host, shop):
        await peer.invoke("t", "stubborn", service="shop")
        await peer.invoke("u", "order", '{"item":"x"}', service="shop")
        assert (await peer.outcome()).turn_token == "u"
        await peer.cancel("t")
        outcome = await peer.outcome()
        assert (outcome.turn_token, outcome.WhichOneof("result")) == ("t", "cancelled")
        assert shop.log == ["ignored"]


@asynchronous
async def test_a_turn_that_learns_it_is_superseded_stops(tmp_path: Path) -> None:
    async with selling(tmp_path) as (_, peer, _host, _shop):
        await peer.invoke("t", "ask", '"call"', service="shop")
        request = await peer.request("call_actor")
        await peer.refuse(request, grpc.StatusCode.ABORTED, "TURN_SUPERSEDED")
        assert (await peer.outcome()).HasField("cancelled")
        await peer.invoke("t", "fill", "1", actor=("Stock", "s"))
        request = await peer.request("actor_state_apply")
        await peer.refuse(request, grpc.StatusCode.ABORTED, "TURN_SUPERSEDED")
        assert (await peer.outcome()).HasField("cancelled")


@asynchronous
async def test_errors_of_nested_calls_pass_on(tmp_path: Path) -> None:
    async with selling(tmp_path) as (_, peer, _host, _shop):
        await peer.invoke("t", "ask", '"call"', service="shop")
        request = await peer.request("call_actor")
        failed = common_pb2.ApplicationError(code="c", message="m", detail="far away")
        await peer.answer(request, call_actor=invocation_pb2.CallActorResponse(error=failed))
        error = (await peer.outcome()).error
        assert (error.code, error.message, error.detail) == ("c", "m", "far away")
        await peer.invoke("t", "ask", '"call"', service="shop")
        request = await peer.request("call_actor")
        await peer.refuse(request, grpc.StatusCode.DEADLINE_EXCEEDED, "EXPIRED")
        error = (await peer.outcome()).error
        assert (error.code, error.message) == ("expired", "EXPIRED: because")


@asynchronous
async def test_credits_leave_room_for_nested_calls(tmp_path: Path) -> None:
    welcome = {"request_credits": 4}
    async with selling(tmp_path, welcome=welcome) as (_, peer, host, _shop):
        calls = asyncio.gather(*(host.client.service("s").call("m", n) for n in range(3)))
        roots = [await peer.request("invoke") for _ in range(2)]
        # A third root call waits, but a turn's call passes.
        await peer.invoke("t", "ask", '"call"', service="shop")
        nested = await peer.request("call_actor")
        await peer.answer_call(nested, "1")
        await peer.outcome()
        await peer.answer_call(roots[0])
        await peer.answer_call(await peer.request("invoke"))
        await peer.answer_call(roots[1])
        await calls


@asynchronous
async def test_calls_of_turns_leave_a_credit_for_what_is_called(tmp_path: Path) -> None:
    async with selling(tmp_path, welcome={"request_credits": 4}) as (_, peer, _host, _shop):
        for number in range(4):
            await peer.invoke(f"t{number}", "ask", '"call"', service="shop")
        calls = [await peer.request("call_actor") for _ in range(3)]
        # What they called reads its state, or none of them would ever be answered.
        await peer.invoke("called", "take", "1", actor=("Stock", "s"))
        request = await peer.request("actor_state_get")
        answer = state_pb2.ActorStateServiceGetResponse(entries={"left": json("5")})
        await peer.answer(request, actor_state_get=answer)
        request = await peer.request("actor_state_apply")
        await peer.answer(request, actor_state_apply=state_pb2.ApplyResponse())
        assert (await peer.outcome()).turn_token == "called"
        await peer.answer_call(calls[0])
        calls.append(await peer.request("call_actor"))
        assert (await peer.outcome()).turn_token == "t0"
        for call in calls[1:]:
            await peer.answer_call(call)
        assert {(await peer.outcome()).turn_token for _ in range(3)} == {"t1", "t2", "t3"}
