"""The first difference between what two servers have said.

Rules of this file: connections are compared item by item and field by field; behind an unexplained difference nothing
is compared, because what follows may be its consequence. Of several connections that differ, the one whose difference
comes from the earliest step is told.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from conformance.transcripts import Transcript

__all__ = ["Difference", "differences", "first_unexplained"]

_MISSING = "nothing"


class Difference(NamedTuple):
    """One field that is not the same."""

    stream: str
    """Of which connection."""
    step: int
    """The index of the step that it belongs to, or of the last one before it; −1 at the end."""
    what: str
    """Which answer or event: `answer to get_data`, `event`."""
    field: str
    """Where in it: `stat.version`, `results.2.code`; empty if the whole item is another one."""
    real: Any
    dev: Any

    @property
    def fault(self) -> tuple[str, str]:
        """What is the same for all sequences that show this difference."""
        names = [name for name in self.field.split(".") if not name.isdigit()]
        return self.what, ".".join(names)

    def render(self) -> str:
        """For people."""
        where = f", {self.field}" if self.field else ""
        step = f"step {self.step}" if self.step >= 0 else "the end"
        return f"{self.what}{where} ({self.stream}, {step})\n  ZooKeeper:  {self.real!r}\n  dev server: {self.dev!r}"


def first_unexplained(real: Transcript, dev: Transcript, is_known: Callable[[Difference], bool]) -> Difference | None:
    """The earliest difference for which nobody has a reason."""
    found = [
        difference
        for name in {**real.streams, **dev.streams}
        if (difference := _first(name, real.streams.get(name, []), dev.streams.get(name, []), is_known)) is not None
    ]
    return min(found, key=lambda difference: (difference.step < 0, difference.step), default=None)


def _first(
    stream: str,
    real: Sequence[dict[str, Any]],
    dev: Sequence[dict[str, Any]],
    is_known: Callable[[Difference], bool],
) -> Difference | None:
    return next((each for each in differences(stream, real, dev) if not is_known(each)), None)


def differences(stream: str, real: Sequence[dict[str, Any]], dev: Sequence[dict[str, Any]]) -> Iterator[Difference]:
    """All of one connection, in order; an item of another kind, or too many, is the last."""
    step = -1
    for index in range(max(len(real), len(dev))):
        ours = real[index] if index < len(real) else None
        theirs = dev[index] if index < len(dev) else None
        step = max(step, *(item["step"] for item in (ours, theirs) if item is not None))
        if ours is None or theirs is None or _title(ours) != _title(theirs):
            yield Difference(stream, step, _title(ours or theirs or {}), "", ours or _MISSING, theirs or _MISSING)
            return
        for field, one, other in _fields(ours, theirs):
            yield Difference(stream, step, _title(ours), field, one, other)


def _title(item: dict[str, Any]) -> str:
    kind: str = item["kind"]
    return f"{kind} to {item['call']}" if "call" in item else kind


def _fields(one: Any, other: Any, name: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Where two values differ, as deep as possible."""
    if one == other:
        return
    if isinstance(one, dict) and isinstance(other, dict):
        for key in {**one, **other}:
            yield from _fields(one.get(key, _MISSING), other.get(key, _MISSING), f"{name}.{key}".lstrip("."))
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        for index, pair in enumerate(zip(one, other, strict=True)):
            yield from _fields(*pair, f"{name}.{index}".lstrip("."))
    else:
        yield name, one, other
