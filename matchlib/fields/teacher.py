"""Teachers: frozen fields together with the model they were trained for."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import replace
from numbers import Real
from typing import Any

import torch
from torch import Tensor, nn

from matchlib.algebra.convert import view
from matchlib.algebra.model import MatchingModel, Moments
from matchlib.algebra.objective import Objective
from matchlib.algebra.records import Condition
from matchlib.algebra.rows import expand, joined_shape
from matchlib.distillation.defaults import Defaults
from matchlib.errors import IncompatibleError, SettingError, nearest
from matchlib.fields.callable import CallableField

__all__ = ["Teacher"]

CONVENTION = ("arguments", "time", "latent", "output")  # keywords of a CallableField


class Teacher(nn.Module):
    """A frozen copy of a field. The gradient reaches the state, never the weights.

    Args:
        field: any module called as ``field(state, time, condition)``, with ``state`` of shape ``(b, *event)`` and ``time`` of shape
            ``(b,)``; it is copied, so that later training of the original leaves the teacher alone.
        model: the matching model whose row the field predicts.
        moments: second moments of data and source, in the field's units.
        normalization: (shift, scale) with ``data = shift + scale * the field's units``; None for that of the data set.
        defaults: what suits the teacher for sampling and distilling; None for general defaults.
        guidance: w of ``uncond + w (cond - uncond)``; 1 leaves the field as it is, other values cost a second evaluation of a field that
            was trained with dropped labels (Ho, Salimans, "Classifier-Free Diffusion Guidance", 2022, https://arxiv.org/abs/2207.12598).
        guidance_interval: times (least, largest), in [0, 1], at which the field is guided; None for all (Kynkäänniemi et al., "Applying
            Guidance in a Limited Interval Improves Sample and Distribution Quality", 2024, https://arxiv.org/abs/2404.07724).
    """

    def __init__(
        self,
        field: nn.Module,
        model: MatchingModel,
        moments: Moments = Moments(),
        guidance: float = 1.0,
        *,
        guidance_interval: tuple[float, float] | None = None,
        normalization: tuple[float, float] | None = None,
        defaults: Defaults | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(field, nn.Module):
            raise SettingError(f"field is a torch.nn.Module, got {field!r}; a function goes through Teacher.from_callable")
        if not math.isfinite(guidance):
            raise SettingError(f"guidance is a finite number, got {guidance}")
        if guidance_interval is not None and not (len(guidance_interval) == 2 and 0 <= guidance_interval[0] < guidance_interval[1] <= 1):
            raise SettingError(f"guidance_interval is (least, largest) time, 0 <= least < largest <= 1, got {guidance_interval!r}")
        if normalization is not None and not _is_normalization(normalization):
            raise SettingError(f"normalization is (shift, scale), two numbers with scale > 0, got {normalization!r}")
        if not isinstance(model, MatchingModel):
            family = f"[{model!r}]" if isinstance(model, str) else ".NAME"
            example = f"matchlib.families{family}().model(paired=False)"
            raise SettingError(f"model is a matchlib.MatchingModel, such as {example}, got {model!r}")
        self.field = _copied(field).eval().requires_grad_(False)
        self.model, self.moments, self.guidance, self.normalization = model, moments, guidance, normalization
        self.guidance_interval = guidance_interval
        self.defaults = defaults
        self.origin: dict[str, Any] | None = None  # how an adapter makes the field again; None if only Python knows

    @classmethod
    def from_callable(
        cls,
        fn: Callable[..., Any],
        model: MatchingModel,
        *,
        moments: Moments = Moments(),
        guidance: float = 1.0,
        guidance_interval: tuple[float, float] | None = None,
        normalization: tuple[float, float] | None = None,
        defaults: Defaults | None = None,
        **convention: Any,
    ) -> Teacher:
        """Returns the teacher that a callable in any convention is.

        Args:
            fn: predicts ``model.objective``; a module is copied, so later training of the original leaves the teacher alone.
            model: in matchlib's convention, t = 0 at the data.
            moments, guidance, guidance_interval, normalization, defaults: as for the class.
            convention: how ``fn`` differs from ``fn(state, t)``: ``arguments``, its order; ``time``, a function from t to its time;
                ``latent`` and ``output``, which multiply the state and the answer. See ``matchlib.fields.callable.CallableField``.

        Raises:
            SettingError: a keyword or an argument that does not exist, or a value of another kind.
        """
        for name in convention:
            if name not in CONVENTION:
                known = (*CONVENTION, "moments", "guidance", "guidance_interval", "normalization", "defaults")
                raise SettingError(f"from_callable takes {', '.join(known)}, got {name!r}{nearest(name, known)}")
        more: dict[str, Any] = {"guidance_interval": guidance_interval, "normalization": normalization, "defaults": defaults}
        return cls(CallableField(fn, **convention), model, moments, guidance, **more)

    @property
    def evaluations(self) -> int:
        """Evaluations of the field that one answer to a labelled question costs."""
        return 1 if self.guidance == 1.0 else 2

    def forward(self, state: Tensor, time: Tensor, condition: Condition) -> Tensor:
        """Returns the prediction, shape ``(b, *event)``, or ``(b, heads, *event)`` for an objective of several.

        Raises:
            IncompatibleError: the field answered with another shape.
        """
        prediction = self.field(state, time, condition)
        wanted = joined_shape(state.shape[1:], len(self.model.objective.heads))
        if tuple(prediction.shape) != (len(state), *wanted):
            raise IncompatibleError(
                f"the teacher predicts shape {tuple(prediction.shape[1:])} for states of shape {tuple(state.shape[1:])}; "
                f"a field of this model must answer with {wanted}"
            )
        if self.guidance == 1.0 or condition.label is None:
            return prediction
        without = self.field(state, time, replace(condition, label=None))
        if self.guidance_interval is None:
            return torch.lerp(without, prediction, self.guidance)
        least, largest = self.guidance_interval
        inside = ((time >= least) & (time <= largest)).to(state.dtype)
        return torch.lerp(without, prediction, expand(1.0 + (self.guidance - 1.0) * inside, prediction))

    def train(self, mode: bool = True) -> Teacher:
        """A teacher stays in evaluation mode."""
        return super().train(mode=False)

    def view(self, wanted: Objective) -> nn.Module:
        """Returns the teacher read as another prediction.

        Raises:
            ConversionError: its own prediction does not determine ``wanted``.
        """
        return view(self, self.model, wanted)


def _copied(field: nn.Module) -> nn.Module:
    """Returns a copy of a field, or says why there is none.

    Raises:
        IncompatibleError: it holds a tensor that torch does not copy.
    """
    try:
        return copy.deepcopy(field)
    except RuntimeError as error:
        raise IncompatibleError(
            f"the teacher's network cannot be copied: {str(error).splitlines()[0][:120]}; where it has torch.nn.utils.weight_norm or "
            "spectral_norm, remove it first, or take that of torch.nn.utils.parametrizations"
        ) from error


def _is_normalization(value: Any) -> bool:
    """Whether a value is two finite numbers, the second of them positive."""
    if not isinstance(value, tuple | list) or len(value) != 2 or not all(isinstance(x, Real) for x in value):
        return False
    return math.isfinite(value[0]) and 0 < value[1] < math.inf
