"""P1, connected, where the only server left is one without a quorum: what is better than nothing, and what isn't."""

from __future__ import annotations

import asyncio

from everlatch import State
from everlatch.testing.simulation import simulation


def test_a_read_only_server_that_is_behind_is_not_asked_in_a_loop() -> None:
    """It refuses who has seen more than it has. (It used to be dialled 170 times a second.)"""
    with simulation(5) as world:
        world.ensemble(3, read_only_mode=True, tick=0.5)
        app = world.host("app")

        async def main() -> None:
            async with app.client(read_only=True, session_timeout=2.0, start_timeout=60.0) as client:
                await client.create("/a", b"1")
                await client.sync()
                follower = next(server for server in world.servers if not server.is_leading)
                follower.crash()
                await client.set("/a", b"2")
                for server in world.servers:
                    if server is follower:
                        server.start()
                    else:
                        server.crash()
                await world.until(lambda: client.state is State.LOST)
                before = client.statistics().connection_attempts
                await asyncio.sleep(10.0)
                attempts = client.statistics().connection_attempts - before
                assert attempts < 200, "three servers, and half a second at most between two rounds"
                for server in world.servers:
                    server.start()
                await client.set("/a", b"3")

        world.run(main(), on=app)
