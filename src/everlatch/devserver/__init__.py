"""A ZooKeeper server in pure Python, in memory, for development and tests. Never for production: nothing is stored,
nothing is replicated, and anybody who reaches its port may do as he likes.

    from everlatch.devserver import DevServer

    async with DevServer() as server, Client(server.address) as client:
        await client.create("/a", b"1")

On the command line: `everlatch devserver --port 2181`.

    server        TCP, with asyncio
    core          connections and the rest, without sockets or a clock: bytes and `now` in, bytes out
    requests      what each operation does
    words         the four-letter words
    sessions      ids, passwords, timeouts
    watches       what a connection watches, and what fires
    writes        checks what is asked and makes transactions of it
    transactions  multi and multiRead
    tree          the nodes: transactions in, events out
    identities    who a connection is, and ACLs

It behaves like a standalone ZooKeeper, of 3.9 or of 3.8 (`version="3.8"`), with TTL nodes switched on. It has no
quotas, SASL, TLS, reconfiguration or read-only mode.
"""

from __future__ import annotations

from everlatch.devserver.options import Options
from everlatch.devserver.server import DevServer, serve

__all__ = ["DevServer", "Options", "serve"]
