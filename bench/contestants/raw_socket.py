"""The yardstick: a plain blocking socket that finds the ends of the replies and decodes nothing.

Every reply that has arrived is replaced by a new request, all those of one `recv` in one `sendall`. The length of the
replies is checked once, after the clock has stopped: an error reply has no body and would be too short.

Its rate is a yardstick, its CPU is no floor: with a window of 1000 the server sets the pace, and a pause before each
read, which makes the batches larger, halved the CPU or better without a rate that could be told apart (15 alternating
rounds on a busy machine). A client that batches its reads may therefore use less CPU than this, at about the same rate.
"""

from __future__ import annotations

import struct
from itertools import islice, repeat
from typing import TYPE_CHECKING

from bench.plain import Op, PlainConnection, bodies
from bench.stopwatch import Sample, Stopwatch
from bench.workload import CROWD, NODE, VALUE, CreatedPaths, Job, WrongReplyError

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator

__all__ = ["measure"]

_RECEIVE_SIZE = 1 << 18
_SHORTEST_REPLY = {"get": 16 + 4 + len(VALUE) + 68, "set": 16 + 68, "create": 16 + 4, "children": 16 + 100_000}


def measure(job: Job) -> Sample:
    """Measure the bare socket."""
    with PlainConnection(job.address) as connection:
        requests = _requests(job, connection)
        _drive(connection.socket, requests, job.warm_up, job.window)
        with Stopwatch() as watch:
            received = _drive(connection.socket, requests, job.times, job.window)
    if received < job.times * (4 + _SHORTEST_REPLY[job.operation]):
        raise WrongReplyError(f"{job.times} replies to {job.operation} had only {received} bytes: some were errors")
    return watch.sample(job.times)


def _requests(job: Job, connection: PlainConnection) -> Iterator[bytes]:
    request = connection.request
    if job.operation == "create":
        paths = CreatedPaths(job.parent)
        return (request(Op.CREATE, bodies.create(paths.fresh(), VALUE)) for _ in repeat(None))
    op, body = {
        "get": (Op.GET_DATA, bodies.get(NODE)),
        "set": (Op.SET_DATA, bodies.set(NODE, VALUE)),
        "children": (Op.GET_CHILDREN, bodies.children(CROWD)),
    }[job.operation]
    return (request(op, body) for _ in repeat(None))


def _drive(sock: socket.socket, requests: Iterator[bytes], count: int, window: int) -> int:
    """Keep `window` requests in flight until `count` are answered; the number of bytes received."""
    unpack_length = struct.Struct("!i").unpack_from
    sock.sendall(b"".join(islice(requests, min(window, count))))
    unsent = max(0, count - window)
    unanswered = count
    received = 0
    buffer = b""
    while unanswered:
        data = sock.recv(_RECEIVE_SIZE)
        if not data:
            raise WrongReplyError(f"the server closed the connection with {unanswered} replies missing")
        received += len(data)
        buffer = buffer + data if buffer else data
        replies = start = 0
        size = len(buffer)
        while start + 4 <= size:
            end = start + 4 + unpack_length(buffer, start)[0]
            if end > size:
                break
            start = end
            replies += 1
        buffer = buffer[start:]
        unanswered -= replies
        if unsent and replies:
            sock.sendall(b"".join(islice(requests, min(replies, unsent))))
            unsent = max(0, unsent - replies)
    return received
