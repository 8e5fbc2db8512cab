"""What a server tells about itself: ZooKeeper's four-letter words, and the HTTP commands of its AdminServer.

    status = await srvr("zk1:2181")
    if status.mode == "leader":
        sessions = [connection.session_id for connection in await cons("zk1:2181")]
        report = await admin_command("zk1:2181", "watch_summary")

A server answers four-letter words on its client port, without a session, but only those that are in its
`4lw.commands.whitelist`: `srvr` alone unless it is configured otherwise. The AdminServer listens on port 8080 and has
no such list.

All of this goes over TLS as well, where servers listen by TLS: with `tls=TlsSettings(ca=…, cert=…, key=…)` of
`everlatch.tls`, or an `ssl.SSLContext`. `server_hostname` is the name that the server's certificate must have, if it is
not the one that it is reached by.

    AdminError
    ├── NotWhitelistedError                      the server's configuration forbids the word
    ├── NotServingError (ConnectionError)        the server is up, and serves nobody
    ├── CommandFailedError                       the AdminServer's answer was an error
    ├── MalformedAnswerError                     the answer is not one of ZooKeeper
    │   └── AnswerTooLargeError
    ├── AdminUnreachableError (ConnectionError)
    └── AdminTimeoutError (TimeoutError)

Rules of this module: one question, one connection, closed before the call returns, whatever happens. Time and size of
every answer are bounded, and nothing in it is trusted: once a question is on its way, a call ends with its result or
with an `AdminError`. Session ids are signed, as a client has them.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import ssl
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias, TypeVar

from everlatch.errors import EverlatchError, InvalidArgumentError, InvalidTypeError, describe
from everlatch.paths import Endpoint, parse_connect_string
from everlatch.tls import TlsSettings
from everlatch.tls.transport import connect_tls

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

__all__ = [
    "AdminError",
    "AdminTimeoutError",
    "AdminUnreachableError",
    "AnswerTooLargeError",
    "CommandFailedError",
    "ConnectionInfo",
    "MalformedAnswerError",
    "NotServingError",
    "NotWhitelistedError",
    "ServerStatus",
    "ServerVersion",
    "SessionDump",
    "WatchSummary",
    "admin_command",
    "conf",
    "cons",
    "dump",
    "envi",
    "four_letter",
    "isro",
    "mntr",
    "parse_version",
    "ruok",
    "srvr",
    "stat",
    "wchs",
]

_Server: TypeAlias = str | Endpoint
_Tls: TypeAlias = "TlsSettings | ssl.SSLContext | None"
"""How a server is talked to; `None`: plainly."""
_T = TypeVar("_T")

_TIMEOUT: Final = 5.0
_PIECE: Final = 65_536
_MAX_ANSWER: Final = 1 << 20
# What grows with the number of clients, watches or ephemeral nodes: some 200 bytes for each.
_MAX_LISTING: Final = 64 << 20
_LISTINGS: Final = frozenset(
    {"cons", "connections", "stat", "stats", "dump", "wchc", "watches", "wchp", "watches_by_path"}
)
_EXCERPT: Final = 200


# --- errors -------------------------------------------------------------------------------------------------------


class AdminError(EverlatchError):
    """A question to `server` that got no usable answer; `command` is the word or the AdminServer's command."""

    def __init__(self, server: str, command: str, problem: str) -> None:
        self.server, self.command = server, command
        super().__init__(f"{command!r} to {server}: {problem}")


class NotWhitelistedError(AdminError):
    """The server does not answer this four-letter word: it is not in its `4lw.commands.whitelist`."""

    def __init__(self, server: str, command: str) -> None:
        super().__init__(
            server, command, "refused; add the word to 4lw.commands.whitelist in the server's zoo.cfg and restart it"
        )


class NotServingError(AdminError, ConnectionError):
    """The server is up but serves no clients: it is starting, or cut off from its quorum.

    To who waits for a server that is no different from one that is down: hence a `ConnectionError`.
    """

    def __init__(self, server: str, command: str) -> None:
        super().__init__(
            server, command, "the server is not serving (starting, or without a quorum); ask again, or another one"
        )


