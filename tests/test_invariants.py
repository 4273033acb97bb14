"""What must hold in every file of both packages: no pickle, no hidden state, no work at import, documented in full."""

from __future__ import annotations

import ast
import builtins
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache, wraps
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted([*(ROOT / "kg_edit").rglob("*.py"), *(ROOT / "wikidata_cache").rglob("*.py")])
FORBIDDEN_IMPORTS = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
FORBIDDEN_CALLS = {"torch.load", "torch.save", "numpy.load", "np.load", "eval", "exec", "print"}
LAST_NAMES = {call.split(".")[-1] for call in FORBIDDEN_CALLS}

Function = ast.FunctionDef | ast.AsyncFunctionDef


@cache
def tree(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


def every_file(check: Callable[[Path], None]) -> Callable[[], None]:
    """A test of all files in one: it fails with the name of the file at fault, and goes no further."""

    @wraps(check)
    def test() -> None:
        for file in FILES:
            try:
                check(file)
            except AssertionError as error:
                raise AssertionError(f"{file.relative_to(ROOT)}: {error}") from error

    del test.__wrapped__  # else pytest sees the argument of the check
    return test


def public_functions(module: ast.Module) -> Iterator[tuple[Function, str]]:
    """Public functions and methods, each with its own docstring and its class's."""
    for node in module.body:
        if isinstance(node, Function) and not node.name.startswith("_"):
            yield node, ast.get_docstring(node) or ""
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            for part in node.body:
                if isinstance(part, Function) and not part.name.startswith("_"):
                    yield part, f"{ast.get_docstring(part) or ''}\n{ast.get_docstring(node) or ''}"


def own_raises(function: Function) -> Iterator[str]:
    """The names of the exceptions that a function itself raises and does not catch in the same ``try``."""
    caught: dict[ast.AST, set[str]] = {}
    for node in ast.walk(function):
        if isinstance(node, ast.Try):
            names = {ast.unparse(handler.type) for handler in node.handlers if handler.type}
            for inside in (part for line in node.body for part in ast.walk(line)):
                caught.setdefault(inside, set()).update(names)
    for node in ast.walk(function):
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
            name = ast.unparse(node.exc.func).split(".")[-1]
            if name not in caught.get(node, ()):
                yield name


@pytest.mark.slow
@every_file
def test_no_pickle_no_print_no_eval(file: Path) -> None:
    """Invariant 8: safetensors, JSON, SQLite and N-Triples only."""
    for node in ast.walk(tree(file)):
        if isinstance(node, ast.Import):
            assert not {alias.name.split(".")[0] for alias in node.names} & FORBIDDEN_IMPORTS
        if isinstance(node, ast.ImportFrom):
            assert (node.module or "").split(".")[0] not in FORBIDDEN_IMPORTS
        if isinstance(node, ast.Call) and getattr(node.func, "attr", getattr(node.func, "id", "")) in LAST_NAMES:
            assert ast.unparse(node.func) not in FORBIDDEN_CALLS, f"line {node.lineno}"
        if isinstance(node, ast.keyword):
            assert node.arg != "allow_pickle"
            assert not (node.arg == "trust_remote_code" and ast.unparse(node.value) == "True")


@every_file
def test_public_functions_take_no_kwargs(file: Path) -> None:
    """A mistyped option must be an error: of a TypedDict (`Unpack`) the names are checked, and `Never` takes none."""
    for function, _ in public_functions(tree(file)):
        kwarg = function.args.kwarg
        kind = ast.unparse(kwarg.annotation) if kwarg is not None and kwarg.annotation is not None else ""
        assert kwarg is None or kind == "Never" or "Unpack[" in kind, f"{function.name}, line {function.lineno}"


@every_file
def test_no_module_keeps_a_cache(file: Path) -> None:
    """A second model in the same process must not see the first one's things."""
    module = tree(file)
    for node in ast.walk(module):
        assert not isinstance(node, ast.Global), f"line {node.lineno}"
    for node in module.body:
        if isinstance(node, Function):
            names = [ast.unparse(decorator) for decorator in node.decorator_list]
            assert not any("cache" in name and "cached_property" not in name for name in names), node.name
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
            empty = ast.unparse(node.value) in {"{}", "[]", "set()", "dict()", "list()", "None"}
            assert not empty, f"line {node.lineno}: an empty container or None at module level will be filled"


@cache
def exported_names() -> frozenset[tuple[str, str]]:
    """The names in ``__all__`` of the packages, each with the module that its package imports it from."""
    exported: set[tuple[str, str]] = set()
    for file in FILES:
        if file.name == "__init__.py":
            names: set[str] = set()
            origins: dict[str, str] = {}
            for node in ast.walk(tree(file)):
                if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
                    names = set(ast.literal_eval(node.value))
                if isinstance(node, ast.ImportFrom):
                    origins |= {alias.name: node.module or "" for alias in node.names}
            exported |= {(origins[name], name) for name in names if name in origins}
    return frozenset(exported)


@every_file
def test_public_functions_have_docstrings(file: Path) -> None:
    for function, docstring in public_functions(tree(file)):
        assert docstring.strip(), f"{function.name}, line {function.lineno}: no docstring"


@every_file
def test_exported_functions_and_classes_say_what_they_raise(file: Path) -> None:
    """Invariant 9; shapes and equations are for a reader to judge, errors can be checked."""
    module = ".".join(file.relative_to(ROOT).with_suffix("").parts)
    body = [node for node in tree(file).body if (module, getattr(node, "name", "")) in exported_names()]
    for function, docstring in public_functions(ast.Module(body=body, type_ignores=[])):
        for name in own_raises(function):
            if name.endswith("Error") and not hasattr(builtins, name):
                assert name in docstring, f"{function.name}, line {function.lineno}: raises {name}, and does not say so"


def test_wikidata_cache_never_imports_kg_edit_or_torch() -> None:
    for file in (ROOT / "wikidata_cache").rglob("*.py"):
        for node in ast.walk(tree(file)):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not {name.split(".")[0] for name in names} & {"kg_edit", "torch", "transformers"}, file.name


@pytest.mark.slow
def test_importing_leaves_no_trace() -> None:
    """No seeds, no files, no logging handlers, no argv sniffing at import (rich itself draws from `random`)."""
    code = (
        "import logging, sys, os, torch; sys.argv = ['x', '-d', '--help']; "
        "state = lambda: (len(logging.root.handlers), torch.get_rng_state().tolist(), sorted(os.listdir('.'))); "
        "before = state(); "
        "import kg_edit.methods.glame.method, kg_edit.methods.rome.method, kg_edit.cli.app; "
        "import kg_edit.evaluation.run, wikidata_cache; "
        "assert before == state()"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
