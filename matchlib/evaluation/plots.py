"""Plots as SVG text: lines with marks, and points and paths in the plane. Every text in them is escaped."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from html import escape

import numpy as np

__all__ = ["Line", "Mark", "line_plot", "plane_plot", "short"]

WIDTH, HEIGHT = 480, 270
LEFT, RIGHT, TOP, BOTTOM = 58, 12, 14, 34  # margins of the axes
MOST = 300  # points of a line that are drawn
COLORS = 8  # of the style, named s0 to s7
TICKS = 5


@dataclass(frozen=True)
class Line:
    """A named line.

    Args:
        name: for the legend.
        x, y: its points, of one length; those that are not finite are left out.
        half: half of the width of a band around it, as long; None for no band.
        faint: whether it stands in the background, as values do whose mean is another line.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    half: Sequence[float] | None = None
    faint: bool = False


@dataclass(frozen=True)
class Mark:
    """A vertical line at ``x`` with a name, such as an alarm; ``link`` is where a click leads in the page."""

    x: float
    name: str
    link: str = ""


def short(value: float) -> str:
    """Returns a number with four digits at most, or with an exponent."""
    return f"{value:.4g}"


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers between two ends."""
    raw = (high - low) / TICKS
    size = 10.0 ** math.floor(math.log10(raw))
    step = next(size * factor for factor in (1, 2, 5, 10) if size * factor >= raw)
    first = math.ceil(low / step)
    return [round(i * step, 12) for i in range(first, math.floor(high / step) + 1)]


def _limits(values: Sequence[float], *, clipped: bool) -> tuple[float, float]:
    """The ends of an axis; of many values the outermost hundredth may lie outside."""
    x = np.asarray(values, np.float64)
    low, high = (float(v) for v in (np.quantile(x, [0.01, 0.99]) if clipped and len(x) > 100 else (x.min(), x.max())))
    pad = 0.05 * (high - low) or max(abs(high), 1.0) * 0.05
    return low - pad, high + pad


def _thinned(line: Line) -> Line | None:
    """The line with its finite points, at most ``MOST`` of them; None if there are none."""
    x, y = (np.asarray(values, np.float64) for values in (line.x, line.y))
    half = np.zeros_like(y) if line.half is None else np.asarray(line.half, np.float64)
    fine = np.flatnonzero(np.isfinite(x) & np.isfinite(y) & np.isfinite(half))
    if not len(fine):
        return None
    chosen = fine[np.unique(np.linspace(0, len(fine) - 1, min(len(fine), MOST)).round().astype(int))]
    band = None if line.half is None else half[chosen].tolist()
    return replace(line, x=x[chosen].tolist(), y=y[chosen].tolist(), half=band)


@dataclass(frozen=True)
class _Axes:
    """Maps numbers to the drawing."""

    x: tuple[float, float]
    y: tuple[float, float]
    height: int = HEIGHT
    log: bool = False  # whether numbers are powers of ten

    def at(self, x: float, y: float) -> str:
        return f"{self.across(x):.1f} {self.down(y):.1f}"

    def across(self, x: float) -> float:
        return LEFT + (x - self.x[0]) / (self.x[1] - self.x[0]) * (WIDTH - LEFT - RIGHT)

    def down(self, y: float) -> float:
        share = (min(max(y, self.y[0]), self.y[1]) - self.y[0]) / (self.y[1] - self.y[0])
        return self.height - BOTTOM - share * (self.height - TOP - BOTTOM)

    def _text(self, value: float) -> str:
        return f"{float(f'{10**value:.2g}'):g}" if self.log else short(value)

    def frame(self, x_label: str) -> list[str]:
        """Grid, numbers and the name of the horizontal axis."""
        bottom = self.height - BOTTOM
        parts = []
        for value in _ticks(*self.x):
            at = f"{self.across(value):.1f}"
            parts.append(
                f'<path class="grid" d="M{at} {TOP}V{bottom}"/><text class="x" x="{at}" y="{bottom + 15}">{self._text(value)}</text>'
            )
        for value in _ticks(*self.y):
            at = f"{self.down(value):.1f}"
            parts.append(f'<path class="grid" d="M{LEFT} {at}H{WIDTH - RIGHT}"/>')
            parts.append(f'<text class="y" x="{LEFT - 6}" y="{at}">{self._text(value)}</text>')
        parts.append(f'<text class="x" x="{(LEFT + WIDTH - RIGHT) / 2:g}" y="{self.height - 3}">{escape(x_label)}</text>')
        return parts


def _figure(title: str, parts: Sequence[str], legend: Sequence[tuple[int, str]], height: int, data: str = "") -> str:
    """A figure with a title, a button that saves the drawing, and a legend."""
    names = "".join(f'<span><i class="k{i % COLORS}"></i>{escape(name)}</span>' for i, name in legend)
    return (
        f'<figure class="plot"><figcaption><b>{escape(title)}</b><button type="button" class="save">Save SVG</button></figcaption>'
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(title)}"{data}>'
        f'{"".join(parts)}</svg><div class="legend">{names}</div></figure>'
    )


def _logs(values: Sequence[float]) -> list[float]:
    return [math.log10(value) if value > 0 else math.nan for value in values]


def line_plot(title: str, lines: Sequence[Line], marks: Sequence[Mark] = (), x_label: str = "step", *, log: bool = False) -> str:
    """Returns lines over a common axis as HTML; nothing where no line has a finite point.

    Args:
        marks: vertical lines; of each name and place one is drawn.
        log: whether both axes are logarithmic; then numbers that are not positive are left out, and lines have no bands.
    """
    lines = [replace(line, x=_logs(line.x), y=_logs(line.y)) for line in lines] if log else lines
    names = list(dict.fromkeys(line.name for line in lines))
    drawn = [(names.index(line.name), thin) for line in lines if (thin := _thinned(line)) is not None]
    if not drawn:
        return ""
    xs = [x for _, line in drawn for x in line.x]
    ys = [y for _, line in drawn for y in line.y]
    low, high = _limits(xs, clipped=False) if log else (min(xs), max(xs))
    axes = _Axes((low, high if high > low else low + 1), _limits(ys, clipped=True), log=log)
    parts = axes.frame(x_label)
    for i, line in drawn:
        if line.half is not None:
            band = list(zip(line.x, line.y, line.half, strict=True))
            edge = [axes.at(x, y + h) for x, y, h in band] + [axes.at(x, y - h) for x, y, h in reversed(band)]
            parts.append(f'<path class="band f{i % COLORS}" d="M{"L".join(edge)}Z"/>')
    for mark in {(mark.x, mark.name): mark for mark in marks if low <= mark.x <= high}.values():
        at = f"{axes.across(mark.x):.1f}"
        rule = f'<path class="mark" d="M{at} {TOP}V{HEIGHT - BOTTOM}"><title>{escape(mark.name)} at {short(mark.x)}</title></path>'
        parts.append(f'<a href="{escape(mark.link)}">{rule}</a>' if mark.link else rule)
    for i, line in drawn:
        points = [axes.at(x, y) for x, y in zip(line.x, line.y, strict=True)]
        kind, end = ("dot", "h0") if len(points) == 1 else ("faint" if line.faint else "line", "")
        parts.append(f'<path class="{kind} s{i % COLORS}" d="M{"L".join(points)}{end}"/>')
    clear = [(i, line) for i, line in drawn if not line.faint]
    values = [{"name": line.name, "x": line.x, "y": [float(short(10**y if log else y)) for y in line.y]} for _, line in clear]
    data = {
        "x": axes.x,
        "left": LEFT,
        "right": WIDTH - RIGHT,
        "top": TOP,
        "bottom": HEIGHT - BOTTOM,
        "label": x_label,
        "log": log,
        "lines": values,
    }
    return _figure(title, parts, [(i, line.name) for i, line in clear], HEIGHT, f' data-plot="{escape(json.dumps(data))}"')


def plane_plot(
    title: str, points: Sequence[tuple[str, np.ndarray]], paths: Sequence[np.ndarray] = (), *, within: np.ndarray | None = None
) -> str:
    """Returns points of the plane, and paths through it, as HTML.

    Args:
        points: names and arrays ``(n, 2)``.
        paths: arrays ``(steps, 2)``.
        within: points ``(n, 2)`` that the axes show in any case, so that several plots have the same axes.
    """
    shown = [(name, xy[np.isfinite(xy).all(1)]) for name, xy in points]
    shown = [(name, xy) for name, xy in shown if len(xy)]
    paths = [path for path in paths if np.isfinite(path).all() and len(path)]
    if not shown and not paths:
        return ""
    everything = np.concatenate([*(xy for _, xy in shown), *paths, *([] if within is None else [within[np.isfinite(within).all(1)]])])
    height = WIDTH - LEFT - RIGHT + TOP + BOTTOM  # square axes
    (left, right), (low, high) = (_limits(everything[:, i].tolist(), clipped=False) for i in (0, 1))
    side = max(right - left, high - low) / 2
    x, y = ((a + b) / 2 for a, b in ((left, right), (low, high)))
    axes = _Axes((x - side, x + side), (y - side, y + side), height)
    parts = axes.frame("")
    parts += [f'<path class="way" d="M{"L".join(axes.at(*xy) for xy in path.tolist())}"/>' for path in paths]
    for i, (_, xy) in enumerate(shown):
        parts.append(f'<path class="dots s{i % COLORS}" d="M{"h0M".join(axes.at(*p) for p in xy.tolist())}h0"/>')
    return _figure(title, parts, [(i, name) for i, (name, _) in enumerate(shown)], height)
