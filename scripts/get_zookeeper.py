"""Installs the ZooKeeper builds that `everlatch.testing.builds` finds, `ip`, and a KDC; run by `scripts/get-zookeeper`.

3.8 comes from Debian: libzookeeper-java, and a Java to run it. So do iproute2, for servers on a network of their own,
and MIT's Kerberos, for servers that know their clients by it.
3.9 comes out of the source distribution of pyspark, which is the one package of a registry that holds its jars; only
those that a server (with TLS and a log) and Curator's recipes need are kept, in the user's cache.

Rules: nothing is done that is done already; one run at a time (a lock in the cache); a build appears in the cache
complete or not at all; when something can't be installed, the message is the command that would.
"""

# ruff: noqa: D103, S603, T201 - a script: it prints, and runs what it names itself

from __future__ import annotations

import argparse
import contextlib
import fcntl
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

from everlatch.testing.builds import VERSIONS, Build, ZooKeeperNotFoundError, cache_directory, find_build, find_java
from everlatch.testing.kdc import KDC_PACKAGES, KDC_PROGRAMS, find_program
from everlatch.testing.namespaces import find_ip

if TYPE_CHECKING:
    from collections.abc import Iterator

JAVA_PACKAGE = "openjdk-17-jre-headless"
ZOOKEEPER_PACKAGE = "libzookeeper-java"
NETWORK_PACKAGE = "iproute2"

PYSPARK = "pyspark==4.3.0"
PYSPARK_SHA256 = "e8c517948eff7088a7aa07449aa8eafa4a15a8d50319de2525a6fd26622476c6"

# zookeeper … snappy-java: the server. Without snappy it comes up and never serves, without a word.
# log4j, slf4j2-impl: its log. netty: TLS. curator: the Java side of the interoperability tests.
REQUIRED = ("zookeeper", "zookeeper-jute", "slf4j-api", "metrics-core", "snappy-java", "log4j-slf4j2-impl")
WANTED = re.compile(
    r"[^/]+/deps/jars/("
    r"zookeeper(-jute)?|slf4j-api|metrics-core|snappy-java|log4j-(slf4j2-impl|api|core)"
    r"|netty-(common|buffer|transport|transport-native-unix-common|transport-classes-epoll|resolver|handler)"
    r"|netty-codec(-base|-compression)?"
    r"|curator-(client|framework|recipes)"
    r")-\d[^/-]*\.jar"
)


class InstallError(Exception):
    """What could not be installed, and the command that would do it."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="get-zookeeper", description="Installs ZooKeeper builds for the tests.")
    parser.add_argument("version", nargs="?", default="3.8", choices=[*VERSIONS, "all"])
    asked = parser.parse_args().version
    try:
        for version in VERSIONS if asked == "all" else [asked]:
            say_what_is_used(provide(version))
        provide_ip()
        provide_kdc()
    except (InstallError, ZooKeeperNotFoundError) as error:
        print(f"get-zookeeper: {error}", file=sys.stderr)
        return 1
    return 0


def say_what_is_used(build: Build) -> None:
    print(f"ZooKeeper {build.version}: {build.classpath}\n     run by {build.java}", flush=True)


def provide(version: str) -> Build:
    """The build that is there, or else the one that it installs."""
    with contextlib.suppress(ZooKeeperNotFoundError):
        return find_build(version)
    with cache_lock():
        # Another run may have installed it while this one waited.
        with contextlib.suppress(ZooKeeperNotFoundError):
            return find_build(version)
        install(version)
    return find_build(version)


def provide_ip() -> None:
    """The command `ip`, which `NetworkEnsemble` needs. There is none, and no such ensemble, but on Linux."""
    if find_ip() is None and sys.platform.startswith("linux"):
        with cache_lock():
            if find_ip() is None:
                install_debian([NETWORK_PACKAGE])


def provide_kdc() -> None:
    """The programs that `Kdc` runs. Only Debian's are known here; elsewhere `Kdc` says which one is missing."""
    if not has_kdc() and sys.platform.startswith("linux"):
        with cache_lock():
            if not has_kdc():
                install_debian(list(KDC_PACKAGES))


def has_kdc() -> bool:
    return all(find_program(name) for name in KDC_PROGRAMS)


