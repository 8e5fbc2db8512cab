"""The pytest plugin, as users have it: test suites of their own, run by a pytest of their own."""

from __future__ import annotations

import asyncio
import os
import re
from pathlib import Path

import pytest

from everlatch.client import Client
from everlatch.errors import InvalidConnectStringError, NoAuthError
from everlatch.testing import ZooKeeperNotFoundError
from everlatch.testing.builds import cache_directory
from everlatch.testing.pytest_plugin import LoopThread, Simulations, ZooKeeper, running
from everlatch.types import CREATOR_ALL_ACL

pytest_plugins = ["pytester"]

CACHE = str(cache_directory().parent)
"""Where real servers are; pytester gives its tests another home."""
ASYNCIO = ("-p", "no:anyio", "-o", "asyncio_mode=auto", "-o", "asyncio_default_fixture_loop_scope=function")
ANYIO = ("-p", "no:asyncio")
NEITHER = (*ANYIO, "-p", "no:anyio")


def passed(pytester: pytest.Pytester, *arguments: str, **outcomes: int) -> str:
    """Runs the suite, which must end like this; what it said."""
    result = pytester.runpytest_subprocess("-q", "-W", "error", *arguments, timeout=180)
    result.assert_outcomes(**outcomes)
    return result.stdout.str()


# --- what it costs those who don't use it ---------------------------------------------------------------------------


