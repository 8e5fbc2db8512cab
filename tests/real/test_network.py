"""Servers and clients on hosts of their own: what happens when links go silent, and that nothing is left behind."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from everlatch import Client, InvalidArgumentError, OutcomeUnknownError, State
from everlatch.testing import EnsembleError, NetworkEnsemble, NetworkUnavailableError, Op, Proxy, Server, namespaces
from everlatch.testing.namespaces import VirtualNetwork
from real.faults import States, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

# The servers belong to the loop that started them, so all tests here share one.
pytestmark = [pytest.mark.real, pytest.mark.asyncio(loop_scope="module")]

PATIENCE = 30.0
SYNC_LIMIT = 2.0
"""Seconds after which a follower that doesn't hear its leader gives up: four ticks of half a second."""
ENVIRONMENT = {"PYTHONPATH": os.pathsep.join(sys.path)}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def three_hosts() -> AsyncIterator[NetworkEnsemble]:
    async with NetworkEnsemble(3, config={"syncLimit": "4"}) as network:
        yield network


@pytest_asyncio.fixture(loop_scope="module")
async def network(three_hosts: NetworkEnsemble) -> AsyncIterator[NetworkEnsemble]:
    """Three servers, all well: whatever a test has done to them is healed before the next."""
    await make_well(three_hosts)
    yield three_hosts
    await make_well(three_hosts)


async def make_well(network: NetworkEnsemble) -> None:
    await network.heal()
    for server in network.servers:
        server.resume()
        if not server.running:
            await server.start(wait=False)
    await network.wait_serving()
    await network.leader()
    async with asyncio.timeout(PATIENCE):
        while len(await network.followers()) < len(network.servers) - 1:
            await asyncio.sleep(0.02)


def through(*servers: Server, session_timeout: float = 10.0) -> Client:
    addresses = ",".join(server.address for server in servers)
    return Client(addresses, session_timeout=session_timeout, default_timeout=PATIENCE)


def trial(name: str) -> str:
    return f"/{name}-{time.monotonic_ns()}"


async def until_leader(network: NetworkEnsemble, among: list[Server]) -> Server:
    async with asyncio.timeout(PATIENCE):
        while True:
            for server in among:
                if await server.mode() == "leader":
                    return server
            await asyncio.sleep(0.05)


# --- links --------------------------------------------------------------------------------------------------------


async def test_a_client_moves_when_the_link_of_its_server_is_down(network: NetworkEnsemble) -> None:
    followers = await network.followers()
    async with through(*followers, session_timeout=3) as client:
        changes = States()
        client.add_listener(changes)
        session_id = client.session_id
        used = await network.server_of(session_id)
        await network.link_down(used)
        await changes.until(State.SUSPENDED)
        await changes.until(State.CONNECTED)
        await client.create(trial("moved"))
        assert client.session_id == session_id
        assert await network.server_of(session_id) in set(followers) - {used}
        assert used.running, "it lives, and nobody hears it"
        assert await used.mode() is None
        await network.link_up(used)
        await used.wait_serving()


async def test_a_follower_cut_from_its_leader_keeps_its_clients_until_it_gives_up(network: NetworkEnsemble) -> None:
    leader, (follower, _) = await network.leader(), await network.followers()
    path = trial("cut")
    async with through(leader) as witness, through(follower) as reader, through(follower) as writer:
        await witness.create(path, b"old")
        await reader.sync(path)
        changes = States()
        reader.add_listener(changes)

        cut_at = time.monotonic()
        await network.cut_from_leader(follower)
        await witness.set(path, b"new")
        writing = writer.set(path, b"not heard")
        while State.SUSPENDED not in changes.states and not writing.done():
            last = asyncio.ensure_future(reader.get(path))
            await until(lambda: last.done() or State.SUSPENDED in changes.states)  # noqa: B023
            if State.SUSPENDED not in changes.states:
                assert (await last).data == b"old", "it answers from what it knows"
                answered_at = time.monotonic()
        assert answered_at - cut_at > SYNC_LIMIT / 2, "for as long as it waits for its leader"
        assert await follower.mode() is None
        assert (await witness.get(path)).data == b"new"

        await network.heal()
        await follower.wait_serving()
        await reader.sync(path)
        with pytest.raises(OutcomeUnknownError):  # the node has been changed, and nothing shows by whom
            await writing
        assert (await last).data in (b"old", b"new")
        assert (await reader.get(path)).data == b"new"


async def test_only_a_follower_can_be_cut_from_its_leader(network: NetworkEnsemble) -> None:
    with pytest.raises(EnsembleError, match="is not a follower but leader"):
        await network.cut_from_leader(await network.leader())