@contextlib.contextmanager
def cache_lock() -> Iterator[None]:
    cache_directory().mkdir(parents=True, exist_ok=True)
    with (cache_directory() / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def install(version: str) -> None:
    packages = [] if find_java() else [JAVA_PACKAGE]
    if version == "3.8":
        packages.append(ZOOKEEPER_PACKAGE)
    if packages:
        install_debian(packages)
    if version == "3.9":
        install_from_pyspark()


# --- Debian -------------------------------------------------------------------------------------------------------


def install_debian(packages: list[str]) -> None:
    command = ["apt-get", "install", "--yes", "--no-install-recommends", *packages]
    by_hand = f"sudo apt-get update && sudo {' '.join(command)}"
    if shutil.which("apt-get") is None:
        raise InstallError(f"no apt-get here; what is missing comes from Debian: {by_hand}")
    # The lists of a fresh machine may be empty or old: then they are fetched, and it is tried again.
    if not (as_root(command) or (as_root(["apt-get", "update"]) and as_root(command))):
        raise InstallError(f"could not install {' '.join(packages)}; run: {by_hand}")


def as_root(command: list[str]) -> bool:
    """Runs it without questions, through sudo where that is needed; tells whether it succeeded."""
    if os.geteuid() != 0:
        if shutil.which("sudo") is None:
            return False
        # Somebody at the terminal can be asked for a password; nobody else can.
        command = ["sudo", *([] if sys.stdin.isatty() else ["-n"]), "env", "DEBIAN_FRONTEND=noninteractive", *command]
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    return subprocess.run(command, env=environment, check=False).returncode == 0


# --- pyspark ------------------------------------------------------------------------------------------------------


def install_from_pyspark() -> None:
    # On the same file system as the cache, so that the last step is one rename.
    with tempfile.TemporaryDirectory(prefix="installing-", dir=cache_directory()) as work:
        staging = Path(work) / "jars"
        staging.mkdir()
        extract_jars(download_pyspark(Path(work)), staging)
        verify(staging, "3.9")
        target = cache_directory() / "zookeeper-3.9"
        # Whatever is there is not a complete build, or it would have been found.
        shutil.rmtree(target, ignore_errors=True)
        staging.rename(target)


def download_pyspark(directory: Path) -> Path:
    print(f"downloading {PYSPARK} (456 MB, once) for ZooKeeper 3.9 …", flush=True)
    requirements = directory / "requirements.txt"
    requirements.write_text(f"{PYSPARK} --hash=sha256:{PYSPARK_SHA256}\n")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", "pyspark"]
    command += ["--no-cache-dir", "--require-hashes", "--dest", str(directory), "--requirement", str(requirements)]
    # pip unpacks it once more to read its metadata: keep that beside it too, and not in a small /tmp.
    done = subprocess.run(command, env=os.environ | {"TMPDIR": str(directory)}, check=False)
    archives = list(directory.glob("pyspark-*.tar.gz"))
    if done.returncode != 0 or not archives:
        by_hand = f"{sys.executable} -m pip download --no-deps --no-binary pyspark {PYSPARK}"
        raise InstallError(f"could not download it; see what this says: {by_hand}")
    return archives[0]


def extract_jars(archive: Path, target: Path) -> None:
    # As a stream: the archive is read once, from front to back, and only the wanted jars are written.
    with tarfile.open(archive, "r|gz") as members:
        for member in members:
            content = members.extractfile(member) if WANTED.fullmatch(member.name) else None
            if content is not None:
                with (target / Path(member.name).name).open("wb") as jar:
                    shutil.copyfileobj(content, jar)


def verify(directory: Path, version: str) -> None:
    jars = sorted(directory.glob("*.jar"))
    missing = [name for name in REQUIRED if not any(re.match(rf"{name}-\d", jar.name) for jar in jars)]
    broken = [jar.name for jar in jars if not zipfile.is_zipfile(jar)]
    if missing or broken:
        raise InstallError(f"{PYSPARK} is not what was expected: without {missing}, broken {broken}")
    command = [find_java() or "java", "-cp", f"{directory}/*", "org.apache.zookeeper.version.VersionInfoMain"]
    told = subprocess.run(command, capture_output=True, text=True, check=False)
    if f"version {version}." not in told.stdout:
        raise InstallError(f"these jars do not run as ZooKeeper {version}: {told.stdout}{told.stderr}")


if __name__ == "__main__":
    sys.exit(main())
