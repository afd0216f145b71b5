"""The note about a teacher that is wrong: said when teacher and student are both far from the data, and only then."""

from __future__ import annotations

import pytest

from matchlib.evaluation.advice import advice


def report(teacher: float, student: float | None, held_out: float = 1.0) -> dict:
    found = {"teacher": {"frechet": teacher}, "held_out": {"frechet": held_out}}
    return found if student is None else found | {"student": {"frechet": student}}


def test_a_wrong_teacher_is_named_with_its_distance() -> None:
    assert "2.0 and 3.0 times" in (advice(report(3.0, 2.0)) or "")
    assert "--recipe correct" in (advice(report(3.0, 2.0)) or "")


def test_a_lost_teacher_is_sent_to_the_doctor() -> None:
    """No loss mends wrong units."""
    said = advice(report(300.0, 200.0)) or ""
    assert "matchlib doctor" in said and "recipe" not in said


@pytest.mark.parametrize(("teacher", "student"), [(1.1, 2.0), (3.0, 0.9), (3.0, None)])
def test_nothing_is_said_of_a_good_teacher_a_corrected_student_or_a_teacher_alone(teacher: float, student: float | None) -> None:
    assert advice(report(teacher, student)) is None


def test_nothing_is_said_without_the_score() -> None:
    assert advice({"teacher": {}, "student": {}, "held_out": {"frechet_raw": 1.0}}) is None
