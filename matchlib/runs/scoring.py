"""Scores of samples from anywhere, and of several runs side by side."""

from __future__ import annotations

import hashlib
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, ValidationError

from matchlib.data.dataset import Dataset
from matchlib.data.readers import load_dataset
from matchlib.errors import ArtifactError, DataError, IncompatibleError, SettingError
from matchlib.evaluation.features import FileFeatures
from matchlib.evaluation.gaussians import Gaussian, fitted, frechet_distance
from matchlib.evaluation.reference import PointSet
from matchlib.evaluation.score import MOST, OWN, reference_of, scores
from matchlib.evaluation.work import Work
from matchlib.io import read_json
from matchlib.settings import explain

__all__ = ["PROTOCOL", "common_protocol", "compare", "generators", "read_evaluation", "score"]

ENCODED = 16  # images that are encoded at once
PROTOCOL = ("data", "reference", "samples", "draws", "subset", "clip_samples", "features")  # what must be equal for scores to be compared


def score(
    samples: str | Path | Dataset,
    reference: str | Path | Dataset,
    *,
    n: int | None = None,
    metrics: Sequence[str] | None = None,
    subset: int = 2000,
    extractor: str = "own",
    device: torch.device | str = "cpu",
    work: Work | None = None,
) -> dict[str, Any]:
    """Scores samples against the training split of a data set, beside its held-out data.

    Args:
        samples: FILE.npz with an array ``data``, FILE.npy, or a folder of images; in the units of the reference. For a reference of
            latents, latents or 8-bit images, which are encoded.
        reference: a registered data set, or a path as for ``--data``; or FILE.npz with the mean ``mu`` and the covariance ``sigma`` of an
            extractor's features, as they are published for FID: then ``frechet`` alone is computed, and ``samples`` must be bytes.
        n: samples in a score; None for as many as there are of both, at most 10,000.
        metrics: names; None for all that apply.
        subset: points that metrics of quadratic cost use.
        extractor: ``own``, or FILE.pt or FILE.pt2, see ``EvaluationSettings.extractor``.
        device: where scores are computed.
        work: told of every part.

    Returns:
        As ``evaluation.json``, with the scores of ``samples`` and of ``held_out`` data.

    Raises:
        IncompatibleError: the events have other shapes.
        DataError: there are fewer than 2 samples, or too few for ``n``.
    """
    moments = _moments(reference)
    if moments is not None:
        return _score_against(moments, str(reference), load_dataset(samples), n, extractor, torch.device(device), work)
    data, given = load_dataset(reference), load_dataset(samples)
    events = torch.cat([given.denormalize(part.data) for part in (given.train, given.held_out)])
    if data.codec is not None and given.shape != data.shape:
        if not (given.limits[0] >= -1 and 2 < given.limits[1] <= 256):
            raise IncompatibleError(
                f"samples of {given.name} lie between {given.limits[0]:g} and {given.limits[1]:g}, but images to be encoded must have the "
                "values of 8 bits, 0 to 255"
            )
        events = torch.cat([data.codec.encode(part.round().to(torch.uint8)) for part in events.clamp(0, 255).split(ENCODED)])
    if events.shape[1:] != data.shape:
        raise IncompatibleError(f"samples of {given.name} have shape {given.shape}, but {data.name} has {data.shape}")
    most = min(len(events), len(data.held_out.data))
    size = min(n or MOST, most)
    if size < 2 or (n is not None and n > most):
        raise DataError(f"{n or size} samples in a score need as many samples and held-out data, of which there are {most}")
    of = reference_of(data, samples=size, subset=subset, extractor=extractor, device=device, work=work)
    scaled = ((events - data.shift) / data.scale).float().to(device)
    draws = len(scaled) // size
    protocol = {"data": data.name, "reference": "train", "samples": size, "draws": draws, "subset": of.subset, "clip_samples": False}
    found = {"samples of": given.name, **protocol, "features": of.extractor.name, "takes": of.extractor.takes}
    return found | {"given": scores(of, scaled, metrics), "held_out": scores(of, data.held_out.data, metrics)}


def _moments(reference: str | Path | Dataset) -> Gaussian | None:
    """The mean and the covariance in a published file; None if it is something else."""
    path = Path(reference) if isinstance(reference, str | Path) else None
    if path is None or path.suffix != ".npz" or not zipfile.is_zipfile(path):
        return None
    try:
        with np.load(path, allow_pickle=False) as file:
            if not {"mu", "sigma"} <= set(file.files):
                return None
            mean, covariance = (torch.as_tensor(np.asarray(file[key], np.float64)) for key in ("mu", "sigma"))
    except (OSError, ValueError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path} is not a readable file of mu and sigma: {error}") from error
    if mean.ndim != 1 or covariance.shape != (len(mean), len(mean)) or not (mean.isfinite().all() and covariance.isfinite().all()):
        raise DataError(f"{path}: mu and sigma must be finite, of shapes (k,) and (k, k), got {mean.shape} and {covariance.shape}")
    return mean, covariance


