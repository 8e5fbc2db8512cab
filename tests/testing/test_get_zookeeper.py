"""The installer in scripts/: what it takes out of the archive, and what it says when it can't do its work."""

from __future__ import annotations

import importlib.util
import io
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from types import ModuleType

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "get_zookeeper.py"

SERVER_JARS = [
    "zookeeper-3.9.5.jar",
    "zookeeper-jute-3.9.5.jar",
    "slf4j-api-2.0.17.jar",
    "metrics-core-4.2.37.jar",
    "snappy-java-1.1.10.8.jar",
    "log4j-slf4j2-impl-2.25.4.jar",
    "log4j-core-2.25.4.jar",
    "netty-handler-4.2.13.Final.jar",
    "netty-codec-base-4.2.13.Final.jar",
    "curator-recipes-5.9.0.jar",
]
OTHER_JARS = [
    "spark-core_2.13-4.3.0.jar",
    "arrow-memory-netty-19.0.0.jar",
    "netty-codec-http2-4.2.13.Final.jar",
    "netty-transport-native-epoll-4.2.13.Final-linux-x86_64.jar",
    "jcl-over-slf4j-2.0.17.jar",
]


@pytest.fixture
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("get_zookeeper", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def empty_jar() -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as jar:
        jar.writestr("META-INF/MANIFEST.MF", "")
    return content.getvalue()


def archive_of(names: list[str], path: Path) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name in names:
            member = tarfile.TarInfo(name)
            member.size = len(empty_jar())
            archive.addfile(member, io.BytesIO(empty_jar()))
    return path


def test_only_the_jars_of_a_server_and_of_curator_are_taken(script: ModuleType, tmp_path: Path) -> None:
    names = [f"pyspark-4.3.0/deps/jars/{name}" for name in SERVER_JARS + OTHER_JARS]
    archive = archive_of([*names, "pyspark-4.3.0/deps/licenses/zookeeper-3.9.5.jar"], tmp_path / "all.tar.gz")
    target = tmp_path / "jars"
    target.mkdir()
    script.extract_jars(archive, target)
    assert sorted(path.name for path in target.iterdir()) == sorted(SERVER_JARS)


def test_an_archive_without_snappy_is_refused_for_such_a_server_would_never_serve(
    script: ModuleType, tmp_path: Path
) -> None:
    for name in SERVER_JARS:
        (tmp_path / name).write_bytes(empty_jar())
    (tmp_path / "snappy-java-1.1.10.8.jar").unlink()
    with pytest.raises(script.InstallError, match=r"without \['snappy-java'\]"):
        script.verify(tmp_path, "3.9")


def test_a_broken_jar_is_refused_by_name(script: ModuleType, tmp_path: Path) -> None:
    for name in SERVER_JARS:
        (tmp_path / name).write_bytes(empty_jar())
    (tmp_path / "zookeeper-3.9.5.jar").write_bytes(b"half of it")
    with pytest.raises(script.InstallError, match=r"broken \['zookeeper-3.9.5.jar'\]"):
        script.verify(tmp_path, "3.9")


def test_without_the_rights_to_install_it_prints_the_whole_command(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    apt_get = tmp_path / "apt-get"
    apt_get.write_text("#!/bin/sh\nexit 1\n")
    apt_get.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))  # an apt-get that refuses; neither sudo nor java
    for name in ("JAVA_HOME", "ZOOKEEPER_HOME", "EVERLATCH_ZOOKEEPER_CLASSPATH_3_8"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(sys, "argv", ["get-zookeeper", "3.8"])
    assert script.main() == 1
    said = capsys.readouterr().err
    assert "sudo apt-get install --yes --no-install-recommends openjdk-17-jre-headless libzookeeper-java" in said


def test_what_is_there_is_only_named(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def nothing_to_install(*_: Any) -> None:
        raise AssertionError("it must not install what is there")

    monkeypatch.setattr(script, "install", nothing_to_install)
    monkeypatch.setattr(script, "install_debian", nothing_to_install)
    monkeypatch.setattr(script, "find_ip", lambda: "/sbin/ip")
    monkeypatch.setattr(script, "find_program", "/sbin/{}".format)
    monkeypatch.setattr(script, "find_build", lambda version: script.Build(version, "/bin/java", "/jars/*"))
    monkeypatch.setattr(sys, "argv", ["get-zookeeper", "all"])
    assert script.main() == 0
    assert capsys.readouterr().out.count("/jars/*") == 2


def test_iproute2_and_a_kdc_are_installed_where_they_are_missing(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed: list[str] = []
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(script, "find_build", lambda version: script.Build(version, "/bin/java", "/jars/*"))
    monkeypatch.setattr(script, "find_ip", lambda: "/sbin/ip" if "iproute2" in installed else None)
    monkeypatch.setattr(script, "find_program", lambda name: name if name == "kinit" or len(installed) > 1 else None)
    monkeypatch.setattr(script, "install_debian", installed.extend)
    monkeypatch.setattr(sys, "argv", ["get-zookeeper", "3.8"])
    assert script.main() == 0
    assert script.main() == 0
    assert installed == ["iproute2", "krb5-kdc", "krb5-admin-server", "krb5-user"]
    installed.clear()
    monkeypatch.setattr(sys, "platform", "darwin")
    assert script.main() == 0
    assert installed == []
