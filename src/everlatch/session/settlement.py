"""Finds out what became of the writes whose replies were lost with a connection (promise P3).

On the new connection, before anything else is sent: a commit, which changes nothing, and right behind it a look at
every node that can tell. What the servers commit they commit in order, so when the commit is answered, nothing more of
the old connection can be applied, and what the looks behind it see is final. (`sync` would prove nothing: a leader that
has been deposed and doesn't know it answers it.)

Then the list is judged as a whole, in the order in which it was sent:

1. What was applied is a prefix of what was sent, but for writes that the servers refused in between. So a write that
   was not applied and stands before one that was has been refused.
2. Only the writes behind the last one that may have been applied are sent again, in order: sending one from before
   would change the order of writes (P4). The others end: with their result, as not applied, or as unknown.
3. Nothing is sent again for a caller who has gone.
4. `idempotent` writes may be applied twice, `protect`ed ones are found by their name: both are sent again where others
   would end as unknown.
5. A repetition that is refused because of the state of its node may have been refused because the first one was applied
   after all: it is looked at again, and judged by what had been seen when it was first sent.
"""

from __future__ import annotations

from collections import Counter
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from everlatch.errors import (
    BadVersionError,
    ResultLostError,
    ServerError,
    TransactionFailedError,
    WriteNotAppliedError,
)
from everlatch.paths import parent
from everlatch.session.commits import COMMIT, COMMIT_BODY
from everlatch.session.endings import created, existing, settle
from everlatch.session.evidence import (
    MAYBE,
    NOT_APPLIED,
    Fate,
    Verdict,
    changes_of,
    guarded_body,
    is_ephemeral,
    is_sequential,
    judge,
    paths_to_look_at,
    result_of,
)
from everlatch.session.looks import LOOK, READ, look_body, read_body
from everlatch.session.name_search import NameSearch
from everlatch.session.own import Own
from everlatch.session.requests import POISON_LOSSES, Request
from everlatch.types import Sighting
from everlatch.wire.multi import CreatePart, CreateResult, SetDataResult

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable, Iterator

    from everlatch.errors import EverlatchError
    from everlatch.session.evidence import Change
    from everlatch.session.name_search import Found
    from everlatch.session.receipts import Receipts
    from everlatch.session.requests import Requests
    from everlatch.types import Node, Stat
    from everlatch.wire.multi import Result

__all__ = ["Reconsideration", "Settlement"]

_NAME_IS_LOST: Final = "the number in the name of its node is not known: the node is gone, or can't be looked at"
_REFUSED: Final = "the servers refused it (a later write was applied), and their reason is lost"
_IN_BETWEEN: Final = "sending it again would change the order, for a later write may have been applied"
_CHANGED_SINCE: Final = "it was sent again for the version just seen, and somebody has changed the node since"


