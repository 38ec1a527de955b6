"""Subscriptions: events that are delivered to methods of actors and services."""

from __future__ import annotations

import enum
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Literal

from kar._session import request
from kar.events import EventFilter
from kar.hosting import Actor, Service
from kar.retry import RetryPolicy
from kar.v1 import event_pb2

if TYPE_CHECKING:
    from kar._connection import Connection


@dataclass(frozen=True, slots=True)
class ToActors:
    """Events go to instances of an actor type: each to the one that an attribute of it names."""

    type: type[Actor] | str
    attribute: str
    """`subject` or `partitionkey`, say. An event without it, or whose value is no actor id, cannot be delivered."""


@dataclass(frozen=True, slots=True)
class ToActor:
    """Events go to one actor. The subscription ends when that is removed."""

    type: type[Actor] | str
    id: str


@dataclass(frozen=True, slots=True)
class ToService:
    """Events go to a service."""

    service: type[Service] | str
    affinity_attribute: str = ""
    """Events with the same value of this attribute are handled by the same owner while it lives; else they are
    spread."""


@dataclass(frozen=True, slots=True)
class Subscription:
    """What is delivered to whom: each event of a topic that is wanted, as a tell, once, those of one partition of the
    topic in order up to each actor's queue.

    `kar.Subscription("totals", "orders", kar.ToActors(Customer, "partitionkey"), "ordered")`

    The method's argument is the event's data, or the event itself where it is typed so: `event: kar.Event[Order]`.
    """

    name: str
    """Unique in the application."""
    topic: str
    target: ToActors | ToActor | ToService
    method: str
    """Name of the target's method."""
    filter: EventFilter | None = None
    """Only these events; others are done with."""
    start: Literal["earliest", "latest"] | datetime = "earliest"
    """Where it begins; a time: with the first event that was published then or later."""
    in_flight: int = 0
    """Events of one partition of the topic that may be on their way to targets that have not accepted them yet; 256 if
    not said."""
    retry: RetryPolicy | None = None
    """How errors are retried that the method marks retryable, instead of how the method or its sidecar would."""
    dead_letter_topic: str = ""
    """Where an event goes whose delivery ends without success; otherwise it becomes a dead letter as other tells do."""

    def write(self, target: event_pb2.Subscription) -> None:
        """For the wire."""
        target.name, target.topic, target.method = self.name, self.topic, self.method
        match self.target:
            case ToActors(type=kind, attribute=attribute):
                target.target.actor.type = kind if isinstance(kind, str) else kind.kar_name
                target.instance_attribute = attribute
            case ToActor(type=kind, id=id):
                target.target.actor.type = kind if isinstance(kind, str) else kind.kar_name
                target.target.actor.id = id
            case ToService(service=service, affinity_attribute=attribute):
                name = service if isinstance(service, str) else service.kar_name
                target.target.service.name = name
                target.affinity_attribute = attribute
        if self.filter is not None:
            self.filter.write(target.filter)
        match self.start:
            case "earliest":
                target.start.earliest = True
            case "latest":
                target.start.latest = True
            case datetime():
                target.start.time.FromDatetime(self.start.astimezone(timezone.utc))
            case _:
                raise ValueError(f"start={self.start!r}: 'earliest', 'latest', or a datetime")
        target.in_flight, target.dead_letter_topic = self.in_flight, self.dead_letter_topic
        if self.retry is not None:
            self.retry.write(target.retry_policy)

    @classmethod
    def read(cls, source: event_pb2.Subscription) -> Subscription:
        """From the wire."""
        target: ToActors | ToActor | ToService
        if source.target.HasField("service"):
            target = ToService(source.target.service.name, source.affinity_attribute)
        elif source.instance_attribute:
            target = ToActors(source.target.actor.type, source.instance_attribute)
        else:
            target = ToActor(source.target.actor.type, source.target.actor.id)
        start: Literal["earliest", "latest"] | datetime = "earliest"
        if source.start.HasField("time"):
            start = source.start.time.ToDatetime(timezone.utc)
        elif source.start.HasField("latest"):
            start = "latest"
        return cls(
            name=source.name,
            topic=source.topic,
            target=target,
            method=source.method,
            filter=EventFilter(source.filter) if source.HasField("filter") else None,
            start=start,
            in_flight=source.in_flight,
            retry=RetryPolicy.read(source.retry_policy) if source.HasField("retry_policy") else None,
            dead_letter_topic=source.dead_letter_topic,
        )


class SubscriptionState(enum.Enum):
    """What a subscription does."""

    ACTIVE = event_pb2.SUBSCRIPTION_STATE_ACTIVE
    """It delivers events."""
    PAUSED = event_pb2.SUBSCRIPTION_STATE_PAUSED
    """It keeps its place and reads nothing."""
    TOPIC_DELETED = event_pb2.SUBSCRIPTION_STATE_TOPIC_DELETED
    """Its topic was deleted: it delivers nothing any more, whatever is created under the topic's name."""
    BLOCKED = event_pb2.SUBSCRIPTION_STATE_BLOCKED
    """It waits at an event that its owner's version does not understand (`SubscriptionProgress.unreadable`); other
    partitions of its topic are delivered."""


