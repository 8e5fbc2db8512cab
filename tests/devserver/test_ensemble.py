"""Members of an ensemble: elections, what followers know, sessions that move, and what partitions and pauses do."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

from devserver.cluster import Cluster, Peer
from everlatch.types import OPEN_ACL_UNSAFE
from everlatch.wire.codes import XID_PING, Op
from everlatch.wire.framing import frame
from everlatch.wire.handshake import ConnectRequest, encode_connect_request
from everlatch.wire.headers import frame_request
from everlatch.wire.records import (
    encode_create_request,
    encode_exists_request,
    encode_set_data_request,
    encode_sync_request,
)

if TYPE_CHECKING:
    from everlatch.devserver.ensemble import Member


def node(member: Member, path: str) -> bytes | None:
    return member.tree.nodes[path].data if path in member.tree.nodes else None


@pytest.fixture
def cluster() -> Cluster:
    return Cluster()


def test_the_first_election(cluster: Cluster) -> None:
    leader = cluster.elect()
    assert leader.number == 3
    assert leader.tree.zxid == 1 << 32
    # As seen with 3.8.0: who had to agree shows what it had before, who came late what the leader shows.
    assert sorted(member.tree.zxid for member in cluster.followers()) == [0, 1 << 32]


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_a_write_is_everywhere_and_its_reply_shows_it(count: int) -> None:
    cluster = Cluster(count)
    cluster.elect()
    for number, member in cluster.members.items():
        peer = Peer(cluster, member).greet()
        assert peer.create(f"/n{number}").code == 0
        assert peer.call(Op.EXISTS, encode_exists_request(f"/n{number}", False)).code == 0
    cluster.run(0.1)
    for member in cluster.members.values():
        assert {f"/n{n}" for n in cluster.members} <= member.tree.nodes.keys()
    assert len({member.tree.zxid for member in cluster.members.values()}) == 1


def test_a_follower_is_read_while_it_is_behind(cluster: Cluster) -> None:
    leader = cluster.elect()
    late, prompt = cluster.followers()
    writer, reader = Peer(cluster, prompt).greet(), Peer(cluster, late).greet()
    writer.create("/a")
    late.lag = 0.5
    writer.set("/a", b"new")
    assert (node(leader, "/a"), node(prompt, "/a"), node(late, "/a")) == (b"new", b"new", b"")
    # A sync waits for what was decided before it.
    before = cluster.now
    assert reader.sync().code == 0
    assert node(late, "/a") == b"new"
    assert cluster.now - before > 0.4
    # Its own writes wait as well, and are seen behind their reply.
    before = cluster.now
    reader.set("/a", b"mine")
    assert node(late, "/a") == b"mine"
    assert cluster.now - before > 0.4


def test_reads_and_pings_wait_behind_a_write_that_is_not_committed(cluster: Cluster) -> None:
    cluster.elect()
    follower = cluster.followers()[0]
    peer = Peer(cluster, follower).greet()
    peer.create("/a")
    follower.lag = 0.5
    write = peer.send_set("/a", b"1")
    ping = peer.send(Op.PING)
    read = peer.send(Op.EXISTS, encode_exists_request("/a", False))
    assert ping
    cluster.run(0.3)
    assert peer.answered(write) is None
    assert peer.replies[-1].xid not in (XID_PING, read)
    cluster.run(0.3)
    peer.read()
    assert [reply.xid for reply in peer.replies[-3:]] == [write, XID_PING, read]


def test_a_leader_that_dies_is_replaced_and_nothing_is_lost(cluster: Cluster) -> None:
    leader = cluster.elect()
    peer = Peer(cluster, cluster.followers()[0]).greet()
    for number in range(20):
        peer.create(f"/n{number}")
    cluster.crash(leader.number)
    died = cluster.now
    assert peer.is_closed
    new = cluster.elect()
    assert 0.2 < cluster.now - died < 1.0
    assert new.tree.zxid == 2 << 32
    assert {f"/n{n}" for n in range(20)} <= new.tree.nodes.keys()


def test_an_election_takes_a_while_and_the_new_leader_knows_all(cluster: Cluster) -> None:
    leader = cluster.elect()
    peer = Peer(cluster, cluster.followers()[0]).greet()
    for number in range(20):
        peer.create(f"/n{number}")
    cluster.partition([1, 2], [3])
    assert leader.number == 3
    lost = cluster.now
    cluster.until(lambda: any(member.is_leading for member in cluster.members.values() if member is not leader))
    assert 4.9 < cluster.now - lost < 8.0
    new = next(member for member in cluster.leaders if member is not leader)
    assert new.tree.zxid >> 32 == 2
    assert {f"/n{n}" for n in range(20)} <= new.tree.nodes.keys()
    cluster.until(lambda: leader.mode is None)
    cluster.heal()
    cluster.until(lambda: leader.mode == "follower")
    assert leader.tree.zxid == new.tree.zxid


def test_a_deposed_leader_answers_syncs_and_reads_but_commits_nothing(cluster: Cluster) -> None:
    leader = cluster.elect()
    followers = [n for n in cluster.members if n != leader.number]
    stale = Peer(cluster, leader).greet()
    stale.create("/a")
    cluster.run(0.1)
    cluster.partition([leader.number], followers)
    for number in followers:  # they know at once, the leader doesn't
        cluster.members[number].peer_lost(leader.number, cluster.now)
    cluster.until(lambda: len(cluster.leaders) == 2)
    fresh = Peer(cluster, next(member for member in cluster.leaders if member is not leader)).greet()
    assert fresh.set("/a", b"new").code == 0
    assert stale.sync().code == 0
    assert node(leader, "/a") == b""
    write = stale.send_set("/a", b"lost")
    behind = stale.send(Op.SYNC, encode_sync_request("/"))
    cluster.run(1.0)
    assert leader.is_leading
    assert stale.answered(write) is None
    assert stale.answered(behind) is None
    cluster.until(lambda: stale.is_closed)
    cluster.heal()
    cluster.elect()
    cluster.run(1.0)
    assert {node(member, "/a") for member in cluster.members.values()} == {b"new"}


def test_a_follower_that_is_cut_off_answers_pings_and_reads_until_it_gives_up(cluster: Cluster) -> None:
    leader = cluster.elect()
    follower = cluster.followers()[0]
    peer = Peer(cluster, follower).greet()
    peer.create("/a")
    cluster.cut = {(leader.number, follower.number), (follower.number, leader.number)}
    cut = cluster.now
    cluster.run(3.0)
    peer.send(Op.PING)
    peer.read()
    assert peer.replies[-1].xid == XID_PING
    assert peer.call(Op.EXISTS, encode_exists_request("/a", False)).code == 0
    write = peer.send_set("/a", b"1")
    cluster.until(lambda: peer.is_closed)
    assert peer.answered(write) is None
    assert cluster.now - cut <= 5.0 + 1.0


def test_a_session_lives_by_what_the_followers_tell_when_they_are_pinged(cluster: Cluster) -> None:
    leader = cluster.elect()
    follower = cluster.followers()[0]
    peer = Peer(cluster, follower, timeout_ms=2_000).greet()
    peer.create("/e", flags=1)
    for _ in range(20):  # it pings, and lives for ten seconds
        peer.send(Op.PING)
        cluster.run(0.5)
    assert "/e" in leader.tree.nodes
    cluster.cut = {(follower.number, leader.number)}
    silent = cluster.now
    while "/e" in leader.tree.nodes:  # it pings, and is answered, but nobody tells the leader
        peer.send(Op.PING)
        assert not peer.is_closed
        cluster.run(0.25)
    assert 1.0 < cluster.now - silent <= 3.5


def test_after_an_election_sessions_have_their_whole_time_again(cluster: Cluster) -> None:
    leader = cluster.elect()
    peer = Peer(cluster, cluster.followers()[0], timeout_ms=4_000).greet()
    peer.create("/e", flags=1)
    cluster.run(3.0)
    cluster.crash(leader.number)
    new = cluster.elect()
    elected = cluster.now
    cluster.until(lambda: "/e" not in new.tree.nodes)
    assert cluster.now - elected > 3.5


def test_a_session_that_moves_can_not_write_where_it_was(cluster: Cluster) -> None:
    cluster.elect()
    here, there = cluster.followers()
    old = Peer(cluster, here).greet()
    old.create("/a")
    new = Peer(cluster, there).greet(old.response)
    assert new.response == old.response
    assert old.call(Op.EXISTS, encode_exists_request("/a", False)).code == 0
    write = old.send_set("/a", b"stale")
    cluster.until(lambda: old.is_closed)
    assert old.answered(write) is None
    new.set("/a", b"fresh")
    assert node(here, "/a") in (b"", b"fresh")
    # Who asks for the end of a session isn't asked whether he may.
    third = Peer(cluster, here).greet(old.response)
    assert third.call(Op.CLOSE_SESSION).code == 0
    cluster.run(0.1)
    assert new.is_closed


def test_a_wrong_password_and_an_unknown_session(cluster: Cluster) -> None:
    for member in (cluster.elect(), *cluster.followers()):
        peer = Peer(cluster, member).greet()
        assert peer.response is not None
        thief = Peer(cluster, member).greet(peer.response._replace(password=bytes(16)))
        unknown = Peer(cluster, member).greet(peer.response._replace(session_id=peer.response.session_id + 77))
        for refused in (thief, unknown):
            assert refused.response is not None
            assert refused.response.timeout_ms == 0
            assert refused.is_closed
        assert peer.is_closed


def test_a_frozen_server_takes_the_session_back_and_applies_what_was_behind_the_handshake(cluster: Cluster) -> None:
    cluster.elect()
    frozen, awake = cluster.followers()
    peer = Peer(cluster, awake).greet()
    peer.create("/a")
    assert peer.response is not None
    session = peer.response
    # The client tried the frozen server, with a write behind the handshake, and gave up: the kernel kept the bytes.
    request = ConnectRequest(0, 0, 4_000, session.session_id, session.password, False)
    kept = frame(encode_connect_request(request)) + frame_request(
        1, Op.SET_DATA, encode_set_data_request("/a", b"old", -1)
    )
    cluster.frozen.add(frozen.number)
    cluster.run(1.0)
    assert peer.set("/a", b"new").code == 0
    cluster.thaw(frozen.number)
    ghost = Peer(cluster, frozen)
    ghost.write(kept)
    cluster.until(ghost.read)
    cluster.run(0.1)
    assert node(awake, "/a") == b"old"
    write = peer.send_set("/a", b"refused")
    cluster.until(lambda: peer.is_closed)
    assert peer.answered(write) is None


@pytest.mark.parametrize("offered", [False, True], ids=["not offered", "offered"])
def test_a_session_offered_again_to_a_follower_brings_old_writes_back(cluster: Cluster, offered: bool) -> None:
    """As tests/torture/test_found_in_zookeeper.py shows it of real servers."""
    leader = cluster.elect()
    follower, other = cluster.followers()
    peer = Peer(cluster, follower, timeout_ms=20_000).greet()
    peer.create("/a")
    cluster.partition([follower.number], [leader.number, other.number])
    writes = [peer.send_set("/a", b"old") for _ in range(3)]
    elsewhere = Peer(cluster, other, timeout_ms=20_000).greet(peer.response)
    assert elsewhere.set("/a", b"new").code == 0
    if offered:
        Peer(cluster, follower, timeout_ms=20_000).ask_for(peer.response)
        cluster.run(0.1)  # the question is on its way as well when the link is back
    cluster.heal()
    # A write over the same follower comes behind all that it had held.
    Peer(cluster, follower).greet().create("/behind")
    assert not any(peer.answered(write) for write in writes)
    assert node(leader, "/a") == (b"old" if offered else b"new")
    assert leader.tree.nodes["/a"].stat.version == (4 if offered else 1)


def test_a_write_and_a_sync_over_a_follower_keep_their_order(cluster: Cluster) -> None:
    cluster.elect()
    follower = cluster.followers()[0]
    peer = Peer(cluster, follower).greet()
    peer.create("/a")
    write, sync = peer.send_set("/a", b"1"), peer.send(Op.SYNC, encode_sync_request("/"))
    cluster.until(lambda: peer.answered(sync))
    assert [reply.xid for reply in peer.replies[-2:]] == [write, sync]
    assert node(follower, "/a") == b"1"


def test_a_client_that_has_seen_a_new_leader_is_refused_by_its_followers_until_something_is_committed(
    cluster: Cluster,
) -> None:
    leader = cluster.elect()
    zxid = leader.tree.zxid
    behind = min(cluster.followers(), key=lambda member: member.tree.zxid)
    peer = Peer(cluster, behind)
    peer.ask_for(zxid=zxid)
    assert peer.is_closed
    Peer(cluster, leader).greet(zxid=zxid)
    cluster.run(0.1)
    assert Peer(cluster, behind).greet(zxid=zxid).response is not None


def test_a_member_that_was_away_for_long_gets_a_snapshot(cluster: Cluster) -> None:
    leader = cluster.elect()
    away = cluster.followers()[0]
    cluster.partition([away.number], [n for n in cluster.members if n != away.number])
    peer = Peer(cluster, leader, timeout_ms=20_000).greet()
    peer.create("/a")
    for number in range(1500):
        peer.set("/a", b"%d" % number)
    assert leader.log.difference(away.log.last) is None
    cluster.until(lambda: away.mode is None)
    cluster.heal()
    cluster.elect()
    assert node(away, "/a") == b"1499"
    assert away.tree.zxid == leader.tree.zxid


@pytest.mark.parametrize("version", ["3.5", "3.8", "3.9"])
def test_read_only_mode(version: str) -> None:
    cluster = Cluster(read_only_mode=True, version=version)
    leader = cluster.elect()
    peer = Peer(cluster, leader, timeout_ms=20_000).greet()
    peer.create("/a")
    cluster.run(0.1)
    cluster.partition([1], [2], [3])
    cluster.until(lambda: leader.mode == "read-only")
    for refused in (peer.response, None):
        other = Peer(cluster, leader)
        other.ask_for(refused, read_only=refused is not None)
        assert other.is_closed
    local = Peer(cluster, leader).greet(read_only=True)
    assert local.response is not None
    assert local.response.read_only is True
    assert local.call(Op.EXISTS, encode_exists_request("/a", False)).code == 0
    assert local.set("/a", b"1").code == -119
    assert local.sync().code == -119
    again = Peer(cluster, leader).greet(local.response, read_only=True)
    assert again.response is not None
    assert again.response.session_id == local.response.session_id
    assert local.is_closed
    cluster.run(3.0)
    assert not again.is_closed
    cluster.run(3.0)
    assert again.is_closed
    last = Peer(cluster, leader).greet(read_only=True)
    cluster.heal()
    cluster.elect()
    assert last.is_closed
    assert Peer(cluster, leader).greet(last.response).response.timeout_ms == 0  # type: ignore[union-attr]
    assert Peer(cluster, leader, timeout_ms=20_000).greet(peer.response).response == peer.response


# --- whatever happens ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(40))
def test_whatever_happens_committed_entries_are_the_same_everywhere(seed: int) -> None:
    rng = random.Random(seed)
    cluster = Cluster(rng.choice([3, 3, 5]), rng, tick=0.5)
    histories: dict[int, dict[int, object]] = {n: {} for n in cluster.members}
    truth: dict[int, object] = {}
    for number, member in cluster.members.items():
        watch_applied(member, histories[number])
    acknowledged: dict[str, int] = {}
    peers: list[tuple[Peer, int, str]] = []
    cluster.elect()
    names = iter(range(1_000_000))
    for _ in range(60):
        misfortune(cluster, rng)
        for member in cluster.members.values():
            if member.mode in ("leader", "follower") and rng.random() < 0.5:
                peer = Peer(cluster, member)
                peer.ask_for()
                path = f"/n{next(names)}"
                peer.response = None
                peers.append((peer, 0, path))
        cluster.run(rng.uniform(0.0, 1.5))
        peers = go_on(peers, acknowledged)
    cluster.frozen.clear()
    cluster.heal()
    for member in cluster.members.values():
        member.lag = 0.0
    cluster.run(3.0)
    leader = cluster.elect()
    Peer(cluster, leader).greet()
    cluster.until(lambda: len({member.tree.zxid for member in cluster.members.values()}) == 1)
    for history in histories.values():
        for zxid, entry in history.items():
            assert truth.setdefault(zxid, entry) == entry
    stats = [{path: each.stat for path, each in member.tree.nodes.items()} for member in cluster.members.values()]
    assert all(stat == stats[0] for stat in stats)
    for path, zxid in acknowledged.items():
        assert stats[0][path].czxid == zxid
    assert acknowledged


def watch_applied(member: Member, history: dict[int, object]) -> None:
    apply = member._apply

    def noting(entry: object, now: float) -> None:
        history[entry.zxid] = entry  # type: ignore[attr-defined]
        apply(entry, now)  # type: ignore[arg-type]

    member._apply = noting  # type: ignore[method-assign,assignment]


def misfortune(cluster: Cluster, rng: random.Random) -> None:
    numbers = sorted(cluster.members)
    match rng.randrange(7):
        case 0:
            cluster.crash(rng.choice(numbers))
        case 1:
            rng.shuffle(numbers)
            cut = rng.randrange(1, len(numbers))
            cluster.partition(numbers[:cut], numbers[cut:])
        case 2 | 3:
            cluster.heal()
        case 4:
            cluster.frozen.add(rng.choice(numbers))
            if len(cluster.frozen) == len(numbers):
                cluster.frozen.clear()
        case 5:
            for number in list(cluster.frozen):
                cluster.thaw(number)
        case 6:
            cluster.members[rng.choice(numbers)].lag = rng.choice([0.0, 0.0, 0.3, 2.0])


def go_on(peers: list[tuple[Peer, int, str]], acknowledged: dict[str, int]) -> list[tuple[Peer, int, str]]:
    left = []
    for peer, xid, path in peers:
        if not peer.read() and not peer.is_closed:
            left.append((peer, xid, path))
        elif not xid and not peer.is_closed:
            xid = peer.send(Op.CREATE, encode_create_request(path, b"", OPEN_ACL_UNSAFE, 0))
            left.append((peer, xid, path))
        elif xid and (reply := peer.answered(xid)) is not None:
            assert reply.code == 0
            acknowledged[path] = reply.zxid
            peer.hang_up()
        elif not peer.is_closed:
            left.append((peer, xid, path))
    return left
