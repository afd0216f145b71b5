"""The exact field of a Gaussian mixture in the place of a network."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from matchlib.algebra.model import MatchingModel
from matchlib.algebra.records import Batch, Condition
from matchlib.errors import IncompatibleError, SettingError
from matchlib.fields.exact import GaussianField, Mixture
from matchlib.fields.preconditioned import ExactField, NetworkSpec
from matchlib.registry import networks

__all__ = ["Gaussian"]

Numbers = float | tuple[float, ...]


@networks.register("gaussian")
class Gaussian(ExactField):
    """E[row | what the field sees] under a Gaussian mixture for each class.

    With ``mean`` and ``std`` the distribution is given, the same and independent for every entry of an event, in model units. Without
    them it is fitted to the training data: one Gaussian with a shrunk covariance, or a mixture by expectation maximisation.

    Args:
        spec: shapes and conditions.
        model: its row is predicted.
        components: of the fit, for each class, >= 1.
        mean, std: numbers, or one for each component; both or neither; std > 0.
        weights: shares of given components; None for equal ones.

    Raises:
        SettingError: the settings describe no distribution.
        IncompatibleError: the model's coupling makes no Gaussian mixture, or labels are not classes.

    References:
        Ledoit, Wolf, "A well-conditioned estimator for large-dimensional covariance matrices", 2004,
        https://doi.org/10.1016/S0047-259X(03)00096-4
    """

    def __init__(
        self,
        spec: NetworkSpec,
        model: MatchingModel,
        *,
        components: int = 1,
        mean: Numbers | None = None,
        std: Numbers | None = None,
        weights: tuple[float, ...] | None = None,
    ) -> None:
        super().__init__()
        if spec.label_shape is not None:
            raise IncompatibleError("gaussian: labels must be classes; data.labels=false leaves them out")
        if not (model.coupling.independent or model.coupling.paired):
            raise IncompatibleError(f"gaussian: {type(model.coupling).__name__} does not join a Gaussian mixture to one")
        self.classes, self.size = spec.classes or 1, math.prod(spec.shape)
        self.components, self.settings = components, (mean, std, weights)
        self.model = model
        self.exact = GaussianField(model, self._placeholder() if mean is None and std is None else self._stated())

    def _placeholder(self) -> Mixture:
        if not isinstance(self.components, int) or self.components < 1:
            raise SettingError(f"gaussian: components must be a whole number of at least 1, got {self.components!r}")
        if self.settings[2] is not None:
            raise SettingError("gaussian: weights belong to a given mean and std")
        distribution = Mixture.normal(dimension=self.size)
        shape = (self.classes, self.components)
        return Mixture(
            torch.full(shape, 1 / math.prod(shape), dtype=torch.float64),
            distribution.mean.expand(*shape, -1, -1).contiguous(),
            distribution.covariance.expand(*shape, -1, -1, -1, -1).contiguous(),
        )

    def _stated(self) -> Mixture:
        try:
            mean, std, weights = (None if x is None else np.atleast_1d(np.asarray(x, dtype=float)) for x in self.settings)
        except (TypeError, ValueError) as error:
            raise SettingError(f"gaussian: mean, std and weights are numbers or lists of numbers, got {self.settings}") from error
        if self.components != 1:
            raise SettingError("gaussian: components belong to a fit; a given mean and std have one component for each number")
        if mean is None or std is None or mean.shape != std.shape or not (np.isfinite(mean) & (std > 0) & np.isfinite(std)).all():
            raise SettingError(f"gaussian: mean and std > 0 are given together, one of each for a component, got {self.settings[:2]}")
        shares = np.ones(len(mean)) if weights is None else weights
        if shares.shape != mean.shape or not (shares > 0).all():
            raise SettingError(f"gaussian: one weight > 0 for each component is needed, got {self.settings[2]}")
        parts = [Mixture.normal(float(m), float(s), dimension=self.size) for m, s in zip(mean, std, strict=True)]
        whole = Mixture(
            torch.as_tensor(shares / shares.sum())[None],
            torch.cat([part.mean for part in parts], 1),
            torch.cat([part.covariance for part in parts], 1),
        ).coupled(self.model.coupling)
        return Mixture(
            whole.weights.expand(self.classes, -1).contiguous() / self.classes,
            whole.mean.expand(self.classes, -1, -1, -1).contiguous(),
            whole.covariance.expand(self.classes, -1, -1, -1, -1, -1).contiguous(),
        )

    def fit(self, data: Batch) -> None:
        if self.settings[0] is not None:
            return
        from sklearn.covariance import LedoitWolf

        x = data.data.flatten(1).double().cpu()
        z = torch.zeros_like(x) if data.source is None else data.source.flatten(1).double().cpu()
        label = torch.zeros(len(x), dtype=torch.long) if data.label is None or self.classes == 1 else data.label.cpu()
        both = torch.cat([x, z], 1) if self.model.coupling.reads_source else x
        fits = [self._class(both[label == i].numpy()) for i in range(self.classes)]
        shares = torch.bincount(label, minlength=self.classes).double() / len(label)
        distribution = Mixture(
            torch.stack([share * weights for share, (weights, _, _) in zip(shares, fits, strict=True)]),
            *(torch.stack([fit[i] for fit in fits]) for i in (1, 2)),
        ).coupled(self.model.coupling)
        if self.model.coupling.reads_source and not self.model.coupling.paired:  # independent of the data: one for every component
            pooled = LedoitWolf().fit(z.numpy())
            distribution.mean[:, :, 1] = torch.as_tensor(pooled.location_)
            distribution.covariance[:, :, 1, :, 1] = torch.as_tensor(pooled.covariance_)
        for name in ("weights", "mean", "covariance"):
            getattr(self.exact, name).copy_(getattr(distribution, name))

    def _class(self, x: np.ndarray) -> tuple[Tensor, Tensor, Tensor]:
        """Weights, means and covariances of one class, of (data, source); a source that is not read is standard normal."""
        from sklearn.covariance import LedoitWolf
        from sklearn.mixture import GaussianMixture

        k, d = self.components, self.size
        if len(x) < 2 * k:
            raise IncompatibleError(f"gaussian: {k} components need at least {2 * k} samples in each class, got {len(x)}")
        if k == 1:
            one = LedoitWolf().fit(x)
            weights, mean, covariance = np.ones(1), one.location_[None], one.covariance_[None]
        else:
            many = GaussianMixture(k, reg_covar=1e-3, random_state=0).fit(x)
            weights, mean, covariance = many.weights_, many.means_, many.covariances_
        means, blocks = torch.zeros(k, 2 * d, dtype=torch.float64), torch.eye(2 * d, dtype=torch.float64).repeat(k, 1, 1)
        seen = x.shape[1]
        means[:, :seen], blocks[:, :seen, :seen] = torch.as_tensor(mean), torch.as_tensor(covariance)
        return torch.as_tensor(weights), means.reshape(k, 2, d), blocks.reshape(k, 2, d, 2, d)

    def forward(self, state: Tensor, time: Tensor, condition: Condition) -> Tensor:
        """Returns the prediction, shape ``(b, *event)``."""
        return self.exact(state, time, condition)
