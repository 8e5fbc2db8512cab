"""The session keeps its lease: when it commits, what it makes of the answers, and when it stops."""

from __future__ import annotations

from typing import Any

import pytest

from everlatch.errors import SessionClosedRequireAuthError, SessionExpiredError, SessionMovedError
from everlatch.session.actions import LeaseGranted
from everlatch.session.session import Phase
from everlatch.types import State
from everlatch.wire.codes import XID_PING, Op
from everlatch.wire.multi import (
    CheckPart,
    CheckResult,
    ErrorResult,
    decode_multi_request,
    encode_multi_reply,
)
from session.driver import GET, Driver, Sent, connected

T = 6.0
STEP = T / 12
DECIDED = encode_multi_reply([CheckResult()])
RIGID: dict[str, Any] = {"lease_drift": 0.0, "lease_jitter": 0.25}


def leased(hosts: str = "10.0.0.1", **options: Any) -> Driver:
    """Connected at 100.0, with somebody who rests on the lease; its first commit is under way."""
    driver = connected(hosts, **(RIGID | options))
    hold(driver)
    return driver


def hold(driver: Driver) -> None:
    driver.session.hold_lease(driver.now)
    driver.pump()


def commits(driver: Driver) -> list[Sent]:
    return [request for request in driver.sent if request.op == Op.MULTI]


def decide(driver: Driver, body: bytes = DECIDED, err: int = 0) -> None:
    """Answers the oldest request in flight, a commit."""
    assert driver.unanswered[0].op == Op.MULTI
    driver.feed(driver.reply_to(driver.unanswered[0], err, body=body))


def serve(driver: Driver, seconds: float) -> None:
    """Lets time pass at a server that answers everything at once."""
    end = driver.now + seconds
    while driver.now < end:
        driver.run(min(STEP / 4, end - driver.now))
        while driver.unanswered:
            if driver.unanswered[0].op == Op.MULTI:
                decide(driver)
            else:
                driver.answer()


def commit_anew(driver: Driver) -> None:
    driver.session.release_lease()
    hold(driver)
    decide(driver)


def granted(driver: Driver) -> int:
    return sum(isinstance(action, LeaseGranted) for action in driver.actions)


def lease_end(driver: Driver) -> float:
    return driver.session.lease_end


# --- who rests on it ----------------------------------------------------------------------------------------------


def test_nobody_rests_on_it_and_nothing_is_committed() -> None:
    driver = connected()
    driver.wake()
    assert [request.xid for request in driver.sent] == [XID_PING]
    assert lease_end(driver) == 0.0


def test_a_commit_changes_nothing_and_goes_out_at_once() -> None:
    driver = leased()
    (commit,) = commits(driver)
    assert decode_multi_request(commit.body, 0, len(commit.body)) == [CheckPart("/", -1)]
    decide(driver)
    assert lease_end(driver) == 100.0 + T
    assert granted(driver) == 1


def test_it_commits_every_twelfth_of_the_timeout() -> None:
    driver = leased()
    driver.session.server_told(driver.session.conn, "leader")
    times = [driver.now]
    decide(driver)
    for _ in range(6):
        driver.wake()
        times.append(driver.now)
        assert len(commits(driver)) == len(times)
        decide(driver)
    assert times == pytest.approx([100.0 + number * STEP for number in range(7)])
    assert lease_end(driver) == pytest.approx(times[-2] + T), "what was answered before the last one was sent"
    assert granted(driver) == 1, "it runs, and did before"


def test_a_commit_is_due_whether_the_last_one_was_answered_or_not() -> None:
    driver = leased()
    driver.run(2.5 * STEP)
    assert len(commits(driver)) == 3
    assert driver.pings == 0


def test_one_commit_serves_several_holders_until_the_last_has_gone() -> None:
    driver = leased()
    hold(driver)
    assert len(commits(driver)) == 1
    serve(driver, STEP)
    driver.session.release_lease()
    serve(driver, STEP)
    assert len(commits(driver)) == 3
    driver.session.release_lease()
    end = lease_end(driver)
    serve(driver, 2 * T)
    assert len(commits(driver)) == 3
    assert driver.pings > 0
    assert lease_end(driver) == end, "what was proven stays proven"


def test_who_comes_when_nobody_did_has_it_committed_at_once() -> None:
    driver = leased()
    serve(driver, STEP / 2)
    driver.session.release_lease()
    hold(driver)
    assert len(commits(driver)) == 2


@pytest.mark.parametrize("phase", [Phase.DIALING, Phase.HANDSHAKE, Phase.AUTHENTICATING])
def test_held_before_a_server_serves_it_is_committed_then(phase: Phase) -> None:
    driver = Driver(**RIGID)
    driver.add_identity(b"me:secret")
    if phase is not Phase.DIALING:
        driver.made()
    if phase is Phase.AUTHENTICATING:
        driver.grant()
    assert driver.session.phase is phase
    hold(driver)
    assert commits(driver) == []
    if phase is Phase.DIALING:
        driver.made()
    if phase is not Phase.AUTHENTICATING:
        driver.grant()
    assert commits(driver) == []
    driver.answer()
    decide(driver)
    assert lease_end(driver) == 100.0 + T


