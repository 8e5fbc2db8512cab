"""Hosts that are network namespaces of this machine, on switches that are bridges.

    network = await VirtualNetwork.create()
    host = await network.add_host("server-1", "clients", "peers")
    …                                            # run something: [*network.prefix(host), "command"]
    await network.set_link(host, "clients", up=False)
    await network.close()

There are two networks, `clients` (198.18.N.0/24) and `peers` (198.19.N.0/24): the range that is set aside for tests of
network equipment, and that no network uses. Host number k has the addresses that end in k. The bridges live in a
namespace of their own, where no firewall of this machine looks at what passes; this process has an interface on the
first network, and is the host `test`.

Rules of this module:

- N is claimed by a lock on a file beside the namespaces, which the kernel gives back when the process dies, however it
  does. All that is made for N has N in its name; what is found with a number that nobody claims is a dead run's, and
  removed.
- Only what has such a name is ever touched. Only processes in such namespaces are ended, each by its pid.
- A link that is down is a cable pulled at the switch: the host keeps its addresses, its connections don't end, nothing
  answers. Two hosts that are kept apart send each other's frames to a hardware address that nobody has: they vanish
  without a word, in both directions, and everybody else goes on hearing both.
- The commands are those of iproute2. One that fails is an error that quotes it, and what it said.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import itertools
import json
import os
import random
import re
import shutil
import signal
import socket
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, NamedTuple, TypeAlias

from everlatch.errors import EverlatchError, InvalidArgumentError

if sys.platform != "win32":
    import fcntl

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["TEST_HOST", "Host", "NetworkName", "NetworkUnavailableError", "VirtualNetwork", "find_ip"]

NetworkName: TypeAlias = Literal["clients", "peers"]
"""The networks: where servers and clients meet, and where servers talk to each other."""
TEST_HOST: Final = "test"
"""The name of this process's own place on the network `clients`."""

_NETS: Final[dict[str, str]] = {"clients": "198.18", "peers": "198.19"}
_RANGE: Final = ipaddress.IPv4Network("198.18.0.0/15")
_NUMBERS: Final = range(256)
_TEST_NUMBER: Final = 254
_CLAIMS: Final = Path("/var/run")
_NAMESPACES: Final = _CLAIMS / "netns"
"""Where iproute2 keeps them, and nowhere else."""
_NOWHERE: Final = "02:00:00:00:00:01"
"""The hardware address that nobody has: the kernel chooses others at random, of 2⁴⁶."""
_OURS: Final = re.compile(r"everlatch(\d+)(-.+|\.lock)?")
_HOST_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,31}")
_PATIENCE: Final = 5.0
_POLL: Final = 0.01


class NetworkUnavailableError(EverlatchError):
    """A network of its own can't be made on this machine, or not be changed. The message has the command that is
    missing or has failed, and what to do."""


class Host(NamedTuple):
    """One namespace, or the place of this process."""

    name: str
    number: int
    """The last part of its addresses."""
    namespace: str
    """`""`: that of this process."""
    networks: tuple[NetworkName, ...]


