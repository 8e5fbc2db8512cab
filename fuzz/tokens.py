"""Tokens of DIGEST-MD5, made slightly or badly wrong.

Rules of this file: everything comes from the `Random` that is passed in. Half of the mutants are made of directives, so
that they get past a parser; the others of bytes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fuzz.mutation import Mutator

if TYPE_CHECKING:
    from random import Random

__all__ = ["SEEDS", "mutated"]

SEEDS = (
    b'realm="zk-sasl-md5",nonce="N0nce/+=",charset=utf-8,algorithm=md5-sess',
    b'realm="a",realm="b",nonce="n\\"o\\\\nce",qop="auth,auth-int",cipher="rc4,des",stale=true,maxbuf=4096',
    b"rspauth=" + b"0" * 32,
)
_POOL = [*SEEDS, b"", b",", b'"', b"\\", b"=", b'="', b"\xff\xfe", b"nonce", b"a" * 3000, b'\\"' * 500, b",," * 500]
_NAMES = (b"realm", b"nonce", b"qop", b"algorithm", b"charset", b"maxbuf", b"stale", b"cipher", b"rspauth", b"opaque")
_VALUES = (
    *(
        b"",
        b"auth",
        b"auth-int",
        b"auth-conf",
        b"md5-sess",
        b"sha-256",
        b"utf-8",
        b"latin-1",
        b"0",
        b"-1",
        b"99999999999",
    ),
    *(b"zk-sasl-md5", b"x" * 5000, b"\xc3\xbc", b"\xfc", b"\\", b'\\"', b"a b", b"\0", b"%s%n{0}", b"0" * 32),
)


def mutated(token: bytes, rng: Random) -> bytes | None:
    """Another token in the place of this one; `None`: none at all."""
    choice = rng.random()
    if choice < 0.05:
        return None
    if choice < 0.15:
        return rng.choice((b"", rng.randbytes(rng.randrange(100)), *SEEDS))
    if choice < 0.55:
        return Mutator(rng, _POOL).mutate(token)
    directives = token.split(b",")
    for _ in range(rng.randint(1, 3)):
        _change(directives, rng)
    return b",".join(directives)


def _change(directives: list[bytes], rng: Random) -> None:
    at = rng.randrange(len(directives) + 1)
    made = rng.choice(_NAMES) + b"=" + rng.choice((b"%s", b'"%s"')) % rng.choice(_VALUES)
    match rng.randrange(4):
        case 0:
            directives.insert(at, made)
        case 1 if directives:
            directives[at - 1] = made
        case 2 if directives:
            del directives[at - 1]
        case _ if directives:
            directives.insert(at, rng.choice(directives))
