"""Features of a data set's own: the last hidden layer of a small network that is trained on the training split.

It learns to name the class of an event, by the data set's labels. Where there are none, the classes are clusters that k-means finds. For
images it is convolutional, and sees them moved a little. Training is deterministic and cached by a digest of the data. Features are
standardised on the training split, so a Frechet distance is in units of one feature's variance.

They cannot see what classes do not tell apart: faint noise, or a style that is missing within a class.

References:
    Caron et al., "Deep Clustering for Unsupervised Learning of Visual Features", 2018, https://arxiv.org/abs/1807.05520 (k-means, k = 10)
"""

from __future__ import annotations

import hashlib
import math
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from matchlib.data.dataset import Dataset, random_rows
from matchlib.errors import ArtifactError, IncompatibleError
from matchlib.evaluation.reference import ROWS, Extractor
from matchlib.evaluation.work import Work
from matchlib.io import cache_folder, read_tensors, write_tensors

__all__ = ["FileFeatures", "OwnFeatures", "own_features"]

VERSION = "5"  # part of the cache's key: raise it when features change
FEATURES = 64
DECODED = 32  # latents that become images at once
CLUSTERS = 10
SEEN = 20_000  # training events that features are learned from
STEPS, EPOCHS, BATCH, LR = (50, 400), 60, 128, 3e-3  # of the training: least and most steps, and times that each event is seen
SMALLEST = 6  # side of an image, in pixels, that convolutions are worth


class OwnFeatures(Extractor):
    """Features of a trained network, standardised.

    Args:
        network: trained.
        mean, std: of each feature over the training split; features that hardly vary there are left out by an infinite std.
        name: of what it was trained on.
    """

    def __init__(self, network: FeatureNetwork, mean: Tensor, std: Tensor, name: str) -> None:
        self.network, self.mean, self.std, self.name = network, mean, std, name
        self.classes = network.head.out_features

    def features(self, events: Tensor) -> Tensor:
        return self.look(events)[0]

    def classify(self, events: Tensor) -> Tensor:
        return self.look(events)[1]

    @torch.no_grad()
    def look(self, events: Tensor) -> tuple[Tensor, Tensor]:
        features = torch.cat([self.network.features(part.float()) for part in events.split(ROWS)])
        return (features.double() - self.mean) / self.std, self.network.head(features).argmax(1)


class FileFeatures(Extractor):
    """Features of a network in a file, such as the Inception network of published FIDs: images go in with 8 bits and three channels.

    Args:
        path: TorchScript (``.pt``) or ``torch.export`` (``.pt2``): maps uint8 images ``(n, 3, height, width)`` to ``(n, k)``.
        dataset: decodes events, and says what the smallest and the largest value of an image are.
        device: where it runs.

    Raises:
        ArtifactError: the file cannot be loaded, or answers otherwise.
        IncompatibleError: the events are no images.
    """

    def __init__(self, path: Path, dataset: Dataset, device: torch.device) -> None:
        self.decode, (self.low, self.high) = dataset.decode, dataset.shown_limits
        self.rows = ROWS if dataset.codec is None else DECODED
        shape = tuple(dataset.decode(dataset.held_out.data[:1]).shape[1:])
        if len(shape) != 3 or shape[0] not in (1, 3):
            raise IncompatibleError(f"an extractor in a file takes images of 1 or 3 channels, and {dataset.name} has shape {shape}")
        try:
            digest = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
            if path.suffix == ".pt2":
                self.network: Callable[[Tensor], Tensor] = torch.export.load(path).module().to(device)
            else:
                self.network = torch.jit.load(path, map_location=device).eval()
        except Exception as error:
            raise ArtifactError(
                f"{path} is no TorchScript or torch.export file that can be loaded: {str(error).splitlines()[0]}"
            ) from error
        codec = "" if dataset.codec is None else f"-of-{hashlib.sha256(repr(dataset.codec.pinned()).encode()).hexdigest()[:8]}"
        self.name = f"{path.name}-{digest}{codec}"
        self.takes = f"8-bit images of {shape[1]}x{shape[2]}, 3 channels"
        self.features(dataset.held_out.data[:2].to(device))

    def features(self, events: Tensor) -> Tensor:
        return torch.cat([self._features(part) for part in events.split(self.rows)])

    @torch.no_grad()
    def _features(self, events: Tensor) -> Tensor:
        images = ((self.decode(events) - self.low) / (self.high - self.low) * 255).round().clamp(0, 255).to(torch.uint8)
        try:
            answer = self.network(images.expand(-1, 3, -1, -1))
        except Exception as error:
            raise ArtifactError(f"{self.name} does not take 8-bit images (n, 3, height, width): {str(error).splitlines()[-1]}") from error
        if not isinstance(answer, Tensor) or len(answer) != len(events):
            raise ArtifactError(f"{self.name} must answer with a tensor (n, k)")
        return answer.flatten(1)


def own_features(dataset: Dataset, device: torch.device, *, cache: Path | None = None, work: Work | None = None) -> OwnFeatures:
    """Returns the features of a data set, from the cache if they are there.

    Args:
        dataset: whose training split is learned from.
        device: where features will be computed; they are learned on the CPU.
        cache: folder; by default a part of ``cache_folder()``.
        work: told of every step of the training.
    """
    data = random_rows(dataset.train.data, SEEN).cpu()
    label = random_rows(dataset.train.label, SEEN).cpu() if dataset.classes is not None and dataset.train.label is not None else None
    label = label if label is not None and len(label.unique()) > 1 else None  # one class teaches nothing
    key = hashlib.sha256(VERSION.encode() + str(tuple(data.shape)).encode())
    for array in (data,) if label is None else (data, label):
        key.update(array.contiguous().numpy().data)
    name = f"{'labels' if label is not None else 'clusters'}-{key.hexdigest()[:16]}"
    path = (cache or cache_folder() / "features") / f"{name}.safetensors"
    try:
        return _opened(read_tensors(path)[0], dataset.shape, name, device)
    except (ArtifactError, KeyError, RuntimeError):  # missing or damaged
        tensors = _learned(data, label, work or Work())
    try:
        write_tensors(path, tensors)
    except ArtifactError as error:
        warnings.warn(f"features are not cached: {error}", stacklevel=2)
    return _opened(tensors, dataset.shape, name, device)


