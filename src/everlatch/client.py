"""The client: what an application holds, and the view of it that is bound to one session."""

from __future__ import annotations

import logging
import random
from typing import TYPE_CHECKING, Literal, NamedTuple, Self, TypeVar

from everlatch.arguments import checked_acl, checked_timeout, server_path
from everlatch.engine.engine import MAX_REQUEST_SIZE, Engine
from everlatch.errors import (
    ClientStateError,
    GuardianUnavailableError,
    InvalidArgumentError,
    InvalidConnectStringError,
    InvalidTypeError,
    SessionExpiredError,
    describe,
    hex_id,
)
from everlatch.guardian.ward import Ward
from everlatch.kerberos import Kerberos
from everlatch.operations import Operations, auth_body
from everlatch.paths import ConnectString, parse_connect_string, validate_path
from everlatch.sasl import DigestMd5
from everlatch.server_sources import ServerSource, source_endpoints
from everlatch.session.receipts import MOST_RECEIPTS
from everlatch.session.retry import AttemptPlan, FullJitter
from everlatch.session.session import SessionOptions
from everlatch.session.states import CONNECTED_STATES, FINAL_STATES
from everlatch.subscriptions.feeds import Feeds, StateTopic
from everlatch.subscriptions.keeper import Keeper
from everlatch.subscriptions.reading import CHILDREN, DATA
from everlatch.subscriptions.states import StateSubscription
from everlatch.subscriptions.tree import TreeSubscription, tree_topic
from everlatch.subscriptions.waits import wait_for
from everlatch.tls import TlsSettings
from everlatch.types import ACL, OPEN_ACL_UNSAFE, UNSET, State, StateChange, Statistics, Timeout

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterable, Sequence

    from everlatch.engine.subscription import Subscription
    from everlatch.sasl import SaslMechanism
    from everlatch.session.retry import RetryPolicy
    from everlatch.tls.settings import PathLike
    from everlatch.types import Children, Node, Remove, ServerFinding, Watch

__all__ = ["Client", "SessionClient"]


logger = logging.getLogger("everlatch")

T = TypeVar("T")


class _SessionState(Operations):
    """What the client and its views tell of the session."""

    @property
    def state(self) -> State:
        """The present state."""
        return self._engine.session.state

    @property
    def session_id(self) -> int:
        """The session id as a signed number of 64 bits, like `Stat.ephemeral_owner`; 0: none yet."""
        return self._engine.session.session_id

    @property
    def session_time_left(self) -> float:
        """Seconds until the session must be assumed lost unless the servers are heard before; 0 if it must be now.

        Reads the clock: after the process was paused for longer than the session timeout it is 0 at once, whatever
        `state` still says; and from `close()` on. Everything that rests on the session (leadership, locks) has to look
        here.
        """
        session = self._engine.session
        if session.is_closing or (session.state not in CONNECTED_STATES and session.state is not State.SUSPENDED):
            return 0.0
        return max(0.0, session.lost_at - self._engine.now())

    @property
    def lease_until(self) -> float:
        """Until when the session certainly lives, whatever happens: seconds on `CLOCK_BOOTTIME`; 0: that isn't known.

        Later than that it may have ended, though `state` and `session_time_left` still say otherwise: a server that is
        cut off from its ensemble answers pings for a while. It is known while somebody rests on it (`hold_lease`), and
        holds for clock rates that differ by `lease_drift` at most. `everlatch.session.lease` has the rule, and why it
        is safe.
        """
        return self._engine.lease.end

    @property
    def lease_time_left(self) -> float:
        """Seconds until `lease_until`, by the clock now; 0 when that has passed."""
        return self._engine.lease.time_left

    @property
    def lease_lapses(self) -> int:
        """For recipes: how often the lease ended before it was extended. What was granted before has to be looked at
        anew."""
        return self._engine.lease.lapses

    def hold_lease(self) -> Callable[[], None]:
        """For recipes: has the lease kept running, by a commit every twelfth of the session timeout, until what this
        returns is called. Raises `ClientClosedError` and the like."""
        return self._engine.lease.hold()

    async def wait_lease(self) -> None:
        """For recipes: returns when the lease runs, which somebody has to hold. Raises `ClientClosedError` and such."""
        await self._engine.lease.wait_running()

    @property
    def connections(self) -> int:
        """How many connections there have been, the present one included."""
        return self._engine.session.connections

    @property
    def continuity(self) -> int:
        """For recipes: a number that grows whenever what rests on the session has to be looked at anew: with every
        connection, and when `session_time_left` was 0 and the session turned out to be alive."""
        session = self._engine.session
        return session.connections + session.liveness.lapses

    @property
    def generation(self) -> int:
        """How many sessions there have been, the present one included."""
        return self._engine.session.generation

    def add_listener(self, listener: Callable[[StateChange], object]) -> Remove:
        """Calls `listener` with every change of state, in order, on the event loop; it may be a coroutine function.
        Returns what takes it back."""
        return self._engine.add_listener(listener)

    def isolated(self, callback: Callable[[T], object]) -> Callable[[T], None]:
        """For recipes: a function that tells `callback` what it is told, in order, in a loop turn of its own, and
        away from everybody else (promise P9)."""
        return self._engine.isolated(callback)

    def forget_watch(self, path: str, watch: Watch) -> None:
        """For recipes: `watch` is not called any more for what it waits for on `path`."""
        self._engine.session.forget_watch(path, watch)

    def states(self) -> Subscription[StateChange]:
        """The changes of state as an async iterator: first the latest one so far, then every one, until `CLOSED`.

        `async with client.states() as changes: async for change in changes: …`
        """
        return self._engine.states()

    async def wait_connected(self, timeout: Timeout = UNSET) -> None:
        """Returns when a server answers (at once, if one does).

        Raises `CallTimeoutError`; `ClientClosedError` or `AuthFailedError` when that will never be.
        """
        await self._engine.wait_connected(timeout)


