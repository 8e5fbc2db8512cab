"""A list that fails, made as short as it can be: delta debugging. Pure but for the predicate.

Rules of this file: what is returned has failed; without any single item of it, it would not. Items are taken away,
never changed, and their order stays.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

__all__ = ["shrink"]

T = TypeVar("T")


async def shrink(items: Sequence[T], fails: Callable[[Sequence[T]], Awaitable[bool]]) -> list[T]:
    """A shortest sublist of `items` that fails; `items` has to fail."""
    left = list(items)
    size = max(1, len(left) // 2)
    while True:
        shorter = await _without_chunks(left, size, fails)
        if size == 1 and len(shorter) == len(left):
            return left
        left = shorter
        size = max(1, min(size // 2, len(left) // 2))


async def _without_chunks(items: list[T], size: int, fails: Callable[[Sequence[T]], Awaitable[bool]]) -> list[T]:
    """Every chunk of this size that isn't needed is taken away, from the end: what comes last is needed least."""
    stop = len(items)
    while stop > 0:
        start = max(0, stop - size)
        candidate = items[:start] + items[stop:]
        if await fails(candidate):
            items = candidate
        stop = start
    return items
