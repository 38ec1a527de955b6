"""One stream, from its welcome to its end: what is under way on it, credits, and leaving in order.

Everything here runs in one event loop and changes state between two awaits only; there are two
tasks, one that reads (`run`) and one that writes. Frames are encoded when they are made. The
writer joins whatever is there when it gets its turn: encoded messages that are joined are one
message with all their frames, which is how protobuf defines repeated fields.

Order: frames go out in the order in which they were made, with one exception. Answers to calls may
depend on other turns, so calls must not use up the credits that those turns need. Calls of turns
leave an eighth of the credits, at least one, and requests outside turns leave half (`shares`). A stream with a
single credit has none to leave: a turn's call of something here that asks for anything itself waits for ever.

Calls that are given up: their answer may never come, so the sidecar is told that nobody waits for it
(`forget`). It answers at once, and that answer gives the credit back, as any other does. What a call
has begun goes on: one outside turns is carried to completion, and one of a turn is still waited for by
the sidecar before the turn's end takes effect, so a turn may forget as well. Everything but calls is
answered soon anyway.
"""

from __future__ import annotations

import asyncio
import enum
import logging
from collections import deque
from typing import TYPE_CHECKING, TypeVar

import grpc.aio

from kar import limits
from kar._status import error_of, error_of_rpc
from kar._transport import BROKEN, Wire
from kar.errors import LimitReached, OutcomeUnknown, TurnSuperseded
from kar.v1 import common_pb2
from kar.v1 import component_pb2 as v1

if TYPE_CHECKING:
    from kar._connection import Connection
    from kar._turn import Turn

log = logging.getLogger("kar")

CALLS = frozenset(("invoke", "call_actor", "await_outcome", "remove_actor"))
"""Operations whose answer may depend on turns, and take any time."""


class Outgoing:
    """A request on its way."""

    __slots__ = ("message", "operation", "reply", "request", "session")

    def __init__(self, message: v1.ConnectRequest, request: v1.Request, operation: str) -> None:
        self.message = message
        self.request = request
        self.operation = operation
        self.reply: asyncio.Future[v1.Response] = asyncio.get_running_loop().create_future()
        self.session: Session | None = None
        """The stream that it must go on, if a turn asks."""

    @property
    def is_repeatable(self) -> bool:
        """Whether carrying it out twice is as good as once: reads, and writes with a request id."""
        match self.operation:
            case "await_outcome" | "state_get" | "state_list" | "cancel" | "resume":
                return True
            case "create_topic" | "describe_topic" | "list_topics":
                return True
            case "subscribe" | "unsubscribe" | "pause_subscription" | "resume_subscription":
                return True
            case "list_subscriptions" | "redrive_subscription":
                return True
            case "actor_state_get" | "actor_state_get_all" | "actor_state_contains" | "reminder_list":
                return not getattr(self.request, self.operation).turn_token
            case "actor_state_list_sub_map" | "actor_state_sub_map_size":
                return not getattr(self.request, self.operation).turn_token
            case "state_set":
                return bool(self.request.state_set.request_id)
            case "state_delete":
                return bool(self.request.state_delete.request_id)
            case "state_transact":
                return bool(self.request.state_transact.request_id)
            case "publish":
                return bool(self.request.publish.request_id)
            case "publish_batch":
                return all(event.request_id for event in self.request.publish_batch.events)
            case _:
                return False

    def fail(self, error: BaseException) -> None:
        """Answers with an error, if somebody still waits."""
        if not self.reply.done():
            self.reply.set_exception(error)


def request(operation: str) -> Outgoing:
    """A request of an operation, whose fields are still to be filled in."""
    message = v1.ConnectRequest()
    inner = message.frames.add().request
    getattr(inner, operation).SetInParent()
    return Outgoing(message, inner, operation)


Waiting = TypeVar("Waiting")
"""A request that waits for a credit, or also a turn's result behind some."""


class Stage(enum.Enum):
    """How far a stream is."""

    OPEN = enum.auto()
    LEAVING = enum.auto()
    """Said goodbye."""
    DRAINED = enum.auto()
    """As `LEAVING`, and everything is handed over."""
    CLOSING = enum.auto()
    """Closing this side."""


