"""Runs: phases, what they go on from, and what they refuse."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from fixtures.runs import SMALL
from torch import nn

import matchlib
from matchlib import Dataset, Teacher
from matchlib.algebra.records import Condition
from matchlib.distillation.student import Student
from matchlib.errors import ArtifactError, ConversionError, DataError, IncompatibleError, Interrupted, SettingError
from matchlib.io import write_tensors
from matchlib.registry import import_file
from matchlib.runs.build import build
from matchlib.runs.run import Run
from matchlib.runs.settings import resolve

pytestmark = pytest.mark.runs


def test_run_of_pairs_made_in_python_scores_and_samples(tmp_path: Path) -> None:
    """The model's source is data that only Python has: the run hands them to its pipelines, and ``load`` takes them again."""
    data, source = np.random.default_rng(0).normal(size=(2, 60, 2))
    pairs = Dataset.from_arrays("mine", data, source=source)
    student = matchlib.distill("bridge", pairs, steps=2, out=tmp_path / "run", settings={**SMALL, "trainer.keep_best_by": "frechet-raw"})
    assert student.sample(3).shape == (3, 2)
    assert matchlib.load(tmp_path / "run", data=pairs).sample(3).shape == (3, 2)
    with pytest.raises(ArtifactError, match="give it again, data="):
        matchlib.load(tmp_path / "run").sample(3)
    assert "student" in matchlib.evaluate(tmp_path / "run", data=pairs)


def test_run_of_a_dataset_made_in_python_follows_the_settings_of_data(tmp_path: Path) -> None:
    """``data.labels=false`` holds for a given data set as it does for one that is named."""
    labelled = Dataset.from_arrays("mine", np.random.default_rng(0).normal(size=(60, 2)), labels=np.arange(60) % 2)
    teacher = matchlib.train("flow", labelled, out=tmp_path / "run", settings={**SMALL, "data.labels": False})
    assert teacher.config.network_spec.classes is None


def test_resume_refuses_a_checkpoint_of_no_phase(tmp_path: Path) -> None:
    matchlib.distill("flow", "moons", steps=2, out=tmp_path / "run", settings=SMALL)
    shutil.rmtree(tmp_path / "run" / "student")
    (tmp_path / "run" / "evaluation.json").unlink()
    for name in ("/etc/passwd", str(tmp_path / "run" / "config.yaml")):
        with pytest.raises(ArtifactError, match="is no checkpoint"):
            matchlib.resume(tmp_path / "run", checkpoint=name)


def test_resume_refuses_a_checkpoint_of_a_finished_phase(tmp_path: Path) -> None:
    matchlib.distill("flow", "moons", steps=2, out=tmp_path / "run", settings=SMALL)
    (checkpoint,) = (tmp_path / "run" / "checkpoints").glob("student-*2.safetensors")
    with pytest.raises(ArtifactError, match=r"student is finished, so .* would not be used: leave --checkpoint out"):
        matchlib.resume(tmp_path / "run", checkpoint=checkpoint)
    shutil.rmtree(tmp_path / "run" / "student")
    assert matchlib.resume(tmp_path / "run", checkpoint=checkpoint).sample(3).shape == (3, 2)


def test_distill_names_what_would_determine_a_prediction(tmp_path: Path) -> None:
    """In Python, too, the refusal names registered predictions, as it does on the command line."""
    settings = {**SMALL, "teacher.interpolant.name": "noisy-linear", "teacher.coupling.name": "independent-data"}
    data, source = np.random.default_rng(0).normal(size=(2, 60, 2))
    with pytest.raises(ConversionError, match="would be enough"):
        matchlib.distill("flow", Dataset.from_arrays("mine", data, source=source), steps=2, out=tmp_path / "run", settings=settings)
    assert not (tmp_path / "run").exists()


