"""Who rests on the session's lease, and what it takes to keep it running.

Rules:
1. While somebody rests on it the session commits again and again; nobody does by default, so it costs nothing.
2. How long a touch takes depends on what the server is. It is asked once a connection, over one of its own; until it
   has told, the slowest kind is assumed.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from everlatch.session.states import CONNECTED_STATES

if TYPE_CHECKING:
    from collections.abc import Callable

    from everlatch.engine.engine import Engine
    from everlatch.errors import EverlatchError

__all__ = ["LeaseKeeper"]


class LeaseKeeper:
    """The lease of one engine's session, for those who rest on it."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._holders = 0
        self._waiters: dict[asyncio.Future[None], None] = {}
        self._asking: asyncio.Task[None] | None = None

    @property
    def end(self) -> float:
        """Until when the session certainly lives, on the engine's clock; 0: unknown, or over."""
        return self._engine.session.lease_end

    @property
    def time_left(self) -> float:
        """Seconds until then."""
        return max(0.0, self.end - self._engine.now())

    @property
    def lapses(self) -> int:
        """How often it ended before it was extended."""
        return self._engine.session.lease.lapses

    def hold(self) -> Callable[[], None]:
        """Somebody rests on it from now on; returns what says that he does no more. Raises what calls raise."""
        engine = self._engine
        engine.check_usable("the lease")
        self._holders += 1
        engine.session.hold_lease(engine.now())
        engine.hurry()
        self._ask_what_the_server_is()
        is_held = True

        def release() -> None:
            nonlocal is_held
            if is_held:
                is_held = False
                self._holders -= 1
                engine.session.release_lease()

        return release

    async def wait_running(self) -> None:
        """Returns when the lease runs: at once, if it does. Somebody has to hold it. Raises what calls raise."""
        while not self.time_left:
            self._engine.check_usable("waiting for the lease")
            waiter = asyncio.get_running_loop().create_future()
            self._waiters[waiter] = None
            try:
                await waiter
            finally:
                self._waiters.pop(waiter, None)

    # -- from the engine

    def granted(self) -> None:
        """It runs, and did not before."""
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)

    def ended(self, error: EverlatchError) -> None:
        """It will never run again."""
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_exception(error)

    def connected(self) -> None:
        """There is another connection."""
        if self._holders:
            self._ask_what_the_server_is()

    async def close(self) -> None:
        """Nothing is asked any more."""
        asking, self._asking = self._asking, None
        if asking is not None:
            asking.cancel()
            await asyncio.wait({asking})

    def _ask_what_the_server_is(self) -> None:
        if self._asking is None or self._asking.done():
            self._asking = asyncio.get_running_loop().create_task(self._ask())

    async def _ask(self) -> None:
        session = self._engine.session
        conn = 0
        while session.conn != conn and session.state in CONNECTED_STATES:
            conn = session.conn
            status = await self._engine.versions.status_of(conn)
            if status is not None:
                session.server_told(conn, status.mode)
