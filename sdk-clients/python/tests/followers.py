"""A topic's consumers, as a scripted sidecar sees them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
from scripted import json, status

from kar.v1 import event_pb2


class Follower:
    """One stream of a consumer."""

    def __init__(self, requests: AsyncIterator[event_pb2.ConsumeRequest], context: Any) -> None:
        self._requests, self._context = requests, context
        self.metadata = dict(context.invocation_metadata())
        self.first = event_pb2.ConsumeRequest()
        self._heard: asyncio.Queue[event_pb2.ConsumeRequest] = asyncio.Queue()
        loop = asyncio.get_running_loop()
        self._end: asyncio.Future[tuple[grpc.StatusCode, tuple[Any, ...]]] = loop.create_future()
        self._gone = asyncio.Event()

    async def open(self, *positions: str, topic_id: str = "id") -> None:
        """Tells that it has begun."""
        await self.say(opened=event_pb2.ConsumeOpened(topic_id=topic_id, positions=positions))

    async def say(self, **fields: Any) -> None:
        """Says something."""
        await self._context.write(event_pb2.ConsumeResponse(**fields))

    async def give(self, *positions: str) -> None:
        """Gives events, each with its position as its data."""
        for position in positions:
            event = event_pb2.Event(id=position, data=json(f'"{position}"'))
            await self.say(event=event, position=position)

    async def hear(self) -> event_pb2.ConsumeRequest:
        """The next message but the first."""
        return await self._heard.get()

    async def acknowledgements(self, count: int) -> list[str]:
        """The next so many, in as many messages as they come."""
        told: list[str] = []
        while len(told) < count:
            told.extend((await self.hear()).acknowledged)
        return told

    async def credits(self, count: int) -> None:
        """Waits until it has been allowed so many more events, and no more."""
        allowed = 0
        while allowed < count:
            allowed += (await self.hear()).credits
        assert allowed == count

    def end(self, code: grpc.StatusCode, reason: str = "", **metadata: str) -> None:
        """Ends the stream with a status."""
        details = status(code, reason, **metadata).SerializeToString() if reason else b""
        trailers = (("grpc-status-details-bin", details),) if details else ()
        self._end.set_result((code, trailers))

    async def gone(self) -> None:
        """Waits until the consumer has gone."""
        await self._gone.wait()

    async def serve(self) -> None:
        """Goes on until either side ends it."""
        reading = asyncio.create_task(self._read())
        try:
            code, trailers = await self._end
            if code is not grpc.StatusCode.OK:
                await self._context.abort(code, "end", trailers)
        finally:
            reading.cancel()
            self._gone.set()

    async def _read(self) -> None:
        async for request in self._requests:
            self._heard.put_nowait(request)
