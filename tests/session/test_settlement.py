"""What becomes of writes whose replies were lost, before servers that keep a tree (`modelled`)."""

import pytest

from everlatch.errors import (
    BadVersionError,
    ClientClosedError,
    HistoryResetError,
    NoAuthError,
    NodeExistsError,
    NoNodeError,
    NotReadOnlyError,
    OutcomeUnknownError,
    RequestKillsConnectionError,
    ResultLostError,
    SessionExpiredError,
    TransactionFailedError,
    WriteNotAppliedError,
    WriteTimeoutError,
)
from everlatch.partial_stat import PartialStat
from everlatch.session.requests import POISON_LOSSES
from everlatch.types import OPEN_ACL_UNSAFE, Outcome, Sighting, State
from everlatch.wire.codes import Op
from everlatch.wire.multi import (
    CheckPart,
    CheckResult,
    CreatePart,
    CreateResult,
    DeletePart,
    DeleteResult,
    SetDataPart,
    SetDataResult,
)
from everlatch.wire.records import decode_delete_request, decode_set_data_request
from session.driver import path_in
from session.modelled import (
    BOTH,
    CREATE,
    DELETE,
    EPHEMERAL,
    IDEMPOTENT,
    PROTECTED,
    SEQUENTIAL,
    SET,
    World,
    created,
    parts_of,
    written,
)


def sent(world, op):
    """The bodies of the requests of a kind, since the last connection."""
    conn = world.driver.session.conn
    return [request.body for request in world.driver.sent if request.conn == conn and request.op == op]


def versions_set(world):
    return [tuple(decode_set_data_request(body, 0, len(body)))[::2] for body in sent(world, Op.SET_DATA)]


# -- looking


def test_a_commit_and_looks_go_before_everything():
    world = World("/a", "/b")
    write = world.set("/a", b"1")
    read = world.get("/b")
    made = world.create("/b/c")
    world.lose()
    later = world.get()
    world.back()
    assert world.ops == [Op.MULTI, Op.EXISTS, Op.EXISTS, Op.EXISTS]
    assert parts_of(world.unanswered[0]) == [CheckPart("/", -1)]
    assert [path_in(request.body) for request in world.unanswered[1:]] == ["/a", "/b/c", "/b"]
    world.answer(3)
    assert (write.is_open, made.is_open, read.ends, later.ends) == (True, True, 0, 0)
    assert len(world.ops) == 4, "not even a read, before all is known"
    world.answer()
    assert world.ops[4:] == [Op.SET_DATA, Op.GET_DATA, Op.CREATE2, Op.GET_DATA]
    assert write.result.version == 1
    assert made.result.path == "/b/c"


def test_reads_alone_are_not_settled():
    world = World("/a")
    read = world.get("/a")
    world.lose()
    world.back()
    assert world.ops == [Op.GET_DATA]
    world.answer()
    assert read.ends == 1


def test_a_call_does_not_go_past_what_is_unsettled():
    world = World("/a")
    world.set("/a")
    world.lose()
    world.back()
    world.answer(1)
    assert world.driver.submit(SET, "/a", b"", at_once=True)[1].xid == 0


def test_each_node_is_looked_at_once():
    world = World("/a")
    for _ in range(3):
        world.set("/a")
        world.create("/a/s-", b"", SEQUENTIAL)
    world.lose()
    world.back()
    assert world.ops == [Op.MULTI, Op.EXISTS]


# -- the prefix


def test_the_rest_goes_again_in_order_with_what_stood_between():
    world = World("/a", "/b", "/b/f")
    made, read = world.create("/b/e", b"", EPHEMERAL), world.get()
    changed, other_read, gone = world.set("/a", b"1"), world.get(), world.delete("/b/f")
    world.lose(applied=2)
    world.back()
    assert world.ops == [Op.MULTI, *[Op.EXISTS] * 4]
    world.answer(5)
    assert made.result.path == "/b/e"
    assert world.ops[5:] == [Op.GET_DATA, Op.SET_DATA, Op.GET_DATA, Op.DELETE]
    world.answer()
    assert (read.ends, changed.result.version, other_read.ends, gone.result) == (1, 1, 1, None)
    statistics = world.driver.session.statistics()
    assert (statistics.outcomes_settled, statistics.writes_resent, statistics.outcomes_unknown) == (3, 2, 0)


