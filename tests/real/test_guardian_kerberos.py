"""The guardian of clients with Kerberos, at real servers: where it is demanded, where it is not, and without a KDC."""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from everlatch import Client
from everlatch.kerberos import Kerberos
from everlatch.testing import Ensemble
from everlatch.testing.kdc import Kdc
from guardian.owned import Owner, is_alive, owner_of, peak_memory, shown_of, until_asleep, until_dead, until_gone

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from real_servers import LoopThread

pytestmark = pytest.mark.real

LONG = 10.0
SOON = LONG / 2
PASSWORD = "opensesame"


@dataclass
class Realm:
    """What it takes to be bob there."""

    kdc: Kdc
    loop_thread: LoopThread
    ensemble: Ensemble

    async def on(self, work: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(None, self.loop_thread.run, work)

    @contextlib.asynccontextmanager
    async def down(self) -> AsyncIterator[None]:
        """No KDC."""
        await self.on(self.kdc.stop())
        try:
            yield
        finally:
            await self.on(self.kdc.start())

    @contextlib.asynccontextmanager
    async def guarded(
        self, kind: str, *, timeout: float = LONG, clients: int = 1
    ) -> AsyncIterator[tuple[Client, Owner]]:
        """One who sees nodes go, and needs no KDC for it; and a process whose tickets come from that kind of place."""
        ccache = await self.on(self.kdc.ticket("bob"))
        options = dict(self.ensemble.client_options) | {"sasl": Kerberos(ccache=ccache)}
        ca = options.get("ca")
        theirs = f"dict(ca={None if ca is None else str(ca)!r}, sasl=Kerberos({await self._source(kind, ccache)}))"
        servers = self.ensemble.connect_string
        async with Client(servers, session_timeout=LONG, **options) as witness:
            await witness.ensure_path("/owned")
            async with owner_of(servers, timeout=timeout, clients=clients, OPTIONS=theirs) as owner:
                await until_asleep(owner.guardian)
                yield witness, owner

    async def _source(self, kind: str, ccache: Path) -> str:
        """Arguments of `Kerberos`."""
        if kind == "ccache":
            return f"ccache={str(ccache)!r}"
        if kind == "password":
            return f"'bob@EVERLATCH.TEST', password={PASSWORD!r}"
        return f"'bob@EVERLATCH.TEST', keytab={str(await self.on(self.kdc.keytab('bob')))!r}"


@pytest.fixture(scope="module")
def kdc(loop_thread: LoopThread) -> Iterator[Kdc]:
    kdc = Kdc()
    loop_thread.run(kdc.start())
    with kdc.in_environment():
        yield kdc
    loop_thread.run(kdc.close())


@contextlib.contextmanager
def realm_of(kdc: Kdc, loop_thread: LoopThread, version: str, **security: Any) -> Iterator[Realm]:
    ensemble = Ensemble(version=version, sasl="kerberos", kdc=kdc, users={"bob": PASSWORD}, **security)
    loop_thread.run(ensemble.start())
    yield Realm(kdc, loop_thread, ensemble)
    loop_thread.run(ensemble.close())


@pytest.fixture(scope="module")
def strict(kdc: Kdc, loop_thread: LoopThread) -> Iterator[Realm]:
    """Lets in who has a ticket, and nobody else."""
    with realm_of(kdc, loop_thread, "3.8", require_auth=True) as realm:
        yield realm


@pytest.fixture(scope="module", params=["strict", "lenient"])
def by_tls(request: pytest.FixtureRequest, kdc: Kdc, loop_thread: LoopThread) -> Iterator[Realm]:
    """With TLS; demands Kerberos, or takes it."""
    with realm_of(kdc, loop_thread, "3.9", tls=True, require_auth=request.param == "strict") as realm:
        yield realm


async def until_served(guardian: int) -> int:
    """Until it has a deputy; returns whose pid that is."""
    async with asyncio.timeout(SOON):
        while not (found := children_of(guardian)):
            await asyncio.sleep(0.002)
    return found[0]


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text("utf-8").split()]


@pytest.mark.parametrize("kind", ["keytab", "password"])
async def test_killed_where_it_is_demanded(strict: Realm, kind: str) -> None:
    async with strict.guarded(kind, clients=3) as (witness, owner):
        assert len(await witness.children("/owned")) == 3
        assert peak_memory(owner.guardian) <= 12
        assert PASSWORD.encode() not in shown_of(owner.guardian)
        await owner.kill()
        await until_gone(witness, timeout=SOON)
        await until_dead(owner.guardian)


async def test_tickets_that_are_there_need_no_kdc(strict: Realm) -> None:
    async with strict.guarded("ccache") as (witness, owner), strict.down():
        await owner.kill()
        await until_gone(witness, timeout=SOON)


async def test_a_key_alone_needs_one_which_may_come_back(strict: Realm) -> None:
    async with strict.guarded("keytab") as (witness, owner):
        async with strict.down():
            await owner.kill()
            await until_served(owner.guardian)
            assert await witness.children("/owned")
        await until_gone(witness, timeout=SOON)
        await until_dead(owner.guardian)


async def test_no_kdc_until_the_time_has_passed(strict: Realm) -> None:
    """The servers end the session; the guardian and its deputy are gone, too."""
    async with strict.guarded("password", timeout=1.0) as (witness, owner), strict.down():
        killed = await owner.kill()
        deputy = await until_served(owner.guardian)
        assert PASSWORD.encode() not in shown_of(deputy)
        await until_gone(witness)
        await until_dead(owner.guardian)
        assert time.monotonic() - killed >= 1.0
        assert not is_alive(deputy)


async def test_killed_by_tls(by_tls: Realm) -> None:
    async with by_tls.guarded("keytab") as (witness, owner):
        assert peak_memory(owner.guardian) <= 20
        killed = await owner.kill()
        print(f"{(await until_gone(witness, timeout=SOON) - killed) * 1000:.0f} ms")
        await until_dead(owner.guardian)
