"""Receipts: making the nodes for them, what writes look like with them, and what becomes of both."""

import pytest

from everlatch.errors import (
    BadVersionError,
    InvalidACLError,
    NoAuthError,
    NodeExistsError,
    NoNodeError,
    OutcomeUnknownError,
    ProtocolError,
    ReceiptsError,
    ServerError,
    SessionExpiredError,
    TransactionFailedError,
    WriteNotAppliedError,
    WriteTimeoutError,
)
from everlatch.session.actions import Prepared
from everlatch.types import OPEN_ACL_UNSAFE, Outcome, State
from everlatch.wire.codes import CreateMode, Op
from everlatch.wire.multi import (
    CheckPart,
    CreatePart,
    CreateResult,
    DeletePart,
    DeleteResult,
    ErrorResult,
    SetDataPart,
    SetDataResult,
    encode_multi_reply,
)
from everlatch.wire.records import encode_create_reply
from session.driver import path_in
from session.modelled import (
    BOTH,
    CREATE,
    CREATE_CONTAINER,
    CREATE_TTL,
    DELETE,
    EPHEMERAL,
    PLACE,
    SEQUENTIAL,
    SET,
    World,
    created,
    parts_of,
    written,
)

FIRST = f"{PLACE}/0000000000001234-00"


def world(*paths, receipts=1, **options):
    return World("/a", PLACE, *paths, receipts=receipts, **options)


def slots(world):
    return [f"{PLACE}/{name}" for name in world.names(PLACE)]


def free(world):
    return [(slot.path, slot.version) for slot in world.driver.session._receipts.free]


def prepared(world):
    return sum(isinstance(action, Prepared) for action in world.driver.actions)


# -- making


def test_slots_are_made_before_anything_else_is_sent():
    servers = world(receipts=3, connected=False)
    write = servers.set("/a", b"1")
    servers.back()
    (making,) = servers.unanswered
    assert parts_of(making) == [
        *(
            CreatePart(Op.CREATE, f"{PLACE}/0000000000001234-0{n}", b"", tuple(OPEN_ACL_UNSAFE), CreateMode.EPHEMERAL)
            for n in range(3)
        ),
        CheckPart(FIRST, 0),
    ]
    servers.answer(1)
    assert prepared(servers) == 0
    servers.answer(1)
    assert (prepared(servers), servers.driver.session.receipts_error) == (1, None)
    assert parts_of(servers.unanswered[0])[0].path == FIRST
    servers.answer()
    assert write.result == servers.stat("/a")
    assert [servers.stat(slot).ephemeral_owner for slot in slots(servers)] == [0x1234] * 3


def test_a_place_that_is_missing_is_made_with_all_above_it():
    servers = World(receipts=2, receipts_place="/very/deep/place")
    assert servers.names("/very/deep/place") == ["0000000000001234-00", "0000000000001234-01"]
    assert servers.ops[:5] == [Op.MULTI, Op.CREATE, Op.CREATE, Op.CREATE, Op.MULTI]
    assert servers.stat("/very/deep").ephemeral_owner == 0


def test_a_place_that_can_not_be_made_is_not_tried_for_ever():
    servers = World(receipts=1, connected=False)
    servers.back()
    servers.answer(1)
    servers.refuse(-102)
    assert servers.ops == [Op.MULTI, Op.CREATE, Op.MULTI]
    servers.answer()
    error = servers.driver.session.receipts_error
    assert isinstance(error, ReceiptsError)
    assert isinstance(error.error, NoAuthError), "why the place could not be made, not that there is none"
    assert error.place == PLACE


def test_of_all_that_can_not_be_made_the_first_is_told():
    servers = World(receipts=1, connected=False, receipts_place="/above/place")
    servers.back()
    servers.answer(1)
    servers.refuse(-102)
    servers.answer()
    error = servers.driver.session.receipts_error
    assert isinstance(error, ReceiptsError)
    assert isinstance(error.error, NoAuthError), "not that what belongs below it has no parent"


def test_what_is_above_it_may_be_there_and_not_be_ours_to_make():
    servers = World("/above", receipts=1, connected=False, receipts_place="/above/place")
    servers.back()
    servers.answer(1)
    servers.refuse(-102)
    servers.answer(1)
    servers.refuse(-114)
    error = servers.driver.session.receipts_error
    assert isinstance(error, ReceiptsError)
    assert isinstance(error.error, InvalidACLError), "why they can't be made, where they belong"