async def test_the_majority_elects_a_leader_when_the_old_one_is_partitioned_off(network: NetworkEnsemble) -> None:
    old, followers = await network.leader(), await network.followers()
    path = trial("partition")
    async with through(*followers) as client, through(old) as minority:
        await client.create(path)
        await minority.sync(path)
        lost = States()
        minority.add_listener(lost)
        await network.partition({old}, followers)
        new = await until_leader(network, followers)
        await client.set(path, b"of the majority", timeout=PATIENCE)
        await lost.until(State.SUSPENDED)
        assert await old.mode() is None, "a leader without a quorum serves nobody"

        await network.heal()
        await network.wait_serving()
        assert await network.leader() is new
        assert await old.mode() == "follower"
        await minority.sync(path)
        assert (await minority.get(path)).data == b"of the majority"


async def test_this_process_may_be_partitioned_off_as_well(network: NetworkEnsemble) -> None:
    ask = "import sys, asyncio; from everlatch import admin; print(asyncio.run(admin.srvr(sys.argv[1])).mode)"
    async with through(*network.servers, session_timeout=3) as client:
        used = await network.server_of(client.session_id)
        role = await used.mode()
        moved = States()
        client.add_listener(moved)
        await network.partition({"test"}, {used})
        await moved.until(State.CONNECTED)
        assert await used.mode() is None
        assert await network.server_of(client.session_id) is not used
        command = [sys.executable, "-c", ask, used.address]
        process = await network.start_client("asks", command, environment=ENVIRONMENT)
        assert await process.wait(PATIENCE) == 0
        assert process.output.strip() == role, "everybody else hears it"
        await network.heal()
        assert await used.mode() == role


async def test_partitions_add_up_until_they_are_healed(network: NetworkEnsemble) -> None:
    one, two, three = network.servers
    await network.partition({"test"}, {one})
    await network.partition(["test"], [two.name, three])
    assert await modes(network) == [None] * 3
    await network.heal()
    assert None not in await modes(network)


async def modes(network: NetworkEnsemble) -> list[str | None]:
    return await asyncio.gather(*(server.mode() for server in network.servers))


# --- processes ----------------------------------------------------------------------------------------------------

