"""Do the default rules hold across data sets, sizes and families?

    python -m benchmarks.quality.defaults [--mnist MNIST.npz] [--only digits-flow ...] [--seeds 0]

Every cell distils one teacher twice: with the values that were tuned on digits of 8x8 (``fixed``), and with the rules of
``matchlib.distillation.defaults`` (``rules``). Cells are cached.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.record import CACHE, RESULTS, cell, defaults, distilled, merged, save, save_arrays
from matchlib.plugins.interpolants import VE

SHOWN = ("nfe", "frechet", "frechet_raw", "sliced_wasserstein", "w2", "coverage", "nearest_ratio", "class_shares_tv", "seconds")
START = {"diffusion": VE(80.0).time(2.5), "diffusion-vp": 0.35}
RATES = {"diffusion": (5e-4, 1e-3), "diffusion-vp": (3e-4, 6e-4)}
LARGE = ['teacher.network={"name":"mlp","width":768,"depth":4}', "teacher.training.steps=2000", "trainer.steps=1200"]


def cells(mnist: Path | None) -> dict[str, tuple[str, str, list[str]]]:
    """Returns (family, data, further settings) by name; unpaired data only, where the rules apply."""
    found: dict[str, tuple[str, str, list[str]]] = {}
    for family in ("flow", "diffusion", "diffusion-vp", "bridge", "interpolant"):
        found[f"digits-{family}"] = family, "digits", []
    found["digits-diffusion-vp-unlabelled"] = "diffusion-vp", "digits", ["data.labels=false"]
    for name in ("moons", "checkerboard", "eight-gaussians"):
        found[f"{name}-flow"] = "flow", name, []
    if mnist is not None:
        for labels in (True, False):
            options = [*LARGE, f"data.labels={str(labels).lower()}"]
            found[f"mnist-flow-{'labelled' if labels else 'unlabelled'}"] = "flow", str(mnist), options
    return found


def fixed(family: str) -> list[str]:
    """The settings that were right for digits of 8x8 and a network of width 192."""
    student, critic = RATES.get(family, (1e-3, 2e-3))
    settings = [
        f"trainer.student_lr={student}",
        f"trainer.critic_lr={critic}",
        "trainer.times.log_sigma=[0.5, 1.0]",
        "trainer.critic_steps=1",
    ]
    return settings + ([f"student.t_start={START[family]}", "student.axes=0"] if family in START else [])


def small_mnist(path: Path) -> Path:
    """Writes the first 20,000 training images as a data set of its own."""
    target = CACHE / "mnist-20000.npz"
    if not target.exists():
        file = np.load(path)
        save_arrays(target, data=file["train_x"][:20_000, None], labels=file["train_y"][:20_000])
    return target


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Draws how far students are from the data, relative to their teachers, at both kinds of values."""
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(row["cell"] for row in rows))
    figure = Figure(figsize=(7, 0.35 * len(names) + 1.2), layout="constrained")
    axes = figure.subplots()
    for arm, marker in (("fixed", "x"), ("rules", "o")):
        found = [(row["ratio"], names.index(row["cell"])) for row in rows if row["arm"] == arm]
        axes.scatter(*zip(*found, strict=True), marker=marker, label={"fixed": "as for digits of 8x8", "rules": "defaults"}[arm], zorder=2)
    axes.axvline(1.0, color="grey", linewidth=0.8, zorder=1)
    axes.set_xscale("log")
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set_xlabel("Frechet distance, student / teacher")
    axes.legend(loc="upper right")
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mnist", type=Path)
    parser.add_argument("--only", nargs="+")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    given = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for name, (family, data, settings) in cells(None if given.mnist is None else small_mnist(given.mnist)).items():
        if given.only and name not in given.only:
            continue
        for seed in given.seeds:
            for arm, more in (("fixed", fixed(family)), ("rules", [])):
                options = ["--teacher", family, "--data", data, "--seed", str(seed)]
                options += [part for item in [*settings, *more] for part in ("--set", item)]
                key = {"benchmark": "defaults", "name": name, "seed": seed, "arm": arm, "options": options}
                key["defaults"] = defaults(family, rules=arm == "rules")
                folder = CACHE / f"defaults-{name}-{arm}-{seed}"
                row = {"cell": name, "seed": seed, "arm": arm, **cell(key, lambda o=options, f=folder: distilled(o, f, SHOWN))}
                row["ratio"] = row["student"]["frechet"] / row["teacher"]["frechet"]
                row["ratio_raw"] = row["student"]["frechet_raw"] / row["teacher"]["frechet_raw"]
                rows.append(row)
                student, teacher, held = row["student"], row["teacher"], row["held_out"]
                print(
                    f"{name:32} seed {seed} {arm:6} student {student['frechet']:.3f} teacher {teacher['frechet']:.3f} held-out "
                    f"{held['frechet']:.3f} raw {student['frechet_raw']:.2f} {teacher['frechet_raw']:.2f} {held['frechet_raw']:.2f} "
                    f"ratio {row['ratio']:.2f} ({row['ratio_raw']:.2f}) coverage {student.get('coverage', float('nan')):.2f} "
                    f"{row['seconds_in_all']:.0f} s",
                    flush=True,
                )
    rows = merged("defaults", rows, "cell", "seed", "arm")
    save("defaults", rows)
    draw(rows, RESULTS.parents[1] / "docs" / "images" / "defaults.svg")


if __name__ == "__main__":
    main()
