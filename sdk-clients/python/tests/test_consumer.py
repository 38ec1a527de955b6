"""Following a topic: over several streams, with and without a name, and how it ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import grpc
import pytest
from fake import FakeSidecar, asynchronous, connected
from followers import Follower

import kar


@asynccontextmanager
async def topic(folder: Path, **options: Any) -> AsyncIterator[tuple[FakeSidecar, kar.Topic]]:
    """A topic of a client of a scripted sidecar."""
    async with connected(folder, **options) as (fake, _, client):
        yield fake, client.topic("orders")


async def opened(fake: FakeSidecar, consumer: kar.Consumer, *positions: str) -> Follower:
    """Opens a consumer; the first stream of it."""
    opening = asyncio.create_task(consumer.open())
    follower = await fake.followers.get()
    await follower.open(*positions)
    await opening
    return follower


async def read(consumer: kar.Consumer, count: int) -> list[kar.Received]:
    """The next events."""
    return [await anext(consumer) for _ in range(count)]


@asynchronous
async def test_it_says_what_it_wants_and_reads_typed_events(tmp_path: Path) -> None:
    async with topic(tmp_path, api_token="secret") as (fake, orders):
        wanted = kar.EventFilter.prefix(type="order.")
        consumer = orders.consume("audit", start="latest", filter=wanted, ahead=7)
        follower = await opened(fake, consumer, "0/1")
        assert follower.metadata["authorization"] == "Bearer secret"
        first = follower.first
        assert (first.topic, first.consumer, first.credits) == ("orders", "audit", 7)
        assert first.start.latest and first.confirm and not first.json
        assert first.filter.prefix.attributes == {"type": "order."}
        await follower.give("0/1")
        [received] = await read(consumer, 1)
        assert received.position == "0/1" and received.event.data.decode(str) == "0/1"
        with pytest.raises(kar.CodecError):
            received.event.data.decode(int)
        await consumer.close()
        await follower.gone()
        assert [one async for one in consumer] == [], "closed in order, it ends"


@asynchronous
async def test_it_begins_where_it_is_told(tmp_path: Path) -> None:
    async with topic(tmp_path) as (fake, orders):
        time = datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone.utc)
        starts: list[Any] = ["earliest", time, ["0/7", "1/9"]]
        seen = []
        for start in starts:
            consumer = orders.consume(start=start)
            follower = await opened(fake, consumer)
            seen.append(follower.first.start)
            assert (follower.first.consumer, follower.first.confirm) == ("", False)
            await consumer.close()
        assert seen[0].earliest
        assert seen[1].time.ToDatetime(timezone.utc) == time
        assert list(seen[2].positions.positions) == ["0/7", "1/9"]
        with pytest.raises(ValueError, match="'latest'"):
            orders.consume(start="lately")  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="at least 1"):
            orders.consume(ahead=0)


@asynchronous
async def test_acknowledgements_are_durable_when_they_are_flushed(tmp_path: Path) -> None:
    async with topic(tmp_path) as (fake, orders):
        consumer = orders.consume("audit", ahead=4)
        follower = await opened(fake, consumer, "0/1")
        await follower.give("0/1", "0/2", "0/3")
        one, two, three = await read(consumer, 3)
        consumer.acknowledge(three, one)
        flushing = asyncio.create_task(consumer.flush())
        assert sorted(await follower.acknowledgements(2)) == ["0/1", "0/3"]
        await follower.say(acknowledged=["0/1"])
        await follower.give("0/4")
        await read(consumer, 1)
        assert not flushing.done()
        # What is acknowledged meanwhile is not waited for.
        consumer.acknowledge(two)
        assert await follower.acknowledgements(1) == ["0/2"]
        await follower.say(acknowledged=["0/3"])
        await flushing
        closing = asyncio.create_task(consumer.close())
        await follower.say(acknowledged=["0/2"])
        await closing
        with pytest.raises(kar.Closed):
            consumer.acknowledge(two)


@asynchronous
async def test_no_more_comes_than_has_room(tmp_path: Path) -> None:
    async with topic(tmp_path) as (fake, orders):
        consumer = orders.consume(ahead=4)
        follower = await opened(fake, consumer, "0/1")
        assert follower.first.credits == 4
        await follower.give("0/1", "0/2", "0/3", "0/4")
        await read(consumer, 2)
        await follower.credits(2)
        await read(consumer, 2)
        await follower.credits(2)
        await consumer.close()


@asynchronous
async def test_with_a_name_it_goes_on_when_the_stream_was_lost(tmp_path: Path) -> None:
    async with topic(tmp_path) as (fake, orders):
        consumer = orders.consume("audit")
        follower = await opened(fake, consumer, "0/1")
        await follower.give("0/1", "0/2", "0/3")
        one, two = await read(consumer, 2)
        consumer.acknowledge(one)
        assert await follower.acknowledgements(1) == ["0/1"]
        # It gets lost whether that is durable.
        flushing = asyncio.create_task(consumer.flush())
        follower.end(grpc.StatusCode.UNAVAILABLE, "DRAINING")
        follower = await fake.followers.get()
        assert follower.first.consumer == "audit" and follower.first.start.earliest
        await follower.open("0/1")
        await follower.give("0/1", "0/2", "0/3", "0/4")
        assert await follower.acknowledgements(1) == ["0/1"]
        assert not flushing.done()
        await follower.say(acknowledged=["0/1"])
        await flushing
        assert [r.position for r in await read(consumer, 2)] == ["0/3", "0/4"], "each once"
        consumer.acknowledge(two)
        assert await follower.acknowledgements(1) == ["0/2"]
        closing = asyncio.create_task(consumer.close())
        await follower.say(acknowledged=["0/2"])
        await closing


@asynchronous
async def test_without_a_name_it_goes_on_behind_what_has_come(tmp_path: Path) -> None:
    async with topic(tmp_path) as (fake, orders):
        consumer = orders.consume(start="latest")
        follower = await opened(fake, consumer, "0/5", "1/1")
        await follower.give("0/5", "0/6")
        [one] = await read(consumer, 1)
        with pytest.raises(ValueError, match="name"):
            consumer.acknowledge(one)
        # Ended without a status, refused by the library, and cut off.
        for code in (grpc.StatusCode.OK, grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN):
            follower.end(code)
            follower = await fake.followers.get()
            assert sorted(follower.first.start.positions.positions) == ["0/7", "1/1"]
            await follower.open("0/7", "1/1")
        await follower.give("1/1")
        assert [r.position for r in await read(consumer, 2)] == ["0/6", "1/1"]
        await consumer.close()


@asynchronous
async def test_what_ends_it_is_told_to_everybody_who_waits(tmp_path: Path) -> None:
    async with topic(tmp_path) as (fake, orders):
        consumer = orders.consume("audit")
        follower = await opened(fake, consumer, "0/1")
        await follower.give("0/1", "0/2")
        [one] = await read(consumer, 1)
        consumer.acknowledge(one)
        await follower.acknowledgements(1)
        flushing = asyncio.create_task(consumer.flush())
        follower.end(grpc.StatusCode.ABORTED, "CONSUMER_TAKEN_OVER", topic="orders")
        with pytest.raises(kar.ConsumerTakenOver):
            await flushing
        with pytest.raises(kar.ConsumerTakenOver):
            await anext(consumer)  # 0/2 goes to the other one.
        await consumer.close()
        # Without a name what has come is read first.
        consumer = orders.consume()
        follower = await opened(fake, consumer, "0/1")
        await follower.give("0/1")
        follower.end(grpc.StatusCode.NOT_FOUND, "UNKNOWN_TOPIC", topic="orders")
        assert [r.position for r in await read(consumer, 1)] == ["0/1"]
        with pytest.raises(kar.UnknownTopic) as gone:
            await anext(consumer)
        assert gone.value.topic == "orders"
        await consumer.close()


@asynchronous
async def test_a_topic_that_is_created_anew_is_another_one(tmp_path: Path) -> None:
    async with topic(tmp_path) as (fake, orders):
        for name in ("audit", ""):
            consumer = orders.consume(name)
            follower = await opened(fake, consumer, "0/1")
            await follower.give("0/1")
            await read(consumer, 1)
            follower.end(grpc.StatusCode.UNAVAILABLE)
            follower = await fake.followers.get()
            await follower.open("0/1", topic_id="another")
            with pytest.raises(kar.UnknownTopic, match="another one") as gone:
                await anext(consumer)
            assert gone.value.topic == "orders"
            await consumer.close()


@asynchronous
async def test_one_that_is_refused_says_why_and_leaves_nothing(tmp_path: Path) -> None:
    async with topic(tmp_path) as (fake, orders):
        opening = asyncio.create_task(orders.consume().open())
        follower = await fake.followers.get()
        follower.end(grpc.StatusCode.RESOURCE_EXHAUSTED, "LIMIT_REACHED", limit="consumers_max")
        with pytest.raises(kar.LimitReached) as refused:
            await opening
        assert refused.value.limit == "consumers_max"
        with pytest.raises(kar.Closed, match="async with"):
            await anext(orders.consume())
        # An answer that is none.
        opening = asyncio.create_task(orders.consume().open())
        follower = await fake.followers.get()
        await follower.give("0/1")
        with pytest.raises(kar.ProtocolError):
            await opening
        # Given up while it opens.
        opening = asyncio.create_task(orders.consume().open())
        follower = await fake.followers.get()
        opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening
        await follower.gone()


@asynchronous
async def test_it_is_tried_for_a_while(tmp_path: Path) -> None:
    async with topic(tmp_path, reconnect_timeout=0.5) as (fake, orders):
        consumer = orders.consume()
        follower = await opened(fake, consumer, "0/1")
        follower.end(grpc.StatusCode.UNAVAILABLE)
        reading = asyncio.create_task(read(consumer, 1))
        tries = 0
        while not reading.done():
            waiting = asyncio.create_task(fake.followers.get())
            await asyncio.wait([waiting, reading], return_when=asyncio.FIRST_COMPLETED)
            if waiting.done():
                tries += 1
                waiting.result().end(grpc.StatusCode.UNAVAILABLE)
            else:
                waiting.cancel()
        with pytest.raises(kar.Unavailable):
            await reading
        assert tries > 1
        await consumer.close()


@asynchronous
async def test_what_was_let_go_is_counted_and_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with topic(tmp_path) as (fake, orders):
        consumer = orders.consume("audit")
        follower = await opened(fake, consumer, "0/1")
        await follower.say(skipped={"partition": 0, "first": 1, "count": 30})
        await follower.give("0/31")
        await read(consumer, 1)
        assert consumer.skipped == 30
        assert "30 events of topic orders were let go" in caplog.text
        await consumer.close()


@asynchronous
async def test_a_loop_that_is_left_makes_its_acknowledgements_durable(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with topic(tmp_path) as (fake, orders):

        async def first() -> str:
            async with orders.consume("audit") as events:
                async for received in events:
                    events.acknowledge(received)
                    return received.position
            raise AssertionError("nothing came")

        reading = asyncio.create_task(first())
        follower = await fake.followers.get()
        await follower.open("0/1")
        await follower.give("0/1")
        await follower.acknowledgements(1)
        assert not reading.done()
        await follower.say(acknowledged=["0/1"])
        assert await reading == "0/1"
        # A sidecar that does not answer is not waited for long.
        reading = asyncio.create_task(first())
        follower = await fake.followers.get()
        await follower.open("0/2")
        await follower.give("0/2")
        assert await reading == "0/2"
        assert "may come again" in caplog.text
