"""How cases look at what they see."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

E = TypeVar("E", bound=Exception)
T = TypeVar("T")


async def fails(error: type[E], what: Awaitable[Any]) -> E:
    """The error that something raises."""
    try:
        await what
    except error as raised:
        return raised
    raise AssertionError(f"no {error.__name__}")


async def until(what: str, look: Callable[[], Awaitable[T | None]]) -> T:
    """Looks until there is something; the case's limit is its bound."""
    while True:
        found = await look()
        if found is not None:
            return found
        await asyncio.sleep(0.01)
