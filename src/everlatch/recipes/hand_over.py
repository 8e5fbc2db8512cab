"""Who has to move so that a certain member leads next: decisions over names. Pure.

The leader hands over in one transaction: its own node goes, and another one of its own comes at the end of the line. Is
another than the next in line to lead, the nodes of those before it go in the same transaction; their members notice
that, as they would if anybody had deleted them, and queue up again. Nobody is first meanwhile who was not before.

Rules:
1. Only nodes are taken away whose members watch them: Curator's don't, and would wait for ever without one.
2. A waiting member's node may go at any time without harm: it has never been first, for the leader's stood before it
   all the time; and the transaction is refused if that is gone.
3. No node's data is changed: Curator's members watch the node before their own, and a change of its data would take
   that watch away.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from everlatch.errors import MemberInTheWayError, NoSuchMemberError, NotLeaderError
from everlatch.recipes.contenders import steps_aside

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["Plan", "plan"]


class Plan(NamedTuple):
    """Names of nodes."""

    aside: tuple[str, ...]
    """What goes with the leader's own."""
    heir: str
    """Whose turn it is then."""


def plan(path: str, own: str, line: Sequence[str], to: str | None, ids: Mapping[str, str]) -> Plan:
    """How the leader, who has the node `own`, hands over to the next in `line` or to the first one there whose id is
    `to`. `ids` by name of the node. Raises `NotLeaderError`, `NoSuchMemberError`, `MemberInTheWayError`."""
    if not line or line[0] != own:
        raise NotLeaderError(f"this member does not lead {path!r} any more")
    others = line[1:]
    if to is None:
        if not others:
            raise NoSuchMemberError(f"nobody else takes part in {path!r}: leadership can't be handed over")
        return Plan((), others[0])
    position = next((number for number, name in enumerate(others) if ids.get(name) == to), None)
    if position is None:
        raise NoSuchMemberError(f"no other member of {path!r} is called {to!r}: leadership can't be handed to it")
    aside = tuple(others[:position])
    in_the_way = tuple(ids.get(name, name) for name in aside if not steps_aside(name))
    if in_the_way:
        raise MemberInTheWayError(path, to, in_the_way)
    return Plan(aside, others[position])
