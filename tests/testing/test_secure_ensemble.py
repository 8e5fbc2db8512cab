"""Real servers that are reached by TLS, and by those who can say who they are: what they let in, and what not."""

from __future__ import annotations

import ssl

import pytest

from everlatch import Client, ClientInfo
from everlatch.errors import InvalidArgumentError, SessionClosedRequireAuthError
from everlatch.kerberos import Kerberos
from everlatch.testing import Ensemble, EnsembleError, Kdc, NetworkEnsemble, SessionNotEndedError, expire_session
from everlatch.wire import digest_md5
from everlatch.wire.auth_records import decode_sasl_reply, decode_who_am_i_reply, encode_sasl_request
from everlatch.wire.codes import Op
from everlatch.wire.records import encode_exists_request
from real.raw import Raw

pytestmark = pytest.mark.real

VERSIONS = ("3.8", "3.9")


async def identities(raw: Raw) -> set[str]:
    """Who the server says that this is, without the address that everybody comes from."""
    reply = await raw.request(Op.WHO_AM_I)
    assert reply.code == 0
    return {f"{each.scheme}:{each.user}" for each in decode_who_am_i_reply(reply.body, 0, len(reply.body))}


def serial_of(raw: Raw) -> int:
    return int(raw._writer.get_extra_info("ssl_object").getpeercert()["serialNumber"], 16)


async def sasl(raw: Raw, name: str, password: str) -> int:
    """Tells the server who this is; the code of its last answer."""
    challenge = await raw.request(Op.SASL, encode_sasl_request(b""))
    token = decode_sasl_reply(challenge.body, 0, len(challenge.body))
    assert token is not None
    response, proof = digest_md5.respond(token, name, password, "not random")
    answer = await raw.request(Op.SASL, encode_sasl_request(response))
    proven = decode_sasl_reply(answer.body, 0, len(answer.body))
    assert (proven is None) if answer.code else digest_md5.is_proof(proven or b"", proof)
    return answer.code


async def looked(raw: Raw) -> int:
    return await raw.code(Op.EXISTS, encode_exists_request("/", False))


@pytest.mark.parametrize("version", VERSIONS)
async def test_one_server_by_tls_for_who_can_say_who_he_is(version: str) -> None:
    users = {"bob": 'pass"word\\ é', "al.ice-1_": "another"}
    async with Ensemble(version=version, tls=True, sasl="digest", require_auth=True, users=users) as ensemble:
        (server,) = ensemble.servers
        certificates = ensemble.certificates
        assert ensemble.connect_string == server.address == f"127.0.0.1:{server.port}" != server.plain_address
        options = ensemble.client_options
        paths = (options["ca"], options["cert"], options["key"])
        assert paths == (certificates.ca, certificates.client_cert, certificates.client_key)
        async with Raw.open(server.address, tls=certificates.client_context()) as raw:
            assert await sasl(raw, "bob", users["bob"]) == 0
            assert await identities(raw) >= {f"x509:{certificates.client.subject}", "sasl:bob"}
            assert serial_of(raw) == certificates["server-1"].serial
            assert await ensemble.server_of(raw.session_id) is server
        async with Raw.open(server.address, tls=certificates.client_context(None)) as raw:
            assert await sasl(raw, "bob", "another") == SessionClosedRequireAuthError.code
            assert await raw.hung_up()
        async with Raw.open(server.plain_address) as raw:
            assert await sasl(raw, "al.ice-1_", "another") == 0
            assert "sasl:al.ice-1_" in await identities(raw)
        async with Client(ensemble.connect_string, **options) as client:
            assert {ClientInfo("sasl", "bob"), ClientInfo("x509", certificates.client.subject)} <= {
                *await client.who_am_i()
            }
            with pytest.raises(SessionNotEndedError, match="error -124; does it demand `auth` or `sasl` first"):
                await expire_session(client, server)
            await expire_session(client, server, sasl=options["sasl"])
            await client.wait_connected()
        async with Raw.open(server.plain_address) as raw:
            assert await raw.authenticate("digest", b"bob:another") == 0
            assert await looked(raw) == SessionClosedRequireAuthError.code
            assert await raw.hung_up()

        certificates.issue(server.name, "elsewhere.example")
        await server.restart()
        with pytest.raises(ssl.SSLCertVerificationError, match="IP address mismatch"):
            await Raw.open(server.address, tls=certificates.client_context()).__aenter__()
    with pytest.raises(EnsembleError, match="tls=True"):
        _ = ensemble.certificates
    for password in users.values():
        assert password not in repr(vars(ensemble))