class CommandFailedError(AdminError):
    """The AdminServer answered with an error: `reason`, in its words. `status` is the HTTP status, often 200."""

    def __init__(self, server: str, command: str, reason: str, status: int) -> None:
        self.reason, self.status = reason, status
        super().__init__(server, command, f"the AdminServer answered with an error: {reason} (HTTP {status})")


class MalformedAnswerError(AdminError):
    """An answer that no ZooKeeper gives: something else listens there, or the answer was cut short.

    `answer` is its beginning.
    """

    def __init__(self, server: str, command: str, problem: str, answer: str) -> None:
        self.answer = answer[:_EXCERPT]
        quoted = f"; it begins with {self.answer!r}" if answer else ""
        super().__init__(server, command, f"unreadable answer, {problem}{quoted}")


class AnswerTooLargeError(MalformedAnswerError):
    """The answer did not end within `limit` bytes."""

    def __init__(self, server: str, command: str, limit: int, answer: str) -> None:
        self.limit = limit
        super().__init__(server, command, f"more than {limit} bytes", answer)


class AdminUnreachableError(AdminError, ConnectionError):
    """No connection to the server, or it broke before the answer ended. `__cause__` has the system's own error."""

    def __init__(self, server: str, command: str, reason: BaseException) -> None:
        super().__init__(server, command, f"no connection ({describe(reason)}); is the server up, and the port right?")


class AdminTimeoutError(AdminError, TimeoutError):
    """The answer did not end within `timeout` seconds."""

    def __init__(self, server: str, command: str, timeout: float) -> None:
        self.timeout = timeout
        super().__init__(server, command, f"no complete answer within {timeout:g} s")


class _UnreadableError(Exception):
    """Raised by what reads answers and knows neither the server nor the command."""


class _TooLargeError(Exception):
    """Raised as soon as an answer is over its limit."""

    def __init__(self, limit: int, beginning: bytes | bytearray) -> None:
        self.limit, self.beginning = limit, beginning[:_EXCERPT].decode("utf-8", "replace")
        super().__init__(limit)


# --- answers ------------------------------------------------------------------------------------------------------


class ServerVersion(NamedTuple):
    """A server's version: `numbers` to compare, `(3, 9, 5)`, and the whole `text`, with commit and build date."""

    numbers: tuple[int, ...]
    """Empty when the text does not begin with a number."""
    text: str

    def __str__(self) -> str:
        return self.text


class ServerStatus(NamedTuple):
    """The answer to `srvr`. Latencies are milliseconds; counts are since the server's start, or the last `srst`."""

    version: ServerVersion
    latency_min: int
    latency_avg: float
    latency_max: int
    received: int
    sent: int
    connections: int
    """This question's own included."""
    outstanding: int
    zxid: int
    mode: str
    """`leader`, `follower`, `observer`, `standalone` or `read-only`."""
    node_count: int


class ConnectionInfo(NamedTuple):
    """One connection of a server. What the server did not tell is `None`: `stat` tells little, and so does `cons`
    about a connection without a session, such as the one that asks. Times and latencies are milliseconds."""

    address: str
    """The client's `host:port`, as Java writes it."""
    queued: int
    """Requests of this connection that the server has yet to answer."""
    received: int
    sent: int
    session_id: int | None = None
    last_operation: str | None = None
    """Abbreviated: `PING`, `GETD`, `EXIS`; `NA` before the first."""
    established: int | None = None
    """When the session was bound to this connection, since the epoch."""
    timeout: int | None = None
    """The negotiated session timeout."""
    last_cxid: int | None = None
    last_zxid: int | None = None
    last_response: int | None = None
    """When the last response was made, by the server's monotonic clock."""
    last_latency: int | None = None
    latency_min: int | None = None
    latency_avg: int | None = None
    latency_max: int | None = None


