"""What holds for the sources as a whole, read as syntax trees: nothing is imported but the root package."""

import ast
import pathlib
import re
import sys

import pytest

import everlatch

ROOT = pathlib.Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "everlatch"
FILES = sorted(PACKAGE.rglob("*.py"))
TREES = {path: ast.parse(path.read_text("utf-8")) for path in FILES}

ORDER = (
    *("types", "errors", "partial_stat", "paths", "arguments", "acls", "tls", "wire", "sasl", "kerberos"),
    *("session", "admin", "guardian", "engine"),
    *("transaction", "multi_read", "operations", "subscriptions", "server_sources", "client", "ensemble_tracker"),
    *("everlatch", "recipes", "sync", "cli"),
)
"""Each part imports itself and what stands before it. `everlatch` is the root package."""
VALUES = {"types", "errors", "partial_stat", "paths", "arguments", "acls", "tls", "sasl", "kerberos"}
ASIDE = {
    "admin": VALUES,
    "guardian": VALUES | {"wire"},
    "devserver": VALUES | {"wire"},
    "testing": VALUES | {"wire", "client", "everlatch", "recipes", "admin", "devserver"},
}
"""Parts that stand beside that order, and what they may import. Beyond that only the command line uses them, and the
engine asks servers by `admin`, which has a place in the order for that."""

PURE = {"wire", "session"}
PURE_MODULES = {
    *("__future__", "collections", "dataclasses", "enum", "functools", "heapq", "ipaddress", "math", "itertools", "re"),
    *("struct", "typing", "hashlib", "hmac"),
}
EXTRAS = {
    "cli": {"typer", "rich"},
    "testing": {"pytest", "hypothesis", "trustme", "cryptography"},
    "kerberos": {"gssapi"},
}
MIRRORED = ("wire", "session", "engine", "subscriptions", "recipes")

TEXTS = (
    *("*.md", "*.toml", "src/**/*", "tests/**/*", "scripts/**/*", "docs/**/*"),
    *("bench/**/*", "conformance/**/*", "fuzz/**/*", "torture/**/*"),
)
FOREIGN = re.compile(
    r"/work\b|\bshared/|\b(pypi|pythonhosted|npmjs|maven|debian|crates)\.(org|com|io)\b|\bproxy\.golang"
)
"""Paths of a machine, and hosts of package registries: those are chosen by whoever runs a script."""


def part_of(path):
    """The part that a file belongs to."""
    first = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    return "everlatch" if first == "__init__" else first


def for_typing_only(tree):
    """The nodes under `if TYPE_CHECKING:`."""
    blocks = (node for node in ast.walk(tree) if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
    return {below for block in blocks for below in ast.walk(block)}


def imports(tree, *, typing=True):
    """The modules that a file imports."""
    left_out = set() if typing else for_typing_only(tree)
    found = set()
    for node in ast.walk(tree):
        if node in left_out:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: a relative import"
            found.add(node.module)
    return found


def parts_imported(tree):
    """The parts of this package that a file imports."""
    ours = (module.split(".") for module in imports(tree) if module.split(".")[0] == "everlatch")
    return {names[1] if len(names) > 1 else "everlatch" for names in ours}


def allowed_parts(part):
    if part in ASIDE:
        return ASIDE[part] | {part}
    before = set(ORDER[: ORDER.index(part) + 1])
    return before | set(ASIDE) if part == "cli" else before


def listed(tree):
    """The value of `__all__`, or `None`. What is added to it later is not seen."""
    for node in tree.body:
        targets = [node.target] if isinstance(node, ast.AnnAssign) else getattr(node, "targets", [])
        if any(ast.unparse(target) == "__all__" for target in targets):
            return ast.literal_eval(node.value)
    return None


def bound(path):
    """The names that a module has when it is imported, submodules included."""
    names = {below.stem for below in path.parent.iterdir()} if path.name == "__init__.py" else set()
    for node in TREES[path].body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            names.add(node.name)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            names |= {alias.asname or alias.name for alias in node.names}
        else:
            names |= {below.id for below in ast.walk(node) if isinstance(below, ast.Name)}
    return names


def each(paths=FILES):
    return pytest.mark.parametrize("path", paths, ids=lambda path: str(path.relative_to(PACKAGE)))


@each()
def test_imports_run_one_way_only(path):
    part = part_of(path)
    assert part in ORDER or part in ASIDE, "a new part: say where it stands"
    assert parts_imported(TREES[path]) <= allowed_parts(part)


@each([path for path in FILES if part_of(path) in PURE])
def test_wire_and_session_are_pure(path):
    tree = TREES[path]
    impure = (ast.AsyncFunctionDef, ast.AsyncFor, ast.AsyncWith, ast.Await)
    assert not [node.lineno for node in ast.walk(tree) if isinstance(node, impure)]
    modules = {module.split(".")[0] for module in imports(tree, typing=False)} - {"everlatch"}
    assert modules <= PURE_MODULES
    assert {module.split(".")[0] for module in imports(tree)} - modules <= {"everlatch", "collections", "random"}


@each()
def test_the_core_needs_nothing_but_the_standard_library(path):
    foreign = {module.split(".")[0] for module in imports(TREES[path])} - sys.stdlib_module_names - {"everlatch"}
    assert foreign <= EXTRAS.get(part_of(path), set())


@each()
def test_every_module_says_what_it_is_and_what_it_offers(path):
    assert ast.get_docstring(TREES[path])
    names = listed(TREES[path])
    assert names is not None
    assert len(names) == len(set(names))
    assert set(names) <= bound(path)


def test_everything_public_is_there():
    assert len(everlatch.__all__) == len(set(everlatch.__all__))
    assert [name for name in everlatch.__all__ if not hasattr(everlatch, name)] == []


@each([PACKAGE / package / "__init__.py" for package in ("wire", "session", "engine")])
def test_a_layer_introduces_its_modules(path):
    introduced = set(re.findall(r"\w+", ast.get_docstring(TREES[path])))
    public = {below.stem for below in path.parent.glob("[a-z]*.py")}
    assert public <= introduced


@each([path for path in FILES if part_of(path) in MIRRORED and path.stem != "__init__"])
def test_every_module_has_its_tests(path):
    has_behaviour = any(isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) for node in ast.walk(TREES[path]))
    if has_behaviour:
        assert list((ROOT / "tests" / part_of(path)).glob(f"test_{path.stem}*.py"))


def test_nothing_names_a_registry_or_a_path_of_some_machine():
    paths = {path for pattern in TEXTS for path in ROOT.glob(pattern)} - {pathlib.Path(__file__)}
    texts = {
        path: path.read_text("utf-8", "replace") for path in paths if path.is_file() and "__pycache__" not in path.parts
    }
    found = {str(path.relative_to(ROOT)): FOREIGN.findall(text) for path, text in texts.items() if FOREIGN.search(text)}
    assert found == {}


def test_that_these_rules_can_fail():
    bad = ast.parse("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import random\nimport everlatch.cli.app")
    assert imports(bad) == {"typing", "random", "everlatch.cli.app"}
    assert imports(bad, typing=False) == {"typing", "everlatch.cli.app"}
    assert parts_imported(bad) == {"cli"}
    assert "cli" not in allowed_parts("recipes") | allowed_parts("testing")
    assert listed(ast.parse("x = 1")) is None
    for text in ("/work/main", "see shared/design.md", "https://pypi.org/simple"):
        assert FOREIGN.search(text)
