"""What the torture has found in the proxy, reduced."""

from __future__ import annotations

import asyncio
import socket
import struct

from everlatch.testing import Proxy

RESET = struct.pack("ii", 1, 0)


async def test_an_end_that_comes_late_meets_a_connection_that_has_just_been_reset():
    loop = asyncio.get_running_loop()
    errors = []
    loop.set_exception_handler(lambda _, context: errors.append(context))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        host, port = listener.getsockname()
        async with Proxy(f"{host}:{port}") as proxy:
            hole = proxy.black_hole("to_server")
            _, writer = await asyncio.open_connection(*proxy.address.split(":"))
            accepted, _ = await loop.sock_accept(listener)
            writer.write_eof()
            await hole.happened()
            # No turn of the loop in between, in which the proxy could hear of it.
            accepted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            accepted.close()
            proxy.heal()
            await proxy.until(lambda: not proxy.connections)
            writer.close()
    assert errors == []
