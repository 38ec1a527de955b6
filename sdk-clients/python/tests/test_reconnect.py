"""The sidecar goes away and comes back; leaving in order."""

import asyncio
import os
import signal
from pathlib import Path

import grpc
import pytest
from fake import asynchronous, connected, hosting, listen, sidecar, until

import kar
from kar._connection import Connection
from kar._session import request
from kar._transport import Settings
from kar.v1 import component_pb2 as v1
from kar.v1 import state_pb2


class Waiter(kar.Service, name="waiter"):
    def __init__(self) -> None:
        self.log: list[str] = []
        self.gate = asyncio.Event()

    @kar.method
    async def wait(self) -> str:
        self.log.append("start")
        try:
            await self.gate.wait()
            self.log.append("end")
        except asyncio.CancelledError:
            self.log.append("cancelled")
            raise
        return "done"


@asynchronous
async def test_what_may_have_been_carried_out_is_unknown(tmp_path: Path) -> None:
    async with connected(tmp_path, welcome={"request_credits": 3}) as (fake, peer, client):
        service = client.service("s")
        calls = [asyncio.create_task(service.call("m", n)) for n in range(2)]
        reading = asyncio.create_task(client.state.get("k", int))
        for _ in range(3):
            await peer.frame()
        unsent = asyncio.create_task(service.call("m", 9))
        await until("a request to wait for credits", lambda: bool(client._kar_connection.roots))
        peer.end(grpc.StatusCode.UNAVAILABLE, "DRAINING")
        peer = await fake.accept()
        # What is harmless twice, and what was never sent, goes on the new stream, in order.
        request = await peer.request("state_get")
        found = state_pb2.StateServiceGetResponse()
        found.value.data = b"5"
        await peer.answer(request, state_get=found)
        assert await reading == 5
        request = await peer.request("invoke")
        assert request.invoke.payload.data == b"9"
        await peer.answer_call(request, "10")
        assert await unsent == 10
        for call in calls:
            with pytest.raises(kar.OutcomeUnknown, match="DRAINING"):
                await call


@asynchronous
async def test_a_host_registers_again_and_its_turns_stop(tmp_path: Path) -> None:
    waiter = Waiter()
    async with hosting(tmp_path, waiter) as (fake, peer, _host):
        await peer.invoke("t", "wait", service="waiter")
        await until("the turn to start", lambda: waiter.log == ["start"])
        peer.end()
        peer = await fake.streams.get()
        assert waiter.log == ["start", "cancelled"], "the old turn has stopped before"
        assert [s.name for s in peer.hello.services] == ["waiter"]
        await peer.welcome()
        waiter.gate.set()
        await peer.invoke("t2", "wait", service="waiter")
        outcome = await peer.outcome()
        assert (outcome.turn_token, outcome.payload.data) == ("t2", b'"done"')


@asynchronous
async def test_a_sidecar_that_restarts_is_found_again(tmp_path: Path) -> None:
    socket = tmp_path / "kar.sock"
    fake = await listen(socket)
    connecting = asyncio.ensure_future(fake.client()._connect())
    await fake.accept()
    client = await connecting
    await fake.stop()
    await until("the client to lose it", lambda: client._kar_connection._session is None)
    # Asked for while nobody listens.
    call = asyncio.create_task(client.service("s").call("m"))
    await until("the request to wait", lambda: bool(client._kar_connection.roots))
    fake = await listen(socket)
    peer = await fake.accept(node="second")
    await peer.answer_call(await peer.request("invoke"), "1")
    assert await call == 1
    assert client.node == "second"
    await client.close()
    await fake.stop()


@asynchronous
async def test_patience_ends(tmp_path: Path) -> None:
    fake = await listen(tmp_path / "kar.sock")
    connecting = asyncio.ensure_future(fake.client(reconnect_timeout=0.05)._connect())
    await fake.accept()
    client = await connecting
    host = fake.host(Waiter(), reconnect_timeout=0.05)
    starting = asyncio.create_task(host.start())
    await fake.accept()
    await starting
    await fake.stop()
    await until("the client to lose it", lambda: client._kar_connection._session is None)
    with pytest.raises(kar.Closed, match="no sidecar answers at"):
        await client.service("s").call("m")
    with pytest.raises(kar.HostError, match="went away for good: no sidecar answers at"):
        await host.wait()
    await client.close()


@asynchronous
async def test_a_refusal_for_good_ends_patience_at_once(tmp_path: Path) -> None:
    async with connected(tmp_path) as (fake, peer, client):
        call = asyncio.create_task(client.service("s").call("m"))
        await peer.request("invoke")
        peer.end()
        peer = await fake.streams.get()
        peer.end(grpc.StatusCode.UNAUTHENTICATED, "WRONG_API_TOKEN")
        with pytest.raises(kar.OutcomeUnknown):
            await call
        with pytest.raises(kar.Closed, match="WRONG_API_TOKEN"):
            await client.service("s").call("m")