class SessionDump(NamedTuple):
    """The answer to `dump`. A follower knows only its own local sessions by expiry, but all ephemeral nodes."""

    sessions: list[int]
    ephemerals: dict[int, list[str]]
    """The paths of the ephemeral nodes of each session that has any."""


class WatchSummary(NamedTuple):
    """The answer to `wchs`."""

    connections: int
    """Those that watch anything."""
    paths: int
    watches: int


# --- four-letter words --------------------------------------------------------------------------------------------


async def four_letter(
    server: _Server,
    command: str,
    *,
    timeout: float = _TIMEOUT,
    tls: _Tls = None,
    server_hostname: str | None = None,
) -> str:
    """Asks `command` (`srvr`, `wchp`, `gtmk`, …) and returns the answer as it is.

    A word that the server doesn't know is answered with nothing. Raises an `AdminError`; what the server writes
    instead of an answer, that it refuses the word or isn't serving, is an error too.
    """
    endpoint = _endpoint(server)
    question = command.encode("ascii", "replace")
    if len(question) != 4:
        raise InvalidArgumentError(f"a four-letter word has four letters: {command!r}")
    way = _way(tls, server_hostname)
    async with _connection(endpoint, command, timeout, way) as (reader, writer):
        writer.write(question)
        answer = await _read_to_end(reader, _limit(command))
    text = answer.decode("utf-8", "replace")
    if _REFUSED.match(text):
        raise NotWhitelistedError(str(endpoint), command)
    if text.startswith(_NOT_SERVING):
        raise NotServingError(str(endpoint), command)
    return text


async def ruok(
    server: _Server, *, timeout: float = _TIMEOUT, tls: _Tls = None, server_hostname: str | None = None
) -> bool:
    """Whether the process is up and answers. It may still serve nobody: `srvr` tells."""
    return await _ask(server, "ruok", _parse_ruok, timeout, tls, server_hostname)


async def srvr(
    server: _Server, *, timeout: float = _TIMEOUT, tls: _Tls = None, server_hostname: str | None = None
) -> ServerStatus:
    """Version, mode, zxid and counts of a server that serves; the one word that every server answers by default."""
    return await _ask(server, "srvr", _parse_status, timeout, tls, server_hostname)


async def isro(
    server: _Server, *, timeout: float = _TIMEOUT, tls: _Tls = None, server_hostname: str | None = None
) -> bool:
    """Whether the server serves read-only, being cut off from its quorum. `NotServingError` if it serves nobody."""
    answer = await _ask(server, "isro", _parse_read_only, timeout, tls, server_hostname)
    if answer is None:
        raise NotServingError(str(_endpoint(server)), "isro")
    return answer


async def mntr(
    server: _Server, *, timeout: float = _TIMEOUT, tls: _Tls = None, server_hostname: str | None = None
) -> dict[str, int | float | str]:
    """All of the server's metrics, by their names (`zk_watch_count`); what looks like a number is one."""
    return await _ask(server, "mntr", _parse_metrics, timeout, tls, server_hostname)


async def stat(
    server: _Server, *, timeout: float = _TIMEOUT, tls: _Tls = None, server_hostname: str | None = None
) -> list[ConnectionInfo]:
    """The server's connections, briefly: without their sessions. The rest of `stat`'s answer is that of `srvr`."""
    return await _ask(server, "stat", _parse_clients, timeout, tls, server_hostname)


async def cons(
    server: _Server, *, timeout: float = _TIMEOUT, tls: _Tls = None, server_hostname: str | None = None
) -> list[ConnectionInfo]:
    """The server's connections, with their sessions; the one that asks is among them."""
    return await _ask(server, "cons", _parse_connections, timeout, tls, server_hostname)


async def dump(
    server: _Server, *, timeout: float = _TIMEOUT, tls: _Tls = None, server_hostname: str | None = None
) -> SessionDump:
    """Sessions, and the ephemeral nodes that belong to them. Complete on the leader."""
    return await _ask(server, "dump", _parse_dump, timeout, tls, server_hostname)


