"""Judges a history. Pure.

Rules of this file: a violation that is reported is one: where something can't be known for sure, nothing is said. The
servers are taken at their word only where nothing else is known: with their log, everything that clients were told is
compared with it, and the tree that is read at the end as well.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torture.rules import clients, leaders, reads, registers, subscriptions, watches, writes
from torture.sightings import gathered
from torture.truth import Truth
from torture.violations import Violation

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torture.history import History

__all__ = ["check"]


def check(history: History) -> list[Violation]:
    """All broken promises; first what can be seen first."""
    truth = Truth.of_log(history.log) if history.log is not None else gathered(history)
    views = reads.Views()
    found = [
        *writes.judge(history, truth),
        *reads.judge(history, truth, views),
        *registers.judge(history),
        *watches.judge(history, truth, views),
        *subscriptions.judge(history, truth),
        *leaders.judge(history),
        *clients.judge(history),
        *_servers(history, truth),
    ]
    return sorted(found, key=lambda violation: violation.time)


def _servers(history: History, truth: Truth) -> Iterator[Violation]:
    """Whether the servers' log and the tree that is read at the end agree: that is no fault of a client."""
    if history.log is None or history.final is None:
        return
    nodes = {path: line for path, line in truth.timelines.items() if path.startswith(history.root)}
    for path in sorted(nodes.keys() | {path for path in history.final if path.startswith(history.root)}):
        states = truth.at(path).data.states
        state = states[-1] if states and states[-1].exists else None
        node = history.final.get(path)
        found = node and (node.stat.mzxid, node.stat.version, node.data)
        if found != (state and (state.zxid, state.version, state.data or b"")):
            text = f"the log ends with {state} at {path}, the final tree with {node}"
            yield Violation("servers", history.closing, text)
