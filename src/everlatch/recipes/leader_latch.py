"""Leader election: of all members of a latch, one leads.

Layout (Curator's LeaderLatch, 5.8 and later; its members and ours share one election):
`<path>/_c_<guid>-latch-<10 digits>`, ephemeral and sequential, with the member's id as data; `path` and its ancestors
are container nodes. The member with the lowest number leads.

Rules:
1. Leadership is granted only when the own node is first *and* belongs to the present session: the node of an old
   session may linger, and would otherwise make two leaders (CURATOR-696).
2. A member watches its predecessor and its own node. Curator's leader doesn't watch its own; deleting it makes two.
3. Leadership rests on the session's lease (`everlatch.session.lease`): it lasts through the loss of a link while the
   lease runs, and ends with it, before the servers can have ended the session. `is_leader` reads the clock: a process
   that was paused doesn't believe. After a lapse it takes another look at the node. With `error_policy="suspended"` it
   ends with the link already, as Curator's does by default.
4. A create whose reply was lost is found again by its GUID, behind a commit: only that proves that the old connection
   can bring about nothing more.
5. Closing gives up leadership first, and deletes the node however long that takes; the session's end does it else.
6. The member next in line holds the lease as well, and leads when it hears that the one ahead, which was the only one,
   is gone: nobody can have come before it since it looked, and its own node is what it was, or that would have been
   told first. It looks all the same, afterwards. Nobody tells it that it has become next: when a leader leaves, that
   wakes one member alone. So those who wait look again by themselves, the seldomer the more are ahead of them: all
   together hardly more often than a few do. One whose turn comes before it has noticed begins to hold the lease then,
   and looks first: the commit that proves the lease and the reads of the look are one round trip.
7. A leader's fenced transactions begin with a check that its node is there. Whoever leads later has waited for that
   node to be gone: so ZooKeeper refuses whatever a leader of the past still sends, however late it comes.
8. Handing over is one transaction: the own node goes, with the nodes of members that have to stand back
   (`everlatch.recipes.hand_over`), and another own node comes at the end of the line. Leadership is given up before it
   is sent. Nodes only ever come at the end, so the tokens of leaders rise.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
from typing import TYPE_CHECKING, Literal, NamedTuple, Self

from everlatch.arguments import checked_timeout
from everlatch.client import Client
from everlatch.engine.changes import Changes, within
from everlatch.errors import (
    AuthFailedError,
    ClientClosedError,
    ClientStateError,
    EverlatchError,
    GaveUpError,
    InvalidArgumentError,
    InvalidTypeError,
    NoAuthError,
    NoNodeError,
    NotLeaderError,
    OutcomeUnknownError,
    ResultLostError,
    SessionExpiredError,
    SessionMovedError,
    StaleLeaderError,
    TransactionFailedError,
    WriteNotAppliedError,
)
from everlatch.paths import join, validate_path
from everlatch.recipes.contenders import Behind, First, Missing, ordered, place_of, protected_prefix
from everlatch.recipes.hand_over import Plan, plan
from everlatch.recipes.terms import Term
from everlatch.transaction import Guard
from everlatch.types import UNSET, EventType, Outcome, State, Unset

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from contextlib import AbstractAsyncContextManager

    from everlatch.client import SessionClient
    from everlatch.errors import ServerError
    from everlatch.transaction import Transaction
    from everlatch.types import Remove, StateChange, Timeout, WatchEvent

__all__ = ["LeaderLatch", "Participant"]

logger = logging.getLogger("everlatch")

_MARKER = "latch-"
_RETRY_DELAY = 1.0
"""Seconds until a refused step (no permission, say) is tried again."""
_MOVED_DELAY = 0.1
"""Seconds until a server that has lost our session to another one will have closed the connection."""
_CLOSE_TIMEOUT = 5.0
_LONGEST_NAP = 1.0
"""Seconds between two looks at the clock while leading: a loop's timers stand still while the machine is suspended."""
_LOST = (OutcomeUnknownError, WriteNotAppliedError, ResultLostError)
"""What may become of a write whose reply was lost: look, and go on."""
_LOOK_INTERVAL = 5.0
"""Seconds until the next look of a member that waits, for each that is ahead but one."""

