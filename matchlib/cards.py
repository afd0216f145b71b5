"""Cards: what a saved network is, and how to make it again. ``matchlib.load`` reads them.

A bundle is a folder with ``model.safetensors`` and ``card.json``. A card names registered plugins and their settings, nothing else, so
that loading runs no code of the file.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from matchlib.algebra.model import MatchingModel, Moments
from matchlib.algebra.records import Batch
from matchlib.algebra.times import Times
from matchlib.data import Dataset
from matchlib.distillation.field import Preconditioned, Signature
from matchlib.distillation.student import Student
from matchlib.distillation.teacher import Teacher
from matchlib.errors import CardError, DataError, MatchlibError, SettingError
from matchlib.registries import couplings, interpolants, networks, objectives, samplers, students
from matchlib.sampling.base import SampledField, Sampler
from matchlib.sources import load_dataset
from matchlib.streams import Streams
from matchlib.training.files import read_json, read_tensors, write_json, write_tensors

__all__ = ["Card", "Generator", "build_field", "describe_model", "load", "load_bundle", "model_of", "save_bundle", "times_of"]

CHUNK = 2000  # samples generated at once


def describe_model(model: MatchingModel) -> dict[str, Any]:
    """Returns a model's JSON form."""
    return {
        "coupling": couplings.describe(model.coupling),
        "interpolant": interpolants.describe(model.interpolant),
        "objective": objectives.describe(model.objective),
        "times": asdict(model.times),
        "sees_source": model.sees_source,
    }


def times_of(spec: Mapping[str, Any]) -> Times:
    """Returns the time density that a mapping describes."""
    try:
        log_ratio = spec.get("log_ratio")
        return Times(**{**spec, "log_ratio": None if log_ratio is None else tuple(log_ratio)})
    except TypeError as error:
        raise SettingError(f"times has the settings low, high and log_ratio: [mean, std], got {dict(spec)}") from error


def model_of(spec: Mapping[str, Any]) -> MatchingModel:
    """Returns the model that its JSON form describes; the inverse of ``describe_model``."""
    return MatchingModel(
        couplings.build(spec["coupling"]),
        interpolants.build(spec["interpolant"]),
        objectives.build(spec["objective"]),
        times_of(spec["times"]),
        spec["sees_source"],
    )


def build_field(network: Mapping[str, Any], signature: Signature, model: MatchingModel, moments: Moments) -> Preconditioned:
    """Returns a fresh preconditioned field; its weights are drawn from torch's global generator."""
    field = Preconditioned(networks.build(network, signature), model, moments)
    field.spec = dict(network)
    return field


@dataclass(frozen=True)
class Card:
    """Everything but the weights.

    Args:
        kind: ``teacher`` or ``student``.
        network: piece of the teacher's network.
        signature: of the network.
        model: the teacher's matching model.
        moments: of data and source.
        sampler: piece; how the teacher is sampled by default.
        data: ``name``, ``options``, ``labels``, ``shift``, ``scale``, ``limits``, ``label_shares``.
        seed: of the run.
        student: ``name`` and settings of the student plugin, and ``network`` if it has one of its own; None for a teacher.
        versions: of what wrote the card.
    """

    kind: str
    network: dict[str, Any]
    signature: Signature
    model: MatchingModel
    moments: Moments
    sampler: dict[str, Any]
    data: dict[str, Any]
    seed: int
    student: dict[str, Any] | None = None
    versions: dict[str, str] | None = None

    def to_json(self) -> dict[str, Any]:
        """Returns the card's JSON form."""
        fields = {key: getattr(self, key) for key in ("kind", "network", "sampler", "data", "seed", "student")}
        return {
            "format": 1,
            **fields,
            "signature": asdict(self.signature),
            "model": describe_model(self.model),
            "moments": asdict(self.moments),
            "versions": versions(),
        }

    @classmethod
    def from_json(cls, card: Mapping[str, Any]) -> Card:
        """Returns the card of its JSON form."""
        signature: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in card["signature"].items()}
        return cls(
            **{key: card[key] for key in ("kind", "network", "sampler", "data", "seed", "student", "versions")},
            signature=Signature(**signature),
            model=model_of(card["model"]),
            moments=Moments(**card["moments"]),
        )

    def build(self) -> Teacher | Student:
        """Returns the module that the card describes, with weights still to be loaded.

        Raises:
            CardError: the network was made in Python and has no registered name.
        """
        if self.network.get("name") is None:
            raise CardError("the network was made in Python; register it in matchlib.networks so that a card can name it")
        teacher = Teacher(build_field(self.network, self.signature, self.model, self.moments), self.model, self.moments)
        return teacher if self.student is None else build_student(self.student, teacher, self.signature)


