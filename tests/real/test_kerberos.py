"""Kerberos on real servers, with a real KDC: every place that tickets come from, and every way that they fail."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import time
import uuid
from typing import TYPE_CHECKING, Any

import pytest

from everlatch import AuthFailedError, Client, SessionClosedRequireAuthError, StartError, State
from everlatch.kerberos import Kerberos
from everlatch.testing import Ensemble, Proxy
from everlatch.testing.kdc import Kdc

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from everlatch.testing import Server
    from real_servers import LoopThread

pytestmark = pytest.mark.real

LONGEST = 30.0
PASSWORD = "opensesame"


@pytest.fixture(scope="module")
def kdc(loop_thread: LoopThread) -> Iterator[Kdc]:
    kdc = Kdc()
    loop_thread.run(kdc.start())
    with kdc.in_environment():
        yield kdc
    loop_thread.run(kdc.close())


@pytest.fixture(scope="module")
def guarded(zookeeper_version: str, kdc: Kdc, loop_thread: LoopThread) -> Iterator[Server]:
    """Lets in who has a ticket, and nobody else."""
    users = {"bob": PASSWORD}
    ensemble = Ensemble(version=zookeeper_version, sasl="kerberos", require_auth=True, kdc=kdc, users=users)
    loop_thread.run(ensemble.start())
    yield ensemble.servers[0]
    loop_thread.run(ensemble.close())


@pytest.fixture
async def keytab(kdc: Kdc, loop_thread: LoopThread) -> Path:
    return await on(loop_thread, kdc.keytab("bob"))


async def on(loop_thread: LoopThread, work: Any) -> Any:
    """The KDC belongs to the loop of the shared servers."""
    return await asyncio.get_running_loop().run_in_executor(None, loop_thread.run, work)


@contextlib.asynccontextmanager
async def down(kdc: Kdc, loop_thread: LoopThread) -> AsyncIterator[None]:
    await on(loop_thread, kdc.stop())
    try:
        yield
    finally:
        if not kdc.running:
            await on(loop_thread, kdc.start())


def client_of(address: str, sasl: Kerberos, **options: Any) -> Client:
    return Client(address, sasl=sasl, **{"session_timeout": 6.0, "default_timeout": LONGEST} | options)


async def is_bob(client: Client) -> bool:
    return ("sasl", "bob@EVERLATCH.TEST") in await client.who_am_i()


@pytest.mark.parametrize("source", ["keytab", "password", "ccache", "environment"])
async def test_where_tickets_come_from(
    guarded: Server, kdc: Kdc, keytab: Path, source: str, loop_thread: LoopThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    if source == "keytab":
        sasl = Kerberos("bob@EVERLATCH.TEST", keytab=keytab)
    elif source == "password":
        sasl = Kerberos("bob@EVERLATCH.TEST", password=PASSWORD)
    elif source == "ccache":
        sasl = Kerberos(ccache=await on(loop_thread, kdc.ticket("bob")))
    else:
        monkeypatch.setenv("KRB5CCNAME", f"FILE:{await on(loop_thread, kdc.ticket('bob'))}")
        sasl = Kerberos()
    async with Proxy(guarded.address) as proxy, client_of(proxy.address, sasl) as client:
        assert await is_bob(client)
        proxy.cut()
        assert await is_bob(client)
        assert (client.connections, client.generation) == (2, 1)


async def test_without_a_ticket_calls_are_refused(guarded: Server) -> None:
    async with Client(guarded.address, session_timeout=6.0, default_timeout=LONGEST) as client:
        with pytest.raises(SessionClosedRequireAuthError):
            await client.get("/")


async def test_a_wrong_password_ends_it_all(guarded: Server, caplog: pytest.LogCaptureFixture) -> None:
    """It is not offered twice: accounts are locked for that."""
    caplog.set_level(logging.DEBUG)
    sasl = Kerberos("bob@EVERLATCH.TEST", password="opensesamx")
    with pytest.raises(AuthFailedError, match=r"the KDC refuses the password of bob@EVERLATCH\.TEST") as raised:
        await client_of(guarded.address, sasl, start_timeout=LONGEST).start()
    assert "opensesamx" not in caplog.text + repr(raised.value) + repr(sasl)


async def test_no_ticket_at_all(guarded: Server) -> None:
    with pytest.raises(StartError, match=r"GSSAPI with .* who has a ticket has no ticket that serves: "):
        await client_of(guarded.address, Kerberos()).start()


async def test_a_keytab_that_is_not_there(guarded: Server, tmp_path: Path) -> None:
    sasl = Kerberos("bob@EVERLATCH.TEST", keytab=tmp_path / "none")
    with pytest.raises(StartError, match=r"bob@EVERLATCH\.TEST has no ticket that serves"):
        await client_of(guarded.address, sasl).start()


async def test_a_principal_that_no_server_has(guarded: Server, keytab: Path) -> None:
    sasl = Kerberos("bob@EVERLATCH.TEST", keytab=keytab, server_host="elsewhere.test")
    with pytest.raises(StartError, match=r"no ticket that serves.*not found in Kerberos database"):
        await client_of(guarded.address, sasl).start()


async def test_a_ticket_that_has_run_out_and_is_renewed_by_somebody_else(
    guarded: Server, kdc: Kdc, loop_thread: LoopThread
) -> None:
    """The connection outlives the ticket; the next one has to wait for a new one, and finds it by itself."""
    ccache = await on(loop_thread, kdc.ticket("bob", lifetime=1))
    async with Proxy(guarded.address) as proxy, client_of(proxy.address, Kerberos(ccache=ccache)) as client:
        assert re.search("[Tt]icket expired|has expired", await refusal(guarded.address, ccache))
        assert await is_bob(client)
        proxy.cut()
        (await on(loop_thread, kdc.ticket("bob"))).replace(ccache)
        assert await is_bob(client)
        assert client.generation == 1


async def refusal(address: str, ccache: Path) -> str:
    """Why these tickets let nobody in any more, when it has come to that."""
    async with asyncio.timeout(LONGEST):
        while True:
            try:
                async with client_of(address, Kerberos(ccache=ccache)):
                    await asyncio.sleep(0.1)
            except StartError as error:
                return str(error)


async def test_a_reconnect_needs_no_kdc(guarded: Server, kdc: Kdc, keytab: Path, loop_thread: LoopThread) -> None:
    sasl = Kerberos("bob@EVERLATCH.TEST", keytab=keytab)
    async with Proxy(guarded.address) as proxy, client_of(proxy.address, sasl) as client, down(kdc, loop_thread):
        for connections in (2, 3):
            proxy.cut()
            assert await is_bob(client)
            assert client.connections == connections


async def test_nor_after_its_tickets_were_renewed(
    guarded: Server, kdc: Kdc, keytab: Path, loop_thread: LoopThread
) -> None:
    """New tickets make an empty cache: those for the servers are fetched with them."""
    sasl = Kerberos("bob@EVERLATCH.TEST", keytab=keytab)
    async with Proxy(guarded.address) as proxy, client_of(proxy.address, sasl) as client:
        sasl._renew_at = 0.0
        sasl._memory += b"-anew"
        assert await asyncio.get_running_loop().run_in_executor(None, sasl.keep_fresh()) > 60
        async with down(kdc, loop_thread):
            proxy.cut()
            assert await is_bob(client)


async def test_servers_that_got_another_key(guarded: Server, kdc: Kdc, keytab: Path, loop_thread: LoopThread) -> None:
    """They can't read the tickets that were made out for the old one: the client gets others."""
    sasl = Kerberos("bob@EVERLATCH.TEST", keytab=keytab)
    async with Proxy(guarded.address) as proxy, client_of(proxy.address, sasl) as client:
        await on(loop_thread, kdc.add_principal("zookeeper/127.0.0.1"))
        await on(loop_thread, kdc.keytab("zookeeper/127.0.0.1"))
        proxy.cut()
        assert await is_bob(client)
        assert (client.generation, client.connections) == (1, 3), "one of them was refused"
    other = client_of(guarded.address, Kerberos(ccache=await on(loop_thread, kdc.ticket("bob"))))
    async with other:
        assert await is_bob(other), "with new tickets from the beginning"


