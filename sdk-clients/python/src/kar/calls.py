"""Calling services and actors: references to them, typed and by name."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from datetime import timedelta
from typing import (
    TYPE_CHECKING,
    Any,
    Generic,
    ParamSpec,
    TypedDict,
    TypeVar,
    Unpack,
    cast,
    overload,
)

from kar import codec
from kar._session import Outgoing, request
from kar._turn import TailCall, Turn, current
from kar.actor_state import CommittedState, CommittedSubMap
from kar.codec import Payload
from kar.errors import ApplicationError, Error, NotInTurn, OutcomeUnknown
from kar.hosting import Actor, MethodSpec, Service
from kar.retry import RetryPolicy
from kar.topics import Topic
from kar.v1 import common_pb2, invocation_pb2
from kar.v1 import component_pb2 as v1

if TYPE_CHECKING:
    from kar._connection import Connection

P = ParamSpec("P")
R = TypeVar("R")
S = TypeVar("S", bound=Service)
A = TypeVar("A", bound=Actor)


class CallOptions(TypedDict, total=False):
    """How an invocation is made; every option may be left out."""

    start_within: float | None
    """It must start within this time from its acceptance (seconds, at least 0.001), else it never runs and
    a call fails with `Expired`; without it, it waits for ever."""
    trace_parent: str
    """W3C, instead of the turn's own."""
    retry: RetryPolicy | None
    """How errors are retried that the method marks retryable, instead of how the method or its sidecar
    would."""
    step_key: str
    """In a turn: the outcome of the call is kept under this key with the running method, so that a retry
    that makes the same call gets it: the call is made once. Results and application errors are kept;
    what expired or was refused is called again. Each call needs a key of its own, `StepKeyReused`
    otherwise; `tell` makes no use of it."""
    idempotency_key: str
    """Outside turns: what is sent again to the same target with the same key is one invocation, through
    whichever sidecar, and each request gets its one outcome; known for 24 hours after its end, unless
    the nodes say otherwise. Another method or argument under the same key is refused
    (`IdempotencyKeyReused`)."""


class ServiceOptions(CallOptions, total=False):
    """How a service is invoked."""

    affinity_key: str
    """Calls with the same key are handled by the same owner while it lives."""
    direct: bool
    """At most once, past all logs, for reads that can simply be asked again; `NoHost` where no host is
    alive."""


@dataclass(frozen=True, slots=True)
class _Options:
    """The same with what is left out."""

    start_within: float | None = None
    trace_parent: str = ""
    retry: RetryPolicy | None = None
    step_key: str = ""
    idempotency_key: str = ""
    affinity_key: str = ""
    direct: bool = False

    @classmethod
    def of(cls, what: str, given: CallOptions, known: type[CallOptions]) -> _Options:
        """Refuses what is no option, as Python does where parameters are written out."""
        for name in given:
            if name not in known.__annotations__:
                raise TypeError(f"{what} has no option {name!r}: {', '.join(known.__annotations__)}")
        return cls(**given)


class Caller:
    """What calls can be made from: a `Client`, or a turn."""

    __slots__ = ()

    @overload
    def service(self, target: type[S], **options: Unpack[ServiceOptions]) -> S: ...

    @overload
    def service(self, target: str, **options: Unpack[ServiceOptions]) -> Ref: ...

    def service(self, target: type[S] | str, **options: Unpack[ServiceOptions]) -> S | Ref:
        """A service: by its class, whose methods can then be called, or by its name. See `ServiceOptions`
        for the options."""
        name = target if isinstance(target, str) else target.kar_name
        made = _Options.of("a service", options, ServiceOptions)
        ref = Ref(self._connection(), name, None, made)
        return ref if isinstance(target, str) else cast(S, Proxy(ref, target.kar_methods))

    @overload
    def actor(self, target: type[A], id: str, **options: Unpack[CallOptions]) -> A: ...

    @overload
    def actor(self, target: str, id: str, **options: Unpack[CallOptions]) -> ActorRef: ...

    def actor(
        self, target: type[A] | str, id: str, **options: Unpack[CallOptions]
    ) -> A | ActorRef:
        """An actor instance: by its class, whose methods can then be called, or by its name. It exists
        by being named. See `CallOptions` for the options."""
        name = target if isinstance(target, str) else target.kar_name
        ref = ActorRef(self._connection(), name, id, _Options.of("an actor", options, CallOptions))
        return ref if isinstance(target, str) else cast(A, Proxy(ref, target.kar_methods))

    def topic(self, name: str) -> Topic:
        """A topic, by its name: to publish to it, and to follow it. What is published in a turn is part of it."""
        return Topic(self._connection(), name)

    def _connection(self) -> Connection:
        raise NotImplementedError


