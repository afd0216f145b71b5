"""Golden runs: tiny runs of two versions of the code, compared number by number.

A net for refactoring. Record the version before, record the version after, and compare; every difference is listed:

    python tests/golden/golden.py record --root ../before --out /tmp/golden/base --jobs 2
    python tests/golden/golden.py record --root . --out /tmp/golden/new --side new --jobs 2
    python tests/golden/golden.py compare /tmp/golden/base /tmp/golden/new

Commands run in forks of a process that has loaded torch and its like, but nothing of matchlib; ``--fresh`` starts an interpreter for each.

The table ``CASES`` is written in the names of the old version. ``RENAMED`` and the tables beside it translate them for ``--side new``;
they are the only part to edit while settings, files or weights change their names.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import math
import os
import re
import runpy
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml

Settings = Mapping[str, Any]  # values by dotted path

# -- names that change: edit these ---------------------------------------------------------------------------------------------

# Old dotted path of a setting to the new one. At most one * on either side stands for the same text; the first entry that fits counts.
RENAMED: dict[str, str] = {
    "trainer.batch": "trainer.batch_size",
    "teacher.training.batch": "teacher.training.batch_size",
    "teacher.training.rate": "teacher.training.lr",
    "*.decay": "*.lr_decay",
    "*.surge": "*.adaptive_clip",
    "trainer.clip": "trainer.max_grad_norm",
    "teacher.training.clip": "teacher.training.max_grad_norm",
    "trainer.emas": "trainer.extra_ema_decays",
    "trainer.engine.micro": "trainer.engine.micro_batch_size",
    "trainer.critic_turns": "trainer.critic_steps",
    "trainer.reuse": "trainer.critic_steps_per_batch",
    "trainer.best": "trainer.keep_best_by",
    "trainer.keep": "trainer.keep_last",
    "trainer.policy": "trainer.on_alarm",
    "trainer.student_factor": "trainer.student_lr_scale",
    "trainer.critic_factor": "trainer.critic_lr_scale",
    "trainer.student_rate": "trainer.student_lr",
    "trainer.critic_rate": "trainer.critic_lr",
    "trainer.watch_every": "trainer.monitor_every",
    "*.times.low": "*.times.t_min",
    "*.times.high": "*.times.t_max",
    "*.times.log_ratio": "*.times.log_sigma",
    "student.warm": "student.init_from_teacher",
    "student.start": "student.t_start",
    "evaluation.clip": "evaluation.clip_samples",
    "teacher.sampler.clip": "teacher.sampler.clip_denoised",
    "teacher.law": "teacher.distribution",
    "teacher.law.*": "teacher.distribution.*",
}

# Settings of both phases in the old version (new names), which each phase has for itself in the new one.
BOTH_PHASES = re.compile(r"trainer\.(log_every|checkpoint_every|keep_last|monitor_every|on_alarm|engine\..*)$")

# (old dotted path, old value as text) to the new value as text, for names of plugins and choices.
VALUES: dict[tuple[str, str], str] = {}

# Options of the command line that carry a setting whose value ``VALUES`` may translate.
OPTION_PATHS: dict[str, str] = {
    "--teacher": "teacher.name",
    "--family": "teacher.name",
    "--student": "student.name",
    "--loss": "loss.name",
    "--data": "data.name",
}

# Old words of the command line (commands and options) to the new ones.
WORDS: dict[str, str] = {}

# Old text to new text in the scripts that use the Python API.
SCRIPT_RENAMED: dict[str, str] = {}

# What ``python -m`` runs.
MODULE: dict[str, str] = {"old": "matchlib_cli", "new": "matchlib_cli"}


@dataclass(frozen=True)
class Layout:
    """Where a run keeps its files, relative to its folder."""

    config: str = "config.yaml"
    log: str = "metrics.jsonl"
    scores: str = "evaluation.json"
    teacher: str = "teacher"
    student: str = "student"
    checkpoints: str = "checkpoints"  # of files PHASE-STEP.safetensors


# What is loaded before commands are forked, as long as it is there; nothing of matchlib.
LOADED = (
    "matplotlib.backends.backend_agg",
    "matplotlib.figure",
    "matplotlib.font_manager",
    "numpy",
    "ot",
    "pydantic",
    "rich",
    "safetensors.torch",
    "scipy.integrate",
    "scipy.linalg",
    "scipy.optimize",
    "scipy.spatial",
    "scipy.special",
    "scipy.stats",
    "sklearn.cluster",
    "sklearn.datasets",
    "sklearn.neural_network",
    "torch",
    "torch.distributed.device_mesh",
    "torch.distributed.fsdp",
    "torch.distributed.tensor",
    "torchdiffeq",
    "typer",
    "yaml",
)

PATIENCE = 300  # seconds that a command may take

LAYOUT: dict[str, Layout] = {"old": Layout(), "new": Layout()}

# Patterns in names of tensors, ``file:key``, of an old recording, and what they become.
TENSORS_RENAMED: list[tuple[str, str]] = [
    (r"/optimiser/(\d+)/(\w+)$", r"/adam/\2/\1"),
    (r"/usual$", "/typical_norm"),
]

# Likewise in the dotted names of scores.
SCORES_RENAMED: list[tuple[str, str]] = []

# Entries of log rows and of evaluations that are never compared, because they are durations.
IGNORED = re.compile(r"(^|[./_])(seconds|time|timings?|samples_per_second|steps_per_second)$")

# Entries of log rows that say where the row stands, not what was measured.
PLACE = ("phase", "step")

# Entries of log rows by the start of their names; all others are readings of the monitor.
LOSS = "loss/"


# -- what a case does -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Run:
    """One command line of matchlib, in the old names.

    Args:
        argv: what follows ``python -m matchlib_cli``.
        processes: started by ``torch.distributed.run`` where there is more than one.
        code: exit code that is expected.
    """

    argv: list[str]
    processes: int = 1
    code: int = 0


@dataclass(frozen=True)
class Script:
    """A script that uses the Python API.

    Args:
        text: of the script; its first argument is a JSON file of settings, by name.
        settings: by name, each by dotted path.
    """

    text: str
    settings: Mapping[str, Settings]


@dataclass(frozen=True)
class Write:
    """A file that later steps read: a script as text, or settings that become YAML."""

    path: str
    content: str | Settings


@dataclass(frozen=True)
class Cut:
    """Takes a finished run back to a checkpoint, as if killed there.

    Args:
        run: its folder.
        phase: of the checkpoint.
        step: likewise.
    """

    run: str
    phase: str
    step: int


Step = Run | Script | Write | Cut


def sets(settings: Settings) -> list[str]:
    """Returns ``--set PATH=VALUE`` for every setting."""
    return [word for path, value in settings.items() for word in ("--set", f"{path}={_text(value)}")]


def _text(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return json.dumps(value)
    return value if isinstance(value, str) else yaml.safe_dump(value, default_flow_style=True, width=10_000).split("\n...")[0].strip()


NETWORK = {"teacher.network.width": 32, "teacher.network.depth": 1}

TEACHER = {
    "teacher.training.steps": 30,
    "teacher.training.batch": 64,
    "teacher.training.warmup": 5,
    "evaluation.draws": 1,
    "trainer.log_every": 10,
    "trainer.checkpoint_every": 15,
}

SMALL = TEACHER | {"trainer.batch": 64, "trainer.warmup": 5, "trainer.watch_every": 10}

PLANE = {"data.samples": 800}  # of the sets of points in the plane


def distill(out: str, *words: str, processes: int = 1, code: int = 0, network: Settings | None = None, **groups: Settings) -> Run:
    """Returns a tiny distillation.

    Args:
        words: options that come first.
        network: settings of the teacher's network; None for a small ``mlp``.
        groups: settings by dotted path, in groups that only help the reader.
    """
    settings = {**SMALL, **(NETWORK if network is None else network)}
    for group in groups.values():
        settings |= group
    common = ["--steps", "30", "--device", "cpu", "--seed", "0", "--out", out]
    return Run(["distill", *words, *common, *sets(settings)], processes, code)


def sample(run: str, of: str, *words: str, n: int = 16) -> Run:
    """Returns the command that draws from a run."""
    name = f"{run.replace('/', '-')}-{of}.npz"
    return Run(["sample", run, "-n", str(n), "--of", of, "--device", "cpu", "--out", name, *words])


EULER = {"teacher.sampler.name": "ode", "teacher.sampler.method": "euler", "teacher.sampler.steps": 8}
MIDPOINT = {"teacher.sampler.name": "ode", "teacher.sampler.method": "midpoint", "teacher.sampler.steps": 5}
SDE = {"teacher.sampler.name": "sde", "teacher.sampler.steps": 10, "teacher.sampler.level": 0.7}
DDIM = {"teacher.sampler.name": "ddim", "teacher.sampler.steps": 8}
ANCESTRAL = {"teacher.sampler.name": "ancestral", "teacher.sampler.steps": 10}
UNPAIRED = {"teacher.sees_source": False}

API_TEACHERS = '''
"""A teacher made in Python, and its student."""
import json
import sys

import numpy as np
import torch
from torch import nn

import matchlib
from matchlib import RealUID, Teacher

settings = json.load(open(sys.argv[1], encoding="utf-8"))


class Net(nn.Module):
    """Predicts d x/d t with t = 1 at the data."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, 32), nn.SiLU(), nn.Linear(32, 2))

    def forward(self, t, x):
        return self.layers(torch.cat([x, t[:, None]], 1))


