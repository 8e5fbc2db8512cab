"""What real servers, client processes, their links and proxies suffer.

Rules of this file: a fault is chosen when it happens, for what is there then; it is applied once and healed once, and
faults overlap. What is healed with the whole network at once (partitions) ends the other faults of links as well.
"""

from __future__ import annotations

import asyncio
import contextlib
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar, Final, Self

from everlatch.testing.network import NetworkEnsemble
from everlatch.testing.process import EnsembleError
from everlatch.wire.codes import Op

if TYPE_CHECKING:
    from collections.abc import Mapping
    from random import Random

    from everlatch.testing import Ensemble, Proxy, Server
    from everlatch.testing.process import ClientProcess

__all__ = [
    "KINDS",
    "ClientsPaused",
    "ClientsUnplugged",
    "RealFault",
    "Schedule",
    "ServerKilled",
    "ServerPaused",
    "ServerUnplugged",
    "Split",
    "Theatre",
]

_WRITES: Final = (Op.SET_DATA, Op.CREATE2, Op.DELETE, Op.MULTI)


class Theatre:
    """Everything that can suffer."""

    def __init__(self, ensemble: Ensemble, proxies: list[Proxy], processes: list[ClientProcess]) -> None:
        self.ensemble, self.proxies, self.processes = ensemble, proxies, processes
        self.spoilt: list[str] = []
        """Servers that did not start again from what they had on disk."""

    @property
    def network(self) -> NetworkEnsemble | None:
        """Where links can be pulled."""
        return self.ensemble if isinstance(self.ensemble, NetworkEnsemble) else None

    async def heal(self) -> None:
        """Everything is as it was; returns when all servers serve."""
        for proxy in self.proxies:
            proxy.heal()
            proxy.accept()
        if self.network is not None:
            await self.network.heal()
        for process in self.processes:
            process.resume()
        for server in self.ensemble.servers:
            await _run_again(server)
        down = [server for server in self.ensemble.servers if not await _serves(server)]
        for server in down:
            # Killed in the wrong moment, a server may refuse to start from what is on its disk ("The current epoch is
            # older than the last zxid"). As an administrator would have it, it gets all from the others then.
            self.spoilt.append(server.name)
            data = server.data_dir / "version-2"
            data.rename(data.with_name(f"spoilt-{len(self.spoilt)}-{data.stat().st_ino}"))
            await server.start()


async def _serves(server: Server) -> bool:
    """Whether it does, sooner or later; if it runs, it has to."""
    try:
        await server.wait_serving()
    except EnsembleError:
        if server.running:
            raise
        return False
    return True


async def _run_again(server: Server) -> None:
    server.resume()
    if not server.running:
        with contextlib.suppress(EnsembleError):  # another fault's end was faster
            await server.start(wait=False)


class RealFault(ABC):
    """One thing that goes wrong. `target` is a name."""

    mean_duration: ClassVar[float] = 3.0
    """Seconds; 0: over at once."""
    hides: ClassVar[bool] = False
    """See `torture.history.Fault`."""

    def __init__(self, theatre: Theatre, target: str) -> None:
        self.theatre, self.target = theatre, target

    def __str__(self) -> str:
        return f"{type(self).__name__}({self.target})"

    @classmethod
    @abstractmethod
    def choose(cls, theatre: Theatre, rng: Random) -> Self | None:
        """One that makes sense now."""

    @abstractmethod
    async def apply(self, rng: Random) -> None:
        """It happens."""

    async def heal(self) -> None:  # noqa: B027 - some are over at once
        """It is over."""


# -- servers


class _ServerFault(RealFault):
    @classmethod
    def choose(cls, theatre: Theatre, rng: Random) -> Self | None:
        running = [server for server in theatre.ensemble.servers if server.running and not server.paused]
        return cls(theatre, rng.choice(running).name) if running else None

    @property
    def server(self) -> Server:
        """Whose turn it is."""
        return next(server for server in self.theatre.ensemble.servers if server.name == self.target)


