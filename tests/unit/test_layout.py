"""The plan of the house: imports run one way, and no core file knows the name of a plugin.

Imports inside functions and under TYPE_CHECKING count.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# A room imports rooms of its own rank or below. A room that is not listed is refused, so that a new one gets a rank.
RANKS = (
    {"errors", "io", "settings", "registry"},
    {"algebra"},
    {"fields", "data", "distillation"},
    {"training", "evaluation", "plugins", "adapters"},
    {"runs"},
    {"exporting"},
    {"matchlib", "testing"},
    {"__main__", "matchlib_cli"},
)
RANK = {room: rank for rank, rooms in enumerate(RANKS) for room in rooms}

# Imports against the plan that stay, each with its reason.
EXCEPTIONS = {
    # for type checking only: a registry states the base class of what it holds
    *(("matchlib.registry", f"matchlib.algebra.{name}") for name in ("coupling", "interpolant", "objective")),
    *(("matchlib.registry", f"matchlib.distillation.{name}") for name in ("family", "loss", "student")),
    ("matchlib.registry", "matchlib.data.codec"),
    ("matchlib.registry", "matchlib.fields.sampler"),
    ("matchlib.registry", "matchlib.training.task"),
    ("matchlib.registry", "matchlib.training.tracker"),
}


def modules() -> dict[str, Path]:
    found = {}
    for package in ("matchlib", "matchlib_cli"):
        for path in (ROOT / package).rglob("*.py"):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def imports(path: Path) -> set[str]:
    """Everything that a file imports anywhere: modules, and names in modules."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= names if names <= MODULES.keys() else {node.module, *names}
    return found


IMPORTS = {name: imports(path) for name, path in MODULES.items()}
GRAPH = {name: {target for target in targets if target in MODULES and target != name} for name, targets in IMPORTS.items()}


def room_of(module: str) -> str:
    """The folder of ``matchlib`` that a module lies in, or its own name."""
    package, _, inside = module.partition(".")
    return inside.split(".")[0] if package == "matchlib" and inside else package


def core() -> list[str]:
    """The modules that serve every plugin alike."""
    return [name for name in MODULES if room_of(name) not in {"plugins", "testing", "adapters", "matchlib_cli", "matchlib"}]


def test_imports_have_no_cycle() -> None:
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, " -> ".join([*trail, name])
        if name not in done:
            for target in GRAPH[name]:
                if (name, target) in EXCEPTIONS:
                    continue
                visit(target, (*trail, name))
            done.add(name)

    for name in GRAPH:
        visit(name, ())


def test_imports_every_room_has_a_rank() -> None:
    assert {room_of(name) for name in MODULES} <= RANK.keys()


def test_imports_run_down() -> None:
    """A room imports no room above it; ``matchlib`` itself, the table of public names, stands above all rooms."""
    against = {(name, t) for name, targets in GRAPH.items() for t in targets if RANK[room_of(t)] > RANK[room_of(name)]}
    assert not against - EXCEPTIONS


def test_imports_of_testing_are_of_tests_and_the_command_line() -> None:
    production = [name for name in MODULES if room_of(name) not in {"testing", "matchlib_cli"}]
    assert not [name for name in production if any(room_of(target) == "testing" for target in GRAPH[name])]


@pytest.mark.parametrize("name", [name for name in modules() if room_of(name) == "algebra"])
def test_algebra_knows_no_registry_file_device_or_process(name: str) -> None:
    outside = {t.split(".")[0] for t in IMPORTS[name]} - {"__future__", "abc", "collections", "dataclasses", "functools", "itertools"}
    assert outside <= {"math", "typing", "concurrent", "numpy", "torch", "matchlib"}
    assert {room_of(target) for target in GRAPH[name]} <= {"algebra", "errors"}
    assert not any(target.startswith(("torch.distributed", "torch.cuda")) for target in IMPORTS[name])


def test_imports_of_the_command_line_are_its_own() -> None:
    for name in MODULES:
        if name.startswith("matchlib."):
            assert not {target.split(".")[0] for target in IMPORTS[name]} & {"matchlib_cli", "typer", "rich"}, name


def test_core_imports_no_plugin() -> None:
    for name in core():
        assert not any(target.startswith("matchlib.plugins") for target in IMPORTS[name]), name


# "interpolant" is a field of every model as well as a family
COMMON_WORDS = {"interpolant"}
DEFAULTS = ("matchlib.runs.settings", "matchlib.runs.api")  # the two places where defaults are stated


def constants(path: Path) -> set[str]:
    nodes = ast.walk(ast.parse(path.read_text()))
    return {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}


def test_core_names_no_family_student_or_loss() -> None:
    import matchlib

    names = {*matchlib.families, *matchlib.students, *matchlib.losses} - COMMON_WORDS
    for name in set(core()) - set(DEFAULTS):
        assert not constants(MODULES[name]) & names, (name, constants(MODULES[name]) & names)
