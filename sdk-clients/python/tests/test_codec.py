"""Typed payloads."""

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, NewType, NotRequired, TypedDict

import pytest

from kar import CodecError, Payload
from kar.codec import BYTES, JSON, PROTOBUF, decoder, encode, read
from kar.v1 import common_pb2, system_pb2


class Colour(enum.Enum):
    RED = "red"


@dataclass
class Tree:
    name: str
    leaves: list["Tree"] = field(default_factory=list)
    colour: Colour | None = None


class Point(TypedDict):
    x: int
    y: NotRequired[float]


UserId = NewType("UserId", str)

TYPED: list[tuple[Any, Any]] = [
    (None, None),
    (bool, True),
    (int, -(1 << 60)),
    (float, 1.5),
    (str, "ä"),
    (list[int], [1, 2]),
    (Sequence[int], [1, 2]),
    (list, [1, "a"]),
    (tuple[int, str], (1, "a")),
    (tuple[int, ...], (1, 2, 3)),
    (set[int], {1}),
    (dict[str, list[int]], {"a": [1]}),
    (Mapping[str, int], {"a": 1}),
    (int | None, None),
    (int | str, "a"),
    (Literal["a", 1], "a"),
    (Annotated[int, "metres"], 3),
    (UserId, "u1"),
    (Colour, Colour.RED),
    (Point, {"x": 1, "y": 2.0}),
    (Point, {"x": 1}),
    (Tree, Tree("a", [Tree("b", colour=Colour.RED)])),
    (Any, {"a": [1, None]}),
    (bytes, b"\x00\xff"),
    (common_pb2.ActorTarget, common_pb2.ActorTarget(type="T", id="1")),
    (Payload, Payload(b"\x89PNG", "image/png")),
]


@pytest.mark.parametrize(("of", "value"), TYPED, ids=str)
def test_what_is_written_is_read(of: Any, value: Any) -> None:
    assert decoder(of)(encode(value)) == value


def test_the_form_follows_the_value() -> None:
    assert encode({"a": [1, "ä"]}) == Payload('{"a":[1,"ä"]}'.encode(), JSON)
    assert encode(b"x") == Payload(b"x", BYTES)
    assert encode(system_pb2.GetInfoRequest()) == Payload(b"", PROTOBUF)
    assert encode(Payload(b"x", "text/plain")) == Payload(b"x", "text/plain")


WRONG: list[tuple[Any, str, str]] = [
    (int, '"1"', "int: expected int, got str"),
    (int, "true", "int: expected int, got bool"),
    (int, "1.0", "int: expected int, got float"),
    (float, "null", "float: expected float, got NoneType"),
    (list[int], '["a"]', "list[int]: expected int, got str"),
    (tuple[int, int], "[1]", "tuple[int, int]: expected list of 2, got list"),
    (Literal["a"], '"b"', "typing.Literal['a']: expected one of ('a',), got 'b'"),
    (Colour, '"blue"', "Colour: 'blue' is not a valid Colour"),
    (Point, "{}", "Point: Point needs x"),
    (Tree, "[]", "Tree: expected Tree, got list"),
    (int | None, '"a"', "int | None: expected int | None, got str"),
    (str, "{", "str: Expecting property name"),
    (str, "\ud800", ""),
]


@pytest.mark.parametrize(("of", "text", "message"), WRONG, ids=str)
def test_errors_say_what_is_wrong(of: Any, text: str, message: str) -> None:
    with pytest.raises(CodecError) as error:
        decoder(of)(Payload(text.encode(errors="surrogatepass"), JSON))
    assert str(error.value).startswith(f"not a JSON value of {message}")


def test_other_content_types_are_refused() -> None:
    with pytest.raises(CodecError, match="expected application/json for int, got image/png"):
        decoder(int)(Payload(b"1", "image/png"))
    assert decoder(int)(Payload(b"1", "application/problem+json; charset=utf-8")) == 1
    with pytest.raises(CodecError, match="expected application/protobuf for ActorTarget"):
        decoder(common_pb2.ActorTarget)(Payload(b"{}", JSON))
    with pytest.raises(CodecError, match="not a message of ActorTarget"):
        decoder(common_pb2.ActorTarget)(Payload(b"\xff", PROTOBUF))


def test_no_bytes_are_no_value() -> None:
    assert decoder(None)(Payload()) is None
    assert decoder(int | None)(Payload()) is None
    with pytest.raises(CodecError):
        decoder(int)(Payload())


def test_what_has_no_form_is_refused() -> None:
    loop: list[Any] = []
    loop.append(loop)
    for value in (object(), float("nan"), {1: object()}, loop, Payload):
        with pytest.raises(CodecError, match="cannot write"):
            encode(value)
    for of in (object().__class__.__class__, complex, dict[int, str], list[complex]):
        with pytest.raises(TypeError):
            decoder(of)


def test_a_json_value_becomes_its_text() -> None:
    payload = common_pb2.Payload()
    payload.json.list_value.extend([1, 1.5, None, True, "x"])
    payload.json.list_value.add_struct()["b"] = 1e300
    assert read(payload) == Payload(b'[1,1.5,null,true,"x",{"b":1e+300}]', JSON)
    assert read(common_pb2.Payload()) == Payload()


def test_a_newer_sender_may_say_more() -> None:
    assert decoder(Tree)(Payload(b'{"name":"a","height":3}', JSON)) == Tree("a")
    assert decoder(Point)(Payload(b'{"x":1,"z":3}', JSON)) == {"x": 1}
