import asyncio
import socket

import pytest

from everlatch.testing.simulation import simulation


async def look_up(name):
    found = await asyncio.get_running_loop().getaddrinfo(name, 2181, type=socket.SOCK_STREAM)
    return [sockaddr for *_, sockaddr in found]


def test_names_resolve_and_move():
    async def main():
        assert await look_up("zk1") == [(host.ip, 2181)]
        world.names["zk1"] = ["10.0.0.8", "10.0.0.9"]
        assert await look_up("zk1") == [("10.0.0.8", 2181), ("10.0.0.9", 2181)]
        assert await look_up("127.0.0.1") == [("127.0.0.1", 2181)]
        assert await look_up("::1") == [("::1", 2181)]
        with pytest.raises(socket.gaierror):
            await look_up("nobody")

    with simulation(1) as world:
        host = world.host("zk1")
        world.run(main())
        assert any("zk1 now resolves to 10.0.0.8, 10.0.0.9" in entry.text for entry in world.log)


def test_names_fail():
    async def main():
        world.names.fail("zk1")
        with pytest.raises(socket.gaierror, match="Temporary"):
            await look_up("zk1")
        world.names.fail("zk1", OSError("mine"))
        with pytest.raises(OSError, match="mine"):
            await look_up("zk1")
        world.names.restore("zk1")
        assert await look_up("zk1")

    with simulation(1) as world:
        world.host("zk1")
        world.run(main())


def test_names_hang():
    async def main():
        world.names.hang("zk1")
        lookup = asyncio.create_task(look_up("zk1"))
        given_up = asyncio.create_task(look_up("zk1"))
        await asyncio.sleep(100)
        assert not lookup.done()
        given_up.cancel()
        await asyncio.sleep(0)
        world.names.restore_all()
        assert await lookup

    with simulation(1) as world:
        world.host("zk1")
        world.run(main())
