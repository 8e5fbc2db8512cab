"""What users need to test their own code against ZooKeeper: real servers, their faults, and servers that misbehave.

    from everlatch.testing import Ensemble, Proxy

    async with Ensemble(1) as ensemble, Proxy(ensemble.connect_string) as proxy, Client(proxy.address) as client:
        proxy.lose_reply(Op.SET_DATA)
        …

    from everlatch.testing import NetworkEnsemble

    async with NetworkEnsemble(3) as network, Client(network.connect_string) as client:       # as root, on Linux
        await network.link_down(await network.server_of(client.session_id))
        …

    async with Ensemble(3, tls=True, sasl="digest", require_auth=True) as ensemble:       # or sasl="kerberos"
        client = Client(ensemble.connect_string, **ensemble.client_options)
        …

    from everlatch.testing import BadServer, misbehaviour

    async with BadServer() as server, server.client() as client:      # no Java, any server's bad day
        server.next(misbehaviour.answer_twice)
        …

Only names are gathered here; each module says what it promises.
"""

from __future__ import annotations

from everlatch.testing import misbehaviour
from everlatch.testing.badserver import BadServer, BadServerTimeoutError, Connection, Received, Reply
from everlatch.testing.builds import Build, ZooKeeperNotFoundError, find_build
from everlatch.testing.certificates import Certificates, Issued, TrustmeMissingError
from everlatch.testing.ensemble import Ensemble
from everlatch.testing.faults import Fault, Held, RequestFault
from everlatch.testing.kdc import Kdc, KdcUnavailableError
from everlatch.testing.network import NetworkEnsemble, NetworkUnavailableError
from everlatch.testing.process import ClientProcess, EnsembleError
from everlatch.testing.proxy import Proxy
from everlatch.testing.relay import ProxyConnection
from everlatch.testing.server import Server
from everlatch.testing.sessions import SessionNotEndedError, expire_session
from everlatch.testing.traffic import HANDSHAKE, Request, Whose
from everlatch.testing.waiting import ProxyTimeoutError
from everlatch.testing.znodes import Znodes
from everlatch.wire.codes import Op

__all__ = [
    "HANDSHAKE",
    "BadServer",
    "BadServerTimeoutError",
    "Build",
    "Certificates",
    "ClientProcess",
    "Connection",
    "Ensemble",
    "EnsembleError",
    "Fault",
    "Held",
    "Issued",
    "Kdc",
    "KdcUnavailableError",
    "NetworkEnsemble",
    "NetworkUnavailableError",
    "Op",
    "Proxy",
    "ProxyConnection",
    "ProxyTimeoutError",
    "Received",
    "Reply",
    "Request",
    "RequestFault",
    "Server",
    "SessionNotEndedError",
    "TrustmeMissingError",
    "Whose",
    "Znodes",
    "ZooKeeperNotFoundError",
    "expire_session",
    "find_build",
    "misbehaviour",
]
