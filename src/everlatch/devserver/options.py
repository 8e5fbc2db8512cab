"""How a server behaves."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal

from everlatch.devserver.versions import FEATURES
from everlatch.errors import InvalidArgumentError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from everlatch.devserver.versions import Features

__all__ = ["Options"]

_OF_PRINCIPALS: Final = frozenset("/@")


@dataclass(frozen=True)
class Options:
    """How a server behaves. Times are in seconds."""

    version: Literal["3.5", "3.8", "3.9"] = "3.9"
    """As which ZooKeeper: 3.5, one of 3.6 to 3.8, or 3.9."""
    tick: float = 2.0
    min_session_timeout: float | None = None
    """`None`: two ticks."""
    max_session_timeout: float | None = None
    """`None`: 20 ticks."""
    super_digest: str | None = None
    """Who may do everything: `identities.digest(b"super:password")`."""
    sasl: Mapping[str, str] | None = field(default=None, repr=False)
    """Passwords by user, for SASL DIGEST-MD5. `None`: the server knows no SASL."""
    require_auth: bool = False
    """Whether a connection is served only once it has authenticated: with SASL where the server knows that
    (`sessionRequireClientSASLAuth`), else with a digest of whomever (`enforce.auth.enabled`)."""
    x509: bool = False
    """Whether ACLs may name subjects of certificates, as on servers with TLS; those set it themselves."""
    reap_interval: float = 60.0
    """How often empty containers and old TTL nodes are looked for."""
    read_only_mode: bool = False
    """For members of an ensemble: whether one without a quorum serves reads to clients that ask for it. As since 3.7
    with local sessions allowed: a global session can't be brought along."""
    init_limit: int = 10
    """Ticks that a new leader and its followers have to agree."""
    sync_limit: int = 5
    """Ticks that a leader and a follower may hear nothing of each other."""

    election_time: float = 0.25
    """Seconds for which a member sees that it is ahead of a quorum before it leads."""

    def __post_init__(self) -> None:
        if self.version not in FEATURES:
            raise InvalidArgumentError(f"the dev server is a {' or a '.join(FEATURES)}, not {self.version!r}")
        if not (self.tick > 0 and self.reap_interval > 0):
            raise InvalidArgumentError(f"tick {self.tick!r} and reap_interval {self.reap_interval!r}: must be over 0")
        if not (self.init_limit > 0 and self.sync_limit > 0 and self.election_time >= 0):
            raise InvalidArgumentError(
                f"init_limit {self.init_limit!r} and sync_limit {self.sync_limit!r} must be over 0, and election_time "
                f"{self.election_time!r} not below"
            )
        for user in self.sasl or ():
            if not user or _OF_PRINCIPALS & set(user):
                raise InvalidArgumentError(f"{user!r} is no user of DIGEST-MD5: it is empty, or has a / or an @ in it")

    @property
    def features(self) -> Features:
        """What this version does otherwise than others."""
        return FEATURES[self.version]

    @property
    def demanded_scheme(self) -> str | None:
        """What a connection has to have an identity of before it is served."""
        if not self.require_auth:
            return None
        return "digest" if self.sasl is None else "sasl"

    @property
    def schemes(self) -> frozenset[str]:
        """What ACLs may name besides world, auth, digest and ip."""
        return frozenset({"sasl"} if self.sasl is not None else ()) | frozenset({"x509"} if self.x509 else ())
