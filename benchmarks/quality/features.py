"""Which features judge images as classifiers with labels do?

Images that nobody has trained on are corrupted in grades (noise, speckle, blur, shifts, erased parts; lost classes, wrong shares, few
distinct images), and the Frechet distance of each candidate's features to the training data is taken at every grade. A candidate is good if
its distance rises with every grade, and if it ranks all corrupted sets as judges do that have labels and are of other kinds: the
features of an MLP, of a deeper convolutional network that has seen every image as it is, and of a kernel machine's decision values.

    python benchmarks/quality/features.py [--data digits mnist cifar] [--mnist MNIST.npz] [--cifar CIFAR.npz]

CIFAR.npz holds jpeg, offsets and labels. Cells are cached.
"""

from __future__ import annotations

import argparse
import io
import json
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from scipy.stats import spearmanr
from sklearn.cluster import KMeans
from sklearn.datasets import load_digits
from sklearn.kernel_approximation import Nystroem
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from torch import Tensor, nn
from torch.nn import functional

from matchlib.evaluation.features import shifted
from matchlib.evaluation.features import trained as train_network
from matchlib.evaluation.gaussians import frechet_distance

Features = Callable[[Tensor], np.ndarray]
RESULT = Path(__file__).parents[1] / "results" / "features.json"


def data_sets(given: argparse.Namespace) -> dict[str, tuple[Tensor, np.ndarray, Tensor, np.ndarray]]:
    """Returns (train, labels, other images, their labels) in model units, by name."""

    def halves(x: np.ndarray, y: np.ndarray, n: int) -> tuple[Tensor, np.ndarray, Tensor, np.ndarray]:
        z = torch.as_tensor(x, dtype=torch.float32)
        z = (z - z[:n].mean()) / z[:n].std()
        return z[:n], y[:n], z[n:], y[n:]

    found = {}
    if "digits" in given.data:
        x, y = load_digits(return_X_y=True)
        order = np.random.default_rng(0).permutation(len(x))
        found["digits"] = halves(x.reshape(-1, 1, 8, 8)[order], y[order], 1000)
    if "mnist" in given.data:
        file = np.load(given.mnist)
        found["mnist"] = halves(file["train_x"][:10_000, None], file["train_y"][:10_000].astype(int), 8000)
    if "cifar" in given.data:
        file = np.load(given.cifar)
        jpeg, offsets = file["jpeg"], file["offsets"]
        parts = [jpeg[a:b] for a, b in pairwise(offsets)]
        x = np.stack([np.asarray(Image.open(io.BytesIO(part.tobytes()))) for part in parts]).transpose(0, 3, 1, 2)
        found["cifar"] = halves(x, file["labels"][:8000].astype(int), 6000)
    return found


def corrupted(x: Tensor, y: np.ndarray) -> dict[str, list[Tensor]]:
    """Returns sets of images in grades, the mildest first."""
    g = torch.Generator().manual_seed(0)
    low, high = float(x.min()), float(x.max())
    span, side = high - low, x.shape[-1]
    blur = [x]
    for _ in range(3):
        blur.append(functional.avg_pool2d(functional.pad(blur[-1], (1,) * 4, mode="replicate"), 3, 1))
    keep = [torch.as_tensor(np.isin(y, range(k))) for k in (9, 7, 4, 1)]
    few = [torch.randint(k, (len(x),), generator=g) for k in (300, 100, 30, 10)]
    weights = [torch.as_tensor(r ** (y % 10)) for r in (0.9, 0.8, 0.6, 0.4)]
    speckle = [torch.rand(len(x), 1, side, side, generator=g) < p for p in (0.005, 0.02, 0.05, 0.15)]
    erased = [functional.interpolate((torch.rand(len(x), 1, 4, 4, generator=g) < p).float(), (side, side)) for p in (0.05, 0.15, 0.3, 0.6)]
    return {
        "noise": [x + s * span * torch.randn(x.shape, generator=g) for s in (0.02, 0.06, 0.15, 0.4)],
        "speckle": [torch.where(w, low + span * torch.rand(w.shape, generator=g), x) for w in speckle],
        "blur": [torch.lerp(x, blur[1], 0.4), *blur[1:]],
        "shift": [shifted(x, g, k) for k in ((1, 2, 3) if side < 16 else (2, 4, 8))],
        "erased": [torch.where(m.bool(), torch.full_like(x, low), x) for m in erased],
        "contrast": [x.mean() + (x - x.mean()) * c for c in (0.9, 0.75, 0.5, 0.25)],
        "lost classes": [x[k] for k in keep],
        "wrong shares": [x[torch.multinomial(w, len(x), replacement=True, generator=g)] for w in weights],
        "few distinct": [x[i] for i in few],
    }


def frechet(x: np.ndarray, y: np.ndarray) -> float:
    a, b = (torch.as_tensor(z).double() for z in (x, y))
    return frechet_distance((a.mean(0), torch.cov(a.T)), (b.mean(0), torch.cov(b.T)))


def standardised(features: Features, train: Tensor) -> Features:
    seen = features(train)
    std = seen.std(0)
    alive = std > 0.1 * std.max()
    mean, std = seen.mean(0)[alive], std[alive]
    return lambda x: (features(x)[:, alive] - mean) / std


