"""Artifacts: what a file must hold to be loaded, and that everything else is refused by name, before memory is taken."""

from __future__ import annotations

import copy
import json
import math
import resource
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import matchlib
from matchlib.adapters import torchcfm
from matchlib.errors import ArtifactError
from matchlib.io import read_tensors, write_tensors
from matchlib.runs.artifact import CONFIG, WEIGHTS, load_artifact, save_artifact
from matchlib.runs.build import build
from matchlib.runs.settings import resolve

FORMAT_1 = Path(__file__).parents[1] / "fixtures" / "format-1"
Tree = dict[str, Any]


def save_teacher(place: Path) -> Path:
    """Saves a teacher that was not trained."""
    network = {"name": "mlp", "width": 4, "depth": 1}
    parts = build(resolve("train", settings={"data.name": "moons", "teacher.network": network, "device": "cpu"}))
    save_artifact(place, parts.config, parts.teacher)
    return place


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A student of format 1, and a teacher."""
    shutil.copytree(FORMAT_1 / "student", tmp_path / "run" / "student")
    save_teacher(tmp_path / "run" / "teacher")
    return tmp_path / "run"


def changed(place: Path, change: Callable[[Tree], object]) -> Path:
    """Changes a configuration in place."""
    tree = json.loads((place / CONFIG).read_text())
    change(tree)
    (place / CONFIG).write_text(json.dumps(tree))
    return place


# -- format 1 --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["teacher", "student"])
def test_load_reads_format_1_and_samples_the_recorded_numbers(kind: str) -> None:
    """Whatever this version writes, it reads what the first one wrote."""
    recorded = torch.tensor(json.loads((FORMAT_1 / "samples.json").read_text())[kind])
    samples = matchlib.load(FORMAT_1, kind).sample(3, seed=7, labels=[0, 1, 1])
    assert torch.allclose(samples, recorded, atol=1e-4)


def test_load_artifact_refuses_another_format_and_says_which_it_reads(folder: Path) -> None:
    changed(folder / "student", lambda tree: tree.update(format=99, something="new"))
    with pytest.raises(ArtifactError, match=r"student/config\.json .* reads format 1, got format 99"):
        matchlib.load(folder)


def test_save_artifact_writes_equal_bytes_for_equal_weights(tmp_path: Path) -> None:
    for kind in ("teacher", "student"):
        for name in ("one", "two"):
            config, module = load_artifact(FORMAT_1 / kind)
            save_artifact(tmp_path / name, config, module)
        for file in (CONFIG, WEIGHTS):
            assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()
        assert (tmp_path / "one" / WEIGHTS).read_bytes() == (FORMAT_1 / kind / WEIGHTS).read_bytes()


# -- the configuration -----------------------------------------------------------------------------------------------------


def paths(tree: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Every place of a tree but its root."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in items:
        yield (*path, key)
        yield from paths(value, (*path, key))


def at(tree: Any, path: tuple[str | int, ...]) -> Any:
    for key in path:
        tree = tree[key]
    return tree


def wrong_types(value: Any) -> list[Any]:
    """Values of another type, and numbers that are none."""
    others: list[Any] = ["wrong", {"wrong": 1}, [["wrong"]], math.nan, None, True, 1.5]
    kinds = (int, float) if isinstance(value, float) else type(value)
    return [x for x in others if type(x) is not kinds and not (isinstance(value, float) and type(x) is float and math.isfinite(x))]


def described() -> Tree:
    """The configuration of a network from outside, made again without its code."""
    tree = json.loads((FORMAT_1 / "teacher" / CONFIG).read_text())
    from torchcfm.models.models import MLP

    torch.manual_seed(0)
    teacher = torchcfm(MLP(2, w=4, time_varying=True))
    return {**tree, "network": {"name": None}, "origin": teacher.origin}


@pytest.fixture(scope="module", params=["teacher", "formula", "student", "described"])
def artifact(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp(request.param)
    if request.param == "teacher":
        return save_teacher(place)
    if request.param != "described":
        return Path(shutil.copytree(FORMAT_1 / {"formula": "teacher"}.get(request.param, request.param), place, dirs_exist_ok=True))
    tree = described()
    (place / CONFIG).write_text(json.dumps(tree))
    from matchlib.adapters import rebuild

    write_tensors(place / WEIGHTS, rebuild(tree["origin"], trust=False).state_dict())
    return place


OPEN = (
    "network",
    "sampler",
    "student",
    "coupling",
    "interpolant",
    "objective",
    "config",
)  # a plugin: what is left out has the plugin's default


def is_plugin(path: tuple[str | int, ...]) -> bool:
    return len(path) > 1 and path[-2] in OPEN and path[-1] != "name"


def samples_of(place: Path) -> Tensor:
    return matchlib.load(place).sample(2, seed=0)


def outcome(place: Path, tree: Tree, path: tuple[str | int, ...]) -> str:
    """What comes of a changed configuration: an empty string for a refusal that names file and key, else what is wrong with it."""
    (place / CONFIG).write_text(json.dumps(tree))
    try:
        config, _ = load_artifact(place)
    except ArtifactError as error:
        key = next(str(key) for key in reversed(path) if isinstance(key, str))
        parents = [str(x) for x in path if isinstance(x, str)]
        named = any(name in str(error) for name in (key, *parents))
        return "" if str(place) in str(error) and named and "\n" not in str(error) else f"{path}: {error}"
    except Exception as error:
        return f"{path}: {type(error).__name__}: {error}"
    return f"{path}: accepted as {at(tree, path[:-1])}, {config.kind}"


# of files written before there were such keys
OPTIONAL = {
    ("data", "codec"),
    ("guidance_interval",),
    ("defaults", "critic_steps"),
    ("defaults", "axes"),
}  # of files written before there were such keys
HARMLESS: Mapping[str, Callable[[tuple[str | int, ...]], bool]] = {
    "a version that is not recorded": lambda path: path[0] == "versions" and len(path) == 2,
    "an option of the data, read where the data are": lambda path: path[:2] == ("data", "options"),
    "a place in the origin that only a file has": lambda path: path[0] == "origin" and path[-1] in ("path", "name", "digest"),
}


def test_load_artifact_refuses_a_configuration_without_any_of_its_keys(artifact: Path) -> None:
    """Each is named; a setting of a plugin that is left out has the plugin's default, which the weights then have to fit."""
    original = json.loads((artifact / CONFIG).read_text())
    try:
        for path in [path for path in paths(original) if isinstance(path[-1], str)]:
            if path in OPTIONAL or any(harmless(path) for harmless in HARMLESS.values()):
                continue
            tree = copy.deepcopy(original)
            del at(tree, path[:-1])[path[-1]]
            found = outcome(artifact, tree, path)
            assert not found or (is_plugin(path) and "accepted" in found), found
            if found:  # a setting whose default it had, or which no weight depends on
                config, _ = load_artifact(artifact)
                assert config.to_json()["model"].keys() == original["model"].keys()
    finally:
        (artifact / CONFIG).write_text(json.dumps(original))


