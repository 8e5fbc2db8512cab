"""The node of a keeper: how it is made, found again, written and deleted, for the calls of one session.

Rules:
1. A node counts as held only when its `ephemeralOwner` is the session that asks. One of that name which a former
   session of the same keeper has left is replaced: deleted and made anew by one transaction, with the version that was
   seen, so that nothing is taken away that has changed meanwhile.
2. Any other node under the path is somebody else's. It is never touched, unless the keeper was told to replace it.
3. ZooKeeper checks versions, but not owners. Who deletes a node between our look and our write and has by then made
   one of the same version there is not seen; that takes a round trip at most.
4. A numbered node has the keeper's GUID in its name: whatever has it is ours, however it came about, and is found by
   it. So a lost reply doesn't make two.
5. What was sent and whose reply nobody has seen is looked for before another one is made in the same session; in the
   next one, where the first thing is to have a node, right after.
6. A numbered node of a session that was only assumed lost is still there, as a rule: it keeps its number.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from everlatch.errors import (
    BadVersionError,
    EverlatchError,
    NoAuthError,
    NodeExistsError,
    NodeOccupiedError,
    NoNodeError,
    OutcomeUnknownError,
    ResultLostError,
    ServerError,
    TransactionFailedError,
    WriteNotAppliedError,
)
from everlatch.paths import join, parent
from everlatch.types import Created, Outcome, Stat

if TYPE_CHECKING:
    from collections.abc import Sequence

    from everlatch.engine.call import Call
    from everlatch.engine.engine import Engine
    from everlatch.operations import Operations
    from everlatch.types import ACL, Watch

__all__ = ["LOST", "Attempt", "Held", "KeptNode", "NamedNode", "NumberedNode", "Tenure"]

LOST: Final = (OutcomeUnknownError, WriteNotAppliedError, ResultLostError)
"""What may become of a write whose reply was lost: look, and go on."""
_MOST_REMEMBERED: Final = 100
"""Former sessions: what older ones have left is long gone."""
_REPLACING_PAUSE: Final = 10.0
"""Seconds between two replacements of somebody else's node: he may have been told to replace ours."""
_CHANGED: Final = (NoNodeError, BadVersionError, NodeExistsError)
"""Refusals that say that things are no longer as they were seen."""


class Tenure(NamedTuple):
    """One session, and the calls that are bound to it."""

    id: int
    generation: int
    calls: Operations
    engine: Engine


class Held(NamedTuple):
    """The keeper's node, in the session that it belongs to."""

    path: str
    generation: int
    czxid: int
    version: int
    number: int
    """Of the update whose data it has; −1: that isn't known."""


class Attempt(NamedTuple):
    """The first calls for a node, on their way."""

    tenure: Tenure
    data: bytes
    number: int
    """Of the update that the data comes from."""
    calls: list[Call[Any]]
    had_strays: bool
    """Whether there may have been nodes of ours that nobody has seen, before this."""
    looks: bool = False
    """Whether it only looks for the one that this session has."""

    def abandon(self) -> None:
        """Nobody will look at what becomes of them."""
        for call in self.calls:
            if not call.cancel() and not call.cancelled():
                call.exception()


class KeptNode:
    """What is the same for both kinds."""

    def __init__(self, path: str, acl: Sequence[ACL] | None, watch: Watch) -> None:
        self._path = path
        self._acl = acl
        self._watch = watch
        self.parent = parent(path)

    def begin(self, tenure: Tenure, data: bytes, number: int) -> Attempt:
        """Sends the first calls for a node with this data. Raises what making a call raises."""
        raise NotImplementedError

    async def finish(self, attempt: Attempt) -> Held | None:
        """The node that has come of it; `None`: try again at once. Raises `NoNodeError` (there is no parent),
        `NodeOccupiedError`, and what the servers refuse it with."""
        raise NotImplementedError

    async def release(self, tenure: Tenure, held: Held | None) -> None:
        """Returns when there is no node of ours any more."""
        raise NotImplementedError

    def forget(self) -> None:
        """The node is known to be gone."""

    async def look(self, tenure: Tenure, held: Held) -> Held | None:
        """Looks at the node, and watches it on; `None`: it is gone, or not ours any more."""
        try:
            stat = await tenure.calls.exists(held.path, watch=self._watch, timeout=None)
        except NoAuthError:  # others would tell of its end; only we can't
            return held
        if stat is None or stat.czxid != held.czxid or stat.ephemeral_owner != tenure.id:
            return None
        return held._replace(version=stat.version)

    async def write(self, tenure: Tenure, held: Held, data: bytes, number: int) -> Held | None:
        """Gives it data; `None`: it isn't what it was, look. Raises the servers' refusals."""
        try:
            stat = await tenure.calls.set(held.path, data, version=held.version, timeout=None)
            if stat.czxid != held.czxid:
                return None
            return held._replace(version=stat.version, number=number)
        except (NoNodeError, BadVersionError, *LOST):  # what isn't known of a Stat raises as well
            return None

    async def _watched(self, tenure: Tenure, path: str) -> Stat | None:
        with tenure.engine.ahead():
            look = tenure.calls.exists(path, watch=self._watch, timeout=None)
        return await look