# --- the lag ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "tick", "lag"),
    [
        ("leader", None, 0.0),
        ("standalone", None, 0.0),
        ("follower", None, T / 4 + 0.25),
        ("observer", None, T / 2 + 0.25),
        ("", None, T / 2 + 0.25),
        ("leader", 0.5, 0.0),
        ("follower", 0.5, 0.5),
        ("observer", 0.5, 0.75),
    ],
)
def test_how_long_a_touch_takes_depends_on_what_the_server_is(mode: str, tick: float | None, lag: float) -> None:
    driver = leased(tick=tick)
    assert driver.session.lease.lag == (tick or T / 2) + 0.25, "until it has told, the slowest is assumed"
    driver.session.server_told(driver.session.conn, mode)
    assert driver.session.lease.lag == lag
    decide(driver)
    driver.tick(0.4)
    driver.call(GET)
    driver.answer()
    answered = driver.now
    if lag:
        driver.now = answered + lag - 0.01
        commit_anew(driver)
        assert lease_end(driver) == 100.0 + T
    driver.now = answered + lag + 0.01
    commit_anew(driver)
    assert lease_end(driver) == pytest.approx(answered + T)


def test_what_another_server_told_does_not_count() -> None:
    driver = leased()
    old = driver.session.conn
    driver.lose()
    driver.connect()
    driver.session.server_told(old, "leader")
    assert driver.session.lease.lag == T / 2 + 0.25


def test_pings_and_requests_count_alike() -> None:
    for is_ping in (True, False):
        driver = leased(tick=0.1)
        driver.session.server_told(driver.session.conn, "follower")
        decide(driver)
        driver.session.release_lease()  # no commits that would keep it from pinging
        if is_ping:
            driver.wake()
        else:
            driver.now += T / 6
            driver.call(GET)
        sent_at = driver.now
        driver.answer()
        driver.now += 0.4
        hold(driver)
        decide(driver)
        assert lease_end(driver) == pytest.approx(sent_at + T)


def test_a_shorter_drift_or_strictness_is_passed_on() -> None:
    driver = leased(lease_drift=0.1, lease_strict=True)
    decide(driver)
    assert lease_end(driver) == pytest.approx(100.0 + 0.9 * T)


# --- refused ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [SessionExpiredError.code, SessionMovedError.code])
@pytest.mark.parametrize("inside", [True, False])
def test_a_commit_that_the_session_failed_proves_nothing(code: int, inside: bool) -> None:
    driver = leased()
    if inside:
        decide(driver, encode_multi_reply([ErrorResult(code)]))
    else:
        decide(driver, err=code)
    assert lease_end(driver) == 0.0
    assert granted(driver) == 0
    driver.wake()
    decide(driver)
    assert lease_end(driver) == 100.0 + T


def test_a_commit_whose_check_failed_was_decided() -> None:
    """ "/" may be hidden from us: the answer is an error, and went through the ensemble all the same."""
    driver = leased()
    decide(driver, encode_multi_reply([ErrorResult(-102)]))
    assert lease_end(driver) == 100.0 + T


def test_a_commit_that_can_not_be_read_ends_the_connection() -> None:
    driver = leased()
    decide(driver, b"\x00")
    assert driver.states[-1] is State.SUSPENDED
    assert lease_end(driver) == 0.0


def test_a_server_that_demands_authentication_is_left() -> None:
    driver = leased()
    driver.call(GET)
    decide(driver, err=SessionClosedRequireAuthError.code)
    assert driver.states[-1] is State.SUSPENDED
    assert isinstance(driver.changes[-1].reason, SessionClosedRequireAuthError)
    assert lease_end(driver) == 0.0


# --- blips, lapses, the end -----------------------------------------------------------------------------------------


def test_what_was_proven_outlasts_the_connection_and_the_next_one_proves_more() -> None:
    driver = leased("10.0.0.1,10.0.0.2")
    decide(driver)
    serve(driver, 1.0)
    end = lease_end(driver)
    driver.lose()
    assert driver.states[-1] is State.SUSPENDED
    assert lease_end(driver) == end
    before = len(commits(driver))
    driver.tick(0.2)
    driver.made()
    sent_at = driver.now
    driver.tick(0.1)
    driver.grant()
    assert len(commits(driver)) == before + 1, "at once"
    decide(driver)
    assert lease_end(driver) == pytest.approx(sent_at + T)
    assert driver.session.lease.lapses == 0
    assert granted(driver) == 1


def test_a_commit_that_was_under_way_when_the_connection_ended_is_not_sent_again() -> None:
    driver = leased("10.0.0.1,10.0.0.2")
    driver.lose()
    driver.connect()
    assert [request.op for request in driver.unanswered] == [Op.MULTI]
    decide(driver)
    assert lease_end(driver) == driver.now + T


