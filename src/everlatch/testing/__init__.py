"""What users need to test their own code against ZooKeeper: real servers, their faults, and servers that misbehave.

    from everlatch.testing import Ensemble, Proxy

    async with Ensemble(1) as ensemble, Proxy(ensemble.connect_string) as proxy, Client(proxy.address) as client:
        proxy.lose_reply(Op.SET_DATA)
        …

    from everlatch.testing import BadServer, misbehaviour

    async with BadServer() as server, server.client() as client:      # no Java, any server's bad day
        server.next(misbehaviour.answer_twice)
        …

Only names are gathered here; each module says what it promises.
"""

from __future__ import annotations

from everlatch.testing import misbehaviour
from everlatch.testing.badserver import BadServer, BadServerTimeoutError, Connection, Received
from everlatch.testing.builds import Build, ZooKeeperNotFoundError, find_build
from everlatch.testing.ensemble import Ensemble, EnsembleError, Server
from everlatch.testing.faults import HANDSHAKE, Fault, Held, ProxyTimeoutError, Request, RequestFault
from everlatch.testing.proxy import Proxy
from everlatch.testing.relay import ProxyConnection
from everlatch.testing.sessions import SessionNotEndedError, expire_session
from everlatch.testing.znodes import Znodes
from everlatch.wire.codes import Op

__all__ = [
    "HANDSHAKE",
    "BadServer",
    "BadServerTimeoutError",
    "Build",
    "Connection",
    "Ensemble",
    "EnsembleError",
    "Fault",
    "Held",
    "Op",
    "Proxy",
    "ProxyConnection",
    "ProxyTimeoutError",
    "Received",
    "Request",
    "RequestFault",
    "Server",
    "SessionNotEndedError",
    "Znodes",
    "ZooKeeperNotFoundError",
    "expire_session",
    "find_build",
    "misbehaviour",
]