class SessionClient(_SessionState):
    """A client's operations bound to the session that it had when `Client.in_session` was called.

    Calls end with `SessionExpiredError` when the servers say that the session has ended, instead of waiting for the
    next one; while that is not known (`SUSPENDED`, `LOST`) they wait, so give them a timeout. A write whose reply was
    lost with the session ends when the next one has begun, for only then it is known what became of it. For
    everything that makes no sense in another session, such as what a lock's holder does.
    """

    def __repr__(self) -> str:
        return f"<SessionClient session number {self._generation} of {self._engine.session.generation}>"

    @property
    def generation_bound(self) -> int:
        """The number of the session that the calls are bound to."""
        return self._generation

    @property
    def is_current(self) -> bool:
        """Whether the client still has this session."""
        session = self._engine.session
        return session.generation == self._generation and session.session_id != 0


class Client(_SessionState):
    """A ZooKeeper client that stays connected until it is closed.

        async with Client("zk1:2181,zk2:2181,zk3:2181/app") as client:
            data, stat = await client.get("/config")

    It reconnects by itself, for however long the servers are away; when they have ended its session it begins a new
    one. Calls made meanwhile wait. It belongs to the event loop that started it, and is used once.

    `servers`: `host:port,host:port,[v6]:port/chroot`, or a sequence of `host:port` and one chroot at most.
    `session_timeout`: seconds, asked for; the servers decide. `default_timeout`: seconds, for calls that don't say;
    `None` waits. `start_timeout`: how long `start` keeps trying; `None`: each server once. `close_timeout`: the
    longest that `close` takes. `acl`: for new nodes. `auth`: `(scheme, credentials)`, used on every connection.
    `sasl`: `DigestMd5`, or `Kerberos` of `everlatch.kerberos`; comes before `auth`, on every connection.
    `shuffle`: whether to try the servers in random order.

    TLS is on with `tls=True`, or when any of the PEM files `ca` (whom to trust; left out: whom the system trusts),
    `cert` and `key` (to show to servers; `key_password` if it is encrypted) is given. They are read again when they
    have changed, for the next connection. A server's certificate must have the name or IP address that the server has
    in `servers`; `check_hostname=False` takes any that is trusted. `tls` may be an `ssl.SSLContext` as well, which has
    it all. docs/how-to/tls.md has more.

    `servers` may be a `ServerSource` as well (`DnsServers`, your own), which changes them at run time; for those of
    the ensemble's own configuration see `EnsembleTracker`. `silence_budget`: seconds for which a link may be silent
    before other servers are asked whether they live (it is left when one does); an eighth of the session timeout if
    left out. `preventive_search_interval`: seconds between two looks at all servers, so that after a loss the first
    attempt goes to one that serves. `warm_spare`: keeps a connection to another server ready (servers close those
    after about 10 s, so it is made anew; each counts against their maxClientCnxns). `link_check_interval`: seconds
    between two commits that show whether the server still has a quorum behind it.

    `retry_policy` decides after every round over all servers in which none served how long to wait, or to give up
    (`GAVE_UP`); by default it never does. `time_between_attempts`, `max_consecutive_retries` and
    `max_reconnect_attempts` make an `AttemptPlan`. `renew_session=False`: when the servers have ended the session
    nothing is done before `renew()`.

    `read_only`: while no server with a quorum can be had, reads are served by one without (`CONNECTED_READ_ONLY`), if
    the servers have `readonlymode.enabled` and, since 3.7, `localSessionsEnabled`; they may be old, or never come true.
    Writes, `sync` and calls bound to the session end with `NotReadOnlyError` there, or wait, with all calls behind them
    (`read_only_writes="queue"`). Every `read_write_search_interval` seconds a server with a quorum is looked for.

    The lease (`lease_until`, on which leadership rests) takes for granted that clock rates differ by `lease_drift` at
    most, as a share, and that the servers' links and ping loops are late by `lease_jitter` seconds at most.
    `tick_time`: the servers' tickTime in seconds; unknown, it is taken for the longest that the session timeout allows,
    and the lease is the shorter. `lease="strict"` leaves the newest proof out of account, in case one touch is lost.

    `exactly_once`: create, set, delete and transactions never end as `OutcomeUnknownError` while the session lives, its
    receipts are left alone and the caller waits: each takes a receipt with it, which tells after a lost reply whether
    it was applied; if not, it is sent again. The receipts are small ephemeral nodes below `receipts_path`, which is
    made if it is missing; that takes CREATE there, and an `acl` that lets the client READ and WRITE them, otherwise
    `start` raises `ReceiptsError`. `receipts`: how many such writes may be unanswered at a time; more wait.

    `recheck_interval`: seconds after which paths that are subscribed to are looked at though no event has come (a few
    less or more; `None`: never): servers keep events back from connections that may not read the node just then.

    `max_in_flight`: requests sent and unanswered at a time.
    `max_queued_calls`, `max_queued_bytes`: what may wait to be sent; beyond it calls raise `QueueFullError`.
    `max_request_size`, `max_reply_size`: bytes of a frame; the first must not exceed the servers' jute.maxbuffer.
    `rng`: where all randomness comes from.

    `guardian`: a small child process, one for all clients of this process that want it, closes the session at once when
    this process has died, however that happened (`SIGKILL` too): its ephemeral nodes are gone within milliseconds
    instead of after `session_timeout`. `guardian_pid` and `guardian_restarts` tell of it.

    Raises `InvalidArgumentError` and its subclasses for what can't be right; `GuardianUnavailableError`.
    """

    def __init__(
        self,
        servers: str | Sequence[str] | ServerSource,
        *,
        session_timeout: float = 10.0,
        default_timeout: float | None = None,
        start_timeout: float | None = None,
        close_timeout: float = 5.0,
        acl: Sequence[ACL] = OPEN_ACL_UNSAFE,
        auth: Iterable[tuple[str, bytes]] = (),
        sasl: SaslMechanism | None = None,
        tls: bool | ssl.SSLContext | None = None,
        ca: PathLike | None = None,
        cert: PathLike | None = None,
        key: PathLike | None = None,
        key_password: str | None = None,
        check_hostname: bool = True,
        shuffle: bool = True,
        silence_budget: float | None = None,
        preventive_search_interval: float | None = None,
        warm_spare: bool = False,
        link_check_interval: float | None = None,
        retry_policy: RetryPolicy | None = None,
        time_between_attempts: float | None = None,
        max_consecutive_retries: int | None = None,
        max_reconnect_attempts: int | None = None,
        renew_session: bool = True,
        read_only: bool = False,
        read_only_writes: Literal["refuse", "queue"] = "refuse",
        read_write_search_interval: float = 60.0,
        lease: Literal["normal", "strict"] = "normal",
        lease_drift: float = 0.02,
        lease_jitter: float = 0.25,
        tick_time: float | None = None,
        exactly_once: bool = False,
        receipts_path: str = "/everlatch-receipts",
        receipts: int = 64,
        recheck_interval: float | None = 60.0,
        max_in_flight: int = 1000,
        max_queued_calls: int = 100_000,
        max_queued_bytes: int = 1 << 26,
        max_request_size: int = MAX_REQUEST_SIZE,
        max_reply_size: int = 1 << 26,
        rng: random.Random | None = None,
        guardian: bool = False,
    ) -> None:
        source: ServerSource | None = None
        if isinstance(servers, ServerSource):
            source = servers
            connect_string = _from_source(source)
        else:
            connect_string = parse_connect_string(_joined(servers))
        settings = TlsSettings.from_arguments(tls, ca, cert, key, key_password, check_hostname)
        plan = (time_between_attempts, max_consecutive_retries, max_reconnect_attempts)
        options = SessionOptions(
            endpoints=connect_string.endpoints,
            chroot=connect_string.chroot,
            session_timeout=_checked_session_timeout(session_timeout),
            shuffle=shuffle,
            max_in_flight=_positive("max_in_flight", max_in_flight),
            max_queued_calls=_positive("max_queued_calls", max_queued_calls),
            max_queued_bytes=_positive("max_queued_bytes", max_queued_bytes),
            max_reply_size=_positive("max_reply_size", max_reply_size),
            silence_budget=_interval("silence_budget", silence_budget),
            retry_policy=_checked_policy(retry_policy, plan),
            renew=renew_session,
            link_check_interval=_interval("link_check_interval", link_check_interval),
            warm_spare=warm_spare,
            lease_strict=_checked_choice("lease", lease, "normal", "strict") == "strict",
            lease_drift=_checked_drift(lease_drift),
            lease_jitter=checked_timeout(lease_jitter),
            tick=_interval("tick_time", tick_time),
            read_only=read_only,
            read_only_writes=_checked_choice("read_only_writes", read_only_writes, "refuse", "queue"),
            read_write_search_interval=_some_interval("read_write_search_interval", read_write_search_interval),
            receipts=_checked_receipts(receipts) if exactly_once else 0,
            receipts_place=server_path(connect_string.chroot, _checked_place(receipts_path)),
            receipts_acl=tuple(checked_acl(acl)),
            sasl=_checked_mechanism(sasl),
            tls=settings is not None,
        )
        engine = Engine(
            options,
            rng or random.Random(),  # noqa: S311 (spreads load and names nodes; guards no secret)
            default_timeout=None if default_timeout is None else checked_timeout(default_timeout),
            start_timeout=None if start_timeout is None else checked_timeout(start_timeout),
            close_timeout=checked_timeout(close_timeout),
            max_request_size=_positive("max_request_size", max_request_size),
            search_interval=_interval("preventive_search_interval", preventive_search_interval),
            tls=settings,
            ward=_ward_of(sasl, settings) if guardian else None,
        )
        super().__init__(engine, connect_string.chroot, tuple(checked_acl(acl)))
        self._feeds = Feeds(engine, self, _interval("recheck_interval", recheck_interval))
        self._source = source
        self._stop_following: Remove | None = None
        for scheme, credentials in _pairs(auth):
            engine.add_credentials(scheme, auth_body(scheme, credentials))

    def __repr__(self) -> str:
        statistics = self.statistics()
        return (
            f"<Client {statistics.state.name}, session {hex_id(statistics.session_id)} "
            f"(number {statistics.generation}), server {statistics.server}, {statistics.in_flight} in flight, "
            f"{statistics.queued_calls} queued, {statistics.watches} watches>"
        )

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    async def start(self, *, wait: bool = True) -> None:
        """Connects.

        Tries every server once, or until `start_timeout`; then raises `StartError`, which names each server and why,
        and the client is closed. With `wait=False` it returns at once, in `CONNECTING`, and keeps trying. Raises
        `AuthFailedError`; `AlreadyStartedError` or `ClientClosedError` the second time.
        """
        if self._source is not None and self._stop_following is None:
            self._stop_following = self._source.on_change(self._follow_source)
            self._follow_source()
        try:
            await self._engine.start(wait=wait)
        except BaseException:
            if self.state in FINAL_STATES:
                self._follow_no_more()
            raise

    async def close(self, timeout: Timeout = UNSET) -> None:
        """Ends the session: calls made before are answered, then the servers delete its ephemeral nodes.

        Returns within `timeout` (the client's `close_timeout` if left out) in every state, and never reconnects only
        to close: without a connection, calls that wait fail at once with `ClientClosedError`, sent writes with
        `OutcomeUnknownError`, and the servers expire the session. May be called again, and from several tasks; the
        first call's timeout holds. Cancelling it doesn't stop the closing. Raises `WrongLoopError`.
        """
        self._follow_no_more()
        await self._engine.close(timeout)

    def _follow_no_more(self) -> None:
        stop, self._stop_following = self._stop_following, None
        if stop is None:
            return
        try:
            stop()
        except Exception as error:  # a source is anybody's code
            logger.error("the source %r failed when it was to be followed no more: %s", self._source, describe(error))

    def _follow_source(self) -> None:
        """The source has changed. One that has no servers, or wrong ones, is not followed there."""
        assert self._source is not None
        try:
            self._engine.update_servers(source_endpoints(self._source))
        except Exception as error:  # a source is anybody's code
            logger.error("the servers stay as they are: the source %r failed: %s", self._source, describe(error))

    @property
    def guardian_pid(self) -> int | None:
        """The process that closes the session if this one dies; `None`: there is none, or not just now (the log says
        why, and that another one is started)."""
        ward = self._engine.ward
        return None if ward is None else ward.pid

    @property
    def guardian_restarts(self) -> int:
        """How often another guardian had to be started in this process, because one had died or was stuck."""
        ward = self._engine.ward
        return 0 if ward is None else ward.restarts

    @property
    def session_password(self) -> bytes:
        """What proves that a session is ours. Secret: keep it out of logs."""
        return self._engine.session.password

    def in_session(self) -> SessionClient:
        """A view of this client whose calls end with its present session: see `SessionClient`.

        Raises `SessionExpiredError` if the last one has ended and the next has not begun; `NotStartedError` or
        `ClientStateError` if there was none yet.
        """
        self._engine.check_usable("in_session()")
        session = self._engine.session
        if session.generation == 0:
            raise ClientStateError("in_session(): there is no session yet: await client.wait_connected() first")
        if session.session_id == 0:
            raise SessionExpiredError("in_session", "/")
        return SessionClient(self._engine, self._chroot, self._default_acl, session.generation)

    def keep(
        self,
        path: str,
        data: bytes = b"",
        *,
        sequential: bool = False,
        acl: Sequence[ACL] | None = None,
        make_parents: bool = False,
        replace: bool = False,
    ) -> Keeper:
        """Keeps an ephemeral node: there from when the block is entered until it is left, across outages, deletions
        and sessions, always with the data of the last `update`.

            async with client.keep("/services/web-1", b"10.0.0.7:80", make_parents=True) as kept:
                await kept.wait()           # entering doesn't wait, and works without a connection as well
                await kept.update(b"10.0.0.8:80")

        In a new session it is made ahead of all calls that wait (promise P6). What a former session of this keeper has
        left is replaced. Anybody else's node is waited for, and never touched, unless `replace` says so (not more often
        than every ten seconds). `sequential`: `path` gets `_c_<GUID>-` before its name, as Curator's protected nodes
        have it, and a number behind it, another one each time that it has to be made; `kept.path` has it.
        `make_parents`: the nodes above are made where they are missing. `acl`: the client's default if left out.

        `Keeper` says what can be asked. Raises `InvalidArgumentError` and its subclasses; entering raises
        `AlreadyStartedError` the second time, `NotStartedError`, `ClientClosedError`.
        """
        return Keeper(
            self._engine,
            self._chroot,
            self._default_acl,
            path,
            data,
            sequential=sequential,
            acl=acl,
            make_parents=make_parents,
            replace=replace,
        )

    def renew(self) -> None:
        """For a client with `renew_session=False`: lets it begin a new session, once; now, if the present one has
        ended, else when it has. Raises `NotStartedError`, `ClientClosedError` and such."""
        self._engine.renew()

    def update_servers(self, servers: str | Sequence[str]) -> None:
        """Replaces the servers; a chroot can't be changed.

        The server in use is left if it is not among them, and as often as it takes to spread the clients evenly over
        servers that were added (ZooKeeper's own rule); that waits for what was sent to be answered, and loses no call.
        Raises `InvalidConnectStringError`; `WrongLoopError`. Does nothing after the end.
        """
        connect_string = parse_connect_string(_joined(servers))
        if connect_string.chroot not in ("", self._chroot):
            raise InvalidConnectStringError(
                f"servers {servers!r}: the chroot is {self._chroot or '/'!r}, and can't be changed; make a new client"
            )
        self._engine.update_servers(connect_string.endpoints)

    # -- watching ------------------------------------------------------------------------------------------------

    def watch_data(self, path: str) -> StateSubscription[Node | None]:
        """What a node is, and is from then on: a subscription of its states, `None` while there is no such node.

            async with client.watch_data("/config") as states:
                async for node in states:
                    ...                 # the present state at once, then the latest after every change

        Changes that follow each other quickly may be seen as one, and a slow reader finds the latest state only; the
        last one is never missed, whatever becomes of connections, servers and sessions, as long as the node may be
        read. When it may not, the iteration raises that once (`NoAuthError`, say); iterate again to go on, for it is
        tried again, and the state is told when it can be had. It ends when the client is closed, and raises
        `AuthFailedError` or `GaveUpError` when it can't go on. Entering and iterating wait for a connection, without
        a timeout of their own.

        All subscriptions of one path share one watch and one read for each change: a persistent watch, where the
        server in use has them (3.6), else one-shot ones. Raises `InvalidPathError`; entering raises
        `AlreadyStartedError` the second time, `NotStartedError`, `ClientClosedError`.
        """
        return StateSubscription(self._feeds, StateTopic(DATA, _checked_path(path)))

    def watch_children(self, path: str) -> StateSubscription[Children | None]:
        """Which children a node has, and has from then on: like `watch_data`, of `Children` (names, in no order, and
        the node's own `Stat`). Changes of its data are none."""
        return StateSubscription(self._feeds, StateTopic(CHILDREN, _checked_path(path)))

    def watch_tree(
        self,
        path: str,
        *,
        max_depth: int | None = None,
        filter: Callable[[str], bool] | None = None,  # noqa: A002 - what it is called everywhere
        max_changes: int = 10_000,
    ) -> TreeSubscription:
        """A live copy in memory of a node and all below it, whether or not it exists.

            async with client.watch_tree("/services") as tree:
                await tree.ready()                      # it is complete from here on, and is kept so
                for name in tree.children("/services"):
                    print(name, tree.get(f"/services/{name}").data)
                async for change in tree:
                    if change.kind in (TreeChangeKind.READY, TreeChangeKind.RESET):
                        ...                             # look at the whole copy
                    else:
                        print(change.kind, change.path, change.node)

        Entering returns at once; the copy fills, and `tree.ready()` returns when it is complete. From then on it is
        kept as the servers are, over reconnects, new sessions and restarts as other versions; `tree.is_current` says
        whether it is in step.

        `max_depth`: 0 is the root alone, 1 with its children, and so on. `filter`: called with the path of each node
        but the root; where it returns something false, the node and all below it are left out. If it raises, the node
        counts as one that can't be read. (The server still tells of everything below the root.)

        The changes begin with `READY`, once the copy is complete; what was found until then is told by no changes. They
        are states: what happens to a path before the reader comes to it is one change, from what he knows to what is
        there. More than `max_changes` of them are replaced by one `RESET`. A node that was deleted and made again may
        be told as `CHANGED`, with another `stat.czxid`. What can't be read any more is told as `UNREADABLE`, is left
        out with all below it, and comes back as `CREATED`.

        All subscriptions of the same path, depth and filter share one copy, one watch and one read for each change: the
        copy is not to be changed. Ends like `watch_data`. `/zookeeper` is part of the tree of `/`.

        Raises `InvalidPathError`, `InvalidTypeError`, `InvalidArgumentError`.
        """
        return TreeSubscription(self._feeds, self._engine, tree_topic(path, max_depth, filter), max_changes)

    async def wait_exists(self, path: str, *, timeout: Timeout = UNSET) -> Node:
        """Returns the node as soon as there is one. Raises `CallTimeoutError`; `NoAuthError`; `ClientClosedError` and
        the like at the client's end."""
        node = await self._wait_for(path, lambda node: node is not None, "wait_exists", timeout)
        assert node is not None
        return node

    async def wait_deleted(self, path: str, *, timeout: Timeout = UNSET) -> None:
        """Returns as soon as there is no such node; one that is made again at once may be passed over. Raises what
        `wait_exists` raises."""
        await self._wait_for(path, lambda node: node is None, "wait_deleted", timeout)

    async def wait_for(
        self, path: str, predicate: Callable[[Node | None], bool], *, timeout: Timeout = UNSET
    ) -> Node | None:
        """Returns the first state of a node that `predicate` is true for; `None`: there is no node. States that don't
        last may be passed over. Raises what `wait_exists` raises, and what `predicate` does."""
        if not callable(predicate):
            raise InvalidTypeError(f"a predicate is called with the node, or None; {predicate!r} can't be called")
        return await self._wait_for(path, predicate, "wait_for", timeout)

    async def _wait_for(
        self, path: str, is_met: Callable[[Node | None], bool], operation: str, timeout: Timeout
    ) -> Node | None:
        return await wait_for(self.watch_data(path), is_met, operation, path, self._engine.seconds(timeout))

    # -- servers -------------------------------------------------------------------------------------------------

    async def search_servers(self) -> tuple[ServerFinding, ...]:
        """Asks every server, over a connection of its own, whether it serves, and how fast; the client prefers those
        that do from now on. Takes 3 s at most. Raises `NotStartedError`, `ClientClosedError` and such."""
        self._engine.check_usable("search_servers()")
        return await self._engine.search.search()

    @property
    def server_findings(self) -> tuple[ServerFinding, ...]:
        """What the last search found; empty before the first one (see `preventive_search_interval`)."""
        return self._engine.search.findings

    def new_guid(self) -> str:
        """A random name, from the client's own `rng`: 36 characters, as Curator's protected creates have it."""
        return self._engine.new_guid()

    def statistics(self) -> Statistics:
        """A snapshot of what the client has done and has to do."""
        return self._engine.session.statistics()


