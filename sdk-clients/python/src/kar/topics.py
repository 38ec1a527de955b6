"""Topics: creating them, publishing to them, following them (`kar.consumer`)."""

from __future__ import annotations

import uuid
from collections.abc import AsyncGenerator, Coroutine, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any, Literal

from kar import limits
from kar._session import Outgoing, request
from kar._turn import Turn, current
from kar.consumer import Consumer
from kar.events import EventFilter, NewEvent, Published
from kar.v1 import component_pb2 as v1
from kar.v1 import event_pb2

if TYPE_CHECKING:
    from kar._connection import Connection


@dataclass(frozen=True, slots=True)
class TopicSettings:
    """A topic as it was created."""

    name: str
    id: str
    """Never given again: a topic that is created anew under its name is another one."""
    partitions: int
    retention_time: timedelta | None
    """Events are kept for so long at least; `None`: for ever."""
    retention_bytes: int
    """The newest events of a partition are kept as long as they take no more bytes; 0: any number."""
    create_time: datetime

    @classmethod
    def read(cls, source: event_pb2.Topic) -> TopicSettings:
        """From the wire."""
        kept = source.retention_time
        return cls(
            name=source.name,
            id=source.id,
            partitions=source.partitions,
            retention_time=kept.ToTimedelta() if source.HasField("retention_time") else None,
            retention_bytes=source.retention_bytes,
            create_time=source.create_time.ToDatetime(timezone.utc),
        )


@dataclass(frozen=True, slots=True)
class TopicPartition:
    """What is in a partition of a topic."""

    start: int
    """Offset of the first event that is kept, or that the next one will have if there is none."""
    end: int
    """Offset that the next event will have."""
    bytes: int
    """What its events take."""


@dataclass(frozen=True, slots=True)
class TopicConsumer:
    """A consumer with a name."""

    application: str
    name: str
    lag: int
    """Events that it has not acknowledged, those included that its filter passes over."""
    offsets: tuple[int, ...]
    """By partition: everything below this offset is done with."""


@dataclass(frozen=True, slots=True)
class TopicDescription:
    """A topic with what is in it."""

    topic: TopicSettings
    partitions: tuple[TopicPartition, ...]
    """By number."""
    consumers: tuple[TopicConsumer, ...]
    """Those with a name that have ever consumed it, of all applications."""

    @classmethod
    def read(cls, source: event_pb2.TopicDescription) -> TopicDescription:
        """From the wire."""
        return cls(
            TopicSettings.read(source.topic),
            tuple(TopicPartition(one.start, one.end, one.bytes) for one in source.partitions),
            tuple(
                TopicConsumer(one.application, one.name, one.lag, tuple(one.offsets))
                for one in source.consumers
            ),
        )


