"""Services and actors as classes."""

from __future__ import annotations

import inspect
import re
import typing
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar, get_args, get_origin, overload

from kar import codec
from kar.errors import CodecError, HostError, NotInTurn
from kar.events import Event
from kar.retry import RetryPolicy
from kar.v1 import component_pb2 as v1
from kar.v1 import event_pb2

if TYPE_CHECKING:
    from kar._turn import Turn
    from kar.context import TurnContext
    from kar.reminders import Reminders
    from kar.actor_state import ActorState

Method = TypeVar("Method", bound=Callable[..., Coroutine[Any, Any, Any]])

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")

_MARK = "__kar_method__"


@overload
def method(function: Method, /) -> Method: ...


@overload
def method(
    *, shared: bool = False, name: str = "", retry: RetryPolicy | None = None
) -> Callable[[Method], Method]: ...


def method(
    function: Method | None = None,
    /,
    *,
    shared: bool = False,
    name: str = "",
    retry: RetryPolicy | None = None,
) -> Method | Callable[[Method], Method]:
    """Exposes a method of a service or an actor: an `async def` with at most one argument after
    `self`, whose type says how it is read.

    `shared`: it only reads, so it may run beside other shared methods of the instance. `name`: how
    callers call it, where that is not its own name. `retry`: how its errors are retried that it marks
    retryable, unless a call says otherwise.
    """

    def mark(function: Method) -> Method:
        if not inspect.iscoroutinefunction(function):
            raise TypeError(f"{function.__qualname__}: a method is an `async def`")
        setattr(function, _MARK, (name or function.__name__, shared, retry))
        return function

    return mark if function is None else mark(function)