class ServerKilled(_ServerFault):
    """kill -9, and started again."""

    async def apply(self, rng: Random) -> None:
        await self.server.kill()

    async def heal(self) -> None:
        await _run_again(self.server)


class ServerPaused(_ServerFault):
    """SIGSTOP, and SIGCONT."""

    hides = True

    async def apply(self, rng: Random) -> None:
        self.server.pause()

    async def heal(self) -> None:
        self.server.resume()


# -- links


class ServerUnplugged(_ServerFault):
    """A server's cables are pulled, or that to the other servers alone."""

    hides = True
    mean_duration = 5.0

    @classmethod
    def choose(cls, theatre: Theatre, rng: Random) -> Self | None:
        return super().choose(theatre, rng) if theatre.network is not None else None

    async def apply(self, rng: Random) -> None:
        assert self.theatre.network is not None
        await self.theatre.network.link_down(self.target, rng.choice(["peers", "both"]))

    async def heal(self) -> None:
        assert self.theatre.network is not None
        await self.theatre.network.link_up(self.target)


class Split(_ServerFault):
    """A partition: a server and some client processes on one side, all others on the other."""

    hides = True

    @classmethod
    def choose(cls, theatre: Theatre, rng: Random) -> Self | None:
        return super().choose(theatre, rng) if theatre.network is not None else None

    async def apply(self, rng: Random) -> None:
        network = self.theatre.network
        assert network is not None
        clients = [process.name for process in self.theatre.processes]
        some = {self.target, *rng.sample(clients, rng.randint(0, len(clients) - 1))}
        others = {server.name for server in network.servers} | set(clients)
        await network.partition(some, others - some)

    async def heal(self) -> None:
        assert self.theatre.network is not None
        await self.theatre.network.heal()


# -- client processes


class _ProcessFault(RealFault):
    @classmethod
    def choose(cls, theatre: Theatre, rng: Random) -> Self | None:
        running = [process for process in theatre.processes if process.running and not process.paused]
        return cls(theatre, rng.choice(running).name) if running else None

    @property
    def process(self) -> ClientProcess:
        """Whose turn it is."""
        return next(process for process in self.theatre.processes if process.name == self.target)


class ClientsPaused(_ProcessFault):
    """SIGSTOP, and SIGCONT, for a process with clients."""

    hides = True

    async def apply(self, rng: Random) -> None:
        self.process.pause()

    async def heal(self) -> None:
        self.process.resume()


class ClientsUnplugged(_ProcessFault):
    """The cable of a host with clients is pulled."""

    @classmethod
    def choose(cls, theatre: Theatre, rng: Random) -> Self | None:
        return super().choose(theatre, rng) if theatre.network is not None else None

    async def apply(self, rng: Random) -> None:
        assert self.theatre.network is not None
        await self.theatre.network.link_down(self.target)

    async def heal(self) -> None:
        assert self.theatre.network is not None
        await self.theatre.network.link_up(self.target)


# -- proxies


class _ProxyFault(RealFault):
    @classmethod
    def choose(cls, theatre: Theatre, rng: Random) -> Self | None:
        return cls(theatre, str(rng.randrange(len(theatre.proxies)))) if theatre.proxies else None

    @property
    def proxy(self) -> Proxy:
        """Whose turn it is."""
        return self.theatre.proxies[int(self.target)]

    async def heal(self) -> None:
        self.proxy.heal()
        self.proxy.accept()


class ConnectionsCut(_ProxyFault):
    """All connections through a proxy end."""

    mean_duration = 0.0

    async def apply(self, rng: Random) -> None:
        self.proxy.cut(rng.choice(["rst", "fin"]))


class ConnectionsTruncated(_ProxyFault):
    """They end after some more bytes, in one direction."""

    mean_duration = 0.5

    async def apply(self, rng: Random) -> None:
        self.proxy.truncate(rng.randrange(400), rng.choice(["to_client", "to_server"]))


