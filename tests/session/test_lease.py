"""The lease: by its rules, and against an ensemble whose followers are frozen and cut off at random moments."""

from __future__ import annotations

import random

import pytest

from devserver.cluster import Cluster, Peer
from everlatch.session.lease import Lease
from everlatch.wire.codes import XID_PING, Op
from everlatch.wire.multi import CheckPart, encode_multi_request
from session.driver import connected

T = 10.0
LAG = 1.0


def leased(**options: object) -> Lease:
    """On a connection whose handshake was sent at 0."""
    lease = Lease(**({"drift": 0.0} | options))  # type: ignore[arg-type]
    lease.new_session(T)
    lease.connected(0.0, T, LAG)
    return lease


def commit(lease: Lease, sent_at: float, now: float) -> bool:
    lease.commit_sent(sent_at)
    lease.committed(now)
    return lease.runs(now)


def test_nothing_is_proven_before_a_commit() -> None:
    lease = leased()
    lease.answered(1.0, 1.1)
    assert not lease.runs(1.1)
    assert lease.end == 0.0


def test_the_first_commit_proves_the_handshake_and_no_more() -> None:
    lease = leased()
    lease.answered(1.0, 1.1)
    assert commit(lease, 2.0, 2.05)
    assert lease.end == 0.0 + T


def test_a_request_counts_when_its_answer_is_older_than_the_lag() -> None:
    lease = leased()
    lease.answered(1.0, 1.1)
    assert commit(lease, 2.1, 2.2)
    assert lease.end == 1.0 + T
    lease.answered(2.1, 2.2)
    lease.answered(3.0, 3.1)
    assert commit(lease, 3.5, 3.6)
    assert lease.end == 2.1 + T


def test_the_drift_is_taken_off() -> None:
    lease = leased(drift=0.02)
    commit(lease, 1.0, 1.1)
    assert lease.end == pytest.approx(T * 0.98)


def test_the_strict_lease_counts_from_the_second_newest() -> None:
    lease = leased(strict=True)
    lease.answered(1.0, 1.1)
    lease.answered(2.0, 2.1)
    commit(lease, 4.0, 4.1)
    assert lease.end == 1.0 + T


def test_the_shorter_timeout_counts() -> None:
    lease = leased()
    lease.connected(1.0, 6.0, LAG)
    commit(lease, 1.1, 1.2)
    assert lease.end == 7.0
    lease.connected(2.0, 30.0, LAG)
    commit(lease, 2.1, 2.2)
    assert lease.end == 8.0, "what the server before has yet to tell of touches counts from later, but with less"
    lease.new_session(30.0)
    lease.connected(3.0, 30.0, LAG)
    commit(lease, 3.1, 3.2)
    assert lease.end == 33.0


def test_a_server_that_grants_less_makes_it_shorter_from_its_handshake_on() -> None:
    """The leader counts anew with what that one granted, though it had granted more before."""
    lease = leased()
    lease.connected(1.0, T, LAG)
    commit(lease, 1.1, 1.2)
    assert lease.end == 1.0 + T
    lease.connected(2.0, 4.0, LAG)
    assert lease.end == 6.0


def test_a_commit_never_makes_it_shorter() -> None:
    lease = leased()
    lease.commit_sent(0.1)
    lease.answered(3.0, 3.1)
    lease.commit_sent(5.0)
    lease.committed(5.1)
    lease.committed(5.2)
    assert lease.end == 3.0 + T
    lease.commit_sent(5.3)
    lease.disconnected()
    lease.connected(5.5, T, LAG)
    commit(lease, 5.6, 5.7)
    assert lease.end == 5.5 + T


def test_a_lapse_takes_two_commits_also_without_a_lag() -> None:
    lease = leased()
    lease.lag = 0.0
    commit(lease, 1.0, 1.1)
    lease.answered(10.5, 10.6)
    assert not commit(lease, 10.7, 10.8)
    assert lease.lapses == 1
    assert commit(lease, 10.8, 10.9)


