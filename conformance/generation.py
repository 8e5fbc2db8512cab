"""Sequences, from a seed and a number.

Rules of this file: the same seed and number give the same sequence, wherever. Each sequence has moods of its own (which
requests are frequent in it, which paths, how long a session keeps the word), so that every combination has a chance.
What no sequence has stands in `differences.LEFT_OUT`.
"""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING, Any, Final

from conformance.guess import Guess, parent_of
from conformance.steps import Auth, Call, Drop, Reattach, Step, Unknown
from everlatch.devserver.identities import digest
from everlatch.types import ACL, CREATOR_ALL_ACL, OPEN_ACL_UNSAFE, READ_ACL_UNSAFE
from everlatch.wire.codes import Op
from everlatch.wire.multi import CheckPart, CreatePart, DeletePart, GetChildrenPart, GetDataPart, SetDataPart

if TYPE_CHECKING:
    from collections.abc import Callable

    from conformance.steps import Act
    from everlatch.wire.multi import Part

__all__ = ["sequence"]

_SHORTEST, _LONGEST = 20, 400
_BOB, _ALICE, _EVE = b"bob:secret", b"alice:1", "eve-größe-日本:ü".encode()
_NODES: Final = ("~", "~/a", "~/b", "~/a/c", "~/a/d", "~/a/c/e", "~/b/f")
_NUMBERED: Final = tuple(f"{parent}/n-{number:010d}" for parent in ("~", "~/a", "~/b") for number in range(4))
_OWN: Final = ("/", "/zookeeper", "/zookeeper/config", "/zookeeper/quota", "/zookeeper/other", "/elsewhere", "")
_ODD: Final = (
    *("~/", "~//a", "~/.", "~/..", "~/a/./c", "~/a/../b", "~/...", "a", "//", "~/\0", "~/\x01", "~/\x7f", "~/\ud7ff"),
    *("~/\ue000", "~/\ufff0", "~/größe", "~/日本", "~/" + "long" * 60, "~/a/c/e/g", "~/a/", "zookeeper", "~b", "~/ "),
)


class _Digest(ACL):
    """Shows itself as a whole: what nobody's password is made of is no secret, and a script needs all of it."""

    def __repr__(self) -> str:
        return f"ACL({self.permissions}, {self.scheme!r}, {self.id!r})"


_ENTRIES: Final = (
    *(*OPEN_ACL_UNSAFE, *READ_ACL_UNSAFE, *CREATOR_ALL_ACL, _Digest(31, "digest", digest(_BOB)), ACL(1, "auth", "any")),
    *(_Digest(31, "digest", digest(_ALICE)), _Digest(31, "digest", digest(_EVE)), ACL(64, "world", "anyone")),
    *(
        ACL(31, "ip", "127.0.0.1"),
        ACL(31, "ip", "127.0.0.0/8"),
        ACL(31, "ip", "127.0.0.1/32"),
        ACL(31, "ip", "10.0.0.1"),
    ),
    *(ACL(31, "ip", "10.1.0.0/16"), ACL(31, "ip", "0.0.0.0/0"), ACL(0, "world", "anyone"), ACL(16, "world", "anyone")),
    *(ACL(31 - bit, "world", "anyone") for bit in (1, 2, 4, 8, 16)),
)
_BAD_ACLS: Final = (
    *((), (ACL(31, "world", "somebody"),), (ACL(31, "nosuch", "x"),), (_Digest(31, "digest", "nocolon"),)),
    *((_Digest(31, "digest", "a:b:c"),), (ACL(31, "ip", "localhost"),), (ACL(31, "ip", "1.2.3.4/33"),)),
    *(
        (ACL(31, "super", ""),),
        (ACL(31, "sasl", "bob"),),
        (_Digest(31, "digest", "a:"),),
        (_Digest(31, "digest", ":a"),),
    ),
    *((ACL(31, "ip", "1.2.3"),), (ACL(31, "ip", "1.2.3.4/-1"),), (ACL(31, "ip", "1.2.3.4/"),), (ACL(31, "ip", ""),)),
    *((ACL(31, "ip", "::1"),), (ACL(31, "ip", "::1/128"),), (ACL(31, "ip", "fe80::/10"),), (ACL(31, "ip", "1::2::3"),)),
    *((*OPEN_ACL_UNSAFE, ACL(31, "x", "y")), (ACL(31, "world", ""),), (ACL(31, "x509", "CN=a"),)),
)
_DATA: Final = (b"", b"1", b"some data", None, b"\0\xff", b"x" * 100)
_CREDENTIALS: Final = (
    *(("digest", _BOB), ("digest", _BOB), ("digest", _ALICE), ("digest", _EVE), ("ip", b"")),
    *(("digest", b"nocolon"), ("digest", b""), ("digest", b":"), ("digest", b"bob:other"), ("digest", b"a:b:c")),
    ("digest", b"super:pw"),
)
_REFUSED: Final = (("world", b"anyone"), ("nosuch", b""), ("sasl", b""), ("auth", b"bob:secret"), ("", b""))
_NO_OPS: Final = (0, 10, 23, 99, 108, 1000, -1, -12, -101)
_TTLS: Final = (100_000_000, 3_600_000, 1 << 39, (1 << 40) - 1)
_BAD_TTLS: Final = (0, -1, -5, 1 << 40, 1 << 62)


