"""Measurements of a distillation that its losses cannot give, on batches of their own.

The losses of a distillation are differences that hover around zero whether it goes well or not. The readings here are taken on fresh
batches that no step has learned from, so that the critic cannot flatter itself on them.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from matchlib.algebra.model import best_multiple, square_norm
from matchlib.algebra.records import Batch, PathSample
from matchlib.data.dataset import Dataset, map_batch, random_rows
from matchlib.distillation.distillation import Distillation
from matchlib.distillation.loss import DistillationLoss
from matchlib.distillation.predictions import Predictions
from matchlib.evaluation.reference import Extractor, classes_missing, shares_of, total_variation
from matchlib.training.alarms import Limits, Raised, raised
from matchlib.training.random import Streams

__all__ = ["DistillationMonitor", "Monitor", "Readings"]

BINS = 4  # of time
SEEN = 4096  # data whose classes are counted, and to which distances are measured
TELLS = 10  # standard errors of wrong labels of samples, by which classes of held-out data are named better than at random, to judge by
CONFIDENCE = 1.96  # standard errors on either side: 95%


@dataclass(frozen=True)
class Readings:
    """Readings by name, and the alarms they raise, the likeliest cause first."""

    values: dict[str, float] = field(default_factory=dict)
    alarms: tuple[Raised, ...] = ()


@contextmanager
def unchanged_buffers(modules: Iterable[nn.Module]) -> Iterator[None]:
    """A context after which buffers, such as the running means of a batch normalisation, are as they were."""
    buffers = [buffer for module in modules for buffer in module.buffers()]
    kept = [buffer.clone() for buffer in buffers]
    try:
        yield
    finally:
        for buffer, value in zip(buffers, kept, strict=True):
            buffer.copy_(value)


class Monitor(ABC):
    """What measures a training from outside: it draws from streams of its own and changes nothing."""

    @abstractmethod
    def measure(self, step: int, skipped: dict[str, int]) -> Readings:
        """Returns readings after ``step`` steps.

        Args:
            skipped: steps that each learner skipped since the measurement before, because a gradient was not finite.
        """

    def state_dict(self) -> dict[str, Any]:
        """Returns what later measurements need of earlier ones, as JSON can hold it."""
        return {}

    def tensors(self) -> dict[str, Tensor]:
        """Returns tensors that later measurements need of earlier ones."""
        return {}

    def load_state(self, state: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:  # noqa: B027
        """Goes on from what the two methods returned; from nothing where they are empty."""


class DistillationMonitor(Monitor):
    """Measures a distillation.

    Args:
        distillation: as it is trained.
        dataset: on the streams' device.
        streams: of the run.
        steps: of the training, for losses with a schedule.
        size: samples a measurement.
        limits: of the readings.
        classifier: makes what names the classes of samples; called at the first measurement. None for no readings of classes.
    """

    def __init__(
        self,
        distillation: Distillation,
        dataset: Dataset,
        streams: Streams,
        *,
        steps: int = 1,
        size: int = 256,
        limits: Limits | None = None,
        classifier: Callable[[], Extractor] | None = None,
    ) -> None:
        self.distillation, self.dataset, self.streams = distillation, dataset, streams
        self.steps, self.size, self.limits = steps, size, limits or Limits()
        self._make_classifier = classifier
        self._fixed_points: PathSample | None = None  # at which the critic's predictions are compared from measurement to measurement
        critic = list(distillation.critic.parameters())
        self._critic_weights = [weight for weight in critic if weight.requires_grad] or critic
        self.load_state({}, {})

    def state_dict(self) -> dict[str, Any]:
        return {"before": self._before, "stale": None if self._stale is None else self._stale[0]}

    def tensors(self) -> dict[str, Tensor]:
        samples = None if self._stale is None else self._stale[1]
        found = {
            "fixed_samples": self._fixed_samples,
            "fixed_critic": self._fixed_critic,
            "stale_data": None if samples is None else samples.data,
            "stale_source": None if samples is None else samples.source,
        }
        return {name: x for name, x in found.items() if x is not None}

    def load_state(self, state: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        self._before: dict[str, float] = dict(state.get("before", {}))  # readings of the measurement before
        tensors = {name: x.to(self.streams.device) for name, x in tensors.items()}
        self._fixed_samples = tensors.get("fixed_samples")  # of fixed sources, at the measurement before
        self._fixed_critic = tensors.get("fixed_critic")  # its predictions at fixed points, by head
        self._stale: tuple[int, Batch] | None = None  # step of the measurement before, and samples that it drew
        if (then := state.get("stale")) is not None:
            self._stale = then, Batch(tensors["stale_data"], tensors["stale_source"], self._draw("lag", then).label)

    def measure(self, step: int, skipped: dict[str, int]) -> Readings:
        """Returns readings.

        - ``gap``, ``gap/ci``, ``gap/t0`` to ``gap/t3``: the teacher's excess squared error over that of the critic on generated points, an
          unbiased estimate of a lower bound of the UID divergence; half the width of its 95% interval; its mean by quarter of time.
        - ``teacher_error``, ``critic_error``: on real points, over that of the best multiple of the state and over the teacher's.
        - ``critic_excess``: lower end of the 95% interval of the critic's loss less what it would be were the teacher the critic, over the
          error of the best multiple of the state on generated points.
        - ``nearest_ratio``: distance of samples to the nearest of some training data, over that of held-out data.
        - ``critic_lag``: the critic's error less the teacher's on fresh samples, minus the same on samples of the measurement before.
        - ``critic_grad_cosine``: of the critic's gradients on two independent batches, near 0 when the critic has converged.
        - ``std_ratio``, ``nn_distance_ratio``, ``saturation``, ``sample_change``, ``critic_change``, ``class_shares``, ``label_error``: see
          ``Limits``; ``classes_missing``: classes with less than a tenth of their share in the data.
        - ``grad_share_by_time/t0`` to ``/t3``: fractions of the student's squared gradient by quarter of time.
        """
        if skipped:
            return Readings({}, (self._not_finite(step, skipped),))
        progress = min(step / self.steps, 1.0)
        with torch.no_grad():
            generated, real, samples = self._points(step)
            values = self.errors(generated, real, progress) | self._samples(samples) | self._classes(samples, generated.condition.label)
            values["nearest_ratio"] = _distance_to(samples, self._some_data) / max(self._held_out_distance, 1e-30)
            values |= self._critic_change() | self._critic_lag(step)
        values |= self._grad_share_by_time(step, progress) | self._critic_grad_cosine(step, progress)
        before, self._before = self._before, values
        return Readings(values, raised(values, before, self.limits))

    # -- readings ----------------------------------------------------------------------------------------------------------

    def _draw(self, stream: str, step: int) -> Batch:
        return self.dataset.draw(self.size, self.streams(f"watch-{stream}", step))

    def _points(self, step: int) -> tuple[PathSample, PathSample, Tensor]:
        prompt, other, generator = self._draw("prompt", step), self._draw("real", step), self.streams("watch-point", step)
        generated = self.distillation.sample_path(self.distillation.generate(prompt, generator=generator), real=other, generator=generator)
        return generated, self.distillation.model.sample_path(other, generator=generator), generated.data

    def errors(self, generated: PathSample, real: PathSample, progress: float = 1.0) -> dict[str, float]:
        """Returns the gap at generated points, and the relative errors of teacher and critic."""
        at_generated, at_real = (self.distillation.predictions(points)[0] for points in (generated, real))
        gap = _excess(at_generated)
        values = {"gap": gap.mean().item(), "gap/ci": CONFIDENCE * (gap.std() / math.sqrt(len(gap))).item()}
        values |= {f"gap/t{i}": gap[which].mean().item() for i, which in enumerate(self._bins(generated.time)) if which.any()}
        teacher, critic, linear = (max(x, 1e-30) for x in self._errors(at_real, real))
        linear_generated = self._errors(at_generated, generated)[2]
        loss = self.distillation.loss.at(progress)
        excess = sum(_critic_excess_loss(loss, *heads) for heads in zip(at_generated, at_real, strict=True))
        assert isinstance(excess, Tensor)
        least = excess.mean() - CONFIDENCE * excess.std() / math.sqrt(len(excess))
        return values | {
            "teacher_error": teacher / linear,
            "critic_error": critic / teacher,
            "critic_excess": float(least) / max(linear_generated, 1e-30),
        }

    def _errors(self, heads: list[Predictions], points: PathSample) -> tuple[float, float, float]:
        """Returns the errors of teacher, critic and the best multiple of the state, summed over heads."""
        teacher, critic, linear = 0.0, 0.0, 0.0
        for predictions in heads:
            teacher += _error(predictions, predictions.teacher)
            critic += _error(predictions, predictions.critic)
            linear += sum(_linear_error(predictions, points.state, which) for which in self._bins(points.time) if which.any())
        return teacher, critic, linear

    def _bins(self, t: Tensor) -> list[Tensor]:
        times = self.distillation.model.times
        index = ((t - times.t_min) / (times.t_max - times.t_min) * BINS).long().clamp(0, BINS - 1)
        return [index == i for i in range(BINS)]

    def _samples(self, samples: Tensor) -> dict[str, float]:
        data = self.dataset.some(self.size).data
        low, high = self.dataset.model_limits
        margin = 0.1 * (high - low)
        beyond = ((samples < low - margin) | (samples > high + margin)).to(samples.dtype).mean()
        values = {
            "std_ratio": (_variance(samples) / _variance(data)).sqrt().item(),
            "nn_distance_ratio": (_nn_distance(samples) / _nn_distance(data).clamp_min(1e-30)).item(),
            "saturation": beyond.item(),
        }
        before = self._fixed_samples
        self._fixed_samples = self.distillation.generate(self._draw("fixed", 0), generator=self.streams("watch-fixed", 0)).data
        if before is not None:
            values["sample_change"] = ((self._fixed_samples - before).square().mean().sqrt() / _variance(data).sqrt()).item()
        return values

    @cached_property
    def _some_data(self) -> Tensor:
        return self.dataset.some(SEEN).data

    @cached_property
    def _held_out_distance(self) -> float:
        return _distance_to(random_rows(self.dataset.held_out.data, self.size), self._some_data)

    @cached_property
    def _classifier(self) -> Extractor | None:
        return None if self._make_classifier is None else self._make_classifier()

    @cached_property
    def _data_shares(self) -> Tensor:
        """The shares of classes of up to ``SEEN`` data."""
        assert self._classifier is not None
        return shares_of(self._classifier.classify(self._some_data), self._classifier.classes)

    def _classes(self, samples: Tensor, label: Tensor | None) -> dict[str, float]:
        classifier = self._classifier
        if classifier is None or classifier.classes < 2:
            return {}
        named = classifier.classify(samples)
        shares, expected = shares_of(named, classifier.classes), self._data_shares
        values = {
            "class_shares": total_variation(shares, expected),
            "classes_missing": classes_missing(shares, expected),
        }
        same = self.dataset.classes == classifier.classes
        if label is not None and same and (wrong := self._held_out_wrong) is not None:
            by_chance = float(1 - (shares * expected).sum())  # were labels drawn at random
            known = by_chance - wrong
            if known > TELLS * math.sqrt(by_chance * (1 - by_chance) / len(samples)):
                values["label_error"] = (_share(named.ne(label)) - wrong) / known
        return values

    @cached_property
    def _held_out_wrong(self) -> float | None:
        """The fraction of held-out data whose class is named wrongly; None without labels."""
        some = map_batch(self.dataset.held_out, lambda x: random_rows(x, SEEN))
        assert self._classifier is not None
        return None if some.label is None else _share(self._classifier.classify(some.data).ne(some.label))

    def _critic_change(self) -> dict[str, float]:
        """How much the critic's predictions at fixed points changed since the measurement before.

        In units of the error of the best multiple of the state: a network that predicts noise must repeat most of its input, which says
        nothing about the data. So the reading is that of the data, the noise or the velocity alike.
        """
        if self._fixed_points is None:
            generator = self.streams("watch-fixed-point", 0)
            self._fixed_points = self.distillation.model.sample_path(self._draw("fixed-real", 0), generator=generator)
        heads = self.distillation.predictions(self._fixed_points)[0]
        before, self._fixed_critic = self._fixed_critic, torch.stack([predictions.critic for predictions in heads])
        if before is None:
            return {}
        change = sum(
            float((predictions.weight * square_norm(predictions.critic - then)).mean())
            for predictions, then in zip(heads, before, strict=True)
        )
        linear = self._errors(heads, self._fixed_points)[2]
        return {"critic_change": math.sqrt(change / max(linear, 1e-30))}

    def _critic_lag(self, step: int) -> dict[str, float]:
        """How much better the critic knows samples of the measurement before than those of now."""
        prompt, generator = self._draw("lag", step), self.streams("watch-lag", step)
        fresh = self.distillation.generate(prompt, generator=generator)
        before, self._stale = self._stale, (step, fresh)
        if before is None:
            return {}
        _, stale = before
        other = self._draw("lag-other", step)
        return {"critic_lag": self._critic_excess(fresh, other, step) - self._critic_excess(stale, other, step)}

    def _critic_excess(self, samples: Batch, other: Batch, step: int) -> float:
        joined = samples.source if self.distillation.model.coupling.paired else other.source
        batch, generator = Batch(samples.data, joined, samples.label), self.streams("watch-excess", step)
        point = self.distillation.model.sample_path(batch, generator=generator)
        return -sum(predictions.quadratic(1.0, 1.0, 1.0).mean().item() for predictions in self.distillation.predictions(point)[0])

    def _grad_share_by_time(self, step: int, progress: float) -> dict[str, float]:
        """Where in time the student's gradient comes from."""
        prompt, generator = self._draw("pull", step), self.streams("watch-pull", step)
        loss = self.distillation.loss.at(progress)
        with torch.no_grad():
            samples = self.distillation.generate(prompt, generator=generator)
        data = samples.data.requires_grad_()
        with torch.enable_grad():
            point = self.distillation.sample_path(samples, real=self._draw("real", step), generator=generator)
            losses = [loss.student_loss(predictions) for predictions in self.distillation.predictions(point)[0]]
            gradient = torch.autograd.grad(torch.stack(losses).sum(0).mean(), data)[0]
        size = square_norm(gradient)
        total = size.sum().clamp_min(1e-30)
        return {f"grad_share_by_time/t{i}": (size[which].sum() / total).item() for i, which in enumerate(self._bins(point.time))}

    def _critic_grad_cosine(self, step: int, progress: float) -> dict[str, float]:
        """The cosine between the critic's gradients on two batches; no weight is changed."""
        weights, gradients = self._critic_weights, []
        trainable = [weight.requires_grad for weight in weights]
        for weight in weights:
            weight.requires_grad_(True)
        with torch.enable_grad():
            for half in ("left", "right"):
                prompt, real = self._draw(f"{half}-prompt", step), self._draw(f"{half}-real", step)
                loss = self.distillation.critic_loss(
                    prompt=prompt, real=real, generator=self.streams(f"watch-{half}", step), progress=progress
                )
                gradients.append(torch.autograd.grad(loss, weights, allow_unused=True, materialize_grads=True))
        for weight, learns in zip(weights, trainable, strict=True):
            weight.requires_grad_(learns)
        left, right = gradients
        dot, left_square, right_square = (
            sum((a * b).sum() for a, b in zip(*pair, strict=True)) for pair in ((left, right), (left, left), (right, right))
        )
        return {"critic_grad_cosine": (dot / (left_square * right_square).sqrt().clamp_min(1e-30)).item()}  # type: ignore[union-attr]

    # -- what is not finite --------------------------------------------------------------------------------------------------

    def _not_finite(self, step: int, skipped: dict[str, int]) -> Raised:
        steps = " and ".join(f"{count} of the {name}" for name, count in skipped.items())
        message = f"{steps}: gradients that are not finite, so these steps were skipped; {self._culprit(step)}"
        return Raised("not-finite", message, curable=True)

    @torch.no_grad()
    def _culprit(self, step: int) -> str:
        """The first thing on the way of a batch that is not finite."""
        for name in ("data", "source"):
            x = getattr(self.dataset.train, name)
            if x is not None and not torch.isfinite(x).all():
                bad = int((~torch.isfinite(x)).flatten(1).any(1).sum())
                return f"the cause is the {name}: {bad} of {len(x)} samples are not finite; remove them"
        generated, _, samples = self._points(step)
        (predictions, *_) = self.distillation.predictions(generated)[0]
        for name, x, cure in (
            ("student", samples, "lower trainer.student_lr"),
            ("teacher", predictions.teacher, "examine it with: matchlib doctor"),
            ("critic", predictions.critic, "lower trainer.critic_lr"),
        ):
            if not torch.isfinite(x).all():
                return f"the cause is the {name}, whose predictions are not finite; {cure}"
        return "data, student, teacher and critic are finite: lower the learning rates, set trainer.max_grad_norm, or use more precision"


