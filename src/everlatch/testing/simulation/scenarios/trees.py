"""P5 for copies of trees: each ends as the tree is, has nothing that never was, and never goes back.

Clients keep copies of several trees, some of a part of them (`max_depth`, `filter`), and leave them again in all ways;
writers create, delete, delete and make again at once, write, and take the permission to read away; servers crash and
come back as another version.

Rules:
1. What is judged is what was told: the copy at `READY` and `RESET`, and every change. A change says what was there
   before, as this reader was told it; a node comes behind its parent and goes before it.
2. Path by path, in order: a node that may be read, as it was at some moment; or nothing, because there was none or
   because it or one above it could not be read. Moments never go back.
3. In the end all is calm: every copy becomes what the tree is. Without changes of permissions nothing is looked at
   without an event; so it is watches that tell. Then everything is changed once more.
4. Who has left leaves no watch.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from everlatch import TreeChangeKind
from everlatch.devserver.identities import may
from everlatch.devserver.tree import Tree
from everlatch.errors import EverlatchError, NoAuthError, RequestKillsConnectionError
from everlatch.paths import join, parent
from everlatch.testing.simulation.faults import EVERY_KIND
from everlatch.testing.simulation.scenarios.changing import (
    CLOSED_ACL,
    MIXES,
    OPEN_ACL,
    RECHECK,
    TOLD_AGAIN,
    ServerChangesVersion,
    Writers,
    become,
    expect_no_watches,
    under_faults,
)
from everlatch.testing.simulation.scenarios.stage import CommitLog, Stage, expect
from everlatch.types import ACL, Permission, State

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

    from everlatch import TreeChange, TreeSubscription
    from everlatch.client import Client
    from everlatch.testing.simulation.hosts import Host
    from everlatch.testing.simulation.world import World
    from everlatch.types import Node

__all__ = ["trees"]

_PATHS: Final = ("/a", "/a/b", "/a/b/c", "/a/b/c/d", "/a/e", "/f", "/f/b")
_ROOTS: Final = ("/a", "/a", "/a/b", "/f")
_SLOWEST: Final = 0.5
_AT_ONCE: Final = 1.5
"""Virtual seconds until what has changed is told while nothing is wrong: a tree may take several reads, one after the
other."""
_LASTS: Final = (0.0, 0.01, 0.5, 3.0, None, None)
_FEW: Final = 3
"""Changes that wait for a reader, at the most, in some runs."""


def _no_b(path: str) -> bool:
    return not path.endswith("/b")


class _Plan(NamedTuple):
    versions: tuple[str, ...]
    with_acls: bool

    @property
    def until_told(self) -> float:
        all_told = _SLOWEST * (len(_PATHS) + 1)  # one change for each path may wait
        return all_told + _AT_ONCE + (3 * RECHECK + TOLD_AGAIN if self.with_acls else 0.0)


class _Span(NamedTuple):
    """What a path was like from one transaction to the next that changed it."""

    shown: Any
    """(czxid, mzxid, data) of a node that may be read itself."""
    may_be_absent: bool
    """Whether there was none, or one above it, or it, could not be read."""


class _Past:
    """What the paths of a tree were, by the servers' log."""

    def __init__(self, log: CommitLog, root: str) -> None:
        self._root = root
        self.spans: dict[str, list[_Span]] = {path: [] for path in _PATHS}
        tree = Tree()
        self._note(tree)
        for entry in log.in_order():
            tree.apply(entry.transaction)
            self._note(tree)
        self.tree = tree

    def _note(self, tree: Tree) -> None:
        for path, spans in self.spans.items():
            span = self._span(tree, path)
            if not spans or spans[-1] != span:
                spans.append(span)

    def _span(self, tree: Tree, path: str) -> _Span:
        node, above = tree.find(path), path
        if node is None:
            return _Span(None, True)
        shown = (node.czxid, node.mzxid, node.data or b"")
        is_absent = not _readable(tree, path)
        while above not in (self._root, "/"):
            above = parent(above)
            is_absent = is_absent or not _readable(tree, above)
        return _Span(shown if _readable(tree, path) else None, is_absent)

    def end(self, path: str, *, is_looked_at: bool = True) -> Any:
        """What is of a node whose children are no matter is looked at by `exists`, for which old servers want no
        permission: that it can't be read any more is found out with its next change only."""
        node = self.tree.find(path)
        is_above_readable = path == self._root or self.end(parent(path)) is not None
        if node is None or not is_above_readable or (is_looked_at and not _readable(self.tree, path)):
            return None
        return node.czxid, node.mzxid, node.data or b""


