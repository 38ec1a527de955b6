"""Another application that listens to the orders of the Rust SDK's sample `orders`, which knows nothing of it:

    kar run --app accounts --actors Ledger -- python sdk-clients/python/samples/orders/ledger.py

For each day there is a ledger (an actor) that adds up what was taken. It has a subscription of its own, so it is told
of each order once, whatever is killed, and whatever other subscriptions do. An order that it cannot book goes to the
topic `orders.unbooked`, with the reason, and holds up no other day.
"""

import asyncio
import logging
import sys
from dataclasses import dataclass

import kar

TOPIC, UNBOOKED = "orders", "orders.unbooked"


@dataclass
class Order:
    """What was ordered."""

    id: str
    customer: str
    number: int
    cents: int
    day: str


@dataclass
class Books:
    """What was taken on a day."""

    orders: int = 0
    cents: int = 0


class Ledger(kar.Actor):
    @kar.method
    async def book(self, event: kar.Event[Order]) -> None:
        """Is told of an order."""
        if event.data.cents <= 0:
            raise kar.ApplicationError("nothing_to_pay", f"order {event.id} costs nothing")
        books = await self.books()
        books.orders += 1
        books.cents += event.data.cents
        self.state.set("books", books)

    @kar.method(shared=True)
    async def books(self) -> Books:
        """What was taken."""
        return await self.state.get("books", Books) or Books()


async def main() -> None:
    host = kar.Host(Ledger)
    await host.start()
    client = host.client
    await client.topic(UNBOOKED).create()
    await client.subscriptions.subscribe(
        kar.Subscription(
            "ledger",
            TOPIC,
            kar.ToActors(Ledger, "day"),
            "book",
            filter=kar.EventFilter.exact(type="order.placed"),
            dead_letter_topic=UNBOOKED,
        )
    )
    await host.serve()


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    try:
        asyncio.run(main())
    except kar.Error as error:
        sys.exit(f"error: {error}")