class _Case:
    """One write, and what is found out about it."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self.changes: list[Change] = changes_of(request)
        self.verdict = MAYBE
        self.receipted: Verdict | None = None
        """What its receipt says."""
        self.names: dict[str, list[str]] = {}
        """Prefix → the nodes that it has made, in the order of its parts."""
        self.is_absent = False
        """A protected name is not there: nobody would see two, were it made again."""

    def creates(self) -> Iterator[CreatePart]:
        """The nodes that it would have made."""
        return (change for change in self.changes if isinstance(change, CreatePart))

    def count_of(self, prefix: str) -> int:
        """How many nodes with that prefix it would have made."""
        return sum(create.path == prefix for create in self.creates())

    @property
    def can_be_sent_again(self) -> bool:
        """As far as it is known itself. One that was refused is not, for later ones may have been applied since."""
        if self.request.refusal is not None:
            return False
        if self.verdict.fate is not Fate.MAYBE:
            return self.verdict.fate is Fate.NOT_APPLIED
        return self.request.call is not None and (self.request.operation.is_idempotent or self.is_absent)


class Settlement:
    """Of all that is unsettled in `requests`. `ask` sends a request of the session's own; `done` is called at the end.

    A connection that is lost meanwhile ends it without a word: the next one begins with another.
    """

    def __init__(
        self,
        requests: Requests,
        receipts: Receipts | None,
        session_id: int,
        *,
        ask: Callable[[Request], None],
        done: Callable[[], None],
    ) -> None:
        self._requests = requests
        self._receipts = receipts
        self._session_id = session_id
        self._ask = ask
        self._done = done
        self._cases = [_Case(request) for request in self._writes()]
        self._made_by = Counter(create.path for case in self._cases for create in case.creates())
        """How many writes may have made a node."""
        self._knows_all = all(case.changes for case in self._cases)
        """Whether there are no others that may have: of reconfig it isn't known what it made."""
        self._seen: dict[str, Stat | ServerError | None] = {}
        self._waiting = 0
        self._committed_at = 0
        """The zxid behind which nothing of the old connection is applied."""

    def _writes(self) -> list[Request]:
        return [request for request in self._requests.unsettled if request.operation.is_write]

    # -- looking

    def start(self) -> None:
        """Commits, and looks."""
        self._send(Request(Own(self._committed), COMMIT, "/", COMMIT_BODY))
        for path in _paths(change for case in self._cases for change in case.changes):
            self._send(Request(Own(partial(self._looked, path)), LOOK, path, look_body(path)))
        for case in self._cases:
            receipt = case.request.receipt
            if receipt is not None:
                path = receipt.slot.path
                self._send(Request(Own(partial(self._receipt_read, case)), READ, path, read_body(path)))

    def _send(self, request: Request) -> None:
        self._waiting += 1
        self._ask(request)

    def _has_come(self) -> None:
        self._waiting -= 1
        if not self._waiting:
            self._judge()

    def _committed(self, zxid: int) -> None:
        self._committed_at = zxid
        self._has_come()

    def _looked(self, path: str, stat: Stat | ServerError | None) -> None:
        self._seen[path] = stat
        self._has_come()

    def _receipt_read(self, case: _Case, node: Node | ServerError) -> None:
        assert self._receipts is not None
        assert case.request.receipt is not None
        case.receipted = self._receipts.judge(case.request.receipt, node)
        self._has_come()

    # -- judging

    def _judge(self) -> None:
        for case in self._cases:
            case.verdict = self._judge_case(case)
        searches = [*self._searches_by_zxid(), *self._searches_by_name(), *self._searches_by_owner()]
        self._waiting = len(searches) + 1
        for start in searches:
            start()
        self._searched()

    def _judge_case(self, case: _Case) -> Verdict:
        request = case.request
        if request.has_found_node:
            return Verdict(Fate.HAPPENED)
        if case.receipted is NOT_APPLIED and request.operation.may_have_happened:  # without that receipt
            return self._judge_by_nodes(case)
        return case.receipted or self._judge_by_nodes(case)

    def _judge_by_nodes(self, case: _Case) -> Verdict:
        request = case.request
        only = self._knows_all and all(self._made_by[create.path] == 1 for create in case.creates())
        is_protected = request.operation.is_protected
        verdict = judge(
            case.changes, request.zxid, self._seen, owner=self._session_id, only=only, is_protected=is_protected
        )
        if verdict is MAYBE and is_protected:
            case.is_absent = any(self._seen.get(create.path, MAYBE) is None for create in case.creates())
        return verdict

    def _searched(self) -> None:
        self._waiting -= 1
        if not self._waiting:
            self._end()

    def _searches_by_zxid(self) -> Iterator[Callable[[], None]]:
        """The names of what writes have made whose transactions are known; one search for all with the same prefix."""
        wanted: dict[str, dict[int, _Case]] = {}
        for case in self._cases:
            if case.verdict.fate is Fate.HAPPENED and case.request.call is not None:
                for create in filter(is_sequential, case.creates()):
                    wanted.setdefault(create.path, {})[case.verdict.zxid] = case
        for prefix, cases in wanted.items():
            most = sum(case.count_of(prefix) for case in cases.values())
            is_ours = partial(_has_czxid_of, cases)
            yield self._search(prefix, min(cases), is_ours, most, partial(_name_by_zxid, prefix, cases))

    def _searches_by_name(self) -> Iterator[Callable[[], None]]:
        for case in self._cases:
            if case.verdict is MAYBE and case.request.operation.is_protected and case.request.call is not None:
                for create in filter(is_sequential, case.creates()):
                    yield self._search(create.path, 0, _anything, 1, partial(_recognise, case), by_name=True)

    def _searches_by_owner(self) -> Iterator[Callable[[], None]]:
        """Ephemeral nodes of our own, made since: if there are as many as were asked for, they are those."""
        wanted: dict[str, list[_Case]] = {}
        for case in self._cases if self._knows_all else []:
            for create in case.creates():
                if is_sequential(create) and is_ephemeral(create) and case.verdict.fate is not Fate.NOT_APPLIED:
                    wanted.setdefault(create.path, []).append(case)
        for prefix, cases in wanted.items():
            if any(case.verdict is MAYBE and not case.request.operation.is_protected for case in cases):
                oldest = min(case.request.zxid for case in cases) + 1
                yield self._search(prefix, oldest, self._is_own, len(cases), partial(_recognise_all, prefix, cases))

    def _is_own(self, stat: Stat) -> bool:
        return stat.ephemeral_owner == self._session_id

    def _search(
        self,
        prefix: str,
        oldest: int,
        is_ours: Callable[[Stat], bool],
        most: int,
        tell: Callable[[list[Found] | None], None],
        *,
        by_name: bool = False,
    ) -> Callable[[], None]:
        def found(nodes: list[Found] | None) -> None:
            tell(nodes)
            self._searched()

        search = NameSearch(prefix, oldest, is_ours, most, ask=self._ask, found=found, may_list=self._requests.can_list)
        return search.start_with_list if by_name else partial(search.start, self._seen.get(parent(prefix)))

    # -- ending

    def _end(self) -> None:
        cases = self._cases
        blocking = (index for index, case in enumerate(cases) if not case.can_be_sent_again)
        first_again = max(blocking, default=-1) + 1
        last_applied = max((i for i, case in enumerate(cases) if case.verdict.fate is Fate.HAPPENED), default=-1)
        again: set[Request] = set()
        touched: set[str] = set()
        for index, case in enumerate(cases):
            self._take_leave_of_receipt(case)
            if index >= first_again and self._is_to_be_sent(case):
                again.add(case.request)
                self._guard(case, touched)
            else:
                self._end_case(case, _REFUSED if index < last_applied else _IN_BETWEEN)
        self._requests.settle(again)
        self._done()

    def _is_to_be_sent(self, case: _Case) -> bool:
        request = case.request
        if request.call is None:
            return False
        if request.losses < POISON_LOSSES:
            return True
        if case.verdict.fate is Fate.NOT_APPLIED:
            self._requests.settled += 1
            request.fail(self._requests.killer(request))
        return False

    def _guard(self, case: _Case, touched: set[str]) -> None:
        if case.verdict.fate is Fate.NOT_APPLIED:
            self._requests.settled += 1
            # Whatever it brings about from now on is later than that: others may have done what came before.
            case.request.zxid = max(case.request.zxid, self._committed_at)
        else:
            case.request.operation = case.request.operation._replace(may_have_happened=True)
        if case.receipted is None and not case.request.operation.is_idempotent:
            body = guarded_body(case.request, case.changes, self._seen, touched)
            if body is not None:
                case.request.body = body
                case.request.operation = case.request.operation._replace(is_guarded=True)

    def _end_case(self, case: _Case, why: str) -> None:
        request = case.request
        if self._receipts is not None:
            self._receipts.give_back(request)
        if case.verdict.fate is Fate.NOT_APPLIED:
            if request.call is not None:
                self._requests.settled += 1
                request.fail(_refusal(request) or WriteNotAppliedError(request.operation.name, request.path, why))
        elif request.call is not None:
            if case.verdict.fate is Fate.HAPPENED:
                self._requests.settled += 1
                settle(request, partial(self._result, case))
            else:
                self._requests.end_unknown(request, self._requests.loss, self._sightings(case))

    def _take_leave_of_receipt(self, case: _Case) -> None:
        """Unless the write was not applied: then it may be sent again, and goes with the same one."""
        receipt = case.request.receipt
        if receipt is None or case.receipted is NOT_APPLIED:
            return
        assert self._receipts is not None
        if case.receipted is None:
            self._receipts.abandon(case.request)
        else:
            self._receipts.release(case.request, receipt.version + 1)

    def _sightings(self, case: _Case) -> list[Sighting]:
        return [_sighting(path, self._seen[path]) for path in _paths(case.changes)]

    def _result(self, case: _Case, request: Request) -> Any:
        """What its call returns. Raises `ResultLostError`."""
        if request.has_found_node:
            path = case.changes[0].path
            return existing(request, path, self._seen.get(path))
        results = [self._result_of(index, case) for index in range(len(case.changes))]
        if request.operation.restore is not None:
            return request.operation.restore(results)
        match results[0]:
            case CreateResult(path, stat):
                assert stat is not None
                return created(request, path, stat)
            case SetDataResult(stat):
                return stat
            case None:
                name, path, zxid = request.operation.name, request.path, case.verdict.zxid
                raise ResultLostError(name, path, zxid, _NAME_IS_LOST)
            case _:
                return None

    def _result_of(self, index: int, case: _Case) -> Result | None:
        change = case.changes[index]
        names = case.names.get(change.path, [])
        name = names.pop(0) if names and is_sequential(change) else None
        # What is seen is what the last part has made of the node.
        is_last = all(later.path != change.path for later in case.changes[index + 1 :])
        return result_of(change, case.verdict, self._seen if is_last else {}, name, self._session_id)


