"""SASL on the dev server, without sockets and beside an ensemble; what real servers do, too, is in `conformance`."""

from __future__ import annotations

from typing import Any

import pytest

from devserver.cluster import Cluster
from everlatch import Client, DigestMd5
from everlatch.devserver import DevEnsemble, DevServer, Options
from everlatch.devserver.sasl import Exchange, nonce
from everlatch.errors import AuthFailedError, EverlatchError, InvalidArgumentError, NoAuthError, ProtocolError
from everlatch.types import CREATOR_ALL_ACL, ClientInfo
from everlatch.wire.digest_md5 import challenge, is_proof, respond

USERS = {"bob": "secret", "alice": "1"}
BOB = ClientInfo("sasl", "bob")
LIMIT = 20.0


def test_an_exchange() -> None:
    exchange = Exchange(USERS, "n")
    asked = exchange.answer(b"")
    assert asked == challenge("n")
    assert exchange.user is None
    answer, expected = respond(asked, "bob", "secret", "c")
    assert is_proof(exchange.answer(answer), expected)
    assert exchange.user == "bob"
    for more in (b"", answer):
        with pytest.raises(AuthFailedError):
            exchange.answer(more)


@pytest.mark.parametrize(("user", "password"), [("bob", "1"), ("eve", "secret"), ("", "")])
def test_who_does_not_know_the_password_is_nobody(user: str, password: str) -> None:
    exchange = Exchange(USERS, "n")
    answer, _ = respond(exchange.answer(b""), user, password, "c")
    with pytest.raises((AuthFailedError, ProtocolError)) as refused:
        exchange.answer(answer)
    assert exchange.user is None
    assert "secret" not in str(refused.value)


def test_the_same_seed_gives_the_same_nonce() -> None:
    assert nonce(1, 2, 3) == nonce(1, 2, 3)
    assert len({nonce(1, 2, number) for number in range(1000)}) == 1000


def test_options_that_make_no_sense() -> None:
    for user in ("", "bob/host", "bob@REALM"):
        with pytest.raises(InvalidArgumentError, match="no user of DIGEST-MD5"):
            Options(sasl={user: "secret"})


def test_what_is_demanded() -> None:
    assert Options(sasl=USERS).demanded_scheme is None
    assert Options(require_auth=True).demanded_scheme == "digest"
    assert Options(require_auth=True, sasl=USERS).demanded_scheme == "sasl"


def test_options_do_not_show_passwords() -> None:
    assert "secret" not in repr(Options(sasl=USERS, require_auth=True))


async def test_a_client_gets_in_and_is_its_user() -> None:
    async with (
        DevServer(sasl=USERS, require_auth=True) as server,
        Client(server.address, sasl=DigestMd5("bob", "secret"), start_timeout=LIMIT) as client,
    ):
        assert BOB in await client.who_am_i()
        await client.create("/mine", acl=CREATOR_ALL_ACL)
        async with Client(server.address, sasl=DigestMd5("alice", "1"), start_timeout=LIMIT) as alice:
            with pytest.raises(NoAuthError):
                await alice.get("/mine")


@pytest.mark.parametrize("options", [{}, {"sasl": DigestMd5("bob", "wrong")}, {"auth": [("digest", b"bob:secret")]}])
async def test_a_client_that_has_not_authenticated_does_not_get_in(options: dict[str, Any]) -> None:
    async with DevServer(sasl=USERS, require_auth=True) as server:
        client = Client(server.address, start_timeout=LIMIT, **options)
        with pytest.raises(EverlatchError) as refused:
            await _use(client)
        assert "secret" not in str(refused.value)
        await client.close()


async def _use(client: Client) -> None:
    await client.start()
    await client.create("/a", timeout=LIMIT)


async def test_in_an_ensemble_every_server_demands_it_and_the_leader_hears_who_writes() -> None:
    async with (
        DevEnsemble(3, sasl=USERS, require_auth=True) as ensemble,
        Client(ensemble.address, sasl=DigestMd5("bob", "secret"), start_timeout=LIMIT) as client,
    ):
        await client.create("/mine", acl=CREATOR_ALL_ACL)
        for member in ensemble.members:
            async with Client(member.address, sasl=DigestMd5("bob", "secret"), start_timeout=LIMIT) as other:
                await other.sync("/mine")
                assert (await other.set("/mine", b"x")).version == member.core.number


def test_members_have_nonces_of_their_own() -> None:
    cluster = Cluster(3)
    nonces = {member.nonce(0.0) for member in cluster.members.values() for _ in range(10)}
    assert len(nonces) == 30