@dataclass(frozen=True, slots=True)
class SubscriptionProgress:
    """How far a subscription has come in a partition of its topic."""

    floor: int
    """Every event below this offset is done with: accepted by its target, passed over, or gone."""
    lag: int
    """Events that are not done with."""
    in_flight: int
    """Events that are on their way to their targets."""
    skipped: int
    """Events that the topic let go, because of its retention, before they were delivered; since the subscription's
    owner has begun."""
    unreadable: int
    """Offset of an event that its owner's version does not understand, where it waits; 0: there is none."""


@dataclass(frozen=True, slots=True)
class Subscribed:
    """A subscription that there is."""

    subscription: Subscription
    """As it was asked for."""
    state: SubscriptionState
    topic_id: str
    create_time: datetime
    lag: int
    """Events of the topic that are not done with, those included that its filter will pass over."""
    partitions: tuple[SubscriptionProgress, ...]
    """By number of the topic's partition."""

    @classmethod
    def read(cls, source: event_pb2.SubscriptionInfo) -> Subscribed:
        """From the wire."""
        return cls(
            subscription=Subscription.read(source.subscription),
            state=SubscriptionState(source.state),
            topic_id=source.topic_id,
            create_time=source.create_time.ToDatetime(timezone.utc),
            lag=source.lag,
            partitions=tuple(
                SubscriptionProgress(one.floor, one.lag, one.in_flight, one.skipped, one.unreadable)
                for one in source.partitions
            ),
        )


@dataclass(frozen=True, slots=True)
class Redriven:
    """What was sent back of a dead-letter topic."""

    redriven: int
    """Events sent back."""
    passed_over: int
    """Events of other subscriptions, and those that still name no instance."""
    more: bool
    """There are more."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """Where an event is from that a turn delivers."""

    subscription: str
    """The subscription that it is delivered for."""
    topic: str
    position: str
    """Its place there: `PARTITION/OFFSET`."""


class Subscriptions:
    """The subscriptions of the application (`Client.subscriptions`). They outlive this process, and every other one.
    What is asked of them is never part of a turn, is durable when it is answered, and survives the loss of the
    connection."""

    __slots__ = ("_connection",)

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def subscribe(self, subscription: Subscription) -> bool:
        """Subscribes a method to a topic; whether that is new. One of the same name and settings is left as it is,
        wherever it has come to.

        `SubscriptionExists` if there is one of the name with other settings; `UnknownTopic` if there is no such topic,
        or none for dead letters; `NoHost` if nobody has ever hosted the target; `Rejected` with reason
        `INVALID_FIELD`; `LimitReached`."""
        outgoing = request("subscribe")
        subscription.write(outgoing.request.subscribe.subscription)
        return (await self._connection.request(outgoing)).subscribe.created

    async def unsubscribe(self, name: str) -> bool:
        """Ends a subscription; whether it existed. Events that their targets have accepted are carried through."""
        outgoing = request("unsubscribe")
        outgoing.request.unsubscribe.name = name
        return (await self._connection.request(outgoing)).unsubscribe.existed

    async def pause(self, name: str) -> bool:
        """Pauses a subscription, which keeps its place; whether it was not paused before. Events that it had read are
        delivered. `UnknownSubscription` if there is none."""
        outgoing = request("pause_subscription")
        outgoing.request.pause_subscription.name = name
        return (await self._connection.request(outgoing)).pause_subscription.changed

    async def resume(self, name: str) -> bool:
        """Lets a paused subscription go on where it was; whether it was paused. `UnknownSubscription` if there is
        none."""
        outgoing = request("resume_subscription")
        outgoing.request.resume_subscription.name = name
        return (await self._connection.request(outgoing)).resume_subscription.changed

    async def redrive(self, name: str, max_events: int = 0) -> Redriven:
        """Sends events of its dead-letter topic back to a subscription, the oldest first; at most so many, 0: as many
        as the sidecar does at once. Each is sent back once. `UnknownSubscription` if there is none."""
        outgoing = request("redrive_subscription")
        outgoing.request.redrive_subscription.name = name
        outgoing.request.redrive_subscription.max_events = max_events
        answer = (await self._connection.request(outgoing)).redrive_subscription
        return Redriven(answer.redriven, answer.passed_over, answer.more)

    async def get(self, name: str) -> Subscribed | None:
        """The subscription of this name, with how far it has come; `None` if there is none."""
        async for one in self._pages(name, 0):
            return one
        return None

    def list(self, *, page_size: int = 0) -> AsyncGenerator[Subscribed, None]:
        """All of them by name, with how far they have come: `async for one in client.subscriptions.list()`. They are
        asked for in pages of `page_size` (100 if not said). `Unavailable` if the owner of some does not answer."""
        return self._pages("", page_size)

    async def _pages(self, name: str, page_size: int) -> AsyncGenerator[Subscribed, None]:
        token = ""
        while True:
            outgoing = request("list_subscriptions")
            fields = outgoing.request.list_subscriptions
            fields.name, fields.page_size, fields.page_token = name, page_size, token
            answer = (await self._connection.request(outgoing)).list_subscriptions
            for one in answer.subscriptions:
                yield Subscribed.read(one)
            token = answer.next_page_token
            if not token:
                return

    def __repr__(self) -> str:
        return "<Subscriptions>"
