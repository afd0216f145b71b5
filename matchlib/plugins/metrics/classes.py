"""Whether samples have all classes, in the shares that the data have.

The class of an event is what the features' own network says, of samples and data alike: of the data's labels, or of clusters.
"""

from __future__ import annotations

import torch
from torch import Tensor

from matchlib.evaluation.reference import PointSet, Reference, total_variation
from matchlib.evaluation.reference import classes_missing as count_missing
from matchlib.registry import metrics

__all__ = ["class_entropy", "class_shares", "classes_missing"]


def _tells_classes(reference: Reference) -> bool:
    return reference.extractor.classes > 1


def _entropy(shares: Tensor) -> Tensor:
    return torch.special.entr(shares).sum()


@metrics.register("class-shares", applies=_tells_classes)
def class_shares(reference: Reference, samples: PointSet) -> float:
    """Returns the total variation between the shares of classes of samples and data, in [0, 1]; lower is better."""
    return total_variation(samples.shares, reference.train.shares)


@metrics.register("class-entropy", better=0, applies=_tells_classes)
def class_entropy(reference: Reference, samples: PointSet) -> float:
    """Returns the effective number of classes of samples over that of the data: 1 if alike, 1 over that of the data if there is one."""
    return float((_entropy(samples.shares) - _entropy(reference.train.shares)).exp())


@metrics.register("classes-missing", applies=_tells_classes)
def classes_missing(reference: Reference, samples: PointSet) -> float:
    """Returns how many of the data's classes have less than a tenth of their share among samples; lower is better."""
    return count_missing(samples.shares, reference.train.shares)
