"""A pipeline trained by diffusers' own code on MNIST, saved to a folder, taken as a teacher and distilled to one step.

python -m benchmarks.quality.mnist_diffusers --mnist MNIST.npz [--teacher-steps 2500] [--steps 1500]

MNIST.npz holds train_x (60000, 28, 28), uint8. Training follows diffusers' unconditional example: noise of DDPMScheduler, mean squared
error, Adam, averaged weights.
"""

from __future__ import annotations

import argparse
import shutil
import time
from pathlib import Path

import numpy as np
import torch
from diffusers import DDIMScheduler, DDPMPipeline, DDPMScheduler, UNet2DModel
from diffusers.training_utils import EMAModel
from torch.nn import functional

import matchlib
from benchmarks.record import CACHE, RESULTS, save
from matchlib.adapters import diffusers
from matchlib.io import read_json


def train(images: np.ndarray, folder: Path, steps: int, batch: int) -> float:
    """Trains and saves a DDPMPipeline as diffusers does it; returns seconds."""
    begin = time.perf_counter()
    torch.manual_seed(0)
    unet = UNet2DModel(
        sample_size=28,
        in_channels=1,
        out_channels=1,
        layers_per_block=1,
        block_out_channels=(8, 16, 32),
        norm_num_groups=4,
        down_block_types=("DownBlock2D", "DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
    )
    print(f"U-Net of {sum(w.numel() for w in unet.parameters()):,} weights", flush=True)
    scheduler = DDPMScheduler(num_train_timesteps=1000)
    optimiser = torch.optim.Adam(unet.parameters(), lr=2e-3)
    rates = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-3, total_steps=steps, pct_start=0.1)
    average = EMAModel(unet.parameters(), decay=0.995)
    x = torch.as_tensor(images)[:, None]
    for step in range(steps):
        clean = x[torch.randint(len(x), (batch,))].float() / 127.5 - 1
        noise, times = torch.randn_like(clean), torch.randint(0, 1000, (batch,))
        loss = functional.mse_loss(unet(scheduler.add_noise(clean, noise, times), times).sample, noise)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        rates.step()
        average.step(unet.parameters())
        if step % 100 == 0:
            print(f"diffusers {step}/{steps}  loss {loss.item():.4f}  {time.perf_counter() - begin:.0f} s", flush=True)
    average.copy_to(unet.parameters())
    DDPMPipeline(unet, scheduler).save_pretrained(folder)
    return time.perf_counter() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mnist", type=Path, required=True)
    parser.add_argument("--teacher-steps", type=int, default=2500)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--images", type=int, default=4_000)
    parser.add_argument("--batch", type=int, default=64)
    given = parser.parse_args()
    place = CACHE / "mnist-diffusers"
    place.mkdir(parents=True, exist_ok=True)
    images = np.load(given.mnist)["train_x"][: given.images]
    if not (place / "pipeline" / "model_index.json").exists():
        seconds = train(images, place / "pipeline", given.teacher_steps, given.batch)
        (place / "seconds").write_text(f"{seconds:.0f}")
    np.savez(place / "mnist.npz", data=images[:, None])
    shutil.rmtree(place / "run", ignore_errors=True)
    begin = time.perf_counter()

    teacher = diffusers(place / "pipeline")
    student = matchlib.distill(
        teacher,
        data=place / "mnist.npz",
        steps=given.steps,
        out=place / "run",
        settings={
            "trainer.batch_size": given.batch // 2,
            "evaluation.draws": 1,
            "evaluation.metrics": ("frechet", "frechet-raw"),
            "teacher.sampler": {"name": "ddim", "steps": 50, "clip_denoised": True},
            # the family's own are for 8x8: a start at b/a = 1.6 left white noise in images of 28x28, one at 3.4 blurs them as it should
            "student.t_start": 0.5,
            # as the committed run had them
            "trainer.times": {"log_sigma": None, "t_min": 0.05, "t_max": 0.6},
            "trainer.betas": (0.0, 0.999),
            "trainer.adaptive_clip": float("inf"),
            "trainer.student_lr_scale": 2.0,
            "trainer.critic_lr_scale": 2.0,
        },
    )
    print(f"a sample has shape {tuple(student.sample(1).shape)}")

    report = read_json(place / "run" / "evaluation.json")
    theirs = DDPMPipeline.from_pretrained(place / "pipeline", low_cpu_mem_usage=False)
    ddim = DDPMPipeline(theirs.unet, DDIMScheduler.from_config(theirs.scheduler.config))
    ddim.set_progress_bar_config(disable=True)
    torch.manual_seed(0)
    np.savez(place / "ddim.npz", data=np.stack(ddim(batch_size=16, num_inference_steps=50, output_type="np").images))
    row = {key: report[key] for key in ("samples", "student", "teacher", "held_out")}
    row |= {"teacher_seconds": float((place / "seconds").read_text()), "distill_seconds": time.perf_counter() - begin}
    shutil.copy(place / "run" / "samples.png", RESULTS / "mnist-diffusers.png")
    save("mnist-diffusers", [row])
    for kind in ("student", "teacher", "held_out"):
        print(kind, {key: round(x, 4) for key, x in report[kind].items() if isinstance(x, int | float)})


if __name__ == "__main__":
    main()
