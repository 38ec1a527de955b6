//! Topics through the Python SDK: everything that it offers, a consumer whose sidecar is killed under it, and
//! subscriptions.

use std::process::{Command, Stdio};

use kar_tests::events::publication;
use kar_tests::python::{Install, interpreter, test};
use kar_tests::world::{READY_LIMIT, capture};
use kar_tests::{Node, World, wait};
use serde_json::json;
use tokio::io::{AsyncBufReadExt as _, BufReader};

/// A Python program of a sidecar that did not start it.
fn program(text: &str, node: &Node) -> Command {
    let mut command = Command::new(interpreter(Install::Source));
    command.args(["-c", text]).env("KAR_SOCKET", &node.socket).stdin(Stdio::null());
    command.env_remove("KAR_GRPC_PORT").env_remove("KAR_API_TOKEN");
    command
}

/// Asserts what it sees, and says `done` at the end.
const TOUR: &str = r#"
import asyncio, kar
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone

@dataclass
class Order:
    id: int

async def fails(error, what):
    try:
        await what
    except error as raised:
        return raised
    raise AssertionError(f"no {error.__name__}")

async def every(events):
    async for _ in events:
        pass

async def main():
    async with kar.connect() as client:
        orders = client.topic("orders")
        made = await orders.create(partitions=2, retention_time=timedelta(hours=1))
        assert (made.name, made.partitions) == ("orders", 2), made
        assert made.retention_time == timedelta(hours=1), made
        assert await orders.create(partitions=2, retention_time=timedelta(hours=1)) == made
        other = await fails(kar.TopicExists, orders.create(partitions=3))
        assert other.setting == "partitions", other.metadata
        await client.topic("more").create(keep_forever=True)

        def order(number, key="alice", **options):
            return kar.NewEvent("order.created", Order(number), key, **options)

        now = datetime.now(timezone.utc)
        began = now.replace(microsecond=now.microsecond // 1000 * 1000)  # sidecars count milliseconds
        first = await orders.publish(order(0, request_id="r0", attributes={"country": "ch"}))
        again = await orders.publish(order(0, request_id="r0"))
        assert again.again and again.position == first.position, again
        rest = await orders.publish_batch(order(n) for n in range(1, 6))
        assert [one.again for one in rest] == [False] * 5, rest
        wrong = await fails(kar.Rejected, orders.publish(order(9, source="no uri")))
        assert wrong.metadata["field"] == "event.source", wrong.metadata
        gone = await fails(kar.UnknownTopic, client.topic("nowhere").publish(order(9)))
        assert gone.topic == "nowhere", gone.metadata

        async with orders.consume("audit", ahead=2) as events:
            got = [await anext(events) for _ in range(4)]
            assert [one.event.data.decode(Order).id for one in got] == [0, 1, 2, 3], got
            assert got[0].position == first.position and got[0].event.id == first.id, got
            assert got[0].event.attributes == {"country": "ch", "partitionkey": "alice"}, got
            assert got[0].event.time >= began and got[0].published >= began, got
            events.acknowledge(got[0], got[2])
            await events.flush()
            [consumer] = (await orders.describe()).consumers
            assert consumer.lag == 4, consumer
        async with orders.consume("audit") as events:
            left = [(await anext(events)).event.data.decode(Order).id for _ in range(4)]
            assert left == [1, 3, 4, 5], left
            async with orders.consume("audit") as later:
                await fails(kar.ConsumerTakenOver, every(events))
                assert await orders.forget("audit")
                await fails(kar.ConsumerTakenOver, every(later))

        swiss = kar.EventFilter.exact(country="ch")
        filters = [swiss, ~swiss & kar.EventFilter.prefix(type="order."), kar.EventFilter.suffix(type=".none")]
        for wanted, count in zip(filters, [1, 5, 0]):
            async with orders.consume(filter=wanted | kar.EventFilter.exact(type="last")) as events:
                await orders.publish(kar.NewEvent("last", key="alice"))
                seen = 0
                while (await anext(events)).event.type != "last":
                    seen += 1
                assert seen == count, (wanted, seen)
        async with orders.consume(start="latest") as late, orders.consume(start=[rest[3].position]) as some:
            newest = await orders.publish(order(7))
            assert (await anext(late)).position == newest.position
            assert (await anext(some)).position == rest[3].position
        async with orders.consume(start=got[0].published) as since:
            assert (await anext(since)).position == first.position

        names = [one.topic.name async for one in client.topics(page_size=1)]
        assert names == ["more", "orders"], names
        async with orders.consume() as events:
            assert not await orders.delete(id="another")
            assert await orders.delete(id=made.id)
            await fails(kar.UnknownTopic, every(events))
        print("done")

asyncio.run(main())
"#;

#[test]
fn topics_are_used_in_every_way() {
    test(async {
        let world = World::new("pytopics");
        let node = world.bare("node").await;
        let output = capture(program(TOUR, &node)).await;
        assert_eq!((output.code, output.stdout.trim()), (0, "done"), "{output:?}");
    });
}

/// Prints and acknowledges numbers until the last one.
const FOLLOWER: &str = r#"
import asyncio, sys, kar

async def main():
    async with kar.connect() as client, client.topic("numbers").consume(sys.argv[1], ahead=8) as events:
        print("begun", flush=True)
        async for received in events:
            number = received.event.data.decode(int)
            print(number, flush=True)
            if sys.argv[1]:
                events.acknowledge(received)
            if number == int(sys.argv[2]):
                break

asyncio.run(main())
"#;

/// How often its sidecar is killed.
const KILLS: i64 = 4;
/// Numbers that are published before a kill, and again as many after it.
const HALF: i64 = 50;
const NUMBERS: i64 = KILLS * 2 * HALF;

/// With a name, and without one.
#[test]
fn a_consumer_is_given_each_event_once_though_its_sidecar_is_killed() {
    for name in ["audit", ""] {
        test(followed_under_kills(name));
    }
}

async fn followed_under_kills(name: &str) {
    let world = World::new("pyfollow");
    let front = world.bare("front").await;
    let client = front.client().await;
    client.create_topic("numbers", 1).await.expect("created");
    let mut node = world.bare("node").await;
    let mut command = program(FOLLOWER, &node);
    command.args([name, &(NUMBERS - 1).to_string()]).stdout(Stdio::piped());
    let mut follower = tokio::process::Command::from(command);
    let mut follower = follower.kill_on_drop(true).spawn().expect("Python can be started");
    let mut lines = BufReader::new(follower.stdout.take().expect("it is piped")).lines();
    let mut line = async || {
        let line = tokio::time::timeout(READY_LIMIT, lines.next_line()).await;
        line.expect("it goes on").expect("read").expect("it does not end before the last number")
    };
    assert_eq!(line().await, "begun");
    let publish = async |numbers: std::ops::Range<i64>| {
        for number in numbers {
            client.publish(publication("numbers", "", &json!(number))).await.expect("durable");
        }
    };
    let mut next = 0;
    for _ in 0..KILLS {
        publish(next..next + HALF).await;
        assert_eq!(line().await, next.to_string());
        // It is somewhere in these, and what it has acknowledged may be durable or not.
        node.kill_sidecar();
        node.ended(READY_LIMIT).await;
        publish(next + HALF..next + 2 * HALF).await;
        node = world.bare("node").await;
        for number in next + 1..next + 2 * HALF {
            assert_eq!(line().await, number.to_string(), "once, and in order");
        }
        next += 2 * HALF;
    }
    let ended = tokio::time::timeout(READY_LIMIT, follower.wait()).await.expect("it ends");
    assert!(ended.expect("it can be waited for").success());
    if !name.is_empty() {
        wait::until_true("everything to be acknowledged", READY_LIMIT, async || {
            client.topic("numbers").await.expect("it is there").consumers[0].lag == 0
        })
        .await;
    }
}

/// Hosts what it subscribes, asserts what it sees, and says `done` at the end.
const SUBSCRIBER: &str = r#"
import asyncio, kar
from dataclasses import replace

class Shop(kar.Service, name="shop"):
    @kar.method
    async def order(self, number: int) -> None:
        published = await self.turn.topic("orders").publish(kar.NewEvent("order.placed", number, "alice"))
        assert published.id and not published.position, published
        if number < 0:
            raise kar.ApplicationError("declined", "and nothing is published")

class Customer(kar.Actor):
    @kar.method
    async def ordered(self, event: kar.Event[int]) -> None:
        delivery = self.turn.delivery
        assert delivery and (delivery.subscription, delivery.topic) == ("totals", "orders"), delivery
        assert event.attributes["partitionkey"] == self.id and self.turn.is_tell, event
        if event.data == 13:
            raise kar.ApplicationError("unlucky", "never")
        self.state.set("seen", [*await self.seen(), event.data])

    @kar.method(shared=True)
    async def seen(self) -> list[int]:
        return await self.state.get("seen", list[int], [])

async def fails(error, what):
    try:
        await what
    except error as raised:
        return raised
    raise AssertionError(f"no {error.__name__}")

async def main():
    host = kar.Host(Shop, Customer)
    await host.start()
    client = host.client
    orders, failed = client.topic("orders"), client.topic("failed")
    subscriptions = client.subscriptions
    totals = kar.Subscription("totals", "orders", kar.ToActors(Customer, "partitionkey"), "ordered",
                              filter=kar.EventFilter.exact(type="order.placed"), dead_letter_topic="failed")
    await fails(kar.UnknownTopic, subscriptions.subscribe(totals))
    for topic in (orders, failed):
        await topic.create(partitions=2, keep_forever=True)
    assert await subscriptions.subscribe(totals)
    assert not await subscriptions.subscribe(totals)
    to_one = kar.Subscription("totals", "orders", kar.ToActor(Customer, "alice"), "ordered")
    assert (await fails(kar.SubscriptionExists, subscriptions.subscribe(to_one))).setting == "target"

    shop, alice = client.service(Shop, affinity_key="alice"), client.actor(Customer, "alice")

    async def told(numbers):
        while await alice.seen() != numbers:
            await asyncio.sleep(0.02)

    for number in range(5):
        await shop.order(number)
        assert (await fails(kar.ApplicationError, shop.order(-1))).code == "declined"
    await orders.publish(kar.NewEvent("another", 77, "alice"))
    await told([0, 1, 2, 3, 4])
    assert await subscriptions.pause("totals") and not await subscriptions.pause("totals")
    await shop.order(5)
    while (paused := await subscriptions.get("totals")).lag != 1:
        await asyncio.sleep(0.02)
    assert paused.state is kar.SubscriptionState.PAUSED, paused
    # What was not said is filled in.
    as_made = replace(totals, target=kar.ToActors("Customer", "partitionkey"), in_flight=256)
    assert paused.subscription == as_made, paused
    assert await subscriptions.resume("totals") and not await subscriptions.resume("totals")
    await told([0, 1, 2, 3, 4, 5])
    async with failed.consume() as letters:
        await shop.order(13)
        letter = await anext(letters)
        assert letter.event.data.decode(int) == 13, letter
        assert letter.event.attributes["kardeadlettersubscription"] == "totals", letter
    await shop.order(14)
    await told([0, 1, 2, 3, 4, 5, 14])
    assert [one.subscription.name async for one in subscriptions.list()] == ["totals"]
    assert await subscriptions.unsubscribe("totals") and not await subscriptions.unsubscribe("totals")
    assert await subscriptions.get("totals") is None
    await fails(kar.UnknownSubscription, subscriptions.pause("totals"))
    assert sum(one.end - one.start for one in (await orders.describe()).partitions) == 9
    host.shutdown()
    await host.wait()
    print("done")

asyncio.run(main())
"#;

#[test]
fn subscriptions_are_used_in_every_way() {
    test(async {
        let world = World::new("pysubscribe");
        let node = world.bare("node").await;
        let output = capture(program(SUBSCRIBER, &node)).await;
        assert_eq!((output.code, output.stdout.trim()), (0, "done"), "{output:?}");
    });
}