class MethodSpec:
    """An exposed method."""

    __slots__ = (
        "_argument",
        "_function",
        "_result",
        "_wants_event",
        "attribute",
        "name",
        "parameter",
        "retry",
        "shared",
    )

    retry: RetryPolicy | None

    def __init__(self, owner: type, attribute: str, function: Callable[..., Any]) -> None:
        self.attribute, self._function = attribute, function
        self.name, self.shared, self.retry = getattr(function, _MARK)
        parameters = list(inspect.signature(function).parameters.values())[1:]
        plain = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        if len(parameters) > 1 or any(p.kind not in plain for p in parameters):
            text = "a method takes at most one argument after self: put several into a dataclass"
            raise TypeError(f"{owner.__name__}.{attribute}: {text}")
        self.parameter = parameters[0] if parameters else None
        self._argument: codec.Decoder | None = None
        self._wants_event = False
        self._result: codec.Decoder | None = None

    def hosted(self) -> v1.HostedMethod:
        """What the sidecar is told of it."""
        hosted = v1.HostedMethod(name=self.name, shared=self.shared)
        if self.retry is not None:
            self.retry.write(hosted.retry_policy)
        return hosted

    def resolve(self) -> None:
        """Looks the types up: not before they are needed, so that they may be defined later."""
        hints = typing.get_type_hints(self._function, include_extras=True)
        try:
            if self.parameter is not None:
                wanted = hints.get(self.parameter.name, Any)
                self._wants_event = wanted is Event or get_origin(wanted) is Event
                if self._wants_event:
                    [wanted] = get_args(wanted) or [Any]
                self._argument = codec.decoder(wanted)
            self._result = codec.decoder(hints.get("return", Any))
        except TypeError as error:
            raise HostError(f"{self._function.__qualname__}: {error}") from error

    def arguments(
        self, payload: codec.Payload, delivery: event_pb2.EventDelivery | None
    ) -> tuple[Any, ...]:
        """What the method is called with: in a delivery the payload is the event's data."""
        if self.parameter is None:
            return ()
        if self._wants_event:
            if delivery is None:
                text = "an event of a topic: subscribe the method, or publish an event"
                raise CodecError(f"{self.name} takes {text}")
            assert self._argument is not None, "a host resolves the methods that it hosts"
            return (Event.read(delivery.event, self._argument(payload)),)
        if not payload.data and self.parameter.default is not inspect.Parameter.empty:
            return ()
        assert self._argument is not None, "a host resolves the methods that it hosts"
        return (self._argument(payload),)

    def bind(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> codec.Payload:
        """What a caller's arguments are sent as."""
        if self.parameter is None or not (args or kwargs):
            if args or kwargs or (
                self.parameter and self.parameter.default is inspect.Parameter.empty
            ):
                wanted = f"one argument, {self.parameter.name}" if self.parameter else "no argument"
                raise TypeError(f"{self._function.__qualname__} takes {wanted}")
            return _NOTHING if self.parameter is None else codec.Payload()
        values = (*args, *kwargs.values())
        if len(values) != 1 or any(name != self.parameter.name for name in kwargs):
            raise TypeError(f"{self._function.__qualname__} takes one argument, {self.parameter.name}")
        value = values[0]
        # An event that is not delivered has no attributes; see `arguments`.
        return codec.encode(value.data if isinstance(value, Event) else value)

    @property
    def result(self) -> codec.Decoder:
        """How its result is read."""
        if self._result is None:
            self.resolve()
        assert self._result is not None, "resolve sets it"
        return self._result


_NOTHING = codec.encode(None)


class Hosted:
    """What services and actors share."""

    kar_name: ClassVar[str] = ""
    """Name by which it is called."""
    kar_methods: ClassVar[dict[str, MethodSpec]] = {}
    """Exposed methods by name."""

    _kar_turn: Turn | None = None

    def __init_subclass__(cls, name: str = "", **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.kar_name = name or cls.__name__
        if not _NAME.fullmatch(cls.kar_name):
            text = "1 to 128 of A-Z a-z 0-9 _ - ., not starting with . or -"
            raise TypeError(f"{cls.__name__}: {cls.kar_name!r} is no name: {text}")
        cls.kar_methods = {}
        for attribute in dir(cls):
            function = inspect.getattr_static(cls, attribute)
            if not hasattr(function, _MARK):
                continue
            if any(attribute in vars(base) for base in (Hosted, Service, Actor)):
                raise TypeError(f"{cls.__name__}.{attribute}: the SDK needs this name")
            spec = MethodSpec(cls, attribute, function)
            if spec.name in cls.kar_methods:
                raise TypeError(f"{cls.__name__} has two methods called {spec.name}")
            cls.kar_methods[spec.name] = spec

    @property
    def turn(self) -> TurnContext:
        """The turn that runs this method: calls, tells, `flush`."""
        return _context(self)


class Service(Hosted):
    """Base of services: `class Greeter(kar.Service, name="greeter")`.

    Any host may take any call. For each call there is a shallow copy of the object that the host was
    given, so attributes that a method sets are gone after it.
    """


class Actor(Hosted):
    """Base of actors: `class Account(kar.Actor)`.

    An instance takes one call at a time. For each call there is a shallow copy of the object that the
    host was given: what an instance is to remember goes into its `state`.
    """

    def __init_subclass__(cls, name: str = "", **kwargs: Any) -> None:
        super().__init_subclass__(name, **kwargs)
        if not inspect.iscoroutinefunction(cls.on_deactivate):
            raise TypeError(f"{cls.__name__}.on_deactivate: the hook is an `async def`")

    @property
    def id(self) -> str:
        """Which instance this is."""
        return _turn(self).id

    @property
    def state(self) -> ActorState:
        """What the instance remembers."""
        from kar.actor_state import ActorState

        return ActorState(_turn(self))

    async def on_deactivate(self) -> None:
        """The instance has been idle, and is about to be passive (`actor-idle-ms` of its sidecar): to
        be overridden where something is kept in memory of instances. A turn like others, which nothing
        may depend on: it may be left out."""

    @property
    def activation(self) -> int:
        """Names the instance's activation: while it is the same, this process has had every turn of the
        instance, and all of them have taken effect. What a program keeps in memory of an instance may be
        used in a turn of the activation that it was kept in, and in no other: compare before."""
        return _turn(self).activation

    @property
    def reminders(self) -> Reminders:
        """What calls the instance at due times."""
        from kar.reminders import Reminders

        turn = _turn(self)
        return Reminders(turn.connection, turn, (turn.kind, turn.id))


def _turn(hosted: Hosted) -> Turn:
    if hosted._kar_turn is None:
        raise NotInTurn(f"{type(hosted).__name__} is not running a call: there is no turn")
    return hosted._kar_turn


def _context(hosted: Hosted) -> TurnContext:
    from kar.context import TurnContext

    return TurnContext(_turn(hosted))