class VirtualNetwork:
    """Two bridges, and the hosts on them. Made by `create()`."""

    def __init__(self, number: int, claim: _Claim) -> None:
        self._number = number
        self._claim: _Claim | None = claim
        self._switch = f"everlatch{number}-switch"
        self._interface = f"everlatch{number}"
        test = Host(TEST_HOST, _TEST_NUMBER, "", ("clients",))
        self._hosts: dict[str, Host] = {TEST_HOST: test}
        self._host_numbers = itertools.count(1)
        self._down: set[tuple[Host, NetworkName]] = set()
        self._apart: set[frozenset[Host]] = set()

    @classmethod
    async def create(cls) -> VirtualNetwork:
        """A network without hosts but this process. What dead runs have left is removed before. Raises
        `NetworkUnavailableError`."""
        check_possible()
        await _remove_leftovers()
        number, claim = await _claim_any()
        network = cls(number, claim)
        try:
            await _remove(number)  # what has died in the meantime
            await network._build()
        except BaseException:
            await network.close()
            raise
        return network

    async def _build(self) -> None:
        switch, test = self._switch, self._hosts[TEST_HOST]
        await _ip([f"netns add {switch}"])
        bridges = [(f"link add dev {name} type bridge", f"link set dev {name} up") for name in _NETS]
        await _ip(itertools.chain.from_iterable(bridges), switch)
        await _ip([f"link add dev {self._interface} type veth peer name {_port(test, 'clients')} netns {switch}"])
        await _ip([f"link set dev {_port(test, 'clients')} master clients up"], switch)
        await _ip(
            [f"addr add {self.address(test, 'clients')}/24 dev {self._interface}", f"link set dev {self._interface} up"]
        )

    async def close(self) -> None:
        """Ends every process in it, and removes everything. May be called again."""
        claim, self._claim = self._claim, None
        if claim is not None:
            # The number is free for others when nothing has it any more.
            with claim:
                await _remove(self._number)

    # -- hosts

    def host(self, name: str) -> Host:
        """The one with this name. Raises `InvalidArgumentError` if there is none."""
        if name not in self._hosts:
            raise InvalidArgumentError(f"there is no host {name!r}; there are {', '.join(self._hosts)}")
        return self._hosts[name]

    async def add_host(self, name: str, *networks: NetworkName) -> Host:
        """A new host on these networks. Raises `InvalidArgumentError` for a name that is taken or can't be one."""
        if name in self._hosts or not _HOST_NAME.fullmatch(name) or name == "switch":
            raise InvalidArgumentError(
                f"a host's name is one of its own, of letters, digits, '.', '_' and '-', not {name!r}; there are "
                f"{', '.join(self._hosts)}"
            )
        number = next(self._host_numbers)
        if number >= _TEST_NUMBER:
            raise InvalidArgumentError(f"a network has {_TEST_NUMBER - 1} hosts at most")
        host = Host(name, number, f"everlatch{self._number}-{name}", networks)
        # The name is taken from now on: somebody else may want it meanwhile.
        self._hosts[name] = host
        try:
            await self._connect(host)
        except BaseException:
            del self._hosts[name]
            raise
        return host

    async def _connect(self, host: Host) -> None:
        wires, addresses = [], ["link set dev lo up"]
        for network in host.networks:
            port = _port(host, network)
            wires.append(f"link add dev {port} type veth peer name {network} netns {host.namespace}")
            wires.append(f"link set dev {port} master {network} up")
            addresses.append(f"addr add {self.address(host, network)}/24 dev {network}")
            addresses.append(f"link set dev {network} up")
        await _ip([f"netns add {host.namespace}"])
        await _ip(wires, self._switch)
        await _ip(addresses, host.namespace)

    def address(self, host: Host, network: NetworkName) -> str:
        """Its IPv4 address there."""
        return f"{_NETS[network]}.{self._number}.{host.number}"

    def prefix(self, host: Host) -> tuple[str, ...]:
        """What a command line begins with that is run on the host; no process of its own stands between."""
        return (find_ip() or "ip", "netns", "exec", host.namespace)

    # -- what can happen to links

    async def set_link(self, host: Host, network: NetworkName, *, up: bool) -> None:
        """Plugs a host's cable in, or pulls it. Nothing happens if it is so already."""
        # What may be down is noted: before it is, and until it certainly isn't any more.
        self._down.add((host, network))
        await _ip([f"link set dev {_port(host, network)} {'up' if up else 'down'}"], self._switch)
        if up:
            self._down.discard((host, network))

    async def keep_apart(self, one: Host, other: Host) -> None:
        """Nothing that these two send each other arrives any more."""
        for network in _in_common(one, other):
            # Noted first: what is half done is undone, too.
            self._apart.add(frozenset((one, other)))
            for host, target in ((one, other), (other, one)):
                line = f"neigh replace {self.address(target, network)} lladdr {_NOWHERE} {self._on(host, network)}"
                await _ip([f"{line} nud permanent"], host.namespace)

    async def heal(self) -> None:
        """All cables are plugged in, nobody is kept apart from anybody."""
        for host, network in list(self._down):
            await self.set_link(host, network, up=True)
        for pair in list(self._apart):
            await self._bring_together(*pair)
            self._apart.discard(pair)

    async def _bring_together(self, one: Host, other: Host) -> None:
        for network in _in_common(one, other):
            for host, target in ((one, other), (other, one)):
                # Not `del`, which fails if it was never there.
                line = f"neigh flush to {self.address(target, network)} {self._on(host, network)} nud permanent"
                await _ip([line], host.namespace)

    def _on(self, host: Host, network: NetworkName) -> str:
        return f"dev {network if host.namespace else self._interface}"


def check_possible() -> None:
    """Raises `NetworkUnavailableError` if no network can be made here, and says why."""
    if not sys.platform.startswith("linux"):
        raise NetworkUnavailableError(f"network namespaces exist on Linux only, not on {sys.platform}")
    if find_ip() is None:
        raise NetworkUnavailableError(
            "the command `ip` was not found, it comes with iproute2: in a checkout of everlatch run "
            "`scripts/get-zookeeper`, on Debian `apt-get install iproute2`"
        )
    if os.geteuid() != 0:
        raise NetworkUnavailableError(
            f"`ip netns add` needs root, and this process runs as user {os.geteuid()}: run it as root, or with sudo"
        )


