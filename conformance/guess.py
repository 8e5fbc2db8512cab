"""What probably is on a server after the steps so far, so that most steps of a sequence make sense.

Rules of this file: a guess, and no more: ACLs, refused transactions and broken connections are not thought of. Nobody
compares it with anything.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from everlatch.wire.codes import CreateMode

__all__ = ["Guess", "parent_of"]

_SEQUENTIAL = (2, 3, 6)
_EPHEMERAL = (1, 3)


@dataclass
class _Node:
    owner: int | None = None
    version: int = 0
    aversion: int = 0
    creates: int = 0


class Guess:
    """`~`, its parent (the root, which always stays), and what is below it, by path."""

    def __init__(self) -> None:
        self.nodes = {"": _Node(), "~": _Node()}

    def copy(self) -> Guess:
        """Another one, which goes its own way."""
        other = Guess()
        other.nodes = {path: replace(node) for path, node in self.nodes.items()}
        return other

    def create(self, path: str, flags: int, session: int) -> None:
        """If it is possible, there is one more node."""
        parent = self.nodes.get(parent_of(path))
        if parent is None or parent.owner is not None:
            return
        if flags in _SEQUENTIAL:
            path += f"{parent.creates:010d}"
        if path not in self.nodes and not path.endswith("/") and flags in frozenset(CreateMode):
            parent.creates += 1
            self.nodes[path] = _Node(session if flags in _EPHEMERAL else None)

    def delete(self, path: str) -> None:
        """If it is possible, there is one node less."""
        if path and not any(other.startswith(f"{path}/") for other in self.nodes):
            self.nodes.pop(path, None)

    def close(self, session: int) -> None:
        """What the session owns is gone."""
        self.nodes = {path: node for path, node in self.nodes.items() if node.owner != session}

    def write(self, path: str) -> None:
        """New data."""
        if path in self.nodes:
            self.nodes[path].version += 1

    def protect(self, path: str) -> None:
        """A new ACL."""
        if path in self.nodes:
            self.nodes[path].aversion += 1

    def version(self, path: str) -> int:
        """Of the data."""
        return self.nodes[path].version if path in self.nodes else 0

    def aversion(self, path: str) -> int:
        """Of the ACL."""
        return self.nodes[path].aversion if path in self.nodes else 0


def parent_of(path: str) -> str:
    """The path above, as `Guess` has it."""
    return path.rpartition("/")[0]
