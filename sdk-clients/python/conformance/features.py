"""Everything that a method and a client in Python can do, at a real sidecar: `features.py CASE` hosts what the case
needs, asserts what it sees, and ends with 0. `tests/e2e/python_features.rs` runs every case of `CASES`."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta, timezone

from looking import fails, until
from maps import Shelf, maps

import kar

LIMIT = 60.0
"""Longest time that a case may take, seconds."""

GIVEN_UP = 40
"""More calls than there are credits in the case that gives them up."""

KEYS = 16
"""Affinity keys that are looked at."""

QUICK = kar.RetryPolicy(3, 0.001, 0.005, 2.0)


class Stage:
    """Where methods say what they do, and wait until the case lets them go on."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self._changed = asyncio.Condition()
        self._open: set[str] = set()

    async def note(self, what: str) -> None:
        """Something happens."""
        async with self._changed:
            self.log.append(what)
            self._changed.notify_all()

    async def until(self, what: str, times: int = 1) -> None:
        """Waits until something has happened so often."""
        async with self._changed:
            await self._changed.wait_for(lambda: self.log.count(what) >= times)

    async def open(self, gate: str) -> None:
        """Lets those go on who wait at a gate, and who come to it later."""
        async with self._changed:
            self._open.add(gate)
            self._changed.notify_all()

    async def enter(self, gate: str) -> None:
        """Waits at a gate."""
        async with self._changed:
            await self._changed.wait_for(lambda: gate in self._open)


stage = Stage()


class Walker(kar.Actor):
    """Goes on by tail calls, in every form."""

    @kar.method
    async def first(self, keep_lock: bool) -> list[int]:
        self.state.set("at", "first")
        await stage.note("first")
        await stage.enter("first")
        me = self.turn.actor(Walker, self.id)
        return kar.tail_keeping_lock(me.second) if keep_lock else kar.tail(me.second)

    @kar.method
    async def second(self) -> list[int]:
        self.state.set("at", "second")
        await stage.note("second")
        return kar.tail(self.turn.actor(Walker, "another").third, self.turn.step)

    @kar.method
    async def third(self, second: int) -> list[int]:
        assert (self.id, second, self.turn.step) == ("another", 2, 3)
        return self.turn.service("walk").tail("last", self.turn.step, list[int])

    @kar.method
    async def look(self) -> str:
        await stage.note("look")
        return await self.state.get("at", str, "")

    @kar.method
    async def endless(self) -> str:
        await stage.note("endless")
        await asyncio.Event().wait()
        return "never"

    @kar.method
    async def tidy(self) -> str:
        await stage.note("tidy")
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return "tidied"
        return "never"

    @kar.method
    async def dance(self, partner: str) -> str:
        await stage.note("dance")
        await stage.enter("dance")
        try:
            await self.turn.actor(Walker, partner).look()
        except kar.Deadlock as deadlock:
            return deadlock.cycle
        return ""


class Walk(kar.Service, name="walk"):
    """Where walks end."""

    @kar.method
    async def last(self, third: int) -> list[int]:
        return [third, self.turn.step]


class Later(kar.Service, name="later"):
    """Is hosted when others have long given it up."""

    @kar.method
    async def work(self) -> None:
        await stage.note("works later")


class Cell(kar.Actor):
    """Has a sum."""

    @kar.method
    async def add(self, amount: int) -> int:
        total = await self.state.get("sum", int, 0) + amount
        self.state.set("sum", total)
        if amount == 13:
            raise kar.ApplicationError("unlucky", "13 is not added")
        return total

    @kar.method
    async def spread(self, amount: int) -> int:
        left, right = self.turn.actor(Cell, "left"), self.turn.actor(Cell, "right")
        both = await asyncio.gather(left.add(1), right.add(amount), return_exceptions=True)
        self.state.set("spread", amount)
        total = 0
        for one in both:
            if isinstance(one, BaseException):
                raise one
            total += one
        return total

    @kar.method
    async def pay(self) -> list[int]:
        async def pay() -> int:
            await stage.note("paid")
            return stage.log.count("paid")

        receipt = await self.turn.once("pay", pay, int)
        credited = await self.turn.actor(Cell, "shop", step_key="credit").add(30)
        if self.turn.attempt < 3:
            raise kar.ApplicationError("busy", "try again", retryable=True)
        return [receipt, credited]

    @kar.method
    async def mix_up(self) -> int:
        async def one() -> int:
            return 1

        await self.turn.once("key", one, int)
        return await self.turn.actor(Cell, "shop", step_key="key").add(1)

    @kar.method(shared=True)
    async def read(self) -> int:
        await stage.note("reads")
        await stage.enter("read")
        return await self.state.get("sum", int, 0)

    @kar.method(shared=True)
    async def scribble(self) -> None:
        self.state.set("sum", -1)

    @kar.method
    async def segments(self) -> None:
        self.state.set("flushed", 1)
        await self.turn.flush()
        self.state.set("dropped", 1)
        raise kar.ApplicationError("broken", "behind the flush")


