"""The deputy's program: ends sessions at servers that demand Kerberos. See `deputy`, which starts it.

Rules:
1. A session at a time has a thread: what the Kerberos library asks of a KDC may take its time.
2. Sessions of the same client's tickets share them, so that a KDC is asked once.
3. A password that the KDC refuses is not offered again: accounts are locked for less.
4. Nothing is printed: a traceback could show a secret.
"""

from __future__ import annotations

import contextlib
import marshal
import os
import queue
import threading
import time
from typing import TYPE_CHECKING, Any, NoReturn

from everlatch.guardian.connection import Certificates
from everlatch.guardian.exchange import FailedError, Session, sasl_request, sasl_token
from everlatch.guardian.farewell import MOST_AT_ONCE, close_sessions
from everlatch.guardian.names import Names
from everlatch.sasl import SaslRefusedError, SaslTokenError

if TYPE_CHECKING:
    from typing import BinaryIO

    from everlatch.guardian.exchange import Script
    from everlatch.kerberos import Kerberos
    from everlatch.sasl import SaslMechanism

__all__ = ["Closings", "main", "prove"]

_FAILED = 70
_SOON = 0.5
"""Seconds that a thread may take to see that its time is over."""


def prove(mechanism: SaslMechanism, host: str) -> Script:
    """The tokens of one connection, as `exchange.goodbye` has it. Raises `FailedError`, `SaslRefusedError`."""
    exchange = mechanism.begin(host)
    try:
        token = exchange.step(b"")
        is_first = True
        while token is not None:
            answer = sasl_token((yield sasl_request(token)))
            if is_first and answer is None:
                raise FailedError  # not set up for it
            is_first = False
            token = exchange.step(answer)
    except SaslRefusedError:
        raise
    except SaslTokenError as error:
        raise FailedError from error


class Closings:
    """The sessions that are being ended."""

    def __init__(self) -> None:
        self.failed = False
        """Whether there was one that could not even be tried."""
        self._threads: list[threading.Thread] = []
        self._waiting: queue.SimpleQueue[tuple[float, Session] | None] = queue.SimpleQueue()
        self._deadline = 0.0
        self._lock = threading.Lock()
        self._mechanisms: dict[Any, Kerberos] = {}

    def begin(self, died_at: float, session: Session) -> None:
        """Ends it, in a thread."""
        self._deadline = max(self._deadline, died_at + session.timeout)
        self._waiting.put((died_at, session))
        if len(self._threads) < MOST_AT_ONCE:
            thread = threading.Thread(target=self._work, daemon=True)
            self._threads.append(thread)
            thread.start()

    def wait(self) -> None:
        """There are no more. Returns when all are gone, or their time has passed."""
        for _ in self._threads:
            self._waiting.put(None)
        for thread in self._threads:
            thread.join(max(0.0, self._deadline + _SOON - time.monotonic()))

    def _work(self) -> None:
        names = Names()
        while (found := self._waiting.get()) is not None:
            try:
                self._end(*found, names)
            except SaslRefusedError:
                pass  # rule 3
            except BaseException:
                self.failed = True

    def _end(self, died_at: float, session: Session, names: Names) -> None:
        mechanism = self._mechanism(session.kerberos)
        session.prove = lambda host: prove(mechanism, host)
        certificates = {} if session.tls is None else {session.tls: Certificates(session.tls)}
        close_sessions([session], certificates, died_at, names=names)

    def _mechanism(self, words: Any) -> Kerberos:
        from everlatch.kerberos import Kerberos

        with self._lock:
            if words not in self._mechanisms:
                principal, keytab, password, ccache, service, server_host = words
                self._mechanisms[words] = Kerberos(
                    principal,
                    keytab=keytab,
                    password=password,
                    ccache=ccache,
                    service=service,
                    server_host=server_host,
                )
            return self._mechanisms[words]


def main(source: BinaryIO, directory: str) -> NoReturn:
    """Ends all sessions that come from `source`, until there are no more. Paths are those of `directory`."""
    try:
        with contextlib.suppress(OSError):
            os.chdir(directory)
        closings = Closings()
        for died_at, about in _messages(source):
            closings.begin(died_at, Session(*about))
        closings.wait()
    except BaseException:
        os._exit(_FAILED)
    os._exit(_FAILED if closings.failed else 0)


def _messages(source: BinaryIO) -> Any:
    while True:
        try:
            yield marshal.load(source)  # noqa: S302 (the guardian's; nobody else can write there)
        except EOFError:
            return
