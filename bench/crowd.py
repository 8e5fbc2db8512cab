"""Many connections, each with one get in flight: `python -m bench.crowd ADDRESS CONNECTIONS COUNT`.

What a dev server sees of many clients that wait for each answer: hardly any two requests come together. Prints one
line of JSON. The nodes that `bench.server.prepare` makes must be there.
"""

from __future__ import annotations

import argparse
import json
import select
from contextlib import ExitStack

from bench.plain import Op, PlainConnection, bodies
from bench.stopwatch import Sample, Stopwatch
from bench.workload import NODE, VALUE, WrongReplyError

__all__ = ["main", "measure"]

_REPLY_SIZE = 4 + 16 + 4 + len(VALUE) + 68
_RECEIVE_SIZE = 1 << 16


def measure(address: str, connections: int, count: int) -> Sample:
    """`count` gets, after a tenth of that to warm up."""
    with ExitStack() as stack:
        crowd = [stack.enter_context(PlainConnection(address)) for _ in range(connections)]
        _drive(crowd, count // 10)
        with Stopwatch() as watch:
            _drive(crowd, count)
    return watch.sample(count)


def _drive(crowd: list[PlainConnection], count: int) -> None:
    sockets = {connection.socket.fileno(): connection.socket for connection in crowd}
    request = crowd[0].request(Op.GET_DATA, bodies.get(NODE))
    with select.epoll(len(sockets)) as events:
        for number, socket in enumerate(sockets.values()):
            events.register(socket, select.EPOLLIN)
            if number < count:
                socket.sendall(request)
        unsent, unanswered = max(0, count - len(sockets)), count
        while unanswered:
            for descriptor, _ in events.poll():
                socket = sockets[descriptor]
                reply = socket.recv(_RECEIVE_SIZE)
                if len(reply) != _REPLY_SIZE:
                    raise WrongReplyError(f"a reply to get had {len(reply)} bytes instead of {_REPLY_SIZE}")
                unanswered -= 1
                if unsent:
                    unsent -= 1
                    socket.sendall(request)


def main() -> None:
    """Measure what the arguments say."""
    parser = argparse.ArgumentParser(prog="python -m bench.crowd", description="Many connections.")
    parser.add_argument("address", help="host:port")
    parser.add_argument("connections", type=int)
    parser.add_argument("count", type=int)
    chosen = parser.parse_args()
    print(json.dumps(measure(chosen.address, chosen.connections, chosen.count)._asdict()))


if __name__ == "__main__":
    main()
