"""Guarded processes as tests see them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from everlatch import NoNodeError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from everlatch import Client

PROGRAM = Path(__file__).with_name("owner.py")
PATIENCE = 20.0


class Owner:
    """A running `owner.py`."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.pid = process.pid
        self.guardian = 0

    async def expect(self, word: str) -> list[int]:
        """The numbers that stand behind a word in the next line."""
        assert self._process.stdout is not None
        async with asyncio.timeout(PATIENCE):
            line = (await self._process.stdout.readline()).decode().split()
        assert line[:1] == [word], line
        return [int(number) for number in line[1:] if number != "None"]

    async def tell(self, order: str, answer: str) -> list[int]:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{order}\n".encode())
        return await self.expect(answer)

    async def kill(self) -> float:
        """Returns the moment just before."""
        moment = time.monotonic()
        os.kill(self.pid, signal.SIGKILL)
        await until_dead(self.pid)
        return moment


@contextlib.asynccontextmanager
async def owner_of(
    servers: str,
    path: str = "/owned",
    *,
    timeout: float = 20.0,
    clients: int = 1,
    wait: bool = True,
    **more: str,
) -> AsyncIterator[Owner]:
    """A guarded process. It, its guardian and all that it has started are dead when the block ends."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, str(PROGRAM), servers, str(timeout), str(clients), path),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env=environment(**more),
        start_new_session=True,
    )
    owner = Owner(process)
    try:
        (owner.guardian,) = await owner.expect("up")
        yield owner
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.communicate()  # until nobody has its output any more, and the pipes are closed
        if owner.guardian and is_alive(owner.guardian):
            os.kill(owner.guardian, signal.SIGKILL)
            await until_dead(owner.guardian)


def environment(**more: str) -> dict[str, str]:
    """Processes import what this one imports."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **more}


def state_of(pid: int) -> str:
    """A letter, as `/proc` has it; empty: there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return ""


def is_alive(pid: int) -> bool:
    """A zombie isn't."""
    return state_of(pid) not in ("", "Z", "X")


async def until_dead(pid: int, *, timeout: float = PATIENCE) -> None:
    async with asyncio.timeout(timeout):
        while is_alive(pid):
            await asyncio.sleep(0.002)


async def until_asleep(pid: int) -> None:
    """Until a process waits for something."""
    async with asyncio.timeout(PATIENCE):
        while state_of(pid) != "S":
            await asyncio.sleep(0.002)


async def until_gone(witness: Client, path: str = "/owned", *, timeout: float = PATIENCE) -> float:
    """When the node had no children any more."""
    async with asyncio.timeout(timeout):
        with contextlib.suppress(NoNodeError):
            while await witness.children(path):
                await asyncio.sleep(0.0005)
    return time.monotonic()


def shown_of(pid: int) -> bytes:
    """What others may see of a process."""
    return b"".join(Path(f"/proc/{pid}/{name}").read_bytes() for name in ("cmdline", "environ"))


def peak_memory(pid: int) -> float:
    """MiB that were resident at most."""
    lines = Path(f"/proc/{pid}/status").read_text("utf-8").splitlines()
    (size,) = [int(line.split()[1]) for line in lines if line.startswith("VmHWM:")]
    return size / 1024
