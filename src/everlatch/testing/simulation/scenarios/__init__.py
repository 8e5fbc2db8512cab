"""What `scripts/sim` runs: promises of the client under random faults, judged by what was seen.

    stage      what they have in common
    everyday   reads and writes, watches, ephemeral nodes: minutes of them
    connected  P1: usable again after every outage
    queued     P2: calls wait, in order, and are sent once
    outcomes   P3: a write ends as what it was
    written    … and what it was
    lost_replies  of writes that were done
    watched    P5: subscriptions end on what is, and tell nothing that never was
    past       … what was, for its judge
    trees      … copies of trees
    changing   … what changes under both
    renewed    P6: what comes in which order when a session was lost
    kept       … and kept nodes, which are there before the queue moves
    one_leader P7: one leader, and soon; and the torture of it
    isolated   P9: bad callbacks harm nobody
    bounded    P11: everything ends in time

Rules: a scenario is a function of a world and nothing else. It draws its choices from `world.random`, applies faults
for a while, and fails by raising. What it expects after the last heal has a bound.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from everlatch.testing.simulation.scenarios.bounded import bounded
from everlatch.testing.simulation.scenarios.connected import connected
from everlatch.testing.simulation.scenarios.everyday import reads_and_writes, sessions, watches
from everlatch.testing.simulation.scenarios.isolated import isolated
from everlatch.testing.simulation.scenarios.kept import kept
from everlatch.testing.simulation.scenarios.one_leader import leadership, one_leader
from everlatch.testing.simulation.scenarios.outcomes import outcomes
from everlatch.testing.simulation.scenarios.queued import queued
from everlatch.testing.simulation.scenarios.renewed import renewed
from everlatch.testing.simulation.scenarios.stage import PromiseBrokenError
from everlatch.testing.simulation.scenarios.trees import trees
from everlatch.testing.simulation.scenarios.watched import watched

if TYPE_CHECKING:
    from collections.abc import Callable

    from everlatch.testing.simulation.world import World

__all__ = ["PROMISES", "SCENARIOS", "PromiseBrokenError"]

PROMISES: Final[dict[str, str]] = {
    "P1": "connected",
    "P2": "queued",
    "P3": "outcomes",
    "P5": "watched",
    "P6": "renewed",
    "P5, trees": "trees",
    "P6, kept nodes": "kept",
    "P7": "one-leader",
    "P9": "isolated",
    "P11": "bounded",
}
"""Which scenario is that of a promise."""
SCENARIOS: Final[dict[str, Callable[[World], None]]] = {
    "reads-and-writes": reads_and_writes,
    "watches": watches,
    "sessions": sessions,
    "connected": connected,
    "queued": queued,
    "outcomes": outcomes,
    "watched": watched,
    "trees": trees,
    "renewed": renewed,
    "kept": kept,
    "one-leader": one_leader,
    "isolated": isolated,
    "bounded": bounded,
    "leadership": leadership,
}
"""By the names that `scripts/sim --name` takes."""
