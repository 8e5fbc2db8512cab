"""`everlatch.testing.badserver` under the names that it had before it became public."""

from __future__ import annotations

from everlatch.testing.answers import accept, answer, apply, expire, respond
from everlatch.testing.badserver import BadServer as ScriptedServer
from everlatch.testing.badserver import Connection, Received
from everlatch.testing.misbehaviour import deny_sessions as header_only
from everlatch.testing.misbehaviour import (
    drop_after,
    drop_before,
    fail_with,
    garbage,
    go_silent,
    hold,
    never,
    other_session,
    read_only,
    reset,
    send,
    swallow,
    without_read_only_byte,
)
from everlatch.testing.znodes import Znodes

__all__ = [
    "Connection",
    "Received",
    "ScriptedServer",
    "Znodes",
    "accept",
    "answer",
    "apply",
    "drop_after",
    "drop_before",
    "expire",
    "fail_with",
    "garbage",
    "go_silent",
    "header_only",
    "hold",
    "never",
    "other_session",
    "read_only",
    "reset",
    "respond",
    "send",
    "swallow",
    "without_read_only_byte",
]
