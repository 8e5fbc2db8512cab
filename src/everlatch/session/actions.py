"""What a session asks its engine to do. The engine performs these in order; bytes to send come separately."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from everlatch.paths import Endpoint
    from everlatch.session.sasl import SaslStep
    from everlatch.session.servers import Address
    from everlatch.types import StateChange

__all__ = [
    "Action",
    "Announce",
    "AskModes",
    "AskServers",
    "Closed",
    "ComputeToken",
    "Dial",
    "HangUp",
    "LeaseGranted",
    "Prepared",
    "Resolve",
    "RoundFailed",
]


class Resolve(NamedTuple):
    """Resolve a name within `budget` seconds; answer with `Session.resolved` or `connection_lost`."""

    conn: int
    endpoint: Endpoint
    budget: float


class Dial(NamedTuple):
    """Connect; answer with `Session.connection_made` or `connection_lost`. Give up when told to hang up."""

    conn: int
    address: Address


class HangUp(NamedTuple):
    """Close the connection, or stop trying to make it. The session ignores whatever it still says."""

    conn: int


class ComputeToken(NamedTuple):
    """Make a step of SASL that may take its time; answer with `Session.token_computed` or `token_failed`."""

    conn: int
    step: SaslStep


class AskServers(NamedTuple):
    """The link is silent: ask the servers whether they live, over connections of their own, for as long as
    `Session.doubts_link` says so of this connection. Answer with `Session.server_answered`."""

    conn: int


class AskModes(NamedTuple):
    """Nobody takes us, or only a read-only server does: ask all servers, once, what they are and how far. Answer with
    `Session.server_is`."""


class Announce(NamedTuple):
    """Tell the listeners."""

    change: StateChange


class RoundFailed(NamedTuple):
    """Before the first connection: every server was tried once. `failures` has `(server, reason)` for each."""

    failures: list[tuple[str, BaseException]]


class LeaseGranted(NamedTuple):
    """The lease runs, and did not before."""


class Prepared(NamedTuple):
    """The queue moves, on a connection that took preparations: `Session.receipts_error` tells whether writes can be
    exactly once."""


class Closed(NamedTuple):
    """The session is over: nothing more will come."""


Action: TypeAlias = (
    Resolve
    | Dial
    | HangUp
    | ComputeToken
    | AskServers
    | AskModes
    | Announce
    | RoundFailed
    | LeaseGranted
    | Prepared
    | Closed
)
