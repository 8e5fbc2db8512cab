"""The dev server over TLS: with everlatch's client, and with connections that stop halfway."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from typing import TYPE_CHECKING, Any

import pytest

from everlatch import Client, DigestMd5
from everlatch.devserver import DevEnsemble, DevServer
from everlatch.devserver.subjects import is_subject, subject
from everlatch.devserver.tls import Shielding
from everlatch.errors import ProtocolError
from everlatch.testing.certificates import Certificates
from everlatch.types import ACL, OPEN_ACL_UNSAFE
from everlatch.wire.codes import Op
from everlatch.wire.records import encode_create_request, encode_get_data_request
from real.raw import Raw
from skipping_loop import on_real_loops

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

LIMIT = 20.0


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


@contextlib.asynccontextmanager
async def raw(address: str, context: ssl.SSLContext) -> AsyncIterator[Raw]:
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port), ssl=context)
    try:
        yield Raw(reader, writer)
    finally:
        writer.transport.abort()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


@on_real_loops
async def test_a_session_over_tls(certificates: Certificates) -> None:
    async with (
        DevServer(tls=certificates.server_context()) as server,
        raw(server.address, certificates.client_context()) as client,
    ):
        await client.shake_hands()
        await client.close_session()
        assert await client.hung_up()


@on_real_loops
async def test_a_client_with_a_certificate_and_sasl(certificates: Certificates) -> None:
    own = certificates.client
    options: dict[str, Any] = {"ca": certificates.ca, "cert": own.cert, "key": own.key, "start_timeout": LIMIT}
    users = {"bob": "secret"}
    async with (
        DevServer(tls=certificates.server_context(client_auth="need"), sasl=users, require_auth=True) as server,
        Client(server.address, sasl=DigestMd5("bob", "secret"), **options) as client,
    ):
        found = {(identity.scheme, identity.user) for identity in await client.who_am_i()}
        assert {("x509", own.subject), ("sasl", "bob")} <= found
        await client.create("/a", bytes(300_000), acl=[ACL(31, "x509", own.subject)])
        assert len((await client.get("/a")).data) == 300_000


@on_real_loops
async def test_a_client_moves_within_an_ensemble(certificates: Certificates) -> None:
    async with (
        DevEnsemble(3, tls=certificates.server_context()) as ensemble,
        Client(ensemble.address, ca=certificates.ca, start_timeout=LIMIT) as client,
    ):
        await client.create("/a", b"1")
        former = ensemble.leader
        assert former is not None
        await former.stop()
        async with asyncio.timeout(LIMIT):
            await client.set("/a", b"2")
        assert client.generation == 1


async def test_every_member_of_an_ensemble_speaks_tls(certificates: Certificates) -> None:
    async with DevEnsemble(3, tls=certificates.server_context()) as ensemble:
        for member in ensemble.members:
            async with raw(member.address, certificates.client_context()) as client:
                client._writer.write(b"srvr")
                async with asyncio.timeout(LIMIT):
                    assert await client._reader.read()


@pytest.mark.parametrize("said", [b"", b"\x16", b"\x16\x03\x01\x02\x00\x01"])
async def test_stopping_does_not_wait_for_who_has_not_shaken_hands(certificates: Certificates, said: bytes) -> None:
    server = DevServer(tls=certificates.server_context())
    await server.start()
    async with Raw.connect(server.address) as client:
        client._writer.write(said)
        assert server.core is not None
        while not server.core.connections:
            await asyncio.sleep(0)
        async with asyncio.timeout(LIMIT):
            await server.stop()
        assert await client.hung_up()


async def test_who_never_shakes_hands_is_given_up(certificates: Certificates) -> None:
    async with DevServer(tls=certificates.server_context()) as server, Raw.connect(server.address):
        assert server.core is not None
        while not server.core.connections:
            await asyncio.sleep(0)
        assert server.core.next_deadline() <= asyncio.get_running_loop().time() + 10.0


async def test_a_client_that_does_not_read_gets_everything_later(certificates: Certificates) -> None:
    async with (
        DevServer(tls=certificates.server_context()) as server,
        raw(server.address, certificates.client_context()) as client,
    ):
        await client.shake_hands()
        body = encode_create_request("/a", bytes(500_000), OPEN_ACL_UNSAFE, 0)
        assert await client.code(Op.CREATE, body) == 0
        for _ in range(40):
            client.send(Op.GET_DATA, encode_get_data_request("/a", False))
        for number in range(40):
            reply = await client.receive()
            assert (reply.xid, len(reply.body) > 500_000) == (2 + number, True)


# --- without a socket -------------------------------------------------------------------------------------------------


class Visitor:
    """A client of a `Shielding`, in memory."""

    def __init__(self, server: Shielding, context: ssl.SSLContext) -> None:
        self.server = server
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname="127.0.0.1")

    def bring(self, size: int = 1 << 20) -> bytes:
        """What the client has said goes to the server, in pieces, and the server's answers come back."""
        heard = b""
        while data := self._outgoing.read(size):
            heard += self.server.unwrap(data)
        self._incoming.write(self.server.take_output())
        return heard

    def shake_hands(self, size: int = 1 << 20) -> bytes:
        heard = b""
        for _ in range(5):
            with contextlib.suppress(ssl.SSLWantReadError):
                self.tls.do_handshake()
            heard += self.bring(size)
        return heard


