"""What the servers tell when they are asked over connections of their own: who lives, who serves, how far they are.

Three have use for it: a link that is in doubt (it is left only when somebody else lives), the preventive search (so
that after a loss the first attempt goes to a server that lives), and whoever wants to know what the ensemble is.

Rules:
1. `srvr` is asked, the one four-letter word that servers answer by default. Where it is off the server says so, or
   closes the connection: then it lives, and no more is known.
2. Who does not answer within the patience counts as unreachable, whatever the reason.
3. There is one question per server at a time. Nothing is asked after `close`.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final

from everlatch.admin import MalformedAnswerError, NotServingError, NotWhitelistedError, srvr
from everlatch.errors import ClientClosedError, describe
from everlatch.paths import Endpoint
from everlatch.session.servers import Address, is_ip_address
from everlatch.session.states import CONNECTED_STATES
from everlatch.types import ServerFinding, ServerKind

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from typing import Any

    from everlatch.engine.engine import Engine
    from everlatch.tls import TlsSettings

__all__ = ["ServerSearch", "classify"]

logger = logging.getLogger("everlatch")

_PATIENCE: Final = 2.0
_LOOKUP_PATIENCE: Final = 1.0
"""Seconds for one name: a name server that hangs must not keep those from being asked that it isn't needed for."""
_PAUSE: Final = 0.25
"""Seconds between two questions to a server while a link is in doubt."""
_READ_ONLY: Final = "read-only"
_LIVING: Final = frozenset({ServerKind.READ_WRITE, ServerKind.REACHABLE})
"""Who may serve a session."""


async def classify(
    address: Address, clock: Callable[[], float], patience: float = _PATIENCE, tls: TlsSettings | None = None
) -> ServerFinding:
    """Asks one server, by TLS if there are settings for it. Never raises but for cancellation: who can't be
    asked is unreachable."""
    started = clock()
    try:
        status = await srvr(
            Endpoint(address.ip, address.port), timeout=patience, tls=tls, server_hostname=address.endpoint.host
        )
    except NotServingError as error:
        return ServerFinding(str(address), ServerKind.NOT_SERVING, clock() - started, None, None, error)
    except (NotWhitelistedError, MalformedAnswerError) as error:
        return ServerFinding(str(address), ServerKind.REACHABLE, clock() - started, None, None, error)
    except Exception as error:  # rule 2
        return ServerFinding(str(address), ServerKind.UNREACHABLE, None, None, None, error)
    kind = ServerKind.READ_ONLY if status.mode == _READ_ONLY else ServerKind.READ_WRITE
    return ServerFinding(str(address), kind, clock() - started, status.mode, status.zxid, None)