def of_network(network: Any) -> Features:
    return lambda x: np.concatenate([network.features(part).double().numpy() for part in x.split(1000)])


def of_mlp(x: Tensor, y: np.ndarray, widths: tuple[int, ...] = (128, 32), seed: int = 0) -> Features:
    flat = x.flatten(1).double().numpy()
    fitted = MLPClassifier(widths, batch_size=128, max_iter=max(5, min(60, 200_000 // len(x))), random_state=seed).fit(flat, y)

    def features(z: Tensor) -> np.ndarray:
        h = z.flatten(1).double().numpy()
        for weight, bias in zip(fitted.coefs_[:-1], fitted.intercepts_[:-1], strict=True):
            h = np.maximum(h @ weight + bias, 0)
        return h

    return features


def of_judge_network(x: Tensor, y: np.ndarray) -> Features:
    """Another architecture, trained to name classes alone."""
    torch.manual_seed(5)
    side = x.shape[-1]
    body = nn.Sequential(
        *(nn.Conv2d(x.shape[1], 32, 5, 1, 2), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(32, 64, 5, 1, 2), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(64 * (side // 4) ** 2, 48), nn.ReLU()),
    )
    head, labels = nn.Linear(48, 10), torch.as_tensor(y)
    adam = torch.optim.Adam([*body.parameters(), *head.parameters()], 1e-3)
    for _ in range(400):
        i = torch.randint(len(x), (96,))
        loss = functional.cross_entropy(head(body(x[i])), labels[i])
        adam.zero_grad()
        loss.backward()
        adam.step()
    body.requires_grad_(False)
    return lambda z: np.concatenate([body(part).double().numpy() for part in z.split(500)])


def of_kernel(x: Tensor, y: np.ndarray) -> Features:
    flat = x.flatten(1).double().numpy()
    machine = make_pipeline(Nystroem(gamma=0.5 / flat.shape[1], n_components=300, random_state=0), LogisticRegression(max_iter=300))
    machine.fit(flat, y)
    return lambda z: machine.decision_function(z.flatten(1).double().numpy())


def study(name: str, train: Tensor, labels: np.ndarray, other: Tensor, other_labels: np.ndarray, steps: int) -> dict[str, Any]:
    clusters = KMeans(10, n_init=4, random_state=0).fit_predict(train.flatten(1).double().numpy())
    candidates: dict[str, Callable[[], Features]] = {
        "MLP, labels": lambda: of_mlp(train, labels),
        "MLP, clusters": lambda: of_mlp(train, clusters),
        "convolutional, labels": lambda: of_network(train_network(train, torch.as_tensor(labels), steps=steps)),
        "convolutional, clusters": lambda: of_network(train_network(train, torch.as_tensor(clusters).long(), steps=steps)),
    }
    judges = {
        "MLP": lambda: of_mlp(train, labels, (200, 40), seed=7),
        "convolutional": lambda: of_judge_network(train, labels),
        "kernel": lambda: of_kernel(train, labels),
    }
    sets, rows, seconds = corrupted(other, other_labels), {}, {}
    for kind, make in {**{f"judge: {k}": v for k, v in judges.items()}, **candidates}.items():
        begin = time.perf_counter()
        features = standardised(make(), train)
        seconds[kind] = time.perf_counter() - begin
        reference = features(train)
        clean = frechet(features(other), reference)
        rows[kind] = {"clean": [clean], **{c: [frechet(features(x), reference) for x in grades] for c, grades in sets.items()}}
        print(name, kind, f"{seconds[kind]:.0f} s", {c: [round(v, 3) for v in x] for c, x in rows[kind].items()}, flush=True)
    result = {}
    for kind in candidates:
        own = rows[kind]
        falls = {c: [own["clean"][0], *x] for c, x in own.items() if c != "clean"}
        monotone = [b > a for x in falls.values() for a, b in pairwise(x)]
        order = np.concatenate([x for c, x in own.items()])
        agreement = {j: float(spearmanr(order, np.concatenate(list(rows[f"judge: {j}"].values())))[0]) for j in judges}
        result[kind] = {"monotone": float(np.mean(monotone)), "agreement": agreement, "seconds": seconds[kind], "distances": own}
        print(name, kind, "monotone", round(result[kind]["monotone"], 3), {k: round(v, 3) for k, v in agreement.items()}, flush=True)
    return result


def lines(done: dict[str, Any]) -> str:
    """Returns JSON with a line for each candidate, numbers of four digits."""

    def short(x: Any) -> Any:
        if isinstance(x, dict):
            return {key: short(value) for key, value in x.items()}
        return [short(value) for value in x] if isinstance(x, list) else float(f"{x:.4g}")

    sets = [
        f' "{name}": {{\n' + ",\n".join(f'  "{kind}": {json.dumps(short(row))}' for kind, row in found.items()) + "\n }"
        for name, found in done.items()
    ]
    return "{\n" + ",\n".join(sets) + "\n}\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", nargs="+", default=["digits"], choices=["digits", "mnist", "cifar"])
    parser.add_argument("--mnist", type=Path)
    parser.add_argument("--cifar", type=Path)
    parser.add_argument("--steps", type=int, default=400)
    given = parser.parse_args()
    done = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    for name, parts in data_sets(given).items():
        done[name] = study(name, *parts, given.steps)
        RESULT.write_text(lines(done))


if __name__ == "__main__":
    main()
