"""Transactions: applied together or not at all."""

from __future__ import annotations

import pytest

from everlatch import (
    BadVersionError,
    ClientStateError,
    EverlatchError,
    NodeExistsError,
    NoNodeError,
    NotStartedError,
    OutcomeUnknownError,
    Pending,
    ProtocolError,
    QueueFullError,
    ServerError,
    SessionExpiredError,
    Stat,
    State,
    StateChange,
    TransactionFailedError,
)
from everlatch.transaction import Guard
from everlatch.wire.codes import Op
from everlatch.wire.multi import (
    CheckPart,
    CheckResult,
    CreateResult,
    DeleteResult,
    ErrorResult,
    SetDataResult,
    decode_multi_request,
    encode_multi_reply,
)
from scripted_server import Connection, Received, ScriptedServer, apply, drop_after
from skipping_loop import simulated

CHROOTS = pytest.mark.parametrize("chroot", ["", "/app"])
STAT = Stat(*range(11))


@CHROOTS
@simulated
async def test_leaving_the_block_commits(chroot):
    async with ScriptedServer() as server, server.client(chroot) as client:
        await client.ensure_path("/old")
        async with client.transaction() as t:
            t.check("/old", 0)
            created = t.create("/new", b"1")
            numbered = t.create("/new/n-", sequential=True, ephemeral=True)
            changed = t.set("/old", b"2", version=0)
            t.delete("/old", version=1)
            assert server.paths(Op.MULTI) == []
        assert created.result == "/new"
        assert numbered.result == "/new/n-0000000000"
        assert changed.result.version == 1
        assert server.znodes.applied[-4:] == [("create", chroot + path) for path in ("/new", numbered.result)] + [
            (change, chroot + "/old") for change in ("set", "delete")
        ]


@CHROOTS
@simulated
async def test_a_refusal_names_the_part_and_nothing_is_applied(chroot):
    async with ScriptedServer() as server, server.client(chroot) as client:
        await client.ensure_path("/a")
        before = list(server.znodes.applied)
        t = client.transaction()
        pending = t.create("/b")
        t.set("/a", b"x", version=7)
        t.delete("/none")
        with pytest.raises(TransactionFailedError) as raised:
            await t.commit()
        error = raised.value
        assert (error.index, error.path) == (1, "/a")
        assert isinstance(error.error, BadVersionError)
        assert (error.error.operation, error.error.path) == ("set", "/a")
        assert server.znodes.applied == before
        with pytest.raises(ClientStateError, match="refused"):
            pending.result  # noqa: B018


@pytest.mark.parametrize(
    ("add", "error"),
    [
        (lambda t: t.check("/none"), NoNodeError),
        (lambda t: t.create("/a"), NodeExistsError),
        (lambda t: t.set("/none", b""), NoNodeError),
        (lambda t: t.delete("/a", version=3), BadVersionError),
    ],
)
@simulated
async def test_every_kind_of_part_can_be_refused(add, error):
    async with ScriptedServer() as server, server.client() as client:
        await client.create("/a")
        t = client.transaction()
        add(t)
        with pytest.raises(TransactionFailedError) as raised:
            await t.commit()
        assert isinstance(raised.value.error, error)


@simulated
async def test_leaving_the_block_with_an_exception_sends_nothing():
    async with ScriptedServer() as server, server.client() as client:
        t = client.transaction()
        t.create("/a")
        with pytest.raises(ZeroDivisionError):
            async with t:
                raise ZeroDivisionError
        await client.sync()
        assert server.paths(Op.MULTI, Op.SYNC) == ["/"]


@simulated
async def test_can_be_committed_once():
    async with ScriptedServer() as server, server.client() as client:
        async with client.transaction() as t:
            t.create("/a")
            await t.commit()
        for again in (t.commit, lambda: t.create("/b"), lambda: t.check("/a"), lambda: t.delete("/a")):
            with pytest.raises(ClientStateError, match="committed already"):
                again()
        assert len(server.requests) == 1


