"""The bodies of the operations on nodes: what follows the header of a request, and of a reply without an error.

    encode_<operation>_request   decode_<operation>_request      a body that is one value decodes to that value,
    encode_<operation>_reply     decode_<operation>_reply        others to a NamedTuple

Operations that share a record share a function under several names; those with nothing in their request or reply
(ping, delete's reply, …) have none. Those on watches are in `watch_records`, on identities in `auth_records`.

Rules of this file: this is the path of every call, so the frequent replies are decoded without a Python call a field.
Decoders ignore trailing bytes; those named `read_…` return the position behind the record, for records in records.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

from everlatch.errors import InvalidArgumentError
from everlatch.types import ACL, Children, Created, Node, Stat
from everlatch.wire.codes import CreateMode
from everlatch.wire.jute import (
    decode_bool,
    decode_buffer,
    decode_int,
    decode_long,
    decode_string,
    decode_text,
    encode_bool,
    encode_buffer,
    encode_int,
    encode_long,
    encode_path,
    encode_string,
    invalid_length,
    truncated,
)
from everlatch.wire.structures import (
    STAT,
    decode_acls,
    decode_names,
    decode_stat,
    encode_acls,
    encode_names,
    encode_stat,
)

if TYPE_CHECKING:
    from collections.abc import Collection

__all__ = [
    "CreateRequest",
    "CreateTTLRequest",
    "PathAndVersion",
    "PathAndWatch",
    "ReconfigRequest",
    "SetACLRequest",
    "SetDataRequest",
    "decode_check_request",
    "decode_create2_reply",
    "decode_create2_request",
    "decode_create_container_reply",
    "decode_create_container_request",
    "decode_create_reply",
    "decode_create_request",
    "decode_create_ttl_reply",
    "decode_create_ttl_request",
    "decode_delete_request",
    "decode_exists_reply",
    "decode_exists_request",
    "decode_get_acl_reply",
    "decode_get_acl_request",
    "decode_get_all_children_number_reply",
    "decode_get_all_children_number_request",
    "decode_get_children2_reply",
    "decode_get_children2_request",
    "decode_get_children_reply",
    "decode_get_children_request",
    "decode_get_data_reply",
    "decode_get_data_request",
    "decode_get_ephemerals_reply",
    "decode_get_ephemerals_request",
    "decode_reconfig_reply",
    "decode_reconfig_request",
    "decode_set_acl_reply",
    "decode_set_acl_request",
    "decode_set_data_reply",
    "decode_set_data_request",
    "decode_sync_reply",
    "decode_sync_request",
    "encode_check_request",
    "encode_create2_reply",
    "encode_create2_request",
    "encode_create_container_reply",
    "encode_create_container_request",
    "encode_create_reply",
    "encode_create_request",
    "encode_create_ttl_reply",
    "encode_create_ttl_request",
    "encode_delete_request",
    "encode_exists_reply",
    "encode_exists_request",
    "encode_get_acl_reply",
    "encode_get_acl_request",
    "encode_get_all_children_number_reply",
    "encode_get_all_children_number_request",
    "encode_get_children2_reply",
    "encode_get_children2_request",
    "encode_get_children_reply",
    "encode_get_children_request",
    "encode_get_data_reply",
    "encode_get_data_request",
    "encode_get_ephemerals_reply",
    "encode_get_ephemerals_request",
    "encode_reconfig_reply",
    "encode_reconfig_request",
    "encode_set_acl_reply",
    "encode_set_acl_request",
    "encode_set_data_reply",
    "encode_set_data_request",
    "encode_sync_reply",
    "encode_sync_request",
    "read_create_request",
    "read_create_ttl_request",
    "read_node",
    "read_path_and_version",
    "read_path_and_watch",
    "read_set_data_request",
]

_STAT_SIZE = STAT.size
_unpack_stat = STAT.unpack_from
_unpack_int = struct.Struct(">i").unpack_from
_TTL_FLAGS = frozenset((CreateMode.PERSISTENT_WITH_TTL, CreateMode.PERSISTENT_SEQUENTIAL_WITH_TTL))


# --- values of requests -------------------------------------------------------------------------------------------


class PathAndWatch(NamedTuple):
    """A read that may leave a one-shot watch: exists, getData, getChildren."""

    path: str
    watch: bool


class PathAndVersion(NamedTuple):
    """delete and check; version −1 is any."""

    path: str
    version: int


class CreateRequest(NamedTuple):
    """`flags` as in `codes.CreateMode`."""

    path: str
    data: bytes | None
    acls: list[ACL]
    flags: int


class CreateTTLRequest(NamedTuple):
    """`CreateRequest` with a time to live."""

    path: str
    data: bytes | None
    acls: list[ACL]
    flags: int
    ttl_ms: int


class SetDataRequest(NamedTuple):
    """Version −1 is any."""

    path: str
    data: bytes | None
    version: int


class SetACLRequest(NamedTuple):
    """`version` is that of the ACL, −1 is any."""

    path: str
    acls: list[ACL]
    version: int


class ReconfigRequest(NamedTuple):
    """Either joining and leaving servers, or all `new_members`; `config_id` −1 is any."""

    joining: str | None
    leaving: str | None
    new_members: str | None
    config_id: int


# --- reads of one node --------------------------------------------------------------------------------------------


def encode_get_data_request(path: str, watch: bool) -> bytes:
    """Path and whether to leave a watch."""
    return encode_path(path) + encode_bool(watch)


def read_path_and_watch(buf: bytes, pos: int, end: int) -> tuple[PathAndWatch, int]:
    """The record of exists, getData and getChildren."""
    path, pos = decode_text(buf, pos, end)
    watch, pos = decode_bool(buf, pos, end)
    return PathAndWatch(path, watch), pos


def decode_get_data_request(buf: bytes, pos: int, end: int) -> PathAndWatch:
    """The server's side."""
    return read_path_and_watch(buf, pos, end)[0]


