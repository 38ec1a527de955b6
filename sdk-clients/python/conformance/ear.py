"""Actors of the type `EarPython`, which keep a journal of the events that they are told. `cargo xtask test` kills them
meanwhile (`tests/faults/ears.rs`).

    kar run --app ears --actors EarPython -- python sdk-clients/python/conformance/ear.py
"""

import itertools
import logging
import os
import time

import kar

ATTEMPTS = itertools.count()


class Ear(kar.Actor, name="EarPython"):
    @kar.method
    async def hear(self, event: kar.Event[int]) -> None:
        """One more in the journal, without asking whether it is there."""
        key, attempt = f"{self.id}@{event.data}", f"{os.getpid()}-{next(ATTEMPTS)}"
        note("start", key, attempt, self.turn.attempt)
        journal = await self.state.get("journal", list[int], [])
        self.state.set("journal", [*journal, event.data])
        note("end", key, attempt, self.turn.attempt)


def note(what: str, key: str, attempt: str, number: int) -> None:
    """Tells the test's own journal that code runs, so that it knows what its kills hit."""
    path = os.environ.get("KAR_TEST_JOURNAL")
    if path:
        line = f"{what} {key} {attempt} {number} {time.time_ns()}\n"
        # One write in append mode: lines of several processes do not mix.
        with open(path, "ab", buffering=0) as file:
            file.write(line.encode())


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    kar.run(Ear)
