"""DIGEST-MD5 (RFC 2831) as ZooKeeper speaks it: realm `zk-sasl-md5`, quality of protection `auth`, digest-uri
`zookeeper/zk-sasl-md5`. Both sides.

Rules of this file: it imports nothing of this package, for the guardian's child loads it by itself; no message has a
password, a digest or a nonce in it. What the other side sends is hostile until it has proven that it knows the
password.

Characters: names and passwords are hashed as ISO 8859-1 where all of them are in it, else as UTF-8 (RFC 2831, 2.1.2.1;
Java's `DigestMD5Base` does the same); in the directives they are UTF-8.
"""

from __future__ import annotations

import re
from hashlib import md5
from hmac import compare_digest
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["URI", "DigestMd5Error", "challenge", "digest", "directives", "is_proof", "respond", "verify"]

URI = "zookeeper/zk-sasl-md5"
"""Of the service, not of a server: all servers of all ensembles have this one."""
REALM = "zk-sasl-md5"

_LARGEST = 4096
"""Bytes of a challenge (RFC 2831: less than 2048) or of a response (4096)."""
_DIRECTIVE = re.compile(
    r"""[ \t\r\n,]*(?P<name>[^\x00-\x20()<>@,;:\\"/\[\]?={}\x7f]+)[ \t\r\n]*=[ \t\r\n]*
        (?:"(?P<quoted>(?:[^"\\]|\\.)*)"|(?P<token>[^\x00-\x20()<>@,;:\\"/\[\]?={}\x7f]+))[ \t\r\n]*(?=,|$)""",
    re.VERBOSE | re.DOTALL,
)
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)
_NEEDS_ESCAPE = re.compile(r'(["\\])')


class DigestMd5Error(ValueError):
    """What the other side sent is no DIGEST-MD5, or doesn't fit."""


def directives(token: bytes) -> dict[str, str]:
    """The directives of a challenge, a response or its proof. Raises `DigestMd5Error`."""
    if len(token) > _LARGEST:
        raise DigestMd5Error(f"a DIGEST-MD5 token of {len(token)} bytes is too large; at most {_LARGEST} are")
    try:
        text = token.decode("utf-8")
    except UnicodeDecodeError:
        text = token.decode("latin-1")
    found: dict[str, str] = {}
    pos = 0
    while text[pos:].strip(" \t\r\n,"):
        match = _DIRECTIVE.match(text, pos)
        if match is None:
            raise DigestMd5Error(f"a DIGEST-MD5 token is malformed at character {pos}")
        name, quoted = match["name"].lower(), match["quoted"]
        if name in found and name != "realm":
            raise DigestMd5Error(f"a DIGEST-MD5 token has the directive {name!r} twice")
        found.setdefault(name, match["token"] if quoted is None else _ESCAPED.sub(r"\1", quoted))
        pos = match.end()
    return found


def challenge(nonce: str) -> bytes:
    """What a server begins with, in the words of ZooKeeper's."""
    return f'realm="{REALM}",nonce="{nonce}",charset=utf-8,algorithm=md5-sess'.encode()


def respond(token: bytes, username: str, password: str, cnonce: str) -> tuple[bytes, bytes]:
    """The answer to a challenge, and what the server will prove itself with. Raises `DigestMd5Error`."""
    asked = directives(token)
    nonce = asked.get("nonce")
    if not nonce:
        raise DigestMd5Error("a DIGEST-MD5 challenge has no nonce")
    if asked.get("algorithm") != "md5-sess":
        raise DigestMd5Error("a DIGEST-MD5 challenge asks for another algorithm than md5-sess")
    if "auth" not in re.split(r"[ \t,]+", asked.get("qop", "auth")):
        raise DigestMd5Error("a DIGEST-MD5 challenge offers no authentication without a security layer (qop=auth)")
    realm = asked.get("realm", "")
    values = (username, password, realm, nonce, cnonce)
    quoted = [("username", username), ("realm", realm), ("nonce", nonce), ("cnonce", cnonce), ("digest-uri", URI)]
    text = "charset=utf-8," + ",".join(f'{name}="{_NEEDS_ESCAPE.sub(_escape, value)}"' for name, value in quoted)
    text += f",nc=00000001,qop=auth,maxbuf=65536,response={digest(*values)}"
    return text.encode(), digest(*values, of_server=True).encode()


def is_proof(token: bytes, expected: bytes) -> bool:
    """Whether the server's last token shows that it knows the password. Raises `DigestMd5Error`."""
    return compare_digest(directives(token).get("rspauth", "").encode(), expected)


def verify(token: bytes, nonce: str, passwords: Mapping[str, str]) -> tuple[str, bytes] | None:
    """The server's side: the user that has proven itself, and the server's own proof; `None`: refused. As whom else the
    client asks to be counted (authzid) changes nothing, as on ZooKeeper's servers. Raises `DigestMd5Error`."""
    told = directives(token)
    username, cnonce, authzid = told.get("username", ""), told.get("cnonce"), told.get("authzid")
    password = passwords.get(username)
    if password is None or cnonce is None or not _fits(told, nonce):
        return None
    values = (username, password, REALM, nonce, cnonce)
    if not compare_digest(told.get("response", "").encode(), digest(*values, authzid=authzid).encode()):
        return None
    return username, b"rspauth=" + digest(*values, authzid=authzid, of_server=True).encode()


def _fits(told: dict[str, str], nonce: str) -> bool:
    """Whether a response is one to the challenge with this nonce. What may be left out has the value that is checked.
    ZooKeeper's servers don't look at nc, nor at maxbuf beyond its being a number."""
    return (
        told.get("nonce") == nonce
        and told.get("realm") == REALM
        and told.get("digest-uri") == URI
        and told.get("qop", "auth") == "auth"
        and told.get("charset", "utf-8") == "utf-8"
    )


def digest(
    username: str,
    password: str,
    realm: str,
    nonce: str,
    cnonce: str,
    *,
    authzid: str | None = None,
    uri: str = URI,
    of_server: bool = False,
) -> str:
    """The response of the client, or the proof of the server, in hexadecimal digits."""
    secret = _md5(b":".join(map(_hashed, (username, realm, password))))
    parts = [secret, nonce.encode(), cnonce.encode(), *([] if authzid is None else [authzid.encode()])]
    first = _md5(b":".join(parts)).hex()
    second = _md5(f"{'' if of_server else 'AUTHENTICATE'}:{uri}".encode()).hex()
    return _md5(f"{first}:{nonce}:00000001:{cnonce}:auth:{second}".encode()).hex()


def _hashed(text: str) -> bytes:
    try:
        return text.encode("latin-1")
    except UnicodeEncodeError:
        return text.encode()


def _md5(data: bytes) -> bytes:
    return md5(data, usedforsecurity=False).digest()


def _escape(match: re.Match[str]) -> str:
    return "\\" + match[1]
