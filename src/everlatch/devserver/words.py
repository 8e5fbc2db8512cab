"""The four-letter words: `ruok srvr stat mntr cons dump wchs isro`, in ZooKeeper's form, for the tools that read it.

Rule of this module: latencies are not measured, and said to be 0. Other words that ZooKeeper knows are refused as those
are that are not in its whitelist; what is no word of its is a frame of an impossible length.
"""

from __future__ import annotations

import itertools
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, NamedTuple

from everlatch.devserver.entries import CREATE_SESSION
from everlatch.devserver.watches import Table
from everlatch.errors import hex_id
from everlatch.wire.codes import Op

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

    from everlatch.devserver.connection import Connection
    from everlatch.devserver.core import Server

__all__ = ["REFUSED_WRITE", "LastAnswer", "answer_to", "is_word"]

REFUSED_WRITE: Final = 0
"""In the place of its operation, where words tell of it."""

_NOT_SERVING: Final = "This ZooKeeper instance is not currently serving requests\n"
_ALWAYS: Final = ("ruok", "isro")
_NAMES: Final[dict[int | None, str]] = {
    None: "null",
    REFUSED_WRITE: "NA",
    CREATE_SESSION: "SESS",
    Op.CLOSE_SESSION: "CLOS",
    Op.CREATE: "CREA",
    Op.CREATE2: "CREA",
    Op.CREATE_CONTAINER: "CREA",
    Op.CREATE_TTL: "CREA",
    Op.DELETE: "DELE",
    Op.EXISTS: "EXIS",
    Op.GET_DATA: "GETD",
    Op.SET_DATA: "SETD",
    Op.GET_ACL: "GETA",
    Op.SET_ACL: "SETA",
    Op.GET_CHILDREN: "GETC",
    Op.GET_CHILDREN2: "GETC",
    Op.GET_ALL_CHILDREN_NUMBER: "GETACN",
    Op.GET_EPHEMERALS: "GETE",
    Op.MULTI: "MULT",
    Op.MULTI_READ: "MLTR",
    Op.SYNC: "SYNC",
    Op.PING: "PING",
    Op.ADD_WATCH: "ADDW",
    Op.CHECK_WATCHES: "CHKW",
    Op.REMOVE_WATCHES: "REMW",
    Op.SET_WATCHES: "SETW",
    Op.SET_WATCHES2: "STW2",
    Op.WHO_AM_I: "HOMI",
    Op.RECONFIG: "RECO",
}
"""Of operations, in ZooKeeper's shorthand: those that are answered in turn."""


class LastAnswer(NamedTuple):
    """What words tell of the last request that was answered."""

    op: int | None = None
    """Or `REFUSED_WRITE`. `None`: there was none yet."""
    xid: int = 0
    """Of the last request that was not a ping."""
    zxid: int = 0
    """In the answer."""


def is_word(first: bytes) -> bool:
    """Whether these first four bytes of a connection are a word of ZooKeeper's."""
    return first in _KNOWN


def answer_to(word: str, core: Server, now: float) -> str:
    """The whole answer; the connection is closed behind it."""
    answer = _ANSWERS.get(word)
    if answer is None:
        return f"{word} is not executed because it is not in the whitelist.\n"
    if core.mode is None and word not in _ALWAYS:
        return _NOT_SERVING
    return answer(core, now)


def _ruok(_: Server, __: float) -> str:
    return "imok"


def _isro(core: Server, _: float) -> str:
    return "null" if core.mode is None else "ro" if core.is_read_only else "rw"


def _version(core: Server) -> str:
    return f"{core.options.features.release}-everlatch-devserver, in memory, for development and tests only"


def _counts(core: Server) -> tuple[int, int]:
    received = core.received + sum(connection.received for connection in core.connections)
    return received, core.sent + sum(connection.sent for connection in core.connections)


def _summary(core: Server) -> str:
    received, sent = _counts(core)
    return _lines(
        "Latency min/avg/max: 0/0.0/0",
        f"Received: {received}",
        f"Sent: {sent}",
        f"Connections: {len(core.connections)}",
        "Outstanding: 0",
        f"Zxid: {hex_id(core.tree.zxid)}",
        f"Mode: {core.mode}",
        f"Node count: {_node_count(core)}",
    )


def _node_count(core: Server) -> int:
    """ZooKeeper counts the root twice, for it knows it by two paths."""
    return len(core.tree.nodes) + 1


def _srvr(core: Server, _: float) -> str:
    return f"Zookeeper version: {_version(core)}\n{_summary(core)}"


def _stat(core: Server, _: float) -> str:
    clients = _lines(*map(_client, core.connections))
    return f"Zookeeper version: {_version(core)}\nClients:\n{clients}\n{_summary(core)}"


