"""Distances of Gaussians fitted to samples."""

from __future__ import annotations

from matchlib.evaluation.gaussians import distance_of_points, standard_error
from matchlib.evaluation.reference import PointSet, Reference
from matchlib.registry import metrics

__all__ = ["frechet", "frechet_error", "frechet_raw"]


def frechet_error(reference: Reference, samples: PointSet) -> float:
    """Returns the standard error of ``frechet`` over draws of the samples and of the training data; nan for fewer points than features."""
    few = min(len(samples), len(reference.train)) < samples.features.shape[1]
    return float("nan") if few else standard_error(samples, reference.train, "features")


@metrics.register("frechet-raw")
def frechet_raw(reference: Reference, samples: PointSet) -> float:
    """Returns the distance of Gaussians fitted to the values in model units; lower is better."""
    return distance_of_points(samples, reference.train, "values")


@metrics.register("frechet", error=frechet_error)
def frechet(reference: Reference, samples: PointSet) -> float:
    """Returns the distance of Gaussians fitted to features; lower is better.

    Own features are in units of one feature's standard deviation; with the Inception network's in a file it is the FID.

    References:
        Heusel et al., "GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash Equilibrium", 2017,
        https://arxiv.org/abs/1706.08500
    """
    return distance_of_points(samples, reference.train, "features")
