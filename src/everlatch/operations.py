"""The typed methods, one per operation of ZooKeeper.

Rules of this file: a method checks its arguments, encodes the body, and submits one request; composed operations, and
those that need to know the server's version first, are `async def`. There is no state here but what a call needs to be
made: the engine, the chroot, and the session it is bound to, if any.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

from everlatch.arguments import (
    checked_acl,
    checked_config_version,
    checked_data,
    checked_servers,
    checked_ttl_ms,
    checked_version,
    server_path,
    server_path_of_new,
)
from everlatch.engine.watch_subscription import WatchSubscription
from everlatch.errors import (
    EverlatchError,
    InvalidArgumentError,
    InvalidTypeError,
    NoNodeError,
    NotEmptyError,
    ResultLostError,
    WriteTimeoutError,
)
from everlatch.multi_read import MultiRead
from everlatch.paths import join, parent, strip_chroot, validate_path
from everlatch.session.requests import Operation, no_result
from everlatch.session.watches import CHILD, DATA
from everlatch.transaction import Guard, Transaction
from everlatch.types import ACL, UNSET, Children, ClientInfo, Created, Node, Stat, Timeout, WatchKind
from everlatch.wire.auth_records import decode_who_am_i_reply, encode_auth_request
from everlatch.wire.codes import CreateMode, Op, WatcherType
from everlatch.wire.records import (
    decode_create2_reply,
    decode_exists_reply,
    decode_get_acl_reply,
    decode_get_all_children_number_reply,
    decode_get_children2_reply,
    decode_get_children_reply,
    decode_get_data_reply,
    decode_get_ephemerals_reply,
    decode_reconfig_reply,
    decode_set_acl_reply,
    decode_set_data_reply,
    encode_create_request,
    encode_create_ttl_request,
    encode_delete_request,
    encode_exists_request,
    encode_get_acl_request,
    encode_get_all_children_number_request,
    encode_get_children2_request,
    encode_get_children_request,
    encode_get_data_request,
    encode_get_ephemerals_request,
    encode_reconfig_request,
    encode_set_acl_request,
    encode_set_data_request,
    encode_sync_request,
)
from everlatch.wire.watch_records import encode_check_watches_request, encode_remove_watches_request

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from everlatch.engine.call import Call
    from everlatch.engine.engine import Engine
    from everlatch.types import Watch

__all__ = ["Operations", "auth_body"]


_GET = Operation("get", Op.GET_DATA, decode_get_data_reply, watch=DATA)
_EXISTS = Operation("exists", Op.EXISTS, decode_exists_reply, watch=DATA, missing_is_none=True)
_CHILDREN = Operation("children", Op.GET_CHILDREN, decode_get_children_reply, watch=CHILD)
_CHILDREN_AND_STAT = Operation("children_and_stat", Op.GET_CHILDREN2, decode_get_children2_reply, watch=CHILD)
_GET_ACL = Operation("get_acl", Op.GET_ACL, decode_get_acl_reply)
_SET_ACL = Operation("set_acl", Op.SET_ACL, decode_set_acl_reply, is_write=True)
_SYNC = Operation("sync", Op.SYNC, no_result)
_ADD_AUTH = Operation("add_auth", Op.AUTH, no_result)
_CHECK_WATCHES = Operation("check_watches", Op.CHECK_WATCHES, lambda *_: True, no_watcher=lambda _: False)
_WHO_AM_I = Operation("who_am_i", Op.WHO_AM_I, decode_who_am_i_reply)
_EPHEMERALS = Operation("ephemerals", Op.GET_EPHEMERALS, decode_get_ephemerals_reply)
_COUNT_DESCENDANTS = Operation("count_descendants", Op.GET_ALL_CHILDREN_NUMBER, decode_get_all_children_number_reply)
_GET_CONFIG = Operation("get_config", Op.GET_DATA, decode_get_data_reply, watch=DATA, unrooted=True)
_RECONFIG = Operation("reconfig", Op.RECONFIG, decode_reconfig_reply, is_write=True)

_CONFIG = "/zookeeper/config"
"""The node of the servers' own configuration; no chroot applies to it."""


