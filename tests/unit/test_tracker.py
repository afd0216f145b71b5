"""matchlib.training.tracker and matchlib.plugins.trackers: what trackers are shown, and that none of them can end a run."""

from __future__ import annotations

import json
import logging
import struct
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from fixtures.trainings import toy_trainer

import matchlib
from matchlib.errors import Interrupted, SettingError
from matchlib.training.tracker import TrackedPhase, Tracker, TrackerSession, Tracking, flat_settings, numbers

ROOT = Path(__file__).parents[2]
SMALL: dict[str, Any] = {
    "teacher.network": {"name": "mlp", "width": 8, "depth": 1},
    "teacher.training.steps": 4,
    "teacher.training.log_every": 2,
    "trainer.batch_size": 8,
    "trainer.log_every": 2,
    "trainer.monitor_every": 0,
    "trainer.checkpoint_every": 4,
    "evaluation.draws": 1,
    "evaluation.metrics": ("frechet-raw",),
}


@dataclass(frozen=True)
class Notebook(Tracker):
    """Remembers what it is shown.

    Args:
        fails: name of the method that raises.
    """

    package: ClassVar[str] = "json"
    extra: ClassVar[str] = "notebook"
    pages: ClassVar[list[tuple[Any, ...]]] = []
    fails: str = ""

    def open(self, phase: TrackedPhase) -> TrackerSession:
        return Session(self, phase)


class Session(TrackerSession):
    def __init__(self, tracker: Notebook, phase: TrackedPhase) -> None:
        self.tracker, self.phase, self.id = tracker, phase, phase.id or f"id of {phase.name}"
        self.write("open", phase.step, phase.id)

    def write(self, event: str, *values: Any) -> None:
        if event == self.tracker.fails:
            raise OSError("no space left\non device")
        self.tracker.pages.append((self.phase.phase, event, *values))

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        self.write("scalars", step, dict(values))

    def picture(self, name: str, image: np.ndarray, step: int) -> None:
        assert image.dtype == np.uint8
        assert image.shape[2] == 3
        self.write("picture", step, name)

    def text(self, name: str, text: str, step: int) -> None:
        self.write("text", step, name)

    def close(self) -> None:
        self.write("close")


@pytest.fixture
def pages() -> Iterator[list[tuple[Any, ...]]]:
    matchlib.trackers.register("notebook")(Notebook)
    Notebook.pages.clear()
    yield Notebook.pages
    matchlib.trackers.unregister("notebook")


@pytest.fixture
def warnings(caplog: pytest.LogCaptureFixture) -> Iterator[Callable[[], list[str]]]:
    with caplog.at_level(logging.WARNING, logger="matchlib"):
        yield lambda: [record.getMessage() for record in caplog.records if "tracker" in record.getMessage()]


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def numbers_of(folder: Path, phase: str) -> dict[tuple[str, int], float]:
    """Every number of a phase in ``metrics.jsonl``, by name and step."""
    chosen = [row for row in rows(folder) if row["phase"] == phase]
    return {(key, row["step"]): value for row in chosen for key, value in numbers(row) if key != "step"}


def both(name: str) -> dict[str, Any]:
    spec = ({"name": name},)
    return {"trainer.trackers": spec, "teacher.training.trackers": spec}


@pytest.mark.runs
def test_tracking_shows_the_names_and_numbers_of_the_log(tmp_path: Path, pages: list[tuple[Any, ...]]) -> None:
    run = tmp_path / "run"
    matchlib.distill("flow", "moons", steps=8, seed=11, out=run, settings={**SMALL, **both("notebook")})
    for phase in ("teacher", "student"):
        shown = {
            (key, page[2]): value
            for page in pages
            if page[:2] == (phase, "scalars")
            for key, value in page[3].items()
            if not key.startswith("evaluation/")
        }
        assert shown == numbers_of(run, phase)
    report = json.loads((run / "evaluation.json").read_text())
    scores = pages[-2][3]
    assert scores["evaluation/student/frechet_raw"] == report["student"]["frechet_raw"]
    assert scores["evaluation/held_out/frechet_raw"] == report["held_out"]["frechet_raw"]
    assert [page[1] for page in pages if page[0] == "teacher"][-1] == "close"  # before the student's begins
    assert [page[1] for page in pages][-3:] == ["picture", "scalars", "close"]


