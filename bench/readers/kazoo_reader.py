"""kazoo 2.11 with its default handler. A read that was in flight raises; the next one waits for the connection."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kazoo.client import KazooClient
from kazoo.exceptions import KazooException

from bench.reading import Reading
from bench.server import has_session
from bench.workload import NODE, check_get

if TYPE_CHECKING:
    from bench.readers import ReaderJob

__all__ = ["read"]


def read(job: ReaderJob) -> None:
    """Read until told."""
    client = _client_at_first(job)
    try:
        reading = Reading(client.client_id[0])
        while reading.goes_on():
            try:
                node = client.get(NODE)
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
