"""Who a connection is, and what an ACL lets it do. Pure.

    world    everybody; in ACLs only, as `world:anyone`
    ip       the address, which a connection has from the start; in ACLs a network too: `10.0.0.0/8`
    digest   `user:base64(sha1(user:password))`; nothing is ever checked, a wrong password is another identity
    sasl     who the client has proven to be; `super` is in every ACL that names anybody of this scheme
    x509     the subject of the certificate that the client has shown, as RFC 2253 writes it
    auth     in ACLs only: whatever the connection has authenticated as
    super    the digest identity that the server was started with: may do everything

Rule of this module: an ACL is checked for sense when it is set; one that is asked is known to have passed that.
"""

from __future__ import annotations

import base64
import hashlib
import ipaddress
import re
from typing import TYPE_CHECKING, Final, NamedTuple

from everlatch.devserver.subjects import is_subject
from everlatch.errors import AuthFailedError, InvalidACLError, NoAuthError
from everlatch.types import ACL, ClientInfo, Permission

if TYPE_CHECKING:
    from collections.abc import Collection

__all__ = [
    "Identity",
    "authenticate",
    "client_info",
    "demand",
    "digest",
    "hide_digests",
    "may",
    "settled_acl",
]


_AUTHENTICATED: Final = frozenset({"digest", "sasl", "x509"})
_PRINCIPAL: Final = re.compile(r"[^/@]*(/[^/@]*)?@[^/@]*")
"""Of Kerberos, if there is an @ in it."""


class Identity(NamedTuple):
    """One of those that a connection has."""

    scheme: str
    id: str

    def __repr__(self) -> str:  # as that of an ACL: without the hash of a password
        user, colon, _ = self.id.partition(":") if self.scheme == "digest" else (self.id, "", "")
        return f"Identity(scheme={self.scheme!r}, id={user + (colon and ':…')!r})"


def digest(credentials: bytes) -> str:
    """`user:password` as it stands in ACLs. Without a colon all of it is the user."""
    hashed = base64.b64encode(hashlib.sha1(credentials, usedforsecurity=False).digest()).decode()
    user = credentials.partition(b":")[0].decode("utf-8", "replace")
    return f"{user}:{hashed}"


def authenticate(
    scheme: str, credentials: bytes, present: Collection[Identity], super_digest: str | None
) -> list[Identity]:
    """What a connection with these identities gains; `AuthFailedError` for a scheme that nobody can prove this way."""
    if scheme in ("ip", "x509"):  # which it has from the start, or not at all
        own = [identity for identity in present if identity.scheme == scheme]
        if not own:
            raise AuthFailedError
        return own
    if scheme != "digest":
        raise AuthFailedError
    identity = Identity("digest", digest(credentials))
    return [Identity("super", ""), identity] if identity.id == super_digest else [identity]


def client_info(identity: Identity) -> ClientInfo:
    """As whoAmI tells it: without the hash of the password."""
    user = identity.id.partition(":")[0] if identity.scheme == "digest" else identity.id
    return ClientInfo(identity.scheme, user)


def may(acl: Collection[ACL], identities: Collection[Identity], permission: Permission) -> bool:
    """Whether one of the identities has one of these permissions. An empty ACL stops nobody."""
    if not acl:
        return True
    granted = [entry for entry in acl if entry.permissions & permission.value]
    return (
        any(entry.scheme == "world" for entry in granted)
        or any(_matches(entry, identity) for entry in granted for identity in identities)
        or any(identity.scheme == "super" for identity in identities)
    )


def demand(acl: Collection[ACL], identities: Collection[Identity], permission: Permission) -> None:
    """Raises `NoAuthError` unless they `may`."""
    if not may(acl, identities, permission):
        raise NoAuthError


def _matches(entry: ACL, identity: Identity) -> bool:
    if entry.scheme != identity.scheme:
        return False
    if entry.scheme == "sasl" and identity.id == "super":
        return True
    if entry.scheme != "ip":
        return entry.id == identity.id
    address, network = ipaddress.ip_address(identity.id), ipaddress.ip_network(entry.id, strict=False)
    return address in network


def hide_digests(acl: Collection[ACL]) -> list[ACL]:
    """What getACL tells those who may not administer: `user:x` instead of hashes."""
    return [
        entry._replace(id=f"{entry.id.partition(':')[0]}:x") if entry.scheme == "digest" else entry for entry in acl
    ]


def settled_acl(
    acls: Collection[ACL],
    identities: Collection[Identity],
    *,
    ipv6: bool = True,
    schemes: Collection[str] = (),
) -> tuple[ACL, ...]:
    """The list as it is kept: each entry once, `auth` replaced by who the connection is.

    Raises `InvalidACLError` for an empty list, a scheme or an id that no server accepts, and `auth` of a connection
    that has authenticated as nobody. Before 3.9 servers don't accept IPv6. `schemes` are those of sasl and x509
    that the server knows.
    """
    if not acls:
        raise InvalidACLError
    return tuple(kept for entry in dict.fromkeys(acls) for kept in _settled(entry, identities, ipv6, schemes))


def _settled(entry: ACL, identities: Collection[Identity], ipv6: bool, schemes: Collection[str]) -> list[ACL]:
    if entry.scheme == "auth":
        own = [ACL(entry.permissions, *identity) for identity in identities if identity.scheme in _AUTHENTICATED]
        if not own:
            raise InvalidACLError
        return own
    if not _is_valid(entry, ipv6, schemes):
        raise InvalidACLError
    return [entry]


def _is_valid(entry: ACL, ipv6: bool, schemes: Collection[str]) -> bool:
    if entry.scheme == "world":
        return entry.id == "anyone"
    if entry.scheme == "digest":
        # As Java splits: colons at the end don't count.
        return entry.id.rstrip(":").count(":") == 1
    if entry.scheme == "ip":
        return _is_network(entry.id, ipv6)
    if entry.scheme not in schemes:
        return False
    if entry.scheme == "sasl":
        return "@" not in entry.id or _PRINCIPAL.fullmatch(entry.id) is not None
    return is_subject(entry.id)


def _is_network(text: str, ipv6: bool) -> bool:
    address, slash, bits = text.partition("/")
    if slash and not (bits.isascii() and bits.isdigit()):  # Python also takes a netmask there
        return False
    try:
        network = ipaddress.ip_network(text, strict=False)
    except ValueError:
        return False
    return "%" not in address and (ipv6 or network.version == 4)
