"""Steps of SASL that may take their time, made in threads; and what keeps tickets from running out.

Rules:
1. One thread at a time. A step that asks a server (Kerberos: the KDC) can't be interrupted, and may outlive the attempt
   that asked for it; were every attempt to begin its own, a KDC that is down would soon have many. It is a daemon, and
   none of the loop's executor: that is waited for when the loop and the interpreter end.
2. A step whose attempt has gone is not begun; what it would have found is nobody's.
3. Tickets are renewed while the client is connected, so that a reconnect needs no KDC. That it fails is no reason to
   leave a server: it is logged, and tried again; unless whoever knows has refused the credentials.
4. A mechanism may be anybody's code: whatever it raises or returns, it can't end the loop, stop it, or keep it busy.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import threading
from typing import TYPE_CHECKING, Any, Final

from everlatch.errors import describe
from everlatch.sasl import SaslRefusedError

if TYPE_CHECKING:
    from collections.abc import Callable

    from everlatch.engine.engine import Engine
    from everlatch.sasl import SaslMechanism
    from everlatch.session.actions import ComputeToken

__all__ = ["Tokens"]

logger = logging.getLogger("everlatch")

_RETRY: Final = 30.0
"""Seconds after which a renewal that failed is tried again."""
_SHORTEST: Final = 1.0
_LONGEST: Final = 86400.0
"""Seconds between two renewals, whatever the mechanism says."""


class Tokens:
    """The threads of one client's SASL mechanism."""

    def __init__(self, engine: Engine, mechanism: SaslMechanism) -> None:
        self._engine = engine
        self._mechanism = mechanism
        self._thread: asyncio.Future[Any] | None = None
        self._step: asyncio.Task[None] | None = None
        self._keeping: asyncio.Task[None] | None = None

    def compute(self, request: ComputeToken) -> None:
        """Makes a step and tells the session what it has come to. The step before is of a connection that is gone."""
        if self._step is not None:
            self._step.cancel()
        self._step = asyncio.get_running_loop().create_task(self._compute(request))

    async def _compute(self, request: ComputeToken) -> None:
        exchange, challenge = request.step
        session, now = self._engine.session, self._engine.now
        try:
            token = await self._in_thread(lambda: exchange.step(challenge))
        except Exception as error:  # a mechanism may be anybody's code
            session.token_failed(request.conn, error, now())
        else:
            session.token_computed(request.conn, token, now())
        self._engine.hurry()

    async def _in_thread(self, work: Callable[[], Any]) -> Any:
        while self._thread is not None and not self._thread.done():
            await asyncio.wait({self._thread})
        outcome = self._thread = _begin(work)
        await asyncio.wait({outcome})  # cancelling this leaves it running
        return outcome.result()

    def connected(self) -> None:
        """There is a connection: from now on tickets are kept fresh."""
        if self._keeping is not None:
            return
        try:
            renew = self._mechanism.keep_fresh()
        except Exception as error:  # a mechanism may be anybody's code
            logger.warning("%s can't be renewed: %s", self._mechanism.name, describe(error))
            return
        if renew is not None:
            self._keeping = asyncio.get_running_loop().create_task(self._keep_fresh(renew))

    async def _keep_fresh(self, renew: Callable[[], float]) -> None:
        while True:
            try:
                pause = _pause(await self._in_thread(renew))
            except SaslRefusedError as error:
                logger.error("%s is not renewed any more: %s", self._mechanism.name, describe(error))
                return
            except Exception as error:  # a mechanism may be anybody's code
                logger.warning("%s could not be renewed, and is tried again: %s", self._mechanism.name, describe(error))
                pause = _RETRY
            await asyncio.sleep(pause)

    def ended(self) -> None:
        """There will be no connection any more."""
        for task in (self._step, self._keeping):
            if task is not None:
                task.cancel()

    async def close(self) -> None:
        """Nothing is begun any more. A thread that is at it goes on by itself."""
        self.ended()
        tasks = {task for task in (self._step, self._keeping) if task is not None}
        if tasks:
            await asyncio.wait(tasks, timeout=1.0)


def _pause(seconds: object) -> float:
    """Until the next renewal. Raises `TypeError` for what is no time."""
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or math.isnan(seconds):
        raise TypeError(f"it is to say in how many seconds it is due again, not {type(seconds).__name__}")
    return float(min(max(seconds, _SHORTEST), _LONGEST))


def _begin(work: Callable[[], Any]) -> asyncio.Future[Any]:
    """Starts a thread; its outcome is nobody's if the loop has ended by then."""
    loop = asyncio.get_running_loop()
    outcome: asyncio.Future[Any] = loop.create_future()
    # One that is left behind is not asked how it ended; asyncio would complain.
    outcome.add_done_callback(lambda ended: ended.exception())

    def run() -> None:
        try:
            settle, result = outcome.set_result, work()
        except BaseException as error:
            settle, result = outcome.set_exception, _of_a_thread(error)
        with contextlib.suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(settle, result)

    threading.Thread(target=run, name="everlatch-sasl", daemon=True).start()
    return outcome


def _of_a_thread(error: BaseException) -> Exception:
    """What may be raised in a task: `SystemExit` would end the loop, `CancelledError` the task, and a future doesn't
    take `StopIteration` (before Python 3.12)."""
    if isinstance(error, Exception) and not isinstance(error, StopIteration):
        return error
    told = RuntimeError(f"{type(error).__name__} was raised: {error}")
    told.__cause__ = error
    return told