torch.manual_seed(7)
net = Net()
teacher = Teacher.from_callable(
    net,
    matchlib.families["flow"]().model(paired=False),
    arguments=("time", "state"),
    time=lambda t: 1 - t,
    output=-1.0,
)
data = matchlib.datasets["checkerboard"](samples=800)
own = matchlib.distill(
    teacher, data, loss=RealUID(alpha=2.0, beta=2.0, gamma=0.5), steps=30, out="runs/own", device="cpu", settings=settings["own"]
)
copied = matchlib.distill(teacher, data, "fewstep", "uid", steps=30, out="runs/copied", device="cpu", settings=settings["copied"])
again = matchlib.load("runs/own")
assert torch.equal(own.sample(16, seed=1), again.sample(16, seed=1))
np.savez("samples.npz", own=own.sample(16, seed=1).numpy(), copied=copied.sample(16, seed=1).numpy())
np.savez("average.npz", data=matchlib.load("runs/own", ema=0.9).sample(16, seed=1).numpy())
'''

API_RUNS = '''
"""A trained teacher, its student, and a student that goes on from it."""
import json
import sys

import numpy as np

import matchlib

settings = json.load(open(sys.argv[1], encoding="utf-8"))
teacher = matchlib.train(
    "diffusion-vp", "eight-gaussians", steps=30, out="runs/teacher", device="cpu", seed=3, settings=settings["teacher"]
)
first = matchlib.distill(
    "runs/teacher", "eight-gaussians", loss="sid", steps=20, out="runs/first", device="cpu", seed=3, settings=settings["first"]
)
more = matchlib.distill(
    "runs/teacher",
    "eight-gaussians",
    "runs/first",
    recipe="correct",
    steps=20,
    out="runs/more",
    device="cpu",
    seed=4,
    settings=settings["more"],
)
np.savez("samples.npz", **{name: made.sample(16, seed=2, labels=3).numpy() for name, made in [("t", teacher), ("f", first), ("m", more)]})
'''

FILE_TEACHER = '''
"""A teacher for the command line."""
import torch

