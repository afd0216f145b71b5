"""Exports: tables of students, files that run where matchlib is not installed, equal to Pipeline.sample, and refusals.

What is exported here has random weights; ``tests/fixtures/students.py`` makes it.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from fixtures.runs import SMALL
from fixtures.students import ODE, dit_student, mlp_student, model_of, save_inputs, unet_student
from torch import Tensor, nn

import matchlib
from matchlib.errors import ArtifactError, IncompatibleError, MatchlibError, SettingError, UnknownNameError
from matchlib.exporting.exporter import Exportable, Exporter, Inputs
from matchlib.plugins.couplings import MinibatchOTData
from matchlib.plugins.objectives import Joint
from matchlib.runs.artifact import DataConfig, build_student, save_artifact
from matchlib.runs.pipeline import load
from matchlib.training.random import Streams

Cli = Callable[..., tuple[int, str, str]]
FEW = {"name": "fewstep", "t_start": 1.0, "steps": 3}
FAMILIES = {
    "flow": model_of("flow"),
    "flow, paired": model_of("flow", paired=True),
    "diffusion EDM": model_of("diffusion"),
    "diffusion VP": model_of("diffusion-vp"),
    "bridge, paired": model_of("bridge", paired=True),
    "bridge": model_of("bridge"),
    "interpolant": model_of("interpolant"),
    "interpolant, paired": model_of("interpolant", paired=True),
    "interpolant, two heads": replace(model_of("interpolant"), objective=Joint(("data", "noise"))),
    "bridge, unpaired": replace(model_of("bridge", paired=True), coupling=MinibatchOTData(), sees_source=False),
    "interpolant, two-sided": replace(
        model_of("interpolant", paired=True), coupling=MinibatchOTData(), sees_source=False, objective=Joint(("data", "noise"))
    ),
}
START = {"diffusion VP": 0.7, "diffusion EDM": 0.8, "bridge, paired": 0.5, "interpolant, paired": 0.5, "interpolant, two-sided": 0.9}

# -- a process without matchlib --------------------------------------------------------------------------------------------

WITHOUT = """
import json, sys
import numpy as np, torch
class Without:
    def find_spec(self, name, *rest):
        if name.partition(".")[0] in ("matchlib", "matchlib_cli"):
            raise ImportError(name + " is blocked")
sys.meta_path.insert(0, Without())
def refused(call, x):
    for wrong in ([x[0].double(), *x[1:]], [*x, x[0]], x[:-1]):
        try:
            call(*wrong)
        except Exception:
            continue
        raise SystemExit("float64, or another number of inputs, was taken")
def pt2(folder, x):
    generate = torch.export.load(folder + "/model.pt2").module()
    refused(generate, x)
    return generate(*x)
def onnx(folder, x):
    import onnxruntime
    session = onnxruntime.InferenceSession(folder + "/model.onnx", providers=["CPUExecutionProvider"])
    def generate(*x):
        return torch.from_numpy(session.run(["data"], {i.name: y.numpy() for i, y in zip(session.get_inputs(), x, strict=True)})[0])
    refused(generate, x)
    return generate(*x)
def pipeline_of(folder, trust):
    from diffusers import DiffusionPipeline
    pipeline = DiffusionPipeline.from_pretrained(folder, trust_remote_code=trust, low_cpu_mem_usage=False)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
def own(folder, x, labelled):
    pipeline, more = pipeline_of(folder, True), {"class_labels": x[1]} if labelled else {}
    steps, n = len(pipeline.config.calls), len(x[0])
    for wrong in (steps + 1, steps + 47):
        try:
            pipeline(n, num_inference_steps=wrong)
            raise SystemExit("another number of steps was taken")
        except ValueError as error:
            assert f"must be {steps}" in str(error), error
    assert np.asarray(pipeline(2, output_type="np").images).shape[:3] == (2, 8, 8)
    return pipeline(n, num_inference_steps=steps, latents=x[0], noises=x[1 + labelled:], output_type="latent", **more).images
