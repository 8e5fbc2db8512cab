"""Measurements in processes of their own, each of which prints one line of JSON."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path

from bench.stopwatch import Sample

__all__ = ["ROOT", "MeasurementError", "environment", "measured"]

ROOT = Path(__file__).resolve().parents[1]
"""The checkout."""
_TIMEOUT_S = 120.0


class MeasurementError(Exception):
    """A measuring process failed. The run is void: a comparison with holes is none."""


async def measured(module: str, *arguments: str) -> Sample:
    """What `python -m MODULE ARGUMENTS…` has measured. Raises `MeasurementError`."""
    name = " ".join((module, *arguments))
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", module, *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=ROOT,
        env=environment(),
    )
    try:
        async with asyncio.timeout(_TIMEOUT_S):
            output, errors = await process.communicate()
    except TimeoutError:
        raise MeasurementError(f"{name} did not finish within {_TIMEOUT_S:g} s") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        reason = errors.decode(errors="replace").strip()[-2000:]
        raise MeasurementError(f"{name} failed with exit code {process.returncode}:\n{reason}")
    return Sample(**json.loads(output))


def environment() -> dict[str, str]:
    """The processes import what this one imports: this checkout, wherever its sources were found."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(entry or os.getcwd() for entry in sys.path)}
