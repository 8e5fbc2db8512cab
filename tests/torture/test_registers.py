"""What the calls of a history are on registers; the orders themselves are judged in `test_linearizable`."""

from __future__ import annotations

import pytest
from torture.history import (
    CREATE,
    DELETE,
    EXISTS,
    GET,
    SET,
    SYNC,
    TRANSACTION,
    Applied,
    Call,
    Change,
    Ending,
    Fault,
    History,
)
from torture.linearizable import Kind, UndecidedError, contradiction
from torture.rules import registers
from torture.rules.registers import counted, judge, operations

from everlatch.partial_stat import UNKNOWN as NOT_TOLD
from everlatch.types import Created, Node, Stat

PATH = "/r/registers/1"


def stat(version=0, czxid=10, mzxid=10):
    return Stat(czxid, mzxid, 0, 0, version, 0, 0, 0, 0, 0, czxid)


class Story:
    """Calls of one client, each behind the one before, a second long."""

    def __init__(self):
        self.history = History(registers="/r/registers/")
        self.calls = self.history.calls[1] = []

    def call(self, kind, *, ending=Ending.OK, result=None, code=0, path=PATH, **more):
        number = len(self.calls) + 1
        call = Call(1, number, kind, path, began=2.0 * number, **more)
        call.ended, call.ending, call.result, call.code = call.began + 1, ending, result, code
        self.calls.append(call)
        return call

    def operations(self):
        return operations(self.history).get(PATH, [])

    def judged(self):
        return [violation.text for violation in judge(self.history)]


@pytest.fixture
def story():
    return Story()


def test_writes_that_were_acknowledged(story):
    story.call(CREATE, result=Created(PATH, stat()))
    story.call(SET, result=stat(1, 10, 11), version=0)
    story.call(DELETE, version=1)
    create, write, delete = story.operations()
    assert (create.kind, create.value, create.told, create.born, create.zxid) == (Kind.CREATE, b"1.1", 0, 10, 10)
    assert (write.kind, write.value, write.demanded, write.told, write.born, write.zxid) == (
        *(Kind.SET, b"1.2", 0, 1, 10, 11),
    )
    assert (delete.kind, delete.value, delete.demanded, delete.must) == (Kind.DELETE, b"", 1, True)
    assert (delete.began, delete.ended) == (6.0, 7.0)
    assert story.judged() == []


def test_a_write_that_happened_and_nobody_knows_how(story):
    story.call(CREATE, result=Created(PATH, stat()))
    story.call(SET).zxid = 11
    story.call(SET, result=Stat(*[NOT_TOLD, 12, 0, 0], *[NOT_TOLD] * 4, 0, *[NOT_TOLD] * 2))
    _, lost, partial = story.operations()
    assert (lost.told, lost.born, lost.zxid, lost.must) == (-1, 0, 11, True)
    assert (partial.told, partial.born, partial.zxid, partial.must) == (-1, 0, 12, True)
    assert story.judged() == []


@pytest.mark.parametrize("ending", [Ending.UNKNOWN, Ending.OPEN])
def test_a_write_of_which_nobody_knows_whether_it_happened(story, ending):
    story.call(SET, ending=ending, version=4)
    (write,) = story.operations()
    assert (write.kind, write.value, write.demanded, write.must) == (Kind.SET, b"1.1", 4, False)
    assert write.ended == float("inf")


@pytest.mark.parametrize(
    ("kind", "code", "reason"), [(CREATE, -110, Kind.PRESENT), (SET, -101, Kind.ABSENT), (DELETE, -103, Kind.UNLIKE)]
)
def test_a_refusal_is_a_look(story, kind, code, reason):
    story.call(kind, ending=Ending.REFUSED, code=code, version=2)
    never, look = story.operations()
    assert never.kind is Kind.NEVER
    assert (look.kind, look.demanded, look.began, look.ended) == (reason, 2, 2.0, 3.0)


def test_what_was_never_sent_says_nothing(story):
    story.call(SET, ending=Ending.REFUSED)
    assert [operation.kind for operation in story.operations()] == [Kind.NEVER]


@pytest.mark.parametrize("front", [SYNC, TRANSACTION])
@pytest.mark.parametrize(("kind", "result"), [(GET, Node(b"1.9", stat())), (EXISTS, stat())])
def test_a_read_lasts_from_what_goes_before_it(story, front, kind, result):
    story.call(front, path="/")
    story.call(kind, result=result, behind=1)
    (look,) = story.operations()
    assert (look.kind, look.began, look.ended, look.told, look.zxid) == (Kind.PRESENT, 2.0, 5.0, 0, 10)
    assert look.value == (b"1.9" if kind == GET else b"")


