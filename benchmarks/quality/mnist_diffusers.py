"""What does one command make of a pipeline that diffusers' own code trained?

    python -m benchmarks.quality.mnist_diffusers --mnist MNIST.npz [--time 45m]

A DDPM of MNIST without labels, trained as diffusers' unconditional example does it: noise of DDPMScheduler, mean squared error, Adam,
averaged weights. Then ``matchlib distill --teacher diffusers:FOLDER --data MNIST --time 45m``, and nothing else set. Scores are of the
features of a classifier of labelled digits. Training goes on where it stopped, and finished parts are kept in the benchmarks' cache.

MNIST.npz holds train_x (60000, 28, 28) and train_y, uint8.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DDIMScheduler, DDPMPipeline, DDPMScheduler, UNet2DModel
from diffusers.training_utils import EMAModel
from scipy import ndimage
from torch.nn import functional

import matchlib
from benchmarks.quality.defaults import small_mnist
from benchmarks.record import CACHE, RESULTS, save
from matchlib.io import read_json, write_json
from matchlib.runs.settings import from_config

BATCH, RATE, SAVED_EVERY = 64, 1e-3, 200
SHOWN = ("frechet", "frechet_raw", "kid", "precision", "recall", "coverage", "class_shares", "classes_missing", "nearest_ratio")


def network() -> UNet2DModel:
    return UNet2DModel(
        sample_size=28,
        in_channels=1,
        out_channels=1,
        layers_per_block=1,
        block_out_channels=(16, 32, 64),
        norm_num_groups=8,
        down_block_types=("DownBlock2D", "DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
    )


def train(images: np.ndarray, folder: Path, steps: int) -> None:
    """Trains and saves a DDPMPipeline as diffusers does it; goes on from ``folder``'s last state."""
    torch.manual_seed(0)
    unet, scheduler = network(), DDPMScheduler(num_train_timesteps=1000)
    optimiser = torch.optim.Adam(unet.parameters(), lr=RATE)
    rates = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, total_steps=steps, pct_start=0.05)
    average = EMAModel(unet.parameters(), decay=0.999)
    parts = {"unet": unet, "optimiser": optimiser, "rates": rates, "average": average}
    state, seconds, first = folder / "state.pt", 0.0, 0
    if state.exists():
        found = torch.load(state, weights_only=True)
        for name, part in parts.items():
            part.load_state_dict(found[name])
        torch.set_rng_state(found["random"])
        seconds, first = found["seconds"], found["step"]
    x = torch.as_tensor(images)
    begin = time.perf_counter() - seconds
    for step in range(first, steps):
        clean = x[torch.randint(len(x), (BATCH,))].float() / 127.5 - 1
        noise, times = torch.randn_like(clean), torch.randint(0, 1000, (BATCH,))
        loss = functional.mse_loss(unet(scheduler.add_noise(clean, noise, times), times).sample, noise)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        rates.step()
        average.step(unet.parameters())
        if (step + 1) % SAVED_EVERY == 0:
            seconds = time.perf_counter() - begin
            print(f"diffusers {step + 1}/{steps}  loss {loss.item():.4f}  {seconds:.0f} s", flush=True)
            found = {name: part.state_dict() for name, part in parts.items()}
            torch.save({**found, "random": torch.get_rng_state(), "seconds": seconds, "step": step + 1}, folder / "new.pt")
            os.replace(folder / "new.pt", state)
    average.copy_to(unet.parameters())
    DDPMPipeline(unet, scheduler).save_pretrained(folder / "pipeline")
    write_json(folder / "taken.json", {"seconds": time.perf_counter() - begin, "steps": steps})


