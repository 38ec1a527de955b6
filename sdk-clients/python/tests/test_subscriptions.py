"""Subscriptions: asking for them, and methods that are told events."""

from __future__ import annotations

import asyncio
import os
import signal
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

import grpc
import pytest
from fake import Peer, asynchronous, connected, hosting

import kar
from kar.v1 import component_pb2 as v1
from kar.v1 import event_pb2


@dataclass
class Order:
    """What an event says."""

    id: int


class Customer(kar.Actor):
    """Is told of orders."""

    @kar.method
    async def ordered(self, order: Order) -> str:
        """Only the data."""
        delivery = self.turn.delivery
        return f"{self.id} {order.id} {delivery.position if delivery else 'called'}"

    @kar.method
    async def noticed(self, event: kar.Event[Order]) -> str:
        """The whole event."""
        return f"{event.type} {event.data.id} {event.attributes['country']}"

    @kar.method
    async def seen(self, event: kar.Event) -> str:  # type: ignore[type-arg]
        """Whatever it says."""
        return f"{event.id} {event.data!r}"

    @kar.method
    async def raw(self, event: kar.Event[kar.Payload]) -> str:
        """As a consumer is given it."""
        return event.data.content_type


def delivery_of() -> event_pb2.EventDelivery:
    """Of an event without its data, which are the argument."""
    event = event_pb2.Event(id="e1", type="order.created", attributes={"country": "ch"})
    return event_pb2.EventDelivery(
        event=event, subscription="totals", topic="orders", position="3/4"
    )


@asynchronous
async def test_methods_take_the_data_or_the_event(tmp_path: Path) -> None:
    async with hosting(tmp_path, Customer) as (_, peer, _host):
        told = delivery_of()
        for number, (method, outcome) in enumerate(
            [
                ("ordered", '"alice 7 3/4"'),
                ("noticed", '"order.created 7 ch"'),
                ("seen", "\"e1 {'id': 7}\""),
                ("raw", '"application/json"'),
            ]
        ):
            alice = ("Customer", "alice")
            await peer.invoke(f"t{number}", method, '{"id":7}', actor=alice, event=told)
            assert (await peer.outcome()).payload.data.decode() == outcome
        # Its data are checked as every argument is.
        await peer.invoke("t8", "noticed", '{"number":7}', actor=("Customer", "alice"), event=told)
        error = (await peer.outcome()).error
        assert error.code == "codec" and "Order needs id" in error.message
        # What is called has no event; a method that takes only the data does not mind.
        await peer.invoke("t9", "ordered", '{"id":7}', actor=("Customer", "alice"))
        assert (await peer.outcome()).payload.data == b'"alice 7 called"'
        await peer.invoke("t10", "noticed", '{"id":7}', actor=("Customer", "alice"))
        error = (await peer.outcome()).error
        assert error.code == "codec" and "subscribe the method" in error.message


@asynchronous
async def test_a_caller_of_such_a_method_sends_the_data(tmp_path: Path) -> None:
    async with connected(tmp_path) as (_, peer, client):
        event = kar.Event("", "", "", "", None, "", {}, Order(7))
        calling = asyncio.create_task(client.actor(Customer, "alice").noticed(event))
        request = await peer.request("call_actor")
        assert request.call_actor.payload.data == b'{"id":7}'
        await peer.answer_call(request, '"x"')
        assert await calling == "x"


TIME = datetime(2026, 1, 2, tzinfo=timezone.utc)

SUBSCRIPTIONS = [
    kar.Subscription("a", "orders", kar.ToActors("Customer", "partitionkey"), "ordered"),
    kar.Subscription("b", "orders", kar.ToActor("Customer", "alice"), "ordered", start="latest"),
    kar.Subscription(
        "c",
        "orders",
        kar.ToService("audit", "country"),
        "record",
        filter=kar.EventFilter.exact(type="order.created"),
        start=TIME,
        in_flight=8,
        retry=kar.RetryPolicy(3, 0.5, 2.0, 4.0),
        dead_letter_topic="failed",
    ),
]


@pytest.mark.parametrize("subscription", SUBSCRIPTIONS, ids=lambda one: one.name)
def test_what_is_asked_for_is_what_is_listed(subscription: kar.Subscription) -> None:
    wire = event_pb2.Subscription()
    subscription.write(wire)
    assert kar.Subscription.read(wire) == subscription


def test_targets_may_be_classes() -> None:
    wire = event_pb2.Subscription()
    to = kar.ToActors(Customer, "subject")
    kar.Subscription("a", "orders", to, "ordered").write(wire)
    assert (wire.target.actor.type, wire.target.actor.id) == ("Customer", "")
    assert wire.instance_attribute == "subject" and wire.start.earliest
    assert not wire.HasField("filter") and not wire.HasField("retry_policy")
    with pytest.raises(ValueError, match="'latest'"):
        kar.Subscription("a", "t", to, "m", start="now").write(wire)  # type: ignore[arg-type]


