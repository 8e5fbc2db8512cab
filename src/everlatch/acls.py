"""Entries of ACLs for who authenticates with a name and a password (scheme `digest`).

    acl = [digest_acl("bob", "secret"), *READ_ACL_UNSAFE]
    await client.create("/config", b"…", acl=acl)          # everybody reads, bob does everything
    Client("zk1:2181", auth=[("digest", b"bob:secret")])    # is bob

`OPEN_ACL_UNSAFE`, `CREATOR_ALL_ACL` and `READ_ACL_UNSAFE` stand in `everlatch`, as in ZooKeeper's `ZooDefs.Ids`.
"""

from __future__ import annotations

import base64
import hashlib

from everlatch.errors import InvalidArgumentError, InvalidTypeError
from everlatch.types import ACL, Permission

__all__ = ["digest_acl", "digest_id"]


def digest_id(username: str, password: str) -> str:
    """The id of scheme `digest`: `user:BASE64(SHA1("user:password"))` (`DigestAuthenticationProvider.generateDigest`;
    servers may be configured for another algorithm since 3.7: `DigestAuthenticationProvider.digestAlg`).

    Guard it as well: who knows it can try passwords out. Raises `InvalidArgumentError`, `InvalidTypeError`.
    """
    for value in (username, password):
        if not isinstance(value, str):
            raise InvalidTypeError(f"username and password are str, not {type(value).__name__}")
    if not username or ":" in username:  # which is not shown: what is behind the colon may be the password
        raise InvalidArgumentError("a username of scheme digest has no colon and isn't empty")
    secret = _encoded(f"{username}:{password}")
    if secret is None:
        raise InvalidArgumentError("username or password has characters that can't be sent")
    return f"{username}:{base64.b64encode(hashlib.sha1(secret, usedforsecurity=False).digest()).decode()}"


def digest_acl(username: str, password: str, permissions: Permission = Permission.ALL) -> ACL:
    """The entry that gives a name with this password permissions. Raises as `digest_id` does."""
    return ACL(Permission(permissions).value, "digest", digest_id(username, password))


def _encoded(text: str) -> bytes | None:
    """`None`: it can't be. No error comes of it, which would have the text."""
    try:
        return text.encode()
    except UnicodeEncodeError:
        return None
