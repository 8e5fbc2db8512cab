"""The transaction logs of real servers, against what clients were told."""

from __future__ import annotations

import struct
import zlib

import pytest
from torture.history import CREATE, DELETE, SET, Change
from torture.txnlog import Logs, entries

from everlatch import Client, TransactionFailedError
from everlatch.testing import Ensemble
from real_servers import VERSIONS

HEADER = b"ZKLG" + bytes(12)


def entry(zxid, kind, body, session_id=7):
    data = struct.pack(">qiqqi", session_id, 1, zxid, 0, kind) + body
    return struct.pack(">qi", zlib.adler32(data), len(data)) + data + b"B"


def text(value):
    return struct.pack(">i", len(value)) + value


def deletion(zxid):
    return entry(zxid, 2, text(b"/a%d" % zxid))


@pytest.mark.real
@pytest.mark.parametrize("version", VERSIONS)
async def test_everything_that_a_client_does_is_there(version):
    async with Ensemble(1, version=version, config={"extendedTypesEnabled": "true"}) as ensemble:
        async with Client(ensemble.connect_string) as client:
            owner = client.session_id
            await client.create("/a", b"1")
            await client.create("/a/e", b"2", ephemeral=True)
            await client.create("/a/c", container=True)
            await client.create("/a/t", b"3", ttl=1000.0)
            stat = await client.set("/a", b"4")
            async with client.transaction() as t:
                t.check("/a", version=1)
                t.create("/a/m", b"5")
                t.set("/a", b"6")
                t.delete("/a/c")
            refused = client.transaction()
            refused.delete("/a/m")
            refused.set("/a", b"7", version=1)
            with pytest.raises(TransactionFailedError):
                await refused.commit()
            await client.delete("/a/m")
        found = Logs.read([(server.data_dir, server.log_path) for server in ensemble.servers]).committed
    assert [applied.changes for applied in found if applied.changes] == [
        (Change(CREATE, "/a", b"1"),),
        (Change(CREATE, "/a/e", b"2", owner),),
        (Change(CREATE, "/a/c", b""),),
        (Change(CREATE, "/a/t", b"3"),),
        (Change(SET, "/a", b"4"),),
        (Change(CREATE, "/a/m", b"5"), Change(SET, "/a", b"6"), Change(DELETE, "/a/c")),
        (Change(DELETE, "/a/m"),),
        (Change(DELETE, "/a/e"),),
    ]
    assert next(applied.zxid for applied in found if applied.changes == (Change(SET, "/a", b"4"),)) == stat.mzxid
    assert [applied.ends_session for applied in found if applied.changes][-2:] == [False, True]


def test_a_file_that_ends_within_an_entry():
    whole = HEADER + deletion(1) + deletion(2)
    for size in range(len(HEADER) + len(deletion(1)), len(whole)):
        assert [applied.zxid for applied in entries(whole[:size])] == [1]
    assert [applied.zxid for applied in entries(whole + bytes(1000))] == [1, 2]


def test_an_entry_that_was_damaged_is_the_end():
    data = bytearray(HEADER + deletion(1) + deletion(2))
    data[-3] ^= 1
    assert [applied.zxid for applied in entries(bytes(data))] == [1]


def part(kind, record):
    return struct.pack(">ii", kind, len(record)) + record


REFUSED = part(-1, struct.pack(">i", -103))
DELETED = text(b"/a")


@pytest.mark.parametrize(
    "parts",
    [
        pytest.param([REFUSED], id="one"),
        pytest.param([part(2, DELETED), REFUSED], id="behind one that could have been done"),
        pytest.param([part(-1, DELETED), REFUSED], id="as it is handed on by a leader that has applied it"),
        pytest.param([REFUSED, part(-1, struct.pack(">i", -2))], id="with one behind it"),
    ],
)
def test_a_refused_multi_changes_nothing(parts):
    body = struct.pack(">i", len(parts)) + b"".join(parts)
    assert [applied.changes for applied in entries(HEADER + entry(1, 14, body))] == [()]


def test_a_multi_changes_all_that_is_in_it():
    parts = [part(2, DELETED), part(13, text(b"/b") + struct.pack(">i", 0)), part(2, text(b"/c"))]
    body = struct.pack(">i", len(parts)) + b"".join(parts)
    found = [applied.changes for applied in entries(HEADER + entry(1, 14, body))]
    assert found == [(Change(DELETE, "/a"), Change(DELETE, "/c"))]


def test_an_empty_file_has_no_entries():
    assert list(entries(b"")) == []


def test_what_is_no_log_says_so():
    with pytest.raises(ValueError, match="not a transaction log"):
        list(entries(b"something else"))


LEADING = """
09:00 INFO FileTxnSnapLog - Snapshotting: 0x{base:x} to /data/version-2/snapshot.{base:x}
09:00 INFO Leader - Have quorum of supporters, sids: [[1, 2]]; starting up and setting last processed zxid: 0x{first:x}
"""


def servers(tmp_path, *logged, logs=("", "", "")):
    places = []
    for number, (zxids, log) in enumerate(zip(logged, logs, strict=True)):
        directory = tmp_path / f"{number}" / "version-2"
        directory.mkdir(parents=True)
        (directory / "log.1").write_bytes(HEADER + b"".join(map(deletion, zxids)))
        (tmp_path / f"{number}.log").write_text(log)
        places.append((tmp_path / f"{number}", tmp_path / f"{number}.log"))
    return Logs.read(places)


def test_what_one_server_alone_has_was_never_committed(tmp_path):
    found = servers(tmp_path, (1, 2, 9), (1, 3), (2, 3))
    assert [applied.zxid for applied in found.committed] == [1, 2, 3]
    assert list(found.others) == [9]


def test_what_the_next_leader_did_not_have_is_lost(tmp_path):
    logs = (LEADING.format(base=0, first=1 << 32), LEADING.format(base=(1 << 32) + 2, first=2 << 32), "")
    zxids = [(1 << 32) + 1, (1 << 32) + 2, (1 << 32) + 3, (2 << 32) + 1]
    found = servers(tmp_path, zxids, zxids, zxids[2:], logs=logs)
    assert [applied.zxid for applied in found.committed] == [zxids[0], zxids[1], zxids[3]]
    assert list(found.others) == [zxids[2]]