def test_a_write_that_stands_before_one_that_happened_was_refused():
    world = World("/a")
    refused = world.set("/a", b"", 7)
    happened = world.create("/e", b"", EPHEMERAL)
    world.settle(applied=2)
    assert isinstance(refused.error, WriteNotAppliedError)
    assert refused.error.outcome is Outcome.NOT_APPLIED
    assert "refused" in refused.error.why
    assert happened.result.path == "/e"


def test_a_write_that_stands_before_one_that_may_have_happened_is_not_sent_again():
    world = World("/a", "/b")
    first, second = world.set("/a", b"1"), world.set("/b", b"2")
    world.lose()
    world.other(SET, "/b", b"other")
    world.back()
    world.answer()
    assert isinstance(first.error, WriteNotAppliedError)
    assert "order" in first.error.why
    assert isinstance(second.error, OutcomeUnknownError)
    assert second.error.seen == (Sighting("/b", world.stat("/b")),)
    assert world.applied == []


def test_a_write_that_may_have_happened_does_not_hold_up_those_behind_it():
    world = World("/a", "/b")
    first, second = world.set("/a", b"1"), world.set("/b", b"2")
    world.settle(applied=1)
    assert isinstance(first.error, OutcomeUnknownError)
    assert second.result.version == 1


def test_what_can_not_be_looked_at_is_unknown():
    world = World("/a")
    world.forbidden.add("/a")
    write = world.set("/a")
    world.settle()
    assert isinstance(write.error, OutcomeUnknownError)
    (seen,) = write.error.seen
    assert isinstance(seen.error, NoAuthError)
    assert "could not be looked at" in str(write.error)


def test_of_a_write_that_is_no_change_of_a_node_nothing_is_known():
    world = World()
    reconfig = SET._replace(name="reconfig", op=Op.RECONFIG)
    call = world.driver.call(reconfig, "/zookeeper/config", b"\0" * 8)
    world.settle()
    assert isinstance(call.error, OutcomeUnknownError)
    assert call.error.seen == ()


# -- callers who have gone


@pytest.mark.parametrize("moment", range(4))
def test_nothing_is_sent_again_for_a_caller_who_has_gone(moment):
    """Before the loss, behind it, and while it is settled."""
    world = World("/a", "/b")
    gone, other = world.set("/a", b"1"), world.set("/b", b"2")
    for step in range(4):
        if step == moment:
            world.cancel(gone)
        if step == 0:
            world.lose()
        elif step == 1:
            world.back()
        elif step == 2:
            world.answer(1)
    world.answer()
    assert gone.is_open
    assert world.stat("/a").version == 0
    assert other.result.version == 1


def test_a_write_that_nobody_waits_for_may_have_made_the_node():
    world = World()
    gone, write = world.create("/e", b"", EPHEMERAL), world.create("/e", b"", EPHEMERAL)
    world.cancel(gone)
    world.settle(applied=1)
    assert isinstance(write.error, OutcomeUnknownError)


def test_a_write_that_happened_for_nobody():
    world = World()
    write = world.create("/e", b"", EPHEMERAL)
    world.lose(applied=1)
    world.back()
    world.answer(1)
    world.cancel(write)
    world.answer()
    assert write.is_open
    assert world.driver.session.statistics().outcomes_settled == 0


@pytest.mark.parametrize("answers", range(3))
def test_a_write_times_out_while_it_is_unsettled(answers):
    world = World("/a")
    write, other = world.set("/a", b"1", timeout=1.0), world.set("/a", b"2")
    world.lose()
    if answers:
        world.back()
        world.answer(answers - 1)
    world.driver.now += 1.0
    world.driver.session.requests.expire(world.driver.now)
    assert isinstance(write.error, WriteTimeoutError)
    if not answers:
        world.back()
    world.answer()
    assert world.stat("/a").version == 1
    assert other.result.data_length == 1


# -- again and again


@pytest.mark.parametrize("answers", range(4))
def test_a_loss_in_the_middle_begins_anew(answers):
    world = World("/a", "/b")
    writes = [world.set("/a", b"1"), world.set("/b", b"2")]
    world.lose()
    world.back()
    world.answer(answers)
    world.settle()
    assert [write.result.version for write in writes] == [1, 1]


@pytest.mark.parametrize("err", [-5, -13, -118, -112])
def test_a_commit_that_is_refused_drops_the_link(err):
    world = World("/a")
    write = world.set("/a")
    world.lose()
    world.back()
    world.refuse(err)
    assert world.driver.states[-1] is State.SUSPENDED
    assert write.is_open
    world.back()
    world.answer()
    assert write.result.version == 1


