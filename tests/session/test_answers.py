"""What becomes of a request that was answered, without a session around it; with one: `test_session_replies`."""

from __future__ import annotations

import pytest

from everlatch.errors import NodeExistsError, NoNodeError, TruncatedError
from everlatch.operations import _EXISTS, _GET
from everlatch.session.answers import Answers
from everlatch.session.own import Own
from everlatch.session.requests import Operation, Request, Requests, no_result
from everlatch.session.watching import Watching
from everlatch.types import EventType
from everlatch.wire.codes import Op

CREATE = Operation("create", Op.CREATE2, no_result, is_write=True)
DELETE = Operation("delete", Op.DELETE, no_result, is_write=True)
NO_NODE, NODE_EXISTS = -101, -110


class Told:
    """A caller, and what he was told."""

    def __init__(self) -> None:
        self.result: object = None
        self.is_done = False

    def done(self) -> bool:
        return self.is_done

    def set_result(self, result: object) -> None:
        self.result, self.is_done = result, True

    set_exception = set_result


class Around:
    """What a session has around its answers."""

    def __init__(self) -> None:
        self.requests = Requests(max_in_flight=10, max_queued_calls=10, max_queued_bytes=10_000)
        self.asked: list[Request] = []
        self.fired: list[tuple[EventType, str]] = []
        self.watching = Watching(
            lambda callbacks, event, path, zxid: self.fired.extend([(event, path)] * len(callbacks)),
            self.asked.append,
            lambda path: False,
        )
        self.answers = Answers(self.requests, self.watching, "/root{}".format, self.asked.append, lambda: 7)


@pytest.fixture
def around() -> Around:
    return Around()


def test_a_write_is_noted_with_its_zxid_and_its_caller_is_told(around: Around) -> None:
    told = Told()
    request = Request(told, DELETE, "/a", b"body")
    around.answers.well(request, told, b"", 0, 0, 12)
    assert told.done()
    assert around.requests.written == 12
    assert (request.call, request.body) == (None, b"")


def test_a_reply_that_can_not_be_read_leaves_it_unanswered(around: Around) -> None:
    told = Told()
    request = Request(told, _GET, "/a", b"body")
    with pytest.raises(TruncatedError):
        around.answers.well(request, told, b"\0", 0, 1, 12)
    assert list(around.requests.in_flight) == [request]
    assert not told.done()


def test_a_watch_is_there_from_the_reply_on(around: Around) -> None:
    told = Told()
    request = Request(told, _EXISTS, "/a", b"", lambda event: None)
    around.answers.otherwise(request, NO_NODE, 12)
    assert told.done()
    assert told.result is None
    around.watching.event(EventType.CREATED, "/root/a", 13)
    assert around.fired == [(EventType.CREATED, "/root/a")]


def test_a_refusal_is_told(around: Around) -> None:
    told = Told()
    around.answers.otherwise(Request(told, DELETE, "/a", b""), NO_NODE, 12)
    assert isinstance(told.result, NoNodeError)


def test_a_write_that_was_sent_again_is_looked_into(around: Around) -> None:
    told = Told()
    request = Request(told, CREATE, "/a", b"")
    request.repeated = True
    around.answers.otherwise(request, NODE_EXISTS, 12)
    assert not told.done()
    assert isinstance(request.refusal, NodeExistsError)
    assert around.requests.unsettled == [request]
    assert all(isinstance(asked.call, Own) for asked in around.asked)
    assert around.asked


def test_what_an_idempotent_delete_wants_is_there_already(around: Around) -> None:
    told = Told()
    around.answers.otherwise(Request(told, DELETE._replace(is_idempotent=True), "/a", b""), NO_NODE, 12)
    assert told.done()
    assert told.result is None