@asynchronous
async def test_they_are_made_paused_listed_and_ended(tmp_path: Path) -> None:
    async with connected(tmp_path) as (fake, peer, client):
        subscriptions = client.subscriptions
        [one, *_] = SUBSCRIPTIONS
        asking = asyncio.create_task(subscriptions.subscribe(one))
        await peer.request("subscribe")
        # It may be asked for twice: it is the same one.
        peer.end()
        peer = await fake.accept()
        request = await peer.request("subscribe")
        assert kar.Subscription.read(request.subscribe.subscription) == one
        await peer.answer(request, subscribe=event_pb2.SubscribeResponse(created=True))
        assert await asking
        asking = asyncio.create_task(subscriptions.subscribe(one))
        request = await peer.request("subscribe")
        await peer.refuse(request, grpc.StatusCode.ALREADY_EXISTS, "SUBSCRIPTION_EXISTS")
        with pytest.raises(kar.SubscriptionExists):
            await asking
        asking = asyncio.create_task(subscriptions.pause("a"))
        request = await peer.request("pause_subscription")
        assert request.pause_subscription.name == "a"
        await peer.answer(request, pause_subscription=event_pb2.PauseSubscriptionResponse(changed=True))
        assert await asking
        asking = asyncio.create_task(subscriptions.resume("z"))
        request = await peer.request("resume_subscription")
        assert request.resume_subscription.name == "z"
        await peer.refuse(request, grpc.StatusCode.NOT_FOUND, "UNKNOWN_SUBSCRIPTION")
        with pytest.raises(kar.UnknownSubscription):
            await asking
        sending = asyncio.create_task(subscriptions.redrive("a", 5))
        request = await peer.request("redrive_subscription")
        assert (request.redrive_subscription.name, request.redrive_subscription.max_events) == ("a", 5)
        redriven = event_pb2.RedriveSubscriptionResponse(redriven=5, passed_over=1, more=True)
        await peer.answer(request, redrive_subscription=redriven)
        assert await sending == kar.Redriven(5, 1, True)
        asking = asyncio.create_task(subscriptions.unsubscribe("a"))
        request = await peer.request("unsubscribe")
        assert request.unsubscribe.name == "a"
        await peer.answer(request, unsubscribe=event_pb2.UnsubscribeResponse())
        assert not await asking
        await listed(peer, client)


async def listed(peer: Peer, client: kar.Client) -> None:
    """Page by page, and one."""

    async def every() -> list[kar.Subscribed]:
        return [one async for one in client.subscriptions.list(page_size=2)]

    info = event_pb2.SubscriptionInfo(
        state=event_pb2.SUBSCRIPTION_STATE_PAUSED,
        topic_id="7",
        lag=5,
        partitions=[event_pb2.SubscriptionProgress(floor=3, lag=5, in_flight=2, skipped=1, unreadable=7)],
    )
    info.create_time.FromDatetime(TIME)
    listing = asyncio.create_task(every())
    for token, following, names in [("", "t", ["a", "b"]), ("t", "", ["c"])]:
        request = await peer.request("list_subscriptions")
        asked = request.list_subscriptions
        assert (asked.name, asked.page_size, asked.page_token) == ("", 2, token)
        page = event_pb2.ListSubscriptionsResponse(next_page_token=following)
        for name in names:
            [wanted] = [one for one in SUBSCRIPTIONS if one.name == name]
            wanted.write(info.subscription)
            page.subscriptions.append(info)
            info.subscription.Clear()
        await peer.answer(request, list_subscriptions=page)
    seen = await listing
    assert [one.subscription for one in seen] == SUBSCRIPTIONS
    assert seen[0].state is kar.SubscriptionState.PAUSED
    assert (seen[0].topic_id, seen[0].lag, seen[0].create_time) == ("7", 5, TIME)
    assert seen[0].partitions == (kar.SubscriptionProgress(3, 5, 2, 1, 7),)
    getting = asyncio.create_task(client.subscriptions.get("z"))
    request = await peer.request("list_subscriptions")
    assert request.list_subscriptions.name == "z"
    await peer.answer(request, list_subscriptions=event_pb2.ListSubscriptionsResponse())
    assert await getting is None


@asynchronous
async def test_a_host_that_has_subscribed_serves_until_it_is_asked_to_leave(tmp_path: Path) -> None:
    async with hosting(tmp_path, Customer) as (fake, peer, host):
        asking = asyncio.create_task(host.client.subscriptions.subscribe(SUBSCRIPTIONS[0]))
        request = await peer.request("subscribe")
        await peer.answer(request, subscribe=event_pb2.SubscribeResponse(created=True))
        await asking
        serving = asyncio.create_task(host.serve())
        # It has its handlers of signals when it waits.
        await asyncio.sleep(0)
        os.kill(os.getpid(), signal.SIGTERM)
        assert (await peer.frame()).HasField("goodbye"), "on the stream that it had"
        await peer.send(v1.SidecarFrame(drained=v1.Drained()))
        await peer.closed()
        await serving
        assert fake.streams.empty()
