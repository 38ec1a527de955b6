"""Publishes to a topic, and follows one:

    kar topic create --app numbers numbers
    kar run --app numbers -- python sdk-clients/python/samples/events/events.py publish numbers alice 1 2 3
    kar run --app numbers -- python sdk-clients/python/samples/events/events.py follow numbers audit 3

`follow` prints each event and acknowledges it; the next one of its name goes on there.
"""

import asyncio
import sys

import kar

USAGE = "usage: events.py publish TOPIC KEY NUMBER… | follow TOPIC NAME COUNT"


async def publish(client: kar.Client, topic: str, key: str, numbers: list[int]) -> None:
    events = [kar.NewEvent("number", number, key) for number in numbers]
    for published in await client.topic(topic).publish_batch(events):
        print(published.position)


async def follow(client: kar.Client, topic: str, name: str, count: int) -> None:
    only = kar.EventFilter.exact(type="number")
    async with client.topic(topic).consume(name, filter=only) as events:
        for _ in range(count):
            received = await anext(events)
            print(received.position, received.event.data.decode(int))
            events.acknowledge(received)
        # Until this is through, what was printed may be printed again by the next one.
        await events.flush()


async def main(words: list[str]) -> None:
    async with kar.connect() as client:
        match words:
            case ["publish", topic, key, *numbers]:
                await publish(client, topic, key, [int(number) for number in numbers])
            case ["follow", topic, name, count]:
                await follow(client, topic, name, int(count))
            case _:
                sys.exit(USAGE)


if __name__ == "__main__":
    try:
        asyncio.run(main(sys.argv[1:]))
    except kar.Error as error:
        sys.exit(f"error: {error}")
