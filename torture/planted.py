"""Bugs to put into the client, so that it can be seen that they are found.

Rules of this file: a bug is a small change in the text of one or a few functions of the client, made for as long as
`planted()` lasts. If the text is not there any more, it says so: a bug that can't be planted proves nothing.
"""

from __future__ import annotations

import inspect
import textwrap
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from everlatch.recipes.leader_latch import LeaderLatch
from everlatch.session.draining import Draining
from everlatch.session.rearming import Rearming
from everlatch.session.requests import Request, Requests
from everlatch.session.session import Session
from everlatch.session.settlement import Settlement
from everlatch.session.watching import Watching

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torture.workload import Work

__all__ = ["BUGS", "Bug", "Edit"]


class Edit(NamedTuple):
    """One change: in the method `name` of a class, `new` stands for `old`."""

    owner: type
    name: str
    old: str
    new: str

    @contextmanager
    def made(self) -> Iterator[None]:
        """As long as this lasts. Raises `ValueError` if `old` is not there exactly once."""
        function = self.owner.__dict__[self.name]
        source = textwrap.dedent(inspect.getsource(function))
        if source.count(self.old) != 1:
            raise ValueError(f"{self.owner.__name__}.{self.name} has not exactly one {self.old!r}: plant another bug")
        made: dict[str, Any] = {}
        code = compile(
            f"from __future__ import annotations\n{source.replace(self.old, self.new)}",
            f"<planted {self.name}>",
            "exec",
        )
        exec(code, function.__globals__, made)
        setattr(self.owner, self.name, made[self.name])
        try:
            yield
        finally:
            setattr(self.owner, self.name, function)


class Bug(NamedTuple):
    """What is wrong, and which rules have to find it: any of them."""

    what: str
    rules: frozenset[str]
    mood: str
    """The faults under which it shows soonest."""
    edits: tuple[Edit, ...]
    work: Work = "everything"
    """What the clients do when it shows."""
    seconds: float = 30.0
    """Of faults in a world: some need long ones."""
    seed: int = 1
    """The first world, for those that show in few."""

    @contextmanager
    def planted(self) -> Iterator[None]:
        """The client has it as long as this lasts."""
        with ExitStack() as stack:
            for edit in self.edits:
                stack.enter_context(edit.made())
            yield


def _bug(what: str, rules: str, mood: str, *edits: Edit, **more: Any) -> Bug:
    return Bug(what, frozenset(rules.split()), mood, edits, **more)


BUGS: Final = {
    "lost-watch": _bug(
        "the watches of children are not armed anew after a reconnect",
        "watches",
        "links",
        Edit(Watching, "rearm", "for kind in (DATA, EXIST, CHILD)]", "for kind in (DATA, EXIST)] + [[]]"),
    ),
    "wrong-reply": _bug(
        "a call that is cancelled when it was sent is forgotten, and its reply taken for that of the next one",
        "reads writes",
        "open",
        Edit(
            Requests,
            "withdraw",
            "request.call = None",
            "request.call = None or (request in self.in_flight and self.in_flight.remove(request))",
        ),
        Edit(Session, "_read", "if in_flight and in_flight[0].xid == xid:", "if in_flight and xid > 0:"),
    ),
    "write-sent-twice": _bug(
        "a write whose reply was lost is sent again though it may have been applied",
        "writes",
        "links",
        Edit(Settlement, "_end", "if not case.can_be_sent_again", "if case.verdict.fate is Fate.HAPPENED"),
    ),
    "no-owner-check": _bug(
        "a client gives up a session that it must assume lost, and its latch takes the node of the old one for its own",
        "leaders",
        "sessions",
        Edit(
            Session,
            "handle_timer",
            "self._announce(State.LOST, self._lost_locally(now))",
            "(self._announce(State.LOST, self._lost_locally(now)), self.requests.fail_bound(self.generation), "
            "setattr(self, 'session_id', 0), setattr(self, 'password', b''))",
        ),
        Edit(LeaderLatch, "_forget_node", "self._lose_node()", "self._end_leadership()"),
        Edit(LeaderLatch, "_look", " or node.stat.ephemeral_owner != session.session_id", ""),
    ),
    "reordered-queue": _bug(
        "of three calls that wait, the last one is sent first",
        "order",
        "open",
        Edit(
            Requests,
            "take_batch",
            "request = waiting.popleft()",
            "request = waiting.pop() if len(waiting) == 3 else waiting.popleft()",
        ),
    ),
    "zxid-not-frozen": _bug(
        "while watches are being armed anew the zxid since when events are wanted moves on",
        "watches",
        "links",
        Edit(Rearming, "freeze", "if self._frozen_zxid is None:", "if True:"),
    ),
    "missing-not-told": _bug(
        "who has a persistent watch is not told that something may have been missed",
        "subscriptions",
        "links",
        Edit(Watching, "rearm", "self._tell_all(EventType.MISSED, self._persistent.everybody())", "pass"),
    ),
    "unknown-told-as-not-applied": _bug(
        "of writes whose outcome is unknown it is said that they were not applied",
        "linearizable",
        "links",
        Edit(
            Request,
            "end_call",
            "call.set_exception(error)",
            "call.set_exception(error) or getattr(error, 'outcome', None) is not None "
            "and error.outcome.name == 'UNKNOWN' and setattr(error, 'outcome', type(error.outcome).NOT_APPLIED)",
        ),
        work="registers",
    ),
    "lost-read": _bug(
        "a read whose reply was lost is forgotten",
        "calls",
        "links",
        Edit(Requests, "settle", "self._put_back(request)", "pass"),
    ),
    "not-drained": _bug(
        "a server that may still hold writes is offered the session as if it held none",
        "late order writes",
        "all",
        Edit(Draining, "begin", "if not self.is_tainted(address):", "if True:"),
        seconds=60.0,
        seed=1000,
    ),
}
"""By name. The first six are those that every torture of this client has to find."""