def build_student(spec: Mapping[str, Any], teacher: Teacher, signature: Signature) -> Student:
    """Builds a student from ``{"name", its settings, "network" (optional)}``; a network of its own predicts the data."""
    own = None
    if spec.get("network") is not None:
        model = replace(teacher.model, objective=objectives["data"]())
        own = build_field(spec["network"], signature, model, teacher.moments)
    return students.build({key: value for key, value in spec.items() if key != "network"}, teacher, own)


def versions() -> dict[str, str]:
    """Returns the versions that a result depends on."""
    try:
        own = version("matchlib-torch")
    except PackageNotFoundError:
        own = "source"
    return {"matchlib": own, "torch": torch.__version__, "python": platform.python_version()}


def save_bundle(folder: Path, card: Card, module: nn.Module) -> None:
    """Writes weights, then the card: a folder with a card is whole."""
    write_tensors(folder / "model.safetensors", module.state_dict())
    write_json(folder / "card.json", card.to_json())


def load_bundle(folder: Path) -> tuple[Card, Teacher | Student]:
    """Reads a bundle.

    Raises:
        CardError: a file is missing or damaged, or the weights do not fit the card.
    """
    try:
        card = Card.from_json(read_json(folder / "card.json"))
        module = card.build()
    except CardError:
        raise
    except (KeyError, TypeError, ValueError, MatchlibError) as error:
        raise CardError(f"{folder / 'card.json'} does not describe a model: {error}") from error
    tensors, _ = read_tensors(folder / "model.safetensors")
    try:
        module.load_state_dict(tensors)
    except RuntimeError as error:
        first = str(error).splitlines()[-1].strip()
        raise CardError(f"the weights in {folder} do not fit its card: {first}") from error
    return card, module


