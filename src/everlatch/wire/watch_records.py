"""The bodies of the operations on watches, and the event that a watch sends.

Rules of this file: as in `everlatch.wire.records`. Removing, checking and re-arming have no body in their reply.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

from everlatch.errors import InvalidArgumentError, ProtocolError
from everlatch.wire.jute import (
    decode_int,
    decode_long,
    decode_text,
    decode_vector,
    encode_int,
    encode_long,
    encode_path,
    encode_string,
    encode_vector,
    truncated,
)

if TYPE_CHECKING:
    from collections.abc import Collection

__all__ = [
    "AddWatchRequest",
    "SetWatches2Request",
    "SetWatchesRequest",
    "WatcherTypeRequest",
    "decode_add_watch_reply",
    "decode_add_watch_request",
    "decode_check_watches_request",
    "decode_remove_watches_request",
    "decode_set_watches2_request",
    "decode_set_watches_request",
    "decode_watcher_event",
    "encode_add_watch_reply",
    "encode_add_watch_request",
    "encode_check_watches_request",
    "encode_remove_watches_request",
    "encode_set_watches2_request",
    "encode_set_watches_request",
    "encode_watcher_event",
]

_EVENT = struct.Struct(">ii")
_EVENT_SIZE = _EVENT.size


class AddWatchRequest(NamedTuple):
    """A persistent watch; `mode` as in `codes.AddWatchMode`."""

    path: str
    mode: int


class WatcherTypeRequest(NamedTuple):
    """The watches of a kind on a path; `watcher_type` as in `codes.WatcherType`."""

    path: str
    watcher_type: int


class SetWatchesRequest(NamedTuple):
    """The one-shot watches to arm again, for what happened after `relative_zxid`."""

    relative_zxid: int
    data: list[str]
    exist: list[str]
    child: list[str]


class SetWatches2Request(NamedTuple):
    """`SetWatchesRequest` and the persistent watches."""

    relative_zxid: int
    data: list[str]
    exist: list[str]
    child: list[str]
    persistent: list[str]
    persistent_recursive: list[str]


def encode_add_watch_request(path: str, mode: int) -> bytes:
    """Path and mode."""
    return encode_path(path) + encode_int(mode)


def decode_add_watch_request(buf: bytes, pos: int, end: int) -> AddWatchRequest:
    """The server's side."""
    path, pos = decode_text(buf, pos, end)
    return AddWatchRequest(path, decode_int(buf, pos, end)[0])


def encode_add_watch_reply(err: int) -> bytes:
    """The server's side; real ones always say 0."""
    return encode_int(err)


def decode_add_watch_reply(buf: bytes, pos: int, end: int) -> int:
    """An error code, which repeats that of the header: 0."""
    return decode_int(buf, pos, end)[0]


def encode_remove_watches_request(path: str, watcher_type: int) -> bytes:
    """Path and kind of the watches."""
    return encode_path(path) + encode_int(watcher_type)


def decode_remove_watches_request(buf: bytes, pos: int, end: int) -> WatcherTypeRequest:
    """The server's side."""
    path, pos = decode_text(buf, pos, end)
    return WatcherTypeRequest(path, decode_int(buf, pos, end)[0])


# The same record: one asks whether there are such watches, the other drops them.
encode_check_watches_request = encode_remove_watches_request
decode_check_watches_request = decode_remove_watches_request


def encode_set_watches_request(
    relative_zxid: int, data: Collection[str], exist: Collection[str], child: Collection[str]
) -> bytes:
    """The lists have to be lists: a null one is an error for the server."""
    return encode_long(relative_zxid) + b"".join(map(_encode_paths, (data, exist, child)))


def decode_set_watches_request(buf: bytes, pos: int, end: int) -> SetWatchesRequest:
    """The server's side."""
    zxid, pos = decode_long(buf, pos, end)
    (data, exist, child), _ = _decode_path_lists(buf, pos, end, 3)
    return SetWatchesRequest(zxid, data, exist, child)


def encode_set_watches2_request(
    relative_zxid: int,
    data: Collection[str],
    exist: Collection[str],
    child: Collection[str],
    persistent: Collection[str],
    persistent_recursive: Collection[str],
) -> bytes:
    """As `encode_set_watches_request`, with the persistent watches behind."""
    lists = (data, exist, child, persistent, persistent_recursive)
    return encode_long(relative_zxid) + b"".join(map(_encode_paths, lists))


def decode_set_watches2_request(buf: bytes, pos: int, end: int) -> SetWatches2Request:
    """The server's side."""
    zxid, pos = decode_long(buf, pos, end)
    (data, exist, child, persistent, recursive), _ = _decode_path_lists(buf, pos, end, 5)
    return SetWatches2Request(zxid, data, exist, child, persistent, recursive)


def _encode_paths(paths: Collection[str]) -> bytes:
    return encode_vector(paths, encode_string)


def _decode_path_lists(buf: bytes, pos: int, end: int, count: int) -> tuple[list[list[str]], int]:
    lists = []
    for _ in range(count):
        start = pos
        paths, pos = decode_vector(buf, pos, end, decode_text, smallest=4)
        if paths is None:
            raise ProtocolError(f"null at offset {start}, where a list of paths must be")
        lists.append(paths)
    return lists, pos


def encode_watcher_event(event_type: int, state: int, path: str) -> bytes:
    """The server's side: the body behind the header of a notification."""
    try:
        return _EVENT.pack(event_type, state) + encode_path(path)
    except struct.error as error:
        raise InvalidArgumentError(f"event {event_type!r}, state {state!r}: {error}") from None


def decode_watcher_event(buf: bytes, pos: int, end: int) -> tuple[int, int, str]:
    """Event type, state and path, the chroot included."""
    if end - pos < _EVENT_SIZE:
        raise truncated(pos, end, _EVENT_SIZE)
    event_type, state = _EVENT.unpack_from(buf, pos)
    path, _ = decode_text(buf, pos + _EVENT_SIZE, end)
    return event_type, state, path
