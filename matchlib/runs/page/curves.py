"""Curves of a run's log: losses, gap, gradient norms, readings, with alarms where they rang."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from html import escape
from typing import Any

from matchlib.evaluation.plots import Line, Mark, line_plot, short
from matchlib.runs.record import Record
from matchlib.training.alarms import ALARMS, GUIDE
from matchlib.training.callbacks import ROLLED_BACK, alarm_names, is_measured

__all__ = ["alarm_message", "alarm_section", "alarms_of", "curve_section", "values_of"]

Rows = Sequence[Mapping[str, Any]]
SMOOTHED = 60  # rows from which losses are smoothed
MEMORY = 8  # rows that a smoothed loss remembers
TOGETHER = (  # readings that share axes
    ("teacher_error", "critic_error", "critic_error_generated"),
    ("std_ratio", "nn_distance_ratio", "saturation"),
    ("sample_change", "critic_change"),
    ("class_shares", "label_error"),
)


def number(value: Any) -> float:
    """Returns a number of the log; NaN for anything else."""
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan


def values_of(rows: Rows, key: str) -> tuple[list[float], list[float]]:
    """Returns steps and values of the rows that have a key; not of those on steps that were taken back."""
    found = [(float(row["step"]), number(row[key])) for row in rows if key in row and ROLLED_BACK not in row]
    return [step for step, _ in found], [value for _, value in found]


def smooth(values: Sequence[float]) -> list[float]:
    """Returns the running means of a series, which forget with the memory of ``MEMORY`` values; what is not finite is passed over."""
    result, mean, weight = [], 0.0, 0.0
    for value in values:
        if math.isfinite(value):
            mean += (value - mean) / (weight := min(weight + 1, MEMORY))
        result.append(mean)
    return result


def alarms_of(rows: Rows) -> Iterator[tuple[int, str, Mapping[str, Any]]]:
    """Yields step, name and row of every alarm that is new: not in the measurement before."""
    before: set[str] = set()
    for row in rows:
        if not is_measured(row):
            continue
        names = set(alarm_names(row))
        yield from ((int(number(row.get(ROLLED_BACK, row["step"]))), name, row) for name in sorted(names - before))
        before = set() if ROLLED_BACK in row else names


def anchor(name: str) -> str:
    """Returns the id of an alarm's section in the page."""
    return f"alarm-{name}"


def curve_section(record: Record) -> str:
    """Returns the curves of every phase, the latest first."""
    parts = []
    for phase in reversed(record.phases):
        rows = record.of(phase)
        marks = [Mark(step, name, f"#{anchor(name)}") for step, name, _ in alarms_of(rows)]
        plots = "".join(_plots(rows, marks))
        parts.append(f'<h2>Training of the {escape(phase)}</h2><div class="grid">{plots}</div>')
    return "".join(parts) or "<p>The log has no rows yet.</p>"


def _plots(rows: Rows, marks: Sequence[Mark]) -> Iterator[str]:
    keys = list(dict.fromkeys(key for row in rows for key in row))

    def chosen(test: Callable[[str], bool]) -> list[str]:
        return sorted(key for key in keys if test(key))

    losses = chosen(lambda key: key.startswith("loss/"))
    yield line_plot("Losses", [line for key in losses for line in _loss(rows, key)], marks)
    steps, gap = values_of([row for row in rows if "monitor/gap/ci" in row], "monitor/gap")
    half = values_of([row for row in rows if "monitor/gap" in row], "monitor/gap/ci")[1]
    if len(gap) == len(half):
        yield line_plot("Gap between teacher and critic, with its 95% interval", [Line("gap", steps, gap, half)], marks)
    yield _many("Gap by quarter of time, t0 near the data", rows, chosen(lambda key: key.startswith("monitor/gap/t")), marks)
    yield _many("Gradient norms, running root mean square", rows, chosen(lambda key: key.startswith("grad_norm/")), marks)
    yield _many("Steps skipped in all", rows, chosen(lambda key: key.startswith("skipped/")), marks)
    readings = chosen(lambda key: key.startswith("monitor/") and not key.startswith("monitor/gap"))
    while readings:
        family = _family(readings[0])
        group = [key for key in readings if _family(key) == family]
        readings = [key for key in readings if key not in group]
        yield _many(", ".join(dict.fromkeys(_reading(key) for key in group)), rows, group, marks)
    yield line_plot("Steps per second", [Line("steps/s", *_speed(rows))], marks)


def _loss(rows: Rows, key: str) -> Iterator[Line]:
    steps, values = values_of(rows, key)
    name = key.removeprefix("loss/")
    if len(values) < SMOOTHED:
        yield Line(name, steps, values)
        return
    yield Line(name, steps, values, faint=True)
    yield Line(name, steps, smooth(values))


def _many(title: str, rows: Rows, keys: Sequence[str], marks: Sequence[Mark]) -> str:
    return line_plot(title, [Line(key.partition("/")[2], *values_of(rows, key)) for key in keys], marks)


def _reading(key: str) -> str:
    return key.removeprefix("monitor/").partition("/")[0]


def _family(key: str) -> tuple[str, ...]:
    """The readings that are drawn together with one."""
    name = _reading(key)
    return next((names for names in TOGETHER if name in names), (name,))


def _speed(rows: Rows) -> tuple[list[float], list[float]]:
    """Steps, and steps a second since the row before; a resumed run counts its seconds anew."""
    steps, seconds = values_of(rows, "seconds")
    speed = [(b - a) / (t - s) if t > s and b > a else math.nan for a, b, s, t in zip(steps, steps[1:], seconds, seconds[1:], strict=False)]
    return steps[1:], speed


def alarm_section(record: Record) -> str:
    """Returns what rang, when, what was measured, and what the guide says of it."""
    parts = []
    found: dict[str, list[str]] = {}
    for phase in record.phases:
        for step, name, row in alarms_of(record.of(phase)):
            found.setdefault(name, []).append(f"step {step} of {phase}: {alarm_message(name, row)}".rstrip(": "))
    for name, lines in found.items():
        shown = "".join(f"<li>{escape(line)}</li>" for line in lines[:5])
        more = f"<p>and {len(lines) - 5} more</p>" if len(lines) > 5 else ""
        text = f"<h3>{escape(name)}</h3><ul>{shown}</ul>{more}{_entry(name)}"
        parts.append(f'<section class="alarm" id="{escape(anchor(name))}">{text}</section>')
    return f"<h2>Alarms</h2>{''.join(parts) or '<p>None has rung.</p>'}"


def alarm_message(name: str, row: Mapping[str, Any]) -> str:
    """Returns an alarm's advice with the readings of its row; only what was measured, where they are not there."""
    advice = next((alarm.advice for alarm in ALARMS if alarm.name == name), "{}")
    readings = {key.removeprefix("monitor/"): number(value) for key, value in row.items() if key.startswith("monitor/")}
    try:
        return advice.format(**readings)
    except (LookupError, ValueError):
        return ", ".join(f"{key} {short(value)}" for key, value in readings.items())


def _entry(name: str) -> str:
    if name not in GUIDE:
        return ""
    entry = GUIDE[name]
    said = (("Symptom", entry.symptom), ("Reading", entry.reading), ("Likely cause", entry.cause), ("Set", entry.cure))
    lines = "".join(f"<dt>{what}</dt><dd>{escape(text)}</dd>" for what, text in said)
    return f"<dl>{lines}</dl><p><small>docs/guides/alarms.md#{escape(name)}</small></p>"
