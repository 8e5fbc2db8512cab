"""A fuzzer of everlatch, run from a checkout: `python -m fuzz`. Not part of the installed package.

    recordings  the corpus: what real servers and clients have said to each other
    record      how it is recorded, from real servers: `python -m fuzz record`
    mutation    bytes, and streams of frames, made slightly or badly wrong
    server      a server in memory, which answers as real ones do
    line        one connection to it, with a mutator in between
    decoders    level 1: every decoder of `everlatch.wire`
    sessions    level 2: the session, as a plain object, with a clock of its own
    clients     level 3: the whole client, on the event loop of `virtual`
    virtual     an event loop without sockets, whose clock jumps
    watchdog    how a hang becomes a finding
    findings    what was found, and the command that shows it again
    campaign    how many inputs of which level, in which order

Rules: everything is made from the seed and a number, so that each input can be made again; the input that is at
fault is told, whatever it does; nothing listens, and nothing is written but the report that is asked for.
"""

from __future__ import annotations

__all__ = [
    "campaign",
    "clients",
    "decoders",
    "findings",
    "line",
    "mutation",
    "record",
    "recordings",
    "server",
    "sessions",
    "virtual",
    "watchdog",
]
