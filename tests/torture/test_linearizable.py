"""The judge of registers: against histories made by hand, and against one that tries every order."""

from __future__ import annotations

import random
from dataclasses import replace
from math import inf

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torture.linearizable import ABSENT, Kind, Operation, Register, UndecidedError, contradiction, step


def create(began, ended=inf, value="a", zxid=0, **more):
    told = {"told": 0, "born": zxid, "zxid": zxid} if zxid else {}
    return Operation(Kind.CREATE, began, ended, value=value.encode(), **told | more)


def write(began, ended=inf, value="b", told=-1, zxid=0, **more):
    return Operation(Kind.SET, began, ended, value=value.encode(), told=told, zxid=zxid, **more)


def delete(began, ended=inf, demanded=-1, **more):
    return Operation(Kind.DELETE, began, ended, demanded=demanded, **more)


def read(began, ended, value="a", told=-1, **more):
    return Operation(Kind.PRESENT, began, ended, value=value.encode(), told=told, **more)


def absent(began, ended):
    return Operation(Kind.ABSENT, began, ended)


def unlike(began, ended, demanded):
    return Operation(Kind.UNLIKE, began, ended, demanded=demanded)


def never(began, ended, value):
    return Operation(Kind.NEVER, began, ended, value=value.encode())


def perhaps(operation):
    return replace(operation, ended=inf, must=False)


CREATED = create(0, 1)

GOOD = {
    "nothing": [],
    "one after the other": [CREATED, write(2, 3, told=1), read(4, 5, "b", 1), delete(6, 7), absent(8, 9)],
    "reads that overlap a write may see it or not": [
        CREATED,
        write(2, 9, told=1),
        read(3, 4, "a", 0),
        read(5, 6, "b", 1),
        read(3, 8, "b", 1),
    ],
    "writes in the other order than they ended": [
        CREATED,
        write(2, 9, "b", told=2),
        write(2, 3, "c", told=1),
        read(10, 11, "b"),
    ],
    "of unknown outcome, never": [CREATED, perhaps(write(2)), read(4, 5, "a", 0), read(90, 91, "a", 0)],
    "of unknown outcome, late": [CREATED, perhaps(write(2)), read(4, 5, "a", 0), read(90, 91, "b", 1)],
    "of unknown outcome, known by the versions only": [
        CREATED,
        perhaps(write(2, value="c")),
        perhaps(write(2, value="d")),
        write(4, 5, told=3),
    ],
    "of unknown outcome, and it was deleted and made again": [
        CREATED,
        perhaps(delete(2)),
        perhaps(create(2, value="b")),
        read(5, 6, "a"),
        absent(7, 8),
        read(9, 10, "b"),
    ],
    "a versioned one of unknown outcome": [
        CREATED,
        perhaps(write(2, demanded=0)),
        unlike(3, 4, 0),
        write(5, 6, "c", 2),
    ],
    "refused, for a reason that is there": [
        CREATED,
        Operation(Kind.PRESENT, 2, 3),
        unlike(2, 3, 7),
        delete(4, 5),
        absent(6, 7),
    ],
    "a result was lost": [CREATED, write(2, 3), write(4, 5, "c", 2)],
    "what was not applied was not": [CREATED, never(2, 3, "b"), read(4, 5, "a", 0)],
    "an old state, for who does not ask for more": [
        CREATED,
        write(2, 3, told=1),
        Operation(Kind.WITNESS, 4, 5, value=b"a", told=0),
    ],
    "written to twice before anybody saw since when it is": [
        perhaps(create(0)),
        write(2, 3, "b", zxid=6),
        write(4, 5, "c", zxid=7),
        write(6, 7, "d", told=3, born=5, zxid=8),
    ],
    "by zxids": [create(0, 1, zxid=5), write(0, 9, told=1, zxid=7), read(2, 3, "b", 1, born=5, zxid=7)],
}

