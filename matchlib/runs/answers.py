"""Answers of a run's teacher at a few fixed points, by which another teacher with the same weights is told apart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from matchlib.algebra.model import MatchingModel
from matchlib.errors import ArtifactError
from matchlib.fields.preconditioned import NetworkSpec
from matchlib.fields.teacher import Teacher
from matchlib.io import read_json, write_json

__all__ = ["check_answers", "save_answers"]

ANSWERS = "answers.json"
TIMES, SAMPLES, KEPT = 4, 2, 16  # times, points at each, and numbers of an answer that are kept
TOLERANCE = {"cpu": 1e-4}  # largest difference over the largest answer; other devices round more coarsely
COARSE = 1e-2


def save_answers(folder: Path, teacher: Teacher, spec: NetworkSpec) -> None:
    """Writes a teacher's answers beside its artifact; none where it answers otherwise when asked again.

    Args:
        folder: of the artifact.
        spec: what the teacher's network accepts.
    """
    first, again = (_answers(teacher, spec) for _ in range(2))
    if _difference(first, again) <= TOLERANCE["cpu"]:
        write_json(folder / ANSWERS, {"device": _device(teacher).type, "answers": first.tolist()})


def check_answers(folder: Path, teacher: Teacher, spec: NetworkSpec) -> None:
    """Compares a teacher's answers with those that a run began with, where they are recorded.

    Raises:
        ArtifactError: they differ.
    """
    if not (folder / ANSWERS).is_file():
        return
    recorded: dict[str, Any] = read_json(folder / ANSWERS)
    there, now = torch.tensor(recorded["answers"], dtype=torch.float64), _answers(teacher, spec)
    same_device = recorded["device"] == _device(teacher).type
    if not _difference(there, now) <= (TOLERANCE.get(recorded["device"], COARSE) if same_device else COARSE):
        raise ArtifactError(
            f"the teacher answers otherwise than that of {folder}, with which the run began: the same weights in another convention "
            "(output, time, latent, ...); give that one again, or choose another --out"
        )


@torch.no_grad()
def _answers(teacher: Teacher, spec: NetworkSpec) -> torch.Tensor:
    """Some numbers of the field's answers, float64, not finite ones as zeros."""
    generator, model, device = torch.Generator().manual_seed(0), teacher.model, _device(teacher)
    label = _labels(spec, generator)
    kept = []
    for time in _times(model):
        state, source = torch.randn(2, SAMPLES, *spec.shape, generator=generator).to(device)
        condition = model.condition(source, None if label is None else label.to(device))
        answer = teacher.field(state, torch.full((SAMPLES,), time, device=device), condition).double().cpu().flatten()
        kept.append(answer[torch.linspace(0, len(answer) - 1, min(KEPT, len(answer))).long()])
    return torch.cat(kept).nan_to_num(0.0, 0.0, 0.0)


def _times(model: MatchingModel) -> list[float]:
    return torch.linspace(model.times.t_min, model.times.t_max, TIMES + 2)[1:-1].tolist()


def _labels(spec: NetworkSpec, generator: torch.Generator) -> torch.Tensor | None:
    if spec.classes is not None:
        return torch.arange(SAMPLES) % spec.classes
    return None if spec.label_shape is None else torch.randn(SAMPLES, *spec.label_shape, generator=generator)


def _difference(one: torch.Tensor, other: torch.Tensor) -> float:
    if one.shape != other.shape:
        return float("inf")
    return float((one - other).abs().max() / one.abs().max().clamp_min(1e-12))


def _device(teacher: Teacher) -> torch.device:
    return next((weight.device for weight in teacher.parameters()), torch.device("cpu"))
