"""Servers of the dev server's kind on hosts of the world.

Rules: a server's process is the only one that touches its core, and only while it runs. A crash keeps what a real
server has on disk; `restart` of the core says what that is. Its timers are no reason to go on simulating.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final, Protocol, cast

from everlatch.testing.simulation.hosts import Host

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from everlatch.testing.simulation.peering import Peering
    from everlatch.testing.simulation.process import Process
    from everlatch.testing.simulation.world import World

__all__ = ["EPOCH", "PORT", "MemberCore", "ServerConnection", "ServerCore", "SimulatedServer"]

PORT: Final = 2181
EPOCH: Final = 1_700_000_000.0
"""What the calendar shows, in seconds since 1970, when a clock shows 0: the same in every run."""


class ServerConnection(Protocol):
    """A client's connection, as the core knows it."""

    is_closing: bool

    def receive(self, data: bytes, now: float) -> None:
        """Bytes from the client."""
        ...

    def take_output(self) -> bytes:
        """All that is to be sent, once."""
        ...


class ServerCore(Protocol):
    """A server without sockets and clock, as `everlatch.devserver.core.Core`."""

    def connect(self, host: str, port: int, now: float) -> Any:
        """A client has connected."""
        ...

    def disconnect(self, connection: Any) -> None:
        """Its connection is gone."""
        ...

    def take_changed(self) -> Iterable[Any]:
        """The connections with something to send, or to be closed."""
        ...

    def next_deadline(self) -> float:
        """When `handle_timer` is due."""
        ...

    def handle_timer(self, now: float) -> None:
        """Time has passed."""
        ...


class MemberCore(ServerCore, Protocol):
    """One of several servers."""

    def take_messages(self) -> list[tuple[int, Any]]:
        """What is to be sent to other members."""
        ...

    def deliver(self, sender: int, message: Any, now: float) -> None:
        """A message from another member."""
        ...

    def peer_lost(self, peer: int, now: float) -> None:
        """The connection to another member broke."""
        ...

    def restart(self, now: float) -> None:
        """The process is a new one: what is on disk is still there."""
        ...


class SimulatedServer(Host):
    """A host whose process is a ZooKeeper server. Made by `World.server` and `World.ensemble`."""

    is_server = True

    def __init__(
        self, world: World, name: str, ip: str, make_core: Callable[[float], ServerCore], clock_rate: float = 1.0
    ) -> None:
        super().__init__(world, name, ip, clock_rate=clock_rate)
        self.number = 0
        """As a member of an ensemble."""
        self.peering: Peering | None = None
        self.core: Any = make_core(self.time())
        """What the server knows. Tests may look."""
        self._mode: str | None = getattr(self.core, "mode", None)
        self._links: dict[ServerConnection, _Link] = {}
        self._timer: asyncio.TimerHandle | None = None

    @property
    def address(self) -> str:
        """`host:port`, for clients."""
        return f"{self.name}:{PORT}"

    @property
    def is_leading(self) -> bool:
        """Whether it is the leader of its ensemble, and lives."""
        return self.process is not None and bool(getattr(self.core, "is_leading", False))

    # -- life

    def boot(self) -> None:
        """The process listens."""
        process = self.process
        assert process is not None
        if process.number > 1:
            self._restart(self.time())
        self.world.network.listen(process, PORT, lambda: _Link(self))
        self._timer = None
        process.context.copy().run(self._settle)

    def _restart(self, now: float) -> None:
        self._links.clear()
        restart: Callable[[float], None] | None = getattr(self.core, "restart", None)
        if restart is not None:
            restart(now)
            return
        for connection in list(self.core.connections):
            self.core.disconnect(connection)
        self.core.take_changed()
        for session in self.core.sessions:  # nobody could reach it
            self.core.decider.touch(session.id, session.timeout_ms, now)

    def crash(self) -> None:
        """As every host's."""
        was_alive = self.process is not None
        super().crash()
        if was_alive and self.peering is not None:
            self.peering.died(self.number, heard=True)

    def power_off(self) -> None:
        """As every host's."""
        super().power_off()
        if self.peering is not None:
            self.peering.died(self.number, heard=False)

    # -- clients

    def joined(self, connection: ServerConnection, link: _Link) -> None:
        """A client's connection."""
        self._links[connection] = link
        self._settle()

    def received(self, connection: ServerConnection, data: bytes) -> None:
        """Bytes from a client."""
        connection.receive(data, self.world.loop.time())
        self._settle()

    def left(self, connection: ServerConnection) -> None:
        """A connection is gone."""
        del self._links[connection]
        self.core.disconnect(connection)
        self._settle()

    # -- other members

    def hand_over(self, process: Process, sender: int, messages: list[Any] | None) -> None:
        """Messages from another member, to be read by this process; `None`: the connection broke."""
        context = process.context.copy()
        if process.running:
            context.run(self._take, sender, messages)
        else:
            self.world.loop.call_soon(self._take, sender, messages, context=context)

    def _take(self, sender: int, messages: list[Any] | None) -> None:
        now = self.world.loop.time()
        if messages is None:
            self.core.peer_lost(sender, now)
        else:
            for message in messages:
                self.core.deliver(sender, message, now)
        self._settle()
        self._note_role()

    # -- after every input

    def _settle(self) -> None:
        links = self._links
        for connection in self.core.take_changed():
            links[connection].flush(connection)
        if self.peering is not None:
            self._send_messages(self.peering)
        due = self.core.next_deadline()
        if self._timer is not None:
            if self._timer.when() <= due:
                return  # early is no harm: it is armed anew then
            self._timer.cancel()
        self._timer = self.world.loop.call_at(due, self._on_timer)

    def _send_messages(self, peering: Peering) -> None:
        batches: dict[int, list[Any]] = {}
        for receiver, message in self.core.take_messages():
            batches.setdefault(receiver, []).append(message)
        for receiver, messages in batches.items():
            peering.send(self.number, receiver, messages)

    def _on_timer(self) -> None:
        self._timer = None
        if self.process is None:  # it has died in this very turn of the loop, in which its timer was due as well
            return
        now = self.world.loop.time()
        if self.core.next_deadline() <= now:
            self.core.handle_timer(now)
        self._settle()
        self._note_role()

    def _note_role(self) -> None:
        mode = getattr(self.core, "mode", None)
        if mode != self._mode:
            self._mode = mode
            self.note(f"is now {mode or 'looking for a leader'}")


class _Link(asyncio.Protocol):
    """The server's end of a client's connection."""

    def __init__(self, server: SimulatedServer) -> None:
        self._server = server

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        ip, port = transport.get_extra_info("peername")
        server = self._server
        self._connection: ServerConnection = server.core.connect(ip, port, server.world.loop.time())
        server.joined(self._connection, self)

    def data_received(self, data: bytes) -> None:
        self._server.received(self._connection, data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._server.left(self._connection)

    def pause_writing(self) -> None:
        self._transport.pause_reading()

    def resume_writing(self) -> None:
        self._transport.resume_reading()

    def flush(self, connection: ServerConnection) -> None:
        """Writes what there is to write."""
        output = connection.take_output()
        if output:
            self._transport.write(output)
        if connection.is_closing:
            self._transport.close()