def test_a_write_that_kills_every_connection_is_failed_by_name():
    world = World("/a", "/b")
    poison, other = world.set("/a"), world.set("/b")
    for loss in range(POISON_LOSSES):
        assert poison.is_open, loss
        world.lose()
        world.back()
        world.answer(3)
    assert isinstance(poison.error, RequestKillsConnectionError)
    assert (poison.error.path, poison.error.losses) == ("/a", POISON_LOSSES)
    world.answer()
    assert other.result.version == 1
    assert world.stat("/a").version == 0


def test_a_poisonous_write_that_may_have_happened_is_unknown():
    world = World("/a")
    poison = world.set("/a", options=IDEMPOTENT)
    for _ in range(POISON_LOSSES):
        world.other(SET, "/a")
        world.lose()
        world.back()
        world.answer(2)
    assert isinstance(poison.error, OutcomeUnknownError)


def test_a_look_does_not_take_the_blame_for_a_write():
    world = World("/a")
    write = world.set("/a")
    world.lose()
    for _ in range(2 * POISON_LOSSES):
        world.back()
        world.answer(1)
        world.lose()
    assert write.request.losses == 1
    world.back()
    world.answer()
    assert write.result.version == 1


# -- guards


def test_what_is_sent_again_demands_the_version_that_was_seen():
    world = World("/a", "/b")
    world.set("/a", b"1"), world.set("/a", b"2"), world.delete("/b")
    world.settle()
    assert versions_set(world) == [("/a", 0), ("/a", -1)], "of the second one the version isn't known yet"
    (body,) = sent(world, Op.DELETE)
    assert tuple(decode_delete_request(body, 0, len(body))) == ("/b", 0)
    assert world.stat("/a").version == 2


def test_a_guard_that_fails_is_not_told_as_an_error_of_the_caller():
    world = World("/a")
    write = world.set("/a", b"1")
    world.lose()
    world.back()
    world.answer(2)
    world.other(SET, "/a", b"other")
    world.answer(1)
    assert world.ops[-1] == Op.EXISTS, "it is looked at again: it may have been applied after all"
    world.answer()
    assert isinstance(write.error, OutcomeUnknownError)


def test_a_guard_that_was_refused_for_no_reason():
    """A server that lies: nothing has changed."""
    world = World("/a")
    write = world.set("/a", b"1")
    world.lose()
    world.back()
    world.answer(2)
    world.refuse(BadVersionError.code)
    world.answer()
    assert isinstance(write.error, WriteNotAppliedError)
    assert "version" in write.error.why


def test_the_guard_of_a_transaction_is_not_told_as_an_error_of_the_caller():
    world = World("/a", "/b")
    write = world.multi(written("/a", b"1"), DeletePart("/b", -1))
    world.lose()
    world.back()
    world.answer(3)
    assert parts_of(world.unanswered[0]) == [written("/a", b"1", 0), DeletePart("/b", 0)]
    world.other(SET, "/b", b"other")
    world.answer()
    assert isinstance(write.error, WriteNotAppliedError), "the node of its other part is as it was"


def test_the_demands_of_the_caller_stay():
    world = World("/a")
    write = world.set("/a", b"1", 0)
    world.lose()
    world.back()
    world.answer(2)
    world.other(SET, "/a", b"other")
    assert versions_set(world) == [("/a", 0)]
    world.answer()
    assert isinstance(write.error, OutcomeUnknownError), "its version is the one that it would have made"


# -- repetitions that are refused


def refused_again(make, meanwhile, *, answers=3):
    """A write that was sent again, behind what somebody else does."""
    world = World("/a")
    write = make(world)
    world.lose()
    world.back()
    world.answer(answers)
    meanwhile(world)
    world.answer()
    return world, write


def test_a_creation_that_exists_now_may_be_the_first_one():
    _, write = refused_again(lambda world: world.create("/b"), lambda world: world.other(CREATE, "/b"))
    assert isinstance(write.error, OutcomeUnknownError)
    assert [sighting.path for sighting in write.error.seen] == ["/b", "/"]


def test_an_ephemeral_node_that_exists_now_is_known_by_its_owner():
    _, write = refused_again(
        lambda world: world.create("/b", b"", EPHEMERAL), lambda world: world.execute(world.unanswered[0])
    )
    assert write.result.path == "/b"


