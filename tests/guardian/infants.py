"""Processes that die young: `infants.py SERVERS PATH SECONDS…`.

One after the other, each starts a client with a guardian, and makes ephemeral nodes below PATH as fast as it can; after
so many seconds the kernel ends it. Says `dead` of each, with the number of nodes that it knew of. They are forked off
one process, for a start takes longer than all the rest.
"""

from __future__ import annotations

import asyncio
import mmap
import os
import signal
import sys

from everlatch import Client


async def live(servers: str, path: str, seconds: float, made: mmap.mmap) -> None:
    client = Client(servers, session_timeout=20.0, guardian=True)
    signal.setitimer(signal.ITIMER_REAL, seconds)  # whose signal has no handler
    await client.start()
    for number in range(250):
        await client.create(f"{path}/{os.getpid()}-{number}", ephemeral=True)
        made[0] = number + 1
    await asyncio.Event().wait()


def main(servers: str, path: str, *delays: str) -> None:
    made = mmap.mmap(-1, 1)
    for delay in delays:
        made[0] = 0
        pid = os.fork()
        if pid == 0:
            asyncio.run(live(servers, path, float(delay), made))
        _, status = os.waitpid(pid, 0)
        assert os.waitstatus_to_exitcode(status) == -signal.SIGALRM, status
        print("dead", made[0], flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
