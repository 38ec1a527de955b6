"""Events: what is published (`NewEvent`), what has come (`Event`), which are wanted (`EventFilter`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from kar import codec
from kar.v1 import event_pb2

if TYPE_CHECKING:
    from typing import Self

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class NewEvent:
    """An event to be published, a CloudEvent: what is not said is filled in.

    `kar.NewEvent("order.created", order, key="alice", attributes={"country": "ch"})`
    """

    type: str = ""
    """What has happened; `kar.event` if empty."""
    data: Any = None
    """Its data: whatever a payload can be made of."""
    key: str = ""
    """Events with the same key stay in order. It becomes the attribute `partitionkey`."""
    request_id: str = ""
    """Published again with the same id by any process of the application, it is published once. The same key must
    come with it. In a turn it is not needed: what a turn publishes is published once."""
    id: str = ""
    """Unique with the source; a new one if empty."""
    source: str = ""
    """Who publishes, a URI reference; `/APPLICATION/NODE` if empty."""
    subject: str = ""
    """Subject within the source."""
    time: datetime | None = None
    """When it has happened; now if not said. A time without a zone is local time."""
    data_schema: str = ""
    """Schema of the data, a URI."""
    attributes: Mapping[str, str] = field(default_factory=dict)
    """Extension attributes; names are 1 to 20 of `a-z 0-9`."""

    def write(self, target: event_pb2.PublishRequest) -> None:
        """For the wire."""
        event = target.event
        event.type, event.id, event.source = self.type, self.id, self.source
        event.subject, event.data_schema = self.subject, self.data_schema
        if self.time is not None:
            event.time.FromDatetime(self.time.astimezone(timezone.utc))
        codec.write(codec.encode(self.data), event.data)
        event.attributes.update(self.attributes)
        target.partition_key, target.request_id = self.key, self.request_id


@dataclass(frozen=True, slots=True)
class Event(Generic[T]):
    """An event of a topic. What a consumer is given has its data as they are: `received.event.data.decode(Order)`."""

    id: str
    """Unique with the source."""
    source: str
    """Who has published it."""
    type: str
    """What has happened."""
    subject: str
    """Subject within the source; empty: none."""
    time: datetime | None
    """When it has happened."""
    data_schema: str
    """Schema of the data; empty: none."""
    attributes: dict[str, str]
    """Extension attributes."""
    data: T
    """Its data."""

    @staticmethod
    def read(source: event_pb2.Event, data: Any) -> Event[Any]:
        """From the wire, with these data."""
        return Event(
            id=source.id,
            source=source.source,
            type=source.type,
            subject=source.subject,
            time=source.time.ToDatetime(timezone.utc) if source.HasField("time") else None,
            data_schema=source.data_schema,
            attributes=dict(source.attributes),
            data=data,
        )


@dataclass(frozen=True, slots=True)
class Published:
    """What became of an event that was published."""

    id: str
    """Id of the event."""
    position: str
    """Its place, `PARTITION/OFFSET`; empty where a turn has published it: it gets one behind the turn's segment."""
    again: bool
    """An earlier request with the same id had published it."""

    @classmethod
    def read(cls, source: event_pb2.PublishResponse) -> Published:
        """From the wire."""
        return cls(source.event_id, source.position, source.repeated_request)


class EventFilter:
    """Which events are wanted, by their attributes (`type`, `source`, `subject`, …, and extensions), compared as
    text. One that an event does not have matches nothing.

    `kar.EventFilter.prefix(type="order.") & ~kar.EventFilter.exact(country="ch")`
    """

    __slots__ = ("_message",)

    def __init__(self, message: event_pb2.EventFilter) -> None:
        self._message = message

    @classmethod
    def exact(cls, **attributes: str) -> Self:
        """Each of these attributes has exactly this value."""
        values = event_pb2.AttributeValues(attributes=attributes)
        return cls(event_pb2.EventFilter(exact=values))

    @classmethod
    def prefix(cls, **attributes: str) -> Self:
        """Each of these attributes begins with this."""
        values = event_pb2.AttributeValues(attributes=attributes)
        return cls(event_pb2.EventFilter(prefix=values))

    @classmethod
    def suffix(cls, **attributes: str) -> Self:
        """Each of these attributes ends with this."""
        values = event_pb2.AttributeValues(attributes=attributes)
        return cls(event_pb2.EventFilter(suffix=values))

    def write(self, target: event_pb2.EventFilter) -> None:
        """For the wire."""
        target.CopyFrom(self._message)

    # Chains of one operator stay flat: the sidecar bounds how deep a filter may be.

    def __and__(self, other: EventFilter) -> EventFilter:
        """Both match."""
        message = event_pb2.EventFilter()
        for one in (self._message, other._message):
            flat = one.WhichOneof("dialect") == "all"
            message.all.filters.extend(one.all.filters if flat else [one])
        return EventFilter(message)

    def __or__(self, other: EventFilter) -> EventFilter:
        """At least one of both matches."""
        message = event_pb2.EventFilter()
        for one in (self._message, other._message):
            flat = one.WhichOneof("dialect") == "any"
            message.any.filters.extend(one.any.filters if flat else [one])
        return EventFilter(message)

    def __invert__(self) -> EventFilter:
        """This does not match."""
        return EventFilter(event_pb2.EventFilter(not_matching=self._message))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, EventFilter) and self._message == other._message

    # A message is no key.
    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"<EventFilter {' '.join(str(self._message).split())}>"
