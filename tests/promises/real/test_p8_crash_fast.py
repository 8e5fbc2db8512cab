"""P8, crash-fast, on real ensembles: the nodes of a process that was killed are gone within milliseconds, about
as soon as anybody could do it; those of one that is not dead are left to the servers.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from statistics import median
from typing import TYPE_CHECKING

import pytest

from everlatch.types import OPEN_ACL_UNSAFE
from everlatch.wire.auth_records import decode_sasl_reply, encode_sasl_request
from everlatch.wire.codes import CreateMode, Op
from everlatch.wire.framing import frame
from everlatch.wire.handshake import ConnectRequest, decode_connect_response, encode_connect_request
from everlatch.wire.headers import REPLY_HEADER, frame_request
from everlatch.wire.records import encode_create_request
from guardian.owned import is_alive, owner_of, until_asleep, until_dead
from promises.access import environment_for, sasl
from promises.real.ensembles import PATIENCE, THOROUGH, addresses_of, without

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from everlatch import Client
    from everlatch.testing import NetworkEnsemble, Server
    from guardian.owned import Owner

pytestmark = [pytest.mark.real, pytest.mark.asyncio(loop_scope="session")]

LONG = 8.0
"""A session timeout: what is gone in less than half of it was closed."""
ROUNDS = 15 if THOROUGH else 3
NOISE = 0.0 if THOROUGH else 0.03
"""Seconds that a busy machine may add to a median."""


class Nodes:
    """Sees nodes go."""

    def __init__(self, witness: Client) -> None:
        self._witness = witness
        self._times: list[float] = []
        self._watched = 0

    async def watch(self, path: str) -> None:
        for name in await self._witness.children(path):
            self._watched += 1
            there = await self._witness.exists(f"{path}/{name}", watch=lambda _: self._times.append(time.monotonic()))
            assert there is not None

    async def gone(self) -> float:
        """When the last one went."""
        assert self._watched
        async with asyncio.timeout(PATIENCE):
            while len(self._times) < self._watched:
                await asyncio.sleep(0.001)
        return max(self._times)


class RawSession:
    """What nobody can do without: a socket, a handshake, and a request; TLS and SASL where servers demand them."""

    def __init__(self, server: Server) -> None:
        self._address = (server.host, server.port)
        self._tls = None if server.certificates is None else server.certificates.client_context()
        self._id, self._password = 0, bytes(16)

    async def begin(self, path: str) -> None:
        """A session with an ephemeral node, whose connection is gone."""
        body = encode_create_request(path, b"", OPEN_ACL_UNSAFE, CreateMode.EPHEMERAL)
        response = await self._connect_and_call(frame_request(1, Op.CREATE, body))
        self._id, self._password = response.session_id, response.password

    async def close(self) -> None:
        await self._connect_and_call(frame_request(1, Op.CLOSE_SESSION, b""))

    async def _connect_and_call(self, request: bytes):
        reader, writer = await asyncio.open_connection(*self._address, ssl=self._tls)
        asked = ConnectRequest(0, 0, round(LONG * 1000), self._id, self._password, False)
        writer.write(frame(encode_connect_request(asked)))
        reply = await self._frame(reader)
        response = decode_connect_response(reply, 0, len(reply))
        assert response.timeout_ms
        if self._tls is not None:
            await self._prove(reader, writer)
        writer.write(request)
        assert (await self._frame(reader))[12:16] == bytes(4)
        writer.transport.abort()
        return response

    async def _prove(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        exchange = sasl().begin("")
        token = exchange.step(b"")
        while token is not None:
            writer.write(frame_request(2, Op.SASL, encode_sasl_request(token)))
            reply = await self._frame(reader)
            token = exchange.step(decode_sasl_reply(reply, REPLY_HEADER.size, len(reply)))

    @staticmethod
    async def _frame(reader: asyncio.StreamReader) -> bytes:
        return await reader.readexactly(int.from_bytes(await reader.readexactly(4), "big"))


@contextlib.asynccontextmanager
async def owner_at(
    servers: Sequence[Server], path: str, *, timeout: float = LONG, clients: int = 1, options: str = "{}"
) -> AsyncIterator[Owner]:
    """A guarded process, whose clients try these servers; how they get in it knows by its environment."""
    options = f"__import__('promises.access').access.options_of_process() | {options}"
    environment = environment_for(servers[0]) | {"OPTIONS": options}
    async with owner_of(
        ",".join(addresses_of(servers)), path, timeout=timeout, clients=clients, **environment
    ) as owner:
        yield owner


async def raw_seconds(witness: Client, servers: Sequence[Server], path: str, sessions: int) -> float:
    """How long it takes to end so many sessions, until their nodes are seen to be gone."""
    raw = [RawSession(servers[number % len(servers)]) for number in range(sessions)]
    await asyncio.gather(*(session.begin(f"{path}/{number}") for number, session in enumerate(raw)))
    nodes = Nodes(witness)
    await nodes.watch(path)
    began = time.monotonic()
    await asyncio.gather(*(session.close() for session in raw))
    return await nodes.gone() - began


async def guarded_seconds(witness: Client, servers: Sequence[Server], path: str, clients: int) -> float:
    """The same for a process that is killed, from then on."""
    async with owner_at(servers, path, clients=clients) as owner:
        await until_asleep(owner.guardian)
        nodes = Nodes(witness)
        await nodes.watch(path)
        killed = await owner.kill()
        gone = await nodes.gone()
        await until_dead(owner.guardian)
        return gone - killed


@pytest.mark.parametrize("clients", [1, 10])
async def test_killed(network: NetworkEnsemble, witness: Client, root: str, clients: int) -> None:
    """Within twice the time that raw sockets need, in the same run."""
    raw, guarded = [], []
    for _ in range(ROUNDS):
        raw.append(await raw_seconds(witness, network.servers, root, clients))
        guarded.append(await guarded_seconds(witness, network.servers, root, clients))
    print(f"{clients} clients: raw {median(raw) * 1000:.1f} ms, guardian {median(guarded) * 1000:.1f} ms")
    assert median(guarded) <= 2 * median(raw) + NOISE, (raw, guarded)


async def test_the_server_in_use_stands_still(network: NetworkEnsemble, witness: Client, root: str) -> None:
    """Another one does it."""
    leader = await network.leader()
    follower, *others = await without(network, leader)
    async with owner_at([follower, *others], root, options="{'shuffle': False}") as owner:
        used = await network.server_of((await witness.get(f"{root}/0")).stat.ephemeral_owner)
        await until_asleep(owner.guardian)
        nodes = Nodes(witness)
        await nodes.watch(root)
        used.pause()
        killed = await owner.kill()
        assert await nodes.gone() - killed < LONG / 4


async def test_paused(network: NetworkEnsemble, witness: Client, root: str) -> None:
    """For three session timeouts: the servers end the session, when it is time, and nobody else does."""
    timeout = 1.2
    async with owner_at(network.servers, root, timeout=timeout) as owner:
        await until_asleep(owner.guardian)
        nodes = Nodes(witness)
        await nodes.watch(root)
        paused = time.monotonic()
        os.kill(owner.pid, signal.SIGSTOP)
        assert await nodes.gone() - paused > timeout / 2
        while time.monotonic() < paused + 3 * timeout:
            assert is_alive(owner.guardian)
            await asyncio.sleep(0.02)
        os.kill(owner.pid, signal.SIGCONT)
        assert await owner.tell("guardian", "guardian") == [owner.guardian, 0]