@asynchronous
async def test_leaving_in_order(tmp_path: Path) -> None:
    waiter = Waiter()
    async with hosting(tmp_path, waiter) as (_, peer, host):
        await peer.invoke("t", "wait", service="waiter")
        await until("the turn to start", lambda: waiter.log == ["start"])
        host.shutdown()
        host.shutdown()
        assert (await peer.frame()).HasField("goodbye")
        # A nested turn may still come; then everything is handed over.
        await peer.invoke("u", "wait", service="waiter")
        await peer.send(v1.SidecarFrame(drained=v1.Drained()))
        waiter.gate.set()
        assert {(await peer.outcome()).turn_token for _ in range(2)} == {"t", "u"}
        await peer.closed()
        await host.wait()


@asynchronous
async def test_leaving_has_a_bound(tmp_path: Path) -> None:
    waiter = Waiter()
    async with hosting(tmp_path, waiter, drain_timeout=0.05) as (_, peer, host):
        await peer.invoke("t", "wait", service="waiter")
        await until("the turn to start", lambda: waiter.log == ["start"])
        host.shutdown()
        await host.wait()
        assert waiter.log == ["start", "cancelled"]


@asynchronous
async def test_a_sidecar_that_does_not_end_its_side_is_left(tmp_path: Path) -> None:
    async with connected(tmp_path) as (_, peer, client):
        peer.keeps_open = True
        await client.close()
        await peer.closed()


@asynchronous
async def test_leaving_while_the_sidecar_is_away(tmp_path: Path) -> None:
    fake = await listen(tmp_path / "kar.sock")
    host = fake.host(Waiter())
    starting = asyncio.create_task(host.start())
    await fake.accept()
    await starting
    await fake.stop()
    connection = host.client._kar_connection
    await until("the host to lose it", lambda: connection._session is None)
    host.shutdown()
    await host.wait()


@asynchronous
async def test_an_error_inside_async_with_is_not_kept_waiting(tmp_path: Path) -> None:
    async with sidecar(tmp_path) as fake:

        async def body() -> None:
            async with fake.client() as client:
                waiting = asyncio.create_task(client.service("s").call("m"))
                await asyncio.sleep(0)
                try:
                    raise KeyError("x")
                finally:
                    waiting.cancel()

        running = asyncio.create_task(body())
        await fake.accept()
        with pytest.raises(KeyError):
            await running


@asynchronous
async def test_the_end_of_the_loop_ends_the_connection(tmp_path: Path) -> None:
    async with connected(tmp_path) as (_, _, client):
        task = client._kar_connection._task
        assert task is not None
        # As `asyncio.run` does with what is left over.
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        with pytest.raises(kar.Closed):
            await client.service("s").call("m")


@asynchronous
async def test_a_connection_whose_task_never_began_is_closed(tmp_path: Path) -> None:
    async with sidecar(tmp_path) as fake:
        accepting = asyncio.create_task(fake.accept())
        connection = Connection(Settings(socket=fake.socket), v1.Hello())
        await connection.open()
        task = connection._task
        assert task is not None
        # Nothing has run since it was made: it is cancelled before its first step.
        task.cancel()
        waiting = asyncio.create_task(connection.request(request("flush")))
        with pytest.raises(kar.Closed):
            await waiting
        with pytest.raises(kar.Closed):
            await connection.request(request("flush"))
        await accepting


@asynchronous
async def test_what_was_given_up_while_nothing_could_be_sent_does_not_gather(tmp_path: Path) -> None:
    async with connected(tmp_path, welcome={"request_credits": 1}) as (_, peer, client):
        first = asyncio.create_task(client.service("s").call("first"))
        held = await peer.request("invoke")
        kept = asyncio.create_task(client.service("s").call("kept"))
        connection = client._kar_connection
        for _ in range(200):
            given_up = asyncio.create_task(client.service("s").call("given up"))
            await asyncio.sleep(0)
            given_up.cancel()
            await asyncio.gather(given_up, return_exceptions=True)
            assert len(connection.roots) <= 3
        await peer.answer_call(held)
        await first
        await peer.answer_call(await peer.request("invoke"))
        await kept


@asynchronous
async def test_a_host_that_nobody_serves_any_more_is_gone(tmp_path: Path) -> None:
    async with sidecar(tmp_path) as fake:
        waiter = Waiter()
        host = fake.host(waiter)
        serving = asyncio.create_task(host.serve())
        peer = await fake.accept()
        await peer.invoke("t", "wait", service="waiter")
        await until("the turn to start", lambda: waiter.log == ["start"])
        serving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await serving
        assert waiter.log == ["start", "cancelled"]
        with pytest.raises(kar.Closed):
            await host.client.service("s").call("m")


@asynchronous
async def test_a_host_that_is_asked_to_leave_while_it_connects_leaves(tmp_path: Path) -> None:
    async with sidecar(tmp_path) as fake:
        serving = asyncio.create_task(fake.host(Waiter).serve())
        # It has said hello and is not welcomed.
        await fake.streams.get()
        os.kill(os.getpid(), signal.SIGTERM)
        await serving
