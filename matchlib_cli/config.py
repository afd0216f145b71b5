"""From options and files to settings: defaults < ``--recipe`` < ``--config`` < options < ``--set``.

Every value is checked against its type by pydantic.
"""

from __future__ import annotations

import typing
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml
from pydantic import ConfigDict, TypeAdapter, ValidationError, create_model

from matchlib.errors import SettingError
from matchlib.registry import ALL, families, fields_of, students
from matchlib.runs.recipes import recipe as read_recipe
from matchlib.runs.settings import SPECS, RunSettings, at, from_tree, merge, to_tree

__all__ = ["assemble", "assign", "read_yaml"]


def read_yaml(path: Path) -> dict[str, Any]:
    """Reads a YAML mapping.

    Raises:
        SettingError: it is missing or no mapping.
    """
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise SettingError(f"--config {path} cannot be read: {error}") from error
    if not isinstance(tree, dict):
        raise SettingError(f"--config {path} must hold a mapping of settings, got {type(tree).__name__}")
    return tree


def assign(tree: dict[str, Any], path: str, value: Any) -> None:
    """Sets ``tree[a][b][c]`` for the path ``a.b.c``; naming a plugin drops the settings of the one before.

    Raises:
        SettingError: a part of the path is not a mapping.
    """
    *parents, last = path.split(".")
    node = tree
    for i, parent in enumerate(parents):
        if node.get(parent) is None:
            node[parent] = {}
        node = node[parent]
        if not isinstance(node, dict):
            raise SettingError(f"--set {path}: {'.'.join(parents[: i + 1])} is a value, not a group of settings")
    if last == "name" and (*parents,) in SPECS:
        node.clear()
    if isinstance(value, dict) and isinstance(node.get(last), dict):
        merge(node[last], value, (*parents, last))
    else:
        node[last] = value


def assemble(
    command: str, config: Path | None, options: Mapping[str, Any], sets: Sequence[str] | None, recipe: str | None = None
) -> RunSettings:
    """Returns complete, checked settings.

    Args:
        command: ``train`` or ``distill``.
        options: values by dotted path; None where the user gave none.
        sets: ``PATH=VALUE`` strings.
        recipe: name of one of ``matchlib.runs.recipes``.

    Raises:
        MatchlibError: naming the setting, what was given and what is accepted.
    """
    tree = to_tree(RunSettings(command=command))
    named = {} if recipe is None else read_recipe(recipe)
    merge(tree, named)
    if config is not None:
        merge(tree, read_yaml(config))
        tree["command"] = command
    for path, value in options.items():
        again = value == at(named, path) and value == at(tree, path)  # the loss that the recipe names keeps the recipe's settings
        if value is not None and not again:
            assign(tree, path, value)
    for item in sets or ():
        path, equals, text = item.partition("=")
        if not equals or not path or "" in path.split("."):
            raise SettingError(f"--set takes PATH=VALUE, for example trainer.batch_size=64, got {item!r}")
        try:
            assign(tree, path, yaml.safe_load(text))
        except yaml.YAMLError as error:
            raise SettingError(f"--set {path}: {text!r} is not a YAML value: {error}") from error
    return check(tree)


def check(tree: Mapping[str, Any]) -> RunSettings:
    """Returns the settings of a tree, refusing unknown keys and values of another type."""
    tree = dict(tree)
    for group in ("data", "teacher", "student", "trainer", "evaluation", "loss"):
        if group in tree and not isinstance(tree[group], Mapping):
            raise SettingError(f"{group} must be a group of settings, for example {group}.{_first_key(group)}, got {tree[group]!r}")
    settings: RunSettings = from_tree(tree)
    plain = asdict(settings)
    for path, group in SPECS.items():
        _check_piece(plain, path, group)
    for group_name, registry in (("teacher", families), ("student", students)):
        node = plain[group_name]
        if node["name"] in registry:
            node["options"] = _typed(registry, node["name"], node["options"], group_name)
    try:
        return TypeAdapter(RunSettings).validate_python(plain)
    except ValidationError as error:
        raise SettingError(_first(error, "")) from None


def _first_key(group: str) -> str:
    return {"trainer": "steps", "evaluation": "draws"}.get(group, "name")


def _check_piece(tree: dict[str, Any], path: tuple[str, ...], group: str) -> None:
    node = tree
    for key in path[:-1]:
        node = node[key]
    piece = node[path[-1]]
    where = ".".join(path)
    if piece is None:
        return
    if not isinstance(piece, dict) or "name" not in piece:
        raise SettingError(f"{where} must name a plugin, {where}.name=... (there are: {', '.join(ALL[group])}), got {piece!r}")
    if not isinstance(piece["name"], str):
        raise SettingError(f"{where}.name must be a name (there are: {', '.join(ALL[group])}), got {piece['name']!r}")
    settings = {key: value for key, value in piece.items() if key != "name"}
    node[path[-1]] = {"name": piece["name"], **_typed(ALL[group], piece["name"], settings, where)}


def _typed(registry: Any, name: str, settings: dict[str, Any], where: str) -> dict[str, Any]:
    """Returns a plugin's settings with each value of its declared type; unknown keys are left for the registry to refuse."""
    plugin = registry[name]
    target = plugin.__dict__.get("__init__", plugin) if isinstance(plugin, type) else plugin
    hints = typing.get_type_hints(target)
    known = {key: p for key, p in fields_of(plugin).items() if key in settings and key in hints}
    if not known:
        return settings
    fields: Any = {key: (hints[key], ...) for key in known}
    model = create_model("Settings", __config__=ConfigDict(arbitrary_types_allowed=True, protected_namespaces=()), **fields)
    try:
        checked = model(**{key: settings[key] for key in known})
    except ValidationError as error:
        raise SettingError(_first(error, f"{where}.")) from None
    return {**settings, **{key: getattr(checked, key) for key in known}}


def _first(error: ValidationError, prefix: str) -> str:
    """The first complaint, in one line."""
    first = error.errors(include_url=False, include_context=False)[0]
    path = prefix + ".".join(str(part) for part in first["loc"] if not str(part).startswith("function"))
    return f"{path}: {first['msg'][0].lower()}{first['msg'][1:]}, got {first['input']!r}"
