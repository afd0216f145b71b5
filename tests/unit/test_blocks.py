"""Samples as blocks of colour in a terminal."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.text import Text

from matchlib.io import write_tensors
from matchlib.runs.exhibit import EXHIBIT
from matchlib_cli.blocks import ACROSS, Blocks, blocks

BLACK, WHITE = (0, 0, 0), (255, 255, 255)


def colours(text: Text) -> list[list[tuple[tuple[int, ...], tuple[int, ...]]]]:
    """The upper and the lower colour of every character, line by line."""
    result: list[list[tuple[tuple[int, ...], tuple[int, ...]]]] = [[]]
    for span in text.spans:
        style = span.style
        assert not isinstance(style, str)
        pair = tuple(tuple(color.triplet) for color in (style.color, style.bgcolor) if color is not None and color.triplet is not None)
        if len(result[-1]) == len(text.plain.splitlines()[0]):
            result.append([])
        result[-1].append((pair[0], pair[1]))
    return result


def test_a_character_holds_two_pixels_one_above_the_other() -> None:
    """Five rows and four columns, white but for the second row: the frame around them is black."""
    image = np.full((1, 1, 5, 4), 3.0)
    image[:, :, 1] = -1.0
    text = blocks(image, (-1.0, 3.0), 80)
    assert text is not None
    lines = colours(text)
    assert [line[:5] for line in lines] == [
        [(WHITE, BLACK)] * 4 + [(BLACK, BLACK)],
        [(WHITE, WHITE)] * 4 + [(BLACK, BLACK)],
        [(WHITE, BLACK)] * 4 + [(BLACK, BLACK)],
    ]
    assert all(pair == (BLACK, BLACK) for line in lines for pair in line[5:])


@pytest.mark.parametrize("shape", [(16, 3, 28, 28), (5, 1, 8, 8), (20, 1, 300, 200)])
@pytest.mark.parametrize("width", [40, 80, 200])
def test_blocks_fit_into_the_terminal(shape: tuple[int, ...], width: int) -> None:
    text = blocks(np.random.default_rng(0).random(shape), (0.0, 1.0), width)
    assert text is not None
    assert {len(line) for line in text.plain.splitlines()} == {len(text.plain.splitlines()[0])}
    assert len(text.plain.splitlines()[0]) <= width


@pytest.mark.parametrize("images", [np.zeros((4, 2)), np.zeros((0, 1, 8, 8)), np.zeros((4, 7, 8, 8))])
def test_what_is_no_image_has_no_blocks(images: np.ndarray) -> None:
    assert blocks(images, (0.0, 1.0), 80) is None
    assert blocks(np.zeros((4, 1, 8, 8)), (0.0, 1.0), 4 * ACROSS) is None


def test_blocks_of_a_run_are_of_its_latest_samples(tmp_path: Path) -> None:
    shown = Blocks(tmp_path)
    assert shown.text(80) is None
    for kind, value in (("teacher", 0.0), ("student", 1.0)):
        about = {"about": json.dumps({"limits": [0.0, 1.0]})}
        write_tensors(tmp_path / EXHIBIT, {kind: torch.full((16, 1, 8, 8), value)}, about)
        text = shown.text(80)
        assert text is not None
        assert colours(text)[0][0] == ((WHITE, WHITE) if value else (BLACK, BLACK))
    write_tensors(tmp_path / EXHIBIT, {"student": torch.ones(4, 1, 8, 8)}, {"about": json.dumps({"limits": [[], None]})})
    assert shown.text(80) is None