def test_not_if_there_are_others_that_may_have_made_it():
    world = World("/a")
    first = world.create("/b", b"", EPHEMERAL)
    world.lose()
    world.back()
    world.answer(3)
    world.set("/a")
    world.execute(world.unanswered[0])
    world.answer(1)
    assert first.is_open
    world.answer()
    assert isinstance(first.error, OutcomeUnknownError)


def test_nor_if_the_node_was_there_when_it_was_sent_again():
    """A write that ended as unknown has made it."""
    world = World("/b")
    world.read()
    first = world.create("/a", b"", EPHEMERAL)
    both = world.multi(CreatePart(Op.CREATE, "/a", b"", tuple(OPEN_ACL_UNSAFE), EPHEMERAL), SetDataPart("/b", b"", -1))
    world.lose(applied=1)
    world.back()
    world.answer(4)
    assert isinstance(first.error, OutcomeUnknownError)
    assert both.is_open
    world.other(SET, "/b")
    world.answer()
    assert isinstance(both.error, TransactionFailedError)
    assert both.error.outcome is Outcome.NOT_APPLIED


def test_a_refusal_that_the_nodes_confirm_is_told():
    """Nothing has happened to the node: it is refused for what it is."""
    world = World("/a")
    write = world.delete("/a")
    world.lose()
    world.back()
    world.answer(2)
    world.other(CREATE, "/a/child")
    world.answer()
    assert write.error.code == -111
    assert world.driver.session.requests.unsettled == []


def test_a_refusal_that_has_another_reason_is_told_at_once():
    world = World("/a")
    write = world.set("/a")
    world.lose()
    world.back()
    world.answer(2)
    world.refuse(-102)
    assert isinstance(write.error, NoAuthError)
    assert world.unanswered == []


def test_a_transaction_that_is_refused_again():
    _, write = refused_again(
        lambda world: world.multi(DeletePart("/a", -1), CheckPart("/", -1)),
        lambda world: world.other(DELETE, "/a"),
        answers=2,
    )
    assert isinstance(write.error, OutcomeUnknownError)


def test_a_transaction_is_told_why():
    world = World("/a", "/b")
    write = world.multi(written("/a"), DeletePart("/b", -1))
    world.lose()
    world.back()
    world.answer(3)
    world.other(DELETE, "/b")
    world.answer()
    assert isinstance(write.error, TransactionFailedError)
    assert isinstance(write.error.error, NoNodeError)


@pytest.mark.parametrize("gone", [False, True])
def test_a_loss_while_a_refusal_is_looked_at(gone):
    world = World("/a")
    write, later = world.delete("/a"), world.create("/c")
    world.lose()
    world.back()
    world.answer(4)
    world.other(CREATE, "/a/child")
    world.answer(1)
    if gone:
        world.cancel(write)
    assert world.driver.session.statistics().unsettled == 1
    world.lose()
    world.back()
    world.answer()
    if gone:
        assert write.is_open
    else:
        assert isinstance(write.error, OutcomeUnknownError | WriteNotAppliedError) or write.error.code == -111
    assert later.call.ends == 1
    assert "/a" in world.tree.nodes


def test_a_caller_who_goes_while_his_refusal_is_looked_at():
    world = World("/a")
    write = world.delete("/a")
    world.lose()
    world.back()
    world.answer(2)
    world.other(CREATE, "/a/child")
    world.answer(1)
    world.cancel(write)
    world.answer()
    assert write.is_open
    assert world.driver.session.requests.unsettled == []


# -- idempotent


def test_an_idempotent_set_is_sent_again_in_any_case():
    world = World("/a")
    write, behind = world.set("/a", b"1", options=IDEMPOTENT), world.set("/a", b"2", 1)
    world.settle(applied=1)
    assert write.result.version == 2
    assert versions_set(world)[0] == ("/a", -1), "without a guard"
    assert isinstance(behind.error, OutcomeUnknownError | BadVersionError)


def test_an_idempotent_set_whose_node_is_gone_may_have_happened():
    """Whatever it is refused with then: it was applied before."""
    for err in (NoNodeError.code, NoAuthError.code):
        world = World("/a")
        write = world.set("/a", b"1", options=IDEMPOTENT)
        world.lose(applied=1)
        world.back()
        world.answer(2)
        world.refuse(err)
        world.answer()
        assert isinstance(write.error, OutcomeUnknownError)