def lapsed(mode: str = "") -> Driver:
    """Held, and cut off for longer than the lease ran; the session has lived on, and a commit is under way."""
    driver = leased("10.0.0.1,10.0.0.2")
    decide(driver)
    driver.lose()
    driver.run(T + 1.0)
    assert driver.states[-1] is State.LOST
    driver.connect()
    if mode:
        driver.session.server_told(driver.session.conn, mode)
    assert len(driver.unanswered) == 1
    return driver


def test_after_a_lapse_it_takes_two_commits_with_the_lag_between_them() -> None:
    driver = lapsed()
    begun = driver.now
    decide(driver)
    assert driver.session.lease.lapses == 1
    while not driver.session.lease.runs(driver.now):
        serve(driver, STEP)
    assert begun + T / 2 + 0.25 <= driver.now <= begun + T / 2 + 0.25 + 2 * STEP
    assert driver.session.lease.lapses == 1
    assert granted(driver) == 2


def test_where_there_is_no_lag_the_second_one_follows_at_once() -> None:
    driver = lapsed("standalone")
    before = len(commits(driver))
    decide(driver)
    assert len(commits(driver)) == before + 1
    assert lease_end(driver) < driver.now
    decide(driver)
    assert lease_end(driver) > driver.now
    assert driver.session.lease.lapses == 1
    assert granted(driver) == 2


@pytest.mark.parametrize("seconds", [T + 1.0, 10 * T])
def test_that_it_ended_while_nobody_rested_on_it_is_no_lapse(seconds: float) -> None:
    """Nobody believes in anything then that has to be looked at again."""
    driver = leased(tick=0.5)
    driver.session.server_told(driver.session.conn, "follower")
    decide(driver)
    driver.session.release_lease()
    serve(driver, seconds)
    assert lease_end(driver) < driver.now
    hold(driver)
    decide(driver)
    assert driver.now < lease_end(driver) <= driver.now + T - 0.5
    assert driver.session.lease.lapses == 0
    assert granted(driver) == 2


def test_one_that_runs_is_as_it_was_for_the_next_who_rests_on_it() -> None:
    driver = leased()
    decide(driver)
    end = lease_end(driver)
    driver.session.release_lease()
    hold(driver)
    assert lease_end(driver) == end


def test_the_end_of_the_session_ends_it_and_the_next_one_begins_anew() -> None:
    driver = leased()
    decide(driver)
    driver.lose()
    driver.made()
    assert lease_end(driver) == 100.0 + T
    driver.expire()
    assert lease_end(driver) == 0.0
    driver.made()
    driver.grant(0x777)
    assert driver.states[-2:] == [State.RENEWED, State.CONNECTED]
    assert lease_end(driver) == 0.0
    decide(driver)
    assert lease_end(driver) == driver.now + T
    assert granted(driver) == 2


def test_a_session_that_is_closed_has_none_though_it_still_lives() -> None:
    driver = leased()
    call = driver.call(GET)
    decide(driver)
    assert lease_end(driver) > driver.now
    driver.close()
    assert lease_end(driver) == 0.0
    before = len(commits(driver))
    driver.tick(STEP)
    driver.tick(STEP)
    assert len(commits(driver)) == before, "nobody rests on what is about to end"
    assert driver.unanswered[-1].op == Op.CLOSE_SESSION
    driver.answer(len(driver.unanswered))
    assert call.result is not None
    assert driver.is_closed
    assert lease_end(driver) == 0.0


def test_closing_while_credentials_are_answered_commits_nothing() -> None:
    driver = Driver(**RIGID)
    driver.add_identity(b"me:secret")
    hold(driver)
    driver.made()
    driver.grant()
    driver.close()
    driver.answer()
    assert commits(driver) == []


# --- deadlines ----------------------------------------------------------------------------------------------------


def test_the_timer_knows_of_the_next_commit() -> None:
    driver = leased()
    assert driver.session.next_deadline() == 100.0 + STEP
    decide(driver)
    driver.session.release_lease()
    assert driver.session.next_deadline() == 100.0 + T / 6
    hold(driver)
    driver.lose()
    assert driver.session.next_deadline() != 100.0 + STEP


def test_handled_late_it_commits_once() -> None:
    driver = leased()
    decide(driver)
    driver.tick(1.9)
    assert len(commits(driver)) == 2
    assert driver.session.next_deadline() == pytest.approx(driver.now + STEP)


def test_commits_go_before_calls_that_wait() -> None:
    driver = leased(max_in_flight=1)
    calls = [driver.call(GET, f"/{number}") for number in range(3)]
    assert [request.op for request in driver.sent] == [Op.MULTI]
    decide(driver)
    driver.run(STEP)
    assert [request.op for request in driver.sent] == [Op.MULTI, Op.GET_DATA, Op.MULTI]
    driver.answer()
    decide(driver)
    driver.answer(2)
    assert all(call.result is not None for call in calls)