import matchlib
from matchlib.adapters.flows import torchcfm


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(5)
        self.layer = torch.nn.Linear(2, 2)

    def forward(self, t, x):
        return self.layer(x) * (1 + t.reshape(-1, 1))


def teacher():
    return torchcfm(Net())
'''

ABLE = {"teacher.training.steps": 150, "teacher.training.rate": 1e-2}  # a teacher whose student has something to learn

ALARMING = {
    "trainer.steps": 60,
    "trainer.critic_turns": 2,
    "trainer.student_rate": 3e-2,  # too fast for the critic at first: two roll-backs, and then it goes well
    "trainer.critic_rate": 3e-2,
    "trainer.checkpoint_every": 5,
}

OWN_NETWORK = {"student.network.name": "mlp", "student.network.width": 32, "student.network.depth": 1}

# Name to steps. Two-process cases come first, since they take longest.
CASES: dict[str, list[Step]] = {
    "ddp": [
        distill(
            "run",
            *("--teacher", "flow", "--data", "digits"),
            processes=2,
            teacher=EULER | {"teacher.training.clip": 5.0},
            trainer={"trainer.engine.micro": 16, "trainer.clip": 5.0, "trainer.emas": [0.9]},
        )
    ],
    "fsdp": [
        distill(
            "run",
            *("--teacher", "diffusion", "--data", "moons", "--loss", "uid"),
            processes=2,
            data=PLANE,
            teacher=MIDPOINT,
            trainer={"trainer.engine.parallel": "fsdp", "trainer.emas": [0.9]},
        )
    ],
    "flow-digits": [
        distill(
            "run",
            *("--teacher", "flow", "--data", "digits"),
            data={"data.balanced": True},
            teacher=EULER | {"teacher.training.rate": 3e-3, "teacher.training.decay": 0.3, "teacher.training.ema": 0.5},
            trainer={
                "trainer.emas": [0.4, 0.99],
                "trainer.ema": 0.6,
                "trainer.student_factor": 0.5,
                "trainer.critic_factor": 0.7,
                "trainer.decay": 0.4,
            },
        ),
        sample("run", "student", "--labels", "balanced"),
        sample("run", "teacher"),
    ],
    "flow-guided": [
        distill(
            "run",
            *("--teacher", "flow", "--data", "digits", "--loss", "uid"),
            teacher={
                "teacher.training.label_dropout": 0.2,
                "teacher.guidance": 2.0,
                "teacher.training.clip": 2.0,
                **EULER,
            },
            trainer={
                "trainer.critic_turns": 2,
                "trainer.clip": 0.5,
                "trainer.betas": [0.1, 0.98],
                "trainer.engine.split": True,
            },
        ),
        sample("run", "teacher", "--labels", "3"),
    ],
    "flow-transport": [
        distill(
            "run",
            *("--teacher", "flow", "--data", "moons", "--student", "fewstep", "--loss", "uid"),
            data=PLANE,
            teacher=EULER
            | {"teacher.coupling.name": "minibatch-ot", "teacher.coupling.block": 32, "teacher.interpolant.name": "trigonometric"},
            student={"student.steps": 2, "student.variant": "chain"},
            trainer={"trainer.engine.micro": 32},
        )
    ],
    "flow-restore": [
        distill(
            "run",
            *("--teacher", "flow", "--data", "digits-restore", "--alpha", "0.9", "--beta", "0.95", "--gamma", "0.8"),
            teacher=EULER | {"teacher.training.surge": 1.02},
            student=OWN_NETWORK | {"student.warm": True},
            trainer={"trainer.critic_rate": 1e-3, "trainer.student_rate": 4e-4, "trainer.surge": 1.1},
        )
    ],
    "diffusion-sid": [
        distill(
            "run",
            *("--teacher", "diffusion", "--data", "digits", "--loss", "sid"),
            data={"data.labels": False},
            teacher=MIDPOINT | {"teacher.sigma_max": 40.0, "teacher.times.log_ratio": [-0.3, 1.0]},
            trainer={"trainer.times.low": 0.02, "trainer.times.high": 0.9, "trainer.times.log_ratio": [0.3, 0.9]},
            loss={"loss.a": 1.0},
            evaluation={"evaluation.clip": True},
        )
    ],
    "vp-fewstep-one": [
        distill(
            "run",
            *("--teacher", "diffusion-vp", "--data", "digits", "--student", "fewstep", "--loss", "fgm"),
            teacher=DDIM | {"teacher.sampler.clip": True},
            student={"student.steps": 3, "student.variant": "one", "student.start": 0.6},
            trainer={"trainer.critic_turns": 4, "trainer.reuse": 2},
        ),
        sample("run", "student"),
        sample("run", "teacher"),
    ],
    "vp-unet": [
        distill(
            "run",
            *("--teacher", "diffusion-vp", "--data", "digits", "--alpha", "8", "--beta", "8", "--gamma", "0.5"),
            network={"teacher.network.name": "unet", "teacher.network.channels": 8},
            data={"data.labels": False},
            teacher=SDE | {"teacher.interpolant.name": "vp-cosine", "teacher.objective.name": "v", "teacher.times.high": 0.99},
            trainer={"trainer.engine.checkpointing": True, "trainer.engine.channels_last": True},
            student={"student.start": 0.5},
        )
    ],
    "bridge-restore": [
        distill(
            "run",
            *("--teacher", "bridge", "--data", "digits-restore", "--loss", "ibmd"),
            teacher=ANCESTRAL | {"teacher.epsilon": 0.8},
            evaluation={"evaluation.draws": 2},
        ),
        sample("run", "student"),
        sample("run", "teacher"),
    ],
    "bridge-unpaired": [
        distill(
            "run",
            *("--teacher", "bridge", "--data", "digits-restore", "--alpha", "inf", "--beta", "inf", "--gamma", "0.5"),
            teacher=ANCESTRAL
            | UNPAIRED
            | {
                "teacher.coupling.name": "minibatch-ot-data",
                "teacher.interpolant.name": "linear-sde-bridge",
                "teacher.interpolant.rate": 1.5,
                "teacher.interpolant.g2": 1.5,
            },
            trainer={
                "trainer.critic_network.name": "mlp",
                "trainer.critic_network.width": 24,
                "trainer.critic_network.depth": 1,
            },
        )
    ],
    "interpolant-restore": [
        Write(
            "small.yaml",
            {
                **SMALL,
                **NETWORK,
                **SDE,
                "teacher.name": "interpolant",
                "teacher.scale": 0.6,
                "data.name": "digits-restore",
                "data.noise": 0.5,
                "student.name": "fewstep",
                "student.steps": 2,
                "loss.name": "realuid",
                "loss.alpha": 4.0,
                "loss.beta": 4.0,
                "loss.gamma": 0.5,
                "loss.rescaled": True,
                "loss.ramp": 0.5,
                "trainer.reuse": 2,
                "trainer.critic_turns": 2,
                "trainer.times.low": 0.05,
                "trainer.emas": [0.9],
            },
        ),
        Run(["distill", "--config", "small.yaml", "--steps", "30", "--device", "cpu", "--seed", "0", "--out", "run"]),
    ],
    "interpolant-joint": [
        distill(
            "run",
            *("--teacher", "interpolant", "--data", "digits-restore"),
            data={"data.labels": False},
            teacher=DDIM
            | UNPAIRED
            | {
                "teacher.coupling.name": "independent-data",
                "teacher.objective.name": "joint",
                "teacher.objective.parts": ["data", "noise"],
            },
            trainer={"trainer.engine.teacher_precision": "bf16"},
        ),
        sample("run", "student"),
        sample("run", "teacher"),
    ],
    "interpolant-mirror": [
        distill(
            "run",
            *("--teacher", "interpolant", "--data", "eight-gaussians"),
            data=PLANE,
            teacher=DDIM | {"teacher.coupling.name": "mirror", "teacher.times.high": 0.98},
            student={"student.start": 0.5},
        )
    ],
    "gaussian": [
        distill(
            "run",
            *("--teacher", "gaussian", "--data", "swiss-roll", "--loss", "uid"),
            data=PLANE,
            teacher=MIDPOINT | {"teacher.like": "diffusion", "teacher.law": {"components": 3}},
            loss={"loss.space": "velocity", "loss.weight_power": 0.5},
        )
    ],
    "best": [
        distill(
            "run",
            *("--teacher", "flow", "--data", "checkerboard", "--alpha", "2", "--beta", "2", "--gamma", "0.5"),
            data=PLANE,
            teacher=EULER,
            trainer={
                "trainer.best": "frechet",
                "trainer.keep": 1,
                "trainer.checkpoint_every": 5,
                "trainer.student_rate": 2e-2,
                "trainer.ema": 0.5,
            },
        )
    ],
    "roll-back": [
        distill(
            "run",
            *("--teacher", "diffusion", "--data", "moons", "--loss", "uid"),
            data=PLANE,
            teacher=MIDPOINT | ABLE,
            trainer=ALARMING | {"trainer.policy": "roll-back", "trainer.keep": 5},
        ),
        distill(
            "stopped",
            *("--teacher", "diffusion", "--data", "moons", "--loss", "uid"),
            code=3,
            data=PLANE,
            teacher=MIDPOINT | ABLE,
            trainer=ALARMING | {"trainer.policy": "stop"},
        ),
    ],
    "resume": [
        distill(
            "run",
            *("--teacher", "flow", "--data", "moons"),
            data=PLANE,
            teacher=EULER,
            trainer={"trainer.checkpoint_every": 5, "trainer.keep": 9, "trainer.emas": [0.9], "trainer.surge": 2.0},
        ),
        Cut("run", "student", 15),
        Run(["resume", "run"]),
        Cut("run", "teacher", 20),
        Run(["resume", "run"]),
    ],
    "train": [
        Run(
            [
                *("train", "--family", "interpolant", "--data", "swiss-roll", "--steps", "30", "--device", "cpu", "--seed", "1"),
                *("--out", "teacher", *sets({**TEACHER, **NETWORK, **PLANE, **SDE, "teacher.training.betas": [0.5, 0.99]})),
            ]
        ),
        distill(
            "first", "--teacher", "teacher", "--data", "swiss-roll", "--recipe", "correct", data=PLANE, trainer={"trainer.watch_every": 0}
        ),
        Run(["evaluate", "first", "--draws", "2", "--seed", "5", "--device", "cpu"]),
    ],
    "file-teacher": [
        Write("mine.py", FILE_TEACHER),
        distill("run", "--teacher", "mine.py:teacher", "--data", "checkerboard", data=PLANE, teacher=EULER, student=OWN_NETWORK),
    ],
    "api-teachers": [
        Script(
            API_TEACHERS,
            {
                "own": {
                    **SMALL,
                    "student.network": {"name": "mlp", "width": 32, "depth": 1},
                    "trainer.emas": [0.9],
                    "trainer.times": {"low": 0.05, "log_ratio": [0.2, 1.0]},
                },
                "copied": {**SMALL, "student.steps": 2, "student.start": 0.9, "trainer.engine.micro": 32, "evaluation.clip": True},
            },
        )
    ],
    "api-runs": [
        Script(
            API_RUNS,
            {
                "teacher": {**TEACHER, **NETWORK, **PLANE, "teacher.sampler": {"name": "ddim", "steps": 8}},
                "first": {**SMALL, **PLANE, "trainer.student_rate": 1e-3, "trainer.critic_rate": 2e-3, "trainer.surge": 1.5},
                "more": {**SMALL, **PLANE, "trainer.clip": 1.0, "trainer.student_factor": 0.5, "trainer.keep": 1},
            },
        )
    ],
}


# -- translation --------------------------------------------------------------------------------------------------------------


def new_path(path: str) -> str:
    """Returns the new name of a setting."""
    for old, new in RENAMED.items():
        found = re.fullmatch(re.escape(old).replace(r"\*", "(.*)"), path)
        if found:
            return new.replace("*", found[1]) if "*" in old else new
    return path


def new_value(path: str, value: Any) -> Any:
    """Returns the new value of a setting, keys of mappings translated."""
    if isinstance(value, Mapping):
        return {_inner(path, key): new_value(f"{path}.{key}", inside) for key, inside in value.items()}
    if (path, str(value)) in VALUES:
        return VALUES[path, str(value)]
    return value


def _inner(path: str, key: str) -> str:
    parent, _, last = new_path(f"{path}.{key}").rpartition(".")
    if parent != new_path(path):
        raise SystemExit(f"{path}.{key} moves elsewhere: write it as a dotted path of its own in CASES")
    return last


def translated(settings: Settings, side: str) -> dict[str, Any]:
    """Returns settings by dotted path in the names of a side."""
    if side == "old":
        return dict(settings)
    new = {new_path(path): new_value(path, value) for path, value in settings.items()}
    return new | {f"teacher.training.{path.removeprefix('trainer.')}": value for path, value in new.items() if BOTH_PHASES.match(path)}


def command_line(argv: Sequence[str], side: str) -> list[str]:
    """Returns a command line in the names of a side."""
    if side == "old":
        return list(argv)
    words, before = [], ""
    for word in argv:
        if before == "--set":
            path, _, value = word.partition("=")
            loaded = yaml.safe_load(value)
            told = new_value(path, loaded)
            words.append(f"{new_path(path)}={value if told == loaded else _text(told)}")
        elif before in OPTION_PATHS:
            words.append(str(new_value(OPTION_PATHS[before], word)))
        else:
            words.append(WORDS.get(word, word))
        before = word
    both = [word for before, word in pairwise(words) if before == "--set" and BOTH_PHASES.match(word.partition("=")[0])]
    return words + [part for word in both for part in ("--set", f"teacher.training.{word.removeprefix('trainer.')}")]


def script(text: str, side: str) -> str:
    """Returns the text of a script in the names of a side."""
    for old, new in SCRIPT_RENAMED.items() if side == "new" else ():
        text = text.replace(old, new)
    return text


def list_cases(side: str) -> int:
    """Prints every case in the names of a side. Renamings that no case uses follow; returns the exit code."""
    lines = []
    for name, steps in CASES.items():
        lines += ["", f"# {name}"]
        for step in steps:
            if isinstance(step, Run):
                lines.append(" ".join([*(["(2 processes)"] if step.processes > 1 else []), MODULE[side], *command_line(step.argv, side)]))
            elif isinstance(step, Script):
                lines += [f"script, {key}: {translated(settings, side)}" for key, settings in step.settings.items()]
            elif isinstance(step, Write):
                lines.append(f"{step.path}: {'a script' if isinstance(step.content, str) else translated(step.content, side)}")
            else:
                lines.append(f"cut {step.run} back to {step.phase} {step.step}")
    print("\n".join(lines[1:]))
    unused = [old for old, new in RENAMED.items() if not re.search(rf"{re.escape(new.replace('*', ''))}\b", "\n".join(lines))]
    if side == "new" and unused:
        print(f"\nno case uses {', '.join(unused)}")
    return 0


def nested(settings: Settings) -> dict[str, Any]:
    """Returns settings by dotted path as the tree of a YAML file."""
    tree: dict[str, Any] = {}
    for path, value in settings.items():
        *parents, last = path.split(".")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = value
    return tree


# -- recording ------------------------------------------------------------------------------------------------------------------


class Failed(Exception):
    """A step of a case did not end as expected."""


@dataclass(frozen=True)
class Recorder:
    """Runs cases with one version of the code.

    Args:
        root: folder that holds the packages.
        out: where recordings go.
        side: names that are used, ``old`` or ``new``.
        keep: whether the folders of the runs stay.
        fresh: whether every command has an interpreter of its own.
    """

    root: Path
    out: Path
    side: str
    keep: bool = False
    fresh: bool = False

    @property
    def environment(self) -> dict[str, str]:
        """What every process needs to see: this version of the code, and one thread."""
        threads = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "MKL", "OPENBLAS", "NUMEXPR")}
        return {
            **threads,
            "PYTHONPATH": str(self.root),
            "PYTHONDONTWRITEBYTECODE": "1",  # nothing is written below root
            "PYTHONHASHSEED": "0",
            "MPLCONFIGDIR": str(self.out / ".matplotlib"),
            "CUDA_VISIBLE_DEVICES": "",
            "COLUMNS": "200",
        }

    def enter(self) -> None:
        """Starts this script again in that environment, and loads what the code uses.

        Raises:
            SystemExit: the code that would be imported is not that in ``root``.
        """
        if any(os.environ.get(key) != value for key, value in self.environment.items()):
            os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **self.environment})
        for name in ("matchlib", MODULE[self.side]):
            found = importlib.util.find_spec(name)
            if found is None or found.origin is None or not Path(found.origin).is_relative_to(self.root):
                raise SystemExit(f"{name} would be imported from {found and found.origin}, not from {self.root}")
        self.out.mkdir(parents=True, exist_ok=True)
        for name in () if self.fresh else LOADED:
            try:
                importlib.import_module(name)
            except ImportError:
                print(f"note: {name} is not there, so commands load what they need themselves")

    def record(self, name: str) -> None:
        """Runs one case and keeps what is compared, and what went wrong, if anything."""
        folder = self.out / name
        shutil.rmtree(folder, ignore_errors=True)
        work, cache = folder / "work", folder / "cache"
        work.mkdir(parents=True)
        begin, problem = time.perf_counter(), ""
        commands: list[list[str]] = []
        try:
            for i, step in enumerate(CASES[name]):
                commands += self._take(step, i, work, cache)
            self._collect(work, folder / "record")
        except Exception as error:
            problem = str(error) if isinstance(error, Failed) else traceback.format_exc()
        seconds = time.perf_counter() - begin
        note = {"case": name, "side": self.side, "root": str(self.root), "problem": problem, "seconds": seconds, "commands": commands}
        (folder / "case.json").write_text(json.dumps(note, indent=1) + "\n", encoding="utf-8")
        if not (self.keep or problem):
            shutil.rmtree(work)
            shutil.rmtree(cache, ignore_errors=True)

    def _take(self, step: Step, number: int, work: Path, cache: Path) -> list[list[str]]:
        """Takes one step of a case; returns the command lines that it ran."""
        if isinstance(step, Write):
            content = step.content
            text = script(content, self.side) if isinstance(content, str) else yaml.safe_dump(nested(translated(content, self.side)))
            (work / step.path).write_text(text, encoding="utf-8")
            return []
        if isinstance(step, Cut):
            self._cut(step, work, cache)
            return []
        if isinstance(step, Script):
            (work / f"script{number}.py").write_text(script(step.text, self.side), encoding="utf-8")
            settings = {key: translated(value, self.side) for key, value in step.settings.items()}
            (work / f"script{number}.json").write_text(json.dumps(settings), encoding="utf-8")
            words, code = [f"script{number}.py", f"script{number}.json"], 0
        else:
            several = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(step.processes)] if step.processes > 1 else []
            words, code = [*several, "-m", MODULE[self.side], *command_line(step.argv, self.side)], step.code
        self._call(words, code, work, cache)
        return [words]

    def _call(self, words: list[str], code: int, work: Path, cache: Path) -> None:
        """Runs a command line of Python, its output behind that of the case's other commands."""
        output = work.parent / "output.txt"
        with output.open("a", encoding="utf-8") as file:
            file.write(f"$ python {' '.join(words)}\n")
            file.flush()
            several = "torch.distributed.run" in words
            ended = (self._start if self.fresh or several else self._fork)(words, work, cache, file.fileno())
        if ended != code:
            said = [line for line in output.read_text(encoding="utf-8").splitlines() if line and not line.startswith("$ ")]
            raise Failed(
                f"{' '.join(words[:4])} ... ended with {ended}, not {code}: {said[-1][:300] if said else 'no output'} (see {output})"
            )

    @staticmethod
    def _start(words: list[str], work: Path, cache: Path, output: int) -> int:
        """Runs a command line in an interpreter of its own and returns its exit code."""
        env = {**os.environ, "XDG_CACHE_HOME": str(cache)}
        command = [sys.executable, *words]
        try:
            return subprocess.run(command, cwd=work, env=env, stdout=output, stderr=output, timeout=PATIENCE, check=False).returncode
        except subprocess.TimeoutExpired:
            return -signal.SIGALRM

    @staticmethod
    def _fork(words: list[str], work: Path, cache: Path, output: int) -> int:
        """Does the same in a copy of this process, its packages loaded."""
        child = os.fork()
        if child:
            return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        signal.alarm(PATIENCE)  # ends a command that hangs
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.chdir(work)
        os.environ["XDG_CACHE_HOME"] = str(cache)
        code = 1
        try:
            module = words[0] == "-m"
            sys.argv = words[1:] if module else list(words)
            sys.path[0] = str(work)
            if module:
                runpy.run_module(words[1], run_name="__main__", alter_sys=True)
            else:
                runpy.run_path(words[0], run_name="__main__")
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    def _cut(self, cut: Cut, work: Path, cache: Path) -> None:
        layout, run = LAYOUT[self.side], work / cut.run
        if cut.step not in _steps(run / layout.checkpoints).get(cut.phase, {}):
            raise Failed(f"{cut.run} has no checkpoint of {cut.phase} at step {cut.step}")
        for phase, files in _steps(run / layout.checkpoints).items():
            for step, file in files.items():
                later = step > cut.step if phase == cut.phase else cut.phase == "teacher"
                if later:
                    file.unlink()
        shutil.rmtree(run / layout.student)
        (run / layout.scores).unlink()
        if cut.phase == "teacher":
            shutil.rmtree(run / layout.teacher)
            shutil.rmtree(cache)  # or else the teacher is taken from there

    def _collect(self, work: Path, record: Path) -> None:
        """Copies the files that are compared, under the old version's names."""
        layout, plain = LAYOUT[self.side], LAYOUT["old"]
        for config in sorted(work.rglob(layout.config)):
            run = config.parent
            to = record / "runs" / run.relative_to(work)
            for there, name in ((layout.log, plain.log), (layout.scores, plain.scores)):
                _copy(run / there, to / name)
            for there, name in ((layout.teacher, plain.teacher), (layout.student, plain.student)):
                for file in sorted((run / there).glob("*.safetensors")):
                    _copy(file, to / name / file.name)
            checkpoints = _steps(run / layout.checkpoints)
            for phase, files in checkpoints.items():
                _copy(files[max(files)], to / "last" / f"{phase}.safetensors")
            steps = {phase: sorted(files) for phase, files in checkpoints.items()}
            (to / "steps.json").write_text(json.dumps(steps), encoding="utf-8")
        for file in sorted(work.glob("*.npz")):
            _copy(file, record / "samples" / file.name)
        if not (record / "runs").exists():
            raise Failed("there is no run to compare")


def _steps(checkpoints: Path) -> dict[str, dict[int, Path]]:
    """The checkpoints in a folder by phase and step."""
    found: dict[str, dict[int, Path]] = {}
    for file in sorted(checkpoints.glob("*.safetensors")):
        phase, _, step = file.stem.rpartition("-")
        found.setdefault(phase, {})[int(step)] = file
    return found


def _copy(file: Path, to: Path) -> None:
    if not file.exists():  # a run that stopped itself has no scores; what only one side lacks is reported when they are compared
        return
    to.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(file, to)


def record(recorder: Recorder, names: Sequence[str], jobs: int) -> int:
    """Records cases, so many at a time, each in a process; returns the exit code."""
    recorder.enter()
    begin, failed, waiting, running = time.perf_counter(), 0, list(names), {}
    while waiting or running:
        while waiting and len(running) < jobs:
            name = waiting.pop(0)
            sys.stdout.flush()
            child = os.fork()
            if not child:
                try:
                    recorder.record(name)
                finally:
                    os._exit(0)
            running[child] = name
        name = running.pop(os.wait()[0])
        note = recorder.out / name / "case.json"
        made = json.loads(note.read_text(encoding="utf-8")) if note.exists() else {"problem": "its process died", "seconds": math.nan}
        failed += bool(made["problem"])
        print(f"{name:20} {made['seconds']:6.1f} s  {made['problem'] or 'recorded'}", flush=True)
    print(f"{len(names) - failed} of {len(names)} cases recorded in {time.perf_counter() - begin:.0f} s, in {recorder.out}")
    return int(failed > 0)


# -- comparing ------------------------------------------------------------------------------------------------------------------


@dataclass
class Part:
    """Numbers of one kind that were compared.

    Attributes:
        count: of tensors, scores or rows.
        worst: largest absolute difference.
        found: descriptions of what differs.
    """

    count: int = 0
    worst: float = 0.0
    found: list[str] = field(default_factory=list)

    def add(self, name: str, difference: float, tolerance: float) -> None:
        """Takes one difference into account."""
        self.count += 1
        self.worst = max(self.worst, difference)
        if difference > tolerance:
            self.found.append(f"{name}: differs by {difference:.3g}")

    def names(self, a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
        """Returns the names in both, and notes those that are in one only."""
        self.found += [f"{name}: missing" for name in a if name not in b]
        self.found += [f"{name}: extra" for name in b if name not in a]
        return [name for name in a if name in b]


def _renamed(name: str, rules: Sequence[tuple[str, str]], side: str) -> str:
    for pattern, replacement in rules if side == "old" else ():
        name = re.sub(pattern, replacement, name)
    return name


def tensors_of(folder: Path, side: str) -> dict[str, Any]:
    """Returns every tensor of a recording by ``file:key``."""
    import numpy as np
    import torch
    from safetensors import safe_open

    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            found |= {f"{path.relative_to(folder)}:{key}": file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    for path in sorted(folder.rglob("*.npz")):
        with np.load(path) as arrays:
            found |= {f"{path.relative_to(folder)}:{key}": torch.from_numpy(x) for key, x in arrays.items()}
    return {_renamed(name, TENSORS_RENAMED, side): x for name, x in found.items()}


def tensor_difference(a: Any, b: Any) -> float:
    """Returns the largest absolute difference, infinite for another shape or type; NaN equals NaN."""
    import torch

    if a.shape != b.shape or a.dtype != b.dtype:
        return math.inf
    if a.numel() == 0 or torch.equal(a, b):
        return 0.0
    x, y = a.double(), b.double()
    gap = (x - y).abs()
    gap[(x == y) | (x.isnan() & y.isnan())] = 0.0
    return float(gap.nan_to_num(math.inf, math.inf).max())


def number_difference(a: float, b: float) -> float:
    """Returns the absolute difference; NaN equals NaN, and infinity itself."""
    if a == b or (math.isnan(a) and math.isnan(b)):
        return 0.0
    gap = abs(a - b)
    return math.inf if math.isnan(gap) else gap


def numbers_in(node: Any, path: str = "") -> Iterator[tuple[str, float]]:
    """Yields the numbers of a JSON value by dotted path, durations left out."""
    if IGNORED.search(path):
        return
    if isinstance(node, Mapping):
        for key, value in node.items():
            yield from numbers_in(value, f"{path}.{key}" if path else key)
    elif isinstance(node, list):
        for i, value in enumerate(node):
            yield from numbers_in(value, f"{path}.{i}")
    elif node is None:
        yield path, math.nan
    elif isinstance(node, int | float) or node in ("inf", "-inf"):
        yield path, float(node)


def scores_of(folder: Path, side: str) -> dict[str, float]:
    """Returns every score of a recording by ``file:dotted.path``. The steps of the checkpoints that were kept are among them."""
    found: dict[str, float] = {}
    for name in (LAYOUT["old"].scores, "steps.json"):
        for path in sorted(folder.rglob(name)):
            tree = json.loads(path.read_text(encoding="utf-8"))
            found |= {f"{path.relative_to(folder)}:{key}": value for key, value in numbers_in(tree)}
    return {_renamed(name, SCORES_RENAMED, side): value for name, value in found.items()}


def rows_of(folder: Path) -> dict[str, list[float]]:
    """Returns every row of a recording's logs by ``file:number``.

    A row is its step, its sorted losses, its sorted readings and the number of its alarms.
    """
    found: dict[str, list[float]] = {}
    for path in sorted(folder.rglob(LAYOUT["old"].log)):
        for i, line in enumerate(path.read_text(encoding="utf-8").splitlines()):
            row = json.loads(line)
            values = {key: value for key, value in row.items() if key not in PLACE and not IGNORED.search(key)}
            numbers = {key: value for key, value in values.items() if isinstance(value, int | float)}
            alarms = [float(len(value)) for value in values.values() if isinstance(value, list)]
            losses = [value for key, value in numbers.items() if key.startswith(LOSS)]
            readings = [value for key, value in numbers.items() if not key.startswith(LOSS)]
            found[f"{path.relative_to(folder)}:{i}"] = [float(row["step"]), *_sorted(losses), *_sorted(readings), *alarms]
    return found


def _sorted(values: Sequence[float]) -> list[float]:
    return sorted(values, key=lambda x: (math.isnan(x), x))


def compare_case(a: Path, b: Path, tolerance: float) -> dict[str, Part]:
    """Compares two recordings of a case."""
    parts = {"tensors": Part(), "scores": Part(), "rows": Part(), "case": Part()}
    notes = [json.loads((folder / "case.json").read_text(encoding="utf-8")) for folder in (a, b)]
    parts["case"].found += [
        f"{folder}: failed when it was recorded: {note['problem']}" for folder, note in zip((a, b), notes, strict=True) if note["problem"]
    ]
    if parts["case"].found:
        return parts
    (one, other), sides = (a / "record", b / "record"), [note["side"] for note in notes]
    tensors = tensors_of(one, sides[0]), tensors_of(other, sides[1])
    for name in parts["tensors"].names(*tensors):
        parts["tensors"].add(name, tensor_difference(tensors[0][name], tensors[1][name]), tolerance)
    scores = scores_of(one, sides[0]), scores_of(other, sides[1])
    for name in parts["scores"].names(*scores):
        parts["scores"].add(name, number_difference(scores[0][name], scores[1][name]), tolerance)
    rows = rows_of(one), rows_of(other)
    for name in parts["rows"].names(*rows):
        left, right = rows[0][name], rows[1][name]
        gap = max(map(number_difference, left, right), default=0.0) if len(left) == len(right) else math.inf
        parts["rows"].add(name, gap, tolerance)
    return parts


def compare(a: Path, b: Path, names: Sequence[str], tolerance: float, most: int) -> int:
    """Compares two recordings and prints a table; returns the exit code."""
    present = [{path.parent.name for path in folder.glob("*/case.json")} for folder in (a, b)]
    chosen = [name for name in CASES if name in names] if names else [name for name in CASES if name in present[0] | present[1]]
    print(f"{'case':20} {'tensors':>8} {'max diff':>9} {'scores':>8} {'max diff':>9} {'rows':>5} {'max diff':>9}  verdict")
    wrong, listed = 0, []
    for name in chosen:
        absent = [str(folder) for folder, there in zip((a, b), present, strict=True) if name not in there]
        if absent:
            wrong += 1
            print(f"{name:20} {'':54}  MISSING in {' and '.join(absent)}")
            continue
        parts = compare_case(a / name, b / name, tolerance)
        found = [line for part in parts.values() for line in part.found]
        empty = not parts["tensors"].count
        wrong += bool(found or empty)
        cells = " ".join(
            f"{parts[key].count:>{width}} {parts[key].worst:>9.3g}" for key, width in (("tensors", 8), ("scores", 8), ("rows", 5))
        )
        print(f"{name:20} {cells}  {'DIFFERS' if found else 'NOTHING COMPARED' if empty else 'same'}")
        for key, part in parts.items():
            listed += [f"  {name}, {key}: {line}" for line in part.found[:most]]
            listed += [f"  {name}, {key}: and {len(part.found) - most} more"] if len(part.found) > most else []
    print("\n".join([*listed, f"{len(chosen) - wrong} of {len(chosen)} cases are the same"]))
    return int(wrong > 0 or not chosen)


def main(argv: Sequence[str] | None = None) -> int:
    """Records or compares; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    making = commands.add_parser("record", help="run the cases and keep what is compared")
    making.add_argument("--root", type=Path, required=True, help="folder that holds matchlib and matchlib_cli")
    making.add_argument("--out", type=Path, required=True, help="where the recording goes")
    making.add_argument("--side", choices=("old", "new"), default="old", help="names of settings that the code in --root knows")
    making.add_argument("--only", nargs="+", metavar="NAME", choices=CASES, default=list(CASES), help="cases [default: all]")
    making.add_argument("--jobs", type=int, default=1, help="cases at a time")
    making.add_argument("--keep", action="store_true", help="keep the folders of the runs too")
    making.add_argument("--fresh", action="store_true", help="start an interpreter for every command: the same, but slower")
    comparing = commands.add_parser("compare", help="compare two recordings; exits with 1 if anything differs")
    comparing.add_argument("a", type=Path)
    comparing.add_argument("b", type=Path)
    comparing.add_argument("--only", nargs="+", metavar="NAME", choices=CASES, default=[], help="cases [default: all that were recorded]")
    comparing.add_argument("--tolerance", type=float, default=0.0, help="largest absolute difference that passes")
    comparing.add_argument("--most", type=int, default=8, help="differences of a kind that are listed for each case")
    listing = commands.add_parser("list", help="print what the cases run")
    listing.add_argument("--side", choices=("old", "new"), default="old", help="names that are used")
    args = parser.parse_args(argv)
    if args.command == "record":
        return record(Recorder(args.root.resolve(), args.out.resolve(), args.side, args.keep, args.fresh), args.only, args.jobs)
    if args.command == "compare":
        return compare(args.a, args.b, args.only, args.tolerance, args.most)
    return list_cases(args.side)


if __name__ == "__main__":
    sys.exit(main())
