"""Processes that measure and tell, a line at a time, and do what they are told, a line at a time.

Rules of this file: a process is ended by its own id, whatever ends the run, and waited for. Where `setpriv` exists, the
kernel ends it together with the bench, should that be killed. Who waits for a line waits for a while only; a process
that ends instead voids the run, and the end of its stderr says why.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from contextlib import asynccontextmanager
from typing import IO, TYPE_CHECKING

from bench.process import ROOT, MeasurementError, environment

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

__all__ = ["Probe", "probe"]

_END_TIMEOUT_S = 15.0
_LINE_TIMEOUT_S = 60.0
_LINE_LIMIT = 1 << 20


class Probe:
    """One such process."""

    def __init__(self, name: str, process: asyncio.subprocess.Process, errors: IO[bytes]) -> None:
        self.name = name
        """What errors call it."""
        self._process = process
        self._errors = errors

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    def tell(self, line: str) -> None:
        """Have it do something."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n".encode())

    async def hear(self, timeout: float = _LINE_TIMEOUT_S) -> list[str]:
        """The words of the next line that it says. Raises `MeasurementError`."""
        assert self._process.stdout is not None
        try:
            async with asyncio.timeout(timeout):
                line = await self._process.stdout.readline()
        except TimeoutError:
            raise self._error(f"has said nothing for {timeout:g} s") from None
        if not line:
            raise self._error("has ended")
        return line.decode().split()

    async def expect(self, word: str) -> list[int]:
        """The numbers behind this word, which the next line begins with. Raises `MeasurementError`."""
        first, *numbers = await self.hear()
        if first != word:
            raise self._error(f"said {first!r} instead of {word!r}")
        return [int(number) for number in numbers]

    async def kill(self) -> None:
        """SIGKILL; returns when it is dead."""
        if self._process.returncode is None:
            self._process.kill()
            await self._process.wait()

    async def end(self) -> None:
        """Has it end, which it does with its input."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            async with asyncio.timeout(_END_TIMEOUT_S):
                await self._process.wait()
        except TimeoutError:
            raise self._error("does not end") from None

    def _error(self, problem: str) -> MeasurementError:
        self._errors.seek(0)
        said = self._errors.read().decode(errors="replace").strip()[-2000:]
        return MeasurementError(f"{self.name} {problem}; its stderr:\n{said}")


@asynccontextmanager
async def probe(name: str, command: Sequence[str]) -> AsyncIterator[Probe]:
    """Runs it; at the end of the block it is dead."""
    setpriv = shutil.which("setpriv")
    leash = (setpriv, "--pdeathsig", "KILL") if setpriv else ()
    with tempfile.TemporaryFile() as errors:
        process = await asyncio.create_subprocess_exec(
            *(*leash, *command),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=errors,
            limit=_LINE_LIMIT,
            cwd=ROOT,
            env=environment(),
        )
        running = Probe(name, process, errors)
        try:
            yield running
        finally:
            await running.kill()
