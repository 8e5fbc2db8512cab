"""What users need to test their own code against ZooKeeper: real servers, and their faults.

    from everlatch.testing import Ensemble, Proxy

    async with Ensemble(1) as ensemble, Proxy(ensemble.connect_string) as proxy, Client(proxy.address) as client:
        proxy.lose_reply(Op.SET_DATA)
        …

Only names are gathered here; each module says what it promises.
"""

from __future__ import annotations

from everlatch.testing.builds import Build, ZooKeeperNotFoundError, find_build
from everlatch.testing.ensemble import Ensemble, EnsembleError, Server
from everlatch.testing.faults import HANDSHAKE, Fault, Held, ProxyTimeoutError, Request, RequestFault
from everlatch.testing.proxy import Proxy
from everlatch.testing.relay import ProxyConnection
from everlatch.testing.sessions import SessionNotEndedError, expire_session
from everlatch.wire.codes import Op

__all__ = [
    "HANDSHAKE",
    "Build",
    "Ensemble",
    "EnsembleError",
    "Fault",
    "Held",
    "Op",
    "Proxy",
    "ProxyConnection",
    "ProxyTimeoutError",
    "Request",
    "RequestFault",
    "Server",
    "SessionNotEndedError",
    "ZooKeeperNotFoundError",
    "expire_session",
    "find_build",
]
