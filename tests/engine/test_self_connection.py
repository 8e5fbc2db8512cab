"""A dial that reaches itself is no connection."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING

import pytest

from everlatch import Client, StartError

if TYPE_CHECKING:
    from collections.abc import Callable

    from everlatch.engine.transport import Link
    from everlatch.session.servers import Address


class SelfDialer:
    """What the kernel does, rarely, with a port of the outgoing range on which nobody listens, done on purpose."""

    async def dial(self, address: Address, make_link: Callable[[], Link]) -> None:
        loop = asyncio.get_running_loop()
        own = socket.socket()
        own.setblocking(False)
        own.bind(("127.0.0.1", 0))
        await loop.sock_connect(own, own.getsockname())
        await loop.create_connection(make_link, sock=own)


async def test_a_connection_to_itself_counts_as_refused_and_not_as_an_expired_session() -> None:
    client = Client("127.0.0.1:2181")
    client._engine._dialer = SelfDialer()
    with pytest.raises(StartError, match="our own socket"):
        await client.start()
