"""A mechanism whose steps are made in threads, and a client that is given up, or closed, at every moment of them."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from typing import Any

import pytest

from everlatch import Client, DigestMd5, EverlatchError
from everlatch.devserver import DevServer
from everlatch.types import State

USERS = {"bob": "secret"}


class Slow:
    """DIGEST-MD5 in threads; `hold` keeps one there."""

    name = "SLOW-MD5"
    is_blocking = True

    def __init__(self) -> None:
        self.go = threading.Event()
        self.go.set()
        self.begun = 0

    def begin(self, host: str) -> Any:
        exchange = DigestMd5("bob", "secret").begin(host)
        honest = exchange.step

        def step(challenge: bytes | None) -> bytes | None:
            self.begun += 1
            assert self.go.wait(10)
            return honest(challenge)

        exchange.step = step  # type: ignore[method-assign]
        return exchange

    def keep_fresh(self) -> None:
        return None


async def turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0.0005)


@pytest.mark.parametrize("how", ["cancelled", "closed", "closed and given up"])
async def test_at_every_moment(how: str) -> None:
    errors: list[Any] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: errors.append(context))
    async with DevServer(sasl=USERS, require_auth=True) as server:
        tasks = asyncio.all_tasks()
        served = 0
        for moment in range(24):
            client = Client(server.address, sasl=Slow(), session_timeout=4.0)
            starting = asyncio.ensure_future(client.start())
            await turns(moment)
            if how == "cancelled":
                starting.cancel()
            else:
                closing = asyncio.ensure_future(client.close())
                if how == "closed and given up":
                    await asyncio.sleep(0)
                    closing.cancel()
                    with contextlib.suppress(asyncio.CancelledError):
                        await closing
            with contextlib.suppress(EverlatchError, asyncio.CancelledError):
                await asyncio.wait_for(starting, 10)
                served += 1
            await client.close()
            assert client.state is State.CLOSED
        assert served or how == "cancelled"
        while left := asyncio.all_tasks() - tasks:
            await asyncio.wait(left, timeout=5)
    assert errors == []


async def test_one_that_hangs_holds_up_nobody() -> None:
    """Not the closing, nor another client with the same mechanism, on another loop."""
    async with DevServer(sasl=USERS, require_auth=True) as server:
        mechanism = Slow()
        mechanism.go.clear()
        client = Client(server.address, sasl=mechanism, session_timeout=4.0)
        await client.start(wait=False)
        while not mechanism.begun:
            await asyncio.sleep(0.001)
        async with asyncio.timeout(5):
            await client.close()
        mechanism.go.set()

        async def other() -> None:
            async with Client(server.address, sasl=mechanism) as another:
                await another.get("/")

        await asyncio.to_thread(asyncio.run, other())