def stock(folder, x, labelled, seed):
    pipeline, more = pipeline_of(folder, False), {"class_labels": x[1]} if labelled else {}
    images = pipeline(len(x[0]), num_inference_steps=1, generator=torch.Generator().manual_seed(seed), output_type="np", **more).images
    return 255 * torch.from_numpy(np.asarray(images)).permute(0, 3, 1, 2)
for case in json.load(open(sys.argv[1])):
    stored = np.load(case["inputs"])
    x = [torch.from_numpy(stored[name]) for name in case["names"]]
    found, expected = globals()[case["how"]](case["folder"], x, *case["more"]), torch.from_numpy(stored["expected"])
    if case["how"] == "stock":
        expected = expected.clamp(0, 255)
    assert found.shape == expected.shape, (case, found.shape)
    size = max(1.0, float(((expected - case["shift"]) / case["scale"]).abs().max()))
    error = float((found - expected).abs().max()) / case["scale"] / size
    print(f"{error:.2e}", case["name"])
    assert error <= case["tolerance"], case
assert "matchlib" not in sys.modules
"""


@dataclass
class Elsewhere:
    """Exports that are compared in a process where matchlib cannot be imported."""

    folder: Path

    def __post_init__(self) -> None:
        self.cases: list[dict[str, Any]] = []

    def export(self, artifact: Path, to: str, *, sizes: tuple[int, ...] = (6, 1), settings: Any = None) -> Path:
        """Exports a student here, and notes fixed inputs for the other process."""
        number = len(self.cases)
        out = self.folder / f"out-{number}"
        matchlib.export(artifact, to, out, settings=settings)
        student = exportable(artifact)
        data = student.config.data
        for n in sizes:
            inputs = student.inputs(n, seed=3)
            names = student.generator.names
            file = self.folder / f"inputs-{number}-{n}.npz"
            save_inputs(file, **dict(zip(names, inputs.tensors, strict=True)), expected=inputs.expected)
            how, more = self._how(out, to, student)
            self.cases.append(
                {"name": f"{to} {artifact.name} {n}", "folder": str(out), "inputs": str(file), "names": names, "how": how, "more": more}
                | {"shift": data.shift, "scale": data.scale, "tolerance": 1e-4 if to == "onnx" else 1e-5}
            )
        return out

    @staticmethod
    def _how(out: Path, to: str, student: Exportable) -> tuple[str, list[Any]]:
        if to != "diffusers":
            return to, []
        if isinstance(json.loads((out / "model_index.json").read_text())["_class_name"], list):
            return "own", [student.labelled]
        return "stock", [student.labelled, Streams(3, torch.device("cpu"))("sample", 0).initial_seed()]

    def compare(self) -> str:
        """Runs the other process and returns what it printed: a line of error and name for each comparison."""
        file = self.folder / "cases.json"
        file.write_text(json.dumps(self.cases))
        result = subprocess.run([sys.executable, "-c", WITHOUT, str(file)], capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stdout + result.stderr
        print(result.stdout)
        return result.stdout


def exportable(artifact: Path) -> Exportable:
    return Exportable(load(artifact), artifact, load)


@pytest.fixture
def elsewhere(tmp_path: Path) -> Elsewhere:
    return Elsewhere(tmp_path)


def family_student(folder: Path, family: str, student: str, axes: int = 0, **more: Any) -> Path:
    """A student of the matrix; those of flows and of EDM have labels."""
    start = {"t_start": START.get(family, 1.0), **({"axes": axes} if axes else {})}
    spec = {**start, "name": "onestep"} if student == "onestep" else {**FEW, **start}
    return mlp_student(folder / f"{family} {student}".replace(" ", "-"), FAMILIES[family], spec, **more)


@pytest.mark.slow
@pytest.mark.parametrize("to", ["pt2", "onnx"])
def test_export_of_every_family_and_student_runs_without_matchlib(elsewhere: Elsewhere, to: str) -> None:
    for number, family in enumerate(FAMILIES):
        for student in ("onestep", "fewstep"):
            classes = 3 if number % 2 == 0 else None
            elsewhere.export(family_student(elsewhere.folder, family, student, classes=classes), to)
    assert len(elsewhere.compare().splitlines()) == 4 * len(FAMILIES)


@pytest.mark.slow
@pytest.mark.parametrize("to", ["pt2", "onnx"])
@pytest.mark.parametrize("network", [{"name": "unet", "channels": 8}, {"name": "dit", "width": 16, "depth": 1, "heads": 2}], ids=str)
def test_export_of_every_network_takes_any_number_of_samples(elsewhere: Elsewhere, to: str, network: dict[str, Any]) -> None:
    one = {"name": "onestep", "t_start": 1.0}
    for classes, heads in ((3, "flow"), (None, "interpolant, two heads")):
        artifact = mlp_student(
            elsewhere.folder / f"{heads}-{classes}", FAMILIES[heads], one, classes=classes, shape=(1, 8, 8), network=network
        )
        out = elsewhere.export(artifact, to, sizes=(70, 1))
        assert json.loads((out / "generator.json").read_text())["largest_batch"] is None
    elsewhere.compare()


def schedulers() -> dict[str, Any]:
    from diffusers import DDIMScheduler, DDPMScheduler, EDMEulerScheduler, FlowMatchEulerDiscreteScheduler

    return {
        "epsilon": DDPMScheduler(),
        "v": DDPMScheduler(prediction_type="v_prediction", beta_schedule="squaredcos_cap_v2"),
        "sample": DDIMScheduler(prediction_type="sample", beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012),
        "EDM": EDMEulerScheduler(),
        "straight": FlowMatchEulerDiscreteScheduler(),
    }


def unet_students(folder: Path) -> dict[str, tuple[Path, str | None]]:
    """Students around a UNet2DModel, and the class of diffusers that has to be exact for them."""
    found: dict[str, tuple[Path, str | None]] = {}
    for name, scheduler in schedulers().items():
        for classes in (None, 3):
            for student in ({"name": "onestep", "t_start": 0.64}, {"name": "onestep", "t_start": 0.6405}, {**FEW, "t_start": 0.64}):
                late = (0.9,) if name == "epsilon" and student["t_start"] == 0.64 else ()  # 38 times as much noise as signal
                starts = (1.0, 0.9) if name == "straight" else (student["t_start"], *late)
                for start in starts:
                    spec = {**student, "t_start": start}
                    key = f"{name}-{classes}-{spec['name']}-{start}"
                    level = spec["name"] == "onestep" and start == 0.64 and name not in ("EDM", "straight")
                    straight = name == "straight" and spec["name"] == "onestep" and start == 1.0 and classes is None
                    kind = "ConsistencyModelPipeline" if level else "DDPMPipeline" if straight else None
                    found.setdefault(key, (unet_student(folder / key, scheduler, spec, classes=classes), kind))
    return found


@pytest.mark.slow
def test_export_to_diffusers_is_of_stock_classes_where_they_are_exact(elsewhere: Elsewhere) -> None:
    students = unet_students(elsewhere.folder)
    for artifact, kind in students.values():
        out = elsewhere.export(artifact, "diffusers")
        found = json.loads((out / "model_index.json").read_text())["_class_name"]
        assert found == (kind or ["pipeline", "GeneratorPipeline"]), artifact.name
        assert (out / "pipeline.py").exists() == (kind is None)
    artifact = next(artifact for artifact, kind in students.values() if kind)
    out = elsewhere.export(artifact, "diffusers", settings={"stock": False})
    assert (out / "pipeline.py").exists()
    elsewhere.compare()


@pytest.mark.slow
@pytest.mark.parametrize("to", ["pt2", "onnx"])
def test_export_of_a_unet_of_diffusers_runs_without_matchlib(elsewhere: Elsewhere, to: str) -> None:
    every = schedulers()
    for name in ("epsilon", "EDM", "straight"):
        for classes in (None, 3):
            for student in ({"name": "onestep", "t_start": 0.6405}, {**FEW, "t_start": 0.64}):
                key = f"{name}-{classes}-{student['name']}"
                artifact = unet_student(elsewhere.folder / key, every[name], student, classes=classes)
                weights = sum(x.numel() for x in load(artifact).module.parameters())
                assert 25_000 < weights < 35_000
                out = elsewhere.export(artifact, to)
    assert json.loads((out / "generator.json").read_text())["largest_batch"] == (63 if to == "pt2" else None)
    elsewhere.compare()


@pytest.mark.slow
@pytest.mark.parametrize("to", ["diffusers", "pt2", "onnx"])
def test_export_of_a_dit_of_diffusers_runs_without_matchlib(elsewhere: Elsewhere, to: str) -> None:
    every = schedulers()
    for name in ("epsilon", "straight"):
        for student in ({"name": "onestep", "t_start": 0.64}, {**FEW, "t_start": 0.64}):
            artifact = dit_student(elsewhere.folder / f"{name}-{student['name']}", every[name], student)
            assert 25_000 < sum(x.numel() for x in load(artifact).module.parameters()) < 35_000
            elsewhere.export(artifact, to)
    assert len(elsewhere.compare().splitlines()) == 8


@pytest.mark.slow
def test_exports_of_a_student_with_a_start_run_without_matchlib(elsewhere: Elsewhere) -> None:
    """In diffusers it is a component of the pipeline, also where a class of diffusers would be exact but for the start."""
    every = schedulers()
    for name, student in (("epsilon", {"name": "onestep", "t_start": 0.64}), ("v", {**FEW, "t_start": 0.64})):
        artifact = unet_student(elsewhere.folder / name, every[name], {**student, "axes": 5})
        for to in ("diffusers", "pt2", "onnx"):
            out = elsewhere.export(artifact, to)
            assert to != "diffusers" or (out / "start" / "gaussian_start.py").exists()
    elsewhere.compare()
    from diffusers import DiffusionPipeline

    folder = str(next(elsewhere.folder.rglob("model_index.json")).parent)
    pipeline = DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)  # as users load it, with empty weights first
    assert pipeline.start.gains.abs().min() > 0
    pipeline.save_pretrained(elsewhere.folder / "again")


# -- what the fast suite holds ---------------------------------------------------------------------------------------------


@pytest.mark.runs
def test_export_runs_without_matchlib(elsewhere: Elsewhere) -> None:
    """One of the matrix, with labels, a noise and a source that is data."""
    labelled = family_student(elsewhere.folder, "interpolant, paired", "onestep", classes=3)
    out = elsewhere.export(labelled, "pt2")
    description = json.loads((out / "generator.json").read_text())
    assert list(description["inputs"]) == ["source", "label", "noise_1"] and description["inputs"]["source"] == "data units"
    assert (description["evaluations"], description["limits"], description["largest_batch"]) == (1, [0.0, 16.0], None)
    elsewhere.compare()


@pytest.mark.slow
def test_export_to_onnx_runs_in_onnxruntime(elsewhere: Elsewhere) -> None:
    out = elsewhere.export(family_student(elsewhere.folder, "flow", "onestep", classes=3), "onnx", sizes=(4, 1))
    elsewhere.cases = []
    student = exportable(elsewhere.folder / "flow-onestep")
    inputs = student.inputs(70)
    found = matchlib.exports.onnx().samples(student, out, inputs)
    assert torch.allclose(found, inputs.expected, atol=1e-3)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("student", ["onestep", "fewstep"])
def test_table_equals_the_student(tmp_path: Path, family: str, student: str) -> None:
    exported = exportable(family_student(tmp_path, family, student, classes=3))
    inputs = exported.inputs(5)
    assert len(exported.table.calls) == exported.student.nfe
    difference = (exported.generator(*inputs.tensors) - inputs.expected).abs().max()
    assert difference <= 1e-5 * 6 * max(1.0, float((inputs.expected - 4.9).abs().max()) / 6)


@pytest.mark.runs
def test_export_of_a_dit_that_is_asked_about_no_class(tmp_path: Path) -> None:
    artifact = dit_student(tmp_path / "run", schedulers()["epsilon"], {"name": "onestep", "t_start": 0.64}, labelled=False)
    assert matchlib.export(artifact, "diffusers", tmp_path / "out").error < 1e-5
    calls = json.loads((tmp_path / "out" / "model_index.json").read_text())["calls"]
    assert [call["labelled"] for call in calls] == [False]


def test_export_asks_for_no_class_that_the_data_leave_out(tmp_path: Path) -> None:
    artifact = family_student(tmp_path, "flow", "onestep", classes=3)
    config = json.loads((artifact / "config.json").read_text())
    config["data"]["label_shares"] = [0.0, 0.5, 0.5]
    (artifact / "config.json").write_text(json.dumps(config))
    label = exportable(artifact).inputs(5).label
    assert label is not None and label.tolist() == [1, 2, 1, 2, 1]


def test_generator_pipeline_draws_classes_with_the_generators_that_diffusers_takes() -> None:
    """One, a list, or none; classes are whole numbers."""
    from matchlib.exporting.generator_pipeline import GeneratorPipeline

    config = SimpleNamespace(calls=[{"labelled": True}], label_shares=[0.0, 1.0])
    pipeline: Any = SimpleNamespace(config=config, _execution_device="cpu")
    one = torch.Generator().manual_seed(0)
    for generator in (None, one, [one, torch.Generator()]):
        assert GeneratorPipeline._labels(pipeline, None, 2, generator).tolist() == [1, 1]
    with pytest.raises(ValueError, match="must be integers"):
        GeneratorPipeline._labels(pipeline, [0.0, 1.7], 2, None)


def test_readme_of_a_hub_folder_says_where_labels_are_needed(tmp_path: Path) -> None:
    for label_shape, said in ((None, False), ((2,), True)):
        exported = exportable(
            mlp_student(tmp_path / str(said), FAMILIES["flow"], {"name": "onestep", "t_start": 1.0}, label_shape=label_shape)
        )
        assert ("labels=labels" in matchlib.exports.hub().usage(exported, tmp_path)) is said


@pytest.mark.parametrize("student", ["onestep", "fewstep"])
def test_generator_with_a_start_answers_as_the_student_does(tmp_path: Path, student: str) -> None:
    exported = exportable(family_student(tmp_path, "diffusion VP", student, axes=3))
    inputs = exported.inputs(5)
    assert torch.allclose(exported.generator(*inputs.tensors), inputs.expected, rtol=1e-4, atol=1e-3)
    exported.student.start = torch.nn.Identity()
    assert not torch.allclose(exported.pipeline.sample(5, seed=inputs.seed), inputs.expected, atol=0.5)


def test_generator_of_data_far_from_zero_answers_as_the_student_does(tmp_path: Path) -> None:
    """float32 has no two numbers there that differ by so little."""
    data = matchlib.Dataset.from_arrays("far", 1e8 + np.random.default_rng(0).normal(size=(200, 2)))
    matchlib.distill("flow", data, steps=2, out=tmp_path / "run", settings={**SMALL, "evaluation.metrics": ("frechet-raw",)})
    exported = exportable(tmp_path / "run" / "student")
    found = exported.generator(*exported.inputs(50).tensors)
    assert found.unique().numel() > 80


def test_table_leaves_out_draws_that_change_nothing(tmp_path: Path) -> None:
    """A bridge has no noise at its end, though its start draws some."""
    table = exportable(family_student(tmp_path, "bridge", "fewstep")).table
    assert table.draws == (None, "noise_1", "noise_2")
    assert table.noises == ("noise_1", "noise_2")


def test_table_of_labels_that_are_no_classes(tmp_path: Path) -> None:
    exported = exportable(family_student(tmp_path, "flow", "fewstep", label_shape=(2,)))
    inputs = exported.inputs(4)
    assert inputs.label is not None and inputs.label.shape == (4, 2)
    assert torch.allclose(exported.generator(*inputs.tensors), inputs.expected, atol=1e-4)


def test_export_of_a_students_own_network(tmp_path: Path) -> None:
    artifact = family_student(tmp_path, "flow", "onestep", own={"name": "mlp", "width": 8, "depth": 1, "embedding": 4})
    exported = exportable(artifact)
    inputs = exported.inputs(4)
    assert torch.allclose(exported.generator(*inputs.tensors), inputs.expected, atol=1e-4)


def test_export_to_hub_is_an_artifact_with_a_readme(finished: Path, tmp_path: Path) -> None:
    done = matchlib.export(finished, "hub", tmp_path / "out", license="mit")
    assert done.error == 0.0
    assert done.files == ("README.md", "config.json", "evaluation.json", "model.safetensors", "samples.png")
    assert torch.equal(load(tmp_path / "out").sample(3, seed=5), load(finished).sample(3, seed=5))
    text = (tmp_path / "out" / "README.md").read_text()
    head = yaml.safe_load(text.split("---")[1])
    assert head["license"] == "mit" and head["datasets"] == ["digits"] and "one-step-generation" in head["tags"]
    for part in ("# A generator of digits in one evaluation", "| student | 1 |", "(samples.png)", 'matchlib.load("FOLDER")'):
        assert part in text


def test_export_to_hub_names_no_folder_of_this_machine(tmp_path: Path) -> None:
    artifact = unet_student(tmp_path / "student", schedulers()["straight"], {"name": "onestep", "t_start": 1.0})
    tree = json.loads((artifact / "config.json").read_text())
    tree["origin"] |= {"path": "/home/me/pipeline", "digest": "0"}
    tree["data"]["name"] = "/home/me/images.npz"
    (artifact / "config.json").write_text(json.dumps(tree))
    matchlib.export(artifact, "hub", tmp_path / "out")
    assert all("/home/me" not in (tmp_path / "out" / name).read_text() for name in ("config.json", "README.md"))


# -- refusals --------------------------------------------------------------------------------------------------------------


def test_export_by_command(finished: Path, cli: Cli, tmp_path: Path) -> None:
    code, out, err = cli("export", finished, "--to", "hub", "--out", tmp_path / "out", "--license", "cc-by-4.0")
    assert (code, err) == (0, "") and "largest difference from Pipeline.sample 0.0e+00 (at most 1e-05)" in out
    for argv, said in (
        (["--to", "hub", "--out", tmp_path / "out"], "not empty; choose another --out"),
        (["--to", "onx", "--out", tmp_path / "new"], "did you mean 'onnx'"),
        (["--to", "pt2", "--out", tmp_path / "new", "--set", "stock=true"], "no setting 'stock'"),
        (["--to", "pt2", "--out", tmp_path / "new", "--set", "name=hub"], "no setting 'name'"),
        (["--to", "diffusers", "--out", tmp_path / "new", "--set", "stock=7"], "stock: input should be a valid boolean"),
        (["--to", "diffusers", "--out", tmp_path / "new"], "--to onnx, --to pt2 or --to hub"),
    ):
        code, _, err = cli("export", finished, *argv)
        assert code == 2 and said in err and len(err.strip().splitlines()) == 1, err
    assert not (tmp_path / "new").exists() and {path.name for path in tmp_path.iterdir()} == {"out"}


def test_export_of_a_run_without_a_student_says_so(finished: Path, tmp_path: Path) -> None:
    for run in (finished / "teacher", finished / "checkpoints", tmp_path / "nothing"):
        with pytest.raises(ArtifactError, match=r"only students are exported|no folder of a finished run|there is no run"):
            matchlib.export(run, "hub", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_export_refuses_a_missing_package(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for to, package in (("onnx", "onnxruntime"), ("diffusers", "diffusers")):
        monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(MatchlibError, match=f"needs the extra '{to}': pip install"):
            matchlib.export(finished, to, tmp_path / "out")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(MatchlibError, match="pip install huggingface-hub"):
        matchlib.export(finished, "hub", tmp_path / "out", push="me/generator")
    assert not list(tmp_path.iterdir())


def test_export_pushes_when_it_is_asked_to(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[str, Any]] = []

    class Api:
        def create_repo(self, name: str, **how: Any) -> None:
            calls.append(("create", name))

        def upload_folder(self, **what: Any) -> None:
            if what["repo_id"] == "me/forbidden":
                raise RuntimeError("403 Forbidden\nmore")
            calls.append(("upload", what))

    monkeypatch.setitem(sys.modules, "huggingface_hub", SimpleNamespace(HfApi=Api))
    matchlib.export(finished, "hub", tmp_path / "quiet")
    assert not calls
    matchlib.export(finished, "hub", tmp_path / "out", push="me/generator")
    assert calls == [("create", "me/generator"), ("upload", {"repo_id": "me/generator", "folder_path": str(tmp_path / "out")})]
    with pytest.raises(SettingError, match=r"is written, but could not be pushed to 'me/forbidden': 403 Forbidden$"):
        matchlib.export(finished, "hub", tmp_path / "other", push="me/forbidden")


@dataclass(frozen=True)
class Wrong(Exporter):
    """Writes nothing and samples something else."""

    off: float = 1e-3

    def write(self, student: Exportable, folder: Path) -> None:
        (folder / "file").write_text("")

    def samples(self, student: Exportable, folder: Path, inputs: Inputs) -> Tensor:
        return inputs.expected + self.off

    def usage(self, student: Exportable, folder: Path) -> str:
        return "..."


def test_export_that_differs_is_not_kept(finished: Path, tmp_path: Path) -> None:
    matchlib.exports.register("wrong")(Wrong)
    try:
        for off in (1e-3, float("nan")):
            with pytest.raises(IncompatibleError, match=r"differs from Pipeline.sample by .*more than 1e-05: nothing was written"):
                matchlib.export(finished, "wrong", tmp_path / "out", settings={"off": off})
        assert not list(tmp_path.iterdir())
        assert matchlib.export(finished, "wrong", tmp_path / "out", settings={"off": 1e-6}).files[0] == "README.md"
    finally:
        matchlib.exports.unregister("wrong")
    with pytest.raises(UnknownNameError, match="not registered"):
        matchlib.export(finished, "wrong", tmp_path / "other")


FOREIGN = """
import torch, matchlib
from torch import nn
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 2)
    def forward(self, state, time):
        BODY
        return self.layer(torch.cat([state, time[:, None]], 1)).tanh()