def test_one_that_has_lapsed_takes_two_commits_with_the_lag_between_them() -> None:
    lease = leased()
    commit(lease, 1.0, 1.1)
    assert not lease.runs(10.0)
    lease.answered(9.0, 9.1)
    assert not commit(lease, 9.9, 10.0)
    assert lease.lapses == 1
    assert not commit(lease, 10.8, 10.85)
    assert commit(lease, 10.9, 10.95)
    assert lease.lapses == 1
    assert lease.end == 9.0 + T


def test_one_that_ended_while_nobody_rested_on_it_is_proven_as_for_the_first_time() -> None:
    lease = leased()
    commit(lease, 1.0, 1.1)
    lease.answered(12.0, 12.1)
    lease.begin(14.0)
    assert lease.end == 0.0
    assert commit(lease, 14.0, 14.1)
    assert (lease.lapses, lease.end) == (0, 12.0 + T)


def test_one_that_runs_still_is_kept_by_who_rests_on_it_next() -> None:
    lease = leased()
    commit(lease, 1.0, 1.1)
    lease.begin(9.9)
    assert lease.end == T
    assert not commit(lease, 10.0, 10.1)
    assert lease.lapses == 1


def test_who_comes_to_rest_on_it_begins_anew_though_others_had_begun_to_prove_it_again() -> None:
    lease = leased()
    commit(lease, 1.0, 1.1)
    lease.answered(9.0, 9.1)
    assert not commit(lease, 10.5, 10.6)
    lease.begin(10.7)
    assert commit(lease, 10.7, 10.8)
    assert lease.lapses == 1


def test_what_was_answered_on_another_connection_does_not_count() -> None:
    lease = leased()
    lease.answered(1.0, 1.1)
    lease.connected(5.0, T, LAG)
    assert commit(lease, 5.1, 5.2)
    assert lease.end == 5.0 + T
    lease.disconnected()
    assert lease.runs(6.0)


def test_what_is_answered_without_a_connection_of_the_session_does_not_count() -> None:
    lease = leased()
    commit(lease, 1.0, 1.1)
    lease.disconnected()
    for second in range(2, 6):
        lease.answered(second, second + 0.1)
    assert lease.end == 0.0 + T
    lease.connected(6.0, T, LAG)
    commit(lease, 6.1, 6.2)
    assert lease.end == 6.0 + T


def test_what_is_answered_while_a_commit_is_under_way_does_not_count_for_it() -> None:
    lease = leased()
    lease.answered(1.0, 1.1)
    lease.commit_sent(2.0)
    lease.answered(4.0, 4.1)
    lease.commit_sent(5.5)
    lease.committed(6.0)
    assert lease.end == 0.0 + T
    lease.committed(6.1)
    assert lease.end == 4.0 + T


def test_the_end_of_a_session_ends_it() -> None:
    lease = leased()
    commit(lease, 1.0, 1.1)
    lease.session_over()
    assert not lease.runs(1.2)
    lease.new_session(T)
    lease.connected(2.0, T, LAG)
    assert not lease.runs(2.1)
    assert commit(lease, 2.2, 2.3)
    assert lease.lapses == 0


def test_many_answers_take_little_memory_and_shorten_it_by_little() -> None:
    lease = leased()
    for number in range(100_000):
        now = number / 10_000
        lease.answered(now - 0.001, now)
        if not number % 10_000:
            commit(lease, now, now + 0.001)
    assert len(lease._answers) < 40
    commit(lease, 10.0, 10.001)
    assert lease.end > 9.0 + T - 2 * LAG / 32


def test_two_that_rest_on_it_cost_no_more_than_one() -> None:
    driver = connected()
    for _ in range(2):
        driver.session.hold_lease(driver.now)
    driver.pump()
    assert driver.ops() == [Op.MULTI]
    driver.session.release_lease()
    driver.tick(0.5)
    assert driver.ops() == [Op.MULTI, Op.MULTI]
    driver.session.release_lease()
    driver.tick(0.5)
    assert driver.ops() == [Op.MULTI, Op.MULTI]


