"""The plan of the house: imports run one way, and no core file knows the name of a plugin."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("matchlib", "matchlib_cli")


def modules() -> dict[str, Path]:
    found = {}
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(path: Path, *, deferred: bool) -> set[str]:
    """Modules that a file imports; those inside functions and under TYPE_CHECKING only if ``deferred``."""
    tree = ast.parse(path.read_text())
    skipped = set()
    for node in ast.walk(tree):
        typing_only = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        if not deferred and (typing_only or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)):
            skipped |= {id(inner) for inner in ast.walk(node)}
    found = set()
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


GRAPH = {name: {t for t in imports(path, deferred=False) if t in modules() and t != name} for name, path in modules().items()}


def test_imports_have_no_cycle() -> None:
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, " -> ".join([*trail, name])
        if name not in done:
            for target in GRAPH[name]:
                visit(target, (*trail, name))
            done.add(name)

    for name in GRAPH:
        visit(name, ())


def test_the_library_never_imports_the_command_line() -> None:
    for name, path in modules().items():
        if name.startswith("matchlib."):
            roots = {target.split(".")[0] for target in imports(path, deferred=True)}
            assert not roots & {"matchlib_cli", "typer", "rich", "pydantic"}, name


@pytest.mark.parametrize("room", ["algebra", "sampling", "distillation", "training", "evaluation", "runs"])
def test_no_core_file_imports_a_plugin(room: str) -> None:
    for name, path in modules().items():
        if name.startswith(f"matchlib.{room}"):
            assert not any(target.startswith("matchlib.plugins") for target in imports(path, deferred=True)), name


# "interpolant" is a field of every model as well as a family
COMMON_WORDS = {"interpolant"}
DEFAULTS = ("matchlib.runs.settings", "matchlib.runs.api")  # the two places where defaults are stated


def constants(path: Path) -> set[str]:
    nodes = ast.walk(ast.parse(path.read_text()))
    return {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}


def test_no_core_file_names_a_family_student_or_loss() -> None:
    import matchlib

    names = {*matchlib.families, *matchlib.students, *matchlib.losses} - COMMON_WORDS
    for name, path in modules().items():
        core = name.startswith("matchlib.") and not name.startswith(("matchlib.plugins", "matchlib.testing", "matchlib.adapters"))
        if core and name not in DEFAULTS:
            assert not constants(path) & names, (name, constants(path) & names)


RANKS = ("errors", "registry", "algebra", "sampling", "distillation", "training", "evaluation", "cards", "generator", "runs")


def test_rooms_are_stacked() -> None:
    """A room imports only rooms below it."""
    for name, targets in GRAPH.items():
        room = name.split(".")[1] if name.count(".") else ""
        for target in targets:
            below = target.split(".")[1] if target.count(".") else ""
            if room in RANKS and below in RANKS:
                assert RANKS.index(below) <= RANKS.index(room), f"{name} -> {target}"