def _excess(predictions: list[Predictions]) -> Tensor:
    """The teacher's squared error less the critic's, summed over heads."""
    return torch.stack([head.quadratic(1.0, 1.0, 1.0) for head in predictions]).sum(0)


def _critic_excess_loss(loss: DistillationLoss, generated: Predictions, real: Predictions) -> Tensor:
    """The critic's loss less that of the teacher in its place, shape ``(b,)``; a critic that learns has a negative one."""

    both = generated, (real if loss.uses_real else None)
    by_teacher = (None if x is None else replace(x, critic=x.teacher) for x in both)
    return loss.critic_loss(*both) - loss.critic_loss(*by_teacher)  # type: ignore[arg-type]


def _error(predictions: Predictions, answer: Tensor) -> float:
    return float((predictions.weight * square_norm(answer - predictions.target)).mean())


def _linear_error(predictions: Predictions, state: Tensor, which: Tensor) -> float:
    """The part of the mean error of the best multiple of the state that the chosen points contribute."""
    weight = predictions.weight
    if not isinstance(weight, Tensor):
        weight = torch.full_like(predictions.target.flatten(1)[:, 0], weight)
    w, target, x = weight[which], predictions.target[which], state[which]
    return float((w * square_norm(target - best_multiple(target, x, w) * x)).sum() / len(which))


def _variance(x: Tensor) -> Tensor:
    return x.flatten(1).var(0).mean()


def _share(which: Tensor) -> float:
    return which.double().mean().item()


def _distance_to(x: Tensor, data: Tensor) -> float:
    """The mean distance of a sample to the nearest of ``data``."""
    return float(torch.cdist(x.flatten(1), data.flatten(1)).min(1).values.mean())


def _nn_distance(x: Tensor) -> Tensor:
    """The mean distance of a sample to the nearest other one."""
    distance = torch.cdist(x.flatten(1), x.flatten(1))
    distance.fill_diagonal_(math.inf)
    return distance.min(1).values.mean()
