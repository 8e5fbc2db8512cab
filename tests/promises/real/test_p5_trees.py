"""P5, copies of trees, on real ensembles: each ends on what is, under the faults that subscriptions are attacked with;
and on a server of each version, permissions taken away and given back."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from typing import TYPE_CHECKING

import pytest

from everlatch import OPEN_ACL_UNSAFE, TreeChange, TreeChangeKind
from everlatch.paths import join, parent
from promises.real.ensembles import ON_BOTH, PATIENCE, client_of, proxies_of
from promises.real.test_p5_watched import CLOSED, FAULTS, RECHECK, STORM, WRITER, Writer, cut
from real.faults import until

if TYPE_CHECKING:
    from everlatch import Client, TreeSubscription
    from everlatch.testing import NetworkEnsemble

pytestmark = [pytest.mark.real, pytest.mark.asyncio(loop_scope="session")]


class Reader:
    """One who keeps a copy of his own, by the changes alone."""

    def __init__(self, tree: TreeSubscription) -> None:
        self.tree = tree
        self.known: dict[str, bytes] = {}
        self.zxids: dict[str, int] = {}

    async def follow(self) -> None:
        async for change in self.tree:
            self._take(change)

    def _take(self, change: TreeChange) -> None:
        if change.kind in (TreeChangeKind.READY, TreeChangeKind.RESET):
            self.known = {path: node.data for path, node in self.tree.items()}
            return
        assert change.kind is not TreeChangeKind.UNREADABLE
        assert (change.previous and change.previous.data) == self.known.get(change.path)
        if change.node is None:
            del self.known[change.path]
        else:
            assert self.zxids.get(change.path, 0) < change.node.stat.mzxid
            self.zxids[change.path] = change.node.stat.mzxid
            self.known[change.path] = change.node.data


async def what_is(witness: Client, root: str) -> dict[str, bytes]:
    await witness.sync()
    found = {root: (await witness.get(root)).data}
    for path in list(found):
        for name in await witness.children(path):
            found |= await what_is(witness, join(path, name))
    return found


async def test_it_ends_on_what_is(network: NetworkEnsemble, witness: Client, root: str) -> None:
    """Behind proxies and not, one fault after the other, with writers all the time."""
    writer, stop, rng = Writer(witness, root), asyncio.Event(), random.Random(5)
    faults = rng.sample(FAULTS, len(FAULTS))
    end = time.monotonic() + STORM
    async with (
        proxies_of(network.servers) as proxies,
        client_of(network.servers) as plain,
        client_of(proxies) as behind,
        plain.watch_tree(root) as some,
        behind.watch_tree(root) as other,
    ):
        readers = [Reader(some), Reader(other)]
        following = [asyncio.create_task(reader.follow()) for reader in readers]
        writing = asyncio.create_task(writer.until(stop))
        while faults or time.monotonic() < end:
            fault = faults.pop() if faults else rng.choice(FAULTS)
            await fault(network, behind if fault is cut else plain, proxies)
        stop.set()
        await writing
        expected = await what_is(witness, root)
        for reader in readers:
            await until(lambda: reader.known == expected and reader.tree.is_current, timeout=PATIENCE)  # noqa: B023
            assert {path: node.data for path, node in reader.tree.items()} == expected
            assert all(parent(path) in reader.tree for path in reader.tree if path != root)
        for task in following:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
    assert plain.statistics().watches == behind.statistics().watches == 0


@ON_BOTH
async def test_what_may_not_be_read_is_left_out_and_comes_back(network: NetworkEnsemble, root: str) -> None:
    async with (
        client_of(network.servers, auth=[WRITER]) as writer,
        client_of(network.servers, recheck_interval=RECHECK) as client,
        client.watch_tree(root) as tree,
    ):
        await tree.ready()
        for path in ("/a", "/a/b", "/c"):
            await writer.create(root + path, b"0")
        await until(lambda: len(tree) == 4)
        await writer.set_acl(f"{root}/a", CLOSED)
        await writer.set(f"{root}/a", b"1")
        await writer.create(f"{root}/a/d")
        await until(lambda: list(tree) == [root, f"{root}/c"] and list(tree.unreadable) == [f"{root}/a"])
        await writer.set_acl(f"{root}/a", OPEN_ACL_UNSAFE)
        await until(lambda: tree.children(f"{root}/a") == ["b", "d"], timeout=PATIENCE)
        assert tree.get(f"{root}/a").data == b"1"
        await writer.set(f"{root}/a/b", b"2")
        await until(lambda: tree.get(f"{root}/a/b").data == b"2")
