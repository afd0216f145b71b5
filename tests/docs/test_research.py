"""The research notes have the numbers of their results."""

from __future__ import annotations

import importlib
import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NOTES = sorted(set((ROOT / "docs" / "research").glob("*.md")) - {ROOT / "docs" / "research" / "index.md"})


@pytest.fixture(autouse=True)
def repository_on_the_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT))


def test_note_on_realuid_has_the_numbers_of_its_results() -> None:
    """docs/research/what-realuid-does.md stands as ``python -m benchmarks.studies.claims.figures`` writes it."""
    figures = importlib.import_module("benchmarks.studies.claims.figures")
    text = figures.PAGE.read_text()
    assert figures.refreshed(text) == text


def test_note_on_correction_has_the_numbers_of_its_results() -> None:
    """docs/research/correction.md stands as ``python -m benchmarks.studies.correction.page`` writes it."""
    page = importlib.import_module("benchmarks.studies.correction.page")
    text = page.PAGE.read_text()
    assert page.filled(text, page.numbers()) == text


@pytest.mark.parametrize("note", NOTES, ids=lambda note: note.stem)
def test_research_note_begins_with_its_date_and_an_abstract(note: Path) -> None:
    head = note.read_text().split("\n\n")[:3]
    assert head[0].startswith("# ")
    assert re.match(r"\*Research note of .*\d{4}\.", head[1])
    assert head[2].startswith("**Abstract.**")
    assert head[2].count("\n") < 10


def test_mutants_are_noticed_or_explained() -> None:
    rows = json.loads((ROOT / "benchmarks" / "results" / "mutants.json").read_text())["rows"]
    assert len(rows) >= 40
    assert all(row["noticed by"] or row["reason"] for row in rows)


def test_results_have_a_row_on_each_line() -> None:
    for path in (ROOT / "benchmarks").rglob("results/*.json"):
        assert len(path.read_text().splitlines()) < 500, path
