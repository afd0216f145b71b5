"""What the commands do, from Python."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from matchlib.data.dataset import Dataset
from matchlib.distillation.loss import DistillationLoss
from matchlib.errors import ArtifactError, SettingError
from matchlib.evaluation.report import evaluate as write_report
from matchlib.evaluation.score import OWN
from matchlib.fields.teacher import Teacher
from matchlib.io import is_empty, lock, unlock
from matchlib.registry import losses
from matchlib.runs.answers import check_answers
from matchlib.runs.artifact import CONFIG, WEIGHTS, read_config
from matchlib.runs.budget import fitted, seconds_of
from matchlib.runs.build import GIVEN, build, dataset_of_settings, device_of, names_code, settings_digest
from matchlib.runs.components import Components
from matchlib.runs.data_record import record_data
from matchlib.runs.page.document import PAGE, write_page
from matchlib.runs.pipeline import Pipeline, load, with_teacher_at
from matchlib.runs.run import Run, watched
from matchlib.runs.scoring import read_evaluation
from matchlib.runs.settings import EvaluationSettings, RunSettings, from_config, names_extractor, plain, resolve, write_config
from matchlib.training.callbacks import Progress
from matchlib.training.distributed import init_distributed, strategy

__all__ = ["distill", "evaluate", "open_run", "resume", "start_run", "train"]

logger = logging.getLogger("matchlib")
OTHER_SETTINGS = (
    "%s states other settings than %s was made with, and what was made is scored; for another sampler, guidance or training start a new "
    "run (--teacher RUN, or another --out)"
)


def train(
    family: str = "flow",
    data: str | Path | Dataset = "digits",
    *,
    coupling: Any = None,
    interpolant: Any = None,
    objective: Any = None,
    network: Any = None,
    steps: int | None = None,
    time: str | float | None = None,
    out: str | Path | None = None,
    seed: int | None = None,
    device: str | None = None,
    recipe: str | None = None,
    config: Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
    trust: bool = False,
    on_progress: Callable[[Progress], None] | None = None,
) -> Pipeline:
    """Trains a teacher, as ``matchlib train --family`` does.

    Args:
        family: registered name.
        data: registered name, path, or a data set.
        coupling, interpolant, objective: objects of registered classes, names or specs that replace the family's own.
        network: name or spec of the teacher's network.
        steps: of the optimiser.
        time: that everything may take, scores included, such as ``"30m"``, or a number of seconds: it decides the steps.
        out: folder of the run; None for ``runs/DATE-NAME``.
        recipe: named settings, overruled by what else is given.
        config: a tree of settings, as ``config.yaml`` holds it.
        settings: further settings by dotted path, as in ``--set``.
        trust: whether a network of features that ``config`` names may be run.
        on_progress: called with a Progress at every row of the log; None prints a line each.

    Returns:
        The teacher, ready to sample.
    """
    pieces = {"coupling": coupling, "interpolant": interpolant, "objective": objective, "network": network}
    options = {"teacher.name": family, "teacher.training.steps": steps, "seed": seed, "device": device, **_named(data, out)}
    options |= {f"teacher.{name}": piece for name, piece in pieces.items()}
    chosen = resolve("train", recipe=recipe, config=config, options=options, settings=settings)
    with _messages(on_progress) as show:
        run = start_run(chosen, time=time, data=_object(data), on_progress=show, trust=trust, named=settings)
        run.execute()
    return run.pipelines["teacher"]


def distill(
    teacher: str | Path | Teacher = "flow",
    data: str | Path | Dataset = "digits",
    student: str | Path = "onestep",
    loss: str | DistillationLoss | Mapping[str, Any] | None = None,
    *,
    recipe: str | None = None,
    steps: int | None = None,
    time: str | float | None = None,
    out: str | Path | None = None,
    seed: int | None = None,
    device: str | None = None,
    config: Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
    trust: bool = False,
    on_progress: Callable[[Progress], None] | None = None,
) -> Pipeline:
    """Distils a teacher, as ``matchlib distill`` does.

    Args:
        teacher: name of a family (its default teacher is trained, or taken from the cache), folder of a run, FILE.py:NAME, PREFIX:PATH, or
            a Teacher.
        data: registered name, path, or a data set.
        student: registered name, or folder of a run whose student goes on.
        loss: registered name, spec or object; None for that of the settings.
        recipe: named settings, overruled by what else is given.
        steps: of critic and student in all.
        time: that everything may take, a teacher and scores included, such as ``"30m"``, or a number of seconds: it decides the steps.
        out: folder of the run; None for ``runs/DATE-NAME``.
        config: a tree of settings, as ``config.yaml`` holds it.
        settings: further settings by dotted path, as in ``--set``.
        trust: whether Python code that a run's artifact or ``config`` names may be run; a teacher FILE.py:NAME is trusted.
        on_progress: called with a Progress at every row of the log; None prints a line each.

    Returns:
        The student, ready to sample.
    """
    given = teacher if isinstance(teacher, Teacher) else None
    if given is None and not isinstance(teacher, str | Path):
        raise SettingError(f"teacher must be a name, a path or a matchlib.Teacher, got {type(teacher).__name__}; see Teacher.from_callable")
    spec = losses.describe(loss) if isinstance(loss, DistillationLoss) else {"name": loss} if isinstance(loss, str) else loss
    options = {
        "teacher.name": f"{GIVEN}teacher" if given is not None else str(teacher),
        "student.name": str(student),
        "loss": spec,
        "trainer.steps": steps,
        "seed": seed,
        "device": device,
        **_named(data, out),
    }
    chosen = resolve("distill", recipe=recipe, config=config, options=options, settings=settings)
    with _messages(on_progress) as show:
        trusted = trust or (given is None and names_code(str(teacher)))
        run = start_run(chosen, time=time, data=_object(data), teacher=given, on_progress=show, trust=trusted, named=settings)
        run.execute()
    return run.pipelines["student"]


def resume(
    run: str | Path,
    *,
    teacher: Teacher | None = None,
    data: Dataset | None = None,
    checkpoint: str | Path | None = None,
    trust: bool = False,
    changed_data: bool = False,
    on_progress: Callable[[Progress], None] | None = None,
) -> Pipeline:
    """Goes on with a run from its last checkpoint, as ``matchlib resume`` does; a finished one is loaded.

    Args:
        run: folder of the run.
        teacher, data: those that the run was made from, where they were made in Python.
        checkpoint: one of ``RUN/checkpoints``; None for the latest.
        trust: whether Python code that ``config.yaml`` names may be run.
        changed_data: whether it goes on where the data are others than those that it began with.

    Returns:
        What the run makes, ready to sample.

    Raises:
        ArtifactError: there is no run, ``teacher`` answers otherwise than the one that it began with, or what ``checkpoint`` is of is
            finished.
        DataError: the data have changed since it began.
    """
    path = None if checkpoint is None else Path(checkpoint)
    with _messages(on_progress) as show:
        if path is None and is_finished(Path(run)):
            logger.info("%s is finished: there is nothing to resume", run)
            if teacher is not None:
                _check_teacher(Path(run), load(run, "teacher", teacher=teacher, trust=trust))
            device = str(device_of(_settings_of(Path(run)).device))
            return load(run, device=device, teacher=teacher, data=data, trust=trust)
        given = {"checkpoint": path, "changed_data": changed_data, "on_progress": show}
        opened = open_run(Path(run), teacher=teacher, data=data, trust=trust, **given)
        opened.execute()
    return opened.pipelines.get("student", opened.pipelines["teacher"])


def evaluate(
    run: str | Path,
    *,
    draws: int | None = None,
    seed: int | None = None,
    device: str | None = None,
    teacher: Teacher | None = None,
    data: Dataset | None = None,
    trust: bool = False,
    changed_data: bool = False,
    on_progress: Callable[[Progress], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> dict[str, Any]:
    """Scores a run's student and teacher again, and rewrites its ``evaluation.json`` and ``samples.png``.

    Args:
        run: folder of a finished run.
        draws: that a score is averaged over; None for the run's own.
        seed: of the samples; None for the run's own.
        teacher, data, trust, changed_data: as for ``resume``.
        on_progress: called with a ``Progress`` every other second.
        should_stop: asked between parts of the work; True interrupts it, and the same call goes on.

    Raises:
        DataError: the data have changed since the run began.
        Interrupted: ``should_stop`` said so.
    """
    folder = Path(run)
    settings = _settings_of(folder)
    _check_extractor(settings, trust=trust)
    scoring = settings.evaluation if draws is None else EvaluationSettings(**{**settings.evaluation.model_dump(), "draws": draws})
    where = str(device_of(device or settings.device))
    kinds = [kind for kind in ("teacher", "student") if (folder / kind / "config.json").exists()] or ["teacher"]
    pipelines = {kind: load(folder, kind, where, teacher=teacher, data=data, trust=trust) for kind in kinds}
    if teacher is not None and "teacher" in pipelines:
        _check_teacher(folder, pipelines["teacher"])
    for kind, pipeline in pipelines.items():
        if pipeline.config.settings not in ("", settings_digest(settings, kind)):
            logger.warning(OTHER_SETTINGS, folder / "config.yaml", folder / kind)
    recorded = pipelines[kinds[0]].config.data
    dataset = dataset_of_settings(settings.data, data).normalized_as(recorded.shift, recorded.scale)
    work = watched(on_progress, should_stop)
    lock(folder)
    try:
        record_data(folder, dataset, changed=changed_data)
        pipelines = with_teacher_at(pipelines, scoring.teacher_steps if "teacher" in pipelines else ())
        report = write_report(folder, pipelines, dataset, scoring, settings.seed if seed is None else seed, device=where, work=work)
        _make_page(folder)
    finally:
        unlock(folder)
    return report


def _make_page(folder: Path) -> None:
    try:
        write_page([folder])
    except Exception as error:  # the scores are there; their page is not worth an error
        logger.warning("%s was not written: %s", folder / PAGE, error)


# -- folders ---------------------------------------------------------------------------------------------------------------


def start_run(
    settings: RunSettings,
    *,
    again: bool = False,
    time: str | float | None = None,
    trust: bool = False,
    named: Mapping[str, Any] | None = None,
    **given: Any,
) -> Run:
    """Builds the components, then makes the folder of a new run and writes its ``config.yaml``.

    Args:
        again: go on with the run that the folder holds, if it was started with the same settings.
        time: that the run may take, see ``matchlib.runs.budget``; None for the settings' own steps.
        trust: whether code that the settings name may be run.
        named: settings by dotted path that this very call was given, whose author is trusted with them.
        given: ``data`` and ``teacher`` made in Python, ``on_progress`` and ``should_stop`` as for ``Run``.

    Raises:
        SettingError: the folder holds something already, or a run with other settings.
        MatchlibError: the settings cannot work; nothing was written.
    """
    _check_extractor(settings, trust=trust or names_extractor(named or {}))
    init_distributed(device_of(settings.device))
    processes = strategy(settings.trainer.engine.parallel)
    folder, there = processes.on_main_process(lambda: _folder(settings, again=again))
    parts = {key: given.pop(key, None) for key in ("data", "teacher")}

    def built(settings: RunSettings) -> Components:
        return build(settings, trust=trust, own=_own_teacher(folder), opens_extractor=True, **parts)

    if time is not None:
        if again:
            raise SettingError(f"a run that goes on has its steps already: use matchlib resume {settings.out or 'RUN'}, without a time")
        if processes.size > 1:
            raise SettingError("a time is for one process, which measures itself; give several the steps: --steps, teacher.training.steps")
        settings, schedule = fitted(settings, built, seconds_of(time), given.get("should_stop") or (lambda: False))
        given["revise"] = None if schedule is None else schedule.revised
    components = built(settings)
    given = {key: value for key, value in given.items() if value is not None}
    run = Run(settings, components, folder, **given)
    processes.on_main_process(lambda: _begin(folder, settings, there=there))
    return run


def open_run(folder: Path, *, teacher: Teacher | None = None, data: Dataset | None = None, trust: bool = False, **given: Any) -> Run:
    """Opens the folder of a run that was started before; arguments as for ``resume``."""
    settings = _settings_of(folder)
    _check_extractor(settings, trust=trust)
    init_distributed(device_of(settings.device))
    components = build(settings, data=data, teacher=teacher, trust=trust, own=_own_teacher(folder), opens_extractor=True)
    given = {key: value for key, value in given.items() if value is not None}
    run = Run(settings, components, folder, **given)
    strategy(settings.trainer.engine.parallel).on_main_process(lambda: lock(folder))
    return run


def is_finished(folder: Path) -> bool:
    """Returns whether a run was scored, its scores can be read, and what it made is of the settings that stand in its folder.

    Raises:
        ArtifactError: there is no run, or its settings or what it made cannot be read.
    """
    try:
        read_evaluation(folder / "evaluation.json")
    except ArtifactError:  # missing, or damaged: it is made again
        return False
    settings = _settings_of(folder)
    kinds = ("teacher", "student") if settings.command == "distill" else ("teacher",)
    return all((folder / kind / file).is_file() for kind in kinds for file in (CONFIG, WEIGHTS)) and all(
        read_config(folder / kind).settings == settings_digest(settings, kind) for kind in kinds
    )


def _check_extractor(settings: RunSettings, *, trust: bool) -> None:
    """Refuses the network of features that a file of settings names, unless its author is trusted.

    Raises:
        SettingError: he is not.
    """
    file = settings.evaluation.extractor
    if file != OWN and not trust:
        raise SettingError(
            f"evaluation.extractor {file} is a network that would be run; if you trust who wrote the settings, give --trust (in Python "
            "trust=True)"
        )


def _check_teacher(folder: Path, pipeline: Pipeline) -> None:
    """Compares the answers of a run's loaded teacher with those that the run began with."""
    assert isinstance(pipeline.module, Teacher)
    check_answers(folder / "teacher", pipeline.module, pipeline.config.network_spec)


