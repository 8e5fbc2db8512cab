"""What is measured: the operations, the nodes they work on, and what a right reply looks like.

Rules of this file:
- Everybody does the same work: same nodes, same values, same checks, same number of operations.
- A reply that is not the expected one ends the measurement; a wrong answer has no speed.
- Nothing here knows any client. Clients agree on the shapes that the checks rely on: `get` gives `(data, stat)`,
  `set` a stat with `data_length`, `children` a list.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "CELLS",
    "CROWD",
    "CROWD_SIZE",
    "DEFAULT_COUNTS",
    "NETTY",
    "NODE",
    "OPERATIONS",
    "QUICK_COUNTS",
    "ROOT",
    "VALUE",
    "Cell",
    "CreatedPaths",
    "Job",
    "Where",
    "WrongReplyError",
    "check_children",
    "check_get",
    "check_set",
    "names_of_crowd",
]

VALUE = bytes(range(100))
ROOT = "/bench"
NODE = f"{ROOT}/node"
CROWD = f"{ROOT}/crowd"
CROWD_SIZE = 10_000

OPERATIONS = ("get", "set", "create", "children")


class Cell(NamedTuple):
    """One line of the comparison."""

    operation: str
    window: int


CELLS = (
    Cell("get", 1000),
    Cell("get", 1),
    Cell("set", 1000),
    Cell("set", 64),
    Cell("set", 1),
    Cell("create", 1000),
    Cell("create", 64),
    Cell("create", 1),
    Cell("children", 1),
)

# Operations of one measurement. With these it takes about a second with a fast client on a small machine.
DEFAULT_COUNTS = {cell: 50 if cell.operation == "children" else 3_000 if cell.window == 1 else 18_000 for cell in CELLS}
QUICK_COUNTS = {cell: 5 if cell.operation == "children" else 300 if cell.window == 1 else 3_000 for cell in CELLS}


NETTY = {f"everlatch-{loop}-{way}": ("get", "set") for loop in ("asyncio", "uvloop") for way in ("netty", "tls")}
"""Contestants that work on the server of the Netty factory, plainly or by TLS, and the operations that they do."""


class Where(NamedTuple):
    """The servers of a run."""

    address: str
    """The one that all but those of `NETTY` work on."""
    netty: str = ""
    """The plain port of the one that those work on; empty: there is none."""
    tls: str = ""
    """Its port for TLS."""
    ca: str = ""
    """The file of the authority that has issued its certificate."""

    def of(self, contestant: str) -> tuple[str, ...]:
        """What a measuring process is told of its server: the address, and whom to trust."""
        if contestant not in NETTY:
            return (self.address,)
        return (self.tls, "--ca", self.ca) if contestant.endswith("-tls") else (self.netty,)


class Job(NamedTuple):
    """What one process has to do."""

    operation: str
    window: int
    address: str
    times: int
    parent: str
    """The node under which `create` makes its nodes; of this process alone. Empty for the other operations."""
    ca: str = ""
    """Whom to trust; not empty: it is TLS that is spoken."""

    @property
    def warm_up(self) -> int:
        """Operations done in the process, on its connection, before the clock starts."""
        return min(self.times, max(self.window, self.times // 10))


class WrongReplyError(Exception):
    """A client returned something else than what the server must have answered."""


def names_of_crowd() -> Iterator[str]:
    """The children of `CROWD`."""
    return (f"member-{number:06d}" for number in range(CROWD_SIZE))


def check_get(result: Any) -> None:
    """Every get reads `VALUE`."""
    data, stat = result
    if data != VALUE or stat.data_length != len(VALUE):
        raise WrongReplyError(f"get returned {data!r}, {stat!r}")


def check_set(stat: Any) -> None:
    """Every set writes `VALUE`."""
    if stat.data_length != len(VALUE):
        raise WrongReplyError(f"set returned {stat!r}")


def check_children(names: Any) -> None:
    """Every listing has the whole crowd."""
    if len(names) != CROWD_SIZE or not names[0].startswith("member-"):
        raise WrongReplyError(f"children returned {len(names)} names: {names[:3]!r} …")


class CreatedPaths:
    """Fresh paths under a parent, each of which must come back exactly once."""

    def __init__(self, parent: str) -> None:
        self._prefix = f"{parent}/n"
        self._next = 0
        self._unanswered: set[str] = set()

    def fresh(self) -> str:
        """A path that nobody has created yet."""
        self._next += 1
        path = f"{self._prefix}{self._next:07d}"
        self._unanswered.add(path)
        return path

    def check(self, path: str) -> None:
        """Every create returns the path it was given."""
        try:
            self._unanswered.remove(path)
        except KeyError:
            raise WrongReplyError(f"create returned {path!r}, which was not asked for or had been answered") from None
