"""A loop for tests whose clock jumps: when nothing is left to do but wait, the time waited for has come.

Rules: everything that a test waits for happens in its own process, on this loop and over loopback sockets, so that
"nothing is ready" means that only time can help. Names are resolved by `loop.names`, never by a thread. A test that
waits for what can't happen fails at once instead of hanging.

`simulated` runs an async test on it; `on_every_loop` runs one on asyncio's own loop and on uvloop as well, in real
time; `on_real_loops` on those two alone, for tests that fill sockets: after a full one the kernel may wait for
timers of its own, whose time can't be skipped. All fail a test that leaves an error to the loop's exception handler.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import selectors
import socket
from typing import TYPE_CHECKING, Any

import pytest
import uvloop

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

_LOOPBACK = 0.002
"""Real seconds that bytes may take from one socket of this machine to another."""
_DEADLOCK = 5.0
"""Real seconds to wait for something that has no time to come."""
_LONGEST_TEST = 3600.0
"""Virtual seconds."""


class _Selector(selectors.DefaultSelector):
    """Skips the time that it is told to wait, if nothing happens."""

    loop: SkippingLoop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            ready = super().select(_DEADLOCK)
            assert ready, "the test waits for something that can't happen"
            return ready
        ready = super().select(min(timeout, _LOOPBACK))
        if not ready and timeout > 0:
            self.loop.skip(timeout)
        return ready


class SkippingLoop(asyncio.SelectorEventLoop):
    virtual_time = True

    def __init__(self) -> None:
        selector = _Selector()
        selector.loop = self
        self._now = 1000.0
        self.names: dict[str, Callable[[], Awaitable[list[str]]]] = {}
        """Host name → what resolves it."""
        super().__init__(selector)

    def time(self) -> float:
        return self._now

    def skip(self, seconds: float) -> None:
        """Lets time pass, as if the loop had been blocked for so long."""
        self._now += seconds
        assert self._now < 1000.0 + _LONGEST_TEST, "the test waits for something that doesn't happen"

    async def getaddrinfo(self, host: Any, port: Any, **_: Any) -> Any:
        ips = await self.names[host]()
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (ip, port)) for ip in ips]


def this_loop() -> SkippingLoop:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, SkippingLoop)
    return loop


def run(loop_factory: Callable[[], asyncio.AbstractEventLoop], main: Coroutine[Any, Any, None]) -> None:
    errors: list[dict[str, Any]] = []
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.get_loop().set_exception_handler(lambda _, context: errors.append(context))
        runner.run(main)
    assert not errors, errors


def simulated(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Runs an async test on a `SkippingLoop`."""

    @functools.wraps(test)
    def wrapper(*args: Any, **kwargs: Any) -> None:
        run(SkippingLoop, test(*args, **kwargs))

    return wrapper


def _on(factories: dict[str, Callable[[], asyncio.AbstractEventLoop]]) -> Callable[..., Callable[..., None]]:
    def decorate(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
        @functools.wraps(test)
        def wrapper(*args: Any, loop_factory: Callable[[], asyncio.AbstractEventLoop], **kwargs: Any) -> None:
            run(loop_factory, test(*args, **kwargs))

        signature = inspect.signature(test)
        extra = inspect.Parameter("loop_factory", inspect.Parameter.KEYWORD_ONLY)
        wrapper.__signature__ = signature.replace(parameters=[*signature.parameters.values(), extra])  # type: ignore[attr-defined]
        return pytest.mark.parametrize("loop_factory", factories.values(), ids=factories)(wrapper)

    return decorate


_REAL: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.SelectorEventLoop,
    "uvloop": uvloop.new_event_loop,
}
on_real_loops = _on(_REAL)
on_every_loop = _on(_REAL | {"skipping": SkippingLoop})
