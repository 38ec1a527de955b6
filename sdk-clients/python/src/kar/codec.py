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
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

from google.protobuf import struct_pb2
from google.protobuf.message import DecodeError, Message

from kar._checks import check_of, name_of
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
    check = None if of is Any or of is object else check_of(of)
    name = name_of(of)

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
