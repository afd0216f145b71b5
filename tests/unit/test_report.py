"""Scores and evaluation.json."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import matchlib
from matchlib.data.readers import load_dataset
from matchlib.evaluation.report import evaluate
from matchlib.evaluation.score import reference_of, scores
from matchlib.runs.settings import EvaluationSettings


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
