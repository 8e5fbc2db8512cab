"""Promise P11 in the simulation, under all faults; and what they have found."""

from __future__ import annotations

import asyncio

import pytest

from everlatch.errors import ClientClosedError
from everlatch.recipes import LeaderLatch
from everlatch.testing.simulation import simulation
from promises.in_simulation import holds


def test_everything_ends_in_time():
    holds("bounded")


def test_a_member_in_line_hears_at_once_that_its_client_was_closed():
    """Without a timeout it would have waited for ever."""
    with simulation(1) as world:
        server = world.server()
        app = world.host("app")

        async def main():
            async with app.client() as other, LeaderLatch(other, "/latch") as leader:
                await leader.wait()
                client = app.client()
                await client.start()
                latch = LeaderLatch(client, "/latch")
                await latch.start()
                waiting = asyncio.create_task(latch.wait())
                await asyncio.sleep(1.0)  # until it is in line
                server.pause()  # else it would tell of the deletion of the own node
                await client.close(0.0)
                with pytest.raises(ClientClosedError):
                    async with asyncio.timeout(0.1):
                        await waiting
                server.resume()

        world.run(main(), on=app)