async def wchs(
    server: _Server, *, timeout: float = _TIMEOUT, tls: _Tls = None, server_hostname: str | None = None
) -> WatchSummary:
    """How many watches the server holds."""
    return await _ask(server, "wchs", _parse_watch_summary, timeout, tls, server_hostname)


async def conf(
    server: _Server, *, timeout: float = _TIMEOUT, tls: _Tls = None, server_hostname: str | None = None
) -> dict[str, str]:
    """The configuration in force; in an ensemble with its members (`server.1`, …) and their `version`."""
    return await _ask(server, "conf", _parse_settings, timeout, tls, server_hostname)


async def envi(
    server: _Server, *, timeout: float = _TIMEOUT, tls: _Tls = None, server_hostname: str | None = None
) -> dict[str, str]:
    """The server's environment: Java, operating system, class path, memory."""
    return await _ask(server, "envi", _parse_settings, timeout, tls, server_hostname)


async def _ask(
    server: _Server,
    command: str,
    parse: Callable[[str], _T],
    timeout: float,
    tls: _Tls,
    server_hostname: str | None,
) -> _T:
    text = await four_letter(server, command, timeout=timeout, tls=tls, server_hostname=server_hostname)
    try:
        # A server on Windows ends its lines the Windows way.
        return parse(text.replace("\r\n", "\n"))
    except _UnreadableError as error:
        problem = str(error) if text else "the connection was closed without one (maxClientCnxns? a TLS port?)"
        raise MalformedAnswerError(str(_endpoint(server)), command, problem, text) from None


# --- reading the answers ------------------------------------------------------------------------------------------
#
# Numbers are bounded to what 64 bits can have: Python's int() takes far more, and refuses thousands of digits.

_REFUSED: Final = re.compile(r".{4} is not executed because it is not in the whitelist", re.DOTALL)
_NOT_SERVING: Final = "This ZooKeeper instance is not currently serving requests"
_VERSION: Final = re.compile(r"[0-9]{1,9}(?:\.[0-9]{1,9}){0,9}")
_INTEGER: Final = re.compile(r"-?[0-9]{1,19}")
_REAL: Final = re.compile(r"-?(?:[0-9]{1,400}(?:\.[0-9]{1,40})?(?:[eE][+-]?[0-9]{1,4})?|Infinity)|NaN")
_HEXADECIMAL: Final = re.compile(r"0x([0-9a-f]{1,16})")
_CONNECTION: Final = re.compile(r" ?(?P<address>.*)\[[0-9a-f]*\]\((?P<fields>[^()]*)\)")
_WATCHES: Final = re.compile(
    r"(?P<connections>[0-9]{1,19}) connections watching (?P<paths>[0-9]{1,19}) paths\s+"
    r"Total watches:(?P<watches>[0-9]{1,19})\s*"
)


def parse_version(text: str) -> ServerVersion:
    """Reads a version as servers write it: `3.9.5-293c895a…, built on 2026-02-11 20:18 UTC`."""
    numbers = _VERSION.match(text)
    return ServerVersion(tuple(int(part) for part in numbers[0].split(".")) if numbers else (), text)


def _parse_ruok(text: str) -> bool:
    if text.strip() not in ("imok", ""):
        raise _UnreadableError("neither 'imok' nor nothing")
    return text.strip() == "imok"


def _parse_read_only(text: str) -> bool | None:
    answers = {"rw": False, "ro": True, "null": None}
    if text.strip() not in answers:
        raise _UnreadableError("neither 'rw', 'ro' nor 'null'")
    return answers[text.strip()]


