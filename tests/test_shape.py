"""The shape of the code: what must not creep in."""

from __future__ import annotations

import ast
import importlib
import inspect
import subprocess
import sys
import typing
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import msgspec

from tests.grouped import for_each

ROOT = Path(__file__).parent.parent
PROXY = sorted((ROOT / "proxy").rglob("*.py"))
PROTOCOL = sorted((ROOT / "proxy" / "protocol").glob("*.py"))
EVERY = [*PROXY, *sorted((ROOT / "conformance").rglob("*.py")), *sorted((ROOT / "tests").glob("*.py"))]
# Modules that mean input, output, time or chance; `re`, `json` and the like do not.
IMPURE = {
    "asyncio", "subprocess", "socket", "os", "sys", "time", "datetime", "random", "secrets", "uuid", "logging", "io",
    "pathlib", "shutil", "tempfile", "threading", "multiprocessing", "signal", "select", "selectors", "sqlite3",
    "urllib", "http", "httpx", "falcon", "uvicorn", "contextvars",
}  # fmt: skip


FUNCTION = (ast.FunctionDef, ast.AsyncFunctionDef)


def named(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def imported(module: ast.Module) -> Iterator[str]:
    for node in ast.walk(module):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


@for_each("path", PROTOCOL, named)
def test_the_protocol_does_no_input_or_output(path: Path) -> None:
    module = tree(path)
    assert {name.split(".")[0] for name in imported(module)} & IMPURE == set()
    calls = {
        node.func.id for node in ast.walk(module) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    assert calls & {"open", "print", "input", "exec", "eval", "breakpoint"} == set()


@for_each("path", PROXY, named)
def test_no_exception_is_swallowed(path: Path) -> None:
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.ExceptHandler):
            names = {name.id for name in ast.walk(node.type) if isinstance(name, ast.Name)} if node.type else {"(all)"}
            if names & {"Exception", "BaseException", "(all)"}:
                kept = [each for each in node.body if not isinstance(each, ast.Pass | ast.Continue)]
                assert kept, f"{named(path)}:{node.lineno} swallows {names}"
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "suppress":
            for argument in node.args:
                found = {name.id for name in ast.walk(argument) if isinstance(name, ast.Name)}
                assert not found & {"Exception", "BaseException"}, f"{named(path)}:{node.lineno}"


def _modules() -> Iterator[object]:
    for path in PROTOCOL:
        if path.stem != "__init__":
            yield importlib.import_module(f"proxy.protocol.{path.stem}")


def _signatures() -> Iterator[tuple[str, str, object]]:
    """Every field, and what every public function and method gives back, with its type."""
    for module in _modules():
        name = getattr(module, "__name__", "")
        for attribute, value in vars(module).items():
            if attribute.startswith("_") or getattr(value, "__module__", None) != name:
                continue
            holders = {attribute: value}
            if inspect.isclass(value):
                holders |= {f"{attribute}.{key}": each for key, each in vars(value).items() if not key.startswith("_")}
                holders = {key: each for key, each in holders.items() if inspect.isfunction(each) or key == attribute}
            for where, each in holders.items():
                if inspect.isfunction(each) or (inspect.isclass(each) and issubclass(each, msgspec.Struct)):
                    for part, type_ in typing.get_type_hints(each).items():
                        if inspect.isfunction(each) and part != "return":
                            continue
                        yield f"{name}.{where}", part, type_


def _holds_bare_dict(type_: object) -> bool:
    """A dict whose values may be anything: nothing that a type checker could follow."""
    origin, inner = typing.get_origin(type_), typing.get_args(type_)
    if type_ is dict or (origin is dict and inner and inner[1] in (typing.Any, object)):
        return True
    return any(_holds_bare_dict(each) for each in inner if not isinstance(each, str))


def test_no_dict_of_anything_leaves_the_protocol() -> None:
    found = [(where, part) for where, part, type_ in _signatures() if _holds_bare_dict(type_)]
    assert found == []


def test_the_look_for_dicts_sees_something() -> None:
    assert len(list(_signatures())) > 100
    assert _holds_bare_dict(dict[str, typing.Any])
    assert _holds_bare_dict(list[dict[str, object] | None])
    assert not _holds_bare_dict(dict[str, int])


@for_each("path", [path for path in PROXY if path.name != "framing.py"], named)
def test_streams_are_written_in_one_place(path: Path) -> None:
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Constant) and isinstance(node.value, bytes | str):
            text = node.value if isinstance(node.value, bytes) else node.value.encode()
            assert not text.startswith(b"data: "), f"{named(path)}:{node.lineno}"
            assert b"[DONE]" not in text or isinstance(node.value, str), f"{named(path)}:{node.lineno}"


