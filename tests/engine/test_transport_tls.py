"""Connections by TLS: what a link hears, whatever a server sends and whenever it is given up."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
import ssl
from typing import TYPE_CHECKING, Any

import pytest

from engine.links import closed_port, deaf_port, open_sockets, until
from everlatch import ClientCertificateError, NoTlsError, ServerCertificateError, TlsError
from everlatch.engine.transport import Link, TlsDialer, link_type
from everlatch.paths import Endpoint
from everlatch.session.servers import Address
from everlatch.testing import Certificates
from everlatch.tls import TlsSettings
from everlatch.tls.transport import TlsTransport
from skipping_loop import on_every_loop, on_real_loops
from tls_peer import TlsPeer, begins, closes, pieces, resets, says, silent

if TYPE_CHECKING:
    from collections.abc import Callable

VERSIONS = (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    certificates = Certificates(tmp_path_factory.mktemp("certificates"))
    certificates.issue("elsewhere", "elsewhere.example")
    return certificates


class Heard:
    """Notes what a link reports."""

    def __init__(self) -> None:
        self.events: list[tuple[str, object]] = []
        self.then: Callable[[Link], object] | None = None
        """What is done with a link that has received something."""

    @property
    def text(self) -> bytes:
        return b"".join(data for name, data in self.events if name == "received")  # type: ignore[misc]

    @property
    def names(self) -> list[str]:
        """Of the events; several in a row are one."""
        names = [name for name, _ in self.events]
        return [name for name, before in zip(names, ["", *names], strict=False) if name != before]

    def link_made(self, link: Link) -> None:
        self.events.append(("made", link.conn))

    def link_received(self, link: Link, data: bytes) -> None:
        self.events.append(("received", data))
        if self.then is not None:
            self.then(link)

    def link_lost(self, _: Link, error: Exception | None) -> None:
        self.events.append(("lost", error))

    def link_writable(self, link: Link) -> None:
        self.events.append(("writable", link.conn))


def new_link(heard: Heard) -> Link:
    loop = asyncio.get_running_loop()
    return link_type(loop)(3, heard, loop.create_future())


def at(port: int, host: str = "127.0.0.1") -> Address:
    return Address("127.0.0.1", port, Endpoint(host, port))


def settings(certificates: Certificates, name: str | None = None, **more: Any) -> TlsSettings:
    if name is not None:
        more |= {"cert": certificates[name].cert, "key": certificates[name].key}
    return TlsSettings(ca=certificates.ca, **more)


async def dial(peer: TlsPeer, certificates: Certificates, heard: Heard, **more: Any) -> Link:
    link = new_link(heard)
    await TlsDialer(settings(certificates, **more)).dial(at(peer.port), lambda: link)
    await peer.until(lambda: peer.connections and peer.connection.shaken)
    return link


def peer_of(certificates: Certificates, name: str = "server", **more: Any) -> TlsPeer:
    return TlsPeer(certificates.server_context(name, client_auth=more.pop("client_auth", "none")), **more)


# --- what is heard ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
@on_every_loop
async def test_reports_what_happens_to_it(certificates, version):
    heard = Heard()
    async with peer_of(certificates) as peer:
        peer.context.maximum_version = peer.context.minimum_version = version
        link = await dial(peer, certificates, heard)
        assert link.transport is not None
        assert link.transport.get_extra_info("ssl_object").version() == version.name.replace("_", ".")
        assert link.transport.get_extra_info("peername")[1] == peer.port
        assert not link.is_to_itself
        link.give_up_after(7.0)
        sock = link.transport.get_extra_info("socket")
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 7000
        link.transport.write(b"ping")
        await peer.until(lambda: peer.connection.received == b"ping")
        peer.connection.send(b"hello")
        await until(lambda: heard.text == b"hello")
        peer.connection.transport.close()
        await link.closed
    assert heard.events == [("made", 3), ("received", b"hello"), ("lost", None)]
    assert link.transport is None


@on_every_loop
async def test_a_servers_parting_by_tls_ends_the_connection(certificates):
    heard = Heard()
    async with peer_of(certificates) as peer:
        link = await dial(peer, certificates, heard)
        peer.connection.send(b"bye")
        peer.connection.say_goodbye()
        await link.closed
    assert heard.events == [("made", 3), ("received", b"bye"), ("lost", None)]


@on_every_loop
async def test_reports_how_the_connection_broke(certificates):
    heard = Heard()
    async with peer_of(certificates) as peer:
        link = await dial(peer, certificates, heard)
        peer.connection.send(b"hello")
        await until(lambda: heard.text)
        peer.connection.reset()
        await link.closed
    assert isinstance(heard.events[-1][1], ConnectionResetError)
    assert not isinstance(heard.events[-1][1], TlsError)


@pytest.mark.parametrize("record", [1, 7, 1000, 1 << 14, 1 << 20])
@pytest.mark.parametrize("segment", [1, 999, 1 << 20])
@on_every_loop
async def test_records_and_segments_may_be_of_any_size(certificates, record, segment):
    """Many replies in a record, one in many, records in pieces: the same bytes come out."""
    text, heard = bytes(range(256)) * 8, Heard()
    async with peer_of(certificates) as peer:
        link = await dial(peer, certificates, heard)
        peer.records, peer.segments = pieces(record), pieces(segment)
        peer.connection.send(text)
        await until(lambda: len(heard.text) >= len(text))
        link.abort()
        await link.closed
    assert heard.text == text


@on_every_loop
async def test_one_read_brings_all_records_that_have_come(certificates):
    heard = Heard()
    async with peer_of(certificates) as peer:
        link = await dial(peer, certificates, heard)
        peer.connection.send_raw(b"".join(peer.connection.encrypted(b"%d," % number) for number in range(500)))
        await until(lambda: heard.text.endswith(b"499,"))
        link.abort()
        await link.closed
    assert len([name for name, _ in heard.events if name == "received"]) <= 3


@pytest.mark.parametrize("version", VERSIONS)
@on_real_loops
async def test_much_in_both_directions(certificates, version):
    """More than any buffer holds, so that both ends have to wait."""
    heard, size = Heard(), 6_000_000
    async with peer_of(certificates) as peer:
        peer.context.maximum_version = version
        link = await dial(peer, certificates, heard)
        assert link.transport is not None
        peer.connection.transport.pause_reading()
        for start in range(0, size, 500_000):
            link.transport.write(bytes([start % 251]) * 500_000)
        assert not link.writable
        peer.connection.send(bytes(size))
        await until(lambda: sum(len(data) for name, data in heard.events if name == "received") == size)  # type: ignore[arg-type, misc]
        peer.connection.transport.resume_reading()
        await until(lambda: link.writable)
        await peer.until(lambda: len(peer.connection.received) == size)
        assert peer.connection.received == b"".join(bytes([start % 251]) * 500_000 for start in range(0, size, 500_000))
        link.abort()
        await link.closed


@on_real_loops
async def test_while_reading_is_paused_nothing_comes(certificates):
    heard = Heard()
    async with peer_of(certificates) as peer:
        link = await dial(peer, certificates, heard)
        transport = link.transport
        assert transport is not None
        peer.connection.send(b"one")
        await until(lambda: heard.text == b"one")
        transport.pause_reading()
        peer.connection.send(b"two")
        for _ in range(50):
            await asyncio.sleep(0)
        assert heard.text == b"one"
        transport.resume_reading()
        await until(lambda: heard.text == b"onetwo")
        link.abort()
        assert transport.is_closing()
        await link.closed
        transport.pause_reading()
        transport.resume_reading()
        transport.write(b"too late")
        transport.close()
        assert transport.get_extra_info("peername", "gone") == "gone"


# --- how it goes wrong later --------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
@on_every_loop
async def test_a_broken_record_ends_the_connection_behind_what_came_before(certificates, version):
    heard = Heard()
    async with peer_of(certificates) as peer:
        peer.context.maximum_version = version
        link = await dial(peer, certificates, heard)
        good, bad = peer.connection.encrypted(b"good"), bytearray(peer.connection.encrypted(b"bad"))
        bad[-1] ^= 1
        peer.connection.send_raw(good + bad + peer.connection.encrypted(b"good again"))
        await link.closed
    assert heard.names == ["made", "received", "lost"]
    assert heard.text == b"good"
    lost = heard.events[-1][1]
    assert type(lost) is TlsError
    assert isinstance(lost.__cause__, ssl.SSLError)


@pytest.mark.parametrize(
    "junk", [b"hello, I am no TLS", b"\x16\x03\x03\0\5hello", b"\x17\x03\x03\xff\xff", b"\x14\x03\x03\0\1\1", bytes(5)]
)
@on_every_loop
async def test_junk_ends_the_connection(certificates, junk):
    heard = Heard()
    async with peer_of(certificates) as peer:
        link = await dial(peer, certificates, heard)
        peer.connection.send_raw(junk)
        peer.connection.transport.write_eof()
        await link.closed
    assert heard.names == ["made", "lost"]


@on_every_loop
async def test_a_write_that_tls_keeps_back_goes_out_behind_the_next_read(certificates):
    """OpenSSL may have to hear from the server first, as in a renegotiation."""
    heard = Heard()
    async with peer_of(certificates) as peer:
        link = await dial(peer, certificates, heard)
        transport = link.transport
        assert isinstance(transport, TlsTransport)
        real, transport._tls = transport._tls, Waiting()  # type: ignore[assignment]
        transport.write(b"one ")
        transport.write(b"two ")
        transport._tls = real
        transport.write(b"three ")
        peer.connection.send(b"go on")
        await peer.until(lambda: peer.connection.received == b"one two three ")
        link.abort()
        await link.closed


class Waiting:
    """TLS that waits for the server."""

    def write(self, data: memoryview) -> int:
        raise ssl.SSLWantReadError


class Broken:
    """TLS that has failed."""

    def write(self, data: memoryview) -> int:
        raise ssl.SSLError(1, "protocol is shutdown")


@on_every_loop
async def test_a_write_that_fails_ends_the_connection(certificates):
    heard = Heard()
    async with peer_of(certificates) as peer:
        link = await dial(peer, certificates, heard)
        transport = link.transport
        assert isinstance(transport, TlsTransport)
        transport._tls = Broken()  # type: ignore[assignment]
        transport.write(b"one")
        transport.write(b"two")
        await link.closed
    assert type(heard.events[-1][1]) is TlsError


@on_every_loop
async def test_a_link_may_be_aborted_by_what_it_hears(certificates):
    heard = Heard()
    heard.then = lambda link: link.abort()
    async with peer_of(certificates) as peer:
        link = await dial(peer, certificates, heard)
        peer.connection.send_raw(b"".join(peer.connection.encrypted(bytes(16_000)) for _ in range(40)))
        await link.closed
    assert heard.names == ["made", "received", "lost"]


@on_real_loops
async def test_what_an_aborted_connection_has_not_sent_yet_never_arrives(certificates):
    heard = Heard()
    async with peer_of(certificates) as peer:
        link = await dial(peer, certificates, heard)
        assert link.transport is not None
        peer.connection.transport.pause_reading()
        link.transport.write(bytes(50_000_000))
        link.abort()
        await link.closed
        peer.connection.transport.resume_reading()
        await peer.connection.closed.wait()
        assert len(peer.connection.received) < 50_000_000
    assert heard.events == [("made", 3), ("lost", None)]


# --- handshakes that fail -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("behave", "kind"),
    [
        (closes, NoTlsError),
        (resets, NoTlsError),
        (says(b"This ZooKeeper instance is not currently serving requests\n", then_close=True), NoTlsError),
        (says(b"HTTP/1.1 400 Bad Request\r\n\r\n"), NoTlsError),
        (says(bytes(100)), NoTlsError),
        (says(b"\x15\x03\x03\0\2\2\x28"), TlsError),
        (says(b"\x15\x03\x03\0\2\2\x46"), TlsError),
        (says(b"\x16\x03\x03\0\4\2\0\0\0"), TlsError),
        (says(b"\x16\x03\x03\xff\xff" + bytes(70_000)), TlsError),
        (begins(1, closes), TlsError),
        (begins(40, closes), TlsError),
        (begins(500, resets), TlsError),
    ],
)
@on_every_loop
async def test_why_a_handshake_fails(certificates, behave, kind):
    heard, before = Heard(), open_sockets()
    async with peer_of(certificates) as peer:
        peer.behave = behave
        with pytest.raises(kind) as raised:
            await TlsDialer(settings(certificates)).dial(at(peer.port), lambda: new_link(heard))
        assert type(raised.value) is kind
        await peer.until(lambda: not peer.open_connections)
    await until(lambda: open_sockets() <= before)
    assert heard.events == []


@on_every_loop
async def test_a_server_that_has_another_name(certificates):
    heard = Heard()
    async with peer_of(certificates, "elsewhere") as peer:
        with pytest.raises(ServerCertificateError, match=r"is not for '127\.0\.0\.1'"):
            await TlsDialer(settings(certificates)).dial(at(peer.port), lambda: new_link(heard))
        await peer.until(lambda: not peer.open_connections)
        assert peer.connection.error is not None, "the server is told"
        assert "ALERT" in str(peer.connection.error.reason)
        for host, check in (("elsewhere.example", True), ("elsewhere.example.", True), ("127.0.0.1", False)):
            link = new_link(heard)
            made = iter([link])
            await TlsDialer(settings(certificates, check_hostname=check)).dial(at(peer.port, host), made.__next__)
            link.abort()
            await link.closed
    assert [name for name, _ in heard.events] == ["made", "lost"] * 3


@pytest.mark.parametrize("version", VERSIONS)
@on_every_loop
async def test_a_server_that_wants_a_client_certificate(certificates, version):
    """With TLS 1.2 the handshake fails; with 1.3 the connection is made, and ends with the first read."""
    heard = Heard()
    async with peer_of(certificates, client_auth="need") as peer:
        peer.context.maximum_version = version
        link = new_link(heard)
        dialing = TlsDialer(settings(certificates)).dial(at(peer.port), lambda: link)
        if version is ssl.TLSVersion.TLSv1_2:
            with pytest.raises(ClientCertificateError, match="give cert and key"):
                await dialing
            assert heard.events == []
        else:
            await dialing
            await link.closed
            assert heard.names == ["made", "lost"]
            lost = heard.events[-1][1]
            assert isinstance(lost, ClientCertificateError)
            assert "give cert and key" in str(lost)
        heard.events.clear()
        link = new_link(heard)
        await TlsDialer(settings(certificates, "client")).dial(at(peer.port), lambda: link)
        link.abort()
        await link.closed
    assert heard.events == [("made", 3), ("lost", None)]


@on_every_loop
async def test_a_name_that_no_certificate_can_have(certificates):
    async with peer_of(certificates) as peer:
        with pytest.raises(ValueError, match=r"."):
            await TlsDialer(settings(certificates)).dial(at(peer.port, ".example"), lambda: new_link(Heard()))
        assert peer.connections == []


@on_every_loop
async def test_a_port_where_nobody_listens_raises(certificates):
    with pytest.raises(ConnectionRefusedError):
        await TlsDialer(settings(certificates)).dial(at(closed_port()), lambda: new_link(Heard()))


async def test_a_bug_of_ours_is_not_blamed_on_the_server(certificates):
    def make() -> Link:
        raise ZeroDivisionError("a bug of ours")

    errors: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(context))
    async with peer_of(certificates) as peer:
        with pytest.raises(ZeroDivisionError):
            await TlsDialer(settings(certificates)).dial(at(peer.port), make)
        await peer.until(lambda: not peer.open_connections)
    assert len(errors) == 1


# --- giving up ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "behave", [None, silent, begins(1), begins(700), says(b"\x16\x03\x03\x10\0")], ids=["serves", "silent", *"123"]
)
@on_real_loops
async def test_a_dial_that_is_cancelled_at_any_moment_leaves_nothing(certificates, behave):
    """After each number of turns of the loop: no socket, no exception, no link that hears of anything but its end."""
    async with peer_of(certificates) as peer:
        peer.behave = behave
        before = open_sockets()
        for turns in range(25):
            heard, links = Heard(), list[Link]()

            def make(heard: Heard = heard, links: list[Link] = links) -> Link:
                links.append(new_link(heard))
                return links[-1]

            dialing = asyncio.ensure_future(TlsDialer(settings(certificates)).dial(at(peer.port), make))
            for _ in range(turns):
                await asyncio.sleep(0)
            dialing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await dialing
            for link in links:
                link.abort()
            await until(lambda: open_sockets() <= before)
            assert heard.names in ([], ["made"], ["made", "lost"])
            assert dialing.cancelled() or links
        gc.collect()  # what is left behind would warn, which is an error


@on_every_loop
async def test_a_cancelled_dial_to_a_deaf_port_leaves_no_socket(certificates):
    with deaf_port() as port:
        before = open_sockets()
        heard = Heard()
        dialing = asyncio.ensure_future(TlsDialer(settings(certificates)).dial(at(port), lambda: new_link(heard)))
        await until(lambda: open_sockets() > before)
        dialing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await dialing
        await until(lambda: open_sockets() == before)
        gc.collect()
        assert heard.events == []
