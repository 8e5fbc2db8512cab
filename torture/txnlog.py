"""The transaction logs of real servers: all that an ensemble has committed.

A file begins with its header (magic `ZKLG`, version, a number); then come entries: a checksum (Adler-32), a length, as
many bytes, and the byte 0x42; zeros fill the rest. The bytes are a header (session, cxid, zxid, time, type), the
transaction's record (`org.apache.zookeeper.txn`), and, since 3.6, a digest, which nobody needs here.

Rules of this file: a leader of a new epoch begins with some zxid, which is what all have agreed on; whatever older
epochs logged beyond it was not committed, or should have been and is lost. Its log says with which. A file may end
within an entry, where its server was killed, and entries that were never committed may stay in it for ever.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections import Counter
from typing import TYPE_CHECKING, Final, NamedTuple

from everlatch.wire.jute import decode_bool, decode_buffer, decode_int, decode_string, decode_vector
from torture.history import CREATE, DELETE, SET, Applied, Change

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from pathlib import Path

__all__ = ["Logs", "entries"]

_MAGIC: Final = b"ZKLG"
_FILE_HEADER: Final = 16
_ENTRY_HEADER: Final = struct.Struct(">qi")
_TXN_HEADER: Final = struct.Struct(">qiqqi")
_END: Final = b"B"

_CREATES: Final = frozenset({1, 15, 19, 21})
_DELETES: Final = frozenset({2, 20})
_SETS: Final = frozenset({5, 16})
_MULTI, _CLOSE_SESSION, _ERROR = 14, -11, -1


class Logs(NamedTuple):
    """What an ensemble has logged."""

    committed: list[Applied]
    """In order, and valid to this day."""
    others: dict[int, Applied]
    """By zxid: what is in some file, and isn't valid."""

    @classmethod
    def read(cls, servers: Collection[tuple[Path, Path]]) -> Logs:
        """From the data directory and the log of each server."""
        known: dict[int, Applied] = {}
        counts: Counter[int] = Counter()
        beginnings: dict[int, int] = {}
        for directory, log in servers:
            files = [path.read_bytes() for path in sorted(directory.rglob("log.*"))]
            seen = {applied.zxid: applied for data in files for applied in entries(data)}
            known |= seen
            counts.update(seen.keys())
            beginnings |= _beginnings(log.read_text("utf-8", "replace"))
        valid = {
            zxid
            for zxid in known
            if 2 * counts[zxid] > len(servers)
            and all(zxid <= base for epoch, base in beginnings.items() if epoch > zxid >> 32)
        }
        return cls([known[zxid] for zxid in sorted(valid)], {zxid: known[zxid] for zxid in known.keys() - valid})


_BEGINNING: Final = re.compile(
    r"Snapshotting: 0x(?P<base>[0-9a-f]+) |Have quorum of supporters.*zxid: 0x(?P<first>[0-9a-f]+)"
)


def _beginnings(log: str) -> dict[int, int]:
    """The zxids with which the epochs began that a server led, by epoch. It takes a snapshot just before."""
    found: dict[int, int] = {}
    base = 0
    for match in _BEGINNING.finditer(log):
        if match["base"]:
            base = int(match["base"], 16)
        else:
            found[int(match["first"], 16) >> 32] = base
    return found


def entries(data: bytes) -> Iterator[Applied]:
    """The transactions of one file. Raises `ValueError` for what is no such file."""
    if not data:
        return
    if data[: len(_MAGIC)] != _MAGIC:
        raise ValueError(f"not a transaction log: it begins with {data[:8]!r}")
    pos = _FILE_HEADER
    while pos + _ENTRY_HEADER.size <= len(data):
        checksum, length = _ENTRY_HEADER.unpack_from(data, pos)
        pos += _ENTRY_HEADER.size
        entry = data[pos : pos + length]
        if length <= 0 or data[pos + length : pos + length + 1] != _END or zlib.adler32(entry) != checksum:
            return
        pos += length + 1
        yield _applied(entry)


def _applied(entry: bytes) -> Applied:
    session_id, _, zxid, _, kind = _TXN_HEADER.unpack_from(entry)
    body = entry[_TXN_HEADER.size :]
    if kind == _CLOSE_SESSION:
        return Applied(zxid, tuple(_ephemerals(body)), ends_session=True)
    return Applied(zxid, tuple(_changes(kind, body, session_id)))


def _ephemerals(body: bytes) -> Iterator[Change]:
    """The nodes that go with a session."""
    paths, _ = decode_vector(body, 0, len(body), decode_string, smallest=4)
    return (Change(DELETE, path or "") for path in paths or ())


def _changes(kind: int, body: bytes, session_id: int) -> Iterator[Change]:
    end = len(body)
    if kind == _MULTI:
        parts = list(_parts(body, end))
        if all(part != _ERROR for part, _ in parts):
            for part, data in parts:
                yield from _changes(part, data, session_id)
    elif kind in _CREATES:
        path, pos = decode_string(body, 0, end)
        data, pos = decode_buffer(body, pos, end)
        is_ephemeral = kind in (1, 15) and decode_bool(body, _behind_acl(body, pos, end), end)[0]
        yield Change(CREATE, path or "", data or b"", session_id if is_ephemeral else 0)
    elif kind in _DELETES:
        yield Change(DELETE, decode_string(body, 0, end)[0] or "")
    elif kind in _SETS:
        path, pos = decode_string(body, 0, end)
        yield Change(SET, path or "", decode_buffer(body, pos, end)[0] or b"")


def _parts(body: bytes, end: int) -> Iterator[tuple[int, bytes]]:
    """Of a multi: the kind of each, and its record. A refused one is logged as well. What stands in front of the part
    that was refused has the kind that it was sent with, as if it had been done (or that of an error, if the entry was
    handed on by a server that had applied it already)."""
    count, pos = decode_int(body, 0, end)
    for _ in range(count):
        part, pos = decode_int(body, pos, end)
        data, pos = decode_buffer(body, pos, end)
        yield part, data or b""


def _behind_acl(body: bytes, pos: int, end: int) -> int:
    count, pos = decode_int(body, pos, end)
    for _ in range(count):
        _, pos = decode_int(body, pos, end)
        _, pos = decode_string(body, pos, end)
        _, pos = decode_string(body, pos, end)
    return pos
