"""A client and servers that go wrong by TLS: silent, cut off, lying, garbling, in the handshake and later."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import ssl
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from engine.links import open_sockets, until
from everlatch import (
    Client,
    ClientCertificateError,
    HandshakeRefusedError,
    HandshakeTimeoutError,
    NoTlsError,
    ProtocolError,
    ServerCertificateError,
    ServerKind,
    StartError,
    State,
    TlsError,
)
from everlatch.testing import Certificates
from scripted_server import ScriptedServer, Znodes
from skipping_loop import on_every_loop, on_real_loops, simulated, this_loop
from tls_peer import TlsPeer, begins, closes, pieces, resets, says, silent

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from everlatch import StateChange

SECRET = "correct-horse-battery"


@pytest.fixture
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    certificates = Certificates(tmp_path_factory.mktemp("certificates"))
    certificates.issue("client", password=SECRET)
    return certificates


@pytest.fixture(autouse=True)
def no_secret_is_told(caplog: pytest.LogCaptureFixture):
    caplog.set_level("DEBUG")
    yield
    assert SECRET not in caplog.text


class Pair(NamedTuple):
    """A server, and TLS in front of it."""

    tls: TlsPeer
    server: ScriptedServer


@contextlib.asynccontextmanager
async def ensemble(
    certificates: Certificates, size: int = 2, *, client_auth: str = "none"
) -> AsyncIterator[list[Pair]]:
    znodes = Znodes(max_session_timeout=6)
    async with contextlib.AsyncExitStack() as stack:
        pairs = []
        for _ in range(size):
            server = await stack.enter_async_context(ScriptedServer(znodes))
            context = certificates.server_context("server", client_auth=client_auth)  # type: ignore[arg-type]
            pairs.append(Pair(await stack.enter_async_context(TlsPeer(context, server.port)), server))
        yield pairs


def client_of(pairs: list[Pair], certificates: Certificates, **options: Any) -> Client:
    options = {"shuffle": False, "session_timeout": 6, "ca": certificates.ca} | options
    return Client(",".join(pair.tls.address for pair in pairs), **options)


def with_certificate(certificates: Certificates) -> dict[str, Any]:
    return {"cert": certificates.client.cert, "key": certificates.client.key, "key_password": SECRET}


@contextlib.asynccontextmanager
async def in_need_of_a_certificate(certificates: Certificates) -> AsyncIterator[tuple[Pair, Client]]:
    """A server that lets nobody in without one, and a client that is in."""
    async with (
        ensemble(certificates, 1, client_auth="need") as [pair],
        client_of([pair], certificates, **with_certificate(certificates)) as client,
    ):
        yield pair, client


def changes_of(client: Client) -> list[StateChange]:
    changes: list[StateChange] = []
    client.add_listener(changes.append)
    return changes


async def when(condition: Callable[[], object]) -> None:
    """As time passes."""
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.01)


async def reason_of(client: Client) -> BaseException:
    """Why the only server that there is does not take a client."""
    with pytest.raises(StartError) as raised:
        await client.start()
    ((_, reason),) = raised.value.failures
    assert str(reason) in str(raised.value)
    assert SECRET not in str(raised.value) + repr(raised.value.failures)
    return reason


# --- well ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("records", [pieces(1), pieces(5), pieces(1 << 14)], ids=["1", "5", "all"])
@pytest.mark.parametrize("segments", [pieces(3), pieces(1 << 20)], ids=["3", "all"])
@on_every_loop
async def test_all_that_a_client_does_in_records_of_any_size(certificates, records, segments):
    async with ensemble(certificates, 1) as [pair], client_of([pair], certificates) as client:
        pair.tls.records, pair.tls.segments = records, segments
        await client.create("/a", b"x" * 3000)
        assert (await client.get("/a")).data == b"x" * 3000
        await asyncio.gather(*(client.create(f"/a/{number}") for number in range(20)))
        assert len(await client.children("/a")) == 20


@on_every_loop
async def test_many_replies_in_one_record(certificates):
    async with ensemble(certificates, 1) as [pair], client_of([pair], certificates) as client:
        pair.tls.holding = True
        calls = [client.create(f"/a{number}") for number in range(200)]
        await pair.tls.until(lambda: len(b"".join(pair.tls.connection.held)) > 200 * 20)
        await pair.server.until(lambda: len(pair.server.requests) == 200)
        for _ in range(100):
            await asyncio.sleep(0)
        assert not any(call.done() for call in calls)
        pair.tls.connection.release()
        assert [created.path for created in await asyncio.gather(*calls)] == [f"/a{number}" for number in range(200)]


@on_real_loops
async def test_a_thousand_calls_in_flight(certificates):
    """So many that reading pauses."""
    async with ensemble(certificates, 1) as [pair], client_of([pair], certificates) as client:
        await client.create("/a", b"x" * 500)
        found = await asyncio.gather(*(client.get("/a") for _ in range(3000)))
        assert {each.data for each in found} == {b"x" * 500}


@simulated
async def test_the_servers_see_who_the_client_is(certificates):
    async with in_need_of_a_certificate(certificates) as (pair, client):
        assert await client.exists("/") is not None
        seen = pair.tls.connection.tls.getpeercert()
        assert seen is not None
        assert dict(part[0] for part in seen["subject"])["commonName"] == "client"


@simulated
async def test_a_context_of_ones_own(certificates):
    context = certificates.client_context(None)
    async with ensemble(certificates, 1) as [pair], Client(pair.tls.address, tls=context) as client:
        assert await client.exists("/") is not None


# --- why it can not be started ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("behave", "kind", "text"),
    [
        (closes, NoTlsError, "plain port"),
        (resets, NoTlsError, "plain port"),
        (says(b"no TLS here", then_close=True), NoTlsError, "no TLS here"),
        (begins(100, closes), TlsError, "in the middle of the TLS handshake"),
        (silent, HandshakeTimeoutError, "no TLS connection in"),
        (begins(100), HandshakeTimeoutError, "no TLS connection in"),
    ],
    ids=["closes", "resets", "no TLS", "half, then the end", "silent", "half, then silent"],
)
@simulated
async def test_why_a_server_does_not_take_a_client(certificates, behave, kind, text):
    async with ensemble(certificates, 1) as [pair]:
        pair.tls.behave = behave
        client, began = client_of([pair], certificates), this_loop().time()
        reason = await reason_of(client)
        assert type(reason) is kind
        assert text in str(reason)
        took = this_loop().time() - began
        assert took < 0.1 if kind is not HandshakeTimeoutError else took <= 2.1
        await pair.tls.until(lambda: not pair.tls.open_connections)


@simulated
async def test_a_plain_port(certificates):
    """ZooKeeper takes the beginning of TLS for the length of a frame that is too long."""
    async with ScriptedServer() as server:
        reason = await reason_of(Client(server.address, ca=certificates.ca))
        assert isinstance(reason, NoTlsError)
        assert "secureClientPort" in str(reason)


@simulated
async def test_a_plain_client_and_a_port_for_tls(certificates):
    async with ensemble(certificates, 1) as [pair]:
        reason = await reason_of(Client(pair.tls.address))
        assert isinstance(reason, (HandshakeRefusedError, ProtocolError))
        assert "its port is for TLS" in str(reason) or "is that a port for TLS?" in str(reason)
        pair.tls.behave = says(b"\x15\x03\x03\0\2\2\x0a", then_close=True)
        reason = await reason_of(Client(pair.tls.address))
        assert "is that a port for TLS?" in str(reason)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@on_every_loop
async def test_a_client_without_the_certificate_that_is_wanted(certificates, version):
    async with ensemble(certificates, 1, client_auth="need") as [pair]:
        pair.tls.context.maximum_version = version
        reason = await reason_of(client_of([pair], certificates))
        assert isinstance(reason, ClientCertificateError)
        assert "wants a client certificate: give cert and key" in str(reason)


@on_every_loop
async def test_a_client_with_a_certificate_of_somebody_else(certificates):
    certificates.issue("stranger", trusted=False)
    stranger = {"cert": certificates["stranger"].cert, "key": certificates["stranger"].key}
    async with ensemble(certificates, 1, client_auth="need") as [pair]:
        reason = await reason_of(client_of([pair], certificates, **stranger))
        assert isinstance(reason, ClientCertificateError)
        assert "refuses the client certificate" in str(reason)


@simulated
async def test_the_reason_of_a_state_change_says_so_too(certificates):
    """TLS 1.3: the server has the last word on the certificate when the client believes itself connected."""
    async with ensemble(certificates, 1) as [pair], client_of([pair], certificates, session_timeout=2) as client:
        changes = changes_of(client)
        pair.tls.context = certificates.server_context("server", client_auth="need")
        pair.tls.connection.reset()
        await when(lambda: any(change.state is State.LOST for change in changes))
        (reason,) = [change.reason for change in changes if change.state is State.LOST]
        assert f"{pair.tls.address}: the server wants a client certificate" in str(reason)
        assert isinstance(dict(client._engine.session.failures())[pair.tls.address], ClientCertificateError)


# --- on to the next -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "behave",
    [closes, resets, silent, begins(60), begins(60, closes), says(b"\0" * 20), says(b"\x16\x03\x03\x40\0" + bytes(99))],
    ids=["closes", "resets", "silent", "half", "half, then the end", "zeros", "a record without its end"],
)
@simulated
async def test_a_server_that_fails_in_the_handshake_is_left_for_the_next(certificates, behave):
    async with ensemble(certificates) as pairs, client_of(pairs, certificates) as client:
        await client.create("/a")
        pairs[0].tls.behave = pairs[1].tls.behave = behave
        pairs[0].tls.connection.reset()
        call, began = client.exists("/a"), this_loop().time()
        await asyncio.sleep(0.05)
        pairs[1].tls.behave = None
        assert await call is not None
        assert this_loop().time() - began < 3.0
        assert client.statistics().server == pairs[1].tls.address


@simulated
async def test_a_silent_handshake_gets_a_rival(certificates):
    """An attempt that takes long isn't waited for."""
    async with ensemble(certificates) as pairs:
        pairs[0].tls.behave = silent
        began = this_loop().time()
        async with client_of(pairs, certificates) as client:
            assert client.statistics().server == pairs[1].tls.address
            assert this_loop().time() - began < 0.5
            await pairs[0].tls.until(lambda: not pairs[0].tls.open_connections)


