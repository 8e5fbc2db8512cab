"""`everlatch devserver`: serves until a signal ends it.

Rule of this file: the line that says where it listens comes when clients can connect, and not before.
"""

from __future__ import annotations

import asyncio
import signal
import ssl
from typing import TYPE_CHECKING

from everlatch.devserver import DevServer
from everlatch.errors import InvalidArgumentError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

__all__ = ["serve_until_stopped", "tls_context"]


def tls_context(certificate: Path | None, key: Path | None, ca: Path | None) -> ssl.SSLContext | None:
    """TLS with this certificate; with `ca`, clients may show one that it has signed. `None`: no TLS is asked for.

    Raises `InvalidArgumentError` for files that can't be read or don't belong together.
    """
    if certificate is None:
        if key is not None or ca is not None:
            raise InvalidArgumentError("--tls-key and --tls-ca go with --tls-cert, which has the server's certificate")
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(certificate, key, _no_password)
        if ca is not None:
            context.load_verify_locations(ca)
            context.verify_mode = ssl.CERT_OPTIONAL
    except OSError as error:  # `ssl.SSLError` is one
        files = ", ".join(str(file) for file in (certificate, key, ca) if file is not None)
        raise InvalidArgumentError(f"no TLS with {files}: {error.strerror or error}") from error
    return context


def _no_password() -> str:
    raise InvalidArgumentError("the key for --tls-cert is encrypted; the dev server takes one that is not")


async def serve_until_stopped(
    port: int, host: str, version: str, tls: ssl.SSLContext | None, say: Callable[[str], None]
) -> signal.Signals:
    """Serves, says where, and returns the signal (SIGINT or SIGTERM) that ended it. Raises `OSError` if it can't
    listen there."""
    loop = asyncio.get_running_loop()
    stopped: asyncio.Future[signal.Signals] = loop.create_future()

    def stop(number: signal.Signals) -> None:
        if not stopped.done():
            stopped.set_result(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop, number)
    async with DevServer(port, host, tls=tls, version=version) as server:
        say(f"everlatch devserver: ZooKeeper {version} protocol{' over TLS' if tls else ''} on {server.address}")
        say("For development and tests only: everything is in memory, and gone when this ends.")
        return await stopped
