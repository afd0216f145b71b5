"""matchlib.training.alarms: what is planted is named, and nothing else. benchmarks/robustness/alarms.py makes the full table."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from matchlib.training.alarms import ALARMS, raised

ROOT = Path(__file__).parents[2]
HEALTHY = {
    "teacher_error": 0.5,
    "sample_change": 0.3,
    "critic_change": 0.2,
    "critic_grad_cosine": 0.9,
    "std_ratio": 1.0,
    "nn_distance_ratio": 1.0,
    "saturation": 0.0,
    "class_shares": 0.05,
    "critic_excess": -0.1,
    "critic_error": 1.1,
    "nearest_ratio": 1.0,
    "classes_missing": 0.0,
    "label_error": 0.1,
}


@pytest.mark.parametrize(
    ("measurements", "names"),
    [
        ([{}, {}], []),
        ([{"std_ratio": 0.15}, {"std_ratio": 0.8}], []),  # it has just set out
        ([{"std_ratio": 0.15}, {"std_ratio": 0.2}, {"std_ratio": 0.25}], []),  # on its way
        ([{"std_ratio": 0.2}, {"std_ratio": 0.2}], ["collapse"]),
        ([{"nn_distance_ratio": 0.1}, {"nn_distance_ratio": 0.05}], ["collapse"]),
        ([{"critic_change": 0.01}], ["critic"]),
        ([{"critic_change": 0.01, "critic_grad_cosine": 0.1}], []),  # it has arrived: nothing to learn
        ([{"critic_change": 0.01, "sample_change": 0.02}], []),  # nor has the student anywhere to go
        ([{"std_ratio": 3.0, "critic_change": 0.01}], ["student-lr"]),
        ([{"saturation": 0.6}], ["student-lr"]),
        ([{"sample_change": 0.0}], ["student-frozen"]),
        ([{"teacher_error": 4.0}], ["teacher"]),
        ([{"class_shares": 0.8}, {"class_shares": 0.2}], []),  # it has just set out
        ([{"class_shares": 0.9}, {"class_shares": 0.6}], []),  # on its way
        ([{"class_shares": 0.9, "classes_missing": 9.0}] * 2, ["classes"]),
        ([{"critic_excess": 0.9}], []),
        ([{"critic_excess": 1.1, "saturation": 0.9}], ["critic-lr"]),  # the cause, not what follows
        ([{"critic_excess": 19.0, "std_ratio": 45.0}], ["student-lr"]),
        ([{"nearest_ratio": 0.2}, {"nearest_ratio": 0.45}], []),
        ([{"nearest_ratio": 0.3}] * 2, ["copies"]),
        ([{"label_error": 0.9}] * 2, ["labels"]),
    ],
)
def test_raised_names_what_is_wrong_and_nothing_else(measurements: list[dict[str, float]], names: list[str]) -> None:
    before: dict[str, float] = {}
    results = []
    for changes in measurements:
        readings = HEALTHY | changes
        results.append([alarm.name for alarm in raised(readings, before)])
        before = readings
    assert results[-1] == names
    assert not any(results[:-1])


def test_raised_needs_no_measurement_before_the_first() -> None:
    first = {name: value for name, value in HEALTHY.items() if name not in ("sample_change", "critic_change")}
    assert raised(first, {}) == ()
    assert [alarm.name for alarm in raised(first | {"teacher_error": 2.0}, {})] == ["teacher"]


@pytest.mark.parametrize("alarm", ALARMS, ids=lambda alarm: alarm.name)
def test_alarm_advice_names_a_setting_or_a_command(alarm: object) -> None:
    message = alarm.advice.format(**HEALTHY)  # type: ignore[attr-defined]
    assert "trainer." in message or "matchlib doctor" in message
    assert "{" not in message


@pytest.fixture(scope="module")
def alarms(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModuleType]:
    """benchmarks/robustness/alarms.py, with its files elsewhere."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT))
        module = importlib.import_module("benchmarks.robustness.alarms")
        patch.setattr(module, "PLACE", tmp_path_factory.mktemp("alarms"))
        yield module


@pytest.mark.runs
@pytest.mark.parametrize("failure", ["wrong teacher sign", "NaN batch", "full disk"])
def test_planted_failures_are_named(alarms: ModuleType, failure: str) -> None:
    wanted, make, settings = alarms.FAILURES[failure]
    short = {"trainer.monitor_every": 20, "trainer.batch_size": 64, "trainer.checkpoint_every": 20}
    result = alarms.planted(make, {**settings, **short}, 40, full=failure == "full disk")
    assert result["alarms"][0].startswith(f"alarm ({wanted})")
