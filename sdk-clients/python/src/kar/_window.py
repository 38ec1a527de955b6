"""What of a topic is here, and what is to be said about it: the decisions of a consumer, without its streams.

A consumer outlives its streams. To the sidecar each stream is a new beginning: it gives everything again that is not
acknowledged durably, and takes acknowledgements only of what it has given on that stream. To the program the consumer
is one: it is given each event once. So what is here (`_ahead`: not given to the program yet, `_given`: given and not
acknowledged, `_unsure`: acknowledged, and not known to be durable) is not taken again when it comes again, and what
is unsure is acknowledged again then. What of it has not come again yet is `_stale`: an acknowledgement has to wait.

A stream gives a partition's events in order. What is stale and lies below one that has come does not come any more:
somebody else has done with it under the consumer's name, or the topic has let it go.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from kar.codec import Payload
from kar.events import Event
from kar.v1 import event_pb2

Place = tuple[int, int]
"""Partition and offset."""


@dataclass(frozen=True, slots=True)
class Received:
    """An event that has come."""

    event: Event[Payload]
    position: str
    """Its place: `PARTITION/OFFSET`."""
    published: datetime
    """When it was published, by the hub's clock."""


class Window:
    """A consumer's events."""

    def __init__(self, ahead_max: int, *, is_named: bool) -> None:
        self._ahead_max, self._is_named = ahead_max, is_named
        self._ahead: dict[Place, Received] = {}
        # What follows is of consumers with a name; others acknowledge nothing.
        self._given: set[Place] = set()
        self._unsure: set[Place] = set()
        self._stale: set[Place] = set()
        # By partition the offset behind the last event that came: where one without a name goes on.
        self._behind: dict[int, int] = {}
        # To be said. There is room for as many events as the sidecar has credits for, with these.
        self._credits = 0
        self._acknowledgements: list[str] = []
        # Credits that were given for events that are still ahead.
        self._advanced = 0

    # === the stream ===

    def begin(self) -> tuple[int, list[str]]:
        """A stream is to be opened: with so many credits, and, where the consumer has no name and has begun, at these
        positions."""
        self._credits = 0
        self._acknowledgements.clear()
        self._stale = self._given | self._unsure | self._ahead.keys() if self._is_named else set()
        positions = [] if self._is_named else [f"{p}/{offset}" for p, offset in self._behind.items()]
        # 0 would mean any number.
        credits = max(1, self._ahead_max - len(self._ahead))
        self._advanced = credits + len(self._ahead) - self._ahead_max
        return credits, positions

    def opened(self, positions: Iterable[str]) -> None:
        """It has begun, at these positions."""
        for partition, offset in map(place, positions):
            self._behind.setdefault(partition, offset)
            self._pass(partition, offset)

    def came(self, received: Received) -> None:
        """An event has come."""
        at = partition, offset = place(received.position)
        self._behind[partition] = offset + 1
        self._pass(partition, offset)
        if at not in self._stale:
            self._ahead[at] = received
            if self._is_waiting():
                self._credits += 1
                self._advanced += 1
            return
        self._stale.discard(at)
        self._credits += 1
        if at in self._unsure:
            self._acknowledgements.append(received.position)

    def confirmed(self, positions: Iterable[str]) -> None:
        """These acknowledgements are durable."""
        self._unsure.difference_update(map(place, positions))

    def outgoing(self) -> event_pb2.ConsumeRequest | None:
        """What is to be said now: every acknowledgement, and credits with them, or when they are worth it."""
        worth = 1 if self._is_waiting() else max(1, self._ahead_max // 2)
        if not self._acknowledgements and self._credits < worth:
            return None
        said = event_pb2.ConsumeRequest(
            acknowledged=self._acknowledgements, credits=self._credits
        )
        self._credits = 0
        self._acknowledgements.clear()
        return said

    def _pass(self, partition: int, offset: int) -> None:
        """What is stale below an offset does not come any more."""
        if not self._stale:
            return
        gone = {at for at in self._stale if at[0] == partition and at[1] < offset}
        self._stale -= gone
        self._given -= gone
        self._unsure -= gone
        for at in gone & self._ahead.keys():
            del self._ahead[at]
            self._make_room()

    def _make_room(self) -> None:
        """One event less is ahead."""
        if self._advanced > 0:
            self._advanced -= 1
        else:
            self._credits += 1

    def _is_waiting(self) -> bool:
        """An acknowledgement waits until its event has come again. Whoever waits for that takes no events meanwhile, so
        others that come before it must not use up the room. The sidecar bounds them: it gives no more than
        `consume-unacknowledged-max`."""
        return not self._stale.isdisjoint(self._unsure)

    # === the program ===

    def take(self) -> Received | None:
        """The next event, if one is here."""
        if not self._ahead:
            return None
        at = next(iter(self._ahead))
        if self._is_named:
            self._given.add(at)
        self._make_room()
        return self._ahead.pop(at)

    def acknowledge(self, position: str) -> None:
        """The program is done with an event. One that it was not given, or is done with, counts for nothing."""
        at = place(position)
        if at not in self._given:
            return
        self._given.discard(at)
        self._unsure.add(at)
        if at not in self._stale:
            self._acknowledgements.append(position)

    def unsure(self) -> frozenset[Place]:
        """What is acknowledged, and not known to be durable."""
        return frozenset(self._unsure)

    def is_durable(self, places: frozenset[Place]) -> bool:
        """Whether these are durable, or somebody else's."""
        return self._unsure.isdisjoint(places)


def place(position: str) -> Place:
    """A position in two numbers. `ValueError` if it is none."""
    partition, _, offset = position.partition("/")
    return int(partition), int(offset)