def test_run_says_which_normalization_a_foreign_teacher_gets(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Where none is stated that of the data is taken, and said; where one is stated nothing is."""
    caplog.set_level("INFO", "matchlib")
    model = matchlib.families.flow().model(paired=False)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(2, 2)

        def forward(self, state: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
            return self.layer(state)

    for name, stated in (("silent", (0.0, 1.0)), ("unstated", None)):
        caplog.clear()
        teacher, settings = Teacher.from_callable(Net(), model, normalization=stated), {**SMALL, "teacher.examine": False}
        matchlib.distill(teacher, "moons", steps=2, out=tmp_path / name, settings=settings)
        assert ("normalization" in caplog.text) == (stated is None)


def test_read_cached_leaves_a_teacher_alone_that_the_cache_does_not_fit(tmp_path: Path) -> None:
    """A cache of a network that has lost a layer since must not half-train the new one: ``load_state_dict`` takes what fits first."""
    settings = resolve("train", settings={"data.name": "moons", "teacher.network": {"name": "mlp", "width": 8, "depth": 1}})
    fresh, other = (build(settings) for _ in range(2))
    for weight in other.teacher.parameters():
        torch.nn.init.normal_(weight)
    tensors = {name: x for name, x in other.teacher.state_dict().items() if "skip" not in name}
    write_tensors(tmp_path / "model.safetensors", tensors)
    before = {name: x.clone() for name, x in fresh.teacher.state_dict().items()}
    assert not Run._read_cached(tmp_path, fresh.teacher)
    assert all(torch.equal(x, before[name]) for name, x in fresh.teacher.state_dict().items())
    write_tensors(tmp_path / "model.safetensors", other.teacher.state_dict())
    assert Run._read_cached(tmp_path, fresh.teacher)


def test_evaluation_every_adds_scores_to_the_log_and_changes_no_weight(tmp_path: Path) -> None:
    """The last score in the log is that of the evaluation, where both take all held-out data once; training is as without."""
    settings = {**SMALL, "trainer.steps": 8, "evaluation.metrics": ("frechet-raw", "sliced-wasserstein"), "data.samples": 400}
    for name, every in (("scored", 4), ("plain", 0)):
        matchlib.distill("flow", "moons", out=tmp_path / name, settings={**settings, "evaluation.every": every})
    rows = [json.loads(line) for line in (tmp_path / "scored" / "metrics.jsonl").read_text().splitlines()]
    scored = {row["step"]: row for row in rows if "score/frechet_raw" in row}
    assert sorted(scored) == [4, 8]
    final = json.loads((tmp_path / "scored" / "evaluation.json").read_text())["student"]
    assert scored[8]["score/frechet_raw"] == pytest.approx(final["frechet_raw"])
    assert (tmp_path / "scored/student/model.safetensors").read_bytes() == (tmp_path / "plain/student/model.safetensors").read_bytes()


def test_train_of_a_phase_alone_leaves_no_page_and_says_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Steps that are measured for ``--time`` are no run: a folder without settings has no page."""
    settings = resolve("train", settings={**SMALL, "data.name": "moons"})
    run = Run(settings, build(settings), tmp_path)
    run._report({})
    run.train("teacher")
    assert not (tmp_path / "report.html").exists()
    assert not [record for record in caplog.records if "report.html" in record.message]


@pytest.mark.runs
def test_a_run_notices_that_its_data_changed_and_goes_on_only_if_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from matchlib.errors import Interrupted
    from matchlib.runs.api import start_run

    def write(seed: int) -> None:
        np.savez(tmp_path / "d.npz", data=np.random.default_rng(seed).normal(size=(60, 3)))

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    write(0)
    small = {
        "teacher.network": {"name": "mlp", "width": 8, "depth": 1}, "teacher.training.steps": 5, "trainer.steps": 5,
        "trainer.batch_size": 8, "evaluation.draws": 1, "evaluation.metrics": ("frechet-raw",),
    }  # fmt: skip
    settings = resolve("distill", options={"data.name": str(tmp_path / "d.npz"), "out": str(tmp_path / "run")}, settings=small)
    with pytest.raises(Interrupted):
        start_run(settings, should_stop=lambda: True).execute()
    write(1)
    before = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir() if path.is_file()}
    with pytest.raises(DataError, match=r"d\.npz has changed since .*run began .*--changed-data"):
        matchlib.resume(tmp_path / "run")
    assert {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir() if path.is_file()} == before
    write(0)
    os.utime(tmp_path / "d.npz", (1, 1))  # the same data, written again
    with pytest.raises(Interrupted):
        start_run(settings, again=True, should_stop=lambda: True).execute()
    write(1)
    assert matchlib.resume(tmp_path / "run", changed_data=True).sample(2).shape == (2, 3)


