"""What a command shows: live progress on a terminal, plain lines elsewhere, a table at the end."""

from __future__ import annotations

import logging
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from pydantic import ByteSize, TypeAdapter, ValidationError
from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from matchlib.errors import SettingError
from matchlib.evaluation.advice import advice
from matchlib.evaluation.doctor import Diagnosis
from matchlib.runs.plan import MOST, Plan
from matchlib.runs.scoring import generators
from matchlib.training.callbacks import Progress as Row
from matchlib_cli.signals import Stop, listening, silence

__all__ = ["LiveView", "console", "live_view", "read_bytes", "show_plan", "show_report", "show_scores"]


def console() -> Console:
    """Returns a console on stdout; without a terminal it writes plain lines of any width."""
    return _Console(width=None if sys.stdout.isatty() else 160, highlight=False, soft_wrap=not sys.stdout.isatty())


class _Console(Console):
    """A console that tells of a reader who went away, where rich would end the process."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


BLOCKS = "▁▂▃▄▅▆▇█"
COLORFUL = ("256", "truecolor")  # systems of a terminal that shows samples
SHOWN = 24  # values of a sparkline
MEMORY = 5  # rows that a shown loss is averaged over


def sparkline(values: Sequence[float]) -> str:
    """Returns the latest values as bars of eight heights, from the least to the largest of them."""
    finite = [value for value in values[-SHOWN:] if math.isfinite(value)]
    if not finite:
        return ""
    low, span = min(finite), max(finite) - min(finite) or 1.0
    return "".join(BLOCKS[min(int((value - low) / span * len(BLOCKS)), len(BLOCKS) - 1)] for value in finite)


def printable(line: str) -> str:
    """Returns a line without what moves a terminal's cursor: the log that it is of may be a stranger's."""
    return "".join(character for character in line if character.isprintable())


def duration(seconds: float) -> str:
    """Returns a time in the two largest units."""
    total = max(round(seconds), 0)
    hours, minutes = total // 3600, total // 60 % 60
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {total % 60} s" if minutes else f"{total} s"


class LiveView:
    """Shows progress and notices: bars and a line on the state of the run on a terminal, plain lines elsewhere.

    Args:
        out: where to.
        stop: whether a signal asked to stop.
    """

    def __init__(self, out: Console, stop: Stop, *, quiet: bool) -> None:
        self.out, self._stop, self.quiet = out, stop, quiet
        columns = (
            TextColumn("{task.description:8}", markup=False),
            BarColumn(bar_width=12),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            TimeElapsedColumn(),
        )
        self.bars = Progress(*columns, console=out) if out.is_terminal and not quiet else None
        self._tasks: dict[str, TaskID] = {}
        self._first: dict[str, tuple[int, float]] = {}
        self._losses: dict[str, float] = {}
        self._gaps: list[float] = []
        self._alarm = self._left = ""
        self.samples: Callable[[int], Text | None] = lambda width: None  # what is shown below, for a width
        self.live = None if self.bars is None else Live(get_renderable=self._picture, console=out, refresh_per_second=4)

    def stopped(self) -> bool:
        """Returns whether the run was asked to stop."""
        return bool(self._stop)

    def say(self, line: str) -> None:
        """Prints one line."""
        if not self.quiet:
            with self._heard():
                self.out.print(printable(line), markup=False)

    @contextmanager
    def _heard(self) -> Iterator[None]:
        """Goes on in silence where the output cannot be written; a reader who went away asks to stop."""
        try:
            yield
        except BrokenPipeError:
            silence()
            self.quiet = self._stop.asked = True
        except OSError:  # a full disk, say: the run is worth more than its lines
            self.quiet = True

    def status(self) -> str:
        """Returns a line on the run: its gap, the last alarm, the time left for all training."""
        gap = f"gap {sparkline(self._gaps)} {self._gaps[-1]:.3g}" if self._gaps else ""
        return "   ".join(part for part in (gap, self._alarm, self._left) if part)

    def _picture(self) -> Group:
        assert self.bars is not None
        samples = self.samples(self.out.width) if self.out.color_system in COLORFUL else None
        return Group(self.bars, Text(self.status(), overflow="ellipsis", no_wrap=True), samples or Text())

    def remember(self, row: Row) -> float:
        """Takes down what the line on the run shows, and returns the steps per second; 0 where that is not known yet."""
        gap = row.readings.get("gap")
        if gap is not None and gap not in self._gaps[-1:]:
            self._gaps.append(gap)
        if row.alarms:
            self._alarm = f"last alarm: {', '.join(row.alarms)} at step {row.step} of {row.phase}"
        for name, loss in row.losses.items():
            key = f"{row.phase} {name}"
            self._losses[key] = self._losses.get(key, loss) + (loss - self._losses.get(key, loss)) / MEMORY
        step, seconds = self._first.setdefault(f"{row.phase} {row.note}", (row.step, row.seconds))
        speed = (row.step - step) / (row.seconds - seconds) if row.seconds > seconds and row.step > step else 0.0
        rest = (row.steps - row.step + row.later) / speed if speed else 0.0
        self._left = f"{duration(rest)} left{' for all training' if row.later else ''}" if speed else ""
        return speed

    def show(self, row: Row) -> None:
        """Shows a row of the log."""
        if self.quiet:
            return
        speed = self.remember(row)
        rate = f"{speed:.0f} steps/s" if speed and row.losses else row.note
        if self.live is None or self.bars is None:
            gap = [f"gap {row.readings['gap']:.3g}"] if "gap" in row.readings else []
            note = "  ".join([*(f"{name} {loss:.4g}" for name, loss in row.losses.items()), *gap, rate])
            with self._heard():
                print(printable(f"{row.phase} {row.step}/{row.steps}  {note}  {self._left}".rstrip()), flush=True)
            return
        note = "  ".join([*(f"{name} {self._losses[f'{row.phase} {name}']:.4g}" for name in row.losses), rate])
        if row.phase not in self._tasks:
            self._tasks[row.phase] = self.bars.add_task(printable(row.phase), total=row.steps, note="")
        self.bars.update(self._tasks[row.phase], completed=row.step, total=row.steps, note=note)


class _Lines(logging.Handler):
    """Hands the library's notices to a view."""

    def __init__(self, view: LiveView) -> None:
        super().__init__(logging.INFO)
        self.view = view

    def emit(self, record: logging.LogRecord) -> None:
        self.view.say(record.getMessage())