encode_exists_request = encode_get_data_request
decode_exists_request = decode_get_data_request
encode_get_children_request = encode_get_data_request
decode_get_children_request = decode_get_data_request
encode_get_children2_request = encode_get_data_request
decode_get_children2_request = decode_get_data_request


def encode_get_data_reply(data: bytes | None, stat: Stat) -> bytes:
    """The server's side; a node's data may be null."""
    return encode_buffer(data) + encode_stat(stat)


def decode_get_data_reply(buf: bytes, pos: int, end: int) -> Node:
    """Data, with `b""` for null, and Stat."""
    start = pos + 4
    if start + _STAT_SIZE > end:
        raise truncated(pos, end, 4 + _STAT_SIZE)
    (length,) = _unpack_int(buf, pos)
    stop = start + length
    if length < 0:
        if length != -1:
            raise invalid_length(pos, end, length)
        stop = start
    elif stop + _STAT_SIZE > end:
        raise invalid_length(pos, end - _STAT_SIZE, length)
    return tuple.__new__(Node, (buf[start:stop], tuple.__new__(Stat, _unpack_stat(buf, stop))))


def read_node(buf: bytes, pos: int, end: int) -> tuple[Node, int]:
    """`decode_get_data_reply` and the position behind it."""
    node = decode_get_data_reply(buf, pos, end)
    return node, pos + 4 + len(node.data) + _STAT_SIZE


def encode_exists_reply(stat: Stat) -> bytes:
    """The server's side."""
    return encode_stat(stat)


def decode_exists_reply(buf: bytes, pos: int, end: int) -> Stat:
    """The Stat of exists, setData and setACL."""
    if pos + _STAT_SIZE > end:
        raise truncated(pos, end, _STAT_SIZE)
    return tuple.__new__(Stat, _unpack_stat(buf, pos))


def encode_get_children_reply(names: Collection[str]) -> bytes:
    """The server's side."""
    return encode_names(names)


def decode_get_children_reply(buf: bytes, pos: int, end: int) -> list[str]:
    """The children's names, in no order."""
    return decode_names(buf, pos, end)[0]


def encode_get_children2_reply(names: Collection[str], stat: Stat) -> bytes:
    """The server's side."""
    return encode_names(names) + encode_stat(stat)


