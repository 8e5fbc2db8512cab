"""The four servers that each test of this directory runs on: the dev server as 3.8 and as 3.9, and the real ones.

One server of each for all tests, each of which has a node of its own. `server.features` is what the dev server's table
says about the version: it holds for the real ones, too.
"""

from __future__ import annotations

import contextlib
import itertools
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import pytest

from conformance_subjects import SUBJECTS, Secured, secured
from everlatch.devserver import DevServer
from everlatch.devserver.identities import digest
from everlatch.devserver.versions import FEATURES, Features
from everlatch.testing import Ensemble
from everlatch.types import OPEN_ACL_UNSAFE
from wire_peer import Peer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

    from real_servers import LoopThread

SUPER: Final = b"super:pw"
TICK: Final = 0.1
SHORTEST: Final = 0.2
LONGEST: Final = 20.0
"""Session timeouts, in seconds."""


_NUMBERS: Final = itertools.count(1)


class Subject(NamedTuple):
    """A server that is looked at."""

    address: str
    features: Features
    is_real: bool


@pytest.fixture(scope="session", params=SUBJECTS)
def server(request: pytest.FixtureRequest, loop_thread: LoopThread) -> Iterator[Subject]:
    version, is_real = request.param
    subject: Any
    if is_real:
        subject = Ensemble(
            version=version,
            tick_time=TICK,
            config={
                "DigestAuthenticationProvider.superDigest": digest(SUPER),
                "minSessionTimeout": str(round(SHORTEST * 1000)),
                "maxSessionTimeout": str(round(LONGEST * 1000)),
            },
            java_options=["-Dznode.container.checkIntervalMs=100"],
        )
    else:
        subject = DevServer(
            version=version,
            tick=TICK,
            min_session_timeout=SHORTEST,
            max_session_timeout=LONGEST,
            super_digest=digest(SUPER),
            reap_interval=0.1,
        )
    loop_thread.run(subject.start())
    address = subject.servers[0].address if is_real else subject.address
    yield Subject(address, FEATURES[version], is_real)
    loop_thread.run(subject.close() if is_real else subject.stop())


@pytest.fixture(scope="session", params=SUBJECTS)
def welcoming(
    request: pytest.FixtureRequest, loop_thread: LoopThread, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Secured]:
    """With SASL and TLS; who doesn't authenticate is welcome, too."""
    with secured(*request.param, loop_thread, tmp_path_factory.mktemp("secured")) as subject:
        yield subject


@pytest.fixture
async def peers(server: Subject) -> AsyncIterator[Callable[[], Awaitable[Peer]]]:
    """Opens sessions, which are closed when the test ends."""
    async with contextlib.AsyncExitStack() as stack:

        async def open_session() -> Peer:
            peer = await stack.enter_async_context(Peer.to(server.address))
            await peer.shake_hands(timeout_ms=round(LONGEST * 1000))
            return peer

        yield open_session


@pytest.fixture
async def peer(peers: Callable[[], Awaitable[Peer]]) -> Peer:
    return await peers()


@pytest.fixture
async def other(peers: Callable[[], Awaitable[Peer]]) -> Peer:
    return await peers()


@pytest.fixture
async def root(other: Peer) -> str:
    """A node for this test alone."""
    path = f"/test-{next(_NUMBERS)}"
    await other.do("create", path, b"", OPEN_ACL_UNSAFE, 0)
    return path