@pytest.mark.parametrize("header", [True, False])
def test_without_permission_writes_are_refused_until_another_connection(header):
    servers = world(connected=False)
    write, read = servers.set("/a"), servers.get("/a")
    servers.back()
    if header:
        servers.refuse(-102)
    else:
        servers.say(encode_multi_reply([ErrorResult(-102)]))
    assert isinstance(write.error, ReceiptsError)
    assert isinstance(write.error.error, NoAuthError)
    assert (write.error.operation, write.error.path, write.error.outcome) == ("set", "/a", Outcome.NOT_APPLIED)
    assert prepared(servers) == 1
    servers.answer()
    assert read.ends == 1
    assert isinstance(servers.set("/a").error, ReceiptsError)
    acl = servers.set_acl("/a")
    servers.answer()
    assert acl.result.aversion == 1, "what has no receipt needs none"
    servers.settle()
    assert servers.driver.session.receipts_error is None
    again = servers.set("/a", b"2")
    servers.answer()
    assert again.result.data_length == 1


def test_slots_that_may_not_be_written_are_none():
    """The client's ACL, which they get, may not let it."""
    servers = world(receipts=2, connected=False)
    write = servers.set("/a")
    servers.back()
    servers.answer(1)
    servers.refuse(-102)
    assert isinstance(write.error, ReceiptsError)
    assert str(write.error.error) == "set '/place': not permitted by the ACL (-102)"
    assert (prepared(servers), free(servers)) == (1, [])
    servers.settle()
    assert servers.driver.session.receipts_error is None
    assert len(free(servers)) == 2


def test_slots_that_may_not_be_read_are_none():
    servers = world(receipts=2, connected=False)
    servers.back()
    servers.say(encode_multi_reply([ErrorResult(0), ErrorResult(0), ErrorResult(-102)]))
    error = servers.driver.session.receipts_error
    assert isinstance(error, ReceiptsError)
    assert str(error.error) == "check '/place': not permitted by the ACL (-102)"


def test_slots_are_tried_without_being_changed():
    servers = world(receipts=2)
    assert servers.ops == [Op.MULTI, Op.SET_DATA, Op.GET_DATA]
    assert [servers.stat(slot).version for slot in slots(servers)] == [0, 0]


def test_slots_of_a_lost_answer_are_found_by_their_owner():
    servers = world(receipts=2, connected=False)
    servers.back()
    servers.lose(applied=1)
    servers.back()
    servers.answer()
    assert servers.ops == [Op.MULTI, Op.EXISTS, Op.EXISTS, Op.SET_DATA]
    assert sorted(free(servers)) == [(slot, 0) for slot in slots(servers)]


def test_slots_of_somebody_else_are_not_ours():
    servers = world(receipts=2, connected=False)
    servers.other(CREATE, FIRST)
    write = servers.set("/a")
    servers.back()
    servers.answer()
    assert isinstance(write.error, ReceiptsError)
    assert isinstance(write.error.error, NodeExistsError)
    assert servers.stat("/a").version == 0


def test_with_some_slots_writes_go():
    """One of two was made by a request whose answer was lost; the other name is taken by somebody else."""
    servers = world(receipts=2, connected=False)
    servers.back()
    servers.lose(applied=1)
    servers.other(DELETE, slots(servers)[1])
    servers.other(CREATE, f"{PLACE}/0000000000001234-01")
    servers.back()
    write = servers.set("/a")
    servers.answer()
    assert free(servers) == [(FIRST, 1), (f"{PLACE}/0000000000001234-02", 0)], "another name was found for the other"
    assert write.result.version == 1


def test_slots_that_are_there_are_not_made_again():
    servers = world()
    servers.settle()
    assert servers.ops == []
    assert prepared(servers) == 2


def test_another_session_has_slots_of_its_own():
    servers = world(receipts=2)
    servers.lose()
    write = servers.set("/a", b"1")
    servers.renew()
    servers.answer()
    assert [slot[-19:] for slot in slots(servers)] == ["0000000000005678-00", "0000000000005678-01"]
    assert write.result.version == 1
    assert {slot.path for slot in servers.driver.session._receipts.free} == set(slots(servers))


