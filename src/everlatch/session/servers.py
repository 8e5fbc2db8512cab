"""Which server to try next.

Rules:
1. A round tries every address of every server once; host names are resolved anew in every round, when their turn
   comes. A name that fails to resolve is passed over.
2. A round starts behind the server that was in use, and tries the address just lost last: it is the least likely
   to answer, but may be the only one.
3. The list is shuffled once, so that the clients of one ensemble spread over it, and the addresses of a name
   each time they are resolved.
"""

from __future__ import annotations

import ipaddress
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

from everlatch.paths import Endpoint

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from random import Random

__all__ = ["Address", "Servers", "is_ip_address"]


def is_ip_address(host: str) -> bool:
    """Whether `host` needs no name resolution."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


class Address(NamedTuple):
    """One address to connect to, and the endpoint whose name led to it."""

    ip: str
    port: int
    endpoint: Endpoint

    def __str__(self) -> str:
        return str(self.endpoint) if self.ip == self.endpoint.host else f"{self.endpoint} ({self.ip})"


class Servers:
    """The servers of an ensemble, tried in rounds."""

    def __init__(self, endpoints: Sequence[Endpoint], rng: Random, *, shuffle: bool) -> None:
        self._rng = rng
        self._shuffle = shuffle
        self._endpoints = deque(endpoints)
        if shuffle:
            rng.shuffle(self._endpoints)
        # The present round: what is still to be tried, and what has been.
        self._pending: deque[Endpoint | Address] = deque()
        self._tried: set[tuple[str, int]] = set()
        self._lost: Address | None = None
        self._deferred: Address | None = None

    def __len__(self) -> int:
        return len(self._endpoints)

    def begin_round(self, lost: Address | None = None) -> None:
        """Starts a round; `lost` is the address whose connection has just ended, if there was one."""
        if lost is not None:
            self._rotate_behind(lost.endpoint)
        self._lost = lost
        self._deferred = None
        self._tried.clear()
        self._pending = deque(self._endpoints)

    def next_target(self) -> Endpoint | Address | None:
        """An address to connect to, an endpoint to resolve (then call `resolved`), or `None`: the round is over."""
        while self._pending:
            target = self._pending.popleft()
            if isinstance(target, Endpoint):
                if not is_ip_address(target.host):
                    return target
                target = Address(target.host, target.port, target)
            if self._is_new(target):
                return target
        deferred, self._deferred = self._deferred, None
        return deferred

    def resolved(self, endpoint: Endpoint, ips: Iterable[str]) -> None:
        """The addresses of a name: they are tried next, before the servers behind it."""
        addresses = [Address(ip, endpoint.port, endpoint) for ip in ips]
        if self._shuffle:
            self._rng.shuffle(addresses)
        self._pending.extendleft(reversed(addresses))

    def again(self, address: Address) -> None:
        """Puts an address first in the round: it answered, but not to the session that was offered."""
        self._tried.discard((address.ip, address.port))
        self._pending.appendleft(address)

    def _is_new(self, address: Address) -> bool:
        """Notes the address as tried; `False` if it was, or if it is the lost one, whose turn comes last."""
        key = (address.ip, address.port)
        if key in self._tried:
            return False
        self._tried.add(key)
        if self._lost is not None and key == (self._lost.ip, self._lost.port):
            self._deferred = address
            return False
        return True

    def _rotate_behind(self, endpoint: Endpoint) -> None:
        if endpoint in self._endpoints:
            self._endpoints.rotate(-self._endpoints.index(endpoint) - 1)
