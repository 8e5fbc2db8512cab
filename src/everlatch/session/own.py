"""The caller of the session's own requests."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Own"]


class Own:
    """Stands where a caller's call stands. `then` is told the result, or the server's error. Nobody is told of a
    connection that was lost: whoever asked begins anew on the next one."""

    __slots__ = ("_then",)

    def __init__(self, then: Callable[[Any], None]) -> None:
        self._then = then

    def done(self) -> bool:
        """Never cancelled."""
        return False

    def set_result(self, result: Any, /) -> None:
        """It was answered."""
        self._then(result)

    def set_exception(self, exception: BaseException, /) -> None:
        """It was refused."""
        self._then(exception)