def test_an_id_that_is_negative():
    servers = World(PLACE, receipts=1, connected=False)
    servers.driver.session_id = -2
    servers.back()
    servers.answer()
    assert servers.names(PLACE) == ["fffffffffffffffe-00"]


def test_making_ends_with_its_connection():
    servers = world(connected=False)
    servers.back()
    servers.lose()
    servers.back()
    assert servers.ops == [Op.MULTI]
    servers.answer()
    assert free(servers) == [(FIRST, 0)]


# -- with a write


def test_a_write_and_its_receipt_are_one_transaction():
    servers = world()
    write = servers.set("/a", b"1")
    receipt, part = parts_of(servers.unanswered[0])
    assert (receipt.path, receipt.version, len(receipt.data)) == (FIRST, 0, 8)
    assert part == SetDataPart("/a", b"1", -1)
    servers.answer()
    assert write.result == servers.stat("/a")
    assert free(servers) == [(FIRST, 1)]


def test_no_token_is_used_twice():
    servers = world(receipts=4)
    for _ in range(3):
        servers.set("/a")
    tokens = {parts_of(request)[0].data for request in servers.unanswered}
    servers.answer()
    servers.set("/a")
    tokens.add(parts_of(servers.unanswered[0])[0].data)
    assert len(tokens) == 4


@pytest.mark.parametrize("version", ["3.9", "3.8"])
@pytest.mark.parametrize(
    ("flags", "operation", "more"),
    [
        (0, CREATE, {}),
        (EPHEMERAL, CREATE, {}),
        (SEQUENTIAL, CREATE, {}),
        (BOTH, CREATE, {}),
        (CreateMode.CONTAINER, CREATE_CONTAINER, {}),
        (CreateMode.PERSISTENT_WITH_TTL, CREATE_TTL, {"ttl_ms": 5000}),
    ],
)
def test_every_creation_returns_what_was_created(version, flags, operation, more):
    """Also by servers that tell no Stat in a transaction."""
    servers = world(version=version)
    write = servers.call(operation, "/n-", b"data", flags, **more)
    servers.answer()
    path = next(f"/{name}" for name in servers.names() if name.startswith("n-"))
    assert write.result == (path, servers.stat(path))


def test_a_deletion_returns_nothing():
    servers = world()
    write = servers.delete("/a")
    servers.answer()
    assert write.result is None
    assert "/a" not in servers.tree.nodes


def test_a_transaction_keeps_its_parts():
    servers = world()
    parts = [written("/a", b"1"), CheckPart("/a", 1), created("/b"), DeletePart("/a", 1)]
    write = servers.multi(*parts)
    assert parts_of(servers.unanswered[0])[1:] == parts
    servers.answer()
    assert [type(result) for result in write.result][::3] == [SetDataResult, DeleteResult]
    assert "/b" in servers.tree.nodes


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda servers: servers.create("/a"), NodeExistsError),
        (lambda servers: servers.set("/none"), NoNodeError),
        (lambda servers: servers.set("/a", b"", 5), BadVersionError),
        (lambda servers: servers.delete("/none"), NoNodeError),
    ],
)
def test_a_refused_write_ends_with_its_own_error(make, error):
    servers = world()
    write = make(servers)
    servers.answer()
    assert type(write.error) is error
    assert free(servers) == [(FIRST, 0)], "nothing was applied"


def test_a_refused_transaction_tells_its_own_part():
    servers = world()
    write = servers.multi(CheckPart("/a", 0), DeletePart("/none", -1), written("/a"))
    servers.answer()
    assert isinstance(write.error, TransactionFailedError)
    assert (write.error.index, type(write.error.error)) == (1, NoNodeError)
    assert free(servers) == [(FIRST, 0)]


def test_an_error_in_the_header_frees_the_slot():
    servers = world()
    write = servers.set("/a")
    servers.refuse(-125)
    assert isinstance(write.error, ServerError)
    assert free(servers) == [(FIRST, 0)]


def test_who_demands_authentication_is_left():
    servers = world()
    write = servers.multi(written("/a"))
    servers.refuse(-124)
    assert isinstance(write.error, ServerError)
    assert servers.driver.states[-1] is State.SUSPENDED


