"""Topics: what is asked of them, outside turns and in them."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta, timezone
from pathlib import Path

import grpc
import pytest
from fake import asynchronous, connected, hosting

import kar
from kar.v1 import common_pb2, event_pb2


def answer_of(*events: event_pb2.PublishResponse) -> event_pb2.PublishBatchResponse:
    """Of a batch."""
    return event_pb2.PublishBatchResponse(events=events)


ORDERS = event_pb2.Topic(name="orders", id="7", partitions=4)


@asynchronous
async def test_topics_are_created_described_listed_and_deleted(tmp_path: Path) -> None:
    async with connected(tmp_path) as (_, peer, client):
        orders = client.topic("orders")
        creating = asyncio.create_task(
            orders.create(partitions=4, retention_time=timedelta(hours=1), retention_bytes=5 << 20)
        )
        request = await peer.request("create_topic")
        wanted = request.create_topic
        assert (wanted.topic, wanted.partitions, wanted.keep_forever) == ("orders", 4, False)
        assert (wanted.retention_time.seconds, wanted.retention_bytes) == (3600, 5 << 20)
        await peer.answer(request, create_topic=event_pb2.CreateTopicResponse(topic=ORDERS))
        created = await creating
        assert (created.name, created.id, created.partitions) == ("orders", "7", 4)
        assert created.retention_time is None
        creating = asyncio.create_task(orders.create(keep_forever=True))
        request = await peer.request("create_topic")
        assert request.create_topic.keep_forever
        assert not request.create_topic.HasField("retention_time")
        await peer.refuse(request, grpc.StatusCode.ALREADY_EXISTS, "TOPIC_EXISTS")
        with pytest.raises(kar.TopicExists):
            await creating
        view = event_pb2.TopicDescription(
            topic=ORDERS,
            partitions=[event_pb2.TopicPartition(start=1, end=5, bytes=90)],
            consumers=[event_pb2.TopicConsumer(application="a", name="c", lag=2, offsets=[3])],
        )
        describing = asyncio.create_task(orders.describe())
        request = await peer.request("describe_topic")
        assert request.describe_topic.topic == "orders"
        answer = event_pb2.DescribeTopicResponse(topic=view)
        await peer.answer(request, describe_topic=answer)
        described = await describing
        assert described.partitions == (kar.TopicPartition(1, 5, 90),)
        assert described.consumers == (kar.TopicConsumer("a", "c", 2, (3,)),)

        async def names() -> list[str]:
            return [one.topic.name async for one in client.topics(page_size=1)]

        listing = asyncio.create_task(names())
        for token, name, following in [("", "a", "t"), ("t", "b", "")]:
            request = await peer.request("list_topics")
            assert (request.list_topics.page_size, request.list_topics.page_token) == (1, token)
            page = event_pb2.ListTopicsResponse(next_page_token=following)
            page.topics.add().topic.name = name
            await peer.answer(request, list_topics=page)
        assert await listing == ["a", "b"]
        deleting = asyncio.create_task(orders.delete(id="7"))
        request = await peer.request("delete_topic")
        assert (request.delete_topic.topic, request.delete_topic.id) == ("orders", "7")
        await peer.answer(request, delete_topic=event_pb2.DeleteTopicResponse(existed=True))
        assert await deleting
        forgetting = asyncio.create_task(orders.forget("audit"))
        request = await peer.request("delete_consumer")
        asked = request.delete_consumer
        assert (asked.topic, asked.consumer) == ("orders", "audit")
        await peer.answer(request, delete_consumer=event_pb2.DeleteConsumerResponse())
        assert not await forgetting


@asynchronous
async def test_an_event_says_what_it_was_told_to_say(tmp_path: Path) -> None:
    async with connected(tmp_path) as (_, peer, client):
        time = datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone(timedelta(hours=1)))
        event = kar.NewEvent(
            "order.created", {"id": 7}, "alice", "r1", "i", "/shop", "seven", time, "urn:order",
            {"country": "ch"},
        )
        publishing = asyncio.create_task(client.topic("orders").publish(event))
        request = await peer.request("publish")
        publish = request.publish
        assert (publish.topic, publish.partition_key, publish.request_id) == ("orders", "alice", "r1")
        assert publish.turn_token == ""
        told = publish.event
        assert (told.type, told.id, told.source) == ("order.created", "i", "/shop")
        assert (told.subject, told.data_schema) == ("seven", "urn:order")
        assert told.time.ToDatetime(timezone.utc) == time
        assert told.attributes == {"country": "ch"}
        assert (told.data.data, told.data.content_type) == (b'{"id":7}', "application/json")
        answer = event_pb2.PublishResponse(event_id="i", position="3/4", repeated_request=True)
        await peer.answer(request, publish=answer)
        assert await publishing == kar.Published("i", "3/4", True)
        publishing = asyncio.create_task(client.topic("nowhere").publish(kar.NewEvent()))
        request = await peer.request("publish")
        assert not request.publish.event.HasField("time")
        await peer.refuse(request, grpc.StatusCode.NOT_FOUND, "UNKNOWN_TOPIC")
        with pytest.raises(kar.UnknownTopic):
            await publishing
        # And what has come is read.
        read = kar.Event.read(told, 7)
        assert (read.type, read.subject, read.time) == ("order.created", "seven", time)
        assert read.data == 7 and kar.Event.read(event_pb2.Event(), None).time is None


@asynchronous
async def test_what_was_published_when_the_stream_broke_is_published_once(tmp_path: Path) -> None:
    async with connected(tmp_path) as (fake, peer, client):
        orders = client.topic("orders")
        one = asyncio.create_task(orders.publish(kar.NewEvent("t", 1)))
        first = (await peer.request("publish")).publish
        assert first.request_id and first.event.id, "else a retry would publish another one"
        two = asyncio.create_task(orders.publish_batch([kar.NewEvent("t"), kar.NewEvent("t")]))
        batch = (await peer.request("publish_batch")).publish_batch
        ids = {event.request_id for event in batch.events} | {first.request_id, ""}
        assert len(ids) == 4
        removing = asyncio.create_task(orders.delete())
        await peer.request("delete_topic")
        peer.end()
        with pytest.raises(kar.OutcomeUnknown):
            await removing
        peer = await fake.accept()
        request = await peer.request("publish")
        assert request.publish == first
        answer = event_pb2.PublishResponse(event_id=first.event.id, position="0/1")
        await peer.answer(request, publish=answer)
        request = await peer.request("publish_batch")
        assert request.publish_batch == batch
        await peer.answer(request, publish_batch=answer_of(answer, answer))
        assert (await one).position == "0/1" and len(await two) == 2


class Shop(kar.Service, name="shop"):
    """Publishes."""

    @kar.method
    async def order(self, number: int) -> str:
        """In the turn, by each way in, and outside of it."""
        orders = self.turn.topic("orders")
        published = await orders.publish(kar.NewEvent("order.created", number, "alice"))
        assert published.position == ""
        await orders.publish_batch(kar.NewEvent("item", n) for n in range(2))
        with kar.outside_turn() as client:
            await client.topic("log").publish(kar.NewEvent("asked"))
            # It belongs to where it was made, whoever awaits it.
            later = client.topic("log").publish(kar.NewEvent("later"))
        await later
        return published.id


@asynchronous
async def test_in_a_turn_it_is_part_of_it(tmp_path: Path) -> None:
    async with hosting(tmp_path, Shop) as (_, peer, _host):
        await peer.invoke("t1", "order", "7", service="shop")
        request = await peer.request("publish")
        publish = request.publish
        # The sidecar's log knows it by its turn: no retry of the connection sends it again.
        assert (publish.turn_token, publish.request_id, publish.event.id) == ("t1", "", "")
        await peer.answer(request, publish=event_pb2.PublishResponse(event_id="e1"))
        request = await peer.request("publish_batch")
        events = request.publish_batch.events
        assert [(e.topic, e.turn_token, e.request_id) for e in events] == [("orders", "t1", "")] * 2
        await peer.answer(request, publish_batch=answer_of(*[event_pb2.PublishResponse()] * 2))
        for kind in ("asked", "later"):
            request = await peer.request("publish")
            assert (request.publish.turn_token, request.publish.event.type) == ("", kind)
            assert request.publish.request_id
            await peer.answer(request, publish=event_pb2.PublishResponse())
        assert (await peer.outcome()).payload.data == b'"e1"'
        # A turn whose publishing is refused fails, and says why.
        await peer.invoke("t2", "order", "7", service="shop")
        request = await peer.request("publish")
        await peer.refuse(request, grpc.StatusCode.NOT_FOUND, "UNKNOWN_TOPIC")
        assert (await peer.outcome()).error.code == "unknown_topic"
        # A direct invocation belongs to no log.
        direct = common_pb2.INVOCATION_MODE_DIRECT
        await peer.invoke("t3", "order", "7", service="shop", mode=direct)
        request = await peer.request("publish")
        assert (request.publish.turn_token, bool(request.publish.request_id)) == ("", True)
        await peer.refuse(request, grpc.StatusCode.NOT_FOUND, "UNKNOWN_TOPIC")
        await peer.outcome()


@asynchronous
async def test_a_turn_whose_stream_broke_publishes_nothing_more(tmp_path: Path) -> None:
    async with hosting(tmp_path, Shop) as (fake, peer, _host):
        await peer.invoke("t1", "order", "7", service="shop")
        await peer.request("publish")
        peer.end()
        peer = await fake.accept()
        # Whatever the first attempt asked for is not asked for again: the first that comes is another turn's.
        await peer.invoke("t2", "order", "7", service="shop")
        assert (await peer.request("publish")).publish.turn_token == "t2"


def test_filters_are_combined() -> None:
    prefix, exact = kar.EventFilter.prefix(type="order."), kar.EventFilter.exact(country="ch", a="b")
    message = event_pb2.EventFilter()
    (prefix & ~exact & kar.EventFilter.suffix(type=".created")).write(message)
    assert [one.WhichOneof("dialect") for one in message.all.filters] == ["prefix", "not_matching", "suffix"]
    assert message.all.filters[1].not_matching.exact.attributes == {"country": "ch", "a": "b"}
    # However many: the sidecar takes 16 levels.
    many = prefix
    for _ in range(40):
        many = many | exact
    many.write(message)
    assert len(message.any.filters) == 41
    assert prefix | exact == prefix | exact and prefix | exact != exact | prefix
    assert "order." in repr(prefix)
