"""Which server to try next.

Rules:
1. A round tries every address of every server once; host names are resolved anew in every round, when their turn
   comes. A name that fails to resolve is passed over.
2. A round starts behind the server that was in use, and tries the address just lost last: it is the least likely
   to answer, but may be the only one.
3. The list is shuffled once, so that the clients of one ensemble spread over it, and the addresses of a name
   each time they are resolved.
4. Addresses that were seen to serve come first, in the order of the list; those that were seen not to, last but for
   the lost one.
5. When the list changes, clients spread over the new one: as many move to servers that are new as it takes for all to
   have the same share, no more (ZooKeeper's own rule, of StaticHostProvider).
6. Addresses that cost more than others, because they have to be drained first (`draining`), come behind those, but
   before those that were seen not to serve.
"""

from __future__ import annotations

import ipaddress
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

from everlatch.paths import Endpoint

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Sequence
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
        self._last: list[Address] = []
        """Whose turn comes when nobody else is left."""
        self._preferred: list[Address] = []
        self._spares = 0
        """How many were named to be kept in reserve."""
        self._avoided: frozenset[tuple[str, int]] = frozenset()
        self._held_back: frozenset[tuple[str, int]] = frozenset()
        """Rule 6."""
        self._resolved: tuple[Endpoint, int] | None = None
        """The name that was resolved last, and how many addresses it has."""

    def __len__(self) -> int:
        return len(self._endpoints)

    def __iter__(self) -> Iterator[Endpoint]:
        return iter(self._endpoints)

    def prefer(self, serving: Iterable[Address], others: Iterable[Address]) -> None:
        """What is known of the servers from now on. Rule 4."""
        self._preferred = list(serving)
        self._avoided = frozenset((address.ip, address.port) for address in others)

    def spare(self, used: Address | None) -> Address | None:
        """Whom to keep in reserve while `used` is in use: one after the other, for one may be down; `None`: nobody is
        known."""
        known = [*self._known(), *(Address(e.host, e.port, e) for e in self._endpoints if is_ip_address(e.host))]
        unfit = {*self._avoided, *([] if used is None else [(used.ip, used.port)])}
        fit: dict[tuple[str, int], Address] = {}
        for address in known:
            key = (address.ip, address.port)
            if key not in unfit:
                fit.setdefault(key, address)
        fit = {key: address for key, address in fit.items() if key not in self._held_back} or fit
        if not fit:
            return None
        self._spares += 1
        return list(fit.values())[(self._spares - 1) % len(fit)]

    def hold_back(self, keys: Iterable[tuple[str, int]]) -> None:
        """These are the addresses, by IP and port, that come behind others. Rule 6."""
        self._held_back = frozenset(keys)

    @property
    def has_one_address(self) -> bool:
        """Whether there is nobody else, as far as is known."""
        if len(self._endpoints) != 1:
            return False
        return self._resolved is None or self._resolved[0] != self._endpoints[0] or self._resolved[1] <= 1

    def has(self, address: Address) -> bool:
        """Whether an address is, or may be, one of a server of the list."""
        return _is_among(address, self._endpoints)

    def update(self, endpoints: Sequence[Endpoint], used: Address | None) -> bool:
        """Another list; a round that is under way goes on with it. Whether the server in use has to be left: rule 5."""
        old, new = list(self._endpoints), list(dict.fromkeys(endpoints))
        added = [endpoint for endpoint in new if endpoint not in old]
        kept = [endpoint for endpoint in new if endpoint in old]
        if self._shuffle:
            self._rng.shuffle(added)
            self._rng.shuffle(kept)
        stays = used is not None and _is_among(used, new)
        moves, to_added = self._rebalanced(len(old), len(added), len(kept), stays=stays)
        if used is not None and used.endpoint in kept:  # the next round begins behind it
            kept.sort(key=used.endpoint.__eq__)
        self._endpoints = deque([*added, *kept] if to_added else [*kept, *added])
        self._pending = deque(self._endpoints)
        self._last = [address for address in self._last if self.has(address)]
        self._preferred = [address for address in self._preferred if address.endpoint in new]
        return used is not None and moves

    def _rebalanced(self, old: int, added: int, kept: int, *, stays: bool) -> tuple[bool, bool]:
        """Whether to move, and whether to one that is new."""
        new = added + kept
        if stays and not kept:  # the same servers by other names, as when a name gives way to its addresses
            return False, False
        if new > old:
            return not stays or self._rng.random() >= old / new, True
        if stays:
            return False, False
        # Of the clients of removed servers so many go to those that were kept that these get their share.
        share = kept * (old - new) / (new * (old - kept)) if old > kept else 1.0
        return True, self._rng.random() >= share

    def begin_round(self, lost: Address | None = None) -> None:
        """Starts a round; `lost` is the address whose connection has just ended, if there was one."""
        if lost is not None:
            self._rotate_behind(lost.endpoint)
        self._lost = lost
        self._last = []
        self._tried.clear()
        self._pending = deque([*self._known(), *self._endpoints])

    def _known(self) -> list[Address]:
        order = list(self._endpoints)
        known = [address for address in self._preferred if address.endpoint in order]
        return sorted(known, key=lambda address: order.index(address.endpoint))

    @property
    def has_more(self) -> bool:
        """Whether the round is not over."""
        return bool(self._pending or self._last)

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
        if not self._last:
            return None
        self._last.sort(key=self._lateness)
        return self._last.pop(0)

    def _lateness(self, address: Address) -> tuple[bool, bool]:
        key = (address.ip, address.port)
        return key == self._lost_key(), key in self._avoided

    def resolved(self, endpoint: Endpoint, ips: Iterable[str]) -> None:
        """The addresses of a name: they are tried next, before the servers behind it."""
        addresses = [Address(ip, endpoint.port, endpoint) for ip in ips]
        self._resolved = (endpoint, len(set(addresses)))
        if self._shuffle:
            self._rng.shuffle(addresses)
        self._pending.extendleft(reversed(addresses))

    def again(self, address: Address) -> None:
        """Puts an address first in the round: it answered, though not to the session that was offered, say."""
        key = (address.ip, address.port)
        self._tried.discard(key)
        self._avoided -= {key}
        self._held_back -= {key}
        self._pending.appendleft(address)

    def _is_new(self, address: Address) -> bool:
        """Notes the address as tried; `False` if it was, or if its turn comes last."""
        key = (address.ip, address.port)
        if key in self._tried:
            return False
        self._tried.add(key)
        if key == self._lost_key() or key in self._avoided or key in self._held_back:
            self._last.append(address)
            return False
        return True

    def _lost_key(self) -> tuple[str, int] | None:
        return None if self._lost is None else (self._lost.ip, self._lost.port)

    def _rotate_behind(self, endpoint: Endpoint) -> None:
        if endpoint in self._endpoints:
            self._endpoints.rotate(-self._endpoints.index(endpoint) - 1)


def _is_among(address: Address, endpoints: Collection[Endpoint]) -> bool:
    """By its name or by its address: a list may have either."""
    return address.endpoint in endpoints or Endpoint(address.ip, address.port) in endpoints
