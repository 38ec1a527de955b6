"""Sub-maps of actors' state, and conditions."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from fake import Peer, asynchronous, connected, hosting, json
from stored import Stored

import kar
from kar.v1 import component_pb2 as v1
from kar.v1 import state_pb2

Body = Callable[[kar.ActorState], Awaitable[Any]]


class Shelf(kar.Actor):
    """Does with its state what the test says."""

    body: Body

    @kar.method
    async def act(self) -> Any:
        return await Shelf.body(self.state)

    @kar.method(shared=True)
    async def look(self) -> Any:
        return await Shelf.body(self.state)


def fields_of(request: v1.Request) -> Any:
    """What is asked for, whatever it is."""
    return getattr(request, request.WhichOneof("operation") or "")


async def act(peer: Peer, stored: Stored, body: Body, method: str = "act") -> Any:
    """What the body comes to in a turn that ends well."""
    Shelf.body = body
    outcome = await stored.run(peer, method)
    assert outcome.HasField("payload"), outcome
    return kar.Payload(outcome.payload.data, outcome.payload.content_type).decode()


@asynchronous
async def test_sub_maps_are_written_and_read_beside_the_actors_own_keys(tmp_path: Path) -> None:
    async def body(state: kar.ActorState) -> list[Any]:
        books, lent = state.sub_map("books"), state.sub_map("lent")
        state.set("a", 1)
        books.set("a", 2)
        books.set("b", {"pages": 3})
        lent.set("a", 4)
        books.remove("nothing")
        many = await books.get_many(["b", "a", "c"])
        seen: list[Any] = [
            await state.get("a", int),
            await books.get("a", int),
            await lent.get("a", int, 0),
            await lent.get("b", int, 0),
            await lent.get("b", int),
            {key: payload.decode() for key, payload in sorted(many.items())},
            [await books.contains("b"), await lent.contains("b")],
            [await books.size(), await lent.size(), await state.sub_map("none").size()],
        ]
        books.remove("a")
        lent.clear()
        return [*seen, [await books.size(), await lent.size(), await state.get("a")]]

    async with hosting(tmp_path, Shelf) as (_, peer, _host):
        stored = Stored()
        seen = await act(peer, stored, body)
        assert seen[:5] == [1, 2, 4, 0, None]
        assert seen[5:] == [{"a": 2, "b": {"pages": 3}}, [True, False], [2, 1, 0], [1, 0, 1]]
        applied = [r.actor_state_apply for r in stored.asked if r.HasField("actor_state_apply")]
        assert [len(one.changes) for one in applied] == [5, 2], "writes are gathered"
        reads = [r for r in stored.asked if not r.HasField("actor_state_apply")]
        assert {fields_of(request).turn_token for request in reads} == {"t"}

        async def clear(state: kar.ActorState) -> list[str]:
            state.clear()
            state.sub_map("books").set("c", 1)
            assert await state.get_all() == {}
            return [key async for key, _ in state.sub_map("books").entries()]

        assert await act(peer, stored, clear) == ["c"], "what there was is gone"
        assert await act(peer, stored, clear, "look") == ["c"], "a shared turn asks as any other"


@asynchronous
async def test_entries_come_by_pages_in_order(tmp_path: Path) -> None:
    keys = ["", "\x01", "a", "a0", "b", "é", "\uffff", "😀"][1:]

    async def fill(state: kar.ActorState) -> None:
        for key in reversed(keys):
            state.sub_map("m").set(key, key.upper())

    async def pages(state: kar.ActorState) -> list[Any]:
        sub_map = state.sub_map("m")
        seen: list[Any] = []
        page = await sub_map.page(3)
        seen.append([key for key, _ in page.entries])
        page = await sub_map.page(3, page.next)
        return [*seen, [key for key, _ in page.entries], bool(page.next)]

    async def entries(state: kar.ActorState) -> list[Any]:
        return [[key, payload.decode(str)] async for key, payload in state.sub_map("m").entries(page_size=5)]

    async def first(state: kar.ActorState) -> str:
        async for key, _ in state.sub_map("m").entries():
            return key
        return ""

    async with hosting(tmp_path, Shelf) as (_, peer, _host):
        stored = Stored(page_max=2)
        await act(peer, stored, fill)
        assert await act(peer, stored, pages) == [keys[:2], keys[2:4], True], "pages may be shorter"
        stored.asked.clear()
        assert await act(peer, stored, entries) == [[key, key.upper()] for key in keys]
        asked = [r.actor_state_list_sub_map for r in stored.asked]
        assert [(one.sub_map, one.page_size) for one in asked] == [("m", 5)] * 4
        assert [one.page_token for one in asked] == ["", keys[1], keys[3], keys[5]]
        stored.asked.clear()
        assert await act(peer, stored, first) == keys[0]
        assert len(stored.asked) == 1, "a page is asked for when it is wanted"


@asynchronous
async def test_an_empty_page_is_not_the_end(tmp_path: Path) -> None:
    async def entries(state: kar.ActorState) -> list[str]:
        return [key async for key, _ in state.sub_map("m").entries()]

    async with hosting(tmp_path, Shelf) as (_, peer, _host):
        Shelf.body = entries
        await peer.invoke("t", "act", actor=("Shelf", "s"))
        for keys, after in (("a", "1"), ("", "2"), ("bc", "")):
            request = await peer.request("actor_state_list_sub_map")
            found = [state_pb2.StateEntry(key=key, value=json("0")) for key in keys]
            answer = state_pb2.ListSubMapResponse(entries=found, next_page_token=after)
            await peer.answer(request, actor_state_list_sub_map=answer)
        assert (await peer.outcome()).payload.data == b'["a","b","c"]'


@asynchronous
async def test_a_key_is_set_only_if_it_has_the_value(tmp_path: Path) -> None:
    async def conditions(state: kar.ActorState) -> list[list[bool]]:
        seen = []
        for where in (state, state.sub_map("m")):
            seen.append(
                [
                    await where.compare_and_set("k", {"n": 0}, 1),
                    await where.compare_and_set("k", None, {"n": 1}),
                    await where.compare_and_set("k", None, 2),
                    await where.compare_and_set("k", kar.Payload(b'{"n": 1}', "application/json"), 3),
                    await where.compare_and_set("k", kar.Payload(b'{"n":1}', "text/json"), 4),
                    await where.compare_and_set("k", {"n": 1}, None),
                    await where.compare_and_set("k", None, 5),
                    await where.compare_and_set("k", kar.Payload(b"null", "application/json"), b""),
                    await where.compare_and_set("k", b"", 6),
                    await where.get("k", int) == 6,
                ]
            )
        return seen

    async with hosting(tmp_path, Shelf) as (_, peer, _host):
        stored = Stored()
        wanted = [False, True, False, False, False, True, False, True, True, True]
        assert await act(peer, stored, conditions) == [wanted, wanted]
        assert stored.maps == {"": {"k": json("6")}, "m": {"k": json("6")}}


@asynchronous
async def test_a_condition_goes_behind_gathered_writes_and_takes_none_with_it(tmp_path: Path) -> None:
    async def body(state: kar.ActorState) -> list[bool]:
        state.set("before", 1)
        refused = await state.compare_and_set("before", 2, 3)
        state.sub_map("m").set("between", 1)
        return [refused, await state.sub_map("m").compare_and_set("between", 1, 2)]

    async with hosting(tmp_path, Shelf) as (_, peer, _host):
        stored = Stored()
        assert await act(peer, stored, body) == [False, True]
        applied = [list(r.actor_state_apply.changes) for r in stored.asked]
        kinds = [[change.WhichOneof("change") for change in one] for one in applied]
        assert kinds == [["set"], ["require", "set"], ["set_in_sub_map"], ["require", "set_in_sub_map"]]
        assert stored.maps == {"": {"before": json("1")}, "m": {"between": json("2")}}


@asynchronous
async def test_a_refused_write_is_told_instead_of_what_a_condition_came_to(tmp_path: Path) -> None:
    async def body(state: kar.ActorState) -> str:
        state.set("k", "too long")
        try:
            return f"the condition came to {await state.compare_and_set('k', 'too long', 1)}"
        except kar.LimitReached:
            raise kar.ApplicationError("told", "there and then") from None

    async with hosting(tmp_path, Shelf) as (_, peer, _host):
        Shelf.body = body
        await peer.invoke("t", "act", actor=("Shelf", "s"))
        write, condition = [await peer.request("actor_state_apply") for _ in range(2)]
        await peer.refuse(write, grpc.StatusCode.RESOURCE_EXHAUSTED, "LIMIT_REACHED")
        await peer.refuse(condition, grpc.StatusCode.ABORTED, "CONDITION_FAILED")
        assert (await peer.outcome()).error.code == "told"


@asynchronous
async def test_what_is_no_failed_condition_is_an_error(tmp_path: Path) -> None:
    seen: list[Exception] = []

    async def body(state: kar.ActorState) -> bool:
        try:
            await state.compare_and_set("k", None, 1)
        except kar.KarError as error:
            seen.append(error)
        return await state.compare_and_set("k", None, 2)

    async with hosting(tmp_path, Shelf) as (_, peer, _host):
        Shelf.body = body
        await peer.invoke("t", "look", actor=("Shelf", "s"))
        request = await peer.request("actor_state_apply")
        await peer.refuse(request, grpc.StatusCode.RESOURCE_EXHAUSTED, "LIMIT_REACHED")
        # It was asked for by itself, so the turn may go on.
        request = await peer.request("actor_state_apply")
        assert isinstance(seen[0], kar.LimitReached)
        await peer.refuse(request, grpc.StatusCode.PERMISSION_DENIED, "SHARED_TURN")
        assert "SHARED_TURN" in (await peer.outcome()).error.message


@asynchronous
async def test_a_turn_that_is_superseded_at_a_condition_stops(tmp_path: Path) -> None:
    async def body(state: kar.ActorState) -> bool:
        return await state.sub_map("m").compare_and_set("k", None, 1)

    async with hosting(tmp_path, Shelf) as (_, peer, _host):
        Shelf.body = body
        await peer.invoke("t", "act", actor=("Shelf", "s"))
        request = await peer.request("actor_state_apply")
        await peer.refuse(request, grpc.StatusCode.ABORTED, "TURN_SUPERSEDED")
        assert (await peer.outcome()).HasField("cancelled")


@asynchronous
async def test_names_and_keys_that_cannot_be_are_refused(tmp_path: Path) -> None:
    async def refused(field: str, ask: Callable[..., Any], *arguments: Any) -> None:
        with pytest.raises(kar.Rejected) as caught:
            asked = ask(*arguments)
            if asyncio.iscoroutine(asked):
                await asked
        assert (caught.value.reason, caught.value.metadata) == ("INVALID_FIELD", {"field": field})

    wrong = ("", "é" * 257, "a\0b")

    async def body(state: kar.ActorState) -> None:
        sub_map = state.sub_map("é" * 256)
        for text in wrong:
            await refused("sub_map", state.sub_map, text)
            for where in (state, sub_map):
                await refused("key", where.get, text)
                await refused("key", where.contains, text)
                await refused("key", where.set, text, 1)
                await refused("key", where.remove, text)
                await refused("key", where.compare_and_set, text, None, 1)

    async with hosting(tmp_path, Shelf) as (_, peer, host):
        stored = Stored()
        await act(peer, stored, body)
        assert stored.asked == [], "nothing was sent"
        for text in wrong:
            await refused("sub_map", host.client.actor("Shelf", "s").committed_sub_map, text)


@asynchronous
async def test_what_is_committed_is_read_from_outside_turns(tmp_path: Path) -> None:
    stored = Stored(page_max=2)
    stored.maps = {"": {"a": json("0")}, "m": {key: json(f'"{key}"') for key in "abc"}}

    async def read(client: kar.Client) -> list[Any]:
        actor = client.actor("Shelf", "s")
        sub_map = actor.committed_sub_map("m")
        return [
            await actor.committed("a", int),
            {key: payload.decode() for key, payload in (await actor.committed_state()).items()},
            await sub_map.get("b", str),
            await sub_map.get("d", str, "none"),
            sorted(await sub_map.get_many("ad")),
            await sub_map.contains("c"),
            await sub_map.size(),
            [key async for key, _ in sub_map.entries()],
            (await sub_map.page(1)).next,
        ]

    async with connected(tmp_path) as (fake, peer, client):
        reading = asyncio.create_task(read(client))
        for _ in range(10):
            asked = await peer.frame()
            # It is asked once more on the next stream, because reading twice does no harm.
            peer.end()
            peer = await fake.accept()
            again = (await peer.frame()).request
            assert fields_of(again) == fields_of(asked.request)
            await peer.answer(again, **stored.answer(again))
        assert await reading == [0, {"a": 0}, "b", "none", ["a"], True, 3, ["a", "b", "c"], "a"]
        for fields in map(fields_of, stored.asked):
            assert (fields.turn_token, fields.actor.type, fields.actor.id) == ("", "Shelf", "s")
