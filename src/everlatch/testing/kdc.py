"""A real Kerberos KDC for tests: a realm of its own, on this machine, in a temporary directory.

    async with Kdc() as kdc:
        keytab = await kdc.keytab("bob")
        with kdc.in_environment():                      # or: processes started with `kdc.environment`
            client = Client(…, sasl=Kerberos("bob@EVERLATCH.TEST", keytab=keytab))
            kdc.pause()                                 # nobody answers
            await kdc.stop()                            # nobody listens
            await kdc.start()

It is MIT's `krb5kdc`, from Debian's krb5-kdc, krb5-admin-server and krb5-user. In a checkout, `scripts/get-zookeeper`
installs them.

Rules of this module: nothing of this machine's own Kerberos is read or changed, neither configuration nor tickets. Host
names are taken as they are (no `dns_canonicalize_hostname`, no `rdns`): a server that clients reach as 127.0.0.1 is
`zookeeper/127.0.0.1`. No password appears on a command line.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import secrets
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from everlatch.errors import EverlatchError, InvalidArgumentError
from everlatch.testing.ports import free_ports
from everlatch.testing.process import POLL, EnsembleError, Process

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Self

__all__ = ["KDC_PACKAGES", "KDC_PROGRAMS", "Kdc", "KdcUnavailableError", "ServicePrincipal", "find_program"]

KDC_PROGRAMS: Final = ("krb5kdc", "kdb5_util", "kadmin.local", "kinit")
"""What is run."""
KDC_PACKAGES: Final = ("krb5-kdc", "krb5-admin-server", "krb5-user")
"""Debian's packages that have them."""

# Not on everybody's PATH.
_SYSTEM: Final = ("/usr/sbin", "/usr/local/sbin", "/sbin")
_PRINCIPAL: Final = re.compile(r"[A-Za-z0-9_.:/-]+(@[A-Za-z0-9_.-]+)?")
_REALM: Final = re.compile(r"[A-Z0-9.-]+")
_START_ATTEMPTS: Final = 5
_PORT_TAKEN: Final = "Address already in use"
_READY: Final = "commencing operation"


class KdcUnavailableError(EverlatchError):
    """There is no KDC on this machine; the message has the command that installs one."""


class ServicePrincipal(NamedTuple):
    """What a server needs to be found by Kerberos clients."""

    name: str
    """`zookeeper/127.0.0.1@EVERLATCH.TEST`."""
    keytab: Path
    krb5_conf: Path


