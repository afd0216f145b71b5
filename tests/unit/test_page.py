"""The page of a run: what it says, that it is made of files alone, and that nothing in a folder can get out of its quotes."""

from __future__ import annotations

import json
import logging
import re
import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from fixtures.runs import SMALL

import matchlib
from matchlib.data.dataset import Dataset
from matchlib.data.readers import load_dataset
from matchlib.errors import ArtifactError, Interrupted, SettingError
from matchlib.evaluation.pictures import drawn
from matchlib.fields.conditions import Conditioned, Conditions
from matchlib.io import read_tensors
from matchlib.runs import run as run_module
from matchlib.runs.api import start_run
from matchlib.runs.exhibit import Exhibit, exhibit
from matchlib.runs.page.curves import alarm_section, alarms_of
from matchlib.runs.page.document import _panel, write_page
from matchlib.runs.page.texts import typeset
from matchlib.runs.record import Record, thinned
from matchlib.runs.settings import resolve
from matchlib.training.alarms import ALARMS, GUIDE
from matchlib_cli.files import write_samples

pytestmark = pytest.mark.runs
HOSTILE = "</script><script>alert('x')</script><img src=x onerror=alert(1)>\"'&"


class Tags(HTMLParser):
    """Counts elements, and collects text and attributes."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.handlers: list[str] = []
        self.sources: list[str] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.handlers += [name for name, _ in attrs if name.startswith("on")]
        self.sources += [value or "" for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "flow"))


def test_run_writes_its_page(finished: Path) -> None:
    page = Tags((finished / "report.html").read_text())
    for words in ("onestep student of a flow teacher on digits; finished", "teacher, 50 evaluations", "student, 1 evaluation"):
        assert words in page.text
    for words in ("From the same sources", "Scores", "Gradient norms", "Time and memory", "Environment", "a = 1 - t, b = t, c = 0."):
        assert words in page.text
    assert "trainer.log_every" in page.text
    assert f"matchlib distill --config {finished / 'config.yaml'} --out FOLDER" in page.text
    assert page.tags.count("img") == 3


def test_page_fits_in_one_file_that_asks_for_nothing(finished: Path) -> None:
    page = Tags((finished / "report.html").read_text())
    assert (finished / "report.html").stat().st_size < 3_000_000
    assert all(source.startswith(("data:", "#")) for source in page.sources)
    assert "http-equiv" in (finished / "report.html").read_text()


def test_report_makes_the_page_again_from_files_alone(copied: Path, cli: Callable[..., tuple[int, str, str]]) -> None:
    """No weights are needed, nor the data."""
    for part in ("teacher", "student", "checkpoints"):
        shutil.rmtree(copied / part)
    (copied / "report.html").unlink()
    code, out, err = cli("report", copied)
    assert (code, out) == (0, f"wrote {copied / 'report.html'}\n"), err
    assert "onestep student of a flow teacher" in (copied / "report.html").read_text()


def test_exhibit_shows_teacher_and_student_from_the_same_sources(finished: Path) -> None:
    pipelines = {kind: matchlib.load(finished, kind) for kind in ("teacher", "student")}
    sources = pipelines["teacher"].sources(64, seed=0)
    assert torch.equal(sources.source, pipelines["student"].sources(64, seed=0).source)  # type: ignore[arg-type]
    shown = exhibit(pipelines, load_dataset("digits"), seed=0)
    saved = read_tensors(finished / "report.safetensors")[0]
    for kind, pipeline in pipelines.items():
        samples = pipeline.sample_batch(64, seed=0, source=sources.source, labels=sources.label).data
        assert torch.equal(shown[kind], pipeline.denormalize(samples))
        assert torch.allclose(saved[kind], shown[kind], atol=1e-4)


def test_exhibit_of_the_plane_has_trajectories_from_source_to_sample(tmp_path: Path) -> None:
    student = matchlib.distill("flow", "moons", steps=2, out=tmp_path / "run", settings=SMALL)
    tensors = read_tensors(tmp_path / "run" / "report.safetensors")[0]
    for kind, steps in (("teacher", 26), ("student", 2)):
        path = tensors[f"trajectory/{kind}"]
        assert len(path) == steps
        assert torch.allclose(student.denormalize(path[-1]), tensors[kind][: path.shape[1]], atol=1e-5)
    assert "Trajectories of the teacher" in (tmp_path / "run" / "report.html").read_text()


def test_page_of_a_hostile_folder_is_escaped(copied: Path) -> None:
    """Every text of a folder that a stranger may have written: none of it becomes an element, a handler or an address."""
    tree = yaml.safe_load((copied / "config.yaml").read_text())
    tree["teacher"] |= {"name": HOSTILE, HOSTILE: HOSTILE}
    tree["loss"], tree["data"]["name"], tree[HOSTILE] = {"name": HOSTILE, "a": HOSTILE}, HOSTILE, [HOSTILE]
    (copied / "config.yaml").write_text(yaml.safe_dump(tree))
    rows = [{"phase": HOSTILE, "step": i, f"loss/{HOSTILE}": i, f"monitor/{HOSTILE}": i, "alarms": [HOSTILE]} for i in (1, 2)]
    with (copied / "metrics.jsonl").open("a") as log:
        log.write("".join(f"{json.dumps(row)}\n" for row in rows))
    report = json.loads((copied / "evaluation.json").read_text())
    report["student"][HOSTILE], report["data"] = 1.0, HOSTILE
    (copied / "evaluation.json").write_text(json.dumps(report))
    before = Exhibit.read(copied)
    about = {key: {HOSTILE: HOSTILE} for key in ("machine", "versions", "seconds", "memory", "weights")}
    about["model"] = {"coupling": {"name": HOSTILE}}  # type: ignore[dict-item]
    Exhibit({**before.tensors, f"trajectory/{HOSTILE}": torch.zeros(2, 3, 2)}, {**before.about, **about}).write(copied)
    hostile = copied.rename(copied.parent / "<script>alert(2)<script>")
    plain = Tags((write_page([hostile])).read_text())
    again = Tags(write_page([hostile, hostile], copied.parent / "both.html").read_text())
    for page in (plain, again):
        assert page.tags.count("script") == 1
        assert not page.handlers
        assert all(source.startswith(("data:", "#")) for source in page.sources)
        assert "alert('x')" in page.text


@pytest.mark.parametrize("shape", [(3, 32, 32), (3, 64, 64), (3, 256, 256), (1, 600, 600), (200,)])
def test_page_stays_below_three_megabytes(copied: Path, shape: tuple[int, ...]) -> None:
    """Noise is the picture that compresses least."""
    n = max(4, min(64, 2**20 // torch.Size(shape).numel()))
    noise = {kind: torch.rand(n, *shape) for kind in ("source", "data", "teacher", "student")}
    Exhibit(noise, {"limits": [0.0, 1.0]}).write(copied)
    assert 10_000 < write_page([copied]).stat().st_size < 3_000_000


def test_page_of_an_older_run_shows_its_picture(copied: Path) -> None:
    (copied / "report.safetensors").unlink()
    assert Tags(write_page([copied]).read_text()).tags.count("img") == 1


@pytest.mark.parametrize("name", ["metrics.jsonl", "evaluation.json", "report.safetensors"])
def test_page_does_without_a_file_that_is_damaged_or_missing(copied: Path, name: str) -> None:
    (copied / name).write_bytes(b'\xff{"phase": 1}\n[' + b"[" * 5000)
    write_page([copied])
    (copied / name).unlink()
    assert "onestep student" in write_page([copied]).read_text()


def test_page_needs_a_run(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="there is no run at"):
        write_page([tmp_path])
    with pytest.raises(SettingError, match=r"must end in \.html"):
        write_page([tmp_path], tmp_path / "x.pdf")


def test_comparison_page_has_both_runs_and_what_differs(copied: Path, finished: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    copied.rename(other)
    text = (other / "config.yaml").read_text().replace("log_every: 4", "log_every: 5")
    (other / "config.yaml").write_text(text)
    page = Tags(write_page([finished, other], tmp_path / "both.html").read_text())
    for words in ("Comparison of 2 runs", "flow student", "other student", "Settings that differ", "trainer.log_every"):
        assert words in page.text
    assert "cannot be compared" not in page.text
    report = json.loads((other / "evaluation.json").read_text())
    (other / "evaluation.json").write_text(json.dumps({**report, "subset": 7}))
    assert "cannot be compared: subset" in Tags(write_page([finished, other], tmp_path / "both.html").read_text()).text


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({}, "config.yaml --out FOLDER</pre>"),
        ({"teacher": {"name": "/a/mine.py:teacher"}}, "--out FOLDER --trust</pre>"),
        ({"evaluation": {"extractor": "/a/network.pt"}}, "--out FOLDER --trust</pre>"),
        ({"teacher": {"name": "python:teacher"}}, "made in Python"),
    ],
)
def test_page_says_how_the_run_is_made_again(copied: Path, changed: dict[str, dict[str, str]], said: str) -> None:
    """With trust where the settings name code; in Python where no command can."""
    tree = yaml.safe_load((copied / "config.yaml").read_text())
    for group, values in changed.items():
        tree[group] |= values
    (copied / "config.yaml").write_text(yaml.safe_dump(tree))
    assert said in write_page([copied]).read_text()


def test_a_long_log_is_thinned_but_for_what_was_measured() -> None:
    """A page of a long run takes no more memory than one of a short one."""
    rows = [{"phase": "student", "step": i, **({"monitor/gap": 1.0} if i % 50 == 0 else {"loss/critic": 0.0})} for i in range(5000)]
    kept = thinned(rows, most=100)
    assert [row for row in kept if "monitor/gap" in row] == rows[::50]
    assert 100 <= sum("loss/critic" in row for row in kept) <= 200
    assert [row["step"] for row in kept] == sorted(row["step"] for row in kept)
    assert kept[-1]["step"] > 4800
    assert thinned(rows[:150], most=100) == rows[:150]


def test_alarms_of_a_log_are_those_that_are_new() -> None:
    rows: list[dict[str, Any]] = [{"phase": "student", "step": i, "monitor/gap": 1.0} for i in range(4)]
    for i, names in ((0, ["classes"]), (1, ["classes", "collapse"]), (3, ["classes"])):
        rows[i]["alarms"] = names
    rows.insert(1, {"phase": "student", "step": 0, "loss/critic": 1.0})  # measured nothing
    assert [(step, name) for step, name, _ in alarms_of(rows)] == [(0, "classes"), (1, "collapse"), (3, "classes")]


def test_alarm_section_says_what_was_measured_and_what_the_guide_says() -> None:
    row = {"phase": "student", "step": 30, "alarms": ["collapse"], "monitor/std_ratio": 0.123, "monitor/nn_distance_ratio": 0.1}
    text = alarm_section(Record(Path("run"), {}, [row]))
    assert 'id="alarm-collapse"' in text
    assert "step 30 of student: samples are too much alike (standard deviation 0.12" in text
    assert GUIDE["collapse"].cause in text
    assert "docs/guides/alarms.md#collapse" in text


def test_guide_has_an_entry_for_every_alarm() -> None:
    assert {alarm.name for alarm in ALARMS} < GUIDE.keys()


def test_typeset_escapes_and_writes_formulas() -> None:
    assert typeset("``alpha_t^2`` <b>") == "<code>α<sub>t</sub><sup>2</sup></code> &lt;b&gt;"
    assert typeset("c = scale sin^2(pi t)") == "c = scale sin<sup>2</sup>(π t)"


def test_run_that_is_interrupted_leaves_a_page_and_its_checkpoint(tmp_path: Path) -> None:
    stops = iter([False] * 4 + [True] * 99)
    options = {"data.name": "moons", "trainer.steps": 8, "out": str(tmp_path / "run")}
    settings = resolve("distill", options=options, settings={**SMALL, "trainer.log_every": 1})
    run = start_run(settings, should_stop=lambda: next(stops))
    with pytest.raises(Interrupted):
        run.execute()
    assert list((tmp_path / "run" / "checkpoints").glob("student-*"))
    assert re.search(r"student at step \d of 8", (tmp_path / "run" / "report.html").read_text())


def test_run_is_not_ended_by_a_page_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def broken(folders: object) -> None:
        raise RuntimeError("no page today")

    monkeypatch.setattr(run_module, "write_page", broken)
    with caplog.at_level(logging.WARNING, logger="matchlib"):
        matchlib.distill("flow", "moons", steps=2, out=tmp_path / "run", settings=SMALL)
    assert (tmp_path / "run" / "evaluation.json").exists()
    assert [r.getMessage() for r in caplog.records if "report.html" in r.getMessage()] == [
        f"{tmp_path / 'run' / 'report.html'} was not written: RuntimeError: no page today"
    ]


def test_a_page_of_data_far_from_zero_tells_points_apart(tmp_path: Path) -> None:
    """float32 has one number there for all of them."""
    data = Dataset.from_arrays("far", 1e8 + torch.randn(200, 2, generator=torch.Generator().manual_seed(0)).double().numpy())
    settings = {"teacher.network": {"name": "mlp", "width": 8, "depth": 1}, "evaluation.metrics": ("frechet-raw",), "evaluation.draws": 1}
    matchlib.train("flow", data, steps=1, out=tmp_path / "run", settings=settings)
    shown = Exhibit.read(tmp_path / "run").tensors
    for kind in ("data", "teacher"):
        assert shown[kind].unique().numel() > 30


def test_pictures_of_numbers_are_histograms() -> None:
    """A line of one point is nothing to see."""
    numbers = torch.randn(500, 1, generator=torch.Generator().manual_seed(0)).numpy()
    picture = drawn({"numbers": numbers}, (-3.0, 3.0)).astype(int)
    assert (np.ptp(picture, axis=-1) > 50).sum() > 2000  # coloured


def test_the_page_shows_numbers_as_a_histogram() -> None:
    numbers = np.repeat([0.0, 1.0, 1.0], 100)[:, None]
    svg = _panel("numbers", numbers, None)
    assert "value" in svg
    assert "200" in svg  # of the higher of two bars


def test_a_picture_of_samples_has_all_that_it_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[list[str], int]] = []
    monkeypatch.setattr("matchlib_cli.files.draw_samples", lambda path, panels, limits, count: seen.append((list(panels), count)))
    for n, shape in ((100, (1, 8, 8)), (1000, (1, 8, 8)), (1000, (2,))):
        write_samples(tmp_path / "x.png", np.zeros((n, *shape)), (0.0, 1.0), None)
    assert seen == [(["100 samples"], 400), (["400 of 1000 samples"], 400), (["1000 samples"], 400)]


def test_networks_of_several_conditions_are_traced_for_any_number_of_samples() -> None:
    conditions = Conditions({"text": (2, 3)})
    network = Conditioned(
        lambda state, time, text: state * time[:, None] + text.sum((1, 2))[:, None], conditions, {"text": torch.ones(2, 3)}
    )
    inputs = torch.zeros(3, 4), torch.ones(3), conditions.pack(text=torch.ones(3, 2, 3))
    shapes = tuple({0: torch.export.Dim.AUTO} for _ in inputs)
    assert torch.export.export(network, inputs, dynamic_shapes=(shapes[0], shapes[1], shapes[2]), strict=False).range_constraints
