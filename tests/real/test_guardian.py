"""The guardian at real servers that demand authentication: by TLS with SASL, and with the scheme `digest`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from everlatch import Client
from everlatch.testing import Ensemble
from guardian.owned import owner_of, until_asleep, until_gone

if TYPE_CHECKING:
    from collections.abc import Mapping

pytestmark = pytest.mark.real

LONG = 10.0
USER, PASSWORD = "bob", "swordfish"


def as_python(options: Mapping[str, Any]) -> str:
    """The options of a client, for another process."""
    words = {name: str(value) for name, value in options.items() if name in ("ca", "cert", "key")}
    sasl = f", sasl=DigestMd5({USER!r}, {PASSWORD!r})" if "sasl" in options else ""
    auth = f", auth={options['auth']!r}" if "auth" in options else ""
    return f"dict(**{words!r}{sasl}{auth})"


@pytest.mark.parametrize("security", [{"tls": True, "sasl": "digest", "client_auth": "need"}, {}], ids=["tls", "plain"])
async def test_servers_that_demand_authentication(security: dict[str, Any]) -> None:
    async with (
        Ensemble(1, version="3.9", require_auth=True, users={USER: PASSWORD}, **security) as ensemble,
        Client(ensemble.connect_string, session_timeout=LONG, **ensemble.client_options) as witness,
    ):
        await witness.create("/owned")
        arguments = as_python(ensemble.client_options)
        async with owner_of(ensemble.connect_string, timeout=LONG, clients=3, OPTIONS=arguments) as owner:
            assert len(await witness.children("/owned")) == 3
            await until_asleep(owner.guardian)
            await owner.kill()
            await until_gone(witness, timeout=LONG / 4)