def decode_get_children2_reply(buf: bytes, pos: int, end: int) -> Children:
    """The children's names, in no order, and the node's own Stat."""
    names, pos = decode_names(buf, pos, end)
    return Children(names, decode_stat(buf, pos, end)[0])


def encode_get_acl_request(path: str) -> bytes:
    """A path alone."""
    return encode_path(path)


def decode_get_acl_request(buf: bytes, pos: int, end: int) -> str:
    """The server's side."""
    return decode_text(buf, pos, end)[0]


def encode_get_acl_reply(acls: Collection[ACL], stat: Stat) -> bytes:
    """The server's side."""
    return encode_acls(acls) + encode_stat(stat)


def decode_get_acl_reply(buf: bytes, pos: int, end: int) -> tuple[list[ACL], Stat]:
    """The ACL, and the Stat with the ACL's version."""
    acls, pos = decode_acls(buf, pos, end)
    return acls, decode_stat(buf, pos, end)[0]


# --- writes -------------------------------------------------------------------------------------------------------


def encode_create_request(path: str, data: bytes | None, acls: Collection[ACL], flags: int) -> bytes:
    """Flags as in `codes.CreateMode`; which of them are legal depends on the operation."""
    return encode_path(path) + encode_buffer(data) + encode_acls(acls) + encode_int(flags)


def read_create_request(buf: bytes, pos: int, end: int) -> tuple[CreateRequest, int]:
    """The record of create, create2 and createContainer."""
    path, pos = decode_text(buf, pos, end)
    data, pos = decode_buffer(buf, pos, end)
    acls, pos = decode_acls(buf, pos, end)
    flags, pos = decode_int(buf, pos, end)
    return CreateRequest(path, data, acls, flags), pos


def decode_create_request(buf: bytes, pos: int, end: int) -> CreateRequest:
    """The server's side."""
    return read_create_request(buf, pos, end)[0]


encode_create2_request = encode_create_request
decode_create2_request = decode_create_request
encode_create_container_request = encode_create_request
decode_create_container_request = decode_create_request


def encode_create_ttl_request(path: str, data: bytes | None, acls: Collection[ACL], flags: int, ttl_ms: int) -> bytes:
    """Refuses flags that are not those of a TTL node: the servers (3.8.0 for one) die of such a request."""
    if flags not in _TTL_FLAGS:
        raise InvalidArgumentError(f"createTTL of {path!r} with flags {flags!r}, which are not those of a TTL node")
    return encode_create_request(path, data, acls, flags) + encode_long(ttl_ms)


def read_create_ttl_request(buf: bytes, pos: int, end: int) -> tuple[CreateTTLRequest, int]:
    """The record of createTTL."""
    request, pos = read_create_request(buf, pos, end)
    ttl_ms, pos = decode_long(buf, pos, end)
    return CreateTTLRequest(*request, ttl_ms), pos


def decode_create_ttl_request(buf: bytes, pos: int, end: int) -> CreateTTLRequest:
    """The server's side."""
    return read_create_ttl_request(buf, pos, end)[0]


def encode_create_reply(path: str) -> bytes:
    """The server's side."""
    return encode_path(path)


def decode_create_reply(buf: bytes, pos: int, end: int) -> str:
    """The path, with its number if sequential."""
    return decode_text(buf, pos, end)[0]


def encode_create2_reply(path: str, stat: Stat) -> bytes:
    """The server's side."""
    return encode_path(path) + encode_stat(stat)


def decode_create2_reply(buf: bytes, pos: int, end: int) -> Created:
    """The path, with its number if sequential, and Stat."""
    path, pos = decode_text(buf, pos, end)
    if pos + _STAT_SIZE > end:
        raise truncated(pos, end, _STAT_SIZE)
    return tuple.__new__(Created, (path, tuple.__new__(Stat, _unpack_stat(buf, pos))))


encode_create_container_reply = encode_create2_reply
decode_create_container_reply = decode_create2_reply
encode_create_ttl_reply = encode_create2_reply
decode_create_ttl_reply = decode_create2_reply