def test_load_artifact_refuses_values_of_another_type_and_nan(artifact: Path) -> None:
    original = json.loads((artifact / CONFIG).read_text())
    try:
        for path in paths(original):
            if any(harmless(path) for harmless in HARMLESS.values()):
                continue
            value = at(original, path)
            if path == ("network", "name") and (original["student"] or {}).get("network"):
                continue  # the teacher's network is of no importance to a student that has its own
            optional = [None] if value is None or path[-1] in NULLABLE else []
            for wrong in wrong_types(value):
                if wrong in optional or (value is None and wrong not in ("wrong",)):
                    continue
                tree = copy.deepcopy(original)
                at(tree, path[:-1])[path[-1]] = wrong
                found = outcome(artifact, tree, path)
                if "accepted" in found and ("config" in path or (path[:2] == ("origin", "settings") and wrong is None)):
                    continue  # an argument that a listed class of another package takes, and shapes fit; or none, which is the default
                assert not found, f"{wrong!r} at {found}"
    finally:
        (artifact / CONFIG).write_text(json.dumps(original))


NULLABLE = ("classes", "label_shape", "log_sigma", "times", "label_shares", "label_dropout", "origin", "network", "t_start")


def test_load_artifact_refuses_keys_that_it_does_not_know(artifact: Path) -> None:
    original = json.loads((artifact / CONFIG).read_text())
    try:
        for path in [(), *paths(original)]:
            if not isinstance(at(original, path), dict) or path in (("versions",), ("data", "options")):
                continue
            tree = copy.deepcopy(original)
            at(tree, path)["bogus"] = 1
            found = outcome(artifact, tree, (*path, "bogus"))
            assert not found, found
    finally:
        (artifact / CONFIG).write_text(json.dumps(original))


@pytest.mark.parametrize(
    ("path", "value"),
    [(("data", "scale"), 0.0), (("data", "scale"), -1.0), (("kind",), "teacher"), (("student",), None), (("kind",), "critic")],
)
def test_load_artifact_refuses_what_contradicts_itself(folder: Path, path: tuple[str, ...], value: Any) -> None:
    changed(folder / "student", lambda tree: at(tree, path[:-1]).__setitem__(path[-1], value))
    with pytest.raises(ArtifactError, match=rf"config\.json .*({path[-1]}|student)"):
        matchlib.load(folder)


# -- memory ----------------------------------------------------------------------------------------------------------------