def without_its_student(tmp_path: Path, data: Path) -> Path:
    """A run that was interrupted when its teacher was trained."""
    folder = tmp_path / "run"
    matchlib.distill("flow", str(data), steps=2, out=folder, settings=QUICK)
    for name in ("student", "checkpoints"):
        shutil.rmtree(folder / name)
    (folder / "evaluation.json").unlink()
    return folder


def test_a_run_notices_that_its_data_are_in_other_units(tmp_path: Path) -> None:
    data = tmp_path / "d.npz"
    np.savez(data, data=(x := np.random.default_rng(0).normal(size=(60, 2))))
    folder = without_its_student(tmp_path, data)
    np.savez(data, data=x / 2)
    for go_on in (matchlib.resume, matchlib.evaluate):
        with pytest.raises(DataError, match="has changed since"):
            go_on(folder)


def test_a_run_keeps_the_units_of_its_teacher_with_other_data(tmp_path: Path) -> None:
    """Student, scores and what is scored again are in the units that the teacher was trained in; these data would have others."""
    data = tmp_path / "d.npz"
    np.savez(data, data=(x := np.random.default_rng(0).normal(size=(60, 2))))
    folder = without_its_student(tmp_path, data)
    np.savez(data, data=np.concatenate([x, 9 + x]))
    matchlib.resume(folder, changed_data=True)
    teacher, student = (matchlib.load(folder, of).config for of in ("teacher", "student"))
    assert (student.data.shift, student.data.scale, student.moments) == (teacher.data.shift, teacher.data.scale, teacher.moments)
    before = json.loads((folder / "evaluation.json").read_text())
    assert matchlib.evaluate(folder)["student"]["frechet_raw"] == before["student"]["frechet_raw"]


QUICK = {**SMALL, "evaluation.draws": 1, "evaluation.metrics": ("frechet-raw",)}


def pairs_at(path: Path, seed: int, share: float) -> Path:
    """Points whose class is 1 for a share of them."""
    rng = np.random.default_rng(seed)
    np.savez(path, data=rng.normal(size=(200, 2)), labels=(np.arange(200) % 100 < 100 * share).astype(np.int64))
    return path


def test_a_teacher_of_another_run_takes_the_data_of_this_one(tmp_path: Path) -> None:
    """What is drawn, and scored again, is of the student's data and not of those that its teacher was trained on."""
    first, second = pairs_at(tmp_path / "a.npz", 0, 0.5), pairs_at(tmp_path / "b.npz", 1, 0.1)
    matchlib.train("flow", str(first), out=tmp_path / "teacher", settings={**QUICK, "teacher.training.steps": 2})
    student = matchlib.distill(str(tmp_path / "teacher"), str(second), steps=2, out=tmp_path / "run", settings=QUICK)
    for pipeline in (student, matchlib.load(tmp_path / "run", "teacher")):
        assert pipeline.config.data.name == str(second)
        assert pipeline.config.data.label_shares == pytest.approx((0.9, 0.1), abs=0.02)
    before = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    after = matchlib.evaluate(tmp_path / "run")
    assert after["student"]["frechet_raw"] == before["student"]["frechet_raw"]


def test_evaluate_scores_every_generator_again_and_notices_other_data(tmp_path: Path) -> None:
    data = pairs_at(tmp_path / "a.npz", 0, 0.5)
    settings = {**QUICK, "evaluation.teacher_steps": (1, 4), "teacher.training.steps": 2}
    matchlib.distill("flow", str(data), steps=2, out=tmp_path / "run", settings=settings)
    report = matchlib.evaluate(tmp_path / "run")
    assert {"student", "teacher", "teacher at 1 step", "teacher at 4 steps"} < report.keys()
    pairs_at(data, 1, 0.5)
    with pytest.raises(DataError, match="has changed since"):
        matchlib.evaluate(tmp_path / "run")
    assert matchlib.evaluate(tmp_path / "run", changed_data=True)["student"] != report["student"]


def test_a_run_goes_on_with_its_own_copy_of_a_teacher_that_is_gone(tmp_path: Path) -> None:
    matchlib.train("flow", "moons", out=tmp_path / "taught", settings={**QUICK, "teacher.training.steps": 2})
    whole = matchlib.distill(str(tmp_path / "taught"), "moons", steps=2, out=tmp_path / "run", settings=QUICK)
    for name in ("student", "checkpoints"):
        shutil.rmtree(tmp_path / "run" / name)
    (tmp_path / "run" / "evaluation.json").unlink()
    shutil.rmtree(tmp_path / "taught")
    assert torch.equal(matchlib.resume(tmp_path / "run").sample(3), whole.sample(3))


