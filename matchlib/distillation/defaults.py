"""What suits a distillation, by rules from the data, the model and the network; every value can be overruled in the settings.

Times are compared in ``benchmarks/quality/times.py``, other rules in ``rules.py`` there, all of them with fixed values in ``defaults.py``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from matchlib.algebra.convert import conversion, determines
from matchlib.algebra.model import MatchingModel
from matchlib.algebra.times import TimeDistribution, time_of
from matchlib.distillation.start import axes_of, principal_axes, starts_from_noise
from matchlib.fields.sampler import Sampler
from matchlib.registry import objectives

__all__ = [
    "TEACHER_LR_SCALE",
    "Defaults",
    "ResolvedDefaults",
    "comparison_times",
    "critic_steps",
    "learning_rate",
    "mean_log_scale",
    "principal_variances",
]

LEFT, LEAST = 3, 1.0  # axes that noise of the mean log sigma does not hide, and the least standard deviation of log sigma
LR, LARGEST = 0.155, 1e-3  # step size times fan-in, and the largest step size
OFTEN = 3  # critic steps before each student step where the data have no more than ``LEFT`` axes
AMPLIFIED = 10.0  # error of the data over that of the prediction, from which on a student starts earlier than t = 1
TEACHER_LR_SCALE = 2.0  # of a teacher's training, which starts from random weights


def principal_variances(data: Tensor) -> Tensor:
    """Returns the variances of data along their principal axes, ``(k,)``, positive, in falling order.

    Their roots are the scales of the data's structures: noise of that size hides what varies along that axis. The first is 1.3 for two
    moons, 7.5 for digits of 28x28 and 28 for photographs of 32x32, in units of one coordinate's standard deviation.

    Args:
        data: ``(n, *event)``, not all alike, of which up to 1,024 are measured.
    """
    return principal_axes(data, 0)[2]


def comparison_times(variances: Tensor) -> TimeDistribution:
    """Returns the times at which a student is compared: mostly those at which noise hides all but the few coarsest structures of the data.

    The mean of log sigma is the log of the scale of the fourth axis, or the mean over all axes where there are fewer. The standard
    deviation is that of the log scales of all axes, weighted by their variances, and at least 1.

    Compared at less noise, a student falls on a few samples and stays there (docs/research/correction.md, section 3); at more noise alone,
    fine structure is left out. The coarsest axis says little: in photographs it is brightness, far above all others.

    Args:
        variances: along the principal axes, in falling order.
    """
    weights, scales = variances / variances.sum(), variances.log() / 2
    spread = float(weights @ (scales - mean_log_scale(variances)).square()) ** 0.5
    mean = scales[LEFT] if len(scales) > LEFT else scales.mean()
    return TimeDistribution(log_sigma=(float(mean), max(LEAST, spread)))


def mean_log_scale(variances: Tensor) -> float:
    """Returns the mean of the logs of the axes' scales, weighted by their variances.

    A student with a ``GaussianStart`` starts where that is the log of noise over signal. From plain noise it has to start at more, at the
    coarsest scale, and errors of its network enter the sample as many times more.
    """
    return float((variances / variances.sum()) @ (variances.log() / 2))


def critic_steps(variances: Tensor) -> int:
    """Returns how often a critic learns before each step of a student.

    The student's loss is a lower bound that is exact only at the best critic. In the plane, students whose critic learns three times cover
    more of the data at equal steps in all (benchmarks/quality/plane.py). Elsewhere once, which leaves the student more steps.

    Args:
        variances: along the principal axes, in falling order.
    """
    return 1 if len(variances) > LEFT else OFTEN


def learning_rate(module: nn.Module) -> float:
    """Returns Adam's step size for a module, inverse to the mean number of inputs of its layers' units, and at most 1e-3.

    A unit that sums n inputs moves by n step sizes at most, so a step of equal effect is inverse to n. Layers count by their weights.

    References:
        Yang, Hu et al., "Tensor Programs V: Tuning Large Neural Networks via Zero-Shot Hyperparameter Transfer", 2022,
        https://arxiv.org/abs/2203.03466 (Adam: hidden weights)
    """
    weights = [(weight.numel(), weight[0].numel()) for weight in module.parameters() if weight.ndim > 1]
    total = sum(count for count, _ in weights)
    if not total:
        return LARGEST
    return min(LARGEST, LR * total / sum(count * inputs for count, inputs in weights))


def amplification(model: MatchingModel) -> float:
    """Returns how many times a prediction's error enters the data that are read off it at the last time of a path.

    It is 1 for a velocity of flow matching, and 150 for the noise of a DDPM with a linear schedule, whose last state is nearly noise alone;
    0 where predictions do not determine the data.
    """
    data = objectives["data"]()
    if not determines(model, data):
        return 0.0
    at = model.interpolant.coefficients(torch.tensor([model.times.t_max], dtype=torch.float64))
    of_predictions = conversion(model, data).coefficients(at)[: len(model.objective.heads)]
    return max(abs(float(k)) for k in of_predictions)


@dataclass(frozen=True)
class ResolvedDefaults:
    """Defaults as numbers, for one model, network and set of data.

    Args:
        t_start: time at which a student reads its source as a state.
        times: density of t for distillation; None keeps the model's.
        student_lr, critic_lr: step sizes of networks like the teacher's.
        critic_steps: before each step of the student.
        axes: principal axes of the data along which a student's start has their variance; 0 for a start from plain noise.
    """

    t_start: float
    times: TimeDistribution | None
    student_lr: float
    critic_lr: float
    critic_steps: int = 1
    axes: int = 0


@dataclass(frozen=True)
class Defaults:
    """What a family recommends.

    Args:
        sampler: for the teacher.
        t_start: time at which a student reads its source as a state, or the model's last where that is earlier; None for that at which
            noise hides the data's structure.
        high_noise: whether students are compared mostly where noise hides fine structure; False keeps the model's times, which suits data
            that the source determines.
        student_lr_scale, critic_lr_scale: multiply ``learning_rate`` of the network.
    """

    sampler: Sampler
    t_start: float | None = 1.0
    high_noise: bool = True
    student_lr_scale: float = 1.0
    critic_lr_scale: float = 2.0

    @classmethod
    def of_model(cls, model: MatchingModel, sampler: Sampler, *, paired: bool) -> Defaults:
        """Returns defaults for a model that no family stands for: a student starts at t = 1 where data can be read off there."""
        return cls(sampler, t_start=1.0 if amplification(model) < AMPLIFIED else None, high_noise=not paired)

    def resolve(self, model: MatchingModel, data: Tensor, network: nn.Module) -> ResolvedDefaults:
        """Returns the defaults as numbers.

        Args:
            model: the teacher's.
            data: training data in the teacher's units, ``(n, *event)``.
            network: the teacher's.
        """
        variances, rate = principal_variances(data), learning_rate(network)
        shaped = self.t_start is None and starts_from_noise(model)
        log_sigma = mean_log_scale(variances) if shaped else math.log(variances[0]) / 2
        return ResolvedDefaults(
            time_of(model.interpolant, log_sigma, model.times) if self.t_start is None else min(self.t_start, model.times.t_max),
            comparison_times(variances).within(model.times) if self.high_noise else None,
            self.student_lr_scale * rate,
            self.critic_lr_scale * rate,
            critic_steps(variances),
            axes_of(tuple(data.shape[1:])) if shaped else 0,
        )
