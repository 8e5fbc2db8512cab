"""Who is first: decisions over the names of a recipe's children. Pure.

Curator's members sort by what stands behind the last marker (`latch-`), as text. So do we, to agree with them in every
case, the overflow of the server's counter into negative numbers included. Children without the marker are ignored;
Curator sorts those by their whole name, so a stranger may keep its members from leading, but can't make two lead.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["Behind", "First", "Missing", "Place", "ordered", "place_of", "protected_prefix"]


class First(NamedTuple):
    """No contender is ahead."""


class Behind(NamedTuple):
    """The next one ahead: the only one worth watching."""

    predecessor: str
    is_next: bool
    """Whether that one is the first."""


class Missing(NamedTuple):
    """Our own node is not among them."""


Place: TypeAlias = First | Behind | Missing


def protected_prefix(guid: str, marker: str) -> str:
    """The beginning of a sequential node's name, in Curator's form of a protected create."""
    return f"_c_{guid}-{marker}"


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
    return Behind(contenders[index - 1], index == 1) if index else First()
