"""Which learning rates, times and losses make good one-step students of a U-Net at 28x28?

A flow teacher is trained once on MNIST with labels; students of it are trained from every combination of learning rate, mean of log sigma
and loss, in the order of ``CELLS``, until the time is up. All are judged by a convolutional classifier that none of them has seen: the
Frechet distance of its features to those of held-out digits, the error against the labels that were asked for, and the total variation
between shares of classes. Every cell is written as it ends, and a later call goes on with those that are missing:

    python -m benchmarks.gpu.mnist MNIST.npz --out FOLDER [--seconds 540] [--device cuda]

MNIST.npz holds train_x, test_x (n, 28, 28) uint8 and train_y, test_y.
"""

from __future__ import annotations

import argparse
import copy
import time
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from matchlib.data.dataset import Dataset
from matchlib.distillation.distillation import Distillation
from matchlib.evaluation.gaussians import frechet_distance
from matchlib.evaluation.pictures import mosaic
from matchlib.fields.sampler import SampledField
from matchlib.io import read_json, write_json
from matchlib.plugins.tasks import DistillationTask, MatchingTask
from matchlib.registry import samplers
from matchlib.runs.build import build
from matchlib.runs.components import Components
from matchlib.runs.run import prepared
from matchlib.runs.settings import RunSettings, resolve
from matchlib.training.random import Streams
from matchlib.training.settings import EngineSettings, TrainerSettings
from matchlib.training.task import Learner
from matchlib.training.trainer import Trainer

NETWORK = {"name": "unet", "channels": 64, "multipliers": [1, 2], "blocks": 1}
TEACHER = {"steps": 6000, "batch_size": 256, "lr": 5e-4}
STEPS, BATCH, CRITIC_STEPS, N = 1800, 256, 5, 10_000
CELLS = [
    {"student_lr": lr, "mean": mean, "loss": loss, "seed": seed}
    for seed in (0, 1)
    for lr, mean, loss in product((1e-4, 3e-5, 3e-4, 1e-3), (1.7, 0.5), ("realuid", "uid"))
]
DEVICE_SPEED = EngineSettings(precision="tf32")


