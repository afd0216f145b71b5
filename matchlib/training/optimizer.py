"""One optimiser step: Adam with a finite guard, clipping and averages of the weights; the host never waits for the device.

References:
    Kingma, Ba, "Adam: A Method for Stochastic Optimization", 2014, https://arxiv.org/abs/1412.6980
    Seetharaman et al., "AutoClip: Adaptive Gradient Clipping", 2020, https://arxiv.org/abs/2007.14469
    Karras et al., "Analyzing and Improving the Training Dynamics of Diffusion Models", 2023, https://arxiv.org/abs/2312.02696 (averages)
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm
from torch.optim.adam import adam
from torch.optim.swa_utils import get_ema_multi_avg_fn

from matchlib.training.distributed import SingleProcess
from matchlib.training.task import Learner

__all__ = ["EMA", "TrainState"]


class EMA:
    """``average += (1 - decay_n)(weights - average)``, with ``decay_n = min(decay, (1 + n)/(10 + n))`` after n updates.

    Args:
        module: whose parameters that learn now are averaged; the others, and buffers, are taken as they are.
        decays: one average for each, in [0, 1); 0 keeps no average, the weights themselves stand for it.
        strategy: which part of every weight this process holds.
    """

    def __init__(self, module: nn.Module, decays: Sequence[float], strategy: SingleProcess | None = None) -> None:
        self.module, self.decays, self.updates = module, tuple(decays), 0
        self.strategy = strategy or SingleProcess()
        self.learns = [weight.requires_grad for weight in module.parameters()]
        self.parameters = [weight for weight in module.parameters() if weight.requires_grad]
        self.weights: list[Tensor] = [self.strategy.to_local(w) for w in self.parameters]
        self.averages: list[list[Tensor]] = [[w.detach().clone() for w in self.weights] if decay else [] for decay in decays]

    def update(self) -> None:
        """Takes one step towards the module's weights: one operation for each average."""
        most = (1 + self.updates) / (10 + self.updates)
        for decay, average in zip(self.decays, self.averages, strict=True):
            if average:
                get_ema_multi_avg_fn(min(decay, most))(average, self.weights, None)
        self.updates += 1

    @torch.no_grad()
    def copy(self, index: int = 0) -> nn.Module:
        """Returns a copy of the whole module with the weights of one average."""
        module = self.strategy.copy(self.module)
        means = self.averages[index] or self.weights
        copies = [weight for weight, learns in zip(module.parameters(), self.learns, strict=True) if learns]
        for copied, weight, mean in zip(copies, self.parameters, means, strict=True):
            copied.copy_(self.strategy.full_tensor(mean, weight))
        return module