MEMBER = """
import asyncio, sys
from everlatch import Client

async def main():
    async with Client(sys.argv[1], session_timeout=2) as client:
        client.add_listener(lambda change: print(change.state.name, flush=True))
        await client.create(sys.argv[2], ephemeral=True)
        print("ready", flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


async def test_client_processes_are_cut_off_paused_killed_and_restarted(network: NetworkEnsemble) -> None:
    async with through(*network.servers) as witness:

        async def until_there(path: str, there: bool) -> None:
            async with asyncio.timeout(PATIENCE):
                while bool(await witness.exists(path)) is not there:
                    await asyncio.sleep(0.02)

        path = trial("member")
        command = [sys.executable, "-c", MEMBER, network.connect_string, path]
        member = await network.start_client("c1", command, environment=ENVIRONMENT)
        assert network.clients[-1] is member
        await member.wait_for_output("ready")
        await until_there(path, True)
        server = await network.server_of((await witness.exists(path)).ephemeral_owner)  # type: ignore[union-attr]
        assert f"/{member.address}:" in await server.four_letter("cons")

        await network.link_down(member)
        await until_there(path, False)
        await member.wait_for_output("LOST")
        await network.link_up("c1")
        await member.wait_for_output("RENEWED")

        await member.restart()
        await until_there(path, True)
        member.pause()
        await until_there(path, False)
        member.resume()
        with pytest.raises(InvalidArgumentError, match=r"c1.* runs; choose another name"):
            await network.start_client("c1", command)

        pid = member.pid
        await member.kill()
        assert (member.running, await member.wait()) == (False, -9)
        assert pid is not None
        assert not exists(pid)
        with pytest.raises(EnsembleError, match="c1 has ended and did not write 'nothing of that kind'"):
            await member.wait_for_output("nothing of that kind")
        again = await network.start_client("c1", command, environment=ENVIRONMENT)
        assert again.address == member.address
        await until_there(path, True)
        await again.stop()
        assert not again.running


async def test_client_processes_may_be_started_at_once(network: NetworkEnsemble) -> None:
    names = ["several-1", "several-2", "several-3"]
    started = await asyncio.gather(*(network.start_client(name, ["cat", "/proc/net/route"]) for name in names))
    assert [await process.wait(PATIENCE) for process in started] == [0] * 3
    assert len({process.address for process in started}) == 3
    assert [len(process.output.splitlines()) for process in started] == [2] * 3, "one route: they reach nothing else"


async def test_servers_are_paused_killed_and_restarted(network: NetworkEnsemble) -> None:
    leader, (follower, _) = await network.leader(), await network.followers()
    follower.pause()
    assert await follower.mode() is None
    follower.resume()
    await follower.wait_serving()
    await leader.kill()
    others = [server for server in network.servers if server is not leader]
    await until_leader(network, others)
    await leader.start()
    await follower.restart()
    assert follower.address in network.connect_string
    assert await follower.mode() in ("follower", "leader")


async def test_a_proxy_stands_before_a_server_for_client_processes_too(network: NetworkEnsemble) -> None:
    path = trial("proxied")
    async with (
        Proxy(network.servers[0].address, host=network.address) as proxy,
        through(*network.servers) as witness,
    ):
        slow = proxy.delay(0.05)
        command = [sys.executable, "-c", MEMBER, proxy.address, path]
        member = await network.start_client("c2", command, environment=ENVIRONMENT)
        await member.wait_for_output("ready")
        await slow.happened()
        assert [request.path for request in proxy.seen(Op.CREATE2, client=member.address)] == [path]
        await witness.sync()  # it may be at a server that is behind
        assert await witness.exists(path)
        await member.kill()


# --- what can't be ------------------------------------------------------------------------------------------------


async def test_what_makes_no_sense_is_refused(network: NetworkEnsemble) -> None:
    one, two, _ = network.servers
    idle = await network.start_client("idle", ["sleep", "100"])
    with pytest.raises(EnsembleError, match="started already"):
        await network.start()
    for host in ("server-4", one.address, 1, None):
        with pytest.raises(InvalidArgumentError, match="host"):
            await network.link_down(host)  # type: ignore[arg-type]
    with pytest.raises(InvalidArgumentError, match="idle is not on the network 'peers'"):
        await network.link_down(idle, "peers")
    with pytest.raises(InvalidArgumentError, match="links is one of"):
        await network.link_down(one, "all")  # type: ignore[arg-type]
    groups: list[list[object]] = [
        [{one}],
        [{one}, {one, two}],
        [{one}, set()],
        [{one, two}, "test"],
        [[one, one], [two]],
    ]
    for wrong in groups:
        with pytest.raises(InvalidArgumentError, match="group"):
            await network.partition(*wrong)  # type: ignore[arg-type]
    for name in ("server-1", "test", "switch", "a/b", "", "x" * 40):
        with pytest.raises(InvalidArgumentError, match="name"):
            await network.start_client(name, ["true"])
    missing = await network.start_client("missing", ["/no/such/command"])
    assert await missing.wait(PATIENCE) != 0
    assert "/no/such/command" in missing.output


async def test_before_its_start_and_after_its_end_there_is_no_network() -> None:
    network = NetworkEnsemble()
    await network.close()
    for attempt in (network.heal(), network.link_up("test"), network.start_client("c1", ["true"])):
        with pytest.raises(EnsembleError, match="no network before it is started"):
            await attempt
    with pytest.raises(EnsembleError):
        assert network.address


# --- nothing is left behind ---------------------------------------------------------------------------------------


def state_of_the_machine() -> dict[str, set[str]]:
    """What runs of this kind may leave, with what others have at this moment."""
    links = subprocess.run(["ip", "-brief", "link"], capture_output=True, text=True, check=True).stdout
    spaces = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout
    return {
        "links": {line.split()[0] for line in links.splitlines() if line.startswith("everlatch")},
        "namespaces": {line.split()[0] for line in spaces.splitlines()},
        "claims": {path.name for path in Path("/var/run").glob("everlatch*.lock")},
    }


def of_number(machine: dict[str, set[str]], prefix: str) -> list[str]:
    own = re.compile(rf"{prefix}([-.@].*)?")
    return [name for names in machine.values() for name in names if own.fullmatch(name)]


def prefix_of(network: NetworkEnsemble) -> str:
    """What the names of all that it has begin with."""
    return "everlatch{}".format(network.address.split(".")[2])


def exists(pid: int) -> bool:
    """A zombie is none: whoever has adopted it may reap it late."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


WITH_A_CHILD = """
import subprocess, time
print("child", subprocess.Popen(["sleep", "1000"]).pid, flush=True)
time.sleep(1000)
"""


