"""Typed payloads: JSON by default, protobuf messages and bytes by choice.

What is written decides the form: a protobuf message travels as protobuf, `bytes` as they are,
everything else as JSON. What is read is checked against the type that the receiver named:
`None`, `bool`, `int`, `float`, `str`, `list`, `tuple`, `set`, `dict`, `Literal`, unions, enums,
dataclasses, typed dictionaries, `bytes`, protobuf messages, `Payload`, or `Any`, which takes any
JSON as it comes.
"""

from __future__ import annotations

import dataclasses
import enum
import json
import types
import typing
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

from google.protobuf import struct_pb2
from google.protobuf.message import DecodeError, Message

from kar.errors import CodecError
from kar.v1 import common_pb2

JSON = "application/json"
"""Content type of payloads written as JSON."""

PROTOBUF = "application/protobuf"
"""Content type of payloads written as protobuf messages."""

BYTES = "application/octet-stream"
"""Content type of payloads written from `bytes`."""

_INTEGER_EXACT_MAX = 1 << 53
"""Whole numbers up to here are exact in the doubles of `google.protobuf.Value`."""


@dataclasses.dataclass(frozen=True, slots=True)
class Payload:
    """Application bytes with their type. As argument or result it passes through as it is."""

    data: bytes = b""
    """The bytes."""
    content_type: str = ""
    """MIME type; empty if the parties know. At most 256 bytes."""

    @property
    def is_json(self) -> bool:
        """Whether this is JSON by its content type; a payload without one counts as JSON."""
        if self.content_type == JSON:
            return True
        essence = self.content_type.partition(";")[0].strip().lower()
        return essence in ("", JSON) or essence.endswith("+json")

    def decode(self, of: Any = Any) -> Any:
        """The value that this holds, checked against a type. Raises `CodecError`."""
        return decoder(of)(self)


def encode(value: Any) -> Payload:
    """Writes a value. Raises `CodecError` if it has no form."""
    if isinstance(value, Payload):
        return value
    if isinstance(value, (bytes, bytearray, memoryview)):
        return Payload(bytes(value), BYTES)
    if isinstance(value, Message):
        return Payload(value.SerializeToString(), PROTOBUF)
    try:
        return Payload(_TO_JSON(value).encode(), JSON)
    except (TypeError, ValueError, RecursionError) as error:
        raise CodecError(f"cannot write {type(value).__name__} as JSON: {error}") from error


def _plain(value: Any) -> Any:
    """What JSON's encoder does not know by itself."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, (set, frozenset)):
        return list(value)
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} has no JSON form")


_TO_JSON = json.JSONEncoder(
    ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=_plain
).encode


def write(payload: Payload, target: common_pb2.Payload) -> None:
    """Puts a payload on the wire."""
    target.data = payload.data
    target.content_type = payload.content_type


def read(source: common_pb2.Payload) -> Payload:
    """Takes a payload of the wire; one in the form of a JSON value becomes its text."""
    if source.HasField("json"):
        return Payload(_TO_JSON(_json_value(source.json)).encode(), JSON)
    return Payload(source.data, source.content_type)


def _json_value(value: struct_pb2.Value) -> Any:
    match value.WhichOneof("kind"):
        case "number_value":
            number = value.number_value
            whole = number.is_integer() and abs(number) <= _INTEGER_EXACT_MAX
            return int(number) if whole else number
        case "string_value":
            return value.string_value
        case "bool_value":
            return value.bool_value
        case "list_value":
            return [_json_value(item) for item in value.list_value.values]
        case "struct_value":
            return {key: _json_value(item) for key, item in value.struct_value.fields.items()}
        case _:
            return None


Decoder = Callable[[Payload], Any]
Check = Callable[[Any], Any]


def decoder(of: Any) -> Decoder:
    """A function that reads payloads as a type."""
    try:
        return _decoder(of)
    except TypeError:
        # Not hashable, as `Annotated[int, []]`; it is made each time.
        return _make_decoder(of)


def _make_decoder(of: Any) -> Decoder:
    if of is Payload:
        return lambda payload: payload
    if of is bytes:
        return lambda payload: payload.data
    if isinstance(of, type) and issubclass(of, Message):
        return _message_decoder(of)
    check = None if of is Any or of is object else _check(of)
    name = _name(of)

    def decode(payload: Payload) -> Any:
        if not payload.is_json:
            raise CodecError(f"expected {JSON} for {name}, got {payload.content_type}")
        try:
            # No bytes at all stand for no value, which JSON calls null.
            value = json.loads(payload.data) if payload.data else None
        except (ValueError, RecursionError) as error:
            raise CodecError(f"not a JSON value of {name}: {error}") from error
        if check is None:
            return value
        try:
            return check(value)
        except (TypeError, ValueError, RecursionError) as error:
            raise CodecError(f"not a JSON value of {name}: {error}") from error

    return decode


_decoder = lru_cache(maxsize=1024)(_make_decoder)


def _message_decoder(of: type[Message]) -> Decoder:
    def decode(payload: Payload) -> Message:
        if payload.content_type == JSON:
            raise CodecError(f"expected {PROTOBUF} for {of.__name__}")
        message = of()
        try:
            message.ParseFromString(payload.data)
        except DecodeError as error:
            raise CodecError(f"not a message of {of.__name__}: {error}") from error
        return message

    return decode


# === checks: each takes a JSON value and returns the value of the type, or raises TypeError ===


def _check(of: Any) -> Check:
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
        return _check(args[0])
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
        return _check(of.__supertype__)
    raise TypeError(
        f"{_name(of)} cannot travel as JSON: use a dataclass, a protobuf message or kar.Payload"
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
_CONTAINERS: tuple[Any, ...] = (list, set, frozenset, tuple, typing.Sequence)
_MAPPINGS: tuple[Any, ...] = (dict, Mapping)


def _union(of: Any, args: tuple[Any, ...]) -> Check:
    checks = [_check(arg) for arg in args]

    def check(value: Any) -> Any:
        for one in checks:
            try:
                return one(value)
            except (TypeError, ValueError):
                continue
        raise _wrong(_name(of), value)

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
        return _fixed_tuple([_check(arg) for arg in args])
    item = _check(args[0] if args else Any)
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
    key, item = (_check(args[0]), _check(args[1])) if args else (_str, _check(Any))
    if args and args[0] not in (str, Any) and not issubclass(args[0], enum.Enum):
        raise TypeError(f"keys in JSON are text, not {_name(args[0])}")

    def check(value: Any) -> Any:
        if not isinstance(value, dict):
            raise _wrong("dict", value)
        return {key(name): item(one) for name, one in value.items()}

    return check


def _typed_dict(of: Any) -> Check:
    fields = {name: _check(hint) for name, hint in typing.get_type_hints(of).items()}
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
            checks.update({f.name: _check(hints[f.name]) for f in fields})
        missing = required - value.keys()
        if missing:
            raise TypeError(f"{of.__name__} needs {', '.join(sorted(missing))}")
        # Unknown keys are ignored, so that senders may be newer.
        return of(**{name: one(value[name]) for name, one in checks.items() if name in value})

    return check


def _name(of: Any) -> str:
    return of.__name__ if isinstance(of, type) and not typing.get_args(of) else str(of)
