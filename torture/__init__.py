"""Many clients, all faults, and a judge: `python -m torture`, from a checkout. Not part of the installed package.

    history        what clients did and saw, as plain records
    checker        judges a history: pure; the promises are in `rules`, one module each
    linearizable   whether what was done to one node can be put into one order
    truth          what happened to each node, from the servers' log
    sightings      the same where the log is not known, from what was seen
    violations     what the checker says

    recorder       makes the calls of one client, and writes down what becomes of them
    workload       what the clients do
    rivals         clients that compete for a few nodes
    reading        reads the tree in the end, without the client

    worlds         what a simulated run is made of, by its seed
    simulated      one simulated run
    campaign       many of them, on several processes
    planted        bugs to put into the client, to see that they are found

    worker         a process with some of the clients of a run on real servers
    real_faults    what real servers, processes and links suffer
    real           a run on real servers
    txnlog         the transaction logs of real servers
    servers        what real servers do that no client can help: pure
    real_campaign  many such runs

    leases           trials of the lease, in the simulation
    real_leases      the same on real servers
    leadership       judges what the candidates of an election saw: pure
    candidate        a process with some of them
    real_leadership  an election on real servers, under faults

    outcome_cases  writes of every kind whose replies are lost, and a judge of what calls end with
    outcomes       all of them on real servers, and how often an outcome is unknown: a command of its own
    exactly_once   a trial of exactly-once writes on real servers: a command of its own

    totals         what many runs came to

Rules: the checker and all below it know nothing of the client but its public values; what is found in a simulation is
found again with the seed; nothing is written but the report, and, for what was found on real servers, all that is known
of it.
"""

from __future__ import annotations

__all__ = [
    "campaign",
    "candidate",
    "checker",
    "exactly_once",
    "history",
    "leadership",
    "leases",
    "linearizable",
    "outcome_cases",
    "outcomes",
    "planted",
    "reading",
    "real",
    "real_campaign",
    "real_faults",
    "real_leadership",
    "real_leases",
    "recorder",
    "rivals",
    "rules",
    "servers",
    "sightings",
    "simulated",
    "totals",
    "truth",
    "txnlog",
    "violations",
    "worker",
    "workload",
    "worlds",
]
