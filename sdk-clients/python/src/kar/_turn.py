"""A turn: one attempt of an invocation in user code, and what it asks the sidecar for."""

from __future__ import annotations

import asyncio
import logging
import traceback
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from kar import codec, limits
from kar._session import Outgoing, Session, request
from kar.errors import (
    ApplicationError,
    CodecError,
    ConditionFailed,
    KarError,
    LimitReached,
    TurnEnded,
    TurnSuperseded,
)
from kar.v1 import common_pb2, state_pb2
from kar.v1 import component_pb2 as v1

if TYPE_CHECKING:
    from kar._connection import Connection
    from kar._table import Table

log = logging.getLogger("kar")

current: ContextVar[Turn | None] = ContextVar("kar turn", default=None)
"""The turn that the running code belongs to. Tasks that it starts inherit it, so what they ask for
belongs to the turn as well."""

class TailCall:
    """What a method returns to hand its invocation on. Made by `kar.tail` and its like, read by nobody
    but the turn that it was made in."""

    __slots__ = ("call", "turn", "what")

    def __init__(self, turn: Turn, call: v1.TailCall, what: str) -> None:
        self.turn, self.call, self.what = turn, call, what

    def __repr__(self) -> str:
        return f"<TailCall of {self.what}>"


class Turn:
    """One attempt of an invocation, as the SDK sees it; user code gets a `kar.TurnContext`."""

    __slots__ = (
        "_bytes",
        "_changes",
        "_requests",
        "_settled",
        "_steps",
        "_table",
        "_unanswered",
        "_write_error",
        "activation",
        "attempt",
        "connection",
        "event",
        "has_ended",
        "id",
        "is_cancel_requested",
        "is_stopped",
        "kind",
        "method",
        "mode",
        "session",
        "step",
        "tail",
        "task",
        "token",
        "trace_parent",
    )

    def __init__(
        self,
        connection: Connection,
        session: Session,
        table: Table | None,
        invocation: v1.InvocationFrame,
    ) -> None:
        self.connection, self.session, self._table = connection, session, table
        self.token = invocation.turn_token
        target = invocation.target
        if target.HasField("actor"):
            self.kind, self.id = target.actor.type, target.actor.id
        else:
            self.kind, self.id = target.service.name, ""
        self.method, self.mode = invocation.method, invocation.mode
        self.attempt, self.trace_parent = invocation.attempt, invocation.trace_parent
        self.step, self.activation = invocation.step, invocation.activation
        self.event = invocation.event if invocation.HasField("event") else None
        """The event that it delivers."""
        self.tail: TailCall | None = None
        """The last tail call that the method made; it is carried out if the method returns it."""
        self._steps = {key: codec.read(value) for key, value in invocation.recorded_steps.items()}
        self.is_stopped = self.has_ended = self.is_cancel_requested = False
        self._requests = 0
        # State changes that are gathered, and those sent and not answered yet.
        self._changes: list[state_pb2.StateChange] = []
        self._bytes = self._unanswered = 0
        self._write_error: BaseException | None = None
        self._settled: asyncio.Future[None] | None = None
        self.task = asyncio.create_task(self._run(invocation))
        self.task.add_done_callback(self._done)

    @property
    def is_direct(self) -> bool:
        """At most once, past all logs: what it asks for carries no token."""
        return self.mode == common_pb2.INVOCATION_MODE_DIRECT

    @property
    def request_token(self) -> str:
        """What goes with everything that the turn asks for."""
        return "" if self.is_direct else self.token

    # === its code ===

    async def _run(self, invocation: v1.InvocationFrame) -> v1.TurnOutcome:
        current.set(self)
        outcome = v1.TurnOutcome(turn_token=self.token)
        try:
            if self._table is None:
                raise ApplicationError("kar.UNKNOWN_METHOD", "this component hosts nothing")
            result = self._checked(await self._table.run(self, invocation))
            while self._changes or self._unanswered or self._write_error is not None:
                await self._settle()
            # What a task that was left behind asks for from here on would be lost.
            self.has_ended = True
            if isinstance(result, TailCall):
                outcome.tail_call.CopyFrom(result.call)
            else:
                codec.write(result, outcome.payload)
        except asyncio.CancelledError as error:
            if self.is_stopped or self.is_cancel_requested:
                raise
            write_error(error, outcome.error)
        except Exception as error:
            write_error(error, outcome.error)
        return outcome

    def _checked(self, result: codec.Payload | TailCall) -> codec.Payload | TailCall:
        """A tail call is carried out by returning it, so one that is not returned is a mistake, and not
        one to pass over."""
        if isinstance(result, TailCall):
            if result.turn is not self:
                raise ApplicationError("tail_call", f"{result!r} was made by another turn")
        elif self.tail is not None:
            text = f"{self.tail!r} was made and not returned: `return kar.tail(…)`"
            raise ApplicationError("tail_call", text)
        return result

    def _done(self, task: asyncio.Task[v1.TurnOutcome]) -> None:
        """Reports the end, after the code of the task is gone for certain."""
        self.has_ended = True
        outcome = None if task.cancelled() or task.exception() else task.result()
        if outcome is None or self.is_stopped:
            # Whatever it came to counts for nothing.
            outcome = v1.TurnOutcome(turn_token=self.token, cancelled=v1.Cancelled())
        self.session.turn_done(self, self.session.encode_outcome(outcome))

    def stop(self) -> None:
        """Cancels the turn's task: the turn is superseded, or its stream is gone."""
        if not self.is_stopped:
            self.is_stopped = True
            self.task.cancel()

    def request_cancel(self) -> None:
        """Somebody asked for the invocation's end: its code gets a `CancelledError`. If it lets that pass,
        the invocation has ended so; if it catches it and returns, its result counts as always."""
        if not (self.is_stopped or self.is_cancel_requested):
            self.is_cancel_requested = True
            self.task.cancel()

    # === what it asks for ===

    async def request(self, outgoing: Outgoing) -> v1.Response:
        """Sends gathered state changes and then the request, and waits for its answer."""
        self._may_ask()
        if self._requests >= limits.TURN_REQUESTS_MAX:
            raise LimitReached.of("turn-requests", limits.TURN_REQUESTS_MAX)
        if self._changes:
            self._send_changes()
        outgoing.session = self.session
        self._requests += 1
        try:
            self.session.submit(outgoing)
            response = await outgoing.reply
        except TurnSuperseded:
            self.stop()
            raise
        finally:
            self._requests -= 1
            if outgoing.reply.cancelled():
                self.session.given_up(outgoing)
        if self._write_error is not None:
            raise self._write_error
        return response

    def recorded(self, key: str) -> codec.Payload | None:
        """The value of a durable step, if it is known to be recorded, by this attempt or before."""
        return self._steps.get(key)

    async def record(self, key: str, payload: codec.Payload) -> codec.Payload:
        """Records a durable step; gives the value that counts."""
        outgoing = request("record_step")
        fields = outgoing.request.record_step
        fields.turn_token, fields.key = self.token, key
        codec.write(payload, fields.payload)
        response = await self.request(outgoing)
        recorded = codec.read(response.record_step.payload)
        self._steps[key] = recorded
        return recorded

    def write(self, change: state_pb2.StateChange) -> None:
        """Gathers a state change; it is sent with the next operation, or when the turn ends."""
        self._may_ask()
        size = self._bytes + change.ByteSize()
        if size > limits.TURN_WRITE_BYTES_MAX:
            raise LimitReached.of("turn-write-bytes", limits.TURN_WRITE_BYTES_MAX)
        self._bytes = size
        self._changes.append(change)

    async def write_if(self, condition: state_pb2.StateChange, change: state_pb2.StateChange) -> bool:
        """Makes a state change if a condition holds behind everything that is gathered; tells whether it did. It is a
        request of its own: were the condition among gathered changes, none of those would be made either."""
        outgoing = request("actor_state_apply")
        apply = outgoing.request.actor_state_apply
        apply.turn_token = self.token
        apply.changes.extend((condition, change))
        try:
            await self.request(outgoing)
        except ConditionFailed:
            # It was looked at without what was refused before, and says nothing then.
            if self._write_error is not None:
                raise self._write_error from None
            return False
        return True

    def _may_ask(self) -> None:
        if self._write_error is not None:
            raise self._write_error
        if self.has_ended:
            raise TurnEnded("the turn has already ended", reason="TURN_ENDED")
        if self.is_stopped:
            raise TurnSuperseded("the turn was cancelled", reason="TURN_SUPERSEDED")

    def _send_changes(self) -> None:
        changes, self._changes, self._bytes = self._changes, [], 0
        at = 0
        while at < len(changes):
            outgoing = request("actor_state_apply")
            apply = outgoing.request.actor_state_apply
            apply.turn_token = self.token
            size = 0
            while at < len(changes):
                size += changes[at].ByteSize()
                if size > limits.APPLY_BYTES_TARGET and apply.changes:
                    break
                apply.changes.append(changes[at])
                at += 1
            outgoing.session = self.session
            self._unanswered += 1
            outgoing.reply.add_done_callback(self._write_answered)
            self.session.submit(outgoing)

    def _write_answered(self, reply: asyncio.Future[v1.Response]) -> None:
        self._unanswered -= 1
        error = None if reply.cancelled() else reply.exception()
        if error is not None and self._write_error is None:
            self._write_error = error
            if isinstance(error, TurnSuperseded):
                self.stop()
        if self._unanswered == 0 and self._settled is not None and not self._settled.done():
            self._settled.set_result(None)

    async def _settle(self) -> None:
        """Sends gathered state changes and waits until all are taken: a refused one must not be lost
        behind a result that says that all went well."""
        if self._write_error is None and self._changes:
            self._send_changes()
        if self._unanswered:
            self._settled = asyncio.get_running_loop().create_future()
            await self._settled
        if self._write_error is not None:
            raise self._write_error