@pytest.mark.parametrize("version", VERSIONS)
async def test_without_sasl_anybody_who_says_a_name_is_let_in(version: str) -> None:
    async with Ensemble(version=version, require_auth=True) as ensemble:
        (server,) = ensemble.servers
        assert ensemble.client_options == {"auth": [("digest", b"bob:secret")]}
        async with Raw.open(server.address) as raw:
            assert await raw.authenticate(*ensemble.client_options["auth"][0]) == 0
            assert await looked(raw) == 0
            await expire_session((raw.session_id, raw.password), server, **ensemble.client_options)
            assert await raw.hung_up()
        async with Raw.open(server.address) as raw:
            assert await looked(raw) == SessionClosedRequireAuthError.code
            assert await raw.hung_up()


async def test_three_servers_by_tls_each_with_its_own_certificate() -> None:
    async with Ensemble(3, version="3.9", tls=True, client_auth="need", sasl="digest") as ensemble:
        certificates = ensemble.certificates
        for server in ensemble.servers:
            async with Raw.open(server.address, tls=certificates.client_context()) as raw:
                assert serial_of(raw) == certificates[server.name].serial
                assert await sasl(raw, "bob", "secret") == 0
        with pytest.raises((OSError, EOFError)):
            await Raw.open(ensemble.servers[0].address, tls=certificates.client_context(None)).__aenter__()
        # Servers trust the former authority until they are restarted, and tell about their connections all the time.
        async with Raw.open(ensemble.servers[1].address, tls=certificates.client_context()) as raw:
            certificates.replace_authority()
            assert await ensemble.server_of(raw.session_id) is ensemble.servers[1]


async def test_a_network_by_tls_and_with_a_kdc_that_its_hosts_reach() -> None:
    async with NetworkEnsemble(1, tls=True, client_auth="none", sasl="kerberos", require_auth=True) as network:
        (server,) = network.servers
        assert set(network.client_options) == {"ca", "sasl"}
        assert network.address in network.certificates.hosts
        async with Raw.open(server.address, tls=network.certificates.client_context()) as raw:
            assert serial_of(raw) == network.certificates[server.name].serial
            assert await looked(raw) == SessionClosedRequireAuthError.code
        assert f"kdc = {network.address}:" in network.kdc.krb5_conf.read_text()
        with network.kdc.in_environment():
            async with Client(network.connect_string, **network.client_options) as client:
                assert ClientInfo("sasl", "bob@EVERLATCH.TEST") in await client.who_am_i()
        kdc = network.kdc
    assert not kdc.running


@pytest.mark.parametrize("version", VERSIONS)
async def test_kerberos_with_a_kdc_that_servers_do_not_need(version: str) -> None:
    async with Kdc() as kdc, Ensemble(version=version, sasl="kerberos", require_auth=True, kdc=kdc) as ensemble:
        assert ensemble.kdc is kdc
        with kdc.in_environment():
            async with Client(ensemble.connect_string, **ensemble.client_options) as client:
                assert ClientInfo("sasl", "bob@EVERLATCH.TEST") in await client.who_am_i()
            await kdc.stop()
            await ensemble.servers[0].restart()
            await kdc.start()
            password = Kerberos("bob@EVERLATCH.TEST", password="secret")
            async with Client(ensemble.connect_string, sasl=password) as client:
                assert ClientInfo("sasl", "bob@EVERLATCH.TEST") in await client.who_am_i()
        await ensemble.close()
        assert kdc.running


async def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(EnsembleError, match='sasl="kerberos"'):
        _ = Ensemble().kdc
    for options, said in [
        ({"tls": True, "client_auth": "perhaps"}, "client_auth"),
        ({"sasl": "PLAIN"}, "sasl is one of 'digest', 'kerberos'"),
        ({"sasl": "digest", "users": {"bob smith": "pw"}}, "'bob smith'"),
        ({"sasl": "digest", "users": {"bob": "${home}"}}, "'bob'"),
    ]:
        with pytest.raises(InvalidArgumentError, match=said):
            Ensemble(**options)  # type: ignore[arg-type]
