"""Other ways to use real data against a wrong teacher, at the cost of the recipe in network evaluations.

Evaluations a sample: a network that learns costs three (a backward pass, for weights and input, counts as two more), a frozen one that
a gradient goes through two, one that is only asked one. A critic turn: student and teacher are asked and the critic learns, and at real
points, if there are any, teacher and critic again. A student turn: the student learns through teacher and critic. Every network counts
alike, the small teacher too. The budget is that of 3,200 turns with real points.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from common import TURNS, Method, settings_of, teacher, working
from tasks import Task
from torch import Tensor, nn
from torch.nn import functional

import matchlib
from matchlib.algebra.records import Batch
from matchlib.data.dataset import Dataset
from matchlib.distillation.distillation import Distillation
from matchlib.fields.teacher import Teacher
from matchlib.runs.api import settings_of as run_settings
from matchlib.runs.artifact import load_artifact, save_artifact
from matchlib.runs.build import Distilled
from matchlib.runs.run import Run
from matchlib.training.random import Streams
from matchlib.training.task import DistillationTask, Learner, MatchingTask
from matchlib.training.trainer import Trainer, TrainerSettings

__all__ = ["BUDGET", "UID_CYCLE", "adversarial", "further", "refined", "then", "turns"]

ASK, THROUGH, LEARN = 1, 2, 3
CRITIC, STUDENT = ASK + ASK + LEARN, LEARN + THROUGH + THROUGH
UID_CYCLE, CYCLE = CRITIC + STUDENT, CRITIC + ASK + LEARN + STUDENT  # of two turns: without real points, and with
BUDGET = TURNS // 2 * CYCLE
GAIN = 3.0  # of the adversarial terms, in the losses of student and critic; not tuned
TEACHER = {"rate": 1e-3, "betas": (0.9, 0.999)}  # of a teacher that is trained on


def turns(budget: float, cycle: int, length: int = 2) -> int:
    """Returns how many turns a budget buys, in whole cycles of ``length`` turns that cost ``cycle`` evaluations."""
    return int(budget / cycle) * length


def further(share: float = 0.5, **method: Any) -> Method:
    """Returns the method that spends a share of the budget on training the teacher on with all of the data, and then distils it."""

    def made(task: Task, family: str, kind: str, seed: int) -> dict[str, Any]:
        steps = int(share * BUDGET / LEARN)
        settings = settings_of(task, kind, {**method, "trainer.steps": turns((1 - share) * BUDGET, UID_CYCLE)})
        from_, _ = teacher(task, family, kind, seed)

        def make(folder: Path) -> dict[str, Any]:
            card, weak = load_artifact(from_ / "teacher")
            assert isinstance(weak, Teacher)
            data = task.data().normalized_as(card.data["shift"], card.data["scale"])
            learner = Learner(copy.deepcopy(weak.field).train().requires_grad_(True), ema=0.999, **TEACHER)  # type: ignore[arg-type]
            algorithm = MatchingTask(
                learner, card.model, data, Streams(seed, torch.device("cpu")), batch_size=settings["trainer.batch_size"]
            )
            better = Trainer(algorithm, TrainerSettings(steps, lr_decay=0.5)).fit()["field"]
            save_artifact(folder / "teacher", card, Teacher(better, card.model, card.moments))
            of_teacher = task.score(matchlib.load(folder / "teacher"))
            student = matchlib.distill(folder, task.data(), seed=seed, out=folder / "run", settings=settings)
            return {**task.score(student), "of_teacher": of_teacher}

        return working(
            task,
            {
                "method": "further",
                "family": family,
                "kind": kind,
                "seed": seed,
                "settings": settings,
                "steps": steps,
                "of teacher": TEACHER,
            },
            make,
        )

    return made


def then(first: dict[str, Any], second: dict[str, Any], share: float = 0.5) -> Method:
    """Returns the method that distils without real points, and goes on from that student with them."""

    def made(task: Task, family: str, kind: str, seed: int) -> dict[str, Any]:
        before = settings_of(task, kind, {**first, "trainer.steps": turns(share * BUDGET, UID_CYCLE)})
        settings = settings_of(task, kind, {**second, "trainer.steps": turns((1 - share) * BUDGET, CYCLE)})
        from_, _ = teacher(task, family, kind, seed)

        def make(folder: Path) -> dict[str, Any]:
            matchlib.distill(from_, task.data(), seed=seed, out=folder / "first", settings=before)
            named, rest = settings.get("recipe"), {key: x for key, x in settings.items() if key not in ("recipe", "student.network")}
            made = matchlib.distill(from_, task.data(), folder / "first", recipe=named, seed=seed + 1, out=folder / "then", settings=rest)
            return task.score(made)

        return working(task, {"method": "then", "family": family, "kind": kind, "seed": seed, "settings": settings, "first": before}, make)

    return made


def _own(name: str, kind_of_run: type[Run], turns_: int, method: dict[str, Any], **more: Any) -> Method:
    """Returns a method whose runs are of a class of their own."""

    def made(task: Task, family: str, kind: str, seed: int) -> dict[str, Any]:
        settings = settings_of(task, kind, {**method, "trainer.steps": turns_})
        from_, _ = teacher(task, family, kind, seed)

        def make(folder: Path) -> dict[str, Any]:
            complete = run_settings("distill", {"teacher.name": str(from_), "data.name": task.name, "seed": seed, **settings})
            run = kind_of_run(complete, folder, dataset=task.data())
            run.execute()
            return task.score(run.generators["student"])

        return working(task, {"method": name, "family": family, "kind": kind, "seed": seed, "settings": settings, **more}, make)

    return made


# -- a teacher that goes on learning beside the critic ----------------------------------------------------------------------


class Refining(DistillationTask):
    """Critic, teacher and student in turn; the teacher learns by matching real data."""

    def __init__(self, *pieces: Any, **settings: Any) -> None:
        super().__init__(*pieces, **settings)
        self.field = self.distillation.teacher.field.requires_grad_(True)
        self.learners = {**self.learners, "teacher": Learner(self.field, **TEACHER)}  # type: ignore[arg-type]

    def learner(self, step: int) -> str:
        return ("critic", "teacher", "student")[step % 3]

    def loss(self, step: int, rows: int) -> Tensor:
        if self.learner(step) != "teacher":
            return super().loss(step, rows)
        batch = self.dataset.draw(rows, self.streams("refine", step))
        return self.distillation.teacher.model.loss(self.field, batch, generator=self.streams("refine-point", step)).mean()


class RefiningRun(Run):
    """A run whose teacher goes on learning."""

    def _distilling(self, distillation: Distillation, made: Distilled, data: Dataset) -> DistillationTask:
        of = super()._distilling(distillation, made, data)
        return Refining(
            distillation,
            of.learners["student"],
            of.learners["critic"],
            data,
            self.streams,
            batch=of.size,
            turns=self.settings.trainer.steps,
        )


def refined(**method: Any) -> Method:
    """Returns the method that distils a teacher which goes on learning."""
    return _own("refined", RefiningRun, turns(BUDGET, CRITIC + LEARN + STUDENT, 3), method, teacher_learns=TEACHER)


# -- a discriminator head on the critic -------------------------------------------------------------------------------------


class Adversarial(Distillation):
    """A distillation with a head on the critic's last hidden layer that tells real from generated points (the non-saturating loss).

    Args:
        of: the distillation without it.
        gain: of the adversarial terms.
    """

    def __init__(self, of: Distillation, gain: float) -> None:
        super().__init__(of.teacher, of.student, of.critic, of.loss, of.model.times)
        last: nn.Linear = self.critic.network.leave  # type: ignore[union-attr, assignment]
        torch.manual_seed(0)
        self.head = nn.Sequential(nn.Linear(last.in_features, 64), nn.SiLU(), nn.Linear(64, 1))
        self.gain, self.seen = gain, {}
        seen = self.seen
        last.register_forward_pre_hook(lambda module, given: seen.update(hidden=given[0]))

    def _verdict(self) -> Tensor:
        """Logits at the points that the critic was asked about last; positive for real ones."""
        return self.head(self.seen.pop("hidden")).squeeze(1)

    def student_loss(self, *, prompt: Batch, real: Batch, generator: torch.Generator, progress: float = 1.0) -> Tensor:
        point = self.sample_path(self.generate(prompt, generator=generator), real=real, generator=generator)
        (predictions,) = self.predictions(point)
        fooled = functional.softplus(-self._verdict())
        loss = self.loss.at(progress)
        return sum(loss.student_loss(x) for x in predictions).mean() + self.gain * fooled.mean()  # type: ignore[union-attr]

    def critic_loss(
        self, *, prompt: Batch, real: Batch, generator: torch.Generator, progress: float = 1.0, samples: Batch | None = None
    ) -> Tensor:
        with torch.no_grad():
            point = self.sample_path(self.generate(prompt, generator=generator), real=real, generator=generator)
        at_real = self.model.sample_path(real, generator=generator, like=point)
        (predictions,) = self.predictions(point)
        told = functional.softplus(self._verdict())
        self.predictions(at_real)
        told = told + functional.softplus(-self._verdict())
        loss = self.loss.at(progress)
        return sum(loss.critic_loss(x, None) for x in predictions).mean() + self.gain * told.mean()  # type: ignore[union-attr]


class AdversarialRun(Run):
    """A run with a head on the critic."""

    def _distilling(self, distillation: Distillation, made: Distilled, data: Dataset) -> DistillationTask:
        of = super()._distilling(distillation, made, data)
        judged, critic, t = Adversarial(distillation, GAIN), of.learners["critic"], self.settings.trainer
        both = Learner(nn.ModuleList([critic.module, judged.head]), critic.rate, critic.betas, critic.ema)
        return DistillationTask(judged, of.learners["student"], both, data, self.streams, batch_size=of.size, steps=t.steps)


def adversarial(**method: Any) -> Method:
    """Returns the method with a discriminator head on the critic."""
    return _own("adversarial", AdversarialRun, turns(BUDGET, CRITIC + LEARN + STUDENT), method, gain=GAIN)
