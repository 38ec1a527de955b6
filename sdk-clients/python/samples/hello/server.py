"""The service `greeter`. Run it under a sidecar, and call it:

    kar run --app hello --service greeter -- python sdk-clients/python/samples/hello/server.py
    kar call --app hello greeter hello '{"name":"Alan"}'

`KAR_EXAMPLE_JOURNAL`, if set, names a file to which `slow` appends a line when it starts, ends or is
cut off: `start|end|cancel TOKEN PID UNIX_MS`.
"""

import asyncio
import logging
import os
import time
from dataclasses import dataclass

import kar


@dataclass
class Person:
    name: str


@dataclass
class Patient:
    name: str
    millis: int


class Greeter(kar.Service, name="greeter"):
    @kar.method
    async def hello(self, who: Person) -> str:
        """Greets."""
        return greeting(who.name)

    @kar.method
    async def slow(self, who: Patient) -> str:
        """Greets after a while."""
        note("start", self.turn.token)
        end = "cancel"
        try:
            await asyncio.sleep(who.millis / 1000)
            end = "end"
        finally:
            note(end, self.turn.token)
        return greeting(who.name)


def greeting(name: str) -> str:
    return f"Hello, {name}!"


def note(what: str, token: str) -> None:
    path = os.environ.get("KAR_EXAMPLE_JOURNAL")
    if path:
        line = f"{what} {token} {os.getpid()} {int(time.time() * 1000)}\n"
        # One write in append mode: lines of several processes do not mix.
        with open(path, "ab", buffering=0) as journal:
            journal.write(line.encode())


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    kar.run(Greeter())