def find_ip() -> str | None:
    """The `ip` of iproute2."""
    # Those who are not root may not have the directories of root's commands on their PATH.
    return shutil.which("ip", path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"]))


def _port(host: Host, network: NetworkName) -> str:
    """The name of the switch's end of a host's cable."""
    return f"{network[0]}{host.number}"


def _in_common(one: Host, other: Host) -> list[NetworkName]:
    return [network for network in one.networks if network in other.networks]


# --- numbers ------------------------------------------------------------------------------------------------------


class _Claim:
    """A number that is this process's own for as long as it lives."""

    def __init__(self, path: Path, fd: int) -> None:
        self._path, self._fd = path, fd

    def __enter__(self) -> None:
        """It is there already."""

    def __exit__(self, *_: object) -> None:
        # In this order: who opens the file now has to find out that it is not the one with the name any more.
        self._path.unlink(missing_ok=True)
        os.close(self._fd)


def _claim(number: int) -> _Claim | None:
    """The claim, or `None` if a living process has it."""
    path = _CLAIMS / f"everlatch{number}.lock"
    while True:
        fd = os.open(path, os.O_CREAT | os.O_RDWR, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if path.stat().st_ino == os.fstat(fd).st_ino:
                return _Claim(path, fd)
        except BlockingIOError:
            os.close(fd)
            return None
        except FileNotFoundError:
            pass
        # Whoever had it has removed the file in between.
        os.close(fd)


async def _claim_any() -> tuple[int, _Claim]:
    routes = await _routes()
    # At random, so that the addresses of a run that has just ended are not those of the next.
    for number in random.Random().sample(_NUMBERS, len(_NUMBERS)):  # noqa: S311 - not a secret
        own = ipaddress.IPv4Network(f"{_NETS['clients']}.{number}.0/24")
        if any(own.overlaps(route) for route in routes):
            continue
        claim = _claim(number)
        if claim is not None:
            return number, claim
    raise NetworkUnavailableError(
        f"every network from {_NETS['clients']}.0.0/24 to {_NETS['clients']}.255.0/24 is in use: see `ip route`"
    )


async def _routes() -> list[ipaddress.IPv4Network]:
    """What this machine reaches in the range of ours. Wider ones lead elsewhere, as the default does."""
    told = json.loads(await _run("-json", "-4", "route", "show") or "[]")
    targets = (ipaddress.IPv4Network(route["dst"]) for route in told if route["dst"] != "default")
    return [target for target in targets if target.subnet_of(_RANGE)]


# --- removal ------------------------------------------------------------------------------------------------------


async def _remove_leftovers() -> None:
    interfaces = [interface for _, interface in socket.if_nameindex()]
    claims = [path.name for path in _CLAIMS.glob("everlatch*.lock")]
    found = (_OURS.fullmatch(name) for name in [*_namespaces(), *interfaces, *claims])
    for number in {int(match[1]) for match in found if match}:
        claim = _claim(number)
        if claim is not None:
            with claim:
                await _remove(number)


async def _remove(number: int) -> None:
    """All that is made for this number. What is gone already is no mistake."""
    namespaces = [name for name in _namespaces() if name.startswith(f"everlatch{number}-")]
    for namespace in namespaces:
        await _end_processes(namespace)
    if any(name == f"everlatch{number}" for _, name in socket.if_nameindex()):
        await _ip([f"link del dev everlatch{number}"])
    await _ip(f"netns del {namespace}" for namespace in namespaces)


def _namespaces() -> list[str]:
    try:
        return os.listdir(_NAMESPACES)
    except FileNotFoundError:
        return []


async def _end_processes(namespace: str) -> None:
    """Those that are left in it: what a client process has started, and what outlived a killed run."""
    try:
        async with asyncio.timeout(_PATIENCE):
            while pids := (await _run("netns", "pids", namespace)).split():
                for pid in pids:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(int(pid), signal.SIGKILL)
                await asyncio.sleep(_POLL)
    except TimeoutError:
        raise NetworkUnavailableError(
            f"processes of {namespace} are there {_PATIENCE:g} s after SIGKILL: see `ip netns pids {namespace}`"
        ) from None


# --- iproute2 -----------------------------------------------------------------------------------------------------


async def _ip(lines: Iterable[str], namespace: str = "") -> None:
    """Runs commands of `ip` in a namespace, the first that fails ends it. Raises `NetworkUnavailableError`."""
    batch = list(lines)
    if batch:
        await _run(*(("-n", namespace) if namespace else ()), "-batch", "-", batch=batch)


async def _run(*arguments: str, batch: Sequence[str] = ()) -> str:
    # A file and not a pipe, which somebody would have to write to while the command runs, or has ended already.
    with tempfile.TemporaryFile() as lines:
        lines.write("\n".join(batch).encode())
        lines.seek(0)
        process = await asyncio.create_subprocess_exec(
            find_ip() or "ip",
            *arguments,
            stdin=lines,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
    try:
        said, complaint = await process.communicate()
    except asyncio.CancelledError:
        # It takes milliseconds: nothing of it is left running when the caller goes on.
        await process.wait()
        raise
    if process.returncode != 0:
        raise NetworkUnavailableError(_failure(arguments, batch, complaint.decode(errors="replace")))
    return said.decode()


def _failure(arguments: tuple[str, ...], batch: Sequence[str], complaint: str) -> str:
    words = [word for word in arguments if word not in ("-batch", "-")]
    failed = re.search(r"Command failed -:(\d+)", complaint)
    if batch and failed:
        words.append(batch[int(failed[1]) - 1])
    reason = complaint.partition("Command failed")[0].strip()
    return (
        f"`ip {' '.join(words)}` failed: {reason}; it needs root with all capabilities (in a container: --privileged), "
        "and a kernel with network namespaces, veth and bridges"
    )