class Judge:
    """A convolutional classifier of the training digits, and what it says of samples."""

    def __init__(self, images: Tensor, labels: Tensor, steps: int = 1500) -> None:
        torch.manual_seed(1)
        self.features = nn.Sequential(
            *(nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 64, 3, 2, 1), nn.ReLU()),
            *(nn.Conv2d(64, 128, 3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(128 * 49, 64), nn.ReLU()),
        ).to(images.device)
        self.head = nn.Linear(64, 10).to(images.device)
        weights = [*self.features.parameters(), *self.head.parameters()]
        adam = torch.optim.Adam(weights, 1e-3)
        for _ in range(steps):
            i = torch.randint(len(images), (256,), device=images.device)
            dx, dy = torch.randint(-2, 3, (2,)).tolist()
            x = torch.roll(images[i], (dy, dx), (2, 3))
            loss = functional.cross_entropy(self.head(self.features(x)), labels[i])
            adam.zero_grad()
            loss.backward()
            adam.step()

    @torch.no_grad()
    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Returns features (n, 64) in float64 and classes (n,)."""
        features = torch.cat([self.features(part) for part in x.split(1000)])
        return features.double(), self.head(features).argmax(1)


def frechet(x: Tensor, y: Tensor) -> float:
    """Returns the squared Frechet distance of two sets of features, ``(n, d)``."""
    return frechet_distance((x.mean(0), torch.cov(x.T)), (y.mean(0), torch.cov(y.T)))


class Bench:
    """Data, judge and teacher, and what students make of them."""

    def __init__(self, path: Path, folder: Path, device: torch.device) -> None:
        mnist = np.load(path)
        self.folder, self.device = folder, device
        self.data = Dataset.from_arrays("mnist", mnist["train_x"][:, None], labels=mnist["train_y"])
        held_out = torch.as_tensor(mnist["test_x"][:, None], device=device).float()
        self.held_out = (held_out - self.data.shift) / self.data.scale
        train = torch.as_tensor(mnist["train_x"][:, None], device=device).float()
        train = (train - self.data.shift) / self.data.scale
        begin = time.perf_counter()
        self.judge = Judge(train, torch.as_tensor(mnist["train_y"], device=device).long())
        print(f"judge: {time.perf_counter() - begin:.0f} s", flush=True)
        self.reference = self.judge(self.held_out)[0]
        self.judged_train = self.judge(train[:N])[0]

    def settings(self, cell: dict[str, Any]) -> RunSettings:
        trainer: dict[str, Any] = {"steps": STEPS, "batch_size": BATCH, "critic_steps": CRITIC_STEPS}
        tree: dict[str, Any] = {
            "teacher": {"network": NETWORK},
            "trainer": trainer,
            "device": str(self.device),
            "seed": cell.get("seed", 0),
        }
        if "student_lr" in cell:
            trainer |= {"student_lr": cell["student_lr"], "critic_lr": 2 * cell["student_lr"], "times": {"log_sigma": [cell["mean"], 1.0]}}
            tree["loss"] = {"name": cell["loss"]}
        return resolve("distill", config=tree)

    def teacher(self) -> dict[str, Any]:
        """Trains the teacher, or reads it, and returns its row."""
        path, file = self.folder / "teacher.pt", self.folder / "teacher.json"
        components = build(self.settings({}), data=self.data)
        self.field = components.teacher.field.to(self.device)
        if path.exists():
            self.field.load_state_dict(torch.load(path, weights_only=True))
            return read_json(file)
        begin = time.perf_counter()
        learner = Learner(prepared(self.field.train().requires_grad_(True), DEVICE_SPEED), TEACHER["lr"], ema=0.999)
        data, streams = components.data.compact().to(self.device), Streams(0, self.device)
        task = MatchingTask(learner, components.config.model, data, streams, batch_size=TEACHER["batch_size"])
        trainer = Trainer(task, TrainerSettings(steps=TEACHER["steps"], lr_decay=0.5))
        for _ in range(TEACHER["steps"]):
            trainer.step()
        self.field = trainer.averaged()["field"].eval().requires_grad_(False)
        seconds = time.perf_counter() - begin
        torch.save(self.field.state_dict(), path)
        sampler = samplers.build(components.config.sampler)
        components.teacher.field = self.field
        label = torch.arange(N, device=self.device) % 10
        parts, low_high = [], tuple((limit - self.data.shift) / self.data.scale for limit in self.data.limits)
        for i, part in enumerate(label.split(1000)):
            source = torch.randn(len(part), 1, 28, 28, device=self.device, generator=torch.Generator(self.device).manual_seed(i))
            of = SampledField(components.teacher, components.config.model, components.config.moments, low_high)
            parts.append(sampler.sample(of, source, part, generator=torch.Generator(self.device).manual_seed(i)))
        made = torch.cat([x.data for x in parts])
        answer = {"name": "teacher", "nfe": parts[0].nfe, "seconds": seconds, **self.score(made, label), **TEACHER}
        answer["weights"] = sum(w.numel() for w in self.field.parameters())
        answer["frechet of training data"] = frechet(self.judged_train, self.reference)
        write_json(file, answer)
        self.draw("teacher", made)
        return answer

    def draw(self, name: str, made: Tensor) -> None:
        images = (made[:100] * self.data.scale + self.data.shift).cpu().numpy()
        Image.fromarray(np.uint8(255 * mosaic(images, (0.0, 255.0)).squeeze())).save(self.folder / f"{name}.png")

    def score(self, made: Tensor, label: Tensor) -> dict[str, float]:
        features, classes = self.judge(made)
        shares, wanted = (torch.bincount(x, minlength=10) / len(x) for x in (classes, label))
        return {
            "frechet": frechet(features, self.reference),
            "wrong": float((classes != label).double().mean()),
            "class shares": float((shares - wanted).abs().sum() / 2),
        }

    def student(self, cell: dict[str, Any]) -> dict[str, Any]:
        """Distils as the cell says and returns its row."""
        settings = self.settings(cell)
        components: Components = build(settings, data=self.data)
        components.teacher.field.load_state_dict(self.field.state_dict())
        parts = components.distillation
        assert parts is not None
        parts.take_weights(components.teacher)
        frozen = prepared(copy.deepcopy(components.teacher).to(self.device), DEVICE_SPEED, frozen=True)
        student, critic = (prepared(x.to(self.device), DEVICE_SPEED) for x in (parts.student, parts.critic))
        learners = (
            Learner(student, parts.student_lr, settings.trainer.betas, 0.995),
            Learner(critic, parts.critic_lr, settings.trainer.betas, 0.0),
        )
        of = Distillation(frozen, student, critic, parts.loss, parts.times)
        data, streams = components.data.compact().to(self.device), Streams(cell["seed"], self.device)
        task = DistillationTask(of, *learners, data, streams, batch_size=BATCH, critic_steps=CRITIC_STEPS, steps=STEPS)
        trainer = Trainer(task, TrainerSettings(steps=STEPS))
        begin, label, curve = time.perf_counter(), torch.arange(N, device=self.device) % 10, []
        for step in range(1, STEPS + 1):
            trainer.step()
            if step % (STEPS // 3) == 0:
                made = self.made(trainer.averaged()["student"], components, label)
                curve.append({"step": step, "seconds": time.perf_counter() - begin, **self.score(made, label)})
        name = "-".join(str(x) for x in cell.values())
        self.draw(name, made)
        return {**cell, **curve[-1], "curve": curve, "skipped": trainer.skipped()}

    @torch.no_grad()
    def made(self, student: nn.Module, components: Components, label: Tensor) -> Tensor:
        student.eval()
        parts = []
        for i, part in enumerate(label.split(1000)):
            generator = torch.Generator(self.device).manual_seed(i)
            source = torch.randn(len(part), 1, 28, 28, device=self.device, generator=generator)
            parts.append(student(source, components.config.model.condition(source, part), generator=generator))
        return torch.cat(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("mnist", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=540)
    parser.add_argument("--device", type=torch.device, default=torch.device("cuda"))
    given = parser.parse_args()
    end = time.perf_counter() + given.seconds
    given.out.mkdir(parents=True, exist_ok=True)
    bench, path = Bench(given.mnist, given.out, given.device), given.out / "mnist.json"
    torch.manual_seed(0)
    teacher = bench.teacher()
    print(teacher, flush=True)
    rows = read_json(path)["students"] if path.exists() else []
    name = torch.cuda.get_device_name() if given.device.type == "cuda" else "cpu"
    longest = 0.0
    for cell in CELLS:
        if any(all(row[key] == value for key, value in cell.items()) for row in rows):
            continue
        if time.perf_counter() + longest > end:
            print("the time is up; call again to go on", flush=True)
            break
        begin = time.perf_counter()
        rows.append(bench.student(cell))
        longest = max(longest, time.perf_counter() - begin)
        print({key: x for key, x in rows[-1].items() if key != "curve"}, flush=True)
        write_json(path, {"device": name, "torch": torch.__version__, "held-out n": N, "teacher": teacher, "students": rows})


if __name__ == "__main__":
    main()
