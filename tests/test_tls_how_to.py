"""The how-to on TLS: its example runs as it stands."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from pathlib import Path

from everlatch.devserver import DevServer
from everlatch.testing import Certificates

PAGE = Path(__file__).parents[1] / "docs" / "how-to" / "tls.md"


async def test_the_example_runs(tmp_path: Path) -> None:
    ((name, code),) = re.findall(r"`(\w+\.py)`:\n\n```python\n(.*?)```\n", PAGE.read_text("utf-8"), re.DOTALL)
    script = tmp_path / name
    script.write_text(code)
    certificates = Certificates(tmp_path / "certificates")
    files = (certificates.ca, certificates.client.cert, certificates.client.key)
    async with DevServer(tls=certificates.server_context()) as server:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-W", "error", str(script), server.address, *map(str, files)),
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        said, errors = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0, errors.decode()
    identity, refusal = said.decode().splitlines()
    assert identity == f"ClientInfo(scheme='x509', user='{certificates.client.subject}')"
    assert refusal.startswith("ServerCertificateError: the server's certificate is not trusted (")
