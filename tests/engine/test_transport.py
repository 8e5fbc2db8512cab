"""Connections: the protocol that reports to the engine, and who makes them."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket

import pytest

from engine.links import closed_port, deaf_port, open_sockets, until
from everlatch.engine.transport import Link, TcpDialer, link_type
from everlatch.paths import Endpoint
from everlatch.session.servers import Address
from scripted_server import ScriptedServer, reset
from skipping_loop import on_every_loop, on_real_loops


class Heard:
    """Notes what a link reports."""

    def __init__(self) -> None:
        self.events: list[tuple[str, object]] = []

    def link_made(self, link: Link) -> None:
        self.events.append(("made", link.conn))

    def link_received(self, link: Link, data: bytes) -> None:
        self.events.append(("received", data))

    def link_lost(self, link: Link, error: Exception | None) -> None:
        self.events.append(("lost", type(error)))

    def link_writable(self, link: Link) -> None:
        self.events.append(("writable", link.conn))


def address(port: int) -> Address:
    return Address("127.0.0.1", port, Endpoint("127.0.0.1", port))


def new_link(heard: Heard) -> Link:
    loop = asyncio.get_running_loop()
    return link_type(loop)(3, heard, loop.create_future())


@on_every_loop
async def test_reports_what_happens_to_it():
    heard = Heard()
    async with ScriptedServer() as server:
        link = new_link(heard)
        await TcpDialer().dial(address(server.port), lambda: link)
        await server.wait_for_connections(1)
        server.connection.send_raw(b"hello")
        server.connection.close()
        await link.closed
    assert heard.events == [("made", 3), ("received", b"hello"), ("lost", type(None))]
    assert link.transport is None


@on_every_loop
async def test_reports_how_the_connection_broke():
    heard = Heard()
    async with ScriptedServer() as server:
        link = new_link(heard)
        await TcpDialer().dial(address(server.port), lambda: link)
        await server.wait_for_connections(1)
        reset(server.connection, None)
        await link.closed
    assert heard.events == [("made", 3), ("lost", ConnectionResetError)]


@on_every_loop
async def test_abort_closes_at_once():
    heard = Heard()
    async with ScriptedServer() as server:
        link = new_link(heard)
        await TcpDialer().dial(address(server.port), lambda: link)
        link.abort()
        await link.closed
        link.abort()
        assert heard.events[-1] == ("lost", type(None))


@on_real_loops
async def test_what_an_aborted_connection_has_not_sent_yet_never_arrives():
    """The kernel would go on with it for as long as the peer lives, however late it reads."""
    heard, received = Heard(), 0
    listener = socket.create_server(("127.0.0.1", 0))
    link = new_link(heard)
    await TcpDialer().dial(address(listener.getsockname()[1]), lambda: link)
    peer, _ = listener.accept()
    assert link.transport is not None
    link.transport.write(bytes(50_000_000))
    link.abort()
    await link.closed
    with contextlib.suppress(ConnectionResetError):
        while data := peer.recv(1 << 20):
            received += len(data)
    assert received < 50_000_000
    peer.close()
    listener.close()


@on_every_loop
async def test_tells_when_it_can_be_written_to():
    heard = Heard()
    async with ScriptedServer() as server:
        link = new_link(heard)
        await TcpDialer().dial(address(server.port), lambda: link)
        await server.wait_for_connections(1)
        peer = server.connection
        peer.silent = True
        assert peer.transport is not None
        peer.transport.pause_reading()
        assert link.transport is not None
        link.transport.write(bytes(8_000_000))
        assert not link.writable
        peer.data_received = lambda data: None  # type: ignore[method-assign]
        peer.transport.resume_reading()
        await until(lambda: link.writable)
        assert heard.events == [("made", 3), ("writable", 3)]
        link.abort()
        await link.closed


@on_every_loop
async def test_a_port_where_nobody_listens_raises():
    with pytest.raises(OSError, match=r".") as refused:
        await TcpDialer().dial(address(closed_port()), lambda: new_link(Heard()))
    assert isinstance(refused.value, ConnectionRefusedError)


@on_every_loop
async def test_a_cancelled_dial_leaves_no_socket():
    with deaf_port() as port:
        before = open_sockets()
        heard = Heard()
        dialing = asyncio.ensure_future(TcpDialer().dial(address(port), lambda: new_link(heard)))
        await until(lambda: open_sockets() > before)
        dialing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await dialing
        await until(lambda: open_sockets() == before)
        gc.collect()  # a socket left behind would warn, which is an error
        assert heard.events == []
