"""Services and actors as classes, and their proxies."""

import asyncio
from pathlib import Path

import pytest
from fake import asynchronous, connected

import kar


class Base(kar.Service):
    @kar.method
    async def inherited(self) -> None: ...


class Good(Base, name="good-1"):
    @kar.method(name="real-name", shared=True)
    async def alias(self, x: int = 3) -> int:
        return x

    async def hidden(self) -> None: ...


def test_methods_are_found() -> None:
    assert Good.kar_name == "good-1"
    methods = {name: (m.attribute, m.shared) for name, m in Good.kar_methods.items()}
    assert methods == {"inherited": ("inherited", False), "real-name": ("alias", True)}


def test_what_makes_no_sense_is_refused_when_the_class_is_made() -> None:
    with pytest.raises(TypeError, match="is an `async def`"):

        class Plain(kar.Service):
            @kar.method  # type: ignore[type-var]
            def m(self) -> None: ...

    with pytest.raises(TypeError, match="at most one argument"):

        class Two(kar.Service):
            @kar.method
            async def m(self, a: int, b: int) -> None: ...

    with pytest.raises(TypeError, match="at most one argument"):

        class Keyword(kar.Service):
            @kar.method
            async def m(self, *, a: int) -> None: ...

    with pytest.raises(TypeError, match="is no name"):

        class Name(kar.Service, name="a b"): ...

    with pytest.raises(TypeError, match="two methods called m"):

        class Twice(kar.Service):
            @kar.method
            async def m(self) -> None: ...

            @kar.method(name="m")
            async def n(self) -> None: ...

    with pytest.raises(TypeError, match="Hook.on_deactivate: the hook is an `async def`"):

        class Hook(kar.Actor):
            def on_deactivate(self) -> None:  # type: ignore[override]
                ...

    with pytest.raises(TypeError, match="the SDK needs this name"):

        class Clash(kar.Actor):
            @kar.method
            async def id(self) -> str:  # type: ignore[override]
                return ""


def test_what_cannot_be_hosted_is_refused() -> None:
    class Empty(kar.Service): ...

    class Bad(kar.Service):
        @kar.method
        async def m(self, x: complex) -> None: ...

    for things, text in [
        ((), "nothing to host"),
        ((Empty,), "has no method"),
        ((Good, Good()), "service good-1 is hosted twice"),
        ((Bad,), "complex cannot travel as JSON"),
        ((object(),), "neither a kar.Service nor a kar.Actor"),
    ]:
        with pytest.raises(kar.HostError, match=text):
            kar.Host(*things, socket="/nowhere")  # type: ignore[arg-type]


@asynchronous
async def test_proxies_check_what_they_are_given(tmp_path: Path) -> None:
    async with connected(tmp_path) as (_, peer, client):
        proxy = client.service(Good)
        with pytest.raises(AttributeError, match="exposes no method 'hidden'; it has: alias"):
            proxy.hidden
        with pytest.raises(TypeError, match="takes one argument, x"):
            proxy.alias(1, 2)  # type: ignore[call-arg, unused-coroutine]
        with pytest.raises(TypeError, match="takes no argument"):
            proxy.inherited(1)  # type: ignore[call-arg, unused-coroutine]
        with pytest.raises(TypeError, match="an actor has no option 'direct': start_within, "):
            client.actor("A", "a", direct=True)  # type: ignore[call-overload]
        with pytest.raises(TypeError, match="a service has no option 'nothing'"):
            client.service(Good, nothing=1)  # type: ignore[call-overload]
        with pytest.raises(TypeError, match="is not a method of"):
            await kar.tell(Good().alias, 1)
        call = asyncio.create_task(proxy.alias(x=4))
        request = await peer.request("invoke")
        assert (request.invoke.method, request.invoke.payload.data) == ("real-name", b"4")
        await peer.answer_call(request, "5")
        assert await call == 5
        call = asyncio.create_task(client.service(Good, direct=True, affinity_key="k").alias())
        request = await peer.request("invoke")
        assert request.invoke.payload.data == b"" and request.invoke.affinity_key == "k"
        assert request.invoke.delivery_mode == 2
        await peer.answer_call(request, '"not an int"')
        with pytest.raises(kar.CodecError, match="expected int, got str"):
            await call