def test_a_read_of_nothing(story):
    story.call(SYNC, path="/")
    story.call(EXISTS, behind=1)
    story.call(GET, ending=Ending.REFUSED, code=-101, behind=1)
    assert [operation.kind for operation in story.operations()] == [Kind.ABSENT, Kind.ABSENT]


def test_other_reads_need_not_be_up_to_date(story):
    story.call(SYNC, path="/", ending=Ending.UNKNOWN)
    story.call(GET, result=Node(b"1.9", stat()), behind=1)
    story.call(GET, result=Node(b"1.9", stat()))
    story.call(EXISTS)
    story.call(GET, ending=Ending.REFUSED)
    assert [operation.kind for operation in story.operations()] == [Kind.WITNESS, Kind.WITNESS]


def test_a_sync_proves_nothing_where_a_leader_may_have_been_deposed(story):
    story.call(SYNC, path="/")
    story.call(TRANSACTION, path="/")
    story.call(GET, result=Node(b"1.9", stat()), behind=1)
    story.call(GET, result=Node(b"1.9", stat()), behind=2)
    story.history.faults.append(Fault("ServerPauses", "s1", 0.0, 1.0, hides=True))
    story.history.settling = 2.0
    assert [operation.kind for operation in story.operations()] == [Kind.WITNESS, Kind.PRESENT]


def test_what_is_wrong_is_told(story):
    story.call(CREATE, result=Created(PATH, stat()))
    story.call(SYNC, path="/")
    story.call(GET, result=Node(b"7.7", stat()), behind=2)
    (text,) = story.judged()
    assert text.startswith(f"{PATH}: call 1.3 (get {PATH}, at 6.000 s: acknowledged), which saw Node(data=b'7.7'")
    assert text.endswith("saw b'7.7', which nobody has written")


def test_a_write_that_was_not_applied_and_was_seen(story):
    story.call(CREATE, ending=Ending.REFUSED)
    story.call(SYNC, path="/")
    story.call(GET, result=Node(b"1.1", stat()), behind=2)
    (text,) = story.judged()
    assert "was said not to have been applied" in text


def test_what_is_counted(story):
    story.call(CREATE, result=Created(PATH, stat()))
    story.call(SET, ending=Ending.UNKNOWN)
    assert counted(story.history) == {
        "registers": 1,
        "on registers: creation": 1,
        "on registers: set": 1,
        "on registers: outcome unknown": 1,
    }


def test_other_histories_have_no_registers(story):
    story.history.registers = ""
    story.call(CREATE, result=Created(PATH, stat()))
    assert operations(story.history) == {}
    assert story.judged() == []


@pytest.fixture
def gives_up(monkeypatch):
    """The search gives up as soon as a write's outcome is unknown."""

    def searched(given):
        given = list(given)
        if all(operation.must for operation in given):
            return contradiction(given)
        raise UndecidedError("given up")

    monkeypatch.setattr(registers, "contradiction", searched)


def applied(zxid, kind, value=b"", path=PATH):
    return Applied(zxid, (Change(kind, path, value),))


def story_of_unknown_sets(story):
    story.call(CREATE, result=Created(PATH, stat()))
    story.call(SET, ending=Ending.UNKNOWN)
    story.call(SET, ending=Ending.UNKNOWN)
    story.call(SYNC, path="/")
    story.call(GET, result=Node(b"1.3", stat(1, 10, 12)), behind=4)


def test_where_the_search_gives_up_the_log_leads_to_an_order(story, gives_up):
    story_of_unknown_sets(story)
    assert story.judged() == [f"{PATH}: given up"]
    elsewhere = applied(11, SET, b"1.2", path="/r/registers/2")
    story.history.log = [applied(10, CREATE, b"1.1"), elsewhere, applied(12, SET, b"1.3")]
    assert story.judged() == []
    story.history.log.append(applied(14, DELETE))
    assert story.judged() == []


def test_a_log_that_leads_nowhere_decides_nothing(story, gives_up):
    story_of_unknown_sets(story)
    story.history.log = [applied(10, CREATE, b"1.1"), applied(11, SET, b"1.2"), applied(12, SET, b"1.3")]
    assert story.judged() == [f"{PATH}: given up"], "the reader saw version 1"
    story.call(DELETE, ending=Ending.UNKNOWN)
    assert story.judged() == [f"{PATH}: given up"], "nor is it known of a deletion whether it happened"
