"""A sequence again, as the scripts do that a finding comes with."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from conformance.campaign import compare
from conformance.running import run
from conformance.servers import pair

if TYPE_CHECKING:
    from collections.abc import Sequence

    from conformance.steps import Step

__all__ = ["replay"]


def replay(version: str, steps: Sequence[Step]) -> None:
    """Runs the steps on a fresh dev server and a fresh real one; prints what both say, and the first difference."""
    asyncio.run(_replay(version, steps))


async def _replay(version: str, steps: Sequence[Step]) -> None:
    async with pair(version) as servers:
        difference, _ = await compare(servers, steps)
        for name, control in ((f"ZooKeeper {servers.release}", servers.real), ("dev server", servers.dev)):
            print(f"--- {name}")
            for stream, items in (await run(control, steps)).streams.items():
                print(stream, *items, sep="\n    ")
    print("no difference" if difference is None else f"DIFFERENCE: {difference.render()}")
