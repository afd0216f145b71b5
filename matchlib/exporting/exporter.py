"""What a writer of exports is, and what it is given."""

from __future__ import annotations

import io
import logging
import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from matchlib.algebra.records import Batch
from matchlib.distillation.start import GaussianStart
from matchlib.distillation.student import Student
from matchlib.errors import IncompatibleError
from matchlib.exporting.generator import LABEL, Generator
from matchlib.exporting.table import SOURCE, Table, core_of, tabulate
from matchlib.io import write_json
from matchlib.runs.artifact import ArtifactConfig, versions
from matchlib.runs.pipeline import Pipeline
from matchlib.training.random import Streams

__all__ = ["Exportable", "Exporter", "Inputs", "quiet", "untraceable"]


@dataclass(frozen=True)
class Inputs:
    """Fixed inputs of a generator, and what ``Pipeline.sample`` makes of the same random numbers.

    Args:
        seed: of ``Pipeline.sample``.
        source: shape ``(n, *event)``, in data units where the model's source is data, else standard normal.
        label: as ``Pipeline.sample`` takes them; None without.
        noises: one for each name of ``Table.noises``.
        expected: the samples, in data units.
    """

    seed: int
    source: Tensor
    label: Tensor | None
    noises: tuple[Tensor, ...]
    expected: Tensor

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """The inputs in the order of ``Generator.names``."""
        return (self.source, *(() if self.label is None else (self.label,)), *self.noises)


@dataclass(frozen=True)
class Exportable:
    """A student to be exported.

    Args:
        pipeline: of the student, on the CPU.
        run: the folder that it was loaded from, whose scores and picture go with it.
        load: how its artifact is loaded again.
    """

    pipeline: Pipeline
    run: Path
    load: Callable[[Path], Pipeline]

    @property
    def config(self) -> ArtifactConfig:
        return self.pipeline.config

    @property
    def student(self) -> Student:
        assert isinstance(self.pipeline.module, Student)
        return self.pipeline.module

    @property
    def labelled(self) -> bool:
        """Whether samples have labels."""
        spec = self.config.network_spec
        return spec.classes is not None or spec.label_shape is not None

    @property
    def source_is_data(self) -> bool:
        """Whether the source is given, in data units."""
        return not self.config.model.coupling.draws_source

    @property
    def start(self) -> GaussianStart | None:
        """What the source goes through first; None for nothing."""
        start = getattr(self.student, "start", None)
        return start if isinstance(start, GaussianStart) else None

    @property
    def network(self) -> Any:
        """The student's network."""
        return getattr(*core_of(self.student))

    @cached_property
    def table(self) -> Table:
        """The rest of the student."""
        part, name = core_of(self.student)
        model = getattr(part, "model", self.config.model)
        return self.table_around(part, name, heads=len(model.objective.heads))

    def table_around(self, part: nn.Module, name: str, **how: Any) -> Table:
        """Returns the table around another part of the student; ``how`` as for ``tabulate``."""
        return tabulate(self.student, part, name, condition=self.config.model.condition, labelled=self.labelled, **how)

    @cached_property
    def generator(self) -> Generator:
        """The student as a module of tensors."""
        units = (self.config.data.shift, self.config.data.scale)
        kind = {"labelled": self.labelled, "source_is_data": self.source_is_data}
        generator = Generator(self.network, self.table, units, **kind, start=self.start)
        return generator.eval().requires_grad_(False)

    @cached_property
    def program(self) -> torch.export.ExportedProgram:
        """The generator as a graph, for any number of samples up to ``largest_batch``.

        Raises:
            IncompatibleError: torch cannot trace the network, or only for one number of samples.
        """
        inputs = self.inputs(3).tensors
        shapes = (tuple({0: torch.export.Dim.AUTO} for _ in inputs),)
        try:
            with quiet():
                program = torch.export.export(self.generator, inputs, dynamic_shapes=shapes, strict=False)
        except Exception as error:  # whatever code of somebody else's raises while it is traced
            raise untraceable(self, "torch.export", error) from error
        if not program.range_constraints:
            fixed = ValueError("it takes one number of samples only; len(x) fixes it, and x.shape[0] does not")
            raise untraceable(self, "torch.export", fixed)
        return program

    @property
    def largest_batch(self) -> int | None:
        """How many samples the graph takes at once, where the network's code tells numbers of samples apart; None for any number."""
        limits = [float(bound.upper) for bound in self.program.range_constraints.values()]
        return None if math.isinf(min(limits)) else int(min(limits))

    def inputs(self, n: int, seed: int = 0) -> Inputs:
        """Returns fixed inputs of ``n`` samples."""
        spec, coupling, data = self.config.network_spec, self.config.model.coupling, self.config.data
        label: Tensor | None = None
        if spec.classes is not None:
            label = self.pipeline.known_classes[torch.arange(n) % len(self.pipeline.known_classes)]
        elif spec.label_shape is not None:
            label = torch.randn(n, *spec.label_shape, generator=torch.Generator().manual_seed(seed))
        generator = Streams(seed, torch.device("cpu"))("sample", 0)
        events = torch.zeros(n, *spec.shape)
        given: Tensor | None = None
        if self.source_is_data:
            normal = torch.randn(events.shape, generator=torch.Generator().manual_seed(seed + 1))
            given = source = data.shift + data.scale * self.config.moments.source**0.5 * normal
        else:
            source = coupling.source(Batch(events), generator=generator)
        draws = [torch.randn(events.shape, generator=generator) for _ in self.table.draws]
        noises = tuple(draw for draw, name in zip(draws, self.table.draws, strict=True) if name is not None)
        return Inputs(seed, source, label, noises, self.pipeline.sample(n, seed=seed, labels=label, source=given, decode=False))

    def write_description(self, folder: Path, largest: int | None = None) -> None:
        """Writes ``generator.json``: what the inputs and the output of an exported file are, and how many samples it takes at once."""
        data, spec = self.config.data, self.config.network_spec
        inputs = {SOURCE: "data units" if self.source_is_data else "standard normal"}
        if self.labelled:
            shape = list(spec.label_shape or ())
            inputs[LABEL] = f"integers from 0 to {spec.classes - 1}" if spec.classes else f"numbers of shape {shape}"
        inputs |= dict.fromkeys(self.table.noises, "standard normal")
        description = {
            "inputs": inputs,
            "output": "data, in data units" if data.codec is None else f"latents of the codec {data.codec['name']}",
            "event_shape": list(spec.shape),
            "limits": list(data.limits),
            "evaluations": self.student.nfe,
            "largest_batch": largest,
            "versions": versions(),
        }
        write_json(folder / "generator.json", description)


