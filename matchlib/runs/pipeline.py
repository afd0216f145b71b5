"""Pipelines: saved students and teachers, ready to sample. ``matchlib.load`` makes one of a run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from matchlib.algebra.records import Batch
from matchlib.data.codec import Codec
from matchlib.data.dataset import Dataset
from matchlib.data.units import exact
from matchlib.distillation.student import Student
from matchlib.errors import ArtifactError, DataError, MatchlibError, SettingError
from matchlib.fields.sampler import SampledField, Sampler
from matchlib.fields.teacher import Teacher
from matchlib.io import content_digest
from matchlib.registry import codecs, samplers
from matchlib.runs.artifact import ArtifactConfig, dataset_of, find_artifact, load_artifact
from matchlib.training.distributed import SingleProcess
from matchlib.training.precision import compute_in
from matchlib.training.random import Streams

__all__ = ["Pipeline", "load"]

CHUNK = 2000  # samples generated at once


class Pipeline:
    """A saved student or teacher, ready to sample.

    Args:
        config: describes it.
        module: the student or teacher.
        device: where it runs.
        sampler: for a teacher; None for its own.
        data: whose held-out sources are sampled from, where the model's source is data; None for what ``config`` names.
        folder: from which relative paths in ``config`` are taken.
    """

    def __init__(
        self,
        config: ArtifactConfig,
        module: Teacher | Student,
        device: torch.device | str = "cpu",
        sampler: Sampler | None = None,
        data: Dataset | None = None,
        folder: Path = Path(),
    ) -> None:
        self.config, self.device, self.data, self.folder = config, torch.device(device), data, folder
        self.module = module.to(self.device).eval()
        self.sampler: Sampler = sampler or samplers.build(config.sampler)
        self.nfe = 0  # evaluations that each of the latest samples cost

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Pipeline:
        """Moves the network to a device, or lets it compute in another type of numbers.

        Args:
            device: None leaves it.
            dtype: torch.float32, or torch.bfloat16 or torch.float16, in which the network's weights then are; states and all that is
                done with its answers stay in float32. None leaves it.

        Returns:
            The pipeline itself.

        Raises:
            SettingError: it is another type, or the network is a function.
        """
        if dtype is not None:
            compute_in(self.module, dtype)
        self.device = self.device if device is None else torch.device(device)
        self.module.to(self.device)
        return self

    def with_steps(self, steps: int) -> Pipeline:
        """Returns the same with another number of steps of a teacher's sampler."""
        sampler: Any = self.sampler  # a dataclass, as every plugin is
        return Pipeline(self.config, self.module, self.device, replace(sampler, steps=steps), self.data, self.folder)

    def digest(self) -> str:
        """Returns a digest of the weights and the sampler, by which samples of other ones are told apart."""
        return content_digest(self.module.state_dict(), {"settings": self.config.settings, "sampler": repr(self.sampler)})

    def sample(self, n: int, *, seed: int = 0, labels: Any = None, source: Any = None, decode: bool = True) -> Tensor:
        """Generates samples.

        Args:
            n: how many, >= 1.
            seed: the same seed gives the same samples on the same machine.
            labels: one class, n classes, ``"balanced"`` for every class equally often, or ``(n, *)`` for labels that are not classes; None
                draws classes as the data had them, and other labels from the held-out data.
            source: in data units, ``(n, *event)``, for a model whose source is data; None draws held-out sources of its data.
            decode: whether a model of latents answers with what they stand for, and not with latents.

        Returns:
            Shape ``(n, *event)``, in data units, on the pipeline's device.

        Raises:
            SettingError: n, labels or source do not fit.
            ArtifactError: the codec of a model of latents is not there, or has changed.
        """
        z = None if source is None else self._source(source, n)
        x = self.sample_batch(n, seed=seed, labels=labels, source=z).data
        return self.decode(x) if decode else self.denormalize(x)

    def denormalize(self, x: Tensor) -> Tensor:
        """Returns samples of model units in the units of the data."""
        shift, scale = self.config.data.shift, self.config.data.scale
        return shift + scale * exact(x, shift, scale)

    @cached_property
    def codec(self) -> Codec | None:
        """The codec of a model of latents."""
        spec = self.config.data.codec
        return None if spec is None else codecs.build(spec).at(self.folder)

    def decode(self, x: Tensor) -> Tensor:
        """Returns samples of model units in the units of the data, and latents as the data that they stand for."""
        samples = self.denormalize(x)
        return samples if self.codec is None else self.codec.decode(samples)

    @property
    def limits(self) -> tuple[float, float]:
        """Least and largest number of the data that ``decode`` returns."""
        return self.config.data.limits if self.codec is None else self.codec.limits

    @torch.no_grad()
    def sample_batch(
        self,
        n: int,
        *,
        seed: int = 0,
        labels: Any = None,
        source: Tensor | None = None,
        processes: SingleProcess | None = None,
        on_chunk: Callable[[int, int, Callable[[], Tensor]], Tensor] = lambda index, chunks, generate: generate(),
        on_evaluation: Callable[[], None] = lambda: None,
    ) -> Batch:
        """As ``sample``, in model units, with the sources (where they are given) and the labels that the samples were made from.

        Args:
            processes: that all call this and share the work.
            on_chunk: called with the index and number of chunks and what generates the chunk, whose result it returns, or one it has kept.
            on_evaluation: called before every evaluation of a teacher; it may raise to interrupt the sampling.
        """
        among = processes or SingleProcess()
        if n < 1:
            raise SettingError(f"the number of samples must be at least 1, got {n}")
        streams = Streams(seed, self.device)
        label = self._labels(labels, n, streams)
        if source is None:
            source, label = self._held_out(n, label, labels is None)
        parts, begins = [], range(0, n, CHUNK)
        for i, begin in enumerate(begins):
            size = min(CHUNK, n - begin)
            piece = slice(begin, begin + size)
            prompt = Batch(
                torch.zeros(size, *self.config.network_spec.shape, device=self.device),
                None if source is None else source[piece],
                None if label is None else label[piece],
            )
            if i % among.size == among.rank:
                generate = partial(self._generate, prompt, streams("sample", i), on_evaluation=on_evaluation)
                parts.append(on_chunk(i, len(begins), generate))
            else:
                parts.append(prompt.data)
        return Batch(among.gather(torch.cat(parts)), source, label)

    @torch.no_grad()
    def sources(self, n: int, *, seed: int = 0) -> Batch:
        """Returns the sources and labels of ``sample_batch``, which takes them in turn: several pipelines may answer to the same ones.

        Data are zeros.
        """
        streams = Streams(seed, self.device)
        source, label = self._held_out(n, self._labels(None, n, streams), True)
        data = torch.zeros(n, *self.config.network_spec.shape, device=self.device)
        if source is None:
            coupling, chunks = self.config.model.coupling, data.split(CHUNK)
            source = torch.cat([coupling.source(Batch(x), generator=streams("sample", i)) for i, x in enumerate(chunks)])
        return Batch(data, source, label)

    @torch.no_grad()
    def trajectory(self, sources: Batch, *, seed: int = 0) -> Tensor:
        """Returns the states on the way from sources to samples, ``(steps, n, *event)``, in model units; a student goes in one leap."""
        assert sources.source is not None
        generator = Streams(seed, self.device)("sample", 0)
        if isinstance(self.module, Student):
            return torch.stack([sources.source, self._generate(sources, generator)])
        self._source_of(sources, generator)
        return torch.stack([x for _, x in self.sampler.trajectory(self._field(), sources.source, sources.label, generator=generator)])

    def _field(self) -> SampledField:
        """The teacher, as samplers take it."""
        low, high = ((limit - self.config.data.shift) / self.config.data.scale for limit in self.config.data.limits)
        return SampledField(self.module, self.config.model, self.config.moments, (low, high))

    def _source_of(self, prompt: Batch, generator: torch.Generator) -> Tensor:
        """Returns the source that is given, or a draw.

        It is drawn in either case, so that the noise which follows is not the given source again.
        """
        coupling = self.config.model.coupling
        drawn = coupling.source(prompt, generator=generator) if coupling.draws_source else None
        source = drawn if prompt.source is None else prompt.source
        assert source is not None
        return source

    def _generate(self, prompt: Batch, generator: torch.Generator, *, on_evaluation: Callable[[], None] = lambda: None) -> Tensor:
        model, source = self.config.model, self._source_of(prompt, generator)
        if isinstance(self.module, Student):
            self.nfe = self.module.nfe
            return self.module(source, model.condition(source, prompt.label), generator=generator)
        field = replace(self._field(), on_evaluation=on_evaluation)
        result = self.sampler.sample(field, source, prompt.label, generator=generator)
        self.nfe = result.nfe
        return result.data

    def _labels(self, labels: Any, n: int, streams: Streams) -> Tensor | None:
        spec = self.config.network_spec
        if spec.classes is None and spec.label_shape is None:
            if labels is not None:
                raise SettingError("this model was trained without labels, so none can be asked for")
            return None
        if spec.classes is None:
            if labels is None:
                return self._drawn_labels(n, streams)
            if isinstance(labels, str):
                raise SettingError(f"labels of this model are numbers of shape {spec.label_shape}, got {labels!r}")
            label = torch.as_tensor(labels, dtype=torch.float32, device=self.device)
            if tuple(label.shape) != (n, *(spec.label_shape or ())):
                raise SettingError(f"labels must have shape ({n}, {spec.label_shape}), got {tuple(label.shape)}")
            return label
        if labels is None:
            shares = torch.tensor(self.config.data.label_shares, device=self.device)
            return torch.multinomial(shares, n, replacement=True, generator=streams("labels"))
        if isinstance(labels, str) and labels != "balanced":
            raise SettingError(f"labels must be integers or 'balanced', got {labels!r}")
        there = self.known_classes
        every = there[torch.arange(n) % len(there)]
        try:
            label = torch.as_tensor(every if isinstance(labels, str) else labels, device=self.device).reshape(-1)
        except (TypeError, ValueError, RuntimeError, OverflowError) as error:
            raise SettingError(f"labels must be one integer or {n} integers, got {str(labels)[:100]}") from error
        if label.numel() not in (1, n) or label.is_floating_point() or label.min() < 0 or label.max() >= spec.classes:
            raise SettingError(f"labels must be one integer or {n} integers from 0 to {spec.classes - 1}, got {label.tolist()[:10]}")
        unseen = sorted(set(label.tolist()) - set(there.tolist()))
        if unseen:
            raise SettingError(f"no training sample has the label {unseen[0]}; there are {', '.join(map(str, there.tolist()[:20]))}")
        return label.long().expand(n) if label.numel() == 1 else label.long()

    @property
    def known_classes(self) -> Tensor:
        """The classes that can be asked for, ``(k,)``: those of the training data, which may leave some out."""
        shares = self.config.data.label_shares
        return torch.arange(self.config.network_spec.classes or 0) if shares is None else torch.tensor(shares).nonzero()[:, 0]

    def _drawn_labels(self, n: int, streams: Streams) -> Tensor:
        """Labels that are not classes, of held-out data."""
        try:
            label = self._dataset().held_out.label
        except MatchlibError as error:
            raise SettingError(f"give labels: those of the held-out data cannot be drawn ({error})") from error
        if label is None:
            raise SettingError("give labels: the data have none to draw from")
        index = torch.randint(len(label), (n,), generator=streams("labels"), device=self.device)
        return label.to(self.device)[index]

    def _dataset(self) -> Dataset:
        """The data that the model was made from, in its units."""
        data = self.config.data
        return dataset_of(data) if self.data is None else self.data.normalized_as(data.shift, data.scale)

    def _source(self, source: Any, n: int) -> Tensor:
        z = torch.as_tensor(source).cpu().double()  # float32 does not hold data far from zero
        if tuple(z.shape) != (n, *self.config.network_spec.shape):
            raise SettingError(f"source must have shape {(n, *self.config.network_spec.shape)}, got {tuple(z.shape)}")
        z = z if self.config.model.coupling.draws_source else (z - self.config.data.shift) / self.config.data.scale
        return z.float().to(self.device)

    def _held_out(self, n: int, label: Tensor | None, matched: bool) -> tuple[Tensor | None, Tensor | None]:
        """Held-out sources, repeated as needed, if the coupling does not draw them; pairs with their labels unless others were given."""
        coupling = self.config.model.coupling
        if coupling.draws_source:
            return None, label
        dataset = self._dataset()
        source = coupling.given(dataset.held_out)
        if source is None:
            raise DataError(f"the model's source is data, but {dataset.name} has none; give source")
        index = torch.arange(n) % len(source)
        if coupling.paired and matched and label is not None and dataset.held_out.label is not None:
            label = dataset.held_out.label[index].to(self.device)
        return source[index].to(self.device), label


