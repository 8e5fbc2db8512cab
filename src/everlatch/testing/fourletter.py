"""ZooKeeper's four-letter words: one question on a connection of its own, answered in plain text.

Rules of this module: every exchange has a time limit, since a server that is only just starting may take the
question and never close the connection; whatever happens, the connection is closed before the call returns.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from typing import Final

from everlatch.errors import InvalidArgumentError

__all__ = ["four_letter", "parse_mode", "parse_session_ids"]

_MODE: Final = re.compile(r"^Mode: (\S+)", re.MULTILINE)
_SESSION: Final = re.compile(r"\bsid=0x([0-9a-f]+)")


async def four_letter(host: str, port: int, command: str, *, timeout: float = 5.0) -> str:
    """Asks `command` (`srvr`, `cons`, `mntr`, …) and returns the answer.

    Raises `TimeoutError`, or the `OSError` of the connection.
    """
    question = command.encode("ascii", "replace")
    if len(question) != 4:
        raise InvalidArgumentError(f"a four-letter word has four letters: {command!r}")
    async with asyncio.timeout(timeout):
        reader, writer = await asyncio.open_connection(host, port)
        try:
            writer.write(question)
            answer = await reader.read()
        finally:
            await _close(writer)
    return answer.decode("utf-8", "replace")


async def _close(writer: asyncio.StreamWriter) -> None:
    # Nothing more is to be said, so nothing has to be flushed: abort ends at once even if the server is frozen.
    writer.transport.abort()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


def parse_mode(srvr: str) -> str | None:
    """The mode in an answer to `srvr`: leader, follower, observer, standalone, read-only; `None`: not serving."""
    match = _MODE.search(srvr)
    return match[1] if match else None


def parse_session_ids(cons: str) -> list[int]:
    """The sessions in an answer to `cons`, as the client has them (signed); connections without one are left out."""
    unsigned = (int(digits, 16) for digits in _SESSION.findall(cons))
    return [number - (1 << 64) if number >> 63 else number for number in unsigned if number]
