"""Nodes and trees for the tests of copies."""

from __future__ import annotations

from everlatch import Node, Stat


def node(czxid: int, mzxid: int | None = None, data: bytes = b"", children: int = 0) -> Node:
    mzxid = czxid if mzxid is None else mzxid
    return Node(data, Stat(czxid, mzxid, czxid, mzxid, mzxid - czxid, 0, 0, 0, len(data), children, czxid))