BAD = {
    "an update is lost": [CREATED, write(2, 3, "b"), write(4, 5, "c"), read(6, 7, "b")],
    "an update is lost, as the version tells": [CREATED, write(2, 3, "b", told=1), write(4, 5, "c", told=1)],
    "acknowledged, and not there": [CREATED, write(2, 3), read(4, 5, "a", 0)],
    "a read is stale": [CREATED, write(2, 3, told=1), read(4, 5, "a", 0)],
    "two reads go back in time": [CREATED, write(2, 9, told=1), read(3, 4, "b", 1), read(5, 6, "a", 0)],
    "a set is applied twice": [
        CREATED,
        write(2, 3, "b", told=1),
        read(4, 5, "b", 1),
        write(6, 7, "c", told=2),
        read(8, 9, "b", 3),
    ],
    "a set is applied twice, unseen": [CREATED, write(2, 3, "b"), write(6, 7, "c", told=3)],
    "a set is applied twice, as the zxids tell": [
        create(0, 1, zxid=5),
        read(2, 9, "b", born=5, zxid=6),
        write(2, 3, "b", zxid=7),
    ],
    "one of unknown outcome is applied twice": [
        CREATED,
        perhaps(write(2, value="b")),
        read(4, 5, "b", 1),
        write(6, 7, "c", told=2),
        read(8, 9, "b"),
    ],
    "not applied, they said, and it was": [CREATED, never(2, 3, "b"), read(4, 5, "b", 1)],
    "not applied, they said, and the version tells": [CREATED, never(2, 3, "b"), write(4, 5, "c", told=2)],
    "nobody wrote it": [CREATED, read(4, 5, "z")],
    "nobody wrote it yet": [CREATED, read(2, 3, "b"), write(4, 5, "b")],
    "nobody wrote what one saw who asked for an old state": [
        CREATED,
        Operation(Kind.WITNESS, 4, 5, value=b"z"),
    ],
    "a deleted node is back": [CREATED, delete(2, 3), absent(4, 5), read(6, 7, "a", 0)],
    "a deletion did not happen": [CREATED, delete(2, 3), Operation(Kind.PRESENT, 4, 5)],
    "deleted twice": [CREATED, delete(2, 3), delete(4, 5)],
    "created twice": [CREATED, create(2, 3, "b")],
    "one version is set twice": [CREATED, write(2, 3, "b", demanded=0), write(2, 3, "c", demanded=0)],
    "the wrong version is set": [CREATED, write(2, 3, "b", demanded=4)],
    "refused, and the version was right": [CREATED, unlike(2, 3, 0)],
    "refused because it is there, and it is not": [Operation(Kind.PRESENT, 2, 3)],
    "refused because it is not there, and it is": [CREATED, absent(2, 3)],
    "of unknown outcome, before it began": [CREATED, read(2, 3, "b"), perhaps(write(4))],
    "zxids go back": [create(0, 1, zxid=5), write(2, 3, told=1, zxid=4)],
    "another incarnation, of which nobody knows": [create(0, 1, zxid=5), read(2, 3, "", 1, born=6, zxid=7)],
}


@pytest.mark.parametrize("name", GOOD)
def test_right(name):
    assert contradiction(GOOD[name]) is None
    assert in_some_order(GOOD[name]) or any(operation.kind is Kind.WITNESS for operation in GOOD[name])


@pytest.mark.parametrize("name", BAD)
def test_wrong(name):
    found = contradiction(BAD[name])
    assert found is not None
    assert found.text


def test_it_is_told_what_fits_nowhere_and_what_there_was():
    operations = [
        create(0, 1, zxid=5, name="call 1.1"),
        perhaps(write(2, value="c")),
        write(2, 9, "d", told=2, name="call 3.1"),
        read(3, 4, "", 7, name="call 2.1"),
    ]
    found = contradiction(operations)
    assert found is not None
    assert found.time == 4
    assert found.text == (
        "call 2.1 fits nowhere between its begin and its end: before, there was, for one, a, version 0, created "
        "at 0x5, written at 0x5; at its end there were call 3.1, and 1 whose outcome is unknown"
    )


def test_a_search_without_end_is_given_up():
    operations = [CREATED, *(perhaps(write(2, value=f"{number}")) for number in range(9)), read(5, 6, "", 8)]
    assert contradiction(operations) is None
    with pytest.raises(UndecidedError):
        contradiction(operations, most_steps=5)


# -- against one that tries every order


def in_some_order(operations, register=ABSENT):
    """Whether there is one; nothing clever."""
    left = [operation for operation in operations if operation.kind is not Kind.NEVER]
    if not any(operation.must for operation in left):
        return True
    deadline = min(operation.ended for operation in left if operation.must)
    for operation in left:
        if operation.began <= deadline:
            following = step(register, operation)
            if following is not None and in_some_order([each for each in left if each is not operation], following):
                return True
    return False