def test_an_idempotent_write_that_was_not_applied_may_be_refused():
    world = World("/a")
    write = world.set_acl("/a", options=IDEMPOTENT)
    world.settle()
    assert write.result.aversion == 1
    again = world.set_acl("/a", options=IDEMPOTENT)
    world.settle(applied=1)
    assert again.result.aversion == 3


@pytest.mark.parametrize("applied", [0, 1])
def test_an_idempotent_deletion(applied):
    world = World("/a")
    write = world.delete("/a", options=IDEMPOTENT)
    world.settle(applied)
    assert write.result is None
    assert "/a" not in world.tree.nodes
    again = world.delete("/a", options=IDEMPOTENT)
    world.answer()
    assert again.result is None, "from the first time on"


@pytest.mark.parametrize("applied", [0, 1])
def test_an_idempotent_creation(applied):
    world = World()
    write = world.create("/b", b"xy", options=IDEMPOTENT)
    world.settle(applied)
    assert write.result == ("/b", world.stat("/b"))
    again = world.create("/b", options=IDEMPOTENT)
    world.answer()
    assert again.result == ("/b", world.stat("/b"))


def test_an_idempotent_write_may_be_refused_for_other_reasons():
    world = World("/a")
    write = world.create("/none/b", options=IDEMPOTENT)
    world.answer()
    assert isinstance(write.error, NoNodeError)
    write = world.set("/none", options=IDEMPOTENT)
    world.answer()
    assert isinstance(write.error, NoNodeError)


@pytest.mark.parametrize("forbidden", [False, True])
def test_a_node_that_exists_and_can_not_be_looked_at(forbidden):
    world = World("/b")
    write = world.create("/b", options=IDEMPOTENT)
    world.answer(1)
    world.forbidden |= {"/b"} if forbidden else set()
    if not forbidden:
        world.other(DELETE, "/b")
    world.answer()
    assert isinstance(write.error, ResultLostError)
    assert write.error.outcome is Outcome.HAPPENED
    assert "looked at" in str(write.error)


@pytest.mark.parametrize("is_there", [True, False])
@pytest.mark.parametrize("receipts", [{}, {"receipts": 1}])
def test_a_creation_that_was_answered_stays_answered(receipts, is_there):
    """The connection is lost before its node is looked at; what happens behind it can't take that back."""
    world = World("/b", **receipts)
    write, behind = world.create("/b", options=IDEMPOTENT), world.delete("/b")
    world.answer(1)
    world.lose(applied=0 if is_there else 2)
    world.back()
    world.answer()
    if is_there:
        assert write.result.path == "/b"
    else:
        assert isinstance(write.error, ResultLostError)
    assert behind.call.ends == 1
    assert "/b" not in world.tree.nodes


def test_a_creation_that_was_answered_is_closed_as_it_stands():
    world = World("/b")
    write = world.create("/b", options=IDEMPOTENT)
    world.answer(1)
    world.driver.abort()
    assert isinstance(write.error, OutcomeUnknownError)


def waiting_in_doubt(**more):
    """A write that may have been applied, and waits to be sent again behind a read."""
    world = World("/a", max_in_flight=2)
    read, write = world.get(), world.set("/a", b"1", options=IDEMPOTENT, **more)
    world.driver.session.requests._max_in_flight = 1
    world.lose(applied=2)
    world.back()
    world.answer(2)
    assert (read.ends, write.request.xid) == (0, 0)
    return world, write


def test_a_repetition_that_times_out_before_it_is_sent_is_in_doubt():
    world, write = waiting_in_doubt(timeout=1.0)
    world.driver.tick(1.0)
    assert isinstance(write.error, WriteTimeoutError)
    world.answer()
    assert world.stat("/a").version == 1


def test_a_repetition_that_is_not_sent_any_more_is_in_doubt():
    world, write = waiting_in_doubt()
    world.driver.abort()
    assert isinstance(write.error, OutcomeUnknownError)
    assert isinstance(write.error.reason, ClientClosedError)


@pytest.mark.parametrize("protected", [False, True])
def test_a_receipt_of_another_session_says_nothing_of_what_was_before(protected):
    """The first time it may have been applied; the second time it was not, as its new receipt tells."""
    world = World("/a", receipts=1)
    options = PROTECTED if protected else IDEMPOTENT
    write = world.create("/_c_1-a", options=options) if protected else world.set("/a", b"1", options=options)
    world.lose(applied=1)
    if protected:
        world.other(DELETE, "/_c_1-a")
    world.renew()
    while not write.request.operation.may_have_happened:
        world.answer(1)
    assert parts_of(world.unanswered[0])[0].path.endswith("5678-00")
    world.settle()
    assert write.result is not None
    assert len(world.driver.session._receipts.free) == 1


