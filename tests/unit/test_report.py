"""Scores and evaluation.json."""

from __future__ import annotations

import itertools
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from fixtures.runs import SMALL

import matchlib
from matchlib.data.dataset import Dataset
from matchlib.data.readers import load_dataset
from matchlib.evaluation.report import evaluate, protocol_of
from matchlib.evaluation.score import interval, reference_of, scores
from matchlib.evaluation.work import Work
from matchlib.plugins.metrics.frechet import frechet_error
from matchlib.runs.settings import EvaluationSettings

pytestmark = pytest.mark.runs


def test_scores_of_held_out_digits_are_better_than_those_of_noise() -> None:
    digits = matchlib.datasets["digits"]()
    given = reference_of(digits)
    good, bad = scores(given, digits.held_out.data), scores(given, torch.randn(360, 1, 8, 8))
    assert good["frechet"] < 0.05 * bad["frechet"]
    assert good["class_shares"] < 0.1 < bad["class_shares"]
    assert good["coverage"] > 0.9
    assert bad["coverage"] < 0.1


def test_evaluation_json_has_its_keys(finished: Path) -> None:
    report = json.loads((finished / "evaluation.json").read_text())
    keys = {"frechet", "frechet_raw", "sliced_wasserstein"}
    assert {"data", "reference", "samples", "features", "student", "teacher", "held_out"} <= set(report)
    assert keys <= set(report["held_out"])
    assert "nfe" not in report["held_out"]
    for kind, nfe in (("student", 1), ("teacher", 50)):
        assert keys | {"nfe", "seconds"} <= set(report[kind])
        assert report[kind]["nfe"] == nfe


def test_evaluate_scores_clipped_samples_clipped(finished: Path, tmp_path: Path) -> None:
    """With ``clip`` the scores are those of samples inside the limits, and others where samples leave them."""
    shutil.copytree(finished, tmp_path / "run")
    generator, digits = matchlib.load(finished), load_dataset("digits")
    dataset = replace(digits, limits=(digits.shift, digits.shift + 1e-3))  # an untrained student keeps within those of the digits
    low, high = dataset.model_limits
    made = generator.sample_batch(360, seed=0).data
    assert made.amax() > high or made.amin() < low
    reports = [
        evaluate(
            tmp_path / "run", {"student": generator}, dataset, EvaluationSettings(draws=1, metrics=("frechet-raw",), clip_samples=clip), 0
        )
        for clip in (False, True)
    ]
    expected = [scores(reference_of(dataset), x, ["frechet-raw"])["frechet_raw"] for x in (made, made.clamp(low, high))]
    assert [report["student"]["frechet_raw"] for report in reports] == pytest.approx(expected)
    assert expected[0] != expected[1]


class Stop(Exception):
    """What interrupts an evaluation."""


def interrupted_after(parts: int) -> Work:
    """Work that raises at its part of that number."""
    seen = itertools.count()

    def on_part(what: str, done: int, total: int) -> None:
        if next(seen) >= parts:
            raise Stop

    return Work(on_part)


def without_times(report: dict[str, Any]) -> dict[str, Any]:
    return {key: {k: v for k, v in value.items() if k != "seconds"} if isinstance(value, dict) else value for key, value in report.items()}


def test_evaluate_goes_on_where_it_was_interrupted(finished: Path, tmp_path: Path) -> None:
    """However often: the same scores as in one go, no chunk is sampled twice, and nothing is left over."""
    dataset, settings = load_dataset("digits"), EvaluationSettings(draws=2, samples=100, metrics=("frechet", "precision", "mmd", "copies"))
    pipelines = {kind: matchlib.load(finished, kind) for kind in ("teacher", "student")}
    (tmp_path / "whole").mkdir()
    expected = without_times(evaluate(tmp_path / "whole", pipelines, dataset, settings, 3))
    generated = []
    for pipeline in pipelines.values():
        generate = pipeline._generate
        pipeline._generate = lambda *a, generate=generate, **k: (generate(*a, **k), generated.append(1))[0]  # type: ignore[method-assign, func-returns-value, misc]
    folder = tmp_path / "parts"
    folder.mkdir()
    for parts in itertools.count(1, 7):
        try:
            report = evaluate(folder, pipelines, dataset, settings, 3, work=interrupted_after(parts))
            break
        except Stop:
            assert not (folder / "evaluation.json").exists()
    assert parts > 40, "it was interrupted often"
    assert without_times(report) == expected
    assert len(generated) == 2, "a whole chunk of the teacher and one of the student"
    assert sorted(path.name for path in folder.iterdir()) == ["evaluation.json", "samples.png"]


def test_evaluate_does_not_use_what_another_protocol_left(finished: Path, tmp_path: Path) -> None:
    dataset, pipelines = load_dataset("digits"), {"teacher": matchlib.load(finished, "teacher")}
    settings = EvaluationSettings(draws=1, metrics=("frechet-raw",))
    with pytest.raises(Stop):
        evaluate(tmp_path, pipelines, dataset, settings, 0, work=interrupted_after(4))
    first = evaluate(tmp_path, pipelines, dataset, settings, 1)
    assert first["teacher"]["frechet_raw"] == evaluate(tmp_path, pipelines, dataset, settings, 1)["teacher"]["frechet_raw"]


