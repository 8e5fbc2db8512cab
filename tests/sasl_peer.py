"""SASL DIGEST-MD5 by hand, over a connection by hand: what a client says, right or wrong in one place."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from everlatch.wire import digest_md5
from everlatch.wire.auth_records import decode_sasl_reply, encode_sasl_request
from everlatch.wire.codes import Op

if TYPE_CHECKING:
    from real.raw import Raw

__all__ = ["CNONCE", "USERS", "Token", "authenticate", "begin", "nonce_of", "response", "say"]

USERS = {"bob": "secret", "alice": "1", "super": "boss"}
CNONCE = "OA6MHXh6VqTrRk"


class Token(NamedTuple):
    """An answer of the server's."""

    zxid: int
    code: int
    token: bytes | None


async def say(raw: Raw, token: bytes | None) -> Token:
    """A token, and what the server says to it."""
    reply = await raw.request(Op.SASL, encode_sasl_request(token))
    return Token(reply.zxid, reply.code, decode_sasl_reply(reply.body, 0, len(reply.body)))


async def begin(raw: Raw) -> bytes:
    """The server's challenge."""
    answer = await say(raw, b"")
    assert answer[:2] == (0, 0)
    assert answer.token
    return answer.token


async def authenticate(raw: Raw, user: str = "bob") -> None:
    """The whole exchange, which has to succeed; the server proves itself, too."""
    answer, proof = digest_md5.respond(await begin(raw), user, USERS[user], CNONCE)
    last = await say(raw, answer)
    assert last[:2] == (0, 0)
    assert last.token is not None
    assert digest_md5.is_proof(last.token, proof)


def nonce_of(challenge: bytes) -> str:
    return digest_md5.directives(challenge)["nonce"]


def response(
    challenge: bytes,
    user: str = "bob",
    password: str | None = None,
    *,
    authzid: str | None = None,
    uri: str = digest_md5.URI,
    realm: str | None = None,
    nonce: str | None = None,
    changed: str = "",
    to: str = "",
) -> bytes:
    """A response to a challenge, right for what it says; at last `changed`, a regular expression, is replaced."""
    asked = digest_md5.directives(challenge)
    realm, nonce = asked["realm"] if realm is None else realm, asked["nonce"] if nonce is None else nonce
    secret = USERS.get(user, "nobody's") if password is None else password
    digest = digest_md5.digest(user, secret, realm, nonce, CNONCE, authzid=authzid, uri=uri)
    quoted = {"username": user, "realm": realm, "nonce": nonce, "cnonce": CNONCE, "digest-uri": uri}
    quoted |= {} if authzid is None else {"authzid": authzid}
    text = ",".join(f'{name}="{value}"' for name, value in quoted.items())
    text = f"charset=utf-8,{text},nc=00000001,qop=auth,maxbuf=65536,response={digest}"
    if changed:
        assert re.search(changed, text), changed
        text = re.sub(changed, to, text)
    return text.encode()
