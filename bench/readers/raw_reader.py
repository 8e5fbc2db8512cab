"""The yardstick: a socket that takes its session to the next server at once, by `bench.wire_session`.

A server that has closed the connection is left at once. One that is silent is left after `_PATIENCE_S`, without a
look at anything else: no client could be that rash, for a busy server is silent for as long.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.reading import Reading
from bench.wire_session import WireSession
from bench.workload import NODE, check_get
from everlatch.wire.codes import Op
from everlatch.wire.records import decode_get_data_reply, encode_get_data_request

if TYPE_CHECKING:
    from bench.readers import ReaderJob

__all__ = ["read"]

_PATIENCE_S = 0.25


def read(job: ReaderJob) -> None:
    """Read until told."""
    others = [address for address in job.servers.split(",") if address != job.first]
    request = encode_get_data_request(NODE, False)
    with WireSession([job.first, *others], job.timeout_s, patience_s=_PATIENCE_S) as session:
        reading = Reading(session.session_id)
        while reading.goes_on():
            try:
                reply = session.call(Op.GET_DATA, request)
            except OSError:
                session.reattach()
                continue
            check_get(decode_get_data_reply(reply, 0, len(reply)))
            reading.succeeded()
        reading.tell()
