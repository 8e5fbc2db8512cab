"""Paths, chroots and connect strings: everything that is text, checked before a byte is sent.

The path rules are the server's (`PathUtils.validatePath`), which it applies in full at create only; here they hold
for every operation, so that a typing error is an error and not a missing node.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from everlatch.errors import InvalidConnectStringError, InvalidPathError, InvalidTypeError

__all__ = [
    "DEFAULT_PORT",
    "ConnectString",
    "Endpoint",
    "join",
    "parent",
    "parse_connect_string",
    "strip_chroot",
    "validate_path",
]

DEFAULT_PORT = 2181

# PathUtils.java: no control characters, no surrogates, no private use (so nothing beyond U+FFFF either: Java sees
# such characters as surrogates), no specials.
_FORBIDDEN = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\uf8ff\ufff0-\uffff\U00010000-\U0010ffff]")
_MALFORMED = re.compile(r"//|/\.{1,2}(?=/|\Z)|.(?<=/)\Z", re.DOTALL)


def validate_path(path: str, *, sequential: bool = False) -> str:
    """Returns `path` if ZooKeeper accepts it, with `sequential` as the prefix of a numbered node.

    A sequential prefix is checked with a digit behind it, as the server does: `/a/` and `/a/..` are legal then.
    Raises `InvalidPathError`, or `InvalidTypeError` for what isn't `str`.
    """
    if not isinstance(path, str):
        raise InvalidTypeError(f"a path is str, not {type(path).__name__}: {path!r}")
    problem = _problem(path + "1" if sequential else path)
    if problem:
        raise InvalidPathError(f"invalid path {path!r}: {problem}")
    return path


def _problem(path: str) -> str | None:
    if not path.startswith("/"):
        return "it must start with '/'"
    if path == "/":
        return None
    forbidden = _FORBIDDEN.search(path)
    if forbidden:
        return f"character U+{ord(forbidden[0]):04X} at {forbidden.start()} is not allowed"
    malformed = _MALFORMED.search(path)
    if malformed is None:
        return None
    if malformed[0] == "//":
        return f"empty name at {malformed.start()}"
    if malformed[0] == "/":
        return "it must not end with '/'"
    return f"relative name {malformed[0][1:]!r} at {malformed.start() + 1}"


def parent(path: str) -> str:
    """The parent of a valid path; the root is its own."""
    return path[: path.rindex("/")] or "/"


def join(path: str, name: str) -> str:
    """The path of the child `name`."""
    return f"/{name}" if path == "/" else f"{path}/{name}"


def strip_chroot(chroot: str, path: str) -> str:
    """A server path as the client's user sees it. Paths outside the chroot come back as they are."""
    if not chroot:
        return path
    if path == chroot:
        return "/"
    # With the slash: /ab is not below /a.
    return path[len(chroot) :] if path.startswith(chroot + "/") else path


class Endpoint(NamedTuple):
    """A server as it was named: a host name or IP address (IPv6 without brackets), and a port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class ConnectString(NamedTuple):
    """Servers, in the order given and without repetition, and the chroot (`""` for none)."""

    endpoints: tuple[Endpoint, ...]
    chroot: str


def parse_connect_string(text: str) -> ConnectString:
    """Parses `host:port,host:port,[v6]:port/chroot`; the port defaults to 2181, and `/` alone is no chroot.

    Raises `InvalidConnectStringError` that says which part is wrong.
    """
    if not isinstance(text, str):
        raise InvalidTypeError(f"a connect string is str, not {type(text).__name__}: {text!r}")
    servers, slash, rest = text.partition("/")
    endpoints = dict.fromkeys(_endpoint(part.strip(), text) for part in servers.split(","))
    if _SERVER_IN_CHROOT.search(rest):
        raise InvalidConnectStringError(f"connect string {text!r}: the chroot stands once, behind the last server")
    try:
        chroot = validate_path(slash + rest.rstrip()) if slash else "/"
    except InvalidPathError as error:
        raise InvalidConnectStringError(f"connect string {text!r}: chroot: {error}") from None
    return ConnectString(tuple(endpoints), "" if chroot == "/" else chroot)


_SERVER_IN_CHROOT = re.compile(r",[^/,:]+:[0-9]+")
_ENDPOINT = re.compile(r"(?:\[(?P<v6>[^\[\]]+)\]|(?P<host>[^\[\]:\s]+))(?::(?P<port>[0-9]{1,9}))?", re.ASCII)


def _endpoint(part: str, text: str) -> Endpoint:
    if not part:
        raise InvalidConnectStringError(f"connect string {text!r}: a server is empty")
    match = _ENDPOINT.fullmatch(part)
    if match is None:
        hint = " (write IPv6 addresses in brackets)" if part.count(":") > 1 else ""
        if "://" in text:
            hint = " (without a scheme)"
        elif part.count(":") == 1 and not part.endswith(":"):
            hint = " (the port is not a number)"
        raise InvalidConnectStringError(f"connect string {text!r}: {part!r} is not host:port{hint}")
    port = int(match["port"] or DEFAULT_PORT)
    if not 0 < port < 65536:
        raise InvalidConnectStringError(f"connect string {text!r}: port {port} of {part!r} is not 1 to 65535")
    return Endpoint(match["v6"] or match["host"], port)
