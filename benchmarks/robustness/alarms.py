"""Do alarms name what is wrong, and keep silent when nothing is? Planted failures and ten healthy runs, default settings otherwise.

    python -m benchmarks.robustness.alarms [--steps 200] [--healthy-steps 3200] [--mnist MNIST.npz] [--pipeline FOLDER]

A failure counts as named if its alarm is the first one that is raised, within so many steps. Readings are those of the last measurement.
"""

from __future__ import annotations

import argparse
import json
import logging
import resource
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import matchlib
from benchmarks.quality.defaults import small_mnist
from benchmarks.record import CACHE, cell, defaults, save
from matchlib.algebra.records import Condition
from matchlib.data.dataset import Dataset
from matchlib.data.readers import load_dataset
from matchlib.distillation.student import Student
from matchlib.errors import Interrupted
from matchlib.fields.callable import CallableField
from matchlib.fields.teacher import Teacher
from matchlib.registry import students
from matchlib.training.alarms import Limits

PLACE = CACHE / "alarms"
READINGS: dict[str, Any] = {"limits": asdict(Limits()), "critic_change": "over the error of the best multiple of the state"}
PIPELINE = "diffusers' DDPM of MNIST"
QUICK = {"evaluation.draws": 1, "evaluation.metrics": ("frechet-raw",)}


def teacher_folder() -> Any:
    """Returns the folder of the default teacher."""
    folder = PLACE / "teacher"
    if not (folder / "teacher").exists():
        shutil.rmtree(folder, ignore_errors=True)
        matchlib.train("flow", out=folder, settings=QUICK)
    return folder


class Negated(nn.Module):
    """A field with the wrong sign."""

    def __init__(self, field: nn.Module) -> None:
        super().__init__()
        self.field = field

    def forward(self, state: Tensor, time: Tensor, label: Tensor | None) -> Tensor:
        return -self.field(state, time, Condition(label))


@students.register("dead")
class Dead(Student):
    """A student whose weights do not reach its answer."""

    nfe = 1

    def __init__(self, teacher: Teacher, field: nn.Module | None, *, t_start: float = 1.0) -> None:
        super().__init__()
        self.inner = matchlib.students["onestep"](teacher, field, t_start=t_start)

    def forward(self, source: Tensor, condition: Condition, *, generator: torch.Generator) -> Tensor:
        made = self.inner(source, condition, generator=generator)
        return made.detach() + 0.0 * made


@students.register("one-class")
class OneClass(Student):
    """A student that draws one class: with labels it asks for the class 1 whatever it is asked for, without it starts near one source."""

    nfe = 1

    def __init__(self, teacher: Teacher, field: nn.Module | None, *, t_start: float = 1.0) -> None:
        super().__init__()
        self.inner = matchlib.students["onestep"](teacher, field, t_start=t_start)

    def forward(self, source: Tensor, condition: Condition, *, generator: torch.Generator) -> Tensor:
        if condition.label is not None:
            condition = replace(condition, label=torch.ones_like(condition.label))
        else:
            fixed = torch.randn(source.shape[1:], generator=torch.Generator().manual_seed(0)).to(source)
            source = 0.8 * fixed + 0.6 * source
        return self.inner(source, condition, generator=generator)


def wrong_sign() -> dict[str, Any]:
    """A teacher with the wrong sign, from Python."""
    good = matchlib.load(teacher_folder(), of="teacher")
    of = good.module
    assert isinstance(of, Teacher)
    field = CallableField(Negated(of.field), arguments=("state", "time", "label"))
    return {"teacher": Teacher(field, of.model, of.moments)}


def poisoned() -> dict[str, Any]:
    """Data of which one sample in a hundred is not a number."""
    data: Dataset = load_dataset("digits")
    x = data.train.data.clone()
    x[::100] = float("nan")
    return {"data": replace(data, train=replace(data.train, data=x))}


FAILURES: dict[str, tuple[str, Callable[[], dict[str, Any]], dict[str, Any]]] = {
    "critic too slow": ("critic", dict, {"trainer.critic_lr_scale": 1e-3}),
    "critic step size too high": ("critic-lr", dict, {"trainer.critic_lr_scale": 50.0}),
    "student step size too high": ("student-lr", dict, {"trainer.student_lr_scale": 50.0}),
    "wrong teacher sign": ("teacher", wrong_sign, {}),
    "dead student": ("student-frozen", dict, {"student.name": "dead"}),
    "labels ignored": ("classes", dict, {"student.name": "one-class"}),
    "near one source, no labels": ("classes", dict, {"student.name": "one-class", "data.labels": False, "teacher.name": "flow"}),
    "NaN batch": ("not-finite", poisoned, {}),
    "full disk": ("disk", dict, {"trainer.checkpoint_every": 100}),
}
HEALTHY: dict[str, dict[str, Any]] = {
    "flow": {"teacher": "flow"},
    "diffusion": {"teacher": "diffusion"},
    "diffusion-vp": {"teacher": "diffusion-vp"},
    "bridge": {"teacher": "bridge"},
    "interpolant": {"teacher": "interpolant"},
    "flow, four steps": {"teacher": "flow", "student": "fewstep"},
    "flow, recipe correct": {"teacher": "flow", "recipe": "correct"},
    "flow, UID, no labels": {"teacher": "flow", "loss": "uid", "settings": {"data.labels": False}},
    "bridge, digits-restore": {"teacher": "bridge", "data": "digits-restore"},
    "flow, moons": {"teacher": "flow", "data": "moons"},
}


