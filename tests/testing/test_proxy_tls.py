"""The proxy between peers that speak TLS: with certificates of its own it sees what passes, without it lets it pass."""

from __future__ import annotations

import asyncio
import socket
import ssl
from typing import TYPE_CHECKING, Any

import pytest

from engine.links import open_sockets
from everlatch import OPEN_ACL_UNSAFE
from everlatch.testing import Certificates, Ensemble, Op, Proxy
from everlatch.wire.records import encode_create_request, encode_exists_request
from real.raw import Raw
from skipping_loop import on_real_loops
from testing.peers import HELLO, Wire, get, reply, set_data

if TYPE_CHECKING:
    from pathlib import Path

    from everlatch.testing.faults import How
    from testing.peers import Peer


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    return Certificates(tmp_path)


def name_of(peer: Peer) -> str | None:
    """Whom the other side has said to be."""
    found: Any = peer.transport.get_extra_info("peercert")
    return dict(part for parts in found["subject"] for part in parts)["commonName"] if found else None


@on_real_loops
async def test_it_speaks_tls_with_both_and_sees_what_passes(certificates: Certificates) -> None:
    async with Wire(certificates, tls=certificates) as wire:
        client, server = await wire.greet()
        client.send(get(1), set_data(2)[:5])
        client.send(set_data(2)[5:])
        await server.until_received(get(1), set_data(2))
        server.send(reply(1), reply(2))
        await client.until_received(reply(1), reply(2))
        assert [request.op for request in wire.proxy.seen()] == [Op.GET_DATA, Op.SET_DATA]
        assert not wire.proxy.connections[0].opaque
        assert (name_of(client), name_of(server)) == ("server", None)
        _, server = await wire.connect(certificate="client")
        assert name_of(server) == "client"


@on_real_loops
async def test_without_certificates_tls_passes_through_it(certificates: Certificates) -> None:
    async with Wire(certificates) as wire:
        client, server = await wire.greet()
        assert wire.proxy.connections[0].opaque
        assert wire.proxy.requests == []
        wire.proxy.cut()
        assert (await client.until_ended(), await server.until_ended()) == ("rst", "rst")


@on_real_loops
async def test_faults_strike_inside_of_tls(certificates: Certificates) -> None:
    async with Wire(certificates, tls=certificates) as wire:
        client, server = await wire.greet()
        held = wire.proxy.hold_reply(Op.GET_DATA)
        delayed = wire.proxy.byte_by_byte("to_server", op=Op.SET_DATA)
        client.send(get(1), set_data(2))
        await server.until_received(get(1), set_data(2))
        await delayed.happened()
        server.send(reply(1), reply(2))
        await held.reached()
        assert client.received == b""
        held.release()
        await client.until_received(reply(1), reply(2))
        cut = wire.proxy.truncate(7, "to_client", op=Op.GET_DATA)
        client.received.clear()
        client.send(get(3))
        await server.until(lambda: server.received.endswith(get(3)))
        server.send(reply(3))
        await cut.happened()
        assert await client.until_ended() == "fin"
        assert bytes(client.received) == reply(3)[:7]
        client, server = await wire.greet()
        lost = wire.proxy.lose_request(Op.GET_DATA)
        client.send(get(1))
        assert (await client.until_ended(), await server.until_ended()) == ("rst", "rst")
        await lost.happened()
        assert server.received == b""


@on_real_loops
@pytest.mark.parametrize("from_server", [True, False])
@pytest.mark.parametrize("how", ["fin", "rst"])
async def test_how_one_side_ends_is_how_the_other_sees_it(
    certificates: Certificates, from_server: bool, how: How
) -> None:
    async with Wire(certificates, tls=certificates) as wire:
        client, server = await wire.greet()
        ending, other = (server, client) if from_server else (client, server)
        whole = reply(1, bytes(300_000)) if from_server else set_data(1, data=bytes(300_000))
        if how == "fin":
            ending.send(whole)
            ending.transport.close()
            await other.until_received(whole)
        else:
            ending.transport.get_extra_info("socket").setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0"
            )
            ending.transport.abort()
        assert await other.until_ended() == how
        await wire.proxy.until(lambda: not wire.proxy.connections)


