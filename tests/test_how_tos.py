"""How-tos whose examples need a server and nothing else: they run as they stand."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from pathlib import Path

import pytest

from everlatch.devserver import DevServer

HOW_TOS = Path(__file__).parents[1] / "docs" / "how-to"

PAGES = ("authenticate.md", "guardian.md", "keep-a-node.md", "watching.md")
SAYS = {
    "acl_example.py": (
        "ClientInfo(scheme='digest', user='bob')\n"
        'b"bob\'s"\n'
        "get '/private': not permitted by the ACL (-102)\n"
        'b"bob\'s"\n'
    ),
    "crash_example.py": "b'at work'\ngone, with exit code -9\n",
    "config_example.py": "{'workers': 4}\n",
    "keep_example.py": "/services/web-1\nb'10.0.0.8:80'\nback at /services/web-1, was deleted\n",
    "sasl_example.py": (
        "[ClientInfo(scheme='ip', user='127.0.0.1'), ClientInfo(scheme='sasl', user='bob')]\n"
        "refused: waiting for a connection: the credentials were refused (-115)\n"
    ),
    "tree_example.py": ("['/services', '/services/web', '/services/web/1']\nCREATED /services/web/2 ['1', '2']\n"),
    "wait_example.py": "ready in version 1\nwait_deleted '/database' timed out after 0.1 s\n",
}


def examples() -> dict[str, str]:
    """Each name in backticks before a block of code, and the block."""
    text = "".join(HOW_TOS.joinpath(page).read_text("utf-8") for page in PAGES)
    return dict(re.findall(r"`(\w+\.py)`:\n\n```python\n(.*?)```\n", text, re.DOTALL))


def test_all_examples_are_run() -> None:
    assert examples().keys() == SAYS.keys()


@pytest.mark.parametrize("name", SAYS)
async def test_the_example_runs(name: str, tmp_path: Path) -> None:
    script = tmp_path / name
    script.write_text(examples()[name])
    async with DevServer(sasl={"bob": "secret"}) as server:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-W", "error", str(script), server.address),
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        said, errors = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0, errors.decode()
    assert said.decode() == SAYS[name]