@simulated
async def test_what_could_not_be_sent_can_be_committed_later():
    async with ScriptedServer() as server:
        client = server.client(max_queued_calls=1)
        t = client.transaction()
        t.create("/a")
        with pytest.raises(NotStartedError):
            t.commit()
        await client.start(wait=False)
        waiting = client.exists("/")
        with pytest.raises(QueueFullError):
            t.commit()
        await waiting
        await t.commit()
        assert server.znodes.applied == [("create", "/a")]
        await client.close()


@simulated
async def test_an_empty_one_is_committed_too():
    async with ScriptedServer() as server, server.client() as client:
        async with client.transaction():
            pass
        assert [request.op for request in server.requests] == [Op.MULTI]


@simulated
async def test_its_outcome_is_unknown_when_the_reply_is_lost():
    async with ScriptedServer() as server, server.client() as client:
        server.next(drop_after)
        t = client.transaction()
        pending = t.create("/a")
        with pytest.raises(OutcomeUnknownError, match="transaction '/a' was sent and its reply was lost"):
            await t.commit()
        with pytest.raises(ClientStateError):
            pending.result  # noqa: B018


@simulated
async def test_one_of_checks_alone_is_a_read_and_sent_again():
    async with ScriptedServer() as server, server.client() as client:
        server.next(drop_after)
        t = client.transaction()
        t.check("/")
        await t.commit()
        assert len(server.requests) == 2


@simulated
async def test_is_bound_to_the_session_of_its_view():
    async with ScriptedServer() as server, server.client() as client:
        t = client.in_session().transaction()
        t.create("/a")
        server.znodes.end_session(client.session_id)
        server.connection.reset()
        async with client.states() as states:
            async for change in states:
                if change.state is State.RENEWED:
                    break
        with pytest.raises(SessionExpiredError):
            await t.commit()
        assert server.znodes.applied == []


@CHROOTS
@simulated
async def test_never_deletes_the_chroot(chroot):
    async with ScriptedServer() as server, server.client(chroot) as client:
        await client.ensure_path("/")
        t = client.transaction()
        t.delete("/")
        with pytest.raises(TransactionFailedError):
            await t.commit()
        (part,) = decode_multi_request(server.requests[-1].body, 0, len(server.requests[-1].body))
        assert part.path == "/"
        assert not [entry for entry in server.znodes.applied if entry[0] == "delete"]


@pytest.mark.parametrize(
    "results",
    [
        [],
        [CheckResult()],
        [CheckResult(), CreateResult("/b", None), SetDataResult(STAT), DeleteResult(), DeleteResult()],
        [CreateResult("/b", None), CreateResult("/b", None), SetDataResult(STAT), DeleteResult()],
        [CheckResult(), SetDataResult(STAT), SetDataResult(STAT), DeleteResult()],
        [CheckResult(), CreateResult("/b", None), CreateResult("/c", None), DeleteResult()],
        [CheckResult(), CreateResult("/b", None), SetDataResult(STAT), CheckResult()],
    ],
    ids=["none", "too few", "too many", "not a check", "not a create", "not a set", "not a delete"],
)
@simulated
async def test_results_that_do_not_fit_end_the_connection(results):
    def reply(connection: Connection, request: Received) -> None:
        apply(connection, request)
        connection.reply(request.xid, 0, encode_multi_reply(results))

    async with ScriptedServer() as server, server.client() as client:
        server.znodes.create("/c")
        changes: list[StateChange] = []
        client.add_listener(changes.append)
        server.next(reply)
        t = client.transaction()
        t.check("/")
        created, changed = t.create("/b"), t.set("/", b"")
        t.delete("/c")
        with pytest.raises(OutcomeUnknownError) as raised:
            await t.commit()
        assert isinstance(raised.value.reason, ProtocolError)
        await client.sync()
        assert isinstance(changes[0].reason, ProtocolError)
        for pending in (created, changed):
            with pytest.raises(ClientStateError):
                pending.result  # noqa: B018