# -- protect


@pytest.mark.parametrize("flags", [0, EPHEMERAL])
@pytest.mark.parametrize("applied", [0, 1])
def test_a_protected_node_is_found_by_its_name(flags, applied):
    world = World()
    write = world.create("/_c_1-b", b"xy", flags, options=PROTECTED)
    world.lose(applied)
    world.other(CREATE, "/stranger")
    world.back()
    world.answer()
    assert write.result == ("/_c_1-b", world.stat("/_c_1-b"))
    assert len(world.applied) == 1


@pytest.mark.parametrize("flags", [SEQUENTIAL, BOTH])
@pytest.mark.parametrize("applied", [0, 1])
def test_a_protected_sequential_node_is_found_by_its_name(flags, applied):
    world = World()
    write = world.create("/_c_1-b-", b"xy", flags, options=PROTECTED)
    world.lose(applied)
    for _ in range(5):
        world.other(CREATE, "/stranger-", b"", SEQUENTIAL)
    world.back()
    world.answer()
    (name,) = [name for name in world.names() if name.startswith("_c_")]
    assert write.result == (f"/{name}", world.stat(f"/{name}"))
    assert name.endswith("0" if applied else "5")


def test_a_protected_sequential_node_that_can_not_be_looked_for():
    world = World("/p")
    write = world.create("/p/_c_1-b-", b"xy", SEQUENTIAL, options=PROTECTED)
    world.lose()
    world.other(CREATE, "/p/stranger")
    world.forbidden.add("/p")
    world.back()
    world.answer()
    assert isinstance(write.error, OutcomeUnknownError)


def test_names_that_are_too_many_to_be_listed_are_not_listed_again():
    """Each connection would be lost by it."""
    world = World(max_reply_size=1000)
    write = world.create("/_c_1-b-", b"", SEQUENTIAL, options=PROTECTED)
    world.lose()
    world.other(CREATE, "/stranger")
    world.back()
    while world.unanswered[0].op != Op.GET_CHILDREN:
        world.answer(1)
    listing = world.unanswered[0]
    data = (5000).to_bytes(4, "big") + listing.xid.to_bytes(4, "big")
    world.driver.session.bytes_received(world.driver.session.conn, data, world.driver.now)
    world.driver.pump()
    assert write.is_open
    world.back()
    world.answer()
    assert isinstance(write.error, OutcomeUnknownError)
    assert Op.GET_CHILDREN not in world.ops


def test_a_protected_node_for_nobody_is_not_looked_for():
    world = World()
    write = world.create("/_c_1-b-", b"", SEQUENTIAL, options=PROTECTED)
    world.lose(applied=1)
    world.cancel(write)
    world.back()
    world.answer()
    assert Op.GET_CHILDREN not in world.ops


def test_a_protected_node_whose_parent_is_gone():
    world = World("/p")
    write = world.create("/p/_c_1-b", options=PROTECTED)
    world.lose()
    world.other(DELETE, "/p")
    world.back()
    world.answer()
    assert isinstance(write.error, OutcomeUnknownError), "it may have been deleted with its parent"


# -- nodes of our own session


def test_an_ephemeral_node_is_known_by_its_owner():
    world = World()
    write = world.create("/e", b"xy", EPHEMERAL)
    world.lose(applied=1)
    world.other(SET, "/e", b"other")
    world.other(CREATE, "/stranger")
    world.back()
    world.answer()
    stat = write.result.stat
    assert (stat.version, stat.data_length, stat.ephemeral_owner) == (0, 2, 0x1234), "as it was made"


def test_of_two_creations_of_one_node_nobody_can_tell():
    world = World()
    writes = [world.create("/e", b"", EPHEMERAL), world.create("/e", b"", EPHEMERAL)]
    world.settle(applied=2)
    assert [type(write.error) for write in writes] == [OutcomeUnknownError] * 2


def test_a_node_of_a_write_that_was_answered_is_that_ones():
    """Both were sent when nothing was known of either."""
    world = World()
    first, second = world.create("/e", b"", EPHEMERAL), world.create("/e", b"", EPHEMERAL)
    world.answer(1)
    world.settle(applied=1)
    assert first.result.path == "/e"
    assert isinstance(second.error, NodeExistsError | WriteNotAppliedError | OutcomeUnknownError)