def test_calls_behind_a_write_without_a_slot_wait():
    servers = world(receipts=2)
    writes = [servers.set("/a", bytes([n])) for n in range(3)]
    read = servers.get("/a")
    assert servers.driver.ops(-2) == [Op.MULTI, Op.MULTI]
    assert servers.driver.session.requests.queued_calls == 2
    servers.answer(1)
    assert servers.driver.ops(-2) == [Op.MULTI, Op.GET_DATA]
    servers.answer()
    assert [write.result.version for write in writes] == [1, 2, 3]
    assert read.result.data == bytes([2])


def test_a_write_never_goes_past_the_queue():
    servers = world()
    assert servers.driver.submit(SET, "/a", b"", at_once=True)[1].xid != 0
    servers = world()
    request = servers.set("/a").request
    assert servers.driver.session.requests.in_flight[0] is request
    assert request.receipt is not None


def test_a_caller_who_cancels_leaves_the_slot():
    servers = world(receipts=2)
    sent = servers.set("/a", b"1")
    servers.cancel(sent)
    servers.answer()
    assert servers.stat("/a").version == 1
    assert sorted(free(servers)) == [(FIRST, 1), (FIRST[:-1] + "1", 0)]


def test_a_call_that_times_out_leaves_the_slot():
    servers = world()
    write = servers.set("/a", timeout=1.0)
    servers.driver.tick(1.0)
    assert isinstance(write.error, WriteTimeoutError)
    servers.answer()
    assert free(servers) == [(FIRST, 1)]


# -- replies that can't be read


def stat_result(servers):
    return SetDataResult(servers.stat(FIRST))


@pytest.mark.parametrize(
    "body",
    [
        lambda servers: b"",
        lambda servers: encode_multi_reply([]),
        lambda servers: encode_multi_reply([CreateResult("/b", None)]),
        lambda servers: encode_multi_reply([stat_result(servers)])[:30],
        lambda servers: encode_multi_reply([stat_result(servers)])[:-9],
        lambda servers: encode_multi_reply([stat_result(servers)]),
        lambda servers: encode_multi_reply([stat_result(servers), DeleteResult()]),
        lambda servers: encode_multi_reply([stat_result(servers), CreateResult("/b", servers.stat("/a"))]),
        lambda servers: encode_create_reply("/b"),
    ],
)
def test_a_reply_that_can_not_be_read_is_none(body):
    servers = world()
    write = servers.set("/a", b"1")
    servers.say(body(servers))
    assert servers.driver.states[-1] is State.SUSPENDED
    assert isinstance(servers.driver.changes[-1].reason, ProtocolError)
    assert write.is_open
    servers.back()
    servers.answer()
    assert write.result.version == servers.stat("/a").version == 1, "it is settled like others"
    assert free(servers) == [(FIRST, 1)]


def test_a_deletion_that_is_answered_like_a_creation():
    servers = world()
    write = servers.delete("/a")
    servers.say(encode_multi_reply([stat_result(servers), CreateResult("/a", None)]))
    assert isinstance(servers.driver.changes[-1].reason, ProtocolError)
    servers.back()
    servers.answer()
    assert write.result is None


# -- lost replies


def test_a_write_that_was_applied_has_its_result():
    servers = world(receipts=3)
    made, changed = servers.create("/b", b"xy", EPHEMERAL), servers.set("/a", b"1")
    gone = servers.delete("/b")
    servers.lose(applied=3)
    servers.other(SET, "/a", b"later")
    servers.back()
    servers.answer()
    zxid = servers.applied[-3].zxid
    assert made.result.stat.czxid == zxid
    assert made.result.stat.ephemeral_owner == 0x1234
    assert (changed.result.mzxid, changed.result.data_length) == (zxid + 1, 1)
    assert gone.result is None
    assert sorted(version for _, version in free(servers)) == [1, 1, 1]
    statistics = servers.driver.session.statistics()
    assert (statistics.outcomes_settled, statistics.outcomes_unknown, statistics.writes_resent) == (3, 0, 0)


def test_a_write_that_was_not_applied_goes_again_with_the_same_receipt():
    servers = world(receipts=2)
    writes = [servers.set("/a", b"1"), servers.set("/a", b"2")]
    before = [request.body for request in servers.unanswered]
    servers.lose(applied=1)
    servers.back()
    servers.answer(4)
    assert [request.body for request in servers.unanswered] == before[1:]
    servers.answer()
    assert [write.result.version for write in writes] == [1, 2]
    assert len(servers.applied) - 1 == 2, "beside the slots"


