"""How bytes and messages get from one host to another.

Rules:
1. A lane delivers what it is given in order, each thing after the route's delay. What is sent at one moment arrives
   together: one delivery, not one per write.
2. A route that is blocked holds what is in its lanes. When it isn't any more, everything comes, in order, as soon as
   the sender's TCP would have tried again: within a second, or within the time that the outage took.
3. Several conditions may be on a route at once; each is lifted by itself.
4. When a route is slow no more, what has queued up in it comes without further delay.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from random import Random

    from everlatch.testing.simulation.hosts import Host
    from everlatch.testing.simulation.loop import VirtualLoop

__all__ = ["Condition", "Lane", "Route"]

_RETRANSMISSION: Final = 1.0
"""The longest that a sender waits until it tries again, in seconds."""
_BETWEEN_PIECES: Final = 1e-5
_PIECES_PER_SECOND: Final = 20
"""How often something comes out of a slow route."""


class Condition:
    """Something that is wrong with some routes, until `heal()`."""

    def __init__(
        self,
        routes: Sequence[Route],
        *,
        cut: bool = False,
        latency: tuple[float, float] | None = None,
        bytes_per_second: float | None = None,
        piece: int | None = None,
        healed: Callable[[], object] = lambda: None,
    ) -> None:
        self.cut, self.latency, self.bytes_per_second, self.piece = cut, latency, bytes_per_second, piece
        self._routes = routes
        self._healed = healed
        for route in routes:
            route.conditions[self] = None
            route.conditions_changed()

    def heal(self) -> None:
        """It is over. May be called again."""
        routes, self._routes = self._routes, ()
        if routes:
            self._healed()
        for route in routes:
            del route.conditions[self]
            route.conditions_changed()


class Route:
    """One direction between two hosts."""

    def __init__(
        self, loop: VirtualLoop, rng: Random, source: Host, target: Host, latency: tuple[float, float]
    ) -> None:
        self.loop, self.rng, self.source, self.target = loop, rng, source, target
        self.conditions: dict[Condition, None] = {}
        self.blocked = False
        self.in_pieces = False
        """Whether bytes are cut up."""
        self._usual = latency
        self._least, self._spread = latency[0], latency[1] - latency[0]
        self._bytes_per_second: float | None = None
        self._piece: int | None = None
        self._held: dict[Lane, None] = {}
        self._crawling: dict[Lane, None] = {}
        """Lanes that were sent into while the route was slow."""
        self._blocked_at = 0.0

    def delay(self) -> float:
        """How long something takes that is sent now, in seconds."""
        return self._least + self.rng.random() * self._spread

    def conditions_changed(self) -> None:
        """A condition came or went, or the target was switched on or off."""
        latencies = [each.latency for each in self.conditions if each.latency is not None]
        least, most = latencies[-1] if latencies else self._usual
        self._least, self._spread = least, most - least
        speeds = [each.bytes_per_second for each in self.conditions if each.bytes_per_second is not None]
        was_slow, self._bytes_per_second = self._bytes_per_second is not None, min(speeds, default=None)
        if was_slow and self._bytes_per_second is None:
            crawling, self._crawling = self._crawling, {}
            for lane in crawling:
                lane.hurry()
        self._piece = min((each.piece for each in self.conditions if each.piece is not None), default=None)
        self.in_pieces = self._bytes_per_second is not None or self._piece is not None
        blocked = self.target.is_off or any(each.cut for each in self.conditions)
        if blocked != self.blocked:
            self.blocked = blocked
            self._unblocked() if not blocked else self._was_blocked()

    def _was_blocked(self) -> None:
        self._blocked_at = self.loop.moment

    def _unblocked(self) -> None:
        held, self._held = self._held, {}
        outage = self.loop.moment - self._blocked_at
        for lane in held:
            lane.resume(self.loop.moment + self.rng.random() * min(outage, _RETRANSMISSION))

    def hold(self, lane: Lane) -> None:
        """A lane has something that is due while the route is blocked."""
        self._held[lane] = None

    def crawls(self, lane: Lane) -> None:
        """Something was put into this lane."""
        if self._bytes_per_second is not None:
            self._crawling[lane] = None

    def pieces(self, data: bytes) -> list[tuple[bytes, float]]:
        """What becomes of `data`: pieces, and how many seconds after the one before each of them comes."""
        speed, size = self._bytes_per_second, self._piece or len(data)
        if speed is not None:
            size = min(size, max(1, int(speed / _PIECES_PER_SECOND)))
        cut = [data[at : at + size] for at in range(0, len(data), size)]
        return [(piece, _BETWEEN_PIECES if speed is None else len(piece) / speed) for piece in cut]


class Lane:
    """A stream of things along a route, in order; `deliver` gets what arrives together."""

    __slots__ = ("_armed", "_deliver", "_departed", "_last", "_queue", "route")

    def __init__(self, route: Route, deliver: Callable[[list[Any]], object]) -> None:
        self.route = route
        self._deliver = deliver
        self._queue: deque[tuple[float, list[Any]]] = deque()
        self._departed = self._last = -1.0
        self._armed = False

    def send(self, thing: Any) -> None:
        """Puts something onto its way."""
        now = self.route.loop.moment
        if self._departed == now and self._queue:
            self._queue[-1][1].append(thing)
            return
        self._departed = now
        self._enter(thing, max(self._last, now + self.route.delay()))

    def send_bytes(self, data: bytes) -> None:
        """Puts bytes onto their way, in the pieces in which the route carries them."""
        if not self.route.in_pieces:
            self.send(data)
            return
        self._departed = -1.0
        arrival = max(self._last, self.route.loop.moment + self.route.delay())
        self.route.crawls(self)
        for piece, gap in self.route.pieces(data):
            arrival += gap
            self._enter(piece, arrival)

    def clear(self) -> None:
        """What is on its way gets lost."""
        self._queue.clear()
        self._departed = -1.0

    def hurry(self) -> None:
        """The route is slow no more. Rule 4."""
        moment = self.route.loop.moment + self.route.delay()
        if self._last <= moment:
            return
        self._queue = deque((min(arrival, moment), things) for arrival, things in self._queue)
        self._last, self._departed = moment, -1.0
        self.route.loop.schedule(moment, self._due)

    def resume(self, moment: float) -> None:
        """The route is open again: what is overdue comes at that time of the world."""
        self._last = max(self._last, moment)
        self._departed = -1.0
        self._armed = True
        self.route.loop.schedule(moment, self._due)

    def _enter(self, thing: Any, arrival: float) -> None:
        self._last = arrival
        self._queue.append((arrival, [thing]))
        if not self._armed:
            self._armed = True
            self.route.loop.schedule(arrival, self._due)

    def _due(self) -> None:
        if self.route.blocked:
            self.route.hold(self)  # stays armed: it is resumed
            return
        self._armed = False
        queue, now = self._queue, self.route.loop.moment
        while queue and queue[0][0] <= now:
            self._deliver(queue.popleft()[1])
        if queue and not self._armed:
            self._armed = True
            self.route.loop.schedule(queue[0][0], self._due)