def load(
    run: str | Path,
    of: str | None = None,
    device: str = "cpu",
    ema: float | None = None,
    *,
    teacher: Teacher | None = None,
    data: Dataset | None = None,
    trust: bool = False,
) -> Pipeline:
    """Loads a run's student (or its teacher, where it has no student).

    Args:
        run: folder of a run, or of an artifact.
        of: ``student`` or ``teacher``; None for the student if there is one.
        device: where to run it.
        ema: decay of one of the further averages that the run kept (``trainer.extra_ema_decays``); None for its main one.
        teacher, data: those that the run was made from, where they were made in Python.
        trust: whether Python code that the artifact names may be run.

    Raises:
        ArtifactError: nothing finished is there, it is damaged, or its network cannot be made from what is given.
    """
    folder = Path(run).expanduser()
    if not folder.is_dir():
        raise ArtifactError(f"there is no run at {folder}")
    if of not in (None, "student", "teacher"):
        raise SettingError(f"of must be student or teacher, got {of!r}")
    place = find_artifact(folder, *((of,) if of else ("student", "teacher")))
    if place is None:
        raise ArtifactError(
            f"{folder} holds no finished {of or 'student or teacher'}; a run that was cut short goes on with: matchlib resume {folder}"
        )
    config, module = load_artifact(place, ema=ema, teacher=teacher, trust=trust)
    if of is not None and config.kind != of:
        raise ArtifactError(f"{place} holds a {config.kind}, not a {of}")
    return Pipeline(config, module, device, data=data, folder=place)


def with_teacher_at(pipelines: Mapping[str, Pipeline], steps: Sequence[int]) -> dict[str, Pipeline]:
    """Returns pipelines, and beside them that of the teacher with other numbers of steps of its sampler."""
    return {**pipelines, **{f"teacher at {n} step{'s' * (n > 1)}": pipelines["teacher"].with_steps(n) for n in steps}}