class _Generator:
    """Makes one sequence."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self._sessions = random.choice([1, 2, 3, 3, 4, 5])
        self._patience = random.choice([1.0, 3.0, 10.0, 30.0])
        """How many steps a session takes on average before another one has its turn."""
        self._oddity = random.choice([0.0, 0.02, 0.1, 0.2])
        """How often an argument is one that makes no sense."""
        self._nodes = random.sample(_NODES, random.randint(2, len(_NODES)))
        weights = [weight * random.choice([0.0, 0.3, 1.0, 1.0, 3.0]) for weight, _ in self._makers()]
        # Without a node there is nothing to do.
        self._weights = [max(weights[0], 10.0), *weights[1:]]
        self._acls = random.choice([0.0, 0.2, 0.5])
        """How often a node gets an ACL that isn't open."""
        self._sense = random.choice([0.5, 0.8, 0.95])
        """How often a request is one that probably succeeds."""
        self._guess = Guess()
        self._watched: dict[int, list[str]] = {}
        """What each session has probably watched."""
        self._session = 0
        """Who takes the next step."""

    def steps(self) -> list[Step]:
        random = self._random
        makers = [maker for _, maker in self._makers()]
        steps: list[Step] = []
        for _ in range(random.randint(_SHORTEST, _LONGEST)):
            if random.random() * self._patience < 1.0:
                self._session = random.randrange(self._sessions)
            (make,) = random.choices(makers, self._weights)
            steps.append(Step(self._session, make()))
        return steps

    def _makers(self) -> tuple[tuple[float, Callable[[], Act]], ...]:
        return (
            *((20.0, self._create), (10.0, self._delete), (10.0, self._set_data), (3.0, self._set_acl)),
            *((8.0, self._multi), (8.0, self._read), (15.0, self._watch), (3.0, self._multi_read)),
            *((8.0, self._add_watch), (3.0, self._remove_watches), (3.0, self._other), (2.0, self._reattach)),
            *((3.0, self._set_watches), (0.5, self._close), (1.0, self._drop), (1.5, self._auth), (0.2, self._unknown)),
            (1.0, self._cut),
        )

    # -- arguments

    def _odd(self) -> bool:
        return self._random.random() < self._oddity

    def _path(self) -> str:
        """Of a node that probably exists, or of any other."""
        random = self._random
        if self._odd():
            return random.choice(_ODD)
        if random.random() < self._sense:
            return random.choice([*self._guess.nodes][1:] or _NODES)
        chance = random.random()
        if chance < 0.03:
            return random.choice(_OWN)
        return random.choice(_NUMBERED) if chance < 0.1 else random.choice(self._nodes)

    def _new_path(self) -> str:
        """Of a node that probably can be created, or of any other."""
        if not self._odd() and self._random.random() < self._sense:
            nodes = self._guess.nodes
            possible = [path for path in _NODES if path not in nodes and parent_of(path) in nodes]
            if possible:
                return self._random.choice(possible)
        return self._path()

    def _leaf(self) -> str:
        """Of a node that probably can be deleted, or of any other."""
        if self._random.random() < self._sense:
            parents = {parent_of(path) for path in self._guess.nodes}
            possible = [path for path in self._guess.nodes if path not in parents]
            if possible:
                return self._random.choice(possible)
        return self._path()

    def _version(self, probable: int) -> int:
        random = self._random
        if self._odd():
            return random.choice([-2, 1 << 30, -(1 << 31)])
        chance = random.random()
        return -1 if chance < 0.6 else probable if chance < 0.9 else random.choice([0, 1, 2, 3])

    def _acl(self) -> tuple[ACL, ...]:
        if self._odd():
            return self._random.choice(_BAD_ACLS)
        if self._random.random() >= self._acls:
            return OPEN_ACL_UNSAFE
        # The same entry may be there twice.
        return tuple(
            self._random.choices(_ENTRIES, k=self._random.choice([1, 1, 2, 3])) * self._random.choice([1, 1, 2])
        )

    def _bool(self) -> bool:
        return self._random.random() < 0.5

    # -- writes

    def _creation(self) -> tuple[str, tuple[Any, ...]]:
        """The name of an operation, and its arguments."""
        random = self._random
        name = random.choice(["create", "create", "create2", "create2", "create2", "create_container", "create_ttl"])
        flags = random.choice([0, 0, 0, 0, 1, 1, 2, 3])
        if self._odd():
            flags = random.choice([4, 5, 6, 7, -1, 1 << 20])
        if name == "create_container":
            flags = 4 if random.random() < 0.9 else 0
        elif name == "create_ttl":
            flags = random.choice([5, 5, 6])
        path, data, acl = self._new_path(), random.choice(_DATA), self._acl()
        if flags in (2, 3, 6):
            path = random.choice((f"{self._path()}/n-", "~/a/n-", "~/b/n-", path, f"{path}/"))
        ttl = (random.choice(_BAD_TTLS if self._odd() else _TTLS),) if name == "create_ttl" else ()
        if acl not in _BAD_ACLS and not set(ttl) & set(_BAD_TTLS):
            self._guess.create(path, flags, self._session)
        return name, (path, data, acl, flags, *ttl)

    def _create(self) -> Act:
        return Call(*self._creation())

    def _delete(self) -> Act:
        return Call("delete", self._deletion())

    def _deletion(self) -> tuple[str, int]:
        path = self._leaf()
        version = self._version(self._guess.version(path))
        self._guess.delete(path)
        return path, version

    def _set_data(self) -> Act:
        return Call("set_data", self._change())

    def _change(self) -> tuple[str, bytes | None, int]:
        path = self._path()
        version = self._version(self._guess.version(path))
        self._guess.write(path)
        return path, self._random.choice(_DATA), version

    def _set_acl(self) -> Act:
        path = self._path()
        version = self._version(self._guess.aversion(path))
        self._guess.protect(path)
        return Call("set_acl", (path, self._acl(), version))

    def _multi(self) -> Act:
        count = self._random.choice([0, 1, 1, 2, 2, 2, 3, 3, 4, 8])
        # One part that fails is enough: either all make sense, or what they do is forgotten.
        sense, before = self._sense, self._guess.copy()
        makes_sense = self._random.random() < sense
        self._sense = 1.0 if makes_sense else 0.5
        parts = [self._part() for _ in range(count)]
        self._sense = sense
        if self._odd():
            parts.append(GetDataPart(self._path()))
            makes_sense = False
        if not makes_sense:
            self._guess = before
        return Call("multi", tuple(parts))

    def _part(self) -> Part:
        random = self._random
        kind = random.randrange(10)
        if kind < 4:
            name, arguments = self._creation()
            ops = {"create": 1, "create2": 15, "create_container": 19, "create_ttl": 21}
            part = CreatePart(ops[name], *arguments)  # type: ignore[arg-type]
            if name != "create_ttl" and self._odd():
                part = part._replace(op=random.choice([1, 15, 19]))  # type: ignore[arg-type]
            return part._replace(flags=_fitting(part.op, part.flags))
        if kind < 6:
            return DeletePart(*self._deletion())
        if kind < 8:
            return SetDataPart(*self._change())
        return self._check()

    def _check(self) -> CheckPart:
        path = self._path()
        return CheckPart(path, self._version(self._guess.version(path)))

    # -- reads

    def _read(self) -> Act:
        names = ("exists", "get_data", "get_children", "get_children2", "get_acl", "get_all_children_number")
        name = self._random.choice(names)
        return Call(name, (self._path(),) if name in names[-2:] else (self._path(), False))

    def _watch(self) -> Act:
        name = self._random.choice(["exists", "get_data", "get_children", "get_children2"])
        return Call(name, (self._watching(), True))

    def _watching(self) -> str:
        path = self._path() if self._random.random() < 0.7 else self._new_path()
        self._watched.setdefault(self._session, []).append(path)
        return path

    def _multi_read(self) -> Act:
        parts: list[Part] = [
            self._random.choice((GetDataPart, GetChildrenPart))(self._path()) for _ in range(self._random.randrange(5))
        ]
        if self._odd():
            parts.append(self._check())
        return Call("multi_read", tuple(parts))

    def _other(self) -> Act:
        random = self._random
        prefix = random.choice([None, "", "/", "~", "~/", self._path(), self._path()[:-1]])
        return random.choice(
            (
                Call("who_am_i"),
                Call("get_ephemerals", (prefix,)),
                Call("sync", (self._path(),)),
                Call("ping"),
                Call("sasl", (random.choice([b"", b"token"]),)),
                Call("reconfig", (None, "1", None, -1)),
            )
        )

    # -- watches

    def _add_watch(self) -> Act:
        mode = self._random.choice([2, -1, 100]) if self._odd() else self._random.choice([0, 1])
        return Call("add_watch", (self._watching(), mode))

    def _remove_watches(self) -> Act:
        kind = self._random.choice([0, -1, 6]) if self._odd() else self._random.choice([1, 2, 3, 3, 4, 5])
        watched = self._watched.get(self._session, [])[-10:]
        path = self._random.choice(watched) if watched and self._random.random() < self._sense else self._path()
        if "/" in path and path[0] not in "~/":
            path = "~"
        return Call(self._random.choice(["check_watches", "remove_watches"]), (path, kind))

    def _set_watches(self) -> Act:
        random = self._random
        lists = [[self._path() for _ in range(random.choice([0, 0, 1, 2, 3]))] for _ in range(5)]
        since = random.choice([0, 0, 1, 3, 10, 100])
        if random.random() < 0.5:
            return Call("set_watches", (since, *lists[:3]))
        return Call("set_watches2", (since, *lists))

    # -- sessions

    def _close(self) -> Act:
        self._guess.close(self._session)
        return Call("close_session")

    def _drop(self) -> Act:
        return Drop()

    def _reattach(self) -> Act:
        random = self._random
        return Reattach(
            password_is_right=random.random() < 0.85,
            seen=random.choices(["last", "none", "future"], [8, 2, 1])[0],
            is_taken_over=self._bool(),
            has_read_only_byte=random.random() < 0.8,
        )

    def _auth(self) -> Act:
        return Auth(*self._random.choice(_REFUSED if self._odd() else _CREDENTIALS))

    def _unknown(self) -> Act:
        return Unknown(self._random.choice(_NO_OPS))

    def _cut(self) -> Act:
        """A request that ends too early."""
        whole = self._random.choice((self._create, self._set_data, self._multi, self._watch, self._set_watches))()
        assert isinstance(whole, Call)
        return whole._replace(cut=self._random.choice([0, 1, 4, 7, 8, 11, 15, 20, 30]))


def _fitting(op: int, flags: int) -> int:
    """Flags that don't kill a server, or confuse it for longer than one request."""
    if op == Op.CREATE_CONTAINER and flags in (1, 3):
        return flags - 1
    return 7 if flags in (5, 6) and op != Op.CREATE_TTL else flags


def sequence(seed: int, number: int) -> list[Step]:
    """The `number`th sequence of a seed."""
    return _Generator(Random(f"{seed}/{number}")).steps()
