"""What does it cost that data stay on disk?

    python -m benchmarks.speed.data_on_disk --mnist MNIST.npz --cifar CIFAR.npz [--only step memory prepare] [--images 50000]

``step``: a training step with data on disk against one with data in memory, in turns, in one process. ``memory``: what a process holds
while it trains and scores on 3 GB of images, against one that does so on 60,000 or 4,000 of them. ``prepare``: JPEG files of mixed sizes,
against a bare loop of Pillow that opens, cuts and scales them; and what comes of a preparation that is killed again and again.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.record import CACHE, RESULTS, save

PLACE, RESULT = CACHE / "data-on-disk", RESULTS / "data-on-disk.json"
SIZE, KILLS = 64, 5
TRAINED = """
import os, sys
from pathlib import Path
import matchlib
from benchmarks.robustness.soak import resident
rows = []
def seen(row):
    rows.append((row.phase, resident()))
data, out = sys.argv[1:]
matchlib.distill("flow", data, steps=300, out=out, on_progress=seen, settings={
    "teacher.training.steps": 300, "teacher.network": {"name": "mlp", "width": 256, "depth": 3}, "trainer.batch_size": 128,
    "trainer.log_every": 10, "teacher.training.log_every": 10, "evaluation.draws": 1, "evaluation.samples": 2000})
print("RESULT", rows[0][1], max(x for _, x in rows), resident(),
      1024 * int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]))
"""


def steps(mnist: Path) -> list[dict[str, Any]]:
    """A step of a teacher's training, batch 128, images of 28x28."""
    import matchlib
    from matchlib.data import readers
    from matchlib.data.readers import load_dataset
    from matchlib.plugins.tasks import MatchingTask
    from matchlib.runs.build import build
    from matchlib.runs.settings import resolve
    from matchlib.training.random import Streams
    from matchlib.training.settings import TrainerSettings
    from matchlib.training.task import Learner
    from matchlib.training.trainer import Trainer

    folder, small = PLACE / "mnist", PLACE / "mnist.npz"
    file = np.load(mnist)
    np.savez(small, data=file["train_x"][:, None], labels=file["train_y"])
    shutil.rmtree(folder, ignore_errors=True)
    matchlib.prepare(small, folder)
    rows = []
    for width, depth in ((192, 3), (768, 4)):
        trainers = {}
        for where, limit in (("memory", 1 << 30), ("disk", 0)):
            readers.IN_MEMORY = limit
            data = load_dataset(folder)
            assert (data.stored is not None) == (where == "disk")
            settings = resolve(
                "train", settings={"data.name": str(folder), "teacher.network": {"name": "mlp", "width": width, "depth": depth}}
            )
            parts = build(settings)
            parts.teacher.field.train().requires_grad_(True)
            task = MatchingTask(
                Learner(parts.teacher.field, 1e-4), parts.config.model, data, Streams(0, torch.device("cpu")), batch_size=128
            )
            trainers[where] = Trainer(task, TrainerSettings(steps=10**6))
        seconds: dict[str, list[float]] = {"memory": [], "disk": []}
        for turn in range(60):
            for where, trainer in trainers.items():
                begin = time.perf_counter()
                for _ in range(10):
                    trainer.step()
                if turn > 4:
                    seconds[where].append((time.perf_counter() - begin) / 10)
        ratios = np.array(seconds["disk"]) / np.array(seconds["memory"])
        spread = np.quantile(np.random.default_rng(0).choice(ratios, (2000, len(ratios))).mean(1), [0.025, 0.975]).tolist()
        rows.append(
            {
                "what": "step",
                "network": f"mlp {width}x{depth}",
                "memory ms": 1e3 * np.median(seconds["memory"]),
                "ratio": ratios.mean(),
                "interval": spread,
            }
        )
        print(rows[-1], flush=True)
    return rows


