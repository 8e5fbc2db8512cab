"""Which build is found, and what is said when there is none. Nothing here needs a real ZooKeeper."""

from __future__ import annotations

from pathlib import Path

import pytest

from everlatch.errors import EverlatchError
from everlatch.testing import builds
from everlatch.testing.builds import Build, ZooKeeperNotFoundError, cache_directory, find_build, find_java


@pytest.fixture(autouse=True)
def bare_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with a Java and nothing else; returns its directory."""
    for name in ("ZOOKEEPER_HOME", "EVERLATCH_ZOOKEEPER_CLASSPATH_3_8", "EVERLATCH_ZOOKEEPER_CLASSPATH_3_9"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "jdk"))
    monkeypatch.setattr(builds, "_DEBIAN_JARS", tmp_path / "share-java")
    touch(tmp_path / "jdk" / "bin" / "java")
    return tmp_path


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def test_missing_build_names_the_command_that_installs_it() -> None:
    with pytest.raises(ZooKeeperNotFoundError, match=r"scripts/get-zookeeper 3\.9") as caught:
        find_build("3.9")
    assert isinstance(caught.value, EverlatchError)
    assert "EVERLATCH_ZOOKEEPER_CLASSPATH_3_9" in str(caught.value)


def test_missing_java_is_told_apart_from_a_missing_build(bare_machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JAVA_HOME")
    monkeypatch.setenv("PATH", str(bare_machine))
    with pytest.raises(ZooKeeperNotFoundError, match="no Java found"):
        find_build("3.8")


def test_java_home_comes_before_the_path(bare_machine: Path) -> None:
    assert find_java() == str(bare_machine / "jdk" / "bin" / "java")


def test_java_home_without_a_java_falls_back_to_the_path(bare_machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    java = bare_machine / "bin" / "java"
    touch(java)
    java.chmod(0o755)
    monkeypatch.setenv("JAVA_HOME", str(bare_machine / "nowhere"))
    monkeypatch.setenv("PATH", str(java.parent))
    assert find_java() == str(java)


def test_cache_is_in_the_home_directory_when_xdg_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_directory() == Path.home() / ".cache" / "everlatch"


def test_cached_build_is_used(bare_machine: Path) -> None:
    directory = cache_directory() / "zookeeper-3.9"
    touch(directory / "zookeeper-3.9.5.jar", directory / "zookeeper-jute-3.9.5.jar")
    java = str(bare_machine / "jdk" / "bin" / "java")
    assert find_build("3.9") == Build("3.9", java, f"{directory}/*")


def test_cache_without_the_server_itself_is_no_build() -> None:
    touch(cache_directory() / "zookeeper-3.9" / "zookeeper-jute-3.9.5.jar")
    with pytest.raises(ZooKeeperNotFoundError):
        find_build("3.9")


def test_debian_build_is_used_for_its_own_version_only(bare_machine: Path) -> None:
    jars = bare_machine / "share-java"
    touch(jars / "zookeeper.jar", jars / "zookeeper-3.8.0.jar", jars / "zookeeper-it-3.8.0.jar")
    assert find_build("3.8").classpath == str(jars / "zookeeper-3.8.0.jar")
    with pytest.raises(ZooKeeperNotFoundError):
        find_build("3.9")


def test_debian_build_takes_along_the_log_and_what_tls_needs(bare_machine: Path) -> None:
    jars = bare_machine / "share-java"
    extras = [jars / "slf4j-simple.jar", jars / "netty-codec.jar", jars / "netty-resolver.jar"]
    touch(jars / "zookeeper-3.8.0.jar", *extras)
    assert find_build("3.8").classpath == ":".join(map(str, [jars / "zookeeper-3.8.0.jar", *extras]))


def test_zookeeper_home_of_the_version_comes_before_the_cache(
    bare_machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = bare_machine / "apache-zookeeper-3.9.5-bin"
    touch(home / "lib" / "zookeeper-3.9.5.jar", cache_directory() / "zookeeper-3.9" / "zookeeper-3.9.5.jar")
    monkeypatch.setenv("ZOOKEEPER_HOME", str(home))
    assert find_build("3.9").classpath == f"{home}/conf:{home}/lib/*"


def test_zookeeper_home_of_another_version_is_passed_over(bare_machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(bare_machine / "lib" / "zookeeper-3.7.2.jar", bare_machine / "share-java" / "zookeeper-3.8.0.jar")
    monkeypatch.setenv("ZOOKEEPER_HOME", str(bare_machine))
    assert "share-java" in find_build("3.8").classpath


def test_named_class_path_comes_before_everything_else(bare_machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(bare_machine / "share-java" / "zookeeper-3.8.0.jar")
    monkeypatch.setenv("EVERLATCH_ZOOKEEPER_CLASSPATH_3_8", "/opt/mine/*")
    assert find_build("3.8").classpath == "/opt/mine/*"