async def test_nothing_is_left_behind_a_failure() -> None:
    network = NetworkEnsemble(1)
    pids: list[int] = []
    logs: list[Path] = []

    async def trouble() -> None:
        async with network:
            prefix = prefix_of(network)
            found = of_number(state_of_the_machine(), prefix)
            assert {f"{prefix}-server-1", f"{prefix}-switch", f"{prefix}.lock"} < set(found)
            (server,) = network.servers
            parent = await network.start_client("parent", [sys.executable, "-c", WITH_A_CHILD])
            child = int((await parent.wait_for_output("child")).split()[1])
            await network.link_down(server)
            await network.partition({server}, {"test"})
            logs.extend([server.log_path, parent.log_path])
            pids.extend([server.pid or 0, parent.pid or 0, child])
            assert all(exists(pid) for pid in pids)
            raise ZeroDivisionError(prefix)

    with pytest.raises(ZeroDivisionError) as raised:
        await trouble()
    assert of_number(state_of_the_machine(), str(raised.value)) == []
    assert [pid for pid in pids if exists(pid)] == []
    assert [log for log in logs if log.exists()] == []
    await network.close()


@pytest.fixture
def prefix(monkeypatch: pytest.MonkeyPatch) -> str:
    """What the names will begin with of all that the next network has: its number is one that nobody uses."""
    used = " ".join(name for names in state_of_the_machine().values() for name in names)
    free = next(number for number in range(255, 0, -1) if f"everlatch{number}" not in used)
    monkeypatch.setattr(namespaces, "_NUMBERS", range(free, free + 1))
    return f"everlatch{free}"


async def test_nothing_is_left_behind_a_start_that_fails(prefix: str) -> None:
    with pytest.raises(EnsembleError, match="NumberFormatException"):
        await NetworkEnsemble(1, config={"tickTime": "soon"}).start()
    assert of_number(state_of_the_machine(), prefix) == []


@pytest.mark.parametrize("moment", ["when the first namespace is there", "when a server runs"])
async def test_nothing_is_left_behind_a_start_that_is_cancelled(prefix: str, moment: str) -> None:
    network = NetworkEnsemble(1)
    starting = asyncio.create_task(network.start())
    if moment == "when a server runs":
        await until(lambda: network.servers and network.servers[0].pid)
    else:
        await until(lambda: f"{prefix}-switch" in state_of_the_machine()["namespaces"])
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert of_number(state_of_the_machine(), prefix) == []


KILLED = """
import asyncio, os, signal
from everlatch.testing import namespaces
from everlatch.testing.namespaces import VirtualNetwork

async def main():
    network = await VirtualNetwork.create()
    host = await network.add_host("c1", "clients")
    sleeping = (*network.prefix(host), "sleep", "1000")
    process = await asyncio.create_subprocess_exec(*sleeping, stdout=asyncio.subprocess.DEVNULL)
    print(host.namespace, process.pid, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main())
"""


async def test_the_next_run_removes_what_a_killed_one_has_left() -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", KILLED, stdout=subprocess.PIPE, env=os.environ | ENVIRONMENT
    )
    told, _ = await process.communicate()
    namespace, pid = told.decode().split()
    assert process.returncode == -9
    assert exists(int(pid))
    assert namespace in state_of_the_machine()["namespaces"]
    first = await VirtualNetwork.create()
    try:
        assert namespace not in state_of_the_machine()["namespaces"]
        assert not exists(int(pid))
        second = await VirtualNetwork.create()
        try:
            addresses = [network.address(network.host("test"), "clients") for network in (first, second)]
            assert len(set(addresses)) == 2, "the living leave each other alone"
        finally:
            await second.close()
    finally:
        await first.close()
    await first.close()


# --- machines on which it can't be --------------------------------------------------------------------------------


async def test_without_iproute2_the_error_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("everlatch.testing.namespaces.shutil.which", lambda *_, **__: None)
    with pytest.raises(NetworkUnavailableError, match=r"command `ip` was not found.*apt-get install iproute2"):
        await NetworkEnsemble().start()


async def test_without_root_the_error_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(NetworkUnavailableError, match="`ip netns add` needs root, and this process runs as user 1000"):
        async with NetworkEnsemble():
            pass


async def test_on_another_system_the_error_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(NetworkUnavailableError, match="on Linux only, not on darwin"):
        await NetworkEnsemble().start()


async def test_a_command_that_fails_is_quoted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    forbidding = tmp_path / "ip"
    forbidding.write_text(
        "#!/bin/sh\n"
        'case "$*" in *route*) echo "[]"; exit 0;; esac\n'
        'echo "RTNETLINK answers: Operation not permitted" >&2\necho "Command failed -:1" >&2\nexit 2\n'
    )
    forbidding.chmod(0o755)
    monkeypatch.setattr("everlatch.testing.namespaces.find_ip", lambda: str(forbidding))
    with pytest.raises(NetworkUnavailableError, match=r"`ip netns add everlatch\d+-switch` failed: RTNETLINK ans"):
        await VirtualNetwork.create()