@pytest.mark.runs
def test_tracker_that_fails_costs_one_warning_and_not_the_run(
    tmp_path: Path, pages: list[tuple[Any, ...]], warnings: Callable[[], list[str]]
) -> None:
    settings = {**SMALL, "trainer.trackers": [{"name": "notebook", "fails": "scalars"}]}
    matchlib.distill("flow", "moons", steps=4, out=tmp_path / "run", settings=settings)
    assert (tmp_path / "run" / "evaluation.json").exists()
    assert warnings() == ["tracker notebook is left out from here on (OSError: no space left on device)"]
    assert [page[1] for page in pages] == ["open", "close"]


@pytest.mark.parametrize("fails", ["open", "scalars", "picture", "close"])
def test_tracking_warns_once_whatever_fails(tmp_path: Path, pages: list[tuple[Any, ...]], fails: str) -> None:
    warned: list[str] = []
    tracking = Tracking(Notebook(fails), "notebook", TrackedPhase(tmp_path, "toy", {}), warned.append)
    toy_trainer(None, tracking).fit()
    for _ in range(2):
        tracking.picture("samples", np.zeros((2, 2, 3), np.uint8))
    tracking.close()
    assert warned == ["tracker notebook is left out from here on (OSError: no space left on device)"]


def test_tracking_goes_on_where_a_restored_training_does(tmp_path: Path, pages: list[tuple[Any, ...]]) -> None:
    """The tracker hears from which step on its old numbers no longer count, and the name under which it knows the phase."""

    def tracked() -> Tracking:
        return Tracking(Notebook(), "notebook", TrackedPhase(tmp_path, "toy", {}), pytest.fail)

    first = tracked()
    with pytest.raises(Interrupted):
        toy_trainer(tmp_path, first, stop_at=9).fit()
    first.close()
    second = tracked()
    toy_trainer(tmp_path, second).fit()
    second.close()
    name = f"id of {tmp_path.name}-toy"
    assert [page[2:] for page in pages if page[1] == "open"] == [(0, ""), (9, name)]
    assert [page[2] for page in pages if page[1] == "scalars"] == [4, 8, 12, 16, 20]


def test_tracker_without_its_package_is_refused_before_anything_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("matchlib.training.tracker.find_spec", lambda name: None)
    for name in matchlib.trackers:
        with pytest.raises(SettingError, match=rf"trainer.trackers: tracker .* needs the package \w+.*matchlib-torch\[{name}\]"):
            matchlib.distill("flow", "moons", steps=2, out=tmp_path / "run", settings={**SMALL, "trainer.trackers": [name]})
    assert not (tmp_path / "run").exists()


def test_tracker_extras_are_those_of_the_package() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for name in matchlib.trackers:
        assert matchlib.trackers[name].extra in extras


def test_tracker_changes_no_digest() -> None:
    from matchlib.runs.build import settings_digest
    from matchlib.runs.settings import resolve

    plain, tracked = resolve("distill"), resolve("distill", settings={"trainer.trackers": ["tensorboard"]})
    assert settings_digest(plain, "student") == settings_digest(tracked, "student")
    assert tracked.trainer.trackers == ({"name": "tensorboard"},)


def test_numbers_are_flat_and_finite() -> None:
    assert dict(numbers({"a": {"b": 1, "c": float("nan"), "d": True}, "e": [1], "f": "x", "g": 2.5})) == {"a/b": 1.0, "g": 2.5}
    assert flat_settings({"a": {"b": 1, "c": {}}, "d": "x"}) == {"a.b": "1", "a.c": "{}", "d": "x"}


# -- the trackers' own readers -----------------------------------------------------------------------------------------------


def tracked_run(folder: Path, name: str, monitor_every: int = 4) -> Path:
    """A run that a tracker was shown."""
    settings = {**SMALL, **both(name), "trainer.monitor_every": monitor_every}
    matchlib.distill("flow", "moons", steps=8, seed=12, out=folder / "run", settings=settings)
    return folder / "run"


@pytest.mark.runs
def test_tensorboard_reads_what_the_log_has(tmp_path: Path, warnings: Callable[[], list[str]]) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = tracked_run(tmp_path, "tensorboard", monitor_every=0)
    for phase in ("teacher", "student"):
        events = EventAccumulator(str(run / "tensorboard" / phase), size_guidance={"scalars": 0, "images": 0})
        events.Reload()
        names = [name for name in events.Tags()["scalars"] if not name.startswith("evaluation/")]
        found = {(name, event.step): event.value for name in names for event in events.Scalars(name)}
        assert found == pytest.approx(numbers_of(run, phase), rel=1e-6)
        assert "settings/text_summary" in events.Tags()["tensors"]
    report = json.loads((run / "evaluation.json").read_text())
    (score,) = events.Scalars("evaluation/student/frechet_raw")
    assert (score.step, score.value) == (8, pytest.approx(report["student"]["frechet_raw"], rel=1e-6))
    assert [image.step for image in events.Images("samples")] == [8]
    assert warnings() == []