@contextmanager
def live_view(*, quiet: bool = False) -> Iterator[LiveView]:
    """Yields a view that shows progress and the library's notices, and listens to signals.

    Args:
        quiet: whether another process speaks for this one.
    """
    stop = Stop()
    view = LiveView(console(), stop, quiet=quiet)
    logger, handler = logging.getLogger("matchlib"), _Lines(view)
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    with listening(stop):
        try:
            if view.live is not None:
                view.live.start()
            yield view
        finally:
            if view.live is not None:
                view.live.stop()
            logger.removeHandler(handler)


PAUSE = 5.0  # seconds between lines of a count, where there is no terminal


@contextmanager
def counting(what: str) -> Iterator[Callable[[int, int], None]]:
    """Yields a function that is told how much of how much is done: a bar on a terminal, now and then a line elsewhere."""
    out, last = console(), time.monotonic()
    if out.is_terminal:
        with Progress(console=out, transient=True) as bars:
            task = bars.add_task(what)
            yield lambda done, most: bars.update(task, completed=done, total=most)
        return

    def line(done: int, most: int) -> None:
        nonlocal last
        if time.monotonic() - last >= PAUSE:
            last = time.monotonic()
            out.print(f"{what}: {done} of at most {most}", markup=False)

    yield line


MIB = 2**20
FEW = 50  # samples in a score, below which it says little

COLUMNS = {
    "nfe": "NFE",
    "frechet": "Frechet",
    "frechet_raw": "raw",
    "sliced_wasserstein": "sliced",
    "w2": "W2",
    "class_shares": "shares",
    "classes_missing": "missing",
    "coverage": "cover",
    "nearest_ratio": "nearest",
    "copies": "copies",
    "class": "class",
    "psnr": "PSNR",
    "consistency": "consist",
    "spread": "spread",
    "seconds": "s/1,000",
}


