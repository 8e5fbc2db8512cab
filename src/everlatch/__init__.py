"""An always-connected ZooKeeper client for Python.

    from everlatch import Client

    async with Client("zk1:2181,zk2:2181,zk3:2181") as client:
        data, stat = await client.get("/config")

What is listed in `__all__` here, in `everlatch.recipes` and in `everlatch.testing` is public; everything else may
change without notice.
"""

import logging

from everlatch.acls import digest_acl, digest_id
from everlatch.client import Client, SessionClient
from everlatch.engine.call import Call
from everlatch.engine.subscription import Subscription
from everlatch.engine.watch_subscription import WatchSubscription
from everlatch.ensemble_tracker import EnsembleTracker
from everlatch.errors import *  # noqa: F403 (the whole tree, as its own __all__ lists it)
from everlatch.errors import __all__ as _errors
from everlatch.multi_read import MultiRead
from everlatch.partial_stat import PartialStat
from everlatch.sasl import DigestMd5, SaslExchange, SaslMechanism, SaslRefusedError, SaslTokenError
from everlatch.server_sources import DnsServers, ServerSource
from everlatch.session.retry import (
    AttemptPlan,
    BoundedExponentialBackoffRetry,
    ExponentialBackoffRetry,
    RetryForever,
    RetryNTimes,
    RetryPolicy,
    RetryUntilElapsed,
)
from everlatch.subscriptions.keeper import Keeper
from everlatch.subscriptions.presence import Absence, Presence
from everlatch.subscriptions.states import StateSubscription
from everlatch.subscriptions.tree import TreeSubscription
from everlatch.subscriptions.tree_changes import TreeChange, TreeChangeKind
from everlatch.tls import TlsSettings
from everlatch.transaction import Pending, Transaction
from everlatch.types import *  # noqa: F403
from everlatch.types import __all__ as _types

__all__ = [
    "Absence",
    "AttemptPlan",
    "BoundedExponentialBackoffRetry",
    "Call",
    "Client",
    "DigestMd5",
    "DnsServers",
    "EnsembleTracker",
    "ExponentialBackoffRetry",
    "Keeper",
    "MultiRead",
    "PartialStat",
    "Pending",
    "Presence",
    "RetryForever",
    "RetryNTimes",
    "RetryPolicy",
    "RetryUntilElapsed",
    "SaslExchange",
    "SaslMechanism",
    "SaslRefusedError",
    "SaslTokenError",
    "ServerSource",
    "SessionClient",
    "StateSubscription",
    "Subscription",
    "TlsSettings",
    "Transaction",
    "TreeChange",
    "TreeChangeKind",
    "TreeSubscription",
    "WatchSubscription",
    "digest_acl",
    "digest_id",
]
__all__ += _errors
__all__ += _types

logging.getLogger("everlatch").addHandler(logging.NullHandler())
