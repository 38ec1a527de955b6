"""Actors of the type `EarPython`, which keep a journal of the events that they are told. `cargo xtask test` kills them
meanwhile (`tests/faults/ears.rs`).

    kar run --app ears --actors EarPython -- python sdk-clients/python/conformance/ear.py
"""

import logging

import kar


class Ear(kar.Actor, name="EarPython"):
    @kar.method
    async def hear(self, event: kar.Event[int]) -> None:
        """One more in the journal, without asking whether it is there."""
        journal = await self.state.get("journal", list[int], [])
        self.state.set("journal", [*journal, event.data])


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    kar.run(Ear)