@pytest.mark.parametrize("size", [1, 7, 1 << 20])
@pytest.mark.parametrize("highest", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_bytes_in_pieces(certificates: Certificates, size: int, highest: ssl.TLSVersion) -> None:
    context = certificates.client_context()
    context.maximum_version = highest
    server = Shielding(certificates.server_context())
    visitor = Visitor(server, context)
    assert visitor.shake_hands(size) == b""
    assert server.is_shaken
    assert server.subject == certificates.client.subject
    data = bytes(range(256)) * (10 if size == 1 else 1000)
    visitor.tls.write(data)
    assert visitor.bring(size) == data
    server.wrap(data)
    visitor.bring()
    got = b""
    while len(got) < len(data):
        got += visitor.tls.read(1 << 16)
    assert got == data
    server.end()
    visitor.bring()
    assert visitor.tls.read(1) == b"", "and not by force"


def test_the_client_may_end_it(certificates: Certificates) -> None:
    server = Shielding(certificates.server_context())
    visitor = Visitor(server, certificates.client_context(None))
    visitor.shake_hands()
    assert server.subject is None
    visitor.tls.write(b"last")
    with contextlib.suppress(ssl.SSLWantReadError):
        visitor.tls.unwrap()
    assert visitor.bring() == b"last"
    assert server.has_ended
    server.wrap(b"too late")
    server.end()
    assert server.take_output() == b""


@pytest.mark.parametrize("data", [b"GET / HTTP/1.0\r\n\r\n", bytes(100), b"\xff" * 100])
def test_what_is_no_tls_ends_it(certificates: Certificates, data: bytes) -> None:
    server = Shielding(certificates.server_context())
    assert server.unwrap(data) == b""
    assert server.has_ended
    assert not server.is_shaken


# --- subjects ---------------------------------------------------------------------------------------------------------


def der(certificates: Certificates) -> bytes:
    return ssl.PEM_cert_to_DER_cert(certificates.client.cert.read_text())


def test_a_subject_is_written_as_java_does(certificates: Certificates) -> None:
    assert subject(der(certificates)) == certificates.client.subject
    assert certificates.client.subject.startswith("CN=client,")


def named(*parts: bytes) -> bytes:
    """A certificate, as far as it is read: before its subject are number, algorithm, issuer and validity."""

    def value(tag: int, content: bytes) -> bytes:
        size = len(content)
        return bytes([tag, size]) + content if size < 128 else bytes([tag, 0x82]) + size.to_bytes(2, "big") + content

    names = b"".join(value(0x31, part) for part in parts)
    return value(0x30, value(0x30, bytes([2, 1, 7]) + value(0x30, b"") * 3 + value(0x30, names)))


def attribute(oid: str, text: bytes, tag: int = 0x0C) -> bytes:
    inner = bytes([6, len(bytes.fromhex(oid))]) + bytes.fromhex(oid) + bytes([tag, len(text)]) + text
    return bytes([0x30, len(inner)]) + inner


CN, ORGANISATION, EMAIL, DC = "550403", "55040a", "2a864886f70d010901", "0992268993f22c640119"


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ([], ""),
        ([attribute(CN, b"bob")], "CN=bob"),
        (
            [attribute(DC, b"org", 0x16), attribute(ORGANISATION, b"Test"), attribute(CN, b"bob", 0x13)],
            "CN=bob,O=Test,DC=org",
        ),
        ([attribute(CN, b"a") + attribute(ORGANISATION, b"b")], "CN=a+O=b"),
        ([attribute(CN, "ü".encode())], "CN=ü"),
        ([attribute(CN, "ü".encode("latin-1"), 0x14)], "CN=ü"),
        ([attribute(CN, "ü".encode("utf-16-be"), 0x1E)], "CN=ü"),
        ([attribute(EMAIL, b"a@b", 0x16)], "1.2.840.113549.1.9.1=#1603614062"),
        ([attribute(CN, b' #a=b,c+d "e"\\f<g>; ')], r"CN=\ \#a\=b\,c\+d \"e\"\\f\<g\>\;\ "),
        ([attribute(CN, b"   ")], r"CN=\ \ \ "),
        ([attribute(CN, b"x" * 100)], "CN=" + "x" * 100),
    ],
)
def test_subjects(parts: list[bytes], expected: str) -> None:
    assert subject(named(*parts)) == expected
    assert is_subject(expected)


def test_what_is_no_certificate(certificates: Certificates) -> None:
    whole = der(certificates)
    for size in range(len(whole)):
        with pytest.raises(ProtocolError):
            subject(whole[:size])


async def test_a_port_is_not_tls_unless_it_is_said_to_be() -> None:
    async with DevServer() as server, Raw.connect(server.address) as client:
        assert not server.options.schemes
        client._writer.write(b"ruok")
        assert await client._reader.read() == b"imok"
