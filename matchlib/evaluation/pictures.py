"""Pictures of samples, in data units."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from matchlib.data.dataset import Dataset
from matchlib.io import write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.backends.backend_agg import FigureCanvasAgg

__all__ = ["draw", "draw_samples", "drawn", "mosaic"]

COUNT = 64  # events shown as images or lines
COLUMNS = 4  # panels in one row
POINTS = 2000  # events shown as points


def mosaic(images: np.ndarray, limits: tuple[float, float]) -> np.ndarray:
    """Tiles images ``(n, channels, height, width)`` into one ``(height, width, 3)`` array of values in [0, 1]."""
    low, high = limits
    x = np.clip((images - low) / (high - low), 0, 1).transpose(0, 2, 3, 1)
    x = np.repeat(x, 3, -1) if x.shape[-1] == 1 else x[..., :3]
    side = int(np.ceil(np.sqrt(len(x))))
    padded = np.pad(x, ((0, side * side - len(x)), (1, 1), (1, 1), (0, 0)), constant_values=1.0)
    _, h, w, c = padded.shape
    rows = -(-len(x) // side)
    return padded.reshape(side, side, h, w, c).transpose(0, 2, 1, 3, 4).reshape(side * h, side * w, c)[: rows * h]


def _panel(axes: Axes, x: np.ndarray, limits: tuple[float, float], count: int) -> None:
    """Draws events of whatever shape: images as a mosaic, points of the plane as points, numbers as a histogram, all else as lines."""
    if x.ndim == 4 and x.shape[1] in (1, 3, 4):
        axes.imshow(mosaic(x[:count], limits), interpolation="nearest")
        axes.axis("off")
    elif x[0].size == 2:
        points = x[:POINTS].reshape(-1, 2)
        axes.scatter(points[:, 0], points[:, 1], s=2, linewidths=0)
        axes.set_aspect("equal")
    elif x[0].size == 1:
        axes.hist(x[:POINTS].flatten(), bins=50)
    else:
        axes.plot(x[:count].reshape(len(x[:count]), -1).T, linewidth=0.5)
        axes.set_xlabel("entry")


def _canvas(panels: Mapping[str, Any], limits: tuple[float, float], count: int = COUNT) -> FigureCanvasAgg:
    """Panels side by side, each ``(n, *event)`` in data units, under their names."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # imported here: drawing is rare and matplotlib slow to load
    from matplotlib.figure import Figure

    columns = len(panels) if len(panels) <= COLUMNS else COLUMNS - 1
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(4 * columns, 4.3 * rows), layout="constrained")
    canvas = FigureCanvasAgg(figure)
    for i, (name, x) in enumerate(panels.items()):
        axes = figure.add_subplot(rows, columns, i + 1)
        axes.set_title(name)
        _panel(axes, np.asarray(x), limits, count)
    return canvas


def draw_samples(path: Path, panels: Mapping[str, Any], limits: tuple[float, float], count: int = COUNT) -> None:
    """Writes panels side by side, each ``(n, *event)`` in data units, under their names.

    Args:
        count: images or lines in a panel, at most.
    """
    canvas = _canvas(panels, limits, count)
    write_atomically(path, lambda temporary: canvas.print_png(str(temporary)))


def drawn(panels: Mapping[str, Any], limits: tuple[float, float]) -> np.ndarray:
    """Returns the picture that ``draw_samples`` writes, as numbers: ``(height, width, 3)`` of uint8."""
    canvas = _canvas(panels, limits)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def draw(path: Path, dataset: Dataset, samples: Mapping[str, Tensor]) -> None:
    """Writes held-out data and samples (model units) side by side; paired data show their sources first."""
    held_out = dataset.held_out
    shown = {} if held_out.source is None else {"source": held_out.source}
    shown |= {"held-out data": held_out.data, **samples}
    few = {name: x if dataset.codec is None else x[:COUNT] for name, x in shown.items()}
    draw_samples(path, {name: dataset.decode(x.cpu()).numpy() for name, x in few.items()}, dataset.shown_limits)