torch.manual_seed(0)
teacher = matchlib.Teacher.from_callable(Net(), matchlib.families.flow().model(paired=False), time=lambda t: 1 - t, output=-1.0)
"""


@pytest.mark.runs
def test_export_of_a_network_from_a_file(tmp_path: Path, cli: Cli) -> None:
    """A network that torch.export can trace, with --trust only; of any other one line with torch's reason."""
    import numpy as np

    np.savez(tmp_path / "points.npz", data=np.random.default_rng(0).normal(size=(60, 2)))
    settings = ["teacher.sampler={name: ode, method: euler, steps: 2}", "evaluation.draws=1", "evaluation.metrics=[frechet-raw]"]
    quick = [part for item in settings for part in ("--set", item)]
    bodies = {"good": "pass", "bad": "state = state if state.sum() > 0 else -state", "fixed": "state = state.reshape(len(state), 2)"}
    for name, body in bodies.items():
        (tmp_path / f"{name}.py").write_text(FOREIGN.replace("BODY", body))
        run = tmp_path / name
        common = ["--data", tmp_path / "points.npz", "--steps", 2, "--out", run, *quick]
        assert cli("distill", "--teacher", f"{tmp_path}/{name}.py:teacher", *common)[0] == 0
        argv = ["export", run, "--to", "pt2", "--out", tmp_path / f"out-{name}"]
        code, _, err = cli(*argv)
        assert code == 2 and "--trust" in err
        code, _, err = cli(*argv, "--trust")
        assert (code, err) == (0, "") if name == "good" else (code == 2 and "cannot trace the network Net (" in err), err
        assert len(err.strip().splitlines()) <= 1
        assert ("x.shape[0] does not" in err) == (name == "fixed")
    assert not (tmp_path / "out-bad").exists()


