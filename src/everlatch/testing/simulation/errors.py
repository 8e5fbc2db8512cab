"""How a simulated run fails.

All of them carry, as a note, the command that replays the run, the faults applied so far and the end of the log.
"""

from __future__ import annotations

from everlatch.errors import EverlatchError

__all__ = [
    "SimulationCallbackError",
    "SimulationDeadlockError",
    "SimulationError",
    "SimulationLeakError",
    "SimulationTimeLimitError",
    "SimulationUsageError",
]


class SimulationError(EverlatchError):
    """A simulated run failed, or was used wrongly."""


class SimulationUsageError(SimulationError):
    """Something was asked for that the simulation doesn't have, or from the wrong place. The message says what to do
    instead."""


class SimulationDeadlockError(SimulationError):
    """Nothing can happen any more, or nothing but the idling of servers, and the main coroutine isn't done. The message
    lists what every task waits for."""


class SimulationTimeLimitError(SimulationError):
    """The run took longer, in virtual time or in turns of the loop at one moment, than it may. The message lists what
    every task waits for."""


class SimulationCallbackError(SimulationError):
    """Something reached the event loop's exception handler: a callback that raised, a task whose exception nobody
    took."""


class SimulationLeakError(SimulationError):
    """Tasks were left behind when the main coroutine was done. The message names them: cancel and await them, or stop
    what runs them."""
