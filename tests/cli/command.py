"""Runs the command line as a user does: as a process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

SRC = Path(__file__).parents[2] / "src"
COMMAND = [sys.executable, "-m", "everlatch.cli"]
TIMEOUT = 60.0


def environment() -> dict[str, str]:
    """The package of this checkout, installed or not; UTF-8 whatever the machine's locale is."""
    return os.environ | {"PYTHONPATH": str(SRC), "PYTHONIOENCODING": "utf-8"}


def run(*arguments: str, command: list[str] = COMMAND) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*command, *arguments], env=environment(), capture_output=True, encoding="utf-8", timeout=TIMEOUT, check=False
    )
