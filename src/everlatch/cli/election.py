"""Judges an election by what its members told and what an observer saw. Pure: no clock, no network.

Rules:
1. A term is the time in which a member is known to have believed that it leads: from its first stamp to its last one.
   A killed member has no other end.
2. Two terms of different members that share an instant are an overlap.
3. From one member to the next the token rises; a member that leads again with its old node keeps its token.
4. Each leadership is checked by the observer: the lowest node is the leader's. What the observer saw counts against a
   member only if that member believed the whole while the observer looked.
5. A handover is the time from one member's last stamp to the next member's first.
"""

from __future__ import annotations

import itertools
import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from everlatch.cli.events import Event, Kind

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["Handover", "Sighting", "Term", "Verdict", "handovers", "judge", "overlaps", "terms"]


class Term(NamedTuple):
    """When one member believed that it leads, as far as is known."""

    member: str
    session_id: int
    token: int
    begun: float
    ended: float


class Sighting(NamedTuple):
    """Who owned the lowest node, according to the observer, at some instant between `asked` and `answered`."""

    leader: str
    """The member whose announcement made the observer look."""
    announced: float
    """The stamp of that announcement: the beginning of the term."""
    asked: float
    answered: float
    lowest: str = ""
    """The member id in the lowest node; empty: no node, or it vanished while the observer looked."""
    owner: int = 0
    """The session that owns it."""
    created: int = 0
    """The zxid of its creation, which is the token."""


class Handover(NamedTuple):
    """From whom to whom, and how long nobody was known to lead."""

    previous: str
    following: str
    seconds: float


@dataclass(frozen=True)
class Verdict:
    """What became of an election of `members` members."""

    members: int
    led: int
    overlapped: int
    """How many members believed to lead while another one did."""
    handovers: tuple[Handover, ...]
    problems: tuple[str, ...]
    """Everything that is not as it must be, one line each."""
    writes: str = ""
    """What became of fenced writes, in one line."""

    @property
    def passed(self) -> bool:
        """Whether each member led and nothing was wrong."""
        return self.led == self.members and not self.overlapped and not self.problems

    def summary(self) -> str:
        """The verdict in one line."""
        times = [handover.seconds for handover in self.handovers]
        median = f"{statistics.median(times) * 1000:.0f}" if times else "–"
        return f"{self.led} of {self.members} instances led, {self.overlapped} overlapped, handover median {median} ms"


def judge(
    members: Sequence[str], events: Iterable[Event], sightings: Sequence[Sighting], failures: Sequence[str] = ()
) -> Verdict:
    """The verdict; `failures` are problems that are known already."""
    history = terms(events)
    pairs = overlaps(history)
    leaders = {term.member for term in history}
    problems = [
        *failures,
        *(f"{member} never led" for member in members if member not in leaders),
        *(_told_overlap(*pair) for pair in pairs),
        *_token_problems(history),
        *itertools.chain.from_iterable(_sighting_problems(term, sightings) for term in history),
    ]
    return Verdict(
        members=len(members),
        led=len(leaders.intersection(members)),
        overlapped=len({term.member for pair in pairs for term in pair}),
        handovers=tuple(handovers(history)),
        problems=tuple(problems),
    )


def terms(events: Iterable[Event]) -> list[Term]:
    """The terms of all members, in the order in which they began. The events of one member are in their order."""
    found: list[Term] = []
    present: dict[str, int] = {}
    for event in events:
        if event.kind is Kind.LEADING:
            present[event.member] = len(found)
            found.append(Term(event.member, event.session_id, event.token, event.at, event.at))
        elif event.kind is Kind.BELIEVING:
            index = present[event.member]
            found[index] = found[index]._replace(ended=event.at)
    return sorted(found, key=lambda term: term.begun)


def overlaps(history: Sequence[Term]) -> list[tuple[Term, Term]]:
    """Every two terms of different members that share an instant."""
    return [
        (one, other)
        for one, other in itertools.combinations(history, 2)
        if one.member != other.member and max(one.begun, other.begun) <= min(one.ended, other.ended)
    ]


def handovers(history: Sequence[Term]) -> list[Handover]:
    """The handovers between terms that don't overlap, in their order."""
    return [
        Handover(previous.member, following.member, following.begun - previous.ended)
        for previous, following in itertools.pairwise(history)
        if previous.member != following.member and following.begun > previous.ended
    ]


def _told_overlap(one: Term, other: Term) -> str:
    seconds = min(one.ended, other.ended) - max(one.begun, other.begun)
    return f"{one.member} and {other.member} both believed to lead, for {seconds * 1000:.1f} ms"


def _token_problems(history: Sequence[Term]) -> list[str]:
    return [
        f"the token did not rise: {previous.token} of {previous.member}, then {following.token} of {following.member}"
        for previous, following in itertools.pairwise(history)
        if following.token < previous.token
        or (following.token == previous.token and following.member != previous.member)
    ]


def _sighting_problems(term: Term, sightings: Sequence[Sighting]) -> list[str]:
    told = [seen for seen in sightings if (seen.leader, seen.announced) == (term.member, term.begun)]
    whole = [seen for seen in told if seen.answered <= term.ended]
    if not whole:
        # A leadership that was lost while the observer looked is followed by another one, which is checked again.
        return [] if told else [f"nobody checked the leadership of {term.member} (token {term.token})"]
    return [_told_sighting(term, seen) for seen in whole if not _confirms(term, seen)]


def _confirms(term: Term, seen: Sighting) -> bool:
    return (seen.lowest, seen.owner, seen.created) == (term.member, term.session_id, term.token)


def _told_sighting(term: Term, seen: Sighting) -> str:
    lowest = f"that of {seen.lowest} (session {seen.owner}, created by {seen.created})" if seen.lowest else "gone"
    return (
        f"{term.member} (session {term.session_id}, token {term.token}) believed to lead, "
        f"but the lowest node was {lowest}"
    )