def _readable(tree: Tree, path: str) -> bool:
    node = tree.find(path)
    return node is not None and may(node.acl, (), Permission.READ)


def _state_of(node: Node | None) -> Any:
    return None if node is None else (node.stat.czxid, node.stat.mzxid, node.data)


class _Copy:
    """One subscription, and all that it has told."""

    def __init__(self, name: str, rng: Random) -> None:
        self.root = rng.choice(_ROOTS)
        self._depth = rng.choice([None, None, 0, 1])
        self._filter: Callable[[str], bool] | None = rng.choice([None, None, _no_b])
        self.name = f"{name}: watch_tree {self.root!r}, {self._depth}, {self._filter}"
        self._rng = rng
        self._slow = rng.choice([0.0, 0.1, _SLOWEST])
        self._listens = rng.random() < 0.3
        self._max_changes = rng.choice([10_000, _FEW])
        self.told: dict[str, list[Any]] = {path: [] for path in _PATHS if self._belongs(path)}
        self.mirror: dict[str, Node] | None = None
        """What this reader knows; `None`: not ready."""
        self.broken: list[str] = []
        self.tree: TreeSubscription | None = None
        self._leaving = False

    def _belongs(self, path: str) -> bool:
        if path != self.root and not path.startswith(f"{self.root}/"):
            return False
        below = self._below(path)
        if self._depth is not None and below.count("/") > self._depth:
            return False
        ways = itertools.accumulate(below.split("/")[1:], join, initial=self.root)
        return self._filter is None or all(self._filter(way) for way in ways if way != self.root)

    def _below(self, path: str) -> str:
        return path[len(self.root) :]

    async def read(self, client: Client) -> None:
        """From entering to leaving."""
        subscription = client.watch_tree(
            self.root, max_depth=self._depth, filter=self._filter, max_changes=self._max_changes
        )
        async with subscription as tree:
            self.tree = tree
            if self._listens:
                tree.add_listener(self._listen)
                with contextlib.suppress(NoAuthError):
                    await tree.ready()
                await asyncio.Event().wait()
            async for change in tree:
                self._take(tree, change)
                if self._leaving:
                    return
                await asyncio.sleep(self._rng.random() * self._slow)

    async def _listen(self, change: TreeChange) -> None:
        if self.tree is not None and not self._leaving:
            self._take(self.tree, change)
            await asyncio.sleep(self._rng.random() * self._slow)

    async def leave(self, reading: asyncio.Task[None]) -> None:
        """In one of the ways that there are."""
        self._leaving = True
        if self._rng.random() < 0.3 and self.tree is not None:
            self.tree.close()
        reading.cancel()
        await asyncio.wait([reading])
        if not reading.cancelled():
            reading.result()

    def _take(self, tree: TreeSubscription, change: TreeChange) -> None:
        """Rule 1. What is wrong is kept: listeners are kept from harming anybody."""
        if change.kind in (TreeChangeKind.READY, TreeChangeKind.RESET):
            self.mirror = dict(tree.items())
            self._expect(all(self._belongs(path) for path in self.mirror if path in _PATHS), f"{list(self.mirror)}")
            for path in self.told:
                self._note(path, self.mirror.get(path))
            return
        if self.mirror is None:
            self._expect(change.kind is TreeChangeKind.UNREADABLE and change.path == self.root, f"first {change}")
            return
        known = self.mirror.get(change.path)
        self._expect(_state_of(known) == _state_of(change.previous), f"{change}, after {known}")
        if change.node is None:
            self._expect(not any(parent(path) == change.path != path for path in self.mirror), f"{change} before below")
            self.mirror.pop(change.path, None)
        else:
            is_child = change.path == self.root or parent(change.path) in self.mirror
            self._expect(is_child, f"{change} before its parent")
            self.mirror[change.path] = change.node
        if not isinstance(change.error, RequestKillsConnectionError):  # that says nothing of the node
            self._note(change.path, change.node)

    def _note(self, path: str, node: Node | None) -> None:
        told = self.told.get(path)
        if told is not None and (not told or told[-1] != _state_of(node)):
            told.append(_state_of(node))

    def _expect(self, truth: object, what: str) -> None:
        if not truth:
            self.broken.append(f"{self.name}: {what}")

    def judge(self, past: _Past) -> None:
        """Rule 2."""
        expect(not self.broken, "; ".join(self.broken[:3]))
        for path, told in self.told.items():
            spans, now = past.spans[path], 0
            for number, state in enumerate(told):
                while now < len(spans) and not _fits(spans[now], state):
                    now += 1
                what = f"{self.name} told of {path} {told[: number + 1][-4:]}, which was not so: {spans[-8:]}"
                expect(now < len(spans), what)

    def lags(self, past: _Past) -> str:
        """How it differs from what is."""
        is_hidden = self._depth == 0 and self.tree is not None and len(self.tree)
        if (
            self.tree is not None
            and not is_hidden
            and past.tree.find(self.root) is not None
            and past.end(self.root) is None
        ):
            is_said = self.root in self.tree.unreadable and not len(self.tree) and not self.mirror
            return "" if is_said else f"{self.name} may not be read, and is {self.tree!r}"
        if self.tree is None or self.mirror is None:
            return f"{self.name} is not ready: {self.tree}"
        for path in self.told:
            is_last = self._depth is not None and self._below(path).count("/") == self._depth
            ends = {past.end(path), past.end(path, is_looked_at=not is_last)}
            for what, node in (("told", self.mirror.get(path)), ("copied", self.tree.get(path))):
                if _state_of(node) not in ends:
                    return f"{self.name} ends with {path} {what} as {_state_of(node)}; it is {ends}"
        names = {path: sorted(child for child in self.mirror if parent(child) == path != child) for path in self.mirror}
        found = {path: self._children(path) for path in self.mirror}
        extra = set(self.tree) ^ set(self.mirror)
        if extra or names != found or not self.tree.is_current:
            return f"{self.name} ends with {self.tree!r}, {extra}, {found}, current {self.tree.is_current}"
        return ""

    def _children(self, path: str) -> list[str]:
        assert self.tree is not None
        return [join(path, name) for name in self.tree.children(path)]