# of 784 values: a teacher and a student of 0.9 million weights, a minute of training
MNIST = {"teacher.network": {"name": "mlp", "width": 384, "depth": 4}, "teacher.training.steps": 800}


def mnist_failures(path: Path) -> dict[str, tuple[str, Callable[[], dict[str, Any]], dict[str, Any]]]:
    """The collapses on MNIST."""
    found = {}
    for name, labels in (("labels ignored, MNIST", True), ("near one source, MNIST, no labels", False)):
        settings = {**MNIST, "student.name": "one-class", "data.labels": labels, "data.name": str(small_mnist(path))}
        found[name] = ("classes", partial(dict, teacher="flow"), settings)
    return found


class Notices(logging.Handler):
    """Keeps what is logged."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def alarms(given: dict[str, Any], settings: dict[str, Any], steps: int, *, full: bool = False) -> dict[str, Any]:
    """Returns the alarms of a run, with the step of each, and the readings of its last measurement."""
    folder, notices = PLACE / "run", Notices()
    shutil.rmtree(folder, ignore_errors=True)
    given = {"teacher": teacher_folder(), **given}  # trained before the disk is full
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    if full:
        resource.setrlimit(resource.RLIMIT_FSIZE, (3_000_000, before[1]))
    extra, ended = given.get("settings", {}), ""
    given = {key: value for key, value in given.items() if key != "settings"}
    try:
        all_settings = {**QUICK, "trainer.steps": steps, **settings, **extra}
        logging.getLogger("matchlib").addHandler(notices)
        matchlib.distill(**given, out=folder, settings=all_settings)
    except (Exception, Interrupted) as error:  # how a broken run ends is not the question
        ended = f"{type(error).__name__}: {error}".replace(str(folder), "RUN")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        logging.getLogger("matchlib").removeHandler(notices)
    found = [line.replace(str(folder), "RUN") for line in notices.lines if line.startswith("alarm")]
    return {"alarms": found, "ended": ended, "readings": last_readings(folder)}


def planted(make: Callable[[], dict[str, Any]], settings: dict[str, Any], steps: int, *, full: bool) -> dict[str, Any]:
    """Returns the alarms of a run with a planted failure."""
    return alarms(make(), settings, steps, full=full)


def last_readings(folder: Any) -> dict[str, float]:
    """Returns the readings of the last measurement."""
    log = folder / "metrics.jsonl"
    rows = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    measured = [row for row in rows if "monitor/gap" in row]
    return {key[8:]: round(value, 4) for key, value in measured[-1].items() if key.startswith("monitor/")} if measured else {}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--healthy-steps", type=int, default=3200)
    parser.add_argument("--mnist", type=Path)
    parser.add_argument("--pipeline", type=Path, help="folder of the DDPM of benchmarks/quality/mnist_diffusers.py; needs --mnist, too")
    parser.add_argument("--pipeline-steps", type=int, default=500)
    parser.add_argument("--only", nargs="+")
    given = parser.parse_args()
    rows = []
    for name, (wanted, make, settings) in {**FAILURES, **({} if given.mnist is None else mnist_failures(given.mnist))}.items():
        if given.only and name not in given.only:
            continue
        todo = partial(planted, make, settings, given.steps, full=name == "full disk")
        made = cell({"alarms": name, "steps": given.steps, **READINGS, "defaults": defaults("flow")}, todo)
        first = made["alarms"][0].split("(")[1].split(")")[0] if made["alarms"] else ""
        rows.append({"run": name, "wanted": wanted, "first": first, **made})
        print(f"{name:24} {'named' if first == wanted else f'WRONG: {first}':10} {made['alarms'][:1]} {made['readings']}", flush=True)
    for name, options in HEALTHY.items():
        if given.only and name not in given.only:
            continue
        own = defaults(options["teacher"], paired=options.get("data") == "digits-restore")
        what = {"alarms": name, "steps": given.healthy_steps, **READINGS, "defaults": own}
        made = cell(what, partial(alarms, options, {}, given.healthy_steps))
        rows.append({"run": name, "wanted": "", "first": " ".join(made["alarms"]), **made})
        print(f"{name:24} {'silent' if not made['alarms'] else made['alarms']} {made['readings']}", flush=True)
    if given.pipeline is not None and not (given.only and PIPELINE not in given.only):
        settings = {"data.name": str(small_mnist(given.mnist)), "data.labels": False, "trainer.batch_size": 32}
        todo = partial(alarms, {"teacher": f"diffusers:{given.pipeline}", "settings": settings}, {}, given.pipeline_steps)
        made = cell({"alarms": PIPELINE, "steps": given.pipeline_steps, **READINGS, "defaults": defaults("diffusion-vp")}, todo)
        rows.append({"run": PIPELINE, "wanted": "", "first": " ".join(made["alarms"]), **made})
        print(f"{PIPELINE:24} {'silent' if not made['alarms'] else made['alarms']} {made['readings']}", flush=True)
    save("alarms", rows, steps=given.steps, healthy_steps=given.healthy_steps)


if __name__ == "__main__":
    main()
