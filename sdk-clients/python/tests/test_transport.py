"""Finding the sidecar, and being welcomed."""

import asyncio
from pathlib import Path

import grpc
import pytest
from fake import asynchronous, sidecar

import kar
from kar._transport import Settings


def target(env: dict[str, str], settings: Settings | None = None) -> str:
    return (settings or Settings()).dialer(env).target


def test_the_environment_names_the_sidecar() -> None:
    both = {"KAR_SOCKET": "/x/kar.sock", "KAR_GRPC_PORT": "9"}
    assert target(both) == "unix:/x/kar.sock"
    assert target({"KAR_SOCKET": "", "KAR_GRPC_PORT": "9"}) == "ipv4:127.0.0.1:9"
    assert target(both, Settings(port=7)) == "ipv4:127.0.0.1:7"
    assert target(both, Settings(socket="/y", port=7)) == "unix:/y"
    for port in ("x", "0", "65536", "-1", "1.5", "٣"):
        with pytest.raises(kar.NotConfigured, match="not a port number"):
            target({"KAR_GRPC_PORT": port})
    with pytest.raises(kar.NotConfigured, match="run this program under `kar run`"):
        target({})
    with pytest.raises(kar.NotConfigured, match="KAR_API_TOKEN"):
        target({**both, "KAR_API_TOKEN": "a\nb"})


@asynchronous
async def test_tcp_and_the_token(tmp_path: Path) -> None:
    async with sidecar(tmp_path) as fake:
        connecting = asyncio.ensure_future(kar.connect(port=fake.port, api_token="s")._connect())
        peer = await fake.accept()
        client = await connecting
        assert peer.metadata["authorization"] == "Bearer s"
        call = asyncio.create_task(client.service("s").call("m"))
        await peer.answer_call(await peer.request("invoke"), "1")
        assert await call == 1
        await client.close()


@asynchronous
async def test_nobody_there(tmp_path: Path) -> None:
    socket = tmp_path / "nobody.sock"
    with pytest.raises(kar.Unreachable, match=f"no sidecar answers at {socket}"):
        await kar.connect(socket=socket, connect_timeout=0.05)
    with pytest.raises(kar.Unreachable, match="no answer in time"):
        await kar.connect(socket=socket, connect_timeout=0)


@asynchronous
async def test_a_refusal_says_why(tmp_path: Path) -> None:
    async with sidecar(tmp_path) as fake:
        connecting = asyncio.ensure_future(fake.client()._connect())
        peer = await fake.streams.get()
        peer.end(grpc.StatusCode.UNAUTHENTICATED, "WRONG_API_TOKEN")
        with pytest.raises(kar.Refused) as error:
            await connecting
        assert error.value.error.reason == "WRONG_API_TOKEN"


@asynchronous
async def test_a_predecessor_is_waited_for(tmp_path: Path) -> None:
    async with sidecar(tmp_path) as fake:
        connecting = asyncio.ensure_future(fake.client()._connect())
        for code, reason in [
            (grpc.StatusCode.ALREADY_EXISTS, "ALREADY_HOSTING"),
            (grpc.StatusCode.UNAVAILABLE, "DRAINING"),
        ]:
            peer = await fake.streams.get()
            peer.end(code, reason)
        await fake.accept()
        await (await connecting).close()


@asynchronous
async def test_a_welcome_must_be_one(tmp_path: Path) -> None:
    async with sidecar(tmp_path) as fake:
        for welcome, text in [
            ({"protocol_version": 2}, "the sidecar speaks version 2, this SDK 1"),
            ({"request_credits": 0}, "the welcome allows no requests"),
        ]:
            connecting = asyncio.ensure_future(fake.client()._connect())
            await fake.accept(**welcome)
            with pytest.raises(kar.ProtocolError, match=text):
                await connecting
        connecting = asyncio.ensure_future(fake.client()._connect())
        peer = await fake.streams.get()
        await peer.cancel("t")
        with pytest.raises(kar.ProtocolError, match="the first frame is not a welcome"):
            await connecting
        connecting = asyncio.ensure_future(fake.client()._connect())
        peer = await fake.streams.get()
        peer.end(grpc.StatusCode.OK)
        with pytest.raises(kar.ProtocolError, match="ended before a welcome"):
            await connecting
