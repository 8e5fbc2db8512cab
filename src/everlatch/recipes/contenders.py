"""Who is first: decisions over the names of a recipe's children. Pure.

Curator's members sort by what stands behind the last marker (`latch-`), as text. So do we, to agree with them in every
case, the overflow of the server's counter into negative numbers included. Children without the marker are ignored;
Curator sorts those by their whole name, so a stranger may keep its members from leading, but can't make two lead.

Our members are told by their GUIDs: of version 8 (which RFC 9562 leaves to its users), where others take version 4. It
says that the member watches its own node, and queues up again when somebody takes that away.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["Behind", "First", "Missing", "Place", "ordered", "place_of", "protected_prefix", "steps_aside"]

_OURS: Final = re.compile(r"_c_[0-9a-f]{8}-[0-9a-f]{4}-8[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}-")
_VERSION: Final = 14
"""Where a GUID has it."""


class First(NamedTuple):
    """No contender is ahead."""


class Behind(NamedTuple):
    """The next one ahead: the only one worth watching."""

    predecessor: str
    ahead: int
    """How many contenders are ahead, that one included."""

    @property
    def is_next(self) -> bool:
        """Whether that one is the first."""
        return self.ahead == 1


class Missing(NamedTuple):
    """Our own node is not among them."""


Place: TypeAlias = First | Behind | Missing


def protected_prefix(guid: str, marker: str) -> str:
    """The beginning of a sequential node's name, in Curator's form of a protected create, and marked as ours."""
    return f"_c_{guid[:_VERSION]}8{guid[_VERSION + 1 :]}-{marker}"


def steps_aside(name: str) -> bool:
    """Whether this member queues up again when its node is taken away."""
    return _OURS.match(name) is not None


def ordered(names: Iterable[str], marker: str) -> list[str]:
    """The contenders among the names, first comes first."""
    # By the name as well: were two to have one number (made by hand, that is), servers list them in any order, and
    # each of the two could take itself for the first.
    return sorted((name for name in names if marker in name), key=lambda name: (name.rpartition(marker)[2], name))


def place_of(own: str, names: Iterable[str], marker: str) -> Place:
    """Where `own` stands."""
    contenders = ordered(names, marker)
    if own not in contenders:
        return Missing()
    index = contenders.index(own)
    return Behind(contenders[index - 1], index) if index else First()
