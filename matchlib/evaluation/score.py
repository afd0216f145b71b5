"""Scores of samples, all against the training split and all at the same n."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from matchlib.data.dataset import Dataset
from matchlib.evaluation.features import FileFeatures, own_features
from matchlib.evaluation.reference import Reference
from matchlib.evaluation.work import Work
from matchlib.io import cache_folder
from matchlib.registry import metrics

__all__ = ["applying", "interval", "key_of", "pair_scores", "reference_of", "scores"]


def key_of(name: str) -> str:
    """Returns a metric's key in ``evaluation.json``: its name with underscores."""
    return name.replace("-", "_")


def reference_of(
    dataset: Dataset,
    *,
    samples: int | None = None,
    subset: int = 2000,
    extractor: str = "own",
    device: torch.device | str = "cpu",
    work: Work | None = None,
) -> Reference:
    """Returns what samples of a data set are scored against.

    Args:
        samples: in one score; None for as many as are held out, at most 10,000.
        subset: points that metrics of quadratic cost use.
        extractor: ``own``, or a file, see ``matchlib.runs.settings.EvaluationSettings``.
        device: where scores are computed.
        work: told of every part of the work.

    Raises:
        ArtifactError: the extractor's file cannot be used.
    """
    where = torch.device(device)
    train, held_out = (batch.data.to(where) for batch in (dataset.train, dataset.held_out))
    features = own_features(dataset, where, work=work) if extractor == OWN else FileFeatures(Path(extractor), dataset, where)
    cache = cache_folder() / "references" / _key(dataset, features.name)
    return Reference(train, held_out, features, min(samples or MOST, len(held_out)), subset, work, cache)


def _key(dataset: Dataset, features: str) -> str:
    """A digest of everything that a reference's part of the scores depends on."""
    units = dataset.shift, dataset.scale, dataset.shown_limits
    digest = hashlib.blake2b(f"{VERSION} {features} {units}".encode(), digest_size=10)
    for x in (dataset.train.data, dataset.held_out.data):
        digest.update(f"{tuple(x.shape)} {x.dtype}".encode())
        digest.update(x.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


OWN = "own"
VERSION = "4"  # part of the cache's key: raise it when a metric changes
MOST = 10_000  # samples in one score, unless the settings say otherwise


def applying(reference: Reference, names: Sequence[str] | None = None) -> list[str]:
    """Returns the metrics that make sense for a reference, of ``names`` or of all."""
    return [name for name in (metrics if names is None else names) if metrics[name].applies(reference)]


def scores(reference: Reference, samples: Tensor, names: Sequence[str] | None = None) -> dict[str, float]:
    """Returns each metric's mean over the draws of ``reference.size`` that ``samples`` hold.

    Args:
        samples: ``(n, *event)`` in model units, n >= ``reference.size``; what is left over is not used.
        names: of registered metrics; all that apply where None.
    """
    draws = [reference.points(part) for part in samples.split(reference.size) if len(part) == reference.size]
    return {key_of(name): float(np.mean([metrics[name](reference, draw) for draw in draws])) for name in applying(reference, names)}


def interval(values: Sequence[float], level: float = 0.95) -> list[float]:
    """Returns the ends of Student's interval of the mean of independent values, at least two."""
    from scipy.stats import t

    x = np.asarray(values, np.float64)
    half = float(t.ppf((1 + level) / 2, len(x) - 1)) * float(x.std(ddof=1)) / len(x) ** 0.5
    return [float(x.mean()) - half, float(x.mean()) + half]


def flat(x: Tensor) -> np.ndarray:
    """Returns ``(n, *event)`` as a float64 array ``(n, size)``."""
    return x.detach().cpu().double().flatten(1).numpy()


RIDGE = 1e-3  # of the regression, relative to the number of training pairs: keeps it defined where entries never vary


def pair_scores(dataset: Dataset, samples: Tensor) -> dict[str, float]:
    """Returns scores of samples that answer to the held-out sources of paired data, in order and over again.

    - ``rmse``: root mean square error to the truth, in data units; ``psnr``: mean of 10 log10(range^2 / mean square error) over samples,
      in dB. Both reward the conditional mean, which is blurred: read them beside a distance of laws.
    - ``consistency``: what a linear regression on the sample (fitted to training pairs) leaves unexplained of the source, relative to what
      the same regression on the truth leaves; 1 if samples explain their source as well as the truth does.
    - ``spread``: mean squared distance between two answers to one source, relative to that between an answer and the truth. Draws of the
      exact posterior have 1, because the truth is such a draw; a generator with one answer to a source has 0. It needs two answers.

    Args:
        samples: ``(n, *event)`` in model units; whole rounds of the held-out sources count, or as many of these as there are samples.
    """
    from sklearn.linear_model import Ridge

    assert dataset.held_out.source is not None
    assert dataset.train.source is not None
    truth, source = (flat(x)[: len(samples)] for x in (dataset.held_out.data, dataset.held_out.source))
    rounds = len(samples) // len(truth)
    answers = flat(samples[: rounds * len(truth)]).reshape(rounds, *truth.shape)
    error = np.square(answers - truth).mean(2)
    span = (dataset.limits[1] - dataset.limits[0]) / dataset.scale
    result = {
        "rmse": float(np.sqrt(error.mean()) * dataset.scale),
        "psnr": float((10 * np.log10(span**2 / np.maximum(error, 1e-12 * span**2))).mean()),
    }
    explain = Ridge(RIDGE * len(dataset.train.data)).fit(flat(dataset.train.data), flat(dataset.train.source))
    left = np.square(explain.predict(answers.reshape(-1, truth.shape[1])).reshape(answers.shape) - source).mean()
    result["consistency"] = float(np.sqrt(left / np.square(explain.predict(truth) - source).mean()))
    if rounds > 1:
        result["spread"] = float(2 * answers.var(0, ddof=1).mean() / error.mean())
    return result