@on_real_loops
@pytest.mark.parametrize("how", ["fin", "rst"])
async def test_it_ends_both_sides(certificates: Certificates, how: How) -> None:
    async with Wire(certificates, tls=certificates) as wire:
        client, server = await wire.greet()
        wire.proxy.cut(how)
        assert (await client.until_ended(), await server.until_ended()) == (how, how)


@on_real_loops
async def test_much_passes_both_ways(certificates: Certificates) -> None:
    async with Wire(certificates, tls=certificates) as wire:
        client, server = await wire.greet()
        there = [set_data(number, data=bytes([number]) * 500_000) for number in range(1, 9)]
        back = [reply(number, bytes([number]) * 500_000) for number in range(1, 9)]
        client.send(*there)
        server.send(*back)
        await server.until_received(*there)
        await client.until_received(*back)
        client.transport.close()
        assert await server.until_ended() == "fin"


@on_real_loops
async def test_a_client_that_does_not_shake_hands_is_no_obstacle(certificates: Certificates) -> None:
    before = open_sockets()
    async with Wire(certificates, tls=certificates) as wire:
        host, port = wire.proxy.address.split(":")
        silent_reader, silent = await asyncio.open_connection(host, int(port))
        await wire.proxy.until(lambda: len(wire.proxy.connections) == 1)
        (connection,) = wire.proxy.connections
        plain_reader, plain = await asyncio.open_connection(host, int(port))
        plain.write(HELLO)
        # An alert, perhaps, then the end.
        assert HELLO not in await ended(plain_reader)
        plain.close()
        assert wire.accepted.empty()
        await wire.greet()
        connection.cut("rst")
        assert await ended(silent_reader) == b""
        await wire.proxy.until(lambda: connection not in wire.proxy.connections)
        silent.close()
        _, silent = await asyncio.open_connection(host, int(port))
        await wire.proxy.until(lambda: len(wire.proxy.connections) == 2)
        await wire.proxy.close()
        silent.close()
    assert open_sockets() == before


async def ended(reader: asyncio.StreamReader) -> bytes:
    """What came before the end."""
    try:
        return await reader.read()
    except ConnectionResetError:
        return b""


@on_real_loops
async def test_a_server_that_has_another_name_is_not_reached(certificates: Certificates, tmp_path: Path) -> None:
    others = Certificates(tmp_path / "others")
    async with Wire(others, tls=certificates) as wire:
        host, port = wire.proxy.address.split(":")
        reader, writer = await asyncio.open_connection(host, int(port), ssl=certificates.client_context())
        (connection,) = wire.proxy.connections
        assert await ended(reader) == b""
        await wire.proxy.until(lambda: not wire.proxy.connections)
        assert isinstance(connection.failure, ssl.SSLCertVerificationError)
        writer.close()


@pytest.mark.real
async def test_in_front_of_a_real_server() -> None:
    async with (
        Ensemble(tls=True, client_auth="need") as ensemble,
        Proxy(ensemble.connect_string, tls=ensemble.certificates) as proxy,
    ):
        context = ensemble.certificates.client_context()
        async with Raw.open(proxy.address, tls=context) as raw:
            lost = proxy.lose_reply(Op.CREATE)
            raw.send(Op.CREATE, encode_create_request("/lost", b"", OPEN_ACL_UNSAFE, 0))
            assert await raw.hung_up()
            await lost.happened()
        async with Raw.open(proxy.address, tls=context) as raw:
            assert await raw.code(Op.EXISTS, encode_exists_request("/lost", False)) == 0
        assert [request.op for request in proxy.seen()] == [Op.CREATE, Op.EXISTS]