def _checked_path(path: str) -> str:
    validate_path(path)
    return path


def _checked_place(path: str) -> str:
    validate_path(path)
    if path == "/":
        raise InvalidArgumentError(
            "receipts_path '/': receipts need a node of their own, such as '/everlatch-receipts'"
        )
    return path


def _checked_receipts(count: int) -> int:
    if _positive("receipts", count) > MOST_RECEIPTS:
        raise InvalidArgumentError(f"receipts: {MOST_RECEIPTS} at most, for they are made by one request; not {count}")
    return count


def _joined(servers: str | Sequence[str]) -> str:
    if isinstance(servers, str):
        return servers
    if not isinstance(servers, (list, tuple)) or not all(isinstance(server, str) for server in servers):
        raise InvalidTypeError(f"servers are a connect string or a list of host:port, not {servers!r}")
    if any("/" in server for server in servers[:-1]):
        raise InvalidConnectStringError(
            f"servers {servers!r}: the chroot stands behind the last server, for all of them"
        )
    return ",".join(servers)


def _from_source(source: ServerSource) -> ConnectString:
    return ConnectString(source_endpoints(source), "")


class _Isolated(NamedTuple):
    """A retry policy of the user's own, which may fail: the default one decides then (promise P9)."""

    policy: RetryPolicy

    def next_delay(self, retries: int, elapsed: float, rng: random.Random) -> float | None:
        try:
            delay = self.policy.next_delay(retries, elapsed, rng)
            return None if delay is None else checked_timeout(delay)
        except Exception as error:  # a policy is anybody's code
            logger.error("the default retry policy decides, for %r failed: %s", self.policy, describe(error))
            return FullJitter().next_delay(retries, elapsed, rng)


