"""The guardian by TLS: with the client's certificates, as they are when it needs them, and for plain settings only."""

from __future__ import annotations

import contextlib
import ssl
from typing import TYPE_CHECKING, Any

import pytest

from everlatch import Client, GuardianUnavailableError
from everlatch.devserver import DevServer
from everlatch.testing.certificates import Certificates
from guardian.owned import Owner, owner_of, peak_memory, shown_of, until_asleep, until_gone

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

LONG = 20.0
SOON = 5.0
PASSWORD = "correcthorse"


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    found = Certificates(tmp_path)
    found.issue("client", password=PASSWORD)
    return found


def options(certificates: Certificates) -> dict[str, Any]:
    files = {"ca": certificates.ca, "cert": certificates.client_cert, "key": certificates.client_key}
    return {name: str(path) for name, path in files.items()} | {"key_password": PASSWORD}


@contextlib.asynccontextmanager
async def guarded(certificates: Certificates, clients: int = 1) -> AsyncIterator[tuple[DevServer, Client, Owner]]:
    """A server that wants a certificate of everybody, one who sees what it has, and a process that is guarded."""
    context = certificates.server_context(client_auth="need")
    async with (
        DevServer(tls=context, tick=0.2, max_session_timeout=60.0) as server,
        Client(server.address, session_timeout=LONG, **options(certificates)) as witness,
    ):
        await witness.create("/owned")
        arguments = repr(options(certificates))
        async with owner_of(server.address, timeout=LONG, clients=clients, OPTIONS=arguments) as owner:
            await until_asleep(owner.guardian)
            yield server, witness, owner


async def test_killed(certificates: Certificates) -> None:
    async with guarded(certificates, clients=10) as (_, witness, owner):
        assert peak_memory(owner.guardian) <= 20
        assert PASSWORD.encode() not in shown_of(owner.guardian)
        await owner.kill()
        await until_gone(witness, timeout=SOON)


async def test_certificates_that_were_replaced(certificates: Certificates) -> None:
    """The server trusts those of the new authority alone, and has one of it."""
    async with guarded(certificates) as (server, witness, owner):
        certificates.replace_authority(trust_former=False)
        certificates.issue("server")
        certificates.issue("client", password=PASSWORD)
        await server.stop()
        server._tls = certificates.server_context(client_auth="need")
        await server.start()
        await owner.kill()
        await until_gone(witness, timeout=SOON)


async def test_files_that_are_gone(certificates: Certificates) -> None:
    """It has read them before."""
    async with guarded(certificates) as (_, witness, owner):
        for path in (certificates.ca, certificates.client_cert, certificates.client_key):
            path.unlink()
        await owner.kill()
        await until_gone(witness, timeout=SOON)


async def test_a_forked_child_that_ends_says_nothing_to_the_server(certificates: Certificates) -> None:
    """No TLS "close notify" either: the connection is its parent's."""
    async with guarded(certificates, clients=2) as (_, witness, owner):
        (before,) = await owner.tell("connections", "connections")
        await owner.tell("fork_and_leave", "forked")
        assert await owner.tell("connections", "connections") == [before]
        assert len(await witness.children("/owned")) == 2


def test_a_context_of_the_users_own() -> None:
    with pytest.raises(GuardianUnavailableError, match="SSLContext"):
        Client("zk:2181", guardian=True, tls=ssl.create_default_context())
    Client("zk:2181", guardian=True, tls=True)
