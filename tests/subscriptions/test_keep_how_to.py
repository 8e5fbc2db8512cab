"""The how-to on keeping a node: its example runs as it stands."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from pathlib import Path

from everlatch.devserver import DevServer

HOW_TO = Path(__file__).parents[2] / "docs" / "how-to" / "keep-a-node.md"
SAYS = "/services/web-1\nb'10.0.0.8:80'\nback at /services/web-1, was deleted\n"


async def test_the_example_runs(tmp_path: Path) -> None:
    ((name, code),) = re.findall(r"`(\w+\.py)`:\n\n```python\n(.*?)```\n", HOW_TO.read_text("utf-8"), re.DOTALL)
    script = tmp_path / name
    script.write_text(code)
    async with DevServer() as server:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-W", "error", str(script), server.address),
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        said, errors = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0, errors.decode()
    assert said.decode() == SAYS
