"""The bank of the Rust SDK's samples in Python: accounts and a ledger (actors), and a teller (a
service) that moves money between accounts by two nested calls and then tells the ledger.

    kar run --app bank --actors Account,Ledger -- python sdk-clients/python/samples/bank/bank.py accounts
    kar run --app bank --service teller        -- target/release/examples/bank teller
    kar run --app bank                         -- target/release/examples/bank load

Any part may be hosted in either language (`accounts`, `teller` or `both`), and be killed at any time:

- An account changes its balance and notes the transfer's id in one turn, so both happen or neither,
  and no two turns interleave. A teller that was cut off runs again from the start and posts with the
  same id, which the account knows already.
- The ledger trusts the runtime alone: it counts what it is told, without any ids. One counted twice
  would be a repeated turn, one missing a lost one.
"""

import logging
import sys
from dataclasses import dataclass
from typing import TypedDict

import kar

LEDGERS = 8
"""Actors that the ledger is spread over."""

NOTE = "t/"
"""Prefix of the state keys under which transfers are noted."""

BACK = "/back"
"""Suffix of the posting that gives the payer the money back."""

BALANCE_MAX = (1 << 63) - 1
"""Most that an account can hold: others count in 64 bits."""


# A transfer's fields are named by the contract between the parts, and `from` is a word of Python.
Transfer = TypedDict("Transfer", {"id": str, "from": str, "to": str, "amount": int})
"""Money to be moved."""


@dataclass
class Posting:
    """One side of a transfer: the account takes it once. Negative amounts go out."""

    id: str
    amount: int


@dataclass
class Note:
    """What an account notes about a transfer; `asked`: how often it was asked for."""

    amount: int
    asked: int


@dataclass
class Statement:
    """The books of one account."""

    balance: int
    notes: dict[str, Note]


class Account(kar.Actor):
    @kar.method
    async def open(self, balance: int) -> int:
        """Gives a new account its first money; leaves an old one as it is."""
        known = await self.state.get("balance", int)
        if known is None:
            self.state.set("balance", balance)
        return balance if known is None else known

    @kar.method
    async def deposit(self, amount: int) -> int:
        """Puts money in. Returns what is there then."""
        return await self._change(positive(amount))

    @kar.method
    async def withdraw(self, amount: int) -> int:
        """Takes money out: `insufficient_funds` if there is too little."""
        return await self._change(-positive(amount))

    @kar.method(shared=True)
    async def balance(self) -> int:
        """What is there."""
        return await self.state.get("balance", int, 0)

    @kar.method
    async def apply(self, posting: Posting) -> int:
        """Takes one side of a transfer, once however often it is asked."""
        key = f"{NOTE}{posting.id}"
        known = await self.state.get_many(["balance", key, key + BACK])
        if key + BACK in known:
            # A teller was cut off after it had given the money back: it has failed for good.
            raise kar.ApplicationError("given_back", f"{posting.id} has failed before")
        balance: int = known["balance"].decode(int) if "balance" in known else 0
        if key in known:
            note = known[key].decode(Note)
            self.state.set(key, Note(note.amount, note.asked + 1))
            return balance
        balance = total(balance, posting.amount)
        self.state.set("balance", balance)
        self.state.set(key, Note(posting.amount, 1))
        return balance

    @kar.method(shared=True)
    async def audit(self) -> Statement:
        """The books."""
        everything = await self.state.get_all()
        notes = {k.removeprefix(NOTE): v for k, v in everything.items() if k.startswith(NOTE)}
        balance = everything["balance"].decode(int) if "balance" in everything else 0
        return Statement(balance, {key: value.decode(Note) for key, value in notes.items()})

    async def _change(self, amount: int) -> int:
        balance = total(await self.state.get("balance", int, 0), amount)
        self.state.set("balance", balance)
        return balance


class Ledger(kar.Actor):
    @kar.method
    async def record(self, id: str) -> None:
        """Counts a transfer."""
        key = f"{NOTE}{id}"
        self.state.set(key, await self.state.get(key, int, 0) + 1)

    @kar.method(shared=True)
    async def audit(self) -> dict[str, int]:
        """How often each transfer was counted."""
        everything = await self.state.get_all()
        notes = {k.removeprefix(NOTE): v for k, v in everything.items() if k.startswith(NOTE)}
        return {key: value.decode(int) for key, value in notes.items()}


class Teller(kar.Service, name="teller"):
    @kar.method
    async def transfer(self, order: Transfer) -> None:
        """Moves money. If the payee refuses, the payer gets it back."""
        id, amount = order["id"], positive(order["amount"])
        payer = self.turn.actor(Account, order["from"])
        payee = self.turn.actor(Account, order["to"])
        await payer.apply(Posting(id, -amount))
        try:
            await payee.apply(Posting(id, amount))
        except kar.ApplicationError:
            await payer.apply(Posting(id + BACK, amount))
            raise
        await kar.tell(self.turn.actor(Ledger, ledger_of(id)).record, id)


def ledger_of(transfer: str) -> str:
    """The ledger that a transfer is noted in."""
    number = 0
    for byte in transfer.encode():
        number = (number * 31 + byte) & 0xFFFF_FFFF
    return str(number % LEDGERS)


def total(balance: int, amount: int) -> int:
    """What is there after a change."""
    changed = balance + amount
    if changed < 0:
        text = f"{balance} is too little to pay {-amount}"
        raise kar.ApplicationError("insufficient_funds", text)
    if changed > BALANCE_MAX:
        raise kar.ApplicationError("overflow", "more than an account can hold")
    return changed


def positive(amount: int) -> int:
    """The amount, if it is one."""
    if amount <= 0:
        text = f"an amount is more than nothing, not {amount}"
        raise kar.ApplicationError("invalid_amount", text)
    return amount


PARTS: dict[str, tuple[type[kar.Service] | type[kar.Actor], ...]] = {
    "accounts": (Account, Ledger),
    "teller": (Teller,),
    "both": (Account, Ledger, Teller),
}


def main() -> None:
    part = sys.argv[1] if len(sys.argv) > 1 else "both"
    if part not in PARTS:
        sys.exit(f"the parts of the bank are {', '.join(PARTS)}, not {part}")
    logging.basicConfig(level=logging.INFO)
    kar.run(*PARTS[part])


if __name__ == "__main__":
    main()
