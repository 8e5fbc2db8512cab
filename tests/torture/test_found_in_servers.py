"""What the torture has found in the ensemble of dev servers, reduced."""

from __future__ import annotations

from devserver.cluster import Cluster, Peer
from everlatch.wire.codes import Op
from everlatch.wire.records import encode_sync_request


def test_a_sync_among_writes_that_are_committed_at_once_is_answered_in_its_turn():
    cluster = Cluster()
    leader = cluster.elect()
    followers = [member.number for member in cluster.followers()]
    peer = Peer(cluster, leader).greet()
    peer.create("/a")
    cluster.partition([leader.number], followers)
    writes = [peer.send_set("/a", b"1")]
    sync = peer.send(Op.SYNC, encode_sync_request("/"))
    writes += [peer.send_set("/a", b"2"), peer.send_set("/a", b"3")]
    # Followers that come anew get all of them, and acknowledge them, together.
    for number in followers:
        cluster.crash(number)
    cluster.heal()
    cluster.until(lambda: peer.answered(writes[-1]))
    assert [reply.xid for reply in peer.replies[-4:]] == [writes[0], sync, *writes[1:]]
    assert all(reply.body for reply in peer.replies[-4:] if reply.xid in writes)
