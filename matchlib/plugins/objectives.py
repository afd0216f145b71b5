"""Objectives: the linear functional of (data, source, noise) that a network predicts, and its time weight."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from matchlib.algebra.interpolant import differentiate
from matchlib.algebra.objective import Objective, PathModel
from matchlib.algebra.pinned import PriorInterpolant
from matchlib.algebra.rows import Coefficients, Row, Scalar
from matchlib.errors import IncompatibleError, SettingError
from matchlib.registry import objectives

__all__ = [
    "Data",
    "Drift",
    "Epsilon",
    "Joint",
    "Noise",
    "PathVelocity",
    "PriorScore",
    "Score",
    "Source",
    "V",
    "Velocity",
    "drift_and_diffusion",
]


@objectives.register("data")
@dataclass(frozen=True)
class Data(Objective):
    """Row (1, 0, 0); weight 1 + a^2/(b^2 + c^2), so that the error stays of order one at every noise level.

    References:
        Salimans, Ho, "Progressive Distillation", 2022, https://arxiv.org/abs/2202.00512 (the weight "SNR + 1")
    """

    def row(self, model: PathModel, at: Coefficients) -> Row:
        return Row(data=1.0)

    def weight(self, at: Coefficients) -> Scalar:
        return 1.0 + at.a * at.a / at.variance


@objectives.register("source")
@dataclass(frozen=True)
class Source(Objective):
    """Row (0, 1, 0); weight 1.

    References:
        Ho, Jain, Abbeel, "Denoising Diffusion Probabilistic Models", 2020, https://arxiv.org/abs/2006.11239
    """

    def row(self, model: PathModel, at: Coefficients) -> Row:
        return Row(source=1.0)


@objectives.register("noise")
@dataclass(frozen=True)
class Noise(Objective):
    """Row (0, 0, 1), where c > 0; weight 1.

    References:
        Albergo, Boffi, Vanden-Eijnden, "Stochastic Interpolants", 2023, https://arxiv.org/abs/2303.08797
    """

    def row(self, model: PathModel, at: Coefficients) -> Row:
        if not model.interpolant.noisy:
            raise IncompatibleError(
                f"noise is not a prediction of {type(model.interpolant).__name__}: its c is zero, so the noise is unused"
            )
        return Row(noise=1.0)


@objectives.register("epsilon")
@dataclass(frozen=True)
class Epsilon(Objective):
    """Row (0, b, c)/sqrt(b^2 + c^2) with an unseen independent Gaussian source, else the noise (0, 0, 1); weight 1.

    References:
        Ho, Jain, Abbeel, "Denoising Diffusion Probabilistic Models", 2020, https://arxiv.org/abs/2006.11239
    """

    def row(self, model: PathModel, at: Coefficients) -> Row:
        if model.gaussian:
            std = torch.as_tensor(at.variance).sqrt()
            return Row(0.0, at.b / std, at.c / std)
        if model.interpolant.noisy:
            return Row(noise=1.0)
        raise IncompatibleError(
            f"{type(model.interpolant).__name__} with {type(model.coupling).__name__} has no epsilon to predict: "
            "the source is not an unseen independent Gaussian, and c is zero"
        )


@objectives.register("v")
@dataclass(frozen=True)
class V(Objective):
    """Row (-b, a, 0), that is a source - b data; weight 1.

    References:
        Salimans, Ho, "Progressive Distillation for Fast Sampling of Diffusion Models", 2022, https://arxiv.org/abs/2202.00512
    """

    def row(self, model: PathModel, at: Coefficients) -> Row:
        return Row(data=-1.0 * at.b, source=at.a)


@objectives.register("velocity")
@dataclass(frozen=True)
class Velocity(Objective):
    """Row (a', b', c'); weight 1.

    References:
        Lipman et al., "Flow Matching for Generative Modeling", 2022, https://arxiv.org/abs/2210.02747
    """

    def row(self, model: PathModel, at: Coefficients) -> Row:
        return at.velocity


@objectives.register("path-velocity")
@dataclass(frozen=True)
class PathVelocity(Objective):
    """Row (a', b', 0): finite where c' is not, so that a second head can carry the noise.

    References:
        Albergo, Boffi, Vanden-Eijnden, "Stochastic Interpolants: A Unifying Framework for Flows and Diffusions", 2023,
        https://arxiv.org/abs/2303.08797 (the velocity is this and c' times the noise's conditional mean)
    """

    def row(self, model: PathModel, at: Coefficients) -> Row:
        velocity = at.velocity
        return Row(velocity.data, velocity.source)


class _InverseNoise(Objective):
    """A row that grows as the reciprocal of the noise, so its square is weighted by b^2 + c^2."""

    def weight(self, at: Coefficients) -> Scalar:
        return at.variance


@objectives.register("score")
@dataclass(frozen=True)
class Score(_InverseNoise):
    """Row (0, -b, -c)/(b^2 + c^2) with an unseen independent Gaussian source, else (0, 0, -1/c); weight b^2 + c^2.

    The two rows are equal up to a relation, so either is the score where both exist; the first stays finite where c vanishes.

    References:
        Vincent, "A Connection Between Score Matching and Denoising Autoencoders", 2011, https://doi.org/10.1162/NECO_a_00142
        Song et al., "Score-Based Generative Modeling through Stochastic Differential Equations", 2020, https://arxiv.org/abs/2011.13456
    """

    def row(self, model: PathModel, at: Coefficients) -> Row:
        if model.gaussian:
            return Row(0.0, at.b / at.variance * -1.0, at.c / at.variance * -1.0)
        if model.interpolant.noisy:
            return Row(noise=-1.0 / at.c)
        raise IncompatibleError(
            f"{type(model.interpolant).__name__} with {type(model.coupling).__name__} has no score to predict: "
            "the source is not an unseen independent Gaussian, and c is zero"
        )


@objectives.register("prior-score")
@dataclass(frozen=True)
class PriorScore(_InverseNoise):
    """Row of ``-(state - alpha data)/var``, alpha and var those of the prior, not of the pinned bridge; weight b^2 + c^2.

    References:
        Gushchin, Selikhanovych, Kholkin, Burnaev, Korotin, "Inverse Bridge Matching Distillation", 2025, https://arxiv.org/abs/2502.01362
    """

    def row(self, model: PathModel, at: Coefficients) -> Row:
        if not isinstance(model.interpolant, PriorInterpolant):
            raise IncompatibleError(f"{type(model.interpolant).__name__} has no prior process, so no score of one")
        alpha, var = model.interpolant.prior(at.time)
        return (-1.0 / var) * at.state + Row(data=alpha / var)


def drift_and_diffusion(interpolant: PriorInterpolant, t: Tensor) -> tuple[Tensor, Tensor]:
    """Returns (f, g^2) of the prior dX = f X dt + g dW: f = alpha'/alpha, g^2 = var' - 2 f var, each ``(b,)``."""
    alpha, var = interpolant.prior(t)
    alpha_slope, var_slope = differentiate(interpolant.prior, t)
    f = alpha_slope / alpha
    return f, var_slope - 2 * f * var


@objectives.register("drift")
@dataclass(frozen=True)
class Drift(_InverseNoise):
    """Row of ``-f state - g^2 (state - alpha data)/var``, for a Brownian prior (data - state)/t; weight b^2 + c^2.

    References:
        Shi, De Bortoli, Campbell, Doucet, "Diffusion Schrödinger Bridge Matching", 2023, https://arxiv.org/abs/2303.16852
    """

    def row(self, model: PathModel, at: Coefficients) -> Row:
        interpolant = model.interpolant
        if not isinstance(interpolant, PriorInterpolant):
            raise IncompatibleError(f"{type(interpolant).__name__} has no prior process, so no drift to predict")
        f, g2 = drift_and_diffusion(interpolant, at.time)
        alpha, var = interpolant.prior(at.time)
        return (-f - g2 / var) * at.state + Row(data=g2 * alpha / var)


@objectives.register("joint")
@dataclass(frozen=True)
class Joint(Objective):
    """One field with a head for each of several rows; each is weighted as it is on its own, and any of them can be distilled.

    Args:
        parts: registered names of the rows, at least two, each once.

    Raises:
        SettingError: fewer than two, or one twice, or one that is joint itself.

    References:
        Albergo, Boffi, Vanden-Eijnden, "Stochastic Interpolants: A Unifying Framework for Flows and Diffusions", 2023,
        https://arxiv.org/abs/2303.08797 (velocity and denoiser, which together determine drift and score)
    """

    examples: ClassVar[tuple[dict[str, Any], ...]] = ({"parts": ("data", "noise")}, {"parts": ("velocity", "score")})
    parts: tuple[str, ...] = ("path-velocity", "noise")

    def __post_init__(self) -> None:
        names = (self.parts,) if isinstance(self.parts, str) else tuple(self.parts)
        if len(set(names)) < max(2, len(names)) or objectives.name_of(self) in names:
            raise SettingError(f"joint: parts are at least two different rows, got {', '.join(names) or 'none'}")
        object.__setattr__(self, "parts", names)  # a list has no hash

    @property
    def heads(self) -> tuple[Objective, ...]:
        return tuple(objectives[name]() for name in self.parts)

    def row(self, model: PathModel, at: Coefficients) -> Row:
        raise IncompatibleError(f"joint is several rows, {' and '.join(self.parts)}; ask for one of them")
