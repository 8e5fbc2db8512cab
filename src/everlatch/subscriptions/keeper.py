"""A node that is kept: there as long as its keeper is, whatever becomes of sessions, connections and the node.

Rules:
1. It is present when its `ephemeralOwner` is the session that the client has, and not one that must be assumed lost.
2. When a session begins, the first calls for the node go ahead of all that waits (promise P6): whatever was called
   before or meanwhile and is sent in that session finds the node, unless there is something in its way. Only writes
   that had been sent before and are sent again come first (promise P4), and reads between them.
3. One task does all the work, in steps: look what there is, do what is missing, wait for news. Users' calls wait for
   what it finds, and can be cancelled at any moment.
4. Deleted by anybody, it is made again. Its data, changed by somebody else, stays as it is until the next `update`, or
   until the node has to be made again: then it gets the data of the last update. (Curator's PersistentNode does so.)
5. What the servers refuse is told, and tried again after a second, and then the seldomer, up to ten. Steps that come
   to nothing are repeated at once, but the seldomer, too, when there are many in a row.
6. Closing deletes the node, however long that takes; the session's end does it else.
7. Now and then the node is looked at though no event has come, for servers don't tell of nodes that may not be read.
8. On a read-only server nothing of ours waits in the queue: whatever is called behind it would wait as well.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from copy import copy
from typing import TYPE_CHECKING, Final, Self

from everlatch.arguments import checked_acl, checked_data, checked_timeout, server_path_of_new
from everlatch.engine.changes import Changes, within
from everlatch.errors import (
    AlreadyStartedError,
    AuthFailedError,
    ClientClosedError,
    ClientStateError,
    EverlatchError,
    GaveUpError,
    NodeOccupiedError,
    NoNodeError,
    NotReadOnlyError,
    ServerError,
    SessionExpiredError,
    SessionMovedError,
    ThrottledOpError,
    describe,
)
from everlatch.operations import Operations
from everlatch.session.watches import DATA
from everlatch.subscriptions.feed import FIRST_PAUSE, LONGEST_PAUSE, PASSING
from everlatch.subscriptions.kept_nodes import LOST, Attempt, Held, KeptNode, NamedNode, NumberedNode, Tenure
from everlatch.subscriptions.presence import Absence, Presence
from everlatch.types import UNSET, EventType, State, Unset
from everlatch.wire.codes import CreateMode, Op
from everlatch.wire.multi import CreatePart, DeletePart, encode_multi_request

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence
    from contextlib import AbstractAsyncContextManager

    from everlatch.engine.engine import Engine
    from everlatch.types import ACL, Remove, StateChange, Timeout, WatchEvent

__all__ = ["Keeper"]

logger = logging.getLogger("everlatch")

_VAIN_STEPS: Final = 10
"""So many in a row may come to nothing without a pause: who is in our way may be as quick as we are."""
_VAIN_PAUSE: Final = 0.01
"""Seconds, after so many, for each of them; a second at most."""
_MOVED_DELAY: Final = 0.1
"""Seconds until a server that has lost our session to another one will have closed the connection."""
_RECHECK: Final = 60.0
"""Seconds between two looks at a node of which nothing is heard."""
_OCCUPIED_RECHECK: Final = 10.0
_CLOSE_TIMEOUT: Final = 5.0
_NO_REFUSALS: Final = (
    *(SessionExpiredError, SessionMovedError, AuthFailedError),
    *(NotReadOnlyError, ThrottledOpError),
)
"""Answers of servers that say nothing of the node."""
_HELD_IN: Final = frozenset({State.CONNECTED, State.CONNECTED_READ_ONLY, State.SUSPENDED})
"""States in which the session need not be assumed lost."""
_FINAL: Final = frozenset({State.CLOSED, State.AUTH_FAILED, State.GAVE_UP})

_releases: set[asyncio.Task[None]] = set()
"""Nodes still to be deleted by closed keepers; held here so that the tasks are not collected."""


class Keeper:
    """An ephemeral node that is kept: what `Client.keep` returns.

        async with client.keep("/services/web-1", b"10.0.0.7:80") as kept:
            await kept.wait()
            ...
            await kept.update(b"10.0.0.8:80")

    It is kept from when the block is entered until it is left, which deletes it. Entering waits for nothing.
    """

    def __init__(
        self,
        engine: Engine,
        chroot: str,
        default_acl: Sequence[ACL],
        path: str,
        data: bytes,
        *,
        sequential: bool,
        acl: Sequence[ACL] | None,
        make_parents: bool,
        replace: bool,
    ) -> None:
        self._engine = engine
        self._chroot = chroot
        self._default_acl = default_acl
        self._path = path
        self._acl = tuple(checked_acl(default_acl if acl is None else acl))
        self._server_path = server_path_of_new(chroot, path, sequential)
        self._data = self._checked(data)
        self._number = 0
        """Of the update that the data comes from."""
        self._make_parents = make_parents
        self._node: KeptNode = (
            NumberedNode(path, self._acl, self._on_event, engine.new_guid())
            if sequential
            else NamedNode(path, self._acl, self._on_event, replace=replace)
        )
        self._task: asyncio.Task[None] | None = None
        self._remove_restorer: Remove = _nothing_to_remove
        self._remove_listener: Remove = _nothing_to_remove
        self._closed = False
        self._releasing: asyncio.Task[None] | None = None
        self._ended: EverlatchError | None = None
        """Why there will never be a node: the client's end."""
        self._tenure: Tenure | None = None
        """The last one in which a node was asked for."""
        self._begun: Attempt | None = None
        """What was sent when a session began, and is yet to be looked at."""
        self._held: Held | None = None
        self._presence = Presence("" if sequential else path, False, 0.0, Absence.NOT_YET, None, 0)
        self._is_doubted = False
        """Whether the node has to be looked at."""
        self._refusal: EverlatchError | None = None
        """What the servers refuse at the moment, and why."""
        self._tried = self._refused = 0
        """Of the update whose data was asked for last, and of that which was refused last."""
        self._steps: asyncio.Timeout | None = None
        """What is being done, to be given up when a read-only server is met."""
        self._vain = 0
        """Steps in a row that have come to nothing."""
        self._pause = FIRST_PAUSE
        self._wake = asyncio.Event()
        self._watched: set[str] = set()
        """Paths that an event may still come of."""
        self._changes = Changes()
        self._listeners: list[Callable[[Presence], None]] = []

    def __repr__(self) -> str:
        present = self._presence.present and self.is_present
        is_there = "present" if present else "absent" if self._task is not None else "not entered"
        return f"<Keeper {self._presence.path or self._path!r}, {'closed' if self._closed else is_there}>"

    async def __aenter__(self) -> Self:
        if self._task is not None or self._closed:
            raise AlreadyStartedError(f"the keeper of {self._path!r} was entered before; make a new one")
        self._engine.check_usable(f"keep {self._path!r}")
        self._presence = self._presence._replace(since=self._engine.now())
        self._remove_restorer = self._engine.add_restorer(self._restore)
        self._remove_listener = self._engine.add_listener(self._on_state)
        if self._engine.session.session_id and self._engine.session.state is not State.CONNECTED_READ_ONLY:
            self._begin()
        self._task = asyncio.get_running_loop().create_task(self._run())
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    async def close(self, timeout: Timeout = UNSET) -> None:
        """Deletes the node, and keeps it no more. May be called again.

        Waits for the deletion up to `timeout` seconds (5 if left out); after that, or when cancelled, it goes on in
        the background until it has succeeded or the session has ended. Nobody else's node is deleted.
        """
        seconds = _CLOSE_TIMEOUT if isinstance(timeout, Unset) else timeout
        if seconds is not None:
            seconds = checked_timeout(seconds)
        if not self._closed:
            self._closed = True
            if self._task is not None:
                self._releasing = self._stop(self._task)
            self._changes.notify()
        if self._releasing is not None:
            await asyncio.wait({self._releasing}, timeout=seconds)

    def _stop(self, work: asyncio.Task[None]) -> asyncio.Task[None]:
        self._remove_restorer()
        work.cancel()
        self._abandon_begun()
        if self._held is not None:  # its watch goes with the node
            self._engine.session.forget_watch(self._held.path, self._on_event)
            self._watched.discard(self._held.path)
        self._watch_only("")
        release = asyncio.get_running_loop().create_task(self._release(work))
        _releases.add(release)
        release.add_done_callback(_releases.discard)
        return release

    # -- asking ----------------------------------------------------------------------------------------------------

    @property
    def is_present(self) -> bool:
        """Whether the node is there, as far as is known: the present session's, which need not be assumed lost."""
        held, session = self._held, self._engine.session
        return (
            held is not None
            and not self._closed
            and held.generation == session.generation
            and session.state in _HELD_IN
            and (session.state is not State.CONNECTED_READ_ONLY or self._engine.now() < session.lost_at)
        )

    @property
    def path(self) -> str:
        """The path of the node, with its number if it is a sequential one; empty while there is none."""
        return self._held.path if self._held is not None and self.is_present else ""

    @property
    def presence(self) -> Presence:
        """What was told last: whether the node is there, and if not, why."""
        return self._presence

    async def wait(self, timeout: Timeout = UNSET) -> str:
        """Returns the path of the node as soon as it is there.

        While another session's node has the path, it waits. Raises the servers' refusal (`NoNodeError` if there is no
        parent, `NoAuthError`, …) while the node is refused, which it is tried again for; `CallTimeoutError` after
        `timeout` seconds (the client's default if left out); `ClientStateError` when the keeper is closed or not
        entered, `ClientClosedError` and the like at the client's end.
        """
        async with self._within(timeout, "wait for"):
            while not self.is_present:
                self._require_running()
                if self._refusal is not None:
                    raise copy(self._refusal)  # raised again and again, one would hold on to every frame
                await self._changes.next()
        return self.path

    async def update(self, data: bytes, timeout: Timeout = UNSET) -> None:
        """Replaces the data, and returns when the node has it, or what a later `update` has replaced it with.

        From now on this is what the node is made with, whatever becomes of the call: also if it is cancelled, times
        out (`CallTimeoutError`) or raises. It overwrites what somebody else has written. While the node can't be there
        it waits. Raises the servers' refusal (`NoAuthError`, `QuotaExceededError`, …), which is tried again all the
        same; what `wait` raises; `RequestTooLargeError` and `InvalidTypeError` for what no node can have: then nothing
        has changed.
        """
        self._require_running()
        self._data = self._checked(data)
        self._number += 1
        number = self._number
        self._wake.set()
        async with self._within(timeout, "update"):
            while not (self._held is not None and self._held.number >= number and self.is_present):
                self._require_running()
                if self._refusal is not None and self._refused >= number:
                    raise copy(self._refusal)
                await self._changes.next()

    async def changes(self) -> AsyncIterator[Presence]:
        """What becomes of the node: how it is at present, then the latest after every change.

        A slow reader may miss that it was absent for a moment, but not that it is another one now: `czxid` differs, and
        `reason` says why it had gone. Ends when the keeper or the client is closed; raises `AuthFailedError` or
        `GaveUpError`.
        """
        told: Presence | None = None
        while not self._closed:
            if self._task is None:
                self._require_running()
            if told is not self._presence:
                told = self._presence
                yield told
            elif isinstance(self._ended, ClientClosedError):
                return
            elif self._ended is not None:
                raise copy(self._ended)
            else:
                await self._changes.next()

    def add_listener(self, listener: Callable[[Presence], object]) -> Remove:
        """Calls `listener` with every change, in order, on the event loop; it may be a coroutine function. Returns
        what takes it back. Raises `NotStartedError`."""
        tell = self._engine.isolated(listener)
        self._listeners.append(tell)

        def remove() -> None:
            if tell in self._listeners:
                self._listeners.remove(tell)

        return remove

    # -- the work --------------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        while True:
            self._wake.clear()
            try:
                await self._link()
                async with self._unless_read_only():
                    pause = await self._step(self._tenure_of_now())
            except (ClientClosedError, AuthFailedError, GaveUpError) as error:
                self._end(error)
                return
            except (SessionExpiredError, SessionMovedError):
                pause = _MOVED_DELAY  # or until the next session wakes us
            except (NotReadOnlyError, *LOST):
                pause = 0.0
            except PASSING:
                pause = FIRST_PAUSE
            except NodeOccupiedError as error:
                self._refusal = None
                self._be_absent(Absence.OCCUPIED, error)
                pause = _OCCUPIED_RECHECK
            except EverlatchError as error:
                pause = self._refuse(Absence.REFUSED, error)
            except Exception as error:  # a bug must not end the work in silence, with waiters left waiting
                logger.exception("keeping %s failed, trying again", self._path)
                failed = ClientStateError(f"keeping {self._path!r} failed: {describe(error)}")
                pause = self._refuse(Absence.REFUSED, failed)
            await self._news(pause)

    async def _news(self, pause: float) -> None:
        """Waits for something to do, or to look at."""
        self._vain = 0 if pause else self._vain + 1
        if not pause:
            is_many = self._vain > _VAIN_STEPS
            await asyncio.sleep(min(self._vain * _VAIN_PAUSE, FIRST_PAUSE) if is_many else 0)
            return
        try:
            async with asyncio.timeout(pause):
                await self._wake.wait()
        except TimeoutError:
            self._is_doubted = True

    async def _link(self) -> None:
        """Waits for a server that takes writes."""
        await self._engine.wait_connected(None)
        session = self._engine.session
        while session.state is State.CONNECTED_READ_ONLY:
            self._wake.clear()
            try:
                async with asyncio.timeout(max(0.0, session.lost_at - self._engine.now()) if self._held else None):
                    await self._wake.wait()
            except TimeoutError:  # nobody tells of its end as long as we are elsewhere
                self._lose(Absence.SESSION_ENDED, None)
            await self._engine.wait_connected(None)

    @contextlib.asynccontextmanager
    async def _unless_read_only(self) -> AsyncIterator[None]:
        """What is done within is given up when a read-only server is met: rule 8. Raises `NotReadOnlyError` then."""
        try:
            async with asyncio.timeout(None) as self._steps:
                yield
        except TimeoutError as error:
            if isinstance(error, EverlatchError):
                raise
            raise NotReadOnlyError("keep", self._path) from None
        finally:
            self._steps = None

    def _tenure_of_now(self) -> Tenure:
        engine = self._engine
        session = engine.session
        if self._tenure is None or self._tenure.generation != session.generation:
            calls = Operations(engine, self._chroot, self._default_acl, session.generation)
            self._tenure = Tenure(session.session_id, session.generation, calls, engine)
        return self._tenure

    async def _step(self, tenure: Tenure) -> float:
        """Does what is to be done next; returns in how many seconds there is more, if nothing happens before."""
        held = self._held
        if held is None or held.generation != tenure.generation:
            return await self._secure(tenure)
        if self._is_doubted:
            self._is_doubted = False
            held = await self._node.look(tenure, held)
            if self._held is None:  # the news of its end came right before the reply
                return 0.0
            self._held = held
            if held is None:
                self._be_absent(Absence.DELETED, None)
                return 0.0
        if held.number < self._number:
            return await self._write(tenure, held)
        return _RECHECK

    async def _secure(self, tenure: Tenure) -> float:
        """Gets hold of a node."""
        attempt, self._begun = self._begun, None
        if attempt is None or attempt.tenure is not tenure:
            _abandon(attempt)
            self._tried = self._number
            attempt = self._node.begin(tenure, self._data, self._number)
        self._tried = attempt.number
        self._watched.add(self._path)
        self._is_doubted = False
        try:
            held = await self._node.finish(attempt)
        except NoNodeError as error:
            return await self._look_for_parent(tenure, error)
        if held is None or held.generation != self._engine.session.generation:
            return 0.0
        self._watched.add(held.path)
        self._watch_only(held.path)
        self._be_present(held)
        return 0.0

    async def _look_for_parent(self, tenure: Tenure, error: NoNodeError) -> float:
        """It may be there by now: what goes ahead in a new session comes before the calls that make it."""
        parent = self._node.parent
        if self._make_parents:
            self._be_absent(Absence.NO_PARENT, error)
            await tenure.calls.ensure_path(parent, timeout=None)
            return 0.0
        self._watched.add(parent)
        if await tenure.calls.exists(parent, watch=self._on_event, timeout=None) is not None:
            return 0.0
        return self._refuse(Absence.NO_PARENT, error)

    async def _write(self, tenure: Tenure, held: Held) -> float:
        """Gives it the data of the last update."""
        self._tried = self._number
        try:
            written = await self._node.write(tenure, held, self._data, self._number)
        except _NO_REFUSALS:
            raise
        except ServerError as error:
            return self._refuse(None, error)
        if written is None or self._held is None:
            self._is_doubted = True
            return 0.0
        self._held = written
        self._succeeded()
        return 0.0

    def _watch_only(self, path: str) -> None:
        """What else is watched may live for long."""
        for watched in sorted(self._watched - {path}):
            self._engine.leave_one_shot(DATA, watched, self._on_event)
        self._watched &= {path}

    # -- when a session begins -------------------------------------------------------------------------------------

    def _restore(self, change: StateChange) -> None:
        """A session has begun: what is asked for here goes ahead of all that waits. Nothing is waited for."""
        if change.previous_session_id and change.previous_session_id != change.session_id:
            self._lose(Absence.SESSION_ENDED, change.reason)
        self._begin()

    def _begin(self) -> None:
        self._abandon_begun()
        with contextlib.suppress(EverlatchError):  # the next step meets it again
            self._begun = self._node.begin(self._tenure_of_now(), self._data, self._number)
        self._wake.set()

    def _abandon_begun(self) -> None:
        begun, self._begun = self._begun, None
        _abandon(begun)

    # -- changes ---------------------------------------------------------------------------------------------------

    def _on_event(self, event: WatchEvent) -> None:
        held = self._held
        self._is_doubted = True
        is_held = held is not None and event.path == held.path and (event.zxid < 0 or event.zxid > held.czxid)
        if is_held and event.type is EventType.DELETED:
            self._lose(Absence.DELETED, None)
        self._wake.set()

    def _on_state(self, change: StateChange) -> None:
        held = self._held
        if self._engine.session.state is State.CONNECTED_READ_ONLY:
            self._abandon_begun()
            if self._steps is not None:
                self._steps.reschedule(0.0)
        if self._closed:
            self._wake.set()
        elif change.state is State.LOST and held is not None and held.generation == change.generation:
            self._lose(Absence.SESSION_ENDED, change.reason)
        elif change.state in _FINAL or change.state is State.CONNECTED:
            self._wake.set()

    def _lose(self, reason: Absence, error: BaseException | None) -> None:
        if self._held is not None:
            self._refusal = None
            self._be_absent(reason, error)
            self._wake.set()

    def _be_present(self, held: Held) -> None:
        before, self._held = self._presence, held
        if not before.present or before.czxid != held.czxid:
            reason = None if before.reason is Absence.NOT_YET else before.reason
            self._tell(Presence(held.path, True, self._engine.now(), reason, before.error, held.czxid))
        self._succeeded()

    def _be_absent(self, reason: Absence, error: BaseException | None) -> None:
        before = self._presence
        self._held = None
        if reason is Absence.DELETED:
            self._node.forget()
        if before.present or before.reason is not reason or describe(before.error) != describe(error):
            self._tell(Presence(before.path, False, self._engine.now(), reason, error, 0))

    def _tell(self, presence: Presence) -> None:
        self._presence = presence
        if presence.present:
            logger.info("keeping %s: it is there, czxid 0x%x", presence.path, presence.czxid)
        else:
            assert presence.reason is not None
            more = f" ({describe(presence.error)})" if presence.error is not None else ""
            logger.info("keeping %s: absent, %s%s", self._path, presence.reason.value, more)
        for tell in self._listeners:
            tell(presence)
        self._changes.notify()

    def _refuse(self, absence: Absence | None, error: EverlatchError) -> float:
        """The servers refuse the node, or its data; it is tried again after that many seconds, or when something
        happens."""
        if absence is not None:
            self._be_absent(absence, error)
        if describe(self._refusal) != describe(error):
            logger.warning("keeping %s is refused, and tried again: %s", self._path, error)
        self._refusal, self._refused = error, self._tried
        self._changes.notify()
        pause, self._pause = self._pause, min(2 * self._pause, LONGEST_PAUSE)
        return pause

    def _succeeded(self) -> None:
        self._refusal = None
        self._pause = FIRST_PAUSE
        self._vain = 0
        self._changes.notify()

    def _end(self, error: EverlatchError) -> None:
        """The client has come to its end."""
        self._lose(Absence.SESSION_ENDED, error)
        self._ended = error
        self._changes.notify()

    # -- waiting ---------------------------------------------------------------------------------------------------

    def _within(self, timeout: Timeout, what: str) -> AbstractAsyncContextManager[None]:
        return within(self._engine.seconds(timeout), what, self._path)

    def _require_running(self) -> None:
        if self._closed:
            raise ClientStateError(f"the keeper of {self._path!r} is closed")
        if self._task is None:
            raise ClientStateError(f"the keeper of {self._path!r} was not entered: use `async with client.keep(…)`")
        if self._ended is not None:
            raise copy(self._ended)

    def _checked(self, data: bytes) -> bytes:
        """What fits into the largest request that it may have to travel in."""
        part = CreatePart(Op.CREATE, self._server_path, checked_data(data), self._acl, CreateMode.EPHEMERAL)
        self._engine.check_size(
            "keep", self._path, encode_multi_request([DeletePart(self._server_path, 0), part]) + bytes(_GUID_BYTES)
        )
        return data

    # -- the end ---------------------------------------------------------------------------------------------------

    async def _release(self, work: asyncio.Task[None]) -> None:
        """Deletes what there may be, however often it takes; the session's end does it as well."""
        await asyncio.wait({work})
        tenure, held, self._held = self._tenure, self._held, None
        pause, told = FIRST_PAUSE, ""
        try:
            while tenure is not None:
                try:
                    while self._engine.session.state is State.CONNECTED_READ_ONLY:
                        self._wake.clear()
                        await self._wake.wait()
                    async with self._unless_read_only():
                        await self._node.release(tenure, held)
                    return
                except (SessionExpiredError, ClientClosedError, AuthFailedError, GaveUpError):
                    return
                except (NotReadOnlyError, *LOST):
                    await asyncio.sleep(0)
                except EverlatchError as error:
                    if describe(error) != told:
                        logger.error("the kept node %s can't be deleted yet: %s", self._path, error)
                    told = describe(error)
                    await asyncio.sleep(pause)
                    pause = min(2 * pause, LONGEST_PAUSE)
        finally:
            self._remove_listener()


_GUID_BYTES: Final = 64
"""What a sequential node's name has more than its path, and to spare."""


def _nothing_to_remove() -> None:
    """Before it is entered."""


def _abandon(attempt: Attempt | None) -> None:
    if attempt is not None:
        attempt.abandon()
