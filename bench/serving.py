"""A dev server as a process of its own, on one core: `python -m bench.serving LOOP CORE`.

Prints where it listens; for each line on stdin, the seconds of CPU that it has used; ends with stdin.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import time

from everlatch.devserver import DevServer

__all__ = ["LOOPS", "main"]

LOOPS = ("asyncio", "uvloop")


async def _serve() -> None:
    lines = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    async with DevServer() as server:
        print(server.address, flush=True)
        while await lines.readline():
            print(time.process_time(), flush=True)


def main() -> None:
    """Serve."""
    parser = argparse.ArgumentParser(prog="python -m bench.serving", description="A dev server on one core.")
    parser.add_argument("loop", choices=LOOPS)
    parser.add_argument("core", type=int)
    chosen = parser.parse_args()
    os.sched_setaffinity(0, {chosen.core})
    if chosen.loop == "uvloop":
        import uvloop

        uvloop.run(_serve())
    else:
        asyncio.run(_serve())


if __name__ == "__main__":
    main()