def _parse_status(text: str) -> ServerStatus:
    fields = dict(line.split(": ", 1) for line in _whole_lines(text) if ": " in line)
    latency = _field(fields, "Latency min/avg/max").split("/")
    if len(latency) != 3:
        raise _UnreadableError(f"{len(latency)} latencies instead of three")
    return ServerStatus(
        version=parse_version(_field(fields, "Zookeeper version")),
        latency_min=_integer(latency[0]),
        latency_avg=_real(latency[1]),
        latency_max=_integer(latency[2]),
        received=_integer(_field(fields, "Received")),
        sent=_integer(_field(fields, "Sent")),
        connections=_integer(_field(fields, "Connections")),
        outstanding=_integer(_field(fields, "Outstanding")),
        zxid=_hexadecimal(_field(fields, "Zxid")),
        mode=_field(fields, "Mode"),
        node_count=_integer(_field(fields, "Node count")),
    )


def _parse_metrics(text: str) -> dict[str, int | float | str]:
    metrics: dict[str, int | float | str] = {}
    for line in _whole_lines(text):
        name, tab, value = line.partition("\t")
        if not tab:
            raise _UnreadableError(f"a line without a tab: {line[:_EXCERPT]!r}")
        metrics[name] = _metric(value)
    if not metrics:
        raise _UnreadableError("it has no metrics")
    return metrics


def _metric(value: str) -> int | float | str:
    if _INTEGER.fullmatch(value):
        return int(value)
    return float(value) if _REAL.fullmatch(value) else value


def _parse_clients(text: str) -> list[ConnectionInfo]:
    # The clients stand between their heading and an empty line; around them is the answer to `srvr`.
    _, heading, rest = text.partition("\nClients:\n")
    clients, end, _ = rest.partition("\nLatency ")
    if not heading or not end:
        raise _UnreadableError("it has no complete list of clients")
    return [_connection_info(line) for line in _lines(clients)]


def _parse_connections(text: str) -> list[ConnectionInfo]:
    # The list ends with an empty line, and is nothing else when there are no connections.
    if text != "\n" and not text.endswith("\n\n"):
        raise _UnreadableError("it was cut short")
    return [_connection_info(line) for line in _lines(text)]


def _connection_info(line: str) -> ConnectionInfo:
    match = _CONNECTION.fullmatch(line)
    if match is None:
        raise _UnreadableError(f"not a connection: {line[:_EXCERPT]!r}")
    fields = dict(field.split("=", 1) for field in match["fields"].split(",") if "=" in field)
    return ConnectionInfo(
        # Java writes `name/address:port`, mostly without a name.
        address=match["address"].rpartition("/")[2],
        queued=_integer(_field(fields, "queued")),
        received=_integer(_field(fields, "recved")),
        sent=_integer(_field(fields, "sent")),
        session_id=_optional(fields, "sid", _hexadecimal),
        last_operation=fields.get("lop"),
        established=_optional(fields, "est", _integer),
        timeout=_optional(fields, "to", _integer),
        last_cxid=_optional(fields, "lcxid", _hexadecimal),
        last_zxid=_optional(fields, "lzxid", _hexadecimal),
        last_response=_optional(fields, "lresp", _integer),
        last_latency=_optional(fields, "llat", _integer),
        latency_min=_optional(fields, "minlat", _integer),
        latency_avg=_optional(fields, "avglat", _integer),
        latency_max=_optional(fields, "maxlat", _integer),
    )


def _parse_dump(text: str) -> SessionDump:
    head, ephemeral_heading, rest = text.partition("\nephemeral nodes dump:\n")
    nodes, connection_heading, _ = rest.partition("\nConnections dump:\n")
    if not (head.startswith("SessionTracker dump:") and ephemeral_heading and connection_heading):
        raise _UnreadableError("its three parts are not there")
    return SessionDump(_dumped_sessions(head), _dumped_ephemerals(nodes))


def _dumped_sessions(text: str) -> list[int]:
    """By expiry a session is `\\t0x…`, in the list of global sessions `0x…\\t10000ms`."""
    return [_hexadecimal(line.split()[0]) for line in _lines(text) if line.lstrip().startswith("0x")]


