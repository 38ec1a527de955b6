"""Hosting services and actors."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys

from kar import limits
from kar._connection import Connection
from kar._table import Table
from kar._transport import Settings
from kar.client import Client
from kar.errors import ConnectError, HostError
from kar.hosting import Hosted

log = logging.getLogger("kar")

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Host:
    """A component that hosts services and actors: `await kar.Host(Greeter(), Account).serve()`.

    It is given objects, or classes that can be made without arguments; each call runs on a shallow
    copy. `concurrency`: greatest number of root turns at once, 1,000 if 0; turns that wait for a
    call do not count. `strict`: code runs only for what is committed; costs latency.
    `invocation_credits`: root turns that may be under way to this process without having ended, also
    those that wait for a call; 0 means no bound but `concurrency`. Where the sidecar is, as in
    `connect`.
    """

    def __init__(
        self,
        *things: Hosted | type[Hosted],
        concurrency: int = 0,
        strict: bool = False,
        invocation_credits: int = 0,
        socket: str | os.PathLike[str] | None = None,
        port: int | None = None,
        api_token: str | None = None,
        connect_timeout: float = limits.CONNECT_TIMEOUT,
        reconnect_timeout: float = limits.RECONNECT_TIMEOUT,
        drain_timeout: float = limits.DRAIN_TIMEOUT,
        requests_max: int = limits.CLIENT_REQUESTS_MAX,
    ) -> None:
        self._table = Table(things)
        self._hello = self._table.hello()
        self._hello.concurrency = concurrency
        self._hello.strict = strict
        self._hello.invocation_credits = invocation_credits
        self._settings = Settings(
            socket=socket,
            port=port,
            api_token=api_token,
            connect_timeout=connect_timeout,
            reconnect_timeout=reconnect_timeout,
            drain_timeout=drain_timeout,
            requests_max=requests_max,
        )
        self._connection: Connection | None = None

    async def start(self) -> None:
        """Registers at the sidecar and returns; calls come from now on. Raises `ConnectError`."""
        connection = Connection(self._settings, self._hello, self._table)
        await connection.open()
        self._connection = connection

    @property
    def client(self) -> Client:
        """A client on the same connection, for what the component asks outside turns."""
        return Client(self._started(), owns=False)

    def shutdown(self) -> None:
        """Says goodbye to the sidecar: no new root turns come, running ones are finished, everything
        is handed over, and then the host ends; after the drain timeout it ends in any case."""
        self._started().leave()

    async def abort(self) -> None:
        """Ends at once: turns are cancelled, and run again elsewhere."""
        await self._started().abort()

    async def wait(self) -> None:
        """Waits until the host has left. Raises `HostError` if the sidecar went away for good."""
        lost = await self._started().ended()
        if lost is not None:
            raise HostError(f"the sidecar went away for good: {lost}")

    async def serve(self) -> None:
        """Hosts until SIGTERM or SIGINT asks to leave; a second one ends it at once. It is started, unless it has
        been already: `await host.start()`, then what needs its client, then `await host.serve()`."""
        loop = asyncio.get_running_loop()
        asked = asyncio.Event()
        for number in _SIGNALS:
            loop.add_signal_handler(number, asked.set)
        try:
            if self._connection is None and not await self._started_before(asked):
                return
            waiting = asyncio.create_task(self.wait())
            if await _first(waiting, asked):
                log.info("leaving: finishing turns and handing over")
                self.shutdown()
                asked.clear()
                if await _first(waiting, asked):
                    log.warning("asked to leave once more: ending at once")
                    await self.abort()
            await waiting
        except asyncio.CancelledError:
            # Nobody waits for the host any more, so nothing of it is left behind.
            if self._connection is not None:
                await self.abort()
            raise
        finally:
            for number in _SIGNALS:
                loop.remove_signal_handler(number)

    async def _started_before(self, asked: asyncio.Event) -> bool:
        """Starts, unless it is asked to leave before it has connected."""
        starting = asyncio.create_task(self.start())
        try:
            if await _first(starting, asked):
                return False
            await starting
            return True
        finally:
            if not starting.done():
                starting.cancel()
                await asyncio.gather(starting, return_exceptions=True)

    def _started(self) -> Connection:
        if self._connection is None:
            raise HostError("the host has not been started")
        return self._connection


async def _first(waiting: asyncio.Task[None], asked: asyncio.Event) -> bool:
    """Waits for either; tells whether it is the event."""
    asking = asyncio.create_task(asked.wait())
    try:
        await asyncio.wait([waiting, asking], return_when=asyncio.FIRST_COMPLETED)
        return not waiting.done()
    finally:
        asking.cancel()


def run(*things: Hosted | type[Hosted], concurrency: int = 0, strict: bool = False) -> None:
    """Hosts until a signal asks to leave: `kar.run(Greeter())` is a whole program. If it cannot, or
    not any more, it says so in one line and exits with 1."""
    try:
        asyncio.run(Host(*things, concurrency=concurrency, strict=strict).serve())
    except (ConnectError, HostError) as error:
        sys.exit(f"error: {error}")
