"""A folder as model hubs have them: weights, a configuration and a README."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

from torch import Tensor

from matchlib.exporting.exporter import Exportable, Exporter, Inputs
from matchlib.exporting.readme import dataset_name
from matchlib.registry import codecs, exports
from matchlib.runs.artifact import ArtifactConfig, save_artifact

__all__ = ["Hub"]

CODEC = "codec"  # folder of what decodes latents
PLACES = ("path", "digest", "name")  # of an origin: where a network was read from


@exports.register("hub")
@dataclass(frozen=True)
class Hub(Exporter):
    """The student's artifact, which ``matchlib.load`` reads, with a README.md for a model hub."""

    library: ClassVar[str] = "matchlib"

    def write(self, student: Exportable, folder: Path) -> None:
        codec, config = student.pipeline.codec, _portable(student)
        if codec is not None:
            config = replace(config, data=replace(config.data, codec=codecs.describe(codec.saved(folder, CODEC))))
        save_artifact(folder, config, student.student)

    def samples(self, student: Exportable, folder: Path, inputs: Inputs) -> Tensor:
        source = inputs.source if student.source_is_data else None
        return student.load(folder).sample(len(inputs.source), seed=inputs.seed, labels=inputs.label, source=source, decode=False)

    def usage(self, student: Exportable, folder: Path) -> str:
        source = ", source=source" if student.source_is_data else ""
        origin = student.config.origin
        foreign = student.config.network["name"] is None and (student.config.student or {}).get("network") is None
        own = foreign and (origin is None or origin.get("network") is None)
        teacher = ", teacher=teacher" if own else ""
        note = "# the network's code is not in this folder: teacher is the matchlib.Teacher that was distilled\n" if own else ""
        labels = ", labels=labels" if student.config.network_spec.label_shape is not None else ""
        return f'import matchlib\n\n{note}data = matchlib.load("FOLDER"{teacher}).sample(16, seed=0{source}{labels})'


def _portable(student: Exportable) -> ArtifactConfig:
    """The configuration without folders of this machine, where they are not needed to load it."""
    origin = student.config.origin
    if origin is not None and origin.get("network") is not None:
        origin = {key: x for key, x in origin.items() if key not in PLACES}
    return replace(student.config, origin=origin, data=replace(student.config.data, name=dataset_name(student)))