@simulated
async def test_a_create_may_be_answered_with_a_stat():
    def reply(connection: Connection, request: Received) -> None:
        connection.reply(request.xid, 0, encode_multi_reply([CreateResult("/b", STAT)]))

    async with ScriptedServer() as server, server.client() as client:
        server.next(reply)
        async with client.transaction() as t:
            created = t.create("/b")
        assert created.result == "/b"


@simulated
async def test_a_refusal_of_which_the_culprit_is_unclear():
    """All parts failed with 0 or -2: the first is named."""

    def reply(connection: Connection, request: Received) -> None:
        connection.reply(request.xid, 0, encode_multi_reply([ErrorResult(-2), ErrorResult(-2)]))

    async with ScriptedServer() as server, server.client() as client:
        server.next(reply)
        t = client.transaction()
        t.create("/b")
        t.create("/c")
        with pytest.raises(TransactionFailedError) as raised:
            await t.commit()
        assert raised.value.index == 0


def test_a_result_that_is_not_there_yet():
    with pytest.raises(ClientStateError, match="not committed"):
        Pending().result  # noqa: B018


@simulated
async def test_repr():
    async with ScriptedServer() as server, server.client() as client:
        t = client.transaction()
        t.check("/")
        assert repr(t) == "<Transaction of 1 parts, open>"
        await t.commit()
        assert repr(t) == "<Transaction of 1 parts, committed>"


# --- with a guard -------------------------------------------------------------------------------------------------


class OffError(EverlatchError):
    """What a guard raises."""

    def __init__(self, error: ServerError) -> None:
        self.error = error


@CHROOTS
@simulated
async def test_a_guard_goes_before_all_parts_and_is_not_counted(chroot):
    async with ScriptedServer() as server, server.client(chroot) as client:
        await client.ensure_path("/guard")
        t = client.transaction(Guard("/guard", OffError))
        created = t.create("/b")
        changed = t.set("/guard", b"x")
        await t.commit()
        assert (created.result, changed.result.version) == ("/b", 1)
        body = next(request.body for request in server.requests if request.op == Op.MULTI)
        assert decode_multi_request(body, 0, len(body))[0] == CheckPart(f"{chroot}/guard", -1)
        t = client.transaction(Guard("/guard", OffError))
        t.check("/b")
        t.create("/b")
        with pytest.raises(TransactionFailedError) as raised:
            await t.commit()
        assert (raised.value.index, raised.value.path) == (1, "/b")
        assert type(raised.value.error) is NodeExistsError


@simulated
async def test_a_guard_that_is_gone_refuses_all():
    async with ScriptedServer() as server, server.client() as client:
        await client.create("/a")
        t = client.transaction(Guard("/guard", OffError))
        changed = t.set("/a", b"x")
        with pytest.raises(OffError) as raised:
            await t.commit()
        assert isinstance(raised.value.error, NoNodeError)
        assert raised.value.error.path == "/guard"
        with pytest.raises(ClientStateError, match="refused"):
            changed.result  # noqa: B018
        assert (await client.get("/a")).data == b""
        assert client.connections == 1


@simulated
async def test_a_guard_alone_tells_whether_it_is_there():
    async with ScriptedServer() as server, server.client() as client:
        with pytest.raises(OffError):
            await client.transaction(Guard("/guard", OffError)).commit()
        await client.create("/guard")
        await client.transaction(Guard("/guard", OffError)).commit()


@pytest.mark.parametrize("results", [[DeleteResult(), CheckResult()], [CheckResult()]], ids=["another", "too few"])
@simulated
async def test_a_guard_that_is_answered_by_something_else(results):
    def reply(connection: Connection, request: Received) -> None:
        connection.reply(request.xid, 0, encode_multi_reply(results))

    async with ScriptedServer() as server, server.client() as client:
        changes: list[StateChange] = []
        client.add_listener(changes.append)
        server.next(reply)
        t = client.transaction(Guard("/guard", OffError))
        t.delete("/a")
        with pytest.raises(OutcomeUnknownError) as raised:
            await t.commit()
        assert isinstance(raised.value.reason, ProtocolError)
