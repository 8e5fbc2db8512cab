"""A fuzzer of everlatch, run from a checkout: `python -m fuzz`. Not part of the installed package.

    recordings  the corpus: what real servers and clients have said to each other
    record      how it is recorded, from real servers: `python -m fuzz record`
    mutation    bytes, and streams of frames, made slightly or badly wrong
    server      a server in memory, which answers as real ones do
    sasl        how it has clients authenticate, rightly or in hostile words
    tokens      tokens of SASL, made slightly or badly wrong
    secrecy     what nobody may be told
    shields     TLS around a connection, and what can be done to it
    line        one connection to it, with a mutator in between
    decoders    level 1: every decoder of `everlatch.wire`
    sessions    level 2: the session, as a plain object, with a clock of its own; level `sasl`: one that authenticates
    clients     level 3: the whole client, on the event loop of `virtual`; level `tls`: over TLS
    virtual     an event loop without sockets, whose clock jumps
    watchdog    how a hang becomes a finding
    findings    what was found, and the command that shows it again
    campaign    how many inputs of which level, in which order

Rules: everything is made from the seed and a number, so that each input can be made again; the input that is at
fault is told, whatever it does; nothing listens, and nothing is written but the report that is asked for, and
certificates in a directory of their own, for as long as it takes.
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
    "sasl",
    "secrecy",
    "server",
    "sessions",
    "shields",
    "tokens",
    "virtual",
    "watchdog",
]