class Clock(kar.Actor):
    """Is reminded."""

    @kar.method
    async def ring(self, what: str) -> None:
        assert self.turn.is_tell
        self.state.set("rung", await self.state.get("rung", int, 0) + 1)
        await stage.note(what)

    @kar.method
    async def wind(self, fails: bool) -> int:
        hour = timedelta(hours=1)
        await self.reminders.schedule(kar.Reminder("own", "ring", "own", hour, hour))
        if fails:
            raise kar.ApplicationError("broken", "the spring")
        return len(await self.reminders.list())

    @kar.method
    async def work(self) -> str:
        await stage.note("works")
        await stage.enter("work")
        return "done"

    async def on_deactivate(self) -> None:
        await stage.note(f"{self.id} rests")


class Desk(kar.Service, name="desk"):
    """Answers who it is."""

    def __init__(self, name: str = "") -> None:
        self.name = name

    @kar.method
    async def look(self) -> list[bool]:
        """Whether the invocation is a direct one, and whether its turn has a token."""
        await self.turn.flush()
        return [self.turn.is_direct, bool(self.turn.token)]

    @kar.method(retry=QUICK)
    async def fails(self) -> None:
        await stage.note("direct" if self.turn.is_direct else "durable")
        raise kar.ApplicationError("busy", "try again", retryable=True)

    @kar.method
    async def who(self) -> str:
        return self.name

    @kar.method
    async def asks(self) -> list[bool]:
        return await self.turn.service(Desk, direct=True).look()


class Poison(kar.Actor):
    """Kills its host until there is a cure."""

    @kar.method
    async def swallow(self, cure: str) -> int:
        if not os.path.exists(cure):
            os._exit(1)
        return self.turn.attempt


async def queued(client: kar.Client, id: str, count: int) -> None:
    """Waits until an actor has so many invocations queued."""

    async def look() -> bool | None:
        actors = await client.operator.actors("Walker").up_to(100)
        return any(a.id == id and a.queued == count and a.is_busy for a in actors) or None

    await until(f"{count} queued at {id}", look)


async def tails(client: kar.Client) -> None:
    """A method hands on: to itself with and without the lock, to another actor, to a service."""
    for keep_lock in (True, False):
        global stage
        stage = Stage()
        walker = client.actor(Walker, f"keeps-{keep_lock}")
        walking = asyncio.create_task(walker.first(keep_lock))
        await stage.until("first")
        looking = asyncio.create_task(walker.look())
        await queued(client, f"keeps-{keep_lock}", 1)
        await stage.open("first")
        assert await walking == [3, 4], "the caller gets the last step's outcome"
        seen = await looking
        if keep_lock:
            assert (stage.log, seen) == (["first", "second", "look"], "second"), stage.log
        else:
            assert (stage.log, seen) == (["first", "look", "second"], "first"), stage.log


async def joins(client: kar.Client) -> None:
    """Branches are joined, also where one fails; segments stay or go as a whole."""
    home = client.actor(Cell, "home")
    assert (await fails(kar.ApplicationError, home.spread(13))).code == "unlucky"
    assert await client.actor("Cell", "home").committed_state() == {}
    assert await home.spread(5) == 2 + 5, "what the other branch had done has stayed"
    broken = client.actor(Cell, "broken")
    assert (await fails(kar.ApplicationError, broken.segments())).code == "broken"
    assert list(await client.actor("Cell", "broken").committed_state()) == ["flushed"]


async def steps(client: kar.Client) -> None:
    """Steps and keyed calls are done once over retries; the last one's error is the outcome."""
    assert await client.actor(Cell, "home", retry=QUICK).pay() == [1, 30]
    assert stage.log.count("paid") == 1
    twice = client.actor(Cell, "other", retry=kar.RetryPolicy(2, 0.001))
    assert (await fails(kar.ApplicationError, twice.pay())).code == "busy"
    assert await client.actor(Cell, "shop").add(0) == 60
    error = await fails(kar.ApplicationError, client.actor(Cell, "home").mix_up())
    assert error.code == "step_key_reused", error