def test_a_student_that_goes_on_in_other_units_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Its samples are stretched before it has learned anything."""
    x = np.random.default_rng(0).normal(size=(60, 2))
    for name, data in (("one", x), ("other", 5 * x)):
        matchlib.distill("flow", Dataset.from_arrays(name, data), steps=2, out=tmp_path / name, settings=QUICK)
    again = {"steps": 2, "settings": QUICK, "student": str(tmp_path / "one")}
    matchlib.distill(str(tmp_path / "one"), Dataset.from_arrays("one", x), out=tmp_path / "on", **again)
    assert "units of its own" not in caplog.text
    matchlib.distill(str(tmp_path / "other"), Dataset.from_arrays("other", 5 * x), out=tmp_path / "off", **again)
    assert "its samples begin stretched by 5," in caplog.text


def test_evaluate_says_that_settings_are_not_those_of_what_it_scores(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    matchlib.distill("flow", "moons", steps=2, out=tmp_path / "run", settings=QUICK)
    matchlib.evaluate(tmp_path / "run")
    assert "other settings" not in caplog.text
    config = tmp_path / "run" / "config.yaml"
    config.write_text(config.read_text().replace("  guidance: null", "  guidance: 3.0"))
    matchlib.evaluate(tmp_path / "run")
    assert re.search(r"config\.yaml states other settings than .*teacher was made with", caplog.text)


def test_teachers_with_and_without_flips_are_two_in_the_cache(tmp_path: Path) -> None:
    np.savez(tmp_path / "i.npz", data=np.random.default_rng(0).integers(0, 255, (40, 1, 4, 4), dtype=np.uint8))
    keys = []
    for flip in (False, True):
        settings = resolve("train", settings={**SMALL, "data.name": str(tmp_path / "i.npz"), "data.flip": flip})
        keys.append(Run(settings, build(settings), tmp_path / "run")._teacher_key())
    assert keys[0] != keys[1]


def test_teachers_of_another_code_are_two_in_the_cache(tmp_path: Path) -> None:
    """A plugin's name and settings stay as they are while its author changes what it does."""
    file = tmp_path / "mine.py"
    text = """
from matchlib.plugins.interpolants import Linear
from matchlib.registry import interpolants

@interpolants.register("line-of-a-file")
class Mine(Linear):
    ...
"""
    file.write_text(text)
    import_file(file)
    settings = resolve("train", settings={**SMALL, "data.name": "moons", "teacher.interpolant.name": "line-of-a-file"})
    keys = []
    for change in ("", "", "    # changed\n"):
        file.write_text(text + change)
        keys.append(Run(settings, build(settings), tmp_path / "run")._teacher_key())
    assert keys[0] == keys[1] != keys[2]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"trainer.keep_best_by": "w2"}, "w2 does not apply to digits"),
        ({"evaluation.metrics": ["w2"]}, r"none of \['w2'\] applies to digits; those that do: .*frechet"),
        ({"evaluation.metrics": []}, r"none of \[\] applies"),
    ],
)
def test_metrics_that_do_not_apply_are_refused_before_anything_is_trained(tmp_path: Path, settings: dict, said: str) -> None:
    with pytest.raises(SettingError, match=said):
        matchlib.distill("flow", "digits", steps=4, out=tmp_path / "run", settings={**SMALL, **settings})
    assert not (tmp_path / "run").exists()


def test_a_class_of_which_there_are_no_samples_cannot_be_asked_for(tmp_path: Path) -> None:
    data = Dataset.from_arrays("mine", np.random.default_rng(0).normal(size=(60, 2)), labels=np.arange(60) % 2 * 5)
    student = matchlib.distill("flow", data, steps=2, out=tmp_path / "run", settings=SMALL)
    assert student.sample(2, labels=5).shape == (2, 2)
    with pytest.raises(SettingError, match="no training sample has the label 3; there are 0, 5"):
        student.sample(2, labels=3)


