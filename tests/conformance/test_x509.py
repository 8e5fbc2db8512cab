"""Certificates of clients as identities, over TLS; and four-letter words there."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from typing import TYPE_CHECKING

import pytest

from everlatch.types import ACL, CREATOR_ALL_ACL, OPEN_ACL_UNSAFE, ClientInfo
from sasl_peer import authenticate
from wire_peer import Peer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from conformance_subjects import Secured

    Enter = Callable[..., contextlib.AbstractAsyncContextManager[Peer]]

IP = ClientInfo("ip", "127.0.0.1")
LIMIT = 10.0


@contextlib.asynccontextmanager
async def connected(subject: Secured, name: str | None) -> AsyncIterator[Peer]:
    """A connection of whoever has the certificate with this name."""
    host, _, port = subject.tls_address.rpartition(":")
    context = subject.certificates.client_context(name)
    reader, writer = await asyncio.open_connection(host, int(port), ssl=context)
    try:
        yield Peer(reader, writer)
    finally:
        writer.transport.abort()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


@contextlib.asynccontextmanager
async def session(subject: Secured, name: str | None = "client") -> AsyncIterator[Peer]:
    async with connected(subject, name) as peer:
        await peer.shake_hands(timeout_ms=2000)
        yield peer


def dn(subject: Secured, name: str = "client") -> str:
    return subject.certificates[name].subject


async def identities(peer: Peer) -> list[ClientInfo]:
    return sorted((await peer.do("who_am_i")).said["identities"])


async def test_the_subject_is_an_identity(welcoming: Secured) -> None:
    async with session(welcoming) as peer:
        assert await identities(peer) == [IP, ClientInfo("x509", dn(welcoming))]
        await authenticate(peer)
        assert await peer.authenticate("digest", b"u:1") == 0
        schemes = [identity.scheme for identity in await identities(peer)]
        assert schemes == ["digest", "ip", "sasl", "x509"]


async def test_who_shows_no_certificate_has_none(welcoming: Secured) -> None:
    async with session(welcoming, None) as peer:
        assert await identities(peer) == [IP]
        assert await peer.refused("create", "/x509-", b"", CREATOR_ALL_ACL, 2) == -114


async def test_acls_by_subject(welcoming: Secured) -> None:
    welcoming.certificates.issue("other")
    async with session(welcoming) as peer:
        path = (await peer.do("create", "/x509-", b"", CREATOR_ALL_ACL, 2)).said["path"]
        assert (await peer.do("get_acl", path)).said["acl"] == [ACL(31, "x509", dn(welcoming))]
        for name, code in (("client", 0), ("other", -102), (None, -102)):
            async with session(welcoming, name) as other:
                assert await other.refused("get_data", path, False) == code, name


@pytest.mark.parametrize(
    ("identity", "code"),
    [
        *((text, 0) for text in ("CN=a", "CN=a,O=b", "cn=a, o=b", "CN=a b+O=c", r"CN=a\,b", "", "1.2.3=x")),
        *((text, -114) for text in ("a", "=a", "CN=a,", "CN", "CN=a,b")),
    ],
)
async def test_what_may_stand_in_acls(welcoming: Secured, identity: str, code: int) -> None:
    async with session(welcoming) as peer:
        assert await peer.refused("create", "/x509-", b"", (ACL(31, "x509", identity),), 2) == code


@pytest.mark.parametrize(("name", "code"), [("client", 0), (None, -115)])
async def test_the_scheme_may_be_asked_for(welcoming: Secured, name: str | None, code: int) -> None:
    async with session(welcoming, name) as peer:
        assert await peer.authenticate("x509", b"") == code
        assert code or len(await identities(peer)) == 2


async def test_replies_larger_than_a_record(welcoming: Secured) -> None:
    async with session(welcoming) as peer:
        path = (await peer.do("create", "/x509-", bytes(900_000), OPEN_ACL_UNSAFE, 2)).said["path"]
        for _ in range(3):
            peer.put("get_data", path, False)
        for _ in range(3):
            assert len((await peer.next_reply()).body) > 900_000
        await peer.do("delete", path, -1)


async def test_words_are_answered_over_tls(welcoming: Secured) -> None:
    async with connected(welcoming, None) as peer:
        peer.write(b"ruok")
        async with asyncio.timeout(LIMIT):
            assert await peer._reader.read() == b"imok"


async def test_a_certificate_of_somebody_else_is_refused(welcoming: Secured) -> None:
    """Under TLS 1.3 the client hears of it only when it reads."""
    welcoming.certificates.issue("stranger", trusted=False)
    with pytest.raises((ssl.SSLError, ConnectionError, asyncio.IncompleteReadError)):
        async with session(welcoming, "stranger"):
            pass


@pytest.mark.parametrize("said", [b"ruok", bytes(100), b"\x16\x03\x01\xff\xff" + bytes(50)])
async def test_who_speaks_no_tls_gets_no_answer(welcoming: Secured, said: bytes) -> None:
    """An alert, at most."""
    async with Peer.connect(welcoming.tls_address) as peer:
        peer.write(said)
        peer._writer.write_eof()
        async with asyncio.timeout(LIMIT):
            with contextlib.suppress(ConnectionResetError):
                assert len(await peer._reader.read()) <= 7


async def test_the_end_is_told(welcoming: Secured) -> None:
    async with session(welcoming) as peer:
        await peer.close_session()
        assert await peer.hung_up()