@simulated
async def test_a_lying_server_is_not_spoken_to(certificates):
    """One of a stranger's authority gets no byte of the session."""
    certificates.issue("liar", trusted=False)
    async with ensemble(certificates) as pairs, client_of(pairs, certificates) as client:
        pairs[1].tls.context = certificates.server_context("liar")
        pairs[0].tls.behave = silent
        pairs[0].tls.connection.reset()
        call = client.exists("/")
        await asyncio.sleep(3)
        assert not call.done()
        assert pairs[1].tls.connections
        assert pairs[1].server.connections == []
        failures = dict(client._engine.session.failures())
        assert isinstance(failures[pairs[1].tls.address], ServerCertificateError)
        pairs[1].tls.context = certificates.server_context("server")
        assert await call is not None


@simulated
async def test_a_session_survives_records_that_are_broken(certificates):
    async with ensemble(certificates) as pairs, client_of(pairs, certificates) as client:
        changes, session_id = changes_of(client), client.session_id
        for number in range(6):
            (pair,) = [pair for pair in pairs if pair.tls.open_connections]
            connection = pair.tls.open_connections[0]
            junk = bytearray(connection.encrypted(b"junk"))
            junk[-1] ^= 1
            connection.send_raw(bytes(junk))
            await when(lambda count=number: client.connections == count + 2)
            await client.create(f"/a{number}")
        assert client.session_id == session_id
        reasons = [change.reason for change in changes if change.state is State.SUSPENDED]
        assert {type(reason) for reason in reasons} == {TlsError}


