"""Checks of JSON values against types: each takes a value and returns one of the type, or raises
`TypeError` or `ValueError`."""

from __future__ import annotations

import dataclasses
import enum
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any

Check = Callable[[Any], Any]


def check_of(of: Any) -> Check:
    """A function that makes a value of a type from a JSON value. `TypeError` here means that the
    type cannot travel as JSON."""
    if of is None or of is type(None):
        return _none
    if of is Any or of is object:
        return lambda value: value
    if of in _SCALARS:
        return _SCALARS[of]
    origin, args = typing.get_origin(of), typing.get_args(of)
    if origin is typing.Annotated:
        return check_of(args[0])
    if origin in (typing.Union, types.UnionType):
        return _union(of, args)
    if origin is typing.Literal:
        return _literal(args)
    if of in _CONTAINERS or origin in _CONTAINERS:
        return _container(origin or of, args)
    if of in _MAPPINGS or origin in _MAPPINGS:
        return _mapping(args)
    if isinstance(of, type) and issubclass(of, enum.Enum):
        return of
    if typing.is_typeddict(of):
        return _typed_dict(of)
    if dataclasses.is_dataclass(of) and isinstance(of, type):
        return _dataclass(of)
    if isinstance(of, typing.NewType):
        return check_of(of.__supertype__)
    raise TypeError(
        f"{name_of(of)} cannot travel as JSON: use a dataclass, a protobuf message or kar.Payload"
    )


def _wrong(expected: str, value: Any) -> TypeError:
    return TypeError(f"expected {expected}, got {type(value).__name__}")


def _none(value: Any) -> None:
    if value is not None:
        raise _wrong("null", value)


def _bool(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    raise _wrong("bool", value)


def _int(value: Any) -> int:
    if type(value) is int:
        return value
    raise _wrong("int", value)


def _float(value: Any) -> float:
    if type(value) in (int, float):
        return float(value)
    raise _wrong("float", value)


def _str(value: Any) -> str:
    if isinstance(value, str):
        return value
    raise _wrong("str", value)


_SCALARS: dict[Any, Check] = {bool: _bool, int: _int, float: _float, str: _str}
_CONTAINERS: tuple[Any, ...] = (list, set, frozenset, tuple, Sequence)
_MAPPINGS: tuple[Any, ...] = (dict, Mapping)


def _union(of: Any, args: tuple[Any, ...]) -> Check:
    checks = [check_of(arg) for arg in args]

    def check(value: Any) -> Any:
        for one in checks:
            try:
                return one(value)
            except (TypeError, ValueError):
                continue
        raise _wrong(name_of(of), value)

    return check


def _literal(args: tuple[Any, ...]) -> Check:
    def check(value: Any) -> Any:
        for arg in args:
            if arg == value and type(arg) is type(value):
                return value
        raise TypeError(f"expected one of {args}, got {value!r}")

    return check


def _container(origin: Any, args: tuple[Any, ...]) -> Check:
    if origin is tuple and args and args[-1] is not Ellipsis:
        return _fixed_tuple([check_of(arg) for arg in args])
    item = check_of(args[0] if args else Any)
    make = origin if isinstance(origin, type) and origin in (set, frozenset, tuple) else list

    def check(value: Any) -> Any:
        if not isinstance(value, list):
            raise _wrong("list", value)
        return make([item(one) for one in value])

    return check


def _fixed_tuple(checks: list[Check]) -> Check:
    def check(value: Any) -> Any:
        if not isinstance(value, list) or len(value) != len(checks):
            raise _wrong(f"list of {len(checks)}", value)
        return tuple(one(item) for one, item in zip(checks, value, strict=True))

    return check


def _mapping(args: tuple[Any, ...]) -> Check:
    key, item = (check_of(args[0]), check_of(args[1])) if args else (_str, check_of(Any))
    if args and args[0] not in (str, Any) and not issubclass(args[0], enum.Enum):
        raise TypeError(f"keys in JSON are text, not {name_of(args[0])}")

    def check(value: Any) -> Any:
        if not isinstance(value, dict):
            raise _wrong("dict", value)
        return {key(name): item(one) for name, one in value.items()}

    return check


def _typed_dict(of: Any) -> Check:
    fields = {name: check_of(hint) for name, hint in typing.get_type_hints(of).items()}
    required = of.__required_keys__

    def check(value: Any) -> Any:
        if not isinstance(value, dict):
            raise _wrong(of.__name__, value)
        missing = required - value.keys()
        if missing:
            raise TypeError(f"{of.__name__} needs {', '.join(sorted(missing))}")
        return {name: one(value[name]) for name, one in fields.items() if name in value}

    return check


def _dataclass(of: type[Any]) -> Check:
    hints = typing.get_type_hints(of)
    fields = [f for f in dataclasses.fields(of) if f.init]
    absent = dataclasses.MISSING
    required = {f.name for f in fields if f.default is absent and f.default_factory is absent}
    # Made at the first use, because a dataclass may contain itself.
    checks: dict[str, Check] = {}

    def check(value: Any) -> Any:
        if not isinstance(value, dict):
            raise _wrong(of.__name__, value)
        if not checks:
            checks.update({f.name: check_of(hints[f.name]) for f in fields})
        missing = required - value.keys()
        if missing:
            raise TypeError(f"{of.__name__} needs {', '.join(sorted(missing))}")
        # Unknown keys are ignored, so that senders may be newer.
        return of(**{name: one(value[name]) for name, one in checks.items() if name in value})

    return check


def name_of(of: Any) -> str:
    return of.__name__ if isinstance(of, type) and not typing.get_args(of) else str(of)