@pytest.mark.parametrize("flags", [SEQUENTIAL, BOTH])
@pytest.mark.parametrize("version", ["3.9", "3.8"])
def test_the_names_of_sequential_nodes_are_found(flags, version):
    servers = world(receipts=3, version=version)
    for _ in range(3):
        servers.other(CREATE, "/a/s-", b"", SEQUENTIAL)
    writes = [
        servers.create("/a/s-", b"", flags),
        servers.multi(created("/a/s-", b"", flags), created("/a/t-", b"", 2)),
    ]
    servers.lose(applied=2)
    servers.other(CREATE, "/a/s-", b"", SEQUENTIAL)
    servers.back()
    servers.answer()
    assert writes[0].result.path == "/a/s-0000000003"
    assert [result.path for result in writes[1].result] == ["/a/s-0000000004", "/a/t-0000000005"]


def test_a_slot_lives_on_while_settling_begins_anew():
    """The connection is lost again, after each of the answers on it."""
    for moment in range(6):
        servers = world(receipts=2)
        writes = [servers.set("/a", b"1"), servers.set("/a", b"2")]
        servers.lose(applied=1)
        servers.back()
        servers.answer(moment)
        servers.settle()
        assert [write.result.version for write in writes] == [1, 2], moment
        assert sum(version for _, version in free(servers)) == 2
        assert len(free(servers)) == 2


def test_all_slots_may_be_with_writes_that_are_sent_again():
    servers = world(receipts=2)
    writes = [servers.set("/a", bytes([n])) for n in range(4)]
    servers.settle()
    assert [write.result.version for write in writes] == [1, 2, 3, 4]


def test_a_write_that_is_sent_again_may_be_cancelled():
    servers = world(max_in_flight=1)
    first = servers.set("/a", b"1")
    read = servers.get("/a")
    servers.lose()
    servers.back()
    servers.answer(1)
    request = servers.unanswered[-1]
    assert path_in(request.body) in ("/a", FIRST)
    servers.answer(len(servers.unanswered))
    servers.lose()
    servers.cancel(first)
    later = servers.set("/a", b"2")
    servers.back()
    servers.answer()
    assert read.ends == 1
    assert later.result.version == servers.stat("/a").version
    assert len(free(servers)) == 1


def waiting_again(**more):
    """A write that waits to be sent again, and has a slot: a read stands before it."""
    servers = world(max_in_flight=1, receipts=1)
    servers.driver.session.requests._max_in_flight = 2
    read = servers.get("/a")
    write = servers.set("/a", b"1", **more)
    servers.driver.session.requests._max_in_flight = 1
    servers.lose()
    servers.back()
    servers.answer(3)
    assert (servers.ops[-1], read.ends, write.request.xid) == (Op.GET_DATA, 0, 0)
    assert write.request.receipt is not None
    return servers, write


def test_who_cancels_then_gives_the_slot_back():
    servers, write = waiting_again()
    servers.cancel(write)
    later = servers.set("/a", b"2")
    servers.answer()
    assert later.result.version == 1
    assert free(servers) == [(FIRST, 1)]


def test_who_times_out_then_gives_the_slot_back():
    servers, write = waiting_again(timeout=1.0)
    servers.driver.tick(1.0)
    assert write.error.sent is False
    later = servers.set("/a", b"2")
    servers.answer()
    assert later.result.version == 1


def test_one_before_it_takes_its_slot():
    """The slot of the first is no good any more, there won't be another one, and the second has the only other."""
    servers = world(receipts=2)
    writes = [servers.set("/a", b"1"), servers.set("/a", b"2")]
    servers.lose()
    servers.other(SET, FIRST)
    servers.back()
    servers.answer(4)
    servers.refuse(-102)
    servers.answer()
    assert [write.result.version for write in writes] == [1, 2]
    assert free(servers) == [(FIRST[:-1] + "1", 2)]


# -- meddling


