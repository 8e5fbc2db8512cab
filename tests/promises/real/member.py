"""A member of an election in a process of its own: `member.py CONNECT-STRING SESSION-TIMEOUT LATCH-PATH NAME`.
How it gets in, `promises.access` knows, by the environment.

It tells what it believes, one line each, with the time of `CLOCK_BOOTTIME`, which all processes of a machine share:

    <time> state <STATE> <session id>         a change of state
    <time> leads                              it believes that it leads
    <time> follows <time>                     it doesn't; it did at the second time, and not after the first
    <time> woke <is_leader> <time left>       its first look after a look that was long ago: it was paused
    <time> wrote <token> <number> <zxid>      its write, guarded by its own latch node, was done
    <time> unknown <token> <number> <error>   it may have been
    <time> refused <token> <number> <error>   it was not

A thread looks all the time, for the event loop may be what is late. The time is taken before the look: so whoever reads
this knows that the belief was held at that time or later, however long the process was paused in between.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time

from everlatch import Client, ClientStateError, EverlatchError, OutcomeUnknownError
from everlatch.recipes.leader_latch import LeaderLatch
from promises.access import options_of_process

LOOK_EVERY = 0.002
PAUSED = 0.5
"""Seconds between two looks after which the process must have been paused."""


def now() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def tell(moment: float, *words: object) -> None:
    """In one piece: there are two threads."""
    os.write(1, f"{moment:.6f} {' '.join(map(str, words))}\n".encode())


class Observer(threading.Thread):
    """Looks whether the latch believes that it leads."""

    def __init__(self, client: Client, latch: LeaderLatch) -> None:
        super().__init__(daemon=True)
        self._client, self._latch = client, latch

    def run(self) -> None:
        believed, believed_at, looked_at = False, 0.0, now()
        while True:
            moment = now()
            leads = self._latch.is_leader
            if moment - looked_at > PAUSED:
                tell(moment, "woke", leads, self._client.session_time_left)
            looked_at = moment
            if leads and not believed:
                tell(moment, "leads")
            elif believed and not leads:
                tell(moment, "follows", f"{believed_at:.6f}")
            believed = leads
            believed_at = moment if leads else believed_at
            time.sleep(LOOK_EVERY)


async def write(client: Client, latch: LeaderLatch, register: str) -> None:
    """Writes all the time, as a leader that never asks whether it still is one; only the fence is in its way."""
    number, node, token = 0, "", 0
    while True:
        if latch.is_leader:
            node, token = latch.node, latch.token
        if not node:
            await asyncio.sleep(0.01)
            continue
        number += 1
        value = f"{token} {number}"
        fenced = client.transaction()
        fenced.check(node)
        done = fenced.set(register, value.encode())
        try:
            await fenced.commit()
        except OutcomeUnknownError as error:
            tell(now(), "unknown", value, type(error).__name__)
        except EverlatchError as error:
            tell(now(), "refused", value, type(error).__name__)
            node = ""
        else:
            tell(now(), "wrote", value, done.result.mzxid)
        await asyncio.sleep(0.02)


async def main(servers: str, session_timeout: str, path: str, name: str) -> None:
    async with (
        Client(servers, session_timeout=float(session_timeout), **options_of_process()) as client,
        LeaderLatch(client, f"{path}/latch", name) as latch,
    ):
        client.add_listener(lambda change: tell(now(), "state", change.state.name, change.session_id))
        Observer(client, latch).start()
        tell(now(), "ready", client.session_id)
        try:
            await write(client, latch, f"{path}/register")
        except ClientStateError:
            return


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