@simulated
async def test_a_reply_that_is_cut_off_in_its_record_is_asked_for_again(certificates):
    async with ensemble(certificates) as pairs, client_of(pairs, certificates) as client:
        await client.create("/a", b"x" * 1000)
        pairs[0].tls.holding = True
        call = client.get("/a")
        await pairs[0].tls.until(lambda: pairs[0].tls.connection.held)
        connection = pairs[0].tls.connection
        connection.send_raw(connection.encrypted(b"".join(connection.held))[:500])
        connection.transport.close()
        assert (await call).data == b"x" * 1000


# --- the client's other connections -------------------------------------------------------------------------------


@simulated
async def test_servers_are_asked_by_tls(certificates):
    async with ensemble(certificates, 3) as pairs, client_of(pairs, certificates) as client:
        pairs[2].tls.behave = closes
        found = await client.search_servers()
        assert [finding.kind for finding in found] == [
            ServerKind.READ_WRITE,
            ServerKind.READ_WRITE,
            ServerKind.UNREACHABLE,
        ]
        assert [len(pair.server.words) for pair in pairs] == [1, 1, 0]


@simulated
async def test_a_frozen_server_is_left_for_one_that_answers_by_tls(certificates):
    async with ensemble(certificates) as pairs, client_of(pairs, certificates) as client:
        pairs[0].tls.holding = True
        began = this_loop().time()
        call = client.exists("/")
        pairs[0].tls.behave = silent
        assert await call is not None
        assert this_loop().time() - began < 1.5
        assert client.statistics().server == pairs[1].tls.address