def _checked_policy(policy: RetryPolicy | None, plan: tuple[float | None, int | None, int | None]) -> RetryPolicy:
    if policy is not None:
        if any(part is not None for part in plan):
            raise InvalidArgumentError(
                "retry_policy takes the place of time_between_attempts, max_consecutive_retries and "
                "max_reconnect_attempts; give one or the others"
            )
        if not callable(getattr(policy, "next_delay", None)):
            raise InvalidTypeError(f"a retry policy has a method next_delay; {policy!r} has none")
        return _Isolated(policy)
    between, consecutive, attempts = plan
    if between is consecutive is attempts is None:
        return FullJitter()
    return AttemptPlan(
        0.0 if between is None else checked_timeout(between),
        1 if consecutive is None else _positive("max_consecutive_retries", consecutive),
        None if attempts is None else _positive("max_reconnect_attempts", attempts),
    )


def _checked_choice(name: str, value: T, *choices: T) -> T:
    if value not in choices:
        raise InvalidArgumentError(f"{name} is {' or '.join(map(repr, choices))}, not {value!r}")
    return value


def _checked_drift(drift: float) -> float:
    if isinstance(drift, bool) or not isinstance(drift, (int, float)):
        raise InvalidTypeError(f"lease_drift is a share of the session timeout, not {drift!r}")
    if not 0 <= drift < 1:
        raise InvalidArgumentError(
            f"lease_drift is a share of the session timeout, from 0 to less than 1, not {drift!r}"
        )
    return float(drift)


