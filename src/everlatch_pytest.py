"""The pytest plugin of everlatch: a ZooKeeper for your tests, and its failures. pytest loads it by itself wherever
everlatch is installed (entry point `pytest11`).

    async def test_my_service(zookeeper_client):
        await zookeeper_client.create("/config", b"1")

    zookeeper             a server for the whole run: the dev server, or what `--zookeeper` says
    zookeeper_chroot      a node on it of this test's own
    zookeeper_client      an `everlatch.Client`, connected, in that node
    zookeeper_proxy       an `everlatch.testing.Proxy` in front of it
    zookeeper_ensemble    three servers for this test alone, to be killed and started again
    zookeeper_simulation  `everlatch.testing.simulation.simulation`, with the seed that `--zookeeper-seed` gives

`zookeeper`, `zookeeper_chroot` and `zookeeper_simulation` are for every test, whatever client it tests. The others live
on the event loop of the test, which pytest-asyncio (in either mode, with any loop scope) or anyio (on asyncio) runs.

Rule of this module: it stands outside of the package, and imports nothing of it before a fixture is used. pytest loads
plugins before coverage has started, and everybody's runs, not only those that need a ZooKeeper. What the fixtures are
made of is in `everlatch.testing.pytest_plugin`.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop
    from collections.abc import Awaitable, Callable, Iterator
    from typing import Literal, TypeAlias

    from everlatch.client import Client
    from everlatch.testing.either_ensemble import EitherEnsemble
    from everlatch.testing.proxy import Proxy
    from everlatch.testing.pytest_plugin import Chroot, Simulations, ZooKeeper

    Scope: TypeAlias = Literal["function", "class", "module", "package", "session"]

__all__ = [
    "pytest_addoption",
    "zookeeper",
    "zookeeper_chroot",
    "zookeeper_client",
    "zookeeper_ensemble",
    "zookeeper_proxy",
    "zookeeper_simulation",
]


def pytest_addoption(parser: pytest.Parser) -> None:
    """The options of the command line."""
    group = parser.getgroup("everlatch", "ZooKeeper for tests (everlatch)")
    group.addoption(
        "--zookeeper",
        default="devserver",
        metavar="WHICH",
        help="What the fixture `zookeeper` is: devserver (the default: in memory, without Java), 3.8 or 3.9 (a real "
        "server, started for the run), or host:port,host:port/chroot of one that runs.",
    )
    group.addoption(
        "--zookeeper-seed",
        metavar="SEED",
        help="The seed of `zookeeper_simulation`, to replay a failure; left out: another one each time.",
    )


# --- for every test -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def zookeeper(request: pytest.FixtureRequest) -> Iterator[ZooKeeper]:
    """A ZooKeeper for the whole run: `.address` is its connect string. Shared by all tests: see `zookeeper_chroot`."""
    from everlatch.testing.pytest_plugin import running

    with running(request.config.getoption("--zookeeper")) as found:
        yield found


@pytest.fixture
def zookeeper_chroot(zookeeper: ZooKeeper) -> Iterator[Chroot]:
    """A node of this test's own, removed afterwards: `.address` is the connect string with it as the chroot."""
    with zookeeper.chroot() as chroot:
        yield chroot


@pytest.fixture
def zookeeper_simulation(request: pytest.FixtureRequest) -> Simulations:
    """`with zookeeper_simulation() as world:` is `everlatch.testing.simulation.simulation`. A failure tells how to
    replay it."""
    from everlatch.testing.pytest_plugin import Simulations

    simulations = Simulations(request.node.nodeid, request.config.getoption("--zookeeper-seed"))
    # pytest shows it for a test that fails.
    request.node.add_report_section("call", "zookeeper_simulation", f"replay: {simulations.replay_command}")
    return simulations


# --- on the loop of the test ----------------------------------------------------------------------------------------