def _dumped_ephemerals(text: str) -> dict[int, list[str]]:
    """`0x…:` and then the session's paths, a line each: `\\t/path`."""
    ephemerals: dict[int, list[str]] = {}
    paths: list[str] | None = None
    for line in _lines(text):
        if line.startswith("0x"):
            paths = ephemerals.setdefault(_hexadecimal(line.rstrip(":")), [])
        elif line.startswith("\t"):
            if paths is None:
                raise _UnreadableError(f"an ephemeral node of no session: {line[:_EXCERPT]!r}")
            paths.append(line[1:])
    return ephemerals


def _parse_watch_summary(text: str) -> WatchSummary:
    match = _WATCHES.fullmatch(text)
    if match is None:
        raise _UnreadableError("not a summary of watches")
    return WatchSummary(int(match["connections"]), int(match["paths"]), int(match["watches"]))


def _parse_settings(text: str) -> dict[str, str]:
    """`name=value` lines; the others are headings (`Environment:`, `membership:`)."""
    settings = dict(line.split("=", 1) for line in _lines(text) if "=" in line)
    if not settings:
        raise _UnreadableError("it has no settings")
    return settings


def _lines(text: str) -> list[str]:
    # Not splitlines(): that also splits at characters which a path or a setting may contain.
    return [line for line in text.split("\n") if line.strip()]


def _whole_lines(text: str) -> list[str]:
    # Without its end a number in the last line would still be a number, and wrong.
    if not text.endswith("\n"):
        raise _UnreadableError("it was cut short")
    return _lines(text)


def _field(fields: dict[str, str], name: str) -> str:
    if name not in fields:
        raise _UnreadableError(f"{name!r} is missing")
    return fields[name]


def _optional(fields: dict[str, str], name: str, read: Callable[[str], int]) -> int | None:
    return read(fields[name]) if name in fields else None


def _integer(text: str) -> int:
    if _INTEGER.fullmatch(text) is None:
        raise _UnreadableError(f"{text[:_EXCERPT]!r} is not a number")
    return int(text)


def _real(text: str) -> float:
    if _REAL.fullmatch(text) is None:
        raise _UnreadableError(f"{text[:_EXCERPT]!r} is not a number")
    return float(text)


def _hexadecimal(text: str) -> int:
    """Java's hexadecimal longs: negative ones are written as their 64 bits."""
    match = _HEXADECIMAL.fullmatch(text)
    if match is None:
        raise _UnreadableError(f"{text[:_EXCERPT]!r} is not a hexadecimal number")
    number = int(match[1], 16)
    return number - (1 << 64) if number >> 63 else number


# --- the AdminServer ----------------------------------------------------------------------------------------------

_URL: Final = re.compile(
    r"http://(?P<host>\[[^\[\]/]+\]|[^\[\]:/?#@]+)(?::(?P<port>[0-9]+))?(?P<path>/[\w./~%-]*)?", re.A
)
_NAME: Final = re.compile(r"[A-Za-z0-9_]+")
_STATUS_LINE: Final = re.compile(r"HTTP/1\.[0-9] (?P<status>[0-9]{3})(?: .*)?")
_LENGTH: Final = re.compile(r"[0-9]{1,19}")
_CHUNK_SIZE: Final = re.compile(rb"([0-9A-Fa-f]{1,16})[ \t]*(?:;.*)?\r\n", re.DOTALL)
_MAX_HEAD: Final = _PIECE


async def admin_command(
    server: _Server,
    name: str,
    *,
    port: int = 8080,
    timeout: float = _TIMEOUT,
    tls: _Tls = None,
    server_hostname: str | None = None,
) -> dict[str, Any]:
    """Runs a command of the AdminServer by its name (`server_stats`, `watch_summary`, …) and returns its answer.

    `server` is a server as everywhere here, whose AdminServer listens at `port` of the same host, or the URL of the
    commands, `http://host:8080/commands` (also where it is `https` that is spoken there: `tls` says so). Raises an
    `AdminError`.
    """
    endpoint, path = _admin_address(server, port)
    if not _NAME.fullmatch(name):
        raise InvalidArgumentError(f"the name of a command has letters, digits and '_': {name!r}")
    way = _way(tls, server_hostname)
    async with _connection(endpoint, name, timeout, way) as (reader, writer):
        writer.write(_http_request(endpoint, f"{path}/{name}"))
        status, body = await _read_response(reader, _limit(name))
    return _command_result(str(endpoint), name, status, body)