class Generator:
    """A saved student or teacher, ready to sample.

    Args:
        card: describes it.
        module: the student or teacher.
        device: where it runs.
        sampler: for a teacher; None for the card's own.
    """

    def __init__(self, card: Card, module: Teacher | Student, device: torch.device | str = "cpu", sampler: Sampler | None = None) -> None:
        self.card, self.device = card, torch.device(device)
        self.module = module.to(self.device).eval()
        self.sampler: Sampler = sampler or samplers.build(card.sampler)
        self.nfe = 0  # evaluations that each of the latest samples cost

    def sample(self, n: int, *, seed: int = 0, labels: Any = None, source: Any = None) -> Tensor:
        """Generates samples.

        Args:
            n: how many, >= 1.
            seed: the same seed gives the same samples on the same machine.
            labels: one class, n classes, or ``(n, *)`` for labels that are not classes; None draws classes as the data had them.
            source: in data units, ``(n, *event)``, for a model whose source is data; None draws held-out sources of the card's data.

        Returns:
            Shape ``(n, *event)``, in data units, on the generator's device.

        Raises:
            SettingError: n, labels or source do not fit.
        """
        data = self.card.data
        z = None if source is None else self._source(source, n)
        return data["shift"] + data["scale"] * self.sample_units(n, seed=seed, labels=labels, source=z)

    @torch.no_grad()
    def sample_units(self, n: int, *, seed: int = 0, labels: Any = None, source: Tensor | None = None) -> Tensor:
        """As ``sample``, with source and samples in model units."""
        if n < 1:
            raise SettingError(f"the number of samples must be at least 1, got {n}")
        streams = Streams(seed, self.device)
        label = self._labels(labels, n, streams)
        if source is None and self.card.model.coupling.reads_source:
            source, label = self._held_out(n, label, labels is None)
        parts = []
        for i, begin in enumerate(range(0, n, CHUNK)):
            size = min(CHUNK, n - begin)
            piece = slice(begin, begin + size)
            prompt = Batch(
                torch.zeros(size, *self.card.signature.shape, device=self.device),
                None if source is None else source[piece],
                None if label is None else label[piece],
            )
            parts.append(self._generate(prompt, streams("sample", i), drawn=source is None))
        return torch.cat(parts)

    def _generate(self, prompt: Batch, generator: torch.Generator, *, drawn: bool) -> Tensor:
        model = self.card.model
        source = model.coupling.source(prompt, generator=generator) if drawn else prompt.source
        assert source is not None
        if isinstance(self.module, Student):
            self.nfe = self.module.nfe
            return self.module(source, model.condition(source, prompt.label), generator=generator)
        of = SampledField(self.module, model, self.card.moments)
        result = self.sampler.sample(of, source, prompt.label, generator=generator)
        self.nfe = result.nfe
        return result.data

    def _labels(self, labels: Any, n: int, streams: Streams) -> Tensor | None:
        signature = self.card.signature
        if signature.classes is None and signature.label_shape is None:
            if labels is not None:
                raise SettingError("this model was trained without labels, so none can be asked for")
            return None
        if signature.classes is None:
            if labels is None:
                return None
            label = torch.as_tensor(labels, dtype=torch.float32, device=self.device)
            if tuple(label.shape) != (n, *(signature.label_shape or ())):
                raise SettingError(f"labels must have shape ({n}, {signature.label_shape}), got {tuple(label.shape)}")
            return label
        if labels is None:
            shares = torch.tensor(self.card.data["label_shares"], device=self.device)
            return torch.multinomial(shares, n, replacement=True, generator=streams("labels"))
        label = torch.as_tensor(labels, device=self.device).reshape(-1)
        if label.numel() not in (1, n) or label.is_floating_point() or label.min() < 0 or label.max() >= signature.classes:
            raise SettingError(f"labels must be one integer or {n} integers from 0 to {signature.classes - 1}, got {label.tolist()[:10]}")
        return label.long().expand(n) if label.numel() == 1 else label.long()

    def _source(self, source: Any, n: int) -> Tensor:
        z = torch.as_tensor(source, dtype=torch.float32, device=self.device)
        if tuple(z.shape) != (n, *self.card.signature.shape):
            raise SettingError(f"source must have shape {(n, *self.card.signature.shape)}, got {tuple(z.shape)}")
        return (z - self.card.data["shift"]) / self.card.data["scale"]

    def _held_out(self, n: int, label: Tensor | None, matched: bool) -> tuple[Tensor, Tensor | None]:
        """Held-out sources, repeated as needed, with their labels unless others were asked for."""
        dataset = dataset_of(self.card.data)
        held = dataset.held_out
        if held.source is None:
            raise DataError(f"the model's source is data, but {dataset.name} has none; give source")
        index = torch.arange(n) % len(held.source)
        if matched and label is not None and held.label is not None:
            label = held.label[index].to(self.device)
        return held.source[index].to(self.device), label


def dataset_of(data: Mapping[str, Any]) -> Dataset:
    """Returns the data set that a card or settings name."""
    dataset = load_dataset(data["name"], data["options"])
    return dataset if data["labels"] else dataset.without_labels()


def load(run: str | Path, of: str | None = None, device: str = "cpu") -> Generator:
    """Loads a run's student (or its teacher, where it has no student).

    Args:
        run: folder of a run, or of a bundle.
        of: ``student`` or ``teacher``; None for the student if there is one.
        device: where to run it.

    Raises:
        CardError: nothing finished is there, or it is damaged.
    """
    folder = Path(run)
    if not folder.is_dir():
        raise CardError(f"there is no run at {folder}")
    if of not in (None, "student", "teacher"):
        raise SettingError(f"of must be student or teacher, got {of!r}")
    here = [folder] if (folder / "card.json").exists() else []
    places = here or [folder / kind for kind in ((of,) if of else ("student", "teacher"))]
    found = next((place for place in places if (place / "card.json").exists()), None)
    if found is None:
        raise CardError(
            f"{folder} holds no finished {of or 'student or teacher'}; a run that was cut short goes on with: matchlib resume {folder}"
        )
    card, module = load_bundle(found)
    return Generator(card, module, device)
