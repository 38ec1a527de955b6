"""A link of a chain of nested calls over several languages: hosts the actor type `ChainPython`.
What it has to do stands in sdk-clients/README.md; `cargo xtask test` kills it while it does.

    kar run --app chain --actors ChainPython -- python sdk-clients/python/conformance/chain.py
"""

import asyncio
import contextlib
import itertools
import logging
import os
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import TypeVar

import kar

TICK_S = 0.005
"""How often running code shows in the journal that it runs."""

ATTEMPTS = itertools.count()

T = TypeVar("T")


@dataclass
class Order:
    chain: int
    at: int
    path: list[list[str]]
    trail: list[str]
    milliseconds: int


@dataclass
class Hold:
    gate: str
    next: list[str]


class Chain(kar.Actor, name="ChainPython"):
    @kar.method
    async def hold(self, order: Hold) -> dict[str, str]:
        """Waits for a file, and then for another actor; tells why the sidecar refused that."""
        while order.gate and not os.path.exists(order.gate):
            await asyncio.sleep(TICK_S)
        refused = {"reason": "", "cycle": ""}
        if order.next:
            kind, id = order.next
            try:
                await self.turn.actor(kind, id).call("hold", Hold("", []), dict[str, str])
            except kar.KarError as error:
                refused = {"reason": error.reason, "cycle": error.metadata.get("cycle", "")}
        return refused

    @kar.method
    async def link(self, order: Order) -> list[str]:
        """Draws a value, passes the trail on, and counts in its last segment."""
        key, attempt = f"{order.chain}@{order.at}", f"{os.getpid()}-{next(ATTEMPTS)}"

        def write(what: str) -> None:
            note(what, key, attempt, self.turn.attempt)

        async def draw() -> str:
            return attempt

        write("start")
        own = await self.turn.once("value", draw, str)
        await ticking(write, lambda: asyncio.sleep(order.milliseconds / 1000))
        trail = [*order.trail, own]
        if order.at + 1 < len(order.path):
            kind, id = order.path[order.at + 1]
            following = self.turn.actor(kind, id, step_key="next")
            further = replace(order, at=order.at + 1, trail=trail)
            trail = await ticking(write, lambda: following.call("link", further, list[str]))
        if trail[order.at] != own:
            text = f"{key}: drew {own}, and the trail says {trail}"
            raise kar.ApplicationError("Torn", text)
        self.state.set(key, await self.state.get(key, int, 0) + 1)
        write("end")
        return trail


async def ticking(write: Callable[[str], None], work: Callable[[], Awaitable[T]]) -> T:
    """Waits for something, visibly."""

    async def tick() -> None:
        while True:
            await asyncio.sleep(TICK_S)
            write("tick")

    ticker = asyncio.create_task(tick())
    try:
        return await work()
    finally:
        ticker.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await ticker


def note(what: str, key: str, attempt: str, number: int) -> None:
    path = os.environ.get("KAR_TEST_JOURNAL")
    if path:
        line = f"{what} {key} {attempt} {number} {time.time_ns()}\n"
        # One write in append mode: lines of several processes do not mix.
        with open(path, "ab", buffering=0) as journal:
            journal.write(line.encode())


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    kar.run(Chain)
