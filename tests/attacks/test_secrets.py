"""No secret in anything that anybody could see: a client with every kind of credentials lives through every kind of
failure, while all that is logged, raised, told and shown by `repr` is searched for them."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import traceback
import types
from typing import TYPE_CHECKING, Any

import pytest

from everlatch import Client, DigestMd5, digest_acl, digest_id
from everlatch.devserver import DevEnsemble, DevServer
from everlatch.errors import EverlatchError
from everlatch.testing import Proxy
from everlatch.testing.certificates import Certificates
from everlatch.types import State
from everlatch.wire.handshake import ConnectRequest, ConnectResponse

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

SASL = "sasl-pa55"
AUTH = "auth-pa55"
LATER = "later-pa55"
KEY = "key-pa55"
WRONG = "wrong-pa55"
USERS = {"bob": SASL}
_NOT_WALKED = (type, types.ModuleType, types.FunctionType, types.BuiltinFunctionType, types.FrameType, types.CodeType)


class Witness(logging.Handler):
    """Collects what can be seen. `secrets` are looked for in it, at the end."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.seen: list[str] = []
        self.secrets = {SASL, AUTH, LATER, KEY, WRONG, *digest_id("carol", AUTH).split(":")[1:]}

    def emit(self, record: logging.LogRecord) -> None:
        self.seen += [record.getMessage(), repr(record.args)]
        if record.exc_info and record.exc_info[1] is not None:
            self.raised(record.exc_info[1])

    def raised(self, error: BaseException | None) -> None:
        """An error, and all that led to it, whether or not it would be printed."""
        met: set[int] = set()
        left = [error]
        while left:
            one = left.pop()
            if one is None or id(one) in met:
                continue
            met.add(id(one))
            self.seen += [str(one), repr(one), repr(one.args), repr(vars(one)), *traceback.format_exception(one)]
            left += [one.__cause__, one.__context__, *getattr(one, "exceptions", ())]

    def look_at(self, client: Client) -> None:
        """Everything that can be reached from a client."""
        self.password(client.session_password)
        self.seen += [repr(client), str(client), repr(client.statistics())]
        for each in reachable(client):
            if isinstance(each, BaseException):
                self.raised(each)
            elif type(each).__module__.startswith("everlatch") or isinstance(each, asyncio.Future | asyncio.Handle):
                self.seen += [repr(each), str(each)]

    def password(self, password: bytes) -> None:
        """Of a session: whoever has it has that."""
        if any(password):
            self.secrets |= {repr(password)[2:-1], password.hex(), repr([*password])[1:-1]}

    def testify(self) -> None:
        found = {secret: [text[:300] for text in self.seen if secret in text][:3] for secret in self.secrets}
        assert not {secret: texts for secret, texts in found.items() if texts}


def reachable(root: object) -> Iterator[Any]:
    """What a debugger would get to, other than code."""
    met, left = {id(root)}, [root]
    while left:
        one = left.pop()
        yield one
        for each in gc.get_referents(one):
            if id(each) not in met and not isinstance(each, _NOT_WALKED):
                met.add(id(each))
                left.append(each)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    made = Certificates(tmp_path_factory.mktemp("certificates"))
    made.issue("locked", password=KEY)
    return made


@pytest.fixture
def witness() -> Iterator[Witness]:
    """Of all that is logged, by anybody; when the test ends, it has seen no secret."""
    made, root = Witness(), logging.getLogger()
    level = root.level
    root.addHandler(made)
    root.setLevel(logging.DEBUG)
    logging.getLogger("everlatch").setLevel(logging.DEBUG)
    try:
        yield made
    finally:
        root.removeHandler(made)
        root.setLevel(level)
        logging.getLogger("everlatch").setLevel(logging.NOTSET)
    made.testify()


@contextlib.asynccontextmanager
async def talkative(witness: Witness) -> AsyncIterator[None]:
    """asyncio tells of everything that runs, with its arguments."""
    loop = asyncio.get_running_loop()
    before = loop.slow_callback_duration
    loop.set_debug(True)
    loop.slow_callback_duration = 0.0
    loop.set_exception_handler(lambda _, context: witness.seen.append(repr(context)))
    try:
        yield
    finally:
        loop.set_exception_handler(None)
        loop.slow_callback_duration = before
        loop.set_debug(False)


