"""Reminders: calls of an actor at due times, which survive everything."""

from __future__ import annotations

import builtins
import enum
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

from google.protobuf import timestamp_pb2

from kar import codec
from kar._session import Outgoing, request
from kar.v1 import component_pb2 as v1
from kar.v1 import reminder_pb2

if TYPE_CHECKING:
    from kar._connection import Connection
    from kar._turn import Turn


class CatchUp(enum.Enum):
    """What to do about due times that were missed because nobody could fire at them."""

    ONCE = reminder_pb2.CATCH_UP_POLICY_ONCE
    """Call once for all of them."""
    EACH = reminder_pb2.CATCH_UP_POLICY_EACH
    """Call for each of them."""
    SKIP = reminder_pb2.CATCH_UP_POLICY_SKIP
    """Do not call for them."""


@dataclass(frozen=True, slots=True)
class Cron:
    """A cron expression: minute, hour, day of month, month, day of week."""

    expression: str
    time_zone: str = ""
    """IANA time zone; empty: UTC."""


@dataclass(frozen=True, slots=True)
class Reminder:
    """What is called, and when."""

    id: str
    """Names it within its actor: scheduling another one of the same id replaces it."""
    method: str
    argument: Any = None
    """The method's argument; in a list a `Payload`."""
    due: datetime | timedelta | None = None
    """The first due time, or how long it is till then. Without one, what comes again is due after one
    period, or at the next time of its cron expression; else it is due now. A time in the past is due
    at once, and may count as missed. A time without a zone is local time."""
    every: timedelta | Cron | None = None
    """When it comes again: a period of at least 10 ms, or a cron expression; else not at all."""
    catch_up: CatchUp = field(default=CatchUp.ONCE)
    """What to do about due times that were missed."""

    def write(self, target: reminder_pb2.Reminder) -> None:
        """For the wire."""
        target.id, target.method = self.id, self.method
        codec.write(codec.encode(self.argument), target.payload)
        due = self.due
        if due is None and self.every is None:
            due = timedelta()
        if isinstance(due, timedelta):
            due = datetime.now(timezone.utc) + due
        if due is not None:
            target.due_time.FromDatetime(due.astimezone(timezone.utc))
        if isinstance(self.every, Cron):
            target.cron.expression = self.every.expression
            target.cron.time_zone = self.every.time_zone
        elif self.every is not None:
            target.period.FromTimedelta(self.every)
        target.catch_up_policy = self.catch_up.value

    @classmethod
    def read(cls, source: reminder_pb2.Reminder) -> Reminder:
        """From the wire."""
        every: timedelta | Cron | None = None
        if source.HasField("period"):
            every = source.period.ToTimedelta()
        elif source.HasField("cron"):
            every = Cron(source.cron.expression, source.cron.time_zone)
        argument = codec.read(source.payload)
        due = _time(source.due_time)
        return cls(source.id, source.method, argument, due, every, CatchUp(source.catch_up_policy))


class Reminders:
    """The reminders of one actor. In a turn (`Actor.reminders`) they are those of its own actor, and
    what it does with them is durable with its segment; for a client (`Client.reminders`) every change
    is durable when it is answered."""

    __slots__ = ("_actor", "_connection", "_turn")

    def __init__(
        self, connection: Connection, turn: Turn | None, actor: tuple[str, str]
    ) -> None:
        self._connection, self._turn, self._actor = connection, turn, actor

    async def schedule(self, reminder: Reminder) -> datetime:
        """Schedules a reminder, or replaces the one with the same id, whose calls that have not started
        are dropped; returns its first due time. `Rejected` with reason `INVALID_FIELD` if its schedule
        is wrong: the metadata name the field. `LimitReached` if there are too many. `OutcomeUnknown`
        if the connection broke: list them, or schedule it again."""
        outgoing = request("reminder_schedule")
        fields = outgoing.request.reminder_schedule
        reminder.write(fields.reminder)
        self._fill(fields.reminder.actor)
        response = await self._send(outgoing, fields)
        return _time(response.reminder_schedule.due_time)

    async def cancel(self, id: str) -> bool:
        """Cancels a reminder, with its calls that have not started; whether there was one."""
        if not id:
            raise ValueError("the id is empty: `cancel_all` cancels all reminders of the actor")
        return await self._cancel(id) > 0

    async def cancel_all(self) -> int:
        """Cancels all reminders of the actor, with their calls that have not started; how many."""
        return await self._cancel("")

    async def list(self) -> builtins.list[Reminder]:
        """The reminders of the actor, by id: in a turn as the turn has made them, else what is durable.
        Their arguments are `Payload`s."""
        outgoing = request("reminder_list")
        fields = outgoing.request.reminder_list
        self._fill(fields.actor)
        response = await self._send(outgoing, fields)
        return [Reminder.read(one) for one in response.reminder_list.reminders]

    async def _cancel(self, id: str) -> int:
        outgoing = request("reminder_cancel")
        fields = outgoing.request.reminder_cancel
        fields.id = id
        self._fill(fields.actor)
        return (await self._send(outgoing, fields)).reminder_cancel.cancelled

    def _fill(self, actor: Any) -> None:
        actor.type, actor.id = self._actor

    async def _send(self, outgoing: Outgoing, fields: Any) -> v1.Response:
        if self._turn is None:
            return await self._connection.request(outgoing)
        fields.turn_token = self._turn.request_token
        return await self._turn.request(outgoing)

    def __repr__(self) -> str:
        return f"<Reminders of {self._actor[0]}/{self._actor[1]}>"


def _time(time: timestamp_pb2.Timestamp) -> datetime:
    return time.ToDatetime(timezone.utc)

