"""Other ways to use real data against a wrong teacher, at the cost of the recipe in network evaluations.

Evaluations a sample: a network that learns costs three (a backward pass, for weights and input, counts as two more), a frozen one that
a gradient goes through two, one that is only asked one. A critic step: student and teacher are asked and the critic learns, and at real
points, if there are any, teacher and critic again. A student step: the student learns through teacher and critic. Every network counts
alike, the small teacher too. The budget is that of 3,200 steps with real points.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

import matchlib
from benchmarks.studies.correction.common import STEPS, Method, settings_of, student, teacher, working
from benchmarks.studies.correction.tasks import Task
from matchlib.fields.teacher import Teacher
from matchlib.plugins.tasks import DistillationTask, MatchingTask
from matchlib.registry import tasks
from matchlib.runs.artifact import load_artifact, save_artifact
from matchlib.training.random import Streams
from matchlib.training.settings import TrainerSettings
from matchlib.training.task import Learner
from matchlib.training.trainer import Trainer

__all__ = ["BUDGET", "UID_CYCLE", "adversarial", "affordable_steps", "further", "refined", "then"]

ASK, THROUGH, LEARN = 1, 2, 3
CRITIC, STUDENT = ASK + ASK + LEARN, LEARN + THROUGH + THROUGH
UID_CYCLE, CYCLE = CRITIC + STUDENT, CRITIC + ASK + LEARN + STUDENT  # of two steps: without real points, and with
BUDGET = STEPS // 2 * CYCLE
GAIN = 3.0  # of the adversarial terms, in the losses of student and critic; not tuned
TEACHER = {"lr": 1e-3, "betas": (0.9, 0.999)}  # of a teacher that is trained on


def affordable_steps(budget: float, cycle: int, length: int = 2) -> int:
    """Returns how many steps a budget buys, in whole cycles of ``length`` steps that cost ``cycle`` evaluations."""
    return int(budget / cycle) * length


def further(share: float = 0.5, **method: Any) -> Method:
    """Returns the method that spends a share of the budget on training the teacher on with all of the data, and then distils it."""

    def made(task: Task, family: str, kind: str, seed: int) -> dict[str, Any]:
        steps = int(share * BUDGET / LEARN)
        settings = settings_of(task, kind, {**method, "trainer.steps": affordable_steps((1 - share) * BUDGET, UID_CYCLE)})
        from_, _ = teacher(task, family, kind, seed)

        def make(folder: Path) -> dict[str, Any]:
            artifact, weak = load_artifact(from_ / "teacher")
            assert isinstance(weak, Teacher)
            data = task.data().normalized_as(artifact.data.shift, artifact.data.scale)
            learner = Learner(copy.deepcopy(weak.field).train().requires_grad_(True), ema=0.999, **TEACHER)  # type: ignore[arg-type]
            algorithm = MatchingTask(
                learner, artifact.model, data, Streams(seed, torch.device("cpu")), batch_size=settings["trainer.batch_size"]
            )
            better = Trainer(algorithm, TrainerSettings(steps=steps, lr_decay=0.5)).fit()["field"]
            save_artifact(folder / "teacher", artifact, Teacher(better, artifact.model, artifact.moments))
            of_teacher = task.score(matchlib.load(folder / "teacher"))
            made = matchlib.distill(folder, task.data(), seed=seed, out=folder / "run", settings=settings)
            return {**task.score(made), "of_teacher": of_teacher}

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
        before = settings_of(task, kind, {**first, "trainer.steps": affordable_steps(share * BUDGET, UID_CYCLE)})
        settings = settings_of(task, kind, {**second, "trainer.steps": affordable_steps((1 - share) * BUDGET, CYCLE)})
        from_, _ = teacher(task, family, kind, seed)

        def make(folder: Path) -> dict[str, Any]:
            matchlib.distill(from_, task.data(), seed=seed, out=folder / "first", settings=before)
            named, rest = settings.get("recipe"), {key: x for key, x in settings.items() if key not in ("recipe", "student.network")}
            made = matchlib.distill(from_, task.data(), folder / "first", recipe=named, seed=seed + 1, out=folder / "then", settings=rest)
            return task.score(made)

        return working(task, {"method": "then", "family": family, "kind": kind, "seed": seed, "settings": settings, "first": before}, make)

    return made


# -- a teacher that goes on learning while it is distilled ------------------------------------------------------------------


@tasks.register("refined")
class Refined(DistillationTask):
    """Critic, teacher and student step in turn; the teacher learns by matching real data.

    Args:
        teacher_lr: Adam's step size of the teacher, > 0.
    """

    def __init__(self, *common: Any, teacher_lr: float = TEACHER["lr"], **options: Any) -> None:  # type: ignore[assignment]
        super().__init__(*common, **options)
        self.teacher, self.cycle, self.frozen = self.distillation.teacher, 3, ()
        self.field = self.teacher.field.requires_grad_(True)
        self.learners = {**self.learners, "teacher": Learner(self.field, teacher_lr, TEACHER["betas"])}  # type: ignore[arg-type]

    def learner(self, step: int) -> str:
        return ("critic", "teacher", "student")[step % 3]

    def loss(self, learner: str, rows: int, step: int) -> Tensor:
        if learner != "teacher":
            return super().loss(learner, rows, step)
        batch = self.dataset.draw(rows, self.streams("refine", step))
        return self.teacher.model.loss(self.field, batch, generator=self.streams("refine-point", step)).mean()


def refined(**method: Any) -> Method:
    """Returns the method that distils a teacher which goes on learning."""
    return student(
        **{"trainer.task": {"name": "refined"}, "trainer.steps": affordable_steps(BUDGET, CRITIC + LEARN + STUDENT, 3), **method}
    )


# -- a discriminator head on the critic -------------------------------------------------------------------------------------


@tasks.register("discriminator-head")
class DiscriminatorHead(DistillationTask):
    """Adds a head on the critic's last hidden layer that tells real from generated points (the non-saturating loss).

    Args:
        gain: of the adversarial terms, in the losses of student and critic, > 0.
    """

    def __init__(self, *common: Any, gain: float = GAIN, **options: Any) -> None:
        super().__init__(*common, **options)
        critic, last = self.learners["critic"], self.distillation.critic.network.leave  # type: ignore[union-attr]
        torch.manual_seed(0)
        self.head = nn.Sequential(nn.Linear(last.in_features, 64), nn.SiLU(), nn.Linear(64, 1))  # type: ignore[union-attr, arg-type]
        self.learners = {**self.learners, "critic": replace(critic, module=nn.ModuleList([critic.module, self.head]))}
        self.gain, self.hidden = gain, {}
        hidden: dict[str, Tensor] = self.hidden  # what the last layer was given last
        last.register_forward_pre_hook(lambda module, inputs: hidden.update(last=inputs[0]))  # type: ignore[union-attr, operator]

    def surprise(self, sign: float) -> Tensor:
        """Returns the head's loss where the critic was evaluated last: of calling it real for 1, generated for -1."""
        return self.gain * functional.softplus(-sign * self.head(self.hidden["last"]).squeeze(1)).mean()

    def loss(self, learner: str, rows: int, step: int) -> Tensor:
        of, loss, generator = self.distillation, self.distillation.loss.at(self.progress(step)), self.streams("point", step)
        prompt, real = self.prompt_and_real(rows, step, real=True)
        with torch.set_grad_enabled(learner == "student"):
            point = of.sample_path(of.generate(prompt, generator=generator), real=real, generator=generator)
        (predictions,) = of.predictions(point)
        if learner == "student":
            return torch.stack([loss.student_loss(head) for head in predictions]).sum(0).mean() + self.surprise(1.0)
        matched = torch.stack([loss.critic_loss(head, None) for head in predictions]).sum(0).mean() + self.surprise(-1.0)
        at_real = of.model.sample_path(real, generator=generator, like=point)
        of.critic(at_real.state, at_real.time, at_real.condition)
        return matched + self.surprise(1.0)


def adversarial(**method: Any) -> Method:
    """Returns the method with a discriminator head on the critic."""
    task = {"name": "discriminator-head", "gain": GAIN}
    return student(**{"trainer.task": task, "trainer.steps": affordable_steps(BUDGET, CRITIC + LEARN + STUDENT), **method})
