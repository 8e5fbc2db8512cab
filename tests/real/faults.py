"""What the tests of this directory do to a client's connections, and how they look at servers behind its back."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from everlatch import Client, State, StateChange
    from everlatch.testing import Proxy

CLOSE_SESSION = -11
LONGEST = 30.0
"""Seconds after which anything that is waited for here counts as never coming."""


async def until(condition: Callable[[], object], *, timeout: float = LONGEST, interval: float = 0.005) -> None:
    """Waits for a condition; the test fails when it never comes true."""
    async with asyncio.timeout(timeout):
        while True:
            if condition():
                return
            await asyncio.sleep(interval)


class States:
    """A listener that keeps every change of state, and when it came."""

    def __init__(self) -> None:
        self.changes: list[StateChange] = []
        self.times: list[float] = []

    def __call__(self, change: StateChange) -> None:
        self.changes.append(change)
        self.times.append(time.monotonic())

    @property
    def states(self) -> list[State]:
        return [change.state for change in self.changes]

    async def until(self, state: State, *, timeout: float = LONGEST) -> StateChange:
        """Waits until `state` has been announced; returns the first such change."""
        await until(lambda: state in self.states, timeout=timeout)
        return self.changes[self.states.index(state)]

    async def until_told(self, *expected: State, timeout: float = LONGEST) -> None:
        """Waits until these are all that was announced. Listeners are told in loop turns of their own: who only looks
        at the client, or has his answer, may be ahead of them."""
        with contextlib.suppress(TimeoutError):
            await until(lambda: len(self.changes) >= len(expected), timeout=timeout)
        assert self.states == list(expected), self.changes

    def time_of_last(self, state: State) -> float:
        return max(moment for moment, seen in zip(self.times, self.states, strict=True) if seen is state)

    def forget(self) -> None:
        self.changes.clear()
        self.times.clear()


@contextlib.asynccontextmanager
async def connected_to(address: str, make: Callable[[], Client]) -> AsyncIterator[Client]:
    """A client that is connected to this server. The first of its list need not be the one: the next is asked when that
    takes too long to answer, as on a busy machine."""
    async with asyncio.timeout(LONGEST):
        while True:
            client = make()
            await client.start()
            if client.statistics().server == address:
                break
            await client.close()
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(client.close)
        yield client


class RawSession:
    """A session by hand, or somebody else's taken over: what another client could do, byte by byte."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self.session_id = 0
        self.timeout = 0

    @classmethod
    @contextlib.asynccontextmanager
    async def open(
        cls, address: str, *, session_id: int = 0, password: bytes = bytes(16), timeout: float = 10.0
    ) -> AsyncIterator[RawSession]:
        host, _, port = address.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        try:
            session = cls(reader, writer)
            async with asyncio.timeout(LONGEST):
                await session._shake_hands(session_id, password, timeout)
            yield session
        finally:
            writer.transport.abort()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def request(self, op: int, body: bytes = b"") -> tuple[int, bytes]:
        """One request; returns the error code and the body of its reply."""
        self._send(struct.pack(">ii", 1, op) + body)
        async with asyncio.timeout(LONGEST):
            reply = await self._receive()
        _, _, code = struct.unpack_from(">iqi", reply)
        return code, reply[16:]

    async def close_session(self) -> None:
        """Ends the session on the servers, for everybody who thinks it is theirs."""
        code, _ = await self.request(CLOSE_SESSION)
        assert code == 0

    async def _shake_hands(self, session_id: int, password: bytes, timeout: float) -> None:
        self._send(struct.pack(">iqiqi16s?", 0, 0, round(timeout * 1000), session_id, 16, password, False))
        _, self.timeout, self.session_id = struct.unpack_from(">iiq", await self._receive())

    def _send(self, payload: bytes) -> None:
        self._writer.write(struct.pack(">i", len(payload)) + payload)

    async def _receive(self) -> bytes:
        (size,) = struct.unpack(">i", await self._reader.readexactly(4))
        return await self._reader.readexactly(size)


async def end_session(address: str, session_id: int, password: bytes) -> None:
    """Closes somebody's session, as if it had expired."""
    async with RawSession.open(address, session_id=session_id, password=password) as session:
        assert session.session_id == session_id, "the server does not know this session"
        await session.close_session()


def shut(proxy: Proxy) -> None:
    """Breaks every link, and every new one until `proxy.accept()`; the server goes on serving."""
    proxy.refuse()
    proxy.cut()


@contextlib.contextmanager
def mute_server() -> Iterator[str]:
    """A server that lets clients connect and never says a word; yields its address."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(100)
        yield _address_of(listener)


@contextlib.contextmanager
def unreachable_server() -> Iterator[str]:
    """An address where connecting never ends: its queue of connections is full, as behind a firewall that drops."""
    with socket.socket() as listener, contextlib.ExitStack() as stack:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        yield _address_of(listener)


@contextlib.contextmanager
def refusing_server() -> Iterator[str]:
    """An address where nobody listens, and nobody else will while it lasts."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        yield _address_of(holder)


def _address_of(listener: socket.socket) -> str:
    host, port = listener.getsockname()
    return f"{host}:{port}"