async def shared(client: kar.Client) -> None:
    """Shared methods run beside each other, and change nothing."""
    cell = client.actor(Cell, "c")
    assert await cell.add(7) == 7
    both = [asyncio.create_task(cell.read()) for _ in range(2)]
    await stage.until("reads", 2)
    adding = asyncio.create_task(cell.add(1))
    await stage.open("read")
    assert await asyncio.gather(*both) == [7, 7] and await adding == 8
    assert "SHARED_TURN" in str(await fails(kar.ApplicationError, cell.scribble()))


async def cancels(client: kar.Client) -> None:
    """What runs is told to stop, what waits ends at once, and what is late never runs."""
    walker = client.actor(Walker, "w")
    endless = await kar.start(walker.endless)
    await stage.until("endless")
    waits = await kar.start(walker.look)
    late = client.actor(Walker, "w", start_within=0.05)
    await fails(kar.Expired, late.look())
    assert await client.cancel(waits.id) == "cancelled"
    await fails(kar.Cancelled, waits.result())
    assert await client.cancel(endless.id) == "requested"
    await fails(kar.Cancelled, endless.result())
    assert await client.cancel(endless.id) == "ended"
    assert stage.log == ["endless"], stage.log
    tidy = await kar.start(walker.tidy)
    await stage.until("tidy")
    assert await client.cancel(tidy.id) == "requested"
    assert await tidy.result() == "tidied"
    nobody = "s.walk/0/0192aaaa-0000-7000-8000-000000000000"
    await fails(kar.UnknownInvocation, client.cancel(nobody))


async def keys(client: kar.Client) -> None:
    """What is sent again under its key is done once."""
    for _ in range(2):
        assert await client.actor(Cell, "c", idempotency_key="k1").add(5) == 5
    await fails(kar.IdempotencyKeyReused, client.actor(Cell, "c", idempotency_key="k1").add(6))


async def circles(client: kar.Client) -> None:
    """Who waits in a circle is told which."""
    dances = [
        asyncio.create_task(client.actor(Walker, id).dance(partner))
        for id, partner in (("x", "y"), ("y", "x"))
    ]
    await stage.until("dance", 2)
    await stage.open("dance")
    [told] = [cycle for cycle in await asyncio.gather(*dances) if cycle]
    assert "Walker/x" in told and "Walker/y" in told, told


async def reminders(client: kar.Client) -> None:
    """Reminders ring once, again, by cron, and for what was missed; those of a method are part of it."""
    own, now = client.reminders(Clock, "c"), datetime.now(timezone.utc)
    await own.schedule(kar.Reminder("once", "ring", "once"))
    await own.schedule(kar.Reminder("again", "ring", "again", every=timedelta(milliseconds=20)))
    await stage.until("once")
    await stage.until("again", 3)
    later = now + timedelta(hours=1)
    assert abs(await own.schedule(kar.Reminder("again", "ring", "again", later)) - later) < timedelta(seconds=1)
    past, minutes = now - timedelta(seconds=150), kar.Cron("* * * * *", "Europe/Zurich")
    for id, policy in (("each", kar.CatchUp.EACH), ("one", kar.CatchUp.ONCE), ("none", kar.CatchUp.SKIP)):
        await own.schedule(kar.Reminder(id, "ring", id, past, minutes, policy))
    await stage.until("each", 3)
    await stage.until("one")

    async def ahead() -> list[kar.Reminder] | None:
        listed = await own.list()
        return listed if all(isinstance(r.due, datetime) and r.due > now for r in listed) else None

    listed = await until("the next due times", ahead)
    assert [r.id for r in listed] == ["again", "each", "none", "one"], listed
    assert (listed[1].every, listed[1].catch_up) == (minutes, kar.CatchUp.EACH)
    assert listed[1].argument.decode(str) == "each"
    assert stage.log.count("none") == 0 and stage.log.count("one") <= 2, stage.log
    wrong = await fails(kar.Rejected, own.schedule(kar.Reminder("x", "ring", every=kar.Cron("* * * *"))))
    assert wrong.reason == "INVALID_FIELD" and "cron" in wrong.metadata["field"], wrong.metadata
    assert await own.cancel("each") and not await own.cancel("each")
    assert await own.cancel_all() == 3 and await own.list() == []
    wound = client.actor(Clock, "wound")
    await fails(kar.ApplicationError, wound.wind(True))
    assert await client.reminders(Clock, "wound").list() == [], "nothing of it has stayed"
    assert await wound.wind(False) == 1
    assert [r.id for r in await client.reminders(Clock, "wound").list()] == ["own"]