class Ref:
    """A service by its name; or (`ActorRef`) an actor.

    What is called in a turn is nested in it, what is called elsewhere is the root of a flow.
    """

    __slots__ = ("_connection", "_id", "_name", "_options")

    def __init__(
        self, connection: Connection, name: str, id: str | None, options: _Options
    ) -> None:
        self._connection, self._name, self._id, self._options = connection, name, id, options

    @overload
    def call(self, method: str, argument: Any = None) -> Coroutine[Any, Any, Any]: ...

    @overload
    def call(self, method: str, argument: Any, result: type[R]) -> Coroutine[Any, Any, R]: ...

    def call(
        self, method: str, argument: Any = None, result: Any = Any
    ) -> Coroutine[Any, Any, Any]:
        """Calls a method and waits for its result, which is read as the type `result`. Raises
        `ApplicationError` if the method failed, `KarError` if it could not be called."""
        return self._call(method, codec.encode(argument), codec.decoder(result))

    def tell(self, method: str, argument: Any = None) -> Coroutine[Any, Any, str]:
        """Tells without waiting for the outcome; returns the invocation's id. Outside turns it returns
        when the invocation is durable, which is then carried to completion; in a turn at once, and
        it is durable with the turn's segment."""
        return self._tell(method, codec.encode(argument))

    @overload
    def start(self, method: str, argument: Any = None) -> Coroutine[Any, Any, Started[Any]]: ...

    @overload
    def start(
        self, method: str, argument: Any, result: type[R]
    ) -> Coroutine[Any, Any, Started[R]]: ...

    def start(
        self, method: str, argument: Any = None, result: Any = Any
    ) -> Coroutine[Any, Any, Started[Any]]:
        """Starts an invocation whose result is fetched later; returns when it is durable. Not in a
        turn: it would not be part of it."""
        return self._start(method, codec.encode(argument), codec.decoder(result))

    @overload
    def tail(self, method: str, argument: Any = None, *, keep_lock: bool = False) -> Any: ...

    @overload
    def tail(
        self, method: str, argument: Any, result: type[R], *, keep_lock: bool = False
    ) -> R: ...

    def tail(
        self, method: str, argument: Any = None, result: Any = Any, *, keep_lock: bool = False
    ) -> Any:
        """Ends the method with this call instead of making it: `return ref.tail("walk", 3)`. The
        invocation goes on with it, in one step with everything that the method did, and the caller
        gets its outcome (`result` is its type, for type checkers). A chain of any length holds one
        entry.

        `keep_lock`: of an actor to itself; it stays locked until the next step has ended, so that
        nobody sees the state between the two. To anybody else the invocation fails with
        `kar.INVALID_TAIL_CALL`.
        """
        del result
        return self._tail(method, codec.encode(argument), keep_lock)

    # What follows takes the turn when it is called, not when it is awaited: a coroutine belongs to
    # the turn that made it, whoever runs it.

    def _call(
        self, method: str, argument: Payload, decode: codec.Decoder
    ) -> Coroutine[Any, Any, Any]:
        direct = self._options.direct
        turn = None if direct else self._turn()
        fields: Any
        if self._id is None:
            outgoing = request("invoke")
            fields = outgoing.request.invoke
            fields.service = self._name
            if self._options.affinity_key:
                fields.affinity_key = self._options.affinity_key
            if direct:
                fields.delivery_mode = common_pb2.DELIVERY_MODE_DIRECT
        else:
            outgoing = request("call_actor")
            fields = outgoing.request.call_actor
            fields.actor.type, fields.actor.id = self._name, self._id
        self._fill(fields, method, argument, turn)
        if self._options.step_key:
            fields.step_key = self._options.step_key
        if turn is not None:
            fields.turn_token = turn.request_token
        return self._outcome(outgoing, turn, decode)

    async def _outcome(self, outgoing: Outgoing, turn: Turn | None, decode: codec.Decoder) -> Any:
        response = await self._send(outgoing, turn)
        result: Any = response.call_actor if self._id is not None else response.invoke
        return outcome(result, decode)

    def _tell(self, method: str, argument: Payload) -> Coroutine[Any, Any, str]:
        turn = self._turn()
        outgoing = request("tell")
        fields = outgoing.request.tell
        self._fill_target(fields.target)
        self._fill(fields, method, argument, turn)
        if turn is not None:
            fields.turn_token = turn.request_token

        async def send() -> str:
            return (await self._send(outgoing, turn)).tell.invocation_id

        return send()

    def _tail(self, method: str, argument: Payload, keep_lock: bool) -> Any:
        turn = self._turn()
        if turn is None:
            raise NotInTurn("only a method can end with a tail call, and no method is running here")
        options = self._options
        if turn.is_direct or options.direct:
            raise ApplicationError("tail_call", "a direct invocation cannot go on with another")
        if options != _Options(affinity_key=options.affinity_key):
            text = "a tail call has no options of its own (start_within, retry, trace_parent, step_key)"
            raise ApplicationError("tail_call", f"{text}: its invocation goes on as it was made")
        call = v1.TailCall(method=method, keep_lock=keep_lock)
        self._fill_target(call.target)
        codec.write(argument, call.payload)
        turn.tail = TailCall(turn, call, f"{self!r}.{method}")
        return turn.tail

    async def _start(
        self, method: str, argument: Payload, decode: codec.Decoder
    ) -> Started[Any]:
        if self._turn() is not None:
            raise Error("start is never part of a turn: use `with kar.outside_turn() as client`")
        outgoing = request("start")
        fields = outgoing.request.start
        self._fill_target(fields.target)
        self._fill(fields, method, argument, None)
        response = await self._connection.request(outgoing)
        return Started(self._connection, response.start.invocation_id, decode)

    def _turn(self) -> Turn | None:
        turn = current.get()
        return turn if turn is not None and turn.connection is self._connection else None

    async def _send(self, outgoing: Outgoing, turn: Turn | None) -> v1.Response:
        if turn is None:
            return await self._connection.request(outgoing)
        return await turn.request(outgoing)

    def _fill(self, fields: Any, method: str, argument: Payload, turn: Turn | None) -> None:
        fields.method = method
        codec.write(argument, fields.payload)
        trace_parent = self._options.trace_parent or (turn.trace_parent if turn else "")
        if trace_parent:
            fields.options.trace_parent = trace_parent
        if self._options.start_within is not None:
            fields.options.start_within.FromTimedelta(
                timedelta(seconds=self._options.start_within)
            )
        if self._options.retry is not None:
            self._options.retry.write(fields.options.retry_policy)
        if self._options.idempotency_key:
            fields.options.idempotency_key = self._options.idempotency_key

    def _fill_target(self, target: common_pb2.Target) -> None:
        if self._id is None:
            target.service.name = self._name
            target.service.affinity_key = self._options.affinity_key
        else:
            target.actor.type, target.actor.id = self._name, self._id

    def __repr__(self) -> str:
        instance = "" if self._id is None else f"/{self._id}"
        return f"<{type(self).__name__} {self._name}{instance}>"