class Hidden(nn.Module):
    """A field without a network that is marked."""

    def forward(self, state: Tensor, time: Tensor, condition: object) -> Tensor:
        return state


class Draws(matchlib.Student):
    """A student that draws in another way."""

    def __init__(self, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.function, self.field, self.nfe = function, Hidden(), 1

    def forward(self, source: Tensor, condition: object, *, generator: torch.Generator) -> Tensor:
        return self.field(self.function(source, generator), source.new_zeros(len(source)), condition)


def test_tabulate_refuses_a_student_that_is_not_linear_or_draws_otherwise() -> None:
    from matchlib.exporting.table import core_of, tabulate

    condition = partial(model_of("flow").condition)
    draws: dict[str, Callable[..., Tensor]] = {
        "draws with rand": lambda x, g: torch.rand(x.shape, generator=g),
        "draws noise of shape": lambda x, g: torch.randn(3, generator=g),
        r"not linear around its network, so it cannot be exported \(RuntimeError": lambda x, g: x @ x,
        r"not linear around its network, so it cannot be exported \(its steps": lambda x, g: x.clamp(-0.9, 0.9),
    }
    for said, function in draws.items():
        student = Draws(function)
        with pytest.raises(IncompatibleError, match=said):
            tabulate(student, *core_of(student), condition=condition, labelled=False)
    student = Draws(lambda x, g: 2 * x)
    assert tabulate(student, *core_of(student), condition=condition, labelled=False).calls[0].args[0].weights == {"source": 2.0}


class Embedded(nn.Module):
    """A network whose embedding of levels needs whole numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.levels, self.layer = nn.Embedding(10, 2), nn.Linear(4, 2)

    def forward(self, state: Tensor, level: Tensor) -> Tensor:
        return self.layer(torch.cat([state, self.levels(level)], 1)).tanh()


def test_export_keeps_the_whole_numbers_of_a_clock(tmp_path: Path) -> None:
    """A student of a network whose time is counted in whole numbers is traced with them."""
    model = model_of("diffusion-vp")
    teacher = matchlib.Teacher.from_callable(Embedded(), model, time=lambda t: (10 * t - 1).round().long())
    config = load(mlp_student(tmp_path / "mlp", model, {"name": "onestep", "t_start": 0.7})).config
    data = DataConfig("moons", {}, False, False, 0.0, 1.0, (-3.0, 3.0))
    spec = matchlib.NetworkSpec((2,))
    own = replace(config, network={"name": None}, network_spec=spec, data=data, sampler=ODE)
    save_artifact(tmp_path / "student", own, build_student({"name": "onestep", "t_start": 0.7}, teacher, spec))
    exported = matchlib.export(tmp_path / "student", "pt2", tmp_path / "out", teacher=teacher)
    assert exported.error <= exported.tolerance
