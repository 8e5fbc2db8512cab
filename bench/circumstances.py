"""What somebody needs to know about the machine and the checkout to read the numbers of a report."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from bench.process import ROOT

__all__ = ["circumstances", "installed"]


def circumstances(benchmark: str) -> dict[str, Any]:
    """Of this run of `benchmark`."""
    return {
        "benchmark": benchmark,
        "commit": _commit(),
        "python": platform.python_version(),
        "machine": {"system": platform.platform(), "processors": os.cpu_count()},
    }


def installed(package: str) -> str | None:
    """The version of a package, `None` without it."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _commit() -> str | None:
    """The commit of this checkout, with `-dirty` if anything differs from it; None outside of a checkout."""
    commit = _git("rev-parse", "HEAD")
    return f"{commit}-dirty" if commit and _git("status", "--porcelain") else commit or None


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False, timeout=30)
    except FileNotFoundError:
        return ""
    return done.stdout.strip()