def _score_against(
    moments: Gaussian, name: str, given: Dataset, n: int | None, extractor: str, device: torch.device, work: Work | None
) -> dict[str, Any]:
    """The Frechet distance to published moments of the features of a file's network."""
    if extractor == OWN:
        raise SettingError(f"{name} holds moments of features: give the network that they are of with --extractor FILE.pt")
    events = torch.cat([given.denormalize(part.data) for part in (given.train, given.held_out)])
    if given.limits != (0.0, 255.0):
        raise IncompatibleError(f"samples of {given.name} must be 8-bit images (bytes, or PNG files) to be scored against moments")
    size = n or len(events)
    if not 2 <= size <= len(events):
        raise DataError(f"{size} samples were asked for, of which there are {len(events)}")
    network = FileFeatures(Path(extractor), replace(given, shift=0.0, scale=1.0), device)
    points = PointSet(events[:size].round().to(device), network, work)
    if points.features.shape[1] != len(moments[0]):
        raise IncompatibleError(f"{extractor} makes {points.features.shape[1]} features, but {name} holds moments of {len(moments[0])}")
    x = fitted(points, "features")
    digest = hashlib.sha256(Path(name).read_bytes()).hexdigest()[:16]
    return {
        "samples of": given.name,
        "data": f"{Path(name).name}-{digest}",
        "reference": "mu and sigma",
        "samples": size,
        "draws": 1,
        "clip_samples": False,
        "features": network.name,
        "takes": network.takes,
        "given": {"frechet": frechet_distance(x, (moments[0].to(device), moments[1].to(device)))},
    }


def compare(runs: Sequence[str | Path]) -> dict[str, dict[str, Any]]:
    """Returns the scores of several runs by name, ``RUN student`` and so on, and of held-out data.

    Raises:
        SettingError: there are fewer than two runs.
        IncompatibleError: their scores were not made in the same way; the message names the difference.
        ArtifactError: a run has no ``evaluation.json``.
    """
    if len(runs) < 2:
        raise SettingError("compare takes at least two runs")
    reports = {str(run): read_evaluation(Path(run) / "evaluation.json") for run in runs}
    first = str(runs[0])
    for run, report in reports.items():
        for key in PROTOCOL:
            if report.get(key) != reports[first].get(key):
                raise IncompatibleError(
                    f"the scores of {first} and {run} cannot be compared: {key} is {reports[first].get(key)!r} and {report.get(key)!r}; "
                    + (
                        "score samples of both against one data set with matchlib score"
                        if key == "data"
                        else "make them alike with matchlib evaluate"
                    )
                )
    rows: dict[str, dict[str, Any]] = {}
    for run, report in reports.items():
        rows |= {f"{run} {kind}": report[kind] for kind in generators(report)}
    return rows | {"held-out": reports[first]["held_out"]}


Number = float | Literal["inf", "-inf"] | None  # as ``write_json`` writes them: null is NaN


class _Row(BaseModel):
    """The scores of one set of samples."""

    model_config = ConfigDict(extra="allow", strict=True)
    __pydantic_extra__: dict[str, Number | list[Number] | dict[str, list[Number]]]
    frechet_by_class: list[Number] | None = None


class _Evaluation(BaseModel):
    """The JSON form of an evaluation; further keys may stand beside these."""

    model_config = ConfigDict(extra="allow", strict=True)
    data: str
    reference: str
    samples: int
    draws: int
    subset: int
    clip_samples: bool
    features: str
    student: _Row | None = None
    teacher: _Row | None = None
    held_out: _Row


def read_evaluation(path: Path) -> dict[str, Any]:
    """Reads the ``evaluation.json`` of a run.

    Raises:
        ArtifactError: it is missing or damaged, or not as matchlib writes it.
    """
    tree = read_json(path)
    try:
        _Evaluation.model_validate(tree)
    except ValidationError as error:
        raise ArtifactError(
            f"{path} holds no evaluation of matchlib: {explain(error, _Evaluation)}; make it anew: matchlib evaluate"
        ) from None
    return {key: value for key, value in tree.items() if value is not None}


def generators(report: Mapping[str, Any]) -> list[str]:
    """Returns what an evaluation has scores of, but for held-out data: the student first."""
    found = [key for key, row in report.items() if isinstance(row, Mapping) and key != "held_out"]
    return sorted(found, key=lambda key: (key != "student", key != "teacher"))


def common_protocol(report: Mapping[str, Any]) -> str:
    """Returns how scores were made, in a line."""
    against = "the training split" if report["reference"] == "train" else report["reference"]
    return (
        f"against {against} of {report['data']}, {report['samples']} samples at a time, {report['draws']} draws, "
        f"features {report['features']}"
    )
