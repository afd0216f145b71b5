"""Every snippet and command of the documents is executed."""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
QUICK = [
    "--set", "teacher.network={name: mlp, width: 8, depth: 1}", "--set", "teacher.training.steps=3", "--set", "trainer.steps=4",
    "--set", "evaluation={draws: 1, metrics: [frechet-raw]}",
]  # fmt: skip


def pages_with(language: str) -> list:
    return [
        pytest.param(page, id=str(page.relative_to(ROOT)))
        for page in PAGES
        if any(lang == language for lang, _ in FENCE.findall(page.read_text()))
    ]


def blocks(page: Path, language: str) -> list[str]:
    return [body for lang, body in FENCE.findall(page.read_text()) if lang == language]


@pytest.fixture
def clean_registries() -> object:
    """Plugins that a page registers are forgotten after it."""
    from matchlib.registry import ALL

    before = {name: set(registry) for name, registry in ALL.items()}
    yield
    for name, registry in ALL.items():
        for plugin in set(registry) - before[name]:
            registry.unregister(plugin)


@pytest.mark.parametrize("page", pages_with("python"))
def test_snippets_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clean_registries: object) -> None:
    monkeypatch.chdir(tmp_path)
    module = ModuleType("snippet")  # dataclasses look their module up
    monkeypatch.setitem(sys.modules, "snippet", module)
    for body in blocks(page, "python"):
        exec(compile(body, str(page), "exec"), module.__dict__)


@pytest.mark.parametrize("page", pages_with("console"))
def test_commands_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli: Callable) -> None:
    """Each ``$ matchlib`` line exits with 0; runs are shortened, everything else is word for word."""
    monkeypatch.chdir(tmp_path)
    scope: dict = {"__name__": "snippet"}
    for body in blocks(page, "python"):
        if "np.savez" in body:
            exec(compile(body, str(page), "exec"), scope)
    for body in blocks(page, "console"):
        for line in body.splitlines():
            words = shlex.split(line.removeprefix("$ "), comments=True)
            if words[:1] == ["make"]:
                assert f"\n{words[1]}:" in (ROOT / "Makefile").read_text()
                continue
            if words[:1] != ["matchlib"]:
                assert words[:1] in (["git"], ["cd"], ["."]), f"no test runs: {line}"
                continue
            shortened = [*words[1:], *QUICK] if words[1] in ("train", "distill") else words[1:]
            code, _, err = cli(*shortened)
            assert code == 0, (line, err)


def test_links_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
            if not target.startswith("http"):
                assert (page.parent / target).exists(), f"{page}: {target}"


def test_the_table_of_the_readme_is_that_of_the_benchmark() -> None:
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        from families import markdown
    finally:
        sys.path.pop(0)
    rows = json.loads((ROOT / "benchmarks" / "results" / "families.json").read_text())["rows"]
    assert markdown(rows) in (ROOT / "README.md").read_text()


def test_the_table_of_students_is_that_of_the_benchmark(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    matrix = importlib.import_module("matrix")
    rows = json.loads((ROOT / "benchmarks" / "results" / "matrix.json").read_text())["rows"]
    assert matrix.markdown(rows) in (ROOT / "README.md").read_text()


def test_the_audit_has_the_numbers_of_its_results() -> None:
    """docs/what-realuid-does.md stands as ``python benchmarks/claims/figures.py`` writes it."""
    spec = importlib.util.spec_from_file_location("figures", ROOT / "benchmarks" / "claims" / "figures.py")
    assert spec is not None
    assert spec.loader is not None
    figures = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(figures)
    text = figures.PAGE.read_text()
    assert figures.refreshed(text) == text


def test_the_laws_that_the_page_names_exist() -> None:
    from matchlib.testing.law import LAWS, cases

    list(cases())
    text = (ROOT / "docs" / "concepts" / "laws.md").read_text()
    table = text[text.index("| identity") : text.index("## Can they fail")]
    assert set(re.findall(r"`(\w+)`", table)) <= set(LAWS)


def test_every_mutant_is_noticed_or_explained_and_the_readme_counts_them() -> None:
    record = json.loads((ROOT / "benchmarks" / "results" / "mutants.json").read_text())
    rows = record["rows"]
    assert len(rows) >= 40
    assert all(row["noticed by"] or row["reason"] for row in rows)
    by_tests = [row for row in rows if all("[tests" in name for name in row["noticed by"])]
    assert f"{len(rows)} small mistakes, made one at a time: a law notices {len(rows) - len(by_tests)}" in (ROOT / "README.md").read_text()


def test_the_page_on_correction_has_the_numbers_of_its_results(monkeypatch: pytest.MonkeyPatch) -> None:
    """docs/correction.md stands as ``python benchmarks/correction/page.py`` writes it."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks" / "correction"))
    page = importlib.import_module("page")
    text = page.PAGE.read_text()
    assert page.filled(text, page.numbers()) == text


def test_the_page_on_speed_has_the_numbers_of_its_results(monkeypatch: pytest.MonkeyPatch) -> None:
    """docs/speed.md stands as ``python benchmarks/speed_page.py`` writes it."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    page = importlib.import_module("speed_page")
    text = page.PAGE.read_text()
    assert page.filled(text, page.numbers()) == text