def write_error(error: BaseException, target: common_pb2.ApplicationError) -> None:
    """What the caller gets for an exception. The one of a task group's only task that failed counts itself: as where
    calls are gathered, the caller gets the code that it was raised with, and it is retried if it says so."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    match error:
        case ApplicationError():
            target.code, target.message = error.code, error.message
            target.retryable = error.retryable
            if error.payload is not None:
                codec.write(error.payload, target.payload)
        case KarError():
            target.code, target.message = error.code_name, str(error)
        case CodecError():
            target.code, target.message = "codec", str(error)
        case _:
            target.code, target.message = type(error).__name__, str(error)
    detail = error.detail if isinstance(error, ApplicationError) else ""
    target.detail = detail or _stack(error)


def _stack(error: BaseException) -> str:
    """The stack trace without the frames of this package above the user's code."""
    trace: Any = error.__traceback__
    while trace is not None and trace.tb_frame.f_globals.get("__package__") == __package__:
        trace = trace.tb_next
    if trace is None:
        return ""  # It did not get to user code.
    text = "".join(traceback.format_exception(type(error), error, trace)).rstrip()
    encoded = text.encode()
    if len(encoded) <= limits.DETAIL_BYTES_MAX:
        return text
    return "…" + encoded[-limits.DETAIL_BYTES_MAX :].decode(errors="ignore")
