"""The four-letter words: their form, and the fields that clients read."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from everlatch import admin
from everlatch.errors import hex_id
from everlatch.types import OPEN_ACL_UNSAFE
from wire_peer import Peer

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from conformance.conftest import Subject

    Peers = Callable[[], Awaitable[Peer]]

DATE = r"\w{3} \w{3} \d\d \d\d:\d\d:\d\d \w+ \d{4}"
FORMS = {
    "ruok": "imok",
    "isro": "rw",
    "srvr": r"Zookeeper version: 3\.[89]\.\d\S*[^\n]*\nLatency min/avg/max: \d+/[\d.]+/\d+\nReceived: \d+\nSent: \d+\n"
    r"Connections: \d+\nOutstanding: \d+\nZxid: 0x[0-9a-f]+\nMode: standalone\nNode count: \d+\n",
    "stat": r"Zookeeper version: [^\n]+\nClients:\n( /127\.0\.0\.1:\d+\[[01]\]\(queued=\d+,recved=\d+,sent=\d+\)\n)+\n"
    r"Latency (.|\n)*Node count: \d+\n",
    "mntr": r"(zk_\S+\t[^\n]*\n)+",
    "wchs": r"\d+ connections watching \d+ paths\nTotal watches:\d+\n?",
    "cons": r"( /127\.0\.0\.1:\d+\[[01]\]\(queued=\d+,recved=\d+,sent=\d+(,sid=0x[0-9a-f]+,lop=\w+,est=\d+,to=\d+,"
    r"lcxid=0x[0-9a-f]+,lzxid=0x[0-9a-f]+,lresp=\d+,llat=\d+,minlat=\d+,avglat=\d+,maxlat=\d+)?\)\n)+\n*",
    "dump": rf"SessionTracker dump:\nSession Sets \(\d+\)/\(\d+\):\n(\d+ expire at {DATE}:\n(\t0x[0-9a-f]+\n)*)+"
    r"ephemeral nodes dump:\nSessions with Ephemerals \(\d+\):\n(0x[0-9a-f]+:\n(\t/\S+\n)+)*"
    rf"Connections dump:\nConnections Sets \(\d+\)/\(\d+\):\n"
    rf"(\d+ expire at {DATE}:\n(\tip: /127\.0\.0\.1:\d+ sessionId: 0x[0-9a-f]+\n)*)+\n?",
}


@pytest.mark.parametrize("word", FORMS)
async def test_the_form_of_an_answer(server: Subject, peer: Peer, root: str, word: str) -> None:
    await peer.do("create", f"{root}/e", b"", OPEN_ACL_UNSAFE, 1)
    await peer.do("get_data", root, True)
    answer = await admin.four_letter(server.address, word)
    assert re.fullmatch(FORMS[word], answer), answer


async def test_what_is_said_of_the_server(server: Subject, peer: Peer, root: str) -> None:
    zxid = (await peer.do("exists", root, False)).zxid
    status = await admin.srvr(server.address)
    assert ".".join(map(str, status.version.numbers)) == server.features.release
    assert (status.mode, status.zxid) == ("standalone", zxid)
    number = (await peer.do("get_all_children_number", "/")).said["number"]
    # The root is counted twice.
    assert status.node_count == number + 2
    assert status.connections >= 2
    metrics = await admin.mntr(server.address)
    assert metrics["zk_server_state"] == "standalone"
    assert metrics["zk_znode_count"] == number + 2
    assert str(metrics["zk_version"]).startswith(server.features.release)


async def alone(server: Subject, *sessions: Peer) -> None:
    """Waits until the server has no other connections any more."""
    ours = sorted(each.session_id for each in sessions)
    while sorted(each.session_id for each in await admin.cons(server.address) if each.session_id) != ours:
        pass


async def test_what_is_counted(server: Subject, peers: Peers, peer: Peer, other: Peer, root: str) -> None:
    await alone(server, peer, other)
    before = await admin.mntr(server.address)
    totals = await admin.wchs(server.address)
    await peer.do("create", f"{root}/e", b"12345", OPEN_ACL_UNSAFE, 1)
    await peer.do("get_data", root, True)
    await peer.ask("exists", f"{root}/none", True)
    await peer.do("get_children", root, True)
    await peers()
    after = await admin.mntr(server.address)

    def more(name: str) -> float:
        return float(after[name]) - float(before[name])  # type: ignore[arg-type]

    assert more("zk_znode_count") == 1
    assert more("zk_ephemerals_count") == 1
    assert more("zk_approximate_data_size") == len(f"{root}/e") + 5
    assert more("zk_watch_count") == 3
    assert more("zk_global_sessions") >= 1
    # Here only those of nodes, not of lists of children.
    watches = await admin.wchs(server.address)
    assert (watches.paths - totals.paths, watches.watches - totals.watches) == (2, 2)


async def test_what_is_said_of_a_session(server: Subject, peer: Peer, root: str) -> None:
    for _ in range(20):
        await peer.do("get_data", root, False)
    xid = peer.put("create", f"{root}/e", b"", OPEN_ACL_UNSAFE, 1)
    answer = await peer.take("create", xid)
    told = await said_of(server, peer)
    assert told.address.startswith("127.0.0.1:")
    assert (told.last_operation, told.last_cxid, told.last_zxid) == ("CREA", xid, answer.zxid)
    assert told.timeout == peer.timeout_ms
    assert told.received == 22
    dump = await admin.dump(server.address)
    assert peer.session_id in dump.sessions
    assert dump.ephemerals[peer.session_id] == [f"{root}/e"]
    text = await admin.four_letter(server.address, "dump")
    assert f"\tip: /{told.address} sessionId: {hex_id(peer.session_id)}\n" in text


async def said_of(server: Subject, peer: Peer) -> admin.ConnectionInfo:
    (told,) = (each for each in await admin.cons(server.address) if each.session_id == peer.session_id)
    return told


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (("exists", "/", False), "EXIS"),
        (("get_data", "/none", False), "GETD"),
        (("get_children", "/", False), "GETC"),
        (("get_acl", "/"), "GETA"),
        (("set_data", "{}", b"", -1), "SETD"),
        (("set_data", "/none", b"", -1), "NA"),
        (("delete", "{}", -1), "DELE"),
        (("set_acl", "{}", OPEN_ACL_UNSAFE, -1), "SETA"),
        (("multi",), "MULT"),
        (("sync", "/"), "SYNC"),
    ],
)
async def test_the_last_operation(server: Subject, peer: Peer, root: str, call: tuple[str, ...], name: str) -> None:
    assert (await said_of(server, peer)).last_operation == "SESS"
    await peer.ask(*(each.format(root) if isinstance(each, str) else each for each in call))
    assert (await said_of(server, peer)).last_operation == name
    # A ping is one, but its number isn't told.
    before = await said_of(server, peer)
    await peer.events()
    after = await said_of(server, peer)
    assert (after.last_operation, after.last_cxid) == ("PING", before.last_cxid)


async def test_a_word_ends_its_connection_and_only_the_first_bytes_are_one(server: Subject, peer: Peer) -> None:
    async with Peer.to(server.address) as asker:
        asker.write(b"ruok and more")
        assert await asker._reader.read() == b"imok"
    # In a session these bytes are the length of a frame.
    peer.write(b"ruok")
    assert await peer.hung_up()


async def test_a_word_may_come_in_pieces(server: Subject) -> None:
    async with Peer.to(server.address) as asker:
        await asker.trickle(b"ruok")
        assert await asker._reader.read() == b"imok"


async def test_what_is_no_word_is_no_frame_either(server: Subject) -> None:
    async with Peer.to(server.address) as asker:
        asker.write(b"abcd")
        assert await asker.hung_up()
