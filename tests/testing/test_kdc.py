"""The KDC for tests: it gives out keys and tickets, has every kind of bad day, and leaves nothing behind. Who speaks to
it here is the system's Kerberos library, on both sides."""

from __future__ import annotations

import asyncio
import os
import time
from typing import TYPE_CHECKING

import gssapi
import pytest
import uvloop

from everlatch.errors import InvalidArgumentError
from everlatch.testing import EnsembleError, Kdc, KdcUnavailableError
from everlatch.testing import kdc as kdc_module

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from everlatch.testing.kdc import ServicePrincipal

pytestmark = pytest.mark.real


@pytest.fixture
async def kdc() -> AsyncIterator[Kdc]:
    async with Kdc() as started:
        with started.in_environment():
            yield started


def proven(tickets: Path, service: ServicePrincipal) -> str:
    """Who the service sees when the owner of these tickets has said who it is."""
    host = gssapi.Name("zookeeper@127.0.0.1", gssapi.NameType.hostbased_service)
    own = gssapi.Credentials(usage="initiate", store={"ccache": f"FILE:{tickets}"})
    client = gssapi.SecurityContext(name=host, creds=own, usage="initiate")
    key = gssapi.Credentials(usage="accept", store={"keytab": str(service.keytab)})
    server = gssapi.SecurityContext(creds=key, usage="accept")
    server.__DEFER_STEP_ERRORS__ = False
    server.step(client.step())
    return str(server.initiator_name)


def logged_in(principal: str, password: str) -> float:
    """The life of the ticket that a password gets."""
    name = gssapi.Name(principal, gssapi.NameType.kerberos_principal)
    credentials = gssapi.raw.acquire_cred_with_password(name, password.encode(), usage="initiate").creds
    return float(gssapi.Credentials(credentials).lifetime)


async def test_tickets_and_keys(kdc: Kdc) -> None:
    service = await kdc.service("127.0.0.1")
    assert service.name == "zookeeper/127.0.0.1@EVERLATCH.TEST"
    assert proven(await kdc.ticket("bob"), service) == "bob@EVERLATCH.TEST"
    assert proven(await kdc.ticket("app/host@EVERLATCH.TEST"), service) == "app/host@EVERLATCH.TEST"
    # The old key is of no use any more; a ticket that was made out for it is not either.
    tickets = await kdc.ticket("bob")
    proven(tickets, service)
    await kdc.add_principal(service.name)
    with pytest.raises(gssapi.exceptions.GSSError):
        proven(tickets, await kdc.service("127.0.0.1"))


async def test_passwords(kdc: Kdc) -> None:
    assert await kdc.add_principal("bob", 'pass "wörd') == "bob@EVERLATCH.TEST"
    assert 3500 < logged_in("bob@EVERLATCH.TEST", 'pass "wörd') <= 3600
    await kdc.add_principal("bob", "another")
    logged_in("bob@EVERLATCH.TEST", "another")
    with pytest.raises(gssapi.exceptions.GSSError, match="Decrypt integrity check failed"):
        logged_in("bob@EVERLATCH.TEST", 'pass "wörd')


async def test_a_ticket_runs_out() -> None:
    async with Kdc(realm="SHORT.TEST", ticket_lifetime=100) as kdc:
        with kdc.in_environment():
            service = await kdc.service("127.0.0.1")
            await kdc.add_principal("bob", "secret")
            assert 90 < logged_in("bob@SHORT.TEST", "secret") <= 100
            tickets = await kdc.ticket("bob", lifetime=1)
            began = time.monotonic()
            refused = None
            while refused is None and time.monotonic() < began + 20:
                try:
                    proven(tickets, service)
                except gssapi.exceptions.GSSError as error:
                    refused = error
                await asyncio.sleep(0.02)
            assert "expired" in str(refused)


async def test_it_goes_away_and_comes_back_with_its_principals(kdc: Kdc) -> None:
    service, tickets = await kdc.service("127.0.0.1"), await kdc.ticket("bob")
    await kdc.stop()
    assert not kdc.running
    began = time.monotonic()
    with pytest.raises(gssapi.exceptions.GSSError, match="Cannot contact any KDC"):
        proven(tickets, service)
    assert time.monotonic() - began < 2
    await kdc.start()
    assert proven(tickets, service) == "bob@EVERLATCH.TEST"

    kdc.pause()
    waiting = asyncio.create_task(kdc.ticket("bob"))
    done, _ = await asyncio.wait([waiting], timeout=0.3)
    assert not done
    kdc.resume()
    assert proven(await waiting, service) == "bob@EVERLATCH.TEST"
    with pytest.raises(EnsembleError, match="runs already"):
        await kdc.start()


async def test_nothing_is_left_and_nothing_of_the_machine_was_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KRB5_CONFIG", "/nonexistent")
    monkeypatch.delenv("KRB5CCNAME", raising=False)
    kdc = Kdc()
    with pytest.raises(EnsembleError, match="only between"):
        _ = kdc.environment
    with pytest.raises(EnsembleError, match="start it first"):
        kdc.pause()
    async with kdc:
        directory = kdc.krb5_conf.parent
        with kdc.in_environment(KRB5CCNAME="FILE:/another"):
            assert (os.environ["KRB5_CONFIG"], os.environ["KRB5CCNAME"]) == (str(kdc.krb5_conf), "FILE:/another")
        assert os.environ["KRB5_CONFIG"] == "/nonexistent"
        assert "KRB5CCNAME" not in os.environ
        assert directory.is_dir()
    assert not kdc.running
    assert not directory.exists()
    await kdc.close()


async def test_a_port_that_was_taken_meanwhile_is_exchanged(monkeypatch: pytest.MonkeyPatch) -> None:
    server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    choices = [[server.sockets[0].getsockname()[1]], kdc_module.free_ports(1)]
    monkeypatch.setattr(kdc_module, "free_ports", lambda *_: choices.pop(0))
    async with server, Kdc() as kdc:
        assert kdc.running
        assert not choices


@pytest.mark.parametrize("name", ["", "bob smith", "bob@OTHER.REALM", "-x\n"])
async def test_a_name_that_is_none_of_this_realm_is_refused(name: str) -> None:
    with pytest.raises(InvalidArgumentError):
        Kdc().full_name(name)


async def test_what_makes_no_sense_is_refused(kdc: Kdc) -> None:
    with pytest.raises(InvalidArgumentError, match="realm"):
        Kdc(realm="lower case")
    with pytest.raises(InvalidArgumentError, match="lives for a second"):
        Kdc(ticket_lifetime=0)
    with pytest.raises(InvalidArgumentError, match="password"):
        await kdc.add_principal("bob", "two\nlines")
    with pytest.raises(EnsembleError, match=r"kinit .*: exit code 1"):
        await kdc._run("kinit", ["-k", "-t", "/nonexistent", "bob"])


async def test_without_a_kdc_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.setattr(kdc_module, "_SYSTEM", ())
    with pytest.raises(KdcUnavailableError, match="apt-get install krb5-kdc krb5-admin-server krb5-user"):
        await Kdc().start()


def test_much_is_asked_of_it_at_once_and_on_uvloop() -> None:
    async def main() -> None:
        async with Kdc() as one, Kdc(realm="OTHER.TEST") as other:
            asked = [kdc.ticket(name) for kdc in (one, other) for name in ("bob", "alice", "bob")]
            assert len(set(await asyncio.gather(*asked))) == len(asked)

    uvloop.run(main())