def _admin_address(server: _Server, port: int) -> tuple[Endpoint, str]:
    if isinstance(server, Endpoint) or "://" not in server:
        return _endpoint(f"{_bracketed(_endpoint(server).host)}:{port}"), "/commands"
    match = _URL.fullmatch(server)
    if match is None:
        raise InvalidArgumentError(f"not the URL of an AdminServer (http://host:8080/commands): {server!r}")
    return _endpoint(f"{match['host']}:{match['port'] or port}"), (match["path"] or "/commands").rstrip("/")


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _http_request(endpoint: Endpoint, path: str) -> bytes:
    # A name beyond ASCII was just resolved by its IDNA form, so it has one.
    host = endpoint.host if endpoint.host.isascii() else endpoint.host.encode("idna").decode("ascii")
    lines = [
        f"GET {path} HTTP/1.1",
        f"Host: {Endpoint(host, endpoint.port)}",
        "Accept: application/json",
        "Connection: close",
    ]
    return "".join(f"{line}\r\n" for line in [*lines, ""]).encode("ascii")


async def _read_response(reader: asyncio.StreamReader, limit: int) -> tuple[int, bytes]:
    try:
        status, headers = _parse_head(await reader.readuntil(b"\r\n\r\n"))
        return status, await _read_body(reader, headers, limit)
    except asyncio.IncompleteReadError as error:
        raise _UnreadableError(f"it ended early, after {error.partial[:_EXCERPT]!r}") from None
    except asyncio.LimitOverrunError:
        raise _UnreadableError(f"its head, or the head of a chunk, is over {_MAX_HEAD} bytes") from None


def _parse_head(head: bytes) -> tuple[int, dict[str, str]]:
    status_line, *lines = head.decode("latin-1").rstrip("\r\n").split("\r\n")
    status = _STATUS_LINE.fullmatch(status_line)
    if status is None:
        raise _UnreadableError(f"not HTTP: {status_line[:_EXCERPT]!r}")
    fields = (line.partition(":") for line in lines)
    return int(status["status"]), {name.strip().lower(): value.strip() for name, _, value in fields}


async def _read_body(reader: asyncio.StreamReader, headers: dict[str, str], limit: int) -> bytes:
    if "transfer-encoding" in headers:
        if headers["transfer-encoding"].lower() != "chunked":
            raise _UnreadableError(f"transfer encoding {headers['transfer-encoding'][:_EXCERPT]!r}")
        return await _read_chunks(reader, limit)
    length = headers.get("content-length")
    if length is None:
        return await _read_to_end(reader, limit)
    if not _LENGTH.fullmatch(length):
        raise _UnreadableError(f"its length is {length[:_EXCERPT]!r}")
    if int(length) > limit:
        raise _TooLargeError(limit, b"")
    return await reader.readexactly(int(length))


async def _read_chunks(reader: asyncio.StreamReader, limit: int) -> bytes:
    body = bytearray()
    while size := _chunk_size(await reader.readuntil(b"\r\n")):
        if len(body) + size > limit:
            raise _TooLargeError(limit, body)
        body += await reader.readexactly(size)
        if await reader.readexactly(2) != b"\r\n":
            raise _UnreadableError("a chunk is longer than it said")
    return bytes(body)


def _chunk_size(line: bytes) -> int:
    match = _CHUNK_SIZE.fullmatch(line)
    if match is None:
        raise _UnreadableError(f"not the head of a chunk: {line[:_EXCERPT]!r}")
    return int(match[1], 16)