class NamedNode(KeptNode):
    """One that has just this path."""

    def __init__(self, path: str, acl: Sequence[ACL] | None, watch: Watch, *, replace: bool) -> None:
        super().__init__(path, acl, watch)
        self._replace_others = replace
        self._replaced_at: float | None = None
        self._made: dict[int, int] = {}
        """Sessions that we have asked for a node → the zxid that it was made at; 0: not known."""

    def begin(self, tenure: Tenure, data: bytes, number: int) -> Attempt:
        """A creation, and right behind it a look, which watches it."""
        if tenure.id not in self._made:
            self._made[tenure.id] = 0
            if len(self._made) > _MOST_REMEMBERED:
                del self._made[next(iter(self._made))]
        calls: list[Call[Any]] = []
        attempt = Attempt(tenure, data, number, calls, had_strays=False)
        try:
            calls.append(tenure.calls.create(self._path, data, ephemeral=True, acl=self._acl, timeout=None))
            calls.append(tenure.calls.exists(self._path, watch=self._watch, timeout=None))
        except BaseException:
            attempt.abandon()
            raise
        return attempt

    async def finish(self, attempt: Attempt) -> Held | None:
        """By what the creation was answered with, and by whose node is there."""
        made, seen = await asyncio.gather(*attempt.calls, return_exceptions=True)
        tenure = attempt.tenure
        if isinstance(made, Created):
            self._made[tenure.id] = made.stat.czxid
            if isinstance(seen, Stat) and seen.czxid == made.stat.czxid:
                return self._held(attempt, seen, attempt.number)
            if isinstance(seen, NoAuthError):  # an ACL that keeps even us from looking
                return self._held(attempt, made.stat, attempt.number)
            _result(seen)
            return None
        if not isinstance(made, (NodeExistsError, *LOST)):
            _result(made)
        stat: Stat | None = _result(seen)
        return None if stat is None else await self._meet(attempt, stat)

    async def _meet(self, attempt: Attempt, stat: Stat) -> Held | None:
        """There is a node already."""
        tenure, owner = attempt.tenure, stat.ephemeral_owner
        if owner == tenure.id:
            return await self._adopt(attempt, stat)
        if owner in self._made and self._made[owner] in (0, stat.czxid):
            return await self._replace(attempt, stat)
        now = tenure.engine.now()
        if not self._replace_others or (self._replaced_at is not None and now < self._replaced_at + _REPLACING_PAUSE):
            raise NodeOccupiedError(self._path, owner)
        held = await self._replace(attempt, stat)
        if held is not None:
            self._replaced_at = now
        return held

    async def _adopt(self, attempt: Attempt, stat: Stat) -> Held | None:
        """Ours, from a creation whose reply was lost, say: which data does it have?"""
        self._made[attempt.tenure.id] = stat.czxid
        try:
            data, stat_of_data = await attempt.tenure.calls.get(self._path, timeout=None)
        except NoNodeError:
            return None
        except NoAuthError:
            return self._held(attempt, stat, -1)
        if stat_of_data.czxid != stat.czxid:
            return None
        return self._held(attempt, stat_of_data, attempt.number if data == attempt.data else -1)

    async def _replace(self, attempt: Attempt, stat: Stat) -> Held | None:
        """In one transaction; nobody sees the path without a node."""
        tenure = attempt.tenure
        replacing = tenure.calls.transaction()
        replacing.delete(self._path, version=stat.version)
        replacing.create(self._path, attempt.data, ephemeral=True, acl=self._acl)
        with tenure.engine.ahead():
            replaced = replacing.commit(timeout=None)
            look = tenure.calls.exists(self._path, watch=self._watch, timeout=None)
        done, seen = await asyncio.gather(replaced, look, return_exceptions=True)
        if isinstance(done, TransactionFailedError):
            if isinstance(done.error, _CHANGED):
                return None
            raise done.error from done
        if not isinstance(done, LOST):
            _result(done)
        now: Stat | None = _result(seen)
        if now is None or now.ephemeral_owner != tenure.id:
            return None
        self._made[tenure.id] = now.czxid
        return self._held(attempt, now, attempt.number if done is None else -1)

    def _held(self, attempt: Attempt, stat: Stat, number: int) -> Held:
        return Held(self._path, attempt.tenure.generation, stat.czxid, stat.version, number)

    async def release(self, tenure: Tenure, held: Held | None) -> None:
        """Deletes it if it is there and the session's own, whatever was changed about it."""
        while True:
            try:
                stat = await tenure.calls.exists(self._path, timeout=None)
            except NoAuthError:
                if held is None:
                    raise
                await tenure.calls.delete(self._path, version=held.version, timeout=None)
                return
            if stat is None or stat.ephemeral_owner != tenure.id:
                return
            with contextlib.suppress(NoNodeError, BadVersionError):
                await tenure.calls.delete(self._path, version=stat.version, timeout=None)


