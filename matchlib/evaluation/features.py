"""A small feature extractor for any data set: the hidden layer of a classifier of its training split.

Classes are the data set's labels; without labels they are the clusters that k-means finds (k = 10), in the manner of Caron et al., "Deep
Clustering for Unsupervised Learning of Visual Features", 2018, https://arxiv.org/abs/1807.05520. Training is deterministic (fixed seed,
scikit-learn), and the result is cached by a digest of the data, unless training was interrupted. Features are standardised on the
training split, so a Frechet distance is in units of one feature's variance.
"""

from __future__ import annotations

import hashlib
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier

from matchlib.errors import ArtifactError
from matchlib.io import cache_folder, read_tensors, write_tensors

__all__ = ["Extractor", "extractor"]

WIDTHS = (128, 32)
VERSION = "2"  # part of the cache's key: raise it when features change


@dataclass(frozen=True)
class Extractor:
    """Two rectified layers and a standardisation: ``(n, size) -> (n, 32)``.

    Args:
        weights, biases: of the layers.
        mean, std: of each feature on the training split.
        name: what it was trained on, for the record.
    """

    weights: tuple[np.ndarray, ...]
    biases: tuple[np.ndarray, ...]
    mean: np.ndarray
    std: np.ndarray
    name: str

    def hidden(self, x: np.ndarray) -> np.ndarray:
        """Returns the features before standardisation."""
        for weight, bias in zip(self.weights, self.biases, strict=True):
            x = np.maximum(x @ weight + bias, 0.0)
        return x

    def __call__(self, x: np.ndarray) -> np.ndarray:
        return (self.hidden(x) - self.mean) / self.std


def extractor(train: np.ndarray, labels: np.ndarray | None, *, cache: Path | None = None) -> Extractor:
    """Returns the extractor of a training split, from the cache if it is there.

    Args:
        train: flattened, ``(n, size)``, in model units.
        labels: integers ``(n,)``, or None.
        cache: folder; by default a part of ``cache_folder()``.

    Raises:
        KeyboardInterrupt: training was interrupted; nothing is cached.
    """
    key = hashlib.sha256(VERSION.encode() + np.ascontiguousarray(train, np.float32).tobytes())
    key.update(b"" if labels is None else np.ascontiguousarray(labels, np.int64).tobytes())
    name = f"{'labels' if labels is not None else 'clusters'}-{key.hexdigest()[:16]}"
    path = (cache or cache_folder() / "features") / f"{name}.safetensors"
    try:
        tensors = {k: x.numpy() for k, x in read_tensors(path)[0].items()}
        return _extractor(tensors, name)
    except (ArtifactError, KeyError):  # missing or damaged
        tensors = _train(train, labels)
    _store(path, tensors)
    return _extractor(tensors, name)


def _extractor(tensors: dict[str, np.ndarray], name: str) -> Extractor:
    layers = range(len(WIDTHS))
    weights, biases = tuple(tensors[f"weight{i}"] for i in layers), tuple(tensors[f"bias{i}"] for i in layers)
    return Extractor(weights, biases, tensors["mean"], tensors["std"], name)


def _store(path: Path, tensors: dict[str, np.ndarray]) -> None:
    """Fills the cache; a cache that cannot be written only costs time."""
    try:
        write_tensors(path, {k: torch.from_numpy(x) for k, x in tensors.items()})
    except ArtifactError as error:
        warnings.warn(f"features are not cached: {error}", stacklevel=2)


def _fit(network: MLPClassifier, x: np.ndarray, labels: np.ndarray) -> None:
    """Trains to the end or raises: scikit-learn turns an interrupt into a warning and returns what it has."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        warnings.filterwarnings("error", "(?i).*interrupt", UserWarning)
        try:
            network.fit(x, labels)
        except UserWarning as warning:
            raise KeyboardInterrupt from warning


def _train(train: np.ndarray, labels: np.ndarray | None) -> dict[str, np.ndarray]:
    if labels is None:
        labels = KMeans(n_clusters=min(10, len(train) // 2), n_init=4, random_state=0).fit_predict(train)
    epochs = max(5, min(60, 200_000 // len(train)))
    network = MLPClassifier(WIDTHS, batch_size=min(128, len(train)), max_iter=epochs, random_state=0)
    _fit(network, train.astype(np.float64), labels)
    layers = range(len(WIDTHS))
    tensors = {f"weight{i}": network.coefs_[i] for i in layers} | {f"bias{i}": network.intercepts_[i] for i in layers}
    raw = Extractor(tuple(network.coefs_[:-1]), tuple(network.intercepts_[:-1]), np.zeros(1), np.ones(1), "")
    features = raw.hidden(train)
    std = features.std(0)
    alive = std > 0.1 * std.max()  # a unit that fires at a point or two would outweigh all others, were it standardised
    return tensors | {"mean": features.mean(0), "std": np.where(alive, std, 1.0)}