def happened(rng, count):
    """A history that is right: operations on a register, each about the moment at which it took effect."""
    register, operations = ABSENT, []
    for moment in range(1, count + 1):
        began, ended = moment - rng.choice([0, 1, 1.5, 3]), moment + rng.choice([0, 1, 1.5, 3])
        value, zxid = b"%d" % moment, 10 * moment
        demanded = rng.choice([-1, -1, register.version, 1])
        stat = {"told": register.version, "born": register.born, "zxid": register.zxid}
        match rng.randrange(6 if register.there else 2):
            case 0 if not register.there:
                made = Operation(Kind.CREATE, began, ended, value=value, told=0, born=zxid, zxid=zxid)
            case 1 if not register.there:
                made = Operation(Kind.ABSENT, began, ended)
            case 0 | 1:
                made = Operation(Kind.PRESENT, began, ended, value=rng.choice([b"", register.value]), **stat)
            case 2:
                made = Operation(Kind.DELETE, began, ended, demanded=demanded)
            case 3:
                made = Operation(Kind.UNLIKE, began, ended, demanded=demanded if demanded >= 0 else 7)
            case _:
                told = stat | {"told": register.version + 1, "zxid": zxid}
                made = Operation(Kind.SET, began, ended, demanded=demanded, value=value, **told)
        following = step(register, made)
        if following is not None:
            register = following
            operations.append(made)
    return operations


def disguised(rng, operations, *, zxids):
    """The same, told less of; and some that were made besides and may have been applied."""
    told = []
    for operation in operations:
        each = operation
        if not zxids:
            each = replace(each, born=0, zxid=0)
        if each.kind in (Kind.CREATE, Kind.SET, Kind.DELETE):
            if rng.random() < 0.3:
                each = replace(each, ended=inf, must=False, told=-1, born=0, zxid=0)
            elif rng.random() < 0.3:
                each = replace(each, told=-1, born=0, zxid=0)
            elif rng.random() < 0.3:
                each = replace(each, told=-1, born=each.zxid if each.kind is Kind.CREATE else 0)
        told.append(each)
    for number in range(rng.randrange(3)):
        kind = rng.choice([Kind.CREATE, Kind.SET, Kind.DELETE, Kind.NEVER])
        value = b"" if kind is Kind.DELETE else b"extra %d" % number
        demanded = rng.choice([-1, -1, 0, 1]) if kind in (Kind.SET, Kind.DELETE) else -1
        began = rng.uniform(0, 8)
        told.append(Operation(kind, began, must=kind is Kind.NEVER, demanded=demanded, value=value))
    rng.shuffle(told)
    return told


def spoilt(rng, operations):
    """With something that is otherwise."""
    index = rng.randrange(len(operations))
    other = rng.choice(operations)
    each = operations[index]
    match rng.randrange(6):
        case 0:
            each = replace(each, told=each.told + rng.choice([-1, 1])) if each.told >= 0 else each
        case 1:
            each = replace(each, value=other.value) if each.kind is Kind.PRESENT else each
        case 2 if each.ended < inf:
            length = each.ended - each.began
            began = max(0.0, each.began + rng.choice([-3, -2, 2, 3]))
            each = replace(each, began=began, ended=began + length)
        case 3 if each.kind in (Kind.CREATE, Kind.SET) and each.value:
            each = Operation(Kind.NEVER, each.began, each.ended, value=each.value)
        case 4:
            return operations[:index] + operations[index + 1 :]
        case _:
            each = replace(each, demanded=rng.choice([-1, 0, 1])) if each.kind is not Kind.NEVER else each
    return [*operations[:index], each, *operations[index + 1 :]]


@settings(max_examples=400, deadline=None)
@given(seed=st.integers(0, 2**32), count=st.integers(1, 7), zxids=st.booleans(), changes=st.integers(0, 2))
def test_it_says_what_all_orders_say(seed, count, zxids, changes):
    rng = random.Random(seed)
    operations = disguised(rng, happened(rng, count), zxids=zxids)
    for _ in range(changes if operations else 0):
        operations = spoilt(rng, operations) or operations
    found = contradiction(operations)
    assert (found is None) == in_some_order(operations), found
    if not changes:
        assert found is None


def test_long_histories_are_no_harder():
    """Thousands of operations on one node, a tenth of the writes of unknown outcome, take a few steps each."""
    rng = random.Random(1)
    operations = [
        replace(each, ended=inf, must=False, told=-1, born=0, zxid=0)
        if each.kind in (Kind.SET, Kind.CREATE, Kind.DELETE) and rng.random() < 0.1
        else each
        for each in happened(rng, 5000)
    ]
    assert len(operations) > 3000
    assert contradiction(operations, most_steps=20 * len(operations)) is None
    wrong = Operation(Kind.PRESENT, 6000, 6001, told=500, name="the last one")
    with pytest.raises(
        UndecidedError, match=r"no order was found in 5000 steps; .* furthest: the last one fits nowhere"
    ):
        contradiction([*operations, wrong], most_steps=5000)


def test_a_register_says_what_it_is():
    assert str(ABSENT) == "no node"
    assert (
        str(Register(True, version=3)) == "a value that nobody saw, version 3, created at unknown, written at unknown"
    )