class Kdc:
    """A KDC that listens on `host`, an IPv4 address of this machine: `async with Kdc() as kdc`.

    `ticket_lifetime`: seconds, for tickets that nobody asks another life for. It belongs to one event loop. Principals
    are named with the realm or without it, and made when a key or a ticket of theirs is first asked for.
    """

    def __init__(
        self, *, host: str = "127.0.0.1", realm: str = "EVERLATCH.TEST", ticket_lifetime: float = 3600.0
    ) -> None:
        if not _REALM.fullmatch(realm):
            raise InvalidArgumentError(f"a realm has capital letters, digits, '.' and '-', not {realm!r}")
        if ticket_lifetime < 1:
            raise InvalidArgumentError(f"a ticket lives for a second at least, not {ticket_lifetime}")
        self.realm = realm
        self._host = host
        self._ticket_lifetime = ticket_lifetime
        self._programs: dict[str, str] = {}
        self._directory: Path | None = None
        self._process: _KdcProcess | None = None
        self._principals: set[str] = set()
        self._administering = asyncio.Lock()
        self._ticket_count = 0

    def __repr__(self) -> str:
        return f"<Kdc {self.realm} {'not started' if self._process is None else self._process._state}>"

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def start(self) -> None:
        """Makes the realm, the first time, and returns when the KDC answers. Raises `KdcUnavailableError`,
        `EnsembleError`."""
        if self._process is not None:
            await self._process.start()
            return
        self._programs = {name: _program(name) for name in KDC_PROGRAMS}
        for attempt in range(1, _START_ATTEMPTS + 1):
            try:
                self._process = await self._lay_out()
                await self._process.start()
                return
            except BaseException as error:
                # Somebody took the port between our choice and the KDC's start: choose another.
                lost_port = self._process is not None and _PORT_TAKEN in self._process.log_tail()
                await self.close()
                if attempt == _START_ATTEMPTS or not lost_port or not isinstance(error, EnsembleError):
                    raise

    async def close(self) -> None:
        """Ends it, and deletes the realm with all keys and tickets. Does nothing the second time."""
        process, directory = self._process, self._directory
        self._process, self._directory = None, None
        self._principals.clear()
        try:
            if process is not None:
                await process.kill()
        finally:
            if directory is not None:
                shutil.rmtree(directory, ignore_errors=True)

    async def stop(self) -> None:
        """Ends the process: connections to it are refused. `start()` brings it back with all its principals."""
        await self._started().stop()

    def pause(self) -> None:
        """Freezes the process: it takes connections, and says nothing. Not to be awaited."""
        self._started().pause()

    def resume(self) -> None:
        """Lets a frozen process go on."""
        self._started().resume()

    @property
    def running(self) -> bool:
        """Whether there is a process; a paused one counts."""
        return self._process is not None and self._process.running

    # -- what clients and servers need

    @property
    def krb5_conf(self) -> Path:
        """The configuration of everybody in this realm: `KRB5_CONFIG`, Java's `java.security.krb5.conf`."""
        return self._path("krb5.conf")

    @property
    def environment(self) -> dict[str, str]:
        """The environment variables of a process in this realm. It has no tickets: set `KRB5CCNAME` to some of
        `ticket()`, or name them to the client."""
        return {"KRB5_CONFIG": str(self.krb5_conf), "KRB5CCNAME": f"FILE:{self._path('no-tickets')}"}

    @contextlib.contextmanager
    def in_environment(self, **more: str) -> Iterator[None]:
        """This process is in the realm as long as the block runs: `environment`, and `more` variables, are its own."""
        wanted = self.environment | more
        former = {name: os.environ.get(name) for name in wanted}
        os.environ.update(wanted)
        try:
            yield
        finally:
            for name, value in former.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value

    def full_name(self, principal: str) -> str:
        """The principal with its realm: `bob@EVERLATCH.TEST`."""
        if not _PRINCIPAL.fullmatch(principal):
            raise InvalidArgumentError(f"a principal is name@REALM or service/host@REALM, not {principal!r}")
        name, _, realm = principal.partition("@")
        if realm not in ("", self.realm):
            raise InvalidArgumentError(f"this is the KDC of {self.realm}, which has no {principal!r}")
        return f"{name}@{self.realm}"

    async def add_principal(self, principal: str, password: str | None = None) -> str:
        """Makes a principal, or gives it another key: that of the password, or a random one. Returns its full name."""
        name = self.full_name(principal)
        if password is not None and (not password or "\n" in password):
            raise InvalidArgumentError("a password is a line that isn't empty")
        async with self._administering:
            await self._set_key(name, password)
        return name

    async def keytab(self, principal: str) -> Path:
        """A file with the principal's key as it is now."""
        name = self.full_name(principal)
        keytab = self._path(f"{_file_name(name)}.keytab")
        # In one step, for somebody may be reading it; and to a file that is there it would be added.
        new = self._path(f"{keytab.name}-{secrets.token_hex(4)}")
        async with self._administering:
            if name not in self._principals:
                await self._set_key(name, None)
            await self._administer(["ktadd", "-norandkey", "-k", str(new), name])
        new.replace(keytab)
        return keytab

    async def ticket(self, principal: str, *, lifetime: float | None = None) -> Path:
        """A credential cache with a new ticket of the principal, which lives for so many seconds (no less than one)."""
        keytab = await self.keytab(principal)
        self._ticket_count += 1
        cache = self._path(f"tickets-{self._ticket_count}")
        life = [] if lifetime is None else ["-l", f"{max(1, round(lifetime))}s"]
        await self._run("kinit", ["-k", "-t", str(keytab), *life, "-c", f"FILE:{cache}", self.full_name(principal)])
        return cache

    async def service(self, host: str, service: str = "zookeeper") -> ServicePrincipal:
        """The principal of a server that clients reach by this name or address."""
        name = self.full_name(f"{service}/{host}")
        return ServicePrincipal(name, await self.keytab(name), self.krb5_conf)

    # -- inside

    async def _set_key(self, name: str, password: str | None) -> None:
        change = "change_password" if name in self._principals else "add_principal"
        if password is None:
            await self._administer([change, "-randkey", name])
        else:
            await self._administer([change, name], f"{password}\n{password}\n")
        self._principals.add(name)

    async def _lay_out(self) -> _KdcProcess:
        self._directory = Path(tempfile.mkdtemp(prefix="everlatch-kdc-"))
        (port,) = free_ports(1, self._host)
        self.krb5_conf.write_text(self._client_settings(port))
        self._path("kdc.conf").write_text(self._kdc_settings(port))
        self._path("kadm5.acl").touch()
        password = secrets.token_hex()
        await self._run("kdb5_util", ["create", "-s", "-r", self.realm], f"{password}\n{password}\n")
        command = [self._programs["krb5kdc"], "-n", "-r", self.realm]
        return _KdcProcess("krb5kdc", command, self._path("kdc.log"), self._own_environment)

    def _client_settings(self, port: int) -> str:
        settings = {
            "default_realm": self.realm,
            "dns_lookup_realm": "false",
            "dns_lookup_kdc": "false",
            "dns_canonicalize_hostname": "false",
            "rdns": "false",
            # By TCP: that the KDC is down is known at once, not when somebody's patience ends.
            "udp_preference_limit": "1",
            "ticket_lifetime": f"{round(self._ticket_lifetime)}s",
            "default_ccache_name": f"FILE:{self._path('no-tickets')}",
            "default_keytab_name": f"FILE:{self._path('no-keys')}",
            "default_client_keytab_name": f"FILE:{self._path('no-keys')}",
        }
        lines = "".join(f"  {name} = {value}\n" for name, value in settings.items())
        return f"[libdefaults]\n{lines}[realms]\n  {self.realm} = {{\n    kdc = {self._host}:{port}\n  }}\n"

    def _kdc_settings(self, port: int) -> str:
        settings = {
            "database_name": self._path("principal"),
            "key_stash_file": self._path("stash"),
            "acl_file": self._path("kadm5.acl"),
            "kdc_listen": f"{self._host}:{port}",
            "kdc_tcp_listen": f"{self._host}:{port}",
            # What both MIT's library and every Java know.
            "supported_enctypes": "aes256-cts-hmac-sha1-96:normal",
        }
        lines = "".join(f"    {name} = {value}\n" for name, value in settings.items())
        return f"[realms]\n  {self.realm} = {{\n{lines}  }}\n[logging]\n  default = STDERR\n"

    @property
    def _own_environment(self) -> dict[str, str]:
        return self.environment | {"KRB5_KDC_PROFILE": str(self._path("kdc.conf")), "LC_ALL": "C"}

    async def _administer(self, command: Sequence[str], told: str = "") -> None:
        await self._run("kadmin.local", ["-r", self.realm, *command], told)

    async def _run(self, program: str, arguments: Sequence[str], told: str = "") -> None:
        with _readable(told.encode()) as source:
            process = await asyncio.create_subprocess_exec(
                self._programs[program],
                *arguments,
                stdin=source,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                env=os.environ | self._own_environment,
            )
        try:
            said, _ = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        if process.returncode != 0:
            raise EnsembleError(f"{program} {' '.join(arguments)}: exit code {process.returncode}; {said.decode()}")

    def _path(self, name: str) -> Path:
        if self._directory is None:
            raise EnsembleError(f"{self!r}: there is a realm only between start() and close()")
        return self._directory / name

    def _started(self) -> _KdcProcess:
        if self._process is None:
            raise EnsembleError(f"{self!r}: start it first")
        return self._process


