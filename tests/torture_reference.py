"""Histories that are right: a ZooKeeper in a dictionary, done step by step, and what clients see of it.

Rules of this file: nothing of `torture` but its records. Every transaction is one more copy of the tree; a client has a
*view*, the number of transactions that its server has applied, which only grows; reads look at the copy of the view.
"""

from __future__ import annotations

from typing import NamedTuple

from torture.history import (
    CHECK,
    CHILDREN,
    CREATE,
    DELETE,
    EXISTS,
    GET,
    SET,
    SYNC,
    TRANSACTION,
    WRITES,
    Applied,
    Belief,
    Call,
    Change,
    Ending,
    Fired,
    History,
    Part,
    StateSeen,
    SubscriptionSeen,
    WatchSeen,
)

from everlatch.types import Children, Created, Node, Stat

ROOT = "/r"
LATCH = "/r/latch"
ERRORS = {-101: "NoNodeError", -103: "BadVersionError", -110: "NodeExistsError", -111: "NotEmptyError"}


class Znode(NamedTuple):
    data: bytes
    owner: int
    czxid: int
    mzxid: int
    pzxid: int
    version: int = 0
    creations: int = 0


class RefusedError(Exception):
    def __init__(self, code):
        self.code = code


def above(path):
    return path.rpartition("/")[0] or "/"


def children(tree, path):
    return [other.rpartition("/")[2] for other in tree if other != "/" and above(other) == path]


def stat(tree, path):
    node = tree[path]
    names = children(tree, path)
    size = len(node.data)
    return Stat(node.czxid, node.mzxid, 0, 0, node.version, 0, 0, node.owner, size, len(names), node.pzxid)


