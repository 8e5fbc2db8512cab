"""Runs the command line as a user does: as a process."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

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


@contextlib.contextmanager
def devserver(*options: str) -> Iterator[tuple[subprocess.Popen[str], list[str]]]:
    """A dev server as a process of its own, and the lines that it prints when it listens."""
    command = [*COMMAND, "devserver", "--port", "0", *options]
    with subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, encoding="utf-8") as process:
        try:
            assert process.stdout is not None
            yield process, [process.stdout.readline() for _ in range(2)]
        finally:
            process.kill()
