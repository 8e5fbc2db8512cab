"""What was found, and the command that shows it again.

Rules of this file: the same fault is told once, however many inputs show it: where it was raised tells faults apart.
"""

from __future__ import annotations

import shlex
import traceback
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["BrokenPromiseError", "Finding", "Findings", "described"]

_MOST = 50
_MOST_HANGS = 5
_LONGEST_INPUT = 4096
_LONGEST_MESSAGE = 500
_MOST_FRAMES = 12


class BrokenPromiseError(Exception):
    """Nothing has failed by itself, but something that a level promises does not hold."""


class Finding(NamedTuple):
    """One fault."""

    level: str
    target: str
    what: str
    """The exception, the hang, or the broken promise."""
    trace: str
    data: bytes
    """The input: of level 1 what was decoded, of the others what the server sent, on all connections."""
    replay: str
    """The argument of `--replay` that shows it again."""

    @property
    def command(self) -> str:
        """The command line that shows it again."""
        return shlex.join(["scripts/fuzz", "--replay", self.replay])

    @property
    def fault(self) -> tuple[str, str, str]:
        """What is the same for all inputs that show this fault."""
        target = self.target if self.level == "decoders" else ""
        # Where it was raised, whichever way led there.
        return f"{self.level} {target}", self.what.partition(":")[0], self.trace.rpartition("\n")[2]

    def render(self) -> str:
        """For people."""
        data = self.data.hex()
        if len(data) > _LONGEST_INPUT:
            data = f"{data[:_LONGEST_INPUT]}… ({len(self.data)} bytes; the command below makes all of them)"
        lines = [f"FOUND in {self.level}, {self.target}: {self.what}", f"  input: {data or 'none'}"]
        lines += [f"  {line}" for line in self.trace.splitlines()]
        return "\n".join([*lines, f"  again: {self.command}"])

    def to_json(self) -> dict[str, str]:
        """For the report."""
        named = {"level": self.level, "target": self.target, "what": self.what, "trace": self.trace}
        return named | {"input": self.data.hex(), "command": self.command}


class Findings:
    """The faults so far."""

    def __init__(self) -> None:
        self._faults: dict[tuple[str, str, str], Finding] = {}
        self.inputs = 0
        """How many inputs showed a fault."""
        self._hangs = 0

    def add(self, finding: Finding) -> bool:
        """Notes it; tells whether the fault is a new one."""
        self.inputs += 1
        self._hangs += finding.what.startswith("Hang")
        if finding.fault in self._faults:
            return False
        self._faults[finding.fault] = finding
        return True

    def __len__(self) -> int:
        return len(self._faults)

    def __iter__(self) -> Iterator[Finding]:
        return iter(self._faults.values())

    @property
    def enough(self) -> bool:
        """So many different faults that going on tells nothing more, or so many hangs that it takes too long."""
        return len(self._faults) >= _MOST or self._hangs >= _MOST_HANGS


def described(error: BaseException) -> tuple[str, str]:
    """An exception in a line, and its trace with paths as short as they can be."""
    lines = _lines(error)
    cause = error.__cause__
    if cause is not None:
        lines += [f"because of {type(cause).__name__}: {cause}"[:_LONGEST_MESSAGE], *_lines(cause)]
    return f"{type(error).__name__}: {error}"[:_LONGEST_MESSAGE], "\n".join(lines)


def _lines(error: BaseException) -> list[str]:
    frames = traceback.extract_tb(error.__traceback__)[-_MOST_FRAMES:]
    return [f"{'/'.join(frame.filename.split('/')[-2:])}:{frame.lineno} {frame.name}" for frame in frames]
