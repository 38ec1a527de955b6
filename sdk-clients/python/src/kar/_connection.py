"""Keeps a component connected: opens streams, runs them one after the other, and backs off in
between."""

from __future__ import annotations

import asyncio
import logging
import random
from collections import deque
from typing import TYPE_CHECKING

import grpc

from kar import limits
from kar._session import Outgoing, Session, clear_given_up
from kar._transport import Dialer, Settings, Wire
from kar._turn import Turn
from kar.errors import Closed, ConnectError, LimitReached, Refused, Unreachable
from kar.v1 import component_pb2 as v1

if TYPE_CHECKING:
    from kar._table import Table

log = logging.getLogger("kar")

_FINAL = frozenset(
    code.value[0]
    for code in (
        grpc.StatusCode.UNAUTHENTICATED,
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.UNIMPLEMENTED,
    )
)
"""Refusals that another attempt would meet too."""

_ALREADY_EXISTS = grpc.StatusCode.ALREADY_EXISTS.value[0]


class Connection:
    """A component's connection to its sidecar, over any number of streams."""

    def __init__(self, settings: Settings, hello: v1.Hello, table: Table | None = None) -> None:
        self.settings, self._hello, self._table = settings, hello, table
        self._dialer: Dialer = settings.dialer()
        self.hosts = bool(hello.services or hello.actor_types)
        self.roots: deque[Outgoing] = deque()
        """Requests outside turns that wait for credits or for a stream."""
        self._roots_count = self._given_up = 0
        self._session: Session | None = None
        self._welcome = v1.Welcome()
        self._closed = "not connected yet"
        self.is_leaving = self.is_aborted = False
        self._leave = asyncio.Event()
        self._turns_stopped = asyncio.Event()
        self._task: asyncio.Task[str | None] | None = None

    async def open(self) -> None:
        """Connects for the first time, and keeps connected from then on."""
        wire = await self._dial(self.settings.connect_timeout, limits.PREDECESSOR_TIMEOUT)
        self._welcome, self._closed = wire.welcome, ""
        self._task = asyncio.create_task(self._run(wire), name="kar connection")
        self._task.add_done_callback(lambda _: self._over(wire))
        # From now on requests are taken, also before the task has begun.
        self._session = Session(self, wire)

    @property
    def welcome(self) -> v1.Welcome:
        """How the sidecar welcomed this component last."""
        return self._welcome

    @property
    def dialer(self) -> Dialer:
        """The sidecar, for what does not go through the stream."""
        return self._dialer

    async def request(self, outgoing: Outgoing) -> v1.Response:
        """Makes a request outside turns."""
        if self._closed:
            raise Closed(self._closed)
        if self._roots_count >= self.settings.requests_max:
            raise LimitReached.of("client-requests", self.settings.requests_max)
        self._roots_count += 1
        try:
            if self._session is None:
                self.roots.append(outgoing)
            else:
                self._session.submit(outgoing)
            return await outgoing.reply
        finally:
            self._roots_count -= 1
            if outgoing.reply.cancelled():
                self._given_up = clear_given_up(self.roots, self._given_up)
                if self._session is not None:
                    self._session.given_up(outgoing)
            if self.is_leaving and self._session is not None:
                self._session.request_done()

    def start_turn(self, session: Session, invocation: v1.InvocationFrame) -> Turn:
        """Runs a turn in a task of its own."""
        return Turn(self, session, self._table, invocation)

    def turn_stopped(self) -> None:
        """A turn of a stream that is over has stopped."""
        self._turns_stopped.set()

    def leave(self) -> None:
        """Leaves in order."""
        if not self.is_leaving:
            self.is_leaving = True
            self._leave.set()
            if self._session is not None:
                self._session.leave()

    async def abort(self) -> None:
        """Leaves at once: turns are cancelled, nothing is waited for."""
        self.is_leaving = self.is_aborted = True
        if self._task is not None:
            self._task.cancel()
        await self.ended()

    async def ended(self) -> str | None:
        """Waits until the connection has ended; returns why if it was given up."""
        if self._task is None:
            return None
        await asyncio.wait([self._task])
        return None if self._task.cancelled() else self._task.result()

    # === the task ===

    async def _run(self, wire: Wire) -> str | None:
        try:
            while True:
                reason = await self._run_one(wire)
                if reason is None or self.is_leaving:
                    return None
                log.warning("lost the sidecar, connecting again: %s", reason)
                again = await self._redial()
                if again is None:
                    return None
                wire, self._welcome = again, again.welcome
                log.info("connected again")
        except ConnectError as error:
            self._closed = str(error)
            return self._closed

    def _over(self, first: Wire) -> None:
        """The task has ended: in a callback, because one that is cancelled before its first step never enters its
        code."""
        self._closed = self._closed or "the connection was shut down"
        if self._session is not None:
            self._session.is_over = True
            self._session.give_up(self._closed)
            self._session = None
            first.cancel()
        while self.roots:
            self.roots.popleft().fail(Closed(self._closed))

    async def _run_one(self, wire: Wire) -> str | None:
        """Runs one stream to its end, also where this task is cancelled."""
        session = self._session
        if session is None:
            session = self._session = Session(self, wire)
        reason: str | None = None
        try:
            reason = await session.run()
        finally:
            self._session = None
            await self._wind_up(session, wire, reason or "the connection was shut down")
        return reason

    async def _wind_up(self, session: Session, wire: Wire, reason: str) -> None:
        """After this nothing of the stream runs any more, unless it does not let itself be stopped."""
        session.give_up(reason)
        await wire.close()
        try:
            async with asyncio.timeout(limits.ABORT_TIMEOUT):
                while session.turns:
                    self._turns_stopped.clear()
                    await self._turns_stopped.wait()
        except TimeoutError:
            log.warning("%d turns go on computing after they were cancelled", len(session.turns))

    async def _redial(self) -> Wire | None:
        """Connects again; `None` if there is no need any more."""
        patience = self.settings.reconnect_timeout
        dial = asyncio.ensure_future(self._dial(patience, patience))
        leave = asyncio.ensure_future(self._leave.wait())
        try:
            await asyncio.wait([dial, leave], return_when=asyncio.FIRST_COMPLETED)
            return dial.result() if dial.done() else None
        finally:
            leave.cancel()
            if not dial.done():
                dial.cancel()
                await asyncio.gather(dial, return_exceptions=True)

    async def _dial(self, patience: float, predecessor: float) -> Wire:
        """Tries to connect for as long as `patience` lasts."""
        loop = asyncio.get_running_loop()
        start, pause = loop.time(), limits.BACKOFF_MIN
        while True:
            try:
                async with asyncio.timeout_at(start + patience):
                    return await self._dialer.open(self._hello)
            except TimeoutError as error:
                raise self._dialer.unreachable("no answer in time") from error
            except ConnectError as error:
                spent = loop.time() - start + pause
                if spent >= _patience_for(error, patience, predecessor):
                    raise
                log.debug("cannot connect yet: %s", error)
            # Between a half and the whole, so that many components do not come back at once.
            await asyncio.sleep(pause * (0.5 + random.random() / 2))
            pause = min(pause * 2, limits.BACKOFF_MAX)


def _patience_for(error: ConnectError, patience: float, predecessor: float) -> float:
    """How long it makes sense to try again after an error."""
    if isinstance(error, Unreachable):
        return patience
    if not isinstance(error, Refused) or error.error.status in _FINAL:
        return 0
    # Another component still hosts on that sidecar, maybe one that has just died.
    return min(predecessor, patience) if error.error.status == _ALREADY_EXISTS else patience
