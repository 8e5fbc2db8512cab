"""Real servers that are reached by TLS, and by those who can say who they are: what they let in, and what not."""

from __future__ import annotations

import ssl

import pytest

from everlatch.errors import InvalidArgumentError
from everlatch.testing import Ensemble, EnsembleError, NetworkEnsemble
from everlatch.wire.auth_records import decode_who_am_i_reply
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


@pytest.mark.parametrize("version", VERSIONS)
async def test_one_server_by_tls(version: str) -> None:
    async with Ensemble(version=version, tls=True) as ensemble:
        (server,) = ensemble.servers
        certificates = ensemble.certificates
        assert ensemble.connect_string == server.address == f"127.0.0.1:{server.port}" != server.plain_address
        assert ensemble.client_options == {
            "ca": certificates.ca,
            "cert": certificates.client_cert,
            "key": certificates.client_key,
        }
        async with Raw.open(server.address, tls=certificates.client_context()) as raw:
            assert f"x509:{certificates.client.subject}" in await identities(raw)
            assert serial_of(raw) == certificates["server-1"].serial
            assert await ensemble.server_of(raw.session_id) is server
        async with Raw.open(server.address, tls=certificates.client_context(None)) as raw:
            assert {each.partition(":")[0] for each in await identities(raw)} == {"ip"}
        async with Raw.open(server.plain_address) as raw:
            assert await raw.code(Op.EXISTS, encode_exists_request("/", False)) == 0

        certificates.issue(server.name, "elsewhere.example")
        await server.restart()
        with pytest.raises(ssl.SSLCertVerificationError, match="IP address mismatch"):
            await Raw.open(server.address, tls=certificates.client_context()).__aenter__()
    with pytest.raises(EnsembleError, match="tls=True"):
        _ = ensemble.certificates


async def test_three_servers_by_tls_each_with_its_own_certificate() -> None:
    async with Ensemble(3, version="3.9", tls=True, client_auth="need") as ensemble:
        certificates = ensemble.certificates
        for server in ensemble.servers:
            async with Raw.open(server.address, tls=certificates.client_context()) as raw:
                assert serial_of(raw) == certificates[server.name].serial
        with pytest.raises((OSError, EOFError)):
            await Raw.open(ensemble.servers[0].address, tls=certificates.client_context(None)).__aenter__()


async def test_a_network_by_tls() -> None:
    async with NetworkEnsemble(1, tls=True, client_auth="none") as network:
        (server,) = network.servers
        assert set(network.client_options) == {"ca"}
        assert network.address in network.certificates.hosts
        async with Raw.open(server.address, tls=network.certificates.client_context()) as raw:
            assert serial_of(raw) == network.certificates[server.name].serial
            assert {each.partition(":")[0] for each in await identities(raw)} == {"ip"}


async def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(InvalidArgumentError, match="client_auth"):
        Ensemble(tls=True, client_auth="perhaps")  # type: ignore[arg-type]
