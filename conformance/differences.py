"""The differences between the dev server and ZooKeeper that are known, each with the reason why it stays.

Rules of this file: an entry of `KNOWN` explains one field of one kind of answer and nothing else, and has an example
that shows it: a test runs all of them on real servers, so that an entry that is no longer needed fails. `LEFT_OUT` is
what no sequence has, because ZooKeeper itself does it one time so and another time otherwise, or takes harm. Nothing
that a client relies on may stand in either.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from conformance.steps import Auth, Call, Step
from everlatch.wire.multi import CheckPart

if TYPE_CHECKING:
    from collections.abc import Callable

    from conformance.comparison import Difference

__all__ = ["KNOWN", "LEFT_OUT", "Known", "is_known", "why"]

_NO_RESULTS: Final = b"\xff\xff\xff\xff\x01\xff\xff\xff\xff"
_WITH_IDENTITIES: Final = ("answer to who_am_i", "answer to get_acl", "node to get_acl")


class Known(NamedTuple):
    """One difference."""

    reason: str
    versions: tuple[str, ...]
    explains: Callable[[Difference], bool]
    example: tuple[Step, ...]


def _ends_a_list_behind_an_error(it: Difference) -> bool:
    told = it.field, it.real, it.dev
    return it.what == "answer to multi_read" and told in (("size", 25, 16), ("body", _NO_RESULTS, "nothing"))


def _writes_surrogates(it: Difference) -> bool:
    if it.what not in _WITH_IDENTITIES:
        return False
    if it.field == "size":
        # Two bytes more for each such character; the name itself is compared, too.
        return bool(it.real > it.dev and (it.real - it.dev) % 2 == 0)
    return (it.field, it.real, it.dev) == ("is_exact", False, True)


KNOWN: Final = (
    Known(
        "A multi-read of nothing but writes is refused with −5, and ZooKeeper sends the end of an empty list of "
        "results behind the error. Clients don't look behind an error.",
        ("3.8", "3.9"),
        _ends_a_list_behind_an_error,
        (Step(0, Call("multi_read", (CheckPart("~", 0),))),),
    ),
    Known(
        "Java writes a character beyond U+FFFF as two surrogates of three bytes each, the dev server as UTF-8. Only "
        "names of identities may have some, and clients have to read both: they get back what others have written.",
        ("3.8", "3.9"),
        _writes_surrogates,
        (Step(0, Auth("digest", "\U0001f642:x".encode())), Step(0, Call("who_am_i"))),
    ),
)

LEFT_OUT: Final = (
    "The order in which the ephemeral nodes of a session go, and so that of the events: that of a hash table. Compared "
    "are the events, in any order.",
    "Requests behind closeSession: mostly unanswered, sometimes −112 or −12. The dev server never answers them.",
    "Requests sent close behind a setACL, before it is applied: judged by the old ACL, if they come early enough. The "
    "dev server judges all by the new one.",
    "A session that comes back right behind the end of its connection: if ZooKeeper notices that end late, it forgets "
    "which connection the session has now, and doesn't close that one when the session comes back once more.",
    "Answers that may overtake earlier ones (auth, sasl, unknown operations): the dev server's don't, but for those "
    "that wait for a leader.",
    "Characters beyond U+FFFF in ACLs: ZooKeeper makes question marks of them within a multi, and wherever else a "
    "transaction comes from another server or from its own log. The dev server keeps them.",
    "checkWatches of a relative path with a slash in it: on 3.8 it is −5 as soon as anybody has a recursive watch. The "
    "dev server finds nothing (−121).",
    "A null token for sasl: ZooKeeper never answers it.",
    "A `check` outside of a multi, which 3.8.0 doesn't answer: nor does the dev server, but when does one know?",
    "createTTL with flags of other nodes: it ends the real server's process. The dev server says −8.",
    "createContainer with the flags of an ephemeral node: children are refused for a moment. The dev server lets them.",
    "The flags of a TTL node in another create within a multi: −5, and 3.8.0 forgets to take back the parts before, so "
    "that later requests are judged by what has never happened.",
    "Sessions that expire, containers and TTL nodes that are reaped: when, nobody promises. `tests/conformance` has "
    "them.",
    "Quotas, SASL, TLS and reconfiguration, which the dev server doesn't have.",
)


def why(version: str, difference: Difference) -> Known | None:
    """The entry that explains it."""
    return next((known for known in KNOWN if version in known.versions and known.explains(difference)), None)


def is_known(version: str) -> Callable[[Difference], bool]:
    """For `comparison`."""
    return lambda difference: why(version, difference) is not None
