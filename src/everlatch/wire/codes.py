"""The protocol's numbers.

Rules of this file: constants only. Server error codes are in `everlatch.errors`, event types in `everlatch.types`.
"""

from __future__ import annotations

import enum
from typing import Final

__all__ = [
    "KEEPER_STATE_SYNC_CONNECTED",
    "XID_AUTH",
    "XID_NOTIFICATION",
    "XID_PING",
    "XID_SET_WATCHES",
    "AddWatchMode",
    "CreateMode",
    "Op",
    "WatcherType",
]


class Op(enum.IntEnum):
    """Operation codes; those that only servers send each other are left out on purpose."""

    CREATE = 1
    DELETE = 2
    EXISTS = 3
    GET_DATA = 4
    SET_DATA = 5
    GET_ACL = 6
    SET_ACL = 7
    GET_CHILDREN = 8
    SYNC = 9
    PING = 11
    GET_CHILDREN2 = 12
    CHECK = 13
    """Only inside a multi: alone it costs the connection."""
    MULTI = 14
    CREATE2 = 15
    RECONFIG = 16
    CHECK_WATCHES = 17
    REMOVE_WATCHES = 18
    CREATE_CONTAINER = 19
    CREATE_TTL = 21
    MULTI_READ = 22
    AUTH = 100
    SET_WATCHES = 101
    SASL = 102
    GET_EPHEMERALS = 103
    GET_ALL_CHILDREN_NUMBER = 104
    SET_WATCHES2 = 105
    ADD_WATCH = 106
    WHO_AM_I = 107
    CLOSE_SESSION = -11
    ERROR = -1
    """The type of a failed part in the reply to a multi."""


XID_NOTIFICATION: Final = -1
"""A watch event, which answers nothing."""
XID_PING: Final = -2
XID_AUTH: Final = -4
XID_SET_WATCHES: Final = -8

KEEPER_STATE_SYNC_CONNECTED: Final = 3
"""The state in every watch event that a server sends."""


class CreateMode(enum.IntEnum):
    """The flags of a create. The operation decides what is made, and the flags must agree with it."""

    PERSISTENT = 0
    EPHEMERAL = 1
    PERSISTENT_SEQUENTIAL = 2
    EPHEMERAL_SEQUENTIAL = 3
    CONTAINER = 4
    """Only with `Op.CREATE_CONTAINER`."""
    PERSISTENT_WITH_TTL = 5
    """Only with `Op.CREATE_TTL`, as the next one."""
    PERSISTENT_SEQUENTIAL_WITH_TTL = 6


class AddWatchMode(enum.IntEnum):
    """The modes of `Op.ADD_WATCH`."""

    PERSISTENT = 0
    PERSISTENT_RECURSIVE = 1


class WatcherType(enum.IntEnum):
    """Which watches `Op.CHECK_WATCHES` and `Op.REMOVE_WATCHES` mean."""

    CHILDREN = 1
    DATA = 2
    ANY = 3
    """All kinds, persistent ones included; before 3.9 the only way to drop those."""
    PERSISTENT = 4
    """Since 3.9, as the next one."""
    PERSISTENT_RECURSIVE = 5
