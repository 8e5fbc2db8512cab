"""Promise P5, for persistent watches: every change is told, in order, or that one may have been missed.

How it is known: who subscribes reads when he has entered, and again after each `MISSED`. Whatever changed behind that
reading has to be told; so the events since the last `MISSED` are the last changes that there were, without a gap, and
reach back as far as to the reading. Between two `MISSED` they are some changes, without a gap.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Final, NamedTuple

from everlatch.types import EventType
from torture.violations import Violation

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torture.history import Fired, History, SubscriptionSeen
    from torture.truth import Truth

__all__ = ["judge"]

_RULE: Final = "subscriptions"
_NO_ZXID: Final = -1


class _Event(NamedTuple):
    """A change as it is told. Within a transaction they are compared by name: servers have an order of their own for
    the nodes of a session that ends."""

    zxid: int
    type: str
    path: str


def judge(history: History, truth: Truth) -> Iterator[Violation]:
    """All subscriptions."""
    for subscription in history.subscriptions:
        text = _fault(subscription, history, truth)
        if text:
            yield Violation(_RULE, subscription.entered, f"{subscription} {text}")


def _fault(subscription: SubscriptionSeen, history: History, truth: Truth) -> str:
    changes = _changes(subscription, truth)
    segments = _segments(subscription.fired)
    if truth.complete and history.reports_zxids:
        places = {change: index for index, change in enumerate(changes)}
        for start, segment in segments:
            text = _gap(segment if not start else _without_replays(segment), changes, places)
            if text:
                return text
    start, last = segments[-1]
    readings = [seen for events, seen in subscription.readings if events >= start]
    if subscription.closed or subscription.client in history.died or not readings:
        return ""
    due = [change for change in changes if readings[0] < change.zxid <= history.closing_zxid]
    return _untold(due, last, in_full=truth.complete, by_zxid=history.reports_zxids)


def _changes(subscription: SubscriptionSeen, truth: Truth) -> list[_Event]:
    """What a subscription is to be told of, in order."""
    path = subscription.path
    if subscription.recursive:
        below = path.rstrip("/") + "/"
        told = [
            each
            for each in truth.told
            if each.type is not EventType.CHILDREN_CHANGED and (each.path == path or each.path.startswith(below))
        ]
    else:
        told = truth.at(path).told
    return [_Event(each.zxid, each.type.name, each.path) for each in told]


def _segments(fired: Sequence[Fired]) -> list[tuple[int, list[_Event]]]:
    """What was told between one `MISSED` and the next, and how many events had come before."""
    segments: list[tuple[int, list[_Event]]] = [(0, [])]
    for index, event in enumerate(fired):
        if event.type == EventType.MISSED.name:
            segments.append((index + 1, []))
        else:
            segments[-1][1].append(_Event(event.zxid, event.type, event.path))
    return segments


def _without_replays(segment: list[_Event]) -> list[_Event]:
    """After a reconnect servers tell one-shot watches, without a zxid, what happened meanwhile; and so, by the way,
    whoever else of this client listens at those paths. He has heard `MISSED` before."""
    return [event for event in segment if event.zxid != _NO_ZXID]


def _gap(segment: list[_Event], changes: list[_Event], places: dict[_Event, int]) -> str:
    """What is wrong with the events between two `MISSED`."""
    if not segment:
        return ""
    unknown = next((event for event in segment if event not in places), None)
    if unknown is not None:
        return f"was told of what never happened: {unknown}"
    if any(later.zxid < event.zxid for event, later in pairwise(segment)):
        return f"was told of changes out of their order: {segment}"
    found = sorted(places[event] for event in segment)
    twice = next((changes[index] for index, later in pairwise(found) if index == later), None)
    if twice is not None:
        return f"was told twice of {twice}"
    expected = range(found[0], found[0] + len(found))
    missing = next((changes[index] for index, place in zip(expected, found, strict=True) if index != place), None)
    if missing is not None:
        return f"was told of {segment[0]} and what came then, but not of {missing}, and heard no MISSED between"
    return ""


def _untold(due: list[_Event], last: list[_Event], *, in_full: bool, by_zxid: bool) -> str:
    """What should have been told since the last `MISSED`, and was not."""
    if not by_zxid:
        due, last = ([event._replace(zxid=0) for event in events] for events in (due, last))
        if in_full and not _contains(last, due):
            told = set(last)
            untold = next((event for event in due if event not in told), None)
            what = f"not of {untold}" if untold else f"of {len(last)} changes, not of the {len(due)} in a row"
            return f"was not told of all that happened since its last reading: {what}"
    told = set(last)
    missing = next((event for event in due if event not in told), None)
    return f"was never told of {missing}, and heard no MISSED since" if missing is not None else ""


def _contains(told: list[_Event], due: list[_Event]) -> bool:
    """Whether these are there, in a row. Behind them may be what happened when the clients closed."""
    return any(told[end - len(due) : end] == due for end in range(len(told), len(due) - 1, -1))
