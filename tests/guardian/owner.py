"""A process that is guarded: `owner.py SERVERS TIMEOUT CLIENTS PATH`.

Starts so many clients with a guardian; each makes an ephemeral node `PATH/NUMBER`. Says `up GUARDIAN-PID`. Then it does
what it is told by its input, a function's name a line, and says so. The end of its input ends it. More options of its
clients, as Python has them, come by the environment: OPTIONS; and what is to be done first: BEFORE.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import multiprocessing
import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

from everlatch import Client, DigestMd5  # noqa: F401 (options may have it)
from everlatch.kerberos import Kerberos  # noqa: F401 (so may they)

if TYPE_CHECKING:
    from collections.abc import Awaitable

SLEEPER = [sys.executable, "-c", "import time; time.sleep(60)"]
clients: list[Client] = []


def say(*words: object) -> None:
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


def fork() -> None:
    """A child that lives on."""
    pid = os.fork()
    if pid == 0:
        time.sleep(60)
        os._exit(0)
    say("forked", pid)


async def fork_and_leave() -> None:
    """A child that leaves all blocks that it is in, and ends as programs do, while its parent waits for replies."""
    replies = [asyncio.create_task(client.children("/")) for client in clients]
    await asyncio.sleep(0)  # now they are asked for
    pid = os.fork()
    if pid == 0:
        sys.exit(7)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])  # noqa: ASYNC222 (nothing is read meanwhile)
    await asyncio.gather(*replies)
    say("forked", code)


def daemonize() -> None:
    """As daemons do it: two forks, and all descriptors are closed but the standard ones."""
    if os.fork():
        os._exit(0)
    os.setsid()
    if os.fork():
        os._exit(0)
    os.closerange(3, 4096)
    say("daemon", os.getpid())
    time.sleep(60)
    os._exit(0)


def daemonize_by_c() -> None:
    """As native code does it: Python hears of no fork."""
    pid = ctypes.PyDLL(None).fork()
    if pid:
        say("daemon", pid)
        os._exit(0)
    time.sleep(60)
    os._exit(0)


def replace() -> None:
    """Another program takes this one's place."""
    say("replaced", os.getpid())
    os.execv(sys.executable, SLEEPER)


def spawn() -> None:
    say("spawned", subprocess.Popen(SLEEPER).pid)


def spawn_with_hook() -> None:
    say("spawned", subprocess.Popen(SLEEPER, preexec_fn=os.setsid).pid)


def spawn_by_os() -> None:
    say("spawned", os.spawnv(os.P_NOWAIT, sys.executable, SLEEPER))


def multiprocess() -> None:
    child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
    child.start()
    say("spawned", child.pid)


def close_descriptors() -> None:
    os.closerange(3, 4096)
    say("closed", os.getpid())
    time.sleep(60)
    os._exit(0)


async def close() -> None:
    for client in clients:
        await client.close()
    say("closed", clients[0].guardian_pid)


def guardian() -> None:
    say("guardian", clients[0].guardian_pid, clients[0].guardian_restarts)


def session() -> None:
    say("session", clients[0].session_id)


async def make() -> None:
    """Another node."""
    say("made", (await clients[0].create("/owned/again", ephemeral=True)).stat.ephemeral_owner)


async def connections() -> None:
    """How many there have been; each client has used its own before."""
    for client in clients:
        await client.exists("/")
    say("connections", sum(client.connections for client in clients))


async def main(servers: str, timeout: str, count: str, path: str) -> None:
    orders = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(orders), sys.stdin)
    exec(os.environ.get("BEFORE", ""))
    options: dict[str, Any] = eval(os.environ.get("OPTIONS", "{}"))
    clients.extend(Client(servers, session_timeout=float(timeout), guardian=True, **options) for _ in range(int(count)))
    async with contextlib.AsyncExitStack() as stack:
        await asyncio.gather(*(stack.enter_async_context(client) for client in clients))
        await asyncio.gather(*(client.create(f"{path}/{n}", ephemeral=True) for n, client in enumerate(clients)))
        for client in clients:
            await stack.enter_async_context(client.watch_data(path))
        say("up", clients[0].guardian_pid)
        while order := (await orders.readline()).decode().strip():
            done: Awaitable[None] | None = globals()[order]()
            if done is not None:
                await done
        os._exit(0)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