def _own_teacher(folder: Path) -> Path | None:
    """Returns the folder of the teacher that a run has begun with; None if it has not."""
    return folder / "teacher" if (folder / "teacher" / CONFIG).is_file() else None


def _settings_of(folder: Path) -> RunSettings:
    path = folder / "config.yaml"
    if not path.is_file():
        raise ArtifactError(f"there is no run at {folder}: {path} is missing")
    return from_config(path)


def _begin(folder: Path, settings: RunSettings, *, there: bool) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ArtifactError(f"{folder} cannot be written: {error}") from error
    lock(folder)
    if not there and (folder / "config.yaml").exists():  # another start was faster
        raise SettingError(f"{folder} holds a run already; choose another --out")
    if not there:
        write_config(folder, settings)


def _folder(settings: RunSettings, *, again: bool) -> tuple[Path, bool]:
    """Where the run is to be, and whether it is there already."""
    folder = _default_folder(settings) if settings.out is None else Path(settings.out)
    if not (folder / "config.yaml").exists():
        if folder.exists() and (not folder.is_dir() or not is_empty(folder)):
            raise SettingError(f"{folder} is not empty; choose another --out")
        return folder, False
    if not again:
        raise SettingError(f"{folder} holds a run already; choose another --out, or go on with: matchlib resume {folder}")
    there, asked = plain(from_config(folder / "config.yaml")), plain(settings)
    other = sorted(key for key in asked if key != "out" and there[key] != asked[key])
    if other:
        raise SettingError(f"{folder} holds a run with other settings ({', '.join(other)}); choose another --out")
    return folder, True