def _fits(span: _Span, state: Any) -> bool:
    return span.may_be_absent if state is None else span.shown == state


class _Reader:
    """A host with one client and several copies."""

    def __init__(self, stage: Stage, host: Host, plan: _Plan) -> None:
        self._stage, self.host, self._plan = stage, host, plan
        self.copies: list[_Copy] = []
        self.open: dict[_Copy, None] = {}
        self.calm, self.over = asyncio.Event(), asyncio.Event()
        self.has_ended = False
        self._client: Client | None = None
        self._lives = 0

    async def live(self) -> None:
        """One process."""
        self.open.clear()
        self._client = None
        self._lives += 1
        rng = self._stage.world.random(f"{self.host.name} {self._lives}")
        recheck = RECHECK if self._plan.with_acls else None
        async with self._stage.client(self.host, recheck_interval=recheck) as client:
            self._client = client
            await asyncio.gather(*[self._copy(client, rng) for _ in range(rng.choice([2, 4]))])
            await expect_no_watches(self._stage, self.host, client, _AT_ONCE)
            await asyncio.sleep(_SLOWEST)  # a listener that has begun goes on
        self.has_ended = True

    @property
    def is_connected(self) -> bool:
        """Whether its client is."""
        return self._client is not None and self._client.state is State.CONNECTED

    async def _copy(self, client: Client, rng: Random) -> None:
        """One after the other; the last one stays until all is over."""
        calm = asyncio.create_task(self.calm.wait())
        while not self.over.is_set():
            copy = _Copy(f"{self.host.name} {self._lives}", rng)
            self.copies.append(copy)
            self.open[copy] = None
            reading = asyncio.create_task(copy.read(client))
            await asyncio.wait([calm], timeout=rng.choice(_LASTS))
            if self.calm.is_set():
                await self.over.wait()
            await copy.leave(reading)
            self.open.pop(copy, None)


