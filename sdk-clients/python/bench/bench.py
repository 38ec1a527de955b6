"""Python in the benchmark, as host and as client of the echo of `tests/bench`.

    bench.py host
    bench.py load --target actors|hot-actor|service|direct --clients N --seconds S

Both find the sidecar in the environment. `load` speaks as the load client of `kar-bench` does: a
line `begin` when the measurement begins, then one line of JSON with its figures.
"""

import argparse
import asyncio
import gc
import json
import time
from collections.abc import Callable, Coroutine
from typing import Any

import kar

PAYLOAD = kar.Payload(bytes([7]) * 1024, "application/octet-stream")
"""Each argument and result."""

ACTORS_PER_CLIENT = 16

WARM_UP = 0.7
"""Load before the measurement, seconds: routes are known and caches warm."""


class Bench(kar.Service, name="bench"):
    @kar.method
    async def echo(self, payload: kar.Payload) -> kar.Payload:
        return payload


class Echo(kar.Actor):
    @kar.method
    async def echo(self, payload: kar.Payload) -> kar.Payload:
        return payload


Call = Callable[[kar.Payload], Coroutine[Any, Any, kar.Payload]]


def calls(client: kar.Client, number: int, target: str) -> list[Call]:
    """What one client calls, in turn."""
    match target:
        case "actors":
            names = [f"actor-{number}-{n}" for n in range(ACTORS_PER_CLIENT)]
        case "hot-actor":
            names = ["hot"]
        case "service":
            return [client.service(Bench).echo]
        case _:
            return [client.service(Bench, direct=True).echo]
    return [client.actor(Echo, name).echo for name in names]


class Load:
    """Clients that call one after the other until told to stop."""

    def __init__(self) -> None:
        self.measures = self.stops = False
        self.times: list[float] = []

    async def run(self, calls: list[Call]) -> None:
        clock = time.perf_counter
        n = 0
        while not self.stops:
            call = calls[n % len(calls)]
            n += 1
            start = clock()
            answer = await call(PAYLOAD)
            if len(answer.data) != len(PAYLOAD.data):
                raise RuntimeError(f"wrong answer: {len(answer.data)} bytes")
            if self.measures:
                self.times.append(clock() - start)


async def load(target: str, clients: int, seconds: float) -> None:
    async with kar.connect() as client:
        load = Load()
        async with asyncio.TaskGroup() as group:
            for number in range(clients):
                group.create_task(load.run(calls(client, number, target)))
            await asyncio.sleep(WARM_UP)
            load.measures = True
            print("begin", flush=True)
            begin, cpu = time.perf_counter(), time.process_time()
            await asyncio.sleep(seconds)
            load.measures, load.stops = False, True
            took, cpu = time.perf_counter() - begin, time.process_time() - cpu
            print(json.dumps(figures(sorted(load.times), took, cpu)), flush=True)


def figures(times: list[float], took: float, cpu: float) -> dict[str, float]:
    def us(quantile: float) -> float:
        return round(times[min(int(len(times) * quantile), len(times) - 1)] * 1e6, 1)

    return {
        "calls": len(times),
        "seconds": round(took, 3),
        "per_second": round(len(times) / took, 1),
        "p50_us": us(0.5),
        "p99_us": us(0.99),
        "p999_us": us(0.999),
        "max_us": us(1),
        "own_cpu_us": round(cpu / len(times) * 1e6, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("host")
    options = commands.add_parser("load")
    targets = ("actors", "hot-actor", "service", "direct")
    options.add_argument("--target", choices=targets, required=True)
    options.add_argument("--clients", type=int, required=True)
    options.add_argument("--every-ms", type=int, choices=[0], default=0, help="no pause")
    options.add_argument("--seconds", type=float, required=True)
    args = parser.parse_args()
    # What the imports made stays; the collector need not look at it again.
    gc.freeze()
    if args.command == "host":
        kar.run(Bench(), Echo())
    else:
        asyncio.run(load(args.target, args.clients, args.seconds))


if __name__ == "__main__":
    main()
