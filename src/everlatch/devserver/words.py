"""The four-letter words: `ruok srvr stat mntr cons dump wchs isro`, in ZooKeeper's form, for the tools that read it.

Rule of this module: latencies are not measured, and said to be 0. Other words that ZooKeeper knows are refused as those
are that are not in its whitelist; what is no word of its is a frame of an impossible length.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from everlatch.errors import hex_id
from everlatch.wire.codes import Op

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from everlatch.devserver.connection import Connection
    from everlatch.devserver.core import Server

__all__ = ["answer_to", "is_word"]

_NOT_SERVING: Final = "This ZooKeeper instance is not currently serving requests\n"
_ALWAYS: Final = ("ruok", "isro")
_RELEASES: Final = {"3.8": "3.8.5", "3.9": "3.9.5"}
"""As whose latest release the server introduces itself: clients ask what they may send."""
_NAMES: Final = {
    Op.CREATE: "CREA",
    Op.DELETE: "DELE",
    Op.EXISTS: "EXIS",
    Op.GET_DATA: "GETD",
    Op.SET_DATA: "SETD",
    Op.GET_ACL: "GETA",
    Op.SET_ACL: "SETA",
    Op.GET_CHILDREN: "GETC",
    Op.GET_CHILDREN2: "GETC",
    Op.CLOSE_SESSION: "CLOS",
}


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
    release = _RELEASES[core.options.version]
    return f"{release}-everlatch-devserver, in memory, for development and tests only"


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
        f"Node count: {len(core.tree.nodes)}",
    )


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
    session = connection.session
    if session is None:
        return _client(connection)
    fields = (
        *("queued=0", f"recved={connection.received}", f"sent={connection.sent}", f"sid={hex_id(session.id)}"),
        *(f"lop={_operation(connection.last_op)}", f"est={core.time_ms(connection.since)}"),
        *(f"to={session.timeout_ms}", f"lcxid={hex_id(connection.last_xid)}", f"lzxid={hex_id(core.tree.zxid)}"),
        *(f"lresp={int(now * 1000)}", "llat=0", "minlat=0", "avglat=0", "maxlat=0"),
    )
    return f"{_address(connection)}({','.join(fields)})"


def _address(connection: Connection) -> str:
    host = f"[{connection.host}]" if ":" in connection.host else connection.host
    return f" /{host}:{connection.port}[{0 if connection.session is None else 1}]"


def _operation(op: int | None) -> str:
    if op is None:
        return "NA"
    if op == Op.PING:
        return "PING"
    return _NAMES.get(Op(op), "UNKN") if op in _OPS else "UNKN"


def _dump(core: Server, now: float) -> str:
    by_deadline: dict[float, list[str]] = {}
    for session in core.sessions:
        by_deadline.setdefault(session.deadline, []).append(f"\t{hex_id(session.id)}")
    return _lines(
        "SessionTracker dump:",
        f"Session Sets ({len(by_deadline)})/({len(core.sessions)}):",
        *_dumped_sessions(by_deadline, now),
        "ephemeral nodes dump:",
        f"Sessions with Ephemerals ({len(core.tree.owned)}):",
        *(line for owner, paths in core.tree.owned.items() for line in _dumped_ephemerals(owner, paths)),
        "Connections dump:",
        f"Connections ({len(core.connections)}):",
        *map(_address, core.connections),
    )


def _dumped_sessions(by_deadline: dict[float, list[str]], now: float) -> list[str]:
    sets = sorted(by_deadline.items())
    return [
        line
        for deadline, sessions in sets
        for line in (f"{len(sessions)} expire in {deadline - now:.3f} s:", *sessions)
    ]


def _dumped_ephemerals(owner: int, paths: Iterable[str]) -> list[str]:
    return [f"{hex_id(owner)}:", *(f"\t{path}" for path in paths)]


def _wchs(core: Server, _: float) -> str:
    watching = [connection.watches for connection in core.connections if connection.watches]
    paths = {path for watches in watching for path in watches.paths}
    total = sum(map(len, watching))
    return f"{len(watching)} connections watching {len(paths)} paths\nTotal watches:{total}\n"


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
        "znode_count": len(tree.nodes),
        "watch_count": sum(len(connection.watches) for connection in core.connections),
        "ephemerals_count": sum(map(len, tree.owned.values())),
        "approximate_data_size": sum(len(path) + len(node.data or b"") for path, node in tree.nodes.items()),
        "global_sessions": len(core.sessions),
        "local_sessions": 0,
    }
    return _lines(*(f"zk_{name}\t{value}" for name, value in metrics.items()))


def _lines(*lines: str) -> str:
    return "".join(f"{line}\n" for line in lines)


_OPS: Final = frozenset(Op)
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