@pytest.fixture
def zookeeper_client(zookeeper_chroot: Chroot, _zookeeper_loop: AbstractEventLoop) -> Iterator[Client]:
    """An `everlatch.Client`, connected, in a chroot of this test's own. Its calls take 30 s at most."""
    from everlatch.testing.pytest_plugin import client_for, entered

    with entered(client_for(zookeeper_chroot), _zookeeper_loop) as client:
        yield client


@pytest.fixture
def zookeeper_proxy(zookeeper: ZooKeeper, _zookeeper_loop: AbstractEventLoop) -> Iterator[Proxy]:
    """An `everlatch.testing.Proxy` in front of `zookeeper` (the first server, if there are several), for faults."""
    from everlatch.testing.proxy import Proxy
    from everlatch.testing.pytest_plugin import entered

    with entered(Proxy(zookeeper.servers[0]), _zookeeper_loop) as proxy:
        yield proxy


@pytest.fixture
def zookeeper_ensemble(request: pytest.FixtureRequest, _zookeeper_loop: AbstractEventLoop) -> Iterator[EitherEnsemble]:
    """Three servers for this test alone, to be killed and started: dev servers, or real ones if `--zookeeper` names a
    version. `.address`, `.servers`, `await .leader()`, `await .server_of(client)`."""
    from everlatch.testing.either_ensemble import EitherEnsemble
    from everlatch.testing.pytest_plugin import entered, real_version

    ensemble = EitherEnsemble(3, version=real_version(request.config.getoption("--zookeeper")))
    with entered(ensemble, _zookeeper_loop) as started:
        yield started


@pytest.fixture
def _zookeeper_loop(request: pytest.FixtureRequest) -> AbstractEventLoop:
    # The loop stands still between fixtures and test, so that fixtures which aren't asynchronous themselves can run
    # something on it. That way there is one of each, and not one for each plugin and scope.
    loop: AbstractEventLoop = request.getfixturevalue(_fixture_of_loop(request))
    return loop


def _fixture_of_loop(request: pytest.FixtureRequest) -> str:
    plugins = request.config.pluginmanager
    marker = request.node.get_closest_marker("asyncio")
    if marker is not None and _knows_loop_scopes() and plugins.hasplugin("asyncio"):
        default = request.config.getini("asyncio_default_test_loop_scope")
        return f"_zookeeper_asyncio_{marker.kwargs.get('loop_scope') or default}_loop"
    if "anyio_backend" in request.fixturenames and plugins.hasplugin("anyio"):
        return "_zookeeper_anyio_loop"
    pytest.fail(
        f"{request.node.nodeid}: this fixture needs the event loop of an asynchronous test, run by pytest-asyncio "
        "(1.0 or later) or anyio. `zookeeper` and `zookeeper_chroot` are for all others.",
        pytrace=False,
    )


def _knows_loop_scopes() -> bool:
    try:
        major, _, _ = version("pytest-asyncio").partition(".")
    except PackageNotFoundError:
        return False
    return int(major) >= 1


if _knows_loop_scopes():
    import pytest_asyncio

    def _loop_of(scope: Scope) -> Callable[[], Awaitable[AbstractEventLoop]]:
        # Explicitly one of pytest-asyncio's: in its strict mode it cares for no others.
        @pytest_asyncio.fixture(loop_scope=scope, name=f"_zookeeper_asyncio_{scope}_loop")
        async def running_loop() -> AbstractEventLoop:
            from asyncio import get_running_loop

            return get_running_loop()

        return running_loop

    _function_loop = _loop_of("function")
    _class_loop = _loop_of("class")
    _module_loop = _loop_of("module")
    _package_loop = _loop_of("package")
    _session_loop = _loop_of("session")


@pytest.fixture
async def _zookeeper_anyio_loop(anyio_backend_name: str) -> AbstractEventLoop:
    from asyncio import get_running_loop

    if anyio_backend_name != "asyncio":
        pytest.fail(f"everlatch runs on asyncio, not on {anyio_backend_name}: anyio_backend='asyncio'", pytrace=False)
    return get_running_loop()
