"""All watches of a client: what their events call, and what has to be asked of the server for them.

Rules:
1. What happened while nobody watched is told as `MISSED` to persistent watches; whoever hears that reads again. It is
   told when the request that arms the watch anew has been sent, or goes before everything that is called from then
   on: a read that follows sees what the watch does not.
2. A watch that nobody wants any more is removed at the server. Before 3.9 servers know no type for persistent
   watches (−5); there the type *any* is used, if nothing else is wanted on the path. What still is, is armed anew;
   for one-shot watches alone, as a persistent one that nobody hears, until they have gone. Nothing is armed anew at a
   server that has not yet answered for a persistent watch: one before 3.6 ends the connection over addWatch, and knows
   no types either.
3. A server that knows no setWatches2 (before 3.6) ends the connection over it: persistent watches end then, and say
   so, for the client would never be served again.
4. Before 3.9 a one-shot watch takes its path over at once: a recursive one there would hear of nothing below. So it is
   armed anew when the one-shot watch was set, and hears for both. It may have missed something unless the server has
   been at the same zxid all the time. (Until a connection has brought an event, any server may be such a one.)
5. A one-shot watch that is left is removed at the server, too, if nobody else waits for what it tells. That is seen to
   when something can be sent, once for all that were left meanwhile: there may be thousands. A request in flight may
   be about to set the watch, for somebody or for nobody: its answer is waited for. (One that is sent later comes
   behind the removal.) Before 3.9 the removal hits persistent watches on the path; they are armed anew.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from everlatch.errors import NoWatcherError
from everlatch.session.persistent_watches import PersistentWatches
from everlatch.session.rearming import Rearming
from everlatch.session.requests import Operation, Request, no_result
from everlatch.session.watches import CHILD, DATA, EXIST, PERSISTENT, RECURSIVE, OneShotWatches
from everlatch.types import EventType, WatchKind
from everlatch.wire.codes import AddWatchMode, Op, WatcherType
from everlatch.wire.watch_records import encode_add_watch_request, encode_remove_watches_request

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from everlatch.types import Watch

__all__ = ["Watching"]

_MARSHALLING = -5
_UNIMPLEMENTED = -6
_NO_ZXID = -1


_SET_WATCHES = Operation("setWatches", Op.SET_WATCHES, no_result)
_SET_WATCHES2 = Operation("setWatches2", Op.SET_WATCHES2, no_result)
_ARM_AGAIN = Operation("addWatch", Op.ADD_WATCH, no_result)
_TAKE_BACK = Operation("addWatch", Op.ADD_WATCH, no_result)
_REMOVE = Operation("removeWatches", Op.REMOVE_WATCHES, no_result)
_REMOVE_ONE_SHOT = Operation("removeWatches", Op.REMOVE_WATCHES, no_result)
_REMOVE_ALL = Operation("removeWatches", Op.REMOVE_WATCHES, no_result)

_MODES = {PERSISTENT: AddWatchMode.PERSISTENT, RECURSIVE: AddWatchMode.PERSISTENT_RECURSIVE}
_TYPES = {PERSISTENT: WatcherType.PERSISTENT, RECURSIVE: WatcherType.PERSISTENT_RECURSIVE}
_KINDS = {WatchKind.CHILDREN: (CHILD,), WatchKind.DATA: (DATA, EXIST), WatchKind.ANY: (DATA, EXIST, CHILD)}
_LEFT = {DATA: WatchKind.DATA, CHILD: WatchKind.CHILDREN}
"""What is removed when a one-shot watch is left: servers keep those of `exists` with those of data."""


class Watching:
    """One-shot and persistent watches of one session; paths are the server's, chroot included."""

    def __init__(
        self,
        fire: Callable[[list[Watch], EventType, str, int], None],
        ask: Callable[[Request], None],
        coming_one_shots: Callable[[], Collection[str]],
    ) -> None:
        self._fire = fire
        """(callbacks, event, server path, zxid)"""
        self._ask = ask
        """Sends a request of our own, if a server serves us; before what is called from now on."""
        self._coming_one_shots = coming_one_shots
        """The paths on which requests in flight may set one-shot watches."""
        self._one_shot = OneShotWatches()
        self._persistent = PersistentWatches()
        self._rearming = Rearming()
        self._keeps_modes_apart = False
        """Whether this connection has had an event with a zxid: it leads to a server from 3.9 on."""
        self._has_persistent = False
        """Whether this connection has had the answer of a server that has persistent watches."""
        self._taking_back: dict[str, int] = {}
        """Paths of recursive watches that one-shot ones may have taken over, and the zxid since when: rule 4."""
        self._unheard: set[str] = set()
        """Paths of persistent watches that are there for the sake of one-shot ones alone: rule 2."""
        self.left: dict[tuple[int, str], bool] = {}
        """One-shot watches that were left, by kind and path, and whether the server may have them: rule 5."""

    def __len__(self) -> int:
        return len(self._one_shot) + len(self._persistent)

    # -- the connection

    def link_lost(self, last_zxid: int) -> None:
        """The link is gone."""
        self._rearming.freeze(last_zxid)
        self._persistent.disconnected()
        self._taking_back.clear()
        self._unheard.clear()
        self._keeps_modes_apart = self._has_persistent = False

    def history_reset(self) -> None:
        """The servers count from the beginning again: everything there is has changed."""
        self._rearming.history_reset()

    def rearm(self) -> None:
        """A server serves us again: before anything else, everything is armed."""
        self.left.clear()
        paths = [self._one_shot.paths(kind) for kind in (DATA, EXIST, CHILD)]
        paths += [self._persistent.paths(kind) for kind in (PERSISTENT, RECURSIVE)]
        for op, body in self._rearming.frames(paths):
            self._ask(Request(None, _SET_WATCHES if op is Op.SET_WATCHES else _SET_WATCHES2, "/", body))
        self._tell_all(EventType.MISSED, self._persistent.everybody())

    def is_fatal_answer(self, request: Request, err: int, zxid: int) -> bool:
        """Takes the answer to what we asked ourselves, and up to where it has the server. Whether it is an error that
        makes the connection useless."""
        operation = request.operation
        if operation is _TAKE_BACK:
            self._taken_back(request.path, zxid)
        if operation is _REMOVE and err == _MARSHALLING:
            self._remove_on_old_server(request.path)
        if operation is _REMOVE_ONE_SHOT and not self._keeps_modes_apart:
            if not err:
                self._arm_again(request.path)
            self._remove_unheard(request.path)
        if operation is not _SET_WATCHES and operation is not _SET_WATCHES2:
            return False
        if err == _UNIMPLEMENTED:
            self._tell_all(EventType.REMOVED, self._persistent.clear())
        if not err:
            self._has_persistent = self._has_persistent or operation is _SET_WATCHES2
            self._rearming.answered()
        return bool(err)

    # -- one-shot watches

    def armed(self, kind: int, path: str, callback: Watch | None, zxid: int) -> None:
        """The server has armed a watch, when it was at `zxid`; without a callback, for a caller who has gone."""
        if kind in _MODES:
            self._armed_persistent(kind, path, callback)
            return
        if kind == CHILD or not self._persistent.listening_at(RECURSIVE, path):
            self._persistent.one_shot_set(path)
        elif not self._keeps_modes_apart:
            self._take_back(path, zxid)
        if callback is not None:
            self._one_shot.add(kind, path, callback)

    def leave_one_shot(self, kind: int, path: str, callback: Watch) -> None:
        """Somebody waits no longer: rule 5. `kind` is `CHILD`, or `DATA`, which has what waits as `EXIST` as well."""
        was_waiting = self._one_shot.discard(path, callback, _KINDS[_LEFT[kind]])
        self.left[kind, path] = was_waiting or self.left.get((kind, path), False)

    def remove_left(self) -> None:
        """Asks for the removal of what was left, if nobody wants it; what may be coming stays in `left`."""
        left, self.left = self.left, {}
        coming = self._coming_one_shots()
        for (kind, path), may_be_there in left.items():
            which = _LEFT[kind]
            if path in coming:
                self.left[kind, path] = True
            elif may_be_there and not self._one_shot.waits(_KINDS[which], path):
                body = encode_remove_watches_request(path, which.value)
                self._ask(Request(None, _REMOVE_ONE_SHOT, path, body))

    def discard(self, path: str, callback: Watch) -> None:
        """Takes a one-shot callback out; the server's event finds nobody."""
        self._one_shot.discard(path, callback)

    def removal(self, which: WatchKind, path: str) -> Operation:
        """The operation that removes one-shot watches. What it does here is done with its reply, for the next one may
        be that of a new watch."""
        return Operation(
            "remove_watches",
            Op.REMOVE_WATCHES,
            lambda *_: self._removed(which, path) and None,
            no_watcher=lambda request: self._none_to_remove(which, path, request),
        )

    def _removed(self, which: WatchKind, path: str) -> bool:
        """The server has no one-shot watches of this kind on the path any more. Whether we had any."""
        callbacks = self._one_shot.take_kinds(_KINDS[which], path)
        self._fire(callbacks, EventType.REMOVED, path, _NO_ZXID)
        # Servers before 3.9 do not tell persistent watches from others.
        self._arm_again(path)
        self._remove_unheard(path)
        return bool(callbacks)

    def _none_to_remove(self, which: WatchKind, path: str, request: Request) -> None:
        """The server has none. Fine if we had, or if the request was sent before; otherwise raises `NoWatcherError`."""
        if not self._removed(which, path) and not request.repeated:
            raise NoWatcherError(request.operation.name, request.path)

    # -- persistent watches

    def want(self, kind: int, path: str, callback: Watch) -> None:
        """Somebody is about to ask for a persistent watch; `leave` has to follow."""
        self._persistent.want(kind, path, callback)

    def leave(self, kind: int, path: str, callback: Watch) -> None:
        """He has gone: rule 2."""
        if self._persistent.leave(kind, path, callback):
            self._ask(Request(None, _REMOVE, path, encode_remove_watches_request(path, _TYPES[kind])))

    def _remove_on_old_server(self, path: str) -> None:
        self._unheard.discard(path)
        if not self._has_persistent:
            return  # nothing is there: it is one before 3.6, which ends the connection over addWatch
        if self._persistent.is_wanted(path):
            self._arm_again(path)  # in the mode that is still wanted
        elif path in self._one_shot or path in self._coming_one_shots():
            # They may rest on it by now; in this mode, whatever follows, it hears all that they wait for.
            self._unheard.add(path)
            self._ask(Request(None, _ARM_AGAIN, path, encode_add_watch_request(path, _MODES[PERSISTENT])))
        else:
            self._ask(Request(None, _REMOVE_ALL, path, encode_remove_watches_request(path, WatcherType.ANY)))

    def _remove_unheard(self, path: str) -> None:
        """What the one-shot watches waited for that rested on it has come, or they were left."""
        if path in self._unheard and not self._is_of_use(path):
            self._remove_on_old_server(path)

    def _is_of_use(self, path: str) -> bool:
        """Whether a watch on the path tells anybody anything, or may soon."""
        return self._persistent.is_wanted(path) or path in self._one_shot or path in self._coming_one_shots()

    def _armed_persistent(self, kind: int, path: str, callback: Watch | None) -> None:
        self._has_persistent = True
        if callback is not None:
            self._persistent.armed(kind, path, callback)
        if kind == PERSISTENT and RECURSIVE in self._persistent.kinds_wanted(path):
            self._arm_again(path, (RECURSIVE,))

    def _take_back(self, path: str, zxid: int) -> None:
        """A recursive watch may have been taken over: rule 4."""
        if path not in self._taking_back:  # a request that is unanswered will be done after this watch was set
            self._taking_back[path] = zxid
            body = encode_add_watch_request(path, _MODES[RECURSIVE])
            self._ask(Request(None, _TAKE_BACK, path, body))

    def _taken_back(self, path: str, zxid: int) -> None:
        if self._taking_back.pop(path, zxid) != zxid:
            for kind in _MODES:
                self._fire(self._persistent.listening_at(kind, path), EventType.MISSED, path, _NO_ZXID)
            # Who waits for children hears what the recursive watch does, and may have missed as much.
            callbacks = self._one_shot.take(EventType.CHILDREN_CHANGED, path)
            self._fire(callbacks, EventType.CHILDREN_CHANGED, path, _NO_ZXID)

    def _arm_again(self, path: str, kinds: tuple[int, ...] = (PERSISTENT, RECURSIVE)) -> None:
        self._persistent.taken_back(path)
        for kind in self._persistent.kinds_wanted(path) if self._has_persistent else ():
            if kind in kinds:
                self._ask(Request(None, _ARM_AGAIN, path, encode_add_watch_request(path, _MODES[kind])))
                self._fire(self._persistent.listening_at(kind, path), EventType.MISSED, path, _NO_ZXID)

    def _tell_all(self, event: EventType, heard: list[tuple[str, tuple[Watch, ...]]]) -> None:
        for path, callbacks in heard:
            self._fire(list(callbacks), event, path, _NO_ZXID)

    # -- events

    def event(self, event: EventType, path: str, zxid: int) -> None:
        """The server tells of a change."""
        callbacks = self._one_shot.take(event, path)
        callbacks += self._persistent.hearing(event, path)
        self._fire(callbacks, event, path, zxid)
        # From 3.9 on events have a zxid (but for those of setWatches), and each path several modes.
        if zxid == _NO_ZXID:
            self._on_one_mode_for_a_path(event, path)
        else:
            self._keeps_modes_apart = True

    def _on_one_mode_for_a_path(self, event: EventType, path: str) -> None:
        """What servers before 3.9 leave out."""
        above = path[: path.rfind("/")] or "/"
        if event in (EventType.CREATED, EventType.DELETED):
            # Also if nobody listens recursively any more: for the sake of one-shot watches the server was not told.
            callbacks = self._one_shot.take(EventType.CHILDREN_CHANGED, above)
            if self._persistent.listening_at(RECURSIVE, above):
                callbacks += self._persistent.listening_at(PERSISTENT, above)
            self._fire(callbacks, EventType.CHILDREN_CHANGED, above, _NO_ZXID)
        if self._persistent.lost_by_event(path):
            self._arm_again(path)
        self._remove_unheard(path)
