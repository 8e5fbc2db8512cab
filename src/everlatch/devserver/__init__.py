"""A ZooKeeper server in pure Python, in memory, for development and tests. Never for production: nothing is stored,
nothing is replicated, and whoever reaches its port may do as he likes, unless he has to authenticate.

    from everlatch.devserver import DevServer

    async with DevServer() as server, Client(server.address) as client:
        await client.create("/a", b"1")

With TLS, SASL, and nobody else let in:

    DevServer(tls=context, sasl={"bob": "secret"}, require_auth=True)

On the command line: `everlatch devserver --port 2181`.

    server        on TCP, with asyncio: one that is alone, or several that are an ensemble
    listener      one server on one port
    tls           the server's side of TLS
    core          one server without sockets or a clock: bytes and `now` in, bytes out
    connection    one client's connection: requests in their order, answers in theirs
    requests      what each operation does
    words         the four-letter words
    watches       what a connection watches, and what fires
    identities    who a connection is, and ACLs
    sasl          how it proves that with a password
    subjects      what a client's certificate says of it
    decider       what only a leader decides: every write, when sessions end
    entries       what the leader is asked, and the log that he makes of it
    sessions      ids, passwords, timeouts
    writes        checks what is asked and makes transactions of it
    transactions  multi and multiRead
    tree          the nodes: transactions in, events out
    versions      what differs between 3.5, 3.8 and 3.9
    ensemble      one server among several over one log: see there

It behaves like a standalone ZooKeeper 3.9, or an older one (`version="3.8"`), with TTL nodes switched on. It has no
quotas and no reconfiguration; of SASL it knows DIGEST-MD5 only, and not Kerberos. It has one port, which speaks TLS or
doesn't; who may come is the business of the `ssl.SSLContext`.
"""

from __future__ import annotations

from everlatch.devserver.options import Options
from everlatch.devserver.server import DevEnsemble, DevMember, DevServer, serve

__all__ = ["DevEnsemble", "DevMember", "DevServer", "Options", "serve"]
