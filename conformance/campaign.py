"""How many sequences, and what was found.

Rules of this file: a difference is shrunk before it is told, and told once, however many sequences show it.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from conformance.comparison import first_unexplained
from conformance.differences import is_known
from conformance.generation import sequence
from conformance.running import run
from conformance.shrinking import shrink
from conformance.steps import Call

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from conformance.comparison import Difference
    from conformance.servers import Pair
    from conformance.steps import Step

__all__ = ["Finding", "Outcome", "compare", "hunt", "shrunk"]

_MOST_FINDINGS = 10
_PROGRESS = 10.0
_IMPORTS = """\
from everlatch.types import ACL
from everlatch.wire.multi import CheckPart, CreatePart, DeletePart, GetChildrenPart, GetDataPart, SetDataPart

from conformance.replay import replay
from conformance.steps import Auth, Call, Drop, Reattach, Step, Unknown
"""


class Finding(NamedTuple):
    """A difference that nobody has a reason for, and the shortest sequence found that shows it."""

    version: str
    release: str
    seed: int
    number: int
    """Of the sequence that showed it first."""
    steps: tuple[Step, ...]
    difference: Difference
    is_stable: bool
    """Whether the sequence showed it a second time."""

    @property
    def script(self) -> str:
        """Python that shows it again, run in the checkout."""
        steps = "".join(f"    {step!r},\n" for step in self.steps)
        return f"{_IMPORTS}\nreplay({self.version!r}, [\n{steps}])\n"

    def render(self) -> str:
        """For people."""
        where = f"DIFFERENCE from {self.release}, seed {self.seed}, sequence {self.number}"
        unstable = "" if self.is_stable else "\n  It was there once: when tried again, there was none."
        return f"{where}: {self.difference.render()}{unstable}\n\n{self.script}"

    def to_json(self) -> dict[str, object]:
        """For the report."""
        named = {"release": self.release, "seed": self.seed, "sequence": self.number, "is_stable": self.is_stable}
        difference = {name: repr(value) for name, value in self.difference._asdict().items()}
        return named | {"difference": difference, "script": self.script}


@dataclass
class Outcome:
    """What a campaign against one version has done."""

    version: str
    release: str
    operations: int = 0
    """Requests that each of both servers got."""
    sequences: int = 0
    seconds: float = 0.0
    findings: list[Finding] = field(default_factory=list)

    def to_json(self) -> dict[str, object]:
        """For the report."""
        return {
            "release": self.release,
            "operations": self.operations,
            "sequences": self.sequences,
            "seconds": round(self.seconds, 1),
            "findings": [finding.to_json() for finding in self.findings],
        }


async def compare(servers: Pair, steps: Sequence[Step]) -> tuple[Difference | None, int]:
    """Runs a sequence on both; the first difference without a reason, and how many requests each got. Raises
    `ConnectionError` if one of them can't be worked with any more."""
    try:
        real, dev = await asyncio.gather(run(servers.real, steps), run(servers.dev, steps))
    except (ConnectionError, TimeoutError) as error:
        raise ConnectionError(f"{error!r}, after these steps: {steps!r}") from error
    return first_unexplained(real, dev, is_known(servers.version)), real.operations


async def hunt(
    servers: Pair,
    seed: int,
    operations: int,
    tell: Callable[[str], None] = lambda line: None,
    *,
    most: int = _MOST_FINDINGS,
) -> Outcome:
    """Sequences until so many requests were compared, or so much was found; `tell` hears how it goes."""
    outcome = Outcome(servers.version, servers.release)
    faults: set[tuple[str, str]] = set()
    started = told = time.monotonic()
    while outcome.operations < operations and len(outcome.findings) < most:
        number = outcome.sequences
        steps = sequence(seed, number)
        difference, count = await compare(servers, steps)
        outcome.sequences += 1
        outcome.operations += count
        if difference is not None and difference.fault not in faults:
            finding = await _finding(servers, seed, number, steps, difference)
            faults |= {difference.fault, finding.difference.fault}
            outcome.findings.append(finding)
        now = time.monotonic()
        outcome.seconds = now - started
        if now - told >= _PROGRESS:
            told = now
            found = f"{len(outcome.findings)} differences"
            tell(f"{outcome.seconds:6.0f} s  {outcome.operations} operations against {outcome.release}, {found}")
    return outcome


async def _finding(servers: Pair, seed: int, number: int, steps: Sequence[Step], difference: Difference) -> Finding:
    async def shows_it(candidate: Sequence[Step]) -> bool:
        found, _ = await compare(servers, candidate)
        return found is not None and found.fault == difference.fault

    is_stable = await shows_it(steps)
    if is_stable:
        steps = await shrunk(steps, shows_it)
        difference = (await compare(servers, steps))[0] or difference
    return Finding(servers.version, servers.release, seed, number, tuple(steps), difference, is_stable)


async def shrunk(steps: Sequence[Step], shows_it: Callable[[Sequence[Step]], Awaitable[bool]]) -> list[Step]:
    """As few steps as still show it, and then as few parts of each multi."""
    left = await shrink(steps, shows_it)
    for index, step in enumerate(left):
        if isinstance(step.act, Call) and step.act.name in ("multi", "multi_read"):
            left = await _with_fewer_parts(left, index, step.act, shows_it)
    return left


async def _with_fewer_parts(
    steps: list[Step], index: int, call: Call, shows_it: Callable[[Sequence[Step]], Awaitable[bool]]
) -> list[Step]:
    def with_parts(parts: Sequence[Any]) -> list[Step]:
        changed = steps[index]._replace(act=call._replace(arguments=tuple(parts)))
        return [*steps[:index], changed, *steps[index + 1 :]]

    return with_parts(await shrink(call.arguments, lambda parts: shows_it(with_parts(parts))))
