"""Sub-maps and conditions of an actor's state: the case `maps` of `features.py`."""

from __future__ import annotations

import asyncio
from typing import Any

from looking import fails

import kar

KEYS = ["\x01", "B", "a", "a0", "b", "é", "\uffff", "😀"]
"""In byte order."""

MANY = 1_050
"""More entries than a page has."""


class Shelf(kar.Actor):
    """Has books."""

    @kar.method
    async def put(self, keys: list[str]) -> list[Any]:
        books = self.state.sub_map("books")
        for key in keys:
            books.set(key, key * 2)
        books.set("gone", 1)
        books.remove("gone")
        self.state.sub_map("others").set("b", 1)
        listed = [[key, payload.decode(str)] async for key, payload in books.entries(3)]
        seen = await books.get_many(["b", "c", "gone"])
        return [
            listed,
            await books.size(),
            sorted(seen),
            [await books.contains("b"), await books.contains("gone"), await self.state.contains("b")],
        ]

    @kar.method(shared=True)
    async def look(self, page_size: int) -> list[list[str]]:
        books = self.state.sub_map("books")
        pages, after = [], ""
        while True:
            page = await books.page(page_size, after)
            pages.append([key for key, _ in page.entries])
            if not page.next:
                return pages
            after = page.next

    @kar.method
    async def fill(self, count: int) -> int:
        many = self.state.sub_map("many")
        for number in range(count):
            many.set(f"{number:04}", number)
        return await many.size()

    @kar.method
    async def spoil(self) -> None:
        books, self_made = self.state.sub_map("books"), self.state.sub_map("flushed")
        self_made.set("stays", 1)
        await self.turn.flush()
        self_made.set("goes", 1)
        books.clear()
        self.state.sub_map("others").remove("b")
        assert await books.size() == 0 and await self_made.size() == 2
        assert await books.compare_and_set("b", None, "spoiled")
        raise kar.ApplicationError("spoiled", "all of it")

    @kar.method
    async def compare(self, sub_map: str) -> list[bool]:
        where = self.state.sub_map(sub_map) if sub_map else self.state
        where.set("before", {"n": 1})
        seen = [
            await where.compare_and_set("k", 1, 2),
            await where.compare_and_set("k", None, 1),
            await where.compare_and_set("k", None, 2),
            await where.compare_and_set("k", kar.Payload(b"1", "text/plain"), 3),
            await where.compare_and_set("k", 1, 4),
            await where.compare_and_set("before", kar.Payload(b'{"n": 1}', "application/json"), 0),
            await where.compare_and_set("before", {"n": 1}, 5),
        ]
        rivals = (where.compare_and_set("lock", None, number) for number in range(8))
        return [*seen, sum(await asyncio.gather(*rivals)) == 1]

    @kar.method
    async def sweep(self, everything: bool) -> list[int]:
        if everything:
            self.state.clear()
        else:
            self.state.sub_map("books").clear()
        return [await self.state.sub_map(name).size() for name in ("books", "others")]

    @kar.method(shared=True)
    async def scribble(self) -> None:
        self.state.sub_map("books").set("b", "scribbled")

    @kar.method(shared=True)
    async def compares(self) -> bool:
        return await self.state.sub_map("books").compare_and_set("b", None, 1)


async def maps(client: kar.Client) -> None:
    """An actor's sub-maps are written with its turns, and read by pages; keys are set on conditions."""
    shelf, named = client.actor(Shelf, "s"), client.actor("Shelf", "s")
    books, others = named.committed_sub_map("books"), named.committed_sub_map("others")
    assert (await books.size(), await books.page()) == (0, kar.Page([], "")), "there is none"
    listed, size, seen, there = await shelf.put(list(reversed(KEYS)))
    assert listed == [[key, key * 2] for key in KEYS], "in byte order"
    assert (size, seen, there) == (len(KEYS), ["b"], [True, False, False])
    assert await shelf.look(3) == [KEYS[:3], KEYS[3:6], KEYS[6:]]
    assert await shelf.look(0) == [KEYS]

    # From outside turns.
    assert [(key, payload.decode(str)) async for key, payload in books.entries(5)] == [(k, k * 2) for k in KEYS]
    assert await books.get("b", str) == "bb" and await books.get("c", str, "none") == "none"
    assert await books.contains("é") and not await books.contains("gone")
    assert await others.size() == 1
    assert await named.committed_state() == {} and await named.committed("b") is None

    # A page has its bound.
    assert await shelf.fill(MANY) == MANY
    many = named.committed_sub_map("many")
    page = await many.page(2_000)
    assert len(page.entries) == 1_000 and page.next, len(page.entries)
    assert len((await many.page()).entries) == 100
    assert [payload.decode(int) async for _, payload in many.entries()] == list(range(MANY))

    # What fails leaves what it was, and what it had flushed.
    assert (await fails(kar.ApplicationError, shelf.spoil())).code == "spoiled"
    assert await shelf.look(0) == [KEYS] and await books.get("b", str) == "bb" and await others.size() == 1
    assert [key async for key, _ in named.committed_sub_map("flushed").entries()] == ["stays"]
    for refused in (shelf.scribble(), shelf.compares()):
        assert "SHARED_TURN" in str(await fails(kar.ApplicationError, refused))

    wanted = [False, True, False, False, True, False, True, True]
    for name in ("", "compared"):
        assert await shelf.compare(name) == wanted, name
    own = {key: payload.decode() for key, payload in (await named.committed_state()).items()}
    assert own.pop("lock") in range(8) and own == {"k": 4, "before": 5}, own
    assert await named.committed_sub_map("compared").size() == 3

    assert await shelf.sweep(False) == [0, 1]
    assert await books.size() == 0 and await named.committed("k", int) == 4
    assert await shelf.sweep(True) == [0, 0]
    assert await named.committed_state() == {} and await others.size() == await many.size() == 0
    await shelf.put(KEYS)
    await client.remove(Shelf, "s")
    assert await books.size() == 0, "it goes with the actor"