@simulated
async def test_the_spare_connection_has_shaken_hands(certificates):
    async with ensemble(certificates) as pairs, client_of(pairs, certificates, warm_spare=True) as client:
        await asyncio.sleep(2)
        await pairs[1].tls.until(lambda: pairs[1].tls.connections and pairs[1].tls.connection.shaken)
        spare = pairs[1].tls.connection
        assert not spare.closed.is_set()
        pairs[1].tls.behave = silent  # for connections to come
        pairs[0].tls.behave = silent
        pairs[0].tls.connection.reset()
        assert await client.exists("/") is not None
        assert client.statistics().server == pairs[1].tls.address
        assert len(pairs[1].tls.connections) >= 1


@simulated
async def test_the_version_of_a_server_is_asked_by_tls(certificates):
    async with ensemble(certificates, 1) as [pair], client_of([pair], certificates) as client:
        assert await client.who_am_i()
        assert pair.server.words == ["srvr"] or len(pair.server.words) == 1


# --- rotation -----------------------------------------------------------------------------------------------------


@simulated
async def test_certificates_of_both_sides_change_while_the_client_runs(certificates, caplog):
    async with in_need_of_a_certificate(certificates) as (pair, client):
        session_id = client.session_id
        before = pair.tls.connection.tls.getpeercert()
        certificates.replace_authority(trust_former=True)
        certificates.issue("client", password=SECRET)
        certificates.issue("server")
        pair.tls.context = certificates.server_context("server", client_auth="need")
        pair.tls.connection.reset()
        assert await client.exists("/") is not None
        after = pair.tls.connection.tls.getpeercert()
        assert before is not None
        assert after is not None
        assert after["serialNumber"] != before["serialNumber"]
        assert client.session_id == session_id
    assert "were read again" in caplog.text


@simulated
async def test_a_half_written_key_costs_a_warning_and_nothing_else(certificates, caplog):
    async with in_need_of_a_certificate(certificates) as (pair, client):
        certificates.client.key.write_bytes(certificates.client.key.read_bytes()[:100])
        for _ in range(3):
            pair.tls.connection.reset()
            connections = client.connections
            await when(lambda count=connections: client.connections > count)
            assert await client.exists("/") is not None
    warnings = [record for record in caplog.records if "goes on with the certificates" in record.message]
    assert len(warnings) == 1


# --- the end ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("behave", [None, silent, begins(1), begins(900)], ids=["serves", "silent", "a byte", "half"])
@on_real_loops
async def test_a_start_that_is_cancelled_at_any_moment_leaves_nothing(certificates, behave):
    async with ensemble(certificates, 1) as [pair]:
        pair.tls.behave = behave
        before = open_sockets()
        for turns in range(40):
            client = client_of([pair], certificates)
            starting = asyncio.ensure_future(client.start())
            for _ in range(turns):
                await asyncio.sleep(0)
            starting.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await starting
            await client.close()
            await until(lambda: open_sockets() <= before)
        gc.collect()  # what is left behind would warn, which is an error


@pytest.mark.parametrize("behave", [silent, begins(300)], ids=["silent", "half"])
@on_every_loop
async def test_closing_does_not_wait_for_a_handshake(certificates, behave):
    async with ensemble(certificates, 2) as pairs:
        before = open_sockets()
        for pair in pairs:
            pair.tls.behave = behave
        client = client_of(pairs, certificates)
        await client.start(wait=False)
        await pairs[0].tls.until(lambda: pairs[0].tls.connections)
        await client.close()
        for pair in pairs:
            await pair.tls.until(lambda pair=pair: not pair.tls.open_connections)
        await until(lambda: open_sockets() <= before)
        gc.collect()
