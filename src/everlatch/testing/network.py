"""Real servers and client processes, each on a host of its own, whose cables can be pulled.

    async with NetworkEnsemble(3) as network, Client(network.connect_string) as client:
        server = await network.server_of(client.session_id)
        await network.link_down(server)                      # the client moves
        follower = (await network.followers())[0]
        await network.cut_from_leader(follower)              # its clients stay connected
        await network.partition({network.servers[0], "test"}, {network.servers[1], network.servers[2]})
        await network.heal()
        process = await network.start_client("c1", [sys.executable, "-m", "my_service", network.connect_string])
        process.pause()

What is more than one machine's worth of processes on 127.0.0.1 can't show: links that go silent while both ends live,
machines that see each other by one network and not by the other, connections that hang instead of being refused.

It needs Linux, root, and iproute2 (`ip`); without, entering raises `NetworkUnavailableError`, which says what is
missing. Slow links are a `Proxy`'s business: in front of a server for clients of this process, and with
`Proxy(server.address, host=network.address)` for client processes too.

Rules of this module: hosts and links are `namespaces`' business, servers that of `Ensemble`. Here is which host is
meant, and what is done to it. Everything ends with the ensemble, whatever happened, and what a killed run has left is
removed by the next.
"""

from __future__ import annotations

import asyncio
import itertools
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from everlatch.errors import InvalidArgumentError, InvalidTypeError
from everlatch.testing.ensemble import Ensemble
from everlatch.testing.faults import check_choice
from everlatch.testing.namespaces import TEST_HOST, NetworkName, NetworkUnavailableError, VirtualNetwork
from everlatch.testing.process import ClientProcess, EnsembleError
from everlatch.testing.server import Place, Server

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from everlatch.testing.certificates import ClientAuth
    from everlatch.testing.kdc import Kdc
    from everlatch.testing.namespaces import Host
    from everlatch.testing.security import Sasl

__all__ = ["AnyHost", "Links", "NetworkEnsemble", "NetworkUnavailableError"]

AnyHost: TypeAlias = "Server | ClientProcess | str"
"""A machine of the network: a server, a client process, or a name: `server-1`, that of a client process, or `test`,
where this process's own clients are."""
Links: TypeAlias = Literal["clients", "peers", "both"]
"""Which of a host's cables: the one on which servers and clients meet, the one on which servers talk to each other."""

_CLIENT_PORT: Final = 2181
_SECURE_PORT: Final = 2281
_QUORUM_PORT: Final = 2888
_ELECTION_PORT: Final = 3888


