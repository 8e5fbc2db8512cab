"""Connections between the members of an ensemble: objects instead of bytes, over the same routes.

Rules:
1. Messages of one connection come in order, and none after its end. What was sent to a process that has died since
   doesn't reach its successor.
2. The end is heard behind all messages that were sent before it, and only when it can be: from a machine without
   power, or over a blocked route, nothing is heard.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from everlatch.testing.simulation.routes import Lane

if TYPE_CHECKING:
    from collections.abc import Callable

    from everlatch.testing.simulation.network import Network
    from everlatch.testing.simulation.process import Process
    from everlatch.testing.simulation.servers import SimulatedServer

__all__ = ["Peering"]

_LOST: Final = object()


class _PeerLink:
    """One connection between two processes; who answers it is known when its first message has come."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.ends: dict[str, Process] = {}


class Peering:
    """All connections between the servers of one ensemble."""

    def __init__(self, network: Network, servers: dict[int, SimulatedServer]) -> None:
        self._network, self._servers = network, servers
        self._links: dict[tuple[int, int], _PeerLink] = {}
        """(Who has it, to whom) → the connection that is in use."""
        self._lanes: dict[tuple[int, int], Lane] = {}
        self._made = 0

    def send(self, sender: int, receiver: int, messages: list[Any]) -> None:
        """Messages, on the present connection or a new one."""
        link = self._links.get((sender, receiver))
        process = self._servers[sender].process
        assert process is not None
        if link is None:
            self._made += 1
            link = self._links[sender, receiver] = _PeerLink(self._made)
            link.ends[process.host.name] = process
        self._lane(sender, receiver).send((link, messages))

    def reset(self, a: str, b: str) -> None:
        """If these are two of the servers, both find their connection broken; what is on its way is lost."""
        numbers = [number for number, server in self._servers.items() if server.name in (a, b)]
        if len(numbers) != 2:
            return
        both = (numbers, numbers[::-1])
        for one, other in both:
            self._lane(one, other).clear()
        for one, other in both:
            link = self._links.get((one, other))
            if link is not None:
                self._lost(link, one, other)

    def died(self, number: int, *, heard: bool) -> None:
        """A member's process is no more; `heard`: its kernel says so to the others."""
        for (owner, other), link in list(self._links.items()):
            if owner == number:
                del self._links[owner, other]
            if heard and number in (owner, other):
                peer = other if owner == number else owner
                if self._servers[number].name in link.ends:
                    self._lane(number, peer).send((link, _LOST))
        if not heard:
            for (sender, _), lane in self._lanes.items():
                if sender == number:
                    lane.clear()

    # -- arriving

    def _lane(self, sender: int, receiver: int) -> Lane:
        lane = self._lanes.get((sender, receiver))
        if lane is None:
            route = self._network.route(self._servers[sender], self._servers[receiver])
            lane = self._lanes[sender, receiver] = Lane(route, self._deliverer(sender, receiver))
        return lane

    def _deliverer(self, sender: int, receiver: int) -> Callable[[list[Any]], None]:
        def deliver(things: list[Any]) -> None:
            for link, messages in things:
                if messages is _LOST:
                    self._lost(link, receiver, sender)
                else:
                    self._arrived(link, sender, receiver, messages)

        return deliver

    def _arrived(self, link: _PeerLink, sender: int, receiver: int, messages: list[Any]) -> None:
        server = self._servers[receiver]
        process = server.process
        answering = link.ends.get(server.name)
        if process is None or (answering is not None and answering is not process):
            self._lane(receiver, sender).send((link, _LOST))
            return
        if answering is None:
            link.ends[server.name] = process
            self._links.setdefault((receiver, sender), link)
        self._network.witness(-link.number, b"%d" % len(messages))
        server.hand_over(process, sender, messages)

    def _lost(self, link: _PeerLink, owner: int, peer: int) -> None:
        process = self._servers[owner].process
        if self._links.get((owner, peer)) is link:
            del self._links[owner, peer]
            if process is not None and link.ends.get(self._servers[owner].name) is process:
                self._servers[owner].hand_over(process, peer, None)
