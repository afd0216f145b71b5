"""Samples of a run as small blocks of colour, two pixels to a character."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from rich.color import Color
from rich.style import Style
from rich.text import Text

from matchlib.runs.exhibit import EXHIBIT, Exhibit

__all__ = ["Blocks", "blocks"]

SHOWN, ACROSS = 16, 8  # samples, and those in a row
SIDE = 16  # pixels of a sample, at most
LEAST = 4


def blocks(images: np.ndarray, limits: tuple[float, float], width: int) -> Text | None:
    """Returns images ``(n, channels, height, width)`` as text; None where they are no images or the terminal is too narrow.

    Args:
        limits: values that are black and white.
        width: of the terminal, in characters.
    """
    side = min(SIDE, width // ACROSS - 1)
    if images.ndim != 4 or images.shape[1] not in (1, 3) or side < LEAST or not len(images):
        return None
    rows, columns = (np.linspace(0, size - 1, min(size, side)).round().astype(int) for size in images.shape[2:])
    small = images[:SHOWN][:, :, rows[:, None], columns].transpose(0, 2, 3, 1)
    low, high = limits
    pixels = (np.clip((np.nan_to_num(small) - low) / (high - low), 0, 1) * 255).round().astype(int)
    framed = np.pad(np.broadcast_to(pixels, (*pixels.shape[:3], 3)), ((0, -len(pixels) % ACROSS), (0, 1), (0, 1), (0, 0)))
    lines = [np.concatenate(list(line), axis=1) for line in framed.reshape(-1, ACROSS, *framed.shape[1:])]
    colours = np.concatenate([*lines, np.zeros_like(lines[0][:1])])[: 2 * ((len(lines) * framed.shape[1] + 1) // 2)]
    text = Text(no_wrap=True, overflow="crop")
    for upper, lower in zip(colours[::2], colours[1::2], strict=True):
        for top, bottom in zip(upper.tolist(), lower.tolist(), strict=True):
            text.append("▀", Style(color=Color.from_rgb(*top), bgcolor=Color.from_rgb(*bottom)))
        text.append("\n")
    return text


class Blocks:
    """The latest samples that a run has written, read when they change.

    Args:
        folder: of the run.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self._seen, self._exhibit = folder, 0, Exhibit()

    def text(self, width: int) -> Text | None:
        """Returns samples of the student, or of the teacher until there is one; None where there are none to show."""
        try:
            changed = (self.folder / EXHIBIT).stat().st_mtime_ns
        except OSError:
            return None
        if changed != self._seen:
            self._seen, self._exhibit = changed, Exhibit.read(self.folder)
        tensors, limits = self._exhibit.tensors, self._exhibit.about.get("limits")
        samples = tensors.get("student", tensors.get("teacher"))
        if samples is None or not isinstance(limits, list) or len(limits) != 2:
            return None
        try:
            return blocks(samples.numpy(), (float(limits[0]), float(limits[1])), width)
        except (TypeError, ValueError, ZeroDivisionError):  # a stranger's file may hold anything
            return None