class ActorRef(Ref):
    """An actor instance by its type's name and its id."""

    __slots__ = ()

    @overload
    async def committed(self, key: str) -> Any: ...

    @overload
    async def committed(self, key: str, of: type[R]) -> R | None: ...

    async def committed(self, key: str, of: Any = Any) -> Any:
        """A key of the committed state of the actor, from outside its turns, read as a type; `None` if it is absent."""
        return await self._committed().get(key, of)

    async def committed_state(self) -> dict[str, Payload]:
        """The committed state of the actor, from outside its turns: every key of its own."""
        return await self._committed().get_all()

    def committed_sub_map(self, name: str) -> CommittedSubMap:
        """A sub-map of the committed state of the actor, to be read from outside its turns."""
        return CommittedSubMap(self._connection, self._name, self._id or "", name)

    def _committed(self) -> CommittedState:
        return CommittedState(self._connection, self._name, self._id or "")


class Proxy:
    """Stands for a service or an actor of a class: has its exposed methods."""

    def __init__(self, ref: Ref, methods: dict[str, MethodSpec]) -> None:
        self._kar_ref = ref
        self._kar_methods = {spec.attribute: spec for spec in methods.values()}

    def __getattr__(self, name: str) -> Bound:
        spec = self._kar_methods.get(name)
        if spec is None:
            known = ", ".join(sorted(self._kar_methods)) or "none"
            raise AttributeError(f"{self._kar_ref!r} exposes no method {name!r}; it has: {known}")
        bound = Bound(self._kar_ref, spec)
        # The next look-up finds it by itself.
        self.__dict__[name] = bound
        return bound

    def __repr__(self) -> str:
        return f"<Proxy of {self._kar_ref!r}>"


