"""What differs between the versions of ZooKeeper that the dev server can be. A table, and nothing else.

Rules of this module: a difference has one name here, and the rest of the dev server asks for that name, never for a
version. `3.8` is Debian's 3.8.0, with its backports of security fixes; `3.9` is 3.9.5;
both are what the conformance suite compares with. `3.5` is 3.5.10, from its documentation.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from everlatch.wire.codes import Op

__all__ = ["FEATURES", "Features"]

_SINCE_3_6: Final = frozenset(
    {Op.ADD_WATCH, Op.SET_WATCHES2, Op.MULTI_READ, Op.GET_EPHEMERALS, Op.GET_ALL_CHILDREN_NUMBER}
)
_SINCE_3_7: Final = frozenset({Op.WHO_AM_I})
_NOT_ALONE: Final = frozenset({Op.CHECK, Op.ERROR})
_ALL: Final = frozenset(Op) - _NOT_ALONE


@dataclass(frozen=True)
class Features:
    """What one version does."""

    release: str
    """As which release the server introduces itself: clients ask before they send what older ones don't know."""
    operations: frozenset[int]
    """What it knows; all else is refused with −6 and costs the connection."""
    many_modes: bool
    """A path may have watches of all modes at once. Before, each table has one for a path, that which was set last."""
    persistent_watcher_types: bool
    """checkWatches and removeWatches know types of their own for persistent watches; else those are malformed."""
    zxid_in_events: bool
    """The header of an event has the zxid of the change; else −1."""
    events_need_read: bool
    """Who may not read a node isn't told of its changes."""
    exists_needs_read: bool
    """exists asks for the permission to read, as other reads do."""
    ipv6_acls: bool
    """ACLs may name IPv6 addresses."""
    operations_in_multi: bool
    """A create within a multi is the operation that it says; else its flags decide, and create2 is answered as a
    create."""
    flags_checked_first: bool
    """Flags of a create that don't exist make a whole multi malformed (−5); else they are that part's fault (−8)."""
    own_watches_checked: bool
    """checkWatches asks for the watches of its own connection; else for those of anybody."""
    malformed_counted: bool
    """A write that can't be decoded uses up a zxid, as refused ones do. Since 3.9 only a multi does."""
    answers_check: bool
    """A check outside of a multi is refused as unknown; else nobody answers it."""


_3_9: Final = Features(
    release="3.9.5",
    operations=_ALL,
    many_modes=True,
    persistent_watcher_types=True,
    zxid_in_events=True,
    events_need_read=True,
    exists_needs_read=True,
    ipv6_acls=True,
    operations_in_multi=True,
    flags_checked_first=True,
    own_watches_checked=True,
    malformed_counted=False,
    answers_check=True,
)
_3_8: Final = replace(
    _3_9,
    release="3.8.0",
    many_modes=False,
    persistent_watcher_types=False,
    zxid_in_events=False,
    exists_needs_read=False,
    ipv6_acls=False,
    operations_in_multi=False,
    flags_checked_first=False,
    own_watches_checked=False,
    malformed_counted=True,
    answers_check=False,
)
_3_5: Final = replace(
    _3_8,
    release="3.5.10",
    operations=_ALL - _SINCE_3_6 - _SINCE_3_7,
    events_need_read=False,
    own_watches_checked=True,
)

FEATURES: Final = {"3.5": _3_5, "3.8": _3_8, "3.9": _3_9}
"""By the `version` of `Options`."""
