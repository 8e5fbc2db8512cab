"""Writes whose replies were lost with a connection: what they end with, as the next connection shows."""

import pytest
from tests.session.driver import Driver, path_in

from everlatch.errors import BadVersionError, ResultLostError
from everlatch.session.requests import Operation
from everlatch.types import OPEN_ACL_UNSAFE, Created, Stat
from everlatch.wire.codes import CreateMode, Op
from everlatch.wire.multi import CreatePart, encode_multi_request
from everlatch.wire.records import (
    decode_create2_reply,
    decode_exists_reply,
    encode_create2_reply,
    encode_create_request,
    encode_exists_reply,
    encode_set_data_request,
)


def _created(buf, pos, end):
    return Created(*decode_create2_reply(buf, pos, end))


CREATE = Operation("create", Op.CREATE2, _created, is_write=True)
SET = Operation("set", Op.SET_DATA, decode_exists_reply, is_write=True)
NO_NODE = -101
EPHEMERAL = encode_create_request("/n/a", b"", OPEN_ACL_UNSAFE, CreateMode.EPHEMERAL)


def stat(czxid, mzxid=None, *, owner=0, pzxid=None):
    return Stat(czxid, mzxid or czxid, 0, 0, 0, 0, 0, owner, 0, 0, pzxid or czxid)


def settle(driver, seen):
    """The next connection, on which the looks see these."""
    driver.lose()
    driver.connect()
    while driver.unanswered and driver.session._is_preparing:
        request = driver.unanswered[0]
        path = next((path for path in seen if request.op == Op.EXISTS and path == path_in(request.body)), None)
        if path is None or seen[path] is not None:
            body = None if path is None else encode_exists_reply(seen[path])
            driver.feed(driver.reply_to(request, body=body))
        else:
            driver.feed(driver.reply_to(request, NO_NODE))


@pytest.fixture
def driver():
    driver = Driver()
    driver.connect()
    return driver


def test_what_an_answered_write_has_made_is_not_taken_for_the_work_of_the_next_one(driver):
    driver.call(CREATE, "/n/a", EPHEMERAL)
    second = driver.call(CREATE, "/n/a", EPHEMERAL)
    made = stat(driver.zxid + 1, owner=driver.session_id)
    driver.feed(driver.reply_to(driver.unanswered[0], body=encode_create2_reply("/n/a", made)))
    settle(driver, {"/n/a": made, "/n": stat(1, pzxid=made.czxid)})
    assert second.ends == 0
    assert [request.op for request in driver.unanswered] == [Op.CREATE2]


def test_what_an_answered_write_has_set_proves_that_the_next_one_was_not_applied(driver):
    body = encode_set_data_request("/n/a", b"", -1)
    driver.call(SET, "/n/a", body)
    second = driver.call(SET, "/n/a", body)
    changed = stat(1, driver.zxid + 1)
    driver.feed(driver.reply_to(driver.unanswered[0], body=encode_exists_reply(changed)))
    settle(driver, {"/n/a": changed})
    assert second.ends == 0
    assert [request.op for request in driver.unanswered] == [Op.SET_DATA]


# -- refused, and the connection is lost while it is found out what that means

IDEMPOTENT = CREATE._replace(is_idempotent=True)
NODE_EXISTS = -110


def find_an_existing_node(driver):
    """An idempotent create was refused, a later write was acknowledged, and the node has not been looked at yet."""
    first = driver.call(IDEMPOTENT, "/n/a", encode_create_request("/n/a", b"", OPEN_ACL_UNSAFE, CreateMode.PERSISTENT))
    later = driver.call(SET, "/n/b", encode_set_data_request("/n/b", b"", -1))
    create, change = driver.unanswered
    driver.feed(driver.reply_to(create, NODE_EXISTS), driver.reply_to(change, body=encode_exists_reply(stat(1, 2))))
    assert (first.ends, later.ends) == (0, 1)
    return first


def test_an_idempotent_create_that_was_refused_is_not_sent_again_behind_later_writes(driver):
    first = find_an_existing_node(driver)
    settle(driver, {"/n/a": None, "/n": stat(1, pzxid=driver.zxid)})
    assert isinstance(first.error, ResultLostError)
    assert "the node exists" in str(first.error)
    assert not driver.unanswered


def test_an_idempotent_create_that_was_refused_returns_what_it_has_found(driver):
    first = find_an_existing_node(driver)
    there = stat(7)
    settle(driver, {"/n/a": there, "/n": stat(1, pzxid=driver.zxid)})
    assert first.result.stat == there
    assert not driver.unanswered


def test_a_repetition_that_was_refused_is_not_sent_again_behind_later_writes(driver):
    driver.call()
    driver.answer()
    body = encode_set_data_request("/n/a", b"", 3)
    first = driver.call(SET, "/n/a", body)
    unchanged = stat(1)
    settle(driver, {"/n/a": unchanged})
    later = driver.call(SET, "/n/b", encode_set_data_request("/n/b", b"", -1))
    again, change = driver.unanswered
    driver.feed(driver.reply_to(again, -103), driver.reply_to(change, body=encode_exists_reply(unchanged)))
    assert (first.ends, later.ends) == (0, 1)
    settle(driver, {"/n/a": unchanged})
    assert isinstance(first.error, BadVersionError)
    assert not driver.unanswered


# -- names


def test_of_a_transaction_no_name_is_certain_when_its_ephemeral_node_alone_is_recognised(driver):
    told = []
    operation = Operation("transaction", Op.MULTI, lambda *_: None, is_write=True, restore=told.extend)
    modes = [CreateMode.PERSISTENT_SEQUENTIAL, CreateMode.EPHEMERAL_SEQUENTIAL]
    parts = [CreatePart(Op.CREATE, "/q/n-", b"", tuple(OPEN_ACL_UNSAFE), mode) for mode in modes]
    call = driver.call(operation, "/q/n-", encode_multi_request(parts))
    zxid = driver.zxid + 1
    settle(
        driver,
        {
            "/q": stat(1, pzxid=zxid)._replace(cversion=2, num_children=2),
            "/q/n-0000000000": stat(zxid),
            "/q/n-0000000001": stat(zxid, owner=driver.session_id),
        },
    )
    assert (call.ends, call.error) == (1, None)
    assert told == [None, None]
