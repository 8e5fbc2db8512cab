"""What callers pass in, checked before a byte is sent (promise P10).

Rules of this file: one function per kind of argument; it returns what may be used, or raises an
`InvalidArgumentError` that says what would be right.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from everlatch.errors import InvalidACLArgumentError, InvalidArgumentError, InvalidTypeError
from everlatch.paths import validate_path
from everlatch.types import ACL

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "MAX_TTL_MS",
    "checked_acl",
    "checked_config_version",
    "checked_data",
    "checked_servers",
    "checked_timeout",
    "checked_ttl_ms",
    "checked_version",
    "server_path",
    "server_path_of_new",
]

MAX_TTL_MS = 0xFF_FFFF_FFFF
"""The longest TTL: the server keeps it in five bytes."""

_INT_MIN, _INT_MAX = -(2**31), 2**31 - 1
_LONG_MAX = 2**63 - 1
_LONGEST_REMEMBERED = 1024
_LONGEST_TIMEOUT = 1e9
"""Thirty years: what is longer, infinity included, is this."""


@functools.lru_cache(maxsize=8192)
def _valid(chroot: str, path: str) -> str:
    return _in_chroot(chroot, validate_path(path))


def _in_chroot(chroot: str, path: str) -> str:
    if not chroot:
        return path
    return chroot if path == "/" else chroot + path


def server_path(chroot: str, path: str) -> str:
    """The path as the server sees it. Raises `InvalidPathError`, `InvalidTypeError`."""
    # What can't be hashed, the cache would choke on; what is long, it would keep.
    if not isinstance(path, str) or len(path) > _LONGEST_REMEMBERED:
        return _in_chroot(chroot, validate_path(path))
    return _valid(chroot, path)


def server_path_of_new(chroot: str, path: str, sequential: bool) -> str:
    """Like `server_path` for `create`, where a sequential path is only the beginning of the name."""
    if not sequential:
        return server_path(chroot, path)
    return chroot + validate_path(path, sequential=True)


def checked_data(data: bytes) -> bytes:
    """Data is `bytes`: text must be encoded by whoever knows how, and mutable buffers could change under way."""
    if not isinstance(data, bytes):
        raise InvalidTypeError(f"data is bytes, not {type(data).__name__}; encode text, copy buffers with bytes(…)")
    return data


def checked_version(version: int) -> int:
    """An expected version: 32 bits, −1 for any."""
    if isinstance(version, bool) or not isinstance(version, int):
        raise InvalidTypeError(f"a version is int, not {type(version).__name__}: {version!r}")
    if not _INT_MIN <= version <= _INT_MAX:
        raise InvalidArgumentError(f"a version has 32 bits, {version} doesn't fit")
    return version


def checked_config_version(version: int) -> int:
    """The version that a configuration must have to be changed: 64 bits, −1 for any."""
    if isinstance(version, bool) or not isinstance(version, int):
        raise InvalidTypeError(f"from_config is int, not {type(version).__name__}: {version!r}")
    if not -1 <= version <= _LONG_MAX:
        raise InvalidArgumentError(f"from_config is -1 (any) or the version of a configuration, not {version}")
    return version


def checked_servers(name: str, servers: str | Sequence[str]) -> str:
    """Servers of a reconfiguration, as one text: what the argument `name` was given, a text or several."""
    entries = [servers] if isinstance(servers, str) else servers
    if not isinstance(entries, (list, tuple)) or not all(isinstance(entry, str) for entry in entries):
        raise InvalidTypeError(f"{name} is str or a list of str, one a server, not {servers!r}")
    if not entries or not all(entry.strip() for entry in entries):
        raise InvalidArgumentError(f"{name} must name a server or more, and no empty one: {servers!r}")
    return ",".join(entries)


def checked_acl(acl: Sequence[ACL]) -> Sequence[ACL]:
    """An ACL as servers accept it: not empty, and made of `ACL`s."""
    if isinstance(acl, ACL) or not isinstance(acl, (list, tuple)):
        # Not itself: what is none may have the hash of a password in it, or the password.
        raise InvalidACLArgumentError(f"an ACL is a list of everlatch.ACL, not {type(acl).__name__}")
    if not acl:
        raise InvalidACLArgumentError("an ACL can't be empty: nobody could do anything with the node")
    for entry in acl:
        if not isinstance(entry, ACL):
            raise InvalidACLArgumentError(f"not an everlatch.ACL(permissions, scheme, id): {type(entry).__name__}")
        permissions, scheme, identity = entry
        if not (isinstance(permissions, int) and 0 < permissions <= 31):
            raise InvalidACLArgumentError(f"permissions are bits of everlatch.Permission, 1 to 31, not {permissions!r}")
        if not (isinstance(scheme, str) and scheme and isinstance(identity, str)):
            raise InvalidACLArgumentError(f"scheme and id of an ACL are str: {entry!r}")
    return acl


def checked_ttl_ms(path: str, ttl: float) -> int:
    """A time to live in seconds, as the milliseconds that the wire has."""
    if isinstance(ttl, bool) or not isinstance(ttl, (int, float)) or not 0.001 <= ttl <= MAX_TTL_MS / 1000:
        raise InvalidArgumentError(
            f"create {path!r}: a ttl is a number of seconds, 0.001 to {MAX_TTL_MS / 1000:.0f}; not {ttl!r}"
        )
    return round(ttl * 1000)


def checked_timeout(timeout: object) -> float:
    """A timeout in seconds; raises `InvalidArgumentError` for what is none."""
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float)) or not timeout >= 0:
        raise InvalidArgumentError(f"a timeout is a number of seconds, 0 or more, or None; not {timeout!r}")
    return float(min(timeout, _LONGEST_TIMEOUT))