def test_nor_are_sequential_nodes_of_a_write_that_was_answered_taken():
    world = World()
    first, second = world.create("/s-", b"", BOTH), world.create("/s-", b"", BOTH)
    world.answer(1)
    world.lose()
    world.other(CREATE, "/stranger")
    world.back()
    world.answer()
    assert first.result.path == "/s-0000000000"
    assert isinstance(second.error, OutcomeUnknownError)


def test_nor_those_of_a_caller_who_has_gone():
    world = World(receipts=2)
    for options in ({}, {"receipts": 2}):
        world = World(**options)
        first, second = world.create("/e", b"", EPHEMERAL), world.create("/e", b"", EPHEMERAL)
        world.cancel(first)
        world.answer(1)
        assert world.driver.session.requests.written == world.tree.zxid
        world.settle(applied=1)
        assert second.call.error is not None


@pytest.mark.parametrize("count", [1, 3])
def test_ephemeral_sequential_nodes_are_known_if_all_are_there(count):
    world = World()
    writes = [world.create("/s-", b"", BOTH) for _ in range(count)]
    world.lose(applied=count)
    world.other(CREATE, "/s-", b"", SEQUENTIAL)
    world.back()
    world.answer()
    assert [write.result.path for write in writes] == [f"/s-{n:010d}" for n in range(count)]


@pytest.mark.parametrize("lost", [1, 2])
def test_if_one_is_missing_nobody_can_tell_whose(lost):
    world = World()
    writes = [world.create("/s-", b"", BOTH) for _ in range(3)]
    world.settle(applied=3 - lost)
    assert [type(write.error) for write in writes] == [OutcomeUnknownError] * 3


def test_some_of_them_may_be_known_already():
    """One has its receipt still."""
    world = World(receipts=2)
    writes = [world.create("/s-", b"", BOTH), world.create("/s-", b"", BOTH)]
    slots = [write.request.receipt.slot.path for write in writes]
    world.lose(applied=2)
    world.other(DELETE, slots[1])
    world.back()
    world.answer()
    assert [write.result.path[-1] for write in writes] == ["1", "2"], "the place of the receipts has number 0"


def test_they_are_in_order_with_those_in_transactions():
    world = World()
    first = world.create("/s-", b"", BOTH)
    second = world.multi(created("/s-", b"", BOTH), created("/e", b"", EPHEMERAL))
    third = world.create("/s-", b"", BOTH)
    world.settle(applied=3)
    assert first.result.path == "/s-0000000000"
    assert second.result[0].path == "/s-0000000001"
    assert third.result.path == "/s-0000000003"


def test_ephemeral_sequential_nodes_that_can_not_be_looked_for():
    world = World("/p")
    write = world.create("/p/s-", b"", BOTH)
    world.forbidden.add("/p")
    world.settle(applied=1)
    assert isinstance(write.error, OutcomeUnknownError)


def test_ephemeral_sequential_nodes_in_transactions():
    """A part that tells nothing for itself is told by the other."""
    world = World()
    write = world.multi(created("/s-", b"", BOTH), created("/e", b"", EPHEMERAL), CheckPart("/", -1))
    world.settle(applied=1)
    made, other, check = write.result
    assert (made.path, other.path, check) == ("/s-0000000000", "/e", CheckResult())


def test_a_name_that_is_not_found_is_lost():
    world = World()
    write = world.multi(created("/s-", b"", SEQUENTIAL), created("/e", b"", EPHEMERAL))
    world.lose(applied=1)
    world.other(DELETE, "/s-0000000000")
    world.back()
    world.answer()
    assert write.result[0] is None
    assert isinstance(write.result[1], CreateResult)
    world = World(receipts=1)
    write = world.create("/s-", b"", SEQUENTIAL)
    world.lose(applied=1)
    path = f"/{next(name for name in world.names() if name.startswith('s-'))}"
    world.other(DELETE, path)
    world.back()
    world.answer()
    assert isinstance(write.error, ResultLostError)
    assert write.error.zxid == world.applied[-1].zxid