def _client(connection: Connection) -> str:
    return f"{_address(connection)}(queued=0,recved={connection.received},sent={connection.sent})"


def _cons(core: Server, now: float) -> str:
    return _lines(*(_client_with_session(connection, core, now) for connection in core.connections), "")


def _client_with_session(connection: Connection, core: Server, now: float) -> str:
    session, last = connection.session, connection.last
    if session is None:
        return _client(connection)
    fields = (
        *("queued=0", f"recved={connection.received}", f"sent={connection.sent}", f"sid={hex_id(session.id)}"),
        *(f"lop={_NAMES[last.op]}", f"est={core.time_ms(connection.since)}"),
        *(f"to={session.timeout_ms}", f"lcxid={hex_id(last.xid)}", f"lzxid={hex_id(last.zxid)}"),
        *(f"lresp={int(now * 1000)}", "llat=0", "minlat=0", "avglat=0", "maxlat=0"),
    )
    return f"{_address(connection)}({','.join(fields)})"


def _address(connection: Connection) -> str:
    return f" {_host_and_port(connection)}[{0 if connection.session is None else 1}]"


def _host_and_port(connection: Connection) -> str:
    host = f"[{connection.host}]" if ":" in connection.host else connection.host
    return f"/{host}:{connection.port}"


def _dump(core: Server, _: float) -> str:
    sessions = [(session.deadline, hex_id(session.id)) for session in core.sessions]
    connections = [(connection.deadline, _dumped_connection(connection)) for connection in core.connections]
    return _lines(
        "SessionTracker dump:",
        *_dumped_sets("Session", core, sessions),
        "ephemeral nodes dump:",
        f"Sessions with Ephemerals ({len(core.tree.owned)}):",
        *(line for owner, paths in core.tree.owned.items() for line in _dumped_ephemerals(owner, paths)),
        "Connections dump:",
        *_dumped_sets("Connections", core, connections),
    )


def _dumped_sets(name: str, core: Server, ends: Collection[tuple[float, str]]) -> list[str]:
    """Who ends at the same time."""
    sets: dict[float, list[str]] = {}
    for deadline, who in sorted(ends):
        sets.setdefault(deadline, []).append(f"\t{who}")
    lines = [(f"{len(who)} expire at {_date(core.time_ms(deadline))}:", *who) for deadline, who in sets.items()]
    return [f"{name} Sets ({len(sets)})/({len(ends)}):", *itertools.chain(*lines)]


def _date(time_ms: int) -> str:
    """As Java prints it."""
    return datetime.fromtimestamp(time_ms / 1000, UTC).strftime("%a %b %d %H:%M:%S UTC %Y")


def _dumped_connection(connection: Connection) -> str:
    session_id = 0 if connection.session is None else connection.session.id
    return f"ip: {_host_and_port(connection)} sessionId: {hex_id(session_id)}"


def _dumped_ephemerals(owner: int, paths: Iterable[str]) -> list[str]:
    return [f"{hex_id(owner)}:", *(f"\t{path}" for path in paths)]


def _wchs(core: Server, _: float) -> str:
    # Of watches for children ZooKeeper tells nothing here.
    watching = [connection.watches for connection in core.connections if connection.watches.have_been]
    paths = [watches.paths(Table.DATA) for watches in watching]
    total = sum(map(len, paths))
    return f"{len(watching)} connections watching {len(set().union(*paths))} paths\nTotal watches:{total}\n"


def _mntr(core: Server, _: float) -> str:
    received, sent = _counts(core)
    tree = core.tree
    metrics = {
        "version": _version(core),
        "server_state": core.mode,
        "packets_received": received,
        "packets_sent": sent,
        "num_alive_connections": len(core.connections),
        "outstanding_requests": 0,
        "znode_count": _node_count(core),
        "watch_count": sum(len(connection.watches) for connection in core.connections),
        "ephemerals_count": sum(map(len, tree.owned.values())),
        "approximate_data_size": sum(len(path) + len(node.data or b"") for path, node in tree.nodes.items()),
        "global_sessions": len(core.sessions),
        "local_sessions": 0,
    }
    return _lines(*(f"zk_{name}\t{value}" for name, value in metrics.items()))


def _lines(*lines: str) -> str:
    return "".join(f"{line}\n" for line in lines)


_ANSWERS: Final[dict[str, Callable[[Server, float], str]]] = {
    "ruok": _ruok,
    "srvr": _srvr,
    "stat": _stat,
    "mntr": _mntr,
    "cons": _cons,
    "dump": _dump,
    "wchs": _wchs,
    "isro": _isro,
}
_REFUSED: Final = ("conf", "envi", "crst", "srst", "wchc", "wchp", "dirs", "hash", "gtmk", "stmk")
_KNOWN: Final = frozenset(word.encode() for word in (*_ANSWERS, *_REFUSED))