@contextmanager
def quiet() -> Iterator[None]:
    """A context in which torch's exporters print nothing: no graphs, and no notes on packages that they could use."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def untraceable(student: Exportable, what: str, error: Exception) -> IncompatibleError:
    """Returns the error of a network that cannot be traced, with the first line of the reason."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [""]
    name = type(student.network).__name__
    reason = f"{type(error).__name__}: {lines[0][:300]}"
    return IncompatibleError(f"{what} cannot trace the network {name} ({reason}); export it as it is: --to hub")


class Exporter(ABC):
    """A form of files that a student is written in.

    A plugin is a class whose keyword arguments are its settings.

    Attributes:
        tolerance: largest difference from ``Pipeline.sample``, in standard deviations of the data or of the largest sample.
        library: what the files are loaded with, as the hub calls it.
    """

    tolerance: ClassVar[float] = 1e-5
    library: ClassVar[str] = "pytorch"

    @abstractmethod
    def write(self, student: Exportable, folder: Path) -> None:
        """Writes the files into a folder that is there."""

    @abstractmethod
    def samples(self, student: Exportable, folder: Path, inputs: Inputs) -> Tensor:
        """Returns what the written files make of inputs, in data units."""

    @abstractmethod
    def usage(self, student: Exportable, folder: Path) -> str:
        """Returns Python code that loads the files and samples, for the folder's README."""

    def expected(self, student: Exportable, folder: Path, inputs: Inputs) -> Tensor:
        """Returns what ``samples`` has to be: those of ``Pipeline.sample``, unless the form does something to them."""
        del student, folder
        return inputs.expected