@pytest.mark.parametrize("how", [SET, DELETE])
def test_a_slot_that_somebody_has_changed_is_refused_and_replaced(how):
    servers = world(receipts=1)
    servers.other(how, FIRST)
    write = servers.set("/a", b"1")
    later = servers.set("/a", b"2")
    servers.answer()
    assert isinstance(write.error, WriteNotAppliedError)
    assert "somebody else" in write.error.why
    assert later.result.version == 1
    assert free(servers) == [(FIRST[:-1] + "1", 1)]


@pytest.mark.parametrize("how", [SET, DELETE])
@pytest.mark.parametrize("applied", [0, 1])
def test_a_slot_that_shows_nothing_leaves_it_to_the_nodes(how, applied):
    servers = world(receipts=1)
    write = servers.set("/a", b"1")
    servers.lose(applied)
    servers.other(how, FIRST)
    servers.back()
    servers.answer()
    if applied:
        assert isinstance(write.error, OutcomeUnknownError)
        assert write.error.seen[0].stat == servers.stat("/a")
    else:
        assert write.result.version == 1
    assert FIRST not in dict(free(servers))
    assert len(free(servers)) == 1


def test_a_slot_that_is_ahead_is_not_believed():
    """The version of an applied receipt, and somebody else's token."""
    servers = world()
    write = servers.delete("/a")
    servers.lose()
    servers.other(SET, FIRST, b"not ours")
    servers.other(DELETE, "/a")
    servers.back()
    servers.answer()
    assert isinstance(write.error, OutcomeUnknownError)


def test_a_slot_of_somebody_else_is_not_believed():
    servers = world()
    write = servers.delete("/a")
    receipt = parts_of(servers.unanswered[0])[0]
    servers.lose()
    servers.other(DELETE, FIRST)
    servers.other(CREATE, FIRST)
    servers.other(SET, FIRST, receipt.data)
    servers.back()
    servers.answer()
    assert write.result is None
    assert [change.request for change in servers.applied].count(write.request) == 1


@pytest.mark.parametrize("how", [SET, DELETE])
def test_a_slot_that_is_changed_behind_the_look_ends_it_well(how):
    """It was to be sent again, with its receipt, when that was changed: the nodes say that it was not applied."""
    servers = world()
    write = servers.set("/a", b"1")
    servers.lose()
    servers.back()
    servers.answer(3)
    servers.other(how, FIRST)
    servers.answer()
    assert isinstance(write.error, WriteNotAppliedError)
    assert servers.stat("/a").version == 0
    later = servers.set("/a", b"2")
    servers.answer()
    assert later.result.version == 1


def test_two_slots_are_replaced_at_once():
    servers = world(receipts=3)
    for slot in slots(servers)[:2]:
        servers.other(DELETE, slot)
    writes = [servers.set("/a", bytes([n])) for n in range(3)]
    servers.answer()
    assert [type(write.call.error) for write in writes] == [WriteNotAppliedError, WriteNotAppliedError, type(None)]
    assert len(free(servers)) == 3


def test_slots_that_are_given_up_together_are_all_replaced():
    servers = world(receipts=4)
    for slot in slots(servers):
        servers.other(DELETE, slot)
    writes = [servers.set("/a") for _ in range(4)]
    servers.answer()
    assert all(isinstance(write.error, WriteNotAppliedError) for write in writes)
    assert sorted(path for path, _ in free(servers)) == slots(servers)
    assert len(slots(servers)) == 4


def test_a_slot_of_an_old_session_is_not_missed():
    servers = world()
    write = servers.set("/a", b"1")
    servers.lose(applied=1)
    servers.renew()
    servers.answer()
    assert isinstance(write.error, OutcomeUnknownError)
    assert [version for _, version in free(servers)] == [0]


def test_a_write_of_an_old_session_goes_with_a_new_receipt():
    servers = world()
    write, bound = servers.set("/a", b"1"), servers.set("/a", b"2", generation=1)
    servers.lose()
    servers.renew()
    servers.answer()
    assert write.result.version == 1
    assert isinstance(bound.error, SessionExpiredError)
    assert [version for _, version in free(servers)] == [1]


def test_a_write_that_was_answered_before_the_session_ended_frees_nothing():
    servers = world(receipts=1)
    receipts = servers.driver.session._receipts
    request = servers.set("/a").request
    receipts._session = 7  # another one has begun
    receipts.release(request, 1)
    assert list(receipts.free) == []