def _interval(name: str, seconds: float | None) -> float | None:
    return None if seconds is None else _some_interval(name, seconds)


def _some_interval(name: str, seconds: float) -> float:
    seconds = checked_timeout(seconds)
    if seconds <= 0:
        raise InvalidArgumentError(f"{name} is more than 0 seconds, not {seconds!r}")
    return seconds


def _ward_of(sasl: SaslMechanism | None, tls: TlsSettings | None) -> Ward:
    """A place with the guardian, if it can do what this client can."""
    if tls is not None and not tls.is_plain:
        raise GuardianUnavailableError(
            "the guardian is another process, and can't be given an SSLContext: give ca, cert and key instead, or "
            "leave guardian=True out"
        )
    if sasl is not None and not isinstance(sasl, (DigestMd5, Kerberos)):
        raise GuardianUnavailableError(
            f"the guardian can authenticate by DigestMd5 and Kerberos, not by {type(sasl).__name__}: leave "
            "guardian=True out, or authenticate by one of them or a client certificate"
        )
    return Ward()


def _checked_mechanism(sasl: SaslMechanism | None) -> SaslMechanism | None:
    if sasl is not None and (isinstance(sasl, type) or not _is_mechanism(sasl)):
        # Not its repr: it may be a password.
        kind = f"the class {sasl.__name__}" if isinstance(sasl, type) else f"a {type(sasl).__name__}"
        raise InvalidTypeError(f"sasl is a mechanism (SaslMechanism), such as DigestMd5('bob', 'secret'), not {kind}")
    return sasl


def _is_mechanism(sasl: object) -> bool:
    has_methods = all(callable(getattr(sasl, method, None)) for method in ("begin", "keep_fresh"))
    return has_methods and isinstance(getattr(sasl, "name", None), str) and hasattr(sasl, "is_blocking")


def _pairs(auth: Iterable[tuple[str, bytes]]) -> list[tuple[str, bytes]]:
    """Error messages show nothing of it."""
    try:
        return [(scheme, credentials) for scheme, credentials in auth]
    except (TypeError, ValueError):
        raise InvalidTypeError(
            "auth is a list of (scheme, credentials), such as [('digest', b'user:password')]"
        ) from None


def _positive(name: str, value: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidTypeError(f"{name} is int, not {type(value).__name__}")
    if value <= 0:
        raise InvalidArgumentError(f"{name} must be 1 or more, not {value}")
    return value


def _checked_session_timeout(seconds: float) -> float:
    """It travels as milliseconds in 32 bits."""
    seconds = checked_timeout(seconds)
    if not 0.001 <= seconds <= (2**31 - 1) / 1000:
        raise InvalidArgumentError(f"a session timeout is 0.001 to {2**31 // 1000} seconds, not {seconds!r}")
    return seconds
