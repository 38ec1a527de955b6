"""Calls the service `greeter`, by its class and by its name:

    kar run --app hello -- python sdk-clients/python/samples/hello/client.py Alan
"""

import asyncio
import sys

from server import Greeter, Person

import kar


async def main(name: str) -> None:
    async with kar.connect() as client:
        print(await client.service(Greeter).hello(Person(name)))
        # Whoever serves it, in whatever language:
        print(await client.service("greeter").call("hello", {"name": name}, str))


if __name__ == "__main__":
    try:
        asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "World"))
    except kar.Error as error:
        sys.exit(f"error: {error}")
