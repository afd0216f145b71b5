"""A graph of torch.export, for Python, AOTInductor and servers that read them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from matchlib.exporting.exporter import Exportable, Exporter, Inputs
from matchlib.io import write_atomically
from matchlib.registry import exports

__all__ = ["PT2"]

FILE = "model.pt2"


@exports.register("pt2")
@dataclass(frozen=True)
class PT2(Exporter):
    """``model.pt2`` of torch.export, called with source, label and noises."""

    def write(self, student: Exportable, folder: Path) -> None:
        write_atomically(folder / FILE, lambda path: torch.export.save(student.program, path))
        student.write_description(folder, student.largest_batch)

    def samples(self, student: Exportable, folder: Path, inputs: Inputs) -> Tensor:
        del student
        return torch.export.load(folder / FILE).module()(*inputs.tensors)

    def usage(self, student: Exportable, folder: Path) -> str:
        names = student.generator.names
        return f'import torch\n\ngenerate = torch.export.load("{FILE}").module()\ndata = generate({", ".join(names)})'