class Reconsideration(Settlement):
    """Of one write that was sent again and refused, because of the state of its node."""

    def __init__(self, request: Request, *args: Any, **options: Any) -> None:
        self._request = request
        super().__init__(*args, **options)
        # Those sent since may have made what the look will find.
        self._knows_all = not any(other.operation.is_write for other in self._requests.in_flight)

    def _writes(self) -> list[Request]:
        return [self._request]

    def _end(self) -> None:
        (case,) = self._cases
        self._requests.unsettled.remove(case.request)
        self._take_leave_of_receipt(case)
        self._end_case(case, _CHANGED_SINCE)
        self._done()


def _paths(changes: Iterable[Change]) -> Iterable[str]:
    """The nodes that can show what became of these, each once."""
    return dict.fromkeys(path for change in changes for path in paths_to_look_at(change))


def _refusal(request: Request) -> EverlatchError | None:
    """What the servers have said, unless it was about a version that its caller didn't demand."""
    error = request.refusal
    cause = error.error if isinstance(error, TransactionFailedError) else error
    return None if request.operation.is_guarded and isinstance(cause, BadVersionError) else error


def _has_czxid_of(cases: Container[int], stat: Stat) -> bool:
    return stat.czxid in cases


def _anything(_: Stat) -> bool:
    return True