class TrainState:
    """One learner in training: its module, Adam's moments and averages of the weights.

    Args:
        learner: whose module is wrapped already.
        strategy: which part of every weight this process holds.

    Attributes:
        weights: those that learn, as the module has them.
        local: this process's parts of them, which Adam changes.
        moments: Adam's, by name, each for every weight; ``step`` counts the steps that were not skipped.
        skipped: steps left out because a gradient was not finite, a number on the device.
        typical_norm: running mean of the squared norm of the clipped gradient, and the weight of the steps in it.
    """

    def __init__(self, learner: Learner, strategy: SingleProcess) -> None:
        self.learner, self.strategy = learner, strategy
        self.named = dict(learner.module.named_parameters())  # taken now: a strategy may put others in their place for a while
        self.weights = [w for w in self.named.values() if w.requires_grad]
        self.local = [strategy.to_local(w) for w in self.weights]
        device = self.local[0].device if self.local else None
        self.moments: dict[str, list[Tensor]] = {
            "step": [torch.zeros((), device=w.device) for w in self.local],
            **{name: [torch.zeros_like(w) for w in self.local] for name in ("exp_avg", "exp_avg_sq")},
        }
        self.ema = EMA(learner.module, (learner.ema, *learner.extra_ema_decays), strategy)
        self.dtype = torch.promote_types(self.local[0].dtype, torch.float32) if self.local else torch.float32
        self.skipped = torch.zeros((), device=device)
        self.typical_norm = torch.zeros(2, dtype=self.dtype, device=device)
        self._zero, self._one = torch.zeros((), device=device), torch.ones((), device=device)

    def clear(self) -> None:
        """Drops the gradients."""
        for weight in self.weights:
            weight.grad = None

    @torch.no_grad()
    def step(self, lr: float, max_grad_norm: float = math.inf, adaptive_clip: float = math.inf) -> None:
        """Takes one step along the gradients that the weights have, unless one is not finite.

        Args:
            lr: Adam's step size.
            max_grad_norm: largest norm of the gradient.
            adaptive_clip: likewise, over the running root mean square of earlier norms, averaged as Adam's second moment is. Adam has not
                seen a sudden growth yet, so its step would be up to (1 - beta_2)^(-1/2) times too long.
        """
        with_gradient = [i for i, w in enumerate(self.weights) if w.grad is not None]
        if with_gradient:
            gradients = [self.strategy.to_local(self.weights[i].grad) for i in with_gradient]  # type: ignore[arg-type]
            if min(max_grad_norm, adaptive_clip) < math.inf:
                skip = self._clip(gradients, max_grad_norm, adaptive_clip)
            else:
                skip = self._not_finite(gradients)
            self.skipped += skip
            self._adam(with_gradient, gradients, lr, skip)
        self.ema.update()

    def _not_finite(self, gradients: list[Tensor]) -> Tensor:
        """Returns 1 where a number of the gradient is not finite, else 0."""
        not_finite = torch.zeros_like(self._one)
        torch._amp_foreach_non_finite_check_and_unscale_(gradients, not_finite, self._one)  # GradScaler's; norms are 2 to 20 times slower
        return self.strategy.all_reduce(not_finite).clamp(max=1.0)

    def _clip(self, gradients: list[Tensor], max_grad_norm: float, adaptive_clip: float) -> Tensor:
        """Shortens a gradient that is too long, and updates the typical norm; returns 1 where the norm is not finite, else 0."""
        norm = self.strategy.all_reduce(get_total_norm(gradients, foreach=True).square()).sqrt().to(self.dtype)
        skip = torch.where(norm < math.inf, self._zero, self._one)
        total, weight = self.typical_norm
        limit = torch.where(total > 0, adaptive_clip * (total / weight).sqrt(), math.inf).clamp(max=max_grad_norm)
        factor = (limit / norm.clamp_min(1e-30)).clamp(max=1.0)
        torch._foreach_mul_(gradients, factor)  # one operation for all; the public clip_grads_with_norm_ takes no limit on the device
        beta = self.learner.betas[1]
        now = torch.stack([(norm * factor).square(), torch.ones_like(norm)])
        self.typical_norm = torch.where(skip > 0, self.typical_norm, beta * self.typical_norm + (1 - beta) * now)
        return skip

    def _adam(self, which: list[int], gradients: list[Tensor], lr: float, skip: Tensor) -> None:
        """Takes Adam's step, which the device leaves out where ``skip`` is 1."""
        first, second, counts = ([self.moments[name][i] for i in which] for name in ("exp_avg", "exp_avg_sq", "step"))
        beta1, beta2 = self.learner.betas
        adam(
            [self.local[i] for i in which],
            gradients,
            first,
            second,
            [],
            counts,
            fused=True,
            found_inf=skip,
            amsgrad=False,
            beta1=beta1,
            beta2=beta2,
            lr=lr,
            weight_decay=0.0,
            eps=1e-8,
            maximize=False,
        )

    def gradient_norm(self) -> float:
        """Returns the running root mean square of the clipped gradient's norm; 0 where norms are not taken. The host waits."""
        total, weight = self.typical_norm.tolist()
        return math.sqrt(total / weight) if weight else 0.0

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Yields every tensor of the state, named and whole."""
        strategy, named = self.strategy, self.named
        for key, x in self.learner.module.state_dict().items():
            yield f"module/{key}", strategy.full_tensor(strategy.to_local(named[key]), named[key]) if key in named else x
        for name, average in self._averages():
            for i, (mean, weight) in enumerate(zip(average, self.weights, strict=True)):
                yield f"{name}/{i}", strategy.full_tensor(mean, weight)
        yield "counts", torch.stack([torch.tensor(float(self.ema.updates)), self.skipped.cpu()])
        yield "typical_norm", self.typical_norm
        for name, slots in self.moments.items():
            for i, (slot, weight) in enumerate(zip(slots, self.weights, strict=True)):
                yield f"adam/{name}/{i}", strategy.full_tensor(slot, weight) if slot.ndim else slot

    @torch.no_grad()
    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Restores the state from its tensors.

        Raises:
            KeyError, RuntimeError: they are those of another learner.
        """
        shard, rest = self.strategy.shard, dict(tensors)
        for key, x in self.learner.module.state_dict().items():
            saved, weight = rest.pop(f"module/{key}"), self.named.get(key)
            _fill(x, saved) if weight is None else _fill(self.strategy.to_local(weight), shard(saved, weight))
        for name, average in self._averages():
            for i, (mean, weight) in enumerate(zip(average, self.weights, strict=True)):
                _fill(mean, shard(rest.pop(f"{name}/{i}"), weight))
        updates, skipped = rest.pop("counts").tolist()
        self.ema.updates = int(updates)
        self.skipped.fill_(skipped)
        self.typical_norm.copy_(rest.pop("typical_norm"))
        for name, slots in self.moments.items():
            for i, (slot, weight) in enumerate(zip(slots, self.weights, strict=True)):
                saved = rest.pop(f"adam/{name}/{i}")
                _fill(slot, shard(saved, weight) if slot.ndim else saved)
        if rest:
            raise KeyError(f"{', '.join(rest)} have no place")

    def _averages(self) -> Iterator[tuple[str, list[Tensor]]]:
        """Names and tensors of the averages that are kept."""
        names = ("ema", *(f"ema-{decay}" for decay in self.learner.extra_ema_decays))
        yield from ((name, average) for name, average in zip(names, self.ema.averages, strict=True) if average)


def _fill(x: Tensor, saved: Tensor) -> None:
    """Copies a saved tensor of the same shape."""
    if x.shape != saved.shape:
        raise RuntimeError(f"shape {tuple(saved.shape)} where {tuple(x.shape)} is needed")
    x.copy_(saved)