def _opened(tensors: dict[str, Tensor], shape: tuple[int, ...], name: str, device: torch.device) -> OwnFeatures:
    weights = {key.removeprefix("network."): x for key, x in tensors.items() if key.startswith("network.")}
    network = FeatureNetwork(shape, len(weights["head.bias"]))
    network.load_state_dict(weights)
    return OwnFeatures(network.to(device).eval(), tensors["mean"].to(device), tensors["std"].to(device), name)


def _learned(data: Tensor, label: Tensor | None, work: Work) -> dict[str, Tensor]:
    network = trained(data, _clusters(data) if label is None else label, work=work)
    with torch.no_grad():
        seen = torch.cat([network.features(part).double() for part in data.split(ROWS)])
    std = seen.std(0)
    std[std <= 0.1 * std.max()] = math.inf  # a unit that fires at a point or two would outweigh all others, were it standardised
    return {"mean": seen.mean(0), "std": std, **{f"network.{key}": x for key, x in network.state_dict().items()}}


def _clusters(data: Tensor) -> Tensor:
    from sklearn.cluster import KMeans

    found = KMeans(min(CLUSTERS, len(data) // 2), n_init=4, random_state=0).fit_predict(data.flatten(1).numpy())
    return torch.as_tensor(found, dtype=torch.long)


# -- the network -----------------------------------------------------------------------------------------------------------


class FeatureNetwork(nn.Module):
    """A body, a hidden layer and a head that names the class.

    Args:
        shape: of an event.
        classes: that the head tells apart.
        width: channels of the first convolution; of the layer below the hidden one where events are no images.
    """

    def __init__(self, shape: tuple[int, ...], classes: int, width: int = 24) -> None:
        super().__init__()
        size = math.prod(shape)
        layers: list[nn.Module] = [nn.Flatten(), nn.Linear(size, 128)]
        if is_image(shape):
            channels, *sides = shape
            layers = []
            for i in range(max(1, min(3, int(math.log2(min(sides))) - 1))):
                layers += [nn.Conv2d(channels, width * 2**i, 3, 2, 1), nn.GELU()]
                channels, sides = width * 2**i, [(side + 1) // 2 for side in sides]
            layers += [nn.Flatten(), nn.Linear(channels * math.prod(sides), FEATURES)]
        else:
            layers += [nn.GELU(), nn.Linear(128, FEATURES)]
        self.body = nn.Sequential(*layers, nn.ReLU())
        self.head = nn.Linear(FEATURES, classes)

    def features(self, events: Tensor) -> Tensor:
        """``(n, *event) -> (n, FEATURES)``, at least 0."""
        features: Tensor = self.body(events)
        return features

    def forward(self, events: Tensor) -> Tensor:
        """Returns the logits of the classes, ``(n, *event) -> (n, classes)``."""
        logits: Tensor = self.head(self.features(events))
        return logits


def is_image(shape: tuple[int, ...]) -> bool:
    """Returns whether convolutions suit events of a shape."""
    return len(shape) == 3 and min(shape[1:]) >= SMALLEST


@torch.enable_grad()
def trained(data: Tensor, label: Tensor, *, steps: int | None = None, seed: int = 0, work: Work | None = None) -> FeatureNetwork:
    """Returns a network that names classes; the same call makes the same network on one machine.

    Args:
        data: ``(n, *event)``, on the CPU.
        label: ``(n,)``, integers.
        steps: of the training; None for as many as the data need.
        work: told of every step.
    """
    shape = tuple(data.shape[1:])
    steps = steps or min(max(EPOCHS * len(data) // BATCH, STEPS[0]), STEPS[1])
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = FeatureNetwork(shape, int(label.max()) + 1)
    adam = torch.optim.Adam(network.parameters(), LR)
    schedule = torch.optim.lr_scheduler.OneCycleLR(adam, LR, total_steps=steps)
    for _ in (work or Work()).over(range(steps), "learning features"):
        chosen = torch.randint(len(data), (min(BATCH, len(data)),), generator=generator)
        events = augmented(data[chosen], generator) if is_image(shape) else data[chosen]
        loss = functional.cross_entropy(network(events), label[chosen], label_smoothing=0.05)
        adam.zero_grad()
        loss.backward()
        adam.step()
        schedule.step()
    return network.eval().requires_grad_(False)


def augmented(x: Tensor, generator: torch.Generator) -> Tensor:
    """Moves images a little and changes their contrast a little, which changes no class."""
    gain = 1 + 0.1 * torch.randn(len(x), 1, 1, 1, generator=generator)
    return gain * shifted(x, generator, max(1, x.shape[-1] // 14))


def shifted(x: Tensor, generator: torch.Generator, most: int) -> Tensor:
    """Moves each image by up to ``most`` pixels either way; the border is repeated."""
    n, channels, height, width = x.shape
    padded = functional.pad(x, (most,) * 4, mode="replicate")
    down, right = torch.randint(0, 2 * most + 1, (2, n, 1), generator=generator)
    rows, columns = (torch.arange(height) + down)[:, None, :, None], (torch.arange(width) + right)[:, None, None, :]
    return padded[torch.arange(n)[:, None, None, None], torch.arange(channels)[None, :, None, None], rows, columns]