def _command_result(server: str, name: str, status: int, body: bytes) -> dict[str, Any]:
    result = _json_object(body)
    if result is None or "error" not in result:
        if status != 200:
            raise CommandFailedError(server, name, "no such page, or no AdminServer", status)
        text = body[:_EXCERPT].decode("utf-8", "replace")
        raise MalformedAnswerError(server, name, "not a JSON object with an 'error'", text)
    error = result["error"]
    if isinstance(error, str) and error.startswith(_NOT_SERVING):
        raise NotServingError(server, name)
    # Most errors come with status 200; an error status without an error in the answer is none to be trusted either.
    if error is not None or status != 200:
        raise CommandFailedError(server, name, str(error)[:_EXCERPT], status)
    return result


def _json_object(body: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


# --- connections --------------------------------------------------------------------------------------------------


def _endpoint(server: _Server) -> Endpoint:
    if isinstance(server, Endpoint):
        return server
    endpoints, chroot = parse_connect_string(server)
    if len(endpoints) != 1 or chroot:
        raise InvalidArgumentError(f"one server is asked, host:port: {server!r}")
    return endpoints[0]


@contextlib.asynccontextmanager
async def _connection(
    endpoint: Endpoint, command: str, timeout: float, way: _Way | None
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection that ends with the block, or when the time is up; what fails in it becomes an `AdminError`."""
    try:
        async with asyncio.timeout(timeout):
            reader, writer = await _open(endpoint, way)
            try:
                yield reader, writer
            finally:
                await _close(writer)
    except _TooLargeError as error:
        raise AnswerTooLargeError(str(endpoint), command, error.limit, error.beginning) from None
    except _UnreadableError as error:
        raise MalformedAnswerError(str(endpoint), command, str(error), "") from None
    except TimeoutError as error:
        raise AdminTimeoutError(str(endpoint), command, timeout) from error
    except OSError as error:
        raise AdminUnreachableError(str(endpoint), command, error) from error


class _Way(NamedTuple):
    """How a server is reached by TLS."""

    tls: TlsSettings
    server_hostname: str | None


def _way(tls: _Tls, server_hostname: str | None) -> _Way | None:
    if tls is not None and not isinstance(tls, (TlsSettings, ssl.SSLContext)):
        raise InvalidTypeError(f"tls is TlsSettings, an ssl.SSLContext or None, not a {type(tls).__name__}")
    if tls is None:
        return None
    return _Way(TlsSettings(tls) if isinstance(tls, ssl.SSLContext) else tls, server_hostname)


async def _open(endpoint: Endpoint, way: _Way | None) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    try:
        if way is not None:
            return await _open_tls(endpoint, way)
        return await asyncio.open_connection(endpoint.host, endpoint.port, limit=_MAX_HEAD)
    except ValueError as error:
        # A name that can't be looked up at all, such as one with an empty label, is no OSError.
        raise ConnectionError(f"{endpoint.host!r} is not a host name: {error}") from error


async def _open_tls(endpoint: Endpoint, way: _Way) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader = asyncio.StreamReader(limit=_MAX_HEAD)
    protocol = asyncio.StreamReaderProtocol(reader)
    host = way.server_hostname or endpoint.host
    transport = await connect_tls(lambda: protocol, endpoint.host, endpoint.port, way.tls, host)
    return reader, asyncio.StreamWriter(transport, protocol, reader, asyncio.get_running_loop())


async def _close(writer: asyncio.StreamWriter) -> None:
    # Nothing more is to be said, so nothing has to be flushed: abort ends at once even if the server is frozen.
    writer.transport.abort()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


async def _read_to_end(reader: asyncio.StreamReader, limit: int) -> bytes:
    answer = bytearray()
    while piece := await reader.read(_PIECE):
        answer += piece
        if len(answer) > limit:
            raise _TooLargeError(limit, answer)
    return bytes(answer)


def _limit(command: str) -> int:
    return _MAX_LISTING if command in _LISTINGS else _MAX_ANSWER
