"""A world in one process: hosts with clocks of their own, a network between them, ZooKeeper servers and clients, and
everything that can go wrong with them, in virtual time and the same way every time.

    from everlatch.testing.simulation import simulation

    with simulation(seed=7) as world:
        server, app = world.server(), world.host("app")

        async def main() -> None:
            async with app.client() as client:
                await client.create("/a", b"1")
                server.pause()
                …

        world.run(main(), on=app)

The client, the recipes and the servers are the real ones; only the event loop under them is ours.

    world      `simulation()`, `World`: seed, hosts, running, verdict, report
    hosts      machines: what runs there, their clocks, pause, crash, loss of power
    process    which process a callback belongs to, and by which clock
    loop       the event loop whose time jumps
    network    connections, cuts, partitions, resets, slow routes
    streams    TCP: the two ends of a connection
    routes     how things get from host to host
    names      name resolution that changes, fails, hangs
    servers    dev servers on hosts
    peering    connections between the members of an ensemble
    faults     everything that can go wrong, one class a kind
    schedule   faults at random, over time: `world.faults`
    scenarios  promises under random faults, for `scripts/sim`
    campaign   scenarios over many seeds
    journal    the log and the digest
    errors     how a run fails
"""

from __future__ import annotations

from everlatch.testing.simulation.errors import (
    SimulationCallbackError,
    SimulationDeadlockError,
    SimulationError,
    SimulationLeakError,
    SimulationTimeLimitError,
    SimulationUsageError,
)
from everlatch.testing.simulation.hosts import Host, HostState
from everlatch.testing.simulation.journal import Entry
from everlatch.testing.simulation.names import Names
from everlatch.testing.simulation.network import Network
from everlatch.testing.simulation.routes import Condition
from everlatch.testing.simulation.servers import MemberCore, ServerCore, SimulatedServer
from everlatch.testing.simulation.streams import Stream
from everlatch.testing.simulation.world import World, simulation

__all__ = [
    "Condition",
    "Entry",
    "Host",
    "HostState",
    "MemberCore",
    "Names",
    "Network",
    "ServerCore",
    "SimulatedServer",
    "SimulationCallbackError",
    "SimulationDeadlockError",
    "SimulationError",
    "SimulationLeakError",
    "SimulationTimeLimitError",
    "SimulationUsageError",
    "Stream",
    "World",
    "simulation",
]