class Reference:
    """`clients` of them, and a tree with `nodes` besides its root."""

    def __init__(self, clients=2, nodes=("/r/a", "/r/b"), *, version="3.9"):
        self.trees = [{"/": Znode(b"", 0, 0, 0, 0)}]
        self.history = History(root=ROOT, log=[], latches=[], reports_zxids=version == "3.9")
        self.views = dict.fromkeys(range(1, clients + 1), 0)
        self.time = 0.0
        self.step = 0
        self.waiting = []
        self.listening = []
        for path in (ROOT, *nodes):
            self.commit([Change(CREATE, path, b"")])
        self.history.started_zxid = self.head
        for client in self.views:
            self.history.calls[client] = []
            self.history.states.append(StateSeen(client, 0.0, "CONNECTED", client << 8, 1))
            self.views[client] = self.head

    @property
    def head(self):
        return len(self.trees) - 1

    # -- the server

    def commit(self, changes):
        tree, zxid = dict(self.trees[-1]), self.head + 1
        for change in changes:
            self.change(tree, zxid, change)
        self.trees.append(tree)
        self.history.log.append(Applied(zxid, tuple(changes)))
        return zxid

    @staticmethod
    def change(tree, zxid, change):
        path, parent = change.path, above(change.path)
        if change.kind == SET:
            tree[path] = tree[path]._replace(data=change.data, mzxid=zxid, version=tree[path].version + 1)
            return
        created = change.kind == CREATE
        if created:
            tree[path] = Znode(change.data, change.owner, zxid, zxid, zxid)
        else:
            del tree[path]
        tree[parent] = tree[parent]._replace(pzxid=zxid, creations=tree[parent].creations + created)

    def wanted(self, tree, call, part):
        """The change that a part asks for."""
        kind, path, version = part
        if kind == CREATE:
            if above(path) not in tree:
                raise RefusedError(-101)
            if call.sequential:
                path += f"{tree[above(path)].creations:010}"
            if path in tree:
                raise RefusedError(-110)
            return Change(CREATE, path, call.value, call.client << 8 if call.ephemeral else 0)
        if path not in tree:
            raise RefusedError(-101)
        if version not in (-1, tree[path].version):
            raise RefusedError(-103)
        if kind == DELETE and children(tree, path):
            raise RefusedError(-111)
        return Change(kind, path, call.value if kind == SET else None)

    def write(self, call):
        """Applies it, and returns its result."""
        tree, zxid, changes = dict(self.trees[-1]), self.head + 1, []
        parts = call.parts or (Part(call.kind, call.path, call.version),)
        for index, part in enumerate(parts):
            try:
                changes.append(self.wanted(tree, call, part))
            except RefusedError:
                call.index = index
                raise
            if part.kind != CHECK:
                self.change(tree, zxid, changes[-1])
        changes = [change for change in changes if change.kind != CHECK]
        self.commit(changes)
        tree = self.trees[-1]
        if call.kind == TRANSACTION:
            results = {change.path: stat(tree, change.path) for change in changes if change.kind == SET}
            return tuple(results.get(part.path) if part.kind == SET else None for part in parts)
        if call.kind == DELETE:
            return None
        found = stat(tree, changes[0].path)
        return found if call.kind == SET else Created(changes[0].path, found)

    def read(self, call, view):
        tree = self.trees[view]
        if call.path not in tree:
            if call.kind == EXISTS:
                return None
            raise RefusedError(-101)
        found = stat(tree, call.path)
        if call.kind == GET:
            return Node(tree[call.path].data, found)
        return found if call.kind == EXISTS else Children(children(tree, call.path), found)

    # -- the clients

    def do(self, client, kind, path="/r/a", *, lag=0, lost=None, watch=False, **asked):
        """One call. Reads are so many transactions behind; `lost`: the reply is, and the write was
        applied or not."""
        calls = self.history.calls[client]
        call = Call(client, len(calls) + 1, kind, path, **asked, **self.now())
        calls.append(call)
        if watch:
            call.watch = WatchSeen(call)
        call.ending = Ending.OK
        try:
            if lost is not None:
                call.ending, call.error = Ending.UNKNOWN, "OutcomeUnknownError"
                if lost:
                    self.write(call)
            elif kind in (GET, EXISTS, CHILDREN, SYNC):
                self.see(client, self.head - (0 if kind == SYNC else min(lag, self.head - self.views[client])))
                call.result = None if kind == SYNC else self.read(call, self.views[client])
            else:
                call.result = self.write(call)
                self.see(client, self.head)
        except RefusedError as refused:
            if lost is None:
                call.ending, call.code = Ending.REFUSED, refused.code
                call.error = "TransactionFailedError" if call.parts else ERRORS[refused.code]
                self.see(client, self.head if kind in WRITES else self.views[client])
        call.ended, call.ended_step = self.now().values()
        call.seen = 0 if call.ending is Ending.UNKNOWN else self.views[client]
        if watch and call.ending is Ending.OK:
            self.waiting.append((call.watch, self.views[client]))
        return call

    def now(self):
        self.time += 0.5
        self.step += 1
        return {"began": self.time, "began_step": self.step}

    def see(self, client, view):
        """The client's server comes as far as that, and tells of it."""
        for zxid in range(self.views[client] + 1, view + 1):
            self.views[client] = zxid
            for watch, since in list(self.waiting):
                if watch.call.client == client and zxid > since and self.fire(watch, zxid):
                    self.waiting.remove((watch, since))
            for subscription in self.listening:
                if subscription.client == client:
                    self.tell(subscription, zxid)

    def fired(self, zxid, type_, path):
        self.now()
        return Fired(self.time, self.step, type_, path, zxid if self.history.reports_zxids else -1)

    def fire(self, watch, zxid):
        call = watch.call
        for type_, path in self.events(zxid):
            child = call.kind == CHILDREN
            kinds = ("CHILDREN_CHANGED", "DELETED") if child else ("CREATED", "DELETED", "DATA_CHANGED")
            if path == call.path and type_ in kinds:
                watch.fired.append(self.fired(zxid, type_, path))
                return True
        return False

    def events(self, zxid):
        for change in self.history.log[zxid - 1].changes:
            if change.kind == SET:
                yield "DATA_CHANGED", change.path
            else:
                yield "CREATED" if change.kind == CREATE else "DELETED", change.path
                yield "CHILDREN_CHANGED", above(change.path)

    def subscribe(self, client, path, *, recursive=False):
        subscription = SubscriptionSeen(client, path, recursive=recursive, entered=self.now()["began"])
        self.history.subscriptions.append(subscription)
        self.listening.append(subscription)
        self.read_again(subscription)
        return subscription

    def read_again(self, subscription):
        subscription.readings.append((len(subscription.fired), self.views[subscription.client]))

    def tell(self, subscription, zxid):
        for type_, path in self.events(zxid):
            at = path == subscription.path
            below = path.startswith(subscription.path + "/") and subscription.recursive
            if (at or below) and not (subscription.recursive and type_ == "CHILDREN_CHANGED"):
                subscription.fired.append(self.fired(zxid, type_, path))

    def miss(self, subscription, zxid):
        """The link is lost; when it is back the server has come to `zxid`."""
        self.listening.remove(subscription)
        self.see(subscription.client, max(zxid, self.views[subscription.client]))
        subscription.fired.append(self.fired(-1, "MISSED", subscription.path)._replace(zxid=-1))
        self.listening.append(subscription)
        self.read_again(subscription)

    # -- an election

    def join(self, client):
        """A member's node."""
        if not self.history.latches:
            self.history.latches.append(LATCH)
            self.commit([Change(CREATE, LATCH, b"")])
        node = f"{LATCH}/n{self.head:010}"
        self.commit([Change(CREATE, node, b"member", client << 8)])
        return node

    def lead(self, client, node, seconds=1.0):
        belief = Belief(client, f"member {client}", self.trees[-1][node].czxid, node, client << 8, self.now()["began"])
        self.time += seconds
        belief.ended = self.time
        self.history.beliefs.append(belief)
        return belief

    def resign(self, node):
        self.commit([Change(DELETE, node)])

    def fenced(self, client, node, token, path="/r/a"):
        """A leader's write."""
        return self.do(client, TRANSACTION, path, parts=(Part(CHECK, node), Part(SET, path)), token=token)

    # -- the end

    def finish(self):
        """The history, with everybody up to date."""
        for client in self.views:
            self.see(client, self.head)
        history = self.history
        history.healed = self.time
        history.reconnecting = 10.0
        history.closing = self.time + 20.0
        history.closing_zxid = self.head
        owned = [path for path, node in self.trees[-1].items() if node.owner]
        self.commit([Change(DELETE, path) for path in owned])
        history.log[-1] = history.log[-1]._replace(ends_session=True)
        tree = self.trees[-1]
        history.final = {path: Node(tree[path].data, stat(tree, path)) for path in tree}
        return history