def _with_mean(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row with the mean of its classes' own distances, of those that have one."""
    each = [value for value in row.get("frechet_by_class", ()) if isinstance(value, int | float)]
    return {**row, "class": sum(each) / len(each)} if each else dict(row)


def _score(value: Any) -> str:
    """A score as a cell shows it; a file has text for infinities, and null for what is no number."""
    return f"{value:.3g}" if isinstance(value, int | float) else value or ""


def show_diagnosis(found: Diagnosis) -> None:
    """Prints a teacher's errors by time, and what is likely wrong with it."""
    out = console()
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("t", "error / best multiple of the state"):
        table.add_column(heading, justify="right")
    for t, error in zip(found.times, found.stated.errors, strict=True):
        table.add_row(f"{t:.3f}", f"{error:.3f}")
    out.print(table)
    spread = "" if found.spread is None else f"; 20 Euler steps give {found.spread:.2f} times the data's standard deviation"
    out.print(f"{found.weights:,} weights{spread}", markup=False)
    for note in found.notes:
        out.print(note, markup=False)
    for mistake in found.mistakes:
        out.print(f"likely mistake: {mistake}", markup=False)
    if not found.mistakes:
        out.print("nothing wrong was found", markup=False)


def read_bytes(text: str) -> int:
    """Returns the bytes that a text such as ``24GiB`` means.

    Raises:
        SettingError: it means none.
    """
    try:
        size = TypeAdapter(ByteSize).validate_python(text)
    except ValidationError:
        size = ByteSize(0)
    if size <= 0 or text.strip().isdigit():
        raise SettingError(f"--memory takes a number with a unit, for example 24GiB, got {text!r}")
    return int(size)


def show_plan(found: Plan, memory: int | None) -> None:
    """Prints expected memory by part, and the largest batch."""
    out = console()
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("part")
    table.add_column("MiB", justify="right")
    rows = {
        **found.parts,
        f"gradients and activations of {found.batch} samples": found.steps(found.batch),
        "in all": found.peak(),
    }
    for name, size in rows.items():
        table.add_row(name, f"{size / MIB:.1f}")
    out.print(table)
    out.print("besides it: what the libraries take for themselves (about 500 MiB on CUDA) and workspaces of operations", markup=False)
    if memory is None:
        return
    most = found.largest(memory)
    number = f"at most {most}" if most < 0.98 * MOST else f"more than {most}"
    fits = "fits" if found.batch <= most else "does not fit: set trainer.engine.micro_batch_size or a smaller trainer.batch_size"
    out.print(f"in {ByteSize(memory).human_readable()} {number} samples at once; {found.batch} {fits}", markup=False)


def show_report(report: Mapping[str, Any]) -> None:
    """Prints student, teacher and held-out data as rows of scores."""
    rows = {kind.replace("_", "-"): report[kind] for kind in (*generators(report), "held_out")}
    show_scores(
        rows, f"against the training split of {report['data']}, {report['samples']} samples at a time; s/1,000: seconds for 1,000 samples"
    )
    note = advice(report)
    if note is not None:
        console().print(note, markup=False)
    if report["samples"] < FEW:
        console().print(f"note: scores of {report['samples']} samples are mostly noise; hold more data out", markup=False)


def show_scores(scores: Mapping[str, Mapping[str, Any]], protocol: str) -> None:
    """Prints rows of scores, and how they were made."""
    rows = {name: _with_mean(row) for name, row in scores.items()}
    table = Table(box=None, pad_edge=False, header_style="bold")
    shown = [key for key in COLUMNS if any(key in row for row in rows.values())]
    table.add_column("")
    for key in shown:
        table.add_column(COLUMNS[key], justify="right")
    for kind, row in rows.items():
        table.add_row(kind, *(_score(row.get(key)) for key in shown))
    out = console()
    out.print(table)
    out.print(protocol, markup=False)
    out.print(_legend(shown), markup=False)


def _legend(shown: Sequence[str]) -> str:
    """What the columns mean: which way is better, and the abbreviations."""
    from matchlib.registry import metrics

    parts = ["NFE: evaluations of the network for a sample"] if "nfe" in shown else []
    for words, sign in (("lower is better", -1), ("higher is better", 1), ("best at the value of held-out data", 0)):
        names = [COLUMNS[key] for key in shown if (name := key.replace("_", "-")) in metrics and metrics[name].better == sign]
        parts += [f"{words}: {', '.join(names)}"] if names else []
    return "; ".join(parts)
