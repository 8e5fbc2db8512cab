"""One process that a test has started, and what may happen to it: it is frozen, killed, restarted.

Rules of this module: a process is ended by its pid and always waited for; nothing here blocks the event loop; what it
says goes into a file, so that nobody has to read it for it to go on, and errors have the end of that. Where `setpriv`
exists (every Debian), the kernel ends the process together with the thread that started it, so that not even a killed
test run leaves one behind.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
from typing import IO, TYPE_CHECKING, Final

from everlatch.errors import EverlatchError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

__all__ = ["POLL", "ClientProcess", "EnsembleError", "Process"]

POLL: Final = 0.02
"""Seconds between two looks at what a process doesn't announce."""
_STOP_TIMEOUT: Final = 10.0


class EnsembleError(EverlatchError):
    """A server or another process did not do what it was told to; the message has the end of its log."""


class Process:
    """A command that can be started again and again. Its log outlives it.

    Signals go to the process itself, not to what it has started: have the program itself run, not a shell around it.
    """

    def __init__(
        self, name: str, command: Sequence[str], log_path: Path, environment: Mapping[str, str] | None = None
    ) -> None:
        self.name = name
        """What errors call it."""
        self.log_path = log_path
        """Where everything goes that it writes to its standard output and error."""
        self._command = command
        self._environment = environment
        self._process: asyncio.subprocess.Process | None = None
        self._paused = False

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name} {self._state}>"

    @property
    def _state(self) -> str:
        return "paused" if self.paused else f"pid {self.pid}" if self.running else "down"

    @property
    def pid(self) -> int | None:
        """The process id, `None` while it is down."""
        return self._process.pid if self._process is not None and self.running else None

    @property
    def running(self) -> bool:
        """Whether there is a process; a paused one counts."""
        return self._process is not None and self._process.returncode is None

    @property
    def paused(self) -> bool:
        """Whether the process is frozen by `pause()`."""
        return self._paused and self.running

    async def stop(self) -> None:
        """Ends the process as an administrator would (SIGTERM); does nothing if it is down. After ten seconds it is
        killed."""
        if self._process is None or not self.running:
            return
        self._send(signal.SIGTERM)
        # A frozen process takes the signal only when it goes on.
        self.resume()
        try:
            async with asyncio.timeout(_STOP_TIMEOUT):
                await self._process.wait()
        except TimeoutError:
            await self.kill()

    async def kill(self) -> None:
        """Ends the process without warning (SIGKILL) and waits for its death; does nothing if it is down."""
        # No SIGCONT: a frozen process dies all the same, and must not work off what it has received meanwhile.
        self._send(signal.SIGKILL)
        if self._process is not None:
            await self._process.wait()

    def pause(self) -> None:
        """Freezes the process (SIGSTOP): its connections stay open and nothing is answered. Not to be awaited.

        It returns when the last of its threads stands still, which takes microseconds, longer on a busy machine.
        """
        self._send(signal.SIGSTOP)
        if self._process is not None and self.running:
            # Another thread of it may be answering on another core. One that has died meanwhile is left for its reaper.
            with contextlib.suppress(ChildProcessError):
                os.waitid(os.P_PID, self._process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
        self._paused = self.running

    def resume(self) -> None:
        """Lets a frozen process go on (SIGCONT)."""
        self._send(signal.SIGCONT)
        self._paused = False

    def log_tail(self, lines: int = 40) -> str:
        """The last lines of the log."""
        return "\n".join(self._read_log().splitlines()[-lines:])

    async def _launch(self) -> None:
        """Starts the process, with a new log or at the end of the old one."""
        if self.running:
            raise EnsembleError(f"{self!r} runs already")
        self._paused = False
        # The kernel's own leash: it kills the process when the thread that started it ends, however it ends.
        setpriv = shutil.which("setpriv")
        leash = [setpriv, "--pdeathsig", "KILL"] if setpriv else []
        with _append_to(self.log_path) as log:
            self._process = await asyncio.create_subprocess_exec(
                *leash,
                *self._command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=asyncio.subprocess.STDOUT,
                env=None if self._environment is None else os.environ | dict(self._environment),
            )

    def _send(self, number: signal.Signals) -> None:
        if self._process is not None and self.running:
            # The process may have died a moment ago; there is nothing left to signal then.
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)

    def _read_log(self) -> str:
        try:
            return self.log_path.read_text(errors="replace")
        except FileNotFoundError:
            return "(no log yet)"

    def _error(self, problem: str) -> EnsembleError:
        code = None if self._process is None else self._process.returncode
        ended = "" if code is None else f" (exit code {code})"
        return EnsembleError(f"{self.name} {problem}{ended}; its log:\n{self.log_tail()}")


class ClientProcess(Process):
    """Any command, with an address of its own in a `NetworkEnsemble`, which starts it."""

    def __init__(
        self,
        name: str,
        address: str,
        command: Sequence[str],
        log_path: Path,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(name, command, log_path, environment)
        self.address = address
        """The IP address that servers see."""

    @property
    def output(self) -> str:
        """All that it has written so far, that of earlier starts included."""
        return self._read_log() if self.log_path.exists() else ""

    async def start(self) -> None:
        """Starts the command; returns when the process is there. Raises `EnsembleError` if it runs already."""
        await self._launch()

    async def restart(self) -> None:
        """Stops the process, if it runs, and starts the command again."""
        await self.stop()
        await self.start()

    async def wait(self, timeout: float | None = None) -> int:
        """Returns the exit code when the process has ended by itself, −9 if it was killed. Raises `TimeoutError` after
        so many seconds, `EnsembleError` if it was never started."""
        if self._process is None:
            raise self._error("was never started")
        async with asyncio.timeout(timeout):
            return await self._process.wait()

    async def wait_for_output(self, text: str, timeout: float = 30.0) -> str:
        """Returns `output` when this text is in it. Raises `EnsembleError` when the process ends without having
        written it, or after so many seconds."""
        try:
            async with asyncio.timeout(timeout):
                while text not in self.output:
                    # It may have written it and ended between the two looks.
                    if not self.running and text not in self.output:
                        raise self._error(f"has ended and did not write {text!r}")
                    await asyncio.sleep(POLL)
        except TimeoutError:
            raise self._error(f"has not written {text!r} after {timeout:g} s") from None
        return self.output


def _append_to(path: Path) -> IO[bytes]:
    return path.open("ab")