class ServerSearch:
    """Asks the servers of one engine."""

    def __init__(self, engine: Engine, interval: float | None = None) -> None:
        self._engine = engine
        self._interval = interval
        self._tasks: set[asyncio.Task[None]] = set()
        self._doubting: asyncio.Task[None] | None = None
        self._searching: asyncio.Task[None] | None = None
        self._looking: asyncio.Task[None] | None = None
        self._asking: asyncio.Task[None] | None = None
        self.findings: tuple[ServerFinding, ...] = ()
        """Of the last search."""

    # -- a link in doubt

    def doubt(self, conn: int) -> None:
        """Asks all servers, again and again, for as long as this connection is in doubt."""
        if self._doubting is not None:
            self._doubting.cancel()
        self._doubting = self._begin(self._ask_while_in_doubt(conn))

    async def _ask_while_in_doubt(self, conn: int) -> None:
        """Each by itself: one that takes its time, as the one in doubt will, holds up nobody else."""
        await asyncio.gather(*(self._ask_at(conn, endpoint) for endpoint in self._engine.session.endpoints))

    async def _ask_at(self, conn: int, endpoint: Endpoint) -> None:
        addresses: list[Address] = []
        while not addresses and self._is_in_doubt(conn):
            addresses = await self._addresses_of(endpoint)
            if not addresses:
                await asyncio.sleep(_PAUSE)
        await asyncio.gather(*(self._ask_for(conn, address) for address in addresses))

    async def _ask_for(self, conn: int, address: Address) -> None:
        while self._is_in_doubt(conn):
            finding = await self._classify(address)
            if finding.kind in _LIVING:  # of use even if the link was left meanwhile
                self._engine.session.server_answered(conn, address, self._engine.now())
                self._engine.hurry()
            await asyncio.sleep(_PAUSE)

    def _is_in_doubt(self, conn: int) -> bool:
        session = self._engine.session
        return session.doubts_link and session.conn == conn

    # -- nobody takes us

    def ask_modes(self) -> None:
        """Asks every server what it is and how far, unless that is being done."""
        if self._asking is None or self._asking.done():
            self._asking = self._begin(self._ask_modes())

    async def _ask_modes(self) -> None:
        addresses = await self._addresses()
        found = zip(addresses, await self._ask_all(addresses), strict=True)
        # Who is ahead first: it shows that one that is behind has not begun a new history.
        for address, finding in sorted(found, key=lambda each: -(each[1].zxid or 0)):
            self._engine.session.server_is(address, finding.mode, finding.zxid, self._engine.now())
        self._engine.hurry()

    async def _ask_all(self, addresses: list[Address]) -> list[ServerFinding]:
        return await asyncio.gather(*(self._classify(address) for address in addresses))

    async def _classify(self, address: Address) -> ServerFinding:
        return await classify(address, self._engine.now, tls=self._engine.tls)

    # -- searching ahead

    def connected(self) -> None:
        """There is a connection: from now on it is searched ahead, if that was asked for."""
        if self._interval is not None and self._searching is None:
            self._searching = self._begin(self._search_ahead(self._interval))

    async def _search_ahead(self, interval: float) -> None:
        while True:
            if self._engine.session.state in CONNECTED_STATES:
                await self.search()
            await asyncio.sleep(interval)

    async def search(self) -> tuple[ServerFinding, ...]:
        """Asks every server once, and has the client prefer those that serve; who comes while that is being done waits
        for what it finds. Raises `ClientClosedError`."""
        if self._looking is None or self._looking.done():
            self._looking = self._begin(self._look())
        looking = self._looking
        await asyncio.wait({looking})
        if looking.cancelled():
            raise ClientClosedError("search_servers(): the client is closed")
        looking.result()
        return self.findings

    async def _look(self) -> None:
        addresses = await self._addresses()
        findings = await self._ask_all(addresses)
        self.findings = tuple(findings)
        serving = [address for address, finding in zip(addresses, findings, strict=True) if finding.kind in _LIVING]
        self._engine.session.prefer(serving, [address for address in addresses if address not in serving])
        self._engine.hurry()

    async def _addresses(self) -> list[Address]:
        """Every address of every server, in the client's order; names that don't resolve have none."""
        found = await asyncio.gather(*map(self._addresses_of, self._engine.session.endpoints))
        return list(dict.fromkeys(address for addresses in found for address in addresses))

    async def _addresses_of(self, endpoint: Endpoint) -> list[Address]:
        return [Address(ip, endpoint.port, endpoint) for ip in await self._resolved(endpoint)]

    async def _resolved(self, endpoint: Endpoint) -> list[str]:
        if is_ip_address(endpoint.host):
            return [endpoint.host]
        try:
            async with asyncio.timeout(_LOOKUP_PATIENCE):
                return await self._engine.resolve(endpoint)
        except Exception as error:  # a name server may fail in many ways; the others can be asked all the same
            logger.debug("%s can't be asked: %s", endpoint, describe(error))
            return []

    # -- the end

    async def close(self) -> None:
        """Nothing is asked any more."""
        tasks = [*self._tasks]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=1.0)

    def _begin(self, steps: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(steps)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            logger.error("asking the servers failed: %s", describe(task.exception()), exc_info=task.exception())
