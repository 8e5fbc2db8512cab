"""Many clients, all faults, and a judge: `python -m torture`, from a checkout. Not part of the installed package.

history     what clients did and saw, as plain records
checker     judges a history: pure; the promises are in `rules`, one module each
truth       what happened to each node, from the servers' log
sightings   the same where the log is not known, from what was seen
violations  what the checker says
"""

from __future__ import annotations

__all__ = [
    "campaign",
    "checker",
    "history",
    "planted",
    "reading",
    "recorder",
    "rules",
    "sightings",
    "simulated",
    "truth",
    "violations",
    "workload",
    "worlds",
]