def _name_by_zxid(prefix: str, cases: dict[int, _Case], nodes: list[Found] | None) -> None:
    """A node that is missing may be any of a transaction's: then no name of it is certain."""
    for zxid, case in cases.items():
        names = [node.path for node in nodes or () if node.stat.czxid == zxid]
        if len(names) == case.count_of(prefix):
            case.names[prefix] = names


def _recognise(case: _Case, nodes: list[Found] | None) -> None:
    """By a name that nobody else uses."""
    if nodes:
        case.verdict = Verdict(Fate.HAPPENED, nodes[0].stat.czxid, nodes[0].stat.ctime)
        case.names[case.changes[0].path] = [nodes[0].path]
    elif nodes is not None:
        case.is_absent = True


def _recognise_all(prefix: str, cases: list[_Case], nodes: list[Found] | None) -> None:
    """By their owner; one missing, it can't be told whose is whose. Of a transaction that has made others with the same
    prefix, which nobody owns, no name is certain."""
    if nodes is None or len(nodes) != len(cases):
        return
    unnamed = [case for case in cases if case.verdict is MAYBE]
    for case, node in zip(cases, nodes, strict=True):
        if case in unnamed:
            case.verdict = Verdict(Fate.HAPPENED, node.stat.czxid, node.stat.ctime)
            case.names.setdefault(prefix, []).append(node.path)
    for case in unnamed:
        if len(case.names.get(prefix, [])) != case.count_of(prefix):
            case.names.pop(prefix, None)


def _sighting(path: str, stat: Stat | ServerError | None) -> Sighting:
    return Sighting(path, None, stat) if isinstance(stat, ServerError) else Sighting(path, stat)