def _default_folder(settings: RunSettings) -> Path:
    """``runs/DATE-NAME``, with a number behind it if that is taken."""
    teacher, data = (Path(name.rpartition(":")[2]).stem for name in (settings.teacher.name, settings.data.name))
    base = Path("runs") / f"{datetime.now():%Y-%m-%d}-{settings.command}-{teacher}-{data}"
    candidates = (base if i == 1 else Path(f"{base}-{i}") for i in range(1, 10_000))
    return next(path for path in candidates if not path.exists())


# -- what a call was given -------------------------------------------------------------------------------------------------


def _named(data: str | Path | Dataset, out: str | Path | None) -> dict[str, Any]:
    name = f"{GIVEN}{data.name}" if isinstance(data, Dataset) else _checked_name(data)
    if out is not None and not isinstance(out, str | Path):
        raise SettingError(f"out must be a path, got {out!r}")
    return {"data.name": name, "out": None if out is None else str(out)}


def _checked_name(data: Any) -> str:
    if not isinstance(data, str | Path):
        raise SettingError(
            f"data must be a registered name, a path or a matchlib.Dataset, got {type(data).__name__}; arrays become one by "
            "matchlib.Dataset.from_arrays('mine', array)"
        )
    return str(data)


def _object(data: str | Path | Dataset) -> Dataset | None:
    return data if isinstance(data, Dataset) else None


@contextmanager
def _messages(on_progress: Callable[[Progress], None] | None) -> Iterator[Callable[[Progress], None]]:
    """Shows progress and notices on stderr, unless the ``matchlib`` logger has handlers or its level says otherwise."""
    handler, level = logging.StreamHandler(sys.stderr), logger.level
    own = not logger.hasHandlers()
    if own:
        handler.setFormatter(logging.Formatter("%(message)s"))
        logger.addHandler(handler)
        logger.setLevel(logger.level or logging.INFO)
    try:
        yield on_progress or (lambda row: logger.info("%s", row))
    finally:
        if own:
            logger.removeHandler(handler)
            logger.setLevel(level)
