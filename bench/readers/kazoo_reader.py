"""kazoo 2.11 with its default handler, used in two ways.

`kazoo` repeats a read as kazoo's users are told to, by `client.retry`, which waits about 0.1 s before it does.
`kazoo-eager` has a loop of its own that repeats a failed read at once; that one then waits for the connection, so the
loop doesn't spin. It is the quickest that kazoo's connections allow.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kazoo.client import KazooClient
from kazoo.exceptions import KazooException

from bench.reading import Reading
from bench.server import has_session
from bench.workload import NODE, check_get

if TYPE_CHECKING:
    from collections.abc import Callable

    from bench.readers import ReaderJob

__all__ = ["read", "read_eagerly"]


def read(job: ReaderJob) -> None:
    """Read until told, with `client.retry`."""
    _read(job, lambda client: client.retry(client.get, NODE))


def read_eagerly(job: ReaderJob) -> None:
    """Read until told, without."""
    _read(job, lambda client: client.get(NODE))


def _read(job: ReaderJob, get: Callable[[KazooClient], object]) -> None:
    client = _client_at_first(job)
    try:
        reading = Reading(client.client_id[0])
        while reading.goes_on():
            try:
                node = get(client)
            except KazooException:
                continue
            check_get(node)
            reading.succeeded()
        reading.tell()
    finally:
        client.stop()
        client.close()


def _client_at_first(job: ReaderJob) -> KazooClient:
    while True:
        client = KazooClient(job.servers, timeout=job.timeout_s)
        client.start()
        if has_session(job.first, client.client_id[0]):
            return client
        client.stop()
        client.close()