def memory(mnist: Path) -> list[dict[str, Any]]:
    """What a process holds on 4,000 images in memory, on 60,000, and on 3 GB on disk."""
    x, rows = np.load(mnist)["train_x"][:, None], []
    np.save(PLACE / "tiny.npy", x[:4000])
    np.save(PLACE / "small.npy", x)
    if not (PLACE / "large.npy").exists():
        copies = 66
        large = np.lib.format.open_memmap(PLACE / "part.npy", "w+", np.uint8, (copies * len(x), *x.shape[1:]))
        for k in range(copies):
            large[k * len(x) : (k + 1) * len(x)] = np.roll(x, (k // 8 - 4, k % 8 - 4), (2, 3))
        large.flush()
        del large
        os.replace(PLACE / "part.npy", PLACE / "large.npy")
    for name in ("tiny", "small", "large"):
        out, cache = PLACE / f"run-{name}", PLACE / "cache"
        for folder in (out, cache):
            shutil.rmtree(folder, ignore_errors=True)
        begin = time.perf_counter()
        environment = {**os.environ, "XDG_CACHE_HOME": str(cache)}
        done = subprocess.run(
            [sys.executable, "-c", TRAINED, str(PLACE / f"{name}.npy"), str(out)],
            check=True,
            capture_output=True,
            text=True,
            env=environment,
        )
        first, most, end, peak = (int(word) / 2**20 for word in done.stdout.split("RESULT")[1].split()[:4])
        gigabytes = (PLACE / f"{name}.npy").stat().st_size / 1e9
        row = {
            "what": "memory",
            "data GB": gigabytes,
            "at the first step MiB": first,
            "most while training MiB": most,
            "after scoring MiB": end,
            "most MiB": peak,
        }
        rows.append({**row, "seconds": time.perf_counter() - begin})
        print(rows[-1], flush=True)
    return rows


def photographs(cifar: Path, n: int) -> Path:
    """JPEG files of 60 to 240 pixels a side."""
    from PIL import Image

    folder, rng = PLACE / f"photographs-{n}", np.random.default_rng(0)
    if (folder / "done").exists():
        return folder
    file = np.load(cifar)
    jpeg, offsets = file["jpeg"], file["offsets"]
    for i in range(n):
        part = folder / f"{i % 10}"
        part.mkdir(parents=True, exist_ok=True)
        width, height = rng.integers(60, 240, 2).tolist()
        k = i % (len(offsets) - 1)
        image = Image.open(io.BytesIO(jpeg[offsets[k] : offsets[k + 1]].tobytes()))
        image.resize((width, height)).save(part / f"{i:05}.jpg", quality=85)
    (folder / "done").touch()
    return folder


def preparation(cifar: Path, n: int) -> list[dict[str, Any]]:
    """The rate of preparing, and its bytes after kills."""
    from PIL import Image, ImageOps

    import matchlib

    folder = photographs(cifar, n)
    files = sorted(folder.rglob("*.jpg"))
    begin = time.perf_counter()
    for file in files:
        with Image.open(file) as image:
            np.asarray(ImageOps.fit(image.convert("RGB"), (SIZE, SIZE), method=Image.Resampling.BICUBIC))
    bare, rows = len(files) / (time.perf_counter() - begin), []
    for workers in (1, 2):
        shutil.rmtree(PLACE / "set", ignore_errors=True)
        begin = time.perf_counter()
        matchlib.prepare(folder, PLACE / "set", size=SIZE, workers=workers)
        rate = len(files) / (time.perf_counter() - begin)
        rows.append(
            {
                "what": "prepare",
                "images": len(files),
                "workers": workers,
                "bare images/s": bare,
                "images/s": rate,
                "ratio": rate / bare / workers,
            }
        )
        print(rows[-1], flush=True)
    expected, command = contents(PLACE / "set"), [sys.executable, "-m", "matchlib_cli", "prepare", str(folder), "--size", str(SIZE)]
    killed, rng, seconds = PLACE / "killed", np.random.default_rng(0), len(files) / rate
    shutil.rmtree(killed, ignore_errors=True)
    for _ in range(KILLS):
        process = subprocess.Popen([*command, "--out", str(killed)], stdout=subprocess.DEVNULL)
        while process.poll() is None and not (killed / "unfinished.json").exists():
            time.sleep(0.1)
        time.sleep(3 + rng.uniform(0, 0.25) * seconds)  # it takes some of it to start
        process.send_signal(signal.SIGKILL)
        process.wait()
    done_before = json.loads((killed / "unfinished.json").read_text())["done"]
    subprocess.run([*command, "--out", str(killed)], check=True, stdout=subprocess.DEVNULL)
    rows.append({"what": "kills", "kills": KILLS, "done before the last": done_before, "same bytes": contents(killed) == expected})
    print(rows[-1], flush=True)
    return rows


def contents(folder: Path) -> dict[str, bytes]:
    """What the files of a prepared set hold."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if not path.name.startswith(".")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mnist", type=Path, required=True)
    parser.add_argument("--cifar", type=Path, required=True)
    parser.add_argument("--images", type=int, default=50_000)
    parser.add_argument("--only", nargs="+", default=["step", "memory", "prepare"])
    given = parser.parse_args()
    PLACE.mkdir(parents=True, exist_ok=True)
    kept = json.loads(RESULT.read_text())["rows"] if RESULT.exists() else []
    rows = [row for row in kept if ("prepare" if row["what"] == "kills" else row["what"]) not in given.only]
    for name, part in (
        ("prepare", lambda: preparation(given.cifar, given.images)),
        ("memory", lambda: memory(given.mnist)),
        ("step", lambda: steps(given.mnist)),
    ):
        rows += part() if name in given.only else []
    save("data-on-disk", rows)


if __name__ == "__main__":
    main()