class NetworkEnsemble(Ensemble):
    """An `Ensemble` whose servers have a host each, with an interface for clients and one for the other servers.

    Clients of this process reach them by `connect_string`, as in an `Ensemble`. Processes that are to have a host of
    their own are started by `start_client`. What can happen to a link is asked for here; what can happen to a process
    (`pause`, `kill`, `restart`), of the `Server` or the `ClientProcess`. The arguments are those of `Ensemble`.
    """

    def __init__(
        self,
        size: int = 3,
        *,
        version: str = "3.8",
        tick_time: float = 0.5,
        config: Mapping[str, str] | None = None,
        java_options: Sequence[str] = (),
        start_timeout: float = 60.0,
        tls: bool = False,
        client_auth: ClientAuth = "want",
        sasl: Sasl | None = None,
        require_auth: bool = False,
        users: Mapping[str, str] | None = None,
        kdc: Kdc | None = None,
    ) -> None:
        super().__init__(
            size,
            version=version,
            tick_time=tick_time,
            config=config,
            java_options=java_options,
            start_timeout=start_timeout,
            tls=tls,
            client_auth=client_auth,
            sasl=sasl,
            require_auth=require_auth,
            users=users,
            kdc=kdc,
        )
        self._network: VirtualNetwork | None = None
        self._clients: dict[str, ClientProcess] = {}

    async def start(self) -> None:
        """Starts all servers and returns when all serve; raises `NetworkUnavailableError` where no such network can be
        made, `EnsembleError`, or `ZooKeeperNotFoundError`."""
        if self._network is not None:
            raise EnsembleError("this ensemble is started already")
        self._network = await VirtualNetwork.create()
        try:
            for number in range(1, self.size + 1):
                await self._network.add_host(f"server-{number}", "clients", "peers")
            await super().start()
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Ends all processes, deletes all data, and removes the network. Does nothing the second time."""
        clients, network = list(self._clients.values()), self._network
        self._clients, self._network = {}, None
        try:
            await asyncio.gather(*(client.kill() for client in clients))
            await super().close()
        finally:
            if network is not None:
                await network.close()

    @property
    def address(self) -> str:
        """This process's own IP address on the network of clients. Client processes reach what listens there."""
        network = self._started()
        return network.address(network.host(TEST_HOST), "clients")

    @property
    def clients(self) -> tuple[ClientProcess, ...]:
        """Those that were started by `start_client`, whether they run or not."""
        return tuple(self._clients.values())

    async def start_client(
        self, name: str, command: Sequence[str], *, environment: Mapping[str, str] | None = None
    ) -> ClientProcess:
        """Starts a command on a host of its own, which reaches the servers and `address`, and nothing else.

        `environment` is added to that of this process. A name whose process has ended may be used again, and gets the
        host that it had, with the links as they are. What it writes is in `ClientProcess.output`. It ends with the
        ensemble at the latest, and so does what it has started. One that can't be run ends at once, and its output says
        why. Raises `InvalidArgumentError` for a name that is taken.
        """
        network = self._started()
        former = self._clients.get(name)
        if former is not None and former.running:
            raise InvalidArgumentError(f"{former!r} runs; choose another name, or end it first")
        host = await network.add_host(name, "clients") if former is None else network.host(name)
        assert self._directory is not None
        address, log = network.address(host, "clients"), self._directory / f"{name}.log"
        client = ClientProcess(name, address, [*network.prefix(host), *command], log, environment)
        self._clients[name] = client
        await client.start()
        return client

    # -- links

    async def link_down(self, host: AnyHost, links: Links = "both") -> None:
        """Pulls a host's cables, or one of them: nothing arrives there or comes from there. Its connections don't end,
        new ones hang, until somebody gives up.

        Real: a cable or a switch's port, a virtual machine that is migrated or detached, a network card that dies.
        `peers` alone: two networks, one of which fails; a firewall rule between data centres.
        """
        await self._set_links(host, links, up=False)

    async def link_up(self, host: AnyHost, links: Links = "both") -> None:
        """Plugs a host's cables in again. What was sent meanwhile arrives when TCP repeats it: up to seconds later, for
        its pauses double."""
        await self._set_links(host, links, up=True)

    async def cut_from_leader(self, follower: Server) -> None:
        """Pulls a follower's cable to the other servers; its clients stay connected. It goes on answering their reads
        and pings from what it knows, and forwards writes that nobody hears, until it gives its leader up (`syncLimit`
        ticks) and closes all connections. Raises `EnsembleError` if it doesn't follow.

        Real: the two networks of `link_down`; asymmetric routes; a leader behind an overloaded link. For a leader who
        is cut from its followers: `link_down(leader, "peers")`.
        """
        mode = await follower.mode()
        if mode != "follower":
            raise EnsembleError(f"{follower!r} is not a follower but {mode or 'not serving'}")
        await self.link_down(follower, "peers")

    async def partition(self, *groups: Collection[AnyHost]) -> None:
        """Keeps hosts of different groups apart: what they send each other vanishes, in both directions, without a
        word. Within a group all is well, and hosts that are in none go on hearing everybody. Partitions add up until
        `heal()`.

        `"test"` stands for the clients of this process. Real: a switch or a router between racks or sites that fails, a
        firewall rule that drops.
        """
        network = self._started()
        members = [[self._host(host) for host in _checked_group(group)] for group in groups]
        names = [host.name for group in members for host in group]
        if len(members) < 2 or not all(members) or len(set(names)) != len(names):
            raise InvalidArgumentError(f"a partition has two groups or more, and a host is in one of them: {groups}")
        for some, others in itertools.combinations(members, 2):
            for one, other in itertools.product(some, others):
                await network.keep_apart(one, other)

    async def heal(self) -> None:
        """All links are as they were: cables plugged in, partitions gone. Processes stay as they are: see
        `Process.resume` and `start`."""
        await self._started().heal()

    # -- inside

    def _places(self) -> list[Place]:
        network = self._started()
        hosts = [network.host(f"server-{number}") for number in range(1, self.size + 1)]
        return [
            Place(
                host=network.address(host, "clients"),
                port=_CLIENT_PORT,
                peer_host=network.address(host, "peers"),
                quorum_port=_QUORUM_PORT,
                election_port=_ELECTION_PORT,
                prefix=network.prefix(host),
                secure_port=_SECURE_PORT if self._security.tls else None,
            )
            for host in hosts
        ]

    def _own_address(self) -> str:
        return self.address

    async def _set_links(self, host: AnyHost, links: Links, *, up: bool) -> None:
        check_choice("links", links, Links)
        found, network = self._host(host), self._started()
        networks: tuple[NetworkName, ...] = found.networks if links == "both" else (links,)
        for name in networks:
            if name not in found.networks:
                raise InvalidArgumentError(f"{found.name} is not on the network {name!r}: only servers are")
            await network.set_link(found, name, up=up)

    def _host(self, host: AnyHost) -> Host:
        name = host if isinstance(host, str) else getattr(host, "name", None)
        if not isinstance(name, str):
            raise InvalidTypeError(f"a host is a Server, a ClientProcess or a name, not {host!r}")
        return self._started().host(name)

    def _started(self) -> VirtualNetwork:
        if self._network is None:
            raise EnsembleError("this ensemble has no network before it is started, and none after its end")
        return self._network


def _checked_group(group: Collection[AnyHost]) -> Collection[AnyHost]:
    if isinstance(group, str):
        raise InvalidTypeError(f"a group is a collection of hosts, not {group!r}: {{{group!r}}}")
    return group