class Bound:
    """A method of a proxy."""

    __slots__ = ("ref", "spec")

    def __init__(self, ref: Ref, spec: MethodSpec) -> None:
        self.ref, self.spec = ref, spec

    def __call__(self, *args: Any, **kwargs: Any) -> Coroutine[Any, Any, Any]:
        return self.ref._call(self.spec.name, self.spec.bind(args, kwargs), self.spec.result)


class Started(Generic[R]):
    """A started invocation, whose result is kept (a day by default) and can be fetched any number of
    times."""

    __slots__ = ("_connection", "_decode", "id")

    def __init__(self, connection: Connection, id: str, decode: codec.Decoder) -> None:
        self._connection, self._decode = connection, decode
        self.id = id
        """Id of the invocation, for `Client.started`."""

    async def result(self) -> R:
        """Waits for the result. Survives the loss of the connection. `UnknownInvocation` if it is not
        kept any more."""
        outgoing = request("await_outcome")
        outgoing.request.await_outcome.invocation_id = self.id
        response = await self._connection.request(outgoing)
        return cast(R, outcome(response.await_outcome, self._decode))


def tell(
    method: Callable[P, Coroutine[Any, Any, Any]], /, *args: P.args, **kwargs: P.kwargs
) -> Coroutine[Any, Any, str]:
    """Tells instead of calling: `await kar.tell(client.actor(Account, "a").deposit, 5)`. As
    `Ref.tell`."""
    bound = _bound(method)
    return bound.ref._tell(bound.spec.name, bound.spec.bind(args, kwargs))


def start(
    method: Callable[P, Coroutine[Any, Any, R]], /, *args: P.args, **kwargs: P.kwargs
) -> Coroutine[Any, Any, Started[R]]:
    """Starts instead of calling: `await kar.start(client.service(Greeter).hello, who)`. As
    `Ref.start`."""
    bound = _bound(method)
    spec = bound.spec
    return bound.ref._start(spec.name, spec.bind(args, kwargs), spec.result)


def tail(
    method: Callable[P, Coroutine[Any, Any, R]], /, *args: P.args, **kwargs: P.kwargs
) -> R:
    """Ends the method with this call: `return kar.tail(self.turn.actor(Walker, "next").walk, 3)`. As
    `Ref.tail`."""
    return cast(R, _tail_of(method, args, kwargs, keep_lock=False))


def tail_keeping_lock(
    method: Callable[P, Coroutine[Any, Any, R]], /, *args: P.args, **kwargs: P.kwargs
) -> R:
    """As `tail`, of an actor to itself: it stays locked until the next step has ended. As `Ref.tail`
    with `keep_lock`."""
    return cast(R, _tail_of(method, args, kwargs, keep_lock=True))


def _tail_of(method: Any, args: Any, kwargs: Any, *, keep_lock: bool) -> Any:
    bound = _bound(method)
    return bound.ref._tail(bound.spec.name, bound.spec.bind(args, kwargs), keep_lock)


def _bound(method: Any) -> Bound:
    if isinstance(method, Bound):
        return method
    raise TypeError(f"{method!r} is not a method of `client.service(…)` or `client.actor(…)`")


def outcome(
    result: invocation_pb2.InvokeResponse
    | invocation_pb2.CallActorResponse
    | invocation_pb2.AwaitResponse,
    decode: codec.Decoder,
) -> Any:
    """The value of a method that returned; raises what one that failed did."""
    match result.WhichOneof("result"):
        case "payload":
            return decode(codec.read(result.payload))
        case "error":
            error = result.error
            raise ApplicationError(
                error.code,
                error.message,
                detail=error.detail,
                payload=codec.read(error.payload) if error.HasField("payload") else None,
                retryable=error.retryable,
            )
        case _:
            raise OutcomeUnknown("the sidecar's answer has no result", reason="OUTCOME_UNKNOWN")