def test_evaluate_does_not_use_samples_of_other_weights(finished: Path, tmp_path: Path) -> None:
    """What an interrupted evaluation kept belongs to the weights that it was made with."""
    dataset, settings = load_dataset("digits"), EvaluationSettings(draws=1, metrics=("frechet-raw",))
    student = matchlib.load(finished)
    with pytest.raises(Stop):
        evaluate(tmp_path, {"student": student}, dataset, settings, 0, work=interrupted_after(4))
    assert list((tmp_path / "evaluation").glob("student-*"))
    with torch.no_grad():
        for weight in student.module.parameters():
            weight.mul_(1.5)
    (tmp_path / "fresh").mkdir()
    found, fresh = (evaluate(folder, {"student": student}, dataset, settings, 0) for folder in (tmp_path, tmp_path / "fresh"))
    assert found["student"]["frechet_raw"] == fresh["student"]["frechet_raw"]


def test_evaluate_gives_intervals_of_repeated_draws(finished: Path, tmp_path: Path) -> None:
    dataset, pipelines = load_dataset("digits"), {"student": matchlib.load(finished)}
    report = evaluate(tmp_path, pipelines, dataset, EvaluationSettings(draws=5, samples=60, metrics=("frechet-raw",)), 0)
    low, high = report["student"]["intervals"]["frechet_raw"]
    assert low < report["student"]["frechet_raw"] < high
    assert sum(report["student"]["shares"]) == pytest.approx(1)


def test_a_single_draw_has_the_interval_of_its_standard_error(finished: Path, tmp_path: Path) -> None:
    """Frechet distances have one: as wide to either side as 1.96 standard errors over samples and training data."""
    shutil.copytree(finished, tmp_path / "run")
    digits = load_dataset("digits")
    student, settings = matchlib.load(finished), EvaluationSettings(draws=1, metrics=("frechet", "frechet-raw"))
    row = evaluate(tmp_path / "run", {"student": student}, digits, settings, 0)["student"]
    reference = reference_of(digits)
    half = 1.96 * frechet_error(reference, reference.points(student.sample_batch(360, seed=0).data))
    assert half > 0
    assert row["intervals"] == {"frechet": pytest.approx([row["frechet"] - half, row["frechet"] + half])}


def test_held_out_data_are_scored_at_most_ten_times(finished: Path, tmp_path: Path) -> None:
    """Scores of 4 samples at a time would else be taken 90 times of 360 held-out digits."""
    shutil.copytree(finished, tmp_path / "run")
    parts: list[tuple[str, int]] = []
    work = Work(lambda what, done, total: parts.append((what, total)))
    settings = EvaluationSettings(draws=1, samples=4, metrics=("frechet-raw",))
    evaluate(tmp_path / "run", {"student": matchlib.load(finished)}, load_dataset("digits"), settings, 0, work=work)
    assert {total for what, total in parts if what == "held_out: frechet-raw"} == {10}


@pytest.mark.parametrize("n", [4, 5, 6])
def test_the_fewest_data_are_scored(tmp_path: Path, n: int) -> None:
    """Covariances of one or two points: every metric that applies has a number, or is said to have none."""
    data = Dataset.from_arrays("few", torch.randn(n, 3, generator=torch.Generator().manual_seed(0)).numpy())
    settings = {key: value for key, value in SMALL.items() if key != "evaluation.metrics"}
    matchlib.distill("flow", data, out=tmp_path / "run", steps=2, settings=settings)
    report = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    assert {"frechet", "frechet_raw", "coverage"} <= set(report["student"])


def test_a_teacher_is_scored_at_further_numbers_of_steps(tmp_path: Path) -> None:
    """At the steps that it has by default its scores are those of the teacher; the page shows them over the evaluations."""
    steps = {"evaluation.teacher_steps": [1, 25], "data.name": "moons", "trainer.steps": 12, "evaluation.metrics": ["frechet"]}
    matchlib.distill(out=tmp_path / "run", settings={**SMALL, **steps})
    report = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    assert [report[f"teacher at {name}"]["nfe"] for name in ("1 step", "25 steps")] == [2, 50]
    assert report["teacher at 25 steps"]["frechet"] == report["teacher"]["frechet"] != report["teacher at 1 step"]["frechet"]
    assert "Quality against evaluations" in (tmp_path / "run" / "report.html").read_text()


@pytest.mark.parametrize(("held_out", "samples", "draws"), [(360, 360, 10), (6_000, 6_000, 1), (50_000, 10_000, 1), (3_000, 3_000, 3)])
def test_protocol_draws_ten_thousand_samples_at_most(held_out: int, samples: int, draws: int) -> None:
    assert protocol_of(EvaluationSettings(), held_out) == (samples, draws)


def test_interval_is_students() -> None:
    """Of 1, 2, 3: 2 +- 4.303 * 1 / sqrt(3)."""
    assert interval([1.0, 2.0, 3.0]) == pytest.approx([2 - 4.302653 / 3**0.5, 2 + 4.302653 / 3**0.5], rel=1e-6)


def test_classes_of_too_few_leave_the_others_their_distances(tmp_path: Path) -> None:
    """Numbers of classes may have gaps, and a class may be rare: its own distance is missing, and no other one."""
    digits = load_dataset("digits")
    label = digits.train.label
    data = Dataset.from_arrays("gaps", digits.denormalize(digits.train.data), labels=torch.where(label == 3, 4, label))
    settings = {"teacher.network": {"name": "mlp", "width": 8, "depth": 1}, "evaluation.metrics": ("frechet-raw",)}
    matchlib.train("flow", data, steps=1, out=tmp_path / "run", settings=settings)
    of_class = matchlib.io.read_json(tmp_path / "run" / "evaluation.json")["held_out"]["frechet_by_class"]
    assert [value is None for value in of_class] == [wanted == 3 for wanted in range(10)]
