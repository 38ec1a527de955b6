"""What of a topic is here: decisions of a consumer over several streams."""

from __future__ import annotations

from datetime import datetime, timezone

import pytest

from kar._window import Received, Window, place
from kar.codec import Payload
from kar.events import Event
from kar.v1 import event_pb2


def came(window: Window, *positions: str) -> None:
    """These events have come."""
    for position in positions:
        event = Event.read(event_pb2.Event(id=position), Payload())
        window.came(Received(event, position, datetime.now(timezone.utc)))


def taken(window: Window) -> list[str]:
    """Everything that is here."""
    received = []
    while (one := window.take()) is not None:
        received.append(one.position)
    return received


def begun(window: Window, *positions: str) -> int:
    """A stream of it has begun; with how many credits."""
    credits, _ = window.begin()
    window.opened(positions)
    return credits


def said(window: Window) -> tuple[list[str], int]:
    """What is to be said."""
    request = window.outgoing()
    return (list(request.acknowledged), request.credits) if request else ([], 0)


def test_credits_are_given_back_when_they_are_worth_a_message() -> None:
    window = Window(4, is_named=True)
    assert begun(window, "0/1") == 4
    came(window, "0/1", "0/2", "0/3", "0/4")
    first = window.take()
    assert first is not None and said(window) == ([], 0)
    window.take()
    assert said(window) == ([], 2)
    window.take()
    # An acknowledgement takes along what there is.
    window.acknowledge(first.position)
    assert said(window) == (["0/1"], 1)
    assert window.outgoing() is None
    window = Window(1, is_named=False)
    begun(window, "0/1")
    came(window, "0/1")
    assert taken(window) == ["0/1"] and said(window) == ([], 1)


def test_what_was_given_comes_once_and_what_is_unsure_is_acknowledged_again() -> None:
    window = Window(4, is_named=True)
    begun(window, "0/1")
    came(window, "0/1", "0/2", "0/3", "0/4")
    for position in ("0/1", "0/2", "0/3"):
        one = window.take()
        assert one is not None and one.position == position
    window.acknowledge("0/1")
    window.acknowledge("0/3")
    assert said(window)[0] == ["0/1", "0/3"]
    window.confirmed(["0/1"])
    unsure = window.unsure()
    assert unsure == {(0, 3)}
    # The stream is lost: 0/2 is with the program, 0/3 unsure, 0/4 here.
    assert begun(window, "0/2") == 3
    # The new stream has not given it, so it would take no acknowledgement of it.
    window.acknowledge("0/2")
    assert said(window) == ([], 0)
    came(window, "0/2", "0/3", "0/4", "0/5")
    assert said(window) == (["0/2", "0/3"], 3), "and there is room for others in their place"
    assert taken(window) == ["0/4", "0/5"]
    window.confirmed(["0/3", "0/2"])
    assert window.is_durable(unsure) and not window.unsure()


def test_what_somebody_else_has_done_with_is_waited_for_by_nobody() -> None:
    window = Window(8, is_named=True)
    begun(window, "0/1", "1/1")
    came(window, "0/1", "0/2", "0/3", "1/1", "1/2")
    for _ in range(2):
        window.take()
    window.acknowledge("0/1")
    window.acknowledge("0/2")
    said(window)
    unsure = window.unsure()
    # 0/1 is below what is left to be done, 0/2 is not given again, nor is 0/3.
    assert begun(window, "0/2", "1/1") == 5
    assert window.unsure() == {(0, 2)}
    came(window, "1/1", "1/2", "0/4")
    assert window.is_durable(unsure)
    assert taken(window) == ["1/1", "1/2", "0/4"]


def test_nothing_is_acknowledged_twice_or_before_it_was_given() -> None:
    window = Window(4, is_named=True)
    begun(window, "0/1")
    came(window, "0/1", "0/2")
    window.acknowledge("0/1")
    assert not window.unsure()
    window.take()
    for _ in range(2):
        window.acknowledge("0/1")
    assert said(window)[0] == ["0/1"]
    window.confirmed(["0/1"])
    window.acknowledge("0/1")
    assert not window.unsure() and window.outgoing() is None


def test_what_has_to_come_again_comes_though_nothing_is_taken() -> None:
    window = Window(2, is_named=True)
    begun(window, "0/1", "1/1")
    came(window, "0/1")
    window.take()
    window.acknowledge("0/1")
    # The stream is lost, and the other partition's events come first.
    assert begun(window, "0/1", "1/1") == 2
    for position in ("1/1", "1/2", "1/3"):
        came(window, position)
        assert said(window) == ([], 1), position
    came(window, "0/1")
    assert said(window) == (["0/1"], 1)
    # What was given in advance is not given again.
    assert taken(window) == ["1/1", "1/2", "1/3"]
    assert window.outgoing() is None


def test_without_a_name_it_goes_on_behind_what_has_come() -> None:
    window = Window(2, is_named=False)
    assert window.begin() == (2, [])
    window.opened(["0/5", "1/1"])
    came(window, "0/5", "0/6")
    # Nothing of it is taken yet, and still there is room for one: none would mean any number.
    assert window.begin() == (1, ["0/7", "1/1"])
    window.opened(["0/7", "1/1"])
    came(window, "1/1")
    assert taken(window) == ["0/5", "0/6", "1/1"]


@pytest.mark.parametrize("position", ["", "1", "a/1", "1/"])
def test_a_position_that_is_none_is_no_place(position: str) -> None:
    with pytest.raises(ValueError):
        place(position)