LARGE: list[tuple[str, Any]] = [
    ("width", 12_000),
    ("width", 10**9),
    ("width", 10**15),
    ("depth", 10**9),
]


@pytest.mark.parametrize("kind", ["teacher", "student"])
@pytest.mark.parametrize(("key", "value"), LARGE)
def test_load_artifact_compares_shapes_before_it_takes_memory(folder: Path, kind: str, key: str, value: int) -> None:
    """Also where the file holds as many numbers as the network has: shapes are compared one by one."""
    changed(folder / kind, lambda tree: ((tree["student"] or tree)["network"]).update({key: value}))
    before, begin = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    with pytest.raises(ArtifactError, match=r"do not fit its config\.json"):
        load_artifact(folder / kind)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KiB
    assert time.perf_counter() - begin < 10


def test_load_artifact_is_not_fooled_by_a_large_tensor_beside_the_weights(folder: Path) -> None:
    """Numbers in all were once compared, so that a file with as many others passed and a network of any shape was made."""
    tensors, _ = read_tensors(folder / "teacher" / WEIGHTS)
    write_tensors(folder / "teacher" / WEIGHTS, {**tensors, "filler": torch.zeros(4_000_000, dtype=torch.uint8)})
    changed(folder / "teacher", lambda tree: tree["network"].update(width=700))
    made = []
    hook = torch.nn.modules.module.register_module_parameter_registration_hook(lambda _, name, x: made.append(x.device.type))
    try:
        with pytest.raises(ArtifactError, match="has shape"):
            load_artifact(folder / "teacher")
    finally:
        hook.remove()
    assert set(made) == {"meta"}


def test_load_artifact_compares_the_shapes_of_described_networks_before_it_takes_memory(tmp_path: Path) -> None:
    from matchlib.adapters import rebuild

    tree = described()
    write_tensors(tmp_path / WEIGHTS, rebuild(tree["origin"], trust=False).state_dict())
    tree["origin"]["network"]["config"]["w"] = 10**9
    (tmp_path / CONFIG).write_text(json.dumps(tree))
    with pytest.raises(ArtifactError, match="has shape"):
        load_artifact(tmp_path)


# -- weights ---------------------------------------------------------------------------------------------------------------


def _without(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return dict(list(tensors.items())[1:])


def _first(change: Callable[[Tensor], Tensor]) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    def changed(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        name = next(name for name, x in tensors.items() if x.ndim == 2 and len(x) != len(x.T))
        return {**tensors, name: change(tensors[name])}

    return changed


WRONG: dict[str, tuple[Callable[[dict[str, Tensor]], dict[str, Tensor]], str]] = {
    "missing": (_without, "the file has no"),
    "extra": (lambda tensors: {**tensors, "field.more": torch.zeros(1)}, "field.more has no place"),
    "float64": (_first(Tensor.double), "float64 .* float32"),
    "float16": (_first(Tensor.half), "float16 .* float32"),
    "integers": (_first(Tensor.int), "int32 .* float32"),
    "shape": (_first(lambda x: x[:1]), "has shape"),
    "transposed": (_first(lambda x: x.T), "has shape"),
    "scalar": (_first(lambda x: x[0, 0]), "has shape"),
    "all": (lambda tensors: {}, "the file has no"),
}


@pytest.mark.parametrize("kind", ["teacher", "student"])
@pytest.mark.parametrize("name", list(WRONG))
def test_load_artifact_refuses_weights_that_are_not_the_networks(folder: Path, kind: str, name: str) -> None:
    change, message = WRONG[name]
    file = folder / kind / WEIGHTS
    write_tensors(file, change(read_tensors(file)[0]))
    with pytest.raises(ArtifactError, match=message) as refusal:
        load_artifact(folder / kind)
    assert str(file) in str(refusal.value) and "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[:7],
        lambda data: data[:200],
        lambda data: data[:-1],
        lambda data: data[:-40] + bytes([data[-40] ^ 1]) + data[-39:],
        lambda data: np.random.default_rng(0).bytes(len(data)),
        lambda data: (2**62).to_bytes(8, "little") + data[8:],
    ],
    ids=["empty", "header cut", "truncated", "last byte", "a bit", "noise", "header without end"],
)
def test_load_artifact_refuses_damaged_weights(folder: Path, damage: Callable[[bytes], bytes]) -> None:
    file = folder / "student" / WEIGHTS
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(ArtifactError, match=str(file)) as refusal:
        matchlib.load(folder)
    assert "\n" not in str(refusal.value)


def test_load_artifact_refuses_weights_that_are_not_there(folder: Path) -> None:
    (folder / "student" / WEIGHTS).unlink()
    with pytest.raises(ArtifactError, match=str(folder / "student" / WEIGHTS)):
        matchlib.load(folder)
