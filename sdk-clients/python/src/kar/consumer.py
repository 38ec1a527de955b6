"""Following a topic (`Consumer`)."""

from __future__ import annotations

import asyncio
import logging
import random
from datetime import timezone
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio

from kar import codec, limits
from kar._status import error_of_rpc, may_pass
from kar._transport import BROKEN, Dialer
from kar._window import Received, Window
from kar.errors import (
    Closed,
    Error,
    KarError,
    OutcomeUnknown,
    ProtocolError,
    Unavailable,
    UnknownTopic,
)
from kar.events import Event
from kar.v1 import event_pb2

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Self

__all__ = ["Consumer", "Received"]

log = logging.getLogger("kar")


class Consumer:
    """Follows a topic, on a connection of its own, which is made again when it breaks. Made by `Topic.consume`:

        async with client.topic("orders").consume("audit") as events:
            async for received in events:
                book(received.event.data.decode(Order))
                events.acknowledge(received)

    From its opening on every event is given that is published, by partition in order, each once. With a name it is
    remembered how far it has come: in another process it goes on with what is not acknowledged, and nothing that was
    acknowledged durably comes again. There is one consumer of a name at a time: a later one takes over, and this one
    ends with `ConsumerTakenOver`. The sidecar gives no more than `consume-unacknowledged-max` (1,000) events that are
    not acknowledged.

    Without a name nothing is remembered. It goes on behind the last event that has come, for as long as it lives.

    Opening and iterating raise `UnknownTopic`, also if the topic is deleted meanwhile; `LimitReached` if as many
    follow topics as may; `Rejected` with reason `INVALID_FIELD`; `Unavailable` or `OutcomeUnknown` if the sidecar
    cannot be reached for as long as the client's `reconnect_timeout`. It is over then.
    """

    def __init__(
        self, dialer: Dialer, patience: float, first: event_pb2.ConsumeRequest, ahead: int
    ) -> None:
        if ahead < 1:
            raise ValueError(f"ahead={ahead}: at least 1 event must have room")
        self._dialer, self._patience, self._first = dialer, patience, first
        self._window = Window(ahead, is_named=bool(first.consumer))
        self._topic_id: str | None = None
        self._task: asyncio.Task[None] | None = None
        self._is_streaming = self._has_begun = False
        self._over: BaseException | None = None
        self._is_closed = False
        self._news, self._wake = asyncio.Event(), asyncio.Event()
        self.skipped = 0
        """Events that the topic let go, because of its retention, before this consumer had them."""

    # === what programs do ===

    async def open(self) -> None:
        """Begins, as `async with` does: every event that is published from now on is given, whatever the start is."""
        if self._task is not None or self._is_closed:
            raise Error("a consumer is opened once")
        self._task = asyncio.create_task(self._run(), name="kar consumer")
        self._task.add_done_callback(self._ended)
        try:
            await self._until(lambda: self._has_begun)
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Ends, as `async with` does. What was acknowledged is made durable, if that takes no longer than a second;
        else it may come again."""
        if not self._is_closed and self._task is not None and not self._task.done():
            try:
                async with asyncio.timeout(limits.CLOSE_TIMEOUT):
                    await self.flush()
            except (TimeoutError, KarError) as error:
                log.warning("acknowledged events may come again: %s", error or "no answer in time")
        self._is_closed = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        self._news.set()

    def acknowledge(self, *received: Received) -> None:
        """Says of events that they are done with, in any order: they do not come again. It is on its way then, and
        sent again if the connection breaks; see `flush`. For consumers with a name."""
        if not self._first.consumer:
            raise ValueError("only a consumer with a name is remembered: consume(NAME)")
        if self._is_closed:
            raise Closed("the consumer was closed")
        for one in received:
            self._window.acknowledge(one.position)
        self._wake.set()

    async def flush(self) -> None:
        """Waits until everything that was acknowledged so far is durable: after that it never comes again."""
        unsure = self._window.unsure()
        await self._until(lambda: self._window.is_durable(unsure))

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Received:
        while not self._is_closed:
            # One with a name that is over cannot acknowledge what has come, which goes to others.
            if self._over is None or not self._first.consumer:
                received = self._window.take()
                if received is not None:
                    self._wake.set()
                    return received
            await self._something_new()
        raise StopAsyncIteration

    async def _until(self, holds: Callable[[], bool]) -> None:
        while not holds():
            if self._is_closed:
                raise Closed("the consumer was closed")
            await self._something_new()

    async def _something_new(self) -> None:
        if self._is_closed:
            return
        if self._task is None:
            raise Closed("the consumer is not open yet: async with topic.consume(…) as events")
        if self._over is not None:
            raise self._over
        self._news.clear()
        await self._news.wait()

    # === the task ===

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and task.exception() is not None:
            self._over = task.exception()
        self._news.set()

    async def _run(self) -> None:
        """Runs one stream after the other, until it is not worth trying any more."""
        loop = asyncio.get_running_loop()
        lost, pause = None, limits.BACKOFF_MIN
        while True:
            error: KarError = Unavailable("the sidecar has ended the stream")
            self._is_streaming = False
            try:
                async with self._dialer.consuming() as call:
                    await self._run_one(call)
            except grpc.aio.AioRpcError as raised:
                error = error_of_rpc(raised)
            except TimeoutError:
                error = Unavailable("the sidecar does not answer")
            if self._is_streaming:
                lost, pause = None, limits.BACKOFF_MIN
            now = loop.time()
            lost = now if lost is None else lost
            if not may_pass(error) or now - lost + pause >= self._patience:
                raise error
            log.debug("a consumer's stream is opened again: %s", error)
            await asyncio.sleep(pause * (0.5 + random.random() / 2))
            pause = min(pause * 2, limits.BACKOFF_MAX)

    async def _run_one(self, call: Any) -> None:
        """Runs one stream to its end."""
        async with asyncio.timeout(self._patience):
            opened = await self._greet(call)
        if opened is grpc.aio.EOF:
            return
        if not opened.HasField("opened"):
            raise ProtocolError("the first answer to a consumer does not say that it has begun")
        self._check_topic(opened.opened.topic_id)
        self._window.opened(opened.opened.positions)
        self._is_streaming = self._has_begun = True
        self._news.set()
        writer = asyncio.create_task(self._write(call))
        try:
            while (answer := await call.read()) is not grpc.aio.EOF:
                self._take(answer)
                self._news.set()
                self._wake.set()
        finally:
            writer.cancel()
            await asyncio.gather(writer, return_exceptions=True)

    def _check_topic(self, topic_id: str) -> None:
        """A topic that is created anew under the name is another one: its positions are none of this one's."""
        if self._topic_id is not None and topic_id != self._topic_id:
            topic = self._first.topic
            text = f"topic '{topic}' was deleted, and another one created under its name"
            status = grpc.StatusCode.NOT_FOUND.value[0]
            raise UnknownTopic(text, reason="UNKNOWN_TOPIC", status=status, metadata={"topic": topic})
        self._topic_id = topic_id

    async def _greet(self, call: Any) -> Any:
        first = event_pb2.ConsumeRequest()
        first.CopyFrom(self._first)
        first.credits, positions = self._window.begin()
        if positions:
            first.start.positions.positions[:] = positions
        try:
            await call.write(first)
        except BROKEN:
            pass  # Reading tells why.
        return await call.read()

    async def _write(self, call: Any) -> None:
        try:
            while True:
                said = self._window.outgoing()
                if said is not None:
                    await call.write(said)
                else:
                    self._wake.clear()
                    await self._wake.wait()
        except BROKEN:
            pass  # The stream is over; the reader learns why.

    def _take(self, answer: event_pb2.ConsumeResponse) -> None:
        if answer.HasField("skipped"):
            skipped = answer.skipped
            self.skipped += skipped.count
            log.warning(
                "%d events of topic %s were let go before this consumer had them: partition %d from offset %d on",
                skipped.count, self._first.topic, skipped.partition, skipped.first,
            )
        if answer.acknowledged:
            self._window.confirmed(answer.acknowledged)
        if answer.HasField("event"):
            event = Event.read(answer.event, codec.read(answer.event.data))
            published = answer.publish_time.ToDatetime(timezone.utc)
            self._window.came(Received(event, answer.position, published))
