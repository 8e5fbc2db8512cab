"""Name resolution that can change, fail and hang.

Rules: every host of the world has its name from birth; a numeric address is its own name. A lookup takes a millisecond.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["Names"]

_LOOKUP: Final = 0.001


class Names:
    """What names resolve to, for everybody.

    world.names["zk1"] = ["10.0.0.7"]     # moved
    world.names.fail("zk1")               # or hang("zk1"); and restore("zk1")
    """

    def __init__(self, note: Callable[[str], object]) -> None:
        self._ips: dict[str, list[str]] = {}
        self._failing: dict[str, OSError] = {}
        self._hanging: dict[str, list[asyncio.Future[None]]] = {}
        self._note = note

    def __setitem__(self, name: str, ips: Sequence[str]) -> None:
        if name in self._ips:
            self._note(f"{name} now resolves to {', '.join(ips) or 'nothing'}")
        self._ips[name] = list(ips)

    def __getitem__(self, name: str) -> list[str]:
        return list(self._ips[name])

    def fail(self, name: str, error: OSError | None = None) -> None:
        """Lookups fail, with `error` or "temporary failure in name resolution"."""
        self._note(f"{name} does not resolve")
        self._failing[name] = error or socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    def hang(self, name: str) -> None:
        """Lookups take until `restore`, as with a name server that doesn't answer."""
        self._note(f"lookups of {name} hang")
        self._hanging.setdefault(name, [])

    def restore(self, name: str) -> None:
        """It resolves again, and lookups that hang are answered."""
        if name in self._failing or name in self._hanging:
            self._note(f"{name} resolves again")
        self._failing.pop(name, None)
        for waiter in self._hanging.pop(name, []):
            if not waiter.done():
                waiter.set_result(None)

    def restore_all(self) -> None:
        """All names resolve again."""
        for name in [*self._failing, *self._hanging]:
            self.restore(name)

    async def resolve(self, name: str) -> list[str]:
        """The addresses. Raises `socket.gaierror`."""
        if _is_numeric(name):
            return [name]
        await asyncio.sleep(_LOOKUP)
        if name in self._hanging:
            waiter = asyncio.get_running_loop().create_future()
            self._hanging[name].append(waiter)
            await waiter
        if name in self._failing:
            raise self._failing[name]
        if not self._ips.get(name):
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return list(self._ips[name])


def _is_numeric(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
