"""Every snippet and command of the documents is executed."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
NUMBER = re.compile(r"\d+(?:[.,]\d+)*|\.\d+")
LONG = re.compile(r"(?<=range\()\d{3,}(?=\))")  # loops that a page trains with
SHORT = {"teacher.training.steps": 3, "trainer.steps": 4, "evaluation.draws": 2}
WHOLE = ("own-loop.md",)  # pages that compare trainings with each other: of their runs the scoring alone is shortened
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
    """Snippets run as they stand, but for fewer steps, points in the plane, samples that the doctor looks at, and cases of a law."""
    from matchlib.evaluation.probe import Probe
    from matchlib.runs import api
    from matchlib.testing import law

    def shortened(command: str, *, options: dict, settings: dict | None = None, **layers: object) -> object:
        if page.name in WHOLE:
            scored_little = {"evaluation.draws": 1, "evaluation.metrics": ("frechet-raw",)}
            return resolve(command, options=options, settings={**(settings or {}), **scored_little}, **layers)
        few: dict = {"data.samples": 500} if options["data.name"] == "moons" else {}
        if options["data.name"] != "digits-restore":  # pairs are scored on all their sources
            few["evaluation.samples"] = 60
        if options["teacher.name"].startswith("python:"):
            few["teacher.sampler"] = {"name": "ode", "method": "euler", "steps": 2}
        return resolve(command, options=options, settings={**(settings or {}), **SHORT, **few}, **layers)

    def few_cases(**given: object) -> object:
        return settings(**{**given, "max_examples": 1})

    resolve, settings = api.resolve, law.settings
    monkeypatch.setattr(api, "resolve", shortened)
    monkeypatch.setattr(law, "settings", few_cases)
    monkeypatch.setitem(Probe.__init__.__kwdefaults__, "samples", 32)
    monkeypatch.chdir(tmp_path)
    module = ModuleType("snippet")  # dataclasses look their module up
    monkeypatch.setitem(sys.modules, "snippet", module)
    for body in blocks(page, "python"):
        exec(compile(LONG.sub("2", body), str(page), "exec"), module.__dict__)


@pytest.mark.parametrize("page", pages_with("console"))
def test_commands_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli: Callable) -> None:
    """Each ``$ matchlib`` line exits with 0; runs are shortened, everything else is word for word."""
    monkeypatch.chdir(tmp_path)
    scope: dict = {"__name__": "snippet"}
    for body in blocks(page, "python"):
        if page.name == "own-images.md":  # what it makes in Python is what its commands are given
            exec(compile(LONG.sub("400", body), str(page), "exec"), scope)
        elif "np.savez" in body or "image.save(" in body or ".save(folder" in body:
            exec(compile(body, str(page), "exec"), scope)
    for body in blocks(page, "console"):
        for line in body.splitlines():
            words = shlex.split(line.removeprefix("$ "), comments=True)
            if words[:1] == ["make"]:
                assert f"\n{words[1]}:" in (ROOT / "Makefile").read_text()
                continue
            if words[:1] == ["python"]:
                subprocess.run([sys.executable, *words[1:]], check=True, capture_output=True)
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


def test_the_readme_is_short() -> None:
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 120
    assert len(text.split()) <= 700
    assert len(NUMBER.findall(text)) <= 40


def rounded(value: float) -> str:
    """As results are written: three digits, no zero before the point."""
    short = float(f"{value:.3g}")
    return f"{short:g}".removeprefix("0").ljust(4, "0") if short < 1 else f"{short:g}"


def test_results_of_one_setting_at_a_time_are_those_of_the_benchmarks() -> None:
    results, text = ROOT / "benchmarks" / "results", (ROOT / "docs" / "results" / "index.md").read_text()
    for rule in ("critic", "rates", "batch", "average", "start"):
        rows = json.loads((results / f"rule-{rule}.json").read_text())["rows"]
        for name in {row["cells"] for row in rows}:
            of_name = [row for row in rows if row["cells"] == name]
            ratios = (
                ", ".join(rounded(row["student"][key] / row["teacher"][key]) for row in of_name) for key in ("frechet", "frechet_raw")
            )
            values = ", ".join(f"**{row['value']:.3g}**" if row["default"] else f"{row['value']:.3g}" for row in of_name)
            assert f"{values} | {name} | {' | '.join(ratios)} |" in text, name


def test_results_of_every_family_are_those_of_the_benchmarks() -> None:
    results, text = ROOT / "benchmarks" / "results", (ROOT / "docs" / "results" / "index.md").read_text()
    tables = [json.loads((results / f"matrix-labels-{labels}.json").read_text())["rows"] for labels in ("true", "false")]
    for family in {row["family"] for row in tables[0]}:
        of_family = [sorted((row["steps"], row["student_over_teacher"]) for row in rows if row["family"] == family) for rows in tables]
        assert f"| {family} | {' | '.join(', '.join(rounded(ratio) for _, ratio in each) for each in of_family)} |" in text, family


def test_results_of_weak_teachers_are_those_of_the_benchmarks() -> None:
    rows = json.loads((ROOT / "benchmarks" / "results" / "correction.json").read_text())["rows"]
    text = (ROOT / "docs" / "results" / "index.md").read_text()
    for kind in {row["kind"] for row in rows}:
        (line,) = re.findall(rf"^\| {kind} \|.*", text, re.MULTILINE)
        for arm, column in (("uid", 3), ("default", 4), ("correct", 5)):
            found = [row for row in rows if (row["kind"], row["arm"]) == (kind, arm)]
            mean = sum(row["student"]["frechet"] for row in found) / len(found) if found else None
            cell = line.split("|")[column].strip()
            assert cell.startswith(f"{rounded(mean)} &pm; ") if mean is not None else cell == "", (kind, arm)
    assert f"held-out data {rounded(rows[0]['held_out']['frechet'])}" in text


@pytest.mark.parametrize("page", ["README.md", "docs/results/index.md"])
def test_results_are_those_of_the_benchmarks(page: str) -> None:
    results = ROOT / "benchmarks" / "results"
    names = ("demo", "gpu-mnist", "gpu-step", "step", "budget-mnist-30m", "defaults", "restoration")
    demo, mnist, step, step_on_cpu, budget, defaults, pairs = (json.loads((results / f"{name}.json").read_text()) for name in names)
    text = (ROOT / page).read_text()
    for score in ("frechet", "frechet_raw"):
        assert f"| {rounded(demo['teacher'][score])} ({demo['teacher']['nfe']}) | {rounded(demo['student'][score])} |" in text
    students = {(row["loss"], row["mean"]): rounded(row["frechet"]) for row in mnist["students"]}
    teacher = f"{rounded(mnist['teacher']['frechet'])} ({mnist['teacher']['nfe']})"
    assert f"| {teacher} | {students['realuid', 1.7]} |" in text
    restored = next(row for row in pairs["rows"] if row["data"] == "mnist")
    assert (
        f"| {rounded(restored['teacher']['frechet'])} ({restored['teacher']['nfe']}) | {rounded(restored['student']['frechet'])} |" in text
    )
    of = {row["kind"]: row for row in budget["rows"]}
    assert f"| {rounded(of['teacher']['frechet'])} ({of['teacher']['nfe']}) | {rounded(of['student']['frechet'])} |" in text
    if page == "README.md":
        return
    assert f"held-out data {rounded(of['held_out']['frechet'])}" in text
    assert f"{budget['chosen']['teacher steps']:,} steps of the teacher and {budget['chosen']['student steps']:,}" in text
    assert f"held-out data {rounded(demo['held_out']['frechet'])}" in text
    cells = {(row["cell"], row["arm"]): row for row in defaults["rows"]}
    for cell in {cell for cell, _ in cells}:
        rules, fixed = cells[cell, "rules"], cells[cell, "fixed"]
        numbers = (rules["teacher"], rules["student"], fixed["student"], rules["held_out"])
        assert f"| {' | '.join(rounded(row['frechet']) for row in numbers)} |" in text, cell
    for cell in ("mnist-flow-labelled", "mnist-flow-unlabelled"):
        student, teacher = (rounded(cells[cell, "rules"][kind]["frechet_raw"]) for kind in ("student", "teacher"))
        assert f"{student} against {teacher} with" in text, cell
    for row in json.loads((results / "times.json").read_text())["rows"]:
        assert f" | {rounded(row['ratio'])} | {rounded(row['ratio_raw'])} |" in text
    for row in json.loads((results / "teachers.json").read_text())["rows"]:
        assert f"({row['teacher']['nfe']}) | {rounded(row['over held-out'])} |" in text
    rows = json.loads((results / "students.json").read_text())["rows"]
    for row in rows:
        assert f" {rounded(row['student']['frechet'])} |" in text, row["teacher of"]
        if row["evaluations"] == 1:
            assert f"| {rounded(row['teacher']['frechet'])} ({row['teacher']['nfe']}) | {rounded(row['student']['frechet'])} |" in text
    rows = json.loads((results / "plane.json").read_text())["rows"]
    for name, arm in {(row["set"], row["arm"]) for row in rows}:
        found = [row["student"]["w2"] for row in rows if (row["set"], row["arm"]) == (name, arm)]
        assert f" {rounded(sum(found) / len(found))} &pm; " in text, (name, arm)
    for mean in (1.7, 0.5):
        assert f"| {students['realuid', mean]} | {students['uid', mean]} |" in text
    for row in step["rows"] + step_on_cpu["rows"]:
        ratios = " | ".join(f"{row[f'matchlib / {other}']['median']:.2f}" for other in ("plain", "by hand"))
        assert f"| {row['batch']} | {row['ms']['matchlib']:.0f} | {ratios} |" in text


def test_numbers_of_restoration_pipelines_and_serving_are_those_of_the_benchmarks() -> None:
    rows = {
        name: json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text())["rows"]
        for name in ("mnist-diffusers", "serving", "restoration", "budget-cifar-25m")
    }
    results = " ".join((ROOT / "docs" / "results" / "index.md").read_text().split())
    clusters, labelled = ([row for row in rows["mnist-diffusers"] if row["features"].startswith(kind)] for kind in ("clusters", "of a"))
    student, teacher, held_out = (rounded(row["frechet"]) for row in labelled)
    assert f"are {student} for the student, {teacher} for diffusers' own DDIM of 50 steps, and {held_out} for held-out data" in results
    student, teacher, held_out = (rounded(row["speckle"]) for row in labelled)
    assert f"strokes {student} are brighter than a tenth; {teacher} of the pipeline's own and {held_out} of the data's" in results
    assert f"{rounded(clusters[0]['frechet'])} against {rounded(clusters[1]['frechet'])}" in results
    student, teacher, held_out = (rounded(row["frechet"]) for row in rows["budget-cifar-25m"])
    assert f"| {teacher} (50) | {student} | Frechet distance of features; held-out data {held_out} |" in results
    mnist = next(row for row in rows["restoration"] if row["data"] == "mnist")
    assert f"PSNR {mnist['teacher']['psnr']:.1f} of the teacher and {mnist['student']['psnr']:.1f} of the student" in results
    page = (ROOT / "docs" / "guides" / "export.md").read_text()
    for form in {row["form"] for row in rows["serving"]}:
        times = [f"{row['ms']:.2f}" if row["ms"] < 10 else f"{row['ms']:.0f}" for row in rows["serving"] if row["form"] == form]
        assert f" | {' | '.join(times)} |" in page, form


def test_alarms_have_their_limits_on_the_page() -> None:
    from matchlib.training.alarms import GUIDE, Limits

    text, limits = (ROOT / "docs" / "guides" / "alarms.md").read_text(), Limits()
    sections = dict(re.findall(r"^### ([\w-]+)\n(.*?)(?=^#|^`critic`)", text, re.MULTILINE | re.DOTALL))
    assert sections.keys() == GUIDE.keys()
    for name, entry in GUIDE.items():
        said = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", sections[name]).replace("`", "")
        for words in (entry.symptom, entry.reading, entry.cause, entry.cure):
            assert words in said, (name, words)
    assert f"`teacher_error` above {limits.teacher_error:g}" in text
    assert f"`std_ratio` above {limits.std_ratio[1]:g}, or `saturation` above {limits.saturation:g}" in text
    assert f"`std_ratio` below {limits.std_ratio[0]:g}, or `nn_distance_ratio` below {limits.nn_distance_ratio:g}" in text
    assert f"`critic_grad_cosine` above {limits.critic_grad_cosine:g}" in text
    assert f"`class_shares` above {limits.class_shares:g}" in text
    assert f"`label_error` above {limits.label_error:g}" in text
    assert "`sample_change` below 1e-6" in text
    assert limits.sample_change == 1e-6


def test_the_laws_that_the_page_names_exist() -> None:
    from matchlib.testing.law import LAWS, cases

    list(cases())
    text = (ROOT / "docs" / "concepts" / "laws.md").read_text()
    table = text[text.index("| identity") : text.index("## Can they fail")]
    assert set(re.findall(r"`(\w+)`", table)) <= set(LAWS)