def credentials(certificates: Certificates, **other: Any) -> dict[str, Any]:
    """All kinds of them at once."""
    locked = certificates["locked"]
    tls = {"ca": certificates.ca, "cert": locked.cert, "key": locked.key, "key_password": KEY}
    identities = {"sasl": DigestMd5("bob", SASL), "auth": [("digest", f"carol:{AUTH}".encode())]}
    return tls | identities | {"session_timeout": 4.0, "start_timeout": 20.0} | other


async def test_a_life(certificates: Certificates, witness: Witness) -> None:
    """With connections lost, a session expired, a leader gone, credentials added, and calls that fail."""
    changes: list[Any] = []
    tls = certificates.server_context()
    async with talkative(witness), DevEnsemble(3, tls=tls, sasl=USERS, require_auth=True) as ensemble:
        witness.seen.append(repr(ensemble))
        client = Client(ensemble.address, **credentials(certificates))
        client.add_listener(changes.append)
        witness.look_at(client)
        async with client:
            await client.create("/mine", b"x", acl=[digest_acl("carol", AUTH)])
            await client.add_auth("digest", f"dave:{LATER}".encode())
            witness.look_at(client)
            for fault in (client.session_id, 0):
                generation = client.statistics().generation
                waiting = [client.set("/mine", b"y", timeout=None) for _ in range(3)]
                witness.seen += [*map(repr, waiting)]
                if fault:
                    assert ensemble.expire_session(fault)
                else:
                    leader = ensemble.leader
                    assert leader is not None
                    await leader.stop()
                    await leader.start()
                witness.look_at(client)
                for call in waiting:
                    try:
                        await call
                    except EverlatchError as error:
                        witness.raised(error)
                await client.wait_connected(20)
                await client.get("/mine")
                assert not fault or client.statistics().generation > generation
            witness.look_at(client)
        witness.look_at(client)
    assert changes[-1].state is State.CLOSED
    for change in changes:
        witness.seen.append(repr(change))
        witness.raised(change.reason)


Wrong = {
    "sasl": {"sasl": DigestMd5("bob", WRONG)},
    "a user that nobody knows": {"sasl": DigestMd5("eve", WRONG)},
    "no sasl": {"sasl": None},
    "a scheme that nobody knows": {"auth": [("plain", WRONG.encode())]},
    "plain": {"ca": None, "cert": None, "key": None, "key_password": None},
    "an authority that did not issue it": {"ca": "other-ca.pem"},
}


async def _asks(client: Client, witness: Witness) -> None:
    async with client:
        witness.look_at(client)
        await client.get("/")


@pytest.mark.parametrize("name", Wrong)
async def test_what_is_refused(name: str, certificates: Certificates, witness: Witness) -> None:
    wrong: dict[str, Any] = dict(Wrong[name])
    if wrong.get("ca"):
        wrong["ca"] = certificates.other_ca
    changes: list[Any] = []
    tls = certificates.server_context()
    async with talkative(witness), DevServer(tls=tls, sasl=USERS, require_auth=True) as server:
        options = credentials(certificates, start_timeout=None, default_timeout=1.0) | wrong
        client = Client(server.address, **options)
        client.add_listener(changes.append)
        with pytest.raises(EverlatchError) as raised:
            await _asks(client, witness)
        witness.raised(raised.value)
        witness.look_at(client)
    for change in changes:
        witness.seen.append(repr(change))
        witness.raised(change.reason)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Client("127.0.0.1", sasl=SASL),  # type: ignore[arg-type]
        lambda: Client("127.0.0.1", sasl=("bob", SASL)),  # type: ignore[arg-type]
        lambda: Client("127.0.0.1", auth=("digest", f"carol:{AUTH}")),  # type: ignore[arg-type]
        lambda: Client("127.0.0.1", auth=[("digest", f"carol:{AUTH}")]),  # type: ignore[list-item]
        lambda: Client("127.0.0.1", auth=[(AUTH.encode(), b"digest")]),  # type: ignore[list-item]
        lambda: Client("127.0.0.1", auth=[f"carol:{AUTH}"]),  # type: ignore[list-item]
        lambda: Client("127.0.0.1", auth=[("digest", f"carol:{AUTH}".encode() * 200_000)]),
        lambda: Client("127.0.0.1", auth={"digest": AUTH}),  # type: ignore[arg-type]
        lambda: Client("127.0.0.1", acl=digest_acl("carol:" + AUTH, "")),  # type: ignore[arg-type]
        lambda: Client("127.0.0.1", acl=[digest_id("carol", AUTH)]),  # type: ignore[list-item]
        lambda: Client("127.0.0.1", key_password=KEY),
        lambda: Client("127.0.0.1", key_password=KEY.encode()),  # type: ignore[arg-type]
        lambda: DigestMd5("bob", SASL.encode()),  # type: ignore[arg-type]
        lambda: DigestMd5("bob", SASL + "\0"),
        lambda: DigestMd5("bob", SASL + "\ud800"),
        lambda: DigestMd5("", SASL),
        lambda: digest_id("carol", AUTH.encode()),  # type: ignore[arg-type]
        lambda: digest_id("carol", AUTH + "\ud800"),
        lambda: digest_id("", AUTH),
    ],
)
def test_what_is_no_credential(make: Callable[[], object], witness: Witness) -> None:
    with pytest.raises(EverlatchError) as raised:
        make()
    witness.raised(raised.value)


