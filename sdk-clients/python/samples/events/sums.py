"""Hosts the actor type `Sum`, and has the numbers of a topic delivered to it: each instance adds up the numbers that
have its id as their key.

    kar topic create --app numbers numbers
    kar run --app numbers --actors Sum -- python sdk-clients/python/samples/events/sums.py numbers
    kar publish --app numbers numbers 5 --type number --key alice
    kar call --app numbers --actor Sum alice total
"""

import asyncio
import logging
import sys

import kar

USAGE = "usage: sums.py TOPIC"


class Sum(kar.Actor):
    @kar.method
    async def add(self, number: int) -> int:
        """Is told of an event, whose data are the argument; so it can be called, too."""
        total = await self.total() + number
        self.state.set("total", total)
        return total

    @kar.method(shared=True)
    async def total(self) -> int:
        return await self.state.get("total", int, 0)


async def main(words: list[str]) -> None:
    match words:
        case [topic]:
            pass
        case _:
            sys.exit(USAGE)
    host = kar.Host(Sum)
    await host.start()
    # There may be such a subscription: then it goes on where it is. It outlives this process.
    await host.client.subscriptions.subscribe(
        kar.Subscription(
            "sums",
            topic,
            kar.ToActors(Sum, "partitionkey"),
            "add",
            filter=kar.EventFilter.exact(type="number"),
        )
    )
    await host.serve()


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    try:
        asyncio.run(main(sys.argv[1:]))
    except kar.Error as error:
        sys.exit(f"error: {error}")
