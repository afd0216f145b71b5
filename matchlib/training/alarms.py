"""Alarms: what can be wrong with a distillation, as a table of name, condition and advice."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

__all__ = ["ALARMS", "GUIDE", "Alarm", "Entry", "Limits", "Raised", "raised"]

Values = Mapping[str, float]


@dataclass(frozen=True)
class Limits:
    """Where a reading becomes an alarm; benchmarks/robustness/alarms.py tries healthy and broken runs.

    Args:
        teacher_error: error of the teacher on real points, over that of the best multiple of the state.
        critic_grad_cosine: cosine between the critic's gradients on two independent batches.
        critic_change: change of the critic's predictions over that of the samples, both since the measurement before; the first in units
            of the error of the best multiple of the state, the second of the data's standard deviation. The alarm takes both: every critic
            is behind a student that has just set out, and a converged critic hardly changes.
        std_ratio: standard deviation of generated over that of real data: smallest and largest.
        saturation: fraction of generated numbers beyond the data's limits by a tenth of their range.
        nn_distance_ratio: distance to the nearest neighbour in the batch, over that of real data; like a small ``std_ratio``, in two
            consecutive measurements of which the second is no better.
        class_shares: total variation between the shares of classes of samples and data; like the next, in two consecutive measurements of
            which the second is not much better.
        critic_excess: how much larger the critic's loss is than with the teacher in its place, over the error of the best multiple of the
            state; lower end of a 95% interval.
        nearest_ratio: distance of samples to the nearest training data, over that of held-out data, in two consecutive measurements of
            which the second is not much better.
        label_error: fraction of samples that are not of the class that was asked for, on a scale on which that of held-out data is 0 and
            that of labels drawn at random is 1; below 0 where samples are clearer than data.
        sample_change: change of the samples of fixed sources since the measurement before, over the data's standard deviation.
    """

    teacher_error: float = 1.5
    critic_grad_cosine: float = 0.5
    critic_change: float = 0.1
    std_ratio: tuple[float, float] = (0.3, 2.5)
    saturation: float = 0.5
    nn_distance_ratio: float = 0.2
    class_shares: float = 0.4
    critic_excess: float = 1.0
    nearest_ratio: float = 0.5
    label_error: float = 0.7
    sample_change: float = 1e-6


@dataclass(frozen=True)
class Raised:
    """An alarm that was raised.

    Args:
        name: of the alarm, for the log.
        message: what was measured, the likely cause, and the setting to change.
        curable: whether lower learning rates are likely to help.
    """

    name: str
    message: str
    curable: bool = False


@dataclass(frozen=True)
class Alarm:
    """A row of the table.

    Args:
        name: for the log.
        condition: of the readings, those of the measurement before, and the limits.
        advice: format string of the readings: what was measured, the likely cause, and the setting to change.
        alone: whether it is raised only where no alarm of an earlier row is, whose consequence it may be.
        curable: as in ``Raised``.
    """

    name: str
    condition: Callable[[Values, Values, Limits], bool]
    advice: str
    alone: bool = False
    curable: bool = False


def _variety(readings: Values, limits: Limits) -> float:
    """How far samples differ from each other, relative to what is still accepted; infinite without readings."""
    std, distance = (readings.get(name, math.inf) for name in ("std_ratio", "nn_distance_ratio"))
    return min(std / limits.std_ratio[0], distance / limits.nn_distance_ratio)


def _critic_fell_apart(now: Values, before: Values, limits: Limits) -> bool:
    """Whether the critic is lost although samples are still of the data's size: that of a student that left them is lost, too."""
    return now.get("critic_excess", 0.0) > limits.critic_excess and now["std_ratio"] <= limits.std_ratio[1]


def _student_too_fast(now: Values, before: Values, limits: Limits) -> bool:
    return now["std_ratio"] > limits.std_ratio[1] or now["saturation"] > limits.saturation