def wandb_records(file: Path) -> Iterator[bytes]:
    """Records of a run that W&B wrote offline: LevelDB's log format, behind a header of 7 bytes; its reader is in Go."""
    data, at, record = file.read_bytes(), 7, b""
    while at + 7 <= len(data):
        left = 32768 - at % 32768  # of a block
        if left < 7:
            at += left
            continue
        length, kind = struct.unpack_from("<HB", data, at + 4)
        record += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield record
            record = b""


def test_tensorboard_forgets_the_steps_after_the_one_that_a_training_goes_back_to(tmp_path: Path) -> None:
    """To its beginning, too."""
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for steps in (10, 3):
        session = matchlib.trackers["tensorboard"]().open(TrackedPhase(tmp_path, "student", {}, 0))
        for step in range(1, steps + 1):
            session.scalars({"loss": float(steps)}, step)
        session.close()
    events = EventAccumulator(str(tmp_path / "tensorboard" / "student"), size_guidance={"scalars": 0})
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [(1, 3.0), (2, 3.0), (3, 3.0)]


@pytest.mark.slow
def test_wandb_writes_offline_what_the_log_has(tmp_path: Path, warnings: Callable[[], list[str]]) -> None:
    pytest.importorskip("wandb")
    from wandb.proto.wandb_internal_pb2 import Record

    run = tracked_run(tmp_path, "wandb")
    ids = json.loads((run / "trackers.json").read_text())
    assert ids["teacher/wandb"] != ids["student/wandb"]
    for phase in ("teacher", "student"):
        (file,) = (run / "wandb").glob(f"offline-run-*/run-{ids[f'{phase}/wandb']}.wandb")
        found, pictures = {}, set()
        for data in wandb_records(file):
            record = Record()
            record.ParseFromString(data)
            row = {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
            pictures |= {key.removesuffix("/_type") for key, value in row.items() if value == "image-file"}
            for key, value in numbers(row):
                if not key.startswith(("_", "evaluation/", "samples", "alarms")) and key != "step":
                    found[key, int(row["step"])] = value
        assert found == pytest.approx(numbers_of(run, phase))
    assert pictures == {"samples"}
    assert warnings() == []


@pytest.mark.slow
def test_mlflow_reads_what_the_log_has(tmp_path: Path, warnings: Callable[[], list[str]]) -> None:
    pytest.importorskip("mlflow")
    pytest.importorskip("sqlalchemy")
    from mlflow.tracking import MlflowClient

    run = tracked_run(tmp_path, "mlflow")
    client, ids = MlflowClient(f"sqlite:///{run / 'mlflow.db'}"), json.loads((run / "trackers.json").read_text())
    for phase in ("teacher", "student"):
        found = client.get_run(ids[f"{phase}/mlflow"])
        assert found.data.params["trainer.batch_size"] == "8"
        names = [name for name in found.data.metrics if not name.startswith("evaluation/")]
        history = {(name, m.step): m.value for name in names for m in client.get_metric_history(found.info.run_id, name)}
        assert history == pytest.approx(numbers_of(run, phase))
    assert any("samples" in file.path for file in client.list_artifacts(found.info.run_id, "images"))
    assert warnings() == []


@pytest.mark.slow
def test_trackio_reads_what_the_log_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, warnings: Callable[[], list[str]]) -> None:
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))  # read when it is imported
    pytest.importorskip("trackio")
    run = tracked_run(tmp_path, "trackio")
    from trackio.sqlite_storage import SQLiteStorage

    for phase in ("teacher", "student"):
        logs = SQLiteStorage.get_logs("matchlib", f"run-{phase}")
        found = {(key, row["step"]): value for row in logs for key, value in numbers(row) if "/" in key or key == "seconds"}
        found = {key: value for key, value in found.items() if not key[0].startswith(("evaluation/", "samples"))}
        assert found == pytest.approx(numbers_of(run, phase))
    assert warnings() == []
