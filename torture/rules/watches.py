"""Promise P5, for one-shot watches: each fires once if what it was set on has changed since, with its path, and not
otherwise; and before any reply shows the change.

How it is known: a watch is set by its read, so it waits for the first change behind what the read saw. A watch for a
node that was missing may miss it if it was created and deleted while the link was down: only a node that is still there
has to be told.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING, Final

from everlatch.types import Children, Node, Stat
from torture.history import CHILDREN, Ending
from torture.truth import FOREVER
from torture.violations import Violation

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torture.history import Call, Fired, History, WatchSeen
    from torture.rules.reads import Views
    from torture.truth import Truth

__all__ = ["judge"]

_RULE: Final = "watches"
_CHANGES: Final = {"data": ("DATA_CHANGED", "DELETED"), "child": ("CHILDREN_CHANGED", "DELETED"), "exist": ("CREATED",)}


def judge(history: History, truth: Truth, views: Views) -> Iterator[Violation]:
    """All one-shot watches."""
    for calls in history.calls.values():
        for call in calls:
            watch = call.watch
            if watch is not None:
                text = _fault(watch, history, truth, views)
                if text:
                    yield Violation(_RULE, watch.fired[0].time if watch.fired else call.ended, f"{watch} {text}")


def _fault(watch: WatchSeen, history: History, truth: Truth, views: Views) -> str:
    call, fired = watch.call, watch.fired
    if call.ending is not Ending.OK:
        return f"fired, though its read failed: {fired[0]}" if fired and call.ending is Ending.REFUSED else ""
    if len(fired) > 1:
        return f"fired {len(fired)} times: {', '.join(map(str, fired))}"
    changed = _changed(call, history, truth, views)
    if changed is None:  # what it saw never was: the read is at fault
        return ""
    first, certain = changed
    if not fired:
        if call.client in history.died:
            return ""
        return f"never fired, and from 0x{first:x} on what it had seen was no longer so" if certain else ""
    return _event_fault(call, fired[0], first) or (
        _is_late(call, fired[0], first, history, views) if truth.complete else ""
    )


def _event_fault(call: Call, event: Fired, first: int) -> str:
    if first == FOREVER:
        return f"fired, and nothing had changed: {event}"
    if event.path != call.path or event.type not in _CHANGES[_kind(call)]:
        return f"fired with what it doesn't wait for: {event}"
    if 0 < event.zxid < first:
        return f"fired with 0x{event.zxid:x}, and nothing had changed until 0x{first:x}: {event}"
    return ""


def _is_late(call: Call, event: Fired, first: int, history: History, views: Views) -> str:
    """Whether a reply had shown the change already."""
    later = _first_to_show(history.calls[call.client], first, views.earliest[call.client])
    if later is not None and later.ending is Ending.OK and later.ended_step < event.step:
        return f"fired behind a reply that shows a later state than that at 0x{first:x}: {later}"
    return ""


def _first_to_show(calls: list[Call], zxid: int, earliest: list[int]) -> Call | None:
    """The first call whose answer tells that the server had come to there."""
    index = bisect_left(earliest, zxid)
    return calls[index] if index < len(calls) else None


def _kind(call: Call) -> str:
    if call.kind == CHILDREN:
        return "child"
    return "exist" if call.result is None else "data"


def _changed(call: Call, history: History, truth: Truth, views: Views) -> tuple[int, bool] | None:
    """From which zxid on what the read saw was no longer so (`FOREVER`: it still is), and whether that has to have been
    told; `None` if what it saw never was."""
    if not truth.complete:
        return _changed_since(call, history)
    line = truth.at(call.path)
    match call.result:
        case Children(_, stat):
            held = line.children.held(stat.pzxid)
        case Node(_, stat) | (Stat() as stat):
            held = line.data.held(stat.mzxid)
        case _:
            window = views.windows.get((call.client, call.number))
            if window is None or window.last == FOREVER:
                return window and (FOREVER, False)
            first = window.last + 1
            return first, first <= history.closing_zxid and line.present(history.closing_zxid) is not None
    if held is None:
        return None
    last = held.last
    return (FOREVER, False) if last == FOREVER else (last + 1, last < history.closing_zxid)


def _changed_since(call: Call, history: History) -> tuple[int, bool] | None:
    """The same as far as the final tree tells: the first zxid is that at which something may have changed."""
    if history.final is None:
        return None
    node = history.final.get(call.path)
    match call.result:
        case Children(_, stat):
            seen, last = stat.pzxid, node and node.stat.pzxid
        case Node(_, stat) | (Stat() as stat):
            seen, last = stat.mzxid, node and node.stat.mzxid
        case _:
            return (1, True) if node is not None else None
    if seen == last:
        return FOREVER, False
    # What goes with its session may have gone at the very end, when nobody listened any more.
    is_known = not stat.ephemeral_owner if last is None else last <= history.closing_zxid
    return seen + 1, is_known