class ReplyLost(_ProxyFault):
    """A write is executed, its reply lost, and the connection cut."""

    mean_duration = 0.0

    async def apply(self, rng: Random) -> None:
        for op in rng.sample(_WRITES, 2):
            self.proxy.lose_reply(op)


class RequestLost(_ProxyFault):
    """A request never reaches the server, and the connection is cut."""

    mean_duration = 0.0

    async def apply(self, rng: Random) -> None:
        self.proxy.lose_request(rng.choice([*_WRITES, Op.GET_DATA, Op.SET_WATCHES, Op.SYNC]))


class BlackHole(_ProxyFault):
    """Nothing passes, in one direction or both."""

    async def apply(self, rng: Random) -> None:
        self.proxy.black_hole(rng.choice(["to_client", "to_server", "both"]))


class Refused(_ProxyFault):
    """No new connections, and the old ones end."""

    async def apply(self, rng: Random) -> None:
        self.proxy.refuse(rng.choice(["rst", "fin"]))
        self.proxy.cut()


class Delayed(_ProxyFault):
    """Everything takes longer."""

    async def apply(self, rng: Random) -> None:
        self.proxy.delay(rng.choice([0.01, 0.1, 1.0]))


class Throttled(_ProxyFault):
    """A narrow link, or one that brings bytes one by one."""

    async def apply(self, rng: Random) -> None:
        if rng.random() < 0.5:
            self.proxy.throttle(rng.choice([500.0, 5000.0]))
        else:
            self.proxy.byte_by_byte("to_client")


KINDS: Final[dict[type[RealFault], float]] = {
    ServerKilled: 3.0,
    ServerPaused: 2.0,
    ServerUnplugged: 2.0,
    Split: 1.0,
    ClientsPaused: 1.0,
    ClientsUnplugged: 3.0,
    ConnectionsCut: 4.0,
    ConnectionsTruncated: 3.0,
    ReplyLost: 4.0,
    RequestLost: 2.0,
    BlackHole: 2.0,
    Refused: 1.0,
    Delayed: 1.0,
    Throttled: 1.0,
}
"""All kinds, and how often each happens compared to the others."""


class Schedule:
    """Faults at random, from a seed, one after the other and at the same time."""

    def __init__(
        self, theatre: Theatre, rng: Random, *, hiding: bool, kinds: Mapping[type[RealFault], float] = KINDS
    ) -> None:
        self._theatre, self._rng = theatre, rng
        self._kinds = {kind: weight for kind, weight in kinds.items() if hiding or not kind.hides}
        self._loop = asyncio.get_running_loop()
        self.applied: list[tuple[RealFault, float, float]] = []
        """Each with when it began and ended."""
        self._healing: set[asyncio.Task[None]] = set()

    async def run(self, until: float, mean_interval: float) -> None:
        """Faults until then, on the loop's clock; then all is healed."""
        while True:
            pause = self._rng.expovariate(1 / mean_interval)
            if self._loop.time() + pause >= until:
                break
            await asyncio.sleep(pause)
            kind = self._rng.choices(list(self._kinds), list(self._kinds.values()))[0]
            fault = kind.choose(self._theatre, self._rng)
            if fault is not None:
                await self._apply(fault, until)
        await asyncio.sleep(max(0.0, until - self._loop.time()))
        for task in self._healing:
            await task
        await self._theatre.heal()

    async def _apply(self, fault: RealFault, until: float) -> None:
        began = self._loop.time()
        await fault.apply(self._rng)
        if fault.mean_duration == 0.0:
            self.applied.append((fault, began, self._loop.time()))
            return
        lasts = min(self._rng.expovariate(1 / fault.mean_duration), 4 * fault.mean_duration, until - began)
        task = self._loop.create_task(self._heal(fault, began, lasts))
        self._healing.add(task)

    async def _heal(self, fault: RealFault, began: float, lasts: float) -> None:
        await asyncio.sleep(lasts)
        await fault.heal()
        self.applied.append((fault, began, self._loop.time()))