class NumberedNode(KeptNode):
    """One whose name ends with a number, and has the keeper's GUID in it, in the form of Curator's protected ones."""

    def __init__(self, path: str, acl: Sequence[ACL] | None, watch: Watch, guid: str) -> None:
        super().__init__(path, acl, watch)
        self._prefix = f"_c_{guid}-{path.rpartition('/')[2]}"
        self._last = ""
        """The last one that we know of; it may be there still, in a session that has not been ended yet."""
        self._found_last: Held | None = None
        """What was found of it last; `None`: it is not known to be a session's own."""
        self._has_strays = False
        """Whether there may be others, whose names nobody has seen."""

    def begin(self, tenure: Tenure, data: bytes, number: int) -> Attempt:
        """A creation; what is left of the last one is taken away before, so that there are never two. If that is this
        session's own, a look at it."""
        calls: list[Call[Any]] = []
        if self._found_last is not None and self._found_last.generation == tenure.generation:
            calls.append(tenure.calls.exists(self._found_last.path, watch=self._watch, timeout=None))
            return Attempt(tenure, data, number, calls, self._has_strays, looks=True)
        attempt = Attempt(tenure, data, number, calls, self._has_strays)
        try:
            if self._last:
                calls.append(tenure.calls.delete(self._last, timeout=None))
            name = join(self.parent, self._prefix)
            calls.append(tenure.calls.create(name, data, ephemeral=True, sequential=True, acl=self._acl, timeout=None))
        except BaseException:
            attempt.abandon()
            raise
        self._has_strays = True  # until its reply is seen
        return attempt

    async def finish(self, attempt: Attempt) -> Held | None:
        """By what the creation was answered with."""
        if attempt.looks:
            return await self._seen(attempt)
        *gone, made = await asyncio.gather(*attempt.calls, return_exceptions=True)
        if gone and (gone[0] is None or isinstance(gone[0], NoNodeError)):
            self._last = ""
        if isinstance(made, Created):
            return await self._made(attempt, made)
        if isinstance(made, EverlatchError) and made.outcome is Outcome.NOT_APPLIED:
            self._has_strays = attempt.had_strays
        if not isinstance(made, LOST):
            _result(made)
        path = await self._sweep(attempt.tenure)
        return await self._found(attempt, path, -1) if path else None

    async def _made(self, attempt: Attempt, made: Created) -> Held | None:
        is_last_there, last = bool(self._last), self._last
        self._last, self._found_last = made.path, None
        self._has_strays = attempt.had_strays
        if is_last_there:  # the reply was lost; or it was refused, and then it goes with its session
            with contextlib.suppress(ServerError, *LOST):
                await attempt.tenure.calls.delete(last, timeout=None)
        if self._has_strays:
            await self._sweep(attempt.tenure)
        return await self._found(attempt, made.path, attempt.number, made.stat)

    async def _seen(self, attempt: Attempt) -> Held | None:
        """By what there is of the last one."""
        last = self._found_last
        try:
            stat = await attempt.calls[0]
        except NoAuthError:
            return last and last._replace(number=-1)
        if stat is None or last is None:
            self.forget()
            return None
        if attempt.had_strays:
            await self._sweep(attempt.tenure)
        return last._replace(version=stat.version, number=-1)

    def forget(self) -> None:
        """The last one has gone."""
        self._last, self._found_last = "", None

    async def _found(self, attempt: Attempt, path: str, number: int, made: Stat | None = None) -> Held | None:
        tenure = attempt.tenure
        try:
            stat = await self._watched(tenure, path)
        except NoAuthError:  # an ACL that keeps even us from looking
            if made is None:
                raise
            stat = made
        if stat is None or stat.ephemeral_owner != tenure.id:
            return None
        self._found_last = Held(path, tenure.generation, stat.czxid, stat.version, number)
        return self._found_last

    async def _sweep(self, tenure: Tenure, *, keeps: bool = True) -> str:
        """Deletes all that are ours but one of this session, and returns that."""
        try:
            names = await tenure.calls.children(self.parent, timeout=None)
        except NoNodeError:
            names = []
        paths = [join(self.parent, name) for name in names if name.startswith(self._prefix)]
        stats = {path: await tenure.calls.exists(path, timeout=None) for path in paths}
        own = [path for path, stat in stats.items() if keeps and stat and stat.ephemeral_owner == tenure.id]
        kept = self._last if self._last in own else own[0] if own else ""
        for path in paths:
            if path != kept:
                with contextlib.suppress(NoNodeError, NoAuthError):
                    await tenure.calls.delete(path, timeout=None)
        self._has_strays = False
        if kept != self._last:
            self._last, self._found_last = kept, None
        return kept

    async def release(self, tenure: Tenure, held: Held | None) -> None:
        """Deletes it, and all that may have come of creations that nobody has seen the reply of."""
        if self._last:
            with contextlib.suppress(NoNodeError):
                await tenure.calls.delete(self._last, timeout=None)
        if self._has_strays:
            await self._sweep(tenure, keeps=False)
        self._last = ""


def _result(answer: Any) -> Any:
    """Of a call whose end was gathered."""
    if isinstance(answer, BaseException):
        raise answer
    return answer
