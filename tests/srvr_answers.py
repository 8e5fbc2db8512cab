"""What servers say of their version in tests: the scripted server answers no four-letter words."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from everlatch.admin import AdminTimeoutError, ServerStatus, parse_version
from everlatch.engine import server_version

if TYPE_CHECKING:
    import pytest

    from everlatch.paths import Endpoint


class SrvrAnswers:
    """In place of `admin.srvr`, as the client asks it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, version: str | None = "3.9.5") -> None:
        self.version = version
        """`None`: no answer."""
        self.asked: list[str] = []
        self.answering = asyncio.Event()
        """Clear it to have the answers wait."""
        self.answering.set()
        self.running = 0
        """Questions without an answer so far."""
        monkeypatch.setattr(server_version, "srvr", self._srvr)

    async def _srvr(self, server: Endpoint, *, timeout: float, **_: object) -> ServerStatus:
        self.asked.append(str(server))
        self.running += 1
        try:
            async with asyncio.timeout(timeout):
                await self.answering.wait()
        except TimeoutError:
            raise AdminTimeoutError(str(server), "srvr", timeout) from None
        finally:
            self.running -= 1
        if self.version is None:
            raise AdminTimeoutError(str(server), "srvr", timeout)
        return ServerStatus(parse_version(self.version), 0, 0.0, 0, 0, 0, 1, 0, 0, "standalone", 0)

    async def until_asked(self, times: int) -> None:
        while len(self.asked) < times:
            await asyncio.sleep(0)
