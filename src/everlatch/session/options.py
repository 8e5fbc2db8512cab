"""What a session is made of."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

from everlatch.session.retry import FullJitter, RetryPolicy

if TYPE_CHECKING:
    from collections.abc import Sequence

    from everlatch.paths import Endpoint
    from everlatch.sasl import SaslMechanism
    from everlatch.types import ACL

__all__ = ["SessionOptions"]


class SessionOptions(NamedTuple):
    """What a session is made of. Timeouts in seconds, sizes in bytes."""

    endpoints: Sequence[Endpoint]
    chroot: str = ""
    session_timeout: float = 10.0
    shuffle: bool = True
    max_in_flight: int = 1000
    max_queued_calls: int = 100_000
    max_queued_bytes: int = 1 << 26
    max_reply_size: int = 1 << 26
    lease_drift: float = 0.02
    lease_strict: bool = False
    lease_jitter: float = 0.25
    tick: float | None = None
    """Of the servers, if known."""
    silence_budget: float | None = None
    retry_policy: RetryPolicy = FullJitter()
    renew: bool = True
    link_check_interval: float | None = None
    warm_spare: bool = False
    read_only: bool = False
    read_only_writes: Literal["refuse", "queue"] = "refuse"
    read_write_search_interval: float = 60.0
    receipts: int = 0
    """How many exactly-once writes may be unanswered at a time; 0: writes travel without receipts."""
    receipts_place: str = ""
    """The servers' path of the node below which receipts are kept."""
    receipts_acl: Sequence[ACL] = ()
    sasl: SaslMechanism | None = None
    tls: bool = False
    """Whether connections are by TLS; for what errors say."""
