"""Plots as SVG."""

from __future__ import annotations

import html
import json
import math
import re
from xml.etree import ElementTree

import numpy as np

from matchlib.evaluation.plots import Line, Mark, line_plot, plane_plot


def drawing(text: str) -> ElementTree.Element:
    """The drawing in a figure; it has to be XML, so that it can be saved."""
    found = re.search(r"<svg.*</svg>", text, re.DOTALL)
    assert found is not None
    return ElementTree.fromstring(found[0])


def paths(text: str, kind: str) -> list[str]:
    return [x.attrib["d"] for x in drawing(text).iter() if x.attrib.get("class", "").split()[:1] == [kind]]


def test_line_plot_draws_every_line_and_what_a_pointer_reads() -> None:
    text = line_plot("loss", [Line("a", [1, 2, 3], [0, 1, 0]), Line("b", [1, 3], [2, 2])])
    assert len(paths(text, "line")) == 2
    values = json.loads(html.unescape(drawing(text).attrib["data-plot"]))["lines"]
    assert [(line["name"], line["y"]) for line in values] == [("a", [0, 1, 0]), ("b", [2, 2])]


def test_line_plot_leaves_out_what_is_not_finite() -> None:
    (path,) = paths(line_plot("loss", [Line("a", [1, 2, 3], [0, math.nan, 1]), Line("b", [1], [math.inf])]), "line")
    assert path.count("L") == 1
    assert line_plot("nothing", [Line("a", [1], [math.nan])]) == ""


def test_line_plot_of_many_points_stays_small() -> None:
    x = list(range(100_000))
    assert len(line_plot("long", [Line("a", x, x)])) < 20_000


def test_line_plot_marks_alarms_where_they_rang() -> None:
    text = line_plot(
        "gap", [Line("gap", [0, 100], [1, 0])], [Mark(50, "collapse", "#alarm-collapse"), Mark(50, "collapse"), Mark(900, "late")]
    )
    assert len(paths(text, "mark")) == 1
    assert 'href="#alarm-collapse"' in line_plot("gap", [Line("gap", [0, 9], [1, 0])], [Mark(5, "collapse", "#alarm-collapse")])


def test_plots_escape_names() -> None:
    name = "<script>alert('x')</script>"
    for text in (
        line_plot(name, [Line(name, [0, 1], [0, 1])], [Mark(0.5, name, f'"{name}')], x_label=name),
        plane_plot(name, [(name, np.zeros((2, 2)))]),
    ):
        assert "<script" not in text
        drawing(text)


def test_plane_plot_has_equal_units_on_both_axes() -> None:
    text = plane_plot("square", [("a", np.array([[0, 0], [10, 0], [0, 1], [np.nan, 1]]))], [np.array([[0, 0], [10, 10]])])
    (dots,), (way,) = paths(text, "dots"), paths(text, "way")
    places = [[float(v) for v in part.split("h")[0].split()] for part in dots.removeprefix("M").split("M")]
    assert len(places) == 3
    (x0, y0), (x1, _), (_, y1) = places
    assert math.isclose((x1 - x0) / 10, y0 - y1, rel_tol=0.05)
    assert way.count("L") == 1


def test_line_plot_in_logarithms_has_plain_numbers_on_its_axes() -> None:
    """Ten and a hundred are as far apart as a hundred and a thousand; what a pointer reads is what was given."""
    svg = line_plot("a", [Line("b", [1, 10, 100], [0.1, 1.0, 10.0]), Line("c", [0, 10], [5.0, -1.0])], log=True)
    assert ">1</text>" in svg and ">10</text>" in svg and ">100</text>" in svg
    lines = json.loads(html.unescape(svg.split('data-plot="')[1].split('"')[0]))["lines"]
    assert [line["name"] for line in lines] == ["b"]  # the other has no point of two positive numbers
    assert lines[0]["y"] == [0.1, 1.0, 10.0]