class Topic:
    """A topic, by its name. All applications of a hub use the same topics."""

    __slots__ = ("_connection", "name")

    def __init__(self, connection: Connection, name: str) -> None:
        self._connection, self.name = connection, name

    # === the topic itself: never part of a turn ===

    async def create(
        self,
        *,
        partitions: int = 0,
        retention_time: timedelta | None = None,
        retention_bytes: int = 0,
        keep_forever: bool = False,
    ) -> TopicSettings:
        """Creates the topic, unless there is one like it; returns when that is durable. `partitions`: 1 to 256, 4 if
        not said. Events are kept for `retention_time` at least (7 days), and the newest of each partition up to
        `retention_bytes` (1 GiB); with `keep_forever` a bound that is not said does not apply.

        `TopicExists` if there is one of the name with other settings; `LimitReached` if there are too many."""
        outgoing = request("create_topic")
        fields = outgoing.request.create_topic
        fields.topic, fields.partitions = self.name, partitions
        fields.retention_bytes, fields.keep_forever = retention_bytes, keep_forever
        if retention_time is not None:
            fields.retention_time.FromTimedelta(retention_time)
        response = await self._connection.request(outgoing)
        return TopicSettings.read(response.create_topic.topic)

    async def delete(self, *, id: str = "") -> bool:
        """Deletes the topic with its events and the positions of its consumers, for good; with `id` only the one that
        has this id. Returns whether it existed, when it is durable."""
        outgoing = request("delete_topic")
        fields = outgoing.request.delete_topic
        fields.topic, fields.id = self.name, id
        return (await self._connection.request(outgoing)).delete_topic.existed

    async def describe(self) -> TopicDescription:
        """What there is of it. `UnknownTopic` if there is none."""
        outgoing = request("describe_topic")
        outgoing.request.describe_topic.topic = self.name
        response = await self._connection.request(outgoing)
        return TopicDescription.read(response.describe_topic.topic)

    async def forget(self, consumer: str) -> bool:
        """Forgets a consumer of the application with its position: whoever consumes under its name gets
        `ConsumerTakenOver`. Returns whether there was one. `UnknownTopic` if there is no topic."""
        outgoing = request("delete_consumer")
        fields = outgoing.request.delete_consumer
        fields.topic, fields.consumer = self.name, consumer
        return (await self._connection.request(outgoing)).delete_consumer.existed

    # === publishing ===

    def publish(self, event: NewEvent) -> Coroutine[Any, Any, Published]:
        """Publishes an event. Outside turns it returns when the event is durable, and survives the loss of the
        connection. In a turn it returns at once: the event is published, once, when the turn's segment is durable,
        or not at all.

        `UnknownTopic` if there is no topic; `Rejected` with reason `INVALID_FIELD` if it is no CloudEvent;
        `LimitReached` if it is too large, or the turn has published too much; `OutcomeUnknown` if it was sent so long
        ago that nobody remembers."""
        # As with calls the turn is the one in which this is called, whoever awaits it.
        turn = self._turn()
        outgoing = request("publish")
        self._fill(outgoing.request.publish, event, turn)

        async def send() -> Published:
            return Published.read((await self._send(outgoing, turn)).publish)

        return send()

    def publish_batch(self, events: Iterable[NewEvent]) -> Coroutine[Any, Any, list[Published]]:
        """Publishes several events; outside turns it returns when all are durable, in a turn as `publish`. All are
        checked before any is published. Those of one key are there in this order.

        As `publish`; when the outcome is unknown some may have been published."""
        turn = self._turn()
        outgoing = request("publish_batch")
        for event in events:
            self._fill(outgoing.request.publish_batch.events.add(), event, turn)

        async def send() -> list[Published]:
            answer = (await self._send(outgoing, turn)).publish_batch
            return [Published.read(one) for one in answer.events]

        return send()

    def _fill(self, fields: event_pb2.PublishRequest, event: NewEvent, turn: Turn | None) -> None:
        event.write(fields)
        fields.topic = self.name
        if turn is not None:
            fields.turn_token = turn.request_token
            return
        # The connection's own retries need a name for the request, and tell the same id of the event.
        fields.request_id = fields.request_id or str(uuid.uuid4())
        fields.event.id = fields.event.id or str(uuid.uuid4())

    def _turn(self) -> Turn | None:
        turn = current.get()
        ours = turn is not None and turn.connection is self._connection
        # A direct invocation belongs to no log, so nothing can be part of it.
        return turn if ours and turn is not None and not turn.is_direct else None

    async def _send(self, outgoing: Outgoing, turn: Turn | None) -> v1.Response:
        if turn is None:
            return await self._connection.request(outgoing)
        return await turn.request(outgoing)

    # === following ===

    def consume(
        self,
        name: str = "",
        *,
        start: Literal["earliest", "latest"] | datetime | list[str] = "earliest",
        filter: EventFilter | None = None,
        ahead: int = limits.CONSUMER_EVENTS_AHEAD,
    ) -> Consumer:
        """Follows the topic: `async with topic.consume("audit") as events: async for received in events: …`. See
        `Consumer`.

        `name`: under it the application remembers how far the consumer has come. `start`: where it begins unless it
        is remembered, a time for the first event that was published then or later, or positions
        (`PARTITION/OFFSET`, one for each partition; the others begin with the earliest event). `filter`: only these
        events; others are done with. `ahead`: so many events, at least 1, may come before they are asked for."""
        connection = self._connection
        first = event_pb2.ConsumeRequest(topic=self.name, consumer=name, confirm=bool(name))
        match start:
            case "earliest":
                first.start.earliest = True
            case "latest":
                first.start.latest = True
            case datetime():
                first.start.time.FromDatetime(start.astimezone(timezone.utc))
            case list():
                first.start.positions.positions.extend(start)
            case _:
                raise ValueError(f"start={start!r}: 'earliest', 'latest', a datetime, or positions")
        if filter is not None:
            filter.write(first.filter)
        return Consumer(connection.dialer, connection.settings.reconnect_timeout, first, ahead)

    def __repr__(self) -> str:
        return f"<Topic {self.name}>"


async def every_topic(connection: Connection, page_size: int) -> AsyncGenerator[TopicDescription, None]:
    """All topics, by name, page by page."""
    token = ""
    while True:
        outgoing = request("list_topics")
        fields = outgoing.request.list_topics
        fields.page_size, fields.page_token = page_size, token
        answer = (await connection.request(outgoing)).list_topics
        for one in answer.topics:
            yield TopicDescription.read(one)
        token = answer.next_page_token
        if not token:
            return
