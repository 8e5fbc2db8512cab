"""At random: whatever is lost, and whoever else writes, a call never ends with anything but what has happened."""

from __future__ import annotations

import random

import pytest

from everlatch.errors import OutcomeUnknownError, ResultLostError, WriteTimeoutError
from everlatch.partial_stat import UNKNOWN
from everlatch.session.session import Phase
from everlatch.types import Stat
from everlatch.wire.codes import Op
from everlatch.wire.multi import CreateResult, DeletePart, SetDataResult, decode_multi_reply
from session.driver import GET
from session.modelled import (
    BOTH,
    CREATE,
    DELETE,
    EPHEMERAL,
    IDEMPOTENT,
    PLACE,
    PROTECTED,
    SEQUENTIAL,
    SET,
    World,
    Write,
    created,
    written,
)

PATHS = ("/a", "/b", "/a/x", "/b/y", "/c")
SEEDS = range(40)


class Chaos:
    """A world, and who plays with it. `meddles`: somebody changes receipts, and sessions end."""

    def __init__(self, seed: int, *, receipts: bool, meddles: bool) -> None:
        self.rng = rng = random.Random(seed)
        options = {"receipts": rng.choice([1, 2, 5])} if receipts else {}
        limit = rng.choice([3, 10, 1000])
        self.world = World("/a", "/b", version=rng.choice(["3.9", "3.8"]), max_in_flight=limit, **options)
        self.meddles = meddles
        self.writes: list[Write] = []
        self.steps = [
            *[self.a_call] * 8,
            *[self.answers] * 3,
            *[self.somebody_writes] * 3,
            *[self.the_link_breaks] * 4,
            *[self.it_comes_back] * 3,
            self.somebody_goes,
            self.time_passes,
        ]
        if meddles:
            self.steps += [self.somebody_meddles, self.the_session_ends]

    @property
    def serves(self) -> bool:
        return self.world.driver.session.phase is Phase.SERVING

    def run(self) -> None:
        for _ in range(self.rng.randrange(10, 50)):
            self.rng.choice(self.steps)()
        for _ in range(3):
            self.it_comes_back()
            self.world.answer()

    def a_call(self) -> None:
        world, rng, number = self.world, self.rng, len(self.writes)
        path, data = rng.choice(PATHS), b"%d" % number
        node = world.tree.nodes.get(path)
        version = rng.choice([-1, -1, 0 if node is None else node.version])
        more = {"timeout": 0.5} if rng.random() < 0.05 else {}
        above = rng.choice(["/a", "/b"])
        name = f"{above}/_c_{number}-s-"
        parts = [
            written(path, data, version),
            DeletePart(path, -1),
            created(path, data, rng.choice([0, EPHEMERAL])),
            created(f"{above}/s-", data, rng.choice([SEQUENTIAL, BOTH])),
        ]
        make = rng.choice(
            [
                lambda: world.set(path, data, version, **more),
                lambda: world.set(path, data, options=IDEMPOTENT, **more),
                lambda: world.create(path, data, rng.choice([0, EPHEMERAL]), **more),
                lambda: world.create(path, data, options=IDEMPOTENT, **more),
                lambda: world.create(f"{above}/s-", data, rng.choice([SEQUENTIAL, BOTH]), **more),
                lambda: world.create(name, data, rng.choice([0, EPHEMERAL, SEQUENTIAL, BOTH]), options=PROTECTED),
                lambda: world.delete(path, version, **more),
                lambda: world.delete(path, options=IDEMPOTENT, **more),
                lambda: world.set_acl(path, **more),
                lambda: world.multi(*rng.sample(parts, rng.randrange(1, 4)), **more),
            ]
        )
        self.writes.append(make())
        if rng.random() < 0.2:
            world.driver.submit(GET, path)

    def answers(self) -> None:
        if self.serves:
            self.world.answer(self.rng.choice([1, 1, 2, 3, None]))

    def somebody_writes(self) -> None:
        path = self.rng.choice(PATHS)
        node, above = self.world.tree.nodes.get(path), self.world.tree.nodes.get(path.rpartition("/")[0] or "/")
        if node is None:
            if above is not None and not above.owner:
                self.world.other(CREATE, path)
        elif node.children or self.rng.random() < 0.5:
            self.world.other(SET, path, b"other")
        else:
            self.world.other(DELETE, path)

    def somebody_meddles(self) -> None:
        slots = [path for path in self.world.tree.nodes if path.startswith(f"{PLACE}/")]
        if slots:
            self.world.other(self.rng.choice([SET, DELETE]), self.rng.choice(slots))

    def the_session_ends(self) -> None:
        if not self.serves and self.world.driver.session._draining.step is None:
            driver = self.world.driver
            self.world.expire()
            driver.made()
            if driver.session._draining.step is None:
                driver.expire()
                driver.session_id += 1
                self.world.back(driver.session_id)

    def somebody_goes(self) -> None:
        if self.writes:
            write = self.rng.choice(self.writes)
            if not write.call.done():
                self.world.cancel(write)

    def time_passes(self) -> None:
        self.world.driver.now += 0.6
        self.world.driver.session.requests.expire(self.world.driver.now)

    def the_link_breaks(self) -> None:
        if self.serves:
            self.world.lose(applied=self.rng.randrange(len(self.world.driver.unanswered) + 1))

    def it_comes_back(self) -> None:
        if not self.serves:
            self.world.back()

    # -- what has happened

    def check(self) -> None:
        for write in self.writes:
            self.check_write(write)
        self.check_order()
        session = self.world.driver.session
        requests = session.requests
        assert len(requests) == 0
        if session._receipts is not None:
            slots = session._receipts.free
            assert len(slots) == session._receipts._live, "none is lost, and none is there twice"
            if not self.meddles:
                assert all(self.world.stat(slot.path).version == slot.version for slot in slots)

    def check_write(self, write: Write) -> None:
        operation, error = write.request.operation, write.call.error
        replies = [change.reply for change in self.world.applied if change.request is write.request]
        may_repeat = operation.is_idempotent or operation.is_protected
        assert len(replies) <= 1 or may_repeat
        if write.call.cancelled:
            return
        assert write.call.ends == 1
        if error is None:
            assert replies or (operation.is_idempotent and operation.op in (Op.CREATE2, Op.DELETE))
            if len(replies) == 1 and not may_repeat:
                self.check_result(write, replies[0])
        elif isinstance(error, OutcomeUnknownError):
            can_know = operation.is_receipted and not self.meddles
            assert isinstance(error, WriteTimeoutError) or not can_know
        elif isinstance(error, ResultLostError):
            assert replies or operation.is_idempotent
        else:
            assert not replies, "what says that it was not applied was not"

    def check_result(self, write: Write, reply: bytes) -> None:
        operation, told = write.request.operation, write.call.result
        if operation.is_receipted:
            results = decode_multi_reply(reply, 0, len(reply))[1:]
        elif operation.op == Op.MULTI:
            results = decode_multi_reply(reply, 0, len(reply))
        else:
            assert same(told, operation.decode(reply, 0, len(reply)))
            return
        for mine, true in zip(told if operation.op == Op.MULTI else [told], results, strict=True):
            if isinstance(true, CreateResult):
                assert mine is None or mine.path == true.path
                assert mine is None or None in (mine.stat, true.stat) or mine.stat == true.stat
            elif isinstance(true, SetDataResult):
                assert same(mine.stat if operation.op == Op.MULTI else mine, true.stat)

    def check_order(self) -> None:
        numbers = {id(write.request): number for number, write in enumerate(self.writes)}
        applied = [
            numbers[id(change.request)]
            for change in self.world.applied
            if id(change.request) in numbers
            and not (change.request.operation.is_idempotent or change.request.operation.is_protected)
        ]
        assert applied == sorted(applied)


def same(told: object, true: object) -> bool:
    """What of a Stat is known is true; of children and ACL it may be newer."""
    if not isinstance(true, Stat):
        return told == true
    assert isinstance(told, Stat)
    known = [0, 1, 2, 3, 4, 7, 8]
    return all(tuple.__getitem__(told, i) in (UNKNOWN, tuple.__getitem__(true, i)) for i in known)


@pytest.mark.parametrize("meddles", [False, True])
@pytest.mark.parametrize("receipts", [False, True])
def test_no_call_ends_with_anything_but_what_has_happened(receipts, meddles):
    for seed in SEEDS:
        chaos = Chaos(seed, receipts=receipts, meddles=meddles)
        try:
            chaos.run()
            chaos.check()
        except BaseException as error:
            error.add_note(f"with seed {seed}")
            raise