@pytest.mark.parametrize("password", [WRONG, None])
def test_a_key_that_is_locked(password: str | None, certificates: Certificates, witness: Witness) -> None:
    with pytest.raises(EverlatchError) as raised:
        Client("127.0.0.1", **credentials(certificates, key_password=password))
    witness.raised(raised.value)


async def test_credentials_that_are_added(certificates: Certificates, witness: Witness) -> None:
    """With something wrong about them; and by a client that is not there yet, or no more."""
    tls = certificates.server_context()
    async with talkative(witness), DevServer(tls=tls, sasl=USERS, require_auth=True) as server:
        client = Client(server.address, **credentials(certificates))
        tries: list[tuple[Any, Any]] = [
            ("digest", f"dave:{LATER}"),
            (LATER.encode(), b"digest"),
            ("digest", LATER.encode() * 200_000),
            ("digest", None),
        ]
        for scheme, secret in [*tries, ("digest", LATER.encode())]:
            with pytest.raises((EverlatchError, TypeError)) as raised:
                await client.add_auth(scheme, secret)
            witness.raised(raised.value)
        async with client:
            for scheme, secret in tries:
                with contextlib.suppress(EverlatchError, TypeError):
                    await client.add_auth(scheme, secret)
            with pytest.raises(EverlatchError) as raised:
                await client.add_auth("plain", LATER.encode())
            witness.raised(raised.value)
        with pytest.raises(EverlatchError) as raised:
            await client.add_auth("digest", LATER.encode())
        witness.raised(raised.value)
        witness.look_at(client)


async def test_what_a_proxy_tells(witness: Witness) -> None:
    """Its log of requests, its report, and its reprs."""
    async with DevServer(sasl=USERS, require_auth=True) as server, Proxy(server.address) as proxy:
        options = {"sasl": DigestMd5("bob", SASL), "auth": [("digest", f"carol:{AUTH}".encode())]}
        async with Client(proxy.address, **options) as client:  # type: ignore[arg-type]
            await client.get("/")
            witness.password(client.session_password)
            for each in reachable(proxy):
                if type(each).__module__.startswith("everlatch"):
                    witness.seen += [repr(each), str(each)]


def test_handshakes_do_not_show_the_password() -> None:
    password = b"0123456789abcdef"
    texts = [
        repr(ConnectRequest(0, 1, 4000, 7, password, False)),
        repr(ConnectResponse(0, 4000, 7, password, False)),
    ]
    assert texts[0] == (
        "ConnectRequest(protocol_version=0, last_zxid_seen=1, timeout_ms=4000, session_id=7, password=…, "
        "read_only=False)"
    )
    assert not [text for text in texts if password.decode() in text]


def test_the_witness_has_eyes() -> None:
    """This test's own."""
    seen = Witness()
    inner, outer = ValueError(f"no {KEY}"), ValueError("outer")
    outer.__context__ = inner
    outer.__suppress_context__ = True
    seen.raised(outer)
    with pytest.raises(AssertionError):
        seen.testify()
    client = Client("127.0.0.1", auth=[("digest", AUTH.encode())])
    assert any(isinstance(each, bytes) and AUTH.encode() in each for each in reachable(client))