class Operations:
    """What can be done with znodes. `Client` has these, and so has what `Client.in_session` returns.

    Every method that returns a `Call` has submitted its request when it returns: requests take effect in the order of
    the calls, not of the awaits. All take a `timeout` in seconds (`None`: none; left out: the client's
    `default_timeout`), and all may raise, from the call or when awaited:

    - `InvalidArgumentError` and its subclasses, `ClientStateError` and its subclasses, `QueueFullError`: at once,
      nothing was sent;
    - `CallTimeoutError`: the timeout ran out; for a write that had been sent it is a `WriteTimeoutError`;
    - `ClientClosedError`: closed before the answer came; `AuthFailedError`: the client's credentials were refused;
    - writes: `OutcomeUnknownError`: the connection broke after the request was sent and before its reply;
    - reads: `RequestKillsConnectionError`, `ReplyTooLargeError`: the answer can't be had over any connection;
    - `ServerError` and its subclasses: the server's refusal; each method names the usual ones.

    While the client is disconnected, calls wait in a queue and are sent once when it is connected again.

    `who_am_i`, `ephemerals`, `count_descendants`, `reconfig` and the commit of a `multi_read` are coroutines instead:
    nothing happens before they are awaited. Older servers lack them, so the server in use is asked for its version
    (`srvr`, over a connection of its own, once per connection of this client), and the request goes out when the answer
    is there, behind what was called meanwhile. Where the version can't be learnt the request is tried. All raise
    `UnsupportedByServerError` if the server is too old.
    """

    def __init__(self, engine: Engine, chroot: str, default_acl: Sequence[ACL], generation: int = 0) -> None:
        self._engine = engine
        self._chroot = chroot
        self._default_acl = default_acl
        self._generation = generation
        receipted = engine.has_receipts
        self._set = Operation("set", Op.SET_DATA, decode_set_data_reply, is_write=True, is_receipted=receipted)
        self._delete = Operation("delete", Op.DELETE, no_result, is_write=True, is_receipted=receipted)
        self._create = Operation("create", Op.CREATE2, self._decode_created, is_write=True, is_receipted=receipted)
        self._create_container = self._create._replace(op=Op.CREATE_CONTAINER)
        self._create_ttl = self._create._replace(op=Op.CREATE_TTL)

    def server_path(self, path: str) -> str:
        """For recipes: what the servers call it. Raises `InvalidPathError`."""
        return server_path(self._chroot, path)

    # -- reads -----------------------------------------------------------------------------------------------------

    def get(self, path: str, *, watch: Watch | None = None, timeout: Timeout = UNSET) -> Call[Node]:
        """Reads a node: `data, stat = await client.get(path)`.

        `watch` is called once, with the next change of the node's data or its deletion. Raises `NoNodeError` (no
        watch is set then: use `exists`), `NoAuthError`.
        """
        body = encode_get_data_request(server_path(self._chroot, path), watch is not None)
        return self._engine.submit(_GET, path, body, watch, timeout, self._generation)

    def exists(self, path: str, *, watch: Watch | None = None, timeout: Timeout = UNSET) -> Call[Stat | None]:
        """Returns a node's `Stat`, or `None` if there is no such node.

        `watch` is called once, with the next creation, change of data, or deletion of the node. Raises `NoAuthError`
        (servers from 3.8.4 and 3.9.2 on demand READ).
        """
        body = encode_exists_request(server_path(self._chroot, path), watch is not None)
        return self._engine.submit(_EXISTS, path, body, watch, timeout, self._generation)

    def children(self, path: str, *, watch: Watch | None = None, timeout: Timeout = UNSET) -> Call[list[str]]:
        """Returns the names of a node's children, in no order.

        `watch` is called once, with the next creation or deletion of a child, or the deletion of the node. Raises
        `NoNodeError`, `NoAuthError`.
        """
        body = encode_get_children_request(server_path(self._chroot, path), watch is not None)
        return self._engine.submit(_CHILDREN, path, body, watch, timeout, self._generation)

    def children_and_stat(self, path: str, *, watch: Watch | None = None, timeout: Timeout = UNSET) -> Call[Children]:
        """Like `children`, with the node's own `Stat` as of the same moment."""
        body = encode_get_children2_request(server_path(self._chroot, path), watch is not None)
        return self._engine.submit(_CHILDREN_AND_STAT, path, body, watch, timeout, self._generation)

    def get_acl(self, path: str, *, timeout: Timeout = UNSET) -> Call[tuple[list[ACL], Stat]]:
        """Returns a node's ACL and `Stat`. Without ADMIN permission the server hides digests. Raises `NoNodeError`,
        `NoAuthError`."""
        body = encode_get_acl_request(server_path(self._chroot, path))
        return self._engine.submit(_GET_ACL, path, body, None, timeout, self._generation)

    async def count_descendants(self, path: str, *, timeout: Timeout = UNSET) -> int:
        """Counts the nodes below a node, at any depth. Below `/`, without a chroot, ZooKeeper's own nodes count too.

        The server looks at all of its nodes to find out. Raises `NoNodeError`, `NoAuthError`;
        `UnsupportedByServerError` before ZooKeeper 3.6.
        """
        body = encode_get_all_children_number_request(server_path(self._chroot, path))
        count: int = await self._submit_since("3.6.0", _COUNT_DESCENDANTS, path, body, timeout)
        return count

    async def ephemerals(self, prefix: str = "/", *, timeout: Timeout = UNSET) -> list[str]:
        """Returns the paths of the present session's ephemeral nodes that begin with `prefix`, in no order.

        The prefix is plain text, not a parent: `/a` finds `/ab` too, `/a/` doesn't. Nodes outside of the chroot are
        left out. If the connection breaks before the answer, the question is asked again, maybe in another session;
        `client.in_session().ephemerals()` fails then. Raises `UnsupportedByServerError` before ZooKeeper 3.6.
        """
        validate_path(prefix, sequential=True)
        sent = self._chroot if prefix == "/" else self._chroot + prefix
        body = encode_get_ephemerals_request(sent or "/")
        found: list[str] = await self._submit_since("3.6.0", _EPHEMERALS, prefix, body, timeout)
        if not self._chroot:
            return found
        return [strip_chroot(self._chroot, path) for path in found if (path + "/").startswith(self._chroot + "/")]

    def multi_read(self) -> MultiRead:
        """Several reads in one request: see `MultiRead`. Since ZooKeeper 3.6."""
        return MultiRead(self._submit_multi_read, self._chroot)

    def sync(self, path: str = "/", *, timeout: Timeout = UNSET) -> Call[None]:
        """Brings the server in use up to date with the leader: a read called after it, awaited or not, sees all that
        the leader had committed. (A leader that has been deposed and doesn't know it yet answers too.)"""
        body = encode_sync_request(server_path(self._chroot, path))
        return self._engine.submit(_SYNC, path, body, None, timeout, self._generation)

    # -- writes ----------------------------------------------------------------------------------------------------

    def create(
        self,
        path: str,
        data: bytes = b"",
        *,
        ephemeral: bool = False,
        sequential: bool = False,
        container: bool = False,
        ttl: float | None = None,
        acl: Sequence[ACL] | None = None,
        idempotent: bool = False,
        protect: bool = False,
        timeout: Timeout = UNSET,
    ) -> Call[Created]:
        """Creates a node and returns its path and `Stat`.

        `ephemeral`: deleted by the servers when this client's session ends. `sequential`: the server appends a number
        of ten digits to `path`, larger than any before it under this parent. `container`: deleted by the servers
        some time after its last child. `ttl` (seconds, not with `ephemeral`): deleted when it has had no children and
        no change for so long; servers need `extendedTypesEnabled=true`. `acl`: the client's default if left out.

        If the reply is lost: `idempotent` (not with `sequential`) sends it again, and takes a node that exists, whoever
        made it, for success, from the first time on. `protect` puts `_c_<GUID>-` before the name, as Curator does, by
        which the node is found; if it isn't there, it is created again, also if somebody has deleted it meanwhile.

        Raises `NodeExistsError`, `NoNodeError` (no parent), `NoChildrenForEphemeralsError`, `NoAuthError`,
        `InvalidACLError`, `QuotaExceededError`, `UnimplementedError` (ttl: it is off on the servers, as it is by
        default; nothing was created, and the connection is as it was).
        """
        if idempotent and (sequential or protect):
            raise InvalidArgumentError(f"create {path!r}: idempotent goes with neither sequential nor protect")
        if protect:
            path = self._protected(path, sequential)
        new_path = server_path_of_new(self._chroot, path, sequential)
        acls = checked_acl(self._default_acl if acl is None else acl)
        checked_data(data)
        if ttl is not None:
            if ephemeral or container:
                raise InvalidArgumentError(f"create {path!r}: ttl goes with neither ephemeral nor container")
            mode = CreateMode.PERSISTENT_SEQUENTIAL_WITH_TTL if sequential else CreateMode.PERSISTENT_WITH_TTL
            body = encode_create_ttl_request(new_path, data, acls, mode, checked_ttl_ms(path, ttl))
            operation = self._create_ttl
        elif container:
            if ephemeral or sequential:
                raise InvalidArgumentError(f"create {path!r}: container goes with neither ephemeral nor sequential")
            body = encode_create_request(new_path, data, acls, CreateMode.CONTAINER)
            operation = self._create_container
        else:
            body = encode_create_request(new_path, data, acls, _MODES[bool(sequential), bool(ephemeral)])
            operation = self._create
        if idempotent:
            operation = operation._replace(is_idempotent=True)
        elif protect:
            operation = operation._replace(is_protected=True)
        return self._engine.submit(operation, path, body, None, timeout, self._generation)

    def _protected(self, path: str, sequential: bool) -> str:
        """With a name that is only ours. Curator's form."""
        validate_path(path, sequential=sequential)
        above, name = path.rsplit("/", 1)
        return f"{above}/_c_{self._engine.new_guid()}-{name}"

    def set(
        self, path: str, data: bytes, *, version: int = -1, idempotent: bool = False, timeout: Timeout = UNSET
    ) -> Call[Stat]:
        """Replaces a node's data, if its version is `version` (−1: any), and returns its new `Stat`.

        `idempotent` (not with a version): if the reply is lost it is sent again, so that it may be applied twice.
        Raises `NoNodeError`, `BadVersionError`, `NoAuthError`, `QuotaExceededError`.
        """
        body = encode_set_data_request(server_path(self._chroot, path), checked_data(data), checked_version(version))
        operation = _idempotent(self._set, path, version) if idempotent else self._set
        return self._engine.submit(operation, path, body, None, timeout, self._generation)

    def delete(self, path: str, *, version: int = -1, idempotent: bool = False, timeout: Timeout = UNSET) -> Call[None]:
        """Deletes a node without children, if its version is `version` (−1: any).

        `idempotent` (not with a version): if the reply is lost it is sent again, and a node that isn't there is a
        success, from the first time on. Raises `NoNodeError`, `BadVersionError`, `NotEmptyError`, `NoAuthError`;
        `BadArgumentsError` for `/` and ZooKeeper's own nodes.
        """
        # Never the chroot itself: "/" goes out as "/", which the server refuses, as ZooKeeper's own client does.
        target = server_path(self._chroot, path) if path != "/" else "/"
        body = encode_delete_request(target, checked_version(version))
        operation = _idempotent(self._delete, path, version) if idempotent else self._delete
        return self._engine.submit(operation, path, body, None, timeout, self._generation)

    def set_acl(
        self, path: str, acl: Sequence[ACL], *, version: int = -1, idempotent: bool = False, timeout: Timeout = UNSET
    ) -> Call[Stat]:
        """Replaces a node's ACL, if its *ACL* version (`Stat.aversion`) is `version` (−1: any), and returns its `Stat`.

        `idempotent` (not with a version): if the reply is lost it is sent again, so that it may be applied twice. It
        can't be exactly once. Raises `NoNodeError`, `BadVersionError`, `NoAuthError`, `InvalidACLError`.
        """
        body = encode_set_acl_request(server_path(self._chroot, path), checked_acl(acl), checked_version(version))
        operation = _idempotent(_SET_ACL, path, version) if idempotent else _SET_ACL
        return self._engine.submit(operation, path, body, None, timeout, self._generation)

    def transaction(self, guard: Guard | None = None) -> Transaction:
        """Several writes and version checks that are applied together or not at all: see `Transaction`. (`guard` is for
        recipes.)"""
        return Transaction(
            self._submit_multi, self._chroot, self._default_acl, guard, is_receipted=self._engine.has_receipts
        )

    # -- watches ---------------------------------------------------------------------------------------------------

    def add_watch(
        self, path: str, *, recursive: bool = False, max_events: int = 10_000, timeout: Timeout = UNSET
    ) -> WatchSubscription:
        """Watches a node, whether or not it exists, until the block is left: every change is an event, in order.

            async with client.add_watch("/services", recursive=True) as events:
                ...                         # read what is there now; from here on no change goes unseen
                async for event in events:
                    if event.type is EventType.MISSED:
                        ...                 # changes may have gone unseen: read all of it again

        `recursive`: the node and all below it, at any depth (CREATED, DELETED and DATA_CHANGED of each; never
        CHILDREN_CHANGED). Otherwise the node alone, and CHILDREN_CHANGED when a child comes or goes.

        After each reconnect, in the same session or another, one `MISSED` event for `path` comes first: servers don't
        replay what happened meanwhile. It also comes when more than `max_events` wait to be read (they are dropped),
        and where a server before 3.9 may have lost the watch to a one-shot one on the same path. `REMOVED`, and with it
        the end, comes only if the client has to do with a server too old for it (before 3.6) after a reconnect. The
        client's end is the end of the iteration, too.

        `timeout` (seconds) is for entering the block, which waits for a connection and the server's answer. Entering
        raises what any call raises, and `UnsupportedByServerError`; the iteration raises `AuthFailedError` when the
        servers refuse the client's credentials. Servers drop events of nodes that the connection may not read.
        """
        if isinstance(max_events, bool) or not isinstance(max_events, int) or max_events < 1:
            raise InvalidArgumentError(f"add_watch {path!r}: max_events is a number of at least 1, not {max_events!r}")
        return WatchSubscription(
            self._engine,
            path,
            server_path(self._chroot, path),
            recursive=recursive,
            max_events=max_events,
            timeout=self._engine.seconds(timeout),
            generation=self._generation,
        )

    def remove_watches(self, path: str, which: WatchKind = WatchKind.ANY, *, timeout: Timeout = UNSET) -> Call[None]:
        """Removes this client's one-shot watches on a node, here and at the server; each callback is told `REMOVED`.
        The watches of `add_watch` stay, which are removed by leaving their block.

        Raises `NoWatcherError` if there are none.
        """
        body = encode_remove_watches_request(server_path(self._chroot, path), _watcher_type(which))
        operation = self._engine.session.removal(which, path)
        return self._engine.submit(operation, path, body, None, timeout, self._generation)

    def check_watches(self, path: str, which: WatchKind = WatchKind.ANY, *, timeout: Timeout = UNSET) -> Call[bool]:
        """Whether the server in use has watches of this client on a node (for `WatchKind.ANY`: those of `add_watch`
        included)."""
        body = encode_check_watches_request(server_path(self._chroot, path), _watcher_type(which))
        return self._engine.submit(_CHECK_WATCHES, path, body, None, timeout, self._generation)

    # -- identity --------------------------------------------------------------------------------------------------

    def add_auth(self, scheme: str, credentials: bytes, *, timeout: Timeout = UNSET) -> Call[None]:
        """Authenticates, now and on every later connection: `client.add_auth("digest", b"user:password")`.

        The call ends with the server's answer; one that refuses ends the client (`AUTH_FAILED`) and this call with
        `AuthFailedError`. Cancelling the call or its timeout takes nothing back.
        """
        return self._engine.authenticate(scheme, auth_body(scheme, credentials), _ADD_AUTH, timeout)

    async def who_am_i(self, *, timeout: Timeout = UNSET) -> list[ClientInfo]:
        """Returns what the connection is authenticated as, in no order: `("ip", "10.0.0.7")`, `("digest", "user")`, …

        That is this connection, at the moment when it answers. Raises `UnsupportedByServerError` before ZooKeeper 3.7.
        """
        identities: list[ClientInfo] = await self._submit_since("3.7.0", _WHO_AM_I, "/", b"", timeout)
        return identities

    # -- the servers themselves ------------------------------------------------------------------------------------

    def get_config(self, *, watch: Watch | None = None, timeout: Timeout = UNSET) -> Call[Node]:
        """Reads the configuration of the ensemble, whatever the chroot: the node `/zookeeper/config`.

        Its data is text, as `reconfig` has it: a line `server.N=host:port:port:role;address:port` for each server, and
        as the last line `version=` and its version in hexadecimal. That version as a number is `stat.mzxid`
        (`stat.version` is −1 always). A standalone server has `b""`. `watch` is called once, with the next change; the
        event's path is `/zookeeper/config`. Raises `NoNodeError` before ZooKeeper 3.5, `NoAuthError`.
        """
        body = encode_get_data_request(_CONFIG, watch is not None)
        return self._engine.submit(_GET_CONFIG, _CONFIG, body, watch, timeout, self._generation)

    async def reconfig(
        self,
        *,
        joining: str | Sequence[str] | None = None,
        leaving: str | Sequence[str] | None = None,
        new_members: str | Sequence[str] | None = None,
        from_config: int = -1,
        timeout: Timeout = UNSET,
    ) -> Node:
        """Changes which servers the ensemble is made of, and returns the new configuration, as `get_config` does.

        Either a change: `joining`, servers that come or get another role or address
        (`server.4=host:2888:3888:participant;2181`), and `leaving`, numbers of servers that go (`"4"`); or
        `new_members`, all servers that there shall be. Each is one text, separated by commas, or a list of texts.
        `from_config`: refused unless this is the version of the present configuration (`stat.mzxid` of `get_config`;
        −1: any).

        Needs `reconfigEnabled=true` on the servers, and an identity that may write `/zookeeper/config`: by default only
        the super user may.

        Raises `BadVersionError` (another configuration than `from_config`), `ReconfigDisabledError`, `NoAuthError`,
        `NewConfigNoQuorumError` (too few of the new servers are up and in sync), `ReconfigInProgressError` (try again
        later), `BadArgumentsError` or `MarshallingError` (text that the servers can't read, or too few servers left),
        `UnimplementedError` (a standalone server), `UnsupportedByServerError` before ZooKeeper 3.5, and
        `OutcomeUnknownError`: then look at `get_config`.
        """
        body = _reconfig_body(joining, leaving, new_members, from_config)
        node: Node = await self._submit_since("3.5.0", _RECONFIG, _CONFIG, body, timeout)
        return node

    # -- composed --------------------------------------------------------------------------------------------------

    async def ensure_path(
        self, path: str, *, container: bool = False, acl: Sequence[ACL] | None = None, timeout: Timeout = UNSET
    ) -> None:
        """Creates a persistent node (`container`: a container node) and its ancestors where they are missing. Those
        that exist are left as they are.

        `timeout` is for the whole. Raises what `create` raises, but `NodeExistsError` and `NoNodeError`.
        """
        validate_path(path)
        if acl is not None:
            checked_acl(acl)
        async with _whole("ensure_path", path, self._engine.seconds(timeout)):
            await self._ensure_path(path, container, acl)

    async def _ensure_path(self, path: str, container: bool, acl: Sequence[ACL] | None) -> None:
        """From the node up to what exists, and down again; with a stack of our own, so that no depth is too deep."""
        missing = [path]
        while missing:
            path = missing[-1]
            try:
                if path != "/":
                    await self._create_if_missing(path, container, acl)
                elif self._chroot:
                    await self._ensure_chroot(container, acl)
            except NoNodeError:
                # A parent is missing, or was deleted meanwhile.
                missing.append(parent(path))
            else:
                missing.pop()

    async def _create_if_missing(self, path: str, container: bool, acl: Sequence[ACL] | None) -> None:
        if await self.exists(path, timeout=None) is not None:
            return
        with contextlib.suppress(ResultLostError):  # it was there, and is gone again
            await self.create(path, container=container, acl=acl, idempotent=True, timeout=None)

    async def _ensure_chroot(self, container: bool, acl: Sequence[ACL] | None) -> None:
        outside = Operations(self._engine, "", self._default_acl, self._generation)
        await outside._ensure_path(self._chroot, container, acl)

    async def delete_tree(self, path: str, *, missing_ok: bool = False, timeout: Timeout = UNSET) -> None:
        """Deletes a node and all below it, children first; nodes that others create meanwhile are deleted as well.

        Not atomic: after an error, part of the tree is gone. `timeout` is for the whole. Raises `NoNodeError` unless
        `missing_ok`, `NoAuthError`, and what `delete` raises.
        """
        if path == "/":
            raise InvalidArgumentError("delete_tree '/': the root can't be deleted; delete its children")
        validate_path(path)
        async with _whole("delete_tree", path, self._engine.seconds(timeout)):
            if not missing_ok and await self.exists(path, timeout=None) is None:
                raise NoNodeError("delete_tree", path)
            await self._delete_tree(path)

    async def _delete_tree(self, root: str) -> None:
        """Depth first with a stack of our own, so that no depth of the tree is too deep."""
        stack = [root]
        while stack:
            path = stack[-1]
            try:
                names = await self.children(path, timeout=None)
                if names:
                    # Leaves go at once, pipelined; what turns out to have children comes back on the stack.
                    stack += await self._delete_all([join(path, name) for name in names])
                    continue
                await self.delete(path, idempotent=True, timeout=None)
            except NoNodeError:
                pass
            except NotEmptyError:
                continue
            stack.pop()

    async def _delete_all(self, paths: list[str]) -> list[str]:
        """Deletes the nodes without children, and returns the others."""
        with_children: list[str] = []
        size = min(_DELETE_BATCH, self._engine.max_queued_calls)
        for start in range(0, len(paths), size):
            batch = paths[start : start + size]
            deletions = [self.delete(path, idempotent=True, timeout=None) for path in batch]
            results = await asyncio.gather(*deletions, return_exceptions=True)
            for path, result in zip(batch, results, strict=True):
                if isinstance(result, NotEmptyError):
                    with_children.append(path)
                elif isinstance(result, BaseException) and not isinstance(result, NoNodeError):
                    raise result
        return with_children

    # -- how a call is made ----------------------------------------------------------------------------------------

    def _submit_multi(self, operation: Operation, path: str, body: bytes, timeout: Timeout) -> Call[None]:
        return self._engine.submit(operation, path, body, None, timeout, self._generation)

    async def _submit_multi_read(self, operation: Operation, path: str, body: bytes, timeout: Timeout) -> Any:
        return await self._submit_since("3.6.0", operation, path, body, timeout)

    async def _submit_since(self, since: str, operation: Operation, path: str, body: bytes, timeout: Timeout) -> Any:
        """Submits what servers know since a version, if the server in use is not known to be older."""
        return await self._engine.versions.submit(since, operation, path, body, None, timeout, self._generation)

    def _decode_created(self, buf: bytes, pos: int, end: int) -> Created:
        created = decode_create2_reply(buf, pos, end)
        return Created(strip_chroot(self._chroot, created.path), created.stat) if self._chroot else created