@for_each("path", [path for path in PROXY if "http" not in path.parts], named)
def test_only_the_http_edge_knows_falcon(path: Path) -> None:
    assert not any(name.split(".")[0] == "falcon" for name in imported(tree(path)))


STARTERS = ("process.py", "reaper.py", "find.py", "validator.py")


@for_each("path", [path for path in PROXY if path.name not in STARTERS], named)
def test_only_the_process_edge_starts_and_signals_children(path: Path) -> None:
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Attribute) and node.attr in (
            "subprocess_exec", "create_subprocess_exec", "create_subprocess_shell", "Popen", "killpg", "fork",
            "posix_spawn",
        ):  # fmt: skip
            raise AssertionError(f"{named(path)}:{node.lineno}: {node.attr}")


@for_each("path", EVERY, named)
def test_files_can_be_read_in_one_go(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 650, "split it"


def _says_something(node: ast.AST) -> bool:
    """It asserts, expects an exception, or calls something that is named for it."""
    for each in ast.walk(node):
        if isinstance(each, ast.Assert | ast.Raise):
            return True
        if isinstance(each, ast.Call):
            name = each.func.attr if isinstance(each.func, ast.Attribute) else getattr(each.func, "id", "")
            if name in CHECKS:
                return True
    return False


# Calls that fail by themselves: pytest's, and helpers of the tests that assert or wait.
CHECKS = {
    "raises",
    "until",
    "idle",
    "judged",
    "one_line",
    "refused",
    "validate_python",
    "at_rest",
    "ended",
    "decoded",
    "HTTPStatus",
    "validate_schema",
    "call_and_validate",
    "check_call",
}


def _called(node: ast.AST) -> set[str]:
    calls = [each.func for each in ast.walk(node) if isinstance(each, ast.Call)]
    return {func.attr if isinstance(func, ast.Attribute) else getattr(func, "id", "") for func in calls}


@cache
def _helpers() -> frozenset[str]:
    """Functions of the tests, in whichever file, that assert, or call one that does."""
    functions = [
        node for path in (ROOT / "tests").glob("*.py") for node in ast.walk(tree(path)) if isinstance(node, FUNCTION)
    ]
    found = {node.name for node in functions if _says_something(node)}
    while more := {node.name for node in functions if node.name not in found and _called(node) & found}:
        found |= more
    return frozenset(name for name in found if not name.startswith("__"))


@for_each("path", [path for path in EVERY if path.name.startswith("test_")], named)
def test_every_test_can_fail(path: Path) -> None:
    helpers = _helpers()
    for node in ast.walk(tree(path)):
        if isinstance(node, FUNCTION) and node.name.startswith("test_"):
            assert _says_something(node) or _called(node) & helpers, f"{named(path)}:{node.lineno} asserts nothing"
            for each in ast.walk(node):
                if isinstance(each, ast.Return) and each.value is not None:
                    inner = any(
                        each in ast.walk(other)
                        for other in ast.walk(node)
                        if other is not node and isinstance(other, FUNCTION)
                    )
                    assert inner, f"{named(path)}:{each.lineno} returns instead of asserting"


def test_imports_go_the_way_of_the_data() -> None:
    lint = subprocess.run(
        [str(Path(sys.executable).parent / "lint-imports")], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert lint.returncode == 0, lint.stdout + lint.stderr
