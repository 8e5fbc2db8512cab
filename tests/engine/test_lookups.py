"""`engine/lookups.py`: one lookup a name at a time, taken up by the next attempt."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest

from everlatch.engine.lookups import Lookups
from everlatch.paths import Endpoint

ZK = Endpoint("zk.example", 2181)


class Resolver:
    """In place of the loop's own: answers when told to, and counts."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: list[tuple[str, int]] = []
        self.answers: list[asyncio.Future[Any]] = []
        loop = asyncio.get_running_loop()

        async def getaddrinfo(host: str, port: int, **_: Any) -> Any:
            self.asked.append((host, port))
            self.answers.append(loop.create_future())
            return await self.answers[-1]

        monkeypatch.setattr(loop, "getaddrinfo", getaddrinfo)

    async def until_asked(self, times: int) -> None:
        while len(self.asked) < times:
            await asyncio.sleep(0)

    @staticmethod
    def found(*ips: str) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (ip, 2181)) for ip in ips]


async def test_each_address_comes_once_and_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    resolver = Resolver(monkeypatch)
    asking = asyncio.create_task(Lookups(asyncio.get_running_loop()).resolve(ZK))
    await resolver.until_asked(1)
    resolver.answers[0].set_result(resolver.found("10.0.0.2", "10.0.0.1", "10.0.0.2"))
    assert await asking == ["10.0.0.2", "10.0.0.1"]


async def test_an_attempt_that_gives_up_leaves_its_lookup_to_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    resolver = Resolver(monkeypatch)
    lookups = Lookups(asyncio.get_running_loop())
    first = asyncio.create_task(lookups.resolve(ZK))
    await resolver.until_asked(1)
    first.cancel()
    await asyncio.wait({first})
    second = asyncio.create_task(lookups.resolve(ZK))
    await asyncio.sleep(0)
    resolver.answers[0].set_result(resolver.found("10.0.0.1"))
    assert await second == ["10.0.0.1"]
    assert resolver.asked == [("zk.example", 2181)]


async def test_an_answer_is_used_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Names move: the next attempt asks again."""
    resolver = Resolver(monkeypatch)
    lookups = Lookups(asyncio.get_running_loop())
    for times, ip in ((1, "10.0.0.1"), (2, "10.0.0.9")):
        asking = asyncio.create_task(lookups.resolve(ZK))
        await resolver.until_asked(times)
        resolver.answers[-1].set_result(resolver.found(ip))
        assert await asking == [ip]


async def test_a_failure_is_raised_and_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    resolver = Resolver(monkeypatch)
    lookups = Lookups(asyncio.get_running_loop())
    asking = asyncio.create_task(lookups.resolve(ZK))
    await resolver.until_asked(1)
    resolver.answers[0].set_exception(socket.gaierror("no such name"))
    with pytest.raises(socket.gaierror):
        await asking
    again = asyncio.create_task(lookups.resolve(ZK))
    await resolver.until_asked(2)
    resolver.answers[1].set_result(resolver.found("10.0.0.1"))
    assert await again == ["10.0.0.1"]


async def test_what_was_left_behind_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    resolver = Resolver(monkeypatch)
    lookups = Lookups(asyncio.get_running_loop())
    asking = asyncio.create_task(lookups.resolve(ZK))
    await resolver.until_asked(1)
    asking.cancel()
    await asyncio.wait({asking})
    lookups.forget()
    again = asyncio.create_task(lookups.resolve(ZK))
    await resolver.until_asked(2)
    resolver.answers[1].set_result(resolver.found("10.0.0.1"))
    assert await again == ["10.0.0.1"]