async def life(client: kar.Client) -> None:
    """An actor rests when it is idle, and is removed with all that it has."""
    clock = client.actor(Clock, "c")
    await kar.tell(clock.ring, "called")
    assert await clock.wind(False) == 1
    await stage.until("c rests")
    state = client.actor("Clock", "c").committed_state
    assert list(await state()) == ["rung"]
    assert await client.actor("Clock", "c").committed("rung", int) == 1
    assert await client.actor("Clock", "c").committed("nothing") is None
    await client.remove(Clock, "c")
    assert await state() == {} and await client.reminders(Clock, "c").list() == []
    assert (await fails(kar.Rejected, client.remove("Nobody", "n"))).reason == "UNKNOWN_TYPE"


async def operators(client: kar.Client) -> None:
    """What is unfinished and what has failed is seen, sent again and dropped; and the node hands over."""
    operator, clock = client.operator, client.actor(Clock, "c")
    working = await kar.start(clock.work)
    await stage.until("works")
    told = await kar.tell(clock.wind, True)
    listing = operator.invocations("Clock", page_size=1)
    views = {view.method: view async for view in listing}
    assert not listing.left_out, listing.left_out
    assert await operator.invocation(working.id) == views["work"]
    seen = views["work"]
    assert (seen.id, seen.mode, seen.state, seen.node) == (working.id, "start", "running", client.node), seen
    assert (str(seen.target), seen.attempt, seen.end) == ("Clock/c", 1, None), seen
    assert (views["wind"].id, views["wind"].state) == (told, "queued"), views
    [busy] = await operator.actors("Clock").up_to(9)
    assert (busy.queued, busy.is_busy) == (1, True), busy
    assert (await fails(kar.Rejected, client.resume(working.id))).reason == "NOT_PARKED"
    await stage.open("work")
    assert await working.result() == "done"
    assert (await operator.invocation(working.id)).end == "done"

    async def letters() -> list[kar.DeadLetter] | None:
        return await operator.dead_letters("Clock").up_to(9) or None

    [letter] = await until("a dead letter", letters)
    assert letter.id == told and letter.error and letter.error.code == "broken", letter
    assert (await operator.invocation(told)).end == "failed"
    again = await operator.redrive(told)
    await fails(kar.UnknownInvocation, operator.redrive(told))
    [letter] = await until("the new one to fail", letters)
    assert letter.id == again
    await operator.discard(again)
    await fails(kar.UnknownInvocation, operator.discard(again))
    assert await operator.dead_letters().up_to(9) == []
    info = await operator.info()
    assert info.application == client.application and info.partitions and not info.faults, info
    assert info.node in await operator.nodes()
    await operator.drain()
    assert (await operator.info()).partitions == ()


async def forgets(client: kar.Client) -> None:
    """More calls are given up than there are credits, and others can be made; those that were given up go on."""
    later = client.service("later")
    # Its kind is known from here on, so that calls to it are owed at once.
    await later.tell("work")
    for _ in range(GIVEN_UP):
        call = asyncio.create_task(later.call("work"))
        await asyncio.sleep(0)
        # What was asked for behind it is answered, so it is under way.
        assert await client.state.get("nothing", int) is None
        call.cancel()
        await asyncio.wait([call])
        assert call.cancelled()
    host = kar.Host(Later)
    await host.start()
    await stage.until("works later", GIVEN_UP + 1)
    await later.call("work")
    assert stage.log.count("works later") == GIVEN_UP + 2, "each ran once"
    host.shutdown()
    await host.wait()


async def states(client: kar.Client) -> None:
    """The application's state is written together, under conditions, and for a time."""
    state = client.state

    async def lease() -> str | bool:
        [done] = await state.transact(kar.Set("lock", "me", if_etag="*", time_to_live=0.25))
        return done

    assert await lease()
    assert (await fails(kar.ConditionFailed, lease())).key == "lock", "somebody has it"

    async def again() -> str | bool | None:
        try:
            return await lease()
        except kar.ConditionFailed:
            return None

    await until("the lock to expire", again)
    etag, deleted = await state.transact(kar.Set("a", 1), kar.Delete("nothing"))
    assert isinstance(etag, str) and deleted is False, (etag, deleted)
    await state.set("a", 2)
    stale = state.transact(kar.Set("b", 1), kar.Set("a", 3, if_etag=etag))
    assert (await fails(kar.ConditionFailed, stale)).key == "a"
    assert await state.get("b", int) is None, "nothing of it was done"
    assert await state.get("a", int) == 2
    assert await state.delete("a") and not await state.delete("a")