_MODES = {
    (False, False): CreateMode.PERSISTENT,
    (False, True): CreateMode.EPHEMERAL,
    (True, False): CreateMode.PERSISTENT_SEQUENTIAL,
    (True, True): CreateMode.EPHEMERAL_SEQUENTIAL,
}
"""(sequential, ephemeral) → mode."""

_DELETE_BATCH = 500


@contextlib.asynccontextmanager
async def _whole(operation: str, path: str, timeout: float | None) -> AsyncIterator[None]:
    """The timeout of a composed operation, which may have done part of its work."""
    try:
        async with asyncio.timeout(timeout):
            yield
    except TimeoutError as error:
        if timeout is None or isinstance(error, EverlatchError):
            raise
        raise WriteTimeoutError(operation, path, timeout) from None


def _reconfig_body(
    joining: str | Sequence[str] | None,
    leaving: str | Sequence[str] | None,
    new_members: str | Sequence[str] | None,
    from_config: int,
) -> bytes:
    if new_members is None and joining is None and leaving is None:
        raise InvalidArgumentError("reconfig: nothing to do; give joining or leaving, or new_members")
    if new_members is not None and (joining is not None or leaving is not None):
        raise InvalidArgumentError("reconfig: give either a change, joining and leaving, or all the new_members")
    return encode_reconfig_request(
        None if joining is None else checked_servers("joining", joining),
        None if leaving is None else checked_servers("leaving", leaving),
        None if new_members is None else checked_servers("new_members", new_members),
        checked_config_version(from_config),
    )


def _idempotent(operation: Operation, path: str, version: int) -> Operation:
    if version != -1:
        raise InvalidArgumentError(
            f"{operation.name} {path!r}: idempotent doesn't go with a version, for the second time it would be another"
        )
    return operation._replace(is_idempotent=True)


def _watcher_type(which: WatchKind) -> WatcherType:
    if not isinstance(which, WatchKind):
        raise InvalidTypeError(f"which watches is said by everlatch.WatchKind, not {which!r}")
    return WatcherType(which.value)


def auth_body(scheme: str, credentials: bytes) -> bytes:
    """The body of an auth request. Error messages don't show the credentials."""
    # Not shown either: it may be the credentials, in the wrong place.
    if not isinstance(scheme, str):
        raise InvalidTypeError(f"an auth scheme is str, such as 'digest', not {type(scheme).__name__}")
    if not scheme:
        raise InvalidArgumentError("an auth scheme is a name, such as 'digest'; it can't be empty")
    if not isinstance(credentials, bytes):
        raise InvalidTypeError(f"credentials are bytes, not {type(credentials).__name__}; encode them")
    return encode_auth_request(scheme, credentials)
