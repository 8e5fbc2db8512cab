"""P3, counted: many writes of an exactly-once client, and of every so many the reply is lost when it was applied."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, Final

from everlatch.devserver.options import Options
from everlatch.devserver.tree import Create, SetData
from everlatch.testing.simulation.scenarios.stage import CommitLog, expect

if TYPE_CHECKING:
    from everlatch.client import Client
    from everlatch.devserver.entries import Entry
    from everlatch.testing.simulation.world import World

__all__ = ["exactly_once"]

_LIST: Final = "/list"
_NODE: Final = f"{_LIST}/n-"
_REGISTER: Final = "/register"


class _Ledger(CommitLog):
    """Which number was applied as what, and nothing else: there are many."""

    def __init__(self, world: World, every: int) -> None:
        super().__init__()
        self._world, self._every = world, every
        self.applied: dict[int, tuple[int, str]] = {}
        """Number → zxid and path, in the order in which they were applied."""
        self.losses = 0

    def committed(self, entry: Entry) -> None:
        """One more member has committed that."""
        if entry.zxid <= self.last_zxid:
            return
        self.last_zxid = entry.zxid
        for change in entry.transaction.changes:
            if isinstance(change, Create | SetData) and (change.data or b"").startswith(b"#"):
                self._enter(entry.zxid, int((change.data or b"")[1:]), change.path)

    def _enter(self, zxid: int, number: int, path: str) -> None:
        expect(number not in self.applied, f"{number} was applied as {self.applied.get(number)} and at 0x{zxid:x}")
        self.applied[number] = zxid, path
        if len(self.applied) % self._every == 0:
            self.losses += 1
            for stream in self._world.network.connections:
                stream.reset()  # before the server has said so


def exactly_once(world: World, writes: int, *, window: int, every: int = 50, servers: int = 3) -> None:
    """That many creations of sequential nodes and changes of one node, in turn, `window` of them unanswered at a time:
    each is applied once, in its order, and its caller is told how. Raises `PromiseBrokenError`."""
    ledger = _Ledger(world, every)
    world.ensemble(servers, member=lambda number, numbers, now: ledger.member(number, numbers, Options(), now))
    app = world.host("app")
    settled = 0

    async def main() -> None:
        nonlocal settled
        async with app.client(exactly_once=True, start_timeout=60.0) as client:
            await client.create(_LIST)
            await client.create(_REGISTER)
            under_way: deque[tuple[int, Any]] = deque()
            for number in range(writes):
                if len(under_way) == window:
                    await _compare(ledger, *under_way.popleft())
                under_way.append((number, _write(client, number)))
            while under_way:
                await _compare(ledger, *under_way.popleft())
            settled = client.statistics().outcomes_settled

    world.run(main(), on=app)
    expect([*ledger.applied] == [*range(writes)], f"{writes} writes were applied in this order: {[*ledger.applied]}")
    expect(ledger.losses == writes // every, f"{ledger.losses} replies were lost")
    expect(settled >= ledger.losses, f"{settled} outcomes were settled after {ledger.losses} losses")


def _write(client: Client, number: int) -> Any:
    data = b"#%d" % number
    return client.set(_REGISTER, data) if number % 2 else client.create(_NODE, data, sequential=True)


async def _compare(ledger: _Ledger, number: int, call: Any) -> None:
    """The end of a call with what was applied. Raises what it ends with."""
    told = await call
    zxid, path = ledger.applied[number]
    if number % 2:
        expect(told.mzxid == zxid, f"{number} was applied at 0x{zxid:x}, and told as {told}")
    else:
        expect((told.path, told.stat.czxid) == (path, zxid), f"{number} was {path} at 0x{zxid:x}, and told as {told}")