def encode_delete_request(path: str, version: int) -> bytes:
    """Path and the version it must have."""
    return encode_path(path) + encode_int(version)


def read_path_and_version(buf: bytes, pos: int, end: int) -> tuple[PathAndVersion, int]:
    """The record of delete and check."""
    path, pos = decode_text(buf, pos, end)
    version, pos = decode_int(buf, pos, end)
    return PathAndVersion(path, version), pos


def decode_delete_request(buf: bytes, pos: int, end: int) -> PathAndVersion:
    """The server's side."""
    return read_path_and_version(buf, pos, end)[0]


encode_check_request = encode_delete_request
decode_check_request = decode_delete_request


def encode_set_data_request(path: str, data: bytes | None, version: int) -> bytes:
    """Path, data and the version that the node must have."""
    return encode_path(path) + encode_buffer(data) + encode_int(version)


def read_set_data_request(buf: bytes, pos: int, end: int) -> tuple[SetDataRequest, int]:
    """The record of setData."""
    path, pos = decode_text(buf, pos, end)
    data, pos = decode_buffer(buf, pos, end)
    version, pos = decode_int(buf, pos, end)
    return SetDataRequest(path, data, version), pos


def decode_set_data_request(buf: bytes, pos: int, end: int) -> SetDataRequest:
    """The server's side."""
    return read_set_data_request(buf, pos, end)[0]


encode_set_data_reply = encode_exists_reply
decode_set_data_reply = decode_exists_reply


def encode_set_acl_request(path: str, acls: Collection[ACL], version: int) -> bytes:
    """Path, ACL and the version that the ACL must have."""
    return encode_path(path) + encode_acls(acls) + encode_int(version)


def decode_set_acl_request(buf: bytes, pos: int, end: int) -> SetACLRequest:
    """The server's side."""
    path, pos = decode_text(buf, pos, end)
    acls, pos = decode_acls(buf, pos, end)
    return SetACLRequest(path, acls, decode_int(buf, pos, end)[0])


encode_set_acl_reply = encode_exists_reply
decode_set_acl_reply = decode_exists_reply


# --- the whole service --------------------------------------------------------------------------------------------


# sync: a path each way. The server only sends it back.
encode_sync_request = encode_get_acl_request
decode_sync_request = decode_get_acl_request
encode_sync_reply = encode_create_reply
decode_sync_reply = decode_create_reply


def encode_reconfig_request(joining: str | None, leaving: str | None, new_members: str | None, config_id: int) -> bytes:
    """Lists of servers in ZooKeeper's own text form."""
    return b"".join(map(encode_string, (joining, leaving, new_members))) + encode_long(config_id)


def decode_reconfig_request(buf: bytes, pos: int, end: int) -> ReconfigRequest:
    """The server's side."""
    joining, pos = decode_string(buf, pos, end)
    leaving, pos = decode_string(buf, pos, end)
    new_members, pos = decode_string(buf, pos, end)
    return ReconfigRequest(joining, leaving, new_members, decode_long(buf, pos, end)[0])


# The new configuration, as the data of its node.
encode_reconfig_reply = encode_get_data_reply
decode_reconfig_reply = decode_get_data_reply


def encode_get_ephemerals_request(prefix: str | None) -> bytes:
    """A prefix of paths as plain text; null and `""` are all."""
    return encode_string(prefix)


def decode_get_ephemerals_request(buf: bytes, pos: int, end: int) -> str | None:
    """The server's side."""
    return decode_string(buf, pos, end)[0]


# A list of paths looks like a list of names.
encode_get_ephemerals_reply = encode_get_children_reply
decode_get_ephemerals_reply = decode_get_children_reply

encode_get_all_children_number_request = encode_get_acl_request
decode_get_all_children_number_request = decode_get_acl_request


def encode_get_all_children_number_reply(number: int) -> bytes:
    """The server's side."""
    return encode_int(number)


def decode_get_all_children_number_reply(buf: bytes, pos: int, end: int) -> int:
    """How many nodes are below, at any depth."""
    return decode_int(buf, pos, end)[0]
