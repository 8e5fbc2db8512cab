"""The probes in Java, compiled for each run from `bench/java`, and the command that runs one.

The compiler is a module of the Java runtime, so that no `javac` is needed beside the `java` that runs the servers. The
jars of ZooKeeper and Curator are those of ZooKeeper 3.9's build.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from bench.process import MeasurementError
from everlatch.testing.builds import cache_directory, find_build

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["JavaProbes", "compile_probes", "curator_version"]

_SOURCES = Path(__file__).with_name("java")
_COMPILER = "jdk.compiler/com.sun.tools.javac.Main"
_QUIET = "-Dorg.apache.logging.log4j.level=OFF"


class JavaProbes(NamedTuple):
    """Those that are compiled."""

    java: str
    classpath: str

    def command(self, name: str, *arguments: str) -> Sequence[str]:
        """The command line of the probe in `bench/java/NAME.java`."""
        return (self.java, _QUIET, "-Xmx128m", "-XX:+UseSerialGC", "-cp", self.classpath, name, *arguments)


async def compile_probes(directory: Path) -> JavaProbes:
    """Compiles into this directory. Raises `MeasurementError`, `ZooKeeperNotFoundError`."""
    build = find_build("3.9")
    # A ZooKeeper that the user names has no Curator.
    libraries = _without_wildcards(os.pathsep.join((build.classpath, str(_cached() / "*"))))
    sources = [str(source) for source in sorted(_SOURCES.glob("*.java"))]
    process = await asyncio.create_subprocess_exec(
        *(build.java, "-m", _COMPILER, "-d", str(directory), "-cp", libraries, "-proc:none", *sources),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        said, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        raise MeasurementError(f"the Java probes could not be compiled:\n{said.decode(errors='replace')}")
    return JavaProbes(build.java, os.pathsep.join((str(directory), libraries)))


def _without_wildcards(classpath: str) -> str:
    """`java` itself reads `directory/*` as all jars in it, the compiler does not."""
    entries: dict[str, None] = {}
    for entry in classpath.split(os.pathsep):
        directory = Path(entry)
        found = sorted(directory.parent.glob("*.jar")) if directory.name == "*" else [directory]
        entries |= dict.fromkeys(map(str, found))
    return os.pathsep.join(entries)


def curator_version() -> str | None:
    """Of the jar in the cache."""
    jars = sorted(_cached().glob("curator-recipes-*.jar"))
    return jars[-1].stem.removeprefix("curator-recipes-") if jars else None


def _cached() -> Path:
    return cache_directory() / "zookeeper-3.9"
