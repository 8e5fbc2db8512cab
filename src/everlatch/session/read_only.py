"""What is kept aside while a client is attached to a read-only server.

A server that has lost its quorum may go on serving reads (`readonlymode.enabled`). Since ZooKeeper 3.7 it closes every
connection that offers a session of the ensemble, and admits others with a *local* session, if `localSessionsEnabled`
allows those. So a second session is opened there, and the proper one kept aside.

Rules:
1. The local session's id and password are never offered to anybody.
2. What the local session proves says nothing of the proper one: that one's time goes on running out.
3. A read-only server may have logged what was never committed, and shows it. Its zxids are not noted: a client that
   had, would be refused by the ensemble as coming from the future.
4. Writes, and calls that are bound to the session, are refused there, or wait, as the user has chosen. When they wait,
   so does everything behind them: a read must see the writes before it.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["Aside"]


class Aside(NamedTuple):
    """The proper session's state at the moment when the read-only server took us."""

    proven: float
    timeout: float
    last_zxid: int

    @property
    def lost_at(self) -> float:
        """When it must be assumed lost."""
        return self.proven + self.timeout