_releases: set[asyncio.Task[None]] = set()
"""Nodes still to be deleted by closed latches; held here so that the tasks are not collected."""


class Participant(NamedTuple):
    """A member, as its node tells."""

    id: str
    is_leader: bool


class _Grant(NamedTuple):
    """Leadership, and what it rests on."""

    generation: int
    lapses: int
    """Of the lease."""
    continuity: int
    """Of the connection, for who doesn't outlive it."""


class _Heir(NamedTuple):
    """What a member that is next in line has seen of itself."""

    node: str
    predecessor: str
    """The path of the only one ahead, which is watched."""
    grant: _Grant
    """On what it would lead."""
    token: int


class _HandOver(NamedTuple):
    """A call of `hand_over` on its way."""

    to: str | None
    done: asyncio.Future[None]

    def end(self, error: Exception | None = None) -> None:
        if self.done.done():
            return
        if error is None:
            self.done.set_result(None)
        else:
            self.done.set_exception(error)


class LeaderLatch:
    """One member of an election.

        async with LeaderLatch(client, "/app/leader", "worker-1") as latch:
            async for term in latch.terms():
                while term.is_current:
                    async with term.transaction() as t:
                        t.set("/app/state", await next_state())

    It takes part from `start` (or `async with`) to `close`; after a lost session it takes part again by itself.
    Leadership can end at any moment: ask `is_leader` before each step that only the leader may do, and write by
    `transaction`, which ZooKeeper refuses when the term is over, whatever this process still believes.

    `error_policy`: whether leadership lasts while the link is lost, as long as the lease runs ("session"), or ends with
    the link ("suspended").
    """

    def __init__(
        self,
        client: Client,
        path: str,
        participant_id: str = "",
        *,
        error_policy: Literal["session", "suspended"] = "session",
    ) -> None:
        if not isinstance(client, Client):
            raise InvalidTypeError(f"a latch takes part for a Client, not for {client!r}")
        validate_path(path)
        if not isinstance(participant_id, str):
            raise InvalidTypeError(f"a participant id is str, not {type(participant_id).__name__}")
        if error_policy not in ("session", "suspended"):
            raise InvalidArgumentError(f'error_policy is "session" or "suspended", not {error_policy!r}')
        self._client = client
        self._path = path
        self._ends_with_link = error_policy == "suspended"
        self._id = participant_id
        self._data = _encoded(participant_id)
        self._task: asyncio.Task[None] | None = None
        self._closed = False
        self._releasing: asyncio.Task[None] | None = None
        """Deletes the node, once closed."""
        self._deletion: asyncio.Future[None] | None = None
        """Of the node, sent by `close` itself; to be waited for."""
        self._remove_listener: Remove | None = None
        # The node, and the session and name under which it is, or is being, created.
        self._session: SessionClient | None = None
        self._prefix = ""
        self._node = ""
        self._in_doubt = False
        """Whether there may be a node under `_prefix` whose name nobody has seen; then there is no other one."""
        self._granted: _Grant | None = None
        self._term: Term | None = None
        """While granted."""
        self._timer: asyncio.TimerHandle | None = None
        """While granted."""
        self._handing_over: _HandOver | None = None
        self._let_lease_go: Callable[[], None] | None = None
        """While this member rests on the lease, or is about to."""
        self._error: Exception | None = None
        """Why taking part is refused at the moment."""
        self._watched = ""
        """The path whose change is waited for: the predecessor's."""
        self._gone = ""
        """The predecessor that is gone, so that it may be our turn."""
        self._heir: _Heir | None = None
        """If we were next in line when we looked last."""
        self._own_events = 0
        """How often something has become of the own node."""
        self._ahead = 0
        """How many were ahead when we looked last."""
        self._wake = asyncio.Event()
        self._changes = Changes()
        self._listeners: list[Callable[[bool], None]] = []

    def __repr__(self) -> str:
        doing = "closed" if self._closed else "leads" if self.is_leader else "waits" if self._task else "not started"
        return f"<LeaderLatch {self._path} {self._id!r} {doing}, node {self._node or 'none'}>"

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    # -- taking part -----------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Takes part from now on; returns at once. Raises `ClientStateError` the second time."""
        if self._task is not None or self._closed:
            raise ClientStateError(f"the latch on {self._path!r} was started before; make a new one")
        self._remove_listener = self._client.add_listener(self._on_state)
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def close(self, timeout: Timeout = UNSET) -> None:
        """Gives up leadership and deletes the node. May be called again.

        Waits for the deletion up to `timeout` seconds (5 if left out); after that, or when cancelled, it goes on in
        the background until it has succeeded or the session has ended.
        """
        seconds = _CLOSE_TIMEOUT if isinstance(timeout, Unset) else timeout
        if seconds is not None:
            seconds = checked_timeout(seconds)
        if not self._closed:
            self._closed = True
            self._end_leadership()
            self._rest_no_more()
            if self._handing_over is not None:
                self._handing_over.end(ClientStateError(f"the latch on {self._path!r} was closed while handing over"))
            if self._task is not None:
                self._releasing = self._stop(self._task)
            self._changes.notify()
        if self._releasing is not None:
            await asyncio.wait({self._releasing}, timeout=seconds)

    def _stop(self, campaign: asyncio.Task[None]) -> asyncio.Task[None]:
        if self._remove_listener is not None:
            self._remove_listener()
        campaign.cancel()
        self._delete_known()
        if self._watched:  # it may live for long, and would keep us in memory
            self._client.forget_watch(self._watched, self._on_event)
        release = asyncio.get_running_loop().create_task(self._release())
        _releases.add(release)
        release.add_done_callback(_releases.discard)
        return release

    # -- asking ----------------------------------------------------------------------------------------------------

    @property
    def is_leader(self) -> bool:
        """Whether this member leads, now, by the clock too."""
        return self._granted is not None and self._holds(self._granted)

    @property
    def token(self) -> int:
        """The fencing token of this term: the zxid at which the own node was created. It only grows from leader to
        leader. Raises `NotLeaderError`."""
        return self._present_term().token

    @property
    def participant_id(self) -> str:
        """The member's own id."""
        return self._id

    @property
    def node(self) -> str:
        """The path of the own node; empty while there is none."""
        return self._node

    async def wait(self, timeout: float | None = None) -> int:
        """Returns the token as soon as this member leads.

        Raises `CallTimeoutError`; `ClientStateError` if the latch is closed or not started; `ClientClosedError`; and
        the server's refusal (`NoAuthError`, say) while taking part is refused.
        """
        async with self._within(timeout, "wait for leadership of"):
            while not self.is_leader:
                self._require_running()
                if self._error is not None:
                    raise self._error
                await self._changes.next()
        return self.token

    async def wait_lost(self, token: int | None = None, *, timeout: float | None = None) -> None:
        """Returns when this member does not lead: at once, or when its leadership ends.

        With a `token`, also when it leads with another one: a loss that was over before the call is not seen else.
        Raises `CallTimeoutError`.
        """
        async with self._within(timeout, "wait for the end of leadership of"):
            while self.is_leader and token in (None, self.token):
                await self._changes.next()

    async def terms(self) -> AsyncIterator[Term]:
        """This member's terms of leadership, each once: the present one at once, then every later one.

        `async for term in latch.terms(): …` waits until this member leads; `Term` shows how to work under one. Ends
        when the latch is closed. Raises what `wait` raises; iterate again to go on.
        """
        last: Term | None = None
        while not self._closed:
            term = self._term
            if term is not None and term is not last and term.is_current:
                last = term
                yield term
            else:
                self._require_running()
                if self._error is not None:
                    raise self._error
                await self._changes.next()

    # -- leading ---------------------------------------------------------------------------------------------------

    def transaction(self) -> Transaction:
        """A transaction that ZooKeeper refuses when this member's present term is over, whatever it believes itself.

        Use it as `Client.transaction`; its parts, indexes and results are the same. It belongs to this term and to its
        session. Raises `NotLeaderError` when not leading. The commit raises `StaleLeaderError` (a `NotLeaderError`)
        when the term is over by then, `SessionExpiredError` when the session is; `OutcomeUnknownError` as any write.
        """
        return self._present_term().transaction()

    async def hand_over(self, to: str | None = None, *, timeout: float | None = None) -> None:
        """Gives leadership to the member with the id `to`, or to the next in line; this one queues up again behind all.

        Returns when ZooKeeper has done it; the other one leads as soon as it notices. Leadership ends here before
        anything is sent, and what the leader began must have come to an end before: `async with term` blocks are
        cancelled. Members between this one and `to` lose their places and queue up again too; those behind notice
        nothing. Of several with the id `to` the first in line is meant.

        Raises `NotLeaderError`; `NoSuchMemberError`; `MemberInTheWayError` when one that would have to stand back is no
        member of this library (`to` itself may be any); and what a transaction raises, `NoAuthError`, say. It leads on
        then, or again. After `timeout` seconds `CallTimeoutError`: it may still happen, if it had begun.
        """
        if to is not None and not isinstance(to, str):
            raise InvalidTypeError(f"a participant id is str, not {type(to).__name__}")
        self._present_term()
        if self._handing_over is not None:
            raise ClientStateError(f"leadership of {self._path!r} is being handed over already")
        request = self._handing_over = _HandOver(to, asyncio.get_running_loop().create_future())
        self._wake.set()
        try:
            async with self._within(timeout, "hand over"):
                await request.done
        finally:
            request.done.cancel()
            if self._handing_over is request:
                self._handing_over = None

    def _present_term(self) -> Term:
        if self._term is None or not self.is_leader:
            raise NotLeaderError(f"{self._id or 'this member'} does not lead {self._path!r} now")
        return self._term

    def _within(self, timeout: float | None, what: str) -> AbstractAsyncContextManager[None]:
        return within(None if timeout is None else checked_timeout(timeout), what, self._path)

    def add_listener(self, listener: Callable[[bool], object]) -> Remove:
        """Calls `listener(True)` when this member begins to lead and `listener(False)` when it ceases to, in order,
        on the event loop; it may be a coroutine function."""
        tell = self._client.isolated(listener)
        self._listeners.append(tell)

        def remove() -> None:
            if tell in self._listeners:
                self._listeners.remove(tell)

        return remove

    async def participants(self, *, timeout: Timeout = UNSET) -> list[Participant]:
        """All members, the leader first, Curator's included. Raises what reads raise; a missing latch has none.
        `timeout` (seconds) is for each of its two steps."""
        try:
            names = ordered(await self._client.children(self._path, timeout=timeout), _MARKER)
        except NoNodeError:
            return []
        calls = [self._client.get(join(self._path, name), timeout=timeout) for name in names]
        found: list[Participant] = []
        for node in await asyncio.gather(*calls, return_exceptions=True):
            if isinstance(node, NoNodeError):
                continue
            if isinstance(node, BaseException):
                raise node
            found.append(Participant(_decoded(node.data), not found))
        return found

    async def leader(self, *, timeout: Timeout = UNSET) -> Participant | None:
        """The member whose turn it is, or `None` if there are no members. It may not have noticed yet."""
        participants = await self.participants(timeout=timeout)
        return participants[0] if participants else None

    # -- the campaign ----------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        while True:
            try:
                await self._link()
                await self._campaign(self._client.in_session())
            except SessionExpiredError:
                self._forget_node()  # and begin again in the next session
            except SessionMovedError:
                # A server that was frozen has taken the session for a moment; the connection is about to end.
                await asyncio.sleep(_MOVED_DELAY)
            except (ClientClosedError, AuthFailedError, GaveUpError) as error:
                self._refused(error)
                return
            except Exception as error:  # a bug must not end the campaign in silence, with waiters left waiting
                logger.exception("latch %s, member %r: refused, trying again", self._path, self._id)
                self._refused(error)
                await asyncio.sleep(_RETRY_DELAY)

    async def _campaign(self, session: SessionClient) -> None:
        """Takes part in one session, until it ends (`SessionExpiredError`) or a step is refused."""
        if self._session is None or self._session.generation_bound != session.generation_bound:
            self._forget_node()
            self._session = session
        while True:
            # One look when the link is back, not one into the queue at its loss and another one then.
            await self._link()
            if self._in_doubt:
                await self._settle(session)
            if self._handing_over is not None:
                await self._carry_out(session, self._handing_over)
            if not self._node:
                await self._join(session)
            self._wake.clear()
            if self._gone:
                self._rest()  # beforehand: if it is our turn, the lease is there with the look
                if self._succeed(session):
                    await asyncio.sleep(0)  # who has been told acts before another look is sent
                    continue
            if await self._look(session):
                self._error = None
                if self._handing_over is None:
                    await self._news()

    def _succeed(self, session: SessionClient) -> bool:
        """Leads at once, if it is certain that it is our turn. Rule 6."""
        heir, self._heir = self._heir, None
        gone, self._gone = self._gone, ""
        if heir is None or (heir.node, heir.predecessor, heir.grant) != (self._node, gone, self._basis(session)):
            return False
        self._grant(heir.grant, session, heir.token)
        return self.is_leader

    def _basis(self, session: SessionClient) -> _Grant:
        return _Grant(session.generation_bound, self._client.lease_lapses, self._client.continuity)

    async def _news(self) -> None:
        """Waits for something to look at, or until it is time to look though nothing has happened."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LOOK_INTERVAL * (self._ahead - 1) if self._ahead > 1 else None):
                await self._wake.wait()

    async def _link(self) -> None:
        """Waits for a server that takes writes; another one would refuse whatever belongs to the session."""
        await self._client.wait_connected(timeout=None)
        while self._client.state is State.CONNECTED_READ_ONLY:
            self._wake.clear()
            await self._wake.wait()
            await self._client.wait_connected(timeout=None)

    async def _look(self, session: SessionClient) -> bool:
        """Finds the own place, and acts on it; `False`: look again at once."""
        grant = self._basis(session)
        own_events = self._own_events
        self._heir = None
        own = session.get(self._node, watch=self._on_event, timeout=None)
        try:
            # One round trip for both. A name that is first now stays first: later ones have larger numbers.
            node, names = await asyncio.gather(own, session.children(self._path, timeout=None))
        except NoNodeError:
            self._lose_node()
            return False
        # `_node` may be empty by now: the news of its deletion came right behind the replies.
        place = place_of(self._node.rpartition("/")[2], names, _MARKER)
        if isinstance(place, Missing) or node.stat.ephemeral_owner != session.session_id:
            self._lose_node()
            return False
        self._ahead = place.ahead if isinstance(place, Behind) else 0
        if isinstance(place, Behind):
            if place.is_next:
                self._rest()
            else:
                self._rest_no_more()
            if not await self._watch(session, place):
                return False
            if place.is_next and own_events == self._own_events and not self._has_overflowed:
                self._heir = _Heir(self._node, join(self._path, place.predecessor), grant, node.stat.czxid)
            return True
        assert isinstance(place, First)
        if self._has_overflowed:
            raise NotLeaderError(
                f"the numbers under {self._path!r} have overflowed, and newer members come before older ones now: "
                "nobody can lead safely there; let all members elect under another path, or delete this one"
            )
        if not self._client.lease_time_left:
            self._end_leadership()
            await self._lease_or_news()
            return False
        self._rest()
        self._grant(grant, session, node.stat.czxid)
        return True

    @property
    def _has_overflowed(self) -> bool:
        """Whether the own number is beyond the server's counter: newer ones may come before it."""
        return self._node.rpartition(_MARKER)[2].startswith("-")

    async def _lease_or_news(self) -> None:
        """Waits until there is a lease to rest on, or something has happened."""
        self._rest()
        lease = asyncio.ensure_future(self._client.wait_lease())
        lease.add_done_callback(self._on_lease)
        try:
            await self._wake.wait()
        finally:
            lease.cancel()

    def _on_lease(self, wait: asyncio.Future[None]) -> None:
        """It runs; or there will never be one, as the next step will find out."""
        if not wait.cancelled():
            wait.exception()
            self._wake.set()

    def _rest(self) -> None:
        if self._let_lease_go is None:
            self._let_lease_go = self._client.hold_lease()

    def _rest_no_more(self) -> None:
        if self._let_lease_go is not None:
            self._let_lease_go()
            self._let_lease_go = None

    async def _watch(self, session: SessionClient, place: Behind) -> bool:
        """Watches the predecessor; `False` if it is gone."""
        self._end_leadership()
        try:
            # getData, not exists: on a node that is gone it leaves no watch behind.
            self._watched = join(self._path, place.predecessor)
            await session.get(self._watched, watch=self._on_event, timeout=None)
        except NoNodeError:
            return False
        except NoAuthError:
            # Its creator lets nobody read it. Then any change of membership wakes us: dear, but safe.
            self._watched = self._path
            names = await session.children(self._path, watch=self._on_event, timeout=None)
            return place.predecessor in names
        return True

    async def _join(self, session: SessionClient) -> None:
        """Creates the own node; one that may be there already is looked for before another is created, for nobody
        would ever delete it, and we would wait behind it."""
        while not self._node:
            if self._in_doubt:
                await self._settle(session)
                continue
            try:
                await self._create(session)
            except NoNodeError:
                # Of a lost reply the next attempt makes nothing: it finds the path, or not.
                with contextlib.suppress(*_LOST):
                    await session.ensure_path(self._path, container=True, timeout=None)
            except _LOST:
                continue

    async def _create(self, session: SessionClient) -> None:
        """One attempt, under a GUID of its own. When it is cancelled, the node stays in doubt."""
        path = self._new_name()
        self._in_doubt = True
        try:
            created = await session.create(path, self._data, ephemeral=True, sequential=True, timeout=None)
        except EverlatchError as error:
            self._in_doubt = error.outcome is not Outcome.NOT_APPLIED  # applied, but under which number isn't known?
            raise
        self._in_doubt = False
        self._node = created.path

    def _new_name(self) -> str:
        self._prefix = protected_prefix(self._client.new_guid(), _MARKER)
        return join(self._path, self._prefix)

    async def _settle(self, session: SessionClient) -> bool:
        """Finds out whether there is a node under the name that was tried last. If so, it is the only own one."""
        found = await self._find(session)
        self._in_doubt = False
        self._node = found or self._node
        return bool(found)

    async def _find(self, session: SessionClient) -> str:
        """Its path, or `""`: it was not created, and will not be."""
        commit = session.transaction()
        commit.check(self._path)
        try:
            await commit.commit(timeout=None)
            names = await session.children(self._path, timeout=None)
        except NoNodeError:
            return ""
        except TransactionFailedError as error:
            if isinstance(error.error, NoNodeError):
                return ""
            raise error.error from error
        return next((join(self._path, name) for name in names if name.startswith(self._prefix)), "")

    # -- handing over ----------------------------------------------------------------------------------------------

    async def _carry_out(self, session: SessionClient, request: _HandOver) -> None:
        """Ends the call; what goes wrong is its business, not the campaign's."""
        try:
            await self._step_behind(session, request)
        except EverlatchError as error:
            request.end(error)
        except Exception as error:  # a bug; the campaign tells of it as well
            request.end(error)
            raise
        else:
            request.end()
        finally:
            if self._handing_over is request:  # the next call may have come when this one had timed out
                self._handing_over = None

    async def _step_behind(self, session: SessionClient, request: _HandOver) -> None:
        """As often as it takes, for members may go meanwhile, and replies be lost; while somebody waits for it."""
        is_done = False
        while not is_done and not request.done.done():
            own = self._node  # it may be gone by the time of the transaction, which has to fail then
            move = await self._plan(session, request.to)
            if not request.done.done():
                self._end_leadership()  # whatever becomes of it: the next one may lead from now on
                is_done = await self._move(session, own, move)

    async def _plan(self, session: SessionClient, to: str | None) -> Plan:
        line = ordered(await session.children(self._path, timeout=None), _MARKER)
        ids: dict[str, str] = {}
        if to is not None:
            calls = [session.get(join(self._path, name), timeout=None) for name in line]
            for name, node in zip(line, await asyncio.gather(*calls, return_exceptions=True), strict=True):
                if not isinstance(node, BaseException):
                    ids[name] = _decoded(node.data)
                elif not isinstance(node, (NoNodeError, NoAuthError)):  # of those nobody knows an id
                    raise node
        return plan(self._path, self._node.rpartition("/")[2], line, to, ids)

    async def _move(self, session: SessionClient, own: str, move: Plan) -> bool:
        """The transaction; `False`: nothing was applied, for somebody has gone meanwhile."""
        transaction = session.transaction()
        # Servers tell of the parts in their order: who has to stand back hears that first, before it hears that the
        # one ahead is gone, and doesn't take itself for the next leader (rule 6).
        for name in move.aside:
            transaction.delete(join(self._path, name))
        transaction.delete(own)
        transaction.check(join(self._path, move.heir))
        created = transaction.create(self._new_name(), self._data, ephemeral=True, sequential=True)
        self._in_doubt = True
        try:
            await transaction.commit(timeout=None)
        except TransactionFailedError as error:
            self._in_doubt = False
            if not isinstance(error.error, NoNodeError):
                raise error.error from error
            return False
        except WriteNotAppliedError:
            self._in_doubt = False
            return False
        except EverlatchError as error:
            if error.outcome is Outcome.UNKNOWN:  # not `OutcomeUnknownError` alone: servers have such answers, too
                return await self._settle(session)
            self._in_doubt = False
            raise
        try:
            self._node = created.result
        except ResultLostError:  # it was applied; a node that is gone again counts as not applied
            return await self._settle(session)
        self._in_doubt = False
        return True

    # -- changes ---------------------------------------------------------------------------------------------------

    def _on_event(self, event: WatchEvent) -> None:
        if event.path == self._node:
            self._own_events += 1
            self._heir = None
            if event.type is EventType.DELETED:
                self._lose_node()
        elif event.path == self._watched and event.type is EventType.DELETED:
            self._gone = event.path
        self._wake.set()

    def _on_state(self, change: StateChange) -> None:
        if self._granted is not None and not self._holds(self._granted):
            self._end_leadership()
        if change.state in (State.CLOSED, State.AUTH_FAILED, State.GAVE_UP):
            self._wake.set()  # the next step finds out, and tells those who wait
        elif change.state in (State.SUSPENDED, State.RENEWED):  # when the link is back, or in the new session
            self._wake.set()

    def _holds(self, grant: _Grant) -> bool:
        """Whether what leadership was granted on is still so, by the clock too."""
        client = self._client
        if client.generation != grant.generation or client.lease_lapses != grant.lapses:
            return False
        if self._ends_with_link and (client.state is not State.CONNECTED or client.continuity != grant.continuity):
            return False
        return client.lease_time_left > 0

    def _grant(self, grant: _Grant, session: SessionClient, token: int) -> None:
        """Unless the lease has ended since the reads: then another look follows."""
        if self._closed or not self._holds(grant):
            self._end_leadership()
            self._wake.set()
            return
        if self._granted is not None and not self._holds(self._granted):
            self._end_leadership()  # nobody has noticed yet, but whoever asked has been told that his term is over
        self._granted = grant
        if self._term is None:
            begin = functools.partial(self._begin_fenced, session, self._node, token)
            self._term = Term(self._path, token, lambda: self.is_leader, begin)
            self._look_at_the_clock_later()
            logger.info("latch %s: member %r leads, token %d", self._path, self._id, token)
            self._tell(True)

    @staticmethod
    def _begin_fenced(session: SessionClient, node: str, token: int) -> Transaction:
        return session.transaction(Guard(node, lambda error: _stale(node, token, error)))

    def _look_at_the_clock_later(self) -> None:
        """Leadership ends with the lease, whatever the campaign waits for just then; nobody else tells of that."""
        seconds = min(self._client.lease_time_left, _LONGEST_NAP)
        self._timer = asyncio.get_running_loop().call_later(seconds, self._look_at_the_clock)

    def _look_at_the_clock(self) -> None:
        if self.is_leader:
            self._look_at_the_clock_later()
        else:
            self._end_leadership()
            self._wake.set()

    def _end_leadership(self) -> None:
        if self._term is not None:
            term, self._term, self._granted = self._term, None, None
            if self._timer is not None:
                self._timer.cancel()
            term.end()
            logger.info("latch %s: member %r leads no more", self._path, self._id)
            self._tell(False)

    def _lose_node(self) -> None:
        """Our node is gone, or is not ours: a new one is created."""
        self._end_leadership()
        self._node = ""

    def _forget_node(self) -> None:
        """The session has ended, and its nodes with it."""
        self._lose_node()
        self._session = None
        self._in_doubt = False

    def _refused(self, error: Exception) -> None:
        self._end_leadership()
        self._rest_no_more()
        self._error = error
        if self._handing_over is not None:
            self._handing_over.end(error)
        self._changes.notify()

    def _tell(self, leads: bool) -> None:
        for tell in self._listeners:
            tell(leads)
        self._changes.notify()

    def _require_running(self) -> None:
        if self._closed:
            raise ClientStateError(f"the latch on {self._path!r} is closed")
        if self._task is None:
            raise ClientStateError(f"the latch on {self._path!r} is not started: use `async with`, or start()")

    # -- the end ---------------------------------------------------------------------------------------------------

    def _delete_known(self) -> None:
        """Sends the deletion of the own node at once, if its name is known: the next member waits for it."""
        if self._session is not None and self._node:
            with contextlib.suppress(EverlatchError):  # `_release` meets it again
                self._deletion = self._session.delete(self._node, timeout=None)

    async def _release(self) -> None:
        """Deletes what the campaign may have created, however often it takes; the session's end does it as well."""
        assert self._task is not None
        await asyncio.wait({self._task})
        session = self._session
        if session is None:
            return
        while True:
            try:
                await self._delete_own(session)
                return
            except (SessionExpiredError, ClientClosedError, AuthFailedError, GaveUpError):
                return
            except _LOST:
                continue
            except EverlatchError as error:
                logger.error("latch %s: %r can't delete its node: %s", self._path, self._id, error)
                await asyncio.sleep(_RETRY_DELAY)

    async def _delete_own(self, session: SessionClient) -> None:
        deletion, self._deletion = self._deletion, None
        if deletion is not None:
            with contextlib.suppress(NoNodeError):
                await deletion
        if self._in_doubt:  # a create was cancelled in flight, say, and nobody has seen its reply
            await self._settle(session)
        elif deletion is not None:
            self._node = ""
        if self._node:
            with contextlib.suppress(NoNodeError):
                await session.delete(self._node, timeout=None)
        self._node = ""


def _encoded(participant_id: str) -> bytes:
    try:
        return participant_id.encode()
    except UnicodeEncodeError as error:
        raise InvalidArgumentError(f"a participant id must be encodable as UTF-8, {participant_id!r} is not") from error


def _decoded(data: bytes) -> str:
    return data.decode("utf-8", "replace")


def _stale(node: str, token: int, error: ServerError) -> EverlatchError:
    if isinstance(error, (NoNodeError, SessionExpiredError)):
        return StaleLeaderError(node, token, error)
    return TransactionFailedError(-1, node, error)
