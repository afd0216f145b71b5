"""The README.md of an exported folder: a model card with a YAML head, in words, with scores and a picture."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from matchlib.exporting.exporter import Exportable, Exporter
from matchlib.io import read_json, write_json, write_text
from matchlib.runs.artifact import describe_model

__all__ = ["dataset_name", "write_readme"]

SCORES, PICTURE = "evaluation.json", "samples.png"
IMAGE_CHANNELS = (1, 3)


def write_readme(exporter: Exporter, student: Exportable, folder: Path, license: str | None) -> None:
    """Writes README.md, and the picture and the scores of the run where it has them."""
    if (student.run / SCORES).is_file():
        write_json(folder / SCORES, {**read_json(student.run / SCORES), "data": dataset_name(student)})
    if (student.run / PICTURE).is_file():
        shutil.copyfile(student.run / PICTURE, folder / PICTURE)
    head = yaml.safe_dump(_head(exporter, student, license), sort_keys=False, allow_unicode=True)
    text = "\n".join(_lines(exporter, student, folder))
    write_text(folder / "README.md", f"---\n{head}---\n\n{text}\n")


def dataset_name(student: Exportable) -> str:
    """Returns the name of the data, without the folders of this machine."""
    name = student.config.data.name
    return Path(name).name if Path(name).is_absolute() or "/" in name else name


def _head(exporter: Exporter, student: Exportable, license: str | None) -> dict[str, Any]:
    """The YAML head, as the hub reads it."""
    shape = student.config.network_spec.shape
    head: dict[str, Any] = {"library_name": exporter.library, "tags": ["matchlib", "distillation", *_tags(student)]}
    if license is not None:
        head["license"] = license
    head["datasets"] = [dataset_name(student)]
    if len(shape) == 3 and shape[0] in IMAGE_CHANNELS and not student.source_is_data:
        head["pipeline_tag"] = "unconditional-image-generation"
    return head


def _tags(student: Exportable) -> list[str]:
    return ["one-step-generation" if student.student.nfe == 1 else "few-step-generation"]


def _lines(exporter: Exporter, student: Exportable, folder: Path) -> Iterator[str]:
    config, nfe = student.config, student.student.nfe
    data, spec = config.data, config.network_spec
    count = "one evaluation" if nfe == 1 else f"{nfe} evaluations"
    yield f"# A generator of {dataset_name(student)} in {count}"
    yield ""
    yield (
        f"Each sample costs {count} of a network. The generator was distilled with matchlib from a teacher: "
        f"coupling `{_name(student, 'coupling')}`, interpolant `{_name(student, 'interpolant')}`, "
        f"objective `{_name(student, 'objective')}`."
    )
    yield ""
    yield f"- A sample has shape {list(spec.shape)}; the data lie between {data.limits[0]:g} and {data.limits[1]:g}."
    if spec.classes is not None:
        yield f"- Labels are classes, integers from 0 to {spec.classes - 1}."
    elif spec.label_shape is not None:
        yield f"- Labels are numbers of shape {list(spec.label_shape)}."
    yield "- The source is given, in data units." if student.source_is_data else "- The source is standard normal noise."
    noises = len(student.table.noises)
    if noises:
        yield f"- Between evaluations fresh standard normal noise is added: {noises} further input{'s' if noises > 1 else ''}."
    yield from ("", "## How to load it", "", "```python", exporter.usage(student, folder), "```")
    if (folder / SCORES).is_file():
        yield from ("", "## Scores", "")
        yield from _scores(read_json(folder / SCORES))
    if (folder / PICTURE).is_file():
        yield from ("", "## Samples", "", f"![samples]({PICTURE})")


def _name(student: Exportable, piece: str) -> str:
    return str(describe_model(student.config.model)[piece]["name"])


def _scores(report: Mapping[str, Any]) -> Iterator[str]:
    """The scores as a table."""
    rows = {kind: report[kind] for kind in ("student", "teacher", "held_out") if isinstance(report.get(kind), Mapping)}
    keys = list(dict.fromkeys(key for row in rows.values() for key, x in row.items() if isinstance(x, int | float)))
    yield f"| | {' | '.join(f'`{key}`' for key in keys)} |"
    yield f"|{'---|' * (len(keys) + 1)}"
    for kind, row in rows.items():
        yield f"| {kind.replace('_', '-')} | {' | '.join(f'{row[key]:.4g}' if key in row else '' for key in keys)} |"
    yield ""
    yield f"Against the training split, {report.get('samples', '?')} samples at a time; lower Frechet distances are better."