def test_nothing_of_the_library_is_imported_before_a_fixture_is_used(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(
        """
        import sys

        def imported():
            assert "everlatch_pytest" in sys.modules
            return [name for name in sys.modules if name.split(".")[0] == "everlatch"]

        def check(*_, **__):
            assert imported() == []

        pytest_configure = pytest_sessionstart = pytest_collection_finish = check
        check()
        """
    )
    pytester.makepyfile(
        """
        from conftest import imported

        def test_one(request):
            assert imported() == []
            assert request.getfixturevalue("zookeeper").address
            assert "everlatch.devserver" in imported()
        """
    )
    passed(pytester, *NEITHER, passed=1)


# --- for every test -------------------------------------------------------------------------------------------------


def test_tests_without_a_loop_have_a_server_and_a_node_of_their_own(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import pytest
        from kazoo.client import KazooClient

        addresses = set()

        @pytest.mark.parametrize("number", range(2))
        def test_own_node(number, zookeeper, zookeeper_chroot):
            zk = KazooClient(zookeeper_chroot.address)
            zk.start(20)
            assert zk.get_children("/") == []
            zk.create("/a/b/c", makepath=True)
            zk.create("/e", ephemeral=True)
            if number:
                zk.stop()
                zk.close()
            addresses.add(zookeeper.address)
            assert zookeeper.servers == (zookeeper.address,)
            assert zookeeper_chroot.address == zookeeper.address + zookeeper_chroot.path

        def test_nothing_is_left(zookeeper):
            zk = KazooClient(zookeeper.address)
            zk.start(20)
            assert zk.get_children("/") == ["zookeeper"]
            zk.stop()
            zk.close()
            assert addresses == {zookeeper.address}
        """
    )
    passed(pytester, *NEITHER, passed=3)


def test_a_test_without_a_loop_is_told_what_it_can_have(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_plain(zookeeper_client): pass")
    said = passed(pytester, *NEITHER, errors=1)
    assert "test_plain: this fixture needs the event loop of an asynchronous test" in said
    assert "`zookeeper` and `zookeeper_chroot` are for all others." in said


# --- on the loop of the test ----------------------------------------------------------------------------------------

FIXTURES = """
    import asyncio
    import pytest
    {imports}

    @{fixture}
    async def app{scope}(zookeeper_client):
        await zookeeper_client.create("/app", b"1")
        yield zookeeper_client
        await zookeeper_client.delete("/app")

    {mark}
    class Test{scope}:
        async def test_one(self, app{scope}):
            assert await app{scope}.children("/") == ["app"]

        async def test_the_next_one_has_another_node(self, app{scope}, zookeeper):
            assert await app{scope}.children("/") == ["app"]
            session = app{scope}.session_id
            await zookeeper.expire_session(app{scope})
            while app{scope}.session_id == session:
                await asyncio.sleep(0.001)
            await app{scope}.create("/e", ephemeral=True)
"""
PLAIN = FIXTURES.format(imports="", fixture="pytest.fixture", scope="", mark="")
SCOPES = ("function", "class", "module", "package", "session")


def test_with_pytest_asyncio_in_auto_mode(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(PLAIN)
    passed(pytester, *ASYNCIO, passed=2)


def test_with_pytest_asyncio_in_strict_mode_on_loops_of_all_scopes(pytester: pytest.Pytester) -> None:
    suites = {
        f"test_{scope}": FIXTURES.format(
            imports="import pytest_asyncio",
            fixture=f"pytest_asyncio.fixture(loop_scope={scope!r})",
            scope=scope,
            mark=f"@pytest.mark.asyncio(loop_scope={scope!r})",
        )
        for scope in SCOPES
    }
    pytester.makepyfile(**suites)
    passed(pytester, *ASYNCIO, "-o", "asyncio_mode=strict", passed=2 * len(SCOPES))


def test_with_pytest_asyncio_and_another_loop_scope_for_all(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(PLAIN)
    session = [f"asyncio_default_{which}_loop_scope=session" for which in ("test", "fixture")]
    passed(pytester, *ASYNCIO, *(word for setting in session for word in ("-o", setting)), passed=2)


def test_with_anyio(pytester: pytest.Pytester) -> None:
    pytester.makeconftest("import pytest\n\n@pytest.fixture\ndef anyio_backend():\n    return 'asyncio'\n")
    pytester.makepyfile(
        FIXTURES.format(imports="", fixture="pytest.fixture", scope="", mark="@pytest.mark.anyio"),
    )
    passed(pytester, *ANYIO, passed=2)


def test_with_anyio_on_another_loop_than_asyncio_s(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import pytest

        @pytest.fixture
        def anyio_backend():
            return "asyncio"

        @pytest.fixture
        def anyio_backend_name():
            return "trio"

        @pytest.mark.anyio
        async def test_one(zookeeper_client):
            pass
        """
    )
    assert "everlatch runs on asyncio, not on trio" in passed(pytester, *ANYIO, errors=1)


def test_a_proxy_fails_as_it_is_told(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import pytest
        from everlatch import Client, OutcomeUnknownError
        from everlatch.testing import Op

        async def test_one(zookeeper_proxy, zookeeper_chroot, zookeeper_client):
            async with Client(zookeeper_proxy.address + zookeeper_chroot.path) as client:
                zookeeper_proxy.lose_reply(Op.CREATE2)
                with pytest.raises(OutcomeUnknownError):
                    await client.create("/a")
                assert await zookeeper_client.children("/") == ["a"]
        """
    )
    passed(pytester, *ASYNCIO, passed=1)


# --- other servers --------------------------------------------------------------------------------------------------


ENSEMBLE = """
    from everlatch import Client
    from everlatch.admin import srvr

    async def test_one(zookeeper, zookeeper_client):
        assert (await srvr(zookeeper.address)).version.numbers[:2] == (3, 9)
        assert await zookeeper_client.children("/") == []

    async def test_three(zookeeper_ensemble):
        async with Client(zookeeper_ensemble.address, default_timeout=20) as client:
            server = await zookeeper_ensemble.server_of(client)
            await server.kill()
            assert await client.children("/") == ["zookeeper"]
            assert await zookeeper_ensemble.leader() is not server
        assert type(zookeeper_ensemble.inner).__name__ == "{kind}"
"""


@pytest.mark.parametrize(
    ("which", "kind"), [("devserver", "DevEnsemble"), pytest.param("3.9", "Ensemble", marks=pytest.mark.real)]
)
def test_servers_and_ensembles_of_both_kinds(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, which: str, kind: str
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", CACHE)
    pytester.makepyfile(ENSEMBLE.format(kind=kind))
    passed(pytester, *ASYNCIO, f"--zookeeper={which}", passed=2)


async def test_a_server_that_runs_already_is_left_as_it_was(pytester: pytest.Pytester, zookeeper: ZooKeeper) -> None:
    pytester.makepyfile(
        """
        async def test_one(zookeeper, zookeeper_chroot, zookeeper_client, zookeeper_proxy):
            assert zookeeper.address.endswith("/base")
            assert zookeeper_chroot.path.startswith("/base/test-")
            await zookeeper_client.create("/a")
        """
    )
    async with Client(zookeeper.address, default_timeout=20.0) as client:
        await asyncio.to_thread(passed, pytester, *ASYNCIO, f"--zookeeper={zookeeper.address}/base", passed=1)
        assert await client.children("/base") == []
        await client.delete("/base")


def test_what_can_not_be_removed_is_told(zookeeper: ZooKeeper) -> None:
    async def protect(address: str) -> None:
        async with Client(address) as client:
            await client.add_auth("digest", b"bob:secret")
            await client.create("/bobs", acl=CREATOR_ALL_ACL)
            await client.create("/bobs/a")

    with LoopThread() as thread:
        with zookeeper.chroot() as chroot:  # of ours: it goes with the server
            thread.run(protect(chroot.address))
        with (
            running(f"{zookeeper.address}/theirs") as theirs,
            pytest.raises(NoAuthError) as refused,
            theirs.chroot() as chroot,
        ):
            thread.run(protect(chroot.address))
    assert refused.value.__notes__ == [f"{chroot.path.removeprefix('/theirs')} of a test is left on {theirs.address}"]


def test_a_version_that_is_not_here_and_a_server_that_can_not_be() -> None:
    with pytest.raises(ZooKeeperNotFoundError, match=r"1\.2"), running("1.2"):
        pass
    with pytest.raises(InvalidConnectStringError), running("localhost:many"):
        pass


# --- simulations ----------------------------------------------------------------------------------------------------

SIMULATED = """
    def test_one(zookeeper_simulation):
        digests = set()
        for _ in range(2):
            with zookeeper_simulation() as world:
                server, app = world.server(), world.host("app")

                async def main():
                    async with app.client() as client:
                        await client.create("/a")

                world.run(main(), on=app)
            digests.add(world.digest())
        print("digests", digests)
        assert {claim}
"""


def digests(said: str) -> str:
    (found,) = re.findall("^digests .*$", said, re.MULTILINE)
    return found


def test_a_simulation_that_fails_tells_how_to_replay_it_and_then_does_the_same(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("EVERLATCH_SEED", raising=False)
    file = pytester.makepyfile(SIMULATED.format(claim="len(digests) == 2"))
    said = passed(pytester, *NEITHER, failed=1)
    seeds = re.findall(rf"^replay: pytest '{file.name}::test_one' --zookeeper-seed=(\d+)$", said, re.MULTILINE)
    assert len(seeds) == 1
    again = passed(pytester, *NEITHER, f"--zookeeper-seed={seeds[0]}", failed=1)
    assert f"--zookeeper-seed={seeds[0]}" in again
    assert digests(again) == digests(said)
    assert digests(passed(pytester, *NEITHER, "--zookeeper-seed=another", failed=1)) != digests(said)


def test_seeds_that_are_told_come_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EVERLATCH_SEED", raising=False)

    def seed(simulations: Simulations, *own: str) -> int | str:
        with simulations(*own) as world:
            assert f"--zookeeper-seed={world.seed}" in world.replay_command
            return world.seed

    assert seed(Simulations("test", None), "mine") == "mine"
    assert Simulations("test", None).seed != Simulations("test", None).seed
    told = Simulations("test", "5")
    assert seed(told) == seed(told, "mine") == "5"
    monkeypatch.setenv("EVERLATCH_SEED", "6")
    assert seed(Simulations("test", "5"), "mine") == os.environ["EVERLATCH_SEED"]


# --- the how-to -----------------------------------------------------------------------------------------------------


def examples() -> dict[str, str]:
    """The files of the how-to: a name in backticks, a colon, and a block of code."""
    text = (Path(__file__).parents[2] / "docs" / "how-to" / "test-your-application.md").read_text()
    return dict(re.findall(r"`([\w.]+)`:\n\n```\w+\n(.*?)```\n", text, re.DOTALL))


def test_the_examples_of_the_how_to_pass(pytester: pytest.Pytester) -> None:
    files = examples()
    assert set(files) == {
        "worker.py",
        "pytest.ini",
        "test_worker.py",
        "test_lost_reply.py",
        "test_failover.py",
        "test_pause.py",
    }
    for name, code in files.items():
        pytester.path.joinpath(name).write_text(code)
    passed(pytester, "-p", "no:anyio", passed=4)