# --- against an ensemble ------------------------------------------------------------------------------------------

TICK = 0.5
TIMEOUT = 2.0
JITTER = 0.05


class Client:
    """Asks and pings over one follower, and keeps both the lease and one that a naive client would believe in."""

    def __init__(self, cluster: Cluster, follower: Peer, rng: random.Random, sent_at: float) -> None:
        self.cluster, self.peer, self.rng = cluster, follower, rng
        self.lease = Lease(drift=0.0)
        self.lease.new_session(TIMEOUT)
        self.lease.connected(sent_at, TIMEOUT, TICK / 2 + JITTER)
        self.naive = 0.0
        """Send time of the last answer + T."""
        self._next = cluster.now
        self._sent: dict[int, tuple[float, bool]] = {}
        self._pings: list[float] = []
        self._seen = len(follower.replies)

    def act(self) -> None:
        now = self.cluster.now
        if now >= self._next and not self.peer.is_closed:
            self._next = now + self.rng.uniform(0.02, TIMEOUT / 12)
            if self.rng.random() < 0.5:
                self.peer.send(Op.PING)
                self._pings.append(now)
            else:
                body = encode_multi_request([CheckPart("/", -1)])
                self.lease.commit_sent(now)
                self._sent[self.peer.send(Op.MULTI, body)] = (now, True)
        self.peer.read()
        for reply in self.peer.replies[self._seen :]:
            sent_at, is_commit = (self._pings.pop(0), False) if reply.xid == XID_PING else self._sent.pop(reply.xid)
            self.naive = sent_at + TIMEOUT
            self.lease.answered(sent_at, now)
            if is_commit:
                assert reply.code == 0
                self.lease.committed(now)
        self._seen = len(self.peer.replies)


def how_long_each_outlived_the_session(seed: int) -> tuple[float, float]:
    """Seconds that the lease, and the naive one, ran on after the session had ended somewhere; below 0: none."""
    rng = random.Random(seed)
    cluster = Cluster(3, tick=TICK, sync_limit=3)
    leader = cluster.elect()
    follower = rng.choice(cluster.followers())
    cluster.run(rng.uniform(0.0, TICK))
    sent_at = cluster.now
    peer = Peer(cluster, follower, timeout_ms=round(TIMEOUT * 1000)).greet()
    assert peer.create("/e", flags=1).code == 0
    client = Client(cluster, peer, rng, sent_at)
    advance(cluster, client, rng.uniform(0.0, 2 * TIMEOUT))
    misfortune(cluster, rng, leader.number, follower.number)
    ended: list[float] = []
    ends_by = cluster.now + 4 * TIMEOUT
    while cluster.now < ends_by and not ended:
        advance(cluster, client, 0.02)
        if any("/e" not in member.tree.nodes for member in cluster.members.values() if member.is_leading):
            ended.append(cluster.now)
    end = ended[0] if ended else float("inf")
    return client.lease.end - end, client.naive - end


def advance(cluster: Cluster, client: Client, seconds: float) -> None:
    until = cluster.now + seconds
    while cluster.now < until:
        if client.peer.member.number not in cluster.frozen:
            client.act()
        cluster.run(0.01)


def misfortune(cluster: Cluster, rng: random.Random, leader: int, follower: int) -> None:
    others = [number for number in cluster.members if number != follower]
    match rng.randrange(5):
        case 0:
            cluster.frozen.add(follower)
        case 1:
            cluster.partition([follower], others)
        case 2:
            cluster.cut = {(follower, leader)}
        case 3:
            cluster.crash(leader)
        case 4:
            cluster.partition([leader], [number for number in cluster.members if number != leader])


def test_the_lease_never_outlives_the_session_and_a_naive_one_does() -> None:
    results = [how_long_each_outlived_the_session(seed) for seed in range(150)]
    assert max(lease for lease, _ in results) <= 0.0
    assert max(naive for _, naive in results) > 0.2
    assert sum(naive > 0.0 for _, naive in results) > 10
