"""The entry point: what it says without the extra, and what it takes."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from cli.command import run

if TYPE_CHECKING:
    import subprocess

# None in sys.modules makes the import fail as if it were not installed.
WITHOUT = "import sys; sys.modules[{name!r}] = None; from everlatch.cli import main; main()"


@pytest.mark.parametrize("name", ["typer", "rich"])
def test_a_missing_extra_is_one_line_that_says_what_to_install(name: str) -> None:
    result = run("demo", command=[sys.executable, "-c", WITHOUT.format(name=name)])
    assert result.returncode == 2
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert 'pip install "everlatch[cli]"' in line


def test_another_missing_module_is_not_blamed_on_the_extra() -> None:
    result = run(command=[sys.executable, "-c", WITHOUT.format(name="everlatch.cli.demo")])
    assert result.returncode == 1
    assert "ModuleNotFoundError" in result.stderr


@pytest.mark.parametrize("module", ["everlatch.cli", "everlatch.cli.member"])
def test_members_and_the_entry_point_import_neither_typer_nor_rich(module: str) -> None:
    code = f"import sys, {module}; sys.exit(len({{'typer', 'rich'}} & set(sys.modules)))"
    assert run(command=[sys.executable, "-c", code]).returncode == 0


def test_demo_is_a_command_with_its_options() -> None:
    result = run("demo", "--help")
    assert result.returncode == 0
    for option in ("--instances", "--hosts", "--real", "--session-timeout", "--work", "--zookeeper-version", "--plain"):
        assert option in result.stdout


def failure(result: subprocess.CompletedProcess[str]) -> str:
    (line,) = result.stderr.splitlines()
    return line


def test_hosts_where_nobody_listens_fail_quickly_and_by_name() -> None:
    result = run("demo", "--hosts", "127.0.0.1:1")
    assert result.returncode == 1
    assert failure(result).startswith("everlatch: no ZooKeeper server could be reached: 127.0.0.1:1: ")


def test_hosts_that_are_none_are_a_wrong_option() -> None:
    result = run("demo", "--hosts", "127.0.0.1:port")
    assert result.returncode == 2
    assert "'127.0.0.1:port' is not host:port" in failure(result)


@pytest.mark.parametrize("real", [(), ("--real",)])
def test_a_zookeeper_that_is_not_here_is_told_in_one_line(real: tuple[str, ...]) -> None:
    result = run("demo", "--zookeeper-version", "1.2", *real)
    assert result.returncode == 2
    line = failure(result)
    assert line.startswith("everlatch: ")
    assert "1.2" in line


def test_a_real_server_and_hosts_exclude_each_other() -> None:
    result = run("demo", "--real", "--hosts", "127.0.0.1:1")
    assert result.returncode == 2
    assert failure(result).endswith("choose one of the two")