def test_settings_of_training_are_named_that_change_nothing_of_a_finished_teacher(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    matchlib.train("flow", "moons", out=tmp_path / "run", settings=SMALL)
    for settings, said in (
        ({"teacher.training.lr": 7.0}, "teacher.training:"),
        ({"teacher.network.width": 3}, "teacher.network:"),
        ({}, ""),
    ):
        caplog.clear()
        build(resolve("distill", settings={"teacher.name": str(tmp_path / "run"), "data.name": "moons", **settings}))
        assert said in caplog.text
        assert ("changes nothing" in caplog.text) == bool(said)


def test_an_interrupted_evaluation_does_not_go_on_with_scores_of_other_data(tmp_path: Path) -> None:
    """Scores are kept for a protocol, of which the data are a part, not their name alone."""
    data = np.random.default_rng(0).normal(size=(60, 2))
    matchlib.distill("flow", Dataset.from_arrays("mine", data), steps=2, out=tmp_path / "run", settings=SMALL)
    kept = []
    for numbers in (data, 3 * data + 5, data):
        calls = iter(range(30))
        with pytest.raises(Interrupted):
            matchlib.evaluate(
                tmp_path / "run",
                data=Dataset.from_arrays("mine", numbers),
                changed_data=True,
                should_stop=lambda calls=calls: next(calls, None) is None,  # type: ignore[misc]
            )
        kept.append((tmp_path / "run" / "evaluation" / "protocol.json").read_text())
    assert kept[0] == kept[2] != kept[1]


class Far(Student):
    """Answers with one number, whatever the source."""

    nfe = 1

    def __init__(self, answer: float) -> None:
        super().__init__()
        self.answer = answer

    def forward(self, source: torch.Tensor, condition: Condition, *, generator: torch.Generator) -> torch.Tensor:
        return torch.full_like(source, self.answer)


def test_the_score_of_checkpoints_clips_samples_where_the_evaluation_does(tmp_path: Path) -> None:
    """Ten times the limit is the limit then, and farther from the data else."""
    found = {}
    for clips in (True, False):
        settings = resolve("distill", settings={**SMALL, "data.name": "digits", "evaluation.clip_samples": clips})
        run = Run(settings, build(settings), tmp_path / "run")
        limit = run.components.data.model_limits[1]
        score = run._scores_of(None, ("frechet-raw",))
        found[clips] = [score({"student": Far(answer)})["frechet_raw"] for answer in (limit, 10 * limit)]
    assert found[True][0] == found[True][1] == found[False][0] < found[False][1]


def test_a_teacher_without_a_gradient_is_refused(tmp_path: Path) -> None:
    """A student would learn from it, silently, the wrong thing."""
    model = matchlib.families["flow"]().model(paired=False)

    @torch.no_grad()
    def velocity(state: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        return 2 * state

    with pytest.raises(IncompatibleError, match=r"without a gradient .*take torch\.no_grad"):
        matchlib.distill(Teacher.from_callable(velocity, model), "moons", steps=2, out=tmp_path / "run", settings=SMALL)


def test_samples_of_data_far_from_zero_differ(tmp_path: Path) -> None:
    """As their scores do: float32 has no numbers in between."""
    data = 1e8 + np.random.default_rng(0).normal(size=(200, 2))
    student = matchlib.distill("flow", Dataset.from_arrays("far", data), steps=2, out=tmp_path / "run", settings=QUICK)
    assert student.sample(100).unique().numel() > 150


def test_balanced_labels_leave_out_classes_that_no_data_have(tmp_path: Path) -> None:
    data = Dataset.from_arrays("from 1", np.random.default_rng(0).normal(size=(90, 2)), labels=1 + np.arange(90) % 3)
    student = matchlib.distill("flow", data, steps=2, out=tmp_path / "run", settings=QUICK)
    assert student.sample_batch(6, labels="balanced").label.tolist() == [1, 2, 3, 1, 2, 3]


def test_labels_that_are_no_classes_refuse_a_word(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    data = Dataset.from_arrays("mine", rng.normal(size=(60, 2)), labels=rng.normal(size=(60, 3)).astype(np.float32))
    student = matchlib.distill("flow", data, steps=2, out=tmp_path / "run", settings=QUICK)
    with pytest.raises(SettingError, match="'balanced'"):
        student.sample(3, labels="balanced")
