"""What calls and attempts end with when no server's answer ends them."""

from __future__ import annotations

import pytest

from everlatch.errors import (
    AuthFailedError,
    ClientClosedError,
    ConnectFailedError,
    ConnectionClosedByServerError,
    GaveUpError,
    HandshakeRefusedError,
    HandshakeTimeoutError,
    NoNodeError,
    NotReadOnlyError,
)
from everlatch.session.endings import auth_refused, client_closed, gave_up, handshake_refused, read_only, settle
from session.driver import GET, Call, Request


@pytest.mark.parametrize(
    ("ending", "error"),
    [
        (client_closed, ClientClosedError),
        (gave_up, GaveUpError),
        (read_only, NotReadOnlyError),
        (auth_refused, AuthFailedError),
    ],
)
def test_an_error_names_the_call_and_its_path(ending: object, error: type[Exception]) -> None:
    made = ending(Request(None, GET, "/node", b""))  # type: ignore[operator]
    assert type(made) is error
    assert "get" in str(made)
    assert "/node" in str(made)


def test_a_call_ends_with_what_is_returned_or_raised() -> None:
    well, badly = Call(), Call()
    settle(Request(well, GET, "/node", b""), lambda request: request.path)
    assert well.result == "/node"

    def refuse(request: Request) -> None:
        raise NoNodeError("get", request.path)

    settle(Request(badly, GET, "/node", b""), refuse)
    assert isinstance(badly.error, NoNodeError)


@pytest.mark.parametrize("reason", [ConnectFailedError("refused"), HandshakeTimeoutError("late")])
def test_a_failure_to_connect_stays_what_it_is(reason: Exception) -> None:
    assert handshake_refused(reason) is reason


def test_a_connection_that_ends_in_the_handshake_was_refused() -> None:
    reason = ConnectionClosedByServerError("gone")
    refused = handshake_refused(reason)
    assert isinstance(refused, HandshakeRefusedError)
    assert refused.__cause__ is reason