class Session:
    """One stream."""

    def __init__(self, connection: Connection, wire: Wire) -> None:
        self._connection, self._wire = connection, wire
        welcome = wire.welcome
        self._credits = welcome.request_credits
        self._nested_max, self._roots_max = shares(self._credits, connection.hosts)
        self._message_bytes_max = welcome.message_bytes_max
        # A sidecar of an earlier version would end the stream.
        self._takes_forget = welcome.takes_forget
        self._pending: dict[int, Outgoing] = {}
        self._number = 0
        self._outbox: deque[tuple[bytes, Outgoing | None]] = deque()
        self._wake: asyncio.Future[None] | None = None
        # Everything of turns but calls, in order; then calls of turns.
        self._ordered: deque[Outgoing | tuple[Turn, bytes]] = deque()
        self._nested: deque[Outgoing] = deque()
        self._ordered_given_up = self._nested_given_up = 0
        self.turns: dict[str, Turn] = {}
        self.stage = Stage.OPEN
        self.is_over = False
        self._deadline: asyncio.TimerHandle | None = None

    # === the stream ===

    async def run(self) -> str | None:
        """Runs the stream until it ends; returns why, or `None` if it was closed in order."""
        writer = asyncio.create_task(self._write())
        try:
            for frame in self._wire.first:
                self._on_frame(frame)
            self.pump()
            if self._connection.is_leaving:
                self.leave()
            while True:
                message = await self._wire.read()
                if message is grpc.aio.EOF:
                    return self._ended("the sidecar closed the stream")
                for frame in message.frames:
                    self._on_frame(frame)
                self.pump()
        except grpc.aio.AioRpcError as error:
            return self._ended(str(error_of_rpc(error)))
        except Violation as error:
            return self._ended(str(error))
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            # Not this task but the call was cancelled: after a closed stream did not end in time.
            return self._ended("the stream was cancelled")
        finally:
            self.is_over = True
            if self._deadline:
                self._deadline.cancel()
            writer.cancel()
            await asyncio.gather(writer, return_exceptions=True)

    def _ended(self, reason: str) -> str | None:
        return None if self.stage is Stage.CLOSING else reason

    async def _write(self) -> None:
        outbox, write = self._outbox, self._wire.write
        try:
            while True:
                if outbox:
                    await write(self._pack())
                elif self.stage is Stage.CLOSING:
                    await self._wire.done_writing()
                    return
                else:
                    self._wake = asyncio.get_running_loop().create_future()
                    await self._wake
        except BROKEN:
            pass  # The stream is over; the reader learns why.
        except BaseException:
            self._wire.cancel()
            raise

    def _pack(self) -> bytes:
        outbox = self._outbox
        first, _ = outbox.popleft()
        if not outbox:
            return first
        parts, size = [first], len(first)
        while outbox and len(parts) < limits.FRAMES_PER_MESSAGE_MAX:
            size += len(outbox[0][0])
            if size > limits.MESSAGE_BYTES_TARGET:
                break
            parts.append(outbox.popleft()[0])
        return b"".join(parts)

    def _push(self, data: bytes, of: Outgoing | None) -> None:
        self._outbox.append((data, of))
        self._wake_writer()

    def _wake_writer(self) -> None:
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    # === frames from the sidecar ===

    def _on_frame(self, frame: v1.SidecarFrame) -> None:
        match frame.WhichOneof("frame"):
            case "response":
                self._on_response(frame.response)
            case "invocation":
                self._on_invocation(frame.invocation)
            case "cancel_turn":
                # Its result goes out when it has stopped. One that has ended needs no answer.
                cancel = frame.cancel_turn
                turn = self.turns.get(cancel.turn_token)
                if turn is not None and cancel.reason == v1.CANCEL_REASON_REQUESTED:
                    turn.request_cancel()
                elif turn is not None:
                    turn.stop()
            case "credit":
                if frame.credit.count < 1:
                    raise Violation("a credit of less than one")
                self._credits += frame.credit.count
                self._nested_max, self._roots_max = shares(self._credits, self._connection.hosts)
            case "drained":
                if self.stage is Stage.LEAVING:
                    self.stage = Stage.DRAINED
            case "welcome":
                raise Violation("a second welcome")
            case _:
                pass  # Of a later version, which sends it only if it needs no answer.

    def _on_response(self, response: v1.Response) -> None:
        outgoing = self._pending.pop(response.id, None)
        if outgoing is None:
            raise Violation(f"an answer to no request ({response.id})")
        reply = outgoing.reply
        if reply.done():
            return
        match response.WhichOneof("result"):
            case outgoing.operation:
                reply.set_result(response)
            case "status":
                reply.set_exception(error_of(response.status))
            case other:
                text = f"the sidecar answered {outgoing.operation} with {other}"
                reply.set_exception(OutcomeUnknown(text))

    def _on_invocation(self, invocation: v1.InvocationFrame) -> None:
        turn = self._connection.start_turn(self, invocation)
        self.turns[turn.token] = turn

    # === frames to the sidecar ===

    def submit(self, outgoing: Outgoing) -> None:
        """Sends a request, or holds it until it may go."""
        if outgoing.session is None:
            if self._connection.roots or len(self._pending) >= self._roots_max:
                self._connection.roots.append(outgoing)
            else:
                self._send(outgoing)
        elif outgoing.session is not self or self.is_over:
            outgoing.fail(TurnSuperseded("the turn's stream is gone", reason="TURN_SUPERSEDED"))
        elif outgoing.operation not in CALLS:
            if self._ordered or len(self._pending) >= self._credits:
                self._ordered.append(outgoing)
            else:
                self._send(outgoing)
        elif self._ordered or self._nested or len(self._pending) >= self._nested_max:
            self._nested.append(outgoing)
        else:
            self._send(outgoing)

    def given_up(self, outgoing: Outgoing) -> None:
        """Nobody waits for a request any more. One that is under way is forgotten by the sidecar, too; it keeps its
        credit until the sidecar has said so. Of those that wait here for a credit see `clear_given_up`."""
        if self._pending.get(outgoing.request.id) is outgoing:
            if self._takes_forget and outgoing.operation in CALLS and self.stage is not Stage.CLOSING:
                forget = v1.Forget(id=outgoing.request.id)
                self._push(_encode(v1.ComponentFrame(forget=forget)), None)
        elif outgoing.session is None:
            pass  # It waits in the connection, which sees to it.
        elif outgoing.operation in CALLS:
            self._nested_given_up = clear_given_up(self._nested, self._nested_given_up)
        else:
            # It would not have been sent; what stays keeps its order.
            self._ordered_given_up = clear_given_up(self._ordered, self._ordered_given_up)
            self._pump_ordered()
            self._move_on()

    def turn_done(self, turn: Turn, outcome: bytes) -> None:
        """Sends what a turn came to, after everything that it asked for."""
        if self.is_over:
            self.turns.pop(turn.token, None)
            self._connection.turn_stopped()
            return
        del self.turns[turn.token]
        if self._ordered:
            self._ordered.append((turn, outcome))
        else:
            self._push(outcome, None)
        self._move_on()

    def pump(self) -> None:
        """Makes frames of everything that may go."""
        self._pump_ordered()
        for queue, bound in ((self._nested, self._nested_max), (self._connection.roots, self._roots_max)):
            while queue and len(self._pending) < bound:
                self._send(queue.popleft())
        self._move_on()

    def _pump_ordered(self) -> None:
        ordered = self._ordered
        while ordered:
            first = ordered[0]
            if not isinstance(first, Outgoing):
                self._push(first[1], None)
            elif first.reply.done() or len(self._pending) < self._credits:
                self._send(first)
            else:
                break
            ordered.popleft()

    def _send(self, outgoing: Outgoing) -> None:
        if outgoing.reply.done():
            return  # Nobody waits any more.
        self._number += 1
        outgoing.request.id = self._number
        data = outgoing.message.SerializeToString()
        if len(data) > self._message_bytes_max:
            outgoing.fail(LimitReached.of("message-bytes-max", self._message_bytes_max))
            return
        self._pending[self._number] = outgoing
        self._push(data, outgoing)

    def encode_outcome(self, outcome: v1.TurnOutcome) -> bytes:
        """A turn's result as a message; one that is too long becomes an error that says so."""
        data = _encode(v1.ComponentFrame(turn_result=outcome))
        if len(data) <= self._message_bytes_max:
            return data
        outcome.error.CopyFrom(
            common_pb2.ApplicationError(
                code="message_too_large",
                message=f"the result is longer than message-bytes-max ({self._message_bytes_max})",
            )
        )
        return _encode(v1.ComponentFrame(turn_result=outcome))

    # === leaving ===

    def leave(self) -> None:
        """Asks to leave in order; the stream ends once everything is finished and handed over, or
        after the drain timeout."""
        if self.stage is not Stage.OPEN:
            return
        if self._connection.hosts:
            self.stage = Stage.LEAVING
            self._push(_encode(v1.ComponentFrame(goodbye=v1.Goodbye())), None)
        else:
            self.stage = Stage.DRAINED
        timeout = self._connection.settings.drain_timeout
        self._deadline = asyncio.get_running_loop().call_later(timeout, self._drain_timed_out)
        self._move_on()

    def _drain_timed_out(self) -> None:
        log.warning("leaving with %d turns unfinished or not handed over", len(self.turns))
        self._close()

    def _move_on(self) -> None:
        if self.stage is Stage.DRAINED and self._is_idle():
            self._close()

    def _is_idle(self) -> bool:
        return (
            not self.turns
            and not self._ordered
            and not self._nested
            and not self._connection.roots
            # What cancelled turns, and callers that went away, had asked for is waited for by nobody.
            and all(o.session is not None or o.reply.done() for o in self._pending.values())
        )

    def request_done(self) -> None:
        """A request outside turns has been answered or given up."""
        self._move_on()

    def _close(self) -> None:
        self.stage = Stage.CLOSING
        if self._deadline:
            self._deadline.cancel()
        loop = asyncio.get_running_loop()
        self._deadline = loop.call_later(limits.CLOSE_TIMEOUT, self._wire.cancel)
        self._wake_writer()

    # === the end ===

    def give_up(self, reason: str) -> None:
        """Answers what may have been carried out with "unknown", takes back what was not written, and
        what does no harm twice, for the next stream, and cancels the turns."""
        unwritten = {id(of) for _, of in self._outbox if of is not None}
        again = []
        for outgoing in self._pending.values():
            if outgoing.session is None and (id(outgoing) in unwritten or outgoing.is_repeatable):
                again.append(outgoing)
            elif outgoing.session is not None:
                outgoing.fail(TurnSuperseded(reason, reason="TURN_SUPERSEDED"))
            else:
                outgoing.fail(OutcomeUnknown(reason, reason="OUTCOME_UNKNOWN"))
        self._connection.roots.extendleft(reversed(again))
        for waiting in (*self._ordered, *self._nested):
            if isinstance(waiting, Outgoing):
                waiting.fail(TurnSuperseded(reason, reason="TURN_SUPERSEDED"))
        self._pending.clear()
        self._outbox.clear()
        self._ordered.clear()
        self._nested.clear()
        for turn in self.turns.values():
            turn.stop()


class Violation(Exception):
    """The sidecar broke the protocol."""


def shares(credits: int, hosts: bool) -> tuple[int, int]:
    """How many requests may be under way for a nested call, and for one outside turns, to go too."""
    if not hosts:
        return credits, credits
    roots = max(credits // 2, 1)
    # An eighth is rounded up: what nested calls wait for goes on only if they leave it a credit.
    eighth = -(-credits // 8)
    return max(credits - eighth, roots), roots


def clear_given_up(queue: deque[Waiting], given_up: int) -> int:
    """One more request was given up, maybe one of those that wait here; returns how many may be among them. They are
    looked for once there may be as many as others, so that this costs each of them little, and they do not gather while
    nothing can be sent."""
    given_up += 1
    if given_up * 2 <= len(queue):
        return given_up
    waiting = [one for one in queue if not isinstance(one, Outgoing) or not one.reply.done()]
    queue.clear()
    queue.extend(waiting)
    return 0


def _encode(frame: v1.ComponentFrame) -> bytes:
    return v1.ConnectRequest(frames=[frame]).SerializeToString()
