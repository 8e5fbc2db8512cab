"""What scenarios have in common: servers and clients, faults, what is expected after the last heal.

Rules: everything is drawn from `world.random`. Session timeouts are short and faults frequent, so that little virtual
time has sessions lost, leaders elected and links broken several times; the faults themselves are those of the kit, all
of them, and last as long as they always do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, Protocol, TypeAlias, TypeVar

from everlatch.devserver.ensemble import Member
from everlatch.devserver.options import Options
from everlatch.errors import (
    NodeExistsError,
    OutcomeUnknownError,
    RequestKillsConnectionError,
    WriteNotAppliedError,
)
from everlatch.sasl import DigestMd5
from everlatch.testing.simulation.errors import SimulationError
from everlatch.testing.simulation.servers import EPOCH

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping, Sequence

    from everlatch.client import Client
    from everlatch.devserver.entries import Entry
    from everlatch.testing.simulation.faults import Fault
    from everlatch.testing.simulation.hosts import Host
    from everlatch.testing.simulation.world import World

__all__ = ["LOST", "SOON", "CommitLog", "PromiseBrokenError", "Stage", "Tenant", "Version", "expect", "make"]

Version: TypeAlias = Literal["3.5", "3.8", "3.9"]
"""As `Options.version`."""

SOON: Final = 60.0
"""Virtual seconds after the last heal, for what has no closer bound."""
LOST: Final = (OutcomeUnknownError, WriteNotAppliedError, RequestKillsConnectionError)
"""How a write without a timeout may end when replies are lost: nobody knows, or it was certainly not applied."""
_MOST_TOLD: Final = 5
_SECURED: Final = 0.25
_USER: Final = ("sim", "pa55word")
_PATIENT: Final = 3600.0
"""A client that begins while everything fails keeps trying."""


class Tenant(Protocol):
    """Who lives on a host."""

    def live(self) -> Coroutine[Any, Any, None]:
        """What its process does."""
        ...


T = TypeVar("T", bound=Tenant)


class PromiseBrokenError(SimulationError):
    """A scenario saw what must not be."""


def expect(truth: object, what: str) -> None:
    """Raises `PromiseBrokenError` unless that is true."""
    if not truth:
        raise PromiseBrokenError(what)


class CommitLog:
    """What the members of an ensemble have committed."""

    def __init__(self) -> None:
        self.entries: dict[int, Entry] = {}
        """By zxid."""
        self.last_zxid = 0

    def member(self, number: int, numbers: Sequence[int], options: Options, now: float) -> Member:
        """One that writes down what it commits."""
        log = self

        class Recorded(Member):
            def _apply(self, entry: Entry, now: float) -> None:
                super()._apply(entry, now)
                log.committed(entry)

        return Recorded(number, numbers, options, EPOCH, now)

    def committed(self, entry: Entry) -> None:
        """One more member has committed that."""
        self.entries.setdefault(entry.zxid, entry)
        self.last_zxid = max(self.last_zxid, entry.zxid)

    def in_order(self) -> list[Entry]:
        """All of it."""
        return [self.entries[zxid] for zxid in sorted(self.entries)]


class Stage(NamedTuple):
    """The servers of one run, and how long its sessions last."""

    world: World
    tick: float
    session_timeout: float
    log: CommitLog
    mechanism: DigestMd5 | None
    """What clients have to authenticate with; `None`: servers let everybody in."""
    broken: list[str]
    """What was seen that must not be, where nothing can be raised: listeners are kept from harming anybody, and
    `PromiseBrokenError` is an error of ours like those that calls end with."""

    @classmethod
    def of(
        cls,
        world: World,
        log: CommitLog | None = None,
        *,
        ticks: Sequence[float] = (),
        size: int | None = None,
        version: Version = "3.9",
    ) -> Stage:
        """Three servers, mostly; or one, which is an ensemble too. Sometimes they demand SASL. `ticks`: how long a
        session may last."""
        rng = world.random("stage")
        tick = rng.choice([0.5, 1.0])
        log = log or CommitLog()
        secured = world.random("security").random() < _SECURED or world.demands_sasl
        mechanism = DigestMd5(*_USER) if secured else None
        options = Options(version, tick, sasl=dict([_USER]) if secured else None, require_auth=secured)
        drawn = 1 if rng.random() < 0.2 else 3
        world.ensemble(size or drawn, member=lambda number, numbers, now: log.member(number, numbers, options, now))
        timeouts = [number * tick for number in ticks] or [2.0, 4.0, 6.0]
        return cls(world, tick, rng.choice(timeouts), log, mechanism, [])

    def client(self, host: Host, **options: Any) -> Client:
        """One that keeps trying from the start on."""
        usual: dict[str, Any] = {"session_timeout": self.session_timeout, "start_timeout": _PATIENT}
        usual |= {"close_timeout": SOON, "sasl": self.mechanism}
        return host.client(**(usual | options))

    def inhabited(self, name: str, tenant: Callable[[Stage, Host], T]) -> T:
        """A host whose process does what the tenant does, also after every crash."""
        host = self.world.host(name)
        made = tenant(self, host)
        host.main = made.live
        host.boot()
        return made

    def note_unless(self, truth: object, what: str) -> None:
        """`judge` will tell, unless that is true."""
        if not truth:
            self.broken.append(f"{what}, at {self.world.now:.3f} s")

    def judge(self) -> None:
        """Raises `PromiseBrokenError` for what was noted."""
        expect(not self.broken, "; ".join(self.broken[:_MOST_TOLD]))

    async def faults(
        self, least: float = 15.0, most: float = 30.0, kinds: Mapping[type[Fault], float] | None = None
    ) -> None:
        """All kinds, or with other weights, for so many virtual seconds; then all is healed."""
        rng = self.world.random("scenario")
        await self.world.faults.run(rng.uniform(least, most), kinds, mean_interval=rng.choice([0.7, 1.5, 3.0]))


async def make(client: Client, path: str, data: bytes = b"") -> None:
    """There is a node, whatever happens meanwhile."""
    while True:
        try:
            await client.create(path, data)
        except NodeExistsError:
            return
        except LOST:
            continue
        return