def _critic_too_slow(now: Values, before: Values, limits: Limits) -> bool:
    hardly_changes = now.get("critic_change", 1.0) < limits.critic_change * now.get("sample_change", 0.0)
    return now["critic_grad_cosine"] > limits.critic_grad_cosine and hardly_changes


def _collapsed(now: Values, before: Values, limits: Limits) -> bool:
    variety, earlier = _variety(now, limits), _variety(before, limits)
    return max(variety, earlier) < 1 and variety < 1.1 * earlier  # a student that has just set out may be alike and on its way


def _stays_above(name: str) -> Callable[[Values, Values, Limits], bool]:
    """Whether a reading is above its limit, was so before, and hardly falls."""

    def condition(now: Values, before: Values, limits: Limits) -> bool:
        value, earlier = now.get(name, 0.0), before.get(name, 0.0)
        return min(value, earlier) > getattr(limits, name) and value > 0.75 * earlier

    return condition


def _stays_below(name: str) -> Callable[[Values, Values, Limits], bool]:
    """Whether a reading is below its limit, was so before, and hardly rises."""

    def condition(now: Values, before: Values, limits: Limits) -> bool:
        value, earlier = now.get(name, math.inf), before.get(name, math.inf)
        return max(value, earlier) < getattr(limits, name) and 0.75 * value < earlier

    return condition


ALARMS = (
    Alarm(
        "teacher",
        lambda now, before, limits: now["teacher_error"] > limits.teacher_error,
        "on real data the teacher's error is {teacher_error:.2f} times that of the best multiple of the state: its sign, time or scale is "
        "wrong, or it was made for other data; examine it with: matchlib doctor",
    ),
    Alarm(
        "student-frozen",
        lambda now, before, limits: now.get("sample_change", 1.0) < limits.sample_change,
        "the student does not change: its gradient or learning rate is zero; raise trainer.student_lr, or choose another student.network",
    ),
    Alarm(
        "critic-lr",
        _critic_fell_apart,
        "the critic is far worse at its own task than the teacher would be in its place (excess {critic_excess:.3g}, in units of the error "
        "of the best multiple of the state): it has fallen apart; lower trainer.critic_lr and trainer.student_lr",
        alone=True,
        curable=True,
    ),
    Alarm(
        "student-lr",
        _student_too_fast,
        "samples leave the data (standard deviation {std_ratio:.2f} of theirs, {saturation:.0%} beyond their limits): the student learns "
        "faster than the critic can follow; lower trainer.student_lr, and trainer.critic_lr as well where the critic's error on real data, "
        "{critic_error:.3g} times the teacher's, is far above 1",
        alone=True,
        curable=True,
    ),
    Alarm(
        "critic",
        _critic_too_slow,
        "the critic does not follow the student (since the last measurement samples changed by {sample_change:.2f}, its predictions by "
        "{critic_change:.3f}, and two batches push it the same way, cosine {critic_grad_cosine:.2f}); raise trainer.critic_lr or "
        "trainer.critic_steps",
        alone=True,
    ),
    Alarm(
        "collapse",
        _collapsed,
        "samples are too much alike (standard deviation {std_ratio:.2f}, nearest neighbour {nn_distance_ratio:.2f} of the data's); lower "
        "trainer.student_lr, raise trainer.critic_steps, or choose an earlier student.t_start",
        curable=True,
    ),
    Alarm(
        "classes",
        _stays_above("class_shares"),
        "samples have other classes than the data (total variation of shares {class_shares:.2f}, {classes_missing:.0f} classes missing): "
        "the student draws few of the classes; lower trainer.student_lr, raise trainer.critic_steps, or compare at higher "
        "noise (trainer.times.log_sigma)",
    ),
    Alarm(
        "copies",
        _stays_below("nearest_ratio"),
        "samples are nearer to the training data than held-out data are ({nearest_ratio:.2f} of their distance): the student copies, or "
        "draws few and blurred samples; lower loss.alpha and trainer.student_lr, or give more data",
    ),
    Alarm(
        "labels",
        _stays_above("label_error"),
        "samples are of the class that was asked for hardly more often than by chance (errors {label_error:.2f} of the way from those of "
        "held-out data to those of labels at random): student or teacher ignores labels; examine the teacher with: matchlib doctor, or "
        "leave labels out with data.labels=false",
    ),
)


