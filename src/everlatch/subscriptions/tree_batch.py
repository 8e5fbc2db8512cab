"""Many nodes read by one request (ZooKeeper's multiRead, since 3.6): for the servers, and for us, a fraction of the
work of as many `get`s.

Rules:
1. A batch sets no watches, so it is for servers with persistent ones, which have it as well.
2. What is wrong with the request as a whole (a reply that is too large, a server that is older after all) says nothing
   of the nodes: they are to be read one by one then.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from everlatch.errors import ProtocolError, ServerError, server_error
from everlatch.session.requests import Operation
from everlatch.wire.codes import Op
from everlatch.wire.multi import ErrorResult, GetDataPart, GetDataResult, decode_multi_reply, encode_multi_request

if TYPE_CHECKING:
    from collections.abc import Sequence

    from everlatch.engine.call import Call
    from everlatch.engine.engine import Engine
    from everlatch.operations import Operations
    from everlatch.types import Node

__all__ = ["FEWEST", "MOST", "read_nodes"]

FEWEST: Final = 8
"""Nodes for which a batch is worth it."""
MOST: Final = 50
"""Nodes of a batch. With as much data as a node can have by default, the reply stays below `max_reply_size`."""


def read_nodes(engine: Engine, operations: Operations, paths: Sequence[str]) -> Call[list[Node | ServerError]]:
    """What each of them is, or why it can't be read. Raises what calls raise."""
    parts = [GetDataPart(operations.server_path(path)) for path in paths]

    def decode(buf: bytes, pos: int, end: int) -> list[Node | ServerError]:
        results = decode_multi_reply(buf, pos, end)
        if len(results) != len(paths):
            raise ProtocolError(f"{len(results)} results for {len(paths)} nodes")
        nodes: list[Node | ServerError] = []
        for path, result in zip(paths, results, strict=True):
            if isinstance(result, GetDataResult):
                nodes.append(result.node)
            elif isinstance(result, ErrorResult):
                nodes.append(server_error(result.code, "get", path))
            else:
                raise ProtocolError(f"get in a multi-read was answered by {type(result).__name__}")
        return nodes

    operation = Operation("multi_read", Op.MULTI_READ, decode)
    return engine.submit(operation, paths[0], encode_multi_request(parts), None, None)