def test_the_results_of_a_transaction_are_those_of_its_parts():
    world = World("/a", "/gone", receipts=1)
    write = world.multi(written("/a", b"1"), written("/a", b"23"), DeletePart("/gone", -1))
    world.settle(applied=1)
    first, second, gone = write.result
    assert isinstance(first.stat, PartialStat)
    assert first.stat.data_length == 1
    assert second == SetDataResult(world.stat("/a"))
    assert gone == DeleteResult()


# -- other sessions, read-only servers, the end


def test_in_another_session_what_was_not_applied_goes_again():
    world = World("/a")
    write, bound = world.set("/a", b"1"), world.set("/a", b"2", generation=1)
    world.lose()
    world.renew()
    world.answer()
    assert write.result.version == 1
    assert isinstance(bound.error, SessionExpiredError | WriteNotAppliedError)
    assert bound.error.outcome is Outcome.NOT_APPLIED


def test_in_another_session_own_nodes_are_gone():
    world = World()
    write = world.create("/e", b"", EPHEMERAL)
    world.lose(applied=1)
    world.renew()
    world.answer()
    assert isinstance(write.error, OutcomeUnknownError)


def read_only(**options):
    """A write and a read are unsettled, and a read-only server serves."""
    world = World("/a", read_only=True, **options)
    write, read = world.set("/a", b"1"), world.get("/a")
    world.lose()
    driver = world.driver
    while not any(type(action).__name__ == "AskModes" for action in driver.actions):
        driver.refuse() if driver.session.phase.value else driver.wake()
    driver.tells("10.0.0.1", "read-only", None)
    while driver.session.state is not State.CONNECTED_READ_ONLY:
        driver.made()
        driver.grant(0x77, read_only=True)
    return world, write, read


def test_a_read_only_server_answers_the_reads():
    world, write, read = read_only()
    assert world.ops == [Op.GET_DATA]
    with pytest.raises(NotReadOnlyError):
        world.set("/a")
    world.answer()
    assert read.ends == 1
    assert write.is_open
    world.lose()
    world.back()
    world.answer()
    assert write.result.version == 1


def test_what_is_unsettled_keeps_waiting_over_many_connections():
    world = World("/a")
    write = world.set("/a", b"1")
    world.lose()
    for _ in range(4):
        world.driver.made()
        world.driver.lose()
    world.back()
    world.answer()
    assert write.result.version == 1


@pytest.mark.parametrize("moment", range(3))
def test_an_abort_leaves_it_unknown(moment):
    world = World("/a")
    write = world.set("/a")
    world.lose()
    if moment:
        world.back()
        world.answer(moment - 1)
    world.driver.abort()
    assert isinstance(write.error, OutcomeUnknownError)
    assert isinstance(write.error.reason, ClientClosedError)
    assert world.driver.is_closed


def test_close_waits_until_all_is_settled():
    world = World("/a")
    write = world.set("/a", b"1")
    world.lose()
    world.back()
    world.driver.close()
    world.answer(2)
    assert world.ops[-1] == Op.SET_DATA
    world.answer()
    assert world.driver.sent[-1].op == Op.CLOSE_SESSION
    assert write.result.version == 1
    assert world.driver.is_closed


def test_close_waits_for_a_refusal_that_is_looked_at():
    world = World("/a")
    write = world.delete("/a")
    world.lose()
    world.back()
    world.answer(2)
    world.other(CREATE, "/a/child")
    world.driver.close()
    world.answer(1)
    assert world.ops[-1] == Op.EXISTS
    world.answer()
    assert write.error.code == -111
    assert world.driver.is_closed


def test_close_without_a_connection_does_not_wait():
    world = World("/a")
    write = world.set("/a")
    world.lose()
    world.driver.close()
    assert isinstance(write.error, OutcomeUnknownError)


def test_a_history_that_was_reset_shows_nothing():
    world = World("/a", max_in_flight=2)
    world.driver.session.requests._max_in_flight = 3
    writes = [world.set("/a", bytes([n])) for n in range(3)]
    world.driver.session.requests._max_in_flight = 2
    world.lose()
    world.back()
    world.answer(2)  # two are sent again, the third waits
    assert writes[2].request.xid == 0
    world.lose()
    world.driver.session.state = State.LOST
    world.driver.session._history_was_reset(5, world.driver.now)
    world.driver.pump()
    for write in writes[:2]:
        assert isinstance(write.error, OutcomeUnknownError)
        assert isinstance(write.error.reason, HistoryResetError)
    assert writes[2].request.zxid == -1, "nothing of the old history is evidence"
    assert world.driver.session.requests.written == 0