async def test_while_the_kdc_is_down_nobody_new_gets_in(
    guarded: Server, kdc: Kdc, keytab: Path, loop_thread: LoopThread
) -> None:
    async with down(kdc, loop_thread):
        with pytest.raises(StartError, match=r"no ticket that serves.*KDC"):
            await client_of(guarded.address, Kerberos("bob@EVERLATCH.TEST", keytab=keytab)).start()
        client = client_of(guarded.address, Kerberos("bob@EVERLATCH.TEST", keytab=keytab))
        await client.start(wait=False)
        call = asyncio.ensure_future(client.exists("/"))
        await on(loop_thread, kdc.start())
        assert await call is not None, "it was tried again, by itself"
        await client.close()


async def test_a_kdc_that_hangs_blocks_nobody(guarded: Server, kdc: Kdc, keytab: Path) -> None:
    kdc.pause()
    try:
        client = client_of(guarded.address, Kerberos("bob@EVERLATCH.TEST", keytab=keytab))
        await client.start(wait=False)
        began = time.monotonic()
        longest, last = 0.0, began
        while time.monotonic() < began + 0.3:
            await asyncio.sleep(0.01)
            longest, last = max(longest, time.monotonic() - last), time.monotonic()
        assert longest < 0.5
        assert client.state is State.CONNECTING
        await client.close(timeout=0.2)
        assert client.state is State.CLOSED
    finally:
        kdc.resume()


async def test_a_new_session_is_authenticated(guarded: Server, keytab: Path) -> None:
    sasl = Kerberos("bob@EVERLATCH.TEST", keytab=keytab)
    async with (
        Proxy(guarded.address) as proxy,
        client_of(proxy.address, sasl, session_timeout=1.0) as client,
        client_of(guarded.address, sasl) as other,
    ):
        path = f"/{uuid.uuid4().hex}"
        await client.create(path, ephemeral=True)
        proxy.refuse()
        proxy.cut()
        await other.wait_deleted(path)
        proxy.accept()
        assert await is_bob(client)
        assert client.generation == 2
