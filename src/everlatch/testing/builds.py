"""Finds the ZooKeeper builds that tests run: a Java, and the class path of one version.

    find_build("3.8")  ->  Build("3.8", "/usr/bin/java", "/usr/share/java/zookeeper.jar:…")

Rules of this module: it only looks, it never installs anything (in a checkout, `scripts/get-zookeeper` does that);
what the user names comes first, then what the system has, then the cache. The order for a version X.Y:

1. `EVERLATCH_ZOOKEEPER_CLASSPATH_X_Y`: a class path, used as it is;
2. `ZOOKEEPER_HOME`: an unpacked ZooKeeper release, if it is one of X.Y;
3. Debian's `libzookeeper-java`, if it is one of X.Y;
4. the cache: `zookeeper-X.Y/*.jar` below `cache_directory()`.
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import Final, NamedTuple

from everlatch.errors import EverlatchError, InvalidTypeError

__all__ = ["VERSIONS", "Build", "ZooKeeperNotFoundError", "cache_directory", "find_build", "find_java"]

VERSIONS: Final = ("3.8", "3.9")
"""The versions that the suite runs against."""

_DEBIAN_JARS: Final = Path("/usr/share/java")
# The manifest of zookeeper.jar pulls in all that a server needs, except: a log, and what TLS asks for.
_DEBIAN_EXTRAS: Final = ("slf4j-simple.jar", "netty-codec.jar", "netty-resolver.jar")


class ZooKeeperNotFoundError(EverlatchError):
    """No such ZooKeeper build, or no Java to run it, on this machine. The message says what to do."""


class Build(NamedTuple):
    """One ZooKeeper that can be run."""

    version: str
    """As it was asked for: `3.8`, `3.9`."""
    java: str
    classpath: str


def find_build(version: str = "3.8") -> Build:
    """Finds the build of `version` (`3.8`); raises `ZooKeeperNotFoundError` when there is none. Installs nothing."""
    if not isinstance(version, str):
        raise InvalidTypeError(f"a version is str, such as '3.8', not {version!r}")
    java = find_java()
    if java is None:
        raise ZooKeeperNotFoundError(
            "no Java found, neither JAVA_HOME nor `java` on the PATH; in a checkout of everlatch run "
            f"`scripts/get-zookeeper {version}`, on Debian `apt-get install openjdk-17-jre-headless`"
        )
    classpath = _from_environment(version) or _from_home(version) or _from_debian(version) or _from_cache(version)
    if classpath is None:
        raise ZooKeeperNotFoundError(
            f"ZooKeeper {version} not found; in a checkout of everlatch run `scripts/get-zookeeper {version}`, or name "
            f"one of your own: ZOOKEEPER_HOME (an unpacked release), or the class path in {_variable(version)}"
        )
    return Build(version, java, classpath)


def find_java() -> str | None:
    """The `java` of `JAVA_HOME`, or else the one on the `PATH`."""
    home = os.environ.get("JAVA_HOME")
    if home:
        java = Path(home) / "bin" / "java"
        if java.is_file():
            return str(java)
    return shutil.which("java")


def cache_directory() -> Path:
    """Where installed builds are kept: `everlatch` in the user's cache directory (`XDG_CACHE_HOME`, `~/.cache`)."""
    root = os.environ.get("XDG_CACHE_HOME")
    return (Path(root) if root else Path.home() / ".cache") / "everlatch"


def _variable(version: str) -> str:
    return f"EVERLATCH_ZOOKEEPER_CLASSPATH_{version.replace('.', '_')}"


def _from_environment(version: str) -> str | None:
    return os.environ.get(_variable(version)) or None


def _from_home(version: str) -> str | None:
    home = os.environ.get("ZOOKEEPER_HOME")
    if not home:
        return None
    libraries = Path(home) / "lib"
    if not _jars_of(version, libraries):
        return None
    # conf first: it has the settings of the log, without which logback prints every debug line.
    return os.pathsep.join([str(Path(home) / "conf"), str(libraries / "*")])


def _from_debian(version: str) -> str | None:
    jars = _jars_of(version, _DEBIAN_JARS)
    if not jars:
        return None
    extras = [_DEBIAN_JARS / name for name in _DEBIAN_EXTRAS]
    return os.pathsep.join(str(path) for path in [jars[0], *extras] if path.is_file())


def _from_cache(version: str) -> str | None:
    directory = cache_directory() / f"zookeeper-{version}"
    return str(directory / "*") if _jars_of(version, directory) else None


def _jars_of(version: str, directory: Path) -> list[Path]:
    """The server's own jar, without the siblings that share its prefix (jute, contrib, recipes)."""
    own = re.compile(rf"zookeeper-{re.escape(version)}(\.\d+)*\.jar")
    return sorted(jar for jar in directory.glob("zookeeper-*.jar") if own.fullmatch(jar.name))
