"""The how-to on faults: its examples run as they stand."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

HOW_TO = Path(__file__).parents[2] / "docs" / "how-to" / "faults-on-real-servers.md"


def examples() -> dict[str, str]:
    """The files of the how-to: the last name in backticks before a block of code, and the block."""
    blocks = re.findall(r"```python\n(.*?)```\n", HOW_TO.read_text(), re.DOTALL)
    names = re.findall(r"`(\w+\.py)`", HOW_TO.read_text())
    return dict(zip(names, blocks, strict=True))


def run(name: str, directory: Path) -> str:
    for file, code in examples().items():
        directory.joinpath(file).write_text(code)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-W", "error", name]
    done = subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr
    return done.stdout


def test_the_example_with_the_proxy_runs(tmp_path: Path) -> None:
    assert run("proxy_example.py", tmp_path).endswith("handshakes\n")


@pytest.mark.real
def test_the_example_with_the_network_runs(tmp_path: Path) -> None:
    assert run("network_example.py", tmp_path) == "all of it is gone now\n"


@pytest.mark.real
def test_the_example_with_identities_runs(tmp_path: Path) -> None:
    said = run("secure_example.py", tmp_path).splitlines()
    assert ["scheme='sasl', user='app'" in said[0], "scheme='x509'" in said[0]] == [True, True]
    assert said[1:] == ["AuthFailedError", "StartError", "created, perhaps", "True"]
