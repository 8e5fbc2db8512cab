"""Waiting until a node is as somebody wants it.

Rules: the present state counts; so do all that a subscription shows, and it may pass over some that did not last. A
state that can't be read ends the wait: the caller decides whether to wait for permissions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from everlatch.engine.changes import within
from everlatch.errors import ClientClosedError

if TYPE_CHECKING:
    from collections.abc import Callable

    from everlatch.subscriptions.states import StateSubscription
    from everlatch.types import Node

__all__ = ["wait_for"]


async def wait_for(
    states: StateSubscription[Node | None],
    is_met: Callable[[Node | None], bool],
    operation: str,
    path: str,
    timeout: float | None,
) -> Node | None:
    """The first state that `is_met` holds for. Raises `CallTimeoutError`; why the node can't be read; what `is_met`
    raises; `ClientClosedError` and such at the client's end."""
    async with within(timeout, operation, path), states:
        async for state in states:
            if is_met(state):
                return state
    raise ClientClosedError(f"{operation} {path!r}: the client was closed")