def raised(readings: Values, before: Values, limits: Limits | None = None) -> tuple[Raised, ...]:
    """Returns the alarms that readings raise, the likeliest cause first.

    Args:
        before: readings of the measurement before; empty for none.
    """
    limits = limits or Limits()
    result: list[Raised] = []
    for alarm in ALARMS:
        if alarm.condition(readings, before, limits) and not (alarm.alone and result):
            result.append(Raised(alarm.name, alarm.advice.format(**readings), alarm.curable))
    return tuple(result)


@dataclass(frozen=True)
class Entry:
    """What the guide says of an alarm; ``docs/guides/alarms.md`` has a section of the same name with the same words.

    Args:
        symptom: what a user sees.
        reading: what shows it, with its limit.
        cause: the likely one.
        cure: what to set.
    """

    symptom: str
    reading: str
    cause: str
    cure: str


_L = Limits()
GUIDE = {
    "teacher": Entry(
        "samples are nonsense from the start",
        f"teacher_error above {_L.teacher_error:g}: on real data the teacher is worse than a multiple of the state",
        "wrong sign, time or scale of the teacher, or other data than it was made for",
        "run matchlib doctor on the teacher",
    ),
    "student-frozen": Entry(
        "samples never change",
        "sample_change below 1e-6",
        "a gradient or a learning rate that is zero",
        "trainer.student_lr up, or another student.network",
    ),
    "student-lr": Entry(
        "samples leave the data",
        f"std_ratio above {_L.std_ratio[1]:g}, or saturation above {_L.saturation:g}",
        "the student is faster than the critic, or the critic's own learning rate is too large",
        "trainer.student_lr down, and trainer.critic_lr where critic_error is far above 1",
    ),
    "critic-lr": Entry(
        "samples turn to noise",
        f"critic_excess above {_L.critic_excess:g}: the critic is worse at its own task than the teacher would be in its place",
        "the critic's learning rate is too large for its width",
        "trainer.critic_lr and trainer.student_lr down",
    ),
    "critic": Entry(
        "samples drift, the gap does not fall",
        f"critic_grad_cosine above {_L.critic_grad_cosine:g} while critic_change is below a tenth of sample_change",
        "the critic is too slow",
        "trainer.critic_lr or trainer.critic_steps up",
    ),
    "collapse": Entry(
        "samples look alike",
        f"std_ratio below {_L.std_ratio[0]:g}, or nn_distance_ratio below {_L.nn_distance_ratio:g}, twice in a row and no better",
        "few modes are left",
        "trainer.student_lr down, trainer.critic_steps up, or an earlier student.t_start",
    ),
    "classes": Entry(
        "samples show few of the classes",
        f"class_shares above {_L.class_shares:g}, twice in a row and hardly falling; classes_missing counts the classes",
        "the student has collapsed to some classes",
        "trainer.student_lr down, trainer.critic_steps up, or more noise in trainer.times.log_sigma",
    ),
    "copies": Entry(
        "samples look like training data, or all blurred",
        f"nearest_ratio below {_L.nearest_ratio:g}, twice in a row: nearer to the training data than half of the distance of held-out data",
        "a large alpha on few data, or a collapse",
        "loss.alpha and the learning rates down, or more data",
    ),
    "labels": Entry(
        "samples are not what was asked for",
        f"label_error above {_L.label_error:g} of the way from held-out data to labels drawn at random, twice in a row and hardly falling",
        "student or teacher ignores labels",
        "examine the teacher with matchlib doctor, or set data.labels=false",
    ),
    "not-finite": Entry(
        "steps are skipped",
        "the message counts them",
        "named by the message: data, student, teacher or critic",
        "the learning rate that it names down, or trainer.max_grad_norm",
    ),
    "disk": Entry("a checkpoint is missing", "the message has the system's error", "the disk is full", "make room; the run goes on"),
}
