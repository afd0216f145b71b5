"""An ONNX graph, for onnxruntime and what else reads them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from matchlib.errors import MatchlibError
from matchlib.exporting.exporter import Exportable, Exporter, Inputs, quiet, untraceable
from matchlib.registry import exports

__all__ = ["ONNX"]

FILE = "model.onnx"
LARGEST = 1 << 30  # bytes of weights that stand in the same file


@exports.register("onnx")
@dataclass(frozen=True)
class ONNX(Exporter):
    """``model.onnx`` with inputs source, label and noises, and output data."""

    tolerance: ClassVar[float] = 1e-4
    library: ClassVar[str] = "onnx"

    def write(self, student: Exportable, folder: Path) -> None:
        _runtime()
        names, program = list(student.generator.names), student.program
        size = sum(x.numel() * x.element_size() for x in student.generator.state_dict().values())
        try:
            with quiet():
                exported = torch.onnx.export(program, input_names=names, output_names=["data"], dynamo=True, verbose=False)
                assert exported is not None
                exported.save(folder / FILE, external_data=size > LARGEST)
        except Exception as error:  # an operation that ONNX does not have
            raise untraceable(student, "torch.onnx", error) from error
        student.write_description(folder, student.largest_batch)

    def samples(self, student: Exportable, folder: Path, inputs: Inputs) -> Tensor:
        session = _runtime().InferenceSession(folder / FILE, providers=["CPUExecutionProvider"])
        feed = {name: x.numpy() for name, x in zip(student.generator.names, inputs.tensors, strict=True)}
        return torch.from_numpy(session.run(["data"], feed)[0])

    def usage(self, student: Exportable, folder: Path) -> str:
        feed = ", ".join(f'"{name}": {name}' for name in student.generator.names)
        return f'import onnxruntime\n\nsession = onnxruntime.InferenceSession("{FILE}")\n(data,) = session.run(["data"], {{{feed}}})'


def _runtime() -> Any:
    """Returns onnxruntime, once everything that is needed is there."""
    try:
        import onnx  # noqa: F401
        import onnxruntime
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise MatchlibError(f"an export to onnx needs the extra 'onnx': pip install onnx onnxscript onnxruntime ({error})") from error
    return onnxruntime
