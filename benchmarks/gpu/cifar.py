"""CIFAR-10 by the published protocol, in slices of a few minutes: a teacher, UID, RealUID, its fine-tuning, and extrapolation.

    python -m benchmarks.gpu.cifar CIFAR10.npz --out FOLDER [--minutes 9] [--share 1] [--precision bf16] [--extractor INCEPTION.pt]

The settings are those of docs/guides/cifar10.yaml, but for the precision. Every run is a command of matchlib that is interrupted when the
time is up and goes on at the next call, from its checkpoint; ``FOLDER/cifar.json`` holds what there is so far: steps, images per second of
the latest slice, and scores where a run has ended. ``--share`` is the part of the published numbers of steps that is taken. ``--smoke``
tries the same commands with a network of a few weights, on whatever machine.

CIFAR10.npz holds data (n, 3, 32, 32), or JPEG files one after the other with their offsets, and labels.

References:
    Kornilov et al., "Universal Inverse Distillation for Matching Models with Real-Data Supervision (No GANs)", 2025,
    https://arxiv.org/abs/2509.22459 (protocol; from scratch and fine-tuned)
"""

from __future__ import annotations

import argparse
import io
import itertools
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.record import HERE, machine, save_arrays
from matchlib.io import read_json, write_json
from matchlib.runs.artifact import versions

PROTOCOL = HERE.parent / "docs" / "guides" / "cifar10.yaml"
STEPS = {"teacher": 400_000, "student": 500_000, "fine-tuned": 100_000}
FINE_TUNED = ["loss.beta=0.86", "loss.gamma=0.92", "trainer.student_lr=1e-5", "trainer.critic_lr=1e-5"]
INTERRUPTED = (130, -signal.SIGTERM)  # the second while Python starts
GRACE = 60.0  # seconds that a run has to write its checkpoint
SMALL = '{"name":"mlp","width":16,"depth":1}'
SMOKE = [
    *(f"teacher.network={SMALL}", f"trainer.critic_network={SMALL}", "teacher.sampler.steps=4", "teacher.training.batch_size=8"),
    *("trainer.batch_size=8", "evaluation.samples=100", "teacher.training.engine={}", "trainer.engine={}", "trainer.monitor_every=0"),
    *("teacher.training.log_every=10", "trainer.log_every=10", "evaluation.metrics=[frechet-raw]"),
]


@dataclass(frozen=True)
class Phase:
    """A run: a command of matchlib with its options.

    Args:
        length: name of its number of steps in ``STEPS``.
        after: the run that must have ended before.
    """

    command: str
    length: str
    options: list[str] = field(default_factory=list)
    settings: list[str] = field(default_factory=list)
    after: str | None = None


def phases(folder: Path) -> dict[str, Phase]:
    """Returns the runs by name, in the order in which they are made."""
    taught = ["--teacher", str(folder / "teacher" / "teacher")]
    return {
        "teacher": Phase("train", "teacher"),
        "uid": Phase("distill", "student", [*taught, "--loss", "uid"], after="teacher"),
        "realuid": Phase("distill", "student", taught, after="teacher"),
        "realuid fine-tuned": Phase("distill", "fine-tuned", [*taught, "--student", str(folder / "realuid")], FINE_TUNED, after="realuid"),
        "extrapolated": Phase("distill", "student", taught, ["loss.alpha=2", "loss.beta=2", "loss.gamma=0.5"], after="teacher"),
    }


def images(path: Path, folder: Path) -> Path:
    """Returns a file of images that matchlib reads."""
    file = np.load(path)
    if "data" in file:
        return path
    from PIL import Image

    target = folder / "cifar10.npz"
    if not target.exists():
        jpeg, pairs = file["jpeg"], itertools.pairwise(file["offsets"])
        pixels = [np.asarray(Image.open(io.BytesIO(jpeg[begin:end].tobytes())).convert("RGB")) for begin, end in pairs]
        save_arrays(target, data=np.stack(pixels).transpose(0, 3, 1, 2), labels=file["labels"])
    return target