class _Writers(Writers):
    """Two clients that write where the others read."""

    def __init__(self, stage: Stage, plan: _Plan) -> None:
        super().__init__(stage, _PATHS, (3.0, 100.0))
        self._with_acls = plan.with_acls

    async def one(self, client: Client, rng: Random) -> None:
        """In one of the ways that there are."""
        path, way = rng.choice(_PATHS), rng.random()
        if way < 0.4:
            await client.create(path, self.data(), acl=self._acl(rng))
        elif way < 0.55:
            await client.set(path, self.data())
        elif way < 0.7:
            await self.delete(client, path)
        elif way < 0.75:
            await self.delete(client, path)
            await client.create(path, self.data(), acl=self._acl(rng))
        elif way < 0.9 or not self._with_acls:
            await self._replace(client, path, rng)
        else:
            await client.set_acl(path, self._acl(rng))

    async def _replace(self, client: Client, path: str, rng: Random) -> None:
        """With all below it, in one transaction."""
        there = [other for other in self.below(path) if await client.exists(other) is not None]
        async with client.transaction() as transaction:
            for other in reversed(there):
                transaction.delete(other)
            for other in there[: rng.randrange(len(there) + 1)]:
                transaction.create(other, self.data(), acl=self._acl(rng))

    def _acl(self, rng: Random) -> tuple[ACL, ...]:
        return CLOSED_ACL if self._with_acls and rng.random() < 0.3 else OPEN_ACL

    async def change_all(self, client: Client, rng: Random) -> None:
        """In so quick a row that reads cross the events."""
        for _ in range(30):
            with contextlib.suppress(EverlatchError):
                await self.one(client, rng)
        for path in _PATHS:
            with contextlib.suppress(EverlatchError):
                await client.create(path, self.data())
            await client.set(path, self.data())


async def _expect_end(stage: Stage, readers: list[_Reader], observer: Client, when: str, within: float) -> None:
    """Rule 3."""
    await observer.sync()
    pasts = {root: _Past(stage.log, root) for root in _ROOTS}

    def lagging() -> list[str]:
        return [lag for reader in readers for copy in reader.open if (lag := copy.lags(pasts[copy.root]))]

    expect(all(reader.open for reader in readers), "somebody subscribes to nothing")
    with contextlib.suppress(TimeoutError):
        await stage.world.until(lambda: not lagging(), timeout=within, every=0.1)
    expect(not lagging(), f"{when}, and {within:g} s later, {lagging()[:1]}")


def trees(world: World) -> None:
    """Copies of trees, under all faults and rolling upgrades: each has what was, in its order, and ends as the tree
    is."""
    setup = world.random("trees")
    plan = _Plan(setup.choice(MIXES), setup.random() < 0.4)
    stage = Stage.of(world)
    for server in world.servers:
        become(server, setup.choice(plan.versions))
    kinds = EVERY_KIND | ({ServerChangesVersion: 4.0} if len(plan.versions) > 1 else {})
    readers = [stage.inhabited(f"app{number}", lambda s, h: _Reader(s, h, plan)) for number in (1, 2)]
    writers, observer = _Writers(stage, plan), world.host("observer")
    hosts = [world.host(f"writer{number}") for number in (1, 2)]

    async def finish() -> None:
        async with writers.client(observer) as client:
            for reader in readers:
                reader.calm.set()
            await _expect_end(stage, readers, client, "after all faults", plan.until_told)
            if plan.with_acls:
                await writers.change_unseen(client)
                await _expect_end(stage, readers, client, "when all may be read", plan.until_told)
            await writers.change_all(client, setup)
            await _expect_end(stage, readers, client, "after more changes", plan.until_told)

    world.run(under_faults(stage, setup, kinds, hosts, writers, readers, lambda: observer.run(finish())))
    pasts = {root: _Past(stage.log, root) for root in _ROOTS}
    for reader in readers:
        for copy in reader.copies:
            copy.judge(pasts[copy.root])
            world.counts["copies"] += 1
            world.counts["told"] += sum(map(len, copy.told.values()))
