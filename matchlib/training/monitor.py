"""Watching a distillation: what its losses cannot say, measured now and then on batches of its own, and alarms that name a cause.

The losses of a distillation are differences that hover around zero whether it goes well or not: users of all published codes ask about it.
The readings here are taken on fresh batches that no turn has learned from, so that the critic cannot flatter itself on them.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from matchlib.algebra.model import best_multiple, square_norm
from matchlib.algebra.records import Batch, PathSample
from matchlib.data.dataset import Dataset
from matchlib.distillation.distillation import Distillation
from matchlib.distillation.predictions import Predictions
from matchlib.training.random import Streams

__all__ = ["Alarm", "DistillationMonitor", "Monitor", "Readings"]

BINS = 4  # of time
CONFIDENCE = 1.96  # standard errors on either side: 95%


@dataclass(frozen=True)
class Alarm:
    """Something that looks wrong.

    Args:
        name: one word, for the log.
        message: what was seen, the likely cause, and the setting to change.
    """

    name: str
    message: str


@dataclass(frozen=True)
class Readings:
    """Readings by name, and the alarms they raise, the likeliest cause first."""

    readings: dict[str, float]
    alarms: tuple[Alarm, ...] = ()


class Monitor(ABC):
    """Looks at a training from outside: it draws from streams of its own and changes nothing."""

    @abstractmethod
    def look(self, step: int, skipped: dict[str, int]) -> Readings:
        """Returns what is to be seen after ``step`` steps, of which each learner skipped so many because a gradient was not finite."""


@dataclass(frozen=True)
class Limits:
    """Where a reading becomes an alarm; measured in benchmarks/alarms.py on healthy and on broken runs.

    Args:
        teacher: error of the teacher on real points, over that of the best multiple of the state.
        behind: cosine between the critic's gradients on two independent batches.
        followed: change of the critic's answers over that of the samples, both since the look before and relative to their size. It takes
            both: every critic is behind a student that has just set out, and a critic that has arrived hardly changes.
        spread: standard deviation of generated over that of real data: smallest and largest.
        saturation: share of generated numbers beyond the data's limits by a tenth of their range.
        diversity: distance to the nearest neighbour in the batch, over that of real data; like a small spread, in two looks one after the
            other of which the second is no better.
        still: change of the samples of fixed sources since the look before, over the data's standard deviation.
    """

    teacher: float = 1.5
    behind: float = 0.5
    followed: float = 0.1
    spread: tuple[float, float] = (0.3, 2.5)
    saturation: float = 0.5
    diversity: float = 0.2
    still: float = 1e-6


class DistillationMonitor(Monitor):
    """Watches a distillation.

    Args:
        distillation: as it is trained.
        dataset: on the streams' device.
        streams: of the run.
        size: samples a look.
        limits: of the readings.
    """

    def __init__(
        self, distillation: Distillation, dataset: Dataset, streams: Streams, *, size: int = 256, limits: Limits = Limits()
    ) -> None:
        self.of, self.dataset, self.streams, self.size, self.limits = distillation, dataset, streams, size, limits
        self._alike_before = math.inf
        self._before: Tensor | None = None  # the samples of the fixed sources, at the look before
        self._stale: tuple[Batch, Batch] | None = None
        self._asked: PathSample | None = None  # fixed points, at which the critic's answers are compared from look to look
        self._answered: Tensor | None = None

    def look(self, step: int, skipped: dict[str, int]) -> Readings:
        """Returns readings.

        - ``gap``, ``gap/ci``, ``gap/t0`` to ``gap/t3``: the teacher's excess squared error over that of the critic on generated points, an
          unbiased estimate of a lower bound of the UID divergence; half the width of its 95% interval; its mean by quarter of time.
        - ``teacher``, ``critic``: their errors on real points, over that of the best multiple of the state and over the teacher's.
        - ``lag``: the critic's error less the teacher's on fresh samples, minus the same on samples of the look before.
        - ``behind``: cosine of the critic's gradients on two independent batches, near 0 when it has caught up.
        - ``spread``, ``diversity``, ``saturation``, ``moved``: of the samples, see ``Limits``; ``followed``: the critic's change.
        - ``pull/t0`` to ``pull/t3``: shares of the student's squared gradient by quarter of time.
        """
        if skipped:
            return Readings({}, (self._not_finite(step, skipped),))
        with torch.no_grad():
            generated, real, samples = self._points(step)
            readings = self._errors(generated, real) | self._samples(samples)
            readings |= self._lag(step)
        readings |= self._pull(step) | self._behind(step)
        return Readings(readings, tuple(self._alarms(readings)))

    # -- readings ----------------------------------------------------------------------------------------------------------

    def _draw(self, stream: str, step: int) -> Batch:
        return self.dataset.draw(self.size, self.streams(f"watch-{stream}", step))

    def _points(self, step: int) -> tuple[PathSample, PathSample, Tensor]:
        prompt, other, generator = self._draw("prompt", step), self._draw("real", step), self.streams("watch-point", step)
        generated = self.of.sample_path(self.of.generate(prompt, generator=generator), real=other, generator=generator)
        return generated, self.of.model.sample_path(other, generator=generator), generated.data

    def _errors(self, generated: PathSample, real: PathSample) -> dict[str, float]:
        at_generated, at_real = self.of.predictions(generated)[0], self.of.predictions(real)[0]
        gap = torch.stack([contrast.quadratic(1.0, 1.0, 1.0) for contrast in at_generated]).sum(0)
        found = {"gap": gap.mean().item(), "gap/ci": CONFIDENCE * (gap.std() / math.sqrt(len(gap))).item()}
        found |= {f"gap/t{i}": gap[which].mean().item() for i, which in enumerate(self._bins(generated.time)) if which.any()}
        teacher, critic, linear = 0.0, 0.0, 0.0
        for contrast in at_real:
            teacher += _error(contrast, contrast.teacher)
            critic += _error(contrast, contrast.critic)
            linear += sum(_linear(contrast, real.state, which) for which in self._bins(real.time) if which.any())
        return found | {"teacher": teacher / max(linear, 1e-30), "critic": critic / max(teacher, 1e-30)}

    def _bins(self, t: Tensor) -> list[Tensor]:
        low, high = self.of.model.times.t_min, self.of.model.times.t_max
        index = ((t - low) / (high - low) * BINS).long().clamp(0, BINS - 1)
        return [index == i for i in range(BINS)]

    def _samples(self, made: Tensor) -> dict[str, float]:
        data = self.dataset.take(slice(self.size)).data
        low, high = self.dataset.model_limits
        margin = 0.1 * (high - low)
        beyond = ((made < low - margin) | (made > high + margin)).to(made.dtype).mean()
        found = {
            "spread": (_variance(made) / _variance(data)).sqrt().item(),
            "diversity": (_nearest(made) / _nearest(data).clamp_min(1e-30)).item(),
            "saturation": beyond.item(),
        }
        fixed = self.of.generate(self._draw("fixed", 0), generator=self.streams("watch-fixed", 0)).data
        if self._before is not None:
            found["moved"] = ((fixed - self._before).square().mean().sqrt() / _variance(data).sqrt()).item()
        self._before = fixed
        return found | self._followed()

    def _followed(self) -> dict[str, float]:
        """How much the critic's answers changed since the look before, where it is asked the same each time."""
        if self._asked is None:
            self._asked = self._points(0)[1]
        (contrast, *_) = self.of.predictions(self._asked)[0]
        before, self._answered = self._answered, contrast.critic
        if before is None:
            return {}
        return {"followed": ((contrast.critic - before).square().mean().sqrt() / contrast.target.square().mean().sqrt()).item()}

    def _lag(self, step: int) -> dict[str, float]:
        """How much better the critic knows what the student made at the look before than what it makes now."""
        prompt, generator = self._draw("lag", step), self.streams("watch-lag", step)
        fresh = self.of.generate(prompt, generator=generator)
        stale, self._stale = self._stale, (fresh, prompt)
        if stale is None:
            return {}
        return {"lag": self._excess((fresh, prompt), step) - self._excess(stale, step)}

    def _excess(self, made: tuple[Batch, Batch], step: int) -> float:
        batch, other = made
        joined = batch.source if self.of.model.coupling.paired else other.source
        point = self.of.model.sample_path(Batch(batch.data, joined, batch.label), generator=self.streams("watch-excess", step))
        return -sum(contrast.quadratic(1.0, 1.0, 1.0).mean().item() for contrast in self.of.predictions(point)[0])

    def _pull(self, step: int) -> dict[str, float]:
        """Where in time the student's gradient comes from."""
        prompt, generator = self._draw("pull", step), self.streams("watch-pull", step)
        with torch.no_grad():
            samples = self.of.generate(prompt, generator=generator)
        data = samples.data.requires_grad_()
        with torch.enable_grad():
            point = self.of.sample_path(samples, real=self._draw("real", step), generator=generator)
            loss = torch.stack([self.of.loss.student_loss(contrast) for contrast in self.of.predictions(point)[0]]).sum(0).mean()
            slope = torch.autograd.grad(loss, data)[0]
        size = square_norm(slope)
        total = size.sum().clamp_min(1e-30)
        return {f"pull/t{i}": (size[which].sum() / total).item() for i, which in enumerate(self._bins(point.time))}

    def _behind(self, step: int) -> dict[str, float]:
        """The cosine between the critic's gradients on two batches; None of the weights is changed."""
        critic = self.of.critic
        weights = list(critic.parameters())
        learned = [weight.requires_grad for weight in weights]
        critic.requires_grad_(True)
        found = []
        with torch.enable_grad():
            for half in ("left", "right"):
                prompt, real = self._draw(f"{half}-prompt", step), self._draw(f"{half}-real", step)
                loss = self.of.critic_loss(prompt=prompt, real=real, generator=self.streams(f"watch-{half}", step))
                found.append(torch.autograd.grad(loss, weights, allow_unused=True, materialize_grads=True))
        for weight, learns in zip(weights, learned, strict=True):
            weight.requires_grad_(learns)
        pairs = list(zip(*found, strict=True))
        dot, left, right = (sum((a * b).sum() for a, b in each) for each in (pairs, [(a, a) for a, _ in pairs], [(b, b) for _, b in pairs]))
        return {"behind": (dot / (left * right).sqrt().clamp_min(1e-30)).item()}

    # -- alarms ------------------------------------------------------------------------------------------------------------

    def _not_finite(self, step: int, skipped: dict[str, int]) -> Alarm:
        who = " and ".join(f"{count} of the {name}" for name, count in skipped.items())
        return Alarm("not-finite", f"{who}: gradients that are not finite, so these turns were left out; {self._culprit(step)}")

    @torch.no_grad()
    def _culprit(self, step: int) -> str:
        """The first thing on the way of a batch that is not finite."""
        for name in ("data", "source"):
            x = getattr(self.dataset.train, name)
            if x is not None and not torch.isfinite(x).all():
                bad = int((~torch.isfinite(x)).flatten(1).any(1).sum())
                return f"the cause is the {name}: {bad} of {len(x)} samples are not finite; remove them"
        generated, _, samples = self._points(step)
        (contrast, *_) = self.of.predictions(generated)[0]
        for name, x, cure in (
            ("student", samples, "lower trainer.student_lr"),
            ("teacher", contrast.teacher, "look at it with: matchlib doctor"),
            ("critic", contrast.critic, "lower trainer.critic_lr"),
        ):
            if not torch.isfinite(x).all():
                return f"the cause is the {name}, whose answers are not finite; {cure}"
        return "data, student, teacher and critic are finite: lower the rates, set trainer.max_grad_norm, or use more precision"

    def _alarms(self, r: dict[str, float]) -> list[Alarm]:
        at, found = self.limits, []
        if r["teacher"] > at.teacher:
            found.append(
                Alarm(
                    "teacher",
                    f"on real data the teacher's error is {r['teacher']:.2f} times that of the best multiple of the state: its "
                    "sign, time or scale is wrong, or it was made for other data; look at it with: matchlib doctor",
                )
            )
        if r.get("moved", 1.0) < at.still:
            found.append(
                Alarm(
                    "still",
                    "the student does not change: its gradient or its rate is zero; raise trainer.student_lr, or choose another "
                    "student.network",
                )
            )
        if r["spread"] > at.spread[1] or r["saturation"] > at.saturation:
            found.append(
                Alarm(
                    "student-rate",
                    f"samples leave the data (spread {r['spread']:.2f} of theirs, {r['saturation']:.0%} beyond their limits): the student "
                    "learns faster than the critic can follow; lower trainer.student_lr, or raise trainer.critic_lr",
                )
            )
        if r["behind"] > at.behind and r.get("followed", 1.0) < at.followed * r.get("moved", 0.0) and not found:
            found.append(
                Alarm(
                    "critic",
                    f"the critic does not follow the student (since the last look samples changed by {r['moved']:.2f}, its answers by "
                    f"{r['followed']:.3f}, and two batches push it the same way, cosine {r['behind']:.2f}); raise trainer.critic_lr or "
                    "trainer.critic_steps",
                )
            )
        alike = min(r["spread"] / at.spread[0], r["diversity"] / at.diversity)
        before, self._alike_before = self._alike_before, alike
        if max(alike, before) < 1 and alike < 1.1 * before:  # a student that has just set out may be alike and on its way
            found.append(
                Alarm(
                    "collapse",
                    f"samples are too much alike (spread {r['spread']:.2f}, nearest neighbour {r['diversity']:.2f} of the data's); "
                    "lower trainer.student_lr, raise trainer.critic_steps, or choose an earlier student.t_start",
                )
            )
        return found


def _error(contrast: Predictions, guess: Tensor) -> float:
    return float((contrast.weight * square_norm(guess - contrast.target)).mean())


def _linear(contrast: Predictions, state: Tensor, which: Tensor) -> float:
    """The part of the mean error of the best multiple of the state that the chosen points contribute."""
    weight = contrast.weight if isinstance(contrast.weight, Tensor) else torch.full_like(contrast.target.flatten(1)[:, 0], contrast.weight)
    w, target, x = weight[which], contrast.target[which], state[which]
    return float((w * square_norm(target - best_multiple(target, x, w) * x)).sum() / len(which))


def _variance(x: Tensor) -> Tensor:
    return x.flatten(1).var(0).mean()


def _nearest(x: Tensor) -> Tensor:
    """The mean distance of a sample to the nearest other one."""
    distance = torch.cdist(x.flatten(1), x.flatten(1))
    distance.fill_diagonal_(math.inf)
    return distance.min(1).values.mean()