def command(name: str, phase: Phase, data: Path, folder: Path, settings: list[str], share: float) -> list[str]:
    """Returns the command of a run, which starts it or goes on with it."""
    steps = max(1, round(share * STEPS[phase.length]))
    every = [f"data.name={data}", *phase.settings, *settings]
    if phase.command == "train":
        every.append(f"teacher.training.steps={steps}")
    else:
        every.append(f"trainer.steps={steps}")
    parts = [phase.command, "--config", str(PROTOCOL), *phase.options, *(x for item in every for x in ("--set", item))]
    return [sys.executable, "-m", "matchlib_cli", *parts, "--out", str(folder / name.replace(" ", "-")), "--resume"]


def run(words: list[str], until: float) -> int:
    """Runs a command, interrupts it when the time is up, and returns its exit code."""
    with subprocess.Popen(words) as process:
        try:
            return process.wait(max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGTERM)
        try:
            return process.wait(GRACE)
        except subprocess.TimeoutExpired:
            process.kill()
            return process.wait()


def so_far(name: str, folder: Path, batch: int) -> dict[str, Any]:
    """Returns how far a run is, how fast, and its scores if it has ended."""
    import json

    place, row = folder / name.replace(" ", "-"), {"run": name}
    log = place / "metrics.jsonl"
    lines = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    timed = [line for line in lines if "seconds" in line and line.get("step")]
    if timed:
        first = last = timed[-1]  # of the latest slice: seconds begin anew in each
        for line in reversed(timed):
            if line["seconds"] > first["seconds"] or line["phase"] != last["phase"]:
                break
            first = line
        row |= {"step": last["step"], "alarms": sorted({name for line in lines for name in line.get("alarms", [])})}
        if last["seconds"] > first["seconds"]:
            row["images per second"] = batch * (last["step"] - first["step"]) / (last["seconds"] - first["seconds"])
    if (place / "evaluation.json").exists():
        report = read_json(place / "evaluation.json")
        row["features"] = report["features"]
        row |= {kind: report[kind] for kind in ("student", "teacher", "held_out") if kind in report}
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cifar", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=9.0)
    parser.add_argument("--share", type=float, default=1.0)
    parser.add_argument("--precision", default="bf16", choices=["fp32", "tf32", "bf16"])
    parser.add_argument("--compile", default="default", choices=["none", "default", "reduce-overhead", "max-autotune"])
    parser.add_argument("--extractor", default="own")
    parser.add_argument("--only", nargs="+")
    parser.add_argument("--smoke", action="store_true")
    given = parser.parse_args()
    until = time.monotonic() + 60 * given.minutes
    folder = given.out.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    data = images(given.cifar.absolute(), folder)
    engine = [f"{part}.engine.{key}" for part in ("teacher.training", "trainer") for key in ("precision", "compile")]
    values = (given.precision, "null" if given.compile == "none" else given.compile) * 2
    settings = SMOKE if given.smoke else [f"{key}={value}" for key, value in zip(engine, values, strict=True)]
    settings = [*settings, f"evaluation.extractor={given.extractor}"]
    chosen = {name: phase for name, phase in phases(folder).items() if not given.only or name in given.only}
    options = {key: getattr(given, key) for key in ("share", "precision", "compile", "extractor", "smoke")}
    try:
        go_on(chosen, folder, data, settings, given.share, until)
    finally:
        batches = {name: 128 if name == "teacher" else 256 for name in phases(folder)}
        rows = [so_far(name, folder, 8 if given.smoke else batch) for name, batch in batches.items()]
        device = torch.cuda.get_device_name() if torch.cuda.is_available() else machine()["processor"]
        write_json(folder / "cifar.json", {"device": device, "versions": versions(), "latest call": options, "rows": rows})
    for row in rows:
        print({key: value for key, value in row.items() if not isinstance(value, dict)})
    print("all runs have ended" if all(finished(name, folder) for name in chosen) else "call again to go on")


def go_on(chosen: dict[str, Phase], folder: Path, data: Path, settings: list[str], share: float, until: float) -> None:
    """Runs what has not ended, one after the other, until the time is up."""
    for name, phase in chosen.items():
        if finished(name, folder) or (phase.after is not None and not finished(phase.after, folder)):
            continue
        if time.monotonic() >= until:
            break
        words = command(name, phase, data, folder, settings, share)
        print(shlex.join(words), flush=True)
        code = run(words, until)
        if code not in (0, *INTERRUPTED):
            sys.exit(f"{name} ended with exit code {code}")


def finished(name: str, folder: Path) -> bool:
    """Whether a run has its scores."""
    return (folder / name.replace(" ", "-") / "evaluation.json").exists()


if __name__ == "__main__":
    main()
