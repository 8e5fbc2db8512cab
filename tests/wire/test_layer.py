"""The rules of the whole layer."""

import ast
import importlib
import pathlib
import sys

import pytest

import everlatch.wire
from everlatch.wire.codes import Op
from wire.codecs import functions

MODULES = [importlib.import_module(f"everlatch.wire.{name}") for name in everlatch.wire.__all__]
FILES = sorted(pathlib.Path(everlatch.wire.__file__).parent.glob("*.py"))
PURE = {"collections", "dataclasses", "enum", "functools", "itertools", "struct", "typing", "__future__"} | {
    "hashlib",
    "hmac",
    "re",
}
NO_BODY = {Op.PING, Op.CLOSE_SESSION, Op.WHO_AM_I}
"""Nothing behind the header of the request."""
SHARED = {Op.MULTI_READ: "multi"}
"""The same functions as another operation."""


def test_the_package_lists_its_modules():
    assert {path.stem for path in FILES} - {"__init__"} == set(everlatch.wire.__all__)


@pytest.mark.parametrize("op", sorted(set(Op) - {Op.ERROR} - NO_BODY))
def test_every_operation_has_its_request(op):
    name = SHARED.get(op, op.name.lower())
    assert f"{name}_request" in set().union(*map(functions, MODULES))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_nothing_but_pure_modules_is_imported(path):
    imported = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        assert not isinstance(node, (ast.AsyncFunctionDef, ast.Await))
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            imported.add(node.module)
    ours = {name for name in imported if name.startswith("everlatch")}
    assert ours <= {"everlatch.errors", "everlatch.types"} | {module.__name__ for module in MODULES}
    assert {name.partition(".")[0] for name in imported - ours} <= PURE <= set(sys.stdlib_module_names)