async def directs(client: kar.Client) -> None:
    """Direct calls go past all logs, are made once, and need a host that is there."""
    await fails(kar.NoHost, client.service("nobody", direct=True).call("look"))
    direct, durable = client.service(Desk, direct=True), client.service(Desk)
    assert await direct.look() == [True, False]
    assert await durable.look() == [False, True]
    assert await durable.asks() == [True, False], "a turn may make one, too"
    for desk, what, times in ((direct, "direct", 1), (durable, "durable", 3)):
        assert (await fails(kar.ApplicationError, desk.fails())).code == "busy"
        assert stage.log.count(what) == times, f"{what}: {stage.log}"


async def affinity(client: kar.Client) -> None:
    """Calls with one key are handled by one owner, here and at the sidecar of `argv[2]`."""
    hosts = {"a": kar.Host(Desk("a")), "b": kar.Host(Desk("b"), socket=sys.argv[2])}
    for host in hosts.values():
        await host.start()

    async def owners() -> list[str]:
        return [await client.service(Desk, affinity_key=f"k{key}").who() for key in range(KEYS)]

    before: list[str] = []

    async def shared() -> bool | None:
        nonlocal before
        last, before = before, await owners()
        return (before == last and set(before) == set(hosts)) or None

    await until("the hosts to share the keys", shared)
    for _ in range(5):
        assert await owners() == before, "each key has its owner"
    # Without a key it is open which of them it is: both get some.
    for name in hosts:

        async def called(name: str = name) -> bool | None:
            return await client.service(Desk).who() == name or None

        await until(f"{name} to be called", called)
    hosts["b"].shutdown()
    await hosts["b"].wait()
    assert set(await owners()) == {"a"}, "it leaves them to the other one"
    hosts["a"].shutdown()
    await hosts["a"].wait()


async def shut_down(client: kar.Client) -> None:
    """The sidecar ends; what runs is not cut off."""
    host = kar.Host(Clock)
    await host.start()
    # Asked for at the other sidecar, which stays.
    async with kar.connect(socket=sys.argv[2]) as other:
        working = await kar.start(other.actor(Clock, "c").work)
        await stage.until("works")
        await client.operator.shut_down()
        await stage.open("work")
        assert await working.result() == "done"
        assert stage.log == ["works"], stage.log
    await host.abort()


async def parked(client: kar.Client) -> None:
    """Beside a host (`poison`) that its method kills: it is parked, and resumed."""
    cure = sys.argv[2]
    swallowed = await client.actor("Poison", "p").start("swallow", cure, int)

    async def look() -> kar.InvocationView | None:
        view = await client.operator.invocation(swallowed.id)
        return view if view.state == "parked" else None

    view = await until("it to be parked", look)
    assert view.last_attempt_end is not None and view.last_attempt_end.cause == "host_lost", view
    with open(cure, "w"):
        await client.resume(swallowed.id)
    assert await swallowed.result() == 3, "two attempts were lost"


CASES: dict[str, Callable[[kar.Client], Awaitable[None]]] = {
    "tails": tails,
    "joins": joins,
    "steps": steps,
    "shared": shared,
    "cancels": cancels,
    "keys": keys,
    "circles": circles,
    "reminders": reminders,
    "life": life,
    "operators": operators,
    "directs": directs,
    "states": states,
    "maps": maps,
}


CLIENTS: dict[str, Callable[[kar.Client], Awaitable[None]]] = {
    "parked": parked,
    "forgets": forgets,
    "affinity": affinity,
    "shut_down": shut_down,
}
"""Those that begin without a host."""


async def main(case: str) -> None:
    """Runs a case."""
    async with asyncio.timeout(LIMIT):
        if case in CLIENTS:
            async with kar.connect() as client:
                return await CLIENTS[case](client)
        host = kar.Host(Walker, Walk, Cell, Clock, Desk, Shelf)
        await host.start()
        await CASES[case](host.client)
        host.shutdown()
        await host.wait()


if __name__ == "__main__":
    if sys.argv[1] == "poison":
        kar.run(Poison)
    else:
        asyncio.run(main(sys.argv[1]))
