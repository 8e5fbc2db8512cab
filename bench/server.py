"""The server side of a run: the nodes that the contestants use, and the warming of the server.

All of it goes through `bench.plain`, so that no client that is measured is needed for it, and all of it is pipelined.
"""

from __future__ import annotations

import os
import socket
from contextlib import contextmanager
from typing import TYPE_CHECKING

from bench.plain import Op, PlainConnection, bodies, read_names
from bench.workload import CROWD, NODE, ROOT, VALUE, names_of_crowd

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["four_letter_word", "fresh_parent", "has_session", "prepare", "remove", "server_version", "warm"]


def prepare(address: str, *, with_crowd: bool) -> None:
    """Make the nodes of the workload, whichever are missing."""
    with PlainConnection(address) as connection:
        nodes = (bodies.create(ROOT, b""), bodies.create(NODE, VALUE), bodies.create(CROWD, b""))
        connection.pipeline(Op.CREATE, nodes)
        connection.call(Op.SET_DATA, bodies.set(NODE, VALUE))
        if with_crowd:
            connection.pipeline(Op.CREATE, (bodies.create(f"{CROWD}/{name}", b"") for name in names_of_crowd()))


def remove(address: str) -> None:
    """Remove everything that a run has made."""
    with PlainConnection(address) as connection:
        _delete_with_children(connection, CROWD)
        connection.pipeline(Op.DELETE, [bodies.delete(NODE), bodies.delete(ROOT)])


def warm(address: str, operations: int, ca: str = "") -> None:
    """Let the server do `operations` operations of each kind that is measured, for its just-in-time compiler."""
    writes = operations // 5
    with fresh_parent(address, ca) as parent, PlainConnection(address, ca) as connection:
        connection.pipeline(Op.GET_DATA, (bodies.get(NODE) for _ in range(operations - 2 * writes)))
        connection.pipeline(Op.SET_DATA, (bodies.set(NODE, VALUE) for _ in range(writes)))
        connection.pipeline(Op.CREATE, (bodies.create(f"{parent}/n{number}", VALUE) for number in range(writes)))


@contextmanager
def fresh_parent(address: str, ca: str = "") -> Iterator[str]:
    """A new node of this process alone, removed with its children afterwards."""
    parent = f"{ROOT}/created-{os.getpid()}-{os.urandom(4).hex()}"
    with PlainConnection(address, ca) as connection:
        connection.call(Op.CREATE, bodies.create(parent, b""))
    try:
        yield parent
    finally:
        with PlainConnection(address, ca) as connection:
            _delete_with_children(connection, parent)


def _delete_with_children(connection: PlainConnection, parent: str) -> None:
    names = read_names(connection.call(Op.GET_CHILDREN, bodies.children(parent)))
    connection.pipeline(Op.DELETE, (bodies.delete(f"{parent}/{name}") for name in names))
    connection.call(Op.DELETE, bodies.delete(parent))


def server_version(address: str) -> str:
    """What the server says of itself in answer to `srvr`."""
    first_line = four_letter_word(address, "srvr").partition("\n")[0]
    return first_line.partition("version:")[2].partition(",")[0].strip() or first_line.strip()


def has_session(address: str, session_id: int) -> bool:
    """Whether a session is connected to this server."""
    return f"sid=0x{session_id & (1 << 64) - 1:x}," in four_letter_word(address, "cons")


def four_letter_word(address: str, word: str) -> str:
    """The server's answer."""
    host, _, port = address.rpartition(":")
    with socket.create_connection((host.strip("[]"), int(port)), timeout=10) as connection:
        connection.sendall(word.encode())
        with connection.makefile("rb") as answer:
            return answer.read().decode(errors="replace")
