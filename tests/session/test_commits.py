"""When a commit of the session's own is due, and what its answer says."""

from __future__ import annotations

import math

import pytest

from everlatch.errors import ProtocolError, SessionExpiredError, SessionMovedError
from everlatch.session.commits import Commits, was_decided
from everlatch.wire.multi import CheckResult, ErrorResult, encode_multi_reply


def decided(*results: object, err: int = 0) -> bool:
    body = encode_multi_reply(results)  # type: ignore[arg-type]
    return was_decided(err, body, 0, len(body))


def test_a_check_that_passed_or_failed_was_decided() -> None:
    assert decided(CheckResult())
    assert decided(ErrorResult(-101))


@pytest.mark.parametrize("code", [SessionExpiredError.code, SessionMovedError.code])
def test_one_that_failed_with_the_session_was_not(code: int) -> None:
    assert not decided(ErrorResult(code))
    assert not was_decided(code, b"", 0, 0)


def test_an_answer_that_is_none_is_the_servers_fault() -> None:
    with pytest.raises(ProtocolError):
        was_decided(0, b"\0", 0, 1)


def test_nothing_is_due_unless_somebody_wants_it() -> None:
    commits = Commits(None)
    commits.connected(100.0)
    commits.sent(100.0, 6.0)
    assert commits.due_at == math.inf


def test_every_twelfth_while_somebody_rests_on_the_lease() -> None:
    commits = Commits(None)
    assert commits.hold()
    assert not commits.hold()
    commits.sent(100.0, 6.0)
    assert commits.due_at == 100.5
    commits.release()
    assert commits.due_at == 100.5
    commits.release()
    assert commits.due_at == math.inf
    assert commits.holders == 0


def test_the_link_is_checked_when_nothing_was_committed_for_its_interval() -> None:
    commits = Commits(30.0)
    commits.connected(100.0)
    assert commits.due_at == 130.0
    commits.sent(120.0, 6.0)
    assert commits.due_at == 150.0


def test_without_a_link_nothing_is_due() -> None:
    commits = Commits(30.0)
    commits.hold()
    commits.sent(100.0, 6.0)
    commits.stop()
    assert commits.due_at == math.inf