def of_diffusers(folder: Path, n: int, seed: int) -> np.ndarray:
    """Samples of diffusers' own pipeline with DDIM, bytes."""
    theirs = DDPMPipeline.from_pretrained(folder, low_cpu_mem_usage=False)
    ddim = DDPMPipeline(theirs.unet, DDIMScheduler.from_config(theirs.scheduler.config))
    ddim.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(seed)
    parts = [
        ddim(batch_size=min(100, n - i), num_inference_steps=50, generator=generator, output_type="np").images for i in range(0, n, 100)
    ]
    return (np.concatenate(parts).transpose(0, 3, 1, 2) * 255).round().astype(np.uint8)


def speckle(images: np.ndarray) -> float:
    """The share of pixels more than three away from a stroke, of at least two by two pixels, that are brighter than a tenth."""
    bright, far = images[:, 0] > 25, np.empty(images[:, 0].shape, bool)
    for i, image in enumerate(images[:, 0]):
        far[i] = ~ndimage.binary_dilation(ndimage.binary_opening(image > 100, np.ones((2, 2))), iterations=3)
    return float(bright[far].mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mnist", type=Path, required=True)
    parser.add_argument("--teacher-steps", type=int, default=7000)
    parser.add_argument("--time", default="45m")
    parser.add_argument("--samples", type=int, default=2000, help="in a score against labelled digits")
    given = parser.parse_args()
    place = CACHE / "mnist-diffusers"
    place.mkdir(parents=True, exist_ok=True)
    labelled = small_mnist(given.mnist)
    images = np.load(labelled)["data"]
    if not (place / "taken.json").exists():
        train(images, place, given.teacher_steps)
    data, run = place / "mnist.npz", place / f"run-{given.time}"
    if not data.exists():
        np.savez(data, data=images)
    if not (run / "taken.json").exists():
        shutil.rmtree(run, ignore_errors=True)
        begin = time.perf_counter()
        options = ["--teacher", f"diffusers:{place / 'pipeline'}", "--data", str(data), "--time", given.time, "--out", str(run)]
        subprocess.run(
            [sys.executable, "-m", "matchlib_cli", "distill", *options],
            check=True,
            env={**os.environ, "XDG_CACHE_HOME": str(CACHE / "teachers")},
        )
        write_json(run / "taken.json", {"seconds": time.perf_counter() - begin})

    report, settings = read_json(run / "evaluation.json"), from_config(run / "config.yaml")
    pipeline = matchlib.load(run / "student")
    sets = {"student": run / "drawn.npz", "teacher, diffusers' DDIM of 50 steps": run / "ddim.npz"}
    if not sets["student"].exists():
        np.savez(sets["student"], data=pipeline.sample(given.samples, seed=1).clamp(0, 255).round().byte().numpy())
    if not sets["teacher, diffusers' DDIM of 50 steps"].exists():
        np.savez(sets["teacher, diffusers' DDIM of 50 steps"], data=of_diffusers(place / "pipeline", given.samples, 1))

    def row(kind: str, features: str, scores: dict[str, Any]) -> dict[str, Any]:
        return {"kind": kind, "features": features, **{key: scores.get(key) for key in SHOWN}}

    rows = [row(kind, report["features"], report[kind]) for kind in ("student", "teacher", "held_out")]
    for kind, path in sets.items():
        scored = matchlib.score(path, labelled)
        rows.append(row(kind, "of a classifier of labelled digits", scored["given"]) | {"speckle": speckle(np.load(path)["data"])})
    held_out = row("held_out", "of a classifier of labelled digits", scored["held_out"])
    rows.append(held_out | {"speckle": speckle(images[-given.samples :])})
    shutil.copy(run / "samples.png", RESULTS.parents[1] / "docs" / "images" / "mnist-diffusers.png")
    chosen = {"student steps": settings.trainer.steps, "batch": settings.trainer.batch_size}
    save("mnist-diffusers", rows, teacher=read_json(place / "taken.json"), seconds=read_json(run / "taken.json")["seconds"], chosen=chosen)
    for line in rows:
        print({key: value if not isinstance(value, float) else round(value, 4) for key, value in line.items()})


if __name__ == "__main__":
    main()
