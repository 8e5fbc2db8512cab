"""Keeps the copy of a tree, for all who subscribe to it.

Rules:
1. However many subscribe, there is one copy, one watch and one read for each change.
2. No read goes out before the watch is armed, and none carries a one-shot watch where a persistent one is. When the
   kind of watch changes, or may have missed something, `TreeReader.missed` has all looked at.
3. `WINDOW` reads are under way at a time. Their answers come in the order of the reads and are taken in it, many at a
   time: a task, or only a callback, for each of them would cost as much as half the read. So an event may be heard
   before answers that came before it, never behind one that came after it: as long as its answer isn't taken, a read
   counts as being under way.
4. What can't be read is tried again, and everything is looked at now and then, as in `feed`; that is done slowly, so
   that a large tree is no load.
5. A server without a quorum (`CONNECTED_READ_ONLY`) is read only as long as no other has been.
6. Whoever comes is `ready` when the copy is in step: at once, if it is.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from copy import copy
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from everlatch.errors import (
    AuthFailedError,
    ClientStateError,
    EverlatchError,
    NoNodeError,
    ServerError,
    describe,
)
from everlatch.session.states import CONNECTED_STATES
from everlatch.subscriptions import tree_batch
from everlatch.subscriptions.feed import FIRST_PAUSE, LONGEST_PAUSE, PASSING
from everlatch.subscriptions.path_watch import PathWatch
from everlatch.subscriptions.tree_copy import TreeCopy
from everlatch.subscriptions.tree_reader import ReadKind, TreeReader
from everlatch.types import EventType, State

if TYPE_CHECKING:
    from collections.abc import Callable

    from everlatch.engine.call import Call
    from everlatch.engine.engine import Engine
    from everlatch.operations import Operations
    from everlatch.subscriptions.tree import TreeSubscription
    from everlatch.subscriptions.tree_changes import TreeChange
    from everlatch.subscriptions.tree_reader import Read
    from everlatch.types import StateChange, WatchEvent

__all__ = ["WINDOW", "TreeFeed", "TreeTopic"]

logger = logging.getLogger("everlatch")

WINDOW: Final = 1000
"""Reads that are sent and unanswered at a time."""
_BATCH: Final = 100
"""Answers that are taken at a time, at the most, while there is more to read."""
_LOOKS: Final = 50
_LOOKS_EVERY: Final = 0.1
"""Nodes that are looked at, and seconds, when nothing was missed."""


class TreeTopic(NamedTuple):
    """A tree; the same for all who share a feed."""

    path: str
    max_depth: int | None
    filter: Callable[[str], bool] | None

    @property
    def name(self) -> str:
        """Of the method that subscribes to it."""
        return "watch_tree"

    def open(self, engine: Engine, operations: Operations, recheck: float | None) -> TreeFeed:
        """Begins its feed."""
        return TreeFeed(engine, operations, self, recheck)


class TreeFeed:
    """One tree."""

    def __init__(self, engine: Engine, operations: Operations, topic: TreeTopic, recheck: float | None) -> None:
        path = topic.path
        self._engine = engine
        self._operations = operations
        self._topic = topic
        self._recheck = recheck
        self._loop = asyncio.get_running_loop()
        self._subscribers: dict[TreeSubscription, None] = {}
        self._newcomers: dict[TreeSubscription, None] = {}
        """Who waits for the copy to be in step."""
        self.copy = TreeCopy(path)
        recursive = topic.max_depth != 0
        self._watch = PathWatch(engine, path, operations.server_path(path), self._on_event, recursive=recursive)
        self._reader = TreeReader(self.copy, topic.max_depth, topic.filter, self._watch.leave)
        self._window = max(1, min(WINDOW, engine.max_queued_calls // 2))
        self._calls: deque[tuple[list[Read], Call[Any]]] = deque()
        """In their order, which is that of the answers."""
        self._under_way = 0
        """How many nodes they read."""
        self._unmarked = 0
        """How many were made after the last one that tells when it ends."""
        self._are_batches_fine = True
        """Whether `tree_batch` reads what there is to read."""
        self._may_read = False
        """Whether the watch is armed: rule 2."""
        self._was_armed = False
        self._is_from_quorum = self._is_from_read_only = False
        """What has been read, and where: rule 5."""
        self._is_closed = False
        self._failure: BaseException | None = None
        """What has ended this."""
        self._pause = FIRST_PAUSE
        self._held_until: float | None = None
        self._retry_at: float | None = None
        self._sweep_at: float | None = None
        self._is_sweeping = False
        self._stirred = asyncio.Event()
        """Whether there is something to do for the task."""
        self._forget_states = engine.add_listener(self._on_state)
        self._task = self._loop.create_task(self._run())

    # -- who subscribes

    def __len__(self) -> int:
        return len(self._subscribers)

    def add(self, subscriber: TreeSubscription) -> None:
        """Somebody comes: rule 6."""
        self._subscribers[subscriber] = None
        self._newcomers[subscriber] = None
        subscriber.join(self)
        if self._is_closed:  # it has failed
            subscriber.end(self._failure)
        elif self._may_read:
            self._look_whether_settled()

    def discard(self, subscriber: TreeSubscription) -> None:
        """Somebody goes."""
        self._subscribers.pop(subscriber, None)
        self._newcomers.pop(subscriber, None)

    def close(self) -> None:
        """Nobody is left."""
        if self._is_closed:
            return
        self._is_closed = True
        self._forget_states()
        self._task.cancel()
        for _, call in self._calls:
            call.cancel()
        self._calls.clear()
        self._watch.close()

    def end(self, error: BaseException | None) -> None:
        """Nothing will be told any more; `error` says why."""
        self._failure = error
        self.close()
        for subscriber in list(self._subscribers):
            subscriber.end(error)

    @property
    def is_current(self) -> bool:
        """Whether all that is known of has been read."""
        state = self._engine.session.state
        return self._may_read and not self._is_closed and state in CONNECTED_STATES and self._reader.is_settled

    @property
    def unreadable(self) -> dict[str, BaseException]:
        """What is left out because it can't be read, and why."""
        return self._reader.unreadable()

    # -- what is told

    def _tell(self, change: TreeChange) -> None:
        for subscriber in list(self._subscribers):
            if subscriber not in self._newcomers:
                subscriber.put(change)

    def _look_whether_settled(self) -> None:
        if not self._newcomers or not self.is_current:
            return
        refusal = self._reader.refused.get(self._topic.path)
        newcomers = list(self._newcomers)
        if refusal is not None and not self.copy.nodes:
            for subscriber in newcomers:
                subscriber.refuse(copy(refusal[1]))
            return
        self._newcomers.clear()
        self.copy.tell = self._tell
        for subscriber in newcomers:
            subscriber.be_ready()

    # -- what happens

    def _on_event(self, event: WatchEvent) -> None:
        if self._is_closed:
            return
        if event.type is EventType.REMOVED:
            self._arm_anew()
        elif event.type is EventType.MISSED:
            self._reader.missed()
        else:
            self._reader.changed(event.type, event.path)
        self._pump()

    def _on_state(self, change: StateChange) -> None:
        if change.state not in CONNECTED_STATES or self._is_closed:
            return
        if not self._watch.is_persistent:
            self._arm_anew()  # the next server may have persistent watches
        if change.state is State.CONNECTED and self._is_from_read_only:
            self._is_from_read_only = False
            self._reader.missed()
        self._pump()

    def _arm_anew(self) -> None:
        self._may_read = False
        self._stirred.set()

    async def _run(self) -> None:
        try:
            while True:
                self._stirred.clear()
                if not self._may_read:
                    await self._arm()
                self._see_what_is_due()
                self._pump()
                await self._stirs()
        except (ClientStateError, AuthFailedError):
            return  # the client's end, of which all are told
        except Exception as error:  # a bug of ours: nobody shall wait for ever without a word
            self._fail(error)

    async def _arm(self) -> None:
        try:
            is_persistent = await self._watch.arm()
        except (ClientStateError, AuthFailedError):
            raise
        except EverlatchError as error:
            logger.warning("watch_tree %r: the watch can't be set, and is tried again: %s", self._topic.path, error)
            self._held_until = self._loop.time() + self._engine.jittered(LONGEST_PAUSE)
            return
        is_new = self._was_armed and (is_persistent or not self._reader.is_one_shot)
        self._reader.is_one_shot = not is_persistent
        if is_new:
            self._reader.missed()
        self._was_armed = self._may_read = self._are_batches_fine = True

    async def _stirs(self) -> None:
        times = [time for time in (self._held_until, self._retry_at, self._sweep_at) if time is not None]
        try:
            async with asyncio.timeout_at(min(times, default=None)):
                await self._stirred.wait()
        except TimeoutError:
            pass

    def _see_what_is_due(self) -> None:
        now = self._loop.time()
        if self._held_until is not None and now >= self._held_until:
            self._held_until = None
        if self._retry_at is not None and now >= self._retry_at:
            self._retry_at = None
            self._reader.retry()
            self._pause = min(2 * self._pause, LONGEST_PAUSE)
        self._see_to_refusals()
        self._see_to_sweeping(now)

    def _see_to_refusals(self) -> None:
        if not self._reader.refused:
            self._pause = FIRST_PAUSE
        elif self._retry_at is None:
            self._retry_at = self._loop.time() + self._engine.jittered(self._pause)
            self._stirred.set()

    def _see_to_sweeping(self, now: float) -> None:
        if self._recheck is None or (self._sweep_at is not None and now < self._sweep_at):
            return
        reader = self._reader
        if self._sweep_at is not None and not self._is_sweeping and self.is_current:
            reader.sweep()
            self._is_sweeping = True
        elif not reader.is_sweeping:
            self._is_sweeping = False
        reader.may_look = _LOOKS if self._is_sweeping else 0
        self._sweep_at = now + (_LOOKS_EVERY if self._is_sweeping else self._engine.jittered(self._recheck))

    # -- reads

    def _pump(self) -> None:
        if not self._may_read or self._held_until is not None or self._is_closed:
            return
        if self._is_from_quorum and self._is_read_only:
            return
        while self._under_way < self._window:
            read = self._reader.next_read()
            if read is None:
                break
            reads = [read]
            if read[0] is ReadKind.NODE and self._are_batches_fine and not self._reader.is_one_shot:
                more = min(tree_batch.MOST, self._window - self._under_way) - 1
                reads += [(ReadKind.NODE, path) for path in self._reader.next_nodes(more)]
            if not self._send(reads):
                break
        if self._unmarked and self._calls:
            self._mark(self._calls[-1][1])
        self._look_whether_settled()

    def _send(self, reads: list[Read]) -> bool:
        """Whether more may be sent."""
        if len(reads) >= tree_batch.FEWEST:
            return self._submit(reads)
        for number, read in enumerate(reads):
            if not self._submit([read]):
                for left in reads[number + 1 :]:
                    self._reader.not_read(left)
                return False
        return True

    def _submit(self, reads: list[Read]) -> bool:
        try:
            call = self._batch_of(reads) if len(reads) > 1 else self._call_of(*reads[0])
        except (ClientStateError, AuthFailedError):
            return False  # the client's end, of which all are told
        except EverlatchError as error:  # a full queue, or a request that is too large
            if len(reads) > 1 or isinstance(error, PASSING):
                self._put_back(reads, error)
            else:
                self._take_error(reads[0], error)
            return not isinstance(error, PASSING)
        self._calls.append((reads, call))
        self._under_way += len(reads)
        self._unmarked += len(reads)
        if self._unmarked >= _BATCH:
            self._mark(call)
        return True

    def _mark(self, call: Call[Any]) -> None:
        """Has the answers taken that are there when this call ends."""
        self._unmarked = 0
        call.add_done_callback(self._on_answers)

    def _batch_of(self, reads: list[Read]) -> Call[Any]:
        return tree_batch.read_nodes(self._engine, self._operations, [path for _, path in reads])

    def _call_of(self, kind: ReadKind, path: str) -> Call[Any]:
        operations = self._operations
        watch = self._watch.one_shot(path) if self._reader.is_one_shot and kind is not ReadKind.LOOK else None
        if kind is ReadKind.NODE:
            return operations.get(path, watch=watch, timeout=None)
        if kind is ReadKind.AWAIT:
            return operations.exists(path, watch=watch, timeout=None)
        if kind is ReadKind.LOOK and not self._reader.has_children(path):
            return operations.exists(path, timeout=None)
        return operations.children_and_stat(path, watch=watch, timeout=None)

    @property
    def _is_read_only(self) -> bool:
        return self._engine.session.state is State.CONNECTED_READ_ONLY

    def _on_answers(self, marked: Call[Any]) -> None:
        if self._is_closed:
            return
        calls = self._calls
        try:
            while calls and calls[0][1].done():
                reads, call = calls.popleft()
                self._under_way -= len(reads)
                self._take(reads, call)
                if call is marked:
                    break
            else:
                if calls:
                    self._mark(calls[0][1])  # an error has overtaken the answers before it
            if self._reader.has_found_untold:
                self._reader.has_found_untold = False
                self._watch.start_over()
                self._arm_anew()
            self._pump()
        except Exception as error:
            self._fail(error)

    def _take(self, reads: list[Read], call: Call[Any]) -> None:
        if self._is_read_only:
            if self._is_from_quorum:
                for read in reads:
                    self._reader.not_read(read)
                return
            self._is_from_read_only = True
        else:
            self._is_from_quorum = True
        error = call.exception()
        if len(reads) > 1:
            self._take_batch(reads, call, error)
        elif error is not None:
            self._take_error(reads[0], error)
        else:
            self._take_answer(reads[0], call.result())

    def _take_batch(self, reads: list[Read], call: Call[Any], error: BaseException | None) -> None:
        if error is not None:
            if not isinstance(error, (ClientStateError, AuthFailedError)):
                self._put_back(reads, error)
            return
        for read, node in zip(reads, call.result(), strict=True):
            if isinstance(node, ServerError):
                self._take_error(read, node)
            else:
                self._reader.read(read[1], node)

    def _take_answer(self, read: Read, answer: Any) -> None:
        kind, path = read
        if kind is ReadKind.NODE:
            self._reader.read(path, answer)
        elif kind is ReadKind.CHILDREN:
            self._reader.listed(path, answer)
        elif kind is ReadKind.LOOK and self._reader.has_children(path):
            self._reader.looked_at(path, *answer)
        elif answer is None:
            self._reader.missing(read)
        elif kind is ReadKind.LOOK:
            self._reader.looked_at(path, None, answer)
        else:
            self._reader.not_read((ReadKind.NODE, path))  # it has come meanwhile

    def _take_error(self, read: Read, error: BaseException) -> None:
        reader = self._reader
        if isinstance(error, NoNodeError):
            reader.missing(read)
        elif isinstance(error, PASSING):
            self._put_back([read], error)
        elif not isinstance(error, (ClientStateError, AuthFailedError)):  # the client's end, of which all are told
            if read[1] not in reader.refused:
                self._pause = FIRST_PAUSE
                self._retry_at = None
            reader.refuse(read, error)
            self._see_to_refusals()

    def _put_back(self, reads: list[Read], error: BaseException) -> None:
        """They are read again: in a second, if it passes; one by one, if the batch is what is wrong."""
        logger.debug("watch_tree %r: %s; it is read again", self._topic.path, describe(error))
        for read in reads:
            self._reader.not_read(read)
        if isinstance(error, PASSING):
            self._held_until = self._loop.time() + FIRST_PAUSE
            self._stirred.set()
        else:
            self._are_batches_fine = False

    def _fail(self, error: BaseException) -> None:
        logger.error("watch_tree %r failed", self._topic.path, exc_info=error)
        self.end(error)