class _KdcProcess(Process):
    """The process behind a `Kdc`."""

    async def start(self, timeout: float = 20.0) -> None:
        """Starts it; returns when it listens."""
        # What it says itself: somebody else may be listening where it is to.
        before = self._times_ready
        await self._launch()
        try:
            async with asyncio.timeout(timeout):
                while self._times_ready == before:
                    if not self.running:
                        raise self._error("has ended")
                    await asyncio.sleep(POLL)
        except TimeoutError:
            raise self._error(f"does not listen after {timeout:g} s") from None

    @property
    def _times_ready(self) -> int:
        return self._read_log().count(_READY)


@contextlib.contextmanager
def _readable(data: bytes) -> Iterator[int]:
    """A descriptor from which these few bytes are read. Not a stream of the loop's: whom they are for may have ended
    without reading them."""
    source, sink = os.pipe()
    try:
        os.write(sink, data)
        os.close(sink)
        yield source
    finally:
        os.close(source)


def find_program(name: str) -> str | None:
    """One of `KDC_PROGRAMS`, also where administrators have theirs."""
    return shutil.which(name) or shutil.which(name, path=os.pathsep.join(_SYSTEM))


def _program(name: str) -> str:
    found = find_program(name)
    if found is None:
        raise KdcUnavailableError(
            f"no {name} on this machine; in a checkout of everlatch run `scripts/get-zookeeper`, on Debian "
            f"`apt-get install {' '.join(KDC_PACKAGES)}`"
        )
    return found


def _file_name(principal: str) -> str:
    return re.sub(r"[^A-Za-z0-9.-]", "_", principal)
