"""Real servers by TLS: who gets in, what is said to who doesn't, what becomes of a client in faults and rotations."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio

from everlatch import (
    Client,
    ClientCertificateError,
    HandshakeRefusedError,
    NoTlsError,
    ServerCertificateError,
    ServerKind,
    StartError,
    State,
    TlsError,
)
from everlatch.admin import AdminUnreachableError, four_letter, isro, srvr
from everlatch.testing import Ensemble, Server, expire_session
from everlatch.tls import TlsSettings
from real.faults import States

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator

# The servers belong to the loop that started them, so all tests here share one.
pytestmark = [pytest.mark.real, pytest.mark.asyncio(loop_scope="module")]

PATIENCE = 30.0


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=["3.8", "3.9"])
async def one(request: pytest.FixtureRequest) -> AsyncIterator[Ensemble]:
    """A server that wants a client certificate. What a test does to its certificates it undoes."""
    async with Ensemble(1, version=request.param, tls=True, client_auth="need") as ensemble:
        yield ensemble


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def three() -> AsyncIterator[Ensemble]:
    async with Ensemble(3, version="3.9", tls=True) as ensemble:
        yield ensemble


async def why(servers: str, **options: Any) -> BaseException:
    """Why the only server that there is does not let a client in."""
    with pytest.raises(StartError) as raised:
        async with Client(servers, **options):
            pass
    ((_, reason),) = raised.value.failures
    return reason


async def present(server: Server, ensemble: Ensemble, *hosts: str, **how: Any) -> None:
    """Gives a server another certificate."""
    ensemble.certificates.issue(server.name, *hosts, **how)
    await server.kill()  # Netty takes two seconds to part
    await server.start()


def tls_of(client: Client) -> ssl.SSLObject:
    link = client._engine._link
    assert link is not None
    assert link.transport is not None
    found: ssl.SSLObject = link.transport.get_extra_info("ssl_object")
    return found


async def test_who_comes_with_a_certificate_is_known_by_it(one):
    certificates = one.certificates
    certificates.issue("locked", password="correct-horse")
    for options in (
        one.client_options,
        {"ca": certificates.ca, "cert": certificates.client.keystore},
        {"tls": certificates.client_context()},
        {
            "ca": certificates.ca,
            "cert": certificates["locked"].cert,
            "key": certificates["locked"].key,
            "key_password": "correct-horse",
        },
    ):
        async with Client(one.connect_string, **options) as client:
            identities = {each.scheme: each.user for each in await client.who_am_i()}
            assert f"CN={'locked' if 'key_password' in options else 'client'}" in identities["x509"]
            assert tls_of(client).version() in ("TLSv1.2", "TLSv1.3")


async def test_who_comes_without_one_is_told_so(one):
    reason = await why(one.connect_string, ca=one.certificates.ca)
    assert isinstance(reason, ClientCertificateError)
    assert "wants a client certificate: give cert and key" in str(reason)
    certificates = one.certificates
    stranger = certificates.issue("stranger", trusted=False)
    reason = await why(one.connect_string, ca=certificates.ca, cert=stranger.cert, key=stranger.key)
    assert isinstance(reason, TlsError)
    assert "refuse" in str(reason)


async def test_a_server_of_another_authority(one):
    reason = await why(one.connect_string, **one.client_options | {"ca": one.certificates.other_ca})
    assert isinstance(reason, ServerCertificateError)
    assert "is not trusted" in str(reason)
    reason = await why(one.connect_string, tls=True)
    assert isinstance(reason, ServerCertificateError), "the system trusts nobody of ours"


async def test_a_plain_client_and_the_port_for_tls(one):
    reason = await why(one.connect_string)
    assert isinstance(reason, HandshakeRefusedError)
    assert "its port is for TLS" in str(reason)


async def test_the_plain_port_and_a_client_that_speaks_tls(one):
    began = asyncio.get_running_loop().time()
    reason = await why(one.servers[0].plain_address, **one.client_options)
    assert isinstance(reason, NoTlsError)
    assert "secureClientPort" in str(reason)
    assert asyncio.get_running_loop().time() - began < 1.0


async def test_servers_are_asked_by_tls(one):
    (server,) = one.servers
    settings = TlsSettings(**one.client_options)
    assert (await srvr(server.address, tls=settings)).mode == "standalone"
    assert (await srvr(server.address, tls=one.certificates.client_context())).mode == "standalone"
    assert await isro(server.address, tls=settings) is False
    assert "Environment" in await four_letter(server.address, "envi", tls=settings)
    assert (await srvr(server.address, tls=settings, server_hostname="localhost")).mode == "standalone"
    with pytest.raises(AdminUnreachableError, match=r"not for 'zk\.example'"):
        await srvr(server.address, tls=settings, server_hostname="zk.example")
    with pytest.raises(AdminUnreachableError, match="secureClientPort"):
        await srvr(server.plain_address, tls=settings)
    async with Client(server.address, **one.client_options) as client:
        (found,) = await client.search_servers()
        assert (found.kind, found.mode) == (ServerKind.READ_WRITE, "standalone")


async def test_replies_in_the_thousands(one):
    """Of all sizes: many in a record, one in many."""
    async with Client(one.connect_string, default_timeout=PATIENCE, **one.client_options) as client:
        await client.create("/replies")
        sizes = [0, 1, 100, 5000, 16_384, 16_385, 100_000, 900_000]
        for size in sizes:
            await client.create(f"/replies/{size}", bytes(size))
        found = await asyncio.gather(*(client.get(f"/replies/{size}") for size in sizes * 5))
        assert [len(each.data) for each in found] == sizes * 5
        small = await asyncio.gather(*(client.get("/replies/100") for _ in range(5000)))
        assert {len(each.data) for each in small} == {100}


async def test_certificates_that_nobody_should_accept_and_new_ones(one):
    """A client that runs outlives all of them, and goes on with its session as soon as there are good ones."""
    (server,), certificates = one.servers, one.certificates
    async with Client(one.connect_string, session_timeout=30, default_timeout=PATIENCE, **one.client_options) as client:
        session_id, before = client.session_id, tls_of(client).getpeercert()
        await present(server, one, "zk.example")
        reason = await why(server.address, **one.client_options)
        assert isinstance(reason, ServerCertificateError)
        assert "is not for '127.0.0.1'" in str(reason)
        async with Client(server.address, check_hostname=False, **one.client_options) as lenient:
            assert await lenient.exists("/") is not None

        await present(server, one, validity="expired")
        reason = await why(server.address, **one.client_options)
        assert isinstance(reason, ServerCertificateError)
        assert "has expired" in str(reason)

        # Everything anew, as an operator would: trust both, then issue, then restart.
        certificates.replace_authority(trust_former=True)
        certificates.issue("client")
        await present(server, one)
        assert await client.exists("/") is not None
        assert client.session_id == session_id
        after = tls_of(client).getpeercert()
        assert before is not None
        assert after is not None
        assert before["serialNumber"] != after["serialNumber"]


async def test_failover_by_tls(three):
    states = States()
    async with Client(three.connect_string, default_timeout=PATIENCE, **three.client_options) as client:
        client.add_listener(states)
        await client.create("/failover", b"1")
        server, session_id = await three.server_of(client.session_id), client.session_id
        calls = [client.set("/failover", b"%d" % number) for number in range(50)]
        await server.kill()
        await asyncio.gather(*calls, return_exceptions=True)
        assert await client.exists("/failover") is not None
        assert client.session_id == session_id
        assert State.LOST not in states.states
        assert tls_of(client).version() == "TLSv1.3"
        assert await three.server_of(session_id) is not server
        await server.start(wait=False)


async def test_renewal_by_tls(three):
    states = States()
    async with Client(
        three.connect_string, default_timeout=PATIENCE, warm_spare=True, **three.client_options
    ) as client:
        client.add_listener(states)
        await client.create("/renewal", ephemeral=True)
        former = client.session_id
        await expire_session(client, (await three.server_of(former)).plain_address)
        renewed = await states.until(State.RENEWED)
        assert renewed.session_id != former
        assert await client.exists("/renewal") is None
        assert tls_of(client).version() == "TLSv1.3"
